//! F0 · The options of what is asked of the application's backend, and of what it is told.
//!
//! Owns the sections of proxies, RPC, key sets and hooks, and the rules between them. Never knows how a question is
//! put: that a proxy is asked over HTTP shows only in its options.

use super::check::Problem;
use super::list::{Headers, ListEntry, header_fault};
use super::registry::{Meta, Visit, Visitor, beside};
use super::url::{grpc_authority, shown};
use super::value::{Given, Rule};
use super::{ChannelOptions, Config, DAY, GIB, MIB, NamespaceOptions, TICK, foreign, secs, unknown};
use std::collections::BTreeSet;
use std::time::Duration;

options! {
    pub struct ProxyOptions {
        /// Where the question goes: an http or https URL, or grpc://host:port. Empty = there is no such proxy.
        endpoint: String = String::new(), Rule::ProxyUrl;
        /// How long the backend may take, its whole answer included; beyond: error 100.
        timeout: Duration = secs(1), Rule::Time(Duration::from_millis(1), DAY);
        /// Headers of the client's own request that go with each question, such as cookie; by gRPC as metadata.
        http_headers: Vec<String> = Vec::new();
        /// Metadata of a client's own gRPC call (uni_grpc) that go with each question, over HTTP as headers.
        grpc_metadata: Vec<String> = Vec::new();
        /// Headers out of the connect command that go with the connect question. A client writes there what it likes.
        emulated_headers: Vec<String> = Vec::new();
        /// Payloads travel as base64 (b64data), for clients that send no JSON.
        binary_encoding: bool = false;
        /// What the token's `meta`, or that of the connect proxy's answer, says of the client goes with each question
        /// but that of the connect proxy.
        include_connection_meta: bool = false;
        /// Questions under way to this proxy; beyond: error 111.
        inflight_limit: usize = 1024, Rule::Count(1, 65536);
        /// The HTTP request
        http: ProxyHttp = ProxyHttp::default();
        /// The gRPC call, for an endpoint that begins with grpc://
        grpc: ProxyGrpc = ProxyGrpc::default();
    }
}

options! {
    pub struct ProxyHttp {
        /// Of an https endpoint
        tls: TlsOptions = TlsOptions::default();
        /// Headers that go with each question; they win over the client's. Their values are never printed.
        static_headers: Headers = Headers::new(), Rule::Secret;
        /// `[{status_code, to_error: {code, message, temporary}, to_disconnect: {code, reason}}]`: what an HTTP status
        /// other than 200 means. One that is not listed is error 100.
        status_to_code_transforms: Vec<Transform> = Vec::new();
    }
}

options! {
    pub struct ProxyGrpc {
        /// Whether the connection has TLS, and by which certificates
        tls: TlsOptions = TlsOptions::default();
        /// Name of the metadata that credentials_value goes by. Empty = none goes.
        credentials_key: String = String::new();
        /// Credentials for each call. Secret: never printed.
        credentials_value: String = String::new(), Rule::Secret;
        /// Calls are compressed (gzip). Answers may be in any case.
        compression: bool = false;
        /// Metadata that goes with each call; it wins over the client's. Its values are never printed.
        static_metadata: Headers = Headers::new(), Rule::Secret;
    }
}

options! {
    pub struct TlsOptions {
        /// These options hold. Otherwise, of a proxy: the host's authorities are trusted, and no certificate is shown;
        /// of a port: it has no TLS.
        enabled: bool = false;
        /// The certificate that is shown, with those above it: PEM, base64 of that, or a file. A port shows another
        /// soon after its file has changed. Empty = none is.
        cert_pem: String = String::new();
        /// Its private key, likewise. Secret: never printed.
        key_pem: String = String::new(), Rule::Secret;
        /// Of a proxy: the authorities that the other side's certificate must come from, likewise. Empty = those of the
        /// host.
        server_ca_pem: String = String::new();
        /// Of a port: the authorities of those who connect, likewise; who shows no certificate of theirs is refused.
        /// Empty = nobody needs one.
        client_ca_pem: String = String::new();
        /// Of a proxy: the name that the other side's certificate must have. Empty = the endpoint's host.
        server_name: String = String::new();
        /// Of a proxy: the other side may be anyone. For development.
        insecure_skip_verify: bool = false;
    }
}

options! {
    pub struct Transform {
        /// The HTTP status.
        status_code: u16 = 0, Rule::Count(100, 999);
        /// The error reply
        to_error: ToError = ToError::default();
        /// The disconnect
        to_disconnect: ToDisconnect = ToDisconnect::default();
    }
}

options! {
    pub struct ToError {
        /// 0 = none.
        code: u32 = 0;
        /// For the client's log.
        message: String = String::new();
        /// The client tries again.
        temporary: bool = false;
    }
}

