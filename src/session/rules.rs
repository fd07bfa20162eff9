//! F6 · What the configuration means to a session: permissions, limits and deadlines, flattened when it is loaded.

use super::limits::RateLimits;
use crate::auth::{KeyError, Overrides, Verifier};
use crate::base::wheel::{TICK_MS, Tick, ticks};
use crate::broker::archive::ArchiveKeep;
use crate::broker::engine::Engine;
use crate::broker::log::LogTo;
use crate::broker::{CursorArchive, Durability, DurableLimits, EngineLimits, InboxKeep, InboxLimits, Keep};
use crate::config::channel_regex;
use crate::config::{
    Channel, ChannelOptions, Config, ConnectCodes, HttpCode, HttpCodes, InboxOptions, NamespaceOptions,
    PersonalChannel, Rpc,
};
use crate::hub::Pace;
use crate::protocol::code::Disconnect;
use crate::protocol::{Error, SubscribeRequest};
use crate::wire::Wire;
use regex::Regex;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// What a node serves by, until its configuration is loaded again: all parts of it are given the same.
pub struct Settings {
    pub config: Arc<Config>,
    pub rules: Arc<Rules>,
}

impl fmt::Debug for Settings {
    /// It has secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Settings")
    }
}

impl Settings {
    /// Those of `node` from its start on.
    ///
    /// # Errors
    /// As [`Rules::new`].
    pub fn new(config: Config, node: &str) -> Result<Settings, KeyError> {
        let mut rules = Rules::new(&config)?;
        rules.node = node.to_owned();
        Ok(Settings { config: Arc::new(config), rules: Arc::new(rules) })
    }

    /// Those that come in place of these.
    ///
    /// # Errors
    /// As [`Rules::new`].
    pub fn next(&self, config: Config) -> Result<Settings, KeyError> {
        let (before, now) = (&self.config.client, &config.client);
        let same_tokens = before.token == now.token
            && before.subscription_token == now.subscription_token
            && before.insecure_skip_token_signature_verify == now.insecure_skip_token_signature_verify;
        let mut rules = Rules::new(&config)?;
        rules.node = self.rules.node.clone();
        rules.limits = match before.rate_limit == now.rate_limit {
            true => self.rules.limits.clone(),
            false => Arc::new(self.rules.limits.next(&now.rate_limit)),
        };
        rules.set_edition(self.rules.verifier.edition + u64::from(!same_tokens));
        Ok(Settings { config: Arc::new(config), rules: Arc::new(rules) })
    }
}

/// Shared by all sessions of a node, never changed.
pub struct Rules {
    /// The id of the node, for clients whose commands come by other requests.
    pub node: String,
    pub verifier: Verifier,
    /// Of subscription tokens, if not the same.
    subscription_verifier: Option<Verifier>,
    pub token_cache_size: usize,
    pub bad_token_cache_size: usize,
    /// Bad subscription tokens in a row that end a connection. 0 = no number does.
    pub bad_token_limit: u32,
    pub insecure: bool,
    pub allow_anonymous: bool,
    pub refuse_anonymous_tokens: bool,
    pub include_time: bool,
    pub channel_limit: usize,
    pub channel_length_max: usize,
    /// Bytes of an idempotency key, and of a version's epoch.
    pub idempotency_key_length_max: usize,
    /// Connections of one user. 0 = any number.
    pub user_connection_limit: usize,
    pub history_limit: usize,
    pub recovery_limit: usize,
    /// Clients that one presence reply may tell of.
    pub presence_limit: usize,
    /// Bytes of publications to which deltas are searched for one client that recovers.
    pub delta_bytes_max: usize,
    /// Lists of who is present in large channels that wait at one reactor.
    pub list_limit: usize,
    /// Ticks between pings, at most.
    pub ping_interval: Tick,
    /// Pings are due at multiples of so many ticks, so that a reactor wakes up for many of them at once.
    pub ping_grid: Tick,
    /// `ping_interval` in seconds, as the client is told: at least 1, for 0 would end its own watch.
    pub ping_seconds: u32,
    /// Ticks a pong may take; `None` = not asked for.
    pub pong_timeout: Option<Tick>,
    pub stale_delay: Tick,
    /// Milliseconds past a token's expiry.
    pub expired_delay_ms: u64,
    /// The same of a subscription's.
    pub expired_sub_delay_ms: u64,
    /// Bytes that may wait in a hub before it takes no more publications.
    pub fanout_queue_bytes_max: usize,
    /// Bytes of streams and idempotency keys that each share of the broker may hold.
    pub broker: crate::broker::Limits,
    /// What its channels that live elsewhere may cost, and when.
    pub engine_limits: EngineLimits,
    /// Whether there are inboxes, and what they may cost.
    pub inboxes: InboxRules,
    /// Some namespace has publications that a log is to have too.
    logs: bool,
    /// What channels with an archive may cost.
    pub durable_limits: DurableLimits,
    /// No namespace has another engine, or an archive.
    all_in_memory: bool,
    /// The backend decides about clients without a token.
    pub connect_proxy: bool,
    /// The backend, and not the client, refreshes connections.
    pub refresh_proxy: bool,
    /// The backend answers rpc commands.
    pub rpc_proxy: bool,
    /// Who comes and goes, and which channels are in use, is told to the backend.
    pub hooks: bool,
    /// What tokens and the backend say of a client is told in proxy requests.
    pub tells_meta: bool,
    /// Lower-case names of headers that the backend is told of.
    pub forwarded: Vec<String>,
    pub personal: PersonalChannel,
    /// What errors of the connect command are to clients that read no replies, by code.
    uni_disconnects: HashMap<u32, Disconnect>,
    /// The statuses of a connect request that is refused, by the transport; absent where a push tells of it.
    uni_sse: Option<HttpAnswers>,
    uni_stream: Option<HttpAnswers>,
    pub limits: Arc<RateLimits>,
    /// How names of channels are read.
    pub names: ChannelNames,
    without_namespace: Namespace,
    namespaces: HashMap<String, Namespace>,
}

