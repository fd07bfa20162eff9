//! Server-sent events and HTTP streams, with commands by the emulation endpoint.

use crate::client::{Client, Witness, token};
use crate::peer::{PATH, Peer};
use crate::server::{GUARDED, OPEN, PING, Server, until};
use crate::stream::{ALL, EMULATION, SSE, STREAM, Stream, answer, get, post};
use rustix::process::Signal;
use serde_json::json;

const CONNECT: &str = r#"{"id":1,"connect":{}}"#;
const CLIENTS: &str = "gannet_node_num_clients";

fn open() -> Server {
    Server::with(OPEN, ALL)
}

fn chunked(path: &str, body: &str) -> String {
    let chunks: String =
        body.as_bytes().chunks(7).map(|c| format!("{:x}\r\n{}\r\n", c.len(), String::from_utf8_lossy(c))).collect();
    format!("POST {path} HTTP/1.1\r\nHost: gannet.example\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n")
}

#[test]
fn a_client_says_by_emulation_what_it_cannot_say_by_its_stream() {
    let server = open();
    for request in [
        get(SSE, CONNECT),
        post(SSE, &[], CONNECT),
        post(STREAM, &["Content-Type: application/json"], CONNECT),
        chunked(STREAM, CONNECT),
        post(&format!("{STREAM}/"), &[], CONNECT).replace("HTTP/1.1", "HTTP/1.0"),
    ] {
        let mut stream = Stream::open(&server, &request);
        let reply = stream.connect();
        assert_eq!((&reply["ping"], &reply["pong"]), (&json!(PING), &json!(true)), "{reply}");
        assert_eq!(stream.ask(&server, json!({ "subscribe": { "channel": "news" } }))["subscribe"], json!({}));
        // Who is subscribed gets its own publication, and what others publish.
        let reply = stream.ask(&server, json!({ "publish": { "channel": "news", "data": { "line": "a\nb" } } }));
        assert_eq!(reply["publish"], json!({}), "{reply}");
        let push = stream.next();
        assert_eq!(push["push"]["pub"]["data"], json!({ "line": "a\nb" }), "{push}");
        server.publish("news", json!("from the API"));
        assert_eq!(stream.next(), json!({ "push": { "channel": "news", "pub": { "data": "from the API" } } }));
        assert_eq!(stream.ask(&server, json!({ "unsubscribe": { "channel": "news" } }))["unsubscribe"], json!({}));
    }
    let several = format!("{CONNECT}\n{{\"id\":2,\"publish\":{{\"channel\":\"other\",\"data\":1}}}}\n");
    let mut stream = Stream::open(&server, &post(STREAM, &[], &several));
    stream.connect();
    assert_eq!(stream.next(), json!({ "id": 2, "publish": {} }));
    drop(stream);
    until("all to be gone", || (server.metric(CLIENTS) == 0).then_some(()));
    assert_eq!(server.metric("gannet_transport_connections_lost_total"), 0, "the end of a stream is no loss");
}

#[test]
fn transports_hear_one_another() {
    let server = open();
    let mut clients = [Stream::subscribed(&server, SSE, "news"), Stream::subscribed(&server, STREAM, "news")];
    let mut websocket = Client::subscribed(&server, "news");
    for n in 0..50 {
        server.publish("news", json!(n));
    }
    for n in 0..50 {
        assert_eq!(websocket.publication().1, n);
        for client in &mut clients {
            assert_eq!(client.next()["push"]["pub"]["data"], n);
        }
    }
}

