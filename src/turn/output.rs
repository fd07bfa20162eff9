//! F8 · What leaves: carrying out what the shard gave, the flush, and peers that do not take what they are sent.

use super::conns::{Marks, Phase};
use super::{APPROACHED, Host, Socket, Turns};
use crate::protocol::code::Disconnect;
use crate::shard::Out;
use bytes::Bytes;

/// The close code of a slow peer of the echo endpoint, which knows no 3008: policy violation.
const ECHO_SLOW: u16 = 1008;

impl<H: Host> Turns<H> {
    /// Does what the shard gave out.
    pub(super) fn act(&mut self) {
        let mut out = std::mem::take(&mut self.shard.out);
        let mut refused = Vec::new();
        for act in out.drain(..) {
            match act {
                Out::Send { conn, frame } => {
                    self.open_response(conn);
                    self.conns.send(conn, frame);
                }
                Out::Hole { conn, ticket, large } => {
                    // So many large replies may be owed at once that they would fill the outbox.
                    let weight = if large { self.bounds.outbox_bytes / LARGE_HOLES } else { HOLE_BYTES };
                    self.conns.send_hole(conn, ticket, weight.min(u32::MAX as usize) as u32);
                }
                Out::Fill { conn, ticket, frame } => {
                    self.open_response(conn);
                    self.conns.fill(conn, ticket, frame);
                    self.filled(conn);
                }
                Out::Close { conn, wire, disconnect, answer, unconnected } => {
                    tracing::debug!(conn, code = disconnect.code, reason = %disconnect.reason, "client closed");
                    if self.answer_unopened(conn, answer.as_deref()) {
                        continue;
                    }
                    self.open_response(conn);
                    if unconnected {
                        self.conns.cut_at_hole(conn);
                    }
                    let hurry = disconnect.code == Disconnect::SLOW.code;
                    let frame = wire.close(&disconnect);
                    if let Some(it) = self.conns.get(conn).filter(|_| disconnect.is_silent()) {
                        // No close frame, so none to wait for.
                        it.marks.set(Marks::AWAITS_CLOSE, false);
                    }
                    self.conns.close_with(conn, frame, self.now.tick + self.bounds.close, hurry);
                }
                Out::Sooner { conn } => self.conns.arm(conn),
                Out::Commands { conn, message } => self.take_commands(conn, &message),
                Out::Mail { reactor, mail } => self.outgoing[usize::from(reactor)].push(mail),
                Out::Answer { ticket, answer } => self.host.answer(ticket, answer),
                Out::Ask(call) => {
                    if let Err(call) = self.host.ask(*call) {
                        refused.push(call);
                    }
                }
                Out::Gone(key) => self.host.forget(key),
                Out::Hook(hook) => self.host.hook(hook),
                Out::Engine { engine, call } => self.host.engine(engine, call),
                Out::Log(call) => self.host.log(call),
                Out::Archive(call) => self.host.archive(call),
                Out::ArchiveEnded => self.host.end_archive(),
                Out::Rejected { conn, user, cause } => self.tell_rejected(conn, &user, cause),
                Out::Drain { at_once } => self.begin_drain(at_once),
                Out::Settings(settings) => self.take_settings(&settings.config),
            }
        }
        self.shard.out = out;
        for call in refused {
            self.shard.refuse_call(self.now, &mut self.conns, call);
            self.act();
        }
    }

    /// Who came without good credentials, for whoever looks for it: one line for each is too much otherwise.
    fn tell_rejected(&mut self, conn: u32, user: &str, cause: &str) {
        if tracing::enabled!(tracing::Level::DEBUG) {
            let address = self.conns.get(conn).and_then(|it| it.socket.as_ref().map(Socket::peer)).unwrap_or_default();
            tracing::debug!(conn, address, user, cause, "credentials refused");
        }
    }

    /// Writes at once if nothing waits before it, and queues what the socket does not take.
    pub(super) fn write_now(&mut self, conn: u32, bytes: &[u8]) {
        self.conns.write_now(conn, bytes, |at| Bytes::copy_from_slice(&bytes[at..]));
        self.settle_direct();
    }

    /// Counts what was written past the outboxes, and lets go of the connections on which that failed.
    pub(super) fn settle_direct(&mut self) {
        let (wrote, failed) = self.conns.take_direct();
        self.shard.counters.writes += u64::from(wrote.calls);
        self.shard.counters.bytes_sent += wrote.bytes as u64;
        for conn in failed {
            self.lost(conn);
        }
    }

    /// One write for each connection that has something to say, unless it waits to say more.
    pub(super) fn flush(&mut self) {
        if self.flush_at.is_some_and(|at| self.now_ns >= at) {
            self.conns.release_delayed();
        }
        let dirty = self.conns.take_dirty();
        for group in dirty.chunks(APPROACHED) {
            self.conns.approach_whole(group.iter().copied());
            for &conn in group {
                self.flush_one(conn);
            }
        }
        self.conns.restore_dirty(dirty);
        self.judge_all_full();
        self.flush_at = match self.conns.has_delayed() {
            true => self.flush_at.filter(|at| *at > self.now_ns).or(Some(self.now_ns + self.bounds.write_delay_ns)),
            false => None,
        };
    }

    /// Judges those whose outbox went over its limit.
    pub(super) fn judge_all_full(&mut self) {
        for conn in self.conns.take_full() {
            self.judge_full(conn);
        }
    }

    /// A burst to a peer that reads is none of its fault: only what the socket does not take counts.
    pub(super) fn judge_full(&mut self, conn: u32) {
        if self.conns.is_full(conn) {
            self.flush_one(conn);
        }
        if self.conns.is_full(conn) {
            self.end_slow(conn);
        }
    }

    pub(super) fn flush_one(&mut self, conn: u32) {
        self.write_out(conn, false);
        if !self.conns.has_outbox(conn)
            && let Some(it) = self.conns.get(conn)
            && it.phase == Phase::Closing
        {
            if it.marks.has(Marks::PEER_CLOSED) {
                return self.conns.kill(conn);
            }
            // A WebSocket waits for the peer's close frame; an HTTP answer ends with the stream.
            if let (false, Some(socket)) = (it.marks.has(Marks::AWAITS_CLOSE), &mut it.socket) {
                socket.end();
            }
        }
    }

    /// Writes what waits. `retry`: although the socket took no more the last time.
    pub(super) fn write_out(&mut self, conn: u32, retry: bool) {
        let wrote = self.conns.flush(conn, self.now.tick, self.bounds.write, retry);
        let counters = &mut self.shard.counters;
        match wrote {
            Ok(Some(wrote)) => {
                counters.writes += u64::from(wrote.calls);
                counters.bytes_sent += wrote.bytes as u64;
                counters.writes_blocked += u64::from(wrote.blocked);
            }
            Ok(None) => {}
            Err(_) => self.lost(conn),
        }
    }

    /// A peer that does not read what it is sent.
    fn end_slow(&mut self, conn: u32) {
        match self.conns.get(conn).map(|it| it.phase) {
            Some(Phase::Client | Phase::Lines | Phase::Stream) => {
                self.shard.close(self.now, &mut self.conns, conn, Some(Disconnect::SLOW))
            }
            Some(Phase::Echo) => self.end(conn, ECHO_SLOW, "slow"),
            Some(Phase::Head | Phase::Body | Phase::Closing | Phase::Dead) | None => return,
        }
        self.act();
        self.flush_one(conn);
    }
}

/// What a reply that is owed counts for: a short one.
const HOLE_BYTES: usize = 64;
/// Large replies owed to one client, at most.
const LARGE_HOLES: usize = 4;
