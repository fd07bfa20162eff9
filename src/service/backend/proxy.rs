//! F10 · One proxy: an endpoint of the application that questions go to.
//!
//! Owns its headers, its limit of questions under way, its breaker and its numbers. Every failure comes out as an
//! answer: clients are told to try again, and what was to be refreshed lives a minute longer.

use super::breaker::{Breaker, Change, State};
use super::grpc::{self, Asking, Caller};
use super::stream::{Counted, ENDS, Opening, Pump};
use super::wire;
use crate::base::metrics::Latency;
use crate::config;
use crate::protocol::NotJson;
use crate::protocol::code::ClientError;
use crate::service::fetch::{self, FetchError, Http};
use crate::service::sums;
use crate::service::tls;
use crate::session::backend::{Ask, Said, Who};
use crate::spans::Span;
use crate::wall_clock::unix_s;
use crate::wire::Wire;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Numbers of one proxy, by the kind of question.
#[derive(Default)]
pub struct Counts {
    pub durations: BTreeMap<&'static str, Latency>,
    /// By kind and cause.
    pub errors: BTreeMap<(&'static str, &'static str), u64>,
    /// Questions not put, by kind and limit.
    pub refused: BTreeMap<(&'static str, &'static str), u64>,
    /// Subscription streams that are open.
    pub streams: usize,
    /// Their publications, from the backend and from clients.
    pub stream_publications: [u64; 2],
    pub streams_ended: BTreeMap<&'static str, u64>,
}

impl Counts {
    /// Errors and refusals are there from the start, so that the first one is seen to come.
    pub fn begin(&mut self, kinds: &[&'static str]) {
        for kind in kinds {
            for cause in FetchError::CAUSES {
                self.errors.entry((kind, cause)).or_default();
            }
            for limit in LIMITS {
                self.refused.entry((kind, limit)).or_default();
            }
        }
        if kinds.contains(&STREAM) {
            self.refused.entry((STREAM, STREAM_LIMIT)).or_default();
            for end in ENDS {
                self.streams_ended.entry(end).or_default();
            }
        }
    }
}

/// Why a question is not put.
const LIMITS: [&str; 2] = ["inflight_limit", "breaker"];
/// Why a stream is not opened, besides.
const STREAM_LIMIT: &str = "stream_limit";
/// The kind of question that a stream begins with.
pub const STREAM: &str = "subscribe_stream";

/// How a backend is asked.
pub enum Way {
    /// As the node asks others.
    Http,
    /// With certificates of its own.
    Https(Box<Http>),
    Grpc(Box<Caller>),
}

impl Way {
    /// The error is a sentence that begins with the option's key.
    pub fn new(options: &config::ProxyOptions, size_max: usize) -> Result<Way, String> {
        if let Some(caller) = Caller::new(options, size_max)? {
            return Ok(Way::Grpc(Box::new(caller)));
        }
        let tls = &options.http.tls;
        if !tls.enabled {
            return Ok(Way::Http);
        }
        let http = tls::client_config(tls).and_then(|config| Http::with_tls(config, &tls.server_name));
        http.map(Box::new).map(Way::Https).map_err(|error| format!("http.tls.{error}"))
    }
}

pub struct Proxy {
    /// Its name, or that of its section.
    pub label: String,
    /// What it was made of.
    pub options: config::ProxyOptions,
    way: Way,
    endpoint: Uri,
    /// The same for the log.
    place: String,
    timeout: Duration,
    size_max: usize,
    binary: bool,
    tells_meta: bool,
    forwarded: Vec<HeaderName>,
    /// The same of clients that come by gRPC.
    metadata: Vec<HeaderName>,
    emulated: Vec<HeaderName>,
    fixed: HeaderMap,
    transforms: Vec<config::Transform>,
    room: Semaphore,
    room_size: usize,
    breaker: Arc<Mutex<Breaker>>,
    /// What the breaker goes by: the endpoint and its own options.
    guards: (String, config::BackendOptions),
    /// Those of the proxy that had this name before the configuration was loaded again, whose last questions count too.
    counts: Arc<Mutex<Counts>>,
}

/// The word for a question in Centrifugo's metrics.
pub fn kind(ask: &Ask) -> &'static str {
    match ask {
        Ask::Connect(_) => "connect",
        Ask::Refresh => "refresh",
        Ask::Subscribe(_) => "subscribe",
        Ask::SubRefresh { .. } => "sub_refresh",
        Ask::SubscribeStream(_) => STREAM,
        Ask::Publish(_) => "publish",
        Ask::Rpc(_) => "rpc",
        Ask::Keys { .. } => "keys",
        Ask::Check(_) => "check",
    }
}

