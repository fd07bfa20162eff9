//! F2 · Checks of tokens, good and bad.
//!
//! Tokens are put together here by hand, so that those no library would make can be tried as well. That the signatures
//! are those of others is held by the examples of the RFCs.

use super::*;
use crate::config::{Config, Token};
use bytes::Bytes;
use p256::ecdsa::signature::{SignatureEncoding, Signer};
use proptest::prelude::*;
use rsa::pkcs1::EncodeRsaPublicKey;
use rsa::pkcs8::{EncodePublicKey, LineEnding};
use rsa::traits::PublicKeyParts;
use serde_json::{Value, json};
use std::sync::LazyLock;

const NOW: u64 = 1_700_000_000;
const URL: &str = "https://id.example.com/keys";
const ALGORITHMS: [&str; 10] =
    ["HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "EdDSA"];

/// Two primes of 1024 bits, made for these tests.
const PRIMES: [&str; 2] = [
    "F06C4E52B7C174530050B83D4DAEB22DD9AF80A029C3E85F7768F3E439AC9509A3714CE90EA0028D0B6B740B8BCEFD0E\
            838B271CED7D3C848DC4AE7CEFE389C6A67297F8BB4E1D74F0BF1E9AA7793C3C81EC44F3D19D1750A830F34C718DC8A0\
            21F54C6C9E92A740EC87357F4E4EE20BE4BFE102791C3A1141DF5FDBAE16D8B7",
    "C16A4BD632102CA48256B6C78D1CD368DCE4DC1C5374876DD77959A38DCB9ED5AF0D49FFC578417B08F5B5F8E5503A65\
            95A1619F2B3D78D9077CAEB099C16A06B9DFA8EE4987D621FEF3F3FF9D4B043C72DE65D45FE253F6A4D805C8DB5802CF\
            A8A32F4FA5A77DBA3F2CA04B4E0DCCC59CE950E013693DF5C0E5BC5B2656A715",
];

static RSA: LazyLock<rsa::PrivateKey> = LazyLock::new(|| {
    let [p, q] = PRIMES.map(|hex| rsa::BoxedUint::from_be_hex(hex, 1024).expect("a number"));
    rsa::PrivateKey::from_p_q(p, q, 65537u32.into()).expect("two primes")
});

fn p256_key() -> p256::ecdsa::SigningKey {
    p256::ecdsa::SigningKey::from_slice(&[7; 32]).expect("a key")
}

fn p384_key() -> p384::ecdsa::SigningKey {
    p384::ecdsa::SigningKey::from_slice(&[7; 48]).expect("a key")
}

fn p521_secret() -> p521::SecretKey {
    p521::SecretKey::from_slice(&[&[0; 2], [7; 64].as_slice()].concat()).expect("a key")
}

fn ed25519_key() -> ed25519_dalek::SigningKey {
    ed25519_dalek::SigningKey::from_bytes(&[7; 32])
}

fn hmac_of(algorithm: &str, secret: &[u8], message: &[u8]) -> Vec<u8> {
    use hmac::{Hmac, KeyInit, Mac};
    fn tag<M: Mac + KeyInit>(secret: &[u8], message: &[u8]) -> Vec<u8> {
        M::new_from_slice(secret).expect("any length").chain_update(message).finalize().into_bytes().to_vec()
    }
    match algorithm {
        "HS384" => tag::<Hmac<sha2::Sha384>>(secret, message),
        "HS512" => tag::<Hmac<sha2::Sha512>>(secret, message),
        _ => tag::<Hmac<sha2::Sha256>>(secret, message),
    }
}

fn signature(algorithm: &str, message: &[u8]) -> Vec<u8> {
    use rsa::pkcs1v15::SigningKey;
    match algorithm {
        "RS256" => SigningKey::<sha2::Sha256>::new(RSA.clone()).sign(message).to_vec(),
        "RS384" => SigningKey::<sha2::Sha384>::new(RSA.clone()).sign(message).to_vec(),
        "RS512" => SigningKey::<sha2::Sha512>::new(RSA.clone()).sign(message).to_vec(),
        "ES256" => Signer::<p256::ecdsa::Signature>::sign(&p256_key(), message).to_vec(),
        "ES384" => Signer::<p384::ecdsa::Signature>::sign(&p384_key(), message).to_vec(),
        "ES512" => {
            let key = p521::ecdsa::SigningKey::from_slice(&p521_secret().to_bytes()).expect("a key");
            Signer::<p521::ecdsa::Signature>::sign(&key, message).to_vec()
        }
        "EdDSA" | "Ed25519" => ed25519_key().sign(message).to_vec(),
        hmac => hmac_of(hmac, b"key", message),
    }
}

fn put_together(header: &Value, claims: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let signed = format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()));
    let signature = encode(&sign(signed.as_bytes()));
    format!("{signed}.{signature}")
}

fn token(algorithm: &str, claims: Value) -> String {
    put_together(&json!({"alg": algorithm, "typ": "JWT"}), &claims, |message| signature(algorithm, message))
}

fn token_of_key(algorithm: &str, kid: &str, claims: Value) -> String {
    put_together(&json!({"alg": algorithm, "kid": kid}), &claims, |message| signature(algorithm, message))
}

/// With HMAC and `secret`.
fn token_of_secret(algorithm: &str, secret: &str, claims: Value) -> String {
    put_together(&json!({"alg": algorithm}), &claims, |message| hmac_of(algorithm, secret.as_bytes(), message))
}

fn rsa_pem() -> String {
    RSA.to_public_key().to_public_key_pem(LineEnding::LF).expect("PEM")
}

fn ecdsa_pem(curve: &str) -> String {
    let pem = match curve {
        "P-256" => p256::PublicKey::from(p256_key().verifying_key()).to_public_key_pem(LineEnding::LF),
        "P-384" => p384::PublicKey::from(p384_key().verifying_key()).to_public_key_pem(LineEnding::LF),
        _ => p521_secret().public_key().to_public_key_pem(LineEnding::CRLF),
    };
    pem.expect("PEM")
}

fn secret() -> Token {
    Token { hmac_secret_key: "key".into(), ..Token::default() }
}

fn verifier(options: &Token) -> Verifier {
    Verifier::new(options, false).expect("good options")
}

fn verify(claims: Value) -> Result<Arc<Claims>, TokenError> {
    verifier(&secret()).connection(&token("HS256", claims), NOW, &Jwks::default())
}

