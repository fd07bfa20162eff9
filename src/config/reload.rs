//! F0 · From a configuration that is served to the next one: what may change while a node runs, and what has changed.
//!
//! Owns the list of options that need a restart. Every other one is taken from the new configuration.

use super::registry::{self, Meta, Visitor};
use super::value::Value;
use super::{Config, Store, TlsOptions};
use serde_json::Value as Json;

/// Options that differ, by their names. Never their values: some are secret.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    pub taken: Vec<String>,
    pub need_restart: Vec<String>,
}

impl Config {
    /// What is served after `self`, once the configuration is loaded again as `loaded`; and what is other.
    pub fn followed_by(&self, loaded: Config) -> (Config, Changes) {
        let mut next = loaded.clone();
        next.keep_fixed(self);
        let changes = Changes { taken: differing(self, &next), need_restart: differing(&next, &loaded) };
        (next, changes)
    }

    /// Threads, sockets and tables are made at the start, and clients were told of pings when they connected.
    fn keep_fixed(&mut self, old: &Config) {
        self.keep_engines(old);
        self.keep_archive(old);
        let old = old.clone();
        (self.dev, self.reactors, self.node, self.workers) = (old.dev, old.reactors, old.node, old.workers);
        let server = std::mem::replace(&mut self.http_server, old.http_server);
        self.http_server.body_size_limit = server.body_size_limit;
        // Which ports have TLS is settled; by what certificates is not.
        keep_tls(&mut self.http_server.tls, server.tls);
        keep_tls(&mut self.http_server.internal_tls, server.internal_tls);
        let autocert = super::TlsAutocert { enabled: self.http_server.tls_autocert.enabled, ..server.tls_autocert };
        self.http_server.tls_autocert = autocert;
        let tls = &mut self.tls;
        (tls.compact, tls.key_cache_size) = (old.tls.compact, old.tls.key_cache_size);
        tls.handshake_limit = old.tls.handshake_limit;
        tls.handshake_memory_limit = old.tls.handshake_memory_limit;
        let websocket = &mut self.websocket;
        websocket.compression = old.websocket.compression;
        websocket.compression_level = old.websocket.compression_level;
        websocket.compression_min_size = old.websocket.compression_min_size;
        let client = &mut self.client;
        (client.ping_interval, client.pong_timeout) = (old.client.ping_interval, old.client.pong_timeout);
        client.token_cache_size = old.client.token_cache_size;
        client.bad_token_cache_size = old.client.bad_token_cache_size;
        client.write_delay = old.client.write_delay;
        // Connections are counted from the first on, or not at all.
        if (client.user_connection_limit == 0) != (old.client.user_connection_limit == 0) {
            client.user_connection_limit = old.client.user_connection_limit;
        }
        self.channel.idempotency_cache_size = old.channel.idempotency_cache_size;
        self.backend.inflight_limit = old.backend.inflight_limit;
        self.backend.stream_limit = old.backend.stream_limit;
        (self.jwks, self.hooks, self.consumers) = (old.jwks, old.hooks, old.consumers);
        (self.engine, self.broker, self.presence_manager) = (old.engine, old.broker, old.presence_manager);
        (self.durable, self.opentelemetry) = (old.durable, old.opentelemetry);
        let grpc = &mut self.grpc_api;
        (grpc.enabled, grpc.address, grpc.port) = (old.grpc_api.enabled, old.grpc_api.address, old.grpc_api.port);
        grpc.connection_limit = old.grpc_api.connection_limit;
        grpc.tls.enabled = old.grpc_api.tls.enabled;
        let uni = &mut self.uni_grpc;
        (uni.enabled, uni.address, uni.port) = (old.uni_grpc.enabled, old.uni_grpc.address, old.uni_grpc.port);
        (uni.connection_limit, uni.stream_limit) = (old.uni_grpc.connection_limit, old.uni_grpc.stream_limit);
        uni.tls.enabled = old.uni_grpc.tls.enabled;
        let lines = &mut self.tcp_line;
        (lines.enabled, lines.address, lines.port) = (old.tcp_line.enabled, old.tcp_line.address, old.tcp_line.port);
        lines.tls = old.tcp_line.tls;
        self.reactor.mailbox_size = old.reactor.mailbox_size;
        self.reactor.fanout_queue_size = old.reactor.fanout_queue_size;
        (self.log.file, self.log.format, self.log.queue_size) = (old.log.file, old.log.format, old.log.queue_size);
        self.pid_file = old.pid_file;
    }
}

impl Config {
    /// An archive is opened at the start, if a namespace asks for it then.
    fn keep_archive(&mut self, old: &Config) {
        if old.archive_kind().is_none() {
            let options = self.channel.namespaces.iter_mut().map(|namespace| &mut namespace.options);
            for options in options.chain([&mut self.channel.without_namespace]) {
                options.history_durability = "none".into();
            }
        }
    }

    /// Channels do not move from one engine to another, and a namespace of an engine that does not run waits for it.
    fn keep_engines(&mut self, old: &Config) {
        self.channel.without_namespace.engine = old.channel.without_namespace.engine.clone();
        for namespace in &mut self.channel.namespaces {
            if let Some(before) = old.channel.namespaces.iter().find(|before| before.name == namespace.name) {
                namespace.options.engine = before.options.engine.clone();
            }
        }
        let running: Vec<&str> = ["", "memory"].into_iter().chain(old.stores().iter().map(Store::kind)).collect();
        self.keep_log(old);
        self.channel.namespaces.retain(|namespace| running.contains(&&*namespace.options.engine));
    }
}

