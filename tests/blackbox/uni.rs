//! Clients that only listen: over WebSocket, server-sent events and an HTTP stream.

use crate::backend::{Backend, ok};
use crate::client::token;
use crate::peer::{CLOSE, Peer, TEXT, upgrade_head};
use crate::server::{GUARDED, OPEN, PING, Server, until};
use crate::stream::{ALL, Stream, UNI_SSE, UNI_STREAM, UNI_WEBSOCKET, answer, get, post};
use serde_json::{Value, json};

/// One of them, whichever its transport.
enum Listener {
    Frames(Peer),
    Stream(Stream),
}

impl Listener {
    /// All three, with what they say to connect.
    fn all(server: &Server, said: &Value) -> [Listener; 3] {
        let said = said.to_string();
        let mut peer = Peer::open(server.address).upgrade(UNI_WEBSOCKET);
        peer.send_frame(TEXT, said.as_bytes());
        let streams = [get(UNI_SSE, &said), post(UNI_STREAM, &[], &said)].map(|request| Stream::open(server, &request));
        let [sse, stream] = streams.map(Listener::Stream);
        [Listener::Frames(peer), sse, stream]
    }

    fn next(&mut self) -> Value {
        match self {
            Listener::Frames(peer) => serde_json::from_str(&peer.text()).expect("JSON"),
            Listener::Stream(stream) => stream.next(),
        }
    }

    /// Reads on to the push that ends it, and to the end; the code.
    fn closed(&mut self) -> u64 {
        let peer = match self {
            Listener::Stream(stream) => return stream.closed(),
            Listener::Frames(peer) => peer,
        };
        let mut told = Value::Null;
        loop {
            let (first, payload) = peer.frame();
            if first == CLOSE {
                let code = u16::from_be_bytes([payload[0], payload[1]]);
                assert_eq!(told["disconnect"]["code"], code, "{told}");
                return code.into();
            }
            told = serde_json::from_slice(&payload).expect("JSON");
        }
    }
}

#[test]
fn a_listener_hears_what_its_token_says() {
    let server = Server::with(GUARDED, ALL);
    let claims = json!({ "sub": "42", "channels": ["news", "alerts"] });
    for mut listener in Listener::all(&server, &json!({ "token": token(&claims) })) {
        let told = listener.next();
        let connect = &told["connect"];
        assert_eq!(connect["subs"], json!({ "news": {}, "alerts": {} }), "{told}");
        assert_eq!((&connect["ping"], &connect["pong"]), (&json!(PING), &Value::Null));
        assert!(connect["client"].is_string() && connect["session"].is_string(), "{told}");
        server.publish("news", json!({ "a": "b\nc" }));
        assert_eq!(listener.next(), json!({ "channel": "news", "pub": { "data": { "a": "b\nc" } } }));
        server.call("unsubscribe", json!({ "user": "42", "channel": "alerts" }));
        let told = listener.next();
        assert_eq!((&told["channel"], &told["unsubscribe"]["code"]), (&json!("alerts"), &json!(2000)), "{told}");
        server.call("disconnect", json!({ "user": "42" }));
        assert_eq!(listener.closed(), 3503);
    }
}

#[test]
fn publications_of_a_burst_are_messages_of_their_own() {
    let server = Server::with(OPEN, ALL);
    let mut all = Listener::all(&server, &json!({ "subs": { "news": {} } }));
    all.iter_mut().for_each(|listener| assert_eq!(listener.next()["connect"]["subs"], json!({ "news": {} })));
    let channels = vec!["news"; 64];
    server.call("broadcast", json!({ "channels": channels, "data": 1 }));
    for listener in &mut all {
        (0..64).for_each(|_| assert_eq!(listener.next(), json!({ "channel": "news", "pub": { "data": 1 } })));
    }
}

#[test]
fn pings_are_empty_and_want_no_answer() {
    let server =
        Server::with(OPEN, &[ALL, &["--client.ping_interval", "1s", "--client.pong_timeout", "200ms"]].concat());
    for mut listener in Listener::all(&server, &json!({})) {
        assert!(listener.next()["connect"].is_object());
        (0..3).for_each(|_| assert_eq!(listener.next(), json!({})));
    }
    assert_eq!(server.disconnects(3012), 0);
}

