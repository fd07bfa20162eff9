//! F10 · Calls on their way: owners' calls in batches to one server or cluster, and its answers back.
//!
//! Owns the pipelines under way, how many calls there may be, and what an error means. Answers every ticket once. Knows
//! nothing of PUB/SUB.

use super::commands::{Dialect, Moment, RedisCommand, Then, answer};
use super::dial::{Dialled, RedisFault};
use super::link::{Link, load_scripts};
use super::slots::Slots;
use crate::broker::engine::{Away, EngineCall};
use crate::engine::counts::{EngineCounts, FailureKind};
use crate::engine::post::Post;
use crate::engine::unix_ms;
use crate::service::add_to_sum;
use redis::{Cmd, ErrorKind, Pipeline, ServerError, ServerErrorKind, Value};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Calls in one write.
const BATCH: usize = 512;

/// A server, or a cluster of them, that some of the channels are on.
pub struct RedisShard {
    pub dialect: Dialect,
    pub slots: Slots,
    post: Rc<RefCell<Post>>,
    counts: Arc<EngineCounts>,
    under_way: Cell<usize>,
    /// Calls under way at most.
    limit: usize,
    /// Where the random bits of epochs come from.
    random: Cell<u64>,
}

/// Who asked, and what becomes of the answer.
struct Waiting {
    reactor: u16,
    then: Then,
}

/// Commands for one server.
#[derive(Default)]
struct Group {
    pipeline: Pipeline,
    waiting: Vec<Waiting>,
}

impl RedisShard {
    pub fn new(
        dialect: Dialect,
        slots: Slots,
        post: Rc<RefCell<Post>>,
        counts: Arc<EngineCounts>,
        limit: usize,
    ) -> Rc<RedisShard> {
        // Epochs are to differ, and nobody gains by guessing one.
        let random = Cell::new(getrandom::u64().unwrap_or(1));
        Rc::new(RedisShard { dialect, slots, post, counts, under_way: Cell::new(0), limit, random })
    }

    /// Sends `calls`, in their order.
    pub fn take(self: &Rc<Self>, calls: impl Iterator<Item = (u16, EngineCall)>) {
        let unix_ms = unix_ms();
        let mut groups: Vec<(Rc<Link>, Group)> = Vec::new();
        for (reactor, call) in calls {
            let moment = Moment { unix_ms, random: self.draw() };
            let Some(RedisCommand { cmd, slot, then }) = self.dialect.command(call, moment) else { continue };
            let waiting = Waiting { reactor, then };
            if self.under_way.get() >= self.limit {
                self.refuse(waiting, FailureKind::Busy);
                continue;
            }
            let Some(link) = self.slots.link(slot).filter(|link| link.is_up()) else {
                self.refuse(waiting, FailureKind::Away);
                continue;
            };
            self.count(1);
            let last = groups.iter().rposition(|(known, _)| Rc::ptr_eq(known, &link));
            let at = last.filter(|at| groups[*at].1.waiting.len() < BATCH).unwrap_or_else(|| {
                groups.push((link, Group::default()));
                groups.len() - 1
            });
            groups[at].1.pipeline.add_command(cmd);
            groups[at].1.waiting.push(waiting);
        }
        for (link, group) in groups {
            self.send(link, group);
        }
        self.post.borrow_mut().flush();
    }

    /// To all who listen to a PUB/SUB channel of control; an error if it was not accepted.
    pub async fn tell(&self, channel: &str, message: &[u8]) -> Result<(), RedisFault> {
        self.send_one(self.dialect.tell(channel, message), self.slots.any()).await
    }

    /// The same of sharded PUB/SUB.
    pub async fn tell_sharded(&self, channel: &str, message: &[u8]) -> Result<(), RedisFault> {
        let command = self.dialect.tell_sharded(channel, message);
        let link = self.slots.link(command.slot);
        self.send_one(command, link).await
    }

    async fn send_one(&self, command: RedisCommand, link: Option<Rc<Link>>) -> Result<(), RedisFault> {
        let (dialled, generation, link) = link
            .and_then(|link| link.get().map(|(dialled, generation)| (dialled, generation, link)))
            .ok_or_else(|| RedisFault("there is no connection".into()))?;
        match dialled.conn.clone().send_packed_command(&command.cmd).await {
            Ok(answer) => Ok(answer.extract_error().map(drop)?),
            Err(error) => {
                link.fail(generation);
                Err(error.into())
            }
        }
    }

