//! F3 · The broker in memory: one reactor's share of the node's channels.
//!
//! Owns, for each channel that hashes here and is in use, how many subscribers each reactor holds, the stream and the
//! presence. Pure: the time and requests in, events out. A publication goes once to each reactor with subscribers,
//! however many it has. A channel lives while it has subscribers or a stream. A stream begins with its first
//! publication or positioned subscriber. It ends by its TTL, with its last subscriber if nothing was ever in it, or
//! when all streams and idempotency keys reach their limit of bytes: what costs least is forgotten first.

mod restored;
#[cfg(test)]
mod tests;

pub use restored::Extent;

use super::interest::{Interest, Told};
use super::kept::{Kept, Rank};
use super::presence::Presence;
use super::recent::Recent;
use super::stream::{PLACE_BYTES, Stream};
use super::table::ChannelTable;
use super::{
    Answer, ConnKey, Event, Extras, Found, Gone, Keep, Member, Position, Query, Request, Target, Treatment, Want,
};
use crate::protocol::code::ClientError;
use crate::protocol::{ClientInfo, Publication, delta};
use bytes::Bytes;
use std::sync::Arc;

/// Deadlines looked at in one call, so that a million streams do not end in one turn.
const EXPIRED_MAX: usize = 256;

/// A stream past its time that has subscribers is kept, and looked at again after so long.
const OCCUPIED_MS: u64 = 60_000;

/// What one share of the broker may hold.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of streams and idempotency keys. 0 = no limit; beyond: what costs least is forgotten, and publications
    /// that are to be kept are refused if nothing is left to forget.
    pub history_bytes: usize,
    /// Idempotency keys remembered.
    pub recent: usize,
}

/// What was forgotten before its time, and refused, because of [`Limits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Evicted {
    /// Streams as a whole: nobody subscribed, or nothing was in them.
    pub streams: u64,
    /// The publications of streams whose positions stayed.
    pub histories: u64,
    pub keys: u64,
    /// Publications refused.
    pub refused: u64,
}

#[derive(Debug, Default)]
struct Channel {
    interest: Interest,
    stream: Option<Box<Stream>>,
    presence: Option<Box<Presence>>,
}

impl Channel {
    fn is_unused(&self) -> bool {
        self.interest.is_empty() && self.stream.is_none() && self.presence.is_none()
    }
}

const _: () = assert!(size_of::<Channel>() <= 40);

/// A shard of the memory broker.
#[derive(Debug)]
pub struct Memory {
    channels: ChannelTable<Channel>,
    /// Channels with subscribers.
    occupied: usize,
    kept: Kept,
    recent: Recent,
    limits: Limits,
    /// After the limit of bytes was lowered: what may be kept until the rest has gone, in parts.
    falling: Option<usize>,
    evicted: Evicted,
    /// Publications with a treatment, less those that were known.
    pub published: u64,
    /// Tell when channels are occupied and vacated.
    pub announces: bool,
    /// What is asked now is of a channel that is archived.
    pub archives: bool,
    /// The publication that was placed since, in such a channel.
    pub placed: Option<(Position, Arc<Publication>)>,
    /// Archived streams that are gone.
    pub forgotten: Vec<Arc<str>>,
}

impl Memory {
    /// `seed`: of this shard, for epochs that no other life of a stream has.
    pub fn new(seed: u64, limits: Limits) -> Memory {
        Memory {
            channels: ChannelTable::default(),
            occupied: 0,
            kept: Kept::new(seed),
            recent: Recent::new(limits.recent),
            limits,
            falling: None,
            evicted: Evicted::default(),
            published: 0,
            announces: false,
            archives: false,
            placed: None,
            forgotten: Vec::new(),
        }
    }

    /// Bytes that may be kept from now on; 0 = no limit. What is too much goes with the next calls of `expire`.
    pub fn set_history_limit(&mut self, bytes: usize) {
        self.limits.history_bytes = bytes;
        self.falling = (bytes > 0 && self.kept_bytes() > bytes).then(|| self.kept_bytes());
    }

