//! F10 · Responses that do not end: server-sent events and HTTP streams, with a session behind each.
//!
//! Owns what is before such a response: what its request must be, reading the body, and the response's head. From then
//! on it is a connection like the others, on which the client is not listened to. The response ends with its connection
//! and has no chunks: what is sent can be shared by many, as frames of a WebSocket are.

use super::Reactor;
use super::conn::Phase;
use super::handshake::Decision;
use crate::base::wheel::NEVER;
use crate::config::HttpStream;
use crate::http::{self, Body, BodyError, Framing, Head, is_binary};
use crate::origin::{Source, preflight, shared_with};
use crate::wire::Wire;
use bytes::Bytes;
use compact_str::CompactString;

/// The query's key for what a request without a body says.
const CONNECT: &str = "cf_connect";
const CONTINUE: Bytes = Bytes::from_static(b"HTTP/1.1 100 Continue\r\n\r\n");

/// An endpoint whose responses do not end.
#[derive(Debug)]
pub struct Endpoint {
    pub path: String,
    /// With JSON, if it speaks both encodings.
    wire: Wire,
    body_max: usize,
}

/// A request for such a response.
#[derive(Debug)]
pub struct StreamRequest {
    wire: Wire,
    /// Of the response.
    head: Bytes,
    said: Said,
    body_max: usize,
    /// It waits to be told that its body is wanted.
    expects: bool,
    /// Lines of it that the backend is told of.
    pub headers: Box<str>,
    /// Whom the proxy in front names.
    pub trusted_user: CompactString,
}

/// How a request says its first commands, or how its client wants to connect.
#[derive(Debug)]
enum Said {
    Query(Vec<u8>),
    Body(Body),
}

impl Endpoint {
    /// None if it is off.
    pub fn new(options: &HttpStream, wire: Wire) -> Option<Endpoint> {
        let path = super::handshake::trim(&options.handler_prefix).to_owned();
        options.enabled.then_some(Endpoint { path, wire, body_max: options.max_request_body_size })
    }

    fn has_events(&self) -> bool {
        matches!(self.wire, Wire::SseJson | Wire::UniSse)
    }

    /// Decides about a head for this endpoint, whose origin is allowed.
    pub fn decide<'a>(&self, head: &Head<'a>, source: Source<'_>) -> Decision<'a> {
        let methods = if self.has_events() { "GET, POST" } else { "POST" };
        if head.method == "OPTIONS" {
            let asked: Vec<&str> = head.values("access-control-request-headers").collect();
            let lines = preflight(source.origin, methods, &asked);
            return Decision::Answer(204, empty_answer(&lines));
        }
        let said = match head.method {
            // It would be taken for the next request by whoever reads it so.
            "GET" if Framing::of(head).map_or(true, Framing::has_body) => return refuse_body(BodyError::Malformed),
            "GET" if self.has_events() => match head.param(CONNECT) {
                Some(said) => Said::Query(said),
                None if self.wire.is_uni() => Said::Query(Vec::new()),
                None => {
                    let text = "the query must have cf_connect, a connect command in JSON";
                    return Decision::Answer(400, http::answer(400, "Bad Request", "", text));
                }
            },
            "POST" => match Body::of(head, self.body_max) {
                Ok(body) => Said::Body(body),
                Err(error) => return refuse_body(error),
            },
            _ => {
                let (allow, text) = (format!("Allow: {methods}\r\n"), "this endpoint takes other methods");
                return Decision::Answer(405, http::answer(405, "Method Not Allowed", &allow, text));
            }
        };
        let wire = match self.wire {
            Wire::StreamJson if head.only("content-type").is_some_and(is_binary) => Wire::StreamProtobuf,
            wire => wire,
        };
        let expects = head.lists("expect", "100-continue");
        Decision::Stream(StreamRequest {
            wire,
            head: response_head(wire, source.origin),
            said,
            body_max: self.body_max,
            expects,
            headers: Box::default(),
            trusted_user: CompactString::default(),
        })
    }
}

pub fn refuse_body<'a>(error: BodyError) -> Decision<'a> {
    let (status, phrase, text) = match error {
        BodyError::Malformed => {
            (400, "Bad Request", "there is a body where none belongs, or its length is not to be made out")
        }
        BodyError::NoLength => (411, "Length Required", "a body is needed, and its length"),
        BodyError::TooLarge => (413, "Content Too Large", "the body is larger than max_request_body_size"),
    };
    Decision::Answer(status, http::answer(status, phrase, "", text))
}

fn empty_answer(lines: &[(&str, String)]) -> Bytes {
    let mut text = String::from("HTTP/1.1 204 No Content\r\nConnection: close\r\n");
    push_lines(lines, &mut text);
    text.into()
}

fn response_head(wire: Wire, origin: Option<&str>) -> Bytes {
    let kind = match wire {
        Wire::SseJson | Wire::UniSse => "text/event-stream; charset=utf-8",
        Wire::StreamProtobuf => "application/octet-stream",
        _ => "application/json; charset=utf-8",
    };
    // No length, no chunks: the body ends with the connection, in HTTP/1.0 as in 1.1 (RFC 9112 section 6.3). The rest
    // keeps proxies from holding back what they get.
    let mut text = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nCache-Control: private, no-store, no-transform\r\nX-Accel-Buffering: no\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n"
    );
    push_lines(&shared_with(origin), &mut text);
    text.into()
}

