//! Frames that cost more than they carry.

use super::FEW;
use crate::abuse::attack::{Plan, Site};
use crate::abuse::crowd::Crowd;
use crate::abuse::script::{Script, Step};
use crate::abuse::speech::{BINARY, CONTINUED, MESSAGE, PING, TEXT, UNFINISHED, bomb, frame, message, repeated};
use crate::centrifugal;

pub fn continuations(_: &Site) -> Plan {
    let begun = Script::upgraded().send(frame(UNFINISHED, b"x"));
    Plan::new(vec![Crowd::of(FEW, begun.flood(repeated(&frame(CONTINUED, b""))).again())])
}

pub fn ping_flood(_: &Site) -> Plan {
    Plan::new(vec![Crowd::of(FEW, Script::client().flood(repeated(&frame(PING, b"x"))).again())])
}

/// Most of a message stays with the server for as long as its client answers pings.
pub fn endless_messages(_: &Site) -> Plan {
    let path = format!("{}?cf_ws_frame_ping_pong=true", centrifugal::PATH);
    let begun = Script::upgraded_at(&path, &[]).joined(None).send(frame(UNFINISHED, &[b' '; 60_000]));
    Plan::new(vec![Crowd::of(2000, begun.then(Step::Hold).again())])
}

pub fn deflate_bomb(_: &Site) -> Plan {
    let bomb = bomb(50);
    debug_assert!(bomb.len() < MESSAGE);
    let offer = "Sec-WebSocket-Extensions: permessage-deflate";
    let script = Script::upgraded_at(centrifugal::PATH, &[offer]).joined(None).send(bomb).then(Step::Hold);
    Plan::new(vec![Crowd::of(FEW, script.again())]).on("--websocket.compression")
}

pub fn lying_lengths(_: &Site) -> Plan {
    // A frame of 2^62 bytes; one of 60,000 that ends after ten; and a Protobuf command that is longer than its message.
    let endless = [&[TEXT, 0xff, 0x40, 0, 0, 0, 0, 0, 0, 0][..], &[0; 4]].concat();
    let cut = [&[TEXT, 0xfe, 0xea, 0x60][..], &[0; 14]].concat();
    let beyond = frame(BINARY, &[0xff, 0xff, 0xff, 0xff, 0x07, 0x08, 1]);
    let crowd = |script: Script| Crowd::of(FEW, script.then(Step::Hold).again());
    Plan::new(vec![
        crowd(Script::client().send(endless)),
        crowd(Script::client().send(message(" ")).send(cut)),
        crowd(Script::upgraded_at(centrifugal::PROTOBUF_PATH, &[]).send(beyond)),
    ])
}
