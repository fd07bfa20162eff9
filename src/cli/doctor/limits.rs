//! F11 · How many clients each limit of a host allows, and the command that lifts it.
//!
//! Owns the arithmetic: what one client takes of descriptors, memory, table entries. Pure: facts and configuration
//! in, limits out. Never reads a file and never prints.

use serde::Serialize;

use super::facts::Facts;
use super::print::{bytes, count};
use crate::config::Config;
use crate::server::{CLIENT_BYTES, Room};

/// Of these the server's own, which is what `overload.memory_limit` counts.
const CLIENT_RESIDENT_BYTES: u64 = 400;
/// Open files that the rest of the host may want in the meantime.
const FILES_RESERVED: u64 = 4096;
/// Memory that is left to everything else: one part in so many.
const MEMORY_RESERVED_PART: u64 = 20;

/// One limit.
#[derive(Debug, Clone, Serialize)]
pub struct HostLimit {
    pub name: String,
    pub clients: u64,
    pub why: String,
    /// What makes room for the clients wanted. Empty: there is room.
    pub lift: String,
    /// Empty: it holds always. Otherwise it binds only under this condition, and does not decide.
    pub only_if: String,
}

/// What the limits are asked about.
#[derive(Debug, Clone, Copy)]
pub struct Scenario<'a> {
    pub facts: &'a Facts,
    pub config: &'a Config,
    /// The host runs the load test's clients too, from so many source addresses.
    pub sources: Option<u64>,
    /// The clients that `lift` shall make room for.
    pub target: u64,
}

/// All limits that are known, the tightest first.
pub fn limits(ask: Scenario) -> Vec<HostLimit> {
    let each = [
        descriptors(ask),
        descriptors_ceiling(ask),
        files(ask),
        watches(ask),
        memory(ask),
        group_memory(ask),
        own_memory(ask),
        own_limit(ask),
        conntrack(ask),
        ports(ask),
        buffers(ask),
    ];
    let mut all: Vec<HostLimit> = each.into_iter().flatten().collect();
    for limit in all.iter_mut().filter(|limit| limit.clients >= ask.target) {
        limit.lift.clear();
    }
    all.sort_by_key(|limit| limit.clients);
    all
}

fn limit(name: &str, clients: u64, why: String, lift: String) -> Option<HostLimit> {
    Some(HostLimit { name: name.into(), clients, why, lift, only_if: String::new() })
}

impl Scenario<'_> {
    /// Ends of a connection that are on this host.
    fn ends(&self) -> u64 {
        if self.sources.is_some() { 2 } else { 1 }
    }

    /// Descriptors for neither clients nor plain HTTP.
    fn reserved(&self) -> u64 {
        Room::reserved(self.config, self.reactors()) as u64
    }

    fn reactors(&self) -> usize {
        self.facts.reactors(self.config.reactors) as usize
    }

    /// Clients that so many descriptors leave room for.
    fn clients_of(&self, open: u64) -> u64 {
        let open = usize::try_from(open).unwrap_or(usize::MAX);
        Room::share(open, self.config, self.reactors()).clients as u64
    }

    /// Descriptors that suffice for the target.
    fn descriptors(&self) -> u64 {
        let http = self.config.http_server.service_connection_limit as u64;
        Scenario::round(self.target.saturating_add(self.reserved() + http))
    }

    /// A round number of descriptors, files or entries that suffices for so many.
    fn round(wanted: u64) -> u64 {
        wanted.max(1 << 16).next_power_of_two()
    }

    fn sysctl(key: &str, value: u64) -> String {
        format!("sysctl -w {key}={value}")
    }
}

fn descriptors(ask: Scenario) -> Option<HostLimit> {
    let open = ask.facts.nofile_hard?;
    let clients = ask.clients_of(open);
    let wanted = ask.descriptors();
    let whose = ask.facts.pid.map_or("this shell (--pid: a server)".into(), |pid| format!("process {pid}"));
    let why = match open {
        u64::MAX => format!("unlimited for {whose}"),
        _ => format!("{} descriptors for {whose}, {} not for clients", count(open), count(open - clients)),
    };
    let places = [("LimitNOFILE=", "the unit"), ("--ulimit nofile=", "docker run"), ("ulimit -n ", "a root shell")];
    let mut lift = places.map(|(command, place)| format!("{command}{wanted} ({place})")).join(" or ");
    if ask.facts.key("fs.nr_open").is_some_and(|most| most < wanted) {
        lift = format!("{}; then {lift}", Scenario::sysctl("fs.nr_open", wanted));
    }
    limit("RLIMIT_NOFILE (hard)", clients, why, lift)
}

fn descriptors_ceiling(ask: Scenario) -> Option<HostLimit> {
    let open = ask.facts.key("fs.nr_open")?;
    let why = format!("the highest LimitNOFILE there can be: {}", count(open));
    limit("fs.nr_open", ask.clients_of(open), why, Scenario::sysctl("fs.nr_open", ask.descriptors()))
}

fn files(ask: Scenario) -> Option<HostLimit> {
    let most = ask.facts.key("fs.file-max")?;
    let used = ask.facts.key("fs.file-nr").unwrap_or(0);
    let why = format!("open files of the host: {}, {} in use now", count(most), count(used));
    let taken = used.saturating_add(FILES_RESERVED);
    let wanted = Scenario::round(ask.target.saturating_mul(ask.ends()).saturating_add(taken));
    limit("fs.file-max", most.saturating_sub(taken) / ask.ends(), why, Scenario::sysctl("fs.file-max", wanted))
}

