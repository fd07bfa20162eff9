//! F11 · The node put together: threads, mailboxes, signals, and the order of leaving.
//!
//! Owns start-up and shutdown and nothing in between: once the threads run, they talk among themselves. A start that
//! cannot succeed ends in one line that says what to change.

mod leave;
mod log;
mod pid_file;
mod reload;
mod signals;
mod supervisor;

pub use leave::Left;
pub use reload::Again;

use crate::admission::Admission;
use crate::archive::{Archive, ArchiveLink};
use crate::base::mailbox::{Mailbox, Sender, mailbox};
use crate::certificates::Certificates;
use crate::config::{Config, ListenSocket, TlsPort, Warning};
use crate::consumers::{self, Consumers};
use crate::engine::{EngineLink, Engines};
use crate::heap;
use crate::host;
use crate::kafka::log::LogLink;
use crate::reactor::{Links, Reactor, ReactorSocket, Returned, SecuredStream, Steering, WAKER, listen};
use crate::service::{self, BackendLink, HandOff, HookLink, Node, NodeInfo, PortRoom, Replies, Service};
use crate::session::backend::Ask;
use crate::session::{Rules, Settings};
use crate::shard::{ControlAnswer, Mail, Shard};
use crate::spans;
use crate::workers::{Handshakes, Pool, Stepped, TokenChecks};
use log::Logger;
use mio::{Poll, Waker};
use pid_file::PidFile;
use reload::Running;
use signal_hook::iterator::Signals;
use signals::{Reader, Wish};
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::watch;

/// Descriptors that are no sockets of reactors: the service thread's, the log's, and room to breathe.
const DESCRIPTORS_RESERVED: usize = 64;
/// A reactor's own: listener, poll, waker, reserve.
const DESCRIPTORS_PER_REACTOR: usize = 8;
/// Clients that a host is expected to have descriptors for; less is worth a warning.
const ROOM_EXPECTED: usize = 100_000;
/// How long the last words to callers by gRPC may take, once all clients are gone.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long consumers may take to acknowledge what was carried out. They stop when the node begins to leave.
const LAST_COMMITS: Duration = Duration::from_secs(5);
/// Memory a client costs, user and kernel together, for the first line of the log: docs/memory.md.
pub(crate) const CLIENT_BYTES: u64 = 5_500;

/// Why the server could not start, or had to end.
#[derive(Debug)]
pub struct ServeError {
    text: String,
    /// It ran and died: a restart may help. Otherwise it never began, and what it says must be changed first.
    pub was_serving: bool,
}

