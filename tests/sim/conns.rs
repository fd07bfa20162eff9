//! A reactor's connections without sockets: the table a shard works on, outboxes with holes, the wheel.
//!
//! Models src/reactor/{conn,outbox}.rs, which no test can reach without a kernel. A deliberately broken part
//! ([`Breakage`]) shows that the checks can fail.

use crate::net::{LinkId, Net};
use crate::rng::Rng;
use bytes::{Buf, Bytes};
use gannet::base::wheel::{NEVER, Nodes, Tick, Wheel, WheelLinks};
use gannet::broker::ConnKey;
use gannet::protocol::Encoding;
use gannet::session::{Session, Sessions};
use gannet::shard::Table;
use gannet::ws::Decoder;
use slab::Slab;
use std::collections::VecDeque;

/// A part broken on purpose, from its first use to the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breakage {
    /// Every so often a delivery does not happen.
    DropDelivery,
    /// Every so often a delivery happens after the next one.
    SwapDeliveries,
    RepeatDelivery,
    /// A subscribe reply does not wait for its place.
    IgnoreHoles,
    /// Every so often a subscribe reply is lost.
    LoseFill,
    /// Every so often a deadline is not armed.
    ForgetDeadline,
    /// A limit on the outbox that nobody enforces.
    IgnoreSlow,
    /// Leaves to other reactors get lost.
    LoseLeave,
    /// A leave that somebody waits for is answered at once and reaches its owner later.
    LatePresence,
    /// A full mailbox drops publications and nobody is told.
    LoseGap,
    /// Every so often a publication has another offset than its owner gave it.
    ShiftOffset,
    /// Every so often a delta is to something else.
    WrongDelta,
    /// Every so often a value from one reactor to another overtakes the one before it.
    SwapMail,
}

/// One in so many is broken.
pub const BROKEN_EVERY: u32 = 9;
/// What a place that is kept counts towards the limit of an outbox.
const HOLE_BYTES: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Client,
    Closing,
    Dead,
}

enum Item {
    Frame(Bytes),
    Hole(u32),
}

#[derive(Default)]
pub struct Outbox {
    queue: VecDeque<Item>,
    bytes: usize,
    begun: bool,
}

impl Outbox {
    /// Bytes that wait, those that are owed with them.
    fn weight(&self) -> usize {
        self.bytes + self.queue.iter().filter(|item| matches!(item, Item::Hole(_))).count() * HOLE_BYTES
    }

    fn push(&mut self, frame: Bytes) {
        self.bytes += frame.len();
        self.queue.push_back(Item::Frame(frame));
    }

    fn fill(&mut self, ticket: u32, frame: Bytes) -> bool {
        let hole = self.queue.iter_mut().find(|item| matches!(item, Item::Hole(t) if *t == ticket));
        let Some(hole) = hole else { return false };
        self.bytes += frame.len();
        *hole = Item::Frame(frame);
        true
    }

    fn clear_unbegun(&mut self) {
        let begun = if self.begun { self.queue.pop_front() } else { None };
        self.queue.clear();
        self.bytes = 0;
        if let Some(Item::Frame(frame)) = begun {
            self.push(frame);
        }
    }

    fn write(&mut self, net: &mut Net, link: LinkId, step: u64, rng: &mut Rng) {
        while let Some(Item::Frame(front)) = self.queue.front_mut() {
            let taken = net.write(link, step, front, rng);
            self.bytes -= taken;
            front.advance(taken);
            self.begun = taken > 0 && !front.is_empty() || self.begun && taken == 0;
            if !front.is_empty() {
                return;
            }
            self.queue.pop_front();
        }
    }
}

/// What the simulation itself knows of a session, to hold the session's deadlines against.
pub struct Watch {
    pub opened: Tick,
    pub connected: Option<Tick>,
    pub last_ping: Option<Tick>,
    /// A ping that waits for its pong.
    pub pinged: Option<Tick>,
    pub frame_pings: bool,
    pub encoding: Encoding,
}

