//! F3 · The broker in memory: one reactor's share of the node's channels.
//!
//! Owns, for each channel that hashes here and is in use, how many subscribers each reactor holds, the stream and the
//! presence. Pure: the time and requests in, events out. A publication goes once to each reactor with subscribers,
//! however many it has. A channel lives while it has subscribers or a stream; streams end by their TTL, and their
//! bytes have a limit.

use super::presence::Presence;
use super::recent::Recent;
use super::stream::Stream;
use super::{
    Answer, ConnKey, Epoch, Event, Extras, Found, Gone, Keep, Member, Query, Request, Target, Treatment, Want,
};
use crate::protocol::code::ClientError;
use crate::protocol::{Publication, delta};
use foldhash::quality::{FixedState, RandomState};
use hashbrown::HashMap;
use smallvec::SmallVec;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hash::BuildHasher;
use std::sync::Arc;

/// Deadlines looked at in one call, so that a million streams do not end in one turn.
const EXPIRED_MAX: usize = 256;

/// A stream past its time that has subscribers is kept, and looked at again after so long.
const OCCUPIED_MS: u64 = 60_000;

/// What one share of the broker may hold.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of streams. 0 = no limit; beyond: publications that are to be kept are refused.
    pub history_bytes: usize,
    /// Idempotency keys remembered.
    pub recent: usize,
}

/// Subscribers by reactor; reactors without any are not listed.
#[derive(Debug, Default)]
struct Channel {
    interest: SmallVec<[(u16, u32); 2]>,
    stream: Option<Box<Stream>>,
    presence: Option<Box<Presence>>,
}

impl Channel {
    fn is_unused(&self) -> bool {
        self.interest.is_empty() && self.stream.is_none() && self.presence.is_none()
    }
}

const _: () = assert!(size_of::<Channel>() <= 40);

type Out = Vec<(Target, Event)>;

/// A shard of the memory broker.
#[derive(Debug)]
pub struct Memory {
    channels: HashMap<Arc<str>, Channel, RandomState>,
    /// Channels with subscribers.
    occupied: usize,
    /// When streams are next to be looked at: each once, its true deadline may be later.
    deadlines: BinaryHeap<Reverse<(u64, Arc<str>)>>,
    recent: Recent,
    stream_bytes: usize,
    limits: Limits,
    /// Epochs are drawn from this and a count.
    seed: u64,
    epochs: u64,
    /// Tell when channels are occupied and vacated.
    pub announces: bool,
}

/// Sends `event` to each reactor with subscribers.
fn tell(interest: &[(u16, u32)], out: &mut Out, event: impl Fn() -> Event) {
    out.extend(interest.iter().map(|&(reactor, _)| (Target::Reactor(reactor), event())));
}

impl Memory {
    /// `seed`: of this shard, for epochs that no other life of a stream has.
    pub fn new(seed: u64, limits: Limits) -> Memory {
        Memory {
            channels: HashMap::default(),
            occupied: 0,
            deadlines: BinaryHeap::new(),
            recent: Recent::new(limits.recent),
            stream_bytes: 0,
            limits,
            seed,
            epochs: 0,
            announces: false,
        }
    }

