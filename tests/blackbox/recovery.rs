//! Recovery over several reactors: whatever is dropped, and wherever, a subscriber that recovers misses nothing.

use crate::client::Client;
use crate::peer::{PATH, Peer, TEXT};
use crate::server::{Server, until};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const COUNT: u64 = 20_000;
const CHANNEL: &str = "stream";
/// For a debug build on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

fn started(options: &[&str]) -> Server {
    let history = [
        "--client.insecure",
        "--reactors=4",
        "--channel.without_namespace.history_size=30000",
        "--channel.without_namespace.history_ttl=10m",
        "--channel.without_namespace.force_recovery",
        "--client.recovery_max_publication_limit=30000",
        "--client.queue_max_size=64MiB",
        "--websocket.write_timeout=60s",
    ];
    Server::start(&[&history[..], options].concat())
}

/// What one subscriber is sent, over all of its connections.
#[derive(Default)]
struct Heard {
    offset: u64,
    epoch: String,
    /// Positions that it got without the publications between.
    jumps: u64,
    gaps: u64,
    recovered: u64,
}

impl Heard {
    /// Each offset once, in order, and the same to everyone.
    fn take(&mut self, publication: &Value, data: &[AtomicU64]) {
        let offset = publication["offset"].as_u64().expect("an offset");
        assert_eq!(offset, self.offset + 1, "after {}", self.offset);
        let number = publication["data"].as_u64().expect("a number");
        let known = data[offset as usize].swap(number, Ordering::Relaxed);
        assert!(known == 0 || known == number, "offset {offset} is {known} and {number}");
        self.offset = offset;
    }

    /// The subscribe reply; false if it is to be asked for again.
    fn begin(&mut self, reply: &Value, data: &[AtomicU64]) -> bool {
        if reply["error"]["code"] == 111 {
            return false;
        }
        let result = &reply["subscribe"];
        assert!(result["recoverable"] == true && result["positioned"] == true, "{reply:.300}");
        let was = std::mem::replace(&mut self.epoch, result["epoch"].as_str().expect("an epoch").to_owned());
        let first = was.is_empty();
        assert!(first || was == self.epoch, "another epoch");
        let at = result["offset"].as_u64().unwrap_or(0);
        if result["recovered"] == true {
            assert_eq!(at, self.offset, "the offset that was asked for");
            self.recovered += 1;
            result["publications"].as_array().into_iter().flatten().for_each(|one| self.take(one, data));
        } else {
            assert!(result["publications"].is_null());
            self.jumps += u64::from(!first);
            self.offset = at;
        }
        true
    }

    fn subscribe(&self, id: u32) -> String {
        let mut subscribe = json!({ "channel": CHANNEL });
        if !self.epoch.is_empty() {
            subscribe["recover"] = true.into();
            subscribe["offset"] = self.offset.into();
            subscribe["epoch"] = self.epoch.as_str().into();
        }
        json!({ "id": id, "subscribe": subscribe }).to_string()
    }
}

/// Listens to the end, dropping its connection whenever `chance` says so.
fn listen(address: SocketAddr, data: &[AtomicU64], begun: &AtomicU64, mut chance: impl FnMut() -> bool) -> Heard {
    let mut heard = Heard::default();
    let deadline = Instant::now() + LIMIT;
    loop {
        let mut peer = Peer::open(address).upgrade(PATH);
        peer.stream.set_read_timeout(Some(LIMIT)).expect("read timeout");
        let both = [r#"{"id":1,"connect":{}}"#.to_owned(), heard.subscribe(2)].join("\n");
        peer.send_frame(TEXT, both.as_bytes());
        let mut id = 2;
        loop {
            for line in peer.text().lines() {
                let said: Value = serde_json::from_str(line).expect("JSON");
                let push = &said["push"];
                if said.as_object().is_some_and(|ping| ping.is_empty()) {
                    peer.send_frame(TEXT, b"{}");
                } else if said["id"] == id {
                    let first = heard.epoch.is_empty();
                    if !heard.begin(&said, data) {
                        id += 1;
                        peer.send_frame(TEXT, heard.subscribe(id).as_bytes());
                    } else if first {
                        begun.fetch_add(1, Ordering::SeqCst);
                    }
                } else if push["pub"].is_object() {
                    heard.take(&push["pub"], data);
                } else if push["unsubscribe"].is_object() {
                    assert_eq!(push["unsubscribe"]["code"], 2500, "{push}");
                    heard.gaps += 1;
                    id += 1;
                    peer.send_frame(TEXT, heard.subscribe(id).as_bytes());
                } else {
                    assert_eq!(said["id"], 1, "{said:.300}");
                }
            }
            assert!(Instant::now() < deadline, "too slow: {} of {COUNT}", heard.offset);
            if heard.offset == COUNT {
                return heard;
            }
            if chance() {
                break;
            }
        }
    }
}

/// A small generator: the same numbers in each run.
fn dice(mut seed: u64, sides: u64) -> impl FnMut() -> bool {
    move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33).is_multiple_of(sides)
    }
}