#[test]
fn an_http_stream_may_be_binary() {
    let server = open();
    let mut peer = Peer::open(server.address);
    let head = "Host: gannet.example\r\nContent-Type: application/octet-stream\r\n";
    let ask = |path: &str, body: &[u8]| {
        [format!("POST {path} HTTP/1.1\r\n{head}Content-Length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()
    };
    // Command { id: 1, connect: {} }
    peer.send(&ask(STREAM, b"\x04\x08\x01\x22\x00"));
    let response = peer.response();
    assert_eq!((response.status, response.header("content-type").as_deref()), (200, Some("application/octet-stream")));
    let mut message = |expected: u8| {
        let size = match peer.exactly(1)[0] {
            low @ 0x80.. => usize::from(low & 0x7f) | usize::from(peer.exactly(1)[0]) << 7,
            size => usize::from(size),
        };
        let message = peer.exactly(size);
        assert_eq!(message[..2], [0x08, expected], "{message:?}");
        message
    };
    let connected = message(1);
    let field = |number: u8, size: usize| {
        let tag = [number << 3 | 2, size as u8];
        let at = connected.windows(2).position(|two| two == tag).expect("the field") + 2;
        connected[at..at + size].to_vec()
    };
    let (session, node) = (field(9, 52), field(10, 36));
    // EmulationRequest { node, session, data }, data being Command { id: 2, subscribe: { channel: "c" } }.
    let data = b"\x07\x08\x02\x2a\x03\x0a\x01c";
    let request = [&b"\x0a\x24"[..], &node, b"\x12\x34", &session, b"\x1a\x08", data].concat();
    let mut other = Peer::open(server.address);
    other.send(&ask(EMULATION, &request));
    assert_eq!(other.response().status, 204);
    assert_eq!(message(2), b"\x08\x02\x32\x00");
}

#[test]
fn pongs_come_by_emulation() {
    let server =
        Server::with(OPEN, &[ALL, &["--client.ping_interval", "1s", "--client.pong_timeout", "500ms"]].concat());
    for path in [SSE, STREAM] {
        let mut stream = Stream::connected(&server, path);
        for _ in 0..3 {
            assert_eq!(stream.next(), json!({}));
            stream.send(&server, "{}");
        }
        assert_eq!(stream.closed(), 3012);
    }
    assert_eq!(server.disconnects(3012), 2);
}

#[test]
fn a_stream_ends_with_a_push_that_says_why() {
    let server = open();
    for path in [SSE, STREAM] {
        let mut stream = Stream::subscribed(&server, path, "news");
        server.call("disconnect", json!({ "user": "", "disconnect": { "code": 4001, "reason": "go" } }));
        let told = json!({ "code": 4001, "reason": "go" });
        assert_eq!(stream.next(), json!({ "push": { "disconnect": told } }));
        assert_eq!(stream.try_next(), None);
        // What comes for it from now on is for nobody.
        stream.send(&server, r#"{"id":9,"publish":{"channel":"news","data":1}}"#);
    }
    server.counts("gannet_client_emulation_unknown_session_total", 2);
    let mut bad = Stream::open(&server, &post(STREAM, &[], "what?"));
    assert_eq!(bad.closed(), 3501);
    assert_eq!(Stream::open(&server, &post(STREAM, &[], "")).closed(), 3501);
    assert_eq!(Stream::open(&server, &get(SSE, "{}")).closed(), 3501, "no pong is awaited");
}

#[test]
fn errors_and_deadlines_are_those_of_any_client() {
    let server = Server::with(GUARDED, &[ALL, &["--client.stale_close_delay", "300ms"]].concat());
    let connect = |token: &str| post(STREAM, &[], &json!({ "id": 1, "connect": { "token": token } }).to_string());
    let mut late = Stream::open(&server, &connect(&token(&json!({ "sub": "1", "exp": 1 }))));
    assert_eq!(late.next()["error"]["code"], 109);
    assert_eq!(late.closed(), 3502);
    assert_eq!(Stream::open(&server, &connect("no token")).closed(), 3500);
    let mut user = Stream::open(&server, &connect(&token(&json!({ "sub": "1" }))));
    user.connect();
    assert_eq!(user.ask(&server, json!({ "publish": { "channel": "c", "data": 1 } }))["error"]["code"], 103);
    user.send(&server, r#"{"id":8,"connect":{}}"#);
    assert_eq!(user.closed(), 3501);
}

#[test]
fn a_request_that_is_wrong_is_told_what() {
    let server = Server::with(OPEN, &[ALL, &["--http_stream.max_request_body_size", "100"]].concat());
    let mut witness = Witness::join(&server);
    let long = "x".repeat(101);
    for (request, status) in [
        (format!("GET {STREAM} HTTP/1.1\r\nHost: h\r\n\r\n"), 405),
        (format!("PUT {SSE} HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"), 405),
        (format!("GET {SSE} HTTP/1.1\r\nHost: h\r\n\r\n"), 400),
        (format!("GET {SSE}?cf_connect={CONNECT} HTTP/1.1\r\n\r\n").replace(' ', "+").replacen('+', " ", 1), 400),
        (format!("POST {STREAM} HTTP/1.1\r\nContent-Length: 1\r\n\r\nx"), 400),
        (format!("POST {STREAM} HTTP/1.1\r\nHost: h\r\n\r\n"), 411),
        (format!("POST {STREAM} HTTP/1.1\r\nHost: h\r\nContent-Length: x\r\n\r\n"), 400),
        (format!("POST {STREAM} HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"), 400),
        (format!("POST {STREAM} HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"), 400),
        (format!("POST {STREAM} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n"), 400),
        (format!("POST {STREAM} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"), 400),
        (post(STREAM, &[], &long), 413),
        (chunked(STREAM, &long), 413),
    ] {
        let before = server.metric(&format!("gannet_node_handshake_refusals_total{{status=\"{status}\"}}"));
        assert_eq!(answer(&server, &request).status, status, "{request}");
        server.counts(&format!("gannet_node_handshake_refusals_total{{status=\"{status}\"}}"), before + 1);
        witness.hears(&server);
    }
    assert_eq!(
        answer(&server, &format!("GET {STREAM} HTTP/1.1\r\nHost: h\r\n\r\n")).header("allow").as_deref(),
        Some("POST")
    );
    until("all but the witness to be gone", || {
        (server.metric("gannet_client_connections_inflight") == 1).then_some(())
    });
}

#[test]
fn a_body_may_come_byte_by_byte_and_is_not_waited_for_without_end() {
    let server = Server::with(OPEN, &[ALL, &["--http_server.handshake_timeout", "2s"]].concat());
    for request in [post(STREAM, &[], CONNECT), chunked(STREAM, CONNECT)] {
        let mut peer = Peer::open(server.address);
        for byte in request.bytes() {
            peer.send(&[byte]);
        }
        Stream::over(peer, "").connect();
    }
    let head = post(STREAM, &["Expect: 100-continue"], CONNECT);
    let (head, body) = head.split_once("\r\n\r\n").expect("a head");
    let mut polite = Peer::open(server.address);
    polite.send(format!("{head}\r\n\r\n").as_bytes());
    assert_eq!(polite.response().status, 100);
    polite.send(body.as_bytes());
    Stream::over(polite, "").connect();
    let mut silent = Peer::open(server.address);
    silent.send(format!("{head}\r\n\r\n").as_bytes());
    assert_eq!(silent.response().status, 100);
    silent.ended();
    server.counts("gannet_transport_handshake_timeouts_total", 1);
}

#[test]
fn pages_of_allowed_origins_may_read_and_others_are_refused() {
    let server = Server::with(OPEN, &[ALL, &["--client.allowed_origins", "https://a.example"]].concat());
    let (good, bad) = ("Origin: https://a.example", "Origin: https://b.example");
    let stream = |line: &str| post(STREAM, &[line], CONNECT);
    let events = |line: &str| get(SSE, CONNECT).replace("Accept", &format!("{line}\r\nAccept"));
    let emulation = |line: &str| post(EMULATION, &[line], r#"{"session":"none","data":"{}"}"#);
    let asks = |path: &str, line: &str| {
        format!(
            "OPTIONS {path} HTTP/1.1\r\nHost: h\r\n{line}\r\nAccess-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: content-type\r\n\r\n"
        )
    };
    for (request, status) in [(stream as fn(&str) -> String, 200), (events, 200), (emulation, 404)] {
        let answered = answer(&server, &request(good));
        assert_eq!(answered.status, status, "{answered:?}");
        assert_eq!(answered.header("access-control-allow-origin").as_deref(), Some("https://a.example"));
        assert_eq!(answered.header("access-control-allow-credentials").as_deref(), Some("true"));
        assert_eq!(answered.header("vary").as_deref(), Some("Origin"));
        let refused = answer(&server, &request(bad));
        assert_eq!((refused.status, refused.header("access-control-allow-origin")), (403, None));
        let twice = answer(&server, &request(&format!("{good}\r\n{good}")));
        assert_eq!((twice.status, twice.header("access-control-allow-origin")), (403, None));
        let program = answer(&server, &request("X: y"));
        assert_eq!((program.status, program.header("access-control-allow-origin")), (status, None));
    }
    for path in [STREAM, SSE, EMULATION] {
        let answered = answer(&server, &asks(path, good));
        assert_eq!(answered.status, 204);
        assert_eq!(answered.header("access-control-allow-origin").as_deref(), Some("https://a.example"));
        assert_eq!(answered.header("access-control-allow-headers").as_deref(), Some("content-type"));
        assert!(answered.header("access-control-allow-methods").expect("methods").contains("POST"));
        assert_eq!(answer(&server, &asks(path, bad)).status, 403);
        let more = format!("{good}\r\nAccess-Control-Request-Headers: x-b3");
        let answered = answer(&server, &asks(path, &more));
        assert_eq!(answered.header("access-control-allow-headers").as_deref(), Some("x-b3, content-type"));
    }
    assert_eq!(server.metric("gannet_client_origins_refused_total"), 6, "those of reactors");
}

#[test]
fn what_is_no_request_for_emulation_is_refused() {
    let server = Server::with(OPEN, &[ALL, &["--emulation.max_request_body_size", "300"]].concat());
    let mut stream = Stream::connected(&server, STREAM);
    let sound = stream.emulated("{}");
    let with = |key: &str, value: &str| {
        let mut changed = sound.clone();
        changed[key] = value.into();
        post(EMULATION, &[], &changed.to_string())
    };
    for (request, status) in [
        (post(EMULATION, &[], ""), 400),
        (post(EMULATION, &[], "{"), 400),
        (post(EMULATION, &[], "[]"), 400),
        (post(EMULATION, &[], r#"{"session":"x","node":"","data":{}}"#), 400),
        (post(EMULATION, &["Content-Type: application/octet-stream"], "\u{7f}"), 400),
        (post(EMULATION, &[], &"x".repeat(301)), 413),
        (chunked(EMULATION, &"x".repeat(301)), 413),
        (format!("GET {EMULATION} HTTP/1.1\r\nHost: h\r\n\r\n"), 405),
        (with("node", "another"), 404),
        (with("session", ""), 404),
        (with("session", &"0".repeat(51)), 404),
        (with("session", &"f".repeat(52)), 404),
    ] {
        let answered = answer(&server, &request);
        assert_eq!(answered.status, status, "{request}");
        assert_eq!(answered.header("connection").as_deref(), Some("close"));
    }
    // The place is right, the mark is not.
    let session = sound["session"].as_str().expect("a session");
    let other = if session.ends_with('0') { "1" } else { "0" };
    let forged = with("session", &format!("{}{other}", &session[..51]));
    assert_eq!(answer(&server, &forged).status, 204, "nobody is told");
    server.counts("gannet_client_emulation_unknown_session_total", 1);
    assert_eq!(stream.ask(&server, json!({ "subscribe": { "channel": "c" } }))["subscribe"], json!({}));
}

#[test]
fn who_lets_too_much_wait_is_slow() {
    let limits = [
        "--http_server.send_buffer_size",
        "16KiB",
        "--client.queue_max_size",
        "256KiB",
        "--websocket.write_timeout",
        "30s",
    ];
    let server = Server::with(OPEN, &[ALL, &limits[..]].concat());
    let mut witness = Witness::join(&server);
    for (path, count) in [(STREAM, 1), (SSE, 2)] {
        let mut stream = Stream::connected_over(Peer::open_narrow(server.address), path);
        assert_eq!(stream.ask(&server, json!({ "subscribe": { "channel": "loud" } }))["subscribe"], json!({}));
        let data = json!("x".repeat(50_000));
        until("the server to have enough of it", || {
            server.publish("loud", data.clone());
            witness.hears(&server);
            (server.disconnects(3008) == count).then_some(())
        });
        assert_eq!(stream.closed(), 3008, "what was begun comes whole, then the reason");
    }
}

#[test]
fn a_drain_tells_streams_to_go() {
    let options = ["--shutdown.delay", "0s", "--shutdown.spread", "500ms", "--shutdown.deadline", "15s"];
    let mut server = Server::with(OPEN, &[ALL, &options[..]].concat());
    let mut streams: Vec<Stream> =
        (0..10).map(|n| Stream::subscribed(&server, if n % 2 == 0 { SSE } else { STREAM }, "news")).collect();
    let mut waiting = Peer::open(server.address);
    waiting.send(post(STREAM, &[], CONNECT).strip_suffix('}').expect("a body").as_bytes());
    server.signal(Signal::TERM);
    streams.iter_mut().for_each(|stream| assert_eq!(stream.closed(), 3001));
    waiting.ended();
    drop(streams);
    assert_eq!(server.exit().code(), Some(0));
}

#[test]
fn streams_are_clients_to_every_limit() {
    let server = Server::with(OPEN, &[ALL, &["--client.connection_limit", "2"]].concat());
    let first = Stream::connected(&server, STREAM);
    let _second = Client::connected(&server);
    let refused = answer(&server, &post(STREAM, &[], CONNECT));
    assert_eq!((refused.status, refused.header("retry-after").as_deref()), (503, Some("1")));
    assert_eq!(answer(&server, &get(SSE, CONNECT)).status, 503);
    drop(first);
    until("the place to be free", || (server.metric("gannet_client_connections_inflight") == 1).then_some(()));
    Stream::connected(&server, SSE);
}

#[test]
fn a_stream_may_follow_plain_http_on_its_connection() {
    let server = open();
    for request in [post(STREAM, &[], CONNECT), get(SSE, CONNECT), post(SSE, &[], CONNECT), chunked(STREAM, CONNECT)] {
        let mut peer = Peer::open(server.address);
        assert_eq!(peer.request("GET", "/health", &[], "").expect("an answer").status, 200);
        let mut stream = Stream::over(peer, &request);
        assert!(stream.connect()["client"].is_string(), "{request}");
        assert_eq!(
            stream.ask(&server, json!({ "subscribe": { "channel": "c" } }))["subscribe"],
            json!({}),
            "{request}"
        );
    }
}

#[test]
fn who_goes_is_noticed_and_more_that_it_says_is_not_heard() {
    let server = open();
    let mut stream = Stream::subscribed(&server, STREAM, "news");
    stream.peer.send(post(STREAM, &[], CONNECT).as_bytes());
    stream.peer.send(&[0; 100_000]);
    server.publish("news", json!(1));
    assert_eq!(stream.next()["push"]["pub"]["data"], 1);
    drop(stream);
    until("its end to be noticed", || (server.metric(CLIENTS) == 0).then_some(()));
    assert_eq!(server.call("channels", json!({}))["result"]["channels"], json!({}));
}

#[test]
fn transports_are_off_by_default() {
    let server = Server::start(OPEN);
    assert_eq!(answer(&server, &post(STREAM, &[], CONNECT)).status, 404);
    assert_eq!(answer(&server, &get(SSE, CONNECT)).status, 404);
    assert_eq!(answer(&server, &post(EMULATION, &[], "{}")).status, 404);
    let reply = Peer::open(server.address).upgrade(PATH).connect();
    assert!(reply["session"].is_null() && reply["node"].is_null(), "{reply}");
}
