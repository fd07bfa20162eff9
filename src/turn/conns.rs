//! F8 · The connections of one reactor: a slab of sockets, each with as little as can be.
//!
//! Owns what a connection is between two turns, its outbox, the input that it holds and its place in the wheel. Knows
//! nothing of the order of a turn, of HTTP paths or of what sessions say. A slot is freed only in [`Conns::reap`], so
//! that an index is not reused inside a turn; the generation tells late answers from other threads.

use super::Socket;
use super::outbox::{Outbox, Wrote};
use super::request::StreamRequest;
use crate::base::wheel::{NEVER, Nodes, TICK_MS, Tick, Wheel, WheelLinks};
use crate::broker::ConnKey;
use crate::session::{Now, Session, Sessions};
use crate::shard::{ConnFacts, Table};
use crate::ws::Decoder;
use bytes::Bytes;
use slab::Slab;
use std::io;

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Reading a request head.
    Head,
    /// A WebSocket whose messages come back.
    Echo,
    /// A WebSocket with a session.
    Client,
    /// Reading the body of a request for a stream.
    Body,
    /// Lines without HTTP, with a session.
    Lines,
    /// A response that does not end, with a session. What the peer says is not listened to.
    Stream,
    /// The last bytes are queued: a close frame, or an HTTP answer. Waits for them to leave and for the peer's end.
    Closing,
    /// To be reaped at the end of the turn.
    Dead,
}

impl Phase {
    /// Does it speak, or listen, beyond a request?
    pub fn is_open(self) -> bool {
        matches!(self, Phase::Echo | Phase::Client | Phase::Lines | Phase::Stream)
    }
}

/// What is so of a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Marks(u16);

impl Marks {
    /// On the list to be flushed.
    const DIRTY: Marks = Marks(1);
    /// The socket took less than it was given: wait for its WRITABLE edge.
    pub const BLOCKED: Marks = Marks(2);
    /// Counted among the sockets: to be taken off.
    pub const ENTERED: Marks = Marks(4);
    /// Admitted as a client: to be dismissed.
    pub const ADMITTED: Marks = Marks(8);
    /// The peer's close frame came, or its end of the stream.
    pub const PEER_CLOSED: Marks = Marks(16);
    /// A close of ours waits for the peer's close frame; otherwise the end of the stream follows it at once.
    pub const AWAITS_CLOSE: Marks = Marks(32);
    /// On the list to be served in the next turn.
    pub const QUEUED: Marks = Marks(64);
    /// The socket may have more to read.
    pub const UNREAD: Marks = Marks(128);
    /// The peer's end of the stream is behind what can be read.
    pub const ENDED: Marks = Marks(256);
    /// Input that was read is held, and not for want of the peer's next bytes.
    pub const HELD: Marks = Marks(512);
    /// Its input waits for answers that this node owes it.
    pub const PAUSED: Marks = Marks(1024);
    /// A ping stands behind replies that this node owes.
    pub const PING_WAITS: Marks = Marks(2048);

    pub fn has(self, other: Marks) -> bool {
        self.0 & other.0 != 0
    }

    pub fn set(&mut self, other: Marks, on: bool) {
        self.0 = if on { self.0 | other.0 } else { self.0 & !other.0 };
    }

    /// Clears `other`; was it set?
    pub fn take(&mut self, other: Marks) -> bool {
        let had = self.has(other);
        self.set(other, false);
        had
    }
}

/// Bytes of a message or frame that came in pieces, and input that waits for its turn.
#[derive(Debug)]
pub struct Partial {
    /// Bytes read that the decoder has not taken.
    pub tail: Vec<u8>,
    /// Parts of the open message, unmasked; or of a request's body.
    pub message: Vec<u8>,
    /// Commands of a message that has begun to be carried out; those from `rest_at` on are still to come.
    pub rest: Vec<u8>,
    pub rest_at: usize,
    /// The request whose body is being read.
    pub request: Option<Box<StreamRequest>>,
    /// When the peer must have sent the rest of what it began.
    pub due: Tick,
    /// Bytes that the socket holds.
    pub sealed: usize,
    /// What it counts for among the bytes held by all connections.
    counted: usize,
}

impl Default for Partial {
    fn default() -> Partial {
        let (tail, message, rest) = (Vec::new(), Vec::new(), Vec::new());
        Partial { tail, message, rest, rest_at: 0, request: None, due: NEVER, sealed: 0, counted: 0 }
    }
}

