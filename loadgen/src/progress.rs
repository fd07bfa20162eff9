//! One line a second on stderr while a run goes on: rewritten in place on a terminal, a new one each time elsewhere.
//!
//! Never knows the end of the story; that is the report's.

use std::io::{IsTerminal, Write, stderr};

use crate::clock::SECOND;
use crate::loops::Led;
use crate::report::text::{count, rate};
use crate::shared::Reading;

#[derive(Debug)]
pub struct Progress {
    quiet: bool,
    in_place: bool,
    next: u64,
    last: (u64, Reading),
    shown: bool,
}

impl Progress {
    pub fn new(quiet: bool) -> Self {
        Self { quiet, in_place: stderr().is_terminal(), next: 0, last: (0, Reading::default()), shown: false }
    }

    /// Shows how it goes, once a second.
    pub fn show(&mut self, stage: &str, now: u64, began: u64, led: &dyn Led) {
        if self.quiet || now < self.next {
            return;
        }
        self.next = now + SECOND;
        let reading = led.read();
        let seconds = if self.last.0 == 0 { f64::INFINITY } else { (now - self.last.0) as f64 / 1e9 };
        let line = line(stage, now.saturating_sub(began) as f64 / 1e9, seconds, &self.last.1, &reading);
        self.last = (now, reading);
        // Nobody reads this line when stderr is gone.
        let _ = match self.in_place {
            true => write!(stderr(), "\r\x1b[K{line}"),
            false => writeln!(stderr(), "{line}"),
        };
        self.shown = true;
    }

    /// Says what happened, on a line of its own.
    pub fn say(&mut self, text: &str) {
        if !self.quiet {
            let clear = if self.in_place { "\r\x1b[K" } else { "" };
            let _ = writeln!(stderr(), "{clear}{text}");
        }
    }

    /// Leaves the line.
    pub fn end(&mut self) {
        if self.in_place && self.shown {
            let _ = writeln!(stderr());
        }
    }
}

fn line(stage: &str, at: f64, seconds: f64, last: &Reading, reading: &Reading) -> String {
    let per_second = |before: u64, after: u64| rate(after.saturating_sub(before) as f64 / seconds);
    format!(
        "{at:6.1}s {stage:<10} open {:>9} ({}/s)  sent {:>9} ({}/s)  received {:>10} ({}/s)  errors {}",
        count(reading.open),
        per_second(last.opened, reading.opened),
        count(reading.sent),
        per_second(last.sent, reading.sent),
        count(reading.got),
        per_second(last.got, reading.got),
        count(reading.errors),
    )
}
