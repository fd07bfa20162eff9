//! F3 · History and recovery beyond what memory has.
//!
//! Owns the joining of both: a page of the archive ends where memory begins, so nothing is missing and nothing is there
//! twice. A client that recovers is counted as a subscriber first, and begins when what it missed is there:
//! publications that come meanwhile are in memory then.

use super::super::archive::{ArchiveAnswer, ArchiveCall, ArchivePage};
use super::super::engine::Away;
use super::super::memory::{Extent, Memory};
use super::super::{
    Answer, Asker, ConnKey, Event, Found, Gone, Member, Query, Recover, Recovery, Request, Target, Told, Want,
};
use super::{ArchiveTicket, DurableChannels, Openness, refuse};
use crate::broker::Position;
use crate::protocol::Publication;
use crate::protocol::code::ClientError;
use std::sync::Arc;

/// Pages read for one client that recovers, at most: memory forgets while they are read.
const PAGES_MAX: u32 = 16;

/// A history that is read.
#[derive(Debug)]
pub struct HistoryRead {
    pub channel: Arc<str>,
    asker: Asker,
    position: Position,
    /// What memory had of it.
    publications: Vec<Publication>,
    limit: usize,
    /// Publications that were asked of the archive.
    asked: usize,
    reverse: bool,
}

/// A subscriber for whom the archive is read.
#[derive(Debug)]
pub struct Beginner {
    pub channel: Arc<str>,
    conn: ConnKey,
    ticket: u32,
    ask: Recover,
    /// Told of when it begins.
    member: Option<Member>,
    /// What it missed, as far as it was read.
    publications: Vec<Publication>,
    pages: u32,
}

impl DurableChannels {
    /// A read, unless too many are under way.
    fn read(&mut self, channel: &Arc<str>, page: ArchivePage, what: ArchiveTicket) {
        self.reading += 1;
        if let Some(open) = self.get(channel) {
            open.reads += 1;
        }
        let ticket = self.ticket(what);
        self.call(ArchiveCall::Read { ticket, channel: channel.clone(), page });
    }

    fn end_read(&mut self, channel: &str) {
        self.reading -= 1;
        if let Some(open) = self.get(channel) {
            open.reads -= 1;
        }
    }

    /// The stream went back to `top`: what memory had of later publications is told to nobody.
    pub(super) fn take_back_reads(&mut self, name: &Arc<str>, top: u64) {
        for what in self.tickets.values_mut() {
            if let ArchiveTicket::History(read) = what
                && read.channel == *name
            {
                read.position.offset = read.position.offset.min(top);
                read.publications.retain(|publication| publication.offset <= top);
            }
        }
    }

    /// The archive has the same stream as memory.
    fn is_open(&mut self, name: &str) -> bool {
        self.get(name).is_some_and(|channel| channel.openness == Openness::Open)
    }

    fn may_read(&mut self) -> bool {
        let may = self.reading < self.limits.reads;
        self.tally.refused += u64::from(!may);
        may
    }

    pub(super) fn history(
        &mut self,
        memory: &mut Memory,
        now_ms: u64,
        name: &Arc<str>,
        asker: Asker,
        query: Box<Query>,
        out: &mut Told,
    ) {
        let request = Request::History { channel: name.clone(), asker, query: query.clone() };
        self.in_memory(memory, now_ms, request);
        let first = memory.extent(now_ms, name).map_or(0, |extent| extent.first);
        let is_open = self.is_open(name);
        let page = match self.scratch.last() {
            _ if !is_open => None,
            Some((_, Event::Answer { answer: Answer::History(found), .. })) => {
                beyond(&query, first, found.0.offset, found.1.len(), self.limits.page)
            }
            _ => None,
        };
        let Some(page) = page else { return self.say(name, out) };
        if !self.may_read() {
            self.scratch.clear();
            let answer = Answer::Refused(ClientError::TooManyRequests);
            self.scratch.push((asker.into(), Event::Answer { asker, answer }));
            return self.say(name, out);
        }
        let Some((_, Event::Answer { answer: Answer::History(found), .. })) = self.scratch.pop() else { return };
        let (position, publications) = *found;
        let (channel, limit, asked, reverse) = (name.clone(), query.limit, page.limit, query.reverse);
        let read = HistoryRead { channel, asker, position, publications, limit, asked, reverse };
        self.read(name, page, ArchiveTicket::History(Box::new(read)));
    }

