//! F8 · A turn of a reactor without its I/O: who is served, in which order, and how much each may cause.
//!
//! Owns the connections, their input and output, budgets, deadlines and the drain. Pure: sockets are a [`Socket`], time
//! is an argument, and what only a thread with a poll can do is asked of a [`Host`]. The reactor, the simulator and the
//! fuzzer run this code as it is.
//!
//! A turn, in this order:
//! ready sockets, one read each, and those that wait from the last turn -> mail -> timers -> a slice of the fan-out
//! -> flush of what is dirty, one write a connection -> relief of memory -> drain -> reap the dead
//! -> mail to other reactors.
//!
//! What keeps it cheap and fair:
//! - A connection is served once in a turn, and a socket is read once. What it causes has a [`Budget`]: the rest of its
//!   input waits, in its [`conns::Partial`] or in the socket, and goes on in the next turn after everyone else.
//! - Commands are carried out one by one. Before each, a full outbox is flushed; if the socket does not take it, the
//!   client ends (3008) and nothing more is encoded for it. While too many replies are owed, its input waits for them.
//! - A read shorter than its buffer has drained the socket, so none is made to see that nothing is there.
//! - Everything is read into one buffer. A connection owns bytes only while a frame or message of its own is cut by a
//!   read, while its input waits, or while its socket takes no more.
//! - Replies and pushes of a turn wait in the outbox until the flush, and leave in one write; with client.write_delay,
//!   those of several turns.
//! - A fan-out is done in slices; sockets, mail and timers get their turn between them.

mod bounds;
mod budget;
mod clock;
pub mod conns;
mod gap;
mod input;
mod leave;
pub mod lines;
mod mail;
pub mod outbox;
mod output;
mod relief;
pub mod request;
pub mod secured;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use bounds::Bounds;
pub use budget::{Budget, Wait};
pub use clock::Clock;
pub use gap::drop_publications;

use crate::base::metrics::Counters;
use crate::base::wheel::Tick;
use crate::broker::ConnKey;
use crate::broker::archive::ArchiveCall;
use crate::broker::engine::{Engine, EngineCall};
use crate::broker::log::LogCall;
use crate::config::Config;
use crate::http::{BODY_TAIL_MAX, Head};
use crate::session::backend::{Call, Hook};
use crate::session::{Now, Sessions};
use crate::shard::{ControlAnswer, Mail, Shard};
use crate::ws;
use conns::{Conns, Marks, Phase};
use leave::Drain;
use relief::Relief;
use request::{Decision, Introduction, Unopened};
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice};

/// A connection's bytes, in order, to and from a peer. Never waits: what cannot be done now is `WouldBlock`.
pub trait Socket {
    /// Takes bytes that came; 0 = the peer's end of the stream.
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize>;
    /// Gives bytes away; how many were taken. Less than all of them = no more until the socket is writable again.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;
    /// The same for several pieces, in their order.
    fn write_several(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize>;
    /// Says no more; what was written still arrives.
    fn end(&mut self);
    /// How far the peer came with what was written; `None` = nobody knows.
    fn taken(&self) -> Option<Taken>;
    /// After a read of `count` bytes into `room`: may there be more?
    fn has_more(&self, count: usize, room: usize) -> bool {
        count == room
    }
    /// Bytes that it took and cannot give yet, because others must come first.
    fn held(&self) -> usize {
        0
    }
    /// Did its stream end, or will it, without the peer's word that this is its end?
    fn is_cut(&self) -> bool {
        false
    }
    /// It is used no more: the last that may be said.
    fn close(&mut self) {}
    /// The peer's address, for the log; "" = it has none.
    fn peer(&self) -> String {
        String::new()
    }
}

/// How far a peer came with what it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// Bytes it has acknowledged since the connection began.
    pub acknowledged: u64,
    /// Bytes that were written and are not acknowledged.
    pub waiting: usize,
}

/// What a turn needs of the world: only a thread with a poll, a clock and random numbers has it.
pub trait Host {
    type Socket: Socket;

