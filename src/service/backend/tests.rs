//! Questions put to an application that is really there.

use super::*;
use crate::base::mailbox::{Mailbox, mailbox};
use crate::broker::ConnKey;
use crate::protocol::code::Disconnect;
use crate::protocol::{ConnectRequest, Encoding, PublishRequest, RpcRequest, SubscribeRequest};
use crate::service::testing::{App, in_time};
use crate::session::backend::{PublishGrant, RefreshGrant, SubscribeGrant, Who};
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::sync::Notify;

/// A reactor with its ends.
struct Subject {
    link: BackendLink,
    backend: Arc<Backend>,
    mailbox: Mailbox<Mail>,
    mail: Arc<Notify>,
    headers: &'static str,
    meta: &'static str,
}

type Letters = Vec<(u32, Ask, Said)>;

impl Subject {
    fn new(config: Config) -> Subject {
        let mail = Arc::new(Notify::new());
        let wake = mail.clone();
        let (sender, mailbox) = mailbox(1, move || wake.notify_one());
        let settings = Arc::new(Settings::new(config, "").expect("settings"));
        let (backend, link, calls) = Backend::new(settings, Arc::default(), vec![sender]).expect("a backend");
        tokio::spawn(backend.clone().run(calls));
        Subject { link, backend, mailbox, mail, headers: "", meta: "" }
    }

    fn call(&self, ticket: u32, ask: Ask) -> Call {
        let conn = ConnKey { reactor: 0, index: 3, generation: 9 };
        let who = Who {
            client: "c1".into(),
            user: "42".into(),
            transport: "websocket",
            encoding: Encoding::Json,
            headers: self.headers.into(),
            meta: self.meta.into(),
        };
        Call { conn, ticket, who, ask }
    }

    fn put(&self, ticket: u32, ask: Ask) {
        self.link.ask(self.call(ticket, ask)).expect("room");
    }

    /// The next answers.
    async fn answers(&self) -> Letters {
        in_time(self.mail.notified()).await;
        let mut letters = Vec::new();
        self.mailbox.drain(&mut letters);
        let back = |letter| match letter {
            Mail::Backend { conn, ticket, ask, said } => {
                assert_eq!((conn.index, conn.generation), (3, 9));
                (ticket, ask, said)
            }
            other => panic!("{other:?}"),
        };
        letters.into_iter().map(back).collect()
    }

    async fn said(&self, ask: Ask) -> Said {
        self.put(7, ask.clone());
        let mut answers = self.answers().await;
        let (ticket, question, said) = answers.pop().expect("an answer");
        assert_eq!((ticket, question, answers.len()), (7, ask, 0));
        said
    }

    fn page(&self) -> String {
        let mut page = Page::default();
        self.backend.write(&mut page);
        page.into_text()
    }

    fn assert_metric(&self, line: &str) {
        let page = self.page();
        assert!(page.lines().any(|l| l == line), "{line} in\n{page}");
    }
}

fn proxy(endpoint: String) -> config::ProxyOptions {
    config::ProxyOptions { endpoint, timeout: Duration::from_secs(20), ..config::ProxyOptions::default() }
}

/// Every kind goes to `app`, at the path of its name.
fn everything(app: &App) -> Config {
    let mut config = Config::default();
    let client = &mut config.client.proxy;
    (client.connect.enabled, client.connect.proxy) = (true, proxy(app.at("/connect")));
    (client.refresh.enabled, client.refresh.proxy) = (true, proxy(app.at("/refresh")));
    let channel = &mut config.channel;
    (channel.proxy.subscribe, channel.without_namespace.subscribe_proxy_enabled) = (proxy(app.at("/subscribe")), true);
    (channel.proxy.publish, channel.without_namespace.publish_proxy_enabled) = (proxy(app.at("/publish")), true);
    (channel.proxy.sub_refresh, channel.without_namespace.sub_refresh_proxy_enabled) =
        (proxy(app.at("/sub_refresh")), true);
    (config.rpc.proxy, config.rpc.without_namespace.proxy_enabled) = (proxy(app.at("/rpc")), true);
    config
}

fn rpc(method: &str) -> Ask {
    Ask::Rpc(Box::new(RpcRequest { method: method.into(), data: "1".into() }))
}

fn subscribe(channel: &str) -> Ask {
    Ask::Subscribe(Box::new(SubscribeRequest { channel: channel.into(), ..SubscribeRequest::default() }))
}

