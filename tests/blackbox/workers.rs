//! Signatures by public keys, which workers check: replies keep their order, nobody waits for another's tokens, and
//! who forges them does not stay.

use crate::client::{Client, now};
use crate::peer::{Peer, TEXT};
use crate::server::{Server, until};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use p256::ecdsa::signature::Signer;
use rsa::pkcs8::{EncodePublicKey, LineEnding};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering};

/// A key of one algorithm, and how much a signature of it takes to forge: something that is checked to the end.
struct Key {
    algorithm: &'static str,
    option: &'static str,
    pem: String,
    signature_len: usize,
}

fn es256_key() -> p256::ecdsa::SigningKey {
    p256::ecdsa::SigningKey::from_slice(&[9; 32]).expect("a key")
}

fn es256() -> Key {
    let pem = p256::PublicKey::from(*es256_key().verifying_key()).to_public_key_pem(LineEnding::LF).expect("PEM");
    Key { algorithm: "ES256", option: "ecdsa_public_key", pem, signature_len: 64 }
}

fn es512() -> Key {
    let secret = p521::SecretKey::from_slice(&[&[0; 2], [9; 64].as_slice()].concat()).expect("a key");
    let pem = secret.public_key().to_public_key_pem(LineEnding::LF).expect("PEM");
    Key { algorithm: "ES512", option: "ecdsa_public_key", pem, signature_len: 132 }
}

fn rs256() -> Key {
    let mut modulus = [0xff; 256];
    modulus[100] = 0;
    let modulus = rsa::BoxedUint::from_be_slice(&modulus, 2048).expect("a number");
    let key = rsa::PublicKey::new_unchecked(modulus, 65537u32.into());
    let pem = key.to_public_key_pem(LineEnding::LF).expect("PEM");
    Key { algorithm: "RS256", option: "rsa_public_key", pem, signature_len: 256 }
}

impl Key {
    /// A server whose tokens are by this key, with one worker.
    fn server(&self, options: &[&str]) -> Server {
        let key = format!("--client.token.{}={}", self.option, self.pem);
        let anonymous = "--client.allow_anonymous_connect_without_token";
        Server::start(&[&[&*key, anonymous, "--reactors=1", "--workers.threads=1"], options].concat())
    }

    fn forged(&self, claims: &Value) -> String {
        put_together(self.algorithm, claims, &vec![1; self.signature_len])
    }

    /// Subscribe commands with forged tokens, one message of them.
    fn forged_subscriptions(&self, ids: std::ops::Range<u32>) -> String {
        let each = ids.map(|id| {
            let channel = format!("c{id}");
            let token = self.forged(&json!({ "channel": channel }));
            json!({ "id": id, "subscribe": { "channel": channel, "token": token } }).to_string()
        });
        each.collect::<Vec<_>>().join("\n")
    }
}

