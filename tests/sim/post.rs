//! Mail between shards, and from the backend: first in, first out from each sender to each receiver, with delays.

use crate::breakage::{Breakage, Chances};
use crate::rng::Rng;
use gannet::broker::{Event, Extras};
use gannet::protocol::{Publication, delta};
use gannet::shard::Mail;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Values under way from each sender to one reactor; the last sender is the backend.
struct Mailbox {
    from: Vec<VecDeque<(u64, Mail)>>,
    len: usize,
    /// Values that the reactor took out and has not carried out yet: they count.
    kept: usize,
}

pub struct Post {
    boxes: Vec<Mailbox>,
    len_max: usize,
    delay_max: usize,
    /// Publications, joins and leaves that found a mailbox full, as the reactors count them.
    pub dropped: u64,
    /// By whom and for whom, and the last step in which it happened.
    lost: BTreeMap<(u16, u16), u64>,
    chances: Chances,
}

impl Post {
    pub fn new(reactors: usize, len_max: usize, delay_max: usize, chances: Chances) -> Post {
        let mailbox = || Mailbox { from: (0..=reactors).map(|_| VecDeque::new()).collect(), len: 0, kept: 0 };
        let boxes = (0..reactors).map(|_| mailbox()).collect();
        Post { boxes, len_max, delay_max, dropped: 0, lost: BTreeMap::new(), chances }
    }

    /// So many values of `from` found the mailbox of `to` full.
    pub fn note_lost(&mut self, from: u16, to: u16, step: u64) {
        self.lost.insert((from, to), step);
    }

    /// May anything of the channels of `from` be missing at `to`, that was said since this step?
    pub fn has_lost(&self, from: u16, to: u16, since: u64) -> bool {
        self.lost.get(&(from, to)).is_some_and(|step| *step >= since)
    }

    pub fn is_full(&self, to: usize) -> bool {
        let mailbox = &self.boxes[to];
        mailbox.len + mailbox.kept >= self.len_max
    }

    /// What `to` took out and has not carried out yet.
    pub fn keep(&mut self, to: usize, kept: usize) {
        self.boxes[to].kept = kept;
    }

    /// From one reactor to another; what must not arrive was taken out of it before.
    pub fn send(&mut self, from: usize, to: usize, step: u64, mail: Vec<Mail>, rng: &mut Rng) {
        for mut letter in mail {
            match &mut letter {
                Mail::Event(Event::Publication { publication, extras, .. }) => self.spoil(publication, extras),
                Mail::Event(Event::Gap { .. }) if self.chances.is(Breakage::LoseGap) => continue,
                Mail::Event(Event::Join { .. } | Event::Leave { .. })
                    if self.dropped > 0 && self.chances.breaks(Breakage::LoseJoin) =>
                {
                    continue;
                }
                _ => {}
            }
            self.push(from, to, step + rng.below(self.delay_max) as u64, letter);
        }
    }

    /// What a broken owner sends.
    fn spoil(&mut self, publication: &mut Arc<Publication>, extras: &mut Option<Box<Extras>>) {
        if publication.offset > 0 && self.chances.breaks(Breakage::ShiftOffset) {
            Arc::make_mut(publication).offset += 1;
        }
        if let Some(delta) = extras.as_mut().and_then(|e| e.delta.as_mut())
            && self.chances.breaks(Breakage::WrongDelta)
        {
            let base = [b"what others have not", &publication.data[..]].concat();
            *delta = delta::delta(&base, &publication.data).into();
        }
    }

    /// From the backend, what must not be lost.
    pub fn deliver(&mut self, to: usize, step: u64, mail: Mail, rng: &mut Rng) {
        self.push(self.boxes.len(), to, step + rng.below(self.delay_max) as u64, mail);
    }

    /// From the backend, which takes no for an answer.
    pub fn offer(&mut self, to: usize, step: u64, mail: Mail, rng: &mut Rng) -> bool {
        if self.is_full(to) {
            return false;
        }
        let backend = self.boxes.len();
        self.push(backend, to, step + rng.below(self.delay_max) as u64, mail);
        true
    }

    fn push(&mut self, from: usize, to: usize, due: u64, mail: Mail) {
        let mailbox = &mut self.boxes[to];
        let due = mailbox.from[from].back().map_or(due, |(last, _)| due.max(*last));
        let queue = &mut mailbox.from[from];
        queue.push_back((due, mail));
        mailbox.len += 1;
        if queue.len() > 1 && self.chances.breaks(Breakage::SwapMail) {
            let last = queue.len() - 1;
            queue.swap(last - 1, last);
        }
    }

    /// What has arrived, the senders in an order of chance.
    pub fn drain(&mut self, to: usize, step: u64, rng: &mut Rng) -> Vec<Mail> {
        let mailbox = &mut self.boxes[to];
        let mut order: Vec<usize> = (0..mailbox.from.len()).collect();
        rng.shuffle(&mut order);
        let mut out = Vec::new();
        for from in order {
            let queue = &mut mailbox.from[from];
            while queue.front().is_some_and(|(due, _)| *due <= step) {
                out.extend(queue.pop_front().map(|(_, mail)| mail));
            }
        }
        mailbox.len -= out.len();
        out
    }

    pub fn is_empty(&self) -> bool {
        self.boxes.iter().all(|mailbox| mailbox.len == 0 && mailbox.kept == 0)
    }
}
