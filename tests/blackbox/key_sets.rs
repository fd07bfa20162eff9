//! Tokens whose keys are fetched: who waits for the fetch, what it costs, and keys that come and go.

use crate::backend::{Backend, Gate, Said, ok};
use crate::client::{Client, now};
use crate::peer::{Peer, TEXT};
use crate::server::{Server, until};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::pkcs8::EncodePrivateKey;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rsa::pkcs1::EncodeRsaPrivateKey;
use rsa::traits::PublicKeyParts;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

const TOKENS: &str = "client.token";

static RSA: LazyLock<rsa::PrivateKey> = LazyLock::new(|| {
    let prime = |text: &str| rsa::BoxedUint::from_be_hex(text, 1024).expect("hexadecimal");
    rsa::PrivateKey::from_p_q(prime(PRIMES[0]), prime(PRIMES[1]), 65537u32.into()).expect("two primes")
});

/// Found once with OpenSSL; known to all the world.
const PRIMES: [&str; 2] = [
    "F06C4E52B7C174530050B83D4DAEB22DD9AF80A029C3E85F7768F3E439AC9509A3714CE90EA0028D0B6B740B8BCEFD0E\
            838B271CED7D3C848DC4AE7CEFE389C6A67297F8BB4E1D74F0BF1E9AA7793C3C81EC44F3D19D1750A830F34C718DC8A0\
            21F54C6C9E92A740EC87357F4E4EE20BE4BFE102791C3A1141DF5FDBAE16D8B7",
    "C16A4BD632102CA48256B6C78D1CD368DCE4DC1C5374876DD77959A38DCB9ED5AF0D49FFC578417B08F5B5F8E5503A65\
            95A1619F2B3D78D9077CAEB099C16A06B9DFA8EE4987D621FEF3F3FF9D4B043C72DE65D45FE253F6A4D805C8DB5802CF\
            A8A32F4FA5A77DBA3F2CA04B4E0DCCC59CE950E013693DF5C0E5BC5B2656A715",
];

fn ed_key(kid: &str) -> ed25519_dalek::SigningKey {
    ed25519_dalek::SigningKey::from_bytes(&[kid.len() as u8; 32])
}

/// Signed by the key called `kid`: RSA's if it begins with an r.
fn signed(kid: &str, claims: &Value) -> String {
    let (algorithm, key) = if kid.starts_with('r') {
        (Algorithm::RS256, EncodingKey::from_rsa_der(RSA.to_pkcs1_der().expect("DER").as_bytes()))
    } else {
        (Algorithm::EdDSA, EncodingKey::from_ed_der(ed_key(kid).to_pkcs8_der().expect("DER").as_bytes()))
    };
    let header = Header { kid: Some(kid.to_owned()), ..Header::new(algorithm) };
    encode(&header, claims, &key).expect("a token")
}

fn user(kid: &str) -> String {
    signed(kid, &json!({ "sub": "42" }))
}

fn set(kids: &[&str]) -> Said {
    let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let key = |kid: &&str| match kid.starts_with('r') {
        true => json!({
            "kty": "RSA", "kid": kid, "use": "sig", "n": text(&RSA.n().to_be_bytes()), "e": text(&RSA.e().to_be_bytes())
        }),
        false => json!({
            "kty": "OKP", "crv": "Ed25519", "kid": kid, "x": text(ed_key(kid).verifying_key().as_bytes())
        }),
    };
    ok(json!({ "keys": kids.iter().map(key).collect::<Vec<_>>() }))
}

fn started(backend: &Backend, section: &str, options: &[&str]) -> Server {
    let endpoint = format!("--{section}.jwks_public_endpoint={}", backend.url("/keys"));
    Server::start(&[&["--reactors=2", &endpoint], options].concat())
}

fn refused(server: &Server, token: &str) {
    let mut client = Client::open(server);
    client.send(&json!({ "id": 1, "connect": { "token": token } }).to_string());
    assert_eq!(client.closed(), 3500);
}

