//! F10 · HTTP to others: one request, one whole answer, both bounded.
//!
//! Owns the connections, which are kept and used again, and TLS. Knows nothing of what is asked. Redirects are not
//! followed: an endpoint is where its option says.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::{HeaderMap, Method, Response, StatusCode, Uri};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OnceCell;

/// How often a gRPC peer is asked whether it lives, and how long it may take.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How long an unused connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchError {
    /// Not in time.
    Late,
    /// No connection, or it broke.
    Unreachable(String),
    /// Another status than 200.
    Status(u16),
    /// More bytes than allowed.
    TooLarge,
    /// Not what an answer looks like.
    Unreadable(String),
    /// A gRPC call ended with this status.
    Refused(tonic::Code, String),
}

impl FetchError {
    /// All that [`FetchError::cause`] may say.
    pub const CAUSES: [&str; 5] = ["timeout", "unreachable", "status", "too_large", "unreadable"];

    /// A word for the label of a metric.
    pub fn cause(&self) -> &'static str {
        match self {
            FetchError::Late => "timeout",
            FetchError::Unreachable(_) => "unreachable",
            FetchError::Status(_) | FetchError::Refused(..) => "status",
            FetchError::TooLarge => "too_large",
            FetchError::Unreadable(_) => "unreadable",
        }
    }
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FetchError::Late => f.write_str("no answer in time"),
            FetchError::Unreachable(why) => write!(f, "cannot be reached: {why}"),
            FetchError::Status(status) => write!(f, "HTTP status {status}"),
            FetchError::TooLarge => f.write_str("the answer is too large"),
            FetchError::Unreadable(why) => write!(f, "the answer cannot be read: {why}"),
            FetchError::Refused(code, why) => write!(f, "gRPC status {code:?}: {why}"),
        }
    }
}

type Body = Full<Bytes>;

/// What is sent.
pub type HttpRequest = hyper::Request<Body>;

pub fn post(endpoint: &Uri, headers: HeaderMap, body: Bytes) -> HttpRequest {
    let mut request = HttpRequest::new(Full::new(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = endpoint.clone();
    *request.headers_mut() = headers;
    request
}

pub fn get(url: &str) -> Result<HttpRequest, FetchError> {
    hyper::Request::get(url).body(Full::default()).map_err(|error| FetchError::Unreachable(error.to_string()))
}

pub struct Http {
    plain: Client<HttpConnector, Body>,
    /// Made when it is first needed: it reads the host's certificates.
    tls: OnceCell<Client<HttpsConnector<HttpConnector>, Body>>,
}

impl Default for Http {
    fn default() -> Http {
        Http { plain: client(connector()), tls: OnceCell::new() }
    }
}

fn connector() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector
}

fn client<C>(connector: C) -> Client<C, Body>
where
    C: hyper_util::client::legacy::connect::Connect + Clone,
{
    Client::builder(TokioExecutor::new()).pool_idle_timeout(IDLE_TIMEOUT).pool_timer(TokioTimer::new()).build(connector)
}

/// Reads certificates from files, so it must not run on the service thread.
fn tls_client() -> Result<Client<HttpsConnector<HttpConnector>, Body>, FetchError> {
    let builder = HttpsConnectorBuilder::new().with_native_roots().map_err(|error| {
        FetchError::Unreachable(format!(
            "no certificates of authorities on this host ({error}): install ca-certificates"
        ))
    })?;
    let mut inner = connector();
    inner.enforce_http(false);
    Ok(client(builder.https_only().enable_http1().wrap_connector(inner)))
}

impl Http {
    /// With TLS by options of its own. `server_name`: the name that is asked for; empty = the endpoint's host.
    pub fn with_tls(config: ClientConfig, server_name: &str) -> Result<Http, String> {
        let mut inner = connector();
        inner.enforce_http(false);
        let builder = HttpsConnectorBuilder::new().with_tls_config(config).https_only();
        let builder = match named(server_name)? {
            Some(name) => builder.with_server_name_resolver(name),
            None => builder,
        };
        let tls = client(builder.enable_http1().wrap_connector(inner));
        Ok(Http { plain: client(connector()), tls: OnceCell::new_with(Some(tls)) })
    }

    /// Reads the certificates now, so that the first request over TLS need not wait for it.
    pub async fn prepare_tls(self: Arc<Self>) {
        if let Err(error) = self.tls().await {
            tracing::warn!(%error, "requests over https will fail");
        }
    }

    /// The body of the answer, if its status is 200.
    pub async fn send(&self, request: HttpRequest, timeout: Duration, size_max: usize) -> Result<Bytes, FetchError> {
        tokio::time::timeout(timeout, self.send_unbounded(request, size_max)).await.unwrap_or(Err(FetchError::Late))
    }

    async fn send_unbounded(&self, request: HttpRequest, size_max: usize) -> Result<Bytes, FetchError> {
        let response = match request.uri().scheme_str() {
            Some("https") => self.tls().await?.request(request).await,
            _ => self.plain.request(request).await,
        };
        read(response, size_max).await
    }

    async fn tls(&self) -> Result<&Client<HttpsConnector<HttpConnector>, Body>, FetchError> {
        let make = || async {
            let made = tokio::task::spawn_blocking(tls_client).await;
            made.unwrap_or_else(|error| Err(FetchError::Unreachable(error.to_string())))
        };
        self.tls.get_or_try_init(make).await
    }
}

/// Whose certificate is wanted, if it is not that of the endpoint's host.
fn named(server_name: &str) -> Result<Option<FixedServerNameResolver>, String> {
    if server_name.is_empty() {
        return Ok(None);
    }
    let name =
        ServerName::try_from(server_name.to_owned()).map_err(|_| format!("{server_name:?} is no server name"))?;
    Ok(Some(FixedServerNameResolver::new(name)))
}

/// What gRPC calls go by: HTTP/2, with TLS if the URI says https.
pub type CallClient = Client<HttpsConnector<HttpConnector>, tonic::body::Body>;

/// A client for gRPC calls.
pub fn call_client(config: ClientConfig, server_name: &str) -> Result<CallClient, String> {
    let mut inner = connector();
    inner.enforce_http(false);
    let builder = HttpsConnectorBuilder::new().with_tls_config(config).https_or_http();
    let builder = match named(server_name)? {
        Some(name) => builder.with_server_name_resolver(name),
        None => builder,
    };
    let connector = builder.enable_http2().wrap_connector(inner);
    let mut client = Client::builder(TokioExecutor::new());
    client.pool_idle_timeout(IDLE_TIMEOUT).pool_timer(TokioTimer::new()).timer(TokioTimer::new());
    // A peer that is gone without a word is found out while calls wait for it.
    client.http2_only(true).http2_keep_alive_interval(KEEP_ALIVE).http2_keep_alive_timeout(KEEP_ALIVE);
    Ok(client.build(connector))
}

async fn read(response: Result<Response<Incoming>, Error>, size_max: usize) -> Result<Bytes, FetchError> {
    let response = response.map_err(|error| FetchError::Unreachable(chain(&error)))?;
    if response.status() != StatusCode::OK {
        return Err(FetchError::Status(response.status().as_u16()));
    }
    match Limited::new(response.into_body(), size_max).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(FetchError::TooLarge),
        Err(error) => Err(FetchError::Unreachable(chain(error.as_ref()))),
    }
}

/// An error with its causes: the first alone says "client error (Connect)".
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
