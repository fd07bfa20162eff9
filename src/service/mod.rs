//! F10 · The service thread: tokio, for everything that is not a long connection.
//!
//! Owns the HTTP side: sockets that reactors hand off (their request was no client's), the second port if there is
//! one, the server API, health, metrics, the chat page, and the commands of clients whose connection goes one way; what
//! the node asks of others: the application's backend, key sets, hooks; and the node's memory watch. Knows reactors
//! only by their mailboxes: a slow request here delays no client but those that wait for it.

mod admin;
mod api;
mod arriving;
mod autocert;
mod backend;
mod certificates;
mod connection;
mod emulation;
mod fetch;
mod fleet;
mod guard;
mod hooks;
mod init;
mod jwks;
mod line;
mod node;
mod pages;
mod request_id;
mod requests;
mod room;
mod seats;
mod source;
mod sums;
#[cfg(test)]
mod testing;
mod tls;
mod uni_grpc;
mod watch;

pub use api::{Calls, Carried, Carrier, ConsumedPublication};
pub use backend::{Backend, BackendLink, descriptors, tls_faults};
pub use fetch::{FetchError, Http, post};
pub use hooks::HookLink;
pub use node::{Node, NodeInfo, Replies};
pub use room::{ConnectionPermit, PortRoom};
pub use sums::add as add_to_sum;
pub use tls::client_config as client_tls;
pub use tls::with_authority as tls_config;
pub use uni_grpc::CallRoom;

use crate::admission::{Admission, Entry};
use crate::archive::ArchiveCounts;
use crate::base::mailbox::Sender;
use crate::certificates::Certificates;
use crate::config::TlsPort;
use crate::consumers::ConsumersCounts;
use crate::engine::board::PresenceQuestion;
use crate::engine::counts::EngineCounts;
use crate::kafka::log::LogCounts;
use crate::reactor::{Detached, Returned};
use crate::session::Settings;
use crate::session::backend::Call;
use crate::shard::Mail;
use crate::workers::Pool;
use axum::Router;
use bytes::Bytes;
use connection::Connection;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use line::ReactorPaths;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch::Receiver;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_io_timeout::TimeoutWriter;

/// A listener that gave no connection is asked again after this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A socket from a reactor, with the bytes it read, its place here, and the way back.
pub struct HandedOff {
    socket: Detached,
    bytes: Bytes,
    place: ConnectionPermit,
    back: Sender<Returned>,
}

/// What reactors call to hand a socket off.
#[derive(Clone)]
pub struct HandOff {
    sender: mpsc::UnboundedSender<HandedOff>,
    room: Arc<PortRoom>,
}

impl HandOff {
    /// Gives the socket to the service thread, or back if too many are there.
    /// `back`: to the reactor that it comes from.
    pub fn give(&self, socket: Detached, bytes: Bytes, entry: Entry, back: Sender<Returned>) -> Result<(), Detached> {
        let Some(place) = self.room.take(entry) else { return Err(socket) };
        self.sender.send(HandedOff { socket, bytes, place, back }).map_err(|refused| refused.0.socket)
    }
}

/// What the node asks of others, ready to run.
pub struct Outgoing {
    pub backend: Arc<Backend>,
    calls: mpsc::UnboundedReceiver<(Call, OwnedSemaphorePermit)>,
    hooks: Option<hooks::Hooks>,
    told: Arc<hooks::HookCounts>,
    /// Set if TLS will be used.
    tls: Option<Arc<fetch::Http>>,
}

/// The outgoing side, and the two ends by which reactors use it. The error is a sentence for the operator.
pub fn outgoing(
    settings: Arc<Settings>,
    reactors: Vec<Sender<Mail>>,
) -> Result<(Outgoing, BackendLink, HookLink), String> {
    let http = Arc::new(fetch::Http::default());
    let (hook, hooks, told) = hooks::hooks(&settings.config.hooks, http.clone())?;
    let needs_tls = backend::endpoints(&settings.config).any(|endpoint| endpoint.starts_with("https:"));
    let (backend, link, calls) = Backend::new(settings, http.clone(), reactors)?;
    let tls = needs_tls.then_some(http);
    Ok((Outgoing { backend, calls, hooks, told, tls }, link, hook))
}

