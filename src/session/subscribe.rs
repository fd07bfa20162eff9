//! F6 · Subscriptions: who may, on which terms, how they begin, recover, are refreshed and end.

use super::backend::{Ask, RefreshGrant, Said, SubscribeGrant};
use super::commands::{Failure, Outcome};
use super::more::{To, WantedSub};
use super::rules::{Decides, Namespace, Terms};
use super::subscription::{Details, Pending, Subscription};
use super::{Effect, Session, Turn, deadline, is_past};
use crate::auth::{ChannelClaims, Need, TokenError, Why};
use crate::base::wheel::NEVER;
use crate::broker::{Found, Member, Recover, Want};
use crate::hub::{ChannelId, Flags, as_delta};
use crate::protocol::code::{
    ClientError, Disconnect, INSUFFICIENT_STATE, SUBSCRIPTION_EXPIRED, UNSUBSCRIBED_BY_SERVER,
};
use crate::protocol::{
    Command, Empty, Filter, Publication, Push, Reply, SubRefreshRequest, SubRefreshResult, SubscribePush,
    SubscribeRequest, SubscribeResult, UnsubscribeRequest, delta,
};
use bytes::Bytes;
use compact_str::CompactString;
use smallvec::SmallVec;
use std::sync::Arc;

/// `SubscribeRequest.flag`: better an error than a subscription with a gap.
const REJECT_UNRECOVERED: i64 = 2;

impl Session {
    pub(super) fn subscribe(&mut self, id: u32, request: SubscribeRequest, turn: &mut Turn<'_>) -> Outcome {
        let name = &request.channel;
        if name.is_empty() {
            return Err(Disconnect::BAD_REQUEST.into());
        }
        if name.len() > turn.rules.channel_length_max {
            return Err(ClientError::BadRequest.into());
        }
        if self.is_taken(name, turn) {
            return Err(ClientError::AlreadySubscribed.into());
        }
        if self.subscriptions() >= turn.rules.channel_limit {
            return Err(ClientError::LimitExceeded.into());
        }
        let namespace = turn.rules.namespace(name).ok_or(ClientError::UnknownChannel)?;
        if !namespace.allows_name(name) {
            return Err(ClientError::BadRequest.into());
        }
        if request.kind != 0 {
            return Err(ClientError::PermissionDenied.into());
        }
        match self.may_subscribe(&request, turn)? {
            Permit::Given(grant) => self.subscribe_granted(id, request, grant, turn),
            Permit::AskBackend => {
                self.check_wishes(&request, turn)?;
                self.more().states.reserve(name, id);
                self.ask_in_place(id, Ask::Subscribe(Box::new(request)), turn)
            }
            Permit::AskStream => {
                self.check_wishes(&request, turn)?;
                self.more().states.reserve(name, id);
                self.ask_in_place(id, Ask::SubscribeStream(Box::new(request)), turn)
            }
            Permit::Needs(need) => {
                self.more().states.reserve(name, id);
                self.ask_about_token(id, request, need, turn)
            }
        }
    }

    fn ask_about_token(&mut self, id: u32, request: SubscribeRequest, need: Need, turn: &mut Turn<'_>) -> Outcome {
        let then = Command { id, subscribe: Some(request), ..Command::default() };
        self.ask_in_place(id, Ask::about_token(need, then, turn), turn)
    }

    /// A token decides; without one the channel's name, the backend or the namespace.
    fn may_subscribe(&mut self, request: &SubscribeRequest, turn: &mut Turn<'_>) -> Result<Permit, Failure> {
        let name = &request.channel;
        if !request.token.is_empty() {
            return self.permit_by_token(request, turn);
        }
        let namespace = turn.rules.namespace(name).ok_or(ClientError::UnknownChannel)?;
        match namespace.without_token(name, &self.user, turn.rules.insecure) {
            Decides::Yes => Ok(Permit::Given(SubscribeGrant::default())),
            Decides::Backend => Ok(Permit::AskBackend),
            Decides::Stream => Ok(Permit::AskStream),
            Decides::No => Err(ClientError::PermissionDenied.into()),
        }
    }

    /// May this user be subscribed to `channel` without a token and without asking the backend?
    pub(super) fn may_have_freely(&self, channel: &str, user: &str, turn: &Turn<'_>) -> bool {
        let Some(namespace) = turn.rules.namespace(channel).filter(|namespace| namespace.allows_name(channel)) else {
            return false;
        };
        let short = !channel.is_empty() && channel.len() <= turn.rules.channel_length_max;
        let decides = namespace.without_token(channel, user, turn.rules.insecure);
        short && !(turn.owner_is_full)(channel) && decides == Decides::Yes
    }

