//! Limits of the node: beyond each there is a refusal and a count, and those who are in do not notice.

use crate::client::{Client, Witness};
use crate::peer::{PATH, Peer, Response, TEXT, frame, frame_header, upgrade_head};
use crate::server::{OPEN, Server, until};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// A handshake's outcome, the socket kept.
fn handshake(mut peer: Peer) -> (Option<Response>, Peer) {
    peer.send(upgrade_head(PATH, &[]).as_bytes());
    (peer.try_response(), peer)
}

fn is_refused(response: &Option<Response>, words: &str) {
    let response = response.as_ref().expect("an answer");
    assert_eq!(response.status, 503, "{response:?}");
    assert!(response.body.contains(words), "{}", response.body);
    assert!(response.header("retry-after").is_some_and(|value| value.parse::<u32>().is_ok()), "{}", response.head);
}

fn is_taken(response: &Option<Response>) -> bool {
    response.as_ref().is_some_and(|response| response.status == 101)
}

#[test]
fn clients_beyond_the_connection_limit_get_503() {
    let server = Server::with(OPEN, &["--client.connection_limit", "3"]);
    let mut witness = Witness::join(&server);
    let mut kept: Vec<Peer> = (0..2).map(|_| Peer::upgraded(&server)).collect();
    for done in 1..=3 {
        let (response, mut peer) = handshake(Peer::open(server.address));
        is_refused(&response, "connection limit");
        peer.ended();
        assert_eq!(server.metric("gannet_node_client_connection_limit_total"), done);
        witness.hears(&server);
    }
    kept.pop();
    until("a free place", || is_taken(&handshake(Peer::open(server.address)).0).then_some(()));
    assert_eq!(server.metric("gannet_client_connections_limit"), 3);
}

/// Tries for about three seconds; how many attempts `is_in`, and what a true rate of `rate` allows.
fn admitted(rate: f64, mut is_in: impl FnMut() -> bool) -> (usize, std::ops::RangeInclusive<usize>) {
    let began = Instant::now();
    let mut count = 0;
    while began.elapsed() < Duration::from_secs(3) {
        count += usize::from(is_in());
    }
    let allowed = rate + rate * began.elapsed().as_secs_f64();
    (count, (allowed * 0.6) as usize..=(allowed + 2.0) as usize)
}

#[test]
fn handshakes_beyond_the_rate_limit_get_503() {
    let server = Server::with(OPEN, &["--client.connection_rate_limit", "30"]);
    let mut witness = Witness::join(&server);
    let mut refused = 0;
    let (count, allowed) = admitted(30.0, || {
        let (response, _peer) = handshake(Peer::open(server.address));
        let taken = is_taken(&response);
        if !taken {
            is_refused(&response, "too many new connections");
            refused += 1;
        }
        taken
    });
    assert!(allowed.contains(&count), "{count} handshakes in 3 s, {allowed:?} expected");
    assert!(refused > 0);
    assert_eq!(server.metric("gannet_node_client_connection_rate_limit_total"), refused);
    witness.hears(&server);
}

#[test]
fn sockets_beyond_the_accept_rate_are_closed_unread() {
    let server = Server::with(OPEN, &["--overload.accept_rate_limit", "30"]);
    let mut witness = Witness::join(&server);
    witness.hears(&server);
    let mut closed = 0;
    let (count, allowed) = admitted(30.0, || {
        let (response, _peer) = handshake(Peer::open(server.address));
        assert!(response.is_none() || is_taken(&response), "{response:?}");
        closed += u64::from(response.is_none());
        response.is_some()
    });
    assert!(allowed.contains(&count), "{count} sockets in 3 s, {allowed:?} expected");
    assert!(closed > 0);
    assert_eq!(server.metric("gannet_node_accept_rate_limit_total"), closed);
    witness.hears(&server);
}

#[test]
fn connections_beyond_the_limit_of_their_address_get_503() {
    let server = Server::with(OPEN, &["--client.connection_limit_per_ip", "2"]);
    let mut witness = Witness::join(&server);
    let refusals = || server.metric("gannet_node_client_connection_per_ip_limit_total");
    for ip in ["127.0.0.2", "127.0.0.3"] {
        let mut kept: Vec<Peer> = (0..2).map(|_| Peer::open_from(ip, server.address).upgrade(PATH)).collect();
        let before = refusals();
        let (response, mut peer) = handshake(Peer::open_from(ip, server.address));
        is_refused(&response, "this address");
        peer.ended();
        assert_eq!(refusals(), before + 1);
        witness.hears(&server);
        kept.pop();
        until("a free place", || is_taken(&handshake(Peer::open_from(ip, server.address)).0).then_some(()));
    }
}

