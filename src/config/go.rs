//! F0 · Values as Go and Centrifugo read them: booleans, durations, and zero where it says nothing.
//!
//! Owns what their forms mean here. Never sets an option, and never knows where a value came from.

use std::time::Duration;

use serde_json::Value as Json;

use super::value::{Given, show_duration};
use super::{DAY, registry};

/// As `strconv.ParseBool` reads it.
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Decimal numbers with a unit each: "720h0m0s", "1.5h".
pub fn duration(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(end);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        let nanos: u64 = match unit {
            "ns" => 1,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60 * 1_000_000_000,
            "h" => 3600 * 1_000_000_000,
            _ => return None,
        };
        let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
        if whole.is_empty() && part.is_empty() {
            return None;
        }
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let scale = 10u64.checked_pow(u32::try_from(part.len()).ok()?)?;
        let part: u64 = if part.is_empty() { 0 } else { part.parse().ok()? };
        let part = u128::from(part) * u128::from(nanos) / u128::from(scale);
        let nanos = whole.checked_mul(nanos)?.checked_add(u64::try_from(part).ok()?)?;
        total = total.checked_add(Duration::from_nanos(nanos))?;
        rest = next;
    }
    (!text.is_empty()).then_some(total)
}

/// What Go has where nothing is set.
pub fn is_zero(value: &Json) -> bool {
    match value {
        Json::Null => true,
        Json::Bool(yes) => !yes,
        Json::Number(number) => number.as_f64() == Some(0.0),
        Json::String(text) => matches!(text.trim(), "" | "false" | "0" | "0s" | "[]" | "{}"),
        Json::Array(items) => items.is_empty(),
        Json::Object(fields) => fields.values().all(is_zero),
    }
}

/// Options whose zero is the default in Centrifugo, and which have no other zero here. By their last part: a section
/// that Centrifugo does not have is left out below.
const ZERO_IS_DEFAULT: &[&str] = &[
    "channel_limit",
    "compression_level",
    "handler_prefix",
    "history_max_publication_limit",
    "level",
    "max_length",
    "max_receive_message_size",
    "max_request_body_size",
    "message_size_limit",
    "method",
    "namespace_boundary",
    "ping_interval",
    "queue_max_size",
    "recovery_max_publication_limit",
    "stale_close_delay",
    "timeout",
    "write_timeout",
];

/// Whether a value asks for an option's default: null does for each, zero for those of Centrifugo that go by it.
/// `name` may be that of an option in a list.
pub fn is_unset(name: &str, given: Given<'_>) -> bool {
    let zero = match given {
        Given::Tree(Json::Null) => return true,
        Given::Tree(value) => is_zero(value),
        Given::Text(text) => !text.is_empty() && is_zero(&Json::from(text)),
    };
    let own = ["echo.", "openapi.", "jwks.", "hooks."].iter().any(|section| name.starts_with(section));
    let key = name.rsplit('.').next().unwrap_or(name);
    zero && !own && (ZERO_IS_DEFAULT.contains(&key) || name == "channel.history_meta_ttl")
}

/// A value in place of a negative one, which in Centrifugo switches something off, and what is to be told of it.
pub fn switched_off(name: &str, given: Given<'_>) -> Option<(Json, String)> {
    let negative = match given {
        Given::Tree(Json::Number(number)) => number.as_f64().is_some_and(|number| number < 0.0),
        _ => given.text()?.strip_prefix('-').is_some_and(|rest| {
            duration(rest).is_some_and(|time| !time.is_zero()) || rest.parse::<u64>().is_ok_and(|number| number > 0)
        }),
    };
    let (value, why) = match name {
        _ if !negative => return None,
        "client.ping_interval" => {
            (show_duration(DAY), ", the longest there is: without any ping a dead connection would stay for ever")
        }
        "client.pong_timeout" => ("0s".to_owned(), ": pongs are not asked for"),
        "client.connection_limit" | "client.connection_rate_limit" | "client.user_connection_limit" => {
            ("0".to_owned(), ": no limit")
        }
        _ => return None,
    };
    let note = format!("is negative, and read as {value}{why}");
    Some((value.into(), note))
}

