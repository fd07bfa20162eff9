//! F10 · What a request head is for: an upgrade, a stream, an answer of the reactor's own, or the service thread.
//!
//! Owns the routing of heads and the choice of encoding. Pure: a head in, a decision out.

use super::stream::{CONNECT, Endpoint};
use crate::config::Config;
use crate::http::{self, Framing, Head};
use crate::origin::{Origins, Source, UNREADABLE};
use crate::protocol::Encoding;
use crate::turn::request::{Decision, refuse_body};
use crate::wire::Wire;
use crate::ws::Upgrade;

/// The subprotocols of the Centrifugal protocol.
const SUBPROTOCOLS: [(&str, Encoding); 2] =
    [("centrifuge-protobuf", Encoding::Protobuf), ("centrifuge-json", Encoding::Json)];

/// The endpoints that live in reactors, and who may come.
#[derive(Debug)]
pub struct Routes {
    websocket: Option<String>,
    uni_websocket: Option<String>,
    streams: Vec<Endpoint>,
    echo: Option<String>,
    origins: Origins,
    compression: bool,
}

impl Routes {
    /// The configuration was checked: its globs compile.
    pub fn new(config: &Config) -> Result<Routes, globset::Error> {
        let streams = [
            Endpoint::new(&config.sse, Wire::SseJson),
            Endpoint::new(&config.http_stream, Wire::StreamJson),
            Endpoint::uni(&config.uni_sse, Wire::UniSse),
            Endpoint::uni(&config.uni_http_stream, Wire::UniStream),
        ];
        let uni = &config.uni_websocket;
        Ok(Routes {
            websocket: (!config.websocket.disabled).then(|| trim(&config.websocket.handler_prefix).to_owned()),
            uni_websocket: uni.enabled.then(|| trim(&uni.handler_prefix).to_owned()),
            streams: streams.into_iter().flatten().collect(),
            echo: config.echo.enabled.then(|| trim(&config.echo.handler_prefix).to_owned()),
            origins: Origins::new(config)?,
            compression: config.websocket.compression,
        })
    }

    /// Decides about a head.
    pub fn decide<'a>(&self, head: &Head<'a>) -> Decision<'a> {
        // Whoever answers it: a second request could hide behind an end that others do not see.
        if let Err(error) = Framing::of(head) {
            return refuse_body(error);
        }
        let path = trim(head.path);
        if let Some(endpoint) = self.streams.iter().find(|endpoint| endpoint.path == path) {
            return self.stream(endpoint, head);
        }
        let echo = self.echo.as_deref() == Some(path);
        let uni = self.uni_websocket.as_deref() == Some(path);
        if !echo && !uni && self.websocket.as_deref() != Some(path) {
            return Decision::HandOff;
        }
        let upgrade = match Upgrade::check(head) {
            Ok(upgrade) => upgrade,
            Err(refusal) => return Decision::Answer(refusal.status, refusal.answer()),
        };
        if !self.origins.allow(source(head)) {
            return refuse_origin();
        }
        let upgrade = if self.compression { upgrade.deflating(head) } else { upgrade };
        if echo {
            return Decision::Echo(upgrade);
        }
        if uni {
            let said = head.param(CONNECT);
            return Decision::Client { upgrade, subprotocol: None, wire: Wire::UniWebSocket, frame_pings: false, said };
        }
        let offered = |name: &str| head.items("sec-websocket-protocol").any(|item| item == name);
        let chosen = SUBPROTOCOLS.into_iter().find(|(name, _)| offered(name));
        let asked = head.asks("format", "protobuf") || head.asks("cf_protocol", "protobuf");
        let encoding = if asked { Encoding::Protobuf } else { chosen.map_or(Encoding::Json, |(_, encoding)| encoding) };
        Decision::Client {
            upgrade,
            subprotocol: chosen.map(|(name, _)| name),
            wire: Wire::websocket(encoding),
            frame_pings: head.asks("cf_ws_frame_ping_pong", "true"),
            said: None,
        }
    }

    fn stream<'a>(&self, endpoint: &Endpoint, head: &Head<'a>) -> Decision<'a> {
        if head.minor >= 1 && head.count("host") != 1 {
            return Decision::Answer(400, http::answer(400, "Bad Request", "", "a request needs one Host header"));
        }
        match self.origins.allow(source(head)) {
            true => endpoint.decide(head, source(head)),
            false => refuse_origin(),
        }
    }
}