impl Config {
    /// The log of publications runs or it does not; which namespaces it has may change.
    fn keep_log(&mut self, old: &Config) {
        self.kafka_log = old.kafka_log.clone();
        if self.kafka_log.brokers.is_empty() {
            let namespaces = self.channel.namespaces.iter_mut().map(|namespace| &mut namespace.options);
            namespaces.chain([&mut self.channel.without_namespace]).for_each(|options| options.log_to.clear());
        }
    }
}

/// `kept` goes on, with what may change of `loaded`.
fn keep_tls(kept: &mut TlsOptions, loaded: TlsOptions) {
    *kept = TlsOptions { enabled: kept.enabled, ..loaded };
}

fn differing(one: &Config, other: &Config) -> Vec<String> {
    let pairs = values(one).into_iter().zip(values(other));
    pairs.filter(|((_, one), (_, other))| one != other).map(|((name, _), _)| name).collect()
}

fn values(config: &Config) -> Vec<(String, Json)> {
    struct Values(Vec<(String, Json)>);
    impl Visitor for Values {
        fn option(&mut self, meta: Meta<'_>, value: &mut dyn Value) {
            self.0.push((meta.name.to_owned(), value.show()));
        }
    }
    let mut all = Values(Vec::new());
    registry::walk(&mut config.clone(), "", &mut all);
    all.0
}

#[cfg(test)]
mod tests {
    use super::super::{File, load, options};
    use super::*;

    fn toml(text: &str) -> Config {
        load(Some(File { name: "a.toml", text }), &[], &[]).expect("a configuration").0
    }

    #[test]
    fn what_may_change_is_taken_and_the_rest_is_named() {
        let old = toml("[client.token]\nhmac_secret_key = 'a-secret-of-32-bytes-or-even-more'");
        let loaded = toml(
            "reactors = 3\n[http_server]\nport = 9\nbody_size_limit = 5\n[client]\nallowed_origins = ['*']\n\
             user_connection_limit = 3\n[client.token]\nhmac_secret_key = 'b-secret-of-32-bytes-or-even-more'\n\
             [http_api]\nkey = 'k'\n[[channel.namespaces]]\nname = 'chat'\n[client.proxy.connect.http]\n\
             static_headers = {a = 'b'}\n[log]\nlevel = 'debug'\nqueue_size = 7",
        );
        let (next, changes) = old.followed_by(loaded.clone());
        let taken = [
            "http_server.body_size_limit",
            "client.allowed_origins",
            "client.token.hmac_secret_key",
            "client.proxy.connect.http.static_headers",
            "channel.namespaces",
            "http_api.key",
            "log.level",
        ];
        assert_eq!(changes.taken, taken);
        let fixed = ["reactors", "http_server.port", "client.user_connection_limit", "log.queue_size"];
        assert_eq!(changes.need_restart, fixed);
        assert_eq!((next.http_server.port, next.http_server.body_size_limit), (8000, 5));
        assert_eq!(next.client.token, loaded.client.token);
        assert_eq!(next.followed_by(next.clone()), (next.clone(), Changes::default()), "nothing changes twice");
    }

    #[test]
    fn a_namespace_of_an_engine_that_does_not_run_waits_for_it() {
        let with = |engine: &str| toml(&format!("[[channel.namespaces]]\nname = 'ns'\nengine = '{engine}'"));
        let (next, changes) = Config::default().followed_by(with("nats"));
        assert_eq!(
            (next.channel.namespaces.len(), &*changes.need_restart),
            (0, &["channel.namespaces".to_owned()][..])
        );
        let more = "[[channel.namespaces]]\nname = 'ns'\nengine = 'nats'\n[[channel.namespaces]]\nname = 'more'\n\
                    engine = 'nats'";
        let (next, changes) = with("nats").followed_by(toml(more));
        assert_eq!((next.channel.namespaces.len(), changes.need_restart.len()), (2, 0), "it runs");
    }

    #[test]
    fn a_limit_of_connections_changes_while_there_is_one() {
        let (one, two) = (toml("[client]\nuser_connection_limit = 1"), toml("[client]\nuser_connection_limit = 2"));
        let (next, changes) = one.followed_by(two);
        assert_eq!((next.client.user_connection_limit, changes.need_restart.len()), (2, 0));
        let (next, changes) = next.followed_by(Config::default());
        assert_eq!((next.client.user_connection_limit, changes.taken.len()), (2, 0));
        assert_eq!(changes.need_restart, ["client.user_connection_limit"]);
    }

    /// Whatever is compared tells its values apart: what hides or shortens them would hide a change of a key.
    #[test]
    fn secrets_are_compared_whole() {
        for option in options().into_iter().filter(|option| option.is_secret() && option.kind == "TEXT") {
            let with = |value: &str| {
                let mut config = Config::default();
                registry::set(&mut config, &option.name, super::super::value::Given::Text(value)).expect("an option");
                config
            };
            assert_eq!(differing(&with("one"), &with("two")), [option.name.as_str()]);
        }
    }
}
