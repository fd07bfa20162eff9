//! F10 · The server API by HTTP: `POST /api/<method>` with JSON, as Centrifugo's backend libraries call it.
//!
//! Owns the key, the body and its limits, and the form of answers. 200 carries `{"result":…}` or `{"error":…}`, unless
//! the caller wants the error as an HTTP status: then the bare error is the body. What cannot be read is a 400 with a
//! sentence, a wrong key a 401.

use super::counts::Via;
use super::messages::Response as Answer;
use super::{Api, ApiError, BAD_REQUEST, BATCH, Calls, Command, Error, Method, MethodError, NOT_FOUND, Reply};
use crate::config::HttpApi;
use crate::service::node::Node;
use crate::service::request_id;
use crate::session::Settings;
use crate::spans;
use axum::Router;
use axum::body::Body;
use axum::extract::{Query, Request};
use axum::http::{HeaderMap, Method as Verb, StatusCode, Uri, header};
use axum::middleware::from_fn;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, any};
use bytes::Bytes;
use http_body::Body as _;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use subtle::ConstantTimeEq;

/// How long a request's body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Asks for errors as HTTP statuses.
const ERROR_MODE: &str = "x-centrifugo-error-mode";

/// The name under which calls of the old form are counted when they cannot be read.
const LEGACY: &str = "legacy";

/// What all routes share.
#[derive(Clone)]
pub struct Served {
    api: Api,
    options: Arc<HttpApi>,
    body_limit: usize,
}

/// The methods, under `options.handler_prefix`.
pub fn router(node: Arc<Node>, calls: Arc<Calls>, settings: &Settings) -> Router {
    let api = Api { node, rules: settings.rules.clone(), calls, via: Via::Http, has_json: true };
    let options = &settings.config.http_api;
    let body_limit = settings.config.http_server.body_size_limit;
    let served = Served { api, options: Arc::new(options.clone()), body_limit };
    let prefix = options.handler_prefix.trim_end_matches('/');
    let methods = super::routes(prefix, &served).route(&format!("{prefix}/{BATCH}"), batch(&served));
    let all = if prefix.is_empty() { methods } else { methods.route(prefix, legacy(&served)) };
    all.layer(from_fn(request_id::carried))
}

/// The same for who has shown already who they are, without the old form.
pub fn keyless(node: Arc<Node>, calls: Arc<Calls>, settings: &Settings, prefix: &str) -> Router {
    let api = Api { node, rules: settings.rules.clone(), calls, via: Via::Http, has_json: true };
    let options = HttpApi { insecure: true, error_mode: String::new(), ..settings.config.http_api.clone() };
    let body_limit = settings.config.http_server.body_size_limit;
    super::routes(prefix, &Served { api, options: Arc::new(options), body_limit })
}

/// A refusal that is the HTTP kind and no answer of the API.
struct Refused(StatusCode, String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let Refused(status, text) = self;
        match status {
            StatusCode::METHOD_NOT_ALLOWED => (status, [(header::ALLOW, "POST")], text).into_response(),
            _ => (status, text).into_response(),
        }
    }
}

impl Served {
    /// The body of a call that may be made.
    async fn body(&self, request: Request) -> Result<Bytes, Refused> {
        if !self.options.insecure && !has_key(&self.options.key, request.headers(), request.uri()) {
            let why =
                if self.options.key.is_empty() { "http_api.key is not set" } else { "the API key is missing or wrong" };
            return Err(Refused(StatusCode::UNAUTHORIZED, format!("{why}\n")));
        }
        if request.method() != Verb::POST {
            return Err(Refused(StatusCode::METHOD_NOT_ALLOWED, "a call is a POST\n".to_owned()));
        }
        let coding = request.headers().get(header::CONTENT_ENCODING);
        if coding.is_some_and(|coding| !coding.is_empty() && !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
            let text = "the body must not be compressed: send it without Content-Encoding\n";
            return Err(Refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, text.to_owned()));
        }
        let too_large = || Refused(StatusCode::PAYLOAD_TOO_LARGE, "the body is beyond body_size_limit\n".to_owned());
        let body = request.into_body();
        if body.size_hint().lower() > self.body_limit as u64 {
            return Err(too_large());
        }
        match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, self.body_limit).collect()).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
            Ok(Err(error)) => Err(Refused(StatusCode::BAD_REQUEST, format!("the body cannot be read: {error}\n"))),
            Err(_) => Err(Refused(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time\n".to_owned())),
        }
    }

    /// The request in the body, and whether its caller wants errors as statuses. Refusals are counted under `name`.
    async fn request<Q: DeserializeOwned + Default>(
        &self,
        name: &'static str,
        request: Request,
    ) -> Result<(Q, bool), Refused> {
        let transport = self.options.error_mode == "transport" || wants_transport(request.headers());
        let read = self.body(request).await.and_then(|body| read(&body).map_err(unreadable));
        read.map(|request| (request, transport)).inspect_err(|refused| self.count(name, refused))
    }

    fn count(&self, name: &'static str, refused: &Refused) {
        let status = refused.0.as_u16();
        self.api.calls.failed(Via::Http, name, status.into());
        let (request_id, trace_id) = (request_id::current(), spans::trace_id());
        let (request_id, trace_id) = (request_id.as_deref(), trace_id.as_deref());
        let why = refused.1.trim_end();
        tracing::debug!(method = name, status, request_id, trace_id, why, "a call of the API is refused");
    }
}

fn unreadable(error: serde_json::Error) -> Refused {
    Refused(StatusCode::BAD_REQUEST, format!("the body is not what this method takes: {error}\n"))
}

