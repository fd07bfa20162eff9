//! Subscriptions whose publications come from the backend by a stream of their own: a server of tonic's, with the
//! messages written here again by their numbers in Centrifugo's proxy.proto.

use crate::client::Client;
use crate::file::File;
use crate::server::{Server, until};
use futures_util::{Stream, StreamExt, stream};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tonic::server::{Grpc, ServerStreamingService, StreamingService};
use tonic::{Status, Streaming};
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

message!(Question { transport: String = "2" (string); user: String = "10" (string); channel: String = "11" (string); data: Vec<u8> = "14" (bytes = "vec"); });
message!(Said { question: Option<Question> = "1" (message, optional); publication: Option<Publication> = "2" (message, optional); });
message!(Answer { answer: Option<Subscribed> = "1" (message, optional); publication: Option<Publication> = "2" (message, optional); });
message!(Publication { data: Vec<u8> = "4" (bytes = "vec"); tags: HashMap<String, String> = "7" (map = "string, string"); });
message!(Subscribed { result: Option<Granted> = "1" (message, optional); error: Option<Refused> = "2" (message, optional); disconnect: Option<Refused> = "3" (message, optional); });
message!(Granted { info: Vec<u8> = "2" (bytes = "vec"); data: Vec<u8> = "4" (bytes = "vec"); });
message!(Refused { code: u32 = "1" (uint32); message: String = "2" (string); });

type Answers = Pin<Box<dyn Stream<Item = Result<Answer, Status>> + Send>>;

/// A stream that was opened, as the backend has it.
#[derive(Clone)]
struct Opened {
    method: &'static str,
    question: Question,
    answers: UnboundedSender<Result<Answer, Status>>,
    /// What the client published.
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Opened {
    fn publish(&self, data: &Value) {
        let publication = Some(Publication { data: data.to_string().into(), tags: HashMap::new() });
        let _ = self.answers.send(Ok(Answer { answer: None, publication }));
    }

    /// Waits until the other side has let go of it.
    fn ended(&self) {
        until("the stream's end", || self.answers.is_closed().then_some(()));
    }

    fn hears(&self, count: usize) -> Vec<Vec<u8>> {
        until("what the client published", || {
            Some(self.heard.lock().expect("a lock").clone()).filter(|heard| heard.len() >= count)
        })
    }
}

type First = dyn Fn(&Question) -> Option<Answer> + Send + Sync;

#[derive(Clone)]
struct Backend {
    address: SocketAddr,
    opened: Arc<Mutex<Vec<Opened>>>,
    /// The first message; none = nothing is said.
    first: Arc<First>,
}

impl Backend {
    fn start(first: impl Fn(&Question) -> Option<Answer> + Send + Sync + 'static) -> Backend {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        listener.set_nonblocking(true).expect("nonblocking");
        let address = listener.local_addr().expect("an address");
        let backend = Backend { address, opened: Arc::default(), first: Arc::new(first) };
        let served = backend.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serve(served.clone(), stream));
                }
            });
        });
        backend
    }

    fn open(&self, method: &'static str, question: Question) -> (Opened, Answers) {
        let (answers, given) = unbounded_channel();
        let opened = Opened { method, question, answers, heard: Arc::default() };
        if let Some(first) = (self.first)(&opened.question) {
            opened.answers.send(Ok(first)).expect("a receiver");
        }
        self.opened.lock().expect("a lock").push(opened.clone());
        (opened, answers_of(given))
    }

    /// The streams to a channel, once there are `count`.
    fn streams(&self, channel: &str, count: usize) -> Vec<Opened> {
        until(&format!("{count} streams to {channel}"), || {
            let all = self.opened.lock().expect("a lock").clone();
            let found: Vec<Opened> = all.into_iter().filter(|opened| opened.question.channel == channel).collect();
            (found.len() >= count).then_some(found)
        })
    }

    fn serves(&self, options: &[&str]) -> Server {
        let endpoint = format!("--channel.proxy.subscribe_stream.endpoint=grpc://{}", self.address);
        let on = ["--channel.without_namespace.subscribe_stream_proxy_enabled", "--client.insecure", "--reactors=2"];
        let timed = options.iter().any(|option| option.contains(".timeout="));
        let timeout = if timed { None } else { Some("--channel.proxy.subscribe_stream.timeout=10s") };
        let own: Vec<&str> = [&*endpoint].into_iter().chain(timeout).collect();
        Server::start(&[&own, &on[..], options].concat())
    }
}

