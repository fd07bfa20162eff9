//! F10 · From the listener to a spoken protocol: accept, the request head, and the limits asked on the way.

use super::conn::Phase;
use super::handshake::{self, Decision};
use super::{ACCEPT_PAUSE, ANSWER_TICKS, Entry, LISTENER, Reactor, Refused};
use crate::base::wheel::NEVER;
use crate::http::{Head, HeadError, answer};
use crate::ws;
use bytes::Bytes;
use mio::unix::SourceFd;
use mio::{Events, Interest, Token};
use std::io::{self, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;

impl Reactor {
    pub(super) fn accept(&mut self, events: &Events) {
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
    pub(super) fn accept_one(&mut self) -> bool {
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
                    Err(Refused::Address) => {
                        self.shard.counters.limit_per_ip += 1;
                        refuse_unread(&stream, "too many connections from this address");
                    }
                    Err(_) => {
                        self.shard.counters.limit_sockets += 1;
                        refuse_unread(&stream, "no file descriptors left");
                    }
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

    /// No descriptor is free: gives up the reserve to accept one connection and close it, so that its peer knows.
    /// The kernel wants a descriptor before it looks at its queue, so nobody may be there at all. If another thread was
    /// quicker to take what was given up, accepting pauses for a tick. Neither spins.
    pub(super) fn close_one_for_want_of_descriptors(&mut self) -> bool {
        self.reserve = None;
        let taken = self.listener.as_ref().is_some_and(|listener| listener.accept().is_ok());
        self.reserve = std::fs::File::open("/dev/null").ok();
        if taken {
            self.shard.counters.descriptors_exhausted += 1;
        }
        if self.reserve.is_none() {
            self.accept_paused = self.now.tick + ACCEPT_PAUSE;
        }
        taken && self.reserve.is_some()
    }

    pub(super) fn open(&mut self, stream: TcpStream, ip_key: u32) {
        let fd = stream.as_raw_fd();
        let conn = self.conns.insert(stream, ip_key, self.now.tick + self.limits.handshake);
        let interest = Interest::READABLE | Interest::WRITABLE;
        if self.poll.registry().register(&mut SourceFd(&fd), Token(conn as usize), interest).is_err() {
            self.conns.kill(conn);
        }
    }

    /// A request head, or the beginning of one; bytes used.
    pub(super) fn take_head(&mut self, conn: u32, bytes: &mut [u8]) -> usize {
        let head = match Head::parse(bytes) {
            Ok(None) if bytes.len() < self.limits.head_bytes => return 0,
            Ok(Some(head)) if head.size <= self.limits.head_bytes => head,
            Ok(_) => return self.refuse_head(conn, HeadError::TooLarge, bytes.len()),
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
            Decision::Stream(mut request) => {
                request.headers = forwarded(&head, &self.forwarded);
                request.trusted_user = trusted_user(&head, &self.user_header).into();
                return size + self.take_request(conn, request, &bytes[size..]);
            }
            Decision::Client { upgrade, subprotocol, wire, frame_pings } => {
                if self.admit(conn) {
                    let id = self.next_id();
                    let wire = if upgrade.deflate.is_some_and(ws::Agreed::shares) { wire.deflated() } else { wire };
                    let mut session = self.shard.open(self.now, id, wire, frame_pings);
                    session.set_headers(forwarded(&head, &self.forwarded));
                    session.set_trusted_user(trusted_user(&head, &self.user_header));
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

    pub(super) fn refuse_head(&mut self, conn: u32, error: HeadError, used: usize) -> usize {
        let (status, text) = handshake::refuse_head(error);
        self.answer(conn, status, text);
        used
    }

    pub(super) fn answer(&mut self, conn: u32, status: u16, text: Bytes) {
        *self.shard.counters.answers.entry(status).or_default() += 1;
        self.conns.close_with(conn, text, self.now.tick + ANSWER_TICKS, false);
    }

    /// Asks the node's limits; a refusal is answered here.
    pub(super) fn admit(&mut self, conn: u32) -> bool {
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
            // Asked when the socket came.
            Err(Refused::Address | Refused::Sockets) => "too many connections",
            Err(Refused::Draining) => "this node is shutting down",
        };
        self.answer(conn, 503, answer(503, "Service Unavailable", "Retry-After: 1\r\n", why));
        false
    }

    /// Answers 101 and begins to speak frames.
    pub(super) fn switch(&mut self, conn: u32, upgrade: &ws::Upgrade<'_>, subprotocol: Option<&str>, phase: Phase) {
        let mut bytes = std::mem::take(&mut self.echo_buffer);
        bytes.clear();
        ws::respond(upgrade, subprotocol, &mut bytes);
        if let Some(it) = self.conns.get(conn) {
            it.phase = phase;
            it.awaits_close = true;
            it.io_due = NEVER;
            if let Some(agreed) = upgrade.deflate {
                it.decoder = ws::Decoder::deflating();
                it.window_bits = agreed.window_bits();
            }
        }
        self.write_now(conn, &bytes);
        self.echo_buffer = bytes;
    }

    /// 16 random bytes.
    pub(super) fn next_id(&mut self) -> [u8; 16] {
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
    pub(super) fn hand_off(&mut self, conn: u32, bytes: &[u8]) {
        let Some(it) = self.conns.get(conn) else { return };
        let Some(stream) = it.stream.take() else { return };
        // The service thread's connections count as this one did, until they end there.
        it.entered = false;
        let entry = Entry::new(self.admission.clone(), it.ip_key);
        // The service thread has a poll of its own; this one must forget the socket first.
        let _ = self.poll.registry().deregister(&mut SourceFd(&stream.as_raw_fd()));
        match (self.links.hand_off)(stream, Bytes::copy_from_slice(bytes), entry) {
            Ok(()) => self.shard.counters.handed_off += 1,
            Err(stream) => {
                self.shard.counters.limit_service += 1;
                refuse_unread(&stream, "too many HTTP connections");
            }
        }
        self.conns.kill(conn);
    }
}

/// Lines `name: value` of the headers that the backend is told of: all lines of a name, in their order. Each byte of a
/// value is a character, for not every value is UTF-8.
fn forwarded(head: &Head<'_>, names: &[String]) -> Box<str> {
    let mut text = String::new();
    for (name, value) in names.iter().flat_map(|name| head.lines(name).map(move |value| (name, value))) {
        text.extend([name, ": "]);
        text.extend(value.iter().copied().map(char::from));
        text.push('\n');
    }
    text.into()
}

/// Who the client is by the header that a proxy sets (client.user_id_http_header); "" = nobody says. With two of that
/// name, one may be the client's own.
fn trusted_user<'h>(head: &Head<'h>, name: &str) -> &'h str {
    head.only(name).unwrap_or("")
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
