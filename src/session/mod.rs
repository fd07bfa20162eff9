//! F6 · One client: what it said, what it may, what it waits for.
//!
//! A state machine without I/O: the `handle_*` calls take the time and give [`Effects`]; [`Session::next_deadline`]
//! says when it wants to be asked again. Everything here is plain data. Knows nothing of sockets, frames or other
//! sessions.
//!
//! What most clients have is in [`Session`] itself; what few have is in `more`, and costs the others nothing. The
//! commands are in `connect`, `subscribe` and `commands`.

pub mod backend;
mod commands;
mod connect;
mod effects;
mod inbox;
mod limits;
mod more;
mod rules;
mod streams;
mod subscribe;
mod subscription;
mod users;

pub use commands::is_fit;
pub use connect::is_connect_request;
pub use effects::{Effect, Effects};
pub use inbox::Arrivals;
pub use rules::{ChannelNames, HttpAnswer, InboxRule, InboxRules, Namespace, Rules, Settings, Terms};
pub use users::{Sessions, Users};

use crate::auth::{Cache, ChannelClaims, Claims, Jwks, Need, TokenError, Verdict};
use crate::base::wheel::{NEVER, TICK_MS, Tick};
use crate::broker::{Gone, Member};
use crate::hub::{ChannelId, Flags, Hub};
use crate::protocol::code::{ClientError, Disconnect};
use crate::protocol::{ClientInfo, Encoding, Error, Publication, Push, Reply, Unsubscribe};
use crate::wire::Wire;
use bytes::Bytes;
use compact_str::CompactString;
use more::More;
use smallvec::SmallVec;
use std::sync::Arc;
use subscription::{Pending, Subscription};

/// The time, read once a loop turn.
#[derive(Debug, Clone, Copy, Default)]
pub struct Now {
    pub tick: Tick,
    /// Milliseconds of the machine's clock that never steps: the same on all reactors. Whatever waits inside the
    /// process waits by it, or by ticks.
    pub ms: u64,
    /// Milliseconds since 1970, for what others say or are told: tokens and server time. It may step.
    pub unix_ms: u64,
}

impl Now {
    /// Seconds since 1970.
    pub fn seconds(self) -> u64 {
        self.unix_ms / 1000
    }
}

/// A join that waits in the hub's line: whose, and for which command.
#[derive(Debug, Clone, PartialEq)]
pub struct Joining {
    pub conn: crate::broker::ConnKey,
    pub channel: ChannelId,
    pub ticket: u32,
    /// Where it begins, or why it does not.
    pub outcome: Result<Option<Box<crate::broker::Found>>, ClientError>,
}

/// This reactor's hub.
pub type Channels = Hub<Joining>;

/// What tokens are checked with, beside the rules.
#[derive(Default)]
pub struct Tokens {
    pub cache: Cache,
    pub jwks: Arc<Jwks>,
    /// Keys were asked for in this turn: a token that still lacks its key does not get it by asking again.
    pub asked: bool,
    /// What was found of the token of the command that is carried out now.
    pub verdict: Option<Box<Verdict>>,
    /// Connections that client.bad_token_limit ended.
    pub limited: u64,
    /// Why credentials were refused in this call.
    pub rejected: Vec<&'static str>,
}

/// All causes that [`Tokens::rejected`] may have.
pub const REJECTIONS: &[&str] = &[
    NO_TOKEN,
    EXPIRED,
    NO_KEY_SET,
    "too_long",
    "malformed",
    "algorithm",
    "signature",
    "unknown_key",
    "issuer",
    "audience",
    "kind",
    "claims",
];
const NO_TOKEN: &str = "no_token";
const EXPIRED: &str = "expired";
const NO_KEY_SET: &str = "key_set";

impl Tokens {
    fn connection(&mut self, rules: &Rules, token: &str, now: Now) -> Result<Arc<Claims>, TokenError> {
        let claims = match self.verdict.take() {
            Some(verdict) => self.cache.connection_judged(&rules.verifier, &self.jwks, token, *verdict, now.seconds()),
            None => self.cache.connection(&rules.verifier, &self.jwks, token, now.seconds()),
        };
        claims.map_err(|error| self.once(error))
    }

    fn subscription(&mut self, rules: &Rules, token: &str, now: Now) -> Result<Arc<ChannelClaims>, TokenError> {
        let claims = match self.verdict.take() {
            Some(verdict) => {
                let verifier = rules.subscription_verifier();
                self.cache.subscription_judged(verifier, &self.jwks, token, *verdict, now.seconds())
            }
            None => self.cache.subscription(rules.subscription_verifier(), &self.jwks, token, now.seconds()),
        };
        claims.map_err(|error| self.once(error))
    }

