//! What the kernel of this host keeps for connections: slabs by name, and pages of data that waits in TCP's buffers.
//!
//! The kernel does not say whose an object is. Where both ends of a connection are on this host, what has grown is of
//! both. Never knows which process a socket belongs to.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;

use rustix::param::page_size;

const SLABS: &str = "/proc/slabinfo";

/// Slabs in which sockets lie, and what hangs on them; beginnings of names. Inodes of /proc are left out: they are of
/// who looks.
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

/// A slab that grew by less for each client is noise.
const EACH_MIN: f64 = 4.0;

/// The kernel at one moment.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Bytes of each slab, or why they are not known.
    slabs: Result<BTreeMap<String, u64>, String>,
    tcp_bytes: Option<u64>,
}

/// What has come since an earlier moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Growth {
    /// Bytes for each client by slab, largest first, or why they are not known.
    pub slabs: Result<Vec<(String, f64)>, String>,
    /// Data that waits in TCP's buffers, of all sockets of this host, at the later moment.
    pub tcp_bytes: Option<u64>,
    /// What of it each client added.
    pub tcp_each: Option<f64>,
}

impl Kernel {
    pub fn read() -> Self {
        let slabs = match fs::read_to_string(SLABS) {
            Ok(text) => Ok(text.lines().filter_map(slab).collect()),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(format!("{SLABS} needs root ({error})")),
            Err(error) => Err(format!("{SLABS}: {error}")),
        };
        let sockets = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
        Self { slabs, tcp_bytes: tcp_pages(&sockets).map(|pages| pages * page_size() as u64) }
    }

    /// What has come since `before`, for each of `clients`.
    pub fn growth(&self, before: &Self, clients: u64) -> Growth {
        let each = |before: u64, now: u64| (now as f64 - before as f64) / clients.max(1) as f64;
        let slabs = match (&before.slabs, &self.slabs) {
            (Err(why), _) | (_, Err(why)) => Err(why.clone()),
            _ if clients == 0 => Err("nobody was connected".to_owned()),
            (Ok(before), Ok(now)) => {
                let ours = now.iter().filter(|(name, _)| OF_SOCKETS.iter().any(|start| name.starts_with(start)));
                let grown = ours
                    .map(|(name, bytes)| (name.clone(), each(before.get(name).copied().unwrap_or_default(), *bytes)));
                let mut grown: Vec<_> = grown.filter(|(_, bytes)| *bytes >= EACH_MIN).collect();
                grown.sort_by(|a, b| b.1.total_cmp(&a.1));
                Ok(grown)
            }
        };
        let tcp_each = before.tcp_bytes.zip(self.tcp_bytes).filter(|_| clients > 0);
        Growth { slabs, tcp_bytes: self.tcp_bytes, tcp_each: tcp_each.map(|(before, now)| each(before, now)) }
    }
}

impl Growth {
    /// Nothing is known, and why.
    pub fn unknown(why: &str) -> Self {
        Self { slabs: Err(why.to_owned()), tcp_bytes: None, tcp_each: None }
    }

    /// Bytes of all slabs for each client.
    pub fn slabs_each(&self) -> Option<f64> {
        Some(self.slabs.as_ref().ok()?.iter().map(|(_, bytes)| bytes).sum())
    }
}

/// Name and bytes of `name active objects size per_slab pages_per_slab : tunables ... : slabdata active slabs ...`.
fn slab(line: &str) -> Option<(String, u64)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(((*fields.first()?).to_owned(), number(14)? * number(5)? * page_size() as u64))
}

/// `mem` in the line of TCP: pages.
fn tcp_pages(sockstat: &str) -> Option<u64> {
    let mut words = sockstat.lines().find_map(|line| line.strip_prefix("TCP:"))?.split_whitespace();
    words.find(|word| *word == "mem")?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(lines: &[&str], tcp_bytes: u64) -> Kernel {
        Kernel { slabs: Ok(lines.iter().filter_map(|line| slab(line)).collect()), tcp_bytes: Some(tcp_bytes) }
    }

    #[test]
    fn a_slab_is_its_pages() {
        let page = page_size() as u64;
        let line = "TCP 105 117 2368 13 8 : tunables 0 0 0 : slabdata 9 9 0";
        assert_eq!(slab(line), Some(("TCP".to_owned(), 9 * 8 * page)));
        for line in ["slabinfo - version: 2.1", "# name <active_objs> <num_objs>", ""] {
            assert_eq!(slab(line), None, "{line}");
        }
    }

    #[test]
    fn what_sockets_added_largest_first() {
        let before = kernel(
            &[
                "TCP 1 1 2368 13 8 : tunables 0 0 0 : slabdata 1 1 0",
                "dentry 1 1 192 21 1 : tunables 0 0 0 : slabdata 50 50 0",
                "proc_inode_cache 1 1 700 21 1 : tunables 0 0 0 : slabdata 1 1 0",
            ],
            4096,
        );
        let now = kernel(
            &[
                "TCP 1 1 2368 13 8 : tunables 0 0 0 : slabdata 6 6 0",
                "dentry 1 1 192 21 1 : tunables 0 0 0 : slabdata 49 49 0",
                "filp 1 1 192 21 2 : tunables 0 0 0 : slabdata 30 30 0",
                "proc_inode_cache 1 1 700 21 1 : tunables 0 0 0 : slabdata 900 900 0",
            ],
            8192,
        );
        let page = page_size() as f64;
        let growth = now.growth(&before, 10);
        assert_eq!(growth.slabs, Ok(vec![("filp".to_owned(), 6.0 * page), ("TCP".to_owned(), 4.0 * page)]));
        assert_eq!(growth.slabs_each(), Some(10.0 * page));
        assert_eq!((growth.tcp_bytes, growth.tcp_each), (Some(8192), Some(409.6)));
        assert!(now.growth(&before, 0).slabs.is_err());
    }

    #[test]
    fn what_may_not_be_read_has_a_reason() {
        let closed = Kernel { slabs: Err("needs root".to_owned()), tcp_bytes: Some(0) };
        let growth = closed.growth(&closed, 10);
        assert_eq!((growth.slabs.clone(), growth.slabs_each()), (Err("needs root".to_owned()), None));
        assert_eq!(growth.tcp_each, Some(0.0));
    }

    #[test]
    fn sockstat_tells_pages_that_wait() {
        let text = "sockets: used 12\nTCP: inuse 1 orphan 0 tw 13 alloc 1 mem 7\nUDP: inuse 0 mem 2\n";
        assert_eq!(tcp_pages(text), Some(7));
        assert_eq!(tcp_pages("UDP: inuse 0 mem 2\n"), None);
    }
}