/// Where the request says that it comes from.
fn source<'a>(head: &Head<'a>) -> Source<'a> {
    let origin = head.only("origin").or((head.count("origin") > 0).then_some(UNREADABLE));
    Source { origin, host: head.host() }
}

fn refuse_origin<'a>() -> Decision<'a> {
    let text = "this Origin is not in client.allowed_origins";
    Decision::OriginRefused(http::answer(403, "Forbidden", "", text))
}

/// A trailing slash makes no difference.
pub fn trim(path: &str) -> &str {
    path.strip_suffix('/').filter(|path| !path.is_empty()).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decide(config: &Config, target: &str, extra: &str) -> String {
        let head = format!(
            "GET {target} HTTP/1.1\r\nHost: a.example:8000\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{extra}\r\n"
        );
        let head = Head::parse(head.as_bytes()).expect("sound").expect("whole");
        match Routes::new(config).expect("globs").decide(&head) {
            Decision::Echo(_) => "echo".into(),
            Decision::Client { subprotocol, wire, frame_pings, .. } => {
                format!("{:?} {} {frame_pings}", wire.encoding(), subprotocol.unwrap_or("-"))
            }
            Decision::Stream(_) => "stream".into(),
            Decision::Answer(status, _) => status.to_string(),
            Decision::OriginRefused(_) => "origin".into(),
            Decision::HandOff => "hand-off".into(),
        }
    }

    #[test]
    fn the_encoding_is_chosen_by_subprotocol_or_query() {
        let config = Config::default();
        for (target, extra, expected) in [
            ("/connection/websocket", "", "Json - false"),
            ("/connection/websocket/", "Sec-WebSocket-Protocol: other\r\n", "Json - false"),
            (
                "/connection/websocket",
                "Sec-WebSocket-Protocol: x, centrifuge-protobuf\r\n",
                "Protobuf centrifuge-protobuf false",
            ),
            ("/connection/websocket", "Sec-WebSocket-Protocol: centrifuge-json\r\n", "Json centrifuge-json false"),
            ("/connection/websocket?format=protobuf", "", "Protobuf - false"),
            ("/connection/websocket?a=b&cf_protocol=protobuf&cf_ws_frame_ping_pong=true", "", "Protobuf - true"),
            ("/connection/websocketx", "", "hand-off"),
            ("/echo", "", "hand-off"),
            ("/", "", "hand-off"),
        ] {
            assert_eq!(decide(&config, target, extra), expected, "{target} {extra}");
        }
    }

    #[test]
    fn origins() {
        let mut config = Config::default();
        let client =
            |config: &Config, origin: &str| decide(config, "/connection/websocket", &format!("Origin: {origin}\r\n"));
        assert_eq!(client(&config, "https://A.example:8000"), "Json - false", "the same host");
        for other in ["https://b.example", "https://a.example", "null", "", "\u{e9}"] {
            assert_eq!(client(&config, other), "origin", "{other}");
        }
        config.client.allowed_origins = vec!["https://*.example.com".into()];
        assert_eq!(client(&config, "https://app.Example.com"), "Json - false");
        assert_eq!(client(&config, "https://example.com.evil.org"), "origin");
        assert_eq!(client(&config, "https://a.example:8000"), "origin", "a list is the whole list");
        config.client.allowed_origins = vec!["*".into()];
        assert_eq!(client(&config, "http://anything/at/all"), "Json - false");
    }
}
