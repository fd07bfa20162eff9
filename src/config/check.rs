//! F0 · Whether the values make sense, each alone and together.
//!
//! Owns the ranges' enforcement, the rules between options, the warnings about insecure settings, and
//! what `dev` changes. Never knows where a value came from: a problem names its option, and `load` adds
//! the source. Whether an address can be bound is found out by binding it.

use std::collections::BTreeSet;
use std::fmt;

use super::channel;
use super::list::header_fault;
use super::registry::{self, Meta, Visit, Visitor};
use super::value::{Value, show_duration};
use super::{ChannelOptions, Config, ConfigError, ListenAddress, fit};
use std::time::Duration;

/// A setting that works but that its operator should know about.
#[derive(Debug, Clone, PartialEq)]
pub struct Warning {
    pub option: String,
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.option, self.message)
    }
}

/// A setting that cannot be served.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    /// The option's name; `at` is the place within it (`[0].name`), mostly empty.
    pub option: String,
    pub at: String,
    pub message: String,
}

fn problem(option: &str, message: impl Into<String>) -> Problem {
    let (option, at) = (option.to_owned(), String::new());
    Problem { option, at, message: message.into() }
}

/// Where options of channels stand. A namespace is told by its name, which is unique, rather than by its number.
#[derive(Clone, Copy)]
pub(super) enum At<'a> {
    WithoutNamespace,
    Namespace(&'a str),
}

impl At<'_> {
    pub(super) fn problem(self, (key, message): (&str, String)) -> Problem {
        match self {
            At::WithoutNamespace => problem(&format!("channel.without_namespace.{key}"), message),
            At::Namespace(name) => {
                Problem { at: format!("[{name:?}].{key}"), ..problem("channel.namespaces", message) }
            }
        }
    }
}

/// What `dev` turns on, besides each permission of `channel.without_namespace`.
const DEV_ON: &[&str] = &[
    "client.insecure",
    "http_api.insecure",
    "prometheus.enabled",
    "health.enabled",
    "channel.without_namespace.presence",
    "channel.without_namespace.join_leave",
];
/// The history that there is with `dev`, if nothing is said of it.
const DEV_HISTORY: (usize, Duration) = (100, Duration::from_secs(600));

impl Config {
    /// For a configuration made in code; what [`super::load`] gives has passed.
    pub fn check(&self) -> Result<Vec<Warning>, Vec<ConfigError>> {
        let mut problems = self.check_each();
        problems.extend(self.check_together());
        if problems.is_empty() {
            return Ok(self.warnings());
        }
        Err(problems.into_iter().map(ConfigError::from).collect())
    }

