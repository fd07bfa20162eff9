//! F3 · Inboxes of channels that live elsewhere: their cursors are the engine's.
//!
//! Owns what is asked and told of them: who begins without a position has its cursor read first, and recovers from
//! there; what is proven to have arrived is written. Nothing of them is kept here, as a user may come to any node.

use super::super::archive::cursor_name as name;
use super::super::engine::{Away, EngineAnswer, EngineCall};
use super::super::inbox::{Arrived, Follow, InboxKeep, InboxTally};
use super::super::interest::Told;
use super::super::{Found, Position, Recover};
use super::begin::{RemoteBeginner, refuse};
use super::{Hearing, RemoteChannels, Ticket};
use crate::protocol::code::ClientError;
use compact_str::CompactString;
use std::sync::Arc;

/// Whose inbox a subscription is, and what is known of it while it begins.
#[derive(Debug)]
pub struct Followed {
    who: Follow,
    /// The client's own position.
    own: Option<(u64, CompactString)>,
    asked: bool,
    /// The cursor's offset, if it had to be read and there is one.
    from: Option<u64>,
}

impl Followed {
    pub fn new(who: Follow, own: Option<&Recover>) -> Box<Followed> {
        let own = own.map(|own| (own.offset, own.epoch.clone()));
        Box::new(Followed { who, own, asked: false, from: None })
    }

    /// Must its cursor be read? Asked once.
    pub fn wants_cursor(&mut self) -> bool {
        !std::mem::replace(&mut self.asked, true) && self.own.is_none()
    }

    /// The subscription begins as `found` says: what is told of it besides, and how the cursor moves.
    pub fn begins(&self, channel: &Arc<str>, found: &mut Found, tally: &mut InboxTally) -> Option<EngineCall> {
        let Position { offset: top, epoch } = &found.position;
        if let (Some(from), Some(recovery)) = (self.from, &mut found.recovery) {
            recovery.from = Some(from);
            tally.count(recovery);
        }
        let offset = match (&self.own, self.from) {
            // What it has, it has: as far as the stream goes.
            (Some((own, of)), _) if *epoch == **of || of.is_empty() => (*own).min(*top),
            (None, None) => *top,
            _ => return None,
        };
        let position = Position { offset, epoch: epoch.clone() };
        let Follow { user, device, keep } = &self.who;
        Some(write(channel.clone(), name(user, device), position, *keep))
    }
}

fn write(channel: Arc<str>, name: CompactString, position: Position, keep: InboxKeep) -> EngineCall {
    EngineCall::WriteCursor { channel, name, position, ttl_ms: keep.ttl_ms }
}

impl RemoteChannels {
    pub(super) fn read_cursor(&mut self, channel: &Arc<str>, beginner: RemoteBeginner, out: &mut Told) {
        let Some(it) = self.channels.get_mut(channel) else { return };
        let (life, engine) = (it.life, it.engine);
        let beginners = it.beginners.get_or_insert_default();
        beginners.next = beginners.next.wrapping_add(1);
        let number = beginners.next;
        let Some(follow) = &beginner.follow else { return };
        let cursor = name(&follow.who.user, &follow.who.device);
        let Some(ticket) = self.ticket(Ticket::Cursor { channel: channel.clone(), life, number }) else {
            refuse(channel, &beginner, ClientError::TooManyRequests, out);
            return self.drop_beginners(channel);
        };
        self.calls.push((engine, EngineCall::ReadCursor { ticket, channel: channel.clone(), name: cursor }));
        if let Some(it) = self.channels.get_mut(channel) {
            it.beginners.get_or_insert_default().cursors.push((number, beginner));
        }
    }

    /// The cursor that a beginner waits for was read, or could not be.
    pub(super) fn end_cursor(
        &mut self,
        channel: &Arc<str>,
        number: u32,
        said: Result<EngineAnswer, Away>,
        out: &mut Told,
    ) {
        let Some(it) = self.channels.get_mut(channel) else { return };
        let Some(beginners) = it.beginners.as_mut() else { return };
        let Some(at) = beginners.cursors.iter().position(|(of, _)| *of == number) else { return };
        let (_, mut beginner) = beginners.cursors.remove(at);
        let (Ok(EngineAnswer::Cursor(cursor)), true) = (said, it.hearing != Hearing::No) else {
            refuse(channel, &beginner, ClientError::Internal, out);
            return self.drop_beginners(channel);
        };
        let mut recover = None;
        if let (Some(follow), Some(Position { offset, epoch })) = (&mut beginner.follow, cursor) {
            follow.from = Some(offset);
            let InboxKeep { page, size, .. } = follow.who.keep;
            let epoch = epoch.as_str().into();
            recover = Some(Recover { offset, epoch, limit: page, most: size, cache: false });
        }
        match it.hearing {
            Hearing::Yes => self.admit(channel, beginner, recover, out),
            Hearing::Asked | Hearing::No => beginners_wait(it, beginner, recover),
        }
        self.drop_beginners(channel);
    }

    /// Publications are proven to have arrived.
    pub fn arrived(&mut self, arrived: &Arrived, keep: InboxKeep) {
        let Arrived { channel, user, device, offset, epoch } = arrived;
        let Some(it) = self.channels.get(channel) else { return };
        let Some(place) = it.sequence.place().filter(|place| place.epoch.mark() == *epoch) else { return };
        let position = Position { offset: *offset, epoch: place.epoch.clone() };
        self.inboxes.moved += 1;
        self.calls.push((it.engine, write(channel.clone(), name(user, device), position, keep)));
    }
}

fn beginners_wait(channel: &mut super::RemoteChannel, beginner: RemoteBeginner, recover: Option<Recover>) {
    channel.beginners.get_or_insert_default().waiting.push((beginner, recover));
}
