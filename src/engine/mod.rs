//! F10 · Engines: what keeps channels for all nodes, on a thread of its own, so that nothing else here can slow it.
//!
//! Owns that thread, and the way of reactors to it. Knows nothing of clients: owners of channels ask, and are told.

pub mod control;
pub mod counts;
mod post;
pub mod redis;

use crate::base::mailbox::Sender;
use crate::broker::engine::{Away, Engine, EngineCall, Heard};
use crate::config::{Config, RedisOptions, Store};
use crate::shard::Mail;
use bytes::Bytes;
use counts::EngineCounts;
use post::Post;
use redis::{Redis, Surroundings};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;

/// Batches of calls taken together.
const BATCHES: usize = 256;

/// What a reactor asks in a turn.
type Batch = (u16, Vec<(Engine, EngineCall)>);

/// A message of control on its way; `node`: to one alone.
pub struct Letter {
    pub node: Option<String>,
    pub message: Vec<u8>,
    /// Whether it was taken.
    pub taken: Option<oneshot::Sender<Result<(), String>>>,
}

/// By which reactors reach engines; cheap to clone.
#[derive(Clone)]
pub struct EngineLink {
    /// `None` if there is none but memory.
    sender: Option<mpsc::UnboundedSender<Batch>>,
    reactors: Arc<[Sender<Mail>]>,
}

impl EngineLink {
    /// Without an engine every call is answered at once.
    pub fn call(&self, reactor: u16, calls: Vec<(Engine, EngineCall)>) {
        let refused = match &self.sender {
            None => calls,
            Some(sender) => match sender.send((reactor, calls)) {
                Ok(()) => return,
                Err(refused) => refused.0.1,
            },
        };
        let Some(reactor) = self.reactors.get(usize::from(reactor)) else { return };
        let answers = refused.into_iter().filter_map(|(_, call)| away(call));
        reactor.send_all(&mut answers.map(Mail::Engine).collect());
    }
}

/// What who asked is told when there is no engine; nothing if nobody waits.
fn away(call: EngineCall) -> Option<Heard> {
    let ticket = match call {
        EngineCall::Listen { channel, life } => return Some(Heard::Listening { channel, life, result: Err(Away) }),
        EngineCall::Publish { ticket, .. }
        | EngineCall::Read { ticket, .. }
        | EngineCall::RemoveHistory { ticket, .. }
        | EngineCall::Presence { ticket, .. }
        | EngineCall::PresenceStats { ticket, .. } => ticket,
        EngineCall::RemovePresence { ticket, .. } => ticket?,
        EngineCall::Unlisten { .. } | EngineCall::Announce { .. } | EngineCall::AddPresence { .. } => return None,
    };
    Some(Heard::Answer { ticket, answer: Err(Away) })
}

/// What the rest of the node needs of the engines.
pub struct Engines {
    pub link: EngineLink,
    /// Of the Redis engine, if there is one.
    pub redis: Option<Arc<EngineCounts>>,
    /// Messages of control, both ways.
    pub letters: Option<mpsc::UnboundedSender<Letter>>,
    pub control: mpsc::UnboundedReceiver<Bytes>,
}

/// Options with the section that they stand in.
type OwnedSection = (RedisOptions, &'static str);

/// The Redis of a configuration: that of channels, and that of presence if it is another.
fn redis_of(config: &Config) -> Option<(OwnedSection, Option<OwnedSection>)> {
    let owned = |store: Store<'_>| match store {
        Store::Redis(options, at) => Some((options.clone(), at)),
        _ => None,
    };
    let broker = owned(config.broker_store());
    let presence = owned(config.presence_store());
    match (broker, presence) {
        (None, None) => None,
        (Some(broker), presence) => {
            let other = presence.filter(|presence| presence.0 != broker.0);
            Some((broker, other))
        }
        (None, Some(presence)) => Some((presence, None)),
    }
}

