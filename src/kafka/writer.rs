//! F10 · The thread that writes publications to Kafka.
//!
//! Owns the producer, which is idempotent: what is tried again is there once, and in order. A publication's key is its
//! channel, so that a channel is in one partition; its value is the data; what else is known of it is in headers. The
//! library's own thread tells what became of each.

use super::client::{Voice, client_config};
use super::log::{LogLink, Logged, cost};
use super::unwritten::Unwritten;
use crate::broker::Position;
use crate::broker::log::{LogCall, Withheld};
use crate::config::KafkaLogOptions;
use crate::protocol::Publication;
use crate::service::add_to_sum;
use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often the library is asked whether it can go on, while there is nothing to do.
const IDLE: Duration = Duration::from_secs(1);

/// A reply and the reactor whose it is.
type Reply = (u16, Withheld);

/// What the library gives back with the fate of a publication.
struct Sent {
    /// If somebody waits.
    number: Option<u64>,
    cost: usize,
}

/// Shared with the library's thread.
struct Shared {
    link: LogLink,
    pending: Mutex<Unwritten<Reply>>,
}

impl Shared {
    fn pending(&self) -> MutexGuard<'_, Unwritten<Reply>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, sent: &Sent, is_in: bool) {
        match is_in {
            true => self.link.counts.written(sent.cost),
            false => self.link.counts.failed(sent.cost),
        }
        let Some(number) = sent.number else { return };
        let replies = self.pending().end(number, is_in);
        for (reactor, withheld) in replies {
            self.link.answer(reactor, withheld, is_in);
        }
    }

    fn fail(&self, sent: &Sent, error: &KafkaError) {
        let error = error.to_string();
        add_to_sum("kafka_log failed", 1, move |publications| {
            tracing::warn!(publications, error, "publications that Kafka did not take are lost to it");
        });
        self.end(sent, false);
    }
}

#[derive(Clone)]
struct Delivery {
    voice: Voice,
    shared: Arc<Shared>,
}

impl ClientContext for Delivery {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        self.voice.log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.voice.error(error, reason);
    }
}

impl ProducerContext for Delivery {
    type DeliveryOpaque = Box<Sent>;

    fn delivery(&self, result: &DeliveryResult<'_>, sent: Box<Sent>) {
        match result {
            Ok(_) => self.shared.end(&sent, true),
            Err((error, _)) => self.shared.fail(&sent, error),
        }
    }
}

type LogProducer = ThreadedProducer<Delivery>;

struct Writer {
    config: ClientConfig,
    delivery: Delivery,
    producer: LogProducer,
    calls: Receiver<Logged>,
    /// Numbers that somebody waits for, and until when.
    deadlines: VecDeque<(Instant, u64)>,
    numbers: u64,
    patience: Duration,
}

/// Starts the thread. The error is a line for the operator.
pub fn start(options: &KafkaLogOptions, calls: Receiver<Logged>, link: LogLink) -> Result<(), String> {
    let mut config = client_config(&options.access())?;
    config.set("enable.idempotence", "true");
    // As Kafka's own client does it, so that others find a channel where they look for it.
    config.set("partitioner", "murmur2_random");
    // What waits is counted by the link.
    config.set("queue.buffering.max.messages", "0");
    config.set("queue.buffering.max.kbytes", i32::MAX.to_string());
    config.set("linger.ms", options.batch_delay.as_millis().to_string());
    config.set("message.timeout.ms", options.delivery_timeout.as_millis().to_string());
    config.set("message.max.bytes", options.message_size_limit.to_string());
    config.set("compression.codec", &options.compression);
    let shared = Arc::new(Shared { link, pending: Mutex::default() });
    let delivery = Delivery { voice: Voice { name: "kafka_log".into() }, shared };
    let producer = make(&config, &delivery).map_err(|error| format!("kafka_log: {error}"))?;
    let (deadlines, patience) = (VecDeque::new(), options.sync_timeout);
    let writer = Writer { config, delivery, producer, calls, deadlines, numbers: 0, patience };
    let thread = std::thread::Builder::new().name("kafka-log".into()).spawn(move || writer.run());
    thread.map(drop).map_err(|error| format!("cannot start a thread: {error}"))
}

