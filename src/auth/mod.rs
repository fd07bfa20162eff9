//! F2 · Token bytes to claims: signature, issuer, audience, times and the user.
//!
//! Pure: keys are injected and the time is an argument. Knows nothing of clients or of what claims allow. A key set
//! that is wanted but not there is named to the caller and never fetched.

mod cache;
mod claims;
mod jwks;
mod signature;
#[cfg(test)]
mod tests;

pub use cache::Cache;
pub use claims::{ChannelClaims, Claims, Overrides, SubClaims};
pub use jwks::{Jwks, KEY_SET_LEN_MAX, KeySet, KeySetError};

use crate::config::{self, KeySource, Pattern};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use claims::{RawClaims, WrongType, user_of_claim};
use compact_str::CompactString;
use serde::Deserialize;
use serde::de::IgnoredAny;
use signature::{Algorithm, HmacSecret, PublicKey};
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// Bytes of a token; a longer one is refused unread.
const TOKEN_LEN_MAX: usize = 16 * 1024;

/// Why a token is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenError {
    /// It never will be. Disconnect 3500, or error 103 for a subscription.
    Invalid(Why),
    /// Past its `exp`, or before its `nbf`. Error 109: a new one helps.
    Expired,
    /// Its key may be in the key set at this URL, which is not known or not recent: fetch it, [`Jwks::insert`] it or
    /// tell of it with [`Jwks::fail`], and ask again. A second time in a row this does not come.
    KeyWanted(Arc<str>),
    /// Its key set could not be fetched a moment ago. Error 100, which is temporary.
    KeyUnavailable,
}

/// Why a token is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    TooLong,
    Malformed,
    Algorithm,
    Signature,
    UnknownKey,
    Issuer,
    Audience,
    Kind,
    Claims,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Why::TooLong => "longer than 16 KiB",
            Why::Malformed => "not a JWT",
            Why::Algorithm => "there is no key for its algorithm, or none is accepted",
            Why::Signature => "the signature does not fit the key",
            Why::UnknownKey => "the key set has no key of its kid",
            Why::Issuer => "its iss is not the one that is wanted",
            Why::Audience => "its aud is not the one that is wanted",
            Why::Kind => "it has a channel claim, so it is a subscription token",
            Why::Claims => "its claims are no JSON object, or one of them has a wrong type",
        })
    }
}

impl From<Why> for TokenError {
    fn from(why: Why) -> TokenError {
        TokenError::Invalid(why)
    }
}

impl From<WrongType> for TokenError {
    fn from(_: WrongType) -> TokenError {
        TokenError::Invalid(Why::Claims)
    }
}

/// An option from which no verifier can be made. `Config::check` finds the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyError {
    /// Its key within the section.
    pub option: &'static str,
    pub message: String,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.option, self.message)
    }
}

impl std::error::Error for KeyError {}

/// Tells good tokens from bad, by one section of options.
pub struct Verifier {
    keys: Keys,
    audience: Pattern,
    issuer: Pattern,
    /// Empty = `sub`.
    user_claim: String,
}

enum Keys {
    Configured(Box<Configured>),
    Fetched(KeySource),
    /// Signatures are not looked at.
    Skipped,
}

struct Configured {
    secret: Option<HmacSecret>,
    /// With the last second in which it counts.
    previous: Option<(HmacSecret, u64)>,
    rsa: Option<PublicKey>,
    ecdsa: Option<PublicKey>,
}

/// A token was found good, with what is to be remembered of it.
struct Good<T> {
    claims: T,
    /// Seconds since 1970: good from the first until before the second.
    from: u64,
    until: u64,
}

#[derive(Deserialize)]
struct Header<'a> {
    #[serde(borrow)]
    alg: Cow<'a, str>,
    kid: Option<Cow<'a, str>>,
    crit: Option<IgnoredAny>,
}

/// A token taken apart; nothing of it is to be believed yet.
struct Parts<'a> {
    signed: &'a [u8],
    header: Vec<u8>,
    body: Vec<u8>,
    signature: Vec<u8>,
}

