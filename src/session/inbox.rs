//! F6 · How it is known what has arrived at a client: by its pong, or because it says so.
//!
//! Owns what was sent before a ping that is not answered yet, for those clients alone to whom something was sent: who
//! waits in quiet channels costs nothing. Knows nothing of where cursors are kept. A pong proves what had been sent
//! when its ping was. Where pongs and pings cannot be told apart, because the one before was not heard in time, nothing
//! is proven by them.

use super::commands::Outcome;
use super::more::To;
use super::rules::InboxRule;
use super::{Channels, Effect, Pings, Rules, Session, Turn};
use crate::base::wheel::Tick;
use crate::broker::{Arrived, Follow, Gone};
use crate::hub::{ChannelId, Delivered};
use crate::protocol::code::{ClientError, Disconnect, INSUFFICIENT_STATE};
use crate::protocol::{Reply, RpcRequest, RpcResult, SubscribeResult};
use bytes::Bytes;
use compact_str::CompactString;
use foldhash::quality::RandomState;
use hashbrown::{HashMap, HashSet};
use serde::Deserialize;

/// The method by which a client says what has arrived.
pub(super) const ACK: &str = "inbox.ack";
/// A cursor that an acknowledgement may move counts as so many bytes decoded: each is a word to its channel's owner,
/// and one short command may move as many as the client has channels.
const CURSOR_COST: u64 = 1024;
/// Bytes of a device's name; a longer one is none.
const DEVICE_MAX: usize = 255;

/// What the clients of a reactor were sent and have not proven to have.
#[derive(Default)]
pub struct Arrivals {
    /// Channels with an inbox in which something was published lately, the newest first.
    moved: [HashSet<ChannelId, RandomState>; 3],
    /// When the newest of these sets was begun.
    since: Tick,
    waiting: HashMap<u32, Sent, RandomState>,
    /// What their owners are to be told.
    pub proven: Vec<Arrived>,
}

/// What one client was sent.
#[derive(Debug, Default)]
struct Sent {
    /// Before its ping, which is not answered.
    pinged: Vec<Arrived>,
    /// At the next ping all its channels are looked at.
    again: bool,
}

impl Arrivals {
    /// Something was published in a channel with an inbox.
    pub fn moved(&mut self, channel: ChannelId) {
        self.moved[0].insert(channel);
    }

    /// A client was sent what it had missed.
    pub fn caught_up(&mut self, conn: u32) {
        self.waiting.entry(conn).or_default().again = true;
    }

    /// A ping goes to `session`, behind all that it was sent.
    pub fn pinged(&mut self, conn: u32, now: Tick, session: &Session, hub: &Channels, rules: &Rules) {
        // What was published within the last two intervals stands in one of the sets: since the ping before this one.
        if now.wrapping_sub(self.since) >= rules.ping_interval {
            self.moved.rotate_right(1);
            self.moved[0].clear();
            self.since = now;
        }
        let before = self.waiting.remove(&conn).unwrap_or_default();
        if session.user.is_empty() || !session.proves_by_pong(rules) {
            return;
        }
        let (mut sent, again) = (Sent::default(), before.again);
        for channel in session.live_channels() {
            if !again && !self.moved.iter().any(|moved| moved.contains(&channel)) {
                continue;
            }
            let Some((arrived, whole)) = session.delivered(channel, hub, rules) else { continue };
            sent.again |= !whole;
            sent.pinged.push(arrived);
        }
        if sent.again || !sent.pinged.is_empty() {
            self.waiting.insert(conn, sent);
        }
    }

    /// The awaited pong came.
    pub fn ponged(&mut self, conn: u32) {
        let Some(sent) = self.waiting.get_mut(&conn) else { return };
        self.proven.append(&mut sent.pinged);
        if !sent.again {
            self.waiting.remove(&conn);
        }
    }

    /// The client is gone.
    pub fn forget(&mut self, conn: u32) {
        if !self.waiting.is_empty() {
            self.waiting.remove(&conn);
        }
    }

    /// Clients to whom something was sent that is not proven: for checks.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// What `inbox.ack` says: up to which offset; without, all that was sent. Without a channel: in all of them.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Ack {
    channel: String,
    offset: u64,
}

/// What the token, or the connect proxy, says of a client for the server alone.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Meta {
    device: CompactString,
}

/// The device that `meta` names; "" = none.
pub(super) fn device_of(meta: &Bytes) -> CompactString {
    let named = serde_json::from_slice::<Meta>(meta).unwrap_or_default().device;
    if named.len() > DEVICE_MAX { CompactString::default() } else { named }
}

impl Session {
    /// Is each pong the answer to the ping before it?
    fn proves_by_pong(&self, rules: &Rules) -> bool {
        match self.pings {
            Pings::Frames => true,
            Pings::Messages => rules.pong_timeout.is_some() && !self.wire.is_uni(),
            Pings::Unheard | Pings::UnheardFrames => false,
        }
    }

