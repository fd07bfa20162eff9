//! F6 · What few sessions have, or few moments of a session: behind one pointer, which is mostly null.

use super::backend::ConnectGrant;
use super::limits::Spent;
use crate::base::wheel::{NEVER, Tick};
use crate::hub::{ChannelId, Flags};
use crate::protocol::{ConnectResult, Filter, SubscribeRequest};
use bytes::Bytes;
use compact_str::CompactString;
use smallvec::SmallVec;
use std::collections::HashMap;

#[derive(Debug, Default)]
pub struct More {
    /// Channels unsubscribed before their owner answered: the answer, when it comes, begins nothing.
    pub abandoned: SmallVec<[(ChannelId, To); 2]>,
    /// Channels about which the backend was asked, each for the command of that ticket.
    pub asked: SmallVec<[(ChannelId, u32); 1]>,
    /// Subscriptions that wait for their owner and are more than plain.
    pub pending: Vec<Pending>,
    /// Subscriptions that are more than their flags.
    pub subs: Vec<(ChannelId, Details)>,
    pub connecting: Option<Box<Connecting>>,
    /// Stands for the server-side subscriptions it connected with, if it is to be refreshed: a refresh does not change
    /// them. 0 = none.
    pub granted: u64,
    /// Lines `name: value` of the client's own request.
    pub headers: Box<str>,
    /// The user that the proxy in front names, until the connect command.
    pub trusted_user: CompactString,
    /// Buckets of its own that are not full.
    pub spent: Spent,
}

/// A subscription on its way, and what its reply will say.
#[derive(Debug)]
pub struct Pending {
    pub channel: ChannelId,
    pub ticket: u32,
    pub flags: Flags,
    pub to: To,
    pub recoverable: bool,
    /// The offset from which the client wanted to recover.
    pub recovers: Option<u64>,
    /// Better no subscription than one with a gap.
    pub reject_unrecovered: bool,
    pub data: Bytes,
    /// Seconds until it expires, if the client is to refresh it.
    pub ttl: Option<u32>,
    pub details: Details,
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

/// What a subscription has beside its flags.
#[derive(Debug)]
pub struct Details {
    /// When it is over, or the backend is to be asked.
    pub expires: Tick,
    /// The backend was asked for more time.
    pub refreshing: bool,
    /// Shown to others as `chan_info`.
    pub info: Bytes,
    pub filter: Option<Box<Filter>>,
}

impl Default for Details {
    fn default() -> Details {
        Details { expires: NEVER, refreshing: false, info: Bytes::new(), filter: None }
    }
}

impl Details {
    pub fn is_empty(&self) -> bool {
        self.expires == NEVER && self.info.is_empty() && self.filter.is_none()
    }
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
    /// Who it will be, once its place among the user's connections is known.
    pub grant: Option<Box<(ConnectGrant, Wishes)>>,
}

impl More {
    pub fn is_empty(&self) -> bool {
        self.abandoned.is_empty()
            && self.asked.is_empty()
            && self.pending.is_empty()
            && self.subs.is_empty()
            && self.connecting.is_none()
            && self.granted == 0
            && self.headers.is_empty()
            && self.trusted_user.is_empty()
            && self.spent.is_empty()
    }

    pub fn take_pending(&mut self, channel: ChannelId) -> Option<Pending> {
        let at = self.pending.iter().position(|pending| pending.channel == channel)?;
        Some(self.pending.swap_remove(at))
    }

    /// Was this channel unsubscribed before its owner answered? Who would have been told.
    pub fn take_abandoned(&mut self, channel: ChannelId) -> Option<To> {
        let at = self.abandoned.iter().position(|&(id, _)| id == channel)?;
        Some(self.abandoned.remove(at).1)
    }

    /// Does the answer for the command of `ticket` still decide about this channel?
    pub fn take_asked(&mut self, channel: ChannelId, ticket: u32) -> bool {
        let at = self.asked.iter().position(|&asked| asked == (channel, ticket));
        at.map(|at| self.asked.swap_remove(at)).is_some()
    }

    /// Is this a subscription of the server's making of which the client has not heard?
    pub fn is_untold(&self, channel: ChannelId) -> bool {
        self.pending.iter().any(|pending| pending.channel == channel && pending.to != To::Reply)
    }

    pub fn take_details(&mut self, channel: ChannelId) -> Option<Details> {
        let at = self.subs.iter().position(|(id, _)| *id == channel)?;
        Some(self.subs.swap_remove(at).1)
    }

    pub fn details(&mut self, channel: ChannelId) -> Option<&mut Details> {
        self.subs.iter_mut().find(|(id, _)| *id == channel).map(|(_, details)| details)
    }

    pub fn filter(&self, channel: ChannelId) -> Option<&Filter> {
        let (_, details) = self.subs.iter().find(|(id, _)| *id == channel)?;
        details.filter.as_deref()
    }

    /// When the first of the subscriptions is over.
    pub fn next_expiry(&self) -> Tick {
        self.subs.iter().map(|(_, details)| details.expires).min().unwrap_or(NEVER)
    }
}