impl Verifier {
    /// `skip_signature` is `client.insecure_skip_token_signature_verify`.
    pub fn new(options: &config::Token, skip_signature: bool) -> Result<Verifier, KeyError> {
        let wanted = options.read().map_err(|faults| {
            let (option, message) = faults.into_iter().next().unwrap_or_default();
            KeyError { option, message }
        })?;
        let keys = match wanted.endpoint {
            _ if skip_signature => Keys::Skipped,
            Some(source) => Keys::Fetched(source),
            None => {
                let secret = |text: &str| (!text.is_empty()).then(|| HmacSecret::new(text)).flatten();
                let until = match options.hmac_previous_secret_key_valid_until {
                    0 => u64::MAX,
                    until => until,
                };
                Keys::Configured(Box::new(Configured {
                    secret: secret(&options.hmac_secret_key),
                    previous: secret(&options.hmac_previous_secret_key).map(|key| (key, until)),
                    rsa: wanted.rsa.map(|key| PublicKey::Rsa(Box::new(key))),
                    ecdsa: wanted.ecdsa.map(|key| PublicKey::Ecdsa(Box::new(key))),
                }))
            }
        };
        let user_claim = options.user_id_claim.clone();
        Ok(Verifier { keys, audience: wanted.audience, issuer: wanted.issuer, user_claim })
    }

    /// The claims of a connection token at `now` (seconds since 1970).
    pub fn connection(&self, token: &str, now: u64, jwks: &Jwks) -> Result<Claims, TokenError> {
        self.good_connection(token, now, jwks).map(|good| good.claims)
    }

    /// The claims of a subscription token. Whether its user, channel and client are those of the request is for the
    /// caller to see.
    pub fn subscription(&self, token: &str, now: u64, jwks: &Jwks) -> Result<ChannelClaims, TokenError> {
        self.good_subscription(token, now, jwks).map(|good| good.claims)
    }

    /// Where key sets lie that tokens may want, to fetch them before they do.
    pub fn key_urls(&self) -> impl Iterator<Item = &Arc<str>> {
        let source = match &self.keys {
            Keys::Fetched(source) => Some(source),
            Keys::Configured(_) | Keys::Skipped => None,
        };
        source.into_iter().flat_map(KeySource::urls)
    }

    fn good_connection(&self, token: &str, now: u64, jwks: &Jwks) -> Result<Good<Claims>, TokenError> {
        self.open(token, now, jwks, |body, user| {
            if body.names_channel() {
                return Err(Why::Kind.into());
            }
            Ok(body.connection(user)?)
        })
    }

    fn good_subscription(&self, token: &str, now: u64, jwks: &Jwks) -> Result<Good<ChannelClaims>, TokenError> {
        self.open(token, now, jwks, |body, user| Ok(body.subscription(user)?))
    }

