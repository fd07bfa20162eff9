//! F7 · What the backend wants done with many clients, in slices.
//!
//! Owns the calls of the server API that are under way: the clients that were there when each came, and how far it has
//! come. A call takes turns with the others and with fan-outs. Its answer goes when its last slice is done. Who comes
//! meanwhile is not met; who goes is passed over.

use super::{Chosen, Control, ControlAnswer, Out, Shard, Table};
use crate::broker::ConnKey;
use crate::session::Now;
use foldhash::quality::RandomState;
use hashbrown::HashSet;

/// Clients looked at in the call itself: few are met at once.
const AT_ONCE: usize = 256;

pub(super) struct ClientCall {
    ticket: u64,
    control: Control,
    clients: std::vec::IntoIter<ConnKey>,
    /// Client ids to spare.
    kept: HashSet<String, RandomState>,
    /// Clients or subscriptions that were met.
    met: usize,
}

impl Shard {
    /// Begins what `control` wants of the clients of `user`.
    pub(super) fn begin_call(
        &mut self,
        now: Now,
        table: &mut impl Table,
        ticket: u64,
        user: &str,
        mut control: Control,
    ) {
        let clients = self.users.clients(table, user).into_iter().filter_map(|conn| table.key(conn));
        let clients = clients.collect::<Vec<_>>().into_iter();
        let kept = match &mut control {
            Control::Disconnect { keep, .. } => std::mem::take(keep).into_iter().collect(),
            _ => HashSet::default(),
        };
        let call = ClientCall { ticket, control, clients, kept, met: 0 };
        // Publications that came before it are delivered first.
        let at_once = if self.hub.has_work() { 0 } else { AT_ONCE };
        self.go_on(now, table, call, at_once);
    }

    /// A slice of the calls that are under way, at most `budget` clients; how many it was.
    pub(super) fn run_calls(&mut self, now: Now, table: &mut impl Table, budget: usize) -> usize {
        let Some(call) = self.calls.pop_front() else { return 0 };
        self.go_on(now, table, call, budget)
    }

    fn go_on(&mut self, now: Now, table: &mut impl Table, mut call: ClientCall, budget: usize) -> usize {
        let mut done = 0;
        while done < budget
            && let Some(key) = call.clients.next()
        {
            done += 1;
            self.meet(now, table, &mut call, key);
        }
        match call.clients.len() {
            0 => self.out.push(Out::Answer { ticket: call.ticket, answer: ControlAnswer::Met(call.met) }),
            _ => self.calls.push_back(call),
        }
        done
    }

    fn meet(&mut self, now: Now, table: &mut impl Table, call: &mut ClientCall, key: ConnKey) {
        let conn = key.index;
        let (Control::Disconnect { chosen, .. }
        | Control::Subscribe { chosen, .. }
        | Control::Unsubscribe { chosen, .. }
        | Control::Refresh { chosen, .. }) = &call.control
        else {
            return;
        };
        if table.key(conn) != Some(key) || !self.is_chosen(table, conn, chosen, &call.kept) {
            return;
        }
        let met = &mut call.met;
        match &call.control {
            Control::Disconnect { disconnect, .. } => {
                *met += 1;
                self.close(now, table, conn, Some(disconnect.clone()));
            }
            Control::Subscribe { request, grant, .. } => {
                let (request, grant) = (request.clone(), grant.clone());
                self.with(now, table, conn, |session, turn| {
                    *met += usize::from(session.subscribe_by_server(request, grant, turn));
                });
            }
            Control::Unsubscribe { channel, .. } => {
                let mut ended = 0;
                self.with(now, table, conn, |session, turn| ended = session.unsubscribe_by_server(channel, turn));
                *met += ended;
                self.counters.unsubscribes_by_server += ended as u64;
            }
            Control::Refresh { grant, .. } => {
                *met += 1;
                let grant = grant.clone();
                self.with_key(now, table, key, |session, turn| session.refresh_granted(grant, turn));
            }
            Control::Channels(_) | Control::Stats | Control::Users => {}
        }
    }

    fn is_chosen(
        &self,
        table: &mut impl Table,
        conn: u32,
        chosen: &Chosen,
        kept: &HashSet<String, RandomState>,
    ) -> bool {
        let Some(session) = table.session(conn).filter(|session| session.is_connected()) else { return false };
        if session.user() != chosen.user {
            return false;
        }
        if !chosen.client.is_empty() || !kept.is_empty() {
            let id = session.client();
            if !chosen.client.is_empty() && id != chosen.client || kept.contains(&id) {
                return false;
            }
        }
        chosen.session.is_empty() || self.session_name(table, conn).as_ref() == Some(&chosen.session)
    }
}
