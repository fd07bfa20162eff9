//! F6 · `gannet token`: a connection token, signed with the configured key.
//!
//! Owns the claims of such a token. It is made with the same library that checks tokens, but shares no
//! code with that check. Never reads a clock or prints: the time is an argument, the token the result.

use std::time::Duration;

use clap::ArgMatches;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Map, Value as Json};

/// What the token is to say.
#[derive(Debug)]
pub struct Claims {
    pub user: String,
    /// Zero = it never expires.
    pub life: Duration,
    pub info: Option<Json>,
    pub algorithm: Algorithm,
}

impl Claims {
    /// From the flags of `gannet token`.
    pub fn of(matches: &ArgMatches) -> Result<Claims, String> {
        let text = |name: &str| matches.get_one::<String>(name).map_or("", String::as_str);
        let life = humantime::parse_duration(text("expires-in")).map_err(|_| {
            let got = text("expires-in");
            format!("--expires-in: expected a duration with its unit (1h, 90s, 7d); got {got:?}")
        })?;
        let info = match matches.get_one::<String>("info") {
            Some(info) => Some(serde_json::from_str(info).map_err(|e| format!("--info: expected JSON; {e}"))?),
            None => None,
        };
        let algorithm = match text("alg") {
            "HS384" => Algorithm::HS384,
            "HS512" => Algorithm::HS512,
            _ => Algorithm::HS256,
        };
        Ok(Claims { user: text("user").to_owned(), life, info, algorithm })
    }
}

/// `now` is in seconds since 1970.
pub fn make(claims: Claims, key: &str, now: u64) -> Result<String, String> {
    if key.is_empty() {
        return Err("client.token.hmac_secret_key is empty, so there is no key to sign with; set it in the \
                    file (-c) or in $GANNET_CLIENT_TOKEN_HMAC_SECRET_KEY"
            .into());
    }
    let mut body = Map::new();
    body.insert("sub".into(), claims.user.into());
    body.insert("iat".into(), now.into());
    if !claims.life.is_zero() {
        // Up to the next whole second: a token for half a second is not one that has expired already.
        let life = claims.life.as_secs() + u64::from(claims.life.subsec_nanos() > 0);
        body.insert("exp".into(), now.saturating_add(life).into());
    }
    if let Some(info) = claims.info {
        body.insert("info".into(), info);
    }
    let key = EncodingKey::from_secret(key.as_bytes());
    jsonwebtoken::encode(&Header::new(claims.algorithm), &body, &key).map_err(|e| format!("token: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{DecodingKey, Validation};
    use serde_json::json;

    fn body(token: &str, algorithm: Algorithm) -> Json {
        let mut validation = Validation::new(algorithm);
        validation.validate_exp = false;
        validation.required_spec_claims.clear();
        let key = DecodingKey::from_secret(b"key");
        jsonwebtoken::decode::<Json>(token, &key, &validation).unwrap().claims
    }

    #[test]
    fn claims_and_signature() {
        for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            let (life, info) = (Duration::from_millis(1500), Some(json!({"name": "Ada"})));
            let claims = Claims { user: "42".into(), life, info, algorithm };
            let token = make(claims, "key", 1000).unwrap();
            let expected = json!({"sub": "42", "iat": 1000, "exp": 1002, "info": {"name": "Ada"}});
            assert_eq!(body(&token, algorithm), expected);
        }
    }

    #[test]
    fn it_may_last_for_ever_and_be_anonymous() {
        let (user, life, algorithm) = (String::new(), Duration::ZERO, Algorithm::HS256);
        let token = make(Claims { user, life, info: None, algorithm }, "key", 1000).unwrap();
        assert_eq!(body(&token, algorithm), json!({"sub": "", "iat": 1000}));
    }

    #[test]
    fn no_key_is_told() {
        let (user, life, algorithm) = (String::new(), Duration::ZERO, Algorithm::HS256);
        let error = make(Claims { user, life, info: None, algorithm }, "", 0).unwrap_err();
        assert!(error.starts_with("client.token.hmac_secret_key is empty"));
    }
}
