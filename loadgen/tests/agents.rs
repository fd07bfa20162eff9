//! A controller and its agents as processes, against a small server with rooms and an echo, and against Gannet.

mod under_load;

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tungstenite::Message;
use tungstenite::handshake::server::{Request, Response};
use under_load::{Server, history};

const BINARY: &str = env!("CARGO_BIN_EXE_gannet-loadgen");
const SECRET: &str = "known to both, and long enough";
/// Longer than anything takes; a run that is ended by hand has this duration.
const PATIENCE: Duration = Duration::from_secs(60);

type Rooms = Arc<Mutex<HashMap<String, Vec<Sender<Message>>>>>;

/// `/echo` echoes; what comes in at `/say/ROOM` goes to everyone at `/ROOM`. Its base URL.
fn server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let rooms = Rooms::default();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let rooms = rooms.clone();
            thread::spawn(move || serve(stream, &rooms));
        }
    });
    format!("ws://127.0.0.1:{port}")
}

#[expect(clippy::result_large_err, reason = "the callback's type is tungstenite's")]
fn serve(stream: TcpStream, rooms: &Rooms) {
    let mut path = String::new();
    let look = |request: &Request, response: Response| {
        path = request.uri().path().to_owned();
        Ok(response)
    };
    let Ok(mut socket) = tungstenite::accept_hdr(stream, look) else { return };
    let (sender, inbox) = channel();
    if path != "/echo" && !path.starts_with("/say/") {
        rooms.lock().expect("no panic").entry(path.clone()).or_default().push(sender);
        // It listens to both the room and the socket.
        socket.get_ref().set_read_timeout(Some(Duration::from_millis(5))).expect("a timeout");
    }
    loop {
        match socket.read() {
            Ok(message) if message.is_text() && path == "/echo" => {
                if socket.send(message).is_err() {
                    return;
                }
            }
            Ok(message) if message.is_text() => {
                let room = path.trim_start_matches("/say");
                for member in rooms.lock().expect("no panic").get(room).into_iter().flatten() {
                    let _ = member.send(message.clone());
                }
            }
            Err(tungstenite::Error::Io(_)) | Ok(_) => {}
            Err(_) => return,
        }
        for message in inbox.try_iter() {
            if socket.send(message).is_err() {
                return;
            }
        }
    }
}

/// A process that ends with the test.
struct Process(Child);

