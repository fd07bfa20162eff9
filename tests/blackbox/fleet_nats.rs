//! Two nodes over one NATS: what happens on one is seen on the other, at most once; a NATS that fails costs no client.

use crate::certificates::Certificates;
use crate::client::{Client, token};
use crate::nats::{Bystander, NatsProcess};
use crate::peer::Peer;
use crate::redis::RedisProcess;
use crate::server::{SECRET, Server, acquainted, gannet, until};
use serde_json::{Value, json};

const NAMESPACES: &str = r#"[
  {"name":"pr","presence":true,"join_leave":true,"force_push_join_leave":true,"allow_subscribe_for_client":true,
   "allow_presence_for_client":true},
  {"name":"own","engine":"memory","history_size":10,"history_ttl":"10m","force_recovery":true,
   "allow_subscribe_for_client":true}
]"#;

fn node(nats: &NatsProcess, name: &str, more: &[&str]) -> Server {
    node_at(&nats.url(), name, more)
}

fn node_at(url: &str, name: &str, more: &[&str]) -> Server {
    let options = [
        "--engine.type=nats",
        "--engine.nats.url",
        url,
        "--channel.namespaces",
        NAMESPACES,
        "--channel.without_namespace.allow_subscribe_for_client",
        "--channel.without_namespace.allow_publish_for_client",
        "--channel.without_namespace.allow_history_for_client",
        "--client.token.hmac_secret_key",
        SECRET,
        "--node.name",
        name,
        "--reactors=2",
        "--health.enabled",
    ];
    // A host that is busy is not a server that stands still.
    let patience = ["--engine.nats.write_timeout=20s", "--engine.nats.dial_timeout=20s"];
    let patience = if more.iter().any(|option| option.contains("timeout")) { &[][..] } else { &patience };
    let node = Server::start(&[&options[..], patience, more].concat());
    // It serves before its first connection to the engine is there.
    node.ready();
    node
}

fn pair(nats: &NatsProcess, more: &[&str]) -> [Server; 2] {
    acquainted(["a", "b"], |name| node(nats, name, more))
}

fn joined(server: &Server, channel: &str, user: &str) -> Client {
    let mut client = Client::connected_as(server, user);
    let ask = json!({ "subscribe": { "channel": channel } });
    until("a subscription", || client.ask(ask.clone())["subscribe"].is_object().then_some(()));
    client
}

fn ready(node: &Server) -> u16 {
    Peer::open(node.address).request("GET", "/health/ready", &[], "").expect("an answer").status
}

/// Publishes until it is taken.
fn publish(node: &Server, channel: &str, data: &Value) {
    until("it to be published", || {
        node.call("publish", json!({ "channel": channel, "data": data }))["error"].is_null().then_some(())
    });
}

/// Publications until one has this data.
fn hears(client: &mut Client, data: &Value) {
    while client.publication().1 != *data {}
}

#[test]
fn publications_cross_between_nodes_once_and_in_order() {
    let nats = NatsProcess::start("");
    let [a, b] = pair(&nats, &[]);
    let (mut here, mut there) = (joined(&a, "plain", "1"), joined(&b, "plain", "2"));
    for n in 0..50 {
        a.publish("plain", json!(n));
    }
    b.publish("plain", json!("by the API of b"));
    let reply = here.ask(json!({ "publish": { "channel": "plain", "data": "by a client" } }));
    assert!(reply["publish"].is_object(), "{reply}");
    for client in [&mut here, &mut there] {
        for n in 0..50 {
            assert_eq!(client.publication(), ("plain".into(), json!(n)));
        }
        for expected in ["by the API of b", "by a client"] {
            assert_eq!(client.publication(), ("plain".into(), json!(expected)));
        }
    }
    assert_eq!(a.metric("gannet_nats_messages_malformed_total"), 0);
    // What lives in memory is each node's own, with its history.
    assert_eq!(a.call("publish", json!({ "channel": "own:a", "data": 1 }))["result"]["offset"], 1);
    assert_eq!(b.call("publish", json!({ "channel": "own:a", "data": 1 }))["result"]["offset"], 1);
}