fn cannot_start(text: String) -> ServeError {
    ServeError { text, was_serving: false }
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for ServeError {}

/// What the main thread waits for.
enum Happened {
    Wish(Wish),
    /// A reactor cannot go on.
    Failed(u16, io::Error),
    /// A reactor has no connection left.
    Drained,
}

/// Serves until a signal, and then until the drain is over. `again` loads the configuration once more.
pub fn run(config: Config, warnings: &[Warning], again: Again<'_>) -> Result<Left, ServeError> {
    let signals = signals::listen().map_err(cannot("listen for signals"))?;
    let log = begin_log(&config, warnings)?;
    let count = host::reactor_count(&config);
    let room = share_descriptors(&config, count)?;
    let steering = Steering::new(&config.http_server, count).map_err(cannot_start)?;
    let (listeners, bound) = open_gates(&config, count, &steering)?;
    let beside = open_others(&config)?;
    let certificates = Arc::new(Certificates::new(&config).map_err(cannot_start)?);
    let admission = Arc::new(Admission::new(&config, room.sockets, room.clients));
    let info = node_info(&config, bound.public)?;
    let (settings, rules, config) = settings(config, &info)?;
    let (seed, secret) = draw()?;
    let parts = mailboxes(count, config.reactor.mailbox_size).map_err(cannot("make the reactors' polls"))?;
    let senders: Vec<Sender<Mail>> = parts.iter().map(|part| part.sender.clone()).collect();
    let backs = parts.iter().map(|part| part.back.clone()).collect();
    let rooms = room.ports(config.tls.handshake_memory_limit);
    let callers = [rooms.grpc.clone(), rooms.uni_grpc.clone()];
    let (hand_off, handed_off) = service::hand_off(rooms.public.clone());
    let (outgoing, backend, hook) =
        service::outgoing(settings.borrow().clone(), senders.clone()).map_err(cannot_start)?;
    let engines = Engines::start(&config, &info.uid, senders.clone(), seed).map_err(cannot_start)?;
    let (log_link, archive) = start_logs(&config, &senders)?;
    let checks = start_workers(&settings, &senders)?;
    let ((answers, replies), (happened, happening)) = (unbounded_channel(), channel());
    for (me, (part, listener)) in (0..).zip(parts.into_iter().zip(listeners)) {
        let mut shard = Shard::new(me, count as u16, seed, secret.clone(), rules.clone());
        shard.has_fleet = engines.letters.is_some();
        let ends = (hand_off.clone(), backend.clone(), hook.clone(), checks.clone());
        let (failed, ways) = (happened.clone(), (engines.link.clone(), log_link.clone(), archive.link.clone()));
        let links = links(me, (senders.clone(), ways), ends, part.back.clone(), answers.clone(), happened.clone());
        let tls = (checks.pool.clone(), certificates.clone());
        let start = || start_reactor(part, listener, shard, me, (links, admission.clone(), failed), tls, &config);
        let started = steering.start_on(usize::from(me), start);
        started.map_err(cannot("keep a reactor on its CPU (http_server.steering)"))??;
    }
    let node = Arc::new(Node::new(info, (engines.letters, engines.board), senders.clone(), seed));
    supervisor::watch(node.clone()).map_err(cannot("start the watchdog"))?;
    let (others, proxies) = (beside.addresses(), outgoing.backend.clone());
    let consumers = Consumers::start(node.clone(), settings.subscribe(), admission.clone()).map_err(cannot_start)?;
    let service = Service {
        node: node.clone(),
        settings: settings.subscribe(),
        admission: admission.clone(),
        certificates,
        workers: checks.pool,
        listeners: beside,
        reactors: backs,
        handed_off,
        replies: Replies(replies),
        control: engines.control,
        questions: engines.questions,
        engines: engines.counts,
        kafka_log: log_link.counts.clone(),
        archive: archive.counts,
        outgoing,
        rooms,
        calls: consumers.calls.clone(),
        consumers: consumers.counts.clone(),
        log_dropped: log.dropped.clone(),
    };
    spawn_service(service)?;
    spawn_signals(signals, happened)?;
    announce(&config, bound, others, &steering, count, &admission);
    let running = Running { again, settings, log, admission, proxies, reactors: senders };
    let _pid_file = PidFile::write(&config.pid_file).map_err(cannot_start)?;
    supervisor::ready(&format!("listening on {}", bound.public));
    serve(&running, &happening)?;
    archive.ending.after(&running.reactors, end(&running, &node, &callers, &consumers, &log_link, &happening))
}

/// What keeps publications elsewhere than in memory.
fn start_logs(config: &Config, reactors: &[Sender<Mail>]) -> Result<(LogLink, Archive), ServeError> {
    let log = LogLink::start(&config.kafka_log, reactors).map_err(cannot_start)?;
    Ok((log, Archive::start(config, reactors).map_err(cannot_start)?))
}

/// What is served by, with the rules and the configuration that it begins with.
type Begun = (watch::Sender<Arc<Settings>>, Arc<Rules>, Arc<Config>);

fn settings(config: Config, info: &NodeInfo) -> Result<Begun, ServeError> {
    spans::start(&config.opentelemetry, info).map_err(cannot_start)?;
    let settings = Settings::new(config, &info.uid).map_err(|error| cannot_start(error.to_string()))?;
    let (rules, config) = (settings.rules.clone(), settings.config.clone());
    Ok((watch::Sender::new(Arc::new(settings)), rules, config))
}

/// Clients are told to go, and the other nodes that this one is gone; what they published is logged.
fn end(
    running: &Running<'_>,
    node: &Node,
    callers: &[Arc<PortRoom>],
    consumers: &Consumers,
    log_link: &LogLink,
    happening: &Receiver<Happened>,
) -> Result<Left, ServeError> {
    let config = running.settings.borrow().config.clone();
    supervisor::stopping(&config.shutdown, running.admission.clients());
    let left = leave::leave(&config.shutdown, &running.admission, &running.reactors, happening);
    consumers.wait(LAST_COMMITS);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.map_err(cannot("wait for the last words"))?.block_on(async {
        node.fleet.say_goodbye().await;
        if matches!(left, Ok(Left::InTime)) {
            // What was said last to those who called by gRPC leaves before the process does.
            let emptied = async {
                for room in callers {
                    room.emptied().await;
                }
            };
            let _ = tokio::time::timeout(LAST_WORDS, emptied).await;
        }
    });
    log_link.finish();
    spans::finish(config.opentelemetry.shutdown_timeout);
    left
}

/// A reactor with plain sockets, or with TLS.
fn start_reactor(
    part: Part,
    listener: GateListeners,
    shard: Shard,
    me: u16,
    outside: (Links, Arc<Admission>, std::sync::mpsc::Sender<Happened>),
    handshakes: (Arc<Pool>, Arc<Certificates>),
    config: &Config,
) -> Result<(), ServeError> {
    match config.tls_of(TlsPort::Public).is_some() {
        true => start_reactor_of::<SecuredStream>(part, listener, shard, me, outside, Some(handshakes), config),
        false => start_reactor_of::<TcpStream>(part, listener, shard, me, outside, None, config),
    }
}

fn start_reactor_of<S: ReactorSocket + Send + 'static>(
    part: Part,
    listener: GateListeners,
    shard: Shard,
    me: u16,
    (links, admission, failed): (Links, Arc<Admission>, std::sync::mpsc::Sender<Happened>),
    handshakes: Option<(Arc<Pool>, Arc<Certificates>)>,
    config: &Config,
) -> Result<(), ServeError> {
    let Part { poll, mailbox, returned, step, stepped, .. } = part;
    let handshakes = handshakes.map(|(pool, certificates)| (Handshakes { pool, certificates, back: step }, stepped));
    let reactor =
        Reactor::<S>::new(poll, listener, (mailbox, returned), handshakes, shard, me, links, admission, config)
            .map_err(cannot("start a reactor"))?;
    spawn(format!("reactor-{me}"), move || {
        let Err(error) = reactor.run();
        let _ = failed.send(Happened::Failed(me, error));
    })
}

