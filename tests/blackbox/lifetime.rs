//! Deadlines of a client: the connect command, pongs, and a token's end.

use crate::client::{Client, Witness, now, token};
use crate::peer::{PATH, PING, PONG, Peer, TEXT};
use crate::server::{GUARDED, OPEN, Server};
use serde_json::json;
use std::time::{Duration, Instant};

const EAGER: [&str; 4] = ["--client.ping_interval", "1s", "--client.pong_timeout", "300ms"];

#[test]
fn who_says_nothing_is_stale() {
    let server = Server::with(OPEN, &["--client.stale_close_delay", "300ms"]);
    let mut witness = Witness::join(&server);
    assert_eq!(Peer::upgraded(&server).closed(), (3502, "stale".to_owned()));
    assert_eq!(server.disconnects(3502), 1);
    witness.hears(&server);
}

#[test]
fn who_was_refused_and_stays_is_stale() {
    let server = Server::with(GUARDED, &["--client.stale_close_delay", "300ms"]);
    let mut client = Client::open(&server);
    let expired = token(&json!({ "sub": "42", "exp": now() - 1 }));
    assert_eq!(client.refused(json!({ "connect": { "token": expired } })), 109);
    assert_eq!(client.closed(), 3502);
}

#[test]
fn who_answers_no_ping_is_closed() {
    let server = Server::with(OPEN, &EAGER);
    let mut witness = Witness::join(&server);
    let mut silent = Peer::upgraded(&server);
    let connected = silent.connect();
    assert_eq!((&connected["ping"], &connected["pong"]), (&json!(1), &json!(true)));
    assert_eq!(silent.text(), "{}");
    // Other commands are no pong.
    silent.send_frame(TEXT, br#"{"id":2,"rpc":{}}"#);
    assert_eq!(silent.closed(), (3012, "no pong".to_owned()));
    assert_eq!(server.disconnects(3012), 1);
    witness.hears(&server);
}

#[test]
fn who_answers_pings_stays() {
    let server = Server::with(OPEN, &EAGER);
    let mut peer = Peer::connected(&server);
    for _ in 0..3 {
        assert_eq!(peer.text(), "{}");
        peer.send_frame(TEXT, b"{}");
    }
    server.counts("gannet_client_ping_pong_duration_seconds_count{}", 3);
    peer.send_frame(TEXT, b"{}");
    assert_eq!(peer.closed().0, 3501, "a second pong to one ping");
}

fn by_frames(server: &Server) -> Peer {
    let mut peer = Peer::open(server.address).upgrade(&format!("{PATH}?cf_ws_frame_ping_pong=true"));
    assert!(peer.connect()["ping"].is_null());
    peer
}

#[test]
fn pings_may_be_frames() {
    let server = Server::with(OPEN, &EAGER);
    let mut peer = by_frames(&server);
    for _ in 0..3 {
        let (first, payload) = peer.frame();
        assert_eq!(first, PING);
        peer.send_frame(PONG, &payload);
    }
    peer.send_frame(TEXT, b"{}");
    assert_eq!(peer.closed().0, 3501, "the application's pong is not awaited");
}

#[test]
fn who_answers_no_ping_frame_is_closed() {
    let server = Server::with(OPEN, &EAGER);
    let mut peer = by_frames(&server);
    let began = Instant::now();
    // Pings keep coming; the pong to the first is awaited 10 s.
    while began.elapsed() < Duration::from_secs(15) {
        match peer.frame() {
            (PING, _) => continue,
            (_, payload) => return assert_eq!(payload[..2], 3012u16.to_be_bytes()),
        }
    }
    panic!("no pong for 15 s, and still connected");
}

#[test]
fn a_token_that_ends_ends_the_connection() {
    let server = Server::with(GUARDED, &["--client.expired_close_delay", "0s"]);
    let mut witness = Witness::join(&server);
    let mut client = Client::open(&server);
    let connected = client.connect(&token(&json!({ "sub": "42", "exp": now() + 2 })));
    assert_eq!(connected["expires"], true, "{connected}");
    assert!((1..=2).contains(&connected["ttl"].as_u64().expect("ttl")), "{connected}");
    assert_eq!(client.closed(), 3005);
    assert_eq!(server.disconnects(3005), 1);
    witness.hears(&server);
}

#[test]
fn a_refreshed_token_keeps_the_connection() {
    let server = Server::with(GUARDED, &["--client.expired_close_delay", "0s"]);
    let mut client = Client::connected_with(&server, &token(&json!({ "sub": "42", "exp": now() + 2 })));
    client.subscribe("news");
    let fresh = token(&json!({ "sub": "42", "exp": now() + 1000 }));
    let reply = client.ask(json!({ "refresh": { "token": fresh } }));
    assert!(reply["refresh"]["ttl"].as_u64().is_some_and(|ttl| ttl > 900), "{reply}");
    let mut other = Client::connected_with(&server, &token(&json!({ "sub": "42", "exp": now() + 2 })));
    assert_eq!(other.closed(), 3005, "by now the first would be gone too");
    server.publish("news", json!(1));
    assert_eq!(client.publication().1, 1);
}

#[test]
fn a_refresh_that_is_wrong_ends_the_connection() {
    let server = Server::start(GUARDED);
    for (claims, code) in [(json!({ "sub": "42", "exp": now() - 1 }), 3005), (json!({ "sub": "another" }), 3500)] {
        let mut client = Client::connected_as(&server, "42");
        client.send(&json!({ "id": 5, "refresh": { "token": token(&claims) } }).to_string());
        assert_eq!(client.closed(), code, "{claims}");
    }
    let mut client = Client::connected_as(&server, "42");
    client.send(r#"{"id":5,"refresh":{"token":"x"}}"#);
    assert_eq!(client.closed(), 3500);
}
