//! F10 · One thread: poll, slab, shard, wheel, mailbox. The only floor with sockets and clocks.
//!
//! A turn, in this order:
//! poll -> read the clock once -> accept (budget) -> ready sockets (one read each) -> mailbox -> wheel -> fan-out slice
//! -> flush what is dirty, one write a connection -> reap the dead -> mail to other reactors.
//!
//! What keeps it cheap and fair:
//! - Interest is registered once (both directions, edge-triggered) and never changed. A read shorter than its buffer
//!   has drained the socket, so none is made to see EAGAIN; a full one is continued in the next turn, after everyone
//!   else.
//! - Everything is read into one buffer of the reactor's. A connection owns bytes only while a frame or message of its
//!   own is cut by a read, or while its socket takes no more.
//! - Replies and pushes of a turn wait in the outbox until the flush, and leave in one write; with client.write_delay,
//!   those of several turns.
//! - A fan-out is done in slices; sockets, mail and timers get their turn between them.
//!
//! The loop is here; a connection's way is in `arrive`, `stream`, `read` and `leave`, what it is in `conn` and
//! `outbox`.

mod arrive;
mod conn;
mod handshake;
mod leave;
mod listener;
mod outbox;
mod read;
mod steering;
mod stream;

pub use listener::listen;
pub use steering::Steering;

use crate::admission::{Admission, Entry, Refused};
use crate::base::mailbox::{Mailbox, Sender};
use crate::base::wheel::{TICK_MS, Tick, ticks};
use crate::broker::Event;
use crate::config::Config;
use crate::http::BODY_TAIL_MAX;
use crate::protocol::code::Disconnect;
use crate::session::Now;
use crate::session::backend::{Call, Hook};
use crate::shard::{APPROACHED, ControlAnswer, Mail, Out, Shard};
use crate::ws;
use bytes::Bytes;
use conn::{Conns, Phase};
use handshake::Routes;
use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token};
use std::convert::Infallible;
use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// An answer and the ticket of its question.
pub type Answered = (u64, ControlAnswer);

/// Where a reactor's work for others goes.
pub struct Links {
    /// Mailboxes of all reactors, this one's with them.
    pub reactors: Vec<Sender<Mail>>,
    /// Sockets whose request is not a reactor's, with the bytes read so far. Gives a pair back that it cannot take.
    pub hand_off: Box<dyn Fn(TcpStream, Bytes, Entry) -> Result<(), TcpStream> + Send>,
    /// Questions to the application's backend. Gives one back when too many are under way.
    pub backend: Box<dyn Fn(Call) -> Result<(), Call> + Send>,
    /// What the backend wants to know; dropped and counted when too much waits.
    pub hook: Box<dyn Fn(Hook) + Send>,
    /// Answers to the service thread.
    pub answers: Box<dyn Fn(Vec<Answered>) + Send>,
    /// Called once, when the drain left no connection here.
    pub drained: Box<dyn Fn() + Send>,
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
/// Timers looked at in one turn: so few that who was pinged is still in the cache when the pongs come.
const TIMERS_MAX: usize = 64;
/// What a compressed message may inflate to, in message size limits.
const INFLATED_FACTOR: usize = 10;
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
    inflated_bytes: usize,
    uni_message_bytes: usize,
    echo_bytes: usize,
    accept_budget: usize,
    fanout_slice: usize,
    drain_spread: Tick,
    backlog: u32,
    /// Nanoseconds that what clients get may wait.
    write_delay: u64,
}

/// The leaving: clients still to be told, spread over the ticks that are left.
struct Drain {
    until: Tick,
    told: Tick,
    cursor: u32,
    over: bool,
}

