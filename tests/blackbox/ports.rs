//! Which port answers what: the one public port, the second one for operators, health and metrics.

use crate::client::{Client, Witness};
use crate::peer::{PATH, Peer, TEXT, frame, upgrade_head};
use crate::server::{KEY, OPEN, Server, until};
use serde_json::json;
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

#[test]
fn the_api_answers_where_it_is_to_and_nowhere_if_it_is_off() {
    let port = free_port();
    let second = ["--http_server.internal_port", &port, "--http_server.internal_address", INTERNAL];
    for (options, public, internal) in [
        (&["--http_api.external"][..], 200, 200),
        (&["--http_api.disabled"], 404, 404),
        (&["--http_api.disabled", "--http_api.external"], 404, 404),
    ] {
        let server = Server::with(OPEN, &[&second[..], options].concat());
        let ports = [(server.address, public), (server.internal.expect("the second port"), internal)];
        for (address, expected) in ports {
            assert_eq!(status(address, "POST", "/api/publish"), expected, "{options:?} {address}");
        }
        assert_eq!(status(server.address, "GET", "/metrics"), 404, "the rest stays apart");
    }
    let server = Server::with(OPEN, &["--http_api.disabled"]);
    assert_eq!(
        [status(server.address, "POST", "/api/publish"), status(server.address, "GET", "/openapi.json")],
        [404; 2]
    );
}

#[test]
fn websockets_are_refused_if_they_are_off() {
    let server = Server::with(OPEN, &["--websocket.disabled", "--uni_websocket.enabled"]);
    let mut peer = Peer::open(server.address);
    peer.send(upgrade_head(PATH, &[]).as_bytes());
    assert_eq!(peer.response().status, 404);
    Peer::open(server.address).upgrade("/connection/uni_websocket");
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
    until("room", || (ask(&mut Peer::open(server.address)) == Some(404)).then_some(()));
    idle.iter_mut().for_each(Peer::ended);
    let page = Peer::open(internal).request("GET", "/metrics", &[], "").expect("an answer").body;
    let line = page.lines().find(|line| line.starts_with("gannet_service_connections_ended_total{port=\"public\"}"));
    assert!(line.is_some_and(|line| !line.ends_with(" 0")), "{line:?}");
}

/// Is it a client of the node's, on this connection?
fn is_client(server: &Server, mut peer: Peer) {
    assert!(peer.connect()["client"].is_string());
    peer.send_frame(TEXT, br#"{"id":2,"subscribe":{"channel":"c"}}"#);
    assert_eq!(peer.text(), r#"{"id":2,"subscribe":{}}"#);
    server.publish("c", json!("heard"));
    assert_eq!(peer.text(), r#"{"push":{"channel":"c","pub":{"data":"heard"}}}"#);
}

#[test]
fn a_handshake_may_follow_plain_http_on_its_connection() {
    let limits = ["--client.connection_limit_per_ip", "2", "--echo.enabled"];
    let server = Server::with(OPEN, &limits);
    let body = r#"{"channel":"other","data":1}"#;
    let key = format!("X-API-Key: {KEY}\r\n");
    let api = format!("POST /api/publish HTTP/1.1\r\nHost: h\r\n{key}");
    let chunked = format!("Transfer-Encoding: chunked\r\n\r\n5\r\n{}\r\n{:x};a=b\r\n", &body[..5], body.len() - 5);
    let before = [
        vec!["GET /health HTTP/1.1\r\nHost: h\r\n\r\n".to_owned()],
        vec![format!("{api}Content-Length: {}\r\n\r\n{body}", body.len())],
        vec![format!("{api}{chunked}"), format!("{}\r\n0\r\nTrailer: x\r\n\r\n", &body[5..])],
        vec!["GET /nowhere HTTP/1.1\r\nHo".to_owned(), "st: h\r\n\r\n".to_owned()],
        vec!["GET /health HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n".to_owned()],
        vec!["GET /health HTTP/1.1\r\nHost: h\r\n\r\n".repeat(3)],
    ];
    let ways = before.len() as u64;
    let handshake = upgrade_head(PATH, &[]);
    let whole = upgrade_head(&format!("ws://gannet.example{PATH}/"), &[]);
    for (at, requests) in before.into_iter().enumerate() {
        let answers = requests.concat().matches("HTTP/1.1").count();
        let mut peer = Peer::open(server.address);
        requests.iter().for_each(|part| peer.send(part.as_bytes()));
        (0..answers).for_each(|_| assert!([200, 404].contains(&peer.response().status)));
        match at % 3 {
            0 => peer.send(handshake.as_bytes()),
            1 => {
                peer.send(&handshake.as_bytes()[..40]);
                assert!(server.metric("gannet_node_uptime_seconds") < 1000, "it is served meanwhile");
                peer.send(&handshake.as_bytes()[40..]);
            }
            _ => peer.send(whole.as_bytes()),
        }
        assert_eq!(peer.response().status, 101);
        is_client(&server, peer);
        until("it to be gone", || (server.metric("gannet_client_connections_inflight") == 0).then_some(()));
    }
    server.counts("gannet_reactor_sockets_handed_back_total", ways);

    // Its first command may come with it, and the answer before it may still be on its way.
    let mut peer = Peer::open(server.address);
    let frame = frame(TEXT, br#"{"id":1,"connect":{}}"#);
    let both = ["GET /health HTTP/1.1\r\nHost: h\r\n\r\n".as_bytes(), handshake.as_bytes(), &frame].concat();
    peer.send(&both);
    assert_eq!((peer.response().status, peer.response().status), (200, 101));
    assert!(peer.text().contains("\"connect\""));
    // The connection counts for its address as it did all along.
    let mut second = Peer::open(server.address);
    let refused = second.try_response().map(|answer| answer.status);
    assert_eq!(refused, Some(503), "this one and the kept one of the test's own are all");
    drop(peer);
    let mut echo = until("a place", || {
        let mut peer = Peer::open(server.address);
        peer.request("GET", "/health", &[], "").filter(|answer| answer.status == 200).map(|_| peer)
    });
    echo.send(upgrade_head("/echo", &[]).as_bytes());
    assert_eq!(echo.response().status, 101);
    drop(echo);
    let mut refused = until("a place", || {
        let mut peer = Peer::open(server.address);
        peer.request("GET", "/health", &[], "").filter(|answer| answer.status == 200).map(|_| peer)
    });
    refused.send(upgrade_head(PATH, &["Origin: https://evil.example"]).as_bytes());
    assert_eq!(refused.response().status, 403);
    refused.ended();
}

#[test]
fn a_handshake_for_a_whole_url_is_one_for_its_path() {
    let server = Server::start(OPEN);
    for host in ["ws://gannet.example", "http://gannet.example:80", "WSS://other"] {
        is_client(&server, Peer::open(server.address).upgrade(&format!("{host}{PATH}")));
    }
    let mut peer = Peer::open(server.address);
    peer.send(upgrade_head("ws://gannet.example/nowhere", &[]).as_bytes());
    assert_eq!(peer.response().status, 404);
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