fn watches(ask: Scenario) -> Option<HostLimit> {
    let name = "fs.epoll.max_user_watches";
    let most = ask.facts.key(name)?;
    let why = format!("sockets that one user may watch: {}", count(most));
    let wanted = Scenario::round(ask.target.saturating_mul(ask.ends()));
    limit(name, most / ask.ends(), why, Scenario::sysctl(name, wanted))
}

fn memory(ask: Scenario) -> Option<HostLimit> {
    let total = ask.facts.memory_total?;
    let free = ask.facts.memory_available?;
    let each = CLIENT_BYTES * ask.ends();
    let room = free.saturating_sub(total / MEMORY_RESERVED_PART);
    let why =
        format!("{} of {} available now, less a twentieth; {} bytes a client", bytes(free), bytes(total), count(each));
    let lift = format!("more memory: {} for {} clients", bytes(ask.target.saturating_mul(each)), count(ask.target));
    limit("memory", room / each, why, lift)
}

fn group_memory(ask: Scenario) -> Option<HostLimit> {
    let found = ask.facts.cgroup_memory.as_ref()?;
    let each = CLIENT_BYTES * ask.ends();
    let room = found.value - found.value / MEMORY_RESERVED_PART;
    let why = format!("{} in {}; sockets' kernel memory counts too", bytes(found.value), found.file);
    let need = ask.target.saturating_mul(each);
    let wanted = need.saturating_add(need / (MEMORY_RESERVED_PART - 1)).div_ceil(1 << 20);
    let lift = format!("MemoryMax={wanted}M in the unit (and MemoryHigh); in a container: --memory {wanted}m");
    limit("control group's memory", room / each, why, lift)
}

fn own_memory(ask: Scenario) -> Option<HostLimit> {
    let most = ask.config.overload.memory_limit as u64;
    if most == 0 {
        return None;
    }
    let why = format!("{} for the process; {CLIENT_RESIDENT_BYTES} of a client's bytes are its own", bytes(most));
    let wanted = ask.target.saturating_mul(CLIENT_RESIDENT_BYTES).div_ceil(1 << 20);
    let lift = format!("overload.memory_limit = \"{wanted}MiB\" or more, or 0, in the configuration");
    limit("overload.memory_limit", most / CLIENT_RESIDENT_BYTES, why, lift)
}

fn own_limit(ask: Scenario) -> Option<HostLimit> {
    let most = ask.config.client.connection_limit as u64;
    if most == 0 {
        return None;
    }
    let lift = format!("client.connection_limit = {}, or 0, in the configuration", ask.target);
    limit("client.connection_limit", most, "the configuration says so".into(), lift)
}

fn conntrack(ask: Scenario) -> Option<HostLimit> {
    let name = "net.netfilter.nf_conntrack_max";
    let most = ask.facts.key(name)?;
    let used = ask.facts.key("net.netfilter.nf_conntrack_count").unwrap_or(0);
    let why = format!("connections that the firewall remembers: {}, {} now", count(most), count(used));
    let wanted = Scenario::round(ask.target.saturating_add(used));
    let lift = format!("{}; or do not track the port: tuning/README.md", Scenario::sysctl(name, wanted));
    let mut limit = limit(name, most.saturating_sub(used), why, lift)?;
    if used == 0 {
        limit.only_if = "a rule or NAT makes the kernel track connections; it tracks none now".into();
    }
    Some(limit)
}

fn ports(ask: Scenario) -> Option<HostLimit> {
    let name = "net.ipv4.ip_local_port_range";
    let [low, high] = ask.facts.keys.get(name)?.get(..)? else { return None };
    let ports = high.checked_sub(*low)?.saturating_add(1);
    let sources = ask.sources.unwrap_or(1);
    let why = format!("{} ports a source address; source addresses: {}", count(ports), count(sources));
    const WIDEST: u64 = 65_535 - 1_024 + 1;
    let needed = ask.target.div_ceil(WIDEST);
    let lift = format!("sysctl -w {name}='1024 65535', and source addresses: {needed}");
    let mut limit = limit(name, ports.saturating_mul(sources), why, lift)?;
    if ask.sources.is_none() {
        limit.only_if = "a proxy or a load generator on this host opens the connections".into();
    }
    Some(limit)
}

/// A socket with any byte waiting counts for a page at least.
fn buffers(ask: Scenario) -> Option<HostLimit> {
    let [_, _, most] = ask.facts.keys.get("net.ipv4.tcp_mem")?.get(..)? else { return None };
    let size = bytes(most.saturating_mul(ask.facts.page_bytes));
    let why = format!("{} pages ({size}) of buffers; a socket with bytes takes one or more", count(*most));
    let wanted = ask.target.saturating_mul(ask.ends());
    let (low, high) = (wanted / 4 * 3, wanted / 3 * 4);
    let lift = format!("sysctl -w net.ipv4.tcp_mem='{low} {wanted} {high}'");
    let mut limit = limit("net.ipv4.tcp_mem", most / ask.ends(), why, lift)?;
    limit.only_if = "all clients have bytes waiting at the same moment".into();
    Some(limit)
}
