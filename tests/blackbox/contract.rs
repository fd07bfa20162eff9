//! One table of what channels do, whatever keeps them: memory, NATS, and Redis in each of its forms, on two nodes.

use crate::client::{Client, token};
use crate::nats::NatsProcess;
use crate::redis::{RedisProcess, SentinelProcess, cluster};
use crate::server::{SECRET, Server, until};
use serde_json::{Value, json};
use std::time::Duration;

const NAMESPACES: &str = r#"[
  {"name":"hi","history_size":10,"history_ttl":"10m","force_recovery":true,"allow_subscribe_for_client":true,
   "allow_publish_for_client":true,"allow_history_for_client":true,"allowed_delta_types":["fossil"]},
  {"name":"brief","history_size":10,"history_ttl":"1s","history_meta_ttl":"2s","force_recovery":true},
  {"name":"last","history_size":10,"history_ttl":"10m","force_recovery":true,"force_recovery_mode":"cache",
   "allow_subscribe_for_client":true},
  {"name":"pr","presence":true,"join_leave":true,"force_push_join_leave":true,"allow_subscribe_for_client":true,
   "allow_presence_for_client":true}
]"#;

/// What a store has beyond publications and presence. One that keeps nothing takes part with neither.
#[derive(Clone, Copy)]
struct Can {
    history: bool,
    versions: bool,
}

const ALL: Can = Can { history: true, versions: true };

/// Nodes over one store: what is written by the one is read by the other. Memory has one node.
struct Fleet {
    nodes: Vec<Server>,
    can: Can,
}

impl Fleet {
    fn start(count: usize, can: Can, engine: &[&str]) -> Fleet {
        let mut namespaces: Value = serde_json::from_str(NAMESPACES).expect("JSON");
        let all = namespaces.as_array_mut().expect("a list");
        all.retain(|one| can.history || one["history_size"].is_null());
        let namespaces = namespaces.to_string();
        let options = [
            "--channel.namespaces",
            &namespaces,
            "--channel.without_namespace.allow_subscribe_for_client",
            "--channel.without_namespace.allow_publish_for_client",
            "--client.token.hmac_secret_key",
            SECRET,
            "--reactors=2",
            "--health.enabled",
        ];
        let nodes: Vec<Server> = (0..count).map(|_| Server::with(&options, engine)).collect();
        nodes.iter().for_each(Server::ready);
        let known = |node: &Server| node.call("info", json!({}))["result"]["nodes"].as_array().map(Vec::len);
        until("the nodes to know each other", || nodes.iter().all(|node| known(node) == Some(count)).then_some(()));
        Fleet { nodes, can }
    }

    fn a(&self) -> &Server {
        &self.nodes[0]
    }

    fn b(&self) -> &Server {
        &self.nodes[self.nodes.len() - 1]
    }

    /// A publication by a node of either kind in turn; its result.
    fn publish(&self, n: u64, more: Value) -> Value {
        let mut body = json!({ "data": n });
        more.as_object().expect("options").iter().for_each(|(key, value)| body[key] = value.clone());
        let node = if n.is_multiple_of(2) { self.a() } else { self.b() };
        let answer = node.call("publish", body);
        assert!(answer["error"].is_null(), "{answer}");
        answer["result"].clone()
    }
}

fn joined(server: &Server, user: &str, subscribe: Value) -> (Client, Value) {
    let info = json!({ "sub": user, "info": { "of": user } });
    let mut client = Client::connected_with(server, &token(&info));
    let reply = client.ask(json!({ "subscribe": subscribe }));
    assert!(reply["subscribe"].is_object(), "{reply}");
    (client, reply["subscribe"].clone())
}

fn offsets(list: &Value) -> Vec<u64> {
    list.as_array().into_iter().flatten().map(|one| one["offset"].as_u64().expect("an offset")).collect()
}

