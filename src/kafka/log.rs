//! F10 · The way of reactors to the log of publications, and what is counted of it.
//!
//! Owns the room: how many publications, and bytes of them, may wait for Kafka. A reactor never waits: what finds no
//! room is dropped and counted; what somebody waits for is refused before it has its place ([`LogLink::is_full`]).

use crate::base::mailbox::Sender;
use crate::base::metrics::Page;
use crate::broker::log::{LogCall, Withheld};
use crate::broker::{Answer, Event, Target};
use crate::config::KafkaLogOptions;
use crate::protocol::code::ClientError;
use crate::service::add_to_sum;
use crate::shard::Mail;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Bytes of a publication in the log beside its data and its channel's name, about.
const COST: usize = 256;
/// How often it is looked whether all is written.
const LOOK: Duration = Duration::from_millis(10);

/// A call and the reactor that it comes from.
pub type Logged = (u16, LogCall);

/// What is in the log, and what is not yet.
#[derive(Default)]
pub struct LogCounts {
    waiting: AtomicUsize,
    waiting_bytes: AtomicUsize,
    written: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
    late: AtomicU64,
    /// Somebody waited too long, and nothing was taken since.
    away: AtomicBool,
}

/// A reactor's end; cheap to clone.
#[derive(Clone)]
pub struct LogLink {
    /// `None` = there is no log.
    calls: Option<mpsc::Sender<Logged>>,
    pub counts: Arc<LogCounts>,
    reactors: Arc<[Sender<Mail>]>,
    size_max: usize,
    bytes_max: usize,
    shutdown_timeout: Duration,
}

impl LogLink {
    /// Starts the log, if there is to be one. The error is a line for the operator.
    pub fn start(options: &KafkaLogOptions, reactors: &[Sender<Mail>]) -> Result<LogLink, String> {
        let (calls, queue) = mpsc::channel();
        let link = LogLink {
            calls: Some(calls),
            counts: Arc::default(),
            reactors: reactors.into(),
            size_max: options.queue_size,
            bytes_max: options.queue_memory_limit,
            shutdown_timeout: options.shutdown_timeout,
        };
        match options.brokers.is_empty() {
            true => Ok(LogLink { calls: None, ..link }),
            false => start_writer(options, queue, &link).map(|()| link),
        }
    }

    /// Never waits.
    pub fn tell(&self, me: u16, call: LogCall) {
        let waits = !matches!(call, LogCall::Append { withheld: None, .. });
        let cost = cost(&call);
        if !waits && self.has_no_room() {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
            let advice = "publications are not in Kafka: is it there, and does it keep up (kafka_log.queue_size)?";
            return add_to_sum("kafka_log dropped", 1, move |publications| {
                tracing::warn!(publications, "{advice}");
            });
        }
        self.counts.take(cost);
        let refused = match &self.calls {
            None => (me, call),
            Some(calls) => match calls.send((me, call)) {
                Ok(()) => return,
                Err(refused) => refused.0,
            },
        };
        self.counts.failed(cost);
        if let LogCall::Append { withheld: Some(withheld), .. } | LogCall::Settle { withheld } = refused.1 {
            self.answer(refused.0, *withheld, false);
        }
    }

    fn has_no_room(&self) -> bool {
        let LogCounts { waiting, waiting_bytes, .. } = &*self.counts;
        self.calls.is_none()
            || waiting.load(Ordering::Relaxed) >= self.size_max
            || waiting_bytes.load(Ordering::Relaxed) >= self.bytes_max
    }

    /// Is it of no use to wait for it?
    pub fn is_full(&self) -> bool {
        let away = self.counts.away.load(Ordering::Relaxed) && self.counts.waiting.load(Ordering::Relaxed) > 0;
        self.has_no_room() || away
    }

