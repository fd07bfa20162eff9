//! F10 · From a ready socket to items: one read, whatever is whole in it, and the rest kept for the next.

use super::conn::Phase;
use super::outbox::read;
use super::{LISTENER, READ_SIZE, Reactor, WAKER};
use crate::shard::APPROACHED;
use crate::wire::Wire;
use crate::ws::{self, Fault, Item, Kind, Step};
use bytes::Bytes;
use mio::Events;
use std::io;
use std::time::Instant;

impl Reactor {
    pub(super) fn read_ready(&mut self, events: &Events) {
        for (conn, ended) in std::mem::take(&mut self.again) {
            self.read(conn, ended);
        }
        let mut ahead = events.iter();
        for (at, event) in events.iter().enumerate() {
            if at % APPROACHED == 0 {
                self.conns.approach_whole(ahead.by_ref().take(APPROACHED).map(|event| event.token().0 as u32));
            }
            if matches!(event.token(), LISTENER | WAKER) {
                continue;
            }
            let conn = event.token().0 as u32;
            if event.is_writable()
                && let Some(it) = self.conns.get(conn)
                && std::mem::take(&mut it.blocked)
            {
                self.flush_one(conn);
            }
            if event.is_readable() || event.is_error() {
                self.read(conn, event.is_read_closed() || event.is_error());
            }
        }
    }

