//! F4 · One client: what it said, what it may, what it waits for.
//!
//! A state machine without I/O: [`Session::handle_message`], [`Session::handle_pong`], [`Session::handle_subscribed`]
//! and [`Session::handle_timeout`] take the time and give [`Effects`]; [`Session::next_deadline`] says when it wants
//! to be asked again. Everything here is plain data. Knows nothing of sockets, frames or other sessions.

mod commands;
mod effects;
mod rules;
mod users;

pub use effects::{Effect, Effects};
pub use rules::Rules;
pub use users::{Sessions, Users};

use crate::hub::{ChannelId, Hub};
use crate::protocol::code::{ClientError, Disconnect};
use crate::protocol::{ClientInfo, Encoding, Reply};
use crate::wheel::{NEVER, Tick};
use bytes::Bytes;
use compact_str::CompactString;
use smallvec::SmallVec;

/// The time, read once a loop turn.
#[derive(Debug, Clone, Copy, Default)]
pub struct Now {
    pub tick: Tick,
    /// Milliseconds since 1970.
    pub unix_ms: u64,
}

/// A join that waits in the hub's line: whose, and for which command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Joining {
    pub conn: crate::broker::ConnKey,
    pub channel: ChannelId,
    pub ticket: u32,
}

/// This reactor's hub.
pub type Channels = Hub<Joining>;

/// What every call is given.
pub struct Turn<'a> {
    pub now: Now,
    pub rules: &'a Rules,
    pub hub: &'a mut Channels,
    pub fx: &'a mut Effects,
    /// Whether the owner of a channel takes no more requests; asked by name.
    pub owner_is_full: &'a dyn Fn(&str) -> bool,
}

/// A subscription: session x channel.
#[derive(Debug, Clone, Copy)]
struct Sub {
    channel: ChannelId,
    /// Its place in the hub, or [`PENDING`] until the channel's owner answered.
    slot: u32,
}

const PENDING: u32 = u32::MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Waits for the connect command, at most `client.stale_close_delay`.
    New,
    Connected,
    /// Its connect command got an error reply: whatever comes next ends it.
    Refused,
}

/// The protocol state of one client.
#[derive(Debug)]
pub struct Session {
    /// The id issued to the client, a UUID's 16 bytes.
    client: [u8; 16],
    user: CompactString,
    subs: SmallVec<[Sub; 2]>,
    /// Shown to others as `conn_info`.
    info: Option<Box<Bytes>>,
    /// Channels unsubscribed before their owner answered: the answer, when it comes, is to be ignored.
    abandoned: Option<Box<SmallVec<[ChannelId; 4]>>>,
    /// This user's other clients on this reactor; the shard's.
    pub(crate) same_user: UserLinks,
    next_ping: Tick,
    /// The pong that is awaited must be here by then.
    pong_due: Tick,
    /// Connection expiry, as a tick, its grace included.
    expires: Tick,
    phase: Phase,
    encoding: Encoding,
    /// Pings are WebSocket frames.
    frame_pings: bool,
}

// The memory of an idle client is decided here: docs/memory.md has the sum.
const _: () = assert!(size_of::<Session>() <= 112);
const _: () = assert!(size_of::<Sub>() <= 8);

/// Links of the list of one user's clients: connection indices.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UserLinks {
    pub next: u32,
    pub prev: u32,
}

/// No neighbour.
pub(crate) const NO_CLIENT: u32 = u32::MAX;

impl Session {
    /// A client that just finished its handshake. `client` are 16 random bytes; they become a version 4 UUID.
    pub fn new(client: [u8; 16], encoding: Encoding, frame_pings: bool, now: Now, rules: &Rules) -> Session {
        Session {
            client: uuid::Builder::from_random_bytes(client).into_uuid().into_bytes(),
            user: CompactString::default(),
            subs: SmallVec::new(),
            info: None,
            abandoned: None,
            same_user: UserLinks { next: NO_CLIENT, prev: NO_CLIENT },
            next_ping: now.tick + rules.stale_delay,
            pong_due: NEVER,
            expires: NEVER,
            phase: Phase::New,
            encoding,
            frame_pings,
        }
    }

    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    pub fn user(&self) -> &str {
        &self.user
    }

    /// Has the connect command been answered with success?
    pub fn is_connected(&self) -> bool {
        self.phase == Phase::Connected
    }

    /// The client id as the client knows it.
    pub fn client(&self) -> String {
        uuid::Uuid::from_bytes(self.client).to_string()
    }

    fn info(&self) -> ClientInfo {
        ClientInfo {
            user: self.user.to_string(),
            client: self.client(),
            conn_info: self.info.as_deref().cloned().unwrap_or_default(),
            chan_info: Bytes::new(),
        }
    }

    /// When [`Session::handle_timeout`] is next wanted.
    pub fn next_deadline(&self) -> Tick {
        self.next_ping.min(self.pong_due).min(self.expires)
    }