fn publish(channel: &str) -> Ask {
    let (channel, data) = (channel.into(), "1".into());
    Ask::Publish(Box::new(PublishRequest { channel, data, ..PublishRequest::default() }))
}

fn connect() -> Ask {
    Ask::Connect(Box::default())
}

#[tokio::test]
async fn each_kind_has_its_endpoint() {
    let app = App::start().await;
    let it = Subject::new(everything(&app));
    let over = Said::Refresh(RefreshGrant { expired: true, ..RefreshGrant::default() });
    for (ask, path, said) in [
        (connect(), "/connect", Said::NoCredentials),
        (Ask::Refresh, "/refresh", over.clone()),
        (subscribe("chat"), "/subscribe", Said::Subscribe(Box::<SubscribeGrant>::default())),
        (Ask::SubRefresh { channel: "chat".into() }, "/sub_refresh", over),
        (publish("chat"), "/publish", Said::Publish(Box::<PublishGrant>::default())),
        (rpc("sum"), "/rpc", Said::Rpc(Bytes::new())),
    ] {
        let name = path.trim_start_matches('/');
        assert_eq!(it.said(ask).await, said, "{path}");
        let asked = app.asked().pop().expect("a request");
        assert_eq!((asked.path.as_str(), asked.json()["client"].as_str()), (path, Some("c1")));
        assert_eq!(asked.headers["content-type"], "application/json");
        let label =
            it.backend.proxies().own.values().find(|p| p.label.ends_with(&format!(".{name}"))).map(|p| p.label.clone());
        let label = label.unwrap_or("rpc.proxy".into());
        it.assert_metric(&format!("gannet_proxy_duration_seconds_count{{proxy=\"{label}\",type=\"{name}\"}} 1"));
        it.assert_metric(&format!("gannet_proxy_inflight_requests{{proxy=\"{label}\"}} 0"));
    }
    let from: BTreeSet<_> = app.asked().iter().map(|asked| asked.from).collect();
    assert_eq!(from.len(), 1, "connections are used again");
}

#[tokio::test]
async fn headers_of_the_client_and_of_the_operator() {
    let app = App::start().await;
    let mut config = everything(&app);
    let connect = &mut config.client.proxy.connect.proxy;
    connect.http_headers = vec!["Cookie".into(), "X-One".into()];
    connect.emulated_headers = vec!["x-one".into(), "X-Two".into()];
    connect.http.static_headers = [("X-Key".to_owned(), "k".to_owned())].into();
    config.rpc.proxy.http_headers = vec!["user-agent".into(), "x-key".into(), "cookie".into()];
    config.rpc.proxy.http.static_headers = [("x-key".to_owned(), "mine".to_owned())].into();
    assert_eq!(config.forwarded_headers(), ["cookie", "user-agent", "x-key", "x-one"]);
    let mut it = Subject::new(config);
    it.headers = "cookie: a=1\ncookie: b=2\nx-one: edge\nx-key: theirs\nuser-agent: me\n";
    let emulated = [("X-One", "forged"), ("X-Two", "2"), ("X-Key", "forged"), ("Cookie", "forged")];
    let headers = emulated.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    it.said(Ask::Connect(Box::new(ConnectRequest { headers, ..ConnectRequest::default() }))).await;
    let seen = app.asked().pop().expect("a request").headers;
    let all = |name: &str| seen.get_all(name).iter().map(|v| v.to_str().expect("text")).collect::<Vec<_>>();
    assert_eq!(all("cookie"), ["a=1", "b=2"]);
    assert_eq!((all("x-one"), all("x-two"), all("x-key")), (vec!["edge"], vec!["2"], vec!["k"]));
    assert!(all("user-agent").is_empty(), "not in its list");

    it.said(rpc("x")).await;
    let seen = app.asked().pop().expect("a request").headers;
    assert_eq!(
        (&seen["x-key"], &seen["user-agent"]),
        (&"mine".parse().expect("a value"), &"me".parse().expect("a value"))
    );
}

