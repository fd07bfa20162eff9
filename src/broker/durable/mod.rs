//! F3 · Channels in memory whose publications an archive keeps too.
//!
//! Owns what is between the two. A channel is *opened* before its first use: the archive tells where its stream stands,
//! and requests wait for that in a line. With durability *batched* all goes on as in memory, and each publication is
//! told to the archive. With *sync* a publication takes its place at once, and all that the owner says of the channel
//! from then on waits in the channel's line until it is on disk: so many are under way at a time, and nobody hears of
//! what may be lost. What memory has forgotten is read from the archive ([`pages`]). Knows nothing of disks.

mod line;
mod pages;
#[cfg(test)]
mod tests;

use super::archive::{ArchiveAnswer, ArchiveCall, ArchiveKeep, Archived, ArchivedCursor, ArchivedStream};
use super::engine::Away;
use super::log::Unlogged;
use super::memory::Memory;
use super::table::ChannelTable;
use super::{Answer, Asker, Epoch, Event, InboxKeep, Keep, Position, Request, Told, Treatment};
use crate::protocol::Publication;
use crate::protocol::code::ClientError;
use foldhash::quality::RandomState;
use hashbrown::HashMap;
use line::WaitingLine;
use pages::{Beginner, HistoryRead};
use std::sync::Arc;

/// How soon it is asked again where a stream stands that went on without its archive.
const ADRIFT_MS: u64 = 5_000;
/// Publications that memory is given back of a stream; what is older is read when it is asked for.
const RESTORED_MAX: usize = 1000;

/// What a channel asks of the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Durability {
    /// Nothing is said of a publication before it is on disk.
    pub sync: bool,
    pub archive: ArchiveKeep,
    pub memory: Keep,
    /// The archive has its cursors too.
    pub inbox: Option<InboxKeep>,
}

/// A channel that need not be waited for any more.
#[derive(Debug)]
pub struct OpenedChannel {
    pub channel: Arc<str>,
    /// What waited for it, in order.
    pub requests: Vec<Request>,
    /// The cursors that the archive has, if it answered.
    pub cursors: Option<(InboxKeep, Vec<ArchivedCursor>)>,
    /// Where its stream stands.
    pub top: Option<Position>,
    /// The life that it had, if that ended because something of it may be missing.
    pub torn: Option<Epoch>,
}

/// What a reactor's share of them may cost.
#[derive(Debug, Clone, Copy, Default)]
pub struct DurableLimits {
    /// Requests that wait until their channels are open.
    pub opening: usize,
    /// Reads of the archive under way.
    pub reads: usize,
    /// Publications of one read.
    pub page: usize,
}

/// What came of it since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DurableTally {
    /// Publications that were delivered and not archived.
    pub unarchived: u64,
    /// Publications refused because too many bytes wait for the archive, and other requests beyond a limit.
    pub refused: u64,
    /// Publications that were answered with error 100, because they did not come to the disk.
    pub failed: u64,
    /// Streams that began another epoch because something of them may be missing.
    pub torn: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Openness {
    /// Nobody has asked where it stands.
    Closed,
    Opening,
    Open,
    /// The archive is away, and what it does not know may be lost. It is asked again after this.
    Adrift(u64),
}

#[derive(Debug)]
struct DurableChannel {
    durability: Durability,
    openness: Openness,
    line: WaitingLine,
    /// Histories and recoveries for which the archive is read.
    reads: u32,
    /// Offset of the latest publication on disk.
    on_disk: u64,
}

/// What a ticket stands for.
#[derive(Debug)]
enum ArchiveTicket {
    Open(Arc<str>),
    Append(Arc<str>, Position),
    Remove(Arc<str>, Asker),
    History(Box<HistoryRead>),
    Recover(Box<Beginner>),
}