    /// Forgets a part of what is too much since the limit was lowered; is there more?
    fn fall(&mut self) -> bool {
        let nothing: Arc<str> = "".into();
        let falls = |memory: &Memory| memory.falling.is_some() && memory.kept_bytes() > memory.limits.history_bytes;
        for _ in 0..EXPIRED_MAX {
            if !falls(self) || !self.evict(&nothing) {
                self.falling = None;
                return false;
            }
        }
        self.falling = Some(self.kept_bytes());
        true
    }

    /// Carries out `request` at `now_ms`, of a clock that never steps; what follows is appended to `out`, in order.
    pub fn handle(&mut self, now_ms: u64, request: Request, out: &mut Told) {
        let (asker, answer) = match request {
            Request::Subscribe { channel, from, ticket, want } => {
                return self.subscribe(now_ms, channel, from, ticket, want, out);
            }
            Request::Leave { channel, reactor, gone } => return self.leave(&channel, reactor, gone, out),
            Request::Publish { channel, publication, asker, treatment } => {
                (asker, self.publish(now_ms, channel, publication, treatment, out))
            }
            Request::History { channel, asker, query } => (asker, self.history(now_ms, &channel, &query)),
            Request::RemoveHistory { channel, asker } => (asker, self.remove_history(&channel)),
            Request::Presence { channel, asker } => {
                let presence = self.channels.get(&channel).and_then(|channel| channel.presence.as_ref());
                (
                    asker,
                    Answer::Presence(
                        presence.map_or(Vec::new(), |presence| presence.clients(None).map(|(_, info)| info).collect()),
                    ),
                )
            }
            Request::PresenceStats { channel, asker } => {
                let presence = self.channels.get(&channel).and_then(|channel| channel.presence.as_ref());
                let (clients, users) = presence.map_or((0, 0), |presence| presence.counts());
                (asker, Answer::PresenceStats { clients, users })
            }
        };
        out.push((asker.into(), Event::Answer { asker, answer }));
    }

    fn subscribe(
        &mut self,
        now_ms: u64,
        name: Arc<str>,
        from: ConnKey,
        ticket: u32,
        want: Option<Box<Want>>,
        out: &mut Told,
    ) {
        let want = want.map_or(Want::default(), |want| *want);
        self.forget_if_over(now_ms, &name);
        let Memory { channels, kept, archives, .. } = self;
        let archives = *archives;
        let channel = channels.get_or_insert_default(&name);
        if channel.interest.is_empty() {
            self.occupied += 1;
            if self.announces {
                out.push((Target::Backend, Event::Occupied { channel: name.clone(), occupied: true }));
            }
        }
        channel.interest.add(from.reactor);
        let found = want.position.map(|keep| {
            let stream = channel.stream.get_or_insert_with(|| kept.begin(&name));
            stream.is_archived |= archives;
            stream.touch(now_ms, keep);
            stream.deltas += u32::from(want.delta);
            let recovery = want.recover.map(|ask| stream.recover(&ask));
            Box::new(Found { position: stream.position(), recovery })
        });
        if let Some(stream) = &mut channel.stream {
            kept.settle(&name, stream, true);
        }
        let target = Target::Reactor(from.reactor);
        out.push((target, Event::Subscribed { channel: name.clone(), conn: from, ticket, found }));
        if let Some(Member { client, info, presence, announce }) = want.member {
            if presence {
                channel.presence.get_or_insert_default().insert(client, &info);
            }
            if announce {
                channel.interest.tell(out, || Event::Join { channel: name.clone(), info: info.clone() });
            }
        }
        if want.position.is_some() {
            self.make_room(&name, |_| 0);
        }
    }

