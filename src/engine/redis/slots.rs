//! F10 · Which of a shard's servers has a key: the one there is, or the one of its slot in a Redis Cluster.
//!
//! Owns the map of slots, its renewal, and a link for each master. Knows nothing of what is called.

use super::dial::{RedisFault, RedisServer};
use super::link::{Finder, Link};
use super::names::SLOTS;
use crate::engine::backoff::Backoff;
use crate::engine::counts::EngineCounts;
use redis::aio::MultiplexedConnection;
use redis::{ServerError, ServerErrorKind, Value};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// The map is asked for again after so many looks at whether all its servers are there; at once when one is not.
const LOOKS: u32 = 20;
const LOOK_EVERY: Duration = Duration::from_millis(500);

pub enum Slots {
    One(Rc<Link>),
    Cluster(Rc<Cluster>),
}

impl Slots {
    /// Where a key of that slot is; whichever there is, if there is no key.
    pub fn link(&self, slot: Option<u16>) -> Option<Rc<Link>> {
        match (self, slot) {
            (Slots::One(link), _) => Some(link.clone()),
            (Slots::Cluster(cluster), Some(slot)) => cluster.link(slot),
            (Slots::Cluster(_), None) => self.any(),
        }
    }

    /// One that is up, if there is one.
    pub fn any(&self) -> Option<Rc<Link>> {
        match self {
            Slots::One(link) => Some(link.clone()),
            Slots::Cluster(cluster) => {
                let links = cluster.links.borrow();
                links.iter().find(|link| link.is_up()).or(links.first()).cloned()
            }
        }
    }

    /// Where that error says that the key is: `Some(None)` if nobody knows that place yet.
    pub fn redirect(&self, error: &ServerError) -> Option<Option<Rc<Link>>> {
        let Slots::Cluster(cluster) = self else { return None };
        if !matches!(error.kind(), Some(ServerErrorKind::Moved | ServerErrorKind::Ask)) {
            return None;
        }
        if error.kind() == Some(ServerErrorKind::Moved) {
            cluster.stale.notify_one();
        }
        let place = error.details()?.split(' ').nth(1)?;
        let links = cluster.links.borrow();
        Some(links.iter().find(|link| link.name == place).cloned())
    }
}

pub struct Cluster {
    /// Those that the configuration names.
    seeds: Vec<RedisServer>,
    links: RefCell<Vec<Rc<Link>>>,
    /// For each slot the place of its link.
    map: RefCell<Vec<u16>>,
    index: usize,
    counts: Arc<EngineCounts>,
    /// The map is wrong.
    stale: Notify,
    next_seed: Cell<usize>,
}

/// `from`, `to`, and the master's host and port.
type Range = (u16, u16, String, u16);

impl Cluster {
    pub fn new(seeds: Vec<RedisServer>, index: usize, counts: Arc<EngineCounts>) -> Rc<Cluster> {
        let map = RefCell::new(vec![u16::MAX; usize::from(SLOTS)]);
        let (links, stale, next_seed) = (RefCell::default(), Notify::new(), Cell::new(0));
        Rc::new(Cluster { seeds, links, map, index, counts, stale, next_seed })
    }

    fn link(&self, slot: u16) -> Option<Rc<Link>> {
        let at = *self.map.borrow().get(usize::from(slot))?;
        self.links.borrow().get(usize::from(at)).cloned()
    }

    /// The master of a slot.
    pub fn server_of(&self, slot: u16) -> Result<RedisServer, RedisFault> {
        let server = self.link(slot).and_then(|link| link.server());
        server.ok_or_else(|| RedisFault("nobody has told yet which server has the partition".into()))
    }

    /// A server says that it does not have what the map says.
    pub fn doubt(&self) {
        self.stale.notify_one();
    }

