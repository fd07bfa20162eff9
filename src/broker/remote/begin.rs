//! F3 · How a subscription to a channel that lives elsewhere begins.
//!
//! Owns those that have not begun: they wait until the channel is listened to, or until the stream was read for them.
//! Those that want to know the same share a read. Whoever missed nothing, and whoever wants to recover nothing, begins
//! at once where the channel stands on this node.

use super::super::engine::{Away, EngineCall};
use super::super::interest::Told;
use super::super::sequence::{Known, Missed, Sequence};
use super::super::{ConnKey, Event, Found, Keep, Member, Position, Query, Recover, Recovery, Target, Want};
use super::cursors::Followed;
use super::{Engine, Hearing, RemoteChannel, RemoteChannels, Ticket};
use crate::protocol::Publication;
use crate::protocol::code::ClientError;
use std::sync::Arc;

/// Reads for one subscription, when what they find is overtaken each time.
const TRIES_MAX: u8 = 4;

/// One whose subscription has not begun.
#[derive(Debug)]
pub struct RemoteBeginner {
    pub conn: ConnKey,
    ticket: u32,
    positioned: bool,
    member: Option<Member>,
    pub follow: Option<Box<Followed>>,
}

/// The stream is read for some of them.
#[derive(Debug)]
struct BeginnersRead {
    number: u32,
    /// What they want to recover, the same for all of them; `None` = nothing, only the position.
    recover: Option<Recover>,
    known: Known,
    tries: u8,
    /// After which offset it is read, and how many publications.
    asked: (u64, usize),
    /// What was found, while the channel catches up with it.
    found: Option<(Position, Vec<Publication>)>,
    who: Vec<RemoteBeginner>,
}

#[derive(Debug, Default)]
pub struct Beginners {
    /// Until the channel is listened to.
    pub waiting: Vec<(RemoteBeginner, Option<Recover>)>,
    /// Until the cursors of their inboxes are read.
    pub cursors: Vec<(u32, RemoteBeginner)>,
    reads: Vec<BeginnersRead>,
    pub next: u32,
}

impl Beginners {
    /// The client leaves before it began: it is not to be seen. True if there is such a one.
    pub fn forget(&mut self, client: [u8; 16], presence: bool, announce: bool) -> bool {
        let reads = self.reads.iter_mut().flat_map(|read| &mut read.who);
        let cursors = self.cursors.iter_mut().map(|(_, beginner)| beginner);
        let all = self.waiting.iter_mut().map(|(beginner, _)| beginner).chain(cursors).chain(reads);
        let mut any = false;
        for member in all.filter_map(|beginner| beginner.member.as_mut()).filter(|member| member.client == client) {
            any = true;
            (member.presence, member.announce) = (member.presence && !presence, member.announce && !announce);
        }
        any
    }

    fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.cursors.is_empty() && self.reads.is_empty()
    }
}

/// What becomes of those for whom the stream was read.
enum Outcome {
    Begin(Option<Recovery>),
    /// What was read has been overtaken.
    Again,
    /// They know more than this node: first the channel is read as far as it goes.
    CatchUp,
}

impl RemoteChannels {
    pub(super) fn subscribe(
        &mut self,
        engine: Engine,
        name: Arc<str>,
        (conn, ticket): (ConnKey, u32),
        want: Option<Box<Want>>,
        out: &mut Told,
    ) {
        let Want { position, recover, member, delta, follow } = want.map_or_else(Want::default, |want| *want);
        let keep = position.map_or(0, |keep| self.keep_number(keep));
        let follow = follow.map(|follow| Followed::new(*follow, recover.as_ref()));
        let beginner = RemoteBeginner { conn, ticket, positioned: position.is_some(), member, follow };
        let channel = self.channels.get_or_insert_default(&name);
        if channel.life == 0 {
            self.lives = self.lives.checked_add(1).unwrap_or(1);
            (channel.life, channel.engine) = (self.lives, engine);
        }
        let is_first = channel.interest.is_empty();
        channel.interest.add(conn.reactor);
        channel.deltas += u32::from(delta);
        channel.keep = if keep > 0 { keep } else { channel.keep };
        if is_first {
            self.occupied += 1;
            if self.announces {
                out.push((Target::Backend, Event::Occupied { channel: name.clone(), occupied: true }));
            }
        }
        match channel.hearing {
            Hearing::Yes => return self.admit(&name, beginner, recover, out),
            // It is tried again soon.
            Hearing::No if !is_first => return refuse(&name, &beginner, ClientError::Internal, out),
            Hearing::No => {
                channel.hearing = Hearing::Asked;
                let life = channel.life;
                self.calls.push((channel.engine, EngineCall::Listen { channel: name.clone(), life }));
            }
            Hearing::Asked => {}
        }
        channel.beginners.get_or_insert_default().waiting.push((beginner, recover));
    }

