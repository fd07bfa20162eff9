//! RFC 6455 frames, sound and broken. Each break is answered by its close code, and concerns nobody else.

use crate::client::Witness;
use crate::peer::{BINARY, CLOSE, PING, PONG, Peer, TEXT, UNFINISHED, frame, frame_header};
use crate::server::{OPEN, Server};
use std::io::Write;

const CONNECT: &[u8] = br#"{"id":1,"connect":{}}"#;
const CONTINUATION: u8 = 0x80;
/// `websocket.message_size_limit` by default.
const LIMIT: usize = 65536;

/// A command of `len` bytes exactly.
fn padded(id: u32, len: usize) -> Vec<u8> {
    let around = format!(r#"{{"id":{id},"publish":{{"channel":"c","data":""}}}}"#).len();
    format!(r#"{{"id":{id},"publish":{{"channel":"c","data":"{}"}}}}"#, "x".repeat(len - around)).into_bytes()
}

/// Each input ends its connection with `code`, is counted, and leaves the witness in peace.
fn end_with(code: u16, inputs: &[(&str, Vec<u8>)]) {
    let server = Server::start(OPEN);
    let mut witness = Witness::join(&server);
    for (done, (name, input)) in inputs.iter().enumerate() {
        let mut peer = Peer::connected(&server);
        peer.send(input);
        let (said, reason) = peer.closed();
        assert_eq!(said, code, "{name}: {reason}");
        assert!(!reason.is_empty(), "{name}");
        let series = format!("gannet_transport_protocol_errors_total{{code=\"{code}\"}}");
        assert_eq!(server.metric(&series), done as u64 + 1, "{name}");
        witness.hears(&server);
    }
}

#[test]
fn broken_framing_ends_with_1002() {
    let begun = frame(TEXT & UNFINISHED, b"{");
    end_with(
        1002,
        &[
            ("unmasked", [&[TEXT, 2][..], b"{}"].concat()),
            ("first reserved bit", frame(TEXT | 0x40, b"{}")),
            ("second reserved bit", frame(TEXT | 0x20, b"{}")),
            ("third reserved bit", frame(TEXT | 0x10, b"{}")),
            ("reserved data opcode", frame(0x83, b"{}")),
            ("reserved control opcode", frame(0x8b, b"")),
            ("fragmented ping", frame(PING & UNFINISHED, b"")),
            ("long ping", frame(PING, &[0; 126])),
            ("continuation of nothing", frame(CONTINUATION, b"x")),
            ("message in a message", [begun, frame(TEXT, b"}")].concat()),
            ("length with its highest bit", [&frame_header(BINARY, 1 << 63)[..], &[0; 4]].concat()),
            ("close code of one byte", frame(CLOSE, &[3])),
            ("close code 0", frame(CLOSE, &[0, 0])),
            ("close code 1005", frame(CLOSE, &1005u16.to_be_bytes())),
            ("close code 1006", frame(CLOSE, &1006u16.to_be_bytes())),
            ("close code 2999", frame(CLOSE, &2999u16.to_be_bytes())),
            ("close code 5000", frame(CLOSE, &5000u16.to_be_bytes())),
        ],
    );
}

#[test]
fn text_that_is_not_utf8_ends_with_1007() {
    let begun = frame(TEXT & UNFINISHED, b"\"\xce");
    end_with(
        1007,
        &[
            ("text", frame(TEXT, b"\"\xff\"")),
            ("surrogate", frame(TEXT, b"\"\xed\xa0\x80\"")),
            ("cut at the end", frame(TEXT, b"\"\xce")),
            ("over two frames", [begun, frame(CONTINUATION, b"\xce\"")].concat()),
            ("close reason", frame(CLOSE, b"\x03\xe8\xff")),
        ],
    );
}

#[test]
fn a_message_beyond_its_limit_ends_with_1009() {
    let part = frame(BINARY & UNFINISHED, &vec![0; LIMIT]);
    let small = frame(BINARY & UNFINISHED, &[0; 600]);
    let smaller = frame(CONTINUATION & UNFINISHED, &[0; 600]);
    end_with(
        1009,
        &[
            ("one frame", frame(TEXT, &padded(2, LIMIT + 1))),
            ("announced only", [&frame_header(BINARY, 1 << 40)[..], &[0; 4]].concat()),
            ("two frames", [part, frame(CONTINUATION, b"x")].concat()),
            ("many frames", [small, smaller.repeat(LIMIT / 600 + 1)].concat()),
        ],
    );
}

#[test]
fn a_message_at_its_limit_is_taken() {
    let server = Server::start(OPEN);
    let mut peer = Peer::connected(&server);
    peer.send_frame(TEXT, &padded(2, LIMIT));
    assert_eq!(peer.text(), r#"{"id":2,"publish":{}}"#);
    let message = padded(3, LIMIT);
    let (head, tail) = message.split_at(LIMIT / 3);
    peer.send(&[frame(TEXT & UNFINISHED, head), frame(CONTINUATION, tail)].concat());
    assert_eq!(peer.text(), r#"{"id":3,"publish":{}}"#);
}

#[test]
fn control_frames_are_answered_between_the_parts_of_a_message() {
    let server = Server::start(OPEN);
    let mut peer = Peer::upgraded(&server);
    peer.send_frame(TEXT & UNFINISHED, &CONNECT[..9]);
    let payload = [0xa5; 125];
    peer.send_frame(PING, &payload);
    assert_eq!(peer.frame(), (PONG, payload.to_vec()));
    peer.send_frame(PONG, b"unasked, and allowed");
    peer.send_frame(CONTINUATION, &CONNECT[9..]);
    assert!(peer.text().contains("\"connect\""));
    peer.send_frame(PING, b"");
    assert_eq!(peer.frame(), (PONG, Vec::new()));
}

#[test]
fn a_close_frame_is_echoed() {
    let server = Server::start(OPEN);
    for (sent, echoed) in [(&b"\x03\xe8bye"[..], &b"\x03\xe8"[..]), (b"\x0f\xa0", b"\x0f\xa0"), (b"", b"")] {
        let mut peer = Peer::connected(&server);
        peer.send_frame(CLOSE, sent);
        assert_eq!(peer.frame(), (CLOSE, echoed.to_vec()));
        peer.ended();
    }
    server.counts("gannet_transport_connections_closed_total", 3);
    assert_eq!(server.metric("gannet_transport_connections_lost_total"), 0);
    assert_eq!(server.metric("gannet_node_num_clients"), 0);
}

#[test]
fn a_message_may_come_byte_by_byte() {
    let server = Server::start(OPEN);
    let mut peer = Peer::upgraded(&server);
    let (head, tail) = CONNECT.split_at(7);
    let frames = [frame(TEXT & UNFINISHED, head), frame(PING, b"hello"), frame(CONTINUATION, tail)].concat();
    for byte in frames.chunks(1) {
        peer.send(byte);
    }
    assert_eq!(peer.frame(), (PONG, b"hello".to_vec()));
    assert!(peer.text().contains("\"connect\""));
}

#[test]
fn many_frames_may_come_at_once() {
    let server = Server::start(OPEN);
    let mut peer = Peer::connected(&server);
    let frames = |ids: std::ops::Range<u32>| -> Vec<u8> {
        ids.flat_map(|id| frame(TEXT, format!(r#"{{"id":{id},"publish":{{"channel":"c","data":{id}}}}}"#).as_bytes()))
            .collect()
    };
    peer.send(&frames(2..5002));
    let mut expected = 2..5002;
    while !expected.is_empty() {
        for line in peer.text().lines() {
            assert_eq!(line, format!(r#"{{"id":{},"publish":{{}}}}"#, expected.next().expect("no more")));
        }
    }
}

#[test]
fn a_peer_that_vanishes_is_forgotten() {
    let server = Server::start(OPEN);
    let mut witness = Witness::join(&server);
    for rest in [&b""[..], &frame(TEXT, CONNECT)[..3]] {
        let mut peer = Peer::connected(&server);
        peer.stream.write_all(rest).expect("send");
        // With an abort, not an orderly end.
        socket2::SockRef::from(&peer.stream).set_linger(Some(std::time::Duration::ZERO)).expect("linger");
    }
    server.counts("gannet_transport_connections_lost_total", 2);
    assert_eq!(server.metric("gannet_node_num_clients"), 1);
    witness.hears(&server);
}
