//! F3 · What has arrived at whom: a cursor for each user, or device, and channel.
//!
//! Owns the cursors of this reactor's share of the channels, for how long and in how many bytes they are kept, and what
//! the backend is to be told of that has not arrived. Pure. A cursor stands at the last publication that was proven to
//! have arrived, and only moves on in one life of a stream. Knows nothing of how arrival is proven.

mod archived;
mod lists;
#[cfg(test)]
mod tests;

pub use archived::{CursorNews, CursorsFound, GoneCursor};

use super::{Epoch, EpochMark, Position, Recovery};
use crate::protocol::Publication;
use crate::protocol::code::ClientError;
use compact_str::CompactString;
use foldhash::quality::FixedState;
use hashbrown::HashTable;
use lists::{CursorLink, IN_CHANNEL, IN_USE, IN_USER, List, NONE, UNWRITTEN};
use slab::Slab;
use std::collections::{BTreeSet, VecDeque};
use std::hash::BuildHasher;
use std::sync::Arc;

/// What a channel's inbox keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InboxKeep {
    /// Milliseconds that a cursor outlives its last use.
    pub ttl_ms: u64,
    /// Publications that who comes without a position may have missed.
    pub size: u64,
    /// Publications that are sent at once.
    pub page: usize,
    /// Cursors of one channel.
    pub cursors: u32,
    /// Milliseconds after which the backend is told of what has not arrived; 0 = it is not told.
    pub undelivered_ms: u64,
    /// The publications go with that.
    pub with_data: bool,
    pub archive: CursorArchive,
}

/// Whether an archive has the cursors too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CursorArchive {
    #[default]
    None,
    /// Publications are sent before they are there.
    Batched,
    Sync,
}

/// Whose subscription it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Follow {
    pub user: CompactString,
    /// "" = any of the user's.
    pub device: CompactString,
    pub keep: InboxKeep,
}

/// All publications of a channel up to this one are proven to have arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrived {
    pub channel: Arc<str>,
    pub user: CompactString,
    pub device: CompactString,
    pub offset: u64,
    pub epoch: EpochMark,
}

/// What has not arrived in time.
#[derive(Debug, Clone, PartialEq)]
pub struct Undelivered {
    pub channel: Arc<str>,
    pub user: CompactString,
    pub device: CompactString,
    /// Offsets, both included.
    pub from: u64,
    pub to: u64,
    pub epoch: Epoch,
    /// The first of them, if that is wanted.
    pub publications: Vec<Publication>,
    pub with_data: bool,
}

/// A cursor as the backend sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CursorFacts {
    pub channel: Arc<str>,
    pub device: CompactString,
    pub offset: u64,
    pub epoch: Epoch,
    /// Publications that have not arrived, as far as this node knows.
    pub waiting: u64,
}

/// What one share of the inboxes may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InboxLimits {
    /// 0 = no limit.
    pub bytes: usize,
    /// Cursors of one user.
    pub of_user: u32,
}

/// What became of inboxes, since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InboxTally {
    /// Proofs that moved a cursor.
    pub moved: u64,
    /// Clients without a position that were sent what they missed, and how many publications that was.
    pub caught_up: u64,
    pub sent: u64,
    /// The same that had missed more than there is.
    pub lost: u64,
    /// Cursors past their time.
    pub expired: u64,
    /// Publications that the backend was told of.
    pub undelivered: u64,
    /// New cursors refused, by which limit: of a channel, of a user, of bytes.
    pub refused: [u64; 3],
}

impl InboxTally {
    /// Those of channels that live elsewhere too.
    pub fn add(&mut self, other: &InboxTally) {
        self.moved += other.moved;
        self.caught_up += other.caught_up;
        self.sent += other.sent;
        self.lost += other.lost;
    }

    /// Counts what a client without a position is sent.
    pub fn count(&mut self, recovery: &Recovery) {
        match recovery.recovered {
            true if recovery.publications.is_empty() => {}
            true => {
                self.caught_up += 1;
                self.sent += recovery.publications.len() as u64;
            }
            false => {
                self.lost += 1;
                self.sent += recovery.publications.len() as u64;
            }
        }
    }
}

/// Looked at in one call, so that nothing takes a turn for itself.
const AT_ONCE: usize = 256;
/// Marks of when publications came, for each channel: what is undelivered is told late by one of so many parts at most.
const MARKS: u64 = 16;
/// What a cursor, a channel and a user cost beside their names, for the limit.
const CURSOR_BYTES: usize = size_of::<Cursor>() + 16;
const CHANNEL_BYTES: usize = size_of::<InboxChannel>() + 16;
const USER_BYTES: usize = size_of::<Owned>() + 16;

