//! F0 · Where channels, history and presence live: the options of engines, and of what nodes say to each other.
//!
//! Owns the sections `engine`, `broker` and `presence_manager`, and which of them holds. Never speaks to a server: what
//! an address stands for is read by who connects.

use super::ChannelOptions;
use super::backend::TlsOptions;
use super::check::Problem;
use super::list::Replacements;
use super::registry::{Meta, Visit, Visitor, beside};
use super::value::{HIDDEN, Rule};
use super::{Config, secs};
use std::time::Duration;

/// A minute, for what is renewed in it.
const MINUTE: Duration = secs(60);
/// A server that does not answer within this has nothing to say.
const IO_MAX: Duration = secs(60);
/// Where state may live.
const KINDS: &[&str] = &["memory", "redis", "nats"];

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
        /// With cluster_address: channels are spread over so many partitions, each of which one server passes on, in
        /// place of every server passing on everything. Must be the same on all nodes, and takes Redis 7. 0 = they are
        /// not.
        sharded_pub_sub_partitions: u32 = 0, Rule::Count(0, 4096);
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
        /// File with who this node is: a .creds file (a JWT and its seed), or the seed of an NKey alone. It is read
        /// again for each connection.
        credentials_file: String = String::new();
        /// How long a connection may take.
        dial_timeout: Duration = secs(1), Rule::Time(Duration::from_millis(10), IO_MAX);
        /// How long the server may take to accept what is written; beyond: error 100.
        write_timeout: Duration = secs(1), Rule::Time(Duration::from_millis(10), IO_MAX);
        /// Of connections to servers
        tls: TlsOptions = TlsOptions::default();
        /// Channels that are subscribed to may have * and > in them, and then hear all that fits.
        allow_wildcards: bool = false;
        /// Messages of other programs, as they are
        raw_mode: NatsRawMode = NatsRawMode::default();
        /// Publications under way; beyond: error 100.
        inflight_limit: usize = 65536, Rule::Count(1, 1 << 24);
    }
}

options! {
    pub struct NatsRawMode {
        /// A channel is the subject of its name, and a message is a publication's data and nothing else: no joins and
        /// leaves, no tags, no info on who published.
        enabled: bool = false;
        /// Texts in a channel's name, and what stands for each in its subject: {":": "."}.
        channel_replacements: Replacements = Replacements::default();
        /// What subjects of channels begin with.
        prefix: String = String::new();
    }
}

/// Which store holds what, with where that is said.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Store<'a> {
    Memory,
    Redis(&'a RedisOptions, &'static str),
    Nats(&'a NatsOptions, &'static str),
}

impl Store<'_> {
    pub fn kind(&self) -> &'static str {
        match self {
            Store::Memory => "memory",
            Store::Redis(..) => "redis",
            Store::Nats(..) => "nats",
        }
    }
}

fn store<'a>(kind: &str, redis: &'a RedisOptions, nats: &'a NatsOptions, at: [&'static str; 2]) -> Store<'a> {
    match kind {
        "redis" => Store::Redis(redis, at[0]),
        "nats" => Store::Nats(nats, at[1]),
        _ => Store::Memory,
    }
}

impl Config {
    /// Where channels and their history live, unless their namespace says so itself.
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

    /// Where it is kept who is present in channels that are not in memory; `None` = where the channel lives.
    pub fn presence_store(&self) -> Option<Store<'_>> {
        let presence = &self.presence_manager;
        if presence.stores.enabled {
            let at = ["presence_manager.redis", "presence_manager.nats"];
            return Some(store(&presence.kind, &presence.stores.redis, &presence.stores.nats, at));
        }
        match self.engine_store() {
            store @ Store::Redis(..) => Some(store),
            Store::Memory | Store::Nats(..) => None,
        }
    }

    fn engine_store(&self) -> Store<'_> {
        let EngineOptions { kind, stores } = &self.engine;
        store(kind, &stores.redis, &stores.nats, ["engine.redis", "engine.nats"])
    }

    /// The engine of channels whose namespace names none.
    pub fn engine_kind(&self) -> &'static str {
        self.broker_store().kind()
    }

    /// The engine of a namespace's channels.
    fn engine_of<'a>(&'a self, options: &'a ChannelOptions) -> &'a str {
        if options.engine.is_empty() { self.engine_kind() } else { &options.engine }
    }

    /// The engines that channels live in, beside memory, that of most of them first: nodes speak to each other by it.
    pub fn stores(&self) -> Vec<Store<'_>> {
        let default = self.broker_store();
        let mut stores = Vec::new();
        if default != Store::Memory {
            stores.push(default);
        }
        let broker = |kind: &str| self.broker.stores.enabled && self.broker.kind == kind;
        for kind in ["redis", "nats"] {
            let is_used = self.channels().any(|(_, options)| options.engine == kind);
            if is_used && self.engine_kind() != kind {
                let own = match broker(kind) {
                    true => self.broker_store(),
                    false => store(
                        kind,
                        &self.engine.stores.redis,
                        &self.engine.stores.nats,
                        ["engine.redis", "engine.nats"],
                    ),
                };
                stores.push(own);
            }
        }
        stores
    }

    pub(super) fn check_engines(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut say = |option: String, message: String| {
            problems.push(Problem { option, at: String::new(), message });
        };
        let presence = &self.presence_manager;
        let kinds = [
            ("engine.type", &self.engine.kind, true),
            ("broker.type", &self.broker.kind, self.broker.stores.enabled),
            ("presence_manager.type", &presence.kind, presence.stores.enabled),
        ];
        for (option, kind, holds) in kinds {
            if holds && !KINDS.contains(&&**kind) && !kind.is_empty() {
                let known = KINDS.join(", ");
                say(option.into(), format!("expected one of {known}; got {kind:?}"));
            }
        }
        if presence.stores.enabled && presence.kind == "nats" {
            say("presence_manager.type".into(), "expected memory or redis: NATS keeps nobody's presence".into());
        }
        for store in self.stores().into_iter().chain(self.presence_store()) {
            match store {
                Store::Redis(options, at) => options.check(at, &mut say),
                Store::Nats(options, at) => options.check(at, &mut say),
                Store::Memory => {}
            }
        }
        for (at, options) in self.channels() {
            problems.extend(self.engine_faults(options).into_iter().map(|finding| at.problem(finding)));
        }
        problems
    }

    /// What is wrong with the engine that a namespace names, or with what it asks of it.
    fn engine_faults(&self, options: &ChannelOptions) -> Vec<(&'static str, String)> {
        let engine = self.engine_of(options);
        if !KINDS.contains(&engine) && !options.engine.is_empty() {
            return vec![("engine", format!("expected one of {}, or nothing; got {engine:?}", KINDS.join(", ")))];
        }
        if engine == "redis" && options.inbox.enabled && !options.inbox.undelivered_after.is_zero() {
            let told = "only channels in memory tell what has not arrived: leave it out, or set engine to memory";
            return vec![("inbox.undelivered_after", told.to_owned())];
        }
        if engine != "nats" {
            return Vec::new();
        }
        let told = "NATS keeps no history: turn it off, or set engine to redis or memory";
        let asked = [
            ("history_size", options.history_size > 0 && !options.history_ttl.is_zero()),
            ("force_recovery", options.force_recovery),
            ("force_positioning", options.force_positioning),
            ("inbox.enabled", options.inbox.enabled),
        ];
        asked.into_iter().filter(|(_, is_asked)| *is_asked).map(|(name, _)| (name, told.to_owned())).collect()
    }
}

