//! F10 · Endpoints whose responses do not end: server-sent events and HTTP streams, with a session behind each.
//!
//! Owns what a request for one must be, and the response's head. From then on it is a connection like the others, on
//! which the client is not listened to. The response ends with its connection and has no chunks: what is sent can be
//! shared by many, as frames of a WebSocket are.

use crate::config::{HttpStream, UniHttpStream};
use crate::http::{self, Body, BodyError, Framing, Head, is_binary};
use crate::origin::{Source, preflight, shared_with};
use crate::turn::request::{Decision, Introduction, Spoken, StreamRequest, refuse_body};
use crate::wire::Wire;
use bytes::Bytes;

/// The query's key for what a request without a body says.
pub const CONNECT: &str = "cf_connect";

/// An endpoint whose responses do not end.
#[derive(Debug)]
pub struct Endpoint {
    pub path: String,
    /// With JSON, if it speaks both encodings.
    wire: Wire,
    body_max: usize,
    /// The response begins once the client is connected.
    waits: bool,
}

impl Endpoint {
    /// None if it is off.
    pub fn new(options: &HttpStream, wire: Wire) -> Option<Endpoint> {
        let path = super::handshake::trim(&options.handler_prefix).to_owned();
        options.enabled.then_some(Endpoint { path, wire, body_max: options.max_request_body_size, waits: false })
    }

    /// The same for clients that only listen.
    pub fn uni(options: &UniHttpStream, wire: Wire) -> Option<Endpoint> {
        let path = super::handshake::trim(&options.handler_prefix).to_owned();
        let (body_max, waits) = (options.max_request_body_size, options.connect_code_to_http_response.enabled);
        options.enabled.then_some(Endpoint { path, wire, body_max, waits })
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
                Some(said) => Spoken::Query(said),
                None if self.wire.is_uni() => Spoken::Query(Vec::new()),
                None => {
                    let text = "the query must have cf_connect, a connect command in JSON";
                    return Decision::Answer(400, http::answer(400, "Bad Request", "", text));
                }
            },
            "POST" => match Body::of(head, self.body_max) {
                Ok(body) => Spoken::Body(body),
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
        let mut lines = String::new();
        push_lines(&shared_with(source.origin), &mut lines);
        Decision::Stream(StreamRequest {
            wire,
            head: response_head(wire, &lines),
            waits: self.waits,
            lines: lines.into(),
            said,
            body_max: self.body_max,
            expects,
            introduction: Introduction::default(),
        })
    }
}

fn empty_answer(lines: &[(&str, String)]) -> Bytes {
    let mut text = String::from("HTTP/1.1 204 No Content\r\nConnection: close\r\n");
    push_lines(lines, &mut text);
    text.push_str("\r\n");
    text.into()
}

fn response_head(wire: Wire, lines: &str) -> Bytes {
    let kind = match wire {
        Wire::SseJson | Wire::UniSse => "text/event-stream; charset=utf-8",
        Wire::StreamProtobuf => "application/octet-stream",
        _ => "application/json; charset=utf-8",
    };
    // No length, no chunks: the body ends with the connection, in HTTP/1.0 as in 1.1 (RFC 9112 section 6.3). The rest
    // keeps proxies from holding back what they get.
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nCache-Control: private, no-store, no-transform\r\nX-Accel-Buffering: no\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n{lines}\r\n"
    )
    .into()
}

fn push_lines(lines: &[(&str, String)], text: &mut String) {
    for (name, value) in lines {
        text.extend([name, ": ", value, "\r\n"]);
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
            Decision::Stream(StreamRequest { wire, said: Spoken::Query(said), .. }) => {
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
