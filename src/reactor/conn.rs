//! F10 · The connections of one reactor: a slab of sockets, each with as little as can be.
//!
//! Owns what a connection is between two loop turns, its outbox and its place in the wheel. Knows nothing of the loop,
//! of HTTP paths or of what sessions say. A slot is freed only in [`Conns::reap`], so that an index is not reused
//! inside a turn; the generation tells late answers from other threads.

use super::outbox::{Outbox, Wrote, write};
use super::stream::StreamRequest;
use crate::base::wheel::{NEVER, Nodes, Tick, Wheel, WheelLinks};
use crate::broker::ConnKey;
use crate::session::{Session, Sessions};
use crate::shard::Table;
use crate::ws::Decoder;
use bytes::Bytes;
use slab::Slab;
use std::io;
use std::net::TcpStream;

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
    /// A response that does not end, with a session. What the peer says is not listened to.
    Stream,
    /// The last bytes are queued: a close frame, or an HTTP answer. Waits for them to leave and for the peer's end.
    Closing,
    /// To be reaped at the end of the turn.
    Dead,
}

/// Bytes of a message or frame that came in pieces.
#[derive(Debug, Default)]
pub struct Partial {
    /// Bytes read that the decoder cannot take yet.
    pub tail: Vec<u8>,
    /// Parts of the open message, unmasked; or of a request's body.
    pub message: Vec<u8>,
    /// The request whose body is being read.
    pub request: Option<Box<StreamRequest>>,
}

impl Partial {
    /// Is nothing under way but what `tail` holds?
    pub fn is_idle(&self) -> bool {
        self.message.is_empty() && self.request.is_none()
    }
}

#[derive(Debug)]
pub struct Conn {
    /// None once handed off.
    pub stream: Option<TcpStream>,
    generation: u32,
    links: WheelLinks,
    /// When the handshake, the blocked write or the close must be done.
    pub io_due: Tick,
    pub decoder: Decoder,
    /// Its address, as the limit per address counts it.
    pub ip_key: u32,
    pub phase: Phase,
    /// On the list to be flushed.
    dirty: bool,
    /// The socket took less than it was given: wait for its WRITABLE edge.
    pub blocked: bool,
    /// Counted among the sockets: to be taken off.
    pub entered: bool,
    /// Admitted as a client: to be dismissed.
    pub admitted: bool,
    /// The peer's close frame came, or its end of the stream.
    pub peer_closed: bool,
    /// A close of ours waits for the peer's close frame; otherwise the end of the stream follows it at once.
    pub awaits_close: bool,
    /// Its messages may be compressed, for a window of so many bits; 0 = they may not.
    pub window_bits: u8,
    pub partial: Option<Box<Partial>>,
    outbox: Option<Box<Outbox>>,
    pub session: Option<Box<Session>>,
}

// One of these for each socket: docs/memory.md has the sum.
const _: () = assert!(size_of::<Conn>() <= 96);

/// Outboxes kept for reuse: as many as a slice of a fan-out or a round of pings takes.
const OUTBOXES_MAX: usize = 1024;
/// Partials kept for reuse.
const PARTIALS_MAX: usize = 256;
/// Room that a pooled buffer may keep.
const POOLED_BYTES_MAX: usize = 16 * 1024;

#[derive(Debug)]
pub struct Conns {
    me: u16,
    slab: Slab<Conn>,
    generation: u32,
    wheel: Wheel,
    dirty: Vec<u32>,
    /// Clients that have something to say and wait for more (client.write_delay).
    held: Vec<u32>,
    holds: bool,
    dead: Vec<u32>,
    /// Connections whose outbox went over its limit: to be written to, and judged by what is left.
    full: Vec<u32>,
    #[expect(clippy::vec_box)] // A box goes from here to a connection and back, which holds 8 bytes.
    outboxes: Vec<Box<Outbox>>,
    #[expect(clippy::vec_box)]
    partials: Vec<Box<Partial>>,
    outbox_bytes_max: usize,
    /// Connections on which a direct write failed.
    failed: Vec<u32>,
    /// Direct writes since they were last asked for.
    direct: Wrote,
    /// Frames queued.
    pub queued: u64,
}

