//! What channels and clients may have, with channels in an engine and the publisher on another node; and an engine that
//! is reached by TLS, or by two servers.

use crate::certificates::Certificates;
use crate::client::{Client, token};
use crate::peer::Peer;
use crate::redis::{RedisProcess, free_port};
use crate::server::{SECRET, Server, until};
use serde_json::{Value, json};

const NAMESPACES: &str = r#"[
  {"name":"hi","history_size":100,"history_ttl":"10m","force_recovery":true,"allow_subscribe_for_client":true,
   "allow_publish_for_client":true,"allow_tags_filter":true},
  {"name":"full","allow_subscribe_for_client":true,"batch_max_delay":"1h","batch_max_size":10},
  {"name":"chat","allow_subscribe_for_client":true,"allow_publish_for_subscriber":true,"skip_publisher":true},
  {"name":"pr","presence":true,"allow_subscribe_for_client":true}
]"#;

fn node(engine: &[&str], more: &[&str]) -> Server {
    let options = [
        "--engine.type=redis",
        "--engine.redis.connect_timeout=10s",
        "--channel.namespaces",
        NAMESPACES,
        "--channel.without_namespace.allow_subscribe_for_client",
        "--client.token.hmac_secret_key",
        SECRET,
        "--reactors=2",
        "--health.enabled",
    ];
    let node = Server::start(&[&options[..], engine, more].concat());
    node.ready();
    node
}

fn pair(redis: &RedisProcess, more: &[&str]) -> [Server; 2] {
    let address = redis.address();
    [(); 2].map(|()| node(&["--engine.redis.address", &address], more))
}

fn joined(server: &Server, user: &str, subscribe: Value) -> Client {
    let mut client = Client::connected_with(server, &token(&json!({ "sub": user })));
    let reply = client.ask(json!({ "subscribe": subscribe }));
    assert!(reply["subscribe"].is_object(), "{reply}");
    client
}

#[test]
fn filters_look_at_tags_that_come_from_another_node() {
    let redis = RedisProcess::start(&[]);
    let [a, b] = pair(&redis, &[]);
    let german = json!({ "key": "lang", "cmp": "eq", "val": "de" });
    let mut filtered = joined(&b, "1", json!({ "channel": "hi:a", "tf": german }));
    let mut all = joined(&b, "2", json!({ "channel": "hi:a" }));
    for (n, lang) in ["en", "de", "fr", "de"].iter().enumerate() {
        let answer = a.call("publish", json!({ "channel": "hi:a", "data": n, "tags": { "lang": lang } }));
        assert_eq!(answer["result"]["offset"], n + 1, "{answer}");
    }
    assert_eq!([(); 4].map(|()| all.publication().1), [0, 1, 2, 3].map(|n| json!(n)));
    assert_eq!([(); 2].map(|()| filtered.publication().1), [1, 3].map(|n| json!(n)));
    // What was passed over is no gap: the next one comes, and the subscription is what it was.
    a.call("publish", json!({ "channel": "hi:a", "data": 4, "tags": { "lang": "de" } }));
    assert_eq!(filtered.publication().1, 4);
}

#[test]
fn publications_of_all_nodes_leave_together() {
    let redis = RedisProcess::start(&[]);
    let [a, b] = pair(&redis, &[]);
    let mut client = joined(&b, "1", json!({ "channel": "full:a" }));
    client.subscribe("now");
    let publish = |n: u64| [&a, &b][(n % 2) as usize].publish("full:a", json!(n));
    (1..=9).for_each(publish);
    a.publish("now", json!(0));
    assert_eq!(client.publication(), ("now".into(), json!(0)), "nine wait");
    publish(10);
    let mut heard: Vec<u64> = (0..10).map(|_| client.publication().1.as_u64().expect("a number")).collect();
    // Without a stream two nodes have no order between them.
    heard.sort_unstable();
    assert_eq!(heard, (1..=10).collect::<Vec<u64>>());
}

#[test]
fn a_publisher_is_passed_over_on_its_node_alone() {
    let redis = RedisProcess::start(&[]);
    let [a, b] = pair(&redis, &[]);
    let mut clients = [&a, &a, &b].map(|node| joined(node, "1", json!({ "channel": "chat:a" })));
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.ask(json!({ "publish": { "channel": "chat:a", "data": n } }))["publish"], json!({}));
    }
    a.publish("chat:a", json!(9));
    for (n, client) in clients.iter_mut().enumerate() {
        let mut heard = [(); 3].map(|()| client.publication().1.as_u64().expect("a number"));
        heard.sort_unstable();
        let expected: Vec<u64> = (0..3).filter(|other| *other != n as u64).chain([9]).collect();
        assert_eq!(heard[..], expected, "client {n}");
    }
}

