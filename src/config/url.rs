//! F0 · What a URL of ours must be, and how one is shown.
//!
//! Owns the one judgement of URLs that options hold: proxies, hooks, key sets. Whoever asks a URL may rely on it: the
//! port that stands there is the port that is asked. Never knows what is behind a URL.

use core::net::Ipv6Addr;

use super::value::HIDDEN;

const WEB: [&str; 2] = ["http", "https"];

/// The scheme of a backend that is asked by gRPC.
const GRPC: &str = "grpc://";

/// What is wrong with an http or https URL, as the end of a sentence that begins with what was expected. `calls`: it
/// may be one of gRPC too.
pub fn fault(url: &str, calls: bool) -> Option<&'static str> {
    let Some((scheme, rest)) = url.split_once("://") else { return Some("") };
    let by_grpc = calls && scheme.eq_ignore_ascii_case("grpc");
    if !by_grpc && !WEB.iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        return Some("");
    }
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if authority.contains('@') {
        return Some(", without a user in it (give an Authorization header in static_headers)");
    }
    let host = match authority_of(authority) {
        Ok(host) => host,
        Err(fault) => return Some(fault),
    };
    if by_grpc && !matches!(path, "" | "/") {
        return Some(", and with grpc:// a host and a port and no more");
    }
    let path_is_plain = path.bytes().all(|b| b.is_ascii_graphic() && !b"\"#<>\\^`{|}".contains(&b));
    (host.is_empty() || !path_is_plain).then_some(", a host, and no space or fragment")
}

/// The host, if the port behind it is one or is not there.
fn authority_of(authority: &str) -> Result<&str, &'static str> {
    let unsound = Err(", a host, and no space or fragment");
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if address.parse::<Ipv6Addr>().is_ok() => (address, port),
            _ => return unsound,
        },
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let by_name = host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~:".contains(&b));
    match port.strip_prefix(':') {
        _ if !by_name => unsound,
        None if port.is_empty() => Ok(host),
        // `u16::from_str` would take a plus sign.
        Some(digits)
            if digits.bytes().all(|b| b.is_ascii_digit()) && digits.parse::<u16>().is_ok_and(|port| port != 0) =>
        {
            Ok(host)
        }
        _ => Err(", and a port from 1 to 65535, or none"),
    }
}

/// Host and port of a backend that is asked by gRPC; `None` if it is asked otherwise.
pub fn grpc_authority(url: &str) -> Option<&str> {
    url.strip_prefix(GRPC).map(|rest| rest.trim_end_matches('/'))
}

/// For messages, the log and `gannet config`: without a user, a query or a fragment, for any of them may be a secret.
/// What is no URL may hold them too, in the wrong place.
pub fn shown(url: &str) -> String {
    let end = url.find(['?', '#']).unwrap_or(url.len());
    let (before, after) = url.split_at(end);
    let (scheme, rest) = before.split_once("://").unwrap_or(("", before));
    let rest = rest.rsplit_once('@').map_or(rest.to_owned(), |(_, rest)| format!("{HIDDEN}@{rest}"));
    let scheme = if before.contains("://") { format!("{scheme}://") } else { String::new() };
    let after = after.chars().next().map_or(String::new(), |mark| format!("{mark}{HIDDEN}"));
    scheme + &rest + &after
}

