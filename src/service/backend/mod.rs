//! F10 · The application's backend, asked on behalf of clients.
//!
//! Owns which proxy a question belongs to, how many are under way, and the way back of the answers. A question that
//! cannot be put is answered with an error; a slow backend delays only who waits for it.

mod breaker;
mod granted;
mod grpc;
mod messages;
mod proxy;
mod stream;
#[cfg(test)]
mod tests;
mod wire;

pub use proxy::fixed_headers;
pub use wire::failed;

use super::fetch::Http;
use super::jwks::Keys;
use crate::base::mailbox::Sender;
use crate::base::metrics::Page;
use crate::config::{self, Config};
use crate::protocol::code::ClientError;
use crate::session::Settings;
use crate::session::backend::{Ask, Call, Said};
use crate::shard::Mail;
use breaker::State;
use bytes::Bytes;
use proxy::{Proxy, STREAM};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use stream::{ENDS, Opening, Streams};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// A question on its way, with its place among those under way.
type Placed = (Call, OwnedSemaphorePermit);

/// A reactor's end: puts questions.
#[derive(Clone)]
pub struct BackendLink {
    sender: mpsc::UnboundedSender<Placed>,
    room: Arc<Semaphore>,
    refused: Arc<AtomicU64>,
}

impl BackendLink {
    /// Gives the question back when too many are under way.
    // It comes back to be answered; a box would cost every question an allocation.
    #[expect(clippy::result_large_err)]
    pub fn ask(&self, call: Call) -> Result<(), Call> {
        let Ok(place) = self.room.clone().try_acquire_owned() else {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(call);
        };
        self.sender.send((call, place)).map_err(|refused| refused.0.0)
    }
}

/// A proxy's place in the table: its name, or the section whose own it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Own {
    Connect,
    Refresh,
    Subscribe,
    Publish,
    SubRefresh,
    SubscribeStream,
    Rpc,
}

/// Which proxies there are, and what decides about them.
pub struct Proxies {
    settings: Arc<Settings>,
    own: HashMap<Own, Arc<Proxy>>,
    named: HashMap<String, Arc<Proxy>>,
}

pub struct Backend {
    proxies: RwLock<Arc<Proxies>>,
    room_size: usize,
    http: Arc<Http>,
    keys: Arc<Keys>,
    reactors: Vec<Sender<Mail>>,
    room: Arc<Semaphore>,
    streams: Streams,
    refused: Arc<AtomicU64>,
}

/// The sections that have a proxy of their own, if they have an endpoint.
fn sections(config: &Config) -> [(Own, &'static str, &config::ProxyOptions); 7] {
    let (client, channel) = (&config.client.proxy, &config.channel.proxy);
    [
        (Own::Connect, "client.proxy.connect", &client.connect.proxy),
        (Own::Refresh, "client.proxy.refresh", &client.refresh.proxy),
        (Own::Subscribe, "channel.proxy.subscribe", &channel.subscribe),
        (Own::Publish, "channel.proxy.publish", &channel.publish),
        (Own::SubRefresh, "channel.proxy.sub_refresh", &channel.sub_refresh),
        (Own::SubscribeStream, "channel.proxy.subscribe_stream", &channel.subscribe_stream),
        (Own::Rpc, "rpc.proxy", &config.rpc.proxy),
    ]
}

/// The kinds of question that a proxy may be asked, by its label.
fn kinds(label: &str) -> &'static [&'static str] {
    match label {
        "client.proxy.connect" => &["connect"],
        "client.proxy.refresh" => &["refresh"],
        "channel.proxy.subscribe" => &["subscribe"],
        "channel.proxy.publish" => &["publish"],
        "channel.proxy.sub_refresh" => &["sub_refresh"],
        "channel.proxy.subscribe_stream" => &[STREAM],
        "rpc.proxy" => &["rpc"],
        _ => &["publish", "rpc", "sub_refresh", "subscribe", STREAM],
    }
}

/// All that is asked or told something by its own option.
pub fn endpoints(config: &Config) -> impl Iterator<Item = &str> {
    config.every_proxy().map(|proxy| proxy.endpoint.as_str()).chain([config.hooks.endpoint.as_str()])
}

