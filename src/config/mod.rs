//! F0 · What an operator may set: every option with its type, unit, default and help text, once.
//!
//! Owns the typed [`Config`]. The lists below are the only place where an option is written: its doc
//! comment is the help text, and the defaults, the flags, the variables and `gannet config` follow.
//! Knows nothing of sockets, threads or the environment: [`load`] takes a file's text, variables and flags
//! as arguments, and the result is this plain value.
//! Names and defaults follow Centrifugo v6 where the option means the same.

#[macro_use]
mod registry;
mod admin;
mod backend;
mod built;
mod channel;
mod check;
mod consumers;
mod durable;
mod engine;
mod fit;
mod foreign;
mod go;
mod inbox;
mod kafka;
mod key;
mod limits;
mod list;
mod listen;
mod load;
mod opentelemetry;
mod print;
mod reload;
mod schema;
mod tls;
mod token;
mod transport;
mod tree;
mod unknown;
mod url;
mod value;
mod variables;

use std::time::Duration;

pub use admin::Admin;
pub use backend::{
    BackendOptions, ChannelProxy, ClientProxy, HOOK_EVENTS, HooksOptions, JwksOptions, NamedProxy, ProxyOptions, Rpc,
    RpcNamespace, RpcOptions, SwitchedProxy, TlsOptions, Transform,
};
pub use built::BuildPart;
pub use channel::regex as channel_regex;
pub use check::Warning;
pub use consumers::{
    ConsumerOptions, KafkaConsumer, NamedConsumer, NatsJetStreamConsumer, PostgresqlConsumer, PublicationHeaders,
    PublicationValues, RedisStreamConsumer,
};
pub use durable::{DurableMysql, DurableOptions, DurablePostgresql, DurableStores};
pub use engine::{EngineOptions, NatsOptions, NatsRawMode, RedisOptions, Store, SwitchedEngine};
pub use inbox::InboxOptions;
pub use kafka::{KafkaAccess, KafkaLogOptions};
pub use key::{EcdsaKey, RsaKey};
pub use limits::{BucketOptions, Commands, RateLimit};
pub use list::{Headers, Replacements};
pub use listen::{ListenAddress, ListenSocket};
pub use load::{ConfigError, File, Place, examine, load};
pub use opentelemetry::OpenTelemetryOptions;
pub use print::{note, print};
pub use registry::{Listed, Section, options, sections};
pub use reload::Changes;
pub use schema::schema;
pub use tls::{AUTOCERT, NamedCertificate, TlsAutocert, TlsPort, TlsPorts};
pub use token::{KeySource, Pattern, SubscriptionToken, Wanted};
pub use transport::{
    ConnectCodes, Emulation, HttpCode, HttpCodes, HttpStream, TcpLine, ToHttp, UniGrpc, UniHttpStream, UniWebSocket,
};
pub use tree::Format;
pub use url::{grpc_authority, shown as shown_url};
use value::{NO_MAX, Rule};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const DAY: Duration = secs(24 * 60 * 60);
const MONTH: Duration = secs(30 * 24 * 60 * 60);
const YEAR: Duration = secs(366 * 24 * 60 * 60);
/// The timer wheel cannot tell anything shorter from nothing.
const TICK: Duration = Duration::from_millis(100);

/// What publications may be held to.
const FORMATS: &[&str] = &["", "json", "json_object", "binary"];

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