    fn permit_by_token(&mut self, request: &SubscribeRequest, turn: &mut Turn<'_>) -> Result<Permit, Failure> {
        let claims = match self.channel_claims(&request.token, turn) {
            Ok(claims) => claims,
            Err(TokenError::Expired) => return Err(ClientError::TokenExpired.into()),
            Err(TokenError::Invalid(why)) => return Err(self.bad_token(why, turn)),
            Err(TokenError::KeyUnavailable) => return Err(ClientError::Internal.into()),
            Err(TokenError::Needs(need)) => return Ok(Permit::Needs(need)),
        };
        self.forget_bad_tokens();
        self.is_for_us(&claims, &request.channel)?;
        let ChannelClaims { info, data, expire_at, overrides, .. } = &*claims;
        let expire_at = expire_at.unwrap_or(0);
        if is_past(expire_at, turn) {
            return Err(ClientError::Expired.into());
        }
        let (info, data) = (info.clone(), data.clone());
        Ok(Permit::Given(SubscribeGrant { expire_at, info, data, overrides: *overrides }))
    }

    /// One bad token is a mistake, some in a row are none. What was good once, or is for somebody else, is not counted.
    fn bad_token(&mut self, why: Why, turn: &mut Turn<'_>) -> Failure {
        let limit = turn.rules.bad_token_limit;
        if limit > 0 && why.is_forgery() {
            let more = self.more();
            more.bad_tokens += 1;
            if more.bad_tokens >= limit {
                turn.tokens.limited += 1;
                return Disconnect::INVALID_TOKEN.into();
            }
        }
        ClientError::PermissionDenied.into()
    }

    fn forget_bad_tokens(&mut self) {
        if let Some(more) = &mut self.more {
            more.bad_tokens = 0;
            self.drop_more();
        }
    }

    fn channel_claims(&self, token: &str, turn: &mut Turn<'_>) -> Result<Arc<ChannelClaims>, TokenError> {
        turn.tokens.subscription(turn.rules, token, turn.now)
    }

    /// A good token for another channel, user or client is no mistake.
    fn is_for_us(&self, claims: &ChannelClaims, channel: &str) -> Outcome {
        let ours = claims.user == self.user
            && claims.channel == *channel
            && claims.client.as_ref().is_none_or(|client| *client == *self.client());
        if ours { Ok(()) } else { Err(Disconnect::INVALID_TOKEN.into()) }
    }

    /// What a request must not ask for.
    fn check_wishes(&self, request: &SubscribeRequest, turn: &Turn<'_>) -> Result<Option<Box<Filter>>, Failure> {
        if !matches!(request.delta.as_str(), "" | "fossil") {
            return Err(Disconnect::BAD_REQUEST.into());
        }
        let Some(filter) = &request.tf else { return Ok(None) };
        let allowed = turn.rules.channel(&request.channel).is_some_and(|options| options.allow_tags_filter);
        let filter = filter.check().filter(|_| allowed && request.delta.is_empty());
        Ok(Some(Box::new(filter.ok_or(ClientError::BadRequest)?)))
    }

    fn subscribe_granted(
        &mut self,
        id: u32,
        request: SubscribeRequest,
        grant: SubscribeGrant,
        turn: &mut Turn<'_>,
    ) -> Outcome {
        // It may have gone with a reload while the backend or a worker was asked.
        turn.rules.namespace(&request.channel).ok_or(ClientError::UnknownChannel)?;
        self.check_wishes(&request, turn)?;
        if is_past(grant.expire_at, turn) {
            return Err(ClientError::Expired.into());
        }
        if (turn.owner_is_full)(&request.channel) {
            return Err(ClientError::TooManyRequests.into());
        }
        let brings = turn.rules.namespace(&request.channel).is_some_and(|it| it.inbox_of(&self.user).is_some());
        match request.recover || brings {
            true => turn.fx.keep_large_place(id),
            false => turn.fx.keep_place(id),
        }
        self.begin_subscription(id, request, grant, To::Reply, turn);
        Ok(())
    }