/// The table.
fn holds(fleet: &Fleet) {
    publications_reach_all_with_what_they_carry(fleet);
    presence_is_who_is_there(fleet);
    if fleet.can.history {
        history_is_read_in_all_forms(fleet);
        who_recovers_gets_what_it_missed_or_is_told(fleet);
        the_latest_will_do_for_a_cache(fleet);
        a_key_publishes_once(fleet);
        deltas_are_made_of_the_one_before(fleet);
        what_is_old_is_forgotten(fleet);
    }
    if fleet.can.versions {
        a_version_publishes_once(fleet);
    }
}

fn publications_reach_all_with_what_they_carry(fleet: &Fleet) {
    let (mut one, reply) = joined(fleet.a(), "1", json!({ "channel": "plain" }));
    let (mut two, _) = joined(fleet.b(), "2", json!({ "channel": "plain" }));
    assert_eq!(reply, json!({}));
    let tags = json!({ "channel": "plain", "tags": { "k": "v" } });
    assert_eq!(fleet.publish(1, tags), json!({}));
    assert_eq!(one.ask(json!({ "publish": { "channel": "plain", "data": [2] } }))["publish"], json!({}));
    let client = |push: &Value| push["push"]["pub"]["info"]["client"].as_str().map(str::len);
    for client_here in [&mut one, &mut two] {
        let first = json!({ "channel": "plain", "pub": { "data": 1, "tags": { "k": "v" } } });
        assert_eq!(client_here.next()["push"], first);
        let second = client_here.next();
        assert_eq!((&second["push"]["pub"]["data"], client(&second)), (&json!([2]), Some(36)), "{second}");
        let info = &second["push"]["pub"]["info"];
        assert_eq!((&info["user"], &info["conn_info"]), (&json!("1"), &json!({ "of": "1" })));
    }
}

fn presence_is_who_is_there(fleet: &Fleet) {
    let (mut one, _) = joined(fleet.a(), "1", json!({ "channel": "pr:a" }));
    assert_eq!(one.next()["push"]["join"]["info"]["user"], "1", "its own");
    let (mut two, _) = joined(fleet.b(), "2", json!({ "channel": "pr:a" }));
    assert_eq!(two.next()["push"]["join"]["info"]["user"], "2", "its own");
    let (mut three, _) = joined(fleet.b(), "2", json!({ "channel": "pr:a" }));
    let joined: Vec<Value> = (0..2).map(|_| one.next()["push"]["join"]["info"].clone()).collect();
    assert!(joined.iter().all(|info| info["user"] == "2" && info["conn_info"] == json!({ "of": "2" })), "{joined:?}");
    let three_is = |push: Value| push["push"]["join"]["info"]["client"] == joined[1]["client"];
    assert!(three_is(three.next()), "its own");
    let counts = |clients: u64, users: u64| json!({ "num_clients": clients, "num_users": users });
    for node in [fleet.a(), fleet.b()] {
        let channel = || json!({ "channel": "pr:a" });
        assert_eq!(node.call("presence_stats", channel())["result"], counts(3, 2));
        let listed = node.call("presence", channel())["result"]["presence"].clone();
        let listed = listed.as_object().expect("clients");
        assert!(listed.len() == 3 && joined.iter().all(|info| listed[info["client"].as_str().expect("text")] == *info));
    }
    assert_eq!(three.ask(json!({ "presence_stats": { "channel": "pr:a" } }))["presence_stats"], counts(3, 2));
    drop(two);
    for client in [&mut one, &mut three] {
        assert_eq!(client.next()["push"]["leave"]["info"], joined[0]);
    }
    assert_eq!(three.ask(json!({ "unsubscribe": { "channel": "pr:a" } }))["unsubscribe"], json!({}));
    assert_eq!(one.next()["push"]["leave"]["info"], joined[1]);
    for node in [fleet.a(), fleet.b()] {
        let left = || node.call("presence_stats", json!({ "channel": "pr:a" }))["result"].clone();
        until("the others to be gone", || (left() == counts(1, 1)).then_some(()));
    }
}

