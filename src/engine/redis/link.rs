//! F10 · The connection to one server for calls, kept as long as the server is there.
//!
//! Owns finding the server (by itself, or by asking sentinels), connecting again with pauses that grow, and the
//! breaker: from the first sign of trouble until a new connection has answered there is none, so that nobody waits for
//! a server that is gone. Knows nothing of what is called.

use super::address::Address;
use super::dial::{Dialled, RedisFault, RedisServer};
use super::scripts;
use crate::engine::backoff::Backoff;
use crate::engine::counts::EngineCounts;
use crate::engine::place::host_and_port;
use crate::service::add_to_sum;
use redis::aio::MultiplexedConnection;
use redis::{Pipeline, Value};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// Sentinels are asked again so often: not every failover ends the connections to the old server.
const SENTINELS_AGAIN: Duration = Duration::from_secs(5);

/// How the server is found.
#[derive(Clone)]
pub enum Finder {
    At(RedisServer),
    Sentinels {
        /// Those that are asked.
        sentinels: Vec<RedisServer>,
        master_name: String,
        /// How the one that they name is spoken to.
        like: RedisServer,
    },
}

impl Finder {
    pub async fn find(&self) -> Result<RedisServer, RedisFault> {
        let (sentinels, master_name, like) = match self {
            Finder::At(server) => return Ok(server.clone()),
            Finder::Sentinels { sentinels, master_name, like } => (sentinels, master_name, like),
        };
        let mut last = RedisFault("there is no sentinel".into());
        for sentinel in sentinels {
            match ask(sentinel, master_name).await {
                Ok((host, port)) => return Ok(like.at(&host, port)),
                Err(fault) => last = fault,
            }
        }
        Err(last)
    }

    fn has_sentinels(&self) -> bool {
        matches!(self, Finder::Sentinels { .. })
    }
}

async fn ask(sentinel: &RedisServer, master_name: &str) -> Result<(String, u16), RedisFault> {
    let mut dialled = sentinel.dial(None).await?;
    let mut cmd = redis::cmd("SENTINEL");
    cmd.arg("GET-MASTER-ADDR-BY-NAME").arg(master_name);
    let answer = dialled.conn.send_packed_command(&cmd).await?.extract_error()?;
    let parts: Vec<String> = redis::from_redis_value(answer)
        .map_err(|_| RedisFault(format!("{}: the sentinel knows no servers called {master_name:?}", sentinel.place)))?;
    match &parts[..] {
        [host, port] => host_and_port(&format!("[{host}]:{port}"), 6379).map_err(RedisFault),
        _ => Err(RedisFault(format!("{}: the sentinel knows no servers called {master_name:?}", sentinel.place))),
    }
}

pub struct Link {
    finder: Finder,
    /// For the log.
    pub name: String,
    /// Which of the servers it is.
    index: usize,
    counts: Arc<EngineCounts>,
    current: RefCell<Option<Rc<Dialled>>>,
    /// Of the current connection.
    generation: Cell<u64>,
    /// It failed.
    broken: Notify,
}

impl Link {
    pub fn new(finder: Finder, name: String, index: usize, counts: Arc<EngineCounts>) -> Rc<Link> {
        let (current, generation, broken) = (RefCell::default(), Cell::new(0), Notify::new());
        Rc::new(Link { finder, name, index, counts, current, generation, broken })
    }

    /// The connection, if there is one, and its number.
    pub fn get(&self) -> Option<(Rc<Dialled>, u64)> {
        Some((self.current.borrow().clone()?, self.generation.get()))
    }

    /// Where it goes, if that is always the same place.
    pub fn server(&self) -> Option<RedisServer> {
        match &self.finder {
            Finder::At(server) => Some(server.clone()),
            Finder::Sentinels { .. } => None,
        }
    }

    pub fn is_up(&self) -> bool {
        self.current.borrow().is_some()
    }

    /// That connection is of no use any more: what waits for it fails at once.
    pub fn fail(&self, generation: u64) {
        if self.generation.get() == generation
            && let Some(dialled) = self.current.take()
        {
            dialled.end();
            self.counts.set_up(self.index, false);
            self.broken.notify_one();
        }
    }

    /// Keeps a connection, for ever.
    pub async fn keep(self: Rc<Self>) {
        let mut backoff = Backoff::new();
        loop {
            match self.connect().await {
                Ok((server, dialled)) => {
                    backoff.connected();
                    let ended = dialled.ended.clone();
                    let generation = self.generation.get() + 1;
                    self.generation.set(generation);
                    self.current.replace(Some(Rc::new(dialled)));
                    self.counts.set_up(self.index, true);
                    tracing::info!(server = %server.place, "connected to the engine");
                    tokio::select! {
                        () = ended.notified() => self.fail(generation),
                        () = self.broken.notified() => {}
                        () = self.moved(&server) => self.fail(generation),
                    }
                    // What `fail` left for who waits is not for the next connection.
                    let _ = futures_util::FutureExt::now_or_never(self.broken.notified());
                    EngineCounts::add(&self.counts.reconnects, 1);
                    tracing::warn!(server = %server.place, "the connection to the engine is lost, connecting again");
                }
                Err(fault) => {
                    let name = self.name.clone();
                    add_to_sum("engine unreachable", 1, move |count| {
                        tracing::warn!(server = name, count, %fault, "the engine cannot be reached, trying again");
                    });
                }
            }
            backoff.wait().await;
        }
    }

    async fn connect(&self) -> Result<(RedisServer, Dialled), RedisFault> {
        let server = self.finder.find().await?;
        let mut dialled = server.dial(None).await?;
        if self.finder.has_sentinels() {
            must_be_master(&mut dialled).await?;
        }
        load_scripts(&mut dialled.conn).await?;
        Ok((server, dialled))
    }

    /// Ends when sentinels name another server.
    async fn moved(&self, server: &RedisServer) {
        loop {
            tokio::time::sleep(SENTINELS_AGAIN).await;
            if self.finder.has_sentinels()
                && let Ok(now) = self.finder.find().await
                && now.place != server.place
            {
                return;
            }
        }
    }
}

/// Sentinels may name a server that is not yet, or no longer, the master.
pub async fn must_be_master(dialled: &mut Dialled) -> Result<(), RedisFault> {
    let answer = dialled.conn.send_packed_command(&redis::cmd("ROLE")).await?.extract_error()?;
    let Value::Array(parts) = answer else { return Err(RedisFault("the server does not tell its role".into())) };
    match parts.into_iter().next() {
        Some(Value::BulkString(role)) if role == b"master" => Ok(()),
        _ => Err(RedisFault("the server is a replica: sentinels have not finished".into())),
    }
}

/// So that calls can name them by their SHA-1.
pub async fn load_scripts(conn: &mut MultiplexedConnection) -> Result<(), RedisFault> {
    let mut pipeline = Pipeline::new();
    for script in scripts::all() {
        pipeline.cmd("SCRIPT").arg("LOAD").arg(script.text);
    }
    let count = pipeline.len();
    for answer in conn.send_packed_commands(&pipeline, 0, count).await? {
        answer.extract_error()?;
    }
    Ok(())
}

/// Addresses of one option's entry, which may be several by commas.
pub fn addresses(entry: &str, port: u16) -> Result<Vec<Address>, String> {
    let parts = entry.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts.map(|part| Address::parse(part, port)).collect()
}