#[tokio::test]
async fn a_proxy_by_name_and_what_is_not_there() {
    let app = App::start().await;
    let mut config = Config::default();
    config.proxies.push(config::NamedProxy { name: "own".into(), proxy: proxy(app.at("/own")) });
    let mut options = config::ChannelOptions::default();
    (options.subscribe_proxy_enabled, options.subscribe_proxy_name) = (true, "own".into());
    config.channel.namespaces.push(config::NamespaceOptions { name: "chat".into(), options });
    let on = config::RpcOptions { proxy_enabled: true, proxy_name: "own".into() };
    for (name, options) in [("orders", on), ("off", config::RpcOptions::default())] {
        config.rpc.namespaces.push(config::RpcNamespace { name: name.into(), options });
    }
    (config.rpc.ping.enabled, config.rpc.namespace_boundary) = (true, "/".into());
    let it = Subject::new(config);
    assert_eq!(it.said(subscribe("chat:1")).await, Said::Subscribe(Box::default()));
    assert_eq!(it.said(rpc("orders/list")).await, Said::Rpc(Bytes::new()));
    assert_eq!(app.asked().iter().filter(|asked| asked.path == "/own").count(), 2);
    assert_eq!(app.asked()[1].json()["method"], "orders/list");
    assert_eq!(it.said(rpc("ping")).await, Said::Rpc(Bytes::new()));
    for (ask, error) in [
        (rpc("list"), ClientError::NotAvailable),
        (rpc("off/list"), ClientError::NotAvailable),
        (rpc("none/list"), ClientError::MethodNotFound),
        (publish("chat:1"), ClientError::NotAvailable),
        (publish("none:1"), ClientError::UnknownChannel),
        (connect(), ClientError::NotAvailable),
    ] {
        assert_eq!(it.said(ask.clone()).await, failed(error), "{ask:?}");
    }
    assert_eq!(app.asked().len(), 2);
}

#[tokio::test]
async fn failures_are_temporary_and_refreshes_live_on() {
    let app = App::start().await;
    let mut config = everything(&app);
    (config.backend.breaker_calls, config.backend.response_size_limit) = (0, 100);
    let it = Subject::new(config);
    let large = format!("{{\"x\":\"{}\"}}", "x".repeat(100));
    for (status, body, cause) in
        [(500, "{}", "status"), (404, "{}", "status"), (200, "nonsense", "unreadable"), (200, &large, "too_large")]
    {
        app.answers(status, body);
        for ask in [connect(), rpc("x"), subscribe("c"), publish("c")] {
            assert_eq!(it.said(ask).await, failed(ClientError::Internal), "{status} {body}");
        }
        for ask in [Ask::Refresh, Ask::SubRefresh { channel: "c".into() }] {
            let Said::Refresh(grant) = it.said(ask).await else { panic!("no refresh") };
            assert!(!grant.expired && grant.expire_at > 60, "{grant:?}");
        }
        let page = it.page();
        let series = format!("gannet_proxy_errors_total{{proxy=\"rpc.proxy\",type=\"rpc\",cause=\"{cause}\"}}");
        assert!(page.contains(&series), "{series} in\n{page}");
    }
    it.assert_metric("gannet_proxy_breaker_state{proxy=\"rpc.proxy\"} 0");
    let unsaid = Ask::Publish(Box::new(PublishRequest {
        channel: "c".into(),
        data: Bytes::from_static(b"\xff"),
        ..PublishRequest::default()
    }));
    assert_eq!(it.said(unsaid).await, failed(ClientError::BadRequest));
}

#[tokio::test]
async fn statuses_may_have_a_meaning() {
    let app = App::start().await;
    let mut config = everything(&app);
    let transforms = json!([
        {"status_code": 404, "to_error": {"code": 404, "message": "none", "temporary": true}},
        {"status_code": 401, "to_disconnect": {"code": 4401, "reason": "who?"}},
    ]);
    let flags = [("rpc.proxy.http.status_to_code_transforms".to_owned(), transforms.to_string())];
    config.rpc.proxy.http = crate::config::load(None, &[], &flags).expect("a configuration").0.rpc.proxy.http;
    let it = Subject::new(config);
    app.answers(404, "what?");
    let none = Said::Error(crate::protocol::Error { code: 404, message: "none".into(), temporary: true });
    assert_eq!(it.said(rpc("x")).await, none);
    app.answers(401, "");
    let gone = Said::Disconnect(Disconnect { code: 4401, reason: "who?".into() });
    assert_eq!(it.said(rpc("x")).await, gone);
    app.answers(403, "");
    assert_eq!(it.said(rpc("x")).await, failed(ClientError::Internal));
}

