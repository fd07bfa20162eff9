//! F6 · Connecting: credentials, server-side subscriptions, the connect reply, and staying beyond an expiry.

use super::backend::{Ask, ConnectGrant, RefreshGrant, Said, SubscribeGrant, Who};
use super::commands::{Failure, Outcome};
use super::inbox::device_of;
use super::limits::charge_connect;
use super::more::{Connecting, To, Wishes};
use super::{Effect, Phase, Renewal, Session, Turn, deadline, is_past};
use crate::auth::{Claims, SubClaims, TokenError};
use crate::base::wheel::{NEVER, Tick};
use crate::protocol::code::{ClientError, Disconnect};
use crate::protocol::{
    Command, ConnectRequest, ConnectResult, Encoding, Push, RefreshPush, RefreshRequest, RefreshResult, Reply,
    ServerSub, SubscribeRequest, SubscribeResult,
};
use crate::wire::Wire;
use bytes::Bytes;
use compact_str::CompactString;
use prost::Message as _;
use std::hash::BuildHasher;

/// The id of the connect command that a client which only listens did not write.
const LISTENER_ID: u32 = 1;

/// What the connect reply calls this server.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " Gannet");

impl Session {
    pub(super) fn connect(&mut self, id: u32, request: ConnectRequest, turn: &mut Turn<'_>) -> Outcome {
        if self.phase != Phase::New {
            return Err(Disconnect::BAD_REQUEST.into());
        }
        // From here on an error reply leaves a connection that can only be closed.
        self.phase = Phase::Refused;
        self.authenticate(id, request, turn)
    }

    /// The first message of a client that only listens: how it wants to connect. What it says later is for nobody.
    pub(super) fn connect_to_listen(&mut self, message: &[u8], turn: &mut Turn<'_>) {
        if self.phase != Phase::New {
            return;
        }
        let Some(request) = listener(self.wire, message) else {
            return turn.fx.push(Effect::Close(Disconnect::BAD_REQUEST));
        };
        let outcome = self.connect(LISTENER_ID, request, turn);
        self.settle(LISTENER_ID, outcome, turn);
    }

    fn authenticate(&mut self, id: u32, request: ConnectRequest, turn: &mut Turn<'_>) -> Outcome {
        let rules = turn.rules;
        if request.token.is_empty() {
            if rules.connect_proxy {
                self.wait_to_connect(id, turn);
                self.ask(id, Ask::Connect(Box::new(request)), turn);
                return Ok(());
            }
            return self.connect_without_token(id, request.subs, turn);
        }
        let claims = match turn.tokens.connection(rules, &request.token, turn.now) {
            Ok(claims) => claims,
            Err(TokenError::Expired) => return Err(ClientError::TokenExpired.into()),
            Err(TokenError::Invalid(_)) => return Err(Disconnect::INVALID_TOKEN.into()),
            Err(TokenError::KeyUnavailable) => return Err(ClientError::Internal.into()),
            Err(TokenError::Needs(need)) => {
                self.wait_to_connect(id, turn);
                let then = Command { id, connect: Some(request), ..Command::default() };
                self.ask(id, Ask::about_token(need, then, turn), turn);
                return Ok(());
            }
        };
        if claims.user.is_empty() && rules.refuse_anonymous_tokens {
            return Err(Disconnect::PERMISSION_DENIED.into());
        }
        let grant = grant(&claims, rules.insecure);
        self.renewal = Renewal::ByToken;
        self.take_seat(id, grant, request.subs, turn)
    }

    /// Without a token, and without a word of the backend's: whom the proxy in front names, or nobody.
    fn connect_without_token(&mut self, id: u32, wishes: Wishes, turn: &mut Turn<'_>) -> Outcome {
        let user = self.more.as_mut().map(|more| std::mem::take(&mut more.trusted_user)).unwrap_or_default();
        if !user.is_empty() {
            return self.take_seat(id, ConnectGrant { user, ..ConnectGrant::default() }, wishes, turn);
        }
        if !turn.rules.insecure && !turn.rules.allow_anonymous {
            turn.tokens.rejected.push(super::NO_TOKEN);
            return Err(Disconnect::BAD_REQUEST.into());
        }
        self.take_seat(id, ConnectGrant::default(), wishes, turn)
    }

