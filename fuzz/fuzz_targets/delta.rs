//! Deltas: each makes the new payload of the old one, that of text is text, and any bytes apply or are refused.
#![no_main]

use gannet::protocol::delta::{apply, delta, json_string};
use libfuzzer_sys::fuzz_target;

const SIZE_MAX: usize = 1 << 16;

fuzz_target!(|data: &[u8]| {
    let Some((split, payloads)) = data.split_first() else { return };
    let (old, new) = payloads.split_at(payloads.len() * usize::from(*split) / 256);
    let made = delta(old, new);
    assert_eq!(apply(old, &made, new.len()).as_deref(), Some(new));
    assert!(made.len() <= new.len() + 16, "{} bytes for {}", made.len(), new.len());
    assert!(json_string(new).is_none() || json_string(&made).is_some(), "a delta of text that is none");
    if let Some(unasked) = apply(old, new, SIZE_MAX) {
        assert!(unasked.len() <= SIZE_MAX);
    }
});