    fn leave(&mut self, name: &Arc<str>, reactor: u16, gone: Option<Box<Gone>>, out: &mut Told) {
        let asker = gone.as_ref().and_then(|gone| gone.asker);
        let channel = self.channels.get_mut(name);
        debug_assert!(channel.is_some(), "a leave follows its subscribe");
        if let Some(channel) = channel {
            channel.interest.remove(reactor);
            if let Some(gone) = gone {
                part(channel, name, *gone, out);
            }
            if channel.interest.is_empty() {
                self.occupied -= 1;
                if self.announces {
                    out.push((Target::Backend, Event::Occupied { channel: name.clone(), occupied: false }));
                }
                self.settle_idle(name);
            }
        }
        if let Some(asker) = asker {
            out.push((asker.into(), Event::Answer { asker, answer: Answer::Left }));
        }
    }

    /// The last subscriber went. A stream without publications goes with it: its channel's epoch tells as much.
    fn settle_idle(&mut self, name: &Arc<str>) {
        let Some(channel) = self.channels.get_mut(name) else { return };
        if let Some(stream) = channel.stream.take_if(|stream| stream.is_empty()) {
            note_forgotten(&stream, name, &mut self.forgotten);
            self.kept.forget(name, stream);
        }
        if let Some(stream) = &mut channel.stream {
            self.kept.settle(name, stream, false);
        }
        self.remove_if_unused(name);
    }

    fn remove_if_unused(&mut self, name: &Arc<str>) {
        if self.channels.get(name).is_some_and(Channel::is_unused) {
            self.channels.remove(name);
        }
    }

    fn publish(
        &mut self,
        now_ms: u64,
        name: Arc<str>,
        mut publication: Arc<Publication>,
        treatment: Option<Box<Treatment>>,
        out: &mut Told,
    ) -> Answer {
        let Some(treatment) = treatment else {
            if let Some(Channel { interest, .. }) = self.channels.get(&name) {
                interest.send(&name, &publication, None, out);
            }
            return Answer::Published(None);
        };
        let key = treatment.idempotency_key.clone();
        if !key.is_empty()
            && let Some(first) = self.recent.find(now_ms, &name, &key)
        {
            return Answer::Published(first);
        }
        let mut extras = Extras { delta: None, except: treatment.except };
        let mut position = None;
        if let Some(keep) = treatment.keep {
            match self.keep(now_ms, &name, keep, &treatment, &mut publication) {
                Ok((at, delta)) => (position, extras.delta) = (Some(at), delta),
                Err(answer) => return answer,
            }
        }
        self.published += 1;
        let extras = (extras != Extras::default()).then_some(extras);
        if let Some(Channel { interest, .. }) = self.channels.get(&name) {
            interest.send(&name, &publication, extras.as_ref(), out);
        }
        if !key.is_empty() {
            self.recent.insert(now_ms, &name, &key, position.clone());
            self.make_room(&name, |_| 0);
        }
        Answer::Published(position)
    }

    /// Gives a publication its place in the channel's stream, which begins now if there is none; its position, and its
    /// delta if it is to have one. Otherwise the answer: it is older than the latest, or there is no room.
    fn keep(
        &mut self,
        now_ms: u64,
        name: &Arc<str>,
        keep: Keep,
        treatment: &Treatment,
        publication: &mut Arc<Publication>,
    ) -> Result<(Position, Option<Bytes>), Answer> {
        let Treatment { delta: wants_delta, version, version_epoch, .. } = treatment;
        self.forget_if_over(now_ms, name);
        if let Some(stream) = self.channels.get_mut(name).and_then(|channel| channel.stream.as_mut())
            && stream.is_stale(*version, version_epoch)
        {
            return Err(Answer::Published(Some(stream.position())));
        }
        let growth = |stream: Option<&Stream>| match stream {
            Some(stream) => stream.growth(keep, publication) + version_epoch.len(),
            None => Stream::new_cost(name) + Stream::cost(publication) + version_epoch.len() + PLACE_BYTES,
        };
        if !self.make_room(name, growth) {
            self.evicted.refused += 1;
            return Err(Answer::Refused(ClientError::TooManyRequests));
        }
        let Memory { channels, kept, archives, placed, .. } = self;
        let Channel { stream, interest, .. } = channels.get_or_insert_default(name);
        let stream = stream.get_or_insert_with(|| kept.begin(name));
        stream.is_archived |= *archives;
        stream.set_version(*version, version_epoch);
        let latest = if *wants_delta && stream.deltas > 0 { stream.latest() } else { None };
        let delta = latest.and_then(|before| delta::shorter(&before.data, &publication.data));
        stream.add(now_ms, keep, Arc::make_mut(publication));
        kept.settle(name, stream, !interest.is_empty());
        kept.list(name, stream, now_ms.saturating_add(keep.ttl_ms).min(stream.until).max(now_ms + 1));
        let position = stream.position();
        if *archives {
            *placed = Some((position.clone(), publication.clone()));
        }
        Ok((position, delta))
    }

