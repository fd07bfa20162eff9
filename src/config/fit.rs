//! F0 · Values that can be set and never match, or that anyone would guess: keys and origins.
//!
//! Owns what is to be said of them, with what to write. Never compares a key with anything.

/// RFC 7518 section 3.2 wants so many bytes for HS256.
const HMAC_BYTES_MIN: usize = 32;
/// What a key of the API should have: sixteen characters out of a generator are beyond guessing.
const KEY_CHARS_MIN: usize = 16;

/// Why no header can hold `key`, so that a call with it would be refused; nothing of the key itself is said.
pub fn unsendable(key: &str) -> Option<String> {
    let control = key.chars().find(|c| c.is_ascii_control() && *c != '\t');
    let message = match (control, edge(key)) {
        (_, Some(what)) => format!("{what}, which no header can hold: no call could show it; write it without"),
        (Some(_), None) => "has a control character in it, which no header can hold: write it without".to_owned(),
        (None, None) => return None,
    };
    Some(message)
}

/// What is odd about a key that signs tokens. `algorithm` names them.
pub fn weak_secret(key: &str) -> Option<String> {
    if let Some(what) = edge(key) {
        return Some(format!(
            "{what}, and that belongs to the key: what signs without it is refused; in YAML write |- in place of |"
        ));
    }
    (!key.is_empty() && key.len() < HMAC_BYTES_MIN).then(|| {
        format!("has {} bytes: who tries finds it out; take {HMAC_BYTES_MIN} or more (openssl rand -hex 32)", key.len())
    })
}

/// The same of a key for the API.
pub fn weak_key(key: &str) -> Option<String> {
    let count = key.chars().count();
    (count > 0 && count < KEY_CHARS_MIN).then(|| {
        format!("has {count} characters: who tries finds it out; take {KEY_CHARS_MIN} or more (openssl rand -hex 32)")
    })
}

/// White space or a line's end at either end.
pub fn edge(text: &str) -> Option<&'static str> {
    let odd = |c: Option<char>| c.filter(|c| c.is_whitespace() || c.is_control());
    match (odd(text.chars().next_back()), odd(text.chars().next())) {
        (Some('\r' | '\n'), _) => Some("ends in a line break"),
        (Some(_), _) => Some("ends in white space"),
        (None, Some(_)) => Some("begins with white space"),
        (None, None) => None,
    }
}

/// What is wrong with one of the allowed origins, a glob, with what to write.
pub fn odd_origin(origin: &str) -> Option<String> {
    let (scheme, rest) = match origin.split_once("://") {
        Some(parts) => parts,
        None if origin.starts_with('*') || origin == "null" => return None,
        None => return Some(format!("{origin:?} matches nothing: an origin begins with its scheme, https://")),
    };
    if origin.contains(';') || origin.contains(char::is_whitespace) || rest.contains("://") {
        let list = r#"["https://a.example", "https://b.example"]"#;
        return Some(format!("{origin:?} is one origin, and matches nothing: write each apart, {list}"));
    }
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let is_file = scheme == "file" && path == "/" && authority.is_empty();
    if !path.is_empty() && !is_file {
        return Some(format!("{origin:?} matches nothing: an origin has no path; write \"{scheme}://{authority}\""));
    }
    if let Some((_, host)) = authority.rsplit_once('@') {
        return Some(format!("{origin:?} matches nothing: an origin has no user; write \"{scheme}://{host}\""));
    }
    let port = [("https", ":443"), ("http", ":80")].into_iter().find(|(of, _)| scheme.eq_ignore_ascii_case(of));
    let bare = port.and_then(|(_, port)| authority.strip_suffix(port));
    bare.map(|host| format!("{origin:?}: browsers leave this port out; write \"{scheme}://{host}\""))
}

#[cfg(test)]
mod tests {
    use super::super::{Config, load};
    use super::*;

    /// Errors, and what is warned of besides.
    fn said(flags: &[(&str, &str)]) -> (Vec<String>, Vec<String>) {
        let flags: Vec<_> = flags.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let usual: Vec<_> = Config::default().check().unwrap().iter().map(ToString::to_string).collect();
        match load(None, &[], &flags) {
            Ok((_, warnings)) => {
                let warnings = warnings.iter().map(ToString::to_string);
                (Vec::new(), warnings.filter(|line| !usual.contains(line)).collect())
            }
            Err(errors) => (errors.iter().map(ToString::to_string).collect(), Vec::new()),
        }
    }