/// The default of an option of the whole configuration.
pub fn default_of(name: &str) -> Json {
    let options = registry::options().into_iter();
    options.filter(|option| option.name == name).map(|option| option.default).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::{Config, File, load};

    fn json(text: &str) -> Result<(Config, Vec<String>), Vec<String>> {
        let loaded = load(Some(File { name: "c.json", text }), &[], &[]);
        let loaded = loaded.map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        Ok((loaded.0, loaded.1.iter().map(ToString::to_string).collect()))
    }

    #[test]
    fn what_is_not_set_is_the_default() {
        let plain = json("{}").unwrap();
        for unset in [
            r#"{"client":{"queue_max_size":0,"channel_limit":0,"ping_interval":0,"stale_close_delay":"0s"}}"#,
            r#"{"client":{"history_max_publication_limit":0,"recovery_max_publication_limit":0}}"#,
            r#"{"client":{"allowed_origins":null,"token":null,"ping_interval":null,"insecure":null}}"#,
            r#"{"client":null,"reactors":null,"dev":null,"proxies":null,"rpc":{"namespaces":null}}"#,
            r#"{"client":{"proxy":{"connect":{"timeout":"0s","http_headers":null,"http":{"static_headers":null}}}}}"#,
            r#"{"channel":{"max_length":0,"history_meta_ttl":"0s","namespaces":null},"rpc":{"namespace_boundary":""}}"#,
            r#"{"websocket":{"message_size_limit":0,"write_timeout":"0s","compression_level":0,"handler_prefix":""}}"#,
            r#"{"sse":{"max_request_body_size":0},"grpc_api":{"max_receive_message_size":0},"log":{"level":""}}"#,
            r#"{"http_server":{"internal_port":""},"client":{"connection_limit":"","insecure":""}}"#,
        ] {
            assert_eq!(json(unset).as_ref(), Ok(&plain), "{unset}");
        }
        let listed = r#"{"proxies":[{"name":"aa","endpoint":"http://a","timeout":"0s","http_headers":null}]}"#;
        assert_eq!(json(listed).unwrap().0.proxies[0].proxy.timeout.as_secs(), 1);
        let nameless = json(r#"{"proxies":[{"name":null,"endpoint":"http://a"}]}"#).unwrap_err();
        assert_eq!(nameless, ["c.json: proxies[0]: a proxy wants a name"]);
        // What Centrifugo does not have is held to its range, and an earlier source does not shine through.
        for own in
            [r#"{"reactor":{"accept_budget":0}}"#, r#"{"hooks":{"timeout":"0s"}}"#, r#"{"echo":{"handler_prefix":""}}"#]
        {
            assert!(json(own).is_err(), "{own}");
        }
        let file = File { name: "c.json", text: r#"{"client":{"queue_max_size":5}}"# };
        let env = [("GANNET_CLIENT_QUEUE_MAX_SIZE".to_owned(), "0".to_owned())];
        assert_eq!(load(Some(file), &env, &[]).unwrap().0.client.queue_max_size, 1 << 20);
    }

    #[test]
    fn negative_numbers_switch_off() {
        for (name, value, there, told) in [
            ("ping_interval", "-1", r#""1day""#, "is negative, and read as 1day, the longest there is"),
            ("ping_interval", r#""-1s""#, r#""1day""#, "is negative, and read as 1day"),
            ("pong_timeout", "-1", r#""0s""#, "is negative, and read as 0s: pongs are not asked for"),
            ("pong_timeout", r#""-500ms""#, r#""0s""#, "is negative, and read as 0s"),
            ("connection_limit", "-1", "0", "is negative, and read as 0: no limit"),
            ("user_connection_limit", "-1", "0", "is negative, and read as 0"),
            ("connection_rate_limit", "-5", "0", "is negative, and read as 0"),
        ] {
            let (config, warnings) = json(&format!("{{\"client\":{{\"{name}\":{value}}}}}")).unwrap();
            let (plain, _) = json(&format!("{{\"client\":{{\"{name}\":{there}}}}}")).unwrap();
            assert_eq!(config, plain, "{name}");
            assert!(warnings.iter().any(|line| line.starts_with(&format!("client.{name}: {told}"))), "{warnings:?}");
        }
        for wrong in [r#"{"client":{"ping_interval":"-"}}"#, r#"{"client":{"channel_limit":-1}}"#] {
            assert!(json(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn booleans() {
        let read = |value: &str| json(&format!("{{\"dev\":{value}}}")).map(|(config, _)| config.dev).ok();
        for yes in ["true", "1", r#""1""#, r#""t""#, r#""T""#, r#""true""#, r#""True""#, r#""TRUE""#] {
            assert_eq!(read(yes), Some(true), "{yes}");
        }
        for no in ["false", "0", r#""0""#, r#""f""#, r#""F""#, r#""false""#, r#""False""#, r#""FALSE""#, r#""""#] {
            assert_eq!(read(no), Some(false), "{no}");
        }
        for neither in [r#""yes""#, r#""tRue""#, "2", "-1", "[]", r#""on""#] {
            assert_eq!(read(neither), None, "{neither}");
        }
    }

    #[test]
    fn words_and_paths_as_centrifugo_takes_them() {
        let (config, _) = json(r#"{"log":{"level":"WARN"},"http_api":{"handler_prefix":"/v1/api/"}}"#).unwrap();
        assert_eq!((config.log.level.as_str(), config.http_api.handler_prefix.as_str()), ("warn", "/v1/api"));
        for level in ["none", "fatal", "trace", "Info"] {
            assert!(json(&format!("{{\"log\":{{\"level\":\"{level}\"}}}}")).is_ok(), "{level}");
        }
        let root = json(r#"{"websocket":{"handler_prefix":"/"}}"#).unwrap_err();
        assert!(root[0].contains("expected a URL path"), "{root:?}");
    }

    #[test]
    fn headers_are_an_object_or_a_list() {
        let headers =
            |value: &str| json(&format!("{{\"rpc\":{{\"proxy\":{{\"http\":{{\"static_headers\":{value}}}}}}}}}"));
        let object = headers(r#"{"X-Key":"k","x.y":"z"}"#).unwrap();
        let list = headers(r#"[{"key":"X-Key","value":"k"},{"key":"x.y","value":"z"}]"#).unwrap();
        assert_eq!(object, list);
        assert_eq!(headers("[]").unwrap(), headers("{}").unwrap());
        for wrong in [r#"[{"key":"a"}]"#, r#"[{"key":"a","value":1}]"#, r#"["a"]"#, r#"[{"value":"a"}]"#, "5"] {
            let lines = headers(wrong).unwrap_err();
            assert!(lines[0].contains("expected an object of texts"), "{lines:?}");
        }
        let twice = headers(r#"[{"key":"a","value":"hush"},{"key":"a","value":"hush"}]"#).unwrap_err();
        assert!(twice[0].ends_with("expected each header once; \"a\" is there twice"), "{twice:?}");
    }
}
