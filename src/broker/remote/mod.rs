//! F3 · The channels of this reactor's share that live elsewhere: this node's agent for each of them.
//!
//! Owns who listens here, how far each channel came ([`Sequence`]), and the questions that an engine has not answered.
//! What is asked of a channel becomes [`EngineCall`]s, and what is [`Heard`] becomes the same events that a channel
//! kept here gives. Pure. How a subscription begins is in `begin`, what comes with time in `rounds`.
//!
//! The ordering promise holds as follows. The channel is listened to before a subscription begins. One that wants a
//! position begins where the channel stands on this node, and what it missed before that is read: publications that
//! are passed on meanwhile are remembered for it.

mod begin;
mod cursors;
mod publishers;
mod ring;
mod rounds;
#[cfg(test)]
mod tests;

use super::engine::{Away, Engine, EngineAnswer, EngineCall, Heard};
use super::interest::{Interest, Told};
use super::log::Unlogged;
use super::presence::Presence;
use super::sequence::{Arrival, Emission, HeldRoom, Known, Sequence};
use super::table::ChannelTable;
use super::{Answer, Asker, Event, Extras, Gone, InboxTally, Keep, Member, Position, Request, Target};
use crate::protocol::code::ClientError;
use crate::protocol::{Publication, delta};
use begin::Beginners;
use foldhash::quality::RandomState;
use hashbrown::HashMap;
use publishers::Publishers;
use ring::Ring;
use std::collections::VecDeque;
use std::sync::Arc;

/// What one reactor's share of the channels that live elsewhere may cost, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineLimits {
    /// Publications held for one channel while what was lost before them is read.
    pub held: usize,
    /// Bytes of them, for all channels.
    pub held_bytes: usize,
    /// Questions under way.
    pub inflight: usize,
    /// Clients of a channel that a client is told of.
    pub present: usize,
    /// All clients present are named again in so long.
    pub presence_ms: u64,
    /// A channel of which nothing was heard for so long is read; 0 = never.
    pub check_ms: u64,
}

/// What came of engines, since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EngineTally {
    /// Reads of what may have been lost.
    pub heals: u64,
    /// Publications that they brought.
    pub healed: u64,
    /// Gaps that could not be healed.
    pub gaps: u64,
    /// Publications that there was no room to hold.
    pub dropped: u64,
    /// Questions and subscriptions refused because the engine is away.
    pub away: u64,
    /// The same because too many were under way.
    pub refused: u64,
    /// Clients named again.
    pub renewed: u64,
    /// Channels that were quiet and were read.
    pub checked: u64,
}

/// Publications asked for in one read of what was lost.
const HEAL_MAX: usize = 512;

/// Does an engine listen for us?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Hearing {
    #[default]
    No,
    Asked,
    Yes,
}

#[derive(Debug, Default)]
struct RemoteChannel {
    interest: Interest,
    sequence: Sequence,
    beginners: Option<Box<Beginners>>,
    /// Those present here.
    members: Option<Box<Presence>>,
    /// Tells it from other lives of a channel with this name.
    life: u32,
    /// Subscribers that take deltas.
    deltas: u32,
    /// The low bits of when the last subscriber left, in milliseconds.
    idle_ms: u32,
    /// What its stream keeps, once somebody wants a position: one of a list, counted from 1.
    keep: u16,
    engine: Engine,
    hearing: Hearing,
    marks: RemoteMarks,
}

// As docs/memory.md has it: at most 100 bytes more than a channel that is kept here.
const _: () = assert!(size_of::<RemoteChannel>() <= 40 + 72);

#[derive(Debug, Default)]
struct RemoteMarks {
    /// It stands in the line of those that are to be read.
    heals: bool,
    renewed: bool,
    checked: bool,
    /// Something was heard since it was last checked.
    heard: bool,
}

/// What a ticket stands for.
#[derive(Debug)]
enum Ticket {
    /// Whose question it is.
    Ask(Asker),
    /// The same, of a publication that the log is to have.
    Publish(Box<Unlogged>),
    /// Who waits until its client is not present any more.
    Left(Asker),
    /// A read for those who begin.
    Begin { channel: Arc<str>, life: u32, read: u32 },
    /// A cursor for one who begins.
    Cursor { channel: Arc<str>, life: u32, number: u32 },
    /// A read of what may have been lost.
    Heal { channel: Arc<str>, life: u32, known: Known },
}

