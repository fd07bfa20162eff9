//! Profile raw with templates, against a small publish/subscribe server with words of its own.

mod small_server;

use std::collections::HashMap;
use std::process::Command;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use small_server::serve;

type Rooms = Arc<Mutex<HashMap<String, Vec<Sender<String>>>>>;

/// Understands `{"join": room}` and `{"to": room, "text": ...}`: its port.
fn server() -> u16 {
    let rooms = Rooms::default();
    serve(move |text, sender| obey(text, &rooms, sender))
}

fn obey(text: &str, rooms: &Rooms, sender: &Sender<String>) {
    let said: Value = serde_json::from_str(text).expect("JSON");
    let mut rooms = rooms.lock().expect("no panic");
    if let Some(room) = said["join"].as_str() {
        rooms.entry(room.to_owned()).or_default().push(sender.clone());
    }
    if let Some(room) = said["to"].as_str() {
        let wrapped = json!({"from": room, "message": {"text": said["text"]}}).to_string();
        for member in rooms.get(room).into_iter().flatten() {
            let _ = member.send(wrapped.clone());
        }
    }
}

#[test]
fn any_words_will_do() {
    let url = format!("ws://127.0.0.1:{}/rooms/{{channel}}/{{client}}", server());
    let words = [
        "--subscribe-message",
        r#"{"join":"{channel}"}"#,
        "--publish-message",
        r#"{"to":"{channel}","text":"{payload}"}"#,
    ];
    let size = ["--publishers", "2", "--subscribers", "6", "--channels", "3", "--subscriptions", "2"];
    let pace = ["--rate", "40", "--duration", "500ms", "--channel-prefix", "room-", "--quiet", "--json", "-"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_gannet-loadgen"));
    let output = command.args(["fanout", &url]).args(words).args(size).args(pace).output().expect("it runs");
    let result: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(output.status.code(), Some(0), "{result:#}");
    // 20 messages, and four of the six listen to each channel.
    assert_eq!((&result["counts"]["sent"], &result["counts"]["received"]), (&20.into(), &80.into()), "{result:#}");
}