/// What the parts of a channel's name are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelNames {
    namespace_boundary: String,
    user_boundary: String,
    user_separator: String,
    private_prefix: String,
}

/// Around the first `boundary`; an empty one is nowhere.
fn split<'a>(text: &'a str, boundary: &str) -> Option<(&'a str, &'a str)> {
    match boundary.as_bytes() {
        [] => None,
        // Nearly always, and several times as fast.
        [byte] => text.split_once(char::from(*byte)),
        _ => text.split_once(boundary),
    }
}

impl ChannelNames {
    pub fn new(options: &Channel) -> ChannelNames {
        ChannelNames {
            namespace_boundary: options.namespace_boundary.clone(),
            user_boundary: options.user_boundary.clone(),
            user_separator: options.user_separator.clone(),
            private_prefix: options.private_prefix.clone(),
        }
    }

    /// Does the name say that it takes a token?
    fn is_private(&self, channel: &str) -> bool {
        !self.private_prefix.is_empty() && channel.starts_with(&self.private_prefix)
    }

    /// The namespace, if the name has one, and the rest. What makes it private belongs to neither.
    pub fn parts<'a>(&self, channel: &'a str) -> (Option<&'a str>, &'a str) {
        let public = channel.strip_prefix(self.private_prefix.as_str()).unwrap_or(channel);
        match split(public, &self.namespace_boundary) {
            Some((namespace, rest)) => (Some(namespace), rest),
            None => (None, public),
        }
    }

    /// The name of the channel's namespace; "" = it has none.
    pub fn namespace<'a>(&self, channel: &'a str) -> &'a str {
        self.parts(channel).0.unwrap_or("")
    }

    /// Is the channel for some users only, and for this one? `None` = it is for all.
    fn lists(&self, channel: &str, user: &str) -> Option<bool> {
        let (_, mut users) = split(channel, &self.user_boundary)?;
        while let Some((first, rest)) = split(users, &self.user_separator) {
            if first == user {
                return Some(!user.is_empty());
            }
            users = rest;
        }
        Some(users == user && !user.is_empty())
    }
}

/// The options of a namespace, ready for use.
pub struct Namespace {
    names: ChannelNames,
    pub options: ChannelOptions,
    regex: Option<Regex>,
    /// What its channels keep; `None` = no history.
    pub keep: Option<Keep>,
    pub pace: Option<Pace>,
    pub fossil: bool,
    /// Where its channels live.
    pub engine: Engine,
    /// What has arrived at whom is remembered.
    pub inbox: Option<InboxRule>,
    pub log: Option<LogTo>,
    /// What its channels ask of the archive.
    pub durability: Option<Durability>,
}