#[derive(Debug)]
struct Cursor {
    channel: u32,
    user: u32,
    device: CompactString,
    offset: u64,
    /// The backend was told of all up to this one, in that life.
    told: u64,
    told_epoch: EpochMark,
    epoch: EpochMark,
    used_ms: u64,
    /// Its last use that the archive was told of.
    written_ms: u64,
    /// By its place in each list.
    links: [CursorLink; 4],
    /// Which of the lines of use it stands in.
    line: u32,
    /// The archive is to be told of it: it stands in that list.
    unwritten: bool,
    /// Behind it something may be missing, of which nobody knows.
    torn: bool,
}

#[derive(Debug)]
struct Owned {
    name: CompactString,
    cursors: List,
}

#[derive(Debug)]
struct InboxChannel {
    name: Arc<str>,
    cursors: List,
    /// Where the stream stands.
    top: u64,
    epoch: Epoch,
    /// The latest life that ended before anything was published.
    empty: EpochMark,
    /// When the stream came where: the end of a span of time, and the offset then.
    marks: VecDeque<(u64, u64)>,
    /// When the oldest of them is due, if it is listed.
    due: Option<u64>,
    /// Those that are told of what is due: up to where, and which cursor is next.
    walk: Option<(u64, u32)>,
    keep: InboxKeep,
}

impl InboxChannel {
    /// Does the cursor stand before all that was ever published?
    fn is_first(&self, cursor: &Cursor) -> bool {
        let of_life = cursor.epoch == self.epoch.mark() && self.top == 0;
        cursor.offset == 0 && (of_life || [EpochMark::NONE, self.empty].contains(&cursor.epoch))
    }
}

/// Cursors with one TTL, by their last use.
#[derive(Debug)]
struct Line {
    ttl_ms: u64,
    cursors: List,
}

#[derive(Debug)]
pub struct Inboxes {
    cursors: Slab<Cursor>,
    index: HashTable<u32>,
    users: Slab<Owned>,
    user_index: HashTable<u32>,
    channels: Slab<InboxChannel>,
    channel_index: HashTable<u32>,
    hasher: FixedState,
    lines: Vec<Line>,
    /// When which channel has something undelivered, each once.
    due: BTreeSet<(u64, u32)>,
    unwritten: List,
    gone: Vec<GoneCursor>,
    bytes: usize,
    limits: InboxLimits,
    pub tally: InboxTally,
}

impl Inboxes {
    pub fn new(seed: u64, limits: InboxLimits) -> Inboxes {
        Inboxes {
            cursors: Slab::new(),
            index: HashTable::new(),
            users: Slab::new(),
            user_index: HashTable::new(),
            channels: Slab::new(),
            channel_index: HashTable::new(),
            hasher: FixedState::with_seed(seed),
            lines: Vec::new(),
            due: BTreeSet::new(),
            unwritten: List::default(),
            gone: Vec::new(),
            bytes: 0,
            limits,
            tally: InboxTally::default(),
        }
    }

    pub fn set_limits(&mut self, limits: InboxLimits) {
        self.limits = limits;
    }

    /// Cursors.
    pub fn len(&self) -> usize {
        self.cursors.len()
    }

    pub fn is_empty(&self) -> bool {
        self.cursors.is_empty()
    }

    /// Bytes that they count for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where the cursor of `follow` stands, and whether something behind it may be missing; `None` if there is none,
    /// and room for one.
    ///
    /// # Errors
    /// There is none, and no room: error 106 or 111.
    pub fn begin(
        &mut self,
        now_ms: u64,
        channel: &Arc<str>,
        follow: &Follow,
    ) -> Result<Option<(Position, bool)>, ClientError> {
        let Some(at) = self.find(channel, &follow.user, &follow.device) else {
            return self.check_room(channel, follow).map(|()| None);
        };
        let cursor = &self.cursors[at as usize];
        if now_ms >= cursor.used_ms.saturating_add(self.lines[cursor.line as usize].ttl_ms) {
            self.tally.expired += 1;
            self.remove(at);
            return self.check_room(channel, follow).map(|()| None);
        }
        self.touch(now_ms, at, follow.keep.ttl_ms);
        let cursor = &self.cursors[at as usize];
        let channel = &self.channels[cursor.channel as usize];
        let known = &channel.epoch;
        let epoch = match cursor.epoch {
            // From before anything was published, in whichever life that was.
            _ if channel.is_first(cursor) => Epoch::NONE,
            mark if mark == known.mark() => known.clone(),
            // Of a life that is over nobody need know which one it was.
            _ => Epoch::from("_"),
        };
        Ok(Some((Position { offset: cursor.offset, epoch }, cursor.torn)))
    }

