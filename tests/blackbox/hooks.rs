//! What the backend is told without asking: in order, in batches, at most once.

use crate::backend::{Backend, ok};
use crate::client::{Client, Witness};
use crate::server::{GUARDED, Server, until};
use serde_json::{Value, json};

/// All events so far, in the order in which they came.
fn events(backend: &Backend) -> Vec<Value> {
    let batches = backend.asked("/hooks");
    batches.iter().flat_map(|asked| asked.body["events"].as_array().expect("a list").clone()).collect()
}

fn heard(backend: &Backend, count: usize) -> Vec<Value> {
    until(&format!("{count} events"), || Some(events(backend)).filter(|events| events.len() >= count))
}

fn started(backend: &Backend, options: &[&str]) -> Server {
    let endpoint = format!("--hooks.endpoint={}", backend.url("/hooks"));
    Server::start(&[GUARDED, &["--reactors=1", &endpoint], options].concat())
}

#[test]
fn events_arrive_in_order() {
    let backend = Backend::start(|_| ok(json!({})));
    let headers = "--hooks.http.static_headers={\"X-Key\":\"secret-key\"}";
    let server = started(&backend, &["--hooks.batch_delay=0s", headers]);
    let mut client = Client::open(&server);
    let id = client.connect(&crate::client::token(&json!({ "sub": "42" })))["client"].clone();
    client.subscribe("news");
    let mut second = Client::connected(&server);
    second.subscribe("news");
    client.ask(json!({ "unsubscribe": { "channel": "news" } }));
    drop(second);
    heard(&backend, 5);
    client.subscribe("mail");
    server.call("disconnect", json!({ "user": "42" }));
    assert_eq!(client.closed(), 3503);
    let events = heard(&backend, 8);
    assert_eq!(events.len(), 8);
    assert!(events.windows(2).all(|two| two[0]["time"].as_u64() <= two[1]["time"].as_u64()));
    let of = |kind: &str| events.iter().filter(|event| event["type"] == kind).cloned().collect::<Vec<_>>();
    let bare = |event: &Value| {
        let mut event = event.clone();
        event.as_object_mut().expect("an object").remove("time").expect("a time");
        event
    };
    assert_eq!(bare(&events[0]), json!({ "type": "connected", "client": id, "user": "42" }));
    assert_eq!(bare(&events[1]), json!({ "type": "occupied", "channel": "news" }));
    assert_eq!(events[2]["type"], "connected");
    let left = [&events[3]["type"], &events[4]["type"]];
    assert!(left.contains(&&json!("disconnected")) && left.contains(&&json!("vacated")), "{events:?}");
    assert_eq!(bare(&events[5]), json!({ "type": "occupied", "channel": "mail" }));
    assert_eq!(of("vacated").iter().map(bare).next(), Some(json!({ "type": "vacated", "channel": "news" })));
    let codes: Vec<(Value, Value)> =
        of("disconnected").iter().map(|e| (e["user"].clone(), e["code"].clone())).collect();
    assert_eq!(codes, [(json!(""), json!(0)), (json!("42"), json!(3503))]);
    assert_eq!(backend.asked("/hooks")[0].header("x-key"), ["secret-key"]);
    server.counts("gannet_hooks_sent_total", 8);
}

#[test]
fn events_are_put_together_and_chosen() {
    let backend = Backend::start(|_| ok(json!({})));
    let options = ["--hooks.batch_delay=60s", "--hooks.batch_size=10", "--hooks.events=connect,occupied"];
    let server = started(&backend, &options);
    let clients: Vec<Client> = (0..30).map(|_| Client::connected(&server)).collect();
    backend.hears("/hooks", 3);
    let batches = backend.asked("/hooks");
    assert!(batches.iter().all(|batch| batch.body["events"].as_array().map(Vec::len) == Some(10)));
    assert!(events(&backend).iter().all(|event| event["type"] == "connected"));
    drop(clients);
}

#[test]
fn a_backend_that_is_down_is_told_nothing_again_and_nobody_else_notices() {
    let backend = Backend::start(|_| (503, String::new()));
    let server = started(&backend, &["--hooks.batch_delay=0s"]);
    let mut witness = Witness::join(&server);
    server.counts("gannet_hooks_failed_total", 2);
    for _ in 0..10 {
        Client::connected(&server).subscribe("news");
        witness.hears(&server);
    }
    server.counts("gannet_hooks_failed_total", 42);
    assert_eq!(events(&backend).len(), 42, "each is told once");
    assert_eq!(server.metric("gannet_hooks_sent_total"), 0);

    let gate = crate::backend::Gate::default();
    let held = gate.clone();
    let slow = Backend::start(move |_| {
        held.pass();
        ok(json!({}))
    });
    let server = started(&slow, &["--hooks.queue_size=5", "--hooks.timeout=60s", "--hooks.batch_delay=0s"]);
    let mut witness = Witness::join(&server);
    slow.hears("/hooks", 1);
    let clients: Vec<Client> = (0..20).map(|_| Client::connected(&server)).collect();
    server.counts("gannet_hooks_dropped_total", 10);
    witness.hears(&server);
    gate.open();
    drop(clients);
    server.counts("gannet_hooks_sent_total", 3);
    witness.hears(&server);
}
