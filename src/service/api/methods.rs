//! F10 · What each method of the server API does: a request in, a result out, whichever way it came.
//!
//! Owns the checks and the translation to what reactors are asked. Knows nothing of HTTP or gRPC.

use super::messages::*;
use super::{
    Api, ApiError, CONCURRENT, INTERNAL, LIMIT_EXCEEDED, MethodError, NOT_AVAILABLE, NOT_FOUND, UNKNOWN_CHANNEL,
    UNRECOVERABLE, bad, tell_bad,
};
use crate::auth::Overrides;
use crate::base::metrics::{Counters, Page};
use crate::broker::{Answer, Asker, Keep, Query, Request, Treatment};
use crate::engine::control::{FleetMetrics, FleetNode, SubscribeDefaults};
use crate::protocol::code::{ClientError, Disconnect};
use crate::protocol::{self, StreamPosition};
use crate::session::backend::{RefreshGrant, SubscribeGrant};
use crate::session::{Namespace, is_fit};
use crate::shard::{Chosen, Control, InboxCall, Stats};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use compact_str::CompactString;
use futures_util::{StreamExt, stream};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of a disconnect's reason: a close frame has no room for more.
const REASON_MAX: usize = 123;

impl Api {
    /// The namespace of a channel that a request names.
    fn namespace(&self, channel: &str) -> Result<&Namespace, ApiError> {
        if channel.is_empty() || channel.len() > self.rules.channel_length_max {
            return Err(bad("channel"));
        }
        self.rules.namespace(channel).ok_or(UNKNOWN_CHANNEL)
    }

    /// Asks the owner of `channel`.
    async fn ask(
        &self,
        channel: &str,
        request: impl FnOnce(Arc<str>, Asker) -> Request + Send,
    ) -> Result<Answer, MethodError> {
        match self.node.ask_owner(channel, request).await? {
            Answer::Refused(ClientError::TooManyRequests) => Err(MethodError::Busy),
            Answer::Refused(ClientError::UnrecoverablePosition) => Err(UNRECOVERABLE.into()),
            // What no engine has a place for.
            Answer::Refused(ClientError::BadRequest) => Err(bad("channel").into()),
            Answer::Refused(ClientError::NotAvailable) => Err(NOT_AVAILABLE.into()),
            Answer::Refused(ClientError::LimitExceeded) => Err(LIMIT_EXCEEDED.into()),
            Answer::Refused(_) => Err(INTERNAL.into()),
            answer => Ok(answer),
        }
    }
}

/// What is published, and how.
struct Content {
    publication: Arc<protocol::Publication>,
    /// It came as JSON, and so is JSON.
    is_json: bool,
    skip_history: bool,
    idempotency_key: CompactString,
    delta: bool,
    version: u64,
    version_epoch: CompactString,
    with_present: bool,
}

/// Both requests that publish have it, in fields of the same names.
macro_rules! content {
    ($request:ident, $api:expr) => {{
        let is_json = $request.b64data.is_empty() && $api.has_json;
        let (data, tags) = (payload($request.data, &$request.b64data)?, $request.tags);
        Content {
            publication: Arc::new(protocol::Publication {
                data,
                tags,
                version: $request.version,
                ..protocol::Publication::default()
            }),
            is_json,
            skip_history: $request.skip_history,
            idempotency_key: $request.idempotency_key.into(),
            delta: $request.delta,
            version: $request.version,
            version_epoch: $request.version_epoch.into(),
            with_present: $request.with_present,
        }
    }};
}

/// Base64 goes before JSON.
fn payload(data: Bytes, base64: &str) -> Result<Bytes, ApiError> {
    if base64.is_empty() {
        return Ok(data);
    }
    STANDARD.decode(base64).map(Bytes::from).map_err(|_| bad("b64data or b64info"))
}

