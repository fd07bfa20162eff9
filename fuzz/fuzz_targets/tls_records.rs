//! Records of TLS 1.3 from a peer that may do anything: see `fuzz/tls`.
#![no_main]

#[path = "../tls/mod.rs"]
mod tls;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: tls::Input| tls::try_it(input));
