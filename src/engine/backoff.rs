//! F10 · Pauses between attempts to connect.
//!
//! Owns how long they are: longer each time, and never the same for two nodes. Never connects.

use std::time::Duration;
use tokio::time::Instant;

/// Between attempts: the first, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// A connection that lived so long was a good one.
const GOOD: Duration = Duration::from_secs(1);

pub struct Backoff {
    next: Duration,
    good_from: Option<Instant>,
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff::new()
    }
}

impl Backoff {
    pub fn new() -> Backoff {
        Backoff { next: PAUSE_MIN, good_from: None }
    }

    pub fn connected(&mut self) {
        self.good_from = Some(Instant::now());
    }

    pub async fn wait(&mut self) {
        if self.good_from.take().is_some_and(|at| at.elapsed() >= GOOD) {
            self.next = PAUSE_MIN;
        }
        let pause = self.next;
        self.next = (pause * 2).min(PAUSE_MAX);
        let part = getrandom::u32().unwrap_or(u32::MAX / 2);
        tokio::time::sleep(pause / 2 + (pause / 2).mul_f64(f64::from(part) / f64::from(u32::MAX))).await;
    }
}
