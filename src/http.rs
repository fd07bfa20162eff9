//! F1 · The head of an HTTP/1.1 request, its body, and the few fixed answers a reactor gives itself.
//!
//! Owns parsing (by httparse) and its limits; the body is in `body`. Knows nothing of endpoints: who answers a path is
//! decided above.

mod body;

pub use body::{Body, BodyError, Framing, TAIL_MAX as BODY_TAIL_MAX};

use bytes::Bytes;

/// Header lines in a request; beyond: 431.
pub const HEADERS_MAX: usize = 64;

/// A request head, borrowed from the read buffer.
#[derive(Debug)]
pub struct Head<'a> {
    pub method: &'a str,
    /// Without the query.
    pub path: &'a str,
    pub query: &'a str,
    /// HTTP/1.`minor`.
    pub minor: u8,
    /// Of a target that is a whole URL.
    authority: Option<&'a str>,
    headers: Vec<(&'a str, &'a [u8])>,
    /// Bytes of the head, the blank line with it.
    pub size: usize,
}

/// Why a head is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadError {
    /// Not HTTP: 400.
    Malformed,
    /// More than [`HEADERS_MAX`] lines: 431.
    TooLarge,
}

impl<'a> Head<'a> {
    /// The head at the front of `input`; `None` while it is cut.
    pub fn parse(input: &'a [u8]) -> Result<Option<Head<'a>>, HeadError> {
        let mut lines = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut lines);
        let size = match request.parse(input) {
            Ok(httparse::Status::Complete(size)) => size,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooLarge),
            Err(_) => return Err(HeadError::Malformed),
        };
        let (authority, target) = origin_form(request.path.unwrap_or("/"));
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let headers = request.headers.iter().map(|line| (line.name, line.value)).collect();
        Ok(Some(Head {
            method: request.method.unwrap_or(""),
            path,
            query,
            minor: request.version.unwrap_or(0),
            authority,
            headers,
            size,
        }))
    }

    /// The value of the only header line of that name, if it is UTF-8. Of two lines neither counts: whoever reads the
    /// first and whoever reads the last would not agree.
    pub fn only(&self, name: &str) -> Option<&'a str> {
        let mut lines = self.lines(name);
        let value = lines.next().filter(|_| lines.next().is_none())?;
        std::str::from_utf8(value).ok()
    }

    /// The host that the request is for, with its port if it is named: that of the target if it is a whole URL (RFC
    /// 9112 section 3.2.2), else that of the only `Host`.
    pub fn host(&self) -> Option<&'a str> {
        self.authority.or_else(|| self.only("host"))
    }

    /// How many headers of that name there are.
    pub fn count(&self, name: &str) -> usize {
        self.lines(name).count()
    }

    /// Is `token` in the comma-separated list(s) of that name, in any case? (RFC 9110 section 5.6.1.)
    pub fn lists(&self, name: &str, token: &str) -> bool {
        self.items(name).any(|item| item.eq_ignore_ascii_case(token))
    }

    /// The items of the comma-separated list(s) of that name.
    pub fn items(&self, name: &str) -> impl Iterator<Item = &'a str> {
        self.values(name).flat_map(|value| value.split(',')).map(str::trim)
    }

    /// Does the query hold `key=value`, letter by letter?
    pub fn asks(&self, key: &str, value: &str) -> bool {
        self.query.split('&').any(|pair| pair.split_once('=') == Some((key, value)))
    }

    /// The value of `key` in the query, decoded as that of a form is.
    pub fn param(&self, key: &str) -> Option<Vec<u8>> {
        let mut pairs = self.query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.find(|(name, _)| *name == key).map(|(_, value)| decoded(value))
    }

    /// The values of all header lines of that name, in their order, those that are UTF-8.
    pub fn values(&self, name: &str) -> impl Iterator<Item = &'a str> {
        self.lines(name).filter_map(|value| std::str::from_utf8(value).ok())
    }

    /// The same, whatever bytes they are.
    pub fn lines(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.headers.iter().filter(move |(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
    }
}

/// The host, the path and the query of a request target; proxies may send the whole URL (RFC 9112 section 3.2.2).
fn origin_form(target: &str) -> (Option<&str>, &str) {
    let is_ours = |scheme: &str| ["http", "https", "ws", "wss"].iter().any(|ours| scheme.eq_ignore_ascii_case(ours));
    let Some((_, rest)) = target.split_once("://").filter(|(scheme, _)| is_ours(scheme)) else {
        return (None, target);
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, behind) = rest.split_at(end);
    (Some(authority), if behind.is_empty() { "/" } else { behind })
}

/// `+` is a blank and `%41` an A; a `%` without two hex digits is itself (WHATWG URL section 1.3).
fn decoded(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        let digit = |at: usize| behind.get(at).and_then(|&digit| char::from(digit).to_digit(16));
        let (value, used) = match (byte, digit(0), digit(1)) {
            (b'+', ..) => (b' ', 0),
            (b'%', Some(high), Some(low)) => ((high << 4 | low) as u8, 2),
            _ => (byte, 0),
        };
        out.push(value);
        rest = behind.get(used..).unwrap_or_default();
    }
    out
}

