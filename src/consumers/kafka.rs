//! F10 · Topics of Kafka as a source, by a member of a consumer group.
//!
//! Owns the member, a queue and a task for each partition that the group gives to it, and when its offsets are
//! committed: not before a message was carried out. The library fetches ahead into each queue, and no further once it
//! is full. Never knows what a message asks for.

use super::Source;
use super::content::Consumed;
use super::feed::{Feed, before_stop};
use crate::config::KafkaConsumer;
use crate::kafka::{Voice, client_config};
use bytes::Bytes;
use futures_util::FutureExt;
use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::stream_consumer::StreamPartitionQueue;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance, StreamConsumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::statistics::Statistics;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_local};

/// Offsets of what was carried out are committed this often, and when a partition goes.
const COMMIT_INTERVAL: &str = "1000";
/// How often the library says how far it is.
const STATISTICS_INTERVAL: &str = "2000";
/// How long the last commit may take when the node leaves, and the member's word that it goes.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// A topic and the number of a partition.
type Partition = (String, i32);

pub struct Kafka {
    options: KafkaConsumer,
    config: ClientConfig,
}

/// The error is about an option.
pub fn sources(options: &KafkaConsumer) -> Result<Vec<Kafka>, String> {
    let mut config = client_config(&options.access())?;
    let fetch = options.fetch_max_bytes;
    config.set("group.id", &options.consumer_group);
    // As the clients of other languages' nodes in the group do it.
    config.set("partition.assignment.strategy", "cooperative-sticky");
    config.set("auto.offset.reset", "earliest");
    config.set("enable.auto.commit", "true");
    config.set("enable.auto.offset.store", "false");
    config.set("auto.commit.interval.ms", COMMIT_INTERVAL);
    config.set("statistics.interval.ms", STATISTICS_INTERVAL);
    config.set("session.timeout.ms", options.session_timeout.as_millis().to_string());
    config.set("heartbeat.interval.ms", (options.session_timeout.as_millis() / 5).clamp(100, 3000).to_string());
    config.set("isolation.level", if options.fetch_read_uncommitted { "read_uncommitted" } else { "read_committed" });
    config.set("fetch.wait.max.ms", options.fetch_max_wait.as_millis().to_string());
    config.set("fetch.max.bytes", fetch.to_string());
    config.set("receive.message.max.bytes", (fetch + 4096).to_string());
    config.set("queued.max.messages.kbytes", (fetch / 1024).max(1).to_string());
    config.set("queued.min.messages", options.partition_queue_max_size.to_string());
    if !options.instance_id.is_empty() {
        config.set("group.instance.id", &options.instance_id);
    }
    // What is wrong with an option shows here, and not when messages are wanted.
    config.create_native_config().map_err(|error| format!("kafka: {error}"))?;
    Ok(vec![Kafka { options: options.clone(), config }])
}

/// What the library has told.
#[derive(Default)]
struct News {
    /// Partitions that are this member's, each with a number of its own in each life.
    held: HashMap<Partition, u64>,
    lives: u64,
    /// Those that have no task yet.
    given: Vec<Partition>,
    gone: Vec<Partition>,
    /// A broker can be reached; `None` = nobody has looked.
    up: Option<bool>,
    lag: u64,
}

/// What the library calls.
struct Member {
    voice: Voice,
    news: Mutex<News>,
    told: Notify,
}

impl Member {
    fn news(&self) -> MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn holds(&self, partition: &Partition, life: u64) -> bool {
        self.news().held.get(partition) == Some(&life)
    }
}

impl ClientContext for Member {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        self.voice.log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.voice.error(error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        let mut news = self.news();
        news.up = Some(statistics.brokers.values().any(|broker| broker.state == "UP"));
        let lag = |(topic, partition): &Partition| {
            let partition = statistics.topics.get(topic)?.partitions.get(partition)?;
            u64::try_from(partition.consumer_lag_stored).or(u64::try_from(partition.consumer_lag)).ok()
        };
        news.lag = news.held.keys().filter_map(lag).sum();
        drop(news);
        self.told.notify_one();
    }
}

impl ConsumerContext for Member {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Revoke(list) = rebalance {
            let mut news = self.news();
            for partition in partitions(list) {
                news.held.remove(&partition);
                news.given.retain(|given| *given != partition);
                news.gone.push(partition);
            }
            self.told.notify_one();
        }
    }

    fn post_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Assign(list) = rebalance {
            let mut news = self.news();
            for partition in partitions(list) {
                news.lives += 1;
                let life = news.lives;
                news.held.insert(partition.clone(), life);
                news.given.push(partition);
            }
            self.told.notify_one();
        }
    }
}

fn partitions(list: &TopicPartitionList) -> Vec<Partition> {
    list.elements().iter().map(|element| (element.topic().to_owned(), element.partition())).collect()
}

type Group = StreamConsumer<Member>;
type Tasks = HashMap<Partition, JoinHandle<Result<(), KafkaError>>>;