    /// What is due at `now`: a ping, or the end.
    pub fn handle_timeout(&mut self, turn: &mut Turn<'_>) {
        let now = turn.now.tick;
        if self.phase != Phase::Connected {
            if now >= self.next_ping {
                turn.fx.push(Effect::Close(Disconnect::STALE));
            }
            return;
        }
        if now >= self.pong_due {
            turn.fx.push(Effect::Close(Disconnect::NO_PONG));
        } else if now >= self.expires {
            turn.fx.push(Effect::Close(Disconnect::CONNECTION_EXPIRED));
        } else if now >= self.next_ping {
            self.next_ping = now + turn.rules.ping_interval;
            if self.frame_pings {
                // It may outlast the interval: the next ping does not give an unanswered one more time.
                self.pong_due = self.pong_due.min(now + rules::FRAME_PONG_TIMEOUT);
                turn.fx.push(Effect::PingFrame);
            } else {
                self.pong_due = turn.rules.pong_timeout.map_or(NEVER, |timeout| now + timeout);
                turn.fx.push(Effect::Ping);
            }
        }
    }

    /// A pong of the application's kind: the caller recognised it by its bytes. One that nobody awaits ends the
    /// session.
    pub fn handle_pong(&mut self, turn: &mut Turn<'_>) {
        if self.frame_pings || self.pong_due == NEVER || self.phase != Phase::Connected {
            turn.fx.push(Effect::Close(Disconnect::BAD_REQUEST));
        }
        self.pong_due = NEVER;
    }

    /// A WebSocket pong frame; unasked ones are allowed (RFC 6455 section 5.5.3).
    pub fn handle_pong_frame(&mut self) {
        if self.frame_pings {
            self.pong_due = NEVER;
        }
    }

    /// Ticks the awaited pong has left; `None` when none is awaited.
    pub fn pong_left(&self, now: Now) -> Option<Tick> {
        (self.pong_due != NEVER).then(|| self.pong_due.saturating_sub(now.tick))
    }

    /// The owner of `channel` took the subscription that `ticket` asked for: joins and answers.
    pub fn handle_subscribed(&mut self, channel: ChannelId, ticket: u32, turn: &mut Turn<'_>) {
        let abandoned = self.abandoned.as_mut().and_then(|list| {
            let at = list.iter().position(|&id| id == channel)?;
            list.remove(at);
            Some(list.is_empty())
        });
        match abandoned {
            Some(empty) => {
                if empty {
                    self.abandoned = None;
                }
                turn.hub.release(channel);
            }
            None => {
                let back = self.subs.iter().position(|sub| sub.channel == channel && sub.slot == PENDING);
                debug_assert!(back.is_some(), "an answer without a question");
                if let Some(back) = back {
                    turn.fx.push(Effect::Join { channel, back: back as u16 });
                }
            }
        }
        let reply = Reply { id: ticket, subscribe: Some(Default::default()), ..Reply::default() };
        turn.fx.reply(self.encoding, &reply);
    }

    /// The owner gave the publication of `ticket` its place: answers.
    pub fn handle_published(&mut self, ticket: u32, turn: &mut Turn<'_>) {
        let reply = Reply { id: ticket, publish: Some(Default::default()), ..Reply::default() };
        turn.fx.reply(self.encoding, &reply);
    }

    /// The subscription at `back` stands at `slot` in the hub now.
    pub fn set_slot(&mut self, back: u16, slot: u32) {
        if let Some(sub) = self.subs.get_mut(usize::from(back)) {
            sub.slot = slot;
        }
    }

    /// Where the subscription at `back` stands in the hub, if it has begun. For checks.
    pub fn slot(&self, back: u16) -> Option<(ChannelId, u32)> {
        self.subs.get(usize::from(back)).filter(|sub| sub.slot != PENDING).map(|sub| (sub.channel, sub.slot))
    }

    /// Subscriptions, those not yet answered with them.
    pub fn subscriptions(&self) -> usize {
        self.subs.len()
    }

    /// Ends the subscription at `at`; its neighbours' places are kept in step with the hub.
    fn end_sub(&mut self, at: usize, turn: &mut Turn<'_>) {
        let sub = self.subs.swap_remove(at);
        if let Some(moved) = self.subs.get(at).filter(|moved| moved.slot != PENDING) {
            turn.hub.set_back(moved.channel, moved.slot, at as u16);
        }
        if sub.slot == PENDING {
            self.abandoned.get_or_insert_default().push(sub.channel);
        }
        let slot = (sub.slot != PENDING).then_some(sub.slot);
        turn.fx.push(Effect::Leave { channel: sub.channel, slot });
    }

    /// Ends all subscriptions: the client is gone.
    pub fn end(&mut self, turn: &mut Turn<'_>) {
        while !self.subs.is_empty() {
            self.end_sub(self.subs.len() - 1, turn);
        }
    }

    fn refuse(&self, id: u32, error: ClientError, turn: &mut Turn<'_>) {
        turn.fx.refused[(error.code() - 100) as usize & 15] += 1;
        turn.fx.reply(self.encoding, &Reply { id, error: Some(error.into()), ..Reply::default() });
    }
}