fn invalid<T>(why: Why) -> Result<T, TokenError> {
    Err(TokenError::Invalid(why))
}

/// The keys above as a set, each called by the algorithm it serves.
fn key_set() -> Value {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let curve = |kid: &str, name: &str, point: &[u8]| {
        let (x, y) = point[1..].split_at((point.len() - 1) / 2);
        json!({"kty": "EC", "kid": kid, "crv": name, "x": encode(x), "y": encode(y), "use": "sig"})
    };
    let (n, e) = (encode(&RSA.n().to_be_bytes()), encode(&RSA.e().to_be_bytes()));
    json!({"keys": [
        {"kty": "RSA", "kid": "RS", "n": n, "e": e},
        {"kty": "RSA", "kid": "RS512 only", "n": n, "e": e, "alg": "RS512", "key_ops": ["verify"]},
        {"kty": "RSA", "kid": "to encrypt", "n": n, "e": e, "use": "enc"},
        curve("ES256", "P-256", p256_key().verifying_key().to_sec1_point(false).as_bytes()),
        curve("ES384", "P-384", p384_key().verifying_key().to_sec1_point(false).as_bytes()),
        curve("ES512", "P-521", &p521_secret().public_key().to_sec1_bytes()),
        {"kty": "OKP", "kid": "EdDSA", "crv": "Ed25519", "x": encode(ed25519_key().verifying_key().as_bytes())},
        {"kty": "oct", "kid": "secret", "k": encode(b"key"), "alg": "HS256"},
        {"kty": "AKP", "kid": "of another time", "alg": "ML-DSA-44", "pub": "AAAA"},
        {"kty": "EC", "kid": 7},
        {"kty": "EC", "kid": "broken", "crv": "P-256", "x": "AAAA", "y": "AAAA"},
    ]})
}

fn parsed(set: &Value) -> KeySet {
    KeySet::parse(set.to_string().as_bytes()).expect("a key set")
}

fn endpoint(url: &str) -> Token {
    Token { jwks_public_endpoint: url.into(), ..Token::default() }
}

fn fetched() -> Jwks {
    let mut jwks = Jwks::default();
    jwks.insert(URL.into(), parsed(&key_set()), NOW);
    jwks
}

#[test]
fn each_algorithm_wants_its_own_key() {
    let sections = [
        ("HS", secret()),
        ("RS", Token { rsa_public_key: rsa_pem(), ..Token::default() }),
        ("ES256", Token { ecdsa_public_key: ecdsa_pem("P-256"), ..Token::default() }),
        ("ES384", Token { ecdsa_public_key: ecdsa_pem("P-384"), ..Token::default() }),
        ("ES512", Token { ecdsa_public_key: ecdsa_pem("P-521"), ..Token::default() }),
        ("no key", Token::default()),
    ];
    let tokens = ALGORITHMS.map(|name| (name, token(name, json!({"sub": "42", "exp": NOW + 10}))));
    for (key, section) in sections {
        let verifier = verifier(&section);
        for (name, token) in &tokens {
            let got = verifier.connection(token, NOW, &Jwks::default());
            if name.starts_with(key) {
                let expected = Claims { user: "42".into(), expire_at: Some(NOW + 10), ..Claims::default() };
                assert_eq!(got, Ok(expected.into()), "{name} with {key}");
            } else {
                assert_eq!(got, invalid(Why::Algorithm), "{name} with {key}");
            }
        }
    }
    let pkcs1 = RSA.to_public_key().to_pkcs1_pem(LineEnding::LF).expect("PEM");
    let older = verifier(&Token { rsa_public_key: pkcs1, ..Token::default() });
    assert!(older.connection(&tokens[3].1, NOW, &Jwks::default()).is_ok(), "BEGIN RSA PUBLIC KEY");
}

#[test]
fn a_public_key_is_no_secret() {
    let all = Token { rsa_public_key: rsa_pem(), ecdsa_public_key: ecdsa_pem("P-256"), ..secret() };
    let public = Token { hmac_secret_key: String::new(), ..all.clone() };
    let keys = [rsa_pem(), rsa_pem().trim().to_owned(), ecdsa_pem("P-256"), String::new()];
    for (name, key) in ["HS256", "HS384", "HS512"].into_iter().flat_map(|name| keys.iter().map(move |k| (name, k))) {
        let forged = token_of_secret(name, key, json!({"sub": "admin"}));
        assert_eq!(verifier(&all).connection(&forged, NOW, &Jwks::default()), invalid(Why::Signature));
        assert_eq!(verifier(&public).connection(&forged, NOW, &Jwks::default()), invalid(Why::Algorithm));
        assert_eq!(verifier(&endpoint(URL)).connection(&forged, NOW, &fetched()), invalid(Why::Algorithm));
    }
    // A signature of one kind under the name of another.
    for (named, made) in [("RS256", "RS512"), ("RS256", "HS256"), ("ES256", "EdDSA"), ("ES256", "ES384")] {
        let forged = put_together(&json!({"alg": named}), &json!({"sub": "1"}), |message| signature(made, message));
        assert_eq!(verifier(&all).connection(&forged, NOW, &Jwks::default()), invalid(Why::Signature), "{made}");
    }
}

#[test]
fn no_signature_is_no_token() {
    for name in ["none", "None", "NONE", "nOnE", "", "HS", "HS1", "PS256", "ES256K", "hs256", "dir"] {
        let unsigned = put_together(&json!({"alg": name}), &json!({"sub": "1"}), |_| Vec::new());
        for verifier in [verifier(&secret()), Verifier::new(&secret(), true).expect("good options")] {
            assert_eq!(verifier.connection(&unsigned, NOW, &Jwks::default()), invalid(Why::Algorithm), "{name}");
        }
    }
    for length in [0, 31, 33] {
        let cut = put_together(&json!({"alg": "HS256"}), &json!({"sub": "1"}), |message| {
            let mut signature = signature("HS256", message);
            signature.resize(length, 0);
            signature
        });
        assert_eq!(verifier(&secret()).connection(&cut, NOW, &Jwks::default()), invalid(Why::Signature), "{length}");
    }
}

