//! Calls of the server API whose work is over many clients, channels or members at once.

use std::time::Duration;

use serde_json::json;

use crate::abuse::attack::{Plan, Site, namespace};
use crate::abuse::crowd::Crowd;
use crate::abuse::script::{Door, Payload, Script, Step};
use crate::abuse::speech::{connect_attacker, message, subscribe};
use crate::calls;
use crate::centrifugal;

/// Calls one after the other on one connection, the whole list each time.
fn calling(pause: Duration, list: &[(&str, &str)]) -> Script {
    let mut requests = Vec::new();
    for (method, body) in list {
        calls::request(&mut requests, method, body);
    }
    Script::raw(Door::Internal).then(Step::Every(pause, Payload::from(requests))).again()
}

/// Anonymous clients all have one user, so one call is for all of them; they come back at once.
pub fn disconnect(site: &Site) -> Plan {
    let connect = message(&[centrifugal::connect(None), subscribe(2, "hall:all")].join("\n"));
    let member = Script::upgraded().send(connect).then(Step::Frames(1)).then(Step::Hold).again();
    let calls = [
        ("unsubscribe", r#"{"user":"","channel":"hall:all"}"#),
        ("disconnect", r#"{"user":"","disconnect":{"code":4000,"reason":"gone"}}"#),
    ];
    let crowds =
        vec![Crowd::resident(site.size(10_000, 2000), member), Crowd::of(1, calling(Duration::from_secs(2), &calls))];
    let options = json!({"allow_subscribe_for_anonymous": true});
    let mut plan = Plan::with_namespaces(crowds, vec![namespace("hall", options)])
        .on("--client.allow_anonymous_connect_without_token");
    plan.untimed = true;
    plan
}

pub fn ask(site: &Site) -> Plan {
    let channels = Payload::made(|turn| {
        let own = (2..=100).map(|id| subscribe(id + 1, &format!("of-{}-{id}", turn.connection)));
        let commands: Vec<String> = [connect_attacker(), subscribe(2, "hall:all")].into_iter().chain(own).collect();
        message(&commands.join("\n"))
    });
    let member = Script::upgraded().then(Step::Send(channels)).then(Step::Frames(1)).then(Step::Hold);
    let calls = [("channels", "{}"), ("presence", r#"{"channel":"hall:all"}"#), ("info", "{}")];
    let crowds =
        vec![Crowd::resident(site.size(300, 100), member), Crowd::of(2, calling(Duration::from_millis(200), &calls))];
    Plan::with_namespaces(crowds, vec![namespace("hall", json!({"presence": true}))])
}
