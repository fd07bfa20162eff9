//! Small commands with large replies, and many commands at once.

use serde_json::json;

use super::FEW;
use crate::abuse::attack::{Plan, Site, namespace};
use crate::abuse::crowd::Crowd;
use crate::abuse::script::{Script, Step};
use crate::abuse::speech::{MESSAGE, batch, deflated, history, lines, message, subscribe, unsubscribe};

const STREAM: &str = "big:stream";
const HALL: &str = "hall:all";

/// A stream of 100 publications with 16 KB each.
fn large_stream(crowds: Vec<Crowd>) -> Plan {
    let options = json!({
        "history_size": 100, "history_ttl": "10m", "allow_history_for_client": true, "force_recovery": true,
    });
    let mut plan = Plan::with_namespaces(crowds, vec![namespace("big", options)]);
    let text = "x".repeat(16_000);
    plan.fill = vec![("publish", json!({"channel": STREAM, "data": text})); 100];
    plan
}

pub fn history_bomb(_: &Site) -> Plan {
    let commands = batch(|id| history(id + 2, STREAM, 100));
    large_stream(vec![Crowd::of(FEW, Script::client().flood(commands).again())])
}

pub fn recover_bomb(_: &Site) -> Plan {
    let commands = batch(|number| match number % 2 {
        0 => format!(
            r#"{{"subscribe":{{"channel":"{STREAM}","recover":true,"epoch":"","offset":0}},"id":{}}}"#,
            number + 2
        ),
        _ => unsubscribe(number + 2, STREAM),
    });
    large_stream(vec![Crowd::of(FEW, Script::client().flood(commands).again())])
}

pub fn presence_bomb(site: &Site) -> Plan {
    let member = Script::client().send(message(&subscribe(2, HALL))).then(Step::Frames(2)).then(Step::Hold);
    let commands = batch(|id| format!(r#"{{"presence":{{"channel":"{HALL}"}},"id":{}}}"#, id + 2));
    let crowds =
        vec![Crowd::resident(site.size(8000, 2000), member), Crowd::of(FEW, Script::client().flood(commands).again())];
    let options = json!({"presence": true, "allow_presence_for_client": true});
    Plan::with_namespaces(crowds, vec![namespace("hall", options)])
}

pub fn behind_a_hole(site: &Site) -> Plan {
    let publish = batch(|id| format!(r#"{{"publish":{{"channel":"noise","data":1}},"id":{}}}"#, id + 3));
    let rpc = message(r#"{"rpc":{"method":"wait","data":{}},"id":2}"#);
    let mut plan = Plan::new(vec![Crowd::of(FEW, Script::client().send(rpc).flood(publish).again())])
        .on("--rpc.without_namespace.proxy_enabled")
        .flag("--rpc.proxy.endpoint", &format!("http://127.0.0.1:{}/", site.ports.backend))
        // What clients that left are owed is kept until then: longer than the attack, and less than memory may take.
        .flag("--rpc.proxy.timeout", "15s");
    plan.silent_backend = true;
    plan
}

/// One message may inflate to ten times what a message may have, and one read brings as many messages as fit in it.
pub fn inflated_commands(_: &Site) -> Plan {
    let commands = lines(10 * MESSAGE, |id| unsubscribe(id % 9 + 2, "a"));
    let one = deflated(commands.as_bytes());
    let flood = one.repeat(MESSAGE / one.len());
    let offer = "Sec-WebSocket-Extensions: permessage-deflate";
    let script = Script::upgraded_at(crate::centrifugal::PATH, &[offer]).joined(None).flood(flood).again();
    Plan::new(vec![Crowd::of(FEW, script)])
        .on("--websocket.compression")
        .flag("--websocket.compression_min_size", "256")
}