/// Borrow helper for the wheel: its nodes are the slab's connections.
struct Linked<'a>(&'a mut Slab<Conn>);

impl Nodes for Linked<'_> {
    fn links(&mut self, node: u32) -> &mut WheelLinks {
        &mut self.0[node as usize].links
    }
}

impl Conns {
    pub fn new(me: u16, now: Tick, outbox_bytes_max: usize) -> Conns {
        Conns {
            me,
            slab: Slab::new(),
            generation: 0,
            wheel: Wheel::new(now),
            dirty: Vec::new(),
            held: Vec::new(),
            holds: false,
            dead: Vec::new(),
            full: Vec::new(),
            outboxes: Vec::new(),
            partials: Vec::new(),
            outbox_bytes_max,
            failed: Vec::new(),
            direct: Wrote::default(),
            queued: 0,
        }
    }

    /// From here on what clients get waits until [`Conns::release_held`].
    pub fn hold(&mut self) {
        self.holds = true;
    }

    /// Does anything wait for that?
    pub fn has_held(&self) -> bool {
        !self.held.is_empty()
    }

    /// What waited is to be flushed.
    pub fn release_held(&mut self) {
        self.dirty.append(&mut self.held);
    }

    pub fn len(&self) -> usize {
        self.slab.len()
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
    fn look_at(&self, conns: impl Iterator<Item = u32>, look: impl Fn(&Conn) -> u32) {
        let seen = conns.filter_map(|conn| self.slab.get(conn as usize)).fold(0, |seen, it| seen ^ look(it));
        std::hint::black_box(seen);
    }

    pub fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }

    /// A socket just accepted; its handshake is due by `io_due`.
    pub fn insert(&mut self, stream: TcpStream, ip_key: u32, io_due: Tick) -> u32 {
        self.generation = self.generation.wrapping_add(1);
        let conn = self.slab.insert(Conn {
            stream: Some(stream),
            generation: self.generation,
            links: WheelLinks::default(),
            io_due,
            decoder: Decoder::default(),
            ip_key,
            phase: Phase::Head,
            dirty: false,
            blocked: false,
            entered: true,
            admitted: false,
            peer_closed: false,
            awaits_close: false,
            window_bits: 0,
            partial: None,
            outbox: None,
            session: None,
        }) as u32;
        self.arm(conn);
        conn
    }

    pub fn get(&mut self, conn: u32) -> Option<&mut Conn> {
        self.slab.get_mut(conn as usize)
    }

    /// Indices in use lie below this.
    pub fn bound(&self) -> u32 {
        self.slab.capacity() as u32
    }

    /// When a timer may be due next.
    pub fn next_due(&mut self) -> Option<Tick> {
        self.wheel.next_due()
    }