/// The service, ready to run on a thread of its own.
pub struct Service {
    pub node: Arc<Node>,
    /// What it serves by; it follows each change.
    pub settings: Receiver<Arc<Settings>>,
    pub admission: Arc<Admission>,
    /// What its ports show.
    pub certificates: Arc<Certificates>,
    /// For its numbers.
    pub workers: Arc<Pool>,
    pub listeners: Listeners,
    /// Takes the sockets of those clients, each reactor its own.
    pub reactors: Vec<Sender<Returned>>,
    pub handed_off: mpsc::UnboundedReceiver<HandedOff>,
    pub replies: Replies,
    /// What other nodes say.
    pub control: mpsc::UnboundedReceiver<Bytes>,
    /// Who is present on all nodes: what an engine asks.
    pub questions: mpsc::UnboundedReceiver<PresenceQuestion>,
    /// Of each engine, by the name that its metrics have.
    pub engines: Vec<(&'static str, Arc<EngineCounts>)>,
    /// Of the log of publications.
    pub kafka_log: Arc<LogCounts>,
    /// Of the archive, if there is one.
    pub archive: Option<Arc<ArchiveCounts>>,
    pub outgoing: Outgoing,
    pub rooms: Rooms,
    /// Calls of the API, and what consumers do.
    pub calls: Arc<Calls>,
    pub consumers: ConsumersCounts,
    /// Lines that the log dropped so far.
    pub log_dropped: Arc<dyn Fn() -> usize + Send + Sync>,
}

/// The ports that are this thread's own, each if it is on.
pub struct Listeners {
    /// The second port.
    pub internal: Option<std::net::TcpListener>,
    /// That of the gRPC API.
    pub grpc: Option<std::net::TcpListener>,
    /// That of clients who listen by gRPC.
    pub uni_grpc: Option<std::net::TcpListener>,
}

impl Listeners {
    /// Where they listen, in their order.
    pub fn addresses(&self) -> [Option<SocketAddr>; 3] {
        [&self.internal, &self.grpc, &self.uni_grpc].map(|port| port.as_ref()?.local_addr().ok())
    }
}

/// Connections that each port may have.
#[derive(Clone)]
pub struct Rooms {
    pub public: Arc<PortRoom>,
    pub internal: Arc<PortRoom>,
    pub grpc: Arc<PortRoom>,
    pub uni_grpc: Arc<PortRoom>,
    /// Calls of clients that listen by gRPC.
    pub calls: Arc<CallRoom>,
}

/// The two ends by which reactors reach the service.
pub fn hand_off(room: Arc<PortRoom>) -> (HandOff, mpsc::UnboundedReceiver<HandedOff>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (HandOff { sender, room }, receiver)
}

impl Service {
    /// Serves until the process ends.
    pub fn run(self) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.serve())
    }

    async fn serve(mut self) -> io::Result<()> {
        let config = self.settings.borrow().config.clone();
        let operator = pages::Operator::of(&self)?;
        let grpc = operator.grpc(self.settings.clone());
        let ports = Ports { node: self.node.clone(), operator, apart: self.listeners.internal.is_some() };
        let routers = ports.follow(self.settings.clone());
        tokio::spawn(self.replies.deliver(self.node.clone()));
        tokio::spawn(self.node.clone().send_letters());
        tokio::spawn(fleet::run(self.node.clone(), self.control));
        tokio::spawn(seats::run(self.node.clone(), self.settings.clone()));
        tokio::spawn(fleet::answer_questions(self.node.clone(), self.questions));
        tokio::spawn(self.outgoing.backend.run(self.outgoing.calls));
        if let Some(http) = self.outgoing.tls {
            tokio::spawn(http.prepare_tls());
        }
        if let Some(hooks) = self.outgoing.hooks {
            tokio::spawn(hooks.run());
        }
        tokio::spawn(watch::memory(self.settings.clone(), self.admission.clone()));
        tokio::spawn(watch::refusals(self.node.clone(), self.workers.clone()));
        tokio::spawn(sums::write());
        autocert::start(self.certificates.clone(), self.settings.clone())?;
        tokio::spawn(certificates::watch(self.certificates.clone(), self.settings.clone()));
        let head_timeout = config.http_server.handshake_timeout;
        if let Some(listener) = self.listeners.internal.take() {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let limits = Limits { head_timeout, head_max: config.http_server.header_size_limit };
            let room = self.rooms.internal.clone();
            tokio::spawn(accept(listener, routers.internal, room, self.certificates.clone(), limits));
        }
        if let Some(listener) = self.listeners.grpc.take() {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let drained = watch::draining(self.admission.clone());
            let (room, certificates) = (self.rooms.grpc.clone(), self.certificates.clone());
            tokio::spawn(api::serve_grpc(listener, grpc, room, certificates, head_timeout, drained));
        }
        if let Some(listener) = self.listeners.uni_grpc.take() {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let service = uni_grpc::UniGrpcService {
                settings: self.settings.clone(),
                admission: self.admission.clone(),
                room: self.rooms.calls.clone(),
                reactors: std::mem::take(&mut self.reactors).into(),
                next: Arc::default(),
            };
            let drained = watch::draining(self.admission.clone());
            let (room, certificates) = (self.rooms.uni_grpc.clone(), self.certificates.clone());
            tokio::spawn(api::serve_grpc(listener, service, room, certificates, head_timeout, drained));
        }
        let limits = Limits { head_timeout, head_max: config.http_server.header_size_limit };
        while let Some(HandedOff { socket, bytes, place, back }) = self.handed_off.recv().await {
            if let Ok(stream) = Connection::of(socket) {
                let served = serve_one((stream, bytes), routers.external.clone(), place, routers.paths.clone(), limits);
                tokio::spawn(async move {
                    if let Some(returned) = served.await {
                        back.send(returned);
                    }
                });
            }
        }
        Ok(())
    }
}

/// What answers requests now.
type Current = Receiver<Router>;

/// What answers where.
struct Routers {
    external: Current,
    internal: Current,
    /// What is not answered here, but by reactors.
    paths: ReactorPaths,
}