#[test]
fn a_skipped_signature_leaves_the_other_rules() {
    let options = Token { audience: "here".into(), ..Token::default() };
    let verifier = Verifier::new(&options, true).expect("good options");
    let made_up = |claims| put_together(&json!({"alg": "RS256"}), &claims, |_| b"anything".to_vec());
    let open = |claims| verifier.connection(&made_up(claims), NOW, &Jwks::default());
    assert_eq!(open(json!({"sub": "1", "aud": "here"})).expect("valid").user, "1");
    assert_eq!(open(json!({"sub": "1"})), invalid(Why::Audience));
    assert_eq!(open(json!({"aud": "here", "exp": NOW})), Err(TokenError::Expired));
}

#[test]
fn the_key_before_counts_until_its_time() {
    let mut options = Token { hmac_previous_secret_key: "old".into(), ..secret() };
    let old = token_of_secret("HS512", "old", json!({"sub": "1"}));
    let at = |options: &Token, now| verifier(options).connection(&old, now, &Jwks::default()).map(|_| ());
    assert_eq!(at(&options, u64::MAX - 1), Ok(()), "0 is without end");
    options.hmac_previous_secret_key_valid_until = NOW;
    assert_eq!(at(&options, NOW), Ok(()));
    assert_eq!(at(&options, NOW + 1), invalid(Why::Signature));
    assert_eq!(at(&secret(), NOW), invalid(Why::Signature));
    let new = verifier(&options).connection(&token("HS256", json!({"sub": "1"})), NOW + 1, &Jwks::default());
    assert!(new.is_ok());
    // The new key may still be missing while the old one is phased out.
    options.hmac_secret_key = String::new();
    assert_eq!(at(&options, NOW), Ok(()));
    assert_eq!(at(&options, NOW + 1), invalid(Why::Algorithm));
}

#[test]
fn issuer_and_audience() {
    let open = |options: &Token, claims| {
        let token = token("HS256", claims);
        verifier(&Token { hmac_secret_key: "key".into(), ..options.clone() }).connection(&token, NOW, &Jwks::default())
    };
    let exact = Token { audience: "chat".into(), issuer: "me".into(), ..Token::default() };
    let by_regex = Token { audience_regex: "^(chat|news)$".into(), issuer_regex: "^m[eo]$".into(), ..Token::default() };
    for options in [exact, by_regex] {
        for good in [json!({"aud": "chat", "iss": "me"}), json!({"aud": ["x", "chat"], "iss": "me"})] {
            assert!(open(&options, good.clone()).is_ok(), "{good}");
        }
        for bad in [json!({"iss": "me"}), json!({"aud": [], "iss": "me"}), json!({"aud": ["chats"], "iss": "me"})] {
            assert_eq!(open(&options, bad.clone()), invalid(Why::Audience), "{bad}");
        }
        for bad in [json!({"aud": "chat"}), json!({"aud": "chat", "iss": "me "}), json!({"aud": "chat", "iss": null})] {
            assert_eq!(open(&options, bad.clone()), invalid(Why::Issuer), "{bad}");
        }
        for odd in [json!({"aud": 5, "iss": "me"}), json!({"aud": ["chat", 5], "iss": "me"}), json!({"iss": ["me"]})] {
            assert_eq!(open(&options, odd.clone()), invalid(Why::Claims), "{odd}");
        }
    }
    // Who does not ask for them does not look at them.
    assert!(verify(json!({"aud": {"any": "thing"}, "iss": 5})).is_ok());
}

#[test]
fn a_key_set_serves_every_public_algorithm() {
    let verifier = verifier(&Token { hmac_secret_key: "key".into(), rsa_public_key: rsa_pem(), ..endpoint(URL) });
    assert_eq!(parsed(&key_set()).len(), 6, "what is not usable is passed over");
    let jwks = fetched();
    let claims = || json!({"sub": "42"});
    for name in ALGORITHMS.into_iter().filter(|name| !name.starts_with("HS")) {
        let kid = if name.starts_with("RS") { "RS" } else { name };
        let good = token_of_key(name, kid, claims());
        assert_eq!(verifier.connection(&good, NOW, &jwks).expect(name).user, "42");
        let channel = verifier.subscription(&token_of_key(name, kid, json!({"channel": "c"})), NOW, &jwks);
        assert_eq!(channel.expect(name).channel, "c");
    }
    let open = |token: String| verifier.connection(&token, NOW, &jwks);
    assert!(open(token_of_key("Ed25519", "EdDSA", claims())).is_ok(), "the name by RFC 9864");
    let key = ed25519_key().verifying_key();
    let x = URL_SAFE_NO_PAD.encode(key.as_bytes());
    let named = json!({"keys": [{"kty": "OKP", "kid": "new", "crv": "Ed25519", "alg": "Ed25519", "x": x}]});
    assert_eq!(parsed(&named).len(), 1);
    assert!(open(token_of_key("RS512", "RS512 only", claims())).is_ok());
    assert_eq!(open(token_of_key("RS256", "RS512 only", claims())), invalid(Why::Algorithm));
    assert_eq!(open(token_of_key("ES256", "ES384", claims())), invalid(Why::Algorithm));
    let forged = put_together(&json!({"alg": "ES256", "kid": "ES256"}), &claims(), |_| vec![1; 64]);
    assert_eq!(open(forged), invalid(Why::Signature));
    for kid in ["to encrypt", "broken", "of another time", "7", ""] {
        assert_eq!(open(token_of_key("RS256", kid, claims())), invalid(Why::UnknownKey), "{kid}");
    }
    assert_eq!(open(token("RS256", claims())), invalid(Why::UnknownKey), "no kid, though rsa_public_key would fit");
    for name in ["HS256", "HS512"] {
        assert_eq!(open(token_of_key(name, "secret", claims())), invalid(Why::Algorithm), "hmac_secret_key is unused");
    }
}

