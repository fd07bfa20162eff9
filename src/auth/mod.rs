//! F2 · Token bytes to claims: signature, issuer, audience, times and the user.
//!
//! Pure: keys are injected and the time is an argument. Knows nothing of clients or of what claims allow. A key set
//! that is wanted but not there is named to the caller and never fetched. [`Verifier`] does the whole work where it is
//! called; [`Cache`] is for a thread that must not wait, and leaves signatures by public keys to others.

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
    /// Nobody knows before somebody has done this.
    Needs(Need),
    /// Its key set could not be fetched a moment ago. Error 100, which is temporary.
    KeyUnavailable,
}

/// What is to be done before a token is good or bad.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// Its key may be in the key set at this URL, which is not known or not recent: fetch it, [`Jwks::insert`] it or
    /// tell of it with [`Jwks::fail`], and ask again. A second time in a row this does not come.
    Key(Arc<str>),
    /// Its signature takes long to check: have another thread call [`Verifier::judge`], and give the cache what it
    /// finds. Only a cache says so.
    Check,
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

impl Why {
    /// A word for the log and the label of a metric.
    pub fn cause(self) -> &'static str {
        match self {
            Why::TooLong => "too_long",
            Why::Malformed => "malformed",
            Why::Algorithm => "algorithm",
            Why::Signature => "signature",
            Why::UnknownKey => "unknown_key",
            Why::Issuer => "issuer",
            Why::Audience => "audience",
            Why::Kind => "kind",
            Why::Claims => "claims",
        }
    }

    /// Whether anyone could have made the token, for no key of ours did.
    pub fn is_forgery(self) -> bool {
        matches!(self, Why::TooLong | Why::Malformed | Why::Algorithm | Why::Signature)
    }
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
    /// Counts the options that it was made of: what was found by others is not to be believed.
    pub edition: u64,
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

/// What was found, and when it holds: in seconds since 1970, from the first until before the second.
#[derive(Debug, Clone, PartialEq)]
struct Holds<T> {
    what: T,
    from: u64,
    until: u64,
}

impl<T> Holds<T> {
    /// Whatever the time, as long as the keys are the same.
    fn always(what: T) -> Holds<T> {
        Holds { what, from: 0, until: u64::MAX }
    }

    /// Not to be remembered.
    fn never(what: T) -> Holds<T> {
        Holds { what, from: 0, until: 0 }
    }

    fn at(&self, now: u64) -> bool {
        (self.from..self.until).contains(&now)
    }
}

impl From<Why> for Holds<TokenError> {
    fn from(why: Why) -> Holds<TokenError> {
        Holds::always(why.into())
    }
}

impl From<WrongType> for Holds<TokenError> {
    fn from(_: WrongType) -> Holds<TokenError> {
        Holds::always(Why::Claims.into())
    }
}

/// A token was found good, or bad.
type Found<T> = Result<Holds<Arc<T>>, Holds<TokenError>>;

/// The two kinds of token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    Connection,
    Subscription,
}

/// What was found of a token on another thread, for [`Cache::connection_judged`] or [`Cache::subscription_judged`].
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    found: FoundOf,
    /// Of the key sets that it was found with.
    version: u64,
    /// Of the verifier that found it.
    edition: u64,
}

#[derive(Debug, Clone, PartialEq)]
enum FoundOf {
    Connection(Found<Claims>),
    Subscription(Found<ChannelClaims>),
}

