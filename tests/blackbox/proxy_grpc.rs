//! A backend that is asked by gRPC: a server of tonic's, with the messages written here again by their numbers in
//! Centrifugo's proxy.proto, so that the server's own are not judged by themselves.

use crate::certificates::{Certificates, NAME};
use crate::client::Client;
use crate::file::File;
use crate::server::{Server, until};
use axum::http::HeaderMap;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use serde_json::json;
use std::collections::HashMap;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::codec::CompressionEncoding;
use tonic::server::{Grpc, UnaryService};
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

/// What every question begins with, and the fields of all of them.
#[derive(Clone, PartialEq, Message)]
struct Head {
    #[prost(string, tag = "1")]
    client: String,
    #[prost(string, tag = "2")]
    transport: String,
    #[prost(string, tag = "3")]
    protocol: String,
    #[prost(string, tag = "4")]
    encoding: String,
}

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

message!(Connect { data: Vec<u8> = "10" (bytes = "vec"); name: String = "12" (string); channels: Vec<String> = "14" (string, repeated); });
message!(Refresh { user: String = "10" (string); meta: Vec<u8> = "11" (bytes = "vec"); });
message!(SubRefresh { user: String = "10" (string); channel: String = "11" (string); meta: Vec<u8> = "12" (bytes = "vec"); });
message!(Subscribe { user: String = "10" (string); channel: String = "11" (string); meta: Vec<u8> = "13" (bytes = "vec"); data: Vec<u8> = "14" (bytes = "vec"); });
message!(Publish { user: String = "10" (string); channel: String = "11" (string); data: Vec<u8> = "12" (bytes = "vec"); meta: Vec<u8> = "14" (bytes = "vec"); });
message!(Rpc { user: String = "10" (string); method: String = "11" (string); data: Vec<u8> = "12" (bytes = "vec"); b64data: String = "13" (string); meta: Vec<u8> = "14" (bytes = "vec"); });
message!(Error { code: u32 = "1" (uint32); message: String = "2" (string); temporary: bool = "3" (bool); });
message!(Disconnect { code: u32 = "1" (uint32); reason: String = "2" (string); });
message!(Switch { value: bool = "1" (bool); });
message!(Override { presence: Option<Switch> = "1" (message, optional); });
message!(Sub { data: Vec<u8> = "4" (bytes = "vec"); overrides: Option<Override> = "6" (message, optional); });
message!(Connected { user: String = "1" (string); expire_at: i64 = "2" (int64); info: Vec<u8> = "3" (bytes = "vec"); b64data: String = "6" (string); channels: Vec<String> = "7" (string, repeated); subs: HashMap<String, Sub> = "8" (map = "string, message"); meta: Vec<u8> = "9" (bytes = "vec"); });
message!(Subscribed { expire_at: i64 = "1" (int64); info: Vec<u8> = "2" (bytes = "vec"); data: Vec<u8> = "4" (bytes = "vec"); });
message!(Refreshed { expired: bool = "1" (bool); expire_at: i64 = "2" (int64); meta: Vec<u8> = "5" (bytes = "vec"); });
message!(Published { data: Vec<u8> = "1" (bytes = "vec"); tags: HashMap<String, String> = "4" (map = "string, string"); });
message!(Called { data: Vec<u8> = "1" (bytes = "vec"); });
message!(Answer { result: Option<Raw> = "1" (message, optional); error: Option<Error> = "2" (message, optional); disconnect: Option<Disconnect> = "3" (message, optional); });

/// A message as bytes: what it is, is known to who reads it.
#[derive(Clone, Default, PartialEq, Debug)]
struct Raw(Vec<u8>);

impl Raw {
    fn of(message: &impl Message) -> Raw {
        Raw(message.encode_to_vec())
    }

    fn read<M: Message + Default>(&self) -> M {
        M::decode(&*self.0).expect("a message")
    }
}