/// A request from its JSON; nothing at all is one without fields.
pub(super) fn read<Q: DeserializeOwned + Default>(json: &[u8]) -> serde_json::Result<Q> {
    match json.trim_ascii_start().first() {
        None => Ok(Q::default()),
        Some(b'{') => serde_json::from_slice(json),
        // serde would take a list of a request's fields for the request.
        Some(_) => Err(serde::de::Error::custom("expected an object")),
    }
}

fn wants_transport(headers: &HeaderMap) -> bool {
    headers.get(ERROR_MODE).is_some_and(|mode| mode == "transport")
}

/// `X-API-Key`, `Authorization: apikey …`, or `?api_key=`; compared in constant time. An empty key fits nothing.
fn has_key(key: &str, headers: &HeaderMap, uri: &Uri) -> bool {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let by_scheme = || scheme_key(header(header::AUTHORIZATION.as_str())?);
    let given = header("x-api-key").or_else(by_scheme);
    let is_it = |given: &str| given.as_bytes().ct_eq(key.as_bytes()).into();
    if key.is_empty() {
        return false;
    }
    given.map_or_else(
        || {
            let query: Option<Query<HashMap<String, String>>> = Query::try_from_uri(uri).ok();
            query.as_ref().and_then(|query| query.get("api_key")).is_some_and(|given| is_it(given))
        },
        is_it,
    )
}

/// The key in `apikey KEY`.
pub(super) fn scheme_key(value: &str) -> Option<&str> {
    let (scheme, key) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("apikey").then(|| key.trim())
}

/// The status of an error, for who wants to see it there.
fn status(error: ApiError) -> StatusCode {
    match error.code {
        102 | 104 => StatusCode::NOT_FOUND,
        107 | 108 => StatusCode::BAD_REQUEST,
        112 => StatusCode::RANGE_NOT_SATISFIABLE,
        113 => StatusCode::CONFLICT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(text) => (status, [(header::CONTENT_TYPE, "application/json")], Body::from(text)).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// `POST /api/<method>`.
pub(super) fn method<Q>(served: &Served) -> MethodRouter
where
    Q: Method + DeserializeOwned + 'static,
    Q::Result: Serialize,
{
    let served = served.clone();
    any(move |request: Request| {
        let served = served.clone();
        async move {
            let (request, transport) = match served.request::<Q>(Q::NAME, request).await {
                Ok(read) => read,
                Err(refused) => return refused.into_response(),
            };
            match served.api.call(request).await {
                Ok(result) => json(StatusCode::OK, &Answer::of(Ok(result))),
                Err(failure) => {
                    let error = Error::from(failure.error());
                    let status = match failure {
                        MethodError::Busy => StatusCode::SERVICE_UNAVAILABLE,
                        MethodError::Said(error) if transport => status(error),
                        MethodError::Said(_) => StatusCode::OK,
                    };
                    match transport {
                        true => json(status, &error),
                        false => json(status, &Answer::<Q::Result>::of(Err(error))),
                    }
                }
            }
        }
    })
}

/// `POST /api/batch`: its errors are within its replies.
fn batch(served: &Served) -> MethodRouter {
    let served = served.clone();
    any(move |request: Request| {
        let served = served.clone();
        async move {
            match served.request(BATCH, request).await {
                Ok((request, _)) => json(StatusCode::OK, &served.api.batch(request).await),
                Err(refused) => refused.into_response(),
            }
        }
    })
}

/// A command of the old form; its reply has its id.
#[derive(Deserialize)]
struct LegacyCommand<'a> {
    #[serde(default)]
    id: u32,
    #[serde(default)]
    method: String,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct LegacyReply {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Error>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Box<RawValue>>,
}

/// `POST /api`: commands `{"method":…,"params":…}` on lines, each answered by a line.
fn legacy(served: &Served) -> MethodRouter {
    let served = served.clone();
    any(move |request: Request| {
        let served = served.clone();
        async move {
            let outcome = match served.body(request).await {
                Ok(body) => legacy_lines(&served.api, &body).await,
                Err(refused) => Err(refused),
            };
            match outcome {
                Ok(lines) => ([(header::CONTENT_TYPE, "application/json")], Body::from(lines)).into_response(),
                Err(refused) => {
                    served.count(LEGACY, &refused);
                    refused.into_response()
                }
            }
        }
    })
}

async fn legacy_lines(api: &Api, body: &[u8]) -> Result<Vec<u8>, Refused> {
    let commands: Result<Vec<LegacyCommand>, _> = serde_json::Deserializer::from_slice(body).into_iter().collect();
    let commands = commands.map_err(unreadable)?;
    if commands.is_empty() {
        return Err(Refused(StatusCode::BAD_REQUEST, "the body holds no command\n".to_owned()));
    }
    let mut lines = Vec::new();
    for command in commands {
        let params = command.params.map_or("", RawValue::get);
        let failed = |error: ApiError| Reply { error: Some(error.into()), ..Reply::default() };
        let reply = match Command::named(&command.method, params) {
            Some(Ok(named)) => named.run(api).await,
            Some(Err(_)) => failed(BAD_REQUEST),
            None => failed(NOT_FOUND),
        };
        let result = if reply.error.is_some() { Ok(None) } else { reply.result().map(Some) };
        let reply = result.map(|result| LegacyReply {
            id: (command.id != 0).then_some(command.id),
            error: reply.error,
            result,
        });
        let written = reply.and_then(|reply| serde_json::to_writer(&mut lines, &reply));
        written.map_err(|error| Refused(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")))?;
        lines.push(b'\n');
    }
    Ok(lines)
}