    /// What a request is for.
    fn decide<'a>(&mut self, head: &Head<'a>) -> Decision<'a>;
    /// What the backend is told of the client that sent `head`.
    fn introduce(&mut self, head: &Head<'_>) -> Introduction;
    /// May one more client come in? If not, why, for its 503; counted in `counters`.
    fn admit(&mut self, counters: &mut Counters) -> Result<(), &'static str>;
    /// 16 random bytes.
    fn id(&mut self) -> [u8; 16];
    /// Takes a socket whose request is not a reactor's, with the bytes read so far.
    fn hand_off(&mut self, socket: Self::Socket, bytes: &[u8], ip_key: u32, counters: &mut Counters);
    /// A connection is gone; its marks say what it was counted for.
    fn gone(&mut self, marks: Marks, ip_key: u32);
    /// Puts a proxy request to the application's backend, or has a worker do something; gives it back when too many are
    /// under way.
    // It comes back to be answered; a box would cost every one an allocation.
    #[expect(clippy::result_large_err)]
    fn ask(&mut self, call: Call) -> Result<(), Call>;
    /// A session is over: nobody waits for what workers were to do for it.
    fn forget(&mut self, key: ConnKey);
    /// Tells the backend what happened; may be dropped.
    fn hook(&mut self, hook: Hook);
    /// Gives a call to an engine; what comes of it comes by mail.
    fn engine(&mut self, engine: Engine, call: EngineCall);
    /// Gives publications to the log; the answers that it is given with them come by mail.
    fn log(&mut self, call: LogCall);
    /// The log takes nothing more for whose answer somebody would wait.
    fn log_is_full(&self) -> bool;
    /// Gives a call to the archive, likewise.
    fn archive(&mut self, call: ArchiveCall);
    /// That was the last one.
    fn end_archive(&mut self);
    /// Bytes that may still wait for the archive.
    fn archive_room(&self) -> usize;
    /// The answer to a request of the service thread.
    fn answer(&mut self, ticket: u64, answer: ControlAnswer);
    /// Does that reactor's mailbox take no more?
    fn is_full(&self, reactor: u16) -> bool;
    /// Sends all of `mail` to a reactor, whether its mailbox is full or not; leaves the vector empty.
    fn send(&mut self, reactor: u16, mail: &mut Vec<Mail>);
    /// The node serves by this configuration from now on.
    fn take_settings(&mut self, config: &Config);
    /// Bytes that are in use beyond overload.memory_limit, as far as this reactor is to give them up; 0 = none, or
    /// nobody has looked since this was asked last.
    fn memory_excess(&mut self) -> usize;
    /// Microseconds of a clock that never steps back; measures work, and decides nothing.
    fn micros(&mut self) -> u64;
}

/// What the poll says of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    pub conn: u32,
    pub readable: bool,
    pub writable: bool,
    /// The peer's end of the stream is behind what can be read.
    pub ended: bool,
    /// Neither side can speak any more.
    pub broken: bool,
}

/// Bytes of one read.
pub const READ_SIZE: usize = 64 * 1024;
/// Bytes of a frame that a decoder may leave for the next read: a control frame less its last byte.
const FRAME_TAIL_MAX: usize = 14 + ws::CONTROL_PAYLOAD_MAX;
/// Timers looked at in one turn: so few that who was pinged is still in the cache when the pongs come.
const TIMERS_MAX: usize = 64;
/// Bytes on their way to a peer that do not keep a ping from it.
const ON_THE_WAY: usize = 1024;
/// Connections looked at together before they are served.
const APPROACHED: usize = crate::shard::APPROACHED;

/// One reactor's part of the node, but for its poll.
pub struct Turns<H: Host> {
    pub host: H,
    pub conns: Conns<H::Socket>,
    pub shard: Shard,
    bounds: Bounds,
    now: Now,
    /// The low bits of the number of this turn, never 0.
    stamp: u8,
    /// More timers are due than one turn takes.
    timers_more: bool,
    /// Connections whose timers a turn looks at.
    due: Vec<u32>,
    /// Mail that was taken and not carried out yet.
    inbox: VecDeque<Mail>,
    /// Events of channels that wait because the hub is full, in their order, and what engines say of channels.
    held: VecDeque<Mail>,
    outgoing: Vec<Vec<Mail>>,
    read_buffer: Vec<u8>,
    echo_buffer: Vec<u8>,
    /// One for all connections; absent if compression is off.
    inflate: Option<ws::Inflate>,
    drain: Option<Drain>,
    relief: Relief,
    /// When the shard wants to be asked again, in milliseconds since 1970.
    wake_at: Option<u64>,
    /// When what is held back for client.write_delay must leave, as `now_ns`; `None` = nothing is.
    flush_at: Option<u64>,
    now_ns: u64,
    /// Bytes that were acknowledged when a pong was overdue, by the peers that were waited for because they take what
    /// the ping is behind.
    behind: BTreeMap<u32, u64>,
    /// Responses that begin when their clients are connected.
    unopened: BTreeMap<u32, Unopened>,
}