impl Message for Raw {
    fn encode_raw(&self, buf: &mut impl bytes::BufMut) {
        buf.put_slice(&self.0);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: prost::encoding::WireType,
        buf: &mut impl bytes::Buf,
        context: prost::encoding::DecodeContext,
    ) -> Result<(), prost::DecodeError> {
        // The field is put back as it stood there.
        prost::encoding::encode_key(tag, wire_type, &mut self.0);
        match wire_type {
            prost::encoding::WireType::Varint => {
                prost::encoding::encode_varint(prost::encoding::decode_varint(buf)?, &mut self.0);
            }
            _ => {
                let mut value = Vec::new();
                prost::encoding::bytes::merge(wire_type, &mut value, buf, context)?;
                prost::encoding::encode_varint(value.len() as u64, &mut self.0);
                self.0.extend(value);
            }
        }
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

/// A call as it came.
#[derive(Clone)]
struct Asked {
    method: String,
    metadata: HeaderMap,
    message: Raw,
}

impl Asked {
    fn metadata(&self, name: &str) -> Vec<&str> {
        self.metadata.get_all(name).iter().map(|value| value.to_str().expect("text")).collect()
    }
}

type Said = Result<Answer, Status>;
/// What is said to a method's question.
type Answers = dyn Fn(&str, &Raw) -> Said + Send + Sync;

#[derive(Clone)]
struct Backend {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    answer: Arc<Answers>,
}

struct Call(Backend, String);

impl UnaryService<Raw> for Call {
    type Response = Answer;
    type Future = Ready<Result<tonic::Response<Answer>, Status>>;

    fn call(&mut self, request: tonic::Request<Raw>) -> Self::Future {
        let Call(backend, method) = self;
        let (metadata, message) = (request.metadata().clone().into_headers(), request.into_inner());
        let said = (backend.answer)(method, &message);
        backend.asked.lock().expect("what was asked").push(Asked { method: method.clone(), metadata, message });
        ready(said.map(tonic::Response::new))
    }
}

impl Backend {
    fn start(
        tls: Option<Arc<rustls::ServerConfig>>,
        answer: impl Fn(&str, &Raw) -> Said + Send + Sync + 'static,
    ) -> Backend {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        listener.set_nonblocking(true).expect("nonblocking");
        let address = listener.local_addr().expect("an address");
        let backend = Backend { address, asked: Arc::default(), answer: Arc::new(answer) };
        let served = backend.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                while let Ok((stream, _)) = listener.accept().await {
                    let (backend, tls) = (served.clone(), tls.clone());
                    tokio::spawn(async move {
                        match tls {
                            None => serve(backend, stream).await,
                            Some(tls) => {
                                if let Ok(stream) = tokio_rustls::TlsAcceptor::from(tls).accept(stream).await {
                                    serve(backend, stream).await;
                                }
                            }
                        }
                    });
                }
            });
        });
        backend
    }

    fn endpoint(&self, section: &str) -> String {
        format!("--{section}.endpoint=grpc://{}", self.address)
    }

    /// The calls of a method, once there are `count`.
    fn hears(&self, method: &str, count: usize) -> Vec<Asked> {
        until(&format!("{count} calls of {method}"), || {
            let asked = self.asked.lock().expect("what was asked");
            let calls: Vec<Asked> = asked.iter().filter(|call| call.method == method).cloned().collect();
            (calls.len() >= count).then_some(calls)
        })
    }
}

async fn serve(backend: Backend, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let answer = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let backend = backend.clone();
        async move {
            let method = request.uri().path().strip_prefix("/centrifugal.centrifugo.proxy.CentrifugoProxy/");
            let method = method.expect("the service").to_owned();
            let mut grpc = Grpc::new(ProstCodec::<Answer, Raw>::default())
                .accept_compressed(CompressionEncoding::Gzip)
                .send_compressed(CompressionEncoding::Gzip);
            Ok::<_, Infallible>(grpc.unary(Call(backend, method), request).await)
        }
    });
    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let _ = builder.serve_connection(TokioIo::new(stream), answer).await;
}

fn result(message: &impl Message) -> Said {
    Ok(Answer { result: Some(Raw::of(message)), ..Answer::default() })
}

fn soon() -> i64 {
    crate::client::now() as i64 + 2
}

/// A server all of whose proxies ask `backend`, with everything that may go with a question.
fn asking(backend: &Backend) -> Server {
    let sections = ["client.proxy.connect", "client.proxy.refresh", "channel.proxy.subscribe", "channel.proxy.publish"];
    let sections = sections.into_iter().chain(["channel.proxy.sub_refresh", "rpc.proxy"]);
    let mut options: Vec<String> = Vec::new();
    for section in sections {
        options.extend([backend.endpoint(section), format!("--{section}.include_connection_meta")]);
        options.extend([format!("--{section}.timeout=10s"), format!("--{section}.http_headers=cookie,x-two")]);
        options.push(format!("--{section}.grpc.static_metadata={{\"x-fixed\":\"f\"}}"));
        options.extend([format!("--{section}.grpc.credentials_key=authorization")]);
        options
            .extend([format!("--{section}.grpc.credentials_value=bearer b"), format!("--{section}.grpc.compression")]);
    }
    options.extend(["connect", "refresh"].map(|proxy| format!("--client.proxy.{proxy}.enabled")));
    let channels = ["subscribe", "publish", "sub_refresh"];
    options.extend(channels.map(|proxy| format!("--channel.without_namespace.{proxy}_proxy_enabled")));
    options.push("--rpc.without_namespace.proxy_enabled".into());
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    Server::start(&options)
}

