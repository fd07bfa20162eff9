//! Every command, with each of its fields as it must not be: what becomes of it is stated in the table of `schema`, and
//! the client next to it goes on hearing publications and pings.

mod binary;
mod order;
mod schema;
mod streams;
mod text;

use crate::client::{Witness, now, token};
use crate::peer::{BINARY, CLOSE, Peer, TEXT};
use crate::server::Server;
use gannet::protocol::{Command, Encoding, Reply};
use prost::Message;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const USER: &str = "42";
const CHANNEL: &str = "ns:c";
/// The id of the command that is tried.
const ID: u32 = 7;

/// What becomes of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// The reply has its result.
    Answered,
    /// The reply has this error, and the session lives on.
    Error(u32),
    /// The connection is closed with this code.
    Closed(u16),
}
use Outcome::*;

/// A server, its witness, and what its counters must come to.
struct Trial {
    server: Server,
    witness: Witness,
    encoding: Encoding,
    closed: BTreeMap<u16, u64>,
    errors: BTreeMap<u32, u64>,
    tried: u64,
    /// Where the server did something else.
    surprises: Vec<String>,
}

impl Trial {
    fn begin(encoding: Encoding) -> Trial {
        let allowed = json!({
            "name": "ns", "presence": true, "join_leave": true, "force_recovery": true, "allow_tags_filter": true,
            "history_size": 10, "history_ttl": "1h", "allow_subscribe_for_client": true,
            "allow_publish_for_client": true, "allow_presence_for_client": true, "allow_history_for_client": true,
        });
        let namespaces = Value::from([allowed]).to_string();
        let options = [
            "--client.token.hmac_secret_key",
            crate::server::SECRET,
            "--channel.namespaces",
            &namespaces,
            "--channel.without_namespace.allow_subscribe_for_client",
            "--client.ping_interval",
            "3s",
            "--client.pong_timeout",
            "2900ms",
            "--reactors",
            "2",
        ];
        let server = Server::start(&options);
        let witness = Witness::join_as(&server, "witness");
        Trial {
            server,
            witness,
            encoding,
            closed: BTreeMap::new(),
            errors: BTreeMap::new(),
            tried: 0,
            surprises: Vec::new(),
        }
    }

    fn path(&self) -> &'static str {
        match self.encoding {
            Encoding::Json => "/connection/websocket",
            Encoding::Protobuf => "/connection/websocket?cf_protocol=protobuf",
        }
    }

    fn open(&self) -> Tested {
        let peer = Peer::open(self.server.address).upgrade(self.path());
        Tested { peer, encoding: self.encoding, replies: Vec::new() }
    }

    /// A client of a known user, with what `method` needs to have gone before.
    fn ready_for(&self, method: &str) -> Tested {
        let mut tested = self.open();
        if method == "connect" {
            return tested;
        }
        tested.say(&json!({ "id": 1, "connect": { "token": token(&json!({ "sub": USER })) } }));
        assert_eq!(tested.outcome(1, "connect"), Answered);
        if method == "sub_refresh" {
            let claims = json!({ "sub": USER, "channel": CHANNEL, "exp": now() + 1000 });
            tested.say(&json!({ "id": 2, "subscribe": { "channel": CHANNEL, "token": token(&claims) } }));
            assert_eq!(tested.outcome(2, "subscribe"), Answered);
        }
        tested
    }

    /// Sends one message that has a command of this method, id [`ID`].
    fn try_one(&mut self, method: &str, message: &[u8], expected: Outcome, what: &str) {
        let mut tested = self.ready_for(method);
        tested.peer.send_frame(BINARY, message);
        let shown = || format!("{what}: {:.300}", message.escape_ascii().to_string());
        let outcome = tested.outcome(ID, method);
        if outcome != expected {
            self.surprises.push(format!("{outcome:?}, not {expected:?}: {}", shown()));
            return self.counts(outcome);
        }
        let over = matches!(expected, Closed(_)) || method == "connect" && expected != Answered;
        if !over {
            tested.say(&json!({ "id": 99, "unsubscribe": { "channel": "other" } }));
            assert_eq!(tested.outcome(99, "unsubscribe"), Answered, "the session is gone after {}", shown());
        }
        self.counts(expected);
    }

    /// One more of this.
    fn counts(&mut self, outcome: Outcome) {
        match outcome {
            Answered => {}
            Error(code) => *self.errors.entry(code).or_default() += 1,
            Closed(code) => *self.closed.entry(code).or_default() += 1,
        }
        self.tried += 1;
        if self.tried.is_multiple_of(20) {
            self.witness.hears(&self.server);
        }
    }

    /// The server has counted what was seen, and the witness has noticed nothing.
    fn end(mut self) {
        assert!(self.surprises.is_empty(), "{}", self.surprises.join("\n"));
        for (code, count) in &self.closed {
            assert_eq!(self.server.disconnects(*code), *count, "disconnects {code}");
        }
        for (code, count) in &self.errors {
            assert_eq!(self.server.errors(u64::from(*code)), *count, "errors {code}");
        }
        self.witness.hears(&self.server);
        self.witness.hears_a_ping();
    }
}

