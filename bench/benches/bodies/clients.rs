//! Tokens, and a client's life in a shard without its I/O.

use super::codec::message;
use super::{Body, Operation};
use gannet::auth::{Jwks, KeySet, Verifier};
use gannet::broker::ConnKey;
use gannet::config::{Config, Token};
use gannet::protocol::Encoding;
use gannet::session::{Now, Rules, Session, Sessions};
use gannet::shard::{Shard, Table};
use gannet::wire::Wire;
use gannet_bench::centrifugal;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};
use std::hint::black_box;
use std::sync::Arc;

pub const BODIES: &[Body] = &[
    Body { name: "token/verify_hs256", prepare: verify },
    Body { name: "token/verify_rs256", prepare: || verify_signed("rs256") },
    Body { name: "token/verify_rs256_4096", prepare: || verify_signed("rs256_4096") },
    Body { name: "token/verify_es256", prepare: || verify_signed("es256") },
    Body { name: "token/verify_es384", prepare: || verify_signed("es384") },
    Body { name: "token/verify_es512", prepare: || verify_signed("es512") },
    Body { name: "token/verify_eddsa", prepare: || verify_signed("eddsa") },
    Body { name: "shard/connect_and_subscribe_json", prepare: || live(Encoding::Json, None) },
    Body { name: "shard/connect_and_subscribe_protobuf", prepare: || live(Encoding::Protobuf, None) },
    Body {
        name: "shard/connect_with_token_and_subscribe_json",
        prepare: || live(Encoding::Json, Some(&token().to_string())),
    },
];

const SECRET: &str = "a secret of 32 bytes, as is usual";
/// Seconds since 1970, before the token ends.
const SECONDS: u64 = 1_700_000_000;
const NOW: Now = Now { tick: 100, ms: 10_000, unix_ms: SECONDS * 1000 };
const CONN: u32 = 0;

fn token() -> String {
    let claims = json!({"sub": "user-1", "exp": SECONDS + 86_400});
    let key = EncodingKey::from_secret(SECRET.as_bytes()).expect("a key");
    encode(&Header::default(), &claims, &key).expect("a token")
}

fn config() -> Config {
    let mut config = Config::default();
    config.client.insecure = true;
    config.client.token.hmac_secret_key = SECRET.to_owned();
    config
}

fn verify() -> Operation {
    let verifier = Verifier::new(&config().client.token, false).expect("a good key");
    let jwks = Jwks::default();
    let token = token();
    Box::new(move || {
        let claims = verifier.connection(black_box(&token), SECONDS, &jwks).expect("a good token");
        black_box(claims);
    })
}

/// A key set with a token by each of its keys, called by the key; made once with OpenSSL.
const SIGNED: &str = include_str!("signed.json");
const URL: &str = "https://id.example.com/keys";

fn verify_signed(kid: &str) -> Operation {
    let options = Token { jwks_public_endpoint: URL.to_owned(), ..Token::default() };
    let verifier = Verifier::new(&options, false).expect("a good address");
    let mut jwks = Jwks::default();
    jwks.insert(URL.into(), KeySet::parse(SIGNED.as_bytes()).expect("a key set"), SECONDS);
    let made: Value = serde_json::from_str(SIGNED).expect("JSON");
    let token = made["tokens"][kid].as_str().expect("a token").to_owned();
    Box::new(move || {
        let claims = verifier.connection(black_box(&token), SECONDS, &jwks).expect("a good token");
        black_box(claims);
    })
}

/// A reactor with one connection.
#[derive(Default)]
struct Seat {
    session: Option<Box<Session>>,
    generation: u32,
}

impl Sessions for Seat {
    fn session(&mut self, _: u32) -> Option<&mut Session> {
        self.session.as_deref_mut()
    }
}

impl Table for Seat {
    fn key(&self, conn: u32) -> Option<ConnKey> {
        Some(ConnKey { reactor: 0, index: conn, generation: self.generation })
    }

    fn take(&mut self, _: u32) -> Option<Box<Session>> {
        self.session.take()
    }

    fn deliver(&mut self, _: u32, frame: &bytes::Bytes, _: bool) {
        black_box(frame);
    }
}

/// From the open session over its commands, connect and subscribe in one message, to its end.
fn live(encoding: Encoding, token: Option<&str>) -> Operation {
    let commands = message(encoding, &centrifugal::connect_and_subscribe(token, "football"));
    let mut shard = Shard::new(0, 1, 7, Arc::new([0; 32]), Arc::new(Rules::new(&config()).expect("rules")));
    let mut seat = Seat::default();
    Box::new(move || {
        seat.generation += 1;
        seat.session = Some(shard.open(NOW, [7; 16], Wire::websocket(encoding), false));
        let mut at = 0;
        while at < commands.len() {
            at += shard.command(NOW, &mut seat, CONN, black_box(&commands[at..]), at == 0);
        }
        assert_eq!((shard.clients(), shard.hub().subscriptions()), (1, 1));
        black_box(&shard.out);
        shard.out.clear();
        shard.close(NOW, &mut seat, CONN, None);
        assert_eq!((shard.clients(), shard.hub().subscriptions()), (0, 0));
        shard.out.clear();
    })
}
