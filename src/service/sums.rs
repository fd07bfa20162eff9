//! F10 · Log lines that anyone may cause, as sums: the first at once, and the next ones together.
//!
//! Owns what was not written yet. The log is the process's, and so are they.

use std::collections::BTreeMap;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A line is written this often.
pub const INTERVAL: Duration = Duration::from_secs(10);
/// How soon after its time a line is written.
const PAUSE: Duration = Duration::from_secs(1);

static ALL: LazyLock<Sums> = LazyLock::new(Sums::default);

/// What writes the line: it is given how many there were.
type Write = Box<dyn Fn(u64) + Send>;

/// Lines written within the last [`INTERVAL`], by their keys.
#[derive(Default)]
struct Sums(Mutex<BTreeMap<String, Sum>>);

struct Sum {
    written: Instant,
    /// What came since.
    count: u64,
    /// The latest, for it has the latest cause.
    write: Write,
}

impl Sums {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Sum>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, key: &str, count: u64, now: Instant, write: Write) {
        let mut sums = self.lock();
        match sums.get_mut(key) {
            Some(sum) => (sum.count, sum.write) = (sum.count + count, write),
            None => {
                write(count);
                sums.insert(key.to_owned(), Sum { written: now, count: 0, write });
            }
        }
    }

    /// Writes what has waited long enough, and forgets what did not come again.
    fn flush(&self, now: Instant) {
        self.lock().retain(|_, sum| {
            if now.duration_since(sum.written) < INTERVAL {
                return true;
            }
            let count = std::mem::take(&mut sum.count);
            if count > 0 {
                (sum.write)(count);
                sum.written = now;
            }
            count > 0
        });
    }
}

/// One line for `count` of the kind `key`, written by `write` at once or with those that come within [`INTERVAL`].
/// There is a bounded number of kinds: none is made of what a peer says.
pub fn add(key: &str, count: u64, write: impl Fn(u64) + Send + 'static) {
    ALL.add(key, count, Instant::now(), Box::new(write));
}

/// Writes sums when their time has come, for ever, whether or not more comes.
pub async fn write() {
    loop {
        tokio::time::sleep(PAUSE).await;
        ALL.flush(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn the_first_is_written_at_once_and_the_rest_as_a_sum() {
        let (sums, lines) = (Sums::default(), Arc::new(Mutex::new(Vec::new())));
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let add = |key: &'static str, count, now| {
            let lines = lines.clone();
            let write = move |count| lines.lock().expect("lines").push((key, count));
            sums.add(key, count, now, Box::new(write));
        };
        let written = || std::mem::take(&mut *lines.lock().expect("lines"));
        (0..1000).for_each(|_| add("a", 1, at(0)));
        add("b", 7, at(0));
        assert_eq!(written(), [("a", 1), ("b", 7)]);
        sums.flush(at(9));
        assert_eq!(written(), []);
        // Nothing more comes, and the sum is written all the same.
        sums.flush(at(10));
        assert_eq!(written(), [("a", 999)]);
        add("b", 1, at(11));
        assert_eq!(written(), [("b", 1)], "it was forgotten");
        add("a", 2, at(19));
        sums.flush(at(19));
        assert_eq!(written(), []);
        sums.flush(at(20));
        assert_eq!(written(), [("a", 2)]);
        sums.flush(at(30));
        sums.flush(at(31));
        assert!(written().is_empty() && sums.lock().is_empty());
    }
}
