//! The network: each connection two pipes that split and delay what they carry, and that can be cut or reset.
//!
//! The server's end is a [`Socket`] with a bounded buffer, and the poll is edge-triggered as the kernel's: it names a
//! connection when bytes or an end arrived since it was last named, or when there is room again after a write that was
//! cut short. Time is in steps. What one side sent arrives in order, never before the step that chance gave it.
//! Some connections have TLS: what is counted and stamped here is what is said, what pipes hold is what is sealed.

use crate::breakage::Spoiler;
use crate::rng::Rng;
use crate::sealed::{self, ClientEnd, ServerKit};
use gannet::base::wheel::Tick;
use gannet::tls::Tunnel;
use gannet::turn::secured::Secured;
use gannet::turn::{Ready, Socket, Taken};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::rc::Rc;

pub type LinkId = usize;

/// Pieces that one send is split into, at most.
const PIECES_MAX: usize = 4;
/// Bytes on their way to a client that may keep a ping from it.
const ON_THE_WAY: usize = 1000;
/// The kernel tells of room when a third of the buffer is free.
const ROOM_PARTS: usize = 3;
/// Bytes that a client with TLS reads at once.
const SEALED_READ: usize = 1000;

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
        if bytes.is_empty() {
            return;
        }
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

    fn arrived(&self, step: u64) -> usize {
        self.segments.iter().take_while(|(due, _)| *due <= step).map(|(_, bytes)| bytes.len()).sum()
    }

    fn has_ended(&self, step: u64) -> bool {
        self.ended && self.segments.is_empty() && self.end_due <= step
    }

    /// Is the end there, behind what can be read?
    fn ends(&self, step: u64) -> bool {
        self.ended && self.end_due <= step
    }

    fn drop_all(&mut self) {
        self.segments.clear();
        self.queued = 0;
    }
}

/// From when to when something was so, by the ticks of turns.
#[derive(Default)]
struct Periods {
    open: Option<Tick>,
    past: Vec<(Tick, Tick)>,
}

impl Periods {
    fn note(&mut self, tick: Tick, so: bool) {
        match (so, self.open) {
            (true, None) => self.open = Some(tick),
            (false, Some(from)) => {
                self.open = None;
                self.past.push((from, tick));
            }
            _ => {}
        }
    }

    /// Since when it is so at `tick`, if it was so before.
    fn since(&self, tick: Tick) -> Option<Tick> {
        let open = self.open.filter(|from| *from < tick);
        self.past.iter().find(|(from, to)| *from < tick && tick <= *to).map(|(from, _)| *from).or(open)
    }

    fn within(&self, from: Tick, to: Tick) -> bool {
        self.open.is_some_and(|since| since <= to) || self.past.iter().any(|(a, b)| *a <= to && *b >= from)
    }
}

struct Link {
    up: Pipe,
    down: Pipe,
    /// Bytes that the server's socket and the way to the client hold.
    room: usize,
    /// Neither side hears of the other again.
    cut: bool,
    reset: bool,
    broken_off: bool,
    /// The server's last write was cut short, and nothing has told it of room since.
    starved: bool,
    /// The server's last write was cut short, whatever came since.
    cut_short: bool,
    /// Bytes that have arrived in all, as the poll knew when it last named this.
    told: u64,
    told_end: bool,
    /// It was never named.
    fresh: bool,
    /// Bytes that the server's socket gave and took.
    read: u64,
    written: u64,
    /// Bytes that the server heard and said, and those the client said.
    heard: u64,
    said: u64,
    sent: u64,
    /// Up to which byte what the server said was said in which tick.
    stamps: VecDeque<(u64, Tick)>,
    /// With TLS: the client's end, and the server's until its socket is asked for.
    client: Option<Box<ClientEnd>>,
    server: Option<Tunnel>,
    /// The outbox of the connection was not empty when turns ended.
    lags: Periods,
    /// Input of the client lay unread when turns ended.
    unheard: Periods,
    spoiler: Spoiler,
    /// Nothing arrives at the client.
    held: bool,
    /// What the server writes in a step is as late as this says: in how many writes, and to whom first, may be chance
    /// of the process, as the order of maps is.
    seed: u64,
}