    /// The connect command cannot be answered yet: its place is kept, and what comes after it waits.
    fn wait_to_connect(&mut self, id: u32, turn: &mut Turn<'_>) {
        self.phase = Phase::Connecting;
        let more = self.more();
        if more.connecting.is_none() {
            more.connecting = Some(Box::new(Connecting { id, ..Connecting::default() }));
            turn.fx.keep_place(id);
        }
    }

    /// A user may have so many connections: who is over the limit goes.
    fn take_seat(&mut self, id: u32, grant: ConnectGrant, wishes: Wishes, turn: &mut Turn<'_>) -> Outcome {
        charge_connect(&grant.user, turn)?;
        if turn.rules.user_connection_limit == 0 || grant.user.is_empty() {
            return self.connect_as(id, grant, wishes, turn);
        }
        self.wait_to_connect(id, turn);
        self.user = grant.user.clone();
        if let Some(connecting) = &mut self.more().connecting {
            connecting.grant = Some(Box::new((grant, wishes)));
        }
        turn.fx.push(Effect::TakeSeat { ticket: id });
        Ok(())
    }

    /// Whether there was a place for one more connection of the user. False if this one does not take it, or not for
    /// long: it is given back by whoever got it.
    pub fn handle_seat(&mut self, ticket: u32, granted: bool, turn: &mut Turn<'_>) -> bool {
        let waiting = self.more.as_mut().and_then(|more| more.connecting.as_mut());
        let Some((grant, wishes)) = waiting.and_then(|connecting| connecting.grant.take()).map(|both| *both) else {
            return false;
        };
        turn.fx.kept = Some(ticket);
        let outcome = match granted {
            true => self.connect_as(ticket, grant, wishes, turn),
            false => Err(Disconnect::CONNECTION_LIMIT.into()),
        };
        let taken = outcome.is_ok();
        self.settle_connect(ticket, outcome, turn);
        taken
    }

    /// It is somebody now: subscribes it to what the server wants, and answers when that is done.
    fn connect_as(&mut self, id: u32, grant: ConnectGrant, wishes: Wishes, turn: &mut Turn<'_>) -> Outcome {
        if is_past(grant.expire_at, turn) {
            return Err(ClientError::Expired.into());
        }
        let subs = self.server_subscriptions(&grant, &wishes, turn)?;
        if subs.len() > turn.rules.channel_limit {
            return Err(Disconnect::CHANNEL_LIMIT.into());
        }
        self.user = grant.user;
        if let Some(more) = &mut self.more {
            // A token or the backend said otherwise.
            more.trusted_user = CompactString::default();
        }
        self.info = (!grant.info.is_empty()).then(|| Box::new(grant.info));
        self.keep_meta(&grant.meta, turn);
        if turn.rules.inboxes.of_devices && !grant.meta.is_empty() {
            self.more().device = device_of(&grant.meta);
            self.drop_more();
        }
        let ttl = self.expire_at(grant.expire_at, turn);
        let granted = sum_of(&grant.subs);
        // One that does not expire is not refreshed: nothing need be remembered for it.
        if ttl.is_none() {
            self.renewal = Renewal::None;
        }
        if self.renewal == Renewal::ByToken && granted != 0 {
            self.more().granted = granted;
        }
        self.phase = Phase::Connected;
        self.schedule_first_ping(turn);
        turn.fx.push(Effect::Connected);
        if turn.rules.personal.single_connection && turn.rules.personal_channel(&self.user).is_some() {
            turn.fx.push(Effect::CloseOthers);
        }
        let (emulated, listens) = (self.wire.is_emulated(), self.wire.is_uni());
        let result = ConnectResult {
            session: if emulated || listens { (turn.name)(self.client) } else { String::new() },
            node: if emulated { turn.rules.node.clone() } else { String::new() },
            client: self.client(),
            version: VERSION.to_owned(),
            expires: ttl.is_some(),
            ttl: ttl.unwrap_or(0),
            data: grant.data,
            ping: if self.pings_by_frames() { 0 } else { turn.rules.ping_seconds },
            pong: !self.pings_by_frames() && !self.wire.is_uni() && turn.rules.pong_timeout.is_some(),
            time: if turn.rules.include_time { turn.now.unix_ms as i64 } else { 0 },
            ..ConnectResult::default()
        };
        if subs.is_empty() {
            self.finish_connect(id, result, turn);
            return Ok(());
        }
        self.wait_to_connect(id, turn);
        self.phase = Phase::Connected;
        if let Some(connecting) = &mut self.more().connecting {
            (connecting.result, connecting.waits) = (result, subs.len());
        }
        for (channel, grant, wish) in subs {
            let request = SubscribeRequest { channel, ..wish.unwrap_or_default() };
            self.begin_subscription(0, request, grant, To::Connect, turn);
        }
        Ok(())
    }

