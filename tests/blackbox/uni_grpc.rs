//! Clients that listen by a call of gRPC, over tonic's client. The messages are written here again, by their numbers in
//! Centrifugo's unistream.proto, so that the server's own are not judged by themselves.

use crate::backend::{Backend, ok};
use crate::certificates::{Certificates, NAME};
use crate::client::{Client, token};
use crate::file::File;
use crate::secure::VERSIONS;
use crate::server::{GUARDED, OPEN, PING, Server, until};
use axum::http::uri::{PathAndQuery, Scheme, Uri};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use prost::Message;
use rustix::process::Signal;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::Write;
use std::net::TcpStream;
use std::task::{Context, Poll};
use tokio::runtime::Handle;
use tonic::codegen::Service;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

macro_rules! message {
    ($name:ident { $($field:ident: $kind:ty = $tag:tt ($($how:tt)*);)* }) => {
        #[derive(Clone, PartialEq, Message)]
        struct $name {
            $(
                #[prost($($how)*, tag = $tag)]
                $field: $kind,
            )*
        }
    };
}

message!(Connect { token: String = "1" (string); data: Vec<u8> = "2" (bytes = "vec"); subs: HashMap<String, Recover> = "3" (map = "string, message"); name: String = "4" (string); });
message!(Recover { recover: bool = "3" (bool); epoch: String = "6" (string); offset: u64 = "7" (uint64); });
message!(Push { channel: String = "2" (string); publication: Option<Publication> = "4" (message, optional); unsubscribe: Option<Code2> = "7" (message, optional); connect: Option<Connected> = "10" (message, optional); disconnect: Option<Gone> = "11" (message, optional); });
message!(Publication { data: Vec<u8> = "4" (bytes = "vec"); offset: u64 = "6" (uint64); });
message!(Code2 { code: u32 = "2" (uint32); });
message!(Gone { code: u32 = "1" (uint32); reason: String = "2" (string); });
message!(Connected { client: String = "1" (string); data: Vec<u8> = "3" (bytes = "vec"); subs: HashMap<String, Subscribed> = "4" (map = "string, message"); ping: u32 = "7" (uint32); pong: bool = "8" (bool); session: String = "9" (string); });
message!(Subscribed { recovered: bool = "8" (bool); publications: Vec<Publication> = "7" (message, repeated); epoch: String = "6" (string); offset: u64 = "9" (uint64); });

const ON: &[&str] = &["--uni_grpc.enabled", "--uni_grpc.address", "127.0.0.1", "--uni_grpc.port", "0"];

/// A connection, whose calls go on in a thread of their own.
struct Caller {
    runtime: Handle,
    channel: Channel,
}

/// A call that goes on.
struct Listener<'a> {
    caller: &'a Caller,
    pushes: Streaming<Push>,
}

impl Caller {
    fn new(server: &Server) -> Caller {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let handle = runtime.handle().clone();
        std::thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
        let url = format!("http://{}", server.uni_grpc.expect("uni_grpc is on"));
        let endpoint = Endpoint::from_shared(url).expect("an address");
        let channel = handle.block_on(endpoint.connect()).expect("connect");
        Caller { runtime: handle, channel }
    }

