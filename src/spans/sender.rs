//! F10 · The thread that sends spans to the collector, and the queue in front of it.
//!
//! Owns what waits: so many spans, beyond them they are dropped and counted, and nobody waits for room. Owns what is
//! said of a collector that takes nothing. Never knows what a span is about.

use super::variables::{Protocol, Variables};
use crate::base::metrics::Page;
use crate::service::{FetchError, Http, add_to_sum};
use async_trait::async_trait;
use bytes::Bytes;
use opentelemetry::Context;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::tonic_types::transport::ClientTlsConfig;
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanExporter as _, SpanProcessor};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc as blocking};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Spans that are sent together.
const BATCH_MAX: usize = 512;
/// How long the first of them waits for the others.
const PAUSE: Duration = Duration::from_secs(1);
/// How much longer than its time a collector may take before the call is broken off.
const GRACE: Duration = Duration::from_secs(1);
/// Bytes of a collector's answer.
const ANSWER_MAX: usize = 64 << 10;

/// What became of spans.
#[derive(Debug, Default)]
pub struct SpanCounts {
    sent: AtomicU64,
    /// They found no room.
    unplaced: AtomicU64,
    /// Their call had many already.
    left_out: AtomicU64,
    /// The collector did not take them.
    refused: AtomicU64,
}

impl SpanCounts {
    pub fn left_out(&self) {
        self.left_out.fetch_add(1, Ordering::Relaxed);
    }

    pub fn write(&self, page: &mut Page) {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        page.single("gannet_spans_sent_total", "Spans that the collector took.", "counter", of(&self.sent));
        let help = "Spans that no collector has: the queue was full (opentelemetry.queue_size), the collector did not \
                    take them, or their call had many already.";
        let dropped = [("queue", &self.unplaced), ("collector", &self.refused), ("call", &self.left_out)];
        let dropped = dropped.map(|(reason, count)| (reason, of(count)));
        page.labelled("gannet_spans_dropped_total", help, "counter", "reason", dropped);
    }
}

/// The end at which spans come in, from whatever thread.
#[derive(Debug)]
pub struct SpanQueue {
    spans: mpsc::Sender<SpanData>,
    counts: Arc<SpanCounts>,
}

impl SpanProcessor for SpanQueue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() && self.spans.try_send(span).is_err() {
            self.counts.unplaced.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// What main has of the thread.
pub struct Sending {
    leaving: watch::Sender<bool>,
    /// Says nothing, and is closed when all is sent.
    ended: Mutex<blocking::Receiver<()>>,
}

impl Sending {
    /// Sends what waits, for so long at most.
    pub fn finish(&self, patience: Duration) {
        self.leaving.send_replace(true);
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(ended.recv_timeout(patience), Err(blocking::RecvTimeoutError::Timeout)) {
            tracing::warn!("the collector did not take all spans in time (opentelemetry.shutdown_timeout)");
        }
    }
}

/// Starts the thread. The error is a line for the operator.
pub fn start(
    variables: Variables,
    resource: Resource,
    queue_size: usize,
    counts: &Arc<SpanCounts>,
) -> Result<(SpanQueue, Sending), String> {
    let (sender, spans) = mpsc::channel(queue_size);
    let (leaving, told) = watch::channel(false);
    let ((tell_start, started), (tell_end, ended)) = (blocking::channel(), blocking::channel());
    let thread_counts = counts.clone();
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => return drop(tell_start.send(Err(format!("cannot start the runtime of spans: {error}")))),
        };
        runtime.block_on(async move {
            let trouble = Arc::default();
            let made = exporter(&variables, &resource, &trouble);
            let made = made.map(|exporter| Sender { exporter, variables, trouble, counts: thread_counts });
            match made {
                Ok(sender) if tell_start.send(Ok(())).is_ok() => sender.run(spans, told).await,
                Ok(_) => {}
                Err(why) => drop(tell_start.send(Err(why))),
            }
        });
        drop(tell_end);
    };
    let spawned = std::thread::Builder::new().name("spans".into()).spawn(run);
    spawned.map_err(|error| format!("cannot start a thread: {error}"))?;
    started.recv().map_err(|_| "the thread of spans ended".to_owned())??;
    let sending = Sending { leaving, ended: Mutex::new(ended) };
    Ok((SpanQueue { spans: sender, counts: counts.clone() }, sending))
}

/// Why the last request came to nothing, which the library does not pass on.
type Trouble = Arc<Mutex<Option<FetchError>>>;