/// May `data` be published to a channel of `namespace`? What is no JSON would cost its JSON subscribers their
/// connection (3506): a namespace must be declared binary for that.
fn is_publishable(namespace: &Namespace, data: &[u8], is_json: bool) -> bool {
    match namespace.options.publication_data_format.as_str() {
        "" | "json" => !data.is_empty() && (is_json || is_fit("json", data)),
        format => is_fit(format, data),
    }
}

/// The same of what others are shown, or the client gets, with a subscription; it may be absent.
fn is_showable(namespace: &Namespace, data: &[u8]) -> bool {
    data.is_empty() || namespace.options.publication_data_format == "binary" || is_fit("json", data)
}

async fn send(api: &Api, channel: &str, content: &Content) -> Result<PublishResult, MethodError> {
    let namespace = api.namespace(channel)?;
    if !is_publishable(namespace, &content.publication.data, content.is_json) {
        return Err(bad("data").into());
    }
    let longest = content.idempotency_key.len().max(content.version_epoch.len());
    if longest > api.rules.idempotency_key_length_max {
        return Err(bad("idempotency_key or version_epoch").into());
    }
    let keep = namespace.keep.filter(|_| !content.skip_history);
    let treated = keep.is_some() || !content.idempotency_key.is_empty() || content.with_present;
    let treatment = treated.then(|| {
        Box::new(Treatment {
            keep,
            delta: content.delta || namespace.options.delta_publish,
            idempotency_key: content.idempotency_key.clone(),
            version: content.version,
            version_epoch: content.version_epoch.clone(),
            except: None,
            log: None,
            tells_present: content.with_present,
        })
    });
    let publication = content.publication.clone();
    let request = |channel, asker| Request::Publish { channel, publication, asker, treatment };
    let (at, present) = match api.ask(channel, request).await? {
        Answer::Published(at) => (at, None),
        Answer::PublishedTo(at, present) => (at, Some(present)),
        _ => return Err(INTERNAL.into()),
    };
    let (offset, epoch) = at.map_or((0, String::new()), |at| (at.offset, at.epoch.to_string()));
    Ok(PublishResult { offset, epoch, present })
}

pub(super) async fn publish(api: &Api, request: PublishRequest) -> Result<PublishResult, MethodError> {
    let content = content!(request, api);
    send(api, &request.channel, &content).await
}

/// Each channel by itself: one that cannot be published to does not keep the others from it.
pub(super) async fn broadcast(api: &Api, request: BroadcastRequest) -> Result<BroadcastResult, MethodError> {
    if request.channels.is_empty() {
        return Err(bad("channels").into());
    }
    let content = content!(request, api);
    let takes_nothing =
        |name: &String| api.namespace(name).is_ok_and(|namespace| is_publishable(namespace, b"", false));
    if content.publication.data.is_empty() && !request.channels.iter().any(takes_nothing) {
        return Err(bad("data").into());
    }
    let one = |channel: String| {
        let content = &content;
        async move {
            let sent = send(api, &channel, content).await;
            sent.inspect_err(|failure| tell_bad("broadcast", failure.error())).map_err(|failure| failure.error().into())
        }
    };
    let responses = stream::iter(request.channels).map(one).buffered(CONCURRENT).map(Response::of).collect().await;
    Ok(BroadcastResult { responses })
}

/// What other nodes cannot know of a subscription that says nothing itself.
fn defaults_of(namespace: &Namespace) -> SubscribeDefaults {
    let options = &namespace.options;
    SubscribeDefaults {
        presence: options.presence,
        join_leave: options.join_leave,
        force_push_join_leave: options.force_push_join_leave,
        recovery: options.force_recovery,
        positioning: options.force_positioning,
    }
}

/// Whom a request is about. A user must be named, if only as "", the anonymous one; who names a client or a session may
/// leave it out, for Protobuf cannot tell "" from nothing.
fn chosen(user: Option<String>, client: String, session: String) -> Result<Chosen, ApiError> {
    let user = match user {
        None if client.is_empty() && session.is_empty() => return Err(bad("user")),
        user => user.unwrap_or_default(),
    };
    Ok(Chosen { user, client, session })
}