impl<H: Host> Turns<H> {
    /// `me` of `reactors`.
    pub fn new(me: u16, reactors: u16, shard: Shard, host: H, bounds: Bounds) -> Turns<H> {
        Turns {
            host,
            conns: Conns::new(me, bounds.outbox_bytes, bounds.write_delay_ns > 0),
            shard,
            now: Now::default(),
            stamp: 0,
            timers_more: false,
            due: Vec::new(),
            inbox: VecDeque::new(),
            held: VecDeque::new(),
            outgoing: (0..reactors).map(|_| Vec::new()).collect(),
            read_buffer: vec![0; READ_SIZE + bounds.head_bytes.max(FRAME_TAIL_MAX).max(BODY_TAIL_MAX)],
            echo_buffer: Vec::new(),
            inflate: bounds.inflates.then(ws::Inflate::default),
            drain: None,
            relief: Relief::default(),
            wake_at: None,
            flush_at: None,
            now_ns: 0,
            behind: BTreeMap::new(),
            unopened: BTreeMap::new(),
            bounds,
        }
    }

    /// Begins a turn: from here on it is `now`, and `now_ns` of the machine's clock that never steps back.
    pub fn begin(&mut self, now: Now, now_ns: u64) {
        (self.now, self.now_ns) = (now, now_ns);
        self.stamp = self.stamp.checked_add(1).unwrap_or(1);
        let host = &self.host;
        self.shard.set_archive_room(host.archive_room());
        self.shard.set_full((0..self.outgoing.len() as u16).map(|reactor| host.is_full(reactor)));
        self.shard.log_is_full = self.host.log_is_full();
    }

    /// All of a turn but its beginning. `mail` is what the mailbox had; it is left empty.
    pub fn run(&mut self, ready: impl Iterator<Item = Ready> + Clone, mail: &mut Vec<Mail>) {
        self.serve_queue();
        self.serve_ready(ready);
        self.read_mail(mail);
        self.run_timers();
        self.wake_at = self.shard.tick(self.now);
        self.fan_out();
        self.flush();
        self.relieve();
        self.drain_step();
        self.reap();
        self.send_mail();
    }

    /// A socket just accepted; its index.
    pub fn accept(&mut self, socket: H::Socket, ip_key: u32) -> u32 {
        self.accept_until(socket, ip_key, self.now.tick + self.bounds.handshake)
    }

    /// A socket whose request head is due by then.
    pub fn accept_until(&mut self, socket: H::Socket, ip_key: u32, due: Tick) -> u32 {
        let conn = self.conns.insert(socket, ip_key, due);
        self.conns.came(conn, self.now.tick);
        conn
    }

    /// When the request head of a socket accepted now is due.
    pub fn head_due(&self) -> Tick {
        self.now.tick + self.bounds.handshake
    }

    /// Its socket may have something to read, of which the poll will not tell.
    pub fn look_at(&mut self, conn: u32) {
        if let Some(it) = self.conns.get(conn) {
            it.marks.set(Marks::UNREAD, true);
            self.conns.queue(conn);
        }
    }

    /// Goes on with another configuration. What a connection has begun by the old one, it ends by the new one.
    fn take_settings(&mut self, config: &Config) {
        self.bounds = Bounds::of_each(config, self.outgoing.len());
        self.conns.set_outbox_max(self.bounds.outbox_bytes);
        self.host.take_settings(config);
    }

    /// Connections accepted in one turn.
    pub fn accept_budget(&self) -> usize {
        self.bounds.accepts
    }

    /// Is there work that waits for nothing?
    pub fn has_work(&self) -> bool {
        let more = self.timers_more || self.relief.is_under_way();
        more || self.conns.has_queued() || self.shard.has_work() || self.mail_waiting() > 0
    }

    /// When a timer may be due next, as far as it is known.
    pub fn next_tick(&mut self) -> Option<Tick> {
        let drains = self.drain.is_some().then(|| self.now.tick + 1);
        drains.into_iter().chain(self.conns.next_due()).min()
    }

    /// When the shard wants to be asked again, in milliseconds since 1970.
    pub fn wake_at(&self) -> Option<u64> {
        self.wake_at
    }

