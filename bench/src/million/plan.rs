//! How many processes so many clients take, and whether they fit on this machine.

use std::io;
use std::thread::available_parallelism;

use super::kernel::{key, meminfo};

/// Bytes of kernel and user memory for a connection, both ends: two sockets at 4.7 KB, and the server's own part.
const BYTES_EACH: u64 = 10_200;

/// Bytes of a pair of processes, one of servers and one of clients, without clients.
const BYTES_PAIR: u64 = 12 << 20;

/// Descriptors a process needs for itself.
const OWN: u64 = 150;

/// Of what a server process may hold, the part that it is planned for: the kernel's shares differ by 2%.
const EVEN: f64 = 0.93;

/// Handshakes under way at a time, over all client processes.
const OPENING: usize = 2048;

#[derive(Clone, Debug)]
pub struct Plan {
    pub clients: usize,
    /// Descriptors allowed to a process.
    pub descriptors: u64,
    pub servers: usize,
    /// Reactors of each server process.
    pub reactors: usize,
    /// Client processes.
    pub crews: usize,
    /// Handshakes under way at a time, of each client process.
    pub opening: usize,
}

impl Plan {
    pub fn new(clients: usize, descriptors: u64, servers: Option<usize>) -> Self {
        let cores = available_parallelism().map_or(1, usize::from);
        let room = descriptors.saturating_sub(OWN).max(1);
        let servers = servers.unwrap_or_else(|| clients.div_ceil((room as f64 * EVEN) as usize)).max(1);
        let crews = clients.div_ceil(room as usize).max(cores);
        Self {
            clients,
            descriptors,
            servers,
            reactors: (cores / servers).max(1),
            crews,
            opening: (OPENING / crews).max(1),
        }
    }

    /// Clients of each client process.
    pub fn shares(&self) -> Vec<usize> {
        let (each, more) = (self.clients / self.crews, self.clients % self.crews);
        (0..self.crews).map(|at| each + usize::from(at < more)).collect()
    }

    /// In a sentence.
    pub fn describe(&self) -> String {
        let why = match self.servers {
            1 => "one server process".to_owned(),
            many => format!("{many} server processes on one port (SO_REUSEPORT)"),
        };
        format!(
            "{} clients: {why} with {} reactor{} each, {} client processes; {} descriptors are allowed to a process",
            self.clients,
            self.reactors,
            if self.reactors == 1 { "" } else { "s" },
            self.crews,
            self.descriptors
        )
    }

    /// What limits the clients here, and how many each limit allows.
    pub fn limits(&self) -> Vec<(&'static str, u64)> {
        let memory = meminfo("MemAvailable:").unwrap_or_default();
        let processes = (self.servers.max(self.crews) as u64) * BYTES_PAIR;
        let files = key("fs/file-max").unwrap_or(u64::MAX);
        let open = key("fs/file-nr").unwrap_or_default();
        vec![
            ("memory", memory.saturating_sub(processes) / BYTES_EACH),
            ("fs.file-max", files.saturating_sub(open + self.servers as u64 * 64) / 2),
            ("fs.epoll.max_user_watches", key("fs/epoll/max_user_watches").unwrap_or(u64::MAX) / 2),
            ("descriptors of a server process", self.servers as u64 * self.descriptors.saturating_sub(OWN)),
        ]
    }

    /// How many clients fit, or why so many do not.
    pub fn check(&self) -> io::Result<u64> {
        let (name, fit) = self.limits().into_iter().min_by_key(|(_, fit)| *fit).unwrap_or(("nothing", 0));
        match fit >= self.clients as u64 {
            true => Ok(fit),
            false => Err(io::Error::other(format!("{fit} clients fit here, {} were asked for: {name}", self.clients))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_stay_below_their_descriptors() {
        let plan = Plan::new(1_000_000, 20_000, None);
        assert_eq!(plan.servers, 55);
        assert!(1_000_000 / plan.servers * 103 / 100 < 19_850, "3% above the mean fits");
        assert!(plan.shares().iter().all(|share| *share <= 19_850));
        assert_eq!(plan.shares().iter().sum::<usize>(), 1_000_000);
        assert_eq!(Plan::new(1_000_000, 2_000_000, None).servers, 1);
    }
}