    fn keep_number(&mut self, keep: Keep) -> u16 {
        let at = self.keeps.iter().position(|known| *known == keep).unwrap_or_else(|| {
            // As many configurations are not loaded in one process.
            self.keeps.truncate(usize::from(u16::MAX) - 1);
            self.keeps.push(keep);
            self.keeps.len() - 1
        });
        at as u16 + 1
    }

    pub(super) fn keep_of(&self, channel: &RemoteChannel) -> Option<Keep> {
        self.keeps.get(usize::from(channel.keep).checked_sub(1)?).copied()
    }

    pub(super) fn listening(
        &mut self,
        now_ms: u64,
        name: &Arc<str>,
        life: u32,
        result: Result<(), Away>,
        out: &mut Told,
    ) {
        let Some(channel) = self.channels.get_mut(name).filter(|channel| channel.life == life) else { return };
        let waiting = channel.beginners.as_mut().map(|all| std::mem::take(&mut all.waiting)).unwrap_or_default();
        match result {
            Ok(()) => {
                let before = std::mem::replace(&mut channel.hearing, Hearing::Yes);
                if before == Hearing::Yes && channel.members.is_some() {
                    // The engine may have been away for longer than it remembers them.
                    self.renewals.hurry(now_ms);
                    self.renewed = None;
                }
                self.change(name, out, |sequence, _, _| sequence.lose());
                for (beginner, recover) in waiting {
                    self.admit(name, beginner, recover, out);
                }
            }
            Err(Away) => {
                channel.hearing = Hearing::No;
                self.tally.away += waiting.len() as u64;
                self.later.push_back((now_ms + super::rounds::LATER_MS, name.clone()));
                for (beginner, _) in waiting {
                    refuse(name, &beginner, ClientError::Internal, out);
                }
            }
        }
        self.drop_beginners(name);
    }

    /// Nobody will ever hear it: those who wait are told, and leave.
    pub(super) fn unfit(&mut self, name: &Arc<str>, life: u32, error: ClientError, out: &mut Told) {
        let Some(channel) = self.channels.get_mut(name).filter(|channel| channel.life == life) else { return };
        channel.hearing = Hearing::No;
        let waiting = channel.beginners.as_mut().map(|all| std::mem::take(&mut all.waiting)).unwrap_or_default();
        for (beginner, _) in waiting {
            refuse(name, &beginner, error, out);
        }
        self.drop_beginners(name);
    }

    pub(super) fn drop_beginners(&mut self, name: &Arc<str>) {
        if let Some(channel) = self.channels.get_mut(name) {
            channel.beginners.take_if(|beginners| beginners.is_empty());
        }
    }

    /// The channel is listened to.
    pub(super) fn admit(
        &mut self,
        name: &Arc<str>,
        mut beginner: RemoteBeginner,
        recover: Option<Recover>,
        out: &mut Told,
    ) {
        if beginner.follow.as_mut().is_some_and(|follow| follow.wants_cursor()) {
            return self.read_cursor(name, beginner, out);
        }
        let Some(channel) = self.channels.get(name) else { return };
        let missed_nothing = |ask: &Recover, place: &Position| {
            let same_life = ask.epoch.is_empty() || place.epoch == *ask.epoch;
            let none = || channel.sequence.missed(ask.offset, ask.limit, &[], 0) == Missed::All(Vec::new());
            !ask.cache && same_life && ask.offset == place.offset && none()
        };
        match (channel.sequence.place(), &recover) {
            _ if !beginner.positioned => self.begin(name, beginner, None, out),
            (Some(_), None) => self.begin(name, beginner, None, out),
            (Some(place), Some(ask)) if missed_nothing(ask, place) => {
                let recovery = Recovery { recovered: true, ..Recovery::default() };
                self.begin(name, beginner, Some(recovery), out);
            }
            _ => self.begin_read(name, beginner, recover, out),
        }
    }

    fn begin_read(&mut self, name: &Arc<str>, beginner: RemoteBeginner, recover: Option<Recover>, out: &mut Told) {
        let Some(channel) = self.channels.get_mut(name) else { return };
        let beginners = channel.beginners.get_or_insert_default();
        let same = beginners.reads.iter_mut().find(|read| read.found.is_none() && read.recover == recover);
        if let Some(read) = same {
            return read.who.push(beginner);
        }
        beginners.next = beginners.next.wrapping_add(1);
        let (number, who) = (beginners.next, vec![beginner]);
        self.change(name, out, |sequence, _, _| sequence.begin_recovery());
        self.put_read(
            name,
            BeginnersRead { number, recover, known: Known::default(), tries: 0, asked: (0, 0), found: None, who },
            out,
        );
    }

