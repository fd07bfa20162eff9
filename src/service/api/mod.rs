//! F10 · The server API: what the application's backend asks of the node, by HTTP or gRPC.
//!
//! Owns the list of methods, each once: its name, its messages, its place in a batch. Each is a plain function from a
//! request to a result in `methods`; `http` and `grpc` carry the same messages there and back, `carrier` brings
//! those of consumers, and `counts` keeps the numbers. `openapi` describes it to programs.

mod carrier;
mod counts;
mod grpc;
mod http;
mod messages;
mod methods;
mod openapi;
mod reflection;

pub use carrier::{Carried, Carrier, ConsumedPublication};
pub use counts::Calls;
pub use grpc::{GrpcResponse, GrpcService, PortCall, PortService, UnderWay, serve as serve_grpc};
pub use http::{keyless, router};
pub use messages::{ChannelInfo, ChannelsRequest, ChannelsResult};
pub use openapi::document as openapi;

use super::node::{Node, Unavailable};
use super::{request_id, sums};
use crate::session::Rules;
use crate::spans::{self, Span};
use counts::Via;
use futures_util::{StreamExt, stream};
use grpc::{GrpcCall, GrpcRequest};
use messages::*;
use prost::Message;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Instant;

/// Parts of one call that are carried out at the same time: channels of a broadcast, commands of a parallel batch.
const CONCURRENT: usize = 1024;

/// An error as the API names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApiError {
    code: u32,
    message: &'static str,
    /// What of the request it is about, for the log; "" = it says enough.
    field: &'static str,
}

const INTERNAL: ApiError = ApiError { code: 100, message: "internal server error", field: "" };
const UNKNOWN_CHANNEL: ApiError = ApiError { code: 102, message: "unknown channel", field: "" };
const NOT_FOUND: ApiError = ApiError { code: 104, message: "not found", field: "" };
const BAD_REQUEST: ApiError = ApiError { code: 107, message: "bad request", field: "" };
/// A field that cannot be what it is.
const fn bad(field: &'static str) -> ApiError {
    ApiError { field, ..BAD_REQUEST }
}

const NOT_AVAILABLE: ApiError = ApiError { code: 108, message: "not available", field: "" };
const LIMIT_EXCEEDED: ApiError = ApiError { code: 106, message: "limit exceeded", field: "" };
const UNRECOVERABLE: ApiError = ApiError { code: 112, message: "unrecoverable position", field: "" };

/// Why a method came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MethodError {
    Said(ApiError),
    /// The node takes no more: worth trying again.
    Busy,
}

impl MethodError {
    /// As it is said within an answer.
    fn error(self) -> ApiError {
        match self {
            MethodError::Said(error) => error,
            MethodError::Busy => INTERNAL,
        }
    }
}

impl From<ApiError> for MethodError {
    fn from(error: ApiError) -> MethodError {
        MethodError::Said(error)
    }
}

impl From<Unavailable> for MethodError {
    fn from(why: Unavailable) -> MethodError {
        match why {
            Unavailable::Busy => MethodError::Busy,
            Unavailable::Silent => MethodError::Said(INTERNAL),
            Unavailable::TooLong => MethodError::Said(LIMIT_EXCEEDED),
        }
    }
}

impl From<ApiError> for Error {
    fn from(error: ApiError) -> Error {
        Error { code: error.code, message: error.message.to_owned() }
    }
}

/// A method, by its request.
trait Method: Message + Default {
    type Result: Message + Default + std::fmt::Debug;
    const NAME: &'static str;

    fn run(self, api: &Api) -> impl Future<Output = Result<Self::Result, MethodError>> + Send;
}

/// The node, what it serves by, and by which way it is asked.
#[derive(Clone)]
pub struct Api {
    node: Arc<Node>,
    rules: Arc<Rules>,
    calls: Arc<Calls>,
    via: Via,
    /// Data in its requests was read out of JSON, and so is JSON, unless it came as base64.
    has_json: bool,
}

impl Api {
    /// Carries out a method, and counts it.
    async fn call<Q: Method>(&self, request: Q) -> Result<Q::Result, MethodError> {
        let span = self.span(Q::NAME);
        let outcome = span.carry(self.counted(request)).await;
        if let Err(failure) = &outcome {
            let ApiError { code, message, .. } = failure.error();
            span.count("gannet.error_code", code.into());
            span.fail(message);
        }
        outcome
    }

