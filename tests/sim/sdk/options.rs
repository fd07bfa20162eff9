//! What one seed simulates of the protocol's larger half: namespaces with options in any mixture.

use super::tokens;
use crate::options::{KEY, Options};
use crate::rng::Rng;
use gannet::base::wheel::ticks;
use gannet::config::{ChannelOptions, Config, NamespaceOptions};
use gannet::session::Rules;
use std::sync::Arc;
use std::time::Duration;

pub const NAMESPACES: [&str; 5] = ["n0", "n1", "n2", "n3", "n4"];
/// Channels of each namespace.
pub const CHANNELS: usize = 2;
/// A history that no simulation is long enough to outlive.
pub const LONG: Duration = Duration::from_secs(3600);

pub fn draw(rng: &mut Rng) -> Options {
    let config = config(rng);
    let mut rules = Rules::new(&config).expect("rules");
    rules.connect_proxy = rng.chance(30);
    rules.refresh_proxy = rng.chance(20);
    rules.rpc_proxy = rng.chance(50);
    rules.hooks = true;
    Options {
        reactors: rng.within(1, 4) as u16,
        clients: rng.within(3, 9),
        rounds: rng.within(1, 2),
        ticks_per_round: rng.within(30, 70),
        channels: CHANNELS * NAMESPACES.len(),
        mailbox_len: *rng.pick(&[usize::MAX, usize::MAX, 40, 6, 3]),
        mail_delay: *rng.pick(&[1, 3, 10]),
        net_delay: *rng.pick(&[1, 3, 8]),
        room: *rng.pick(&[4000, 64_000]),
        outbox_bytes_max: config.client.queue_max_size,
        message_bytes_max: config.websocket.message_size_limit,
        fanout_slice: *rng.pick(&[1, 2, 3, 1024]),
        client_busy: *rng.pick(&[8, 15, 30]),
        backend_busy: *rng.pick(&[10, 40, 90]),
        // In a hundred deeds of a client: those that end its connection.
        faults: *rng.pick(&[2, 5, 15]),
        pad: *rng.pick(&[20, 20, 200]),
        close_ticks: ticks(config.websocket.close_timeout),
        spread_ticks: ticks(config.shutdown.spread),
        config,
        rules: Arc::new(rules),
    }
}

fn config(rng: &mut Rng) -> Config {
    let mut config = Config::default();
    let client = &mut config.client;
    client.insecure = rng.chance(10);
    client.allow_anonymous_connect_without_token = rng.chance(60);
    if rng.chance(30) {
        client.token.jwks_public_endpoint = tokens::KEYS_AT.into();
    } else {
        client.token.hmac_secret_key = KEY.into();
    }
    client.token_cache_size = *rng.pick(&[0, 4, 4096]);
    client.bad_token_cache_size = *rng.pick(&[0, 4, 4096]);
    client.bad_token_limit = *rng.pick(&[0, 1, 3]);
    client.ping_interval = Duration::from_millis(*rng.pick(&[1000, 2300]));
    client.pong_timeout = Duration::from_millis(900);
    client.stale_close_delay = Duration::from_millis(3000);
    client.expired_close_delay = Duration::from_millis(1000);
    client.expired_sub_close_delay = Duration::from_millis(*rng.pick(&[300, 1000]));
    client.channel_limit = *rng.pick(&[4, 128, 128]);
    client.queue_max_size = *rng.pick(&[20_000, 1 << 20]);
    client.user_connection_limit = *rng.pick(&[0, 0, 1, 2]);
    client.recovery_max_publication_limit = *rng.pick(&[5, 300]);
    client.history_max_publication_limit = 20;
    let personal = &mut client.subscribe_to_user_personal_channel;
    personal.enabled = rng.chance(30);
    personal.single_connection = personal.enabled && rng.chance(30);
    personal.personal_channel_namespace = NAMESPACES[0].into();
    client.unanswered_limit = *rng.pick(&[64, 64, 3, 1]);
    client.write_delay = Duration::from_millis(*rng.pick(&[0, 0, 20, 150]));
    config.reactor.command_budget = *rng.pick(&[64, 64, 2, 1]);
    config.reactor.reply_budget = *rng.pick(&[1 << 20, 300]);
    config.reactor.signature_budget = *rng.pick(&[64, 1]);
    config.websocket.message_size_limit = 16_384;
    config.websocket.close_timeout = Duration::from_millis(800);
    config.shutdown.spread = Duration::from_millis(*rng.pick(&[0, 300, 1500]));
    config.channel.history_meta_ttl = LONG;
    let open = ChannelOptions {
        allow_subscribe_for_client: true,
        allow_subscribe_for_anonymous: true,
        ..ChannelOptions::default()
    };
    config.channel.without_namespace = open;
    config.channel.namespaces =
        NAMESPACES.map(|name| NamespaceOptions { name: name.into(), options: namespace(rng) }).into_iter().collect();
    config
}

fn namespace(rng: &mut Rng) -> ChannelOptions {
    let history = rng.chance(75);
    let long = rng.chance(60);
    let paced = rng.chance(20);
    let ttl = if long { LONG } else { Duration::from_millis(*rng.pick(&[400, 1500])) };
    let meta = if long { LONG } else { ttl + Duration::from_millis(*rng.pick(&[0, 600])) };
    let mut options = ChannelOptions {
        allow_subscribe_for_client: rng.chance(90),
        allow_subscribe_for_anonymous: true,
        allow_publish_for_client: rng.chance(60),
        allow_publish_for_subscriber: true,
        allow_publish_for_anonymous: true,
        allow_presence_for_client: rng.chance(50),
        allow_presence_for_subscriber: rng.chance(70),
        allow_presence_for_anonymous: rng.chance(50),
        allow_history_for_client: rng.chance(30),
        allow_history_for_subscriber: rng.chance(70),
        allow_history_for_anonymous: rng.chance(50),
        presence: rng.chance(60),
        join_leave: rng.chance(60),
        force_push_join_leave: rng.chance(40),
        history_size: if history { *rng.pick(&[1, 3, 10, 1000]) } else { 0 },
        history_ttl: if history { ttl } else { Duration::ZERO },
        history_meta_ttl: meta,
        force_positioning: rng.chance(30),
        allow_positioning: rng.chance(50),
        force_recovery: history && rng.chance(50),
        allow_recovery: rng.chance(70),
        auto_cache_recover: rng.chance(50),
        delta_publish: rng.chance(60),
        allow_tags_filter: rng.chance(60),
        skip_publisher: rng.chance(15),
        batch_max_delay: Duration::from_millis(if paced { *rng.pick(&[100, 400]) } else { 0 }),
        batch_max_size: if paced { *rng.pick(&[0, 3]) } else { 0 },
        batch_flush_latest: paced && rng.chance(30),
        subscribe_proxy_enabled: rng.chance(15),
        publish_proxy_enabled: rng.chance(10),
        sub_refresh_proxy_enabled: rng.chance(15),
        ..ChannelOptions::default()
    };
    if rng.chance(20) {
        options.force_recovery_mode = "cache".into();
    }
    if rng.chance(60) {
        options.allowed_delta_types = vec!["fossil".into()];
    }
    options
}