    /// Carries out `request` at `now_ms`, of a clock that never steps; what follows is appended to `out`, in order.
    pub fn handle(&mut self, now_ms: u64, request: Request, out: &mut Out) {
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
                (asker, Answer::Presence(presence.map_or(Vec::new(), |presence| presence.all())))
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
        out: &mut Out,
    ) {
        let want = want.map_or(Want::default(), |want| *want);
        if let Some(keep) = want.position {
            self.stream(now_ms, &name, keep);
        }
        let channel = self.channels.entry(name.clone()).or_default();
        if channel.interest.is_empty() {
            self.occupied += 1;
            if self.announces {
                out.push((Target::Backend, Event::Occupied { channel: name.clone(), occupied: true }));
            }
        }
        match channel.interest.iter_mut().find(|(reactor, _)| *reactor == from.reactor) {
            Some((_, count)) => *count += 1,
            None => channel.interest.push((from.reactor, 1)),
        }
        let stream = channel.stream.as_mut().filter(|_| want.position.is_some());
        let found = stream.map(|stream| {
            stream.deltas += u32::from(want.delta);
            let recovery = want.recover.map(|ask| stream.recover(&ask));
            Box::new(Found { position: stream.position(), recovery })
        });
        let target = Target::Reactor(from.reactor);
        out.push((target, Event::Subscribed { channel: name.clone(), conn: from, ticket, found }));
        let Some(Member { client, info, presence, announce }) = want.member else { return };
        if presence {
            channel.presence.get_or_insert_default().insert(client, &info);
        }
        if announce {
            tell(&channel.interest, out, || Event::Join { channel: name.clone(), info: info.clone() });
        }
    }

    fn leave(&mut self, name: &Arc<str>, reactor: u16, gone: Option<Box<Gone>>, out: &mut Out) {
        let asker = gone.as_ref().and_then(|gone| gone.asker);
        let channel = self.channels.get_mut(name);
        debug_assert!(channel.is_some(), "a leave follows its subscribe");
        if let Some(channel) = channel {
            channel.interest.retain(|(at, count)| {
                *count -= u32::from(*at == reactor);
                *count > 0
            });
            if let Some(gone) = gone {
                part(channel, name, *gone, out);
            }
            if channel.interest.is_empty() {
                self.occupied -= 1;
                if self.announces {
                    out.push((Target::Backend, Event::Occupied { channel: name.clone(), occupied: false }));
                }
                if channel.is_unused() {
                    self.channels.remove(name);
                }
            }
        }
        if let Some(asker) = asker {
            out.push((asker.into(), Event::Answer { asker, answer: Answer::Left }));
        }
    }

    fn publish(
        &mut self,
        now_ms: u64,
        name: Arc<str>,
        mut publication: Arc<Publication>,
        treatment: Option<Box<Treatment>>,
        out: &mut Out,
    ) -> Answer {
        let Some(treatment) = treatment else {
            if let Some(Channel { interest, .. }) = self.channels.get(&name) {
                send(interest, &name, &publication, None, out);
            }
            return Answer::Published(None);
        };
        let Treatment { keep, delta: wants_delta, except, idempotency_key: key, version, version_epoch } = *treatment;
        if !key.is_empty()
            && let Some(first) = self.recent.find(now_ms, &name, &key)
        {
            return Answer::Published(first);
        }
        let mut extras = Extras { delta: None, except };
        let mut position = None;
        if let Some(keep) = keep {
            if self.is_full(&publication) {
                return Answer::Refused(ClientError::TooManyRequests);
            }
            let stream = self.stream(now_ms, &name, keep);
            if stream.is_stale(version, &version_epoch) {
                return Answer::Published(Some(stream.position()));
            }
            if wants_delta && stream.deltas > 0 {
                extras.delta = stream.latest().and_then(|before| delta::shorter(&before.data, &publication.data));
            }
            let before = stream.bytes_kept();
            stream.add(now_ms, keep, Arc::make_mut(&mut publication));
            position = Some(stream.position());
            let after = stream.bytes_kept();
            self.stream_bytes = self.stream_bytes + after - before;
        }
        let extras = (extras != Extras::default()).then_some(extras);
        if let Some(Channel { interest, .. }) = self.channels.get(&name) {
            send(interest, &name, &publication, extras.as_ref(), out);
        }
        if !key.is_empty() {
            self.recent.insert(now_ms, &name, &key, position);
        }
        Answer::Published(position)
    }

    fn is_full(&self, publication: &Publication) -> bool {
        let max = self.limits.history_bytes;
        max > 0 && self.stream_bytes + Stream::cost(publication) > max
    }

