//! permessage-deflate (RFC 7692), sound and broken, with a peer that compresses by hand.

use crate::client::Witness;
use crate::peer::{BINARY, CLOSE, PATH, PING, PONG, Peer, TEXT, UNFINISHED, frame, upgrade_head};
use crate::server::{OPEN, Server};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

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
    assert!(peer.text().contains("\"connect\""));
    // The next may come as it is, the one after that compressed again, and neither needs what came before.
    peer.send_frame(TEXT, br#"{"id":2,"publish":{"channel":"c","data":2}}"#);
    assert_eq!(peer.text(), r#"{"id":2,"publish":{}}"#);
    peer.send_frame(TEXT | RSV1, &deflated(br#"{"id":3,"publish":{"channel":"c","data":3}}"#));
    assert_eq!(peer.text(), r#"{"id":3,"publish":{}}"#);
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
        assert!(peer.text().contains("\"connect\""), "{name}");
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
    assert!(peer.text().contains("\"connect\""));
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