    /// Channels that the client is subscribed to as it connects: those of its token or the backend, its own, and those
    /// that it knows from before and may have without asking anyone.
    fn server_subscriptions(
        &self,
        grant: &ConnectGrant,
        wishes: &Wishes,
        turn: &Turn<'_>,
    ) -> Result<Vec<(String, SubscribeGrant, Option<SubscribeRequest>)>, Failure> {
        let rules = turn.rules;
        for channel in wishes.keys() {
            rules.namespace(channel).ok_or(Disconnect::BAD_REQUEST)?;
        }
        let mut all: Vec<(String, SubscribeGrant)> = grant.subs.clone();
        all.extend(rules.personal_channel(&grant.user).map(|channel| (channel, SubscribeGrant::default())));
        for (channel, _) in &all {
            rules.namespace(channel).filter(|_| !channel.is_empty()).ok_or(ClientError::UnknownChannel)?;
            if channel.len() > rules.channel_length_max {
                return Err(ClientError::BadRequest.into());
            }
            if (turn.owner_is_full)(channel) {
                return Err(ClientError::TooManyRequests.into());
            }
        }
        let free = wishes.keys().filter(|channel| self.may_have_freely(channel, &grant.user, turn));
        all.extend(free.map(|channel| (channel.clone(), SubscribeGrant::default())));
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        all.dedup_by(|(again, _), (kept, _)| again == kept);
        Ok(all
            .into_iter()
            .map(|(channel, grant)| {
                let wish = wishes.get(&channel).cloned();
                (channel, grant, wish)
            })
            .collect())
    }

    /// One of the server-side subscriptions has begun.
    pub(super) fn subscribed_on_connect(&mut self, channel: String, result: SubscribeResult, turn: &mut Turn<'_>) {
        let Some(connecting) = self.more.as_mut().and_then(|more| more.connecting.as_mut()) else { return };
        connecting.result.subs.push(ServerSub { channel, result: Some(result) });
        self.one_less_to_wait_for(turn);
    }

    pub(super) fn one_less_to_wait_for(&mut self, turn: &mut Turn<'_>) {
        let Some(connecting) = self.more.as_mut().and_then(|more| more.connecting.as_mut()) else { return };
        connecting.waits = connecting.waits.saturating_sub(1);
        if connecting.waits == 0 {
            let (id, result) = (connecting.id, std::mem::take(&mut connecting.result));
            self.finish_connect(id, result, turn);
        }
    }

    /// The connect reply. Commands that wait for it go on once it is sent.
    fn finish_connect(&mut self, id: u32, result: ConnectResult, turn: &mut Turn<'_>) {
        let connecting = self.more.as_mut().and_then(|more| more.connecting.take());
        turn.fx.kept = connecting.as_ref().map(|_| id);
        turn.fx.reply(self.wire, &Reply { id, connect: Some(result), ..Reply::default() });
        if connecting.is_some_and(|connecting| connecting.has_more) {
            turn.fx.push(Effect::Close(Disconnect::INSUFFICIENT_STATE));
        }
        self.drop_more();
    }

    /// An outcome of connecting that was waited for.
    fn settle_connect(&mut self, id: u32, outcome: Outcome, turn: &mut Turn<'_>) {
        match outcome {
            Err(Failure::Error(error)) => self.refuse_connect(id, error.into(), turn),
            Err(Failure::Said(error)) => self.refuse_connect(id, error, turn),
            other => self.settle(id, other, turn),
        }
    }

    fn refuse_connect(&mut self, id: u32, error: crate::protocol::Error, turn: &mut Turn<'_>) {
        self.phase = Phase::Refused;
        if let Some(more) = &mut self.more {
            more.connecting = None;
        }
        self.drop_more();
        turn.fx.kept = Some(id);
        self.refuse(id, error, turn);
    }

