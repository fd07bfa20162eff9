//! F10 · `GET /connection/init`: a browser asks it before it connects, and has a connection by then.
//!
//! Owns an answer that is always the same, for the pages that may connect and no others.

use super::source::origin_and_host;
use crate::config::Config;
use crate::origin::{Origins, Source, preflight, shared_with};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use std::sync::Arc;

/// The endpoint, if it is on. The configuration was checked: its origins can be read.
pub fn router(config: &Config) -> Router {
    let Ok(origins) = Origins::new(config) else { return Router::new() };
    match config.init.enabled {
        true => Router::new().route(&config.init.handler_prefix, any(answer)).with_state(Arc::new(origins)),
        false => Router::new(),
    }
}

async fn answer(State(origins): State<Arc<Origins>>, request: Request) -> Response {
    let (origin, host) = origin_and_host(&request);
    let source = Source { origin: origin.as_deref(), host: host.as_deref() };
    if !origins.allow(source) {
        return (StatusCode::FORBIDDEN, "this Origin is not in client.allowed_origins\n").into_response();
    }
    let (mut response, lines) = match *request.method() {
        Method::GET | Method::HEAD => {
            let body = ([(header::CONTENT_TYPE, "application/json")], "{}").into_response();
            (body, shared_with(source.origin))
        }
        Method::OPTIONS => {
            let asked = request.headers().get_all(header::ACCESS_CONTROL_REQUEST_HEADERS);
            let asked: Vec<&str> = asked.iter().filter_map(|value| value.to_str().ok()).collect();
            (StatusCode::NO_CONTENT.into_response(), preflight(source.origin, "GET", &asked))
        }
        _ => {
            let refused = (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "GET")], "this endpoint takes GET\n");
            (refused.into_response(), shared_with(source.origin))
        }
    };
    for (name, value) in lines {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            response.headers_mut().append(name, value);
        }
    }
    response
}