options! {
    pub struct ToDisconnect {
        /// 3000 to 4999; 0 = none.
        code: u16 = 0;
        /// For the client's log.
        reason: String = String::new();
    }
}

impl Config {
    /// The proxies that have an endpoint.
    pub fn every_proxy(&self) -> impl Iterator<Item = &ProxyOptions> {
        let (client, channel) = (&self.client.proxy, &self.channel.proxy);
        let own = [
            &client.connect.proxy,
            &client.refresh.proxy,
            &channel.subscribe,
            &channel.publish,
            &channel.sub_refresh,
            &channel.subscribe_stream,
            &self.rpc.proxy,
        ];
        let named = self.proxies.iter().map(|named| &named.proxy);
        own.into_iter().chain(named).filter(|proxy| !proxy.endpoint.is_empty())
    }

    /// What is to be told of proxies, with where it stands.
    pub(super) fn proxy_warnings(&self) -> Vec<(String, &'static str)> {
        let own = self.proxy_sections().map(|(section, proxy)| (section.to_owned(), proxy));
        let named = self.proxies.iter().enumerate();
        let all = own.into_iter().chain(named.map(|(at, named)| (format!("proxies[{at}]"), &named.proxy)));
        let asked = all.filter(|(_, proxy)| !proxy.endpoint.is_empty());
        let said = |(place, proxy): (String, &ProxyOptions)| {
            let found = proxy_warnings(proxy, self.uni_grpc.enabled).into_iter();
            found.map(|(key, message)| (format!("{place}.{key}"), message)).collect::<Vec<_>>()
        };
        asked.flat_map(said).collect()
    }

    /// The sections that are a proxy.
    fn proxy_sections(&self) -> [(&'static str, &ProxyOptions); 7] {
        let channel = &self.channel.proxy;
        [
            ("client.proxy.connect", &self.client.proxy.connect.proxy),
            ("client.proxy.refresh", &self.client.proxy.refresh.proxy),
            ("channel.proxy.subscribe", &channel.subscribe),
            ("channel.proxy.publish", &channel.publish),
            ("channel.proxy.sub_refresh", &channel.sub_refresh),
            ("channel.proxy.subscribe_stream", &channel.subscribe_stream),
            ("rpc.proxy", &self.rpc.proxy),
        ]
    }

    /// Lower-case names of headers that any proxy wants of a client's request, each once.
    pub fn forwarded_headers(&self) -> Vec<String> {
        let names = self.every_proxy().flat_map(|proxy| &proxy.http_headers).map(|name| name.to_ascii_lowercase());
        names.collect::<BTreeSet<String>>().into_iter().collect()
    }

    /// The same of metadata of a client's call.
    pub fn forwarded_metadata(&self) -> Vec<String> {
        let names = self.every_proxy().flat_map(|proxy| &proxy.grpc_metadata).map(|name| name.to_ascii_lowercase());
        names.collect::<BTreeSet<String>>().into_iter().collect()
    }
}

impl ListEntry for Transform {
    const WHAT: &'static str = "a transform";
    const EXAMPLE: &'static str = "[{\"status_code\": 404, \"to_error\": {\"code\": 404, \"message\": \"not found\"}}]";
    const NEEDED: &'static [&'static str] = &["status_code"];
}

/// A proxy that no channel names: it has a switch.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SwitchedProxy {
    pub enabled: bool,
    pub proxy: ProxyOptions,
}

impl Visit for SwitchedProxy {
    fn visit(&mut self, meta: Meta<'_>, visitor: &mut dyn Visitor) {
        beside(("enabled", "Whether the backend is asked.", &mut self.enabled), &mut self.proxy, meta, visitor);
    }
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct NamedProxy {
    pub name: String,
    pub proxy: ProxyOptions,
}

impl Visit for NamedProxy {
    fn visit(&mut self, meta: Meta<'_>, visitor: &mut dyn Visitor) {
        beside(("name", "What namespaces call it.", &mut self.name), &mut self.proxy, meta, visitor);
    }
}

impl ListEntry for NamedProxy {
    const WHAT: &'static str = "a proxy";
    const EXAMPLE: &'static str = "[{\"name\": \"orders\", \"endpoint\": \"http://127.0.0.1:3000/orders\"}]";
    const NEEDED: &'static [&'static str] = &["name", "endpoint"];
}

impl Visit for NamespaceOptions {
    fn visit(&mut self, meta: Meta<'_>, visitor: &mut dyn Visitor) {
        beside(("name", "What stands before the boundary.", &mut self.name), &mut self.options, meta, visitor);
    }
}

