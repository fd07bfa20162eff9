//! F1 · The opening handshake, RFC 6455 section 4.2: what a request must have, and the answer that accepts it.

use super::extension::{Agreed, negotiate};
use crate::http::{self, Framing, Head};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use sha1::{Digest, Sha1};

/// A request that may be upgraded.
#[derive(Debug, PartialEq, Eq)]
pub struct Upgrade<'a> {
    key: &'a str,
    /// Compression, if it was asked for by [`Upgrade::deflating`] and the client offered it.
    pub deflate: Option<Agreed>,
}

/// Why it may not: an HTTP status and a sentence for its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    pub phrase: &'static str,
    pub text: &'static str,
}

const fn bad_request(text: &'static str) -> Refusal {
    Refusal { status: 400, phrase: "Bad Request", text }
}

impl Refusal {
    /// The whole answer. A 426 names the version this server speaks (section 4.4).
    pub fn answer(self) -> Bytes {
        let extra = match self.status {
            426 => "Sec-WebSocket-Version: 13\r\nUpgrade: websocket\r\n",
            405 => "Allow: GET\r\n",
            _ => "",
        };
        http::answer(self.status, self.phrase, extra, self.text)
    }
}

impl<'a> Upgrade<'a> {
    /// Checks what section 4.2.1 asks of a request, in that order.
    pub fn check(head: &Head<'a>) -> Result<Upgrade<'a>, Refusal> {
        if head.method != "GET" {
            return Err(Refusal {
                status: 405,
                phrase: "Method Not Allowed",
                text: "a WebSocket handshake is a GET request",
            });
        }
        if head.minor < 1 {
            return Err(bad_request("a WebSocket handshake needs HTTP/1.1"));
        }
        if head.count("host") != 1 {
            return Err(bad_request("a request needs one Host header"));
        }
        // What came behind the head would be read as frames.
        if Framing::of(head).map_or(true, Framing::has_body) {
            return Err(bad_request("a WebSocket handshake has no body"));
        }
        if !head.lists("upgrade", "websocket") {
            return Err(bad_request("this is a WebSocket endpoint: the Upgrade header must say websocket"));
        }
        if !head.lists("connection", "upgrade") {
            return Err(bad_request("the Connection header must list Upgrade"));
        }
        if head.only("sec-websocket-version") != Some("13") {
            return Err(Refusal { status: 426, phrase: "Upgrade Required", text: "Sec-WebSocket-Version must be 13" });
        }
        let key = head.only("sec-websocket-key").map(str::trim).filter(|key| is_key(key));
        let key = key.ok_or(bad_request("Sec-WebSocket-Key must be 16 bytes in base64"))?;
        Ok(Upgrade { key, deflate: None })
    }

    /// Takes the client's offer of compression, if there is one that can be.
    pub fn deflating(self, head: &Head<'a>) -> Upgrade<'a> {
        Upgrade { deflate: negotiate(head.values("sec-websocket-extensions")), ..self }
    }
}

fn is_key(key: &str) -> bool {
    let mut bytes = [0u8; 18];
    key.len() == 24 && STANDARD.decode_slice(key, &mut bytes) == Ok(16)
}

/// Appends the 101 answer; `subprotocol` is one the client offered.
pub fn respond(upgrade: &Upgrade<'_>, subprotocol: Option<&str>, out: &mut Vec<u8>) {
    let digest = Sha1::new().chain_update(upgrade.key).chain_update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11").finalize();
    let mut accept = [0u8; 28];
    // 20 bytes are 28 letters: it always fits.
    let _ = STANDARD.encode_slice(digest, &mut accept);
    out.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ",
    );
    out.extend_from_slice(&accept);
    if let Some(name) = subprotocol {
        out.extend_from_slice(b"\r\nSec-WebSocket-Protocol: ");
        out.extend_from_slice(name.as_bytes());
    }
    if let Some(agreed) = upgrade.deflate {
        out.extend_from_slice(b"\r\nSec-WebSocket-Extensions: ");
        agreed.push(out);
    }
    out.extend_from_slice(b"\r\n\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "GET /x HTTP/1.1\r\nHost: h\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

    fn status(request: &str) -> u16 {
        let head = Head::parse(request.as_bytes()).expect("sound").expect("whole");
        Upgrade::check(&head).map_or_else(|refusal| refusal.status, |_| 101)
    }

    #[test]
    fn accepts_the_handshake_of_the_rfc() {
        let head = Head::parse(GOOD.as_bytes()).expect("sound").expect("whole");
        let mut out = Vec::new();
        respond(&Upgrade::check(&head).expect("good"), Some("centrifuge-protobuf"), &mut out);
        let text = String::from_utf8(out).expect("ASCII");
        assert!(text.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{text}");
        assert!(text.ends_with("\r\nSec-WebSocket-Protocol: centrifuge-protobuf\r\n\r\n"));
    }

    #[test]
    fn agrees_to_compression_only_where_it_is_wanted() {
        let offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";
        let request = [GOOD.trim_end(), "\r\n", offer].concat();
        let head = Head::parse(request.as_bytes()).expect("sound").expect("whole");
        let answer = |upgrade: Upgrade<'_>| {
            let mut out = Vec::new();
            respond(&upgrade, None, &mut out);
            String::from_utf8(out).expect("ASCII")
        };
        let upgrade = || Upgrade::check(&head).expect("good");
        let line =
            "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover";
        assert!(answer(upgrade().deflating(&head)).ends_with(&format!("\r\n{line}\r\n\r\n")));
        assert!(!answer(upgrade()).contains("Extensions"));
    }

    #[test]
    fn refuses_what_is_missing_or_wrong() {
        assert_eq!(status(GOOD), 101);
        for (from, to, expected) in [
            ("GET", "POST", 405),
            ("HTTP/1.1", "HTTP/1.0", 400),
            ("Host: h\r\n", "", 400),
            ("Upgrade: WebSocket", "Upgrade: h2c", 400),
            ("keep-alive, Upgrade", "keep-alive", 400),
            ("Version: 13", "Version: 8", 426),
            ("Sec-WebSocket-Version: 13\r\n", "", 426),
            ("dGhlIHNhbXBsZSBub25jZQ==", "dGhl", 400),
            ("dGhlIHNhbXBsZSBub25jZQ==", "!!!!IHNhbXBsZSBub25jZQ==", 400),
            ("Sec-WebSocket-Key", "Sec-WebSocket-Kez", 400),
            ("Upgrade: W", "Content-Length: 0\r\nUpgrade: W", 101),
            ("Upgrade: W", "Content-Length: 1\r\nUpgrade: W", 400),
            ("Upgrade: W", "Content-Length: 0\r\nContent-Length: 0\r\nUpgrade: W", 400),
            ("Upgrade: W", "Transfer-Encoding: chunked\r\nUpgrade: W", 400),
            ("Upgrade: W", "Transfer-Encoding: identity\r\nUpgrade: W", 400),
            ("Upgrade: W", "Sec-WebSocket-Version: 8\r\nUpgrade: W", 426),
        ] {
            assert_eq!(status(&GOOD.replace(from, to)), expected, "{from} -> {to}");
        }
    }
}
