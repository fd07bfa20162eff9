//! F10 · Plain HTTP requests in numbers, for whoever asks for them (`prometheus.instrument_http_handlers`).
//!
//! Owns the counts by path, method and status. Paths are those of routes, so that a stranger's make no series.

use crate::base::metrics::Page;
use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Methods that are told apart.
const METHODS: [&str; 5] = ["GET", "HEAD", "POST", "OPTIONS", "PUT"];

/// Counts by path, method and status.
#[derive(Default)]
pub struct RequestCounts(Mutex<BTreeMap<(String, &'static str, u16), u64>>);

impl RequestCounts {
    /// `router`, whose requests are counted.
    pub fn counted(self: Arc<RequestCounts>, router: Router) -> Router {
        router.layer(from_fn_with_state(self, count))
    }

    pub fn write(&self, page: &mut Page) {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let series = counts.iter().map(|((path, method, status), count)| {
            (format!("path=\"{path}\",method=\"{method}\",status=\"{status}\""), *count)
        });
        let help = "HTTP requests that no reactor answers, if prometheus.instrument_http_handlers is on.";
        page.series("gannet_http_requests_total", help, "counter", series);
    }
}

async fn count(State(requests): State<Arc<RequestCounts>>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned();
    let given = request.method().as_str();
    let method = METHODS.into_iter().find(|method| *method == given).unwrap_or("other");
    let response = next.run(request).await;
    let mut counts = requests.0.lock().unwrap_or_else(PoisonError::into_inner);
    *counts.entry((path, method, response.status().as_u16())).or_default() += 1;
    response
}
