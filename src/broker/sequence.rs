//! F3 · The order of a channel that lives elsewhere, as this node hears it.
//!
//! Owns how far the channel's stream was passed on here, what was heard and waits for what should have come before it,
//! and what was passed on while the stream is read for those who recover. Pure: what is heard and what is read go in,
//! [`Emission`]s come out. Knows nothing of subscribers, tickets or time.
//!
//! A publication whose offset follows is passed on. If others should have come first, it is held, and the stream is
//! read after the last one that was passed on: what a connection lost is healed before anybody hears of it. A gap is
//! what the stream no longer has, another life of it, or a stream that went back: a store that loses the end of a
//! stream gives its offsets to other publications. That shows in an offset that was heard before, in a top below what
//! is known, or in another publication at the place of the last one.

use super::{Epoch, Position};
use crate::protocol::Publication;
use bytes::Bytes;
use foldhash::fast::FixedState;
use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::sync::Arc;

/// Of so many publications that were read it is known which they were when they are heard.
const READ_MAX: usize = 128;
/// What a publication that is kept counts for beside its data.
const KEPT_BYTES: usize = 256;
/// The print of a last publication that nobody has seen: a stream that lost its end and was filled again up to the same
/// offset could not be told from the one that was known.
const UNSEEN: u32 = 0;
/// The print where the stream has no publication at its top. Those of publications are odd.
const NONE_THERE: u32 = 2;

/// A publication as it was heard.
#[derive(Debug, Clone, PartialEq)]
pub struct Arrival {
    pub publication: Arc<Publication>,
    /// Its place in the stream, if it has one.
    pub position: Option<Position>,
    /// The data of the one before it, if it is to go as a delta.
    pub previous: Option<Bytes>,
}

/// What the subscribers on this node are told.
#[derive(Debug, Clone, PartialEq)]
pub enum Emission {
    Pass {
        publication: Arc<Publication>,
        previous: Option<Bytes>,
    },
    /// Publications are missing here.
    Gap,
}

/// What one channel may hold.
#[derive(Debug, Clone, Copy)]
pub struct HeldRoom {
    /// Publications.
    pub count: usize,
    pub bytes: usize,
}

/// What was known when a read was asked for: what it finds is held against that.
#[derive(Debug, Clone, Default)]
pub struct Known {
    place: Position,
    print: u32,
    gaps: u32,
    /// Arrivals with lower numbers were held by then.
    number: u64,
}

/// What somebody missed.
#[derive(Debug, Clone, PartialEq)]
pub enum Missed {
    All(Vec<Publication>),
    /// It is too much, or no longer there.
    Lost,
    /// The stream is to be read once more.
    Unknown,
}

#[derive(Debug, Default)]
pub struct Sequence {
    /// The last publication that was passed on; no epoch = not known.
    place: Position,
    /// The highest offset of this life that was heard, not read.
    heard: u64,
    line: Option<Box<Line>>,
    /// Tells the last publication from another at its place.
    print: u32,
    /// How often publications were missing.
    gaps: u32,
}

const _: () = assert!(size_of::<Sequence>() <= 48);

/// What few channels have, or few moments of a channel.
#[derive(Debug, Default)]
struct Line {
    held: VecDeque<Arrival>,
    held_bytes: usize,
    /// The number of the first one held.
    first: u64,
    heal: Heal,
    /// The connection was lost: nothing is passed on before the stream was read since.
    lost: bool,
    /// What was passed on since the first of the reads that are under way.
    tail: VecDeque<Arc<Publication>>,
    tail_bytes: usize,
    /// What was read and not heard so far: offsets and prints of the latest.
    read: VecDeque<(u64, u32)>,
    readers: u32,
    /// The stream went back from here: positions up to it may be of publications that are gone.
    went_back: u64,
}

/// Is the stream to be read after the last publication?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Heal {
    #[default]
    No,
    Wanted,
    /// `again`: what was lost since is not in what is being read.
    Asked {
        again: bool,
    },
}

