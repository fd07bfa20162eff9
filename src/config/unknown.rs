//! F0 · What to say of a name that is no option.
//!
//! Owns the search for the nearest valid name and the list of Centrifugo v6 names that mean something
//! there and nothing here yet, so that a configuration carried over is told the truth.
//! Never knows where the name was found.

use super::ChannelOptions;
use super::registry::{self, Item, Meta, Visitor};
use super::value::Value;

/// Options of Centrifugo v6, and whole sections of it: a name covers those below it.
const CENTRIFUGO: &[&str] = &[
    "engine",
    "broker",
    "presence_manager",
    "map_broker",
    "shared_poll",
    "rpc",
    "proxies",
    "grpc_api",
    "consumers",
    "sse",
    "http_stream",
    "webtransport",
    "uni_sse",
    "uni_http_stream",
    "uni_websocket",
    "uni_grpc",
    "emulation",
    "admin",
    "swagger",
    "debug",
    "init",
    "opentelemetry",
    "graphite",
    "usage_stats",
    "pid_file",
    "enable_unreleased_features",
    "log.file",
    "node.info_metrics_aggregate_interval",
    "shutdown.timeout",
    "http_server.tls",
    "http_server.tls_autocert",
    "http_server.tls_external",
    "http_server.internal_tls",
    "http_server.h2c_external",
    "http_server.http3",
    "websocket.disabled",
    "websocket.read_buffer_size",
    "websocket.write_buffer_size",
    "websocket.use_write_buffer_pool",
    "http_api.disabled",
    "http_api.error_mode",
    "http_api.external",
    "client.proxy",
    "client.expired_sub_close_delay",
    "client.presence_update_interval",
    "client.concurrency",
    "client.channel_position_check_delay",
    "client.channel_position_max_time_lag",
    "client.user_connection_limit",
    "client.history_max_publication_limit",
    "client.recovery_max_publication_limit",
    "client.user_id_http_header",
    "client.subscribe_to_user_personal_channel",
    "client.connect_code_to_unidirectional_disconnect",
    "client.connect_code_to_disconnect",
    "client.token.insecure_skip_jwks_endpoint_safety_check",
    "client.subscription_token.insecure_skip_jwks_endpoint_safety_check",
    "channel.namespace_boundary",
    "channel.user_boundary",
    "channel.user_separator",
    "channel.private_prefix",
    "channel.history_meta_ttl",
    "channel.proxy",
];

/// The same for the options of a namespace and of `channel.without_namespace`.
const CENTRIFUGO_CHANNEL: &[&str] = &[
    "presence",
    "join_leave",
    "force_push_join_leave",
    "map_clients_presence_channel_prefix",
    "map_users_presence_channel_prefix",
    "history_size",
    "history_ttl",
    "history_meta_ttl",
    "force_positioning",
    "allow_positioning",
    "force_recovery",
    "allow_recovery",
    "force_recovery_mode",
    "auto_cache_recover",
    "allowed_delta_types",
    "delta_publish",
    "allow_tags_filter",
    "publication_data_format",
    "allow_presence_for_client",
    "allow_presence_for_subscriber",
    "allow_presence_for_anonymous",
    "allow_history_for_client",
    "allow_history_for_subscriber",
    "allow_history_for_anonymous",
    "allow_user_limited_channels",
    "channel_regex",
    "subscribe_proxy_enabled",
    "subscribe_proxy_name",
    "publish_proxy_enabled",
    "publish_proxy_name",
    "sub_refresh_proxy_enabled",
    "sub_refresh_proxy_name",
    "subscribe_stream_proxy_enabled",
    "subscribe_stream_proxy_name",
    "subscribe_stream_proxy_bidirectional",
    "subscription_type",
    "map",
    "shared_poll",
    "cache_empty_proxy_enabled",
    "cache_empty_proxy_name",
    "state_proxy_enabled",
    "state_proxy_name",
    "state_events",
    "shared_position_sync",
    "subscribe_cel",
    "publish_cel",
    "history_cel",
    "presence_cel",
    "batch_max_size",
    "batch_max_delay",
    "batch_flush_latest",
    "allow_channel_compaction",
    "client_publish_debounce_interval",
    "keep_latest_publication",
];

/// Centrifugo's name for what has another name here.
const RENAMED: &[(&str, &str)] = &[("shutdown.timeout", "shutdown.deadline"), ("dev.enabled", "dev")];

/// How alike two names must be, of 1, for the one to be offered in place of the other.
const CLOSE: f64 = 0.7;
/// The same for a name that Centrifugo has: it was probably meant.
const VERY_CLOSE: f64 = 0.9;

/// One line on a name that is no option. `spell` writes an option the way the source at hand does:
/// `client.ping_interval`, `GANNET_CLIENT_PING_INTERVAL` or `--client.ping_interval`. `name` is without
/// such dress: dotted, or all underscores where the source cannot tell the two apart.
pub fn option(name: &str, spelled: &str, spell: impl Fn(&str) -> String) -> String {
    let options = registry::options();
    let candidates: Vec<&str> = options.iter().map(|option| option.name.as_str()).collect();
    if let Some((_, here)) = RENAMED.iter().find(|(there, _)| plain(there) == plain(name)) {
        return format!("unknown option {spelled}; here it is {}", spell(here));
    }
    let channel = name.strip_prefix("channel.without_namespace.");
    let channel = channel.or(name.strip_prefix("channel_without_namespace_"));
    let foreign = match channel {
        Some(key) => is_below(key, CENTRIFUGO_CHANNEL),
        None => is_below(name, CENTRIFUGO),
    };
    let near = nearest(name, &candidates, if foreign { VERY_CLOSE } else { CLOSE }).map(spell);
    if foreign {
        let text = format!("{spelled} is a Centrifugo option that this version does not support yet");
        return near.map_or(text.clone(), |near| format!("{text}; did you mean {near}?"));
    }
    match near {
        Some(near) => format!("unknown option {spelled}; did you mean {near}?"),
        None => format!("unknown option {spelled}; `gannet config` prints those there are"),
    }
}

