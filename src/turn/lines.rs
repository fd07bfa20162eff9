//! F8 · Clients that speak in lines, on a port without HTTP: a command in each, as JSON.
//!
//! Owns their way in, how lines are told apart, and their end. What a line says is for the session; what it may cause
//! has the same budget as a frame's.

use super::conns::{Marks, Phase};
use super::request::{ANSWER_TICKS, Introduction};
use super::{Budget, Host, Turns};
use crate::base::wheel::NEVER;
use crate::protocol::code::Disconnect;
use crate::session::Sessions;
use crate::wire::Wire;
use crate::ws::Kind;
use bytes::Bytes;

const LINE_TOO_LONG: &str = "the line is longer than tcp_line.message_size_limit";
const LINE_TOO_LATE: &str = "the line did not end in time";

/// The last line to somebody who does not get in.
pub fn refusal(why: &'static str) -> Bytes {
    Wire::LineJson.close(&Disconnect { reason: why.into(), ..Disconnect::TOO_MANY_REQUESTS })
}

impl<H: Host> Turns<H> {
    /// A socket just accepted whose peer speaks in lines; its index.
    pub fn accept_lines(&mut self, socket: H::Socket, ip_key: u32) -> u32 {
        let conn = self.accept_until(socket, ip_key, NEVER);
        if let Err(why) = self.host.admit(&mut self.shard.counters) {
            self.conns.close_with(conn, refusal(why), self.now.tick + ANSWER_TICKS, false);
            return conn;
        }
        self.shard.counters.upgrades += 1;
        if let Some(it) = self.conns.get(conn) {
            it.marks.set(Marks::ADMITTED, true);
            it.phase = Phase::Lines;
        }
        self.open_session(conn, Wire::LineJson, false, Introduction::default());
        self.conns.arm(conn);
        conn
    }

    /// Lines; bytes used. One that has not ended is kept with the message that it will be.
    pub(super) fn take_lines(&mut self, conn: u32, bytes: &[u8], left: &mut Budget) -> usize {
        let deadline = self.conns.session(conn).map(|session| session.next_deadline());
        let mut used = 0;
        while used < bytes.len() && !self.is_held(conn) && self.is_open(conn) {
            if let Some(wait) = self.must_wait(conn, left) {
                self.hold(conn, wait);
                break;
            }
            let rest = &bytes[used..];
            let end = rest.iter().position(|byte| *byte == b'\n');
            self.take_line(conn, &rest[..end.unwrap_or(rest.len())], end.is_some(), left);
            used += end.map_or(rest.len(), |end| end + 1);
        }
        match self.conns.session(conn).map(|session| session.next_deadline()) > deadline {
            true => self.conns.rearm(conn),
            false => self.conns.arm(conn),
        }
        used
    }

    /// A line without its end, or the part of one that is there.
    fn take_line(&mut self, conn: u32, line: &[u8], is_whole: bool, left: &mut Budget) {
        let before = self.conns.get(conn).and_then(|it| it.partial.as_ref()).map_or(0, |partial| partial.message.len());
        if before + line.len() > self.bounds.line_bytes {
            self.shard.counters.lines_too_long += 1;
            return self.end_lines(conn, LINE_TOO_LONG);
        }
        match (is_whole, before) {
            (true, 0) => self.take_command(conn, line, left),
            (true, _) => {
                self.take_last_part(conn, line, |this, whole| this.take_command(conn, whole, left));
                // What is cut by the next read is another line.
                if let Some(partial) = self.conns.get(conn).and_then(|it| it.partial.as_mut()) {
                    partial.due = NEVER;
                }
            }
            (false, _) => {
                left.charge(0, 0);
                if let Some(partial) = self.conns.partial(conn) {
                    partial.message.extend_from_slice(line);
                }
            }
        }
    }

    /// Some end their lines with CR LF. An empty line means nothing, and costs as much as a command.
    fn take_command(&mut self, conn: u32, line: &[u8], left: &mut Budget) {
        match line.trim_ascii() {
            [] => left.charge(0, 0),
            command => self.take_message(conn, Kind::Text, command, left),
        }
    }

    /// The peer began a line and did not end it in time.
    pub(super) fn time_out_line(&mut self, conn: u32) {
        self.end_lines(conn, LINE_TOO_LATE);
    }

    fn end_lines(&mut self, conn: u32, why: &'static str) {
        let told = Disconnect { reason: why.into(), ..Disconnect::BAD_REQUEST };
        self.shard.close(self.now, &mut self.conns, conn, Some(told));
        self.act();
    }

    /// The peer says no more, and may still read, as programs in a pipe do: what it is owed and what waits for it is
    /// sent first. A line that has not ended may have been cut, and is not carried out.
    pub(super) fn end_of_lines(&mut self, conn: u32) {
        if self.conns.owes_enough(conn, 1) {
            return;
        }
        self.shard.close(self.now, &mut self.conns, conn, None);
        self.act();
        if let Some(it) = self.conns.get(conn) {
            it.marks.set(Marks::PEER_CLOSED, true);
        }
        self.conns.close_with(conn, Bytes::new(), self.now.tick + self.bounds.close, false);
    }
}
