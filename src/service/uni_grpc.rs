//! F10 · Clients that listen by a call of gRPC: Centrifugo's `centrifugal.centrifugo.unistream.CentrifugoUniStream`.
//!
//! Owns a call from its request to its end. Its client is a session in a reactor like any other, with the same limits:
//! of a pair of sockets, one is the reactor's connection, and what comes out of the other is the answer, byte by byte.
//! So a client that does not read fills its socket, and is judged by the reactor. Never knows what is in a push.

use super::api::{GrpcResponse, PortCall, PortService, UnderWay};
use super::arriving::{Arriving, InputRoom};
use crate::admission::{Admission, Entry};
use crate::base::mailbox::Sender;
use crate::config::{Config, TlsPort};
use crate::protocol::ConnectRequest;
use crate::reactor::{Detached, Returned};
use crate::session::Settings;
use crate::turn::Bounds;
use crate::turn::request::{Introduction, Spoken, StreamRequest};
use crate::wire::Wire;
use axum::http::{HeaderMap, HeaderValue, header};
use bytes::Bytes;
use http_body::{Body, Frame};
use hyper::body::Incoming;
use prost::Message;
use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::watch::Receiver;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::codec::{Codec, Streaming};
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

const CONSUME: &str = "/centrifugal.centrifugo.unistream.CentrifugoUniStream/Consume";
/// How long a call's request may take to arrive.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Calls of one connection that may be about to be refused.
const REFUSED_MAX: usize = 64;
/// Bytes passed on at once.
const CHUNK: usize = 16 << 10;

/// The calls that may be served at once.
pub struct CallRoom {
    free: Arc<Semaphore>,
    size: usize,
    refused: AtomicU64,
    /// What their requests hold until they are whole.
    input: Arc<InputRoom>,
}

impl CallRoom {
    pub fn new(size: usize) -> Arc<CallRoom> {
        let (free, input) = (Arc::new(Semaphore::new(size)), Arc::default());
        Arc::new(CallRoom { free, size, refused: AtomicU64::new(0), input })
    }

    fn take(&self) -> Option<OwnedSemaphorePermit> {
        let place = self.free.clone().try_acquire_owned().ok();
        self.refused.fetch_add(u64::from(place.is_none()), Ordering::Relaxed);
        place
    }

    /// Calls that are served.
    pub fn taken(&self) -> usize {
        self.size - self.free.available_permits()
    }

    pub fn size(&self) -> usize {
        self.size
    }

    pub fn input(&self) -> &InputRoom {
        &self.input
    }

    /// Calls refused for want of room.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

/// All that a call needs.
#[derive(Clone)]
pub struct UniGrpcService {
    pub settings: Receiver<Arc<Settings>>,
    pub admission: Arc<Admission>,
    pub room: Arc<CallRoom>,
    /// Reactors, which get clients in turn.
    pub reactors: Arc<[Sender<Returned>]>,
    pub next: Arc<AtomicUsize>,
}

impl PortService for UniGrpcService {
    const PORT: &'static str = "unidirectional gRPC";
    const TLS: TlsPort = TlsPort::UniGrpc;
    const LASTING: bool = true;

    fn streams_max(&self) -> u32 {
        // Beyond its room a call is refused, and does not wait without a word.
        u32::try_from(self.room.size() + REFUSED_MAX).unwrap_or(u32::MAX)
    }