#[test]
fn many_wait_for_one_fetch() {
    let gate = Gate::default();
    let held = gate.clone();
    let backend = Backend::start(move |_| {
        held.pass();
        set(&["r", "ed"])
    });
    let allow = "--channel.without_namespace.allow_subscribe_for_client";
    let server = started(&backend, TOKENS, &[allow, "--jwks.timeout=30s"]);
    let mut peers: Vec<Peer> = (0..40).map(|_| Peer::upgraded(&server)).collect();
    for (n, peer) in peers.iter_mut().enumerate() {
        let token = user(if n % 2 == 0 { "r" } else { "ed" });
        let frame = [
            json!({ "id": 1, "connect": { "token": token } }).to_string(),
            r#"{"id":2,"subscribe":{"channel":"news"}}"#.to_owned(),
        ];
        peer.send_frame(TEXT, frame.join("\n").as_bytes());
    }
    backend.hears("/keys", 1);
    until("all wait", || (server.metric("gannet_backend_inflight_requests") == 40).then_some(()));
    gate.open();
    for peer in &mut peers {
        let mut lines = Vec::new();
        while lines.len() < 2 {
            lines.extend(peer.text().lines().map(str::to_owned));
        }
        assert!(lines[0].contains("\"client\"") && lines[1] == r#"{"id":2,"subscribe":{}}"#, "{lines:?}");
    }
    assert_eq!((backend.asked("/keys").len(), server.metric("gannet_jwks_fetches_total")), (1, 1));
    refused(&server, &signed("ed", &json!({ "sub": "42", "channel": "of a subscription" })));
    let mut expired = Client::open(&server);
    let old = signed("ed", &json!({ "sub": "42", "exp": now() - 1 }));
    assert_eq!(expired.refused(json!({ "connect": { "token": old } })), 109);
    assert_eq!(backend.asked("/keys").len(), 1);
}

#[test]
fn a_key_that_comes_later_is_found_and_an_unknown_one_is_refused() {
    let kids = Arc::new(Mutex::new(vec!["r"]));
    let shown = kids.clone();
    let backend = Backend::start(move |_| set(&shown.lock().expect("kids")));
    let server = started(&backend, TOKENS, &["--jwks.refetch_interval=2s"]);
    Client::connected_with(&server, &user("r"));
    refused(&server, &user("new"));
    let fetches = || server.metric("gannet_jwks_fetches_total");
    assert!(fetches() <= 2);
    kids.lock().expect("kids").push("new");
    // Until the interval is over it is not known, and each try costs no fetch.
    until("the new key", || {
        let mut client = Client::open(&server);
        client.send(&json!({ "id": 1, "connect": { "token": user("new") } }).to_string());
        let reply = client.try_next();
        reply.is_ok_and(|reply| reply["connect"].is_object()).then_some(())
    });
    assert!(fetches() <= 3, "{} fetches", fetches());
    // It is still believed while it is in the set, and again after that an unknown one is refused.
    Client::connected_with(&server, &user("r"));
    let before = fetches();
    until("a fetch that finds nothing", || {
        refused(&server, &user("unknown"));
        (fetches() > before).then_some(())
    });
    refused(&server, &user("unknown"));
}

#[test]
fn without_a_set_clients_are_told_to_come_again() {
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = tries.clone();
    let backend = Backend::start(move |_| match counted.fetch_add(1, Ordering::SeqCst) {
        0 => (500, String::new()),
        _ => set(&["r"]),
    });
    let server = started(&backend, TOKENS, &["--jwks.refetch_interval=1s"]);
    let mut client = Client::open(&server);
    let reply = client.ask(json!({ "connect": { "token": user("r") } }));
    assert_eq!(reply["error"], json!({ "code": 100, "message": "internal server error", "temporary": true }));
    assert_eq!(server.metric("gannet_jwks_errors_total"), 1);
    until("a set", || {
        let reply = Client::open(&server).ask(json!({ "connect": { "token": user("r") } }));
        assert!(reply["error"].is_null() || reply["error"]["code"] == 100, "{reply}");
        reply["connect"].is_object().then_some(())
    });
    assert_eq!(tries.load(Ordering::SeqCst), 2);
}

#[test]
fn subscription_tokens_have_a_set_of_their_own() {
    let backend = Backend::start(|_| set(&["ed"]));
    let options = ["--client.subscription_token.enabled", "--client.token.hmac_secret_key", crate::server::SECRET];
    let server = started(&backend, "client.subscription_token", &options);
    let mut client = Client::connected_as(&server, "42");
    assert_eq!(backend.asked("/keys").len(), 0);
    let token = |kid: &str, claims: Value| {
        let mut all = json!({ "sub": "42", "channel": "$c" });
        claims.as_object().expect("an object").iter().for_each(|(key, value)| all[key] = value.clone());
        signed(kid, &all)
    };
    let ask =
        |kid: &str| json!({ "subscribe": { "channel": "$c", "token": token(kid, json!({ "exp": now() + 100 })) } });
    assert_eq!(client.refused(ask("unknown")), 103);
    let reply = client.ask(ask("ed"));
    assert_eq!(reply["subscribe"]["expires"], true, "{reply}");
    let longer = token("ed", json!({ "exp": now() + 1000 }));
    let reply = client.ask(json!({ "sub_refresh": { "channel": "$c", "token": longer } }));
    assert_eq!(reply["sub_refresh"]["expires"], true, "{reply}");
    server.publish("$c", json!(1));
    assert_eq!(client.publication().1, 1);
    assert_eq!(backend.asked("/keys").len(), 1);
    client.send(&json!({ "id": 90, "subscribe": { "channel": "$d", "token": longer } }).to_string());
    assert_eq!(client.closed(), 3500, "a good token for another channel");
}
