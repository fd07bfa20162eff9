//! F5 · The server API: `POST /api/<method>`, as Centrifugo's backend libraries call it.
//!
//! Owns the requests and results as JSON, the key and the error forms. 200 carries `{"result":…}` or `{"error":…}`;
//! what cannot be read is a 400 with a sentence, a wrong key a 401.

use super::node::{Node, Unavailable};
use crate::broker::{self, Treatment};
use crate::config::HttpApi;
use crate::metrics::{Latency, Page};
use crate::protocol::Publication;
use crate::protocol::code::Disconnect;
use crate::shard::{Chosen, Control, Stats};
use axum::extract::{DefaultBodyLimit, FromRequest, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Router};
use base64::Engine;
use bytes::Bytes;
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use subtle::ConstantTimeEq;

/// How long a request's body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// An error as the API names it.
#[derive(Debug, Clone, Serialize)]
struct ApiError {
    code: u32,
    message: &'static str,
}

const INTERNAL: ApiError = ApiError { code: 100, message: "internal server error" };
const UNKNOWN_CHANNEL: ApiError = ApiError { code: 102, message: "unknown channel" };
const BAD_REQUEST: ApiError = ApiError { code: 107, message: "bad request" };
const NOT_AVAILABLE: ApiError = ApiError { code: 108, message: "not available" };

/// What a method comes to.
enum Failure {
    Said(ApiError),
    /// The node takes no more: 503, and worth trying again.
    Busy,
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Failure {
        Failure::Said(error)
    }
}

