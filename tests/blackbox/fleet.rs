//! Two nodes over one Redis: what happens on one is seen on the other, and a Redis that fails costs no client.

use crate::client::{Client, token};
use crate::peer::Peer;
use crate::redis::RedisProcess;
use crate::server::{SECRET, Server, acquainted, until};
use crate::stream::{SSE, Stream, get};
use serde_json::{Value, json};
use std::time::Duration;

/// Each namespace, what it keeps and tells.
const NAMESPACES: &str = r#"[
  {"name":"hi","history_size":100,"history_ttl":"10m","force_recovery":true,"allow_subscribe_for_client":true,
   "allow_publish_for_client":true,"allow_history_for_client":true,"allowed_delta_types":["fossil"]},
  {"name":"pr","presence":true,"join_leave":true,"force_push_join_leave":true,"allow_subscribe_for_client":true,
   "allow_presence_for_client":true},
  {"name":"box","history_size":100,"history_ttl":"10m","inbox":{"enabled":true},"allow_subscribe_for_client":true},
  {"name":"solo","presence":true,"allow_subscribe_for_client":true}
]"#;

fn node(redis: &RedisProcess, name: &str, more: &[&str]) -> Server {
    let address = redis.address();
    let options = [
        "--engine.type=redis",
        "--engine.redis.io_timeout=1s",
        "--engine.redis.address",
        &address,
        "--channel.namespaces",
        NAMESPACES,
        "--channel.without_namespace.allow_subscribe_for_client",
        "--channel.without_namespace.allow_publish_for_client",
        "--client.token.hmac_secret_key",
        SECRET,
        "--node.name",
        name,
        "--reactors=2",
        "--health.enabled",
    ];
    Server::start(&[&options[..], more].concat())
}

fn pair(redis: &RedisProcess, more: &[&str]) -> [Server; 2] {
    acquainted(["a", "b"], |name| node(redis, name, more))
}

fn joined(server: &Server, channel: &str, user: &str) -> Client {
    let mut client = Client::connected_as(server, user);
    let reply = client.ask(json!({ "subscribe": { "channel": channel } }));
    assert!(reply["subscribe"].is_object(), "{reply}");
    client
}

/// Publications until one has this data.
fn hears(client: &mut Client, data: &Value) {
    loop {
        if client.publication().1 == *data {
            return;
        }
    }
}

#[test]
fn publications_cross_between_nodes() {
    let redis = RedisProcess::start(&[]);
    let [a, b] = pair(&redis, &[]);
    let (mut here, mut there) = (joined(&a, "plain", "1"), joined(&b, "plain", "2"));
    a.publish("plain", json!("by the API of a"));
    b.publish("plain", json!("by the API of b"));
    let reply = here.ask(json!({ "publish": { "channel": "plain", "data": "by a client" } }));
    assert!(reply["publish"].is_object(), "{reply}");
    for client in [&mut here, &mut there] {
        for expected in ["by the API of a", "by the API of b", "by a client"] {
            assert_eq!(client.publication(), ("plain".into(), json!(expected)));
        }
    }
}