    fn check_room(&mut self, channel: &str, follow: &Follow) -> Result<(), ClientError> {
        let in_channel = self.channel(channel).map_or(0, |at| self.channels[at as usize].cursors.len());
        let of_user = self.user(&follow.user).map_or(0, |at| self.users[at as usize].cursors.len());
        let refusal = if in_channel >= follow.keep.cursors {
            (0, ClientError::LimitExceeded)
        } else if of_user >= self.limits.of_user {
            (1, ClientError::LimitExceeded)
        } else if self.limits.bytes > 0 && self.bytes >= self.limits.bytes {
            (2, ClientError::TooManyRequests)
        } else {
            return Ok(());
        };
        self.tally.refused[refusal.0] += 1;
        Err(refusal.1)
    }

    /// The subscription of `follow` begins, and the stream stands at `top`. Who has no cursor gets one: `from`, or
    /// there. With `proven` the client showed that it came as far as `from`.
    pub fn stand(
        &mut self,
        now_ms: u64,
        channel: &Arc<str>,
        follow: &Follow,
        top: &Position,
        from: Option<u64>,
        proven: bool,
    ) {
        let offset = from.map_or(top.offset, |from| from.min(top.offset));
        match self.find(channel, &follow.user, &follow.device) {
            Some(at) if proven => {
                self.raise(now_ms, at, offset, top.epoch.mark(), follow.keep.ttl_ms);
            }
            Some(_) => {}
            None => {
                self.insert(now_ms, channel, follow, offset, top.epoch.mark());
            }
        }
        self.stands(channel, top);
    }

    fn stands(&mut self, channel: &str, top: &Position) -> Option<u32> {
        let at = self.channel(channel)?;
        let known = &mut self.channels[at as usize];
        let same_life = known.epoch == top.epoch;
        if !same_life {
            if known.top == 0 {
                known.empty = known.epoch.mark();
            }
            known.epoch = top.epoch.clone();
            known.marks.clear();
        }
        known.top = if same_life { known.top.max(top.offset) } else { top.offset };
        Some(at)
    }

    /// It is proven. Who has no cursor gets one, if there is room.
    pub fn arrived(&mut self, now_ms: u64, arrived: &Arrived, keep: InboxKeep) {
        let Arrived { channel, user, device, offset, epoch } = arrived;
        match self.find(channel, user, device) {
            Some(at) => self.raise(now_ms, at, *offset, *epoch, keep.ttl_ms),
            None => {
                let follow = Follow { user: user.clone(), device: device.clone(), keep };
                if self.check_room(channel, &follow).is_ok() {
                    self.insert(now_ms, channel, &follow, *offset, *epoch);
                }
            }
        }
    }

    /// The same, but who has no cursor gets none.
    pub fn moved(&mut self, now_ms: u64, arrived: &Arrived, keep: InboxKeep) {
        let Arrived { channel, user, device, offset, epoch } = arrived;
        if let Some(at) = self.find(channel, user, device) {
            self.raise(now_ms, at, *offset, *epoch, keep.ttl_ms);
        }
    }

    fn raise(&mut self, now_ms: u64, at: u32, offset: u64, epoch: EpochMark, ttl_ms: u64) {
        let cursor = &mut self.cursors[at as usize];
        let moves = cursor.epoch != epoch || cursor.offset < offset;
        if moves {
            (cursor.offset, cursor.epoch, cursor.torn) = (offset, epoch, false);
            self.tally.moved += 1;
        }
        self.touch(now_ms, at, ttl_ms);
        if moves {
            self.unwritten(at);
        }
    }

    /// A publication of `channel` got its place.
    pub fn published(&mut self, now_ms: u64, channel: &str, top: &Position) {
        if self.channels.is_empty() {
            return;
        }
        let Some(at) = self.stands(channel, top) else { return };
        let it = &mut self.channels[at as usize];
        let after = it.keep.undelivered_ms;
        if after == 0 || it.marks.back().is_some_and(|(_, offset)| *offset >= top.offset) {
            return;
        }
        let span = (after / MARKS).max(1);
        match it.marks.back_mut().filter(|(until, _)| now_ms < *until) {
            Some((_, offset)) => *offset = top.offset,
            None => it.marks.push_back((now_ms + span, top.offset)),
        }
        self.list_due(at);
    }

