//! F0 · The options of rate limits on what connected clients ask for.
//!
//! Owns the sections below `client.rate_limit`, by Centrifugo PRO's names, and the rules between them. Never knows how
//! a limit is kept: buckets are `meter`'s, and who is charged is the session's.

use super::check::Problem;
use super::list::ListEntry;
use super::value::Rule;
use super::{Config, DAY, secs};
use std::time::Duration;

/// Nothing shorter is told apart.
const SHORTEST: Duration = Duration::from_millis(1);

options! {
    pub struct RateLimit {
        /// Commands of one connection, each connection on its own
        client_command: Commands = Commands::default();
        /// Commands of one user on this node, all its connections together; "" is no user and not limited
        user_command: Commands = Commands::default();
        /// Places for the buckets of user_command that are in use at the same time, 8 bytes each. Two that fall on one
        /// place share it: with 1% of the places in use, so do 1% of the users.
        user_table_size: usize = 1 << 20, Rule::Count(1024, 1 << 28);
        /// Errors that one connection may cause; beyond: close 3509
        client_error: ClientErrors = ClientErrors::default();
    }
}

options! {
    /// The limits of one kind of counting.
    pub struct Commands {
        /// Whether these limits are kept; beyond: error 111.
        enabled: bool = false;
        /// Limits are counted and told by metrics, and nobody is refused.
        dry_run: bool = false;
        /// All commands together, but connect. Those that their own limit refuses do not count
        total: Limit = Limit::default();
        /// Each command that has no limit of its own; it counts each of them apart
        default: Limit = Limit::default();
        /// Connects, in user_command only; who is refused may come again
        connect: Limit = Limit::default();
        /// Subscribe commands
        subscribe: ChannelLimit = ChannelLimit::default();
        /// Unsubscribe commands; they are counted, in the total too, but never refused
        unsubscribe: ChannelLimit = ChannelLimit::default();
        /// Publish commands
        publish: ChannelLimit = ChannelLimit::default();
        /// History commands
        history: ChannelLimit = ChannelLimit::default();
        /// Presence commands
        presence: ChannelLimit = ChannelLimit::default();
        /// Presence stats commands
        presence_stats: ChannelLimit = ChannelLimit::default();
        /// Refresh commands
        refresh: Limit = Limit::default();
        /// Subscription refresh commands
        sub_refresh: ChannelLimit = ChannelLimit::default();
        /// Rpc commands
        rpc: RpcLimit = RpcLimit::default();
    }
}

options! {
    pub struct ClientErrors {
        /// Whether who causes too many errors is closed (3509, not to come back). Internal errors are not counted.
        enabled: bool = false;
        /// Closes are counted and told by metrics, and nobody is closed.
        dry_run: bool = false;
        /// All errors together
        total: Limit = Limit::default();
    }
}

options! {
    pub struct Limit {
        /// Whether it is kept.
        enabled: bool = false;
        /// `[{interval, rate}]`: so many in each interval, and as many at once. All of them must have room.
        buckets: Vec<BucketOptions> = Vec::new();
    }
}

options! {
    pub struct ChannelLimit {
        /// Whether it is kept. Without: the default limit, if that is enabled.
        enabled: bool = false;
        /// `[{interval, rate}]`: so many in each interval, and as many at once. All of them must have room. Empty =
        /// those of the default limit.
        buckets: Vec<BucketOptions> = Vec::new();
        /// `[{namespace_name, enabled, buckets}]`: in place of it for the channels of a namespace.
        namespace_overrides: Vec<NamespaceLimit> = Vec::new();
    }
}

options! {
    pub struct RpcLimit {
        /// Whether it is kept. Without: the default limit, if that is enabled.
        enabled: bool = false;
        /// `[{interval, rate}]`: so many in each interval, and as many at once. All of them must have room. Empty =
        /// those of the default limit.
        buckets: Vec<BucketOptions> = Vec::new();
        /// `[{method, enabled, buckets}]`: in place of it for one method.
        method_overrides: Vec<MethodLimit> = Vec::new();
    }
}

options! {
    pub struct BucketOptions {
        /// How long it takes to fill.
        interval: Duration = secs(1), Rule::Time(SHORTEST, DAY);
        /// What it holds.
        rate: u32 = 0, Rule::Count(1, 1_000_000);
    }
}

