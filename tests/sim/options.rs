//! What one seed simulates: sizes, limits and habits, drawn so that small limits are met often.

use crate::rng::Rng;
use gannet::base::wheel::ticks;
use gannet::config::{ChannelOptions, Config, NamespaceOptions};
use gannet::session::Rules;
use std::sync::Arc;
use std::time::Duration;

/// Seconds since 1970 at the beginning.
pub const BEGAN_S: u64 = 1_800_000_000;
pub const KEY: &str = "a key for simulated tokens";
pub const CHANNELS: [&str; 6] = ["a", "b", "c", "room:1", "room:2", "mute:1"];
pub const USERS: [&str; 4] = ["", "ann", "bob", "cyd"];

pub struct Options {
    pub reactors: u16,
    pub clients: usize,
    pub rounds: usize,
    pub ticks_per_round: usize,
    /// Channels in use: the first so many of [`CHANNELS`].
    pub channels: usize,
    pub mailbox_len: usize,
    pub mail_delay: usize,
    pub net_delay: usize,
    /// Bytes between the server and a client.
    pub room: usize,
    pub outbox_bytes_max: usize,
    pub message_bytes_max: usize,
    pub fanout_slice: usize,
    /// In a hundred: how often a client does something in a step, and the backend.
    pub client_busy: usize,
    pub backend_busy: usize,
    /// In a hundred: how often what is done is a fault.
    pub faults: usize,
    /// Bytes of padding in publications, at most.
    pub pad: usize,
    pub close_ticks: u32,
    pub spread_ticks: u32,
    pub config: Config,
    pub rules: Arc<Rules>,
}

impl Options {
    pub fn new(rng: &mut Rng) -> Options {
        let config = config(rng);
        let rules = Arc::new(Rules::new(&config).expect("rules"));
        let heavy = rng.chance(25);
        Options {
            reactors: rng.within(1, 4) as u16,
            clients: rng.within(3, 16),
            rounds: rng.within(1, 3),
            ticks_per_round: rng.within(40, 110),
            channels: rng.within(1, CHANNELS.len()),
            mailbox_len: *rng.pick(&[usize::MAX, usize::MAX, 40, 6]),
            mail_delay: *rng.pick(&[1, 3, 10]),
            net_delay: *rng.pick(&[1, 3, 8]),
            room: *rng.pick(&[300, 4000, 64_000]),
            outbox_bytes_max: config.client.queue_max_size,
            message_bytes_max: config.websocket.message_size_limit,
            fanout_slice: *rng.pick(&[1, 2, 3, 1024]),
            client_busy: *rng.pick(&[5, 15, 30]),
            backend_busy: *rng.pick(&[10, 40, 90]),
            faults: *rng.pick(&[0, 3, 12]),
            pad: if heavy { 1200 } else { 20 },
            close_ticks: ticks(config.websocket.close_timeout),
            spread_ticks: ticks(config.shutdown.spread),
            config,
            rules,
        }
    }
}

impl Options {
    /// Ticks after which a node that is told to leave has left.
    pub fn leaving_ticks(&self) -> u32 {
        self.spread_ticks + self.close_ticks + self.mail_delay as u32 + 4
    }
}

fn config(rng: &mut Rng) -> Config {
    let mut config = Config::default();
    let client = &mut config.client;
    client.insecure = rng.chance(25);
    client.allow_anonymous_connect_without_token = rng.chance(60);
    client.disallow_anonymous_connection_tokens = rng.chance(30);
    client.token.hmac_secret_key = KEY.into();
    client.ping_interval = Duration::from_millis(*rng.pick(&[1000, 2300, 6000]));
    let pong = *rng.pick(&[0, 300, 900, 900]);
    client.pong_timeout = Duration::from_millis(pong);
    client.stale_close_delay = Duration::from_millis(*rng.pick(&[500, 2000]));
    client.expired_close_delay = Duration::from_millis(*rng.pick(&[0, 1000]));
    client.channel_limit = *rng.pick(&[1, 3, 128]);
    client.queue_max_size = *rng.pick(&[3000, 20_000, 1 << 20]);
    client.connect_include_server_time = rng.chance(50);
    config.channel.max_length = 40;
    config.websocket.message_size_limit = 4096;
    config.websocket.close_timeout = Duration::from_millis(800);
    config.shutdown.spread = Duration::from_millis(*rng.pick(&[0, 300, 1500]));
    config.client.unanswered_limit = *rng.pick(&[64, 64, 3, 1]);
    config.reactor.command_budget = *rng.pick(&[64, 64, 2, 1]);
    config.reactor.decode_budget = *rng.pick(&[1 << 20, 100]);
    config.reactor.reply_budget = *rng.pick(&[1 << 20, 60]);
    config.reactor.fanout_queue_size = *rng.pick(&[64 << 20, 64 << 20, 600]);
    let open = ChannelOptions {
        allow_subscribe_for_client: true,
        allow_subscribe_for_anonymous: true,
        allow_publish_for_client: true,
        allow_publish_for_anonymous: true,
        ..ChannelOptions::default()
    };
    let room = ChannelOptions {
        allow_subscribe_for_client: true,
        allow_publish_for_subscriber: true,
        ..ChannelOptions::default()
    };
    let namespace = |name: &str, options| NamespaceOptions { name: name.into(), options };
    config.channel.without_namespace = open;
    config.channel.namespaces = vec![namespace("room", room), namespace("mute", ChannelOptions::default())];
    config
}
