//! F10 · The page for operators: what the node does, who is on it, and the calls of the API by hand.
//!
//! Owns the page, which is in the program, who may see it, and what it asks. It asks while somebody looks at it, and
//! costs nothing else. What it shows are the numbers of the metrics page, the server API, and clients as they are.

mod session;
mod trace;

pub use session::Door;

use super::api;
use super::guard;
use super::pages::Operator;
use super::source::{only, origin_and_host};
use super::sums;
use crate::config::{self, Admin, Format};
use crate::reactor::trim;
use crate::session::Settings;
use crate::shard::{ClientFacts, ClientSearch};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use session::{Tried, no_cookie};
use std::net::IpAddr;
use std::sync::Arc;

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
/// Only what comes from here is run, shown or asked, and nobody frames it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// Clients that are listed at once.
const CLIENTS_MAX: usize = 200;
/// Bytes of a body that has a password in it.
const LOGIN_MAX: usize = 4096;

/// Who sends a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FarEnd {
    pub ip: Option<IpAddr>,
    /// By TLS.
    pub secure: bool,
}

/// All that the page is served by.
#[derive(Clone)]
struct Desk {
    operator: Operator,
    options: Arc<Admin>,
    settings: Arc<Settings>,
}

/// The page and what it asks, if it is on.
pub fn router(operator: &Operator, settings: &Arc<Settings>) -> Router {
    let options = &settings.config.admin;
    if !options.enabled {
        return Router::new();
    }
    let desk = Desk { operator: operator.clone(), options: Arc::new(options.clone()), settings: settings.clone() };
    let prefix = trim(&options.handler_prefix);
    let at = |path: &str| format!("{prefix}/{path}");
    let inside = Router::new()
        .route(&at("metrics"), get(metrics))
        .route(&at("clients"), get(clients))
        .route(&at("config"), get(configuration))
        .route(&at("trace"), get(trace::trace))
        .with_state(desk.clone())
        .merge(api::keyless(operator.node.clone(), operator.calls.clone(), settings, &at("api")))
        .layer(from_fn_with_state(desk.clone(), signed_in));
    let page: Bytes = PAGE.replace("{prefix}", prefix).into();
    let html = move || async move { file("text/html; charset=utf-8", page) };
    let outside = Router::new()
        .route(prefix, get(html.clone()))
        .route(&at(""), get(html))
        .route(&at("page.css"), get(|| async { file("text/css; charset=utf-8", STYLE) }))
        .route(&at("page.js"), get(|| async { file("text/javascript; charset=utf-8", SCRIPT) }))
        .route(&at("login"), post(login))
        .route(&at("logout"), post(logout))
        .with_state(desk.clone());
    let all = inside.merge(outside).layer(from_fn_with_state(desk, same_origin));
    guard::guarded_if(options.insecure, all, &settings.config)
}

fn file(kind: &'static str, body: impl Into<axum::body::Body>) -> Response {
    let fixed = |name: &'static str, value: &'static str| (HeaderName::from_static(name), value);
    let headers = [
        (header::CONTENT_TYPE, kind),
        // Another version of the program has another page.
        (header::CACHE_CONTROL, "no-cache"),
        fixed("content-security-policy", POLICY),
        fixed("x-content-type-options", "nosniff"),
        fixed("referrer-policy", "no-referrer"),
    ];
    (headers, body.into()).into_response()
}

/// A page of another origin does not use the sessions of this one's.
async fn same_origin(request: Request, next: Next) -> Response {
    let (origin, host) = origin_and_host(&request);
    let is_same = origin.is_none_or(|origin| {
        let place = origin.split_once("://").map(|(_, place)| place);
        place.is_some() && place == host.as_deref()
    });
    let sent_by = only(request.headers(), HeaderName::from_static("sec-fetch-site"));
    let is_post = request.method() == axum::http::Method::POST;
    let kind = only(request.headers(), header::CONTENT_TYPE).unwrap_or_default();
    let is_json = kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"));
    if !is_same || is_post && (!is_json || sent_by.is_some_and(|site| site != "same-origin" && site != "none")) {
        return (StatusCode::FORBIDDEN, "only this page itself may ask, with application/json\n").into_response();
    }
    next.run(request).await
}

