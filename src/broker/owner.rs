//! F3 · One reactor's share of the node's channels, wherever they live.
//!
//! Owns the choice: a channel is kept here, or an engine keeps it. Either way the same requests bring the same events.
//! What has arrived at whom is kept beside both: who comes without a position recovers from there.

use super::archive::{ArchiveCall, Archived};
use super::engine::{Engine, EngineCall, Heard};
use super::inbox::{CursorNews, CursorsFound, GoneCursor, Inboxes};
use super::log::Unlogged;
use super::{
    Answer, Arrived, Asker, ConnKey, CursorFacts, Durability, DurableChannels, DurableLimits, EngineLimits, Event,
    Follow, Found, InboxKeep, InboxLimits, InboxTally, Keep, Limits, Memory, OpenedChannel, Query, Recover,
    RemoteChannels, Request, Target, Told, Undelivered, Want,
};
use crate::protocol::Publication;
use crate::protocol::code::ClientError;
use foldhash::quality::RandomState;
use hashbrown::HashMap;
use std::sync::Arc;

/// Publications that go with the news of what has not arrived, at most.
const UNDELIVERED_MAX: usize = 100;

/// What one reactor's share of the channels may cost.
#[derive(Debug, Clone, Copy)]
pub struct OwnerLimits {
    pub memory: Limits,
    pub engine: EngineLimits,
    pub inbox: InboxLimits,
    pub durable: DurableLimits,
}

/// A subscription to a channel with an inbox, until it is known where it begins.
#[derive(Debug)]
struct Following {
    follow: Box<Follow>,
    /// What the client said itself.
    own: Option<Recover>,
    /// The offset that its cursor said.
    by_cursor: Option<u64>,
    /// Something behind that may be missing.
    torn: bool,
    /// It has no cursor, and gets none: nobody knows whether the archive has one.
    unknown: bool,
}

#[derive(Debug)]
pub struct Owner {
    pub memory: Memory,
    pub remote: RemoteChannels,
    pub durable: DurableChannels,
    /// Subscriptions to durable channels that have not begun.
    following: HashMap<(ConnKey, u32), Following, RandomState>,
    inboxes: Inboxes,
}

impl Owner {
    /// `seed`: of this shard, for epochs that no other life of a stream has. `announces`: tell when channels are
    /// occupied and vacated.
    pub fn new(seed: u64, limits: OwnerLimits, announces: bool) -> Owner {
        let (mut memory, mut remote) = (Memory::new(seed, limits.memory), RemoteChannels::new(limits.engine));
        (memory.announces, remote.announces) = (announces, announces);
        let durable = DurableChannels::new(limits.durable);
        let inboxes = Inboxes::new(seed, limits.inbox);
        Owner { memory, remote, durable, following: HashMap::default(), inboxes }
    }

    /// Carries out `request`, of a channel that lives in `engine`, unless it is known to live elsewhere already; what
    /// follows is appended to `out`, in order. What is for engines is gathered for [`Owner::take_calls`]. `durable`:
    /// an archive keeps its publications; what it is told is gathered for [`Owner::take_archive_calls`].
    pub fn handle(
        &mut self,
        now_ms: u64,
        engine: Engine,
        durable: Option<Durability>,
        request: Request,
        out: &mut Told,
    ) {
        if engine != Engine::Memory || self.remote.has(request.channel()) {
            return self.remote.handle(now_ms, engine, request, out);
        }
        if let Some(durable) = durable.or_else(|| self.kept_durable(request.channel(), out)) {
            return self.handle_durable(now_ms, durable, request, out);
        }
        let (unlogged, from, before) = (Unlogged::of(&request), out.len(), self.memory.published);
        self.handle_here(now_ms, request, out);
        if let Some(unlogged) = unlogged {
            unlogged.log(self.memory.published != before, out, from);
        }
    }

    /// The durability of a channel whose namespace asks for none any more, while something of it is under way.
    fn kept_durable(&mut self, channel: &Arc<str>, out: &mut Told) -> Option<Durability> {
        match self.durable.is_empty() || self.durable.release(&mut self.memory, channel, out) {
            true => None,
            false => self.durable.durability(channel),
        }
    }