#[test]
fn handshakes_get_503_while_memory_is_over_its_limit() {
    let server = Server::with(OPEN, &["--overload.memory_limit", "1MiB"]);
    until("the first look at memory", || (!is_taken(&handshake(Peer::open(server.address)).0)).then_some(()));
    for _ in 0..3 {
        is_refused(&handshake(Peer::open(server.address)).0, "memory");
    }
    assert!(server.metric("gannet_node_memory_limit_total") >= 4);
    assert_eq!(server.call("info", json!({}))["result"]["nodes"][0]["num_clients"], 0);
}

/// Clients that take memory as they may: a flood of them stops at the limit, and when it is over, others come in.
#[test]
fn a_flood_of_clients_stops_at_the_memory_limit_and_others_come_after_it() {
    const LIMIT: u64 = 16 << 20;
    let in_use = |server: &Server| server.metric("gannet_process_memory_in_use_bytes");
    let server = Server::with(OPEN, &["--overload.memory_limit", "16MiB"]);
    let mut witness = Witness::join(&server);
    let mut flood = Vec::new();
    loop {
        let (response, mut peer) = handshake(Peer::open(server.address));
        if !is_taken(&response) {
            is_refused(&response, "memory");
            break;
        }
        peer.connect();
        let subscribe =
            |n: usize| format!(r#"{{"id":{},"subscribe":{{"channel":"{:0>250}"}}}}"#, n + 2, flood.len() * 100 + n);
        peer.send_frame(TEXT, (0..100).map(subscribe).collect::<Vec<_>>().join("\n").as_bytes());
        while !peer.text().contains(r#""id":101,"#) {}
        flood.push(peer);
        assert!(flood.len() < 5_000, "no limit at {} bytes", in_use(&server));
    }
    let most = in_use(&server);
    assert!(most <= LIMIT + LIMIT / 10, "{most} bytes in use with {} clients", flood.len());
    witness.hears(&server);
    drop(flood);
    until("room for others", || is_taken(&handshake(Peer::open(server.address)).0).then_some(()));
    witness.hears(&server);
}

/// The same with messages that do not end: what all hold is a small part of the limit.
#[test]
fn a_flood_of_unfinished_messages_stays_below_the_memory_limit() {
    const LIMIT: u64 = 40 << 20;
    let server = Server::with(OPEN, &["--overload.memory_limit", "40MiB"]);
    let mut witness = Witness::join(&server);
    let begun = [frame_header(TEXT, 65_535), vec![b' '; 65_000]].concat();
    let flood: Vec<Peer> = (0..300)
        .map(|_| {
            let mut peer = Peer::upgraded(&server);
            peer.send(&begun);
            peer
        })
        .collect();
    until("the limit of what is held", || {
        (server.metric("gannet_transport_held_input_limit_total") > 200).then_some(())
    });
    let in_use = server.metric("gannet_process_memory_in_use_bytes");
    assert!(in_use < LIMIT, "{in_use} bytes in use");
    assert_eq!(server.metric("gannet_node_memory_limit_total"), 0);
    witness.hears(&server);
    drop(flood);
    Witness::join(&server).hears(&server);
}

/// Clients that are in, and do not read what each has in a channel of its own: those for which most waits go, and
/// memory stays near its limit.
#[test]
fn clients_that_do_not_read_do_not_pass_the_memory_limit() {
    const LIMIT: u64 = 32 << 20;
    // Nothing but what waits is to end a client, however long this takes.
    let narrow = ["--http_server.send_buffer_size", "16KiB", "--websocket.write_timeout", "1h"];
    let server = Server::with(OPEN, &[&narrow[..], &["--overload.memory_limit", "32MiB"]].concat());
    let mut witness = Witness::join(&server);
    let deaf: Vec<Peer> = (0..80)
        .map(|at| {
            let mut peer = Peer::open_narrow(server.address).upgrade(PATH);
            peer.connect();
            peer.send_frame(TEXT, format!(r#"{{"id":2,"subscribe":{{"channel":"c{at}"}}}}"#).as_bytes());
            assert_eq!(peer.text(), r#"{"id":2,"subscribe":{}}"#);
            peer
        })
        .collect();
    let data = "x".repeat(100_000);
    let mut most = 0;
    for at in 0..80 {
        (0..9).for_each(|_| server.publish(&format!("c{at}"), json!(data)));
        most = most.max(server.metric("gannet_process_memory_in_use_bytes"));
    }
    assert!(most <= LIMIT + LIMIT / 10, "{most} bytes in use");
    until("each that was given up is told so", || {
        let (closed, told) = (server.metric("gannet_transport_waiting_output_limit_total"), server.disconnects(3008));
        assert!((20..80).contains(&closed), "{closed} of 80 closed");
        (closed == told).then_some(())
    });
    witness.hears(&server);
    drop(deaf);
    until("others to come in", || is_taken(&handshake(Peer::open(server.address)).0).then_some(()));
}

#[test]
fn plain_http_beyond_its_limit_gets_503() {
    let server = Server::with(OPEN, &["--http_server.service_connection_limit", "3"]);
    let mut witness = Witness::join(&server);
    // The witness's API calls go over the first of the three.
    witness.hears(&server);
    let mut kept: Vec<Peer> = (0..2).map(|_| Peer::open(server.address)).collect();
    for peer in &mut kept {
        assert_eq!(peer.request("GET", "/health", &[], "").expect("an answer").status, 200);
    }
    let mut beyond = Peer::open(server.address);
    is_refused(&beyond.request("GET", "/health", &[], ""), "HTTP connections");
    beyond.ended();
    witness.hears(&server);
    assert_eq!(server.metric("gannet_node_service_connection_limit_total"), 1);
    kept.pop();
    let again = || Peer::open(server.address).request("GET", "/health", &[], "").is_some_and(|it| it.status == 200);
    until("a free place", || again().then_some(()));
}

#[test]
fn publications_beyond_a_mailbox_are_refused_and_the_node_recovers() {
    let server = Server::start(&["--client.insecure", "--reactors", "1", "--reactor.mailbox_size", "1"]);
    let mut witness = Witness::join(&server);
    let channels: Vec<String> = (0..5000).map(|n| format!("c{n}")).collect();
    let answer = server.call("broadcast", json!({ "channels": channels, "data": 1 }));
    let responses = answer["result"]["responses"].as_array().expect("responses");
    assert_eq!(responses.len(), channels.len());
    let (taken, refused): (Vec<&Value>, Vec<&Value>) = responses.iter().partition(|it| it["result"].is_object());
    assert!(!taken.is_empty() && !refused.is_empty(), "{} taken, {} refused", taken.len(), refused.len());
    assert!(refused.iter().all(|it| it["error"]["code"] == 100), "{refused:?}");
    witness.hears(&server);
}

#[test]
fn publishers_wait_while_a_fan_out_is_under_way() {
    let slow = ["--reactor.fanout_slice", "1", "--reactor.fanout_queue_size", "1"];
    let server = Server::start(&[&["--client.insecure", "--reactors", "1"], &slow[..]].concat());
    let mut listeners: Vec<Client> = (0..40).map(|_| Client::subscribed(&server, "c")).collect();
    let mut publisher = Peer::connected(&server);
    // More than one read takes, so that the fan-out of the first has begun when the last are read.
    let (last, pad) = (300, "x".repeat(500));
    let command = |id| format!(r#"{{"id":{id},"publish":{{"channel":"c","data":[{id},"{pad}"]}}}}"#);
    publisher.send(&(2..=last).flat_map(|id| frame(TEXT, command(id).as_bytes())).collect::<Vec<u8>>());
    let (mut taken, mut refused) = (Vec::new(), 0);
    while taken.len() + refused < last - 1 {
        for line in publisher.text().lines() {
            let reply: Value = serde_json::from_str(line).expect("JSON");
            if reply["publish"].is_object() {
                taken.push(reply["id"].clone());
            } else if reply["error"].is_object() {
                assert_eq!((&reply["error"]["code"], &reply["error"]["temporary"]), (&json!(111), &json!(true)));
                refused += 1;
            }
        }
    }
    assert!(refused > 0, "the fan-out was never behind");
    assert_eq!(server.errors(111), refused as u64);
    for listener in &mut listeners {
        let heard: Vec<Value> = taken.iter().map(|_| listener.publication().1[0].take()).collect();
        assert_eq!(heard, taken);
    }
}
