//! What a client may say, and what becomes of it: an error reply while the session lives on, or a close with a code.

use crate::client::{Client, Witness, now, signed, token};
use crate::peer::{BINARY, PATH, Peer, TEXT};
use crate::server::{GUARDED, OPEN, Server, until};
use serde_json::{Value, json};

const CONNECT: &str = r#"{"id":1,"connect":{}}"#;

/// Each list of frames ends its client with `code`, is counted, and leaves the witness in peace.
fn end_with(code: u16, first: u8, path: &str, inputs: &[&[&[u8]]]) {
    let server = Server::start(OPEN);
    let mut witness = Witness::join(&server);
    for (done, frames) in inputs.iter().enumerate() {
        let mut peer = Peer::open(server.address).upgrade(path);
        frames.iter().for_each(|payload| peer.send_frame(first, payload));
        let what = frames.concat().escape_ascii().to_string();
        assert_eq!(peer.closed().0, code, "{what:.200}");
        assert_eq!(server.disconnects(code), done as u64 + 1, "{what:.200}");
        witness.hears(&server);
    }
}

#[test]
fn nothing_may_come_before_connect() {
    let commands = ["subscribe", "unsubscribe", "publish", "presence", "presence_stats", "history"]
        .map(|method| format!(r#"{{"id":1,"{method}":{{"channel":"c"}}}}"#))
        .into_iter()
        .chain(
            ["send", "rpc", "refresh", "sub_refresh", "ping"].map(|method| format!(r#"{{"id":1,"{method}":{{}}}}"#)),
        );
    let frames: Vec<Vec<u8>> = commands.map(String::into_bytes).collect();
    let lists: Vec<[&[u8]; 1]> = frames.iter().map(|frame| [frame.as_slice()]).collect();
    end_with(3501, TEXT, PATH, &lists.iter().map(|list| list.as_slice()).collect::<Vec<_>>());
}

#[test]
fn what_is_no_command_ends_with_3501() {
    let connect = CONNECT.as_bytes();
    let deep_list = "[".repeat(1000);
    let deep = format!(r#"{{"id":{}{}}}"#, deep_list, "]".repeat(1000));
    let inputs: &[&[&[u8]]] = &[
        &[b""],
        &[b"\n\n"],
        &[b"garbage"],
        &[b"[]"],
        &[b"\"connect\""],
        &[b"{"],
        &[b"{\"id\":NaN}"],
        &[b"{\"id\":1,\"connect\":{\"data\":NaN}}"],
        &[b"{\"id\":-1,\"connect\":{}}"],
        &[b"{\"id\":4294967296,\"connect\":{}}"],
        &[b"{\"id\":1,\"connect\":[]}"],
        &[b"{\"id\":1,\"id\":2,\"connect\":{}}"],
        &[b"{\"id\":1,\"connect\":{\"token\":\"\",\"token\":\"\"}}"],
        &[deep.as_bytes()],
        &[b"{}"],
        &[connect, connect],
        &[connect, b"{}"],
        &[connect, b"{\"id\":2,\"ping\":{}}"],
        &[connect, b"{\"id\":2}"],
        &[connect, b"{\"id\":2,\"unknown\":{}}"],
        &[connect, b"{\"id\":2,\"subscribe\":{\"channel\":\"c\"}}\ngarbage"],
        &[connect, b"{\"id\":2,\"subscribe\":{\"channel\":\"c\",\"delta\":\"other\"}}"],
        &[b"{\"id\":1,\"connect\":{\"subs\":{\"nowhere:c\":{}}}}"],
    ];
    end_with(3501, TEXT, PATH, inputs);
}

#[test]
fn a_field_of_the_wrong_type_ends_with_3501() {
    let mut inputs = Vec::new();
    let channel_methods = ["subscribe", "unsubscribe", "presence", "presence_stats", "history", "sub_refresh"];
    for method in channel_methods.into_iter().chain(["connect", "publish", "send", "rpc", "refresh"]) {
        for wrong in ["5", "\"text\"", "[1]", "true"] {
            inputs.push(format!(r#"{{"id":2,"{method}":{wrong}}}"#));
        }
    }
    for method in channel_methods.into_iter().chain(["publish"]) {
        inputs.push(format!(r#"{{"id":2,"{method}":{{"channel":7}}}}"#));
        inputs.push(format!(r#"{{"id":2,"{method}":{{"channel":null}}}}"#));
        inputs.push(format!(r#"{{"id":2,"{method}":{{"channel":""}}}}"#));
    }
    for fields in [r#""token":7"#, r#""subs":[]"#, r#""headers":{"a":1}"#] {
        inputs.push(format!(r#"{{"id":2,"connect":{{{fields}}}}}"#));
    }
    inputs.push(r#"{"id":2,"refresh":{"token":{}}}"#.into());
    inputs.push(r#"{"id":2,"refresh":{"token":""}}"#.into());
    inputs.push(r#"{"id":2,"rpc":{"method":[]}}"#.into());
    inputs.push(r#"{"id":"2","publish":{"channel":"c","data":1}}"#.into());
    let lists: Vec<[&[u8]; 2]> = inputs.iter().map(|input| [CONNECT.as_bytes(), input.as_bytes()]).collect();
    end_with(3501, TEXT, PATH, &lists.iter().map(|list| list.as_slice()).collect::<Vec<_>>());
}

#[test]
fn broken_binary_ends_with_3501() {
    let connect = b"\x04\x08\x01\x22\x00";
    let inputs: &[&[&[u8]]] = &[
        &[b""],
        &[b"\xff\xff\xff"],
        &[b"\x05\x08\x01\x22\x00"],
        &[b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"],
        &[b"\x04\x08\x01\x22\x05"],
        &[connect, connect],
        &[connect, b"\x00"],
        // subscribe{channel: bytes that are not UTF-8}
        &[connect, b"\x08\x08\x02\x2a\x04\x0a\x02\xff\xfe"],
        // subscribe whose channel is a number
        &[connect, b"\x06\x08\x02\x2a\x02\x08\x01"],
        // a group that never ends, within groups
        &[connect, &[&[0x7f][..], &[0x9b; 127]].concat()],
    ];
    end_with(3501, BINARY, "/connection/websocket?format=protobuf", inputs);
}

#[test]
fn bytes_that_are_no_text_end_a_json_client_in_a_binary_frame_too() {
    let inputs: &[&[&[u8]]] = &[
        &[b"{\"id\":1,\"connect\":{\"token\":\"\xff\"}}"],
        &[CONNECT.as_bytes(), b"{\"id\":2,\"publish\":{\"channel\":\"c\",\"data\":\"\xff\"}}"],
    ];
    end_with(3501, BINARY, PATH, inputs);
}

#[test]
fn deep_data_passes_through() {
    let server = Server::start(OPEN);
    let mut witness = Witness::join(&server);
    let mut listener = Peer::connected(&server);
    listener.send_frame(TEXT, br#"{"id":2,"subscribe":{"channel":"deep"}}"#);
    assert_eq!(listener.text(), r#"{"id":2,"subscribe":{}}"#);
    let deep = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
    let mut peer = Peer::connected(&server);
    peer.send_frame(TEXT, format!(r#"{{"id":2,"publish":{{"channel":"deep","data":{deep}}}}}"#).as_bytes());
    assert_eq!(peer.text(), r#"{"id":2,"publish":{}}"#);
    assert!(listener.text().contains(&format!("\"data\":{deep}")));
    peer.send_frame(TEXT, format!(r#"{{"id":3,"unknown":{deep},"unsubscribe":{{"channel":"deep"}}}}"#).as_bytes());
    assert_eq!(peer.text(), r#"{"id":3,"unsubscribe":{}}"#);
    witness.hears(&server);
}

#[test]
fn a_refused_command_leaves_the_session_alive() {
    let options = ["--client.channel_limit", "2", "--channel.max_length", "20"];
    let server = Server::with(GUARDED, &options);
    let mut client = Client::connected(&server);
    let on = |method: &str, channel: &str| json!({ method: { "channel": channel } });
    client.subscribe("a");
    for (command, code) in [
        (on("subscribe", "a"), 105),
        (on("subscribe", &"x".repeat(21)), 107),
        (on("subscribe", "nowhere:x"), 102),
        (on("subscribe", "$private"), 103),
        (on("subscribe", "\u{e9}"), 107),
        (json!({ "subscribe": { "channel": "b", "token": "x" } }), 103),
        (json!({ "subscribe": { "channel": "b", "type": 1 } }), 103),
        (json!({ "subscribe": { "channel": "b", "tf": {} } }), 107),
        (json!({ "publish": { "channel": "a", "data": 1 } }), 103),
        (json!({ "publish": { "channel": "nowhere:x", "data": 1 } }), 102),
        (json!({ "publish": { "channel": "x".repeat(21), "data": 1 } }), 107),
        (json!({ "rpc": { "method": "m", "data": 1 } }), 108),
        (on("presence", "a"), 108),
        (on("presence_stats", "a"), 108),
        (on("history", "a"), 108),
        (on("history", "nowhere:x"), 102),
        (on("sub_refresh", "a"), 107),
        (on("sub_refresh", "b"), 103),
    ] {
        let before = server.errors(code);
        assert_eq!(client.refused(command.clone()), code, "{command}");
        assert_eq!(server.errors(code), before + 1, "{command}");
    }
    client.subscribe("b");
    assert_eq!(client.refused(on("subscribe", "c")), 106);
    assert_eq!(server.errors(106), 1);
    assert_eq!(client.ask(on("unsubscribe", "unknown"))["unsubscribe"], json!({}));
    assert_eq!(client.ask(on("unsubscribe", "b"))["unsubscribe"], json!({}));
    client.subscribe("c");
    server.publish("a", json!({ "still": "here" }));
    assert_eq!(client.publication(), ("a".to_owned(), json!({ "still": "here" })));
}

#[test]
fn permissions_are_those_of_the_namespace() {
    let namespaces =
        r#"[{"name":"open","allow_subscribe_for_client":true,"allow_publish_for_subscriber":true},{"name":"shut"}]"#;
    let server = Server::with(GUARDED, &["--channel.namespaces", namespaces]);
    let on = |method: &str, channel: &str| json!({ method: { "channel": channel, "data": 1 } });
    let mut anonymous = Client::connected(&server);
    assert_eq!(anonymous.refused(on("subscribe", "open:x")), 103, "known users only");
    let mut client = Client::connected_as(&server, "42");
    assert_eq!(client.refused(on("subscribe", "shut:x")), 103);
    assert_eq!(client.refused(on("publish", "open:x")), 103, "not subscribed yet");
    client.subscribe("open:x");
    assert_eq!(client.ask(on("publish", "open:x"))["publish"], json!({}));
    assert_eq!(client.publication(), ("open:x".to_owned(), json!(1)));
}

#[test]
fn send_is_not_available() {
    let send = br#"{"id":2,"send":{"data":{}}}"#;
    end_with(3508, TEXT, PATH, &[&[CONNECT.as_bytes(), send], &[CONNECT.as_bytes(), br#"{"send":{}}"#]]);
}

#[test]
fn bad_tokens_end_with_3500() {
    let server = Server::start(GUARDED);
    let mut witness = Witness::join(&server);
    let none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJzdWIiOiI0MiJ9.";
    let tokens = [
        "x".to_owned(),
        "a.b.c".to_owned(),
        none.to_owned(),
        signed(&json!({ "sub": "42" }), "another secret"),
        token(&json!({ "sub": "42" })) + "x",
        token(&json!({ "sub": 42 })),
        token(&json!({ "sub": "42", "channel": "of a subscription" })),
        token(&json!({ "sub": "42", "info": "x".repeat(20_000) })),
    ];
    for (done, token) in tokens.iter().enumerate() {
        let mut client = Client::open(&server);
        client.send(&json!({ "id": 1, "connect": { "token": token } }).to_string());
        assert_eq!(client.closed(), 3500, "{token:.100}");
        assert_eq!(server.disconnects(3500), done as u64 + 1);
        witness.hears(&server);
    }
}

#[test]
fn an_expired_token_is_an_error_after_which_the_connection_is_of_no_use() {
    let server = Server::start(GUARDED);
    for claims in [json!({ "sub": "42", "exp": now() - 1 }), json!({ "sub": "42", "nbf": now() + 1000 })] {
        let mut client = Client::open(&server);
        assert_eq!(client.refused(json!({ "connect": { "token": token(&claims) } })), 109);
        client.send(r#"{"id":9,"subscribe":{"channel":"c"}}"#);
        assert_eq!(client.closed(), 3501);
    }
    assert_eq!(server.errors(109), 2);
}

#[test]
fn who_has_no_token_is_anonymous_or_nobody() {
    let connect = CONNECT.to_owned();
    let close = |server: &Server, text: &str| {
        let mut client = Client::open(server);
        client.send(text);
        client.closed()
    };
    let secret: &[&str] = &["--client.token.hmac_secret_key", crate::server::SECRET];
    let strict = Server::with(secret, &["--client.disallow_anonymous_connection_tokens"]);
    assert_eq!(close(&strict, &connect), 3501);
    assert_eq!(strict.disconnects(3501), 1);
    let nameless = json!({ "id": 1, "connect": { "token": token(&json!({})) } }).to_string();
    assert_eq!(close(&strict, &nameless), 3507);
    assert_eq!(strict.disconnects(3507), 1);
    Client::connected_as(&strict, "42");

    let lenient = Server::start(GUARDED);
    let mut anonymous = Client::connected(&lenient);
    anonymous.subscribe("news");
    let mut named = Client::connected_as(&lenient, "42");
    named.subscribe("news");
    lenient.publish("news", json!(1));
    assert_eq!((anonymous.publication().1, named.publication().1), (json!(1), json!(1)));
    let info = lenient.call("info", json!({}));
    assert_eq!(info["result"]["nodes"][0]["num_users"], 2, "the anonymous user is one: {info}");
}

#[test]
fn data_that_is_no_json_ends_its_json_subscribers_only() {
    let server = Server::with(OPEN, &["--channel.without_namespace.publication_data_format", "binary"]);
    let mut witness = Witness::join(&server);
    let subscribe = b"\x04\x08\x01\x22\x00\x0a\x08\x02\x2a\x06\x0a\x04data";
    let mut binary = Peer::open(server.address).upgrade("/connection/websocket?cf_protocol=protobuf");
    binary.send_frame(BINARY, subscribe);
    assert_eq!(binary.frame().0, BINARY);
    assert_eq!(binary.frame().1, b"\x04\x08\x02\x32\x00", "subscribed");
    let mut text = Client::subscribed(&server, "data");

    assert_eq!(server.call("publish", json!({ "channel": "data", "b64data": "/v8=" })), json!({ "result": {} }));
    // push{channel: "data", pub{data: fe ff}}
    assert_eq!(binary.frame().1, b"\x0e\x22\x0c\x12\x04data\x22\x04\x22\x02\xfe\xff");
    assert_eq!(text.closed(), 3506);
    assert_eq!(server.disconnects(3506), 1);

    // publish{channel: "data", data: "{"} by a client of the same encoding
    binary.send_frame(BINARY, b"\x0d\x08\x03\x3a\x09\x0a\x04data\x12\x01{");
    let replies = [binary.frame().1, binary.frame().1];
    assert!(replies.iter().any(|reply| reply == b"\x04\x08\x03\x42\x00"), "{replies:?}");
    assert!(replies.iter().any(|push| push.windows(3).any(|data| data == b"\x22\x01{")), "{replies:?}");
    witness.hears(&server);
}

#[test]
fn commands_share_a_frame_and_are_answered_in_order() {
    let server = Server::start(&["--client.insecure", "--reactors", "4"]);
    // Each channel may be another reactor's.
    for channel in 0..16 {
        let mut peer = Peer::upgraded(&server);
        let subscribe = |id: u32| format!(r#"{{"id":{id},"subscribe":{{"channel":"{channel}"}}}}"#);
        let unsubscribe = |id: u32| format!(r#"{{"id":{id},"unsubscribe":{{"channel":"{channel}"}}}}"#);
        let rpc = r#"{"id":3,"rpc":{}}"#.to_owned();
        let commands = [CONNECT.into(), subscribe(2), rpc, unsubscribe(4), subscribe(5), subscribe(6), String::new()];
        peer.send_frame(TEXT, commands.join("\n").as_bytes());
        let mut replies: Vec<Value> = Vec::new();
        while replies.len() < 6 {
            replies.extend(peer.text().lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")));
        }
        let ids: Vec<Value> = replies.iter().map(|reply| reply["id"].clone()).collect();
        assert_eq!(ids, [1, 2, 3, 4, 5, 6]);
        assert_eq!(replies[5]["error"]["code"], 105);
        server.publish(&channel.to_string(), json!("once"));
        assert!(peer.text().contains("once"));
    }
}

#[test]
fn who_leaves_while_subscribing_leaves_nothing_behind() {
    let server = Server::start(&["--client.insecure", "--reactors", "4"]);
    let mut witness = Witness::join(&server);
    let commands: Vec<String> =
        (2..50).map(|id| format!(r#"{{"id":{id},"subscribe":{{"channel":"c{id}"}}}}"#)).collect();
    let message = format!("{CONNECT}\n{}", commands.join("\n"));
    for _ in 0..30 {
        Peer::upgraded(&server).send_frame(TEXT, message.as_bytes());
    }
    server.counts("gannet_transport_connections_lost_total", 30);
    for (name, count) in [("clients", 1), ("subscriptions", 1), ("channels", 1)] {
        until(name, || (server.metric(&format!("gannet_node_num_{name}")) == count).then_some(()));
    }
    witness.hears(&server);
}

#[test]
fn times_beyond_measure_are_no_harm() {
    let server = Server::start(GUARDED);
    let mut witness = Witness::join(&server);
    for exp in [json!(1e300), json!(u64::MAX), json!(u32::MAX), json!(now() as f64 + 1000.5)] {
        let mut client = Client::open(&server);
        let connected = client.connect(&token(&json!({ "sub": "42", "exp": exp })));
        assert!(connected["ttl"].as_u64().is_some_and(|ttl| ttl >= 999), "{exp}: {connected}");
    }
    for exp in [json!(-1), json!(0), json!(-1e300)] {
        let claims = json!({ "sub": "42", "exp": exp });
        assert_eq!(Client::open(&server).refused(json!({ "connect": { "token": token(&claims) } })), 109, "{exp}");
    }
    witness.hears(&server);
}