    /// The stream of a channel, which begins now if there is none.
    fn stream(&mut self, now_ms: u64, name: &Arc<str>, keep: Keep) -> &mut Stream {
        let Memory { channels, deadlines, stream_bytes, seed, epochs, .. } = self;
        let Channel { stream: held, interest, .. } = channels.entry(name.clone()).or_default();
        if let Some(stream) = held {
            let before = stream.bytes_kept();
            let lives = stream.expire(now_ms) || !interest.is_empty();
            if !lives {
                let listed = stream.listed;
                **stream = Stream::new(next_epoch(*seed, epochs));
                stream.listed = listed;
            }
            *stream_bytes = *stream_bytes + stream.bytes_kept() - before;
        }
        let stream = held.get_or_insert_with(|| {
            let stream = Box::new(Stream::new(next_epoch(*seed, epochs)));
            *stream_bytes += stream.bytes_kept();
            stream
        });
        stream.touch(now_ms, keep);
        if !std::mem::replace(&mut stream.listed, true) {
            let first = now_ms.saturating_add(keep.ttl_ms).min(stream.until).max(now_ms + 1);
            deadlines.push(Reverse((first, name.clone())));
        }
        stream
    }

    fn history(&mut self, now_ms: u64, name: &Arc<str>, query: &Query) -> Answer {
        let stream = self.stream(now_ms, name, query.keep);
        match stream.query(query) {
            Ok(publications) => Answer::History(Box::new((stream.position(), publications))),
            Err(error) => Answer::Refused(error),
        }
    }

    fn remove_history(&mut self, name: &Arc<str>) -> Answer {
        if let Some(stream) = self.channels.get_mut(name).and_then(|channel| channel.stream.as_mut()) {
            let before = stream.bytes_kept();
            stream.clear();
            self.stream_bytes = self.stream_bytes + stream.bytes_kept() - before;
        }
        Answer::Removed
    }

    /// Forgets what is past its time, a part in each call; when the next call is wanted.
    pub fn expire(&mut self, now_ms: u64) -> Option<u64> {
        self.recent.forget(now_ms);
        for _ in 0..EXPIRED_MAX {
            match self.deadlines.peek() {
                Some(Reverse((due, _))) if *due <= now_ms => {}
                Some(Reverse((due, _))) => return Some(*due),
                None => return None,
            }
            if let Some(Reverse((_, name))) = self.deadlines.pop() {
                self.expire_one(now_ms, name);
            }
        }
        Some(now_ms)
    }

    fn expire_one(&mut self, now_ms: u64, name: Arc<str>) {
        let Some(channel) = self.channels.get_mut(&name) else { return };
        let Some(stream) = &mut channel.stream else { return };
        let before = stream.bytes_kept();
        let lives = stream.expire(now_ms) || !channel.interest.is_empty();
        self.stream_bytes = self.stream_bytes + stream.bytes_kept() - before;
        if lives {
            let due = Some(stream.due()).filter(|&due| due > now_ms).unwrap_or(now_ms + OCCUPIED_MS);
            return self.deadlines.push(Reverse((due, name)));
        }
        self.stream_bytes -= stream.bytes_kept();
        channel.stream = None;
        if channel.is_unused() {
            self.channels.remove(&name);
        }
    }

    /// Channels with subscribers.
    pub fn len(&self) -> usize {
        self.occupied
    }

    pub fn is_empty(&self) -> bool {
        self.occupied == 0
    }

    /// Bytes that streams count for.
    pub fn stream_bytes(&self) -> usize {
        self.stream_bytes
    }

    /// Each channel owned here that has subscribers, with their number over all reactors.
    pub fn channels(&self) -> impl Iterator<Item = (&Arc<str>, u64)> {
        let occupied = self.channels.iter().filter(|(_, channel)| !channel.interest.is_empty());
        occupied.map(|(name, channel)| (name, channel.interest.iter().map(|&(_, n)| u64::from(n)).sum()))
    }
}