    /// Asks the channel's owner for a subscription that is granted.
    pub(super) fn begin_subscription(
        &mut self,
        ticket: u32,
        request: SubscribeRequest,
        grant: SubscribeGrant,
        to: To,
        turn: &mut Turn<'_>,
    ) {
        let Some(namespace) = turn.rules.namespace(&request.channel) else { return };
        let mut terms = namespace.terms(&self.user, turn.rules.insecure, &request, grant.overrides);
        terms.delta &= !self.wire.is_uni();
        if self.is_streamed(&request.channel) {
            // What comes by a stream is in no history.
            (terms.recoverable, terms.positioned, terms.recover, terms.delta) = (false, false, false, false);
        }
        let filter = self.check_wishes(&request, turn).ok().flatten();
        let flags = flags(&terms).with(Flags::FILTERED, filter.is_some()).with(Flags::SERVER_SIDE, to != To::Reply);
        let want = self.want(&terms, namespace, &request, &grant, turn);
        let refreshed_by_server = namespace.options.sub_refresh_proxy_enabled;
        let (mut details, mut ttl) = (Details { info: grant.info, filter, ..Details::default() }, None);
        if grant.expire_at > 0 {
            let delay_ms = if refreshed_by_server { 0 } else { turn.rules.expired_sub_delay_ms };
            let (expires, left) = deadline(grant.expire_at, delay_ms, turn.now);
            (details.expires, ttl) = (expires, (!refreshed_by_server).then_some(left));
        }
        if self.is_reserved_for(&request.channel, ticket) {
            self.unreserve(&request.channel);
        }
        // What recovers by itself says so too. What was asked for and is not granted was not recovered.
        let recovers = (terms.recover || request.recover).then_some(request.offset);
        let plain = flags == Flags::default() && details.is_empty() && grant.data.is_empty() && recovers.is_none();
        let pending = (!plain).then(|| {
            Box::new(Pending {
                ticket,
                flags,
                to,
                recoverable: terms.recoverable,
                recovers,
                reject_unrecovered: terms.recover
                    && request.recover
                    && to == To::Reply
                    && request.flag & REJECT_UNRECOVERED != 0,
                data: grant.data,
                ttl,
                details,
            })
        });
        let known = turn.hub.find(&request.channel).map(|id| turn.hub.name(id).clone());
        let channel = known.unwrap_or_else(|| request.channel.into());
        turn.fx.push(Effect::Subscribe { channel, ticket, want, pending });
    }

    /// Does the answer for the command of `ticket` still decide about this channel?
    fn is_reserved_for(&self, channel: &str, ticket: u32) -> bool {
        self.more.as_ref().is_some_and(|more| more.states.is_reserved_for(channel, ticket))
    }

    /// False if it was not reserved.
    fn unreserve(&mut self, channel: &str) -> bool {
        let was = self.more.as_mut().is_some_and(|more| more.states.unreserve(channel));
        self.drop_more();
        was
    }

    fn want(
        &self,
        terms: &Terms,
        namespace: &Namespace,
        request: &SubscribeRequest,
        grant: &SubscribeGrant,
        turn: &Turn<'_>,
    ) -> Option<Box<Want>> {
        let Terms { positioned, recover, cache, present, announced, delta, .. } = *terms;
        if !positioned && !present && !announced && !delta {
            return None;
        }
        let member = (present || announced).then(|| Member {
            client: self.client,
            info: Arc::new(self.info(grant.info.clone())),
            presence: present,
            announce: announced,
        });
        let (keep, limit) = (namespace.keep, turn.rules.recovery_limit);
        let follow = namespace.inbox_of(&self.user).filter(|_| positioned).map(|inbox| Box::new(self.follow(inbox)));
        let recover = recover.then(|| Recover {
            offset: request.offset,
            epoch: request.epoch.as_str().into(),
            limit,
            most: follow.as_ref().map_or(limit as u64, |follow| follow.keep.size),
            cache,
        });
        Some(Box::new(Want { position: keep.filter(|_| positioned || delta), recover, member, delta, follow }))
    }

    /// The owner of `channel` took the subscription that `ticket` asked for: joins and tells the client. What the
    /// server wanted meanwhile comes behind it.
    pub fn handle_subscribed(
        &mut self,
        channel: ChannelId,
        ticket: u32,
        found: Option<Box<Found>>,
        turn: &mut Turn<'_>,
    ) {
        turn.fx.kept = (ticket != 0).then_some(ticket);
        let begins = self.answered_by_owner(channel, ticket, found, turn);
        if begins && ticket != 0 {
            let name = turn.hub.name(channel).clone();
            self.begin_wanted(&name, turn);
        }
    }