impl Partial {
    /// Is nothing under way but what `tail` holds?
    pub fn is_idle(&self) -> bool {
        self.message.is_empty() && self.rest.is_empty() && self.request.is_none()
    }

    /// Lets go of commands that were carried out, but for a byte: what follows them does not begin its message.
    pub fn forget_done(&mut self) {
        if self.rest_at > 1 {
            self.rest.drain(..self.rest_at - 1);
            self.rest_at = 1;
        }
    }

    /// Bytes held.
    fn bytes(&self) -> usize {
        self.tail.len() + self.message.len() + self.rest.len() + self.sealed
    }
}

#[derive(Debug)]
pub struct Conn<S> {
    /// None once handed off.
    pub socket: Option<S>,
    generation: u32,
    links: WheelLinks,
    /// When the handshake, the blocked write or the close must be done.
    pub io_due: Tick,
    pub decoder: Decoder,
    /// Its address, as the limit per address counts it.
    pub ip_key: u32,
    pub marks: Marks,
    pub phase: Phase,
    /// The turn in which it was served last, its low bits.
    pub served: u8,
    /// Its messages may be compressed, for a window of so many bits; 0 = they may not.
    pub window_bits: u8,
    /// The minute in which it came, its low bits.
    born: u16,
    pub partial: Option<Box<Partial>>,
    outbox: Option<Box<Outbox>>,
    pub session: Option<Box<Session>>,
}

impl<S> Conn<S> {
    /// The nearest of its deadlines.
    fn due(&self) -> Tick {
        let session = self.session.as_ref().map_or(NEVER, |session| session.next_deadline());
        let partial = self.partial.as_ref().map_or(NEVER, |partial| partial.due);
        self.io_due.min(session).min(partial)
    }
}

/// Outboxes kept for reuse: as many as a slice of a fan-out or a round of pings takes.
const OUTBOXES_MAX: usize = 1024;
/// Partials kept for reuse.
const PARTIALS_MAX: usize = 256;
/// Room that a pooled buffer may keep.
const POOLED_BYTES_MAX: usize = 16 * 1024;

#[derive(Debug)]
pub struct Conns<S> {
    me: u16,
    slab: Slab<Conn<S>>,
    generation: u32,
    wheel: Wheel,
    dirty: Vec<u32>,
    /// Clients that have something to say and wait for more (client.write_delay).
    delayed: Vec<u32>,
    delays: bool,
    dead: Vec<u32>,
    /// Connections whose outbox went over its limit: to be written to, and judged by what is left.
    full: Vec<u32>,
    /// Connections that go on in the next turn, each once.
    queue: Vec<u32>,
    #[expect(clippy::vec_box)] // A box goes from here to a connection and back, which holds 8 bytes.
    outboxes: Vec<Box<Outbox>>,
    #[expect(clippy::vec_box)]
    partials: Vec<Box<Partial>>,
    /// Connections that have a partial, and the bytes in all of them.
    holders: usize,
    held_bytes: usize,
    outbox_bytes_max: usize,
    /// Connections that have an outbox, and the size of all of them.
    speakers: usize,
    output_bytes: usize,
    /// Connections on which a direct write failed.
    failed: Vec<u32>,
    /// Direct writes since they were last asked for.
    direct: Wrote,
    /// Frames queued, and their bytes.
    pub queued: u64,
    pub queued_bytes: u64,
}

/// Borrow helper for the wheel: its nodes are the slab's connections.
struct Linked<'a, S>(&'a mut Slab<Conn<S>>);

impl<S> Nodes for Linked<'_, S> {
    fn links(&mut self, node: u32) -> &mut WheelLinks {
        &mut self.0[node as usize].links
    }
}

impl<S: Socket> Conns<S> {
    /// `outbox_bytes_max`: what may wait for one peer. `delays`: what clients get waits until
    /// [`Conns::release_delayed`].
    pub fn new(me: u16, outbox_bytes_max: usize, delays: bool) -> Conns<S> {
        Conns {
            me,
            slab: Slab::new(),
            generation: 0,
            wheel: Wheel::new(0),
            dirty: Vec::new(),
            delayed: Vec::new(),
            delays,
            dead: Vec::new(),
            full: Vec::new(),
            queue: Vec::new(),
            outboxes: Vec::new(),
            partials: Vec::new(),
            holders: 0,
            held_bytes: 0,
            outbox_bytes_max,
            speakers: 0,
            output_bytes: 0,
            failed: Vec::new(),
            direct: Wrote::default(),
            queued: 0,
            queued_bytes: 0,
        }
    }

