//! The commands that talk to a running server: what they print, and what they say when it does not work.

use crate::file::File;
use crate::server::{KEY, OPEN, SECRET, Server, gannet};
use serde_json::Value;
use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

/// Presence, history and recovery for everyone.
const KEPT: &[&str] = &[
    "--channel.without_namespace.presence",
    "--channel.without_namespace.history_size",
    "10",
    "--channel.without_namespace.history_ttl",
    "1m",
    "--channel.without_namespace.force_recovery",
];

fn command(server: &Server, words: &[&str]) -> Command {
    let mut command = gannet();
    command.args(words).args(["--url", &format!("http://{}", server.address)]);
    command
}

fn run(server: &Server, words: &[&str]) -> Output {
    command(server, words).env("GANNET_HTTP_API_KEY", KEY).stdin(Stdio::null()).output().expect("run")
}

fn printed(server: &Server, words: &[&str]) -> String {
    let output = run(server, words);
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

fn refused(mut command: Command) -> String {
    let output = command.output().expect("run");
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).expect("text")
}

/// `gannet sub` while it runs.
struct Follower {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Follower {
    fn start(server: &Server, words: &[&str]) -> Follower {
        let mut command = command(server, words);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("start");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        Follower { child, lines }
    }

    fn line(&mut self) -> String {
        self.lines.next().expect("a line").expect("text")
    }

    fn json(&mut self, kind: &str) -> Value {
        let line: Value = serde_json::from_str(&self.line()).expect("JSON");
        assert_eq!(line["type"], kind, "{line}");
        line
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn what_is_published_is_shown_where_it_was_subscribed_to() {
    let server = Server::with(OPEN, KEPT);
    let mut follower = Follower::start(&server, &["sub", "news", "--count", "2", "--recover"]);
    assert!(follower.line().starts_with("* connected as "));
    assert_eq!(follower.line(), "* subscribed to news");
    let told = printed(&server, &["pub", "news", r#"{"b":1.50,"a":1}"#, "--tag", "lang=en"]);
    assert!(told.starts_with("published at offset 1, epoch "), "{told}");
    assert_eq!(follower.line(), r#"news #1 {"b":1.50,"a":1}  lang=en"#);

    let present = printed(&server, &["presence", "news"]);
    assert!(present.contains("(anonymous)") && present.ends_with("1 clients\n"), "{present}");
    let channels = printed(&server, &["channels"]);
    assert!(channels.contains("news") && channels.ends_with("1 channels\n"), "{channels}");
    assert!(printed(&server, &["channels", "other*"]).ends_with("0 channels\n"));
    assert!(printed(&server, &["info"]).contains("SUBSCRIPTIONS"));

    printed(&server, &["pub", "news", "hello"]);
    assert_eq!(follower.line(), r#"news #2 "hello""#);
    assert!(follower.child.wait().expect("an end").success(), "it ends with --count");

    let history = printed(&server, &["history", "news"]);
    assert!(
        history.starts_with("#1 {\"b\":1.50,\"a\":1}  lang=en\n#2 \"hello\"\n2 shown; the latest is #2"),
        "{history}"
    );
    let latest = printed(&server, &["history", "news", "--limit", "1", "--reverse", "--json"]);
    let latest: Value = serde_json::from_str(&latest).expect("JSON");
    assert_eq!(latest["publications"][0]["offset"], 2);
}

#[test]
fn it_comes_back_and_shows_what_was_missed() {
    let server = Server::with(OPEN, KEPT);
    let mut follower = Follower::start(&server, &["sub", "news", "--json", "--recover"]);
    let client = follower.json("connected")["client"].as_str().expect("an id").to_owned();
    assert_eq!(follower.json("subscribed")["recovered"], Value::Null);
    server.call("disconnect", serde_json::json!({"client": client, "disconnect": {"code": 4000, "reason": "again"}}));
    assert!(follower.json("disconnected")["reason"].as_str().is_some_and(|why| why.contains("again (code 4000)")));
    // While it is away, or just back.
    printed(&server, &["pub", "news", "1"]);
    follower.json("connected");
    let recovered = follower.json("subscribed")["recovered"] == true;
    let shown = follower.json("publication");
    assert!(recovered && shown["data"] == 1 && shown["offset"] == 1, "{shown}");
    server.call("disconnect", serde_json::json!({"user": "", "disconnect": {"code": 4500, "reason": "never"}}));
    assert_eq!(follower.child.wait().expect("an end").code(), Some(2), "a client that is not wanted does not return");
}

#[test]
fn top_counts() {
    let server = Server::with(OPEN, &[]);
    let mut follower = Follower::start(&server, &["sub", "busy"]);
    follower.line();
    follower.line();
    let table = printed(&server, &["top", "--count", "1"]);
    assert!(table.starts_with("NODE") && table.contains("\nCHANNEL  CLIENTS\nbusy           1\n"), "{table}");
    let looks = printed(&server, &["top", "--count", "2", "--interval", "100ms", "--json", "--channels", "0"]);
    let looks: Vec<Value> = looks.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((looks.len(), &looks[1]["nodes"][0]["clients"]), (2, &Value::from(1)));
}

#[test]
fn failures_say_what_to_do() {
    let server = Server::start(&["--client.token.hmac_secret_key", SECRET]);
    let wrong = refused({
        let mut command = command(&server, &["info"]);
        command.env("GANNET_HTTP_API_KEY", "another-key");
        command
    });
    assert!(wrong.contains("refuses the key") && wrong.contains("--key"), "{wrong}");
    assert!(refused(command(&server, &["info"])).contains("wants a key"));
    let unknown = run(&server, &["history", "news"]);
    let unknown = String::from_utf8(unknown.stderr).expect("text");
    assert!(unknown.contains("error 108") && unknown.contains("history_ttl"), "{unknown}");
    let token = refused(command(&server, &["sub", "news"]));
    assert!(token.contains("code 3501") && token.contains("--token"), "{token}");
    let forbidden = refused(command(&server, &["sub", "news", "--client.token.hmac_secret_key", SECRET]));
    assert!(forbidden.contains("error 103") && forbidden.contains("allow_subscribe_for_client"), "{forbidden}");

    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    for words in [&["info"][..], &["sub", "news"], &["top"]] {
        let mut command = gannet();
        command.args(words).args(["--http_server.port", &free.port().to_string()]);
        let nobody = refused(command);
        assert!(nobody.contains(&format!("no server at http://127.0.0.1:{}", free.port())), "{nobody}");
        assert!(nobody.contains("Is it running?"), "{nobody}");
    }
}

#[test]
fn the_server_s_own_configuration_is_enough() {
    let file = File::new("remote.toml", "");
    std::fs::remove_file(file.path()).expect("it is there");
    assert!(gannet().args(["init", file.path()]).status().expect("run").success());
    let server = Server::start(&["--config", file.path()]);
    let config = ["--config", file.path()];
    let mut follower = Follower::start(&server, &[&["sub", "news", "--count", "1", "--json"][..], &config].concat());
    follower.json("connected");
    follower.json("subscribed");
    printed_by(&server, &[&["pub", "news", "1"][..], &config].concat());
    assert_eq!(follower.json("publication")["data"], 1);
}

fn printed_by(server: &Server, words: &[&str]) {
    let output = command(server, words).output().expect("run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