    /// The same over TLS, for who believes these certificates; `None` = the handshake fails.
    fn with_tls(server: &Server, certificates: &Certificates, version: usize) -> Option<Caller> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let handle = runtime.handle().clone();
        std::thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(certificates.client_config(&VERSIONS[version..=version], false))
            .https_or_http()
            .with_server_name_resolver(FixedServerNameResolver::new(ServerName::try_from(NAME).expect("a name")))
            .enable_http2()
            .build();
        let port = server.uni_grpc.expect("uni_grpc is on");
        let endpoint = Endpoint::from_shared(format!("http://{port}")).expect("an address");
        let endpoint = endpoint.origin(format!("https://{port}").parse().expect("an address"));
        let channel = handle.block_on(endpoint.connect_with_connector(Secured(connector))).ok()?;
        Some(Caller { runtime: handle, channel })
    }

    fn call(&self, connect: Connect, metadata: &[(&'static str, &str)]) -> Result<Listener<'_>, Status> {
        let mut request = Request::new(connect);
        for (name, value) in metadata {
            request.metadata_mut().append(*name, value.parse().expect("a value"));
        }
        let path = PathAndQuery::from_static("/centrifugal.centrifugo.unistream.CentrifugoUniStream/Consume");
        self.runtime.block_on(async {
            let mut client = tonic::client::Grpc::new(self.channel.clone());
            client.ready().await.expect("ready");
            let answer = client.server_streaming(request, path, ProstCodec::<Connect, Push>::default()).await?;
            Ok(Listener { caller: self, pushes: answer.into_inner() })
        })
    }

    fn listen(&self, connect: Connect) -> Listener<'_> {
        self.call(connect, &[]).expect("a call")
    }

    fn refused(&self, connect: Connect) -> Code {
        self.call(connect, &[]).err().expect("a refusal").code()
    }
}

/// TLS of our own below tonic, which refuses an address with https if a crate had it built with TLS too.
struct Secured(HttpsConnector<HttpConnector>);

impl Service<Uri> for Secured {
    type Response = <HttpsConnector<HttpConnector> as Service<Uri>>::Response;
    type Error = <HttpsConnector<HttpConnector> as Service<Uri>>::Error;
    type Future = <HttpsConnector<HttpConnector> as Service<Uri>>::Future;

    fn poll_ready(&mut self, turn: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(turn)
    }

    fn call(&mut self, address: Uri) -> Self::Future {
        let mut parts = address.into_parts();
        parts.scheme = Some(Scheme::HTTPS);
        self.0.call(Uri::from_parts(parts).expect("an address"))
    }
}

impl Listener<'_> {
    fn try_next(&mut self) -> Result<Option<Push>, Status> {
        self.caller.runtime.block_on(async {
            tokio::time::timeout(crate::server::PATIENCE, self.pushes.message()).await.expect("a push in time")
        })
    }

    fn next(&mut self) -> Push {
        self.try_next().expect("no error").expect("a push")
    }

    /// Reads on to the push that ends it, and to the end, which is a good one; the code.
    fn closed(&mut self) -> u32 {
        let mut last = Push::default();
        while let Some(push) = self.try_next().expect("a good end") {
            last = push;
        }
        last.disconnect.expect("a disconnect").code
    }

    fn publication(&mut self) -> (String, Value) {
        let push = self.next();
        let data = push.publication.expect("a publication").data;
        (push.channel, serde_json::from_slice(&data).expect("JSON"))
    }
}

fn by_token(claims: &Value) -> Connect {
    Connect { token: token(claims), ..Connect::default() }
}

fn to(channels: &[&str]) -> Connect {
    let subs = channels.iter().map(|channel| ((*channel).to_owned(), Recover::default())).collect();
    Connect { subs, ..Connect::default() }
}

#[test]
fn a_call_hears_what_its_token_says() {
    let server = Server::with(GUARDED, ON);
    let caller = Caller::new(&server);
    let claims = json!({ "sub": "42", "channels": ["news", "alerts"] });
    let mut all: Vec<Listener> = (0..3).map(|_| caller.listen(by_token(&claims))).collect();
    for listener in &mut all {
        let connect = listener.next().connect.expect("a connect push");
        let mut subs: Vec<&String> = connect.subs.keys().collect();
        subs.sort_unstable();
        assert_eq!(subs, ["alerts", "news"]);
        assert_eq!((connect.ping, connect.pong, connect.client.len()), (PING, false, 36));
        assert!(connect.session.len() >= 32);
    }
    server.publish("news", json!({ "a": "b\nc" }));
    // As much as fills the sockets between reactor and call several times.
    let large = "x".repeat(300_000);
    server.publish("news", json!(large));
    for listener in &mut all {
        assert_eq!(listener.publication(), ("news".into(), json!({ "a": "b\nc" })));
        assert_eq!(listener.publication().1, json!(large));
    }
    server.call("unsubscribe", json!({ "user": "42", "channel": "alerts" }));
    for listener in &mut all {
        let push = listener.next();
        assert_eq!((push.channel.as_str(), push.unsubscribe), ("alerts", Some(Code2 { code: 2000 })));
    }
    assert_eq!(server.metric("gannet_uni_grpc_streams"), 3);
    server.call("disconnect", json!({ "user": "42" }));
    all.iter_mut().for_each(|listener| assert_eq!(listener.closed(), 3503));
    until("all to be gone", || (server.metric("gannet_client_connections_inflight") == 0).then_some(()));
    until("their places", || (server.metric("gannet_uni_grpc_streams") == 0).then_some(()));
}