/// Seconds since 1970.
fn moment(at: i64) -> Result<u64, ApiError> {
    u64::try_from(at).map_err(|_| bad("expire_at"))
}

pub(super) async fn subscribe(api: &Api, request: SubscribeRequest) -> Result<Empty, MethodError> {
    let namespace = api.namespace(&request.channel)?;
    let chosen = chosen(request.user, request.client, request.session)?;
    let info = payload(request.info, &request.b64info)?;
    let data = payload(request.data, &request.b64data)?;
    if !is_showable(namespace, &info) || !is_showable(namespace, &data) {
        return Err(bad("info or data").into());
    }
    let switch = |value: Option<BoolValue>| value.map(|value| value.value);
    let overrides = request.r#override.map_or(Overrides::default(), |set| Overrides {
        presence: switch(set.presence),
        join_leave: switch(set.join_leave),
        force_push_join_leave: switch(set.force_push_join_leave),
        force_recovery: switch(set.force_recovery),
        force_positioning: switch(set.force_positioning),
    });
    let grant = SubscribeGrant { expire_at: moment(request.expire_at)?, info, data, overrides };
    let defaults = defaults_of(namespace);
    let recover = request.recover_since.is_some();
    let StreamPosition { offset, epoch } = request.recover_since.unwrap_or_default();
    let channel = request.channel;
    let request =
        protocol::SubscribeRequest { channel, recover, offset, epoch, ..protocol::SubscribeRequest::default() };
    api.node.control_everywhere(Control::Subscribe { chosen, request, grant }, defaults).await?;
    Ok(Empty {})
}

pub(super) async fn unsubscribe(api: &Api, request: UnsubscribeRequest) -> Result<Empty, MethodError> {
    if !request.channel.is_empty() {
        api.namespace(&request.channel)?;
    }
    let chosen = chosen(request.user, request.client, request.session)?;
    let unsubscribe = Control::Unsubscribe { chosen, channel: request.channel };
    api.node.control_everywhere(unsubscribe, SubscribeDefaults::default()).await?;
    Ok(Empty {})
}

pub(super) async fn disconnect(api: &Api, request: DisconnectRequest) -> Result<Empty, MethodError> {
    let chosen = chosen(request.user, request.client, request.session)?;
    let disconnect = match request.disconnect {
        None => Disconnect::FORCE_DISCONNECT,
        Some(custom) => {
            let code = u16::try_from(custom.code).ok().filter(|code| (3000..5000).contains(code));
            let code = code.ok_or(bad("disconnect.code"))?;
            if custom.reason.len() > REASON_MAX {
                return Err(bad("disconnect.reason").into());
            }
            Disconnect { code, reason: custom.reason.into() }
        }
    };
    let disconnect = Control::Disconnect { chosen, keep: request.whitelist, disconnect };
    api.node.control_everywhere(disconnect, SubscribeDefaults::default()).await?;
    Ok(Empty {})
}

pub(super) async fn refresh(api: &Api, request: RefreshRequest) -> Result<Empty, MethodError> {
    let chosen = chosen(request.user, request.client, request.session)?;
    // It is shown in every channel of the client.
    if !request.info.is_empty() && !is_fit("json", &request.info) {
        return Err(bad("info").into());
    }
    let info = (!request.info.is_empty()).then_some(request.info);
    let grant = RefreshGrant { expired: request.expired, expire_at: moment(request.expire_at)?, info, meta: None };
    api.node.control_everywhere(Control::Refresh { chosen, grant }, SubscribeDefaults::default()).await?;
    Ok(Empty {})
}

/// A channel that keeps who is in it.
fn check_presence(api: &Api, channel: &str) -> Result<(), ApiError> {
    api.namespace(channel)?.options.presence.then_some(()).ok_or(NOT_AVAILABLE)
}

