//! F10 · The one PUB/SUB connection of this node to one shard.
//!
//! Owns what is heard and in which order, subscribing again after a loss, and the proof that the connection still
//! hears: what this node publishes to itself must come back. Knows nothing of calls.

use super::calls::RedisShard;
use super::dial::{Dialled, RedisFault, RedisServer};
use super::link::{Finder, must_be_master};
use super::names::slot;
use super::payload::{self, Pushed};
use super::slots::Slots;
use crate::broker::engine::{Away, Heard};
use crate::broker::{Epoch, Position};
use crate::engine::backoff::Backoff;
use crate::engine::counts::EngineCounts;
use crate::engine::interests::{Interests, SubscribeBatch};
use crate::engine::post::Post;
use crate::service::add_to_sum;
use bytes::Bytes;
use futures_util::future::{LocalBoxFuture, OptionFuture};
use redis::aio::MultiplexedConnection;
use redis::{Pipeline, PushInfo, PushKind, Value};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Channels in one SUBSCRIBE.
const BATCH: usize = 512;
/// Messages that are dealt with together.
const MESSAGES: usize = 1024;
/// A probe is sent so often, and must have come back before the second after it.
const PROBE_EVERY: Duration = Duration::from_secs(2);
const PROBES_LOST: u32 = 3;
/// The same once calls have failed: what was between may have forgotten both connections.
const PROBE_EVERY_IN_DOUBT: Duration = Duration::from_millis(500);

pub struct Listener {
    /// Which of the shards.
    index: usize,
    shard: Rc<RedisShard>,
    finder: Option<Finder>,
    partition: Option<u32>,
    interests: RefCell<Interests>,
    /// There is something to ask for.
    changed: Notify,
    is_up: Cell<bool>,
    /// Messages of control, and the names of its channels.
    control: Option<UnboundedSender<Bytes>>,
    control_names: Vec<String>,
    probe_name: String,
    post: Rc<RefCell<Post>>,
    counts: Arc<EngineCounts>,
    /// Probes that the server took and that have not come back.
    probes: Cell<u32>,
    /// A probe could not be sent, and none has come back since.
    in_doubt: Cell<bool>,
    /// Channels that were counted.
    counted: Cell<u64>,
}

/// What one listener is made of.
pub struct ListenerParts {
    pub index: usize,
    pub shard: Rc<RedisShard>,
    /// How its server is found; if it is `None`, it is the one of a cluster that has the partition, or any.
    pub finder: Option<Finder>,
    /// Which of the partitions of sharded PUB/SUB it hears.
    pub partition: Option<u32>,
    pub uid: String,
    pub control: Option<UnboundedSender<Bytes>>,
    pub post: Rc<RefCell<Post>>,
    pub counts: Arc<EngineCounts>,
}

async fn subscribe(
    mut conn: MultiplexedConnection,
    names: Vec<String>,
    partition: Option<u32>,
) -> Result<(), RedisFault> {
    match partition {
        None => Ok(conn.subscribe(names).await?),
        Some(_) => each(conn, "SSUBSCRIBE", names).await,
    }
}

async fn unsubscribe(
    mut conn: MultiplexedConnection,
    names: Vec<String>,
    partition: Option<u32>,
) -> Result<(), RedisFault> {
    match partition {
        None => Ok(conn.unsubscribe(names).await?),
        Some(_) => each(conn, "SUNSUBSCRIBE", names).await,
    }
}

/// One command for each name, so that each has one answer, a confirmation or an error.
async fn each(mut conn: MultiplexedConnection, verb: &str, names: Vec<String>) -> Result<(), RedisFault> {
    let mut pipeline = Pipeline::new();
    for name in names {
        pipeline.cmd(verb).arg(name);
    }
    let count = pipeline.len();
    for answer in conn.send_packed_commands(&pipeline, 0, count).await? {
        answer.extract_error()?;
    }
    Ok(())
}

