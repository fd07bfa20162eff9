//! F9 · Which pages may use the endpoints of clients, and the lines that tell a browser so.
//!
//! Owns the reading of `client.allowed_origins`. Pure; reactors and the service thread ask it alike.

use crate::config::Config;
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

/// How long a browser may rely on what it was told of an endpoint, in seconds.
const PREFLIGHT_AGE: u32 = 600;

#[derive(Debug)]
pub enum Origins {
    /// Requests without an Origin, or from a page of the same host.
    Same,
    Listed(GlobSet),
}

/// What a request says of where it comes from. A header that is there and no text is `Some("")`, which nobody allows.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    pub origin: Option<&'a str>,
    pub host: Option<&'a str>,
}

impl Origins {
    /// The configuration was checked: its globs compile.
    pub fn new(config: &Config) -> Result<Origins, globset::Error> {
        let mut globs = GlobSetBuilder::new();
        for origin in &config.client.allowed_origins {
            globs.add(GlobBuilder::new(origin).case_insensitive(true).build()?);
        }
        match config.client.allowed_origins.is_empty() {
            true => Ok(Origins::Same),
            false => Ok(Origins::Listed(globs.build()?)),
        }
    }

    pub fn allow(&self, source: Source<'_>) -> bool {
        let Some(origin) = source.origin else { return true };
        match self {
            Origins::Listed(globs) => !origin.is_empty() && globs.is_match(origin),
            Origins::Same => {
                let host = origin.split_once("://").map(|(_, host)| host);
                host.is_some_and(|host| source.host.is_some_and(|own| own.eq_ignore_ascii_case(host)))
            }
        }
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
pub fn preflight(origin: Option<&str>, methods: &str, headers: Option<&str>) -> Vec<(&'static str, String)> {
    let mut lines = shared_with(origin);
    lines.push(("Access-Control-Allow-Methods", methods.to_owned()));
    lines.extend(headers.map(|names| ("Access-Control-Allow-Headers", names.to_owned())));
    lines.push(("Access-Control-Max-Age", PREFLIGHT_AGE.to_string()));
    lines
}
