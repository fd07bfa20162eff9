//! A client whose connection goes one way: what it reads is a response that does not end, and its commands go to the
//! emulation endpoint.

use crate::peer::{Peer, Response};
use crate::server::Server;
use serde_json::{Value, json};
use std::collections::VecDeque;

pub const SSE: &str = "/connection/sse";
pub const STREAM: &str = "/connection/http_stream";
pub const UNI_SSE: &str = "/connection/uni_sse";
pub const UNI_STREAM: &str = "/connection/uni_http_stream";
pub const UNI_WEBSOCKET: &str = "/connection/uni_websocket";
pub const EMULATION: &str = "/emulation";

/// All transports beside the WebSocket.
pub const ALL: &[&str] = &[
    "--sse.enabled",
    "--http_stream.enabled",
    "--uni_websocket.enabled",
    "--uni_sse.enabled",
    "--uni_http_stream.enabled",
];

pub struct Stream {
    pub peer: Peer,
    events: bool,
    session: String,
    node: String,
    next_id: u32,
    /// Of an event that had several, and what was read while a reply was awaited.
    waiting: VecDeque<Value>,
}

/// A request with a body of known length.
pub fn post(path: &str, lines: &[&str], body: &str) -> String {
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    format!("POST {path} HTTP/1.1\r\nHost: gannet.example\r\n{lines}Content-Length: {}\r\n\r\n{body}", body.len())
}

/// `path` asked with GET; `said` is in its query.
pub fn get(path: &str, said: &str) -> String {
    let said: String = said.bytes().map(|byte| format!("%{byte:02X}")).collect();
    format!("GET {path}?cf_connect={said} HTTP/1.1\r\nHost: gannet.example\r\nAccept: text/event-stream\r\n\r\n")
}

/// The whole answer to a request on a connection of its own.
pub fn answer(server: &Server, request: &str) -> Response {
    let mut peer = Peer::open(server.address);
    peer.send(request.as_bytes());
    peer.response()
}

impl Stream {
    /// What begins with the response to `request`.
    pub fn open(server: &Server, request: &str) -> Stream {
        Stream::over(Peer::open(server.address), request)
    }

    pub fn over(mut peer: Peer, request: &str) -> Stream {
        peer.send(request.as_bytes());
        let response = peer.response();
        assert_eq!(response.status, 200, "{response:?}");
        let kind = response.header("content-type").expect("a content type");
        let header = |name: &str| response.header(name).unwrap_or_default();
        assert_eq!((header("connection").as_str(), header("x-accel-buffering").as_str()), ("close", "no"));
        assert!(response.header("content-length").is_none() && response.header("transfer-encoding").is_none());
        let events = kind.starts_with("text/event-stream");
        Stream { peer, events, session: String::new(), node: String::new(), next_id: 2, waiting: VecDeque::new() }
    }

    /// A client whose connect command was answered.
    pub fn connected(server: &Server, path: &str) -> Stream {
        Stream::connected_over(Peer::open(server.address), path)
    }

    pub fn connected_over(peer: Peer, path: &str) -> Stream {
        const CONNECT: &str = r#"{"id":1,"connect":{}}"#;
        let request = if path == SSE { get(path, CONNECT) } else { post(path, &[], CONNECT) };
        let mut stream = Stream::over(peer, &request);
        stream.connect();
        stream
    }

    /// The connect reply.
    pub fn connect(&mut self) -> Value {
        let reply = self.next();
        let text = |key: &str| reply["connect"][key].as_str().unwrap_or_else(|| panic!("no {key}: {reply}")).to_owned();
        (self.session, self.node) = (text("session"), text("node"));
        assert!(self.session.len() >= 32 && !self.node.is_empty(), "{reply}");
        reply["connect"].clone()
    }

    pub fn subscribed(server: &Server, path: &str, channel: &str) -> Stream {
        let mut stream = Stream::connected(server, path);
        let reply = stream.ask(server, json!({ "subscribe": { "channel": channel } }));
        assert_eq!(reply["subscribe"], json!({}), "{reply}");
        stream
    }

    /// What its client sends to the emulation endpoint.
    pub fn emulated(&self, commands: &str) -> Value {
        json!({ "session": self.session, "node": self.node, "data": commands })
    }

    pub fn send(&self, server: &Server, commands: &str) {
        let response = answer(server, &post(EMULATION, &[], &self.emulated(commands).to_string()));
        assert_eq!((response.status, response.body.as_str()), (204, ""));
    }

    /// A command, given the next id; its reply.
    pub fn ask(&mut self, server: &Server, mut command: Value) -> Value {
        let id = self.next_id;
        self.next_id += 1;
        command["id"] = id.into();
        self.send(server, &command.to_string());
        let mut before = VecDeque::new();
        loop {
            let next = self.next();
            if next["id"] == id {
                before.append(&mut self.waiting);
                self.waiting = before;
                return next;
            }
            before.push_back(next);
        }
    }

    /// The next reply, push or ping; `None` at the end.
    pub fn try_next(&mut self) -> Option<Value> {
        if self.waiting.is_empty() {
            while let Some(line) = self.peer.line() {
                let text = match self.events {
                    true if line.is_empty() => break,
                    true => line.strip_prefix("data: ").expect("only data"),
                    false => &line,
                };
                self.waiting.push_back(serde_json::from_str(text).expect("JSON"));
                if !self.events {
                    break;
                }
            }
        }
        self.waiting.pop_front()
    }

    pub fn next(&mut self) -> Value {
        self.try_next().expect("the stream ended")
    }

    /// Reads on to the push that ends it, and to the end; the code.
    pub fn closed(&mut self) -> u64 {
        let mut last = Value::Null;
        while let Some(next) = self.try_next() {
            last = next;
        }
        let told = if last["push"].is_object() { &last["push"] } else { &last };
        told["disconnect"]["code"].as_u64().unwrap_or_else(|| panic!("no disconnect: {last}"))
    }
}