    fn span(&self, name: &'static str) -> Span {
        let span = Span::of_method(name, self.via != Via::Consumer);
        span.note("gannet.protocol", self.via.name());
        span
    }

    async fn counted<Q: Method>(&self, request: Q) -> Result<Q::Result, MethodError> {
        let began = Instant::now();
        let outcome = request.run(self).await;
        let took = began.elapsed();
        self.calls.took(self.via, Q::NAME, took);
        if let Err(failure) = &outcome {
            self.calls.failed(self.via, Q::NAME, failure.error().code);
            tell_bad(Q::NAME, failure.error());
        }
        if tracing::enabled!(tracing::Level::DEBUG) {
            let (request_id, trace_id, us) = (request_id::current(), spans::trace_id(), took.as_micros() as u64);
            let (request_id, trace_id) = (request_id.as_deref(), trace_id.as_deref());
            let code = outcome.as_ref().err().map_or(0, |failure| failure.error().code);
            tracing::debug!(method = Q::NAME, code, us, request_id, trace_id, "a call of the server API");
        }
        outcome
    }
}

/// A line for what the backend must mend: its error says no more than that the request is bad.
fn tell_bad(method: &'static str, error: ApiError) {
    let ApiError { code, field, .. } = error;
    let (request_id, trace_id) = (request_id::current(), spans::trace_id());
    if !field.is_empty() {
        let advice = "a call of the server API has a field that cannot be what it is: the backend must mend it";
        let write = move |count| {
            let (request_id, trace_id) = (request_id.as_deref(), trace_id.as_deref());
            tracing::warn!(method, field, code, count, request_id, trace_id, "{advice}");
        };
        sums::add(&format!("API {method} {field}"), 1, write);
    } else if code == INTERNAL.code {
        let advice = "a call of the server API came to nothing: a reactor, the engine or the backend did not answer";
        let write = move |count| {
            let (request_id, trace_id) = (request_id.as_deref(), trace_id.as_deref());
            tracing::warn!(method, code, count, request_id, trace_id, "{advice}");
        };
        sums::add(&format!("API {method}"), 1, write);
    }
}

/// Makes, for each method, all that is not what it does: `name = place in a batch, gRPC name, request, result;`.
macro_rules! methods {
    ($($field:ident = $tag:tt, $grpc:literal, $request:ident, $result:ident;)*) => {
        $(impl Method for $request {
            type Result = $result;
            const NAME: &'static str = stringify!($field);

            fn run(self, api: &Api) -> impl Future<Output = Result<$result, MethodError>> + Send {
                methods::$field(api, self)
            }
        })*

        /// One call in a batch.
        #[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
        #[serde(default)]
        struct Command {$(
            #[prost(message, optional, tag = $tag)]
            #[serde(deserialize_with = "crate::protocol::object", skip_serializing_if = "Option::is_none")]
            $field: Option<$request>,
        )*}

        /// Its answer: a result under the method's name, or an error.
        #[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
        #[serde(default)]
        struct Reply {
            #[prost(message, optional, tag = "2")]
            #[serde(skip_serializing_if = "Option::is_none")]
            error: Option<Error>,
            $(
                #[prost(message, optional, tag = $tag)]
                #[serde(skip_serializing_if = "Option::is_none")]
                $field: Option<$result>,
            )*
        }

        impl Command {
            async fn run(self, api: &Api) -> Reply {
                let failed = |error: ApiError| Reply { error: Some(error.into()), ..Reply::default() };
                $(if let Some(request) = self.$field {
                    return match api.call(request).await {
                        Ok(result) => Reply { $field: Some(result), ..Reply::default() },
                        Err(failure) => failed(failure.error()),
                    };
                })*
                failed(NOT_FOUND)
            }
        }

        impl Command {
            /// From a method's name and the text of its request; `None` if there is no such method.
            fn named(method: &str, params: &str) -> Option<serde_json::Result<Command>> {
                match method {
                    $(stringify!($field) => Some(http::read(params.as_bytes()).map(|request| {
                        Command { $field: Some(request), ..Command::default() }
                    })),)*
                    _ => None,
                }
            }
        }

        impl Reply {
            /// Its result, whichever it is, as JSON.
            fn result(&self) -> serde_json::Result<Box<serde_json::value::RawValue>> {
                $(if let Some(result) = &self.$field {
                    return serde_json::value::to_raw_value(result);
                })*
                serde_json::value::to_raw_value(&Empty {})
            }
        }

        /// Each method with the names of its request and its result.
        fn described() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
            [$((stringify!($field), stringify!($request), stringify!($result))),*].into_iter()
        }

        /// Each method by its name in gRPC, with the name of its request.
        fn grpc_methods() -> impl Iterator<Item = (&'static str, &'static str)> {
            [$(($grpc, stringify!($request))),*].into_iter()
        }

        /// The messages of a batch, for who describes them.
        fn batch_shapes() -> impl Iterator<Item = Shape<'static>> {
            let shape = |name, fields| Shape { name, fields };
            [
                shape("Command", &[$((stringify!($field), concat!("message, tag = \"", $tag, "\""), stringify!($request))),*]),
                shape("Reply", &[
                    ("error", "message, tag = \"2\"", "Error"),
                    $((stringify!($field), concat!("message, tag = \"", $tag, "\""), concat!($grpc, "Result"))),*
                ]),
                shape("BatchRequest", &[
                    ("commands", "message, repeated, tag = \"1\"", "Command"),
                    ("parallel", "bool, tag = \"2\"", "bool"),
                ]),
                shape("BatchResponse", &[("replies", "message, repeated, tag = \"1\"", "Reply")]),
            ].into_iter()
        }

        /// The method that gRPC calls so; what there is not is counted under a name of its own.
        fn method_name(grpc: &str) -> &'static str {
            match grpc {
                $($grpc => stringify!($field),)*
                "Batch" => BATCH,
                _ => "unknown",
            }
        }

        /// Carries out the gRPC call of that name.
        async fn grpc_call(call: &GrpcCall<'_>, name: &str, request: GrpcRequest) -> Option<GrpcResponse> {
            Some(match name {
                $($grpc => call.unary::<$request>(request).await,)*
                "Batch" => call.batch(request).await,
                _ => return None,
            })
        }

        /// A path for each method. They are not nested: that would rewrite each request's path.
        fn routes(prefix: &str, served: &http::Served) -> axum::Router {
            axum::Router::new()
                $(.route(&format!("{prefix}/{}", stringify!($field)), http::method::<$request>(served)))*
        }
    };
}

