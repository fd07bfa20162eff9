//! F10 · Lanes: each carries out the calls of its share of channels, one after the other, with a connection of its own.
//!
//! Owns the calls that wait, and what becomes of them. What was called meanwhile is written as one. While the database
//! is away, calls with tickets are answered at once, and those without wait for it. Never decides how much may wait.
//!
//! **A stream whose append failed** takes none with a ticket until it was opened again: what is on disk is what the
//! database says then.

use super::{NoPlace, SchemaShape, SqlBatch, SqlFault, SqlShare, SqlStand, SqlStore, StreamKey};
use crate::broker::archive::{ArchiveAnswer, ArchiveCall};
use crate::broker::engine::Away;
use crate::engine::backoff::Backoff;
use crate::wall_clock::unix_ms;
use std::cell::Cell;
use std::collections::{HashSet, VecDeque};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

/// Times that a statement is carried out that others were in the way of.
const TRIES: usize = 5;

/// A call, and the reactor of its owner.
#[derive(Debug)]
pub struct LaneCall {
    pub reactor: u16,
    pub call: ArchiveCall,
}

/// To whom lanes tell what becomes of calls.
pub trait LaneEnds {
    fn answer(&self, reactor: u16, ticket: u64, answer: Result<ArchiveAnswer, Away>);
    /// What was answered is to be heard now.
    fn flush(&self);
    /// The call waits no more.
    fn leave(&self, call: &ArchiveCall);
    /// So many publications were written as one.
    fn wrote(&self, publications: usize, took: Duration);
    /// So many cursors were.
    fn followed(&self, cursors: usize);
    /// So many publications came to nothing that nobody waited for.
    fn lost(&self, publications: usize);
    /// So many publications are forgotten.
    fn expired(&self, publications: i64);
    /// The archive takes what it is told, or does not.
    fn set_up(&self, is_up: bool);
}

/// What all lanes of an archive have in common.
pub struct LaneHouse {
    pub store: SqlStore,
    /// The address without a password, for the log.
    pub shown: String,
    /// Of channels that are this node's own, and of those that nodes share.
    pub own: SqlShare,
    pub shared: SqlShare,
    pub is_shared: Box<dyn Fn(&str) -> bool + Send>,
    pub flush_interval: Duration,
    pub ends: Rc<dyn LaneEnds>,
    /// The life, and the tables, once the database was found fit.
    pub open: Cell<Option<(i64, SchemaShape)>>,
    pub opened: Notify,
    /// Lanes whose last statement failed.
    failing: Cell<usize>,
    /// Something that nobody waited for came to nothing.
    pub has_lost: Cell<bool>,
}

impl LaneHouse {
    pub fn new(
        store: SqlStore,
        shown: String,
        share: &str,
        is_shared: Box<dyn Fn(&str) -> bool + Send>,
        flush_interval: Duration,
        ends: Rc<dyn LaneEnds>,
    ) -> LaneHouse {
        LaneHouse {
            store,
            shown,
            own: SqlShare { name: format!("node/{share}"), is_ordered: true },
            shared: SqlShare { name: format!("engine/{share}"), is_ordered: false },
            is_shared,
            flush_interval,
            ends,
            open: Cell::new(None),
            opened: Notify::new(),
            failing: Cell::new(0),
            has_lost: Cell::new(false),
        }
    }

    pub fn share_of(&self, channel: &str) -> &SqlShare {
        if (self.is_shared)(channel) { &self.shared } else { &self.own }
    }

    pub fn key(&self, channel: &str) -> StreamKey {
        StreamKey::new(&self.share_of(channel).name, channel)
    }

    fn tell_up(&self) {
        self.ends.set_up(self.open.get().is_some() && self.failing.get() == 0);
    }

    /// The database was found fit, or is no more.
    pub fn set_open(&self, open: Option<(i64, SchemaShape)>) {
        self.open.set(open);
        self.opened.notify_waiters();
        self.tell_up();
    }

    fn lose(&self, publications: usize) {
        self.has_lost.set(true);
        self.ends.lost(publications);
    }
}

pub struct Lane {
    house: Rc<LaneHouse>,
    calls: mpsc::UnboundedReceiver<Vec<LaneCall>>,
    waiting: VecDeque<LaneCall>,
    /// Nothing more will be called.
    is_last: bool,
    /// Streams whose append failed.
    failed: HashSet<StreamKey>,
    is_failing: bool,
}

/// Calls that are written as one.
struct Bundle {
    table: u16,
    share: SqlShare,
    batch: SqlBatch,
    calls: Vec<(StreamKey, LaneCall)>,
}

