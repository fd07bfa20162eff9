//! Tokens by each kind of configured key, signed by another library than the one that checks them.

use crate::client::{Client, signed};
use crate::server::{SECRET, Server};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use p256::elliptic_curve::pkcs8::{EncodePrivateKey, EncodePublicKey, LineEnding};
use serde_json::{Value, json};

fn key() -> p256::SecretKey {
    p256::SecretKey::from_slice(&[9; 32]).expect("a key")
}

fn by_ecdsa(claims: &Value) -> String {
    let der = key().to_pkcs8_der().expect("DER");
    encode(&Header::new(Algorithm::ES256), claims, &EncodingKey::from_ec_der(der.as_bytes())).expect("a token")
}

fn refused(server: &Server, token: &str) {
    let mut client = Client::open(server);
    client.send(&json!({ "id": 1, "connect": { "token": token } }).to_string());
    assert_eq!(client.closed(), 3500, "{token}");
}

#[test]
fn a_public_key_takes_its_own_tokens_and_is_no_secret() {
    let pem = key().public_key().to_public_key_pem(LineEnding::LF).expect("PEM");
    let server = Server::start(&["--client.token.ecdsa_public_key", &pem]);
    Client::connected_with(&server, &by_ecdsa(&json!({ "sub": "42" })));
    refused(&server, &signed(&json!({ "sub": "42" }), &pem));
    refused(&server, &signed(&json!({ "sub": "42" }), pem.trim()));
    refused(&server, &signed(&json!({ "sub": "42" }), ""));
    assert_eq!(server.disconnects(3500), 3);
    let both = Server::start(&["--client.token.ecdsa_public_key", &pem, "--client.token.hmac_secret_key", SECRET]);
    Client::connected_with(&both, &by_ecdsa(&json!({ "sub": "42" })));
    Client::connected_as(&both, "42");
}

#[test]
fn two_secrets_are_taken_while_one_follows_the_other() {
    let old = |until: &str| {
        let until = format!("--client.token.hmac_previous_secret_key_valid_until={until}");
        let keys = ["--client.token.hmac_secret_key", "new", "--client.token.hmac_previous_secret_key", SECRET];
        Server::start(&[&keys[..], &[&until]].concat())
    };
    let server = old("0");
    Client::connected_as(&server, "42");
    Client::connected_with(&server, &signed(&json!({ "sub": "42" }), "new"));
    refused(&old("1000000000"), &signed(&json!({ "sub": "42" }), SECRET));
}

#[test]
fn issuer_audience_and_user_are_those_that_are_asked_for() {
    let options = ["--client.token.hmac_secret_key", SECRET, "--client.token.audience", "chat"];
    let more = ["--client.token.issuer_regex", "^https://(a|b)$", "--client.token.user_id_claim", "uid"];
    let server = Server::start(&[&options[..], &more].concat());
    let token = |aud: Value, iss: &str| signed(&json!({ "aud": aud, "iss": iss, "uid": 42, "sub": [] }), SECRET);
    let _client = Client::connected_with(&server, &token(json!(["mail", "chat"]), "https://b"));
    let info = server.call("info", json!({}));
    assert_eq!(info["result"]["nodes"][0]["num_users"], 1, "{info}");
    refused(&server, &token(json!("mail"), "https://a"));
    refused(&server, &token(json!("chat"), "https://a.evil"));
}
