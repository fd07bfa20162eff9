//! F10 · Spans as the library of OpenTelemetry keeps them.
//!
//! Owns the trace that is carried on now, whose parts have spans, and how many one call may have. A trace is named by
//! the backend and its messages, never by a client: what a client causes begins a trace of its own.

use super::sender::{self, Sending, SpanCounts};
use super::variables;
use crate::base::metrics::Page;
use crate::config::OpenTelemetryOptions;
use crate::service::NodeInfo;
use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::{SpanBuilder, SpanKind, Status, TraceContextExt, Tracer, TracerProvider};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::resource::{EnvResourceDetector, TelemetryResourceDetector};
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use std::borrow::Cow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Duration;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// Bytes of a tracestate that is passed on: more is left out.
const STATE_MAX: usize = 512;
/// Spans of one call: a broadcast to thousands of channels must not push those of other calls out.
const PARTS_MAX: usize = 128;

static RECORDER: OnceLock<Recorder> = OnceLock::new();
static PROPAGATOR: LazyLock<TraceContextPropagator> = LazyLock::new(TraceContextPropagator::new);

tokio::task_local! {
    static CURRENT: Scope;
}

/// What has spans.
#[derive(Debug, Clone, Copy)]
pub struct Parts {
    pub api: bool,
    pub consuming: bool,
    pub proxy: bool,
}

struct Recorder {
    tracer: SdkTracer,
    parts: Parts,
    counts: Arc<SpanCounts>,
    sending: Sending,
    /// Kept, for without it no span is passed on.
    _provider: SdkTracerProvider,
}

/// The span within which something is carried out, or one elsewhere that a caller named.
#[derive(Clone)]
pub struct Scope {
    context: Context,
    /// Spans that its call may still have.
    left: Arc<AtomicUsize>,
}

/// A span that has not ended.
pub struct OpenSpan(Scope);

pub fn start(options: &OpenTelemetryOptions, node: &NodeInfo) -> Result<(), String> {
    let Some(variables) = variables::read(|name| std::env::var(name).ok())? else {
        tracing::info!("the OTEL_* variables say that no spans are sent");
        return Ok(());
    };
    let (protocol, endpoint) = (variables.protocol, crate::config::shown_url(&variables.endpoint));
    let resource = resource(variables.service.clone(), node);
    let counts = Arc::<SpanCounts>::default();
    let (queue, sending) = sender::start(variables, resource.clone(), options.queue_size, &counts)?;
    let provider = SdkTracerProvider::builder().with_resource(resource).with_span_processor(queue).build();
    let tracer = provider.tracer("gannet");
    let recorder = Recorder { tracer, parts: options.into(), counts, sending, _provider: provider };
    // Whoever came first stays, as in a test.
    let _ = RECORDER.set(recorder);
    tracing::info!(endpoint, ?protocol, "spans go to the collector");
    Ok(())
}

/// What all spans say; the variables go before what is known here.
fn resource(service: Option<String>, node: &NodeInfo) -> Resource {
    let own = [
        KeyValue::new("service.name", "gannet"),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", node.uid.clone()),
        KeyValue::new("gannet.node", node.name.clone()),
    ];
    let builder = Resource::builder_empty().with_attributes(own);
    let builder = builder.with_detector(Box::new(TelemetryResourceDetector));
    let builder = builder.with_detector(Box::new(EnvResourceDetector::new()));
    builder.with_attributes(service.map(|name| KeyValue::new("service.name", name))).build()
}

pub fn finish(patience: Duration) {
    if let Some(recorder) = RECORDER.get() {
        recorder.sending.finish(patience);
    }
}

pub fn write(page: &mut Page) {
    if let Some(recorder) = RECORDER.get() {
        recorder.counts.write(page);
    }
}

/// Of headers, those that name a trace.
struct Lines<'a>(&'a HeaderMap);

impl Extractor for Lines<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        let value = self.0.get(key)?.to_str().ok()?;
        (value.len() <= STATE_MAX).then_some(value)
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

/// The same of a message.
struct MessageLines<'a>(&'a [(&'a str, &'a [u8])]);

impl Extractor for MessageLines<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(name, _)| name.eq_ignore_ascii_case(key))?;
        std::str::from_utf8(value).ok().filter(|value| value.len() <= STATE_MAX)
    }

    fn keys(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| *name).collect()
    }
}

/// Where they are written.
struct SentLines<'a>(&'a mut HeaderMap);

impl Injector for SentLines<'_> {
    fn set(&mut self, key: &str, value: String) {
        let name = if key == TRACEPARENT.as_str() { TRACEPARENT } else { TRACESTATE };
        // What the client's own request said of a trace is no more than what it said.
        self.0.remove(&name);
        if let Some(value) = HeaderValue::from_str(&value).ok().filter(|value| !value.is_empty()) {
            self.0.insert(name, value);
        }
    }
}

