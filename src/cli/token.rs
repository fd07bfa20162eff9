//! F11 · `gannet token`: tokens made with the configured key, and checked as the server would check them.
//!
//! Owns the claims of a token that is made. The server's own check has the last word on what was made. Never reads a
//! clock or prints: the time is an argument, the text the result.

mod check;

use std::time::Duration;

use clap::ArgMatches;
use serde_json::{Map, Value as Json};

use crate::auth::{self, Jwks, TokenError, Verifier};
use crate::config::{Client, Token};

/// Which of the two tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Connection,
    Subscription,
}

impl Kind {
    /// The options that tell such a token good from bad, and the section they are in.
    fn section(self, client: &Client) -> (&'static str, &Token) {
        match self {
            Kind::Subscription if client.subscription_token.enabled => {
                ("client.subscription_token", client.token_of_subscriptions())
            }
            _ => ("client.token", &client.token),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Connection => "connection token",
            Kind::Subscription => "subscription token",
        }
    }

    fn verify(self, client: &Client, jwks: &Jwks, token: &str, now: u64) -> Result<(), Refusal> {
        let (section, options) = self.section(client);
        let verifier = Verifier::new(options, client.insecure_skip_token_signature_verify)
            .map_err(|error| Refusal::Unusable(format!("{section}.{error}")))?;
        let verified = match self {
            Kind::Connection => verifier.connection(token, now, jwks).map(|_| ()),
            Kind::Subscription => verifier.subscription(token, now, jwks).map(|_| ()),
        };
        verified.map_err(Refusal::Token)
    }
}

enum Refusal {
    Token(TokenError),
    /// The configuration is at fault, not the token.
    Unusable(String),
}

/// `now` is in seconds since 1970. The text to print, and whether the answer is yes.
pub fn carry_out(matches: &ArgMatches, client: &Client, now: u64) -> Result<(String, bool), String> {
    let (kind, flags) = match matches.subcommand() {
        None => (Kind::Connection, matches),
        Some(("subscription", flags)) => (Kind::Subscription, flags),
        Some(("check", flags)) => return check::carry_out(flags, client, now),
        Some((_, flags)) => (Kind::Connection, flags),
    };
    let astray = ["user", "ttl", "info", "channels", "meta", "aud", "iss", "alg"].into_iter();
    let given = |name: &&str| matches.value_source(name) == Some(clap::parser::ValueSource::CommandLine);
    if let Some(flag) = astray.filter(|_| matches.subcommand().is_some()).find(given) {
        return Err(format!("--{flag}: expected behind the word that says which token, not before it"));
    }
    let (section, options) = kind.section(client);
    let body = body(kind, flags, options, now)?;
    let token = sign(body, text(flags, "alg").unwrap_or("HS256"), section, options)?;
    match kind.verify(client, &Jwks::default(), &token, now) {
        Ok(()) => Ok((token + "\n", true)),
        Err(Refusal::Unusable(message)) => Err(message),
        Err(Refusal::Token(error)) => Err(format!("the server would refuse this token: {}", check::reason(&error))),
    }
}

/// A connection token for a day, for one of our own commands.
pub fn of_user(client: &Client, user: &str, now: u64) -> Result<String, String> {
    let words = ["gannet", "token", "--ttl", "1d", "--user", user];
    let root = super::flags::command().try_get_matches_from(words).map_err(|error| error.to_string())?;
    let flags = root.subcommand().map_or(&root, |(_, flags)| flags);
    carry_out(flags, client, now).map(|(token, _)| token.trim_end().to_owned())
}

fn text<'a>(flags: &'a ArgMatches, name: &str) -> Option<&'a str> {
    flags.try_get_one::<String>(name).ok().flatten().map(String::as_str)
}

/// The claims that the flags ask for, with those that the options demand.
fn body(kind: Kind, flags: &ArgMatches, options: &Token, now: u64) -> Result<Map<String, Json>, String> {
    let ttl = text(flags, "ttl").unwrap_or_default();
    let life = humantime::parse_duration(ttl)
        .map_err(|_| format!("--ttl: expected a duration with its unit (1h, 90s, 7d); got {ttl:?}"))?;
    let mut body = Map::new();
    let user_claim = if options.user_id_claim.is_empty() { "sub" } else { &options.user_id_claim };
    body.insert(user_claim.into(), text(flags, "user").unwrap_or_default().into());
    body.insert("iat".into(), now.into());
    if life > Duration::ZERO {
        // Up to the next whole second: a token for half a second is not one that has expired already.
        let life = life.as_secs() + u64::from(life.subsec_nanos() > 0);
        body.insert("exp".into(), now.saturating_add(life).into());
    }
    for (claim, wanted) in [("aud", &options.audience), ("iss", &options.issuer)] {
        if let Some(value) = text(flags, claim).or(Some(wanted.as_str())).filter(|value| !value.is_empty()) {
            body.insert(claim.into(), value.into());
        }
    }
    for claim in ["info", "data", "meta"] {
        if let Some(json) = text(flags, claim) {
            let json = serde_json::from_str(json).map_err(|e| format!("--{claim}: expected JSON; {e}"))?;
            body.insert(claim.into(), json);
        }
    }
    match kind {
        Kind::Subscription => {
            for claim in ["channel", "client"] {
                body.extend(text(flags, claim).map(|value| (claim.to_owned(), value.into())));
            }
        }
        Kind::Connection => {
            let channels = flags.get_many::<String>("channels").into_iter().flatten();
            let channels: Vec<Json> = channels.map(|channel| channel.as_str().into()).collect();
            body.extend((!channels.is_empty()).then(|| ("channels".to_owned(), channels.into())));
        }
    }
    Ok(body)
}

