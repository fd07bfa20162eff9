//! What grows with the clients: the same measurement at several sizes, each with fresh processes.
//!
//! Knows how to wait until the kernel has forgotten the size before, and the file; never what a measurement does.

use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::kernel::{Kernel, tcp};
use super::report::Report;
use crate::figures::{now_unix, print_table, with_commas};
use crate::machine;

/// Closing sockets that other work on the machine may have at any time.
const OTHERS: u64 = 64;

/// Bytes by which the slabs of sockets may change in a second and count as still.
const STILL: u64 = 256 * 1024;

pub struct Growth {
    sizes: Vec<usize>,
    rows: Vec<Value>,
    error: Option<String>,
    /// Closing sockets before the first size.
    closing: u64,
}

/// How the machine was found before a size.
pub struct Calm {
    waited: Duration,
    /// Sockets of the size before that the kernel still kept.
    closing: u64,
}

impl Growth {
    pub fn new(sizes: &[usize]) -> Self {
        Self { sizes: sizes.to_vec(), rows: Vec::new(), error: None, closing: closing() }
    }

    /// Waits, at most for `limit`, until no more sockets are closing than before the first size and the slabs stand
    /// still. What is left after that is in the row.
    pub fn settle(&self, limit: Duration) -> Calm {
        let began = Instant::now();
        let (mut last, mut still) = (Kernel::read().of_sockets(), 0);
        loop {
            let left = closing().saturating_sub(self.closing);
            if (left <= OTHERS && still >= 2) || began.elapsed() >= limit {
                return Calm { waited: began.elapsed(), closing: left };
            }
            sleep(Duration::from_secs(1));
            let now = Kernel::read().of_sockets();
            still = if now.abs_diff(last) <= STILL { still + 1 } else { 0 };
            last = now;
        }
    }

    pub fn add(&mut self, report: &Report, calm: &Calm) {
        let mut row = report.json();
        row["settled"] = json!({"seconds": calm.waited.as_secs_f64(), "closing_sockets_left": calm.closing});
        self.rows.push(row);
    }

    /// A size failed; those before it stay.
    pub fn fail(&mut self, size: usize, error: &io::Error) {
        self.error = Some(format!("{size} clients: {error}"));
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// True if at every size every client was held, served and told.
    pub fn is_whole(&self) -> bool {
        self.error.is_none() && self.rows.iter().all(|row| row["whole"] == true)
    }

    /// Prints a row for each size.
    pub fn print(&self) {
        let rows: Vec<Vec<String>> = self.rows.iter().map(cells).collect();
        println!();
        print_table(&HEAD, &rows);
    }

    pub fn json(&self) -> Value {
        json!({"at_unix": now_unix(), "machine": machine::describe(), "sizes": self.sizes, "error": self.error,
            "rows": self.rows})
    }
}

/// Sockets that no process has any more.
fn closing() -> u64 {
    tcp("tw").unwrap_or_default() + tcp("orphan").unwrap_or_default()
}

const HEAD: [&str; 11] = [
    "clients",
    "servers",
    "user bytes",
    "private",
    "kernel bytes",
    "idle us/s",
    "connect s",
    "p50 ms",
    "p99 ms",
    "last ms",
    "drain s",
];

fn cells(row: &Value) -> Vec<String> {
    let figure = |pointer: &str, digits: usize| {
        let value = row.pointer(pointer).and_then(Value::as_f64).unwrap_or_default();
        if digits == 0 { with_commas(value) } else { format!("{value:.digits$}") }
    };
    vec![
        figure("/clients", 0),
        figure("/processes/servers", 0),
        figure("/user_bytes_each/rss", 0),
        figure("/user_bytes_each/private", 0),
        figure("/kernel_bytes_each/both_ends", 0),
        figure("/idle/server_cpu_us_per_second_each", 3),
        figure("/connect/seconds", 2),
        figure("/deliver/p50_ms", 1),
        figure("/deliver/p99_ms", 1),
        figure("/deliver/max_ms", 1),
        figure("/drain/told_seconds", 2),
    ]
}
