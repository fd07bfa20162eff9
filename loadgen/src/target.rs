//! Where to: the URL taken apart, the address behind it, and the addresses connections come from.
//!
//! A load generator is a weapon when aimed at someone else's host, so anything but loopback needs a word of consent.
//! Connects only to learn which of several addresses of a name is the server's.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use rustls::pki_types::ServerName;
use tungstenite::http::Uri;

use crate::place::{first_that_answers, place};

/// Of `ws://` without one, and of `wss://`.
const PORT: u16 = 80;
const SECURE_PORT: u16 = 443;

/// Source addresses go round over 127.1.0.0 to 127.240.255.255, so that no address runs out of ports.
const FIRST_SOURCE: u32 = 0x7f01_0000;
const SOURCES: u32 = 0x00f0_0000;

/// A server to aim at. `{client}` and `{channel}` in the path stand for each client's own.
#[derive(Clone, Debug)]
pub struct Target {
    pub address: SocketAddr,
    /// What goes in the `Host` header.
    pub authority: String,
    pub path: String,
    /// Who its certificate must be of; None = it has no TLS.
    pub secure: Option<ServerName<'static>>,
}

impl Target {
    /// Takes `ws://host:port/path?query`, and `wss://`.
    pub fn parse(url: &str) -> Result<Self, String> {
        let (is_secure, rest) = match url.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("ws") => (false, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("wss") => (true, rest),
            Some((other, _)) => return Err(format!("{url}: only ws:// and wss:// are spoken, not {other}://")),
            None => return Err(format!("{url}: a URL such as ws://127.0.0.1:8000/connection/websocket is needed")),
        };
        let (authority, path) = match rest.find(['/', '?']) {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        if authority.contains('@') {
            // Not shown: there may be a password in it.
            return Err("a URL with a user in it: give -H 'Authorization: Basic ...' in place of it".to_owned());
        }
        let port = if is_secure { SECURE_PORT } else { PORT };
        let place = place(authority, port).map_err(|why| format!("{url}: {why}"))?;
        let addresses = place.addresses().map_err(|why| format!("{url}: {why}"))?;
        let address = first_that_answers(&addresses).ok_or_else(|| format!("{url}: no address"))?;
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let sample = path.replace(['{', '}'], "");
        sample.parse::<Uri>().map_err(|error| format!("{url}: {error}"))?;
        let name = |host: &str| ServerName::try_from(host.to_owned()).map_err(|error| format!("{url}: {error}"));
        let secure = if is_secure { Some(name(place.host)?) } else { None };
        Ok(Self { address, authority: place.authority.to_owned(), path, secure })
    }

    /// As it was given.
    pub fn url(&self) -> String {
        let scheme = if self.secure.is_some() { "wss" } else { "ws" };
        format!("{scheme}://{}{}", self.authority, self.path)
    }

    pub fn is_loopback(&self) -> bool {
        self.address.ip().is_loopback()
    }
}

/// Where connections come from.
#[derive(Clone, Debug)]
pub enum Sources {
    /// As the system routes.
    Any,
    /// All over 127.0.0.0/8.
    Loopback { first: u32 },
    /// These in turn.
    Listed(Vec<IpAddr>),
}

impl Sources {
    /// What suits `target`; `seed` keeps processes that run side by side from the same addresses.
    pub fn new(target: &Target, listed: Vec<IpAddr>, seed: u32) -> Self {
        match (target.address, listed.is_empty()) {
            (_, false) => Self::Listed(listed),
            (SocketAddr::V4(address), true) if address.ip().is_loopback() => {
                Self::Loopback { first: seed.wrapping_mul(20_011) % SOURCES }
            }
            _ => Self::Any,
        }
    }

    /// The source of the `number`-th connection.
    pub fn pick(&self, number: u64) -> Option<SocketAddr> {
        let address = match self {
            Self::Any => return None,
            Self::Loopback { first } => {
                let step = (u64::from(*first) + number) % u64::from(SOURCES);
                IpAddr::V4(Ipv4Addr::from(FIRST_SOURCE + step as u32))
            }
            Self::Listed(all) => all[(number % all.len() as u64) as usize],
        };
        Some(SocketAddr::new(address, 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let target = Target::parse("ws://127.0.0.1:8000/room/{channel}?format=protobuf").expect("a sound URL");
        assert_eq!(target.address, "127.0.0.1:8000".parse().expect("an address"));
        assert_eq!(target.path, "/room/{channel}?format=protobuf");
        assert!(target.is_loopback());
        let target = Target::parse("ws://[::1]:9").expect("a sound URL");
        assert_eq!((target.path.as_str(), target.authority.as_str()), ("/", "[::1]:9"));
        assert!(!Target::parse("ws://192.0.2.1/").expect("a sound URL").is_loopback());
        assert_eq!(Target::parse("WS://127.0.0.1").expect("a sound URL").address.port(), 80);
        let target = Target::parse("Wss://localhost/a").expect("a sound URL");
        assert_eq!((target.address.port(), target.url()), (443, "wss://localhost/a".to_owned()));
        assert_eq!(target.secure, ServerName::try_from("localhost").ok());
        assert!(Target::parse("wss://[::1]:9").expect("a sound URL").secure.is_some());
        for wrong in
            ["http://127.0.0.1/", "wsss://127.0.0.1/", "wss://a_b..c/", "127.0.0.1:8000", "ws://", "ws://127.0.0.1/a b"]
        {
            assert!(Target::parse(wrong).is_err(), "{wrong}");
        }
        for wrong in ["ws://127.0.0.1:99999/", "ws://127.0.0.1:", "ws://127.0.0.1:8x/a", "Ws://[::1]:65536?a"] {
            let why = Target::parse(wrong).expect_err("refused");
            assert!(why.contains("is no port"), "{wrong}: {why}");
        }
        let why = Target::parse("ws://user:secret@127.0.0.1/").expect_err("refused");
        assert!(why.contains("Authorization") && !why.contains("secret"), "{why}");
    }

    #[test]
    fn loopback_sources_differ_and_stay_inside() {
        let target = Target::parse("ws://127.0.0.1:1/").expect("a sound URL");
        let sources = Sources::new(&target, Vec::new(), 4_000_000);
        let picked: Vec<_> = (0..1000).filter_map(|number| sources.pick(number)).collect();
        assert!(picked.iter().all(|address| address.ip().is_loopback()));
        let mut unique = picked.clone();
        unique.dedup();
        assert_eq!(unique.len(), 1000);
    }

    #[test]
    fn listed_sources_take_turns() {
        let target = Target::parse("ws://127.0.0.1:1/").expect("a sound URL");
        let listed = ["127.0.0.2", "127.0.0.3"].map(|text| text.parse().expect("an address"));
        let sources = Sources::new(&target, listed.to_vec(), 0);
        let picked: Vec<_> = (0..3).filter_map(|n| sources.pick(n)).map(|address| address.ip().to_string()).collect();
        assert_eq!(picked, ["127.0.0.2", "127.0.0.3", "127.0.0.2"]);
    }
}
