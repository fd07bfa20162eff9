//! A client that keeps to the protocol, over tungstenite: an independent judge of what the server sends.

use crate::peer::PATH;
use crate::server::{PATIENCE, SECRET, Server, until};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tungstenite::client::IntoClientRequest;
use tungstenite::protocol::CloseFrame;
use tungstenite::{Error, Message, WebSocket};

pub struct Client {
    socket: WebSocket<TcpStream>,
    /// Replies and pushes that shared a frame with one that was asked for.
    waiting: VecDeque<Value>,
    next_id: u32,
    /// Heard and answered.
    pings: Arc<AtomicU64>,
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs()
}

/// The next second, when it is half a second away at least: what ends then is not over on its way.
pub fn soon() -> u64 {
    loop {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
        if now.subsec_millis() < 500 {
            return now.as_secs() + 1;
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// A token with these claims, well signed.
pub fn token(claims: &Value) -> String {
    signed(claims, SECRET)
}

/// By HS256, with any secret: none at all is one that a library for tokens would not take.
pub fn signed(claims: &Value, secret: &str) -> String {
    let [header, claims] =
        [r#"{"alg":"HS256","typ":"JWT"}"#, &claims.to_string()].map(|text| URL_SAFE_NO_PAD.encode(text));
    let signed = format!("{header}.{claims}");
    let mac = Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).expect("any length");
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac.chain_update(&signed).finalize().into_bytes()))
}

impl Client {
    /// A WebSocket on which nothing has been said.
    pub fn open(server: &Server) -> Client {
        Client::open_with_headers(server, &[])
    }

    /// The same, with more headers in its request.
    pub fn open_with_headers(server: &Server, headers: &[(&'static str, &str)]) -> Client {
        let stream = TcpStream::connect(server.address).expect("connect");
        stream.set_nodelay(true).expect("no delay");
        stream.set_read_timeout(Some(PATIENCE)).expect("read timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("write timeout");
        let url = format!("ws://{}{PATH}", server.address);
        let mut request = url.into_client_request().expect("a request");
        for (name, value) in headers {
            request.headers_mut().append(*name, value.parse().expect("a value"));
        }
        let (socket, _) = tungstenite::client(request, stream).expect("a handshake");
        Client { socket, waiting: VecDeque::new(), next_id: 1, pings: Arc::default() }
    }

    /// A client without a token.
    pub fn connected(server: &Server) -> Client {
        Client::connected_with(server, "")
    }

    pub fn connected_as(server: &Server, user: &str) -> Client {
        Client::connected_with(server, &token(&json!({ "sub": user })))
    }

    pub fn connected_with(server: &Server, token: &str) -> Client {
        let mut client = Client::open(server);
        client.connect(token);
        client
    }

    /// The connect command; its result.
    pub fn connect(&mut self, token: &str) -> Value {
        let reply = self.ask(json!({ "connect": { "token": token } }));
        assert!(reply["connect"]["client"].is_string(), "{reply}");
        reply["connect"].clone()
    }

    pub fn subscribed(server: &Server, channel: &str) -> Client {
        let mut client = Client::connected(server);
        client.subscribe(channel);
        client
    }

    pub fn subscribe(&mut self, channel: &str) {
        let reply = self.ask(json!({ "subscribe": { "channel": channel } }));
        assert_eq!(reply["subscribe"], json!({}), "{reply}");
    }

    pub fn send(&mut self, text: &str) {
        self.socket.send(Message::text(text)).expect("send");
    }

    /// A command, given the next id; its reply. Pushes that come first are kept.
    pub fn ask(&mut self, mut command: Value) -> Value {
        let id = self.next_id;
        self.next_id += 1;
        command["id"] = id.into();
        self.send(&command.to_string());
        let mut pushes = VecDeque::new();
        let reply = loop {
            let next = self.next();
            if next["id"] == id {
                break next;
            }
            pushes.push_back(next);
        };
        pushes.append(&mut self.waiting);
        self.waiting = pushes;
        reply
    }

    /// The error code of a command's reply.
    pub fn refused(&mut self, command: Value) -> u64 {
        let reply = self.ask(command);
        reply["error"]["code"].as_u64().unwrap_or_else(|| panic!("not refused: {reply}"))
    }

    /// The next reply or push; pings are answered on the way.
    pub fn next(&mut self) -> Value {
        self.try_next().unwrap_or_else(|end| panic!("nothing more: {end}"))
    }

    /// The same, or how the connection ended.
    pub fn try_next(&mut self) -> Result<Value, String> {
        loop {
            if let Some(next) = self.waiting.pop_front() {
                return Ok(next);
            }
            match self.socket.read() {
                Ok(Message::Text(text)) => self.take(text.as_str()),
                Ok(Message::Close(why)) => return Err(format!("closed: {why:?}")),
                Ok(_) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    /// Answers pings, one after the other, until `done`.
    pub fn answers_pings_until(&mut self, mut done: impl FnMut() -> bool) {
        while !done() {
            let before = self.pings.load(Ordering::Relaxed);
            while self.pings.load(Ordering::Relaxed) == before {
                match self.socket.read() {
                    Ok(Message::Text(text)) => self.take(text.as_str()),
                    other => panic!("no ping: {other:?}"),
                }
            }
        }
    }

    fn take(&mut self, text: &str) {
        for line in text.split('\n') {
            match serde_json::from_str(line).expect("JSON") {
                Value::Object(ping) if ping.is_empty() => {
                    self.pings.fetch_add(1, Ordering::Relaxed);
                    self.send("{}");
                }
                reply => self.waiting.push_back(reply),
            }
        }
    }

    /// The next publication: its channel and its data.
    pub fn publication(&mut self) -> (String, Value) {
        let push = self.next();
        let push = &push["push"];
        assert!(push["pub"].is_object(), "{push}");
        (push["channel"].as_str().expect("a channel").to_owned(), push["pub"]["data"].clone())
    }

    /// Reads on to the server's close frame and to the end of the stream; the code.
    pub fn closed(&mut self) -> u16 {
        let mut code = None;
        loop {
            match self.socket.read() {
                Ok(Message::Text(text)) => self.take(text.as_str()),
                Ok(Message::Close(Some(CloseFrame { code: said, .. }))) => code = Some(u16::from(said)),
                Ok(_) => {}
                Err(Error::ConnectionClosed) => return code.expect("a close frame"),
                Err(error) => panic!("{error} after close {code:?}"),
            }
        }
    }
}

/// A well-behaved client next to the others: whatever they do, it goes on hearing publications.
pub struct Witness {
    /// What its own thread hears, which also answers pings.
    heard: Receiver<Value>,
    pings: Arc<AtomicU64>,
    published: u64,
}

impl Witness {
    const CHANNEL: &str = "witness";

    pub fn join(server: &Server) -> Witness {
        Witness::listen(Client::connected(server))
    }

    pub fn join_as(server: &Server, user: &str) -> Witness {
        Witness::listen(Client::connected_as(server, user))
    }

    fn listen(mut client: Client) -> Witness {
        client.subscribe(Witness::CHANNEL);
        let pings = client.pings.clone();
        client.socket.get_ref().set_read_timeout(None).expect("no read timeout");
        let (tell, heard) = channel();
        std::thread::spawn(move || {
            while let Ok(push) = client.try_next() {
                let _ = tell.send(push);
            }
        });
        Witness { heard, pings, published: 0 }
    }

    /// Publishes by the API, and hears it.
    pub fn hears(&mut self, server: &Server) {
        self.published += 1;
        server.publish(Witness::CHANNEL, self.published.into());
        let push = self.heard.recv_timeout(PATIENCE).expect("the witness hears nothing");
        let expected = json!({ "channel": Witness::CHANNEL, "pub": { "data": self.published } });
        assert_eq!(push, json!({ "push": expected }));
    }
    /// Pings that it was sent.
    pub fn pings(&self) -> u64 {
        self.pings.load(Ordering::Relaxed)
    }

    /// Waits for a ping that has not come yet.
    pub fn hears_a_ping(&self) {
        let before = self.pings();
        until("a ping of the witness", || (self.pings() > before).then_some(()));
    }
}
