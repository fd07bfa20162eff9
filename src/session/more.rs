//! F6 · What few sessions have, or few moments of a session: behind one pointer, which is mostly null.

use super::backend::{ConnectGrant, SubscribeGrant};
use super::limits::Spent;
use super::streams::OwnStream;
use super::subscription::States;
use crate::protocol::{ConnectResult, SubscribeRequest};
use bytes::Bytes;
use compact_str::CompactString;
use std::collections::HashMap;

#[derive(Debug, Default)]
pub struct More {
    /// Of subscriptions that are more than plain, or not in the session's list.
    pub states: States,
    pub connecting: Option<Box<Connecting>>,
    /// Stands for the server-side subscriptions it connected with, if it is to be refreshed: a refresh does not change
    /// them. 0 = none.
    pub granted: u64,
    /// Lines `name: value` of the client's own request.
    pub headers: Box<str>,
    /// What its token or the backend said of it, if a proxy is to be told.
    pub meta: Bytes,
    /// The user that the proxy in front names, until the connect command.
    pub trusted_user: CompactString,
    /// Which of its user's devices it is, if a channel may ask.
    pub device: CompactString,
    /// Buckets of its own that are not full.
    pub spent: Spent,
    /// Bad subscription tokens in a row.
    pub bad_tokens: u32,
    /// Of subscriptions whose publications come from the backend alone.
    pub streams: Vec<OwnStream>,
    /// What the server wants of channels that the client is subscribing to by itself.
    pub wanted: Vec<WantedSub>,
}

/// A subscription that the server wants, once the client's own command is answered.
#[derive(Debug)]
pub struct WantedSub {
    pub channel: CompactString,
    pub what: Box<(SubscribeRequest, SubscribeGrant)>,
}

/// Who is told of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// The client, in the reply to its command.
    Reply,
    /// The client, in the reply to its connect command.
    Connect,
    /// The client, by a push.
    Push,
}

/// Server-side subscriptions that a client knows from before, with where it was, by channel.
pub type Wishes = HashMap<String, SubscribeRequest>;

/// A connect command that waits.
#[derive(Debug, Default)]
pub struct Connecting {
    pub id: u32,
    pub result: ConnectResult,
    /// Server-side subscriptions that their owners have not answered.
    pub waits: usize,
    /// One of them has more than is sent at once: the client is to come again for the rest.
    pub has_more: bool,
    /// Who it will be, once its place among the user's connections is known.
    pub grant: Option<Box<(ConnectGrant, Wishes)>>,
}

impl More {
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
            && self.connecting.is_none()
            && self.granted == 0
            && self.headers.is_empty()
            && self.meta.is_empty()
            && self.trusted_user.is_empty()
            && self.device.is_empty()
            && self.spent.is_empty()
            && self.bad_tokens == 0
            && self.streams.is_empty()
            && self.wanted.is_empty()
    }
}
