//! Compression: any bytes inflate within the limit or are refused, and what was compressed comes back.
//!
//! The first byte is the level, the second the window and how often the rest is repeated.
#![no_main]

use gannet::ws::{Deflate, Inflate, Kind};
use libfuzzer_sys::fuzz_target;

const LIMIT: usize = 100_000;

fuzz_target!(|data: &[u8]| {
    let [level, window, rest @ ..] = data else { return };
    let mut inflate = Inflate::default();
    let kind = if level & 0x80 == 0 { Kind::Text } else { Kind::Binary };
    if let Ok(message) = inflate.message(kind, rest, LIMIT) {
        assert!(message.len() <= LIMIT, "a message beyond its limit");
        assert!(kind == Kind::Binary || std::str::from_utf8(message).is_ok(), "text that is not UTF-8");
    }
    let mut deflate = Deflate::new(u32::from(level & 0x0f));
    let many = rest.repeat(1 << (window >> 4 & 7));
    for message in [rest, &many, rest] {
        for bits in [8 + (window & 7), 15] {
            if let Some(payload) = deflate.message(message, bits) {
                assert!(payload.len() < message.len());
                assert_eq!(inflate.message(Kind::Binary, payload, message.len()), Ok(message));
            }
        }
    }
});
