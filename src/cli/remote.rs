//! F11 · Commands that talk to a running server: `pub`, `presence`, `history`, `channels`, `info` by its API, `sub` by
//! the protocol of clients, `top` again and again.
//!
//! Owns where the server is: at `--url`, or where the configuration would have it listen. What failed is told with what
//! to do about it.

mod api;
pub mod flags;
mod listen;
mod reports;
mod stream;
mod top;

use std::io::Write;

use clap::ArgMatches;
use hyper::Uri;

use super::token;
use crate::config::Config;

/// How a command ended that did not fail.
pub type Ended = Result<(), String>;

/// What each of these commands knows. Borrowed from the command line and the configuration.
pub struct Remote<'a> {
    flags: &'a ArgMatches,
    config: &'a Config,
    /// Seconds since 1970.
    now: u64,
}

/// Where a server is: scheme, authority, and a path that stands before its own.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    is_tls: bool,
    authority: String,
    path: String,
}

/// Is it one of these commands?
pub fn is_one(name: &str) -> bool {
    matches!(name, "pub" | "sub" | "presence" | "history" | "channels" | "info" | "top")
}

/// Carries the command out; what it has to say goes to `out` as it comes.
pub fn carry_out(name: &str, flags: &ArgMatches, config: &Config, now: u64, out: &mut dyn Write) -> Ended {
    let remote = Remote { flags, config, now };
    match name {
        "sub" => listen::follow(&remote, out),
        "top" => top::show(&remote, out),
        _ => reports::report(name, &remote, out),
    }
}

impl Remote<'_> {
    fn text(&self, name: &str) -> Option<&str> {
        self.flags.try_get_one::<String>(name).ok().flatten().map(String::as_str)
    }

    fn is_set(&self, name: &str) -> bool {
        self.flags.try_get_one::<bool>(name).ok().flatten().copied().unwrap_or(false)
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.flags.try_get_one::<u64>(name).ok().flatten().copied()
    }

    /// Where backends ask.
    fn api_place(&self) -> Result<Place, String> {
        let server = &self.config.http_server;
        let own = if server.internal_address.is_empty() { &server.address } else { &server.internal_address };
        let inside = server.internal_tls.enabled || server.tls.enabled && !server.tls_external;
        match server.internal_port {
            0 => self.client_place(),
            port => self.place(own, port, inside),
        }
    }

    /// Where clients connect.
    fn client_place(&self) -> Result<Place, String> {
        let server = &self.config.http_server;
        self.place(&server.address, server.port, server.tls.enabled)
    }

    fn place(&self, address: &str, port: u16, is_tls: bool) -> Result<Place, String> {
        match self.text("url") {
            Some(url) => place_of(url),
            None if port == 0 => {
                Err("the configured port is 0, so that only the server knows it: give --url".to_owned())
            }
            None => Ok(Place { is_tls, authority: format!("{}:{port}", host(address)), path: String::new() }),
        }
    }

    /// A token for clients: the one that was given, or one signed with the configured key, if there is one.
    fn token(&self) -> Result<String, String> {
        if let Some(token) = self.text("token") {
            return Ok(token.to_owned());
        }
        let user = self.text("user").unwrap_or_default();
        if self.config.client.token.hmac_secret_key.is_empty() {
            return Ok(String::new());
        }
        token::of_user(&self.config.client, user, self.now)
    }
}

impl Place {
    fn url(&self, below: &str) -> String {
        let scheme = if self.is_tls { "https" } else { "http" };
        format!("{scheme}://{}{}{below}", self.authority, self.path)
    }
}

/// Where one reaches what listens on `address`.
fn host(address: &str) -> String {
    match address {
        "" | "0.0.0.0" | "::" | "localhost" => "127.0.0.1".to_owned(),
        v6 if v6.contains(':') && !v6.starts_with('[') => format!("[{v6}]"),
        other => other.to_owned(),
    }
}

fn place_of(url: &str) -> Result<Place, String> {
    let wrong = || format!("--url: expected http://HOST:PORT or https://HOST; got {url:?}");
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    let is_tls = match uri.scheme_str() {
        Some("http" | "ws") => false,
        Some("https" | "wss") => true,
        _ => return Err(wrong()),
    };
    let authority = uri.authority().ok_or_else(wrong)?.to_string();
    let path = uri.path().trim_end_matches('/').to_owned();
    Ok(Place { is_tls, authority, path })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(is_tls: bool, authority: &str, path: &str) -> Place {
        Place { is_tls, authority: authority.to_owned(), path: path.to_owned() }
    }

    #[test]
    fn a_url_says_where() {
        assert_eq!(place_of("http://a:8000"), Ok(place(false, "a:8000", "")));
        assert_eq!(place_of("wss://a.example/rt/"), Ok(place(true, "a.example", "/rt")));
        for wrong in ["a:8000", "ftp://a", "/x", ""] {
            assert!(place_of(wrong).is_err_and(|error| error.contains("--url")), "{wrong}");
        }
    }

    #[test]
    fn without_one_it_is_where_the_server_would_listen() {
        let flags = flags::commands().remove(0).try_get_matches_from(["pub", "a", "1"]).expect("good arguments");
        let mut config = Config::default();
        let of = |config: &Config| {
            let remote = Remote { flags: &flags, config, now: 0 };
            (remote.api_place().expect("a place").url("/api"), remote.client_place().expect("a place").url(""))
        };
        let both = |api: &str, client: &str| (api.to_owned(), client.to_owned());
        assert_eq!(of(&config), both("http://127.0.0.1:8000/api", "http://127.0.0.1:8000"));
        (config.http_server.address, config.http_server.internal_port) = ("::1".into(), 9000);
        assert_eq!(of(&config), both("http://[::1]:9000/api", "http://[::1]:8000"));
        config.http_server.internal_address = "10.0.0.1".into();
        assert_eq!(of(&config), both("http://10.0.0.1:9000/api", "http://[::1]:8000"));
        config.http_server.tls.enabled = true;
        assert_eq!(of(&config), both("https://10.0.0.1:9000/api", "https://[::1]:8000"));
        config.http_server.tls_external = true;
        assert_eq!(of(&config), both("http://10.0.0.1:9000/api", "https://[::1]:8000"));
    }
}