#[test]
fn a_key_set_that_is_not_there_is_asked_for_once() {
    let verifier = verifier(&endpoint(URL));
    assert_eq!(verifier.key_urls().map(|url| &**url).collect::<Vec<_>>(), [URL]);
    let known = token_of_key("EdDSA", "EdDSA", json!({"sub": "1"}));
    let unknown = token_of_key("EdDSA", "who", json!({"sub": "1"}));
    let wanted = || Err(TokenError::Needs(Need::Key(URL.into())));
    let mut jwks = Jwks::default();
    assert_eq!(verifier.connection(&known, NOW, &jwks), wanted());
    jwks.fail(URL.into(), NOW);
    assert_eq!(verifier.connection(&known, NOW, &jwks), Err(TokenError::KeyUnavailable));
    assert_eq!(verifier.connection(&known, NOW + 10, &jwks), wanted());
    jwks.insert(URL.into(), parsed(&key_set()), NOW + 10);
    assert!(verifier.connection(&known, NOW + 10, &jwks).is_ok());
    assert_eq!(verifier.connection(&unknown, NOW + 19, &jwks), invalid(Why::UnknownKey));
    // It may be a new key; but a failed fetch takes nothing away from those there are.
    assert_eq!(verifier.connection(&unknown, NOW + 20, &jwks), wanted());
    jwks.fail(URL.into(), NOW + 20);
    assert_eq!(verifier.connection(&unknown, NOW + 20, &jwks), Err(TokenError::KeyUnavailable));
    assert!(verifier.connection(&known, NOW + 20, &jwks).is_ok());
}

#[test]
fn a_wall_clock_that_steps_back_keeps_no_key_set_from_being_fetched() {
    let verifier = verifier(&endpoint(URL));
    let unknown = token_of_key("EdDSA", "who", json!({"sub": "1"}));
    let jwks = fetched();
    let earlier = NOW - 7200;
    assert_eq!(verifier.connection(&unknown, earlier, &jwks), Err(TokenError::Needs(Need::Key(URL.into()))));
    assert_eq!(jwks.stale(earlier).count(), 1);
    let mut failed = fetched();
    failed.fail(URL.into(), earlier);
    let unavailable = Err(TokenError::KeyUnavailable);
    assert_eq!(verifier.connection(&unknown, earlier, &failed), unavailable, "a new key may be in what did not come");
}

#[test]
fn a_key_set_is_fetched_anew_each_hour() {
    let mut jwks = fetched();
    let version = jwks.version();
    let stale = |jwks: &Jwks, now| jwks.stale(now).count();
    assert_eq!((stale(&jwks, NOW + 3599), stale(&jwks, NOW + 3600)), (0, 1));
    jwks.fail(URL.into(), NOW + 3600);
    assert_eq!((stale(&jwks, NOW + 3609), stale(&jwks, NOW + 3610)), (0, 1));
    jwks.insert(URL.into(), parsed(&key_set()), NOW + 3610);
    assert_eq!((stale(&jwks, NOW + 3700), jwks.version()), (0, version), "the same keys");
    jwks.insert(URL.into(), KeySet::default(), NOW + 3700);
    assert_ne!(jwks.version(), version);
    let gone = token_of_key("EdDSA", "EdDSA", json!({}));
    assert_eq!(verifier(&endpoint(URL)).connection(&gone, NOW + 3700, &jwks), invalid(Why::UnknownKey));
}

#[test]
fn a_key_set_has_bounds() {
    let error = |text: &[u8]| KeySet::parse(text).expect_err("no key set");
    for malformed in ["", "{}", "[]", "null", r#"{"keys":5}"#, r#"{"keys":[]"#, "\u{0}"] {
        assert_eq!(error(malformed.as_bytes()), KeySetError::Malformed, "{malformed}");
    }
    assert_eq!(error(b"\xff"), KeySetError::Malformed);
    assert_eq!(error(&vec![b' '; KEY_SET_LEN_MAX + 1]), KeySetError::TooLong);
    let key = key_set()["keys"][3].clone();
    assert_eq!(parsed(&json!({"keys": vec![key.clone(); 128]})).len(), 128);
    assert_eq!(error(json!({"keys": vec![key; 129]}).to_string().as_bytes()), KeySetError::TooMany);
    // A key of 512 bits, and a point that is on no curve.
    let weak = json!({"kty": "RSA", "kid": "a", "e": "AQAB", "n": URL_SAFE_NO_PAD.encode([255; 64])});
    let off = json!({"kty": "EC", "kid": "a", "crv": "P-256", "x": URL_SAFE_NO_PAD.encode([1; 32]),
                     "y": URL_SAFE_NO_PAD.encode([1; 32])});
    assert!(parsed(&json!({"keys": [weak, off]})).is_empty());
}

#[test]
fn the_issuer_picks_among_the_key_sets_there_are() {
    let options = Token {
        issuer_regex: "^https://id/realms/(?P<realm>red|blue)$".into(),
        ..endpoint("https://id/{{realm}}/keys")
    };
    let verifier = verifier(&options);
    let urls: Vec<_> = verifier.key_urls().map(|url| &**url).collect();
    assert_eq!(urls, ["https://id/blue/keys", "https://id/red/keys"]);
    let token = |issuer: &str| token_of_key("EdDSA", "EdDSA", json!({"sub": "1", "iss": issuer}));
    let mut jwks = Jwks::default();
    jwks.insert("https://id/red/keys".into(), parsed(&key_set()), NOW);
    assert!(verifier.connection(&token("https://id/realms/red"), NOW, &jwks).is_ok());
    let blue = verifier.connection(&token("https://id/realms/blue"), NOW, &jwks);
    assert_eq!(blue, Err(TokenError::Needs(Need::Key("https://id/blue/keys".into()))), "not the keys of red");
    for issuer in ["https://id/realms/green", "https://id/realms/red/../green", "https://evil/https://id/realms/red"] {
        assert_eq!(verifier.connection(&token(issuer), NOW, &jwks), invalid(Why::Issuer), "{issuer}");
    }
    // A pattern without ends still leads to none but these.
    let options = Token { issuer_regex: "(?P<realm>red|blue)".into(), ..options };
    let loose = super::tests::verifier(&options);
    for issuer in ["https://evil/red", "redder", "@evil/?red#"] {
        assert!(loose.connection(&token(issuer), NOW, &jwks).is_ok(), "signed with the key of red: {issuer}");
    }
}

