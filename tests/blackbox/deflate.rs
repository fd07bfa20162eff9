//! permessage-deflate (RFC 7692), sound and broken, with a peer that compresses by hand.

use crate::client::Witness;
use crate::peer::{BINARY, CLOSE, PATH, PING, PONG, Peer, TEXT, UNFINISHED, frame, upgrade_head};
use crate::server::{OPEN, Server};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use serde_json::{Value, json};

/// In a frame's first byte: the message is compressed.
const RSV1: u8 = 0x40;
const CONTINUATION: u8 = 0x80;
const ON: &[&str] = &["--client.insecure", "--reactors", "2", "--websocket.compression", "--echo.enabled"];
const CONNECT: &[u8] = br#"{"id":1,"connect":{}}"#;
const OFFER: &str = "permessage-deflate; client_max_window_bits";
const ANSWER: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
const FAULTS: [(u16, &str); 3] = [
    (1002, "gannet_transport_protocol_errors_total{code=\"1002\"}"),
    (1007, "gannet_transport_protocol_errors_total{code=\"1007\"}"),
    (1009, "gannet_transport_protocol_errors_total{code=\"1009\"}"),
];

/// A handshake with these offers; the peer, and what the server agreed to.
fn offering(server: &Server, path: &str, offers: &[&str]) -> (Peer, Option<String>) {
    let mut peer = Peer::open(server.address);
    let lines: Vec<String> = offers.iter().map(|offer| format!("Sec-WebSocket-Extensions: {offer}")).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    peer.send(upgrade_head(path, &lines).as_bytes());
    let response = peer.response();
    assert_eq!(response.status, 101, "{response:?}");
    let agreed = response.header("sec-websocket-extensions");
    (peer, agreed)
}

fn deflating(server: &Server, path: &str) -> Peer {
    let (peer, agreed) = offering(server, path, &[OFFER]);
    assert_eq!(agreed.as_deref(), Some(ANSWER));
    peer
}

fn deflated(message: &[u8]) -> Vec<u8> {
    let mut raw = Compress::new(Compression::new(6), false);
    let mut payload = Vec::with_capacity(message.len() * 2 + 64);
    raw.compress_vec(message, &mut payload, FlushCompress::Sync).expect("compress");
    assert_eq!(payload.split_off(payload.len() - 4), [0, 0, 0xff, 0xff]);
    payload
}

fn inflated(payload: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(1 << 20);
    let mut raw = Decompress::new(false);
    raw.decompress_vec(&[payload, &[0, 0, 0xff, 0xff]].concat(), &mut message, FlushDecompress::Sync).expect("inflate");
    message
}

/// So many zeros, compressed: about a thousandth.
fn zeros(mib: usize) -> Vec<u8> {
    let mut raw = Compress::new(Compression::new(9), false);
    let mut piece = Vec::with_capacity(4096);
    raw.compress_vec(&vec![0; 1 << 20], &mut piece, FlushCompress::Full).expect("compress");
    let mut payload = piece.repeat(mib);
    payload.truncate(payload.len() - 4);
    payload
}

#[test]
fn it_is_agreed_to_only_where_it_is_on_and_offered() {
    let server = Server::start(ON);
    for path in [PATH, "/echo"] {
        for (offers, agreed) in [
            (&[OFFER][..], Some(ANSWER.to_owned())),
            (&["x-other", "permessage-deflate; unknown, permessage-deflate"], Some(ANSWER.to_owned())),
            (&["permessage-deflate; server_max_window_bits=10"], Some(format!("{ANSWER}; server_max_window_bits=10"))),
            (&["permessage-deflate; server_max_window_bits=7"], None),
            (&[], None),
        ] {
            assert_eq!(offering(&server, path, offers).1, agreed, "{path} {offers:?}");
        }
    }
    let off = Server::with(OPEN, &["--echo.enabled"]);
    assert_eq!([PATH, "/echo"].map(|path| offering(&off, path, &[OFFER]).1), [None, None]);
    let (mut peer, _) = offering(&off, PATH, &[OFFER]);
    peer.send_frame(TEXT | RSV1, &deflated(CONNECT));
    assert_eq!(peer.closed().0, 1002);
}