impl Process {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).expect("it lives");
    }

    /// Lines of its stderr as they come.
    fn lines(&mut self) -> Lines {
        let stderr = self.0.stderr.take().expect("piped");
        let (sender, lines) = channel();
        thread::spawn(move || {
            BufReader::new(stderr).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Lines(lines)
    }

    fn finish(mut self) -> (Option<i32>, String) {
        let mut text = String::new();
        self.0.stdout.take().expect("piped").read_to_string(&mut text).expect("UTF-8");
        (self.0.wait().expect("a status").code(), text)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Lines(Receiver<String>);

impl Lines {
    /// Waits for a line with `word` in it.
    fn wait_for(&self, word: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.0.recv_timeout(left).unwrap_or_else(|error| panic!("no {word}: {error}"));
            if line.contains(word) {
                return line;
            }
        }
    }
}

fn start(arguments: &[&str], secret: Option<&str>) -> Process {
    let mut command = Command::new(BINARY);
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).env_remove("GANNET_LOADGEN_SECRET");
    command.envs(secret.map(|secret| ("GANNET_LOADGEN_SECRET", secret)));
    Process(command.spawn().expect("the program starts"))
}

/// An agent, and where it waits.
fn agent(more: &[&str], secret: Option<&str>) -> (Process, String) {
    let mut process = start(&[&["agent", "--quiet"], more].concat(), secret);
    let mut line = String::new();
    BufReader::new(process.0.stdout.as_mut().expect("piped")).read_line(&mut line).expect("a line");
    let address = line.split_whitespace().last().unwrap_or_else(|| panic!("no address: {line}")).to_owned();
    (process, address)
}

fn control(arguments: &[&str], secret: Option<&str>) -> Output {
    let mut command = Command::new(BINARY);
    command.arg("controller").args(arguments).env_remove("GANNET_LOADGEN_SECRET");
    command.envs(secret.map(|secret| ("GANNET_LOADGEN_SECRET", secret))).output().expect("the program runs")
}

/// Runs a controller to its end: what it found.
fn reaches_its_goal(arguments: &[&str], secret: Option<&str>) -> Value {
    let output = control(&[arguments, &["--quiet", "--json", "-"]].concat(), secret);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn is_refused(arguments: &[&str], secret: Option<&str>, words: &[&str]) {
    let output = control(&[arguments, &["--quiet"]].concat(), secret);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
    assert!(words.iter().all(|word| text.contains(word)), "{words:?}: {text}");
}

fn sum(result: &Value, name: &str) -> u64 {
    result["agents"].as_array().expect("agents").iter().map(|agent| agent[name].as_u64().expect("a number")).sum()
}

#[test]
fn the_parts_add_up_to_the_whole() {
    let url = server() + "/echo";
    let ((_one, first), (_two, second)) = (agent(&[], None), agent(&["--once"], None));
    let both = format!("{first},{second}");
    let run = ["--clients", "8", "--rate", "300", "--duration", "1s", "--connect-rate", "200", "--threads", "2"];
    let result = reaches_its_goal(&[&["--agents", &both, "echo", &url], &run[..]].concat(), None);
    // Each of the four loops has its share of the schedule, to the message.
    assert_eq!((&result["counts"]["sent"], &result["counts"]["received"]), (&300.into(), &300.into()), "{result:#}");
    assert_eq!((sum(&result, "clients"), sum(&result, "connected")), (8, 8), "{result:#}");
    for (name, whole) in [("sent", "sent"), ("received", "received"), ("expected", "expected")] {
        assert_eq!(sum(&result, name), result["counts"][whole].as_u64().expect("a number"), "{result:#}");
    }
    assert_eq!((&result["latency_ns"]["count"], &result["own_lateness_ns"]["count"]), (&300.into(), &300.into()));
    assert_eq!(
        (&result["connect_ns"]["count"], &result["clients"], &result["connected"]),
        (&8.into(), &8.into(), &8.into())
    );
    assert_eq!((&result["delivery_ratio"], &result["unaccounted_deliveries"]), (&1.0.into(), &Value::Null));
    assert_eq!(result["agents"][0]["name"], first.as_str());
    assert!(result["series"].as_array().is_some_and(|series| series.len() > 2), "{result:#}");
}

#[test]
fn what_is_said_in_one_agent_is_heard_in_both() {
    let base = server();
    let (url, say) = (format!("{base}/{{channel}}"), format!("{base}/say/{{channel}}"));
    let ((_one, first), (_two, second)) = (agent(&[], None), agent(&[], None));
    let both = format!("{first},{second}");
    let run = ["--publisher-url", &say, "--publishers", "1", "--subscribers", "8", "--rate", "50", "--duration", "1s"];
    let result = reaches_its_goal(&[&["--agents", &both, "fanout", &url], &run[..]].concat(), None);
    assert_eq!((&result["counts"]["sent"], &result["counts"]["received"]), (&50.into(), &400.into()), "{result:#}");
    let agents = &result["agents"];
    assert_eq!((&agents[0]["sent"], &agents[1]["sent"]), (&50.into(), &0.into()), "{result:#}");
    // The publisher is one of the first agent's five clients.
    assert_eq!((&agents[0]["received"], &agents[1]["received"]), (&200.into(), &200.into()), "{result:#}");
    assert_eq!((&result["latency_ns"]["count"], &result["counts"]["stray"]), (&400.into(), &0.into()), "{result:#}");
    assert_eq!(result["clock_uncertainty_ns"], 0, "one host, one clock");
}

#[test]
fn storms_churn_and_ramps_are_shared() {
    let url = server() + "/echo";
    let local = |arguments: &[&str]| reaches_its_goal(&[&["--local", "2"], arguments].concat(), None);
    let storm = local(&["storm", &url, "--clients", "20", "--rounds", "2", "--pause", "50ms"]);
    assert_eq!(storm["counts"]["connections_opened"], 60, "{storm:#}");
    let rounds = storm["rounds"].as_array().expect("rounds");
    assert!(rounds.len() == 2 && rounds.iter().all(|round| round["complete"] == true), "{storm:#}");
    let churn = local(&["churn", &url, "--clients", "10", "--rate", "50", "--duration", "1s"]);
    // Fifty leave and come back, whoever leads them.
    let opened = churn["counts"]["connections_opened"].as_u64().expect("a number");
    assert!((50..=61).contains(&opened), "{churn:#}");
    // The second agent's first client comes in the second step.
    let ramp = ["--start", "1", "--step", "2", "--max", "5", "--every", "300ms", "--each", "20", "--knee", "10s"];
    let ramp = local(&[&["ramp", &url], &ramp[..]].concat());
    let steps = ramp["steps"].as_array().expect("steps");
    assert_eq!(steps.iter().map(|step| &step["clients"]).collect::<Vec<_>>(), [1, 3, 5], "{ramp:#}");
    assert!(ramp["agents"][1]["sent"].as_u64() > Some(0), "{ramp:#}");
}

/// A run of two agents that somebody has to end.
struct LongRun {
    controller: Process,
    lines: Lines,
    agents: Vec<(Process, String)>,
    json: PathBuf,
    html: PathBuf,
}

impl LongRun {
    /// `name` is that of its files.
    fn start(name: &str) -> Self {
        let base = server();
        let (url, say) = (format!("{base}/{{channel}}"), format!("{base}/say/{{channel}}"));
        let agents = vec![agent(&[], Some(SECRET)), agent(&[], Some(SECRET))];
        let both = format!("{},{}", agents[0].1, agents[1].1);
        let path = |kind| PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("agents-{name}.{kind}"));
        let (json, html) = (path("json"), path("html"));
        let run = ["--publisher-url", &say, "--subscribers", "7", "--rate", "50", "--duration", "60s"];
        let files = ["--json", json.to_str().expect("UTF-8"), "--html", html.to_str().expect("UTF-8")];
        let words = [&["controller", "--agents", &both, "fanout", &url], &run[..], &files[..]].concat();
        let mut controller = start(&words, Some(SECRET));
        let lines = controller.lines();
        lines.wait_for("playing");
        Self { controller, lines, agents, json, html }
    }

    /// Interrupts it: its status, table and JSON.
    fn end(self) -> (Option<i32>, String, Value, String) {
        self.controller.signal(Signal::INT);
        let (status, table) = self.controller.finish();
        let read = |path| fs::read_to_string(path).expect("a report");
        (status, table, serde_json::from_str(&read(self.json)).expect("JSON"), read(self.html))
    }
}

#[test]
fn a_killed_agent_is_named_and_the_others_go_on() {
    let mut run = LongRun::start("killed");
    let (mut killed, address) = run.agents.pop().expect("two");
    killed.0.kill().expect("it lives");
    assert!(run.lines.wait_for("was lost").contains(&address));
    run.lines.wait_for("playing");
    run.lines.wait_for("playing");
    let (status, table, result, page) = run.end();
    assert_eq!(status, Some(1), "{result:#}");
    let (lives, lost) = (&result["agents"][0], &result["agents"][1]);
    assert_eq!((&lost["name"], &lost["lost"]["stage"]), (&address.as_str().into(), &"playing".into()), "{result:#}");
    assert_eq!((&lost["clients"], &lost["own_cpu_seconds"]), (&4.into(), &Value::Null), "{result:#}");
    assert!(lives["lost"].is_null() && lives["own_cpu_seconds"].is_number(), "{result:#}");
    // Four listeners, three of them with the one that lives; everything said was owed to all seven.
    assert!(lives["received"].as_u64() > lost["received"].as_u64(), "{result:#}");
    assert_eq!(result["latency_ns"]["count"], lives["received"], "the histogram of the other is gone");
    assert_eq!(result["counts"]["received"], sum(&result, "received"), "{result:#}");
    let missing = result["counts"]["expected"].as_u64().expect("a number") - sum(&result, "received");
    assert!(missing > 0 && result["unaccounted_deliveries"] == missing, "{result:#}");
    let complaints = result["complaints"].to_string();
    assert!(complaints.contains(&format!("agent {address} was lost while playing")), "{complaints}");
    for text in [table, page] {
        assert!(text.contains(&format!("agent lost     {address} while playing")), "{text}");
    }
}

#[test]
fn a_silent_agent_is_given_up() {
    let run = LongRun::start("silent");
    run.agents[1].0.signal(Signal::STOP);
    let line = run.lines.wait_for("was lost");
    assert!(line.contains(&run.agents[1].1) && line.contains("silent"), "{line}");
    let (status, _, result, _) = run.end();
    assert_eq!((status, &result["agents"][0]["lost"]), (Some(1), &Value::Null), "{result:#}");
}

#[test]
fn strangers_do_not_disturb_a_run() {
    let run = LongRun::start("strangers");
    let address = run.agents[0].1.clone();
    let said = |bytes: &[u8]| {
        let mut stream = TcpStream::connect(&address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.write_all(bytes).expect("it reads");
        let mut text = String::new();
        // It may close before it has read everything.
        let _ = BufReader::new(stream).take(1 << 20).read_to_string(&mut text);
        text
    };
    let no_greeting = said(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(no_greeting.contains("hello") && no_greeting.contains("not a message of protocol"), "{no_greeting}");
    assert!(said(&[b'x'; 4097]).contains("a line is longer than 4096 bytes"));
    assert!(said(b"{\"job\":{\"words\":[],\"part\":0,\"parts\":1,\"run\":0}}\n").contains("begins with a greeting"));
    let _silent = TcpStream::connect(&address).expect("it listens");
    let url = server() + "/echo";
    is_refused(&["--agents", &address, "idle", &url], Some(SECRET), &["busy", &address]);
    is_refused(&["--agents", &address, "idle", &url], Some("another one, and long enough"), &["secret", &address]);
    let agents: Vec<_> = run.agents.iter().map(|(_, address)| address.clone()).collect();
    let LongRun { agents: processes, controller, json, html, lines } = run;
    let (_, _, result, _) = LongRun { agents: Vec::new(), controller, json, html, lines }.end();
    assert!(result["agents"].as_array().expect("agents").iter().all(|agent| agent["lost"].is_null()), "{result:#}");
    assert_eq!((&result["counts"]["gaps"], &result["counts"]["foreign"]), (&0.into(), &0.into()), "{result:#}");
    assert_eq!(result["complaints"][0], "interrupted", "{result:#}");
    // And they take the next job.
    let next = ["--agents", &agents.join(","), "echo", &url, "--clients", "4", "--duration", "300ms"];
    let next = reaches_its_goal(&next, Some(SECRET));
    assert_eq!(next["delivery_ratio"], 1.0);
    drop(processes);
}

#[test]
fn when_the_controller_dies_the_agents_wait_for_the_next() {
    let mut run = LongRun::start("orphans");
    run.controller.0.kill().expect("it lives");
    let both = format!("{},{}", run.agents[0].1, run.agents[1].1);
    let url = server() + "/echo";
    let next = ["--agents", &both, "echo", &url, "--clients", "4", "--rate", "100", "--duration", "500ms"];
    let result = reaches_its_goal(&next, Some(SECRET));
    assert_eq!(result["counts"]["received"], 50, "{result:#}");
}

#[test]
fn who_may_not_is_told_why() {
    let url = server() + "/echo";
    let closed = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").to_string();
    is_refused(&["--agents", &closed, "idle", &url], None, &[&closed, "cannot be reached"]);
    is_refused(&["idle", &url], None, &["--agents"]);
    is_refused(&["--local", "1", "idle", &url, "--part", "1/2"], None, &["--part"]);
    is_refused(&["--local", "1", "agent"], None, &["only a scenario"]);
    let (_open, open) = agent(&[], None);
    is_refused(&["--agents", &open, "idle", &url], Some(SECRET), &[&open, "does not know the secret"]);
    is_refused(&["--agents", &open, "idle", &url], Some("short"), &["at least 16"]);
    let (_closed, closed) = agent(&[], Some(SECRET));
    is_refused(&["--agents", &closed, "idle", &url], None, &[&closed, "secret is wrong or missing"]);
    // The controller's consent is not the agent's.
    let elsewhere = ["--agents", &open, "idle", "ws://192.0.2.1/", "--i-own-this-target"];
    is_refused(&elsewhere, None, &[&open, "start the agent with --i-own-this-target"]);
    let (status, _) = start(&["agent", "--listen", "0.0.0.0:0"], None).finish();
    assert_eq!(status, Some(2), "others could reach it");
    let help = control(&["--help"], None);
    let text = String::from_utf8_lossy(&help.stdout);
    assert!(help.status.success() && text.contains("Examples:") && text.contains("--local"), "{text}");
    let help = control(&["--local", "1", "echo", "--help"], None);
    assert!(help.status.success() && String::from_utf8_lossy(&help.stdout).contains("--rate"), "{help:?}");
}

/// A controller made by hand.
struct ByHand {
    stream: BufReader<TcpStream>,
}

impl ByHand {
    fn tell(&mut self, order: &Value) {
        let line = format!("{order}\n");
        self.stream.get_mut().write_all(line.as_bytes()).expect("it reads");
    }

    /// The next answer that `is_wanted`, and what is in it.
    fn wait_for(&mut self, name: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).expect("an answer in time");
            let answer: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
            assert!(answer.get("refused").is_none(), "{answer}");
            if answer.get(name).is_some_and(&is_wanted) {
                return answer[name].clone();
            }
        }
    }
}

#[test]
fn stamps_are_in_the_time_of_the_controller() {
    const AHEAD: u64 = 3_600_000_000_000;
    let (sender, heard) = channel();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("ws://{}/", listener.local_addr().expect("an address"));
    thread::spawn(move || {
        let mut socket = tungstenite::accept(listener.accept().expect("a client").0).expect("an upgrade");
        while let Ok(message) = socket.read() {
            if let Message::Text(text) = &message {
                let _ = sender.send(text.to_string());
                socket.send(message).expect("it reads");
            }
        }
    });
    let (_process, address) = agent(&[], None);
    let stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut hand = ByHand { stream: BufReader::new(stream) };
    hand.wait_for("hello", |_| true);
    let version = env!("CARGO_PKG_VERSION");
    hand.tell(&json!({"greet": {"protocol": 1, "version": version, "nonce": "n", "proof": null}}));
    hand.wait_for("welcome", |_| true);
    let words = ["echo", &url, "--clients", "1", "--rate", "50", "--duration", "400ms"];
    hand.tell(&json!({"job": {"words": words, "part": 0, "parts": 1, "run": 7}}));
    assert_eq!(hand.wait_for("holds", |_| true)["clients"], 1);
    hand.tell(&json!({"time": {"sent": 5}}));
    let now = hand.wait_for("time", |time| time["sent"] == 5)["now"].as_u64().expect("a moment");
    hand.tell(&json!({"begin": {"at": now}}));
    hand.wait_for("look", |look| look["settled"][0] == 0 && look["reading"]["open"] == 1);
    hand.tell(&json!({"time": {"sent": 6}}));
    let now = hand.wait_for("time", |time| time["sent"] == 6)["now"].as_u64().expect("a moment");
    let at = now + 50_000_000;
    hand.tell(&json!({"play": {"at": at, "skew": AHEAD}}));
    hand.wait_for("look", |look| look["silent"] == true);
    hand.tell(&json!("drain"));
    hand.wait_for("look", |look| look["stage"] == "drain" && look["reading"]["got"] == 20);
    hand.tell(&json!("leave"));
    let result = hand.wait_for("result", |_| true);
    assert_eq!((&result["tally"]["counts"]["sent"], &result["tally"]["counts"]["measured"]), (&20.into(), &20.into()));
    let text = heard.recv_timeout(PATIENCE).expect("a message");
    assert!(text.starts_with("gnt:00000007"), "{text}");
    assert_eq!(u64::from_str_radix(&text[28..44], 16), Ok(at + AHEAD), "the first is due at the start");
    // Whoever reads it takes the hour off again.
    let bytes = STANDARD.decode(result["tally"]["latency"].as_str().expect("base64")).expect("base64");
    let latency: Histogram<u64> = Deserializer::new().deserialize(&mut &bytes[..]).expect("a histogram");
    assert!(latency.len() == 20 && latency.min() > 1 && latency.max() < PATIENCE.as_nanos() as u64, "{latency:?}");
}

/// Processes whose parent is `parent`, by number.
fn children(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").expect("Linux").flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers.filter(|number| stat(*number).is_some_and(|(_, of)| of == parent)).collect()
}

/// State and parent of a process.
fn stat(number: u32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{number}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// Waits until something is so.
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn local_agents_end_with_the_controller_however_it_ends() {
    let url = server() + "/echo";
    for signal in [Signal::INT, Signal::KILL] {
        let words = ["controller", "--local", "3", "idle", &url, "--clients", "9", "--duration", "60s", "--json", "-"];
        let mut controller = start(&words, None);
        let lines = controller.lines();
        lines.wait_for("playing");
        let agents = children(controller.0.id());
        assert_eq!(agents.len(), 3);
        controller.signal(signal);
        let (status, text) = controller.finish();
        if signal == Signal::INT {
            let result: Value = serde_json::from_str(&text).expect("JSON");
            assert_eq!(
                (status, &result["connected"], sum(&result, "connected")),
                (Some(1), &9.into(), 9),
                "{result:#}"
            );
        }
        // Whoever adopts them may leave them unburied.
        wait_until("agents outlive the controller", || {
            agents.iter().all(|agent| stat(*agent).is_none_or(|(state, _)| state == 'Z'))
        });
    }
}

#[test]
fn both_kinds_of_agents_share_one_run() {
    let url = server() + "/echo";
    let (mut once, address) = agent(&["--once"], Some(SECRET));
    let words = ["--agents", &address, "--local", "2", "echo", &url, "--clients", "9", "--duration", "400ms"];
    let result = reaches_its_goal(&words, Some(SECRET));
    let names: Vec<_> = result["agents"].as_array().expect("agents").iter().map(|agent| &agent["name"]).collect();
    assert_eq!(names, [address.as_str(), "local-1", "local-2"]);
    assert_eq!(sum(&result, "sent"), sum(&result, "received"));
    wait_until("--once does not end", || once.0.try_wait().expect("a child").is_some());
}

/// Runs a scenario against Gannet with two local agents: the exit status, and what was found.
fn with_two(scenario: &str, server: &Server, more: &[&str]) -> (Option<i32>, Value) {
    let url = server.url("/connection/websocket");
    let output = control(&[&["--local", "2", scenario, &url, "--quiet", "--json", "-"], more].concat(), None);
    let result = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (output.status.code(), result)
}

#[test]
fn what_one_agent_says_the_others_clients_recover() {
    let server = Server::start(&[&history("2000")[..], &["--prometheus.enabled"]].concat());
    let (pid, metrics) = (server.child.id().to_string(), format!("http://{}/metrics", server.address));
    let costs = ["--pid", &pid, "--metrics", &metrics];
    let storm = ["--clients", "60", "--channels", "3", "--rounds", "2", "--pause", "300ms", "--away", "1s"];
    let storm = [&["--recover", "--rate", "90"], &storm[..], &costs].concat();
    let (status, result) = with_two("storm", &server, &storm);
    assert_eq!(status, Some(0), "{result:#}");
    let (recovery, counts, agents) = (&result["recovery"], &result["counts"], &result["agents"]);
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{value}: {result:#}"));
    assert_eq!((&recovery["recovered"], &recovery["unrecovered"]), (&120.into(), &0.into()), "{result:#}");
    assert_eq!((&recovery["publications_lost"], &recovery["duplicates"]), (&0.into(), &0.into()), "{result:#}");
    assert_eq!(recovery["age_ns"]["count"], recovery["publications_recovered"], "{result:#}");
    let rounds = result["rounds"].as_array().expect("rounds");
    assert!(rounds.iter().all(|round| round["complete"] == true && round["recovered"] == 60), "{result:#}");
    let in_rounds = rounds.iter().map(|round| number(&round["publications_recovered"])).sum::<f64>();
    assert_eq!(in_rounds, number(&recovery["publications_recovered"]), "{result:#}");
    // A third of the clients listens to each channel, whichever agent has its publisher; publishers were not cut.
    assert_eq!(
        (&counts["received"], number(&counts["sent"]) * 20.0),
        (&counts["expected"], number(&counts["expected"]))
    );
    assert_eq!(counts["connections_opened"], 60 * 3 + 3, "{result:#}");
    for (name, whole) in [("sent", counts), ("received", counts), ("recovered", recovery), ("unrecovered", recovery)] {
        assert_eq!(sum(&result, name), whole[name].as_u64().expect("a count"), "{name}: {result:#}");
        assert!(name == "unrecovered" || number(&agents[1][name]) > 0.0, "{name}: {result:#}");
    }
    // Two of three publishers are the first agent's, and half of their listeners the other's.
    assert!(number(&agents[0]["expected"]) > number(&agents[0]["received"]), "{result:#}");
    assert!(number(&agents[1]["expected"]) < number(&agents[1]["received"]), "{result:#}");
    for costs in [&result["server"], &result["server_metrics"]] {
        let grown = number(&costs["rss_bytes"]) - number(&costs["rss_bytes_before"]);
        let each = number(&costs["rss_bytes_per_client"]);
        assert!((each - grown / 63.0).abs() < 1e-3, "of all agents' clients: {result:#}");
    }
    assert_eq!((&result["connected"], &result["kernel"]["of_both_ends"]), (&63.into(), &true.into()), "{result:#}");
    let churn = ["--clients", "30", "--channels", "3", "--rate", "100", "--duration", "1s", "--publish-rate", "300"];
    let (status, result) = with_two("churn", &server, &[&["--recover"], &churn[..]].concat());
    assert_eq!((status, &result["counts"]["sent"]), (Some(0), &300.into()), "the rate is that of all: {result:#}");
    assert_eq!((&result["counts"]["received"], &result["recovery"]["unrecovered"]), (&3000.into(), &0.into()));
    assert!(result["agents"].as_array().expect("agents").iter().all(|agent| agent["recovered"].as_u64() > Some(0)));
}

#[test]
fn what_clients_of_all_agents_lost_is_judged_together() {
    let server = Server::start(&history("3"));
    let storm = ["--clients", "20", "--pause", "500ms", "--away", "1s", "--rate", "100", "--grace", "300ms"];
    let (status, result) = with_two("storm", &server, &[&["--recover"], &storm[..]].concat());
    assert_eq!(status, Some(1), "{result:#}");
    let recovery = &result["recovery"];
    assert_eq!((&recovery["recovered"], &recovery["unrecovered"]), (&0.into(), &20.into()), "{result:#}");
    assert_eq!((sum(&result, "unrecovered"), &result["rounds"][0]["unrecovered"]), (20, &20.into()), "{result:#}");
    // The only publisher is the first agent's; half of what is lost is the other's.
    assert_eq!((&result["agents"][1]["sent"], &result["agents"][1]["unrecovered"]), (&0.into(), &10.into()));
    let number = |name: &str| result["counts"][name].as_u64().expect("a count");
    let missing = number("expected") - number("received");
    assert!(missing > 0 && recovery["publications_lost"] == missing, "{result:#}");
    let complaints = result["complaints"].to_string();
    for words in ["20 of 20 subscriptions came back without", "delivery ratio"] {
        assert!(complaints.contains(words), "{words}: {complaints}");
    }
}