pub struct Conn {
    pub link: LinkId,
    generation: u32,
    links: WheelLinks,
    pub io_due: Tick,
    pub decoder: Decoder,
    pub phase: Phase,
    pub tail: Vec<u8>,
    pub message: Vec<u8>,
    /// Commands that wait until the connect command is answered.
    pub rest: Vec<u8>,
    outbox: Outbox,
    pub peer_closed: bool,
    pub session: Option<Box<Session>>,
    pub watch: Watch,
}

pub struct Conns {
    me: u16,
    slab: Slab<Conn>,
    generation: u32,
    wheel: Wheel,
    /// Connections whose outbox went over its limit: judged by what is left after the flush.
    full: Vec<u32>,
    outbox_bytes_max: usize,
    breakage: Option<Breakage>,
    chances: u32,
    held_back: Option<(u32, Bytes)>,
}

struct Linked<'a>(&'a mut Slab<Conn>);

impl Nodes for Linked<'_> {
    fn links(&mut self, node: u32) -> &mut WheelLinks {
        &mut self.0[node as usize].links
    }
}

impl Conns {
    pub fn new(me: u16, now: Tick, outbox_bytes_max: usize, breakage: Option<Breakage>) -> Conns {
        Conns {
            me,
            slab: Slab::new(),
            generation: 0,
            wheel: Wheel::new(now),
            full: Vec::new(),
            outbox_bytes_max,
            breakage,
            chances: 0,
            held_back: None,
        }
    }

    pub fn insert(&mut self, link: LinkId, session: Box<Session>, watch: Watch) -> u32 {
        self.generation += 1;
        let conn = Conn {
            link,
            generation: self.generation,
            links: WheelLinks::default(),
            io_due: NEVER,
            decoder: Decoder::default(),
            phase: Phase::Client,
            tail: Vec::new(),
            message: Vec::new(),
            rest: Vec::new(),
            outbox: Outbox::default(),
            peer_closed: false,
            session: Some(session),
            watch,
        };
        let index = self.slab.insert(conn) as u32;
        self.arm(index);
        index
    }

    pub fn get(&mut self, conn: u32) -> Option<&mut Conn> {
        self.slab.get_mut(conn as usize)
    }

    pub fn indices(&self) -> Vec<u32> {
        self.slab.iter().map(|(index, _)| index as u32).collect()
    }

    pub fn iter(&self) -> impl Iterator<Item = (u32, &Conn)> {
        self.slab.iter().map(|(index, conn)| (index as u32, conn))
    }

    pub fn len(&self) -> usize {
        self.slab.len()
    }

    /// Is this the time at which the broken part is to break?
    fn breaks(&mut self, kind: Breakage) -> bool {
        if self.breakage != Some(kind) {
            return false;
        }
        self.chances += 1;
        self.chances.is_multiple_of(BROKEN_EVERY)
    }

    pub fn is_broken(&self, kind: Breakage) -> bool {
        self.breakage == Some(kind)
    }

    pub fn arm(&mut self, conn: u32) {
        if self.breaks(Breakage::ForgetDeadline) {
            return;
        }
        let Some(it) = self.slab.get(conn as usize) else { return };
        let due = it.io_due.min(it.session.as_ref().map_or(NEVER, |session| session.next_deadline()));
        self.wheel.arm(&mut Linked(&mut self.slab), conn, due);
    }

    pub fn pop_due(&mut self, now: Tick) -> Option<u32> {
        self.wheel.pop(&mut Linked(&mut self.slab), now)
    }

    fn outbox(&mut self, conn: u32) -> Option<&mut Outbox> {
        let it = self.slab.get_mut(conn as usize)?;
        (it.phase == Phase::Client).then_some(&mut it.outbox)
    }

    pub fn send(&mut self, conn: u32, frame: Bytes) {
        let max = self.outbox_bytes_max;
        let Some(outbox) = self.outbox(conn) else { return };
        outbox.push(frame);
        if outbox.weight() > max {
            self.full.push(conn);
        }
    }

    pub fn send_hole(&mut self, conn: u32, ticket: u32) {
        let (ignore, max) = (self.is_broken(Breakage::IgnoreHoles), self.outbox_bytes_max);
        let Some(outbox) = self.outbox(conn).filter(|_| !ignore) else { return };
        outbox.queue.push_back(Item::Hole(ticket));
        if outbox.weight() > max {
            self.full.push(conn);
        }
    }

