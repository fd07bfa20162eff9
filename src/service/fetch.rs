//! F10 · HTTP to others: one request, one whole answer, both bounded.
//!
//! Owns the connections, which are kept and used again, and TLS. Knows nothing of what is asked. Redirects are followed
//! where nothing of a client's is sent ([`Http::get`]): an endpoint is where its option says.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::LOCATION;
use hyper::{HeaderMap, Method, Response, StatusCode, Uri};
use hyper_rustls::builderstates::WantsProtocols1;
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
/// Redirects followed in a row.
const REDIRECTS_MAX: usize = 5;
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

/// The same for what speaks TLS above it.
pub fn below_tls() -> HttpConnector {
    let mut connector = connector();
    connector.enforce_http(false);
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
    Ok(client(builder.https_only().enable_http1().wrap_connector(below_tls())))
}

impl Http {
    /// With TLS by options of its own. `server_name`: the name that is asked for; empty = the endpoint's host.
    pub fn with_tls(config: ClientConfig, server_name: &str) -> Result<Http, String> {
        let builder = named(HttpsConnectorBuilder::new().with_tls_config(config).https_only(), server_name)?;
        let tls = client(builder.enable_http1().wrap_connector(below_tls()));
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
        read(self.ask(request).await?, size_max).await
    }

    async fn ask(&self, request: HttpRequest) -> Result<Result<Response<Incoming>, Error>, FetchError> {
        Ok(match request.uri().scheme_str() {
            Some("https") => self.tls().await?.request(request).await,
            _ => self.plain.request(request).await,
        })
    }

    /// What is at `url`, or where it redirects to: a few times, and never from https to http.
    pub async fn get(&self, url: &str, timeout: Duration, size_max: usize) -> Result<Bytes, FetchError> {
        tokio::time::timeout(timeout, self.follow(url, size_max)).await.unwrap_or(Err(FetchError::Late))
    }

    async fn follow(&self, url: &str, size_max: usize) -> Result<Bytes, FetchError> {
        let mut request = get(url)?;
        for _ in 0..=REDIRECTS_MAX {
            let asked = request.uri().clone();
            let response = self.ask(request).await?;
            let target = response.as_ref().ok().filter(|response| response.status().is_redirection());
            let Some(target) = target.and_then(|response| response.headers().get(LOCATION)) else {
                return read(response, size_max).await;
            };
            let next = target.to_str().ok().and_then(|target| redirected(&asked, target));
            let next = next.ok_or_else(|| FetchError::Unreadable("it redirects to no http or https URL".to_owned()))?;
            if asked.scheme_str() == Some("https") && next.scheme_str() != Some("https") {
                return Err(FetchError::Unreadable("it redirects from https to http".to_owned()));
            }
            request = get(&next.to_string())?;
        }
        Err(FetchError::Unreadable("it redirects again and again".to_owned()))
    }

    async fn tls(&self) -> Result<&Client<HttpsConnector<HttpConnector>, Body>, FetchError> {
        let make = || async {
            let made = tokio::task::spawn_blocking(tls_client).await;
            made.unwrap_or_else(|error| Err(FetchError::Unreachable(error.to_string())))
        };
        self.tls.get_or_try_init(make).await
    }
}

/// A connector asks for the certificate of `server_name`, if that is not the endpoint's host ("").
fn named(builder: Unnamed, server_name: &str) -> Result<Unnamed, String> {
    if server_name.is_empty() {
        return Ok(builder);
    }
    let name =
        ServerName::try_from(server_name.to_owned()).map_err(|_| format!("{server_name:?} is no server name"))?;
    Ok(builder.with_server_name_resolver(FixedServerNameResolver::new(name)))
}

/// A connector that has its options, but for the versions of HTTP.
type Unnamed = HttpsConnectorBuilder<WantsProtocols1>;

/// What gRPC calls go by: HTTP/2, with TLS if the URI says https.
pub type CallClient = Client<HttpsConnector<HttpConnector>, tonic::body::Body>;

/// A client for gRPC calls.
pub fn call_client(config: ClientConfig, server_name: &str) -> Result<CallClient, String> {
    let builder = named(HttpsConnectorBuilder::new().with_tls_config(config).https_or_http(), server_name)?;
    let connector = builder.enable_http2().wrap_connector(below_tls());
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

/// Where a redirect leads from `from`: a whole URL, or a path of the same host.
fn redirected(from: &Uri, target: &str) -> Option<Uri> {
    let target = target.split('#').next()?;
    if target.starts_with('/') && !target.starts_with("//") {
        let mut parts = from.clone().into_parts();
        parts.path_and_query = Some(target.parse().ok()?);
        return Uri::from_parts(parts).ok();
    }
    let whole: Uri = target.parse().ok()?;
    let sound = matches!(whole.scheme_str(), Some("http" | "https")) && whole.host().is_some();
    sound.then_some(whole)
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[test]
    fn a_redirect_leads_to_a_url_or_a_path() {
        let from: Uri = "http://a:1/keys?x=y".parse().expect("a URI");
        for (target, expected) in [
            ("/other?z", Some("http://a:1/other?z")),
            ("http://b/keys#part", Some("http://b/keys")),
            ("https://b:2/", Some("https://b:2/")),
            ("//b/keys", None),
            ("keys", None),
            ("ftp://b/", None),
            ("http:///", None),
            ("", None),
        ] {
            assert_eq!(redirected(&from, target).map(|uri| uri.to_string()).as_deref(), expected, "{target}");
        }
    }

    /// A server that answers `/N` with a redirect to `/N-1`, and `/0` with a body.
    async fn chain_of_redirects() -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(stream.read_u8().await.expect("a request"));
                }
                let text = String::from_utf8(request).expect("text");
                let path = text.split(' ').nth(1).expect("a path");
                let answer = match path.trim_start_matches('/').parse::<u32>() {
                    Ok(0) => "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nthe end".to_owned(),
                    Ok(n) => format!("HTTP/1.1 302 Found\r\nLocation: /{}\r\nConnection: close\r\n\r\n", n - 1),
                    Err(_) => "HTTP/1.1 301 Moved\r\nLocation: ftp://a/\r\nConnection: close\r\n\r\n".to_owned(),
                };
                stream.write_all(answer.as_bytes()).await.expect("written");
            }
        });
        url
    }

    #[tokio::test]
    async fn a_few_redirects_are_followed() {
        let (url, http) = (chain_of_redirects().await, Http::default());
        let get = async |path: &str| http.get(&format!("{url}/{path}"), Duration::from_secs(10), 100).await;
        for path in ["0", "1", "5"] {
            assert_eq!(get(path).await, Ok(Bytes::from_static(b"the end")), "{path}");
        }
        for path in ["6", "away"] {
            let refused = get(path).await;
            assert!(matches!(&refused, Err(FetchError::Unreadable(why)) if why.contains("redirects")), "{refused:?}");
        }
        let sent = http.send(super::get(&format!("{url}/1")).expect("a request"), Duration::from_secs(10), 100).await;
        assert_eq!(sent, Err(FetchError::Status(302)), "what is asked of backends is asked where the option says");
    }
}
