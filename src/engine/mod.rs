//! F10 · Engines: what keeps channels for all nodes, on a thread of its own, so that nothing else here can slow it.
//!
//! Owns that thread, and the way of reactors to it. Knows nothing of clients: owners of channels ask, and are told.

pub mod backoff;
pub mod board;
pub mod control;
pub mod counts;
mod interests;
pub mod nats;
mod place;
mod plan;
mod post;
pub mod redis;
pub mod report;
mod written;

use crate::base::mailbox::Sender;
use crate::broker::engine::{Engine, EngineCall};
use crate::config::Config;
use crate::shard::Mail;
use crate::wall_clock::unix_ms;
use board::{PresenceBoard, PresenceQuestion};
use bytes::Bytes;
use counts::EngineCounts;
use nats::{Nats, NatsSurroundings};
use plan::{EnginePlan, PresencePlace};
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
        let answers = refused.into_iter().filter_map(|(_, call)| call.away());
        reactor.send_all(&mut answers.map(Mail::Engine).collect());
    }
}

/// What the rest of the node needs of the engines.
pub struct Engines {
    pub link: EngineLink,
    /// Of each engine, by the name that its metrics have.
    pub counts: Vec<(&'static str, Arc<EngineCounts>)>,
    /// Messages of control, both ways.
    pub letters: Option<mpsc::UnboundedSender<Letter>>,
    pub control: mpsc::UnboundedReceiver<Bytes>,
    /// Who is present on this node, for those who ask all nodes, and the questions of this one.
    pub board: Arc<PresenceBoard>,
    pub questions: mpsc::UnboundedReceiver<PresenceQuestion>,
}

impl Engines {
    /// Checks the servers and starts the thread. The error is a line for the operator.
    pub fn start(config: &Config, uid: &str, reactors: Vec<Sender<Mail>>, seed: u64) -> Result<Engines, String> {
        let (tell_control, control) = mpsc::unbounded_channel();
        let (ask_fleet, questions) = mpsc::unbounded_channel();
        let shared: Arc<[Sender<Mail>]> = reactors.clone().into();
        let board = Arc::new(PresenceBoard::default());
        let plan = EnginePlan::new(config);
        if plan.is_empty() {
            let link = EngineLink { sender: None, reactors: shared };
            return Ok(Engines { link, counts: Vec::new(), letters: None, control, board, questions });
        }
        let counts = plan.counts()?;
        let (sender, receiver) = mpsc::unbounded_channel();
        let (letters, letter_box) = mpsc::unbounded_channel();
        let (started, starting) = std::sync::mpsc::channel();
        let thread = EngineThread {
            plan,
            uid: uid.to_owned(),
            reactors,
            seed,
            counts: counts.clone(),
            calls: receiver,
            letters: letter_box,
            control: tell_control,
            board: board.clone(),
            ask_fleet,
        };
        let run = move || thread.run(&started);
        thread::Builder::new()
            .name("engine".into())
            .spawn(run)
            .map_err(|error| format!("cannot start a thread: {error}"))?;
        starting.recv().map_err(|_| "the engine's thread ended".to_owned())??;
        let link = EngineLink { sender: Some(sender), reactors: shared };
        Ok(Engines { link, counts, letters: Some(letters), control, board, questions })
    }
}

struct EngineThread {
    plan: EnginePlan,
    uid: String,
    reactors: Vec<Sender<Mail>>,
    seed: u64,
    counts: Vec<(&'static str, Arc<EngineCounts>)>,
    calls: mpsc::UnboundedReceiver<Batch>,
    letters: mpsc::UnboundedReceiver<Letter>,
    control: mpsc::UnboundedSender<Bytes>,
    board: Arc<PresenceBoard>,
    ask_fleet: mpsc::UnboundedSender<PresenceQuestion>,
}

/// The engines at work.
struct AtWork {
    redis: Option<Redis>,
    nats: Option<Rc<Nats>>,
    /// Nodes speak to each other by NATS.
    control_by_nats: bool,
    presence: Option<PresencePlace>,
    board: Arc<PresenceBoard>,
    ask_fleet: mpsc::UnboundedSender<PresenceQuestion>,
    post: Rc<RefCell<Post>>,
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
        let at_work = match self.start().await {
            Ok(at_work) => Rc::new(at_work),
            Err(why) => return drop(started.send(Err(why))),
        };
        if started.send(Ok(())).is_err() {
            return;
        }
        tokio::task::spawn_local(post_letters(self.letters, at_work.clone()));
        let mut batches = Vec::with_capacity(BATCHES);
        while self.calls.recv_many(&mut batches, BATCHES).await > 0 {
            at_work.take(batches.drain(..));
        }
    }

