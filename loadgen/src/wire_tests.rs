//! Frames against tungstenite's own reader and writer. Never against a socket.

use super::*;
use std::io::{self, Read, Write};
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::{Role, WebSocket};
use tungstenite::{Bytes, Message};

/// Both ends of a stream as one buffer.
#[derive(Default)]
struct Wire(Vec<u8>);

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let size = buffer.len().min(self.0.len());
        buffer[..size].copy_from_slice(&self.0[..size]);
        self.0.drain(..size);
        Ok(size)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 7) as u8).collect()
}

/// What an inbox makes of `bytes`, given in two parts, as text.
fn items(bytes: &[u8], split: usize) -> Result<Vec<String>, Fault> {
    let (mut inbox, mut all) = (Inbox::default(), Vec::new());
    inbox.take(&bytes[..split], 1 << 20, |item| all.push(format!("{item:?}")))?;
    inbox.take(&bytes[split..], 1 << 20, |item| all.push(format!("{item:?}")))?;
    assert!(inbox.partial.is_empty() && inbox.partial.capacity() == 0, "an idle inbox owns nothing");
    Ok(all)
}

#[test]
fn a_tungstenite_server_reads_our_frames() {
    for len in [0, 1, 3, 4, 5, 125, 126, 127, 65535, 65536, 100_000] {
        let mut wire = Wire::default();
        put_frame(&mut wire.0, message(false), &payload(len), [1, 2, 3, 4]);
        put_frame(&mut wire.0, control(Control::Ping), b"p", [9, 8, 7, 6]);
        let mut server = WebSocket::from_raw_socket(wire, Role::Server, None);
        assert_eq!(server.read().expect("a message"), Message::Binary(payload(len).into()));
        assert_eq!(server.read().expect("a ping"), Message::Ping(Bytes::from_static(b"p")));
    }
}

#[test]
fn we_read_what_a_tungstenite_server_writes() {
    for len in [0, 1, 125, 126, 65535, 65536] {
        let mut server = WebSocket::from_raw_socket(Wire::default(), Role::Server, None);
        for message in [Message::Binary(payload(len).into()), Message::Ping(Bytes::from_static(b"hi"))] {
            server.send(message).expect("sent");
        }
        server.close(None).expect("closed");
        let bytes = server.get_ref().0.clone();
        let expected = [
            format!("{:?}", Item::Message(&payload(len))),
            format!("{:?}", Item::Ping(b"hi")),
            format!("{:?}", Item::Close(None, b"")),
        ];
        for split in (0..bytes.len().min(40)).chain([bytes.len() - 1, bytes.len()]) {
            assert_eq!(items(&bytes, split).expect("sound frames"), expected, "length {len}, split at {split}");
        }
    }
}

#[test]
fn a_message_in_frames_with_a_ping_between() {
    let mut bytes = Vec::new();
    Frame::message(&b"one "[..], message(true), false).format(&mut bytes).expect("formatted");
    Frame::ping(&b"?"[..]).format(&mut bytes).expect("formatted");
    Frame::message(&b"two"[..], OpCode::Data(Data::Continue), true).format(&mut bytes).expect("formatted");
    let expected = [format!("{:?}", Item::Ping(b"?")), format!("{:?}", Item::Message(b"one two"))];
    for split in 0..=bytes.len() {
        assert_eq!(items(&bytes, split).expect("sound frames"), expected, "split at {split}");
    }
}

#[test]
fn a_close_has_its_code_and_reason() {
    let bytes = [&[0x88, 6, 0x0d, 0xac][..], b"gone"].concat();
    assert_eq!(items(&bytes, 3).expect("sound"), [format!("{:?}", Item::Close(Some(3500), b"gone"))]);
}

#[test]
fn faults_are_told() {
    for (bytes, fault) in [
        (&[0x81, 0x80, 0, 0, 0, 0][..], "masked"),
        (&[0xc1, 0], "reserved bit"),
        (&[0x09, 0], "not final"),
        (&[0x80, 0], "mixed"),
        (&[0x01, 0, 0x81, 0], "mixed"),
        (&[0x88, 1, 3], "one byte"),
        (&[0x83, 0], "opcode"),
        (&[0x82, 127, 0, 0, 0, 0, 0, 16, 0, 1], "over the limit"),
    ] {
        let told = items(bytes, bytes.len()).expect_err("a fault").to_string();
        assert!(told.contains(fault), "{told}");
    }
}
