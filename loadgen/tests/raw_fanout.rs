//! Profile raw with templates, against a small publish/subscribe server with words of its own.

use std::collections::HashMap;
use std::net::TcpListener;
use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tungstenite::Message;

type Rooms = Arc<Mutex<HashMap<String, Vec<Sender<String>>>>>;

/// Understands `{"join": room}` and `{"to": room, "text": ...}`: its port.
fn server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let rooms = Rooms::default();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let rooms = rooms.clone();
            thread::spawn(move || {
                let short = stream.set_read_timeout(Some(Duration::from_millis(5)));
                let Ok(mut socket) = tungstenite::accept(stream) else { return };
                short.expect("a timeout");
                let (sender, inbox) = channel();
                loop {
                    match socket.read() {
                        Ok(Message::Text(text)) => obey(&text, &rooms, &sender),
                        Err(tungstenite::Error::Io(_)) | Ok(_) => {}
                        Err(_) => return,
                    }
                    for text in inbox.try_iter() {
                        if socket.send(Message::text(text)).is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    port
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
