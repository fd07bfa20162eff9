//! F7 · Carrying out what a session wants done, in order.

use super::{ControlAnswer, FRAME_PING, Mail, Out, Shard, Table};
use crate::broker::{Asker, ConnKey, Gone, Request, Treatment};
use crate::hub::{ChannelId, Flags, Moved, Slot};
use crate::protocol::code::Disconnect;
use crate::session::backend::{Call, Hook};
use crate::session::{Effect, HttpAnswer, Now};
use crate::wire::Wire;
use bytes::Bytes;
use compact_str::CompactString;
use std::ops::Range;
use std::sync::Arc;

/// Whose effects they are.
#[derive(Clone, Copy)]
struct Client {
    key: ConnKey,
    wire: Wire,
}

impl Shard {
    /// Does what the effects say. Replies next to each other leave in one message. A new effect does not compile before
    /// it has its line here.
    pub(super) fn carry_out(&mut self, now: Now, table: &mut impl Table, key: ConnKey, wire: Wire) {
        let (client, conn) = (Client { key, wire }, key.index);
        self.tell_rejected(table, conn);
        let mut list = std::mem::take(&mut self.fx.list);
        let (mut replies, mut closing) = (0..0, None);
        for effect in list.drain(..) {
            match effect {
                Effect::Send(range) => self.add_replies(client, &mut replies, range),
                Effect::Hole { ticket, large } => {
                    self.send_replies(conn, wire, &mut replies);
                    self.out.push(Out::Hole { conn, ticket, large });
                }
                Effect::Fill { ticket, range } => {
                    self.send_replies(conn, wire, &mut replies);
                    let frame = self.frame(wire, range);
                    self.out.push(Out::Fill { conn, ticket, frame });
                }
                Effect::Ping => self.ping(now, table, conn, wire.ping()),
                Effect::PingFrame => self.ping(now, table, conn, FRAME_PING),
                Effect::Ponged => self.arrivals.ponged(conn),
                Effect::Arrived(arrived) => self.arrivals.proven.push(*arrived),
                Effect::Connected => self.connected(table, conn),
                Effect::Subscribe { channel, ticket, want, pending } => {
                    let Some(session) = table.session(conn) else { continue };
                    session.wait_for_owner(self.hub.hold(channel.clone()), pending);
                    self.ask(now, Request::Subscribe { channel, from: key, ticket, want });
                }
                Effect::Join { channel, back, flags } => self.join_hub(table, client, channel, back, flags),
                Effect::Leave { channel, slot, gone, ticket } => {
                    let name = self.hub.name(channel).clone();
                    self.leave_hub(table, channel, slot);
                    self.leave_owner(now, key, name, gone, ticket);
                }
                Effect::SetBack { channel, slot, back } => self.hub.set_back(channel, slot, back),
                Effect::Release { channel } => self.hub.release(channel),
                Effect::Publish { channel, publication, ticket, treatment, skip_own } => {
                    let asker = Asker::Client { conn: key, ticket };
                    let treatment = if skip_own { Some(not_to(key, treatment)) } else { treatment };
                    self.counters.publications_received += 1;
                    self.ask(now, Request::Publish { channel, publication, asker, treatment });
                }
                Effect::History { channel, ticket, query } => {
                    let asker = Asker::Client { conn: key, ticket };
                    self.ask(now, Request::History { channel, asker, query });
                }
                Effect::Presence { channel, ticket, counts } => self.ask_presence(now, key, channel, ticket, counts),
                Effect::Ask { ticket, who, ask } => {
                    self.out.push(Out::Ask(Box::new(Call { conn: key, ticket, who: *who, ask: *ask })));
                }
                Effect::TakeSeat { ticket } => self.take_seat(table, key, ticket),
                Effect::CloseOthers => self.be_only_one(table, key),
                Effect::Refuse(error) => {
                    closing = Some((error.code, self.rules.uni_disconnect(&error), error.message.into()));
                    break;
                }
                Effect::Close(disconnect) => {
                    closing = Some((disconnect.code.into(), disconnect.clone(), disconnect.reason));
                    break;
                }
            }
        }
        self.send_replies(conn, wire, &mut replies);
        self.finish_effects(conn, list);
        if let Some((code, disconnect, text)) = closing {
            let ending = self.ending(table, conn, code, &text);
            self.detach(now, table, key, disconnect.code);
            self.say_close(conn, wire, disconnect, ending);
        }
    }

    /// Counts credentials that were refused, and has whose they are told to the log.
    fn tell_rejected(&mut self, table: &mut impl Table, conn: u32) {
        for cause in self.tokens.rejected.drain(..) {
            *self.counters.rejected.entry(cause).or_default() += 1;
            let user = table.session(conn).map_or_else(CompactString::default, |session| session.user().into());
            self.out.push(Out::Rejected { conn, user, cause });
        }
    }

    /// Replies behind those that are about to leave: in the same message, if the wire joins them.
    fn add_replies(&mut self, client: Client, replies: &mut Range<usize>, range: Range<usize>) {
        if Range::is_empty(replies) {
            *replies = range;
        } else if client.wire.joins() {
            replies.end = range.end;
        } else {
            self.send_replies(client.key.index, client.wire, replies);
            *replies = range;
        }
    }

    fn connected(&mut self, table: &mut impl Table, conn: u32) {
        self.users.insert(table, conn);
        self.clients += 1;
        self.counters.connects += 1;
        if self.has_fleet
            && self.rules.user_connection_limit > 0
            && let Some(session) = table.session(conn).filter(|session| !session.user().is_empty())
        {
            let answer = ControlAnswer::Seated { user: session.user().into(), client: session.client() };
            self.out.push(Out::Answer { ticket: 0, answer });
        }
        if self.rules.hooks
            && let Some(session) = table.session(conn)
        {
            let (client, user) = (session.client(), session.user().into());
            self.out.push(Out::Hook(Hook::Connected { client, user }));
        }
    }