fn answers_of(given: UnboundedReceiver<Result<Answer, Status>>) -> Answers {
    Box::pin(stream::unfold(given, |mut given| async move { Some((given.recv().await?, given)) }))
}

async fn serve(backend: Backend, stream: tokio::net::TcpStream) {
    let answer = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let backend = backend.clone();
        async move {
            let path = request.uri().path().to_owned();
            Ok::<_, Infallible>(match path.rsplit('/').next() {
                Some("SubscribeUnidirectional") => {
                    let mut grpc = Grpc::new(ProstCodec::<Answer, Question>::default());
                    grpc.server_streaming(OneWay(backend), request).await
                }
                _ => {
                    let mut grpc = Grpc::new(ProstCodec::<Answer, Said>::default());
                    grpc.streaming(BothWays(backend), request).await
                }
            })
        }
    });
    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let _ = builder.serve_connection(TokioIo::new(stream), answer).await;
}

struct OneWay(Backend);

impl ServerStreamingService<Question> for OneWay {
    type Response = Answer;
    type ResponseStream = Answers;
    type Future = Ready<Result<tonic::Response<Answers>, Status>>;

    fn call(&mut self, request: tonic::Request<Question>) -> Self::Future {
        ready(Ok(tonic::Response::new(self.0.open("unidirectional", request.into_inner()).1)))
    }
}

struct BothWays(Backend);

impl StreamingService<Said> for BothWays {
    type Response = Answer;
    type ResponseStream = Answers;
    type Future = Pin<Box<dyn Future<Output = Result<tonic::Response<Answers>, Status>> + Send>>;

    fn call(&mut self, request: tonic::Request<Streaming<Said>>) -> Self::Future {
        let (backend, mut said) = (self.0.clone(), request.into_inner());
        Box::pin(async move {
            let first = said.message().await?.expect("a first message");
            let (opened, answers) = backend.open("bidirectional", first.question.expect("a question"));
            tokio::spawn(async move {
                while let Some(Ok(said)) = said.next().await {
                    let publication = said.publication.expect("a publication");
                    opened.heard.lock().expect("a lock").push(publication.data);
                }
            });
            Ok(tonic::Response::new(answers))
        })
    }
}

fn granted() -> Option<Answer> {
    let result = Some(Granted { data: "[1]".into(), info: "{\"i\":1}".into() });
    Some(Answer { answer: Some(Subscribed { result, ..Subscribed::default() }), publication: None })
}

/// Subscribes; the data of the reply.
fn subscribe(client: &mut Client, channel: &str) -> Value {
    let reply = client.ask(json!({ "subscribe": { "channel": channel, "data": { "from": 7 } } }));
    reply["subscribe"]["data"].clone()
}

fn unsubscribed(client: &mut Client) -> u64 {
    let push = client.next()["push"].take();
    push["unsubscribe"]["code"].as_u64().unwrap_or_else(|| panic!("{push}"))
}

