//! The server API as a backend calls it, and its errors.

use crate::client::{Client, Witness, token};
use crate::peer::{Peer, Response};
use crate::server::{GUARDED, KEY, OPEN, Server, until};
use serde_json::{Value, json};

const METHODS: [&str; 17] = [
    "publish",
    "broadcast",
    "subscribe",
    "unsubscribe",
    "disconnect",
    "refresh",
    "presence",
    "presence_stats",
    "history",
    "history_remove",
    "channels",
    "inbox_info",
    "inbox_ack",
    "inbox_clear",
    "info",
    "rpc",
    "batch",
];

const PUBLISH: &str = r#"{"channel":"c","data":1}"#;

fn post(server: &Server, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
    Peer::open(server.address).request("POST", path, headers, body).expect("an answer")
}

/// With the key.
fn call(server: &Server, method: &str, body: &str) -> Response {
    post(server, &format!("/api/{method}"), &[("X-API-Key", KEY)], body)
}

fn failures(method: &str, code: u32) -> String {
    format!("gannet_api_command_errors_total{{protocol=\"http\",method=\"{method}\",code=\"{code}\"}}")
}

#[test]
fn a_key_is_needed_and_taken_in_three_places() {
    let server = Server::start(OPEN);
    let scheme = format!("apikey {KEY}");
    assert_eq!(post(&server, "/api/publish", &[("X-API-Key", KEY)], PUBLISH).status, 200);
    assert_eq!(post(&server, "/api/publish", &[("Authorization", &scheme)], PUBLISH).status, 200);
    let wrong: [&[(&str, &str)]; 5] = [
        &[],
        &[("X-API-Key", "")],
        &[("X-API-Key", "another")],
        &[("Authorization", KEY)],
        &[("Authorization", &format!("Bearer {KEY}"))],
    ];
    for (done, headers) in wrong.into_iter().enumerate() {
        let response = post(&server, "/api/publish", headers, PUBLISH);
        assert_eq!(response.status, 401, "{headers:?}");
        assert!(response.body.contains("API key"), "{}", response.body);
        assert_eq!(server.metric(&failures("publish", 401)), done as u64 + 1);
    }
    assert_eq!(post(&server, &format!("/api/publish?api_key={KEY}"), &[], PUBLISH).status, 200);
    assert_eq!(post(&server, "/api/publish?api_key=another", &[], PUBLISH).status, 401);
    assert!(!server.logged(KEY), "a secret in the log");
}

