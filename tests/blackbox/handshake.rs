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
    for own in ["https://gannet.example:443", "http://GANNET.example"] {
        assert_eq!(status(&server, own), 101, "{own}");
    }
    for foreign in ["https://evil.example", "https://gannet.example.evil.example", "null", ""] {
        assert_eq!(status(&server, foreign), 403, "{foreign}");
    }
    for foreign in ["https://gannet.example:8443", "https://gannet.example.", "ftp://gannet.example"] {
        assert_eq!(status(&server, foreign), 403, "{foreign}");
    }
    // Of two lines neither counts.
    assert_eq!(status(&server, "https://gannet.example\r\nOrigin: https://evil.example"), 403);
    assert_eq!(status(&server, "https://gannet.example\r\nOrigin: https://gannet.example"), 403);
    assert_eq!(server.metric("gannet_client_origins_refused_total"), 9);
    for (host, origin, expected) in [
        ("gannet.example:443", "https://gannet.example", 101),
        ("gannet.example:443", "http://gannet.example", 403),
        ("gannet.example:80", "https://gannet.example", 403),
        ("[::1]:8000", "http://[0:0::1]:8000", 101),
    ] {
        let head = upgrade_head(PATH, &[&format!("Origin: {origin}")])
            .replace("Host: gannet.example", &format!("Host: {host}"));
        let mut peer = Peer::open(server.address);
        peer.send(head.as_bytes());
        assert_eq!(peer.response().status, expected, "{origin} at {host}");
    }

    let server = Server::with(OPEN, &["--client.allowed_origins", "https://*.example.com"]);
    assert_eq!(status(&server, "https://app.example.com"), 101);
    assert_eq!(status(&server, "https://app.example.com:443"), 101);
    let alike = "https://evil.example/.example.com";
    for foreign in ["https://gannet.example", "https://app.example.com.evil.example", "http://app.example.com", alike] {
        assert_eq!(status(&server, foreign), 403, "{foreign}");
    }
    assert_eq!(status(&Server::with(OPEN, &["--client.allowed_origins", "*"]), "https://any.example"), 101);
}

/// A handshake whose body is a frame: a client's first command.
#[test]
fn a_handshake_with_a_body_gets_400_and_its_body_is_for_nobody() {
    let server = Server::with(OPEN, &["--echo.enabled", "--uni_websocket.enabled", "--uni_sse.enabled"]);
    let mut witness = Witness::join(&server);
    let body = frame(TEXT, br#"{"id":1,"connect":{}}"#);
    let length = format!("Content-Length: {}", body.len());
    let chunks = [format!("{:x}\r\n", body.len()).as_bytes(), &body, b"\r\n0\r\n\r\n"].concat();
    let before = server.metric("gannet_transport_messages_received_total");
    for path in [PATH, "/echo", "/connection/uni_websocket"] {
        for (lines, body) in [
            (&[length.as_str()][..], &body),
            (&["Transfer-Encoding: chunked"], &chunks),
            (&["Transfer-Encoding: identity"], &body),
            (&["Content-Length: 0", "Content-Length: 0"], &body),
            (&[&length, "Transfer-Encoding: chunked"], &chunks),
        ] {
            let response = answer(&server, &[upgrade_head(path, lines).as_bytes(), body].concat());
            assert_eq!(response.status, 400, "{path} {lines:?}");
        }
        let mut peer = Peer::open(server.address);
        peer.send(upgrade_head(path, &["Content-Length: 0"]).as_bytes());
        assert_eq!(peer.response().status, 101, "{path}");
    }
    let stream = format!("GET /connection/uni_sse HTTP/1.1\r\nHost: gannet.example\r\n{length}\r\n\r\n");
    assert_eq!(answer(&server, &[stream.as_bytes(), &body].concat()).status, 400);
    assert_eq!(server.metric(&refusals(400)), 16);
    assert_eq!(server.metric("gannet_transport_messages_received_total"), before, "nothing was run");
    witness.hears(&server);
}

/// What a proxy in front and this server may find to end at different places, whoever is to answer it.
#[test]
fn a_request_whose_end_is_in_doubt_gets_400() {
    let server = Server::with(OPEN, &["--sse.enabled", "--http_stream.enabled", "--openapi.enabled"]);
    let mut witness = Witness::join(&server);
    let paths =
        ["/health", "/api/publish", "/emulation", "/no such page", PATH, "/connection/sse", "/connection/http_stream"];
    let doubts: [&[&str]; 6] = [
        &["Content-Length: 5", "Content-Length: 5"],
        &["Content-Length: 5", "Content-Length: 6"],
        &["Content-Length: 5, 5"],
        &["Content-Length: +5"],
        &["Content-Length: 5", "Transfer-Encoding: chunked"],
        &["Transfer-Encoding: gzip"],
    ];
    let mut done = 0;
    for path in paths.map(|path| path.replace(' ', "-")) {
        for lines in doubts {
            let head = format!("POST {path} HTTP/1.1\r\nHost: gannet.example\r\n{}\r\n\r\n", lines.join("\r\n"));
            let hidden = "0\r\n\r\nGET /metrics HTTP/1.1\r\nHost: gannet.example\r\n\r\n";
            assert_eq!(answer(&server, (head + hidden).as_bytes()).status, 400, "{path} {lines:?}");
            done += 1;
        }
    }
    assert_eq!(server.metric(&refusals(400)), done);
    witness.hears(&server);
}

/// The service thread reads what comes later on a connection that it keeps: what has two ends is the last request.
#[test]
fn nothing_hides_behind_a_doubtful_end_on_a_kept_connection() {
    let server = Server::start(OPEN);
    for lines in ["Content-Length: 5\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 5"]
    {
        let mut peer = Peer::open(server.address);
        assert_eq!(peer.request("GET", "/health", &[], "").expect("an answer").status, 200);
        let head = format!("POST /no-such-page HTTP/1.1\r\nHost: gannet.example\r\n{lines}\r\n\r\n0\r\n\r\n");
        peer.send((head + "GET /health HTTP/1.1\r\nHost: gannet.example\r\n\r\n").as_bytes());
        assert_eq!(peer.response().status, 404);
        assert_eq!(peer.rest(), b"", "the second request has no answer");
    }
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
