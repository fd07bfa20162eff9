//! Owners over a model of an archive, which fails, dies and comes back, in any order.

use super::super::archive::{ArchiveAnswer, ArchiveCall, ArchiveKeep, ArchivePage, Archived, ArchivedStream};
use super::super::engine::{Away, Engine};
use super::super::{
    Answer, Asker, ConnKey, Durability, DurableLimits, EngineLimits, Event, Found, InboxLimits, Keep, Limits, Member,
    Owner, OwnerLimits, Position, Query, Recover, Request, Target, Told, Treatment, Want,
};
use crate::protocol::code::ClientError;
use crate::protocol::{ClientInfo, Publication};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

const MEMORY: Keep = Keep { size: 3, ttl_ms: 1_000, meta_ttl_ms: 3_000 };
const ARCHIVE: ArchiveKeep = ArchiveKeep { size: 0, ttl_ms: 0, meta_ttl_ms: 0 };
const SYNC: Durability = Durability { sync: true, archive: ARCHIVE, memory: MEMORY };
const BATCHED: Durability = Durability { sync: false, ..SYNC };
const LIMITS: DurableLimits = DurableLimits { opening: 50, reads: 5, page: 4 };

fn owner(seed: u64) -> Owner {
    let engines = EngineLimits { present: 9, held: 9, held_bytes: 9, inflight: 9, presence_ms: 9, check_ms: 9 };
    // Some have room for a few streams only.
    let history_bytes = if seed.is_multiple_of(3) { 1500 } else { 0 };
    let (memory, inbox) = (Limits { history_bytes, recent: 100 }, InboxLimits { bytes: 0, of_user: 9 });
    Owner::new(seed, OwnerLimits { memory, engine: engines, inbox, durable: LIMITS }, false)
}

#[derive(Debug, Clone, Default)]
struct Kept {
    position: Position,
    first: u64,
    ahead: u64,
    publications: BTreeMap<u64, Publication>,
}

/// What is on a disk, and what is not yet.
#[derive(Default)]
struct Model {
    queue: VecDeque<ArchiveCall>,
    written: BTreeMap<String, Kept>,
    on_disk: BTreeMap<String, Kept>,
    life: u64,
    clean: BTreeSet<u64>,
}

impl Model {
    fn apply(&mut self, call: ArchiveCall) -> Option<ArchiveAnswer> {
        let name = call.channel().to_string();
        let life = self.life;
        match call {
            ArchiveCall::Append { ticket, position, publication, .. } => {
                let kept = self.written.get(&name);
                if ticket.is_some()
                    && kept.map_or(position.offset > 1, |kept| {
                        kept.position.epoch != position.epoch || position.offset > kept.position.offset + 1
                    })
                {
                    return None;
                }
                let kept =
                    self.written.entry(name).or_insert_with(|| Kept { first: position.offset, ..Kept::default() });
                kept.publications.insert(position.offset, Publication::clone(&publication));
                (kept.position, kept.ahead) = (position, if ticket.is_some() { 0 } else { life });
                Some(ArchiveAnswer::Appended)
            }
            ArchiveCall::Stand { position, .. } => {
                let kept = self.written.entry(name).or_default();
                (kept.position, kept.ahead) = (position, life);
                Some(ArchiveAnswer::Appended)
            }
            ArchiveCall::Open { latest, ahead, .. } => {
                let Some(kept) = self.written.get_mut(&name) else { return Some(ArchiveAnswer::Opened(None)) };
                let whole = [0, life].contains(&kept.ahead) || self.clean.contains(&kept.ahead);
                if ahead && whole {
                    kept.ahead = life;
                }
                let mut publications: Vec<Publication> = kept.there().rev().take(latest).cloned().collect();
                publications.reverse();
                let stream = ArchivedStream { position: kept.position.clone(), whole, latest: publications };
                Some(ArchiveAnswer::Opened(Some(Box::new(stream))))
            }
            ArchiveCall::Read { page, .. } => {
                let ArchivePage { since, until, limit, reverse } = page;
                let Some(kept) = self.written.get(&name) else { return Some(ArchiveAnswer::Page(Vec::new())) };
                let fits = |publication: &&Publication| {
                    let offset = publication.offset;
                    let after = since.is_none_or(|since| if reverse { offset < since } else { offset > since });
                    after && offset <= until
                };
                let all: Vec<Publication> = match reverse {
                    false => kept.there().filter(fits).take(limit).cloned().collect(),
                    true => kept.there().rev().filter(fits).take(limit).cloned().collect(),
                };
                Some(ArchiveAnswer::Page(all))
            }
            ArchiveCall::Remove { .. } => {
                if let Some(kept) = self.written.get_mut(&name) {
                    kept.first = kept.position.offset + 1;
                }
                Some(ArchiveAnswer::Removed)
            }
        }
    }
}

