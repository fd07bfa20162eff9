//! The Centrifugal client protocol as a client speaks it: connect, subscribe, publish, pong.
//!
//! Owns who a client says it is (a token for `user-N` made from the server's HMAC secret, or nobody), and which of
//! the two encodings is spoken; `json` and `protobuf` write and read the bytes.

use std::fmt;

use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;

use super::{Heard, Names, Outgoing, Wanted, json, protobuf};

/// Tokens live longer than any run.
const TOKEN_SECONDS: u64 = 86_400;

/// The encoding of commands and replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Json,
    Protobuf,
}

impl Encoding {
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "centrifugal json",
            Self::Protobuf => "centrifugal protobuf",
        }
    }
}

/// What clients connect with.
#[derive(Clone)]
pub struct Centrifugal {
    pub encoding: Encoding,
    /// Signs tokens; None = clients have none.
    pub key: Option<EncodingKey>,
    /// What comes before the number in a user's name.
    pub user_prefix: String,
    /// Seconds since 1970 at the start of the run.
    pub started: u64,
}

impl fmt::Debug for Centrifugal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Centrifugal").field("encoding", &self.encoding).finish_non_exhaustive()
    }
}

impl Centrifugal {
    /// Only Protobuf is asked for by name, as the official clients do.
    pub fn subprotocol(&self) -> Option<&'static str> {
        (self.encoding == Encoding::Protobuf).then_some("centrifuge-protobuf")
    }

    /// An HS256 connection token for client number `client`.
    pub fn token(&self, client: u32) -> Result<Option<String>, String> {
        let Some(key) = &self.key else { return Ok(None) };
        let claims = json!({
            "sub": format!("{}{client}", self.user_prefix),
            "iat": self.started,
            "exp": self.started + TOKEN_SECONDS,
        });
        encode(&Header::default(), &claims, key).map(Some).map_err(|error| format!("token: {error}"))
    }

    /// `connect` with id 1 and a `subscribe` for each channel wanted, in one message.
    pub fn join(&self, client: u32, wanted: &[Wanted<'_>], names: &Names) -> Result<Outgoing, String> {
        let token = self.token(client)?;
        let mut bytes = Vec::new();
        match self.encoding {
            Encoding::Json => json::connect(token.as_deref(), &mut bytes),
            Encoding::Protobuf => protobuf::connect(token.as_deref(), &mut bytes),
        }
        wanted.iter().for_each(|wanted| self.put_subscribe(wanted, names, &mut bytes));
        Ok(Outgoing { text: self.encoding == Encoding::Json, bytes })
    }

    /// One `subscribe` alone.
    pub fn subscribe(&self, wanted: &Wanted<'_>, names: &Names) -> Outgoing {
        let mut bytes = Vec::new();
        self.put_subscribe(wanted, names, &mut bytes);
        Outgoing { text: self.encoding == Encoding::Json, bytes }
    }

    fn put_subscribe(&self, wanted: &Wanted<'_>, names: &Names, out: &mut Vec<u8>) {
        let channel = names.of(wanted.channel);
        match self.encoding {
            Encoding::Json => json::subscribe(wanted.id, &channel, wanted.past, out),
            Encoding::Protobuf => protobuf::subscribe(wanted.id, &channel, wanted.past, out),
        }
    }

    /// `publish`; true = it is text.
    pub fn publish(&self, id: u32, channel: &str, payload: &[u8], out: &mut Vec<u8>) -> bool {
        match self.encoding {
            Encoding::Json => json::publish(id, channel, payload, out),
            Encoding::Protobuf => protobuf::publish(id, channel, payload, out),
        }
        self.encoding == Encoding::Json
    }

    pub fn pong(&self) -> (bool, &'static [u8]) {
        match self.encoding {
            Encoding::Json => (true, b"{}"),
            Encoding::Protobuf => (false, b"\0"),
        }
    }

    pub fn hear(&self, message: &[u8], names: &Names, heard: impl FnMut(Heard)) {
        match self.encoding {
            Encoding::Json => json::hear(message, names, heard),
            Encoding::Protobuf => protobuf::hear(message, names, heard),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};

    #[test]
    fn a_token_names_its_user() {
        let started = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
        let centrifugal = Centrifugal {
            encoding: Encoding::Json,
            key: Some(EncodingKey::from_secret(b"secret").expect("a key")),
            user_prefix: "user-".to_owned(),
            started,
        };
        let token = centrifugal.token(42).expect("signed").expect("a token");
        let rules = Validation::new(Algorithm::HS256);
        let key = DecodingKey::from_secret(b"secret").expect("a key");
        let claims = decode::<serde_json::Value>(&token, &key, &rules).expect("valid");
        assert_eq!(claims.claims["sub"], "user-42");
    }
}