/// To be made where tokio runs.
fn exporter(variables: &Variables, resource: &Resource, trouble: &Trouble) -> Result<SpanExporter, String> {
    let made = match variables.protocol {
        Protocol::Http => {
            let way = Way { http: Http::default(), timeout: variables.timeout, trouble: trouble.clone() };
            SpanExporter::builder().with_http().with_timeout(variables.timeout).with_http_client(way).build()
        }
        Protocol::Grpc => {
            let exporter = SpanExporter::builder().with_tonic().with_timeout(variables.timeout);
            match variables.endpoint.starts_with("http://") {
                true => exporter.build(),
                false => exporter.with_tls_config(ClientTlsConfig::new().with_enabled_roots()).build(),
            }
        }
    };
    let mut exporter = made.map_err(|error| format!("opentelemetry: {error}"))?;
    exporter.set_resource(resource);
    Ok(exporter)
}

struct Sender {
    exporter: SpanExporter,
    variables: Variables,
    trouble: Trouble,
    counts: Arc<SpanCounts>,
}

impl Sender {
    /// Until the node leaves, and then what is left.
    async fn run(self, mut spans: mpsc::Receiver<SpanData>, mut leaving: watch::Receiver<bool>) {
        let mut batch = Vec::new();
        loop {
            let is_leaving = *leaving.borrow_and_update();
            if is_leaving {
                spans.close();
            }
            tokio::select! {
                count = spans.recv_many(&mut batch, BATCH_MAX) => if count == 0 { return },
                _ = leaving.changed(), if !is_leaving => continue,
            }
            if !is_leaving {
                tokio::select! {
                    () = fill(&mut spans, &mut batch) => {}
                    () = tokio::time::sleep(PAUSE) => {}
                    _ = leaving.changed() => leaving.mark_changed(),
                }
            }
            self.send(std::mem::take(&mut batch)).await;
        }
    }

    async fn send(&self, batch: Vec<SpanData>) {
        let count = batch.len() as u64;
        let patience = self.variables.timeout + GRACE;
        let why = match tokio::time::timeout(patience, self.exporter.export(batch)).await {
            Ok(Ok(())) => {
                self.counts.sent.fetch_add(count, Ordering::Relaxed);
                return;
            }
            Ok(Err(error)) => {
                let cause = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).take();
                cause.map_or_else(|| error.to_string(), |cause| cause.to_string())
            }
            Err(_) => FetchError::Late.to_string(),
        };
        self.counts.refused.fetch_add(count, Ordering::Relaxed);
        let endpoint = crate::config::shown_url(&self.variables.endpoint);
        add_to_sum("opentelemetry", count, move |spans| {
            tracing::warn!(endpoint, spans, why, "the collector does not take spans: is it there (OTEL_* variables)?");
        });
    }
}

/// Until the batch is full, or nothing can come any more.
async fn fill(spans: &mut mpsc::Receiver<SpanData>, batch: &mut Vec<SpanData>) {
    while batch.len() < BATCH_MAX {
        let room = BATCH_MAX - batch.len();
        if spans.recv_many(batch, room).await == 0 {
            return;
        }
    }
}

/// Plain HTTP as the rest of the node speaks it.
struct Way {
    http: Http,
    timeout: Duration,
    trouble: Trouble,
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Way")
    }
}

#[async_trait]
impl HttpClient for Way {
    async fn send_bytes(&self, request: hyper::Request<Bytes>) -> Result<hyper::Response<Bytes>, HttpError> {
        let request = request.map(http_body_util::Full::new);
        let sent = self.http.send(request, self.timeout, ANSWER_MAX).await;
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = sent.as_ref().err().cloned();
        match sent {
            Ok(body) => Ok(hyper::Response::new(body)),
            // What another status means is the library's to know.
            Err(FetchError::Status(status)) => Ok(hyper::Response::builder().status(status).body(Bytes::new())?),
            Err(error) => Err(error.to_string().into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry::trace::{Span as _, Tracer, TracerProvider};
    use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};

    /// A queue that nobody reads takes so many spans and drops the others, and those that are not sampled take no room.
    #[test]
    fn what_finds_no_room_is_dropped_and_counted() {
        let counts = Arc::<SpanCounts>::default();
        let (spans, mut waiting) = mpsc::channel(3);
        let queue = || SpanQueue { spans: spans.clone(), counts: counts.clone() };
        let with = |sampler| SdkTracerProvider::builder().with_sampler(sampler).with_span_processor(queue()).build();
        let (all, none) = (with(Sampler::AlwaysOn).tracer("t"), with(Sampler::AlwaysOff).tracer("t"));
        for _ in 0..10 {
            none.start("unseen").end();
            all.start("seen").end();
        }
        let taken = std::iter::from_fn(|| waiting.try_recv().ok()).inspect(|span| assert_eq!(span.name, "seen"));
        assert_eq!((taken.count(), counts.unplaced.load(Ordering::Relaxed)), (3, 7));
    }
}