#[test]
fn who_is_present_is_known_of_all_nodes() {
    let nats = NatsProcess::start("");
    let [a, b] = pair(&nats, &[]);
    let mut here = joined(&a, "pr:a", "1");
    assert_eq!(here.next()["push"]["join"]["info"]["user"], "1", "its own");
    let there = joined(&b, "pr:a", "2");
    assert_eq!(here.next()["push"]["join"]["info"]["user"], "2");
    for node in [&a, &b] {
        let stats = || node.call("presence_stats", json!({ "channel": "pr:a" }))["result"].clone();
        until("both to be counted", || (stats() == json!({ "num_clients": 2, "num_users": 2 })).then_some(()));
        let presence = || node.call("presence", json!({ "channel": "pr:a" }))["result"]["presence"].clone();
        until("both to be listed", || (presence().as_object()?.len() == 2).then_some(()));
    }
    let ask = json!({ "presence": { "channel": "pr:a" } });
    let mut presence = || here.ask(ask.clone())["presence"]["presence"].clone();
    until("both to be told", || (presence().as_object()?.len() == 2).then_some(()));
    drop(there);
    assert_eq!(here.next()["push"]["leave"]["info"]["user"], "2");
    let gone = || (b.call("presence_stats", json!({ "channel": "pr:a" }))["result"]["num_clients"] == 1).then_some(());
    until("it to be gone", gone);
}

#[test]
fn presence_may_be_kept_in_redis() {
    let (nats, redis) = (NatsProcess::start(""), RedisProcess::start(&[]));
    let address = redis.address();
    let presence =
        ["--presence_manager.enabled", "--presence_manager.type=redis", "--presence_manager.redis.address", &address];
    let [a, b] = pair(&nats, &presence);
    let _here = joined(&a, "pr:a", "1");
    let stats = || b.call("presence_stats", json!({ "channel": "pr:a" }))["result"]["num_clients"].clone();
    until("it to be known", || (stats() == 1).then_some(()));
    assert_eq!(redis.cli(&["HLEN", "centrifugo.presence.data.pr:a"]).trim(), "1");
    assert_eq!((ready(&a), ready(&b)), (200, 200));
}

#[test]
fn what_one_node_is_asked_all_nodes_do() {
    let nats = NatsProcess::start("");
    let [a, mut b] = pair(&nats, &["--shutdown.delay=0s", "--shutdown.spread=0s"]);
    let mut client = Client::connected_as(&b, "7");
    a.call("subscribe", json!({ "user": "7", "channel": "s" }));
    assert_eq!(client.next()["push"]["channel"], "s");
    let _other = joined(&a, "s", "8");
    for node in [&a, &b] {
        let channels = node.call("channels", json!({}))["result"]["channels"].clone();
        assert_eq!(channels, json!({ "s": { "num_clients": 2 } }), "of both nodes");
    }
    publish(&a, "s", &json!(1));
    hears(&mut client, &json!(1));
    a.call("refresh", json!({ "user": "7", "expire_at": 4_000_000_000u64 }));
    assert!(client.next()["push"]["refresh"].is_object());
    a.call("unsubscribe", json!({ "user": "7", "channel": "s" }));
    assert_eq!(client.next()["push"]["unsubscribe"]["code"], 2000);
    a.call("disconnect", json!({ "user": "7", "disconnect": { "code": 4321, "reason": "away" } }));
    assert_eq!(client.closed(), 4321);
    b.signal(rustix::process::Signal::TERM);
    b.exit();
    assert_eq!(a.fleet(), ["a"], "it said goodbye");
}