impl ListEntry for NamespaceOptions {
    const WHAT: &'static str = "a namespace";
    const EXAMPLE: &'static str = "[{\"name\": \"chat\", \"allow_subscribe_for_client\": true}]";
    const NEEDED: &'static [&'static str] = &["name"];
    fn foreign(key: &str, value: &serde_json::Value) -> Option<String> {
        match foreign::channel_option(key, Given::Tree(value)) {
            Some(foreign::Disposition::Refused(message)) => Some(message),
            Some(_) => None,
            None => Some(unknown::channel_option(key)),
        }
    }
}

options! {
    pub struct ClientProxy {
        /// Asked who a client without a token is
        connect: SwitchedProxy = SwitchedProxy::default();
        /// Asked whether a client may stay beyond its expiry
        refresh: SwitchedProxy = SwitchedProxy::default();
    }
}

options! {
    pub struct ChannelProxy {
        /// Asked where subscribe_proxy_enabled is set
        subscribe: ProxyOptions = ProxyOptions::default();
        /// Asked where publish_proxy_enabled is set
        publish: ProxyOptions = ProxyOptions::default();
        /// Asked where sub_refresh_proxy_enabled is set
        sub_refresh: ProxyOptions = ProxyOptions::default();
        /// Where subscribe_stream_proxy_enabled is set, streams come from here, by gRPC
        subscribe_stream: ProxyOptions = ProxyOptions::default();
    }
}

options! {
    pub struct Rpc {
        /// What parts a method's namespace from its name.
        namespace_boundary: String = ":".into();
        /// `[{name, proxy_enabled, proxy_name}]`; the options are those of rpc.without_namespace.
        namespaces: Vec<RpcNamespace> = Vec::new();
        /// Asked where proxy_enabled is set
        proxy: ProxyOptions = ProxyOptions::default();
        /// Options of methods without a namespace prefix
        without_namespace: RpcOptions = RpcOptions::default();
        /// A method that the node answers itself
        ping: RpcPing = RpcPing::default();
    }
}

options! {
    pub struct RpcOptions {
        /// The backend answers these methods (rpc.proxy). Without it: error 108.
        proxy_enabled: bool = false;
        /// Which of `proxies` is asked instead of rpc.proxy. Empty = that one.
        proxy_name: String = String::new();
    }
}

options! {
    pub struct RpcPing {
        /// Whether it is answered, with nothing in the reply.
        enabled: bool = false;
        /// The name of that method.
        method: String = "ping".into();
    }
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct RpcNamespace {
    pub name: String,
    pub options: RpcOptions,
}

impl Visit for RpcNamespace {
    fn visit(&mut self, meta: Meta<'_>, visitor: &mut dyn Visitor) {
        beside(("name", "What stands before the boundary.", &mut self.name), &mut self.options, meta, visitor);
    }
}

impl ListEntry for RpcNamespace {
    const WHAT: &'static str = "a namespace of methods";
    const EXAMPLE: &'static str = "[{\"name\": \"orders\", \"proxy_enabled\": true}]";
    const NEEDED: &'static [&'static str] = &["name"];
}

options! {
    pub struct BackendOptions {
        /// Questions under way to all proxies and for key sets; beyond: error 111. File descriptors are kept for so
        /// many, or for the sum of the proxies' own limits if that is less.
        inflight_limit: usize = 4096, Rule::Count(1, MIB);
        /// Bytes of an answer; beyond: error 100.
        response_size_limit: usize = 1 << 20, Rule::Bytes(64, GIB);
        /// Subscription streams of all proxies; beyond: error 111.
        stream_limit: usize = 4096, Rule::Count(1, MIB);
        /// Bytes of publications that wait in one subscription stream, for each direction; beyond: the backend waits,
        /// and clients get error 111.
        stream_queue_size: usize = 64 << 10, Rule::Bytes(1, GIB);
        /// A proxy is not asked for a while when half or more of its questions failed within this long: no answer in
        /// time, no connection, a status of 500 and above, or nothing that can be read.
        breaker_window: Duration = secs(10), Rule::Time(secs(1), DAY);
        /// So many questions there must be in that window. 0 = every question is put.
        breaker_calls: usize = 20, Rule::Count(0, MIB);
        /// How long it is not asked; clients get error 100 at once. Then one question tells whether it is back.
        breaker_delay: Duration = secs(3), Rule::Time(TICK, DAY);
    }
}

options! {
    pub struct JwksOptions {
        /// How long a key set's server may take.
        timeout: Duration = secs(1), Rule::Time(Duration::from_millis(1), DAY);
        /// A key set in use is fetched again after this long; if that fails, it is believed for as long again.
        ttl: Duration = secs(3600), Rule::Time(secs(1), DAY);
        /// A token whose key is unknown has its set fetched again, but not more often than this.
        refetch_interval: Duration = secs(5), Rule::Time(TICK, DAY);
        /// Key sets kept, where the URL depends on the token.
        url_limit: usize = 100, Rule::Count(1, 65536);
        /// Bytes of a key set; beyond: it is not read.
        response_size_limit: usize = 1 << 20, Rule::Bytes(64, GIB);
    }
}

