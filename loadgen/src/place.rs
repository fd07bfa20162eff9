//! A host and a port as a URL names them, and the addresses behind.
//!
//! Owns the one reading of the part between `//` and the path, so that the port that stands there is the port that is
//! asked. Never knows what is spoken there.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

/// An address of several that does not answer in this time is passed over.
const TRIED: Duration = Duration::from_secs(2);

/// Who is at a URL.
#[derive(Debug, PartialEq, Eq)]
pub struct Place<'u> {
    /// `user:password`, as it stands there.
    pub user: Option<&'u str>,
    /// What goes in the `Host` header.
    pub authority: &'u str,
    /// Without brackets.
    pub host: &'u str,
    port: u16,
}

/// Takes `host`, `host:port` and `[address]:port`, with or without a user in front.
pub fn place(authority: &str, default_port: u16) -> Result<Place<'_>, String> {
    let (user, authority) = match authority.rsplit_once('@') {
        Some((user, rest)) => (Some(user), rest),
        None => (None, authority),
    };
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']').ok_or("a [ without a ]")?,
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:%".contains(&byte);
    if host.is_empty() || !host.bytes().all(is_name) {
        return Err(format!("{host:?} is no host"));
    }
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => default_port,
        // Of numbers alone: parse would take a sign.
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse().ok().filter(|port| *port != 0).ok_or_else(|| no_port(digits))?
        }
        Some(other) => return Err(no_port(other)),
        None => return Err(no_port(port)),
    };
    Ok(Place { user, authority, host, port })
}

fn no_port(text: &str) -> String {
    format!("{text:?} is no port: a number from 1 to 65535 is needed, or nothing")
}

impl Place<'_> {
    /// All addresses of the host, at least one.
    pub fn addresses(&self) -> Result<Vec<SocketAddr>, String> {
        let found = (self.host, self.port).to_socket_addrs().map_err(|error| error.to_string())?;
        let found: Vec<SocketAddr> = found.collect();
        if found.is_empty() { Err("no address".to_owned()) } else { Ok(found) }
    }
}

/// The first address at which somebody answers; the first of all if nobody does, or if there is one only.
pub fn first_that_answers(addresses: &[SocketAddr]) -> Option<SocketAddr> {
    let answers = |address: &&SocketAddr| TcpStream::connect_timeout(address, TRIED).is_ok();
    let found = if addresses.len() > 1 { addresses.iter().find(answers) } else { None };
    found.or(addresses.first()).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_port_is_one_or_is_not_there() {
        for host in ["127.0.0.1", "localhost", "a-b.example", "[::1]"] {
            for (port, expected) in [("", Some(80)), (":1", Some(1)), (":65535", Some(65535)), (":080", Some(80))] {
                let authority = format!("{host}{port}");
                let place = place(&authority, 80).expect("sound");
                assert_eq!((place.authority, Some(place.port), place.user), (&*authority, expected, None));
            }
            for port in [":", ":0", ":65536", ":99999", ":8x", ":x8", ":+8", ":-1", ":8:8", ":184467440737095516160"] {
                let why = place(&format!("{host}{port}"), 80).expect_err("refused");
                assert!(why.contains("is no port"), "{host}{port}: {why}");
            }
        }
        for none in ["", ":80", "a b", "[::1", "a/b", "@"] {
            assert!(place(none, 80).is_err(), "{none}");
        }
        let found = place("u:p@h:9", 80).expect("sound");
        assert_eq!((found.user, found.authority, found.host, found.port), (Some("u:p"), "h:9", "h", 9));
    }

    #[test]
    fn the_address_that_answers_is_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let here = listener.local_addr().expect("an address");
        // Nobody listens on that address, and the kernel says so at once.
        let nobody = SocketAddr::new("127.0.0.2".parse().expect("an address"), here.port());
        assert_eq!(first_that_answers(&[nobody, here]), Some(here));
        assert_eq!(first_that_answers(&[nobody, nobody]), Some(nobody));
        assert_eq!(first_that_answers(&[]), None);
    }
}