    /// The connections whose outboxes are over their limit still.
    pub fn take_slow(&mut self) -> Vec<u32> {
        let mut full = std::mem::take(&mut self.full);
        let max = self.outbox_bytes_max;
        full.retain(|conn| self.outbox(*conn).is_some_and(|outbox| outbox.weight() > max));
        full
    }

    pub fn fill(&mut self, conn: u32, ticket: u32, frame: Bytes) {
        if self.is_broken(Breakage::IgnoreHoles) {
            return self.send(conn, frame);
        }
        if self.breaks(Breakage::LoseFill) {
            return;
        }
        if let Some(outbox) = self.outbox(conn) {
            assert!(outbox.fill(ticket, frame), "a reply without the place that was kept for it");
        }
    }

    /// Queues the last bytes. `hurry` drops what waits before them.
    pub fn close_with(&mut self, conn: u32, last: Bytes, due: Tick, hurry: bool) {
        let Some(outbox) = self.outbox(conn) else { return };
        outbox.queue.retain(|item| matches!(item, Item::Frame(_)));
        if hurry {
            outbox.clear_unbegun();
        }
        outbox.push(last);
        if let Some(it) = self.slab.get_mut(conn as usize) {
            it.phase = Phase::Closing;
            it.io_due = due;
        }
        self.arm(conn);
    }

    pub fn kill(&mut self, conn: u32) {
        if let Some(it) = self.slab.get_mut(conn as usize) {
            it.phase = Phase::Dead;
        }
    }

    pub fn flush(&mut self, conn: u32, net: &mut Net, step: u64, rng: &mut Rng) {
        let Some(it) = self.slab.get_mut(conn as usize).filter(|it| it.phase != Phase::Dead) else { return };
        it.outbox.write(net, it.link, step, rng);
        if it.phase == Phase::Closing && it.outbox.queue.is_empty() && it.peer_closed {
            it.phase = Phase::Dead;
        }
    }

    /// Frees the slots of the dead; their links are told.
    pub fn reap(&mut self, net: &mut Net, step: u64) {
        for (conn, link) in
            self.iter().filter(|(_, it)| it.phase == Phase::Dead).map(|(c, it)| (c, it.link)).collect::<Vec<_>>()
        {
            self.wheel.disarm(&mut Linked(&mut self.slab), conn);
            let it = self.slab.remove(conn as usize);
            assert!(it.session.is_none(), "a connection ended with its session still in it");
            net.close(link, step, !it.outbox.queue.is_empty());
        }
    }

    /// The outbox of a client holds no more than it may. One that is closing may hold one turn's frames beyond it.
    pub fn check_outboxes(&self) {
        let max = self.outbox_bytes_max;
        for (conn, it) in self.iter() {
            let bytes: usize = it.outbox.queue.iter().map(|i| if let Item::Frame(f) = i { f.len() } else { 0 }).sum();
            assert_eq!(bytes, it.outbox.bytes, "conn {conn}: the outbox miscounts");
            let weight = it.outbox.weight();
            assert!(weight <= max || it.phase != Phase::Client, "conn {conn}: {weight} bytes in an outbox of {max}");
        }
    }

    pub fn has_holes(&self) -> bool {
        let is_hole = |item: &Item| matches!(item, Item::Hole(_));
        self.iter().any(|(_, it)| it.outbox.queue.iter().any(is_hole))
    }

    /// Does anything wait for a peer that still reads?
    pub fn waits(&self, hears: impl Fn(LinkId) -> bool) -> bool {
        self.iter().any(|(_, it)| hears(it.link) && !it.outbox.queue.is_empty())
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

    fn deliver(&mut self, conn: u32, frame: &Bytes, _alone: bool) {
        if self.breaks(Breakage::DropDelivery) {
            return;
        }
        if self.breaks(Breakage::SwapDeliveries) && self.held_back.is_none() {
            self.held_back = Some((conn, frame.clone()));
            return;
        }
        self.send(conn, frame.clone());
        if self.breaks(Breakage::RepeatDelivery) {
            self.send(conn, frame.clone());
        }
        if let Some((_, late)) = self.held_back.take_if(|(held, _)| *held == conn) {
            self.send(conn, late);
        }
    }
}
