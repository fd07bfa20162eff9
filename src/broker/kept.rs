//! F3 · Which streams are kept: their epochs, for how long, in how many bytes, and which of them go first.
//!
//! Owns the epochs of channels without a stream, the list of when streams are next looked at, the order of their last
//! use, and the bytes that they count for. Knows nothing of requests or subscribers.

use super::Epoch;
use super::stream::Stream;
use foldhash::quality::FixedState;
use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::sync::Arc;

/// Counts of streams that ended. A name has one by its hash: so a channel without a stream has an epoch, and nothing
/// is kept for it.
const ERAS: usize = 1 << 16;
/// Uses within so many milliseconds are one, so that a busy stream is not moved at each publication.
const USE_MS: u64 = 1000;

/// What is lost with a stream: the least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rank {
    /// It has subscribers and never had a publication: nothing, as long as no stream that shares its count ends.
    Empty,
    /// Nobody subscribes: clients that are away cannot recover.
    Idle,
    /// Its subscribers have its position. Its publications may go: clients that are away cannot recover.
    Heard,
}

/// Where a stream stands in the order of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsePlace {
    rank: Rank,
    used: u64,
}

type Line = BTreeMap<(u64, u64), Arc<str>>;

#[derive(Debug)]
pub struct Kept {
    hasher: FixedState,
    /// Streams with publications that ended, by the hashes of their names.
    ended: Box<[u32]>,
    /// Streams by their last use.
    lines: [Line; 3],
    /// When streams are next to be looked at, each once: its true deadline may be later.
    deadlines: Line,
    bytes: usize,
    begun: u64,
}

impl Kept {
    /// `seed`: of this shard, for epochs that no other life of a stream has.
    pub fn new(seed: u64) -> Kept {
        Kept {
            hasher: FixedState::with_seed(seed),
            ended: vec![0; ERAS].into_boxed_slice(),
            lines: Default::default(),
            deadlines: Line::new(),
            bytes: 0,
            begun: 0,
        }
    }

    /// Bytes that streams count for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The epoch of a channel that has no stream, which its stream will have if it begins now. It changes when a
    /// stream of the channel ends that had publications: no position is ever taken for one in another life.
    pub fn epoch(&self, name: &str) -> Epoch {
        let hash = self.hasher.hash_one(name);
        Epoch::random(self.hasher.hash_one((hash, self.ended[era(hash)])))
    }

    /// A life is over: nobody has had the epoch that comes next.
    pub fn end_life(&mut self, name: &str) {
        let ended = &mut self.ended[era(self.hasher.hash_one(name))];
        *ended = ended.wrapping_add(1);
    }

    /// A stream that begins.
    pub fn begin(&mut self, name: &str) -> Box<Stream> {
        self.begun += 1;
        Box::new(Stream::new(self.epoch(name), self.begun, name.len()))
    }

    /// Counts what `stream` takes by now, and puts it where it belongs. `occupied`: the channel has subscribers.
    pub fn settle(&mut self, name: &Arc<str>, stream: &mut Stream, occupied: bool) {
        let cost = stream.bytes_kept();
        self.bytes = self.bytes + cost - std::mem::replace(&mut stream.counted, cost);
        let rank = match (stream.is_empty(), occupied) {
            (true, _) => Some(Rank::Empty),
            (false, false) => Some(Rank::Idle),
            (false, true) => stream.has_publications().then_some(Rank::Heard),
        };
        let place = rank.map(|rank| UsePlace { rank, used: stream.used_ms / USE_MS });
        if stream.place == place {
            return;
        }
        self.take_out(stream);
        stream.place = place;
        if let Some(UsePlace { rank, used }) = place {
            self.lines[rank as usize].insert((used, stream.id), name.clone());
        }
    }

    fn take_out(&mut self, stream: &mut Stream) {
        if let Some(UsePlace { rank, used }) = stream.place.take() {
            self.lines[rank as usize].remove(&(used, stream.id));
        }
    }

    /// The stream is looked at at `due`, unless that is sooner anyway.
    pub fn list(&mut self, name: &Arc<str>, stream: &mut Stream, due: u64) {
        if stream.listed.is_none() {
            stream.listed = Some(due);
            self.deadlines.insert((due, stream.id), name.clone());
        }
    }

    /// The next channel whose stream is to be looked at by `now_ms`, or when there is one.
    pub fn due(&mut self, now_ms: u64) -> Result<Arc<str>, Option<u64>> {
        match self.deadlines.first_key_value() {
            Some(((due, _), _)) if *due > now_ms => Err(Some(*due)),
            None => Err(None),
            Some(_) => self.deadlines.pop_first().map(|(_, name)| name).ok_or(None),
        }
    }

    /// The stream is gone.
    pub fn forget(&mut self, name: &str, mut stream: Box<Stream>) {
        self.take_out(&mut stream);
        if let Some(due) = stream.listed {
            self.deadlines.remove(&(due, stream.id));
        }
        self.bytes -= stream.counted;
        if !stream.is_empty() {
            self.end_life(name);
        }
    }

    /// The stream of that rank whose last use is the longest ago, but not that of `spared`.
    pub fn oldest(&self, rank: Rank, spared: &str) -> Option<Arc<str>> {
        self.lines[rank as usize].values().find(|name| ***name != *spared).cloned()
    }
}

fn era(hash: u64) -> usize {
    hash as usize % ERAS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_the_channels_until_a_stream_of_it_ends() {
        let mut kept = Kept::new(1);
        let (name, other): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let first = kept.epoch(&name);
        assert_eq!(first, kept.epoch(&name));
        assert!(first != kept.epoch(&other) && first != Kept::new(2).epoch(&name));
        let empty = kept.begin(&name);
        assert_eq!(empty.position().epoch, first);
        kept.forget(&name, empty);
        assert_eq!(kept.epoch(&name), first, "nothing was in it");
        let mut seen = vec![first.clone()];
        for _ in 0..100 {
            let mut stream = kept.begin(&name);
            let keep = super::super::Keep { size: 1, ttl_ms: 1, meta_ttl_ms: 1 };
            stream.add(0, keep, &mut Default::default());
            kept.settle(&name, &mut stream, false);
            kept.forget(&name, stream);
            assert!(!seen.contains(&kept.epoch(&name)), "no life has the epoch of another");
            seen.push(kept.epoch(&name));
        }
        assert_eq!((kept.bytes(), kept.lines.iter().all(Line::is_empty)), (0, true));
    }
}