#[test]
fn reads_what_a_connection_token_says() {
    let claims = verify(json!({
        "sub": "42", "exp": NOW + 10, "info": {"name": "A"}, "channels": ["a", "b"], "client": {"not": "ours"},
        "meta": {"plan": 1},
        "subs": {
            "c": {"info": [1], "data": {"d": 1}, "override": {
                "presence": {"value": true}, "join_leave": {"value": false}, "force_push_join_leave": {},
                "force_recovery": null, "other": 5}},
            "d": {"b64info": "e30=", "b64data": "/w==", "override": {"force_positioning": {"value": true}}},
            "e": {},
        },
    }));
    let overrides = Overrides {
        presence: Some(true),
        join_leave: Some(false),
        force_push_join_leave: Some(false),
        ..Overrides::default()
    };
    let positioned = Overrides { force_positioning: Some(true), ..Overrides::default() };
    let bytes = |text: &'static [u8]| Bytes::from_static(text);
    let subs = vec![
        ("c".into(), SubClaims { info: bytes(b"[1]"), data: bytes(b"{\"d\":1}"), overrides }),
        ("d".into(), SubClaims { info: bytes(b"{}"), data: bytes(b"\xff"), overrides: positioned }),
        ("e".into(), SubClaims::default()),
    ];
    let info = bytes(b"{\"name\":\"A\"}");
    let meta = bytes(b"{\"plan\":1}");
    let expected = Claims { user: "42".into(), info, meta, expire_at: Some(NOW + 10), channels: Vec::new(), subs };
    assert_eq!(claims, Ok(expected.into()), "who has subs means them, and not channels");
    let channels = verify(json!({"channels": ["a", "b"], "subs": {}})).expect("valid").channels.clone();
    assert_eq!(channels, ["a", "b"]);
    let subs = verify(json!({"subs": {"c": null}})).expect("valid").subs.clone();
    assert_eq!(subs, [("c".into(), SubClaims::default())]);
    assert_eq!(verify(json!({})), Ok(Arc::default()), "anonymous");
    assert_eq!(verify(json!({"sub": null, "info": null, "channels": null, "subs": null})), Ok(Arc::default()));
    assert_eq!(verify(json!({"info": {}, "b64info": "W10="})).expect("valid").info, "[]");
    assert_eq!(verify(json!({"exp": NOW + 9, "expire_at": 0})).expect("valid").expire_at, None);
    assert_eq!(verify(json!({"exp": NOW + 9, "expire_at": NOW + 5})).expect("valid").expire_at, Some(NOW + 5));
}

#[test]
fn a_time_may_be_text_of_digits() {
    for (claims, expire_at) in [
        (json!({"exp": (NOW + 10).to_string()}), Some(NOW + 10)),
        (json!({"exp": format!("{}.5", NOW + 10)}), Some(NOW + 10)),
        (json!({"exp": NOW + 10, "nbf": NOW.to_string(), "iat": NOW.to_string()}), Some(NOW + 10)),
        (json!({"exp": NOW + 10, "expire_at": (NOW + 5).to_string()}), Some(NOW + 5)),
        (json!({"exp": null, "nbf": null}), None),
    ] {
        assert_eq!(verify(claims.clone()).expect("valid").expire_at, expire_at, "{claims}");
    }
    assert_eq!(verify(json!({"exp": (NOW - 1).to_string()})), Err(TokenError::Expired));
    for text in ["", "tomorrow", "+5", "inf", "0x10"] {
        let refused = verify(json!({"exp": text}));
        assert!(matches!(refused, Err(TokenError::Invalid(_))), "{text:?}: {refused:?}");
    }
}

#[test]
fn reads_what_a_subscription_token_says() {
    let open = |claims| verifier(&secret()).subscription(&token("HS384", claims), NOW, &Jwks::default());
    let claims = open(json!({
        "sub": "42", "channel": "c", "client": "x", "info": 1, "data": {"d": 1}, "expire_at": NOW + 5,
        "override": {"force_recovery": {"value": true}}, "subs": "not ours",
    }));
    let expected = ChannelClaims {
        user: "42".into(),
        channel: "c".into(),
        client: Some("x".into()),
        info: Bytes::from_static(b"1"),
        data: Bytes::from_static(b"{\"d\":1}"),
        expire_at: Some(NOW + 5),
        overrides: Overrides { force_recovery: Some(true), ..Overrides::default() },
    };
    assert_eq!(claims, Ok(expected.into()));
    assert_eq!(open(json!({"sub": "42"})).expect("valid").channel, "", "no channel is called so");
    assert_eq!(open(json!({"channel": "c", "client": ""})).expect("valid").client, None);
    assert_eq!(open(json!({"channel": "c", "exp": NOW})), Err(TokenError::Expired));
    assert_eq!(open(json!({"channel": 5})), invalid(Why::Claims));
    assert_eq!(open(json!({"channel": "c", "override": {"presence": true}})), invalid(Why::Claims));
}

#[test]
fn another_claim_may_name_the_user() {
    let options = Token { user_id_claim: "user_id".into(), ..secret() };
    let user = |claims| {
        let open = verifier(&options).connection(&token("HS256", claims), NOW, &Jwks::default());
        open.map(|claims| claims.user.to_string())
    };
    assert_eq!(user(json!({"sub": "1", "user_id": "2"})), Ok("2".into()));
    assert_eq!(user(json!({"sub": {"any": "thing"}, "user_id": 37})), Ok("37".into()));
    assert_eq!(user(json!({"sub": "1"})), Ok(String::new()), "not sub in its place");
    assert_eq!(user(json!({"user_id": null})), Ok(String::new()));
    for odd in [json!(1.5), json!(-1), json!(true), json!(["1"]), json!({})] {
        assert_eq!(user(json!({"user_id": odd})), invalid(Why::Claims));
    }
}

#[test]
fn times_have_no_leeway() {
    assert_eq!(verify(json!({"sub": "1", "exp": NOW})), Err(TokenError::Expired));
    assert_eq!(verify(json!({"sub": "1", "nbf": NOW + 1})), Err(TokenError::Expired));
    assert_eq!(verify(json!({"nbf": NOW as f64 + 0.5})), Err(TokenError::Expired));
    assert!(verify(json!({"sub": "1", "nbf": NOW, "exp": NOW as f64 + 0.5})).is_ok());
    assert!(verify(json!({"exp": 1e300, "nbf": -1e300})).is_ok());
    assert_eq!(verify(json!({"exp": -1})), Err(TokenError::Expired));
    assert_eq!(verify(json!({"exp": 0})), Err(TokenError::Expired));
    // Whoever cannot sign learns nothing of times.
    let forged = token_of_secret("HS256", "other", json!({"exp": NOW}));
    assert_eq!(verifier(&secret()).connection(&forged, NOW, &Jwks::default()), invalid(Why::Signature));
}

