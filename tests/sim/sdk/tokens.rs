//! Tokens of these clients: by a shared secret, or by a key of a set that is fetched, and whose signatures are checked
//! elsewhere, by and by.

use crate::node::World;
use crate::options::KEY;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gannet::auth::{Jwks, KeySet};
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};
use std::sync::{Arc, LazyLock};

/// Where the key set is said to lie.
pub const KEYS_AT: &str = "https://id.example.com/keys";

/// Its signatures are the same each time, as the simulation needs it.
static PAIR: LazyLock<Ed25519KeyPair> =
    LazyLock::new(|| Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a seed"));

fn by_set(world: &World) -> bool {
    !world.options.config.client.token.jwks_public_endpoint.is_empty()
}

/// Well signed.
pub fn token(claims: Value, world: &World) -> String {
    if !by_set(world) {
        return crate::actions::token(claims, KEY);
    }
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let signed = format!("{}.{}", encode(r#"{"alg":"EdDSA","kid":"k"}"#), encode(&claims.to_string()));
    let signature = URL_SAFE_NO_PAD.encode(PAIR.sign(signed.as_bytes()));
    format!("{signed}.{signature}")
}

/// Signed by nobody who may.
pub fn forged(claims: Value, world: &World) -> String {
    if !by_set(world) {
        return crate::actions::token(claims, "another key");
    }
    let good = token(claims, world);
    let (signed, _) = good.rsplit_once('.').expect("three parts");
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode([1; 64]))
}

/// The set, fetched now.
pub fn keys(now: u64) -> Arc<Jwks> {
    let x = URL_SAFE_NO_PAD.encode(PAIR.public_key());
    let set = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": x}]}).to_string();
    let mut jwks = Jwks::default();
    jwks.insert(KEYS_AT.into(), KeySet::parse(set.as_bytes()).expect("a key set"), now);
    jwks.into()
}