impl Kept {
    fn there(&self) -> impl DoubleEndedIterator<Item = &Publication> {
        self.publications
            .range(self.first..)
            .map(|(_, publication)| publication)
            .filter(|publication| publication.offset <= self.position.offset)
    }
}

/// What may happen to a round of the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disk {
    Works,
    /// It failed, and what was written is gone.
    Fails,
    /// It failed, and what was written is there.
    FailsLate,
}

/// A client that follows a channel.
#[derive(Debug, Clone, Default)]
struct Follower {
    /// Where it stands; `None` = it was told of a gap.
    at: Option<Position>,
    subscribed: bool,
    asks: bool,
}

struct World {
    owner: Owner,
    model: Model,
    rng: u64,
    now_ms: u64,
    lives: u64,
    published: u64,
    /// What each question of the backend was about.
    questions: BTreeMap<u64, (String, Question)>,
    next: u64,
    followers: BTreeMap<String, Follower>,
    /// All that anybody was ever told of a channel, by epoch and offset.
    told: BTreeMap<(String, String, u64), String>,
    /// What was answered as published with sync, and not removed.
    answered: BTreeMap<String, BTreeMap<u64, String>>,
    modes: BTreeMap<String, Option<Durability>>,
    /// How often something happened that the test is about.
    counts: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Clone)]
enum Question {
    Published(String),
    History { since: Option<u64>, limit: usize, reverse: bool },
    Removed,
}

