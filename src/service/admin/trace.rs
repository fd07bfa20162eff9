//! F10 · What an operator watches as it comes, as the page fetches it.

use super::Desk;
use crate::shard::{TraceLimits, TraceMessage, TraceRequest, Traced};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Watched {
    /// The page's own: what it has fetched is not shown to it again.
    id: u64,
    channel: String,
    user: String,
}

#[derive(Serialize)]
struct Line<'a> {
    at_ms: u64,
    kind: &'static str,
    channel: &'a str,
    user: &'a str,
    client: &'a str,
    offset: u64,
    code: u16,
    size: usize,
    data: Cow<'a, str>,
}

#[derive(Serialize)]
struct Lines<'a> {
    messages: Vec<Line<'a>>,
    skipped: u64,
}

impl<'a> Line<'a> {
    fn of(message: &'a TraceMessage) -> Line<'a> {
        let TraceMessage { unix_ms, kind, channel, user, client, offset, code, size, data } = message;
        let data = String::from_utf8_lossy(data);
        Line { at_ms: *unix_ms, kind, channel, user, client, offset: *offset, code: *code, size: *size, data }
    }
}

/// What came in a channel, or of a user, since this page asked last.
pub(super) async fn trace(State(desk): State<Desk>, Query(watched): Query<Watched>) -> Response {
    let what = match watched {
        Watched { channel, user, .. } if user.is_empty() && !channel.is_empty() => Traced::Channel(channel),
        Watched { channel, user, .. } if channel.is_empty() && !user.is_empty() => Traced::User(user),
        _ => return (StatusCode::BAD_REQUEST, "name a channel, or a user\n").into_response(),
    };
    let options = &desk.options;
    let (traces, rate, data) = (options.trace_limit, options.trace_rate_limit, options.trace_data_size);
    let limits = TraceLimits { traces, rate, data };
    match desk.operator.node.trace(TraceRequest { id: watched.id, what, limits }).await {
        Ok(Some(found)) => {
            let messages = found.messages.iter().map(Line::of).collect();
            axum::Json(Lines { messages, skipped: found.skipped }).into_response()
        }
        Ok(None) => (StatusCode::SERVICE_UNAVAILABLE, "there are as many traces as may be (admin.trace_limit)\n")
            .into_response(),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "a reactor does not answer\n").into_response(),
    }
}
