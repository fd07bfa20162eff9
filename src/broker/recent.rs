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