fn spawn_service(service: Service) -> Result<(), ServeError> {
    spawn("service".into(), move || {
        if let Err(error) = service.run() {
            tracing::error!(%error, "the service thread ended: the API, health and metrics are gone; restart the node");
        }
    })
}

/// The log, which begins with the warnings.
fn begin_log(config: &Config, warnings: &[Warning]) -> Result<Logger, ServeError> {
    let heap = heap::start();
    let log = Logger::start(config).map_err(cannot_start)?;
    if let Err(why) = heap {
        tracing::warn!(why, "the allocator cannot be told to give memory back soon: after a peak it stays longer");
    }
    for warning in warnings {
        tracing::warn!(option = warning.option, "{warning}");
    }
    Ok(log)
}

fn start_workers(
    settings: &watch::Sender<Arc<Settings>>,
    reactors: &[Sender<Mail>],
) -> Result<TokenChecks, ServeError> {
    let options = settings.borrow().config.workers.clone();
    let pool = Pool::start(&options).map_err(cannot("start a worker"))?;
    Ok(TokenChecks { pool: Arc::new(pool), settings: settings.subscribe(), reactors: reactors.into() })
}

fn cannot(what: &'static str) -> impl Fn(io::Error) -> ServeError {
    move |error| cannot_start(format!("cannot {what}: {error}"))
}

fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> Result<(), ServeError> {
    thread::Builder::new().name(name).spawn(body).map(drop).map_err(cannot("start a thread"))
}

/// A seed that nobody outside can guess, and a secret.
fn draw() -> Result<(u64, Arc<[u8; 32]>), ServeError> {
    let failed = |error| cannot_start(format!("cannot draw random numbers: {error}"));
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(failed)?;
    Ok((getrandom::u64().map_err(failed)?, Arc::new(secret)))
}

/// A reactor's poll with the mailboxes that wake it.
struct Part {
    poll: Poll,
    sender: Sender<Mail>,
    mailbox: Mailbox<Mail>,
    /// For sockets that were handed off and come back.
    back: Sender<Returned>,
    returned: Mailbox<Returned>,
    /// For steps of TLS handshakes, of which workers tell.
    step: Sender<Stepped>,
    stepped: Mailbox<Stepped>,
}

fn mailboxes(count: usize, len_max: usize) -> io::Result<Vec<Part>> {
    (0..count)
        .map(|_| {
            let poll = Poll::new()?;
            let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
            let (again, once_more) = (waker.clone(), waker.clone());
            // A wake that fails has nobody to tell; the next turn of the loop finds the mail.
            let (sender, mail) = mailbox(len_max, move || drop(waker.wake()));
            let (back, returned) = mailbox(len_max, move || drop(again.wake()));
            let (step, stepped) = mailbox(len_max, move || drop(once_more.wake()));
            Ok(Part { poll, sender, mailbox: mail, back, returned, step, stepped })
        })
        .collect()
}

// A question that finds no room comes back by value.
#[expect(clippy::result_large_err)]
fn links(
    me: u16,
    (reactors, (engine, log, archive)): (Vec<Sender<Mail>>, (EngineLink, LogLink, ArchiveLink)),
    (hand_off, backend, hook, checks): (HandOff, BackendLink, HookLink, TokenChecks),
    back: Sender<Returned>,
    answers: UnboundedSender<Vec<(u64, ControlAnswer)>>,
    happened: std::sync::mpsc::Sender<Happened>,
) -> Links {
    let pool = checks.pool.clone();
    let log_room = log.clone();
    Links {
        me,
        reactors,
        archive,
        hand_off: Box::new(move |socket, bytes, entry| hand_off.give(socket, bytes, entry, back.clone())),
        ask: Box::new(move |call| match call.ask {
            Ask::Check(_) => checks.ask(call),
            _ => backend.ask(call),
        }),
        forget: Box::new(move |key| pool.forget(key)),
        hook: Box::new(move |event| hook.tell(event)),
        engine: Box::new(move |calls| engine.call(me, calls)),
        log: Box::new(move |call| log.tell(me, call)),
        log_is_full: Box::new(move || log_room.is_full()),
        // The main thread is gone only when the process is.
        drained: Box::new(move || drop(happened.send(Happened::Drained))),
        // The service thread is gone only when the process is.
        answers: Box::new(move |all| drop(answers.send(all))),
    }
}

/// A reactor's listeners: of the public port, and of lines if they are on.
type GateListeners = (TcpListener, Option<TcpListener>);

/// Where reactors listen.
#[derive(Debug, Clone, Copy)]
struct Bound {
    public: SocketAddr,
    lines: Option<SocketAddr>,
}

/// The listeners of each reactor, and where they are.
fn open_gates(config: &Config, count: usize, steering: &Steering) -> Result<(Vec<GateListeners>, Bound), ServeError> {
    let (listeners, public) = open_steered(config, config.public_socket(), count, steering)?;
    let (lines, lines_at) = match config.line_socket() {
        Some(socket) => open_steered(config, socket, count, steering).map(|(all, at)| (all, Some(at)))?,
        None => (Vec::new(), None),
    };
    let lines = lines.into_iter().map(Some).chain(std::iter::repeat_with(|| None));
    Ok((listeners.into_iter().zip(lines).collect(), Bound { public, lines: lines_at }))
}