fn make(config: &ClientConfig, delivery: &Delivery) -> Result<LogProducer, KafkaError> {
    config.create_with_context(delivery.clone())
}

impl Writer {
    fn run(mut self) {
        loop {
            let left = self.deadlines.front().map(|(at, _)| at.saturating_duration_since(Instant::now()));
            match self.calls.recv_timeout(left.unwrap_or(IDLE).min(IDLE)) {
                Ok((reactor, call)) => self.take(reactor, call),
                Err(RecvTimeoutError::Timeout) => self.look_after_producer(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.answer_overdue();
        }
    }

    fn take(&mut self, reactor: u16, call: LogCall) {
        self.numbers += 1;
        let (number, cost) = (self.numbers, cost(&call));
        let shared = self.delivery.shared.clone();
        match call {
            LogCall::Append { topic, channel, publication, position, withheld } => {
                let waits = withheld.is_some();
                if let Some(withheld) = withheld {
                    shared.pending().add(number, (reactor, *withheld));
                    self.deadlines.push_back((Instant::now() + self.patience, number));
                }
                let sent = Sent { number: waits.then_some(number), cost };
                self.send(&topic, &channel, &publication, position.as_ref(), sent);
            }
            LogCall::Settle { withheld } => {
                // Its lock is given back before the answer leaves.
                let ready = shared.pending().settle(number, (reactor, *withheld));
                match ready {
                    Some((reactor, withheld)) => shared.link.answer(reactor, withheld, true),
                    None => self.deadlines.push_back((Instant::now() + self.patience, number)),
                }
            }
        }
    }

    fn send(&mut self, topic: &str, channel: &str, publication: &Publication, position: Option<&Position>, sent: Sent) {
        let mut record = BaseRecord::with_opaque_to(topic, Box::new(sent))
            .key(channel)
            .payload(&publication.data[..])
            .headers(headers(channel, publication, position));
        // Once more with another producer, if this one cannot go on.
        for is_last in [false, true] {
            let Err((error, refused)) = self.producer.send(record) else { return };
            if is_last || error.rdkafka_error_code() != Some(RDKafkaErrorCode::Fatal) {
                return self.delivery.shared.fail(&refused.delivery_opaque, &error);
            }
            self.look_after_producer();
            record = refused;
        }
    }

    /// A producer that has lost the count of what the servers have can do nothing more: it is made anew. What it had
    /// is lost, and who waits for that is told.
    fn look_after_producer(&mut self) {
        let Some((_, reason)) = self.producer.client().fatal_error() else { return };
        match make(&self.config, &self.delivery) {
            Ok(producer) => {
                tracing::error!(reason, "the producer for Kafka cannot go on, and another one takes its place");
                self.producer = producer;
            }
            Err(error) => tracing::error!(reason, %error, "the producer for Kafka cannot go on: restart the node"),
        }
    }

    fn answer_overdue(&mut self) {
        let now = Instant::now();
        while let Some(&(at, number)) = self.deadlines.front()
            && at <= now
        {
            self.deadlines.pop_front();
            let overdue = self.delivery.shared.pending().overdue(number);
            if let Some((reactor, withheld)) = overdue {
                self.delivery.shared.link.counts.late();
                self.delivery.shared.link.answer(reactor, withheld, false);
            }
        }
    }
}

/// What is known of a publication beside its data.
fn headers(channel: &str, publication: &Publication, position: Option<&Position>) -> OwnedHeaders {
    let all = OwnedHeaders::new_with_capacity(5 + publication.tags.len());
    let mut all = all.insert(Header { key: "gannet-channel", value: Some(channel) });
    if let Some(Position { offset, epoch }) = position {
        all = all.insert(Header { key: "gannet-offset", value: Some(&offset.to_string()) });
        all = all.insert(Header { key: "gannet-epoch", value: Some(&epoch.to_string()) });
    }
    if let Some(info) = &publication.info {
        all = all.insert(Header { key: "gannet-user", value: Some(&info.user) });
        all = all.insert(Header { key: "gannet-client", value: Some(&info.client) });
    }
    for (name, value) in &publication.tags {
        all = all.insert(Header { key: &format!("gannet-tag-{name}"), value: Some(value) });
    }
    all
}