fn history_is_read_in_all_forms(fleet: &Fleet) {
    let of = |more: Value| {
        let mut body = json!({ "channel": "hi:h" });
        more.as_object().expect("options").iter().for_each(|(key, value)| body[key] = value.clone());
        body
    };
    let none = fleet.a().call("history", of(json!({ "limit": -1 })))["result"].clone();
    let epoch = none["epoch"].as_str().expect("an epoch").to_owned();
    assert_eq!(
        none,
        json!({ "publications": [], "offset": 0, "epoch": epoch }),
        "it has an epoch from the first look on"
    );
    for n in 1..=12 {
        assert_eq!(fleet.publish(n, json!({ "channel": "hi:h" })), json!({ "offset": n, "epoch": epoch }));
    }
    let since = |offset: u64| json!({ "offset": offset, "epoch": epoch });
    for (query, expected) in [
        (json!({}), vec![]),
        (json!({ "limit": -1 }), (3..=12).collect::<Vec<u64>>()),
        (json!({ "limit": 2 }), vec![3, 4]),
        (json!({ "limit": 2, "reverse": true }), vec![12, 11]),
        (json!({ "limit": -1, "since": since(10) }), vec![11, 12]),
        (json!({ "limit": 5, "since": since(12) }), vec![]),
        (json!({ "limit": 3, "since": since(1) }), vec![3, 4, 5]),
        (json!({ "limit": 9, "since": since(5), "reverse": true }), vec![4, 3]),
        (json!({ "limit": 9, "since": { "offset": 10, "epoch": "" } }), vec![11, 12]),
    ] {
        for node in [fleet.a(), fleet.b()] {
            let found = node.call("history", of(query.clone()))["result"].clone();
            assert_eq!((offsets(&found["publications"]), &found["offset"]), (expected.clone(), &json!(12)), "{query}");
            assert!(found["publications"].as_array().expect("a list").iter().all(|one| one["data"] == one["offset"]));
        }
    }
    let other = of(json!({ "limit": 1, "since": { "offset": 1, "epoch": "other" } }));
    assert_eq!(fleet.b().call("history", other)["error"]["code"], 112);
    assert_eq!(fleet.a().call("history_remove", of(json!({})))["result"], json!({}));
    let found = fleet.b().call("history", of(json!({ "limit": -1 })))["result"].clone();
    assert_eq!(found, json!({ "publications": [], "offset": 12, "epoch": epoch }), "offset and epoch stay");
    assert_eq!(fleet.publish(13, json!({ "channel": "hi:h" }))["offset"], 13);
}

fn who_recovers_gets_what_it_missed_or_is_told(fleet: &Fleet) {
    for n in 1..=12 {
        fleet.publish(n, json!({ "channel": "hi:r" }));
    }
    let (mut live, reply) = joined(fleet.a(), "1", json!({ "channel": "hi:r" }));
    let epoch = reply["epoch"].as_str().expect("an epoch").to_owned();
    let at = json!({ "recoverable": true, "positioned": true, "epoch": epoch, "offset": 12 });
    assert_eq!(reply, at);
    // A channel without publications is another, in a life of its own.
    let (_other, reply) = joined(fleet.a(), "1", json!({ "channel": "hi:other" }));
    assert!(reply["offset"].is_null() && reply["epoch"] != epoch.as_str(), "{reply}");
    for (offset, which, expected) in [
        (12, epoch.as_str(), Some(vec![])),
        (5, &epoch, Some((6..=12).collect::<Vec<u64>>())),
        (2, &epoch, Some((3..=12).collect())),
        (1, &epoch, None),
        (13, &epoch, None),
        (12, "other", None),
    ] {
        for node in [fleet.a(), fleet.b()] {
            let ask = json!({ "channel": "hi:r", "recover": true, "offset": offset, "epoch": which });
            let (_, reply) = joined(node, "2", ask);
            let recovered = (reply["recovered"] == true).then(|| offsets(&reply["publications"]));
            assert_eq!((&recovered, &reply["was_recovering"]), (&expected, &json!(true)), "{offset} {which}: {reply}");
            // Whoever recovers begins where it was.
            let begins_at = if expected.is_some() { offset } else { 12 };
            assert_eq!((&reply["epoch"], &reply["offset"]), (&json!(epoch), &json!(begins_at)));
        }
    }
    fleet.publish(13, json!({ "channel": "hi:r" }));
    assert_eq!(live.next()["push"], json!({ "channel": "hi:r", "pub": { "data": 13, "offset": 13 } }));
}

