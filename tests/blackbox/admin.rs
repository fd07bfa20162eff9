//! The page for operators, as a program sees it: who is let in, what is told, and that pages of others get nothing.
//! tests/browser/admin.test.mjs looks at it in a browser.

use crate::client::{Client, token};
use crate::peer::{Peer, Response};
use crate::server::{GUARDED, OPEN, Server, until};
use serde_json::{Value, json};

const PASSWORD: &str = "correct horse battery staple";
const ON: &[&str] = &["--admin.enabled", "--admin.password", PASSWORD];
const JSON: (&str, &str) = ("Content-Type", "application/json");

fn request(server: &Server, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
    Peer::open(server.address).request(method, path, headers, body).expect("an answer")
}

fn sign_in(server: &Server, password: &str) -> Response {
    request(server, "POST", "/admin/login", &[JSON], &json!({ "password": password }).to_string())
}

/// The cookie of a session.
fn cookie(server: &Server) -> String {
    let answer = sign_in(server, PASSWORD);
    assert_eq!(answer.status, 204, "{}", answer.body);
    let cookie = answer.header("set-cookie").expect("a cookie");
    assert!(cookie.ends_with("; Path=/admin; Max-Age=43200; HttpOnly; SameSite=Strict"), "{cookie}");
    cookie.split(';').next().expect("a pair").to_owned()
}