/// A publication to each reactor with subscribers.
fn send(
    interest: &[(u16, u32)],
    name: &Arc<str>,
    publication: &Arc<Publication>,
    extras: Option<&Extras>,
    out: &mut Out,
) {
    tell(interest, out, || {
        let (channel, publication) = (name.clone(), publication.clone());
        Event::Publication { channel, publication, extras: extras.map(|extras| Box::new(extras.clone())) }
    });
}

/// What a subscriber leaves behind besides its place.
fn part(channel: &mut Channel, name: &Arc<str>, gone: Gone, out: &mut Out) {
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
        tell(&channel.interest, out, || Event::Leave { channel: name.clone(), info: info.clone() });
    }
}

fn next_epoch(seed: u64, epochs: &mut u64) -> Epoch {
    *epochs += 1;
    Epoch::random(FixedState::with_seed(seed).hash_one(*epochs))
}

#[cfg(test)]
mod tests {
    use super::super::Asker;
    use super::*;

    fn memory() -> Memory {
        Memory::new(7, Limits { history_bytes: 0, recent: 10 })
    }

    fn ask(memory: &mut Memory, request: Request) -> Vec<(Target, Event)> {
        let mut out = Vec::new();
        memory.handle(1, request, &mut out);
        out
    }

    fn subscribe(memory: &mut Memory, reactor: u16) -> Vec<(Target, Event)> {
        let from = ConnKey { reactor, index: 7, generation: 1 };
        ask(memory, Request::Subscribe { channel: "c".into(), from, ticket: 3, want: None })
    }

    /// Where a publication and then its answer go.
    fn publish(memory: &mut Memory, asker: Asker) -> Vec<Target> {
        let request = Request::Publish {
            channel: "c".into(),
            publication: Publication::default().into(),
            asker,
            treatment: None,
        };
        ask(memory, request).into_iter().map(|(target, _)| target).collect()
    }

    #[test]
    fn a_publication_goes_once_to_each_reactor_with_subscribers() {
        let mut memory = memory();
        let backend = Asker::Backend(1);
        assert_eq!(publish(&mut memory, backend), [Target::Backend], "answered without subscribers too");
        let told = subscribe(&mut memory, 0);
        let conn = ConnKey { reactor: 0, index: 7, generation: 1 };
        assert_eq!(
            told,
            [(Target::Reactor(0), Event::Subscribed { channel: "c".into(), conn, ticket: 3, found: None })]
        );
        subscribe(&mut memory, 0);
        subscribe(&mut memory, 2);
        assert_eq!(publish(&mut memory, backend), [Target::Reactor(0), Target::Reactor(2), Target::Backend]);
        let client = Asker::Client { conn: ConnKey { reactor: 5, index: 1, generation: 1 }, ticket: 1 };
        assert_eq!(publish(&mut memory, client), [Target::Reactor(0), Target::Reactor(2), Target::Reactor(5)]);
        assert_eq!(memory.channels().map(|(_, n)| n).collect::<Vec<_>>(), [3]);
    }

    #[test]
    fn a_channel_ends_with_its_last_subscriber() {
        let mut memory = memory();
        for reactor in [0, 0, 2] {
            subscribe(&mut memory, reactor);
        }
        for (reactor, left) in
            [(0, vec![Target::Reactor(0), Target::Reactor(2)]), (2, vec![Target::Reactor(0)]), (0, vec![])]
        {
            ask(&mut memory, Request::Leave { channel: "c".into(), reactor, gone: None });
            let mut told = publish(&mut memory, Asker::Backend(1));
            assert_eq!(told.pop(), Some(Target::Backend));
            assert_eq!(told, left);
        }
        assert!(memory.is_empty());
    }

    const KEEP: Keep = Keep { size: 3, ttl_ms: 100, meta_ttl_ms: 1000 };

    fn kept(data: &str, change: impl FnOnce(&mut Treatment)) -> Request {
        let mut treatment = Treatment { keep: Some(KEEP), ..Treatment::default() };
        change(&mut treatment);
        Request::Publish {
            channel: "c".into(),
            publication: Publication { data: data.to_owned().into(), ..Publication::default() }.into(),
            asker: Asker::Backend(1),
            treatment: Some(Box::new(treatment)),
        }
    }