    async fn start(&mut self) -> Result<AtWork, String> {
        for server in self.plan.examine().await? {
            tracing::info!(server = server.name, version = server.version, round_trip = ?server.round_trip, "the engine's server");
            for line in &server.advice {
                tracing::warn!(server = server.name, "{line}");
            }
        }
        let count = |name| self.counts.iter().find(|(known, _)| *known == name).map(|(_, counts)| counts.clone());
        let dropped = self.counts.first().map(|(_, counts)| counts.clone()).ok_or("there is no engine")?;
        let post = Rc::new(RefCell::new(Post::new(self.reactors.clone(), self.seed, dropped)));
        let control = |is_it: bool| is_it.then(|| self.control.clone());
        let by_nats = self.plan.control_by_nats;
        let redis = match count("redis") {
            Some(counts) => {
                let around =
                    Surroundings { post: post.clone(), counts, uid: self.uid.clone(), control: control(!by_nats) };
                let (broker, presence) = self.plan.redis_sections();
                Some(Redis::start(broker, presence, &around)?)
            }
            None => None,
        };
        let nats = match (&self.plan.nats, count("nats")) {
            (Some((options, at)), Some(counts)) => {
                let takes_bytes = std::mem::replace(&mut self.plan.takes_bytes, Box::new(|_| false));
                let (post, uid, control) = (post.clone(), self.uid.clone(), control(by_nats));
                Some(Nats::start(options, at, NatsSurroundings { post, counts, uid, control, takes_bytes })?)
            }
            _ => None,
        };
        let (board, ask_fleet) = (self.board.clone(), self.ask_fleet.clone());
        Ok(AtWork { redis, nats, control_by_nats: by_nats, presence: self.plan.presence, board, ask_fleet, post })
    }
}

impl AtWork {
    /// Carries out what owners ask, in the order given for each channel and engine.
    fn take(self: &Rc<Self>, batches: impl Iterator<Item = Batch>) {
        let (mut to_redis, mut to_nats) = (Vec::new(), Vec::new());
        for (reactor, calls) in batches {
            for (engine, call) in calls {
                match self.place(engine, &call) {
                    Some(PresencePlace::Redis) => to_redis.push((reactor, call)),
                    Some(PresencePlace::Board) => self.note(reactor, call),
                    None if engine == Engine::Redis => to_redis.push((reactor, call)),
                    None => to_nats.push((reactor, call)),
                }
            }
        }
        match &self.redis {
            Some(redis) if !to_redis.is_empty() => redis.take(to_redis.into_iter()),
            Some(_) => {}
            None => self.refuse(to_redis),
        }
        match &self.nats {
            Some(nats) if !to_nats.is_empty() => nats.take(to_nats.into_iter()),
            Some(_) => {}
            None => self.refuse(to_nats),
        }
        self.post.borrow_mut().flush();
    }

    /// Where it belongs, if it is a call of presence that is not its engine's own.
    fn place(&self, engine: Engine, call: &EngineCall) -> Option<PresencePlace> {
        let own = if engine == Engine::Nats { Some(PresencePlace::Board) } else { None };
        if call.is_presence() { self.presence.or(own) } else { None }
    }

    /// A configuration that was loaded since names an engine that was not started.
    fn refuse(&self, calls: Vec<(u16, EngineCall)>) {
        for (reactor, call) in calls {
            if let Some(heard) = call.away() {
                self.post.borrow_mut().reply(reactor, heard);
            }
        }
    }

    /// Presence that no engine keeps.
    fn note(self: &Rc<Self>, reactor: u16, call: EngineCall) {
        let (ticket, channel, whole, most) = match self.board.take(call) {
            board::Noted::Nothing => return,
            board::Noted::Answer(ticket, answer) => {
                return self.post.borrow_mut().answer(reactor, ticket, Ok(answer));
            }
            board::Noted::Ask { ticket, channel, whole, most } => (ticket, channel, whole, most),
        };
        let (answer, wait) = oneshot::channel();
        // The service is gone only when the process is.
        let _ = self.ask_fleet.send(PresenceQuestion { channel, most, answer });
        let at_work = self.clone();
        tokio::task::spawn_local(async move {
            let found = wait.await.ok().flatten();
            let mut post = at_work.post.borrow_mut();
            post.answer(reactor, ticket, board::answer(found, whole));
            post.flush();
        });
    }

    async fn tell(&self, node: Option<&str>, message: &[u8]) -> Result<(), String> {
        match (self.control_by_nats, &self.nats, &self.redis) {
            (true, Some(nats), _) => nats.tell(node, message).await,
            (false, _, Some(redis)) => redis.tell(node, message).await,
            _ => Err("there is no engine".into()),
        }
    }
}

/// Sends messages of control, each on its own: one that waits keeps no other.
async fn post_letters(mut letters: mpsc::UnboundedReceiver<Letter>, at_work: Rc<AtWork>) {
    while let Some(Letter { node, message, taken }) = letters.recv().await {
        let at_work = at_work.clone();
        tokio::task::spawn_local(async move {
            let result = at_work.tell(node.as_deref(), &message).await;
            if let Some(taken) = taken {
                // Who gave up waiting does not mind.
                let _ = taken.send(result);
            }
        });
    }
}
