//! F10 · The text protocol of NATS: bytes to what the server says, and what we say to bytes.
//!
//! Owns the syntax. Whoever is there may say anything: nothing here panics, and what cannot be read is an error. Never
//! speaks to a server.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

/// The longest line; that of INFO names all servers of a cluster.
const LINE_MAX: usize = 256 * 1024;
/// The largest message that a server may be set to pass on.
const PAYLOAD_MAX: usize = 64 << 20;

/// What the server says.
#[derive(Debug, Clone, PartialEq)]
pub enum ServerWord {
    Info(Box<ServerInfo>),
    Message { sid: u64, subject: Bytes, payload: Bytes },
    Ping,
    Pong,
    Fine,
    Error(String),
}

/// What it is.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct ServerInfo {
    pub version: String,
    pub max_payload: usize,
    pub tls_required: bool,
    pub auth_required: bool,
    /// Other servers of its cluster.
    pub connect_urls: Vec<String>,
    pub jetstream: bool,
    pub cluster: String,
    /// What is to be signed by who has a key.
    pub nonce: String,
}

/// Who we are.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct NatsCaller {
    pub verbose: bool,
    pub pedantic: bool,
    pub tls_required: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub pass: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub auth_token: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub jwt: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub nkey: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sig: String,
    pub name: String,
    pub lang: String,
    pub version: String,
    /// 1: the server may say more of itself later.
    pub protocol: u8,
    /// What is published here is heard here.
    pub echo: bool,
    /// False: messages come without theirs.
    pub headers: bool,
}

/// It is not what a server of NATS says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gibberish;

/// The next word of `read`, which is taken out of it; `None` if it is not there as a whole.
pub fn next(read: &mut BytesMut) -> Result<Option<ServerWord>, Gibberish> {
    let Some(end) = read.iter().position(|byte| *byte == b'\n') else {
        return if read.len() > LINE_MAX { Err(Gibberish) } else { Ok(None) };
    };
    let line = read[..end].trim_ascii_end();
    let (verb, rest) = match line.iter().position(|byte| matches!(byte, b' ' | b'\t')) {
        Some(at) => (&line[..at], line[at..].trim_ascii()),
        None => (line, &line[line.len()..]),
    };
    let word = if verb.eq_ignore_ascii_case(b"MSG") {
        let (subject_len, sid, len) = head(rest)?;
        let total = end + 1 + len + 2;
        if read.len() < total {
            return Ok(None);
        }
        let line_len = line.len() - rest.len();
        let mut all = read.split_to(total).freeze();
        let subject = all.slice(line_len..line_len + subject_len);
        all.advance(end + 1);
        let payload = all.split_to(len);
        return if all == b"\r\n"[..] {
            Ok(Some(ServerWord::Message { sid, subject, payload }))
        } else {
            Err(Gibberish)
        };
    } else if verb.eq_ignore_ascii_case(b"INFO") {
        ServerWord::Info(serde_json::from_slice(rest).map_err(|_| Gibberish)?)
    } else if verb.eq_ignore_ascii_case(b"PING") {
        ServerWord::Ping
    } else if verb.eq_ignore_ascii_case(b"PONG") {
        ServerWord::Pong
    } else if verb.eq_ignore_ascii_case(b"+OK") {
        ServerWord::Fine
    } else if verb.eq_ignore_ascii_case(b"-ERR") {
        let text = String::from_utf8_lossy(rest);
        ServerWord::Error(text.trim_matches('\'').chars().take(300).collect())
    } else {
        return Err(Gibberish);
    };
    read.advance(end + 1);
    Ok(Some(word))
}

/// `<subject> <sid> [reply] <bytes>`: how long the subject is, the sid, the bytes.
fn head(rest: &[u8]) -> Result<(usize, u64, usize), Gibberish> {
    let mut parts = rest.split(|byte| matches!(byte, b' ' | b'\t')).filter(|part| !part.is_empty());
    let subject = parts.next().ok_or(Gibberish)?;
    let sid = number(parts.next().ok_or(Gibberish)?)?;
    let third = parts.next().ok_or(Gibberish)?;
    let len = number(parts.next().unwrap_or(third))?;
    let len = usize::try_from(len).ok().filter(|len| *len <= PAYLOAD_MAX).ok_or(Gibberish)?;
    if parts.next().is_some() { Err(Gibberish) } else { Ok((subject.len(), sid, len)) }
}

fn number(digits: &[u8]) -> Result<u64, Gibberish> {
    let all_digits = digits.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(digits).ok().filter(|_| all_digits).ok_or(Gibberish)?;
    text.parse().map_err(|_| Gibberish)
}

