//! The opening handshake: what is refused and with which words, and what is taken although it comes oddly.

use crate::client::Witness;
use crate::peer::{PATH, Peer, Response, TEXT, frame, upgrade_head};
use crate::server::{OPEN, Server};
use serde_json::{Value, json};

/// The answer to `request`, after which the server must end the connection.
fn answer(server: &Server, request: &[u8]) -> Response {
    let mut peer = Peer::open(server.address);
    peer.send(request);
    let response = peer.response();
    peer.ended();
    response
}

fn refusals(status: u16) -> String {
    format!("gannet_node_handshake_refusals_total{{status=\"{status}\"}}")
}

#[test]
fn a_handshake_that_lacks_something_is_told_what() {
    let server = Server::start(OPEN);
    let mut witness = Witness::join(&server);
    let good = upgrade_head(PATH, &[]);
    for (from, to, status, words) in [
        ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 8", 426, "Sec-WebSocket-Version must be 13"),
        ("Sec-WebSocket-Version: 13\r\n", "", 426, "Sec-WebSocket-Version must be 13"),
        ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "", 400, "Sec-WebSocket-Key"),
        ("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ=", 400, "16 bytes"),
        ("Upgrade: websocket\r\n", "", 400, "Upgrade header"),
        ("Connection: Upgrade\r\n", "", 400, "Connection header"),
        ("Host: gannet.example\r\n", "", 400, "Host"),
        ("Host: gannet.example\r\n", "Host: a\r\nHost: b\r\n", 400, "Host"),
        ("HTTP/1.1", "HTTP/1.0", 400, "HTTP/1.1"),
        ("GET", "POST", 405, "GET"),
    ] {
        let request = good.replacen(from, to, 1);
        let response = answer(&server, request.as_bytes());
        assert_eq!(response.status, status, "{request}");
        assert!(response.body.contains(words), "{:?} says nothing of {words:?}", response.body);
        if status == 426 {
            assert_eq!(response.header("sec-websocket-version").as_deref(), Some("13"));
        }
        if status == 405 {
            assert_eq!(response.header("allow").as_deref(), Some("GET"));
        }
        witness.hears(&server);
    }
    for (status, times) in [(426, 2), (400, 7), (405, 1)] {
        assert_eq!(server.metric(&refusals(status)), times, "{status}");
    }
}