options! {
    pub struct NamespaceLimit {
        /// The namespace.
        namespace_name: String = String::new();
        /// Whether it is kept.
        enabled: bool = false;
        /// As those it is in place of.
        buckets: Vec<BucketOptions> = Vec::new();
    }
}

options! {
    pub struct MethodLimit {
        /// The method, its namespace and all.
        method: String = String::new();
        /// Whether it is kept.
        enabled: bool = false;
        /// As those it is in place of.
        buckets: Vec<BucketOptions> = Vec::new();
    }
}

impl ListEntry for BucketOptions {
    const WHAT: &'static str = "a bucket";
    const EXAMPLE: &'static str = "[{\"interval\": \"1s\", \"rate\": 10}]";
    const NEEDED: &'static [&'static str] = &["interval", "rate"];
}

impl ListEntry for NamespaceLimit {
    const WHAT: &'static str = "an override";
    const EXAMPLE: &'static str =
        "[{\"namespace_name\": \"chat\", \"enabled\": true, \"buckets\": [{\"interval\": \"1s\", \"rate\": 10}]}]";
    const NEEDED: &'static [&'static str] = &["namespace_name"];
}

impl ListEntry for MethodLimit {
    const WHAT: &'static str = "an override";
    const EXAMPLE: &'static str =
        "[{\"method\": \"save\", \"enabled\": true, \"buckets\": [{\"interval\": \"1s\", \"rate\": 10}]}]";
    const NEEDED: &'static [&'static str] = &["method"];
}

/// The limit of one command: its own and those in place of it, by namespace or method.
pub struct CommandLimit<'a> {
    pub key: &'static str,
    pub enabled: bool,
    pub buckets: &'a [BucketOptions],
    pub overrides: Vec<(&'a str, bool, &'a [BucketOptions])>,
}

impl Limit {
    fn named(&self, key: &'static str) -> CommandLimit<'_> {
        CommandLimit { key, enabled: self.enabled, buckets: &self.buckets, overrides: Vec::new() }
    }

    /// Its buckets, if it is enabled.
    pub fn kept(&self) -> &[BucketOptions] {
        if self.enabled { &self.buckets } else { &[] }
    }
}

impl ChannelLimit {
    fn named(&self, key: &'static str) -> CommandLimit<'_> {
        let overrides = self.namespace_overrides.iter();
        let overrides = overrides.map(|it| (it.namespace_name.as_str(), it.enabled, it.buckets.as_slice())).collect();
        CommandLimit { key, enabled: self.enabled, buckets: &self.buckets, overrides }
    }
}

impl RpcLimit {
    fn named(&self) -> CommandLimit<'_> {
        let overrides = self.method_overrides.iter();
        let overrides = overrides.map(|it| (it.method.as_str(), it.enabled, it.buckets.as_slice())).collect();
        CommandLimit { key: "rpc", enabled: self.enabled, buckets: &self.buckets, overrides }
    }
}

impl Commands {
    /// Those of each command.
    pub fn each(&self) -> [CommandLimit<'_>; 10] {
        [
            self.connect.named("connect"),
            self.subscribe.named("subscribe"),
            self.unsubscribe.named("unsubscribe"),
            self.publish.named("publish"),
            self.history.named("history"),
            self.presence.named("presence"),
            self.presence_stats.named("presence_stats"),
            self.refresh.named("refresh"),
            self.sub_refresh.named("sub_refresh"),
            self.rpc.named(),
        ]
    }

