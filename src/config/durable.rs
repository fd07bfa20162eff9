//! F0 · Where publications are kept beyond memory and beyond a restart.
//!
//! Owns the section `durable`, and the options by which a namespace asks for it. Never opens a file or speaks to a
//! database.

use super::check::Problem;
use super::registry::{Meta, Visit, Visitor, beside};
use super::value::{NO_MAX, Rule};
use super::{ChannelOptions, Config, MIB, secs};
use std::time::Duration;

/// Where archives may be.
const KINDS: &[&str] = &["embedded", "postgresql", "mysql"];
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

    pub(super) fn check_durable(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let DurableOptions { kind, stores } = &self.durable;
        let mut say = |option: &str, message: String| {
            problems.push(Problem { option: option.into(), at: String::new(), message });
        };
        if !KINDS.contains(&&**kind) {
            say("durable.type", format!("expected one of {}; got {kind:?}", KINDS.join(", ")));
        }
        if stores.path.trim().is_empty() {
            say("durable.path", "expected a folder (/var/lib/gannet); got nothing".into());
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
        if engine != "memory" {
            let message =
                format!("expected none for channels in {engine}: only those in memory are archived; got {asked:?}");
            return Some(("history_durability", message));
        }
        None
    }
}