/// The inboxes of all namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InboxRules {
    /// Some namespace has one.
    pub any: bool,
    /// Some are a device's.
    pub of_devices: bool,
    pub limits: InboxLimits,
}

impl InboxRules {
    fn new<'a>(channel: &Channel, namespaces: impl Iterator<Item = &'a Namespace>) -> InboxRules {
        let of_user = u32::try_from(channel.inbox_user_limit).unwrap_or(u32::MAX);
        let limits = InboxLimits { bytes: channel.inbox_memory_limit, of_user };
        let mut rules = InboxRules { any: false, of_devices: false, limits };
        for inbox in namespaces.filter_map(|namespace| namespace.inbox.as_ref()) {
            (rules.any, rules.of_devices) = (true, rules.of_devices || inbox.of_device);
        }
        rules
    }
}

/// The inbox of a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InboxRule {
    pub keep: InboxKeep,
    /// Each device has its own.
    pub of_device: bool,
}

impl InboxRule {
    fn new(options: &InboxOptions, page: usize, archive: CursorArchive) -> InboxRule {
        InboxRule {
            keep: InboxKeep {
                ttl_ms: options.ttl.as_millis() as u64,
                size: if options.size == 0 { u64::MAX } else { options.size as u64 },
                page,
                cursors: u32::try_from(options.cursor_limit).unwrap_or(u32::MAX),
                undelivered_ms: options.undelivered_after.as_millis() as u64,
                with_data: options.undelivered_data,
                archive,
            },
            of_device: options.scope == "device",
        }
    }
}

/// Pings as WebSocket frames (`cf_ws_frame_ping_pong`): their pong may take 10 s.
pub const FRAME_PONG_TIMEOUT: Tick = (10_000 / TICK_MS) as Tick;
/// Pings come early by less than this part of their interval, and by less than a second.
const PING_GRID_PART: Tick = 25;
const PING_GRID_MAX: Tick = (1000 / TICK_MS) as Tick;

impl Rules {
    /// When a ping is due that must leave `wait` ticks after `now`, or a little sooner.
    pub fn ping_after(&self, now: Tick, wait: Tick) -> Tick {
        let latest = now + wait;
        (latest - latest % self.ping_grid).max(now + 1)
    }

    /// # Errors
    /// A key of tokens that cannot be read. A configuration that passed its check has none.
    pub fn new(config: &Config) -> Result<Rules, KeyError> {
        let (client, channel) = (&config.client, &config.channel);
        let ping_interval = ticks(client.ping_interval);
        let skip = client.insecure_skip_token_signature_verify;
        let own = &client.subscription_token;
        let subscription = own.enabled.then(|| Verifier::new(&own.token, skip)).transpose()?;
        let engine = engine_of(config.engine_kind()).unwrap_or_default();
        let without_namespace = Namespace::new(&channel.without_namespace, config, engine);
        let of = |n: &NamespaceOptions| (n.name.clone(), Namespace::new(&n.options, config, engine));
        let namespaces: HashMap<String, Namespace> = channel.namespaces.iter().map(of).collect();
        let inboxes = InboxRules::new(channel, namespaces.values().chain([&without_namespace]));
        let all = namespaces.values().chain([&without_namespace]);
        let plain = |namespace: &Namespace| namespace.engine == Engine::Memory && namespace.durability.is_none();
        let all_in_memory = all.into_iter().all(plain);
        Ok(Rules {
            node: String::new(),
            verifier: Verifier::new(&client.token, skip)?,
            subscription_verifier: subscription,
            token_cache_size: client.token_cache_size,
            bad_token_cache_size: client.bad_token_cache_size,
            bad_token_limit: client.bad_token_limit,
            insecure: client.insecure,
            allow_anonymous: client.allow_anonymous_connect_without_token,
            refuse_anonymous_tokens: client.disallow_anonymous_connection_tokens,
            include_time: client.connect_include_server_time,
            channel_limit: client.channel_limit.min(usize::from(u16::MAX)),
            channel_length_max: channel.max_length,
            idempotency_key_length_max: channel.idempotency_key_max_length,
            user_connection_limit: client.user_connection_limit,
            history_limit: client.history_max_publication_limit,
            presence_limit: client.presence_max_client_limit,
            delta_bytes_max: config.reactor.decode_budget,
            list_limit: config.reactor.presence_queue_limit,
            recovery_limit: client.recovery_max_publication_limit,
            ping_interval,
            ping_grid: (ping_interval / PING_GRID_PART).clamp(1, PING_GRID_MAX),
            ping_seconds: client.ping_interval.as_secs().max(1) as u32,
            pong_timeout: (!client.pong_timeout.is_zero()).then(|| ticks(client.pong_timeout)),
            stale_delay: ticks(client.stale_close_delay),
            expired_delay_ms: client.expired_close_delay.as_millis() as u64,
            expired_sub_delay_ms: client.expired_sub_close_delay.as_millis() as u64,
            fanout_queue_bytes_max: config.reactor.fanout_queue_size,
            broker: broker_limits(channel),
            engine_limits: engine_limits(config),
            inboxes,
            logs: config.logs_publications(),
            durable_limits: durable_limits(config),
            all_in_memory,
            connect_proxy: client.proxy.connect.enabled,
            refresh_proxy: client.proxy.refresh.enabled,
            rpc_proxy: answers_rpc(&config.rpc),
            hooks: !config.hooks.endpoint.is_empty(),
            tells_meta: config.every_proxy().any(|proxy| proxy.include_connection_meta),
            forwarded: config.forwarded_headers(),
            uni_sse: HttpAnswers::new(&config.uni_sse.connect_code_to_http_response),
            uni_stream: HttpAnswers::new(&config.uni_http_stream.connect_code_to_http_response),
            uni_disconnects: uni_disconnects(&client.connect_code_to_unidirectional_disconnect),
            personal: client.subscribe_to_user_personal_channel.clone(),
            limits: Arc::new(RateLimits::new(&client.rate_limit)),
            names: ChannelNames::new(channel),
            without_namespace,
            namespaces,
        })
    }