#[test]
fn refuses_every_other_token() {
    let good = token("HS256", json!({"sub": "1"}));
    let verifier = verifier(&secret());
    let open = |token: &str| verifier.connection(token, NOW, &Jwks::default());
    let long = format!("{good}{}", "A".repeat(TOKEN_LEN_MAX));
    assert_eq!(open(&long), invalid(Why::TooLong));
    let (signed, signature) = good.rsplit_once('.').expect("three parts");
    let padded = format!("{good}=");
    let fourth = format!("{good}.{signature}");
    let spaced = format!(" {good}");
    for bad in ["", "x", "..", "a.b.c", "....", signed, &good[..good.len() - 2], &padded, &fourth, &spaced, "ä.ö.ü"]
    {
        assert_eq!(open(bad), invalid(Why::Malformed), "{bad:.60}");
    }
    let header = |header: Value| {
        let token = put_together(&header, &json!({"sub": "1"}), signature_of_key);
        open(&token)
    };
    assert_eq!(header(json!({"alg": "HS256", "crit": ["exp"]})), invalid(Why::Malformed));
    assert_eq!(header(json!({"typ": "JWT"})), invalid(Why::Malformed));
    assert_eq!(header(json!({"alg": 5})), invalid(Why::Malformed));
    assert!(header(json!({"alg": "HS256", "jwk": {"kty": "oct"}, "jku": "https://evil", "x5c": []})).is_ok());
    assert_eq!(verify(json!({"sub": "1", "channel": "c"})), invalid(Why::Kind));
    for claims in [
        json!({"sub": 1}),
        json!({"exp": "soon"}),
        json!({"b64info": "%"}),
        json!({"channels": "a"}),
        json!({"channels": [1]}),
        json!({"subs": ["a"]}),
        json!({"subs": {"a": {"override": {"presence": 1}}}}),
        json!({"subs": {"a": {"b64data": "%"}}}),
        json!([]),
        json!("text"),
    ] {
        assert_eq!(verify(claims.clone()), invalid(Why::Claims), "{claims}");
    }
    let twice = put_twice();
    assert_eq!(open(&twice), invalid(Why::Claims), "a claim that stands twice");
}

fn signature_of_key(message: &[u8]) -> Vec<u8> {
    signature("HS256", message)
}

/// Two users in one token.
fn put_twice() -> String {
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let signed = format!("{}.{}", encode(r#"{"alg":"HS256"}"#), encode(r#"{"sub":"1","sub":"2"}"#));
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature_of_key(signed.as_bytes())))
}

#[test]
fn options_that_make_no_verifier() {
    let bad = Token { rsa_public_key: "-----BEGIN PUBLIC KEY-----".into(), ..Token::default() };
    let error = Verifier::new(&bad, false).err().expect("no key");
    assert_eq!(error.option, "rsa_public_key");
    let mut config = Config::default();
    config.client.token = bad;
    assert!(config.check().is_err(), "the check finds the same");
}

#[test]
fn many_clients_cost_one_check() {
    let (mut cache, jwks, verifier) = (Cache::new(10, 10), Jwks::default(), verifier(&secret()));
    let one = token("HS256", json!({"sub": "1", "exp": NOW + 5, "nbf": NOW}));
    let first = cache.connection(&verifier, &jwks, &one, NOW).expect("good");
    for _ in 0..99 {
        let again = cache.connection(&verifier, &jwks, &one, NOW + 4).expect("good");
        assert!(Arc::ptr_eq(&first, &again), "no copy");
    }
    assert_eq!((cache.tally.good_again, cache.tally.verified, cache.len()), (99, 1, 1));
    // Neither after its end nor, should the clock be set back, before its beginning.
    assert_eq!(cache.connection(&verifier, &jwks, &one, NOW + 5).err(), Some(TokenError::Expired));
    assert_eq!(cache.connection(&verifier, &jwks, &one, NOW - 1).err(), Some(TokenError::Expired));
    assert!(cache.connection(&verifier, &jwks, &one, NOW).is_ok(), "and good between them still");
    let other = token("HS256", json!({"sub": "2", "channel": "c"}));
    assert_eq!(cache.connection(&verifier, &jwks, &other, NOW).err(), Some(TokenError::Invalid(Why::Kind)));
    for _ in 0..2 {
        assert_eq!(cache.subscription(&verifier, &jwks, &other, NOW).expect("good").user, "2");
    }
    assert_eq!(cache.connection(&verifier, &jwks, &other, NOW).err(), Some(TokenError::Invalid(Why::Kind)));
    let tally = cache.tally;
    assert_eq!((tally.good_again, tally.bad_again, tally.verified, cache.len()), (101, 1, 5, 2));
    assert_eq!((cache.take_checks(), cache.take_checks()), (5, 0), "all of them here");
    cache.clear();
    assert!(cache.is_empty());
}

#[test]
fn a_bad_token_costs_nothing_the_second_time() {
    let (mut cache, jwks, verifier) = (Cache::new(10, 10), Jwks::default(), verifier(&secret()));
    let mut open = |token: &str, now| {
        let error = cache.connection(&verifier, &jwks, token, now).err();
        (error, cache.take_checks())
    };
    let forged = token_of_secret("HS256", "other", json!({"sub": "1"}));
    let wrong = Some(TokenError::Invalid(Why::Signature));
    assert_eq!((open(&forged, NOW), open(&forged, NOW + 1)), ((wrong.clone(), 1), (wrong, 0)));
    // What is over stays so; what is not yet good will be.
    let over = token("HS256", json!({"exp": NOW}));
    let expired = Some(TokenError::Expired);
    assert_eq!((open(&over, NOW), open(&over, NOW + 9)), ((expired.clone(), 1), (expired.clone(), 0)));
    let early = token("HS256", json!({"nbf": NOW + 5}));
    assert_eq!((open(&early, NOW), open(&early, NOW + 4)), ((expired.clone(), 1), (expired, 0)));
    assert_eq!((open(&early, NOW + 5), open(&early, NOW + 5)), ((None, 1), (None, 0)));
    // Nobody looks at what is too long, and what is broken is seen at once.
    assert_eq!(open(&"x".repeat(TOKEN_LEN_MAX + 1), NOW), (Some(Why::TooLong.into()), 0));
    assert_eq!(open("x", NOW).0, Some(Why::Malformed.into()));
    assert_eq!((cache.tally.bad_again, cache.bad_len()), (4, 3));
}

