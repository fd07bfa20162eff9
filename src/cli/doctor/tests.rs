//! The doctor on hosts that do not exist: trees of files written for each test, and read as a host's.

use super::*;
use std::fs;
use std::path::PathBuf;

const LIMITS: &str =
    "Limit   Soft Limit   Hard Limit   Units\nMax open files            1024                 20000    files\n";
const MEMINFO: &str = "MemTotal: 24000000 kB\nMemFree: 1 kB\nMemAvailable:   22000000 kB\nSwapTotal:       0 kB\n";

/// A tree that is gone when the test ends.
struct Host(PathBuf);

impl Host {
    /// A usual one: 20,000 descriptors, 24 GB, two CPUs.
    fn new(name: &str) -> Host {
        let host = Host(std::env::temp_dir().join(format!("gannet-doctor-{}-{name}", std::process::id())));
        host.with("proc/self/limits", LIMITS)
            .with("proc/meminfo", MEMINFO)
            .with("proc/self/cgroup", "0::/\n")
            .with("proc/sys/kernel/osrelease", "6.1.0-18-amd64\n")
            .with("proc/sys/fs/nr_open", "1048576\n")
            .with("proc/sys/fs/file-max", "9223372036854775807\n")
            .with("proc/sys/fs/file-nr", "824\t0\t9223372036854775807\n")
            .with("proc/sys/net/core/somaxconn", "4096\n")
            .with("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n")
            .with("proc/sys/net/ipv4/tcp_mem", "287898\t383867\t575796\n")
            .with("sys/devices/system/cpu/online", "0-1\n")
            .with("sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc\n");
        host
    }

