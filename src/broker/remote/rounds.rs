//! F3 · What comes with time to channels that live elsewhere.
//!
//! Owns reads of what may have been lost, a number of them at a time; clients that are present, who are named again so
//! that the engine does not forget them; channels of which nothing was heard, which are read; and those without
//! subscribers, which are listened to for a second more, for whoever comes back soon.

use super::super::Query;
use super::super::engine::EngineCall;
use super::super::interest::Told;
use super::super::sequence::Known;
use super::{HEAL_MAX, Hearing, RemoteChannels, Ticket};
use crate::broker::Position;
use crate::protocol::Publication;
use std::sync::Arc;

/// After so long a channel that nobody listens to is given up, and what failed is tried again.
pub const LATER_MS: u64 = 1000;
/// Channels looked at in one call, so that many that end together do not end in one turn.
const LATER_MAX: usize = 1024;
/// Reads of what was lost under way at once: after a connection was lost there is one for each channel.
const HEALS_MAX: usize = 64;

impl RemoteChannels {
    /// Does what is due; when the next call is wanted.
    pub fn expire(&mut self, now_ms: u64, out: &mut Told) -> Option<u64> {
        for _ in 0..LATER_MAX {
            if self.later.front().is_none_or(|(due, _)| *due > now_ms) {
                break;
            }
            let Some((_, name)) = self.later.pop_front() else { break };
            self.look_at(now_ms, &name);
        }
        self.renew(now_ms);
        self.check(now_ms, out);
        self.heal_next();
        let later = self.later.front().map(|(due, _)| *due);
        let renewals = self.renewals.next(now_ms, self.limits.presence_ms);
        let checks = self.checks.next(now_ms, self.limits.check_ms).filter(|_| self.limits.check_ms > 0);
        later.into_iter().chain(renewals).chain(checks).min()
    }

    /// The last subscriber left.
    pub(super) fn idle(&mut self, now_ms: u64, name: &Arc<str>) {
        let Some(channel) = self.channels.get_mut(name) else { return };
        channel.idle_ms = now_ms as u32;
        match channel.hearing == Hearing::No && channel.beginners.is_none() {
            true => self.forget(name),
            false => self.later.push_back((now_ms + LATER_MS, name.clone())),
        }
    }

    fn look_at(&mut self, now_ms: u64, name: &Arc<str>) {
        let Some(channel) = self.channels.get_mut(name) else { return };
        let again = (now_ms + LATER_MS, name.clone());
        if channel.interest.is_empty() {
            let is_over = u64::from((now_ms as u32).wrapping_sub(channel.idle_ms)) >= LATER_MS;
            if channel.beginners.is_some() || !is_over {
                return self.later.push_back(again);
            }
            if channel.hearing != Hearing::No {
                self.calls.push((channel.engine, EngineCall::Unlisten { channel: name.clone() }));
            }
            return self.forget(name);
        }
        if channel.hearing == Hearing::No {
            channel.hearing = Hearing::Asked;
            let life = channel.life;
            self.calls.push((channel.engine, EngineCall::Listen { channel: name.clone(), life }));
        }
        if channel.sequence.wants_read() {
            channel.marks.heals = true;
            self.heals.push_back(name.clone());
        }
    }

    /// Reads what channels may have lost, as far as there is room for more reads.
    pub(super) fn heal_next(&mut self) {
        while self.healing < HEALS_MAX
            && let Some(name) = self.heals.pop_front()
        {
            let Some(channel) = self.channels.get_mut(&name) else { continue };
            channel.marks.heals = false;
            // It is read once it is listened to.
            if !channel.sequence.wants_read() || channel.hearing != Hearing::Yes {
                continue;
            }
            let (life, engine) = (channel.life, channel.engine);
            let Some(keep) = self.channels.get(&name).and_then(|channel| self.keep_of(channel)) else { continue };
            let what = Ticket::Heal { channel: name.clone(), life, known: Known::default() };
            let Some(ticket) = self.ticket(what) else {
                self.heals.push_front(name.clone());
                if let Some(channel) = self.channels.get_mut(&name) {
                    channel.marks.heals = true;
                }
                return;
            };
            let Some(channel) = self.channels.get_mut(&name) else { continue };
            let (since, known) = channel.sequence.begin_read();
            self.tickets.insert(ticket, Ticket::Heal { channel: name.clone(), life, known });
            let query = Query { keep, since: Some((since, Default::default())), limit: HEAL_MAX, reverse: false };
            self.calls.push((engine, EngineCall::Read { ticket, channel: name, query: Box::new(query) }));
            self.healing += 1;
            self.tally.heals += 1;
        }
    }

    /// What was read of what may have been lost, if it could be.
    pub(super) fn end_heal(
        &mut self,
        now_ms: u64,
        name: &Arc<str>,
        known: &Known,
        found: Option<(Position, Vec<Publication>)>,
        out: &mut Told,
    ) {
        let read = found.is_some();
        match found {
            Some(found) => {
                self.tally.healed += found.1.len() as u64;
                self.change(name, out, |sequence, room, emissions| {
                    sequence.end_read(known, HEAL_MAX, found, room, emissions);
                });
            }
            None => {
                if let Some(channel) = self.channels.get_mut(name) {
                    channel.sequence.fail_read();
                    channel.marks.heals = true;
                    self.later.push_back((now_ms + LATER_MS, name.clone()));
                }
            }
        }
        self.caught_up(name, read, out);
    }

    /// Names again the clients whose turn it is.
    fn renew(&mut self, now_ms: u64) {
        let mut due = self.renewals.due(now_ms, self.members, self.limits.presence_ms);
        while due > 0
            && let Some((name, life)) = self.renewals.front().cloned()
        {
            let channel = self.channels.get_mut(&name).filter(|channel| channel.life == life);
            let Some(channel) = channel else {
                self.renewals.pass(false);
                self.renewed = None;
                continue;
            };
            let Some(members) = &channel.members else {
                channel.marks.renewed = false;
                self.renewals.pass(false);
                self.renewed = None;
                continue;
            };
            let mut count = 0;
            for (client, info) in members.clients(self.renewed).take(due) {
                let (channel_name, info) = (name.clone(), Arc::new(info));
                self.calls.push((channel.engine, EngineCall::AddPresence { channel: channel_name, client, info }));
                self.renewed = Some(client);
                count += 1;
            }
            self.renewals.count(count);
            self.tally.renewed += count as u64;
            if count < due {
                self.renewals.pass(true);
                self.renewed = None;
            }
            due -= count;
        }
    }

    /// Reads the channels whose turn it is, if nothing was heard of them since their last turn.
    fn check(&mut self, now_ms: u64, out: &mut Told) {
        if self.limits.check_ms == 0 {
            return;
        }
        let due = self.checks.due(now_ms, self.checks.len(), self.limits.check_ms);
        for _ in 0..due {
            let Some((name, life)) = self.checks.front().cloned() else { break };
            self.checks.count(1);
            let channel = self.channels.get_mut(&name).filter(|channel| channel.life == life);
            let Some(channel) = channel else {
                self.checks.pass(false);
                continue;
            };
            let quiet = !std::mem::take(&mut channel.marks.heard) && channel.hearing == Hearing::Yes;
            if quiet && !channel.sequence.is_healing() {
                self.tally.checked += 1;
                self.change(&name, out, |sequence, _, _| sequence.doubt());
            }
            self.checks.pass(true);
        }
    }
}
