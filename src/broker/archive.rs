//! F3 · What a channel's owner and an archive say to each other.
//!
//! Owns the contract between the owner of a channel and the archive, which keeps publications beyond what memory, or
//! an engine, keeps of them, and beyond a restart. Neither waits for the other: the owner makes [`ArchiveCall`]s, and
//! what comes of them is [`Archived`]. Knows nothing of disks, databases or threads.
//!
//! **What an archive promises.** Calls of one channel are carried out in the order in which they were made, and those
//! with tickets are answered in that order, each once, in bounded time. What was answered is on disk, also after
//! kill -9 and a loss of power. What has no ticket is on disk within `durable.flush_interval`. A publication that is
//! appended twice, with the same epoch and offset, is there once, as it came last. Once an append has failed, nobody
//! knows whether it is on disk: the owner asks by [`ArchiveCall::Open`] before it uses the stream again, and believes
//! what it is told. Until then later ones with tickets fail as well, for a stream has no gaps that
//! nobody was told of: one with a ticket is refused unless it follows what the archive has of its epoch (or is in place
//! of it), or the archive has nothing and it is the first.
//!
//! **When a stream is whole.** A stream that was opened `ahead` has publications that are sent before they are on
//! disk, so the archive notes durably, before it answers, in which *life* that was. A life begins when an archive is
//! opened, or opened again after a failure, and ends cleanly by a mark that is written when all that was called is on
//! disk and no owner calls any more. A stream is whole if it has no such note, or that life is this one, or it ended
//! cleanly. Opening one that is not whole leaves the note as it is. An append with a ticket takes the note away, for
//! the owner sends nothing of that stream before it is on disk; one without, and [`ArchiveCall::Stand`], notes this
//! life.

use super::Position;
use super::engine::Away;
use crate::protocol::Publication;
use std::sync::Arc;

/// What the archive keeps of a channel's publications.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArchiveKeep {
    /// Publications, the latest; 0 = any number.
    pub size: u64,
    /// Milliseconds after each; 0 = for ever.
    pub ttl_ms: u64,
    /// Milliseconds that offset and epoch outlive the latest call about the stream, at least. A stream that the archive
    /// forgot altogether begins with an epoch that nobody had.
    pub meta_ttl_ms: u64,
}

/// From the owner to the archive.
#[derive(Debug, Clone, PartialEq)]
pub enum ArchiveCall {
    /// Keep this publication, which has its place. `unix_ms`: when it was published. Without a ticket its offset may be
    /// beyond the next one: those between were lost.
    Append {
        ticket: Option<u64>,
        channel: Arc<str>,
        position: Position,
        publication: Arc<Publication>,
        unix_ms: u64,
        keep: ArchiveKeep,
    },
    /// Where the stream stands, and its latest publications, so many at most. It is asked before anything is appended
    /// in this life of the process, and again after a failure. `ahead`: publications will be sent before they are on
    /// disk. Answered by [`ArchiveAnswer::Opened`].
    Open { ticket: u64, channel: Arc<str>, latest: usize, ahead: bool },
    /// The stream stands here from now on, maybe in another epoch: what the archive has not of it by now is lost.
    Stand { channel: Arc<str>, position: Position, unix_ms: u64, keep: ArchiveKeep },
    /// Answered by [`ArchiveAnswer::Page`].
    Read { ticket: u64, channel: Arc<str>, page: ArchivePage },
    /// Forget the publications; offset and epoch stay. Answered by [`ArchiveAnswer::Removed`].
    Remove { ticket: u64, channel: Arc<str> },
}

impl ArchiveCall {
    pub fn channel(&self) -> &Arc<str> {
        match self {
            ArchiveCall::Append { channel, .. }
            | ArchiveCall::Open { channel, .. }
            | ArchiveCall::Stand { channel, .. }
            | ArchiveCall::Read { channel, .. }
            | ArchiveCall::Remove { channel, .. } => channel,
        }
    }

    pub fn ticket(&self) -> Option<u64> {
        match self {
            ArchiveCall::Append { ticket, .. } => *ticket,
            ArchiveCall::Open { ticket, .. }
            | ArchiveCall::Read { ticket, .. }
            | ArchiveCall::Remove { ticket, .. } => Some(*ticket),
            ArchiveCall::Stand { .. } => None,
        }
    }

    /// Bytes that it holds while it waits, about.
    pub fn size(&self) -> usize {
        let publication = match self {
            ArchiveCall::Append { publication, .. } => publication.data.len() + 128,
            _ => 0,
        };
        128 + self.channel().len() + publication
    }
}

/// Which publications of an archive. Those that the archive has forgotten are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArchivePage {
    /// Offsets after it, or before it with `reverse`; itself is left out. `None` = from the end where reading begins.
    pub since: Option<u64>,
    /// Offsets up to it, itself included: what is above is known otherwise.
    pub until: u64,
    pub limit: usize,
    /// Newest first.
    pub reverse: bool,
}

/// From the archive to the owner.
#[derive(Debug, Clone, PartialEq)]
pub struct Archived {
    pub ticket: u64,
    pub answer: Result<ArchiveAnswer, Away>,
}

/// What the archive says to a ticket.
#[derive(Debug, Clone, PartialEq)]
pub enum ArchiveAnswer {
    /// It is on disk, with all that was appended to its channel before.
    Appended,
    /// `None`: nothing was ever appended to it.
    Opened(Option<Box<ArchivedStream>>),
    /// In the order of the question.
    Page(Vec<Publication>),
    Removed,
}

/// A stream as the archive has it.
#[derive(Debug, Clone, PartialEq)]
pub struct ArchivedStream {
    /// Of the latest publication, kept or not.
    pub position: Position,
    /// Nothing that was ever answered or sent is missing: the stream goes on with this epoch. Otherwise it goes on
    /// with the next offset, and in another epoch.
    pub whole: bool,
    /// Oldest first.
    pub latest: Vec<Publication>,
}