    /// Issuer and audience come before the signature, for they choose the key set; times last, so that `Expired` is
    /// said only of a token that was good or will be.
    fn open<T>(
        &self,
        token: &str,
        now: u64,
        jwks: &Jwks,
        read: impl FnOnce(&RawClaims<'_>, CompactString) -> Result<T, TokenError>,
    ) -> Result<Good<T>, TokenError> {
        let parts = Parts::split(token)?;
        let header: Header<'_> = serde_json::from_slice(&parts.header).map_err(|_| Why::Malformed)?;
        let algorithm = Algorithm::parse(&header.alg).ok_or(Why::Algorithm)?;
        if header.crit.is_some() {
            // An extension that changes what the signature means, and must not be passed over.
            return Err(Why::Malformed.into());
        }
        let body = RawClaims::parse(&parts.body)?;
        let groups = self.issuer_and_audience(&body)?;
        let key_until = match &self.keys {
            Keys::Skipped => u64::MAX,
            Keys::Configured(keys) => keys.verify(algorithm, &parts, now)?,
            // A key set has public keys only, so no fetch would bring the one to such a token.
            Keys::Fetched(_) if matches!(algorithm, Algorithm::Hs(_)) => return Err(Why::Algorithm.into()),
            Keys::Fetched(source) => {
                let url = source.url(|name| groups.get(name)).ok_or(Why::UnknownKey)?;
                let key = jwks.find(url, header.kid.as_deref().ok_or(Why::UnknownKey)?, algorithm, now)?;
                let is_good = key.verify(algorithm, parts.signed, &parts.signature);
                is_good.then_some(u64::MAX).ok_or(Why::Signature)?
            }
        };
        let user =
            if self.user_claim.is_empty() { body.user()? } else { user_of_claim(&parts.body, &self.user_claim)? };
        let claims = read(&body, user)?;
        // A fraction of a second counts up: at second 5 a token until 5.5 is good, and one from 5.5 is not.
        let (from, until) = (body.nbf.map_or(0, whole_seconds), body.exp.map_or(u64::MAX, whole_seconds));
        if now < from || now >= until {
            return Err(TokenError::Expired);
        }
        Ok(Good { claims, from, until: until.min(key_until) })
    }

    fn issuer_and_audience(&self, body: &RawClaims<'_>) -> Result<Groups, TokenError> {
        let mut groups = Groups::default();
        if !matches!(self.issuer, Pattern::Any) {
            let issuer = body.issuer()?.unwrap_or_default();
            if !groups.matches(&self.issuer, &issuer) {
                return Err(Why::Issuer.into());
            }
        }
        if !matches!(self.audience, Pattern::Any) {
            let audiences = body.audiences()?;
            if !audiences.iter().any(|audience| groups.matches(&self.audience, audience)) {
                return Err(Why::Audience.into());
            }
        }
        Ok(groups)
    }
}

impl Configured {
    /// Before which second the key no longer counts.
    fn verify(&self, algorithm: Algorithm, parts: &Parts<'_>, now: u64) -> Result<u64, TokenError> {
        let (signed, signature) = (parts.signed, &parts.signature);
        let key = match algorithm {
            Algorithm::Hs(hash) => {
                if self.secret.as_ref().is_some_and(|secret| secret.verify(hash, signed, signature)) {
                    return Ok(u64::MAX);
                }
                let previous = self.previous.as_ref().filter(|(_, until)| now <= *until);
                let fits = previous.filter(|(secret, _)| secret.verify(hash, signed, signature));
                let wrong = if self.secret.is_none() && previous.is_none() { Why::Algorithm } else { Why::Signature };
                return fits.map(|(_, until)| until.saturating_add(1)).ok_or(wrong.into());
            }
            Algorithm::Rs(_) => &self.rsa,
            Algorithm::Es(_) => &self.ecdsa,
            Algorithm::EdDsa => &None,
        };
        let key = key.as_ref().filter(|key| key.fits(algorithm)).ok_or(Why::Algorithm)?;
        key.verify(algorithm, signed, signature).then_some(u64::MAX).ok_or(Why::Signature.into())
    }
}

/// What named groups matched.
#[derive(Default)]
struct Groups(Vec<(String, String)>);

impl Groups {
    /// Keeps its groups if it matches.
    fn matches(&mut self, pattern: &Pattern, text: &str) -> bool {
        match pattern {
            Pattern::Any => true,
            Pattern::Exact(wanted) => wanted == text,
            Pattern::Regex(regex) => {
                let Some(captures) = regex.captures(text) else { return false };
                let named = regex.capture_names().flatten();
                let found = named.filter_map(|name| Some((name.to_owned(), captures.name(name)?.as_str().to_owned())));
                self.0.extend(found);
                true
            }
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }
}

impl<'a> Parts<'a> {
    fn split(token: &'a str) -> Result<Parts<'a>, Why> {
        if token.len() > TOKEN_LEN_MAX {
            return Err(Why::TooLong);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(Why::Malformed)?;
        let (header, body) = signed.split_once('.').ok_or(Why::Malformed)?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| Why::Malformed);
        let (header, body, signature) = (decode(header)?, decode(body)?, decode(signature)?);
        Ok(Parts { signed: signed.as_bytes(), header, body, signature })
    }
}

/// What is below zero is zero, what is beyond any number the largest.
fn whole_seconds(time: f64) -> u64 {
    time.ceil() as u64
}
