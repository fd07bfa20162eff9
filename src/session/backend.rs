//! F6 · What is asked of the application's backend, and what it says.
//!
//! Owns the questions a session puts by way of the service thread ([`Call`]) and the answers ([`Said`]). The question
//! comes back with its answer, so that a session keeps nothing of it while it waits. Also what the backend is told
//! without being asked ([`Hook`]). Plain data; knows nothing of HTTP.

use super::Rules;
use super::commands::Failure;
use crate::auth::{Jwks, Need, Overrides, TokenKind, Verdict};
use crate::broker::{ConnKey, Undelivered};
use crate::protocol::code::{ClientError, Disconnect};
use crate::protocol::{Command, ConnectRequest, Encoding, Error, PublishRequest, RpcRequest, SubscribeRequest};
use bytes::Bytes;
use compact_str::CompactString;
use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// A question, and where its answer goes.
#[derive(Debug)]
pub struct Call {
    pub conn: ConnKey,
    /// The command's id: its reply has a place kept under it.
    pub ticket: u32,
    pub who: Who,
    pub ask: Ask,
}

/// The client on whose behalf is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    pub client: String,
    pub user: CompactString,
    /// "websocket", "sse" and the like.
    pub transport: &'static str,
    pub encoding: Encoding,
    /// Lines `name: value` of the client's own request that proxies forward, lower-case names; mostly empty. A
    /// character of a value is a byte.
    pub headers: Box<str>,
    /// JSON that its token or the backend said of it, for the backend alone; empty = none.
    pub meta: Bytes,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Ask {
    /// May it connect, and as whom? `client.proxy.connect`.
    Connect(Box<ConnectRequest>),
    /// May it stay beyond its expiry? `client.proxy.refresh`.
    Refresh,
    Subscribe(Box<SubscribeRequest>),
    SubRefresh {
        channel: String,
    },
    /// May it subscribe, and if so: the stream of this subscription.
    SubscribeStream(Box<SubscribeRequest>),
    Publish(Box<PublishRequest>),
    Rpc(Box<RpcRequest>),
    /// Keys of tokens, from the set at `url`; `then` is the command that needs them.
    Keys {
        url: Box<str>,
        then: Box<Command>,
    },
    /// What a token is, whose signature takes too long to check on a reactor.
    Check(Box<Check>),
}

/// A token to check, and with what.
#[derive(Debug, Clone, PartialEq)]
pub struct Check {
    pub jwks: Arc<Jwks>,
    /// Keys were fetched for it a moment ago.
    pub fetched: bool,
    /// Seconds since 1970.
    pub now: u64,
    /// The command that has the token, and waits for it.
    pub then: Command,
}

impl Check {
    /// Does the work. It takes long.
    pub fn judge(&self, rules: &Rules) -> Verdict {
        let Command { connect, refresh, subscribe, sub_refresh, .. } = &self.then;
        let of_connection = connect.as_ref().map(|it| &it.token).or(refresh.as_ref().map(|it| &it.token));
        let of_channel = subscribe.as_ref().map(|it| &it.token).or(sub_refresh.as_ref().map(|it| &it.token));
        let (verifier, kind) = match of_connection {
            Some(_) => (&rules.verifier, TokenKind::Connection),
            None => (rules.subscription_verifier(), TokenKind::Subscription),
        };
        let token = of_connection.or(of_channel).map_or("", |token| token);
        verifier.judge(kind, token, self.now, &self.jwks, self.fetched)
    }

    /// Bytes that it holds while it waits, apart from what all of them hold.
    pub fn size(&self) -> usize {
        prost::Message::encoded_len(&self.then)
    }
}

impl Ask {
    /// What is to be asked before the token of `then` is good or bad.
    pub(super) fn about_token(need: Need, then: Command, turn: &super::Turn<'_>) -> Ask {
        match need {
            Need::Key(url) => Ask::Keys { url: (&*url).into(), then: then.into() },
            Need::Check => {
                let (jwks, fetched) = (turn.tokens.jwks.clone(), turn.tokens.asked);
                Ask::Check(Check { jwks, fetched, now: turn.now.seconds(), then }.into())
            }
        }
    }
}

/// How much longer a connection or subscription lives whose refresh could not be asked for.
const REPRIEVE_SECONDS: u64 = 60;

impl Ask {
    /// The answer in place of one that the backend did not give. Who only waits for more time gets some, and is asked
    /// for again.
    pub fn unanswered(&self, error: ClientError, now_seconds: u64) -> Said {
        match self {
            Ask::Refresh | Ask::SubRefresh { .. } => {
                let expire_at = now_seconds + REPRIEVE_SECONDS;
                Said::Refresh(RefreshGrant { expire_at, ..RefreshGrant::default() })
            }
            Ask::Connect(_) | Ask::Subscribe(_) | Ask::SubscribeStream(_) => Said::Error(error.into()),
            Ask::Publish(_) | Ask::Rpc(_) | Ask::Keys { .. } | Ask::Check(_) => Said::Error(error.into()),
        }
    }
}

