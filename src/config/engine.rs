//! F0 · Where channels, history and presence live: the options of engines, and of what nodes say to each other.
//!
//! Owns the sections `engine`, `broker` and `presence_manager`, and which of them holds. Never speaks to a server: what
//! an address stands for is read by who connects.

use super::backend::TlsOptions;
use super::check::Problem;
use super::registry::{Meta, Visit, Visitor, beside};
use super::value::{HIDDEN, Rule};
use super::{Config, secs};
use std::time::Duration;

/// A minute, for what is renewed in it.
const MINUTE: Duration = secs(60);
/// A server that does not answer within this has nothing to say.
const IO_MAX: Duration = secs(60);
/// Where state may live.
const KINDS: &[&str] = &["memory", "redis"];

options! {
    pub struct EngineStores {
        /// With type redis
        redis: RedisOptions = RedisOptions::default();
        /// With type nats
        nats: NatsOptions = NatsOptions::default();
    }
}

/// A section that says by its `type` where state is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineOptions {
    pub kind: String,
    pub stores: EngineStores,
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions { kind: "memory".into(), stores: EngineStores::default() }
    }
}

impl Visit for EngineOptions {
    fn visit(&mut self, meta: Meta<'_>, visitor: &mut dyn Visitor) {
        let about = "memory: this process keeps its channels to itself. redis: nodes share channels, history and \
                     presence. nats: they share channels, at most once, without history.";
        beside(("type", about, &mut self.kind), &mut self.stores, meta, visitor);
    }
}

options! {
    pub struct SwitchedStores {
        /// This section holds, in place of `engine`.
        enabled: bool = false;
        /// With type redis
        redis: RedisOptions = RedisOptions::default();
        /// With type nats
        nats: NatsOptions = NatsOptions::default();
    }
}

/// A section that goes before `engine` if it is enabled.
#[derive(Debug, Clone, PartialEq)]
pub struct SwitchedEngine {
    pub kind: String,
    pub stores: SwitchedStores,
}

impl Default for SwitchedEngine {
    fn default() -> Self {
        SwitchedEngine { kind: "memory".into(), stores: SwitchedStores::default() }
    }
}

impl Visit for SwitchedEngine {
    fn visit(&mut self, meta: Meta<'_>, visitor: &mut dyn Visitor) {
        beside(("type", "As engine.type.", &mut self.kind), &mut self.stores, meta, visitor);
    }
}

options! {
    pub struct RedisOptions {
        /// What the names of keys and channels begin with.
        prefix: String = "centrifugo".into();
        /// Servers: redis://user:password@host:port/db, rediss:// with TLS, unix:///path, or host:port. Several are
        /// shards: each channel is on one of them, and the order of the list must be the same on every node.
        address: Vec<String> = vec!["redis://127.0.0.1:6379".into()], Rule::Addresses;
        /// Some nodes of a Redis Cluster, comma-separated; several entries are several clusters. Goes before address.
        cluster_address: Vec<String> = Vec::new(), Rule::Addresses;
        /// Sentinels, comma-separated, which tell where sentinel_master_name is. It goes before address.
        sentinel_address: Vec<String> = Vec::new(), Rule::Addresses;
        /// The name that Sentinel knows the servers by.
        sentinel_master_name: String = String::new();
        /// User of the sentinels.
        sentinel_user: String = String::new();
        /// Password of the sentinels. Secret: never printed.
        sentinel_password: String = String::new(), Rule::Secret;
        /// Name by which sentinels list this node's connections.
        sentinel_client_name: String = String::new();
        /// Of connections to sentinels
        sentinel_tls: TlsOptions = TlsOptions::default();
        /// How long a connection may take, TLS and authentication included.
        connect_timeout: Duration = secs(1), Rule::Time(Duration::from_millis(10), IO_MAX);
        /// How long an answer may take; beyond: error 100, and another connection.
        io_timeout: Duration = secs(4), Rule::Time(Duration::from_millis(10), IO_MAX);
        /// Number of the database; an address may name its own.
        db: u32 = 0;
        /// User (ACL); an address may name its own. Empty = the default user.
        user: String = String::new();
        /// Password; an address may have its own. Secret: never printed.
        password: String = String::new(), Rule::Secret;
        /// Name by which the server lists this node's connections. Empty = gannet.
        client_name: String = String::new();
        /// Of connections to servers; rediss:// turns it on for one address
        tls: TlsOptions = TlsOptions::default();
        /// Keeps history in lists in place of streams: no paging from the oldest, no versions.
        history_use_lists: bool = false;
        /// How long a client stays present that nobody renews.
        presence_ttl: Duration = MINUTE, Rule::Time(secs(3), super::DAY);
        /// Lets the server forget each client by itself (HEXPIRE). Takes Redis 7.4.
        presence_hash_field_ttl: bool = false;
        /// Counts users beside clients, so that presence_stats does not read all of them.
        presence_user_mapping: bool = false;
        /// Calls under way to one server; beyond: error 100.
        inflight_limit: usize = 65536, Rule::Count(1, 1 << 24);
    }
}