#[test]
fn each_subscription_has_a_stream_and_both_end_together() {
    let backend = Backend::start(|_| granted());
    let server =
        backend.serves(&["--channel.without_namespace.history_size=5", "--channel.without_namespace.history_ttl=60s"]);
    let [mut one, mut other] = [0, 1].map(|_| Client::connected(&server));
    for client in [&mut one, &mut other] {
        assert_eq!(subscribe(client, "news"), json!([1]));
    }
    let [to_one, to_other] = &backend.streams("news", 2)[..] else { panic!("two streams") };
    let Question { transport, data, .. } = &to_one.question;
    assert_eq!((to_one.method, transport.as_str(), &**data), ("unidirectional", "websocket", &b"{\"from\":7}"[..]));
    // Each hears its own, in order, and both what the channel has.
    (0..200).for_each(|n| to_one.publish(&json!(n)));
    to_other.publish(&json!("other"));
    (0..200).for_each(|n| assert_eq!(one.publication(), ("news".into(), json!(n))));
    assert_eq!(other.publication().1, "other");
    server.call("publish", json!({ "channel": "news", "data": "all" }));
    for client in [&mut one, &mut other] {
        assert_eq!(client.publication().1, "all");
        // Nothing of a stream is in a history, and who has one publishes nothing.
        let refused = client.refused(json!({ "publish": { "channel": "news", "data": 1 } }));
        assert_eq!(refused, 108);
    }
    let counted = |series: &str| server.metric(&format!("gannet_proxy_{series}"));
    let proxy = "proxy=\"channel.proxy.subscribe_stream\"";
    assert_eq!(counted(&format!("streams{{{proxy}}}")), 2);
    assert_eq!(counted(&format!("stream_publications_total{{{proxy},from=\"backend\"}}")), 201);

    one.ask(json!({ "unsubscribe": { "channel": "news" } }));
    to_one.ended();
    drop(other);
    to_other.ended();
    until("both to be gone", || (counted(&format!("streams{{{proxy}}}")) == 0).then_some(()));
    assert_eq!(counted(&format!("streams_ended_total{{{proxy},cause=\"subscription\"}}")), 2);

    // By the backend: for good, or with an error, after which SDKs subscribe anew.
    subscribe(&mut one, "news");
    let third = backend.streams("news", 3).remove(2);
    third.publish(&json!("last"));
    drop(third);
    backend.opened.lock().expect("a lock").clear();
    assert_eq!((one.publication().1, unsubscribed(&mut one)), (json!("last"), 2000));
    subscribe(&mut one, "news");
    let fourth = backend.streams("news", 1).remove(0);
    fourth.answers.send(Err(Status::internal("broken"))).expect("a stream");
    assert_eq!(unsubscribed(&mut one), 2500);
    assert_eq!(counted(&format!("streams_ended_total{{{proxy},cause=\"backend\"}}")), 1);
    assert_eq!(counted(&format!("streams_ended_total{{{proxy},cause=\"error\"}}")), 1);
    until("a line", || server.logged("subscription streams ended with an error").then_some(()));
}

#[test]
fn what_a_client_publishes_goes_into_its_own_stream_if_that_has_two_directions() {
    let backend = Backend::start(|_| granted());
    let server = backend.serves(&["--channel.without_namespace.subscribe_stream_proxy_bidirectional"]);
    let [mut one, mut other] = [0, 1].map(|_| Client::connected(&server));
    let publish =
        |client: &mut Client, data: Value| client.ask(json!({ "publish": { "channel": "game", "data": data } }));
    assert_eq!(publish(&mut one, json!(0))["error"]["code"], 108, "it has no stream");
    for client in [&mut one, &mut other] {
        subscribe(client, "game");
    }
    let streams = backend.streams("game", 2);
    assert!(streams.iter().all(|stream| stream.method == "bidirectional"));
    for n in 0..20 {
        assert_eq!(publish(&mut one, json!({ "n": n }))["publish"], json!({}));
    }
    let heard = streams[0].hears(20);
    let expected: Vec<Vec<u8>> = (0..20).map(|n| json!({ "n": n }).to_string().into()).collect();
    assert_eq!((heard, streams[1].hears(0).len()), (expected, 0));
    streams[1].publish(&json!("back"));
    assert_eq!(other.publication().1, "back", "nothing of the first client's came before it");
    one.ask(json!({ "unsubscribe": { "channel": "game" } }));
    streams[0].ended();
    assert_eq!(publish(&mut one, json!(1))["error"]["code"], 108);
}

