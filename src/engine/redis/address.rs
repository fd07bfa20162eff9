//! F10 · What an address of a Redis server stands for.
//!
//! Owns reading it. What it is not is never quoted with its password. Never connects.

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

/// `host`, `host:port`, `[::1]:port`
pub fn host_and_port(authority: &str, port: u16) -> Result<(String, u16), String> {
    let (host, given) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or("expected ] behind the address")?;
            (host, rest.strip_prefix(':'))
        }
        None => match authority.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let port = match given {
        Some(text) => text.parse().map_err(|_| format!("expected a port; got {text:?}"))?,
        None => port,
    };
    match host {
        "" => Ok(("127.0.0.1".into(), port)),
        host => Ok((host.into(), port)),
    }
}

/// Percent signs taken for what they stand for.
fn decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.ok_or("expected two digits behind each %")?);
        rest = &after[2..];
    }
    String::from_utf8(bytes).map_err(|_| "expected UTF-8".into())
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
