//! F3 · Cursors that an archive keeps too.
//!
//! Owns which of them the archive is to be told of, and what becomes of those that it brings. What is told is how they
//! stand when it is told, so that many moves are one.

use super::lists::UNWRITTEN;
use super::{Cursor, CursorArchive, Follow, InboxKeep, Inboxes, MARKS};
use crate::broker::archive::ArchivedCursor;
use crate::broker::{Epoch, EpochMark, Position};
use compact_str::CompactString;
use std::sync::Arc;

/// That a cursor is used is told after such a part of its time, and it is kept longer by twice that.
const USES: u64 = 16;

/// A cursor that is no more.
#[derive(Debug)]
pub struct GoneCursor {
    pub channel: Arc<str>,
    pub user: CompactString,
    pub device: CompactString,
}

/// How a cursor stands.
#[derive(Debug)]
pub struct CursorNews {
    pub channel: Arc<str>,
    pub cursor: ArchivedCursor,
    /// Nothing was ever published, and the archive may not know this life of the stream: it begins here.
    pub begins: Option<Position>,
}

/// A stream whose cursors an archive brought.
#[derive(Debug)]
pub struct CursorsFound<'a> {
    pub channel: &'a Arc<str>,
    pub keep: InboxKeep,
    pub cursors: Vec<ArchivedCursor>,
    /// Where it stands now; `None` = it has not begun.
    pub top: Option<Position>,
    /// The life that it had, if it may have lost publications and goes on in another one.
    pub torn: Option<Epoch>,
    pub unix_ms: u64,
}

impl Inboxes {
    /// The archive is to be told of the cursor at `at`, if there is one.
    pub(super) fn unwritten(&mut self, at: u32) {
        let cursor = &mut self.cursors[at as usize];
        let archive = self.channels[cursor.channel as usize].keep.archive;
        if archive != CursorArchive::None && !std::mem::replace(&mut cursor.unwritten, true) {
            self.unwritten.push(&mut self.cursors, UNWRITTEN, at);
        }
    }

    /// It was used, which the archive learns seldom.
    pub(super) fn used(&mut self, now_ms: u64, at: u32, ttl_ms: u64) {
        if now_ms.saturating_sub(self.cursors[at as usize].written_ms) >= (ttl_ms / USES).max(1) {
            self.unwritten(at);
        }
    }

    /// Cursors that are no more, for the archive. It is told of these first.
    pub fn take_gone(&mut self) -> Vec<GoneCursor> {
        std::mem::take(&mut self.gone)
    }

    /// The next cursor that the archive is to be told of.
    pub fn take_unwritten(&mut self, unix_ms: u64) -> Option<CursorNews> {
        let at = self.unwritten.first()?;
        self.unwritten.remove(&mut self.cursors, UNWRITTEN, at);
        let cursor = &mut self.cursors[at as usize];
        (cursor.unwritten, cursor.written_ms) = (false, cursor.used_ms);
        let cursor = &self.cursors[at as usize];
        let &Cursor { offset, epoch, torn, told, told_epoch, .. } = cursor;
        let channel = &self.channels[cursor.channel as usize];
        let life = channel.epoch.mark();
        let is_first = channel.is_first(cursor);
        let is_batched = channel.keep.archive == CursorArchive::Batched && life != EpochMark::NONE;
        let (begins, epoch) = match () {
            // With sync, whatever anyone hears of the stream is in the archive: so its next life has all of it too.
            () if is_first && channel.top == 0 && !is_batched => (false, Epoch::NONE),
            () if is_first => (channel.top == 0, channel.epoch.clone()),
            () => (false, epoch.epoch().unwrap_or_else(|| channel.epoch.clone())),
        };
        let ttl_ms = channel.keep.ttl_ms;
        Some(CursorNews {
            channel: channel.name.clone(),
            begins: begins.then(|| Position { offset: 0, epoch: channel.epoch.clone() }),
            cursor: ArchivedCursor {
                user: self.users[cursor.user as usize].name.clone(),
                device: cursor.device.clone(),
                offset,
                told: if told_epoch == epoch.mark() { told } else { 0 },
                epoch,
                torn,
                until_ms: unix_ms.saturating_add(ttl_ms).saturating_add(ttl_ms / USES * 2),
            },
        })
    }