#[test]
fn a_call_recovers_and_its_burst_is_messages_of_their_own() {
    let history = ["--channel.without_namespace.history_size=10", "--channel.without_namespace.history_ttl=60s"];
    let recovery = ["--channel.without_namespace.force_recovery"];
    let server = Server::start(&[OPEN, ON, &history, &recovery].concat());
    let caller = Caller::new(&server);
    let mut first = caller.listen(to(&["news"]));
    let position = first.next().connect.expect("a connect push").subs["news"].clone();
    (0..3).for_each(|n| drop(server.call("publish", json!({ "channel": "news", "data": n }))));
    (0..3).for_each(|n| assert_eq!(first.publication().1, json!(n)));
    drop(first);
    let Subscribed { epoch, offset, .. } = position;
    let wish = Recover { recover: true, epoch, offset: offset + 1 };
    let mut again = caller.listen(Connect { subs: [("news".to_owned(), wish)].into(), ..Connect::default() });
    let found = again.next().connect.expect("a connect push").subs["news"].clone();
    assert!(found.recovered);
    let data: Vec<&[u8]> = found.publications.iter().map(|publication| &*publication.data).collect();
    assert_eq!(data, [b"1", b"2"]);
    server.call("broadcast", json!({ "channels": vec!["news"; 64], "data": 1 }));
    (0..64).for_each(|_| assert_eq!(again.publication().1, json!(1)));
}

#[test]
fn pings_are_empty_and_errors_are_disconnects() {
    let server =
        Server::start(&[GUARDED, ON, &["--client.ping_interval", "1s", "--client.pong_timeout", "200ms"]].concat());
    let caller = Caller::new(&server);
    let mut listener = caller.listen(by_token(&json!({ "sub": "42" })));
    assert!(listener.next().connect.is_some());
    (0..3).for_each(|_| assert_eq!(listener.next(), Push::default()));
    let expired = token(&json!({ "sub": "1", "exp": 1 }));
    for (token, code) in [(expired, 3005), ("x".to_owned(), 3500)] {
        assert_eq!(caller.listen(Connect { token, ..Connect::default() }).closed(), code);
    }
    assert_eq!(server.disconnects(3012), 0);
}

#[test]
fn who_leaves_or_does_not_read_is_gone() {
    let server = Server::start(&[OPEN, ON, &["--client.queue_max_size", "65536"]].concat());
    let caller = Caller::new(&server);
    let mut client = Client::connected(&server);
    client.subscribe("news");
    let left = caller.listen(to(&["news"]));
    let mut slow = caller.listen(to(&["news"]));
    until("both", || (server.metric("gannet_node_num_clients") == 3).then_some(()));
    drop(left);
    until("the one that left", || (server.metric("gannet_node_num_clients") == 2).then_some(()));
    // It reads its connect push and no more, until its window and its sockets are full.
    assert!(slow.next().connect.is_some());
    let large = json!("x".repeat(50_000));
    until("the slow one", || {
        server.publish("news", large.clone());
        client.publication();
        (server.disconnects(3008) == 1).then_some(())
    });
    // What had begun to leave arrives whole, and then the call ends.
    while slow.try_next().expect("a good end").is_some() {}
    until("its place", || (server.metric("gannet_uni_grpc_streams") == 0).then_some(()));
}

#[test]
fn calls_have_limits_of_the_port_and_of_the_node() {
    let limits = ["--uni_grpc.stream_limit", "2", "--client.connection_limit", "2"];
    let server = Server::start(&[OPEN, ON, &limits, &["--uni_grpc.max_receive_message_size", "100"]].concat());
    let caller = Caller::new(&server);
    let large = Connect { name: "x".repeat(100), ..Connect::default() };
    assert_eq!(caller.refused(large), Code::OutOfRange);
    let first = caller.listen(Connect::default());
    let client = Client::connected(&server);
    assert_eq!(caller.refused(Connect::default()), Code::Unavailable, "client.connection_limit");
    drop(client);
    until("room", || (server.metric("gannet_client_connections_inflight") == 1).then_some(()));
    let second = caller.listen(Connect::default());
    assert_eq!(caller.refused(Connect::default()), Code::ResourceExhausted);
    assert_eq!(server.metric("gannet_uni_grpc_refused_total"), 1);
    drop((first, second));
    until("room", || (server.metric("gannet_uni_grpc_streams") == 0).then_some(()));
    caller.listen(Connect::default());
}