options! {
    /// The whole of it. A section is a struct, an option a field; the dotted path (`client.ping_interval`)
    /// is the option's name in a file, in `GANNET_CLIENT_PING_INTERVAL` and as `--client.ping_interval`.
    pub struct Config {
        /// Insecure mode for trying things out: listens on loopback only, needs no token, serves the chat
        /// page, health and metrics.
        dev: bool = false;
        /// Reactor threads. 0 = one for each core the process may use.
        reactors: usize = 0, Rule::Count(0, 1024);
        /// File that has the number of this process while it serves. Empty = none.
        pid_file: String = String::new();
        /// This server process
        node: NodeOptions = NodeOptions::default();
        /// Ports, and what an HTTP request may cost
        http_server: HttpServer = HttpServer::default();
        /// TLS of the ports that have it
        tls: TlsPorts = TlsPorts::default();
        /// The endpoint of the clients
        websocket: WebSocket = WebSocket::default();
        /// The same clients over server-sent events; their commands come to `emulation`
        sse: HttpStream = HttpStream::at("/connection/sse");
        /// The same over a response that does not end
        http_stream: HttpStream = HttpStream::at("/connection/http_stream");
        /// Where clients of `sse` and `http_stream` send their commands
        emulation: Emulation = Emulation::default();
        /// Clients that only listen, over WebSocket
        uni_websocket: UniWebSocket = UniWebSocket::default();
        /// The same over server-sent events
        uni_sse: UniHttpStream = UniHttpStream::at("/connection/uni_sse");
        /// The same over a response that does not end
        uni_http_stream: UniHttpStream = UniHttpStream::at("/connection/uni_http_stream");
        /// The same over a call of gRPC, on a port of its own
        uni_grpc: UniGrpc = UniGrpc::default();
        /// Clients that speak in lines of JSON on a port of their own, without HTTP
        tcp_line: TcpLine = TcpLine::default();
        /// An endpoint that returns each message
        echo: Echo = Echo::default();
        /// Who may connect, and what a client may cost
        client: Client = Client::default();
        /// Channels and who may use them
        channel: Channel = Channel::default();
        /// Where channels, history and presence live, and by what nodes speak to each other
        engine: EngineOptions = EngineOptions::default();
        /// Another place for channels and history than `engine`
        broker: SwitchedEngine = SwitchedEngine::default();
        /// Another place for presence than `engine`
        presence_manager: SwitchedEngine = SwitchedEngine::default();
        /// Publications that Kafka is to have too: those of namespaces with log_to
        kafka_log: KafkaLogOptions = KafkaLogOptions::default();
        /// Where publications are kept beyond memory and beyond a restart
        durable: DurableOptions = DurableOptions::default();
        /// Remote procedure calls of clients, which the backend answers
        rpc: Rpc = Rpc::default();
        /// `[{name, endpoint, ...options}]`: proxies that namespaces name. The options are those of rpc.proxy.
        proxies: Vec<NamedProxy> = Vec::new();
        /// `[{enabled, name, type, ...}]`: messages in databases and brokers that are carried out as calls of the API.
        /// Names match ^[a-zA-Z0-9_]{2,}$ and are unique.
        consumers: Vec<NamedConsumer> = Vec::new();
        /// How the backend is asked, whichever proxy it is
        backend: BackendOptions = BackendOptions::default();
        /// Sets of public keys that tokens are verified with
        jwks: JwksOptions = JwksOptions::default();
        /// What the backend is told of its own, at most once
        hooks: HooksOptions = HooksOptions::default();
        /// The API for backends
        http_api: HttpApi = HttpApi::default();
        /// The same API by gRPC, on a port of its own
        grpc_api: GrpcApi = GrpcApi::default();
        /// The page for operators
        admin: Admin = Admin::default();
        /// The description of the HTTP API for programs (OpenAPI); it reveals nothing
        openapi: EndpointOptions = EndpointOptions { enabled: true, handler_prefix: "/openapi.json".into() };
        /// The endpoint a load balancer asks; it reveals nothing
        health: EndpointOptions = EndpointOptions { enabled: true, handler_prefix: "/health".into() };
        /// An endpoint that answers `{}` to pages that may connect, for a browser to have a connection beforehand
        init: EndpointOptions = EndpointOptions { enabled: false, handler_prefix: "/connection/init".into() };
        /// The endpoint for metrics
        prometheus: Prometheus = Prometheus::default();
        /// Spans of calls, by OpenTelemetry
        opentelemetry: OpenTelemetryOptions = OpenTelemetryOptions::default();
        /// Threads for what would hold a reactor up
        workers: WorkersOptions = WorkersOptions::default();
        /// Sizes within a reactor thread; rarely worth a change
        reactor: ReactorOptions = ReactorOptions::default();
        /// When to refuse so as to go on serving
        overload: Overload = Overload::default();
        /// Leaving without a stampede
        shutdown: Shutdown = Shutdown::default();
        /// What is logged
        log: Log = Log::default();
    }
}

options! {
    pub struct NodeOptions {
        /// Name shown by `info`. Empty = host name and port.
        name: String = String::new();
    }
}