#[derive(Debug)]
pub struct RemoteChannels {
    channels: ChannelTable<RemoteChannel>,
    /// Channels with subscribers.
    occupied: usize,
    lives: u32,
    next_ticket: u64,
    tickets: HashMap<u64, Ticket, RandomState>,
    /// What streams keep, each once.
    keeps: Vec<Keep>,
    publishers: Publishers,
    /// Channels that are to be read, each once.
    heals: VecDeque<Arc<str>>,
    healing: usize,
    /// Channels to be looked at, a second after they were put here.
    later: VecDeque<(u64, Arc<str>)>,
    renewals: Ring,
    /// The last client of the first channel of that ring that was named again.
    renewed: Option<[u8; 16]>,
    members: usize,
    checks: Ring,
    held_bytes: usize,
    limits: EngineLimits,
    emissions: Vec<Emission>,
    pub tally: EngineTally,
    pub inboxes: InboxTally,
    pub announces: bool,
    /// For the engines, in order. Emptied by the caller.
    pub calls: Vec<(Engine, EngineCall)>,
}

impl RemoteChannels {
    pub fn new(limits: EngineLimits) -> RemoteChannels {
        RemoteChannels {
            channels: ChannelTable::default(),
            occupied: 0,
            lives: 0,
            next_ticket: 0,
            tickets: HashMap::default(),
            keeps: Vec::new(),
            publishers: Publishers::default(),
            heals: VecDeque::new(),
            healing: 0,
            later: VecDeque::new(),
            renewals: Ring::default(),
            renewed: None,
            members: 0,
            checks: Ring::default(),
            held_bytes: 0,
            limits,
            emissions: Vec::new(),
            tally: EngineTally::default(),
            inboxes: InboxTally::default(),
            announces: false,
            calls: Vec::new(),
        }
    }

    pub fn set_limits(&mut self, limits: EngineLimits) {
        self.limits = limits;
    }

    /// Is this channel one of these?
    pub fn has(&self, channel: &str) -> bool {
        self.channels.get(channel).is_some()
    }

    /// Channels with subscribers.
    pub fn occupied(&self) -> usize {
        self.occupied
    }

    /// Questions that are not answered.
    pub fn inflight(&self) -> usize {
        self.tickets.len()
    }