    /// False if the subscription was given up meanwhile.
    fn answered_by_owner(
        &mut self,
        channel: ChannelId,
        ticket: u32,
        found: Option<Box<Found>>,
        turn: &mut Turn<'_>,
    ) -> bool {
        if self.was_abandoned(channel, ticket, turn) {
            return false;
        }
        let pending = self.more.as_mut().and_then(|more| more.states.take_pending(channel));
        if let Some(pending) = &pending {
            self.make_way(channel, pending.flags, turn);
        }
        let back = self.subs.iter().position(|sub| *sub == Subscription::Waiting { channel });
        debug_assert!(back.is_some(), "an answer without a question: {channel} {ticket} {self:?}");
        let Some(back) = back else {
            turn.fx.push(Effect::Release { channel });
            return false;
        };
        match pending {
            Some(pending) => self.subscribed(back, channel, *pending, found, turn),
            None => {
                turn.fx.push(Effect::Join { channel, back: back as u16, flags: Flags::default() });
                self.tell_subscribed(ticket, SubscribeResult::default(), turn);
            }
        }
        true
    }

    /// The owner answers about a subscription that was given up.
    fn was_abandoned(&mut self, channel: ChannelId, ticket: u32, turn: &mut Turn<'_>) -> bool {
        let abandoned = self.more.as_mut().and_then(|more| more.states.take_abandoned(channel));
        let Some(to) = abandoned else { return false };
        self.drop_more();
        turn.fx.push(Effect::Release { channel });
        match to {
            To::Reply => self.tell_subscribed(ticket, SubscribeResult::default(), turn),
            To::Connect => self.one_less_to_wait_for(turn),
            To::Push => {}
        }
        true
    }

    /// The owner of `channel` cannot begin the subscription that `ticket` asked for. The owner counts it until it
    /// leaves, and has told nobody of it.
    pub fn handle_unsubscribed(&mut self, channel: ChannelId, ticket: u32, error: ClientError, turn: &mut Turn<'_>) {
        turn.fx.kept = (ticket != 0).then_some(ticket);
        if self.was_abandoned(channel, ticket, turn) {
            return;
        }
        let pending = self.more.as_mut().and_then(|more| more.states.take_pending(channel));
        let (flags, to) = pending.map_or((Flags::default(), To::Reply), |pending| (pending.flags, pending.to));
        if let Some(at) = self.subs.iter().position(|sub| *sub == Subscription::Waiting { channel }) {
            self.remove_sub(at, turn);
            let gone = self.gone(Flags::default().with(Flags::DELTA, flags.has(Flags::DELTA)), Bytes::new());
            turn.fx.push(Effect::Leave { channel, slot: None, gone, ticket: None });
        }
        self.drop_more();
        turn.fx.push(Effect::Release { channel });
        match to {
            To::Reply => {
                self.refuse(ticket, error.into(), turn);
                let name = turn.hub.name(channel).clone();
                self.drop_stream(&name);
                self.begin_wanted(&name, turn);
            }
            // It is to have what it connects with, or to connect again.
            To::Connect => turn.fx.push(Effect::Close(Disconnect::INTERNAL)),
            To::Push => turn.fx.lost_subscriptions += 1,
        }
    }

    /// A subscription that begins anew with these `flags` takes the place of the one before it. The others hear of the
    /// new one only, and see the client all the time.
    fn make_way(&mut self, channel: ChannelId, flags: Flags, turn: &mut Turn<'_>) {
        let Some((at, slot)) = self.live(channel) else { return };
        let before = turn.hub.slot(channel, slot).map_or(Flags::default(), |slot| slot.flags);
        let details = self.more.as_mut().and_then(|more| more.states.take_details(channel));
        self.remove_sub(at, turn);
        let ends = |flag: Flags| before.has(flag) && !flags.has(flag);
        let left = Flags::default()
            .with(Flags::DELTA, before.has(Flags::DELTA))
            .with(Flags::PRESENT, ends(Flags::PRESENT))
            .with(Flags::ANNOUNCED, ends(Flags::ANNOUNCED));
        let gone = self.gone(left, details.map_or_else(Bytes::new, |details| details.info));
        turn.fx.push(Effect::Leave { channel, slot: Some(slot), gone, ticket: None });
    }