    /// Its channels that the hub sends it.
    fn live_channels(&self) -> impl Iterator<Item = ChannelId> {
        self.subs.iter().filter(|sub| sub.is_live()).map(|sub| sub.channel())
    }

    /// Whose inbox it has in channels with one.
    pub(super) fn follow(&self, inbox: &InboxRule) -> Follow {
        Follow { user: self.user.clone(), device: self.device(inbox), keep: inbox.keep }
    }

    fn device(&self, inbox: &InboxRule) -> CompactString {
        let device = self.more.as_ref().filter(|_| inbox.of_device).map(|more| more.device.clone());
        device.unwrap_or_default()
    }

    /// How far it has been sent `channel`, if that has an inbox, and whether nothing waits behind.
    fn delivered(&self, channel: ChannelId, hub: &Channels, rules: &Rules) -> Option<(Arrived, bool)> {
        let name = hub.name(channel);
        let inbox = rules.namespace(name)?.inbox_of(&self.user)?;
        let Delivered { offset, epoch, whole } = hub.delivered(channel)?;
        let (user, device) = (self.user.clone(), self.device(inbox));
        Some((Arrived { channel: name.clone(), user, device, offset, epoch }, whole))
    }

    /// The client is told the first part of what it missed, and that its subscription is over: it comes again by
    /// itself, with its position, for the rest.
    pub(super) fn tell_part(
        &mut self,
        back: usize,
        channel: ChannelId,
        gone: Option<Box<Gone>>,
        (ticket, to): (u32, To),
        result: SubscribeResult,
        turn: &mut Turn<'_>,
    ) {
        let name = turn.hub.name(channel).to_string();
        self.remove_sub(back, turn);
        self.drop_more();
        turn.fx.push(Effect::Leave { channel, slot: None, gone, ticket: None });
        turn.fx.push(Effect::Release { channel });
        match to {
            To::Reply => {
                self.tell_subscribed(ticket, result, turn);
                self.push_unsubscribed(name, INSUFFICIENT_STATE, turn);
            }
            To::Connect => {
                if let Some(connecting) = self.more.as_mut().and_then(|more| more.connecting.as_mut()) {
                    connecting.has_more = true;
                }
                self.subscribed_on_connect(name, result, turn);
            }
            To::Push => {
                self.push_subscribed(name, result, turn);
                turn.fx.push(Effect::Close(Disconnect::INSUFFICIENT_STATE));
            }
        }
    }

    /// The client says what has arrived.
    pub(super) fn acknowledge(&mut self, id: u32, request: &RpcRequest, turn: &mut Turn<'_>) -> Outcome {
        let data = if request.data.trim_ascii().is_empty() { b"{}" } else { &request.data[..] };
        // serde would take a list for a struct.
        let object = data.trim_ascii_start().starts_with(b"{");
        let ack: Option<Ack> = object.then(|| serde_json::from_slice(data).ok()).flatten();
        let ack = ack.ok_or(ClientError::BadRequest)?;
        let chosen: Vec<ChannelId> = match turn.hub.find(&ack.channel).filter(|_| !ack.channel.is_empty()) {
            Some(channel) => self.live_channels().filter(|live| *live == channel).collect(),
            None if ack.channel.is_empty() => self.live_channels().collect(),
            None => Vec::new(),
        };
        let found: Vec<Arrived> =
            chosen.iter().filter_map(|channel| Some(self.delivered(*channel, turn.hub, turn.rules)?.0)).collect();
        if found.is_empty() && !ack.channel.is_empty() {
            return Err(ClientError::PermissionDenied.into());
        }
        for mut arrived in found {
            if ack.offset > 0 && !ack.channel.is_empty() {
                arrived.offset = arrived.offset.min(ack.offset);
            }
            turn.fx.searched_bytes += CURSOR_COST;
            turn.fx.push(Effect::Arrived(Box::new(arrived)));
        }
        let rpc = Some(RpcResult { data: Bytes::from_static(b"{}") });
        turn.fx.reply(self.wire, &Reply { id, rpc, ..Reply::default() });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_named_by_meta() {
        let device = |meta: &'static str| device_of(&Bytes::from_static(meta.as_bytes()));
        assert_eq!(device(r#"{"device":"phone","more":[1]}"#), "phone");
        for none in ["", "{}", "[]", r#"{"device":5}"#, "nonsense"] {
            assert_eq!(device(none), "", "{none}");
        }
        let long = format!(r#"{{"device":"{}"}}"#, "x".repeat(DEVICE_MAX + 1));
        assert_eq!(device_of(&long.into()), "");
    }
}
