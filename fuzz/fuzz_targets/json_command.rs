//! Commands in JSON: any bytes are decoded or refused, what was decoded survives the way back, and a session that is
//! told all of it leaves nothing behind.
#![no_main]

#[path = "../node/mod.rs"]
mod node;

use gannet::protocol::{Command, Encoding};
use gannet::wire::Wire;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut rest = data;
    while let Some(decoded) = Encoding::Json.decode(&mut rest) {
        let Ok(command) = decoded else { continue };
        let json = serde_json::to_vec(&command).expect("what was JSON is JSON");
        assert!(!json.contains(&b'\n'), "a line end inside a command");
        let back: Command = serde_json::from_slice(&json).expect("what was written is read");
        // White space in payloads may have changed in the first writing, but no more after it.
        assert_eq!(serde_json::to_vec(&back).expect("JSON").len(), json.len());
        assert_eq!(back.id, command.id);
    }
    assert!(rest.trim_ascii().is_empty(), "bytes left behind");
    node::hear(Wire::WebSocketJson, br#"{"id":1,"connect":{}}"#, data);
});
