//! F10 · Connections between accept and the end of their TLS handshake.
//!
//! Owns their sockets, what they said that no worker has had yet, and what they are still to be sent. Workers carry the
//! handshakes out; who says nothing costs neither a thread nor more than its place here. When there are too many, the
//! oldest goes, so that those who do nothing keep nobody out; when they hold too many bytes, the one with most of them.
//! A turn carries on with so many of them as it accepts, and the next turn with others: clients that are there wait for
//! no more.
//! Invariant: `held` is the sum of all arrivals' `held`.

use super::arrive::Gate;
use super::socket::ReactorSocket;
use super::{Detached, HANDSHAKES, Reactor};
use crate::base::mailbox::Mailbox;
use crate::base::wheel::Tick;
use crate::broker::ConnKey;
use crate::tls::Tunnel;
use crate::workers::{Handshake, Handshakes, Next, Stepped};
use mio::unix::SourceFd;
use mio::{Events, Interest, Token};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use rustls::ProtocolVersion;
use slab::Slab;
use std::collections::VecDeque;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::sync::Arc;

/// Bytes of one read: a hello, or an answer.
const READ_SIZE: usize = 16 * 1024;
/// In the keys of handshakes, which workers must tell from those of connections.
const HANDSHAKE_BIT: u32 = 1 << 31;

/// A connection in its handshake.
struct Arrival {
    /// A worker has it too while it makes a step.
    stream: Arc<TcpStream>,
    ip_key: u32,
    gate: Gate,
    generation: u32,
    /// When its request head is due: the handshake is a part of that time.
    due: Tick,
    stage: Stage,
    /// To be sent.
    output: Vec<u8>,
    /// The socket may have something to read.
    unread: bool,
    /// Its stream is at an end behind what is unread, of which the poll told once and tells no more.
    ended: bool,
    /// It is among the work that waits.
    queued: bool,
    /// Bytes of it that wait for a worker, or for more.
    held: usize,
}

enum Stage {
    /// It must say more.
    Listens(Box<Handshake>),
    /// A worker has it.
    Away,
    /// Done, but for what is to be sent.
    Done(Box<Tunnel>),
    /// To be closed once it was told why, or had its answer.
    Failed,
}

/// What waits for its turn.
enum Work {
    Stepped(Stepped),
    /// The poll told of an arrival of this generation.
    Ready(u32, u32),
}

/// All of one reactor.
pub struct Entrance {
    arrivals: Slab<Arrival>,
    work: VecDeque<Work>,
    generation: u32,
    /// Each arrival with its generation, by the time it came; some are gone.
    line: VecDeque<(u32, u32)>,
    limit: usize,
    held: usize,
    memory_limit: usize,
    handshakes: Handshakes,
    stepped: Mailbox<Stepped>,
    batch: Vec<Stepped>,
    room: Vec<u8>,
}

impl Entrance {
    pub fn new(handshakes: Handshakes, stepped: Mailbox<Stepped>, limits: (usize, usize)) -> Entrance {
        let (arrivals, work, line) = (Slab::new(), VecDeque::new(), VecDeque::new());
        let (limit, memory_limit) = limits;
        let (batch, room) = (Vec::new(), vec![0; READ_SIZE]);
        Entrance { arrivals, work, generation: 0, line, limit, held: 0, memory_limit, handshakes, stepped, batch, room }
    }

    /// What workers did and the poll told, in this order: a peer answers what a worker sent.
    fn gather(&mut self, events: &Events) {
        self.stepped.collect(&mut self.batch);
        self.work.extend(self.batch.drain(..).map(Work::Stepped));
        for event in events.iter().filter(|event| is_handshake(event.token())) {
            let at = event.token().0 - HANDSHAKES;
            let Some(arrival) = self.arrivals.get_mut(at) else { continue };
            arrival.ended |= event.is_error() || event.is_read_closed();
            arrival.unread |= event.is_readable() || arrival.ended;
            if matches!(arrival.stage, Stage::Away) {
                // What comes of its step is wanted now.
                self.stepped.expect();
            }
            if !std::mem::replace(&mut arrival.queued, true) {
                self.work.push_back(Work::Ready(at as u32, arrival.generation));
            }
        }
    }

    /// What one holds now.
    fn count(&mut self, at: u32, held: usize) {
        let Some(arrival) = self.arrivals.get_mut(at as usize) else { return };
        self.held = self.held + held - std::mem::replace(&mut arrival.held, held);
    }

    /// One with the most bytes, if all hold more than they may.
    fn greediest(&self) -> Option<u32> {
        let over = self.held > self.memory_limit;
        over.then(|| self.arrivals.iter().max_by_key(|(_, arrival)| arrival.held)).flatten().map(|(at, _)| at as u32)
    }

    fn remove(&mut self, at: u32) -> Option<Arrival> {
        let arrival = self.arrivals.try_remove(at as usize)?;
        self.held -= arrival.held;
        Some(arrival)
    }