    /// Sees to it that the connection's nearest deadline is met.
    pub fn arm(&mut self, conn: u32) {
        let Some(it) = self.slab.get(conn as usize) else { return };
        let due = it.io_due.min(it.session.as_ref().map_or(NEVER, |session| session.next_deadline()));
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

    /// Queues `frame`, unless the connection is past taking any.
    pub fn send(&mut self, conn: u32, frame: Bytes) {
        let max = self.outbox_bytes_max;
        let Some(outbox) = self.outbox(conn) else { return };
        outbox.push(frame);
        let full = outbox.bytes() > max;
        self.queued += 1;
        self.mark_dirty(conn);
        if full && self.full.last() != Some(&conn) {
            self.full.push(conn);
            self.hurry(conn);
        }
    }

    pub fn send_hole(&mut self, conn: u32, ticket: u32) {
        let max = self.outbox_bytes_max;
        let Some(outbox) = self.outbox(conn) else { return };
        outbox.push_hole(ticket);
        if outbox.bytes() > max {
            self.full.push(conn);
            self.hurry(conn);
        }
    }

    pub fn fill(&mut self, conn: u32, ticket: u32, frame: Bytes) {
        if self.outbox(conn).is_some_and(|outbox| outbox.fill(ticket, frame)) {
            self.queued += 1;
            self.mark_dirty(conn);
        }
    }

    /// Writes at once if nothing waits before it. What the socket does not take is queued: `rest` gives the bytes from
    /// there on, to be kept.
    pub fn write_now(&mut self, conn: u32, bytes: &[u8], rest: impl FnOnce(usize) -> Bytes) {
        let Some(it) = self.slab.get(conn as usize) else { return };
        let idle = it.outbox.is_none() && matches!(it.phase, Phase::Echo | Phase::Client | Phase::Stream);
        let (true, Some(stream)) = (idle, it.stream.as_ref()) else { return self.send(conn, rest(0)) };
        self.direct.calls += 1;
        match write(stream, bytes) {
            Ok(taken) => {
                self.direct.bytes += taken;
                self.queued += 1;
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
        if let Some(outbox) = self.outbox(conn) {
            outbox.push_begun(rest);
            self.mark_dirty(conn);
        }
    }

    /// Does anything wait to leave?
    pub fn has_outbox(&self, conn: u32) -> bool {
        self.slab.get(conn as usize).is_some_and(|it| it.outbox.is_some())
    }

    fn outbox(&mut self, conn: u32) -> Option<&mut Outbox> {
        let it = self.slab.get_mut(conn as usize)?;
        if matches!(it.phase, Phase::Closing | Phase::Dead) {
            return None;
        }
        Some(it.outbox.get_or_insert_with(|| self.outboxes.pop().unwrap_or_default()))
    }

    fn mark_dirty(&mut self, conn: u32) {
        if let Some(it) = self.slab.get_mut(conn as usize)
            && !std::mem::replace(&mut it.dirty, true)
        {
            match self.holds && matches!(it.phase, Phase::Client | Phase::Stream) {
                true => self.held.push(conn),
                false => self.dirty.push(conn),
            }
        }
    }

    /// What waits for more is to be flushed at once.
    fn hurry(&mut self, conn: u32) {
        if self.holds {
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
        outbox.push(last);
        self.mark_dirty(conn);
        self.hurry(conn);
        if let Some(it) = self.slab.get_mut(conn as usize) {
            it.phase = Phase::Closing;
            it.io_due = due;
        }
        self.give_partial_back(conn);
        self.arm(conn);
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

    /// Is more waiting than may?
    pub fn is_full(&self, conn: u32) -> bool {
        let outbox = self.slab.get(conn as usize).and_then(|it| it.outbox.as_ref());
        outbox.is_some_and(|outbox| outbox.bytes() > self.outbox_bytes_max)
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

    /// Writes what waits. `Ok(None)` = nothing did.
    pub fn flush(&mut self, conn: u32, now: Tick, write_timeout: Tick) -> io::Result<Option<Wrote>> {
        let Some(it) = self.slab.get_mut(conn as usize) else { return Ok(None) };
        it.dirty = false;
        if it.blocked {
            // To try before the kernel says that there is room would only be told no.
            return Ok(None);
        }
        let (Some(outbox), Some(stream)) = (it.outbox.as_mut(), it.stream.as_ref()) else { return Ok(None) };
        let wrote = outbox.write(stream)?;
        it.blocked = wrote.blocked;
        let rested = if outbox.is_empty() { it.outbox.take() } else { None };
        // Before a handshake is done, and after the end, another deadline holds.
        if matches!(it.phase, Phase::Echo | Phase::Client | Phase::Stream) {
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

    fn pool_outbox(&mut self, outbox: Option<Box<Outbox>>) {
        if let Some(mut outbox) = outbox
            && self.outboxes.len() < OUTBOXES_MAX
        {
            outbox.reset();
            self.outboxes.push(outbox);
        }
    }

    /// The connection's buffers for what came in pieces, from the pool.
    pub fn partial(&mut self, conn: u32) -> Option<&mut Partial> {
        let it = self.slab.get_mut(conn as usize)?;
        Some(it.partial.get_or_insert_with(|| self.partials.pop().unwrap_or_default()))
    }

    /// Gives the buffers back; a connection keeps none between messages.
    pub fn give_partial_back(&mut self, conn: u32) {
        let partial = self.slab.get_mut(conn as usize).and_then(|it| it.partial.take());
        let Some(mut partial) = partial else { return };
        if self.partials.len() >= PARTIALS_MAX {
            return;
        }
        partial.request = None;
        for buffer in [&mut partial.tail, &mut partial.message] {
            buffer.clear();
            buffer.shrink_to(POOLED_BYTES_MAX);
        }
        self.partials.push(partial);
    }

    /// Frees the slots of the dead; `gone` is told of each.
    pub fn reap(&mut self, mut gone: impl FnMut(&Conn)) {
        while let Some(conn) = self.dead.pop() {
            self.give_partial_back(conn);
            self.wheel.disarm(&mut Linked(&mut self.slab), conn);
            let mut it = self.slab.remove(conn as usize);
            self.pool_outbox(it.outbox.take());
            gone(&it);
        }
    }
}

impl Sessions for Conns {
    fn session(&mut self, conn: u32) -> Option<&mut Session> {
        self.slab.get_mut(conn as usize)?.session.as_deref_mut()
    }
}

impl Table for Conns {
    fn key(&self, conn: u32) -> Option<ConnKey> {
        let it = self.slab.get(conn as usize)?;
        Some(ConnKey { reactor: self.me, index: conn, generation: it.generation })
    }

    fn take(&mut self, conn: u32) -> Option<Box<Session>> {
        self.slab.get_mut(conn as usize)?.session.take()
    }

    /// Without their sessions, which a delivery does not need.
    fn approach(&self, conns: impl Iterator<Item = u32>) {
        self.look_at(conns, |it| u32::from(it.outbox.is_none()) + u32::from(it.stream.is_none()) + it.phase as u32);
    }

    /// A connection that has nothing else to say in this turn is written to at once: its outbox would be filled only
    /// to be emptied at the flush. What the socket does not take waits like everything else.
    fn deliver(&mut self, conn: u32, frame: &Bytes, alone: bool) {
        if alone && !self.holds {
            self.write_now(conn, frame, |at| frame.slice(at..));
        } else {
            self.send(conn, frame.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::TcpListener;

    /// A client of a reactor that holds back, and the other end of it.
    fn held() -> (Conns, u32, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let peer = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        let mut conns = Conns::new(0, 0, 100);
        conns.hold();
        let conn = conns.insert(listener.accept().expect("accept").0, 0, NEVER);
        conns.get(conn).expect("a connection").phase = Phase::Client;
        (conns, conn, peer)
    }

    /// What one turn's flush writes: calls and bytes.
    fn flush(conns: &mut Conns) -> (u32, usize) {
        let dirty = conns.take_dirty();
        let wrote = dirty.iter().filter_map(|conn| conns.flush(*conn, 0, 10).expect("write"));
        let sum = wrote.fold((0, 0), |(calls, bytes), it| (calls + it.calls, bytes + it.bytes));
        conns.restore_dirty(dirty);
        sum
    }

    #[test]
    fn what_is_held_leaves_together_and_in_order() {
        let (mut conns, conn, mut peer) = held();
        conns.deliver(conn, &Bytes::from("a"), true);
        assert_eq!(flush(&mut conns), (0, 0));
        conns.send(conn, Bytes::from("b"));
        conns.send_hole(conn, 7);
        conns.deliver(conn, &Bytes::from("d"), true);
        conns.fill(conn, 7, Bytes::from("c"));
        assert_eq!((flush(&mut conns), conns.has_held()), ((0, 0), true));
        conns.release_held();
        assert_eq!((flush(&mut conns), conns.has_held(), conns.has_outbox(conn)), ((1, 4), false, false));
        conns.send(conn, Bytes::from("e"));
        assert!(conns.has_held(), "the next waits again");
        conns.release_held();
        assert_eq!(flush(&mut conns), (1, 1));
        let mut got = [0; 5];
        peer.read_exact(&mut got).expect("read");
        assert_eq!(&got, b"abcde");
    }

    #[test]
    fn a_close_and_a_full_outbox_do_not_wait() {
        let (mut conns, conn, mut peer) = held();
        conns.send(conn, Bytes::from(vec![b'a'; 101]));
        assert_eq!((conns.take_full(), flush(&mut conns), conns.is_full(conn)), (vec![conn], (1, 101), false));
        conns.send(conn, Bytes::from("b"));
        conns.close_with(conn, Bytes::from("end"), NEVER, false);
        assert_eq!(flush(&mut conns), (1, 4));
        let mut got = [0; 105];
        peer.read_exact(&mut got).expect("read");
        assert_eq!(&got[101..], b"bend");
    }
}
