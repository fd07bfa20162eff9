//! F10 · Consumers: messages of databases and brokers that are carried out as calls of the API.
//!
//! Owns their thread, which is their own: drivers decode rows and parse JSON there, and neither the API nor health
//! waits for that. Owns each reader's life too: it is begun, begun again after its source was lost, and ended when the
//! node leaves. Never knows how a source is read.
//!
//! **A source** is a [`Source`], one for each part that has an order of its own, and has an arm in `Readers::spawn`.
//! Its `read` connects, and then for ever: waits for [`Feed::room`], reads some messages, gives each in its order to
//! [`Feed::carry_out`] (one try) or [`Feed::insist`] (until it is done), acknowledges what is `Done`, and says
//! [`Feed::reached`] and [`Feed::set_lag`]. `Again` is tried again before what follows. It returns an error when the
//! source is lost: the frame says so once, waits, and calls `read` again. It returns `Ok` when the node leaves
//! ([`Feed::stopped`], `Fate::Stopping`), after what was carried out is acknowledged. All of it is one thread with a
//! set of local tasks, so a source may hold `Rc`s, clone its feed and spawn tasks by `spawn_local`.

// Sources that are not in every build use more of these.
#[cfg_attr(not(feature = "packaged"), allow(dead_code))]
mod content;
mod counts;
#[cfg(feature = "databases")]
pub mod dsn;
#[cfg_attr(not(feature = "packaged"), allow(dead_code))]
mod feed;
#[cfg(feature = "kafka")]
mod kafka;
#[cfg(feature = "jetstream")]
mod nats_jetstream;
#[cfg(feature = "databases")]
mod postgresql;
mod redis_stream;

pub use counts::ConsumersCounts;

use crate::admission::Admission;
use crate::config::{Config, NamedConsumer};
use crate::service::{Calls, Carrier, Node};
use crate::session::Settings;
use content::Form;
use counts::ConsumerCounts;
use feed::{Feed, Pauses, Shared};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{JoinHandle, LocalSet, spawn_local};

/// Whether the node leaves is looked at this often.
const LEAVING_INTERVAL: Duration = Duration::from_millis(100);

/// A part of what a consumer reads, with an order of its own.
trait Source: 'static {
    /// As the head of this module says.
    fn read(&mut self, feed: &Feed) -> impl Future<Output = Result<(), String>>;
}

/// What the rest of the node needs of the consumers.
pub struct Consumers {
    pub counts: ConsumersCounts,
    /// Calls of the API, theirs among them.
    pub calls: Arc<Calls>,
    /// Says nothing, and is closed when all is acknowledged.
    ended: Receiver<()>,
}

impl Consumers {
    /// Starts the thread, if there is one to run. The error is a line for the operator.
    pub fn start(
        node: Arc<Node>,
        settings: watch::Receiver<Arc<Settings>>,
        admission: Arc<Admission>,
    ) -> Result<Consumers, String> {
        let config = settings.borrow().config.clone();
        let running: Vec<NamedConsumer> = config.running_consumers().cloned().collect();
        let all = running.iter().map(|consumer| (consumer.name.clone(), Arc::default())).collect();
        let counts = ConsumersCounts(all);
        let calls: Arc<Calls> = Arc::default();
        let (tell_end, ended) = channel();
        if running.is_empty() {
            return Ok(Consumers { counts, calls, ended });
        }
        let (started, starting) = channel();
        let (name, carrier) = (node.info.name.clone(), Carrier::new(node, calls.clone(), settings));
        let readers = Readers { name, carrier, admission, running, counts: counts.clone() };
        std::thread::Builder::new()
            .name("consumers".into())
            .spawn(move || {
                readers.run(&started);
                drop(tell_end);
            })
            .map_err(|error| format!("cannot start a thread: {error}"))?;
        starting.recv().map_err(|_| "the thread of consumers ended".to_owned())??;
        Ok(Consumers { counts, calls, ended })
    }

    /// Waits until what was carried out is acknowledged, but not longer than `patience`.
    pub fn wait(&self, patience: Duration) {
        if matches!(self.ended.recv_timeout(patience), Err(std::sync::mpsc::RecvTimeoutError::Timeout)) {
            tracing::warn!("a consumer did not end in time: some messages will be delivered again");
        }
    }
}

