//! F3 · Publications that were made already: a key that comes again is answered as it was the first time.
//!
//! Owns the keys of the last five minutes, each once, at most as many as it is told; beyond, the oldest is forgotten
//! first.

use super::Position;
use compact_str::CompactString;
use foldhash::quality::RandomState;
use hashbrown::HashTable;
use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::sync::Arc;

/// How long a key is remembered, as Centrifugo does.
const REMEMBERED_MS: u64 = 5 * 60 * 1000;
/// What a key counts for beside itself and its channel's name: its entry, its place in the table, and the allocator's.
const KEY_BYTES: usize = 128;
/// Keys forgotten in one call because of their age, so that as many as came at once do not end in one turn.
const FORGOTTEN_MAX: usize = 256;

#[derive(Debug)]
struct Entry {
    until: u64,
    channel: Arc<str>,
    key: CompactString,
    result: Option<Position>,
}

impl Entry {
    fn cost(&self) -> usize {
        KEY_BYTES + self.channel.len() + self.key.len()
    }
}

#[derive(Debug, Default)]
pub struct Recent {
    /// In the order in which they came; the first has the number `first`.
    entries: VecDeque<Entry>,
    first: u64,
    /// Numbers of the entries, by channel and key.
    numbers: HashTable<u64>,
    hasher: RandomState,
    bytes: usize,
    size_max: usize,
    /// Keys forgotten before their time.
    pub evicted: u64,
}

impl Recent {
    pub fn new(size_max: usize) -> Recent {
        Recent { size_max, ..Recent::default() }
    }

    /// Bytes that the keys count for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The result of the first publication with this key, if there was one.
    pub fn find(&self, now_ms: u64, channel: &Arc<str>, key: &CompactString) -> Option<Option<Position>> {
        let hash = self.hasher.hash_one((channel, key));
        let is_it = |number: &u64| {
            let entry = &self.entries[(number - self.first) as usize];
            entry.key == *key && entry.channel == *channel && entry.until > now_ms
        };
        self.numbers.find(hash, is_it).map(|number| self.entries[(number - self.first) as usize].result.clone())
    }

    pub fn insert(&mut self, now_ms: u64, channel: &Arc<str>, key: &CompactString, result: Option<Position>) {
        if self.size_max == 0 {
            return;
        }
        let Recent { entries, first, numbers, hasher, bytes, .. } = self;
        let number = *first + entries.len() as u64;
        let until = now_ms + REMEMBERED_MS;
        let entry = Entry { until, channel: channel.clone(), key: key.clone(), result };
        *bytes += entry.cost();
        entries.push_back(entry);
        let hash_of = |number: &u64| {
            let entry = &entries[(number - *first) as usize];
            hasher.hash_one((&entry.channel, &entry.key))
        };
        numbers.insert_unique(hasher.hash_one((channel, key)), number, hash_of);
        while self.entries.len() > self.size_max && self.evict_oldest() {}
    }

    /// The first publication with this key came to nothing.
    pub fn revoke(&mut self, channel: &Arc<str>, key: &CompactString) {
        let Recent { entries, first, numbers, hasher, .. } = self;
        let is_it = |number: &u64| {
            let entry = &entries[(number - *first) as usize];
            entry.key == *key && entry.channel == *channel && entry.until > 0
        };
        let number = numbers.find(hasher.hash_one((channel, key)), is_it).copied();
        if let Some(entry) = number.and_then(|number| entries.get_mut((number - *first) as usize)) {
            entry.until = 0;
        }
    }

    /// Drops what is past its time, a part in each call; is there more?
    pub fn forget(&mut self, now_ms: u64) -> bool {
        let is_old = |recent: &Recent| recent.entries.front().is_some_and(|entry| entry.until <= now_ms);
        for _ in 0..FORGOTTEN_MAX {
            if !is_old(self) {
                return false;
            }
            self.forget_oldest();
        }
        is_old(self)
    }

    /// Drops the oldest before its time; false if there is none.
    pub fn evict_oldest(&mut self) -> bool {
        let had = self.forget_oldest();
        self.evicted += u64::from(had);
        had
    }

    fn forget_oldest(&mut self) -> bool {
        let Some(entry) = self.entries.pop_front() else { return false };
        let hash = self.hasher.hash_one((&entry.channel, &entry.key));
        if let Ok(number) = self.numbers.find_entry(hash, |number| *number == self.first) {
            number.remove();
        }
        self.first += 1;
        self.bytes -= entry.cost();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::Epoch;
    use super::*;

    #[test]
    fn a_key_is_remembered_for_its_channel_and_its_time() {
        let mut recent = Recent::new(10);
        let (channel, other, key): (Arc<str>, Arc<str>, CompactString) = ("c".into(), "d".into(), "k".into());
        let at = Some(Position { offset: 7, epoch: Epoch::NONE });
        assert_eq!(recent.find(0, &channel, &key), None);
        recent.insert(0, &channel, &key, at.clone());
        recent.insert(0, &other, &key, None);
        assert_eq!(recent.find(REMEMBERED_MS - 1, &channel, &key), Some(at));
        assert_eq!(recent.find(1, &other, &key), Some(None));
        assert_eq!(recent.find(1, &channel, &"other".into()), None);
        assert_eq!(recent.find(REMEMBERED_MS, &channel, &key), None);
        assert!(!recent.forget(REMEMBERED_MS));
        assert!(recent.entries.is_empty() && recent.numbers.is_empty() && recent.bytes == 0);
    }

    #[test]
    fn the_oldest_is_forgotten_when_there_are_too_many() {
        let (mut recent, mut none) = (Recent::new(3), Recent::new(0));
        let channel: Arc<str> = "c".into();
        for number in 0..10 {
            recent.insert(number, &channel, &number.to_string().into(), None);
            none.insert(number, &channel, &number.to_string().into(), None);
        }
        let known: Vec<u64> =
            (0..10).filter(|number| recent.find(10, &channel, &number.to_string().into()).is_some()).collect();
        assert_eq!((known, recent.numbers.len(), recent.evicted), (vec![7, 8, 9], 3, 7));
        assert_eq!(none.find(10, &channel, &"9".into()), None);
    }

    #[test]
    fn keys_end_a_part_in_each_call_and_count_once() {
        let mut recent = Recent::new(10_000);
        let channel: Arc<str> = "c".into();
        for number in 0..1000 {
            recent.insert(0, &channel, &format!("{number:0>300}").into(), None);
        }
        assert_eq!(recent.bytes(), 1000 * (KEY_BYTES + 301));
        let calls = (0..).take_while(|_| recent.forget(REMEMBERED_MS)).count();
        assert_eq!((calls, recent.bytes(), recent.evicted), (1000 / FORGOTTEN_MAX, 0, 0));
    }
}
