//! Who a client is, asked of the backend: connect, what waits behind it, headers, and refresh.

use crate::backend::{Asked, Backend, Gate, Said, ok};
use crate::client::{Client, now, soon, token};
use crate::peer::{PATH, Peer, TEXT, upgrade_head};
use crate::server::{SECRET, Server, until};
use serde_json::{Value, json};

const CONNECT: &str = "client.proxy.connect";
const REFRESH: &str = "client.proxy.refresh";
const OPEN_CHANNELS: &[&str] = &[
    "--channel.without_namespace.allow_subscribe_for_client",
    "--channel.without_namespace.allow_subscribe_for_anonymous",
    "--channel.without_namespace.allow_publish_for_client",
    "--channel.without_namespace.allow_publish_for_anonymous",
];

/// A backend that says the same to each question to connect.
fn always(said: Value) -> Backend {
    Backend::start(move |_| ok(said.clone()))
}

/// What the client's data asks the backend to say.
fn echo(asked: &Asked) -> Said {
    ok(asked.body["data"].clone())
}

fn connect_with(client: &mut Client, data: Value) -> Value {
    client.ask(json!({ "connect": { "data": data } }))
}

fn clients(server: &Server) -> Value {
    server.call("info", json!({}))["result"]["nodes"][0]["num_clients"].clone()
}

#[test]
fn the_backend_says_who_a_client_is_and_what_it_hears() {
    let subs =
        json!({ "mail": { "data": { "x": 1 }, "info": { "i": 2 }, "override": { "presence": { "value": true } } } });
    let said =
        json!({ "user": "42", "info": { "n": 1 }, "data": { "hello": "you" }, "channels": ["news"], "subs": subs });
    let backend = always(json!({ "result": said }));
    let server = backend.serves(&[CONNECT], &["--reactors", "2"]);
    let mut client = Client::open(&server);
    let connect = json!({ "data": { "k": "v" }, "name": "js", "version": "5", "subs": { "b": {}, "a": {} } });
    let reply = client.ask(json!({ "connect": connect }))["connect"].clone();
    assert_eq!(reply["data"], json!({ "hello": "you" }));
    assert_eq!(reply["subs"], json!({ "news": {}, "mail": { "data": { "x": 1 } } }));
    let asked = &backend.asked("/connect")[0];
    let expected = json!({
        "client": reply["client"], "transport": "websocket", "protocol": "json", "encoding": "json",
        "data": { "k": "v" }, "name": "js", "version": "5", "channels": ["a", "b"]
    });
    assert_eq!(asked.body, expected);
    assert_eq!(asked.header("content-type"), ["application/json"]);
    for channel in ["news", "mail"] {
        server.publish(channel, json!(1));
        assert_eq!(client.publication(), (channel.to_owned(), json!(1)));
    }
    let info = server.call("info", json!({}));
    assert_eq!(info["result"]["nodes"][0]["num_users"], 1);
    server.call("disconnect", json!({ "user": "42" }));
    assert_eq!(client.closed(), 3503);
    until("nobody", || (clients(&server) == 0).then_some(()));
}

#[test]
fn the_channels_of_the_backend_are_all_there_are() {
    let backend = Backend::start(echo);
    let personal =
        ["--client.subscribe_to_user_personal_channel.enabled", "--client.allow_anonymous_connect_without_token"];
    let kept = ["--channel.without_namespace.history_size=5", "--channel.without_namespace.history_ttl=60s"];
    let recovers = ["--channel.without_namespace.force_recovery", "--client.token.hmac_secret_key", SECRET];
    let server = backend.serves(&[CONNECT], &[OPEN_CHANNELS, &personal, &kept, &recovers].concat());
    let epoch = server.call("publish", json!({ "channel": "news", "data": 1 }))["result"]["epoch"].clone();
    let wish = json!({ "recover": true, "epoch": epoch });
    let subs = json!({ "news": &wish, "open": {}, "#42": &wish, "nowhere:a": {} });
    let connect = |said: Value, subs: &Value| {
        let mut client = Client::open(&server);
        let reply = client.ask(json!({ "connect": { "data": said, "subs": subs } }));
        let connect = reply["connect"]["subs"].as_object().cloned().unwrap_or_default();
        (connect.keys().cloned().collect::<Vec<_>>(), connect)
    };
    let (names, subs_now) = connect(json!({ "result": { "user": "42", "channels": ["news"] } }), &subs);
    assert_eq!(names, ["#42", "news"]);
    assert_eq!((&subs_now["news"]["recovered"], &subs_now["#42"]["was_recovering"]), (&json!(true), &json!(true)));
    let (names, _) = connect(json!({ "result": { "user": "" } }), &json!({ "open": {} }));
    assert!(names.is_empty(), "{names:?}");
    // A backend that names nobody leaves the client to the node's own rules.
    let (names, _) = connect(json!({}), &json!({ "open": {} }));
    assert_eq!(names, ["open"]);
    let mut client = Client::open(&server);
    let by_token = json!({ "token": token(&json!({ "sub": "7", "channels": ["news"] })), "subs": { "open": {} } });
    let reply = client.ask(json!({ "connect": by_token }));
    assert_eq!(reply["connect"]["subs"].as_object().map(|subs| subs.len()), Some(3), "{reply}");
}

