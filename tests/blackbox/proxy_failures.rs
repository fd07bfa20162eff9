//! A backend that is slow, broken or gone: what clients see of it, and who does not notice.

use crate::backend::{Backend, Gate, ok, silence};
use crate::client::{Client, Witness};
use crate::server::{GUARDED, Server};
use serde_json::{Value, json};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const RPC: &[&str] = &["--rpc.without_namespace.proxy_enabled"];

fn temporary(code: u64) -> Value {
    let message = if code == 100 { "internal server error" } else { "too many requests" };
    json!({ "code": code, "message": message, "temporary": true })
}

fn errors(server: &Server, cause: &str) -> u64 {
    server.metric(&format!("gannet_proxy_errors_total{{proxy=\"rpc.proxy\",type=\"rpc\",cause=\"{cause}\"}}"))
}

fn call(client: &mut Client, method: &str) -> Value {
    client.ask(json!({ "rpc": { "method": method } }))
}

#[test]
fn each_way_to_fail_is_error_100_and_counted() {
    let gate = Gate::default();
    let held = gate.clone();
    let backend = Backend::start(move |asked| match asked.text("method") {
        "slow" => {
            held.pass();
            ok(json!({}))
        }
        "status" => (502, "no".into()),
        "redirect" => (302, "elsewhere".into()),
        "unreadable" => (200, "<html>".into()),
        "large" => ok(json!({ "result": { "data": "x".repeat(2000) } })),
        "silent" => silence(),
        _ => ok(json!({})),
    });
    let options = ["--backend.breaker_calls=0", "--backend.response_size_limit=1000", "--rpc.proxy.timeout=300ms"];
    let server = backend.serves(&["rpc.proxy"], &[GUARDED, RPC, &options].concat());
    let mut client = Client::connected(&server);
    let causes = [
        ("slow", "timeout"),
        ("status", "status"),
        ("redirect", "status"),
        ("unreadable", "unreadable"),
        ("large", "too_large"),
        ("silent", "unreachable"),
    ];
    for (method, cause) in causes {
        let before = errors(&server, cause);
        assert_eq!(call(&mut client, method)["error"], temporary(100), "{method}");
        assert_eq!(errors(&server, cause), before + 1, "{method}");
    }
    assert_eq!(call(&mut client, "well")["rpc"], json!({}));
    gate.open();
    // Nobody listens there.
    let port = TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("an address");
    let endpoint = format!("--rpc.proxy.endpoint=http://{port}");
    let server = Server::start(&[GUARDED, RPC, &[&endpoint]].concat());
    assert_eq!(call(&mut Client::connected(&server), "m")["error"], temporary(100));
    assert_eq!(errors(&server, "unreachable"), 1);
}

#[test]
fn a_slow_backend_delays_only_who_waits_for_it() {
    let gate = Gate::default();
    let held = gate.clone();
    let backend = Backend::start(move |_| {
        held.pass();
        ok(json!({}))
    });
    let options = ["--reactors=2", "--rpc.proxy.timeout=60s", "--rpc.proxy.inflight_limit=20"];
    let server = backend.serves(&["rpc.proxy"], &[GUARDED, RPC, &options].concat());
    let mut witness = Witness::join(&server);
    let mut waiting: Vec<Client> = (0..20).map(|_| Client::connected_as(&server, "42")).collect();
    waiting.iter_mut().for_each(|client| client.send(r#"{"id":50,"rpc":{"method":"m"}}"#));
    backend.hears("/proxy", 20);
    assert_eq!(server.metric("gannet_proxy_inflight_requests{proxy=\"rpc.proxy\"}"), 20);
    assert_eq!(server.metric("gannet_backend_inflight_requests"), 20);
    let mut other = Client::connected_as(&server, "43");
    assert_eq!(call(&mut other, "m")["error"], temporary(111));
    let refused = "gannet_proxy_refused_total{proxy=\"rpc.proxy\",type=\"rpc\",limit=\"inflight_limit\"}";
    assert_eq!(server.metric(refused), 1);
    for _ in 0..20 {
        witness.hears(&server);
    }
    other.subscribe("news");
    server.publish("news", json!(1));
    assert_eq!(other.publication().1, 1);
    gate.open();
    for mut client in waiting {
        assert_eq!(client.next(), json!({ "id": 50, "rpc": {} }));
    }
    assert_eq!(call(&mut other, "m")["rpc"], json!({}));
    assert_eq!(server.metric("gannet_backend_inflight_requests"), 0);
}

#[test]
fn the_nodes_limit_refuses_what_a_proxy_would_take() {
    let gate = Gate::default();
    let held = gate.clone();
    let backend = Backend::start(move |_| {
        held.pass();
        ok(json!({}))
    });
    let options = ["--backend.inflight_limit=3", "--rpc.proxy.timeout=60s"];
    let server = backend.serves(&["rpc.proxy"], &[GUARDED, RPC, &options].concat());
    let mut client = Client::connected(&server);
    for id in 50..53 {
        client.send(&json!({ "id": id, "rpc": { "method": "m" } }).to_string());
    }
    backend.hears("/proxy", 3);
    let mut other = Client::connected(&server);
    assert_eq!(call(&mut other, "m")["error"], temporary(111));
    assert_eq!(server.metric("gannet_backend_refused_total"), 1);
    gate.open();
    assert_eq!((0..3).map(|_| client.next()["id"].clone()).collect::<Vec<_>>(), [50, 51, 52]);
    assert_eq!(call(&mut other, "m")["rpc"], json!({}));
}

#[test]
fn the_breaker_opens_and_closes_again() {
    let works = Arc::new(AtomicBool::new(false));
    let well = works.clone();
    let backend = Backend::start(move |asked| match asked.text("method") {
        "refused" => (404, String::new()),
        _ if well.load(Ordering::SeqCst) => ok(json!({})),
        _ => (500, String::new()),
    });
    let options = ["--backend.breaker_calls=4", "--backend.breaker_window=60s", "--backend.breaker_delay=500ms"];
    let server = backend.serves(&["rpc.proxy"], &[GUARDED, RPC, &options].concat());
    let mut witness = Witness::join(&server);
    let mut client = Client::connected(&server);
    let state = || server.metric("gannet_proxy_breaker_state{proxy=\"rpc.proxy\"}");
    for _ in 0..3 {
        assert_eq!(call(&mut client, "refused")["error"], temporary(100));
    }
    for _ in 0..3 {
        assert_eq!(state(), 0, "below half");
        assert_eq!(call(&mut client, "m")["error"], temporary(100));
    }
    assert_eq!(state(), 2);
    let asked = backend.asked("/proxy").len();
    assert_eq!(asked, 6);
    assert_eq!(call(&mut client, "m")["error"], temporary(100));
    let refused = "gannet_proxy_refused_total{proxy=\"rpc.proxy\",type=\"rpc\",limit=\"breaker\"}";
    server.counts(refused, 1);
    witness.hears(&server);
    works.store(true, Ordering::SeqCst);
    crate::server::until("an answer", || (call(&mut client, "m")["rpc"] == json!({})).then_some(()));
    assert_eq!(state(), 0);
    assert!(server.logged("the backend answers again"));
}