    /// The archive's part of a history is there.
    pub(super) fn read_history(&mut self, read: HistoryRead, answer: Result<ArchiveAnswer, Away>, out: &mut Told) {
        self.end_read(&read.channel);
        let HistoryRead { channel, asker, position, mut publications, limit, asked, reverse } = read;
        let answer = match answer {
            Ok(ArchiveAnswer::Page(mut page)) => {
                if reverse {
                    publications.append(&mut page);
                } else if page.len() < asked {
                    page.append(&mut publications);
                    publications = page;
                } else {
                    // There may be more between it and what memory has.
                    publications = page;
                }
                publications.truncate(limit);
                Answer::History(Box::new((position, publications)))
            }
            _ => Answer::Refused(ClientError::Internal),
        };
        self.scratch.push((asker.into(), Event::Answer { asker, answer }));
        self.say(&channel, out);
    }

    /// Somebody subscribes and recovers; what memory has not is read first.
    pub(super) fn subscribe(
        &mut self,
        memory: &mut Memory,
        now_ms: u64,
        (channel, from, ticket): (Arc<str>, ConnKey, u32),
        mut want: Box<Want>,
        out: &mut Told,
    ) {
        let extent = memory.extent(now_ms, &channel);
        let page = want.recover.as_ref().zip(extent).and_then(|(ask, extent)| missing(ask, &extent, self.limits.page));
        let page = page.filter(|_| want.position.is_some() && self.is_open(&channel));
        let Some(page) = page else {
            let want = Some(want);
            self.in_memory(memory, now_ms, Request::Subscribe { channel: channel.clone(), from, ticket, want });
            return self.say(&channel, out);
        };
        if !self.may_read() {
            let request = Request::Subscribe { channel: channel.clone(), from, ticket, want: Some(want) };
            refuse(memory, now_ms, request, ClientError::TooManyRequests, &mut self.scratch);
            return self.say(&channel, out);
        }
        let (ask, member) = (want.recover.take(), want.member.take());
        let Some(ask) = ask else { return };
        let request = Request::Subscribe { channel: channel.clone(), from, ticket, want: Some(want) };
        self.in_memory(memory, now_ms, request);
        // It is told that it begins when what it missed is there.
        self.scratch.retain(|(_, event)| !matches!(event, Event::Subscribed { .. }));
        self.say(&channel, out);
        let publications = Vec::new();
        let beginner = Beginner { channel: channel.clone(), conn: from, ticket, ask, member, publications, pages: 1 };
        self.read(&channel, page, ArchiveTicket::Recover(Box::new(beginner)));
    }

    /// A part of what a client missed is there.
    pub(super) fn read_missed(
        &mut self,
        memory: &mut Memory,
        now_ms: u64,
        mut beginner: Box<Beginner>,
        answer: Result<ArchiveAnswer, Away>,
        out: &mut Told,
    ) {
        self.end_read(&beginner.channel);
        let channel = beginner.channel.clone();
        let Ok(ArchiveAnswer::Page(page)) = answer else {
            return self.begin(memory, now_ms, *beginner, Err(ClientError::Internal), out);
        };
        let extent = memory.extent(now_ms, &channel).filter(|_| self.is_open(&channel));
        let Some(extent) = extent else {
            return self.begin(memory, now_ms, *beginner, Err(ClientError::Internal), out);
        };
        if beginner.ask.cache {
            let recovered = !page.is_empty();
            let known = beginner.ask.offset == extent.position.offset && extent.position.epoch == *beginner.ask.epoch;
            let publications = if known { Vec::new() } else { page };
            return self.begin(
                memory,
                now_ms,
                *beginner,
                Ok(Recovery { recovered, publications, ..Recovery::default() }),
                out,
            );
        }
        let came = page.len();
        let mut next = beginner.ask.offset + 1 + beginner.publications.len() as u64;
        let follows = page.iter().all(|publication| {
            next += 1;
            publication.offset == next - 1
        });
        let reached = next - 1;
        beginner.publications.extend(page);
        let same = beginner.ask.epoch.is_empty() || extent.position.epoch == *beginner.ask.epoch;
        let missed = extent.position.offset.checked_sub(beginner.ask.offset);
        let Some(missed) = missed.filter(|missed| follows && same && *missed <= beginner.ask.most) else {
            return self.begin(memory, now_ms, *beginner, Ok(Recovery::default()), out);
        };
        let limit = beginner.ask.limit;
        if reached + 1 >= extent.first || beginner.publications.len() >= limit {
            let mut publications = std::mem::take(&mut beginner.publications);
            if publications.len() < limit {
                publications.extend(memory.read(&channel, reached + 1));
            }
            publications.truncate(limit);
            let recovery = Recovery { recovered: true, publications, more: missed > limit as u64, from: None };
            return self.begin(memory, now_ms, *beginner, Ok(recovery), out);
        }
        if came == 0 || beginner.pages >= PAGES_MAX {
            return self.begin(memory, now_ms, *beginner, Ok(Recovery::default()), out);
        }
        beginner.pages += 1;
        let page =
            ArchivePage { since: Some(reached), until: extent.first - 1, limit: self.limits.page, reverse: false };
        self.read(&channel, page, ArchiveTicket::Recover(beginner));
    }

