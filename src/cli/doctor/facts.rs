//! F11 · What a host says of itself: kernel keys, limits, memory, control groups, clock.
//!
//! Owns where each of these is found below a root directory, so that a test (or a container with the host's /proc
//! mounted) gives another one. Only reads; what cannot be read is `None`. Never judges a value.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The kernel keys that are looked at.
const KEYS: &[&str] = &[
    "fs.epoll.max_user_watches",
    "fs.file-max",
    "fs.file-nr",
    "fs.nr_open",
    "net.core.netdev_max_backlog",
    "net.core.rmem_max",
    "net.core.somaxconn",
    "net.core.wmem_max",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_max_syn_backlog",
    "net.ipv4.tcp_max_tw_buckets",
    "net.ipv4.tcp_mem",
    "net.ipv4.tcp_slow_start_after_idle",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_tw_reuse",
    "net.netfilter.nf_conntrack_count",
    "net.netfilter.nf_conntrack_max",
    "vm.swappiness",
];

/// Control groups know no greater number than this; version 1 writes it, a little rounded, for "no limit".
const CGROUP_UNLIMITED: u64 = 1 << 60;

/// Where to read, and about which process: `None` is this one.
#[derive(Debug)]
pub struct FactSource<'a> {
    pub root: &'a Path,
    pub pid: Option<u32>,
    pub page_bytes: u64,
}

/// A number and the file that says it.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    pub value: u64,
    pub file: String,
}

#[derive(Debug, Default, Clone)]
pub struct Facts {
    /// Of the process whose limits these are; `None` = of this shell's children.
    pub pid: Option<u32>,
    /// As uname has it: 6.1.0-18-amd64.
    pub kernel: Option<String>,
    pub cpus: Option<u64>,
    /// Thousandths of a CPU that the control group allows.
    pub cpu_quota_milli: Option<u64>,
    pub page_bytes: u64,
    pub memory_total: Option<u64>,
    pub memory_available: Option<u64>,
    pub swap_total: Option<u64>,
    pub cgroup_memory: Option<Reading>,
    pub cgroup_pids: Option<Reading>,
    /// Descriptors of a process; `u64::MAX` = unlimited.
    pub nofile_hard: Option<u64>,
    pub clocksource: Option<String>,
    /// The word in brackets: always, madvise or never.
    pub huge_pages: Option<String>,
    /// TCP sockets open now, in this network namespace.
    pub tcp_sockets: Option<u64>,
    /// Receive queues of the card that has most; `u64::MAX` = RPS spreads its packets. `None`: no card is seen.
    pub receive_queues: Option<u64>,
    pub keys: BTreeMap<String, Vec<u64>>,
}

impl Facts {
    pub fn read(source: &FactSource) -> Facts {
        let at = |path: &str| fs::read_to_string(source.root.join(path)).ok();
        let process = source.pid.map_or("self".to_owned(), |pid| pid.to_string());
        let memory = at("proc/meminfo").unwrap_or_default();
        let groups = Groups { root: source.root, text: at(&format!("proc/{process}/cgroup")).unwrap_or_default() };
        let trimmed = |path: &str| at(path).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        Facts {
            pid: source.pid,
            kernel: trimmed("proc/sys/kernel/osrelease"),
            cpus: at("sys/devices/system/cpu/online").and_then(|text| count_cpus(&text)),
            cpu_quota_milli: groups.cpu_quota_milli(),
            page_bytes: source.page_bytes,
            memory_total: kib(&memory, "MemTotal:"),
            memory_available: kib(&memory, "MemAvailable:"),
            swap_total: kib(&memory, "SwapTotal:"),
            cgroup_memory: groups.lowest("memory", &["memory.max", "memory.high", "memory.limit_in_bytes"]),
            cgroup_pids: groups.lowest("pids", &["pids.max"]),
            nofile_hard: at(&format!("proc/{process}/limits")).and_then(|text| nofile_hard(&text)),
            clocksource: trimmed("sys/devices/system/clocksource/clocksource0/current_clocksource"),
            huge_pages: at("sys/kernel/mm/transparent_hugepage/enabled").and_then(|text| bracketed(&text)),
            tcp_sockets: at("proc/net/sockstat").and_then(|text| tcp_sockets(&text)),
            receive_queues: receive_queues(&source.root.join("sys/class/net")),
            keys: KEYS.iter().filter_map(|key| Some((key.to_string(), read_key(source.root, key)?))).collect(),
        }
    }

    /// The first number of a key.
    pub fn key(&self, name: &str) -> Option<u64> {
        self.keys.get(name)?.first().copied()
    }

    /// Reactors that the server would start: 0 = one for each CPU it may use.
    pub fn reactors(&self, configured: usize) -> u64 {
        let cpus = self.cpus.unwrap_or(1);
        match configured {
            0 => self.cpu_quota_milli.map_or(cpus, |quota| cpus.min((quota / 1000).max(1))),
            set => set as u64,
        }
    }

