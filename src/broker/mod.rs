//! F3 · Every channel has one owner, which gives its publications their order.
//!
//! **The ordering promise.** For one channel and one reactor, [`Event::Subscribed`] arrives after every publication
//! that came before the subscription and before every later one; the client joins the hub when it arrives. One owner
//! and first-in-first-out mailboxes give it for free: an owner answers each reactor in the order in which it was
//! asked, and publications to that reactor stand in the same line. Subscribe and leave always pass through here, so
//! nobody else counts first and last subscribers.
//!
//! Owns the contract (requests, events, who owns what). Knows nothing of sessions: it sees a return address.

mod memory;

pub use memory::Memory;

use crate::protocol::Publication;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

/// A connection anywhere in the node. The generation tells a reused index from the one that was meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnKey {
    pub reactor: u16,
    pub index: u32,
    pub generation: u32,
}

/// Who waits for a publication to have its place in the channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// A client, for the command that `ticket` stands for.
    Client { conn: ConnKey, ticket: u32 },
    /// The backend, by the service thread's ticket.
    Backend(u64),
}

/// What a channel's owner is asked to do.
#[derive(Debug, Clone)]
pub enum Request {
    /// One more subscriber on `from.reactor`. Answered by [`Event::Subscribed`] with the same ticket.
    Subscribe { channel: Arc<str>, from: ConnKey, ticket: u32 },
    /// One subscriber less on `reactor`. Not answered.
    Leave { channel: Arc<str>, reactor: u16 },
    /// To all subscribers. Answered by [`Event::Published`] once it has its place: whatever anyone publishes after the
    /// answer comes later in the channel.
    Publish { channel: Arc<str>, publication: Arc<Publication>, asker: Asker },
}

impl Request {
    pub fn channel(&self) -> &Arc<str> {
        match self {
            Request::Subscribe { channel, .. } | Request::Leave { channel, .. } | Request::Publish { channel, .. } => {
                channel
            }
        }
    }
}

/// What an owner says, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    Subscribed { channel: Arc<str>, conn: ConnKey, ticket: u32 },
    Publication { channel: Arc<str>, publication: Arc<Publication> },
    Published { asker: Asker },
}

/// Where an event goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Reactor(u16),
    Backend,
}

/// The reactor that owns `channel`, the same on every thread of one process. `seed` is drawn at start, so that no
/// client can choose names that meet on one reactor.
pub fn owner(channel: &str, reactors: u16, seed: u64) -> u16 {
    if reactors <= 1 {
        return 0;
    }
    let mut hasher = foldhash::quality::FixedState::with_seed(seed).build_hasher();
    hasher.write(channel.as_bytes());
    (hasher.finish() % u64::from(reactors)) as u16
}