    /// When what clients are sent has waited long enough, by the clock of `now_ns`.
    pub fn flush_at(&self) -> Option<u64> {
        self.flush_at
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
        if now.tick >= it.io_due && !self.makes_progress(conn) {
            return self.time_out_io(conn);
        }
        let Some(it) = self.conns.get(conn) else { return };
        if it.partial.as_ref().is_some_and(|partial| now.tick >= partial.due) {
            self.shard.counters.message_timeouts += 1;
            if it.phase == Phase::Lines {
                return self.time_out_line(conn);
            }
            return self.end(conn, ws::close::POLICY_VIOLATION, "the message did not end in time");
        }
        let Some(session) = it.session.as_ref().filter(|session| now.tick >= session.next_deadline()) else { return };
        if session.pong_left(now) == Some(0)
            && self.pong_may_come(conn)
            && let Some(session) = self.conns.session(conn)
        {
            session.wait_on_for_pong(now, self.shard.rules());
        }
        self.shard.timeout(now, &mut self.conns, conn);
        self.act();
        if self.conns.owes_enough(conn, 1)
            && let Some(it) = self.conns.get(conn)
        {
            it.marks.set(Marks::PING_WAITS, true);
        }
    }

    /// A reply that was owed is there. A ping that stood behind it leaves only now.
    fn filled(&mut self, conn: u32) {
        // Who speaks in lines and has said all is left once it is owed nothing.
        if self.conns.get(conn).is_some_and(|it| it.phase == Phase::Lines && it.marks.has(Marks::ENDED)) {
            self.conns.queue(conn);
        }
        let waits = self.conns.get(conn).is_some_and(|it| it.marks.has(Marks::PING_WAITS));
        if waits
            && !self.conns.owes_enough(conn, 1)
            && let Some(it) = self.conns.get(conn)
        {
            it.marks.set(Marks::PING_WAITS, false);
            if let Some(session) = it.session.as_mut() {
                session.ping_leaves(self.now, self.shard.rules());
            }
        }
    }

    /// A pong is overdue. Is that no fault of the peer's? Its pong may lie here unread, unless it ended its stream and
    /// so left long ago; or the ping lies here behind replies that are owed, or behind what the peer takes steadily,
    /// and then it is judged by that.
    fn pong_may_come(&mut self, conn: u32) -> bool {
        let Some(it) = self.conns.get(conn) else { return false };
        if it.marks.has(Marks::HELD) || it.marks.has(Marks::UNREAD) {
            return !it.marks.has(Marks::ENDED);
        }
        if it.marks.has(Marks::PING_WAITS) || it.marks.has(Marks::BLOCKED) {
            return true;
        }
        let Some(taken) = it.socket.as_ref().and_then(Socket::taken) else { return false };
        let is_behind = taken.waiting > ON_THE_WAY;
        // Once it has taken everything, it may take as long as ever to answer.
        let before = self.behind.remove(&conn);
        let waits = before.map_or(is_behind, |before| taken.acknowledged > before);
        if waits && is_behind {
            self.behind.insert(conn, taken.acknowledged);
        }
        waits
    }

    /// The deadline of a handshake, a write or a close has come.
    fn time_out_io(&mut self, conn: u32) {
        let Some(it) = self.conns.get(conn) else { return };
        let counters = &mut self.shard.counters;
        match it.phase {
            Phase::Head | Phase::Body => counters.handshake_timeouts += 1,
            Phase::Echo | Phase::Client | Phase::Lines | Phase::Stream => counters.write_timeouts += 1,
            Phase::Closing | Phase::Dead => {}
        }
        it.marks.set(Marks::PEER_CLOSED, true);
        self.lost(conn);
    }

    /// The kernel tells that there is room only when much of it is free. A peer that takes a little in each second is
    /// not slow, so before it is judged, the socket is asked once more: what it takes now, the peer has taken.
    fn makes_progress(&mut self, conn: u32) -> bool {
        let now = self.now.tick;
        let Some(it) = self.conns.get(conn) else { return false };
        if !it.phase.is_open() || !it.marks.has(Marks::BLOCKED) {
            return false;
        }
        self.write_out(conn, true);
        self.conns.get(conn).is_some_and(|it| it.phase.is_open() && it.io_due > now)
    }

    fn fan_out(&mut self) {
        self.shard.fan_out(self.now, &mut self.conns, self.bounds.fanout_slice);
        self.settle_direct();
        self.act();
    }
}
