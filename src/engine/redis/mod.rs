//! F10 · Channels that live in Redis, as a fleet of Centrifugo nodes keeps them.
//!
//! Owns the servers of one configuration and which of them a channel is on: `names` what keys are called, `payload`
//! what is in messages, `scripts` what Redis runs, `commands` calls as commands, `calls` the pipelines, `link` and
//! `slots` the connections, `listener` and `interests` PUB/SUB, `check` whether a server will do. Knows nothing of
//! clients.

mod address;
mod calls;
mod check;
mod commands;
mod dial;
mod link;
mod listener;
pub mod names;
pub mod payload;
mod scripts;
mod slots;
#[cfg(test)]
mod tests;

pub use check::RedisFacts;

use super::counts::EngineCounts;
use super::post::Post;
use crate::broker::engine::EngineCall;
use crate::config::RedisOptions;
use bytes::Bytes;
use calls::RedisShard;
use commands::Dialect;
pub use dial::{Dialled, RedisFault};
use dial::{RedisLogin, RedisServer};
use link::{Finder, Link, addresses};
use listener::{Listener, ListenerParts};
use names::{Names, jump};
use slots::{Cluster, Slots};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::spawn_local;

const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// Options with the section that they stand in.
pub type Sectioned<'a> = (&'a RedisOptions, &'a str);

/// What is started around the servers.
pub struct Surroundings {
    pub post: Rc<RefCell<Post>>,
    pub counts: Arc<EngineCounts>,
    /// Of this node.
    pub uid: String,
    /// Where messages of control go, if nodes speak to each other here.
    pub control: Option<UnboundedSender<Bytes>>,
}

/// One shard of a configuration, not connected.
enum Place {
    One(Finder, String),
    Cluster(Vec<RedisServer>, String),
}

impl Place {
    fn name(&self) -> &str {
        match self {
            Place::One(_, name) | Place::Cluster(_, name) => name,
        }
    }

    async fn some_server(&self) -> Result<RedisServer, RedisFault> {
        match self {
            Place::One(finder, _) => finder.find().await,
            Place::Cluster(seeds, _) => Ok(seeds[0].clone()),
        }
    }
}

/// The shards that options name. The error begins with an option.
fn places((options, at): Sectioned<'_>) -> Result<Vec<Place>, String> {
    let caller = RedisLogin::new(options).map_err(|error| format!("{at}.{error}"))?;
    let read = |key: &str, entry: &str, port| {
        let found = addresses(entry, port).map_err(|error| format!("{at}.{key}: {error}"))?;
        if found.is_empty() { Err(format!("{at}.{key}: expected an address; got nothing")) } else { Ok(found) }
    };
    if !options.cluster_address.is_empty() {
        let cluster = |entry: &String| {
            let seeds = read("cluster_address", entry, PORT)?;
            let name = seeds[0].place.to_string();
            Ok(Place::Cluster(seeds.iter().map(|seed| caller.server(seed)).collect(), name))
        };
        return options.cluster_address.iter().map(cluster).collect();
    }
    if !options.sentinel_address.is_empty() {
        let mut sentinels = Vec::new();
        for entry in &options.sentinel_address {
            let found = read("sentinel_address", entry, SENTINEL_PORT)?;
            sentinels.extend(found.iter().map(|one| caller.sentinel(one)));
        }
        let like = addresses("127.0.0.1", PORT)?.first().map(|one| caller.server(one)).ok_or("no address")?;
        let master_name = options.sentinel_master_name.clone();
        let name = master_name.clone();
        return Ok(vec![Place::One(Finder::Sentinels { sentinels, master_name, like }, name)]);
    }
    let mut places = Vec::new();
    for entry in &options.address {
        for one in read("address", entry, PORT)? {
            places.push(Place::One(Finder::At(caller.server(&one)), one.place.to_string()));
        }
    }
    Ok(places)
}

/// What the servers are called in metrics and the log.
pub fn server_names(options: Sectioned<'_>) -> Result<Vec<String>, String> {
    Ok(places(options)?.iter().map(|place| place.name().to_owned()).collect())
}

