//! F2 · Key sets (RFC 7517) as values: parsed from what an endpoint answered, looked up by a token's `kid`.
//!
//! Owns what of a set is usable, and when a key that is not there is worth a fetch. Never fetches: that is left to the
//! caller, on another thread.

use super::signature::{Algorithm, PublicKey};
use super::{Need, TokenError, Why};
use crate::config::{EcdsaKey, RsaKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Bytes of a key set.
pub const KEY_SET_LEN_MAX: usize = 256 * 1024;
/// Keys of a key set.
const KEYS_MAX: usize = 128;
/// Seconds between two fetches that tokens with an unknown `kid` can bring about, if nothing else is said: anyone can
/// write such a token.
const FETCH_AGAIN_AFTER: u64 = 10;
/// Seconds after which a set is to be fetched anew, so that a key taken out of it ceases to count.
const STALE_AFTER: u64 = 3600;

/// The keys of one endpoint that can check a signature.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct KeySet {
    keys: Vec<Jwk>,
}

#[derive(Debug, Clone, PartialEq)]
struct Jwk {
    kid: Box<str>,
    key: PublicKey,
    /// The one algorithm it is meant for, if it says so.
    only: Option<Algorithm>,
}

/// Why a text is no key set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeySetError {
    TooLong,
    TooMany,
    Malformed,
}

impl fmt::Display for KeySetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeySetError::TooLong => write!(f, "a key set of more than {KEY_SET_LEN_MAX} bytes"),
            KeySetError::TooMany => write!(f, "a key set of more than {KEYS_MAX} keys"),
            KeySetError::Malformed => write!(f, "no key set: expected JSON with a list of keys"),
        }
    }
}

impl std::error::Error for KeySetError {}

#[derive(Deserialize)]
struct RawSet<'a> {
    #[serde(borrow)]
    keys: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct RawKey<'a> {
    kty: Cow<'a, str>,
    kid: Cow<'a, str>,
    #[serde(rename = "use")]
    purpose: Option<Cow<'a, str>>,
    key_ops: Option<Vec<Cow<'a, str>>>,
    alg: Option<Cow<'a, str>>,
    crv: Option<Cow<'a, str>>,
    x: Option<Cow<'a, str>>,
    y: Option<Cow<'a, str>>,
    n: Option<Cow<'a, str>>,
    e: Option<Cow<'a, str>>,
}

impl KeySet {
    /// Keys of other kinds, for other purposes, without a `kid` or that are broken are passed over: providers publish
    /// new kinds beside those in use.
    pub fn parse(text: &[u8]) -> Result<KeySet, KeySetError> {
        if text.len() > KEY_SET_LEN_MAX {
            return Err(KeySetError::TooLong);
        }
        let set: RawSet<'_> = serde_json::from_slice(text).map_err(|_| KeySetError::Malformed)?;
        if set.keys.len() > KEYS_MAX {
            return Err(KeySetError::TooMany);
        }
        let keys = set.keys.iter().filter_map(|key| serde_json::from_str(key.get()).ok());
        Ok(KeySet { keys: keys.filter_map(Jwk::new).collect() })
    }

