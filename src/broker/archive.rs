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
//!
//! **Cursors of inboxes** are kept beside the publications. One is never on disk before what was called of its channel
//! earlier, so that no cursor is ahead of the publications that it speaks of. The latest holds.

use super::engine::Away;
use super::{Epoch, Position};
use crate::protocol::Publication;
use compact_str::CompactString;
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
    /// disk. With the cursors of its inboxes, so many at most. Answered by [`ArchiveAnswer::Opened`].
    Open { ticket: u64, channel: Arc<str>, latest: usize, ahead: bool, cursors: usize },
    /// The stream stands here from now on, maybe in another epoch: what the archive has not of it by now is lost.
    Stand { channel: Arc<str>, position: Position, unix_ms: u64, keep: ArchiveKeep },
    /// Answered by [`ArchiveAnswer::Page`].
    Read { ticket: u64, channel: Arc<str>, page: ArchivePage },
    /// Forget the publications; offset and epoch stay. Answered by [`ArchiveAnswer::Removed`].
    Remove { ticket: u64, channel: Arc<str> },
    /// A cursor stands here from now on.
    Follow { channel: Arc<str>, cursor: Box<ArchivedCursor> },
    /// There is no such cursor any more.
    Unfollow { channel: Arc<str>, user: CompactString, device: CompactString },
}

impl ArchiveCall {
    pub fn channel(&self) -> &Arc<str> {
        match self {
            ArchiveCall::Append { channel, .. }
            | ArchiveCall::Open { channel, .. }
            | ArchiveCall::Stand { channel, .. }
            | ArchiveCall::Read { channel, .. }
            | ArchiveCall::Remove { channel, .. }
            | ArchiveCall::Follow { channel, .. }
            | ArchiveCall::Unfollow { channel, .. } => channel,
        }
    }

    pub fn ticket(&self) -> Option<u64> {
        match self {
            ArchiveCall::Append { ticket, .. } => *ticket,
            ArchiveCall::Open { ticket, .. }
            | ArchiveCall::Read { ticket, .. }
            | ArchiveCall::Remove { ticket, .. } => Some(*ticket),
            ArchiveCall::Stand { .. } | ArchiveCall::Follow { .. } | ArchiveCall::Unfollow { .. } => None,
        }
    }

    /// Bytes that it holds while it waits, about.
    pub fn size(&self) -> usize {
        let own = match self {
            ArchiveCall::Append { publication, .. } => publication.data.len() + 128,
            ArchiveCall::Follow { cursor, .. } => cursor.user.len() + cursor.device.len() + 64,
            ArchiveCall::Unfollow { user, device, .. } => user.len() + device.len(),
            _ => 0,
        };
        128 + self.channel().len() + own
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
    /// Without a stream nothing was ever appended to it. Cursors past their time are left out.
    Opened {
        stream: Option<Box<ArchivedStream>>,
        cursors: Vec<ArchivedCursor>,
    },
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

/// Where somebody's inbox in a channel stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchivedCursor {
    pub user: CompactString,
    /// "" = any of the user's.
    pub device: CompactString,
    pub offset: u64,
    /// "" = any: nothing had been published.
    pub epoch: Epoch,
    /// The backend was told of all up to this offset.
    pub told: u64,
    /// Behind it something may be missing.
    pub torn: bool,
    /// Milliseconds since 1970, after which it is forgotten.
    pub until_ms: u64,
}

impl ArchivedCursor {
    /// What it is called within its channel.
    pub fn name(&self) -> CompactString {
        cursor_name(&self.user, &self.device)
    }
}

/// What a cursor is called within its channel: no two users and devices share one.
pub fn cursor_name(user: &str, device: &str) -> CompactString {
    compact_str::format_compact!("{}:{user}{device}", user.len())
}

/// User and device of such a name.
pub fn cursor_owner(name: &str) -> Option<(CompactString, CompactString)> {
    let (len, both) = name.split_once(':')?;
    let (user, device) = both.split_at_checked(len.parse().ok()?)?;
    Some((user.into(), device.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_cursors_are_apart_and_can_be_read() {
        assert_ne!(cursor_name("anna", "b"), cursor_name("annab", ""));
        assert_eq!(cursor_name("anna", ""), "4:anna");
        for (user, device) in [("anna", "b"), ("", "x"), ("7:ä", "5:"), ("a:b", "")] {
            assert_eq!(cursor_owner(&cursor_name(user, device)), Some((user.into(), device.into())));
        }
        for none in ["", "4", "9:anna", "x:anna", "1:ä"] {
            assert_eq!(cursor_owner(none), None, "{none}");
        }
    }
}