    /// Signatures checked on this thread since the last call: they take microseconds, and may be many.
    pub fn take_checks(&mut self) -> u32 {
        self.cache.take_checks()
    }

    fn once(&mut self, error: TokenError) -> TokenError {
        let error = match error {
            TokenError::Needs(Need::Key(url)) if self.asked => self.jwks.missing(&url),
            error => error,
        };
        match &error {
            TokenError::Invalid(why) => self.rejected.push(why.cause()),
            TokenError::Expired => self.rejected.push(EXPIRED),
            TokenError::KeyUnavailable => self.rejected.push(NO_KEY_SET),
            TokenError::Needs(_) => {}
        }
        error
    }
}

/// What every call is given.
pub struct Turn<'a> {
    pub now: Now,
    pub rules: &'a Rules,
    /// For reading: what is to change there is an effect.
    pub hub: &'a Channels,
    pub fx: &'a mut Effects,
    pub tokens: &'a mut Tokens,
    /// Whether the owner of a channel takes no more requests; asked by name.
    pub owner_is_full: &'a dyn Fn(&str) -> bool,
    /// The session's name, made of its client id: by it other requests find the session.
    pub name: &'a dyn Fn([u8; 16]) -> String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Waits for the connect command, at most `client.stale_close_delay`.
    New,
    /// Its connect command waits for an answer; it is nobody yet.
    Connecting,
    Connected,
    /// Its connect command got an error reply: whatever comes next ends it.
    Refused,
}

/// How a client is pinged, and what it may answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pings {
    /// By WebSocket frames (`cf_ws_frame_ping_pong`).
    Frames,
    /// By messages: a pong that nobody awaits ends the session.
    Messages,
    /// The same, but this node did not hear a pong before the next ping was due: there is one for each of them.
    Unheard,
    /// The same by frames.
    UnheardFrames,
}

/// How a connection that expires is given more time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Renewal {
    None,
    /// A token said who it is, and which server-side subscriptions it has: one that renews it says the same.
    ByToken,
    /// The backend was asked.
    Asked,
}

/// The protocol state of one client.
#[derive(Debug)]
pub struct Session {
    /// The id issued to the client, a UUID's 16 bytes.
    client: [u8; 16],
    user: CompactString,
    subs: SmallVec<[Subscription; 2]>,
    /// Shown to others as `conn_info`.
    info: Option<Box<Bytes>>,
    /// What few sessions have, or few moments.
    more: Option<Box<More>>,
    /// This user's other clients on this reactor; the shard's.
    pub(crate) same_user: UserLinks,
    next_ping: Tick,
    /// The pong that is awaited must be here by then.
    pong_due: Tick,
    /// Connection expiry, as a tick, its grace included; or when the backend is to be asked for more time.
    expires: Tick,
    phase: Phase,
    wire: Wire,
    pings: Pings,
    renewal: Renewal,
}

// The memory of an idle client is decided here: docs/memory.md has the sum.
// A byte more, and the allocator takes the next size.
const _: () = assert!(size_of::<Session>() <= 104);

/// Links of the list of one user's clients: connection indices.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UserLinks {
    pub next: u32,
    pub prev: u32,
}

/// No neighbour.
pub const NO_CLIENT: u32 = u32::MAX;

impl Session {
    /// A client that just finished its handshake. `client` are 16 random bytes; they become a version 4 UUID.
    pub fn new(client: [u8; 16], wire: Wire, frame_pings: bool, now: Now, rules: &Rules) -> Session {
        Session {
            client: uuid::Builder::from_random_bytes(client).into_uuid().into_bytes(),
            user: CompactString::default(),
            subs: SmallVec::new(),
            info: None,
            more: None,
            same_user: UserLinks { next: NO_CLIENT, prev: NO_CLIENT },
            next_ping: now.tick + rules.stale_delay,
            pong_due: NEVER,
            expires: NEVER,
            phase: Phase::New,
            wire,
            pings: if frame_pings { Pings::Frames } else { Pings::Messages },
            renewal: Renewal::None,
        }
    }

    pub fn wire(&self) -> Wire {
        self.wire
    }

    pub fn encoding(&self) -> Encoding {
        self.wire.encoding()
    }

    pub fn user(&self) -> &str {
        &self.user
    }