/// Headers that are the same in each request; the error is a sentence.
pub fn fixed_headers(headers: &config::Headers) -> Result<HeaderMap, String> {
    let mut fixed = HeaderMap::new();
    for (name, value) in headers {
        let name: HeaderName = name.parse().map_err(|_| format!("{name:?} is no name of a header"))?;
        let wrong = |_| format!("the value of header {name} cannot be sent");
        let mut value = HeaderValue::from_str(value).map_err(wrong)?;
        value.set_sensitive(true);
        fixed.insert(name, value);
    }
    fixed.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(fixed)
}

/// What goes with each question: headers, or metadata and credentials.
fn fixed(options: &config::ProxyOptions) -> Result<HeaderMap, String> {
    if config::grpc_authority(&options.endpoint).is_none() {
        return fixed_headers(&options.http.static_headers);
    }
    let mut all = options.grpc.static_metadata.clone();
    if !options.grpc.credentials_key.is_empty() {
        all.insert(options.grpc.credentials_key.clone(), options.grpc.credentials_value.clone());
    }
    fixed_headers(&all)
}

fn header_names(names: &[String]) -> Result<Vec<HeaderName>, String> {
    names.iter().map(|name| name.parse().map_err(|_| format!("{name:?} is no name of a header"))).collect()
}

