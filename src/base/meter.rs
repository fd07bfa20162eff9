//! F0 · Token buckets: how often something may happen, and how often it did.
//!
//! Owns the arithmetic of a bucket, kept as the one time at which it would be full again (the generic cell rate
//! algorithm), and a table of such times that threads share without a lock. Knows nothing of what is counted: time and
//! keys are arguments.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What threads that share a bucket may differ in their time, and a clock may be set back, in nanoseconds.
const STEP_BACK_MAX: u64 = 10_000_000_000;

/// So many in an interval, with as many at once. Its state is a plain number that begins at 0; times are nanoseconds
/// of any clock. One that steps back by more than [`STEP_BACK_MAX`] finds the bucket full; by less, it may refuse for
/// as long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    /// Nanoseconds that one takes.
    each: u64,
    /// Nanoseconds that all take which may come at once.
    all: u64,
}

impl Bucket {
    /// `rate` in each `interval`; neither may be 0.
    pub fn new(rate: u32, interval: Duration) -> Bucket {
        let rate = u64::from(rate.max(1));
        let each = (interval.as_nanos() as u64 / rate).max(1);
        Bucket { each, all: each.saturating_mul(rate) }
    }

    /// The state after one more at `now`; `None` if there is none left.
    pub fn take(self, full_at: u64, now: u64) -> Option<u64> {
        let most = now.saturating_add(self.all);
        let believed = full_at <= most.saturating_add(STEP_BACK_MAX);
        let next = if believed { full_at.max(now) } else { now }.saturating_add(self.each);
        (next <= most).then_some(next)
    }

    /// The state as if the last one had not been taken.
    pub fn give_back(self, full_at: u64) -> u64 {
        full_at.saturating_sub(self.each)
    }
}

/// The states of very many buckets in a fixed room. A key has its place by its hash, so two keys may share one, and
/// then they share its tokens, but only while both are in use: a bucket that is full again is as good as new.
#[derive(Debug)]
pub struct BucketTable {
    places: Box<[AtomicU64]>,
}

