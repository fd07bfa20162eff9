//! F4 · The commands of a client, one function each: checks in the order of the protocol, then effects.

use super::{Effect, PENDING, Phase, Session, Sub, Turn};
use crate::auth::{Claims, Jwks, TokenError};
use crate::config::ChannelOptions;
use crate::hub::ChannelId;
use crate::protocol::code::{ClientError, Disconnect, UNSUBSCRIBED_BY_SERVER};
use crate::protocol::{
    ChannelRequest, Command, ConnectRequest, ConnectResult, Empty, Publication, PublishRequest, Push, RefreshRequest,
    RefreshResult, Reply, SubscribeRequest, Unsubscribe, UnsubscribeRequest,
};
use crate::wheel::{NEVER, TICK_MS, Tick};

/// What the connect reply calls this server.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " Gannet");

/// A command's outcome: it was answered, the answer is an error, or the client must go.
type Outcome = Result<(), Failure>;

enum Failure {
    Error(ClientError),
    Close(Disconnect),
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        Failure::Error(error)
    }
}

impl From<Disconnect> for Failure {
    fn from(disconnect: Disconnect) -> Failure {
        Failure::Close(disconnect)
    }
}

impl Session {
    /// A whole WebSocket message: one command or several. Stops at the first that ends the session.
    pub fn handle_message(&mut self, message: &[u8], turn: &mut Turn<'_>) {
        let mut rest = message;
        let mut commands = 0;
        while let Some(decoded) = self.encoding.decode(&mut rest) {
            commands += 1;
            let Ok(command) = decoded else {
                return turn.fx.push(Effect::Close(Disconnect::BAD_REQUEST));
            };
            let id = command.id;
            match self.command(command, turn) {
                Ok(()) => {}
                Err(Failure::Error(error)) => self.refuse(id, error, turn),
                Err(Failure::Close(disconnect)) => return turn.fx.push(Effect::Close(disconnect)),
            }
            if matches!(turn.fx.list.last(), Some(Effect::Close(_))) {
                return;
            }
        }
        if commands == 0 {
            turn.fx.push(Effect::Close(Disconnect::BAD_REQUEST));
        }
    }

    fn command(&mut self, command: Command, turn: &mut Turn<'_>) -> Outcome {
        let id = command.id;
        if id == 0 && command.send.is_none() {
            self.handle_pong(turn);
            return Ok(());
        }
        if let Some(request) = command.connect {
            return self.connect(id, request, turn);
        }
        if self.phase != Phase::Connected {
            return Err(Disconnect::BAD_REQUEST.into());
        }
        if let Some(request) = command.subscribe {
            return self.subscribe(id, request, turn);
        }
        if let Some(request) = command.unsubscribe {
            return self.unsubscribe(id, request, turn);
        }
        if let Some(request) = command.publish {
            return self.publish(id, request, turn);
        }
        if let Some(request) = command.presence.or(command.presence_stats).or(command.history) {
            return self.not_offered(request, turn);
        }
        if command.send.is_some() {
            return Err(Disconnect::NOT_AVAILABLE.into());
        }
        if command.rpc.is_some() {
            return Err(ClientError::NotAvailable.into());
        }
        if let Some(request) = command.refresh {
            return self.refresh(id, request, turn);
        }
        if let Some(request) = command.sub_refresh {
            return self.sub_refresh(request, turn);
        }
        // No request, or a ping, which only the server may send.
        Err(Disconnect::BAD_REQUEST.into())
    }

    fn connect(&mut self, id: u32, request: ConnectRequest, turn: &mut Turn<'_>) -> Outcome {
        if self.phase != Phase::New {
            return Err(Disconnect::BAD_REQUEST.into());
        }
        // From here on an error reply leaves a connection that can only be closed.
        self.phase = Phase::Refused;
        let claims = self.authenticate(&request, turn)?;
        for channel in request.subs.keys() {
            turn.rules.channel(channel).ok_or(Disconnect::BAD_REQUEST)?;
        }
        self.phase = Phase::Connected;
        self.user = claims.user;
        self.info = (!claims.info.is_empty()).then(|| Box::new(claims.info));
        let ttl = self.expire(claims.expire_at, turn);
        self.schedule_first_ping(turn);
        turn.fx.push(Effect::Connected);
        let result = ConnectResult {
            client: self.client(),
            version: VERSION.to_owned(),
            expires: ttl.is_some(),
            ttl: ttl.unwrap_or(0),
            ping: if self.frame_pings { 0 } else { turn.rules.ping_seconds },
            pong: !self.frame_pings && turn.rules.pong_timeout.is_some(),
            time: if turn.rules.include_time { turn.now.unix_ms as i64 } else { 0 },
            ..ConnectResult::default()
        };
        turn.fx.reply(self.encoding, &Reply { id, connect: Some(result), ..Reply::default() });
        Ok(())
    }