    /// What `dev: true` means: loopback only, no token and no key needed, every permission, presence, some history,
    /// health and metrics. An option for which `is_set` holds was set by the operator and stays; an address that is
    /// not loopback is not corrected here but refused by `check`.
    pub fn apply_dev(&mut self, is_set: &dyn Fn(&str) -> bool) {
        struct TurnOn<'a>(&'a dyn Fn(&str) -> bool);
        impl Visitor for TurnOn<'_> {
            fn option(&mut self, meta: Meta<'_>, value: &mut dyn Value) {
                let permission = meta.name.strip_prefix("channel.without_namespace.allow_");
                let dev = DEV_ON.contains(&meta.name) || permission.is_some_and(|rest| rest.contains("_for_"));
                if dev && !(self.0)(meta.name) {
                    let yes = serde_json::Value::Bool(true);
                    // Each of them is a bool, so this cannot be refused; a test holds it.
                    let _ = value.read(super::value::Given::Tree(&yes), meta.rule);
                }
            }
        }
        if self.http_server.address.is_empty() {
            self.http_server.address = "127.0.0.1".into();
        }
        registry::walk(self, "", &mut TurnOn(is_set));
        let is_free = !["size", "ttl"].iter().any(|key| is_set(&format!("channel.without_namespace.history_{key}")));
        // NATS keeps none.
        if is_free && self.engine_kind() != "nats" {
            let channel = &mut self.channel.without_namespace;
            (channel.history_size, channel.history_ttl) = DEV_HISTORY;
        }
    }

    /// Each option against its own rule.
    pub(super) fn check_each(&self) -> Vec<Problem> {
        struct Judge(Vec<Problem>);
        impl Visitor for Judge {
            fn option(&mut self, meta: Meta<'_>, value: &mut dyn Value) {
                self.0.extend(value.judge(meta.rule).map(|message| problem(meta.name, message)));
            }
        }
        let mut judge = Judge(Vec::new());
        let whole: &mut dyn Visit = &mut self.clone();
        registry::walk(whole, "", &mut judge);
        judge.0.extend(self.check_addresses());
        judge.0.extend(self.check_origins());
        let unsendable = self.api_keys().into_iter().map(|(option, key)| (option, fit::unsendable(key)));
        judge.0.extend(unsendable.filter_map(|(option, message)| Some(problem(option, message?))));
        judge.0.extend(self.check_namespaces());
        judge.0.extend(self.client.token_faults().into_iter().map(|(option, text)| problem(&option, text)));
        for (at, options) in self.channels() {
            judge.0.extend(channel::unfit(options).into_iter().map(|finding| at.problem(finding)));
        }
        judge.0
    }

    /// The rules between options.
    pub(super) fn check_together(&self) -> Vec<Problem> {
        let mut problems = self.check_prefixes();
        problems.extend(self.check_backend());
        problems.extend(self.check_engines());
        problems.extend(self.check_consumers());
        problems.extend(self.check_kafka_log());
        problems.extend(self.check_opentelemetry());
        problems.extend(self.check_durable());
        problems.extend(self.check_tls());
        problems.extend(self.check_connect_codes());
        problems.extend(self.check_lines());
        problems.extend(self.check_rate_limits());
        problems.extend(self.check_user_header());
        for (at, options) in self.channels() {
            let clashes = channel::clashes(options, self.channel.history_meta_ttl);
            problems.extend(clashes.into_iter().map(|finding| at.problem(finding)));
        }
        problems.extend(self.check_personal_channel());
        let client = &self.client;
        if client.pong_timeout >= client.ping_interval {
            let (pong, ping) = (show_duration(client.pong_timeout), show_duration(client.ping_interval));
            let message = format!("expected less than client.ping_interval, which is {ping}; got {pong}");
            problems.push(problem("client.pong_timeout", message));
        }
        let server = &self.http_server;
        problems.extend(self.check_ports());
        if server.share_port && server.steering == "cpu" {
            let message = "expected hash with http_server.share_port: the kernel would count the other process's \
                           listeners among the reactors of this one; got \"cpu\"";
            problems.push(problem("http_server.steering", message));
        }
        if self.dev {
            let both = [("address", &server.address), ("internal_address", &server.internal_address)];
            for (key, address) in both.into_iter().filter(|(_, address)| !address.is_empty()) {
                if !is_loopback(address) {
                    let message = format!("with dev, expected loopback (127.0.0.1 or empty); got {address:?}");
                    problems.push(problem(&format!("http_server.{key}"), message));
                }
            }
        }
        problems
    }

    fn api_keys(&self) -> [(&'static str, &str); 2] {
        [("http_api.key", &self.http_api.key), ("grpc_api.key", &self.grpc_api.key)]
    }

    fn check_origins(&self) -> Vec<Problem> {
        let globs = self.client.allowed_origins.iter().enumerate();
        let bad = globs.filter_map(|(index, text)| Some((index, globset::Glob::new(text).err()?)));
        bad.map(|(index, error)| {
            let message = format!("expected a glob such as \"https://*.example.com\"; {error}");
            Problem { at: format!("[{index}]"), ..problem("client.allowed_origins", message) }
        })
        .collect()
    }

    /// Names, and each option of a namespace against its own rule.
    fn check_namespaces(&self) -> Vec<Problem> {
        struct Judge<'a>(&'a str, Vec<Problem>);
        impl Visitor for Judge<'_> {
            fn option(&mut self, meta: Meta<'_>, value: &mut dyn Value) {
                let at = At::Namespace(self.0);
                self.1.extend(value.judge(meta.rule).map(|message| at.problem((meta.name, message))));
            }
        }
        let mut seen = BTreeSet::new();
        let mut problems = Vec::new();
        for (index, namespace) in self.channel.namespaces.iter().enumerate() {
            let name = &namespace.name;
            let mut judge = Judge(name, Vec::new());
            registry::walk(&mut namespace.options.clone(), "", &mut judge);
            problems.append(&mut judge.1);
            let boundary = &self.channel.namespace_boundary;
            let message = if !is_namespace_name(name) {
                format!("expected two or more of a-z A-Z 0-9 - _ and '.'; got {name:?}")
            } else if !boundary.is_empty() && name.contains(boundary.as_str()) {
                format!("expected no channel.namespace_boundary in it, which is {boundary:?}; got {name:?}")
            } else if !seen.insert(name) {
                format!("expected a name of its own; there is another {name:?}")
            } else {
                continue;
            };
            let at = format!("[{index}].name");
            problems.push(Problem { at, ..problem("channel.namespaces", message) });
        }
        problems
    }

    /// All options of channels, with their place.
    pub(super) fn channels(&self) -> impl Iterator<Item = (At<'_>, &ChannelOptions)> {
        let named = self.channel.namespaces.iter();
        let named = named.map(|namespace| (At::Namespace(&namespace.name), &namespace.options));
        std::iter::once((At::WithoutNamespace, &self.channel.without_namespace)).chain(named)
    }

    fn check_personal_channel(&self) -> Option<Problem> {
        let personal = &self.client.subscribe_to_user_personal_channel;
        let name = &personal.personal_channel_namespace;
        let known = name.is_empty() || self.channel.namespaces.iter().any(|namespace| namespace.name == *name);
        let option = "client.subscribe_to_user_personal_channel.personal_channel_namespace";
        let message = format!("expected a name in channel.namespaces, or nothing; got {name:?}");
        (personal.enabled && !known).then(|| problem(option, message))
    }

    /// The header that is believed is one that a proxy can set, and that no client is asked to send on.
    fn check_user_header(&self) -> Option<Problem> {
        let name = &self.client.user_id_http_header;
        let why = header_fault(name).filter(|_| !name.is_empty())?;
        Some(problem("client.user_id_http_header", format!("expected the name of a header; {why}")))
    }

    /// Two endpoints at one path, or one below the other: one of them would never be reached.
    fn check_prefixes(&self) -> Vec<Problem> {
        let endpoints = [
            ("websocket", &self.websocket.handler_prefix, !self.websocket.disabled),
            ("sse", &self.sse.handler_prefix, self.sse.enabled),
            ("http_stream", &self.http_stream.handler_prefix, self.http_stream.enabled),
            ("emulation", &self.emulation.handler_prefix, self.has_emulation()),
            ("uni_websocket", &self.uni_websocket.handler_prefix, self.uni_websocket.enabled),
            ("uni_sse", &self.uni_sse.handler_prefix, self.uni_sse.enabled),
            ("uni_http_stream", &self.uni_http_stream.handler_prefix, self.uni_http_stream.enabled),
            ("http_api", &self.http_api.handler_prefix, !self.http_api.disabled),
            ("openapi", &self.openapi.handler_prefix, self.openapi.enabled),
            ("health", &self.health.handler_prefix, self.health.enabled),
            ("prometheus", &self.prometheus.handler_prefix, self.prometheus.enabled),
            ("admin", &self.admin.handler_prefix, self.admin.enabled),
            ("init", &self.init.handler_prefix, self.init.enabled),
            ("echo", &self.echo.handler_prefix, self.echo.enabled),
        ];
        let mut problems = Vec::new();
        for (index, (section, path, enabled)) in endpoints.iter().enumerate() {
            let earlier = endpoints[..index].iter().find(|(_, other, on)| *on && is_within(path, other));
            if let (true, Some((other, ..))) = (enabled, earlier) {
                let message = format!("expected another path than {other}.handler_prefix; got {path:?}");
                problems.push(problem(&format!("{section}.handler_prefix"), message));
            }
        }
        problems
    }

    pub(super) fn warnings(&self) -> Vec<Warning> {
        let mut warnings = Vec::new();
        let (warnings_of_admin, warnings_of_channels) = (self.admin_warnings(), self.channel_warnings());
        let mut warn = |option: &str, message: &str| {
            let (option, message) = (option.to_owned(), message.to_owned());
            warnings.push(Warning { option, message });
        };
        if self.dev {
            warn("dev", "INSECURE MODE for trying things out: no tokens, no API key, every permission; loopback only");
        }
        let client = &self.client;
        if client.insecure && !self.dev {
            warn("client.insecure", "anyone may connect, subscribe and publish without a token");
        }
        if self.http_api.insecure && !self.http_api.disabled && !self.dev {
            warn("http_api.insecure", "anyone who reaches the API may publish and disconnect without a key");
        }
        if self.grpc_api.enabled && self.grpc_api.insecure {
            warn("grpc_api.insecure", "anyone who reaches its port may publish and disconnect without a key");
        }
        // With dev, pages of this machine come from wherever they are served.
        if client.allowed_origins.is_empty() && !self.dev {
            warn("client.allowed_origins", "is empty: pages served from other hosts will get 403");
        }
        for message in client.allowed_origins.iter().filter_map(|origin| fit::odd_origin(origin)) {
            warn("client.allowed_origins", &message);
        }
        for (option, key) in self.api_keys() {
            if let Some(message) = fit::weak_key(key).filter(|_| !self.dev) {
                warn(option, &message);
            }
        }
        warnings_of_admin.into_iter().for_each(|warning| warn(&warning.option, &warning.message));
        client.token_warnings().iter().for_each(|(option, message)| warn(option, message));
        let public = self.http_server.internal_port == 0 && !self.dev;
        if public && self.prometheus.enabled {
            warn(
                "prometheus.enabled",
                "answers on the public port without a key: set http_server.internal_port to move it",
            );
        }
        warnings_of_channels.into_iter().for_each(|warning| warn(&warning.option, &warning.message));
        if !client.user_id_http_header.is_empty() {
            warn(
                "client.user_id_http_header",
                "whoever reaches this port is the user that this header names: let nobody but the proxy reach it",
            );
        }
        self.proxy_warnings().iter().for_each(|(option, message)| warn(option, message));
        self.opentelemetry.warning().iter().for_each(|message| warn("opentelemetry.enabled", message));
        self.idle_rate_limits().iter().for_each(|(option, message)| warn(option, message));
        let personal = &client.subscribe_to_user_personal_channel;
        if personal.single_connection && !personal.enabled {
            let option = "client.subscribe_to_user_personal_channel.single_connection";
            warn(option, "has no effect without client.subscribe_to_user_personal_channel.enabled");
        }
        if self.http_api.external && self.http_server.internal_port == 0 {
            warn("http_api.external", "has no effect without http_server.internal_port: it answers on the one port");
        }
        if self.shutdown.deadline < self.shutdown.spread {
            warn("shutdown.deadline", "is below shutdown.spread: clients not told to leave by then are cut off");
        }
        warnings
    }

    fn channel_warnings(&self) -> Vec<Warning> {
        let hooks = &self.hooks;
        let is_told = !hooks.endpoint.is_empty() && hooks.events.iter().any(|event| event == "undelivered");
        let mut warnings = Vec::new();
        for (at, options) in self.channels() {
            let mut findings = channel::idle(options);
            if options.inbox.enabled && !options.inbox.undelivered_after.is_zero() && !is_told {
                let message = "has no effect without hooks.endpoint, and undelivered among hooks.events";
                findings.push(("inbox.undelivered_after", message.to_owned()));
            }
            for finding in findings {
                let Problem { option, at, message } = at.problem(finding);
                warnings.push(Warning { option: format!("{option}{at}"), message });
            }
        }
        warnings
    }
}