impl From<Unavailable> for Failure {
    fn from(why: Unavailable) -> Failure {
        match why {
            Unavailable::Busy => Failure::Busy,
            Unavailable::Silent => Failure::Said(INTERNAL),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let (status, error) = match self {
            Failure::Said(error) => (StatusCode::OK, error),
            Failure::Busy => (StatusCode::SERVICE_UNAVAILABLE, INTERNAL),
        };
        let code = ErrorCode(error.code);
        (status, Extension(code), axum::Json(json!({ "error": error }))).into_response()
    }
}

/// The code of an API error, on its response: for the count.
#[derive(Debug, Clone, Copy)]
struct ErrorCode(u32);

/// A result, as the API wraps it.
struct Done<R>(R);

impl<R: Serialize> IntoResponse for Done<R> {
    fn into_response(self) -> Response {
        axum::Json(json!({ "result": self.0 })).into_response()
    }
}

type Outcome<R> = Result<Done<R>, Failure>;

/// A request's body, read in bounded time and decoded whatever its content type.
struct Body<Q>(Q);

impl<S: Send + Sync, Q: for<'de> Deserialize<'de>> FromRequest<S> for Body<Q> {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Body<Q>, Response> {
        let read = tokio::time::timeout(BODY_TIMEOUT, Bytes::from_request(request, state)).await;
        let late = |_| (StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time\n").into_response();
        let bytes = read.map_err(late)?.map_err(IntoResponse::into_response)?;
        let body = if bytes.is_empty() { &b"{}"[..] } else { &bytes };
        let wrong = |error| (StatusCode::BAD_REQUEST, format!("the body is not what this method takes: {error}\n"));
        serde_json::from_slice(body).map(Body).map_err(|error| wrong(error).into_response())
    }
}

/// The methods, under `options.handler_prefix`.
pub fn router(node: Arc<Node>, calls: Arc<Calls>, options: &HttpApi, body_limit: usize) -> Router {
    let methods = Router::new()
        .route("/publish", post(publish))
        .route("/broadcast", post(broadcast))
        .route("/disconnect", post(disconnect))
        .route("/unsubscribe", post(unsubscribe))
        .route("/channels", post(channels))
        .route("/info", post(info))
        .layer(DefaultBodyLimit::max(body_limit))
        .layer(from_fn_with_state(Arc::new(options.clone()), check_key))
        .layer(from_fn_with_state(calls, count))
        .with_state(node);
    Router::new().nest(options.handler_prefix.trim_end_matches('/'), methods)
}

async fn check_key(State(options): State<Arc<HttpApi>>, request: Request, next: Next) -> Response {
    if options.insecure || has_key(&options.key, &request) {
        return next.run(request).await;
    }
    let why = if options.key.is_empty() { "http_api.key is not set" } else { "the API key is missing or wrong" };
    (StatusCode::UNAUTHORIZED, format!("{why}\n")).into_response()
}

/// `X-API-Key`, `Authorization: apikey …`, or `?api_key=`; compared in constant time. An empty key fits nothing.
fn has_key(key: &str, request: &Request) -> bool {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let by_scheme = || {
        let (scheme, key) = header(header::AUTHORIZATION.as_str())?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("apikey").then(|| key.trim())
    };
    let query: Option<Query<HashMap<String, String>>> = Query::try_from_uri(request.uri()).ok();
    let by_query = || query.as_ref()?.get("api_key").map(String::as_str);
    let given = header("x-api-key").or_else(by_scheme).or_else(by_query);
    !key.is_empty() && given.is_some_and(|given| given.as_bytes().ct_eq(key.as_bytes()).into())
}

/// Calls by method: how long they took, and the errors they ended with.
#[derive(Default)]
pub struct Calls(Mutex<CallCounts>);

#[derive(Default)]
struct CallCounts {
    durations: BTreeMap<String, Latency>,
    errors: BTreeMap<(String, u32), u64>,
}

impl Calls {
    pub fn write(&self, page: &mut Page) {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        page.histograms(
            "gannet_api_command_duration_seconds",
            "Server API calls by method.",
            "method",
            &counts.durations,
        );
        let help = "Server API calls that ended in an error, by method and API error code or HTTP status.";
        let series =
            counts.errors.iter().map(|((method, code), n)| (format!("method=\"{method}\",code=\"{code}\""), n));
        page.series("gannet_api_command_errors_total", help, "counter", series);
    }
}

/// Known methods only, so that a stranger's paths make no series.
const METHODS: [&str; 6] = ["publish", "broadcast", "disconnect", "unsubscribe", "channels", "info"];

async fn count(State(calls): State<Arc<Calls>>, request: Request, next: Next) -> Response {
    let path = request.uri().path().trim_end_matches('/');
    let method = METHODS.into_iter().find(|method| path.rsplit('/').next() == Some(*method));
    let began = Instant::now();
    let response = next.run(request).await;
    let Some(method) = method else { return response };
    let took = began.elapsed().as_micros() as u64;
    let mut counts = calls.0.lock().unwrap_or_else(PoisonError::into_inner);
    counts.durations.entry(method.to_owned()).or_default().record_us(took);
    let said = response.extensions().get::<ErrorCode>().map(|code| code.0);
    let code = said.or((!response.status().is_success()).then(|| u32::from(response.status().as_u16())));
    if let Some(code) = code {
        *counts.errors.entry((method.to_owned(), code)).or_default() += 1;
    }
    response
}

/// What is published, and to which channel or channels.
#[derive(Deserialize)]
struct PublishRequest {
    #[serde(default)]
    channel: String,
    #[serde(default)]
    channels: Vec<String>,
    #[serde(default, deserialize_with = "even_null")]
    data: Option<Box<RawValue>>,
    #[serde(default)]
    b64data: String,
    #[serde(default)]
    tags: HashMap<String, String>,
    /// Not offered yet, and not to be ignored: a caller relies on them.
    #[serde(default)]
    idempotency_key: String,
    #[serde(default)]
    version: u64,
}

/// `null` is JSON like any other.
fn even_null<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(from).map(Some)
}

impl PublishRequest {
    fn publication(self) -> Result<Publication, ApiError> {
        if !self.idempotency_key.is_empty() || self.version > 0 {
            return Err(NOT_AVAILABLE);
        }
        let data = if !self.b64data.is_empty() {
            Bytes::from(base64::engine::general_purpose::STANDARD.decode(&self.b64data).map_err(|_| BAD_REQUEST)?)
        } else {
            Bytes::from(String::from(Box::<str>::from(self.data.ok_or(BAD_REQUEST)?)))
        };
        if data.is_empty() {
            return Err(BAD_REQUEST);
        }
        Ok(Publication { data, tags: self.tags, ..Publication::default() })
    }
}

/// May something be published to `channel`?
fn check_channel(node: &Node, channel: &str) -> Result<(), ApiError> {
    if channel.is_empty() || channel.len() > node.rules.channel_length_max {
        return Err(BAD_REQUEST);
    }
    node.rules.channel(channel).map(|_| ()).ok_or(UNKNOWN_CHANNEL)
}

async fn publish(State(node): State<Arc<Node>>, Body(request): Body<PublishRequest>) -> Outcome<Value> {
    check_channel(&node, &request.channel)?;
    let channel = request.channel.clone();
    let position = send(&node, &channel, request.publication()?.into()).await?;
    Ok(Done(position))
}

/// Publishes, and says where in the channel's stream.
async fn send(node: &Node, channel: &str, publication: Arc<Publication>) -> Result<Value, Failure> {
    let namespace = node.rules.namespace(channel).ok_or(UNKNOWN_CHANNEL)?;
    let (keep, delta) = (namespace.keep, namespace.options.delta_publish);
    let treatment = keep.map(|keep| Box::new(Treatment { keep: Some(keep), delta, ..Treatment::default() }));
    let request = |channel, asker| broker::Request::Publish { channel, publication, asker, treatment };
    match node.ask_owner(channel, request).await? {
        broker::Answer::Published(Some(position)) => {
            Ok(json!({ "offset": position.offset, "epoch": position.epoch.to_string() }))
        }
        broker::Answer::Published(None) => Ok(json!({})),
        _ => Err(Failure::Busy),
    }
}

/// Each channel by itself: one that cannot be published to does not keep the others from it.
async fn broadcast(State(node): State<Arc<Node>>, Body(mut request): Body<PublishRequest>) -> Outcome<Value> {
    let channels = std::mem::take(&mut request.channels);
    if channels.is_empty() {
        return Err(BAD_REQUEST.into());
    }
    let publication = Arc::new(request.publication()?);
    let one = |channel: String| {
        let (node, publication) = (&node, publication.clone());
        async move {
            check_channel(node, &channel)?;
            // Silent or busy: the caller sees which channels were not reached.
            send(node, &channel, publication).await.map_err(|_| INTERNAL)
        }
    };
    let responses = join_all(channels.into_iter().map(one)).await.into_iter().map(|result| match result {
        Ok(position) => json!({ "result": position }),
        Err(error) => json!({ "error": error }),
    });
    Ok(Done(json!({ "responses": responses.collect::<Vec<_>>() })))
}

#[derive(Deserialize)]
struct DisconnectRequest {
    /// Must be there; "" is the anonymous user.
    user: Option<String>,
    #[serde(default)]
    client: String,
    /// Session ids belong to transports that are not served yet: none matches.
    #[serde(default)]
    session: String,
    #[serde(default)]
    whitelist: Vec<String>,
    disconnect: Option<CustomDisconnect>,
}

#[derive(Deserialize)]
struct CustomDisconnect {
    code: u16,
    #[serde(default)]
    reason: String,
}

async fn disconnect(State(node): State<Arc<Node>>, Body(request): Body<DisconnectRequest>) -> Outcome<Value> {
    let user = request.user.ok_or(BAD_REQUEST)?;
    let disconnect = match request.disconnect {
        None => Disconnect::FORCE_DISCONNECT,
        Some(custom) if (3000..5000).contains(&custom.code) && custom.reason.len() <= 123 => {
            Disconnect { code: custom.code, reason: custom.reason.into() }
        }
        Some(_) => return Err(BAD_REQUEST.into()),
    };
    if request.session.is_empty() {
        let chosen = Chosen { user, client: request.client, session: String::new() };
        node.control(Control::Disconnect { chosen, keep: request.whitelist, disconnect }).await?;
    }
    Ok(Done(json!({})))
}

#[derive(Deserialize)]
struct UnsubscribeRequest {
    user: Option<String>,
    /// "" = all of the user's.
    #[serde(default)]
    channel: String,
    #[serde(default)]
    client: String,
    #[serde(default)]
    session: String,
}

async fn unsubscribe(State(node): State<Arc<Node>>, Body(request): Body<UnsubscribeRequest>) -> Outcome<Value> {
    let user = request.user.ok_or(BAD_REQUEST)?;
    if !request.channel.is_empty() {
        check_channel(&node, &request.channel)?;
    }
    if request.session.is_empty() {
        let chosen = Chosen { user, client: request.client, session: String::new() };
        node.control(Control::Unsubscribe { chosen, channel: request.channel }).await?;
    }
    Ok(Done(json!({})))
}

#[derive(Deserialize)]
struct ChannelsRequest {
    #[serde(default)]
    pattern: String,
}

async fn channels(State(node): State<Arc<Node>>, Body(request): Body<ChannelsRequest>) -> Outcome<Value> {
    let glob = (!request.pattern.is_empty()).then(|| globset::Glob::new(&request.pattern)).transpose();
    let pattern = glob.map_err(|_| BAD_REQUEST)?.map(|glob| glob.compile_matcher());
    let channels: BTreeMap<_, _> =
        node.channels(pattern).await?.into_iter().map(|(name, num)| (name, json!({ "num_clients": num }))).collect();
    Ok(Done(json!({ "channels": channels })))
}

#[derive(Deserialize)]
struct InfoRequest {}

async fn info(State(node): State<Arc<Node>>, Body(InfoRequest {}): Body<InfoRequest>) -> Outcome<Value> {
    let stats = node.stats().await?;
    let sum = |part: fn(&Stats) -> usize| stats.iter().map(part).sum::<usize>();
    Ok(Done(json!({ "nodes": [{
        "uid": node.info.uid,
        "name": node.info.name,
        "version": env!("CARGO_PKG_VERSION"),
        "num_clients": sum(|s| s.clients),
        "num_users": node.users().await?,
        "num_subs": sum(|s| s.subscriptions),
        "num_channels": sum(|s| s.channels),
        "uptime": node.info.started.elapsed().as_secs(),
    }] })))
}
