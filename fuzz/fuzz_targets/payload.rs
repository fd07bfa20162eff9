//! Bytes that come from Redis, from NATS and from other nodes.
#![no_main]

#[path = "../payloads.rs"]
mod payloads;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| payloads::hear(data));
