//! Two reactors under a sequence of typed operations: see `node/operations.rs`.
#![no_main]

#[path = "../node/mod.rs"]
mod node;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: node::operations::Input| node::operations::try_it(input));