#[test]
fn a_call_s_id_is_in_its_answer_and_in_the_log_beside_the_node_s_name() {
    let server = Server::with(OPEN, &["--log.level", "debug", "--node.name", "north"]);
    let id_of = |response: Response| response.header("x-request-id").expect("an id");
    let with = |id: &str, body: &str| post(&server, "/api/publish", &[("X-API-Key", KEY), ("X-Request-Id", id)], body);
    assert_eq!(id_of(with("order-17/a", PUBLISH)), "order-17/a");
    // In place of what cannot stand in a line, another is made; each time one of its own.
    let long = "x".repeat(129);
    let made = ["a\"b", long.as_str(), ""].map(|id| id_of(with(id, PUBLISH)));
    assert!(made.iter().all(|id| id.len() > 17 && !long.starts_with(id.as_str())), "{made:?}");
    assert_ne!(made[0], made[1]);
    assert_eq!(id_of(post(&server, "/api/publish", &[("X-Request-Id", "no-key")], PUBLISH)), "no-key");
    with("bad-field", r#"{"channel":"","data":1}"#);
    let lines: Vec<Value> = server.lines().iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert!(lines.iter().all(|line| line["node"] == "north"), "{lines:?}");
    let said = |id: &str, level: &str, message: &str| {
        let mut found = lines.iter().filter(|line| line["request_id"] == id && line["level"] == level);
        assert!(found.any(|line| line["message"].as_str().is_some_and(|it| it.contains(message))), "{id}: {lines:#?}");
    };
    said("order-17/a", "DEBUG", "a call of the server API");
    said(&made[1], "DEBUG", "a call of the server API");
    said("no-key", "DEBUG", "is refused");
    said("bad-field", "WARN", "the backend must mend it");
}

#[test]
fn a_key_in_the_query_may_be_escaped() {
    let server = Server::with(OPEN, &["--http_api.key", "a b/c+d"]);
    assert_eq!(post(&server, "/api/publish?x=y&api_key=a%20b%2Fc%2Bd", &[], PUBLISH).status, 200);
}

#[test]
fn without_a_key_configured_every_call_is_refused() {
    let server = Server::with(OPEN, &["--http_api.key", ""]);
    for headers in [&[][..], &[("X-API-Key", "")], &[("Authorization", "apikey ")]] {
        let response = post(&server, "/api/publish", headers, PUBLISH);
        assert_eq!(response.status, 401);
        assert!(response.body.contains("http_api.key"), "{}", response.body);
    }
    assert_eq!(post(&server, "/api/publish?api_key=", &[], PUBLISH).status, 401);
}

#[test]
fn calls_that_cannot_be_read_get_4xx() {
    let server = Server::with(OPEN, &["--http_server.body_size_limit", "4KiB"]);
    let mut witness = Witness::join(&server);
    for method in METHODS {
        let got = Peer::open(server.address).request("GET", &format!("/api/{method}"), &[("X-API-Key", KEY)], "");
        assert_eq!(got.expect("an answer").status, 405, "{method}");
        assert_eq!(server.metric(&failures(method, 405)), 1);
        for (done, body) in ["{", "null", "\"text\"", "\u{1}", "[5]"].into_iter().enumerate() {
            let response = call(&server, method, body);
            assert_eq!(response.status, 400, "{method} {body}");
            assert!(response.body.contains("the body is not"), "{}", response.body);
            assert_eq!(server.metric(&failures(method, 400)), done as u64 + 1, "{method} {body}");
        }
        let large = format!(r#"{{"user":"{}"}}"#, "x".repeat(5000));
        assert_eq!(call(&server, method, &large).status, 413, "{method}");
        assert_eq!(server.metric(&failures(method, 413)), 1);
        witness.hears(&server);
    }
    for body in [r#"{"commands":[null]}"#, r#"{"commands":[["publish"]]}"#, r#"{"commands":{}}"#] {
        assert_eq!(call(&server, "batch", body).status, 400, "{body}");
    }
    assert_eq!(call(&server, "no_such_method", "{}").status, 404);
    for path in ["/", "/nowhere", "/connection"] {
        assert_eq!(Peer::open(server.address).request("GET", path, &[], "").expect("an answer").status, 404, "{path}");
    }
}

#[test]
fn what_a_method_refuses_is_an_error_with_status_200() {
    let server = Server::with(OPEN, &["--channel.max_length", "20"]);
    let long = "x".repeat(21);
    for (method, body, code) in [
        ("publish", json!({ "data": 1 }), 107),
        ("publish", json!({ "channel": "c" }), 107),
        ("publish", json!({ "channel": "c", "b64data": "%" }), 107),
        ("publish", json!({ "channel": long, "data": 1 }), 107),
        ("publish", json!({ "channel": "nowhere:c", "data": 1 }), 102),
        ("publish", json!({ "channel": "c", "b64data": "AAE=" }), 107),
        ("publish", json!({ "channel": "c", "data": 1, "idempotency_key": "x".repeat(257) }), 107),
        ("publish", json!({ "channel": "c", "data": 1, "version_epoch": "x".repeat(257) }), 107),
        ("broadcast", json!({ "channels": [], "data": 1 }), 107),
        ("disconnect", json!({}), 107),
        ("disconnect", json!({ "user": "1", "disconnect": { "code": 1000 } }), 107),
        ("disconnect", json!({ "user": "1", "disconnect": { "code": 4000, "reason": "x".repeat(124) } }), 107),
        ("unsubscribe", json!({ "channel": "c" }), 107),
        ("unsubscribe", json!({ "user": "1", "channel": "nowhere:c" }), 102),
        ("channels", json!({ "pattern": "[" }), 107),
    ] {
        let before = server.metric(&failures(method, code));
        let answer = server.call(method, body.clone());
        assert_eq!(answer["error"]["code"], code, "{method} {body}: {answer}");
        assert!(answer["error"]["message"].is_string() && answer.get("result").is_none(), "{answer}");
        assert_eq!(server.metric(&failures(method, code)), before + 1, "{method} {body}");
    }
}

#[test]
fn a_compressed_body_is_refused_as_one() {
    let server = Server::start(OPEN);
    for method in ["publish", "batch"] {
        for (coding, status) in [("gzip", 415), ("br", 415), ("GZIP, identity", 415), ("identity", 200), ("", 200)] {
            let headers = [("X-API-Key", KEY), ("Content-Encoding", coding)];
            let body = r#"{"channel":"c","data":1,"commands":[]}"#;
            let path = format!("/api/{method}");
            let answer = Peer::open(server.address).request("POST", &path, &headers, body).expect("an answer");
            assert_eq!(answer.status, status, "{method} {coding}: {}", answer.body);
        }
    }
}

#[test]
fn a_broadcast_answers_in_the_order_of_its_channels() {
    let server = Server::start(OPEN);
    let mut client = Client::connected(&server);
    let names: Vec<String> = (0..20).map(|n| format!("c{n}")).collect();
    names.iter().for_each(|name| client.subscribe(name));
    let channels: Vec<&str> = ["nowhere:x", ""].into_iter().chain(names.iter().map(String::as_str)).collect();
    let answer = server.call("broadcast", json!({ "channels": channels, "data": { "n": 1 }, "tags": { "a": "b" } }));
    let responses = answer["result"]["responses"].as_array().expect("responses");
    assert_eq!((&responses[0]["error"]["code"], &responses[1]["error"]["code"]), (&json!(102), &json!(107)));
    assert!(responses[2..].iter().all(|one| *one == json!({ "result": {} })), "{answer}");
    let mut heard: Vec<String> = names.iter().map(|_| client.publication().0).collect();
    heard.sort();
    let mut expected = names;
    expected.sort();
    assert_eq!(heard, expected);
}

#[test]
fn disconnect_closes_the_clients_of_a_user() {
    let server = Server::start(GUARDED);
    let mut witness = Witness::join(&server);
    let mut other = Client::connected_as(&server, "other");
    other.subscribe("news");

    let mut clients: Vec<Client> = (0..3).map(|_| Client::connected_as(&server, "42")).collect();
    assert_eq!(server.call("disconnect", json!({ "user": "42" })), json!({ "result": {} }));
    assert_eq!(clients.iter_mut().map(Client::closed).collect::<Vec<_>>(), [3503; 3]);

    let mut kept = Client::open(&server);
    let id = kept.connect(&token(&json!({ "sub": "42" })))["client"].clone();
    let mut gone = Client::connected_as(&server, "42");
    server
        .call("disconnect", json!({ "user": "42", "whitelist": [id], "disconnect": { "code": 4321, "reason": "x" } }));
    assert_eq!(gone.closed(), 4321);
    kept.subscribe("news");
    let mut gone = Client::connected_as(&server, "42");
    server.call("disconnect", json!({ "user": "42", "client": "another" }));
    server.call("disconnect", json!({ "user": "nobody" }));
    gone.subscribe("news");
    server.call("disconnect", json!({ "user": "42", "client": id }));
    assert_eq!(kept.closed(), 3503);

    server.publish("news", json!(1));
    assert_eq!((other.publication().1, gone.publication().1), (json!(1), json!(1)));
    assert_eq!(server.disconnects(3503), 4);
    assert_eq!(server.disconnects(4321), 1);
    witness.hears(&server);
}

#[test]
fn unsubscribe_takes_subscriptions_away() {
    let server = Server::start(GUARDED);
    let mut witness = Witness::join(&server);
    let mut client = Client::connected_as(&server, "42");
    ["a", "b", "c"].into_iter().for_each(|channel| client.subscribe(channel));
    assert_eq!(server.call("unsubscribe", json!({ "user": "42", "channel": "b" })), json!({ "result": {} }));
    let why = json!({ "code": 2000, "reason": "server unsubscribe" });
    let push = |channel: &str| json!({ "push": { "channel": channel, "unsubscribe": why } });
    assert_eq!(client.next(), push("b"));
    server.publish("b", json!(1));
    server.publish("a", json!(2));
    assert_eq!(client.publication(), ("a".into(), json!(2)), "and nothing of b");
    server.call("unsubscribe", json!({ "user": "42", "channel": "" }));
    let (one, two) = (client.next(), client.next());
    assert!([[&one, &two], [&two, &one]].contains(&[&push("a"), &push("c")]), "{one} {two}");
    client.subscribe("b");
    assert_eq!(server.metric("gannet_client_num_server_unsubscribes_total"), 3);
    witness.hears(&server);
}

#[test]
fn channels_and_info_tell_the_numbers() {
    let server = Server::start(&[GUARDED, &["--reactors", "3", "--node.name", "nest"]].concat());
    let users = ["1", "1", "2", ""];
    let mut clients: Vec<Client> = users.iter().map(|user| Client::connected_as(&server, user)).collect();
    clients.iter_mut().for_each(|client| client.subscribe("all"));
    clients[0].subscribe("first");
    clients[0].subscribe("fourth");
    let channels = |pattern: &str| server.call("channels", json!({ "pattern": pattern }))["result"]["channels"].clone();
    let n = |count: u64| json!({ "num_clients": count });
    assert_eq!(channels(""), json!({ "all": n(4), "first": n(1), "fourth": n(1) }));
    assert_eq!(channels("f*"), json!({ "first": n(1), "fourth": n(1) }));
    assert_eq!(channels("none*"), json!({}));
    let info = server.call("info", json!({}));
    let node = &info["result"]["nodes"][0];
    for (key, expected) in [("num_clients", 4), ("num_users", 3), ("num_subs", 6), ("num_channels", 3)] {
        assert_eq!(node[key], expected, "{key} in {node}");
    }
    assert_eq!(node["name"], "nest");
    assert!(node["uid"].is_string() && node["version"].is_string() && node["uptime"].is_u64(), "{node}");
    let metrics = &node["metrics"];
    assert!(metrics["interval"].as_f64().is_some_and(|seconds| seconds > 0.0), "{metrics}");
    assert_eq!(metrics["items"]["gannet_client_connections_accepted_total"], 4.0, "{metrics}");
    assert_eq!(metrics["items"]["gannet_node_slow_clients_total"], Value::Null, "only what there is");
    drop(clients);
    let empty = || (channels("") == json!({})).then_some(());
    until("no channels", empty);
}

#[test]
fn a_connection_may_be_kept_and_its_body_may_come_in_pieces() {
    let server = Server::start(OPEN);
    let mut client = Client::subscribed(&server, "c");
    let mut peer = Peer::open(server.address);
    let body = r#"{"channel":"c","data":{"long":"one, long enough to be cut anywhere"}}"#;
    let request = format!(
        "POST /api/publish HTTP/1.1\r\nHost: gannet.example\r\nX-API-Key: {KEY}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let handed_off = || server.metric("gannet_transport_connections_handed_off_total");
    let before = handed_off();
    // The head and a little of the body: enough for the reactor to hand the socket off with what it read.
    let (begun, rest) = request.split_at(request.len() - body.len() + 10);
    peer.send(begun.as_bytes());
    until("the hand-off", || (handed_off() > before).then_some(()));
    rest.as_bytes().chunks(7).for_each(|piece| peer.send(piece));
    assert_eq!(peer.response().body, r#"{"result":{}}"#);
    for _ in 0..3 {
        peer.send(request.as_bytes());
        assert_eq!(peer.response().status, 200);
    }
    // Two requests at once, the second cut.
    peer.send([request.as_bytes(), &request.as_bytes()[..40]].concat().as_slice());
    assert_eq!(peer.response().status, 200);
    peer.send(&request.as_bytes()[40..]);
    assert_eq!(peer.response().status, 200);
    let expected: Value = serde_json::from_str(body).expect("JSON");
    for _ in 0..6 {
        assert_eq!(client.publication().1, expected["data"]);
    }
}

#[test]
fn data_arrives_as_it_was_sent_but_on_one_line() {
    let server = Server::start(OPEN);
    let mut client = Client::subscribed(&server, "c");
    let data = "{\n  \"text\": \"one\\ntwo \u{2028}</x>\",\r\n  \"n\": 1.50\n}";
    let body = format!("{{\"channel\": \"c\",\r\n \"tags\": {{\"a\": \"b\"}},\n \"data\": {data}}}");
    assert_eq!(call(&server, "publish", &body).status, 200);
    let push = client.next();
    let publication = &push["push"]["pub"];
    assert_eq!(publication["data"], json!({ "text": "one\ntwo \u{2028}</x>", "n": 1.50 }));
    assert_eq!(publication["tags"], json!({ "a": "b" }));
}

#[test]
fn a_body_may_be_chunked_or_wait_to_be_asked_for() {
    let server = Server::start(OPEN);
    let mut client = Client::subscribed(&server, "c");
    let head = format!("POST /api/publish HTTP/1.1\r\nHost: gannet.example\r\nX-API-Key: {KEY}\r\n");
    let mut peer = Peer::open(server.address);
    peer.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n5\r\n{{\"cha").as_bytes());
    peer.send(format!("\r\n13\r\n{}\r\n0\r\n\r\n", &PUBLISH[5..]).as_bytes());
    assert_eq!(peer.response().status, 200);
    peer.send(format!("{head}Expect: 100-continue\r\nContent-Length: {}\r\n\r\n", PUBLISH.len()).as_bytes());
    assert_eq!(peer.response().status, 100);
    peer.send(PUBLISH.as_bytes());
    assert_eq!(peer.response().status, 200);
    assert_eq!((client.publication().1, client.publication().1), (json!(1), json!(1)));
}

#[test]
fn who_keeps_a_connection_and_asks_nothing_is_closed() {
    let server = Server::with(OPEN, &["--http_server.handshake_timeout", "300ms"]);
    let mut peer = Peer::open(server.address);
    assert_eq!(peer.request("GET", "/health", &[], "").expect("an answer").status, 200);
    peer.ended();
}

#[test]
fn a_body_that_does_not_come_gets_408() {
    let server = Server::start(OPEN);
    let mut witness = Witness::join(&server);
    let mut peer = Peer::open(server.address);
    peer.send(
        format!("POST /api/publish HTTP/1.1\r\nHost: a\r\nX-API-Key: {KEY}\r\nContent-Length: 99\r\n\r\n{{").as_bytes(),
    );
    assert_eq!(peer.response().status, 408);
    assert_eq!(server.metric(&failures("publish", 408)), 1);
    witness.hears(&server);
}

#[test]
fn who_reads_no_answers_is_closed() {
    let server = Server::with(OPEN, &["--http_server.service_connection_limit", "2"]);
    let mut deaf: Vec<Peer> = (0..2).map(|_| Peer::open_narrow(server.address)).collect();
    let many = "GET /health HTTP/1.1\r\nHost: gannet.example\r\n\r\n".repeat(100_000);
    deaf.iter_mut().for_each(|peer| peer.send_some(many.as_bytes()));
    let asked = || Peer::open(server.address).request("GET", "/health", &[], "").expect("an answer").status;
    until("a place for who listens", || (asked() == 200).then_some(()));
}

#[test]
fn the_api_is_described_unless_that_is_off() {
    let get = |server: &Server| Peer::open(server.address).request("GET", "/openapi.json", &[], "").expect("an answer");
    let server = Server::with(OPEN, &["--http_api.handler_prefix", "/backend/api"]);
    let described = get(&server);
    assert_eq!((described.status, described.header("content-type").as_deref()), (200, Some("application/json")));
    let document: Value = serde_json::from_str(&described.body).expect("JSON");
    assert_eq!((&document["openapi"], &document["servers"][0]["url"]), (&json!("3.1.0"), &json!("/backend/api")));
    let paths = document["paths"].as_object().expect("paths");
    assert_eq!(paths.len(), METHODS.len());
    assert!(METHODS.iter().all(|method| paths.contains_key(&format!("/{method}"))), "{:?}", paths.keys());
    assert_eq!(get(&Server::with(OPEN, &["--openapi.enabled=false"])).status, 404);
}
