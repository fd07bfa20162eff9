//! F7 · What has arrived at clients, on its way to the owners of channels.
//!
//! Owns when that is told: once in a turn, to each owner together. A pong that comes costs a look at one table.

use super::{ControlAnswer, InboxCall, Mail, Out, Shard, Table};
use crate::broker::{self, Arrived};
use crate::session::Now;
use bytes::Bytes;

impl Shard {
    /// Sends a ping, and remembers what stood before it.
    pub(super) fn ping(&mut self, now: Now, table: &mut impl Table, conn: u32, frame: Bytes) {
        let Shard { arrivals, hub, rules, .. } = self;
        if rules.inboxes.any
            && let Some(session) = table.session(conn)
        {
            arrivals.pinged(conn, now.tick, session, hub, rules);
        }
        self.out.push(Out::Send { conn, frame });
    }

    /// Tells the owners what has arrived since the last call.
    pub(super) fn tell_arrived(&mut self, now: Now) {
        if self.arrivals.proven.is_empty() {
            return;
        }
        let mut of_each: Vec<Vec<Arrived>> = (0..self.reactors).map(|_| Vec::new()).collect();
        for arrived in std::mem::take(&mut self.arrivals.proven) {
            let owner = broker::owner(&arrived.channel, self.reactors, self.seed);
            match owner == self.me {
                true => self.arrived(now, &arrived),
                false => of_each[usize::from(owner)].push(arrived),
            }
        }
        for (reactor, all) in (0..).zip(of_each).filter(|(_, all)| !all.is_empty()) {
            self.out.push(Out::Mail { reactor, mail: Mail::Arrived(all.into()) });
        }
    }

    /// What the backend asks of the cursors kept here.
    pub(super) fn inbox_call(&mut self, now: Now, call: InboxCall) -> ControlAnswer {
        match call {
            InboxCall::Info { user } => ControlAnswer::Cursors(self.broker.cursors(&user)),
            InboxCall::Ack { user, device, channel, offset } => {
                self.broker.durable.unix_ms = now.unix_ms;
                let mut known = false;
                self.with_owner(|owner, _| known = owner.acknowledge(now.ms, &channel, &user, &device, offset));
                ControlAnswer::Met(usize::from(known))
            }
            InboxCall::Clear { user, device, channel } => {
                let mut cleared = 0;
                self.with_owner(|owner, _| {
                    cleared = owner.clear_cursors(&user, device.as_deref(), channel.as_deref());
                });
                ControlAnswer::Met(cleared)
            }
        }
    }

    /// This shard owns the channel.
    pub(super) fn arrived(&mut self, now: Now, arrived: &Arrived) {
        // With a reload the namespace may have lost its inbox.
        let inbox = self.rules.namespace(&arrived.channel).and_then(|namespace| namespace.inbox);
        if let Some(inbox) = inbox {
            self.broker.durable.unix_ms = now.unix_ms;
            self.with_owner(|owner, _| owner.arrived(now.ms, arrived, inbox.keep));
        }
    }
}