fn shown(info: protocol::ClientInfo) -> ClientInfo {
    let protocol::ClientInfo { user, client, conn_info, chan_info } = info;
    ClientInfo { user, client, conn_info, chan_info }
}

pub(super) async fn presence(api: &Api, request: PresenceRequest) -> Result<PresenceResult, MethodError> {
    check_presence(api, &request.channel)?;
    match api.ask(&request.channel, |channel, asker| Request::Presence { channel, asker }).await? {
        Answer::Presence(clients) => {
            let presence = clients.into_iter().map(|info| (info.client.clone(), shown(info))).collect();
            Ok(PresenceResult { presence })
        }
        _ => Err(INTERNAL.into()),
    }
}

pub(super) async fn presence_stats(
    api: &Api,
    request: PresenceStatsRequest,
) -> Result<PresenceStatsResult, MethodError> {
    check_presence(api, &request.channel)?;
    match api.ask(&request.channel, |channel, asker| Request::PresenceStats { channel, asker }).await? {
        Answer::PresenceStats { clients, users } => Ok(PresenceStatsResult { num_clients: clients, num_users: users }),
        _ => Err(INTERNAL.into()),
    }
}

/// What a channel with history keeps.
fn kept(api: &Api, channel: &str) -> Result<Keep, ApiError> {
    api.namespace(channel)?.keep.ok_or(NOT_AVAILABLE)
}

pub(super) async fn history(api: &Api, request: HistoryRequest) -> Result<HistoryResult, MethodError> {
    let keep = kept(api, &request.channel)?;
    let since = request.since.map(|since| (since.offset, since.epoch.into()));
    if request.reverse && since.as_ref().is_some_and(|(offset, _)| *offset == 0) {
        return Err(bad("since.offset").into());
    }
    let limit = usize::try_from(request.limit).unwrap_or(usize::MAX);
    let query = Box::new(Query { keep, since, limit, reverse: request.reverse });
    match api.ask(&request.channel, |channel, asker| Request::History { channel, asker, query }).await? {
        Answer::History(found) => {
            let (position, publications) = *found;
            let one = |found: protocol::Publication| Publication {
                data: found.data,
                info: found.info.map(shown),
                offset: found.offset,
                tags: found.tags,
            };
            let publications = publications.into_iter().map(one).collect();
            Ok(HistoryResult { publications, epoch: position.epoch.to_string(), offset: position.offset })
        }
        _ => Err(INTERNAL.into()),
    }
}

pub(super) async fn history_remove(api: &Api, request: HistoryRemoveRequest) -> Result<Empty, MethodError> {
    kept(api, &request.channel)?;
    match api.ask(&request.channel, |channel, asker| Request::RemoveHistory { channel, asker }).await? {
        Answer::Removed => Ok(Empty {}),
        _ => Err(INTERNAL.into()),
    }
}

/// Nobody has an inbox without a name.
fn owner_of(user: &str) -> Result<(), ApiError> {
    if user.is_empty() { Err(bad("user")) } else { Ok(()) }
}

/// A channel with an inbox.
fn check_inbox(api: &Api, channel: &str) -> Result<(), ApiError> {
    let namespace = api.namespace(channel)?;
    // An engine's cursors are not here.
    let kept_here = namespace.engine == crate::broker::engine::Engine::Memory;
    namespace.inbox.filter(|_| kept_here).map(|_| ()).ok_or(NOT_AVAILABLE)
}

pub(super) async fn inbox_info(api: &Api, request: InboxInfoRequest) -> Result<InboxInfoResult, MethodError> {
    owner_of(&request.user)?;
    let found = api.node.cursors(request.user).await?.into_iter().map(|facts| InboxCursor {
        channel: facts.channel.to_string(),
        device: facts.device.into(),
        offset: facts.offset,
        epoch: facts.epoch.to_string(),
        waiting: facts.waiting,
    });
    Ok(InboxInfoResult { channels: found.collect() })
}