options! {
    pub struct NatsOptions {
        /// What subjects begin with.
        prefix: String = "centrifugo".into();
        /// Servers, comma-separated: nats://user:password@host:port.
        url: Vec<String> = vec!["nats://localhost:4222".into()], Rule::Addresses;
        /// How long a connection may take.
        dial_timeout: Duration = secs(1), Rule::Time(Duration::from_millis(10), IO_MAX);
        /// How long the server may take to accept what is written; beyond: error 100.
        write_timeout: Duration = secs(1), Rule::Time(Duration::from_millis(10), IO_MAX);
        /// Of connections to servers
        tls: TlsOptions = TlsOptions::default();
        /// Channels may have * and > in them, and then hear all that fits.
        allow_wildcards: bool = false;
        /// Publications under way; beyond: error 100.
        inflight_limit: usize = 65536, Rule::Count(1, 1 << 24);
    }
}

/// Which store holds what, with where that is said.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Store<'a> {
    Memory,
    Redis(&'a RedisOptions, &'static str),
    Nats(&'a NatsOptions, &'static str),
}

fn store<'a>(kind: &str, redis: &'a RedisOptions, nats: &'a NatsOptions, at: [&'static str; 2]) -> Store<'a> {
    match kind {
        "redis" => Store::Redis(redis, at[0]),
        "nats" => Store::Nats(nats, at[1]),
        _ => Store::Memory,
    }
}

impl Config {
    /// Where channels and their history live.
    pub fn broker_store(&self) -> Store<'_> {
        let broker = &self.broker;
        match broker.stores.enabled {
            true => {
                let at = ["broker.redis", "broker.nats"];
                store(&broker.kind, &broker.stores.redis, &broker.stores.nats, at)
            }
            false => self.engine_store(),
        }
    }

    /// Where it is kept who is present.
    pub fn presence_store(&self) -> Store<'_> {
        let presence = &self.presence_manager;
        match presence.stores.enabled {
            true => {
                let at = ["presence_manager.redis", "presence_manager.nats"];
                store(&presence.kind, &presence.stores.redis, &presence.stores.nats, at)
            }
            false => self.engine_store(),
        }
    }

    fn engine_store(&self) -> Store<'_> {
        let EngineOptions { kind, stores } = &self.engine;
        store(kind, &stores.redis, &stores.nats, ["engine.redis", "engine.nats"])
    }

    /// The engine of channels whose namespace names none.
    pub fn engine_kind(&self) -> &str {
        match self.broker_store() {
            Store::Memory => "memory",
            Store::Redis(..) => "redis",
            Store::Nats(..) => "nats",
        }
    }

    pub(super) fn check_engines(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut say = |option: String, message: String| {
            problems.push(Problem { option, at: String::new(), message });
        };
        let kinds = [
            ("engine.type", &self.engine.kind, true),
            ("broker.type", &self.broker.kind, self.broker.stores.enabled),
            ("presence_manager.type", &self.presence_manager.kind, self.presence_manager.stores.enabled),
        ];
        for (option, kind, holds) in kinds {
            if holds && !KINDS.contains(&&**kind) && !kind.is_empty() {
                let known = KINDS.join(", ");
                say(option.into(), format!("expected one of {known}; got {kind:?}"));
            }
        }
        if self.presence_manager.stores.enabled && self.presence_manager.kind == "nats" {
            say("presence_manager.type".into(), "expected memory or redis: NATS keeps nobody's presence".into());
        }
        for store in [self.broker_store(), self.presence_store()] {
            if let Store::Redis(options, at) = store {
                options.check(at, &mut say);
            }
        }
        problems
    }
}