async fn signed_in(State(desk): State<Desk>, request: Request, next: Next) -> Response {
    let lines = request.headers().get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let is_in = desk.options.insecure || lines.into_iter().any(|line| desk.operator.door.knows(&desk.options, line));
    match is_in {
        true => {
            let mut response = next.run(request).await;
            response.headers_mut().insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
            response
        }
        false => (StatusCode::UNAUTHORIZED, "sign in first\n").into_response(),
    }
}

#[derive(Deserialize)]
struct Login {
    password: String,
}

async fn login(State(desk): State<Desk>, request: Request) -> Response {
    let far_end = far_end(&request);
    let body = axum::body::to_bytes(request.into_body(), LOGIN_MAX).await.unwrap_or_default();
    let Ok(Login { password }) = serde_json::from_slice(&body) else {
        return (StatusCode::BAD_REQUEST, "expected {\"password\": \"...\"}\n").into_response();
    };
    match desk.operator.door.knock(&desk.options, far_end, &password) {
        Tried::Good => {
            tracing::info!(address = far_end.ip.map(tracing::field::display), "an operator signed in to the page");
            (StatusCode::NO_CONTENT, [(header::SET_COOKIE, desk.operator.door.cookie(&desk.options, far_end))])
                .into_response()
        }
        Tried::Wrong => {
            let address = far_end.ip.map(tracing::field::display);
            let write = move |count| tracing::warn!(count, address, "a wrong password for the operators' page");
            sums::add("admin login", 1, write);
            (StatusCode::UNAUTHORIZED, "the password is wrong\n").into_response()
        }
        Tried::TooOften => {
            let text = "too many attempts: wait a minute (admin.login_limit)\n";
            (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "60")], text).into_response()
        }
    }
}

fn far_end(request: &Request) -> FarEnd {
    let mut far_end = request.extensions().get().copied().unwrap_or(FarEnd { ip: None, secure: false });
    // A proxy may end TLS. Who claims it falsely gets a cookie that their own browser does not send.
    far_end.secure |= request.headers().get("x-forwarded-proto").is_some_and(|scheme| scheme == "https");
    far_end
}

async fn logout(State(desk): State<Desk>, request: Request) -> Response {
    let cookie = no_cookie(&desk.options, far_end(&request));
    (StatusCode::NO_CONTENT, [(header::SET_COOKIE, cookie)]).into_response()
}

async fn metrics(State(desk): State<Desk>) -> Response {
    desk.operator.metrics().await
}

/// Without what is secret, as `gannet config` prints it.
async fn configuration(State(desk): State<Desk>) -> Response {
    let text = config::print(&desk.settings.config, Format::Toml);
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Search {
    user: String,
    client: String,
}

#[derive(Serialize)]
struct Shown<'a> {
    client: &'a str,
    user: &'a str,
    transport: &'static str,
    address: &'a str,
    minutes: u16,
    waiting: usize,
    subscriptions: usize,
    channels: Vec<&'a str>,
}

impl<'a> Shown<'a> {
    fn of(facts: &'a ClientFacts) -> Shown<'a> {
        let ClientFacts { client, user, transport, conn, subscriptions, channels } = facts;
        let channels = channels.iter().map(|name| &**name).collect();
        let (address, minutes, waiting) = (&*conn.peer, conn.minutes, conn.waiting);
        Shown { client, user, transport, address, minutes, waiting, subscriptions: *subscriptions, channels }
    }
}

/// Clients of this node, those first for which most bytes wait; of a user, or one with its channels.
async fn clients(State(desk): State<Desk>, Query(search): Query<Search>) -> Response {
    let search = ClientSearch { user: search.user, client: search.client, max: CLIENTS_MAX };
    match desk.operator.node.clients(search).await {
        Ok(found) => axum::Json(found.iter().map(Shown::of).collect::<Vec<_>>()).into_response(),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "a reactor does not answer\n").into_response(),
    }
}
