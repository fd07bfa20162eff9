//! The server API by gRPC, over tonic's client. The messages are written here again, by their numbers in Centrifugo's
//! api.proto, so that the server's own are not judged by themselves.

use crate::client::Client;
use crate::peer::Peer;
use crate::server::{GUARDED, KEY, OPEN, Server};
use axum::http::uri::PathAndQuery;
use prost::Message;
use rustix::process::Signal;
use serde_json::json;
use std::collections::HashMap;
use std::fmt::Debug;
use std::net::{SocketAddr, TcpStream};
use tonic::transport::Endpoint;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

#[derive(Clone, PartialEq, Message)]
struct Error {
    #[prost(uint32, tag = "1")]
    code: u32,
    #[prost(string, tag = "2")]
    message: String,
}

#[derive(Clone, PartialEq, Message)]
struct Answer<R: Message + Default + Debug> {
    #[prost(message, optional, tag = "1")]
    error: Option<Error>,
    #[prost(message, optional, tag = "2")]
    result: Option<R>,
}

#[derive(Clone, PartialEq, Message)]
struct Empty {}

#[derive(Clone, PartialEq, Message)]
struct Publish {
    #[prost(string, tag = "1")]
    channel: String,
    #[prost(bytes = "vec", tag = "2")]
    data: Vec<u8>,
    #[prost(map = "string, string", tag = "5")]
    tags: HashMap<String, String>,
    #[prost(string, tag = "6")]
    idempotency_key: String,
}

#[derive(Clone, PartialEq, Message)]
struct Published {
    #[prost(uint64, tag = "1")]
    offset: u64,
    #[prost(string, tag = "2")]
    epoch: String,
}