#[tokio::test]
async fn an_answer_that_does_not_come() {
    let app = App::start().await;
    let mut config = everything(&app);
    config.rpc.proxy = config::ProxyOptions { timeout: Duration::from_millis(30), ..proxy(app.at("/gate")) };
    config.channel.proxy.publish = proxy("http://127.0.0.1:1/".into());
    let it = Subject::new(config);
    assert_eq!(it.said(rpc("x")).await, failed(ClientError::Internal));
    it.assert_metric("gannet_proxy_errors_total{proxy=\"rpc.proxy\",type=\"rpc\",cause=\"timeout\"} 1");
    assert_eq!(it.said(publish("c")).await, failed(ClientError::Internal));
    let line = "gannet_proxy_errors_total{proxy=\"channel.proxy.publish\",type=\"publish\",cause=\"unreachable\"} 1";
    it.assert_metric(line);
}

#[tokio::test]
async fn as_many_as_may_are_under_way() {
    let app = App::start().await;
    let mut config = everything(&app);
    config.rpc.proxy = config::ProxyOptions { inflight_limit: 2, ..proxy(app.at("/gate")) };
    config.channel.proxy.publish = proxy(app.at("/gate"));
    config.backend.inflight_limit = 3;
    let it = Subject::new(config);
    (1..=2).for_each(|ticket| it.put(ticket, rpc("slow")));
    app.arrived(2).await;
    it.assert_metric("gannet_proxy_inflight_requests{proxy=\"rpc.proxy\"} 2");
    assert_eq!(it.said(rpc("more")).await, failed(ClientError::TooManyRequests));
    it.assert_metric("gannet_proxy_refused_total{proxy=\"rpc.proxy\",type=\"rpc\",limit=\"inflight_limit\"} 1");
    // Who asks another proxy does not wait for this one.
    assert_eq!(it.said(subscribe("c")).await, Said::Subscribe(Box::default()));
    it.put(3, publish("c"));
    app.arrived(2).await;
    let back = it.link.ask(it.call(4, rpc("x"))).expect_err("three are under way");
    assert_eq!((back.ticket, back.ask), (4, rpc("x")));
    it.assert_metric("gannet_backend_refused_total 1");
    it.assert_metric("gannet_backend_inflight_requests 3");
    app.gate.add_permits(3);
    let mut tickets = Vec::new();
    while tickets.len() < 3 {
        tickets.extend(it.answers().await.into_iter().map(|(ticket, ..)| ticket));
    }
    tickets.sort_unstable();
    assert_eq!(tickets, [1, 2, 3]);
    it.assert_metric("gannet_backend_inflight_requests 0");
    app.gate.add_permits(1);
    assert_eq!(it.said(rpc("x")).await, Said::Rpc(Bytes::new()));
}

#[tokio::test]
async fn a_backend_that_fails_is_left_alone_for_a_while() {
    let app = App::start().await;
    let mut config = everything(&app);
    (config.backend.breaker_calls, config.backend.breaker_delay) = (4, Duration::from_millis(300));
    let it = Subject::new(config);
    app.answers(401, "");
    for _ in 0..10 {
        assert_eq!(it.said(rpc("x")).await, failed(ClientError::Internal));
    }
    it.assert_metric("gannet_proxy_breaker_state{proxy=\"rpc.proxy\"} 0");
    app.answers(503, "");
    let mut put = 0;
    while !it.page().contains("gannet_proxy_breaker_state{proxy=\"rpc.proxy\"} 2") {
        assert_eq!(it.said(rpc("x")).await, failed(ClientError::Internal));
        put += 1;
        assert!(put <= 10, "ten of twenty failed");
    }
    let asked = app.asked().len();
    assert_eq!(asked, 10 + put);
    assert_eq!(it.said(rpc("x")).await, failed(ClientError::Internal));
    it.assert_metric("gannet_proxy_refused_total{proxy=\"rpc.proxy\",type=\"rpc\",limit=\"breaker\"} 1");
    assert_eq!(app.asked().len(), asked, "not asked");
    assert_eq!(it.said(connect()).await, failed(ClientError::Internal), "another proxy is asked");
    assert_eq!(app.asked().len(), asked + 1);
    app.answers(200, "{}");
    in_time(async { while it.said(rpc("x")).await != Said::Rpc(Bytes::new()) {} }).await;
    it.assert_metric("gannet_proxy_breaker_state{proxy=\"rpc.proxy\"} 0");
}
