//! F10 · What a browser must not do to a node whose API asks for no key.
//!
//! Owns the look at `Origin`, `Host` and the content type of requests for the API and metrics of such a node. A program
//! sends no `Origin`; a page always does when it posts.

use super::source::{only, origin_and_host};
use crate::config::Config;
use crate::origin::{Origins, Source};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use std::sync::Arc;

/// What a page of another origin may send without asking first (Fetch standard, "CORS-safelisted request-header").
const SIMPLE: [&str; 3] = ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"];

/// `router` behind the look, if the API needs no key. The configuration was checked: its origins can be read.
pub fn guarded(router: Router, config: &Config) -> Router {
    guarded_if(config.http_api.insecure || config.dev, router, config)
}

/// The same where something else needs no key.
pub fn guarded_if(keyless: bool, router: Router, config: &Config) -> Router {
    match Origins::new(config) {
        Ok(origins) if keyless => router.layer(from_fn_with_state(Arc::new(origins), look)),
        _ => router,
    }
}

async fn look(State(origins): State<Arc<Origins>>, request: Request, next: Next) -> Response {
    let (origin, host) = origin_and_host(&request);
    let source = Source { origin: origin.as_deref(), host: host.as_deref() };
    let kind = only(request.headers(), header::CONTENT_TYPE).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    let simple = kind.is_empty() || SIMPLE.iter().any(|simple| kind.eq_ignore_ascii_case(simple));
    let why = if !origins.expects(source.host) {
        "with dev, the Host must be localhost or a loopback address"
    } else if !origins.allow_without_key(source) {
        "the API needs no key, so pages of other origins may not use it"
    } else if origin.is_some() && request.method().as_str() == "POST" && simple {
        "a page must send the content type application/json"
    } else {
        return next.run(request).await;
    };
    (StatusCode::FORBIDDEN, format!("{why}\n")).into_response()
}