    /// What the backend said of the connect command.
    pub(super) fn connect_said(&mut self, id: u32, request: ConnectRequest, said: Said, turn: &mut Turn<'_>) {
        if self.phase != Phase::Connecting {
            return;
        }
        match said {
            Said::NoCredentials => {
                let outcome = self.connect_without_token(id, request.subs, turn);
                self.settle_connect(id, outcome, turn);
            }
            Said::Connect(grant) => {
                // The backend named the channels: from the client come only the positions in them.
                let (mut wishes, own) = (request.subs, turn.rules.personal_channel(&grant.user));
                let named = |channel: &String| own.as_ref() == Some(channel) || grant.names(channel);
                wishes.retain(|channel, _| named(channel));
                let outcome = self.take_seat(id, *grant, wishes, turn);
                self.settle_connect(id, outcome, turn);
            }
            Said::Keys(_) | Said::Checked(_) => {
                let outcome = self.authenticate(id, request, turn);
                self.settle_connect(id, outcome, turn);
            }
            said => self.settle_connect(id, Err(said.refusal()), turn),
        }
    }

    /// Takes an expiry (seconds since 1970, 0 = never); the seconds left, if the client is to refresh it.
    fn expire_at(&mut self, at: u64, turn: &Turn<'_>) -> Option<u32> {
        self.expires = NEVER;
        if self.renewal == Renewal::Asked {
            self.renewal = Renewal::None;
        }
        if at == 0 {
            return None;
        }
        let server = turn.rules.refresh_proxy;
        let (tick, left) = deadline(at, if server { 0 } else { turn.rules.expired_delay_ms }, turn.now);
        self.expires = tick;
        (!server).then_some(left)
    }

    /// The time is over, or the backend is to be asked for more.
    pub(super) fn expire(&mut self, turn: &mut Turn<'_>) {
        if !turn.rules.refresh_proxy || self.renewal == Renewal::Asked {
            return turn.fx.push(Effect::Close(Disconnect::CONNECTION_EXPIRED));
        }
        self.renewal = Renewal::Asked;
        self.expires = deadline(turn.now.seconds(), turn.rules.expired_delay_ms, turn.now).0;
        self.ask(0, Ask::Refresh, turn);
    }

    /// The answer to a proxy request for more time. One that names no time leaves the old one, which is over.
    pub(super) fn refresh_said(&mut self, grant: RefreshGrant, turn: &mut Turn<'_>) {
        let over = grant.expire_at == 0 && self.renewal == Renewal::Asked;
        self.refresh_granted(RefreshGrant { expired: grant.expired || over, ..grant }, turn);
    }

    /// The backend gives more time, or does not.
    pub fn refresh_granted(&mut self, grant: RefreshGrant, turn: &mut Turn<'_>) {
        if grant.expired || is_past(grant.expire_at, turn) {
            return turn.fx.push(Effect::Close(Disconnect::CONNECTION_EXPIRED));
        }
        if let Some(info) = grant.info {
            self.info = (!info.is_empty()).then(|| Box::new(info));
        }
        if let Some(meta) = grant.meta {
            self.keep_meta(&meta, turn);
        }
        let ttl = self.expire_at(grant.expire_at, turn);
        if let Some(ttl) = ttl {
            self.push(Push { refresh: Some(RefreshPush { expires: true, ttl }), ..Push::default() }, turn);
        }
    }

    /// Somewhere in [interval/2, interval], by the client's random id, so that a storm of connects is no storm of
    /// pings.
    fn schedule_first_ping(&mut self, turn: &Turn<'_>) {
        let interval = turn.rules.ping_interval;
        let chance = u32::from(u16::from_le_bytes([self.client[0], self.client[1]]));
        let half = interval / 2;
        let wait = interval - half + (u64::from(half) * u64::from(chance) / 65_536) as Tick;
        self.next_ping = turn.rules.ping_after(turn.now.tick, wait);
    }