/// A listener for each reactor, among which the kernel chooses as it is told.
fn open_steered(
    config: &Config,
    socket: ListenSocket<'_>,
    count: usize,
    steering: &Steering,
) -> Result<(Vec<TcpListener>, SocketAddr), ServeError> {
    let http = &config.http_server;
    let (listeners, address) = open(config, socket, count, http.share_port)?;
    steering.attach(&listeners, http.share_port).map_err(|error| {
        cannot_start(format!("cannot steer by CPU: {error}; it takes Linux 4.6, or http_server.steering = hash"))
    })?;
    let bound = listeners.first().and_then(|l| l.local_addr().ok()).unwrap_or(address);
    Ok((listeners, bound))
}

fn open(
    config: &Config,
    socket: ListenSocket<'_>,
    count: usize,
    share: bool,
) -> Result<(Vec<TcpListener>, SocketAddr), ServeError> {
    let address = host::address(socket, config.dev).map_err(cannot_start)?;
    let listeners = listen(&config.http_server, address, count, share)
        .map_err(|error| cannot_start(host::cannot_listen(socket, address, &error)))?;
    Ok((listeners, address))
}

/// The ports beside the public one.
fn open_others(config: &Config) -> Result<service::Listeners, ServeError> {
    let (grpc, uni_grpc) = (open_grpc(config, "grpc_api.port")?, open_grpc(config, "uni_grpc.port")?);
    Ok(service::Listeners { internal: open_internal(config)?, grpc, uni_grpc })
}

fn open_internal(config: &Config) -> Result<Option<TcpListener>, ServeError> {
    let Some(socket) = config.internal_socket() else { return Ok(None) };
    Ok(open(config, socket, 1, false)?.0.pop())
}

/// A port for gRPC, if that option's is on.
fn open_grpc(config: &Config, port_option: &str) -> Result<Option<TcpListener>, ServeError> {
    let grpc = config.sockets().into_iter().find(|socket| socket.port_option == port_option);
    let Some(socket) = grpc else { return Ok(None) };
    Ok(open(config, socket, 1, config.http_server.share_port)?.0.pop())
}

/// What the file descriptors allow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    pub sockets: usize,
    pub clients: usize,
    /// Plain HTTP connections of the public port.
    pub http: usize,
    /// Those of the second port and of the ports of gRPC, each if it is on.
    pub internal: usize,
    pub grpc: usize,
    pub uni_grpc: usize,
    /// Calls of clients who listen by gRPC, beside their sockets.
    pub calls: usize,
}

impl Room {
    /// Descriptors that are no clients' and no HTTP connections': those of questions to the backend are among them.
    pub fn reserved(config: &Config, reactors: usize) -> usize {
        let kept = DESCRIPTORS_RESERVED + reactors * DESCRIPTORS_PER_REACTOR;
        kept + service::descriptors(config) + consumers::descriptors(config)
    }

    /// Shares out `open` descriptors: plain HTTP gets at most a sixteenth at each port, so that it cannot crowd the
    /// clients out, nor one port another.
    pub fn share(open: usize, config: &Config, reactors: usize) -> Room {
        let all = open.saturating_sub(Room::reserved(config, reactors));
        let part = |is_on: bool, limit: usize| if is_on { limit.min((all / 16).max(8)).min(all / 4) } else { 0 };
        let server = &config.http_server;
        let http = part(true, server.service_connection_limit);
        let internal = part(server.internal_port != 0, server.internal_connection_limit);
        let grpc = part(config.grpc_api.enabled, config.grpc_api.connection_limit);
        let uni = &config.uni_grpc;
        let (uni_grpc, calls) = (part(uni.enabled, uni.connection_limit), part(uni.enabled, uni.stream_limit));
        let sockets = all - (internal + grpc + uni_grpc + calls).min(all);
        Room { sockets, clients: sockets.saturating_sub(http), http, internal, grpc, uni_grpc, calls }
    }

