//! The fuzzer's inputs, replayed by its own world without its sanitizer: the seeds that are checked in, what was found
//! once, and some thousand drawn by chance. What must hold is said in `fuzz/node`.

#[path = "../../fuzz/node/mod.rs"]
mod node;
#[path = "../../fuzz/payloads.rs"]
mod payloads;
#[path = "../../fuzz/tls/mod.rs"]
mod tls;

use arbitrary::{Arbitrary, Unstructured};
use gannet::wire::Wire;
use std::fs;
use std::path::Path;

/// The inputs in `fuzz/corpus/<target>`, by name.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files = fs::read_dir(&folder).expect("a corpus").map(|file| file.expect("a file").path());
    let mut all: Vec<_> = files.map(|path| (path.display().to_string(), fs::read(&path).expect("an input"))).collect();
    all.sort();
    assert!(!all.is_empty(), "{target} has no corpus");
    all
}

/// The same input for the same number. In half of them all numbers are small, so that operations meet more often.
fn drawn(number: u64) -> Vec<u8> {
    let mask = if number.is_multiple_of(2) { 0xff } else { 0x0f };
    let mut state = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    std::iter::repeat_with(next).flat_map(|bits: u64| bits.to_le_bytes()).map(|byte| byte & mask).take(1200).collect()
}

fn replay<'a, T: Arbitrary<'a>>(bytes: &'a [u8], run: impl Fn(T)) {
    run(T::arbitrary_take_rest(Unstructured::new(bytes)).expect("bytes are never too few"));
}

/// Says which input it was, if it fails.
fn named(name: &str, run: impl FnOnce()) {
    let told = Told(name);
    run();
    std::mem::forget(told);
}

struct Told<'a>(&'a str);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        eprintln!("the input is {}", self.0);
    }
}

#[test]
fn operations_hold_what_they_promise() {
    for (name, bytes) in corpus("operations") {
        named(&name, || replay(&bytes, node::operations::try_it));
    }
    for number in 0..DRAWN {
        named(&format!("drawn {number}"), || replay(&drawn(number), node::operations::try_it));
    }
}

#[test]
fn turns_give_nobody_more_than_its_share_and_leave_nothing_behind() {
    for (name, bytes) in corpus("turn") {
        named(&name, || replay(&bytes, node::turn::try_it));
    }
    for number in 0..DRAWN {
        named(&format!("drawn {number}"), || replay(&drawn(number), node::turn::try_it));
    }
}

#[test]
fn commands_leave_nothing_behind() {
    for (name, bytes) in corpus("json_command") {
        named(&name, || node::hear(Wire::WebSocketJson, br#"{"id":1,"connect":{}}"#, &bytes));
    }
    for (name, bytes) in corpus("protobuf_command") {
        named(&name, || node::hear(Wire::WebSocketProtobuf, b"\x04\x08\x01\x22\x00", &bytes));
    }
}

/// Drawn ones are seeds with bytes that are others.
#[test]
fn what_engines_and_nodes_send_is_read_or_refused() {
    let seeds = corpus("payload");
    for (name, bytes) in &seeds {
        named(name, || payloads::hear(bytes));
    }
    for number in 0..DRAWN {
        let (chance, (name, seed)) = (drawn(number), &seeds[number as usize % seeds.len()]);
        let mut bytes = seed.clone();
        for change in chance.chunks_exact(3).take(1 + usize::from(chance[0] % 4)) {
            let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % bytes.len();
            bytes[at] = change[2];
        }
        named(&format!("{name}, drawn {number}: {bytes:?}"), || payloads::hear(&bytes));
        named(&format!("drawn {number}"), || payloads::hear(&chance));
    }
}

#[test]
fn records_are_heard_in_front_of_the_first_wrong_byte() {
    for (name, bytes) in corpus("tls_records") {
        named(&name, || replay(&bytes, tls::try_it));
    }
    for number in 0..DRAWN {
        named(&format!("drawn {number}"), || replay(&drawn(number), tls::try_it));
    }
}

/// Inputs drawn by chance for each target.
const DRAWN: u64 = 2000;