    /// Has the connect command been granted?
    pub fn is_connected(&self) -> bool {
        self.phase == Phase::Connected
    }

    /// The client id.
    pub fn id(&self) -> [u8; 16] {
        self.client
    }

    /// The client id as the client knows it.
    pub fn client(&self) -> String {
        uuid::Uuid::from_bytes(self.client).to_string()
    }

    /// Lines `name: value` of the client's own request, for the backend.
    pub fn set_headers(&mut self, headers: Box<str>) {
        if !headers.is_empty() {
            self.more().headers = headers;
        }
    }

    /// The user that the proxy in front names; the client may still show a token of its own.
    pub fn set_trusted_user(&mut self, user: &str) {
        if !user.is_empty() {
            self.more().trusted_user = user.into();
        }
    }

    /// As others see it; `chan_info` is that of one of its subscriptions.
    fn info(&self, chan_info: Bytes) -> ClientInfo {
        ClientInfo {
            user: self.user.to_string(),
            client: self.client(),
            conn_info: self.info.as_deref().cloned().unwrap_or_default(),
            chan_info,
        }
    }

    /// When [`Session::handle_timeout`] is next wanted.
    pub fn next_deadline(&self) -> Tick {
        let subs = self.more.as_ref().map_or(NEVER, |more| more.states.next_expiry());
        self.next_ping.min(self.pong_due).min(self.expires).min(subs)
    }