#[test]
fn history_and_recovery_cross_between_nodes() {
    let redis = RedisProcess::start(&[]);
    let [a, b] = pair(&redis, &[]);
    let mut here = Client::connected_as(&a, "1");
    let reply = here.ask(json!({ "subscribe": { "channel": "hi:a" } }));
    let epoch = reply["subscribe"]["epoch"].as_str().expect("an epoch").to_owned();
    for n in 1..=20 {
        let node = if n % 2 == 0 { &a } else { &b };
        let answer = node.call("publish", json!({ "channel": "hi:a", "data": n }));
        assert_eq!((&answer["result"]["offset"], &answer["result"]["epoch"]), (&json!(n), &json!(epoch)), "{answer}");
    }
    for n in 1..=20 {
        let push = here.next();
        assert_eq!((&push["push"]["pub"]["data"], &push["push"]["pub"]["offset"]), (&json!(n), &json!(n)));
    }
    for node in [&a, &b] {
        let history = node.call("history", json!({ "channel": "hi:a", "limit": 3, "reverse": true }))["result"].clone();
        let offsets: Vec<_> =
            history["publications"].as_array().expect("a list").iter().map(|one| &one["offset"]).collect();
        assert_eq!((&history["epoch"], offsets), (&json!(epoch), vec![&json!(20), &json!(19), &json!(18)]));
    }
    // A client that has been on a goes to b with its position, and misses nothing.
    let mut there = Client::connected_as(&b, "1");
    let position = json!({ "channel": "hi:a", "recover": true, "offset": 15, "epoch": epoch });
    let reply = there.ask(json!({ "subscribe": position }))["subscribe"].clone();
    assert_eq!(reply["recovered"], true, "{reply}");
    let data: Vec<_> = reply["publications"].as_array().expect("a list").iter().map(|one| &one["data"]).collect();
    assert_eq!(data, [16, 17, 18, 19, 20]);
    let other = json!({ "channel": "hi:a", "recover": true, "offset": 15, "epoch": "other" });
    let reply = Client::connected_as(&b, "2").ask(json!({ "subscribe": other }))["subscribe"].clone();
    assert!(reply["recovered"].is_null() && reply["epoch"] == epoch.as_str(), "{reply}");
    a.call("history_remove", json!({ "channel": "hi:a" }));
    assert_eq!(b.call("history", json!({ "channel": "hi:a", "limit": 3 }))["result"]["publications"], json!([]));
}

#[test]
fn who_logs_off_here_and_on_there_is_sent_what_has_not_arrived() {
    let redis = RedisProcess::start(&[]);
    let [a, b] = pair(&redis, &["--client.recovery_max_publication_limit=10"]);
    let subscribe =
        |client: &mut Client| client.ask(json!({ "subscribe": { "channel": "box:a" } }))["subscribe"].clone();
    let missed = |result: &Value| -> Vec<u64> {
        let publications = result["publications"].as_array().cloned().unwrap_or_default();
        publications.iter().map(|one| one["data"].as_u64().expect("a number")).collect()
    };
    let ack = |client: &mut Client, offset: u64| {
        let data = json!({ "channel": "box:a", "offset": offset });
        let reply = client.ask(json!({ "rpc": { "method": "inbox.ack", "data": data } }));
        assert!(reply["rpc"].is_object(), "{reply}");
    };
    a.publish_kept("box:a", json!(1));
    let mut here = Client::connected_as(&a, "anna");
    let first = subscribe(&mut here);
    assert!(missed(&first).is_empty() && first["was_recovering"].is_null(), "{first}");
    b.publish_kept("box:a", json!(2));
    hears(&mut here, &json!(2));
    ack(&mut here, 2);
    until("the cursor to be written", || {
        redis.cli(&["HGET", "centrifugo.inbox.box:a", "4:anna"]).starts_with("2 ").then_some(())
    });
    drop(here);
    for n in 3..=5 {
        a.publish_kept("box:a", json!(n));
    }
    let mut there = Client::connected_as(&b, "anna");
    let result = subscribe(&mut there);
    assert!(missed(&result) == [3, 4, 5] && result["recovered"] == true && result["offset"] == 2, "{result}");
    ack(&mut there, 4);
    // Whoever says less, and later, moves nothing.
    let mut here = Client::connected_as(&a, "anna");
    until("both nodes to agree", || {
        redis.cli(&["HGET", "centrifugo.inbox.box:a", "4:anna"]).starts_with("4 ").then_some(())
    });
    assert_eq!(missed(&subscribe(&mut here)), [5]);
    ack(&mut here, 3);
    drop((here, there));
    assert_eq!(missed(&subscribe(&mut Client::connected_as(&b, "anna"))), [5]);
    // What does not fit one reply comes in parts.
    for n in 6..=20 {
        b.publish_kept("box:a", json!(n));
    }
    let mut here = Client::connected_as(&a, "anna");
    let result = subscribe(&mut here);
    assert_eq!(missed(&result), (5..=14).collect::<Vec<u64>>());
    assert_eq!(here.next()["push"]["unsubscribe"]["code"], 2500);
    let position = json!({ "channel": "box:a", "recover": true, "offset": 14, "epoch": result["epoch"] });
    let rest = here.ask(json!({ "subscribe": position }))["subscribe"].clone();
    assert_eq!(missed(&rest), (15..=20).collect::<Vec<u64>>());
    assert!(missed(&subscribe(&mut Client::connected_as(&b, "bert"))).is_empty());
}