    /// Of a channel whose publications an archive keeps too.
    fn handle_durable(&mut self, now_ms: u64, durable: Durability, request: Request, out: &mut Told) {
        let before = out.len();
        if let Some(request) = self.durable.admit(&mut self.memory, now_ms, durable, request, out) {
            let channel = request.channel().clone();
            self.act_durable(now_ms, &channel, request, out);
            self.durable.follow(&mut self.memory, &channel);
        }
        self.follow_durable(now_ms, before, out);
    }

    /// Of a channel that need not wait for its archive: what is known of its cursors is here.
    fn act_durable(&mut self, now_ms: u64, name: &Arc<str>, mut request: Request, out: &mut Told) {
        if let Request::Subscribe { channel, from, ticket, want: Some(want) } = &mut request
            && let Some(follow) = want.follow.take()
        {
            match self.begin_following(now_ms, channel, follow, want) {
                Ok(following) => drop(self.following.insert((*from, *ticket), following)),
                Err(error) => return self.refuse_follower(now_ms, channel.clone(), (*from, *ticket), error, out),
            }
        }
        self.durable.act(&mut self.memory, now_ms, name, request, out);
    }

    /// Takes what the archive says.
    pub fn archived(&mut self, now_ms: u64, archived: Archived, out: &mut Told) {
        let before = out.len();
        let opened = self.durable.archived(&mut self.memory, now_ms, archived, out);
        if let Some(OpenedChannel { channel, requests, cursors, top, torn }) = opened {
            if let Some((keep, cursors)) = cursors {
                let unix_ms = self.durable.unix_ms;
                self.inboxes.load(now_ms, CursorsFound { channel: &channel, keep, cursors, top, torn, unix_ms });
            }
            for request in requests {
                self.act_durable(now_ms, &channel, request, out);
            }
            self.durable.follow(&mut self.memory, &channel);
        }
        self.follow_durable(now_ms, before, out);
    }

    /// What durable channels said, in `out` from `before` on, is news for inboxes.
    fn follow_durable(&mut self, now_ms: u64, before: usize, out: &mut Told) {
        if !self.following.is_empty() {
            for (_, event) in &mut out[before..] {
                match event {
                    Event::Subscribed { channel, conn, ticket, found: Some(found) } => {
                        if let Some(following) = self.following.remove(&(*conn, *ticket)) {
                            self.end_following(now_ms, channel, following, found);
                        }
                    }
                    Event::Refused { conn, ticket, .. } | Event::Subscribed { conn, ticket, .. } => {
                        self.following.remove(&(*conn, *ticket));
                    }
                    _ => {}
                }
            }
        }
        for (channel, top) in self.durable.said.drain(..) {
            if !self.inboxes.is_empty() {
                self.inboxes.published(now_ms, &channel, &top);
            }
        }
    }

    /// What the archive is to be told, in order.
    pub fn take_archive_calls(&mut self) -> impl Iterator<Item = ArchiveCall> {
        self.tell_cursors();
        self.durable.calls.drain(..)
    }

    /// How cursors stand, behind the publications that they speak of.
    fn tell_cursors(&mut self) {
        for GoneCursor { channel, user, device } in self.inboxes.take_gone() {
            self.durable.call(ArchiveCall::Unfollow { channel, user, device });
        }
        while self.durable.has_room()
            && let Some(news) = self.inboxes.take_unwritten(self.durable.unix_ms)
        {
            let CursorNews { channel, cursor, begins } = news;
            // When the archive is back it is told of all of them.
            if self.durable.is_adrift(&channel) {
                continue;
            }
            if let Some(position) = begins {
                self.durable.begins(&channel, position);
            }
            self.durable.call(ArchiveCall::Follow { channel, cursor: Box::new(cursor) });
        }
    }