    fn list_due(&mut self, at: u32) {
        let it = &mut self.channels[at as usize];
        let due = it.marks.front().map(|(until, _)| until.saturating_add(it.keep.undelivered_ms));
        // While some are told, the channel stays where it is.
        if it.due == due || it.walk.is_some() {
            return;
        }
        if let Some(before) = std::mem::replace(&mut it.due, due) {
            self.due.remove(&(before, at));
        }
        if let Some(due) = due {
            self.due.insert((due, at));
        }
    }

    /// What comes with time: cursors end, and `out` gets what has not arrived. When the next call is wanted.
    pub fn expire(&mut self, now_ms: u64, out: &mut Vec<Undelivered>) -> Option<u64> {
        let mut left = AT_ONCE;
        while let Some(at) = self.overdue(now_ms).filter(|_| left > 0) {
            left -= 1;
            self.tally.expired += 1;
            self.remove(at);
        }
        while left > 0
            && let Some(&(due, at)) = self.due.first()
            && due <= now_ms
        {
            left = self.tell_channel(now_ms, at, left, out);
        }
        if left == 0 {
            return Some(now_ms);
        }
        let ends = self.lines.iter().filter_map(|line| {
            let first = line.cursors.first()?;
            Some(self.cursors[first as usize].used_ms.saturating_add(line.ttl_ms))
        });
        ends.chain(self.due.first().map(|(due, _)| *due)).min()
    }

    fn overdue(&self, now_ms: u64) -> Option<u32> {
        let is_over = |at: &u32, ttl_ms| now_ms >= self.cursors[*at as usize].used_ms.saturating_add(ttl_ms);
        self.lines.iter().find_map(|line| line.cursors.first().filter(|at| is_over(at, line.ttl_ms)))
    }

    /// Tells what is due in a channel, of `left` cursors at most; how many of them are left.
    fn tell_channel(&mut self, now_ms: u64, at: u32, mut left: usize, out: &mut Vec<Undelivered>) -> usize {
        let it = &mut self.channels[at as usize];
        let (target, mut next) = it.walk.take().unwrap_or_else(|| {
            let after = it.keep.undelivered_ms;
            let mut target = 0;
            while let Some((_, offset)) = it.marks.front().filter(|(until, _)| until.saturating_add(after) <= now_ms) {
                target = *offset;
                it.marks.pop_front();
            }
            (target, it.cursors.first().unwrap_or(NONE))
        });
        while next != NONE && left > 0 {
            left -= 1;
            let cursor = &mut self.cursors[next as usize];
            let life = it.epoch.mark();
            let of_life = |epoch, offset| if epoch == life { offset } else { 0 };
            let from = of_life(cursor.epoch, cursor.offset).max(of_life(cursor.told_epoch, cursor.told)) + 1;
            if from <= target {
                (cursor.told, cursor.told_epoch) = (target, life);
                if it.keep.archive != CursorArchive::None && !std::mem::replace(&mut cursor.unwritten, true) {
                    self.unwritten.push(&mut self.cursors, UNWRITTEN, next);
                }
                self.tally.undelivered += target + 1 - from;
                out.push(Undelivered {
                    channel: it.name.clone(),
                    user: self.users[self.cursors[next as usize].user as usize].name.clone(),
                    device: self.cursors[next as usize].device.clone(),
                    from,
                    to: target,
                    epoch: it.epoch.clone(),
                    publications: Vec::new(),
                    with_data: it.keep.with_data,
                });
            }
            next = self.cursors[next as usize].links[IN_CHANNEL].next();
        }
        if next != NONE {
            it.walk = Some((target, next));
            return left;
        }
        self.list_due(at);
        left
    }

    /// The cursors of a user.
    pub fn facts(&self, user: &str) -> Vec<CursorFacts> {
        let Some(at) = self.user(user) else { return Vec::new() };
        let mut facts = Vec::new();
        let mut next = self.users[at as usize].cursors.first();
        while let Some(cursor) = next.map(|next| &self.cursors[next as usize]) {
            let channel = &self.channels[cursor.channel as usize];
            let same_life = channel.epoch.mark() == cursor.epoch;
            facts.push(CursorFacts {
                channel: channel.name.clone(),
                device: cursor.device.clone(),
                offset: cursor.offset,
                epoch: if same_life { channel.epoch.clone() } else { Epoch::NONE },
                waiting: channel.top.saturating_sub(if same_life { cursor.offset } else { 0 }),
            });
            next = Some(cursor.links[IN_USER].next()).filter(|next| *next != NONE);
        }
        facts
    }