    /// Gives an answer that was withheld; `is_in`: the log has what it is about.
    pub fn answer(&self, me: u16, withheld: Withheld, is_in: bool) {
        let Withheld { asker, answer } = withheld;
        let answer = if is_in { answer } else { Answer::Refused(ClientError::Internal) };
        let reactor = match Target::from(asker) {
            Target::Reactor(reactor) => reactor,
            Target::Backend | Target::Log => me,
        };
        if let Some(reactor) = self.reactors.get(usize::from(reactor)) {
            reactor.send(Mail::Event(Event::Answer { asker, answer }));
        }
    }

    /// Waits until all is written, for as long as the operator gives it.
    pub fn finish(&self) {
        let until = Instant::now() + self.shutdown_timeout;
        while self.counts.waiting.load(Ordering::Relaxed) > 0 && Instant::now() < until {
            std::thread::sleep(LOOK);
        }
        let lost = self.counts.waiting.load(Ordering::Relaxed);
        if lost > 0 {
            tracing::warn!(publications = lost, "not in Kafka when the node left (kafka_log.shutdown_timeout)");
        }
    }
}

/// Bytes that a publication takes while it waits, about.
pub fn cost(call: &LogCall) -> usize {
    match call {
        LogCall::Append { channel, publication, .. } => {
            let tags = publication.tags.iter().map(|(name, value)| name.len() + value.len() + 32);
            COST + channel.len() + publication.data.len() + tags.sum::<usize>()
        }
        LogCall::Settle { .. } => 0,
    }
}

#[cfg(feature = "kafka")]
fn start_writer(options: &KafkaLogOptions, queue: mpsc::Receiver<Logged>, link: &LogLink) -> Result<(), String> {
    super::writer::start(options, queue, link.clone())
}

#[cfg(not(feature = "kafka"))]
fn start_writer(_: &KafkaLogOptions, _: mpsc::Receiver<Logged>, _: &LogLink) -> Result<(), String> {
    // The check of the configuration says more.
    Err("kafka_log: this build has no Kafka".into())
}

impl LogCounts {
    fn take(&self, cost: usize) {
        if cost > 0 {
            self.waiting.fetch_add(1, Ordering::Relaxed);
            self.waiting_bytes.fetch_add(cost, Ordering::Relaxed);
        }
    }

    fn give_back(&self, cost: usize) {
        if cost > 0 {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            self.waiting_bytes.fetch_sub(cost, Ordering::Relaxed);
        }
    }

    /// Kafka has a publication.
    pub fn written(&self, cost: usize) {
        self.give_back(cost);
        self.written.fetch_add(1, Ordering::Relaxed);
        self.away.store(false, Ordering::Relaxed);
    }

    /// It will not have it.
    pub fn failed(&self, cost: usize) {
        self.give_back(cost);
        self.failed.fetch_add(u64::from(cost > 0), Ordering::Relaxed);
    }

    /// Somebody waited too long.
    pub fn late(&self) {
        self.late.fetch_add(1, Ordering::Relaxed);
        self.away.store(true, Ordering::Relaxed);
    }

    pub fn write(&self, page: &mut Page) {
        let counters = [
            ("gannet_kafka_log_written_total", "Publications that Kafka has taken.", &self.written),
            (
                "gannet_kafka_log_dropped_total",
                "Publications that Kafka was not given, for too much waited (kafka_log.queue_size).",
                &self.dropped,
            ),
            (
                "gannet_kafka_log_failed_total",
                "Publications that Kafka did not take, in kafka_log.delivery_timeout or at all.",
                &self.failed,
            ),
            (
                "gannet_kafka_log_late_total",
                "Publishers answered with error 100, for Kafka took longer than kafka_log.sync_timeout.",
                &self.late,
            ),
        ];
        for (name, help, counter) in counters {
            page.single(name, help, "counter", counter.load(Ordering::Relaxed));
        }
        let gauges = [
            ("gannet_kafka_log_waiting", "Publications that Kafka has not taken yet.", &self.waiting),
            ("gannet_kafka_log_waiting_bytes", "Bytes of them, about.", &self.waiting_bytes),
        ];
        for (name, help, gauge) in gauges {
            page.single(name, help, "gauge", gauge.load(Ordering::Relaxed));
        }
    }
}