#[test]
fn errors_are_disconnects() {
    let server = Server::with(GUARDED, ALL);
    for (said, code) in [
        (json!({ "token": token(&json!({ "sub": "1", "exp": 1 })) }), 3005),
        (json!({ "token": "x" }), 3500),
        (json!({ "token": token(&json!({ "sub": "1", "channels": ["no:such"] })) }), 3004),
    ] {
        for mut listener in Listener::all(&server, &said) {
            assert_eq!(listener.closed(), code, "{said}");
        }
    }
}

#[test]
fn what_is_no_connect_request_is_refused_before_there_is_a_stream() {
    let server = Server::with(GUARDED, ALL);
    for said in ["[]", r#"{"token":5}"#, "{", "null", "nonsense", r#"{"subs":{"a":[]}}"#] {
        for request in [get(UNI_SSE, said), post(UNI_SSE, &[], said), post(UNI_STREAM, &[], said)] {
            let refused = answer(&server, &request);
            assert_eq!(refused.status, 400, "{request}");
        }
        let mut peer = Peer::open(server.address);
        peer.send(upgrade_head(&format!("{UNI_WEBSOCKET}?cf_connect={said}"), &[]).as_bytes());
        assert_eq!(peer.response().status, 400, "{said}");
        let mut peer = Peer::open(server.address).upgrade(UNI_WEBSOCKET);
        peer.send_frame(TEXT, said.as_bytes());
        assert_eq!(Listener::Frames(peer).closed(), 3501, "{said}");
    }
    until("all to be gone", || (server.metric("gannet_client_connections_inflight") == 0).then_some(()));
}

#[test]
fn a_listener_on_a_websocket_may_connect_by_its_query() {
    let server = Server::with(GUARDED, ALL);
    let said = json!({ "token": token(&json!({ "sub": "42", "channels": ["news"] })) }).to_string();
    let query = said.replace('"', "%22").replace('{', "%7B").replace('}', "%7D");
    let mut peer = Peer::open(server.address).upgrade(&format!("{UNI_WEBSOCKET}?cf_connect={query}"));
    let told: Value = serde_json::from_str(&peer.text()).expect("JSON");
    assert_eq!(told["connect"]["subs"], json!({ "news": {} }), "{told}");
    // What it says later is for nobody.
    peer.send_frame(TEXT, b"nonsense");
    server.publish("news", json!(1));
    assert_eq!(peer.text(), r#"{"channel":"news","pub":{"data":1}}"#);
    server.call("disconnect", json!({ "user": "42" }));
    assert_eq!(Listener::Frames(peer).closed(), 3503);
    let expired = json!({ "token": token(&json!({ "sub": "1", "exp": 1 })) }).to_string().replace('"', "%22");
    let peer = Peer::open(server.address).upgrade(&format!("{UNI_WEBSOCKET}?cf_connect={expired}"));
    assert_eq!(Listener::Frames(peer).closed(), 3005);
}

#[test]
fn the_operator_says_what_an_error_is() {
    let codes = r#"[{"code":109,"to":{"code":4109,"reason":"get another"}}]"#;
    let option = |key: &str| format!("--client.connect_code_to_unidirectional_disconnect.{key}");
    let server = Server::with(GUARDED, &[ALL, &[&option("enabled"), &option("transforms"), codes]].concat());
    for mut listener in Listener::all(&server, &json!({ "token": token(&json!({ "sub": "1", "exp": 1 })) })) {
        assert_eq!(listener.closed(), 4109);
    }
}

/// Instead of a response that begins and then tells of the end: its status, at once or when the backend has answered.
#[test]
fn a_connect_request_that_comes_to_nothing_is_a_status_if_asked_for() {
    let backend = Backend::start(|asked| match asked.text("name") {
        "known" => ok(json!({ "result": { "user": "42", "channels": ["news"] } })),
        name => ok(json!({ "error": { "code": name.parse::<u32>().expect("a code"), "message": "says who" } })),
    });
    let codes = r#"[{"code":109,"to":{"status_code":401}},{"code":3500,"to":{"status_code":403,"body":"go away"}},
        {"code":1404,"to":{"status_code":204}},{"code":1000,"to":{"status_code":418}}]"#;
    let option = |section: &str, key: &str| format!("--{section}.connect_code_to_http_response.{key}");
    let mut options: Vec<String> = Vec::new();
    for section in ["uni_sse", "uni_http_stream"] {
        options.extend([option(section, "enabled"), option(section, "transforms"), codes.to_owned()]);
    }
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let more = ["--client.allowed_origins=https://a.example", "--client.proxy.connect.timeout=10s"];
    let server = backend.serves(&["client.proxy.connect"], &[GUARDED, ALL, &options, &more].concat());
    let expired = json!({ "token": token(&json!({ "sub": "1", "exp": 1 })) });
    let named = |name: &str| json!({ "name": name });
    let unknown = json!({ "token": token(&json!({ "sub": "1", "channels": ["no:such"] })) });
    for (said, status, body) in [
        (expired, 401, "token expired\n"),
        (json!({ "token": "x" }), 403, "go away\n"),
        (unknown, 500, "Internal Server Error\n"),
        (named("1404"), 204, ""),
        (named("1000"), 418, "says who\n"),
        (named("1001"), 500, "Internal Server Error\n"),
    ] {
        let said = said.to_string();
        for request in [get(UNI_SSE, &said), post(UNI_STREAM, &["Origin: https://a.example"], &said)] {
            let refused = answer(&server, &request);
            assert_eq!((refused.status, refused.body.as_str()), (status, body), "{said}");
            let page = refused.header("access-control-allow-origin");
            assert_eq!(page.is_some(), request.contains("Origin"), "{refused:?}");
        }
        // A WebSocket has no status for it.
        let mut peer = Peer::open(server.address).upgrade(UNI_WEBSOCKET);
        peer.send_frame(TEXT, said.as_bytes());
        Listener::Frames(peer).closed();
    }
    until("all to be gone", || (server.metric("gannet_client_connections_inflight") == 0).then_some(()));
    // Who is let in has a response as ever, whether the backend was asked or not.
    let own = json!({ "token": token(&json!({ "sub": "42", "channels": ["news"] })) });
    let mut all: Vec<Listener> = [own, named("known")].iter().flat_map(|said| Listener::all(&server, said)).collect();
    all.iter_mut().for_each(|listener| assert_eq!(listener.next()["connect"]["subs"], json!({ "news": {} })));
    server.publish("news", json!(1));
    for listener in &mut all {
        assert_eq!(listener.next(), json!({ "channel": "news", "pub": { "data": 1 } }));
    }
    server.call("disconnect", json!({ "user": "42" }));
    all.iter_mut().for_each(|listener| assert_eq!(listener.closed(), 3503));
}