/// The scheme in lower case, as everyone compares it.
pub fn with_plain_scheme(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => format!("{}://{rest}", scheme.to_ascii_lowercase()),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_one_or_is_not_there() {
        let hosts = ["127.0.0.1", "a.b-c", "localhost", "[::1]"];
        for host in hosts {
            for (port, is_one) in [
                ("", true),
                (":1", true),
                (":80", true),
                (":080", true),
                (":65535", true),
                (":", false),
                (":0", false),
                (":65536", false),
                (":99999", false),
                (":8x", false),
                (":x8", false),
                (":+8", false),
                (":-1", false),
                (":8:8", false),
                (":184467440737095516160", false),
            ] {
                for path in ["", "/", "/a?b=c", "?b=c"] {
                    for scheme in ["http", "https", "HTTP"] {
                        let url = format!("{scheme}://{host}{port}{path}");
                        let expected = (!is_one).then_some(", and a port from 1 to 65535, or none");
                        assert_eq!(fault(&url, false), expected, "{url}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_backend_by_grpc_is_a_host_and_a_port() {
        for (url, good) in [
            ("grpc://127.0.0.1:3001", true),
            ("GRPC://a.b", true),
            ("grpc://[::1]:1/", true),
            ("grpc://h:0", false),
            ("grpc://h:1/path", false),
            ("grpc://h:1?q", false),
            ("grpc://u@h:1", false),
            ("grpc://", false),
        ] {
            assert_eq!((fault(url, true).is_none(), fault(url, false).is_none()), (good, false), "{url}");
        }
    }

    #[test]
    fn what_else_is_no_url() {
        for none in ["", "a", "a:1", "ftp://a", "//a", "http:a", "http//a"] {
            assert_eq!(fault(none, true), Some(""), "{none}");
        }
        for user in ["http://u:p@h", "http://u@h:1/", "https://@h"] {
            assert!(fault(user, false).is_some_and(|fault| fault.contains("without a user")), "{user}");
        }
        for unsound in [
            "http://",
            "http:///x",
            "http://:80",
            "http://a b",
            "http://a/b c",
            "http://a/#x",
            "http://a#x",
            "http://[::1",
            "http://[::g]",
            "http://[a]/",
            "http://é",
            "http://a/é",
            "http://a\n",
        ] {
            assert!(fault(unsound, false).is_some_and(|fault| fault.contains("a host")), "{unsound}");
        }
        for several in ["http://::1/", "http://::1:80/"] {
            assert!(fault(several, false).is_some(), "{several}: an address of IPv6 stands in brackets");
        }
    }

    /// Everywhere a URL is read, and in every source.
    #[test]
    fn one_judgement_holds_everywhere_and_tells_no_secret() {
        use super::super::{Config, File, Format, load, print};
        let options = ["client.proxy.connect", "client.proxy.refresh", "channel.proxy.subscribe"];
        let options = options.into_iter().chain(["channel.proxy.publish", "channel.proxy.sub_refresh", "rpc.proxy"]);
        let options = options.chain(["hooks"]).map(|section| format!("{section}.endpoint"));
        let tokens = ["client.token", "client.subscription_token"];
        let options = options.chain(tokens.map(|section| format!("{section}.jwks_public_endpoint")));
        let urls =
            ["http://u:PW@127.0.0.1:99999/?token=PW", "http://h:8x/?PW", "http://h:/?PW", "h/?PW", "http://h/#PW"];
        for option in options {
            for url in urls {
                let errors = load(None, &[], &[(option.clone(), url.to_owned())]).expect_err("no URL");
                let lines: Vec<_> = errors.iter().map(ToString::to_string).collect();
                assert!(
                    lines.len() == 1 && lines[0].contains(": expected a URL") && !lines[0].contains("PW"),
                    "{lines:?}"
                );
            }
            let url = "HTTPS://h:8443/c?token=PW";
            let (config, _) = load(None, &[], &[(option.clone(), url.to_owned())]).expect("a URL");
            for format in [Format::Toml, Format::Yaml, Format::Json] {
                let text = print(&config, format);
                assert!(text.contains("://h:8443/c?***") && !text.contains("PW"), "{option}");
            }
            let again = print(&config, Format::Toml);
            let (again, _) =
                load(Some(File { name: "a.toml", text: &again }), &[], &[]).expect("it stands in a comment");
            assert_eq!(again, Config::default(), "{option}");
            let hidden = load(None, &[], &[(option, "https://h/c?***".to_owned())]).expect_err("a stand-in");
            assert!(hidden[0].to_string().contains("*** only stands for what is not printed"));
        }
        let listed = r#"{"proxies":[{"name":"aa","endpoint":"http://u:PW@h:99999/?PW"}]}"#;
        let errors = load(Some(File { name: "a.json", text: listed }), &[], &[]).expect_err("no URL");
        let text = "a.json: proxies[0].endpoint: expected a URL that begins with http://, https:// or grpc://, without a \
                    user in it (give an Authorization header in static_headers); got \"http://***@h:99999/?***\"";
        assert_eq!(errors[0].to_string(), text);
        let listed = r#"{"proxies":[{"name":"aa","endpoint":"http://h/?PW"}]}"#;
        let (config, _) = load(Some(File { name: "a.json", text: listed }), &[], &[]).expect("a URL");
        assert!(!print(&config, Format::Toml).contains("PW"));
    }

    /// In the wrong place a secret is one too.
    #[test]
    fn what_is_found_in_place_of_a_value_is_not_told() {
        use super::super::{File, load};
        for text in [
            r#"{"proxies":{"endpoint":"http://u:PW@h"}}"#,
            r#"{"proxies":["http://u:PW@h"]}"#,
            r#"{"proxies":[["PW"]]}"#,
            r#"{"proxies":"[http://u:PW@h"}"#,
            r#"{"rpc":{"proxy":{"endpoint":["http://u:PW@h"],"http_headers":{"a":"PW"}}}}"#,
            r#"{"rpc":{"proxy":{"timeout":{"PW":"PW"},"http":{"static_headers":"PW"}}}}"#,
            r#"{"client":{"token":{"hmac_secret_key":["PW"]},"allowed_origins":{"PW":"PW"}},"http_api":{"key":{"a":"PW"}}}"#,
            r#"{"client":"PW","http_api":["PW"],"client.token":"PW"}"#,
            r#"{"engine":{"type":"redis","redis":{"address":["redis://:***@h"],"user":["PW"],"password":{"PW":"PW"}}}}"#,
        ] {
            let errors = load(Some(File { name: "a.json", text }), &[], &[]).expect_err("refused");
            assert!(errors.iter().all(|error| !error.to_string().contains("PW")), "{errors:#?}");
        }
    }

    #[test]
    fn nothing_secret_is_shown() {
        for (url, expected) in [
            ("http://a:1/b/c", "http://a:1/b/c"),
            ("http://u:PW@h/c", "http://***@h/c"),
            ("http://PW@h", "http://***@h"),
            ("https://h/c?token=PW", "https://h/c?***"),
            ("https://h/c?token=PW&x=PW#PW", "https://h/c?***"),
            ("http://h/#PW", "http://h/#***"),
            ("http://u:P/W@h/c", "http://***@h/c"),
            ("http://u:P@W@h/c", "http://***@h/c"),
            ("u:PW@h/c?PW", "***@h/c?***"),
            ("redis://:PW@h:6379", "redis://***@h:6379"),
            ("", ""),
        ] {
            assert_eq!(shown(url), expected);
        }
    }
}