#[test]
fn the_page_is_there_if_it_is_on_and_runs_only_what_is_its_own() {
    let without = Server::start(OPEN);
    assert_eq!(request(&without, "GET", "/admin", &[], "").status, 404);
    let server = Server::with(OPEN, ON);
    for (path, kind) in [
        ("/admin", "text/html; charset=utf-8"),
        ("/admin/", "text/html; charset=utf-8"),
        ("/admin/page.css", "text/css; charset=utf-8"),
        ("/admin/page.js", "text/javascript; charset=utf-8"),
    ] {
        let answer = request(&server, "GET", path, &[], "");
        assert_eq!((answer.status, answer.header("content-type").as_deref()), (200, Some(kind)), "{path}");
        let policy = answer.header("content-security-policy").expect("a policy");
        assert!(policy.starts_with("default-src 'none';") && policy.contains("frame-ancestors 'none'"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        assert!(!answer.body.contains("{prefix}") && !answer.body.contains("src=\"http"), "{path}");
    }
}

#[test]
fn what_the_page_asks_is_for_who_signed_in() {
    let server = Server::with(GUARDED, ON);
    let ask = |cookie: &str, method: &str, path: &str, body: &str| {
        let headers = [JSON, ("Cookie", cookie)];
        request(&server, method, path, &headers, body)
    };
    let asked = [
        ("GET", "/admin/metrics", ""),
        ("GET", "/admin/clients", ""),
        ("GET", "/admin/config", ""),
        ("POST", "/admin/api/info", "{}"),
        ("POST", "/admin/api/publish", r#"{"channel":"a","data":1}"#),
    ];
    let forged = "gannet_admin=99999999999.0000000000000000000000000000000000000000000000000000000000000000";
    for cookie in ["", "gannet_admin=", forged] {
        for (method, path, body) in asked {
            assert_eq!(ask(cookie, method, path, body).status, 401, "{path} {cookie}");
        }
    }
    let cookie = cookie(&server);
    for (method, path, body) in asked {
        let answer = ask(&cookie, method, path, body);
        assert_eq!((answer.status, answer.header("cache-control").as_deref()), (200, Some("no-store")), "{path}");
        assert!(!answer.body.contains(PASSWORD), "{path}");
    }
    assert!(ask(&cookie, "GET", "/admin/config", "").body.contains("[admin]"));
    // The key of the API is another matter.
    assert_eq!(ask(&cookie, "POST", "/api/info", "{}").status, 401);
    until("a line", || server.logged("an operator signed in").then_some(()));
    assert!(!server.logged(PASSWORD));
    assert_eq!(server.metric("gannet_admin_logins_total{outcome=\"good\"}"), 1);
}

#[test]
fn a_trace_shows_a_channel_or_a_user_and_what_its_limits_leave() {
    let few = ["--admin.trace_rate_limit", "2", "--admin.trace_limit", "1", "--admin.trace_data_size", "8"];
    let server = Server::with(GUARDED, &[ON, &few].concat());
    let cookie = cookie(&server);
    let trace = |query: &str| request(&server, "GET", &format!("/admin/trace?{query}"), &[("Cookie", &cookie)], "");
    let messages = |query: &str| -> Value {
        let answer = trace(query);
        assert_eq!(answer.status, 200, "{}", answer.body);
        serde_json::from_str(&answer.body).expect("JSON")
    };
    let token = token(&json!({ "sub": "anna", "channels": ["news"] }));
    let mut client = Client::connected_with(&server, &token);
    assert_eq!(messages("id=1&channel=news"), json!({ "messages": [], "skipped": 0 }));
    for number in 0..5 {
        server.publish("news", json!(format!("number {number}")));
        client.publication();
    }
    let found = messages("id=1&channel=news");
    let list = found["messages"].as_array().expect("messages");
    // A second may pass between two of them, and gives room for more.
    assert!(list.len() >= 2 && list.len() as u64 + found["skipped"].as_u64().expect("a number") == 5, "{found}");
    assert_eq!(
        (&list[0]["kind"], &list[0]["data"], &list[0]["size"]),
        (&json!("publication"), &json!("\"number "), &json!(10))
    );
    // There is one at a time.
    assert_eq!(trace("id=2&user=anna").status, 503);
    assert_eq!(messages("id=1&user=anna")["messages"], json!([]));
    client.ask(json!({ "presence": { "channel": "news" } }));
    let found = until("the command", || {
        let found = messages("id=1&user=anna");
        (found["messages"] != json!([])).then_some(found)
    });
    let line = &found["messages"][0];
    assert_eq!((&line["kind"], &line["channel"], &line["user"]), (&json!("presence"), &json!("news"), &json!("anna")));
    assert!(!found.to_string().contains(&token));
    for query in ["id=1", "id=1&user=a&channel=b", "id=x&user=a"] {
        assert_eq!(trace(query).status, 400, "{query}");
    }
    assert_eq!(request(&server, "GET", "/admin/trace?user=anna", &[], "").status, 401);
}

#[test]
fn who_guesses_is_slowed_down() {
    let server = Server::with(OPEN, &[ON, &["--admin.login_limit", "1"]].concat());
    let answer = sign_in(&server, &format!("{PASSWORD} "));
    assert_eq!((answer.status, answer.header("set-cookie")), (401, None));
    // Whatever it is, it is not looked at.
    for guess in ["another", PASSWORD] {
        let answer = sign_in(&server, guess);
        assert_eq!((answer.status, answer.header("retry-after").as_deref()), (429, Some("60")), "{}", answer.body);
    }
    until("a line", || server.logged("a wrong password for the operators' page").then_some(()));
    server.counts("gannet_admin_logins_total{outcome=\"wrong\"}", 1);
    assert_eq!(server.metric("gannet_admin_logins_total{outcome=\"too_often\"}"), 2);
    let bad = request(&server, "POST", "/admin/login", &[JSON], "no JSON");
    assert_eq!(bad.status, 400);
}

#[test]
fn a_page_of_another_origin_gets_nothing() {
    let server = Server::with(OPEN, ON);
    let cookie = cookie(&server);
    let own = "http://gannet.example";
    let post = |headers: &[(&str, &str)]| {
        let all: Vec<(&str, &str)> = [&[("Cookie", cookie.as_str())], headers].concat();
        request(&server, "POST", "/admin/api/publish", &all, r#"{"channel":"a","data":1}"#).status
    };
    assert_eq!(post(&[JSON, ("Origin", own), ("Sec-Fetch-Site", "same-origin")]), 200);
    for headers in [
        &[JSON, ("Origin", "https://evil.example")][..],
        &[JSON, ("Origin", "null")],
        &[JSON, ("Sec-Fetch-Site", "cross-site")],
        &[JSON, ("Sec-Fetch-Site", "same-site")],
        &[("Content-Type", "text/plain"), ("Origin", own)],
        &[],
    ] {
        assert_eq!(post(headers), 403, "{headers:?}");
    }
    // Without a password anybody's name might have been led here.
    let open = Server::with(OPEN, &["--admin.enabled", "--admin.insecure"]);
    assert_eq!(request(&open, "GET", "/admin/config", &[], "").status, 200);
    assert_eq!(request(&open, "GET", "/admin/config", &[("Origin", own)], "").status, 403);
}

#[test]
fn it_is_on_the_second_port_unless_it_is_to_be_on_both() {
    for (more, status) in [(&[][..], 404), (&["--admin.external"], 200)] {
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port").port();
        let port = port.to_string();
        let server = Server::with(OPEN, &[ON, &["--http_server.internal_port", &port], more].concat());
        assert_eq!(request(&server, "GET", "/admin", &[], "").status, status);
        let inside = Peer::open(server.internal.expect("it is on")).request("GET", "/admin", &[], "");
        assert_eq!(inside.expect("an answer").status, 200);
    }
}

#[test]
fn clients_are_told_of_as_they_are() {
    // The kernel takes little, so that something waits soon.
    let server = Server::with(GUARDED, &[ON, &["--http_server.send_buffer_size", "64KiB"]].concat());
    let cookie = cookie(&server);
    let list = |query: &str| -> Vec<Value> {
        let answer = request(&server, "GET", &format!("/admin/clients?{query}"), &[("Cookie", &cookie)], "");
        assert_eq!(answer.status, 200, "{}", answer.body);
        serde_json::from_str(&answer.body).expect("JSON")
    };
    assert_eq!(list(""), [json!(null); 0]);
    let mut clients: Vec<Client> = ["1", "2", "2"].iter().map(|user| Client::connected_as(&server, user)).collect();
    clients.iter_mut().for_each(|client| client.subscribe("a"));
    clients[0].subscribe("b");
    let all = list("");
    assert_eq!(all.len(), 3);
    for one in &all {
        assert_eq!(
            (&one["transport"], &one["waiting"], &one["channels"]),
            (&json!("websocket"), &json!(0), &json!([]))
        );
        assert!(one["address"].as_str().is_some_and(|address| address.starts_with("127.0.0.1")), "{one}");
        assert!(one["minutes"].as_u64().is_some_and(|minutes| minutes < 60), "{one}");
    }
    assert_eq!((list("user=2").len(), list("user=3").len()), (2, 0));
    let first = list("user=1")[0].clone();
    assert_eq!(first["subscriptions"], 2);
    let one = list(&format!("client={}", first["client"].as_str().expect("an id")));
    assert_eq!((one.len(), &one[0]["channels"]), (1, &json!(["a", "b"])));
    // One that does not listen comes first.
    let mut deaf = Client::connected_as(&server, "deaf");
    deaf.subscribe("loud");
    until("bytes that wait", || {
        server.publish("loud", json!("x".repeat(100_000)));
        let all = list("");
        assert_eq!(all.len(), 4);
        (all[0]["waiting"].as_u64() > Some(0))
            .then(|| assert_eq!((&all[0]["user"], &all[1]["waiting"]), (&json!("deaf"), &json!(0))))
    });
}