    fn draw(&self) -> u64 {
        // Weyl's sequence, and then mixed.
        let next = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(next);
        let mixed = (next ^ (next >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn count(&self, more: usize) {
        self.under_way.set(self.under_way.get() + more);
        self.counts.under_way.fetch_add(more as u64, Ordering::Relaxed);
    }

    fn done(&self, less: usize) {
        self.under_way.set(self.under_way.get().saturating_sub(less));
        self.counts.under_way.fetch_sub(less as u64, Ordering::Relaxed);
    }

    fn refuse(&self, waiting: Waiting, kind: FailureKind) {
        self.counts.fail(kind, 1);
        if let Some(ticket) = waiting.then.ticket() {
            self.post.borrow_mut().answer(waiting.reactor, ticket, Err(Away));
        }
    }

    fn send(self: &Rc<Self>, link: Rc<Link>, group: Group) {
        let Some((dialled, generation)) = link.get() else {
            self.done(group.waiting.len());
            return group.waiting.into_iter().for_each(|waiting| self.refuse(waiting, FailureKind::Away));
        };
        let shard = self.clone();
        EngineCounts::add(&self.counts.batches, 1);
        // The tasks begin in the order in which they are spawned, so the writes have that order too.
        tokio::task::spawn_local(async move {
            let count = group.waiting.len();
            let answers = dialled.conn.clone().send_packed_commands(&group.pipeline, 0, count).await;
            shard.done(count);
            match answers {
                Ok(values) if values.len() == count => shard.answer(&link, &dialled, generation, group, values).await,
                other => {
                    if let Err(error) = other {
                        told(&link.name, error.to_string());
                    }
                    link.fail(generation);
                    group.waiting.into_iter().for_each(|waiting| shard.refuse(waiting, FailureKind::Lost));
                }
            }
            shard.post.borrow_mut().flush();
        });
    }

    async fn answer(
        self: &Rc<Self>,
        link: &Rc<Link>,
        dialled: &Rc<Dialled>,
        generation: u64,
        group: Group,
        values: Vec<Value>,
    ) {
        let Group { pipeline, waiting } = group;
        let mut again: Vec<(Cmd, Waiting)> = Vec::new();
        for ((value, waiting), cmd) in values.into_iter().zip(waiting).zip(pipeline.cmd_iter()) {
            match value {
                Value::ServerError(error) if error.kind() == Some(ServerErrorKind::NoScript) => {
                    again.push((cmd.clone(), waiting));
                }
                Value::ServerError(error) => match self.slots.redirect(&error) {
                    Some(there) => self.redirect(there, cmd.clone(), waiting, &error),
                    None => self.error(link, generation, waiting, &error),
                },
                value => self.fulfil(waiting, value),
            }
        }
        if again.is_empty() {
            return;
        }
        // Somebody has made the server forget the scripts: nothing of these was done.
        if load_scripts(&mut dialled.conn.clone()).await.is_err() {
            return again.into_iter().for_each(|(_, waiting)| self.refuse(waiting, FailureKind::Lost));
        }
        for (cmd, waiting) in again {
            self.once_more(link, dialled, generation, &cmd, waiting).await;
        }
    }

    async fn once_more(&self, link: &Rc<Link>, dialled: &Rc<Dialled>, generation: u64, cmd: &Cmd, waiting: Waiting) {
        match dialled.conn.clone().send_packed_command(cmd).await {
            Ok(Value::ServerError(error)) => self.error(link, generation, waiting, &error),
            Ok(value) => self.fulfil(waiting, value),
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                self.refuse(waiting, FailureKind::Other);
            }
            Err(_) => {
                link.fail(generation);
                self.refuse(waiting, FailureKind::Lost);
            }
        }
    }

    /// The keys are on another server of the cluster.
    fn redirect(self: &Rc<Self>, link: Option<Rc<Link>>, cmd: Cmd, waiting: Waiting, error: &ServerError) {
        let Some(link) = link.filter(|link| link.is_up()) else { return self.refuse(waiting, FailureKind::Away) };
        let asking = error.kind() == Some(ServerErrorKind::Ask);
        let shard = self.clone();
        self.count(1);
        tokio::task::spawn_local(async move {
            let Some((dialled, generation)) = link.get() else {
                shard.done(1);
                return shard.refuse(waiting, FailureKind::Away);
            };
            let mut pipeline = Pipeline::new();
            if asking {
                pipeline.cmd("ASKING");
            }
            pipeline.add_command(cmd);
            let count = pipeline.len();
            let answers = dialled.conn.clone().send_packed_commands(&pipeline, 0, count).await;
            shard.done(1);
            match answers.ok().and_then(|mut values| values.pop()) {
                Some(Value::ServerError(error)) => shard.error(&link, generation, waiting, &error),
                Some(value) => shard.fulfil(waiting, value),
                None => {
                    link.fail(generation);
                    shard.refuse(waiting, FailureKind::Lost);
                }
            }
            shard.post.borrow_mut().flush();
        });
    }

    fn fulfil(&self, waiting: Waiting, value: Value) {
        EngineCounts::add(&self.counts.calls, 1);
        let Waiting { reactor, then } = waiting;
        let Some(ticket) = then.ticket() else { return };
        let answer = answer(then, value);
        if answer.is_err() {
            self.counts.fail(FailureKind::Other, 1);
            add_to_sum("engine answers", 1, |count| {
                tracing::warn!(
                    count,
                    "Redis answered what no script of ours answers: is another program using its keys?"
                );
            });
        }
        self.post.borrow_mut().answer(reactor, ticket, answer);
    }

    /// The server said no.
    fn error(&self, link: &Rc<Link>, generation: u64, waiting: Waiting, error: &ServerError) {
        let kind = match (error.kind(), error.code()) {
            (Some(ServerErrorKind::ReadOnly | ServerErrorKind::BusyLoading | ServerErrorKind::MasterDown), _) => {
                // Another server has its part now, or it is not ready: find out.
                link.fail(generation);
                FailureKind::Role
            }
            (Some(ServerErrorKind::ClusterDown | ServerErrorKind::TryAgain), _) => FailureKind::Role,
            (_, "OOM") => FailureKind::Memory,
            (Some(ServerErrorKind::NoPerm), _) | (_, "NOAUTH" | "WRONGPASS") => FailureKind::Permission,
            _ => FailureKind::Other,
        };
        told(&link.name, error.to_string());
        self.refuse(waiting, kind);
    }
}

/// A line for the log, each ten seconds.
fn told(server: &str, error: String) {
    let server = server.to_owned();
    add_to_sum("engine errors", 1, move |count| {
        tracing::warn!(server, count, error, "Redis did not do what was asked; the last error is told");
    });
}