    /// The same for one that is more than plain.
    fn subscribed(
        &mut self,
        back: usize,
        channel: ChannelId,
        pending: Pending,
        found: Option<Box<Found>>,
        turn: &mut Turn<'_>,
    ) {
        let Pending { ticket, mut flags, to, recoverable, recovers, data, ttl, details, .. } = pending;
        let (position, recovery) = found.map_or((None, None), |found| (Some(found.position), found.recovery));
        let recovery = recovery.unwrap_or_default();
        let (recovered, more) = (recovery.recovered, recovery.more);
        let recovers = recovers.or(recovery.from);
        if !recovered && pending.reject_unrecovered {
            let gone = self.gone(flags, details.info);
            self.remove_sub(back, turn);
            turn.fx.push(Effect::Leave { channel, slot: None, gone, ticket: None });
            turn.fx.push(Effect::Release { channel });
            return self.refuse(ticket, ClientError::UnrecoverablePosition.into(), turn);
        }
        let publications = self.recovered_publications(flags, &details, recovery.publications, turn);
        turn.fx.caught_up = !publications.is_empty();
        flags.set(Flags::DELTA_READY, flags.has(Flags::DELTA) && !publications.is_empty());
        let positioned = flags.has(Flags::POSITIONED);
        let position = position.filter(|_| positioned);
        let result = SubscribeResult {
            expires: ttl.is_some(),
            ttl: ttl.unwrap_or(0),
            recoverable,
            positioned,
            epoch: position.as_ref().map_or_else(String::new, |position| position.epoch.to_string()),
            // Who recovered counts on from the publications; the others begin at the top.
            offset: match recovers {
                Some(offset) if recovered => offset,
                _ => position.map_or(0, |position| position.offset),
            },
            recovered,
            was_recovering: recovers.is_some(),
            publications,
            data,
            delta: flags.has(Flags::DELTA),
        };
        if more {
            let gone = self.gone(flags, details.info);
            return self.tell_part(back, channel, gone, (ticket, to), result, turn);
        }
        if !details.is_empty() {
            self.more().states.begin(channel, details);
        }
        self.drop_more();
        turn.fx.push(Effect::Join { channel, back: back as u16, flags });
        let name = turn.hub.name(channel).to_string();
        match to {
            To::Reply => self.tell_subscribed(ticket, result, turn),
            To::Connect => self.subscribed_on_connect(name, result, turn),
            To::Push => self.push_subscribed(name, result, turn),
        }
    }

    /// What was missed, as this subscription is sent it.
    fn recovered_publications(
        &self,
        flags: Flags,
        details: &Details,
        missed: Vec<Publication>,
        turn: &mut Turn<'_>,
    ) -> Vec<Publication> {
        if let Some(filter) = &details.filter {
            return missed.into_iter().filter(|publication| filter.matches(&publication.tags)).collect();
        }
        if !flags.has(Flags::DELTA) {
            return missed;
        }
        let before = std::iter::once(None).chain(missed.iter().map(Some));
        let mut searched = 0;
        let chained = before.zip(&missed).map(|(before, publication)| {
            // A delta may be dear to find and short. Beyond what may be searched, publications go as they are.
            let before = before.filter(|_| searched < turn.rules.delta_bytes_max);
            searched += before.map_or(0, |_| publication.data.len());
            let delta = before.and_then(|before| delta::shorter(&before.data, &publication.data));
            // What is no text goes as it is, and is refused with the reply.
            as_delta(self.encoding(), publication, delta.as_ref()).unwrap_or_else(|| publication.clone())
        });
        let chained = chained.collect();
        turn.fx.searched_bytes += searched as u64;
        chained
    }

    pub(super) fn tell_subscribed(&self, id: u32, result: SubscribeResult, turn: &mut Turn<'_>) {
        turn.fx.reply(self.wire, &Reply { id, subscribe: Some(result), ..Reply::default() });
    }

    pub(super) fn push_subscribed(&self, channel: String, result: SubscribeResult, turn: &mut Turn<'_>) {
        let SubscribeResult { recoverable, epoch, offset, positioned, data, .. } = result;
        let subscribe = Some(SubscribePush { recoverable, epoch, offset, positioned, data });
        self.push(Push { channel: channel.clone(), subscribe, ..Push::default() }, turn);
        // A push has no room for what was recovered: it follows, as if it came now.
        for publication in result.publications {
            let (channel, publication) = (channel.clone(), Some(publication));
            self.push(Push { channel, publication, ..Push::default() }, turn);
        }
    }

    /// What the backend said of a subscription, or what its token wants is there.
    pub(super) fn subscribe_said(&mut self, id: u32, request: SubscribeRequest, said: Said, turn: &mut Turn<'_>) {
        if !self.is_reserved_for(&request.channel, id) {
            // Unsubscribed meanwhile. A bad token is one all the same.
            if matches!(said, Said::Checked(_))
                && let Err(Failure::Close(disconnect)) = self.permit_by_token(&request, turn)
            {
                return turn.fx.push(Effect::Close(disconnect));
            }
            return self.tell_subscribed(id, SubscribeResult::default(), turn);
        }
        let outcome = match said {
            Said::Subscribe(grant) => self.subscribe_granted(id, request.clone(), *grant, turn),
            Said::Stream(grant, stream) => {
                self.keep_stream(&request.channel, stream);
                self.subscribe_granted(id, request.clone(), *grant, turn)
            }
            Said::Keys(_) | Said::Checked(_) => match self.permit_by_token(&request, turn) {
                Ok(Permit::Given(grant)) => self.subscribe_granted(id, request.clone(), grant, turn),
                Ok(Permit::Needs(need)) => self.ask_about_token(id, request.clone(), need, turn),
                Ok(Permit::AskBackend | Permit::AskStream) => Err(ClientError::Internal.into()),
                Err(failure) => Err(failure),
            },
            said => Err(said.refusal()),
        };
        let refused = outcome.is_err();
        if refused {
            self.unreserve(&request.channel);
            self.drop_stream(&request.channel);
        }
        self.settle(id, outcome, turn);
        if refused {
            self.begin_wanted(&request.channel, turn);
        }
    }