struct Inner {
    links: Vec<Link>,
    delay_max: usize,
    rng: Rng,
    step: u64,
    tick: Tick,
    spoiler: Spoiler,
    /// Links with TLS, in a hundred.
    secured: usize,
}

/// Shared by the clients and the sockets of all reactors.
#[derive(Clone)]
pub struct Net(Rc<RefCell<Inner>>);

impl Net {
    /// `secured`: so many links in a hundred have TLS. A spoiler reads what is said, so it goes with none.
    pub fn new(delay_max: usize, seed: u64, spoiler: Spoiler, secured: usize) -> Net {
        let rng = Rng::new(seed);
        Net(Rc::new(RefCell::new(Inner { links: Vec::new(), delay_max, rng, step: 0, tick: 0, spoiler, secured })))
    }

    /// It is this step now.
    pub fn go_on(&self, step: u64, tick: Tick) {
        let mut inner = self.0.borrow_mut();
        (inner.step, inner.tick) = (step, tick);
    }

    pub fn open(&self, room: usize) -> LinkId {
        let mut inner = self.0.borrow_mut();
        let spoiler = inner.spoiler.clone();
        let seed = inner.rng.next();
        let ends = ((seed >> 32) % 100 < inner.secured as u64).then(|| sealed::ends(seed));
        let (server, client) = ends.unzip();
        inner.links.push(Link {
            up: Pipe::default(),
            down: Pipe::default(),
            room,
            cut: false,
            reset: false,
            broken_off: false,
            starved: false,
            cut_short: false,
            told: 0,
            told_end: false,
            fresh: true,
            read: 0,
            written: 0,
            heard: 0,
            said: 0,
            sent: 0,
            stamps: VecDeque::new(),
            client: client.map(Box::new),
            server,
            lags: Periods::default(),
            unheard: Periods::default(),
            spoiler,
            held: false,
            seed,
        });
        inner.links.len() - 1
    }

    /// The server's end of a link.
    pub fn socket(&self, link: LinkId) -> End {
        let tunnel = self.with(link, |it, _| it.server.take());
        let pipe = PipeEnd { net: self.clone(), link };
        End { net: self.clone(), link, socket: Box::new(Secured::new(pipe, tunnel)) }
    }

    fn with<T>(&self, link: LinkId, what: impl FnOnce(&mut Link, u64) -> T) -> T {
        let mut inner = self.0.borrow_mut();
        let step = inner.step;
        what(&mut inner.links[link], step)
    }

    // --- the client's end ---

    /// Where in the client's stream these bytes end.
    pub fn send(&self, link: LinkId, bytes: &[u8]) -> u64 {
        let mut inner = self.0.borrow_mut();
        let Inner { links, rng, step, delay_max, .. } = &mut *inner;
        let it = &mut links[link];
        it.sent += bytes.len() as u64;
        if it.cut || it.up.ended {
            return it.sent;
        }
        let sealed = it.client.as_mut().map(|client| client.seal(bytes));
        let mut rest = sealed.as_deref().unwrap_or(bytes);
        for _ in 1..rng.within(1, PIECES_MAX) {
            let (piece, left) = rest.split_at(rng.below(rest.len() + 1));
            it.up.push(*step + rng.below(*delay_max) as u64, piece);
            rest = left;
        }
        it.up.push(*step + rng.below(*delay_max) as u64, rest);
        it.sent
    }

    /// Up to `max` bytes, and whether the server's end was reached.
    pub fn receive(&self, link: LinkId, max: usize) -> (Vec<u8>, bool) {
        self.with(link, |it, step| {
            if it.held {
                return (Vec::new(), false);
            }
            let Some(client) = &mut it.client else {
                let bytes = it.down.take(step, max);
                return (bytes, it.down.has_ended(step));
            };
            while client.wants(max) && it.down.arrived(step) > 0 {
                client.take(&it.down.take(step, SEALED_READ));
            }
            let (bytes, ended) = (client.read(max), it.down.has_ended(step) && client.is_drained());
            // What does not leave at once of the last word is lost.
            let told = client.heard_last_word() || it.cut_short || it.up.ended;
            assert!(!ended || told, "the server's stream ended without its last word");
            (bytes, ended)
        })
    }