    /// The backend says that all up to `offset` has arrived (0: all that is there). False if there is no such cursor.
    pub fn acknowledge(&mut self, now_ms: u64, channel: &str, user: &str, device: &str, offset: u64) -> bool {
        let Some(at) = self.find(channel, user, device) else { return false };
        let known = &self.channels[self.cursors[at as usize].channel as usize];
        let offset = if offset == 0 { known.top } else { offset.min(known.top) };
        let (epoch, ttl_ms) = (known.epoch.mark(), known.keep.ttl_ms);
        self.raise(now_ms, at, offset, epoch, ttl_ms);
        true
    }

    /// Forgets the cursors of a user, of one device or one channel if those are named; how many there were.
    pub fn clear(&mut self, user: &str, device: Option<&str>, channel: Option<&str>) -> usize {
        let Some(at) = self.user(user) else { return 0 };
        let mut chosen = Vec::new();
        let mut next = self.users[at as usize].cursors.first();
        while let Some((here, cursor)) = next.map(|next| (next, &self.cursors[next as usize])) {
            let name = &self.channels[cursor.channel as usize].name;
            if channel.is_none_or(|channel| *channel == **name) && device.is_none_or(|device| cursor.device == device) {
                chosen.push(here);
            }
            next = Some(cursor.links[IN_USER].next()).filter(|next| *next != NONE);
        }
        chosen.iter().for_each(|at| self.remove(*at));
        chosen.len()
    }

    fn hash_of(&self, channel: u32, user: u32, device: &str) -> u64 {
        self.hasher.hash_one((channel, user, device))
    }

    fn channel(&self, name: &str) -> Option<u32> {
        let hash = self.hasher.hash_one(name);
        self.channel_index.find(hash, |at| *self.channels[*at as usize].name == *name).copied()
    }

    fn user(&self, name: &str) -> Option<u32> {
        let hash = self.hasher.hash_one(name);
        self.user_index.find(hash, |at| self.users[*at as usize].name == name).copied()
    }

    fn find(&self, channel: &str, user: &str, device: &str) -> Option<u32> {
        if self.cursors.is_empty() {
            return None;
        }
        let (channel, user) = (self.channel(channel)?, self.user(user)?);
        let is_it = |at: &u32| {
            let cursor = &self.cursors[*at as usize];
            cursor.channel == channel && cursor.user == user && cursor.device == device
        };
        self.index.find(self.hash_of(channel, user, device), is_it).copied()
    }

    fn channel_or_insert(&mut self, name: &Arc<str>, keep: InboxKeep) -> u32 {
        if let Some(at) = self.channel(name) {
            self.channels[at as usize].keep = keep;
            return at;
        }
        self.bytes += CHANNEL_BYTES + name.len();
        let at = self.channels.insert(InboxChannel {
            name: name.clone(),
            cursors: List::default(),
            top: 0,
            epoch: Epoch::NONE,
            empty: EpochMark::NONE,
            marks: VecDeque::new(),
            due: None,
            walk: None,
            keep,
        }) as u32;
        let Inboxes { channel_index, channels, hasher, .. } = self;
        let hash = |at: &u32| hasher.hash_one(&*channels[*at as usize].name);
        channel_index.insert_unique(hash(&at), at, hash);
        at
    }

    fn user_or_insert(&mut self, name: &CompactString) -> u32 {
        if let Some(at) = self.user(name) {
            return at;
        }
        self.bytes += USER_BYTES + heap_bytes(name);
        let at = self.users.insert(Owned { name: name.clone(), cursors: List::default() }) as u32;
        let Inboxes { user_index, users, hasher, .. } = self;
        let hash = |at: &u32| hasher.hash_one(users[*at as usize].name.as_str());
        user_index.insert_unique(hash(&at), at, hash);
        at
    }

