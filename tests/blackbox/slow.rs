//! Clients that do not read: bounded in bytes and in time, and felt by nobody else.

use crate::client::{Client, Witness};
use crate::peer::{CLOSE, PATH, PING, Peer, TEXT, frame};
use crate::server::{OPEN, Server, until};
use serde_json::json;

/// A client that has subscribed and reads no more.
fn deaf(server: &Server) -> Peer {
    let mut peer = Peer::open_narrow(server.address).upgrade(PATH);
    peer.connect();
    peer.send_frame(TEXT, br#"{"id":2,"subscribe":{"channel":"loud"}}"#);
    assert_eq!(peer.text(), r#"{"id":2,"subscribe":{}}"#);
    peer
}

/// Publishes to the deaf client until the server has had enough of it.
fn shout(server: &Server, witness: &mut Witness, series: &str) {
    let data = "x".repeat(50_000);
    until(series, || {
        server.publish("loud", json!(data));
        witness.hears(server);
        (server.metric(series) > 0).then_some(())
    });
    assert_eq!(server.metric(series), 1);
}

#[test]
fn who_lets_too_much_wait_is_slow() {
    let limits = ["--http_server.send_buffer_size", "16KiB", "--client.queue_max_size", "256KiB"];
    let server = Server::with(OPEN, &[&limits[..], &["--websocket.write_timeout", "30s"]].concat());
    let mut witness = Witness::join(&server);
    let mut peer = deaf(&server);
    shout(&server, &mut witness, "gannet_client_num_server_disconnects_total{code=\"3008\"}");
    assert!(server.metric("gannet_reactor_writes_blocked_total") > 0);
    // What was on its way comes whole, then the reason.
    let mut received = 0;
    loop {
        let (first, payload) = peer.frame();
        if first == CLOSE {
            assert_eq!(payload, [&3008u16.to_be_bytes()[..], b"slow"].concat());
            break;
        }
        received += payload.len();
    }
    assert!(received < 512 * 1024, "{received}");
    witness.hears(&server);
}

#[test]
fn who_takes_nothing_is_given_up() {
    let limits = ["--http_server.send_buffer_size", "16KiB", "--client.queue_max_size", "1GiB"];
    let server = Server::with(OPEN, &[&limits[..], &["--websocket.write_timeout", "500ms"]].concat());
    let mut witness = Witness::join(&server);
    let mut peer = deaf(&server);
    shout(&server, &mut witness, "gannet_transport_write_timeouts_total");
    server.counts("gannet_transport_connections_closed_total", 1);
    while let Some((first, _)) = peer.try_frame() {
        assert_eq!(first, TEXT);
    }
    assert_eq!(server.metric("gannet_node_num_clients"), 1);
    witness.hears(&server);
}

/// A deaf client with more in the kernel than it has room for, so that pings are behind it.
fn behind(server: &Server) -> Peer {
    let peer = deaf(server);
    server.publish("loud", json!("x".repeat(PILE)));
    peer
}

/// Bytes that the kernel takes for a peer at once, and that the peer has no room for.
const PILE: usize = 200_000;
/// Pings come every second, and pongs are overdue before the next.
const IMPATIENT: [&str; 4] = ["--client.ping_interval", "1s", "--client.pong_timeout", "900ms"];

#[test]
fn who_takes_steadily_what_a_ping_is_behind_stays() {
    let server = Server::with(OPEN, &IMPATIENT);
    let witness = Witness::join(&server);
    let mut peer = behind(&server);
    let mut taken = 0;
    until("three pings that are overdue", || {
        taken += peer.exactly(256).len();
        assert!(taken < PILE, "the pings were not behind anything");
        (witness.pings() >= 4).then_some(())
    });
    assert_eq!(server.metric("gannet_reactor_writes_blocked_total"), 0, "nothing waits in the server");
    // It comes to the pings, answers them, and is a client like any other.
    while taken < PILE {
        taken += peer.exactly(256.min(PILE - taken)).len();
    }
    let mut rest = Vec::new();
    until("a ping", || {
        rest.extend(peer.exactly(1));
        rest.ends_with(b"\x81\x02{}").then_some(())
    });
    peer.send_frame(TEXT, b"{}");
    peer.send_frame(TEXT, br#"{"id":3,"unsubscribe":{"channel":"loud"}}"#);
    until("its reply", || peer.text().starts_with(r#"{"id":3,"#).then_some(()));
    assert_eq!(server.disconnects(3012), 0);
}

#[test]
fn who_takes_nothing_of_what_a_ping_is_behind_is_given_up() {
    let server = Server::with(OPEN, &IMPATIENT);
    let mut witness = Witness::join(&server);
    let _peer = behind(&server);
    until("it to be closed", || (server.disconnects(3012) == 1).then_some(()));
    assert_eq!(server.metric("gannet_reactor_writes_blocked_total"), 0);
    witness.hears(&server);
}

#[test]
fn who_asks_and_does_not_listen_is_slow() {
    let limits = ["--http_server.send_buffer_size", "16KiB", "--client.queue_max_size", "64KiB"];
    let server = Server::with(OPEN, &[&limits[..], &["--websocket.write_timeout", "30s"]].concat());
    let mut witness = Witness::join(&server);
    let series = "gannet_client_num_server_disconnects_total{code=\"3008\"}";
    for (done, (first, payload)) in
        [(PING, vec![7; 125]), (TEXT, br#"{"id":7,"rpc":{}}"#.to_vec())].into_iter().enumerate()
    {
        let mut peer = deaf(&server);
        let many = frame(first, &payload).repeat(500);
        until("it to be closed", || {
            peer.send(&many);
            (server.metric(series) > done as u64).then_some(())
        });
        witness.hears(&server);
    }
}

#[test]
fn a_burst_to_a_client_that_listens_is_no_slowness() {
    let server = Server::start(OPEN);
    let mut client = Client::connected(&server);
    let channels: Vec<String> = (0..100).map(|n| format!("c{n}")).collect();
    channels.iter().for_each(|channel| client.subscribe(channel));
    // Together it is more than client.queue_max_size, 1 MiB, but nothing keeps it from leaving.
    let call = json!({ "channels": channels, "data": "x".repeat(20_000) });
    assert!(server.call("broadcast", call)["result"].is_object());
    channels.iter().for_each(|_| assert_eq!(client.publication().1.as_str().map(str::len), Some(20_000)));
}
