//! F9 · Which pages may use the endpoints of clients, and the lines that tell a browser so.
//!
//! Owns what an origin is (RFC 6454) and the reading of `client.allowed_origins`. Pure; reactors and the service thread
//! ask it alike. Knows nothing of requests but their `Origin` and the host that they are for.

use crate::config::Config;
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// How long a browser may rely on what it was told of an endpoint, in seconds.
const PREFLIGHT_AGE: u32 = 600;
/// Stands for an `Origin` or a host that is there but is no text, or comes twice. No page has it.
pub const UNREADABLE: &str = "";
/// What pages without an origin of their own send: sandboxed ones, and files.
const WITHOUT_HOST: [&str; 2] = ["null", "file://"];

/// What a request says of where it comes from.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    pub origin: Option<&'a str>,
    /// The host, and its port if it is named, that the request is for.
    pub host: Option<&'a str>,
}

/// The origin of a page. Lower case, and without the port that its scheme has anyway.
#[derive(Debug, PartialEq, Eq)]
struct Origin {
    scheme: String,
    host: String,
    port: Option<u16>,
}

impl Origin {
    fn parse(text: &str) -> Option<Origin> {
        let (scheme, authority) = text.split_once("://")?;
        let letters = scheme.starts_with(|c: char| c.is_ascii_alphabetic());
        if !letters || !scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)) {
            return None;
        }
        let scheme = scheme.to_ascii_lowercase();
        let (host, port) = host_and_port(authority)?;
        let port = port.filter(|port| Some(*port) != default_port(&scheme));
        Some(Origin { scheme, host, port })
    }

    /// A page of the same host, by http or https. By which of them this server is reached is not known behind a proxy
    /// that ends TLS, so a host without a port has that of the page's scheme.
    fn is_of(&self, host: &str) -> bool {
        let (Some(own), Some((name, port))) = (default_port(&self.scheme), host_and_port(host)) else { return false };
        name == self.host && port.unwrap_or(own) == self.port.unwrap_or(own)
    }

    fn is_loopback(&self) -> bool {
        default_port(&self.scheme).is_some() && is_loopback(&self.host)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.host)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

/// `name`, `name:port`, `[::1]:port`, in lower case. A trailing dot belongs to the name, as it does for browsers.
fn host_and_port(text: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            (format!("[{}]", address.parse::<Ipv6Addr>().ok()?), port)
        }
        None => {
            let (name, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            let sound = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
            (sound.then(|| name.to_ascii_lowercase())?, port)
        }
    };
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => None,
        Some("") => None,
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => Some(digits.parse().ok()?),
        _ => return None,
    };
    Some((host, port))
}

/// Names and addresses of this machine only, as [`host_and_port`] gives them.
fn is_loopback(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host);
    let by_address = || host.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback());
    name == "localhost" || name.ends_with(".localhost") || host == "[::1]" || by_address()
}

#[derive(Debug)]
pub struct Origins {
    /// Instead of the pages of the own host.
    listed: Option<GlobSet>,
    /// All pages may come.
    any: bool,
    /// Pages of this machine may come, and only requests to this machine.
    dev: bool,
}

impl Origins {
    /// The configuration was checked: its globs compile.
    pub fn new(config: &Config) -> Result<Origins, globset::Error> {
        let origins = &config.client.allowed_origins;
        let mut globs = GlobSetBuilder::new();
        for origin in origins {
            globs.add(GlobBuilder::new(&pattern(origin)).case_insensitive(true).build()?);
        }
        let listed = if origins.is_empty() { None } else { Some(globs.build()?) };
        Ok(Origins { listed, any: origins.iter().any(|origin| origin == "*"), dev: config.dev })
    }

    /// May a request from there come in?
    pub fn allow(&self, source: Source<'_>) -> bool {
        self.expects(source.host) && source.origin.is_none_or(|origin| self.allow_page(origin, source.host))
    }

    /// May a request from there use an API that asks for no key? A page of the own host may only if that is an address
    /// or this machine's name: any other name may be a page's that was led here (DNS rebinding), and must be listed.
    pub fn allow_without_key(&self, source: Source<'_>) -> bool {
        let host = source.host.filter(|host| {
            let name = host_and_port(host).map(|(name, _)| name);
            name.is_some_and(|name| is_loopback(&name) || name.starts_with('[') || name.parse::<Ipv4Addr>().is_ok())
        });
        self.expects(source.host) && source.origin.is_none_or(|origin| self.allow_page(origin, host))
    }