/// A whole answer that closes the connection. `extra` holds further header lines, each ended by CRLF.
pub fn answer(status: u16, phrase: &str, extra: &str, text: &str) -> Bytes {
    let len = text.len() + 1;
    Bytes::from(format!(
        "HTTP/1.1 {status} {phrase}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {len}\r\nConnection: close\r\n{extra}\r\n{text}\n"
    ))
}

/// The answer that says no by a status which others chose. A status that has no body gets none.
pub fn refusal(status: u16, extra: &str, text: &str) -> Bytes {
    let phrase = match status {
        200 => "OK",
        204 => "No Content",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Refused",
    };
    match status {
        204 | 205 | 304 => Bytes::from(format!("HTTP/1.1 {status} {phrase}\r\nConnection: close\r\n{extra}\r\n")),
        _ => answer(status, phrase, extra, text),
    }
}

/// Is that the media type of Protobuf?
pub fn is_binary(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or("");
    kind.trim().eq_ignore_ascii_case("application/octet-stream")
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: &[u8] =
        b"GET /a/b?format=protobuf&x=1 HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nX: \xff\r\n\r\nrest";

    #[test]
    fn reads_a_head_and_leaves_the_rest() {
        let head = Head::parse(REQUEST).expect("sound").expect("whole");
        assert_eq!((head.method, head.path, head.minor, &REQUEST[head.size..]), ("GET", "/a/b", 1, &b"rest"[..]));
        assert!(head.lists("connection", "upgrade") && !head.lists("connection", "up"));
        assert!(head.asks("format", "protobuf") && !head.asks("format", "proto"));
        assert_eq!((head.only("HOST"), head.only("x"), head.count("x")), (Some("h"), None, 1));
        assert_eq!(head.lines("X").collect::<Vec<_>>(), [b"\xff"]);
    }

    #[test]
    fn of_two_lines_none_is_the_only_one() {
        let head = Head::parse(b"GET / HTTP/1.1\r\nA: 1\r\nB: 2\r\na: 3\r\n\r\n").expect("sound").expect("whole");
        assert_eq!((head.only("a"), head.only("b"), head.only("c")), (None, Some("2"), None));
        assert_eq!(head.values("A").collect::<Vec<_>>(), ["1", "3"]);
    }

    #[test]
    fn a_target_may_be_a_whole_url() {
        let path = |target: &str| {
            let request = format!("GET {target} HTTP/1.1\r\nHost: of the line\r\n\r\n");
            let head = Head::parse(request.as_bytes()).expect("sound").expect("whole");
            format!("{} {} {}", head.path, head.query, head.host().unwrap_or("-"))
        };
        assert_eq!(path("http://h:1/a?x=http://y/"), "/a x=http://y/ h:1");
        assert_eq!(path("WSS://h"), "/  h");
        assert_eq!(path("ws://h?x=/y"), " x=/y h");
        assert_eq!(path("/a://b/c"), "/a://b/c  of the line");
    }

    #[test]
    fn a_query_is_read_as_a_form_is() {
        let request = b"GET /?a=%7B%22x%22:+1%7d&b&%61=no&c=%&d=%4&e=%zz%E2%82%AC&a=later HTTP/1.1\r\n\r\n";
        let head = Head::parse(request).expect("sound").expect("whole");
        let read = |key: &str| head.param(key).map(|value| String::from_utf8(value).expect("UTF-8"));
        assert_eq!(read("a").as_deref(), Some("{\"x\": 1}"));
        assert_eq!(["b", "c", "d", "e", "f"].map(|key| read(key).unwrap_or("-".into())), ["", "%", "%4", "%zz€", "-"]);
    }

    #[test]
    fn a_cut_head_waits_and_noise_is_refused() {
        for cut in 0..REQUEST.len() - 4 {
            assert!(Head::parse(&REQUEST[..cut]).expect("sound so far").is_none(), "cut at {cut}");
        }
        assert_eq!(Head::parse(b"\x16\x03\x01 hello\r\n\r\n").unwrap_err(), HeadError::Malformed);
        let many = [&b"GET / HTTP/1.1\r\n"[..], &b"a: b\r\n".repeat(HEADERS_MAX + 1), b"\r\n"].concat();
        assert_eq!(Head::parse(&many).unwrap_err(), HeadError::TooLarge);
    }
}