/// Publishes the numbers of `all`, fifty unanswered ones at a time; what is refused is published again.
fn publish(address: SocketAddr, all: std::ops::Range<u64>) {
    let mut peer = Peer::open(address).upgrade(PATH);
    peer.connect();
    peer.stream.set_read_timeout(Some(LIMIT)).expect("read timeout");
    let mut waiting: Vec<u64> = all.rev().collect();
    while !waiting.is_empty() {
        let mut asked = waiting.split_off(waiting.len().saturating_sub(50));
        let command = |n: &u64| json!({ "id": n + 1, "publish": { "channel": CHANNEL, "data": n } }).to_string();
        peer.send_frame(TEXT, asked.iter().map(command).collect::<Vec<_>>().join("\n").as_bytes());
        asked.reverse();
        while !asked.is_empty() {
            for line in peer.text().lines() {
                let said: Value = serde_json::from_str(line).expect("JSON");
                if said.as_object().is_some_and(|ping| ping.is_empty()) {
                    peer.send_frame(TEXT, b"{}");
                    continue;
                }
                let number = asked.pop().expect("a question");
                assert_eq!(said["id"], number + 1, "{said}");
                match said["error"]["code"].as_u64() {
                    None => assert_eq!(said["publish"], json!({})),
                    Some(code) => {
                        assert_eq!(code, 111, "{said}");
                        waiting.push(number);
                    }
                }
            }
        }
    }
}

/// Each listener drops its connection with a chance of one in `sides` for each message.
fn all_hear(server: &Server, listeners: u64, publishers: u64, sides: u64) -> Vec<Heard> {
    let data: Vec<AtomicU64> = (0..=COUNT).map(|_| AtomicU64::new(0)).collect();
    let (address, begun) = (server.address, &AtomicU64::new(0));
    let heard: Vec<Heard> = std::thread::scope(|scope| {
        let data = &data[..];
        let listen = |n| move || listen(address, data, begun, dice(n + 1, sides));
        let listening: Vec<_> = (0..listeners).map(|n| scope.spawn(listen(n))).collect();
        until("subscribers", || (begun.load(Ordering::SeqCst) == listeners).then_some(()));
        let share = COUNT / publishers;
        for n in 0..publishers {
            scope.spawn(move || publish(address, n * share + 1..(n + 1) * share + 1));
        }
        listening.into_iter().map(|listener| listener.join().expect("a listener")).collect()
    });
    let mut numbers: Vec<u64> = data[1..].iter().map(|number| number.load(Ordering::Relaxed)).collect();
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(1..=COUNT), "each number has one offset");
    assert!(heard.iter().all(|one| one.offset == COUNT && one.jumps == 0));
    heard
}

#[test]
fn who_reconnects_at_random_hears_each_publication_once() {
    let server = started(&[]);
    let heard = all_hear(&server, 6, 1, 200);
    assert!(heard.iter().any(|one| one.recovered > 0), "nobody reconnected");
    assert_eq!(heard.iter().map(|one| one.gaps).sum::<u64>(), 0);
    let mut client = Client::connected(&server);
    let history = client.ask(json!({ "history": { "channel": CHANNEL } }));
    assert_eq!(history["history"]["offset"], COUNT);
    until("nobody", || (server.metric("gannet_node_num_subscriptions") == 0).then_some(()));
}

