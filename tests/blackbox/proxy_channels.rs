//! What a client may do in channels, and what methods answer, asked of the backend.

use crate::backend::{Asked, Backend, Gate, Said, ok};
use crate::client::{Client, now};
use crate::server::{GUARDED, Server, until};
use serde_json::{Value, json};

const SECTIONS: &[&str] =
    &["channel.proxy.subscribe", "channel.proxy.sub_refresh", "channel.proxy.publish", "rpc.proxy"];

/// Says what the command's data asks it to say.
fn echo(asked: &Asked) -> Said {
    ok(asked.body["data"].clone())
}

fn serve(backend: &Backend, options: &[&str]) -> Server {
    let namespaces = json!([
        { "name": "in", "subscribe_proxy_enabled": true, "sub_refresh_proxy_enabled": true, "presence": true,
          "allow_presence_for_client": true, "history_size": 10, "history_ttl": "1m",
          "allow_publish_for_client": true },
        { "name": "out", "publish_proxy_enabled": true, "allow_subscribe_for_client": true, "history_size": 10,
          "history_ttl": "1m", "allow_history_for_client": true }
    ]);
    let namespaces = format!("--channel.namespaces={namespaces}");
    backend.serves(SECTIONS, &[GUARDED, &["--reactors=2", &namespaces], options].concat())
}

fn subscribe(client: &mut Client, channel: &str, data: Value) -> Value {
    client.ask(json!({ "subscribe": { "channel": channel, "data": data } }))
}

#[test]
fn a_subscription_is_granted_as_the_backend_says() {
    let backend = Backend::start(echo);
    let server = serve(&backend, &[]);
    let mut client = Client::open(&server);
    let id = client.connect(&crate::client::token(&json!({ "sub": "42" })))["client"].clone();
    let grant = json!({ "data": [1], "info": { "i": 1 }, "override": { "force_recovery": { "value": true } } });
    let reply = subscribe(&mut client, "in:a", json!({ "result": grant }));
    assert_eq!(
        (&reply["subscribe"]["data"], &reply["subscribe"]["recoverable"]),
        (&json!([1]), &json!(true)),
        "{reply}"
    );
    let expected = json!({
        "client": id, "transport": "websocket", "protocol": "json", "encoding": "json", "user": "42",
        "channel": "in:a", "data": { "result": grant }
    });
    assert_eq!(backend.asked("/subscribe")[0].body, expected);
    let listed = client.ask(json!({ "presence": { "channel": "in:a" } }));
    let one = &listed["presence"]["presence"][id.as_str().expect("an id")];
    assert_eq!((&one["chan_info"], &one["user"]), (&json!({ "i": 1 }), &json!("42")), "{listed}");
    client.ask(json!({ "publish": { "channel": "in:a", "data": 1 } }));
    assert_eq!(client.next()["push"]["pub"]["info"]["chan_info"], json!({ "i": 1 }));
    // Nothing special is granted by nothing.
    assert!(subscribe(&mut client, "in:b", json!({}))["subscribe"]["recoverable"].is_null());
}

