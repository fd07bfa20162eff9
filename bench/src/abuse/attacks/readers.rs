//! Subscribers that read nothing, and those that read slowly, as they may.

use std::time::Duration;

use super::FEW;
use crate::abuse::attack::{Demand, Plan, Site};
use crate::abuse::crowd::Crowd;
use crate::abuse::script::{Door, Script, Step};
use crate::abuse::speech::{batch, message, subscribe};
use crate::calls;

pub fn never_reading(_: &Site) -> Plan {
    let deaf = Script::client().send(message(&subscribe(2, "noise"))).then(Step::Frames(2));
    let text = "x".repeat(1000);
    let publish = batch(|id| format!(r#"{{"publish":{{"channel":"noise","data":"{text}"}},"id":{}}}"#, id + 2));
    Plan::new(vec![
        Crowd::of(FEW, deaf.then(Step::ReadNothing).then(Step::Hold).again()),
        Crowd::of(1, Script::client().flood(publish).again()),
    ])
}

/// A publication takes its readers longer than `websocket.write_timeout`, and they take of it all the while.
pub fn steady(_: &Site) -> Plan {
    let reader = Script::client().send(message(&subscribe(2, "film"))).then(Step::Frames(2));
    let reader = reader.then(Step::ReadAt(1_000_000)).then(Step::Hold);
    let mut request = Vec::new();
    calls::publish(&mut request, "film", 6_000_000);
    let backend = Script::raw(Door::Internal).then(Step::Every(Duration::from_secs(7), request.into()));
    let reader = Script { receive_buffer: Some(64 * 1024), ..reader };
    // The readers are there before: who comes after the publication does not get it.
    let mut plan = Plan::new(vec![Crowd::resident(FEW, reader), Crowd::of(1, backend)])
        .flag("--client.queue_max_size", "16MiB")
        .demand(Demand::Stay);
    plan.least = Duration::from_secs(6);
    plan
}