pub struct Reactor {
    poll: Poll,
    listener: Option<TcpListener>,
    accept_more: bool,
    accept_paused: Tick,
    /// More timers are due than one turn takes.
    timers_more: bool,
    /// Connections whose timers a turn looks at.
    due: Vec<u32>,
    /// A descriptor kept to be given up when there is no other, so that a peer can be closed rather than left waiting.
    reserve: Option<std::fs::File>,
    conns: Conns,
    shard: Shard,
    mailbox: Mailbox<Mail>,
    letters: Vec<Mail>,
    links: Links,
    outgoing: Vec<Vec<Mail>>,
    admission: Arc<Admission>,
    routes: Routes,
    /// Lower-case names of headers that the backend is told of.
    forwarded: Vec<String>,
    /// The header that names the user of a client without a token; empty = none does.
    user_header: String,
    limits: Limits,
    /// Sockets whose last read was full: there may be more.
    again: Vec<(u32, bool)>,
    read_buffer: Vec<u8>,
    echo_buffer: Vec<u8>,
    /// One for all connections; absent if compression is off.
    inflate: Option<ws::Inflate>,
    ids: Vec<u8>,
    started: Instant,
    now: Now,
    now_ns: u64,
    drain: Option<Drain>,
    /// For the service thread, at the end of the turn: it is woken once for all of them.
    answers: Vec<Answered>,
    /// When the shard wants to be asked again, in milliseconds since 1970.
    wake_at: Option<u64>,
    /// When what is held back for client.write_delay must leave, as `now_ns`; `None` = nothing is.
    flush_at: Option<u64>,
}