impl Proxy {
    /// `before`: the proxy of that name until now. The error is a sentence for the operator.
    pub fn new(
        label: String,
        options: &config::ProxyOptions,
        common: &config::BackendOptions,
        before: Option<&Proxy>,
    ) -> Result<Proxy, String> {
        let wrong = |text: String| format!("proxy {label}: {text}");
        let endpoint =
            options.endpoint.parse().map_err(|e| wrong(format!("{:?}: {e}", config::shown_url(&options.endpoint))))?;
        let way = Way::new(options, common.response_size_limit).map_err(wrong)?;
        // Of another backend, or by other limits, nothing is known that a breaker could go by.
        let guards = (options.endpoint.clone(), common.clone());
        let breaker = before.filter(|before| before.guards == guards).map(|before| before.breaker.clone());
        let fresh = || Arc::new(Mutex::new(Breaker::new(common, Instant::now())));
        Ok(Proxy {
            way,
            endpoint,
            place: config::shown_url(&options.endpoint),
            timeout: options.timeout,
            size_max: common.response_size_limit,
            binary: options.binary_encoding,
            tells_meta: options.include_connection_meta,
            forwarded: header_names(&options.http_headers).map_err(wrong)?,
            metadata: header_names(&options.grpc_metadata).map_err(wrong)?,
            emulated: header_names(&options.emulated_headers).map_err(wrong)?,
            fixed: fixed(options).map_err(wrong)?,
            transforms: options.http.status_to_code_transforms.clone(),
            room: Semaphore::new(options.inflight_limit),
            room_size: options.inflight_limit,
            breaker: breaker.unwrap_or_else(fresh),
            guards,
            counts: before.map_or_else(Arc::default, |before| before.counts.clone()),
            options: options.clone(),
            label,
        })
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Questions under way.
    pub fn inflight(&self) -> usize {
        self.room_size - self.room.available_permits()
    }

    pub fn state(&self) -> State {
        self.breaker().state()
    }

    pub fn with_counts<R>(&self, read: impl FnOnce(&mut Counts) -> R) -> R {
        read(&mut self.counts())
    }

    /// Puts the question and waits for the answer.
    pub async fn ask(&self, http: &Http, who: &Who, ask: &Ask) -> Said {
        let Ok(body) = self.body(who, ask) else { return wire::failed(ClientError::BadRequest) };
        let put = |headers| self.put(http, who, ask, body, headers);
        self.asked(who, ask, put).await.unwrap_or_else(|said| said)
    }

    /// Opens a subscription stream, which is one of `streams`, and waits for its first message. `pump`: what goes on
    /// with it once the session has heard of it.
    pub async fn open(&self, who: &Who, ask: &Ask, opening: Opening<'_>) -> (Said, Option<Pump>) {
        let Ok(place) = opening.streams.room.clone().try_acquire_owned() else {
            self.refuse(kind(ask), STREAM_LIMIT);
            return (instead(ask, ClientError::TooManyRequests), None);
        };
        let Way::Grpc(caller) = &self.way else { return (wire::failed(ClientError::NotAvailable), None) };
        let put = Asking { who, ask, binary: self.binary, meta: self.tells_meta };
        let (line, end) = opening.streams.line(opening, &self.counts);
        match self.asked(who, ask, |headers| caller.open(put, headers, end.up)).await {
            Err(said) => (said, None),
            Ok((Said::Subscribe(grant), answers)) => {
                let counted = Counted::new(&self.counts, &self.label, place);
                let (over, queue_bytes) = (end.over, opening.queue_bytes);
                let pump = Pump { answers, over, counted, queue_bytes, number: line.number };
                (Said::Stream(grant, line), Some(pump))
            }
            Ok((said, _)) => (said, None),
        }
    }

    /// Waits for an answer by `put`, which is given the headers: limits, numbers and the breaker are looked at before
    /// and after. `Err` = what is said in its place.
    async fn asked<T, F: Future<Output = Result<T, FetchError>>>(
        &self,
        who: &Who,
        ask: &Ask,
        put: impl FnOnce(HeaderMap) -> F,
    ) -> Result<T, Said> {
        let kind = kind(ask);
        let Ok(_place) = self.room.try_acquire() else {
            self.refuse(kind, LIMITS[0]);
            return Err(instead(ask, ClientError::TooManyRequests));
        };
        let admitted = self.breaker().admit(Instant::now());
        let Some(leave) = admitted else {
            self.refuse(kind, LIMITS[1]);
            return Err(instead(ask, ClientError::Internal));
        };
        let span = self.span(kind);
        let mut headers = self.headers(who, ask);
        span.tell(&mut headers);
        let began = Instant::now();
        let result = put(headers).await;
        let now = Instant::now();
        let took = now.duration_since(began).as_micros() as u64;
        self.counts().durations.entry(kind).or_default().record_us(took);
        // A status below 500 is an answer, whether or not it is one that can be used.
        let failed = match &result {
            Ok(_) | Err(FetchError::Status(..500)) => false,
            Err(FetchError::Refused(code, _)) => grpc::is_failure(*code),
            Err(_) => true,
        };
        let change = self.breaker().record(leave, failed, now);
        self.note(change);
        result.map_err(|failure| match self.transformed(&failure) {
            Some(said) => said,
            None => {
                *self.counts().errors.entry((kind, failure.cause())).or_default() += 1;
                span.fail(failure.cause());
                self.complain(failure, span.trace_id());
                instead(ask, ClientError::Internal)
            }
        })
    }

    fn span(&self, kind: &'static str) -> Span {
        let span = Span::of_question(kind);
        span.note("gannet.proxy", &self.label);
        span.note("url.full", &self.place);
        span
    }

    /// Of the HTTP request, if there is one.
    fn body(&self, who: &Who, ask: &Ask) -> Result<Bytes, NotJson> {
        match self.way {
            Way::Grpc(_) => Ok(Bytes::new()),
            Way::Http | Way::Https(_) => wire::question(who, ask, self.binary, self.tells_meta),
        }
    }

    async fn put(
        &self,
        http: &Http,
        who: &Who,
        ask: &Ask,
        body: Bytes,
        headers: HeaderMap,
    ) -> Result<Said, FetchError> {
        let http = match &self.way {
            Way::Http => http,
            Way::Https(own) => own,
            Way::Grpc(caller) => {
                let question = Asking { who, ask, binary: self.binary, meta: self.tells_meta };
                return caller.put(question, headers).await;
            }
        };
        let request = fetch::post(&self.endpoint, headers, body);
        let answer = http.send(request, self.timeout, self.size_max).await?;
        wire::said(ask, &answer).map_err(FetchError::Unreadable)
    }

    /// The emulated ones first, then those of the client's request, then the fixed: the later wins.
    fn headers(&self, who: &Who, ask: &Ask) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Ask::Connect(connect) = ask {
            for name in &self.emulated {
                let given = connect.headers.iter().find(|(given, _)| given.eq_ignore_ascii_case(name.as_str()));
                if let Some(value) = given.and_then(|(_, value)| HeaderValue::from_str(value).ok()) {
                    headers.insert(name, value);
                }
            }
        }
        let forwarded = if who.transport == Wire::UniGrpc.transport() { &self.metadata } else { &self.forwarded };
        for name in forwarded {
            let lines = who.headers.lines().filter_map(|line| line.split_once(':'));
            let values = lines.filter(|(given, _)| given.eq_ignore_ascii_case(name.as_str()));
            let mut values = values.filter_map(|(_, value)| sent_as(value.trim_matches([' ', '\t'])));
            if let Some(first) = values.next() {
                headers.insert(name, first);
                for value in values {
                    headers.append(name, value);
                }
            }
        }
        for (name, value) in &self.fixed {
            headers.insert(name, value.clone());
        }
        headers
    }

