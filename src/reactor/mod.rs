//! F10 · One thread: poll, listener, clock, mailbox, around a [`Turns`], which decides everything.
//!
//! Owns what only a thread can have. Interest is registered once (both directions, edge-triggered) and never changed: a
//! read shorter than its buffer has drained the socket, and a write that was cut short is told of room.
//!
//! The loop is here, and what a turn asks of it in `host`; `arrive` accepts, `entrance` keeps who is in a TLS
//! handshake, `handshake` and `stream` know the endpoints, `listener` and `steering` are how a connection comes to a
//! reactor, `socket` and `secured` are how bytes come and go, `acknowledged` how far a peer came with them.

mod acknowledged;
mod arrive;
mod entrance;
mod handshake;
mod host;
mod listener;
mod secured;
mod socket;
mod steering;
mod stream;

pub use handshake::{Routes, trim};
pub use listener::listen;
pub use secured::{SecuredStream, ThreadKit};
pub use socket::ReactorSocket;
pub use steering::Steering;

use crate::admission::{Admission, Entry};
use crate::archive::ArchiveLink;
use crate::base::mailbox::{Mailbox, Sender};
use crate::base::wheel::Tick;
use crate::broker::ConnKey;
use crate::broker::engine::{Engine, EngineCall};
use crate::broker::log::LogCall;
use crate::config::Config;
use crate::session::Now;
use crate::session::backend::{Call, Hook};
use crate::shard::{ControlAnswer, Mail, Shard};
use crate::tls::Tunnel;
use crate::turn::request::StreamRequest;
use crate::turn::{Bounds, Clock, Ready, Turns};
use crate::wall_clock::unix_ms;
use crate::workers::{Handshakes, Stepped};
use crate::ws;
use bytes::Bytes;
use entrance::{Entrance, is_handshake};
use host::Outside;
use mio::event::Event;
use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token};
use std::convert::Infallible;
use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

/// A socket on its way to another thread, with its TLS if it has any.
pub struct Detached {
    pub stream: TcpStream,
    pub tunnel: Option<Box<Tunnel>>,
}

/// A socket that another thread has for this reactor: one that was handed off and comes back with a request, or the
/// near end of a client's whose call that thread answers.
pub struct Returned {
    pub socket: Detached,
    /// What was read of it: the request, and what is behind it. Of a call: how its client wants to connect.
    pub bytes: Bytes,
    pub ip_key: u32,
    pub call: Option<Box<StreamRequest>>,
}

/// An answer and the ticket of its question.
pub type Answered = (u64, ControlAnswer);

/// Calls to engines, in order.
pub type EngineCalls = Vec<(Engine, EngineCall)>;

/// Where a reactor's work for others goes.
pub struct Links {
    /// Which reactor this is.
    pub me: u16,
    /// Mailboxes of all reactors, this one's with them.
    pub reactors: Vec<Sender<Mail>>,
    /// Sockets whose request is not a reactor's, with the bytes read so far. Gives a socket back that it cannot take.
    pub hand_off: Box<dyn Fn(Detached, Bytes, Entry) -> Result<(), Detached> + Send>,
    /// Proxy requests, and what a worker is to do. Gives one back when too many are under way.
    pub ask: Box<dyn Fn(Call) -> Result<(), Call> + Send>,
    /// Sessions that are over: nobody waits for what workers were to do for them.
    pub forget: Box<dyn Fn(ConnKey) + Send>,
    /// What the backend wants to know; dropped and counted when too much waits.
    pub hook: Box<dyn Fn(Hook) + Send>,
    /// Calls of this reactor to engines, those of a turn together. What comes of them comes to its mailbox.
    pub engine: Box<dyn Fn(EngineCalls) + Send>,
    /// Publications for the log.
    pub log: Box<dyn Fn(LogCall) + Send>,
    /// It takes nothing more for whose answer somebody would wait.
    pub log_is_full: Box<dyn Fn() -> bool + Send>,
    /// The same to the archive.
    pub archive: ArchiveLink,
    /// Answers to the service thread.
    pub answers: Box<dyn Fn(Vec<Answered>) + Send>,
    /// Called once, when the drain left no connection here.
    pub drained: Box<dyn Fn() + Send>,
}

const LISTENER: Token = Token(usize::MAX);
const LINES: Token = Token(usize::MAX - 2);
/// The token of the mailbox's waker.
pub const WAKER: Token = Token(usize::MAX - 1);

/// Tokens of those in a TLS handshake: from here to twice as much.
const HANDSHAKES: usize = 1 << 40;

/// Readiness events taken from the kernel at once.
const EVENTS_MAX: usize = 1024;
const NS_IN_MS: u64 = 1_000_000;
/// Accepts tried again after descriptors ran out, in ticks.
const ACCEPT_PAUSE: Tick = 1;

pub struct Reactor<S: ReactorSocket> {
    poll: Poll,
    me: u16,
    listener: Option<TcpListener>,
    /// Of tcp_line.
    lines: Option<TcpListener>,
    /// Its clients have TLS.
    lines_tls: bool,
    /// The other listener is asked first the next time.
    lines_first: bool,
    accept_more: bool,
    accept_paused: Tick,
    backlog: u32,
    /// A descriptor kept to be given up when there is no other, so that a peer can be closed rather than left waiting.
    reserve: Option<std::fs::File>,
    mailbox: Mailbox<Mail>,
    mail: Vec<Mail>,
    returned: Mailbox<Returned>,
    turn: Turns<Outside<S>>,
    /// Absent if the port has no TLS.
    entrance: Option<Entrance>,
    key_cache_size: usize,
    clock: Clock,
    /// By the machine's clock.
    started_ns: u64,
    now: Now,
    now_ns: u64,
    /// It was told that nobody is left here.
    left: bool,
}