#[test]
fn what_nats_cannot_do_is_said() {
    let nats = NatsProcess::start("");
    let a = node(&nats, "a", &[]);
    for method in ["history", "history_remove"] {
        let answer = a.call(method, json!({ "channel": "plain", "limit": 1 }));
        assert_eq!(answer["error"]["code"], 108, "{method}: {answer}");
    }
    let mut client = joined(&a, "plain", "1");
    assert_eq!(client.refused(json!({ "history": { "channel": "plain", "limit": 1 } })), 108);
    for channel in ["a b", "a..b", "a.", "a.*", "a.>", "a\u{7f}"] {
        assert_eq!(client.refused(json!({ "subscribe": { "channel": channel } })), 107, "{channel}");
        assert_eq!(a.call("publish", json!({ "channel": channel, "data": 1 }))["error"]["code"], 107, "{channel}");
    }
    let long = "x".repeat(1 << 20);
    assert_eq!(a.call("publish", json!({ "channel": "plain", "data": long }))["error"]["code"], 106);
    publish(&a, "plain", &json!("after"));
    hears(&mut client, &json!("after"));
    let check = |options: &[&str]| {
        let output = gannet().args(["check", "--client.insecure", "--engine.type=nats"]).args(options).output();
        let output = output.expect("an end");
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
    };
    let said = check(&["--channel.without_namespace.history_size=1", "--channel.without_namespace.history_ttl=1m"]);
    assert!(said.contains("channel.without_namespace.history_size: NATS keeps no history"), "{said}");
}

/// Lists that are longer than a message may be: who is present is told in parts, and channels are refused.
#[test]
fn long_answers_cost_no_connection() {
    let nats = NatsProcess::start("max_payload: 131072");
    let [a, b] = pair(&nats, &["--client.channel_limit=1000"]);
    let about = "x".repeat(10_000);
    let member = |user: u32| {
        let claims = json!({ "sub": user.to_string(), "info": { "about": about } });
        let mut client = Client::connected_with(&b, &token(&claims));
        let ask = json!({ "subscribe": { "channel": "pr:a" } });
        until("a subscription", || client.ask(ask.clone())["subscribe"].is_object().then_some(()));
        client
    };
    let mut members: Vec<Client> = (0..20).map(member).collect();
    let stats = || a.call("presence_stats", json!({ "channel": "pr:a" }))["result"].clone();
    until("all to be counted", || (stats() == json!({ "num_clients": 20, "num_users": 20 })).then_some(()));
    let found = a.call("presence", json!({ "channel": "pr:a" }))["result"]["presence"].clone();
    assert_eq!(found.as_object().expect("clients").len(), 20);

    for at in 0..600 {
        let channel = format!("{at:0>240}");
        let reply = members[0].ask(json!({ "subscribe": { "channel": channel } }));
        assert!(reply["subscribe"].is_object(), "{reply}");
    }
    assert_eq!(a.call("channels", json!({}))["error"]["code"], 106, "limit exceeded");
    assert_eq!(b.call("channels", json!({}))["result"]["channels"].as_object().expect("channels").len(), 601);
    let some = a.call("channels", json!({ "pattern": "*99" }))["result"]["channels"].clone();
    assert_eq!(some.as_object().expect("channels").len(), 6, "{some}");
    assert_eq!(b.metric("gannet_nats_errors_total{cause=\"size\"}"), 1);
    for node in [&a, &b] {
        assert_eq!(node.metric("gannet_nats_reconnects_total"), 0);
    }
}

/// A publication and a join as Centrifugo writes them.
const PUBLISHED: &[u8] = b"\x12\x05plain\"\x19\"\x08{\"n\": 1}:\x06\n\x01k\x12\x01vH\xa1\xde\xf8\xb4\xa24";
const JOINED: &[u8] = b"\x12\x04pr:a*(\n&\x12$34e544ed-55e8-4b20-bb91-3bf6ff185759";