impl Line {
    fn is_idle(&self) -> bool {
        self.held.is_empty()
            && self.heal == Heal::No
            && !self.lost
            && self.read.is_empty()
            && self.readers == 0
            && self.went_back == 0
    }

    fn take_held(&mut self) -> Option<Arrival> {
        let arrival = self.held.pop_front()?;
        self.first += 1;
        self.held_bytes -= cost(&arrival.publication);
        Some(arrival)
    }
}

fn cost(publication: &Publication) -> usize {
    KEPT_BYTES + publication.data.len()
}

/// What a read found at the top of the stream. `covers`: if a publication is there, it is among those that were found.
fn print_at(top: &Position, found: &[Publication], covers: bool) -> u32 {
    match found.iter().find(|publication| publication.offset == top.offset) {
        Some(last) => print(last),
        None if covers || top.offset == 0 => NONE_THERE,
        None => UNSEEN,
    }
}

fn print(publication: &Publication) -> u32 {
    let by = publication.info.as_ref().map(|info| &info.client);
    FixedState::with_seed(0).hash_one((&publication.data[..], by)) as u32 | 1
}

impl Sequence {
    /// Where the stream stands on this node, if that is known.
    pub fn place(&self) -> Option<&Position> {
        (self.place.epoch != Epoch::NONE).then_some(&self.place)
    }

    /// Bytes that are held or remembered.
    pub fn bytes(&self) -> usize {
        self.line.as_ref().map_or(0, |line| line.held_bytes + line.tail_bytes)
    }

    fn line(&mut self) -> &mut Line {
        self.line.get_or_insert_default()
    }

    /// Something was heard. How many were dropped because there was no room for them.
    pub fn hear(&mut self, arrival: Arrival, room: HeldRoom, out: &mut Vec<Emission>) -> usize {
        let Some(position) = arrival.position.as_ref().filter(|position| position.offset > 0) else {
            if self.line.as_ref().is_some_and(|line| line.lost || !line.held.is_empty()) {
                return self.hold(arrival, room);
            }
            out.push(Emission::Pass { publication: arrival.publication, previous: arrival.previous });
            return 0;
        };
        let offset = position.offset;
        if self.place.epoch == Epoch::NONE {
            self.place = Position { offset: offset - 1, epoch: position.epoch.clone() };
        }
        if position.epoch != self.place.epoch {
            self.doubt();
            return self.hold(arrival, room);
        }
        if offset <= self.place.offset.max(self.heard) && !self.is_passed(offset, &arrival.publication) {
            self.go_back_to(offset - 1, out);
        }
        self.heard = offset;
        if offset > self.place.offset
            && let Some(line) = &mut self.line
        {
            line.read = VecDeque::new();
        }
        let lost = self.line.as_ref().is_some_and(|line| line.lost);
        match offset.checked_sub(self.place.offset) {
            _ if lost => self.hold(arrival, room),
            Some(1) => {
                self.pass(arrival, room, out);
                self.drain(None, room, out);
                self.tidy();
                0
            }
            // It was read before it was heard.
            None | Some(0) => 0,
            Some(_) => {
                self.doubt();
                self.hold(arrival, room)
            }
        }
    }

    /// Is this the one that was passed on with that offset? So it is if it was read, and if nobody knows better.
    fn is_passed(&self, offset: u64, publication: &Publication) -> bool {
        let read = self.line.iter().flat_map(|line| &line.read).find(|(at, _)| *at == offset);
        let last = (offset == self.place.offset && self.print % 2 == 1).then_some(self.print);
        match read.map(|(_, print)| *print).or(last) {
            Some(passed) => passed == print(publication),
            None => offset > self.heard,
        }
    }

    fn hold(&mut self, arrival: Arrival, room: HeldRoom) -> usize {
        let line = self.line();
        let bytes = cost(&arrival.publication);
        if line.held.len() < room.count && line.held_bytes + line.tail_bytes + bytes <= room.bytes {
            line.held_bytes += bytes;
            line.held.push_back(arrival);
            return 0;
        }
        // The stream has them: it is read again.
        let dropped = line.held.len() + 1;
        while line.take_held().is_some() {}
        self.insist();
        dropped
    }