    /// What a client that reads no replies is told of an error.
    pub fn uni_disconnect(&self, error: &Error) -> Disconnect {
        self.uni_disconnects.get(&error.code).cloned().unwrap_or_else(|| Disconnect::of(error))
    }

    /// The HTTP response to a connect request that came to nothing for this code, if the transport has one for it.
    pub fn http_answer(&self, wire: Wire, code: u32, text: &str) -> Option<HttpAnswer> {
        let answers = match wire {
            Wire::UniSse => self.uni_sse.as_ref(),
            Wire::UniStream => self.uni_stream.as_ref(),
            _ => None,
        };
        Some(answers?.to(code, text))
    }

    fn set_edition(&mut self, edition: u64) {
        self.verifier.edition = edition;
        if let Some(own) = &mut self.subscription_verifier {
            own.edition = edition;
        }
    }

    /// Whose keys sign subscription tokens.
    pub fn subscription_verifier(&self) -> &Verifier {
        self.subscription_verifier.as_ref().unwrap_or(&self.verifier)
    }

    /// May a token name the key set at `url`?
    pub fn wants_keys_of(&self, url: &str) -> bool {
        let own = self.subscription_verifier.iter().flat_map(Verifier::key_urls);
        self.verifier.key_urls().chain(own).any(|wanted| **wanted == *url)
    }

    /// The namespace of `channel`: the one that its name has, or that of channels without one. `None` = there is no
    /// such namespace.
    pub fn namespace(&self, channel: &str) -> Option<&Namespace> {
        match self.names.parts(channel).0 {
            Some(namespace) => self.namespaces.get(namespace),
            None => Some(&self.without_namespace),
        }
    }

    /// Where the publications of `channel` go as well.
    pub fn log(&self, channel: &str) -> Option<&LogTo> {
        if self.logs { self.namespace(channel)?.log.as_ref() } else { None }
    }

    /// Where `channel` lives, and what it asks of the archive.
    pub fn home(&self, channel: &str) -> (Engine, Option<Durability>) {
        match self.all_in_memory {
            true => (Engine::Memory, None),
            false => self
                .namespace(channel)
                .map_or((Engine::Memory, None), |namespace| (namespace.engine, namespace.durability)),
        }
    }

    /// The options of `channel`.
    pub fn channel(&self, channel: &str) -> Option<&ChannelOptions> {
        self.namespace(channel).map(|namespace| &namespace.options)
    }