/// What is wrong with the certificates and keys of proxies, which may be in files.
pub fn tls_faults(config: &Config) -> Vec<String> {
    let own = sections(config).map(|(_, label, options)| (label.to_owned(), options));
    let named = config.proxies.iter().map(|named| (format!("proxies: {:?}", named.name), &named.proxy));
    let fault = |(label, options): (String, &config::ProxyOptions)| {
        let fault = proxy::Way::new(options, config.backend.response_size_limit).err()?;
        Some(format!("{label}: {fault}"))
    };
    own.into_iter().chain(named).filter(|(_, options)| !options.endpoint.is_empty()).filter_map(fault).collect()
}

/// File descriptors that questions may take.
pub fn descriptors(config: &Config) -> usize {
    config.every_proxy().map(|proxy| proxy.inflight_limit).sum::<usize>().min(config.backend.inflight_limit)
}

impl Backend {
    /// The error is a sentence for the operator.
    pub fn new(
        settings: Arc<Settings>,
        http: Arc<Http>,
        reactors: Vec<Sender<Mail>>,
    ) -> Result<(Arc<Backend>, BackendLink, mpsc::UnboundedReceiver<Placed>), String> {
        let proxies = Proxies::new(&settings, None)?;
        let config = &settings.config;
        let keys = Arc::new(Keys::new(http.clone(), config.jwks.clone(), reactors.clone()));
        let room = Arc::new(Semaphore::new(config.backend.inflight_limit));
        let refused = Arc::new(AtomicU64::new(0));
        let (sender, receiver) = mpsc::unbounded_channel();
        let link = BackendLink { sender, room: room.clone(), refused: refused.clone() };
        let (proxies, room_size) = (RwLock::new(Arc::new(proxies)), config.backend.inflight_limit);
        let streams = Streams::new(config.backend.stream_limit);
        let backend = Backend { proxies, room_size, http, keys, reactors, room, streams, refused };
        Ok((Arc::new(backend), link, receiver))
    }

    fn proxies(&self) -> Arc<Proxies> {
        self.proxies.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The proxies of other settings, for [`Backend::take`]. The error is a sentence for the operator.
    pub fn prepare(&self, settings: &Arc<Settings>) -> Result<Proxies, String> {
        Proxies::new(settings, Some(&self.proxies()))
    }

    /// Asks these from now on. Questions under way come to their end with the old ones.
    pub fn take(&self, proxies: Proxies) {
        self.keys.take(proxies.settings.rules.clone());
        *self.proxies.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(proxies);
    }

    /// Carries questions out until the process ends.
    pub async fn run(self: Arc<Self>, mut calls: mpsc::UnboundedReceiver<Placed>) {
        tokio::spawn(self.keys.clone().renew());
        while let Some((call, place)) = calls.recv().await {
            let backend = self.clone();
            tokio::spawn(async move {
                match call.ask {
                    Ask::SubscribeStream(_) => backend.stream(call, place).await,
                    _ => {
                        let said = backend.said(&call).await;
                        drop(place);
                        backend.answer(call, said);
                    }
                }
            });
        }
    }

    /// A subscription stream, from its first message to its end.
    async fn stream(&self, call: Call, place: OwnedSemaphorePermit) {
        let (proxies, conn) = (self.proxies(), call.conn);
        let (said, pump) = match proxies.route(&call.ask) {
            Ok(proxy) => proxy.open(&call.who, &call.ask, proxies.opening(&call.ask, &self.streams)).await,
            Err(said) => (said, None),
        };
        drop((place, proxies));
        self.answer(call, said);
        if let (Some(pump), Some(reactor)) = (pump, self.reactors.get(usize::from(conn.reactor))) {
            pump.run(conn, reactor).await;
        }
    }

    fn answer(&self, call: Call, said: Said) {
        let Call { conn, ticket, ask, .. } = call;
        if let Some(reactor) = self.reactors.get(usize::from(conn.reactor)) {
            reactor.send(Mail::Backend { conn, ticket, ask, said });
        }
    }

    async fn said(&self, call: &Call) -> Said {
        if let Ask::Keys { url, .. } = &call.ask {
            return match self.keys.get(url).await {
                Some(keys) => Said::Keys(keys),
                None => failed(ClientError::Internal),
            };
        }
        let proxies = self.proxies();
        match proxies.route(&call.ask) {
            Ok(proxy) => proxy.ask(&self.http, &call.who, &call.ask).await,
            Err(said) => said,
        }
    }

    /// All numbers as Prometheus text.
    pub fn write(&self, page: &mut Page) {
        self.proxies().write(page);
        let under_way = self.room_size - self.room.available_permits();
        let help = "Questions under way on this node; the limit is backend.inflight_limit.";
        page.single("gannet_backend_inflight_requests", help, "gauge", under_way);
        let help = "Questions refused with 111 by backend.inflight_limit: the backend is slow, or the limit is low.";
        page.single("gannet_backend_refused_total", help, "counter", self.refused.load(Ordering::Relaxed));
        let help =
            "Subscription streams of this node, those that are being opened too; the limit is backend.stream_limit.";
        page.single("gannet_backend_streams", help, "gauge", self.streams.taken());
        self.keys.write(page);
    }
}

impl Proxies {
    /// One that was there before goes on with its numbers, and while it is the same backend, with its breaker.
    fn new(settings: &Arc<Settings>, before: Option<&Proxies>) -> Result<Proxies, String> {
        let config = &settings.config;
        let common = &config.backend;
        let proxy = |label: &str, options: &config::ProxyOptions, old: Option<&Arc<Proxy>>| {
            let same = before.is_some_and(|before| before.settings.config.backend == *common);
            // Its certificates may be others by now.
            let tls = options.http.tls.enabled || options.grpc.tls.enabled;
            match old.filter(|old| same && !tls && old.options == *options) {
                Some(old) => Ok(old.clone()),
                None => Proxy::new(label.to_owned(), options, common, old.map(Arc::as_ref)).map(Arc::new),
            }
        };
        let mut own = HashMap::new();
        for (at, label, options) in sections(config) {
            if !options.endpoint.is_empty() {
                own.insert(at, proxy(label, options, before.and_then(|before| before.own.get(&at)))?);
            }
        }
        let mut named = HashMap::new();
        for config::NamedProxy { name, proxy: options } in &config.proxies {
            named.insert(name.clone(), proxy(name, options, before.and_then(|before| before.named.get(name)))?);
        }
        Ok(Proxies { settings: settings.clone(), own, named })
    }