options! {
    pub struct HttpServer {
        /// Address of the one public port. Empty = all (loopback with `dev`).
        address: String = String::new();
        /// The one public port. 0 = one picked by the kernel, printed at start.
        port: u16 = 8000, Rule::Count(0, 65535);
        /// With `internal_port`: the address of the second port. Empty = the same as `address`.
        internal_address: String = String::new();
        /// 0 = off: api, health and metrics answer on `port`. Otherwise they answer only there.
        internal_port: u16 = 0, Rule::Count(0, 65535);
        /// Listen on `port` although another gannet of this user does: for an upgrade without a gap, where the
        /// new process starts before the old one leaves. Otherwise a port in use is an error.
        share_port: bool = false;
        /// Which reactor gets a new connection: by a hash any of them, evenly; or the one on the CPU that the first
        /// packet arrived at, and then each reactor stays on a CPU of its own.
        steering: String = "hash".into(), Rule::OneOf(&["hash", "cpu"]);
        /// Connections the kernel completes ahead of accept, per reactor; capped by net.core.somaxconn.
        listen_backlog: u32 = 4096, Rule::Count(1, MIB);
        /// From accept to a whole request head.
        handshake_timeout: Duration = secs(10), Rule::Time(TICK, DAY);
        /// Bytes of a request head; beyond: 431.
        header_size_limit: usize = 8192, Rule::Bytes(128, MIB);
        /// Kernel send buffer asked for on the listener and inherited by each client, bytes.
        /// 0 = the kernel's own sizing.
        send_buffer_size: usize = 0, Rule::Bytes(0, GIB);
        /// Kernel receive buffer, in the same way. 0 = the kernel's own sizing.
        receive_buffer_size: usize = 0, Rule::Bytes(0, GIB);
        /// HTTP connections served at once on the public port (emulation, pages; api, health and metrics if they are
        /// there); beyond: 503. While fewer than a quarter are free, idle ones end after a second.
        service_connection_limit: usize = 4096, Rule::Count(1, MIB);
        /// The same on the internal port; beyond: they wait.
        internal_connection_limit: usize = 4096, Rule::Count(1, MIB);
        /// Bytes of an HTTP request body for the server API.
        body_size_limit: usize = 8 << 20, Rule::Bytes(1, GIB);
        /// TLS of the public port, and of the internal one unless tls_external or internal_tls says otherwise
        tls: TlsOptions = TlsOptions::default();
        /// Certificates that come by themselves
        tls_autocert: TlsAutocert = TlsAutocert::default();
        /// With `tls`: the internal port has no TLS, unless internal_tls gives it its own.
        tls_external: bool = false;
        /// TLS of the internal port, if it is not that of the public one
        internal_tls: TlsOptions = TlsOptions::default();
    }
}

options! {
    pub struct WebSocket {
        /// Nobody connects this way.
        disabled: bool = false;
        /// URL path of the client endpoint.
        handler_prefix: String = "/connection/websocket".into(), Rule::Path;
        /// Bytes of one message from a client; beyond: close 1009.
        message_size_limit: usize = 65536, Rule::Bytes(1, GIB);
        /// A client whose socket takes no byte for this long while bytes wait is closed.
        write_timeout: Duration = secs(1), Rule::Time(TICK, DAY);
        /// A message that a client began must have come in full within this; beyond: close 1008.
        message_timeout: Duration = secs(60), Rule::Time(TICK, DAY);
        /// With clients that offer permessage-deflate: take compressed messages of them, and compress what they are
        /// sent, a publication once for all of them.
        compression: bool = false;
        /// 1 (fast) to 9 (small).
        compression_level: u32 = 1, Rule::Count(1, 9);
        /// Bytes of a message below which it is sent as it is.
        compression_min_size: usize = 0, Rule::Bytes(0, GIB);
        /// How long a close frame sent waits for the peer's.
        close_timeout: Duration = secs(5), Rule::Time(TICK, DAY);
    }
}

options! {
    pub struct Echo {
        /// An endpoint that returns each message, for conformance suites and benchmarks.
        enabled: bool = false;
        /// URL path of the echo endpoint.
        handler_prefix: String = "/echo".into(), Rule::Path;
        /// Bytes of one message; beyond: close 1009.
        message_size_limit: usize = (16 << 20) + (64 << 10), Rule::Bytes(1, GIB);
    }
}