/// All six questions, with what is known of the client, and its headers and credentials.
#[test]
fn every_question_is_asked_by_grpc() {
    let backend = Backend::start(None, |method, _| match method {
        "Connect" => result(&Connected {
            user: "42".into(),
            expire_at: soon(),
            info: "{\"i\":1}".into(),
            b64data: "eyJoZWxsbyI6MX0=".into(),
            channels: vec!["news".into()],
            subs: [("mail".to_owned(), Sub { data: "7".into(), ..Sub::default() })].into(),
            meta: "{\"m\":1}".into(),
        }),
        "Refresh" => result(&Refreshed { expire_at: soon() + 60, meta: "{\"m\":2}".into(), ..Refreshed::default() }),
        "Subscribe" => result(&Subscribed { expire_at: soon(), data: "[1]".into(), ..Subscribed::default() }),
        "SubRefresh" => result(&Refreshed { expire_at: soon() + 60, ..Refreshed::default() }),
        "Publish" => result(&Published { data: "\"changed\"".into(), ..Published::default() }),
        _ => result(&Called { data: "{\"sum\":3}".into() }),
    });
    let server = asking(&backend);

    let mut client = Client::open_with_headers(&server, &[("Cookie", "a=1"), ("X-Two", "1"), ("X-Two", "2")]);
    let connect = json!({ "data": { "k": "v" }, "name": "js", "subs": { "b": {}, "a": {} } });
    let reply = client.ask(json!({ "connect": connect }))["connect"].clone();
    assert_eq!(reply["data"], json!({ "hello": 1 }), "{reply}");
    assert_eq!(reply["subs"], json!({ "news": {}, "mail": { "data": 7 } }));
    let asked = &backend.hears("Connect", 1)[0];
    let head = Head {
        client: reply["client"].as_str().expect("an id").into(),
        transport: "websocket".into(),
        protocol: "json".into(),
        encoding: "json".into(),
    };
    assert_eq!(asked.message.read::<Head>(), head);
    let expected = Connect { data: "{\"k\":\"v\"}".into(), name: "js".into(), channels: vec!["a".into(), "b".into()] };
    assert_eq!(asked.message.read::<Connect>(), expected);
    for (name, values) in
        [("cookie", &["a=1"][..]), ("x-two", &["1", "2"]), ("x-fixed", &["f"]), ("authorization", &["bearer b"])]
    {
        assert_eq!(asked.metadata(name), values, "{name}");
    }
    assert_eq!((asked.metadata("grpc-encoding"), asked.metadata("grpc-timeout").len()), (vec!["gzip"], 1));

    let reply = client.ask(json!({ "subscribe": { "channel": "chat", "data": [2] } }));
    assert_eq!(reply["subscribe"]["data"], json!([1]), "{reply}");
    let (user, channel, meta) = ("42".to_owned(), "chat".to_owned(), b"{\"m\":1}".to_vec());
    let expected = Subscribe { user: user.clone(), channel: channel.clone(), meta: meta.clone(), data: "[2]".into() };
    assert_eq!(backend.hears("Subscribe", 1)[0].message.read::<Subscribe>(), expected);

    client.ask(json!({ "publish": { "channel": "chat", "data": "mine" } }));
    assert_eq!(client.publication(), ("chat".into(), json!("changed")));
    let expected =
        Publish { user: user.clone(), channel: channel.clone(), data: "\"mine\"".into(), meta: meta.clone() };
    assert_eq!(backend.hears("Publish", 1)[0].message.read::<Publish>(), expected);

    let reply = client.ask(json!({ "rpc": { "method": "sum", "data": [1, 2] } }));
    assert_eq!(reply["rpc"]["data"], json!({ "sum": 3 }), "{reply}");
    let called = backend.hears("RPC", 1)[0].message.read::<Rpc>();
    assert_eq!((called.method.as_str(), &*called.data, &called.meta), ("sum", &b"[1,2]"[..], &meta));

    let refreshed = backend.hears("Refresh", 1)[0].message.read::<Refresh>();
    assert_eq!(refreshed, Refresh { user: user.clone(), meta: meta.clone() });
    let refreshed = backend.hears("SubRefresh", 1)[0].message.read::<SubRefresh>();
    assert_eq!((refreshed.user, refreshed.channel), (user, channel));
    // What the refresh said of the client holds from then on.
    until("the new meta", || {
        client.ask(json!({ "rpc": { "method": "sum", "data": 1 } }));
        let calls = backend.hears("RPC", 2);
        (calls.last().expect("a call").message.read::<Rpc>().meta == b"{\"m\":2}").then_some(())
    });
    assert_eq!(backend.hears("Refresh", 1).len(), 1);
}

