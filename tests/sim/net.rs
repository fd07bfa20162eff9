//! The network: each connection two pipes that split and delay what they carry, and that can be cut or reset.
//!
//! Time is in steps. What one side sent arrives in order, never before the step that chance gave it.

use crate::rng::Rng;
use std::collections::VecDeque;

pub type LinkId = usize;

/// Pieces that one send is split into, at most.
const PIECES_MAX: usize = 4;

#[derive(Default)]
struct Pipe {
    segments: VecDeque<(u64, Vec<u8>)>,
    queued: usize,
    last_due: u64,
    ended: bool,
    end_due: u64,
}

impl Pipe {
    fn push(&mut self, due: u64, bytes: &[u8]) {
        self.last_due = self.last_due.max(due);
        self.queued += bytes.len();
        self.segments.push_back((self.last_due, bytes.to_vec()));
    }

    fn end(&mut self, due: u64) {
        if !self.ended {
            self.ended = true;
            self.end_due = self.last_due.max(due);
        }
    }

    /// What has arrived, up to `max` bytes.
    fn take(&mut self, step: u64, max: usize) -> Vec<u8> {
        let mut out = Vec::new();
        while out.len() < max
            && let Some((due, bytes)) = self.segments.front_mut()
            && *due <= step
        {
            let count = bytes.len().min(max - out.len());
            out.extend(bytes.drain(..count));
            if bytes.is_empty() {
                self.segments.pop_front();
            }
        }
        self.queued -= out.len();
        out
    }

    fn has_ended(&self, step: u64) -> bool {
        self.ended && self.segments.is_empty() && self.end_due <= step
    }

    fn drop_all(&mut self) {
        self.segments.clear();
        self.queued = 0;
    }
}

struct Link {
    up: Pipe,
    down: Pipe,
    /// Bytes that the server's socket and the way to the client hold.
    room: usize,
    /// Neither side hears of the other again.
    cut: bool,
    broken_off: bool,
}

pub struct Net {
    links: Vec<Link>,
    delay_max: usize,
}

pub enum Read {
    Nothing,
    Bytes(Vec<u8>),
    End,
}

impl Net {
    pub fn new(delay_max: usize) -> Net {
        Net { links: Vec::new(), delay_max }
    }

    pub fn open(&mut self, room: usize) -> LinkId {
        self.links.push(Link { up: Pipe::default(), down: Pipe::default(), room, cut: false, broken_off: false });
        self.links.len() - 1
    }

    // --- the client's end ---

    pub fn send(&mut self, link: LinkId, step: u64, bytes: &[u8], rng: &mut Rng) {
        let it = &mut self.links[link];
        if it.cut || it.up.ended {
            return;
        }
        let mut rest = bytes;
        for _ in 1..rng.within(1, PIECES_MAX) {
            let (piece, left) = rest.split_at(rng.below(rest.len() + 1));
            it.up.push(step + rng.below(self.delay_max) as u64, piece);
            rest = left;
        }
        it.up.push(step + rng.below(self.delay_max) as u64, rest);
    }

    /// Up to `max` bytes, and whether the server's end was reached.
    pub fn receive(&mut self, link: LinkId, step: u64, max: usize) -> (Vec<u8>, bool) {
        let it = &mut self.links[link];
        let bytes = it.down.take(step, max);
        (bytes, it.down.has_ended(step))
    }

    /// Did the server let go before it had said all?
    pub fn was_broken_off(&self, link: LinkId) -> bool {
        self.links[link].broken_off
    }

    /// The client is gone; what it sent arrives, then the end.
    pub fn end(&mut self, link: LinkId, step: u64) {
        self.links[link].up.end(step);
        self.links[link].down.drop_all();
    }

    /// The connection breaks: what is under way is lost, and the server is told.
    pub fn reset(&mut self, link: LinkId, step: u64) {
        self.links[link].up.drop_all();
        self.end(link, step);
    }

    /// The connection breaks, and the server is not told.
    pub fn cut(&mut self, link: LinkId) {
        let it = &mut self.links[link];
        it.cut = true;
        it.up.drop_all();
    }

    // --- the server's end ---

    pub fn read(&mut self, link: LinkId, step: u64, max: usize) -> Read {
        let it = &mut self.links[link];
        let bytes = it.up.take(step, max);
        match bytes.is_empty() {
            false => Read::Bytes(bytes),
            true if it.up.has_ended(step) => Read::End,
            true => Read::Nothing,
        }
    }

    /// Bytes taken; the rest finds no room.
    pub fn write(&mut self, link: LinkId, step: u64, bytes: &[u8], rng: &mut Rng) -> usize {
        let it = &mut self.links[link];
        if it.up.ended {
            // The client listens no more; its kernel throws the bytes away.
            return bytes.len();
        }
        let taken = bytes.len().min(it.room - it.down.queued.min(it.room));
        if taken > 0 {
            it.down.push(if it.cut { u64::MAX } else { step + rng.below(self.delay_max) as u64 }, &bytes[..taken]);
        }
        taken
    }

    /// The server let go of its socket, in the end or in the midst of what it had to say.
    pub fn close(&mut self, link: LinkId, step: u64, in_midst: bool) {
        let it = &mut self.links[link];
        it.broken_off = in_midst;
        it.down.end(step);
        if it.cut {
            it.down.drop_all();
        }
    }

    /// Is nothing under way, no end that the other side has yet to see among it? Cut links do not count.
    pub fn is_quiet(&self) -> bool {
        let still = |link: &Link| link.up.segments.is_empty() && link.down.segments.is_empty();
        self.links.iter().all(|link| {
            link.cut || (link.up.ended && link.down.ended) || (!link.up.ended && !link.down.ended && still(link))
        })
    }
}
