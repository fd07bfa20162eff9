//! F8 · The end of connections: close frames, the drain, and the freeing of slots.

use super::conns::{Marks, Phase};
use super::{Host, Socket, Turns};
use crate::base::wheel::Tick;
use crate::protocol::code::Disconnect;
use crate::session::Sessions;
use crate::ws;
use bytes::Bytes;

/// The leaving: clients still to be told, spread over the ticks that are left.
pub struct Drain {
    until: Tick,
    told: Tick,
    cursor: u32,
}

impl<H: Host> Turns<H> {
    /// No more of this connection: the peer is gone, or has had its time.
    pub fn lost(&mut self, conn: u32) {
        let Some(it) = self.conns.get(conn) else { return };
        if !it.marks.has(Marks::PEER_CLOSED) && it.phase.is_open() {
            self.shard.counters.resets += 1;
        }
        self.shard.close(self.now, &mut self.conns, conn, None);
        self.conns.kill(conn);
        self.act();
    }

    /// Ends a WebSocket with a close frame of the server's.
    pub(super) fn end(&mut self, conn: u32, code: u16, reason: &str) {
        self.end_with(conn, ws::close_frame(code, reason));
    }

    pub(super) fn end_with(&mut self, conn: u32, frame: Bytes) {
        let unconnected = self.conns.session(conn).is_some_and(|session| session.is_connecting());
        self.shard.close(self.now, &mut self.conns, conn, None);
        self.act();
        if unconnected {
            self.conns.cut_at_hole(conn);
        }
        self.conns.close_with(conn, frame, self.now.tick + self.bounds.close, false);
    }

    /// Lets the clients go, from the next tick on, spread over their time unless it is to be `at_once`. Those that wait
    /// at the door are taken first: the reactor's part.
    pub(super) fn begin_drain(&mut self, at_once: bool) {
        let now = self.now.tick;
        let until = if at_once { now } else { now + self.bounds.drain_spread };
        match &mut self.drain {
            None => self.drain = Some(Drain { until, told: now, cursor: 0 }),
            Some(drain) if at_once => (drain.until, drain.cursor) = (now, 0),
            Some(_) => {}
        }
    }

    /// Does this reactor leave?
    pub fn is_draining(&self) -> bool {
        self.drain.is_some()
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

    fn tell_to_go(&mut self, conn: u32, last: bool) -> bool {
        let Some(it) = self.conns.get(conn) else { return false };
        match it.phase {
            Phase::Client | Phase::Lines | Phase::Stream => {
                self.shard.close(self.now, &mut self.conns, conn, Some(Disconnect::SHUTDOWN))
            }
            Phase::Echo => self.end(conn, ws::close::GOING_AWAY, "shutdown"),
            // Its request is under way, and will be refused; or it never comes.
            Phase::Head | Phase::Body if last => self.conns.kill(conn),
            Phase::Head | Phase::Body | Phase::Closing | Phase::Dead => return false,
        }
        self.act();
        true
    }

    pub(super) fn reap(&mut self) {
        let (host, closed, behind) = (&mut self.host, &mut self.shard.counters.closed, &mut self.behind);
        let unopened = &mut self.unopened;
        self.conns.reap(|conn, mut it| {
            *closed += 1;
            it.socket.iter_mut().for_each(Socket::close);
            behind.remove(&conn);
            unopened.remove(&conn);
            host.gone(it.marks, it.ip_key);
        });
        self.shard.counters.messages_sent = self.conns.queued;
        self.shard.connections = self.conns.len();
    }
}
