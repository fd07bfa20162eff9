//! F3 · A channel's stream: the latest publications, where it stands, and what was missed since.
//!
//! Owns offsets, the epoch and the kept publications, each as its Protobuf bytes: a publication that waits to be asked
//! for costs its size and a few words. Knows nothing of subscribers or of clocks.

use super::{Epoch, Keep, Position, Query, Recover, Recovery};
use crate::protocol::Publication;
use crate::protocol::code::ClientError;
use compact_str::CompactString;
use prost::Message;
use std::collections::VecDeque;

/// What a stream costs beside its publications, for the limit: itself, its name and its place in the tables.
const STREAM_BYTES: usize = 256;
/// The same for a publication: the pointer, and what the allocator adds.
const ENTRY_BYTES: usize = 32;
/// How long a stream that never had a publication is remembered.
const EMPTY_MS: u64 = 10 * 60 * 1000;

#[derive(Debug)]
pub struct Stream {
    epoch: Epoch,
    /// Offset of the latest publication, kept or not.
    top: u64,
    /// The latest publications; the last one has offset `top`.
    entries: VecDeque<Box<[u8]>>,
    /// What the entries count for.
    bytes: usize,
    /// Milliseconds since 1970 at which the entries, and then the stream, are forgotten.
    entries_until: u64,
    pub until: u64,
    version: u64,
    version_epoch: CompactString,
    /// Subscribers that take deltas.
    pub deltas: u32,
    /// The owner's list of deadlines has this stream.
    pub listed: bool,
}

impl Stream {
    pub fn new(epoch: Epoch) -> Stream {
        Stream {
            epoch,
            top: 0,
            entries: VecDeque::new(),
            bytes: 0,
            entries_until: 0,
            until: 0,
            version: 0,
            version_epoch: CompactString::default(),
            deltas: 0,
            listed: false,
        }
    }

    pub fn position(&self) -> Position {
        Position { offset: self.top, epoch: self.epoch }
    }

    /// Bytes it counts for.
    pub fn bytes_kept(&self) -> usize {
        STREAM_BYTES + self.bytes
    }

    /// Bytes that adding `publication` makes, nothing being dropped for it.
    pub fn cost(publication: &Publication) -> usize {
        publication.encoded_len() + ENTRY_BYTES
    }

    /// It is in use: it will not be forgotten before its meta TTL from now. One without publications has less to
    /// remember, and anyone who may ask for a history can begin as many as there are names.
    pub fn touch(&mut self, now_ms: u64, keep: Keep) {
        let life_ms = match self.top {
            0 => keep.meta_ttl_ms.min(EMPTY_MS),
            _ => keep.meta_ttl_ms.max(keep.ttl_ms),
        };
        self.until = self.until.max(now_ms.saturating_add(life_ms));
    }

    /// When something of it is next forgotten.
    pub fn due(&self) -> u64 {
        if self.entries.is_empty() { self.until } else { self.entries_until.min(self.until) }
    }

    /// Forgets what is past its time; false if nothing is left of it.
    pub fn expire(&mut self, now_ms: u64) -> bool {
        if now_ms >= self.entries_until {
            self.clear();
        }
        now_ms < self.until
    }

    /// Is this version not above the latest one of its epoch? Otherwise it is the latest from now on.
    pub fn is_stale(&mut self, version: u64, epoch: &CompactString) -> bool {
        if version == 0 {
            return false;
        }
        if version <= self.version && (epoch.is_empty() || *epoch == self.version_epoch) {
            return true;
        }
        self.version = version;
        self.version_epoch = epoch.clone();
        false
    }

    /// Gives `publication` its offset and keeps it.
    pub fn add(&mut self, now_ms: u64, keep: Keep, publication: &mut Publication) {
        self.top += 1;
        publication.offset = self.top;
        publication.epoch = if self.top == 1 { self.epoch.to_string() } else { String::new() };
        while self.entries.len() >= (keep.size as usize).max(1) {
            let oldest = self.entries.pop_front();
            self.bytes -= oldest.map_or(0, |oldest| oldest.len() + ENTRY_BYTES);
        }
        if self.entries.capacity() > 64 && self.entries.len() < self.entries.capacity() / 4 {
            self.entries.shrink_to(self.entries.len() * 2);
        }
        let entry = publication.encode_to_vec().into_boxed_slice();
        self.bytes += entry.len() + ENTRY_BYTES;
        self.entries.push_back(entry);
        self.entries_until = now_ms.saturating_add(keep.ttl_ms);
        self.touch(now_ms, keep);
    }

    /// Forgets the publications; offset and epoch stay.
    pub fn clear(&mut self) {
        self.entries = VecDeque::new();
        self.bytes = 0;
    }

    /// The latest publication, if it is still kept.
    pub fn latest(&self) -> Option<Publication> {
        self.entries.back().and_then(|entry| Publication::decode(&entry[..]).ok())
    }

    /// Offset of the oldest one kept; `top + 1` if there is none.
    fn first(&self) -> u64 {
        self.top + 1 - self.entries.len() as u64
    }

    /// Those with offsets from `from` on, at most `limit`.
    fn read(&self, from: u64, limit: usize) -> impl Iterator<Item = Publication> {
        let skip = from.saturating_sub(self.first()).min(self.entries.len() as u64) as usize;
        self.entries.range(skip..).take(limit).filter_map(|entry| Publication::decode(&entry[..]).ok())
    }

    /// What a client missed since it was here.
    pub fn recover(&self, ask: &Recover) -> Recovery {
        if ask.cache {
            let known = ask.offset > 0 && ask.offset == self.top && self.epoch == *ask.epoch;
            let latest = self.latest();
            let recovered = latest.is_some();
            return Recovery { recovered, publications: latest.filter(|_| !known).into_iter().collect() };
        }
        let same_life = ask.epoch.is_empty() || self.epoch == *ask.epoch;
        let missed = self.top.checked_sub(ask.offset);
        let Some(missed) = missed.filter(|&missed| same_life && missed <= ask.limit as u64) else {
            return Recovery::default();
        };
        if missed > self.entries.len() as u64 {
            return Recovery::default();
        }
        Recovery { recovered: true, publications: self.read(ask.offset + 1, ask.limit).collect() }
    }

    /// # Errors
    /// [`ClientError::UnrecoverablePosition`] if `since` is of another epoch.
    pub fn query(&self, query: &Query) -> Result<Vec<Publication>, ClientError> {
        if let Some((_, epoch)) = &query.since
            && !epoch.is_empty()
            && self.epoch != **epoch
        {
            return Err(ClientError::UnrecoverablePosition);
        }
        let since = query.since.as_ref().map(|(offset, _)| *offset);
        if !query.reverse {
            return Ok(self.read(since.map_or(0, |at| at.saturating_add(1)), query.limit).collect());
        }
        let before = since.unwrap_or(u64::MAX);
        let older = before.saturating_sub(self.first()).min(self.entries.len() as u64) as usize;
        let newest_first = self.entries.range(..older).rev().take(query.limit);
        Ok(newest_first.filter_map(|entry| Publication::decode(&entry[..]).ok()).collect())
    }
}