fn the_latest_will_do_for_a_cache(fleet: &Fleet) {
    let (_, reply) = joined(fleet.a(), "1", json!({ "channel": "last:a", "recover": true }));
    assert!(reply["recovered"].is_null(), "there is none: {reply}");
    for n in 1..=3 {
        fleet.publish(n, json!({ "channel": "last:a" }));
    }
    for node in [fleet.a(), fleet.b()] {
        let (_, reply) = joined(node, "1", json!({ "channel": "last:a", "recover": true }));
        assert_eq!((&reply["recovered"], offsets(&reply["publications"])), (&json!(true), vec![3]), "{reply}");
    }
}

fn a_key_publishes_once(fleet: &Fleet) {
    for channel in ["hi:k", "keyed"] {
        let (mut client, _) = joined(fleet.b(), "1", json!({ "channel": channel }));
        let key = json!({ "channel": channel, "idempotency_key": "K" });
        let first = fleet.publish(1, key.clone());
        assert_eq!((1..4).map(|n| fleet.publish(n, key.clone())).collect::<Vec<_>>(), [(); 3].map(|()| first.clone()));
        fleet.publish(9, json!({ "channel": channel }));
        assert_eq!([client.publication().1, client.publication().1], [json!(1), json!(9)], "{channel}");
    }
}

fn a_version_publishes_once(fleet: &Fleet) {
    let (mut client, _) = joined(fleet.a(), "1", json!({ "channel": "hi:v" }));
    let mut published = Vec::new();
    for (n, version, epoch) in [(1, 5, "E"), (2, 5, "E"), (3, 4, "E"), (4, 6, "E"), (5, 1, "F"), (6, 1, "F")] {
        let result = fleet.publish(n, json!({ "channel": "hi:v", "version": version, "version_epoch": epoch }));
        published.push(result["offset"].as_u64().expect("an offset"));
    }
    assert_eq!(published, [1, 1, 1, 2, 3, 3]);
    assert_eq!([(); 3].map(|()| client.publication().1), [1, 4, 5].map(|n| json!(n)));
}

fn deltas_are_made_of_the_one_before(fleet: &Fleet) {
    let delta = json!({ "channel": "hi:d", "delta": "fossil" });
    let (mut one, reply) = joined(fleet.a(), "1", delta.clone());
    assert_eq!(reply["delta"], true);
    let (mut two, _) = joined(fleet.b(), "2", delta);
    let (mut plain, _) = joined(fleet.b(), "3", json!({ "channel": "hi:d" }));
    let text = |n: u64| format!("a text that is long enough for a delta to be shorter, {n}");
    for n in 1..=3 {
        fleet.publish(n, json!({ "channel": "hi:d", "data": text(n), "delta": true }));
    }
    for n in 1..=3u64 {
        let pushes = [one.next(), two.next()].map(|push| push["push"]["pub"].clone());
        assert_eq!(pushes[0], pushes[1]);
        assert_eq!((&pushes[0]["offset"], pushes[0]["delta"] == true), (&json!(n), n > 1), "{pushes:?}");
        let size = pushes[0]["data"].as_str().expect("text").len();
        assert_eq!(size < 30, n > 1, "{pushes:?}");
        assert_eq!(plain.publication().1, text(n));
    }
}