options! {
    pub struct HooksOptions {
        /// Where events go: an http or https URL. Empty = nobody is told.
        endpoint: String = String::new(), Rule::Url;
        /// Kinds of events: connect, disconnect, occupied, vacated, undelivered.
        events: Vec<String> = HOOK_EVENTS.map(String::from).to_vec();
        /// Events in one request, at most.
        batch_size: usize = 100, Rule::Count(1, 65536);
        /// How long an event waits for others.
        batch_delay: Duration = Duration::from_millis(100), Rule::Time(Duration::ZERO, DAY);
        /// Events that wait; beyond: dropped and counted.
        queue_size: usize = 65536, Rule::Count(1, 1 << 24);
        /// How long the backend may take; beyond: the batch is counted as failed and dropped.
        timeout: Duration = secs(5), Rule::Time(Duration::from_millis(1), DAY);
        /// How often a batch of undelivered events is sent again; beyond: it is counted as failed and dropped.
        retry_limit: usize = 20, Rule::Count(0, 1000);
        /// The pause before it is sent again for the first time; each one is twice as long.
        retry_min_delay: Duration = secs(1), Rule::Time(Duration::from_millis(1), DAY);
        /// The longest of these pauses.
        retry_max_delay: Duration = secs(300), Rule::Time(Duration::from_millis(1), DAY);
        /// The HTTP request
        http: HooksHttp = HooksHttp::default();
    }
}

options! {
    pub struct HooksHttp {
        /// Headers that go with each batch. Their values are never printed.
        static_headers: Headers = Headers::new(), Rule::Secret;
    }
}

/// Kinds of events that hooks tell.
pub const HOOK_EVENTS: [&str; 5] = ["connect", "disconnect", "occupied", "vacated", "undelivered"];

fn problem(option: &str, at: String, message: impl Into<String>) -> Problem {
    Problem { option: option.to_owned(), at, message: message.into() }
}

impl Config {
    /// The proxy of that name, or the section's own when it has none ("" or "default").
    pub fn proxy<'a>(&'a self, name: &str, own: &'a ProxyOptions) -> Option<&'a ProxyOptions> {
        match name {
            "" | "default" => Some(own),
            _ => self.proxies.iter().find(|named| named.name == name).map(|named| &named.proxy),
        }
    }

    /// The rules of proxies, RPC and hooks.
    pub(super) fn check_backend(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (option, switched) in
            [("client.proxy.connect", &self.client.proxy.connect), ("client.proxy.refresh", &self.client.proxy.refresh)]
        {
            if switched.enabled && switched.proxy.endpoint.is_empty() {
                let message = "expected a URL (http, https or grpc), because the proxy is enabled; got nothing";
                problems.push(problem(&format!("{option}.endpoint"), String::new(), message));
            }
        }
        for (option, proxy) in self.proxy_sections() {
            check_proxy(proxy, |key, message| {
                problems.push(problem(&format!("{option}.{key}"), String::new(), message))
            });
        }
        let streams = &self.channel.proxy.subscribe_stream.endpoint;
        if !streams.is_empty() && grpc_authority(streams).is_none() {
            let option = "channel.proxy.subscribe_stream.endpoint";
            let message = format!("expected grpc://host:port, for streams come by gRPC; got {:?}", shown(streams));
            problems.push(problem(option, String::new(), message));
        }
        self.check_named_proxies(&mut problems);
        self.check_channel_proxies("channel.without_namespace.", "", &self.channel.without_namespace, &mut problems);
        for (index, namespace) in self.channel.namespaces.iter().enumerate() {
            let at = format!("[{index}].");
            self.check_channel_proxies("channel.namespaces", &at, &namespace.options, &mut problems);
        }
        self.check_rpc(&mut problems);
        for (index, event) in self.hooks.events.iter().enumerate() {
            if !HOOK_EVENTS.contains(&event.as_str()) {
                let message = format!("expected one of {}; got {event:?}", HOOK_EVENTS.join(", "));
                problems.push(problem("hooks.events", format!("[{index}]"), message));
            }
        }
        problems
    }

