//! F10 · Calls of the API that come in messages of consumers.
//!
//! Owns which methods may come so, and what their outcome means for the message: whether it is tried again. Knows
//! nothing of where messages come from.

use super::counts::Via;
use super::messages::*;
use super::{Api, Calls, Command, Error, INTERNAL, MethodError, Reply};
use crate::service::node::Node;
use crate::session::Settings;
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::watch::Receiver;

/// Methods that change something. Who reads has nobody here to give the answer to.
const CHANGES: [&str; 9] = [
    "publish",
    "broadcast",
    "subscribe",
    "unsubscribe",
    "disconnect",
    "refresh",
    "history_remove",
    "inbox_ack",
    "inbox_clear",
];

/// What became of a message's call.
#[derive(Debug, PartialEq, Eq)]
pub enum Carried {
    Done,
    /// Error 100, for a broadcast that of any channel: another try may succeed.
    Again,
    /// No other try would end otherwise.
    Refused(String),
}

/// A message whose body is what is published.
pub struct ConsumedPublication {
    pub channels: Vec<String>,
    pub data: Bytes,
    pub idempotency_key: String,
    pub delta: bool,
    pub version: u64,
    pub version_epoch: String,
    pub tags: HashMap<String, String>,
}

/// Carries out calls, each by what holds when it comes.
#[derive(Clone)]
pub struct Carrier {
    node: Arc<Node>,
    calls: Arc<Calls>,
    settings: Receiver<Arc<Settings>>,
}

impl Carrier {
    pub fn new(node: Arc<Node>, calls: Arc<Calls>, settings: Receiver<Arc<Settings>>) -> Carrier {
        Carrier { node, calls, settings }
    }

    fn api(&self, has_json: bool) -> Api {
        let rules = self.settings.borrow().rules.clone();
        Api { node: self.node.clone(), rules, calls: self.calls.clone(), via: Via::Consumer, has_json }
    }

    /// A method by its name, with its request as JSON.
    pub async fn command(&self, method: &str, request: &str) -> Carried {
        if method == super::BATCH {
            return Carried::Refused("a message has one command, and no batch".into());
        }
        match Command::named(method, request) {
            None => Carried::Refused("there is no such method".into()),
            Some(_) if !CHANGES.contains(&method) => Carried::Refused("the method changes nothing".into()),
            Some(Err(error)) => Carried::Refused(format!("the payload is not what the method takes: {error}")),
            Some(Ok(command)) => outcome(command.run(&self.api(true)).await),
        }
    }

    pub async fn publish(&self, publication: ConsumedPublication) -> Carried {
        let ConsumedPublication { mut channels, data, idempotency_key, delta, version, version_epoch, tags } =
            publication;
        let api = self.api(false);
        let sent = match (channels.len(), channels.pop()) {
            (1, Some(channel)) => {
                let request = PublishRequest {
                    channel,
                    data,
                    tags,
                    idempotency_key,
                    delta,
                    version,
                    version_epoch,
                    ..PublishRequest::default()
                };
                api.call(request).await.map(|_| Vec::new())
            }
            (_, last) => {
                channels.extend(last);
                let request = BroadcastRequest {
                    channels,
                    data,
                    tags,
                    idempotency_key,
                    delta,
                    version,
                    version_epoch,
                    ..BroadcastRequest::default()
                };
                api.call(request).await.map(|result| result.responses)
            }
        };
        match sent {
            Ok(responses) => of_all(responses),
            Err(MethodError::Busy) => Carried::Again,
            Err(MethodError::Said(error)) => of(&error.into()),
        }
    }
}

fn outcome(reply: Reply) -> Carried {
    match (reply.error, reply.broadcast) {
        (Some(error), _) => of(&error),
        (None, Some(broadcast)) => of_all(broadcast.responses),
        (None, None) => Carried::Done,
    }
}

fn of(error: &Error) -> Carried {
    match error.code == INTERNAL.code {
        true => Carried::Again,
        false => Carried::Refused(format!("error {}: {}", error.code, error.message)),
    }
}

/// Of the channels of a broadcast. Another try is for all of them: an idempotency key keeps those from doubles that
/// have it already.
fn of_all(responses: Vec<Response<PublishResult>>) -> Carried {
    let mut refused = None;
    for error in responses.iter().filter_map(|response| response.error.as_ref()) {
        match of(error) {
            Carried::Again => return Carried::Again,
            found => refused = refused.or(Some(found)),
        }
    }
    refused.unwrap_or(Carried::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(code: u32) -> Response<PublishResult> {
        let error = (code > 0).then(|| Error { code, message: "why".into() });
        Response { error, result: None }
    }

    /// A method that is new must be one or the other.
    #[test]
    fn every_method_changes_something_or_only_reads() {
        let reads = ["presence", "presence_stats", "history", "info", "rpc", "channels", "inbox_info"];
        for (method, ..) in super::super::described() {
            assert!(CHANGES.contains(&method) != reads.contains(&method), "{method}");
        }
    }

    #[test]
    fn only_error_100_is_tried_again() {
        assert_eq!(outcome(Reply::default()), Carried::Done);
        for code in [101, 102, 104, 107, 108, 4000] {
            let refused = Carried::Refused(format!("error {code}: why"));
            assert_eq!(outcome(Reply { error: response(code).error, ..Reply::default() }), refused);
            assert_eq!(of_all(vec![response(0), response(code), response(101)]), refused);
            assert_eq!(of_all(vec![response(0), response(code), response(100)]), Carried::Again);
        }
        assert_eq!(outcome(Reply { error: response(100).error, ..Reply::default() }), Carried::Again);
        assert_eq!(of_all(vec![response(0), response(0)]), Carried::Done);
    }
}