    /// The stream may have more than was heard.
    pub fn doubt(&mut self) {
        if self.place.epoch != Epoch::NONE && self.line.as_ref().is_none_or(|line| line.heal == Heal::No) {
            self.line().heal = Heal::Wanted;
        }
    }

    /// The same, and what is being read already does not count.
    pub fn insist(&mut self) {
        self.doubt();
        if let Some(line) = &mut self.line
            && matches!(line.heal, Heal::Asked { .. })
        {
            line.heal = Heal::Asked { again: true };
        }
    }

    /// The connection was lost and made anew. The store may be another one now, so nothing is passed on before the
    /// stream was read again.
    pub fn lose(&mut self) {
        self.insist();
        if self.is_healing() {
            self.line().lost = true;
        }
    }

    /// Is the stream to be read after the last publication?
    pub fn wants_read(&self) -> bool {
        self.line.as_ref().is_some_and(|line| line.heal == Heal::Wanted)
    }

    /// Is it wanted or under way?
    pub fn is_healing(&self) -> bool {
        self.line.as_ref().is_some_and(|line| line.heal != Heal::No)
    }

    /// It is read: after which offset, which is that of the last but one, so that the last one is seen again.
    pub fn begin_read(&mut self) -> (u64, Known) {
        self.line().heal = Heal::Asked { again: false };
        let asked = self.known();
        (asked.place.offset.saturating_sub(1), asked)
    }

    /// Has nobody seen the last publication? Then a read is to see it, too.
    pub fn is_unseen(&self) -> bool {
        self.print == UNSEEN
    }

    /// What is known now, for any read that is asked for now.
    pub fn known(&self) -> Known {
        let number = self.line.as_ref().map_or(0, |line| line.first + line.held.len() as u64);
        Known { place: self.place.clone(), print: self.print, gaps: self.gaps, number }
    }

    /// The read did not come about: it is wanted still.
    pub fn fail_read(&mut self) {
        if let Some(line) = &mut self.line {
            line.heal = Heal::Wanted;
        }
    }

    /// What was read after the last publication; of `limit` at most.
    pub fn end_read(
        &mut self,
        asked: &Known,
        limit: usize,
        (top, publications): (Position, Vec<Publication>),
        room: HeldRoom,
        out: &mut Vec<Emission>,
    ) {
        let unseen = asked.print == UNSEEN && asked.place.offset > 0;
        let line = self.line();
        let mut again = line.heal == Heal::Asked { again: true };
        line.heal = Heal::No;
        let (lost, whole) = (line.lost, publications.len() < limit);
        let covers = whole && asked.place.offset <= top.offset;
        let first = publications.first().filter(|first| first.offset == asked.place.offset).map(print);
        if !self.saw(asked, &top, (&publications, covers), out) {
            again = true;
        } else if self.gaps == asked.gaps {
            // After a loss nobody can say whether this is the stream whose last publication nobody saw.
            let is_other = if unseen { lost } else { first.is_some_and(|first| first != asked.print) };
            if is_other {
                self.begin_anew(&top, (&publications, covers), out);
            } else {
                if unseen && self.print == UNSEEN && self.place.offset == asked.place.offset {
                    self.print = first.unwrap_or(NONE_THERE);
                }
                self.fill(publications, room, out);
                if whole && self.place.offset < top.offset {
                    // The stream no longer has them.
                    self.gap(out);
                    (self.place.offset, self.print) = (top.offset, NONE_THERE);
                }
                again |= !whole && self.place.offset < top.offset;
                if !again {
                    self.line().lost = false;
                    let at_top = whole || self.place.offset >= top.offset;
                    self.drain(at_top.then_some((asked, top.offset)), room, out);
                }
            }
        }
        if again {
            self.doubt();
        } else if let Some(line) = &mut self.line {
            line.lost = false;
        }
        self.tidy();
    }

