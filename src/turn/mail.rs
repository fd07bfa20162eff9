//! F8 · Mail from other threads, and mail to them.
//!
//! Owns how much of it a turn carries out, and what waits. While the hub has too much to deliver, events of channels
//! wait, in their order, so that its mailbox fills and owners drop publications and tell the gap; answers, requests and
//! all else go on.

use super::{Host, Turns, drop_publications};
use crate::broker::Event;
use crate::broker::engine::Heard;
use crate::shard::Mail;

/// Values of mail carried out in one turn.
const MAIL_MAX: usize = 4096;
/// What the owner's answers of one turn may hold, in reply budgets of a connection.
const ANSWERS_FACTOR: usize = 4;

impl<H: Host> Turns<H> {
    /// Values of mail that were taken and wait: they count towards the length of the mailbox.
    pub fn mail_waiting(&self) -> usize {
        self.inbox.len() + self.held.len()
    }

    /// Those of them that wait for their turn, in their order; events may wait beside them for room in the hub.
    pub fn inbox(&self) -> impl Iterator<Item = &Mail> {
        self.inbox.iter()
    }

    pub(super) fn read_mail(&mut self, mail: &mut Vec<Mail>) {
        self.inbox.extend(mail.drain(..));
        let answered = self.shard.answered_bytes;
        let answers_max = (self.bounds.budget.reply_bytes * ANSWERS_FACTOR) as u64;
        for _ in 0..MAIL_MAX {
            if self.shard.answered_bytes - answered > answers_max {
                break;
            }
            // What waited longest goes first, once there is room.
            let next = match self.shard.is_full() {
                false => self.held.pop_front().or_else(|| self.inbox.pop_front()),
                true => self.inbox.pop_front(),
            };
            let Some(next) = next else { break };
            if let Some(mail) = self.hold_event(next) {
                self.shard.mail(self.now, &mut self.conns, mail);
                self.act();
                self.judge_all_full();
            }
        }
        self.shard.mailbox = self.mail_waiting();
    }

    /// An event of a channel waits while the hub is full; an answer is for one client, and goes on.
    fn hold_event(&mut self, mail: Mail) -> Option<Mail> {
        if !self.shard.is_full() {
            return Some(mail);
        }
        match mail {
            Mail::Event(Event::Answer { .. }) | Mail::Engine(Heard::Answer { .. }) => Some(mail),
            Mail::Event(_) | Mail::Engine(_) => {
                self.held.push_back(mail);
                None
            }
            other => Some(other),
        }
    }

    pub(super) fn send_mail(&mut self) {
        for (reactor, mail) in self.outgoing.iter_mut().enumerate() {
            if mail.is_empty() {
                continue;
            }
            let reactor = reactor as u16;
            if self.host.is_full(reactor) {
                // Replies and leaves must arrive; publications may be lost, and are counted. That they were is told.
                self.shard.counters.publications_dropped += drop_publications(mail);
            }
            self.host.send(reactor, mail);
        }
    }
}
