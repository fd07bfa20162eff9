//! What a namespace's options do to publications, subscriptions and users, on the wire.

use crate::client::{Client, token};
use crate::peer::{CLOSE, Peer, TEXT};
use crate::server::{GUARDED, Server, until};
use serde_json::{Value, json};

fn started(namespaces: Value, options: &[&str]) -> Server {
    let namespaces = format!("--channel.namespaces={namespaces}");
    Server::start(&[GUARDED, &["--reactors=2", &namespaces], options].concat())
}

fn on(method: &str, channel: &str) -> Value {
    json!({ method: { "channel": channel, "data": 1 } })
}

fn numbers(client: &mut Client, count: usize) -> Vec<u64> {
    (0..count).map(|_| client.publication().1.as_u64().expect("a number")).collect()
}

#[test]
fn publications_leave_together_in_their_order() {
    let namespaces = json!([
        { "name": "full", "allow_subscribe_for_client": true, "batch_max_delay": "1h", "batch_max_size": 10 },
        { "name": "late", "allow_subscribe_for_client": true, "batch_max_delay": "200ms" },
        { "name": "last", "allow_subscribe_for_client": true, "batch_max_delay": "1h", "batch_max_size": 10,
          "batch_flush_latest": true },
        { "name": "now", "allow_subscribe_for_client": true }
    ]);
    let server = started(namespaces, &[]);
    let mut client = Client::connected_as(&server, "42");
    ["full:a", "late:a", "last:a", "now:a"].iter().for_each(|channel| client.subscribe(channel));
    for n in 1..=9 {
        server.publish("full:a", json!(n));
        server.publish("last:a", json!(n));
    }
    // Nine wait: what is published after them elsewhere comes before them.
    server.publish("now:a", json!(0));
    assert_eq!(client.publication(), ("now:a".into(), json!(0)));
    server.publish("full:a", json!(10));
    assert_eq!(numbers(&mut client, 10), (1..=10).collect::<Vec<_>>());
    server.publish("last:a", json!(10));
    assert_eq!(client.publication(), ("last:a".into(), json!(10)), "the latest only");
    for n in 1..=5 {
        server.publish("late:a", json!(n));
    }
    assert_eq!(numbers(&mut client, 5), [1, 2, 3, 4, 5], "they leave in time");
}

#[test]
fn who_publishes_may_be_skipped() {
    let namespace = json!([{ "name": "chat", "allow_subscribe_for_client": true, "allow_publish_for_subscriber": true,
        "skip_publisher": true }]);
    let server = started(namespace, &[]);
    let mut clients: Vec<Client> = (0..4).map(|_| Client::connected_as(&server, "42")).collect();
    clients.iter_mut().for_each(|client| client.subscribe("chat:a"));
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.ask(json!({ "publish": { "channel": "chat:a", "data": n } }))["publish"], json!({}));
    }
    server.publish("chat:a", json!(9));
    for (n, client) in clients.iter_mut().enumerate() {
        let expected: Vec<u64> = (0..4).filter(|other| *other != n as u64).chain([9]).collect();
        assert_eq!(numbers(client, 4), expected, "client {n}");
    }
}