#[test]
fn messages_are_those_of_centrifugo_and_others_are_nobodys() {
    let nats = NatsProcess::start("");
    let a = node(&nats, "a", &[]);
    let mut bystander = Bystander::join(&nats);
    let (mut plain, mut pr) = (joined(&a, "plain", "1"), joined(&a, "pr:a", "2"));
    assert!(pr.next()["push"]["join"].is_object(), "its own");
    let garbage: [&[u8]; 5] = [b"", b"\xff\xff", b"{\"n\":1}", b"\x12\x05other\"\x05\"\x03{}x", b"\x12\x05plain"];
    for bytes in garbage {
        bystander.publish("centrifugo.client.plain", bytes);
        bystander.publish("centrifugo.control", bytes);
    }
    bystander.publish("centrifugo.client.plain", PUBLISHED);
    let push = plain.next()["push"].clone();
    assert_eq!(push["pub"], json!({ "data": { "n": 1 }, "tags": { "k": "v" } }), "{push}");
    assert_eq!(a.metric("gannet_nats_messages_malformed_total"), garbage.len() as u64);
    bystander.publish("centrifugo.client.pr:a", JOINED);
    assert_eq!(pr.next()["push"]["join"]["info"]["client"], "34e544ed-55e8-4b20-bb91-3bf6ff185759");
    bystander.subscribe("centrifugo.client.>");
    a.call("publish", json!({ "channel": "plain", "data": { "n": 1 }, "tags": { "k": "v" } }));
    let (subject, bytes) = bystander.next();
    assert_eq!(subject, "centrifugo.client.plain");
    // Up to the time; the data is as compact as the client wrote it.
    assert!(bytes.starts_with(b"\x12\x05plain\"\x18\"\x07{\"n\":1}:\x06\n\x01k\x12\x01vH"), "{bytes:?}");
    assert_eq!(bytes.len(), PUBLISHED.len() - 1);
}

#[test]
fn wildcards_hear_all_that_fits() {
    let nats = NatsProcess::start("");
    let [a, b] = pair(&nats, &["--engine.nats.allow_wildcards"]);
    let (mut one, mut all) = (joined(&a, "news.sport", "1"), joined(&b, "news.>", "2"));
    a.publish("news.sport", json!(1));
    a.publish("news.art.old", json!(2));
    let push = all.next()["push"].clone();
    assert_eq!((&push["channel"], &push["pub"]["channel"]), (&json!("news.>"), &json!("news.sport")), "{push}");
    let push = all.next()["push"].clone();
    assert_eq!((&push["pub"]["data"], &push["pub"]["channel"]), (&json!(2), &json!("news.art.old")), "{push}");
    a.publish("news.sport", json!(3));
    for n in [1, 3] {
        assert_eq!(one.publication(), ("news.sport".into(), json!(n)));
    }
    assert_eq!(a.call("publish", json!({ "channel": "news.*", "data": 1 }))["error"]["code"], 107);
}

#[test]
fn raw_messages_are_data_and_nothing_else() {
    let nats = NatsProcess::start("");
    let raw = [
        "--engine.nats.raw_mode.enabled",
        "--engine.nats.raw_mode.prefix=raw.",
        "--engine.nats.raw_mode.channel_replacements={\":\":\".\"}",
        "--engine.nats.allow_wildcards",
    ];
    let [a, b] = pair(&nats, &raw);
    let mut bystander = Bystander::join(&nats);
    let (mut client, mut wild) = (joined(&a, "pr:x", "1"), joined(&b, "more.*", "2"));
    bystander.subscribe("raw.>");
    bystander.publish("raw.pr.x", b"no JSON");
    bystander.publish("raw.pr.x", b"[\"from\",1]");
    let push = client.next()["push"].clone();
    assert_eq!(push, json!({ "channel": "pr:x", "pub": { "data": ["from", 1], "channel": "pr.x" } }));
    until("it to be counted", || (a.metric("gannet_nats_messages_malformed_total") == 1).then_some(()));
    bystander.publish("raw.more.y", b"2");
    assert_eq!(wild.next()["push"]["pub"], json!({ "data": 2, "channel": "more.y" }));
    b.publish("pr:x", json!({ "to": 1 }));
    assert_eq!(client.publication().1, json!({ "to": 1 }));
    let heard: Vec<(String, Vec<u8>)> = (0..4).map(|_| bystander.next()).collect();
    assert_eq!(heard[3], ("raw.pr.x".to_owned(), b"{\"to\":1}".to_vec()), "{heard:?}");
}