#[derive(Debug)]
pub struct DurableChannels {
    channels: ChannelTable<Option<Box<DurableChannel>>>,
    count: usize,
    tickets: HashMap<u64, ArchiveTicket, RandomState>,
    next_ticket: u64,
    opening: usize,
    reading: usize,
    /// Bytes that may still wait for the archive.
    room: usize,
    /// Streams of which publications were not archived: where they stand.
    owed: HashMap<Arc<str>, (Position, ArchiveKeep), RandomState>,
    /// Nothing is archived any more.
    ended: bool,
    /// Namespaces may ask for something else than they did.
    changed: bool,
    limits: DurableLimits,
    scratch: Told,
    pub unix_ms: u64,
    pub tally: DurableTally,
    /// Publications of which everyone has been told. Emptied by the caller.
    pub said: Vec<(Arc<str>, Position)>,
    /// For the archive, in order. Emptied by the caller.
    pub calls: Vec<ArchiveCall>,
}

impl DurableChannels {
    pub fn new(limits: DurableLimits) -> DurableChannels {
        DurableChannels {
            channels: ChannelTable::default(),
            count: 0,
            tickets: HashMap::default(),
            next_ticket: 0,
            opening: 0,
            reading: 0,
            room: usize::MAX,
            owed: HashMap::default(),
            ended: false,
            changed: false,
            limits,
            scratch: Told::new(),
            unix_ms: 0,
            tally: DurableTally::default(),
            said: Vec::new(),
            calls: Vec::new(),
        }
    }

    pub fn set_limits(&mut self, limits: DurableLimits) {
        (self.limits, self.changed) = (limits, true);
    }

    pub fn set_room(&mut self, bytes: usize) {
        self.room = bytes;
    }

    /// A channel that is not durable any more, as its namespace says, ends its stream: what comes next is in another
    /// epoch. False if it has to wait for what is under way.
    pub fn release(&mut self, memory: &mut Memory, name: &Arc<str>, out: &mut Told) -> bool {
        if !self.changed {
            return true;
        }
        let Some(channel) = self.get(name) else { return true };
        if !channel.line.is_empty() || channel.openness == Openness::Opening {
            return false;
        }
        self.drop_channel(name);
        memory.abandon(name, out);
        memory.forgotten.clear();
        true
    }

    /// The durability under which a channel that is released later goes on.
    pub fn durability(&self, name: &str) -> Option<Durability> {
        self.channels.get(name)?.as_ref().map(|channel| channel.durability)
    }

    fn get(&mut self, name: &str) -> Option<&mut DurableChannel> {
        self.channels.get_mut(name)?.as_deref_mut()
    }

    fn drop_channel(&mut self, name: &str) {
        if self.channels.get(name).is_some() {
            self.channels.remove(name);
            self.count -= 1;
        }
    }

    /// The request comes back if it is to be carried out now, by [`DurableChannels::act`]. Otherwise it waits, or was
    /// answered in `out`.
    pub fn admit(
        &mut self,
        memory: &mut Memory,
        now_ms: u64,
        durability: Durability,
        request: Request,
        out: &mut Told,
    ) -> Option<Request> {
        let name = request.channel().clone();
        let only_presence =
            matches!(request, Request::Leave { .. } | Request::Presence { .. } | Request::PresenceStats { .. });
        if only_presence && self.get(&name).is_none() {
            memory.handle(now_ms, request, out);
            return None;
        }
        // A stream that is over is opened again.
        memory.extent(now_ms, &name);
        self.forget_gone(memory);
        let slot = self.channels.get_or_insert_default(&name);
        if slot.is_none() {
            self.count += 1;
        }
        let channel = slot.get_or_insert_with(|| {
            let (openness, line) = (Openness::Closed, WaitingLine::default());
            Box::new(DurableChannel { durability, openness, line, reads: 0, on_disk: 0 })
        });
        if channel.durability.sync == durability.sync {
            channel.durability = durability;
        } else if channel.line.is_empty() && channel.openness != Openness::Opening {
            (channel.durability, channel.openness) = (durability, Openness::Closed);
        }
        match channel.openness {
            Openness::Open => Some(request),
            Openness::Adrift(retry_ms) => {
                if now_ms >= retry_ms {
                    channel.openness = Openness::Adrift(now_ms + ADRIFT_MS);
                    self.ask_open(&name);
                }
                Some(request)
            }
            Openness::Closed if only_presence => Some(request),
            Openness::Opening | Openness::Closed => {
                if channel.openness == Openness::Closed {
                    channel.openness = Openness::Opening;
                    self.ask_open(&name);
                }
                self.wait(memory, now_ms, &name, request, out);
                self.follow(memory, &name);
                None
            }
        }
    }