#[test]
fn the_echo_is_compressed_where_that_helps() {
    let server = Server::with(ON, &["--websocket.compression_min_size", "50", "--websocket.compression_level", "6"]);
    let mut peer = deflating(&server, "/echo");
    let long = "so it goes, ".repeat(5000).into_bytes();
    for (first, message, expected) in [
        (TEXT, &long[..], TEXT | RSV1),
        (BINARY, &long[..50], BINARY | RSV1),
        (BINARY, &long[..49], BINARY),
        (TEXT, b"", TEXT),
    ] {
        for (sent, payload) in [(first, message.to_vec()), (first | RSV1, deflated(message))] {
            peer.send_frame(sent, &payload);
            let (first, payload) = peer.frame();
            assert_eq!(first, expected, "{} bytes", message.len());
            let said = if first & RSV1 == 0 { payload } else { inflated(&payload) };
            assert!(said == message, "{} bytes came back as {}", message.len(), said.len());
        }
    }
    // Who did not offer it gets none.
    let mut plain = Peer::open(server.address).upgrade("/echo");
    plain.send_frame(TEXT, &long);
    assert!(plain.frame() == (TEXT, long));
}

#[test]
fn a_client_may_compress_in_parts_with_pings_between_them() {
    let server = Server::start(ON);
    let mut peer = deflating(&server, PATH);
    let payload = deflated(CONNECT);
    let (head, tail) = payload.split_at(payload.len() / 2);
    let frames = [
        frame(TEXT & UNFINISHED | RSV1, head),
        frame(PING, b"between"),
        frame(CONTINUATION & UNFINISHED, b""),
        frame(CONTINUATION, tail),
    ];
    frames.concat().chunks(1).for_each(|byte| peer.send(byte));
    assert_eq!(peer.frame(), (PONG, b"between".to_vec()));
    assert!(text(&mut peer).contains("\"connect\""));
    // The next may come as it is, the one after that compressed again, and neither needs what came before.
    peer.send_frame(TEXT, br#"{"id":2,"publish":{"channel":"c","data":2}}"#);
    assert_eq!(text(&mut peer), r#"{"id":2,"publish":{}}"#);
    peer.send_frame(TEXT | RSV1, &deflated(br#"{"id":3,"publish":{"channel":"c","data":3}}"#));
    assert_eq!(text(&mut peer), r#"{"id":3,"publish":{}}"#);
    peer.send_frame(CLOSE, b"\x03\xe8");
    assert_eq!(peer.frame(), (CLOSE, b"\x03\xe8".to_vec()));
}

/// Each input ends its connection with its code, is counted, and leaves the witness in peace.
#[test]
fn broken_compression_ends_its_connection_only() {
    let server = Server::start(ON);
    let mut witness = Witness::join(&server);
    let payload = deflated(CONNECT);
    let begun = frame(TEXT & UNFINISHED, b"{");
    let mut counts = [0; 3];
    for (name, code, input) in [
        ("garbage", 1007, frame(TEXT | RSV1, b"\xff\xff\xff\xff")),
        ("plain text for compressed", 1007, frame(TEXT | RSV1, CONNECT)),
        ("cut", 1007, frame(TEXT | RSV1, &payload[..payload.len() / 2])),
        ("garbage behind", 1007, frame(BINARY | RSV1, &[&payload[..], b"\xff"].concat())),
        ("before the beginning", 1007, frame(BINARY | RSV1, b"\x02\x02\0")),
        ("no UTF-8", 1007, frame(TEXT | RSV1, &deflated(b"\"\xff\""))),
        ("compressed alone is text", 1007, frame(TEXT, &payload)),
        ("RSV1 on a continuation", 1002, [&begun[..], &frame(CONTINUATION | RSV1, b"}")].concat()),
        ("RSV1 on a ping", 1002, frame(PING | RSV1, b"")),
        ("RSV1 on a close", 1002, frame(CLOSE | RSV1, b"")),
        ("RSV2", 1002, frame(TEXT | 0x20, b"{}")),
        ("RSV1 and RSV2", 1002, frame(TEXT | 0x60, &payload)),
        ("compressed beyond the limit", 1009, frame(BINARY | RSV1, &[0; 65537])),
        ("inflated beyond ten limits", 1009, frame(BINARY | RSV1, &deflated(&vec![b' '; 655_361]))),
    ] {
        let mut peer = deflating(&server, PATH);
        peer.send_frame(TEXT | RSV1, &payload);
        assert!(text(&mut peer).contains("\"connect\""), "{name}");
        peer.send(&input);
        let (said, reason) = peer.closed();
        assert_eq!(said, code, "{name}: {reason}");
        assert!(!reason.is_empty(), "{name}");
        let which = FAULTS.iter().position(|(known, _)| *known == code).expect("a code");
        counts[which] += 1;
        assert_eq!(server.metric(FAULTS[which].1), counts[which], "{name}");
        witness.hears(&server);
    }
}

#[test]
fn ten_limits_may_be_inflated() {
    let server = Server::start(ON);
    let mut peer = deflating(&server, PATH);
    let around = r#"{"id":1,"connect":{}}"#.len();
    let message = [&vec![b' '; 655_360 - around][..], CONNECT].concat();
    peer.send_frame(TEXT | RSV1, &deflated(&message));
    assert!(text(&mut peer).contains("\"connect\""));
}

#[test]
fn a_bomb_ends_its_sender_and_takes_no_room() {
    let server = Server::start(ON);
    let mut witness = Witness::join(&server);
    let resident = || server.metric("gannet_process_resident_memory_bytes");
    let before = resident();
    // The first is beyond the limit as it came; the second is let in.
    assert!(zeros(40).len() < 65536);
    for (name, payload) in [("a GiB", zeros(1024)), ("what fits", zeros(40))] {
        for _ in 0..20 {
            let mut peer = deflating(&server, PATH);
            peer.send_frame(BINARY | RSV1, &payload);
            assert_eq!(peer.closed().0, 1009, "{name}");
        }
    }
    // The echo endpoint takes the whole of it, and inflates no more than its limit.
    let mut peer = deflating(&server, "/echo");
    peer.send_frame(BINARY | RSV1, &zeros(1024));
    assert_eq!(peer.closed().0, 1009);
    witness.hears(&server);
    let grown = resident().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes more");
}

/// A subscriber to the channel "data": the ways to come to it differ.
#[derive(Debug, Clone, Copy)]
struct Way {
    binary: bool,
    offer: Option<&'static str>,
}

const PLAIN: Way = Way { binary: false, offer: None };
const DEFLATED: Way = Way { binary: false, offer: Some(OFFER) };
const PLAIN_BINARY: Way = Way { binary: true, offer: None };
const DEFLATED_BINARY: Way = Way { binary: true, offer: Some(OFFER) };
/// It cannot be sent what is compressed for the others.
const BOUNDED: Way = Way { binary: false, offer: Some("permessage-deflate; server_max_window_bits=14") };

/// The next message: the first byte of its frame, and what it says.
fn said(peer: &mut Peer) -> (u8, Vec<u8>) {
    let (first, payload) = peer.frame();
    if first & RSV1 == 0 { (first, payload) } else { (first, inflated(&payload)) }
}

/// The same as text.
fn text(peer: &mut Peer) -> String {
    let (first, message) = said(peer);
    assert_eq!(first & !RSV1, TEXT, "{message:?}");
    String::from_utf8(message).expect("text")
}

/// A client that is connected and subscribed. `more`: of its subscribe request, if that is JSON.
fn joined(server: &Server, way: Way, more: &str) -> Peer {
    let path = if way.binary { "/connection/websocket?format=protobuf" } else { PATH };
    let mut peer = offering(server, path, way.offer.as_slice()).0;
    let subscribe = format!(r#"{{"id":2,"subscribe":{{"channel":"data"{more}}}}}"#);
    match way.binary {
        true => peer.send_frame(BINARY, b"\x04\x08\x01\x22\x00\x0a\x08\x02\x2a\x06\x0a\x04data"),
        false => peer.send_frame(TEXT, &[CONNECT, b"\n", subscribe.as_bytes()].concat()),
    }
    let mut replies = Vec::new();
    let last: &[u8] = if way.binary { b"\x08\x02\x32" } else { b"\"subscribe\":" };
    while !replies.windows(last.len()).any(|some| some == last) {
        replies.extend(said(&mut peer).1);
    }
    peer
}

#[test]
fn everyone_hears_the_same_whatever_they_agreed_to() {
    let server = Server::with(ON, &["--websocket.compression_min_size", "200"]);
    // More than one on each reactor.
    let ways = [PLAIN, DEFLATED, BOUNDED, PLAIN_BINARY, DEFLATED_BINARY].repeat(4);
    let mut peers: Vec<(Way, Peer)> = ways.into_iter().map(|way| (way, joined(&server, way, ""))).collect();
    for repeated in [1, 30, 3, 2_000, 10_000, 0] {
        let data = format!("{repeated} times: {}", "so it goes, ".repeat(repeated));
        let json = serde_json::to_string(&data).expect("JSON");
        let push = format!(r#"{{"push":{{"channel":"data","pub":{{"data":{json}}}}}}}"#).into_bytes();
        server.publish("data", data.into());
        let mut binary = None;
        for (way, peer) in &mut peers {
            let (first, message) = said(peer);
            let (opcode, compressed) = (first & !RSV1, first & RSV1 != 0);
            let wanted = way.offer == Some(OFFER) && repeated >= 30;
            assert_eq!((opcode, compressed), (if way.binary { BINARY } else { TEXT }, wanted), "{way:?} {repeated}");
            if way.binary {
                assert!(message.windows(json.len()).any(|some| some == json.as_bytes()), "{way:?} {repeated}");
                assert!(*binary.get_or_insert_with(|| message.clone()) == message, "{way:?} {repeated}");
            } else {
                assert!(message == push, "{way:?} {repeated}");
            }
        }
    }
}

#[test]
fn a_publication_is_compressed_once_however_many_hear_it() {
    let server = Server::start(&["--client.insecure", "--reactors", "1", "--websocket.compression"]);
    let ways = [DEFLATED, DEFLATED_BINARY, PLAIN, PLAIN_BINARY].repeat(10);
    let mut peers: Vec<Peer> = ways.into_iter().map(|way| joined(&server, way, "")).collect();
    let counts = || {
        let count = |name: &str| server.metric(&format!("gannet_transport_messages_{name}_total"));
        ["compressed", "incompressible", "compressed_before_size_bytes", "compressed_after_size_bytes"].map(count)
    };
    let before = counts();
    server.publish("data", "so it goes, ".repeat(100).into());
    let sizes = |at: usize, peers: &mut [Peer]| peers.iter_mut().skip(at).step_by(4).map(|p| p.frame().1.len()).max();
    let after = [0, 1].map(|at| sizes(at, &mut peers).expect("some") as u64);
    let whole = [2, 3].map(|at| sizes(at, &mut peers).expect("some") as u64);
    let sums = [after.iter().sum::<u64>(), whole.iter().sum()];
    let grown: Vec<u64> = counts().iter().zip(before).map(|(now, before)| now - before).collect();
    assert_eq!(grown, [2, 0, sums[1], sums[0]], "one for each encoding");
    assert!(sums[0] < sums[1] / 10, "{sums:?}");
}

/// Publishes where there is a history; the offset.
fn publish_kept(server: &Server, data: &Value) -> u64 {
    let answer = server.call("publish", json!({ "channel": "data", "data": data }));
    answer["result"]["offset"].as_u64().unwrap_or_else(|| panic!("no offset: {answer}"))
}

#[test]
fn replies_are_compressed_but_no_ping_and_no_close() {
    let history = ["--channel.without_namespace.history_size", "90", "--channel.without_namespace.history_ttl", "1h"];
    let server =
        Server::with(ON, &[&history[..], &["--client.ping_interval", "1s", "--client.pong_timeout", "0"]].concat());
    (1..=90).for_each(|n| assert_eq!(publish_kept(&server, &format!("number {n}, and so it goes").into()), n));
    let mut said_of = [PLAIN, DEFLATED].map(|way| {
        let mut peer = joined(&server, way, "");
        peer.send_frame(TEXT, br#"{"id":3,"history":{"channel":"data","limit":90}}"#);
        let mut pings = 0;
        let (first, reply) = loop {
            match said(&mut peer) {
                (first, message) if message == b"{}" => {
                    assert_eq!(first, TEXT);
                    pings += 1;
                }
                reply => break reply,
            }
        };
        assert_eq!(first, if way.offer.is_some() { TEXT | RSV1 } else { TEXT });
        while pings == 0 {
            assert_eq!(said(&mut peer), (TEXT, b"{}".to_vec()));
            pings += 1;
        }
        peer.send_frame(TEXT, b"no command");
        assert_eq!(peer.closed().0, 3501);
        String::from_utf8(reply).expect("text")
    });
    said_of.sort();
    assert!(said_of[0] == said_of[1] && said_of[0].matches("and so it goes").count() == 90, "{said_of:?}");
}

#[test]
fn what_waits_together_is_compressed_in_messages_of_16_kib() {
    let paced =
        ["--channel.without_namespace.batch_max_size", "12", "--channel.without_namespace.batch_max_delay", "1h"];
    let server = Server::with(ON, &paced);
    let mut peers = [PLAIN, DEFLATED].map(|way| joined(&server, way, ""));
    for n in 0..12 {
        server.publish("data", format!("{n}: {}", "so it goes, ".repeat(400)).into());
    }
    let [plain, compressed] = peers.each_mut().map(|peer| {
        let (mut messages, mut lines) = (Vec::new(), 0);
        while lines < 12 {
            let (first, message) = said(peer);
            lines += message.split(|byte| *byte == b'\n').count();
            messages.push((first, message));
        }
        messages
    });
    assert_eq!((plain.len(), compressed.len()), (4, 4));
    for ((plain, message), (compressed, same)) in plain.iter().zip(&compressed) {
        assert_eq!((*plain, *compressed), (TEXT, TEXT | RSV1));
        assert!(message == same);
    }
    // And goes on.
    (0..12).for_each(|n| server.publish("data", n.into()));
    assert!(peers.iter_mut().all(|peer| text(peer).ends_with("{\"data\":11}}}")));
}

#[test]
fn deltas_are_compressed_too() {
    let delta =
        ["--channel.without_namespace.allowed_delta_types", "fossil", "--channel.without_namespace.delta_publish"];
    let history = ["--channel.without_namespace.history_size", "9", "--channel.without_namespace.history_ttl", "1h"];
    let server = Server::with(ON, &[&delta[..], &history].concat());
    let more = r#","delta":"fossil""#;
    let mut peers = [joined(&server, PLAIN, more), joined(&server, DEFLATED, more), joined(&server, DEFLATED, "")];
    for n in 0..3 {
        let data = json!({ "rows": (0..90).map(|row| row * 7919 % 1000).collect::<Vec<u32>>(), "n": n });
        assert_eq!(publish_kept(&server, &data), n + 1);
        let [whole, compressed, other] = peers.each_mut().map(said);
        assert_eq!((whole.0, whole.1 == compressed.1, other.0), (TEXT, true, TEXT | RSV1));
        let push: Value = serde_json::from_slice(&compressed.1).expect("JSON");
        assert_eq!(push["push"]["pub"]["delta"] == true, n > 0, "{push}");
        let push: Value = serde_json::from_slice(&other.1).expect("JSON");
        assert_eq!(push["push"]["pub"]["data"], data);
    }
}

/// There is no compressed wire for those who only listen: they may still say what they say compressed.
#[test]
fn who_only_listens_is_sent_what_is_not_compressed() {
    let server = Server::with(ON, &["--uni_websocket.enabled"]);
    let mut peer = deflating(&server, "/connection/uni_websocket");
    peer.send_frame(TEXT | RSV1, &deflated(br#"{"subs":{"data":{}}}"#));
    assert!(peer.text().contains(r#"{"connect":{"#));
    let data = "so it goes, ".repeat(100);
    server.publish("data", data.as_str().into());
    let push: Value = serde_json::from_str(&peer.text()).expect("JSON");
    assert_eq!(push["pub"]["data"], data);
}