    fn authenticate(&self, request: &ConnectRequest, turn: &Turn<'_>) -> Result<Claims, Failure> {
        let rules = turn.rules;
        if request.token.is_empty() {
            if !rules.insecure && !rules.allow_anonymous {
                return Err(Disconnect::BAD_REQUEST.into());
            }
            return Ok(Claims::default());
        }
        let mut claims =
            rules.verifier.connection(&request.token, turn.now.unix_ms / 1000, &Jwks::default()).map_err(|error| {
                match error {
                    TokenError::Invalid(_) => Failure::Close(Disconnect::INVALID_TOKEN),
                    TokenError::Expired => Failure::Error(ClientError::TokenExpired),
                    TokenError::KeyWanted(_) | TokenError::KeyUnavailable => Failure::Error(ClientError::Internal),
                }
            })?;
        if claims.user.is_empty() && rules.refuse_anonymous_tokens {
            return Err(Disconnect::PERMISSION_DENIED.into());
        }
        if !claims.channels.is_empty() || !claims.subs.is_empty() {
            // Server-side subscriptions are not offered yet; to connect without them would lose messages silently.
            return Err(ClientError::NotAvailable.into());
        }
        if rules.insecure {
            claims.expire_at = None;
        }
        Ok(claims)
    }

    /// Takes an expiry (seconds since 1970); the seconds left, at least 1, to tell the client.
    fn expire(&mut self, at: Option<u64>, turn: &Turn<'_>) -> Option<u32> {
        self.expires = NEVER;
        let left_ms = (at?.saturating_mul(1000)).saturating_sub(turn.now.unix_ms);
        let close_in = left_ms.saturating_add(turn.rules.expired_delay_ms).div_ceil(TICK_MS);
        self.expires = turn.now.tick.saturating_add(close_in.min(u64::from(NEVER / 2)) as Tick);
        Some((left_ms / 1000).clamp(1, u64::from(u32::MAX)) as u32)
    }

    /// Somewhere in [interval/2, interval], by the client's random id, so that a storm of connects is no storm of
    /// pings.
    fn schedule_first_ping(&mut self, turn: &Turn<'_>) {
        let interval = turn.rules.ping_interval;
        let chance = u32::from(u16::from_le_bytes([self.client[0], self.client[1]]));
        let half = interval / 2;
        self.next_ping = turn.now.tick + interval - half + (u64::from(half) * u64::from(chance) / 65_536) as Tick;
    }

    fn subscribe(&mut self, id: u32, request: SubscribeRequest, turn: &mut Turn<'_>) -> Outcome {
        let name = &request.channel;
        if name.is_empty() {
            return Err(Disconnect::BAD_REQUEST.into());
        }
        if name.len() > turn.rules.channel_length_max {
            return Err(ClientError::BadRequest.into());
        }
        if self.find(name, turn).is_some() {
            return Err(ClientError::AlreadySubscribed.into());
        }
        if self.subs.len() >= turn.rules.channel_limit {
            return Err(ClientError::LimitExceeded.into());
        }
        let options = turn.rules.channel(name).ok_or(ClientError::UnknownChannel)?;
        if !name.is_ascii() {
            return Err(ClientError::BadRequest.into());
        }
        self.may_subscribe(&request, options, turn)?;
        if !matches!(request.delta.as_str(), "" | "fossil") {
            return Err(Disconnect::BAD_REQUEST.into());
        }
        if request.tf.is_some() {
            return Err(ClientError::BadRequest.into());
        }
        if (turn.owner_is_full)(name) {
            return Err(ClientError::TooManyRequests.into());
        }
        let channel = turn.hub.hold(name);
        self.subs.push(Sub { channel, slot: PENDING });
        turn.fx.push(Effect::Subscribe { channel, ticket: id });
        Ok(())
    }

    fn may_subscribe(&self, request: &SubscribeRequest, options: &ChannelOptions, turn: &Turn<'_>) -> Outcome {
        // Other than stream subscriptions, private channels and subscription tokens are not offered.
        let offered = request.kind == 0 && !request.channel.starts_with('$') && request.token.is_empty();
        let allowed = turn.rules.insecure
            || (options.allow_subscribe_for_client && (!self.user.is_empty() || options.allow_subscribe_for_anonymous));
        if offered && allowed { Ok(()) } else { Err(ClientError::PermissionDenied.into()) }
    }

    fn unsubscribe(&mut self, id: u32, request: UnsubscribeRequest, turn: &mut Turn<'_>) -> Outcome {
        if request.channel.is_empty() {
            return Err(Disconnect::BAD_REQUEST.into());
        }
        if let Some(at) = self.find(&request.channel, turn) {
            self.end_sub(at, turn);
        }
        turn.fx.reply(self.encoding, &Reply { id, unsubscribe: Some(Empty {}), ..Reply::default() });
        Ok(())
    }