impl Lane {
    pub fn new(house: Rc<LaneHouse>, calls: mpsc::UnboundedReceiver<Vec<LaneCall>>) -> Lane {
        let (waiting, failed) = (VecDeque::new(), HashSet::new());
        Lane { house, calls, waiting, is_last: false, failed, is_failing: false }
    }

    /// Until nothing more is called, and all that can be is on disk.
    pub async fn run(mut self) {
        let mut backoff = Backoff::new();
        while self.is_idle_and_failing() || self.gather().await {
            let done = match self.house.open.get() {
                // Whether it is back is not left to the next call.
                Some((_, shape)) if self.waiting.is_empty() => self.probe(shape).await,
                Some((life, shape)) => self.step(life, shape).await,
                None => Err(None),
            };
            self.house.ends.flush();
            match done {
                Ok(()) => {
                    if std::mem::take(&mut self.is_failing) {
                        self.house.failing.set(self.house.failing.get() - 1);
                        self.house.tell_up();
                        tracing::info!(database = self.house.shown, "the archive's database is written again");
                        backoff = Backoff::new();
                    }
                }
                Err(fault) => {
                    self.fail(fault.as_ref());
                    if self.is_last {
                        break;
                    }
                    self.pause(&mut backoff).await;
                }
            }
        }
        let left = self.waiting.drain(..).inspect(|waiting| self.house.ends.leave(&waiting.call)).count();
        if left > 0 {
            self.house.lose(left);
        }
    }

    fn is_idle_and_failing(&self) -> bool {
        self.is_failing && self.waiting.is_empty() && self.calls.is_empty() && !self.is_last
    }

    async fn probe(&self, shape: SchemaShape) -> Result<(), Option<SqlFault>> {
        self.house.store.shape(shape.tables).await.map(|_| ()).map_err(Some)
    }

    /// Takes what was called, or waits for it; false at the end.
    async fn gather(&mut self) -> bool {
        while self.waiting.is_empty() && !self.is_last {
            let calls = self.calls.recv().await;
            self.take(calls);
        }
        loop {
            match self.calls.try_recv() {
                Ok(calls) => self.take(Some(calls)),
                Err(mpsc::error::TryRecvError::Empty) => break,
                Err(mpsc::error::TryRecvError::Disconnected) => {
                    self.is_last = true;
                    break;
                }
            }
        }
        let until = Instant::now() + self.house.flush_interval;
        while !self.is_last && !self.is_urgent() {
            match tokio::time::timeout_at(until, self.calls.recv()).await {
                Ok(calls) => self.take(calls),
                Err(_) => break,
            }
        }
        !self.waiting.is_empty()
    }

    fn take(&mut self, calls: Option<Vec<LaneCall>>) {
        match calls {
            Some(calls) => self.waiting.extend(calls),
            None => self.is_last = true,
        }
    }

    /// Somebody waits for one of them, or they are many.
    fn is_urgent(&self) -> bool {
        self.waiting.len() >= super::BATCH_ROWS || self.waiting.iter().any(|waiting| waiting.call.ticket().is_some())
    }

    /// Something came to nothing: whoever waits is told.
    fn fail(&mut self, fault: Option<&SqlFault>) {
        if let Some(fault) = fault
            && !std::mem::replace(&mut self.is_failing, true)
        {
            if self.house.failing.replace(self.house.failing.get() + 1) == 0 {
                let what = "the archive's database takes nothing: what asks for it gets error 100, the rest waits";
                tracing::warn!(database = self.house.shown, %fault, "{what}");
            }
            self.house.tell_up();
        }
        self.refuse();
    }

    /// Answers all that wait with a ticket.
    fn refuse(&mut self) {
        let (refused, kept) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition::<VecDeque<_>, _>(|waiting| waiting.call.ticket().is_some());
        self.waiting = kept;
        for waiting in refused {
            self.away(waiting);
        }
        self.house.ends.flush();
    }

    fn away(&mut self, waiting: LaneCall) {
        let LaneCall { reactor, call } = waiting;
        if matches!(call, ArchiveCall::Append { .. }) {
            self.failed.insert(self.house.key(call.channel()));
        }
        if let Some(ticket) = call.ticket() {
            self.house.ends.answer(reactor, ticket, Err(Away));
        }
        self.house.ends.leave(&call);
    }

