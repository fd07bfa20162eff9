//! F10 · When to leave a backend alone that does not answer.
//!
//! Owns the count of recent calls and the three states. Time is an argument; knows nothing of HTTP.

use crate::config;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// The window moves in so many steps.
const STEPS: u32 = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Closed,
    /// One call is under way to see whether the backend is back.
    HalfOpen,
    Open,
}

/// What a call's end changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Opened,
    Closed,
}

/// Leave to make one call. It must come back to [`Breaker::record`].
#[derive(Debug, PartialEq, Eq)]
pub struct Leave {
    trial: bool,
}

struct Step {
    began: Instant,
    calls: usize,
    failures: usize,
}

pub struct Breaker {
    window: Duration,
    /// 0 = never opens.
    calls_min: usize,
    delay: Duration,
    state: State,
    /// While open: when a trial may be made.
    until: Instant,
    steps: VecDeque<Step>,
}

impl Breaker {
    pub fn new(options: &config::BackendOptions, now: Instant) -> Breaker {
        Breaker {
            window: options.breaker_window,
            calls_min: options.breaker_calls,
            delay: options.breaker_delay,
            state: State::Closed,
            until: now,
            steps: VecDeque::new(),
        }
    }

    pub fn state(&self) -> State {
        self.state
    }

    /// May a call be made?
    pub fn admit(&mut self, now: Instant) -> Option<Leave> {
        match self.state {
            State::Closed => Some(Leave { trial: false }),
            State::Open if now >= self.until => {
                self.state = State::HalfOpen;
                Some(Leave { trial: true })
            }
            State::Open | State::HalfOpen => None,
        }
    }

    /// A call ended. Those from before the opening change nothing.
    pub fn record(&mut self, leave: Leave, failed: bool, now: Instant) -> Option<Change> {
        if leave.trial {
            self.steps.clear();
            return if failed { self.open(now) } else { self.close() };
        }
        if self.state != State::Closed || self.calls_min == 0 {
            return None;
        }
        self.count(failed, now);
        let (calls, failures) =
            self.steps.iter().fold((0, 0), |(calls, failures), step| (calls + step.calls, failures + step.failures));
        (calls >= self.calls_min && failures * 2 >= calls).then(|| self.open(now)).flatten()
    }

    fn open(&mut self, now: Instant) -> Option<Change> {
        let first = self.state == State::Closed;
        self.state = State::Open;
        self.until = now + self.delay;
        self.steps.clear();
        first.then_some(Change::Opened)
    }

    fn close(&mut self) -> Option<Change> {
        self.state = State::Closed;
        Some(Change::Closed)
    }

    fn count(&mut self, failed: bool, now: Instant) {
        while self.steps.front().is_some_and(|step| now.duration_since(step.began) >= self.window) {
            self.steps.pop_front();
        }
        let is_new = self.steps.back().is_none_or(|step| now.duration_since(step.began) >= self.window / STEPS);
        if is_new {
            self.steps.push_back(Step { began: now, calls: 0, failures: 0 });
        }
        if let Some(step) = self.steps.back_mut() {
            step.calls += 1;
            step.failures += usize::from(failed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Subject {
        breaker: Breaker,
        now: Instant,
    }

    impl Subject {
        fn new() -> Subject {
            let options = config::BackendOptions {
                breaker_window: Duration::from_secs(10),
                breaker_calls: 4,
                breaker_delay: Duration::from_secs(3),
                ..config::BackendOptions::default()
            };
            let now = Instant::now();
            Subject { breaker: Breaker::new(&options, now), now }
        }

        fn pass(&mut self, seconds: u64) {
            self.now += Duration::from_secs(seconds);
        }

        fn call(&mut self, failed: bool) -> Option<Change> {
            let leave = self.breaker.admit(self.now).expect("leave to call");
            self.breaker.record(leave, failed, self.now)
        }
    }

    #[test]
    fn opens_at_half_of_enough_calls() {
        let mut it = Subject::new();
        assert_eq!([true, true, false].map(|failed| it.call(failed)), [None; 3], "too few calls");
        assert_eq!(it.call(false), Some(Change::Opened));
        assert_eq!(it.breaker.state(), State::Open);
        assert_eq!(it.breaker.admit(it.now), None);

        let mut it = Subject::new();
        assert_eq!([false, false, false, true, true].map(|failed| it.call(failed)), [None; 5]);
        assert_eq!(it.call(true), Some(Change::Opened));
    }

    #[test]
    fn the_window_forgets() {
        let mut it = Subject::new();
        assert_eq!([true, true, true].map(|failed| it.call(failed)), [None; 3]);
        it.pass(10);
        assert_eq!([true, false, false].map(|failed| it.call(failed)), [None; 3]);
        assert_eq!(it.call(false), None, "one of four");
    }

    #[test]
    fn one_trial_tells_whether_it_is_back() {
        let mut it = Subject::new();
        let late = it.breaker.admit(it.now).expect("closed");
        assert_eq!([true; 4].map(|failed| it.call(failed))[3], Some(Change::Opened));
        assert_eq!(it.breaker.record(late, false, it.now), None, "from before the opening");
        it.pass(2);
        assert_eq!(it.breaker.admit(it.now), None);
        it.pass(1);
        let trial = it.breaker.admit(it.now).expect("a trial");
        assert_eq!(it.breaker.state(), State::HalfOpen);
        assert_eq!(it.breaker.admit(it.now), None, "one only");
        assert_eq!(it.breaker.record(trial, true, it.now), None, "it was open before");
        it.pass(2);
        assert_eq!(it.breaker.admit(it.now), None, "the delay begins anew");
        it.pass(1);
        assert_eq!(it.call(false), Some(Change::Closed));
        assert_eq!([true; 3].map(|failed| it.call(failed)), [None; 3], "what was before counts no more");
    }

    #[test]
    fn zero_calls_turn_it_off() {
        let options = config::BackendOptions { breaker_calls: 0, ..config::BackendOptions::default() };
        let now = Instant::now();
        let mut breaker = Breaker::new(&options, now);
        for _ in 0..1000 {
            let leave = breaker.admit(now).expect("always");
            assert_eq!(breaker.record(leave, true, now), None);
        }
    }
}
