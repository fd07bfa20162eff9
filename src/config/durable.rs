//! F0 · Where publications are kept beyond memory and beyond a restart.
//!
//! Owns the section `durable`, and the options by which a namespace asks for it. Never opens a file or speaks to a
//! database.

use super::backend::TlsOptions;
use super::built::BuildPart;
use super::check::Problem;
use super::registry::{Meta, Visit, Visitor, beside};
use super::value::{NO_MAX, Rule};
use super::{ChannelOptions, Config, MIB, secs};
use std::time::Duration;

/// Where archives may be.
const KINDS: &[&str] = &["embedded", "postgresql", "mysql"];
/// Databases have room for longer names, with what is put before them.
const SHARE_MAX: usize = 200;
/// What history_durability may be.
pub(super) const DURABILITIES: &[&str] = &["", "none", "batched", "sync"];

options! {
    pub struct DurableStores {
        /// With type embedded: the folder that this node keeps, alone. It is made if it is not there.
        path: String = "gannet-durable".into();
        /// Publications with history_durability batched are on disk after so long at most.
        flush_interval: Duration = Duration::from_millis(100), Rule::Time(Duration::from_millis(1), secs(60));
        /// With type postgresql or mysql: tables that channels are spread over by their names' hash. Must be the same
        /// on all nodes, and stay.
        tables: u32 = 16, Rule::Count(1, 256);
        /// Bytes of publications that wait for the archive; beyond: error 111 with history_durability sync. With
        /// batched they are delivered and not archived.
        queue_size: usize = 64 << 20, Rule::Bytes(64 << 10, NO_MAX);
        /// Requests of one reactor that wait until the archive has told where their channels stand; beyond: error 111,
        /// the API 503.
        opening_limit: usize = 65536, Rule::Count(1, 1 << 24);
        /// Histories and recoveries of one reactor that read the archive at once; beyond: error 111, the API 503.
        read_limit: usize = 1024, Rule::Count(1, MIB);
        /// Publications of one history, or of one step of a recovery, that are read of the archive at most.
        page_limit: usize = 10_000, Rule::Count(1, MIB);
        /// With type embedded: memory for what is read of the archive again.
        cache_size: usize = 32 << 20, Rule::Bytes(MIB, NO_MAX);
        /// With type postgresql or mysql: whose streams these are. Nodes whose channels are in memory need one each.
        share: String = String::new();
        /// With type postgresql or mysql: connections, each for its share of channels.
        connections: usize = 4, Rule::Count(1, 64);
        /// With type postgresql or mysql: how long a connection may take.
        connect_timeout: Duration = secs(5), Rule::Time(Duration::from_millis(10), secs(60));
        /// With type postgresql or mysql: how long a statement may take; beyond: error 100, and another connection.
        timeout: Duration = secs(5), Rule::Time(Duration::from_millis(10), secs(60));
        /// With type postgresql
        postgresql: DurablePostgresql = DurablePostgresql::default();
        /// With type mysql
        mysql: DurableMysql = DurableMysql::default();
    }
}

options! {
    pub struct DurablePostgresql {
        /// The database: postgres://user:password@host:port/name, or host=... user=... Secret: never printed.
        dsn: String = String::new(), Rule::Secret;
        /// Of connections to the database; goes before sslmode in dsn
        tls: TlsOptions = TlsOptions::default();
    }
}

options! {
    pub struct DurableMysql {
        /// The database: mysql://user:password@host:port/name. Secret: never printed.
        dsn: String = String::new(), Rule::Secret;
        /// Of connections to the database. Without server_ca_pem the authorities that browsers trust are believed.
        tls: TlsOptions = TlsOptions::default();
    }
}

/// The section says by its `type` where archives are.
#[derive(Debug, Clone, PartialEq)]
pub struct DurableOptions {
    pub kind: String,
    pub stores: DurableStores,
}

impl Default for DurableOptions {
    fn default() -> Self {
        DurableOptions { kind: "embedded".into(), stores: DurableStores::default() }
    }
}

impl Visit for DurableOptions {
    fn visit(&mut self, meta: Meta<'_>, visitor: &mut dyn Visitor) {
        let about = "Where the archive is, if a namespace asks for one (history_durability). embedded: on this node's \
                     disk. postgresql, mysql: in a database.";
        beside(("type", about, &mut self.kind), &mut self.stores, meta, visitor);
    }
}

impl ChannelOptions {
    pub fn is_durable(&self) -> bool {
        !matches!(self.history_durability.as_str(), "" | "none")
    }
}

impl Config {
    /// The kind of archive there is to be, if a namespace asks for one.
    pub fn archive_kind(&self) -> Option<&str> {
        self.channels().any(|(_, options)| options.is_durable()).then_some(self.durable.kind.as_str())
    }

    /// The longest that an archive is to keep anything, in milliseconds; 0 = for ever.
    pub fn archive_ttl_max_ms(&self) -> u64 {
        let durable = self.channels().map(|(_, options)| options).filter(|options| options.is_durable());
        let ttls: Vec<u64> = durable.map(|options| options.archive_ttl.as_millis() as u64).collect();
        if ttls.contains(&0) { 0 } else { ttls.into_iter().max().unwrap_or(0) }
    }

    pub(super) fn check_durable(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let DurableOptions { kind, stores } = &self.durable;
        let mut say = |option: &str, message: String| {
            problems.push(Problem { option: option.into(), at: String::new(), message });
        };
        if !KINDS.contains(&&**kind) {
            say("durable.type", format!("expected one of {}; got {kind:?}", KINDS.join(", ")));
        }
        let in_database = matches!(&**kind, "postgresql" | "mysql") && self.archive_kind().is_some();
        if let Some(why) = BuildPart::Databases.fault().filter(|_| in_database) {
            say("durable.type", why);
        }
        if stores.path.trim().is_empty() {
            say("durable.path", "expected a folder (/var/lib/gannet); got nothing".into());
        }
        let dsn = match &**kind {
            "postgresql" => Some(("durable.postgresql.dsn", &stores.postgresql.dsn, "postgres://user@host:5432/name")),
            "mysql" => Some(("durable.mysql.dsn", &stores.mysql.dsn, "mysql://user@host:3306/name")),
            _ => None,
        };
        if let Some((option, _, example)) = dsn.filter(|(_, dsn, _)| dsn.is_empty()) {
            say(option, format!("expected a database ({example}); got nothing"));
        }
        if stores.share.len() > SHARE_MAX {
            say("durable.share", format!("expected {SHARE_MAX} bytes at most; got {}", stores.share.len()));
        }
        for (at, options) in self.channels().filter(|(_, options)| options.is_durable()) {
            problems.extend(self.durable_faults(options).into_iter().map(|finding| at.problem(finding)));
        }
        problems
    }

    /// What keeps a namespace from what it asks for.
    fn durable_faults(&self, options: &ChannelOptions) -> Option<(&'static str, String)> {
        let asked = &options.history_durability;
        if options.history_size == 0 && options.history_ttl.is_zero() {
            let message = format!("takes history: set history_size and history_ttl, or none; got {asked:?}");
            return Some(("history_durability", message));
        }
        let engine = if options.engine.is_empty() { self.engine_kind() } else { &options.engine };
        if engine == "nats" {
            return Some(("history_durability", format!("expected none: NATS keeps no history; got {asked:?}")));
        }
        if engine != "memory" {
            let message =
                format!("expected none for channels in {engine}: only those in memory are archived; got {asked:?}");
            return Some(("history_durability", message));
        }
        None
    }
}
