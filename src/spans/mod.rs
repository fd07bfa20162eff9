//! F10 · Spans: how long the parts of a call took, told to a collector by OpenTelemetry.
//!
//! Owns which parts have a span, whose child each is, and which trace a call belongs to: that of its `traceparent`, or
//! one that begins here. `recorded` speaks to the library, `sender` is the thread that sends them, `variables` what the
//! OTEL_* variables say. These are in builds with the feature `opentelemetry` only; without it, and while it is off,
//! a call costs a look at one value. Never holds a call up: what finds no room is dropped and counted.

#[cfg(feature = "opentelemetry")]
mod recorded;
#[cfg(feature = "opentelemetry")]
mod sender;
#[cfg(feature = "opentelemetry")]
mod variables;

use crate::base::metrics::Page;
use crate::config::OpenTelemetryOptions;
use crate::service::NodeInfo;
use hyper::HeaderMap;
#[cfg(feature = "opentelemetry")]
use recorded::{OpenSpan, Parts};
use std::time::Duration;

/// A part of a call while it lasts: it ends when this is dropped. Mostly there is nothing in it.
pub struct Span(#[cfg(feature = "opentelemetry")] Option<Box<OpenSpan>>);

/// Starts the thread that sends, if spans are wanted. The error is a line for the operator.
#[cfg(feature = "opentelemetry")]
pub fn start(options: &OpenTelemetryOptions, node: &NodeInfo) -> Result<(), String> {
    if options.enabled { recorded::start(options, node) } else { Ok(()) }
}

/// The configuration was checked: it does not ask for what this build has not.
#[cfg(not(feature = "opentelemetry"))]
pub fn start(_: &OpenTelemetryOptions, _: &NodeInfo) -> Result<(), String> {
    Ok(())
}

/// Waits until what is left is sent, but not longer than `patience`. No span comes after it.
pub fn finish(patience: Duration) {
    #[cfg(feature = "opentelemetry")]
    recorded::finish(patience);
    #[cfg(not(feature = "opentelemetry"))]
    let _ = patience;
}

/// What was sent and what was not.
pub fn write(page: &mut Page) {
    #[cfg(feature = "opentelemetry")]
    recorded::write(page);
    #[cfg(not(feature = "opentelemetry"))]
    let _ = page;
}

/// The lines of a request that say which trace it belongs to; none while nobody would look at them.
pub fn lines_of(headers: &HeaderMap) -> HeaderMap {
    #[cfg(feature = "opentelemetry")]
    return recorded::lines_of(headers);
    #[cfg(not(feature = "opentelemetry"))]
    {
        let _ = headers;
        HeaderMap::new()
    }
}

/// Carries out a call of the API, whose spans are of the trace that its headers name.
pub async fn within<T>(headers: &HeaderMap, call: impl Future<Output = T>) -> T {
    #[cfg(feature = "opentelemetry")]
    if let Some(scope) = recorded::named_by(headers) {
        return recorded::carry(scope, call).await;
    }
    let _ = headers;
    call.await
}

/// The trace of what is carried out now, for the log.
pub fn trace_id() -> Option<String> {
    #[cfg(feature = "opentelemetry")]
    return recorded::trace_id();
    #[cfg(not(feature = "opentelemetry"))]
    None
}

impl Span {
    /// A method of the API. `is_asked`: by a call of its own, and not by a message.
    pub fn of_method(name: &'static str, is_asked: bool) -> Span {
        #[cfg(feature = "opentelemetry")]
        return Span(recorded::method(name, is_asked));
        #[cfg(not(feature = "opentelemetry"))]
        {
            let _ = (name, is_asked);
            Span()
        }
    }

    /// A part of what is carried out now, if that has a span.
    pub fn of_part(name: &'static str) -> Span {
        #[cfg(feature = "opentelemetry")]
        return Span(recorded::part(name));
        #[cfg(not(feature = "opentelemetry"))]
        {
            let _ = name;
            Span()
        }
    }

    /// A question to the backend.
    pub fn of_question(kind: &'static str) -> Span {
        #[cfg(feature = "opentelemetry")]
        return Span(recorded::question(kind));
        #[cfg(not(feature = "opentelemetry"))]
        {
            let _ = kind;
            Span()
        }
    }

    /// A message of a consumer, which may name a trace among its headers.
    pub fn of_message(consumer: &str, headers: &[(&str, &[u8])]) -> Span {
        #[cfg(feature = "opentelemetry")]
        return Span(recorded::message(consumer, headers));
        #[cfg(not(feature = "opentelemetry"))]
        {
            let _ = (consumer, headers);
            Span()
        }
    }

    /// Carries out what it is about: spans that begin meanwhile are its parts.
    pub async fn carry<T>(&self, work: impl Future<Output = T>) -> T {
        #[cfg(feature = "opentelemetry")]
        if let Some(opened) = &self.0 {
            return recorded::carry(opened.scope(), work).await;
        }
        work.await
    }

    /// Says more of it.
    pub fn note(&self, key: &'static str, value: &str) {
        #[cfg(feature = "opentelemetry")]
        if let Some(opened) = &self.0 {
            opened.note(key, value);
        }
        let _ = (key, value);
    }

    /// Says more of it, as a number.
    pub fn count(&self, key: &'static str, value: i64) {
        #[cfg(feature = "opentelemetry")]
        if let Some(opened) = &self.0 {
            opened.count(key, value);
        }
        let _ = (key, value);
    }

    /// It came to nothing.
    pub fn fail(&self, why: &str) {
        #[cfg(feature = "opentelemetry")]
        if let Some(opened) = &self.0 {
            opened.fail(why);
        }
        let _ = why;
    }

    /// Tells whom it asks which trace it belongs to.
    pub fn tell(&self, headers: &mut HeaderMap) {
        #[cfg(feature = "opentelemetry")]
        if let Some(opened) = &self.0 {
            opened.tell(headers);
        }
        let _ = headers;
    }

    /// Its trace, for the log.
    pub fn trace_id(&self) -> Option<String> {
        #[cfg(feature = "opentelemetry")]
        return self.0.as_ref().map(|opened| opened.trace_id());
        #[cfg(not(feature = "opentelemetry"))]
        None
    }
}

#[cfg(feature = "opentelemetry")]
impl From<&OpenTelemetryOptions> for Parts {
    fn from(options: &OpenTelemetryOptions) -> Parts {
        Parts { api: options.api, consuming: options.consuming, proxy: options.proxy }
    }
}