#[test]
fn bad_tokens_are_bounded_and_drive_out_no_good_ones() {
    let (mut cache, jwks, verifier) = (Cache::new(8, 8), Jwks::default(), verifier(&secret()));
    let good = token("HS256", json!({"sub": "1"}));
    assert!(cache.connection(&verifier, &jwks, &good, NOW).is_ok());
    for number in 0..100 {
        let forged = token_of_secret("HS256", "other", json!({"sub": number.to_string()}));
        assert!(cache.connection(&verifier, &jwks, &forged, NOW).is_err());
        assert!(cache.bad_len() <= 8);
    }
    assert!(cache.connection(&verifier, &jwks, &good, NOW).is_ok());
    assert_eq!((cache.tally.good_again, cache.tally.verified, cache.tally.forged), (1, 101, 100));
    let mut off = Cache::new(8, 0);
    for _ in 0..2 {
        assert!(off.connection(&verifier, &jwks, "e30.e30.e30", NOW).is_err());
        assert!(off.connection(&verifier, &jwks, &token_of_secret("HS256", "other", json!({})), NOW).is_err());
    }
    assert_eq!((off.tally.bad_again, off.bad_len()), (0, 0));
}

/// By the verifier, as a worker does it.
fn judged(by: &Verifier, token: &str, jwks: &Jwks, fetched: bool) -> Verdict {
    by.judge(TokenKind::Connection, token, NOW, jwks, fetched)
}

#[test]
fn what_is_dear_is_left_to_others() {
    let check = || Some(TokenError::Needs(Need::Check));
    let all = Token { rsa_public_key: rsa_pem(), ecdsa_public_key: ecdsa_pem("P-384"), ..secret() };
    let (configured, by_set) = (verifier(&all), verifier(&endpoint(URL)));
    let (mut cache, jwks) = (Cache::new(64, 64), Jwks::default());
    for name in ALGORITHMS {
        let good = token(name, json!({"sub": "42"}));
        let found = cache.connection(&configured, &jwks, &good, NOW);
        match name {
            "HS256" | "HS384" | "HS512" => assert!(found.is_ok(), "{name}"),
            "RS256" | "RS384" | "RS512" | "ES384" => {
                assert_eq!(found.err(), check(), "{name}");
                let verdict = judged(&configured, &good, &jwks, false);
                let claims = cache.connection_judged(&configured, &jwks, &good, verdict, NOW).expect(name);
                assert_eq!(claims.user, "42");
                assert_eq!(cache.connection(&configured, &jwks, &good, NOW), Ok(claims), "known from here on");
            }
            // There is no key, so there is nothing to check.
            _ => assert_eq!(found.err(), Some(Why::Algorithm.into()), "{name}"),
        }
    }
    assert_eq!(cache.take_checks(), 6, "three good ones, and three at first sight");
    let mut cache = Cache::new(64, 64);
    let set = fetched();
    for name in ALGORITHMS.into_iter().filter(|name| !name.starts_with("HS")) {
        let kid = if name.starts_with("RS") { "RS" } else { name };
        let (good, other) =
            (token_of_key(name, kid, json!({"sub": "42"})), token_of_key(name, kid, json!({"sub": "43"})));
        assert_eq!(cache.connection(&by_set, &set, &good, NOW).err(), check(), "{name}");
        let verdict = judged(&by_set, &good, &set, false);
        assert!(cache.connection_judged(&by_set, &set, &good, verdict, NOW).is_ok(), "{name}");
        // Another's signature.
        let forged =
            format!("{}{}", &other[..other.rfind('.').expect("parts")], &good[good.rfind('.').expect("parts")..]);
        assert_eq!(cache.connection(&by_set, &set, &forged, NOW).err(), check(), "{name}");
        let verdict = judged(&by_set, &forged, &set, false);
        let wrong = Some(TokenError::Invalid(Why::Signature));
        assert_eq!(cache.connection_judged(&by_set, &set, &forged, verdict, NOW).err(), wrong, "{name}");
        assert_eq!(cache.connection(&by_set, &set, &forged, NOW).err(), wrong, "{name}: the second time");
    }
    assert_eq!((cache.take_checks(), cache.tally.forged, cache.tally.bad_again), (0, 7, 7), "none of them here");
}

#[test]
fn a_verdict_is_for_its_keys_and_its_time() {
    let by_set = verifier(&endpoint(URL));
    let signed = token_of_key("EdDSA", "EdDSA", json!({"sub": "1", "exp": NOW + 5}));
    let (mut cache, empty, set) = (Cache::new(8, 8), Jwks::default(), fetched());
    // Of the set before: it is to be looked at again, be it good or bad.
    let verdict = judged(&by_set, &signed, &set, false);
    let again = cache.connection_judged(&by_set, &empty, &signed, verdict.clone(), NOW);
    assert_eq!(again, Err(TokenError::Needs(Need::Check)));
    assert!(cache.is_empty());
    // Its time was over when it came back.
    assert_eq!(cache.connection_judged(&by_set, &set, &signed, verdict.clone(), NOW + 5), Err(TokenError::Expired));
    assert!(cache.connection_judged(&by_set, &set, &signed, verdict.clone(), NOW).is_ok());
    // Not of the kind that is asked for.
    let other = cache.subscription_judged(&by_set, &set, &signed, verdict, NOW);
    assert_eq!(other, Err(TokenError::Needs(Need::Check)));
    // A set that is not known is named once.
    let first = judged(&by_set, &signed, &empty, false);
    let wanted = Err(TokenError::Needs(Need::Key(URL.into())));
    assert_eq!(cache.connection_judged(&by_set, &empty, &signed, first, NOW), wanted);
    let second = judged(&by_set, &signed, &empty, true);
    assert_eq!(cache.connection_judged(&by_set, &empty, &signed, second, NOW), Err(TokenError::KeyUnavailable));
    assert!(cache.is_empty(), "neither is known of the token");
}