    fn check_named_proxies(&self, problems: &mut Vec<Problem>) {
        let mut seen = BTreeSet::new();
        for (index, NamedProxy { name, proxy }) in self.proxies.iter().enumerate() {
            let mut say = |key: &str, message: String| {
                problems.push(problem("proxies", format!("[{index}].{key}"), message));
            };
            let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
            if !plain || name.len() < 2 || name == "default" {
                let text = "expected two or more of a-z A-Z 0-9 - _ and '.', and not \"default\"";
                say("name", format!("{text}; got {name:?}"));
            } else if !seen.insert(name) {
                say("name", format!("expected a name of its own; there is another {name:?}"));
            }
            if proxy.endpoint.is_empty() {
                say("endpoint", "expected a URL (http, https or grpc); got nothing".into());
            }
            check_proxy(proxy, say);
        }
    }

    /// `option` and `at` are what stands before the key of the option that is wrong.
    fn check_channel_proxies(&self, option: &str, at: &str, options: &ChannelOptions, problems: &mut Vec<Problem>) {
        let own = &self.channel.proxy;
        let kinds = [
            ("subscribe", options.subscribe_proxy_enabled, &options.subscribe_proxy_name, &own.subscribe),
            ("publish", options.publish_proxy_enabled, &options.publish_proxy_name, &own.publish),
            ("sub_refresh", options.sub_refresh_proxy_enabled, &options.sub_refresh_proxy_name, &own.sub_refresh),
            (
                "subscribe_stream",
                options.subscribe_stream_proxy_enabled,
                &options.subscribe_stream_proxy_name,
                &own.subscribe_stream,
            ),
        ];
        for (kind, enabled, name, own) in kinds {
            let section = format!("channel.proxy.{kind}");
            let wrong = self.named_wrongly(enabled, name, own, &section);
            let by_grpc = self.proxies.iter().find(|proxy| proxy.name == *name);
            let by_grpc = by_grpc.is_none_or(|named| grpc_authority(&named.proxy.endpoint).is_some());
            let other = (kind == "subscribe_stream" && enabled && !by_grpc).then(|| {
                (
                    "name",
                    format!("expected a proxy whose endpoint begins with grpc://, for streams come so; got {name:?}"),
                )
            });
            if let Some((key, message)) = wrong.or(other) {
                let key = format!("{kind}_proxy_{key}");
                problems.push(match at {
                    "" => problem(&format!("{option}{key}"), String::new(), message),
                    _ => problem(option, format!("{at}{key}"), message),
                });
            }
        }
    }

    fn named_wrongly(
        &self,
        enabled: bool,
        name: &str,
        own: &ProxyOptions,
        section: &str,
    ) -> Option<(&'static str, String)> {
        match self.proxy(name, own) {
            None => {
                let names: Vec<_> = self.proxies.iter().map(|proxy| proxy.name.as_str()).collect();
                let known = if names.is_empty() { "which is empty".into() } else { names.join(", ") };
                Some(("name", format!("expected a name out of `proxies`, {known}; got {name:?}")))
            }
            Some(proxy) if enabled && proxy.endpoint.is_empty() => {
                Some(("enabled", format!("expected {section}.endpoint to be set, or a name out of `proxies`")))
            }
            Some(_) => None,
        }
    }

    fn check_rpc(&self, problems: &mut Vec<Problem>) {
        let rpc = &self.rpc;
        let plain = &rpc.without_namespace;
        if let Some((key, message)) =
            self.named_wrongly(plain.proxy_enabled, &plain.proxy_name, &rpc.proxy, "rpc.proxy")
        {
            problems.push(problem(&format!("rpc.without_namespace.proxy_{key}"), String::new(), message));
        }
        if rpc.namespace_boundary.is_empty() {
            problems.push(problem("rpc.namespace_boundary", String::new(), "expected a text; got nothing"));
        }
        let mut seen = BTreeSet::new();
        for (index, RpcNamespace { name, options }) in rpc.namespaces.iter().enumerate() {
            let mut say = |key: &str, message: String| {
                problems.push(problem("rpc.namespaces", format!("[{index}].{key}"), message));
            };
            if name.is_empty() || name.contains(&rpc.namespace_boundary) {
                say("name", format!("expected a name without {:?}; got {name:?}", rpc.namespace_boundary));
            } else if !seen.insert(name) {
                say("name", format!("expected a name of its own; there is another {name:?}"));
            }
            let wrong = self.named_wrongly(options.proxy_enabled, &options.proxy_name, &rpc.proxy, "rpc.proxy");
            if let Some((key, message)) = wrong {
                say(&format!("proxy_{key}"), message);
            }
        }
    }
}

/// Why it is not safe not to verify.
const ANYONE: &str = "whoever answers is believed to be the backend: set server_ca_pem instead";