#[test]
fn a_stream_that_does_not_begin_well_is_an_error() {
    let backend = Backend::start(|question| {
        let refused = |code: u32| Some(Refused { code, message: "no".into() });
        let said = |answer: Subscribed| Some(Answer { answer: Some(answer), publication: None });
        match question.channel.as_str() {
            "error" => said(Subscribed { error: refused(1001), ..Subscribed::default() }),
            "disconnect" => said(Subscribed { disconnect: refused(4500), ..Subscribed::default() }),
            "odd" => Some(Answer { answer: None, publication: Some(Publication::default()) }),
            "silent" => None,
            _ => granted(),
        }
    });
    let server = backend.serves(&["--backend.stream_limit=2", "--channel.proxy.subscribe_stream.timeout=3s"]);
    let mut client = Client::connected(&server);
    let mut refused = |channel: &str| client.refused(json!({ "subscribe": { "channel": channel } }));
    assert_eq!((refused("error"), refused("odd"), refused("silent")), (1001, 100, 100));
    ["error", "odd", "silent"].iter().for_each(|channel| backend.streams(channel, 1)[0].ended());
    for channel in ["a", "b"] {
        subscribe(&mut client, channel);
    }
    let full = client.refused(json!({ "subscribe": { "channel": "c" } }));
    assert_eq!(full, 111);
    let refused = "gannet_proxy_refused_total{proxy=\"channel.proxy.subscribe_stream\",type=\"subscribe_stream\",limit=\"stream_limit\"}";
    assert_eq!((server.metric(refused), server.metric("gannet_backend_streams")), (1, 2));
    client.ask(json!({ "unsubscribe": { "channel": "a" } }));
    backend.streams("a", 1)[0].ended();
    until("room", || (server.metric("gannet_backend_streams") == 1).then_some(()));
    client.send(&json!({ "id": 99, "subscribe": { "channel": "disconnect" } }).to_string());
    assert_eq!(client.closed(), 4500);
    until("all to be over", || (server.metric("gannet_backend_streams") == 0).then_some(()));
}

/// A client that does not read is closed as by any other publications, and the backend is held back meanwhile.
#[test]
fn a_slow_client_ends_its_stream_and_no_other() {
    let backend = Backend::start(|_| granted());
    let server = backend.serves(&["--client.queue_max_size=65536"]);
    let (mut slow, mut quick) = (Client::connected(&server), Client::connected(&server));
    subscribe(&mut slow, "slow");
    subscribe(&mut quick, "quick");
    let (to_slow, to_quick) = (backend.streams("slow", 1).remove(0), backend.streams("quick", 1).remove(0));
    let large = json!("x".repeat(50_000));
    (0..400).for_each(|_| to_slow.publish(&large));
    until("3008", || (server.disconnects(3008) == 1).then_some(()));
    to_slow.ended();
    for _ in 0..50 {
        to_quick.publish(&large);
        assert_eq!(quick.publication().1, large);
    }
}

#[test]
fn streams_outlive_a_reload_that_takes_their_proxy_away() {
    let backend = Backend::start(|_| granted());
    let on = format!(
        "[client]\ninsecure = true\n[http_api]\nkey = \"{}\"\n[channel.proxy.subscribe_stream]\n\
         endpoint = \"grpc://{}\"\ntimeout = \"10s\"\n[channel.without_namespace]\nsubscribe_stream_proxy_enabled = true\n",
        crate::server::KEY,
        backend.address
    );
    let file = File::new("streams.toml", &on);
    let server = Server::start(&["--config", file.path()]);
    let mut client = Client::connected(&server);
    subscribe(&mut client, "news");
    file.write(&on.replace("subscribe_stream_proxy_enabled = true", "allow_subscribe_for_client = true"));
    server.signal(Signal::HUP);
    until("loaded", || server.logged("the configuration was loaded again").then_some(()));
    server.metrics();
    let stream = backend.streams("news", 1).remove(0);
    stream.publish(&json!("still"));
    assert_eq!(client.publication().1, "still");
    assert_eq!(subscribe(&mut client, "other"), Value::Null, "no stream any more");
    client.ask(json!({ "unsubscribe": { "channel": "news" } }));
    stream.ended();
}