    pub(super) fn refresh(&mut self, id: u32, request: RefreshRequest, turn: &mut Turn<'_>) -> Outcome {
        if request.token.is_empty() || turn.rules.refresh_proxy {
            return Err(Disconnect::BAD_REQUEST.into());
        }
        let claims = match turn.tokens.connection(turn.rules, &request.token, turn.now) {
            Ok(claims) => claims,
            Err(TokenError::Expired) => return Err(Disconnect::CONNECTION_EXPIRED.into()),
            Err(TokenError::Invalid(_)) => return Err(Disconnect::INVALID_TOKEN.into()),
            Err(TokenError::KeyUnavailable) => return Err(ClientError::Internal.into()),
            Err(TokenError::Needs(need)) => {
                let then = Command { id, refresh: Some(request), ..Command::default() };
                return self.ask_in_place(id, Ask::about_token(need, then, turn), turn);
            }
        };
        if claims.user != self.user {
            return Err(Disconnect::INVALID_TOKEN.into());
        }
        let granted = sum_of(&grant(&claims, false).subs);
        if self.renewal == Renewal::ByToken && granted != self.more.as_ref().map_or(0, |more| more.granted) {
            return Err(Disconnect::INSUFFICIENT_STATE.into());
        }
        self.info = (!claims.info.is_empty()).then(|| Box::new(claims.info.clone()));
        self.keep_meta(&claims.meta, turn);
        let expire_at = claims.expire_at.filter(|_| !turn.rules.insecure);
        let ttl = self.expire_at(expire_at.unwrap_or(0), turn);
        self.renewal = if ttl.is_some() { Renewal::ByToken } else { Renewal::None };
        if ttl.is_some() && granted != 0 {
            self.more().granted = granted;
        }
        let result = RefreshResult {
            client: self.client(),
            version: VERSION.to_owned(),
            expires: ttl.is_some(),
            ttl: ttl.unwrap_or(0),
        };
        turn.fx.reply(self.wire, &Reply { id, refresh: Some(result), ..Reply::default() });
        Ok(())
    }

    /// What the backend is told of this client in proxy requests, if it is told anything; nothing leaves what there is.
    fn keep_meta(&mut self, meta: &Bytes, turn: &Turn<'_>) {
        if turn.rules.tells_meta && !meta.is_empty() {
            self.more().meta = meta.clone();
        }
    }

    /// Puts a question to the backend.
    pub(super) fn ask(&mut self, ticket: u32, ask: Ask, turn: &mut Turn<'_>) {
        let who = Box::new(Who {
            client: self.client(),
            user: self.user.clone(),
            transport: self.wire.transport(),
            encoding: self.encoding(),
            headers: self.more.as_ref().map_or_else(Default::default, |more| more.headers.clone()),
            meta: self.more.as_ref().map_or_else(Default::default, |more| more.meta.clone()),
        });
        turn.fx.push(Effect::Ask { ticket, who, ask: Box::new(ask) });
    }

    /// The same for a command, whose reply's place is kept.
    pub(super) fn ask_in_place(&mut self, id: u32, ask: Ask, turn: &mut Turn<'_>) -> Outcome {
        turn.fx.keep_place(id);
        self.ask(id, ask, turn);
        Ok(())
    }
}

/// How a client that only listens wants to connect; nothing at all is a wish like any other.
fn listener(wire: Wire, message: &[u8]) -> Option<ConnectRequest> {
    if wire.encoding() == Encoding::Protobuf {
        return ConnectRequest::decode(message).ok();
    }
    let message = if message.trim_ascii().is_empty() { b"{}" } else { message };
    // serde would take a list for a struct.
    let object = message.trim_ascii_start().starts_with(b"{");
    object.then(|| serde_json::from_slice(message).ok()).flatten()
}

/// Can a client that only listens connect with these words?
pub fn is_connect_request(wire: Wire, message: &[u8]) -> bool {
    listener(wire, message).is_some()
}

/// Stands for the channels of `subs`, in any order; 0 = there are none.
fn sum_of(subs: &[(String, SubscribeGrant)]) -> u64 {
    let hash = |(channel, _): &(String, _)| foldhash::quality::FixedState::default().hash_one(channel);
    subs.iter().map(hash).fold(0, u64::wrapping_add)
}

fn grant(claims: &Claims, insecure: bool) -> ConnectGrant {
    let plain = claims.channels.iter().map(|channel| (channel.to_string(), SubscribeGrant::default()));
    let told = claims.subs.iter().map(|(channel, SubClaims { info, data, overrides })| {
        let (info, data) = (info.clone(), data.clone());
        (channel.to_string(), SubscribeGrant { expire_at: 0, info, data, overrides: *overrides })
    });
    ConnectGrant {
        user: claims.user.clone(),
        expire_at: claims.expire_at.filter(|_| !insecure).unwrap_or(0),
        info: claims.info.clone(),
        meta: claims.meta.clone(),
        data: Default::default(),
        subs: told.chain(plain).collect(),
    }
}