/// Clients stay, who publishes is told, and delivery goes on.
#[test]
fn a_nats_that_crashes_and_comes_back_costs_no_client() {
    let mut nats = NatsProcess::start("");
    let [a, b] = pair(&nats, &[]);
    let (mut here, mut there) = (joined(&a, "plain", "1"), joined(&b, "plain", "2"));
    nats.kill();
    let refused = || a.call("publish", json!({ "channel": "plain", "data": 0 }))["error"]["code"] == 100;
    until("an error", || refused().then_some(()));
    until("not ready", || (ready(&a) == 503 && ready(&b) == 503).then_some(()));
    let reply = here.ask(json!({ "subscribe": { "channel": "new" } }));
    assert!(reply["error"]["temporary"] == true, "{reply}");
    nats.restart();
    for (n, node) in [&a, &b].into_iter().enumerate() {
        until("ready", || (ready(node) == 200).then_some(()));
        publish(node, "plain", &json!(n));
    }
    // Both listen again before either is sure to be heard by the other.
    for client in [&mut here, &mut there] {
        until("it to be heard", || {
            a.publish("plain", json!("mark"));
            (client.publication().1 == "mark").then_some(())
        });
    }
    assert!(here.ask(json!({ "subscribe": { "channel": "new" } }))["subscribe"].is_object());
    for code in [3008, 3010, 3012] {
        assert_eq!((a.disconnects(code), b.disconnects(code)), (0, 0));
    }
}

#[test]
fn a_nats_that_stands_still_costs_errors_and_no_client() {
    let nats = NatsProcess::start("");
    let [a, b] = pair(&nats, &["--engine.nats.write_timeout=500ms"]);
    let mut client = joined(&b, "plain", "1");
    nats.signal("-STOP");
    let refused = || a.call("publish", json!({ "channel": "plain", "data": 1 }))["error"]["code"] == 100;
    until("an error", || refused().then_some(()));
    nats.signal("-CONT");
    publish(&a, "plain", &json!("after"));
    until("it to be heard", || {
        a.publish("plain", json!("mark"));
        (client.publication().1 == "mark").then_some(())
    });
    assert_eq!(b.metric("gannet_node_num_clients"), 1);
}

#[test]
fn who_may_not_is_told_so() {
    let nats = NatsProcess::start(
        "authorization { users: [\n\
         { user: me, password: \"p@ss\", permissions: { publish: { deny: \"*.client.deaf\" }, \
           subscribe: { deny: \"*.client.mute\" } } }\n] }",
    );
    let start = |login: &str| {
        let url = format!("nats://{login}127.0.0.1:{}", nats.port);
        gannet()
            .args(["--http_server.address=127.0.0.1", "--http_server.port=0", "--client.insecure"])
            .args(["--engine.type=nats", "--engine.nats.url", &url])
            .output()
            .expect("an end")
    };
    for login in ["", "me:hush@", "nobody:p%40ss@"] {
        let output = start(login);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains("Authorization Violation"), "{text}");
        assert!(text.contains("engine.nats: 127.0.0.1:") && !text.contains("hush"), "{text}");
    }
    let url = format!("nats://me:p%40ss@127.0.0.1:{}", nats.port);
    let a = node_at(&url, "a", &[]);
    let code = |channel: &str| a.call("publish", json!({ "channel": channel, "data": 1 }))["error"]["code"].clone();
    assert_eq!((code("deaf"), code("plain")), (json!(100), Value::Null));
    let mut client = joined(&a, "plain", "1");
    let reply = client.ask(json!({ "subscribe": { "channel": "mute" } }));
    assert_eq!(reply["error"]["code"], 100, "{reply}");
    publish(&a, "plain", &json!("on"));
    hears(&mut client, &json!("on"));
    assert!(a.metric("gannet_nats_errors_total{cause=\"permission\"}") >= 2);
    let doctor = gannet().args(["doctor", "--engine", "--engine.type=nats", "--engine.nats.url", &url]).output();
    let text = String::from_utf8_lossy(&doctor.expect("an end").stdout).into_owned();
    assert!(text.contains("NATS 2.") && text.contains("max_payload: 1024 KiB"), "{text}");
}

