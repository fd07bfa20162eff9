//! F7 · Carrying out what a session wants done, in order.

use super::{FRAME_PING, Mail, Out, Shard, Table};
use crate::broker::{Asker, ConnKey, Request, Treatment};
use crate::hub::{ChannelId, Flags, Moved, Slot};
use crate::protocol::code::Disconnect;
use crate::session::backend::{Call, Hook};
use crate::session::{Effect, Now};
use crate::wire::Wire;
use bytes::Bytes;
use compact_str::CompactString;
use std::ops::Range;

impl Shard {
    /// Does what the effects say. Replies next to each other leave in one message.
    pub(super) fn carry_out(&mut self, now: Now, table: &mut impl Table, key: ConnKey, wire: Wire) {
        let conn = key.index;
        let mut list = std::mem::take(&mut self.fx.list);
        let (mut replies, mut closing) = (0..0, None);
        for effect in list.drain(..) {
            match effect {
                Effect::Send(range) if replies.is_empty() => replies = range,
                Effect::Send(range) if wire.joins() => replies.end = range.end,
                Effect::Send(range) => {
                    self.send_replies(conn, wire, &mut replies);
                    replies = range;
                }
                Effect::Hole { ticket, large } => {
                    self.send_replies(conn, wire, &mut replies);
                    self.out.push(Out::Hole { conn, ticket, large });
                }
                Effect::Fill { ticket, range } => {
                    self.send_replies(conn, wire, &mut replies);
                    let frame = self.frame(wire, range);
                    self.out.push(Out::Fill { conn, ticket, frame });
                }
                Effect::Ping => self.out.push(Out::Send { conn, frame: wire.ping() }),
                Effect::PingFrame => self.out.push(Out::Send { conn, frame: FRAME_PING }),
                Effect::Close(disconnect) => {
                    closing = Some(disconnect);
                    break;
                }
                Effect::Connected => self.connected(table, conn),
                effect => self.ask_for(now, table, key, wire, effect),
            }
        }
        self.send_replies(conn, wire, &mut replies);
        self.finish_effects(list);
        if let Some(disconnect) = closing {
            self.detach(now, table, key, disconnect.code);
            self.say_close(conn, wire, disconnect);
        }
    }

    fn connected(&mut self, table: &mut impl Table, conn: u32) {
        self.users.insert(table, conn);
        self.clients += 1;
        self.counters.connects += 1;
        if self.rules.hooks
            && let Some(session) = table.session(conn)
        {
            let (client, user) = (session.client(), session.user().into());
            self.out.push(Out::Hook(Hook::Connected { client, user }));
        }
    }

    /// Effects that concern others than the client.
    fn ask_for(&mut self, now: Now, table: &mut impl Table, key: ConnKey, wire: Wire, effect: Effect) {
        let conn = key.index;
        match effect {
            Effect::Subscribe { channel, ticket, want } => {
                let channel = self.hub.name(channel).clone();
                self.ask(now, Request::Subscribe { channel, from: key, ticket, want });
            }
            Effect::Join { channel, back, flags } => {
                let slot = self.hub.join(channel, Slot { conn, back, wire, flags });
                if let Some(session) = table.session(conn) {
                    session.set_slot(back, slot);
                }
                self.counters.subscribes += 1;
                self.counters.recoverable += u64::from(flags.has(Flags::POSITIONED));
            }
            Effect::Leave { channel, slot, mut gone, ticket } => {
                if let (Some(gone), Some(ticket)) = (&mut gone, ticket) {
                    gone.asker = Some(Asker::Client { conn: key, ticket });
                }
                let name = self.hub.name(channel).clone();
                self.leave_hub(table, channel, slot);
                self.ask(now, Request::Leave { channel: name, reactor: self.me, gone });
            }
            Effect::Release { channel } => self.hub.release(channel),
            Effect::Publish { channel, publication, ticket, mut treatment, skip_own } => {
                self.counters.publications_received += 1;
                if skip_own {
                    treatment.get_or_insert_with(|| Box::new(Treatment::default())).except = Some(key);
                }
                let asker = Asker::Client { conn: key, ticket };
                self.ask(now, Request::Publish { channel, publication, asker, treatment });
            }
            Effect::History { channel, ticket, query } => {
                let asker = Asker::Client { conn: key, ticket };
                self.ask(now, Request::History { channel, asker, query });
            }
            Effect::Presence { channel, ticket, counts } => {
                let asker = Asker::Client { conn: key, ticket };
                let request = match counts {
                    true => Request::PresenceStats { channel, asker },
                    false => Request::Presence { channel, asker },
                };
                self.ask(now, request);
            }
            Effect::Ask { ticket, who, ask } => {
                self.out.push(Out::Ask(Box::new(Call { conn: key, ticket, who: *who, ask: *ask })));
            }
            Effect::TakeSeat { ticket } => self.take_seat(table, key, ticket),
            Effect::CloseOthers => {
                let Some(session) = table.session(conn) else { return };
                let user = CompactString::from(session.user());
                self.only_ones.push(key);
                let reactor = crate::broker::owner(&user, self.reactors, self.seed);
                self.out.push(Out::Mail { reactor, mail: Mail::BeOnlyOne { user, conn: key } });
            }
            // The caller carries out the rest.
            _ => {}
        }
    }

    fn take_seat(&mut self, table: &mut impl Table, key: ConnKey, ticket: u32) {
        let Some(session) = table.session(key.index) else { return };
        let user = CompactString::from(session.user());
        let reactor = crate::broker::owner(&user, self.reactors, self.seed);
        self.out.push(Out::Mail { reactor, mail: Mail::TakeSeat { user, conn: key, ticket } });
    }

    fn leave_hub(&mut self, table: &mut impl Table, channel: ChannelId, slot: Option<u32>) {
        let Some(slot) = slot else { return };
        for Moved { conn, back, slot } in self.hub.leave(channel, slot) {
            if let Some(session) = table.session(conn) {
                session.set_slot(back, slot);
            }
        }
    }

    /// Gives the list its room back for the next call.
    fn finish_effects(&mut self, list: Vec<Effect>) {
        for (code, count) in self.fx.refused.iter_mut().enumerate().filter(|(_, count)| **count > 0) {
            self.counters.refused[code] += u64::from(std::mem::take(count));
        }
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

    pub(super) fn say_close(&mut self, conn: u32, wire: Wire, disconnect: Disconnect) {
        *self.counters.disconnects.entry(disconnect.code).or_default() += 1;
        self.out.push(Out::Close { conn, wire, disconnect });
    }
}