impl Source for Kafka {
    async fn read(&mut self, feed: &Feed) -> Result<(), String> {
        let voice = Voice { name: self.options.consumer_group.clone() };
        let member = Member { voice, news: Mutex::default(), told: Notify::new() };
        let group: Group = self.config.create_with_context(member).map_err(|error| error.to_string())?;
        let group = Arc::new(group);
        let topics: Vec<&str> = self.options.topics.iter().map(String::as_str).collect();
        let mut tasks = Tasks::new();
        let outcome = match group.subscribe(&topics) {
            Ok(()) => follow(feed, &group, &mut tasks).await,
            Err(error) => Err(error.to_string()),
        };
        // A task ends by itself when the node leaves; otherwise what it does is done again.
        for (_, task) in tasks {
            if outcome.is_err() {
                task.abort();
            }
            let _ = task.await;
        }
        close(group).await;
        outcome
    }
}

/// Takes the group's news, until the node leaves or the member cannot go on.
async fn follow(feed: &Feed, group: &Arc<Group>, tasks: &mut Tasks) -> Result<(), String> {
    let member = group.client().context().clone();
    loop {
        let turned = tokio::select! {
            biased;
            () = feed.stopped() => return Ok(()),
            () = member.told.notified() => None,
            // Messages have queues of their own, so this is an error, or one that came before its queue was there.
            message = group.recv() => Some(message),
        };
        match turned {
            Some(Err(KafkaError::MessageConsumptionFatal(error))) => return Err(error.to_string()),
            Some(Err(error)) => member.voice.error(error, "messages cannot be read"),
            Some(Ok(message)) => go_back(group, &message)?,
            None => {}
        }
        let (given, gone, up, lag) = {
            let mut news = member.news();
            (std::mem::take(&mut news.given), std::mem::take(&mut news.gone), news.up, news.lag)
        };
        for partition in gone {
            if let Some(task) = tasks.remove(&partition) {
                task.abort();
                let _ = task.await;
            }
        }
        begin(feed, group, given, tasks).await?;
        match up {
            Some(true) => feed.reached(),
            Some(false) if feed.is_reached() => feed.lost("no broker can be reached"),
            _ => {}
        }
        feed.set_lag(lag);
        if let Some(why) = failed(tasks).await {
            return Err(why);
        }
    }
}

/// Gives each new partition a queue and a task. Messages that came to the group's own queue before are read again.
async fn begin(feed: &Feed, group: &Arc<Group>, given: Vec<Partition>, tasks: &mut Tasks) -> Result<(), String> {
    let mut queues = Vec::new();
    for partition in given {
        let queue = group.split_partition_queue(&partition.0, partition.1);
        queues.push((partition, queue.ok_or("a partition has no queue")?));
    }
    let mut early: HashMap<Partition, i64> = HashMap::new();
    while !queues.is_empty()
        && let Some(Ok(message)) = group.recv().now_or_never()
    {
        early.entry((message.topic().to_owned(), message.partition())).or_insert(message.offset());
    }
    for ((topic, partition), offset) in &early {
        let seek = group.seek(topic, *partition, Offset::Offset(*offset), Duration::ZERO);
        seek.map_err(|error| error.to_string())?;
    }
    for (partition, queue) in queues {
        let Some(life) = group.client().context().news().held.get(&partition).copied() else { continue };
        let task = serve(feed.clone(), group.clone(), queue, partition.clone(), life);
        tasks.insert(partition, spawn_local(task));
    }
    Ok(())
}

/// A message that came past its partition's queue comes again in it.
fn go_back(group: &Group, message: &BorrowedMessage<'_>) -> Result<(), String> {
    let at = Offset::Offset(message.offset());
    group.seek(message.topic(), message.partition(), at, Duration::ZERO).map_err(|error| error.to_string())
}

/// Why a task ended that should not have.
async fn failed(tasks: &mut Tasks) -> Option<String> {
    let ended: Vec<Partition> =
        tasks.iter().filter(|(_, task)| task.is_finished()).map(|(partition, _)| partition.clone()).collect();
    for partition in ended {
        if let Ok(Err(error)) = tasks.remove(&partition)?.await {
            return Some(error.to_string());
        }
    }
    None
}

/// Carries out the messages of one partition, one after the other, as long as it is ours.
async fn serve(
    feed: Feed,
    group: Arc<Group>,
    queue: StreamPartitionQueue<Member>,
    partition: Partition,
    life: u64,
) -> Result<(), KafkaError> {
    let member = group.client().context();
    while feed.room().await {
        let Some(message) = before_stop(&feed, queue.recv()).await else { return Ok(()) };
        let message = message?;
        if !member.holds(&partition, life) {
            return Ok(());
        }
        feed.reached();
        let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
        let headers = headers.map(|header| (header.key, header.value.unwrap_or_default())).collect();
        let body = message.payload().unwrap_or_default();
        // Of what is too long nothing is carried out: it need not be copied.
        let body = Bytes::copy_from_slice(&body[..body.len().min(feed.message_max() + 1)]);
        let done = feed.insist(&Consumed { body, headers }).await;
        if !done || !member.holds(&partition, life) {
            return Ok(());
        }
        group.store_offset_from_message(&message)?;
    }
    Ok(())
}

/// Commits what was carried out and leaves the group. It may wait for brokers, so it is not for this thread.
async fn close(group: Arc<Group>) {
    let closing = tokio::task::spawn_blocking(move || {
        // There may be nothing to commit.
        let _ = group.commit_consumer_state(CommitMode::Sync);
        drop(group);
    });
    if tokio::time::timeout(LAST_WORDS, closing).await.is_err() {
        tracing::warn!("Kafka did not answer when a consumer left: some messages will be delivered again");
    }
}
