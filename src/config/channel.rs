//! F0 · Whether the options of a channel make sense, each alone and together.
//!
//! Owns what a namespace and channel.without_namespace are held to, and the reading of channel_regex. Never knows
//! which of the two it looks at: a finding names its key.

use std::time::Duration;

use regex::Regex;

use super::ChannelOptions;
use super::value::show_duration;

/// A key and what is to be said of it.
pub type Finding = (&'static str, String);

/// The values that cannot be served, whatever the others are.
pub fn unfit(options: &ChannelOptions) -> Vec<Finding> {
    let mut findings = Vec::new();
    let kind = options.subscription_type.as_str();
    if !matches!(kind, "" | "stream") {
        let message = match kind {
            "map" | "map_clients" | "map_users" | "shared_poll" => {
                format!(
                    "map and shared_poll subscriptions are not there yet: expected stream, or nothing; got {kind:?}"
                )
            }
            _ => format!("expected stream, or nothing; got {kind:?}"),
        };
        findings.push(("subscription_type", message));
    }
    if let Some(other) = options.allowed_delta_types.iter().find(|kind| *kind != "fossil") {
        findings
            .push(("allowed_delta_types", format!("expected fossil, the one kind of delta there is; got {other:?}")));
    }
    if let Err(error) = regex(&options.channel_regex) {
        findings.push(("channel_regex", format!("expected a regular expression such as \"^[a-z0-9]+$\"; {error}")));
    }
    findings
}

/// The values that contradict each other. `meta_ttl` is what channels have that do not say it themselves.
pub fn clashes(options: &ChannelOptions, meta_ttl: Duration) -> Vec<Finding> {
    let (size, ttl) = (options.history_size, options.history_ttl);
    let mut findings = Vec::new();
    if size > 0 && ttl.is_zero() {
        let message = format!("expected more than 0 with history_size, which is {size}: history takes both; got 0s");
        findings.push(("history_ttl", message));
    }
    if size == 0 && !ttl.is_zero() {
        let ttl = show_duration(ttl);
        let message = format!("expected more than 0 with history_ttl, which is {ttl}: history takes both; got 0");
        findings.push(("history_size", message));
    }
    let (of, meta_ttl) = match options.history_meta_ttl {
        Duration::ZERO => ("channel.history_meta_ttl", meta_ttl),
        own => ("history_meta_ttl", own),
    };
    if ttl > meta_ttl {
        let (ttl, meta_ttl) = (show_duration(ttl), show_duration(meta_ttl));
        findings.push(("history_ttl", format!("expected at most {of}, which is {meta_ttl}; got {ttl}")));
    }
    if options.force_recovery && size == 0 && ttl.is_zero() {
        let message = "there is no history to recover from: set history_size and history_ttl, or do not force it";
        findings.push(("force_recovery", message.to_owned()));
    }
    if options.batch_max_size > 0 && options.batch_max_delay.is_zero() {
        let message = "too few publications would wait for ever: set batch_max_delay too (\"100ms\")";
        findings.push(("batch_max_size", message.to_owned()));
    }
    findings.extend(options.inbox.clashes(options));
    findings
}

/// What has no effect with the other options as they are. Centrifugo takes it without a word.
pub fn idle(options: &ChannelOptions) -> Vec<Finding> {
    let no_history = options.history_size == 0 && options.history_ttl.is_zero();
    let cache = options.force_recovery_mode == "cache";
    let recovers = options.force_recovery || options.allow_recovery || options.allow_history_for_client;
    let recovers = recovers || options.allow_history_for_subscriber;
    let history = "has no effect without history: set history_size and history_ttl";
    let rules = [
        ("force_positioning", options.force_positioning && no_history, history),
        ("allow_positioning", options.allow_positioning && no_history, history),
        ("allow_recovery", options.allow_recovery && no_history, history),
        ("auto_cache_recover", options.auto_cache_recover && no_history, history),
        ("allowed_delta_types", !options.allowed_delta_types.is_empty() && no_history, history),
        ("delta_publish", options.delta_publish && no_history, history),
        (
            "delta_publish",
            options.delta_publish && options.allowed_delta_types.is_empty(),
            "has no effect without allowed_delta_types: set it to [\"fossil\"]",
        ),
        (
            "auto_cache_recover",
            options.auto_cache_recover && !cache,
            "has no effect without the mode: set force_recovery_mode to cache",
        ),
        (
            "force_recovery_mode",
            cache && !recovers,
            "has no effect while nobody may recover: set force_recovery or allow_recovery",
        ),
        (
            "force_push_join_leave",
            options.force_push_join_leave && !options.join_leave,
            "has no effect without join_leave",
        ),
        (
            "batch_flush_latest",
            options.batch_flush_latest && options.batch_max_delay.is_zero(),
            "has no effect without batch_max_delay",
        ),
        ("log_to_sync", options.log_to_sync && options.log_to.is_empty(), "has no effect without log_to"),
        (
            "subscribe_stream_proxy_enabled",
            options.subscribe_stream_proxy_enabled && options.subscribe_proxy_enabled,
            "has no effect with subscribe_proxy_enabled, which is asked in its place",
        ),
        (
            "subscribe_stream_proxy_bidirectional",
            options.subscribe_stream_proxy_bidirectional && !options.subscribe_stream_proxy_enabled,
            "has no effect without subscribe_stream_proxy_enabled",
        ),
    ];
    let found = rules.into_iter().filter(|(_, applies, _)| *applies);
    let found = found.map(|(key, _, message)| (key, message.to_owned()));
    found.chain(options.inbox.idle(options)).collect()
}

/// A channel_regex as Centrifugo reads it: found anywhere in the name, unless it is anchored; `\d`, `\w` and `\s` are
/// ASCII, as in Go. Empty finds itself in every name.
pub fn regex(pattern: &str) -> Result<Regex, String> {
    // The parser draws its message below the pattern, on lines of their own: the last one says what is wrong.
    let last = |error: regex::Error| error.to_string().lines().last().unwrap_or_default().trim().to_owned();
    Regex::new(&in_ascii(pattern)).map_err(last)
}

/// The classes that Unicode has widened, spelled out. One within brackets stays a class: they nest.
fn in_ascii(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        match (c, if c == '\\' { chars.next() } else { None }) {
            ('\\', Some('d')) => out += "[0-9]",
            ('\\', Some('D')) => out += "[^0-9]",
            ('\\', Some('w')) => out += "[0-9A-Za-z_]",
            ('\\', Some('W')) => out += "[^0-9A-Za-z_]",
            ('\\', Some('s')) => out += "[\\t\\n\\x0C\\r\\x20]",
            ('\\', Some('S')) => out += "[^\\t\\n\\x0C\\r\\x20]",
            ('\\', Some('b')) => out += "(?-u:\\b)",
            ('\\', Some('B')) => out += "(?-u:\\B)",
            (c, next) => {
                out.push(c);
                out.extend(next);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: Duration = Duration::from_secs(3600);

    /// Options with history.
    fn kept() -> ChannelOptions {
        ChannelOptions { history_size: 10, history_ttl: SECOND, ..ChannelOptions::default() }
    }

    fn keys(findings: &[Finding]) -> Vec<&'static str> {
        findings.iter().map(|(key, _)| *key).collect()
    }

    #[test]
    fn the_defaults_are_sound() {
        for options in [ChannelOptions::default(), kept()] {
            assert!(unfit(&options).is_empty() && clashes(&options, HOUR).is_empty() && idle(&options).is_empty());
        }
    }

    #[test]
    fn values_that_cannot_be_served() {
        type Change = fn(&mut ChannelOptions);
        let table: &[(Change, &str, &str)] = &[
            (
                |o| o.subscription_type = "map".into(),
                "subscription_type",
                "shared_poll subscriptions are not there yet",
            ),
            (|o| o.subscription_type = "shared_poll".into(), "subscription_type", "expected stream, or nothing"),
            (
                |o| o.subscription_type = "steam".into(),
                "subscription_type",
                "expected stream, or nothing; got \"steam\"",
            ),
            (|o| o.allowed_delta_types = vec!["fossil".into(), "xor".into()], "allowed_delta_types", "got \"xor\""),
            (|o| o.channel_regex = "(".into(), "channel_regex", "such as \"^[a-z0-9]+$\"; error: unclosed group"),
            (|o| o.channel_regex = "a{2,1}".into(), "channel_regex", "invalid repetition"),
        ];
        for (change, key, part) in table {
            let mut options = ChannelOptions::default();
            change(&mut options);
            let found = unfit(&options);
            assert_eq!(keys(&found), [*key]);
            assert!(found[0].1.contains(part) && !found[0].1.contains('\n'), "{found:?}");
        }
        let fine = ChannelOptions {
            subscription_type: String::new(),
            allowed_delta_types: vec!["fossil".into()],
            channel_regex: "^[a-z]+$".into(),
            ..ChannelOptions::default()
        };
        assert!(unfit(&fine).is_empty());
    }

    #[test]
    fn values_that_contradict_each_other() {
        type Change = fn(&mut ChannelOptions);
        let table: &[(Change, &str, &str)] = &[
            (|o| o.history_size = 5, "history_ttl", "expected more than 0 with history_size, which is 5"),
            (|o| o.history_ttl = SECOND, "history_size", "expected more than 0 with history_ttl, which is 1s"),
            (
                |o| *o = ChannelOptions { history_ttl: 2 * HOUR, ..kept() },
                "history_ttl",
                "expected at most channel.history_meta_ttl, which is 1h; got 2h",
            ),
            (
                |o| *o = ChannelOptions { history_ttl: 2 * SECOND, history_meta_ttl: SECOND, ..kept() },
                "history_ttl",
                "expected at most history_meta_ttl, which is 1s; got 2s",
            ),
            (|o| o.force_recovery = true, "force_recovery", "set history_size and history_ttl"),
            (|o| o.batch_max_size = 5, "batch_max_size", "set batch_max_delay too"),
        ];
        for (change, key, part) in table {
            let mut options = ChannelOptions::default();
            change(&mut options);
            let found = clashes(&options, HOUR);
            assert_eq!(keys(&found), [*key]);
            assert!(found[0].1.contains(part), "{found:?}");
        }
        let longer = ChannelOptions { history_ttl: 2 * HOUR, history_meta_ttl: 3 * HOUR, ..kept() };
        assert!(clashes(&longer, HOUR).is_empty(), "the channel's own meta TTL counts");
        let batched = ChannelOptions { batch_max_delay: SECOND, batch_flush_latest: true, ..kept() };
        assert!(clashes(&batched, HOUR).is_empty() && idle(&batched).is_empty());
        let recovered = ChannelOptions { force_recovery: true, ..kept() };
        assert!(clashes(&recovered, HOUR).is_empty());
    }

    #[test]
    fn options_without_effect() {
        type Change = fn(&mut ChannelOptions);
        let table: &[(Change, &[&str])] = &[
            (|o| o.force_positioning = true, &["force_positioning"]),
            (|o| o.allow_positioning = true, &["allow_positioning"]),
            (|o| o.allow_recovery = true, &["allow_recovery"]),
            (|o| o.allowed_delta_types = vec!["fossil".into()], &["allowed_delta_types"]),
            (|o| o.delta_publish = true, &["delta_publish", "delta_publish"]),
            (|o| o.auto_cache_recover = true, &["auto_cache_recover", "auto_cache_recover"]),
            (|o| o.force_recovery_mode = "cache".into(), &["force_recovery_mode"]),
            (|o| o.force_push_join_leave = true, &["force_push_join_leave"]),
            (|o| o.batch_flush_latest = true, &["batch_flush_latest"]),
        ];
        for (change, expected) in table {
            let mut options = ChannelOptions::default();
            change(&mut options);
            assert_eq!(keys(&idle(&options)), *expected);
        }
        let whole = ChannelOptions {
            force_positioning: true,
            allow_positioning: true,
            force_recovery: true,
            allow_recovery: true,
            force_recovery_mode: "cache".into(),
            auto_cache_recover: true,
            allowed_delta_types: vec!["fossil".into()],
            delta_publish: true,
            join_leave: true,
            force_push_join_leave: true,
            ..kept()
        };
        assert!(idle(&whole).is_empty());
    }

    #[test]
    fn regular_expressions_are_read_as_in_go() {
        let table = [
            ("", "anything", true),
            ("b", "abc", true),
            ("^b", "abc", false),
            (r"^\d+$", "0129", true),
            (r"^\d+$", "٣", false),
            (r"^[\w.-]+$", "a_b.c-9", true),
            (r"^[\w.-]+$", "é", false),
            (r"^[^\s]+$", "a b", false),
            (r"^\S\W\D$", "a-b", true),
            (r"^\\d$", r"\d", true),
            ("^[а-я]+$", "чат", true),
            (r"\bchat\b", "my chat", true),
            ("(?i)^CHAT$", "chat", true),
        ];
        for (pattern, name, matches) in table {
            assert_eq!(regex(pattern).unwrap().is_match(name), matches, "{pattern} {name}");
        }
        assert!(regex("a\\").is_err() && regex("[a").is_err() && regex("(?=a)").is_err());
    }
}