options! {
    pub struct Client {
        /// Origins that may connect, as globs ("https://*.example.com"); "*" = all. Empty = only requests
        /// without an Origin header or whose Origin has the request's own host and port.
        allowed_origins: Vec<String> = Vec::new();
        /// No token needed, every channel permission granted. For development.
        insecure: bool = false;
        /// Clients without a token connect as the anonymous user "".
        allow_anonymous_connect_without_token: bool = false;
        /// Tokens with an empty `sub` are refused (3507).
        disallow_anonymous_connection_tokens: bool = false;
        /// Connection tokens (JWT), and subscription tokens unless they have a section of their own
        token: Token = Token::default();
        /// Subscription tokens, if their keys and rules are not those of connection tokens
        subscription_token: SubscriptionToken = SubscriptionToken::default();
        /// Tokens that were found good and are remembered, for each reactor and kind, so that a client that comes
        /// back costs no signature check. A KiB is set aside for each. 0 = none.
        token_cache_size: usize = 4096, Rule::Count(0, 10_000_000);
        /// Tokens that were found bad and are remembered, for each reactor and kind, so that one costs no other
        /// signature check. 64 bytes are set aside for each. 0 = none.
        bad_token_cache_size: usize = 4096, Rule::Count(0, 10_000_000);
        /// Subscribe commands in a row whose token no key has signed that end a connection (3500). The ones before get
        /// error 103. Tokens that are expired, or for another channel or user, are not counted. 0 = no number does.
        bad_token_limit: u32 = 5, Rule::Count(0, MIB);
        /// Takes what a token says without looking at its signature. For development.
        insecure_skip_token_signature_verify: bool = false;
        /// Application ping; the first is jittered in [interval/2, interval]. To leave together, pings come early, but
        /// less than a second and less than a 25th of the interval.
        ping_interval: Duration = secs(25), Rule::Time(secs(1), DAY);
        /// No pong by then: close 3012. 0 = pongs are not asked for. Must be below ping_interval.
        pong_timeout: Duration = secs(8), Rule::Time(Duration::ZERO, DAY);
        /// No connect command for this long after the upgrade: close 3502.
        stale_close_delay: Duration = secs(10), Rule::Time(TICK, DAY);
        /// After a token's expiry, how long a refresh may take before close 3005.
        expired_close_delay: Duration = secs(25), Rule::Time(Duration::ZERO, DAY);
        /// Subscriptions of one client; beyond: error 106.
        channel_limit: usize = 128, Rule::Count(1, MIB);
        /// Bytes that wait for one client; beyond: close 3008.
        queue_max_size: usize = 1048576, Rule::Bytes(1, GIB);
        /// Replies that may be owed to one client, by channels on other reactors or by the backend; beyond, its next
        /// commands wait unread.
        unanswered_limit: usize = 256, Rule::Count(1, MIB);
        /// Clients of this node. 0 = no limit (then what the file descriptors allow); beyond: 503.
        connection_limit: usize = 0, Rule::Count(0, NO_MAX);
        /// Handshakes a second, a true rate (token bucket of one second). 0 = no limit; beyond: 503.
        connection_rate_limit: usize = 0, Rule::Count(0, NO_MAX);
        /// Connections from one IP address. 0 = no limit; beyond: 503.
        connection_limit_per_ip: usize = 0, Rule::Count(0, NO_MAX);
        /// Adds the server's time (ms) to the connect reply.
        connect_include_server_time: bool = false;
        /// After a subscription's expiry, how long a refresh may take before the subscription ends (2501, or close
        /// 3006 for a server-side one).
        expired_sub_close_delay: Duration = secs(25), Rule::Time(Duration::ZERO, DAY);
        /// Publications that one history call may return.
        history_max_publication_limit: usize = 300, Rule::Count(1, MIB);
        /// Clients that one presence call may return; with more in the channel: error 106. The server API returns all.
        presence_max_client_limit: usize = 10_000, Rule::Count(1, NO_MAX);
        /// Publications that one recovery may return; who missed more is told that it was not recovered.
        recovery_max_publication_limit: usize = 300, Rule::Count(1, MIB);
        /// How often an engine that nodes share is told again who is present; below half of how long it remembers.
        presence_update_interval: Duration = secs(27), Rule::Time(secs(1), DAY);
        /// A channel in a shared engine of which nothing was heard for this long is looked at, once for all its
        /// clients here: what was lost on the way is brought, or the gap is told. 0 = never.
        channel_position_check_delay: Duration = secs(40), Rule::Time(Duration::ZERO, DAY);
        /// Connections of one user, on all nodes of a fleet; beyond: close 3504. Anonymous clients are not counted. 0 =
        /// no limit.
        user_connection_limit: usize = 0, Rule::Count(0, MIB);
        /// Replies and pushes of a client wait at most this long, to leave together in one write. 0 = they leave at
        /// once.
        write_delay: Duration = Duration::ZERO, Rule::Time(Duration::ZERO, secs(1));
        /// A header of the client's request that names the user, for clients without a token. Only behind a proxy that
        /// sets it, and removes it from what clients send. Empty = no header is believed.
        user_id_http_header: String = String::new();
        /// The backend decides
        proxy: ClientProxy = ClientProxy::default();
        /// What a connect command's error is for clients that only listen
        connect_code_to_unidirectional_disconnect: ConnectCodes = ConnectCodes::default();
        /// Who connects is subscribed to a channel of the user's own
        subscribe_to_user_personal_channel: PersonalChannel = PersonalChannel::default();
        /// How often clients may ask for something
        rate_limit: RateLimit = RateLimit::default();
    }
}

options! {
    pub struct PersonalChannel {
        /// Clients with a user are subscribed to the channel `#<user>` when they connect.
        enabled: bool = false;
        /// Namespace of the personal channel. Empty = without_namespace.
        personal_channel_namespace: String = String::new();
        /// A user's new connection ends the user's older ones on this node (3504).
        single_connection: bool = false;
    }
}