#[test]
fn what_is_no_http_gets_400() {
    let server = Server::start(OPEN);
    let mut witness = Witness::join(&server);
    let hello = [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".as_slice(), &[7; 506]].concat();
    let inputs: [&[u8]; 6] = [
        &hello,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\0\0\0\0",
        b"GET /\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"SSH-2.0-x\r\n\r\n",
    ];
    for (done, input) in inputs.into_iter().enumerate() {
        assert_eq!(answer(&server, input).status, 400, "{}", input.escape_ascii());
        assert_eq!(server.metric(&refusals(400)), done as u64 + 1);
        witness.hears(&server);
    }
}

#[test]
fn a_head_beyond_its_limits_gets_431() {
    let server = Server::with(OPEN, &["--http_server.header_size_limit", "2048"]);
    let mut witness = Witness::join(&server);
    let long = format!("X-Long: {}", "a".repeat(4000));
    let many = vec!["X: y"; 65];
    let endless = format!("GET {PATH} HTTP/1.1\r\nX-Endless: {}", "a".repeat(3000));
    for (done, request) in [upgrade_head(PATH, &[&long]), upgrade_head(PATH, &many), endless].into_iter().enumerate() {
        let response = answer(&server, request.as_bytes());
        assert_eq!(response.status, 431);
        assert!(response.body.contains("header_size_limit"), "{}", response.body);
        assert_eq!(server.metric(&refusals(431)), done as u64 + 1);
        witness.hears(&server);
    }
    let fits = format!("X-Long: {}", "a".repeat(1700));
    let mut peer = Peer::open(server.address);
    peer.send(upgrade_head(PATH, &[&fits]).as_bytes());
    assert_eq!(peer.response().status, 101);
}

#[test]
fn a_page_of_another_host_gets_403() {
    let status = |server: &Server, origin: &str| {
        let mut peer = Peer::open(server.address);
        peer.send(upgrade_head(PATH, &[&format!("Origin: {origin}")]).as_bytes());
        peer.response().status
    };
    let server = Server::start(OPEN);
    assert_eq!(status(&server, "https://gannet.example"), 101, "the server's own host");
    for foreign in ["https://evil.example", "https://gannet.example.evil.example", "null", ""] {
        assert_eq!(status(&server, foreign), 403, "{foreign}");
    }
    assert_eq!(server.metric("gannet_client_origins_refused_total"), 4);

    let server = Server::with(OPEN, &["--client.allowed_origins", "https://*.example.com"]);
    assert_eq!(status(&server, "https://app.example.com"), 101);
    for foreign in ["https://gannet.example", "https://app.example.com.evil.example", "http://app.example.com"] {
        assert_eq!(status(&server, foreign), 403, "{foreign}");
    }
    assert_eq!(status(&Server::with(OPEN, &["--client.allowed_origins", "*"]), "https://any.example"), 101);
}

#[test]
fn a_head_that_does_not_come_is_not_waited_for() {
    let server = Server::with(OPEN, &["--http_server.handshake_timeout", "300ms"]);
    let mut witness = Witness::join(&server);
    let head = upgrade_head(PATH, &[]);
    for begun in [&b""[..], b"G", &head.as_bytes()[..head.len() - 1]] {
        let mut peer = Peer::open(server.address);
        peer.send(begun);
        peer.ended();
        witness.hears(&server);
    }
    server.counts("gannet_transport_handshake_timeouts_total", 3);
}

#[test]
fn a_head_may_come_byte_by_byte() {
    let server = Server::start(OPEN);
    let mut peer = Peer::open(server.address);
    for byte in upgrade_head(PATH, &[]).as_bytes().chunks(1) {
        peer.send(byte);
    }
    assert_eq!(peer.response().status, 101);
    peer.send_frame(TEXT, br#"{"id":1,"connect":{}}"#);
    assert!(peer.text().starts_with(r#"{"id":1,"connect":{"client":"#));
}

#[test]
fn frames_may_follow_the_head_at_once() {
    let server = Server::start(OPEN);
    let mut peer = Peer::open(server.address);
    let mut all = upgrade_head(PATH, &[]).into_bytes();
    all.extend(frame(TEXT, br#"{"id":1,"connect":{}}"#));
    all.extend(frame(TEXT, br#"{"id":2,"subscribe":{"channel":"news"}}"#));
    let (now, later) = all.split_at(all.len() - 5);
    peer.send(now);
    assert_eq!(peer.response().status, 101);
    assert!(peer.text().starts_with(r#"{"id":1,"connect":{"#));
    peer.send(later);
    assert_eq!(serde_json::from_str::<Value>(&peer.text()).expect("JSON"), json!({ "id": 2, "subscribe": {} }));
}

#[test]
fn a_subprotocol_is_named_only_if_it_was_offered() {
    let server = Server::start(OPEN);
    for (offered, chosen) in [
        (None, None),
        (Some("other"), None),
        (Some("other, centrifuge-json"), Some("centrifuge-json")),
        (Some("centrifuge-protobuf"), Some("centrifuge-protobuf")),
    ] {
        let line = offered.map(|names| format!("Sec-WebSocket-Protocol: {names}"));
        let mut peer = Peer::open(server.address);
        peer.send(upgrade_head(PATH, &line.as_deref().into_iter().collect::<Vec<_>>()).as_bytes());
        let response = peer.response();
        assert_eq!(response.status, 101);
        assert_eq!(response.header("sec-websocket-protocol").as_deref(), chosen, "{offered:?}");
        assert_eq!(response.header("sec-websocket-accept").as_deref(), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    }
    let mut peer = Peer::open(server.address);
    peer.send(upgrade_head(&format!("{PATH}/?format=protobuf"), &[]).as_bytes());
    assert_eq!(peer.response().header("sec-websocket-protocol"), None);
}

#[test]
fn a_peer_that_sends_no_more_still_gets_its_answer() {
    let server = Server::start(OPEN);
    let mut peer = Peer::open(server.address);
    // Corked, so that the request and the end of the stream arrive in one packet.
    socket2::SockRef::from(&peer.stream).set_tcp_cork(true).expect("cork");
    peer.send(b"GET /connection/websocket HTTP/1.1\r\nHost: gannet.example\r\n\r\n");
    peer.stream.shutdown(std::net::Shutdown::Write).expect("shutdown");
    let response = peer.try_response();
    assert_eq!(response.map(|response| response.status), Some(400), "the answer to a request that was sent whole");
}