    fn fill(&mut self, publications: Vec<Publication>, room: HeldRoom, out: &mut Vec<Emission>) {
        for publication in publications {
            let offset = publication.offset;
            if offset <= self.place.offset {
                continue;
            }
            if offset > self.place.offset + 1 {
                self.gap(out);
            }
            let line = self.line();
            line.read.push_back((offset, print(&publication)));
            if line.read.len() > READ_MAX {
                line.read.pop_front();
            }
            let position = Some(Position { offset, epoch: self.place.epoch.clone() });
            self.pass(Arrival { publication: Arc::new(publication), position, previous: None }, room, out);
        }
    }

    /// A read of the stream, whoever it was for, found it to stand at `top`. `found`: publications, and whether one at
    /// the top is among them if there is one. False if what is known has changed since it was asked for, so that it
    /// must be read again.
    pub fn saw(
        &mut self,
        asked: &Known,
        top: &Position,
        found: (&[Publication], bool),
        out: &mut Vec<Emission>,
    ) -> bool {
        if asked.gaps != self.gaps {
            return false;
        }
        if self.place.epoch == Epoch::NONE {
            self.stand_at(top, found);
            return true;
        }
        let unknown = asked.place.epoch == Epoch::NONE;
        if unknown && self.place.epoch != top.epoch {
            self.doubt();
            return false;
        }
        if self.place.epoch != top.epoch || !unknown && top.offset < asked.place.offset {
            self.begin_anew(top, found, out);
        }
        true
    }

    /// The channel stands at the top of the stream that was read. If nobody saw what is there, it is read.
    fn stand_at(&mut self, top: &Position, (found, covers): (&[Publication], bool)) {
        self.place = top.clone();
        self.print = print_at(top, found, covers);
        if self.print == UNSEEN {
            self.doubt();
        }
    }

    /// The store has another stream than was known: another life, or one that lost its end. What was held of it may be
    /// of either end: it is read from there on.
    fn begin_anew(&mut self, top: &Position, found: (&[Publication], bool), out: &mut Vec<Emission>) {
        let went_back = if top.epoch == self.place.epoch { self.place.offset } else { 0 };
        self.gap(out);
        self.heard = 0;
        self.stand_at(top, found);
        if went_back > 0 || self.line.is_some() {
            let line = self.line();
            line.went_back = if went_back > 0 { line.went_back.max(went_back) } else { 0 };
            line.read = VecDeque::new();
        }
        let first = self.let_go(out).filter(|_| went_back == 0);
        if let Some(first) = first {
            if first <= top.offset {
                (self.place.offset, self.print) = (first - 1, UNSEEN);
            }
            self.doubt();
        }
    }

    /// Nothing is held any more. The lowest offset that was, of the life that is known now.
    fn let_go(&mut self, out: &mut Vec<Emission>) -> Option<u64> {
        let mut lowest = None;
        while let Some(arrival) = self.line.as_mut().and_then(|line| line.take_held()) {
            match &arrival.position {
                None => out.push(Emission::Pass { publication: arrival.publication, previous: arrival.previous }),
                Some(at) if at.epoch == self.place.epoch => {
                    lowest = Some(lowest.map_or(at.offset, |lowest: u64| lowest.min(at.offset)));
                }
                Some(_) => {}
            }
        }
        lowest
    }

    /// An offset came that was heard before: the store lost the end of the stream, and goes on from here.
    fn go_back_to(&mut self, offset: u64, out: &mut Vec<Emission>) {
        let known = self.place.offset.max(self.heard);
        self.gap(out);
        (self.place.offset, self.print) = (offset, UNSEEN);
        let line = self.line();
        line.went_back = line.went_back.max(known);
        line.read = VecDeque::new();
        self.let_go(out);
    }

    fn gap(&mut self, out: &mut Vec<Emission>) {
        out.push(Emission::Gap);
        self.gaps = self.gaps.wrapping_add(1);
        if let Some(line) = &mut self.line {
            line.tail.clear();
            line.tail_bytes = 0;
        }
    }