    /// Waits before it tries again, and refuses what is called meanwhile.
    async fn pause(&mut self, backoff: &mut Backoff) {
        let house = self.house.clone();
        let mut waited = pin!(async {
            match house.open.get() {
                Some(_) => backoff.wait().await,
                None => house.opened.notified().await,
            }
        });
        loop {
            tokio::select! {
                () = &mut waited => return,
                calls = self.calls.recv(), if !self.is_last => {
                    self.take(calls);
                    self.refuse();
                    if self.is_last {
                        return;
                    }
                }
            }
        }
    }

    /// Carries out what stands first, and what can be written along with it.
    async fn step(&mut self, life: i64, shape: SchemaShape) -> Result<(), Option<SqlFault>> {
        let bundles = self.bundles(life, shape);
        if bundles.is_empty() {
            let Some(next) = self.waiting.pop_front() else { return Ok(()) };
            return self.ask(next, life, shape).await.map_err(Some);
        }
        let mut bundles = VecDeque::from(bundles);
        while let Some(bundle) = bundles.pop_front() {
            if let Err((fault, bundle)) = self.write(bundle, life, shape).await {
                // What nobody waits for stays, in its order.
                let left = std::iter::once(bundle).chain(bundles).flat_map(|bundle| bundle.calls);
                let mut kept = VecDeque::new();
                for (_, waiting) in left {
                    match waiting.call.ticket() {
                        Some(_) => self.away(waiting),
                        None => kept.push_back(waiting),
                    }
                }
                kept.append(&mut self.waiting);
                self.waiting = kept;
                return Err(Some(fault));
            }
        }
        Ok(())
    }

    /// What stands first and is to be written, for each table.
    fn bundles(&mut self, life: i64, shape: SchemaShape) -> Vec<Bundle> {
        let mut bundles: Vec<Bundle> = Vec::new();
        let is_written = |call: &ArchiveCall| {
            !matches!(call, ArchiveCall::Open { .. } | ArchiveCall::Read { .. } | ArchiveCall::Remove { .. })
        };
        while self.waiting.front().is_some_and(|next| is_written(&next.call))
            && !bundles.iter().any(|bundle| bundle.batch.is_full())
            && let Some(waiting) = self.waiting.pop_front()
        {
            let house = self.house.clone();
            let share = house.share_of(waiting.call.channel());
            let key = StreamKey::new(&share.name, waiting.call.channel());
            let (table, ticket) = (key.table(shape.tables), waiting.call.ticket());
            if ticket.is_some() && self.failed.contains(&key) {
                self.away(waiting);
                continue;
            }
            let at = bundles.iter().position(|bundle| bundle.table == table && bundle.share == *share);
            let at = at.unwrap_or_else(|| {
                let (share, batch) = (share.clone(), SqlBatch::default());
                bundles.push(Bundle { table, share, batch, calls: Vec::new() });
                bundles.len() - 1
            });
            match put(&mut bundles[at].batch, key, &waiting.call, life) {
                Ok(()) => bundles[at].calls.push((key, waiting)),
                Err(NoPlace) => self.unfit(waiting, "its epoch or offset"),
            }
        }
        bundles.retain(|bundle| !bundle.calls.is_empty());
        bundles
    }

    /// It cannot be written, now or ever.
    fn unfit(&mut self, waiting: LaneCall, why: &str) {
        let channel = waiting.call.channel().clone();
        tracing::warn!(%channel, why, "a publication cannot be archived");
        if waiting.call.ticket().is_none() {
            self.house.lose(1);
        }
        self.away(waiting);
    }

    async fn write(&mut self, bundle: Bundle, life: i64, shape: SchemaShape) -> Result<(), (SqlFault, Bundle)> {
        match self.put_down(&bundle, shape).await {
            Ok(()) => self.written(bundle.calls),
            Err(SqlFault::Unfit(why)) if bundle.calls.len() == 1 => {
                bundle.calls.into_iter().for_each(|(_, waiting)| self.unfit(waiting, &why));
            }
            Err(SqlFault::Unfit(_)) => {
                // One of them spoils it for all.
                let Bundle { table, share, calls, .. } = bundle;
                let mut calls = VecDeque::from(calls);
                while let Some((key, waiting)) = calls.pop_front() {
                    let mut batch = SqlBatch::default();
                    let placed = put(&mut batch, key, &waiting.call, life).is_ok();
                    let alone = Bundle { table, share: share.clone(), batch, calls: vec![(key, waiting)] };
                    let done = if placed { self.put_down(&alone, shape).await } else { Ok(()) };
                    match done {
                        Ok(()) => self.written(alone.calls),
                        Err(SqlFault::Unfit(why)) => {
                            alone.calls.into_iter().for_each(|(_, waiting)| self.unfit(waiting, &why));
                        }
                        Err(fault) => {
                            let calls = alone.calls.into_iter().chain(calls).collect();
                            return Err((fault, Bundle { table, share, batch: SqlBatch::default(), calls }));
                        }
                    }
                }
            }
            Err(fault) => return Err((fault, bundle)),
        }
        Ok(())
    }

