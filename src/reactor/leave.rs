//! F10 · The end of connections: close frames, the drain, and the freeing of slots.

use super::conn::Phase;
use super::{Drain, Reactor};
use crate::protocol::code::Disconnect;
use crate::ws;
use bytes::Bytes;

/// The close code of a slow peer of the echo endpoint, which knows no 3008: policy violation.
const ECHO_SLOW: u16 = 1008;

impl Reactor {
    /// Ends a WebSocket with a close frame of the server's.
    pub(super) fn end(&mut self, conn: u32, code: u16, reason: &str) {
        self.end_with(conn, ws::close_frame(code, reason));
    }

    pub(super) fn end_with(&mut self, conn: u32, frame: Bytes) {
        self.shard.close(self.now, &mut self.conns, conn, None);
        self.act();
        self.conns.close_with(conn, frame, self.now.tick + self.limits.close, false);
    }

    pub(super) fn begin_drain(&mut self) {
        if self.drain.is_some() {
            return;
        }
        // Connections that the kernel completed before now are ours: take them all, then close the door.
        for _ in 0..self.limits.backlog {
            if !self.accept_one() {
                break;
            }
        }
        self.accept_more = false;
        if let Some(mut listener) = self.listener.take() {
            let _ = self.poll.registry().deregister(&mut listener);
        }
        let now = self.now.tick;
        self.drain = Some(Drain { until: now + self.limits.drain_spread, told: now, cursor: 0, over: false });
    }

    /// Says once that nobody is left.
    pub(super) fn tell_if_drained(&mut self) {
        if let Some(drain) = &mut self.drain
            && !drain.over
            && self.conns.is_empty()
        {
            drain.over = true;
            (self.links.drained)();
        }
    }

    /// A peer that does not read what it is sent.
    pub(super) fn end_slow(&mut self, conn: u32) {
        match self.conns.get(conn).map(|it| it.phase) {
            Some(Phase::Client | Phase::Stream) => {
                self.shard.close(self.now, &mut self.conns, conn, Some(Disconnect::SLOW))
            }
            Some(Phase::Echo) => self.end(conn, ECHO_SLOW, "slow"),
            _ => return,
        }
        self.act();
        self.flush_one(conn);
    }

    /// Each tick, tells its share of the connections to go.
    pub(super) fn drain_step(&mut self) {
        let Some(drain) = &mut self.drain else { return };
        if self.now.tick <= drain.told {
            return;
        }
        drain.told = self.now.tick;
        let left = drain.until.saturating_sub(self.now.tick);
        let share = if left == 0 { usize::MAX } else { self.conns.len().div_ceil(left as usize + 1) };
        let (mut cursor, mut told) = (drain.cursor, 0);
        while cursor < self.conns.bound() && told < share {
            told += usize::from(self.tell_to_go(cursor, left == 0));
            cursor += 1;
        }
        if let Some(drain) = &mut self.drain {
            drain.cursor = if left == 0 { 0 } else { cursor };
        }
        self.flush();
    }

    pub(super) fn tell_to_go(&mut self, conn: u32, last: bool) -> bool {
        let Some(it) = self.conns.get(conn) else { return false };
        match it.phase {
            Phase::Client | Phase::Stream => {
                self.shard.close(self.now, &mut self.conns, conn, Some(Disconnect::SHUTDOWN))
            }
            Phase::Echo => self.end(conn, ws::close::GOING_AWAY, "shutdown"),
            // Its request is under way, and will be refused; or it never comes.
            Phase::Head | Phase::Body if last => self.conns.kill(conn),
            _ => return false,
        }
        self.act();
        true
    }

    pub(super) fn reap(&mut self) {
        let (admission, closed) = (&self.admission, &mut self.shard.counters.closed);
        self.conns.reap(|it| {
            *closed += 1;
            if it.entered {
                admission.leave(it.ip_key);
            }
            if it.admitted {
                admission.dismiss();
            }
        });
        if !self.again.is_empty() {
            let conns = &mut self.conns;
            self.again.retain(|(conn, _)| conns.get(*conn).is_some());
        }
        self.shard.counters.messages_sent = self.conns.queued;
        self.shard.connections = self.conns.len();
    }
}