    pub(super) fn unsubscribe(&mut self, id: u32, request: UnsubscribeRequest, turn: &mut Turn<'_>) -> Outcome {
        if request.channel.is_empty() {
            return Err(Disconnect::BAD_REQUEST.into());
        }
        self.forget_wanted(&request.channel);
        if !self.unreserve(&request.channel)
            && let Some(at) = self.find(&request.channel, turn)
        {
            let before = turn.fx.list.len();
            if self.end_channel(self.subs[at].channel(), id, turn) {
                // The answer comes from the owner, once nobody sees this client in the channel any more.
                turn.fx.list.insert(before, Effect::Hole { ticket: id, large: false });
                return Ok(());
            }
        }
        turn.fx.reply(self.wire, &Reply { id, unsubscribe: Some(Empty {}), ..Reply::default() });
        Ok(())
    }

    /// Ends all there is of a channel: the server may be beginning a subscription anew. The one that others know of
    /// goes last. False if there is nothing to wait for.
    fn end_channel(&mut self, channel: ChannelId, ticket: u32, turn: &mut Turn<'_>) -> bool {
        loop {
            let of_channel = self.subs.iter().enumerate().filter(|(_, sub)| sub.channel() == channel);
            let all: SmallVec<[(usize, bool); 2]> = of_channel.map(|(at, sub)| (at, sub.is_live())).collect();
            let Some((at, _)) = all.iter().min_by_key(|(_, live)| *live) else { return false };
            let last = all.len() == 1;
            let awaited = self.end_sub(*at, last.then_some(ticket), turn);
            if last {
                return awaited;
            }
        }
    }

    /// The backend takes `channel` away ("" = every one); how many there were.
    pub fn unsubscribe_by_server(&mut self, channel: &str, turn: &mut Turn<'_>) -> usize {
        let mut ended = 0;
        self.forget_wanted(channel);
        while let Some(name) = self.more.as_mut().and_then(|more| more.states.take_reserved(channel)) {
            self.push_unsubscribed(name.into(), UNSUBSCRIBED_BY_SERVER, turn);
            ended += 1;
        }
        self.drop_more();
        let mut at = self.subs.len();
        while at > 0 {
            at -= 1;
            if channel.is_empty() || **turn.hub.name(self.subs[at].channel()) == *channel {
                self.take_away(at, UNSUBSCRIBED_BY_SERVER, turn);
                ended += 1;
            }
        }
        ended
    }

    /// The backend subscribes the client, who may be subscribed: then anew, with the new info and data. If it is being
    /// subscribed by its own command, that is answered first. False if it has no room.
    pub fn subscribe_by_server(
        &mut self,
        request: SubscribeRequest,
        grant: SubscribeGrant,
        turn: &mut Turn<'_>,
    ) -> bool {
        if !self.is_connected() {
            return false;
        }
        if self.is_on_its_way(&request.channel, turn) {
            let channel = CompactString::from(&*request.channel);
            // The last one counts.
            self.forget_wanted(&channel);
            self.more().wanted.push(WantedSub { channel, what: Box::new((request, grant)) });
            return true;
        }
        self.subscribe_now(request, grant, turn)
    }

    fn subscribe_now(&mut self, request: SubscribeRequest, grant: SubscribeGrant, turn: &mut Turn<'_>) -> bool {
        if self.find(&request.channel, turn).is_none() && self.subscriptions() >= turn.rules.channel_limit {
            return false;
        }
        self.begin_subscription(0, request, grant, To::Push, turn);
        true
    }

    /// The client's own command is answered: what the server wanted meanwhile comes about now.
    fn begin_wanted(&mut self, channel: &str, turn: &mut Turn<'_>) {
        let Some(more) = self.more.as_mut().filter(|more| !more.wanted.is_empty()) else { return };
        let Some(at) = more.wanted.iter().position(|wanted| wanted.channel == channel) else { return };
        let (request, grant) = *more.wanted.swap_remove(at).what;
        self.drop_more();
        self.subscribe_now(request, grant, turn);
    }