#[test]
fn nothing_is_heard_from_a_listener_once_it_is_connected() {
    let server = Server::with(OPEN, ALL);
    let mut peer = Peer::open(server.address).upgrade(UNI_WEBSOCKET);
    peer.send_frame(TEXT, b"{}");
    assert!(peer.text().contains("\"connect\""));
    for said in ["{}", r#"{"id":2,"subscribe":{"channel":"c"}}"#, "nonsense"] {
        peer.send_frame(TEXT, said.as_bytes());
    }
    server.call("disconnect", json!({ "user": "" }));
    assert_eq!(Listener::Frames(peer).closed(), 3503, "and nothing before it");
}

#[test]
fn a_listener_on_a_websocket_must_say_how_it_connects() {
    let limits = ["--client.stale_close_delay", "300ms", "--uni_websocket.message_size_limit", "50"];
    let server = Server::with(OPEN, &[ALL, &limits[..]].concat());
    assert_eq!(Listener::Frames(Peer::open(server.address).upgrade(UNI_WEBSOCKET)).closed(), 3502);
    let mut peer = Peer::open(server.address).upgrade(UNI_WEBSOCKET);
    peer.send_frame(TEXT, json!({ "name": "x".repeat(50) }).to_string().as_bytes());
    assert_eq!(peer.closed().0, 1009);
}

#[test]
fn a_request_may_say_nothing() {
    let server = Server::with(OPEN, ALL);
    let plain = format!("GET {UNI_SSE} HTTP/1.1\r\nHost: h\r\n\r\n");
    for request in [plain, post(UNI_SSE, &[], ""), post(UNI_STREAM, &[], "{}")] {
        assert!(Stream::open(&server, &request).next()["connect"].is_object(), "{request}");
    }
    assert_eq!(answer(&server, &format!("GET {UNI_STREAM} HTTP/1.1\r\nHost: h\r\n\r\n")).status, 405);
    until("all to be gone", || (server.metric("gannet_node_num_clients") == 0).then_some(()));
}
