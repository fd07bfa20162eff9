//! F10 · The API in numbers: how long its methods took, and the errors they ended with.

use crate::base::metrics::{Latency, Page};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// By which protocol a method was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Via {
    Http,
    Grpc,
    /// By a message of a consumer.
    Consumer,
}

impl Via {
    pub(super) fn name(self) -> &'static str {
        match self {
            Via::Http => "http",
            Via::Grpc => "grpc",
            Via::Consumer => "consumer",
        }
    }
}

/// Errors of the API that a backend's fault or the node's brings about.
const USUAL: [u32; 4] = [100, 102, 107, 401];

/// Calls by protocol and method. Names are those of methods there are, so that a stranger's paths make no series.
#[derive(Default)]
pub struct Calls(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    durations: BTreeMap<(Via, &'static str), Latency>,
    errors: BTreeMap<(Via, &'static str, u32), u64>,
}

impl Calls {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A method was carried out.
    pub(super) fn took(&self, via: Via, method: &'static str, time: Duration) {
        self.lock().durations.entry((via, method)).or_default().record_us(time.as_micros() as u64);
    }

    /// A call ended in an error: one of the API, or of the protocol that it came by.
    pub(super) fn failed(&self, via: Via, method: &'static str, code: u32) {
        *self.lock().errors.entry((via, method, code)).or_default() += 1;
    }

    pub fn write(&self, page: &mut Page) {
        let mut counts = self.lock();
        // They are there from the start, so that the first one is seen to come.
        for (method, ..) in super::described() {
            for code in USUAL {
                counts.errors.entry((Via::Http, method, code)).or_default();
            }
        }
        let durations: Vec<(String, &Latency)> = counts
            .durations
            .iter()
            .map(|((via, method), latency)| (format!("protocol=\"{}\",method=\"{method}\"", via.name()), latency))
            .collect();
        page.histogram_series(
            "gannet_api_command_duration_seconds",
            "Server API calls by protocol and method; the calls of a batch count each.",
            durations.iter().map(|(labels, latency)| (labels, *latency)),
        );
        let help = "Server API calls that ended in an error, by method and API error code, HTTP or gRPC status.";
        let series = counts.errors.iter().map(|((via, method, code), n)| {
            (format!("protocol=\"{}\",method=\"{method}\",code=\"{code}\"", via.name()), n)
        });
        page.series("gannet_api_command_errors_total", help, "counter", series);
    }
}