    /// Keys of limits that are switched on and keep nobody from anything, and why.
    fn idle(&self) -> Vec<(&'static str, &'static str)> {
        let own =
            self.each().into_iter().map(|it| (it.key, it.enabled, it.buckets.is_empty() && it.overrides.is_empty()));
        let (total, default) = (&self.total, &self.default);
        let common = [("total", total), ("default", default)].map(|(key, it)| (key, it.enabled, it.buckets.is_empty()));
        let all: Vec<_> = own.chain(common).filter(|(_, enabled, _)| *enabled).collect();
        if !self.enabled {
            return all.into_iter().map(|(key, ..)| (key, "has no effect while its section is not enabled")).collect();
        }
        let defaults = !default.kept().is_empty();
        let empty = all.iter().filter(|(key, _, empty)| *empty && (!defaults || *key == "total"));
        empty.map(|(key, ..)| (*key, "has no effect without buckets")).collect()
    }
}

fn problem(option: String, at: String, message: String) -> Problem {
    Problem { option, at, message }
}

impl RateLimit {
    /// The commands of both kinds of counting, with the place they stand at.
    fn sections(&self) -> [(&'static str, &Commands); 2] {
        [
            ("client.rate_limit.client_command", &self.client_command),
            ("client.rate_limit.user_command", &self.user_command),
        ]
    }
}

impl Config {
    /// An override is for something, and for that alone.
    pub(super) fn check_rate_limits(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (section, commands) in self.client.rate_limit.sections() {
            for CommandLimit { key, overrides, .. } in commands.each() {
                let (list, name_key) = match key {
                    "rpc" => ("method_overrides", "method"),
                    _ => ("namespace_overrides", "namespace_name"),
                };
                for (index, (name, ..)) in overrides.iter().enumerate() {
                    let known = key == "rpc" || self.channel.namespaces.iter().any(|it| it.name == *name);
                    let message = if overrides[..index].iter().any(|(earlier, ..)| earlier == name) {
                        format!("expected a name of its own; there is another {name:?}")
                    } else if name.is_empty() {
                        "expected a name; got nothing".into()
                    } else if !known {
                        format!("expected a name in channel.namespaces; got {name:?}")
                    } else {
                        continue;
                    };
                    problems.push(problem(format!("{section}.{key}.{list}"), format!("[{index}].{name_key}"), message));
                }
            }
        }
        problems
    }

    /// Limits that are switched on and keep nobody from anything.
    pub(super) fn idle_rate_limits(&self) -> Vec<(String, &'static str)> {
        let limits = &self.client.rate_limit;
        let mut idle = Vec::new();
        for (section, commands) in limits.sections() {
            idle.extend(commands.idle().into_iter().map(|(key, why)| (format!("{section}.{key}.enabled"), why)));
        }
        if limits.client_command.connect.enabled {
            let why = "a connection connects once: limit connects in user_command, or by client.connection_rate_limit";
            idle.push(("client.rate_limit.client_command.connect.enabled".into(), why));
        }
        if limits.client_error.enabled && limits.client_error.total.kept().is_empty() {
            idle.push(("client.rate_limit.client_error.enabled".into(), "has no effect without total and its buckets"));
        }
        idle
    }
}

#[cfg(test)]
mod tests {
    use super::super::{File, load};
    use super::*;

    fn toml(text: &str) -> Result<(Config, Vec<String>), Vec<String>> {
        let loaded = load(Some(File { name: "a.toml", text }), &[], &[]);
        let strings = |list: Vec<super::super::ConfigError>| list.iter().map(ToString::to_string).collect();
        loaded.map(|(config, told)| (config, told.iter().map(ToString::to_string).collect())).map_err(strings)
    }

