//! F5 · One thread: poll, slab, shard, wheel, mailbox. The only floor with sockets and clocks.
//!
//! A turn, in this order:
//! poll -> read the clock once -> accept (budget) -> ready sockets (one read each) -> mailbox -> wheel -> fan-out slice
//! -> flush what is dirty, one write a connection -> reap the dead -> mail to other reactors.
//!
//! What keeps it cheap and fair:
//! - Interest is registered once (both directions, edge-triggered) and never changed. A read shorter than its buffer has
//!   drained the socket, so none is made to see EAGAIN; a full one is continued in the next turn, after everyone else.
//! - Everything is read into one buffer of the reactor's. A connection owns bytes only while a frame or message of its
//!   own is cut by a read, or while its socket takes no more.
//! - Replies and pushes of a turn wait in the outbox until the flush, and leave in one write.
//! - A fan-out is done in slices; sockets, mail and timers get their turn between them.

mod admission;
mod conn;
mod handshake;
mod listener;
mod outbox;

pub use admission::{Admission, Rate, Refused};
pub use listener::listen;

use crate::config::Config;
use crate::http::{Head, answer};
use crate::mailbox::{Mailbox, Sender};
use crate::protocol::code::Disconnect;
use crate::session::Now;
use crate::shard::{Answer, Mail, Out, Shard};
use crate::wheel::{NEVER, TICK_MS, Tick, ticks};
use crate::ws::{self, Item, Kind, Step};
use bytes::Bytes;
use conn::{Conn, Conns, Phase};
use handshake::{Decision, Routes};
use mio::net::TcpListener;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// What a reactor's mailbox takes.
#[derive(Debug)]
#[expect(clippy::large_enum_variant)] // Nearly all letters are mail; a box for each would cost more than the rare small one saves.
pub enum Letter {
    Mail(Mail),
    /// Take no more connections and let the clients go, spread over `shutdown.spread`; then end.
    Drain,
}

/// Where a reactor's work for others goes.
pub struct Links {
    /// Mailboxes of all reactors, this one's with them.
    pub reactors: Vec<Sender<Letter>>,
    /// Sockets whose request is not a reactor's, with the bytes read so far. Gives a pair back that it cannot take.
    pub hand_off: Box<dyn Fn(TcpStream, Bytes) -> Result<(), TcpStream> + Send>,
    /// Answers to the service thread.
    pub answers: Box<dyn Fn(u64, Answer) + Send>,
}

const LISTENER: Token = Token(usize::MAX);
/// The token of the mailbox's waker.
pub const WAKER: Token = Token(usize::MAX - 1);

/// Bytes of one read.
const READ_SIZE: usize = 64 * 1024;
/// Bytes of a frame that a decoder may leave for the next read: a control frame less its last byte.
const FRAME_TAIL_MAX: usize = 14 + ws::CONTROL_PAYLOAD_MAX;
/// Readiness events taken from the kernel at once.
const EVENTS_MAX: usize = 1024;
/// Timers looked at in one turn.
const TIMERS_MAX: usize = 4096;
/// How long an HTTP answer of the reactor's may take to leave.
const ANSWER_TICKS: Tick = 20;
/// Accepts tried again after descriptors ran out, in ticks.
const ACCEPT_PAUSE: Tick = 1;

/// Options in the loop's own units.
struct Limits {
    handshake: Tick,
    write: Tick,
    close: Tick,
    head_bytes: usize,
    message_bytes: usize,
    echo_bytes: usize,
    accept_budget: usize,
    fanout_slice: usize,
    drain_spread: Tick,
}

/// The leaving: clients still to be told, spread over the ticks that are left.
struct Drain {
    until: Tick,
    told: Tick,
    cursor: u32,
}