    /// Makes room for what `needed` says of the channel's stream; false if there is none even so.
    fn make_room(&mut self, name: &Arc<str>, needed: impl Fn(Option<&Stream>) -> usize) -> bool {
        // What one publication needs is made room for at once, and what a lower limit leaves over is not its to remove.
        let max = self.falling.unwrap_or(self.limits.history_bytes);
        loop {
            let stream = self.channels.get(name).and_then(|channel| channel.stream.as_deref());
            let needed = needed(stream);
            if max == 0 || self.kept_bytes() + needed <= max {
                return true;
            }
            if needed > self.limits.history_bytes || !self.evict(name) {
                return false;
            }
        }
    }

    /// Forgets what costs least, but not the stream of `spared` as a whole; false if there is nothing to forget.
    fn evict(&mut self, spared: &Arc<str>) -> bool {
        let whole = [Rank::Empty, Rank::Idle].into_iter().find_map(|rank| self.kept.oldest(rank, spared));
        if let Some(name) = whole {
            self.evicted.streams += 1;
            self.forget_stream(&name);
            return true;
        }
        let part = self.kept.oldest(Rank::Heard, spared).unwrap_or_else(|| spared.clone());
        if let Some(Channel { stream: Some(stream), interest, .. }) = self.channels.get_mut(&part)
            && stream.has_publications()
        {
            self.evicted.histories += 1;
            stream.clear();
            self.kept.settle(&part, stream, !interest.is_empty());
            return true;
        }
        self.recent.evict_oldest()
    }

    fn forget_stream(&mut self, name: &Arc<str>) {
        if let Some(stream) = self.channels.get_mut(name).and_then(|channel| channel.stream.take()) {
            note_forgotten(&stream, name, &mut self.forgotten);
            self.kept.forget(name, stream);
            self.remove_if_unused(name);
        }
    }

    /// Forgets of a channel's stream what is past its time.
    fn forget_if_over(&mut self, now_ms: u64, name: &Arc<str>) {
        let Some(Channel { stream: Some(stream), interest, .. }) = self.channels.get_mut(name) else { return };
        match stream.expire(now_ms) || !interest.is_empty() {
            true => self.kept.settle(name, stream, !interest.is_empty()),
            false => self.forget_stream(name),
        }
    }

    fn history(&mut self, now_ms: u64, name: &Arc<str>, query: &Query) -> Answer {
        self.forget_if_over(now_ms, name);
        let Memory { channels, kept, .. } = self;
        let found = match channels.get_mut(name) {
            Some(Channel { stream: Some(stream), interest, .. }) => {
                stream.touch(now_ms, query.keep);
                kept.settle(name, stream, !interest.is_empty());
                stream.query(query).map(|publications| (stream.position(), publications))
            }
            // A question begins nothing.
            _ => {
                let stream = Stream::new(kept.epoch(name), 0, 0);
                stream.query(query).map(|publications| (stream.position(), publications))
            }
        };
        found.map_or_else(Answer::Refused, |found| Answer::History(Box::new(found)))
    }

    fn remove_history(&mut self, name: &Arc<str>) -> Answer {
        if let Some(Channel { stream: Some(stream), interest, .. }) = self.channels.get_mut(name) {
            stream.clear();
            self.kept.settle(name, stream, !interest.is_empty());
        }
        Answer::Removed
    }

