//! Durable history: what outlives a restart and kill -9, how far back history and recovery reach, and disks that fail.

use crate::client::Client;
use crate::server::{GUARDED, OPEN, Server, gannet, until};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

const NAMESPACES: &str = r#"[
    {"name": "sync", "history_size": 10, "history_ttl": "1h", "history_durability": "sync", "force_recovery": true,
        "archive_size": 0},
    {"name": "batched", "history_size": 10, "history_ttl": "1h", "history_durability": "batched",
        "force_recovery": true},
    {"name": "none", "history_size": 10, "history_ttl": "1h", "force_recovery": true}
]"#;
/// How often a node is killed in the middle of writes.
const KILLS: &str = "GANNET_TEST_KILLS";

/// A folder that is gone with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("gannet-durable-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Folder(std::env::temp_dir().join(name))
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("a path")
    }

    fn options(&self) -> Vec<&str> {
        let own = ["--channel.namespaces", NAMESPACES, "--durable.path", self.path(), "--shutdown.delay", "0s"];
        [OPEN, &own, &["--shutdown.spread", "0s"]].concat()
    }

    fn start(&self) -> Server {
        Server::start(&self.options())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn publish(server: &Server, channel: &str, data: u64) -> Result<(u64, String), u64> {
    let answer = server.call("publish", json!({ "channel": channel, "data": data }));
    match answer["error"]["code"].as_u64() {
        Some(code) => Err(code),
        None => {
            let epoch = answer["result"]["epoch"].as_str().expect("an epoch").to_owned();
            Ok((answer["result"]["offset"].as_u64().expect("an offset"), epoch))
        }
    }
}

/// Offsets with their data, and the epoch.
fn history(server: &Server, channel: &str, mut query: Value) -> (Vec<(u64, u64)>, String) {
    query["channel"] = channel.into();
    let answer = server.call("history", query);
    let result = &answer["result"];
    let epoch = result["epoch"].as_str().unwrap_or_else(|| panic!("no history: {answer}")).to_owned();
    let publications = result["publications"].as_array().into_iter().flatten();
    let place = |one: &Value| (one["offset"].as_u64().expect("an offset"), one["data"].as_u64().expect("a number"));
    (publications.map(place).collect(), epoch)
}

fn offsets(found: (Vec<(u64, u64)>, String)) -> Vec<u64> {
    found.0.into_iter().map(|(offset, _)| offset).collect()
}

/// The reply to a client that recovers.
fn recover(client: &mut Client, channel: &str, offset: u64, epoch: &str) -> Value {
    let ask = json!({ "channel": channel, "recover": true, "offset": offset, "epoch": epoch });
    client.ask(json!({ "subscribe": ask }))["subscribe"].clone()
}

fn stop(mut server: Server) {
    server.signal(Signal::TERM);
    assert_eq!(server.exit().code(), Some(0));
    assert!(server.logged("the archive is complete"));
}

fn kill(mut server: Server) {
    server.signal(Signal::KILL);
    server.exit();
}

#[test]
fn streams_and_those_who_follow_them_outlive_a_restart() {
    let folder = Folder::new();
    let server = folder.start();
    let mut epochs = BTreeMap::new();
    for channel in ["sync:a", "batched:a", "none:a"] {
        for data in 1..=30 {
            let (offset, epoch) = publish(&server, channel, data).expect("published");
            assert_eq!(offset, data);
            epochs.insert(channel, epoch);
        }
    }
    stop(server);
    let server = folder.start();
    let mut client = Client::connected(&server);
    for channel in ["sync:a", "batched:a"] {
        let (found, epoch) = history(&server, channel, json!({ "limit": 100 }));
        assert_eq!((found, &epoch), ((1..=30).map(|n| (n, n)).collect(), &epochs[channel]), "{channel}");
        let since = |offset: u64| json!({ "offset": offset, "epoch": epoch });
        assert_eq!(offsets(history(&server, channel, json!({ "limit": 3, "since": since(17) }))), [18, 19, 20]);
        assert_eq!(offsets(history(&server, channel, json!({ "limit": 4, "since": since(19) }))), [20, 21, 22, 23]);
        let back = json!({ "limit": 3, "since": since(22), "reverse": true });
        assert_eq!(offsets(history(&server, channel, back)), [21, 20, 19]);
        let back = json!({ "limit": 25, "reverse": true });
        assert_eq!(offsets(history(&server, channel, back)), (6..=30).rev().collect::<Vec<u64>>());
        // Who was away recovers, from beyond what memory keeps.
        let reply = recover(&mut client, channel, 5, &epoch);
        assert_eq!(reply["recovered"], true, "{channel}: {reply}");
        let missed: Vec<u64> =
            reply["publications"].as_array().expect("a list").iter().filter_map(|one| one["offset"].as_u64()).collect();
        assert_eq!(missed, (6..=30).collect::<Vec<u64>>());
        assert_eq!(publish(&server, channel, 31), Ok((31, epoch)), "{channel} goes on");
        assert_eq!(client.publication(), (channel.to_owned(), json!(31)));
    }
    let (found, epoch) = history(&server, "none:a", json!({ "limit": 100 }));
    assert!(found.is_empty() && epoch != epochs["none:a"]);
    assert!(server.metric("gannet_archive_appended_total") >= 2 && server.metric("gannet_archive_up") == 1);
}

#[test]
fn after_a_kill_only_what_is_proven_goes_on() {
    let folder = Folder::new();
    let server = folder.start();
    let (mut sync, mut batched) = (String::new(), String::new());
    for data in 1..=20 {
        sync = publish(&server, "sync:a", data).expect("published").1;
        batched = publish(&server, "batched:a", data).expect("published").1;
    }
    // All of it is on disk, and nobody can tell.
    server.counts("gannet_archive_appended_total", 40);
    kill(server);
    let server = folder.start();
    assert_eq!(history(&server, "sync:a", json!({ "limit": 100 })), ((1..=20).map(|n| (n, n)).collect(), sync.clone()));
    assert_eq!(publish(&server, "sync:a", 21), Ok((21, sync)));
    let (found, epoch) = history(&server, "batched:a", json!({ "limit": 100 }));
    assert_eq!(found, (1..=20).map(|n| (n, n)).collect::<Vec<_>>(), "old pages stay");
    assert_ne!(epoch, batched, "clients are told that something may be missing");
    let mut client = Client::connected(&server);
    assert_eq!(recover(&mut client, "batched:a", 20, &batched)["recovered"], Value::Null);
    let (offset, next) = publish(&server, "batched:a", 21).expect("published");
    assert_eq!((offset, next), (21, epoch), "offsets go on");
}

/// Who was away longer than memory reaches back is sent what has not arrived from the archive.
#[test]
fn an_inbox_reaches_back_into_the_archive() {
    for durability in ["sync", "batched"] {
        let folder = Folder::new();
        let name = |option: &str| format!("--channel.without_namespace.{option}");
        let own = [
            name("history_size=3"),
            name("history_ttl=1h"),
            name("inbox.enabled"),
            name(&format!("history_durability={durability}")),
        ];
        let own: Vec<&str> = own.iter().map(String::as_str).collect();
        let server = Server::start(&[GUARDED, &own, &["--reactors=2", "--durable.path", folder.path()]].concat());
        let missed = || {
            let mut anna = Client::connected_as(&server, "anna");
            let reply = anna.ask(json!({ "subscribe": { "channel": "room" } }));
            let publications = reply["subscribe"]["publications"].as_array().cloned().unwrap_or_default();
            let data = publications.iter().map(|one| one["data"].as_u64().expect("a number")).collect::<Vec<u64>>();
            let ack = anna.ask(json!({ "rpc": { "method": "inbox.ack", "data": {} } }));
            assert_eq!(ack["rpc"], json!({ "data": {} }), "{ack}");
            data
        };
        assert_eq!(missed(), [] as [u64; 0]);
        (1..=20).for_each(|data| server.publish_kept("room", json!(data)));
        assert_eq!(missed(), (1..=20).collect::<Vec<u64>>(), "{durability}");
        (21..=22).for_each(|data| server.publish_kept("room", json!(data)));
        assert_eq!(missed(), [21, 22]);
    }
}

/// A user is away while the node is killed, and while it stops.
pub fn who_is_away_is_told(start: &dyn Fn() -> Server, is_sync: bool, room: &str, quiet: &str) {
    let subscribe = |server: &Server, channel: &str| {
        let mut anna = Client::connected_as(server, "anna");
        let reply = anna.ask(json!({ "subscribe": { "channel": channel } }))["subscribe"].clone();
        let publications = reply["publications"].as_array().cloned().unwrap_or_default();
        let data = publications.iter().map(|one| one["data"].as_u64().expect("a number")).collect::<Vec<u64>>();
        (anna, data, reply["was_recovering"] == true, reply["recovered"] == true)
    };
    let come = |server: &Server, channel: &str| {
        let (_, data, recovers, recovered) = subscribe(server, channel);
        (data, recovers, recovered)
    };
    let read = |server: &Server, channel: &str| {
        let (mut anna, data, recovers, recovered) = subscribe(server, channel);
        let ack = anna.ask(json!({ "rpc": { "method": "inbox.ack", "data": {} } }));
        assert_eq!(ack["rpc"], json!({ "data": {} }), "{ack}");
        (data, recovers, recovered)
    };
    let none: Vec<u64> = Vec::new();
    let server = start();
    assert_eq!(come(&server, room), (none.clone(), false, false), "one who is new");
    assert_eq!(come(&server, quiet), (none.clone(), false, false));
    server.counts("gannet_archive_cursors_total", 2);
    (1..=3).for_each(|data| server.publish_kept(room, json!(data)));
    assert_eq!(read(&server, room), (vec![1, 2, 3], true, true));
    server.counts("gannet_archive_cursors_total", 3);
    (4..=6).for_each(|data| server.publish_kept(room, json!(data)));
    server.counts("gannet_archive_appended_total", 6);
    kill(server);

    // What is there is sent. Whether it is all of it, batched streams cannot tell after a kill.
    let server = start();
    server.publish_kept(quiet, json!(1));
    assert_eq!(come(&server, room), (vec![4, 5, 6], true, is_sync), "until it is proven");
    assert_eq!(read(&server, room), (vec![4, 5, 6], true, is_sync));
    assert_eq!(read(&server, quiet), (vec![1], true, is_sync), "{quiet}: from before the first publication");
    let offsets = || {
        let info = server.call("inbox_info", json!({ "user": "anna" }));
        let cursors = info["result"]["channels"].as_array().cloned().unwrap_or_default();
        cursors.iter().filter_map(|cursor| cursor["offset"].as_u64()).sum::<u64>()
    };
    until("both cursors to move", || (offsets() == 7).then_some(()));
    stop(server);

    let server = start();
    assert_eq!(come(&server, room), (none.clone(), true, true), "once");
    server.publish_kept(room, json!(7));
    assert_eq!(come(&server, room), (vec![7], true, true));
    assert_eq!(come(&server, quiet), (none, true, true));
}

#[test]
fn who_is_away_is_told_over_kills_and_stops() {
    for durability in ["sync", "batched"] {
        let folder = Folder::new();
        let name = |option: &str| format!("--channel.without_namespace.{option}");
        let own = [
            name("history_size=2"),
            name("history_ttl=1h"),
            name("inbox.enabled"),
            name(&format!("history_durability={durability}")),
        ];
        let own: Vec<&str> = own.iter().map(String::as_str).collect();
        let rest = ["--reactors=2", "--durable.path", folder.path(), "--shutdown.delay=0s", "--shutdown.spread=0s"];
        let options = [GUARDED, &own, &rest].concat();
        who_is_away_is_told(&|| Server::start(&options), durability == "sync", "room", "quiet");
    }
}

/// What is known of a channel over all lives of the node.
#[derive(Default)]
struct Known {
    epochs: BTreeSet<String>,
    /// By offset.
    data: BTreeMap<u64, u64>,
    /// What was answered and has not been seen to be there.
    answered: BTreeSet<u64>,
    /// Up to here all was seen to be there.
    seen: u64,
}

impl Known {
    fn note(&mut self, offset: u64, data: u64) {
        let known = *self.data.entry(offset).or_insert(data);
        assert_eq!(known, data, "offset {offset} is used twice");
    }

    /// Looks at what is new in the channel. All that was answered must be there.
    fn look(&mut self, server: &Server, channel: &str) {
        let since = json!({ "offset": self.seen, "epoch": self.epochs.first().map_or("", String::as_str) });
        let (found, epoch) = history(server, channel, json!({ "limit": 10_000, "since": since }));
        self.epochs.insert(epoch);
        assert_eq!(self.epochs.len(), 1, "{channel} goes on");
        for (offset, data) in found {
            assert_eq!(offset, self.seen + 1, "{channel} has a gap");
            self.seen = offset;
            self.note(offset, data);
            self.answered.remove(&data);
        }
        assert!(self.answered.is_empty(), "{channel} lost {:?}", self.answered);
    }
}

/// A node is killed while clients publish, again and again. A subscriber recovers each time.
#[test]
fn a_node_that_is_killed_in_the_middle_of_writes_loses_nothing_that_it_answered() {
    let rounds: u64 = std::env::var(KILLS).ok().and_then(|kills| kills.parse().ok()).unwrap_or(6);
    let folder = Folder::new();
    let channels = ["sync:a", "sync:b", "sync:c"];
    let mut known: BTreeMap<&str, Known> = channels.iter().map(|channel| (*channel, Known::default())).collect();
    let (mut next, mut at) = (0, 0);
    for round in 0..rounds {
        let server = folder.start();
        for (channel, known) in &mut known {
            known.look(&server, channel);
        }
        let mut follower = Client::connected(&server);
        let first = &mut known.get_mut("sync:a").expect("a channel");
        let epoch = first.epochs.first().expect("an epoch").clone();
        let reply = recover(&mut follower, "sync:a", at, &epoch);
        assert_eq!(reply["recovered"], true, "from {at}: {reply:.200}");
        let mut hear = |publication: &Value, first: &mut Known| {
            let offset = publication["offset"].as_u64().expect("an offset");
            assert_eq!(offset, at + 1);
            at = offset;
            first.note(offset, publication["data"].as_u64().expect("a number"));
        };
        reply["publications"].as_array().into_iter().flatten().for_each(|one| hear(one, first));
        // Many are under way at once; it dies after some of the answers.
        let mut publisher = Client::connected(&server);
        let mut asked = BTreeMap::new();
        let commands = (0..150).map(|_| {
            next += 1;
            let channel = channels[next as usize % channels.len()];
            asked.insert(1000 + next, (channel, next));
            json!({ "id": 1000 + next, "publish": { "channel": channel, "data": next } }).to_string()
        });
        let text = commands.collect::<Vec<_>>().join("\n");
        publisher.send(&text);
        let answers = 10 + round * 37 % 100;
        for _ in 0..answers {
            let reply = publisher.next();
            let (channel, data) = asked[&reply["id"].as_u64().expect("an id")];
            assert_eq!(reply["publish"], json!({}), "{reply}");
            known.get_mut(channel).expect("a channel").answered.insert(data);
        }
        kill(server);
        // What left before it died was true.
        while let Ok(reply) = publisher.try_next() {
            let (channel, data) = asked[&reply["id"].as_u64().expect("an id")];
            known.get_mut(channel).expect("a channel").answered.insert(data);
        }
        let first = known.get_mut("sync:a").expect("a channel");
        while let Ok(push) = follower.try_next() {
            hear(&push["push"]["pub"], first);
        }
    }
    let server = folder.start();
    for (channel, known) in &mut known {
        known.look(&server, channel);
        let before = known.seen;
        known.seen = 0;
        while known.seen < before {
            known.look(&server, channel);
        }
    }
}

/// The line with which a node refuses to start.
fn refusal(folder: &Folder, around: Option<Command>) -> String {
    let mut command = around.unwrap_or_else(gannet);
    let address = ["--http_server.address", "127.0.0.1", "--http_server.port", "0", "--http_api.key", "k"];
    let ended = command.args(address).args(folder.options()).output().expect("it ends");
    assert!(!ended.status.success());
    let text = String::from_utf8_lossy(&ended.stderr).into_owned();
    let line = text.lines().rfind(|line| line.contains("durable.path"));
    line.unwrap_or_else(|| panic!("no line: {text}")).to_owned()
}

/// The program in a mount namespace of its own, with a small disk at the folder.
fn with_disk(folder: &Folder, options: &str) -> Command {
    std::fs::create_dir_all(&folder.0).expect("a folder");
    let mut command = Command::new("unshare");
    let mount = format!("mount -t tmpfs -o {options} tmpfs \"$0\" && exec \"$@\"");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--mount", "sh", "-c", &mount, folder.path()]);
    command.arg(gannet().get_program());
    command
}

#[test]
fn a_folder_that_cannot_be_used_ends_the_start_in_one_line() {
    let folder = Folder::new();
    let server = folder.start();
    publish(&server, "sync:a", 1).expect("published");
    assert!(refusal(&folder, None).contains("another process has the archive"), "two nodes");
    stop(server);
    let spoiled = |path: &Path| {
        for entry in std::fs::read_dir(path.join("keyspaces")).expect("keyspaces") {
            let inside = entry.expect("an entry").path();
            for file in std::fs::read_dir(inside).expect("a folder").map(|file| file.expect("a file").path()) {
                if file.is_file() {
                    std::fs::write(file, "what was not written").expect("written");
                }
            }
        }
    };
    spoiled(&folder.0);
    let line = refusal(&folder, None);
    assert!(line.contains("is damaged"), "{line}");
    let (file, read_only) = (Folder::new(), Folder::new());
    std::fs::write(&file.0, "a file").expect("written");
    assert!(refusal(&file, None).contains("cannot be used") || refusal(&file, None).contains("is no folder"));
    std::fs::remove_file(&file.0).expect("removed");
    assert!(refusal(&read_only, Some(with_disk(&read_only, "ro"))).contains("read-only"));
}

#[test]
fn a_full_disk_stops_nothing_but_what_must_be_on_it() {
    let folder = Folder::new();
    let mut options = folder.options();
    options.extend(["--durable.flush_interval", "10ms"]);
    let server = Server::start_by(with_disk(&folder, "size=24m"), &options);
    let epoch = publish(&server, "sync:a", 1).expect("published").1;
    let mut clients = ["batched:a", "none:a"].map(|channel| {
        let mut client = Client::connected(&server);
        assert!(recover(&mut client, channel, 0, "")["epoch"].is_string());
        client
    });
    // The disk as the server sees it.
    let inside = PathBuf::from(format!("/proc/{}/root", server.pid())).join(folder.path().trim_start_matches('/'));
    let ballast = inside.join("ballast");
    let block = vec![0; 1 << 16];
    let mut file = std::fs::File::create(&ballast).expect("a file");
    while std::io::Write::write_all(&mut file, &block).is_ok() {}
    let mut last = 1;
    let code = (2..2000).find_map(|data| {
        let filler = json!({ "channel": "sync:fill", "data": "x".repeat(4096) });
        server.call("publish", filler);
        match publish(&server, "sync:a", data) {
            Ok(_) => {
                last = data;
                None
            }
            Err(code) => Some(code),
        }
    });
    assert_eq!(code, Some(100), "it cannot be on the disk");
    until("the line", || server.logged("is full").then_some(()));
    assert_eq!(server.metric("gannet_archive_up"), 0);
    for (client, channel) in clients.iter_mut().zip(["batched:a", "none:a"]) {
        publish(&server, channel, 7).expect("live delivery goes on");
        let (heard, data) = client.publication();
        assert_eq!((heard.as_str(), data), (channel, json!(7)));
    }
    drop(file);
    std::fs::remove_file(&ballast).expect("removed");
    let (offset, again) = until("the disk to take publications again", || publish(&server, "sync:a", 5000).ok());
    assert_eq!(again, epoch);
    let (found, _) = history(&server, "sync:a", json!({ "limit": 10_000 }));
    assert!((1..=last).all(|data| found.contains(&(data, data))), "nothing that was answered is lost");
    assert_eq!(found.last(), Some(&(offset, 5000)));
    assert!(server.lines_with("is full") <= 2, "one line, and not one for each");
}
