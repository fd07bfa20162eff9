//! F10 · One thread: poll, listener, clock, mailbox, around a [`Turns`], which decides everything.
//!
//! Owns what only a thread can have. Interest is registered once (both directions, edge-triggered) and never changed: a
//! read shorter than its buffer has drained the socket, and a write that was cut short is told of room.
//!
//! The loop is here, and what a turn asks of it in `host`; `arrive` accepts, `handshake` and `stream` know the
//! endpoints, `listener` and `steering` are how a connection comes to a reactor, `socket` is how bytes come and go.

mod arrive;
mod handshake;
mod host;
mod listener;
mod socket;
mod steering;
mod stream;

pub use handshake::Routes;
pub use listener::listen;
pub use steering::Steering;

use crate::admission::{Admission, Entry};
use crate::base::mailbox::{Mailbox, Sender};
use crate::base::wheel::Tick;
use crate::config::Config;
use crate::session::Now;
use crate::session::backend::{Call, Hook};
use crate::shard::{ControlAnswer, Mail, Shard};
use crate::turn::{Bounds, Clock, Ready, Turns};
use crate::ws;
use bytes::Bytes;
use host::Outside;
use mio::event::Event;
use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token};
use std::convert::Infallible;
use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// An answer and the ticket of its question.
pub type Answered = (u64, ControlAnswer);

/// Where a reactor's work for others goes.
pub struct Links {
    /// Mailboxes of all reactors, this one's with them.
    pub reactors: Vec<Sender<Mail>>,
    /// Sockets whose request is not a reactor's, with the bytes read so far. Gives a socket back that it cannot take.
    pub hand_off: Box<dyn Fn(TcpStream, Bytes, Entry) -> Result<(), TcpStream> + Send>,
    /// Proxy requests. Gives one back when too many are under way.
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

/// Readiness events taken from the kernel at once.
const EVENTS_MAX: usize = 1024;
/// Accepts tried again after descriptors ran out, in ticks.
const ACCEPT_PAUSE: Tick = 1;

pub struct Reactor {
    poll: Poll,
    listener: Option<TcpListener>,
    accept_budget: usize,
    accept_more: bool,
    accept_paused: Tick,
    backlog: u32,
    /// A descriptor kept to be given up when there is no other, so that a peer can be closed rather than left waiting.
    reserve: Option<std::fs::File>,
    mailbox: Mailbox<Mail>,
    mail: Vec<Mail>,
    turn: Turns<Outside>,
    clock: Clock,
    started: Instant,
    now: Now,
    now_ns: u64,
    /// It was told that nobody is left here.
    left: bool,
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
        shard.deflater = ws::Deflater::new(&config.websocket);
        let reactors = links.reactors.len() as u16;
        let started = Instant::now();
        let outside = Outside::new(poll.registry().try_clone()?, links, admission, started, config)?;
        Ok(Reactor {
            poll,
            listener: Some(listener),
            accept_budget: config.reactor.accept_budget,
            accept_more: false,
            accept_paused: 0,
            backlog: config.http_server.listen_backlog,
            reserve: std::fs::File::open("/dev/null").ok(),
            mailbox,
            mail: Vec::new(),
            turn: Turns::new(me, reactors, shard, outside, Bounds::new(config)),
            clock: Clock::default(),
            started,
            now: Now::default(),
            now_ns: 0,
            left: false,
        })
    }

    /// Turns until the process ends. An error is the poll's, and nothing can go on.
    pub fn run(mut self) -> io::Result<Infallible> {
        let mut events = Events::with_capacity(EVENTS_MAX);
        loop {
            let until = self.sleeps_until();
            let now = self.started.elapsed();
            match self.poll.poll(&mut events, until.map(|until| until.saturating_sub(now))) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            }
            let began = self.started.elapsed();
            self.read_clock(began, until);
            self.turn.begin(self.now, self.now_ns);
            self.accept(&events);
            self.mailbox.drain(&mut self.mail);
            let ready = events.iter().filter(|event| !matches!(event.token(), LISTENER | WAKER)).map(readiness);
            self.turn.run(ready, &mut self.mail);
            self.mailbox.keep(self.turn.mail_waiting());
            self.turn.host.send_answers();
            self.leave();
            let ended = self.started.elapsed();
            self.clock.end(began.as_millis() as u64, ended.as_millis() as u64);
            let counters = &mut self.turn.shard.counters;
            counters.turns += 1;
            counters.turn.record_us((ended - began).as_micros() as u64);
        }
    }

    /// How long the poll may sleep, since the start: not at all while work waits, else until a timer may be due.
    fn sleeps_until(&mut self) -> Option<Duration> {
        if self.accept_more || self.turn.has_work() || !self.mailbox.is_empty() {
            return Some(Duration::ZERO);
        }
        let (now, machine) = (self.started.elapsed(), machine_ns());
        let wake = self.turn.wake_at().map(|at| now + Duration::from_millis(at.saturating_sub(machine / 1_000_000)));
        let flush = self.turn.flush_at().map(|at| now + Duration::from_nanos(at.saturating_sub(machine)));
        // Accepts are tried again in the next tick.
        let retry = (self.accept_paused > 0).then(|| self.now.tick + 1);
        let tick = retry.into_iter().chain(self.turn.next_tick()).min();
        let timer = tick.map(|tick| Duration::from_millis(self.clock.at_ms(tick)));
        wake.into_iter().chain(flush).chain(timer).min()
    }

    fn read_clock(&mut self, now: Duration, slept_until: Option<Duration>) {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let until_ms = slept_until.map(|until| until.as_millis() as u64);
        let tick = self.clock.begin(now.as_millis() as u64, until_ms);
        // All reactors share the limits, so their clock must have one beginning: the machine's.
        self.now_ns = machine_ns();
        self.now = Now { tick, ms: self.now_ns / 1_000_000, unix_ms: unix.as_millis() as u64 };
    }

    /// Once told to drain: takes those who wait at the door, closes it, and says once that nobody is left.
    fn leave(&mut self) {
        if !self.turn.is_draining() || self.left {
            return;
        }
        self.close_door();
        if self.turn.conns.is_empty() {
            self.left = true;
            self.turn.host.say_drained();
        }
    }
}

fn readiness(event: &Event) -> Ready {
    Ready {
        conn: event.token().0 as u32,
        readable: event.is_readable() || event.is_error(),
        writable: event.is_writable(),
        ended: event.is_read_closed() || event.is_error(),
        broken: event.is_error() || event.is_write_closed(),
    }
}

/// Nanoseconds of the machine's clock that never steps back.
fn machine_ns() -> u64 {
    let machine = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    machine.tv_sec as u64 * 1_000_000_000 + machine.tv_nsec as u64
}