    /// The proxy that a question is for, or the answer without one.
    fn route(&self, ask: &Ask) -> Result<&Proxy, Said> {
        let client = &self.settings.config.client.proxy;
        let channel = |channel| self.settings.rules.channel(channel).ok_or_else(|| failed(ClientError::UnknownChannel));
        let (enabled, name, own) = match ask {
            Ask::Connect(_) => (client.connect.enabled, "", Own::Connect),
            Ask::Refresh => (client.refresh.enabled, "", Own::Refresh),
            Ask::Subscribe(subscribe) => {
                let options = channel(&subscribe.channel)?;
                (options.subscribe_proxy_enabled, options.subscribe_proxy_name.as_str(), Own::Subscribe)
            }
            Ask::SubRefresh { channel: name } => {
                let options = channel(name)?;
                (options.sub_refresh_proxy_enabled, options.sub_refresh_proxy_name.as_str(), Own::SubRefresh)
            }
            Ask::SubscribeStream(subscribe) => {
                let options = channel(&subscribe.channel)?;
                let (enabled, name) = (options.subscribe_stream_proxy_enabled, &options.subscribe_stream_proxy_name);
                (enabled, name.as_str(), Own::SubscribeStream)
            }
            Ask::Publish(publish) => {
                let options = channel(&publish.channel)?;
                (options.publish_proxy_enabled, options.publish_proxy_name.as_str(), Own::Publish)
            }
            Ask::Rpc(rpc) => {
                let options = self.method(&rpc.method)?;
                (options.proxy_enabled, options.proxy_name.as_str(), Own::Rpc)
            }
            Ask::Keys { .. } | Ask::Check(_) => (false, "", Own::Connect),
        };
        let proxy = match name {
            "" | "default" => self.own.get(&own),
            _ => self.named.get(name),
        };
        proxy.filter(|_| enabled).map(Arc::as_ref).ok_or_else(|| failed(ClientError::NotAvailable))
    }

