//! The frame decoder: bytes shown whole and bytes shown in pieces must come to the same.
//!
//! The first byte is the size of the pieces, its top bit whether compression was negotiated; the rest is what a client
//! sent.
#![no_main]

use gannet::ws::{Decoder, Item, Kind, Step};
use libfuzzer_sys::fuzz_target;

const LIMIT: usize = 1000;

#[derive(Debug, PartialEq)]
enum Seen {
    Message(Kind, Vec<u8>),
    Deflated(Kind, Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
    Fault(u16),
}

/// What comes of `bytes`, shown `piece` at a time with what was left before them. Parts are put together.
fn decode(mut decoder: Decoder, bytes: &[u8], piece: usize) -> Vec<Seen> {
    let (mut seen, mut parts, mut held) = (Vec::new(), Vec::new(), Vec::new());
    for piece in bytes.chunks(piece) {
        held.extend_from_slice(piece);
        let mut used = 0;
        loop {
            let (size, item) = match decoder.next(&mut held[used..], LIMIT) {
                Step::More => break,
                Step::Item(size, item) => (size, item),
                Step::Fault(fault) => {
                    seen.push(Seen::Fault(fault.code()));
                    return seen;
                }
            };
            match item {
                Item::Message(kind, bytes) => seen.push(Seen::Message(kind, bytes.to_vec())),
                Item::Part(bytes) => parts.extend_from_slice(bytes),
                Item::Last(kind, bytes) => {
                    parts.extend_from_slice(bytes);
                    seen.push(Seen::Message(kind, std::mem::take(&mut parts)));
                }
                Item::Deflated(kind, bytes) => seen.push(Seen::Deflated(kind, bytes.to_vec())),
                Item::LastDeflated(kind, bytes) => {
                    parts.extend_from_slice(bytes);
                    seen.push(Seen::Deflated(kind, std::mem::take(&mut parts)));
                }
                Item::Ping(bytes) => seen.push(Seen::Ping(bytes.to_vec())),
                Item::Pong(bytes) => seen.push(Seen::Pong(bytes.to_vec())),
                Item::Close(code, reason) => seen.push(Seen::Close(code, reason.to_owned())),
            }
            used += size;
            assert!(parts.len() <= LIMIT, "a message beyond its limit");
        }
        held.drain(..used);
        assert!(held.len() < 14 + 125, "the decoder holds back more than a control frame");
    }
    seen
}

fuzz_target!(|data: &[u8]| {
    let Some((piece, bytes)) = data.split_first() else { return };
    let deflate = piece & 0x80 != 0;
    let decoder = || if deflate { Decoder::deflating() } else { Decoder::default() };
    let whole = decode(decoder(), bytes, usize::MAX);
    for seen in &whole {
        match seen {
            Seen::Message(Kind::Text, text) => assert!(std::str::from_utf8(text).is_ok(), "text that is not UTF-8"),
            Seen::Deflated(..) => assert!(deflate, "compressed though it was not negotiated"),
            _ => {}
        }
    }
    assert_eq!(decode(decoder(), bytes, usize::from(*piece & 0x7f).max(1)), whole);
    assert_eq!(decode(decoder(), bytes, 1), whole);
});