    /// Bytes of publications that are held or remembered.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    pub fn channels(&self, part: usize) -> impl Iterator<Item = (&Arc<str>, u64)> {
        let occupied = self.channels.part(part).filter(|(_, channel)| !channel.interest.is_empty());
        occupied.map(|(name, channel)| (name, channel.interest.count()))
    }

    pub fn part_len(&self, part: usize) -> usize {
        self.channels.part(part).len()
    }

    /// Carries out `request`; what follows at once is appended to `out`, in order.
    pub fn handle(&mut self, now_ms: u64, engine: Engine, request: Request, out: &mut Told) {
        match request {
            Request::Subscribe { channel, from, ticket, want } => {
                self.subscribe(engine, channel, (from, ticket), want, out);
            }
            Request::Leave { channel, reactor, gone } => self.leave(now_ms, &channel, reactor, gone, out),
            Request::Publish { channel, publication, asker, treatment } => {
                if let Some(conn) = treatment.as_ref().and_then(|treatment| treatment.except) {
                    self.publishers.insert(now_ms, &publication, conn);
                }
                let unlogged = Unlogged::new(&channel, &publication, asker, treatment.as_deref());
                let call = |ticket| EngineCall::Publish { ticket, channel, publication, treatment };
                match unlogged {
                    None => self.ask(engine, asker, out, call),
                    Some(unlogged) => self.put(engine, Ticket::Publish(Box::new(unlogged)), asker, out, call),
                }
            }
            Request::History { channel, asker, query } => {
                self.ask(engine, asker, out, |ticket| EngineCall::Read { ticket, channel, query });
            }
            Request::RemoveHistory { channel, asker } => {
                self.ask(engine, asker, out, |ticket| EngineCall::RemoveHistory { ticket, channel });
            }
            Request::Presence { channel, asker } => {
                let most = self.most_of(asker);
                self.ask(engine, asker, out, |ticket| EngineCall::Presence { ticket, channel, most });
            }
            Request::PresenceStats { channel, asker } => {
                self.ask(engine, asker, out, |ticket| EngineCall::PresenceStats { ticket, channel });
            }
        }
    }

    /// Puts a question of `asker`.
    fn ask(&mut self, engine: Engine, asker: Asker, out: &mut Told, call: impl FnOnce(u64) -> EngineCall) {
        self.put(engine, Ticket::Ask(asker), asker, out, call);
    }

    fn put(
        &mut self,
        engine: Engine,
        what: Ticket,
        asker: Asker,
        out: &mut Told,
        call: impl FnOnce(u64) -> EngineCall,
    ) {
        match self.ticket(what) {
            Some(ticket) => self.calls.push((engine, call(ticket))),
            None => answer(asker, Answer::Refused(ClientError::TooManyRequests), out),
        }
    }

    /// How many clients `asker` may be told of.
    fn most_of(&self, asker: Asker) -> usize {
        if matches!(asker, Asker::Client { .. }) { self.limits.present } else { usize::MAX }
    }

    /// A ticket, unless too many are under way.
    fn ticket(&mut self, what: Ticket) -> Option<u64> {
        if self.tickets.len() >= self.limits.inflight {
            self.tally.refused += 1;
            return None;
        }
        self.next_ticket += 1;
        self.tickets.insert(self.next_ticket, what);
        Some(self.next_ticket)
    }

    /// Takes what an engine says.
    pub fn hear(&mut self, now_ms: u64, heard: Heard, out: &mut Told) {
        match heard {
            Heard::Publication { channel, publication, position, previous } => {
                self.hear_publication(&channel, Arrival { publication, position, previous }, out);
            }
            Heard::Presence { channel, info, joined } => {
                let Some(RemoteChannel { interest, .. }) = self.channels.get(&channel) else { return };
                interest.tell(out, || {
                    let (channel, info) = (channel.clone(), info.clone());
                    if joined { Event::Join { channel, info } } else { Event::Leave { channel, info } }
                });
            }
            Heard::Listening { channel, life, result } => self.listening(now_ms, &channel, life, result, out),
            Heard::Unfit { channel, life, error } => self.unfit(&channel, life, error, out),
            Heard::Answer { ticket, answer } => self.answered(now_ms, ticket, answer, out),
        }
        self.heal_next();
    }

    fn hear_publication(&mut self, name: &Arc<str>, arrival: Arrival, out: &mut Told) {
        let Some(channel) = self.channels.get_mut(name).filter(|channel| channel.hearing == Hearing::Yes) else {
            // Of a life that is over.
            return;
        };
        channel.marks.heard = true;
        if channel.keep == 0 {
            // Nobody wants a position.
            let Arrival { publication, previous, .. } = arrival;
            let passed = Emission::Pass { publication, previous };
            return tell(channel, name, passed, &self.publishers, &mut self.tally, out);
        }
        let dropped = self.change(name, out, |sequence, room, emissions| sequence.hear(arrival, room, emissions));
        self.tally.dropped += dropped.unwrap_or(0) as u64;
    }

    /// Changes how far a channel came, and tells what follows.
    fn change<R>(
        &mut self,
        name: &Arc<str>,
        out: &mut Told,
        change: impl FnOnce(&mut Sequence, HeldRoom, &mut Vec<Emission>) -> R,
    ) -> Option<R> {
        let RemoteChannels { channels, emissions, held_bytes, limits, publishers, tally, heals, .. } = self;
        let channel = channels.get_mut(name)?;
        let before = channel.sequence.bytes();
        let bytes = before + limits.held_bytes.saturating_sub(*held_bytes);
        let result = change(&mut channel.sequence, HeldRoom { count: limits.held, bytes }, emissions);
        *held_bytes = *held_bytes + channel.sequence.bytes() - before;
        for emission in emissions.drain(..) {
            tell(channel, name, emission, publishers, tally, out);
        }
        if channel.sequence.wants_read() && !std::mem::replace(&mut channel.marks.heals, true) {
            heals.push_back(name.clone());
        }
        Some(result)
    }

    fn answered(&mut self, now_ms: u64, ticket: u64, said: Result<EngineAnswer, Away>, out: &mut Told) {
        let Some(what) = self.tickets.remove(&ticket) else { return };
        if said.is_err() {
            self.tally.away += 1;
        }
        match what {
            Ticket::Ask(asker) => answer(asker, to_answer(said, self.most_of(asker)), out),
            Ticket::Publish(unlogged) => {
                let (fresh, from) = (matches!(said, Ok(EngineAnswer::Published(_))), out.len());
                answer(unlogged.asker, to_answer(said, 0), out);
                unlogged.log(fresh, out, from);
            }
            // It is forgotten in time, whatever the engine said.
            Ticket::Left(asker) => answer(asker, Answer::Left, out),
            Ticket::Begin { channel, life, read } => {
                if self.is_life(&channel, life) {
                    self.end_begin(&channel, read, read_of(said), out);
                }
            }
            Ticket::Cursor { channel, life, number } => {
                if self.is_life(&channel, life) {
                    self.end_cursor(&channel, number, said, out);
                }
            }
            Ticket::Heal { channel, life, known } => {
                self.healing -= 1;
                if self.is_life(&channel, life) {
                    self.end_heal(now_ms, &channel, &known, read_of(said), out);
                }
            }
        }
    }

    fn is_life(&self, name: &Arc<str>, life: u32) -> bool {
        self.channels.get(name).is_some_and(|channel| channel.life == life)
    }

    fn leave(&mut self, now_ms: u64, name: &Arc<str>, reactor: u16, gone: Option<Box<Gone>>, out: &mut Told) {
        let asker = gone.as_ref().and_then(|gone| gone.asker);
        let mut waits = false;
        if let Some(channel) = self.channels.get_mut(name) {
            channel.interest.remove(reactor);
            let is_empty = channel.interest.is_empty();
            if let Some(gone) = gone {
                channel.deltas = channel.deltas.saturating_sub(u32::from(gone.delta));
                waits = self.part(name, *gone);
            }
            if is_empty {
                self.occupied -= 1;
                if self.announces {
                    out.push((Target::Backend, Event::Occupied { channel: name.clone(), occupied: false }));
                }
                self.idle(now_ms, name);
            }
        }
        if let Some(asker) = asker.filter(|_| !waits) {
            answer(asker, Answer::Left, out);
        }
    }

    /// What a subscriber leaves behind besides its place; true if who asks is answered later.
    fn part(&mut self, name: &Arc<str>, gone: Gone) -> bool {
        let Some(Member { client, info, presence, announce }) = gone.member else { return false };
        let Some(channel) = self.channels.get_mut(name) else { return false };
        let engine = channel.engine;
        // One that has not begun was not told of.
        let untold = channel.beginners.as_mut().is_some_and(|all| all.forget(client, presence, announce));
        let before = channel.members.as_ref().map_or(0, |members| members.len());
        if presence && let Some(members) = &mut channel.members {
            members.remove(client);
        }
        let after = channel.members.as_ref().map_or(0, |members| members.len());
        channel.members.take_if(|members| members.is_empty());
        self.members -= before - after;
        let was_present = before > after;
        let mut waits = false;
        if was_present || presence && !untold {
            let ticket = gone.asker.and_then(|asker| self.ticket(Ticket::Left(asker)));
            waits = ticket.is_some();
            let (channel, user) = (name.clone(), info.user.as_str().into());
            self.calls.push((engine, EngineCall::RemovePresence { channel, client, user, ticket }));
        }
        if announce && (was_present || !untold) {
            self.calls.push((engine, EngineCall::Announce { channel: name.clone(), info, joined: false }));
        }
        waits
    }

    fn forget(&mut self, name: &Arc<str>) {
        if let Some(channel) = self.channels.get(name) {
            self.held_bytes -= channel.sequence.bytes();
            self.members -= channel.members.as_ref().map_or(0, |members| members.len());
            self.channels.remove(name);
        }
    }
}

