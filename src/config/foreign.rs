//! F0 · Names of Centrifugo v6 that are no option here: what becomes of each, so that its files can be carried over.
//!
//! Owns one list of them and the verdict on a value: it changes nothing here, it holds here anyway, it has another
//! name, or it is refused with what to do. Centrifugo's zero values (false, 0, "", an empty list) ask for nothing
//! and pass. Never knows where a value was found; the names that are nowhere known are `unknown`'s.

use serde_json::Value as Json;

use super::go::is_zero;
use super::tree::{self, Format};
use super::value::Given;

/// What an option, or a section with all below it, means here.
#[derive(Debug, Clone, Copy)]
enum Verdict {
    /// It changes nothing, whatever its value: why.
    Idle(&'static str),
    /// A section that is off without `enabled`; what to do about one that is on.
    Switch(&'static str),
    /// The same, where clients get what they got without it: it is told and no more.
    Spare(&'static str),
    /// A section that says by its `type` where state is kept.
    Store,
    /// Not there; what to do.
    Missing(&'static str),
    /// The name that it has here.
    Renamed(&'static str),
}
use Verdict::{Idle, Missing, Renamed, Spare, Store, Switch};

/// What is to be done with a name and its value.
#[derive(Debug, Clone, PartialEq)]
pub enum Disposition {
    /// Nothing: it holds here anyway.
    Holds,
    /// It is taken, and its operator told this.
    Note(String),
    /// It is another option's name.
    Is(&'static str),
    /// It cannot be served; what is wrong with it, without its name.
    Refused(String),
}

const STORE: &str = "map subscriptions are not there yet: set type to memory, or remove the section";
const RESP3: &str = "RESP3 is spoken, which takes Redis 6.2 or later";
const REPLICA: &str = "all is read where it is written";
const TRANSPORT: &str = "set enabled to false, and let clients use websocket, sse, http_stream or one of uni_";
const MAP: &str = "only map and shared_poll subscriptions read it, and they are not there yet";
const CEL: &str = "grant by allow_ options, by the subscribe proxy, or by tokens";
const KEY_SETS: &str = "an endpoint with groups stands for the list of URLs that they can make, and for no other";
const BUFFERS: &str = "a client has no buffer of its own while it has nothing to read or to write";

const TOP: &[(&str, Verdict)] = &[
    ("engine.redis.force_resp2", Idle(RESP3)),
    ("engine.redis.replica_client", Spare(REPLICA)),
    ("broker.redis.force_resp2", Idle(RESP3)),
    ("broker.redis.replica_client", Spare(REPLICA)),
    ("broker.postgres", Idle("only broker.type postgres reads it, and that is not there yet")),
    ("presence_manager.redis.force_resp2", Idle(RESP3)),
    ("presence_manager.redis.replica_client", Spare(REPLICA)),
    ("map_broker", Store),
    ("controller", Switch("set enabled to false: nodes speak to each other by the engine")),
    ("shared_poll", Idle(MAP)),
    ("webtransport", Switch(TRANSPORT)),
    ("uni_websocket.compression", Idle("websocket.compression holds for this transport too")),
    ("uni_websocket.compression_min_size", Idle("websocket.compression_min_size holds for this transport too")),
    ("uni_websocket.compression_level", Idle("websocket.compression_level holds for this transport too")),
    ("uni_websocket.decompressed_message_size_limit", Idle("uni_websocket.message_size_limit holds inflated too")),
    ("uni_websocket.read_buffer_size", Idle(BUFFERS)),
    ("uni_websocket.write_buffer_size", Idle(BUFFERS)),
    ("uni_websocket.use_write_buffer_pool", Idle(BUFFERS)),
    ("uni_websocket.write_timeout", Idle("websocket.write_timeout holds for all transports")),
    ("uni_websocket.join_push_messages", Missing("set it to false: each push is a message of its own")),
    ("uni_websocket.disable_closing_handshake", Missing("set it to false: a close frame says why")),
    (
        "uni_websocket.disable_disconnect_push",
        Missing("set it to false: a disconnect push comes before the close frame"),
    ),
    ("admin.web_path", Idle("the page is in the program")),
    ("admin.web_proxy_address", Idle("the page is in the program")),
    ("swagger", Spare("openapi.handler_prefix describes the API")),
    ("debug", Spare("`gannet doctor` and prometheus tell how the server does")),
    ("dev.enabled", Spare("`gannet --dev` has a page to try things out, and is an insecure mode")),
    ("dev.handler_prefix", Idle("only dev.enabled reads it, and that is not there yet")),
    ("opentelemetry.google_cloud_adc_auth", Missing("set it to false: OTEL_EXPORTER_OTLP_HEADERS has credentials")),
    ("graphite", Spare("prometheus.handler_prefix has the metrics")),
    ("usage_stats", Idle("no statistics are ever sent")),
    ("enable_unreleased_features", Idle("there are none")),
    ("node.info_metrics_aggregate_interval", Idle("`info` reports the moment")),
    ("shutdown.timeout", Renamed("shutdown.deadline")),
    ("http_server.tls_autocert.http", Idle("the authority asks at the TLS port (TLS-ALPN-01)")),
    ("http_server.tls_autocert.http_addr", Idle("the authority asks at the TLS port (TLS-ALPN-01)")),
    ("http_server.h2c_external", Missing("remove it: clients connect by HTTP/1.1")),
    ("http_server.http3", Switch("set enabled to false: clients connect by HTTP/1.1")),
    ("prometheus.recovered_publications_histogram", Idle("prometheus has other metrics of recovery")),
    ("prometheus.native_histograms", Idle("histograms have buckets")),
    ("websocket.decompressed_message_size_limit", Idle("only websocket.compression reads it")),
    ("websocket.read_buffer_size", Idle(BUFFERS)),
    ("websocket.write_buffer_size", Idle(BUFFERS)),
    ("websocket.use_write_buffer_pool", Idle(BUFFERS)),
    ("client.token.insecure_skip_jwks_endpoint_safety_check", Idle(KEY_SETS)),
    ("client.subscription_token.insecure_skip_jwks_endpoint_safety_check", Idle(KEY_SETS)),
    ("client.concurrency", Idle("the commands of one client are carried out in their order")),
    ("client.channel_position_max_time_lag", Idle("publications stay in this process, and do not lag")),
    ("client.connect_code_to_disconnect", Switch("move it to client.connect_code_to_unidirectional_disconnect")),
    ("client.rate_limit.redis_user_command", Switch("limit users on each node by client.rate_limit.user_command")),
    ("client.rate_limit.ip_connect", Switch("set client.connection_limit_per_ip and client.connection_rate_limit")),
    ("client.rate_limit.client_command.disconnect_on_accounted_limit", Missing("set client.rate_limit.client_error")),
    ("client.rate_limit.client_command.map_publish", Idle(MAP)),
    ("client.rate_limit.client_command.map_remove", Idle(MAP)),
    ("client.rate_limit.client_command.track", Idle(MAP)),
    ("client.rate_limit.client_command.untrack", Idle(MAP)),
    ("client.rate_limit.user_command.map_publish", Idle(MAP)),
    ("client.rate_limit.user_command.map_remove", Idle(MAP)),
    ("client.rate_limit.user_command.track", Idle(MAP)),
    ("client.rate_limit.user_command.untrack", Idle(MAP)),
    ("channel.proxy.map_publish", Idle("no channel asks it, for what would is not there yet")),
    ("channel.proxy.map_remove", Idle("no channel asks it, for what would is not there yet")),
    ("channel.proxy.shared_poll_refresh", Idle("no channel asks it, for what would is not there yet")),
    ("channel.proxy.cache_empty", Idle("no channel asks it, for what would is not there yet")),
    ("channel.proxy.state", Idle("no channel asks it, for what would is not there yet")),
];

/// The options of a namespace, and of channel.without_namespace.
const CHANNEL: &[(&str, Verdict)] = &[
    ("map_clients_presence_channel_prefix", Missing("turn on presence, and ask for that")),
    ("map_users_presence_channel_prefix", Missing("turn on presence, and ask for that")),
    ("map", Idle(MAP)),
    ("shared_poll", Idle(MAP)),
    ("cache_empty_proxy_enabled", Missing("publish to the channel before clients subscribe")),
    ("cache_empty_proxy_name", Idle("only cache_empty_proxy_enabled reads it, and that is not there yet")),
    ("state_proxy_enabled", Missing("let clients ask the backend for the state")),
    ("state_proxy_name", Idle("only state_proxy_enabled reads it, and that is not there yet")),
    ("state_events", Missing("remove it: the backend is not told of a channel's state yet")),
    ("shared_position_sync", Idle("a position is compared with this process's own, which costs nothing")),
    ("subscribe_cel", Missing(CEL)),
    ("publish_cel", Missing(CEL)),
    ("history_cel", Missing(CEL)),
    ("presence_cel", Missing(CEL)),
    ("allow_channel_compaction", Idle("channel names are sent in full, which every client understands")),
    ("client_publish_debounce_interval", Missing("remove it, and let clients wait between publications")),
    ("keep_latest_publication", Missing("set history_size and history_ttl: deltas need the latest publication")),
];

/// The name that `name` has here: `cert_pem_file` and its like are `cert_pem`, which takes a file, too.
pub fn here(name: &str) -> &str {
    name.strip_suffix("_file").filter(|rest| rest.ends_with("_pem")).unwrap_or(name)
}

/// What becomes of the option `name`: dotted, or all underscores where the source cannot tell the two apart.
/// `None` = Centrifugo has no such option either, or it is one here.
pub fn option(name: &str, given: Given<'_>) -> Option<Disposition> {
    let channel = name.strip_prefix("channel.without_namespace.");
    match channel.or(name.strip_prefix("channel_without_namespace_")) {
        Some(key) => judge(CHANNEL, key, given),
        None => judge(TOP, name, given),
    }
}

/// The same for a key of a namespace.
pub fn channel_option(key: &str, given: Given<'_>) -> Option<Disposition> {
    judge(CHANNEL, key, given)
}

/// What is to be told of the list of namespaces, each time with the place within it. Only what the list's
/// own reading takes without a word is looked at.
pub fn namespace_notes(given: Given<'_>) -> Vec<(String, String)> {
    let tree = match given {
        Given::Tree(Json::String(text)) => tree::parse(text, Format::Json).unwrap_or_default(),
        Given::Text(text) => tree::parse(text, Format::Json).unwrap_or_default(),
        Given::Tree(tree) => tree.clone(),
    };
    let namespaces = tree.as_array().into_iter().flatten().enumerate();
    let fields = namespaces.flat_map(|(i, item)| item.as_object().into_iter().flatten().map(move |field| (i, field)));
    let note = |(index, (key, value)): (usize, (&String, &Json))| match judge(CHANNEL, key, Given::Tree(value)) {
        Some(Disposition::Note(note)) => Some((format!("[{index}].{key}"), note)),
        _ => None,
    };
    fields.filter_map(note).collect()
}

/// Whether a section of this name has options of its own here: `dev`, which is no section of ours.
pub fn is_group(name: &str) -> bool {
    TOP.iter().any(|(known, _)| known.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
}

fn judge(list: &[(&str, Verdict)], name: &str, given: Given<'_>) -> Option<Disposition> {
    let found = list.iter().filter_map(|(known, verdict)| Some((known.len(), below(name, known)?, *verdict)));
    let (_, rest, verdict) = found.max_by_key(|(length, ..)| *length)?;
    let text;
    let value = match given {
        Given::Tree(value) => value,
        Given::Text(given) => {
            text = Json::from(given);
            &text
        }
    };
    let refused = |hint: &str| {
        Disposition::Refused(format!("a Centrifugo option that this version does not support yet: {hint}"))
    };
    Some(match verdict {
        Renamed(here) => Disposition::Is(here),
        _ if is_zero(value) => Disposition::Holds,
        Idle(why) => idle(why),
        Missing(hint) => refused(hint),
        Switch(hint) | Spare(hint) => match (is_on(rest, value), verdict) {
            (Some(true), Spare(_)) => Disposition::Note(format!("is not there yet: {hint}")),
            (Some(true), _) => refused(hint),
            (Some(false), _) => Disposition::Holds,
            (None, _) => idle("what it belongs to is off, or not there yet"),
        },
        Store => match is_memory(rest, value) {
            Some(true) => idle("memory is the one kind there is yet"),
            Some(false) => refused(STORE),
            None => Disposition::Holds,
        },
    })
}

fn idle(why: &str) -> Disposition {
    Disposition::Note(format!("has no effect here: {why}"))
}

/// What follows `known` in `name`, if it is that option or one below it.
fn below<'a>(name: &'a str, known: &str) -> Option<&'a str> {
    let dotted = name.contains('.');
    let (known, boundary) = if dotted { (known.to_owned(), '.') } else { (known.replace('.', "_"), '_') };
    let rest = name.strip_prefix(&known)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix(boundary) }
}

/// Whether a section is turned on; `rest` is the place of `value` within it. `None` = it is not said.
fn is_on(rest: &str, value: &Json) -> Option<bool> {
    match value {
        _ if rest == "enabled" => Some(!is_zero(value)),
        Json::Object(fields) if rest.is_empty() => fields.get("enabled").map(|on| !is_zero(on)),
        _ if rest.is_empty() => Some(true),
        _ => None,
    }
}

/// Whether state is to be kept in memory. `None` = the section says that it is not in force, or nothing.
fn is_memory(rest: &str, value: &Json) -> Option<bool> {
    let memory = |kind: &Json| is_zero(kind) || kind == "memory";
    match (rest, value) {
        ("enabled", _) => None,
        ("type", kind) => Some(memory(kind)),
        ("", Json::Object(fields)) => {
            let off = fields.get("enabled").is_some_and(is_zero);
            let others = fields.iter().any(|(key, value)| key != "enabled" && !is_zero(value));
            // Without a type, an address of another store is there because the type comes from elsewhere.
            if off || !others { None } else { Some(fields.get("type").is_some_and(memory)) }
        }
        _ => Some(false),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, File, Warning, load, options};
    use super::*;
    use std::time::Duration;

    const JSON: &str = include_str!("../../tests/config/centrifugo.json");
    const YAML: &str = include_str!("../../tests/config/centrifugo.yaml");

    /// What `centrifugo defaultconfig` of v6.9.1 writes in each format: every section, with its defaults.
    const DEFAULTS: [(&str, &str); 3] = [
        ("defaults.json", include_str!("../../tests/config/centrifugo-defaults.json")),
        ("defaults.yaml", include_str!("../../tests/config/centrifugo-defaults.yaml")),
        ("defaults.toml", include_str!("../../tests/config/centrifugo-defaults.toml")),
    ];

    fn loaded(name: &str, text: &str) -> (Config, Vec<Warning>) {
        load(Some(File { name, text }), &[], &[]).unwrap_or_else(|errors| panic!("{errors:#?}"))
    }

    /// What is said of a JSON text: the errors, or else the warnings but for those that the defaults have too.
    fn said(text: &str) -> Vec<String> {
        let file = File { name: "c.json", text };
        match load(Some(file), &[], &[]) {
            Err(errors) => errors.iter().map(ToString::to_string).collect(),
            Ok((_, warnings)) => {
                let own = |w: &&Warning| {
                    !matches!(w.option.as_str(), "client.allowed_origins" | "client.token.hmac_secret_key")
                };
                warnings.iter().filter(own).map(|w| format!("warning: {w}")).collect()
            }
        }
    }

    #[test]
    fn a_file_of_centrifugo_loads_as_it_is() {
        let (config, warnings) = loaded("config.json", JSON);
        assert_eq!((config.clone(), warnings.clone()), loaded("config.yaml", YAML));
        assert_eq!(config.http_server.internal_port, 9000);
        assert_eq!(config.channel.history_meta_ttl, Duration::from_secs(720 * 3600));
        assert_eq!(config.shutdown.deadline, Duration::from_secs(30));
        assert!(config.client.subscribe_to_user_personal_channel.single_connection);
        let names: Vec<_> = config.channel.namespaces.iter().map(|n| n.name.as_str()).collect();
        assert_eq!(names, ["personal", "chat", "scores.live", "feed"]);
        let [_, chat, scores, feed] = &config.channel.namespaces[..] else { panic!() };
        assert_eq!(chat.options.history_ttl, Duration::from_secs(5400));
        assert_eq!(chat.options.channel_regex, "^[a-z0-9_-]+$");
        assert!(scores.options.auto_cache_recover && scores.options.delta_publish && feed.options.allow_recovery);
        assert_eq!(feed.options.history_ttl, Duration::from_secs(1800));

        let mut noted: Vec<_> = warnings.iter().map(|warning| warning.option.as_str()).collect();
        noted.sort_unstable();
        let expected = [
            "channel.namespaces[3].shared_position_sync",
            "client.concurrency",
            "node.info_metrics_aggregate_interval",
            "shutdown.timeout",
            "usage_stats",
            "websocket.read_buffer_size",
        ];
        assert_eq!(noted, expected);
    }

    #[test]
    fn the_defaults_of_centrifugo_are_those_here() {
        let mut expected = Config::default();
        expected.health.enabled = false;
        let channels = &mut expected.channel.without_namespace;
        channels.force_recovery_mode = String::new();
        channels.subscription_type = String::new();
        for name in [
            &mut channels.subscribe_proxy_name,
            &mut channels.publish_proxy_name,
            &mut channels.sub_refresh_proxy_name,
            &mut channels.subscribe_stream_proxy_name,
            &mut expected.rpc.without_namespace.proxy_name,
        ] {
            *name = "default".into();
        }
        for (name, text) in DEFAULTS {
            let (config, warnings) = loaded(name, text);
            assert_eq!(config, expected, "{name}");
            // They name values that no transport or no other store reads: nothing that is wanted is missing.
            assert!(
                warnings.iter().all(|warning| !warning.message.contains("not there yet")
                    || warning.message.starts_with("has no effect here")),
                "{name}: {warnings:#?}"
            );
            assert!(warnings.len() < 40, "{name}: {warnings:#?}");
        }
    }

    /// Each switch of Centrifugo as its file, variable and flag turn it on: what is told is the same.
    #[test]
    fn what_changes_nothing_for_clients_is_a_warning() {
        let spare = ["swagger", "debug", "dev", "graphite"];
        let idle = ["prometheus.native_histograms", "prometheus.recovered_publications_histogram"];
        let idle = idle.into_iter().chain(["uni_websocket.compression"]);
        let switches = spare.map(|section| (format!("{section}.enabled"), "is not there yet: "));
        for (name, start) in switches.into_iter().chain(idle.map(|name| (name.to_owned(), "has no effect here: "))) {
            let (section, key) = name.split_once('.').expect("a section");
            let file = format!("{{\"{section}\":{{\"{key}\":true}}}}");
            let (_, warnings) = loaded("c.json", &file);
            let told = warnings.iter().find(|warning| name.starts_with(&warning.option)).expect("a warning");
            assert!(told.message.starts_with(start), "{told}");
            for (value, count) in [("true", 1), ("1", 1), ("false", 0), ("0", 0)] {
                let variable = ("GANNET_".to_owned() + &name.to_uppercase().replace('.', "_"), value.to_owned());
                let flag = (name.clone(), value.to_owned());
                for (env, flags) in [(&[variable][..], &[][..]), (&[], &[flag])] {
                    let (_, warnings) = load(None, env, flags).expect("taken");
                    let told = warnings.iter().filter(|warning| warning.message.starts_with(start)).count();
                    assert_eq!(told, count, "{env:?} {flags:?}: {warnings:#?}");
                }
            }
        }
        let refused = load(None, &[], &[("webtransport.enabled".to_owned(), "true".to_owned())]);
        assert!(refused.is_err());
    }

    #[test]
    fn what_is_not_here_is_refused_with_what_to_do() {
        let table = [
            (r#"{"controller":{"enabled":true}}"#, "controller", "nodes speak to each other by the engine"),
            (r#"{"map_broker":{"type":"postgres"}}"#, "map_broker", "set type to memory"),
            (r#"{"webtransport":{"enabled":true}}"#, "webtransport", "let clients use websocket"),
            (
                r#"{"client":{"rate_limit":{"ip_connect":{"enabled":true}}}}"#,
                "client.rate_limit.ip_connect",
                "client.connection_limit_per_ip",
            ),
            (
                r#"{"channel":{"without_namespace":{"subscribe_cel":"true"}}}"#,
                "channel.without_namespace.subscribe_cel",
                "grant by allow_ options",
            ),
            (
                r#"{"channel":{"namespaces":[{"name":"aa","keep_latest_publication":true}]}}"#,
                "channel.namespaces[0].keep_latest_publication",
                "set history_size",
            ),
        ];
        for (text, name, hint) in table {
            let lines = said(text);
            let start = format!("c.json: {name}: a Centrifugo option that this version does not support yet: ");
            assert!(lines.len() == 1 && lines[0].starts_with(&start) && lines[0].contains(hint), "{lines:?}");
        }
    }

    #[test]
    fn what_asks_for_nothing_passes() {
        let silent = [
            r#"{"webtransport":{"enabled":false,"handler_prefix":"/w"},"consumers":[],"rpc":{}}"#,
            r#"{"http_server":{"internal_port":"","tls_autocert":{"enabled":false,"cache_dir":"x"},"h2c_external":false}}"#,
            r#"{"broker":{"enabled":false,"type":"redis"},"presence_manager":{"enabled":true},"engine":{}}"#,
            r#"{"dev":{"enabled":false},"consumers":[{"name":"k1","enabled":false,"type":"kafka"}]}"#,
            r#"{"channel":{"namespace_boundary":":"},"client":{"concurrency":0}}"#,
            r#"{"channel":{"namespaces":[{"name":"aa","subscribe_stream_proxy_enabled":false,"map":{"mode":""}}]}}"#,
        ];
        for text in silent {
            assert_eq!(said(text), Vec::<String>::new(), "{text}");
        }
        let noted = [
            (
                r#"{"webtransport":{"handler_prefix":"/w"}}"#,
                "webtransport: has no effect here: what it belongs to is off, or not there yet",
            ),
            (
                r#"{"websocket":{"use_write_buffer_pool":true}}"#,
                "websocket.use_write_buffer_pool: has no effect here: a",
            ),
            (
                r#"{"engine":{"redis":{"force_resp2":true}}}"#,
                "engine.redis.force_resp2: has no effect here: RESP3 is spoken, which takes Redis 6.2 or later",
            ),
            (
                r#"{"engine":{"redis":{"replica_client":{"enabled":true}}}}"#,
                "engine.redis.replica_client: is not there yet: all is read where it is written",
            ),
            (r#"{"shutdown":{"timeout":"10s"}}"#, "shutdown.timeout: is read as shutdown.deadline"),
            (
                r#"{"channel":{"namespaces":[{"name":"aa","cache_empty_proxy_name":"default"}]}}"#,
                "channel.namespaces[0].cache_empty_proxy_name: has no effect here: only",
            ),
        ];
        for (text, start) in noted {
            let lines = said(text);
            assert!(lines.len() == 1 && lines[0].starts_with(&format!("warning: {start}")), "{lines:?}");
        }
    }

    #[test]
    fn variables_and_flags_are_judged_alike() {
        let text = |name: &str, value: &str| option(name, Given::Text(value));
        let refused = |outcome: Option<Disposition>| matches!(outcome, Some(Disposition::Refused(_)));
        for (name, value) in [
            ("map_broker_type", "redis"),
            ("map_broker.type", "redis"),
            ("map_broker", "redis"),
            ("map_broker_redis_address", "a:1"),
            ("webtransport_enabled", "true"),
            ("channel_without_namespace_subscribe_cel", "true"),
            ("channel.without_namespace.state_events", "[\"a\"]"),
        ] {
            assert!(refused(text(name, value)), "{name}");
        }
        for (name, value) in [("webtransport.enabled", "false"), ("map_broker_enabled", "true")] {
            assert_eq!(text(name, value), Some(Disposition::Holds), "{name}");
        }
        for (name, value) in
            [("map_broker_type", "memory"), ("webtransport_session_limit", "x"), ("usage_stats.disabled", "true")]
        {
            assert!(matches!(text(name, value), Some(Disposition::Note(_))), "{name}");
        }
        assert_eq!(text("shutdown_timeout", "1s"), Some(Disposition::Is("shutdown.deadline")));
        for unknown in ["colour", "engines", "client.ping", "channel.without_namespace.colour", "websocket"] {
            assert_eq!(text(unknown, "x"), None, "{unknown}");
        }
    }

    #[test]
    fn every_name_is_told_with_a_reason_or_a_hint() {
        for (name, verdict) in TOP.iter().chain(CHANNEL) {
            let (Idle(words) | Switch(words) | Spare(words) | Missing(words) | Renamed(words)) = verdict else {
                continue;
            };
            assert!(words.len() > 12 && !words.ends_with('.'), "{name}: {words}");
        }
        for (_, verdict) in TOP {
            let Renamed(here) = verdict else { continue };
            assert!(options().iter().any(|option| option.name == *here), "{here}");
        }
    }

    #[test]
    fn no_name_is_both_ours_and_foreign() {
        for ours in options() {
            assert_eq!(option(&ours.name, Given::Text("x")), None, "{}", ours.name);
            let key = ours.name.strip_prefix("channel.without_namespace.");
            assert_eq!(key.and_then(|key| channel_option(key, Given::Text("x"))), None, "{}", ours.name);
        }
        let mut names: Vec<_> = TOP.iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "a name stands twice");
    }
}