    /// As Centrifugo's users write it.
    #[test]
    fn the_shape_is_that_of_centrifugo() {
        let text = r#"{"channel": {"namespaces": [{"name": "chat"}]}, "client": {"rate_limit": {
            "client_command": {
                "enabled": true, "dry_run": true,
                "total": {"enabled": true, "buckets": [{"interval": "1s", "rate": 20}, {"interval": "60s", "rate": 50}]},
                "default": {"enabled": true, "buckets": [{"interval": "1s", "rate": 60}]},
                "publish": {"enabled": true, "buckets": [{"interval": "1s", "rate": 5}], "namespace_overrides": [
                    {"namespace_name": "chat", "enabled": true, "buckets": [{"interval": "1m", "rate": 7}]}]},
                "rpc": {"enabled": true, "method_overrides": [
                    {"method": "save", "enabled": true, "buckets": [{"interval": "20s", "rate": 1}]}]}},
            "user_command": {"enabled": true, "connect": {"enabled": true, "buckets": [{"interval": "1s", "rate": 3}]}},
            "client_error": {"enabled": true, "total": {"enabled": true, "buckets": [{"interval": "5s", "rate": 20}]}}
        }}}"#;
        let (config, told) = load(Some(File { name: "a.json", text }), &[], &[]).expect("sound");
        assert!(!told.iter().any(|warning| warning.option.contains("rate_limit")), "{told:?}");
        let limits = &config.client.rate_limit;
        let bucket = |seconds, rate| BucketOptions { interval: secs(seconds), rate };
        let client = &limits.client_command;
        assert!(client.enabled && client.dry_run && !limits.user_command.dry_run);
        assert_eq!(client.total.kept(), [bucket(1, 20), bucket(60, 50)]);
        let publish = &client.publish;
        assert_eq!((publish.buckets.as_slice(), publish.namespace_overrides.len()), (&[bucket(1, 5)][..], 1));
        assert_eq!(publish.namespace_overrides[0].buckets, [bucket(60, 7)]);
        assert_eq!(client.rpc.method_overrides[0].buckets, [bucket(20, 1)]);
        assert_eq!(limits.user_command.connect.kept(), [bucket(1, 3)]);
        assert_eq!(limits.client_error.total.kept(), [bucket(5, 20)]);
        // What is printed can be read again.
        let printed = super::super::print(&config, super::super::Format::Toml);
        let again = load(Some(File { name: "b.toml", text: &printed }), &[], &[]).expect("as it was printed").0;
        assert_eq!(again.client.rate_limit, config.client.rate_limit);
    }

    #[test]
    fn buckets_hold_something_and_fill() {
        let at = "[client.rate_limit.client_command.publish]\n";
        for (bucket, expected) in [
            ("{interval = '0s', rate = 1}", "buckets[0].interval: expected a duration with its unit"),
            ("{interval = '2days', rate = 1}", "buckets[0].interval: expected a duration with its unit"),
            ("{interval = '1s', rate = 0}", "buckets[0].rate: expected a whole number, 1 to 1000000; got 0"),
            ("{interval = '1s'}", "buckets[0]: a bucket wants a rate"),
            ("{rate = 1}", "buckets[0]: a bucket wants an interval"),
            ("{interval = '1s', rate = 1, burst = 3}", "buckets[0].burst: unknown option"),
        ] {
            let wrong = toml(&format!("{at}buckets = [{bucket}]")).unwrap_err();
            let start = format!("a.toml: client.rate_limit.client_command.publish.{expected}");
            assert!(wrong.len() == 1 && wrong[0].starts_with(&start), "{wrong:?}");
        }
    }

    #[test]
    fn overrides_are_for_what_there_is() {
        let wrong = toml(
            "[client.rate_limit.user_command]\n\
             publish.namespace_overrides = [{namespace_name = 'chat'}]\n\
             rpc.method_overrides = [{method = 'a'}, {method = 'a'}, {method = ''}]",
        );
        let expected = [
            "a.toml: client.rate_limit.user_command.publish.namespace_overrides[0].namespace_name: expected a name in \
             channel.namespaces; got \"chat\"",
            "a.toml: client.rate_limit.user_command.rpc.method_overrides[1].method: expected a name of its own; there is \
             another \"a\"",
            "a.toml: client.rate_limit.user_command.rpc.method_overrides[2].method: expected a name; got nothing",
        ];
        assert_eq!(wrong.unwrap_err(), expected);
    }

    #[test]
    fn limits_without_effect_are_told() {
        let said = |text: &str| {
            let told = toml(text).expect("sound").1;
            told.into_iter().filter_map(|line| line.strip_prefix("client.rate_limit.").map(str::to_owned)).collect()
        };
        let one = "{enabled = true, buckets = [{interval = '1s', rate = 1}]}";
        let table: [(String, &[&str]); 6] = [
            (format!("client_command.total = {one}"), &["client_command.total.enabled: has no effect while"]),
            (
                "client_command = {enabled = true, publish.enabled = true}".into(),
                &["client_command.publish.enabled: has no effect without buckets"],
            ),
            (format!("client_command = {{enabled = true, publish.enabled = true, default = {one}}}"), &[]),
            (
                format!("client_command = {{enabled = true, total.enabled = true, default = {one}}}"),
                &["client_command.total.enabled: has no effect without buckets"],
            ),
            (
                format!("client_command = {{enabled = true, connect = {one}}}"),
                &["client_command.connect.enabled: a connection connects once"],
            ),
            ("client_error.enabled = true".into(), &["client_error.enabled: has no effect without total"]),
        ];
        for (text, expected) in table {
            let lines: Vec<String> = said(&format!("[client.rate_limit]\n{text}"));
            assert_eq!(lines.len(), expected.len(), "{text}: {lines:?}");
            for (line, start) in lines.iter().zip(expected) {
                assert!(line.starts_with(start), "{line}");
            }
        }
    }
}