    /// Forgets what is past its time, a part in each call; when the next call is wanted.
    pub fn expire(&mut self, now_ms: u64) -> Option<u64> {
        if self.falling.is_some() && self.fall() {
            return Some(now_ms);
        }
        if self.recent.forget(now_ms) {
            return Some(now_ms);
        }
        for _ in 0..EXPIRED_MAX {
            match self.kept.due(now_ms) {
                Ok(name) => self.expire_one(now_ms, &name),
                Err(next) => return next,
            }
        }
        Some(now_ms)
    }

    fn expire_one(&mut self, now_ms: u64, name: &Arc<str>) {
        if let Some(Channel { stream: Some(stream), .. }) = self.channels.get_mut(name) {
            stream.listed = None;
        }
        self.forget_if_over(now_ms, name);
        if let Some(Channel { stream: Some(stream), .. }) = self.channels.get_mut(name) {
            let due = Some(stream.due()).filter(|&due| due > now_ms).unwrap_or(now_ms + OCCUPIED_MS);
            self.kept.list(name, stream, due);
        }
    }

    /// Does anybody subscribe to it?
    pub fn is_occupied(&self, channel: &str) -> bool {
        self.channels.get(channel).is_some_and(|channel| !channel.interest.is_empty())
    }

    /// Channels with subscribers.
    pub fn len(&self) -> usize {
        self.occupied
    }

    pub fn is_empty(&self) -> bool {
        self.occupied == 0
    }

    /// Bytes that streams and idempotency keys count for.
    pub fn kept_bytes(&self) -> usize {
        self.kept.bytes() + self.recent.bytes()
    }

    /// What the limits cost, since the start.
    pub fn evicted(&self) -> Evicted {
        Evicted { keys: self.recent.evicted, ..self.evicted }
    }

    /// The clients present in a channel that follow the one with the id `after`, from the first without; at most `max`.
    pub fn present(&self, channel: &str, after: Option<[u8; 16]>, max: usize) -> Vec<([u8; 16], ClientInfo)> {
        let presence = self.channels.get(channel).and_then(|channel| channel.presence.as_ref());
        presence.map_or(Vec::new(), |presence| presence.clients(after).take(max).collect())
    }

    /// How many clients are present in a channel.
    pub fn presence_count(&self, channel: &str) -> usize {
        let presence = self.channels.get(channel).and_then(|channel| channel.presence.as_ref());
        presence.map_or(0, |presence| presence.counts().0 as usize)
    }

    /// Each channel of one of [`CHANNEL_PARTS`] parts that has subscribers, with their number over all reactors.
    pub fn channels(&self, part: usize) -> impl Iterator<Item = (&Arc<str>, u64)> {
        let occupied = self.channels.part(part).filter(|(_, channel)| !channel.interest.is_empty());
        occupied.map(|(name, channel)| (name, channel.interest.count()))
    }

    /// How many channels a part has, those without subscribers too.
    pub fn part_len(&self, part: usize) -> usize {
        self.channels.part(part).len()
    }
}

fn note_forgotten(stream: &Stream, name: &Arc<str>, forgotten: &mut Vec<Arc<str>>) {
    if stream.is_archived {
        forgotten.push(name.clone());
    }
}

/// What a subscriber leaves behind besides its place.
fn part(channel: &mut Channel, name: &Arc<str>, gone: Gone, out: &mut Told) {
    if let Some(stream) = &mut channel.stream {
        stream.deltas = stream.deltas.saturating_sub(u32::from(gone.delta));
    }
    let Some(Member { client, info, presence, announce }) = gone.member else { return };
    if presence && let Some(present) = &mut channel.presence {
        present.remove(client);
        if present.is_empty() {
            channel.presence = None;
        }
    }
    if announce {
        channel.interest.tell(out, || Event::Leave { channel: name.clone(), info: info.clone() });
    }
}
