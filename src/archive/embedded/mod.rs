//! F10 · An archive on this host's disk.
//!
//! Owns the thread's work: what is called in a round is brought to the disk together, by one fsync if anybody waits for
//! it; what nobody waits for within `durable.flush_interval`. When the disk fails, everything is refused, and it is
//! opened anew now and then: what it says then is believed, and what it was told before is not. Knows nothing of files.

mod disk;
mod entry;
mod faults;
#[cfg(test)]
mod tests;

use super::{ArchiveCounts, ArchiveOrder, ArchivePost, ArchiveStore};
use crate::broker::archive::{ArchiveAnswer, ArchiveCall};
use crate::broker::engine::Away;
use crate::config::DurableStores;
use crate::wall_clock::unix_ms;
use disk::{Disk, DiskFault};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Orders of a round at most.
const ROUND: usize = 256;
/// How soon what is past its time is looked for again.
const SWEEP: Duration = Duration::from_millis(200);
/// How soon a disk that failed is opened again.
const RETRY: Duration = Duration::from_secs(2);
/// How often it is told that it is still so.
const REPEAT: Duration = Duration::from_secs(60);
/// How often it is measured what is on disk.
const MEASURE: Duration = Duration::from_secs(10);

pub struct Embedded {
    path: PathBuf,
    cache_bytes: u64,
    flush_interval: Duration,
    counts: Arc<ArchiveCounts>,
    /// Absent since it failed.
    disk: Option<Disk>,
    /// When it may be opened again, and when it is told again that it failed.
    retry_at: Instant,
    tell_at: Instant,
    /// Since when something waits to be brought to the disk.
    waits_since: Option<Instant>,
    sweep_at: Instant,
    measure_at: Instant,
    /// Answers of the round, which leave when all of it is on disk.
    answers: Vec<(u16, u64, Result<ArchiveAnswer, Away>)>,
    /// Somebody waits for the disk.
    fsyncs: bool,
    /// Publications of the round, and cursors.
    appended: usize,
    followed: usize,
}

impl Embedded {
    /// # Errors
    /// A line for the operator.
    pub fn open(options: &DurableStores, counts: Arc<ArchiveCounts>) -> Result<Embedded, String> {
        let (path, cache_bytes) = (PathBuf::from(&options.path), options.cache_size as u64);
        let disk = Disk::open(&path, cache_bytes).map_err(|fault| faults::line(&path, &fault))?;
        counts.is_up.store(true, Ordering::Relaxed);
        if disk.was_killed {
            tracing::info!(path = %path.display(), "the archive was not closed: channels with history_durability batched begin another epoch");
        }
        let now = Instant::now();
        Ok(Embedded {
            path,
            cache_bytes,
            flush_interval: options.flush_interval,
            counts,
            disk: Some(disk),
            retry_at: now,
            tell_at: now,
            waits_since: None,
            sweep_at: now,
            measure_at: now,
            answers: Vec::new(),
            fsyncs: false,
            appended: 0,
            followed: 0,
        })
    }

    async fn run(&mut self, orders: &mut mpsc::UnboundedReceiver<ArchiveOrder>, post: &mut ArchivePost) {
        let mut round = Vec::with_capacity(ROUND);
        loop {
            let flush_at = self.waits_since.map(|since| since + self.flush_interval);
            let until = flush_at.into_iter().chain([self.sweep_at]).min().unwrap_or(self.sweep_at);
            match tokio::time::timeout_at(until.into(), orders.recv_many(&mut round, ROUND)).await {
                Ok(0) => return self.flush(),
                Ok(_) => self.round(&mut round, post),
                Err(_) => {}
            }
            let now = Instant::now();
            if self.waits_since.is_some_and(|since| now >= since + self.flush_interval) {
                self.flush();
            }
            if now >= self.sweep_at {
                self.sweep(now);
            }
        }
    }

    /// Carries out what came together, and answers all of it when it is on disk.
    fn round(&mut self, round: &mut Vec<ArchiveOrder>, post: &mut ArchivePost) {
        self.open_again();
        let now_ms = unix_ms();
        let mut ends = Vec::new();
        for order in round.drain(..) {
            match order {
                ArchiveOrder::Calls(reactor, calls) => {
                    for call in calls {
                        self.counts.leave(&call);
                        self.carry_out(now_ms, reactor, call);
                    }
                }
                ArchiveOrder::End(ended) => ends.push(ended),
            }
        }
        self.commit();
        for (reactor, ticket, answer) in self.answers.drain(..) {
            post.answer(reactor, ticket, answer);
        }
        post.flush();
        if !ends.is_empty() && self.end() {
            for ended in ends {
                // Who waited may have given up.
                let _ = ended.send(());
            }
        }
    }