    /// Two numbers: the major and the minor one.
    pub fn kernel_version(&self) -> Option<(u32, u32)> {
        let mut numbers = self.kernel.as_ref()?.split(|c: char| !c.is_ascii_digit()).map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    }

    /// The keys that every kernel has and this one did not tell.
    pub fn unread(&self) -> Vec<String> {
        // Loaded as a module, or not at all.
        let optional = |key: &str| key.starts_with("net.netfilter.");
        let missing = KEYS.iter().filter(|key| !optional(key) && !self.keys.contains_key(**key));
        missing.map(|key| key.to_string()).collect()
    }
}

fn read_key(root: &Path, key: &str) -> Option<Vec<u64>> {
    let text = fs::read_to_string(root.join("proc/sys").join(key.replace('.', "/"))).ok()?;
    let numbers: Vec<u64> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    (!numbers.is_empty()).then_some(numbers)
}

/// A line of /proc/meminfo, in bytes.
fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
}

fn nofile_hard(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().nth(1)? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

fn bracketed(text: &str) -> Option<String> {
    Some(text.split_once('[')?.1.split_once(']')?.0.to_owned())
}

fn tcp_sockets(sockstat: &str) -> Option<u64> {
    let line = sockstat.lines().find_map(|line| line.strip_prefix("TCP: inuse "))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Of cards that stand for a device: loopback, bridges and the like have none.
fn receive_queues(cards: &Path) -> Option<u64> {
    let names = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let cards = names(cards).filter(|card| card.join("device").exists());
    let of_card = cards.map(|card| {
        let queues = names(&card.join("queues")).filter(|queue| queue.to_string_lossy().contains("/rx-"));
        let spread = |queue: PathBuf| {
            let mask = fs::read_to_string(queue.join("rps_cpus")).unwrap_or_default();
            mask.chars().any(|digit| digit.is_ascii_hexdigit() && digit != '0')
        };
        queues.fold(0, |count: u64, queue| if spread(queue) { u64::MAX } else { count.saturating_add(1) })
    });
    of_card.max().filter(|most| *most > 0)
}

/// `0-3,8` is five.
fn count_cpus(list: &str) -> Option<u64> {
    let span = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        last.parse::<u64>().ok()?.checked_sub(first.parse().ok()?)?.checked_add(1)
    };
    list.trim().split(',').map(span).sum()
}

/// The control groups of the process, of both versions, each with those above it: the tightest limit counts.
struct Groups<'a> {
    root: &'a Path,
    /// /proc/PID/cgroup: lines of number, controllers and path.
    text: String,
}

impl Groups<'_> {
    fn folders(&self, controller: &str) -> Vec<PathBuf> {
        let mount = self.root.join("sys/fs/cgroup");
        let mut folders = Vec::new();
        for line in self.text.lines() {
            let mut parts = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
            let bases = match controllers {
                "" => vec![mount.clone(), mount.join("unified")],
                named if named.split(',').any(|one| one == controller) => vec![mount.join(controller)],
                _ => continue,
            };
            let inside = Path::new(path.trim_start_matches('/'));
            // A container may see its own group as the root: what is not there is passed over.
            folders.extend(bases.iter().flat_map(|base| inside.ancestors().map(|part| base.join(part))));
        }
        folders
    }

    fn lowest(&self, controller: &str, files: &[&str]) -> Option<Reading> {
        let paths = self.folders(controller).into_iter().flat_map(|folder| files.iter().map(move |f| folder.join(f)));
        let found = paths.filter_map(|path| {
            let value = fs::read_to_string(&path).ok()?.trim().parse().ok().filter(|v| *v < CGROUP_UNLIMITED)?;
            Some(Reading { value, file: self.shown(&path) })
        });
        found.min_by_key(|found| found.value)
    }

    /// The path as the host has it, whatever the root is.
    fn shown(&self, path: &Path) -> String {
        let path = path.strip_prefix(self.root).unwrap_or(path);
        format!("/{}", path.display()).replace("//", "/")
    }

    fn cpu_quota_milli(&self) -> Option<u64> {
        let number = |path: PathBuf| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
        let quotas = self.folders("cpu").into_iter().filter_map(|folder| {
            let (quota, period) = match fs::read_to_string(folder.join("cpu.max")) {
                Ok(text) => {
                    let (quota, period) = text.trim().split_once(' ')?;
                    (quota.parse::<u64>().ok()?, period.parse().ok()?)
                }
                // Version 1 says -1 for none, which is no number here.
                Err(_) => (number(folder.join("cpu.cfs_quota_us"))?, number(folder.join("cpu.cfs_period_us"))?),
            };
            quota.checked_mul(1000)?.checked_div(period)
        });
        quotas.min()
    }
}
