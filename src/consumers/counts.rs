//! F10 · What consumers count: shared by their thread, which adds, and the page of metrics, which reads.

use crate::base::metrics::Page;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// Of one consumer.
#[derive(Debug, Default)]
pub struct ConsumerCounts {
    processed: AtomicU64,
    skipped: AtomicU64,
    errors: AtomicU64,
    pauses: AtomicU64,
    lag: AtomicU64,
    /// Readers, and those of them whose source is reached.
    readers: AtomicI64,
    up: AtomicI64,
}

impl ConsumerCounts {
    fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub fn processed(&self) {
        Self::add(&self.processed);
    }

    pub fn skipped(&self) {
        Self::add(&self.processed);
        Self::add(&self.skipped);
    }

    pub fn failed(&self) {
        Self::add(&self.errors);
    }

    pub fn paused(&self) {
        Self::add(&self.pauses);
    }

    /// What waits for one reader: before, and now.
    pub fn lag(&self, before: u64, now: u64) {
        self.lag.fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
    }

    pub fn readers(&self, more: i64) {
        self.readers.fetch_add(more, Ordering::Relaxed);
    }

    pub fn up(&self, more: i64) {
        self.up.fetch_add(more, Ordering::Relaxed);
    }

    pub fn all_are_up(&self) -> bool {
        self.up.load(Ordering::Relaxed) == self.readers.load(Ordering::Relaxed)
    }
}

/// Of all, by name.
#[derive(Debug, Clone, Default)]
pub struct ConsumersCounts(pub Vec<(String, Arc<ConsumerCounts>)>);

impl ConsumersCounts {
    pub fn write(&self, page: &mut Page) {
        if self.0.is_empty() {
            return;
        }
        let series = |part: fn(&ConsumerCounts) -> u64| {
            self.0.iter().map(move |(name, counts)| (name.clone(), part(counts))).collect::<Vec<_>>()
        };
        let help = "Messages that were carried out, or skipped for good.";
        let all = series(|counts| counts.processed.load(Ordering::Relaxed));
        page.labelled("gannet_consumers_messages_processed_total", help, "counter", "consumer_name", all);
        let help = "Those of them that were skipped: no other try would have ended otherwise. The log has the reason.";
        let all = series(|counts| counts.skipped.load(Ordering::Relaxed));
        page.labelled("gannet_consumers_messages_skipped_total", help, "counter", "consumer_name", all);
        let help = "Tries that ended in error 100, and times that the source could not be read.";
        let all = series(|counts| counts.errors.load(Ordering::Relaxed));
        page.labelled("gannet_consumers_errors_total", help, "counter", "consumer_name", all);
        let help = "Looks that found memory over overload.memory_limit, ten a second, while messages wait for it.";
        let all = series(|counts| counts.pauses.load(Ordering::Relaxed));
        page.labelled("gannet_consumers_pauses_total", help, "counter", "consumer_name", all);
        let help = "Messages that wait in the source, as far as it tells.";
        let all = series(|counts| counts.lag.load(Ordering::Relaxed));
        page.labelled("gannet_consumers_lag", help, "gauge", "consumer_name", all);
        let help = "1 while the source is read, in all of its parts.";
        let all = series(|counts| u64::from(counts.all_are_up()));
        page.labelled("gannet_consumers_up", help, "gauge", "consumer_name", all);
    }
}
