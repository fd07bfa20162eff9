//! F4 · What the configuration means to a session: permissions, limits and deadlines, flattened once at start.

use crate::auth::Verifier;
use crate::config::{ChannelOptions, Config};
use crate::wheel::{TICK_MS, Tick, ticks};
use std::collections::HashMap;

/// Shared by all sessions of a node, never changed.
pub struct Rules {
    pub verifier: Verifier,
    pub insecure: bool,
    pub allow_anonymous: bool,
    pub refuse_anonymous_tokens: bool,
    pub include_time: bool,
    pub channel_limit: usize,
    pub channel_length_max: usize,
    /// Ticks between pings.
    pub ping_interval: Tick,
    /// The same in seconds, as the client is told: at least 1, for 0 would end its own watch.
    pub ping_seconds: u32,
    /// Ticks a pong may take; `None` = not asked for.
    pub pong_timeout: Option<Tick>,
    pub stale_delay: Tick,
    /// Milliseconds past a token's expiry.
    pub expired_delay_ms: u64,
    /// Bytes that may wait in a hub before it takes no more publications.
    pub fanout_queue_bytes_max: usize,
    without_namespace: ChannelOptions,
    namespaces: HashMap<String, ChannelOptions>,
}

/// Pings as WebSocket frames (`cf_ws_frame_ping_pong`): their pong may take 10 s.
pub const FRAME_PONG_TIMEOUT: Tick = (10_000 / TICK_MS) as Tick;

impl Rules {
    pub fn new(config: &Config) -> Rules {
        let client = &config.client;
        Rules {
            verifier: Verifier::new(&client.token, client.insecure_skip_token_signature_verify)
                .expect("a configuration that has passed its check"),
            insecure: client.insecure,
            allow_anonymous: client.allow_anonymous_connect_without_token,
            refuse_anonymous_tokens: client.disallow_anonymous_connection_tokens,
            include_time: client.connect_include_server_time,
            channel_limit: client.channel_limit.min(usize::from(u16::MAX)),
            channel_length_max: config.channel.max_length,
            ping_interval: ticks(client.ping_interval),
            ping_seconds: client.ping_interval.as_secs().max(1) as u32,
            pong_timeout: (!client.pong_timeout.is_zero()).then(|| ticks(client.pong_timeout)),
            stale_delay: ticks(client.stale_close_delay),
            expired_delay_ms: client.expired_close_delay.as_millis() as u64,
            fanout_queue_bytes_max: config.reactor.fanout_queue_size,
            without_namespace: config.channel.without_namespace.clone(),
            namespaces: config.channel.namespaces.iter().map(|n| (n.name.clone(), n.options.clone())).collect(),
        }
    }

    /// The options of `channel`: of the namespace before its first `:` (after a `$`), or of those without one.
    /// `None` = no such namespace.
    pub fn channel(&self, channel: &str) -> Option<&ChannelOptions> {
        let public = channel.strip_prefix('$').unwrap_or(channel);
        match public.split_once(':') {
            Some((namespace, _)) => self.namespaces.get(namespace),
            None => Some(&self.without_namespace),
        }
    }
}
