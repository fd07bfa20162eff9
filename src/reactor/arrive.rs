//! F10 · From the listener to a connection: accepting, and the limits asked before a byte is read.

use super::host::refuse_unread;
use super::socket::ReactorSocket;
use super::{ACCEPT_PAUSE, Detached, LINES, LISTENER, Reactor, Returned};
use crate::admission::Refused;
use mio::unix::SourceFd;
use mio::{Events, Interest, Token};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;

/// Where a connection comes in, which says how it speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    Http,
    Lines,
}

impl<S: ReactorSocket> Reactor<S> {
    pub(super) fn accept(&mut self, events: &Events) {
        let asked = events.iter().any(|event| matches!(event.token(), LISTENER | LINES));
        if self.now.tick < self.accept_paused {
            return;
        }
        let resumed = std::mem::take(&mut self.accept_paused) != 0;
        if !asked && !resumed && !self.accept_more {
            return;
        }
        self.accept_more = true;
        for _ in 0..self.turn.accept_budget() {
            if !self.accept_one() {
                self.accept_more = false;
                return;
            }
        }
    }

    /// Takes one connection; false when there is none, or when it must wait.
    fn accept_one(&mut self) -> bool {
        match self.knock() {
            Ok((stream, peer, gate)) => {
                let counters = &mut self.turn.shard.counters;
                counters.accepted += 1;
                counters.lines_accepted += u64::from(gate == Gate::Lines);
                let has_tls = self.entrance.is_some() && (gate == Gate::Http || self.lines_tls);
                let admission = &self.turn.host.admission;
                if !admission.accept(self.now_ns) {
                    // Dropped unread: the cheapest there is.
                    counters.limit_accept += 1;
                    return true;
                }
                let why = match admission.enter(peer.ip()) {
                    Ok(ip_key) if has_tls => {
                        self.welcome(stream, ip_key, gate);
                        return true;
                    }
                    Ok(ip_key) => {
                        self.open(Detached { stream, tunnel: None }, ip_key, gate);
                        return true;
                    }
                    Err(Refused::Address) => {
                        counters.limit_per_ip += 1;
                        "too many connections from this address"
                    }
                    Err(_) => {
                        counters.limit_sockets += 1;
                        "no file descriptors left"
                    }
                };
                // Who expects TLS could not read it.
                if !has_tls {
                    refuse_unread(&stream, why, gate);
                }
                true
            }
            Err(e) if is_exhausted(&e) => self.close_one_for_want_of_descriptors(),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => false,
            // The peer was gone before it was accepted, or the call was interrupted: the next may be well.
            Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => true,
            // Whatever it is, trying at once would not mend it.
            Err(_) => {
                self.accept_paused = self.now.tick + ACCEPT_PAUSE;
                false
            }
        }
    }

    /// The next connection, at either listener in turns; `WouldBlock` = at neither.
    fn knock(&mut self) -> io::Result<(TcpStream, SocketAddr, Gate)> {
        let mut gates = [(Gate::Http, &self.listener), (Gate::Lines, &self.lines)];
        if self.lines_first {
            gates.reverse();
        }
        for (gate, listener) in gates {
            let Some(listener) = listener else { continue };
            match listener.accept() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
                Ok((stream, peer)) => {
                    self.lines_first = gate == Gate::Http;
                    return Ok((stream.into(), peer, gate));
                }
            }
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// No descriptor is free: gives up the reserve to accept one connection and close it, so that its peer knows.
    /// The kernel wants a descriptor before it looks at its queue, so nobody may be there at all. If another thread was
    /// quicker to take what was given up, accepting pauses for a tick. Neither spins.
    fn close_one_for_want_of_descriptors(&mut self) -> bool {
        self.reserve = None;
        let taken = self.knock().is_ok();
        self.reserve = std::fs::File::open("/dev/null").ok();
        if taken {
            self.turn.shard.counters.descriptors_exhausted += 1;
        }
        if self.reserve.is_none() {
            self.accept_paused = self.now.tick + ACCEPT_PAUSE;
        }
        taken && self.reserve.is_some()
    }

    /// Sockets that other threads have for this reactor.
    pub(super) fn take_back(&mut self) {
        let mut all = Vec::new();
        self.returned.drain(&mut all);
        for Returned { socket, bytes, ip_key, call } in all {
            let Some(conn) = self.open(socket, ip_key, Gate::Http) else { continue };
            match call {
                Some(request) => self.turn.begin_call(conn, &request, &bytes),
                None => {
                    self.turn.shard.counters.handed_back += 1;
                    self.turn.begin_with(conn, &bytes);
                    if self.entrance.is_some() {
                        // Its TLS may hold more.
                        self.turn.look_at(conn);
                    }
                }
            }
        }
    }

    fn open(&mut self, socket: Detached, ip_key: u32, gate: Gate) -> Option<u32> {
        let Some(socket) = S::of(socket) else {
            self.turn.host.admission.leave(ip_key);
            return None;
        };
        let fd = socket.stream().as_raw_fd();
        let conn = match gate {
            Gate::Http => self.turn.accept(socket, ip_key),
            Gate::Lines => self.turn.accept_lines(socket, ip_key),
        };
        let interest = Interest::READABLE | Interest::WRITABLE;
        if self.poll.registry().register(&mut SourceFd(&fd), Token(conn as usize), interest).is_err() {
            self.turn.conns.kill(conn);
        }
        Some(conn)
    }

    /// Connections that the kernel completed before now are ours: takes them all, then closes the listeners.
    pub(super) fn close_gates(&mut self) {
        if self.listener.is_none() {
            return;
        }
        for _ in 0..2 * self.backlog {
            if !self.accept_one() {
                break;
            }
        }
        self.accept_more = false;
        for mut listener in self.listener.take().into_iter().chain(self.lines.take()) {
            let _ = self.poll.registry().deregister(&mut listener);
        }
    }
}

/// `EMFILE`, `ENFILE`: no descriptor left for this process or this machine; `ENOBUFS`, `ENOMEM`: no memory for it.
fn is_exhausted(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let exhausted = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    exhausted.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