#[test]
fn what_is_beyond_a_rate_limit_comes_to_no_node() {
    let redis = RedisProcess::start(&[]);
    let limit = [
        "--client.rate_limit.client_command.enabled",
        "--client.rate_limit.client_command.publish.enabled",
        r#"--client.rate_limit.client_command.publish.buckets=[{"interval":"1h","rate":3}]"#,
    ];
    let [a, b] = pair(&redis, &limit);
    let mut there = joined(&b, "2", json!({ "channel": "hi:a" }));
    let mut here = joined(&a, "1", json!({ "channel": "hi:a" }));
    let replies = [(); 5].map(|()| here.ask(json!({ "publish": { "channel": "hi:a", "data": 1 } })));
    let codes = replies.map(|reply| reply["error"]["code"].as_u64().unwrap_or(0));
    assert_eq!(codes, [0, 0, 0, 111, 111]);
    a.publish_kept("hi:a", json!("last"));
    let heard = [(); 4].map(|()| there.publication().1);
    assert_eq!(heard, [json!(1), json!(1), json!(1), json!("last")]);
}

#[test]
fn presence_may_be_kept_by_another_redis() {
    let mut redis = [RedisProcess::start(&[]), RedisProcess::start(&[])];
    let addresses = redis.each_ref().map(RedisProcess::address);
    let second = ["--presence_manager.enabled", "--presence_manager.type=redis", "--presence_manager.redis.address"];
    let engine = ["--engine.redis.address", &addresses[0]];
    // Whoever came before the second server was reached is named again soon.
    let more = [&second[..], &[addresses[1].as_str(), "--client.presence_update_interval=1s"]].concat();
    let [a, b] = [(); 2].map(|()| node(&engine, &more));
    let _one = joined(&a, "1", json!({ "channel": "pr:a" }));
    let _two = joined(&b, "2", json!({ "channel": "pr:a" }));
    for node in [&a, &b] {
        let stats = || node.call("presence_stats", json!({ "channel": "pr:a" }))["result"].clone();
        until("both to be present", || (stats() == json!({ "num_clients": 2, "num_users": 2 })).then_some(()));
    }
    b.publish_kept("hi:a", json!(1));
    let keys = |at: usize| redis[at].cli(&["KEYS", "*"]);
    assert!(keys(0).contains("stream") && !keys(0).contains("presence"), "{}", keys(0));
    assert!(keys(1).contains("presence") && !keys(1).contains("stream"), "{}", keys(1));
    // A node gets no clients while one of both is away.
    redis[1].kill();
    let ready = || Peer::open(a.address).request("GET", "/health/ready", &[], "").expect("an answer");
    let place = format!("127.0.0.1:{} (presence) cannot be reached", redis[1].port);
    until("it to be missed", || ready().body.contains(&place).then_some(()));
    redis[1].restart();
    a.ready();
}

#[test]
fn an_engine_may_be_reached_by_tls_with_a_certificate() {
    let [authority, server, key, shown, shown_key] = Certificates::new().files("redis-tls");
    let port = free_port().to_string();
    let redis = RedisProcess::start(&[
        "--tls-port",
        &port,
        "--tls-cert-file",
        server.path(),
        "--tls-key-file",
        key.path(),
        "--tls-ca-cert-file",
        authority.path(),
        "--tls-auth-clients",
        "yes",
    ]);
    let address = format!("rediss://localhost:{port}");
    let trusts = ["--engine.redis.address", &address, "--engine.redis.tls.server_ca_pem", authority.path()];
    let shows = ["--engine.redis.tls.cert_pem", shown.path(), "--engine.redis.tls.key_pem", shown_key.path()];
    let nodes = [(); 2].map(|()| node(&trusts, &shows));
    let mut client = joined(&nodes[1], "1", json!({ "channel": "hi:a" }));
    nodes[0].publish_kept("hi:a", json!("by TLS"));
    assert_eq!(client.publication().1, "by TLS");
    assert!(redis.cli(&["INFO", "clients"]).contains("connected_clients:"));
    // Without a certificate, and without the authority.
    for engine in [&trusts[..], &[&trusts[..2], &shows].concat()] {
        let output = crate::server::gannet()
            .args(["--http_server.address=127.0.0.1", "--http_server.port=0", "--client.insecure"])
            .arg("--engine.type=redis")
            .args(engine)
            .output()
            .expect("an end");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains("engine.redis: localhost:"), "{text}");
    }
}
