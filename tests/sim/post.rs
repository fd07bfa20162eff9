//! Mail between shards, and from the backend: first in, first out from each sender to each receiver, with delays.

use crate::conns::{BROKEN_EVERY, Breakage};
use crate::rng::Rng;
use gannet::broker::{Event, Extras};
use gannet::protocol::{Publication, delta};
use gannet::shard::Mail;
use std::collections::VecDeque;
use std::sync::Arc;

/// Values under way from each sender to one reactor; the last sender is the backend.
struct Mailbox {
    from: Vec<VecDeque<(u64, Mail)>>,
    len: usize,
}

pub struct Post {
    boxes: Vec<Mailbox>,
    len_max: usize,
    delay_max: usize,
    /// Publications that found a mailbox full.
    pub dropped: u64,
    breakage: Option<Breakage>,
    chances: u32,
}

impl Post {
    pub fn new(reactors: usize, len_max: usize, delay_max: usize, breakage: Option<Breakage>) -> Post {
        let mailbox = || Mailbox { from: (0..=reactors).map(|_| VecDeque::new()).collect(), len: 0 };
        Post { boxes: (0..reactors).map(|_| mailbox()).collect(), len_max, delay_max, dropped: 0, breakage, chances: 0 }
    }

    pub fn is_full(&self, to: usize) -> bool {
        self.boxes[to].len >= self.len_max
    }

    /// Queues all of `mail`, save publications if the mailbox is full: `lost` is shown each of them.
    pub fn send_all(
        &mut self,
        from: usize,
        to: usize,
        step: u64,
        mail: &mut Vec<Mail>,
        rng: &mut Rng,
        mut lost: impl FnMut(&Mail),
    ) {
        let full = self.is_full(to);
        let mut gaps: Vec<Arc<str>> = Vec::new();
        for mut letter in mail.drain(..) {
            if let Mail::Event(Event::Publication { channel, publication, extras }) = &mut letter {
                if full {
                    self.dropped += 1;
                    if publication.offset > 0 && !gaps.contains(channel) {
                        gaps.push(channel.clone());
                    }
                    lost(&letter);
                    continue;
                }
                self.spoil(publication, extras);
            }
            self.push(from, to, step + rng.below(self.delay_max) as u64, letter);
        }
        // As the reactor's own: the gap is told behind what was sent.
        if self.breakage == Some(Breakage::LoseGap) {
            gaps.clear();
        }
        for channel in gaps {
            let gap = Mail::Event(Event::Gap { channel });
            self.push(from, to, step + rng.below(self.delay_max) as u64, gap);
        }
    }

    /// What a broken owner sends.
    fn spoil(&mut self, publication: &mut Arc<Publication>, extras: &mut Option<Box<Extras>>) {
        let kind = self.breakage;
        if kind == Some(Breakage::ShiftOffset) && publication.offset > 0 {
            self.chances += 1;
            Arc::make_mut(publication).offset += u64::from(self.chances.is_multiple_of(BROKEN_EVERY));
        }
        if let (Some(Breakage::WrongDelta), Some(delta)) = (kind, extras.as_mut().and_then(|e| e.delta.as_mut())) {
            self.chances += 1;
            if self.chances.is_multiple_of(BROKEN_EVERY) {
                let base = [b"what others have not", &publication.data[..]].concat();
                *delta = delta::delta(&base, &publication.data).into();
            }
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
        self.chances += u32::from(queue.len() > 1);
        if self.breakage == Some(Breakage::SwapMail) && queue.len() > 1 && self.chances.is_multiple_of(BROKEN_EVERY) {
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
        self.boxes.iter().all(|mailbox| mailbox.len == 0)
    }
}