    /// Usable keys.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

impl Jwk {
    fn new(raw: RawKey<'_>) -> Option<Jwk> {
        let signs = raw.purpose.as_deref().is_none_or(|purpose| purpose == "sig");
        let verifies = raw.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"));
        if !signs || !verifies || raw.kid.is_empty() {
            return None;
        }
        let key = public_key(&raw)?;
        let only = match raw.alg.as_deref() {
            Some(name) => Some(Algorithm::parse(name).filter(|algorithm| key.fits(*algorithm))?),
            None => None,
        };
        Some(Jwk { kid: raw.kid.into(), key, only })
    }
}

fn public_key(raw: &RawKey<'_>) -> Option<PublicKey> {
    let bytes = |field: &Option<Cow<'_, str>>| URL_SAFE_NO_PAD.decode(field.as_deref()?).ok();
    match (raw.kty.as_ref(), raw.crv.as_deref()) {
        ("RSA", _) => RsaKey::new(&bytes(&raw.n)?, &bytes(&raw.e)?).map(|key| PublicKey::Rsa(Box::new(key))),
        ("EC", Some(curve)) => EcdsaKey::new(curve, &bytes(&raw.x)?, &bytes(&raw.y)?).map(PublicKey::Ecdsa),
        ("OKP", Some("Ed25519")) => Some(PublicKey::Ed25519(bytes(&raw.x)?.try_into().ok()?)),
        _ => None,
    }
}

/// The key sets that were fetched, by URL. Whoever fetches makes a new value from a clone of the last one.
#[derive(Debug, Clone, PartialEq)]
pub struct Jwks {
    sets: BTreeMap<Arc<str>, Fetched>,
    version: u64,
    /// Seconds between two fetches for the sake of an unknown `kid`.
    again_after: u64,
}

impl Default for Jwks {
    fn default() -> Jwks {
        Jwks::fetched_after(FETCH_AGAIN_AFTER)
    }
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Fetched {
    /// Shared, for who fetches copies all there is.
    keys: Arc<KeySet>,
    /// Seconds since 1970: the last fetch that brought a set, and the last fetch.
    brought_at: Option<u64>,
    tried_at: u64,
}

impl Jwks {
    /// No set yet; one is fetched for the sake of an unknown `kid` when the last fetch is so many seconds ago.
    pub fn fetched_after(again_after: u64) -> Jwks {
        Jwks { sets: BTreeMap::new(), version: 0, again_after }
    }

    /// What a fetch brought at `now` takes the place of what was there.
    pub fn insert(&mut self, url: Arc<str>, keys: KeySet, now: u64) {
        let fetched = self.sets.entry(url).or_default();
        if *fetched.keys != keys {
            self.version += 1;
        }
        *fetched = Fetched { keys: keys.into(), brought_at: Some(now), tried_at: now };
    }

    /// A fetch brought nothing: what was there stays.
    pub fn fail(&mut self, url: Arc<str>, now: u64) {
        self.sets.entry(url).or_default().tried_at = now;
    }

    /// The set is too old to be believed, and there is no newer one.
    pub fn forget(&mut self, url: Arc<str>, now: u64) {
        self.version += 1;
        self.sets.insert(url, Fetched { tried_at: now, ..Fetched::default() });
    }

    /// No token can name the set any more.
    pub fn remove(&mut self, url: &str) {
        self.version += u64::from(self.sets.remove(url).is_some());
    }

    /// Changes with the keys, from a clone to the value made of it.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Sets to fetch anew, though no token asks for it.
    pub fn stale(&self, now: u64) -> impl Iterator<Item = &Arc<str>> {
        let old = move |at: u64, age: u64| now.abs_diff(at) >= age;
        let is_stale =
            move |set: &Fetched| old(set.brought_at.unwrap_or(0), STALE_AFTER) && old(set.tried_at, self.again_after);
        self.sets.iter().filter(move |(_, set)| is_stale(set)).map(|(url, _)| url)
    }

    /// The key called `kid` at `url`.
    pub(super) fn find(
        &self,
        url: &Arc<str>,
        kid: &str,
        algorithm: Algorithm,
        now: u64,
    ) -> Result<&PublicKey, TokenError> {
        let Some(set) = self.sets.get(url) else { return Err(TokenError::Needs(Need::Key(url.clone()))) };
        let mut named = set.keys.keys.iter().filter(|jwk| *jwk.kid == *kid).peekable();
        if named.peek().is_some() {
            let fits = |jwk: &&Jwk| jwk.key.fits(algorithm) && jwk.only.is_none_or(|only| only == algorithm);
            return named.find(fits).map(|jwk| &jwk.key).ok_or(TokenError::Invalid(Why::Algorithm));
        }
        if now.abs_diff(set.tried_at) >= self.again_after {
            return Err(TokenError::Needs(Need::Key(url.clone())));
        }
        Err(self.missing(url))
    }

    /// What to say of a key that is not at `url`, and for which it is not asked now: the set may be known not to have
    /// it.
    pub fn missing(&self, url: &str) -> TokenError {
        let was_brought = |set: &Fetched| set.brought_at == Some(set.tried_at);
        match self.sets.get(url).is_some_and(was_brought) {
            true => TokenError::Invalid(Why::UnknownKey),
            false => TokenError::KeyUnavailable,
        }
    }
}
