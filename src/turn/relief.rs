//! F8 · What waits for clients while memory is over its limit.
//!
//! Owns who goes then: those for which most waits, as with input that is held. Knows nothing of how memory is measured:
//! the host says how much is too much, and is asked only while outboxes hold more than their part of the limit. Those
//! that are looked at in one turn have a bound.

use super::conns::Phase;
use super::{Host, READ_SIZE, Turns};
use crate::protocol::code::Disconnect;

/// Connections looked at in one turn.
const LOOKED_AT: u32 = 16_384;

/// How much is still to be given up, and by whom next.
#[derive(Debug, Default)]
pub struct Relief {
    bytes: usize,
    cursor: u32,
}

impl Relief {
    /// Is there more to be given up?
    pub fn is_under_way(&self) -> bool {
        self.bytes > 0
    }
}

impl<H: Host> Turns<H> {
    /// While memory is over its limit, ends clients for which no less waits than for the others on average, until as
    /// much was given up as there is too much of, or the rest is a small part of the limit.
    pub(super) fn relieve(&mut self) {
        if self.conns.output_bytes() <= self.bounds.output_bytes {
            self.relief.bytes = 0;
            return;
        }
        if self.relief.bytes == 0 {
            self.relief.bytes = self.host.memory_excess();
        }
        for _ in 0..LOOKED_AT {
            if self.relief.bytes == 0 || self.conns.output_bytes() <= self.bounds.output_bytes {
                self.relief.bytes = 0;
                break;
            }
            let conn = self.relief.cursor;
            self.relief.cursor = if conn < self.conns.bound() { conn + 1 } else { 0 };
            if self.conns.has_its_share(conn) {
                let before = self.conns.output_bytes();
                self.give_up(conn);
                self.relief.bytes = self.relief.bytes.saturating_sub(before - self.conns.output_bytes());
            }
        }
    }

    fn give_up(&mut self, conn: u32) {
        let Some(phase) = self.conns.get(conn).map(|it| it.phase).filter(|phase| *phase != Phase::Dead) else { return };
        self.shard.counters.limit_output += 1;
        let talks = matches!(phase, Phase::Client | Phase::Lines | Phase::Stream);
        if talks {
            self.shard.close(self.now, &mut self.conns, conn, Some(Disconnect::SLOW));
            self.act();
        }
        // The rest of a large frame that has begun to leave would be kept until the end.
        if talks && self.conns.output_of(conn) <= READ_SIZE {
            return self.flush_one(conn);
        }
        self.lost(conn);
        self.conns.forget_output(conn);
    }
}