    /// The server does not want a subscription to `channel` ("" = to any) any more, or the client has left it.
    pub(super) fn forget_wanted(&mut self, channel: &str) {
        if let Some(more) = self.more.as_mut().filter(|more| !more.wanted.is_empty()) {
            more.wanted.retain(|wanted| !channel.is_empty() && wanted.channel != channel);
            self.drop_more();
        }
    }

    /// Publications of `channel` are missing: this client is told, and recovers by itself.
    pub fn handle_gap(&mut self, channel: ChannelId, turn: &mut Turn<'_>) {
        let Some((at, slot)) = self.live(channel) else { return };
        let flags = turn.hub.slot(channel, slot).map_or(Flags::default(), |slot| slot.flags);
        if flags.has(Flags::SERVER_SIDE) {
            turn.fx.push(Effect::Close(Disconnect::INSUFFICIENT_STATE));
        } else if flags.has(Flags::POSITIONED) {
            self.take_away(at, INSUFFICIENT_STATE, turn);
        }
    }

    pub(super) fn sub_refresh(&mut self, id: u32, request: SubRefreshRequest, turn: &mut Turn<'_>) -> Outcome {
        if request.channel.is_empty() {
            return Err(Disconnect::BAD_REQUEST.into());
        }
        let Some(at) = self.find(&request.channel, turn) else { return Err(ClientError::PermissionDenied.into()) };
        if request.token.is_empty() {
            return Err(ClientError::BadRequest.into());
        }
        if !self.subs[at].is_live() {
            // Its own expiry is still on the way. A client that awaits replies cannot come here; others may try again.
            return Err(ClientError::Internal.into());
        }
        let claims = match self.channel_claims(&request.token, turn) {
            Ok(claims) => claims,
            Err(TokenError::Expired) => return Err(ClientError::Expired.into()),
            Err(TokenError::Invalid(_)) => return Err(Disconnect::INVALID_TOKEN.into()),
            Err(TokenError::KeyUnavailable) => return Err(ClientError::Internal.into()),
            Err(TokenError::Needs(need)) => {
                let then = Command { id, sub_refresh: Some(request), ..Command::default() };
                return self.ask_in_place(id, Ask::about_token(need, then, turn), turn);
            }
        };
        self.is_for_us(&claims, &request.channel)?;
        let expire_at = claims.expire_at.unwrap_or(0);
        if is_past(expire_at, turn) {
            return Err(ClientError::Expired.into());
        }
        let ttl = self.expire_sub_at(self.subs[at].channel(), expire_at, turn.rules.expired_sub_delay_ms, turn);
        let result = SubRefreshResult { expires: ttl.is_some(), ttl: ttl.unwrap_or(0) };
        turn.fx.reply(self.wire, &Reply { id, sub_refresh: Some(result), ..Reply::default() });
        Ok(())
    }

    /// Sets when a subscription is over (seconds since 1970, 0 = never), `delay_ms` being added; the seconds left.
    fn expire_sub_at(&mut self, channel: ChannelId, at: u64, delay_ms: u64, turn: &Turn<'_>) -> Option<u32> {
        let (expires, left) = match at {
            0 => (NEVER, None),
            at => {
                let (tick, left) = deadline(at, delay_ms, turn.now);
                (tick, Some(left))
            }
        };
        self.more().states.change(channel, |details| (details.expires, details.refreshing) = (expires, false));
        self.drop_more();
        left
    }

    /// Subscriptions whose time is over end, or the backend is asked for more.
    pub(super) fn expire_subscriptions(&mut self, turn: &mut Turn<'_>) {
        let now = turn.now.tick;
        let Some(more) = &mut self.more else { return };
        let due = more.states.live().filter(|(_, details)| details.expires <= now);
        let due: Vec<(ChannelId, bool)> = due.map(|(id, details)| (id, details.refreshing)).collect();
        for (channel, refreshing) in due {
            let Some((at, _)) = self.live(channel) else { continue };
            let name = turn.hub.name(channel).clone();
            let asks = turn.rules.channel(&name).is_some_and(|options| options.sub_refresh_proxy_enabled);
            let delay = deadline(turn.now.seconds(), turn.rules.expired_sub_delay_ms, turn.now).0;
            if asks && !refreshing {
                self.more().states.change(channel, |details| (details.refreshing, details.expires) = (true, delay));
                self.ask(0, Ask::SubRefresh { channel: name.to_string() }, turn);
                continue;
            }
            self.end_expired(at, turn);
            if matches!(turn.fx.list.last(), Some(Effect::Close(_))) {
                return;
            }
        }
    }