    fn insert(&mut self, now_ms: u64, channel: &Arc<str>, follow: &Follow, offset: u64, epoch: EpochMark) -> u32 {
        let (channel, user) = (self.channel_or_insert(channel, follow.keep), self.user_or_insert(&follow.user));
        let line = self.line(follow.keep.ttl_ms);
        self.bytes += CURSOR_BYTES + heap_bytes(&follow.device);
        let at = self.cursors.insert(Cursor {
            channel,
            user,
            device: follow.device.clone(),
            offset,
            told: 0,
            told_epoch: EpochMark::NONE,
            epoch,
            used_ms: now_ms,
            written_ms: now_ms,
            links: Default::default(),
            line,
            unwritten: false,
            torn: false,
        }) as u32;
        let Inboxes { cursors, index, users, channels, hasher, lines, .. } = self;
        channels[channel as usize].cursors.push(cursors, IN_CHANNEL, at);
        users[user as usize].cursors.push(cursors, IN_USER, at);
        lines[line as usize].cursors.push(cursors, IN_USE, at);
        let hash = |at: &u32| {
            let Cursor { channel, user, device, .. } = &cursors[*at as usize];
            hasher.hash_one((*channel, *user, device.as_str()))
        };
        index.insert_unique(hash(&at), at, hash);
        self.unwritten(at);
        at
    }

    fn line(&mut self, ttl_ms: u64) -> u32 {
        let at = self.lines.iter().position(|line| line.ttl_ms == ttl_ms).unwrap_or_else(|| {
            self.lines.push(Line { ttl_ms, cursors: List::default() });
            self.lines.len() - 1
        });
        at as u32
    }

    fn touch(&mut self, now_ms: u64, at: u32, ttl_ms: u64) {
        let line = self.line(ttl_ms);
        let Inboxes { cursors, lines, .. } = self;
        let before = std::mem::replace(&mut cursors[at as usize].line, line);
        lines[before as usize].cursors.remove(cursors, IN_USE, at);
        cursors[at as usize].used_ms = now_ms;
        lines[line as usize].cursors.push(cursors, IN_USE, at);
        self.used(now_ms, at, ttl_ms);
    }

    fn remove(&mut self, at: u32) {
        let Cursor { channel, user, line, .. } = self.cursors[at as usize];
        let hash = self.hash_of(channel, user, &self.cursors[at as usize].device);
        if let Ok(entry) = self.index.find_entry(hash, |it| *it == at) {
            entry.remove();
        }
        let Inboxes { cursors, users, channels, lines, unwritten, gone, .. } = self;
        let next = cursors[at as usize].links[IN_CHANNEL].next();
        if let Some((_, walking)) = channels[channel as usize].walk.as_mut().filter(|(_, walking)| *walking == at) {
            *walking = next;
        }
        channels[channel as usize].cursors.remove(cursors, IN_CHANNEL, at);
        users[user as usize].cursors.remove(cursors, IN_USER, at);
        lines[line as usize].cursors.remove(cursors, IN_USE, at);
        if cursors[at as usize].unwritten {
            unwritten.remove(cursors, UNWRITTEN, at);
        }
        let cursor = cursors.remove(at as usize);
        if channels[channel as usize].keep.archive != CursorArchive::None {
            let (channel, user) = (channels[channel as usize].name.clone(), users[user as usize].name.clone());
            gone.push(GoneCursor { channel, user, device: cursor.device.clone() });
        }
        self.bytes -= CURSOR_BYTES + heap_bytes(&cursor.device);
        self.drop_channel(channel);
        self.drop_user(user);
    }

    /// Forgets a channel once nobody has a cursor in it.
    fn drop_channel(&mut self, at: u32) {
        let it = &self.channels[at as usize];
        if it.cursors.len() > 0 {
            return;
        }
        if let Some(due) = it.due {
            self.due.remove(&(due, at));
        }
        let hash = self.hasher.hash_one(&*it.name);
        if let Ok(entry) = self.channel_index.find_entry(hash, |it| *it == at) {
            entry.remove();
        }
        self.bytes -= CHANNEL_BYTES + self.channels.remove(at as usize).name.len();
    }

    fn drop_user(&mut self, at: u32) {
        let it = &self.users[at as usize];
        if it.cursors.len() > 0 {
            return;
        }
        let hash = self.hasher.hash_one(it.name.as_str());
        if let Ok(entry) = self.user_index.find_entry(hash, |it| *it == at) {
            entry.remove();
        }
        self.bytes -= USER_BYTES + heap_bytes(&self.users.remove(at as usize).name);
    }
}

/// Bytes of a text beyond its place.
fn heap_bytes(text: &CompactString) -> usize {
    if text.is_heap_allocated() { text.len() } else { 0 }
}
