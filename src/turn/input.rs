//! F8 · From a ready socket to commands: one read, whatever is whole in it, and the rest kept.
//!
//! Owns who goes on when: a connection is served once in a turn, within its budget. What it sent beyond that is held:
//! frames in `Partial::tail`, commands of a message that has begun in `Partial::rest`. While anything is held, its
//! socket is not read, so its peer's kernel holds the rest.

use super::conns::{Marks, Phase};
use super::{APPROACHED, Budget, Host, READ_SIZE, Ready, Socket, Turns, Wait};
use crate::base::wheel::NEVER;
use crate::protocol::Encoding;
use crate::protocol::code::Disconnect;
use crate::wire::Wire;
use crate::ws::{self, Fault, Item, Kind, Step};
use bytes::Bytes;
use std::io;

impl<H: Host> Turns<H> {
    /// Bytes of a connection that others read before it came here: it goes on with them in this turn.
    pub fn begin_with(&mut self, conn: u32, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if let Some(partial) = self.conns.partial(conn) {
            partial.tail.clear();
            partial.tail.extend_from_slice(bytes);
        }
        if let Some(it) = self.conns.get(conn) {
            it.marks.set(Marks::HELD, true);
        }
        self.conns.queue(conn);
    }

    /// Those that wait from the last turn, each once.
    pub(super) fn serve_queue(&mut self) {
        let queue = self.conns.take_queue();
        for group in queue.chunks(APPROACHED) {
            self.conns.approach_whole(group.iter().copied());
            group.iter().for_each(|conn| self.serve(*conn));
        }
    }

    /// Those that the poll names.
    pub(super) fn serve_ready(&mut self, ready: impl Iterator<Item = Ready> + Clone) {
        let mut ahead = ready.clone();
        for (at, ready) in ready.enumerate() {
            if at % APPROACHED == 0 {
                self.conns.approach_whole(ahead.by_ref().take(APPROACHED).map(|ready| ready.conn));
            }
            self.be_ready(ready);
        }
    }

    fn be_ready(&mut self, ready: Ready) {
        let Ready { conn, readable, writable, ended, broken } = ready;
        let Some(it) = self.conns.get(conn) else { return };
        if writable && it.marks.take(Marks::BLOCKED) {
            self.flush_one(conn);
        }
        let Some(it) = self.conns.get(conn).filter(|_| readable || broken) else { return };
        it.marks.set(Marks::UNREAD, true);
        if ended || broken {
            it.marks.set(Marks::ENDED, true);
        }
        let connecting = it.session.as_ref().is_some_and(|session| session.is_connecting());
        // Who speaks in lines may have said all and only read.
        let is_deaf = ended && connecting && it.phase != Phase::Lines;
        if it.marks.has(Marks::PAUSED) && (broken || is_deaf) {
            // Nobody is left to be answered.
            return self.lost(conn);
        }
        match it.served == self.stamp {
            true => self.conns.queue(conn),
            false => self.serve(conn),
        }
    }

    /// What one connection may do in this turn: goes on with what is held, then reads once.
    fn serve(&mut self, conn: u32) {
        let stamp = self.stamp;
        let Some(it) = self.conns.get(conn) else { return };
        if it.marks.has(Marks::PAUSED) || it.phase == Phase::Dead {
            return;
        }
        it.served = stamp;
        let mut left = self.bounds.budget;
        if it.marks.has(Marks::HELD) {
            self.go_on(conn, &mut left);
        }
        if self.conns.get(conn).is_some_and(|it| it.marks.has(Marks::UNREAD) && !it.marks.has(Marks::HELD)) {
            self.read(conn, &mut left);
        }
        let Some(it) = self.conns.get(conn) else { return };
        if it.marks.has(Marks::ENDED) && !it.marks.has(Marks::HELD) && !it.marks.has(Marks::UNREAD) {
            self.end_of_stream(conn);
        }
        self.conns.count_sealed(conn);
        if self.conns.get(conn).is_some_and(|it| it.partial.is_some()) {
            self.watch_partial(conn);
        }
    }