    /// The time of the subscription at `at` is over. A client cannot ask for one of the server's again, so it has to
    /// connect anew.
    fn end_expired(&mut self, at: usize, turn: &mut Turn<'_>) {
        let sub = self.subs[at];
        let slot = sub.slot().and_then(|slot| turn.hub.slot(sub.channel(), slot));
        if slot.is_some_and(|slot| slot.flags.has(Flags::SERVER_SIDE)) {
            return turn.fx.push(Effect::Close(Disconnect::SUBSCRIPTION_EXPIRED));
        }
        self.take_away(at, SUBSCRIPTION_EXPIRED, turn);
    }

    /// The backend gives a subscription more time, or does not.
    pub(super) fn sub_refresh_said(&mut self, channel: &str, grant: RefreshGrant, turn: &mut Turn<'_>) {
        let Some(at) = self.find(channel, turn).filter(|at| self.subs[*at].is_live()) else { return };
        let id = self.subs[at].channel();
        let details = self.more.as_ref().and_then(|more| more.states.details(id));
        // An answer that names no time leaves the old one, which is over.
        let over = grant.expire_at == 0 && details.is_some_and(|details| details.refreshing);
        if grant.expired || over || is_past(grant.expire_at, turn) {
            return self.end_expired(at, turn);
        }
        self.expire_sub_at(id, grant.expire_at, 0, turn);
        if let Some(info) = grant.info
            && let Some(more) = self.more.as_mut().filter(|more| more.states.details(id).is_some())
        {
            more.states.change(id, |details| details.info = info);
        }
    }

    /// What is shown to others of the subscription to `channel`, if there is one.
    pub(super) fn chan_info(&self, channel: &str, turn: &Turn<'_>) -> Bytes {
        let (Some(more), Some(id)) = (&self.more, turn.hub.find(channel)) else { return Bytes::new() };
        let pending = more.states.pending(id).map(|pending| &pending.details);
        let details = pending.or_else(|| more.states.details(id));
        details.map_or_else(Bytes::new, |details| details.info.clone())
    }

    /// Where the subscription to `channel` stands, answered or not; the live one, if it is begun anew.
    pub(super) fn find(&self, channel: &str, turn: &Turn<'_>) -> Option<usize> {
        let id: ChannelId = turn.hub.find(channel)?;
        let live = self.live(id).map(|(at, _)| at);
        live.or_else(|| self.subs.iter().position(|sub| sub.channel() == id))
    }

    /// Where the live subscription stands, in the list and in the hub.
    fn live(&self, channel: ChannelId) -> Option<(usize, u32)> {
        let at = self.subs.iter().position(|sub| sub.channel() == channel && sub.is_live())?;
        Some((at, self.subs[at].slot()?))
    }

    /// Is the client about to hear of a subscription to `channel` by a reply to its own command?
    fn is_on_its_way(&self, channel: &str, turn: &Turn<'_>) -> bool {
        let Some(id) = turn.hub.find(channel) else { return self.is_taken(channel, turn) };
        let waiting = self.subs.iter().filter(|sub| sub.channel() == id && !sub.is_live()).count();
        let states = self.more.as_ref().map(|more| &more.states);
        let by_push = states.map_or(0, |states| states.pushed(id));
        waiting > by_push || states.is_some_and(|states| states.is_reserved(channel))
    }

    /// Is there a subscription to `channel`, whatever its state?
    fn is_taken(&self, channel: &str, turn: &Turn<'_>) -> bool {
        self.find(channel, turn).is_some() || self.more.as_ref().is_some_and(|more| more.states.is_reserved(channel))
    }

    /// Is the subscription to `channel` granted? What comes behind the subscribe command finds it so, whether its
    /// owner has answered or not.
    pub(super) fn is_subscribed(&self, channel: &str, turn: &Turn<'_>) -> bool {
        self.find(channel, turn).is_some()
    }
}

/// Who decides about a subscription, and how.
enum Permit {
    Given(SubscribeGrant),
    AskBackend,
    /// The backend, by a stream.
    AskStream,
    /// Its token does, once this is done.
    Needs(Need),
}

fn flags(terms: &Terms) -> Flags {
    Flags::default()
        .with(Flags::DELTA, terms.delta)
        .with(Flags::JOIN_LEAVE, terms.hears)
        .with(Flags::POSITIONED, terms.positioned)
        .with(Flags::PRESENT, terms.present)
        .with(Flags::ANNOUNCED, terms.announced)
}