#[test]
fn who_misses_what_a_full_mailbox_lost_is_told_and_recovers() {
    let server = started(&["--reactor.mailbox_size=2"]);
    let heard = all_hear(&server, 8, 4, 1000);
    let gaps: u64 = heard.iter().map(|one| one.gaps).sum();
    assert!(gaps > 0, "nothing was lost");
    assert!(heard.iter().map(|one| one.recovered).sum::<u64>() >= gaps);
}

/// A subscribe request, and what the reply says beside the epoch: `recoverable`, `positioned`, `recovered`,
/// `was_recovering`, the offset and how many publications.
type Told = (bool, bool, bool, bool, u64, usize);

#[test]
fn who_asks_to_recover_is_told_that_it_was_asked() {
    let namespaces = r#"[
        {"name": "plain"},
        {"name": "log", "history_size": 5, "history_ttl": "60s"},
        {"name": "placed", "history_size": 5, "history_ttl": "60s", "force_positioning": true},
        {"name": "safe", "history_size": 2, "history_ttl": "60s", "force_recovery": true},
        {"name": "cache", "history_size": 1, "history_ttl": "60s", "force_recovery": true,
         "force_recovery_mode": "cache"},
        {"name": "auto", "history_size": 1, "history_ttl": "60s", "force_recovery": true,
         "force_recovery_mode": "cache", "auto_cache_recover": true}
    ]"#;
    let server = Server::with(crate::server::GUARDED, &["--channel.namespaces", namespaces]);
    for name in ["plain", "log", "placed", "safe", "cache", "auto"] {
        (1..=4).for_each(|n| drop(server.call("publish", json!({ "channel": format!("{name}:full"), "data": n }))));
    }
    let since = |offset: u64| json!({ "recover": true, "offset": offset });
    let cases: Vec<(&str, Value, Told)> = vec![
        ("plain:full", json!({}), (false, false, false, false, 0, 0)),
        ("plain:full", since(1), (false, false, false, true, 0, 0)),
        ("log:full", since(1), (false, false, false, true, 0, 0)),
        ("placed:full", json!({}), (false, true, false, false, 4, 0)),
        ("placed:full", since(1), (false, true, false, true, 4, 0)),
        ("safe:full", json!({}), (true, true, false, false, 4, 0)),
        ("safe:full", since(3), (true, true, true, true, 3, 1)),
        ("safe:full", since(1), (true, true, false, true, 4, 0)),
        ("cache:full", json!({}), (true, true, false, false, 4, 0)),
        ("cache:full", since(0), (true, true, true, true, 0, 1)),
        ("auto:full", json!({}), (true, true, true, true, 0, 1)),
        ("auto:full", since(2), (true, true, true, true, 2, 1)),
        ("auto:empty", json!({}), (true, true, false, true, 0, 0)),
        ("auto:empty", since(0), (true, true, false, true, 0, 0)),
    ];
    let told = |result: &Value| {
        let is = |key: &str| result[key].as_bool().unwrap_or(false);
        let publications = result["publications"].as_array().map_or(0, Vec::len);
        let offset = result["offset"].as_u64().unwrap_or(0);
        (is("recoverable"), is("positioned"), is("recovered"), is("was_recovering"), offset, publications)
    };
    for (channel, mut request, expected) in cases {
        let claims = json!({ "sub": "42", "channels": [channel] });
        let mut listener = Client::open(&server);
        let token = crate::client::token(&claims);
        let connect = listener.ask(json!({ "connect": { "token": token, "subs": { channel: request.clone() } } }));
        assert_eq!(told(&connect["connect"]["subs"][channel]), expected, "{channel} {request}: {connect}");
        request["channel"] = channel.into();
        request["token"] = crate::client::token(&json!({ "sub": "42", "channel": channel })).into();
        let mut client = Client::connected_as(&server, "42");
        let reply = client.ask(json!({ "subscribe": request }));
        assert_eq!(told(&reply["subscribe"]), expected, "{reply}");
    }
}