    const SOUND: &str = "bbe7d157-a253-4094-9759-06a8236543f9";

    #[test]
    fn a_key_of_the_api_can_be_sent() {
        for option in ["http_api.key", "grpc_api.key"] {
            for (key, part) in [
                (format!("{SOUND}\r"), "ends in a line break, which no header can hold"),
                (format!("{SOUND}\n"), "ends in a line break"),
                (format!("{SOUND}\r\n"), "ends in a line break"),
                (format!("{SOUND} "), "ends in white space"),
                (format!("\t{SOUND}"), "begins with white space"),
                (format!("a\0{SOUND}"), "has a control character in it"),
            ] {
                let (errors, _) = said(&[(option, &key)]);
                let start = format!("command line: --{option}: {part}");
                assert!(errors.len() == 1 && errors[0].starts_with(&start), "{errors:?}");
                assert!(!errors[0].contains("bbe7d157"), "a secret is not told");
            }
            assert_eq!(said(&[(option, SOUND)]), (vec![], vec![]));
            let (errors, warnings) = said(&[(option, "abc")]);
            let text =
                format!("{option}: has 3 characters: who tries finds it out; take 16 or more (openssl rand -hex 32)");
            assert_eq!((errors, warnings), (vec![], vec![text]));
        }
    }

    #[test]
    fn a_key_of_tokens_is_what_it_looks_like() {
        for section in ["client.token", "client.subscription_token"] {
            for key in ["hmac_secret_key", "hmac_previous_secret_key"] {
                let option = format!("{section}.{key}");
                let enabled = ("client.subscription_token.enabled", "true");
                for (value, part) in [
                    (format!("{SOUND}\n"), "ends in a line break, and that belongs to the key"),
                    (format!(" {SOUND}"), "begins with white space"),
                    ("abc".to_owned(), "has 3 bytes: who tries finds it out; take 32 or more"),
                ] {
                    let (errors, warnings) = said(&[(&option, &value), enabled]);
                    let found = warnings.iter().find(|line| line.starts_with(&format!("{option}: {part}")));
                    assert!(errors.is_empty() && found.is_some(), "{option}: {errors:?} {warnings:?}");
                    assert!(!found.unwrap().contains("bbe7"));
                }
                let (_, warnings) = said(&[(&option, SOUND), enabled]);
                assert!(!warnings.iter().any(|line| line.starts_with(&option)), "{warnings:?}");
            }
            for key in ["audience", "issuer"] {
                let (_, warnings) = said(&[(&format!("{section}.{key}"), "me\n")]);
                let start = format!("{section}.{key}: ends in a line break: only a claim that does is the same");
                assert!(warnings.iter().any(|line| line.starts_with(&start)), "{warnings:?}");
            }
        }
    }

    #[test]
    fn origins_that_never_match_are_told_with_what_to_write() {
        for (origin, part) in [
            ("https://example.com/", "an origin has no path; write \"https://example.com\""),
            ("https://example.com/app", "write \"https://example.com\""),
            ("https://*.example.com/", "write \"https://*.example.com\""),
            ("https://example.com/*", "write \"https://example.com\""),
            ("https://example.com:443", "browsers leave this port out; write \"https://example.com\""),
            ("https://*.example.com:443", "write \"https://*.example.com\""),
            ("http://example.com:80", "write \"http://example.com\""),
            ("http://u:p@example.com", "an origin has no user; write \"http://example.com\""),
            ("https://a.b;https://c.d", "is one origin, and matches nothing: write each apart"),
            ("a;b", "matches nothing: an origin begins with its scheme"),
            ("example.com", "matches nothing: an origin begins with its scheme"),
        ] {
            let told = odd_origin(origin).unwrap_or_default();
            assert!(told.contains(part), "{origin}: {told}");
            let (errors, warnings) = said(&[("client.allowed_origins", origin)]);
            assert!(errors.is_empty() && warnings.iter().any(|line| line.ends_with(&told)), "{warnings:?}");
        }
        let sound = [
            "*",
            "null",
            "file://",
            "file:///",
            "https://example.com",
            "http://localhost:3000",
            "https://*.a.b:8443",
            "*://a.b",
            "http://example.com:443",
            "https://{a,b}.example.com",
            "http://[::1]:80x",
        ];
        for origin in sound {
            assert_eq!(odd_origin(origin), None, "{origin}");
        }
    }
}
