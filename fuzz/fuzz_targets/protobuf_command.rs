//! Commands in Protobuf: any bytes are decoded or refused, what was decoded survives the way back, and a session that is
//! told all of it leaves nothing behind.
#![no_main]

#[path = "../node/mod.rs"]
mod node;

use gannet::protocol::{Command, Encoding};
use gannet::wire::Wire;
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
    node::hear(Wire::WebSocketProtobuf, b"\x04\x08\x01\x22\x00", data);
});