/// What routers are made of.
struct Ports {
    node: Arc<Node>,
    operator: pages::Operator,
    /// There is a second port.
    apart: bool,
}

impl Ports {
    fn routers(&self, settings: &Arc<Settings>) -> (Router, Router) {
        let internal = pages::internal(&self.operator, settings);
        let external = pages::external(&self.node, &settings.config);
        let external = match self.apart {
            false => external.merge(internal.clone()),
            true => external.merge(pages::external_api(&self.operator, settings)),
        };
        let options = &settings.config.prometheus;
        match options.enabled && options.instrument_http_handlers {
            true => [external, internal].map(|router| self.operator.requests.clone().counted(router)).into(),
            false => (external, internal),
        }
    }

    /// Routers by what holds now, and by whatever comes to hold.
    fn follow(self, mut settings: Receiver<Arc<Settings>>) -> Routers {
        let now = settings.borrow_and_update().clone();
        let (external, internal) = self.routers(&now);
        let (tell_external, external) = tokio::sync::watch::channel(external);
        let (tell_internal, internal) = tokio::sync::watch::channel(internal);
        let (tell_paths, paths) = tokio::sync::watch::channel(pages::reactors_paths(&now.config).collect());
        tokio::spawn(async move {
            while settings.changed().await.is_ok() {
                let next = settings.borrow_and_update().clone();
                let (external, internal) = self.routers(&next);
                drop(tell_external.send_replace(external));
                drop(tell_internal.send_replace(internal));
                drop(tell_paths.send_replace(pages::reactors_paths(&next.config).collect()));
            }
        });
        Routers { external, internal, paths }
    }
}

/// What a connection's requests may take.
#[derive(Clone, Copy)]
struct Limits {
    /// A head, and the time before it.
    head_timeout: Duration,
    head_max: usize,
}

/// The second port.
async fn accept(
    listener: tokio::net::TcpListener,
    router: Current,
    room: Arc<PortRoom>,
    certificates: Arc<Certificates>,
    limits: Limits,
) {
    let none: ReactorPaths = tokio::sync::watch::channel(Arc::default()).1;
    loop {
        // A place first: connections beyond the limit wait in the kernel's queue.
        let Some(place) = room.wait().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (router, none, tls) = (router.clone(), none.clone(), certificates.of(TlsPort::Internal));
                tokio::spawn(async move {
                    match Connection::accepted(stream, tls, limits.head_timeout, place.handshake()).await {
                        Ok(stream) => drop(serve_one((stream, Bytes::new()), router, place, none, limits).await),
                        Err(error) => tracing::debug!(%error, "a TLS handshake of the internal port failed"),
                    }
                });
            }
            Err(error) => {
                accept_failed("internal port", error).await;
            }
        }
    }
}

/// A listener gave no connection: trying again at once would not mend it.
async fn accept_failed(port: &'static str, error: io::Error) {
    let advice = "accept failed, trying again; if descriptors ran out, raise LimitNOFILE";
    sums::add(port, 1, move |count| tracing::warn!(port, count, %error, "{advice}"));
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

/// One HTTP connection, from the bytes that were read before it came here to its end, or to a request for one of
/// `paths`: with that it goes back.
async fn serve_one(
    (stream, bytes): (Connection, Bytes),
    router: Current,
    place: ConnectionPermit,
    paths: ReactorPaths,
    limits: Limits,
) -> Option<Returned> {
    let stream = Arc::new(stream);
    let far_end = stream.far_end();
    let (requests, answers, mut found) = line::split(stream.clone(), bytes, paths, limits.head_max);
    // Who asks and does not read what it gets must not keep its place.
    let mut answers = TimeoutWriter::new(answers);
    answers.set_timeout(Some(limits.head_timeout));
    let io = TokioIo::new(tokio::io::join(requests, Box::pin(answers)));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // Also ends a connection that is kept alive and asks nothing.
        .header_read_timeout(limits.head_timeout)
        .serve_connection(
            io,
            service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
                request.extensions_mut().insert(far_end);
                // Each request by what holds when it comes, on a connection that was kept as well.
                let router = router.borrow().clone();
                TowerToHyperService::new(router).call(request)
            }),
        );
    let mut connection = Box::pin(connection);
    let mut input = None;
    let served = tokio::select! {
        served = connection.as_mut() => served,
        // It answers what it has begun to, and goes.
        Ok(bytes) = &mut found => {
            input = Some(bytes);
            connection.as_mut().graceful_shutdown();
            connection.as_mut().await
        }
        () = place.shortage() => {
            connection.as_mut().graceful_shutdown();
            connection.as_mut().await
        }
    };
    drop(connection);
    match (served, input) {
        (Err(error), _) => tracing::debug!(%error, "HTTP connection ended"),
        // Nobody else has it any more.
        (Ok(()), Some(bytes)) => {
            let socket = Arc::into_inner(stream)?.detach().ok()?;
            return Some(Returned { socket, bytes, ip_key: place.give_back()?, call: None });
        }
        (Ok(()), None) => {}
    }
    None
}
