//! Commands in Protobuf: any bytes are decoded or refused, and what was decoded survives the way back.
#![no_main]

use gannet::protocol::{Command, Encoding};
use libfuzzer_sys::fuzz_target;
use prost::Message;

fuzz_target!(|data: &[u8]| {
    let mut rest = data;
    while let Some(decoded) = Encoding::Protobuf.decode(&mut rest) {
        let Ok(command) = decoded else { continue };
        let bytes = command.encode_length_delimited_to_vec();
        assert_eq!(Command::decode_length_delimited(&bytes[..]), Ok(command));
    }
    assert!(rest.is_empty(), "bytes left behind");
});