    /// The archive brings cursors of a channel; those that are here are later ones.
    pub fn load(&mut self, now_ms: u64, found: CursorsFound<'_>) {
        let CursorsFound { channel, keep, cursors, top, torn, unix_ms } = found;
        self.unwritten_of(channel);
        for cursor in cursors {
            if self.find(channel, &cursor.user, &cursor.device).is_some() {
                continue;
            }
            if self.limits.bytes > 0 && self.bytes >= self.limits.bytes {
                self.tally.refused[2] += 1;
                continue;
            }
            let told = cursor.told.min(top.as_ref().map_or(0, |top| top.offset));
            let (offset, epoch, is_torn) = placed(&cursor, top.as_ref(), torn.as_ref());
            let changed = is_torn != cursor.torn || epoch != cursor.epoch.mark() || offset != cursor.offset;
            // What is left of its time, roundly.
            let left_ms = cursor.until_ms.saturating_sub(unix_ms).saturating_sub(keep.ttl_ms / USES * 2);
            let part_ms = (keep.ttl_ms / USES).max(1);
            let ttl_ms = left_ms.div_ceil(part_ms).max(1).saturating_mul(part_ms).min(keep.ttl_ms);
            let follow = Follow { user: cursor.user, device: cursor.device, keep };
            let at = self.insert(now_ms, channel, &follow, offset, epoch);
            self.touch(now_ms, at, ttl_ms);
            let here = &mut self.cursors[at as usize];
            (here.torn, here.told, here.told_epoch) = (is_torn, told, epoch);
            if !changed && std::mem::take(&mut here.unwritten) {
                self.unwritten.remove(&mut self.cursors, UNWRITTEN, at);
            }
        }
        if let Some(top) = top {
            self.stands(channel, &top);
        }
        self.resume_telling(now_ms, channel);
    }

    /// What came before this life of the process may be due to be told.
    fn resume_telling(&mut self, now_ms: u64, channel: &str) {
        let Some(at) = self.channel(channel) else { return };
        let it = &mut self.channels[at as usize];
        let after = it.keep.undelivered_ms;
        if after > 0 && it.top > 0 && it.marks.is_empty() && it.walk.is_none() {
            it.marks.push_back((now_ms + (after / MARKS).max(1), it.top));
            self.list_due(at);
        }
    }

    /// The archive is told of all cursors of a channel again: it may have lost some.
    fn unwritten_of(&mut self, channel: &str) {
        let Some(at) = self.channel(channel) else { return };
        let mut next = self.channels[at as usize].cursors.first();
        while let Some(at) = next {
            self.unwritten(at);
            next = Some(self.cursors[at as usize].links[super::IN_CHANNEL].next()).filter(|next| *next != super::NONE);
        }
    }
}

/// Where a cursor of an archive stands in a stream that is now at `top`, and whether something behind it may be
/// missing.
fn placed(cursor: &ArchivedCursor, top: Option<&Position>, torn: Option<&Epoch>) -> (u64, EpochMark, bool) {
    let is_torn = cursor.torn || torn.is_some();
    match top {
        _ if cursor.epoch.as_str().is_empty() => (0, EpochMark::NONE, is_torn),
        // Nobody published.
        None if cursor.offset == 0 => (0, EpochMark::NONE, is_torn),
        Some(top) if top.epoch == cursor.epoch || torn == Some(&cursor.epoch) => {
            (cursor.offset.min(top.offset), top.epoch.mark(), is_torn)
        }
        _ => (cursor.offset, cursor.epoch.mark(), is_torn),
    }
}