pub struct Reactor {
    poll: Poll,
    listener: Option<TcpListener>,
    accept_more: bool,
    accept_paused: Tick,
    /// A descriptor kept to be given up when there is no other, so that a peer can be closed rather than left waiting.
    reserve: Option<std::fs::File>,
    conns: Conns,
    shard: Shard,
    mailbox: Mailbox<Letter>,
    letters: Vec<Letter>,
    links: Links,
    outgoing: Vec<Vec<Letter>>,
    admission: Arc<Admission>,
    routes: Routes,
    limits: Limits,
    /// Sockets whose last read was full: there may be more.
    again: Vec<(u32, bool)>,
    read_buffer: Vec<u8>,
    echo_buffer: Vec<u8>,
    ids: Vec<u8>,
    started: Instant,
    now: Now,
    now_ns: u64,
    drain: Option<Drain>,
}

impl Reactor {
    /// A reactor that serves `listener` once [`Reactor::run`] is called on its thread.
    #[allow(clippy::too_many_arguments)] // Each is a part that lives elsewhere; a struct of them would only rename the list.
    pub fn new(
        poll: Poll,
        listener: std::net::TcpListener,
        mailbox: Mailbox<Letter>,
        shard: Shard,
        me: u16,
        links: Links,
        admission: Arc<Admission>,
        config: &Config,
    ) -> io::Result<Reactor> {
        let mut listener = TcpListener::from_std(listener);
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let started = Instant::now();
        let limits = Limits {
            handshake: ticks(config.http_server.handshake_timeout),
            write: ticks(config.websocket.write_timeout),
            close: ticks(config.websocket.close_timeout),
            head_bytes: config.http_server.header_size_limit,
            message_bytes: config.websocket.message_size_limit,
            echo_bytes: config.echo.message_size_limit,
            accept_budget: config.reactor.accept_budget,
            fanout_slice: config.reactor.fanout_slice,
            drain_spread: ticks(config.shutdown.spread),
        };
        let mut outbox_max = config.client.queue_max_size;
        if config.echo.enabled {
            outbox_max = outbox_max.max(2 * config.echo.message_size_limit);
        }
        Ok(Reactor {
            poll,
            listener: Some(listener),
            accept_more: false,
            accept_paused: 0,
            reserve: std::fs::File::open("/dev/null").ok(),
            conns: Conns::new(me, 0, outbox_max),
            shard,
            mailbox,
            letters: Vec::new(),
            outgoing: links.reactors.iter().map(|_| Vec::new()).collect(),
            links,
            admission,
            routes: Routes::new(config).map_err(io::Error::other)?,
            read_buffer: vec![0; READ_SIZE + limits.head_bytes.max(FRAME_TAIL_MAX)],
            limits,
            again: Vec::new(),
            echo_buffer: Vec::new(),
            ids: Vec::new(),
            started,
            now: Now::default(),
            now_ns: 0,
            drain: None,
        })
    }

