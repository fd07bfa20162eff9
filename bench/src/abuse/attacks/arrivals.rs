//! Many connections: what they leave behind, and what it costs that they come.

use std::time::Duration;

use crate::abuse::MIB;
use crate::abuse::attack::{Allowed, Plan, Site};
use crate::abuse::crowd::Crowd;
use crate::abuse::script::{Door, Script, Step};
use crate::abuse::speech::TEXT;

/// A request head without its end.
const HEAD: &[u8] = b"GET /connection/websocket HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ";

pub fn half_frames(_: &Site) -> Plan {
    // Whoever is in the middle of a frame cannot answer a ping, so there is no connect command that would bring pings.
    let begun = [&[TEXT, 0xfe, 0xff, 0xff, 0, 0, 0, 0][..], &[b' '; 65_000]].concat();
    let script = Script::upgraded().send(begun).then(Step::Hold).again();
    Plan::new(vec![Crowd::of(2500, script)]).flag("--overload.memory_limit", "100MiB").allow(Allowed {
        total: Some(110 * MIB),
        because: "overload.memory_limit and a tenth",
        ..Allowed::default()
    })
}

pub fn slow_heads(_: &Site) -> Plan {
    let drip = Step::Every(Duration::from_millis(500), b"x".to_vec().into());
    Plan::new(vec![Crowd::of(1000, Script::raw(Door::Public).send(HEAD).then(drip).again())])
}

pub fn half_open(_: &Site) -> Plan {
    let silent = Script::raw(Door::Public).then(Step::Hold).again();
    let half = Script::raw(Door::Public).send(HEAD).then(Step::Hold).again();
    Plan::new(vec![Crowd::of(1000, silent), Crowd::of(1000, half)])
}

fn many(script: Script) -> Plan {
    Plan::new(vec![Crowd { at_once: 64, ..Crowd::of(1000, script.again()) }])
}

pub fn resets(_: &Site) -> Plan {
    many(Script::client().then(Step::Abort))
}

pub fn connect_flood(_: &Site) -> Plan {
    many(Script::raw(Door::Public).then(Step::Leave))
}