    fn put_read(&mut self, name: &Arc<str>, mut read: BeginnersRead, out: &mut Told) {
        read.tries += 1;
        let Some(channel) = self.channels.get(name) else { return };
        let (life, engine, keep, unseen) =
            (channel.life, channel.engine, self.keep_of(channel), channel.sequence.is_unseen());
        let Some(keep) = keep.filter(|_| read.tries <= TRIES_MAX) else {
            return self.refuse_read(name, &read, ClientError::Internal, out);
        };
        let Some(ticket) = self.ticket(Ticket::Begin { channel: name.clone(), life, read: read.number }) else {
            return self.refuse_read(name, &read, ClientError::TooManyRequests, out);
        };
        let query = Box::new(query(keep, read.recover.as_ref(), unseen));
        read.asked = (query.since.as_ref().map_or(0, |(offset, _)| *offset), query.limit);
        self.calls.push((engine, EngineCall::Read { ticket, channel: name.clone(), query }));
        if let Some(channel) = self.channels.get_mut(name) {
            (read.known, read.found) = (channel.sequence.known(), None);
            channel.beginners.get_or_insert_default().reads.push(read);
        }
    }

    fn refuse_read(&mut self, name: &Arc<str>, read: &BeginnersRead, error: ClientError, out: &mut Told) {
        self.change(name, out, |sequence, _, _| sequence.end_recovery());
        read.who.iter().for_each(|beginner| refuse(name, beginner, error, out));
        self.drop_beginners(name);
    }

    /// What was read for those who begin, if it could be.
    pub(super) fn end_begin(
        &mut self,
        name: &Arc<str>,
        number: u32,
        found: Option<(Position, Vec<Publication>)>,
        out: &mut Told,
    ) {
        let Some(beginners) = self.channels.get_mut(name).and_then(|channel| channel.beginners.as_mut()) else {
            return;
        };
        let Some(at) = beginners.reads.iter().position(|read| read.number == number) else { return };
        let mut read = beginners.reads.swap_remove(at);
        let Some(found) = found else { return self.refuse_read(name, &read, ClientError::Internal, out) };
        let (known, (top, publications), (since, limit)) = (&read.known, &found, read.asked);
        let newest = read.recover.as_ref().is_none_or(|ask| ask.cache);
        let covers = newest || since < top.offset && publications.len() < limit;
        let fresh = self
            .change(name, out, |sequence, _, emissions| sequence.saw(known, top, (publications, covers), emissions));
        match fresh {
            Some(true) => {
                read.found = Some(found);
                self.settle(name, read, false, out);
            }
            _ => self.put_read(name, read, out),
        }
    }

    /// `caught_up`: the channel was read as far as it goes since.
    fn settle(&mut self, name: &Arc<str>, read: BeginnersRead, caught_up: bool, out: &mut Told) {
        let Some(channel) = self.channels.get_mut(name) else { return };
        match judge(&channel.sequence, &read, caught_up) {
            Outcome::Again => self.put_read(name, read, out),
            Outcome::CatchUp => {
                channel.beginners.get_or_insert_default().reads.push(read);
                self.change(name, out, |sequence, _, _| sequence.insist());
            }
            Outcome::Begin(recovery) => {
                self.change(name, out, |sequence, _, _| sequence.end_recovery());
                for beginner in read.who {
                    self.begin(name, beginner, recovery.clone(), out);
                }
                self.drop_beginners(name);
            }
        }
    }

    /// The channel was read as far as it goes, or could not be.
    pub(super) fn caught_up(&mut self, name: &Arc<str>, read: bool, out: &mut Told) {
        let Some(channel) = self.channels.get_mut(name) else { return };
        if read && channel.sequence.is_healing() {
            return;
        }
        let Some(beginners) = &mut channel.beginners else { return };
        let waiting: Vec<BeginnersRead> = beginners.reads.extract_if(.., |read| read.found.is_some()).collect();
        for one in waiting {
            match read {
                true => self.settle(name, one, true, out),
                false => self.refuse_read(name, &one, ClientError::Internal, out),
            }
        }
    }

