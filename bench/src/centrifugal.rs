//! The few commands of the Centrifugal client protocol the loader sends, as JSON text, and two of them in Protobuf.

use std::io;

use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;

/// Where the protocol is served.
pub const PATH: &str = "/connection/websocket";

/// The same for Protobuf.
pub const PROTOBUF_PATH: &str = "/connection/websocket?format=protobuf";

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
    connect_and_subscribe_all(token, &[channel])
}

/// The same to several channels; the ids go on from 2.
pub fn connect_and_subscribe_all(token: Option<&str>, channels: &[&str]) -> String {
    let mut commands = connect(token);
    for (channel, id) in channels.iter().zip(2..) {
        commands.push_str(&format!("\n{{\"subscribe\":{{\"channel\":\"{channel}\"}},\"id\":{id}}}"));
    }
    commands
}

/// `connect` without a token, and a `subscribe` to each channel, in Protobuf. Names are short: a length is one byte.
pub fn protobuf_connect_and_subscribe_all(channels: &[&str]) -> Vec<u8> {
    let field = |tag: u8, body: &[u8]| [&[tag, body.len() as u8][..], body].concat();
    let command = |id: u8, request: &[u8]| [&[request.len() as u8 + 2, 0x08, id][..], request].concat();
    let mut commands = command(1, &field(0x22, &field(0x22, b"bench")));
    for (channel, id) in channels.iter().zip(2..) {
        commands.extend(command(id, &field(0x2a, &field(0x0a, channel.as_bytes()))));
    }
    commands
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
    let key = EncodingKey::from_secret(secret.as_bytes()).map_err(io::Error::other)?;
    encode(&Header::default(), &claims, &key).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protobuf_commands_are_those_of_the_wire() {
        let connect = [11, 0x08, 1, 0x22, 7, 0x22, 5, b'b', b'e', b'n', b'c', b'h'];
        let subscribe = [8, 0x08, 2, 0x2a, 4, 0x0a, 2, b'a', b'b'];
        assert_eq!(protobuf_connect_and_subscribe_all(&["ab"]), [&connect[..], &subscribe[..]].concat());
    }
}