/// Where signatures by public keys are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dear {
    Here,
    Elsewhere,
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
    header: &'a str,
    body: &'a str,
    signature: &'a str,
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
                let secret = |text: &str| (!text.is_empty()).then(|| HmacSecret::new(text));
                let until = match options.hmac_previous_secret_key_valid_until {
                    0 => u64::MAX,
                    until => until,
                };
                Keys::Configured(Box::new(Configured {
                    secret: secret(&options.hmac_secret_key),
                    previous: secret(&options.hmac_previous_secret_key).map(|key| (key, until)),
                    rsa: wanted.rsa.map(|key| PublicKey::Rsa(Box::new(key))),
                    ecdsa: wanted.ecdsa.map(PublicKey::Ecdsa),
                }))
            }
        };
        let user_claim = options.user_id_claim.clone();
        Ok(Verifier { keys, audience: wanted.audience, issuer: wanted.issuer, user_claim, edition: 0 })
    }

    /// The claims of a connection token at `now` (seconds since 1970).
    pub fn connection(&self, token: &str, now: u64, jwks: &Jwks) -> Result<Arc<Claims>, TokenError> {
        settled(self.find_connection(token, now, jwks, Dear::Here))
    }

    /// The claims of a subscription token. Whether its user, channel and client are those of the request is for the
    /// caller to see.
    pub fn subscription(&self, token: &str, now: u64, jwks: &Jwks) -> Result<Arc<ChannelClaims>, TokenError> {
        settled(self.find_subscription(token, now, jwks, Dear::Here))
    }

    /// The same for a thread that asked for it because [`Need::Check`] was said. `fetched`: its key set was fetched
    /// for it a moment ago, so a key that is not there will not come by fetching again.
    pub fn judge(&self, kind: TokenKind, token: &str, now: u64, jwks: &Jwks, fetched: bool) -> Verdict {
        let found = match kind {
            TokenKind::Connection => {
                let found = self.find_connection(token, now, jwks, Dear::Here);
                FoundOf::Connection(found.map_err(|bad| bad.once(jwks, fetched)))
            }
            TokenKind::Subscription => {
                let found = self.find_subscription(token, now, jwks, Dear::Here);
                FoundOf::Subscription(found.map_err(|bad| bad.once(jwks, fetched)))
            }
        };
        Verdict { found, version: jwks.version(), edition: self.edition }
    }

    /// Where key sets lie that tokens may want, to fetch them before they do.
    pub fn key_urls(&self) -> impl Iterator<Item = &Arc<str>> {
        let source = match &self.keys {
            Keys::Fetched(source) => Some(source),
            Keys::Configured(_) | Keys::Skipped => None,
        };
        source.into_iter().flat_map(KeySource::urls)
    }

    fn find_connection(&self, token: &str, now: u64, jwks: &Jwks, dear: Dear) -> Found<Claims> {
        self.open(token, now, jwks, dear, |body, user| {
            if body.names_channel() {
                return Err(Why::Kind.into());
            }
            Ok(body.connection(user)?)
        })
    }

    fn find_subscription(&self, token: &str, now: u64, jwks: &Jwks, dear: Dear) -> Found<ChannelClaims> {
        self.open(token, now, jwks, dear, |body, user| Ok(body.subscription(user)?))
    }

    /// Issuer and audience come before the signature, for they choose the key set; times last, so that `Expired` is
    /// said only of a token that was good or will be.
    fn open<T>(
        &self,
        token: &str,
        now: u64,
        jwks: &Jwks,
        dear: Dear,
        read: impl FnOnce(&RawClaims<'_>, CompactString) -> Result<T, Holds<TokenError>>,
    ) -> Found<T> {
        let parts = Parts::split(token)?;
        let header = decoded(parts.header)?;
        let header: Header<'_> = serde_json::from_slice(&header).map_err(|_| Why::Malformed)?;
        let algorithm = Algorithm::parse(&header.alg).ok_or(Why::Algorithm)?;
        if header.crit.is_some() {
            // An extension that changes what the signature means, and must not be passed over.
            return Err(Why::Malformed.into());
        }
        if dear == Dear::Elsewhere && self.is_dear(algorithm) {
            return Err(Holds::never(TokenError::Needs(Need::Check)));
        }
        let (bytes, signature) = (decoded(parts.body)?, decoded(parts.signature)?);
        let body = RawClaims::parse(&bytes)?;
        let groups = self.issuer_and_audience(&body)?;
        let key_until = match &self.keys {
            Keys::Skipped => u64::MAX,
            Keys::Configured(keys) => keys.verify(algorithm, parts.signed, &signature, now)?,
            // A key set has public keys only, so no fetch would bring the one to such a token.
            Keys::Fetched(_) if algorithm.is_hmac() => return Err(Why::Algorithm.into()),
            Keys::Fetched(source) => {
                let url = source.url(|name| groups.get(name)).ok_or(Why::UnknownKey)?;
                let key = jwks.find(url, header.kid.as_deref().ok_or(Why::UnknownKey)?, algorithm, now);
                let is_good = key.map_err(Holds::never)?.verify(algorithm, parts.signed, &signature);
                is_good.then_some(u64::MAX).ok_or(Why::Signature)?
            }
        };
        let user = if self.user_claim.is_empty() { body.user()? } else { user_of_claim(&bytes, &self.user_claim)? };
        let claims = Arc::new(read(&body, user)?);
        // A fraction of a second counts up: at second 5 a token until 5.5 is good, and one from 5.5 is not.
        let (from, until) = (body.nbf.map_or(0, whole_seconds), body.exp.map_or(u64::MAX, whole_seconds));
        match now {
            now if now < from => Err(Holds { what: TokenError::Expired, from: 0, until: from }),
            now if now >= until => Err(Holds { what: TokenError::Expired, from: until, until: u64::MAX }),
            _ => Ok(Holds { what: claims, from, until: until.min(key_until) }),
        }
    }

    /// Does it take a public key's arithmetic to tell a token of this algorithm good from bad?
    fn is_dear(&self, algorithm: Algorithm) -> bool {
        match &self.keys {
            Keys::Skipped => false,
            Keys::Configured(keys) => keys.public(algorithm).is_some(),
            Keys::Fetched(_) => !algorithm.is_hmac(),
        }
    }

    fn issuer_and_audience(&self, body: &RawClaims<'_>) -> Result<Groups, Holds<TokenError>> {
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
    fn verify(&self, algorithm: Algorithm, signed: &[u8], signature: &[u8], now: u64) -> Result<u64, Why> {
        let Algorithm::Hs(hash) = algorithm else {
            let key = self.public(algorithm).ok_or(Why::Algorithm)?;
            return key.verify(algorithm, signed, signature).then_some(u64::MAX).ok_or(Why::Signature);
        };
        if self.secret.as_ref().is_some_and(|secret| secret.verify(hash, signed, signature)) {
            return Ok(u64::MAX);
        }
        let previous = self.previous.as_ref().filter(|(_, until)| now <= *until);
        let fits = previous.filter(|(secret, _)| secret.verify(hash, signed, signature));
        let wrong = if self.secret.is_none() && previous.is_none() { Why::Algorithm } else { Why::Signature };
        fits.map(|(_, until)| until.saturating_add(1)).ok_or(wrong)
    }

    /// The public key that serves an algorithm, if there is one.
    fn public(&self, algorithm: Algorithm) -> Option<&PublicKey> {
        [&self.rsa, &self.ecdsa].into_iter().flatten().find(|key| key.fits(algorithm))
    }
}

impl Holds<TokenError> {
    /// A key for which the set was `fetched` already is asked for no more.
    fn once(self, jwks: &Jwks, fetched: bool) -> Holds<TokenError> {
        match self.what {
            TokenError::Needs(Need::Key(url)) if fetched => Holds::never(jwks.missing(&url)),
            what => Holds { what, ..self },
        }
    }
}

fn settled<T>(found: Found<T>) -> Result<Arc<T>, TokenError> {
    found.map(|good| good.what).map_err(|bad| bad.what)
}

/// A token with these claims by HS256, HS384 or HS512; `None` if `algorithm` is none of them.
pub fn sign(secret: &str, algorithm: &str, claims: &str) -> Option<String> {
    let Some(Algorithm::Hs(hash)) = Algorithm::parse(algorithm) else { return None };
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let header = format!(r#"{{"typ":"JWT","alg":"{algorithm}"}}"#);
    let signed = format!("{}.{}", encode(&header), encode(claims));
    let signature = URL_SAFE_NO_PAD.encode(HmacSecret::new(secret).sign(hash, signed.as_bytes()));
    Some(format!("{signed}.{signature}"))
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
        Ok(Parts { signed: signed.as_bytes(), header, body, signature })
    }
}

fn decoded(part: &str) -> Result<Vec<u8>, Why> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| Why::Malformed)
}

/// What is below zero is zero, what is beyond any number the largest.
fn whole_seconds(time: f64) -> u64 {
    time.ceil() as u64
}