    /// A subscriber begins with what it missed, or is told that it cannot.
    fn begin(
        &mut self,
        memory: &mut Memory,
        now_ms: u64,
        beginner: Beginner,
        outcome: Result<Recovery, ClientError>,
        out: &mut Told,
    ) {
        let Beginner { channel, conn, ticket, member, .. } = beginner;
        let position = memory.extent(now_ms, &channel).map(|extent| extent.position);
        let event = match (outcome, position) {
            (Ok(recovery), Some(position)) => {
                let found = Some(Box::new(Found { position, recovery: Some(recovery) }));
                Event::Subscribed { channel: channel.clone(), conn, ticket, found }
            }
            (Err(error), _) => Event::Refused { channel: channel.clone(), conn, ticket, error },
            (Ok(_), None) => Event::Refused { channel: channel.clone(), conn, ticket, error: ClientError::Internal },
        };
        let begins = matches!(event, Event::Subscribed { .. });
        self.scratch.push((Target::Reactor(conn.reactor), event));
        if let Some(member) = member.filter(|_| begins) {
            memory.introduce(&channel, member, &mut self.scratch);
        }
        self.say(&channel, out);
    }

    /// Who leaves before it began was not told of, and will not be.
    pub(super) fn forget_beginner(&mut self, name: &Arc<str>, gone: &mut Gone) {
        if self.get(name).is_none_or(|channel| channel.reads == 0) {
            return;
        }
        let Some(client) = gone.member.as_ref().map(|member| member.client) else { return };
        let waiting = self.tickets.values_mut().find_map(|what| match what {
            ArchiveTicket::Recover(beginner) if beginner.channel == *name => {
                let is_it = beginner.member.as_ref().is_some_and(|member| member.client == client);
                is_it.then_some(beginner)
            }
            _ => None,
        });
        if let Some(beginner) = waiting {
            (beginner.member, gone.member) = (None, None);
        }
    }
}

/// What the archive is asked for a history of which memory found `count` publications; `first`: the oldest that memory
/// has, 0 = there is no stream.
fn beyond(query: &Query, first: u64, top: u64, count: usize, page_max: usize) -> Option<ArchivePage> {
    let since = query.since.as_ref().map(|(offset, _)| *offset);
    if first <= 1 || query.limit == 0 {
        return None;
    }
    let until = first - 1;
    let is_older = match (query.reverse, since) {
        (false, since) => since.is_none_or(|since| since < until),
        // From the one before it, if that was ever there.
        (true, Some(since)) => since > 1 && since <= top.saturating_add(1) && count < query.limit,
        (true, None) => count < query.limit,
    };
    let limit = if query.reverse { query.limit - count } else { query.limit };
    is_older.then_some(ArchivePage { since, until, limit: limit.min(page_max), reverse: query.reverse })
}

/// What the archive is asked for a client that recovers and missed more than memory has.
fn missing(ask: &Recover, extent: &Extent, page_max: usize) -> Option<ArchivePage> {
    let Position { offset: top, epoch } = &extent.position;
    if ask.cache {
        let is_gone = *top > 0 && extent.first > *top;
        return is_gone.then_some(ArchivePage { since: None, until: *top, limit: 1, reverse: true });
    }
    let same = ask.epoch.is_empty() || *epoch == *ask.epoch;
    let missed = top.checked_sub(ask.offset)?;
    let is_deep = same && ask.offset + 1 < extent.first && missed <= ask.most;
    let (since, until) = (Some(ask.offset), extent.first - 1);
    is_deep.then_some(ArchivePage { since, until, limit: page_max.min(ask.limit.max(1)), reverse: false })
}
