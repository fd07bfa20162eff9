//! F3 · A round over many channels, spread evenly over an interval.
//!
//! Owns the line of names and how much of it is due by when. Whoever joins is visited by the end of the next round, so
//! never later than two intervals after it was first or last visited. Knows nothing of what a visit is.

use std::collections::VecDeque;
use std::sync::Arc;

/// Visits in one call, so that many that are late do not go in one turn.
const VISITS_MAX: u64 = 1024;
/// A round is made of so many steps.
const STEPS: u64 = 128;

/// A channel, and which life of it.
type Entry = (Arc<str>, u32);

#[derive(Debug, Default)]
pub struct Ring {
    entries: VecDeque<Entry>,
    /// Those at the front that the round has not come to.
    left: usize,
    began_ms: u64,
    visited: u64,
    /// The most visits that this round was seen to need.
    most: u64,
    /// All of this round is due.
    hurried: bool,
}

impl Ring {
    pub fn join(&mut self, name: &Arc<str>, life: u32) {
        self.entries.push_back((name.clone(), life));
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Visits that are due by now, of `all`.
    pub fn due(&mut self, now_ms: u64, all: usize, interval_ms: u64) -> usize {
        if self.left == 0 {
            let next = self.began_ms + interval_ms;
            if self.entries.is_empty() || now_ms < next {
                return 0;
            }
            self.begin(if now_ms < next + interval_ms { next } else { now_ms });
        }
        self.most = self.most.max(all as u64);
        let passed = now_ms - self.began_ms;
        let due = match passed < interval_ms && !self.hurried {
            // One alone has its turn in the middle.
            true => {
                let whole = u128::from(interval_ms);
                ((u128::from(self.most) * u128::from(passed) + whole / 2) / whole) as u64
            }
            // What is left is late.
            false => u64::MAX,
        };
        due.saturating_sub(self.visited).min(VISITS_MAX) as usize
    }

    fn begin(&mut self, now_ms: u64) {
        (self.left, self.began_ms, self.visited, self.most) = (self.entries.len(), now_ms, 0, 0);
        self.hurried = false;
    }

    /// The one whose turn it is; `None` at the end of the round.
    pub fn front(&self) -> Option<&Entry> {
        self.entries.front().filter(|_| self.left > 0)
    }

    pub fn count(&mut self, visits: usize) {
        self.visited += visits as u64;
    }

    /// The one at the front had its turn; `stays` if it is to have another.
    pub fn pass(&mut self, stays: bool) {
        let entry = self.entries.pop_front();
        self.left = self.left.saturating_sub(1);
        if stays {
            self.entries.extend(entry);
        }
    }

    /// A round begins now, and all of it is due.
    pub fn hurry(&mut self, now_ms: u64) {
        self.begin(now_ms);
        self.hurried = true;
    }

    /// When something is next due.
    pub fn next(&self, now_ms: u64, interval_ms: u64) -> Option<u64> {
        if self.entries.is_empty() {
            return None;
        }
        let over = self.began_ms + interval_ms;
        match self.left {
            0 => Some(over.max(now_ms + 1)),
            _ if self.hurried => Some(now_ms + 1),
            _ => Some(now_ms + (interval_ms / self.most.clamp(1, STEPS)).max(1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: u64 = 27_000;

    /// Runs the ring as long as told, and gives the visits of each call.
    fn run(ring: &mut Ring, now: &mut u64, until: u64, all: usize) -> Vec<(u64, usize)> {
        let mut calls = Vec::new();
        while *now < until {
            let due = ring.due(*now, all, INTERVAL);
            let mut visited = 0;
            while visited < due && ring.front().is_some() {
                ring.pass(true);
                ring.count(1);
                visited += 1;
            }
            calls.push((*now, visited));
            *now = ring.next(*now, INTERVAL).unwrap_or(until);
        }
        calls
    }

    #[test]
    fn a_round_takes_the_interval_and_comes_to_all() {
        for all in [1, 5, 1000, 50_000] {
            let (mut ring, mut now) = (Ring::default(), INTERVAL);
            (0..all).for_each(|name| ring.join(&name.to_string().into(), 1));
            let calls = run(&mut ring, &mut now, 5 * INTERVAL, all);
            let visits: usize = calls.iter().map(|(_, visits)| visits).sum();
            assert!(visits >= 3 * all && visits <= 4 * all, "{visits} of {all}");
            let largest = calls.iter().map(|(_, visits)| *visits).max();
            assert!(largest <= Some(all / 100 + 2), "{largest:?} of {all} at once");
            assert!(calls.len() < 1200, "{} calls for {all}", calls.len());
        }
    }

    #[test]
    fn what_is_hurried_is_due_at_once_and_a_part_in_each_call() {
        let (mut ring, mut now) = (Ring::default(), INTERVAL);
        (0..3000).for_each(|name| ring.join(&name.to_string().into(), 1));
        run(&mut ring, &mut now, INTERVAL + 100, 3000);
        ring.hurry(INTERVAL + 200);
        let dues: Vec<usize> = (0..3)
            .map(|_| {
                let due = ring.due(INTERVAL + 200, 3000, INTERVAL);
                let visits = due.min(ring.left);
                (0..visits).for_each(|_| ring.pass(true));
                ring.count(visits);
                visits
            })
            .collect();
        assert_eq!(dues, [1024, 1024, 952], "those too that were visited before");
        assert_eq!(ring.due(INTERVAL + 300, 3000, INTERVAL), 0, "and then it is over");
    }

    #[test]
    fn an_empty_ring_wants_nothing() {
        let mut ring = Ring::default();
        assert_eq!((ring.due(99_999, 0, INTERVAL), ring.next(5, INTERVAL)), (0, None));
    }
}