pub(super) async fn inbox_ack(api: &Api, request: InboxAckRequest) -> Result<Empty, MethodError> {
    let InboxAckRequest { user, channel, device, offset } = request;
    owner_of(&user)?;
    check_inbox(api, &channel)?;
    let met = api.node.control(Control::Inbox(InboxCall::Ack { user, device, channel, offset })).await?;
    if met == 0 { Err(NOT_FOUND.into()) } else { Ok(Empty {}) }
}

pub(super) async fn inbox_clear(api: &Api, request: InboxClearRequest) -> Result<InboxClearResult, MethodError> {
    owner_of(&request.user)?;
    if !request.channel.is_empty() {
        check_inbox(api, &request.channel)?;
    }
    let named = |name: String| (!name.is_empty()).then_some(name);
    let (channel, device) = (named(request.channel), named(request.device));
    let cleared = api.node.control(Control::Inbox(InboxCall::Clear { user: request.user, device, channel })).await?;
    Ok(InboxClearResult { cleared: u32::try_from(cleared).unwrap_or(u32::MAX) })
}

pub(super) async fn channels(api: &Api, request: ChannelsRequest) -> Result<ChannelsResult, MethodError> {
    let glob = (!request.pattern.is_empty()).then(|| globset::Glob::new(&request.pattern)).transpose();
    let pattern = glob.map_err(|_| bad("pattern"))?.map(|glob| glob.compile_matcher());
    let found = api.node.channels(request.pattern, pattern).await?.into_iter();
    let channels = found.map(|(name, clients)| (name.to_string(), ChannelInfo { num_clients: clients as u32 }));
    Ok(ChannelsResult { channels: channels.collect() })
}

/// What all reactors counted, without what has labels.
fn sums(stats: &[Stats]) -> BTreeMap<String, f64> {
    let mut sum = Counters::default();
    stats.iter().for_each(|reactor| sum.add(&reactor.counters));
    let mut page = Page::default();
    sum.write(&mut page);
    page.singles().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Another node, as it says of itself.
fn other(node: FleetNode) -> NodeResult {
    let FleetNode { uid, name, version, num_clients, num_users, num_channels, uptime, metrics, num_subs } = node;
    let metrics = metrics.map(|FleetMetrics { interval, items }| Metrics { interval, items });
    NodeResult { uid, name, version, num_clients, num_users, num_channels, uptime, metrics, process: None, num_subs }
}

pub(super) async fn info(api: &Api, _: InfoRequest) -> Result<InfoResult, MethodError> {
    let node = &api.node;
    let stats = node.stats().await?;
    let sum = |part: fn(&Stats) -> usize| stats.iter().map(part).sum::<usize>() as u32;
    let rss = crate::heap::resident_bytes().map_or(0, |bytes| bytes as i64);
    let uptime = node.info.started.elapsed();
    let this = NodeResult {
        uid: node.info.uid.clone(),
        name: node.info.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        num_clients: sum(|s| s.clients),
        num_users: node.users().await? as u32,
        num_channels: sum(|s| s.channels),
        uptime: uptime.as_secs() as u32,
        metrics: Some(Metrics { interval: uptime.as_secs_f64(), items: sums(&stats) }),
        process: Some(Process { rss }),
        num_subs: sum(|s| s.subscriptions),
    };
    let mut nodes = vec![this];
    nodes.extend(node.fleet.others().into_iter().map(other));
    Ok(InfoResult { nodes })
}

/// Where a program that is built on this one would answer its own methods; there are none here.
pub(super) async fn rpc(_: &Api, request: RpcRequest) -> Result<RpcResult, MethodError> {
    Err(if request.method.is_empty() { bad("method") } else { NOT_FOUND }.into())
}