    /// Again, if another writer was in the way or there was no part for the day.
    async fn put_down(&self, bundle: &Bundle, shape: SchemaShape) -> Result<(), SqlFault> {
        let Bundle { table, share, batch, .. } = bundle;
        let mut tries = 0;
        loop {
            tries += 1;
            let began = Instant::now();
            match self.house.store.append(*table, share, batch).await {
                Ok(()) => {
                    self.house.ends.wrote(batch.publications(), began.elapsed());
                    self.house.ends.followed(batch.cursors());
                    return Ok(());
                }
                Err(SqlFault::Again(why)) if tries == TRIES => return Err(SqlFault::Away(why)),
                Err(SqlFault::Again(_)) => {}
                Err(SqlFault::NoPart) if tries < TRIES => {
                    for unix_ms in batch.days(&shape) {
                        self.house.store.make_parts(*table, &shape, unix_ms).await?;
                    }
                }
                Err(fault) => return Err(fault),
            }
        }
    }

    fn written(&mut self, calls: Vec<(StreamKey, LaneCall)>) {
        for (key, LaneCall { reactor, call }) in calls {
            match call.ticket() {
                Some(ticket) => self.house.ends.answer(reactor, ticket, Ok(ArchiveAnswer::Appended)),
                None if matches!(call, ArchiveCall::Append { .. } | ArchiveCall::Stand { .. }) => {
                    self.failed.remove(&key);
                }
                None => {}
            }
            self.house.ends.leave(&call);
        }
    }

    async fn ask(&mut self, waiting: LaneCall, life: i64, shape: SchemaShape) -> Result<(), SqlFault> {
        let house = self.house.clone();
        let (store, now_ms) = (&house.store, unix_ms());
        let key = house.key(waiting.call.channel());
        let table = key.table(shape.tables);
        let answer = match &waiting.call {
            ArchiveCall::Open { latest, ahead, cursors, .. } => {
                match store.cursors(table, key, now_ms, *cursors).await {
                    Ok(cursors) => {
                        let opened = store.open(table, key, *latest, *ahead, life, now_ms).await;
                        opened.map(|stream| ArchiveAnswer::Opened { stream: stream.map(Box::new), cursors })
                    }
                    Err(fault) => Err(fault),
                }
            }
            ArchiveCall::Read { page, .. } => store.read(table, key, None, page, now_ms).await.map(ArchiveAnswer::Page),
            ArchiveCall::Remove { .. } => store.remove(key).await.map(|()| ArchiveAnswer::Removed),
            ArchiveCall::Append { .. }
            | ArchiveCall::Stand { .. }
            | ArchiveCall::Follow { .. }
            | ArchiveCall::Unfollow { .. } => return Ok(()),
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(fault) => {
                self.away(waiting);
                return Err(fault);
            }
        };
        if matches!(answer, ArchiveAnswer::Opened { .. }) {
            self.failed.remove(&key);
        }
        if let Some(ticket) = waiting.call.ticket() {
            house.ends.answer(waiting.reactor, ticket, Ok(answer));
        }
        house.ends.leave(&waiting.call);
        Ok(())
    }
}

/// Puts a call into what is written.
fn put(batch: &mut SqlBatch, key: StreamKey, call: &ArchiveCall, life: i64) -> Result<(), NoPlace> {
    match call {
        ArchiveCall::Append { ticket, channel, position, publication, unix_ms, keep } => {
            let ahead = ticket.is_none().then_some(life);
            batch.append(SqlStand { key, channel, position, unix_ms: *unix_ms, keep: *keep, ahead }, publication)
        }
        ArchiveCall::Stand { channel, position, unix_ms, keep } => {
            batch.stand(SqlStand { key, channel, position, unix_ms: *unix_ms, keep: *keep, ahead: Some(life) })
        }
        ArchiveCall::Follow { cursor, .. } => batch.follow(key, cursor),
        ArchiveCall::Unfollow { user, device, .. } => {
            batch.unfollow(key, user, device);
            Ok(())
        }
        ArchiveCall::Open { .. } | ArchiveCall::Read { .. } | ArchiveCall::Remove { .. } => Ok(()),
    }
}