fn sign(body: Map<String, Json>, algorithm: &str, section: &str, options: &Token) -> Result<String, String> {
    if !options.jwks_public_endpoint.is_empty() {
        return Err(format!(
            "{section}.jwks_public_endpoint is set, so that only tokens of that provider are taken: ask it for one"
        ));
    }
    if options.hmac_secret_key.is_empty() {
        let public = !options.rsa_public_key.is_empty() || !options.ecdsa_public_key.is_empty();
        let more = if public { "a public key signs nothing: sign where the private one is, or " } else { "" };
        let variable = section.to_ascii_uppercase().replace('.', "_");
        return Err(format!(
            "{section}.hmac_secret_key is empty, so there is no key to sign with; {more}set it in the file (-c) or in \
             $GANNET_{variable}_HMAC_SECRET_KEY"
        ));
    }
    auth::sign(&options.hmac_secret_key, algorithm, &Json::from(body).to_string())
        .ok_or_else(|| format!("--alg: expected HS256, HS384 or HS512; got {algorithm:?}"))
}

#[cfg(test)]
mod tests {
    use super::super::flags;
    use super::*;
    use crate::config::Config;
    use jsonwebtoken::{Algorithm, DecodingKey, Validation};
    use serde_json::json;

    fn config() -> Config {
        let mut config = Config::default();
        config.client.token.hmac_secret_key = "key".into();
        config
    }

    fn run(line: &str, config: &Config) -> Result<String, String> {
        let root = flags::command().try_get_matches_from(line.split(' ')).expect("good arguments");
        let (_, matches) = root.subcommand().expect("token");
        carry_out(matches, &config.client, 1000).map(|(text, _)| text)
    }

    /// By another library than the one that checks.
    fn claims(token: &str, key: &str, algorithm: Algorithm) -> Json {
        let mut validation = Validation::new(algorithm);
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        let key = DecodingKey::from_secret(key.as_bytes()).expect("a key");
        jsonwebtoken::decode::<Json>(token.trim_end(), &key, &validation).expect("a token").claims
    }

    #[test]
    fn a_connection_token_has_what_was_asked_for() {
        let algorithms = [("HS256", Algorithm::HS256), ("HS384", Algorithm::HS384), ("HS512", Algorithm::HS512)];
        for (name, algorithm) in algorithms {
            let line = r#"gannet token connection --user 42 --ttl 1500ms --info {"name":"Ada"} --channels a,b:c"#;
            let token = run(&format!("{line} --meta [1] --alg {name}"), &config()).expect("a token");
            let expected = json!({"sub": "42", "iat": 1000, "exp": 1002, "info": {"name": "Ada"}, "meta": [1],
                                  "channels": ["a", "b:c"]});
            assert_eq!(claims(&token, "key", algorithm), expected);
        }
        let plain = run("gannet token connection --user 42", &config()).expect("a token");
        assert_eq!(claims(&plain, "key", Algorithm::HS256), json!({"sub": "42", "iat": 1000, "exp": 605_800}));
        for short in ["gannet token --user= --ttl 0", "gannet token --user= --expires-in 0"] {
            let token = run(short, &config()).expect("a token");
            assert_eq!(claims(&token, "key", Algorithm::HS256), json!({"sub": "", "iat": 1000}));
        }
    }

    #[test]
    fn a_subscription_token_has_its_own_key() {
        let line = "gannet token subscription --user 42 --channel $news --client x --info 1 --data {} --ttl 0";
        let expected = json!({"sub": "42", "iat": 1000, "channel": "$news", "client": "x", "info": 1, "data": {}});
        let mut config = config();
        let token = run(line, &config).expect("a token");
        assert_eq!(claims(&token, "key", Algorithm::HS256), expected);
        config.client.subscription_token.enabled = true;
        let error = run(line, &config).expect_err("no key");
        assert!(error.contains("$GANNET_CLIENT_SUBSCRIPTION_TOKEN_HMAC_SECRET_KEY"), "{error}");
        config.client.subscription_token.token.hmac_secret_key = "other".into();
        assert_eq!(claims(&run(line, &config).expect("a token"), "other", Algorithm::HS256), expected);
    }

    #[test]
    fn what_the_server_demands_is_in_it() {
        let mut config = config();
        let token = &mut config.client.token;
        (token.audience, token.issuer, token.user_id_claim) = ("here".into(), "me".into(), "uid".into());
        let made = run("gannet token --user 42 --ttl 0", &config).expect("a token");
        let expected = json!({"uid": "42", "iat": 1000, "aud": "here", "iss": "me"});
        assert_eq!(claims(&made, "key", Algorithm::HS256), expected);
        config.client.token.issuer = String::new();
        config.client.token.issuer_regex = "^(a|b)$".into();
        let error = run("gannet token --user 42", &config).expect_err("no issuer");
        assert!(error.starts_with("the server would refuse this token: its iss"), "{error}");
        assert!(run("gannet token --user 42 --iss b", &config).is_ok());
    }

    #[test]
    fn no_key_is_told() {
        let mut config = Config::default();
        let error = |config: &Config| run("gannet token --user 42", config).expect_err("no key");
        assert!(error(&config).starts_with("client.token.hmac_secret_key is empty"));
        config.client.token.rsa_public_key = "some".into();
        assert!(error(&config).contains("a public key signs nothing"));
        config.client.token.jwks_public_endpoint = "https://a/".into();
        assert!(error(&config).contains("ask it for one"));
        let astray = run("gannet token --ttl 5s connection --user 1", &self::config()).expect_err("a flag astray");
        assert!(astray.starts_with("--ttl: expected behind"), "{astray}");
    }
}