    /// What a status means by `status_to_code_transforms`.
    fn transformed(&self, failure: &FetchError) -> Option<Said> {
        let FetchError::Status(status) = failure else { return None };
        let transform = self.transforms.iter().find(|transform| transform.status_code == *status)?;
        let (error, disconnect) = (&transform.to_error, &transform.to_disconnect);
        match error.code {
            0 => wire::disconnect(disconnect.code.into(), disconnect.reason.clone()).ok(),
            code => Some(wire::error(code, error.message.clone(), error.temporary)),
        }
    }

    fn refuse(&self, kind: &'static str, limit: &'static str) {
        *self.counts().refused.entry((kind, limit)).or_default() += 1;
    }

    fn note(&self, change: Option<Change>) {
        let proxy = &self.label;
        match change {
            Some(Change::Opened) => tracing::warn!(
                proxy,
                endpoint = self.place,
                "the backend fails: it is not asked for a while, and clients get error 100; see to the backend"
            ),
            Some(Change::Closed) => tracing::info!(proxy, "the backend answers again"),
            None => {}
        }
    }

    /// A line at the first failure, and then sums.
    fn complain(&self, failure: FetchError, trace_id: Option<String>) {
        let advice = match failure {
            FetchError::Late => "questions to the backend failed: is it slow? raise the proxy's timeout if it may be",
            FetchError::Unreachable(_) => "questions to the backend failed: does it run, and is the endpoint right?",
            FetchError::Status(_) => {
                "questions to the backend failed: it must answer 200; status_to_code_transforms gives others a meaning"
            }
            FetchError::Refused(..) => "questions to the backend failed: it must answer with the status OK",
            FetchError::TooLarge => "questions to the backend failed: raise backend.response_size_limit",
            FetchError::Unreadable(_) => "questions to the backend failed: its answer is not what docs/backend.md says",
        };
        let (proxy, endpoint) = (self.label.clone(), self.place.clone());
        sums::add(&format!("proxy {proxy}"), 1, move |count| {
            let trace_id = trace_id.as_deref();
            tracing::warn!(proxy, endpoint, count, trace_id, error = %failure, "{advice}");
        });
    }
}

/// A value of the client's request as it came: each character of it stands for a byte.
fn sent_as(value: &str) -> Option<HeaderValue> {
    let bytes: Option<Vec<u8>> = value.chars().map(|c| u8::try_from(c).ok()).collect();
    HeaderValue::from_bytes(&bytes?).ok()
}

fn instead(ask: &Ask, error: ClientError) -> Said {
    ask.unanswered(error, unix_s())
}