    /// The subscription begins, where the channel stands.
    fn begin(&mut self, name: &Arc<str>, beginner: RemoteBeginner, recovery: Option<Recovery>, out: &mut Told) {
        let Some(channel) = self.channels.get_mut(name) else { return };
        let RemoteBeginner { conn, ticket, positioned, member, follow } = beginner;
        let mut found = positioned.then(|| {
            let position = channel.sequence.place().cloned().unwrap_or_default();
            Box::new(Found { position, recovery })
        });
        if let (Some(follow), Some(found)) = (follow, &mut found) {
            let cursor = follow.begins(name, found, &mut self.inboxes);
            self.calls.extend(cursor.map(|call| (channel.engine, call)));
        }
        let subscribed = Event::Subscribed { channel: name.clone(), conn, ticket, found };
        out.push((Target::Reactor(conn.reactor), subscribed));
        if positioned && !std::mem::replace(&mut channel.marks.checked, true) {
            self.checks.join(name, channel.life);
        }
        let Some(Member { client, info, presence, announce }) = member else { return };
        let engine = channel.engine;
        if presence {
            let members = channel.members.get_or_insert_default();
            let before = members.len();
            members.insert(client, &info);
            self.members += members.len() - before;
            if !std::mem::replace(&mut channel.marks.renewed, true) {
                self.renewals.join(name, channel.life);
            }
            let (channel, info) = (name.clone(), info.clone());
            self.calls.push((engine, EngineCall::AddPresence { channel, client, info }));
        }
        if announce {
            self.calls.push((engine, EngineCall::Announce { channel: name.clone(), info, joined: true }));
        }
    }
}

pub(super) fn refuse(name: &Arc<str>, beginner: &RemoteBeginner, error: ClientError, out: &mut Told) {
    let RemoteBeginner { conn, ticket, .. } = *beginner;
    out.push((Target::Reactor(conn.reactor), Event::Refused { channel: name.clone(), conn, ticket, error }));
}

/// What is to be read for those who want this; with what is at the top of a stream of which nobody has seen that.
fn query(keep: Keep, recover: Option<&Recover>, unseen: bool) -> Query {
    match recover.filter(|ask| !ask.cache) {
        None => Query { keep, since: None, limit: 1, reverse: true },
        Some(ask) => {
            let before = u64::from(unseen).min(ask.offset);
            let (since, limit) = (ask.offset - before, ask.limit.saturating_add(before as usize));
            Query { keep, since: Some((since, Default::default())), limit, reverse: false }
        }
    }
}

/// Who may have missed more than is sent at once gets the first of it, as it was read.
fn first_part(sequence: &Sequence, ask: &Recover, top: u64, read: &[Publication]) -> Option<Recovery> {
    let missed = top.checked_sub(ask.offset)?;
    if missed <= ask.limit as u64 || missed > ask.most || sequence.is_overtaken(ask.offset) {
        return None;
    }
    let mut publications: Vec<Publication> = Vec::with_capacity(ask.limit);
    for publication in read.iter().filter(|it| it.offset > ask.offset).take(ask.limit) {
        if publication.offset != ask.offset + 1 + publications.len() as u64 {
            return None;
        }
        publications.push(publication.clone());
    }
    (publications.len() == ask.limit).then_some(Recovery { recovered: true, publications, from: None, more: true })
}

/// What comes of what was read, in memory's terms: see `Stream::recover`.
fn judge(sequence: &Sequence, read: &BeginnersRead, caught_up: bool) -> Outcome {
    let (Some(place), Some((top, publications))) = (sequence.place(), &read.found) else { return Outcome::Again };
    let Some(ask) = &read.recover else { return Outcome::Begin(None) };
    let same_life = ask.epoch.is_empty() || place.epoch == *ask.epoch;
    if ask.cache {
        let latest = sequence.latest(publications.first());
        let ahead = latest.as_ref().is_some_and(|latest| latest.offset > place.offset);
        if ahead {
            return if caught_up { Outcome::Again } else { Outcome::CatchUp };
        }
        let known = |latest: &Publication| ask.offset > 0 && latest.offset == ask.offset && place.epoch == *ask.epoch;
        let recovered = latest.is_some();
        let publications = latest.filter(|latest| !known(latest)).into_iter().collect();
        return Outcome::Begin(Some(Recovery { recovered, publications, ..Recovery::default() }));
    }
    if !same_life {
        return Outcome::Begin(Some(Recovery::default()));
    }
    if ask.offset > place.offset && !caught_up {
        return Outcome::CatchUp;
    }
    if let Some(part) = first_part(sequence, ask, place.offset, publications) {
        return Outcome::Begin(Some(part));
    }
    match sequence.missed(ask.offset, ask.limit, publications, top.offset) {
        Missed::All(publications) => {
            Outcome::Begin(Some(Recovery { recovered: true, publications, ..Recovery::default() }))
        }
        Missed::Lost => Outcome::Begin(Some(Recovery::default())),
        Missed::Unknown => Outcome::Again,
    }
}