#[test]
fn an_override_lists_a_client_where_the_namespace_does() {
    let sub = |value: bool| json!({ "info": { "i": 2 }, "override": { "presence": { "value": value } } });
    let said = json!({ "user": "42", "info": { "n": 1 }, "subs": { "in": sub(true), "out": sub(false) } });
    let backend = always(json!({ "result": said }));
    let options = ["--channel.without_namespace.presence", "--channel.without_namespace.allow_presence_for_client"];
    let server = backend.serves(&[CONNECT], &[&options[..], &["--client.token.hmac_secret_key", SECRET]].concat());
    let mut judge = Client::connected_as(&server, "judge");
    let mut presence =
        |channel: &str| judge.ask(json!({ "presence": { "channel": channel } }))["presence"]["presence"].clone();
    let client = Client::connected(&server);
    let listed = presence("in");
    let one = listed.as_object().expect("an object").values().next().expect("one client");
    assert_eq!(
        (&one["conn_info"], &one["chan_info"], &one["user"]),
        (&json!({ "n": 1 }), &json!({ "i": 2 }), &json!("42"))
    );
    assert_eq!(presence("out"), json!({}));
    drop(client);
    until("nobody", || (presence("in") == json!({})).then_some(()));
}

#[test]
fn who_is_not_known_is_anonymous_or_refused() {
    let backend = Backend::start(echo);
    let server = backend.serves(&[CONNECT], &[]);
    let mut client = Client::open(&server);
    client.send(r#"{"id":1,"connect":{"data":{}}}"#);
    assert_eq!(client.closed(), 3501);
    let mut nameless = Client::open(&server);
    assert!(connect_with(&mut nameless, json!({ "result": {} }))["connect"]["client"].is_string());
    let lenient =
        backend.serves(&[CONNECT], &[OPEN_CHANNELS, &["--client.allow_anonymous_connect_without_token"]].concat());
    let mut client = Client::open(&lenient);
    assert!(connect_with(&mut client, json!({}))["connect"]["client"].is_string());
    client.subscribe("news");
    lenient.publish("news", json!(1));
    assert_eq!(client.publication().1, 1);
}

#[test]
fn an_error_or_a_disconnect_goes_to_the_client() {
    let backend = Backend::start(echo);
    let server = backend.serves(&[CONNECT], &[]);
    let mut client = Client::open(&server);
    let error = json!({ "code": 1234, "message": "not today", "temporary": true });
    assert_eq!(connect_with(&mut client, json!({ "error": error }))["error"], error);
    client.send(r#"{"id":9,"subscribe":{"channel":"c"}}"#);
    assert_eq!(client.closed(), 3501);

    let mut peer = Peer::upgraded(&server);
    peer.send_frame(TEXT, br#"{"id":1,"connect":{"data":{"disconnect":{"code":4321,"reason":"go away"}}}}"#);
    assert_eq!(peer.closed(), (4321, "go away".into()));
    let mut client = Client::open(&server);
    let nowhere = json!({ "result": { "user": "1", "channels": ["nowhere:x"] } });
    assert_eq!(connect_with(&mut client, nowhere)["error"]["code"], 102);
    let mut client = Client::open(&server);
    let filter = json!({ "result": { "subs": { "a": { "server_tags_filter": { "key": "k" } } } } });
    assert_eq!(
        connect_with(&mut client, filter)["error"],
        json!({ "code": 100, "message": "internal server error", "temporary": true })
    );
    assert_eq!(
        server
            .metric("gannet_proxy_errors_total{proxy=\"client.proxy.connect\",type=\"connect\",cause=\"unreadable\"}"),
        1
    );
    assert_eq!(clients(&server), 0);
}

#[test]
fn more_channels_than_allowed_end_with_3505_and_a_token_needs_no_question() {
    let backend = always(json!({ "result": { "user": "1", "channels": ["a", "b", "c"] } }));
    let options = ["--client.channel_limit", "2", "--client.token.hmac_secret_key", SECRET];
    let server = backend.serves(&[CONNECT], &options);
    let mut client = Client::open(&server);
    client.send(r#"{"id":1,"connect":{}}"#);
    assert_eq!(client.closed(), 3505);
    Client::connected_as(&server, "42");
    assert_eq!(backend.asked("/connect").len(), 1);
}

#[test]
fn commands_wait_for_the_answer_and_are_carried_out_in_order() {
    let gate = Gate::default();
    let held = gate.clone();
    let backend = Backend::start(move |_| {
        held.pass();
        ok(json!({ "result": { "user": "42" } }))
    });
    let server = backend.serves(&[CONNECT], &[OPEN_CHANNELS, &["--reactors", "4"]].concat());
    let mut peer = Peer::upgraded(&server);
    let on = |id: u32, method: &str, channel: &str| {
        format!(r#"{{"id":{id},"{method}":{{"channel":"{channel}","data":1}}}}"#)
    };
    let first = [r#"{"id":1,"connect":{}}"#.to_owned(), on(2, "subscribe", "a"), on(3, "publish", "a")].join("\n");
    peer.send_frame(TEXT, first.as_bytes());
    backend.hears("/connect", 1);
    peer.send_frame(TEXT, on(4, "unsubscribe", "a").as_bytes());
    peer.send_frame(
        TEXT,
        [on(5, "subscribe", "a"), on(6, "subscribe", "a"), on(7, "subscribe", "b")].join("\n").as_bytes(),
    );
    gate.open();
    let mut heard: Vec<Value> = Vec::new();
    while heard.iter().filter(|one| one["id"].is_u64()).count() < 7 {
        heard.extend(peer.text().lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")));
    }
    let replies: Vec<&Value> = heard.iter().filter(|one| one["id"].is_u64()).collect();
    assert_eq!(
        replies.iter().map(|reply| reply["id"].as_u64()).collect::<Vec<_>>(),
        (1..=7).map(Some).collect::<Vec<_>>()
    );
    assert!(replies.iter().all(|reply| reply["error"].is_null() == (reply["id"] != 6)), "{replies:?}");
    assert_eq!(replies[5]["error"]["code"], 105);
}

#[test]
fn what_is_behind_an_unanswered_connect_waits_unread() {
    let gate = Gate::default();
    let held = gate.clone();
    let backend = Backend::start(move |_| {
        held.pass();
        ok(json!({ "result": { "user": "42" } }))
    });
    let server = backend.serves(&[CONNECT], &["--websocket.message_size_limit", "200"]);
    let mut peer = Peer::upgraded(&server);
    peer.send_frame(TEXT, br#"{"id":1,"connect":{}}"#);
    for id in 2..5 {
        peer.send_frame(TEXT, format!(r#"{{"id":{id},"subscribe":{{"channel":"{}"}}}}"#, "x".repeat(100)).as_bytes());
    }
    // A client that goes while it is asked about leaves nothing behind.
    let gone = Peer::upgraded(&server);
    { gone }.send_frame(TEXT, br#"{"id":1,"connect":{}}"#);
    server.counts("gannet_transport_connections_lost_total", 1);
    gate.open();
    server.counts("gannet_proxy_duration_seconds_count{proxy=\"client.proxy.connect\",type=\"connect\"}", 2);
    let mut heard: Vec<Value> = Vec::new();
    while heard.len() < 4 {
        heard.extend(peer.text().lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")));
    }
    assert_eq!(heard.iter().map(|reply| reply["id"].as_u64()).collect::<Vec<_>>(), [1, 2, 3, 4].map(Some));
    drop(peer);
    Client::connected(&server);
    until("nobody", || (clients(&server) == 0).then_some(()));
}

#[test]
fn headers_are_forwarded_the_real_ones_always_and_the_emulated_ones_to_connect() {
    let backend = Backend::start(|asked| match asked.path.as_str() {
        "/connect" => ok(json!({ "result": { "user": "42" } })),
        _ => ok(json!({ "result": { "data": 1 } })),
    });
    let mut options = Vec::new();
    for section in [CONNECT, "rpc.proxy"] {
        options.push(format!("--{section}.http_headers=Cookie,X-Real,X-Fixed,X-None"));
        options.push(format!("--{section}.emulated_headers=Authorization,X-Real,X-Fixed"));
        options
            .push(format!("--{section}.http.static_headers={}", json!({ "X-Fixed": "ours", "X-Key": "secret-key" })));
    }
    options.push("--rpc.without_namespace.proxy_enabled".into());
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let server = backend.serves(&[CONNECT, "rpc.proxy"], &options);
    let mut peer = Peer::open(server.address);
    let own = ["Cookie: a=b; c=d", "X-Real: true one", "X-Fixed: theirs", "X-Other: not asked for"];
    peer.send(upgrade_head(PATH, &own).as_bytes());
    assert_eq!(peer.response().status, 101);
    let emulated =
        json!({ "authorization": "Bearer x", "X-Real": "made up", "x-fixed": "made up", "cookie": "made up" });
    peer.send_frame(TEXT, json!({ "id": 1, "connect": { "headers": emulated } }).to_string().as_bytes());
    assert!(peer.text().contains("\"client\""));
    peer.send_frame(TEXT, br#"{"id":2,"rpc":{"method":"m"}}"#);
    assert_eq!(peer.text(), r#"{"id":2,"rpc":{"data":1}}"#);
    for (path, authorization) in [("/connect", &["Bearer x"][..]), ("/proxy", &[])] {
        let asked = &backend.asked(path)[0];
        assert_eq!(asked.header("authorization"), authorization, "{path}");
        assert_eq!(asked.header("cookie"), ["a=b; c=d"], "{path}");
        assert_eq!(asked.header("x-real"), ["true one"], "{path}");
        assert_eq!((asked.header("x-fixed"), asked.header("x-key")), (vec!["ours"], vec!["secret-key"]), "{path}");
        assert_eq!((asked.header("x-other").len(), asked.header("x-none").len()), (0, 0), "{path}");
    }
    assert!(!server.logged("secret-key"));
}

#[test]
fn all_lines_of_a_header_are_forwarded_as_they_came() {
    let backend = always(json!({ "result": { "user": "42" } }));
    let names = format!("--{CONNECT}.http_headers=X-Forwarded-For,Cookie,X-Name");
    let server = backend.serves(&[CONNECT], &[&names, "--uni_sse.enabled"]);
    // A client's own claim, and behind it what the proxy in front adds; Latin-1, UTF-8 with a byte that is a blank in
    // Latin-1 at its end, and an empty value.
    let lines: &[&[u8]] = &[
        b"X-Forwarded-For: 6.6.6.6",
        b"Cookie: a=1",
        b"X-Name: Andr\xe9",
        b"x-forwarded-for: 203.0.113.9, 10.0.0.1",
        b"COOKIE: b=2",
        b"X-Name: \xc3\xa0",
        b"X-Name:",
    ];
    let lines: Vec<u8> = lines.join(&b"\r\n"[..]);
    let requests = [
        (upgrade_head(PATH, &[]), 101),
        ("GET /connection/uni_sse HTTP/1.1\r\nHost: gannet.example\r\n\r\n".to_owned(), 200),
    ];
    for (done, (head, status)) in requests.into_iter().enumerate() {
        let mut peer = Peer::open(server.address);
        let head = head.strip_suffix("\r\n").expect("the end of a head").as_bytes();
        peer.send(&[head, &lines, b"\r\n\r\n"].concat());
        if status == 101 {
            assert_eq!(peer.response().status, 101);
            peer.send_frame(TEXT, br#"{"id":1,"connect":{}}"#);
        }
        let asked = &backend.hears("/connect", done + 1)[done];
        assert_eq!(asked.header("x-forwarded-for"), ["6.6.6.6", "203.0.113.9, 10.0.0.1"], "{status}");
        assert_eq!(asked.header("cookie"), ["a=1", "b=2"], "{status}");
        // The test's backend shows each byte as a character.
        assert_eq!(asked.header("x-name"), ["Andr\u{e9}", "\u{c3}\u{a0}", ""], "{status}");
    }
}

#[test]
fn the_backend_is_asked_at_expiry_and_prolongs_or_ends() {
    // Nothing else is due in a session meanwhile.
    let backend = Backend::start(|asked| match (asked.path.as_str(), asked.text("user")) {
        ("/connect", _) => {
            let user = asked.body["data"].clone();
            ok(json!({ "result": { "user": user, "expire_at": now() + 2, "info": { "n": 1 } } }))
        }
        (_, "over") => ok(json!({ "result": { "expired": true } })),
        (_, "nobody") => ok(json!({})),
        (_, "error") => ok(json!({ "error": { "code": 1000, "message": "no" } })),
        (_, "kicked") => ok(json!({ "disconnect": { "code": 4001, "reason": "out" } })),
        _ => ok(json!({ "result": { "expire_at": now() + 1000, "info": { "n": 2 } } })),
    });
    let options =
        ["--client.expired_close_delay", "60s", "--client.stale_close_delay", "1h", "--client.ping_interval", "1h"];
    let server = backend.serves(&[CONNECT, REFRESH], &[OPEN_CHANNELS, &options, &["--reactors", "2"]].concat());
    let connect = |user: &str| {
        let mut client = Client::open(&server);
        let reply = connect_with(&mut client, json!(user));
        assert!(reply["connect"]["expires"].is_null(), "the client is not to refresh: {reply}");
        client
    };
    let mut kept = connect("kept");
    kept.subscribe("c");
    for (user, code) in [("over", 3005), ("nobody", 3005), ("error", 3005), ("kicked", 4001)] {
        assert_eq!(connect(user).closed(), code, "{user}");
    }
    backend.hears("/refresh", 5);
    until("the new info", || {
        kept.ask(json!({ "publish": { "channel": "c", "data": 1 } }));
        let push = kept.next();
        (push["push"]["pub"]["info"]["conn_info"] == json!({ "n": 2 })).then_some(())
    });
    let question =
        backend.asked("/refresh").into_iter().find(|asked| asked.text("user") == "kept").expect("a question");
    assert!(question.body.as_object().expect("an object").len() == 5, "{}", question.body);
    kept.send(r#"{"id":99,"refresh":{"token":"x"}}"#);
    assert_eq!(kept.closed(), 3501, "it is the server's to refresh");
}

/// Reads the server's application pings, and answers them; each is a second after the one before.
fn live_through_pings(peer: &mut Peer, count: usize) {
    for _ in 0..count {
        assert_eq!(peer.text(), "{}");
        peer.send_frame(TEXT, b"{}");
    }
}

#[test]
fn a_refresh_that_cannot_be_asked_for_costs_nobody_the_connection() {
    let gate = Gate::default();
    let held = gate.clone();
    let backend = Backend::start(move |asked| {
        if asked.path == "/proxy" {
            held.pass();
        }
        match asked.text("user") {
            "1" => ok(json!({ "result": {} })),
            _ => (500, "broken".into()),
        }
    });
    let common = [
        "--client.token.hmac_secret_key",
        SECRET,
        "--client.expired_close_delay",
        "1s",
        "--backend.inflight_limit",
        "1",
    ];
    let more = ["--rpc.proxy.timeout=30s", "--rpc.without_namespace.proxy_enabled", "--client.ping_interval", "1s"];
    let options = [&common[..], &more, &["--client.pong_timeout", "900ms"]].concat();
    let server = backend.serves(&[REFRESH, "rpc.proxy"], &options);
    let connect = |server: &Server| {
        let mut peer = Peer::upgraded(server);
        let token = token(&json!({ "sub": "42", "exp": soon() }));
        peer.send_frame(TEXT, json!({ "id": 1, "connect": { "token": token } }).to_string().as_bytes());
        assert!(peer.text().contains("\"client\""));
        peer
    };
    let mut failing = connect(&server);
    server.counts("gannet_proxy_errors_total{proxy=\"client.proxy.refresh\",type=\"refresh\",cause=\"status\"}", 1);
    live_through_pings(&mut failing, 4);

    // The one place for questions is taken.
    let mut caller = Client::connected_as(&server, "1");
    caller.send(r#"{"id":50,"rpc":{"method":"slow"}}"#);
    backend.hears("/proxy", 1);
    let mut unasked = connect(&server);
    server.counts("gannet_backend_refused_total", 1);
    live_through_pings(&mut unasked, 4);
    gate.open();
    drop(caller);
    assert_eq!(server.disconnects(3005), 0);
}