/// Engines beside memory, each for its namespace.
#[test]
fn a_namespace_names_its_engine() {
    let (nats, redis) = (NatsProcess::start(""), RedisProcess::start(&[]));
    let (url, address) = (nats.url(), redis.address());
    let namespaces = r#"[{"name":"re","engine":"redis","history_size":10,"history_ttl":"10m","presence":true},
        {"name":"na","engine":"nats","presence":true}, {"name":"me","history_size":10,"history_ttl":"10m"}]"#;
    let node = |name: &str| {
        let options =
            ["--engine.nats.url", &url, "--engine.redis.address", &address, "--channel.namespaces", namespaces];
        let more = ["--node.name", name, "--reactors=2", "--client.insecure", "--health.enabled"];
        let node = Server::start(&[&options[..], &more].concat());
        node.ready();
        node
    };
    let (a, b) = (node("a"), node("b"));
    until("the nodes to know each other", || (a.fleet().len() == 2 && b.fleet().len() == 2).then_some(()));
    let offset = |node: &Server, channel: &str| {
        node.call("publish", json!({ "channel": channel, "data": 1 }))["result"]["offset"].clone()
    };
    assert_eq!((offset(&a, "re:1"), offset(&b, "re:1")), (json!(1), json!(2)), "one history");
    assert_eq!((offset(&a, "me:1"), offset(&b, "me:1")), (json!(1), json!(1)), "each its own");
    assert_eq!(offset(&a, "na:1"), Value::Null, "none");
    assert_eq!(redis.cli(&["XLEN", "centrifugo.stream.re:1"]).trim(), "2");
    assert_eq!((a.metric("gannet_redis_calls_total") > 0, a.metric("gannet_nats_calls_total") > 0), (true, true));
}

#[test]
fn a_nats_that_demands_tls_gets_it() {
    let [authority, server, key, shown, shown_key] = Certificates::new().files("nats-tls");
    let nats = NatsProcess::start(&format!(
        "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: true }}",
        server.path(),
        key.path(),
        authority.path()
    ));
    let url = format!("nats://localhost:{}", nats.port);
    let trusts = ["--engine.nats.tls.enabled", "--engine.nats.tls.server_ca_pem", authority.path()];
    let shows = ["--engine.nats.tls.cert_pem", shown.path(), "--engine.nats.tls.key_pem", shown_key.path()];
    let a = node_at(&url, "a", &[&trusts[..], &shows].concat());
    let mut client = joined(&a, "plain", "1");
    publish(&a, "plain", &json!("by TLS"));
    hears(&mut client, &json!("by TLS"));
    for less in [&trusts[..], &[]] {
        let output = gannet()
            .args(["--http_server.address=127.0.0.1", "--http_server.port=0", "--client.insecure"])
            .args(["--engine.type=nats", "--engine.nats.url", &url])
            .args(less)
            .output()
            .expect("an end");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains("engine.nats: localhost:"), "{text}");
    }
}