/// What has no effect with the endpoint as it is, and what is not safe. A certificate that is not looked at is worth a
/// word. `calls`: clients may come by gRPC.
fn proxy_warnings(proxy: &ProxyOptions, calls: bool) -> Vec<(&'static str, &'static str)> {
    let by_grpc = grpc_authority(&proxy.endpoint).is_some();
    let rules = [
        (
            "http.tls.enabled",
            proxy.http.tls.enabled && !proxy.endpoint.starts_with("https:"),
            "has no effect: only an endpoint that begins with https:// is asked so",
        ),
        (
            "grpc.tls.enabled",
            proxy.grpc.tls.enabled && !by_grpc,
            "has no effect: only an endpoint that begins with grpc:// is asked so",
        ),
        ("http.tls.insecure_skip_verify", proxy.http.tls.enabled && proxy.http.tls.insecure_skip_verify, ANYONE),
        ("grpc.tls.insecure_skip_verify", proxy.grpc.tls.enabled && proxy.grpc.tls.insecure_skip_verify, ANYONE),
        (
            "grpc_metadata",
            !proxy.grpc_metadata.is_empty() && !calls,
            "has no effect without uni_grpc.enabled: it is the metadata of clients that come so",
        ),
    ];
    rules.into_iter().filter(|(_, applies, _)| *applies).map(|(key, _, message)| (key, message)).collect()
}

