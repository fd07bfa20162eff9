//! F3 · A channel's stream: the latest publications, where it stands, and what was missed since.
//!
//! Owns offsets, the epoch and the kept publications, each as its Protobuf bytes: a publication that waits to be asked
//! for costs its size and a few words. Knows nothing of subscribers or of clocks.

use super::kept::UsePlace;
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
/// What a publication grows by when it gets its offset, and the first one the epoch, at most.
pub const PLACE_BYTES: usize = 24;

#[derive(Debug)]
pub struct Stream {
    epoch: Epoch,
    /// Offset of the latest publication, kept or not.
    top: u64,
    /// The latest publications; the last one has offset `top`.
    entries: VecDeque<Box<[u8]>>,
    /// What the entries count for.
    bytes: usize,
    /// When the entries, and then the stream, are forgotten.
    entries_until: u64,
    pub until: u64,
    version: u64,
    version_epoch: CompactString,
    /// Subscribers that take deltas.
    pub deltas: u32,
    /// An archive knows it.
    pub is_archived: bool,
    /// The list of deadlines has this stream, at this time.
    pub listed: Option<u64>,
    /// Where it stands in the order of use.
    pub place: Option<UsePlace>,
    pub used_ms: u64,
    /// Tells it from every other of this owner's.
    pub id: u64,
    /// Bytes that the owner counts for it.
    pub counted: usize,
    name_len: usize,
}