options! {
    /// One way to tell good tokens from bad. Without any key no token is accepted.
    pub struct Token {
        /// Key of HS256, HS384 and HS512 tokens. Empty = such tokens are refused. Secret: never printed.
        hmac_secret_key: String = String::new(), Rule::Secret;
        /// The key before, still accepted while backends change over to the new one. Secret: never printed.
        hmac_previous_secret_key: String = String::new(), Rule::Secret;
        /// When the previous key ceases to be accepted, in seconds since 1970. 0 = not before it is taken out.
        hmac_previous_secret_key_valid_until: u64 = 0;
        /// Key of RS256, RS384 and RS512 tokens, in PEM: 2048 to 4096 bits. Empty = such tokens are refused.
        rsa_public_key: String = String::new();
        /// Key of ES256, ES384 or ES512 tokens, in PEM; its curve decides which. Empty = such tokens are refused.
        ecdsa_public_key: String = String::new();
        /// URL of a JSON Web Key Set. If set, all tokens are checked with its keys and with no other. {{name}} stands
        /// for what the group (?P<name>one|two) of issuer_regex or audience_regex matched.
        jwks_public_endpoint: String = String::new(), Rule::UrlTemplate;
        /// What `aud` must be, or hold. Empty = it is not looked at.
        audience: String = String::new();
        /// In place of audience: what `aud`, or one of its list, must match; put it in ^ and $.
        audience_regex: String = String::new();
        /// What `iss` must be. Empty = it is not looked at.
        issuer: String = String::new();
        /// In place of issuer: what `iss` must match; put it in ^ and $.
        issuer_regex: String = String::new();
        /// The claim that names the user, of letters and underscores. Empty = `sub`.
        user_id_claim: String = String::new();
    }
}

