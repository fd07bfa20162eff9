//! What one seed simulates of a node under attack: small budgets and buffers, so that they are met often.

use crate::options::{KEY, Options};
use crate::rng::Rng;
use gannet::base::wheel::ticks;
use gannet::config::{ChannelOptions, Config, NamespaceOptions};
use gannet::session::Rules;
use std::sync::Arc;
use std::time::Duration;

/// Publications in the history that attackers ask for, and bytes of each.
pub const BIG_LEN: usize = 20;
pub const BIG_BYTES: usize = 1000;
const LONG: Duration = Duration::from_secs(3600);

pub fn draw(rng: &mut Rng) -> Options {
    let config = config(rng);
    Options {
        reactors: *rng.pick(&[1, 2, 2]),
        // Bystanders.
        clients: rng.within(2, 5),
        rounds: 1,
        ticks_per_round: rng.within(30, 70),
        channels: 1,
        mailbox_len: *rng.pick(&[usize::MAX, usize::MAX, 6, 2]),
        mail_delay: *rng.pick(&[1, 3]),
        net_delay: *rng.pick(&[1, 3]),
        room: *rng.pick(&[4000, 64_000]),
        outbox_bytes_max: config.client.queue_max_size,
        message_bytes_max: config.websocket.message_size_limit,
        fanout_slice: *rng.pick(&[2, 1024]),
        client_busy: 10,
        backend_busy: *rng.pick(&[10, 60]),
        // Attackers in a hundred steps that come back.
        faults: 10,
        pad: 100,
        close_ticks: ticks(config.websocket.close_timeout),
        spread_ticks: ticks(config.shutdown.spread),
        rules: Arc::new(Rules::new(&config).expect("rules")),
        config,
    }
}

fn config(rng: &mut Rng) -> Config {
    let mut config = Config::default();
    let client = &mut config.client;
    client.allow_anonymous_connect_without_token = true;
    client.token.hmac_secret_key = KEY.into();
    client.bad_token_limit = 0;
    client.ping_interval = Duration::from_millis(1700);
    client.pong_timeout = Duration::from_millis(1500);
    client.queue_max_size = *rng.pick(&[60_000, 200_000]);
    client.unanswered_limit = *rng.pick(&[4, 256]);
    client.write_delay = Duration::from_millis(*rng.pick(&[0, 0, 50]));
    let websocket = &mut config.websocket;
    websocket.message_size_limit = 16_384;
    websocket.compression = true;
    websocket.message_timeout = Duration::from_millis(2000);
    websocket.write_timeout = Duration::from_millis(2000);
    websocket.close_timeout = Duration::from_millis(800);
    let reactor = &mut config.reactor;
    reactor.command_budget = *rng.pick(&[2, 8, 64]);
    reactor.decode_budget = *rng.pick(&[500, 5000, 128 << 10]);
    reactor.reply_budget = *rng.pick(&[500, 20_000, 256 << 10]);
    reactor.signature_budget = *rng.pick(&[1, 4]);
    reactor.held_input_size = *rng.pick(&[100_000, 32 << 20]);
    reactor.fanout_queue_size = *rng.pick(&[64 << 20, 64 << 20, 2000]);
    config.http_server.handshake_timeout = Duration::from_millis(2000);
    config.shutdown.spread = Duration::from_millis(*rng.pick(&[0, 1000]));
    config.sse.enabled = true;
    config.http_stream.enabled = true;
    config.uni_websocket.enabled = true;
    config.uni_sse.enabled = true;
    config.uni_http_stream.enabled = true;
    let open = ChannelOptions {
        allow_subscribe_for_client: true,
        allow_subscribe_for_anonymous: true,
        allow_publish_for_client: true,
        allow_publish_for_anonymous: true,
        allow_history_for_client: true,
        allow_history_for_anonymous: true,
        allow_presence_for_client: true,
        allow_presence_for_anonymous: true,
        presence: true,
        ..ChannelOptions::default()
    };
    config.channel.without_namespace = ChannelOptions {
        history_size: 50,
        history_ttl: LONG,
        history_meta_ttl: LONG,
        allow_recovery: true,
        allow_positioning: true,
        batch_max_delay: Duration::from_millis(*rng.pick(&[0, 0, 200])),
        ..open.clone()
    };
    config.channel.namespaces = vec![NamespaceOptions { name: "noise".into(), options: open }];
    config
}
