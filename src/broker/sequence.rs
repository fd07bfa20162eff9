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
    /// Tells the last publication from another at its place; 0 = not known.
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
        let last = (offset == self.place.offset && self.print != 0).then_some(self.print);
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

    /// It is read: after which offset, which may be that of the last but one, so that the last one is seen again.
    pub fn begin_read(&mut self) -> (u64, Known) {
        self.line().heal = Heal::Asked { again: false };
        let asked = self.known();
        (asked.place.offset.saturating_sub(u64::from(asked.print != 0)), asked)
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
        let line = self.line();
        let mut again = line.heal == Heal::Asked { again: true };
        line.heal = Heal::No;
        let whole = publications.len() < limit;
        let other = |first: &Publication| first.offset == asked.place.offset && print(first) != asked.print;
        if !self.saw(asked, &top, out) {
            again = true;
        } else if self.gaps == asked.gaps {
            if asked.print != 0 && publications.first().is_some_and(other) {
                self.begin_anew(&top, out);
            } else {
                self.fill(publications, room, out);
                if whole && self.place.offset < top.offset {
                    // The stream no longer has them.
                    self.gap(out);
                    (self.place.offset, self.print) = (top.offset, 0);
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

    /// A read of the stream, whoever it was for, found it to stand at `top`. False if what is known has changed since
    /// it was asked for, so that it must be read again.
    pub fn saw(&mut self, asked: &Known, top: &Position, out: &mut Vec<Emission>) -> bool {
        if asked.gaps != self.gaps {
            return false;
        }
        if self.place.epoch == Epoch::NONE {
            self.place = top.clone();
            return true;
        }
        let unknown = asked.place.epoch == Epoch::NONE;
        if unknown && self.place.epoch != top.epoch {
            self.doubt();
            return false;
        }
        if self.place.epoch != top.epoch || !unknown && top.offset < asked.place.offset {
            self.begin_anew(top, out);
        }
        true
    }

    /// The store has another stream than was known: another life, or one that lost its end. What was held of it may be
    /// of either end: it is read from there on.
    fn begin_anew(&mut self, top: &Position, out: &mut Vec<Emission>) {
        let went_back = if top.epoch == self.place.epoch { self.place.offset } else { 0 };
        self.gap(out);
        self.place = top.clone();
        (self.heard, self.print) = (0, 0);
        if went_back > 0 || self.line.is_some() {
            let line = self.line();
            line.went_back = if went_back > 0 { line.went_back.max(went_back) } else { 0 };
            line.read = VecDeque::new();
        }
        let first = self.let_go(out).filter(|_| went_back == 0);
        if let Some(first) = first {
            self.place.offset = top.offset.min(first - 1);
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
        (self.place.offset, self.print) = (offset, 0);
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

    /// What follows `since` up to the last one passed on, at most `limit`. `read`: what a read after `since` found,
    /// the stream being at `top`.
    pub fn missed(&self, since: u64, limit: usize, read: &[Publication], top: u64) -> Missed {
        let went_back = self.line.as_ref().map_or(0, |line| line.went_back);
        let count = self.place.offset.saturating_sub(since);
        if since > self.place.offset || since <= went_back && went_back > 0 || count > limit as u64 {
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ROOM: HeldRoom = HeldRoom { count: 8, bytes: usize::MAX };

    fn publication(text: &str, offset: u64) -> Publication {
        Publication { data: text.to_owned().into(), offset, ..Publication::default() }
    }

    fn at(text: &str, epoch: &str, offset: u64) -> Arrival {
        let position = Some(Position { offset, epoch: epoch.into() });
        Arrival { publication: publication(text, offset).into(), position, previous: None }
    }

    /// What came out, in short: the data, or "gap".
    fn shown(out: &mut Vec<Emission>) -> Vec<String> {
        let show = |emission| match emission {
            Emission::Pass { publication, .. } => String::from_utf8_lossy(&publication.data).into_owned(),
            Emission::Gap => "gap".to_owned(),
        };
        out.drain(..).map(show).collect()
    }

    struct Node {
        sequence: Sequence,
        out: Vec<Emission>,
    }

    impl Node {
        /// At the third publication of the life "e".
        fn at_three() -> Node {
            let mut node = Node { sequence: Sequence::default(), out: Vec::new() };
            assert_eq!(node.hear(at("3", "e", 3)), ["3"]);
            node
        }

        fn hear(&mut self, arrival: Arrival) -> Vec<String> {
            self.sequence.hear(arrival, ROOM, &mut self.out);
            shown(&mut self.out)
        }

        fn end_read(&mut self, known: &Known, top: (&str, u64), found: &[(&str, u64)]) -> Vec<String> {
            let top = Position { offset: top.1, epoch: top.0.into() };
            let found = found.iter().map(|(text, offset)| publication(text, *offset)).collect();
            self.sequence.end_read(known, 4, (top, found), ROOM, &mut self.out);
            shown(&mut self.out)
        }

        fn begin_read(&mut self) -> (u64, Known) {
            assert!(self.sequence.wants_read());
            self.sequence.begin_read()
        }

        fn offset(&self) -> u64 {
            self.sequence.place().map_or(0, |place| place.offset)
        }
    }

    #[test]
    fn what_was_lost_is_read_before_anybody_hears_of_it() {
        let mut node = Node::at_three();
        assert!(node.hear(at("6", "e", 6)).is_empty());
        let (since, known) = node.begin_read();
        assert_eq!((since, node.sequence.wants_read()), (2, false), "the last one is read again");
        assert!(node.hear(at("7", "e", 7)).is_empty() && node.hear(at("9", "e", 9)).is_empty());
        let read = node.end_read(&known, ("e", 6), &[("3", 3), ("4", 4), ("5", 5), ("6", 6)]);
        assert_eq!(read, ["4", "5", "6", "7"], "each once");
        assert!(node.sequence.wants_read(), "8 is lost too");
        assert_eq!(node.hear(at("8", "e", 8)), ["gap", "8"], "never heard after 9 but in a stream that went back");
    }

    #[test]
    fn what_was_read_before_it_was_heard_is_passed_on_once() {
        let mut node = Node::at_three();
        node.sequence.doubt();
        let (_, known) = node.begin_read();
        assert_eq!(node.hear(at("4", "e", 4)), ["4"]);
        assert_eq!(node.end_read(&known, ("e", 5), &[("3", 3), ("4", 4), ("5", 5)]), ["5"]);
        assert!(node.hear(at("5", "e", 5)).is_empty());
        assert_eq!((node.hear(at("6", "e", 6)), node.sequence.bytes()), (vec!["6".to_owned()], 0));
        assert!(node.sequence.line.is_none(), "an idle channel has no line");
    }

    #[test]
    fn nothing_is_passed_on_after_a_loss_before_the_stream_was_read() {
        let mut node = Node::at_three();
        node.sequence.lose();
        let (_, known) = node.begin_read();
        assert!(node.hear(at("4", "e", 4)).is_empty(), "it may be of a store that lost 3");
        node.sequence.lose();
        assert_eq!(node.end_read(&known, ("e", 4), &[("3", 3), ("4", 4)]), ["4"]);
        assert!(node.hear(at("5", "e", 5)).is_empty(), "another loss");
        let (_, known) = node.begin_read();
        assert_eq!(node.end_read(&known, ("e", 5), &[("4", 4), ("5", 5)]), ["5"]);
        assert_eq!((node.hear(at("6", "e", 6)), node.sequence.line.is_none()), (vec!["6".to_owned()], true));
    }

    #[test]
    fn what_the_stream_no_longer_has_is_a_gap() {
        let mut node = Node::at_three();
        node.hear(at("9", "e", 9));
        let (_, known) = node.begin_read();
        assert_eq!(node.end_read(&known, ("e", 9), &[("8", 8), ("9", 9)]), ["gap", "8", "9"]);
        node.hear(at("12", "e", 12));
        let (_, known) = node.begin_read();
        assert_eq!(node.end_read(&known, ("e", 12), &[]), ["gap"], "all of it was removed");
        assert_eq!((node.offset(), node.hear(at("13", "e", 13))), (12, vec!["13".to_owned()]));
    }

    #[test]
    fn another_life_is_a_gap_and_its_publications_go_on() {
        let mut node = Node::at_three();
        assert!(node.hear(at("one", "f", 1)).is_empty());
        let (_, known) = node.begin_read();
        assert!(node.hear(at("two", "f", 2)).is_empty());
        assert_eq!(node.end_read(&known, ("f", 1), &[("one", 1)]), ["gap"]);
        let (since, known) = node.begin_read();
        assert_eq!(
            (since, node.end_read(&known, ("f", 2), &[("one", 1), ("two", 2)])),
            (0, ["one", "two"].map(str::to_owned).to_vec())
        );
        assert!(node.hear(at("4", "e", 4)).is_empty(), "late, of the old one");
        let (_, known) = node.begin_read();
        assert!(node.end_read(&known, ("f", 2), &[("two", 2)]).is_empty());
        assert_eq!((node.hear(at("three", "f", 3)), node.sequence.line.is_none()), (vec!["three".to_owned()], true));
    }

    #[test]
    fn a_stream_that_went_back_is_a_gap_however_it_shows() {
        let mut node = Node::at_three();
        assert_eq!(node.hear(at("other 2", "e", 2)), ["gap", "other 2"], "an offset that was heard before");
        let mut node = Node::at_three();
        node.sequence.lose();
        let (_, known) = node.begin_read();
        assert_eq!(node.end_read(&known, ("e", 1), &[]), ["gap"], "a top below what is known");
        assert_eq!((node.offset(), node.hear(at("other 2", "e", 2))), (1, vec!["other 2".to_owned()]));
        let mut node = Node::at_three();
        node.sequence.lose();
        let (_, known) = node.begin_read();
        let found = [("other 3", 3), ("other 4", 4)];
        assert_eq!(node.end_read(&known, ("e", 4), &found), ["gap"], "another at the place of the last one");
        assert_eq!(node.sequence.missed(3, 100, &[publication("other 4", 4)], 4), Missed::Lost, "3 may be either");
        assert_eq!(node.sequence.missed(4, 100, &[], 4), Missed::All(Vec::new()));
    }

    #[test]
    fn what_finds_no_room_is_read_again() {
        let mut node = Node::at_three();
        for offset in 5..=12 {
            assert_eq!(node.sequence.hear(at("x", "e", offset), ROOM, &mut node.out), 0);
        }
        let (_, known) = node.begin_read();
        assert_eq!(node.sequence.hear(at("13", "e", 13), ROOM, &mut node.out), 9);
        assert_eq!(node.sequence.bytes(), 0);
        assert_eq!(node.end_read(&known, ("e", 6), &[("3", 3), ("4", 4), ("5", 5), ("6", 6)]), ["4", "5", "6"]);
        let (since, known) = node.begin_read();
        assert_eq!((since, node.end_read(&known, ("e", 7), &[("6", 6), ("7", 7)])), (5, vec!["7".to_owned()]));
    }

    #[test]
    fn publications_without_a_place_keep_theirs_in_the_line() {
        let mut node = Node::at_three();
        let plain = |text: &str| Arrival { position: None, ..at(text, "", 0) };
        assert_eq!(node.hear(plain("a")), ["a"]);
        node.hear(at("5", "e", 5));
        assert!(node.hear(plain("b")).is_empty());
        let (_, known) = node.begin_read();
        assert_eq!(node.end_read(&known, ("e", 5), &[("3", 3), ("4", 4), ("5", 5)]), ["4", "5", "b"]);
    }

    #[test]
    fn who_recovers_gets_what_was_read_and_what_was_passed_on_since() {
        let mut node = Node::at_three();
        node.sequence.begin_recovery();
        node.hear(at("4", "e", 4));
        node.hear(at("5", "e", 5));
        let offsets = |missed| -> Vec<u64> {
            match missed {
                Missed::All(all) => all.iter().map(|publication: &Publication| publication.offset).collect(),
                other => panic!("{other:?}"),
            }
        };
        let read = [publication("2", 2), publication("3", 3), publication("4", 4)];
        let missed = |since, limit, read, top| node.sequence.missed(since, limit, read, top);
        assert_eq!(offsets(missed(1, 10, &read, 4)), [2, 3, 4, 5]);
        assert_eq!(offsets(missed(3, 10, &[], 3)), [4, 5]);
        assert_eq!(offsets(missed(5, 0, &[], 3)), [0; 0]);
        assert_eq!(missed(1, 3, &read, 4), Missed::Lost, "too many");
        assert_eq!(missed(0, 10, &read, 4), Missed::Lost, "the first one is gone");
        assert_eq!(missed(6, 10, &[], 4), Missed::Lost, "of another life");
        assert_eq!(missed(1, 10, &read[..1], 2), Missed::Unknown, "3 was never seen");
        assert_eq!(node.sequence.latest(Some(&read[2])).map(|latest| latest.offset), Some(5));
        node.sequence.end_recovery();
        assert_eq!((node.sequence.bytes(), node.sequence.latest(None)), (0, None));
    }

    /// What a store and its connection do.
    #[derive(Debug, Clone, Copy)]
    enum Deed {
        Publish,
        /// The connection carries so many of what waits.
        Carry(u8),
        /// It loses all that waits, and is made anew.
        Lose,
        Read,
        /// A read that was asked for is answered.
        Answer,
        /// The store keeps only the latest.
        Trim(u8),
        /// It begins anew, with nothing.
        Forget,
        /// It loses the end of the stream, and the connection is made anew.
        GoBack(u8),
    }

    fn deed() -> impl Strategy<Value = Deed> {
        prop_oneof![
            8 => Just(Deed::Publish),
            6 => (0u8..4).prop_map(Deed::Carry),
            2 => Just(Deed::Lose),
            4 => Just(Deed::Read),
            4 => Just(Deed::Answer),
            1 => (0u8..6).prop_map(Deed::Trim),
            1 => Just(Deed::Forget),
            1 => (1u8..4).prop_map(Deed::GoBack),
        ]
    }

    #[derive(Default)]
    struct Store {
        epoch: u32,
        top: u64,
        kept: Vec<Publication>,
        made: u32,
        wire: VecDeque<Arrival>,
        /// Numbers of publications that it lost itself: they are owed to nobody.
        lost: Vec<u32>,
    }

    impl Store {
        fn epoch(&self) -> String {
            format!("life {} of a store", self.epoch)
        }

        fn publish(&mut self) {
            (self.made, self.top) = (self.made + 1, self.top + 1);
            let publication = publication(&self.made.to_string(), self.top);
            self.kept.push(publication.clone());
            let position = Some(Position { offset: self.top, epoch: self.epoch().as_str().into() });
            self.wire.push_back(Arrival { publication: publication.into(), position, previous: None });
        }

        fn read(&self, since: u64, limit: usize) -> (Position, Vec<Publication>) {
            let found = self.kept.iter().filter(|publication| publication.offset > since).take(limit).cloned();
            (Position { offset: self.top, epoch: self.epoch().as_str().into() }, found.collect())
        }
    }

    /// What was passed on so far is in order, each once, and follows unless a gap was told.
    #[derive(Default)]
    struct Witness {
        last: Option<u64>,
        told: bool,
        made: u32,
    }

    impl Witness {
        fn look(&mut self, lost: &[u32], out: &mut Vec<Emission>) -> Result<(), TestCaseError> {
            for emission in out.drain(..) {
                let Emission::Pass { publication, .. } = emission else {
                    self.told = true;
                    continue;
                };
                let made: u32 = String::from_utf8_lossy(&publication.data).parse().expect("a number");
                // A stream that went back may be told from its new end once more, behind a gap.
                prop_assert!(made > self.made || self.told, "{made} after {}", self.made);
                let follows = self.last.is_none_or(|last| publication.offset == last + 1);
                prop_assert!(follows || self.told, "{} after {:?}", publication.offset, self.last);
                let owed = (self.made + 1..made).any(|between| !lost.contains(&between));
                prop_assert!(self.told || self.made == 0 || !owed, "{made} after {}", self.made);
                (self.last, self.told, self.made) = (Some(publication.offset), false, made);
            }
            Ok(())
        }
    }

    proptest! {
        /// Whatever a store and a connection do, in whatever order what was read and what was heard come.
        #[test]
        fn all_is_heard_once_and_in_order_or_the_gap_is_told(
            deeds in prop::collection::vec(deed(), 1..120),
            count in 1usize..6,
            limit in 2usize..6,
        ) {
            let room = HeldRoom { count, bytes: usize::MAX };
            let (mut store, mut witness) = (Store { epoch: 1, ..Store::default() }, Witness::default());
            let (mut sequence, mut out) = (Sequence::default(), Vec::new());
            let mut asked: Option<(Known, (Position, Vec<Publication>))> = None;
            let mut went_back = false;
            // The first subscriber's.
            prop_assert!(sequence.saw(&Known::default(), &store.read(0, 0).0, &mut out));
            let mut rest = vec![];
            for _ in 0..60 {
                rest.extend([Deed::Carry(255), Deed::Read, Deed::Answer]);
            }
            for deed in deeds.into_iter().chain([Deed::Lose]).chain(rest) {
                match deed {
                    Deed::Publish => store.publish(),
                    Deed::Carry(count) => {
                        for arrival in store.wire.drain(..store.wire.len().min(usize::from(count))) {
                            sequence.hear(arrival, room, &mut out);
                        }
                    }
                    Deed::Lose => {
                        store.wire.clear();
                        sequence.lose();
                    }
                    Deed::Read if asked.is_none() && sequence.wants_read() => {
                        let (since, known) = sequence.begin_read();
                        asked = Some((known, store.read(since, limit)));
                    }
                    Deed::Answer => {
                        if let Some((known, found)) = asked.take() {
                            sequence.end_read(&known, limit, found, room, &mut out);
                        }
                    }
                    // A store that went back still has what follows, so that it can be compared.
                    Deed::Trim(kept) if !went_back => {
                        let goes = store.kept.len().saturating_sub(usize::from(kept));
                        store.kept.drain(..goes);
                    }
                    Deed::Forget => {
                        let lost = std::mem::take(&mut store.lost);
                        store = Store { epoch: store.epoch + 1, made: store.made, lost, ..Store::default() };
                        sequence.lose();
                    }
                    Deed::GoBack(count) => {
                        went_back = true;
                        let kept = store.kept.len().saturating_sub(usize::from(count));
                        for publication in store.kept.drain(kept..) {
                            store.top -= 1;
                            let text = String::from_utf8_lossy(&publication.data);
                            store.lost.push(text.parse().expect("a number"));
                        }
                        store.wire.clear();
                        sequence.lose();
                    }
                    Deed::Read | Deed::Trim(_) => {}
                }
                witness.look(&store.lost, &mut out)?;
            }
            prop_assert!(!sequence.is_healing(), "it comes to rest");
            prop_assert_eq!(sequence.place(), Some(&store.read(0, 0).0), "where the store is");
            let latest = store.kept.last().map(|publication| String::from_utf8_lossy(&publication.data).into_owned());
            let heard = latest.is_none_or(|latest| latest == witness.made.to_string());
            prop_assert!(heard || witness.told, "{} of {:?}", witness.made, store.kept.last());
            prop_assert_eq!(sequence.line.as_ref().map_or(0, |line| line.held.len()), 0);
        }
    }
}