impl BucketTable {
    /// `size` places of 8 bytes, at least one.
    pub fn new(size: usize) -> BucketTable {
        BucketTable { places: (0..size.max(1)).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Where the bucket number `at` of `key` is, which is a good hash already.
    fn place(&self, key: u64, at: u32) -> &AtomicU64 {
        // Steps of the golden ratio: the buckets of one key lie far apart, those of two keys have nothing in common.
        let spread = key.wrapping_add((u64::from(at) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let index = (u128::from(spread) * self.places.len() as u128) >> 64;
        &self.places[index as usize]
    }

    /// Takes one; false if there is none left.
    pub fn take(&self, key: u64, at: u32, bucket: Bucket, now: u64) -> bool {
        let step = |full_at| bucket.take(full_at, now);
        self.place(key, at).fetch_update(Ordering::Relaxed, Ordering::Relaxed, step).is_ok()
    }

    /// Gives one back that was just taken.
    pub fn give_back(&self, key: u64, at: u32, bucket: Bucket) {
        let step = |full_at| Some(bucket.give_back(full_at));
        // It always has a next state.
        let _ = self.place(key, at).fetch_update(Ordering::Relaxed, Ordering::Relaxed, step);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    const SECOND: u64 = 1_000_000_000;

    /// Numbers that look random and are the same each time.
    fn numbers(mut seed: u64) -> impl FnMut() -> u64 {
        move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        }
    }

    fn bucket(rate: u32, interval_ms: u64) -> Bucket {
        Bucket::new(rate, Duration::from_millis(interval_ms))
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        let ten = bucket(10, 1000);
        let (mut state, start) = (0, 7 * SECOND);
        let mut take = |now| ten.take(state, now).map(|next| state = next).is_some();
        assert_eq!((0..100).filter(|_| take(start)).count(), 10);
        assert!(!take(start + SECOND / 10 - 1) && take(start + SECOND / 10));
        assert_eq!((0..100).filter(|_| take(start + 60 * SECOND)).count(), 10, "more than a burst is never saved up");
    }

    /// In no stretch of time more than a burst and what the rate gives in it, whenever they come.
    #[test]
    fn never_more_than_burst_and_rate() {
        let mut number = numbers(0x5eed);
        for _ in 0..300 {
            let (rate, interval_ms) = (1 + (number() % 50) as u32, 1 + number() % 5000);
            let bucket = bucket(rate, interval_ms);
            let (mut state, mut now, mut taken) = (0, 1_700_000_000 * SECOND, Vec::new());
            for _ in 0..400 {
                // Crowded or sparse.
                now += number() % (bucket.each * if number().is_multiple_of(4) { 20 } else { 1 });
                if let Some(next) = bucket.take(state, now) {
                    (state, _) = (next, taken.push(now));
                }
            }
            for (first, from) in taken.iter().enumerate() {
                for (last, until) in taken.iter().enumerate().skip(first) {
                    let allowed = u64::from(rate) + (until - from) / bucket.each;
                    let count = (last - first + 1) as u64;
                    assert!(count <= allowed, "{count} in {} ns of {rate} in {interval_ms} ms", until - from);
                }
            }
        }
    }

    /// Whoever keeps to the rate is never refused, late or in time.
    #[test]
    fn never_less_for_who_keeps_to_it() {
        let mut number = numbers(0xbeef);
        for _ in 0..300 {
            let bucket = bucket(1 + (number() % 1000) as u32, 1 + number() % 100_000);
            let (mut state, mut now) = (0, 1_700_000_000 * SECOND);
            for turn in 0..500 {
                state = bucket.take(state, now).unwrap_or_else(|| panic!("{bucket:?} refuses at turn {turn}"));
                now += bucket.each + if number().is_multiple_of(3) { number() % bucket.each } else { 0 };
            }
        }
    }

    #[test]
    fn what_is_given_back_can_be_taken_again() {
        let one = bucket(1, 1000);
        let now = 5 * SECOND;
        let state = one.take(0, now).expect("one");
        assert_eq!(one.take(state, now), None);
        assert!(one.take(one.give_back(state), now).is_some());
    }

    #[test]
    fn a_clock_that_steps_back_does_not_lock_anyone_out() {
        let ten = bucket(10, 1000);
        let state = (0..10).fold(0, |state, _| ten.take(state, 5000 * SECOND).expect("the burst"));
        assert_eq!(ten.take(state, 5000 * SECOND - 1000), None, "another thread is a little behind");
        assert!(ten.take(state, 4000 * SECOND).is_some());
    }

    #[test]
    fn a_table_is_exact_among_threads() {
        let (table, bucket, taken) = (BucketTable::new(1), bucket(1000, 60_000), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mine = (0..1000).filter(|_| table.take(1, 0, bucket, SECOND)).count();
                    taken.fetch_add(mine, Ordering::Relaxed);
                });
            }
        });
        assert_eq!(taken.into_inner(), 1000);
    }

    #[test]
    fn keys_and_buckets_have_places_of_their_own() {
        let (table, one) = (BucketTable::new(1 << 20), bucket(1, 60_000));
        let mut number = numbers(0xfeed);
        let keys: Vec<u64> = (0..1000).map(|_| number()).collect();
        let mut shared = 0;
        for (key, at) in keys.iter().flat_map(|key| (0..3u32).map(move |at| (*key, at))) {
            shared += usize::from(!table.take(key, at, one, SECOND));
            assert!(!table.take(key, at, one, SECOND));
        }
        // Of 3,000 keys among a million places four or five share one.
        assert!(shared < 30, "{shared}");
        table.give_back(keys[0], 0, one);
        assert!(table.take(keys[0], 0, one, SECOND));
    }
}