fn push_lines(lines: &[(&str, String)], text: &mut String) {
    for (name, value) in lines {
        text.extend([name, ": ", value, "\r\n"]);
    }
    text.push_str("\r\n");
}

impl Reactor {
    /// A request for a stream; `behind` is what came after its head. Bytes of it used.
    pub(super) fn take_request(&mut self, conn: u32, request: StreamRequest, behind: &[u8]) -> usize {
        if !self.admit(conn) {
            return behind.len();
        }
        if let Said::Query(said) = &request.said {
            self.begin_stream(conn, &request, said);
            return behind.len();
        }
        if request.expects && behind.is_empty() {
            self.conns.send(conn, CONTINUE);
        }
        if let Some(it) = self.conns.get(conn) {
            it.phase = Phase::Body;
        }
        if let Some(partial) = self.conns.partial(conn) {
            partial.request = Some(Box::new(request));
        }
        self.take_body(conn, behind)
    }

    /// More of a request's body; bytes used.
    pub(super) fn take_body(&mut self, conn: u32, bytes: &[u8]) -> usize {
        let Some(partial) = self.conns.partial(conn) else { return bytes.len() };
        let Some(mut request) = partial.request.take() else { return bytes.len() };
        let Said::Body(body) = &mut request.said else { return bytes.len() };
        match body.take(bytes, &mut partial.message, request.body_max) {
            Ok((used, false)) => {
                partial.request = Some(request);
                return used;
            }
            Ok((_, true)) => {
                let said = std::mem::take(&mut partial.message);
                self.conns.give_partial_back(conn);
                self.begin_stream(conn, &request, &said);
            }
            Err(error) => {
                if let Decision::Answer(status, text) = refuse_body(error) {
                    self.answer(conn, status, text);
                }
            }
        }
        bytes.len()
    }

    /// The response begins, and with it the session.
    fn begin_stream(&mut self, conn: u32, request: &StreamRequest, said: &[u8]) {
        let id = self.next_id();
        let mut session = self.shard.open(self.now, id, request.wire, false);
        session.set_headers(request.headers.clone());
        session.set_trusted_user(&request.trusted_user);
        if let Some(it) = self.conns.get(conn) {
            it.phase = Phase::Stream;
            it.io_due = NEVER;
            it.session = Some(session);
        }
        // It leaves with the reply, in one write.
        self.conns.send(conn, request.head.clone());
        self.shard.counters.messages_received += 1;
        self.take_commands(conn, said);
        self.conns.arm(conn);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of a request: the wire of its stream and how it says its first commands, or the status.
    fn decide(wire: Wire, request: &str) -> String {
        let options = HttpStream { enabled: true, handler_prefix: "/s/".into(), max_request_body_size: 9 };
        let endpoint = Endpoint::new(&options, wire).expect("it is on");
        assert_eq!(endpoint.path, "/s");
        let request = format!("{request}\r\n\r\n");
        let head = Head::parse(request.as_bytes()).expect("sound").expect("whole");
        match endpoint.decide(&head, Source { origin: None, host: None }) {
            Decision::Stream(StreamRequest { wire, said: Said::Query(said), .. }) => {
                format!("{wire:?} {}", String::from_utf8_lossy(&said))
            }
            Decision::Stream(StreamRequest { wire, expects, .. }) => format!("{wire:?} body {expects}"),
            Decision::Answer(status, _) => status.to_string(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn a_request_chooses_its_stream() {
        use Wire::*;
        for (wire, request, expected) in [
            (SseJson, "GET /s?cf_connect=%7b%7d&x=y HTTP/1.1", "SseJson {}"),
            (SseJson, "GET /s HTTP/1.1", "400"),
            (UniSse, "GET /s HTTP/1.1", "UniSse "),
            (SseJson, "GET /s?cf_connect={} HTTP/1.1\r\nContent-Length: 0", "SseJson {}"),
            (SseJson, "GET /s?cf_connect={} HTTP/1.1\r\nContent-Length: 1", "400"),
            (UniSse, "GET /s HTTP/1.1\r\nTransfer-Encoding: chunked", "400"),
            (UniSse, "POST /s HTTP/1.1\r\nContent-Length: 9", "UniSse body false"),
            (StreamJson, "GET /s?cf_connect={} HTTP/1.1", "405"),
            (StreamJson, "POST /s HTTP/1.1\r\nContent-Length: 9\r\nExpect: 100-Continue", "StreamJson body true"),
            (StreamJson, "POST /s HTTP/1.1\r\nContent-Length: 10", "413"),
            (StreamJson, "POST /s HTTP/1.1", "411"),
            (
                StreamJson,
                "POST /s HTTP/1.1\r\nContent-Length: 1\r\nContent-Type: Application/Octet-Stream; a=b",
                "StreamProtobuf body false",
            ),
            (
                UniStream,
                "POST /s HTTP/1.1\r\nContent-Length: 1\r\nContent-Type: application/octet-stream",
                "UniStream body false",
            ),
            (UniStream, "OPTIONS /s HTTP/1.1", "204"),
        ] {
            assert_eq!(decide(wire, request), expected, "{request}");
        }
        assert!(Endpoint::new(&HttpStream::default(), SseJson).is_none());
    }
}