    /// All that followed, its answer last.
    fn handle(memory: &mut Memory, now_ms: u64, request: Request) -> Vec<Event> {
        let mut out = Vec::new();
        memory.handle(now_ms, request, &mut out);
        out.into_iter().map(|(_, event)| event).collect()
    }

    /// The offset in its answer, and whether anybody was told.
    fn published(memory: &mut Memory, now_ms: u64, request: Request) -> (Result<u64, ClientError>, usize) {
        let mut events = handle(memory, now_ms, request);
        let Some(Event::Answer { answer, .. }) = events.pop() else { panic!("an answer") };
        let offset = match answer {
            Answer::Published(position) => Ok(position.map_or(0, |position| position.offset)),
            Answer::Refused(error) => Err(error),
            other => panic!("no answer to this: {other:?}"),
        };
        (offset, events.len())
    }

    fn join(memory: &mut Memory, now_ms: u64, reactor: u16, want: Want) -> Vec<Event> {
        let from = ConnKey { reactor, index: 7, generation: 1 };
        handle(memory, now_ms, Request::Subscribe { channel: "c".into(), from, ticket: 3, want: Some(Box::new(want)) })
    }

    fn positioned() -> Want {
        Want { position: Some(KEEP), ..Want::default() }
    }

    fn found(events: &[Event]) -> Found {
        let Some(Event::Subscribed { found: Some(found), .. }) = events.first() else { panic!("a position") };
        Found::clone(found)
    }

    #[test]
    fn a_publication_made_twice_is_answered_twice_and_sent_once() {
        let mut memory = memory();
        subscribe(&mut memory, 0);
        let with = |key: &'static str| kept("1", move |treatment| treatment.idempotency_key = key.into());
        assert_eq!(published(&mut memory, 1, with("a")), (Ok(1), 1));
        assert_eq!(published(&mut memory, 2, with("b")), (Ok(2), 1));
        assert_eq!(published(&mut memory, 3, with("a")), (Ok(1), 0));
        assert_eq!(published(&mut memory, 5 * 60_000 + 1, with("a")), (Ok(3), 1), "five minutes later");
        let plain = || kept("1", |treatment| (treatment.keep, treatment.idempotency_key) = (None, "p".into()));
        assert_eq!(published(&mut memory, 4, plain()), (Ok(0), 1));
        assert_eq!(published(&mut memory, 4, plain()), (Ok(0), 0));
    }

    #[test]
    fn an_old_version_is_not_sent() {
        let mut memory = memory();
        subscribe(&mut memory, 0);
        let with = |version| kept("1", move |treatment| treatment.version = version);
        for (version, expected) in [(2, (Ok(1), 1)), (2, (Ok(1), 0)), (1, (Ok(1), 0)), (3, (Ok(2), 1)), (0, (Ok(3), 1))]
        {
            assert_eq!(published(&mut memory, 1, with(version)), expected, "{version}");
        }
    }

    #[test]
    fn bytes_have_a_limit_and_come_back() {
        let mut memory = Memory::new(7, Limits { history_bytes: 1500, recent: 0 });
        let large = || kept(&"x".repeat(500), |_| {});
        assert_eq!(published(&mut memory, 0, large()).0, Ok(1));
        assert_eq!(published(&mut memory, 0, large()).0, Ok(2));
        assert_eq!(published(&mut memory, 0, large()).0, Err(ClientError::TooManyRequests));
        assert!(memory.stream_bytes() > 1000);
        let request = Request::RemoveHistory { channel: "c".into(), asker: Asker::Backend(1) };
        handle(&mut memory, 0, request);
        assert_eq!(published(&mut memory, 0, large()).0, Ok(3), "room again, and the offset goes on");
        assert_eq!(memory.expire(0), Some(100));
        assert_eq!(memory.expire(100), Some(1000), "the stream outlives its publications");
        assert!(memory.stream_bytes() < 500);
        assert_eq!(memory.expire(1000), None);
        assert_eq!((memory.stream_bytes(), memory.channels.len()), (0, 0));
    }