    /// Of a channel that is kept here.
    fn handle_here(&mut self, now_ms: u64, request: Request, out: &mut Told) {
        match request {
            Request::Subscribe { channel, from, ticket, want: Some(want) } if want.follow.is_some() => {
                self.follow(now_ms, channel, (from, ticket), want, out);
            }
            Request::Publish { ref channel, treatment: Some(ref treatment), .. }
                if treatment.tells_present || !self.inboxes.is_empty() =>
            {
                let (channel, tells_present) = (channel.clone(), treatment.tells_present);
                self.memory.handle(now_ms, request, out);
                if let Some((_, Event::Answer { answer: Answer::Published(Some(top)), .. })) = out.last() {
                    self.inboxes.published(now_ms, &channel, top);
                }
                if tells_present {
                    self.memory.tell_present(&channel, out);
                }
            }
            request => self.memory.handle(now_ms, request, out),
        }
    }

    /// A subscription to a channel with an inbox. Who names no position recovers from where its cursor stands.
    fn follow(
        &mut self,
        now_ms: u64,
        channel: Arc<str>,
        (from, ticket): (ConnKey, u32),
        mut want: Box<Want>,
        out: &mut Told,
    ) {
        let Some(follow) = want.follow.take() else { return };
        let following = match self.begin_following(now_ms, &channel, follow, &mut want) {
            Ok(following) => following,
            Err(error) => return self.refuse_follower(now_ms, channel, (from, ticket), error, out),
        };
        let before = out.len();
        let request = Request::Subscribe { channel: channel.clone(), from, ticket, want: Some(want) };
        self.memory.handle(now_ms, request, out);
        let found = out[before..].iter_mut().find_map(|(_, event)| match event {
            Event::Subscribed { found: Some(found), .. } => Some(found),
            _ => None,
        });
        if let Some(found) = found {
            self.end_following(now_ms, &channel, following, found);
        }
    }

    /// It counts until it leaves, as every subscription that is refused.
    fn refuse_follower(
        &mut self,
        now_ms: u64,
        channel: Arc<str>,
        (from, ticket): (ConnKey, u32),
        error: ClientError,
        out: &mut Told,
    ) {
        let plain = Request::Subscribe { channel: channel.clone(), from, ticket, want: None };
        let before = out.len();
        self.memory.handle(now_ms, plain, out);
        let kept: Told = out.drain(before..).filter(|told| !matches!(told.1, Event::Subscribed { .. })).collect();
        out.extend(kept);
        let target = Target::Reactor(from.reactor);
        out.push((target, Event::Refused { channel, conn: from, ticket, error }));
    }

    /// Who names no position recovers from where its cursor stands.
    fn begin_following(
        &mut self,
        now_ms: u64,
        channel: &Arc<str>,
        follow: Box<Follow>,
        want: &mut Want,
    ) -> Result<Following, ClientError> {
        let known = self.inboxes.begin(now_ms, channel, &follow)?;
        let unknown = known.is_none() && self.durable.is_adrift(channel);
        let (own, mut by_cursor, mut torn) = (want.recover.clone(), None, false);
        if own.is_none()
            && let Some((at, is_torn)) = known
        {
            torn = is_torn;
            by_cursor = Some(at.offset);
            let InboxKeep { size, page, .. } = follow.keep;
            let epoch = at.epoch.as_str().into();
            want.recover = Some(Recover { offset: at.offset, epoch, limit: page, most: size, cache: false });
        }
        Ok(Following { follow, own, by_cursor, torn, unknown })
    }

    /// It is known where the subscription begins.
    fn end_following(&mut self, now_ms: u64, channel: &Arc<str>, following: Following, found: &mut Found) {
        let Following { follow, own, by_cursor, torn, unknown } = following;
        if let (Some(offset), Some(recovery)) = (by_cursor, &mut found.recovery) {
            recovery.from = Some(offset);
            // What is there is sent all the same.
            recovery.recovered &= !torn;
            self.inboxes.tally.count(recovery);
        }
        if unknown {
            return;
        }
        // A position in this life was the client's own: it came as far.
        let proven = own.as_ref().is_some_and(|own| !own.epoch.is_empty() && found.position.epoch == *own.epoch);
        let begins = own.filter(|own| proven || own.epoch.is_empty()).map(|own| own.offset);
        self.inboxes.stand(now_ms, channel, &follow, &found.position, begins, proven);
    }