    /// Passes on what follows, and has its place.
    fn pass(&mut self, arrival: Arrival, room: HeldRoom, out: &mut Vec<Emission>) {
        let Arrival { publication, position, previous } = arrival;
        if let Some(Position { offset, .. }) = position {
            (self.place.offset, self.print) = (offset, print(&publication));
            if let Some(line) = self.line.as_mut().filter(|line| line.readers > 0) {
                line.tail_bytes += cost(&publication);
                line.tail.push_back(publication.clone());
                while line.tail.len() > room.count || line.held_bytes + line.tail_bytes > room.bytes {
                    let Some(oldest) = line.tail.pop_front() else { break };
                    line.tail_bytes -= cost(&oldest);
                }
            }
        }
        out.push(Emission::Pass { publication, previous });
    }

    /// Passes on what is held and follows now. `read`: the stream was read as far as it went, and what was known when
    /// that was asked for: what was held by then and is not in the stream is of none.
    fn drain(&mut self, read: Option<(&Known, u64)>, room: HeldRoom, out: &mut Vec<Emission>) {
        while let Some(line) = &mut self.line
            && let Some(first) = line.held.front()
        {
            let is_over = read.is_some_and(|(known, _)| line.first < known.number);
            let top = read.filter(|_| is_over).map_or(u64::MAX, |(_, top)| top);
            let follows = match &first.position {
                None => true,
                Some(at) if at.epoch != self.place.epoch && is_over => false,
                Some(at) if at.epoch != self.place.epoch => return self.doubt(),
                Some(at) if at.offset == self.place.offset + 1 && at.offset <= top => true,
                Some(at) if at.offset <= self.place.offset || is_over => false,
                Some(_) => return self.doubt(),
            };
            let Some(arrival) = line.take_held() else { return };
            if follows {
                if let Some(at) = &arrival.position {
                    self.heard = self.heard.max(at.offset);
                }
                self.pass(arrival, room, out);
            }
        }
    }

    fn tidy(&mut self) {
        self.line.take_if(|line| line.is_idle());
    }

    /// From now on what is passed on is remembered, for those for whom the stream is read.
    pub fn begin_recovery(&mut self) {
        self.line().readers += 1;
    }

    pub fn end_recovery(&mut self) {
        let line = self.line();
        line.readers = line.readers.saturating_sub(1);
        if line.readers == 0 {
            (line.tail, line.tail_bytes) = (VecDeque::new(), 0);
        }
        self.tidy();
    }

    /// The latest publication: of those that were passed on since the read began, else the one that was read.
    pub fn latest(&self, read: Option<&Publication>) -> Option<Publication> {
        let tail = self.line.as_ref().and_then(|line| line.tail.back());
        let later = tail.filter(|tail| read.is_none_or(|read| read.offset < tail.offset));
        later.map(|latest| (**latest).clone()).or_else(|| read.cloned())
    }

    /// Is what came after `since` in this epoch not what the stream has there now, or nothing yet?
    pub fn is_overtaken(&self, since: u64) -> bool {
        let went_back = self.line.as_ref().map_or(0, |line| line.went_back);
        since > self.place.offset || since <= went_back && went_back > 0
    }

    /// What follows `since` up to the last one passed on, at most `limit`. `read`: what a read after `since` found,
    /// the stream being at `top`.
    pub fn missed(&self, since: u64, limit: usize, read: &[Publication], top: u64) -> Missed {
        let count = self.place.offset.saturating_sub(since);
        if self.is_overtaken(since) || count > limit as u64 {
            return Missed::Lost;
        }
        let mut all = Vec::with_capacity(count as usize);
        let mut next = since + 1;
        let tail = self.line.iter().flat_map(|line| line.tail.iter().map(|publication| &**publication));
        for publication in read.iter().chain(tail).filter(|publication| publication.offset <= self.place.offset) {
            if publication.offset == next {
                all.push(publication.clone());
                next += 1;
            }
        }
        match next > self.place.offset {
            true => Missed::All(all),
            // The stream went as far, and has it no more.
            false if next <= top => Missed::Lost,
            false => Missed::Unknown,
        }
    }
}

#[cfg(test)]
mod tests;