    /// In which tick the server wrote this byte of its stream; earlier ones are not asked for again.
    pub fn stamp(&self, link: LinkId, byte: u64) -> Tick {
        self.with(link, |it, _| {
            while it.stamps.front().is_some_and(|(end, _)| *end <= byte) {
                it.stamps.pop_front();
            }
            it.stamps.front().expect("the server wrote it").1
        })
    }

    /// From when on what was written in `tick` may have waited in the outbox.
    pub fn lag(&self, link: LinkId, tick: Tick) -> Tick {
        self.with(link, |it, _| it.lags.since(tick)).unwrap_or(tick)
    }

    pub fn was_unheard(&self, link: LinkId, from: Tick, to: Tick) -> bool {
        self.with(link, |it, _| it.unheard.within(from, to))
    }

    /// Did the server let go before it had said all?
    pub fn was_broken_off(&self, link: LinkId) -> bool {
        self.with(link, |it, _| it.broken_off)
    }

    /// The client is gone; what it sent arrives, then the end. Of those with TLS half say that this is their end.
    pub fn end(&self, link: LinkId) {
        self.with(link, |it, step| {
            let says = !it.cut && !it.reset && !it.up.ended && it.seed.is_multiple_of(2);
            if let Some(client) = it.client.as_mut().filter(|_| says) {
                it.up.push(step, &client.last_word());
            }
            it.up.end(step);
            it.down.drop_all();
        });
    }

    /// The connection breaks: what is under way is lost, and the server is told.
    pub fn reset(&self, link: LinkId) {
        self.with(link, |it, _| {
            it.up.drop_all();
            it.reset = true;
        });
        self.end(link);
    }

    /// The connection breaks, and the server is not told.
    pub fn cut(&self, link: LinkId) {
        self.with(link, |it, _| {
            it.cut = true;
            it.up.drop_all();
        });
    }

    // --- the server's end ---

    /// What the poll says of a link, if it says anything.
    pub fn poll(&self, conn: u32, link: LinkId) -> Option<Ready> {
        self.with(link, |it, step| {
            let unread = it.up.arrived(step);
            let (arrived, ended) = (it.read + unread as u64, !it.cut && it.up.ends(step));
            let free = it.room - it.down.queued.min(it.room);
            let roomy = it.starved && (free >= it.room / ROOM_PARTS || it.up.ended);
            if arrived == it.told && ended == it.told_end && !roomy && !it.fresh {
                return None;
            }
            (it.told, it.told_end, it.fresh) = (arrived, ended, false);
            it.starved &= !roomy;
            let broken = it.reset && ended;
            Some(Ready { conn, readable: unread > 0 || ended, writable: free > 0 && !it.starved, ended, broken })
        })
    }

    /// Bytes of what was said on a link that the server has read.
    pub fn read_bytes(&self, link: LinkId) -> u64 {
        self.with(link, |it, _| it.heard)
    }

    /// Bytes that the server said on a link.
    pub fn written_bytes(&self, link: LinkId) -> u64 {
        self.with(link, |it, _| it.said)
    }

    /// Bytes of the client's that the server has not read.
    pub fn unread_bytes(&self, link: LinkId) -> usize {
        self.with(link, |it, _| it.up.queued)
    }

    /// From here on nothing arrives at the client, or what was held back.
    pub fn hold(&self, link: LinkId, on: bool) {
        self.with(link, |it, _| it.held = on);
    }

    /// What a turn left of the connection: bytes to write, and input that it has not looked at.
    pub fn note(&self, link: LinkId, tick: Tick, waits: bool, unheard: bool) {
        self.with(link, |it, _| {
            it.lags.note(tick, waits);
            it.unheard.note(tick, unheard || it.down.queued > ON_THE_WAY);
        });
    }

