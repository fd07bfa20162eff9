//! F8 · The time by which peers are judged: that of the machine, less what the reactor itself took.
//!
//! Owns the ticks of all deadlines. A turn that was long, or a process that was stopped, keeps a peer's bytes waiting
//! in the kernel; the peer could do nothing about it. So what a turn takes beyond a tick does not count, and neither
//! does what a sleep lasts beyond the time that was asked for. Pure: the machine's time is an argument.

use crate::base::wheel::{TICK_MS, Tick};

#[derive(Debug, Default)]
pub struct Clock {
    /// Milliseconds that do not count.
    lost_ms: u64,
    /// When the last turn ended.
    ended_ms: u64,
}

impl Clock {
    /// A turn begins at `now_ms` of the machine's time, after a sleep that was to last until `until_ms` or until
    /// something happened; the tick.
    pub fn begin(&mut self, now_ms: u64, until_ms: Option<u64>) -> Tick {
        let late = until_ms.map_or(0, |until| now_ms.saturating_sub(until.max(self.ended_ms)));
        self.lose(late);
        self.tick(now_ms)
    }

    /// The turn that began at `began_ms` ends at `now_ms`.
    pub fn end(&mut self, began_ms: u64, now_ms: u64) {
        self.ended_ms = now_ms;
        self.lose(now_ms.saturating_sub(began_ms));
    }

    fn lose(&mut self, ms: u64) {
        // A tick more or less is within what every deadline allows.
        if ms > TICK_MS {
            self.lost_ms += ms - TICK_MS;
        }
    }

    fn tick(&self, now_ms: u64) -> Tick {
        (now_ms.saturating_sub(self.lost_ms) / TICK_MS) as Tick
    }

    /// The machine's time at which `tick` begins, if nothing more is lost.
    pub fn at_ms(&self, tick: Tick) -> u64 {
        u64::from(tick) * TICK_MS + self.lost_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_turns_and_sleeps_count_in_full() {
        let mut clock = Clock::default();
        for at in (0..10_000).step_by(50) {
            assert_eq!(clock.begin(at, Some(at)), (at / TICK_MS) as Tick);
            clock.end(at, at + 20);
        }
        assert_eq!(clock.at_ms(100), 10_000);
    }

    #[test]
    fn a_long_turn_is_not_held_against_peers() {
        let mut clock = Clock::default();
        assert_eq!(clock.begin(1_000, None), 10);
        clock.end(1_000, 6_000);
        assert_eq!(clock.begin(6_000, Some(6_000)), 11, "five seconds passed, and one tick");
        assert_eq!(clock.at_ms(11), 6_000);
    }

    #[test]
    fn a_stopped_process_judges_nobody_by_its_sleep() {
        let mut clock = Clock::default();
        clock.begin(0, None);
        clock.end(0, 0);
        assert_eq!(clock.begin(60_000, Some(500)), 6, "it was to sleep for half a second");
        clock.end(60_000, 60_000);
        assert_eq!(clock.begin(90_000, None), 306, "nothing was due: all of that sleep was meant");
    }

    #[test]
    fn time_never_steps_back() {
        let (mut clock, mut now, mut last) = (Clock::default(), 0, 0);
        for step in [0, 5, 100, 101, 3_000, 1, 250] {
            let tick = clock.begin(now, Some(now.saturating_sub(step)));
            assert!(tick >= last, "{tick} after {last}");
            last = tick;
            clock.end(now, now + step);
            now += step + 7;
        }
    }
}