fn put_together(algorithm: &str, claims: &Value, signature: &[u8]) -> String {
    let header = json!({ "alg": algorithm }).to_string();
    let [header, claims] = [&header, &claims.to_string()].map(|text| URL_SAFE_NO_PAD.encode(text));
    format!("{header}.{claims}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn by_es256(claims: &Value) -> String {
    let unsigned = put_together("ES256", claims, &[]);
    let signature: p256::ecdsa::Signature = es256_key().sign(unsigned.trim_end_matches('.').as_bytes());
    unsigned + &URL_SAFE_NO_PAD.encode(signature.to_bytes())
}

/// To `w` without a token.
const ALLOWED: [&str; 2] = [
    "--channel.without_namespace.allow_subscribe_for_client",
    "--channel.without_namespace.allow_subscribe_for_anonymous",
];

#[test]
fn a_token_by_a_public_key_goes_the_whole_way() {
    let server = es256().server(&[]);
    let mut client = Client::open(&server);
    // What stands behind the connect command waits for its token, and is answered behind it.
    let granted = json!({ "sub": "42", "exp": now() + 600, "channels": ["news"] });
    let channel = json!({ "sub": "42", "channel": "a", "exp": now() + 600 });
    let commands = [
        json!({ "id": 1, "connect": { "token": by_es256(&granted) } }),
        json!({ "id": 2, "subscribe": { "channel": "a", "token": by_es256(&channel) } }),
        json!({ "id": 3, "unsubscribe": { "channel": "b" } }),
        json!({ "id": 4, "sub_refresh": { "channel": "news", "token": by_es256(&json!({ "sub": "42", "channel": "b" })) } }),
    ];
    client.send(&commands.map(|command| command.to_string()).join("\n"));
    let reply = client.next();
    assert_eq!((&reply["id"], &reply["connect"]["subs"]["news"]), (&json!(1), &json!({})), "{reply}");
    let reply = client.next();
    assert_eq!((&reply["id"], &reply["subscribe"]["expires"]), (&json!(2), &json!(true)), "{reply}");
    assert_eq!(client.next(), json!({ "id": 3, "unsubscribe": {} }));
    assert_eq!(client.closed(), 3500, "a token for another channel");

    let mut client = Client::connected_with(&server, &by_es256(&granted));
    let ask = |client: &mut Client, name: &str, value: Value| client.ask(json!({ name: value }))[name].clone();
    let renewed = json!({ "sub": "42", "exp": now() + 900, "channels": ["news"] });
    let reply = ask(&mut client, "refresh", json!({ "token": by_es256(&renewed) }));
    assert_eq!(reply["expires"], true, "{reply}");
    for _ in 0..2 {
        let token = by_es256(&channel);
        assert_eq!(ask(&mut client, "subscribe", json!({ "channel": "a", "token": token }))["expires"], true);
        let longer = by_es256(&json!({ "sub": "42", "channel": "a", "exp": now() + 900 }));
        assert_eq!(ask(&mut client, "sub_refresh", json!({ "channel": "a", "token": longer }))["expires"], true);
        assert_eq!(ask(&mut client, "unsubscribe", json!({ "channel": "a" })), json!({}));
    }
    client.send(&json!({ "id": 99, "refresh": { "token": es256().forged(&granted) } }).to_string());
    assert_eq!(client.closed(), 3500);
    assert!(server.metric("gannet_workers_job_duration_seconds_count{kind=\"token\"}") >= 6);
}

#[test]
fn unidirectional_and_emulated_clients_show_such_tokens_too() {
    let server = es256().server(&["--uni_websocket.enabled", "--sse.enabled", "--http_stream.enabled"]);
    let token = by_es256(&json!({ "sub": "42" }));
    let mut listener = Peer::open(server.address).upgrade("/connection/uni_websocket");
    listener.send_frame(TEXT, json!({ "token": token }).to_string().as_bytes());
    assert!(listener.text().contains("\"connect\""));
    let mut forger = Peer::open(server.address).upgrade("/connection/uni_websocket");
    forger.send_frame(TEXT, json!({ "token": es256().forged(&json!({ "sub": "42" })) }).to_string().as_bytes());
    assert_eq!(forger.closed().0, 3500);
    let connect = json!({ "id": 1, "connect": { "token": token } }).to_string();
    let request = format!(
        "POST /connection/http_stream HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{connect}",
        connect.len()
    );
    let mut stream = Peer::open(server.address);
    stream.send(request.as_bytes());
    assert!(stream.line().is_some_and(|line| line.starts_with("HTTP/1.1 200")));
    let info = || server.call("info", json!({}))["result"]["nodes"][0]["num_clients"] == 2;
    until("both are connected", || info().then_some(()));
}

/// Sends forged subscriptions without a pause, far more than a worker has done, and reads the errors in their order.
fn forge(mut attacker: Client, key: &Key, enough: &AtomicBool) {
    let (mut sent, mut read) = (1000, 1000);
    while !enough.load(Ordering::Relaxed) {
        while sent - read < 1000 {
            attacker.send(&key.forged_subscriptions(sent..sent + 100));
            sent += 100;
        }
        for _ in 0..100 {
            let reply = attacker.next();
            assert_eq!((&reply["id"], &reply["error"]["code"]), (&json!(read), &json!(103)), "in order: {reply}");
            read += 1;
        }
    }
}

#[test]
fn who_forges_tokens_delays_nobody_else() {
    for key in [es512(), es256(), rs256()] {
        let [user, anonymous] = ALLOWED;
        let server = key.server(&[user, anonymous, "--client.bad_token_limit=0", "--client.channel_limit=4096"]);
        let mut witness = Client::connected(&server);
        let (attacker, enough) = (Client::connected(&server), AtomicBool::new(false));
        let waiting = || server.metric("gannet_workers_waiting_jobs");
        std::thread::scope(|scope| {
            scope.spawn(|| forge(attacker, &key, &enough));
            until("the worker is busy", || (waiting() > 100).then_some(()));
            for number in 0..3 {
                let token = key.forged(&json!({ "channel": "w", "n": number }));
                assert_eq!(witness.refused(json!({ "subscribe": { "channel": "w", "token": token } })), 103);
            }
            witness.subscribe("w");
            until("the attacker is still at it", || (waiting() > 100).then_some(()));
            enough.store(true, Ordering::Relaxed);
        });
        until("nothing waits", || (waiting() == 0).then_some(()));
        assert_eq!(server.disconnects(3500), 0);
    }
}

#[test]
fn some_forged_tokens_in_a_row_end_the_connection() {
    let server = es512().server(&["--client.bad_token_limit=3"]);
    let mut attacker = Client::connected(&server);
    attacker.send(&es512().forged_subscriptions(1000..1200));
    for id in [1000, 1001] {
        let reply = attacker.next();
        assert_eq!((&reply["id"], &reply["error"]["code"]), (&json!(id), &json!(103)), "{reply}");
    }
    assert_eq!(attacker.closed(), 3500);
    assert_eq!(server.metric("gannet_client_bad_token_limit_total"), 1);
    until("nothing waits", || (server.metric("gannet_workers_waiting_jobs") == 0).then_some(()));
    assert_eq!(server.metric("gannet_client_tokens_forged_total"), 3, "the others were not looked at");
    assert!(server.metric("gannet_workers_abandoned_jobs_total{kind=\"token\"}") > 0);
}

#[test]
fn stale_tokens_end_no_connection() {
    let server = es256().server(&["--client.bad_token_limit=2"]);
    let mut client = Client::connected_with(&server, &by_es256(&json!({ "sub": "42" })));
    let mut subscribe = |token: String| client.ask(json!({ "subscribe": { "channel": "a", "token": token } }));
    let code = |reply: Value| reply["error"]["code"].clone();
    for number in 0..10 {
        let old = by_es256(&json!({ "sub": "42", "channel": "a", "exp": now() - 1 - number }));
        assert_eq!(code(subscribe(old)), 109);
    }
    // One bad, one good, and again: never two in a row.
    let forged = |number: u32| es256().forged(&json!({ "sub": "42", "channel": "a", "n": number }));
    for number in 0..3 {
        assert_eq!(code(subscribe(forged(number))), 103);
        let over = by_es256(&json!({ "sub": "42", "channel": "a", "expire_at": 1 }));
        assert_eq!(code(subscribe(over)), 110, "signed well, for a subscription that is over");
    }
    let reply = subscribe(by_es256(&json!({ "sub": "42", "channel": "a" })));
    assert_eq!(reply["subscribe"], json!({}), "{reply}");
}

#[test]
fn the_same_bad_token_costs_one_check() {
    let server = es256().server(&["--client.bad_token_limit=0"]);
    let token = es256().forged(&json!({ "channel": "a" }));
    for _ in 0..3 {
        let mut client = Client::connected(&server);
        for _ in 0..3 {
            assert_eq!(client.refused(json!({ "subscribe": { "channel": "a", "token": token } })), 103);
        }
    }
    assert_eq!(server.metric("gannet_client_tokens_forged_total"), 1);
    assert_eq!(server.metric("gannet_client_bad_tokens_remembered_total"), 8);
    assert_eq!(server.metric("gannet_workers_job_duration_seconds_count{kind=\"token\"}"), 1);
}

#[test]
fn beyond_the_queue_commands_get_an_error_in_their_place() {
    let server =
        es512().server(&["--client.bad_token_limit=0", "--workers.queue_size=64KiB", "--client.channel_limit=4096"]);
    let mut client = Client::connected(&server);
    client.send(&es512().forged_subscriptions(1000..1200));
    let mut codes = Vec::new();
    for id in 1000..1200 {
        let reply = client.next();
        assert_eq!(reply["id"], id, "{reply}");
        codes.push(reply["error"]["code"].as_u64().expect("an error"));
    }
    let count = |code: u64| codes.iter().filter(|said| **said == code).count() as u64;
    assert_eq!(count(103) + count(111), 200, "{codes:?}");
    // Half of the queue, for it is one connection, and what the worker had done meanwhile.
    assert!(count(103) >= 32 && count(111) > 0, "{codes:?}");
    assert_eq!(server.metric("gannet_workers_refused_jobs_total{kind=\"token\"}"), count(111));
    assert_eq!(client.refused(json!({ "subscribe": { "channel": "a", "token": "x" } })), 103, "and it goes on");
}