impl NatsOptions {
    fn check(&self, at: &str, say: &mut impl FnMut(String, String)) {
        if self.url.iter().all(|url| url.trim().is_empty()) {
            say(format!("{at}.url"), "expected an address (nats://127.0.0.1:4222); got nothing".into());
        }
        if self.url.iter().any(|url| url.contains(HIDDEN)) {
            let message = format!("{HIDDEN} only stands for a secret in what is printed; give the password");
            say(format!("{at}.url"), message);
        }
        let is_subject = |text: &str| text.bytes().all(|b| b.is_ascii_graphic() && b != b'*' && b != b'>');
        for (key, prefix) in [("prefix", &self.prefix), ("raw_mode.prefix", &self.raw_mode.prefix)] {
            if !is_subject(prefix) {
                say(format!("{at}.{key}"), format!("expected no spaces, * or > in it; got {prefix:?}"));
            }
        }
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
        if self.sharded_pub_sub_partitions > 0 && self.cluster_address.is_empty() {
            let message = "expected 0, for only a Redis Cluster (cluster_address) has sharded PUB/SUB; got";
            say(format!("{at}.sharded_pub_sub_partitions"), format!("{message} {}", self.sharded_pub_sub_partitions));
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

    #[test]
    fn a_namespace_names_an_engine_that_can_do_what_it_asks() {
        let said = |engine: &str, namespace: &str| {
            let text = format!(
                r#"{{"engine":{{"type":{engine:?}}},"channel":{{"namespaces":[{{"name":"ns",{namespace}}}]}}}}"#
            );
            let loaded = load(Some(File { name: "a.json", text: &text }), &[], &[]);
            loaded.err().unwrap_or_default().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        };
        for engine in ["memory", "redis", "nats"] {
            for own in ["", "memory", "redis", "nats"] {
                assert_eq!(said(engine, &format!(r#""engine":{own:?}"#)), "", "{engine} {own}");
            }
        }
        assert!(said("memory", r#""engine":"kafka""#).contains("expected one of memory, redis, nats"));
        let history = r#""history_size":1,"history_ttl":"1m""#;
        assert!(said("nats", history).contains("NATS keeps no history"));
        assert!(said("memory", &format!(r#""engine":"nats",{history}"#)).contains("NATS keeps no history"));
        assert_eq!(said("nats", &format!(r#""engine":"memory",{history}"#)), "");
    }

    #[test]
    fn engines_in_use_have_one_section_each() {
        let sections = |text: &str| {
            let (config, _) = load(Some(File { name: "a.json", text }), &[], &[]).expect("a configuration");
            let at = |store: &super::Store<'_>| match store {
                super::Store::Memory => "memory",
                super::Store::Redis(_, at) | super::Store::Nats(_, at) => at,
            };
            (config.stores().iter().map(at).collect::<Vec<_>>(), config.presence_store().as_ref().map(at))
        };
        let namespaces = r#""channel":{"namespaces":[{"name":"a1","engine":"redis"},{"name":"b1","engine":"nats"}]}"#;
        assert_eq!(sections("{}"), (vec![], None));
        assert_eq!(sections(&format!("{{{namespaces}}}")), (vec!["engine.redis", "engine.nats"], None));
        let text = format!(r#"{{"engine":{{"type":"nats"}},{namespaces}}}"#);
        assert_eq!(sections(&text), (vec!["engine.nats", "engine.redis"], None));
        let text = r#"{"engine":{"type":"redis"},"broker":{"enabled":true,"type":"nats"}}"#;
        assert_eq!(sections(text), (vec!["broker.nats"], Some("engine.redis")));
        let text = r#"{"engine":{"type":"nats"},"presence_manager":{"enabled":true,"type":"memory"}}"#;
        assert_eq!(sections(text), (vec!["engine.nats"], Some("memory")));
    }
}
