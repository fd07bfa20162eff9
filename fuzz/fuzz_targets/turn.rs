//! Bytes and operations of several connections through the turns of two reactors: see `node/turn.rs`.
#![no_main]

#[path = "../node/mod.rs"]
mod node;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: node::turn::Input| node::turn::try_it(input));