    /// What is due at `now`: a ping, a question to the backend, or the end.
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
            self.expire(turn);
        } else if self.more.as_ref().is_some_and(|more| now >= more.states.next_expiry()) {
            self.expire_subscriptions(turn);
        } else if now >= self.next_ping {
            self.ping(turn);
        }
    }

    fn ping(&mut self, turn: &mut Turn<'_>) {
        let now = turn.now.tick;
        self.next_ping = turn.rules.ping_after(now, turn.rules.ping_interval);
        self.forget_spent(turn);
        // The next ping may come before a pong is overdue: it does not give an unanswered one more time.
        if self.pings_by_frames() {
            if self.pong_due != NEVER {
                self.pings = Pings::UnheardFrames;
            }
            self.pong_due = self.pong_due.min(now + rules::FRAME_PONG_TIMEOUT);
            turn.fx.push(Effect::PingFrame);
        } else {
            if self.pong_due != NEVER {
                self.pings = Pings::Unheard;
            }
            let answers = turn.rules.pong_timeout.filter(|_| !self.wire.is_uni());
            self.pong_due = answers.map_or(NEVER, |timeout| self.pong_due.min(now + timeout));
            turn.fx.push(Effect::Ping);
        }
    }

    /// A pong of the application's kind: the caller recognised it by its bytes. One that nobody awaits ends the
    /// session.
    pub fn handle_pong(&mut self, turn: &mut Turn<'_>) {
        let asked = self.pings == Pings::Messages && self.pong_due != NEVER || self.pings == Pings::Unheard;
        if !asked || self.phase != Phase::Connected {
            turn.fx.push(Effect::Close(Disconnect::BAD_REQUEST));
        } else if turn.rules.inboxes.any {
            turn.fx.push(Effect::Ponged);
        }
        self.pong_due = NEVER;
    }

    /// A WebSocket pong frame, and whether it was awaited; unasked ones are allowed (RFC 6455 section 5.5.3).
    pub fn handle_pong_frame(&mut self) -> bool {
        self.pings_by_frames() && std::mem::replace(&mut self.pong_due, NEVER) != NEVER
    }

    fn pings_by_frames(&self) -> bool {
        matches!(self.pings, Pings::Frames | Pings::UnheardFrames)
    }

    /// What this client said has not been heard yet: a pong that is overdue may be among it.
    pub fn wait_on_for_pong(&mut self, now: Now, rules: &Rules) {
        if self.pong_due <= now.tick {
            self.await_pong(now, rules);
        }
    }

    /// The ping stood behind what was owed to the client: its pong has all of its time from here on.
    pub fn ping_leaves(&mut self, now: Now, rules: &Rules) {
        if self.pong_due != NEVER {
            self.await_pong(now, rules);
        }
    }

    fn await_pong(&mut self, now: Now, rules: &Rules) {
        let timeout = if self.pings_by_frames() { Some(rules::FRAME_PONG_TIMEOUT) } else { rules.pong_timeout };
        self.pong_due = timeout.map_or(NEVER, |timeout| now.tick + timeout);
    }

    /// Ticks the awaited pong has left; `None` when none is awaited.
    pub fn pong_left(&self, now: Now) -> Option<Tick> {
        (self.pong_due != NEVER).then(|| self.pong_due.saturating_sub(now.tick))
    }

    /// The subscription at `back` stands at `slot` in the hub now.
    pub fn set_slot(&mut self, back: u16, slot: u32) {
        if let Some(sub) = self.subs.get_mut(usize::from(back)) {
            sub.place(slot);
        }
    }

    /// `channel` is held for a subscription, and its owner is asked for it. `pending`: unless it is plain.
    pub fn wait_for_owner(&mut self, channel: ChannelId, pending: Option<Box<Pending>>) {
        self.subs.push(Subscription::Waiting { channel });
        if let Some(pending) = pending {
            self.more().states.wait(channel, pending);
        }
    }

    /// Where the subscription at `back` stands in the hub, if it has begun. For checks.
    pub fn slot(&self, back: u16) -> Option<(ChannelId, u32)> {
        self.subs.get(usize::from(back)).and_then(|sub| Some((sub.channel(), sub.slot()?)))
    }

    /// The channels of its subscriptions.
    pub fn channels(&self) -> impl Iterator<Item = ChannelId> {
        self.subs.iter().map(|sub| sub.channel())
    }

    /// Subscriptions, those not yet answered with them.
    pub fn subscriptions(&self) -> usize {
        self.subs.len() + self.more.as_ref().map_or(0, |more| more.states.reserved())
    }

    /// Does this client want `publication` of a channel that it chooses from by tags?
    pub fn wants(&self, channel: ChannelId, publication: &Publication) -> bool {
        let details = self.more.as_ref().and_then(|more| more.states.details(channel));
        let filter = details.and_then(|details| details.filter.as_deref());
        filter.is_none_or(|filter| filter.matches(&publication.tags))
    }

    /// Ends the subscription at `at`. With a `ticket` the owner answers when nobody sees the client in the channel any
    /// more; false if there is nothing to wait for.
    fn end_sub(&mut self, at: usize, ticket: Option<u32>, turn: &mut Turn<'_>) -> bool {
        let sub = self.remove_sub(at, turn);
        let (channel, slot) = (sub.channel(), sub.slot());
        if self.has_streams() && !self.subs.iter().any(|sub| sub.channel() == channel) {
            self.drop_stream(turn.hub.name(channel));
        }
        let (mut flags, mut chan_info) = (Flags::default(), Bytes::new());
        match slot {
            None => {
                if let Some(pending) = self.more().states.abandon(channel) {
                    (flags, chan_info) = (pending.flags, pending.details.info);
                }
            }
            Some(slot) => {
                flags = turn.hub.slot(channel, slot).map_or(flags, |slot| slot.flags);
                if let Some(details) = self.more.as_mut().and_then(|more| more.states.take_details(channel)) {
                    chan_info = details.info;
                }
            }
        }
        self.drop_more();
        // While the server begins it anew, the client stays in the channel.
        for flag in [Flags::PRESENT, Flags::ANNOUNCED] {
            let stays = flags.has(flag) && self.has_another(channel, flag, turn);
            flags.set(flag, flags.has(flag) && !stays);
        }
        let seen = flags.has(Flags::PRESENT) || flags.has(Flags::ANNOUNCED);
        let ticket = ticket.filter(|_| seen);
        let gone = self.gone(flags, chan_info);
        turn.fx.push(Effect::Leave { channel, slot, gone, ticket });
        ticket.is_some()
    }

    /// Is there a subscription to `channel` with this flag?
    fn has_another(&self, channel: ChannelId, flag: Flags, turn: &Turn<'_>) -> bool {
        let of_live = |sub: &Subscription| sub.slot().and_then(|slot| turn.hub.slot(channel, slot));
        let mut live = self.subs.iter().filter(|sub| sub.channel() == channel).filter_map(of_live);
        let states = self.more.as_ref().map(|more| &more.states);
        live.any(|slot| slot.flags.has(flag)) || states.is_some_and(|states| states.has_pending(channel, flag))
    }

    /// What the owner must know of a subscription that ends, if it is more than plain.
    fn gone(&self, flags: Flags, chan_info: Bytes) -> Option<Box<Gone>> {
        let (presence, announce) = (flags.has(Flags::PRESENT), flags.has(Flags::ANNOUNCED));
        let (seen, delta) = (presence || announce, flags.has(Flags::DELTA));
        if !seen && !delta {
            return None;
        }
        let info = Arc::new(self.info(chan_info));
        let member = seen.then_some(Member { client: self.client, info, presence, announce });
        Some(Box::new(Gone { member, delta, asker: None }))
    }

    /// Takes the subscription at `at` off the list; its neighbours' places are kept in step with the hub.
    fn remove_sub(&mut self, at: usize, turn: &mut Turn<'_>) -> Subscription {
        let sub = self.subs.swap_remove(at);
        if let Some(moved) = self.subs.get(at)
            && let Some(slot) = moved.slot()
        {
            turn.fx.push(Effect::SetBack { channel: moved.channel(), slot, back: at as u16 });
        }
        sub
    }

    /// Ends all subscriptions: the client is gone.
    pub fn end(&mut self, turn: &mut Turn<'_>) {
        while !self.subs.is_empty() {
            self.end_sub(self.subs.len() - 1, None, turn);
        }
    }

    /// Tells the client that its subscription at `at` is over, which it now is.
    fn take_away(&mut self, at: usize, (code, reason): (u32, &str), turn: &mut Turn<'_>) {
        let (channel, live) = (self.subs[at].channel(), self.subs[at].is_live());
        let name = turn.hub.name(channel).to_string();
        let untold = !live && self.more.as_ref().is_some_and(|more| more.states.is_untold(channel));
        self.end_sub(at, None, turn);
        if !untold {
            self.push_unsubscribed(name, (code, reason), turn);
        }
    }

    fn push_unsubscribed(&self, name: String, (code, reason): (u32, &str), turn: &mut Turn<'_>) {
        let unsubscribe = Some(Unsubscribe { code, reason: reason.to_owned() });
        self.push(Push { channel: name, unsubscribe, ..Push::default() }, turn);
    }

    fn push(&self, push: Push, turn: &mut Turn<'_>) {
        turn.fx.reply(self.wire, &Reply { push: Some(push), ..Reply::default() });
    }

    fn refuse(&mut self, id: u32, error: Error, turn: &mut Turn<'_>) {
        if self.wire.is_uni() {
            // It reads no replies.
            return turn.fx.push(Effect::Refuse(error));
        }
        let code = error.code;
        if let Some(count) = code.checked_sub(100).and_then(|at| turn.fx.refused.get_mut(at as usize)) {
            *count += 1;
        }
        turn.fx.reply(self.wire, &Reply { id, error: Some(error), ..Reply::default() });
        self.charge_error(code, turn);
    }

    fn more(&mut self) -> &mut More {
        self.more.get_or_insert_default()
    }

    /// Gives the rare part back once nothing is in it.
    fn drop_more(&mut self) {
        if self.more.as_ref().is_some_and(|more| more.is_empty()) {
            self.more = None;
        }
    }
}