    /// The channel that is the user's own, if users have one.
    pub fn personal_channel(&self, user: &str) -> Option<String> {
        let personal = &self.personal;
        let namespace = &personal.personal_channel_namespace;
        let ChannelNames { namespace_boundary, user_boundary, .. } = &self.names;
        match personal.enabled && !user.is_empty() {
            true if namespace.is_empty() => Some(format!("{user_boundary}{user}")),
            true => Some(format!("{namespace}{namespace_boundary}{user_boundary}{user}")),
            false => None,
        }
    }
}

fn broker_limits(channel: &Channel) -> crate::broker::Limits {
    crate::broker::Limits { history_bytes: channel.history_memory_limit, recent: channel.idempotency_cache_size }
}

fn engine_limits(config: &Config) -> EngineLimits {
    let (client, reactor) = (&config.client, &config.reactor);
    EngineLimits {
        present: client.presence_max_client_limit,
        held: reactor.held_publication_limit,
        held_bytes: reactor.held_publication_size,
        inflight: reactor.engine_inflight_limit,
        presence_ms: client.presence_update_interval.as_millis() as u64,
        check_ms: client.channel_position_check_delay.as_millis() as u64,
    }
}

fn durable_limits(config: &Config) -> DurableLimits {
    let stores = &config.durable.stores;
    DurableLimits { opening: stores.opening_limit, reads: stores.read_limit, page: stores.page_limit }
}

/// Does any method have somebody to answer it?
fn answers_rpc(rpc: &Rpc) -> bool {
    let by_proxy = rpc.namespaces.iter().any(|namespace| namespace.options.proxy_enabled);
    by_proxy || rpc.without_namespace.proxy_enabled || rpc.ping.enabled
}

/// A status, and what is said with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpAnswer {
    pub status: u16,
    pub text: String,
}

/// By the code of an error or of a disconnect.
#[derive(Debug)]
struct HttpAnswers(HashMap<u32, HttpAnswer>);

impl HttpAnswers {
    fn new(codes: &HttpCodes) -> Option<HttpAnswers> {
        let answer = |it: &HttpCode| (it.code, HttpAnswer { status: it.to.status_code, text: it.to.body.clone() });
        codes.enabled.then(|| HttpAnswers(codes.transforms.iter().map(answer).collect()))
    }

    /// A code that is not listed is no word of the operator's.
    fn to(&self, code: u32, text: &str) -> HttpAnswer {
        match self.0.get(&code) {
            Some(HttpAnswer { status, text: own }) => {
                HttpAnswer { status: *status, text: if own.is_empty() { text.to_owned() } else { own.clone() } }
            }
            None => HttpAnswer { status: 500, text: "Internal Server Error".to_owned() },
        }
    }
}

fn uni_disconnects(codes: &ConnectCodes) -> HashMap<u32, Disconnect> {
    let listed = codes.transforms.iter().filter(|_| codes.enabled);
    listed.map(|it| (it.code, Disconnect { code: it.to.code, reason: it.to.reason.clone().into() })).collect()
}

/// The engine of that name; "" is none.
fn engine_of(name: &str) -> Option<Engine> {
    match name {
        "memory" => Some(Engine::Memory),
        "redis" => Some(Engine::Redis),
        "nats" => Some(Engine::Nats),
        _ => None,
    }
}