    /// What may wait for one peer from now on.
    pub fn set_outbox_max(&mut self, bytes: usize) {
        self.outbox_bytes_max = bytes;
    }

    /// Does anything wait for [`Conns::release_delayed`]?
    pub fn has_delayed(&self) -> bool {
        !self.delayed.is_empty()
    }

    /// What waited is to be flushed.
    pub fn release_delayed(&mut self) {
        self.dirty.append(&mut self.delayed);
    }

    pub fn len(&self) -> usize {
        self.slab.len()
    }

    pub fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }

    /// Looks at connections about to be served, their sessions and outboxes with them.
    pub fn approach_whole(&self, conns: impl Iterator<Item = u32>) {
        self.look_at(conns, |it| {
            let session = it.session.as_ref().map_or(0, |session| session.next_deadline());
            let outbox = it.outbox.as_ref().map_or(0, |outbox| outbox.bytes() as u32);
            it.phase as u32 ^ session ^ outbox
        });
    }

    /// While others were served these fell out of the cache: fetched one at a time, each is waited for; together, all
    /// take as long as one.
    fn look_at(&self, conns: impl Iterator<Item = u32>, look: impl Fn(&Conn<S>) -> u32) {
        let seen = conns.filter_map(|conn| self.slab.get(conn as usize)).fold(0, |seen, it| seen ^ look(it));
        std::hint::black_box(seen);
    }

    /// A socket just accepted; its handshake is due by `io_due`.
    pub fn insert(&mut self, socket: S, ip_key: u32, io_due: Tick) -> u32 {
        self.generation = self.generation.wrapping_add(1);
        let conn = self.slab.insert(Conn {
            socket: Some(socket),
            generation: self.generation,
            links: WheelLinks::default(),
            io_due,
            decoder: Decoder::default(),
            ip_key,
            marks: Marks::ENTERED,
            phase: Phase::Head,
            served: 0,
            window_bits: 0,
            born: 0,
            partial: None,
            outbox: None,
            session: None,
        }) as u32;
        self.arm(conn);
        conn
    }

    /// It came now.
    pub fn came(&mut self, conn: u32, now: Tick) {
        if let Some(it) = self.get(conn) {
            it.born = minute(now);
        }
    }

    pub fn get(&mut self, conn: u32) -> Option<&mut Conn<S>> {
        self.slab.get_mut(conn as usize)
    }

    /// All connections, by index.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Conn<S>)> {
        self.slab.iter().map(|(at, it)| (at as u32, it))
    }

    /// Indices in use lie below this.
    pub fn bound(&self) -> u32 {
        self.slab.capacity() as u32
    }

    // --- deadlines ---

    /// When a timer may be due next.
    pub fn next_due(&mut self) -> Option<Tick> {
        self.wheel.next_due()
    }

    /// Sees to it that the connection's nearest deadline is met.
    pub fn arm(&mut self, conn: u32) {
        let Some(it) = self.slab.get(conn as usize) else { return };
        let due = it.due();
        self.wheel.arm(&mut Linked(&mut self.slab), conn, due);
    }

    /// The same after a deadline moved to a later time. Just now it is in the cache, and so are those that were pinged
    /// with it: to move it is cheaper than to find, later, that nothing is due.
    pub fn rearm(&mut self, conn: u32) {
        self.wheel.disarm(&mut Linked(&mut self.slab), conn);
        self.arm(conn);
    }

    /// The next connection whose deadline may have come; arm it again.
    pub fn pop_due(&mut self, now: Tick) -> Option<u32> {
        self.wheel.pop(&mut Linked(&mut self.slab), now)
    }

    // --- the line of those that go on in the next turn ---

    /// The connection goes on in the next turn, after everyone else.
    pub fn queue(&mut self, conn: u32) {
        if let Some(it) = self.slab.get_mut(conn as usize)
            && !it.marks.has(Marks::QUEUED)
        {
            it.marks.set(Marks::QUEUED, true);
            self.queue.push(conn);
        }
    }

    /// Does any connection wait for the next turn?
    pub fn has_queued(&self) -> bool {
        !self.queue.is_empty()
    }

    /// The line, in its order.
    pub fn queued(&self) -> &[u32] {
        &self.queue
    }

    /// Takes the line, in its order.
    pub fn take_queue(&mut self) -> Vec<u32> {
        for &conn in &self.queue {
            if let Some(it) = self.slab.get_mut(conn as usize) {
                it.marks.set(Marks::QUEUED, false);
            }
        }
        std::mem::take(&mut self.queue)
    }

    // --- what leaves ---

    /// Queues `frame`, unless the connection is past taking any.
    pub fn send(&mut self, conn: u32, frame: Bytes) {
        let len = frame.len() as u64;
        let Some(outbox) = self.outbox(conn) else { return };
        outbox.push(frame);
        let sizes = outbox.recount();
        self.was_queued(conn, len, sizes);
    }

    /// Keeps a place for a reply, which counts for `weight` bytes until it is there.
    pub fn send_hole(&mut self, conn: u32, ticket: u32, weight: u32) {
        if let Some(outbox) = self.outbox(conn) {
            outbox.push_hole(ticket, weight);
        }
        self.count_outbox(conn);
    }

    /// The reply, where its place was kept. Input that waited for it goes on.
    pub fn fill(&mut self, conn: u32, ticket: u32, frame: Bytes) {
        let len = frame.len() as u64;
        let Some(outbox) = self.outbox(conn) else { return };
        if outbox.fill(ticket, frame) {
            let sizes = outbox.recount();
            self.was_queued(conn, len, sizes);
        }
        if let Some(it) = self.slab.get_mut(conn as usize)
            && it.marks.take(Marks::PAUSED)
        {
            self.queue(conn);
        }
    }

    /// A frame of so many bytes was queued; the outbox has grown to the first of `sizes` from the second.
    fn was_queued(&mut self, conn: u32, bytes: u64, sizes: (usize, usize)) {
        self.queued += 1;
        self.queued_bytes += bytes;
        self.has_grown(conn, sizes);
    }

    fn has_grown(&mut self, conn: u32, (size, before): (usize, usize)) {
        self.output_bytes = self.output_bytes + size - before;
        self.mark_dirty(conn);
        if size > self.outbox_bytes_max && self.full.last() != Some(&conn) {
            self.full.push(conn);
            self.hurry(conn);
        }
    }

    /// Counts anew what waits for one peer; what waits for all is in [`Conns::output_bytes`].
    fn count_outbox(&mut self, conn: u32) {
        let Some(outbox) = self.slab.get_mut(conn as usize).and_then(|it| it.outbox.as_mut()) else { return };
        let (size, before) = outbox.recount();
        self.output_bytes = self.output_bytes + size - before;
    }

    /// Writes at once if nothing waits before it. What the socket does not take is queued: `rest` gives the bytes from
    /// there on, to be kept.
    pub fn write_now(&mut self, conn: u32, bytes: &[u8], rest: impl FnOnce(usize) -> Bytes) {
        let Some(it) = self.slab.get_mut(conn as usize) else { return };
        let idle = it.outbox.is_none() && it.phase.is_open();
        let (true, Some(socket)) = (idle, it.socket.as_mut()) else { return self.send(conn, rest(0)) };
        self.direct.calls += 1;
        match socket.write(bytes) {
            Ok(taken) => {
                self.direct.bytes += taken;
                self.queued += 1;
                self.queued_bytes += bytes.len() as u64;
                if taken < bytes.len() {
                    self.send_begun(conn, rest(taken));
                }
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                self.send(conn, rest(0));
            }
            Err(_) => self.failed.push(conn),
        }
    }

    /// What is left of a frame that was written directly.
    fn send_begun(&mut self, conn: u32, rest: Bytes) {
        let Some(outbox) = self.outbox(conn) else { return };
        outbox.push_begun(rest);
        let sizes = outbox.recount();
        self.has_grown(conn, sizes);
    }

    /// Does anything wait to leave?
    pub fn has_outbox(&self, conn: u32) -> bool {
        self.slab.get(conn as usize).is_some_and(|it| it.outbox.is_some())
    }

    /// Bytes that wait to leave.
    pub fn waiting(&self, conn: u32) -> usize {
        self.slab.get(conn as usize).and_then(|it| it.outbox.as_ref()).map_or(0, |outbox| outbox.bytes())
    }

    /// What waits for one peer counts for this much.
    pub fn output_of(&self, conn: u32) -> usize {
        self.slab.get(conn as usize).and_then(|it| it.outbox.as_ref()).map_or(0, |outbox| outbox.size())
    }

    /// The same of all connections.
    pub fn output_bytes(&self) -> usize {
        self.output_bytes
    }

    /// Does as much wait for this peer as for the others on average, or more?
    pub fn has_its_share(&self, conn: u32) -> bool {
        let size = self.output_of(conn);
        size > 0 && size * self.speakers >= self.output_bytes
    }

    /// Is more owed to the client than may be: too many replies, or too much with what waits already?
    pub fn owes_enough(&self, conn: u32, replies_max: usize) -> bool {
        let outbox = self.slab.get(conn as usize).and_then(|it| it.outbox.as_ref());
        outbox.is_some_and(|outbox| {
            outbox.holes() >= replies_max || outbox.owed() > 0 && outbox.owed() + outbox.size() > self.outbox_bytes_max
        })
    }

    fn outbox(&mut self, conn: u32) -> Option<&mut Outbox> {
        let it = self.slab.get_mut(conn as usize)?;
        if matches!(it.phase, Phase::Closing | Phase::Dead) {
            return None;
        }
        Some(it.outbox.get_or_insert_with(|| {
            self.speakers += 1;
            self.outboxes.pop().unwrap_or_default()
        }))
    }

    fn mark_dirty(&mut self, conn: u32) {
        if let Some(it) = self.slab.get_mut(conn as usize)
            && !it.marks.has(Marks::DIRTY)
        {
            it.marks.set(Marks::DIRTY, true);
            match self.delays && matches!(it.phase, Phase::Client | Phase::Lines | Phase::Stream) {
                true => self.delayed.push(conn),
                false => self.dirty.push(conn),
            }
        }
    }

    /// What waits for more is to be flushed at once.
    fn hurry(&mut self, conn: u32) {
        if self.delays {
            self.dirty.push(conn);
        }
    }

    /// Queues the last bytes; whatever comes after them is dropped. `hurry` drops what waits before them too.
    pub fn close_with(&mut self, conn: u32, last: Bytes, due: Tick, hurry: bool) {
        let Some(outbox) = self.outbox(conn) else { return };
        outbox.drop_holes();
        if hurry {
            outbox.clear_unbegun();
        }
        if !last.is_empty() {
            outbox.push(last);
        }
        self.count_outbox(conn);
        self.mark_dirty(conn);
        self.hurry(conn);
        if let Some(it) = self.slab.get_mut(conn as usize) {
            it.phase = Phase::Closing;
            it.io_due = due;
        }
        self.forget_input(conn);
        self.arm(conn);
    }

    /// The reply that is owed first never comes: what stands behind it would be misunderstood without it.
    pub fn cut_at_hole(&mut self, conn: u32) {
        if let Some(outbox) = self.outbox(conn) {
            outbox.cut_at_hole();
            self.count_outbox(conn);
        }
    }

    /// What it said does not matter any more, but for a close frame that may be among frames that were held.
    fn forget_input(&mut self, conn: u32) {
        let Some(it) = self.slab.get_mut(conn as usize) else { return };
        // What came while it was paused lies unread, the peer's close frame perhaps among it.
        let unread = it.marks.take(Marks::PAUSED) && it.marks.has(Marks::UNREAD);
        let frames = it.marks.has(Marks::AWAITS_CLOSE) && it.marks.has(Marks::HELD);
        match it.partial.as_mut().filter(|partial| frames && !partial.tail.is_empty()) {
            Some(partial) => {
                partial.message.clear();
                partial.rest.clear();
                self.count_partial(conn);
                self.queue(conn);
            }
            None => {
                self.give_partial_back(conn);
                // A record that is not whole stays with its socket: the peer's close frame may be in it.
                self.count_sealed(conn);
                self.count_partial(conn);
                if unread {
                    self.queue(conn);
                }
            }
        }
    }

    /// No more of this connection: it is reaped at the end of the turn.
    pub fn kill(&mut self, conn: u32) {
        if let Some(it) = self.slab.get_mut(conn as usize)
            && it.phase != Phase::Dead
        {
            it.phase = Phase::Dead;
            self.dead.push(conn);
        }
    }

    /// What was written directly since the last call, and on which connections that failed.
    pub fn take_direct(&mut self) -> (Wrote, Vec<u32>) {
        (std::mem::take(&mut self.direct), std::mem::take(&mut self.failed))
    }

    /// Takes the list of connections that may be slow.
    pub fn take_full(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.full)
    }

    /// Is more waiting than may? What is owed does not count: the peer cannot take it.
    pub fn is_full(&self, conn: u32) -> bool {
        let outbox = self.slab.get(conn as usize).and_then(|it| it.outbox.as_ref());
        outbox.is_some_and(|outbox| outbox.size() > self.outbox_bytes_max)
    }

    /// Takes the list of connections to flush; give it back with [`Conns::restore_dirty`].
    pub fn take_dirty(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.dirty)
    }

    pub fn restore_dirty(&mut self, mut list: Vec<u32>) {
        list.clear();
        if self.dirty.is_empty() {
            self.dirty = list;
        }
    }

    /// Writes what waits. `Ok(None)` = nothing did. `retry`: try although the socket took no more the last time.
    pub fn flush(&mut self, conn: u32, now: Tick, write_timeout: Tick, retry: bool) -> io::Result<Option<Wrote>> {
        let Some(it) = self.slab.get_mut(conn as usize) else { return Ok(None) };
        it.marks.set(Marks::DIRTY, false);
        if it.marks.has(Marks::BLOCKED) && !retry {
            // The kernel tells when there is much room: to try before takes a call for little.
            return Ok(None);
        }
        let (Some(outbox), Some(socket)) = (it.outbox.as_mut(), it.socket.as_mut()) else { return Ok(None) };
        let wrote = outbox.write(socket)?;
        let (size, before) = outbox.recount();
        self.output_bytes = self.output_bytes + size - before;
        it.marks.set(Marks::BLOCKED, wrote.blocked);
        let rested = if outbox.is_empty() { it.outbox.take() } else { None };
        // Before a handshake is done, and after the end, another deadline holds.
        if it.phase.is_open() {
            // Each byte that the peer takes buys it time.
            it.io_due = match wrote.blocked {
                true if wrote.bytes > 0 || it.io_due == NEVER => now + write_timeout,
                true => it.io_due,
                false => NEVER,
            };
            if wrote.blocked {
                self.arm(conn);
            }
        }
        self.pool_outbox(rested);
        Ok(Some(wrote))
    }

    /// Drops all that waits for a connection that is dead.
    pub fn forget_output(&mut self, conn: u32) {
        let outbox = self.slab.get_mut(conn as usize).and_then(|it| it.outbox.take());
        self.pool_outbox(outbox);
    }

    fn pool_outbox(&mut self, outbox: Option<Box<Outbox>>) {
        let Some(mut outbox) = outbox else { return };
        self.speakers -= 1;
        self.output_bytes -= outbox.recount().1;
        if self.outboxes.len() < OUTBOXES_MAX {
            outbox.reset();
            self.outboxes.push(outbox);
        }
    }

    // --- what came in pieces ---

    /// The connection's buffers for what came in pieces, from the pool.
    pub fn partial(&mut self, conn: u32) -> Option<&mut Partial> {
        let it = self.slab.get_mut(conn as usize)?;
        Some(it.partial.get_or_insert_with(|| {
            self.holders += 1;
            self.partials.pop().unwrap_or_default()
        }))
    }

    /// What its socket holds counts like what is held here.
    pub fn count_sealed(&mut self, conn: u32) {
        let Some(it) = self.slab.get_mut(conn as usize).filter(|it| it.phase != Phase::Dead) else { return };
        let held = it.socket.as_ref().map_or(0, Socket::held);
        match it.partial.as_mut() {
            None if held == 0 => {}
            Some(partial) if held == 0 && partial.sealed > 0 => {
                partial.sealed = 0;
                if partial.is_idle() && partial.tail.is_empty() {
                    self.give_partial_back(conn);
                }
            }
            Some(partial) => partial.sealed = held,
            None => {
                if let Some(partial) = self.partial(conn) {
                    partial.sealed = held;
                }
            }
        }
    }

    /// Counts anew what the connection holds; what all hold is in [`Conns::held_bytes`].
    pub fn count_partial(&mut self, conn: u32) {
        let Some(partial) = self.slab.get_mut(conn as usize).and_then(|it| it.partial.as_mut()) else { return };
        let bytes = partial.bytes();
        self.held_bytes = self.held_bytes + bytes - std::mem::replace(&mut partial.counted, bytes);
    }

    /// Bytes of unfinished messages and waiting input of all connections.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Does the connection hold as much as the others do on average, or more?
    pub fn holds_its_share(&self, conn: u32) -> bool {
        let partial = self.slab.get(conn as usize).and_then(|it| it.partial.as_ref());
        partial.is_some_and(|partial| partial.counted * self.holders >= self.held_bytes)
    }

    /// Gives the buffers back; a connection keeps none between messages.
    pub fn give_partial_back(&mut self, conn: u32) {
        let partial = self.slab.get_mut(conn as usize).and_then(|it| {
            it.marks.set(Marks::HELD, false);
            it.partial.take()
        });
        let Some(mut partial) = partial else { return };
        self.holders -= 1;
        self.held_bytes -= partial.counted;
        if self.partials.len() >= PARTIALS_MAX {
            return;
        }
        (partial.request, partial.rest_at, partial.due) = (None, 0, NEVER);
        (partial.sealed, partial.counted) = (0, 0);
        for buffer in [&mut partial.tail, &mut partial.message, &mut partial.rest] {
            buffer.clear();
            buffer.shrink_to(POOLED_BYTES_MAX);
        }
        self.partials.push(partial);
    }

    /// Frees the slots of the dead; `gone` is told of each.
    pub fn reap(&mut self, mut gone: impl FnMut(u32, Conn<S>)) {
        let mut queued = false;
        while let Some(conn) = self.dead.pop() {
            self.give_partial_back(conn);
            self.wheel.disarm(&mut Linked(&mut self.slab), conn);
            let mut it = self.slab.remove(conn as usize);
            queued |= it.marks.has(Marks::QUEUED);
            self.pool_outbox(it.outbox.take());
            gone(conn, it);
        }
        if queued {
            self.queue.retain(|&conn| self.slab.contains(conn as usize));
        }
    }
}