    fn carry_out(&mut self, now_ms: u64, reactor: u16, call: ArchiveCall) {
        let ticket = call.ticket();
        let is_append = matches!(call, ArchiveCall::Append { .. });
        let is_cursor = matches!(call, ArchiveCall::Follow { .. } | ArchiveCall::Unfollow { .. });
        let done = match &mut self.disk {
            Some(disk) => disk.carry_out(now_ms, call),
            None => Ok(None),
        };
        let answer = match done {
            Ok(Some((answer, fsyncs))) => {
                self.fsyncs |= fsyncs;
                self.appended += usize::from(is_append);
                self.followed += usize::from(is_cursor);
                Ok(answer)
            }
            Ok(None) => {
                ArchiveCounts::add(&self.counts.lost, usize::from(is_append));
                Err(Away)
            }
            Err(fault) => {
                self.fail(&fault);
                Err(Away)
            }
        };
        if let Some(ticket) = ticket {
            self.answers.push((reactor, ticket, answer));
        }
    }

    /// Brings what was gathered to the journal, and to the disk if anybody waits for that.
    fn commit(&mut self) {
        let fsyncs = std::mem::take(&mut self.fsyncs);
        let (appended, followed) = (std::mem::take(&mut self.appended), std::mem::take(&mut self.followed));
        let began = Instant::now();
        let done = match &mut self.disk {
            Some(disk) => disk.commit(fsyncs),
            None => Ok(false),
        };
        match done {
            Ok(false) if self.disk.is_none() => {}
            Ok(wrote) => {
                ArchiveCounts::add(&self.counts.appended, appended);
                ArchiveCounts::add(&self.counts.cursors, followed);
                if fsyncs {
                    self.waits_since = None;
                    self.count_commit(began);
                } else if wrote {
                    self.waits_since.get_or_insert(began);
                }
                return;
            }
            Err(fault) => self.fail(&fault),
        }
        ArchiveCounts::add(&self.counts.lost, appended);
        // What was read may be of what did not come to the disk.
        self.answers.iter_mut().for_each(|(_, _, answer)| *answer = Err(Away));
    }

    /// What nobody waits for comes to the disk.
    fn flush(&mut self) {
        self.waits_since = None;
        let began = Instant::now();
        match self.disk.as_mut().map(Disk::flush) {
            None => {}
            Some(Ok(())) => self.count_commit(began),
            Some(Err(fault)) => self.fail(&fault),
        }
    }

    fn count_commit(&self, began: Instant) {
        ArchiveCounts::add(&self.counts.commits, 1);
        ArchiveCounts::add(&self.counts.commit_micros, began.elapsed().as_micros() as usize);
    }

    /// Forgets a part of what is past its time.
    fn sweep(&mut self, now: Instant) {
        self.open_again();
        self.sweep_at = now + SWEEP;
        match self.disk.as_mut().map(|disk| disk.sweep(unix_ms())) {
            None | Some(Ok(0)) => {}
            Some(Ok(gone)) => {
                ArchiveCounts::add(&self.counts.expired, gone);
                self.waits_since.get_or_insert(now);
            }
            Some(Err(fault)) => self.fail(&fault),
        }
        if now >= self.measure_at {
            self.measure_at = now + MEASURE;
            if let Some(bytes) = self.disk.as_ref().and_then(Disk::bytes) {
                self.counts.disk_bytes.store(bytes, Ordering::Relaxed);
            }
        }
    }

    /// Nobody calls any more: this life ends cleanly.
    fn end(&mut self) -> bool {
        match self.disk.as_mut().map(Disk::end) {
            None => false,
            Some(Ok(())) => true,
            Some(Err(fault)) => {
                self.fail(&fault);
                false
            }
        }
    }

    /// The disk is not to be trusted any more.
    fn fail(&mut self, fault: &DiskFault) {
        let now = Instant::now();
        if self.counts.is_up.swap(false, Ordering::Relaxed) || now >= self.tell_at {
            self.tell_at = now + REPEAT;
            let line = faults::line(&self.path, fault);
            tracing::error!("{line}; until then publications with history_durability sync get error 100");
        }
        (self.disk, self.waits_since, self.retry_at) = (None, None, now + RETRY);
    }

    fn open_again(&mut self) {
        let now = Instant::now();
        if self.disk.is_some() || now < self.retry_at {
            return;
        }
        match Disk::open(&self.path, self.cache_bytes) {
            Ok(disk) => {
                tracing::info!(path = %self.path.display(), "the archive is open again");
                self.counts.is_up.store(true, Ordering::Relaxed);
                self.disk = Some(disk);
            }
            Err(fault) => self.fail(&fault),
        }
    }
}

impl ArchiveStore for Embedded {
    fn serve(mut self: Box<Self>, mut orders: mpsc::UnboundedReceiver<ArchiveOrder>, mut post: ArchivePost) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        match runtime {
            Ok(runtime) => runtime.block_on(self.run(&mut orders, &mut post)),
            Err(error) => tracing::error!(%error, "the archive's thread cannot start: restart the node"),
        }
    }
}