    /// Keeps the map, for ever.
    pub async fn keep(self: Rc<Self>) {
        let mut backoff = Backoff::new();
        loop {
            match self.renew().await {
                Ok(()) => {
                    backoff.connected();
                    self.watch().await;
                }
                Err(fault) => tracing::debug!(%fault, "the map of the cluster is not told"),
            }
            backoff.wait().await;
        }
    }

    /// Ends when the map may be another: a replica takes the place of a master that is gone.
    async fn watch(&self) {
        for _ in 0..LOOKS {
            let told = tokio::time::timeout(LOOK_EVERY, self.stale.notified()).await.is_ok();
            let links = self.links.borrow();
            let mut used = self.map.borrow().clone();
            used.dedup();
            if told || !used.iter().all(|at| links.get(usize::from(*at)).is_some_and(|link| link.is_up())) {
                return;
            }
        }
    }

    async fn renew(self: &Rc<Self>) -> Result<(), RedisFault> {
        let known = self.links.borrow().iter().find_map(|link| link.get()).map(|(dialled, _)| dialled);
        let ranges = match known {
            Some(dialled) => slots_of(&mut dialled.conn.clone()).await?,
            None => {
                let at = self.next_seed.replace(self.next_seed.get() + 1);
                let seed = &self.seeds[at % self.seeds.len()];
                slots_of(&mut seed.dial(None).await?.conn).await?
            }
        };
        let mut map = vec![u16::MAX; usize::from(SLOTS)];
        for (from, to, host, port) in ranges {
            let at = self.place(&host, port);
            map.iter_mut().skip(usize::from(from)).take(usize::from(to - from) + 1).for_each(|slot| *slot = at);
        }
        self.map.replace(map);
        Ok(())
    }

    /// The link to that server, which is made if need be.
    fn place(&self, host: &str, port: u16) -> u16 {
        let server = self.seeds[0].at(host, port);
        let name = server.place.to_string();
        let mut links = self.links.borrow_mut();
        if let Some(at) = links.iter().position(|link| link.name == name) {
            return at as u16;
        }
        let link = Link::new(Finder::At(server), name, self.index, self.counts.clone());
        tokio::task::spawn_local(link.clone().keep());
        links.push(link);
        links.len() as u16 - 1
    }

    /// A server of the cluster, for PUB/SUB: another one each time.
    pub fn some_server(&self) -> RedisServer {
        let at = self.next_seed.replace(self.next_seed.get() + 1);
        let links = self.links.borrow();
        let up: Vec<&Rc<Link>> = links.iter().filter(|link| link.is_up()).collect();
        match up.get(at % up.len().max(1)) {
            Some(link) => link.server().unwrap_or_else(|| self.seeds[at % self.seeds.len()].clone()),
            None => self.seeds[at % self.seeds.len()].clone(),
        }
    }
}

/// Which master has which slots.
pub async fn slots_of(conn: &mut MultiplexedConnection) -> Result<Vec<Range>, RedisFault> {
    let mut cmd = redis::cmd("CLUSTER");
    cmd.arg("SLOTS");
    let answer = conn.send_packed_command(&cmd).await?.extract_error()?;
    let Value::Array(ranges) = answer else {
        return Err(RedisFault("CLUSTER SLOTS was not answered by a list".into()));
    };
    let ranges: Option<Vec<Range>> = ranges.into_iter().map(range).collect();
    match ranges {
        Some(ranges) if !ranges.is_empty() => Ok(ranges),
        _ => Err(RedisFault("the cluster has no slots yet".into())),
    }
}

fn range(value: Value) -> Option<Range> {
    let Value::Array(parts) = value else { return None };
    let [Value::Int(from), Value::Int(to), Value::Array(master), ..] = &parts[..] else { return None };
    let [Value::BulkString(host), Value::Int(port), ..] = &master[..] else { return None };
    let host = String::from_utf8(host.clone()).ok()?;
    let (from, to) = (u16::try_from(*from).ok()?, u16::try_from(*to).ok()?);
    (from <= to && to < SLOTS).then_some((from, to, host, u16::try_from(*port).ok()?))
}