/// What the servers of a configuration are and what to change about them, for people. The error is a line for the
/// operator.
pub fn report(config: &Config) -> Result<String, String> {
    let Some((broker, presence)) = redis_of(config) else {
        return Ok("no engine is configured: channels are in this process alone (engine.type)\n".into());
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let ask = async {
        let mut lines = Vec::new();
        for (options, at) in [Some(&broker), presence.as_ref()].into_iter().flatten() {
            for (server, facts) in redis::examine((options, at)).await? {
                let kind = if facts.is_cluster { "Redis Cluster" } else { "Redis" };
                let policy = facts.memory_policy.as_deref().unwrap_or("not told");
                let memory = match facts.memory_max {
                    Some(0) => "what the host has".to_owned(),
                    Some(bytes) => format!("{} MiB", bytes >> 20),
                    None => "not told".to_owned(),
                };
                lines.push(format!(
                    "{at}: {server}: {kind} {}, a round trip takes {:?}",
                    facts.version, facts.round_trip
                ));
                lines.push(format!("  memory: {memory}, maxmemory-policy: {policy}"));
                lines.extend(redis::advice(&facts).into_iter().map(|line| format!("  change: {line}")));
            }
        }
        Ok(lines.join("\n") + "\n")
    };
    LocalSet::new().block_on(&runtime, ask)
}

impl Engines {
    /// Checks the servers and starts the thread. The error is a line for the operator.
    pub fn start(config: &Config, uid: &str, reactors: Vec<Sender<Mail>>, seed: u64) -> Result<Engines, String> {
        let (tell_control, control) = mpsc::unbounded_channel();
        let shared: Arc<[Sender<Mail>]> = reactors.clone().into();
        let Some((broker, presence)) = redis_of(config) else {
            let link = EngineLink { sender: None, reactors: shared };
            return Ok(Engines { link, redis: None, letters: None, control });
        };
        let names = redis::server_names((&broker.0, broker.1))?;
        let counts = Arc::new(EngineCounts::new(names));
        let (sender, receiver) = mpsc::unbounded_channel();
        let (letters, letter_box) = mpsc::unbounded_channel();
        let (started, starting) = std::sync::mpsc::channel();
        let thread = EngineThread {
            broker,
            presence,
            uid: uid.to_owned(),
            reactors,
            seed,
            counts: counts.clone(),
            calls: receiver,
            letters: letter_box,
            control: tell_control,
        };
        let run = move || thread.run(&started);
        thread::Builder::new()
            .name("engine".into())
            .spawn(run)
            .map_err(|error| format!("cannot start a thread: {error}"))?;
        starting.recv().map_err(|_| "the engine's thread ended".to_owned())??;
        let link = EngineLink { sender: Some(sender), reactors: shared };
        Ok(Engines { link, redis: Some(counts), letters: Some(letters), control })
    }
}

struct EngineThread {
    broker: OwnedSection,
    presence: Option<OwnedSection>,
    uid: String,
    reactors: Vec<Sender<Mail>>,
    seed: u64,
    counts: Arc<EngineCounts>,
    calls: mpsc::UnboundedReceiver<Batch>,
    letters: mpsc::UnboundedReceiver<Letter>,
    control: mpsc::UnboundedSender<Bytes>,
}

impl EngineThread {
    fn run(self, started: &std::sync::mpsc::Sender<Result<(), String>>) {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(started.send(Err(format!("cannot start the engine's runtime: {error}")))),
        };
        LocalSet::new().block_on(&runtime, self.serve(started));
    }

    async fn serve(mut self, started: &std::sync::mpsc::Sender<Result<(), String>>) {
        let result = self.start().await;
        let redis = match result {
            Ok(redis) => Rc::new(redis),
            Err(why) => return drop(started.send(Err(why))),
        };
        if started.send(Ok(())).is_err() {
            return;
        }
        tokio::task::spawn_local(post_letters(self.letters, redis.clone()));
        let mut batches = Vec::with_capacity(BATCHES);
        while self.calls.recv_many(&mut batches, BATCHES).await > 0 {
            let calls =
                batches.drain(..).flat_map(|(reactor, calls)| calls.into_iter().map(move |(_, call)| (reactor, call)));
            redis.take(calls);
        }
    }

    async fn start(&self) -> Result<Redis, String> {
        let sections = [Some(&self.broker), self.presence.as_ref()];
        for (options, at) in sections.into_iter().flatten() {
            for (server, facts) in redis::examine((options, at)).await? {
                let redis::RedisFacts { version, round_trip, .. } = &facts;
                tracing::info!(server, version, ?round_trip, "the engine's server");
                for line in redis::advice(&facts) {
                    tracing::warn!(server, "{line}");
                }
            }
        }
        let post = Rc::new(RefCell::new(Post::new(self.reactors.clone(), self.seed, self.counts.clone())));
        let counts = self.counts.clone();
        let around = Surroundings { post, counts, uid: self.uid.clone(), control: self.control.clone() };
        let presence = self.presence.as_ref().map(|(options, at)| (options, *at));
        Redis::start((&self.broker.0, self.broker.1), presence, &around)
    }
}

/// Sends messages of control, each on its own: one that waits keeps no other.
async fn post_letters(mut letters: mpsc::UnboundedReceiver<Letter>, redis: Rc<Redis>) {
    while let Some(Letter { node, message, taken }) = letters.recv().await {
        let redis = redis.clone();
        tokio::task::spawn_local(async move {
            let result = redis.tell(node.as_deref(), &message).await;
            if let Some(taken) = taken {
                // Who gave up waiting does not mind.
                let _ = taken.send(result);
            }
        });
    }
}