/// An answer. `Error` and `Disconnect` fit every question.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    Connect(Box<ConnectGrant>),
    /// To `Connect`: the backend names nobody, so what holds for a client without credentials holds.
    NoCredentials,
    /// To `Refresh` and `SubRefresh`.
    Refresh(RefreshGrant),
    Subscribe(Box<SubscribeGrant>),
    /// To `SubscribeStream`.
    Stream(Box<SubscribeGrant>, ChannelStream),
    Publish(Box<PublishGrant>),
    Rpc(Bytes),
    /// All key sets known by now.
    Keys(Arc<Jwks>),
    /// To `Check`.
    Checked(Box<Verdict>),
    /// A reply with this error.
    Error(Error),
    Disconnect(Disconnect),
}

impl Said {
    /// What a question comes to whose own answer this is not: what the backend refused, or an internal error.
    pub(super) fn refusal(self) -> Failure {
        match self {
            Said::Error(error) => Failure::Said(error),
            Said::Disconnect(disconnect) => Failure::Close(disconnect),
            Said::Connect(_) | Said::NoCredentials | Said::Refresh(_) | Said::Subscribe(_) => unfit(),
            Said::Stream(..) | Said::Publish(_) | Said::Rpc(_) | Said::Keys(_) | Said::Checked(_) => unfit(),
        }
    }
}

fn unfit() -> Failure {
    Failure::Error(ClientError::Internal)
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct ConnectGrant {
    pub user: CompactString,
    /// Seconds since 1970; 0 = never.
    pub expire_at: u64,
    pub info: Bytes,
    /// JSON for later proxy requests; empty = none.
    pub meta: Bytes,
    /// To the client, in the connect reply.
    pub data: Bytes,
    /// Server-side subscriptions.
    pub subs: Vec<(String, SubscribeGrant)>,
}

impl ConnectGrant {
    /// Is this one of its server-side subscriptions?
    pub(super) fn names(&self, channel: &str) -> bool {
        self.subs.iter().any(|(named, _)| named == channel)
    }
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct SubscribeGrant {
    /// Seconds since 1970; 0 = never.
    pub expire_at: u64,
    pub info: Bytes,
    /// To the client, in the subscribe reply.
    pub data: Bytes,
    pub overrides: Overrides,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct RefreshGrant {
    /// It is over now.
    pub expired: bool,
    /// Seconds since 1970; 0 = never.
    pub expire_at: u64,
    /// Replaces what was known; `None` = keep it.
    pub info: Option<Bytes>,
    /// The same.
    pub meta: Option<Bytes>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct PublishGrant {
    /// Published instead of what the client sent.
    pub data: Option<Bytes>,
    pub skip_history: bool,
    pub tags: HashMap<String, String>,
}

/// The session's end of a subscription stream: the stream is over when nobody has it any more.
#[derive(Clone)]
pub struct ChannelStream {
    /// No two of a process are the same.
    pub number: u64,
    pub line: Arc<dyn StreamLine>,
}

/// The way into a stream.
pub trait StreamLine: Send + Sync {
    /// Hands the backend what the client publishes.
    fn publish(&self, data: Bytes) -> Handed;
}

/// What became of a publication that was to go into a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handed {
    Taken,
    /// Too much waits before it.
    Full,
    /// The stream has one direction.
    OneWay,
}

impl fmt::Debug for ChannelStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChannelStream({})", self.number)
    }
}

impl PartialEq for ChannelStream {
    fn eq(&self, other: &ChannelStream) -> bool {
        self.number == other.number
    }
}

/// What comes by a stream.
#[derive(Debug)]
pub enum StreamNews {
    /// For this client alone. `held`: its room on the way, given back when it is dropped.
    Publication { data: Bytes, tags: HashMap<String, String>, held: Box<dyn Any + Send> },
    /// The backend ended it, `well` or with an error.
    Ended { well: bool },
}

/// What happened, for a backend that wants to know: told at most once.
#[derive(Debug, Clone, PartialEq)]
pub enum Hook {
    Connected {
        client: String,
        user: CompactString,
    },
    /// `code` 0: the connection was lost, or the client closed it.
    Disconnected {
        client: String,
        user: CompactString,
        code: u16,
    },
    /// A channel has its first subscriber on this node.
    Occupied {
        channel: Arc<str>,
    },
    /// It has none any more.
    Vacated {
        channel: Arc<str>,
    },
    /// Publications have not arrived in time at a user who is remembered.
    Undelivered(Box<Undelivered>),
}
