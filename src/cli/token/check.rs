//! F11 · `gannet token check`: whether the server would take a token, and what is in it.
//!
//! Owns the words for it. Fetches nothing: a key set comes from a file. Never reads a clock.

use std::time::{Duration, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::ArgMatches;
use serde_json::Value as Json;

use super::{Kind, Refusal, text};
use crate::auth::{Jwks, KeySet, Need, TokenError, Verifier};
use crate::config::Client;

/// The first second that has no date of four digits.
const YEAR_10000: u64 = 253_402_300_800;

pub fn carry_out(flags: &ArgMatches, client: &Client, now: u64) -> Result<(String, bool), String> {
    let token = text(flags, "token").unwrap_or_default().trim();
    let mut parts = token.split('.').map(decoded);
    let (header, claims) = (parts.next().flatten(), parts.next().flatten());
    let names_channel = claims.as_ref().is_some_and(|claims| !claims["channel"].is_null());
    let kind = if names_channel { Kind::Subscription } else { Kind::Connection };
    let jwks = match text(flags, "jwks") {
        Some(path) => key_sets(path, kind, client, now)?,
        None => Jwks::default(),
    };
    let verdict = match kind.verify(client, &jwks, token, now) {
        Ok(()) => Ok(()),
        Err(Refusal::Unusable(message)) => return Err(message),
        Err(Refusal::Token(TokenError::Needs(Need::Key(url)))) => {
            return Err(format!("the key set at {url} is wanted: fetch it to a file and name that with --jwks"));
        }
        Err(Refusal::Token(error)) => Err(reason(&error)),
    };
    let mut out = match &verdict {
        Ok(()) => format!("valid {}\n", kind.name()),
        Err(reason) => format!("invalid: {reason}\n"),
    };
    if let (Some(header), Some(claims)) = (header, claims) {
        out += &format!("kind: {}, {}\n", kind.name(), header["alg"].as_str().unwrap_or("no alg"));
        out += &format!("expires: {}\n", expiry(&claims["exp"], now));
        if client.insecure_skip_token_signature_verify {
            out += "signature: not looked at, by client.insecure_skip_token_signature_verify\n";
        }
        out += &format!("claims: {claims:#}\n");
    }
    Ok((out, verdict.is_ok()))
}

pub fn reason(error: &TokenError) -> String {
    match error {
        TokenError::Invalid(why) => why.to_string(),
        TokenError::Expired => "past its exp, or before its nbf".into(),
        TokenError::Needs(Need::Key(url)) => format!("the key set at {url} is wanted"),
        TokenError::Needs(Need::Check) => "its signature was not checked".into(),
        TokenError::KeyUnavailable => "the key set cannot be had".into(),
    }
}

/// What a part of a token says, to be shown and not to be believed.
fn decoded(part: &str) -> Option<Json> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

/// The set in the file, for each place where the server would look for one.
fn key_sets(path: &str, kind: Kind, client: &Client, now: u64) -> Result<Jwks, String> {
    let text = std::fs::read(path).map_err(|error| format!("{path}: {error}"))?;
    let set = KeySet::parse(&text).map_err(|error| format!("{path}: {error}"))?;
    let (section, options) = kind.section(client);
    let verifier = Verifier::new(options, false).map_err(|error| format!("{section}.{error}"))?;
    let mut jwks = Jwks::default();
    verifier.key_urls().for_each(|url| jwks.insert(url.clone(), set.clone(), now));
    Ok(jwks)
}

fn expiry(exp: &Json, now: u64) -> String {
    let Some(exp) = exp.as_f64() else { return "never".into() };
    let exp = exp.ceil() as u64;
    if exp >= YEAR_10000 {
        return "in another age".into();
    }
    let date = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(exp));
    let apart = humantime::format_duration(Duration::from_secs(exp.abs_diff(now)));
    if exp > now { format!("in {apart}, at {date}") } else { format!("{apart} ago, at {date}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn expiry_in_words() {
        let said = |exp: Json| expiry(&exp, 1_700_000_000);
        assert_eq!(said(Json::Null), "never");
        assert_eq!(said(json!(1_700_000_090)), "in 1m 30s, at 2023-11-14T22:14:50Z");
        assert_eq!(said(json!(1_699_999_999.5)), "0s ago, at 2023-11-14T22:13:20Z");
        assert!(said(json!(-5)).starts_with("53years ") && said(json!(-5)).ends_with(" ago, at 1970-01-01T00:00:00Z"));
        assert_eq!(said(json!(1e300)), "in another age");
    }
}
