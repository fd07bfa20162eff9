//! The transports whose responses do not end, the endpoint for what their clients say, and clients that only listen.

use super::USER;
use crate::client::{Witness, token};
use crate::peer::{CLOSE, Peer, Response, TEXT};
use crate::server::Server;
use serde_json::{Value, json};

const ENDPOINTS: &[&str] = &[
    "--client.insecure",
    "--client.token.hmac_secret_key",
    crate::server::SECRET,
    "--reactors",
    "2",
    "--sse.enabled",
    "--http_stream.enabled",
    "--uni_sse.enabled",
    "--uni_http_stream.enabled",
    "--uni_websocket.enabled",
];
const CONNECT: &str = r#"{"id":1,"connect":{}}"#;

/// A whole request by hand.
fn ask(server: &Server, text: &str) -> (Peer, Response) {
    let mut peer = Peer::open(server.address);
    peer.send(text.as_bytes());
    let response = peer.response();
    (peer, response)
}

fn post(path: &str, lines: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("POST {path} HTTP/1.1\r\nHost: gannet.example\r\n{lines}Content-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// The code that a stream ends with.
fn end_code(rest: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(rest);
    let last = text.lines().rfind(|line| !line.is_empty()).expect("a line");
    let last: Value = serde_json::from_str(last.strip_prefix("data: ").unwrap_or(last)).expect("JSON");
    let push = last.get("push").unwrap_or(&last);
    push["disconnect"]["code"].as_u64().unwrap_or_else(|| panic!("no disconnect: {text}"))
}

#[test]
fn requests_for_a_stream_that_are_none_are_refused() {
    let server = Server::start(ENDPOINTS);
    let mut witness = Witness::join(&server);
    let stream = "/connection/http_stream HTTP/1.1\r\nHost: gannet.example\r\n";
    let chunks = format!("POST {stream}Transfer-Encoding: chunked\r\n");
    for (request, status) in [
        ("GET /connection/sse HTTP/1.1\r\nHost: gannet.example\r\n\r\n".to_owned(), 400),
        ("PUT /connection/sse HTTP/1.1\r\nHost: gannet.example\r\n\r\n".to_owned(), 405),
        ("GET /connection/uni_http_stream HTTP/1.1\r\nHost: gannet.example\r\n\r\n".to_owned(), 405),
        (format!("GET {stream}\r\n"), 405),
        (format!("POST {stream}\r\n"), 411),
        (format!("POST {stream}Content-Length: -1\r\n\r\n"), 400),
        (format!("POST {stream}Content-Length: 1\r\nContent-Length: 1\r\n\r\nx"), 400),
        (format!("{chunks}Content-Length: 5\r\n\r\n0\r\n\r\n"), 400),
        (format!("{chunks}\r\nxyz\r\n"), 400),
        (format!("{chunks}\r\n2\r\n{{}}xx0\r\n\r\n"), 400),
        (format!("{chunks}\r\n{}\r\n", "1".repeat(200)), 400),
        (format!("{chunks}\r\n10001\r\n"), 413),
        (format!("{chunks}\r\nffffffffffffffff\r\n"), 413),
        (format!("POST {stream}Content-Length: 65537\r\n\r\n"), 413),
        (format!("POST {stream}Content-Length: 99999999999999999999\r\n\r\n"), 413),
        (format!("POST {stream}Origin: https://elsewhere.example\r\nContent-Length: 2\r\n\r\n{{}}"), 403),
    ] {
        let before = server.metric(&format!("gannet_node_handshake_refusals_total{{status=\"{status}\"}}"));
        let (mut peer, response) = ask(&server, &request);
        assert_eq!(response.status, status, "{request}: {response:?}");
        peer.ended();
        server.counts(&format!("gannet_node_handshake_refusals_total{{status=\"{status}\"}}"), before + 1);
        witness.hears(&server);
    }
}

#[test]
fn commands_that_are_none_end_a_stream_with_a_push() {
    let server = Server::start(ENDPOINTS);
    let mut witness = Witness::join(&server);
    let deep = format!(r#"{{"id":{}}}"#, "[".repeat(1000));
    let bad = |body: &str| (body.as_bytes().to_vec(), 3501);
    let mut bodies: Vec<(Vec<u8>, u64)> =
        ["", "\n", "x", "[]", "{}", "{\"id\":1}", "{\"id\":NaN}", &deep].map(bad).into();
    bodies.push(bad(r#"{"id":1,"subscribe":{"channel":"c"}}"#));
    bodies.push(bad(&format!("{CONNECT}\n{CONNECT}")));
    bodies.push((b"{\"id\":1,\"connect\":{\"name\":\"\xff\"}}".to_vec(), 3501));
    bodies.push((format!("{CONNECT}\n{{\"send\":{{}}}}").into_bytes(), 3508));
    bodies.push((br#"{"id":1,"connect":{"token":"x"}}"#.to_vec(), 3500));
    for path in ["/connection/sse", "/connection/http_stream"] {
        for (body, code) in &bodies {
            let before = server.disconnects(*code as u16);
            let mut peer = Peer::open(server.address);
            peer.send(&post(path, "", body));
            assert_eq!(peer.response().status, 200);
            assert_eq!(end_code(&peer.rest()), *code, "{path}: {:.200}", body.escape_ascii().to_string());
            assert_eq!(server.disconnects(*code as u16), before + 1);
            witness.hears(&server);
        }
    }
    // In Protobuf the push is: disconnect, its code 3501.
    for body in [&b""[..], b"\xff", b"\x05\x08\x01\x22\x00", b"\x00", b"\x04\x08\x01\x2a\x00"] {
        let mut peer = Peer::open(server.address);
        peer.send(&post("/connection/http_stream", "Content-Type: application/octet-stream\r\n", body));
        assert_eq!(peer.response().status, 200);
        let rest = peer.rest();
        assert!(rest.windows(3).any(|three| three == b"\x08\xad\x1b"), "{body:?}: {rest:?}");
        witness.hears(&server);
    }
}

#[test]
fn what_listeners_say_is_how_they_connect_or_nothing() {
    let server = Server::start(ENDPOINTS);
    let mut witness = Witness::join(&server);
    let old = json!({ "token": token(&json!({ "sub": USER, "exp": 1 })) }).to_string();
    let deep = format!("{{\"subs\":{}", "[".repeat(1000));
    for (said, status, code) in [
        ("x", 400, 3501),
        ("[]", 400, 3501),
        ("{", 400, 3501),
        ("5", 400, 3501),
        (r#"{"token":5}"#, 400, 3501),
        (r#"{"subs":[]}"#, 400, 3501),
        (r#"{"subs":{"c":[]}}"#, 400, 3501),
        (r#"{"subs":{"nowhere:c":{}}}"#, 200, 3501),
        (r#"{"token":"","token":""}"#, 400, 3501),
        (&deep, 400, 3501),
        (r#"{"token":"x"}"#, 200, 3500),
        (&old, 200, 3005),
    ] {
        for path in ["/connection/uni_sse", "/connection/uni_http_stream"] {
            let mut peer = Peer::open(server.address);
            peer.send(&post(path, "", said.as_bytes()));
            assert_eq!(peer.response().status, status, "{path}: {said:.200}");
            if status == 200 {
                assert_eq!(end_code(&peer.rest()), code, "{path}: {said:.200}");
            }
        }
        let mut peer = Peer::open(server.address).upgrade("/connection/uni_websocket");
        peer.send_frame(TEXT, said.as_bytes());
        assert_eq!(end_code(peer.text().as_bytes()), code, "{said:.200}");
        assert_eq!(u64::from(peer.closed().0), code);
        assert!(peer.is_ended());
        witness.hears(&server);
    }
    let mut peer = Peer::open(server.address).upgrade("/connection/uni_websocket");
    peer.send_frame(TEXT, br#"{"subs":{"news":{}}}"#);
    assert!(peer.text().contains("\"subs\":{\"news\":{}}"));
    for said in ["{}", "garbage", CONNECT, r#"{"id":2,"publish":{"channel":"news","data":1}}"#] {
        peer.send_frame(TEXT, said.as_bytes());
    }
    server.publish("news", json!("heard"));
    assert_eq!(peer.text(), r#"{"channel":"news","pub":{"data":"heard"}}"#);
    peer.send_frame(CLOSE, &1000u16.to_be_bytes());
    witness.hears(&server);
}

#[test]
fn commands_by_another_request_are_for_their_session_alone() {
    let server = Server::start(ENDPOINTS);
    let mut witness = Witness::join(&server);
    let mut stream = Peer::open(server.address);
    stream.send(&post("/connection/http_stream", "", CONNECT.as_bytes()));
    assert_eq!(stream.response().status, 200);
    let reply: Value = serde_json::from_str(&stream.line().expect("a line")).expect("JSON");
    let text = |key: &str| reply["connect"][key].as_str().expect("text").to_owned();
    let (session, node) = (text("session"), text("node"));
    let say = |session: &str, node: &str, data: Value| {
        let body = json!({ "session": session, "node": node, "data": data }).to_string();
        let mut peer = Peer::open(server.address);
        peer.send(&post("/emulation", "", body.as_bytes()));
        peer.response().status
    };
    let command = json!("{\"id\":2,\"subscribe\":{\"channel\":\"c\"}}");
    for body in ["", "x", "[]", "{}", r#"{"data":{}}"#, r#"{"session":5,"data":""}"#, r#"{"data":"","data":""}"#] {
        let mut peer = Peer::open(server.address);
        peer.send(&post("/emulation", "", body.as_bytes()));
        assert_eq!(peer.response().status, 400, "{body}");
    }
    let request = "/emulation HTTP/1.1\r\nHost: gannet.example\r\n";
    for (text, status) in [
        (format!("GET {request}\r\n"), 405),
        (format!("POST {request}Content-Length: 65537\r\n\r\n"), 413),
        (format!("POST {request}Origin: https://elsewhere.example\r\nContent-Length: 2\r\n\r\n{{}}"), 403),
    ] {
        assert_eq!(ask(&server, &text).1.status, status, "{text}");
    }
    assert_eq!(say("nobody", &node, command.clone()), 404);
    assert_eq!(say(&session, "another node", command.clone()), 404);
    // Names as they are made, but of nobody here: no difference is shown, and it is counted.
    let other = |at: usize| {
        let digit = if session.as_bytes()[at] == b'0' { "1" } else { "0" };
        [&session[..at], digit, &session[at + 1..]].concat()
    };
    for (done, at) in [11, 19, 20, session.len() - 1].into_iter().enumerate() {
        assert_eq!(say(&other(at), &node, command.clone()), 204);
        server.counts("gannet_client_emulation_unknown_session_total", done as u64 + 1);
    }
    assert_eq!(say(&session, &node, command.clone()), 204);
    assert_eq!(stream.line().as_deref(), Some("{\"id\":2,\"subscribe\":{}}"), "nothing else came of all that");
    witness.hears(&server);
    assert_eq!(say(&session, &node, json!("garbage")), 204);
    assert_eq!(end_code(&stream.rest()), 3501);
    server.counts("gannet_client_num_server_disconnects_total{code=\"3501\"}", 1);
    witness.hears(&server);
}