type Asking = (SubscribeBatch, LocalBoxFuture<'static, Result<(), RedisFault>>);

impl Listener {
    pub fn new(parts: ListenerParts) -> Rc<Listener> {
        let ListenerParts { index, shard, finder, partition, uid, control, post, counts } = parts;
        let names = &shard.dialect.names;
        let control_names = if control.is_some() { vec![names.control(), names.node(&uid)] } else { Vec::new() };
        let probe_name = match partition {
            Some(partition) => names.partition_probe(&uid, partition),
            None => names.probe(&uid),
        };
        counts.await_listener();
        Rc::new(Listener {
            index,
            shard,
            finder,
            partition,
            interests: RefCell::default(),
            changed: Notify::new(),
            is_up: Cell::new(false),
            control,
            control_names,
            probe_name,
            post,
            counts,
            probes: Cell::new(0),
            in_doubt: Cell::new(false),
            counted: Cell::new(0),
        })
    }

    pub fn listen(&self, channel: Arc<str>, life: u32) {
        if !self.is_up.get() {
            let heard = Heard::Listening { channel: channel.clone(), life, result: Err(Away) };
            return self.post.borrow_mut().tell(&channel, heard);
        }
        if self.interests.borrow_mut().listen(channel.clone(), life) {
            return self.post.borrow_mut().tell(&channel.clone(), Heard::Listening { channel, life, result: Ok(()) });
        }
        self.changed.notify_one();
    }

    pub fn unlisten(&self, channel: &Arc<str>) {
        self.interests.borrow_mut().unlisten(channel);
        self.changed.notify_one();
    }

    /// Keeps a connection, for ever.
    pub async fn keep(self: Rc<Self>) {
        let (mut backoff, mut is_first) = (Backoff::new(), true);
        loop {
            let (tell, mut heard) = unbounded_channel();
            match self.connect(tell).await {
                Ok(dialled) => {
                    backoff.connected();
                    self.is_up.set(true);
                    if std::mem::take(&mut is_first) {
                        self.counts.listener_came();
                    }
                    let why = self.hear(&dialled, &mut heard).await;
                    self.is_up.set(false);
                    self.lost();
                    EngineCounts::add(&self.counts.listener_reconnects, 1);
                    tracing::warn!(why, "the PUB/SUB connection is lost, connecting again");
                }
                Err(fault) => add_to_sum("engine PUB/SUB", 1, move |count| {
                    tracing::warn!(count, %fault, "PUB/SUB of the engine cannot be reached, trying again");
                }),
            }
            backoff.wait().await;
        }
    }

    fn lost(&self) {
        let mut post = self.post.borrow_mut();
        for (channel, life) in self.interests.borrow_mut().lost() {
            post.tell(&channel.clone(), Heard::Listening { channel, life, result: Err(Away) });
        }
        post.flush();
    }

    async fn server(&self) -> Result<RedisServer, RedisFault> {
        match (&self.finder, &self.shard.slots) {
            (Some(finder), _) => finder.find().await,
            (None, Slots::Cluster(cluster)) => match self.partition {
                Some(_) => cluster.server_of(slot(self.probe_name.as_bytes())),
                None => Ok(cluster.some_server()),
            },
            (None, Slots::One(_)) => Err(RedisFault("there is no server".into())),
        }
    }

    async fn connect(&self, tell: UnboundedSender<PushInfo>) -> Result<Dialled, RedisFault> {
        let mut dialled = self.server().await?.dial(Some(tell)).await?;
        if matches!(self.finder, Some(Finder::Sentinels { .. })) {
            must_be_master(&mut dialled).await?;
        }
        let mut names = self.control_names.clone();
        names.push(self.probe_name.clone());
        let answer =
            tokio::time::timeout(dialled.patience, subscribe(dialled.conn.clone(), names, self.partition)).await;
        if answer.as_ref().is_ok_and(Result::is_err)
            && let Slots::Cluster(cluster) = &self.shard.slots
        {
            cluster.doubt();
        }
        answer.map_err(|_| RedisFault("SUBSCRIBE is not answered within connect_timeout".into()))??;
        Ok(dialled)
    }

    /// Hears until the connection is of no use any more; why.
    async fn hear(self: &Rc<Self>, dialled: &Dialled, heard: &mut UnboundedReceiver<PushInfo>) -> String {
        let mut messages = Vec::with_capacity(MESSAGES);
        let mut asking: Option<Asking> = None;
        let mut probe_at = tokio::time::Instant::now();
        self.probes.set(0);
        self.in_doubt.set(false);
        self.counts.hear(self.index);
        loop {
            if asking.is_none() {
                asking = self.ask(dialled);
            }
            let answer = OptionFuture::from(asking.as_mut().map(|(_, answer)| answer));
            tokio::select! {
                biased;
                count = heard.recv_many(&mut messages, MESSAGES) => {
                    if count == 0 || self.take(&mut messages) {
                        return "the server ended it".into();
                    }
                }
                Some(result) = answer => {
                    asking = None;
                    if let Err(fault) = result {
                        return fault.to_string();
                    }
                }
                () = self.changed.notified() => {}
                () = tokio::time::sleep_until(probe_at) => {
                    probe_at = tokio::time::Instant::now() + self.probe_every();
                    if self.probes.get() >= PROBES_LOST {
                        return "what this node publishes to itself does not come back".into();
                    }
                    self.send_probe();
                }
                () = dialled.ended.notified() => return "the server ended it".into(),
            }
        }
    }

    fn probe_every(&self) -> Duration {
        if self.in_doubt.get() { PROBE_EVERY_IN_DOUBT } else { PROBE_EVERY }
    }

    /// Only what the server took must come back.
    fn send_probe(self: &Rc<Self>) {
        let listener = self.clone();
        tokio::task::spawn_local(async move {
            let (shard, name) = (&listener.shard, &listener.probe_name);
            let told = match listener.partition {
                Some(_) => shard.tell_sharded(name, b"probe").await,
                None => shard.tell(name, b"probe").await,
            };
            match told {
                Ok(()) => listener.probes.set(listener.probes.get() + 1),
                Err(_) => listener.in_doubt.set(true),
            }
        });
    }

    fn ask(&self, dialled: &Dialled) -> Option<Asking> {
        let batch = self.interests.borrow_mut().next(BATCH)?;
        let names: Vec<String> = batch.channels.iter().map(|name| self.shard.dialect.names.message(name)).collect();
        let (conn, partition) = (dialled.conn.clone(), self.partition);
        let is_wish = batch.subscribe;
        let answer = async move {
            match is_wish {
                true => subscribe(conn, names, partition).await,
                false => unsubscribe(conn, names, partition).await,
            }
        };
        Some((batch, Box::pin(answer)))
    }

    /// True if the connection has ended.
    fn take(&self, messages: &mut Vec<PushInfo>) -> bool {
        let mut ended = false;
        let mut post = self.post.borrow_mut();
        self.counts.hear(self.index);
        for PushInfo { kind, data } in messages.drain(..) {
            match (kind, <[Value; 2]>::try_from(data)) {
                (PushKind::Message | PushKind::SMessage, Ok([Value::BulkString(name), Value::BulkString(message)])) => {
                    self.message(&name, message.into(), &mut post);
                }
                (kind @ (PushKind::Subscribe | PushKind::SSubscribe), Ok([Value::BulkString(name), _]))
                | (kind @ (PushKind::Unsubscribe | PushKind::SUnsubscribe), Ok([Value::BulkString(name), _])) => {
                    let subscribed = matches!(kind, PushKind::Subscribe | PushKind::SSubscribe);
                    if !subscribed && name == self.probe_name.as_bytes() {
                        // The partition has moved to another server.
                        ended = true;
                        if let Slots::Cluster(cluster) = &self.shard.slots {
                            cluster.doubt();
                        }
                    }
                    self.answered(&name, subscribed, &mut post);
                }
                (PushKind::Disconnection, _) => ended = true,
                _ => {}
            }
        }
        post.flush();
        ended
    }

    fn answered(&self, name: &[u8], subscribed: bool, post: &mut Post) {
        let name = std::str::from_utf8(name).ok();
        let Some(channel) = name.and_then(|name| self.shard.dialect.names.channel_of(name)) else { return };
        let mut interests = self.interests.borrow_mut();
        if let Some((channel, life)) = interests.answered(channel, subscribed) {
            post.tell(&channel.clone(), Heard::Listening { channel, life, result: Ok(()) });
        }
        let count = interests.len() as u64;
        self.counts.count_channels(self.counted.replace(count), count);
    }

    fn message(&self, name: &[u8], message: Bytes, post: &mut Post) {
        let Ok(name) = std::str::from_utf8(name) else { return };
        let Some(channel) = self.shard.dialect.names.channel_of(name) else {
            if self.control_names.iter().any(|control| control == name) {
                if let Some(control) = &self.control {
                    // Control is gone only when the process is.
                    let _ = control.send(message);
                }
            } else if name == self.probe_name {
                self.probes.set(0);
                self.in_doubt.set(false);
            }
            return;
        };
        let interests = self.interests.borrow();
        let Some(channel) = interests.heard(channel) else { return };
        let heard = match payload::read(message) {
            Ok(Pushed::Publication { publication, place, previous }) => Heard::Publication {
                channel: channel.clone(),
                publication,
                position: place.map(|(offset, epoch)| Position { offset, epoch: Epoch::from(&*epoch) }),
                previous,
            },
            Ok(Pushed::Presence { info, joined }) => {
                Heard::Presence { channel: channel.clone(), info: Arc::new(info), joined }
            }
            Err(_) => {
                EngineCounts::add(&self.counts.malformed, 1);
                return add_to_sum("engine malformed", 1, |count| {
                    tracing::warn!(
                        count,
                        "messages of PUB/SUB that no node writes: does another program publish there?"
                    );
                });
            }
        };
        EngineCounts::add(&self.counts.heard, 1);
        post.offer(channel, heard);
    }
}