impl Namespace {
    /// `engine`: where its channels live, unless it says so itself.
    fn new(options: &ChannelOptions, config: &Config, engine: Engine) -> Namespace {
        let (common, page) = (&config.channel, config.client.recovery_max_publication_limit);
        let mut options = options.clone();
        if options.publication_data_format.is_empty() {
            options.publication_data_format = common.publication_data_format.clone();
        }
        let ms = |duration: std::time::Duration| duration.as_millis() as u64;
        let own_meta_ttl = ms(options.history_meta_ttl);
        let history = options.history_size > 0 && !options.history_ttl.is_zero();
        let keep = history.then(|| Keep {
            size: options.history_size as u32,
            ttl_ms: ms(options.history_ttl),
            meta_ttl_ms: if own_meta_ttl > 0 { own_meta_ttl } else { ms(common.history_meta_ttl) },
        });
        let sync = options.history_durability == "sync";
        let archive = match options.is_durable() {
            true if sync => CursorArchive::Sync,
            true => CursorArchive::Batched,
            false => CursorArchive::None,
        };
        let inbox = (options.inbox.enabled && keep.is_some()).then(|| InboxRule::new(&options.inbox, page, archive));
        let durability = keep.filter(|_| options.is_durable()).map(|memory| {
            let (size, ttl_ms) = (options.archive_size as u64, ms(options.archive_ttl));
            // Never less than memory keeps.
            let size = if size == 0 { 0 } else { size.max(u64::from(memory.size)) };
            let ttl_ms = if ttl_ms == 0 { 0 } else { ttl_ms.max(memory.ttl_ms) };
            let archive = ArchiveKeep { size, ttl_ms, meta_ttl_ms: memory.meta_ttl_ms };
            Durability { sync, archive, memory, inbox: inbox.map(|inbox| inbox.keep) }
        });
        let delay_ms = ms(options.batch_max_delay);
        let pace = Pace { size_max: options.batch_max_size, delay_ms, latest: options.batch_flush_latest };
        Namespace {
            names: ChannelNames::new(common),
            // The check has compiled it before.
            regex: (!options.channel_regex.is_empty()).then(|| channel_regex(&options.channel_regex).ok()).flatten(),
            keep,
            pace: (delay_ms > 0).then_some(pace),
            engine: engine_of(&options.engine).unwrap_or(engine),
            inbox,
            log: (!options.log_to.is_empty())
                .then(|| LogTo { topic: options.log_to.as_str().into(), waits: options.log_to_sync }),
            durability,
            fossil: options.allowed_delta_types.iter().any(|kind| kind == "fossil"),
            options,
        }
    }

    /// Is `channel`, of this namespace, a name as its channels must have?
    pub fn allows_name(&self, channel: &str) -> bool {
        let (_, rest) = self.names.parts(channel);
        self.regex.as_ref().map_or(channel.is_ascii(), |regex| regex.is_match(rest))
    }

    fn may_subscribe(&self, user: &str) -> bool {
        let options = &self.options;
        options.allow_subscribe_for_client && (!user.is_empty() || options.allow_subscribe_for_anonymous)
    }

    /// What decides about a subscription of `user` to `channel`, of this namespace, without a token.
    pub fn without_token(&self, channel: &str, user: &str, insecure: bool) -> Decides {
        if self.names.is_private(channel) {
            return Decides::No;
        }
        let allowed = |allowed: bool| if allowed { Decides::Yes } else { Decides::No };
        if self.options.allow_user_limited_channels
            && let Some(listed) = self.names.lists(channel, user)
        {
            return allowed(listed);
        }
        match (self.options.subscribe_proxy_enabled, self.options.subscribe_stream_proxy_enabled) {
            (true, _) => Decides::Backend,
            (false, true) => Decides::Stream,
            (false, false) => allowed(insecure || self.may_subscribe(user)),
        }
    }

    pub fn may_publish(&self, user: &str, subscribed: bool) -> bool {
        let options = &self.options;
        (!user.is_empty() || options.allow_publish_for_anonymous)
            && (options.allow_publish_for_client || options.allow_publish_for_subscriber && subscribed)
    }

    pub fn may_see_presence(&self, user: &str, subscribed: bool) -> bool {
        let options = &self.options;
        (!user.is_empty() || options.allow_presence_for_anonymous)
            && (options.allow_presence_for_client || options.allow_presence_for_subscriber && subscribed)
    }

    pub fn may_see_history(&self, user: &str, subscribed: bool) -> bool {
        let options = &self.options;
        (!user.is_empty() || options.allow_history_for_anonymous)
            && (options.allow_history_for_client || options.allow_history_for_subscriber && subscribed)
    }

    /// The inbox that `user` has in these channels.
    pub fn inbox_of(&self, user: &str) -> Option<&InboxRule> {
        self.inbox.as_ref().filter(|_| !user.is_empty())
    }