/// The outcome of a connect command: the close code, or 0 for a place.
fn outcome(peer: &mut Peer) -> u16 {
    match peer.frame() {
        (CLOSE, payload) => u16::from_be_bytes([payload[0], payload[1]]),
        (TEXT, _) => 0,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_user_never_has_more_connections_than_allowed() {
    let server = started(json!([]), &["--client.user_connection_limit=5"]);
    let connect = json!({ "id": 1, "connect": { "token": token(&json!({ "sub": "42" })) } }).to_string();
    let clients = || server.call("info", json!({}))["result"]["nodes"][0]["num_clients"].as_u64().expect("a number");
    for round in 0..3 {
        let mut peers: Vec<Peer> = (0..40).map(|_| Peer::upgraded(&server)).collect();
        peers.iter_mut().for_each(|peer| peer.send_frame(TEXT, connect.as_bytes()));
        assert!(clients() <= 5);
        let outcomes: Vec<u16> = peers.iter_mut().map(outcome).collect();
        assert_eq!(outcomes.iter().filter(|code| **code == 0).count(), 5, "round {round}: {outcomes:?}");
        assert_eq!(outcomes.iter().filter(|code| **code == 3504).count(), 35, "round {round}");
        assert_eq!(clients(), 5);
        // Others have places of their own, and the anonymous are not counted.
        Client::connected_as(&server, "43");
        let many: Vec<Client> = (0..7).map(|_| Client::connected(&server)).collect();
        // One place is free again when one goes.
        let place = outcomes.iter().position(|code| *code == 0).expect("a place");
        drop(peers.swap_remove(place));
        until("a place", || {
            let mut peer = Peer::upgraded(&server);
            peer.send_frame(TEXT, connect.as_bytes());
            (outcome(&mut peer) == 0).then_some(())
        });
        drop((peers, many));
        until("nobody", || (clients() == 0).then_some(()));
    }
}

#[test]
fn a_place_is_given_back_by_who_goes_before_it_is_told() {
    let server = started(json!([]), &["--client.user_connection_limit=2", "--client.channel_limit=1"]);
    let connect = |claims: Value| json!({ "id": 1, "connect": { "token": token(&claims) } }).to_string();
    for _ in 0..50 {
        Peer::upgraded(&server).send_frame(TEXT, connect(json!({ "sub": "42" })).as_bytes());
        let mut refused = Peer::upgraded(&server);
        refused.send_frame(TEXT, connect(json!({ "sub": "42", "channels": ["a", "b"] })).as_bytes());
        // No channel more than allowed, or no place because those who went are not counted off yet.
        let code = refused.closed().0;
        assert!([3504, 3505].contains(&code), "{code}");
        let mut closing = Peer::upgraded(&server);
        let bad = format!("{}\n{}", connect(json!({ "sub": "42" })), r#"{"id":2,"send":{}}"#);
        closing.send_frame(TEXT, bad.as_bytes());
        let code = closing.closed().0;
        assert!([3504, 3508].contains(&code), "{code}");
    }
    let mut held = Vec::new();
    until("two places", || {
        let mut peer = Peer::upgraded(&server);
        peer.send_frame(TEXT, connect(json!({ "sub": "42" })).as_bytes());
        if outcome(&mut peer) == 0 {
            held.push(peer);
        }
        (held.len() == 2).then_some(())
    });
    let mut third = Peer::upgraded(&server);
    third.send_frame(TEXT, connect(json!({ "sub": "42" })).as_bytes());
    assert_eq!(outcome(&mut third), 3504);
}

#[test]
fn personal_channels_and_single_connections() {
    let personal = ["--client.subscribe_to_user_personal_channel.enabled", "--channel.without_namespace.presence"];
    let single = ["--client.subscribe_to_user_personal_channel.single_connection"];
    let options =
        [&personal[..], &single, &["--client.subscribe_to_user_personal_channel.personal_channel_namespace=own"]];
    let server = started(json!([{ "name": "own" }]), &options.concat());
    let mut anonymous = Client::open(&server);
    assert!(anonymous.connect("")["subs"].is_null());
    for _ in 0..4 {
        let mut first = Client::open(&server);
        assert_eq!(first.connect(&token(&json!({ "sub": "42" })))["subs"], json!({ "own:#42": {} }));
        server.publish("own:#42", json!(1));
        assert_eq!(first.publication(), ("own:#42".into(), json!(1)));
        let mut second = Client::connected_as(&server, "42");
        assert_eq!(first.closed(), 3504);
        server.publish("own:#42", json!(2));
        assert_eq!(second.publication().1, 2);
        assert_eq!(second.refused(on("subscribe", "own:#42")), 105);
        assert_eq!(second.refused(on("subscribe", "own:#43")), 103);
    }
    let server = started(json!([]), &personal);
    let mut both: Vec<Client> = (0..2).map(|_| Client::connected_as(&server, "42")).collect();
    server.publish("#42", json!(1));
    both.iter_mut().for_each(|client| assert_eq!(client.publication(), ("#42".into(), json!(1))));
}

#[test]
fn of_two_that_come_at_once_one_stays() {
    let personal = "--client.subscribe_to_user_personal_channel";
    let options = [format!("{personal}.enabled"), format!("{personal}.single_connection")];
    let server = started(json!([]), &[&options[0], &options[1]]);
    for round in 0..30 {
        let user = token(&json!({ "sub": round.to_string() }));
        let connect = json!({ "id": 1, "connect": { "token": user } }).to_string();
        let mut peers: Vec<Peer> = (0..8).map(|_| Peer::upgraded(&server)).collect();
        peers.iter_mut().for_each(|peer| peer.send_frame(TEXT, connect.as_bytes()));
        let channel = format!("#{round}");
        let one = || {
            server.call("channels", json!({ "pattern": channel }))["result"]["channels"][&channel]["num_clients"] == 1
        };
        until("one of them", || one().then_some(()));
    }
}

#[test]
fn channels_of_certain_users_and_names() {
    let namespaces = json!([
        { "name": "rest", "allow_user_limited_channels": true },
        { "name": "word", "allow_subscribe_for_client": true, "channel_regex": "^[a-z]{2,4}$" }
    ]);
    let server = started(namespaces, &[]);
    let mut client = Client::connected_as(&server, "42");
    let mut anonymous = Client::connected(&server);
    client.subscribe("rest:a#42");
    client.subscribe("rest:a#41,42");
    for channel in ["rest:a#4", "rest:a#421", "rest:a#", "rest:a"] {
        assert_eq!(client.refused(on("subscribe", channel)), 103, "{channel}");
        assert_eq!(anonymous.refused(on("subscribe", channel)), 103, "{channel}");
    }
    client.subscribe("word:abc");
    for channel in ["word:a", "word:abcde", "word:ab1", "word:"] {
        assert_eq!(client.refused(on("subscribe", channel)), 107, "{channel}");
    }
    assert_eq!(server.call("publish", json!({ "channel": "rest:a#42", "data": 1 })), json!({ "result": {} }));
    assert_eq!(client.publication(), ("rest:a#42".into(), json!(1)));
}

#[test]
fn publications_have_the_form_that_is_demanded() {
    let of = |name: &str, form: &str| {
        let mut namespace = json!({ "name": name, "allow_publish_for_client": true });
        namespace["publication_data_format"] = form.into();
        namespace
    };
    let server = started(json!([of("js", "json"), of("ob", "json_object"), of("any", "")]), &[]);
    let mut client = Client::connected_as(&server, "42");
    for (channel, data, code) in
        [("js:a", "1", 0), ("ob:a", "1", 107), ("ob:a", "{\"a\":1}", 0), ("any:a", "1", 0), ("ob:a", "[{}]", 107)]
    {
        let data: Value = serde_json::from_str(data).expect("JSON");
        let reply = client.ask(json!({ "publish": { "channel": channel, "data": data } }));
        assert_eq!(reply["error"]["code"].as_u64().unwrap_or(0), code, "{channel} {data}");
    }
    assert_eq!(client.refused(json!({ "publish": { "channel": "js:a" } })), 107, "nothing is no JSON");
}

#[test]
fn history_takes_no_more_memory_than_it_may() {
    let namespace = json!([{ "name": "kept", "history_size": 1000, "history_ttl": "10m",
        "allow_publish_for_client": true, "allow_history_for_client": true },
        { "name": "plain", "allow_publish_for_client": true }]);
    let server = started(namespace, &["--channel.history_memory_limit=10000"]);
    let mut client = Client::connected_as(&server, "42");
    let publish = |channel: &str, bytes: usize| json!({ "publish": { "channel": channel, "data": "x".repeat(bytes) } });
    // What is older makes room for what comes.
    for _ in 0..30 {
        assert_eq!(client.ask(publish("kept:a", 1000))["publish"], json!({}));
    }
    let history = client.ask(json!({ "history": { "channel": "kept:a", "limit": 100 } }))["history"].clone();
    let kept: Vec<u64> = history["publications"].as_array().expect("a list").iter().map(offset).collect();
    assert!((1..10).contains(&kept.len()) && kept.last() == Some(&30), "{kept:?}");
    assert_eq!(history["offset"], 30);
    let evicted = || server.metric("gannet_node_histories_evicted_total");
    let before = evicted();
    assert!((1..30).contains(&before), "{before}");
    assert_eq!(server.metric("gannet_node_history_streams_evicted_total"), 0, "offsets and the epoch stay");
    // What fits nowhere is refused, and nothing is forgotten for it.
    let refusal = client.ask(publish("kept:a", 12_000))["error"].clone();
    assert_eq!(refusal, json!({ "code": 111, "message": "too many requests", "temporary": true }));
    server.counts("gannet_node_history_memory_limit_total", 1);
    assert_eq!(evicted(), before);
    assert_eq!(client.ask(publish("plain:a", 1000))["publish"], json!({}));
}

fn offset(publication: &Value) -> u64 {
    publication["offset"].as_u64().expect("an offset")
}

#[test]
fn presence_and_history_are_for_whom_they_are_allowed() {
    let with = |name: &str, grants: &[&str]| {
        let mut namespace = json!({ "name": name, "presence": true, "history_size": 5, "history_ttl": "1m",
            "allow_subscribe_for_client": true, "allow_subscribe_for_anonymous": true });
        for grant in grants {
            for what in ["presence", "history"] {
                namespace[format!("allow_{what}_for_{grant}")] = true.into();
            }
        }
        namespace
    };
    let namespaces = json!([
        with("none", &[]),
        with("client", &["client"]),
        with("sub", &["subscriber"]),
        with("both", &["client", "anonymous"]),
        with("subs", &["subscriber", "anonymous"]),
        with("anon", &["anonymous"]),
        { "name": "off", "allow_presence_for_client": true, "allow_history_for_client": true }
    ]);
    let server = started(namespaces, &[]);
    // For a user and for the anonymous one, before and after they subscribe.
    let table = [
        ("none", [false; 4]),
        ("client", [true, false, true, false]),
        ("sub", [false, false, true, false]),
        ("both", [true; 4]),
        ("subs", [false, false, true, true]),
        ("anon", [false; 4]),
    ];
    let mut clients = [Client::connected_as(&server, "42"), Client::connected(&server)];
    for (namespace, allowed) in table {
        let channel = format!("{namespace}:a");
        for (at, allowed) in allowed.into_iter().enumerate() {
            let client = &mut clients[at % 2];
            if at >= 2 {
                let reply = client.ask(json!({ "subscribe": { "channel": channel } }));
                assert!(reply["subscribe"].is_object(), "{reply}");
            }
            for method in ["presence", "presence_stats", "history"] {
                let reply = client.ask(json!({ method: { "channel": channel } }));
                let code = reply["error"]["code"].as_u64();
                assert_eq!(code, (!allowed).then_some(103), "{method} {namespace} {at}: {reply}");
            }
        }
    }
    for method in ["presence", "presence_stats", "history"] {
        assert_eq!(clients[0].refused(json!({ method: { "channel": "off:a" } })), 108);
    }
}

#[test]
fn names_are_divided_by_what_the_options_say() {
    let namespaces = r#"[{"name":"chat","allow_subscribe_for_client":true,"allow_user_limited_channels":true}]"#;
    let channel =
        ["--channel.namespace_boundary", "/", "--channel.user_boundary", "@", "--channel.user_separator", ";"];
    let more = ["--channel.private_prefix", "priv-", "--channel.namespaces", namespaces];
    let server = Server::start(&[GUARDED, &channel[..], &more].concat());
    let mut client = Client::connected_as(&server, "42");
    client.subscribe("chat/1");
    client.subscribe("chat/2@41;42");
    client.subscribe("other:1");
    client.subscribe("$1");
    for (name, code) in [("other/1", 102), ("chat/2@41;43", 103), ("priv-chat/1", 103), ("priv-1", 103)] {
        assert_eq!(client.refused(json!({ "subscribe": { "channel": name } })), code, "{name}");
    }
    assert_eq!(server.call("publish", json!({ "channel": "other/1", "data": 1 }))["error"]["code"], 102);
    server.publish("chat/1", json!("by its namespace"));
    assert_eq!(client.publication(), ("chat/1".into(), json!("by its namespace")));
}