    /// Turns until the drain is over. An error is the poll's, and nothing can go on.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_MAX);
        loop {
            match self.poll.poll(&mut events, self.sleep()) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            }
            let began = Instant::now();
            self.read_clock(began);
            self.shard.set_full(self.links.reactors.iter().map(Sender::is_full));
            self.accept(&events);
            self.read_ready(&events);
            self.read_mail();
            self.run_timers();
            self.fan_out();
            self.flush();
            self.drain_step();
            self.reap();
            self.send_mail();
            self.shard.counters.turns += 1;
            self.shard.counters.turn.record_us(began.elapsed().as_micros() as u64);
            if self.drain.is_some() && self.conns.is_empty() {
                return Ok(());
            }
        }
    }

    /// How long the poll may sleep: not at all while work waits, to the next tick while timers run.
    fn sleep(&self) -> Option<std::time::Duration> {
        if !self.again.is_empty() || self.accept_more || self.shard.has_work() || !self.letters.is_empty() {
            return Some(std::time::Duration::ZERO);
        }
        if !self.conns.has_timers() && self.drain.is_none() && self.accept_paused == 0 {
            return None;
        }
        let into_tick = self.started.elapsed().as_micros() as u64 % (TICK_MS * 1000);
        Some(std::time::Duration::from_micros(TICK_MS * 1000 - into_tick))
    }

    fn read_clock(&mut self, now: Instant) {
        let elapsed = now.duration_since(self.started);
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.now = Now { tick: (elapsed.as_millis() as u64 / TICK_MS) as Tick, unix_ms: unix.as_millis() as u64 };
        // All reactors share the limits, so their clock must have one beginning: the machine's.
        let machine = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        self.now_ns = machine.tv_sec as u64 * 1_000_000_000 + machine.tv_nsec as u64;
    }

    // --- coming in ---

    fn accept(&mut self, events: &Events) {
        let asked = events.iter().any(|event| event.token() == LISTENER);
        if self.now.tick < self.accept_paused {
            return;
        }
        let resumed = std::mem::take(&mut self.accept_paused) != 0;
        if !asked && !resumed && !self.accept_more {
            return;
        }
        self.accept_more = true;
        for _ in 0..self.limits.accept_budget {
            if !self.accept_one() {
                self.accept_more = false;
                return;
            }
        }
    }

    /// Takes one connection; false when there is none, or when it must wait.
    fn accept_one(&mut self) -> bool {
        let Some(listener) = &self.listener else { return false };
        match listener.accept() {
            Ok((stream, peer)) => {
                self.shard.counters.accepted += 1;
                let stream = TcpStream::from(stream);
                if !self.admission.accept(self.now_ns) {
                    // Dropped unread: the cheapest there is.
                    self.shard.counters.limit_accept += 1;
                    return true;
                }
                match self.admission.enter(peer.ip()) {
                    Ok(ip_key) => self.open(stream, ip_key),
                    Err(_) => {
                        self.shard.counters.limit_per_ip += 1;
                        refuse_unread(&stream, "too many connections from this address");
                    }
                }
                true
            }
            Err(e) if is_exhausted(&e) => self.close_one_for_want_of_descriptors(),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => false,
            // The peer was gone before it was accepted, or the call was interrupted: the next may be well.
            Err(_) => true,
        }
    }

    /// No descriptor is free: gives up the reserve to accept one connection and close it, so that its peer knows.
    /// If even that fails, accepting pauses for a tick. Neither spins.
    fn close_one_for_want_of_descriptors(&mut self) -> bool {
        self.shard.counters.descriptors_exhausted += 1;
        if self.reserve.take().is_some()
            && let Some(listener) = &self.listener
        {
            drop(listener.accept());
        }
        self.reserve = std::fs::File::open("/dev/null").ok();
        if self.reserve.is_some() {
            return true;
        }
        self.accept_paused = self.now.tick + ACCEPT_PAUSE;
        false
    }

    fn open(&mut self, stream: TcpStream, ip_key: u32) {
        let fd = stream.as_raw_fd();
        let conn = self.conns.insert(stream, ip_key, self.now.tick + self.limits.handshake);
        let interest = Interest::READABLE | Interest::WRITABLE;
        if self.poll.registry().register(&mut SourceFd(&fd), Token(conn as usize), interest).is_err() {
            self.conns.kill(conn);
        }
    }

    // --- reading ---

    fn read_ready(&mut self, events: &Events) {
        for (conn, ended) in std::mem::take(&mut self.again) {
            self.read(conn, ended);
        }
        for event in events {
            if matches!(event.token(), LISTENER | WAKER) {
                continue;
            }
            let conn = event.token().0 as u32;
            if event.is_writable() && self.conns.get(conn).is_some_and(|it| it.blocked) {
                self.flush_one(conn);
            }
            if event.is_readable() || event.is_error() {
                self.read(conn, event.is_read_closed() || event.is_error());
            }
        }
    }

    /// One read of one socket. `ended`: the peer's end of the stream is behind what can be read.
    fn read(&mut self, conn: u32, ended: bool) {
        let Some(it) = self.conns.get(conn) else { return };
        let Some(stream) = it.stream.as_ref().filter(|_| it.phase != Phase::Dead) else { return };
        let mut buffer = std::mem::take(&mut self.read_buffer);
        let held = it.partial.as_ref().map_or(0, |partial| {
            buffer[..partial.tail.len()].copy_from_slice(&partial.tail);
            partial.tail.len()
        });
        let room = &mut buffer[held..held + READ_SIZE];
        self.shard.counters.reads += 1;
        let outcome = (&*stream).read(room);
        match outcome {
            Ok(0) => self.lost(conn),
            Ok(count) => {
                self.shard.counters.bytes_received += count as u64;
                self.take_bytes(conn, &mut buffer[..held + count]);
                if count == READ_SIZE {
                    self.again.push((conn, ended));
                } else if ended {
                    self.lost(conn);
                }
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => self.again.push((conn, ended)),
            Err(_) => self.lost(conn),
        }
        self.read_buffer = buffer;
    }

    /// The peer's end of the stream, or an error on it.
    fn lost(&mut self, conn: u32) {
        let Some(it) = self.conns.get(conn) else { return };
        if !it.peer_closed && matches!(it.phase, Phase::Echo | Phase::Client) {
            self.shard.counters.resets += 1;
        }
        self.shard.close(self.now, &mut self.conns, conn, None);
        self.conns.kill(conn);
        self.act();
    }

    /// Bytes for one connection, those left from before in front.
    fn take_bytes(&mut self, conn: u32, bytes: &mut [u8]) {
        let Some(it) = self.conns.get(conn) else { return };
        let used = match it.phase {
            Phase::Head => self.take_head(conn, bytes),
            Phase::Echo | Phase::Client => self.take_frames(conn, bytes),
            Phase::Closing => self.take_last(conn, bytes),
            Phase::Dead => bytes.len(),
        };
        self.keep_tail(conn, &bytes[used..]);
    }

    /// Keeps what could not be used yet, or gives the buffers back if nothing is left.
    fn keep_tail(&mut self, conn: u32, tail: &[u8]) {
        let Some(it) = self.conns.get(conn) else { return };
        if matches!(it.phase, Phase::Dead) || it.partial.is_none() && tail.is_empty() {
            return;
        }
        if tail.is_empty() && it.partial.as_ref().is_some_and(|partial| partial.message.is_empty()) {
            return self.conns.give_partial_back(conn);
        }
        if let Some(partial) = self.conns.partial(conn) {
            partial.tail.clear();
            partial.tail.extend_from_slice(tail);
        }
    }

    /// A request head, or the beginning of one; bytes used.
    fn take_head(&mut self, conn: u32, bytes: &mut [u8]) -> usize {
        let head = match Head::parse(bytes) {
            Ok(None) if bytes.len() < self.limits.head_bytes => return 0,
            Ok(Some(head)) if head.size <= self.limits.head_bytes => head,
            Ok(_) => return self.refuse_head(conn, crate::http::HeadError::TooLarge, bytes.len()),
            Err(error) => return self.refuse_head(conn, error, bytes.len()),
        };
        let size = head.size;
        match self.routes.decide(&head) {
            Decision::HandOff => {
                self.hand_off(conn, bytes);
                return bytes.len();
            }
            Decision::Answer(status, text) => self.answer(conn, status, text),
            Decision::OriginRefused(text) => {
                self.shard.counters.origins_refused += 1;
                self.answer(conn, 403, text);
            }
            Decision::Echo(upgrade) => {
                if self.admit(conn) {
                    self.switch(conn, &upgrade, None, Phase::Echo);
                }
            }
            Decision::Client { upgrade, subprotocol, encoding, frame_pings } => {
                if self.admit(conn) {
                    let id = self.next_id();
                    let session = self.shard.open(self.now, id, encoding, frame_pings);
                    self.switch(conn, &upgrade, subprotocol, Phase::Client);
                    if let Some(it) = self.conns.get(conn) {
                        it.session = Some(session);
                    }
                    self.conns.arm(conn);
                }
            }
        }
        match self.conns.get(conn).map(|it| it.phase) {
            // Commands may follow the head at once.
            Some(Phase::Echo | Phase::Client) => size + self.take_frames(conn, &mut bytes[size..]),
            _ => bytes.len(),
        }
    }

    fn refuse_head(&mut self, conn: u32, error: crate::http::HeadError, used: usize) -> usize {
        let (status, text) = handshake::refuse_head(error);
        self.answer(conn, status, text);
        used
    }

    fn answer(&mut self, conn: u32, status: u16, text: Bytes) {
        *self.shard.counters.answers.entry(status).or_default() += 1;
        self.conns.close_with(conn, text, self.now.tick + ANSWER_TICKS, false);
    }

    /// Asks the node's limits; a refusal is answered here.
    fn admit(&mut self, conn: u32) -> bool {
        let counters = &mut self.shard.counters;
        let why = match self.admission.admit(self.now_ns) {
            Ok(()) => {
                counters.upgrades += 1;
                if let Some(it) = self.conns.get(conn) {
                    it.admitted = true;
                }
                return true;
            }
            Err(Refused::Connections) => {
                counters.limit_connections += 1;
                "the connection limit is reached"
            }
            Err(Refused::Rate) => {
                counters.limit_rate += 1;
                "too many new connections"
            }
            Err(Refused::Memory) => {
                counters.limit_memory += 1;
                "memory is over its limit"
            }
            Err(Refused::Address) => "too many connections from this address",
            Err(Refused::Draining) => "this node is shutting down",
        };
        self.answer(conn, 503, answer(503, "Service Unavailable", "Retry-After: 1\r\n", why));
        false
    }

    /// Answers 101 and begins to speak frames.
    fn switch(&mut self, conn: u32, upgrade: &ws::Upgrade<'_>, subprotocol: Option<&str>, phase: Phase) {
        let mut bytes = std::mem::take(&mut self.echo_buffer);
        bytes.clear();
        ws::respond(upgrade, subprotocol, &mut bytes);
        if let Some(it) = self.conns.get(conn) {
            it.phase = phase;
            it.upgraded = true;
            it.io_due = NEVER;
        }
        self.write_now(conn, &bytes);
        self.echo_buffer = bytes;
    }

    /// 16 random bytes.
    fn next_id(&mut self) -> [u8; 16] {
        if self.ids.is_empty() {
            self.ids = vec![0; 4096];
            if getrandom::fill(&mut self.ids).is_err() {
                // Without randomness ids could be guessed, and anyone's subscriptions with them.
                std::process::abort();
            }
        }
        let at = self.ids.len() - 16;
        let mut id = [0; 16];
        id.copy_from_slice(&self.ids[at..]);
        self.ids.truncate(at);
        id
    }

    /// Moves the socket, with the bytes read, to the service thread.
    fn hand_off(&mut self, conn: u32, bytes: &[u8]) {
        let Some(stream) = self.conns.get(conn).and_then(|it| it.stream.take()) else { return };
        // The service thread has a poll of its own; this one must forget the socket first.
        let _ = self.poll.registry().deregister(&mut SourceFd(&stream.as_raw_fd()));
        self.shard.counters.handed_off += 1;
        if let Err(stream) = (self.links.hand_off)(stream, Bytes::copy_from_slice(bytes)) {
            refuse_unread(&stream, "too many HTTP connections");
        }
        self.conns.kill(conn);
    }

    /// WebSocket frames; bytes used.
    fn take_frames(&mut self, conn: u32, bytes: &mut [u8]) -> usize {
        let Some(it) = self.conns.get(conn) else { return bytes.len() };
        let echo = it.phase == Phase::Echo;
        let limit = if echo { self.limits.echo_bytes } else { self.limits.message_bytes };
        let mut decoder = std::mem::take(&mut it.decoder);
        let mut used = 0;
        self.echo_buffer.clear();
        loop {
            match decoder.next(&mut bytes[used..], limit) {
                Step::More => break,
                Step::Item(size, item) => {
                    self.take_item(conn, item);
                    used += size;
                }
                Step::Fault(fault) => {
                    self.write_echo(conn);
                    *self.shard.counters.faults.entry(fault.code()).or_default() += 1;
                    self.end(conn, fault.code(), fault.reason());
                }
            }
            match self.conns.get(conn) {
                Some(it) if matches!(it.phase, Phase::Echo | Phase::Client) => {}
                _ => return bytes.len(),
            }
        }
        if let Some(it) = self.conns.get(conn) {
            it.decoder = decoder;
        }
        if echo {
            self.write_echo(conn);
        } else {
            self.conns.arm(conn);
        }
        used
    }

    fn take_item(&mut self, conn: u32, item: Item<'_>) {
        match item {
            Item::Message(kind, message) => self.take_message(conn, kind, message),
            Item::Part(part) => {
                if let Some(partial) = self.conns.partial(conn) {
                    partial.message.extend_from_slice(part);
                }
            }
            Item::Last(kind, part) => {
                let Some(partial) = self.conns.partial(conn) else { return };
                partial.message.extend_from_slice(part);
                let message = std::mem::take(&mut partial.message);
                self.take_message(conn, kind, &message);
                // Give the room back to the buffers, which decide how much of it to keep.
                if let Some(it) = self.conns.get(conn)
                    && let Some(partial) = it.partial.as_mut()
                {
                    partial.message = message;
                    partial.message.clear();
                }
            }
            Item::Ping(payload) => {
                if self.conns.get(conn).is_some_and(|it| it.phase == Phase::Echo) {
                    ws::push_frame(&mut self.echo_buffer, ws::Opcode::Pong, payload);
                } else {
                    self.conns.send(conn, ws::control_frame(ws::Opcode::Pong, payload));
                }
            }
            Item::Pong(_) => self.shard.pong_frame(&mut self.conns, conn),
            Item::Close(code, _) => {
                self.write_echo(conn);
                if let Some(it) = self.conns.get(conn) {
                    it.peer_closed = true;
                }
                match code {
                    Some(code) => self.end(conn, code, ""),
                    None => self.end_with(conn, Bytes::from_static(b"\x88\0")),
                }
            }
        }
    }

    fn take_message(&mut self, conn: u32, kind: Kind, message: &[u8]) {
        self.shard.counters.messages_received += 1;
        if self.conns.get(conn).is_some_and(|it| it.phase == Phase::Echo) {
            let opcode = if kind == Kind::Text { ws::Opcode::Text } else { ws::Opcode::Binary };
            return ws::push_frame(&mut self.echo_buffer, opcode, message);
        }
        let began = Instant::now();
        self.shard.message(self.now, &mut self.conns, conn, message);
        self.act();
        self.shard.counters.command.record_us(began.elapsed().as_micros() as u64);
    }

    /// What arrives after a close frame or an answer was queued: only the peer's close matters.
    fn take_last(&mut self, conn: u32, bytes: &mut [u8]) -> usize {
        let Some(it) = self.conns.get(conn).filter(|it| it.upgraded) else { return bytes.len() };
        let mut decoder = std::mem::take(&mut it.decoder);
        let (mut used, mut closed) = (0, false);
        let left = loop {
            match decoder.next(&mut bytes[used..], self.limits.message_bytes) {
                Step::More => break used,
                Step::Item(size, item) => {
                    used += size;
                    closed |= matches!(item, Item::Close(..));
                }
                // Whatever it says now does not matter.
                Step::Fault(_) => break bytes.len(),
            }
        };
        if let Some(it) = self.conns.get(conn) {
            it.decoder = decoder;
            it.peer_closed |= closed;
        }
        if closed && !self.conns.has_outbox(conn) {
            self.conns.kill(conn);
        }
        left
    }

    // --- acting ---

    /// Does what the shard gave out.
    fn act(&mut self) {
        let mut out = std::mem::take(&mut self.shard.out);
        for act in out.drain(..) {
            match act {
                Out::Send { conn, frame } => self.conns.send(conn, frame),
                Out::Hole { conn, ticket } => self.conns.send_hole(conn, ticket),
                Out::Fill { conn, ticket, frame } => self.conns.fill(conn, ticket, frame),
                Out::Close { conn, disconnect } => {
                    let hurry = disconnect.code == Disconnect::SLOW.code;
                    let frame = ws::close_frame(disconnect.code, &disconnect.reason);
                    self.conns.close_with(conn, frame, self.now.tick + self.limits.close, hurry);
                }
                Out::Mail { reactor, mail } => self.outgoing[usize::from(reactor)].push(Letter::Mail(mail)),
                Out::Answer { ticket, answer } => (self.links.answers)(ticket, answer),
            }
        }
        self.shard.out = out;
    }

    /// Ends a WebSocket with a close frame of the server's.
    fn end(&mut self, conn: u32, code: u16, reason: &str) {
        self.end_with(conn, ws::close_frame(code, reason));
    }

    fn end_with(&mut self, conn: u32, frame: Bytes) {
        self.shard.close(self.now, &mut self.conns, conn, None);
        self.act();
        self.conns.close_with(conn, frame, self.now.tick + self.limits.close, false);
    }

    /// Writes what the echo endpoint has to say of this read, in one call and without a copy kept.
    fn write_echo(&mut self, conn: u32) {
        if self.echo_buffer.is_empty() {
            return;
        }
        let bytes = std::mem::take(&mut self.echo_buffer);
        self.write_now(conn, &bytes);
        self.echo_buffer = bytes;
        self.echo_buffer.clear();
        self.echo_buffer.shrink_to(READ_SIZE * 2);
    }

    /// Writes at once if nothing waits before it, and queues what the socket does not take.
    fn write_now(&mut self, conn: u32, bytes: &[u8]) {
        self.conns.queued += 1;
        if self.conns.has_outbox(conn) {
            return self.conns.send(conn, Bytes::copy_from_slice(bytes));
        }
        let Some(stream) = self.conns.get(conn).and_then(|it| it.stream.as_ref()) else { return };
        self.shard.counters.writes += 1;
        let taken = match (&*stream).write(bytes) {
            Ok(taken) => taken,
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => 0,
            Err(_) => return self.lost(conn),
        };
        self.shard.counters.bytes_sent += taken as u64;
        match &bytes[taken..] {
            [] => {}
            rest if taken == 0 => self.conns.send(conn, Bytes::copy_from_slice(rest)),
            rest => self.conns.send_begun(conn, Bytes::copy_from_slice(rest)),
        }
    }

    fn read_mail(&mut self) {
        // While this hub has too much to deliver, mail waits, its mailbox fills, and publishers are told to wait.
        if !self.shard.is_full() && self.letters.is_empty() {
            self.mailbox.drain(&mut self.letters);
        }
        let mut letters = std::mem::take(&mut self.letters);
        for letter in letters.drain(..) {
            match letter {
                Letter::Mail(mail) => {
                    self.shard.mail(self.now, &mut self.conns, mail);
                    self.act();
                }
                Letter::Drain => self.begin_drain(),
            }
        }
        self.letters = letters;
    }

    fn send_mail(&mut self) {
        for (sender, letters) in self.links.reactors.iter().zip(&mut self.outgoing) {
            if letters.is_empty() {
                continue;
            }
            if sender.is_full() {
                // Replies and leaves must arrive; publications may be lost, and are counted.
                let before = letters.len();
                letters.retain(|letter| {
                    !matches!(letter, Letter::Mail(Mail::Event(crate::broker::Event::Publication { .. })))
                });
                self.shard.counters.publications_dropped += (before - letters.len()) as u64;
            }
            sender.send_all(letters);
        }
    }

    fn run_timers(&mut self) {
        for _ in 0..TIMERS_MAX {
            let Some(conn) = self.conns.pop_due(self.now.tick) else { return };
            self.timeout(conn);
            self.conns.arm(conn);
        }
    }

    fn timeout(&mut self, conn: u32) {
        let now = self.now;
        let Some(it) = self.conns.get(conn) else { return };
        if now.tick >= it.io_due {
            let counters = &mut self.shard.counters;
            match it.phase {
                Phase::Head => counters.handshake_timeouts += 1,
                Phase::Echo | Phase::Client => counters.write_timeouts += 1,
                Phase::Closing | Phase::Dead => {}
            }
            it.peer_closed = true;
            return self.lost(conn);
        }
        if it.session.as_ref().is_some_and(|session| now.tick >= session.next_deadline()) {
            self.shard.timeout(now, &mut self.conns, conn);
            self.act();
        }
    }

    fn fan_out(&mut self) {
        self.shard.fan_out(self.now, &mut self.conns, self.limits.fanout_slice);
        self.act();
    }

    // --- leaving ---

    /// One write for each connection that has something to say.
    fn flush(&mut self) {
        for conn in std::mem::take(&mut self.conns.slow) {
            if let Some(Conn { phase: Phase::Echo, .. }) = self.conns.get(conn) {
                self.end(conn, 1008, "slow");
            }
            self.shard.close(self.now, &mut self.conns, conn, Some(Disconnect::SLOW));
            self.act();
        }
        let dirty = self.conns.take_dirty();
        for &conn in &dirty {
            self.flush_one(conn);
        }
        self.conns.restore_dirty(dirty);
    }

    fn flush_one(&mut self, conn: u32) {
        let wrote = self.conns.flush(conn, self.now.tick, self.limits.write);
        let counters = &mut self.shard.counters;
        match wrote {
            Ok(Some(wrote)) => {
                counters.writes += u64::from(wrote.calls);
                counters.bytes_sent += wrote.bytes as u64;
                counters.writes_blocked += u64::from(wrote.blocked);
            }
            Ok(None) => {}
            Err(_) => return self.lost(conn),
        }
        if !self.conns.has_outbox(conn)
            && let Some(it) = self.conns.get(conn)
            && it.phase == Phase::Closing
        {
            if it.peer_closed {
                return self.conns.kill(conn);
            }
            // A WebSocket waits for the peer's close frame; an HTTP answer ends with the stream.
            if let (false, Some(stream)) = (it.upgraded, &it.stream) {
                let _ = stream.shutdown(std::net::Shutdown::Write);
            }
        }
    }

    fn reap(&mut self) {
        let (admission, closed) = (&self.admission, &mut self.shard.counters.closed);
        self.conns.reap(|it| {
            *closed += 1;
            admission.leave(it.ip_key);
            if it.admitted {
                admission.dismiss();
            }
        });
        if !self.again.is_empty() {
            let conns = &mut self.conns;
            self.again.retain(|(conn, _)| conns.get(*conn).is_some());
        }
        self.shard.counters.messages_sent = self.conns.queued;
        self.shard.connections = self.conns.len();
    }

    fn begin_drain(&mut self) {
        if self.drain.is_some() {
            return;
        }
        // Connections that the kernel completed before now are ours: take them all, then close the door.
        while self.accept_one() && self.accept_paused == 0 {}
        self.accept_more = false;
        if let Some(mut listener) = self.listener.take() {
            let _ = self.poll.registry().deregister(&mut listener);
        }
        let now = self.now.tick;
        self.drain = Some(Drain { until: now + self.limits.drain_spread, told: now, cursor: 0 });
    }

    /// Each tick, tells its share of the connections to go.
    fn drain_step(&mut self) {
        let Some(drain) = &mut self.drain else { return };
        if self.now.tick <= drain.told {
            return;
        }
        drain.told = self.now.tick;
        let left = drain.until.saturating_sub(self.now.tick);
        let share = if left == 0 { usize::MAX } else { self.conns.len().div_ceil(left as usize + 1) };
        let (mut cursor, mut told) = (drain.cursor, 0);
        while cursor < self.conns.bound() && told < share {
            told += usize::from(self.tell_to_go(cursor, left == 0));
            cursor += 1;
        }
        if let Some(drain) = &mut self.drain {
            drain.cursor = if left == 0 { 0 } else { cursor };
        }
        self.flush();
    }

    fn tell_to_go(&mut self, conn: u32, last: bool) -> bool {
        let Some(it) = self.conns.get(conn) else { return false };
        match it.phase {
            Phase::Client => self.shard.close(self.now, &mut self.conns, conn, Some(Disconnect::SHUTDOWN)),
            Phase::Echo => self.end(conn, ws::close::GOING_AWAY, "shutdown"),
            // Its request is under way, and will be refused; or it never comes.
            Phase::Head if last => self.conns.kill(conn),
            _ => return false,
        }
        self.act();
        true
    }
}

/// `EMFILE`, `ENFILE`: no descriptor left for this process or this machine; `ENOBUFS`, `ENOMEM`: no memory for it.
fn is_exhausted(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let exhausted = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    exhausted.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// A 503 to a peer whose request was not read; one write, no waiting.
fn refuse_unread(mut stream: &TcpStream, why: &str) {
    let _ = stream.write(&answer(503, "Service Unavailable", "Retry-After: 1\r\n", why));
    let _ = stream.shutdown(std::net::Shutdown::Write);
}