/// What no rule of a single option can tell.
fn check_proxy(proxy: &ProxyOptions, mut say: impl FnMut(&str, String)) {
    for (section, tls) in [("http.tls", &proxy.http.tls), ("grpc.tls", &proxy.grpc.tls)] {
        if tls.cert_pem.is_empty() != tls.key_pem.is_empty() {
            let missing = if tls.cert_pem.is_empty() { "cert_pem" } else { "key_pem" };
            say(&format!("{section}.{missing}"), "expected a certificate with its key, or neither; got nothing".into());
        }
    }
    let key = &proxy.grpc.credentials_key;
    if let Some(wrong) = header_fault(key).filter(|_| !key.is_empty()) {
        say("grpc.credentials_key", format!("expected the name of metadata; {wrong}"));
    }
    let lists = [
        ("http_headers", &proxy.http_headers),
        ("emulated_headers", &proxy.emulated_headers),
        ("grpc_metadata", &proxy.grpc_metadata),
    ];
    for (key, names) in lists {
        if let Some(wrong) = names.iter().find_map(|name| header_fault(name)) {
            say(key, format!("expected names of headers that may be sent; {wrong}"));
        }
    }
    for (index, transform) in proxy.http.status_to_code_transforms.iter().enumerate() {
        let (error, disconnect) = (&transform.to_error, &transform.to_disconnect);
        let key = |rest: &str| format!("http.status_to_code_transforms[{index}].{rest}");
        if transform.status_code == 200 {
            say(&key("status_code"), "expected another status than 200".into());
        }
        if (error.code == 0) == (disconnect.code == 0) {
            say(&key("to_error"), "expected a code in to_error or in to_disconnect, and not in both".into());
        }
        if disconnect.code != 0 && !(3000..5000).contains(&disconnect.code) {
            say(&key("to_disconnect.code"), format!("expected 3000 to 4999; got {}", disconnect.code));
        }
        if disconnect.reason.len() > 123 {
            say(&key("to_disconnect.reason"), "expected 123 bytes at most: a close frame has no more".into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{File, Format, load, print};
    use super::*;

    fn toml(text: &str) -> Result<Config, Vec<String>> {
        let loaded = load(Some(File { name: "a.toml", text }), &[], &[]);
        loaded.map(|(config, _)| config).map_err(|errors| errors.iter().map(ToString::to_string).collect())
    }

    const EVERYTHING: &str = r#"
        [client.proxy.connect]
        enabled = true
        endpoint = "https://app.example.com/connect?x=1"
        timeout = "3s"
        http_headers = ["Cookie"]
        [client.proxy.connect.http]
        static_headers = { X-Key = "hush", "x.y" = "hush" }
        status_to_code_transforms = [{ status_code = 404, to_error = { code = 404, message = "none" } }]
        [channel.proxy.subscribe]
        endpoint = "http://[::1]:3000"
        [channel.without_namespace]
        subscribe_proxy_enabled = true
        publish_proxy_enabled = true
        publish_proxy_name = "orders"
        [[channel.namespaces]]
        name = "chat"
        subscribe_proxy_enabled = true
        subscribe_proxy_name = "default"
        [[proxies]]
        name = "orders"
        endpoint = "http://127.0.0.1:3000/orders"
        inflight_limit = 7
        http.static_headers = { Authorization = "hush" }
        [rpc]
        namespace_boundary = "/"
        namespaces = [{ name = "orders", proxy_enabled = true, proxy_name = "orders" }]
        [hooks]
        endpoint = "http://127.0.0.1:3000/hooks"
        events = ["vacated"]
    "#;

    #[test]
    fn proxies_are_read() {
        let config = toml(EVERYTHING).unwrap();
        let connect = &config.client.proxy.connect;
        assert!(connect.enabled && !config.client.proxy.refresh.enabled);
        assert_eq!((connect.proxy.timeout, connect.proxy.inflight_limit), (secs(3), 1024));
        assert_eq!(connect.proxy.http.static_headers["x.y"], "hush");
        assert_eq!(connect.proxy.http.status_to_code_transforms[0].to_error.code, 404);
        let own = &config.channel.proxy.subscribe;
        assert_eq!(config.proxy("default", own), Some(own));
        assert_eq!(config.proxy("orders", own).map(|proxy| proxy.inflight_limit), Some(7));
        assert_eq!(config.proxy("none", own), None);
        assert_eq!(config.rpc.namespaces[0].options.proxy_name, "orders");
        let env = [("GANNET_RPC_PROXY_HTTP_STATIC_HEADERS".to_owned(), r#"{"X-Key":"k"}"#.to_owned())];
        let (config, _) = load(None, &env, &[]).unwrap();
        assert_eq!(config.rpc.proxy.http.static_headers["X-Key"], "k");
    }

    #[test]
    fn values_of_headers_are_not_printed_and_their_stand_in_is_not_read() {
        let config = toml(&EVERYTHING.replace("?x=1", "")).unwrap();
        for format in [Format::Toml, Format::Yaml, Format::Json] {
            assert!(!print(&config, format).contains("hush"));
        }
        let again = toml(&print(&config, Format::Toml)).unwrap_err();
        let text = "a.toml: proxies[0].http.static_headers: *** only stands for a secret in what is printed; give the \
                    value of \"Authorization\"";
        assert_eq!(again, [text], "those of a section are commented out");
        let mut bare = config.clone();
        bare.client.proxy.connect.proxy.http.static_headers.clear();
        bare.proxies[0].proxy.http.static_headers.clear();
        for (name, format) in [("a.toml", Format::Toml), ("a.yaml", Format::Yaml), ("a.json", Format::Json)] {
            let text = print(&bare, format);
            let loaded = load(Some(File { name, text: &text }), &[], &[]);
            assert_eq!(loaded.unwrap_or_else(|errors| panic!("{errors:#?}\n{text}")).0, bare, "{name}");
        }
        let wrong = toml("[rpc.proxy.http]\nstatic_headers = { a = 7, b = 'hush' }").unwrap_err();
        assert_eq!(
            wrong,
            ["a.toml: rpc.proxy.http.static_headers: expected an object of texts ({\"X-Api-Key\": \"...\"})"]
        );
    }

    #[test]
    fn a_list_is_read_as_strictly() {
        let wrong = toml(
            r#"
            [[proxies]]
            name = "aa"
            endpoint = "http://a"
            endpiont = "http://a"
            timeout = 5
            http = { tls = { enabeld = true }, static_headers = 5 }
            grpc = { compression = 3 }
            [[proxies]]
            name = "bb"
            [[proxies]]
            name = "cc"
            endpoint = "http://a"
            inflight_limit = 0
            http = 5
            [rpc.proxy.http.tls]
            enabled = 7
            "#,
        );
        let expected = [
            "rpc.proxy.http.tls.enabled: expected true or false",
            "proxies[0].endpiont: unknown option; did you mean endpoint?",
            "proxies[0].grpc.compression: expected true or false",
            "proxies[0].http.static_headers: expected an object of texts",
            "proxies[0].http.tls.enabeld: unknown option; did you mean http.tls.enabled?",
            "proxies[0].timeout: expected a duration",
            "proxies[1]: a proxy wants an endpoint",
            "proxies[2].http: expected a section with options",
        ];
        let mut wrong = wrong.unwrap_err();
        for start in expected {
            let at = wrong.iter().position(|line| line.starts_with(&format!("a.toml: {start}")));
            wrong.remove(at.unwrap_or_else(|| panic!("{start} in {wrong:#?}")));
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
        let limits = toml("[[proxies]]\nname='aa'\nendpoint='http://a'\ninflight_limit=0").unwrap_err();
        assert_eq!(limits, ["a.toml: proxies[0].inflight_limit: expected a whole number, 1 to 65536; got 0"]);
    }

    #[test]
    fn what_the_endpoint_does_not_read_and_what_is_not_safe_is_told() {
        let text = "[rpc.proxy]\nendpoint = 'http://a'\ngrpc_metadata = ['x']\nhttp.tls.enabled = true\n\
                    [[proxies]]\nname = 'aa'\nendpoint = 'grpc://a'\nhttp.tls.enabled = true\n\
                    grpc.tls.enabled = true\n[[proxies]]\nname = 'bb'\nendpoint = 'https://a'\n\
                    http.tls.enabled = true\ngrpc.tls.enabled = true\n\
                    http.tls.insecure_skip_verify = true";
        let config = toml(text).expect("a configuration");
        let idle: Vec<_> = config.proxy_warnings().into_iter().map(|(option, _)| option).collect();
        let expected = [
            "rpc.proxy.http.tls.enabled",
            "rpc.proxy.grpc_metadata",
            "proxies[0].http.tls.enabled",
            "proxies[1].grpc.tls.enabled",
            "proxies[1].http.tls.insecure_skip_verify",
        ];
        assert_eq!(idle, expected);
    }

    #[test]
    fn urls() {
        let said = |url: &str| toml(&format!("[rpc.proxy]\nendpoint = {url:?}")).err().unwrap_or_default().join("\n");
        for good in ["http://a", "https://a.b:1/c/d?e=%20&f", "http://[::1]:3000/", "grpc://a:1"] {
            assert_eq!(said(good), "");
        }
        for bad in ["a", "ftp://a", "http://", "http:///x", "http://a b", "http://a/#x", "http://a/b c"] {
            assert!(said(bad).contains("rpc.proxy.endpoint: expected a URL that begins with http://"), "{bad}");
        }
        assert!(said("grpc://a:1/b").contains("a host and a port and no more"));
        assert!(said("https://u:p@a").contains("without a user in it"));
    }

    #[test]
    fn what_is_enabled_has_an_endpoint_and_names_are_known() {
        let said = |text: &str| toml(text).unwrap_err();
        let cases = [
            (
                "[client.proxy.refresh]\nenabled = true",
                "client.proxy.refresh.endpoint: expected a URL (http, https or grpc), because the proxy is enabled; got nothing",
            ),
            (
                "[channel.without_namespace]\nsubscribe_proxy_enabled = true",
                "channel.without_namespace.subscribe_proxy_enabled: expected channel.proxy.subscribe.endpoint to be set, \
                 or a name out of `proxies`",
            ),
            (
                "[[channel.namespaces]]\nname = 'aa'\nsub_refresh_proxy_name = 'x'",
                "channel.namespaces[0].sub_refresh_proxy_name: expected a name out of `proxies`, which is empty; got \"x\"",
            ),
            (
                "[rpc]\nnamespaces = [{name = 'a', proxy_enabled = true}]",
                "rpc.namespaces[0].proxy_enabled: expected rpc.proxy.endpoint to be set, or a name out of `proxies`",
            ),
            (
                "[rpc]\nnamespaces = [{name = 'a:b'}]",
                "rpc.namespaces[0].name: expected a name without \":\"; got \"a:b\"",
            ),
            (
                "[[proxies]]\nname = 'default'\nendpoint = 'http://a'",
                "proxies[0].name: expected two or more of a-z A-Z 0-9 - _ and '.', and not \"default\"; got \"default\"",
            ),
            (
                "[rpc.proxy.http.tls]\ncert_pem = 'a'",
                "rpc.proxy.http.tls.key_pem: expected a certificate with its key, or neither; got nothing",
            ),
            (
                "[rpc.proxy.grpc]\ncredentials_key = 'Host'",
                "rpc.proxy.grpc.credentials_key: expected the name of metadata; \"Host\" belongs to the connection itself",
            ),
            (
                "[rpc.proxy]\nhttp_headers = ['Host']",
                "rpc.proxy.http_headers: expected names of headers that may be sent; \"Host\" belongs to the connection \
                 itself",
            ),
            (
                "[rpc.proxy.http]\nstatic_headers = {'a b' = 'c'}",
                "rpc.proxy.http.static_headers: \"a b\" is no name of a header",
            ),
            (
                "[rpc.proxy.http]\nstatus_to_code_transforms = [{status_code = 404}]",
                "rpc.proxy.http.status_to_code_transforms[0].to_error: expected a code in to_error or in to_disconnect, \
                 and not in both",
            ),
            (
                "[rpc.proxy.http]\nstatus_to_code_transforms = [{status_code = 404, to_disconnect = {code = 1000}}]",
                "rpc.proxy.http.status_to_code_transforms[0].to_disconnect.code: expected 3000 to 4999; got 1000",
            ),
            (
                "[hooks]\nevents = ['join']",
                "hooks.events[0]: expected one of connect, disconnect, occupied, vacated, undelivered; got \"join\"",
            ),
        ];
        for (text, line) in cases {
            let lines = said(text);
            let found = lines.iter().any(|l| l.trim_start_matches("a.toml: ") == line);
            assert!(found, "{line}\nin {lines:#?}");
        }
    }
}