/// One frame of HTTP/2.
fn h2(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let size = (payload.len() as u32).to_be_bytes();
    [&size[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Nobody needs a token to begin one, and room for all of it is made at its first bytes.
#[test]
fn connect_requests_that_are_never_whole_hold_no_more_than_they_may() {
    let server = Server::start(&[OPEN, ON, &["--reactor.held_input_size", "1MiB"]].concat());
    let literal = |name: &[u8], value: &str| [name, &[value.len() as u8], value.as_bytes()].concat();
    let path = "/centrifugal.centrifugo.unistream.CentrifugoUniStream/Consume";
    let kind = literal(&[0x0f, 0x10], "application/grpc");
    // POST, http.
    let head = [vec![0x83, 0x86], literal(&[0x04], path), literal(&[0x01], "127.0.0.1"), kind].concat();
    let announced = [&[0][..], &600_000_u32.to_be_bytes(), &[0; 100]].concat();
    let begun = |stream| [h2(1, 4, stream, &head), h2(0, 0, stream, &announced)].concat();
    let mut peer = TcpStream::connect(server.uni_grpc.expect("uni_grpc is on")).expect("connect");
    let preface = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &h2(4, 0, 0, b"")].concat();
    peer.write_all(&[preface, begun(1)].concat()).expect("write");
    until("the first", || (server.metric("gannet_uni_grpc_streams") == 1).then_some(()));
    assert_eq!(server.metric("gannet_uni_grpc_held_input_limit_total"), 0);
    peer.write_all(&begun(3)).expect("write");
    until("a refusal", || (server.metric("gannet_uni_grpc_held_input_limit_total") == 1).then_some(()));
    // The first goes on to wait for the rest, and one that is small and whole is served.
    let caller = Caller::new(&server);
    assert!(caller.listen(Connect::default()).next().connect.is_some());
}

#[test]
fn the_backend_is_asked_with_the_metadata_of_the_call() {
    let backend = Backend::start(|_| ok(json!({ "result": { "user": "42", "channels": ["news"], "data": [1] } })));
    let endpoint = format!("--client.proxy.connect.endpoint={}", backend.url("/connect"));
    let proxy = ["--client.proxy.connect.enabled", &endpoint, "--client.proxy.connect.timeout=10s"];
    let passed = ["--client.proxy.connect.grpc_metadata=x-tenant", "--client.proxy.connect.http_headers=cookie"];
    let server = Server::start(&[ON, &proxy, &passed].concat());
    let caller = Caller::new(&server);
    let connect = Connect { name: "go".into(), data: b"{\"k\":1}".to_vec(), ..Connect::default() };
    let mut listener =
        caller.call(connect, &[("x-tenant", "a"), ("cookie", "secret"), ("x-other", "b")]).expect("a call");
    let told = listener.next().connect.expect("a connect push");
    assert_eq!((&*told.data, told.subs.len()), (&b"[1]"[..], 1));
    let asked = &backend.hears("/connect", 1)[0];
    let body = &asked.body;
    assert_eq!(
        (&body["transport"], &body["protocol"], &body["encoding"]),
        (&json!("uni_grpc"), &json!("protobuf"), &json!("json"))
    );
    assert_eq!((&body["name"], &body["data"]), (&json!("go"), &json!({ "k": 1 })));
    assert_eq!(asked.header("x-tenant"), ["a"]);
    assert_eq!((asked.header("cookie").len(), asked.header("x-other").len()), (0, 0));
    server.publish("news", json!(7));
    assert_eq!(listener.publication(), ("news".into(), json!(7)));
}

#[test]
fn a_drain_tells_calls_to_go() {
    let mut server = Server::start(&[OPEN, ON, &["--shutdown.delay", "0", "--shutdown.spread", "0"]].concat());
    let caller = Caller::new(&server);
    let mut listener = caller.listen(Connect::default());
    assert!(listener.next().connect.is_some());
    server.signal(Signal::TERM);
    assert_eq!(listener.closed(), 3001);
    assert!(server.exit().success());
}

#[test]
fn calls_come_over_tls_and_certificates_change_under_them() {
    let [old, new] = [Certificates::new(), Certificates::new()];
    let (certificate, key) = (File::new("uni.crt", &old.server.0), File::new("uni.key", &old.server.1));
    let tls = ["--uni_grpc.tls.enabled", "--uni_grpc.tls.cert_pem", certificate.path(), "--uni_grpc.tls.key_pem"];
    let server = Server::with(OPEN, &[ON, &tls, &[key.path()]].concat());
    let callers = [0, 1].map(|version| Caller::with_tls(&server, &old, version).expect("a connection"));
    let mut listeners: Vec<Listener> = callers.iter().map(|caller| caller.listen(to(&["news"]))).collect();
    for listener in &mut listeners {
        assert!(listener.next().connect.is_some_and(|connect| connect.subs.contains_key("news")));
    }
    let series = "gannet_tls_certificate_expiry_timestamp_seconds{port=\"uni_grpc\",certificate=\"0\"}";
    assert!(server.metric(series) > 0);
    assert!(Caller::with_tls(&server, &new, 0).is_none(), "another authority's");
    certificate.write(&new.server.0);
    key.write(&new.server.1);
    server.signal(Signal::HUP);
    until("the new pair", || Caller::with_tls(&server, &new, 0));
    assert!(Caller::with_tls(&server, &old, 0).is_none());
    server.publish("news", json!("still here"));
    for listener in &mut listeners {
        assert_eq!(listener.publication(), ("news".into(), json!("still here")));
    }
}