impl<S> Sessions for Conns<S> {
    fn session(&mut self, conn: u32) -> Option<&mut Session> {
        self.slab.get_mut(conn as usize)?.session.as_deref_mut()
    }
}

impl<S: Socket> Table for Conns<S> {
    fn key(&self, conn: u32) -> Option<ConnKey> {
        let it = self.slab.get(conn as usize)?;
        Some(ConnKey { reactor: self.me, index: conn, generation: it.generation })
    }

    fn take(&mut self, conn: u32) -> Option<Box<Session>> {
        self.slab.get_mut(conn as usize)?.session.take()
    }

    /// Without their sessions, which a delivery does not need.
    fn approach(&self, conns: impl Iterator<Item = u32>) {
        self.look_at(conns, |it| u32::from(it.outbox.is_none()) + u32::from(it.socket.is_none()) + it.phase as u32);
    }

    /// A connection that has nothing else to say in this turn is written to at once: its outbox would be filled only
    /// to be emptied at the flush. What the socket does not take waits like everything else.
    fn deliver(&mut self, conn: u32, frame: &Bytes, alone: bool) {
        if alone && !self.delays {
            self.write_now(conn, frame, |at| frame.slice(at..));
        } else {
            self.send(conn, frame.clone());
        }
    }

    fn bound(&self) -> u32 {
        Conns::bound(self)
    }

    fn owed(&self, conn: u32) -> usize {
        self.waiting(conn)
    }

    fn facts(&self, conn: u32, now: Now) -> ConnFacts {
        let Some(it) = self.slab.get(conn as usize).filter(|it| it.session.is_some()) else {
            return ConnFacts::default();
        };
        let peer = it.socket.as_ref().map_or_else(String::new, Socket::peer);
        ConnFacts { peer, waiting: self.waiting(conn), minutes: minute(now.tick).wrapping_sub(it.born) }
    }
}

/// The low bits of the minute that a tick is in.
fn minute(tick: Tick) -> u16 {
    const TICKS: Tick = (60_000 / TICK_MS) as Tick;
    (tick / TICKS) as u16
}

#[cfg(test)]
mod tests;
