//! The few commands of the Centrifugal client protocol the loader sends, as JSON text.

use std::io;

use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;

/// Where the protocol is served.
pub const PATH: &str = "/connection/websocket";

/// A ping from the server, and its pong.
pub const PING: &str = "{}";

/// `connect` alone.
pub fn connect(token: Option<&str>) -> String {
    match token {
        Some(token) => format!(r#"{{"connect":{{"token":"{token}","name":"bench"}},"id":1}}"#),
        None => r#"{"connect":{"name":"bench"},"id":1}"#.to_owned(),
    }
}

/// `connect` and `subscribe` in one frame, as the official JavaScript client sends them.
pub fn connect_and_subscribe(token: Option<&str>, channel: &str) -> String {
    format!("{}\n{{\"subscribe\":{{\"channel\":\"{channel}\"}},\"id\":2}}", connect(token))
}

/// `publish` of a JSON string that takes `size` bytes with its quotes.
pub fn publish(id: usize, channel: &str, size: usize) -> String {
    let text = "x".repeat(size.saturating_sub(2));
    format!(r#"{{"publish":{{"channel":"{channel}","data":"{text}"}},"id":{id}}}"#)
}

/// An HS256 connection token for `user`, valid for a day.
pub fn token(secret: &str, user: &str) -> io::Result<String> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_err(io::Error::other)?;
    let claims = json!({"sub": user, "exp": now.as_secs() + 86_400});
    encode(&Header::default(), &claims, &EncodingKey::from_secret(secret.as_bytes())).map_err(io::Error::other)
}
