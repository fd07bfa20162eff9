//! F10 · What an archive counts: shared by its thread, which adds, by reactors, which ask for room, and by the page of
//! metrics, which reads.

use crate::base::metrics::Page;
use crate::broker::archive::{ArchiveAnswer, ArchiveCall};
use crate::broker::engine::Away;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

#[derive(Debug, Default)]
pub struct ArchiveCounts {
    queue_max: usize,
    /// Bytes that wait.
    queued: AtomicUsize,
    /// It takes what it is told.
    pub is_up: AtomicBool,
    /// Publications taken, and those of them that came to nothing.
    pub appended: AtomicU64,
    pub lost: AtomicU64,
    /// Cursors of inboxes written.
    pub cursors: AtomicU64,
    /// Times that something was brought to the disk, and microseconds of that.
    pub commits: AtomicU64,
    pub commit_micros: AtomicU64,
    pub opened: AtomicU64,
    pub pages: AtomicU64,
    pub page_publications: AtomicU64,
    /// Calls answered with an error.
    pub failed: AtomicU64,
    /// Publications that went by archive_ttl and archive_size.
    pub expired: AtomicU64,
    /// Bytes on disk, as far as the archive knows.
    pub disk_bytes: AtomicU64,
}

impl ArchiveCounts {
    pub fn new(queue_max: usize) -> ArchiveCounts {
        ArchiveCounts { queue_max, ..ArchiveCounts::default() }
    }

    pub fn add(counter: &AtomicU64, count: usize) {
        counter.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// These wait from now on.
    pub fn enter(&self, calls: &[ArchiveCall]) {
        self.queued.fetch_add(calls.iter().map(ArchiveCall::size).sum(), Ordering::Relaxed);
    }

    /// This one waits no more.
    pub fn leave(&self, call: &ArchiveCall) {
        self.queued.fetch_sub(call.size(), Ordering::Relaxed);
    }

    pub fn room(&self) -> usize {
        self.queue_max.saturating_sub(self.queued.load(Ordering::Relaxed))
    }

    pub fn answered(&self, answer: &Result<ArchiveAnswer, Away>) {
        match answer {
            Ok(ArchiveAnswer::Opened { .. }) => ArchiveCounts::add(&self.opened, 1),
            Ok(ArchiveAnswer::Page(page)) => {
                ArchiveCounts::add(&self.pages, 1);
                ArchiveCounts::add(&self.page_publications, page.len());
            }
            Ok(ArchiveAnswer::Appended | ArchiveAnswer::Removed) => {}
            Err(Away) => ArchiveCounts::add(&self.failed, 1),
        }
    }

    pub fn write(&self, page: &mut Page) {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        for (rest, help, kind, counter) in [
            ("appended_total", "Publications archived.", "counter", &self.appended),
            ("lost_total", "Publications that could not be archived.", "counter", &self.lost),
            ("cursors_total", "Cursors of inboxes written.", "counter", &self.cursors),
            ("commits_total", "Times that publications were brought to the disk.", "counter", &self.commits),
            ("opened_total", "Streams of which it was asked where they stand.", "counter", &self.opened),
            ("pages_total", "Histories and recoveries read of the archive.", "counter", &self.pages),
            ("page_publications_total", "Publications that those reads brought.", "counter", &self.page_publications),
            ("errors_total", "Calls that came to nothing: error 100.", "counter", &self.failed),
            ("expired_total", "Publications that went by archive_ttl and archive_size.", "counter", &self.expired),
            ("disk_bytes", "Bytes on disk.", "gauge", &self.disk_bytes),
        ] {
            page.single(&format!("gannet_archive_{rest}"), help, kind, value(counter));
        }
        let seconds = value(&self.commit_micros) as f64 / 1e6;
        page.single("gannet_archive_commit_seconds_total", "Time that commits took.", "counter", seconds);
        let queued = self.queued.load(Ordering::Relaxed);
        page.single("gannet_archive_queue_bytes", "Bytes that wait for the archive.", "gauge", queued);
        let help = "How many that may be: durable.queue_size.";
        page.single("gannet_archive_queue_limit_bytes", help, "gauge", self.queue_max);
        let up = u64::from(self.is_up.load(Ordering::Relaxed));
        page.single("gannet_archive_up", "Whether the archive takes what it is told.", "gauge", up);
    }
}