    fn with(&self, path: &str, text: &str) -> &Host {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn facts(&self, pid: Option<u32>) -> Facts {
        Facts::read(&FactSource { root: &self.0, pid, page_bytes: 4096 })
    }

    fn judge(&self, clients: Option<u64>, config: &Config) -> Report {
        judge(&self.facts(None), config, &Question { clients, ..Question::default() })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn limit<'a>(report: &'a Report, name: &str) -> &'a HostLimit {
    report.limits.iter().find(|limit| limit.name == name).unwrap_or_else(|| panic!("{name}: {:?}", report.limits))
}

fn warned(report: &Report, about: &str) -> bool {
    report.warnings.iter().any(|warning| warning.about == about)
}

#[test]
fn the_lowest_limit_binds_and_its_command_lifts_it() {
    let host = Host::new("binds");
    let report = host.judge(None, &Config::default());
    // 20,000 less 64 and 8 for each of 2 reactors, less a sixteenth for HTTP.
    assert_eq!((report.clients, report.binds.as_str()), (18_675, "RLIMIT_NOFILE (hard)"));
    assert!(report.fits && report.wanted.is_none());
    assert!(limit(&report, "RLIMIT_NOFILE (hard)").lift.starts_with("LimitNOFILE=65536 (the unit) or "));
    assert_eq!(limit(&report, "fs.nr_open").lift, "", "there is room");
    let sorted: Vec<u64> = report.limits.iter().map(|limit| limit.clients).collect();
    assert!(sorted.is_sorted(), "{sorted:?}");

    let million = host.judge(Some(1_000_000), &Config::default());
    assert!(!million.fits);
    assert!(limit(&million, "RLIMIT_NOFILE (hard)").lift.starts_with("LimitNOFILE=1048576 "));
    let more = host.judge(Some(2_000_000), &Config::default());
    let lift = &limit(&more, "RLIMIT_NOFILE (hard)").lift;
    assert!(lift.starts_with("sysctl -w fs.nr_open=2097152; then LimitNOFILE=2097152 "), "{lift}");
    assert_eq!(limit(&more, "fs.nr_open").lift, "sysctl -w fs.nr_open=2097152");
}

#[test]
fn the_configuration_says_how_many_are_wanted() {
    let host = Host::new("configured");
    let mut config = Config::default();
    config.client.connection_limit = 18_000;
    assert!(host.judge(None, &config).fits);
    config.client.connection_limit = 18_676;
    let report = host.judge(None, &config);
    assert_eq!((report.fits, report.wanted), (false, Some(18_676)));
    config.client.connection_limit = 100;
    let asked = host.judge(Some(200), &config);
    assert_eq!((asked.fits, asked.binds.as_str()), (false, "client.connection_limit"));
}

#[test]
fn memory_counts_what_is_available_and_what_the_group_may_have() {
    let host = Host::new("memory");
    host.with("proc/self/limits", "Max open files unlimited unlimited files\n");
    host.with("proc/sys/fs/nr_open", "1073741816\n");
    let report = host.judge(None, &Config::default());
    assert_eq!((report.binds.as_str(), report.clients), ("memory", (22_000_000 - 1_200_000) * 1024 / 5500));

    // The tightest of the group and those above it; memory.high counts as well as memory.max.
    host.with("proc/self/cgroup", "0::/system.slice/gannet.service\n")
        .with("sys/fs/cgroup/system.slice/gannet.service/memory.max", "max\n")
        .with("sys/fs/cgroup/system.slice/gannet.service/memory.high", "2147483648\n")
        .with("sys/fs/cgroup/system.slice/memory.max", "1073741824\n");
    let report = host.judge(Some(1_000_000), &Config::default());
    let found = limit(&report, "control group's memory");
    assert_eq!(found.clients, (1073741824 - 1073741824 / 20) / 5500);
    assert!(found.why.contains("1.0 GiB in /sys/fs/cgroup/system.slice/memory.max"), "{}", found.why);
    assert!(found.lift.starts_with("MemoryMax=5522M "), "{}", found.lift);

    // Version 1 writes a large number for no limit.
    host.with("proc/self/cgroup", "4:memory:/box\n3:cpu,cpuacct:/box\n")
        .with("sys/fs/cgroup/memory/box/memory.limit_in_bytes", "9223372036854771712\n")
        .with("sys/fs/cgroup/cpu/box/cpu.cfs_quota_us", "150000\n")
        .with("sys/fs/cgroup/cpu/box/cpu.cfs_period_us", "100000\n");
    let facts = host.facts(None);
    assert_eq!((facts.cgroup_memory, facts.cpu_quota_milli), (None, Some(1500)));
    let mut config = Config::default();
    config.overload.memory_limit = 400_000;
    assert_eq!(host.judge(None, &config).binds, "overload.memory_limit");
}

#[test]
fn what_binds_under_a_condition_only_does_not_decide() {
    let host = Host::new("conditions");
    let (max, now) = ("proc/sys/net/netfilter/nf_conntrack_max", "proc/sys/net/netfilter/nf_conntrack_count");
    host.with(max, "1000\n").with(now, "0\n");
    let report = host.judge(Some(18_000), &Config::default());
    assert!(report.fits);
    for name in ["net.netfilter.nf_conntrack_max", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_mem"] {
        assert!(!limit(&report, name).only_if.is_empty(), "{name}");
    }
    // A table with entries is in use.
    host.with(now, "10\n");
    let report = host.judge(Some(18_000), &Config::default());
    assert_eq!((report.fits, report.clients), (false, 990));
    assert!(report.limits[0].lift.starts_with("sysctl -w net.netfilter.nf_conntrack_max=65536; or "));
}

#[test]
fn a_load_test_on_the_same_host_needs_ports_and_twice_the_memory() {
    let host = Host::new("both-ends");
    let question = Question { clients: Some(100_000), sources: Some(2), ..Question::default() };
    let report = judge(&host.facts(None), &Config::default(), &question);
    let ports = limit(&report, "net.ipv4.ip_local_port_range");
    assert_eq!((ports.clients, ports.only_if.as_str()), (2 * 28_232, ""));
    assert_eq!(ports.lift, "sysctl -w net.ipv4.ip_local_port_range='1024 65535', and source addresses: 2");
    assert_eq!(limit(&report, "memory").clients, (22_000_000 - 1_200_000) * 1024 / 11_000);
}

#[test]
fn a_quiet_host_has_no_warnings_and_a_bad_one_has_them_all() {
    let host = Host::new("warnings");
    assert!(host.judge(None, &Config::default()).warnings.is_empty());
    host.with("proc/sys/kernel/osrelease", "4.4.0\n")
        .with("proc/sys/net/core/somaxconn", "128\n")
        .with("proc/sys/net/core/wmem_max", "1000\n")
        .with("proc/sys/net/ipv4/tcp_max_syn_backlog", "128\n")
        .with("proc/sys/net/ipv4/tcp_syncookies", "0\n")
        .with("proc/sys/net/ipv4/tcp_slow_start_after_idle", "1\n")
        .with("proc/sys/net/ipv4/tcp_max_tw_buckets", "100\n")
        .with("proc/sys/net/ipv4/ip_local_port_range", "1024 65535\n")
        .with("proc/meminfo", &MEMINFO.replace("SwapTotal:       0", "SwapTotal: 1024"))
        .with("proc/net/sockstat", "sockets: used 28\nTCP: inuse 5000 orphan 0 tw 1\n")
        .with("sys/fs/cgroup/cpu.max", "50000 100000\n")
        .with("sys/fs/cgroup/pids.max", "4\n")
        .with("sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never\n")
        .with("sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet\n");
    let mut config = Config::default();
    config.http_server.send_buffer_size = 2000;
    let report = host.judge(None, &config);
    let about = ["kernel", "net.core.somaxconn", "net.ipv4.tcp_max_syn_backlog", "net.core.wmem_max", "CPU", "threads"];
    let rest = ["clock", "transparent huge pages", "swap", "TCP sockets", "net.ipv4.tcp_max_tw_buckets"];
    for name in about.iter().chain(&rest).chain(&["net.ipv4.ip_local_port_range"]) {
        assert!(warned(&report, name), "{name}: {:?}", report.warnings);
    }
    config.reactors = 3;
    host.with("sys/fs/cgroup/cpu.max", "max 100000\n");
    assert!(warned(&host.judge(None, &config), "reactors"));
    host.with("proc/sys/net/ipv4/tcp_syncookies", "1\n").with("proc/sys/kernel/osrelease", "6.1\n");
    assert!(!warned(&host.judge(None, &config), "net.ipv4.tcp_max_syn_backlog"));
}

#[test]
fn steering_by_cpu_wants_a_kernel_cpus_and_packets_on_all_of_them() {
    let host = Host::new("steering");
    let mut config = Config::default();
    config.http_server.steering = "cpu".into();
    let said = |config: &Config| {
        let warnings = host.judge(None, config).warnings;
        warnings.into_iter().find(|warning| warning.about == "http_server.steering").map(|warning| warning.message)
    };
    assert_eq!(said(&config), None, "no card is seen: a container, or clients on this host");
    host.with("sys/class/net/lo/queues/rx-0/rps_cpus", "0\n")
        .with("sys/class/net/eth0/device/vendor", "0x1af4\n")
        .with("sys/class/net/eth0/queues/tx-0/xps_cpus", "0\n")
        .with("sys/class/net/eth0/queues/tx-1/xps_cpus", "0\n")
        .with("sys/class/net/eth0/queues/rx-0/rps_cpus", "0,00000000\n");
    assert!(said(&config).is_some_and(|text| text.contains("queues for 1 of 2 reactors")));
    host.with("sys/class/net/eth0/queues/rx-0/rps_cpus", "0,00000003\n");
    assert_eq!(said(&config), None, "RPS brings them to both");
    host.with("sys/class/net/eth0/queues/rx-0/rps_cpus", "0\n").with("sys/class/net/eth0/queues/rx-1/rps_cpus", "0\n");
    assert_eq!(said(&config), None, "a queue for each");
    config.reactors = 3;
    assert!(said(&config).is_some_and(|text| text.contains("3 have 2: the server cannot start")));
    host.with("proc/sys/kernel/osrelease", "4.5.0\n");
    assert!(said(&config).is_some_and(|text| text.contains("Linux 4.6")));
    assert_eq!(said(&Config { reactors: 3, ..Config::default() }), None, "by hash");
}

#[test]
fn another_process_and_what_cannot_be_read() {
    let host = Host::new("pid");
    host.with("proc/7/limits", "Max open files 5000 50000 files\n");
    assert_eq!((host.facts(Some(7)).nofile_hard, host.facts(Some(8)).nofile_hard), (Some(50_000), None));
    let root = host.0.to_str().unwrap().to_owned();
    let question = Question { pid: Some(8), root, ..Question::default() };
    let error = examine(&question, &Config::default()).unwrap_err();
    assert!(error.starts_with("cannot read ") && error.contains("/proc/8/limits: "), "{error}");
    let unread = host.judge(None, &Config::default()).unread;
    assert!(unread.contains(&"vm.swappiness".into()) && !unread.iter().any(|key| key.contains("conntrack")));
}

#[test]
fn the_text_and_the_json_say_the_same() {
    let host = Host::new("print");
    let root = host.0.to_str().unwrap().to_owned();
    let mut question = Question { clients: Some(1_000_000), root, ..Question::default() };
    let (text, fits) = examine(&question, &Config::default()).unwrap();
    assert!(!fits);
    let parts = [
        "Linux 6.1.0-18-amd64, 2 CPUs, 22.8 GiB of memory\n",
        "1,000,000 clients do not fit: there is room for 18,675.\nWhat binds first: RLIMIT_NOFILE (hard).\n",
        "      18,675  RLIMIT_NOFILE (hard)           20,000 descriptors for this shell",
        "    no limit  fs.file-max ",
        "if all clients have bytes waiting at the same moment\n",
        "For 1,000,000 clients:\n  RLIMIT_NOFILE (hard)           LimitNOFILE=1048576 (the unit)",
        "could not be read, so not judged: fs.epoll.max_user_watches, ",
    ];
    for part in parts {
        assert!(text.contains(part), "{part}\n{text}");
    }
    question.json = true;
    let (json, _) = examine(&question, &Config::default()).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["clients"], &json["fits"]), (&18_675.into(), &false.into()));
    assert_eq!((&json["binds"], &json["limits"][0]["clients"]), (&"RLIMIT_NOFILE (hard)".into(), &18_675.into()));
}

#[test]
fn numbers_are_written_for_people() {
    let counts = [(0, "0"), (999, "999"), (1000, "1,000"), (1_000_000, "1,000,000")];
    counts.iter().for_each(|(number, text)| assert_eq!(print::count(*number), *text));
    let sizes =
        [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5_500_000_000, "5.1 GiB"), (u64::MAX, "16383.9 PiB")];
    sizes.iter().for_each(|(number, text)| assert_eq!(print::bytes(*number), *text));
}