    /// Input that was held: the rest of a message's commands, then the frames behind it.
    fn go_on(&mut self, conn: u32, left: &mut Budget) {
        let Some(it) = self.conns.get(conn) else { return };
        it.marks.set(Marks::HELD, false);
        let Some(partial) = it.partial.as_mut() else { return };
        let (rest, at) = (std::mem::take(&mut partial.rest), std::mem::take(&mut partial.rest_at));
        if !rest.is_empty() {
            let stopped = self.run_commands(conn, &rest, at, left);
            self.keep_rest(conn, rest, stopped);
            // Nothing of a stream's client is read, behind which its deadline would be looked at.
            self.conns.arm(conn);
        }
        let Some(it) = self.conns.get(conn).filter(|it| !it.marks.has(Marks::HELD)) else { return };
        let Some(partial) = it.partial.as_ref() else { return };
        let held = partial.tail.len();
        let mut buffer = std::mem::take(&mut self.read_buffer);
        buffer[..held].copy_from_slice(&partial.tail);
        self.take_bytes(conn, &mut buffer[..held], left);
        self.read_buffer = buffer;
    }

    /// Puts the buffer of commands back: to be carried out from `stopped` on, or for its room.
    fn keep_rest(&mut self, conn: u32, mut rest: Vec<u8>, stopped: Option<usize>) {
        let Some(partial) = self.conns.get(conn).and_then(|it| it.partial.as_mut()) else { return };
        match stopped {
            Some(at) => partial.rest_at = at,
            None => rest.clear(),
        }
        partial.rest = rest;
    }