impl Stream {
    pub fn new(epoch: Epoch, id: u64, name_len: usize) -> Stream {
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
            is_archived: false,
            listed: None,
            place: None,
            used_ms: 0,
            id,
            counted: 0,
            name_len,
        }
    }

    pub fn position(&self) -> Position {
        Position { offset: self.top, epoch: self.epoch.clone() }
    }

    /// Bytes it counts for.
    pub fn bytes_kept(&self) -> usize {
        STREAM_BYTES + self.name_len + self.version_epoch.len() + self.bytes
    }

    /// Bytes that a stream of the channel called `name` counts for, while nothing is in it.
    pub fn new_cost(name: &str) -> usize {
        STREAM_BYTES + name.len()
    }

    /// Bytes that a publication counts for.
    pub fn cost(publication: &Publication) -> usize {
        publication.encoded_len() + ENTRY_BYTES
    }

    /// Bytes that adding `publication` makes, less those of what goes for it.
    pub fn growth(&self, keep: Keep, publication: &Publication) -> usize {
        let going = (self.entries.len() + 1).saturating_sub((keep.size as usize).max(1));
        let freed: usize = self.entries.iter().take(going).map(|entry| entry.len() + ENTRY_BYTES).sum();
        (Stream::cost(publication) + PLACE_BYTES).saturating_sub(freed)
    }

    /// It never had a publication.
    pub fn is_empty(&self) -> bool {
        self.top == 0
    }

    pub fn has_publications(&self) -> bool {
        !self.entries.is_empty()
    }

    /// It is in use: it will not be forgotten before its meta TTL from now.
    pub fn touch(&mut self, now_ms: u64, keep: Keep) {
        self.used_ms = now_ms;
        self.until = self.until.max(now_ms.saturating_add(keep.meta_ttl_ms.max(keep.ttl_ms)));
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

    /// Is this version not above the latest one of its epoch?
    pub fn is_stale(&self, version: u64, epoch: &CompactString) -> bool {
        version > 0 && version <= self.version && (epoch.is_empty() || *epoch == self.version_epoch)
    }

    /// This version, if it is one, is the latest from now on.
    pub fn set_version(&mut self, version: u64, epoch: &CompactString) {
        if version > 0 {
            (self.version, self.version_epoch) = (version, epoch.clone());
        }
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

    /// Stands elsewhere from now on, with these as its latest publications.
    pub fn restore(&mut self, now_ms: u64, keep: Keep, position: Position, latest: &[Publication]) {
        self.clear();
        (self.epoch, self.top) = (position.epoch, position.offset);
        // Only those that end at the top without a gap can be kept.
        let mut next = self.top;
        for publication in latest.iter().rev().take(keep.size as usize) {
            if publication.offset != next {
                break;
            }
            next -= 1;
            let entry = publication.encode_to_vec().into_boxed_slice();
            self.bytes += entry.len() + ENTRY_BYTES;
            self.entries.push_front(entry);
        }
        self.entries_until = now_ms.saturating_add(keep.ttl_ms);
        self.touch(now_ms, keep);
    }

    /// Forgets the publications beyond `offset`.
    pub fn roll_back(&mut self, offset: u64) {
        while self.top > offset {
            self.top -= 1;
            let latest = self.entries.pop_back();
            self.bytes -= latest.map_or(0, |latest| latest.len() + ENTRY_BYTES);
        }
    }

    /// The latest publication, if it is still kept.
    pub fn latest(&self) -> Option<Publication> {
        self.entries.back().and_then(|entry| Publication::decode(&entry[..]).ok())
    }

    /// Offset of the oldest one kept; `top + 1` if there is none.
    pub fn first(&self) -> u64 {
        self.top + 1 - self.entries.len() as u64
    }

    /// Those with offsets from `from` on, at most `limit`.
    pub fn read(&self, from: u64, limit: usize) -> impl Iterator<Item = Publication> {
        let skip = from.saturating_sub(self.first()).min(self.entries.len() as u64) as usize;
        self.entries.range(skip..).take(limit).filter_map(|entry| Publication::decode(&entry[..]).ok())
    }

    /// What a client missed since it was here.
    pub fn recover(&self, ask: &Recover) -> Recovery {
        if ask.cache {
            let known = ask.offset == self.top && self.epoch == *ask.epoch;
            let latest = self.latest();
            let recovered = latest.is_some();
            let publications = latest.filter(|_| !known).into_iter().collect();
            return Recovery { recovered, publications, ..Recovery::default() };
        }
        let same_life = ask.epoch.is_empty() || self.epoch == *ask.epoch;
        let missed = self.top.checked_sub(ask.offset);
        let Some(missed) = missed.filter(|&missed| same_life && missed <= ask.most) else {
            return Recovery::default();
        };
        if missed > self.entries.len() as u64 {
            return Recovery::default();
        }
        let publications = self.read(ask.offset + 1, ask.limit).collect();
        Recovery { recovered: true, publications, more: missed > ask.limit as u64, from: None }
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
        // As Centrifugo has it: from the one before `since`, if that was ever there.
        let before = match since {
            Some(since) if since > self.top.saturating_add(1) => return Ok(Vec::new()),
            Some(since) => since,
            None => u64::MAX,
        };
        let older = before.saturating_sub(self.first()).min(self.entries.len() as u64) as usize;
        let newest_first = self.entries.range(..older).rev().take(query.limit);
        Ok(newest_first.filter_map(|entry| Publication::decode(&entry[..]).ok()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Keep = Keep { size: 3, ttl_ms: 100, meta_ttl_ms: 1000 };

    /// One with `count` publications, of which the latest `KEEP.size` are kept.
    fn stream(count: usize) -> Stream {
        let mut stream = Stream::new(Epoch::from("eeeeeeee"), 1, 0);
        for number in 1..=count {
            add(&mut stream, 0, &number.to_string());
        }
        stream
    }

    fn add(stream: &mut Stream, now_ms: u64, data: &str) -> Publication {
        let mut publication = Publication { data: data.to_owned().into(), ..Publication::default() };
        stream.add(now_ms, KEEP, &mut publication);
        publication
    }

    fn ask(offset: u64, epoch: &str, limit: usize, cache: bool) -> Recover {
        Recover { offset, epoch: epoch.into(), limit, most: limit as u64, cache }
    }

    fn offsets(publications: &[Publication]) -> Vec<u64> {
        publications.iter().map(|publication| publication.offset).collect()
    }

    /// Each case: publications made, offset and epoch asked from, limit; the offsets that come back if it is recovered.
    type Case = (usize, u64, &'static str, usize, Option<&'static [u64]>);

    #[test]
    fn who_missed_no_more_than_is_kept_is_recovered() {
        let same = "eeeeeeee";
        let table: &[Case] = &[
            (0, 0, "", 300, Some(&[])),
            (0, 0, same, 300, Some(&[])),
            (0, 0, "other", 300, None),
            (0, 1, "", 300, None),
            (2, 0, "", 300, Some(&[1, 2])),
            (2, 2, same, 300, Some(&[])),
            (5, 2, same, 300, Some(&[3, 4, 5])),
            (5, 2, "", 300, Some(&[3, 4, 5])),
            (5, 1, same, 300, None),
            (5, 4, same, 300, Some(&[5])),
            (5, 4, "other", 300, None),
            (5, 5, "other", 300, None),
            (5, 6, same, 300, None),
            (5, u64::MAX, same, 300, None),
            (5, 2, same, 2, None),
            (5, 3, same, 2, Some(&[4, 5])),
            (5, 5, same, 0, Some(&[])),
        ];
        for (made, offset, epoch, limit, expected) in table {
            let found = stream(*made).recover(&ask(*offset, epoch, *limit, false));
            let got = found.recovered.then(|| offsets(&found.publications));
            assert_eq!(got.as_deref(), *expected, "{made} made, from {offset} of {epoch:?}");
            assert!(found.recovered || found.publications.is_empty());
        }
        let mut forgotten = stream(5);
        forgotten.clear();
        let from = |offset| forgotten.recover(&ask(offset, same, 300, false));
        assert!(from(5).recovered && !from(4).recovered, "nothing is kept: only who missed nothing");
    }

    #[test]
    fn a_cache_gives_its_latest_unless_it_is_known() {
        let same = "eeeeeeee";
        let table: &[Case] = &[
            (0, 0, "", 300, None),
            (5, 0, "", 300, Some(&[5])),
            (5, 1, "other", 300, Some(&[5])),
            (5, 5, same, 300, Some(&[])),
            (5, 5, "other", 300, Some(&[5])),
            (5, 9, same, 300, Some(&[5])),
        ];
        for (made, offset, epoch, limit, expected) in table {
            let found = stream(*made).recover(&ask(*offset, epoch, *limit, true));
            let got = found.recovered.then(|| offsets(&found.publications));
            assert_eq!(got.as_deref(), *expected, "{made} made, from {offset} of {epoch:?}");
        }
        let mut forgotten = stream(5);
        forgotten.clear();
        assert!(!forgotten.recover(&ask(5, same, 300, true)).recovered);
    }

    #[test]
    fn histories_are_read_either_way() {
        let stream = stream(5);
        let table: &[(Option<u64>, usize, bool, &[u64])] = &[
            (None, 0, false, &[]),
            (None, 300, false, &[3, 4, 5]),
            (None, 2, false, &[3, 4]),
            (None, 2, true, &[5, 4]),
            (None, 300, true, &[5, 4, 3]),
            (Some(3), 300, false, &[4, 5]),
            (Some(0), 1, false, &[3]),
            (Some(5), 300, false, &[]),
            (Some(u64::MAX), 300, false, &[]),
            (Some(5), 300, true, &[4, 3]),
            (Some(3), 300, true, &[]),
            (Some(1), 300, true, &[]),
            (Some(6), 1, true, &[5]),
            (Some(7), 300, true, &[]),
            (Some(u64::MAX), 1, true, &[]),
        ];
        for (since, limit, reverse, expected) in table {
            let since = since.map(|offset| (offset, CompactString::default()));
            let query = Query { keep: KEEP, since, limit: *limit, reverse: *reverse };
            assert_eq!(offsets(&stream.query(&query).expect("a history")), *expected, "{query:?}");
        }
        let since = Some((3, "other".into()));
        let query = Query { keep: KEEP, since, limit: 0, reverse: false };
        assert_eq!(stream.query(&query), Err(ClientError::UnrecoverablePosition));
    }

    #[test]
    fn publications_and_then_the_stream_are_forgotten_in_time() {
        let mut stream = Stream::new(Epoch::from("eeeeeeee"), 1, 0);
        stream.touch(0, KEEP);
        assert_eq!((stream.due(), stream.bytes_kept()), (1000, STREAM_BYTES));
        let first = add(&mut stream, 0, "1");
        assert_eq!((first.offset, &*first.epoch), (1, "eeeeeeee"), "the first one tells the epoch");
        let second = add(&mut stream, 50, "22");
        assert_eq!((second.offset, &*second.epoch), (2, ""));
        assert_eq!(stream.due(), 150, "the latest keeps them all");
        assert!(stream.expire(149) && stream.latest().is_some_and(|latest| latest.data == "22"));
        assert!(stream.expire(150) && stream.latest().is_none());
        assert_eq!((stream.position().offset, stream.bytes_kept(), stream.due()), (2, STREAM_BYTES, 1050));
        assert!(stream.expire(1049) && !stream.expire(1050));
        stream.touch(1049, KEEP);
        assert!(stream.expire(1050), "it was used");
    }

    #[test]
    fn bytes_are_those_of_what_is_kept() {
        let mut stream = stream(0);
        for number in 0..500_usize {
            let before = stream.bytes_kept();
            let next = Publication {
                data: "x".repeat(number % 70).into(),
                offset: number as u64 + 1,
                ..Publication::default()
            };
            let growth = stream.growth(KEEP, &next);
            let publication = add(&mut stream, 0, &"x".repeat(number % 70));
            let cost = Stream::cost(&publication);
            assert!(stream.bytes_kept() <= before + growth);
            let reserved_in_vain = (before + growth).saturating_sub(stream.bytes_kept());
            assert!(growth == 0 || reserved_in_vain <= PLACE_BYTES, "what goes for it is taken into account");
            assert!(stream.bytes_kept() >= STREAM_BYTES + cost);
            let kept: usize = stream.entries.iter().map(|entry| entry.len() + ENTRY_BYTES).sum();
            assert_eq!(stream.bytes_kept(), STREAM_BYTES + kept);
            assert!(stream.entries.len() <= 3);
        }
    }

    #[test]
    fn versions_rise_or_are_stale() {
        let mut stream = stream(0);
        let table = [
            (0, "", false),
            (5, "", false),
            (5, "", true),
            (4, "", true),
            (0, "", false),
            (6, "a", false),
            (6, "a", true),
            (1, "b", false),
            (2, "", false),
            (2, "b", false),
        ];
        for (version, epoch, stale) in table {
            assert_eq!(stream.is_stale(version, &epoch.into()), stale, "{version} of {epoch:?}");
            if !stale {
                stream.set_version(version, &epoch.into());
            }
        }
    }
}
