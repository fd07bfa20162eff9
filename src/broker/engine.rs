//! F3 · What a channel's owner and a store elsewhere say to each other.
//!
//! Owns the contract between the owner of a channel on this node and an engine, which keeps the channel's stream and
//! presence for all nodes. Neither waits for the other: the owner makes [`EngineCall`]s, and what comes of them, or
//! from other nodes, is [`Heard`]. Knows nothing of Redis or NATS, of sockets or threads.
//!
//! **What an engine promises.** Calls of one channel are carried out in the order in which they were made. Every
//! ticket is answered once, in bounded time. What is heard of a channel comes in the order of the one connection on
//! which it was heard; when that was lost and made anew, [`Heard::Listening`] comes again, before all that is heard on
//! the new one. Publications may be lost on the way, and the owner finds that by their offsets. None comes twice on
//! one connection.

use super::{Position, Query, Treatment};
use crate::protocol::code::ClientError;
use crate::protocol::{ClientInfo, Publication};
use bytes::Bytes;
use compact_str::CompactString;
use std::sync::Arc;

/// Where channels live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Engine {
    /// In the reactor that owns them.
    #[default]
    Memory,
    Redis,
    Nats,
}

/// From the owner to the engine.
#[derive(Debug, Clone, PartialEq)]
pub enum EngineCall {
    /// Tell what happens in the channel from now on. `life` is told again in [`Heard::Listening`], and tells this wish
    /// from an earlier one.
    Listen { channel: Arc<str>, life: u32 },
    /// Nobody listens on this node any more.
    Unlisten { channel: Arc<str> },
    /// To the subscribers on all nodes. It has no offset yet. A key that was used in the channel within five minutes,
    /// or a version that is not above the latest, is answered as if it had been published, and is not.
    Publish { ticket: u64, channel: Arc<str>, publication: Arc<Publication>, treatment: Option<Box<Treatment>> },
    /// Tell all nodes that somebody came or went; may be lost.
    Announce { channel: Arc<str>, info: Arc<ClientInfo>, joined: bool },
    /// Where the stream stands, and the publications of the query, which have their offsets.
    Read { ticket: u64, channel: Arc<str>, query: Box<Query> },
    /// Forget the publications of the stream; offset and epoch stay.
    RemoveHistory { ticket: u64, channel: Arc<str> },
    /// The client is in the channel, now or still: it is forgotten when this is not said again in time.
    AddPresence { channel: Arc<str>, client: [u8; 16], info: Arc<ClientInfo> },
    /// With a ticket it is answered once nobody sees the client any more.
    RemovePresence { channel: Arc<str>, client: [u8; 16], user: CompactString, ticket: Option<u64> },
    /// Who is in the channel, on all nodes. Of more than `most` nobody need be told: that is refused.
    Presence { ticket: u64, channel: Arc<str>, most: usize },
    /// How many that are.
    PresenceStats { ticket: u64, channel: Arc<str> },
    /// Where the cursor of somebody's inbox in the channel stands; answered by [`EngineAnswer::Cursor`].
    ReadCursor { ticket: u64, channel: Arc<str>, name: CompactString },
    /// It stands here from now on, unless it stands later in the same epoch. May be lost. Cursors of a channel are
    /// forgotten when none has moved for so long.
    WriteCursor { channel: Arc<str>, name: CompactString, position: Position, ttl_ms: u64 },
}

impl EngineCall {
    /// Is it about who is present?
    pub fn is_presence(&self) -> bool {
        matches!(
            self,
            EngineCall::AddPresence { .. }
                | EngineCall::RemovePresence { .. }
                | EngineCall::Presence { .. }
                | EngineCall::PresenceStats { .. }
        )
    }

    /// What its owner hears if the engine is away; nothing of what nobody waits for.
    pub fn away(self) -> Option<Heard> {
        match self {
            EngineCall::Listen { channel, life } => Some(Heard::Listening { channel, life, result: Err(Away) }),
            EngineCall::Publish { ticket, .. }
            | EngineCall::Read { ticket, .. }
            | EngineCall::RemoveHistory { ticket, .. }
            | EngineCall::RemovePresence { ticket: Some(ticket), .. }
            | EngineCall::Presence { ticket, .. }
            | EngineCall::PresenceStats { ticket, .. }
            | EngineCall::ReadCursor { ticket, .. } => Some(Heard::Answer { ticket, answer: Err(Away) }),
            EngineCall::Unlisten { .. }
            | EngineCall::Announce { .. }
            | EngineCall::AddPresence { .. }
            | EngineCall::WriteCursor { .. }
            | EngineCall::RemovePresence { ticket: None, .. } => None,
        }
    }
}

/// From the engine to the owner.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    /// All that happens in the channel after this is heard here. Comes again when the connection was made anew: what
    /// happened in between was not heard. With an error nothing is heard, and the wish is forgotten.
    Listening {
        channel: Arc<str>,
        life: u32,
        result: Result<(), Away>,
    },
    /// The engine has no place for a channel of that name, now or ever: the wish is forgotten.
    Unfit {
        channel: Arc<str>,
        life: u32,
        error: ClientError,
    },
    /// A publication of any node's, our own too. `position`: its place in the stream, if it is kept. `previous`: the
    /// data of the one before it, if it is to go as a delta.
    Publication {
        channel: Arc<str>,
        publication: Arc<Publication>,
        position: Option<Position>,
        previous: Option<Bytes>,
    },
    /// Somebody came to or left any node, our own too.
    Presence {
        channel: Arc<str>,
        info: Arc<ClientInfo>,
        joined: bool,
    },
    Answer {
        ticket: u64,
        answer: Result<EngineAnswer, Away>,
    },
}

/// What the engine says to a ticket.
#[derive(Debug, Clone, PartialEq)]
pub enum EngineAnswer {
    Published(Option<Position>),
    /// It was published before, by its key, or is not above the latest version.
    Known(Option<Position>),
    Read(Box<(Position, Vec<Publication>)>),
    Removed,
    Presence(Vec<ClientInfo>),
    PresenceStats {
        clients: u32,
        users: u32,
    },
    PresenceRemoved,
    /// `None`: there is none.
    Cursor(Option<Position>),
    /// The query's epoch is not the stream's.
    Unrecoverable,
    /// It cannot be done, now or ever: what who asked is told.
    Refused(ClientError),
}

/// The engine cannot be reached, or has too much to do: who asked may try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Away;