#[test]
fn presence_crosses_between_nodes() {
    let redis = RedisProcess::start(&[]);
    let [a, b] = pair(&redis, &[]);
    let mut here = joined(&a, "pr:a", "1");
    assert_eq!(here.next()["push"]["join"]["info"]["user"], "1", "its own");
    let there = joined(&b, "pr:a", "2");
    assert_eq!(here.next()["push"]["join"]["info"]["user"], "2");
    for node in [&a, &b] {
        let stats = node.call("presence_stats", json!({ "channel": "pr:a" }))["result"].clone();
        assert_eq!(stats, json!({ "num_clients": 2, "num_users": 2 }));
        let presence = node.call("presence", json!({ "channel": "pr:a" }))["result"]["presence"].clone();
        assert_eq!(presence.as_object().expect("clients").len(), 2);
    }
    drop(there);
    assert_eq!(here.next()["push"]["leave"]["info"]["user"], "2");
    let gone = || (b.call("presence_stats", json!({ "channel": "pr:a" }))["result"]["num_clients"] == 1).then_some(());
    until("it to be gone", gone);
}

#[test]
fn what_one_node_is_asked_all_nodes_do() {
    let redis = RedisProcess::start(&[]);
    let [a, b] = pair(&redis, &[]);
    let mut client = Client::connected_as(&b, "7");
    a.call("subscribe", json!({ "user": "7", "channel": "hi:s" }));
    assert_eq!(client.next()["push"]["subscribe"]["recoverable"], true);
    a.publish_kept("hi:s", json!(1));
    hears(&mut client, &json!(1));
    let n = |count: u64| json!({ "num_clients": count });
    let _other = joined(&a, "hi:s", "8");
    for node in [&a, &b] {
        let channels = node.call("channels", json!({}))["result"]["channels"].clone();
        assert_eq!(channels, json!({ "hi:s": n(2) }), "of both nodes");
        let none = node.call("channels", json!({ "pattern": "none*" }))["result"]["channels"].clone();
        assert_eq!(none, json!({}));
    }
    a.call("unsubscribe", json!({ "user": "7", "channel": "hi:s" }));
    assert_eq!(client.next()["push"]["unsubscribe"]["code"], 2000);
    a.call("disconnect", json!({ "user": "7", "disconnect": { "code": 4321, "reason": "away" } }));
    assert_eq!(client.closed(), 4321);
}

#[test]
fn commands_of_a_stream_may_come_to_any_node() {
    let redis = RedisProcess::start(&[]);
    let [a, b] = pair(&redis, &["--sse.enabled", "--client.allowed_origins", "*"]);
    let connect = json!({ "id": 1, "connect": { "token": token(&json!({ "sub": "1" })) } }).to_string();
    let mut stream = Stream::open(&a, &get(SSE, &connect));
    let reply = stream.connect();
    let (node, session) = (reply["node"].as_str().expect("a node"), reply["session"].as_str().expect("a session"));
    assert_eq!(node.len(), 36, "a UUID");
    let emulate = |node: &str, session: &str| {
        let data = json!({ "id": 2, "subscribe": { "channel": "plain" } }).to_string();
        let body = json!({ "node": node, "session": session, "data": data }).to_string();
        Peer::open(b.address).request("POST", "/emulation", &[], &body).expect("an answer").status
    };
    assert_eq!(emulate(node, session), 204);
    assert_eq!(stream.next()["id"], 2);
    assert_eq!(emulate(node, "none"), 404);
    assert_eq!(emulate("no-such-node", session), 404);
}

