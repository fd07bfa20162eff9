//! How far another process's clock is ahead of ours, from questions and answers.
//!
//! The other clock was read at some moment between question and answer; the middle is the best guess, and half the
//! round trip the most it can be wrong by. So the quickest of the last round trips decides. Time is an argument.

use std::collections::VecDeque;

/// Clocks drift apart by some microseconds a second: older round trips than so many tell about another time.
const KEPT: usize = 16;

/// What is known of another clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skew {
    /// Nanoseconds the other clock is ahead of ours.
    pub ahead: i64,
    /// At most so much more or less.
    pub uncertainty: u64,
}

impl Skew {
    /// One of our moments, by the other clock.
    pub fn theirs(&self, ours: u64) -> u64 {
        ours.saturating_add_signed(self.ahead)
    }

    /// One of its moments, by our clock.
    pub fn ours(&self, theirs: u64) -> u64 {
        theirs.saturating_add_signed(self.ahead.saturating_neg())
    }
}

/// The last round trips.
#[derive(Clone, Debug, Default)]
pub struct Trips {
    last: VecDeque<Skew>,
    /// The same kernel counts for both of us.
    is_same_host: bool,
}

impl Trips {
    pub fn new(is_same_host: bool) -> Self {
        Self { last: VecDeque::new(), is_same_host }
    }

    /// A question that went out at `sent` and whose answer came at `back` says it is `theirs` there.
    pub fn add(&mut self, sent: u64, theirs: u64, back: u64) {
        let uncertainty = back.saturating_sub(sent).div_ceil(2);
        let ahead = i128::from(theirs) - i128::from(sent) - i128::from(uncertainty);
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        let ahead = i64::try_from(ahead).unwrap_or(if ahead < 0 { i64::MIN } else { i64::MAX });
        self.last.push_back(Skew { ahead, uncertainty });
    }

    /// The best guess; None = nothing is known yet.
    pub fn skew(&self) -> Option<Skew> {
        let best = self.last.iter().min_by_key(|skew| skew.uncertainty)?;
        // One kernel has one clock, unless somebody gave a container another: then the answers say so.
        let is_same_clock = self.is_same_host && best.ahead.unsigned_abs() <= best.uncertainty;
        Some(if is_same_clock { Skew::default() } else { *best })
    }

    /// What `used` may have been wrong by in the end: clocks drift.
    pub fn uncertainty_of(&self, used: Skew) -> u64 {
        let Some(now) = self.skew() else { return used.uncertainty };
        let drifted = now.ahead.abs_diff(used.ahead);
        // Within what the round trips can tell there is no drift.
        let drift = if drifted <= now.uncertainty + used.uncertainty { 0 } else { drifted };
        used.uncertainty.max(now.uncertainty.min(used.uncertainty) + drift)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AHEAD: u64 = 1_000_000;

    #[test]
    fn the_quickest_round_trip_wins() {
        let mut trips = Trips::new(false);
        assert_eq!(trips.skew(), None);
        // Slow on the way there, then even, then slow on the way back.
        trips.add(100, 100 + 900 + AHEAD, 1_100);
        trips.add(2_000, 2_010 + AHEAD, 2_020);
        trips.add(3_000, 3_001 + AHEAD, 3_900);
        assert_eq!(trips.skew(), Some(Skew { ahead: AHEAD as i64, uncertainty: 10 }));
    }

    #[test]
    fn the_truth_is_within_the_uncertainty() {
        for (there, back) in [(0, 50), (50, 0), (25, 25), (7, 900)] {
            for ahead in [-3_000_000_000_i64, -1, 0, 5_000] {
                let mut trips = Trips::new(false);
                let sent: u64 = 10_000_000_000;
                trips.add(sent, (sent + there).saturating_add_signed(ahead), sent + there + back);
                let skew = trips.skew().expect("one trip");
                assert!(skew.ahead.abs_diff(ahead) <= skew.uncertainty, "{there} {back} {ahead}: {skew:?}");
            }
        }
    }

    #[test]
    fn moments_go_there_and_back() {
        for ahead in [-77, 0, 77] {
            let skew = Skew { ahead, uncertainty: 1 };
            assert_eq!(skew.ours(skew.theirs(1_000)), 1_000);
        }
        assert_eq!(Skew { ahead: 5, uncertainty: 0 }.theirs(10), 15);
    }

    #[test]
    fn one_host_has_one_clock_unless_it_says_otherwise() {
        let mut trips = Trips::new(true);
        trips.add(1_000, 1_090, 1_100);
        assert_eq!(trips.skew(), Some(Skew::default()));
        let mut other = Trips::new(true);
        other.add(1_000, 9_050, 1_100);
        assert_eq!(other.skew(), Some(Skew { ahead: 8_000, uncertainty: 50 }));
    }

    #[test]
    fn old_round_trips_are_forgotten_and_drift_is_told() {
        let mut trips = Trips::new(false);
        trips.add(0, 1, 2);
        let used = trips.skew().expect("one trip");
        assert_eq!(used, Skew { ahead: 0, uncertainty: 1 });
        assert_eq!(trips.uncertainty_of(used), 1);
        for n in 1..=KEPT as u64 {
            trips.add(n * 1_000, n * 1_000 + 505, n * 1_000 + 10);
        }
        assert_eq!(trips.skew(), Some(Skew { ahead: 500, uncertainty: 5 }));
        assert_eq!(trips.uncertainty_of(used), 501);
    }

    #[test]
    fn nonsense_overflows_nothing() {
        let mut trips = Trips::new(true);
        trips.add(0, u64::MAX, 1);
        trips.add(u64::MAX, 0, 0);
        let skew = trips.skew().expect("two trips");
        let _ = (skew.ours(0), skew.theirs(u64::MAX), trips.uncertainty_of(Skew::default()));
    }
}