/// The client that says what it should not.
struct Tested {
    peer: Peer,
    encoding: Encoding,
    /// Come and not yet asked for.
    replies: Vec<Reply>,
}

impl Tested {
    /// A sound command.
    fn say(&mut self, command: &Value) {
        let message = encoded(self.encoding, command);
        self.peer.send_frame(BINARY, &message);
    }

    /// What becomes of the command `id`: reads on to its reply, or to the end.
    fn outcome(&mut self, id: u32, method: &str) -> Outcome {
        loop {
            if let Some(at) = self.replies.iter().position(|reply| reply.id == id) {
                let reply = self.replies.remove(at);
                if let Some(error) = reply.error {
                    return Error(error.code);
                }
                assert!(has_result(&reply, method), "no result of {method}: {reply:?}");
                return Answered;
            }
            match self.peer.frame() {
                (CLOSE, payload) => {
                    self.peer.send_frame(CLOSE, &payload[..payload.len().min(2)]);
                    self.peer.ended();
                    return Closed(payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code)));
                }
                (TEXT, payload) => {
                    let lines = payload.split(|byte| *byte == b'\n');
                    self.replies.extend(lines.map(|line| serde_json::from_slice::<Reply>(line).expect("a reply")));
                }
                (_, payload) => {
                    let mut rest = payload.as_slice();
                    while !rest.is_empty() {
                        self.replies.push(Reply::decode_length_delimited(&mut rest).expect("a reply"));
                    }
                }
            }
        }
    }
}

fn has_result(reply: &Reply, method: &str) -> bool {
    match method {
        "connect" => reply.connect.is_some(),
        "subscribe" => reply.subscribe.is_some(),
        "unsubscribe" => reply.unsubscribe.is_some(),
        "publish" => reply.publish.is_some(),
        "presence" => reply.presence.is_some(),
        "presence_stats" => reply.presence_stats.is_some(),
        "history" => reply.history.is_some(),
        "refresh" => reply.refresh.is_some(),
        "sub_refresh" => reply.sub_refresh.is_some(),
        _ => false,
    }
}

/// A sound command in either encoding.
fn encoded(encoding: Encoding, command: &Value) -> Vec<u8> {
    match encoding {
        Encoding::Json => command.to_string().into_bytes(),
        Encoding::Protobuf => {
            let command: Command = serde_json::from_value(command.clone()).expect("a command");
            command.encode_length_delimited_to_vec()
        }
    }
}

/// The request without the field at `at`.
fn without(request: &Value, at: &str) -> Value {
    let mut request = request.clone();
    let (parent, name) = at.rsplit_once('/').expect("a pointer");
    request.pointer_mut(parent).and_then(Value::as_object_mut).expect("an object").remove(name);
    request
}

/// The request with something else at `at`.
fn with(request: &Value, at: &str, value: Value) -> Value {
    let mut request = request.clone();
    *request.pointer_mut(at).expect("a field") = value;
    request
}
