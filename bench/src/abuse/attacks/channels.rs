//! Channels: made up, joined and left, published to until somebody's queue is full.

use std::time::Duration;

use serde_json::json;

use super::FEW;
use crate::abuse::MIB;
use crate::abuse::attack::{Allowed, Plan, Site, namespace};
use crate::abuse::crowd::Crowd;
use crate::abuse::script::{Payload, Script, Step};
use crate::abuse::speech::{batch, message, subscribe, unsubscribe};

/// Each name is used once: a stream begins with it.
pub fn made_up(_: &Site) -> Plan {
    let payload = Payload::made(|turn| {
        batch(|number| {
            let name = format!("kept:{:x}-{:x}-{:x}", turn.connection, turn.round, number / 2);
            match number % 2 {
                0 => subscribe(number + 2, &name),
                _ => unsubscribe(number + 2, &name),
            }
        })
    });
    Plan::new(vec![Crowd::of(FEW, Script::client().then(Step::Flood(payload)).again())])
        .flag("--channel.history_memory_limit", "16MiB")
        .allow(Allowed {
            buffers: 16 * MIB,
            kept: 16 * MIB,
            because: "channel.history_memory_limit",
            ..Allowed::default()
        })
}

pub fn join_storm(_: &Site) -> Plan {
    let commands = batch(|number| match number % 2 {
        0 => subscribe(number + 2, "lobby:a"),
        _ => unsubscribe(number + 2, "lobby:a"),
    });
    let options = json!({"presence": true, "join_leave": true, "force_push_join_leave": true});
    let crowd = Crowd::of(FEW, Script::client().flood(commands).again());
    Plan::with_namespaces(vec![crowd], vec![namespace("lobby", options)])
}

fn publishing(channel: &str, size: usize) -> Vec<u8> {
    let text = "x".repeat(size);
    batch(|id| format!(r#"{{"publish":{{"channel":"{channel}","data":"{text}"}},"id":{}}}"#, id + 3))
}

pub fn tiny_publications(_: &Site) -> Plan {
    let script = Script::client().send(message(&subscribe(2, "noise"))).then(Step::Frames(2));
    Plan::new(vec![Crowd::of(FEW, script.flood(publishing("noise", 1)).again())])
}

pub fn full_hub(_: &Site) -> Plan {
    let script = Script::client().send(message(&subscribe(2, "paced:a"))).then(Step::Frames(2));
    let crowd = Crowd::of(FEW, script.flood(publishing("paced:a", 16_000)).again());
    Plan::with_namespaces(vec![crowd], vec![namespace("paced", json!({"batch_max_delay": "60s"}))])
        .flag("--reactor.fanout_queue_size", "1MiB")
}

/// Two reactors, so half of what is published goes to the other one; a channel with history has many subscribers there.
pub fn full_mailbox(site: &Site) -> Plan {
    let member = Script::client().send(message(&subscribe(2, "kept:many"))).then(Step::Frames(2)).then(Step::Hold);
    let script = |at: u64| {
        let channels: Vec<String> = (0..8).map(|other| subscribe(other + 2, &format!("kept:{at}-{other}"))).collect();
        let publish = batch(|id| {
            format!(r#"{{"publish":{{"channel":"kept:{}-{}","data":1}},"id":{}}}"#, id % 4, id % 8, id + 12)
        });
        Script::client().send(message(&channels.join("\n"))).flood(publish).again()
    };
    let slow = message(r#"{"publish":{"channel":"kept:many","data":1},"id":3}"#);
    let slow = Script::client().then(Step::Every(Duration::from_millis(50), slow.into()));
    let mut crowds: Vec<Crowd> = (0..FEW as u64).map(|at| Crowd::of(1, script(at))).collect();
    crowds.push(Crowd::of(1, slow.again()));
    crowds.push(Crowd::resident(site.size(2000, 500), member));
    let mut plan = Plan::new(crowds).flag("--reactor.mailbox_size", "1024").allow(Allowed {
        refusals: true,
        losses: true,
        because: "reactor.mailbox_size",
        ..Allowed::default()
    });
    plan.reactors = 2;
    plan
}
