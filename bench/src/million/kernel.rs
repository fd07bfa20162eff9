//! What the kernel keeps: slabs by name, memory left, sockets in TIME_WAIT.

use std::collections::BTreeMap;
use std::fs;

/// Slabs in which sockets, and what hangs on them, lie; beginnings of names.
const OF_SOCKETS: [&str; 12] = [
    "TCP",
    "sock_inode",
    "dentry",
    "filp",
    "eventpoll",
    "tcp_bind",
    "lsm_",
    "security",
    "skbuff",
    "kmalloc",
    "tw_sock_TCP",
    "request_sock_TCP",
];

const PAGE: u64 = 4096;

/// Bytes at one moment.
#[derive(Clone, Debug, Default)]
pub struct Kernel {
    /// Pages of each slab; empty if they may not be read.
    slabs: BTreeMap<String, u64>,
    pub available: u64,
}

impl Kernel {
    pub fn read() -> Self {
        let text = fs::read_to_string("/proc/slabinfo").unwrap_or_default();
        Self { slabs: text.lines().filter_map(slab).collect(), available: meminfo("MemAvailable:").unwrap_or_default() }
    }

    /// Growth since `before` of the slabs of sockets: bytes for each of `count`, largest first, below 4 left out.
    pub fn growth(&self, before: &Self, count: u64) -> Vec<(String, f64)> {
        let each = |(name, bytes): (&String, &u64)| {
            let grown = *bytes as f64 - before.slabs.get(name).copied().unwrap_or_default() as f64;
            (name.clone(), grown / count as f64)
        };
        let ours = |(name, _): &(&String, &u64)| OF_SOCKETS.iter().any(|start| name.starts_with(start));
        let mut grown: Vec<(String, f64)> =
            self.slabs.iter().filter(ours).map(each).filter(|(_, bytes)| *bytes >= 4.0).collect();
        grown.sort_by(|a, b| b.1.total_cmp(&a.1));
        grown
    }

    /// Bytes of all slabs of sockets.
    pub fn of_sockets(&self) -> u64 {
        let ours = |(name, _): &(&String, &u64)| OF_SOCKETS.iter().any(|start| name.starts_with(start));
        self.slabs.iter().filter(ours).map(|(_, bytes)| bytes).sum()
    }

    /// Bytes for each of `count` by which the inodes of /proc grew: a program that lists the descriptors of others
    /// makes one for each socket, and a dentry.
    pub fn scanned(&self, before: &Self, count: u64) -> f64 {
        let bytes = |kernel: &Self| kernel.slabs.get("proc_inode_cache").copied().unwrap_or_default() as f64;
        (bytes(self) - bytes(before)) / count as f64
    }
}

/// Name and bytes: `name active objects size per_slab pages_per_slab : tunables ... : slabdata active slabs ...`.
fn slab(line: &str) -> Option<(String, u64)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(((*fields.first()?).to_owned(), number(14)? * number(5)? * PAGE))
}

/// A line of /proc/meminfo, in bytes.
pub fn meminfo(key: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// A number of the TCP line of /proc/net/sockstat: `tw` (sockets in TIME_WAIT), `orphan` (closed by their process, not
/// by the peer yet) or `mem` (pages of data that waits).
pub fn tcp(key: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/net/sockstat").ok()?;
    let mut words = text.lines().find_map(|line| line.strip_prefix("TCP:"))?.split_whitespace();
    words.find(|word| *word == key)?;
    words.next()?.parse().ok()
}

/// The first number in a file of /proc/sys.
pub fn key(path: &str) -> Option<u64> {
    fs::read_to_string(format!("/proc/sys/{path}")).ok()?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slab_is_its_pages() {
        let line = "TCP 105 117 2368 13 8 : tunables 0 0 0 : slabdata 9 9 0";
        assert_eq!(slab(line), Some(("TCP".to_owned(), 9 * 8 * PAGE)));
        assert_eq!(slab("slabinfo - version: 2.1"), None);
    }
}