    /// Is a request for `host` meant for this node? With `dev` only one for this machine is: a page whose own name
    /// leads here (DNS rebinding) names itself. Else the names of a node are not known to it.
    pub fn expects(&self, host: Option<&str>) -> bool {
        let is_ours = |host| host_and_port(host).is_some_and(|(name, _)| is_loopback(&name));
        !self.dev || host.is_none_or(is_ours)
    }

    fn allow_page(&self, origin: &str, host: Option<&str>) -> bool {
        if self.any {
            return origin != UNREADABLE;
        }
        let Some(page) = Origin::parse(origin) else {
            let known = WITHOUT_HOST.contains(&origin);
            return known && self.listed.as_ref().is_some_and(|globs| globs.is_match(origin));
        };
        if self.dev && page.is_loopback() {
            return true;
        }
        match &self.listed {
            Some(globs) => globs.is_match(page.to_string()),
            None => host.is_some_and(|host| page.is_of(host)),
        }
    }
}

/// A glob for origins as they are compared: one that is a whole origin in its shortest form, and an address of IPv6 in
/// it letter by letter, for brackets mean something else to a glob.
fn pattern(text: &str) -> String {
    if let Some(origin) = Origin::parse(text) {
        return globset::escape(&origin.to_string());
    }
    let address = text.split_once("://[").and_then(|(scheme, rest)| Some((scheme, rest.split_once(']')?)));
    match address.and_then(|(scheme, (address, rest))| Some((scheme, address.parse::<Ipv6Addr>().ok()?, rest))) {
        Some((scheme, address, rest)) => format!("{scheme}://{}{rest}", globset::escape(&format!("[{address}]"))),
        None => text.to_owned(),
    }
}

/// Header lines by which a browser gives the answer to the page at `origin`, which is allowed.
pub fn shared_with(origin: Option<&str>) -> Vec<(&'static str, String)> {
    let Some(origin) = origin else { return Vec::new() };
    vec![
        ("Access-Control-Allow-Origin", origin.to_owned()),
        ("Access-Control-Allow-Credentials", "true".to_owned()),
        ("Vary", "Origin".to_owned()),
    ]
}

