//! What was measured: the table and the JSON.

use std::time::Duration;

use serde_json::{Value, json};

use super::LEAVING;
use super::crowd::Deliveries;
use super::nodes::Settings;
use super::plan::Plan;
use super::status::Status;
use crate::account::Memory;
use crate::figures::{now_unix, print_table};
use crate::machine;

/// Clients connecting.
pub struct Connecting {
    pub time: Duration,
    /// CPU time of the servers.
    pub cpu_ns: u64,
    pub failed: u64,
    /// Clients of the server process with the fewest, and of that with the most.
    pub fewest: u64,
    pub most: u64,
}

/// Memory of all clients, beyond the same processes without clients.
pub struct Held {
    pub empty: Memory,
    pub full: Memory,
    /// Resident bytes of the client processes, beyond themselves without clients.
    pub clients_rss: i64,
    /// Bytes for each connection, both ends, by slab; empty if /proc/slabinfo may not be read.
    pub slabs: Vec<(String, f64)>,
    /// Bytes for each connection that scans of /proc by other programs took, beside their dentries.
    pub scanned: f64,
    /// Bytes by which MemAvailable fell.
    pub available: i64,
}

/// Nothing but pings.
pub struct Idle {
    pub time: Duration,
    pub cpu_ns: u64,
    pub pings: u64,
}

/// One publication to all.
pub struct Delivering {
    pub got: Deliveries,
    pub cpu_ns: u64,
    /// Data that waited in sockets at the most, in pages.
    pub pages: u64,
}

/// Servers leaving.
pub struct Draining {
    /// Until the last client was told, and until the last server process had ended.
    pub told: Duration,
    pub ended: Duration,
    pub status: Status,
    /// Sockets in TIME_WAIT afterwards.
    pub waiting: u64,
}

pub struct Report {
    pub plan: Plan,
    pub settings: Settings,
    pub payload: usize,
    pub connecting: Connecting,
    pub held: Held,
    pub idle: Idle,
    pub delivering: Delivering,
    pub draining: Draining,
}

impl Report {
    fn each(&self, bytes: i64) -> f64 {
        bytes as f64 / self.plan.clients as f64
    }

    fn rss(&self) -> f64 {
        self.each(self.held.full.rss as i64 - self.held.empty.rss as i64)
    }

    fn private(&self) -> f64 {
        self.each(self.held.full.private as i64 - self.held.empty.private as i64)
    }

    fn kernel(&self) -> f64 {
        self.held.slabs.iter().map(|(_, bytes)| bytes).sum()
    }

    /// What MemAvailable lost beyond the processes' own growth.
    fn kernel_by_available(&self) -> f64 {
        let user = self.held.full.rss as i64 - self.held.empty.rss as i64 + self.held.clients_rss;
        self.each(self.held.available - user)
    }

    fn idle_us(&self) -> f64 {
        self.each(self.idle.cpu_ns as i64) / 1e3 / self.idle.time.as_secs_f64()
    }

    fn told_to_leave(&self) -> u64 {
        self.draining.status.told.get(&LEAVING).copied().unwrap_or_default()
    }

    /// True if every client was held, got the publication once and was told 3001.
    pub fn is_whole(&self) -> bool {
        let all = self.plan.clients as u64;
        self.delivering.got.once == all && self.told_to_leave() == all && self.draining.status.lost == 0
    }

    /// Prints the table.
    pub fn print(&self) {
        println!("\n{}", self.plan.describe());
        let rows = [self.rows_of_holding(), self.rows_of_acting()].concat();
        let rows: Vec<Vec<String>> =
            rows.into_iter().map(|(what, figure, note)| vec![format!("{what:<34}"), figure, note]).collect();
        print_table(&["", "", ""], &rows);
    }

    fn rows_of_holding(&self) -> Vec<(&'static str, String, String)> {
        let (all, connecting) = (self.plan.clients as f64, &self.connecting);
        let mut rows = vec![
            ("time to connect, s", seconds(connecting.time), format!("{:.0}/s", all / connecting.time.as_secs_f64())),
            ("  server CPU each, us", format!("{:.1}", self.each(connecting.cpu_ns as i64) / 1e3), String::new()),
            ("  attempts made again", connecting.failed.to_string(), String::new()),
            ("clients of a server process", format!("{}..{}", connecting.fewest, connecting.most), String::new()),
            ("user bytes a client, RSS", format!("{:.0}", self.rss()), format!("private {:.0}", self.private())),
            (
                "  an empty server process, KiB",
                (self.held.empty.rss / 1024 / self.plan.servers as u64).to_string(),
                format!("private {}", self.held.empty.private / 1024 / self.plan.servers as u64),
            ),
            (
                "kernel bytes a connection",
                format!("{:.0}", self.kernel()),
                format!("both ends; one end {:.0}", self.kernel() / 2.0),
            ),
        ];
        let slabs: Vec<String> =
            self.held.slabs.iter().take(8).map(|(name, bytes)| format!("{name} {bytes:.0}")).collect();
        rows.push(("  by MemAvailable", format!("{:.0}", self.kernel_by_available()), "both ends".to_owned()));
        if self.held.scanned >= 10.0 {
            let note = "not counted; its dentries are above".to_owned();
            rows.push(("  others listed /proc/PID/fd", format!("{:.0}", self.held.scanned), note));
        }
        for pair in slabs.chunks(2) {
            rows.push(("  slabs", String::new(), pair.join(", ")));
        }
        rows
    }