    /// What a subscription gets of what it asks for, and of what nobody need ask for.
    pub fn terms(&self, user: &str, insecure: bool, request: &SubscribeRequest, overrides: Overrides) -> Terms {
        let options = &self.options;
        let history = self.keep.is_some();
        let sees_history = insecure || self.may_see_history(user, true);
        let sees_presence = insecure || self.may_see_presence(user, true);
        let force_recovery = overrides.force_recovery.unwrap_or(options.force_recovery);
        let force_positioning = overrides.force_positioning.unwrap_or(options.force_positioning);
        let asks_recovery = request.recoverable && (options.allow_recovery || sees_history);
        let asks_positioning = request.positioned && (options.allow_positioning || sees_history);
        let inbox = self.inbox_of(user).is_some();
        let recoverable = history && (force_recovery || asks_recovery || inbox);
        let announced = overrides.join_leave.unwrap_or(options.join_leave);
        let pushes = overrides.force_push_join_leave.unwrap_or(options.force_push_join_leave);
        let cache = options.force_recovery_mode == "cache";
        Terms {
            recoverable,
            positioned: recoverable || history && (force_positioning || asks_positioning),
            recover: recoverable && (request.recover || cache && options.auto_cache_recover),
            cache,
            present: overrides.presence.unwrap_or(options.presence),
            announced,
            hears: announced && (pushes || request.join_leave && sees_presence),
            delta: history && self.fossil && request.delta == "fossil",
        }
    }
}

/// Who decides about a subscription: its channel's name and namespace, or the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decides {
    Yes,
    No,
    /// The backend, by the first message of a stream.
    Stream,
    Backend,
}

/// What a subscription is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    pub recoverable: bool,
    pub positioned: bool,
    /// Recover now.
    pub recover: bool,
    /// The latest publication is all there is to recover.
    pub cache: bool,
    /// Listed among those present.
    pub present: bool,
    /// Its coming and going are told to others.
    pub announced: bool,
    /// It is told who comes and goes.
    pub hears: bool,
    pub delta: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn names_are_read_by_what_divides_them() {
        let mut config = Config::default();
        let read = |config: &Config, channel: &str, user: &str| {
            let names = ChannelNames::new(&config.channel);
            let (private, listed) = (names.is_private(channel), names.lists(channel, user));
            (private, names.namespace(channel).to_owned(), names.parts(channel).1.to_owned(), listed)
        };
        let expected = |private, namespace: &str, rest: &str, listed| (private, namespace.into(), rest.into(), listed);
        for (channel, user, answer) in [
            ("news", "1", expected(false, "", "news", None)),
            ("chat:a:b", "1", expected(false, "chat", "a:b", None)),
            ("$chat:a", "1", expected(true, "chat", "a", None)),
            ("chat:a#1,2", "2", expected(false, "chat", "a#1,2", Some(true))),
            ("a#1,2", "3", expected(false, "", "a#1,2", Some(false))),
            ("a#1,,2", "", expected(false, "", "a#1,,2", Some(false))),
            ("a#", "", expected(false, "", "a#", Some(false))),
        ] {
            assert_eq!(read(&config, channel, user), answer, "{channel}");
        }
        let channel = &mut config.channel;
        (channel.namespace_boundary, channel.user_boundary) = ("/".into(), "@@".into());
        (channel.user_separator, channel.private_prefix) = (String::new(), "priv-".into());
        for (channel, user, answer) in [
            ("chat:a", "1", expected(false, "", "chat:a", None)),
            ("priv-chat/a", "1", expected(true, "chat", "a", None)),
            ("$chat/a@@1,2", "1,2", expected(false, "$chat", "a@@1,2", Some(true))),
            ("a@@1,2", "1", expected(false, "", "a@@1,2", Some(false))),
        ] {
            assert_eq!(read(&config, channel, user), answer, "{channel}");
        }
        let channel = &mut config.channel;
        (channel.user_boundary, channel.private_prefix) = (String::new(), String::new());
        assert_eq!(read(&config, "$a#1", "1"), expected(false, "", "$a#1", None));
        assert_eq!(read(&config, "", ""), expected(false, "", "", None));
    }

    #[test]
    fn pings_gather_and_none_is_late() {
        for (seconds, grid) in [(1, 1), (5, 2), (25, 10), (3600, 10)] {
            let mut config = Config::default();
            config.client.ping_interval = Duration::from_secs(seconds);
            let rules = Rules::new(&config).expect("rules");
            let interval = ticks(config.client.ping_interval);
            for now in 0..3 * interval.min(500) {
                let due = rules.ping_after(now, interval);
                assert!(
                    due.is_multiple_of(grid) && due <= now + interval && due + grid > now + interval,
                    "{now}: {due}"
                );
                assert!(rules.ping_after(now, 1) > now);
            }
        }
    }
}
