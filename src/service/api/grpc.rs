//! F10 · The server API by gRPC: Centrifugo's `centrifugal.centrifugo.api.CentrifugoApi`, on a port of its own.
//!
//! Owns the connections of such ports with their limits, the key in the metadata and the form of errors. The
//! service is written out here and not generated: a path, a decoder, the method, an encoder.

use super::counts::Via;
use super::http::scheme_key;
use super::messages::Response as Answer;
use super::reflection::Reflection;
use super::{Api, ApiError, BatchRequest, Calls, Method, MethodError, grpc_call, method_name};
use crate::certificates::Certificates;
use crate::config::{GrpcApi, TlsPort};
use crate::service::connection::Connection;
use crate::service::line;
use crate::service::node::Node;
use crate::service::request_id;
use crate::service::{ConnectionPermit, PortRoom, accept_failed};
use crate::session::Settings;
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message;
use std::convert::Infallible;
use std::io::Cursor;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};
use subtle::ConstantTimeEq;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio_io_timeout::TimeoutWriter;
use tonic::metadata::MetadataMap;
use tonic::server::{Grpc, UnaryService};
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

const SERVICE: &str = "/centrifugal.centrifugo.api.CentrifugoApi/";
/// The first bytes of a client that speaks HTTP/2 (RFC 9113 section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Calls at the same time on one connection.
const STREAMS_MAX: u32 = 256;
/// Bytes of a call's head.
const HEAD_MAX: u32 = 16 << 10;
/// Calls with a missing or wrong key that one connection may make.
const KEYS_WRONG_MAX: u32 = 32;
/// Streams of a connection that its peer may reset before they are looked at, and those that may end for the peer's
/// own fault.
const RESETS_MAX: (usize, usize) = (20, 100);
/// How long a connection that is to end may go on.
const END_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a call may take, its request's arrival with it.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// A peer that is silent is asked whether it lives, and has so long to answer.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));

pub(super) type GrpcRequest = hyper::Request<Incoming>;
pub type GrpcResponse = hyper::Response<tonic::body::Body>;

/// What answers the calls that come to a port.
pub trait PortService: Clone + Send + Sync + 'static {
    /// For the log.
    const PORT: &'static str;
    /// Whose certificates it shows.
    const TLS: TlsPort;
    /// Calls go on for as long as they like: no connection ends under one for want of room.
    const LASTING: bool;

    /// Calls at the same time on one connection.
    fn streams_max(&self) -> u32;

    fn answer(&self, call: PortCall) -> impl Future<Output = GrpcResponse> + Send;
}

/// A call as it comes.
pub struct PortCall {
    pub request: GrpcRequest,
    pub peer: IpAddr,
    /// Of its connection.
    wrong_keys: Arc<WrongKeys>,
    /// To be kept for as long as the call goes on.
    pub under_way: UnderWay,
}

/// All that a call needs.
#[derive(Clone)]
pub struct GrpcService {
    node: Arc<Node>,
    calls: Arc<Calls>,
    settings: watch::Receiver<Arc<Settings>>,
    reflection: Reflection,
}

impl GrpcService {
    pub fn new(node: Arc<Node>, calls: Arc<Calls>, settings: watch::Receiver<Arc<Settings>>) -> GrpcService {
        GrpcService { node, calls, settings, reflection: Reflection::new() }
    }

    async fn carry_out(&self, request: GrpcRequest, wrong_keys: &WrongKeys) -> GrpcResponse {
        // A call is served by one configuration to its end, and the next one by the next.
        let settings = self.settings.borrow().clone();
        let options = &settings.config.grpc_api;
        if options.reflection && Reflection::is_asked(&request) {
            return self.reflection.answer(request).await;
        }
        let (node, calls) = (self.node.clone(), self.calls.clone());
        let api = Api { node, rules: settings.rules.clone(), calls, via: Via::Grpc, has_json: false };
        let name = request.uri().path().strip_prefix(SERVICE).unwrap_or_default().to_owned();
        let transport = options.error_mode == "transport";
        let metadata = MetadataMap::from_headers(request.headers().clone());
        if !options.insecure && !has_key(&options.key, &metadata) {
            let why = if options.key.is_empty() { "grpc_api.key is not set" } else { "the key is missing or wrong" };
            self.calls.failed(Via::Grpc, method_name(&name), Code::Unauthenticated as u32);
            wrong_keys.add();
            return Status::unauthenticated(why).into_http();
        }
        let call = GrpcCall { api: &api, options, transport, reached: AtomicBool::new(false) };
        let answered = tokio::time::timeout(CALL_TIMEOUT, grpc_call(&call, &name, request)).await;
        let response = match answered {
            Ok(Some(response)) => response,
            Ok(None) => Status::unimplemented("there is no such method").into_http(),
            Err(_) => {
                // It was cut off before it could be counted.
                call.reached.store(false, Ordering::Relaxed);
                Status::deadline_exceeded("the call took too long").into_http()
            }
        };
        self.count(&call, &name, &response);
        response
    }