impl World {
    fn new(seed: u64) -> World {
        let modes = [("s", Some(SYNC)), ("b", Some(BATCHED)), ("m", Some(SYNC))];
        World {
            owner: owner(seed),
            model: Model { life: 1, ..Model::default() },
            rng: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            now_ms: 1,
            lives: seed << 20,
            published: 0,
            questions: BTreeMap::new(),
            next: 0,
            followers: modes.iter().map(|(name, _)| ((*name).to_owned(), Follower::default())).collect(),
            told: BTreeMap::new(),
            answered: BTreeMap::new(),
            modes: modes.into_iter().map(|(name, mode)| (name.to_owned(), mode)).collect(),
            counts: BTreeMap::new(),
        }
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.rng ^= self.rng << 13;
        self.rng ^= self.rng >> 7;
        self.rng ^= self.rng << 17;
        self.rng % below
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn ask(&mut self, name: &str, request: Request) {
        let mut out = Told::new();
        self.owner.handle(self.now_ms, Engine::Memory, self.modes[name], request, &mut out);
        self.hear(out);
    }

    fn question(&mut self, name: &str, question: Question) -> Asker {
        self.next += 1;
        self.questions.insert(self.next, (name.to_owned(), question));
        Asker::Backend(self.next)
    }

    fn publish(&mut self, name: &str) {
        self.published += 1;
        let data = self.published.to_string();
        let asker = self.question(name, Question::Published(data.clone()));
        let publication = Arc::new(Publication { data: data.into(), ..Publication::default() });
        let key = if self.draw(4) == 0 { "key".into() } else { Default::default() };
        let treatment = Treatment { keep: Some(MEMORY), idempotency_key: key, ..Treatment::default() };
        self.ask(
            name,
            Request::Publish { channel: name.into(), publication, asker, treatment: Some(Box::new(treatment)) },
        );
    }

    fn history(&mut self, name: &str) {
        let since = if self.draw(2) == 0 { None } else { Some(self.draw(12)) };
        let (limit, reverse) = (self.draw(9) as usize, self.draw(2) == 0);
        let asker = self.question(name, Question::History { since, limit, reverse });
        let query = Query { keep: MEMORY, since: since.map(|since| (since, "".into())), limit, reverse };
        self.ask(name, Request::History { channel: name.into(), asker, query: Box::new(query) });
    }

    fn remove(&mut self, name: &str) {
        self.answered.remove(name);
        self.count("removals");
        let asker = self.question(name, Question::Removed);
        self.ask(name, Request::RemoveHistory { channel: name.into(), asker });
    }

    fn subscribe(&mut self, name: &str) {
        let follower = self.followers.get_mut(name).expect("a follower");
        if follower.subscribed || follower.asks {
            return;
        }
        follower.asks = true;
        let recover = follower.at.clone().map(|at| Recover {
            offset: at.offset,
            epoch: at.epoch.as_str().into(),
            limit: 20,
            most: 20,
            cache: false,
        });
        let member = Member { client: [7; 16], info: Arc::new(ClientInfo::default()), presence: true, announce: true };
        let want = Want { position: Some(MEMORY), recover, member: Some(member), ..Want::default() };
        let from = ConnKey { reactor: 0, index: 1, generation: 1 };
        self.ask(name, Request::Subscribe { channel: name.into(), from, ticket: 5, want: Some(Box::new(want)) });
    }

    fn leave(&mut self, name: &str, member: bool) {
        let info = Arc::new(ClientInfo::default());
        let member = member.then(|| Member { client: [7; 16], info, presence: true, announce: true });
        let gone = super::super::Gone { member, delta: false, asker: None };
        self.ask(name, Request::Leave { channel: name.into(), reactor: 0, gone: Some(Box::new(gone)) });
    }

    fn unsubscribe(&mut self, name: &str) {
        let follower = self.followers.get_mut(name).expect("a follower");
        if std::mem::take(&mut follower.subscribed) {
            self.leave(name, true);
        }
    }

    /// Nobody is told two things of one place.
    fn note(&mut self, name: &str, epoch: &str, publication: &Publication) {
        let data = String::from_utf8_lossy(&publication.data).into_owned();
        let place = (name.to_owned(), epoch.to_owned(), publication.offset);
        let known = self.told.entry(place.clone()).or_insert_with(|| data.clone());
        assert_eq!(*known, data, "{place:?} was used twice");
    }

    fn hear(&mut self, told: Told) {
        let mut left = Vec::new();
        for (target, event) in told {
            match event {
                Event::Publication { channel, publication, .. } => {
                    assert_eq!(target, Target::Reactor(0));
                    let follower = self.followers.get_mut(&*channel).expect("a follower");
                    // It is not in the hub before it has begun.
                    let Some(at) = follower.at.as_mut().filter(|_| follower.subscribed) else { continue };
                    assert_eq!(publication.offset, at.offset + 1, "{channel} has a gap of which nobody was told");
                    at.offset += 1;
                    let epoch = at.epoch.to_string();
                    self.note(&channel, &epoch, &publication);
                }
                Event::Gap { channel } => {
                    let follower = self.followers.get_mut(&*channel).expect("a follower");
                    if std::mem::take(&mut follower.subscribed) {
                        left.push((channel.to_string(), true));
                    }
                    self.count("gaps");
                }
                Event::Subscribed { channel, found, .. } => self.begun(&channel, *found.expect("a position")),
                Event::Refused { channel, .. } => {
                    self.followers.get_mut(&*channel).expect("a follower").asks = false;
                    left.push((channel.to_string(), false));
                    self.count("refused");
                }
                Event::Answer { asker: Asker::Backend(question), answer } => self.answer(question, answer),
                Event::Join { .. } | Event::Leave { .. } => {}
                other => panic!("not this: {other:?}"),
            }
        }
        for (name, member) in left {
            self.leave(&name, member);
        }
    }

    fn begun(&mut self, name: &str, found: Found) {
        let follower = self.followers.get_mut(name).expect("a follower");
        follower.asks = false;
        follower.subscribed = true;
        let before = follower.at.replace(found.position.clone());
        let recovery = found.recovery.unwrap_or_default();
        let epoch = found.position.epoch.to_string();
        recovery.publications.iter().for_each(|publication| self.note(name, &epoch, publication));
        let Some(before) = before else { return };
        if recovery.recovered {
            let offsets: Vec<u64> = recovery.publications.iter().map(|publication| publication.offset).collect();
            let expected: Vec<u64> = (before.offset + 1..=found.position.offset).collect();
            assert_eq!((before.epoch, offsets), (found.position.epoch, expected), "{name}");
            self.count("recovered");
        } else {
            self.count("not recovered");
            // What is synchronous is never lost; those on their way to the disk count as missed too.
            let is_lost = name == "s" && before.offset > 0 && found.position.offset - before.offset <= 10;
            assert!(
                !is_lost || !self.answered.contains_key("s") || self.counts.contains_key("removals"),
                "not recovered"
            );
        }
    }

    fn answer(&mut self, question: u64, answer: Answer) {
        let (name, question) = self.questions.remove(&question).expect("one answer to each question");
        match (question, answer) {
            (Question::Published(data), Answer::Published(Some(position))) => {
                let epoch = position.epoch.to_string();
                let place = (name.clone(), epoch.clone(), position.offset);
                let publication =
                    Publication { data: data.clone().into(), offset: position.offset, ..Publication::default() };
                // A key that was used before is answered with its first place.
                if self.told.get(&place).is_none_or(|known| *known == data) {
                    self.note(&name, &epoch, &publication);
                }
                self.answered.entry(name).or_default().entry(position.offset).or_insert(data);
                self.count("published");
            }
            (_, Answer::Refused(error)) => {
                assert!(matches!(error, ClientError::Internal | ClientError::TooManyRequests), "{error:?}");
                self.count("errors");
            }
            (Question::History { since, limit, reverse }, Answer::History(found)) => {
                let (position, publications) = *found;
                self.judge_history(&name, &position, &publications, since, limit, reverse);
                self.count("histories");
            }
            (Question::Removed, Answer::Removed) => self.count("removed"),
            (question, answer) => panic!("{question:?}: {answer:?}"),
        }
    }

    fn judge_history(
        &mut self,
        name: &str,
        position: &Position,
        publications: &[Publication],
        since: Option<u64>,
        limit: usize,
        reverse: bool,
    ) {
        let mut offsets: Vec<u64> = publications.iter().map(|publication| publication.offset).collect();
        assert!(offsets.len() <= limit);
        if reverse {
            offsets.reverse();
        }
        assert!(offsets.windows(2).all(|pair| pair[0] < pair[1]), "{name}: {offsets:?}");
        if name != "s" {
            return;
        }
        assert!(offsets.windows(2).all(|pair| pair[0] + 1 == pair[1]), "a gap: {offsets:?}");
        let epoch = position.epoch.to_string();
        publications.iter().for_each(|publication| self.note(name, &epoch, publication));
        if !self.counts.contains_key("removals") && !reverse && limit > 0 && since.unwrap_or(0) < position.offset {
            assert_eq!(
                offsets.first(),
                Some(&(since.unwrap_or(0) + 1)),
                "from the beginning: {position:?} {since:?} {limit} {offsets:?}"
            );
        }
    }

    /// The archive carries out some of what it was told.
    fn round(&mut self, most: u64, disk: Disk) {
        let calls: Vec<ArchiveCall> = self.owner.take_archive_calls().collect();
        self.model.queue.extend(calls);
        let (mut answers, mut fsyncs) = (Vec::new(), false);
        for _ in 0..=self.draw(most) {
            let Some(call) = self.model.queue.pop_front() else { break };
            let ticket = call.ticket();
            fsyncs |= !matches!(call, ArchiveCall::Append { ticket: None, .. } | ArchiveCall::Stand { .. });
            let answer = self.model.apply(call).ok_or(Away);
            answers.extend(ticket.map(|ticket| (ticket, answer)));
        }
        let fails = disk != Disk::Works;
        match disk {
            Disk::Works if fsyncs || self.draw(2) == 0 => self.model.on_disk = self.model.written.clone(),
            Disk::Works => {}
            Disk::Fails => (self.model.written, self.model.life) = (self.model.on_disk.clone(), self.model.life + 1),
            Disk::FailsLate => {
                (self.model.on_disk, self.model.life) = (self.model.written.clone(), self.model.life + 1)
            }
        }
        for (ticket, answer) in answers {
            let answer = if fails { Err(Away) } else { answer };
            let mut out = Told::new();
            self.owner.archived(self.now_ms, Archived { ticket, answer }, &mut out);
            self.hear(out);
        }
        if fails {
            self.count("failures");
        }
    }

    /// The process ends and begins anew. Who followed knows its place.
    fn restart(&mut self, clean: bool, power: bool) {
        if clean {
            self.owner.durable.end();
            while !self.model.queue.is_empty() || !self.owner.durable.calls.is_empty() {
                self.round(9, Disk::Works);
            }
            self.model.on_disk = self.model.written.clone();
            self.model.clean.insert(self.model.life);
        } else if power {
            self.model.written = self.model.on_disk.clone();
        }
        self.model.queue.clear();
        self.model.on_disk = self.model.written.clone();
        self.model.life += 1;
        self.lives += 1;
        self.owner = owner(self.lives);
        self.questions.clear();
        for follower in self.followers.values_mut() {
            (follower.subscribed, follower.asks) = (false, false);
        }
        self.count(if clean { "stops" } else { "kills" });
    }

    fn step(&mut self) {
        let name = ["s", "b", "m"][self.draw(3) as usize];
        match self.draw(100) {
            0..=34 => self.publish(name),
            35..=44 => self.history(name),
            45..=56 => self.subscribe(name),
            57..=61 => self.unsubscribe(name),
            62..=86 => self.round(6, Disk::Works),
            87..=88 => self.round(6, Disk::Fails),
            89 => self.round(6, Disk::FailsLate),
            90..=92 => {
                self.now_ms += self.draw(2000);
                let mut out = Told::new();
                self.owner.expire(self.now_ms, &mut out);
                self.hear(out);
            }
            93 => {
                let room = if self.draw(2) == 0 { 0 } else { usize::MAX };
                self.owner.durable.set_room(room);
            }
            94 => {
                self.owner.durable.set_limits(LIMITS);
                let mode = [None, Some(SYNC), Some(BATCHED)][self.draw(3) as usize];
                self.modes.insert("m".into(), mode);
            }
            95 if self.draw(8) == 0 => self.remove(name),
            96 => self.restart(false, true),
            97 => self.restart(false, false),
            98 => self.restart(true, false),
            _ => self.owner.durable.set_room(usize::MAX),
        }
    }
}

#[test]
fn nothing_that_was_answered_is_lost_and_no_place_is_used_twice() {
    let mut counts: BTreeMap<&'static str, u64> = BTreeMap::new();
    for seed in 1..=400 {
        println!("seed {seed}");
        let mut world = World::new(seed);
        for _ in 0..400 {
            world.step();
        }
        // All that was answered is there.
        world.owner.durable.set_room(usize::MAX);
        (0..40).for_each(|_| world.round(20, Disk::Works));
        let kept = world.model.written.get("s").cloned().unwrap_or_default();
        if !world.counts.contains_key("removals") {
            for (offset, data) in world.answered.get("s").into_iter().flatten() {
                let found = kept.publications.get(offset).map(|publication| &*publication.data);
                assert_eq!(found, Some(data.as_bytes()), "seed {seed}, offset {offset}");
            }
        }
        for (what, count) in &world.counts {
            *counts.entry(what).or_default() += count;
        }
    }
    let expected = [
        "errors",
        "failures",
        "gaps",
        "histories",
        "kills",
        "not recovered",
        "published",
        "recovered",
        "refused",
        "removals",
        "removed",
        "stops",
    ];
    assert_eq!(counts.keys().copied().collect::<Vec<_>>(), expected, "{counts:?}");
    assert!(counts["recovered"] > 500, "{counts:?}");
}