    /// Publications are proven to have arrived.
    pub fn arrived(&mut self, now_ms: u64, arrived: &Arrived, keep: InboxKeep) {
        match self.remote.has(&arrived.channel) {
            true => self.remote.arrived(arrived, keep),
            // Nobody knows whether the archive has a cursor that is not here.
            false if self.durable.is_adrift(&arrived.channel) => self.inboxes.moved(now_ms, arrived, keep),
            false => self.inboxes.arrived(now_ms, arrived, keep),
        }
    }

    /// The cursors of a user.
    pub fn cursors(&self, user: &str) -> Vec<CursorFacts> {
        self.inboxes.facts(user)
    }

    /// The backend says what has arrived; false if nobody has that cursor here.
    pub fn acknowledge(&mut self, now_ms: u64, channel: &str, user: &str, device: &str, offset: u64) -> bool {
        self.inboxes.acknowledge(now_ms, channel, user, device, offset)
    }

    /// Forgets cursors of a user; how many there were.
    pub fn clear_cursors(&mut self, user: &str, device: Option<&str>, channel: Option<&str>) -> usize {
        self.inboxes.clear(user, device, channel)
    }

    pub fn set_inbox_limits(&mut self, limits: InboxLimits) {
        self.inboxes.set_limits(limits);
    }

    /// What became of inboxes; how many cursors there are, and in how many bytes.
    pub fn inbox_tally(&self) -> (InboxTally, usize, usize) {
        let mut tally = self.inboxes.tally;
        tally.add(&self.remote.inboxes);
        (tally, self.inboxes.len(), self.inboxes.bytes())
    }

    pub fn hear(&mut self, now_ms: u64, heard: Heard, out: &mut Told) {
        self.remote.hear(now_ms, heard, out);
    }

    /// What engines are to be told, in order.
    pub fn take_calls(&mut self) -> impl Iterator<Item = (Engine, EngineCall)> {
        self.remote.calls.drain(..)
    }

    /// What comes with time; when the next call is wanted.
    pub fn expire(&mut self, now_ms: u64, out: &mut Told) -> Option<u64> {
        let (memory, remote) = (self.memory.expire(now_ms), self.remote.expire(now_ms, out));
        self.durable.expire(&mut self.memory);
        let inboxes = self.expire_inboxes(now_ms, out);
        memory.into_iter().chain(remote).chain(inboxes).min()
    }

    fn expire_inboxes(&mut self, now_ms: u64, out: &mut Told) -> Option<u64> {
        if self.inboxes.is_empty() {
            return None;
        }
        let mut undelivered = Vec::new();
        let next = self.inboxes.expire(now_ms, &mut undelivered);
        for mut one in undelivered {
            if one.with_data {
                one.publications = self.publications(now_ms, &one);
            }
            out.push((Target::Backend, Event::Undelivered(Box::new(one))));
        }
        next
    }

    fn publications(&mut self, now_ms: u64, of: &Undelivered) -> Vec<Publication> {
        let limit = usize::try_from(of.to + 1 - of.from).unwrap_or(usize::MAX).min(UNDELIVERED_MAX);
        let since = Some((of.from - 1, of.epoch.as_str().into()));
        let keep = Keep { size: 0, ttl_ms: 0, meta_ttl_ms: 0 };
        let query = Box::new(Query { keep, since, limit, reverse: false });
        let mut told = Told::new();
        let question = Request::History { channel: of.channel.clone(), asker: Asker::Backend(0), query };
        self.memory.handle(now_ms, question, &mut told);
        let Some((_, Event::Answer { answer: Answer::History(found), .. })) = told.pop() else { return Vec::new() };
        found.1.into_iter().filter(|publication| publication.offset <= of.to).collect()
    }

    /// Channels with subscribers.
    pub fn len(&self) -> usize {
        self.memory.len() + self.remote.occupied()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Each channel of a part that has subscribers on this node, with their number over all reactors.
    pub fn channels(&self, part: usize) -> impl Iterator<Item = (&Arc<str>, u64)> {
        self.memory.channels(part).chain(self.remote.channels(part))
    }

    /// How many channels a part has, those without subscribers too.
    pub fn part_len(&self, part: usize) -> usize {
        self.memory.part_len(part) + self.remote.part_len(part)
    }
}