/// Is `at`, in seconds since 1970, a time that has come? 0 = never.
fn is_past(at: u64, turn: &Turn<'_>) -> bool {
    at > 0 && at <= turn.now.seconds()
}

/// What a client is told of a time that is farther away. SDKs keep it in 32 bits with a sign, or in a timer of
/// milliseconds: a greater number would be a negative one there, and they would refresh without end.
const TTL_MAX: u64 = 365 * 24 * 60 * 60;

/// The tick at which something that ends at `at` (seconds since 1970) is `delay_ms` past it, and the seconds left until
/// it ends, as a client is told: at least 1, at most a year.
fn deadline(at: u64, delay_ms: u64, now: Now) -> (Tick, u32) {
    let left_ms = at.saturating_mul(1000).saturating_sub(now.unix_ms);
    let close_in = left_ms.saturating_add(delay_ms).div_ceil(TICK_MS);
    let tick = now.tick.saturating_add(close_in.min(u64::from(NEVER / 2)) as Tick);
    (tick, (left_ms / 1000).clamp(1, TTL_MAX) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_told_of_a_second_to_a_year() {
        let now = Now { tick: 0, ms: 0, unix_ms: 1_700_000_000_000 };
        let year = 31_536_000;
        for (at, ttl) in [
            (1_700_000_000, 1),
            (1_600_000_000, 1),
            (1_700_000_060, 60),
            (1_700_000_000 + u64::from(year), year),
            (1_700_000_001 + u64::from(year), year),
            (1_700_000_000 + (1 << 31), year),
            // In milliseconds, by mistake.
            (1_700_000_060_000, year),
            (u64::MAX, year),
        ] {
            assert_eq!(deadline(at, 25_000, now).1, ttl, "{at}");
        }
    }
}