    /// Counts what failed without its method being carried out.
    fn count(&self, call: &GrpcCall<'_>, name: &str, response: &GrpcResponse) {
        if let Some(status) = Status::from_header_map(response.headers())
            && !call.reached.load(Ordering::Relaxed)
        {
            self.calls.failed(Via::Grpc, method_name(name), status.code() as u32);
        }
    }
}

impl PortService for GrpcService {
    const PORT: &'static str = "gRPC API";
    const TLS: TlsPort = TlsPort::Grpc;
    const LASTING: bool = false;

    fn streams_max(&self) -> u32 {
        STREAMS_MAX
    }

    async fn answer(&self, call: PortCall) -> GrpcResponse {
        let _under_way = call.under_way;
        let headers = call.request.headers().clone();
        request_id::within(&headers, self.carry_out(call.request, &call.wrong_keys)).await
    }
}

/// How often a connection's calls had no key, or a wrong one.
#[derive(Default)]
struct WrongKeys {
    count: AtomicU32,
    enough: Notify,
}

impl WrongKeys {
    fn add(&self) {
        if self.count.fetch_add(1, Ordering::Relaxed) + 1 == KEYS_WRONG_MAX {
            self.enough.notify_one();
        }
    }
}

/// A call that is counted among those under way.
pub struct UnderWay(Arc<AtomicU32>);

impl UnderWay {
    fn begin(calls: &Arc<AtomicU32>) -> UnderWay {
        calls.fetch_add(1, Ordering::Relaxed);
        UnderWay(calls.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// `authorization: apikey KEY`, compared in constant time. An empty key fits nothing.
fn has_key(key: &str, metadata: &MetadataMap) -> bool {
    let given = metadata.get("authorization").and_then(|value| value.to_str().ok()).and_then(scheme_key);
    !key.is_empty() && given.is_some_and(|given| given.as_bytes().ct_eq(key.as_bytes()).into())
}

/// One call on its way.
pub(super) struct GrpcCall<'a> {
    api: &'a Api,
    options: &'a GrpcApi,
    /// Errors become the call's status.
    transport: bool,
    /// Its method was carried out, and counted.
    reached: AtomicBool,
}

type Answering<'a, A> = Pin<Box<dyn Future<Output = Result<tonic::Response<A>, Status>> + Send + 'a>>;

/// Some method of one call, as tonic wants it.
struct Unary<F>(F);

impl<'a, Q, A, F> UnaryService<Q> for Unary<F>
where
    A: Message + Default + 'static,
    F: FnMut(Q) -> Answering<'a, A>,
{
    type Response = A;
    type Future = Answering<'a, A>;

    fn call(&mut self, request: tonic::Request<Q>) -> Self::Future {
        (self.0)(request.into_inner())
    }
}

impl<'a> GrpcCall<'a> {
    fn codec<A: Message + Default + 'static, Q: Message + Default + 'static>(&self) -> Grpc<ProstCodec<A, Q>> {
        Grpc::new(ProstCodec::default())
            .max_decoding_message_size(self.options.max_receive_message_size)
            .max_encoding_message_size(usize::MAX)
    }

    pub(super) async fn unary<Q: Method + 'static>(&'a self, request: GrpcRequest) -> GrpcResponse {
        let run = |request: Q| -> Answering<'a, Answer<Q::Result>> {
            self.reached.store(true, Ordering::Relaxed);
            Box::pin(async move {
                let answer = match self.api.call(request).await {
                    Err(MethodError::Busy) => return Err(Status::unavailable("the node takes no more: try again")),
                    Err(MethodError::Said(error)) if self.transport => return Err(status(error)),
                    outcome => Answer::of(outcome.map_err(|failure| failure.error().into())),
                };
                Ok(tonic::Response::new(answer))
            })
        };
        self.codec().unary(Unary(run), request).await
    }

    /// Its errors are within its replies.
    pub(super) async fn batch(&'a self, request: GrpcRequest) -> GrpcResponse {
        let run = |request: BatchRequest| -> Answering<'a, super::BatchResponse> {
            self.reached.store(true, Ordering::Relaxed);
            Box::pin(async move { Ok(tonic::Response::new(self.api.batch(request).await)) })
        };
        self.codec().unary(Unary(run), request).await
    }
}