/// Asks one server of each shard what it is; the error is a line for the operator.
pub async fn examine(options: Sectioned<'_>) -> Result<Vec<(String, RedisFacts)>, String> {
    let mut found = Vec::new();
    for place in places(options)? {
        let facts = match place.some_server().await {
            Ok(server) => check::inspect(&server).await,
            Err(fault) => Err(fault),
        };
        let at = options.1;
        let facts = facts.map_err(|fault| format!("{at}: {fault}; is it running, and are user and password right?"))?;
        if let Some(line) = check::unfit(&facts, options.0, at) {
            return Err(line);
        }
        found.push((place.name().to_owned(), facts));
    }
    Ok(found)
}

/// A server, or a cluster of them, for who speaks to it by connections of their own.
pub struct OwnServer(Place);

impl OwnServer {
    /// The first that options name. The error begins with an option of the section `at`.
    pub fn new(options: &RedisOptions, at: &str) -> Result<OwnServer, String> {
        let place = places((options, at))?.into_iter().next();
        place.map(OwnServer).ok_or_else(|| format!("{at}.address: expected an address; got nothing"))
    }

    /// A connection to the server that has `key`. Must be called within a set of local tasks.
    pub async fn dial(&self, key: &str) -> Result<Dialled, RedisFault> {
        let seeds = match &self.0 {
            Place::One(finder, _) => {
                let mut dialled = finder.find().await?.dial(None).await?;
                if matches!(finder, Finder::Sentinels { .. }) {
                    link::must_be_master(&mut dialled).await?;
                }
                return Ok(dialled);
            }
            Place::Cluster(seeds, _) => seeds,
        };
        let mut last = RedisFault("there is no server".into());
        for seed in seeds {
            match self.dial_from(seed, key).await {
                Ok(dialled) => return Ok(dialled),
                Err(fault) => last = fault,
            }
        }
        Err(last)
    }

    /// Any server of a cluster tells which one has a key.
    async fn dial_from(&self, seed: &RedisServer, key: &str) -> Result<Dialled, RedisFault> {
        let mut dialled = seed.dial(None).await?;
        let asked = dialled.conn.send_packed_command(redis::cmd("EXISTS").arg(key)).await?;
        let Err(error) = asked.extract_error() else { return Ok(dialled) };
        match error.redirect_node() {
            // The server says its address without brackets.
            Some((there, _)) => {
                let (host, port) = there.rsplit_once(':').unwrap_or((there, ""));
                let port = port.parse().map_err(|_| RedisFault(format!("the cluster names no server: {there:?}")))?;
                seed.at(host, port).dial(None).await
            }
            None => Err(error.into()),
        }
    }
}

/// What works and should be known of a server.
pub fn advice(facts: &RedisFacts) -> Vec<String> {
    check::advice(facts)
}

/// One shard of channels.
struct Served {
    shard: Rc<RedisShard>,
    /// One, or one for each partition.
    listeners: Vec<Rc<Listener>>,
}

impl Served {
    fn listener(&self, channel: &str) -> &Rc<Listener> {
        &self.listeners[self.shard.dialect.names.partition(channel).unwrap_or(0) as usize]
    }
}

/// The servers in use.
pub struct Redis {
    broker: Vec<Served>,
    /// Others, if presence is kept elsewhere.
    presence: Vec<Rc<RedisShard>>,
    next: Cell<usize>,
}