pub fn lines_of(headers: &HeaderMap) -> HeaderMap {
    if RECORDER.get().is_none() {
        return HeaderMap::new();
    }
    let lines = [TRACEPARENT, TRACESTATE].map(|name| Some((headers.get(&name)?.clone(), name)));
    lines.into_iter().flatten().map(|(value, name)| (name, value)).collect()
}

/// The scope of a call whose headers name a trace.
pub fn named_by(headers: &HeaderMap) -> Option<Scope> {
    RECORDER.get().filter(|recorder| recorder.parts.api)?;
    named(&Lines(headers))
}

fn named(lines: &dyn Extractor) -> Option<Scope> {
    let context = PROPAGATOR.extract_with_context(&Context::new(), lines);
    context.has_active_span().then(|| Scope { context, left: Arc::new(AtomicUsize::new(PARTS_MAX)) })
}

pub async fn carry<T>(scope: Scope, work: impl Future<Output = T>) -> T {
    CURRENT.scope(scope, work).await
}

fn current() -> Option<Scope> {
    CURRENT.try_with(Scope::clone).ok()
}

pub fn trace_id() -> Option<String> {
    CURRENT.try_with(|scope| scope.context.span().span_context().trace_id().to_string()).ok()
}

impl Recorder {
    /// A span of `parent`, or the first of a trace. `None` = its call has many already.
    fn open(&self, name: impl Into<Cow<'static, str>>, kind: SpanKind, parent: Option<Scope>) -> Option<Box<OpenSpan>> {
        let Scope { context, left } =
            parent.unwrap_or_else(|| Scope { context: Context::new(), left: Arc::new(AtomicUsize::new(PARTS_MAX)) });
        if left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err() {
            self.counts.left_out();
            return None;
        }
        let span = self.tracer.build_with_context(SpanBuilder::from_name(name).with_kind(kind), &context);
        Some(Box::new(OpenSpan(Scope { context: context.with_span(span), left })))
    }
}

pub fn method(name: &'static str, is_asked: bool) -> Option<Box<OpenSpan>> {
    let recorder = RECORDER.get()?;
    match current() {
        Some(scope) if !scope.context.span().span_context().is_remote() => part_of(recorder, name, scope),
        parent => (is_asked && recorder.parts.api).then(|| recorder.open(name, SpanKind::Server, parent)).flatten(),
    }
}

pub fn part(name: &'static str) -> Option<Box<OpenSpan>> {
    let recorder = RECORDER.get()?;
    let scope = current().filter(|scope| !scope.context.span().span_context().is_remote())?;
    part_of(recorder, name, scope)
}

/// Of a trace that is not sampled nothing more need be known.
fn part_of(recorder: &Recorder, name: &'static str, scope: Scope) -> Option<Box<OpenSpan>> {
    let sampled = scope.context.span().span_context().is_sampled();
    sampled.then(|| recorder.open(name, SpanKind::Internal, Some(scope))).flatten()
}

pub fn question(kind: &'static str) -> Option<Box<OpenSpan>> {
    let recorder = RECORDER.get().filter(|recorder| recorder.parts.proxy)?;
    recorder.open(kind, SpanKind::Client, current())
}

pub fn message(consumer: &str, headers: &[(&str, &[u8])]) -> Option<Box<OpenSpan>> {
    let recorder = RECORDER.get().filter(|recorder| recorder.parts.consuming)?;
    recorder.open(format!("process {consumer}"), SpanKind::Consumer, named(&MessageLines(headers)))
}

impl OpenSpan {
    pub fn scope(&self) -> Scope {
        self.0.clone()
    }

    pub fn note(&self, key: &'static str, value: &str) {
        let span = self.0.context.span();
        if span.is_recording() {
            span.set_attribute(KeyValue::new(key, value.to_owned()));
        }
    }

    pub fn count(&self, key: &'static str, value: i64) {
        self.0.context.span().set_attribute(KeyValue::new(key, value));
    }

    pub fn fail(&self, why: &str) {
        let span = self.0.context.span();
        if span.is_recording() {
            span.set_status(Status::error(why.to_owned()));
        }
    }

    pub fn tell(&self, headers: &mut HeaderMap) {
        PROPAGATOR.inject_context(&self.0.context, &mut SentLines(headers));
    }

    pub fn trace_id(&self) -> String {
        self.0.context.span().span_context().trace_id().to_string()
    }
}

impl Drop for OpenSpan {
    fn drop(&mut self) {
        self.0.context.span().end();
    }
}