    #[test]
    fn a_stream_lives_on_under_its_subscribers_and_begins_anew_without() {
        let mut memory = memory();
        handle(&mut memory, 0, kept("1", |_| {}));
        let first = found(&join(&mut memory, 10, 0, positioned())).position;
        assert_eq!(first.offset, 1);
        assert!(memory.expire(5000).is_some_and(|at| at > 5000));
        assert_eq!(found(&join(&mut memory, 5000, 1, positioned())).position, first);
        for reactor in [0, 1] {
            handle(&mut memory, 5000, Request::Leave { channel: "c".into(), reactor, gone: None });
        }
        let other = found(&join(&mut memory, 7000, 0, positioned())).position;
        assert!(other.offset == 0 && other.epoch != first.epoch);
    }

    #[test]
    fn deltas_are_made_for_those_who_take_them() {
        let mut memory = memory();
        let delta_of = |events: Vec<Event>| match events.into_iter().next() {
            Some(Event::Publication { extras, .. }) => extras.and_then(|extras| extras.delta),
            other => panic!("no publication: {other:?}"),
        };
        let long = "what is the same in both, and long enough to be worth it";
        let text = |n: u32| format!("{long} {n}");
        let with = |n: u32| kept(&text(n), |treatment| treatment.delta = true);
        join(&mut memory, 0, 0, positioned());
        handle(&mut memory, 0, with(1));
        assert_eq!(delta_of(handle(&mut memory, 0, with(2))), None, "nobody takes them");
        join(&mut memory, 0, 1, Want { delta: true, ..positioned() });
        let delta = delta_of(handle(&mut memory, 0, with(3))).expect("a delta");
        assert_eq!(delta::apply(text(2).as_bytes(), &delta, 1000).as_deref(), Some(text(3).as_bytes()));
        assert_eq!(delta_of(handle(&mut memory, 0, kept("4", |treatment| treatment.delta = true))), None, "longer");
        assert_eq!(delta_of(handle(&mut memory, 0, kept(&text(5), |_| {}))), None, "not asked for");
        assert_eq!(delta_of(handle(&mut memory, 500, with(6))), None, "the one before is forgotten");
        let gone = Some(Box::new(Gone { member: None, delta: true, asker: None }));
        handle(&mut memory, 500, Request::Leave { channel: "c".into(), reactor: 1, gone });
        assert_eq!(delta_of(handle(&mut memory, 500, with(7))), None, "nobody takes them any more");
    }

    #[test]
    fn who_comes_is_present_before_it_is_announced_and_gone_before_the_answer() {
        let mut memory = memory();
        let info = Arc::new(crate::protocol::ClientInfo { user: "u".into(), ..Default::default() });
        let member = || Some(Member { client: [1; 16], info: info.clone(), presence: true, announce: true });
        let events = join(&mut memory, 0, 0, Want { member: member(), ..Want::default() });
        assert!(matches!(&events[..], [Event::Subscribed { .. }, Event::Join { .. }]), "{events:?}");
        subscribe(&mut memory, 1);
        let asker = Asker::Backend(1);
        let counts = |memory: &mut Memory| {
            let events = handle(memory, 0, Request::PresenceStats { channel: "c".into(), asker });
            let Some(Event::Answer { answer: Answer::PresenceStats { clients, users }, .. }) = events.first() else {
                panic!("counts");
            };
            (*clients, *users)
        };
        assert_eq!(counts(&mut memory), (1, 1));
        let gone = Some(Box::new(Gone { member: member(), delta: false, asker: Some(asker) }));
        let events = handle(&mut memory, 0, Request::Leave { channel: "c".into(), reactor: 0, gone });
        assert!(matches!(&events[..], [Event::Leave { .. }, Event::Answer { answer: Answer::Left, .. }]), "{events:?}");
        assert_eq!(counts(&mut memory), (0, 0));
    }
}