impl Redis {
    /// Begins to connect. `broker`: of channels, if there are any here. Must be called within a set of local tasks.
    pub fn start(
        broker: Option<Sectioned<'_>>,
        presence: Option<Sectioned<'_>>,
        around: &Surroundings,
    ) -> Result<Redis, String> {
        let mut shards = Vec::new();
        let of_channels = match broker {
            Some(section) => places(section)?.into_iter().map(|place| (place, section.0)).collect(),
            None => Vec::new(),
        };
        let before = of_channels.len();
        for (index, (place, options)) in of_channels.into_iter().enumerate() {
            let finder = match &place {
                Place::One(finder, _) => Some(finder.clone()),
                Place::Cluster(..) => None,
            };
            let shard = shard(place, index, options, around);
            let partitions = options.sharded_pub_sub_partitions;
            let listener = |partition: Option<u32>| {
                let listener = Listener::new(ListenerParts {
                    index,
                    shard: shard.clone(),
                    finder: finder.clone(),
                    partition,
                    uid: around.uid.clone(),
                    // Control is passed on by all servers.
                    control: around.control.clone().filter(|_| partition.is_none()),
                    post: around.post.clone(),
                    counts: around.counts.clone(),
                });
                spawn_local(listener.clone().keep());
                listener
            };
            let whole = listener(None);
            let listeners = match partitions {
                0 => vec![whole],
                _ => (0..partitions).map(|partition| listener(Some(partition))).collect(),
            };
            shards.push(Served { shard, listeners });
        }
        let presence = match presence {
            None => Vec::new(),
            Some(options) => {
                // Counted behind those of channels.
                let places = (before..).zip(places(options)?);
                places.map(|(at, place)| shard(place, at, options.0, around)).collect()
            }
        };
        Ok(Redis { broker: shards, presence, next: Cell::new(0) })
    }

    /// Carries out what owners ask, in the order given for each channel.
    pub fn take(&self, calls: impl Iterator<Item = (u16, EngineCall)>) {
        let mut sorted: Vec<Vec<(u16, EngineCall)>> = self.broker.iter().map(|_| Vec::new()).collect();
        let mut present: Vec<Vec<(u16, EngineCall)>> = self.presence.iter().map(|_| Vec::new()).collect();
        for (reactor, call) in calls {
            let elsewhere = !present.is_empty() && call.is_presence();
            let into = if elsewhere { &mut present } else { &mut sorted };
            let count = into.len() as u32;
            let at = if count == 1 { 0 } else { jump(commands::channel_of(&call), count) as usize };
            match (call, elsewhere) {
                (EngineCall::Listen { channel, life }, _) => {
                    self.broker[at].listener(&channel.clone()).listen(channel, life);
                }
                (EngineCall::Unlisten { channel }, _) => self.broker[at].listener(&channel).unlisten(&channel),
                (call, _) => into[at].push((reactor, call)),
            }
        }
        let all = self.broker.iter().map(|served| &served.shard).zip(sorted);
        all.chain(self.presence.iter().zip(present)).for_each(|(shard, calls)| shard.take(calls.into_iter()));
    }

    /// A message of control, to all nodes or to one, by one of the shards.
    pub async fn tell(&self, node: Option<&str>, message: &[u8]) -> Result<(), String> {
        let mut last = String::new();
        for _ in &self.broker {
            let at = self.next.replace(self.next.get().wrapping_add(1)) % self.broker.len();
            let shard = &self.broker[at].shard;
            let names = &shard.dialect.names;
            let name = node.map_or_else(|| names.control(), |uid| names.node(uid));
            match shard.tell(&name, message).await {
                Ok(()) => return Ok(()),
                Err(fault) => last = fault.0,
            }
        }
        Err(last)
    }
}

fn shard(place: Place, index: usize, options: &RedisOptions, around: &Surroundings) -> Rc<RedisShard> {
    let counts = around.counts.clone();
    let cluster = matches!(place, Place::Cluster(..));
    let slots = match place {
        Place::One(finder, name) => {
            let link = Link::new(finder, name, index, counts.clone());
            spawn_local(link.clone().keep());
            Slots::One(link)
        }
        Place::Cluster(seeds, _) => {
            let cluster = Cluster::new(seeds, index, counts.clone());
            spawn_local(cluster.clone().keep());
            Slots::Cluster(cluster)
        }
    };
    let partitions = if cluster { options.sharded_pub_sub_partitions } else { 0 };
    let dialect = Dialect::new(Names::new(&options.prefix, cluster, partitions), options, partitions > 0);
    RedisShard::new(dialect, slots, around.post.clone(), counts, options.inflight_limit)
}
