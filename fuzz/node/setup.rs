//! The options under which the targets run, and tokens for them.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gannet::auth::{Jwks, KeySet};
use gannet::config::{ChannelOptions, Config, NamespaceOptions};
use gannet::session::Rules;
use ring::signature::{Ed25519KeyPair, KeyPair};
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Of each kind one or two; the last one's namespace is none.
pub const CHANNELS: [&str; 10] = ["a", "b", "h:1", "h:2", "f:1", "p:1", "c:1", "u:#1,2", "#1", "no:1"];
pub const USERS: [&str; 3] = ["1", "2", "3"];
/// Where the key set is said to lie.
pub const KEYS_AT: &str = "https://keys.example/set";

/// A configuration, and what follows from it.
pub struct Setup {
    pub config: Config,
    pub rules: Arc<Rules>,
}

impl Setup {
    fn new(config: Config) -> Arc<Setup> {
        let rules = Arc::new(Rules::new(&config).expect("rules"));
        Arc::new(Setup { config, rules })
    }
}

/// What the bits of `setup` turn on; each is made once.
pub fn setup(bits: u8) -> Arc<Setup> {
    thread_local! {
        static MADE: RefCell<HashMap<u8, Arc<Setup>>> = RefCell::default();
    }
    MADE.with_borrow_mut(|made| made.entry(bits).or_insert_with(|| Setup::new(make(bits))).clone())
}

pub fn rules(bits: u8) -> Arc<Rules> {
    setup(bits).rules.clone()
}

/// Small limits, which are soon reached: for floods.
pub fn tight(bits: u8) -> Arc<Setup> {
    thread_local! {
        static MADE: RefCell<HashMap<u8, Arc<Setup>>> = RefCell::default();
    }
    let make = || {
        let on = |bit: u8| bits & 1 << bit != 0;
        // All is allowed, and the backend is asked by rpc alone.
        let mut config = make(1);
        let reactor = &mut config.reactor;
        (reactor.command_budget, reactor.reply_budget) = if on(0) { (3, 600) } else { (64, 20_000) };
        reactor.decode_budget = if on(1) { 300 } else { 20_000 };
        reactor.held_input_size = if on(2) { 5_000 } else { 1 << 20 };
        reactor.fanout_slice = if on(3) { 2 } else { 1024 };
        config.client.unanswered_limit = if on(4) { 2 } else { 256 };
        config.client.queue_max_size = if on(5) { 3_000 } else { 1 << 20 };
        config.client.write_delay = Duration::from_millis(if on(6) { 200 } else { 0 });
        config.overload.memory_limit = if on(7) { 100_000 } else { 0 };
        Setup::new(config)
    };
    MADE.with_borrow_mut(|made| made.entry(bits).or_insert_with(make).clone())
}

fn make(setup: u8) -> Config {
    let on = |bit: u8| setup & 1 << bit != 0;
    let mut config = Config::default();
    let client = &mut config.client;
    client.allow_anonymous_connect_without_token = true;
    client.insecure = on(0);
    client.proxy.connect.enabled = on(1);
    client.proxy.refresh.enabled = on(2);
    client.user_connection_limit = if on(3) { 2 } else { 0 };
    client.subscribe_to_user_personal_channel.enabled = on(4);
    client.subscribe_to_user_personal_channel.single_connection = on(5);
    match on(6) {
        true => client.token.jwks_public_endpoint = KEYS_AT.into(),
        false => client.insecure_skip_token_signature_verify = true,
    }
    client.channel_limit = 3;
    client.token_cache_size = 4;
    client.bad_token_cache_size = 4;
    client.bad_token_limit = 2;
    client.ping_interval = Duration::from_secs(2);
    client.pong_timeout = Duration::from_secs(1);
    client.expired_close_delay = Duration::from_secs(1);
    client.expired_sub_close_delay = Duration::from_secs(1);
    client.history_max_publication_limit = 5;
    client.recovery_max_publication_limit = 5;
    config.hooks.endpoint = if on(7) { "https://hooks.example".into() } else { String::new() };
    config.rpc.without_namespace.proxy_enabled = true;
    config.rpc.proxy.endpoint = "https://backend.example/rpc".into();
    config.rpc.proxy.http_headers = vec!["x-forwarded".into()];
    config.websocket.message_size_limit = 4096;
    (config.websocket.compression, config.websocket.compression_min_size) = (true, 64);
    config.channel.max_length = 40;
    config.channel.history_meta_ttl = Duration::from_secs(60);
    config.channel.idempotency_cache_size = 4;
    config.channel.history_memory_limit = 4096;
    (config.reactor.fanout_queue_size, config.reactor.fanout_slice) = (2000, 3);
    config.channel.without_namespace = open();
    config.channel.namespaces =
        namespaces().into_iter().map(|(name, options)| NamespaceOptions { name: name.into(), options }).collect();
    config
}

