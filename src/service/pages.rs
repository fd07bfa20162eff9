//! F10 · Health, metrics and the chat page, and which port answers what.

use super::admin::{self, Door};
use super::api::{self, Calls, GrpcService};
use super::backend::Backend;
use super::emulation;
use super::guard::guarded;
use super::hooks::HookCounts;
use super::init;
use super::node::Node;
use super::requests::RequestCounts;
use super::watch;
use super::{PortRoom, Rooms, Service};
use crate::admission::Admission;
use crate::archive::ArchiveCounts;
use crate::base::metrics::{Counters, Page};
use crate::certificates::Certificates;
use crate::config::Config;
use crate::consumers::ConsumersCounts;
use crate::engine::counts::EngineCounts;
use crate::heap;
use crate::kafka::log::LogCounts;
use crate::protocol::code::Disconnect;
use crate::reactor::trim;
use crate::session::{REJECTIONS, Rules, Settings};
use crate::shard::Stats;
use crate::spans;
use crate::workers::Pool;
use crate::ws::close;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use std::io;
use std::sync::Arc;
use tokio::sync::watch::Receiver;

/// The chat page of `dev`: one file, no build step.
const CHAT: &str = include_str!("chat.html");

#[derive(Clone)]
pub struct Operator {
    pub node: Arc<Node>,
    admission: Arc<Admission>,
    pub calls: Arc<Calls>,
    consumers: ConsumersCounts,
    /// Of the page for operators.
    pub door: Arc<Door>,
    log_dropped: Arc<dyn Fn() -> usize + Send + Sync>,
    backend: Arc<Backend>,
    told: Arc<HookCounts>,
    rooms: Rooms,
    workers: Arc<Pool>,
    certificates: Arc<Certificates>,
    pub requests: Arc<RequestCounts>,
    settings: Receiver<Arc<Settings>>,
    engines: Vec<(&'static str, Arc<EngineCounts>)>,
    kafka_log: Arc<LogCounts>,
    archive: Option<Arc<ArchiveCounts>>,
    /// Seconds since 1970 at the start of the process.
    started: f64,
}

/// What anyone may ask: on the public port, next to the clients.
pub fn external(node: &Arc<Node>, config: &Config) -> Router {
    let mut router = emulation::router(node.clone(), config).merge(init::router(config));
    if config.dev {
        router = router.route("/", get(|| async { Html(CHAT) }));
    }
    router
}

/// What reactors answer, without a slash at the end.
pub fn reactors_paths(config: &Config) -> impl Iterator<Item = String> {
    let streams = [&config.sse, &config.http_stream].map(|stream| (stream.enabled, &*stream.handler_prefix));
    let uni_streams = [&config.uni_sse, &config.uni_http_stream].map(|it| (it.enabled, &*it.handler_prefix));
    let streams = streams.into_iter().chain(uni_streams).filter(|(enabled, _)| *enabled).map(|(_, path)| path);
    let uni = config.uni_websocket.enabled.then_some(&*config.uni_websocket.handler_prefix);
    let echo = config.echo.enabled.then_some(&*config.echo.handler_prefix);
    let websocket = (!config.websocket.disabled).then_some(&*config.websocket.handler_prefix);
    let all = websocket.into_iter().chain(uni).chain(echo).chain(streams);
    all.map(|path| trim(path).to_owned())
}

impl Operator {
    pub fn of(service: &Service) -> io::Result<Operator> {
        Ok(Operator {
            node: service.node.clone(),
            admission: service.admission.clone(),
            calls: service.calls.clone(),
            consumers: service.consumers.clone(),
            door: Arc::new(Door::new().map_err(io::Error::other)?),
            log_dropped: service.log_dropped.clone(),
            backend: service.outgoing.backend.clone(),
            told: service.outgoing.told.clone(),
            rooms: service.rooms.clone(),
            workers: service.workers.clone(),
            certificates: service.certificates.clone(),
            requests: Arc::default(),
            settings: service.settings.clone(),
            engines: service.engines.clone(),
            kafka_log: service.kafka_log.clone(),
            archive: service.archive.clone(),
            started: watch::started(service.node.info.started.elapsed()),
        })
    }