/// Is one path the other, or below it?
fn is_within(one: &str, other: &str) -> bool {
    let below =
        |low: &str, high: &str| low.strip_prefix(high).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    below(one, other) || below(other, one)
}

/// ^[-a-zA-Z0-9_.]{2,}$
fn is_namespace_name(name: &str) -> bool {
    name.len() >= 2 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

fn is_loopback(address: &str) -> bool {
    matches!(ListenAddress::parse(address), Some(ListenAddress::At(ip)) if ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::super::{ChannelOptions, NamespaceOptions};
    use super::*;
    use std::time::Duration;

    /// What `check` says of the defaults after `change`.
    fn said(change: impl FnOnce(&mut Config)) -> Vec<String> {
        let mut config = Config::default();
        change(&mut config);
        let errors = config.check().err().unwrap_or_default();
        errors.iter().map(ToString::to_string).collect()
    }

    fn warned(change: impl FnOnce(&mut Config)) -> Vec<String> {
        let mut config = Config::default();
        change(&mut config);
        config.check().unwrap().into_iter().map(|warning| warning.option).collect()
    }

    fn namespace(name: &str) -> NamespaceOptions {
        NamespaceOptions { name: name.into(), options: ChannelOptions::default() }
    }

    #[test]
    fn the_defaults_pass() {
        assert_eq!(said(|_| ()), Vec::<String>::new());
        assert_eq!(warned(|_| ()), ["client.allowed_origins", "client.token.hmac_secret_key"]);
    }

    #[test]
    fn ranges() {
        let wrong = said(|c| {
            c.reactors = 1025;
            c.reactor.accept_budget = 0;
            c.client.queue_max_size = 0;
            c.websocket.message_size_limit = (1 << 30) + 1;
            c.client.ping_interval = Duration::from_millis(999);
            c.client.pong_timeout = Duration::ZERO;
            c.log.level = "loud".into();
            c.echo.handler_prefix = "echo".into();
            c.http_api.key = "***".into();
        });
        let expected = [
            "reactors: expected a whole number, 0 to 1024; got 1025",
            "websocket.message_size_limit: expected bytes (65536, 64KiB), 1 to 1GiB; got 1073741825",
            "echo.handler_prefix: expected a URL path that begins with '/', holds letters, digits and -_.~ only, \
             and does not end with one; got \"echo\"",
            "client.ping_interval: expected a duration with its unit (25s, 100ms, 1m30s), 1s to 1day; got 999ms",
            "client.queue_max_size: expected bytes (65536, 64KiB), 1 to 1GiB; got 0",
            "http_api.key: *** only stands for a secret in what is printed; give the secret",
            "reactor.accept_budget: expected a whole number, 1 to 1048576; got 0",
            "log.level: expected one of error, warn, info, debug, trace, fatal, none; got \"loud\"",
        ];
        assert_eq!(wrong, expected);
    }

    #[test]
    fn pong_before_ping() {
        let equal = said(|c| c.client.pong_timeout = c.client.ping_interval);
        let text = "client.pong_timeout: expected less than client.ping_interval, which is 25s; got 25s";
        assert_eq!(equal, [text]);
        assert!(said(|c| c.client.pong_timeout = Duration::ZERO).is_empty());
    }

    #[test]
    fn ports_and_paths_are_distinct() {
        let same = said(|c| c.http_server.internal_port = c.http_server.port);
        assert_eq!(same, ["http_server.internal_port: expected another port than http_server.port; got 8000"]);
        let both_picked = said(|c| (c.http_server.port, c.http_server.internal_port) = (0, 0));
        assert!(both_picked.is_empty());
        let path = said(|c| c.health.handler_prefix = "/api".into());
        let text = "health.handler_prefix: expected another path than http_api.handler_prefix; got \"/api\"";
        assert_eq!(path, [text]);
        assert!(said(|c| c.echo.handler_prefix = "/api".into()).is_empty(), "echo is off");
    }

    #[test]
    fn connections_go_by_cpu_only_on_a_port_of_its_own() {
        let wrong = said(|c| (c.http_server.share_port, c.http_server.steering) = (true, "cpu".into()));
        let text = "http_server.steering: expected hash with http_server.share_port: the kernel would count the other \
                    process's listeners among the reactors of this one; got \"cpu\"";
        assert_eq!(wrong, [text]);
        assert!(said(|c| c.http_server.share_port = true).is_empty());
        assert!(said(|c| c.http_server.steering = "cpu".into()).is_empty());
        let word = said(|c| c.http_server.steering = "numa".into());
        assert_eq!(word, ["http_server.steering: expected one of hash, cpu; got \"numa\""]);
    }

    #[test]
    fn namespaces() {
        for good in ["chat", "a-", "_.", "News.2"] {
            assert!(said(|c| c.channel.namespaces = vec![namespace(good)]).is_empty(), "{good}");
        }
        for bad in ["", "a", "a:b", "чат", "a b"] {
            let wrong = said(|c| c.channel.namespaces = vec![namespace("ok"), namespace(bad)]);
            assert!(wrong[0].starts_with("channel.namespaces[1].name: expected two or more"), "{wrong:?}");
        }
        let twice = said(|c| c.channel.namespaces = vec![namespace("chat"), namespace("chat")]);
        let text = "channel.namespaces[1].name: expected a name of its own; there is another \"chat\"";
        assert_eq!(twice, [text]);
    }

    #[test]
    fn options_of_channels_wherever_they_stand() {
        let wrong = said(|c| {
            c.channel.without_namespace.history_size = 5;
            let mut news = namespace("news");
            news.options.force_recovery = true;
            news.options.force_recovery_mode = "map".into();
            news.options.history_size = (1 << 24) + 1;
            news.options.history_ttl = Duration::from_secs(1);
            let mut chat = namespace("chat");
            chat.options.subscription_type = "map_clients".into();
            c.channel.namespaces = vec![namespace("ok"), news, chat];
        });
        let expected = [
            "channel.namespaces[\"news\"].history_size: expected a whole number, 0 to 16777216; got 16777217",
            "channel.namespaces[\"news\"].force_recovery_mode: expected one of stream, cache, or empty; got \"map\"",
            "channel.namespaces[\"chat\"].subscription_type: map and shared_poll subscriptions are not there yet: \
             expected stream, or nothing; got \"map_clients\"",
            "channel.without_namespace.history_ttl: expected more than 0 with history_size, which is 5: history takes \
             both; got 0s",
        ];
        assert_eq!(wrong, expected);
        let idle = warned(|c| {
            let mut chat = namespace("chat");
            chat.options.force_push_join_leave = true;
            c.channel.namespaces = vec![chat];
            c.channel.without_namespace.allow_recovery = true;
        });
        let expected =
            ["channel.without_namespace.allow_recovery", "channel.namespaces[\"chat\"].force_push_join_leave"];
        assert_eq!(idle[2..], expected);
    }

    #[test]
    fn news_of_what_has_not_arrived_needs_a_hook_that_takes_it() {
        let asked = |endpoint: &str, events: &[&str]| {
            let warned = warned(|c| {
                let mut chat = namespace("chat");
                (chat.options.history_size, chat.options.history_ttl) = (10, Duration::from_secs(100_000));
                chat.options.inbox.enabled = true;
                chat.options.inbox.size = 10;
                chat.options.inbox.ttl = Duration::from_secs(100_000);
                chat.options.inbox.undelivered_after = Duration::from_secs(300);
                c.channel.namespaces = vec![chat];
                c.hooks.endpoint = endpoint.into();
                c.hooks.events = events.iter().map(ToString::to_string).collect();
            });
            warned.into_iter().filter(|option| option.contains("inbox")).collect::<Vec<_>>()
        };
        let expected = ["channel.namespaces[\"chat\"].inbox.undelivered_after"];
        assert_eq!(asked("", &["undelivered"]), expected);
        assert_eq!(asked("http://127.0.0.1:9/", &["connect"]), expected);
        assert!(asked("http://127.0.0.1:9/", &["undelivered"]).is_empty());
    }

    #[test]
    fn the_personal_channel_s_namespace_exists() {
        let set = |c: &mut Config, enabled| {
            let personal = &mut c.client.subscribe_to_user_personal_channel;
            (personal.enabled, personal.personal_channel_namespace) = (enabled, "user".into());
        };
        let wrong = said(|c| set(c, true));
        let text = "client.subscribe_to_user_personal_channel.personal_channel_namespace: expected a name in \
                    channel.namespaces, or nothing; got \"user\"";
        assert_eq!(wrong, [text]);
        assert!(said(|c| set(c, false)).is_empty());
        let found = said(|c| {
            set(c, true);
            c.channel.namespaces = vec![namespace("user")];
        });
        assert!(found.is_empty());
        let idle = warned(|c| c.client.subscribe_to_user_personal_channel.single_connection = true);
        assert_eq!(idle[2..], ["client.subscribe_to_user_personal_channel.single_connection"]);
    }

    #[test]
    fn origins() {
        let wrong = said(|c| c.client.allowed_origins = vec!["*".into(), "https://[a".into()]);
        assert!(wrong[0].starts_with("client.allowed_origins[1]: expected a glob"), "{wrong:?}");
        assert!(!wrong[0].contains('\n'));
        let hint = warned(|c| c.client.allowed_origins = vec!["example.com".into(), "https://a.b".into()]);
        assert_eq!(hint, ["client.allowed_origins", "client.token.hmac_secret_key"]);
    }

    #[test]
    fn insecure_modes_are_warned_about() {
        let warned = warned(|c| {
            c.client.insecure = true;
            c.http_api.insecure = true;
            c.client.allowed_origins = vec!["*".into()];
        });
        assert_eq!(warned, ["client.insecure", "http_api.insecure"]);
    }

    #[test]
    fn dev_is_loopback_and_open() {
        let mut config = Config { dev: true, ..Config::default() };
        config.apply_dev(&|_| false);
        assert_eq!(config.http_server.address, "127.0.0.1");
        assert!(config.client.insecure && config.http_api.insecure);
        assert!(config.prometheus.enabled && config.health.enabled && !config.echo.enabled);
        let every = ChannelOptions {
            allow_subscribe_for_client: true,
            allow_subscribe_for_anonymous: true,
            allow_publish_for_client: true,
            allow_publish_for_subscriber: true,
            allow_publish_for_anonymous: true,
            allow_presence_for_client: true,
            allow_presence_for_subscriber: true,
            allow_presence_for_anonymous: true,
            allow_history_for_client: true,
            allow_history_for_subscriber: true,
            allow_history_for_anonymous: true,
            presence: true,
            join_leave: true,
            history_size: 100,
            history_ttl: Duration::from_secs(600),
            ..ChannelOptions::default()
        };
        assert_eq!(config.channel.without_namespace, every);
        assert_eq!(config.check().unwrap()[0].option, "dev");
    }

    #[test]
    fn dev_leaves_what_was_set() {
        let mut config = Config { dev: true, ..Config::default() };
        config.apply_dev(&|name| name == "client.insecure");
        assert!(!config.client.insecure && config.http_api.insecure);
        let mut config = Config { dev: true, ..Config::default() };
        config.apply_dev(&|name| name == "channel.without_namespace.history_size");
        assert_eq!(config.channel.without_namespace.history_size, 0);
    }

    #[test]
    fn dev_refuses_another_address() {
        for open in ["0.0.0.0", "::", "10.0.0.1", "127.example.com", "127.0.0.1.5", "127.0.0.256"] {
            let wrong = said(|c| (c.dev, c.http_server.address) = (true, open.into()));
            let text = "http_server.address: with dev, expected loopback";
            assert!(wrong.iter().any(|line| line.starts_with(text)), "{open}");
        }
        for closed in ["", "127.0.0.1", "127.1.2.3", "::1", "localhost"] {
            assert!(said(|c| (c.dev, c.http_server.address) = (true, closed.into())).is_empty(), "{closed}");
        }
    }
}