    async fn answer(&self, call: PortCall) -> GrpcResponse {
        self.consume(call).await.unwrap_or_else(Status::into_http)
    }
}

impl UniGrpcService {
    async fn consume(&self, call: PortCall) -> Result<GrpcResponse, Status> {
        let PortCall { request, peer, under_way, .. } = call;
        if request.uri().path() != CONSUME {
            return Err(Status::unimplemented("there is no such method"));
        }
        let config = self.settings.borrow().config.clone();
        let (head, body) = request.into_parts();
        let full = |why: &str| Status::resource_exhausted(why);
        let place = self.room.take().ok_or_else(|| full("too many calls: uni_grpc.stream_limit"))?;
        let message_max = config.uni_grpc.max_receive_message_size;
        // Like another reactor.
        let most = Bounds::of_each(&config, self.reactors.len()).held_bytes;
        let body = Arriving::new(body, self.room.input.clone(), most, message_max);
        let wish = connect_request(body, message_max);
        let wish = tokio::time::timeout(REQUEST_TIMEOUT, wish).await;
        let wish = wish.unwrap_or_else(|_| Err(Status::deadline_exceeded("the request did not arrive in time")))?;
        let key = self.admission.enter(peer).map_err(|_| full("too many connections"))?;
        let entry = Entry::new(self.admission.clone(), key);
        let broken = |error: io::Error| full(&format!("no sockets: {error}"));
        let (near, far) = StdUnixStream::pair().map_err(broken)?;
        near.set_nonblocking(true).and_then(|()| far.set_nonblocking(true)).map_err(broken)?;
        let stream = UnixStream::from_std(far).map_err(broken)?;
        let at = self.next.fetch_add(1, Ordering::Relaxed) % self.reactors.len().max(1);
        let reactor = self.reactors.get(at).ok_or_else(|| Status::unavailable("there is no reactor"))?;
        let request = StreamRequest {
            wire: Wire::UniGrpc,
            head: Bytes::new(),
            said: Spoken::Query(Vec::new()),
            body_max: 0,
            expects: false,
            waits: false,
            lines: Box::default(),
            introduction: Introduction { headers: forwarded(&head.headers, &config), ..Introduction::default() },
        };
        let Some(ip_key) = entry.pass_on() else { return Err(full("too many connections")) };
        reactor.send(Returned {
            // A stream of bytes like any other, to whoever reads and writes it.
            socket: Detached { stream: TcpStream::from(OwnedFd::from(near)), tunnel: None },
            bytes: wish.encode_to_vec().into(),
            ip_key,
            call: Some(Box::new(request)),
        });
        let mut pushes = Pushes { stream, ended: false, first: None, _place: place, _under_way: under_way };
        let first = std::future::poll_fn(|turn| pushes.read(turn)).await.map_err(broken)?;
        if first.is_empty() {
            return Err(Status::unavailable("this node takes no more clients now"));
        }
        pushes.first = Some(first);
        let mut response = hyper::Response::new(tonic::body::Body::new(pushes));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        Ok(response)
    }
}

/// The one message of a call's request.
async fn connect_request(body: Arriving<Incoming>, size_max: usize) -> Result<ConnectRequest, Status> {
    let decoder = ProstCodec::<ConnectRequest, ConnectRequest>::default().decoder();
    let mut messages = Streaming::new_request(decoder, body, None, Some(size_max));
    let message = messages.message().await?;
    message.ok_or_else(|| Status::new(Code::InvalidArgument, "a call has one message, how to connect"))
}

/// Lines `name: value` of the metadata that the backend is told of. Each byte of a value is a character.
fn forwarded(metadata: &HeaderMap, config: &Config) -> Box<str> {
    let mut text = String::new();
    for name in config.forwarded_metadata() {
        for value in metadata.get_all(&name) {
            text.extend([&name, ": "]);
            text.extend(value.as_bytes().iter().copied().map(char::from));
            text.push('\n');
        }
    }
    text.into()
}

/// What a client is sent: messages of gRPC, as its reactor writes them.
struct Pushes {
    stream: UnixStream,
    first: Option<Bytes>,
    ended: bool,
    _place: OwnedSemaphorePermit,
    _under_way: UnderWay,
}

impl Pushes {
    /// More of them; nothing at the end.
    fn read(&mut self, turn: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        // Nothing of a client's own is kept while it waits.
        let mut chunk = [0; CHUNK];
        loop {
            ready!(self.stream.poll_read_ready(turn))?;
            match self.stream.try_read(&mut chunk) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read.map(|size| Bytes::copy_from_slice(&chunk[..size]))),
            }
        }
    }
}

impl Body for Pushes {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, turn: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        let bytes = ready!(self.read(turn))?;
        if !bytes.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        self.ended = true;
        // A disconnect push has said why.
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }
}