#[test]
fn one_connection_of_a_user_holds_over_the_fleet() {
    let redis = RedisProcess::start(&[]);
    let personal = [
        "--client.subscribe_to_user_personal_channel.enabled",
        "--client.subscribe_to_user_personal_channel.personal_channel_namespace=solo",
        "--client.subscribe_to_user_personal_channel.single_connection",
    ];
    let [a, b] = pair(&redis, &personal);
    let mut first = Client::connected_as(&a, "1");
    let mut other = Client::connected_as(&a, "2");
    // What a said to b of the first has come when b has done what a said later.
    let mut mark = Client::connected_as(&b, "9");
    a.call("disconnect", json!({ "user": "9" }));
    assert_eq!(mark.closed(), 3503);
    let mut second = Client::connected_as(&b, "1");
    assert_eq!(first.closed(), 3504);
    for client in [&mut second, &mut other] {
        assert!(client.ask(json!({ "subscribe": { "channel": "plain" } }))["subscribe"].is_object());
    }
}

#[test]
fn connections_of_a_user_are_counted_over_the_fleet() {
    let redis = RedisProcess::start(&[]);
    let [a, b] = pair(&redis, &["--client.user_connection_limit=2"]);
    let _other = Client::connected_as(&a, "2");
    let [first, _second] = [&a, &a].map(|node| Client::connected_as(node, "1"));
    let refused = || a.disconnects(3504) + b.disconnects(3504);
    // Nodes that have just lost sight of each other count their own alone, so it may take another try.
    let third_goes = || {
        let before = refused();
        let _third = Client::connected_as(&b, "1");
        let waits = |_: &i32| {
            std::thread::park_timeout(Duration::from_millis(5));
            refused() > before
        };
        (0..1000).find(waits).map(|_| ())
    };
    until("one of three to go", third_goes);
    let count = || a.metric("gannet_node_num_clients") + b.metric("gannet_node_num_clients");
    until("two and the other user to stay", || (count() <= 3).then_some(()));
    // Who leaves makes room.
    drop(first);
    until("it to be gone", || (a.metric("gannet_node_num_clients") <= 2).then_some(()));
    let mut again = Client::connected_as(&b, "1");
    assert!(again.ask(json!({ "subscribe": { "channel": "plain" } }))["subscribe"].is_object());
}

#[test]
fn a_node_that_leaves_is_forgotten_at_once() {
    let redis = RedisProcess::start(&[]);
    let [a, mut b] = pair(&redis, &["--shutdown.delay=0s", "--shutdown.spread=0s"]);
    b.signal(rustix::process::Signal::TERM);
    b.exit();
    assert_eq!(a.fleet(), ["a"]);
}

/// Clients stay, what was answered as stored is delivered, and delivery goes on.
#[test]
fn a_redis_that_crashes_and_comes_back_costs_no_client() {
    let mut redis = RedisProcess::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let [a, b] = pair(&redis, &[]);
    let (mut here, mut there) = (joined(&a, "hi:a", "1"), joined(&b, "hi:a", "2"));
    let publish = |node: &Server, n: u64| {
        let answer = node.call("publish", json!({ "channel": "hi:a", "data": n }));
        answer["error"].is_null().then(|| answer["result"]["offset"].as_u64().expect("an offset"))
    };
    assert_eq!(publish(&a, 1), Some(1));
    redis.kill();
    until("an error", || publish(&a, 0).is_none().then_some(()));
    until("not ready", || (ready(&a) == 503 && ready(&b) == 503).then_some(()));
    let reply = here.ask(json!({ "subscribe": { "channel": "hi:new" } }));
    assert!(reply["error"]["temporary"] == true, "{reply}");
    redis.restart();
    let mut stored = vec![1];
    for n in 2..30 {
        let node = if n % 2 == 0 { &a } else { &b };
        until("it to be stored", || publish(node, n).map(|_| stored.push(n)));
    }
    for client in [&mut here, &mut there] {
        for n in &stored {
            assert_eq!(client.publication().1, *n);
        }
    }
    until("ready", || (ready(&a) == 200 && ready(&b) == 200).then_some(()));
    for code in [3008, 3010, 3012] {
        assert_eq!((a.disconnects(code), b.disconnects(code)), (0, 0));
    }
}