    /// Asks where the stream stands.
    fn ask_open(&mut self, name: &Arc<str>) {
        self.pay(name);
        let Some(channel) = self.get(name) else { return };
        let (latest, ahead) = (channel.durability.memory.size as usize, !channel.durability.sync);
        let cursors = channel.durability.inbox.map_or(0, |inbox| inbox.cursors as usize);
        let ticket = self.ticket(ArchiveTicket::Open(name.clone()));
        let latest = latest.min(RESTORED_MAX);
        self.call(ArchiveCall::Open { ticket, channel: name.clone(), latest, ahead, cursors });
    }

    fn ticket(&mut self, what: ArchiveTicket) -> u64 {
        self.next_ticket += 1;
        self.tickets.insert(self.next_ticket, what);
        self.next_ticket
    }

    pub fn call(&mut self, call: ArchiveCall) {
        self.room = self.room.saturating_sub(call.size());
        self.calls.push(call);
    }

    /// The archive may be told of cursors now. At the end it is told of all.
    pub fn has_room(&self) -> bool {
        self.room > 0 || self.ended
    }

    /// A stream in which nothing was published stands here, which the archive may not know.
    pub fn begins(&mut self, name: &Arc<str>, position: Position) {
        if let Some(keep) = self.durability(name).map(|durability| durability.archive) {
            let unix_ms = self.unix_ms;
            self.call(ArchiveCall::Stand { channel: name.clone(), position, unix_ms, keep });
        }
    }

    /// The archive is away, and the channel goes on without it.
    pub fn is_adrift(&self, name: &str) -> bool {
        let channel = self.channels.get(name).and_then(Option::as_ref);
        channel.is_some_and(|channel| matches!(channel.openness, Openness::Adrift(_)))
    }

    /// Tells the archive where a stream stands of which it lacks publications.
    fn pay(&mut self, name: &Arc<str>) {
        if let Some((position, keep)) = self.owed.remove(name) {
            let unix_ms = self.unix_ms;
            self.call(ArchiveCall::Stand { channel: name.clone(), position, unix_ms, keep });
        }
    }

    /// The request waits until the channel is open.
    fn wait(&mut self, memory: &mut Memory, now_ms: u64, name: &Arc<str>, request: Request, out: &mut Told) {
        if self.opening >= self.limits.opening && !matches!(request, Request::Leave { .. }) {
            self.tally.refused += 1;
            return refuse(memory, now_ms, request, ClientError::TooManyRequests, out);
        }
        self.opening += 1;
        if let Some(channel) = self.get(name) {
            channel.line.push_request(request);
        }
    }

    /// Carries out a request of a channel that need not wait. [`DurableChannels::follow`] comes after it.
    pub fn act(&mut self, memory: &mut Memory, now_ms: u64, name: &Arc<str>, request: Request, out: &mut Told) {
        match request {
            Request::Publish { publication, asker, treatment: Some(treatment), .. } if treatment.keep.is_some() => {
                self.publish(memory, now_ms, name, (publication, asker, treatment), out);
            }
            Request::Subscribe { want: Some(want), channel, from, ticket } if want.recover.is_some() => {
                self.subscribe(memory, now_ms, (channel, from, ticket), want, out);
            }
            Request::History { asker, query, .. } => self.history(memory, now_ms, name, asker, query, out),
            Request::RemoveHistory { asker, .. } => {
                self.in_memory(memory, now_ms, Request::RemoveHistory { channel: name.clone(), asker });
                self.scratch.clear();
                self.pay(name);
                let ticket = self.ticket(ArchiveTicket::Remove(name.clone(), asker));
                self.call(ArchiveCall::Remove { ticket, channel: name.clone() });
            }
            Request::Leave { channel, reactor, gone: Some(mut gone) } => {
                self.forget_beginner(name, &mut gone);
                self.in_memory(memory, now_ms, Request::Leave { channel, reactor, gone: Some(gone) });
                self.say(name, out);
            }
            other => {
                self.in_memory(memory, now_ms, other);
                self.say(name, out);
            }
        }
    }

