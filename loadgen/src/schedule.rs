//! When things are due: an open-loop schedule at a rate, and the pace of connecting.
//!
//! The n-th thing is due at `start + n / rate` whatever became of those before it, so a slow server never slows the
//! schedule down. Time is an argument. Never knows what is due.

/// Things due at a steady rate.
#[derive(Clone, Debug)]
pub struct Schedule {
    start: u64,
    /// Per second; 0 = nothing is ever due.
    rate: f64,
    taken: u64,
}

impl Schedule {
    /// The first thing is due at `start` plus `phase` (0 to 1) of the time between two.
    pub fn new(start: u64, rate: f64, phase: f64) -> Self {
        let offset = if rate > 0.0 { phase / rate * 1e9 } else { 0.0 };
        Self { start: start + offset as u64, rate, taken: 0 }
    }

    /// When the next thing is due.
    pub fn next(&self) -> Option<u64> {
        (self.rate > 0.0).then(|| self.start + (self.taken as f64 / self.rate * 1e9) as u64)
    }

    /// Takes the next thing if it is due at `now`: when it was due.
    pub fn take(&mut self, now: u64) -> Option<u64> {
        let due = self.next().filter(|due| *due <= now)?;
        self.taken += 1;
        Some(due)
    }

    /// Goes on at another rate from `now`; what was due before stays due.
    pub fn change(&mut self, now: u64, rate: f64) {
        if rate == self.rate {
            return;
        }
        let fresh = Self::new(now.max(self.start), rate, 1.0);
        self.start = self.next().map_or(fresh.start, |next| next.min(fresh.start));
        (self.rate, self.taken) = (rate, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{MILLISECOND, SECOND};

    #[test]
    fn the_rate_is_kept_without_drift() {
        let mut schedule = Schedule::new(5 * SECOND, 3.0, 0.0);
        let due: Vec<u64> = std::iter::from_fn(|| schedule.take(15 * SECOND)).collect();
        assert_eq!(due.len(), 31);
        assert_eq!((due[0], due[3], due[30]), (5 * SECOND, 6 * SECOND, 15 * SECOND));
    }

    #[test]
    fn being_late_does_not_move_what_is_due() {
        let mut schedule = Schedule::new(0, 1000.0, 0.0);
        assert_eq!(schedule.take(0), Some(0));
        let late = 50 * MILLISECOND;
        let due: Vec<u64> = std::iter::from_fn(|| schedule.take(late)).collect();
        assert_eq!(due, (1..=50).map(|n| n * MILLISECOND).collect::<Vec<_>>());
        assert_eq!(schedule.next(), Some(51 * MILLISECOND));
    }

    #[test]
    fn loops_share_a_rate_by_phase() {
        let mut halves: Vec<u64> = (0..2)
            .flat_map(|n| {
                let mut half = Schedule::new(0, 50.0, f64::from(n) / 2.0);
                std::iter::from_fn(move || half.take(SECOND - 1)).collect::<Vec<_>>()
            })
            .collect();
        halves.sort_unstable();
        assert_eq!(halves, (0..100).map(|n| n * 10 * MILLISECOND).collect::<Vec<_>>());
    }

    #[test]
    fn no_rate_no_work() {
        assert_eq!(Schedule::new(0, 0.0, 0.5).take(u64::MAX), None);
    }

    #[test]
    fn a_new_rate_counts_from_now() {
        let mut schedule = Schedule::new(0, 10.0, 0.0);
        while schedule.take(SECOND).is_some() {}
        schedule.change(SECOND, 100.0);
        let due: Vec<u64> = std::iter::from_fn(|| schedule.take(2 * SECOND)).collect();
        assert_eq!((due.len(), due[0]), (100, SECOND + 10 * MILLISECOND));
    }
}
