//! F3 · Every channel has one owner, which gives its publications their order.
//!
//! **The ordering promise.** For one channel and one reactor, [`Event::Subscribed`] arrives after every publication
//! at or before its position and before every later one; the client joins the hub when it arrives. One owner and
//! first-in-first-out mailboxes give it for free: an owner answers each reactor in the order in which it was asked, and
//! publications to that reactor stand in the same line. Subscribe and leave always pass through here, so nobody else
//! counts first and last subscribers.
//!
//! Owns the contract (requests, events, who owns what). Knows nothing of sessions or options: it sees a return address,
//! and is told with each request what a channel keeps.

pub mod archive;
mod durable;
pub mod engine;
mod epoch;
mod inbox;
mod interest;
mod kept;
pub mod log;
mod memory;
mod owner;
mod presence;
mod recent;
mod remote;
mod sequence;
mod stream;
mod table;

pub use durable::{Durability, DurableChannels, DurableLimits, DurableTally, OpenedChannel};
pub use epoch::{Epoch, EpochMark};
pub use inbox::{Arrived, CursorArchive, CursorFacts, Follow, InboxKeep, InboxLimits, InboxTally, Undelivered};
pub use interest::Told;
pub use memory::{Evicted, Limits, Memory};
pub use owner::{Owner, OwnerLimits};
pub use remote::{EngineLimits, EngineTally, RemoteChannels};
pub use table::PARTS as CHANNEL_PARTS;

use self::log::{LogCall, LogTo};
use crate::protocol::code::ClientError;
use crate::protocol::{ClientInfo, Publication};
use bytes::Bytes;
use compact_str::CompactString;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

/// A connection anywhere in the node. The generation tells a reused index from the one that was meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnKey {
    pub reactor: u16,
    pub index: u32,
    pub generation: u32,
}

/// Who waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// A client, for the command that `ticket` stands for.
    Client { conn: ConnKey, ticket: u32 },
    /// The backend, by the service thread's ticket.
    Backend(u64),
}

/// A place in a channel's stream: so many publications into this epoch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Position {
    pub offset: u64,
    pub epoch: Epoch,
}

/// What a channel keeps of its publications.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Publications.
    pub size: u32,
    /// Milliseconds after the latest one.
    pub ttl_ms: u64,
    /// Milliseconds that offset and epoch outlive the latest use.
    pub meta_ttl_ms: u64,
}

/// What a subscriber wants beyond live publications.
#[derive(Debug, Clone, Default)]
pub struct Want {
    /// Its position in the stream, which begins with this if need be.
    pub position: Option<Keep>,
    /// What it missed.
    pub recover: Option<Recover>,
    /// Who it is: for presence, and to tell the others that it came.
    pub member: Option<Member>,
    /// Deltas.
    pub delta: bool,
    /// Whose it is, if the channel has an inbox: what has not arrived there is recovered, unless `recover` says more.
    pub follow: Option<Box<Follow>>,
}

/// What a client knows of the stream from before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recover {
    pub offset: u64,
    /// "" = any.
    pub epoch: CompactString,
    /// Publications returned at most.
    pub limit: usize,
    /// Whoever missed more is not recovered. Between the two, the first of what was missed are returned.
    pub most: u64,
    /// The latest publication alone will do.
    pub cache: bool,
}

/// A client in a channel.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    pub client: [u8; 16],
    pub info: Arc<ClientInfo>,
    /// Listed among those present.
    pub presence: bool,
    /// The subscribers who want to know are told of its coming and going.
    pub announce: bool,
}

/// What is known of a subscriber that leaves.
#[derive(Debug, Clone)]
pub struct Gone {
    pub member: Option<Member>,
    /// It took deltas.
    pub delta: bool,
    /// Who waits until all of this is done.
    pub asker: Option<Asker>,
}

/// How a publication is to be treated, beyond being sent to all subscribers.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Treatment {
    /// Keep it; without, it has no offset.
    pub keep: Option<Keep>,
    /// Send it as a delta to those who take deltas.
    pub delta: bool,
    /// Not to this connection, which published it.
    pub except: Option<ConnKey>,
    /// A second publication with this key within five minutes is the first one. "" = none.
    pub idempotency_key: CompactString,
    /// Who asks wants to know whether anybody subscribes: [`Answer::PublishedTo`], where that is known.
    pub tells_present: bool,
    /// Publications of a version not above the latest are dropped; 0 = none.
    pub version: u64,
    pub version_epoch: CompactString,
    /// Other programs are to have it too.
    pub log: Option<LogTo>,
}