#[test]
fn a_subscription_is_refused_as_the_backend_says() {
    let backend = Backend::start(echo);
    let server = serve(&backend, &[]);
    let mut client = Client::connected_as(&server, "42");
    let error = json!({ "code": 1001, "message": "not you" });
    assert_eq!(subscribe(&mut client, "in:a", json!({ "error": error }))["error"], error);
    assert_eq!(subscribe(&mut client, "in:a", json!({ "error": error }))["error"], error, "again, and at once");
    assert!(subscribe(&mut client, "in:a", json!({}))["subscribe"].is_object());
    assert_eq!(subscribe(&mut client, "in:a", json!({}))["error"]["code"], 105);
    assert_eq!(backend.asked("/subscribe").len(), 3, "who has it already is not asked about");
    assert_eq!(client.refused(json!({ "subscribe": { "channel": "$in:x" } })), 103);
    assert_eq!(client.refused(json!({ "subscribe": { "channel": "in:d", "tf": { "key": "a" } } })), 107);
    client.send(r#"{"id":60,"subscribe":{"channel":"in:b","data":{"disconnect":{"code":4002,"reason":"x"}}}}"#);
    assert_eq!(client.closed(), 4002);
    assert_eq!(server.metric("gannet_node_num_subscriptions"), 0);
}

#[test]
fn a_subscription_may_be_given_up_and_wanted_again_while_it_is_asked_about() {
    let gates = [Gate::default(), Gate::default()];
    let held = gates.clone();
    let backend = Backend::start(move |asked| {
        held[asked.body["data"]["gate"].as_u64().unwrap_or(0) as usize].pass();
        ok(asked.body["data"]["say"].clone())
    });
    let server = serve(&backend, &[]);
    let mut client = Client::connected_as(&server, "42");
    let ask = |id: u32, gate: u32, say: Value| {
        json!({ "id": id, "subscribe": { "channel": "in:a", "data": { "gate": gate, "say": say } } }).to_string()
    };
    client.send(&ask(50, 0, json!({ "error": { "code": 1001, "message": "not you" } })));
    client.send(&ask(51, 0, json!({})));
    client.send(r#"{"id":52,"unsubscribe":{"channel":"in:a"}}"#);
    client.send(&ask(53, 1, json!({ "result": { "data": "second" } })));
    backend.hears("/subscribe", 2);
    // The answer to the first comes after the second was asked, and the second's after the first's or before.
    gates[0].open();
    assert_eq!(client.next(), json!({ "id": 50, "subscribe": {} }));
    assert_eq!(client.next()["error"]["code"], 105);
    assert_eq!(client.next(), json!({ "id": 52, "unsubscribe": {} }));
    gates[1].open();
    let reply = client.next();
    assert_eq!((&reply["id"], &reply["subscribe"]["data"]), (&json!(53), &json!("second")), "{reply}");
    server.call("publish", json!({ "channel": "in:a", "data": 1 }));
    assert_eq!(client.publication(), ("in:a".into(), json!(1)));
    assert_eq!(server.metric("gannet_node_num_subscriptions"), 1);
    assert_eq!(client.ask(json!({ "unsubscribe": { "channel": "in:a" } }))["unsubscribe"], json!({}));
    assert_eq!(server.metric("gannet_node_num_subscriptions"), 0);
}

#[test]
fn the_backend_is_asked_when_a_subscription_expires() {
    let backend = Backend::start(|asked| match (asked.path.as_str(), asked.text("channel")) {
        ("/subscribe", _) => ok(json!({ "result": { "expire_at": now() + 2 } })),
        (_, "in:kept") => ok(json!({ "result": { "expire_at": now() + 1000, "info": { "i": 2 } } })),
        (_, "in:over") => ok(json!({ "result": { "expired": true } })),
        (_, "in:nothing") => ok(json!({})),
        _ => ok(json!({ "disconnect": { "code": 4003, "reason": "x" } })),
    });
    // Nothing else is due in a session meanwhile.
    let options =
        ["--client.expired_sub_close_delay=60s", "--client.stale_close_delay=1h", "--client.ping_interval=1h"];
    let server = serve(&backend, &options);
    let mut client = Client::connected_as(&server, "42");
    for channel in ["in:kept", "in:over", "in:nothing"] {
        assert!(subscribe(&mut client, channel, json!(1))["subscribe"]["expires"].is_null(), "the server refreshes");
    }
    let mut ended: Vec<Value> = vec![client.next(), client.next()];
    ended.sort_by_key(|push| push["push"]["channel"].to_string());
    let why = json!({ "code": 2501, "reason": "subscription expired" });
    assert_eq!(ended[0], json!({ "push": { "channel": "in:nothing", "unsubscribe": why } }));
    assert_eq!(ended[1], json!({ "push": { "channel": "in:over", "unsubscribe": why } }));
    let asked = backend.hears("/sub_refresh", 3);
    let kept = asked.iter().find(|asked| asked.text("channel") == "in:kept").expect("a question");
    assert_eq!((kept.text("user"), kept.body.as_object().expect("an object").len()), ("42", 6));
    until("the new info", || {
        client.ask(json!({ "publish": { "channel": "in:kept", "data": 1 } }));
        (client.next()["push"]["pub"]["info"]["chan_info"] == json!({ "i": 2 })).then_some(())
    });
    subscribe(&mut client, "in:kicked", json!(1));
    assert_eq!(client.closed(), 4003);
}

#[test]
fn a_publication_is_what_the_backend_makes_of_it() {
    let backend = Backend::start(echo);
    let server = serve(&backend, &[]);
    let mut client = Client::connected_as(&server, "42");
    assert_eq!(client.ask(json!({ "subscribe": { "channel": "out:a" } }))["subscribe"], json!({}));
    let mut publish = |say: Value| client.ask(json!({ "publish": { "channel": "out:a", "data": say } }));
    assert_eq!(publish(json!({}))["publish"], json!({}));
    assert_eq!(publish(json!({ "result": { "data": { "b": 2 }, "tags": { "k": "v" } } }))["publish"], json!({}));
    assert_eq!(publish(json!({ "result": { "data": 3, "skip_history": true } }))["publish"], json!({}));
    let error = json!({ "code": 1002, "message": "no such words" });
    assert_eq!(publish(json!({ "error": error }))["error"], error);
    let pushes: Vec<Value> = (0..3).map(|_| client.next()["push"]["pub"].clone()).collect();
    assert_eq!(pushes.iter().map(|one| &one["data"]).collect::<Vec<_>>(), [&json!({}), &json!({ "b": 2 }), &json!(3)]);
    assert_eq!((&pushes[1]["tags"], &pushes[0]["info"]["user"]), (&json!({ "k": "v" }), &json!("42")));
    assert_eq!((&pushes[1]["offset"], &pushes[2]["offset"]), (&json!(2), &Value::Null));
    let history = client.ask(json!({ "history": { "channel": "out:a", "limit": -1 } }));
    let kept: Vec<&Value> =
        history["history"]["publications"].as_array().expect("a list").iter().map(|one| &one["data"]).collect();
    assert_eq!(kept, [&json!({}), &json!({ "b": 2 })]);
    assert_eq!(history["history"]["offset"], 2);
    client.send(r#"{"id":70,"publish":{"channel":"out:a","data":{"disconnect":{"code":4004,"reason":"x"}}}}"#);
    assert_eq!(client.closed(), 4004);
}

#[test]
fn methods_have_namespaces() {
    let backend = Backend::start(|asked| match asked.text("method") {
        "fail" => ok(json!({ "error": { "code": 1003, "message": "failed" } })),
        "close" => ok(json!({ "disconnect": { "code": 4005, "reason": "x" } })),
        "empty" => ok(json!({})),
        "missing" => (404, String::new()),
        "broken" => ok(json!([])),
        method => {
            ok(json!({ "result": { "data": { "path": asked.path, "method": method, "data": asked.body["data"] } } }))
        }
    });
    let namespaces = json!([{ "name": "on", "proxy_enabled": true, "proxy_name": "other" }, { "name": "off" }]);
    let proxies = json!([{ "name": "other", "endpoint": backend.url("/other") }]);
    let transforms = json!([{ "status_code": 404, "to_error": { "code": 404, "message": "nothing there" } }]);
    let options = [
        format!("--rpc.namespaces={namespaces}"),
        format!("--proxies={proxies}"),
        format!("--rpc.proxy.http.status_to_code_transforms={transforms}"),
        "--rpc.without_namespace.proxy_enabled".into(),
        "--rpc.ping.enabled".into(),
    ];
    let server = serve(&backend, &options.iter().map(String::as_str).collect::<Vec<_>>());
    let mut client = Client::connected_as(&server, "42");
    let mut rpc = |method: &str| client.ask(json!({ "rpc": { "method": method, "data": [1] } }));
    assert_eq!(rpc("sum")["rpc"]["data"], json!({ "path": "/proxy", "method": "sum", "data": [1] }));
    assert_eq!(rpc("on:sum")["rpc"]["data"]["path"], "/other");
    assert_eq!(rpc("off:sum")["error"]["code"], 108);
    assert_eq!(rpc("none:sum")["error"]["code"], 104);
    assert_eq!(rpc("empty")["rpc"], json!({}));
    assert_eq!(rpc("fail")["error"], json!({ "code": 1003, "message": "failed" }));
    assert_eq!(rpc("missing")["error"], json!({ "code": 404, "message": "nothing there" }));
    assert_eq!(rpc("broken")["error"]["code"], 100);
    assert_eq!(backend.asked("/proxy").len(), 5);
    assert_eq!(rpc("ping")["rpc"], json!({}));
    assert_eq!(backend.asked("/proxy").len(), 5, "the node answers it itself");
    client.send(r#"{"id":80,"rpc":{"method":"close"}}"#);
    assert_eq!(client.closed(), 4005);
}

/// The server subscribes a client while the backend is asked about the client's own command: that is answered first,
/// and then the server's subscription takes its place, whatever the answer was.
#[test]
fn what_the_server_wants_meanwhile_comes_behind_the_answer() {
    let gate = Gate::default();
    let held = gate.clone();
    let backend = Backend::start(move |asked| {
        held.pass();
        echo(asked)
    });
    let server = serve(&backend, &["--channel.proxy.subscribe.timeout=20s"]);
    let mut client = Client::connected_as(&server, "42");
    let channels = ["in:granted", "in:refused", "in:left"];
    let refusal = json!({ "error": { "code": 1000, "message": "no" } });
    for (at, (channel, data)) in channels.into_iter().zip([json!({}), refusal, json!({})]).enumerate() {
        let id = 100 + at;
        client.send(&json!({ "id": id, "subscribe": { "channel": channel, "data": data } }).to_string());
    }
    backend.hears("/subscribe", 3);
    for data in [1, 2] {
        for channel in channels {
            let answer = server.call("subscribe", json!({ "user": "42", "channel": channel, "data": { "n": data } }));
            assert_eq!(answer, json!({ "result": {} }));
        }
    }
    client.send(&json!({ "id": 200, "unsubscribe": { "channel": "in:left" } }).to_string());
    // It is carried out before the gate opens.
    server.counts("gannet_transport_messages_received_total", 5);
    gate.open();
    let mut told: Vec<Value> = (0..6).map(|_| client.next()).collect();
    let at = |told: &[Value], what: &dyn Fn(&Value) -> bool| {
        told.iter().position(what).unwrap_or_else(|| panic!("{told:?}"))
    };
    let granted = at(&told, &|it| it["id"] == 100 && it["subscribe"].is_object());
    let refused = at(&told, &|it| it["id"] == 101 && it["error"]["code"] == 1000);
    let pushed = |channel: &'static str| {
        move |it: &Value| it["push"]["channel"] == channel && it["push"]["subscribe"]["data"] == json!({ "n": 2 })
    };
    assert!(granted < at(&told, &pushed("in:granted")) && refused < at(&told, &pushed("in:refused")), "{told:?}");
    told.retain(|it| it["id"] == 102 || it["id"] == 200);
    assert_eq!(told.len(), 2, "the client has left, and nothing brings it back");
    for channel in channels {
        server.call("publish", json!({ "channel": channel, "data": 1 }));
    }
    assert_eq!([client.publication().0, client.publication().0], ["in:granted", "in:refused"]);
    assert_eq!(server.metric("gannet_node_num_subscriptions"), 2);
}
