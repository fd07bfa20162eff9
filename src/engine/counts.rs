//! F10 · What an engine counts: shared by its thread, which adds, and the page of metrics, which reads.

use crate::base::metrics::Page;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

/// Why a call was not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// There is no connection, and nothing was sent.
    Away,
    /// Too many calls are under way.
    Busy,
    /// No answer in time, or the connection ended before it.
    Lost,
    /// The server has no memory left.
    Memory,
    /// It is another kind of server now, or not ready: a replica, or loading.
    Role,
    /// Whoever we are there may not do that.
    Permission,
    /// It is longer than the server passes on.
    Size,
    /// It answered another error.
    Other,
}

const FAILURES: [(FailureKind, &str); 8] = [
    (FailureKind::Away, "away"),
    (FailureKind::Busy, "busy"),
    (FailureKind::Lost, "lost"),
    (FailureKind::Memory, "memory"),
    (FailureKind::Role, "role"),
    (FailureKind::Permission, "permission"),
    (FailureKind::Size, "size"),
    (FailureKind::Other, "other"),
];

#[derive(Debug)]
pub struct EngineCounts {
    failures: [AtomicU64; FAILURES.len()],
    /// Calls carried out.
    pub calls: AtomicU64,
    /// Batches that they were sent in.
    pub batches: AtomicU64,
    /// Calls that were sent and not answered yet.
    pub under_way: AtomicU64,
    /// Publications and events of presence heard.
    pub heard: AtomicU64,
    /// Of them, not told to a reactor that was full.
    pub dropped: AtomicU64,
    /// Messages that nobody can read.
    pub malformed: AtomicU64,
    /// Connections that were lost, those for calls and those for PUB/SUB.
    pub reconnects: AtomicU64,
    pub listener_reconnects: AtomicU64,
    /// Channels listened to.
    pub channels: AtomicU64,
    /// Each server: its name, whether calls reach it, and when its PUB/SUB was heard last.
    servers: Vec<ServerHealth>,
    began: Instant,
    /// PUB/SUB connections that were never made yet.
    awaited: AtomicUsize,
}

#[derive(Debug)]
pub struct ServerHealth {
    pub name: String,
    pub is_up: AtomicBool,
    /// It is heard, and not only called.
    listens: bool,
    /// Milliseconds after the start.
    heard_at: AtomicU64,
}

impl ServerHealth {
    fn new(name: String, listens: bool) -> ServerHealth {
        ServerHealth { name, is_up: AtomicBool::new(false), listens, heard_at: AtomicU64::new(0) }
    }
}

impl EngineCounts {
    pub fn new(servers: impl IntoIterator<Item = String>, listens: bool) -> EngineCounts {
        let zero = AtomicU64::default;
        EngineCounts {
            failures: Default::default(),
            calls: zero(),
            batches: zero(),
            under_way: zero(),
            heard: zero(),
            dropped: zero(),
            malformed: zero(),
            reconnects: zero(),
            listener_reconnects: zero(),
            channels: zero(),
            servers: servers.into_iter().map(|name| ServerHealth::new(name, listens)).collect(),
            began: Instant::now(),
            awaited: AtomicUsize::new(0),
        }
    }

    /// The same with servers behind those that are there, which are called and not heard.
    pub fn with_called(mut self, servers: impl IntoIterator<Item = String>) -> EngineCounts {
        self.servers.extend(servers.into_iter().map(|name| ServerHealth::new(name, false)));
        self
    }

    /// There will be a PUB/SUB connection. Until its first one is there, channels of its cannot be listened to.
    pub fn await_listener(&self) {
        self.awaited.fetch_add(1, Ordering::Relaxed);
    }

    /// The first connection of one that was awaited.
    pub fn listener_came(&self) {
        self.awaited.fetch_sub(1, Ordering::Relaxed);
    }

    pub fn fail(&self, kind: FailureKind, count: usize) {
        let at = FAILURES.iter().position(|(known, _)| *known == kind).unwrap_or(FAILURES.len() - 1);
        self.failures[at].fetch_add(count as u64, Ordering::Relaxed);
    }

    /// A connection listens to another number of channels than before.
    pub fn count_channels(&self, before: u64, now: u64) {
        self.channels.fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
    }

    pub fn add(counter: &AtomicU64, count: usize) {
        counter.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// The PUB/SUB of a server was heard.
    pub fn hear(&self, server: usize) {
        if let Some(server) = self.servers.get(server) {
            server.heard_at.store(self.began.elapsed().as_millis() as u64, Ordering::Relaxed);
        }
    }

    pub fn set_up(&self, server: usize, is_up: bool) {
        if let Some(server) = self.servers.get(server) {
            server.is_up.store(is_up, Ordering::Relaxed);
        }
    }

    /// Milliseconds since the PUB/SUB of that server was heard.
    fn age_ms(&self, server: &ServerHealth) -> u64 {
        (self.began.elapsed().as_millis() as u64).saturating_sub(server.heard_at.load(Ordering::Relaxed))
    }

    /// What keeps clients from being served, if anything does.
    pub fn trouble(&self, age_max_ms: u64) -> Option<String> {
        if self.awaited.load(Ordering::Relaxed) > 0 {
            return Some("a PUB/SUB connection is not there yet".into());
        }
        self.servers.iter().find_map(|server| {
            let ServerHealth { name, is_up, listens, .. } = server;
            if !is_up.load(Ordering::Relaxed) {
                return Some(format!("{name} cannot be reached"));
            }
            let age = self.age_ms(server);
            (*listens && age > age_max_ms).then(|| format!("nothing was heard of {name} for {age} ms"))
        })
    }

    /// `engine`: what the names of metrics have after `gannet_`.
    pub fn write(&self, engine: &str, page: &mut Page) {
        let name = |rest: &str| format!("gannet_{engine}_{rest}");
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        for (rest, help, kind, counter) in [
            ("calls_total", "Calls that were answered.", "counter", &self.calls),
            ("batches_total", "Writes that calls left in.", "counter", &self.batches),
            ("calls_inflight", "Calls that were sent and not answered.", "gauge", &self.under_way),
            ("messages_total", "Publications and events of presence heard.", "counter", &self.heard),
            ("messages_dropped_total", "Of them, for reactors that were full.", "counter", &self.dropped),
            ("messages_malformed_total", "Messages that nobody can read.", "counter", &self.malformed),
            ("reconnects_total", "Connections for calls that were lost.", "counter", &self.reconnects),
            (
                "pub_sub_reconnects_total",
                "Connections of PUB/SUB that were lost.",
                "counter",
                &self.listener_reconnects,
            ),
            ("channels", "Channels listened to.", "gauge", &self.channels),
        ] {
            page.single(&name(rest), help, kind, value(counter));
        }
        let failures = FAILURES.iter().zip(&self.failures).map(|((_, cause), count)| (*cause, value(count)));
        let help = "Calls that were not carried out, by cause.";
        page.labelled(&name("errors_total"), help, "counter", "cause", failures);
        let up = self.servers.iter().map(|server| (&*server.name, u64::from(server.is_up.load(Ordering::Relaxed))));
        page.labelled(&name("up"), "Whether calls reach the server.", "gauge", "server", up);
        let heard = self.servers.iter().filter(|server| server.listens);
        let ages = heard.map(|server| (&*server.name, self.age_ms(server) as f64 / 1e3));
        let help = "Since PUB/SUB of the server was heard; its own probe is, each two seconds.";
        page.labelled(&name("probe_age_seconds"), help, "gauge", "server", ages);
    }
}