#[derive(Clone, PartialEq, Message)]
struct Broadcast {
    #[prost(string, repeated, tag = "1")]
    channels: Vec<String>,
    #[prost(bytes = "vec", tag = "2")]
    data: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Broadcasted {
    #[prost(message, repeated, tag = "1")]
    responses: Vec<Answer<Published>>,
}

#[derive(Clone, PartialEq, Message)]
struct OfChannel {
    #[prost(string, tag = "1")]
    channel: String,
}

#[derive(Clone, PartialEq, Message)]
struct History {
    #[prost(string, tag = "1")]
    channel: String,
    #[prost(int32, tag = "2")]
    limit: i32,
    #[prost(message, optional, tag = "3")]
    since: Option<Published>,
    #[prost(bool, tag = "4")]
    reverse: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Publication {
    #[prost(bytes = "vec", tag = "2")]
    data: Vec<u8>,
    #[prost(uint64, tag = "4")]
    offset: u64,
    #[prost(map = "string, string", tag = "5")]
    tags: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct Histories {
    #[prost(message, repeated, tag = "1")]
    publications: Vec<Publication>,
    #[prost(string, tag = "2")]
    epoch: String,
    #[prost(uint64, tag = "3")]
    offset: u64,
}

#[derive(Clone, PartialEq, Message)]
struct ClientInfo {
    #[prost(string, tag = "1")]
    user: String,
    #[prost(string, tag = "2")]
    client: String,
    #[prost(bytes = "vec", tag = "4")]
    chan_info: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Presence {
    #[prost(map = "string, message", tag = "1")]
    presence: HashMap<String, ClientInfo>,
}

#[derive(Clone, PartialEq, Message)]
struct Stats {
    #[prost(uint32, tag = "1")]
    clients: u32,
    #[prost(uint32, tag = "2")]
    users: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Subscribe {
    #[prost(string, tag = "1")]
    channel: String,
    #[prost(string, tag = "2")]
    user: String,
    #[prost(bytes = "vec", tag = "4")]
    info: Vec<u8>,
    #[prost(bytes = "vec", tag = "7")]
    data: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Unsubscribe {
    #[prost(string, tag = "1")]
    channel: String,
    #[prost(string, tag = "2")]
    user: String,
}

#[derive(Clone, PartialEq, Message)]
struct Disconnect {
    #[prost(string, tag = "1")]
    user: String,
    #[prost(message, optional, tag = "2")]
    disconnect: Option<Error>,
}

#[derive(Clone, PartialEq, Message)]
struct Refresh {
    #[prost(string, tag = "1")]
    user: String,
    #[prost(bool, tag = "3")]
    expired: bool,
}

#[derive(Clone, PartialEq, Message)]
struct ChannelList {
    #[prost(map = "string, message", tag = "1")]
    channels: HashMap<String, Stats>,
}

#[derive(Clone, PartialEq, Message)]
struct NodeList {
    #[prost(message, repeated, tag = "1")]
    nodes: Vec<NodeInfo>,
}

#[derive(Clone, PartialEq, Message)]
struct NodeInfo {
    #[prost(string, tag = "1")]
    uid: String,
    #[prost(uint32, tag = "4")]
    num_clients: u32,
    #[prost(uint32, tag = "5")]
    num_users: u32,
    #[prost(uint32, tag = "10")]
    num_subs: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Batch {
    #[prost(message, repeated, tag = "1")]
    commands: Vec<Command>,
    #[prost(bool, tag = "2")]
    parallel: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Command {
    #[prost(message, optional, tag = "4")]
    publish: Option<Publish>,
    #[prost(message, optional, tag = "10")]
    presence_stats: Option<OfChannel>,
    #[prost(message, optional, tag = "12")]
    history_remove: Option<OfChannel>,
}

#[derive(Clone, PartialEq, Message)]
struct Replies {
    #[prost(message, repeated, tag = "1")]
    replies: Vec<Reply>,
}

#[derive(Clone, PartialEq, Message)]
struct Reply {
    #[prost(message, optional, tag = "2")]
    error: Option<Error>,
    #[prost(message, optional, tag = "4")]
    publish: Option<Published>,
    #[prost(message, optional, tag = "10")]
    presence_stats: Option<Stats>,
    #[prost(message, optional, tag = "12")]
    history_remove: Option<Empty>,
}

const ON: &[&str] = &["--grpc_api.enabled", "--grpc_api.address", "127.0.0.1", "--grpc_api.port", "0"];
const NAMESPACES: &str = r#"[
    {"name": "keep", "history_size": 5, "history_ttl": "60s", "presence": true, "allow_subscribe_for_client": true},
    {"name": "binary", "publication_data_format": "binary", "history_size": 5, "history_ttl": "60s"}
]"#;

fn start(options: &[&str]) -> Server {
    let own = ["--grpc_api.key", KEY, "--channel.namespaces", NAMESPACES, "--reactors", "2"];
    Server::start(&[GUARDED, ON, &own, options].concat())
}

fn address(server: &Server) -> SocketAddr {
    server.grpc.expect("grpc_api is on")
}

/// One call on a connection of its own.
fn call<Q, A>(server: &Server, authorization: Option<&str>, method: &str, request: Q) -> Result<A, Status>
where
    Q: Message + Default + 'static,
    A: Message + Default + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let endpoint = Endpoint::from_shared(format!("http://{}", address(server))).expect("an address");
        let mut client = tonic::client::Grpc::new(endpoint.connect().await.expect("connect"));
        client.ready().await.expect("ready");
        let mut request = Request::new(request);
        if let Some(value) = authorization {
            request.metadata_mut().insert("authorization", value.parse().expect("a value"));
        }
        let path = format!("/centrifugal.centrifugo.api.CentrifugoApi/{method}");
        let path = PathAndQuery::try_from(path).expect("a path");
        client.unary(request, path, ProstCodec::<Q, A>::default()).await.map(|answer| answer.into_inner())
    })
}

/// One with the key.
fn ask<Q, R>(server: &Server, method: &str, request: Q) -> Answer<R>
where
    Q: Message + Default + 'static,
    R: Message + Default + Debug + 'static,
{
    call(server, Some(&format!("apikey {KEY}")), method, request).expect("an answer")
}

fn result<Q, R>(server: &Server, method: &str, request: Q) -> R
where
    Q: Message + Default + 'static,
    R: Message + Default + Debug + 'static,
{
    let answer: Answer<R> = ask(server, method, request);
    assert_eq!(answer.error, None, "{method}");
    answer.result.expect("a result")
}

fn code<Q: Message + Default + 'static>(server: &Server, method: &str, request: Q) -> u32 {
    let answer: Answer<Empty> = ask(server, method, request);
    assert_eq!(answer.result, None, "{method}");
    answer.error.expect("an error").code
}

fn status<Q: Message + Default + 'static>(server: &Server, key: Option<&str>, method: &str, request: Q) -> Code {
    call::<Q, Answer<Empty>>(server, key, method, request).expect_err("a status").code()
}

fn publish(channel: &str, data: &str) -> Publish {
    Publish { channel: channel.into(), data: data.into(), ..Publish::default() }
}

fn of(channel: &str) -> OfChannel {
    OfChannel { channel: channel.into() }
}

fn errors(server: &Server, method: &str, code: u32) -> u64 {
    let labels = format!("protocol=\"grpc\",method=\"{method}\",code=\"{code}\"");
    server.metric(&format!("gannet_api_command_errors_total{{{labels}}}"))
}

#[test]
fn each_method_answers() {
    let server = start(&[]);
    let mut client = Client::connected_as(&server, "42");
    let request = Subscribe { channel: "keep:a".into(), user: "42".into(), info: b"[7]".into(), data: b"{}".into() };
    let Empty {} = result(&server, "Subscribe", request);
    assert_eq!(client.next()["push"]["subscribe"]["data"], json!({}));
    let present: Presence = result(&server, "Presence", of("keep:a"));
    let infos: Vec<_> = present.presence.values().map(|info| (info.user.as_str(), &info.chan_info[..])).collect();
    assert_eq!(infos, [("42", &b"[7]"[..])]);
    assert_eq!(result::<_, Stats>(&server, "PresenceStats", of("keep:a")), Stats { clients: 1, users: 1 });

    let tags = HashMap::from([("k".to_owned(), "v".to_owned())]);
    let request = Publish { tags: tags.clone(), idempotency_key: "k".into(), ..publish("keep:a", "{\"n\":1}") };
    let first: Published = result(&server, "Publish", request.clone());
    assert_eq!((first.offset, first.epoch.len()), (1, 8));
    assert_eq!(result::<_, Published>(&server, "Publish", request), first);
    let request = Broadcast { channels: vec!["keep:a".into(), "nowhere:a".into()], data: b"2".into() };
    let answers = result::<_, Broadcasted>(&server, "Broadcast", request).responses;
    assert_eq!(answers[0].result.as_ref().map(|at| at.offset), Some(2));
    assert_eq!(answers[1].error.as_ref().map(|error| error.code), Some(102));
    assert_eq!((client.publication().1, client.publication().1), (json!({ "n": 1 }), json!(2)));

    let history: Histories = result(&server, "History", History { limit: -1, ..history("keep:a") });
    let data: Vec<_> = history.publications.iter().map(|one| (&one.data[..], one.offset)).collect();
    assert_eq!(data, [(&b"{\"n\":1}"[..], 1), (b"2", 2)]);
    assert_eq!((&history.publications[0].tags, &history.epoch, history.offset), (&tags, &first.epoch, 2));
    let Empty {} = result(&server, "HistoryRemove", of("keep:a"));

    let found: ChannelList = result(&server, "Channels", of("keep:*"));
    assert_eq!(found.channels, HashMap::from([("keep:a".to_owned(), Stats { clients: 1, users: 0 })]));
    let info: NodeList = result(&server, "Info", Empty {});
    assert_eq!((info.nodes[0].num_clients, info.nodes[0].num_users, info.nodes[0].num_subs), (1, 1, 1));
    assert_eq!(code(&server, "RPC", of("nothing_known")), 104);

    let Empty {} = result(&server, "Unsubscribe", Unsubscribe { channel: "keep:a".into(), user: "42".into() });
    assert_eq!(client.next()["push"]["unsubscribe"]["code"], 2000);
    let Empty {} = result(&server, "Refresh", Refresh { user: "nobody".into(), expired: true });
    let custom = Some(Error { code: 4321, message: "enough".into() });
    let Empty {} = result(&server, "Disconnect", Disconnect { user: "42".into(), disconnect: custom });
    assert_eq!(client.closed(), 4321);
    let mut client = Client::connected_as(&server, "42");
    let Empty {} = result(&server, "Refresh", Refresh { user: "42".into(), expired: true });
    assert_eq!(client.closed(), 3005);
    assert_eq!(server.metric("gannet_api_command_duration_seconds_count{protocol=\"grpc\",method=\"publish\"}"), 2);
}

fn history(channel: &str) -> History {
    History { channel: channel.into(), ..History::default() }
}

#[test]
fn a_batch_answers_each_command_in_its_place() {
    let server = start(&[]);
    for parallel in [false, true] {
        let commands = vec![
            Command { publish: Some(publish("keep:a", "1")), ..Command::default() },
            Command { publish: Some(publish("", "1")), ..Command::default() },
            Command { presence_stats: Some(of("keep:a")), ..Command::default() },
            Command { history_remove: Some(of("keep:a")), ..Command::default() },
            Command::default(),
        ];
        let key = format!("apikey {KEY}");
        let answer: Replies = call(&server, Some(&key), "Batch", Batch { commands, parallel }).expect("replies");
        let replies = answer.replies;
        assert_eq!(replies[0].publish.as_ref().map(|at| at.offset), Some(1 + u64::from(parallel)));
        assert_eq!(replies[2].presence_stats, Some(Stats { clients: 0, users: 0 }));
        assert_eq!(replies[3].history_remove, Some(Empty {}));
        let codes: Vec<_> = replies.iter().map(|reply| reply.error.as_ref().map(|error| error.code)).collect();
        assert_eq!(codes, [None, Some(107), None, None, Some(104)]);
    }
}

#[test]
fn a_key_is_needed() {
    let server = start(&[]);
    let wrong = ["apikey another", "apikey ", KEY, &format!("Bearer {KEY}")].map(ToOwned::to_owned);
    for (done, key) in [None].into_iter().chain(wrong.iter().map(|key| Some(key.as_str()))).enumerate() {
        assert_eq!(status(&server, key, "Publish", publish("keep:a", "1")), Code::Unauthenticated, "{key:?}");
        assert_eq!(errors(&server, "publish", 16), done as u64 + 1);
    }
    assert!(!server.logged(KEY), "a secret in the log");
    let history: Histories = result(&server, "History", history("keep:a"));
    assert_eq!(history.offset, 0, "nothing was published");

    let without = Server::start(&[OPEN, ON].concat());
    for key in [None, Some("apikey "), Some("apikey")] {
        assert_eq!(status(&without, key, "Info", Empty {}), Code::Unauthenticated, "{key:?}");
    }
    let open = Server::start(&[OPEN, ON, &["--grpc_api.insecure"]].concat());
    let info: Answer<NodeList> = call(&open, None, "Info", Empty {}).expect("an answer");
    assert!(info.result.is_some_and(|info| info.nodes.len() == 1));
}

#[test]
fn what_cannot_be_carried_out_ends_with_a_status() {
    let server = start(&["--grpc_api.max_receive_message_size", "4KiB"]);
    let key = format!("apikey {KEY}");
    let key = Some(key.as_str());
    assert_eq!(status(&server, key, "Connections", Empty {}), Code::Unimplemented);
    assert_eq!(errors(&server, "unknown", 12), 1);
    let large = publish("keep:a", &format!("\"{}\"", "x".repeat(5000)));
    assert_eq!(status(&server, key, "Publish", large), Code::OutOfRange);
    assert_eq!(errors(&server, "publish", 11), 1);
    // A number where the channel should be.
    assert_eq!(status(&server, key, "Publish", Stats { clients: 1, users: 1 }), Code::Internal);
    assert_eq!(errors(&server, "publish", 13), 1);
    assert_eq!(result::<_, Histories>(&server, "History", history("keep:a")).offset, 0);
}

#[test]
fn an_error_is_in_the_answer_or_is_the_status() {
    let (inside, outside) = (start(&[]), start(&["--grpc_api.error_mode", "transport"]));
    let key = format!("apikey {KEY}");
    let lost = History { since: Some(Published { offset: 1, epoch: "x".into() }), ..history("keep:a") };
    for (method, request, error, expected) in [
        ("Publish", publish("nowhere:a", "1").encode_to_vec(), 102, Code::NotFound),
        ("Publish", publish("keep:a", "").encode_to_vec(), 107, Code::InvalidArgument),
        ("Publish", publish("keep:a", "no JSON").encode_to_vec(), 107, Code::InvalidArgument),
        ("Presence", of("other").encode_to_vec(), 108, Code::InvalidArgument),
        ("History", lost.encode_to_vec(), 112, Code::OutOfRange),
        ("RPC", of("nothing_known").encode_to_vec(), 104, Code::NotFound),
        ("Disconnect", Vec::new(), 107, Code::InvalidArgument),
    ] {
        assert_eq!(code(&inside, method, Raw(request.clone())), error, "{method}");
        assert_eq!(status(&outside, Some(&key), method, Raw(request)), expected, "{method}");
    }
    assert_eq!(errors(&outside, "publish", 107), 2);
    assert_eq!(errors(&outside, "publish", Code::InvalidArgument as u32), 0, "counted once");
    let bytes = Publish { data: vec![0, 1, 255], ..publish("binary:a", "") };
    assert_eq!(result::<_, Published>(&inside, "Publish", bytes).offset, 1);
    let kept: Histories = result(&inside, "History", History { limit: 1, ..history("binary:a") });
    assert_eq!(kept.publications[0].data, [0, 1, 255]);
}

/// A message that is encoded already.
#[derive(Debug, Clone, PartialEq, Default)]
struct Raw(Vec<u8>);

impl Message for Raw {
    fn encode_raw(&self, buffer: &mut impl prost::bytes::BufMut) {
        buffer.put_slice(&self.0);
    }
    fn merge_field(
        &mut self,
        _: u32,
        _: prost::encoding::WireType,
        _: &mut impl prost::bytes::Buf,
        _: prost::encoding::DecodeContext,
    ) -> Result<(), prost::DecodeError> {
        unreachable!("it is only sent")
    }
    fn encoded_len(&self) -> usize {
        self.0.len()
    }
    fn clear(&mut self) {
        self.0.clear();
    }
}

#[test]
fn who_speaks_no_http_2_is_closed() {
    let server = start(&["--http_server.handshake_timeout", "300ms"]);
    for said in ["GET / HTTP/1.1\r\nHost: gannet.example\r\n\r\n", "PRI * HTTP/2.0\r\n", ""] {
        let mut peer = Peer::open(address(&server));
        peer.send(said.as_bytes());
        peer.ended();
    }
    assert_eq!(result::<_, NodeList>(&server, "Info", Empty {}).nodes.len(), 1);
}

#[test]
fn a_drain_ends_connections_after_their_calls() {
    let mut server = start(&["--shutdown.delay", "0s", "--shutdown.spread", "0s"]);
    // It does not answer the close frame, so that the process stays for websocket.close_timeout.
    let _stays = Peer::connected(&server);
    let at = address(&server);
    let mut idle = Peer::open(at);
    idle.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    let kinds = |idle: &mut Peer| {
        let head = idle.exactly(9);
        idle.exactly(usize::from(head[1]) << 8 | usize::from(head[2]));
        head[3]
    };
    assert_eq!(kinds(&mut idle), 4, "settings");
    server.signal(Signal::TERM);
    const GO_AWAY: u8 = 7;
    while kinds(&mut idle) != GO_AWAY {}
    crate::server::until("nobody is let in", || TcpStream::connect(at).is_err().then_some(()));
    assert!(server.ended().is_none_or(|status| status.success()));
    assert!(server.exit().success());
}

/// Neither is kept out by the other.
#[test]
fn the_port_has_room_of_its_own() {
    let server = start(&["--http_server.service_connection_limit", "3", "--grpc_api.connection_limit", "4"]);
    let asked = || Peer::open(server.address).request("GET", "/health", &[], "").map(|answer| answer.status);
    let mut idle: Vec<Peer> = (0..8).map(|_| Peer::open(address(&server))).collect();
    for peer in &mut idle {
        peer.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    }
    assert_eq!(asked(), Some(200));
    // Those that ask nothing make room for the next.
    assert_eq!(result::<_, NodeList>(&server, "Info", Empty {}).nodes.len(), 1);
    server.counts("gannet_service_connections_ended_total{port=\"grpc\"}", 1);
}