#[test]
fn errors_disconnects_and_statuses_are_what_they_say() {
    let backend = Backend::start(None, |method, question| {
        let rpc = question.read::<Rpc>();
        match (method, rpc.method.as_str()) {
            ("RPC", "error") => {
                let error = Error { code: 1001, message: "no".into(), temporary: true };
                Ok(Answer { error: Some(error), ..Answer::default() })
            }
            ("RPC", "disconnect") => {
                let disconnect = Disconnect { code: 4500, reason: "bye".into() };
                Ok(Answer { disconnect: Some(disconnect), ..Answer::default() })
            }
            ("RPC", "busy") => Err(Status::new(Code::Unavailable, "busy")),
            ("RPC", "large") => result(&Called { data: vec![b'1'; 5000] }),
            ("RPC", "binary") => {
                assert_eq!((rpc.data.len(), rpc.b64data.as_str()), (0, "MQ=="));
                result(&Called { data: "2".into() })
            }
            _ => Ok(Answer::default()),
        }
    });
    let options =
        [backend.endpoint("rpc.proxy"), "--rpc.proxy.binary_encoding".into(), "--rpc.proxy.timeout=10s".into()];
    let more = ["--client.insecure", "--rpc.without_namespace.proxy_enabled", "--backend.response_size_limit=4096"];
    let options: Vec<&str> = options.iter().map(String::as_str).chain(more).collect();
    let server = Server::start(&options);
    let mut client = Client::connected(&server);
    let mut call = |method: &str| client.ask(json!({ "rpc": { "method": method, "data": 1 } }));
    assert_eq!(call("error")["error"], json!({ "code": 1001, "message": "no", "temporary": true }));
    assert_eq!(call("binary")["rpc"]["data"], 2);
    for method in ["busy", "large"] {
        assert_eq!(call(method)["error"]["code"], 100, "{method}");
    }
    let errors = |cause: &str| {
        server.metric(&format!("gannet_proxy_errors_total{{proxy=\"rpc.proxy\",type=\"rpc\",cause=\"{cause}\"}}"))
    };
    assert_eq!((errors("status"), errors("too_large")), (1, 1));
    client.send(&json!({ "id": 99, "rpc": { "method": "disconnect" } }).to_string());
    assert_eq!(client.closed(), 4500);
}

#[test]
fn a_backend_that_is_not_there_is_an_error_and_one_that_comes_is_asked() {
    let backend = Backend::start(None, |_, _| result(&Called { data: "1".into() }));
    let nobody = TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("an address");
    let proxies = json!([
        { "name": "gone", "endpoint": format!("grpc://{nobody}") },
        { "name": "here", "endpoint": format!("grpc://{}", backend.address), "timeout": "10s" },
    ]);
    let namespaces =
        json!(["gone", "here"].map(|name| json!({ "name": name, "proxy_enabled": true, "proxy_name": name })));
    let options =
        [format!("--proxies={proxies}"), format!("--rpc.namespaces={namespaces}"), "--client.insecure".into()];
    let server = Server::start(&options.each_ref().map(String::as_str));
    let mut client = Client::connected(&server);
    let mut call = |method: &str| client.ask(json!({ "rpc": { "method": method, "data": 1 } }));
    assert_eq!(call("gone:a")["error"]["code"], 100);
    assert_eq!(call("here:a")["rpc"]["data"], 1);
    assert!(server.logged("is the endpoint right?"));
}

#[test]
fn a_call_may_have_certificates_on_both_sides() {
    let [ours, others] = [Certificates::new(), Certificates::new()];
    let backend = Backend::start(Some(ours.server(&["h2"])), |_, _| result(&Called { data: "\"by tls\"".into() }));
    let key = File::new("client-key.pem", &ours.client.1);
    let tls = |authority: &str| json!({ "enabled": true, "server_name": NAME, "server_ca_pem": authority, "cert_pem": ours.client.0, "key_pem": key.path() });
    let proxy = |name: &str, authority: &str| json!({ "name": name, "endpoint": format!("grpc://{}", backend.address), "timeout": "10s", "grpc": { "tls": tls(authority) } });
    let proxies = json!([proxy("good", &ours.authority), proxy("bad", &others.authority)]);
    let namespaces =
        json!(["good", "bad"].map(|name| json!({ "name": name, "proxy_enabled": true, "proxy_name": name })));
    let config = json!({ "proxies": proxies, "rpc": { "namespaces": namespaces }, "client": { "insecure": true } });
    let file = File::new("grpc-tls.json", &config.to_string());
    let server = Server::start(&["--config", file.path()]);
    let mut client = Client::connected(&server);
    let mut call = |method: &str| client.ask(json!({ "rpc": { "method": method, "data": 1 } }));
    assert_eq!(call("good:a")["rpc"]["data"], "by tls");
    assert_eq!(call("bad:a")["error"]["code"], 100);
}
