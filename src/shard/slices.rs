//! F7 · Work over very many clients or channels, in slices.
//!
//! Owns what is under way: calls of the server API that do something with many clients, lists of channels, and lists of
//! who is present. Each goes on where it was, takes turns with the others and with fan-outs, and is answered when its
//! last slice is done. What comes meanwhile may be missed; whatever goes is passed over; what is there all the while is
//! met.

use super::{Chosen, ClientFacts, ClientSearch, Control, ControlAnswer, Mail, Out, Shard, Table};
use crate::broker::{Answer, Asker, CHANNEL_PARTS, ConnKey, Event};
use crate::protocol::ClientInfo;
use crate::protocol::code::ClientError;
use crate::session::{NO_CLIENT, Now, Session};
use foldhash::quality::RandomState;
use hashbrown::hash_map::Entry;
use hashbrown::{HashMap, HashSet};
use smallvec::SmallVec;
use std::sync::Arc;

/// Looked at in the call itself: few are met at once.
pub(super) const AT_ONCE: usize = 256;

pub(super) enum Slow {
    Clients(ClientCall),
    Channels(ChannelList),
    Facts(ClientList),
    /// The first of the lists of who is present.
    Present,
}

pub(super) struct ClientCall {
    ticket: u64,
    control: Arc<Control>,
    /// Client ids to spare.
    kept: HashSet<String, RandomState>,
    /// The client that is next in the list of its user's.
    next: u32,
    /// Clients or subscriptions that were met.
    met: usize,
}

/// The channels owned here that match.
pub(super) struct ChannelList {
    ticket: u64,
    pattern: Option<globset::GlobMatcher>,
    /// The part of them that is next.
    part: usize,
    found: Vec<(Arc<str>, u64)>,
}

/// Clients as an operator wants to see them.
pub(super) struct ClientList {
    ticket: u64,
    search: ClientSearch,
    /// The connection that is next.
    next: u32,
    found: Vec<ClientFacts>,
}

/// Channels of one client that are told of.
const CHANNELS_TOLD: usize = 1000;

/// Who is in a channel. One such list is made at a time, however many are asked for: those that wait hold nothing.
pub(super) struct PresentList {
    channel: Arc<str>,
    asker: Asker,
    /// The last one found.
    after: Option<[u8; 16]>,
    found: Vec<ClientInfo>,
}

/// Clients that wait for lists that others make: for which commands, and who makes them.
#[derive(Default)]
pub(super) struct ListAskers(HashMap<ConnKey, SmallVec<[(u32, u16); 4]>, RandomState>);

impl ListAskers {
    pub fn ask(&mut self, conn: ConnKey, ticket: u32, owner: u16) {
        self.0.entry(conn).or_default().push((ticket, owner));
    }

    pub fn answered(&mut self, conn: ConnKey, ticket: u32) {
        if self.0.is_empty() {
            return;
        }
        if let Entry::Occupied(mut asked) = self.0.entry(conn) {
            if let Some(at) = asked.get().iter().position(|(of, _)| *of == ticket) {
                asked.get_mut().swap_remove(at);
            }
            if asked.get().is_empty() {
                asked.remove();
            }
        }
    }