fn open() -> ChannelOptions {
    ChannelOptions {
        allow_subscribe_for_client: true,
        allow_subscribe_for_anonymous: true,
        allow_publish_for_client: true,
        allow_publish_for_anonymous: true,
        ..ChannelOptions::default()
    }
}

fn kept() -> ChannelOptions {
    ChannelOptions {
        history_size: 3,
        history_ttl: Duration::from_secs(2),
        allow_history_for_client: true,
        allow_history_for_anonymous: true,
        ..open()
    }
}

fn seen() -> ChannelOptions {
    ChannelOptions {
        presence: true,
        join_leave: true,
        allow_presence_for_subscriber: true,
        allow_presence_for_anonymous: true,
        ..open()
    }
}

fn namespaces() -> [(&'static str, ChannelOptions); 5] {
    let h = ChannelOptions {
        force_recovery: true,
        allowed_delta_types: vec!["fossil".into()],
        delta_publish: true,
        presence: true,
        join_leave: true,
        force_push_join_leave: true,
        allow_presence_for_client: true,
        ..kept()
    };
    let f = ChannelOptions { allow_tags_filter: true, allow_recovery: true, allow_positioning: true, ..kept() };
    let p = ChannelOptions {
        subscribe_proxy_enabled: true,
        publish_proxy_enabled: true,
        sub_refresh_proxy_enabled: true,
        batch_max_delay: Duration::from_millis(300),
        batch_max_size: 3,
        ..seen()
    };
    let c = ChannelOptions {
        force_recovery: true,
        force_recovery_mode: "cache".into(),
        auto_cache_recover: true,
        skip_publisher: true,
        publication_data_format: "json".into(),
        ..kept()
    };
    let u = ChannelOptions { allow_user_limited_channels: true, batch_flush_latest: true, ..seen() };
    [("h", h), ("f", f), ("p", p), ("c", c), ("u", u)]
}

/// A token that says `claims`, signed by the key of the set; where signatures are skipped nobody looks at that.
pub fn token(claims: &serde_json::Value) -> String {
    let parts = [r#"{"alg":"EdDSA","kid":"1"}"#, &claims.to_string()];
    let signed = parts.map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
    let signature = PAIR.with(|pair| URL_SAFE_NO_PAD.encode(pair.sign(signed.as_bytes())));
    format!("{signed}.{signature}")
}

/// The key set, fetched at `now`.
pub fn keys(now: u64) -> Jwks {
    let x = PAIR.with(|pair| URL_SAFE_NO_PAD.encode(pair.public_key()));
    let set = format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","kid":"1","x":"{x}"}}]}}"#);
    let mut jwks = Jwks::default();
    jwks.insert(KEYS_AT.into(), KeySet::parse(set.as_bytes()).expect("a key set"), now);
    jwks
}

thread_local! {
    static PAIR: Ed25519KeyPair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a seed");
}