impl<S: ReactorSocket> Reactor<S> {
    /// A reactor that serves `listener` once [`Reactor::run`] is called on its thread.
    // Each is a part that lives elsewhere; a struct of them would only rename the list.
    #[expect(clippy::too_many_arguments)]
    pub fn new(
        poll: Poll,
        (listener, lines): (std::net::TcpListener, Option<std::net::TcpListener>),
        (mailbox, returned): (Mailbox<Mail>, Mailbox<Returned>),
        handshakes: Option<(Handshakes, Mailbox<Stepped>)>,
        mut shard: Shard,
        me: u16,
        links: Links,
        admission: Arc<Admission>,
        config: &Config,
    ) -> io::Result<Reactor<S>> {
        let mut listener = TcpListener::from_std(listener);
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let mut lines = lines.map(TcpListener::from_std);
        if let Some(lines) = &mut lines {
            poll.registry().register(lines, LINES, Interest::READABLE)?;
        }
        shard.deflater = ws::Deflater::new(&config.websocket);
        let reactors = links.reactors.len() as u16;
        let limits = (config.tls.handshake_limit, config.tls.handshake_memory_limit);
        let entrance = handshakes.map(|(handshakes, stepped)| Entrance::new(handshakes, stepped, limits));
        let outside = Outside::new(poll.registry().try_clone()?, links, admission, config)?;
        Ok(Reactor {
            poll,
            me,
            listener: Some(listener),
            lines,
            lines_tls: config.tcp_line.tls,
            lines_first: false,
            accept_more: false,
            accept_paused: 0,
            backlog: config.http_server.listen_backlog,
            reserve: std::fs::File::open("/dev/null").ok(),
            mailbox,
            mail: Vec::new(),
            returned,
            turn: Turns::new(me, reactors, shard, outside, Bounds::of_each(config, usize::from(reactors))),
            entrance,
            key_cache_size: config.tls.key_cache_size,
            clock: Clock::default(),
            started_ns: machine_ns(),
            now: Now::default(),
            now_ns: 0,
            left: false,
        })
    }

    /// Turns until the process ends. An error is the poll's, and nothing can go on.
    pub fn run(mut self) -> io::Result<Infallible> {
        secured::set_key_cache(self.key_cache_size);
        let mut events = Events::with_capacity(EVENTS_MAX);
        let mut ended = machine_ns();
        loop {
            let until = self.sleeps_until();
            let timeout = until.map(|until| Duration::from_nanos(until.saturating_sub(ended)));
            match self.poll.poll(&mut events, timeout) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            }
            let began = machine_ns();
            self.read_clock(began, until);
            self.turn.begin(self.now, began);
            self.accept(&events);
            self.take_back();
            self.shake(&events);
            self.mailbox.drain(&mut self.mail);
            let ours = |token| !matches!(token, LISTENER | LINES | WAKER) && !is_handshake(token);
            let ready = events.iter().filter(|event| ours(event.token())).map(readiness);
            self.turn.run(ready, &mut self.mail);
            self.mailbox.keep(self.turn.mail_waiting());
            self.turn.host.send_gathered();
            self.leave();
            ended = machine_ns();
            self.clock.end(self.since_start(began), self.since_start(ended));
            let counters = &mut self.turn.shard.counters;
            counters.turns += 1;
            counters.turn.record_us((ended - began) / 1000);
        }
    }

    /// Until when the poll may sleep, by the machine's clock: 0 while work waits, else until a timer may be due.
    fn sleeps_until(&mut self) -> Option<u64> {
        let stepped = self.entrance.as_ref().is_some_and(Entrance::has_work);
        if self.accept_more || self.turn.has_work() || !self.mailbox.is_empty() || !self.returned.is_empty() || stepped
        {
            return Some(0);
        }
        let wake = self.turn.wake_at().map(|at| at.saturating_mul(NS_IN_MS));
        // Accepts are tried again in the next tick.
        let retry = (self.accept_paused > 0).then(|| self.now.tick + 1);
        let handshake = self.entrance.as_mut().and_then(Entrance::next_tick);
        let tick = retry.into_iter().chain(self.turn.next_tick()).chain(handshake).min();
        let timer = tick.map(|tick| self.started_ns + self.clock.at_ms(tick) * NS_IN_MS);
        wake.into_iter().chain(self.turn.flush_at()).chain(timer).min()
    }

    /// Milliseconds from the start of this reactor to `ns` of the machine's clock.
    fn since_start(&self, ns: u64) -> u64 {
        ns.saturating_sub(self.started_ns) / NS_IN_MS
    }

    /// All reactors share limits, so their clock has one beginning: the machine's. It is read twice in a turn, and the
    /// wall clock when a millisecond has passed.
    fn read_clock(&mut self, now_ns: u64, slept_until: Option<u64>) {
        let until_ms = slept_until.map(|until| self.since_start(until));
        let tick = self.clock.begin(self.since_start(now_ns), until_ms);
        let ms = now_ns / NS_IN_MS;
        let unix_ms = match ms == self.now.ms {
            true => self.now.unix_ms,
            false => unix_ms(),
        };
        (self.now, self.now_ns) = (Now { tick, ms, unix_ms }, now_ns);
    }

    /// Once told to drain: takes those who wait at the gates, closes them, and says once that nobody is left.
    fn leave(&mut self) {
        if !self.turn.is_draining() || self.left {
            return;
        }
        self.close_gates();
        if self.turn.conns.is_empty() && self.entrance.as_ref().is_none_or(Entrance::is_empty) {
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