/// The same for a key of a namespace. What is wrong with it, without its name.
pub fn channel_option(key: &str) -> String {
    struct Names(Vec<String>);
    impl Visitor for Names {
        fn option(&mut self, meta: Meta<'_>, _: &mut dyn Value) {
            self.0.push(meta.name.to_owned());
        }
    }
    let mut names = Names(vec!["name".to_owned()]);
    let mut options = ChannelOptions::default();
    let rule = super::value::Rule::Any;
    options.visit(Meta { name: "", about: "", rule }, &mut names);
    if is_below(key, CENTRIFUGO_CHANNEL) {
        return "a Centrifugo option that this version does not support yet".into();
    }
    let candidates: Vec<&str> = names.0.iter().map(String::as_str).collect();
    match nearest(key, &candidates, CLOSE) {
        Some(near) => format!("unknown option; did you mean {near}?"),
        None => format!("unknown option; a namespace has {}", candidates.join(", ")),
    }
}

/// All underscores, lower case: what is left when the three ways to write a name are put aside.
fn plain(name: &str) -> String {
    name.to_ascii_lowercase().replace(['.', '-'], "_")
}

/// Whether `name` is in `list` or below one that is. A name without dots has underscores in their place.
fn is_below(name: &str, list: &[&str]) -> bool {
    let dotted = name.contains('.');
    list.iter().any(|known| {
        let (known, boundary) = if dotted { ((*known).to_owned(), '.') } else { (plain(known), '_') };
        name.strip_prefix(&known).is_some_and(|rest| rest.is_empty() || rest.starts_with(boundary))
    })
}

/// The candidate that was probably meant: one whose end it is (`ping_interval`), the same key in another
/// section, or the one most alike, if it is alike enough.
fn nearest<'a>(name: &str, candidates: &[&'a str], enough: f64) -> Option<&'a str> {
    let wanted = plain(name);
    let ends = candidates.iter().filter(|c| format!("_{}", plain(c)).ends_with(&format!("_{wanted}")));
    if let Some(shortest) = ends.min_by_key(|c| c.len()) {
        return Some(shortest);
    }
    let key = |dotted: &str| dotted.rsplit('.').next().unwrap_or(dotted).to_owned();
    let score = |candidate: &str| {
        let alike = strsim::normalized_damerau_levenshtein(&wanted, &plain(candidate));
        let moved = name.contains('.') && key(name) == key(candidate);
        if moved { alike + 0.2 } else { alike }
    };
    let best = candidates.iter().max_by(|a, b| score(a).total_cmp(&score(b)))?;
    (score(best) >= enough).then_some(*best)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(name: &str) -> String {
        option(name, name, str::to_owned)
    }

    #[test]
    fn the_nearest_name_is_offered() {
        let meant = [
            ("client.ping_intervall", "client.ping_interval"),
            ("client_ping_intervall", "client.ping_interval"),
            ("client.ping-interval", "client.ping_interval"),
            ("ping_interval", "client.ping_interval"),
            ("websocket.ping_interval", "client.ping_interval"),
            ("port", "http_server.port"),
            ("http_server.prot", "http_server.port"),
            ("token_hmac_secret_key", "client.token.hmac_secret_key"),
            ("allowed_origins", "client.allowed_origins"),
            ("reactor", "reactors"),
            ("promethius.enabled", "prometheus.enabled"),
        ];
        for (wrong, right) in meant {
            assert_eq!(say(wrong), format!("unknown option {wrong}; did you mean {right}?"));
        }
        assert!(say("colour").starts_with("unknown option colour; `gannet config`"));
    }

    #[test]
    fn what_centrifugo_has_is_named_as_such() {
        let foreign = [
            "engine",
            "engine.type",
            "admin.enabled",
            "client.proxy.connect.endpoint",
            "client.history_max_publication_limit",
            "channel.without_namespace.history_size",
            "channel_without_namespace_presence",
            "client_proxy_connect_endpoint",
            "http_server.tls.enabled",
        ];
        for name in foreign {
            let text = say(name);
            assert!(text.starts_with(&format!("{name} is a Centrifugo option that this version")), "{text}");
        }
        assert_eq!(say("shutdown.timeout"), "unknown option shutdown.timeout; here it is shutdown.deadline");
        assert!(channel_option("history_size").contains("Centrifugo"));
        assert!(channel_option("allow_subscribe").contains("unknown option"));
        assert!(channel_option("allow_publish_for_clients").contains("did you mean allow_publish_for_client?"));
    }

    #[test]
    fn no_name_is_both_ours_and_foreign() {
        for ours in registry::options() {
            assert!(!is_below(&ours.name, CENTRIFUGO), "{}", ours.name);
        }
    }
}
