//! The upgrade: a request out, a response in, both by tungstenite's handshake functions.
//!
//! Never knows the socket, nor what is said after the upgrade.

use tungstenite::handshake::client::{Response, generate_key, generate_request};
use tungstenite::handshake::derive_accept_key;
use tungstenite::handshake::machine::TryParse;
use tungstenite::http::{Request, StatusCode};

/// The longest response head taken.
const HEAD_MAX: usize = 16 * 1024;

/// An upgrade under way.
#[derive(Debug)]
pub struct Upgrade {
    accept: String,
    protocol: Option<&'static str>,
    head: Vec<u8>,
}

/// What a response says so far.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    Partial,
    /// Upgraded: what came after the head.
    Open(Vec<u8>),
    /// Not upgraded, and why.
    Refused(String),
}

impl Upgrade {
    /// The bytes to send, and the upgrade that awaits its response.
    pub fn new(
        authority: &str,
        path: &str,
        protocol: Option<&'static str>,
        headers: &[(String, String)],
    ) -> Result<(Vec<u8>, Self), String> {
        let mut request = Request::builder()
            .uri(path)
            .header("Host", authority)
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", generate_key());
        if let Some(protocol) = protocol {
            request = request.header("Sec-WebSocket-Protocol", protocol);
        }
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request.body(()).map_err(|error| error.to_string())?;
        let (bytes, key) = generate_request(request).map_err(|error| error.to_string())?;
        Ok((bytes, Self { accept: derive_accept_key(key.as_bytes()), protocol, head: Vec::new() }))
    }

    /// Takes what the server sent.
    pub fn take(&mut self, bytes: &[u8]) -> Answer {
        self.head.extend_from_slice(bytes);
        match Response::try_parse(&self.head) {
            Ok(None) if self.head.len() <= HEAD_MAX => Answer::Partial,
            Ok(None) => Answer::Refused("response head over the limit".to_owned()),
            Ok(Some((size, response))) => match self.judge(&response) {
                Ok(()) => Answer::Open(self.head.split_off(size)),
                Err(reason) => Answer::Refused(reason),
            },
            // tungstenite knows HTTP/1.1 only, and proxies refuse in 1.0.
            Err(_) => Answer::Refused(old_status(&self.head).unwrap_or_else(|| "not an HTTP response".to_owned())),
        }
    }

    fn judge(&self, response: &Response) -> Result<(), String> {
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(format!("http {}", response.status().as_u16()));
        }
        let has = |name: &str, value: &str| {
            let found = response.headers().get(name).and_then(|found| found.to_str().ok());
            found.is_some_and(|found| found.eq_ignore_ascii_case(value))
        };
        if !has("Upgrade", "websocket") || !has("Connection", "Upgrade") {
            return Err("101 without Upgrade: websocket".to_owned());
        }
        if response.headers().get("Sec-WebSocket-Accept").is_none_or(|found| found != self.accept.as_str()) {
            return Err("wrong Sec-WebSocket-Accept".to_owned());
        }
        if response.headers().contains_key("Sec-WebSocket-Extensions") {
            return Err("an extension that was not offered".to_owned());
        }
        match (self.protocol, response.headers().get("Sec-WebSocket-Protocol")) {
            (None, None) => Ok(()),
            (Some(asked), Some(got)) if got == asked => Ok(()),
            _ => Err("another subprotocol than the one offered".to_owned()),
        }
    }
}

/// What a response in HTTP/1.0 comes to.
fn old_status(head: &[u8]) -> Option<String> {
    let status = head.strip_prefix(b"HTTP/1.0 ")?.get(..3)?;
    status.iter().all(u8::is_ascii_digit).then(|| format!("http {}", String::from_utf8_lossy(status)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tungstenite::handshake::server::{create_response, write_response};

    fn response(request: &[u8]) -> Vec<u8> {
        let (_, request) = tungstenite::handshake::server::Request::try_parse(request).expect("HTTP").expect("whole");
        let mut bytes = Vec::new();
        write_response(&mut bytes, &create_response(&request).expect("an upgrade")).expect("written");
        bytes
    }

    #[test]
    fn tungstenite_accepts_and_is_accepted_at_every_split() {
        let headers = [("X-Test".to_owned(), "1".to_owned())];
        let (request, _) = Upgrade::new("localhost:1", "/a?b=c", None, &headers).expect("a sound request");
        let text = String::from_utf8(request.clone()).expect("ASCII");
        assert!(text.starts_with("GET /a?b=c HTTP/1.1\r\nHost: localhost:1\r\n"), "{text}");
        assert!(text.contains("x-test: 1\r\n"), "{text}");
        for split in 0..response(&request).len() {
            let (request, mut upgrade) = Upgrade::new("localhost:1", "/", None, &[]).expect("a sound request");
            let bytes = [&response(&request)[..], b"after"].concat();
            assert_eq!(upgrade.take(&bytes[..split]), Answer::Partial);
            assert_eq!(upgrade.take(&bytes[split..]), Answer::Open(b"after".to_vec()));
        }
    }

    #[test]
    fn refusals_have_reasons() {
        let refused = |bytes: &[u8]| {
            let (_, mut upgrade) = Upgrade::new("localhost", "/", Some("p"), &[]).expect("a sound request");
            upgrade.take(bytes)
        };
        assert_eq!(refused(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"), Answer::Refused("http 503".to_owned()));
        assert_eq!(refused(b"HTTP/1.0 503 Busy\r\n\r\n<html>"), Answer::Refused("http 503".to_owned()));
        assert_eq!(refused(b"HTTP/1.0 no\r\n\r\n"), Answer::Refused("not an HTTP response".to_owned()));
        assert_eq!(refused(b"SSH-2.0\r\n\r\n"), Answer::Refused("not an HTTP response".to_owned()));
        let key = b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n";
        assert_eq!(refused(key), Answer::Refused("wrong Sec-WebSocket-Accept".to_owned()));
    }
}