    /// Room for the connections of each port, and for bytes of their handshakes.
    fn ports(self, handshakes: usize) -> service::Rooms {
        let room = |size: usize| PortRoom::new(size.max(1), handshakes);
        let (public, internal, grpc) = (room(self.http), room(self.internal), room(self.grpc));
        let calls = service::CallRoom::new(self.calls.max(1));
        service::Rooms { public, internal, grpc, uni_grpc: room(self.uni_grpc), calls }
    }
}

/// What the descriptors that this process may have leave room for.
fn share_descriptors(config: &Config, reactors: usize) -> Result<Room, ServeError> {
    let open = host::raise_descriptors(config, reactors).map_err(cannot_start)?;
    Ok(Room::share(open, config, reactors))
}

fn node_info(config: &Config, bound: SocketAddr) -> Result<NodeInfo, ServeError> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|error| cannot_start(format!("cannot draw a node id: {error}")))?;
    let uid = uuid::Builder::from_random_bytes(id).into_uuid().to_string();
    let name = host::node_name(config);
    let name = if config.node.name.is_empty() { format!("{name}_{}", bound.port()) } else { name };
    Ok(NodeInfo { uid, name, started: Instant::now() })
}

/// The first lines of the log: where it listens, how much fits, and what is unsafe.
fn announce(
    config: &Config,
    bound: Bound,
    [internal, grpc, uni_grpc]: [Option<SocketAddr>; 3],
    steering: &Steering,
    reactors: usize,
    admission: &Admission,
) {
    let fit = admission.clients_max();
    let need_mib = (fit as u64 * CLIENT_BYTES) >> 20;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        address = %bound.public,
        internal = internal.map(tracing::field::display),
        grpc = grpc.map(tracing::field::display),
        uni_grpc = uni_grpc.map(tracing::field::display),
        tcp_line = bound.lines.map(tracing::field::display),
        reactors,
        "listening"
    );
    if fit < ROOM_EXPECTED && !config.dev {
        tracing::warn!(
            clients = fit,
            need_mib,
            "the file descriptors leave room for so many clients: raise LimitNOFILE"
        );
    } else {
        tracing::info!(clients = fit, need_mib, "room for so many clients");
    }
    if let Some(cpus) = steering.cpus() {
        tracing::info!(?cpus, "each reactor stays on its CPU and gets the connections that arrive there");
    }
    if config.dev {
        tracing::info!("open http://{}/ in two tabs and chat", bound.public);
    }
}

fn spawn_signals(mut signals: Signals, happened: std::sync::mpsc::Sender<Happened>) -> Result<(), ServeError> {
    spawn("signals".into(), move || {
        let mut reader = Reader::default();
        for signal in signals.forever() {
            let Some(wish) = reader.read(signal, Instant::now()) else { continue };
            if happened.send(Happened::Wish(wish)).is_err() {
                return;
            }
        }
    })
}

fn failed(reactor: u16, error: &io::Error) -> ServeError {
    ServeError { text: format!("reactor {reactor} cannot go on: {error}"), was_serving: true }
}

/// Serves until a signal to leave.
fn serve(running: &Running<'_>, happening: &Receiver<Happened>) -> Result<(), ServeError> {
    loop {
        match happening.recv() {
            Ok(Happened::Wish(Wish::Leave | Wish::LeaveAtOnce)) => return Ok(()),
            Ok(Happened::Wish(Wish::Reload)) => supervisor::reloading(|| running.reload()),
            Ok(Happened::Wish(Wish::Reopen)) => running.log.reopen(),
            Ok(Happened::Wish(Wish::Nothing(signal))) => {
                tracing::info!("{signal} is ignored: SIGTERM or SIGINT ends the node");
            }
            Ok(Happened::Failed(me, error)) => return Err(failed(me, &error)),
            // Nobody drains.
            Ok(Happened::Drained) => {}
            Err(_) => return Ok(()),
        }
    }
}