    /// The page of metrics, for whoever may see it.
    pub async fn metrics(&self) -> Response {
        metrics(State(self.clone())).await
    }

    /// The API by gRPC, which has a port of its own.
    pub fn grpc(&self, settings: Receiver<Arc<Settings>>) -> GrpcService {
        GrpcService::new(self.node.clone(), self.calls.clone(), settings)
    }
}

/// What the operator and the backend ask: on the second port if there is one.
pub fn internal(operator: &Operator, settings: &Arc<Settings>) -> Router {
    let config = &settings.config;
    let mut router = Router::new();
    if config.health.enabled {
        let path = trim(&config.health.handler_prefix);
        router = router.route(&config.health.handler_prefix, get(health));
        router = router.route(&format!("{path}/live"), get(live)).route(&format!("{path}/ready"), get(ready));
    }
    if config.prometheus.enabled {
        router = router.route(&config.prometheus.handler_prefix, get(metrics));
    }
    if config.openapi.enabled
        && !config.http_api.disabled
        && let Ok(document) = api::openapi(&config.http_api.handler_prefix)
    {
        let text: Bytes = document.into();
        let answer = move || async move { ([(header::CONTENT_TYPE, "application/json")], text) };
        router = router.route(&config.openapi.handler_prefix, get(answer));
    }
    let router = guarded(router.with_state(operator.clone()).merge(api_router(operator, settings)), config);
    router.merge(admin::router(operator, settings))
}

/// The server API by HTTP, unless it is off.
fn api_router(operator: &Operator, settings: &Settings) -> Router {
    match settings.config.http_api.disabled {
        true => Router::new(),
        false => api::router(operator.node.clone(), operator.calls.clone(), settings),
    }
}

/// What of it is on the public port too.
pub fn external_api(operator: &Operator, settings: &Arc<Settings>) -> Router {
    let config = &settings.config;
    let router = match config.http_api.external {
        true => guarded(api_router(operator, settings), config),
        false => Router::new(),
    };
    if config.admin.external { router.merge(admin::router(operator, settings)) } else { router }
}

/// 200 while this node takes clients, 503 from the first signal to stop on.
async fn health(State(operator): State<Operator>) -> Response {
    let status = if operator.admission.is_leaving() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    (status, [(header::CONTENT_TYPE, "application/json")], "{}").into_response()
}

/// How old the engine's last sign of life may be.
const ENGINE_AGE_MAX_MS: u64 = 10_000;

/// 503 when a reactor has not turned for some seconds: only a restart helps.
async fn live(State(operator): State<Operator>) -> Response {
    match operator.node.stats().await {
        Ok(_) => verdict(None),
        Err(_) => verdict(Some("a reactor does not answer".into())),
    }
}

/// 503 while this node should get no clients: it leaves, a reactor is stuck, or its engine is away.
async fn ready(State(operator): State<Operator>) -> Response {
    if operator.admission.is_leaving() {
        return verdict(Some("the node is leaving".into()));
    }
    if let Some(trouble) = operator.engines.iter().find_map(|(_, engine)| engine.trouble(ENGINE_AGE_MAX_MS)) {
        return verdict(Some(format!("engine: {trouble}")));
    }
    live(State(operator)).await
}

fn verdict(trouble: Option<String>) -> Response {
    match trouble {
        None => (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], "{}".to_owned()).into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

async fn metrics(State(operator): State<Operator>) -> Response {
    match operator.node.stats().await {
        Ok(stats) => {
            let text = page(&operator, &stats).into_text();
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
        }
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "a reactor does not answer\n").into_response(),
    }
}

/// Counters whose labels are there from the start: who asks by how much they grew sees the first event too.
fn from_zero(rules: &Rules) -> Counters {
    let zeros = |codes: &[u16]| codes.iter().map(|code| (*code, 0)).collect();
    Counters {
        disconnects: zeros(Disconnect::CODES),
        faults: zeros(&close::FAULTS),
        answers: zeros(&[400, 403, 405, 413, 431, 503]),
        rejected: REJECTIONS.iter().map(|cause| (*cause, 0)).collect(),
        limited: rules.limits.kinds().into_iter().map(|kind| (kind, 0)).collect(),
        ..Counters::default()
    }
}

fn page(operator: &Operator, stats: &[Stats]) -> Page {
    let mut page = Page::default();
    let mut sum = from_zero(&operator.settings.borrow().rules);
    stats.iter().for_each(|reactor| sum.add(&reactor.counters));
    let total = |part: fn(&Stats) -> usize| stats.iter().map(part).sum::<usize>();
    let version = [(env!("CARGO_PKG_VERSION"), 1)];
    page.labelled("gannet_node_build_info", "The version that runs.", "gauge", "version", version);
    page.single(
        "gannet_node_uptime_seconds",
        "Since the start.",
        "gauge",
        operator.node.info.started.elapsed().as_secs(),
    );
    page.single("gannet_node_num_clients", "Clients connected.", "gauge", total(|s| s.clients));
    page.single("gannet_node_num_subscriptions", "Subscriptions of all clients.", "gauge", total(|s| s.subscriptions));
    page.single("gannet_node_num_channels", "Channels with subscribers.", "gauge", total(|s| s.channels));
    page.single(
        "gannet_client_connections_inflight",
        "Connections of clients, of whatever transport, connected or not.",
        "gauge",
        operator.admission.clients(),
    );
    let limit = "Clients this node takes: client.connection_limit, or what the file descriptors allow.";
    page.single("gannet_client_connections_limit", limit, "gauge", operator.admission.clients_max());
    for (name, help, part) in PER_REACTOR {
        page.labelled(name, help, "gauge", "reactor", stats.iter().map(|s| (s.reactor, part(s))));
    }
    ports(&mut page, &operator.rooms);
    process(&mut page, operator.started);
    let dropped = "Log lines dropped because the log's queue was full: lower log.level or raise log.queue_size.";
    page.single("gannet_log_lines_dropped_total", dropped, "counter", (operator.log_dropped)());
    sum.write(&mut page);
    operator.calls.write(&mut page);
    operator.consumers.write(&mut page);
    operator.door.write(&mut page);
    operator.backend.write(&mut page);
    operator.told.write(&mut page);
    operator.kafka_log.write(&mut page);
    spans::write(&mut page);
    operator.workers.write(&mut page);
    operator.certificates.write(&mut page);
    operator.requests.write(&mut page);
    if let Some(archive) = &operator.archive {
        archive.write(&mut page);
    }
    for (name, engine) in &operator.engines {
        engine.write(name, &mut page);
    }
    if !operator.engines.is_empty() {
        let (nodes, unread) = (node_count(operator), operator.node.fleet.unread());
        page.single("gannet_node_num_nodes", "Nodes of the fleet, this one among them.", "gauge", nodes);
        let help = "Messages of control that this node could not follow.";
        page.single("gannet_node_control_unread_total", help, "counter", unread);
    }
    page
}

fn node_count(operator: &Operator) -> usize {
    1 + operator.node.fleet.others().len()
}

/// Connections that are no clients', by the port that they came to.
fn ports(page: &mut Page, rooms: &Rooms) {
    let Rooms { public, internal, grpc, uni_grpc, calls } = rooms;
    let each = [("public", public), ("internal", internal), ("grpc", grpc), ("uni_grpc", uni_grpc)];
    let series = |part: fn(&PortRoom) -> u64| each.map(|(port, room)| (port, part(room)));
    let help = "Plain HTTP and gRPC connections served, by port.";
    page.labelled("gannet_service_connections", help, "gauge", "port", series(|room| room.taken() as u64));
    let help = "How many that may be: http_server.service_connection_limit, http_server.internal_connection_limit, \
                grpc_api.connection_limit, uni_grpc.connection_limit, or what the file descriptors allow.";
    page.labelled("gannet_service_connections_limit", help, "gauge", "port", series(|room| room.size() as u64));
    let help = "Connections ended because fewer than a quarter of those of their port were free.";
    page.labelled("gannet_service_connections_ended_total", help, "counter", "port", series(PortRoom::ended));
    let help = "Connections closed in their TLS handshake because of tls.handshake_memory_limit, by port.";
    let beside = [("internal", internal.refused()), ("grpc", grpc.refused()), ("uni_grpc", uni_grpc.refused())];
    page.labelled("gannet_service_handshakes_refused_total", help, "counter", "port", beside);
    page.single("gannet_uni_grpc_streams", "Clients that listen by gRPC.", "gauge", calls.taken());
    let help = "How many that may be: uni_grpc.stream_limit, or what the file descriptors allow.";
    page.single("gannet_uni_grpc_streams_limit", help, "gauge", calls.size());
    let help = "Clients refused by that limit, RESOURCE_EXHAUSTED.";
    page.single("gannet_uni_grpc_refused_total", help, "counter", calls.refused());
    let help = "Clients refused, RESOURCE_EXHAUSTED, because connect requests that were not whole were over \
                reactor.held_input_size.";
    page.single("gannet_uni_grpc_held_input_limit_total", help, "counter", calls.input().refused());
}

/// What the process spends, by the names that Prometheus's client libraries have for it. How many descriptors are open
/// is left out: the kernel tells it only as a list of them all, and there may be a million.
fn process(page: &mut Page, started: f64) {
    let in_use = "Memory allocated and not freed, which overload.memory_limit limits.";
    page.single("gannet_process_memory_in_use_bytes", in_use, "gauge", heap::in_use_bytes().unwrap_or(0));
    let resident = heap::resident_bytes().unwrap_or(0);
    page.single("gannet_process_resident_memory_bytes", "Resident memory of this process.", "gauge", resident);
    let cpu = "Total user and system CPU time spent in seconds.";
    page.single("process_cpu_seconds_total", cpu, "counter", watch::cpu_seconds());
    page.single("process_resident_memory_bytes", "Resident memory size in bytes.", "gauge", resident);
    if let Some(most) = watch::descriptors_max() {
        page.single("process_max_fds", "Maximum number of open file descriptors.", "gauge", most);
    }
    let since = "Start time of the process since unix epoch in seconds.";
    page.single("process_start_time_seconds", since, "gauge", started);
}

type PerReactor = (&'static str, &'static str, fn(&Stats) -> usize);

/// The balance between reactors.
const PER_REACTOR: [PerReactor; 9] = [
    ("gannet_reactor_connections", "Sockets of each reactor; an even share is healthy.", |s| s.connections),
    ("gannet_reactor_clients", "Clients of each reactor.", |s| s.clients),
    ("gannet_reactor_users", "Users with clients on each reactor; one user may be on several.", |s| s.users),
    (
        "gannet_reactor_mailbox_length",
        "Values that waited in each reactor's mailbox; its limit is reactor.mailbox_size.",
        |s| s.mailbox,
    ),
    (
        "gannet_reactor_fanout_waiting_bytes",
        "Publications that wait for delivery; the limit is reactor.fanout_queue_size.",
        |s| s.waiting_bytes,
    ),
    ("gannet_reactor_channels", "Channels owned by each reactor.", |s| s.channels),
    (
        "gannet_reactor_history_bytes",
        "Bytes of histories and idempotency keys that each reactor keeps, as channel.history_memory_limit counts them.",
        |s| s.history_bytes,
    ),
    ("gannet_inbox_cursors", "Users, or devices, remembered in the channels that each reactor owns.", |s| s.cursors),
    (
        "gannet_inbox_bytes",
        "Bytes of cursors that each reactor keeps, as channel.inbox_memory_limit counts them.",
        |s| s.inbox_bytes,
    ),
];