    /// One read of one socket.
    fn read(&mut self, conn: u32, left: &mut Budget) {
        let Some(it) = self.conns.get(conn) else { return };
        let Some(socket) = it.socket.as_mut().filter(|_| it.phase != Phase::Dead) else { return };
        let mut buffer = std::mem::take(&mut self.read_buffer);
        let held = it.partial.as_ref().map_or(0, |partial| {
            buffer[..partial.tail.len()].copy_from_slice(&partial.tail);
            partial.tail.len()
        });
        let room = &mut buffer[held..held + READ_SIZE];
        self.shard.counters.reads += 1;
        let result = socket.read(room);
        // A read that does not fill the buffer has drained the socket, unless it knows better.
        let more = match &result {
            Ok(count) => socket.has_more(*count, READ_SIZE),
            Err(e) => e.kind() == io::ErrorKind::Interrupted,
        };
        it.marks.set(Marks::UNREAD, more);
        match result {
            Ok(0) => self.end_of_stream(conn),
            Ok(count) => {
                self.shard.counters.bytes_received += count as u64;
                self.take_bytes(conn, &mut buffer[..held + count], left);
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.lost(conn),
        }
        if more {
            self.conns.queue(conn);
        }
        self.read_buffer = buffer;
    }

    /// Bytes for one connection, those left from before in front.
    fn take_bytes(&mut self, conn: u32, bytes: &mut [u8], left: &mut Budget) {
        let Some(it) = self.conns.get(conn) else { return };
        let used = match it.phase {
            Phase::Head => self.take_head(conn, bytes, left),
            Phase::Echo | Phase::Client => self.take_frames(conn, bytes, left),
            Phase::Body => self.take_body(conn, bytes, left),
            Phase::Lines => self.take_lines(conn, bytes, left),
            Phase::Stream => bytes.len(),
            Phase::Closing => self.take_last(conn, bytes),
            Phase::Dead => bytes.len(),
        };
        self.keep_tail(conn, &bytes[used..]);
    }

    /// Keeps what could not be used yet, or gives the buffers back if nothing is left.
    fn keep_tail(&mut self, conn: u32, tail: &[u8]) {
        let Some(it) = self.conns.get(conn) else { return };
        if it.phase == Phase::Dead || it.partial.is_none() && tail.is_empty() {
            return;
        }
        if tail.is_empty() && it.partial.as_ref().is_some_and(|partial| partial.is_idle()) {
            return self.conns.give_partial_back(conn);
        }
        if let Some(partial) = self.conns.partial(conn) {
            partial.tail.clear();
            partial.tail.extend_from_slice(tail);
        }
    }

    /// What a connection holds is counted, and must be finished in time.
    fn watch_partial(&mut self, conn: u32) {
        let due = self.now.tick + self.bounds.message;
        self.conns.count_partial(conn);
        let Some(it) = self.conns.get(conn) else { return };
        let awaited = it.phase.is_open() && !it.marks.has(Marks::HELD);
        if let Some(partial) = it.partial.as_mut() {
            partial.due = match awaited {
                true => partial.due.min(due),
                // It waits for this node, not for its peer.
                false => NEVER,
            };
        }
        self.conns.arm(conn);
        if self.conns.held_bytes() > self.bounds.held_bytes && self.conns.holds_its_share(conn) {
            self.refuse_partial(conn);
        }
    }

    /// All connections together hold more than they may, and this one no less than its share.
    fn refuse_partial(&mut self, conn: u32) {
        self.shard.counters.limit_held += 1;
        match self.conns.get(conn).map(|it| it.phase) {
            Some(Phase::Echo | Phase::Client) => {
                self.end(conn, ws::close::TRY_AGAIN_LATER, "too many unfinished messages")
            }
            Some(Phase::Stream | Phase::Lines) => {
                self.shard.close(self.now, &mut self.conns, conn, Some(Disconnect::TOO_MANY_REQUESTS));
                self.act();
            }
            Some(Phase::Head | Phase::Body) => {
                let text = "too many unfinished requests";
                let answer = crate::http::answer(503, "Service Unavailable", "Retry-After: 1\r\n", text);
                self.answer(conn, 503, answer);
            }
            Some(Phase::Closing | Phase::Dead) | None => {}
        }
    }

    /// Must this connection's input wait, and why? A full outbox is flushed first; a peer that does not take it is
    /// ended, and nothing more is encoded for it.
    pub(super) fn must_wait(&mut self, conn: u32, left: &Budget) -> Option<Wait> {
        if self.conns.is_full(conn) {
            self.judge_full(conn);
        }
        if let Some(wait) = left.spent() {
            return Some(wait);
        }
        if self.conns.owes_enough(conn, self.bounds.unanswered) {
            return Some(Wait::Unanswered);
        }
        let session = self.conns.get(conn).and_then(|it| it.session.as_ref());
        session.is_some_and(|session| session.is_connecting()).then_some(Wait::Connecting)
    }

    /// The rest of this connection's input waits.
    pub(super) fn hold(&mut self, conn: u32, wait: Wait) {
        if let Some(label) = wait.label() {
            self.shard.counters.waits[label] += 1;
        }
        let paused = matches!(wait, Wait::Unanswered | Wait::Connecting);
        if let Some(it) = self.conns.get(conn) {
            it.marks.set(Marks::HELD, true);
            it.marks.set(Marks::PAUSED, paused);
        }
        if self.conns.partial(conn).is_some() && !paused {
            self.conns.queue(conn);
        }
    }

    /// Is its input still wanted?
    pub(super) fn is_open(&mut self, conn: u32) -> bool {
        self.conns.get(conn).is_some_and(|it| it.phase.is_open())
    }

    pub(super) fn is_held(&mut self, conn: u32) -> bool {
        self.conns.get(conn).is_some_and(|it| it.marks.has(Marks::HELD))
    }

    /// WebSocket frames; bytes used.
    pub(super) fn take_frames(&mut self, conn: u32, bytes: &mut [u8], left: &mut Budget) -> usize {
        let Some(it) = self.conns.get(conn) else { return bytes.len() };
        let echo = it.phase == Phase::Echo;
        let deadline = it.session.as_ref().map(|session| session.next_deadline());
        let limit = match it.session.as_ref().map(|session| session.wire()) {
            _ if echo => self.bounds.echo_bytes,
            Some(Wire::UniWebSocket) => self.bounds.uni_message_bytes,
            _ => self.bounds.message_bytes,
        };
        let mut decoder = std::mem::take(&mut it.decoder);
        let mut used = 0;
        self.echo_buffer.clear();
        while used < bytes.len() && !self.is_held(conn) && self.is_open(conn) {
            if let Some(wait) = self.must_wait(conn, left) {
                self.hold(conn, wait);
                break;
            }
            match decoder.next(&mut bytes[used..], limit) {
                Step::More => break,
                Step::Item(size, item) => {
                    self.take_item(conn, item, left);
                    used += size;
                }
                Step::Fault(fault) => self.fail(conn, fault),
            }
        }
        let Some(it) = self.conns.get(conn) else { return bytes.len() };
        it.decoder = decoder;
        if it.phase == Phase::Closing {
            return used + self.take_last(conn, &mut bytes[used..]);
        }
        if echo {
            self.write_echo(conn);
        } else if it.session.as_ref().map(|session| session.next_deadline()) > deadline {
            self.conns.rearm(conn);
        } else {
            self.conns.arm(conn);
        }
        used
    }

    /// Ends a connection whose peer broke the protocol.
    fn fail(&mut self, conn: u32, fault: Fault) {
        self.write_echo(conn);
        *self.shard.counters.faults.entry(fault.code()).or_default() += 1;
        self.end(conn, fault.code(), fault.reason());
        // Its frames cannot be read any more (RFC 6455 section 7.1.7).
        if let Some(it) = self.conns.get(conn) {
            it.marks.set(Marks::AWAITS_CLOSE, false);
        }
    }

    fn take_item(&mut self, conn: u32, item: Item<'_>, left: &mut Budget) {
        if let Item::Part(part) = item {
            left.charge(0, 0);
            if let Some(partial) = self.conns.partial(conn) {
                partial.message.extend_from_slice(part);
            }
            return;
        }
        match item {
            Item::Message(kind, message) => self.take_message(conn, kind, message, left),
            Item::Deflated(kind, payload) => self.take_deflated(conn, kind, payload, left),
            Item::Last(kind, part) => {
                self.take_last_part(conn, part, |this, whole| this.take_message(conn, kind, whole, left));
            }
            Item::LastDeflated(kind, part) => {
                self.take_last_part(conn, part, |this, whole| this.take_deflated(conn, kind, whole, left));
            }
            Item::Ping(payload) => {
                left.charge(payload.len() as u64, 0);
                if self.conns.get(conn).is_some_and(|it| it.phase == Phase::Echo) {
                    ws::push_frame(&mut self.echo_buffer, ws::Opcode::Pong, payload);
                } else {
                    self.conns.send(conn, ws::control_frame(ws::Opcode::Pong, payload));
                }
            }
            Item::Pong(_) => {
                left.charge(0, 0);
                self.shard.pong_frame(&mut self.conns, conn);
            }
            Item::Close(code, _) => self.take_close(conn, code),
            Item::Part(_) => {}
        }
        // What is cut by the next read is another message's.
        if let Some(partial) = self.conns.get(conn).and_then(|it| it.partial.as_mut())
            && partial.message.is_empty()
        {
            partial.due = NEVER;
        }
    }

    fn take_close(&mut self, conn: u32, code: Option<u16>) {
        self.write_echo(conn);
        if let Some(it) = self.conns.get(conn) {
            it.marks.set(Marks::PEER_CLOSED, true);
        }
        match code {
            Some(code) => self.end(conn, code, ""),
            None => self.end_with(conn, Bytes::from_static(b"\x88\0")),
        }
    }

    /// The last piece of a message that came in parts; `take` gets the whole.
    pub(super) fn take_last_part(&mut self, conn: u32, part: &[u8], take: impl FnOnce(&mut Turns<H>, &[u8])) {
        let Some(partial) = self.conns.partial(conn) else { return };
        partial.message.extend_from_slice(part);
        let message = std::mem::take(&mut partial.message);
        take(self, &message);
        // Give the room back to the buffers, which decide how much of it to keep.
        if let Some(partial) = self.conns.get(conn).and_then(|it| it.partial.as_mut()) {
            partial.message = message;
            partial.message.clear();
        }
    }

    /// A compressed message; the session knows nothing of that.
    fn take_deflated(&mut self, conn: u32, kind: Kind, payload: &[u8], left: &mut Budget) {
        let Some(mut inflate) = self.inflate.take() else { return };
        let echo = self.conns.get(conn).is_some_and(|it| it.phase == Phase::Echo);
        let limit = if echo { self.bounds.echo_bytes } else { self.bounds.inflated_bytes };
        match inflate.message(kind, payload, limit) {
            Ok(message) => self.take_message(conn, kind, message, left),
            Err(fault) => self.fail(conn, fault),
        }
        self.inflate = Some(inflate);
    }

    /// A whole message, however it came.
    pub(super) fn take_message(&mut self, conn: u32, kind: Kind, message: &[u8], left: &mut Budget) {
        left.charge_decoded(message.len());
        let Some(it) = self.conns.get(conn) else { return };
        if it.phase != Phase::Echo {
            if matches!(it.phase, Phase::Client | Phase::Lines) {
                self.shard.counters.messages_received += 1;
            }
            if let Some(at) = self.run_commands(conn, message, 0, left)
                && let Some(partial) = self.conns.partial(conn)
            {
                partial.rest.extend_from_slice(&message[at..]);
            }
            return;
        }
        self.shard.counters.messages_received += 1;
        left.charge(message.len() as u64, 0);
        let window_bits = it.window_bits;
        let opcode = if kind == Kind::Text { ws::Opcode::Text } else { ws::Opcode::Binary };
        match self.shard.deflater.payload(message, window_bits) {
            Some(payload) => ws::push_deflated_frame(&mut self.echo_buffer, opcode, payload),
            None => ws::push_frame(&mut self.echo_buffer, opcode, message),
        }
    }

    /// The commands of a message, one by one, from `at` on. Where it stopped, if the rest must wait.
    fn run_commands(&mut self, conn: u32, message: &[u8], mut at: usize, left: &mut Budget) -> Option<usize> {
        let began = self.host.micros();
        let stopped = loop {
            if let Some(wait) = self.must_wait(conn, left).filter(|_| self.is_open(conn)) {
                self.hold(conn, wait);
                break Some(at);
            }
            if !self.is_open(conn) {
                break None;
            }
            let (before, searched) = (self.conns.queued_bytes, self.shard.searched_bytes);
            let used = self.shard.command(self.now, &mut self.conns, conn, &message[at..], at == 0);
            self.act();
            left.charge(self.conns.queued_bytes - before, self.shard.take_checks());
            left.charge_decoded((self.shard.searched_bytes - searched) as usize);
            at += used;
            if at >= message.len() {
                break None;
            }
        };
        self.shard.counters.command.record_us(self.host.micros() - began);
        stopped
    }

    /// Commands of a client that speaks by other requests: they stand behind those that it sent before.
    pub(super) fn take_commands(&mut self, conn: u32, message: &[u8]) {
        let limit = self.bounds.message_bytes;
        let Some(wire) = self.conns.get(conn).and_then(|it| it.session.as_ref()).map(|session| session.wire()) else {
            return;
        };
        let Some(partial) = self.conns.partial(conn) else { return };
        // A client that always has more to say would keep here all that it ever said.
        partial.forget_done();
        let separated = wire.encoding() == Encoding::Json && !partial.rest.is_empty();
        // A line end behind the last command begins no other.
        let message = if separated { message.trim_ascii() } else { message };
        if partial.rest.len() - partial.rest_at + message.len() > limit {
            self.shard.close(self.now, &mut self.conns, conn, Some(Disconnect::TOO_MANY_REQUESTS));
            return self.act();
        }
        if separated {
            partial.rest.push(b'\n');
        }
        partial.rest.extend_from_slice(message);
        if let Some(it) = self.conns.get(conn) {
            it.marks.set(Marks::HELD, true);
        }
        self.conns.count_partial(conn);
        if self.conns.get(conn).is_some_and(|it| !it.marks.has(Marks::PAUSED)) {
            self.conns.queue(conn);
        }
    }

    /// What arrives after a close frame or an answer was queued: only the peer's close matters.
    fn take_last(&mut self, conn: u32, bytes: &mut [u8]) -> usize {
        let awaits = |it: &&mut super::conns::Conn<H::Socket>| it.marks.has(Marks::AWAITS_CLOSE);
        let Some(it) = self.conns.get(conn).filter(awaits) else { return bytes.len() };
        let mut decoder = std::mem::take(&mut it.decoder);
        let (mut used, mut closed) = (0, false);
        let left = loop {
            match decoder.next(&mut bytes[used..], self.bounds.message_bytes) {
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
            it.marks.set(Marks::PEER_CLOSED, closed || it.marks.has(Marks::PEER_CLOSED));
        }
        if closed && !self.conns.has_outbox(conn) {
            self.conns.kill(conn);
        }
        left
    }

    /// Writes what the echo endpoint has to say of this read, in one call and without a copy kept.
    pub(super) fn write_echo(&mut self, conn: u32) {
        if self.echo_buffer.is_empty() {
            return;
        }
        let bytes = std::mem::take(&mut self.echo_buffer);
        self.write_now(conn, &bytes);
        self.echo_buffer = bytes;
        self.echo_buffer.clear();
        self.echo_buffer.shrink_to(READ_SIZE * 2);
    }

    /// The peer says no more. It may still read: an answer or close frame that waits is sent first.
    fn end_of_stream(&mut self, conn: u32) {
        let waits = self.conns.has_outbox(conn);
        let it = self.conns.get(conn).filter(|it| it.phase.is_open());
        if it.and_then(|it| it.socket.as_ref()).is_some_and(Socket::is_cut) {
            self.shard.counters.tls_cut += 1;
        }
        match self.conns.get(conn) {
            Some(it) if it.phase == Phase::Closing && waits => it.marks.set(Marks::PEER_CLOSED, true),
            Some(it) if it.phase == Phase::Lines => self.end_of_lines(conn),
            Some(it) => {
                // The end of a stream has no other sign.
                if it.phase == Phase::Stream {
                    it.marks.set(Marks::PEER_CLOSED, true);
                }
                self.lost(conn);
            }
            None => {}
        }
    }
}
