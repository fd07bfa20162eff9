//! F10 · `POST /emulation`: the commands of clients whose own connection goes one way.
//!
//! Owns reading the request and saying whether it was passed on. The reply to a command comes by the client's stream,
//! so the answer here has no body. Every answer closes its connection: those of many clients would hold the places of
//! all others.

use super::node::Node;
use super::source::{only, origin_and_host};
use crate::config::Config;
use crate::http::is_binary;
use crate::origin::{Origins, Source, preflight, shared_with};
use crate::protocol::EmulationRequest;
use axum::Router;
use axum::body::HttpBody;
use axum::extract::{DefaultBodyLimit, FromRequest, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use bytes::Bytes;
use prost::Message;
use std::sync::Arc;
use std::time::Duration;

/// How long a request's body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

struct Emulation {
    node: Arc<Node>,
    origins: Origins,
    /// Bytes of a request's body.
    body_max: usize,
}

/// The endpoint, if there is a transport that needs it. The configuration was checked: its origins can be read.
pub fn router(node: Arc<Node>, config: &Config) -> Router {
    let Ok(origins) = Origins::new(config) else { return Router::new() };
    if !config.has_emulation() {
        return Router::new();
    }
    let limit = DefaultBodyLimit::max(config.emulation.max_request_body_size);
    Router::new().route(&config.emulation.handler_prefix, any(take)).layer(limit).with_state(Arc::new(Emulation {
        node,
        origins,
        body_max: config.emulation.max_request_body_size,
    }))
}

async fn take(State(emulation): State<Arc<Emulation>>, request: Request) -> Response {
    let (origin, host) = origin_and_host(&request);
    let source = Source { origin: origin.as_deref(), host: host.as_deref() };
    if !emulation.origins.allow(source) {
        return (
            StatusCode::FORBIDDEN,
            [(header::CONNECTION, "close")],
            "this Origin is not in client.allowed_origins\n",
        )
            .into_response();
    }
    let mut lines = shared_with(source.origin);
    let mut response = match *request.method() {
        Method::OPTIONS => {
            let asked = request.headers().get_all(header::ACCESS_CONTROL_REQUEST_HEADERS);
            let asked: Vec<&str> = asked.iter().filter_map(|value| value.to_str().ok()).collect();
            lines = preflight(source.origin, "POST", &asked);
            StatusCode::NO_CONTENT.into_response()
        }
        Method::POST => match pass_on(&emulation, request).await {
            Ok(()) => StatusCode::NO_CONTENT.into_response(),
            Err((status, why)) => (status, format!("{why}\n")).into_response(),
        },
        _ => (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "POST")], "commands come by POST\n").into_response(),
    };
    lines.push(("Connection", "close".to_owned()));
    for (name, value) in lines {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            response.headers_mut().append(name, value);
        }
    }
    response
}

/// What is answered in place of 204.
type Refusal = (StatusCode, &'static str);

async fn pass_on(emulation: &Emulation, request: Request) -> Result<(), Refusal> {
    let too_large = (StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than emulation.max_request_body_size");
    // Not waited for: it may never come.
    if request.body().size_hint().lower() > emulation.body_max as u64 {
        return Err(too_large);
    }
    let binary = only(request.headers(), header::CONTENT_TYPE).is_some_and(is_binary);
    let body = match tokio::time::timeout(BODY_TIMEOUT, Bytes::from_request(request, &())).await {
        Err(_) => return Err((StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time")),
        Ok(Err(why)) if why.status() == StatusCode::PAYLOAD_TOO_LARGE => return Err(too_large),
        Ok(Err(_)) => return Err((StatusCode::BAD_REQUEST, "the body was cut")),
        Ok(Ok(body)) => body,
    };
    let request = read(&body, binary).ok_or((StatusCode::BAD_REQUEST, "the body is no request for emulation"))?;
    let unknown = (StatusCode::NOT_FOUND, "no such session");
    let elsewhere = !request.node.is_empty() && request.node != emulation.node.info.uid;
    let passed = match elsewhere {
        true => emulation.node.commands_elsewhere(between_nodes(request, binary)).await,
        false => emulation.node.commands(&request.session, request.data),
    };
    match passed {
        Ok(true) => Ok(()),
        Ok(false) => Err(unknown),
        Err(_) => Err((StatusCode::SERVICE_UNAVAILABLE, "the node is busy")),
    }
}

/// The request, its `data` being commands. In JSON they are text, and that text a string.
fn read(body: &[u8], binary: bool) -> Option<EmulationRequest> {
    if binary {
        return EmulationRequest::decode(body).ok();
    }
    let mut request: EmulationRequest =
        body.trim_ascii_start().starts_with(b"{").then(|| serde_json::from_slice(body).ok())??;
    let commands: String = serde_json::from_slice(&request.data).ok()?;
    request.data = Bytes::from(commands);
    Some(request)
}

/// The request as nodes tell it to each other, Centrifugo's among them: what came as JSON stays a string of JSON.
fn between_nodes(mut request: EmulationRequest, binary: bool) -> EmulationRequest {
    if !binary && let Ok(text) = std::str::from_utf8(&request.data) {
        request.data = serde_json::Value::from(text).to_string().into();
    }
    request
}

/// Commands that another node passed on. No command in Protobuf can be taken for a string of JSON: its first field has
/// a tag that is a control character.
pub fn from_node(data: Bytes) -> Bytes {
    serde_json::from_slice::<String>(&data).map_or(data, Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_understand_each_other_in_both_encodings() {
        let commands = "{\"id\":2,\"send\":{\"data\":\"\\n\"}}\n{\"id\":3}";
        let request = EmulationRequest { data: commands.into(), ..EmulationRequest::default() };
        let told = between_nodes(request.clone(), false).data;
        assert!(told.starts_with(b"\"{\\\"id\\\":2") && from_node(told) == commands, "as Centrifugo tells it");
        // What Protobuf says of a command of 34 bytes begins with a quotation mark.
        let mut long = b"\"\x08\x02".to_vec();
        long.resize(35, b'"');
        let request = EmulationRequest { data: long.clone().into(), ..request };
        assert_eq!(from_node(between_nodes(request, true).data), long);
    }

    #[test]
    fn both_encodings_are_read() {
        let expected =
            EmulationRequest { node: "n".into(), session: "s".into(), data: Bytes::from("{\"id\":2}\n{\"id\":3}") };
        let json = br#" {"session":"s","node":"n","data":"{\"id\":2}\n{\"id\":3}"}"#;
        assert_eq!(read(json, false), Some(expected.clone()));
        assert_eq!(read(&expected.encode_to_vec(), true), Some(expected));
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for bad in ["", "{", "[]", "1", "{}", r#"{"data":{"id":1}}"#, r#"{"data":5}"#, r#"{"session":1,"data":""}"#] {
            assert_eq!(read(bad.as_bytes(), false), None, "{bad}");
        }
        assert_eq!(read(b"\xff", true), None);
        assert_eq!(read(b"\x1a\x05ab", true), None);
    }
}
