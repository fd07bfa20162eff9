//! F3 · Publications that were made already: a key that comes again is answered as it was the first time.
//!
//! Owns the keys of the last five minutes, at most as many as it is told; beyond, the oldest is forgotten first.

use super::Position;
use compact_str::CompactString;
use foldhash::quality::RandomState;
use hashbrown::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;

/// How long a key is remembered, as Centrifugo does.
const REMEMBERED_MS: u64 = 5 * 60 * 1000;

type Key = (Arc<str>, CompactString);

#[derive(Debug, Default)]
pub struct Recent {
    results: HashMap<Key, Option<Position>, RandomState>,
    order: VecDeque<(u64, Key)>,
    size_max: usize,
}

impl Recent {
    pub fn new(size_max: usize) -> Recent {
        Recent { size_max, ..Recent::default() }
    }

    /// The result of the first publication with this key, if there was one.
    pub fn find(&mut self, now_ms: u64, channel: &Arc<str>, key: &CompactString) -> Option<Option<Position>> {
        self.forget(now_ms);
        self.results.get(&(channel.clone(), key.clone())).copied()
    }

    pub fn insert(&mut self, now_ms: u64, channel: &Arc<str>, key: &CompactString, result: Option<Position>) {
        if self.size_max == 0 {
            return;
        }
        let key = (channel.clone(), key.clone());
        self.results.insert(key.clone(), result);
        self.order.push_back((now_ms + REMEMBERED_MS, key));
        while self.order.len() > self.size_max {
            self.forget_oldest();
        }
    }

    /// Drops what is past its time.
    pub fn forget(&mut self, now_ms: u64) {
        while self.order.front().is_some_and(|(until, _)| *until <= now_ms) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, key)) = self.order.pop_front() {
            self.results.remove(&key);
        }
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
        recent.insert(0, &channel, &key, at);
        recent.insert(0, &other, &key, None);
        assert_eq!(recent.find(REMEMBERED_MS - 1, &channel, &key), Some(at));
        assert_eq!(recent.find(1, &other, &key), Some(None));
        assert_eq!(recent.find(1, &channel, &"other".into()), None);
        assert_eq!(recent.find(REMEMBERED_MS, &channel, &key), None);
        assert!(recent.results.is_empty() && recent.order.is_empty());
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
        assert_eq!((known, recent.results.len()), (vec![7, 8, 9], 3));
        assert_eq!(none.find(10, &channel, &"9".into()), None);
    }
}