    /// The backend takes `channel` away ("" = every one); how many there were.
    pub fn unsubscribe_by_server(&mut self, channel: &str, turn: &mut Turn<'_>) -> usize {
        let mut ended = 0;
        let mut at = self.subs.len();
        while at > 0 {
            at -= 1;
            let name = turn.hub.name(self.subs[at].channel).clone();
            if !channel.is_empty() && *name != *channel {
                continue;
            }
            self.end_sub(at, turn);
            ended += 1;
            let (code, reason) = UNSUBSCRIBED_BY_SERVER;
            let unsubscribe = Some(Unsubscribe { code, reason: reason.to_owned() });
            let push = Push { channel: name.to_string(), unsubscribe, ..Push::default() };
            turn.fx.reply(self.encoding, &Reply { push: Some(push), ..Reply::default() });
        }
        ended
    }

    fn publish(&mut self, id: u32, request: PublishRequest, turn: &mut Turn<'_>) -> Outcome {
        let name = &request.channel;
        if name.is_empty() {
            return Err(Disconnect::BAD_REQUEST.into());
        }
        if name.len() > turn.rules.channel_length_max {
            return Err(ClientError::BadRequest.into());
        }
        let options = turn.rules.channel(name).ok_or(ClientError::UnknownChannel)?;
        if !name.is_ascii() {
            return Err(ClientError::BadRequest.into());
        }
        if !self.may_publish(name, options, turn) || request.kind != 0 {
            return Err(ClientError::PermissionDenied.into());
        }
        if request.data.is_empty() {
            return Err(ClientError::BadRequest.into());
        }
        if (turn.owner_is_full)(name) {
            return Err(ClientError::TooManyRequests.into());
        }
        let publication = Publication { data: request.data, info: Some(self.info()), ..Publication::default() };
        turn.fx.push(Effect::Publish { channel: name.as_str().into(), publication: publication.into(), ticket: id });
        Ok(())
    }

    fn may_publish(&self, channel: &str, options: &ChannelOptions, turn: &Turn<'_>) -> bool {
        let known = !self.user.is_empty() || options.allow_publish_for_anonymous;
        turn.rules.insecure
            || (known && options.allow_publish_for_client)
            || (known && options.allow_publish_for_subscriber && self.find(channel, turn).is_some())
    }

    /// Presence and history: no channel keeps them in this version.
    fn not_offered(&self, request: ChannelRequest, turn: &Turn<'_>) -> Outcome {
        if request.channel.is_empty() {
            return Err(Disconnect::BAD_REQUEST.into());
        }
        turn.rules.channel(&request.channel).ok_or(ClientError::UnknownChannel)?;
        Err(ClientError::NotAvailable.into())
    }

    fn refresh(&mut self, id: u32, request: RefreshRequest, turn: &mut Turn<'_>) -> Outcome {
        if request.token.is_empty() {
            return Err(Disconnect::BAD_REQUEST.into());
        }
        let claims =
            turn.rules.verifier.connection(&request.token, turn.now.unix_ms / 1000, &Jwks::default()).map_err(
                |error| match error {
                    TokenError::Invalid(_) => Failure::Close(Disconnect::INVALID_TOKEN),
                    TokenError::Expired => Failure::Close(Disconnect::CONNECTION_EXPIRED),
                    TokenError::KeyWanted(_) | TokenError::KeyUnavailable => Failure::Error(ClientError::Internal),
                },
            )?;
        if claims.user != self.user {
            return Err(Disconnect::INVALID_TOKEN.into());
        }
        self.info = (!claims.info.is_empty()).then(|| Box::new(claims.info));
        let ttl = self.expire(claims.expire_at.filter(|_| !turn.rules.insecure), turn);
        let result = RefreshResult {
            client: self.client(),
            version: VERSION.to_owned(),
            expires: ttl.is_some(),
            ttl: ttl.unwrap_or(0),
        };
        turn.fx.reply(self.encoding, &Reply { id, refresh: Some(result), ..Reply::default() });
        Ok(())
    }

    fn sub_refresh(&self, request: ChannelRequest, turn: &Turn<'_>) -> Outcome {
        if request.channel.is_empty() {
            return Err(Disconnect::BAD_REQUEST.into());
        }
        let error = match self.find(&request.channel, turn) {
            Some(_) => ClientError::NotAvailable,
            None => ClientError::PermissionDenied,
        };
        Err(error.into())
    }

    /// Where the subscription to `channel` stands, answered or not.
    fn find(&self, channel: &str, turn: &Turn<'_>) -> Option<usize> {
        let id: ChannelId = turn.hub.find(channel)?;
        self.subs.iter().position(|sub| sub.channel == id)
    }
}