    /// How the stream that is asked for is to be opened.
    fn opening<'a>(&self, ask: &Ask, streams: &'a Streams) -> Opening<'a> {
        let options = match ask {
            Ask::SubscribeStream(subscribe) => self.settings.rules.channel(&subscribe.channel),
            _ => None,
        };
        let is_bidirectional = options.is_some_and(|options| options.subscribe_stream_proxy_bidirectional);
        Opening { streams, queue_bytes: self.settings.config.backend.stream_queue_size, is_bidirectional }
    }

    /// The options of a method, by its namespace.
    fn method(&self, method: &str) -> Result<&config::RpcOptions, Said> {
        let rpc = &self.settings.config.rpc;
        if rpc.ping.enabled && method == rpc.ping.method {
            return Err(Said::Rpc(Bytes::new()));
        }
        match method.split_once(&rpc.namespace_boundary) {
            None => Ok(&rpc.without_namespace),
            Some((name, _)) => rpc
                .namespaces
                .iter()
                .find(|namespace| namespace.name == name)
                .map(|namespace| &namespace.options)
                .ok_or_else(|| failed(ClientError::MethodNotFound)),
        }
    }

    fn write(&self, page: &mut Page) {
        let mut proxies: Vec<&Proxy> = self.own.values().chain(self.named.values()).map(Arc::as_ref).collect();
        proxies.sort_by(|a, b| a.label.cmp(&b.label));
        let (mut durations, mut errors, mut refused) = (Vec::new(), Vec::new(), Vec::new());
        for proxy in &proxies {
            let label = &proxy.label;
            proxy.with_counts(|counts| {
                counts.begin(kinds(label));
                let of = |kind: &str| format!("proxy=\"{label}\",type=\"{kind}\"");
                durations.extend(counts.durations.iter().map(|(kind, latency)| (of(kind), latency.clone())));
                let more = |kind: &str, name: &str, value: &str| format!("{},{name}=\"{value}\"", of(kind));
                errors.extend(counts.errors.iter().map(|((kind, cause), n)| (more(kind, "cause", cause), *n)));
                refused.extend(counts.refused.iter().map(|((kind, limit), n)| (more(kind, "limit", limit), *n)));
            });
        }
        let help = "Questions put to the backend, from the request to the whole answer; failures are in it.";
        page.histogram_series("gannet_proxy_duration_seconds", help, durations.iter().map(|(labels, l)| (labels, l)));
        let help = "Questions that the backend did not answer as it should; the log has the latest error.";
        page.series("gannet_proxy_errors_total", help, "counter", errors);
        let help = "Questions answered with an error unasked: limit inflight_limit gives 111, breaker gives 100.";
        page.series("gannet_proxy_refused_total", help, "counter", refused);
        write_streams(page, &proxies);
        let help = "Questions under way to each proxy; its limit is inflight_limit.";
        page.labelled(
            "gannet_proxy_inflight_requests",
            help,
            "gauge",
            "proxy",
            proxies.iter().map(|p| (&p.label, p.inflight())),
        );
        let help =
            "0 = the backend is asked, 1 = one question tells whether it is back, 2 = it fails and is not asked.";
        let state = |proxy: &Proxy| match proxy.state() {
            State::Closed => 0,
            State::HalfOpen => 1,
            State::Open => 2,
        };
        page.labelled(
            "gannet_proxy_breaker_state",
            help,
            "gauge",
            "proxy",
            proxies.iter().map(|p| (&p.label, state(p))),
        );
    }
}

/// The numbers of subscription streams, by proxy.
fn write_streams(page: &mut Page, proxies: &[&Proxy]) {
    let proxies = proxies.iter().filter(|proxy| kinds(&proxy.label).contains(&STREAM));
    let (mut open, mut publications, mut ended) = (Vec::new(), Vec::new(), Vec::new());
    for proxy in proxies {
        let label = &proxy.label;
        proxy.with_counts(|counts| {
            open.push((label, counts.streams));
            for (from, count) in ["backend", "client"].into_iter().zip(counts.stream_publications) {
                publications.push((format!("proxy=\"{label}\",from=\"{from}\""), count));
            }
            for end in ENDS {
                let count = counts.streams_ended.get(end).copied().unwrap_or_default();
                ended.push((format!("proxy=\"{label}\",cause=\"{end}\""), count));
            }
        });
    }
    page.labelled("gannet_proxy_streams", "Open subscription streams of each proxy.", "gauge", "proxy", open);
    let help = "Publications in subscription streams, by who published.";
    page.series("gannet_proxy_stream_publications_total", help, "counter", publications);
    let help = "Subscription streams that ended: with their subscription, by the backend, or by an error.";
    page.series("gannet_proxy_streams_ended_total", help, "counter", ended);
}