pub fn introduce(out: &mut BytesMut, who: &NatsCaller) {
    out.put_slice(b"CONNECT ");
    out.put_slice(serde_json::to_string(who).unwrap_or_else(|_| "{}".into()).as_bytes());
    out.put_slice(b"\r\n");
}

/// `subject` has no white space in it.
pub fn publish(out: &mut BytesMut, subject: &str, payload: &[u8]) {
    out.put_slice(format!("PUB {subject} {}\r\n", payload.len()).as_bytes());
    out.put_slice(payload);
    out.put_slice(b"\r\n");
}

pub fn subscribe(out: &mut BytesMut, subject: &str, sid: u64) {
    out.put_slice(format!("SUB {subject} {sid}\r\n").as_bytes());
}

pub fn unsubscribe(out: &mut BytesMut, sid: u64) {
    out.put_slice(format!("UNSUB {sid}\r\n").as_bytes());
}

pub fn ping(out: &mut BytesMut) {
    out.put_slice(b"PING\r\n");
}

pub fn pong(out: &mut BytesMut) {
    out.put_slice(b"PONG\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SAID: &[u8] = b"INFO {\"version\":\"2.9.10\",\"max_payload\":1048576,\"other\":[1]} \r\n\
        PING\r\n+OK\r\nMSG a.b 7 5\r\nhe\r\no\r\nMSG a.c 18446744073709551615 reply.to 0\r\n\r\npong\r\n\
        -ERR 'Permissions Violation for Publish to \"x\"'\r\n";

    fn words() -> Vec<ServerWord> {
        let message = |subject: &'static str, sid, payload: &'static str| ServerWord::Message {
            sid,
            subject: subject.into(),
            payload: payload.into(),
        };
        let info = ServerInfo { version: "2.9.10".into(), max_payload: 1 << 20, ..ServerInfo::default() };
        vec![
            ServerWord::Info(info.into()),
            ServerWord::Ping,
            ServerWord::Fine,
            message("a.b", 7, "he\r\no"),
            message("a.c", u64::MAX, ""),
            ServerWord::Pong,
            ServerWord::Error("Permissions Violation for Publish to \"x\"".into()),
        ]
    }

    #[test]
    fn words_are_read_wherever_they_are_cut() {
        for cut in 0..=SAID.len() {
            let mut read = BytesMut::from(&SAID[..cut]);
            let mut found = Vec::new();
            while let Some(word) = next(&mut read).expect("a word") {
                found.push(word);
            }
            read.extend_from_slice(&SAID[cut..]);
            while let Some(word) = next(&mut read).expect("a word") {
                found.push(word);
            }
            assert_eq!((found, read.len()), (words(), 0), "cut at {cut}");
        }
    }

    #[test]
    fn what_no_server_says_is_an_error() {
        for bad in [
            "HELLO\r\n",
            "MSG a\r\n",
            "MSG a 1\r\n",
            "MSG a x 1\r\n.\r\n",
            "MSG a 1 +1\r\n.\r\n",
            "MSG a 1 99999999999\r\n",
            "MSG a 1 r 1 1\r\n.\r\n",
            "MSG a 1 1\r\n.xx",
            "INFO {\r\n",
            "\r\n",
        ] {
            assert_eq!(next(&mut BytesMut::from(bad)), Err(Gibberish), "{bad:?}");
        }
        assert_eq!(next(&mut BytesMut::from(&vec![b'x'; LINE_MAX + 1][..])), Err(Gibberish));
    }

    #[test]
    fn what_we_say_is_what_servers_read() {
        let mut out = BytesMut::new();
        let who = NatsCaller { user: "u".into(), name: "gannet".into(), ..NatsCaller::default() };
        introduce(&mut out, &who);
        publish(&mut out, "a.b", b"x\r\ny");
        subscribe(&mut out, "a.*", 3);
        unsubscribe(&mut out, 3);
        ping(&mut out);
        pong(&mut out);
        let text = std::str::from_utf8(&out).expect("text");
        let (connect, rest) = text.split_once("\r\n").expect("a line");
        assert!(connect.starts_with("CONNECT {\"verbose\":false") && !connect.contains("auth_token"), "{connect}");
        assert_eq!(rest, "PUB a.b 4\r\nx\r\ny\r\nSUB a.* 3\r\nUNSUB 3\r\nPING\r\nPONG\r\n");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), verb in 0..5usize) {
            let verb = [&b""[..], b"MSG ", b"MSG a 1 ", b"INFO ", b"-ERR "][verb];
            let mut read = BytesMut::from(&[verb, &bytes].concat()[..]);
            while let Ok(Some(_)) = next(&mut read) {}
        }
    }
}