    /// Links on which something is under way, for a simulation that does not come to rest.
    pub fn unrest(&self) -> Vec<String> {
        let links = &self.0.borrow().links;
        let shown =
            links.iter().enumerate().filter(|(_, it)| !(it.cut || it.up.ended && it.down.ended)).map(|(at, it)| {
                let Link { up, down, starved, .. } = it;
                format!("{at}: up {} {} down {} {} {starved}", up.queued, up.ended, down.queued, down.ended)
            });
        shown.collect()
    }

    /// Is nothing under way, no end that the other side has yet to see among it? Cut links do not count.
    pub fn is_quiet(&self) -> bool {
        let still = |link: &Link| link.up.segments.is_empty() && link.down.segments.is_empty();
        self.0.borrow().links.iter().all(|link| {
            link.cut || (link.up.ended && link.down.ended) || (!link.up.ended && !link.down.ended && still(link))
        })
    }
}

/// The server's end of a link, which ends with it. What is said is counted here, whatever it is sealed in.
pub struct End {
    net: Net,
    pub link: LinkId,
    socket: Box<Secured<PipeEnd, ServerKit>>,
}

impl Socket for End {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let count = self.socket.read(room)?;
        self.net.with(self.link, |it, _| it.heard += count as u64);
        Ok(count)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_several(&[IoSlice::new(bytes)])
    }

    fn write_several(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let taken = self.socket.write_several(pieces)?;
        let tick = self.net.0.borrow().tick;
        self.net.with(self.link, |it, _| {
            // What a spoiler makes of it counts as it is.
            it.said = if it.client.is_some() { it.said + taken as u64 } else { it.written };
            it.stamps.push_back((it.said, tick));
        });
        Ok(taken)
    }

    fn end(&mut self) {
        self.socket.end();
    }

    fn taken(&self) -> Option<Taken> {
        self.socket.taken()
    }

    fn has_more(&self, count: usize, room: usize) -> bool {
        self.socket.has_more(count, room)
    }

    fn held(&self) -> usize {
        self.socket.held()
    }

    fn is_cut(&self) -> bool {
        self.socket.is_cut()
    }

    fn close(&mut self) {
        self.socket.close();
    }
}

/// The bytes of a link as the server's kernel has them.
struct PipeEnd {
    net: Net,
    link: LinkId,
}

impl Socket for PipeEnd {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        self.net.with(self.link, |it, step| {
            if it.reset && it.up.ends(step) {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            let bytes = it.up.take(step, room.len());
            room[..bytes.len()].copy_from_slice(&bytes);
            it.read += bytes.len() as u64;
            match bytes.is_empty() {
                true if it.cut || !it.up.has_ended(step) => Err(io::ErrorKind::WouldBlock.into()),
                _ => Ok(bytes.len()),
            }
        })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut inner = self.net.0.borrow_mut();
        let Inner { links, step, delay_max, .. } = &mut *inner;
        let it = &mut links[self.link];
        if it.reset && it.up.ends(*step) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let free = it.room - it.down.queued.min(it.room);
        // A client that listens no more has a kernel that throws the bytes away.
        let taken = if it.up.ended { bytes.len() } else { bytes.len().min(free) };
        it.starved = taken < bytes.len();
        it.cut_short = it.starved;
        if taken == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let sent = it.spoiler.pass(&bytes[..taken]);
        it.written += sent.len() as u64;
        if !it.up.ended && !sent.is_empty() {
            it.down.push(
                if it.cut { u64::MAX } else { *step + Rng::new(it.seed ^ *step).below(*delay_max) as u64 },
                &sent,
            );
        }
        Ok(taken)
    }

    fn write_several(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let all: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
        self.write(&all)
    }

    fn taken(&self) -> Option<Taken> {
        let (waiting, written) = self.net.with(self.link, |it, _| (it.down.queued, it.written));
        Some(Taken { acknowledged: written.saturating_sub(waiting as u64), waiting })
    }

    fn end(&mut self) {
        self.net.with(self.link, |it, step| it.down.end(step));
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.net.with(self.link, |it, step| {
            (it.broken_off, it.held) = (it.starved, false);
            it.down.end(step);
            if it.cut {
                it.down.drop_all();
            }
        });
    }
}