    /// Who is to know that it is gone, each once.
    pub fn leave(&mut self, conn: ConnKey) -> SmallVec<[u16; 4]> {
        let mut owners: SmallVec<[u16; 4]> =
            self.0.remove(&conn).into_iter().flatten().map(|(_, owner)| owner).collect();
        owners.sort_unstable();
        owners.dedup();
        owners
    }
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
        let kept = match &mut control {
            Control::Disconnect { keep, .. } => std::mem::take(keep).into_iter().collect(),
            _ => HashSet::default(),
        };
        let next = self.users.first(table, user).unwrap_or(NO_CLIENT);
        let call = ClientCall { ticket, control: Arc::new(control), kept, next, met: 0 };
        self.begin(now, table, Slow::Clients(call));
    }

    pub(super) fn list_channels(
        &mut self,
        now: Now,
        table: &mut impl Table,
        ticket: u64,
        pattern: Option<globset::GlobMatcher>,
    ) {
        self.begin(now, table, Slow::Channels(ChannelList { ticket, pattern, part: 0, found: Vec::new() }));
    }

    pub(super) fn list_clients(&mut self, now: Now, table: &mut impl Table, ticket: u64, search: ClientSearch) {
        self.begin(now, table, Slow::Facts(ClientList { ticket, search, next: 0, found: Vec::new() }));
    }

    /// For a channel in which there are many. It goes on later, as everything is in its place by then.
    pub(super) fn list_present(&mut self, channel: Arc<str>, asker: Asker) {
        if self.lists.len() >= self.rules.list_limit && matches!(asker, Asker::Client { .. }) {
            self.counters.limit_lists += 1;
            let answer = Answer::Refused(ClientError::TooManyRequests);
            return self.tell(asker.into(), Event::Answer { asker, answer });
        }
        if self.lists.is_empty() {
            self.slow.push_back(Slow::Present);
        }
        self.lists.push_back(PresentList { channel, asker, after: None, found: Vec::new() });
    }

    /// A client of this reactor goes: nobody need make the lists that it waits for.
    pub(super) fn stop_listing(&mut self, conn: ConnKey) {
        self.forget_lists(conn);
        for reactor in self.list_askers.leave(conn) {
            self.out.push(Out::Mail { reactor, mail: Mail::Unlist { conn } });
        }
    }

    /// A client is gone that may wait for lists of this reactor's.
    pub(super) fn forget_lists(&mut self, gone: ConnKey) {
        if self.lists.is_empty() {
            return;
        }
        self.lists.retain(|list| !matches!(list.asker, Asker::Client { conn, .. } if conn == gone));
        if self.lists.is_empty() {
            self.slow.retain(|work| !matches!(work, Slow::Present));
        }
    }

    fn begin(&mut self, now: Now, table: &mut impl Table, work: Slow) {
        // Publications that came before it are delivered first.
        let at_once = if self.hub.has_work() { 0 } else { AT_ONCE };
        self.slow.push_front(work);
        self.run_first(now, table, at_once);
    }

    /// A slice of what is under way, of about `budget` clients or channels; how many it was.
    pub(super) fn run_slice(&mut self, now: Now, table: &mut impl Table, budget: usize) -> usize {
        match self.slow.is_empty() {
            true => 0,
            false => self.run_first(now, table, budget),
        }
    }

    /// The first of the line goes on, and to its end if it is not done.
    fn run_first(&mut self, now: Now, table: &mut impl Table, budget: usize) -> usize {
        let (mut done, mut goes_on) = (0, true);
        while goes_on && done < budget {
            let (count, more) = match self.slow.front_mut() {
                Some(Slow::Clients(_)) => (1, self.meet_next(now, table)),
                Some(Slow::Channels(list)) => {
                    let fits = |name: &str| list.pattern.as_ref().is_none_or(|pattern| pattern.is_match(name));
                    let found = self.broker.channels(list.part).filter(|(name, _)| fits(name));
                    list.found.extend(found.map(|(name, clients)| (name.clone(), clients)));
                    list.part += 1;
                    (self.broker.part_len(list.part - 1), list.part < CHANNEL_PARTS)
                }
                Some(Slow::Facts(_)) => (1, self.look_at_next(now, table)),
                Some(Slow::Present) => self.list_more(budget - done),
                None => (0, false),
            };
            (done, goes_on) = (done + count, more);
        }
        let Some(first) = self.slow.pop_front() else { return done };
        match goes_on {
            true => self.slow.push_back(first),
            false => self.answer_slow(first),
        }
        done
    }

    /// So many more clients for the first list; how many there were, and whether there may be more.
    fn list_more(&mut self, budget: usize) -> (usize, bool) {
        let Some(list) = self.lists.front_mut() else { return (0, false) };
        let found = self.broker.memory.present(&list.channel, list.after, budget);
        let count = found.len();
        list.after = found.last().map(|&(client, _)| client);
        list.found.extend(found.into_iter().map(|(_, info)| info));
        (count, count == budget)
    }

    fn answer_slow(&mut self, work: Slow) {
        match work {
            Slow::Clients(ClientCall { ticket, met, .. }) => {
                self.out.push(Out::Answer { ticket, answer: ControlAnswer::Met(met) });
            }
            Slow::Channels(ChannelList { ticket, found, .. }) => {
                self.out.push(Out::Answer { ticket, answer: ControlAnswer::Channels(found) });
            }
            Slow::Facts(ClientList { ticket, found, .. }) => {
                self.out.push(Out::Answer { ticket, answer: ControlAnswer::Clients(found) });
            }
            Slow::Present => {
                if let Some(PresentList { asker, found, .. }) = self.lists.pop_front() {
                    self.tell(asker.into(), Event::Answer { asker, answer: Answer::Presence(found) });
                }
                if !self.lists.is_empty() {
                    self.slow.push_back(Slow::Present);
                }
            }
        }
    }

    /// The list of clients at the front of the line goes on by one connection; false if that was the last.
    fn look_at_next(&mut self, now: Now, table: &mut impl Table) -> bool {
        let bound = table.bound();
        let Some(Slow::Facts(list)) = self.slow.front_mut() else { return false };
        let (conn, search) = (list.next, &list.search);
        list.next += 1;
        let owed = table.owed(conn);
        let at = list.found.partition_point(|other| other.conn.waiting >= owed);
        let fits = |session: &&mut Session| {
            session.is_connected()
                && (search.user.is_empty() || session.user() == search.user)
                && (search.client.is_empty() || session.client() == search.client)
        };
        if at < search.max
            && let Some(session) = table.session(conn).filter(fits)
        {
            let told = if search.client.is_empty() { 0 } else { CHANNELS_TOLD };
            let found = ClientFacts {
                client: session.client(),
                user: session.user().to_owned(),
                transport: session.wire().transport(),
                subscriptions: session.subscriptions(),
                channels: session.channels().take(told).map(|id| self.hub.name(id).clone()).collect(),
                conn: table.facts(conn, now),
            };
            list.found.truncate(search.max - 1);
            list.found.insert(at, found);
        }
        list.next < bound
    }

    /// The client `conn` leaves the list of its user's, where `next` follows it.
    pub(super) fn pass_over(&mut self, conn: u32, next: u32) {
        for work in &mut self.slow {
            if let Slow::Clients(call) = work
                && call.next == conn
            {
                call.next = next;
            }
        }
    }

    /// The call at the front of the line meets the client that is its next; false if that was the last.
    fn meet_next(&mut self, now: Now, table: &mut impl Table) -> bool {
        let Some(Slow::Clients(call)) = self.slow.front_mut() else { return false };
        let conn = call.next;
        let (Some(session), control) = (table.session(conn), call.control.clone()) else { return false };
        call.next = session.next_of_user();
        let is_spared = !call.kept.is_empty() && call.kept.contains(&session.client());
        let Some(key) = table.key(conn) else { return false };
        let met = if is_spared { 0 } else { self.meet(now, table, &control, key) };
        let Some(Slow::Clients(call)) = self.slow.front_mut() else { return false };
        call.met += met;
        call.next != NO_CLIENT
    }

    /// How many clients or subscriptions of this connection were met.
    fn meet(&mut self, now: Now, table: &mut impl Table, control: &Control, key: ConnKey) -> usize {
        let conn = key.index;
        let (Control::Disconnect { chosen, .. }
        | Control::Subscribe { chosen, .. }
        | Control::Unsubscribe { chosen, .. }
        | Control::Refresh { chosen, .. }) = control
        else {
            return 0;
        };
        if !self.is_chosen(table, conn, chosen) {
            return 0;
        }
        let mut met = 0;
        match control {
            Control::Disconnect { disconnect, .. } => {
                met = 1;
                self.close(now, table, conn, Some(disconnect.clone()));
            }
            Control::Subscribe { request, grant, .. } => {
                let (request, grant) = (request.clone(), grant.clone());
                self.with(now, table, conn, |session, turn| {
                    met = usize::from(session.subscribe_by_server(request, grant, turn));
                });
            }
            Control::Unsubscribe { channel, .. } => {
                self.with(now, table, conn, |session, turn| met = session.unsubscribe_by_server(channel, turn));
                self.counters.unsubscribes_by_server += met as u64;
            }
            Control::Refresh { grant, .. } => {
                met = 1;
                let grant = grant.clone();
                self.with_key(now, table, key, |session, turn| session.refresh_granted(grant, turn));
            }
            Control::Channels(_)
            | Control::Stats
            | Control::Users
            | Control::Clients(_)
            | Control::Seats(_)
            | Control::Trace(_)
            | Control::Inbox(_) => {}
        }
        met
    }

    fn is_chosen(&self, table: &mut impl Table, conn: u32, chosen: &Chosen) -> bool {
        let Some(session) = table.session(conn).filter(|session| session.is_connected()) else { return false };
        if session.user() != chosen.user {
            return false;
        }
        if !chosen.client.is_empty() && session.client() != chosen.client {
            return false;
        }
        chosen.session.is_empty() || self.session_name(table, conn).as_ref() == Some(&chosen.session)
    }
}