/// As after a reload: another key, and nothing that the one before found is believed.
#[test]
fn nothing_outlives_the_options_that_it_was_found_by() {
    let (mut cache, jwks) = (Cache::new(8, 8), Jwks::default());
    let old = verifier(&Token { ecdsa_public_key: ecdsa_pem("P-384"), ..secret() });
    let mut new = verifier(&Token { hmac_secret_key: "another".into(), ..Token::default() });
    new.edition = old.edition + 1;
    let signed = token("HS256", json!({"sub": "1"}));
    assert!(cache.connection(&old, &jwks, &signed, NOW).is_ok());
    let fresh = token_of_secret("HS256", "another", json!({"sub": "1"}));
    assert_eq!(cache.connection(&old, &jwks, &fresh, NOW).map(|_| ()), invalid(Why::Signature));
    assert_eq!(cache.connection(&new, &jwks, &signed, NOW).map(|_| ()), invalid(Why::Signature));
    assert!(cache.connection(&new, &jwks, &fresh, NOW).is_ok());
    // A worker was asked before, and answers after.
    let dear = token("ES384", json!({"sub": "1"}));
    let verdict = judged(&old, &dear, &jwks, false);
    let again = cache.connection_judged(&new, &jwks, &dear, verdict, NOW);
    assert_eq!(again, Err(TokenError::Needs(Need::Check)));
}

#[test]
fn a_token_is_not_kept_beyond_its_key() {
    let until =
        Token { hmac_previous_secret_key: "old".into(), hmac_previous_secret_key_valid_until: NOW + 5, ..secret() };
    let (mut cache, mut jwks) = (Cache::new(10, 10), Jwks::default());
    let (old, rotating) = (token_of_secret("HS256", "old", json!({"sub": "1"})), verifier(&until));
    let mut open = |now| cache.connection(&rotating, &jwks, &old, now).map(|_| ());
    assert_eq!([open(NOW), open(NOW + 5)], [Ok(()), Ok(())]);
    assert_eq!(open(NOW + 6), invalid(Why::Signature));
    assert_eq!((cache.tally.good_again, cache.tally.verified), (1, 2));

    let by_set = verifier(&endpoint(URL));
    let signed = token_of_key("EdDSA", "EdDSA", json!({"sub": "1"}));
    let forged = token_of_key("ES256", "ES384", json!({"sub": "1"}));
    jwks.insert(URL.into(), parsed(&key_set()), NOW);
    for token in [&signed, &forged] {
        let verdict = judged(&by_set, token, &jwks, false);
        let _ = cache.connection_judged(&by_set, &jwks, token, verdict, NOW);
    }
    let mut open = |jwks: &Jwks, token: &str| cache.connection(&by_set, jwks, token, NOW).map(|_| ());
    assert_eq!(open(&jwks, &signed), Ok(()));
    let mut next = jwks.clone();
    next.insert(URL.into(), KeySet::default(), NOW);
    for token in [&signed, &forged] {
        assert_eq!(open(&next, token), Err(TokenError::Needs(Need::Check)), "neither good nor bad is known");
    }
    let gone =
        cache.connection_judged(&by_set, &next, &signed, judged(&by_set, &signed, &next, false), NOW).map(|_| ());
    assert_eq!(gone, invalid(Why::UnknownKey), "taken out of the set");
}

#[test]
fn the_cache_is_bounded_and_keeps_what_is_used() {
    let (jwks, verifier) = (Jwks::default(), verifier(&secret()));
    let of_user = |user: usize| token("HS256", json!({"sub": user.to_string()}));
    let mut cache = Cache::new(8, 8);
    let favourite = of_user(1000);
    for user in 0..100 {
        cache.connection(&verifier, &jwks, &of_user(user), NOW).expect("good");
        cache.connection(&verifier, &jwks, &favourite, NOW).expect("good");
        assert!(cache.len() <= 8, "{}", cache.len());
    }
    assert_eq!((cache.tally.good_again, cache.tally.verified), (99, 101));
    // Long tokens: bytes are bounded as well.
    let mut cache = Cache::new(8, 8);
    for user in 0..100 {
        let long = token("HS256", json!({"sub": user.to_string(), "info": "x".repeat(700)}));
        cache.connection(&verifier, &jwks, &long, NOW).expect("good");
        assert!(cache.len() <= 4, "{}", cache.len());
    }
    let longest = token("HS256", json!({"info": "x".repeat(4000)}));
    for _ in 0..2 {
        cache.connection(&verifier, &jwks, &longest, NOW).expect("good");
    }
    assert_eq!(cache.tally.good_again, 0, "longer than all that is set aside");
    let mut off = Cache::new(0, 0);
    for _ in 0..2 {
        off.connection(&verifier, &jwks, &favourite, NOW).expect("good");
    }
    assert_eq!((off.tally.good_again, off.tally.verified, off.len()), (0, 2, 0));
}

proptest! {
    #[test]
    fn no_text_is_a_token_by_chance(text in r"[A-Za-z0-9_=.\-]{0,120}|\PC{0,40}") {
        prop_assert!(verifier(&secret()).connection(&text, NOW, &Jwks::default()).is_err());
    }

    #[test]
    fn no_change_to_a_token_is_taken(at in any::<prop::sample::Index>(), to in r"[A-Za-z0-9_.\-]") {
        let good = token("HS256", json!({"sub": "1", "info": {"a": 1}, "channels": ["x"]}));
        let at = at.index(good.len());
        let changed = format!("{}{to}{}", &good[..at], &good[at + 1..]);
        prop_assume!(changed != good);
        prop_assert!(verifier(&secret()).connection(&changed, NOW, &Jwks::default()).is_err());
    }

    /// The signature is good, what it signs is anything.
    #[test]
    fn no_claims_are_too_odd(
        header in r#"\{"alg":"HS256","[a-z]{1,4}":[0-9a-z"{}\[\]]{1,6}\}"#,
        body in r#"\PC{0,40}|\{"(sub|exp|nbf|info|subs|aud|channels|expire_at)":[0-9a-z"{}:.,\[\]\-]{1,20}\}"#,
    ) {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(body));
        let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature_of_key(signed.as_bytes())));
        let verifier = verifier(&Token { user_id_claim: "sub".into(), ..secret() });
        let _ = verifier.connection(&token, NOW, &Jwks::default());
        let _ = verifier.subscription(&token, NOW, &Jwks::default());
    }

    #[test]
    fn no_key_set_is_too_odd(
        kty in "RSA|EC|OKP",
        crv in "P-256|P-384|P-521|Ed25519",
        x in prop::collection::vec(any::<u8>(), 0..70),
        y in prop::collection::vec(any::<u8>(), 0..70),
    ) {
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        let key = json!({"kty": kty, "kid": "a", "crv": crv, "x": x, "y": y, "n": x, "e": y});
        let set = parsed(&json!({"keys": [key]}));
        prop_assert!(set.len() <= 1);
    }
}