impl RedisOptions {
    fn check(&self, at: &str, say: &mut impl FnMut(String, String)) {
        let sentinel = !self.sentinel_address.is_empty();
        if sentinel && self.sentinel_master_name.is_empty() {
            let message = "expected the name that the sentinels know the servers by; got nothing";
            say(format!("{at}.sentinel_master_name"), message.into());
        }
        if sentinel && !self.cluster_address.is_empty() {
            let message = "expected sentinels or a cluster, and not both";
            say(format!("{at}.sentinel_address"), message.into());
        }
        if !sentinel && self.cluster_address.is_empty() && self.address.is_empty() {
            say(format!("{at}.address"), "expected an address (redis://127.0.0.1:6379); got nothing".into());
        }
        if !self.cluster_address.is_empty() && self.db != 0 {
            say(format!("{at}.db"), format!("expected 0, for a cluster has no other; got {}", self.db));
        }
        let lists = [("address", &self.address), ("cluster_address", &self.cluster_address)];
        for (key, list) in lists.into_iter().chain([("sentinel_address", &self.sentinel_address)]) {
            if list.iter().any(|address| address.contains(HIDDEN)) {
                let message = format!("{HIDDEN} only stands for a secret in what is printed; give the password");
                say(format!("{at}.{key}"), message);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{File, Format, load, print};

    #[test]
    fn passwords_of_addresses_are_not_printed_and_their_stand_in_is_not_read() {
        let text = r#"{"engine":{"redis":{"address":["redis://u:PW@h:1/2","h"],"sentinel_address":["x:PW@s:1"]}}}"#;
        let (config, _) = load(Some(File { name: "a.json", text }), &[], &[]).expect("a configuration");
        for format in [Format::Toml, Format::Yaml, Format::Json] {
            let printed = print(&config, format);
            assert!(!printed.contains("PW") && printed.contains("redis://***@h:1/2"), "{printed}");
        }
    }

    #[test]
    fn kinds_are_known_where_they_hold() {
        let said = |text: &str| {
            let loaded = load(Some(File { name: "a.json", text }), &[], &[]);
            loaded.err().unwrap_or_default().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        };
        for section in [r#""engine":{"#, r#""broker":{"enabled":true,"#, r#""presence_manager":{"enabled":true,"#] {
            let text = said(&format!(r#"{{{section}"type":"postgres"}}}}"#));
            assert!(text.contains(".type: expected one of memory") && text.contains("postgres"), "{text}");
        }
        assert_eq!(said(r#"{"broker":{"enabled":false,"type":"postgres"}}"#), "");
    }

    #[test]
    fn servers_by_commas_are_one_entry() {
        let flags = [("engine.redis.cluster_address".to_owned(), "a:1,b:1 c:2".to_owned())];
        let (config, _) = load(None, &[], &flags).expect("a configuration");
        assert_eq!(config.engine.stores.redis.cluster_address, ["a:1,b:1", "c:2"]);
    }
}
