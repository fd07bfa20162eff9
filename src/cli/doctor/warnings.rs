//! F11 · What does not bound the clients but costs them: short queues, slow clocks, memory that grows by itself.
//!
//! Owns these judgements, each in a function. Pure: facts and configuration in, warnings out.

use serde::Serialize;

use super::facts::Facts;
use super::print::{bytes, count};
use crate::config::Config;

/// Clocks that are read without a call into the kernel.
const FAST_CLOCKS: &[&str] =
    &["tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter", "timebase", "tod", "riscv_clocksource"];
/// Threads beside the reactors: main, service, signals, log.
const THREADS_RESERVED: u64 = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// It will be felt.
    Warning,
    /// Good to know.
    Note,
}

#[derive(Debug, Clone, Serialize)]
pub struct Advice {
    pub level: Level,
    pub about: String,
    pub message: String,
    /// Empty if there is none.
    pub command: String,
}

/// `clients` is how many are wanted, or fit.
pub fn warnings(facts: &Facts, config: &Config, clients: u64) -> Vec<Advice> {
    let mut all: Vec<Advice> = [
        kernel(facts),
        accept_queue(facts, config),
        handshake_queue(facts, config),
        send_buffer(facts, config),
        receive_buffer(facts, config),
        reactors(facts, config),
        steering(facts, config),
        threads(facts, config),
        clock(facts),
        huge_pages(facts),
        swap(facts),
        idle_restart(facts),
        time_wait(facts, clients),
        own_port(facts, config),
        in_use(facts),
    ]
    .into_iter()
    .flatten()
    .collect();
    // A stable sort: within a level they stay as above.
    all.sort_by_key(|warning| warning.level == Level::Note);
    all
}

fn warning(about: &str, message: String, command: &str) -> Option<Advice> {
    Some(Advice { level: Level::Warning, about: about.into(), message, command: command.into() })
}

fn note(about: &str, message: String, command: &str) -> Option<Advice> {
    warning(about, message, command).map(|warning| Advice { level: Level::Note, ..warning })
}

fn kernel(facts: &Facts) -> Option<Advice> {
    match facts.kernel_version()? {
        version if version < (3, 9) => {
            warning("kernel", "older than 3.9: SO_REUSEPORT is missing, and the server cannot start".into(), "")
        }
        version if version < (4, 6) => {
            let message = "older than 4.6: for each new connection it walks all listeners of the port";
            warning("kernel", message.into(), "")
        }
        version if version < (5, 14) => {
            let message = "older than 5.14: what waits at a listener that closes is reset (no tcp_migrate_req)";
            note("kernel", message.into(), "")
        }
        _ => None,
    }
}

fn accept_queue(facts: &Facts, config: &Config) -> Option<Advice> {
    let backlog = u64::from(config.http_server.listen_backlog);
    let most = facts.key("net.core.somaxconn").filter(|most| *most < backlog)?;
    let message = format!("{most} cuts http_server.listen_backlog, {backlog}: bursts of handshakes are dropped sooner");
    warning("net.core.somaxconn", message, &format!("sysctl -w net.core.somaxconn={backlog}"))
}

fn handshake_queue(facts: &Facts, config: &Config) -> Option<Advice> {
    let name = "net.ipv4.tcp_max_syn_backlog";
    let backlog = u64::from(config.http_server.listen_backlog);
    let most = facts.key(name).filter(|most| *most < backlog)?;
    let cookies = facts.key("net.ipv4.tcp_syncookies")? > 0;
    let counts = !cookies || facts.kernel_version().is_some_and(|version| version < (4, 4));
    let message = format!("{most} is below http_server.listen_backlog, {backlog}, and counts on this kernel");
    if counts { warning(name, message, &format!("sysctl -w {name}={backlog}")) } else { None }
}

fn send_buffer(facts: &Facts, config: &Config) -> Option<Advice> {
    buffer(facts, "net.core.wmem_max", "http_server.send_buffer_size", config.http_server.send_buffer_size)
}

fn receive_buffer(facts: &Facts, config: &Config) -> Option<Advice> {
    buffer(facts, "net.core.rmem_max", "http_server.receive_buffer_size", config.http_server.receive_buffer_size)
}

fn buffer(facts: &Facts, key: &str, option: &str, size: usize) -> Option<Advice> {
    let most = facts.key(key).filter(|most| *most < size as u64)?;
    warning(key, format!("{most} cuts {option}, {size}"), &format!("sysctl -w {key}={size}"))
}

fn reactors(facts: &Facts, config: &Config) -> Option<Advice> {
    let cpus = facts.cpus?;
    let set = facts.reactors(config.reactors);
    if let Some(quota) = facts.cpu_quota_milli.filter(|quota| *quota < set.min(cpus) * 1000) {
        let cpu = format!("{}.{}", quota / 1000, quota % 1000 / 100);
        let message =
            format!("the control group allows {cpu} for reactors = {set}: they are stopped in the midst of turns");
        return warning("CPU", message, &format!("CPUQuota={}% or more in the unit, or fewer reactors", set * 100));
    }
    let message = format!("reactors = {set} on {cpus} CPUs: they take turns, and none is faster");
    if set > cpus { warning("reactors", message, "reactors = 0 in the configuration") } else { None }
}

