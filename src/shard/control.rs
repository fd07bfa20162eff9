//! F7 · What the backend asks of a reactor's clients, and the reactor's numbers.

use super::{ConnFacts, Out, Shard, Table, TraceFound, TraceRequest};
use crate::base::metrics::Counters;
use crate::broker::{self, CursorFacts};
use crate::protocol::SubscribeRequest;
use crate::protocol::code::Disconnect;
use crate::session::Now;
use crate::session::backend::{RefreshGrant, SubscribeGrant};
use compact_str::CompactString;
use std::sync::Arc;

/// Clients of a user; a client id or a session's name, if given, narrows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chosen {
    pub user: String,
    pub client: String,
    pub session: String,
}

/// What the backend asks of every reactor.
#[derive(Debug, Clone)]
pub enum Control {
    /// Closes clients; `keep` names those to spare.
    Disconnect { chosen: Chosen, keep: Vec<String>, disconnect: Disconnect },
    /// Subscribes clients to the request's channel.
    Subscribe { chosen: Chosen, request: SubscribeRequest, grant: SubscribeGrant },
    /// Ends subscriptions to a channel ("" = all of them).
    Unsubscribe { chosen: Chosen, channel: String },
    /// Gives clients more time, or ends them.
    Refresh { chosen: Chosen, grant: RefreshGrant },
    /// Channels owned here that match.
    Channels(Option<globset::GlobMatcher>),
    /// Counts and metrics.
    Stats,
    /// A hash of each user here, the same for the same user on every reactor.
    Users,
    /// Connections of each of these users on this node, if their number is kept here.
    Seats(Arc<[String]>),
    /// Clients as an operator sees them.
    Clients(ClientSearch),
    /// What came of what an operator watches.
    Trace(TraceRequest),
    /// What has arrived at a user.
    Inbox(InboxCall),
}

/// About the cursors of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InboxCall {
    Info {
        user: String,
    },
    /// All up to `offset` has arrived; 0 = all there is.
    Ack {
        user: String,
        device: String,
        channel: String,
        offset: u64,
    },
    /// Forget them: of one device, or in one channel, if these are named.
    Clear {
        user: String,
        device: Option<String>,
        channel: Option<String>,
    },
}

/// Which clients an operator wants to see: those for which most bytes wait come first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientSearch {
    /// "" = whoever it is.
    pub user: String,
    /// "" = all; one is told of with the names of its channels.
    pub client: String,
    /// So many at most.
    pub max: usize,
}

/// One client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientFacts {
    pub client: String,
    pub user: String,
    pub transport: &'static str,
    pub conn: ConnFacts,
    pub subscriptions: usize,
    /// Names of channels, if this client was asked for.
    pub channels: Vec<Arc<str>>,
}

/// What comes back to the service thread.
#[derive(Debug)]
pub enum ControlAnswer {
    /// From the owner of a channel.
    Owner(broker::Answer),
    /// So many clients or subscriptions were met.
    Met(usize),
    Channels(Vec<(Arc<str>, u64)>),
    Stats(Box<Stats>),
    Users(Vec<u32>),
    Seats(Vec<u32>),
    /// To nobody's question: this client was connected, and its user may have so many on all nodes.
    Seated {
        user: CompactString,
        client: String,
    },
    Clients(Vec<ClientFacts>),
    /// `None`: there are as many traces as may be.
    Trace(Option<TraceFound>),
    Cursors(Vec<CursorFacts>),
    /// To nobody's question: this client is to be its user's only one, on other nodes too.
    OnlyOne {
        user: CompactString,
        client: String,
    },
}

/// One reactor's numbers.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    pub reactor: u16,
    /// Sockets, whatever they speak.
    pub connections: usize,
    pub clients: usize,
    pub users: usize,
    pub subscriptions: usize,
    /// Channels this reactor owns.
    pub channels: usize,
    /// Bytes of publications that wait for delivery.
    pub waiting_bytes: usize,
    /// Bytes of the history and idempotency keys kept here.
    pub history_bytes: usize,
    /// Users (or devices) remembered in channels owned here, and in how many bytes.
    pub cursors: usize,
    pub inbox_bytes: usize,
    /// Values that wait in the mailbox.
    pub mailbox: usize,
    pub counters: Counters,
}

