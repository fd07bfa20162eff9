//! F7 · What the backend asks of a reactor's clients, and the reactor's numbers.

use super::{Shard, Table};
use crate::base::metrics::Counters;
use crate::broker;
use crate::protocol::SubscribeRequest;
use crate::protocol::code::Disconnect;
use crate::session::Now;
use crate::session::backend::{RefreshGrant, SubscribeGrant};
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
    /// Values that wait in the mailbox.
    pub mailbox: usize,
    pub counters: Counters,
}

impl Shard {
    pub(super) fn control(&mut self, now: Now, table: &mut impl Table, control: Control) -> ControlAnswer {
        match control {
            Control::Disconnect { chosen, keep, disconnect } => {
                let mut clients = self.chosen(table, &chosen);
                clients.retain(|(_, id)| !keep.contains(id));
                for (conn, _) in &clients {
                    self.close(now, table, *conn, Some(disconnect.clone()));
                }
                ControlAnswer::Met(clients.len())
            }
            Control::Subscribe { chosen, request, grant } => {
                let mut begun = 0;
                for (conn, _) in self.chosen(table, &chosen) {
                    let (request, grant) = (request.clone(), grant.clone());
                    self.with(now, table, conn, |session, turn| {
                        begun += usize::from(session.subscribe_by_server(request, grant, turn));
                    });
                }
                ControlAnswer::Met(begun)
            }
            Control::Unsubscribe { chosen, channel } => {
                let mut ended = 0;
                for (conn, _) in self.chosen(table, &chosen) {
                    self.with(now, table, conn, |session, turn| {
                        ended += session.unsubscribe_by_server(&channel, turn);
                    });
                }
                self.counters.unsubscribes_by_server += ended as u64;
                ControlAnswer::Met(ended)
            }
            Control::Refresh { chosen, grant } => {
                let clients = self.chosen(table, &chosen);
                for (conn, _) in &clients {
                    let (Some(key), grant) = (table.key(*conn), grant.clone()) else { continue };
                    self.with_key(now, table, key, |session, turn| session.refresh_granted(grant, turn));
                }
                ControlAnswer::Met(clients.len())
            }
            Control::Channels(pattern) => {
                let fits = |name: &str| pattern.as_ref().is_none_or(|pattern| pattern.is_match(name));
                let found = self.broker.channels().filter(|(name, _)| fits(name));
                ControlAnswer::Channels(found.map(|(name, clients)| (name.clone(), clients)).collect())
            }
            Control::Stats => ControlAnswer::Stats(Box::new(self.stats())),
            Control::Users => ControlAnswer::Users(self.users.hashes().collect()),
        }
    }

    /// The clients, with their ids.
    pub(super) fn chosen(&self, table: &mut impl Table, chosen: &Chosen) -> Vec<(u32, String)> {
        let all = self.users.clients(table, &chosen.user);
        let named = all.into_iter().filter_map(|conn| Some((conn, table.session(conn)?.client())));
        let mut clients: Vec<_> = named.filter(|(_, id)| chosen.client.is_empty() || *id == chosen.client).collect();
        if !chosen.session.is_empty() {
            let is_named = |conn: u32, table: &mut _| self.session_name(table, conn) == Some(chosen.session.clone());
            clients.retain(|(conn, _)| is_named(*conn, table));
        }
        clients
    }

    /// This shard's numbers.
    pub fn stats(&self) -> Stats {
        let mut counters = self.counters.clone();
        (counters.tokens_remembered, counters.tokens_verified) = (self.tokens.cache.hits, self.tokens.cache.misses);
        counters.gaps = self.hub.gaps();
        let broker::Evicted { streams, histories, keys, refused } = self.broker.evicted();
        (counters.streams_evicted, counters.histories_evicted) = (streams, histories);
        (counters.idempotency_keys_evicted, counters.history_refused) = (keys, refused);
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
            history_bytes: self.broker.kept_bytes(),
            mailbox: self.mailbox,
            counters,
        }
    }
}
