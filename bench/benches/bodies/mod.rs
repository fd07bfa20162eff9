//! The micro-benches: every body once, timed by `benches/micro.rs` and counted in instructions by `examples/micro.rs`.
//!
//! A body is prepared outside the measurement and then gives one operation to repeat. It leaves its state as it found
//! it, so that the thousandth repetition costs what the tenth did.

mod channels;
mod clients;
mod codec;
mod frames;
mod owner;
mod payloads;

/// One operation, ready to be repeated.
pub type Operation = Box<dyn FnMut()>;

/// A micro-bench.
pub struct Body {
    pub name: &'static str,
    pub prepare: fn() -> Operation,
}

/// Bytes of an application message, as in the comparison with the peers.
const MESSAGE: usize = 128;

/// All of them, in the order of the floors.
pub fn all() -> impl Iterator<Item = &'static Body> {
    channels::WHEEL
        .iter()
        .chain(frames::BODIES)
        .chain(codec::BODIES)
        .chain(payloads::BODIES)
        .chain(owner::BODIES)
        .chain(channels::HUB)
        .chain(clients::BODIES)
}

/// A JSON string that takes [`MESSAGE`] bytes with its quotes.
fn json_string() -> String {
    format!("\"{}\"", "x".repeat(MESSAGE - 2))
}
