//! F10 · What an address of a Redis server stands for.
//!
//! Owns reading it. What it is not is never quoted with its password. Never connects.

use crate::engine::place::{decode, host_and_port};
use std::path::PathBuf;

/// Where a server is, and what it is told of who comes.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    pub place: ServerPlace,
    pub user: String,
    pub password: String,
    pub db: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ServerPlace {
    Tcp { host: String, port: u16, tls: bool },
    Unix(PathBuf),
}

impl std::fmt::Display for ServerPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ServerPlace::Tcp { host, port, .. } if host.contains(':') => write!(f, "[{host}]:{port}"),
            ServerPlace::Tcp { host, port, .. } => write!(f, "{host}:{port}"),
            ServerPlace::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Address {
    /// `port`: if it names none.
    pub fn parse(text: &str, port: u16) -> Result<Address, String> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("redis", text));
        let (tls, unix) = match &*scheme.to_ascii_lowercase() {
            "redis" | "tcp" => (false, false),
            "rediss" => (true, false),
            "unix" | "redis+unix" => (false, true),
            _ => return Err(format!("expected redis://, rediss:// or unix://; got {scheme}://")),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (login, rest) = rest.rsplit_once('@').map_or(("", rest), |(login, rest)| (login, rest));
        let (user, password) = match login.split_once(':') {
            Some((user, password)) => (decode(user)?, decode(password)?),
            // Without a colon, as many clients read it: the password.
            None => (String::new(), decode(login)?),
        };
        let mut db = None;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("db", number)) => db = Some(number_of_db(number)?),
                _ => {
                    let name = pair.split('=').next().unwrap_or_default();
                    return Err(format!("{name:?} cannot be said in an address: set the option of that name"));
                }
            }
        }
        if unix {
            let place = ServerPlace::Unix(decode(rest)?.into());
            return Ok(Address { place, user, password, db });
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if !path.is_empty() {
            db = Some(number_of_db(path)?);
        }
        let (host, port) = host_and_port(authority, port)?;
        Ok(Address { place: ServerPlace::Tcp { host, port, tls }, user, password, db })
    }
}

fn number_of_db(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("expected the number of a database; got {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host: &str, port: u16, tls: bool) -> ServerPlace {
        ServerPlace::Tcp { host: host.into(), port, tls }
    }

    #[test]
    fn addresses_are_read() {
        let read = |text: &str| Address::parse(text, 6379).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert!(read("redis://127.0.0.1:6380").place == at("127.0.0.1", 6380, false));
        assert!(read("localhost").place == at("localhost", 6379, false));
        assert!(read("a:1").place == at("a", 1, false));
        assert!(read("rediss://[::1]:7/3").place == at("::1", 7, true));
        assert_eq!(read("rediss://[::1]:7/3").db, Some(3));
        assert_eq!(read("redis://[::1]:7").place.to_string(), "[::1]:7");
        let full = read("redis://me:p%40ss:w@h:1/2");
        assert_eq!((&*full.user, &*full.password, full.db), ("me", "p@ss:w", Some(2)));
        assert_eq!(&*read("redis://:PW@h").password, "PW");
        let unix = read("unix://u:p@/run/r.sock?db=4");
        assert!(unix.place == ServerPlace::Unix("/run/r.sock".into()) && unix.db == Some(4) && unix.user == "u");
    }

    #[test]
    fn what_is_none_is_refused_without_its_password() {
        for bad in ["http://hush@a", "redis://hush@a:x", "redis://a/x", "redis://hu%sh@a", "redis://a?io_timeout=hush"]
        {
            let error = Address::parse(bad, 1).err().unwrap_or_else(|| panic!("{bad}"));
            assert!(!error.contains("hush"), "{error}");
        }
    }
}