impl Shard {
    pub(super) fn control(&mut self, now: Now, table: &mut impl Table, ticket: u64, control: Control) {
        let answer = match control {
            Control::Disconnect { ref chosen, .. }
            | Control::Subscribe { ref chosen, .. }
            | Control::Unsubscribe { ref chosen, .. }
            | Control::Refresh { ref chosen, .. } => {
                let user = chosen.user.clone();
                return self.begin_call(now, table, ticket, &user, control);
            }
            Control::Clients(search) => return self.list_clients(now, table, ticket, search),
            Control::Channels(pattern) => return self.list_channels(now, table, ticket, pattern),
            Control::Trace(request) => ControlAnswer::Trace(self.traces.fetch(now, request)),
            Control::Stats => ControlAnswer::Stats(Box::new(self.stats())),
            Control::Seats(users) => {
                let count = |user: &String| self.seats.get(user.as_str()).copied().unwrap_or(0);
                ControlAnswer::Seats(users.iter().map(count).collect())
            }
            Control::Inbox(call) => self.inbox_call(now, call),
            Control::Users => ControlAnswer::Users(self.users.hashes().collect()),
        };
        self.out.push(Out::Answer { ticket, answer });
    }

    /// This shard's numbers.
    pub fn stats(&self) -> Stats {
        let mut counters = self.counters.clone();
        let tokens = self.tokens.cache.tally;
        (counters.tokens_remembered, counters.tokens_refused_again) = (tokens.good_again, tokens.bad_again);
        (counters.tokens_verified, counters.tokens_forged) = (tokens.verified, tokens.forged);
        counters.limit_bad_tokens = self.tokens.limited;
        counters.gaps = self.hub.gaps();
        let broker::Evicted { streams, histories, keys, refused } = self.broker.memory.evicted();
        (counters.streams_evicted, counters.histories_evicted) = (streams, histories);
        (counters.idempotency_keys_evicted, counters.history_refused) = (keys, refused);
        let engine = self.broker.remote.tally;
        (counters.engine_reads, counters.engine_read_publications) = (engine.heals, engine.healed);
        (counters.engine_gaps, counters.engine_held_dropped) = (engine.gaps, engine.dropped);
        (counters.engine_away, counters.engine_inflight_refused) = (engine.away, engine.refused);
        (counters.engine_presence_renewals, counters.engine_position_checks) = (engine.renewed, engine.checked);
        let (inbox, cursors, inbox_bytes) = self.broker.inbox_tally();
        (counters.inbox_proofs, counters.inbox_caught_up) = (inbox.moved, inbox.caught_up);
        (counters.inbox_sent, counters.inbox_lost) = (inbox.sent, inbox.lost);
        (counters.inbox_expired, counters.inbox_undelivered) = (inbox.expired, inbox.undelivered);
        let [of_channel, of_user, of_memory] = inbox.refused;
        (counters.inbox_refused_channel, counters.inbox_refused_user) = (of_channel, of_user);
        counters.inbox_refused_memory = of_memory;
        let archive = self.broker.durable.tally;
        (counters.archive_unarchived, counters.archive_refused) = (archive.unarchived, archive.refused);
        (counters.archive_failed, counters.archive_torn) = (archive.failed, archive.torn);
        let deflated = self.deflater.tally;
        counters.messages_compressed = deflated.messages;
        counters.messages_incompressible = deflated.in_vain;
        (counters.bytes_uncompressed, counters.bytes_compressed) = (deflated.before, deflated.after);
        Stats {
            reactor: self.me,
            connections: self.connections,
            clients: self.clients,
            users: self.users.len(),
            subscriptions: self.hub.subscriptions(),
            channels: self.broker.len(),
            waiting_bytes: self.hub.waiting_bytes(),
            history_bytes: self.broker.memory.kept_bytes(),
            cursors,
            inbox_bytes,
            mailbox: self.mailbox,
            counters,
        }
    }
}