impl Reactor {
    /// A reactor that serves `listener` once [`Reactor::run`] is called on its thread.
    // Each is a part that lives elsewhere; a struct of them would only rename the list.
    #[expect(clippy::too_many_arguments)]
    pub fn new(
        poll: Poll,
        listener: std::net::TcpListener,
        mailbox: Mailbox<Mail>,
        mut shard: Shard,
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
            inflated_bytes: config.websocket.message_size_limit.saturating_mul(INFLATED_FACTOR),
            uni_message_bytes: config.uni_websocket.message_size_limit,
            echo_bytes: config.echo.message_size_limit,
            accept_budget: config.reactor.accept_budget,
            fanout_slice: config.reactor.fanout_slice,
            drain_spread: ticks(config.shutdown.spread),
            backlog: config.http_server.listen_backlog,
            write_delay: config.client.write_delay.as_nanos() as u64,
        };
        let mut outbox_max = config.client.queue_max_size;
        if config.echo.enabled {
            outbox_max = outbox_max.max(2 * config.echo.message_size_limit);
        }
        let mut conns = Conns::new(me, 0, outbox_max);
        if limits.write_delay > 0 {
            conns.hold();
        }
        shard.deflater = ws::Deflater::new(&config.websocket);
        Ok(Reactor {
            poll,
            listener: Some(listener),
            accept_more: false,
            accept_paused: 0,
            timers_more: false,
            due: Vec::new(),
            reserve: std::fs::File::open("/dev/null").ok(),
            conns,
            shard,
            mailbox,
            letters: Vec::new(),
            outgoing: links.reactors.iter().map(|_| Vec::new()).collect(),
            links,
            admission,
            routes: Routes::new(config).map_err(io::Error::other)?,
            forwarded: config.forwarded_headers(),
            user_header: config.client.user_id_http_header.clone(),
            read_buffer: vec![0; READ_SIZE + limits.head_bytes.max(FRAME_TAIL_MAX).max(BODY_TAIL_MAX)],
            limits,
            again: Vec::new(),
            echo_buffer: Vec::new(),
            inflate: config.websocket.compression.then(ws::Inflate::default),
            ids: Vec::new(),
            started,
            now: Now::default(),
            now_ns: 0,
            drain: None,
            answers: Vec::new(),
            wake_at: None,
            flush_at: None,
        })
    }

    /// Turns until the process ends. An error is the poll's, and nothing can go on.
    pub fn run(mut self) -> io::Result<Infallible> {
        let mut events = Events::with_capacity(EVENTS_MAX);
        loop {
            let sleep = self.sleep();
            match self.poll.poll(&mut events, sleep) {
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
            self.wake_at = self.shard.tick(self.now);
            self.fan_out();
            self.flush();
            self.drain_step();
            self.reap();
            self.send_mail();
            self.shard.counters.turns += 1;
            self.shard.counters.turn.record_us(began.elapsed().as_micros() as u64);
            self.tell_if_drained();
        }
    }

    /// How long the poll may sleep: not at all while work waits, else until a timer may be due.
    fn sleep(&mut self) -> Option<std::time::Duration> {
        let mail = !self.mailbox.is_empty();
        if !self.again.is_empty() || self.accept_more || self.timers_more || self.shard.has_work() || mail {
            return Some(std::time::Duration::ZERO);
        }
        let wake = self.wake_at.map(|at| std::time::Duration::from_millis(at.saturating_sub(self.now.unix_ms)));
        let flush = self.flush_at.map(|at| std::time::Duration::from_nanos(at.saturating_sub(machine_ns())));
        let wake = wake.into_iter().chain(flush).min();
        // A drain goes on, and accepts are tried again, in the next tick.
        let soon = (self.drain.is_some() || self.accept_paused > 0).then(|| self.now.tick + 1);
        let timer = soon.into_iter().chain(self.conns.next_due()).min().map(|tick| {
            let at = std::time::Duration::from_millis(u64::from(tick) * TICK_MS);
            at.saturating_sub(self.started.elapsed())
        });
        wake.into_iter().chain(timer).min()
    }

    fn read_clock(&mut self, now: Instant) {
        let elapsed = now.duration_since(self.started);
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.now = Now { tick: (elapsed.as_millis() as u64 / TICK_MS) as Tick, unix_ms: unix.as_millis() as u64 };
        // All reactors share the limits, so their clock must have one beginning: the machine's.
        self.now_ns = machine_ns();
    }

    /// Does what the shard gave out.
    fn act(&mut self) {
        let mut out = std::mem::take(&mut self.shard.out);
        let (mut refused, mut drains) = (Vec::new(), false);
        for act in out.drain(..) {
            match act {
                Out::Send { conn, frame } => self.conns.send(conn, frame),
                Out::Hole { conn, ticket } => self.conns.send_hole(conn, ticket),
                Out::Fill { conn, ticket, frame } => self.conns.fill(conn, ticket, frame),
                Out::Close { conn, wire, disconnect } => {
                    tracing::debug!(conn, code = disconnect.code, reason = %disconnect.reason, "client closed");
                    let hurry = disconnect.code == Disconnect::SLOW.code;
                    let frame = wire.close(&disconnect);
                    self.conns.close_with(conn, frame, self.now.tick + self.limits.close, hurry);
                }
                Out::Sooner { conn } => self.conns.arm(conn),
                Out::Mail { reactor, mail } => self.outgoing[usize::from(reactor)].push(mail),
                Out::Answer { ticket, answer } => self.answers.push((ticket, answer)),
                Out::Ask(call) => {
                    if let Err(call) = (self.links.backend)(*call) {
                        refused.push(call);
                    }
                }
                Out::Hook(hook) => (self.links.hook)(hook),
                Out::Drain => drains = true,
            }
        }
        self.shard.out = out;
        if drains {
            self.begin_drain();
        }
        for call in refused {
            self.shard.refuse_call(self.now, &mut self.conns, call);
            self.act();
        }
    }

    /// Writes at once if nothing waits before it, and queues what the socket does not take.
    fn write_now(&mut self, conn: u32, bytes: &[u8]) {
        self.conns.write_now(conn, bytes, |at| Bytes::copy_from_slice(&bytes[at..]));
        self.settle_direct();
    }

    /// Counts what was written past the outboxes, and lets go of the connections on which that failed.
    fn settle_direct(&mut self) {
        let (wrote, failed) = self.conns.take_direct();
        self.shard.counters.writes += u64::from(wrote.calls);
        self.shard.counters.bytes_sent += wrote.bytes as u64;
        for conn in failed {
            self.lost(conn);
        }
    }

    fn read_mail(&mut self) {
        // While this hub has too much to deliver, mail waits, its mailbox fills, and publishers are told to wait.
        if !self.shard.is_full() {
            self.mailbox.drain(&mut self.letters);
        }
        let mut letters = std::mem::take(&mut self.letters);
        for letter in letters.drain(..) {
            self.shard.mail(self.now, &mut self.conns, letter);
            self.act();
        }
        self.letters = letters;
        self.shard.mailbox = self.mailbox.len();
    }

    fn send_mail(&mut self) {
        if !self.answers.is_empty() {
            (self.links.answers)(std::mem::take(&mut self.answers));
        }
        for (sender, letters) in self.links.reactors.iter().zip(&mut self.outgoing) {
            if letters.is_empty() {
                continue;
            }
            if sender.is_full() {
                // Replies and leaves must arrive; publications may be lost, and are counted. That they were is told.
                self.shard.counters.publications_dropped += drop_publications(letters);
            }
            sender.send_all(letters);
        }
    }

    fn run_timers(&mut self) {
        let mut due = std::mem::take(&mut self.due);
        due.extend(std::iter::from_fn(|| self.conns.pop_due(self.now.tick)).take(TIMERS_MAX));
        self.timers_more = due.len() == TIMERS_MAX;
        self.conns.approach_whole(due.iter().copied());
        for conn in due.drain(..) {
            self.timeout(conn);
            self.conns.arm(conn);
        }
        self.due = due;
    }

    fn timeout(&mut self, conn: u32) {
        let now = self.now;
        let Some(it) = self.conns.get(conn) else { return };
        if now.tick >= it.io_due {
            let counters = &mut self.shard.counters;
            match it.phase {
                Phase::Head | Phase::Body => counters.handshake_timeouts += 1,
                Phase::Echo | Phase::Client | Phase::Stream => counters.write_timeouts += 1,
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
        self.settle_direct();
        self.act();
    }

    /// One write for each connection that has something to say, unless it waits to say more.
    fn flush(&mut self) {
        if self.flush_at.is_some_and(|at| self.now_ns >= at) {
            self.conns.release_held();
        }
        let dirty = self.conns.take_dirty();
        for group in dirty.chunks(APPROACHED) {
            self.conns.approach_whole(group.iter().copied());
            for &conn in group {
                self.flush_one(conn);
            }
        }
        self.conns.restore_dirty(dirty);
        // A burst to a peer that reads is none of its fault: only what the socket did not take counts.
        for conn in self.conns.take_full() {
            if self.conns.is_full(conn) {
                self.end_slow(conn);
            }
        }
        self.flush_at = match self.conns.has_held() {
            true => self.flush_at.filter(|at| *at > self.now_ns).or(Some(self.now_ns + self.limits.write_delay)),
            false => None,
        };
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
            if let (false, Some(stream)) = (it.awaits_close, &it.stream) {
                let _ = stream.shutdown(std::net::Shutdown::Write);
            }
        }
    }
}

/// Nanoseconds of the machine's clock that never steps back.
fn machine_ns() -> u64 {
    let machine = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    machine.tv_sec as u64 * 1_000_000_000 + machine.tv_nsec as u64
}

/// Takes the publications out of `letters`; how many there were. Of those that have a place in a stream, the gap that
/// they leave is told instead.
fn drop_publications(letters: &mut Vec<Mail>) -> u64 {
    let mut gaps: Vec<Arc<str>> = Vec::new();
    let before = letters.len();
    letters.retain(|letter| match letter {
        Mail::Event(Event::Publication { channel, publication, .. }) => {
            if publication.offset > 0 && !gaps.contains(channel) {
                gaps.push(channel.clone());
            }
            false
        }
        _ => true,
    });
    let dropped = (before - letters.len()) as u64;
    letters.extend(gaps.into_iter().map(|channel| Mail::Event(Event::Gap { channel })));
    dropped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::wheel::NEVER;
    use crate::session::Rules;

    /// A ping to an idle client, and its pong: one write, and nothing from the allocator.
    #[test]
    fn a_ping_and_its_pong_allocate_nothing() {
        let mut config = Config::default();
        config.client.insecure = true;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let _peer = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        let mut shard = Shard::new(0, 1, 7, Arc::new([0; 32]), Arc::new(Rules::new(&config).expect("rules")));
        let mut conns = Conns::new(0, 0, config.client.queue_max_size);
        let conn = conns.insert(listener.accept().expect("accept").0, 0, NEVER);
        let mut now = Now { tick: 1, unix_ms: 1_700_000_000_000 };
        let session = shard.open(now, [3; 16], crate::wire::Wire::WebSocketJson, false);
        let it = conns.get(conn).expect("a connection");
        (it.session, it.phase) = (Some(session), Phase::Client);
        shard.message(now, &mut conns, conn, br#"{"id":1,"connect":{}}"#);

        let mut round = || {
            let due = conns.get(conn).and_then(|it| it.session.as_ref()).expect("a session").next_deadline();
            now.tick = due;
            shard.timeout(now, &mut conns, conn);
            for out in shard.out.drain(..) {
                if let Out::Send { conn, frame } = out {
                    conns.send(conn, frame);
                }
            }
            let dirty = conns.take_dirty();
            let wrote = conns.flush(conn, now.tick, 10).expect("write").expect("a ping");
            conns.restore_dirty(dirty);
            shard.message(now, &mut conns, conn, b"{}");
            conns.arm(conn);
            wrote.calls
        };
        assert_eq!(round(), 1, "the first finds nothing in the pools");
        let mut calls = 0;
        let allocated = allocation_counter::measure(|| calls = (0..100).map(|_| round()).sum());
        assert_eq!((calls, allocated.count_total), (100, 0));
    }
}