    /// Has memory carry out a request; what it says is in `scratch`.
    fn in_memory(&mut self, memory: &mut Memory, now_ms: u64, request: Request) {
        let (unlogged, from, before) = (Unlogged::of(&request), self.scratch.len(), memory.published);
        let asks_present = match &request {
            Request::Publish { channel, treatment: Some(how), .. } if how.tells_present => Some(channel.clone()),
            _ => None,
        };
        memory.archives = true;
        memory.handle(now_ms, request, &mut self.scratch);
        memory.archives = false;
        if let Some(channel) = asks_present {
            memory.tell_present(&channel, &mut self.scratch);
        }
        if let Some(unlogged) = unlogged {
            unlogged.log(memory.published != before, &mut self.scratch, from);
        }
    }

    /// What is in `scratch` is said when all is on disk that was said before.
    fn say(&mut self, name: &Arc<str>, out: &mut Told) {
        let told = &mut self.scratch;
        match self.channels.get_mut(name).and_then(Option::as_mut) {
            Some(channel) if !channel.line.is_empty() => channel.line.push_told(told),
            _ => out.append(told),
        }
    }

    fn publish(
        &mut self,
        memory: &mut Memory,
        now_ms: u64,
        name: &Arc<str>,
        (publication, asker, treatment): (Arc<Publication>, Asker, Box<Treatment>),
        out: &mut Told,
    ) {
        let Some(channel) = self.get(name) else { return };
        let (durability, adrift) = (channel.durability, matches!(channel.openness, Openness::Adrift(_)));
        let size = name.len() + publication.data.len() + 256;
        let error = match () {
            () if self.ended => Some(ClientError::Internal),
            () if durability.sync && self.room < size => Some(ClientError::TooManyRequests),
            () => None,
        };
        if let Some(error) = error {
            self.tally.refused += 1;
            self.scratch.push((asker.into(), Event::Answer { asker, answer: Answer::Refused(error) }));
            return self.say(name, out);
        }
        let key = treatment.idempotency_key.clone();
        let treatment = Some(treatment);
        self.in_memory(memory, now_ms, Request::Publish { channel: name.clone(), publication, asker, treatment });
        let Some((position, publication)) = memory.placed.take() else { return self.say(name, out) };
        let (unix_ms, keep, channel) = (self.unix_ms, durability.archive, name.clone());
        if durability.sync {
            let ticket = self.ticket(ArchiveTicket::Append(name.clone(), position.clone()));
            let mut told = std::mem::take(&mut self.scratch);
            if let Some(channel) = self.get(name) {
                channel.line.push_append(ticket, key, &mut told);
            }
            self.scratch = told;
            self.call(ArchiveCall::Append { ticket: Some(ticket), channel, position, publication, unix_ms, keep });
        } else {
            self.said.push((name.clone(), position.clone()));
            if adrift || self.room < size {
                self.tally.unarchived += 1;
                if !adrift {
                    self.owed.insert(channel, (position, keep));
                }
            } else {
                self.owed.remove(name);
                self.call(ArchiveCall::Append { ticket: None, channel, position, publication, unix_ms, keep });
            }
            self.say(name, out);
        }
    }