    /// One read of one socket. `ended`: the peer's end of the stream is behind what can be read.
    pub(super) fn read(&mut self, conn: u32, ended: bool) {
        let Some(it) = self.conns.get(conn) else { return };
        let Some(stream) = it.stream.as_ref().filter(|_| it.phase != Phase::Dead) else { return };
        let mut buffer = std::mem::take(&mut self.read_buffer);
        let held = it.partial.as_ref().map_or(0, |partial| {
            buffer[..partial.tail.len()].copy_from_slice(&partial.tail);
            partial.tail.len()
        });
        let room = &mut buffer[held..held + READ_SIZE];
        self.shard.counters.reads += 1;
        match read(stream, room) {
            Ok(0) => self.end_of_stream(conn),
            Ok(count) => {
                self.shard.counters.bytes_received += count as u64;
                self.take_bytes(conn, &mut buffer[..held + count]);
                if count == READ_SIZE {
                    self.again.push((conn, ended));
                } else if ended {
                    self.end_of_stream(conn);
                }
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => self.again.push((conn, ended)),
            Err(_) => self.lost(conn),
        }
        self.read_buffer = buffer;
    }

    /// The peer says no more. It may still read: an answer or close frame that waits is sent first.
    pub(super) fn end_of_stream(&mut self, conn: u32) {
        let waits = self.conns.has_outbox(conn);
        match self.conns.get(conn) {
            Some(it) if it.phase == Phase::Closing && waits => it.peer_closed = true,
            Some(it) => {
                // The end of a stream has no other sign.
                it.peer_closed |= it.phase == Phase::Stream;
                self.lost(conn);
            }
            None => {}
        }
    }

    /// No more of this connection: the peer is gone, or has had its time.
    pub(super) fn lost(&mut self, conn: u32) {
        let Some(it) = self.conns.get(conn) else { return };
        if !it.peer_closed && matches!(it.phase, Phase::Echo | Phase::Client | Phase::Stream) {
            self.shard.counters.resets += 1;
        }
        self.shard.close(self.now, &mut self.conns, conn, None);
        self.conns.kill(conn);
        self.act();
    }

    /// Bytes for one connection, those left from before in front.
    pub(super) fn take_bytes(&mut self, conn: u32, bytes: &mut [u8]) {
        let Some(it) = self.conns.get(conn) else { return };
        let used = match it.phase {
            Phase::Head => self.take_head(conn, bytes),
            Phase::Echo | Phase::Client => self.take_frames(conn, bytes),
            Phase::Body => self.take_body(conn, bytes),
            Phase::Stream => bytes.len(),
            Phase::Closing => self.take_last(conn, bytes),
            Phase::Dead => bytes.len(),
        };
        self.keep_tail(conn, &bytes[used..]);
    }

    /// Keeps what could not be used yet, or gives the buffers back if nothing is left.
    pub(super) fn keep_tail(&mut self, conn: u32, tail: &[u8]) {
        let Some(it) = self.conns.get(conn) else { return };
        if matches!(it.phase, Phase::Dead) || it.partial.is_none() && tail.is_empty() {
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

    /// WebSocket frames; bytes used.
    pub(super) fn take_frames(&mut self, conn: u32, bytes: &mut [u8]) -> usize {
        let Some(it) = self.conns.get(conn) else { return bytes.len() };
        let echo = it.phase == Phase::Echo;
        let deadline = it.session.as_ref().map(|session| session.next_deadline());
        let limit = match it.session.as_ref().map(|session| session.wire()) {
            _ if echo => self.limits.echo_bytes,
            Some(Wire::UniWebSocket) => self.limits.uni_message_bytes,
            _ => self.limits.message_bytes,
        };
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
                Step::Fault(fault) => self.fail(conn, fault),
            }
            if !self.is_open(conn) {
                break;
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
            it.awaits_close = false;
        }
    }

    /// Are its messages still wanted?
    fn is_open(&mut self, conn: u32) -> bool {
        self.conns.get(conn).is_some_and(|it| matches!(it.phase, Phase::Echo | Phase::Client))
    }

    pub(super) fn take_item(&mut self, conn: u32, item: Item<'_>) {
        match item {
            Item::Message(kind, message) => self.take_message(conn, kind, message),
            Item::Deflated(kind, payload) => self.take_deflated(conn, kind, payload),
            Item::Part(part) => {
                if let Some(partial) = self.conns.partial(conn) {
                    partial.message.extend_from_slice(part);
                }
            }
            Item::Last(kind, part) => {
                self.take_last_part(conn, part, |this, whole| this.take_message(conn, kind, whole))
            }
            Item::LastDeflated(kind, part) => {
                self.take_last_part(conn, part, |this, whole| this.take_deflated(conn, kind, whole));
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

    /// The last piece of a message that came in parts; `take` gets the whole.
    fn take_last_part(&mut self, conn: u32, part: &[u8], take: impl FnOnce(&mut Reactor, &[u8])) {
        let Some(partial) = self.conns.partial(conn) else { return };
        partial.message.extend_from_slice(part);
        let message = std::mem::take(&mut partial.message);
        take(self, &message);
        // Give the room back to the buffers, which decide how much of it to keep.
        if let Some(it) = self.conns.get(conn)
            && let Some(partial) = it.partial.as_mut()
        {
            partial.message = message;
            partial.message.clear();
        }
    }

    /// A compressed message; the session knows nothing of that.
    fn take_deflated(&mut self, conn: u32, kind: Kind, payload: &[u8]) {
        let Some(mut inflate) = self.inflate.take() else { return };
        let echo = self.conns.get(conn).is_some_and(|it| it.phase == Phase::Echo);
        let limit = if echo { self.limits.echo_bytes } else { self.limits.inflated_bytes };
        match inflate.message(kind, payload, limit) {
            Ok(message) => self.take_message(conn, kind, message),
            Err(fault) => self.fail(conn, fault),
        }
        self.inflate = Some(inflate);
    }

    pub(super) fn take_message(&mut self, conn: u32, kind: Kind, message: &[u8]) {
        self.shard.counters.messages_received += 1;
        if let Some(it) = self.conns.get(conn)
            && it.phase == Phase::Echo
        {
            let window_bits = it.window_bits;
            let opcode = if kind == Kind::Text { ws::Opcode::Text } else { ws::Opcode::Binary };
            return match self.shard.deflater.payload(message, window_bits) {
                Some(payload) => ws::push_deflated_frame(&mut self.echo_buffer, opcode, payload),
                None => ws::push_frame(&mut self.echo_buffer, opcode, message),
            };
        }
        self.take_commands(conn, message);
    }

    /// A whole message of a client's, however it came.
    pub(super) fn take_commands(&mut self, conn: u32, message: &[u8]) {
        let began = Instant::now();
        self.shard.message(self.now, &mut self.conns, conn, message);
        self.act();
        self.shard.counters.command.record_us(began.elapsed().as_micros() as u64);
    }

    /// What arrives after a close frame or an answer was queued: only the peer's close matters.
    pub(super) fn take_last(&mut self, conn: u32, bytes: &mut [u8]) -> usize {
        let Some(it) = self.conns.get(conn).filter(|it| it.awaits_close) else { return bytes.len() };
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
}
