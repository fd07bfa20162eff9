//! F2 · Token bytes to claims: signature, times and the user, by `jsonwebtoken`.
//!
//! Pure: keys are injected and the time is an argument. Knows nothing of clients or of what claims allow.

use crate::config;
use base64::Engine;
use bytes::Bytes;
use compact_str::CompactString;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use serde_json::value::RawValue;

/// Bytes of a token; a longer one is refused unread.
const TOKEN_LEN_MAX: usize = 16 * 1024;

/// What a valid connection token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// "" = anonymous.
    pub user: CompactString,
    /// JSON shown to others as `conn_info`; empty = none.
    pub info: Bytes,
    /// Seconds since 1970; `None` = the connection does not expire.
    pub expire_at: Option<u64>,
    /// The token names server-side subscriptions.
    pub names_channels: bool,
}

/// Why a token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenError {
    /// Malformed, wrongly signed, of another algorithm, or meant for something else. Disconnect 3500.
    Invalid,
    /// Past its `exp`, or before its `nbf`. Error 109: a new one helps.
    Expired,
}

/// Checks connection tokens against the configured key.
pub struct Verifier {
    key: Option<DecodingKey>,
    validation: Validation,
}

/// The claims as they stand in the token. Times are NumericDates (RFC 7519 section 2): seconds, a fraction allowed.
#[derive(Deserialize)]
struct TokenClaims {
    #[serde(default)]
    sub: Option<CompactString>,
    exp: Option<f64>,
    nbf: Option<f64>,
    expire_at: Option<f64>,
    info: Option<Box<RawValue>>,
    b64info: Option<String>,
    channel: Option<serde::de::IgnoredAny>,
    channels: Option<Vec<String>>,
    subs: Option<serde_json::Map<String, serde_json::Value>>,
}

impl Verifier {
    /// Without a key every token is invalid.
    pub fn new(options: &config::Token) -> Verifier {
        let secret = &options.hmac_secret_key;
        let mut validation = Validation::new(Algorithm::HS256);
        validation.algorithms = vec![Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
        // Times are compared here, with the caller's clock and without leeway; audience is not configured.
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        Verifier { key: (!secret.is_empty()).then(|| DecodingKey::from_secret(secret.as_bytes())), validation }
    }

    /// The claims of `token` at `now` (seconds since 1970).
    pub fn verify(&self, token: &str, now: u64) -> Result<Claims, TokenError> {
        let key = self.key.as_ref().filter(|_| token.len() <= TOKEN_LEN_MAX).ok_or(TokenError::Invalid)?;
        let claims = jsonwebtoken::decode::<Box<RawValue>>(token, key, &self.validation)
            .map_err(|_| TokenError::Invalid)?
            .claims;
        let claims: TokenClaims = serde_json::from_str(claims.get()).map_err(|_| TokenError::Invalid)?;
        if claims.channel.is_some() {
            // A subscription token is no connection token.
            return Err(TokenError::Invalid);
        }
        let seconds = now as f64;
        if claims.exp.is_some_and(|exp| exp <= seconds) || claims.nbf.is_some_and(|nbf| nbf > seconds) {
            return Err(TokenError::Expired);
        }
        let expire_at = match claims.expire_at {
            Some(at) => (at > 0.0).then_some(at as u64),
            None => claims.exp.map(|exp| exp as u64),
        };
        Ok(Claims {
            user: claims.sub.unwrap_or_default(),
            info: info(claims.info, claims.b64info)?,
            expire_at,
            names_channels: claims.channels.is_some_and(|c| !c.is_empty())
                || claims.subs.is_some_and(|s| !s.is_empty()),
        })
    }
}

fn info(json: Option<Box<RawValue>>, base64: Option<String>) -> Result<Bytes, TokenError> {
    match (json, base64) {
        (_, Some(text)) if !text.is_empty() => {
            let bytes = base64::engine::general_purpose::STANDARD.decode(text);
            bytes.map(Bytes::from).map_err(|_| TokenError::Invalid)
        }
        (Some(value), _) if value.get() != "null" => Ok(Bytes::from(String::from(Box::<str>::from(value)))),
        _ => Ok(Bytes::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{EncodingKey, Header, encode};
    use serde_json::{Value, json};

    const NOW: u64 = 1_700_000_000;

    fn verifier() -> Verifier {
        Verifier::new(&config::Token { hmac_secret_key: "key".into() })
    }

    fn token(algorithm: Algorithm, key: &str, claims: Value) -> String {
        encode(&Header::new(algorithm), &claims, &EncodingKey::from_secret(key.as_bytes())).expect("token")
    }

    fn verify(claims: Value) -> Result<Claims, TokenError> {
        verifier().verify(&token(Algorithm::HS256, "key", claims), NOW)
    }

    #[test]
    fn reads_user_info_and_expiry_of_each_algorithm() {
        for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            let token = token(algorithm, "key", json!({"sub": "42", "info": {"name": "A"}, "exp": NOW + 10}));
            let expected = Claims {
                user: "42".into(),
                info: r#"{"name":"A"}"#.into(),
                expire_at: Some(NOW + 10),
                names_channels: false,
            };
            assert_eq!(verifier().verify(&token, NOW), Ok(expected), "{algorithm:?}");
        }
        assert_eq!(verify(json!({})).expect("anonymous").user, "");
        assert_eq!(verify(json!({"sub": "1", "exp": NOW + 9, "expire_at": 0})).expect("valid").expire_at, None);
        assert_eq!(verify(json!({"sub": "1", "b64info": "e30="})).expect("valid").info, "{}");
        assert!(verify(json!({"sub": "1", "channels": ["a"]})).expect("valid").names_channels);
    }

    #[test]
    fn times_have_no_leeway() {
        assert_eq!(verify(json!({"sub": "1", "exp": NOW})), Err(TokenError::Expired));
        assert_eq!(verify(json!({"sub": "1", "nbf": NOW + 1})), Err(TokenError::Expired));
        assert!(verify(json!({"sub": "1", "nbf": NOW, "exp": NOW as f64 + 0.5})).is_ok());
    }

    #[test]
    fn refuses_every_other_token() {
        let good = token(Algorithm::HS256, "key", json!({"sub": "1"}));
        let unsigned = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJzdWIiOiIxIn0.";
        let long = format!("{good}{}", "A".repeat(TOKEN_LEN_MAX));
        for bad in [
            "",
            "x",
            "a.b.c",
            unsigned,
            &good[..good.len() - 2],
            &long,
            &token(Algorithm::HS256, "other", json!({"sub": "1"})),
        ] {
            assert_eq!(verifier().verify(bad, NOW), Err(TokenError::Invalid), "{bad:.60}");
        }
        for claims in
            [json!({"sub": 1}), json!({"sub": "1", "channel": "c"}), json!({"exp": "soon"}), json!({"b64info": "%"})]
        {
            assert_eq!(verify(claims.clone()), Err(TokenError::Invalid), "{claims}");
        }
        let keyless = Verifier::new(&config::Token { hmac_secret_key: String::new() });
        assert_eq!(keyless.verify(&token(Algorithm::HS256, "", json!({"sub": "1"})), NOW), Err(TokenError::Invalid));
    }
}
