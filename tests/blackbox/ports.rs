//! Which port answers what: the one public port, the second one for operators, health and metrics.

use crate::client::{Client, Witness};
use crate::peer::{PATH, Peer, upgrade_head};
use crate::server::{KEY, OPEN, Server};
use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::time::{SystemTime, UNIX_EPOCH};

/// On an address of its own, where nobody else picks ports.
const INTERNAL: &str = "127.0.0.9";

fn free_port() -> String {
    let listener = TcpListener::bind((INTERNAL, 0)).expect("bind");
    listener.local_addr().expect("address").port().to_string()
}

fn status(address: SocketAddr, method: &str, path: &str) -> u16 {
    let body = r#"{"channel":"news","data":"by the second port"}"#;
    let body = if method == "POST" { body } else { "" };
    Peer::open(address).request(method, path, &[("X-API-Key", KEY)], body).expect("an answer").status
}

const OPERATORS: [(&str, &str); 3] = [("GET", "/health"), ("GET", "/metrics"), ("POST", "/api/publish")];

#[test]
fn the_second_port_alone_answers_operators() {
    let options = ["--http_server.internal_port", &free_port(), "--http_server.internal_address", INTERNAL];
    let server = Server::with(OPEN, &options);
    let internal = server.internal.expect("the second port");
    let mut client = Client::subscribed(&server, "news");
    for (method, path) in OPERATORS {
        assert_eq!(status(server.address, method, path), 404, "{path} on the public port");
        assert_eq!(status(internal, method, path), 200, "{path} on the second port");
    }
    assert_eq!(client.publication().1, "by the second port");
    let mut peer = Peer::open(internal);
    peer.send(upgrade_head(PATH, &[]).as_bytes());
    assert_eq!(peer.response().status, 404, "no clients on the second port");
}

#[test]
fn the_public_port_answers_all_if_it_is_the_only_one() {
    let server = Server::start(OPEN);
    for (method, path) in OPERATORS {
        assert_eq!(status(server.address, method, path), 200, "{path}");
    }
    let health = Peer::open(server.address).request("GET", "/health", &[], "").expect("an answer");
    assert_eq!((health.body.as_str(), health.header("content-type").as_deref()), ("{}", Some("application/json")));
    let quiet = Server::with(OPEN, &["--health.enabled=false", "--echo.enabled"]);
    assert_eq!(status(quiet.address, "GET", "/health"), 404);
    Peer::open(quiet.address).upgrade("/echo");
    let mut echo = Peer::open(server.address);
    echo.send(upgrade_head("/echo", &[]).as_bytes());
    assert_eq!(echo.response().status, 404, "echo is off by default");
}

/// Connections that asked once and ask no more take all the room of the public port, and none of the second one.
#[test]
fn idle_connections_on_the_public_port_keep_nobody_from_the_second() {
    let options = ["--http_server.internal_port", &free_port(), "--http_server.internal_address", INTERNAL];
    let limit = ["--http_server.service_connection_limit", "8", "--sse.enabled"];
    let server = Server::with(OPEN, &[&options[..], &limit].concat());
    let internal = server.internal.expect("the second port");
    let ask = |peer: &mut Peer| peer.request("GET", "/nothing", &[], "").map(|answer| answer.status);
    let mut idle: Vec<Peer> = Vec::new();
    for _ in 0..8 {
        let mut peer = Peer::open(server.address);
        assert_eq!(ask(&mut peer), Some(404));
        idle.push(peer);
    }
    for (method, path) in OPERATORS {
        assert_eq!(status(internal, method, path), 200, "{path}");
    }
    // On the public port there is room again soon, long before an idle connection has had its time.
    crate::server::until("room", || (ask(&mut Peer::open(server.address)) == Some(404)).then_some(()));
    idle.iter_mut().for_each(Peer::ended);
    let page = Peer::open(internal).request("GET", "/metrics", &[], "").expect("an answer").body;
    let line = page.lines().find(|line| line.starts_with("gannet_service_connections_ended_total{port=\"public\"}"));
    assert!(line.is_some_and(|line| !line.ends_with(" 0")), "{line:?}");
}

#[test]
fn a_handshake_after_plain_http_is_sent_to_a_connection_of_its_own() {
    let server = Server::start(OPEN);
    let mut peer = Peer::open(server.address);
    assert_eq!(peer.request("GET", "/health", &[], "").expect("an answer").status, 200);
    peer.send(upgrade_head(PATH, &[]).as_bytes());
    assert_eq!(peer.response().status, 421);
    peer.ended();
}

#[test]
fn metrics_tell_what_the_process_spends() {
    let server = Server::start(OPEN);
    let page = server.metrics();
    let value = |name: &str| -> f64 {
        let found = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        found.unwrap_or_else(|| panic!("{name}: {page}")).parse().expect("a number")
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
    assert!(value("process_cpu_seconds_total") > 0.0);
    assert!((1e6..1e10).contains(&value("process_resident_memory_bytes")));
    assert!((now - 600.0..=now).contains(&value("process_start_time_seconds")));
    assert!(value("process_max_fds") >= 64.0);
    // What it spends from one look to the next is the next look at least.
    let before = value("process_cpu_seconds_total");
    let page = server.metrics();
    let after = page.lines().find_map(|line| line.strip_prefix("process_cpu_seconds_total ")).expect("still there");
    assert!(after.parse::<f64>().expect("a number") > before);
}

#[test]
fn metrics_are_well_formed() {
    let server = Server::start(OPEN);
    let mut witness = Witness::join(&server);
    witness.hears(&server);
    let response = Peer::open(server.address).request("GET", "/metrics", &[], "").expect("an answer");
    assert!(response.header("content-type").is_some_and(|kind| kind.starts_with("text/plain; version=0.0.4")));
    let (mut series, mut described) = (BTreeSet::new(), BTreeSet::new());
    for line in response.body.lines() {
        if let Some(comment) = line.strip_prefix("# TYPE ") {
            let (name, kind) = comment.split_once(' ').expect("a kind");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(kind != "counter" || name.ends_with("_total"), "{line}");
            assert!(described.insert(name.to_owned()), "{name} twice");
        } else if !line.starts_with('#') {
            let (name, value) = line.rsplit_once(' ').expect("a value");
            assert!(value.parse::<f64>().is_ok(), "{line}");
            assert!(series.insert(name.to_owned()), "{name} twice");
            let family = name.split('{').next().expect("a name");
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| family.strip_suffix(end)).unwrap_or(family);
            assert!(described.contains(family) || described.contains(base), "{line}");
        }
    }
    for (name, value) in
        [("gannet_node_num_clients", 1), ("gannet_node_num_subscriptions", 1), ("gannet_node_num_channels", 1)]
    {
        assert_eq!(server.metric(name), value, "{name}");
    }
}