options! {
    pub struct Channel {
        /// Bytes of a channel name; beyond: error 107.
        max_length: usize = 255, Rule::Bytes(1, 64 * KIB);
        /// What stands between a namespace and the rest of a channel's name.
        namespace_boundary: String = ":".into();
        /// What stands before the users of a user-limited channel (allow_user_limited_channels). Empty = there are
        /// none.
        user_boundary: String = "#".into();
        /// What stands between those users. Empty = there is one.
        user_separator: String = ",".into();
        /// What begins the names of channels that take a subscription token. Empty = no name does.
        private_prefix: String = "$".into();
        /// How long offset and epoch of a channel outlive its last publication.
        history_meta_ttl: Duration = MONTH, Rule::Time(secs(1), YEAR);
        /// Bytes that history and idempotency keys may take in one reactor. 0 = no limit; beyond: what was unused for
        /// the longest is forgotten, and if nothing is left to forget, publications that are to be kept get 111 / 503.
        history_memory_limit: usize = 0, Rule::Bytes(0, NO_MAX);
        /// Bytes that inboxes may take in one reactor, what waits in history not counted; beyond: error 111 to users
        /// who are not remembered yet. 0 = no limit.
        inbox_memory_limit: usize = 256 << 20, Rule::Bytes(0, NO_MAX);
        /// Channels of one reactor in which a user is remembered; beyond: error 106.
        inbox_user_limit: usize = 1000, Rule::Count(1, 1 << 24);
        /// As a channel's publication_data_format, for channels whose own is empty.
        publication_data_format: String = String::new(), Rule::OneOf(FORMATS);
        /// Results of publications with an idempotency_key that are remembered, for five minutes each, in one reactor.
        idempotency_cache_size: usize = 65536, Rule::Count(0, 1 << 24);
        /// Bytes of an idempotency_key, and of a version_epoch; beyond: error 107.
        idempotency_key_max_length: usize = 256, Rule::Bytes(1, 64 * KIB);
        /// `[{name, ...options}]`; names match ^[-a-zA-Z0-9_.]{2,}$ and are unique. The options are those
        /// of channel.without_namespace.
        namespaces: Vec<NamespaceOptions> = Vec::new();
        /// The backend decides
        proxy: ChannelProxy = ChannelProxy::default();
        /// Options of channels without a namespace prefix
        without_namespace: ChannelOptions = ChannelOptions::default();
    }
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct NamespaceOptions {
    pub name: String,
    pub options: ChannelOptions,
}

options! {
    pub struct ChannelOptions {
        /// Any authenticated client may subscribe.
        allow_subscribe_for_client: bool = false;
        /// With allow_subscribe_for_client: clients of the user "" too.
        allow_subscribe_for_anonymous: bool = false;
        /// Any authenticated client may publish.
        allow_publish_for_client: bool = false;
        /// A client subscribed to the channel may publish to it.
        allow_publish_for_subscriber: bool = false;
        /// With one of the other two allow_publish options: clients of the user "" too.
        allow_publish_for_anonymous: bool = false;
        /// Any authenticated client may ask who is in the channel.
        allow_presence_for_client: bool = false;
        /// A client subscribed to the channel may ask who is in it.
        allow_presence_for_subscriber: bool = false;
        /// With one of the other two allow_presence options: clients of the user "" too.
        allow_presence_for_anonymous: bool = false;
        /// Any authenticated client may read the history.
        allow_history_for_client: bool = false;
        /// A client subscribed to the channel may read its history.
        allow_history_for_subscriber: bool = false;
        /// With one of the other two allow_history options: clients of the user "" too.
        allow_history_for_anonymous: bool = false;
        /// Channels such as `chat#1,2` are for the users 1 and 2, who need no other permission to subscribe.
        allow_user_limited_channels: bool = false;
        /// Regular expression to be found in the channel's name, the namespace and its boundary left out: anchor it
        /// ("^[a-z]+$") for the whole. Empty = any ASCII.
        channel_regex: String = String::new();
        /// Keeps who is in the channel.
        presence: bool = false;
        /// Tells subscribers who comes and goes, if they ask for it.
        join_leave: bool = false;
        /// With join_leave: tells all subscribers, asked or not.
        force_push_join_leave: bool = false;
        /// Publications kept. With history_ttl it turns history on; 0 = off.
        history_size: usize = 0, Rule::Count(0, 1 << 24);
        /// How long publications are kept after the latest of the channel. 0 = history is off.
        history_ttl: Duration = Duration::ZERO, Rule::Time(Duration::ZERO, YEAR);
        /// As channel.history_meta_ttl, for these channels. 0 = what channel.history_meta_ttl says.
        history_meta_ttl: Duration = Duration::ZERO, Rule::Time(Duration::ZERO, YEAR);
        /// Keeps publications in an archive too (durable.type), beyond history_size and history_ttl and over a restart.
        /// none: it does not. batched: each is answered and delivered at once, and on disk within
        /// durable.flush_interval. sync: each is answered and delivered when it is on disk.
        history_durability: String = "none".into(), Rule::OneOf(durable::DURABILITIES);
        /// With history_durability: how long the archive keeps each publication. 0 = for ever.
        archive_ttl: Duration = MONTH, Rule::Time(Duration::ZERO, secs(100 * 366 * 24 * 60 * 60));
        /// With history_durability: publications that the archive keeps of a channel, the latest. 0 = any number.
        archive_size: usize = 10_000, Rule::Count(0, NO_MAX);
        /// Every subscription knows its position and is told of a gap.
        force_positioning: bool = false;
        /// A client may ask for that itself.
        allow_positioning: bool = false;
        /// Every subscription is recovered after a reconnect, from history.
        force_recovery: bool = false;
        /// A client may ask for that itself.
        allow_recovery: bool = false;
        /// What recovery brings: all that was missed (stream), or the latest publication only (cache).
        force_recovery_mode: String = "stream".into(), Rule::OneOf(&["", "stream", "cache"]);
        /// With force_recovery_mode cache: the latest publication comes with each subscription, asked for or not.
        auto_cache_recover: bool = false;
        /// Kinds of delta that a client may ask for: fossil.
        allowed_delta_types: Vec<String> = Vec::new();
        /// Each publication of a client is sent as a delta to those who asked for deltas; needs history.
        delta_publish: bool = false;
        /// A client may ask for publications with certain tags only.
        allow_tags_filter: bool = false;
        /// What publications must be: json, json_object, binary (anything, and then for Protobuf clients only), or
        /// empty for JSON from JSON clients and anything that is not empty from Protobuf clients.
        publication_data_format: String = String::new(), Rule::OneOf(FORMATS);
        /// The one kind of subscription there is: stream.
        subscription_type: String = "stream".into();
        /// Who published does not get the publication back.
        skip_publisher: bool = false;
        /// Publications that wait to leave together, at most. 0 = as many as come within batch_max_delay.
        batch_max_size: usize = 0, Rule::Count(0, MIB);
        /// How long publications wait to leave together, at most; 0 = they leave at once.
        batch_max_delay: Duration = Duration::ZERO, Rule::Time(Duration::ZERO, DAY);
        /// With batch_max_delay: of those that waited only the latest leaves.
        batch_flush_latest: bool = false;
        /// Where these channels live: memory, or an engine that is configured. Empty = where engine.type says.
        engine: String = String::new(), Rule::OneOf(&["", "memory", "redis", "nats"]);
        /// Offline messages
        inbox: InboxOptions = InboxOptions::default();
        /// Topic of Kafka that each accepted publication goes to as well (kafka_log). Empty = none.
        log_to: String = String::new();
        /// With log_to: who publishes is answered once Kafka has the publication; error 100 if it takes too long.
        log_to_sync: bool = false;
        /// The backend is asked before a client subscribes (channel.proxy.subscribe).
        subscribe_proxy_enabled: bool = false;
        /// Which of `proxies` is asked instead of channel.proxy.subscribe. Empty = that one.
        subscribe_proxy_name: String = String::new();
        /// The backend is asked before a client publishes (channel.proxy.publish).
        publish_proxy_enabled: bool = false;
        /// Which of `proxies` is asked instead of channel.proxy.publish. Empty = that one.
        publish_proxy_name: String = String::new();
        /// The backend is asked to refresh subscriptions that expire (channel.proxy.sub_refresh).
        sub_refresh_proxy_enabled: bool = false;
        /// Which of `proxies` is asked instead of channel.proxy.sub_refresh. Empty = that one.
        sub_refresh_proxy_name: String = String::new();
        /// Each subscription of a client is a stream from the backend of its own (channel.proxy.subscribe_stream).
        subscribe_stream_proxy_enabled: bool = false;
        /// Which of `proxies` is asked instead of channel.proxy.subscribe_stream. Empty = that one.
        subscribe_stream_proxy_name: String = String::new();
        /// With subscribe_stream_proxy_enabled: what the client publishes goes into its stream, and nowhere else.
        subscribe_stream_proxy_bidirectional: bool = false;
    }
}

options! {
    pub struct HttpApi {
        /// It answers nowhere.
        disabled: bool = false;
        /// With http_server.internal_port: it answers on the public port too.
        external: bool = false;
        /// Key a backend sends (X-API-Key, or Authorization: apikey). Empty = every call is refused, 401.
        /// Secret: never printed.
        key: String = String::new(), Rule::Secret;
        /// No key needed. For development.
        insecure: bool = false;
        /// URL path that the methods are below.
        handler_prefix: String = "/api".into(), Rule::Path;
        /// How errors are told: in the body of a 200 (empty), or by the HTTP status as well (transport). A call
        /// with the header `X-Centrifugo-Error-Mode: transport` chooses that for itself.
        error_mode: String = String::new(), Rule::OneOf(&["", "transport"]);
    }
}

options! {
    pub struct GrpcApi {
        /// Whether it listens.
        enabled: bool = false;
        /// Address it listens on. Empty = all (loopback with `dev`).
        address: String = String::new();
        /// Port it listens on. 0 = one picked by the kernel, printed at start.
        port: u16 = 10000, Rule::Count(0, 65535);
        /// Key a backend sends (metadata `authorization: apikey KEY`). Empty = every call is refused,
        /// UNAUTHENTICATED. Secret: never printed.
        key: String = String::new(), Rule::Secret;
        /// No key needed. For development.
        insecure: bool = false;
        /// How errors are told: in the answer (empty), or as the call's status (transport).
        error_mode: String = String::new(), Rule::OneOf(&["", "transport"]);
        /// Bytes of one request; beyond: OUT_OF_RANGE.
        max_receive_message_size: usize = 4 << 20, Rule::Bytes(1, GIB);
        /// Connections served at once; beyond: they wait. While fewer than a quarter are free, idle ones end.
        connection_limit: usize = 4096, Rule::Count(1, MIB);
        /// Tells programs such as grpcurl which methods and messages there are (grpc.reflection.v1 and v1alpha),
        /// without a key.
        reflection: bool = false;
        /// TLS of its port
        tls: TlsOptions = TlsOptions::default();
    }
}

options! {
    pub struct EndpointOptions {
        /// Whether it answers.
        enabled: bool = false;
        /// URL path of the endpoint.
        handler_prefix: String = String::new(), Rule::Path;
    }
}

options! {
    pub struct Prometheus {
        /// Whether it answers.
        enabled: bool = false;
        /// URL path of the endpoint.
        handler_prefix: String = "/metrics".into(), Rule::Path;
        /// Counts HTTP requests that no reactor answers, by path, method and status.
        instrument_http_handlers: bool = false;
    }
}

options! {
    pub struct WorkersOptions {
        /// Threads that check signatures of tokens by public keys, and that carry out TLS handshakes. 0 = half of the
        /// cores the process may use, at least one.
        threads: usize = 0, Rule::Count(0, 1024);
        /// Bytes of jobs that wait for a thread, of each kind, each counted as a KiB at least. A connection may have as
        /// much there as is free. Beyond: error 111; who is in a handshake is closed.
        queue_size: usize = 16 << 20, Rule::Bytes(64 * KIB, GIB);
        /// How far these threads stand behind those that serve clients, where both want a core, in steps of nice(2).
        /// 0 = not at all, and a storm of handshakes then delays everybody.
        nice: usize = 10, Rule::Count(0, 19);
    }
}

options! {
    pub struct ReactorOptions {
        /// Values that wait for one reactor; beyond: publications are dropped and counted, requests get
        /// 111 / 503.
        mailbox_size: usize = 65536, Rule::Count(1, 1 << 24);
        /// Connections accepted in one loop turn, and so many of those in their TLS handshake are carried on with.
        accept_budget: usize = 64, Rule::Count(1, MIB);
        /// Bytes of publications that wait for delivery in one reactor, for each 256 and its own; beyond: its
        /// mailbox waits, publishers get 111 / 503.
        fanout_queue_size: usize = 64 << 20, Rule::Bytes(1, NO_MAX);
        /// Deliveries of a fan-out in one slice, after which the loop looks at its sockets again.
        fanout_slice: usize = 1024, Rule::Count(1, MIB);
        /// Commands, or frames that hold none, that one connection may send in one loop turn; the rest waits for the
        /// next turn, after everyone else.
        command_budget: usize = 64, Rule::Count(1, MIB);
        /// Bytes of messages, after inflating them, that one connection may have decoded in one loop turn, and of
        /// publications to which deltas are searched for it as it recovers; a channel of an inbox.ack counts for 1 KiB.
        /// The rest waits likewise.
        decode_budget: usize = 128 << 10, Rule::Bytes(1, GIB);
        /// Bytes of replies that one connection may cause in one loop turn; what else it asks for waits likewise.
        reply_budget: usize = 256 << 10, Rule::Bytes(1, GIB);
        /// Signatures of tokens that one connection may have checked in one loop turn; what is behind them waits
        /// likewise.
        signature_budget: usize = 16, Rule::Count(1, MIB);
        /// Bytes of unfinished messages and of waiting input that all connections of one reactor may hold; beyond,
        /// those that hold most are closed (1013). As much for all connect requests by gRPC.
        held_input_size: usize = 32 << 20, Rule::Bytes(MIB, NO_MAX);
        /// Presence commands for channels with more than 256 clients that wait at one reactor, which makes one such
        /// list at a time; beyond: error 111.
        presence_queue_limit: usize = 1024, Rule::Count(1, MIB);
        /// Publications of one channel in a shared engine that wait while what was lost before them is read; beyond,
        /// they are read too.
        held_publication_limit: usize = 512, Rule::Count(1, MIB);
        /// Bytes of them, for all channels of one reactor; beyond, they are read too.
        held_publication_size: usize = 32 << 20, Rule::Bytes(1, NO_MAX);
        /// Questions of one reactor to shared engines that may be under way; beyond: error 111, the API 503.
        engine_inflight_limit: usize = 65536, Rule::Count(1, 1 << 24);
    }
}

options! {
    pub struct Overload {
        /// Memory in use by the process, bytes, beyond which new connections get 503. 0 = no limit.
        memory_limit: usize = 0, Rule::Bytes(0, NO_MAX);
        /// Connections accepted a second by the node, before any byte is read. 0 = no limit; beyond: closed
        /// at once.
        accept_rate_limit: usize = 0, Rule::Count(0, NO_MAX);
    }
}

options! {
    pub struct Shutdown {
        /// From the signal to the closing of the port: health says 503 already, so that a load balancer stops
        /// sending first.
        delay: Duration = Duration::from_secs(1), Rule::Time(Duration::ZERO, DAY);
        /// Clients are told 3001 spread over this long, so that they do not all come back at once.
        spread: Duration = secs(5), Rule::Time(Duration::ZERO, DAY);
        /// The process exits by then whatever is still open.
        deadline: Duration = secs(30), Rule::Time(Duration::ZERO, DAY);
    }
}

options! {
    pub struct Log {
        /// The least grave lines that are written. Nothing is fatal that is not told on standard error: fatal is none.
        level: String = "info".into(), Rule::OneOf(&["error", "warn", "info", "debug", "trace", "fatal", "none"]);
        /// File that lines are appended to, in place of standard error. SIGUSR1 opens it anew, after somebody has moved
        /// it away. Empty = standard error.
        file: String = String::new();
        /// auto = text on a terminal, JSON otherwise.
        format: String = "auto".into(), Rule::OneOf(&["auto", "text", "json"]);
        /// Lines that wait for the log thread; beyond: dropped and counted, never waited for.
        queue_size: usize = 65536, Rule::Count(1, 1 << 24);
    }
}