fn what_is_old_is_forgotten(fleet: &Fleet) {
    let read = |node: &Server| node.call("history", json!({ "channel": "brief:a", "limit": -1 }))["result"].clone();
    let first = fleet.publish(1, json!({ "channel": "brief:a" }));
    let epoch = &first["epoch"];
    let gone = || read(fleet.a())["publications"].as_array().is_some_and(Vec::is_empty);
    until("the publication to be forgotten", || gone().then_some(()));
    let empty = json!({ "publications": [], "offset": 1, "epoch": epoch });
    assert_eq!(read(fleet.b()), empty, "and where the stream stands is not");
    // Nothing is to look at it meanwhile.
    std::thread::park_timeout(Duration::from_millis(3500));
    let anew = fleet.publish(2, json!({ "channel": "brief:a" }));
    assert!(anew["offset"] == 1 && anew["epoch"] != *epoch, "another life: {anew}, {epoch}");
}

fn over(redis: &[&RedisProcess], can: Can, more: &[&str]) {
    let address = redis.iter().map(|one| one.address()).collect::<Vec<_>>().join(" ");
    let engine = ["--engine.type=redis", "--engine.redis.connect_timeout=10s", "--engine.redis.address", &address];
    holds(&Fleet::start(2, can, &[&engine[..], more].concat()));
}

#[test]
fn memory_keeps_the_contract() {
    holds(&Fleet::start(1, ALL, &[]));
}

/// It keeps nothing; who is there is known from all nodes.
#[test]
fn nats_keeps_its_part_of_the_contract() {
    let nats = NatsProcess::start("");
    let can = Can { history: false, versions: false };
    holds(&Fleet::start(2, can, &["--engine.type=nats", "--engine.nats.url", &nats.url()]));
}

#[test]
fn one_redis_keeps_the_contract() {
    over(&[&RedisProcess::start(&[])], ALL, &[]);
}

#[test]
fn lists_of_redis_keep_the_contract() {
    // As everywhere, lists have no versions.
    let can = Can { versions: false, ..ALL };
    over(&[&RedisProcess::start(&[])], can, &["--engine.redis.history_use_lists"]);
}

#[test]
fn two_redis_keep_the_contract() {
    let redis = [RedisProcess::start(&[]), RedisProcess::start(&[])];
    over(&[&redis[0], &redis[1]], ALL, &["--engine.redis.presence_user_mapping"]);
    assert!(redis.iter().all(|one| one.cli(&["DBSIZE"]).trim() != "0"), "channels are on both");
}

#[test]
fn a_cluster_of_redis_keeps_the_contract() {
    let nodes = cluster();
    let address = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect::<Vec<_>>().join(",");
    let cluster =
        ["--engine.type=redis", "--engine.redis.connect_timeout=10s", "--engine.redis.cluster_address", &address];
    holds(&Fleet::start(2, ALL, &cluster));
    // Other names, so that nothing is there yet.
    let sharded = ["--engine.redis.sharded_pub_sub_partitions=16", "--engine.redis.prefix=sharded"];
    holds(&Fleet::start(2, ALL, &[&cluster[..], &sharded].concat()));
}

#[test]
fn a_redis_that_sentinels_name_keeps_the_contract() {
    let redis = RedisProcess::start(&[]);
    let sentinel = SentinelProcess::start(&redis);
    let address = format!("127.0.0.1:{}", sentinel.port);
    let sentinels = ["--engine.redis.sentinel_address", &address, "--engine.redis.sentinel_master_name=mymaster"];
    holds(&Fleet::start(
        2,
        ALL,
        &[&["--engine.type=redis", "--engine.redis.connect_timeout=10s"], &sentinels[..]].concat(),
    ));
}
