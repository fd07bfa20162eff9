//! Owners over a model of an archive, which fails, dies and comes back, in any order.

use super::super::archive::{
    ArchiveAnswer, ArchiveCall, ArchiveKeep, ArchivePage, Archived, ArchivedCursor, ArchivedStream, cursor_name,
};
use super::super::engine::{Away, Engine};
use super::super::{
    Answer, Arrived, Asker, ConnKey, CursorArchive, Durability, DurableLimits, EngineLimits, Event, Follow, Found,
    InboxKeep, InboxLimits, Keep, Limits, Member, Owner, OwnerLimits, Position, Query, Recover, Request, Target, Told,
    Treatment, Want,
};
use crate::protocol::code::ClientError;
use crate::protocol::{ClientInfo, Publication};
use compact_str::CompactString;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

const MEMORY: Keep = Keep { size: 3, ttl_ms: 1_000, meta_ttl_ms: 3_000 };
const ARCHIVE: ArchiveKeep = ArchiveKeep { size: 0, ttl_ms: 0, meta_ttl_ms: 0 };
const INBOX: InboxKeep = InboxKeep {
    ttl_ms: 1 << 40,
    size: u64::MAX,
    page: 1000,
    cursors: 9,
    undelivered_ms: 0,
    with_data: false,
    archive: CursorArchive::Sync,
};
const SYNC: Durability = Durability { sync: true, archive: ARCHIVE, memory: MEMORY, inbox: Some(INBOX) };
const BATCHED_INBOX: InboxKeep = InboxKeep { archive: CursorArchive::Batched, ..INBOX };
const BATCHED: Durability = Durability { sync: false, inbox: Some(BATCHED_INBOX), ..SYNC };
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

#[derive(Debug, Clone, Default)]
struct Files {
    streams: BTreeMap<String, Kept>,
    /// By channel and name.
    cursors: BTreeMap<(String, CompactString), ArchivedCursor>,
}

impl Files {
    fn follow(&mut self, call: ArchiveCall) -> Option<ArchiveAnswer> {
        let channel = call.channel().to_string();
        match call {
            ArchiveCall::Follow { cursor, .. } => drop(self.cursors.insert((channel, cursor.name()), *cursor)),
            ArchiveCall::Unfollow { user, device, .. } => {
                self.cursors.remove(&(channel, cursor_name(&user, &device)));
            }
            other => panic!("not of cursors: {other:?}"),
        }
        None
    }
}

/// What is on a disk, and what is not yet.
#[derive(Default)]
struct Model {
    queue: VecDeque<ArchiveCall>,
    written: Files,
    on_disk: Files,
    life: u64,
    clean: BTreeSet<u64>,
}