fn steering(facts: &Facts, config: &Config) -> Option<Advice> {
    let reactors = facts.reactors(config.reactors);
    if config.http_server.steering != "cpu" {
        return None;
    }
    let (about, hash) = ("http_server.steering", "http_server.steering = \"hash\" in the configuration");
    if facts.kernel_version().is_some_and(|version| version < (4, 6)) {
        return warning(about, "cpu takes Linux 4.6: the server cannot start".into(), hash);
    }
    if let Some(cpus) = facts.cpus.filter(|cpus| *cpus < reactors) {
        let message = format!("cpu takes a CPU for each reactor, and {reactors} have {cpus}: the server cannot start");
        return warning(about, message, "reactors = 0 in the configuration");
    }
    let queues = facts.receive_queues.filter(|queues| *queues < reactors)?;
    let message = format!(
        "cpu, and the network card has queues for {queues} of {reactors} reactors: a CPU that no packet arrives at has \
         a reactor without clients"
    );
    warning(about, message, &format!("ethtool -L CARD combined {reactors}, or RPS (tuning/README.md); or {hash}"))
}

fn threads(facts: &Facts, config: &Config) -> Option<Advice> {
    let found = facts.cgroup_pids.as_ref()?;
    let needed = facts.reactors(config.reactors) + THREADS_RESERVED;
    let message = format!("{} threads in {}, and the server starts up to {needed}", found.value, found.file);
    if found.value < needed { warning("threads", message, &format!("TasksMax={needed} in the unit")) } else { None }
}

fn clock(facts: &Facts) -> Option<Advice> {
    let clock = facts.clocksource.as_deref().filter(|clock| !FAST_CLOCKS.contains(clock))?;
    let message = format!("{clock} is slow to read, and each turn of a reactor reads it; tsc or kvm-clock are not");
    let file = "/sys/devices/system/clocksource/clocksource0";
    warning("clock", message, &format!("cat {file}/available_clocksource; echo tsc > {file}/current_clocksource"))
}

fn huge_pages(facts: &Facts) -> Option<Advice> {
    facts.huge_pages.as_deref().filter(|mode| *mode == "always")?;
    let message = "always: pages of 2 MiB where 4 KiB would do, so that resident memory grows beyond what is used";
    let command = "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled";
    warning("transparent huge pages", message.into(), command)
}

fn swap(facts: &Facts) -> Option<Advice> {
    let size = facts.swap_total.filter(|size| *size > 0)?;
    let eager = facts.key("vm.swappiness").unwrap_or(60) > 10;
    let message = format!("{} of swap: idle clients' memory goes there, and a ping to all brings it back", bytes(size));
    if eager { warning("swap", message, "sysctl -w vm.swappiness=1") } else { note("swap", message, "") }
}

fn idle_restart(facts: &Facts) -> Option<Advice> {
    let name = "net.ipv4.tcp_slow_start_after_idle";
    facts.key(name).filter(|on| *on > 0)?;
    let message = "1: a client that was idle is sent ten packets at first, however fast its path is";
    note(name, message.into(), &format!("sysctl -w {name}=0"))
}

fn time_wait(facts: &Facts, clients: u64) -> Option<Advice> {
    let name = "net.ipv4.tcp_max_tw_buckets";
    let most = facts.key(name).filter(|most| *most < clients)?;
    let wait = facts.key("net.ipv4.tcp_fin_timeout").unwrap_or(60);
    let message = format!(
        "{}: of {} clients closed by a drain, the others skip TIME_WAIT (tcp_fin_timeout is {wait} s); harmless \
         but for the log line",
        count(most),
        count(clients)
    );
    note(name, message, &format!("sysctl -w {name}={clients}"))
}

fn own_port(facts: &Facts, config: &Config) -> Option<Advice> {
    let [low, high] = facts.keys.get("net.ipv4.ip_local_port_range")?.get(..)? else { return None };
    let port = config.http_server.port;
    let inside = (*low..=*high).contains(&u64::from(port));
    let message = format!("{low} to {high} includes http_server.port: an outgoing connection may hold it at a start");
    let command = format!("sysctl -w net.ipv4.ip_local_reserved_ports={port}");
    if inside { note("net.ipv4.ip_local_port_range", message, &command) } else { None }
}

fn in_use(facts: &Facts) -> Option<Advice> {
    const MANY: u64 = 1000;
    let open = facts.tcp_sockets.filter(|open| *open >= MANY)?;
    let message = format!("{} are open: their memory, files and table entries count as taken", count(open));
    note("TCP sockets", message, "run it when the server is empty for the whole host's figure")
}