    /// Takes what the archive says. What waited for a channel that is open now comes back, to be carried out.
    pub fn archived(
        &mut self,
        memory: &mut Memory,
        now_ms: u64,
        archived: Archived,
        out: &mut Told,
    ) -> Option<OpenedChannel> {
        let Archived { ticket, answer } = archived;
        let what = self.tickets.remove(&ticket)?;
        let name = match &what {
            ArchiveTicket::Open(name) | ArchiveTicket::Append(name, _) | ArchiveTicket::Remove(name, _) => name.clone(),
            ArchiveTicket::History(read) => read.channel.clone(),
            ArchiveTicket::Recover(beginner) => beginner.channel.clone(),
        };
        match what {
            ArchiveTicket::Open(_) => {
                let opened = self.opened(memory, now_ms, &name, answer, out);
                if opened.is_some() {
                    return opened;
                }
            }
            ArchiveTicket::Append(_, position) if answer.is_ok() => {
                if let Some(channel) = self.get(&name)
                    && channel.line.appended(ticket, out)
                {
                    channel.on_disk = position.offset;
                    self.said.push((name.clone(), position));
                }
            }
            ArchiveTicket::Append(..) => self.roll_back(memory, &name, ticket, out),
            ArchiveTicket::Remove(_, asker) => {
                let answer = if answer.is_ok() { Answer::Removed } else { Answer::Refused(ClientError::Internal) };
                self.scratch.push((asker.into(), Event::Answer { asker, answer }));
                self.say(&name, out);
            }
            ArchiveTicket::History(read) => self.read_history(*read, answer, out),
            ArchiveTicket::Recover(beginner) => self.read_missed(memory, now_ms, beginner, answer, out),
        }
        self.follow(memory, &name);
        None
    }

    /// A publication did not come to the disk, or nobody knows: what nobody has heard of is taken back. Where the
    /// stream stands is asked before it is used again.
    fn roll_back(&mut self, memory: &mut Memory, name: &Arc<str>, ticket: u64, out: &mut Told) {
        let Some(channel) = self.get(name) else { return };
        if !channel.line.has(ticket) {
            return;
        }
        let on_disk = channel.on_disk;
        let (keys, failed) = channel.line.fail(on_disk, out);
        if channel.openness != Openness::Opening {
            channel.openness = Openness::Closed;
        }
        if channel.reads > 0 {
            self.take_back_reads(name, on_disk);
        }
        self.tally.failed += failed;
        memory.roll_back(name, on_disk);
        keys.iter().for_each(|key| memory.forget_key(name, key));
    }

    /// The archive tells where a stream stands.
    fn opened(
        &mut self,
        memory: &mut Memory,
        now_ms: u64,
        name: &Arc<str>,
        answer: Result<ArchiveAnswer, Away>,
        out: &mut Told,
    ) -> Option<OpenedChannel> {
        let channel = self.get(name)?;
        let (durability, was_adrift) = (channel.durability, matches!(channel.openness, Openness::Adrift(_)));
        let requests = channel.line.take_requests();
        self.opening -= requests.len();
        let mut opened = OpenedChannel { channel: name.clone(), requests, cursors: None, top: None, torn: None };
        if let Ok(ArchiveAnswer::Opened { stream, cursors }) = answer {
            let was = stream.as_ref().filter(|stream| !stream.whole).map(|stream| stream.position.epoch.clone());
            let on_disk = self.settle(memory, now_ms, name, durability, stream, out);
            if let Some(channel) = self.get(name) {
                (channel.openness, channel.on_disk) = (Openness::Open, on_disk);
            }
            opened.top = memory.extent(now_ms, name).map(|extent| extent.position);
            opened.torn = was.filter(|was| opened.top.as_ref().is_some_and(|top| top.epoch != *was));
            opened.cursors = durability.inbox.map(|keep| (keep, cursors));
        } else if durability.sync {
            if let Some(channel) = self.get(name) {
                channel.openness = Openness::Closed;
            }
            for request in opened.requests {
                refuse(memory, now_ms, request, ClientError::Internal, &mut self.scratch);
                self.say(name, out);
            }
            return None;
        } else if !was_adrift {
            // The archive has no note that its epoch goes on, so it does not.
            memory.abandon(name, out);
            self.forget_gone(memory);
            if let Some(channel) = self.get(name) {
                channel.openness = Openness::Adrift(now_ms + ADRIFT_MS);
            }
        }
        Some(opened)
    }