impl Model {
    fn apply(&mut self, call: ArchiveCall) -> Option<ArchiveAnswer> {
        let name = call.channel().to_string();
        let life = self.life;
        match call {
            ArchiveCall::Append { ticket, position, publication, .. } => {
                let kept = self.written.streams.get(&name);
                if ticket.is_some()
                    && kept.map_or(position.offset > 1, |kept| {
                        kept.position.epoch != position.epoch || position.offset > kept.position.offset + 1
                    })
                {
                    return None;
                }
                let kept = self
                    .written
                    .streams
                    .entry(name)
                    .or_insert_with(|| Kept { first: position.offset, ..Kept::default() });
                kept.publications.insert(position.offset, Publication::clone(&publication));
                (kept.position, kept.ahead) = (position, if ticket.is_some() { 0 } else { life });
                Some(ArchiveAnswer::Appended)
            }
            ArchiveCall::Stand { position, .. } => {
                let kept = self.written.streams.entry(name).or_default();
                (kept.position, kept.ahead) = (position, life);
                Some(ArchiveAnswer::Appended)
            }
            call @ (ArchiveCall::Follow { .. } | ArchiveCall::Unfollow { .. }) => self.written.follow(call),
            ArchiveCall::Open { latest, ahead, cursors, .. } => {
                let of_channel = self.written.cursors.iter().filter(|((channel, _), _)| *channel == name);
                let cursors = of_channel.map(|(_, cursor)| cursor.clone()).take(cursors).collect();
                let Some(kept) = self.written.streams.get_mut(&name) else {
                    return Some(ArchiveAnswer::Opened { stream: None, cursors });
                };
                let whole = [0, life].contains(&kept.ahead) || self.clean.contains(&kept.ahead);
                if ahead && whole {
                    kept.ahead = life;
                }
                let mut publications: Vec<Publication> = kept.there().rev().take(latest).cloned().collect();
                publications.reverse();
                let stream = ArchivedStream { position: kept.position.clone(), whole, latest: publications };
                Some(ArchiveAnswer::Opened { stream: Some(Box::new(stream)), cursors })
            }
            ArchiveCall::Read { page, .. } => {
                let ArchivePage { since, until, limit, reverse } = page;
                let Some(kept) = self.written.streams.get(&name) else { return Some(ArchiveAnswer::Page(Vec::new())) };
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
                if let Some(kept) = self.written.streams.get_mut(&name) {
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

/// Anna, who comes to a channel without a position, and goes.
#[derive(Debug, Clone, Default)]
struct Reader {
    asks: bool,
    /// Where she stands, while she is there.
    at: Option<Position>,
    /// How far she came in each epoch.
    came: BTreeMap<String, u64>,
    /// She has a cursor, and no disk failed since the archive was told of it.
    is_known: bool,
    is_kept: bool,
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
    readers: BTreeMap<String, Reader>,
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
            readers: modes.iter().map(|(name, _)| ((*name).to_owned(), Reader::default())).collect(),
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
        let tells_present = self.published.is_multiple_of(2);
        let treatment = Treatment { keep: Some(MEMORY), idempotency_key: key, tells_present, ..Treatment::default() };
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

    fn come(&mut self, name: &str) {
        let keep = match self.modes[name] {
            Some(Durability { inbox: Some(keep), .. }) => keep,
            _ => InboxKeep { archive: CursorArchive::None, ..INBOX },
        };
        let reader = self.readers.get_mut(name).expect("a reader");
        if reader.asks || reader.at.is_some() {
            return;
        }
        reader.asks = true;
        let follow = Some(Box::new(Follow { user: "anna".into(), device: "".into(), keep }));
        let want = Want { position: Some(MEMORY), follow, ..Want::default() };
        let from = ConnKey { reactor: 0, index: 2, generation: 1 };
        let ticket = u32::from(name.as_bytes()[0]);
        self.ask(name, Request::Subscribe { channel: name.into(), from, ticket, want: Some(Box::new(want)) });
    }

    fn go(&mut self, name: &str) {
        if self.readers.get_mut(name).expect("a reader").at.take().is_some() {
            self.leave(name, false);
        }
    }

    /// What she was sent has arrived, all or some of it.
    fn prove(&mut self, name: &str) {
        let Some(Position { offset, epoch }) = self.readers[name].at.clone() else { return };
        let offset = offset - self.draw(2).min(offset);
        let (channel, epoch) = (name.into(), epoch.mark());
        let arrived = Arrived { channel, user: "anna".into(), device: "".into(), offset, epoch };
        let keep = self.modes[name].and_then(|mode| mode.inbox).unwrap_or(INBOX);
        self.owner.arrived(self.now_ms, &arrived, keep);
        self.count("proofs");
    }

    /// Anna is there, and is sent what has not arrived.
    fn came(&mut self, name: &str, found: Found) {
        let (top, epoch) = (found.position.offset, found.position.epoch.to_string());
        let untouched = !self.counts.contains_key("removals");
        let reader = self.readers.get_mut(name).expect("a reader");
        reader.asks = false;
        let was_known = std::mem::replace(&mut reader.is_known, true);
        reader.is_kept |= !was_known;
        let Some(recovery) = found.recovery else {
            assert!(name != "s" || !was_known, "{name}: a user is forgotten");
            reader.came.insert(epoch, top);
            reader.at = Some(found.position);
            return;
        };
        let from = recovery.from.expect("a cursor");
        let offsets: Vec<u64> = recovery.publications.iter().map(|publication| publication.offset).collect();
        // What is left of a stream that may have lost some comes all the same.
        if recovery.recovered || !offsets.is_empty() {
            assert_eq!(offsets, (from + 1..=top).collect::<Vec<u64>>(), "{name}");
        }
        if recovery.recovered {
            let came = reader.came.get(&epoch).copied().unwrap_or(0);
            assert!(from <= came, "{name}: the cursor is at {from}, and she came to {came}");
        } else {
            assert!(name != "s" || !untouched || top - from > 60, "{name}: not recovered from {from} to {top}");
        }
        let came = reader.came.entry(epoch.clone()).or_default();
        *came = top.max(*came);
        reader.at = Some(found.position);
        let what = match (recovery.recovered, offsets.is_empty()) {
            (true, true) => "nothing missed",
            (true, false) => "caught up",
            (false, true) => "lost",
            (false, false) => "torn",
        };
        self.count(what);
        recovery.publications.iter().for_each(|publication| self.note(name, &epoch, publication));
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
                    let reader = self.readers.get_mut(&*channel).expect("a reader");
                    if let Some(at) = &mut reader.at {
                        assert_eq!(publication.offset, at.offset + 1, "{channel} has a gap for Anna");
                        at.offset += 1;
                        let came = reader.came.entry(at.epoch.to_string()).or_default();
                        *came = at.offset.max(*came);
                    }
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
                    if self.readers.get_mut(&*channel).expect("a reader").at.take().is_some() {
                        left.push((channel.to_string(), false));
                    }
                    self.count("gaps");
                }
                Event::Subscribed { channel, conn, found, .. } => match conn.index {
                    1 => self.begun(&channel, *found.expect("a position")),
                    _ => self.came(&channel, *found.expect("a position")),
                },
                Event::Refused { channel, conn, .. } => {
                    match conn.index {
                        1 => self.followers.get_mut(&*channel).expect("a follower").asks = false,
                        _ => self.readers.get_mut(&*channel).expect("a reader").asks = false,
                    }
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
        if let (Question::Published(data), Answer::Published(_) | Answer::PublishedTo(..)) = (&question, &answer) {
            let asked = data.parse::<u64>().is_ok_and(|number| number.is_multiple_of(2));
            assert_eq!(matches!(answer, Answer::PublishedTo(..)), asked, "{name}: who is present is told who asks");
        }
        match (question, answer) {
            (Question::Published(data), Answer::Published(Some(position)) | Answer::PublishedTo(Some(position), _)) => {
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
            fsyncs |= ticket.is_some();
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
            self.readers.values_mut().for_each(|reader| reader.is_kept = false);
            self.count("failures");
        }
    }

    /// The process ends and begins anew. Who followed knows its place.
    fn restart(&mut self, clean: bool, power: bool) {
        if clean {
            self.owner.durable.end();
            loop {
                let calls: Vec<ArchiveCall> = self.owner.take_archive_calls().collect();
                self.model.queue.extend(calls);
                if self.model.queue.is_empty() {
                    break;
                }
                self.round(9, Disk::Works);
            }
            self.model.on_disk = self.model.written.clone();
            self.model.clean.insert(self.model.life);
        } else if power {
            self.model.written = self.model.on_disk.clone();
        }
        self.model.queue.clear();
        self.model.on_disk = self.model.written.clone();
        for ((name, _), cursor) in &self.model.on_disk.cursors {
            let Some(Kept { position, .. }) = self.model.on_disk.streams.get(name) else { continue };
            // Whether a disk failed is not known to who waits for nothing.
            let is_ahead = position.epoch == cursor.epoch && cursor.offset > position.offset;
            let may_be = name != "s" && self.counts.contains_key("failures");
            assert!(!is_ahead || may_be, "{name}: {cursor:?} is ahead of {position:?}");
        }
        for (name, reader) in &mut self.readers {
            let is_there = self.model.on_disk.cursors.contains_key(&(name.clone(), cursor_name("anna", "")));
            assert!(!clean || name != "s" || !reader.is_kept || is_there, "{name}: a stop forgets a user");
            (reader.asks, reader.at, reader.is_known, reader.is_kept) = (false, None, is_there, is_there);
        }
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
            45..=50 => self.subscribe(name),
            51..=53 => self.unsubscribe(name),
            54..=60 => self.come(name),
            61..=63 => self.go(name),
            64..=67 => self.prove(name),
            68..=86 => self.round(6, Disk::Works),
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
        let kept = world.model.written.streams.get("s").cloned().unwrap_or_default();
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
        "caught up",
        "errors",
        "failures",
        "gaps",
        "histories",
        "kills",
        "lost",
        "not recovered",
        "nothing missed",
        "proofs",
        "published",
        "recovered",
        "refused",
        "removals",
        "removed",
        "stops",
        "torn",
    ];
    assert_eq!(counts.keys().copied().collect::<Vec<_>>(), expected, "{counts:?}");
    assert!(counts["recovered"] > 500 && counts["caught up"] > 500, "{counts:?}");
}