#[test]
fn an_empty_redis_begins_another_life() {
    let mut redis = RedisProcess::start(&["--appendonly", "no"]);
    let [a, _b] = pair(&redis, &[]);
    let mut client = joined(&a, "hi:a", "1");
    a.publish_kept("hi:a", json!("before"));
    hears(&mut client, &json!("before"));
    redis.kill();
    redis.restart();
    // It is told that something may be missing, and takes part again.
    let told = client.next();
    assert_eq!(told["push"]["unsubscribe"]["code"], 2500, "{told}");
    let reply = until("a new subscription", || {
        let reply = client.ask(json!({ "subscribe": { "channel": "hi:a" } }));
        reply["subscribe"].is_object().then_some(reply)
    });
    assert!(reply["subscribe"]["offset"].is_null(), "{reply}");
    until("a publication", || {
        a.call("publish", json!({ "channel": "hi:a", "data": "after" }))["error"].is_null().then_some(())
    });
    hears(&mut client, &json!("after"));
}

#[test]
fn a_redis_that_stands_still_costs_errors_and_no_client() {
    let redis = RedisProcess::start(&[]);
    let [a, b] = pair(&redis, &[]);
    let mut client = joined(&b, "hi:a", "1");
    redis.signal("-STOP");
    let publish = || a.call("publish", json!({ "channel": "hi:a", "data": 1 }))["error"].is_null();
    until("an error", || (!publish()).then_some(()));
    redis.signal("-CONT");
    until("it to be stored", || publish().then_some(()));
    hears(&mut client, &json!(1));
    redis.cli(&["SCRIPT", "FLUSH"]);
    a.publish_kept("hi:a", json!("flushed"));
    hears(&mut client, &json!("flushed"));
    assert_eq!(b.metric("gannet_node_num_clients"), 1);
}

fn ready(node: &Server) -> u16 {
    Peer::open(node.address).request("GET", "/health/ready", &[], "").expect("an answer").status
}

#[test]
fn health_has_three_sides() {
    let redis = RedisProcess::start(&[]);
    let node = node(&redis, "a", &[]);
    for path in ["/health", "/health/live", "/health/ready"] {
        assert_eq!(Peer::open(node.address).request("GET", path, &[], "").expect("an answer").status, 200, "{path}");
    }
    assert_eq!(node.metric(&format!("gannet_redis_up{{server=\"127.0.0.1:{}\"}}", redis.port)), 1);
}

#[test]
fn a_start_that_cannot_reach_its_engine_says_so() {
    for (options, part) in [
        (["--engine.type=redis", "--engine.redis.address=127.0.0.1:1"], "engine.redis: 127.0.0.1:1: "),
        (["--engine.type=redis", "--engine.redis.address=http://a"], "engine.redis.address: expected redis://"),
    ] {
        let output = crate::server::gannet()
            .args(["--http_server.address=127.0.0.1", "--http_server.port=0", "--client.insecure"])
            .args(options)
            .output()
            .expect("an end");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(part), "{text}");
    }
}

#[test]
fn the_doctor_tells_how_a_redis_is_set() {
    let redis = RedisProcess::start(&["--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru"]);
    let doctor = |address: &str| {
        let options = ["doctor", "--engine", "--engine.type=redis", "--engine.redis.address", address];
        crate::server::gannet().args(options).output().expect("an end")
    };
    let output = doctor(&redis.address());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    for part in ["a round trip takes", "memory: 64 MiB", "change: maxmemory-policy is allkeys-lru", "pubsub 256mb"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let output = doctor("127.0.0.1:1");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("engine.redis: 127.0.0.1:1: "), "{text}");
}