/// Tells the subscribers of a channel what came of it.
fn tell(
    channel: &RemoteChannel,
    name: &Arc<str>,
    emission: Emission,
    publishers: &Publishers,
    tally: &mut EngineTally,
    out: &mut Told,
) {
    match emission {
        Emission::Pass { publication, previous } => {
            let previous = previous.filter(|_| channel.deltas > 0);
            let delta = previous.and_then(|before| delta::shorter(&before, &publication.data));
            let extras = Extras { delta, except: publishers.find(&publication) };
            let extras = (extras != Extras::default()).then_some(extras);
            channel.interest.send(name, &publication, extras.as_ref(), out);
        }
        Emission::Gap => {
            tally.gaps += 1;
            channel.interest.tell(out, || Event::Gap { channel: name.clone() });
        }
    }
}

fn answer(asker: Asker, answer: Answer, out: &mut Told) {
    out.push((asker.into(), Event::Answer { asker, answer }));
}

/// `most`: clients that who asked may be told of.
fn to_answer(said: Result<EngineAnswer, Away>, most: usize) -> Answer {
    match said {
        Ok(EngineAnswer::Published(position) | EngineAnswer::Known(position)) => Answer::Published(position),
        Ok(EngineAnswer::Read(found)) => Answer::History(found),
        Ok(EngineAnswer::Removed) => Answer::Removed,
        Ok(EngineAnswer::Presence(clients)) if clients.len() > most => Answer::Refused(ClientError::LimitExceeded),
        Ok(EngineAnswer::Presence(clients)) => Answer::Presence(clients),
        Ok(EngineAnswer::PresenceStats { clients, users }) => Answer::PresenceStats { clients, users },
        // Nobody asks for a cursor this way.
        Ok(EngineAnswer::PresenceRemoved | EngineAnswer::Cursor(_)) => Answer::Left,
        Ok(EngineAnswer::Unrecoverable) => Answer::Refused(ClientError::UnrecoverablePosition),
        Ok(EngineAnswer::Refused(error)) => Answer::Refused(error),
        Err(Away) => Answer::Refused(ClientError::Internal),
    }
}

/// What was read; nothing if it could not be.
fn read_of(said: Result<EngineAnswer, Away>) -> Option<(Position, Vec<Publication>)> {
    match said {
        Ok(EngineAnswer::Read(found)) => Some(*found),
        _ => None,
    }
}
