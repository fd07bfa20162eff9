//! Recovery against a small server that may lie: what it leaves out or sends twice is seen, and subscriptions that it
//! ends are asked for again.

mod small_server;

use std::collections::HashMap;
use std::process::Command;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use small_server::serve;

/// How it keeps its word.
#[derive(Clone, Copy, PartialEq)]
enum Manners {
    Honest,
    /// What is recovered lacks its first publication.
    LeavesOut,
    /// The last publication recovered comes once more.
    Repeats,
    /// In place of every 10th publication it ends the subscriptions.
    Ends,
}

#[derive(Default)]
struct Room {
    /// The n-th has offset n + 1.
    history: Vec<Value>,
    members: Vec<Sender<String>>,
}

type Rooms = Arc<Mutex<HashMap<String, Room>>>;

/// A server of the Centrifugal client protocol in JSON, as far as recovery needs it: its port.
fn server(manners: Manners) -> u16 {
    let rooms = Rooms::default();
    serve(move |text, sender| text.lines().for_each(|line| obey(line, manners, &rooms, sender)))
}

fn push(channel: &str, offset: usize, data: &Value) -> String {
    json!({"push": {"channel": channel, "pub": {"data": data, "offset": offset}}}).to_string()
}

fn obey(line: &str, manners: Manners, rooms: &Rooms, sender: &Sender<String>) {
    let command: Value = serde_json::from_str(line).expect("JSON");
    let answer = |reply: Value| sender.send(reply.to_string()).expect("a reader");
    let mut rooms = rooms.lock().expect("no panic");
    if command["connect"].is_object() {
        answer(json!({"id": command["id"], "connect": {"client": "c", "version": "test"}}));
    } else if let Some(name) = command["subscribe"]["channel"].as_str() {
        let (asked, room) = (&command["subscribe"], rooms.entry(name.to_owned()).or_default());
        assert_eq!(asked["recoverable"], true);
        let top = room.history.len();
        let from = asked["offset"].as_u64().map_or(top, |offset| offset as usize);
        let missed = room.history[from..].iter().zip(from + 1..);
        let mut missed: Vec<Value> = missed.map(|(data, offset)| json!({"data": data, "offset": offset})).collect();
        if manners == Manners::LeavesOut && !missed.is_empty() {
            missed.remove(0);
        }
        let recovered = asked["recover"] == true;
        assert!(!recovered || asked["epoch"] == "same");
        answer(json!({"id": command["id"], "subscribe": {
            "recoverable": true, "epoch": "same", "offset": from, "recovered": recovered, "publications": missed
        }}));
        if let (Manners::Repeats, true, Some(data)) = (manners, from < top, room.history.last()) {
            sender.send(push(name, top, data)).expect("a reader");
        }
        room.members.push(sender.clone());
    } else if let Some(name) = command["publish"]["channel"].as_str() {
        let room = rooms.entry(name.to_owned()).or_default();
        room.history.push(command["publish"]["data"].clone());
        let offset = room.history.len();
        if manners == Manners::Ends && offset.is_multiple_of(10) {
            let end = json!({"push": {"channel": name, "unsubscribe": {"code": 2500, "reason": "gap"}}}).to_string();
            room.members.drain(..).for_each(|member| drop(member.send(end.clone())));
        }
        let text = push(name, offset, &command["publish"]["data"]);
        // A member whose client was cut is gone.
        room.members.retain(|member| member.send(text.clone()).is_ok());
        answer(json!({"id": command["id"], "publish": {}}));
    }
}

/// A storm of 6 clients in 2 channels: the exit status and the result.
fn storm(manners: Manners) -> (Option<i32>, Value) {
    let url = format!("ws://127.0.0.1:{}/connection/websocket", server(manners));
    let load = ["--clients", "6", "--channels", "2", "--rate", "100", "--pause", "500ms", "--away", "1s"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_gannet-loadgen"));
    command.args(["storm", &url, "--recover", "--grace", "1s", "--quiet", "--json", "-"]).args(load);
    let output = command.output().expect("the program runs");
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}")))
}

#[test]
fn an_honest_server_is_believed() {
    let (status, result) = storm(Manners::Honest);
    assert_eq!(status, Some(0), "{result:#}");
    let recovery = &result["recovery"];
    assert_eq!((&recovery["recovered"], &recovery["unrecovered"]), (&6.into(), &0.into()), "{result:#}");
    assert!(recovery["publications_recovered"].as_u64() > Some(0), "{result:#}");
}

#[test]
fn what_a_server_says_it_recovered_and_did_not_is_seen() {
    let (status, result) = storm(Manners::LeavesOut);
    assert_eq!(status, Some(1), "{result:#}");
    let recovery = &result["recovery"];
    assert_eq!((&recovery["recovered"], &recovery["publications_lost"]), (&6.into(), &6.into()), "{result:#}");
    assert_eq!(recovery["duplicates"], 0, "{result:#}");
}

#[test]
fn what_comes_again_after_it_was_recovered_is_seen() {
    let (status, result) = storm(Manners::Repeats);
    assert_eq!(status, Some(1), "{result:#}");
    let recovery = &result["recovery"];
    assert_eq!((&recovery["duplicates"], &recovery["publications_lost"]), (&6.into(), &0.into()), "{result:#}");
}

#[test]
fn a_subscription_that_the_server_ends_for_a_gap_is_asked_for_again() {
    let (status, result) = storm(Manners::Ends);
    assert_eq!(status, Some(0), "{result:#}");
    let recovery = &result["recovery"];
    assert!(result["counts"]["unsubscribed"].as_u64() >= Some(6), "{result:#}");
    // Each end is followed by a recovery, and so is the storm.
    let ends = result["counts"]["unsubscribed"].as_u64().map(|ends| ends + 6);
    assert!(recovery["recovered"].as_u64() <= ends && recovery["recovered"].as_u64() >= Some(12), "{result:#}");
    assert_eq!((&recovery["publications_lost"], &recovery["duplicates"]), (&0.into(), &0.into()), "{result:#}");
}