/// The status of an error, for who wants to see it there.
fn status(error: ApiError) -> Status {
    let code = match error.code {
        102 | 104 => Code::NotFound,
        107 | 108 => Code::InvalidArgument,
        112 => Code::OutOfRange,
        113 => Code::AlreadyExists,
        _ => Code::Internal,
    };
    Status::new(code, error.message)
}

/// Serves until the process ends; from `draining` on nobody is let in, and who is here finishes its calls.
pub async fn serve<S: PortService>(
    listener: TcpListener,
    service: S,
    room: Arc<PortRoom>,
    certificates: Arc<Certificates>,
    preface_timeout: Duration,
    mut draining: watch::Receiver<bool>,
) {
    loop {
        // A place first: connections beyond the limit wait in the kernel's queue.
        let permit = tokio::select! {
            permit = room.wait() => permit,
            () = begun(&mut draining) => return,
        };
        let Some(permit) = permit else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = begun(&mut draining) => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (service, draining) = (service.clone(), draining.clone());
                let tls = certificates.of(S::TLS);
                tokio::spawn(async move {
                    match Connection::accepted(stream, tls, preface_timeout, permit.handshake()).await {
                        Ok(stream) => serve_one((stream, peer.ip()), service, preface_timeout, draining, &permit).await,
                        Err(error) => tracing::debug!(%error, port = S::PORT, "a TLS handshake failed"),
                    }
                });
            }
            Err(error) => {
                accept_failed(S::PORT, error).await;
            }
        }
    }
}

/// Ends when the drain begins, or when nobody can tell any more.
async fn begun(draining: &mut watch::Receiver<bool>) {
    let _ = draining.wait_for(|begun| *begun).await;
}

async fn serve_one<S: PortService>(
    (stream, peer): (Connection, IpAddr),
    service: S,
    preface_timeout: Duration,
    mut draining: watch::Receiver<bool>,
    permit: &ConnectionPermit,
) {
    let (mut reader, writer) = line::whole(Arc::new(stream));
    let mut preface = [0; PREFACE.len()];
    let read = tokio::time::timeout(preface_timeout, reader.read_exact(&mut preface)).await;
    if !matches!(read, Ok(Ok(_))) || preface != *PREFACE {
        return;
    }
    // Who asks and does not read what it gets must not keep its place.
    let mut writer = TimeoutWriter::new(writer);
    writer.set_timeout(Some(preface_timeout));
    let preface = Cursor::new(Bytes::copy_from_slice(&preface));
    let io = TokioIo::new(tokio::io::join(preface.chain(reader), Box::pin(writer)));
    let wrong_keys = Arc::new(WrongKeys::default());
    let counted = wrong_keys.clone();
    let calls = Arc::new(AtomicU32::new(0));
    let begun_calls = calls.clone();
    let streams_max = service.streams_max();
    let answer = hyper::service::service_fn(move |request| {
        let (service, wrong_keys) = (service.clone(), counted.clone());
        let call = PortCall { request, peer, wrong_keys, under_way: UnderWay::begin(&begun_calls) };
        async move { Ok::<_, Infallible>(service.answer(call).await) }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(streams_max)
        .max_header_list_size(HEAD_MAX)
        .max_pending_accept_reset_streams(RESETS_MAX.0)
        .max_local_error_reset_streams(RESETS_MAX.1)
        .keep_alive_interval(KEEP_ALIVE.0)
        .keep_alive_timeout(KEEP_ALIVE.1)
        .serve_connection(io, answer);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = begun(&mut draining) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = spare(permit, S::LASTING, &calls) => {
            connection.as_mut().graceful_shutdown();
            end(connection, &calls).await
        }
        () = wrong_keys.enough.notified() => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(END_TIMEOUT, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "gRPC connection ended");
    }
}

/// Ends when the connection is to make room.
async fn spare(permit: &ConnectionPermit, lasting: bool, calls: &AtomicU32) {
    permit.shortage().await;
    while lasting && calls.load(Ordering::Relaxed) > 0 {
        tokio::time::sleep(END_TIMEOUT).await;
    }
}

/// Waits for the end of a connection that was told to end, and whose peer may not care: `calls` that are under way may
/// take their time, and the rest has a little.
async fn end<C: Future<Output = hyper::Result<()>>>(mut connection: Pin<&mut C>, calls: &AtomicU32) -> C::Output {
    let until = Instant::now() + CALL_TIMEOUT;
    loop {
        match tokio::time::timeout(END_TIMEOUT, connection.as_mut()).await {
            Ok(ended) => return ended,
            Err(_) if calls.load(Ordering::Relaxed) == 0 || Instant::now() > until => return Ok(()),
            Err(_) => {}
        }
    }
}