/// What a channel's owner is asked to do.
#[derive(Debug, Clone)]
pub enum Request {
    /// One more subscriber on `from.reactor`. Answered by [`Event::Subscribed`] with the same ticket.
    Subscribe { channel: Arc<str>, from: ConnKey, ticket: u32, want: Option<Box<Want>> },
    /// One subscriber less on `reactor`. Answered by [`Answer::Left`] if somebody asks.
    Leave { channel: Arc<str>, reactor: u16, gone: Option<Box<Gone>> },
    /// To all subscribers. Answered by [`Answer::Published`] once it has its place: whatever anyone publishes after the
    /// answer comes later in the channel.
    Publish { channel: Arc<str>, publication: Arc<Publication>, asker: Asker, treatment: Option<Box<Treatment>> },
    /// Answered by [`Answer::History`].
    History { channel: Arc<str>, asker: Asker, query: Box<Query> },
    /// Answered by [`Answer::Removed`]: nothing is kept any more, offset and epoch stay.
    RemoveHistory { channel: Arc<str>, asker: Asker },
    /// Answered by [`Answer::Presence`].
    Presence { channel: Arc<str>, asker: Asker },
    /// Answered by [`Answer::PresenceStats`].
    PresenceStats { channel: Arc<str>, asker: Asker },
}

/// Which publications of a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    pub keep: Keep,
    /// Those after it (before it with `reverse`), itself left out.
    pub since: Option<(u64, CompactString)>,
    pub limit: usize,
    /// Newest first.
    pub reverse: bool,
}

impl Request {
    pub fn channel(&self) -> &Arc<str> {
        match self {
            Request::Subscribe { channel, .. }
            | Request::Leave { channel, .. }
            | Request::Publish { channel, .. }
            | Request::History { channel, .. }
            | Request::RemoveHistory { channel, .. }
            | Request::Presence { channel, .. }
            | Request::PresenceStats { channel, .. } => channel,
        }
    }
}

/// What an owner says, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    Subscribed {
        channel: Arc<str>,
        conn: ConnKey,
        ticket: u32,
        found: Option<Box<Found>>,
    },
    /// A subscription does not begin: what it needs of an engine is not to be had. It counts until it leaves.
    Refused {
        channel: Arc<str>,
        conn: ConnKey,
        ticket: u32,
        error: ClientError,
    },
    Publication {
        channel: Arc<str>,
        publication: Arc<Publication>,
        extras: Option<Box<Extras>>,
    },
    /// Somebody came.
    Join {
        channel: Arc<str>,
        info: Arc<ClientInfo>,
    },
    /// Somebody went.
    Leave {
        channel: Arc<str>,
        info: Arc<ClientInfo>,
    },
    /// Publications were dropped on the way here.
    Gap {
        channel: Arc<str>,
    },
    Answer {
        asker: Asker,
        answer: Answer,
    },
    /// For the log of publications.
    Logged(Box<LogCall>),
    /// The channel has its first subscriber, or has none any more.
    Occupied {
        channel: Arc<str>,
        occupied: bool,
    },
    /// For the backend: what has not arrived in time.
    Undelivered(Box<Undelivered>),
}

impl Event {
    /// Bytes of the publications and clients that it tells one asker of, about.
    pub fn answered_bytes(&self) -> usize {
        let publications = |all: &[Publication]| all.iter().map(|publication| publication.data.len() + 64).sum();
        match self {
            Event::Subscribed { found: Some(found), .. } => {
                found.recovery.as_ref().map_or(0, |recovery| publications(&recovery.publications))
            }
            Event::Answer { answer: Answer::History(found), .. } => publications(&found.1),
            Event::Answer { answer: Answer::Presence(clients), .. } => {
                clients.iter().map(|info| 128 + info.conn_info.len() + info.chan_info.len()).sum()
            }
            _ => 0,
        }
    }
}

/// Where a subscription begins.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    pub position: Position,
    /// If it was asked for: what was missed, and whether that is all of it.
    pub recovery: Option<Recovery>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Recovery {
    pub recovered: bool,
    /// The offset that the server knew of, if the client named none.
    pub from: Option<u64>,
    /// There are more behind them.
    pub more: bool,
    /// In their order.
    pub publications: Vec<Publication>,
}

/// What goes with a publication, seldom.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Extras {
    /// Its data as a delta to the publication before it, if that is shorter.
    pub delta: Option<Bytes>,
    pub except: Option<ConnKey>,
}

/// The answer to a question of a client or of the backend.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// With its position, if the channel keeps history.
    Published(Option<Position>),
    /// The same, and whether anybody subscribes to the channel.
    PublishedTo(Option<Position>, bool),
    History(Box<(Position, Vec<Publication>)>),
    Removed,
    Presence(Vec<ClientInfo>),
    PresenceStats {
        clients: u32,
        users: u32,
    },
    Left,
    Refused(ClientError),
}

/// Where an event goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Reactor(u16),
    Backend,
    Log,
}

impl From<Asker> for Target {
    fn from(asker: Asker) -> Target {
        match asker {
            Asker::Client { conn, .. } => Target::Reactor(conn.reactor),
            Asker::Backend(_) => Target::Backend,
        }
    }
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