    /// Memory's stream and the archive's become one; the offset that is on disk.
    fn settle(
        &mut self,
        memory: &mut Memory,
        now_ms: u64,
        name: &Arc<str>,
        durability: Durability,
        found: Option<Box<ArchivedStream>>,
        out: &mut Told,
    ) -> u64 {
        let known = memory.extent(now_ms, name).map(|extent| extent.position);
        memory.adopt(name);
        let stands = |position: &Position, calls: &mut Vec<ArchiveCall>| {
            let (channel, position, keep) = (name.clone(), position.clone(), durability.archive);
            calls.push(ArchiveCall::Stand { channel, position, unix_ms: self.unix_ms, keep });
        };
        let on_disk = known.as_ref().map_or(0, |known| known.offset);
        let Some(found) = found else {
            if let Some(known) = known.filter(|known| known.offset > 0) {
                stands(&known, &mut self.calls);
            }
            return on_disk;
        };
        let same = known.as_ref().filter(|known| known.epoch == found.position.epoch);
        match same {
            Some(known) if found.whole && known.offset == found.position.offset => {}
            // This process alone has given out its offsets, so it goes on, whatever the archive lacks.
            Some(known) if known.offset >= found.position.offset => stands(known, &mut self.calls),
            _ => {
                let position = memory.restore(now_ms, name, durability.memory, &found);
                if !found.whole {
                    self.tally.torn += 1;
                    stands(&position, &mut self.calls);
                }
                if known.is_some() {
                    memory.tell_gap(name, out);
                }
                return position.offset;
            }
        }
        on_disk
    }

    /// Forgets what memory has forgotten, and a channel in which nothing is.
    pub fn follow(&mut self, memory: &mut Memory, name: &Arc<str>) {
        self.forget_gone(memory);
        if let Some(channel) = self.get(name)
            && channel.is_at_rest()
            && !memory.has_stream(name)
        {
            self.drop_channel(name);
        }
    }

    fn forget_gone(&mut self, memory: &mut Memory) {
        if !memory.forgotten.is_empty() {
            for gone in std::mem::take(&mut memory.forgotten) {
                self.forgotten(&gone);
            }
        }
    }

    fn forgotten(&mut self, name: &Arc<str>) {
        let Some(channel) = self.get(name) else { return };
        if channel.is_at_rest() {
            self.drop_channel(name);
        } else if channel.openness != Openness::Opening {
            channel.openness = Openness::Closed;
        }
    }

    /// What comes with time.
    pub fn expire(&mut self, memory: &mut Memory) {
        self.forget_gone(memory);
        while self.room > 0
            && let Some(name) = self.owed.keys().next().cloned()
        {
            self.pay(&name);
        }
    }

    /// Nothing is archived any more: what is owed is told.
    pub fn end(&mut self) {
        self.ended = true;
        let owed: Vec<Arc<str>> = self.owed.keys().cloned().collect();
        owed.iter().for_each(|name| self.pay(name));
    }

    /// Channels that are open, or about to be.
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl DurableChannel {
    /// Nothing of it is under way.
    fn is_at_rest(&self) -> bool {
        self.line.is_empty() && self.reads == 0 && self.openness != Openness::Opening
    }
}

/// Answers a request with an error. Who subscribes counts until it leaves, and nobody is told of it.
fn refuse(memory: &mut Memory, now_ms: u64, request: Request, error: ClientError, out: &mut Told) {
    let asker = match request {
        Request::Subscribe { channel, from, ticket, want } => {
            if want.is_some_and(|want| want.delta) {
                memory.count_delta(&channel);
            }
            let at = out.len();
            memory.handle(now_ms, Request::Subscribe { channel, from, ticket, want: None }, out);
            for (_, event) in &mut out[at..] {
                if let Event::Subscribed { channel, conn, ticket, .. } = event {
                    *event = Event::Refused { channel: channel.clone(), conn: *conn, ticket: *ticket, error };
                }
            }
            return;
        }
        Request::Leave { .. } | Request::Presence { .. } | Request::PresenceStats { .. } => {
            return memory.handle(now_ms, request, out);
        }
        Request::Publish { asker, .. } | Request::History { asker, .. } | Request::RemoveHistory { asker, .. } => asker,
    };
    out.push((asker.into(), Event::Answer { asker, answer: Answer::Refused(error) }));
}