    fn join_hub(&mut self, table: &mut impl Table, client: Client, channel: ChannelId, back: u16, flags: Flags) {
        let (conn, wire) = (client.key.index, client.wire);
        let slot = self.hub.join(channel, Slot { conn, back, wire, flags });
        if let Some(session) = table.session(conn) {
            session.set_slot(back, slot);
        }
        self.counters.subscribes += 1;
        self.counters.recoverable += u64::from(flags.has(Flags::POSITIONED));
    }

    fn leave_hub(&mut self, table: &mut impl Table, channel: ChannelId, slot: Option<u32>) {
        let Some(slot) = slot else { return };
        for Moved { conn, back, slot } in self.hub.leave(channel, slot) {
            if let Some(session) = table.session(conn) {
                session.set_slot(back, slot);
            }
        }
    }

    fn leave_owner(
        &mut self,
        now: Now,
        conn: ConnKey,
        channel: Arc<str>,
        mut gone: Option<Box<Gone>>,
        ticket: Option<u32>,
    ) {
        if let (Some(gone), Some(ticket)) = (&mut gone, ticket) {
            gone.asker = Some(Asker::Client { conn, ticket });
        }
        self.ask(now, Request::Leave { channel, reactor: self.me, gone });
    }

    fn ask_presence(&mut self, now: Now, conn: ConnKey, channel: Arc<str>, ticket: u32, counts: bool) {
        let asker = Asker::Client { conn, ticket };
        let request = match counts {
            true => Request::PresenceStats { channel, asker },
            false => {
                let owner = crate::broker::owner(&channel, self.reactors, self.seed);
                if owner != self.me {
                    self.list_askers.ask(conn, ticket, owner);
                }
                Request::Presence { channel, asker }
            }
        };
        self.ask(now, request);
    }

    fn be_only_one(&mut self, table: &mut impl Table, key: ConnKey) {
        let Some(session) = table.session(key.index) else { return };
        let user = CompactString::from(session.user());
        self.only_ones.insert(key);
        if self.has_fleet {
            let answer = ControlAnswer::OnlyOne { user: user.clone(), client: session.client() };
            self.out.push(Out::Answer { ticket: 0, answer });
        }
        let reactor = crate::broker::owner(&user, self.reactors, self.seed);
        self.out.push(Out::Mail { reactor, mail: Mail::BeOnlyOne { user, conn: key } });
    }

    fn take_seat(&mut self, table: &mut impl Table, key: ConnKey, ticket: u32) {
        let Some(session) = table.session(key.index) else { return };
        let user = CompactString::from(session.user());
        let reactor = crate::broker::owner(&user, self.reactors, self.seed);
        self.out.push(Out::Mail { reactor, mail: Mail::TakeSeat { user, conn: key, ticket } });
    }

    /// Gives the list its room back for the next call.
    fn finish_effects(&mut self, conn: u32, list: Vec<Effect>) {
        for (code, count) in self.fx.refused.iter_mut().enumerate().filter(|(_, count)| **count > 0) {
            self.counters.refused[code] += u64::from(std::mem::take(count));
        }
        if self.fx.caught_up && self.rules.inboxes.any {
            self.arrivals.caught_up(conn);
        }
        self.searched_bytes += std::mem::take(&mut self.fx.searched_bytes);
        self.counters.subscriptions_lost += u64::from(std::mem::take(&mut self.fx.lost_subscriptions));
        for limited in self.fx.limited.drain(..) {
            *self.counters.limited.entry(limited).or_default() += 1;
        }
        self.fx.clear();
        self.fx.list = list;
    }

    fn send_replies(&mut self, conn: u32, wire: Wire, replies: &mut Range<usize>) {
        let range = std::mem::replace(replies, 0..0);
        if !range.is_empty() {
            let frame = self.frame(wire, range);
            self.out.push(Out::Send { conn, frame });
        }
    }

    fn frame(&mut self, wire: Wire, range: Range<usize>) -> Bytes {
        wire.packed(&self.fx.bytes[range], &mut self.deflater)
    }

    /// How a session ends for this code, as long as it is there to be asked.
    pub(super) fn ending(&self, table: &mut impl Table, conn: u32, code: u32, text: &str) -> Ending {
        let Some(session) = table.session(conn) else { return Ending::default() };
        let unconnected = session.is_connecting();
        if session.is_connected() {
            return Ending { answer: None, unconnected };
        }
        Ending { answer: self.rules.http_answer(session.wire(), code, text).map(Box::new), unconnected }
    }

    pub(super) fn say_close(&mut self, conn: u32, wire: Wire, disconnect: Disconnect, ending: Ending) {
        *self.counters.disconnects.entry(disconnect.code).or_default() += 1;
        let Ending { answer, unconnected } = ending;
        self.out.push(Out::Close { conn, wire, disconnect, answer, unconnected });
    }
}

/// What is left to say of a session that is over.
#[derive(Default)]
pub(super) struct Ending {
    /// What a client is answered whose response waits for its connect request, which comes to nothing.
    answer: Option<Box<HttpAnswer>>,
    /// The reply to its connect command is owed.
    unconnected: bool,
}

/// The treatment of a publication that its publisher is not sent.
fn not_to(publisher: ConnKey, treatment: Option<Box<Treatment>>) -> Box<Treatment> {
    let mut treatment = treatment.unwrap_or_default();
    treatment.except = Some(publisher);
    treatment
}