    pub fn is_empty(&self) -> bool {
        self.arrivals.is_empty()
    }

    /// Does anything wait for the reactor?
    pub fn has_work(&self) -> bool {
        !self.work.is_empty() || !self.stepped.is_empty()
    }

    /// When the first of them has had its time.
    pub fn next_tick(&mut self) -> Option<Tick> {
        self.oldest().and_then(|at| self.arrivals.get(at as usize)).map(|arrival| arrival.due)
    }

    /// The one that has been here for longest.
    fn oldest(&mut self) -> Option<u32> {
        while let Some((at, generation)) = self.line.front() {
            if self.arrivals.get(*at as usize).is_some_and(|arrival| arrival.generation == *generation) {
                return Some(*at);
            }
            self.line.pop_front();
        }
        None
    }
}

impl<S: ReactorSocket> Reactor<S> {
    /// A socket that was accepted begins its handshake.
    pub(super) fn welcome(&mut self, stream: TcpStream, ip_key: u32, gate: Gate) {
        let due = self.turn.head_due();
        let Some(entrance) = &mut self.entrance else { return };
        entrance.generation = entrance.generation.wrapping_add(1);
        let (fd, generation) = (stream.as_raw_fd(), entrance.generation);
        let stage = Stage::Listens(Box::default());
        // Its hello may be there already, but the poll tells of that.
        let (stream, output, unread, ended, queued) = (Arc::new(stream), Vec::new(), false, false, false);
        let arrival = Arrival { stream, ip_key, gate, generation, due, stage, output, unread, ended, queued, held: 0 };
        let at = entrance.arrivals.insert(arrival) as u32;
        entrance.line.push_back((at, generation));
        let crowded = entrance.arrivals.len() > entrance.limit;
        // That it can be written to is known.
        let interest = Interest::READABLE;
        if self.poll.registry().register(&mut SourceFd(&fd), Token(HANDSHAKES + at as usize), interest).is_err() {
            self.dismiss(at);
        } else if crowded && let Some(oldest) = self.entrance.as_mut().and_then(Entrance::oldest) {
            self.turn.shard.counters.tls_refused += 1;
            self.dismiss(oldest);
        }
    }

    /// What happened to handshakes since the last turn.
    pub(super) fn shake(&mut self, events: &Events) {
        let Some(entrance) = &mut self.entrance else { return };
        entrance.gather(events);
        for _ in 0..self.turn.accept_budget() {
            match self.entrance.as_mut().and_then(|entrance| entrance.work.pop_front()) {
                Some(Work::Stepped(stepped)) => self.take_step(stepped),
                Some(Work::Ready(at, generation)) => self.attend(at, generation),
                None => break,
            }
        }
        while let Some(oldest) = self.entrance.as_mut().and_then(Entrance::oldest) {
            let now = self.now.tick;
            if self.arrival(oldest).is_some_and(|arrival| arrival.due > now) {
                return;
            }
            self.turn.shard.counters.tls_timeouts += 1;
            self.dismiss(oldest);
        }
    }

    fn attend(&mut self, at: u32, generation: u32) {
        if let Some(arrival) = self.arrival(at).filter(|arrival| arrival.generation == generation) {
            arrival.queued = false;
            self.advance(at);
        }
    }

    fn arrival(&mut self, at: u32) -> Option<&mut Arrival> {
        self.entrance.as_mut()?.arrivals.get_mut(at as usize)
    }

    fn take_step(&mut self, Stepped { owner, output, next }: Stepped) {
        let at = owner.index & !HANDSHAKE_BIT;
        let Some(arrival) = self.arrival(at).filter(|arrival| arrival.generation == owner.generation) else { return };
        arrival.output = output;
        let held = if let Next::More(handshake) = &next { handshake.held() } else { 0 };
        let counters = &mut self.turn.shard.counters;
        let stage = match next {
            Next::More(handshake) => Stage::Listens(handshake),
            Next::Done { tunnel, resumed, version } => {
                counters.tls_handshakes += 1;
                counters.tls_resumed += u64::from(resumed);
                counters.tls_old += u64::from(version == u16::from(ProtocolVersion::TLSv1_2));
                Stage::Done(tunnel)
            }
            Next::Answered => Stage::Failed,
            Next::Failed(error) => {
                counters.tls_failed += 1;
                tracing::debug!(error, "a TLS handshake failed");
                Stage::Failed
            }
        };
        if let Some(arrival) = self.arrival(at) {
            arrival.stage = stage;
        }
        self.count(at, held);
        self.advance(at);
    }

