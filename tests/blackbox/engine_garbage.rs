//! What no node wrote, on the channels and in the keys of a real Redis: it is counted, told of in few lines, and
//! neither delivered nor the end of anything.

use crate::client::{Client, token};
use crate::redis::RedisProcess;
use crate::server::{SECRET, Server, until};
use serde_json::{Value, json};

const NAMESPACES: &str = r#"[
  {"name":"hi","history_size":100,"history_ttl":"10m","force_recovery":true,"allow_subscribe_for_client":true},
  {"name":"pr","presence":true,"join_leave":true,"force_push_join_leave":true,"allow_subscribe_for_client":true}
]"#;
/// Of a publication that nodes write: its data is `1`.
const GOOD: &str = "\\x22\\x011";

fn nodes(redis: &RedisProcess) -> [Server; 2] {
    let address = redis.address();
    let options = [
        "--engine.type=redis",
        "--engine.redis.connect_timeout=10s",
        "--engine.redis.address",
        &address,
        "--channel.namespaces",
        NAMESPACES,
        "--channel.without_namespace.allow_subscribe_for_client",
        "--client.token.hmac_secret_key",
        SECRET,
        "--reactors=2",
        "--health.enabled",
    ];
    let nodes = [(); 2].map(|()| Server::start(&options));
    nodes.iter().for_each(Server::ready);
    nodes
}

fn joined(server: &Server, channel: &str) -> (Client, Value) {
    let mut client = Client::connected_with(server, &token(&json!({ "sub": "1" })));
    let reply = client.ask(json!({ "subscribe": { "channel": channel } }));
    assert!(reply["subscribe"].is_object(), "{reply}");
    (client, reply["subscribe"].clone())
}

/// As redis-cli reads it from a script: quoted, with bytes as `\x..`.
fn say(redis: &RedisProcess, command: &[&str], bytes: &str) {
    let text = command.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(" ");
    redis.script(&format!("{text} \"{bytes}\"\n"));
}

const GARBAGE: [&str; 9] = [
    "__",
    "__x",
    "__p1:1:e",
    "__p1:99999999999999999999:e__x",
    "__d1:9:e:99:x",
    "__d1:1:e:18446744073709551615:x:1:y",
    "__j__\\xff",
    "\\xff\\xff\\xff",
    "\\x22\\xff\\xff\\xff\\xff\\x0f",
];

#[test]
fn garbage_on_the_channels_of_clients_and_nodes_reaches_nobody() {
    let redis = RedisProcess::start(&[]);
    let [a, b] = nodes(&redis);
    let channels = ["plain", "hi:a"];
    let mut clients: Vec<Client> = channels.iter().map(|channel| joined(&b, channel).0).collect();
    let uid = b.call("info", json!({}))["result"]["nodes"][0]["uid"].as_str().expect("a uid").to_owned();
    for bytes in GARBAGE {
        for channel in channels {
            say(&redis, &["PUBLISH", &format!("centrifugo.client.{channel}")], bytes);
        }
        say(&redis, &["PUBLISH", "centrifugo.control"], bytes);
        say(&redis, &["PUBLISH", &format!("centrifugo.node.{uid}")], bytes);
    }
    // What a newer version writes beside what is known: another field, which is passed over.
    say(&redis, &["PUBLISH", "centrifugo.client.plain"], &format!("{GOOD}\\xfa\\x3f\\x01x"));
    a.publish("plain", json!("good"));
    a.publish_kept("hi:a", json!("good"));
    assert_eq!(clients[0].publication().1, 1);
    clients.iter_mut().for_each(|client| assert_eq!(client.publication().1, "good"));
    let malformed = GARBAGE.len() as u64 * channels.len() as u64;
    assert_eq!(b.metric("gannet_redis_messages_malformed_total"), malformed);
    until("a line", || b.logged("messages of PUB/SUB that no node writes").then_some(()));
    assert!(b.lines_with("messages of PUB/SUB that no node writes") < 10, "one for many");
    for node in [&a, &b] {
        let info = || node.call("info", json!({}))["result"]["nodes"].as_array().map(Vec::len);
        until("the nodes to know each other", || (info() == Some(2)).then_some(()));
    }
}

#[test]
fn garbage_in_keys_is_no_history_and_keys_of_another_kind_are_an_error() {
    let redis = RedisProcess::start(&[]);
    let [a, b] = nodes(&redis);
    let (mut client, reply) = joined(&b, "hi:a");
    let epoch = reply["epoch"].as_str().expect("an epoch").to_owned();
    a.publish_kept("hi:a", json!("first"));
    assert_eq!(client.publication().1, "first");
    for (at, bytes) in (2..).zip(GARBAGE) {
        say(&redis, &["XADD", "centrifugo.stream.hi:a", &format!("{at}-0"), "d"], bytes);
    }
    say(&redis, &["XADD", "centrifugo.stream.hi:a", "90-0", "other"], "field");
    redis.cli(&["HSET", "centrifugo.stream.meta.hi:a", "s", "90"]);
    a.publish_kept("hi:a", json!("last"));
    // What is at those places nobody can read: it is missing, and said to be.
    let told = client.next();
    assert_eq!(told["push"]["unsubscribe"]["code"], 2500, "{told}");
    let history = a.call("history", json!({ "channel": "hi:a", "limit": -1 }))["result"].clone();
    let data: Vec<&Value> =
        history["publications"].as_array().expect("a list").iter().map(|one| &one["data"]).collect();
    assert_eq!(data, [&json!("first"), &json!("last")]);
    assert_eq!((&history["offset"], &history["epoch"]), (&json!(91), &json!(epoch)));
    // Keys of another kind: who needs them gets an error, and all others go on.
    redis.cli(&["SET", "centrifugo.stream.meta.hi:w", "text"]);
    redis.cli(&["SET", "centrifugo.presence.data.pr:w", "text"]);
    redis.cli(&["HSET", "centrifugo.stream.meta.hi:n", "e", "e", "s", "no number"]);
    for (method, body) in [
        ("publish", json!({ "channel": "hi:w", "data": 1 })),
        ("history", json!({ "channel": "hi:w", "limit": 1 })),
        ("presence", json!({ "channel": "pr:w" })),
        ("history", json!({ "channel": "hi:n", "limit": 1 })),
    ] {
        assert!(a.call(method, body.clone())["error"]["code"].is_u64(), "{method} {body}");
    }
    let mut other = joined(&a, "hi:b").0;
    b.publish_kept("hi:b", json!("good"));
    assert_eq!(other.publication().1, "good");
    redis.cli(&["DEL", "centrifugo.stream.meta.hi:w"]);
    a.publish_kept("hi:w", json!(1));
}