/// Several calls in one.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(default)]
struct BatchRequest {
    #[prost(message, repeated, tag = "1")]
    #[serde(with = "messages::list")]
    commands: Vec<Command>,
    /// All at the same time, and not each after the one before.
    #[prost(bool, tag = "2")]
    parallel: bool,
}

/// In the order of the commands.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(default)]
struct BatchResponse {
    #[prost(message, repeated, tag = "1")]
    replies: Vec<Reply>,
}

const BATCH: &str = "batch";

impl Api {
    async fn batch(&self, request: BatchRequest) -> BatchResponse {
        let began = Instant::now();
        let concurrent = if request.parallel { CONCURRENT } else { 1 };
        let commands = stream::iter(request.commands);
        let span = self.span(BATCH);
        let replies = span.carry(commands.map(|command| command.run(self)).buffered(concurrent).collect()).await;
        self.calls.took(self.via, BATCH, began.elapsed());
        BatchResponse { replies }
    }
}

methods! {
    publish = "4", "Publish", PublishRequest, PublishResult;
    broadcast = "5", "Broadcast", BroadcastRequest, BroadcastResult;
    subscribe = "6", "Subscribe", SubscribeRequest, Empty;
    unsubscribe = "7", "Unsubscribe", UnsubscribeRequest, Empty;
    disconnect = "8", "Disconnect", DisconnectRequest, Empty;
    presence = "9", "Presence", PresenceRequest, PresenceResult;
    presence_stats = "10", "PresenceStats", PresenceStatsRequest, PresenceStatsResult;
    history = "11", "History", HistoryRequest, HistoryResult;
    history_remove = "12", "HistoryRemove", HistoryRemoveRequest, Empty;
    info = "13", "Info", InfoRequest, InfoResult;
    rpc = "14", "RPC", RpcRequest, RpcResult;
    refresh = "15", "Refresh", RefreshRequest, Empty;
    channels = "16", "Channels", ChannelsRequest, ChannelsResult;
    inbox_info = "1001", "InboxInfo", InboxInfoRequest, InboxInfoResult;
    inbox_ack = "1002", "InboxAck", InboxAckRequest, Empty;
    inbox_clear = "1003", "InboxClear", InboxClearRequest, InboxClearResult;
}