    /// Goes as far as the socket allows.
    fn advance(&mut self, at: u32) {
        let Some(arrival) = self.arrival(at) else { return };
        if !arrival.output.is_empty() {
            match rustix::net::send(&arrival.stream, &arrival.output, SendFlags::NOSIGNAL) {
                Ok(sent) => drop(arrival.output.drain(..sent)),
                Err(error) if is_later(error) => {}
                Err(_) => return self.give_up(at),
            }
        }
        let sent = arrival.output.is_empty();
        let fd = arrival.stream.as_raw_fd();
        match arrival.stage {
            Stage::Failed => self.dismiss(at),
            Stage::Done(_) if sent => self.let_in(at),
            Stage::Listens(_) if sent && arrival.unread => self.listen_to(at),
            // Hardly ever: the rest leaves when the socket has room, which nobody has asked about yet.
            _ if !sent => {
                let (token, interest) = (Token(HANDSHAKES + at as usize), Interest::READABLE | Interest::WRITABLE);
                if self.poll.registry().reregister(&mut SourceFd(&fd), token, interest).is_err() {
                    self.give_up(at);
                }
            }
            Stage::Done(_) | Stage::Listens(_) | Stage::Away => {}
        }
    }

    /// Reads once, and has a worker make a step of it.
    fn listen_to(&mut self, at: u32) {
        let Some(entrance) = &mut self.entrance else { return };
        let Some(arrival) = entrance.arrivals.get_mut(at as usize) else { return };
        let came = match rustix::net::recv(&arrival.stream, &mut entrance.room[..], RecvFlags::empty()) {
            Ok((0, _)) => return self.give_up(at),
            Ok((count, _)) => {
                arrival.unread = count == entrance.room.len() || arrival.ended;
                entrance.room[..count].to_vec()
            }
            Err(error) => {
                arrival.unread = error == Errno::INTR;
                if !is_later(error) {
                    self.give_up(at);
                }
                return;
            }
        };
        let Stage::Listens(handshake) = std::mem::replace(&mut arrival.stage, Stage::Away) else { return };
        if arrival.unread {
            // The poll will not tell of it again.
            entrance.stepped.expect();
        }
        let (owner, held) = (owner(self.me, at, arrival.generation), handshake.held() + came.len());
        if !entrance.handshakes.offer(owner, handshake, came, arrival.stream.clone()) {
            self.turn.shard.counters.tls_refused += 1;
            return self.dismiss(at);
        }
        self.count(at, held);
    }

    /// What one holds now; others go if that is too much.
    fn count(&mut self, at: u32, held: usize) {
        let Some(entrance) = &mut self.entrance else { return };
        entrance.count(at, held);
        while let Some(greediest) = self.entrance.as_ref().and_then(Entrance::greediest) {
            self.turn.shard.counters.tls_refused += 1;
            self.dismiss(greediest);
        }
    }

    /// The peer is gone.
    fn give_up(&mut self, at: u32) {
        self.turn.shard.counters.tls_failed += 1;
        self.dismiss(at);
    }

    /// Closes it.
    fn dismiss(&mut self, at: u32) {
        let Some(entrance) = &mut self.entrance else { return };
        let Some(arrival) = entrance.remove(at) else { return };
        if matches!(arrival.stage, Stage::Away) {
            entrance.handshakes.forget(owner(self.me, at, arrival.generation));
        }
        self.turn.shard.counters.closed += 1;
        self.turn.host.admission.leave(arrival.ip_key);
    }

    /// The handshake is done: from here on it is a connection like any other.
    fn let_in(&mut self, at: u32) {
        let Some(arrival) = self.entrance.as_mut().and_then(|entrance| entrance.remove(at)) else {
            return;
        };
        let Stage::Done(tunnel) = arrival.stage else { return };
        // The worker gave its own back before it told of the end.
        let Some(stream) = Arc::into_inner(arrival.stream) else {
            return self.turn.host.admission.leave(arrival.ip_key);
        };
        let came = tunnel.held() > 0;
        let detached = Detached { stream, tunnel: Some(tunnel) };
        let Some(socket) = S::of(detached) else { return };
        let fd = socket.stream().as_raw_fd();
        let conn = match arrival.gate {
            Gate::Http => self.turn.accept_until(socket, arrival.ip_key, arrival.due),
            Gate::Lines => self.turn.accept_lines(socket, arrival.ip_key),
        };
        let interest = Interest::READABLE | Interest::WRITABLE;
        if self.poll.registry().reregister(&mut SourceFd(&fd), Token(conn as usize), interest).is_err() {
            self.turn.conns.kill(conn);
        }
        // What comes from now on the poll tells of; this was read already.
        if came {
            self.turn.look_at(conn);
        }
    }
}

pub fn is_handshake(token: Token) -> bool {
    (HANDSHAKES..2 * HANDSHAKES).contains(&token.0)
}

fn owner(reactor: u16, at: u32, generation: u32) -> ConnKey {
    ConnKey { reactor, index: at | HANDSHAKE_BIT, generation }
}

fn is_later(error: Errno) -> bool {
    matches!(error, Errno::AGAIN | Errno::INTR)
}
