//! An archive in a real database: made by the command, written and read by servers, and killed under them.

use crate::client::Client;
use crate::databases::{Database, Kind, PASSWORD, TLS_NAME};
use crate::durable::who_is_away_is_told;
use crate::server::{GUARDED, OPEN, Server, gannet, until};
use rustix::process::Signal;
use serde_json::{Value, json};

const NAMESPACES: &str = r#"[
    {"name": "sync", "history_size": 5, "history_ttl": "1h", "history_durability": "sync"},
    {"name": "batch", "history_size": 5, "history_ttl": "1h", "history_durability": "batched"},
    {"name": "box", "history_size": 2, "history_ttl": "1h", "history_durability": "sync", "inbox": {"enabled": true},
        "allow_subscribe_for_client": true},
    {"name": "loose", "history_size": 2, "history_ttl": "1h", "history_durability": "batched",
        "inbox": {"enabled": true}, "allow_subscribe_for_client": true}
]"#;

/// What servers with an archive in this database are told.
fn options(database: &Database, name: &str) -> Vec<String> {
    let kind = if database.kind == Kind::Postgres { "postgresql" } else { "mysql" };
    let url = database.fresh(name);
    [
        ("--durable.type", kind),
        (&format!("--durable.{kind}.dsn"), &url),
        ("--durable.tables", "4"),
        ("--durable.timeout", "30s"),
        ("--durable.connect_timeout", "30s"),
        ("--channel.namespaces", NAMESPACES),
        (&format!("--durable.{kind}.tls.enabled"), "true"),
        (&format!("--durable.{kind}.tls.server_ca_pem"), &database.certificate()),
        (&format!("--durable.{kind}.tls.server_name"), TLS_NAME),
    ]
    .into_iter()
    .flat_map(|(option, value)| [option.to_owned(), value.to_owned()])
    .collect()
}

/// What the program prints, and whether it was content.
fn run(words: &[&str], options: &[String]) -> (bool, String) {
    let output = gannet().args(words).args(options).output().expect("the program");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(!text.contains(PASSWORD), "{text}");
    (output.status.success(), text)
}

fn serve(options: &[String]) -> Server {
    serve_by(OPEN, options)
}

fn serve_by(preset: &[&str], options: &[String]) -> Server {
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let server = Server::with(preset, &options);
    until("the archive is up", || (server.metric("gannet_archive_up") == 1).then_some(()));
    server
}

/// Offset of a publication, or the code of the error.
fn publish(server: &Server, channel: &str, data: u64) -> Result<u64, u64> {
    let answer = server.call("publish", json!({"channel": channel, "data": data}));
    answer["result"]["offset"].as_u64().ok_or_else(|| answer["error"]["code"].as_u64().expect("a code"))
}

/// Epoch and offsets.
fn history(server: &Server, channel: &str) -> (String, Vec<u64>) {
    let result = until("a history", || {
        let answer = server.call("history", json!({"channel": channel, "limit": 1000}));
        answer["result"].is_object().then(|| answer["result"].clone())
    });
    let offset = |publication: &Value| publication["offset"].as_u64().expect("an offset");
    let offsets = result["publications"].as_array().map(|all| all.iter().map(offset).collect());
    (result["epoch"].as_str().expect("an epoch").to_owned(), offsets.unwrap_or_default())
}

fn kill(server: &mut Server) {
    server.signal(Signal::KILL);
    server.exit();
}

fn is_kept(kind: Kind) {
    let mut database = Database::start(kind);
    let options = options(&database, "kept");
    for words in [&["check"][..], &["serve"], &["durable", "status"]] {
        let (content, text) = run(words, &options);
        assert!(!content && text.contains("run gannet durable migrate"), "{words:?}: {text}");
    }
    assert!(run(&["durable", "migrate"], &options).0);
    for words in [&["check"][..], &["durable", "status"], &["durable", "migrate"]] {
        let (content, text) = run(words, &options);
        assert!(content, "{words:?}: {text}");
    }

    let mut server = serve(&options);
    let all: Vec<u64> = (1..=20).collect();
    for channel in ["sync:a", "batch:a"] {
        all.iter().for_each(|n| assert_eq!(publish(&server, channel, *n), Ok(*n), "{channel}"));
    }
    let before = ["sync:a", "batch:a"].map(|channel| history(&server, channel));
    assert_eq!([&before[0].1, &before[1].1], [&all; 2], "memory has five of them");

    // Stopped in order, and started again: all goes on. Another node may not have the same streams meanwhile.
    let other = Server::with(OPEN, &options.iter().map(String::as_str).collect::<Vec<_>>());
    until("a line", || other.logged("another node has this share").then_some(()));
    assert_eq!((other.metric("gannet_archive_up"), publish(&other, "sync:a", 1)), (0, Err(100)));
    drop(other);
    server.signal(Signal::TERM);
    assert!(server.exit().success());
    let mut server = serve(&options);
    assert_eq!(["sync:a", "batch:a"].map(|channel| history(&server, channel)), before);
    for channel in ["sync:a", "batch:a"] {
        assert_eq!(publish(&server, channel, 21), Ok(21), "{channel}");
    }

    // Killed: what was answered by sync is there, and goes on; the other begins another epoch.
    kill(&mut server);
    let server = serve(&options);
    let all: Vec<u64> = (1..=21).collect();
    assert_eq!(history(&server, "sync:a"), (before[0].0.clone(), all.clone()));
    let (epoch, offsets) = history(&server, "batch:a");
    assert!(epoch != before[1].0 && all.starts_with(&offsets), "{epoch} {offsets:?}");

    // The database is killed: who asked for sync is told, who did not goes on, and all comes back by itself.
    let mut client = Client::subscribed(&server, "batch:live");
    database.kill();
    assert_eq!(publish(&server, "sync:a", 22), Err(100));
    assert!(publish(&server, "batch:live", 22).is_ok());
    assert_eq!(client.publication().1, 22);
    database.restart();
    until("sync works again", || publish(&server, "sync:a", 22).ok());
    let (epoch, offsets) = history(&server, "sync:a");
    assert_eq!((&epoch, offsets.iter().copied().take(22).collect::<Vec<u64>>()), (&before[0].0, (1..=22).collect()));
    until("it is up", || (server.metric("gannet_archive_up") == 1).then_some(()));
    assert!(server.lines().iter().all(|line| !line.contains(PASSWORD)));
}

#[test]
fn streams_are_kept_in_postgresql_over_restarts_and_kills() {
    is_kept(Kind::Postgres);
}

#[test]
fn streams_are_kept_in_mariadb_over_restarts_and_kills() {
    is_kept(Kind::MariaDb);
}

/// Any node that takes the share knows who was away.
fn cursors_are_kept(kind: Kind) {
    let database = Database::start(kind);
    let mut options = options(&database, "cursors");
    options.extend(["--shutdown.delay=0s", "--shutdown.spread=0s"].map(str::to_owned));
    assert!(run(&["durable", "migrate"], &options).0);
    for (namespace, is_sync) in [("box", true), ("loose", false)] {
        let [room, quiet] = ["a", "quiet"].map(|name| format!("{namespace}:{name}"));
        who_is_away_is_told(&|| serve_by(GUARDED, &options), is_sync, &room, &quiet);
    }
}

#[test]
fn who_is_away_is_told_from_postgresql() {
    cursors_are_kept(Kind::Postgres);
}

#[test]
fn who_is_away_is_told_from_mariadb() {
    cursors_are_kept(Kind::MariaDb);
}