/// What is wrong with consumers that only shows when certificates are read.
pub fn faults(config: &Config) -> Vec<String> {
    let fault = |consumer: &NamedConsumer| {
        let options = &consumer.options;
        let found = match &*consumer.kind {
            #[cfg(feature = "databases")]
            "postgresql" => postgresql::sources(&options.postgresql, &consumer.name).map(drop),
            #[cfg(feature = "jetstream")]
            "nats_jetstream" => nats_jetstream::sources(&options.nats_jetstream).map(drop),
            "redis_stream" => redis_stream::sources(&options.redis_stream, "").map(drop),
            #[cfg(feature = "kafka")]
            "kafka" => kafka::sources(&options.kafka).map(drop),
            _ => Ok(()),
        };
        found.err().map(|why| format!("consumer {}: {why}", consumer.name))
    };
    config.running_consumers().filter_map(fault).collect()
}

/// File descriptors that consumers may take.
pub fn descriptors(config: &Config) -> usize {
    let of = |consumer: &NamedConsumer| {
        let options = &consumer.options;
        match &*consumer.kind {
            "postgresql" => options.postgresql.num_partitions + 1,
            "redis_stream" => options.redis_stream.streams.len() * options.redis_stream.num_workers,
            _ => 1,
        }
    };
    config.running_consumers().map(of).sum()
}

struct Readers {
    /// The node's.
    name: String,
    carrier: Carrier,
    admission: Arc<Admission>,
    running: Vec<NamedConsumer>,
    counts: ConsumersCounts,
}

impl Readers {
    fn run(self, started: &std::sync::mpsc::Sender<Result<(), String>>) {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(started.send(Err(format!("cannot start the consumers' runtime: {error}")))),
        };
        LocalSet::new().block_on(&runtime, async {
            let (tell, leaving) = watch::channel(false);
            let mut tasks = Vec::new();
            for (consumer, (_, counts)) in self.running.iter().zip(&self.counts.0) {
                match self.spawn(consumer, counts.clone(), leaving.clone()) {
                    Ok(spawned) => tasks.extend(spawned),
                    Err(why) => {
                        let _ = started.send(Err(format!("consumer {}: {why}", consumer.name)));
                        return;
                    }
                }
            }
            if started.send(Ok(())).is_err() {
                return;
            }
            while !self.admission.is_leaving() {
                tokio::time::sleep(LEAVING_INTERVAL).await;
            }
            tell.send_replace(true);
            for task in tasks {
                // A reader that panicked has said so.
                let _ = task.await;
            }
        });
    }

    /// Begins the readers of one consumer.
    fn spawn(
        &self,
        consumer: &NamedConsumer,
        counts: Arc<ConsumerCounts>,
        leaving: watch::Receiver<bool>,
    ) -> Result<Vec<JoinHandle<()>>, String> {
        let options = &consumer.options;
        let shared = |form: Form| {
            Rc::new(Shared {
                name: consumer.name.clone(),
                form,
                message_max: options.message_size_limit,
                carrier: self.carrier.clone(),
                admission: self.admission.clone(),
                leaving,
                counts,
                lost: Cell::new(0),
                told: Cell::new(false),
            })
        };
        match &*consumer.kind {
            #[cfg(feature = "databases")]
            "postgresql" => {
                let form = Form { method: postgresql::METHOD.into(), publication: None };
                Ok(begin(postgresql::sources(&options.postgresql, &consumer.name)?, &shared(form)))
            }
            #[cfg(feature = "jetstream")]
            "nats_jetstream" => {
                let options = &options.nats_jetstream;
                let form = Form::of_headers(&options.method_header, &options.publication_data_mode);
                Ok(begin(nats_jetstream::sources(options)?, &shared(form)))
            }
            "redis_stream" => {
                let options = &options.redis_stream;
                let form = Form::of_values(&options.method_value, &options.publication_data_mode);
                Ok(begin(redis_stream::sources(options, &self.name)?, &shared(form)))
            }
            #[cfg(feature = "kafka")]
            "kafka" => {
                let options = &options.kafka;
                let form = Form::of_headers(&options.method_header, &options.publication_data_mode);
                Ok(begin(kafka::sources(options)?, &shared(form)))
            }
            kind => Err(format!("{kind} is no kind of consumer")),
        }
    }
}

/// A task for each part.
fn begin<S: Source>(sources: Vec<S>, shared: &Rc<Shared>) -> Vec<JoinHandle<()>> {
    let feeds: Vec<Feed> = sources.iter().map(|_| Feed::new(shared.clone())).collect();
    sources.into_iter().zip(feeds).map(|(source, feed)| spawn_local(keep(source, feed))).collect()
}

/// Reads a source until the node leaves.
async fn keep<S: Source>(mut source: S, feed: Feed) {
    let mut pauses = Pauses::default();
    while let Err(why) = source.read(&feed).await {
        if feed.is_reached() {
            pauses.reset();
        }
        feed.lost(&why);
        if !feed.sleep(pauses.next()).await {
            return;
        }
    }
}