/// The same when the browser asks before it sends: it may use `methods`, and the headers it named.
pub fn preflight(origin: Option<&str>, methods: &str, headers: &[&str]) -> Vec<(&'static str, String)> {
    let mut lines = shared_with(origin);
    lines.push(("Access-Control-Allow-Methods", methods.to_owned()));
    if !headers.is_empty() {
        lines.push(("Access-Control-Allow-Headers", headers.join(", ")));
    }
    lines.push(("Access-Control-Max-Age", PREFLIGHT_AGE.to_string()));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(config: &Config, origin: &str, host: &str) -> bool {
        Origins::new(config).expect("globs").allow(Source { origin: Some(origin), host: Some(host) })
    }

    fn listing(origins: &[&str]) -> Config {
        let mut config = Config::default();
        config.client.allowed_origins = origins.iter().map(|origin| (*origin).to_owned()).collect();
        config
    }

    #[test]
    fn a_page_of_the_own_host_has_its_name_and_its_port() {
        for (origin, host, expected) in [
            ("https://example.com", "example.com", true),
            ("http://example.com", "example.com", true),
            ("https://example.com", "example.com:443", true),
            ("https://example.com:443", "example.com", true),
            ("http://example.com", "example.com:80", true),
            ("https://Example.COM", "eXample.com", true),
            ("HTTPS://example.com", "example.com", true),
            ("https://example.com", "example.com:", true),
            ("https://example.com:8443", "example.com:8443", true),
            ("http://example.com", "example.com:443", false),
            ("https://example.com", "example.com:80", false),
            ("https://example.com:8443", "example.com", false),
            ("https://example.com", "example.com:8443", false),
            ("ftp://example.com", "example.com", false),
            ("chrome-extension://example.com", "example.com", false),
            ("https://example.com.", "example.com.", true),
            ("https://example.com.", "example.com", false),
            ("https://example.com", "example.com.", false),
            ("https://[::1]:8000", "[::1]:8000", true),
            ("https://[2001:DB8:0::1]", "[2001:db8::1]:443", true),
            ("https://[::1]", "[::2]", false),
            ("https://example.com/", "example.com", false),
            ("https://example.com/path", "example.com/path", false),
            ("https://user@example.com", "user@example.com", false),
            ("https://example.com:8o", "example.com:8o", false),
            ("https://example.com:65536", "example.com:65536", false),
            ("https://example.com:+443", "example.com", false),
            ("https://", "", false),
            ("://example.com", "example.com", false),
            ("example.com", "example.com", false),
            ("null", "null", false),
            ("file://", "", false),
            ("", "", false),
        ] {
            assert_eq!(allows(&Config::default(), origin, host), expected, "{origin} at {host}");
        }
        let origins = Origins::new(&Config::default()).expect("globs");
        assert!(origins.allow(Source { origin: None, host: None }), "no browser");
        assert!(!origins.allow(Source { origin: Some("https://example.com"), host: None }));
    }

    #[test]
    fn a_list_is_of_origins_and_not_of_texts() {
        for (listed, origin, expected) in [
            ("https://*.example.com", "https://app.Example.com", true),
            ("https://*.example.com", "https://app.example.com:443", true),
            ("https://*.example.com", "https://app.example.com:444", false),
            ("https://*.example.com", "https://evil.example/.example.com", false),
            ("https://*.example.com", "https://evil.example?.example.com", false),
            ("https://*.example.com", "https://evil.example#.example.com", false),
            ("https://*.example.com", "https://evil.example:1@a.example.com", false),
            ("https://*.example.com", "https://evil.example\\.example.com", false),
            ("https://example.com:443", "https://example.com", true),
            ("HTTPS://Example.com", "https://example.com", true),
            ("https://example.com", "https://example.com.", false),
            ("http://[::1]:5173", "http://[0:0::1]:5173", true),
            ("http://[::1]:*", "http://[::1]:5173", true),
            ("http://[::1]:*", "http://1:5173", false),
            ("capacitor://localhost", "capacitor://localhost", true),
            ("null", "null", true),
            ("file://", "file://", true),
            ("https://*", "null", false),
            ("*", "null", true),
            ("*", "http://anything/at/all", true),
            ("*", UNREADABLE, false),
        ] {
            assert_eq!(allows(&listing(&[listed]), origin, "h"), expected, "{origin} in {listed}");
        }
    }

    #[test]
    fn without_a_key_the_own_host_is_an_address_or_is_listed() {
        for (listed, origin, host, expected) in [
            (&[][..], "http://evil.example", "evil.example", false),
            (&[], "http://evil.example:8000", "evil.example:8000", false),
            (&[], "http://10.0.0.1.evil.example", "10.0.0.1.evil.example", false),
            (&[], "http://10.0.0.1:8000", "10.0.0.1:8000", true),
            (&[], "http://10.0.0.2:8000", "10.0.0.1:8000", false),
            (&[], "http://[2001:db8::1]", "[2001:db8::1]", true),
            (&[], "http://localhost:8000", "localhost:8000", true),
            (&[], "http://evil.example", "localhost:8000", false),
            (&["https://a.example"], "https://a.example", "a.example", true),
            (&["https://a.example"], "https://evil.example", "evil.example", false),
        ] {
            let source = Source { origin: Some(origin), host: Some(host) };
            let origins = Origins::new(&listing(listed)).expect("globs");
            assert_eq!(origins.allow_without_key(source), expected, "{origin} at {host}");
        }
        let origins = Origins::new(&Config::default()).expect("globs");
        assert!(origins.allow_without_key(Source { origin: None, host: Some("gannet.example") }), "no browser");
    }

    #[test]
    fn dev_is_for_this_machine() {
        let dev = Config { dev: true, ..Config::default() };
        for (origin, host, expected) in [
            ("http://localhost:5173", "127.0.0.1:8000", true),
            ("https://localhost", "localhost:8000", true),
            ("http://127.0.0.1:3000", "localhost:8000", true),
            ("http://127.8.9.1", "[::1]:8000", true),
            ("http://[::1]:4200", "localhost.:8000", true),
            ("http://app.localhost:5173", "127.0.0.1:8000", true),
            ("http://evil.example", "127.0.0.1:8000", false),
            ("http://localhost.evil.example", "127.0.0.1:8000", false),
            ("http://127.0.0.1.evil.example", "127.0.0.1:8000", false),
            ("null", "127.0.0.1:8000", false),
            // Its name leads here.
            ("http://evil.example:8000", "evil.example:8000", false),
            ("http://localhost:5173", "evil.example:8000", false),
        ] {
            assert_eq!(allows(&dev, origin, host), expected, "{origin} at {host}");
        }
        let origins = Origins::new(&dev).expect("globs");
        assert!(origins.expects(None) && !origins.expects(Some("evil.example")) && !origins.expects(Some(UNREADABLE)));
        let listed = Config { dev: true, ..listing(&["https://a.example"]) };
        assert!(allows(&listed, "https://a.example", "localhost:8000"));
        assert!(allows(&listed, "http://localhost:5173", "localhost:8000"));
        assert!(!allows(&listed, "https://b.example", "localhost:8000"));
    }
}