    fn rows_of_acting(&self) -> Vec<(&'static str, String, String)> {
        let (idle, got, draining) = (&self.idle, &self.delivering.got, &self.draining);
        let seconds_idle = idle.time.as_secs_f64();
        let ms = |ns: u64| format!("{:.1}", ns as f64 / 1e6);
        let time = |quantile: f64| ms(got.times.value_at_quantile(quantile));
        vec![
            (
                "idle CPU, us a second a client",
                format!("{:.3}", self.idle_us()),
                format!("{:.1}% of a core", idle.cpu_ns as f64 / 1e7 / seconds_idle),
            ),
            (
                "  pings answered a second",
                format!("{:.0}", idle.pings as f64 / seconds_idle),
                format!("each {}, pong in {}", self.settings.ping_interval, self.settings.pong_timeout),
            ),
            ("time to deliver, ms: median", time(0.5), format!("data of {} bytes", self.payload)),
            ("  99%", time(0.99), String::new()),
            ("  the last", ms(got.max), format!("{:.0}/s", self.plan.clients as f64 / (got.max as f64 / 1e9))),
            (
                "  server CPU a delivery, us",
                format!("{:.2}", self.each(self.delivering.cpu_ns as i64) / 1e3),
                format!("at most {} MiB waited in sockets", self.delivering.pages / 256),
            ),
            ("  clients that got it once", got.once.to_string(), format!("not {}, twice {}", got.none, got.more)),
            ("time to drain, s: all told", seconds(draining.told), format!("spread {}", self.settings.spread)),
            ("  all processes ended", seconds(draining.ended), String::new()),
            (
                "  clients told 3001",
                self.told_to_leave().to_string(),
                format!("otherwise {}", draining.status.told_all() - self.told_to_leave()),
            ),
            ("  sockets in TIME_WAIT after it", draining.waiting.to_string(), String::new()),
        ]
    }

    pub fn json(&self) -> Value {
        let (plan, got, draining) = (&self.plan, &self.delivering.got, &self.draining);
        let slabs: serde_json::Map<String, Value> =
            self.held.slabs.iter().map(|(name, bytes)| (name.clone(), json!(bytes.round()))).collect();
        let time = |quantile: f64| got.times.value_at_quantile(quantile) as f64 / 1e6;
        json!({
            "at_unix": now_unix(), "machine": machine::describe(),
            "clients": plan.clients, "whole": self.is_whole(), "way": plan.describe(),
            "processes": {"servers": plan.servers, "reactors_each": plan.reactors, "clients": plan.crews,
                "descriptors_allowed": plan.descriptors,
                "clients_each": {"min": self.connecting.fewest, "max": self.connecting.most}},
            "token_cache": self.settings.token_cache,
            "connect": {"seconds": self.connecting.time.as_secs_f64(), "failed": self.connecting.failed,
                "per_second": plan.clients as f64 / self.connecting.time.as_secs_f64(),
                "server_cpu_us_each": self.each(self.connecting.cpu_ns as i64) / 1e3},
            "user_bytes_each": {"rss": self.rss(), "private": self.private()},
            "empty_server_bytes": {"rss": self.held.empty.rss / plan.servers as u64,
                "private": self.held.empty.private / plan.servers as u64},
            "kernel_bytes_each": {"both_ends": self.kernel(), "by_available": self.kernel_by_available(),
                "slabs": slabs, "proc_inodes_not_counted": self.held.scanned.round()},
            "idle": {"seconds": self.idle.time.as_secs_f64(), "ping_interval": self.settings.ping_interval,
                "pong_timeout": self.settings.pong_timeout,
                "server_cpu_us_per_second_each": self.idle_us(), "pings": self.idle.pings},
            "deliver": {"payload_bytes": self.payload, "p50_ms": time(0.5), "p99_ms": time(0.99),
                "max_ms": got.max as f64 / 1e6, "per_second": plan.clients as f64 / (got.max as f64 / 1e9), "once": got.once, "none": got.none, "more": got.more,
                "server_cpu_us_each": self.each(self.delivering.cpu_ns as i64) / 1e3,
                "waiting_pages_max": self.delivering.pages},
            "drain": {"spread": self.settings.spread, "told_seconds": draining.told.as_secs_f64(),
                "ended_seconds": draining.ended.as_secs_f64(), "told_3001": self.told_to_leave(),
                "told_otherwise": draining.status.told_all() - self.told_to_leave(), "lost": draining.status.lost,
                "time_wait": draining.waiting},
        })
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64())
}
