//! What a server process spends, read from /proc: processor time, memory, context switches.
//!
//! Never knows what the server was asked to do.

use std::fs;
use std::io;

use rustix::param::clock_ticks_per_second;

/// One look at a process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    pub cpu_seconds: f64,
    /// Resident and private bytes, from smaps_rollup.
    pub rss_bytes: u64,
    pub private_bytes: u64,
    /// Of all threads.
    pub voluntary_switches: u64,
    pub involuntary_switches: u64,
}

impl Cost {
    pub fn read(pid: u32) -> io::Result<Self> {
        let wrong = || io::Error::other(format!("process {pid}: /proc is not as expected"));
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let ticks = cpu_ticks(&stat).ok_or_else(wrong)?;
        let smaps = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let mut cost = Self {
            cpu_seconds: ticks as f64 / clock_ticks_per_second() as f64,
            rss_bytes: kilobytes(&smaps, "Rss:").ok_or_else(wrong)? * 1024,
            private_bytes: (kilobytes(&smaps, "Private_Clean:").ok_or_else(wrong)?
                + kilobytes(&smaps, "Private_Dirty:").ok_or_else(wrong)?)
                * 1024,
            ..Self::default()
        };
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            // A thread may end between the listing and the look.
            let Ok(status) = fs::read_to_string(task?.path().join("status")) else { continue };
            cost.voluntary_switches += kilobytes(&status, "voluntary_ctxt_switches:").unwrap_or(0);
            cost.involuntary_switches += kilobytes(&status, "nonvoluntary_ctxt_switches:").unwrap_or(0);
        }
        Ok(cost)
    }
}

/// Processor seconds this process has used.
pub fn own_cpu_seconds() -> io::Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let ticks = cpu_ticks(&stat).ok_or_else(|| io::Error::other("/proc/self/stat is not as expected"))?;
    Ok(ticks as f64 / clock_ticks_per_second() as f64)
}

/// User and system time: fields 14 and 15, counted behind the name, which may hold spaces.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

/// The number behind `name` at the start of a line.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Looks at the moments that matter.
#[derive(Clone, Copy, Debug, Default)]
pub struct Costs {
    /// Before the first connection.
    pub before: Cost,
    /// With everyone connected, before anyone speaks.
    pub connected: Cost,
    /// When the scenario had played.
    pub played: Cost,
}

impl Costs {
    /// Resident and private bytes each of `clients` added.
    pub fn bytes_per_client(&self, clients: u64) -> Option<(f64, f64)> {
        let grown = |before: u64, after: u64| (after as f64 - before as f64) / clients as f64;
        (clients > 0).then(|| {
            (
                grown(self.before.rss_bytes, self.connected.rss_bytes),
                grown(self.before.private_bytes, self.connected.private_bytes),
            )
        })
    }

    pub fn connect_cpu_seconds(&self) -> f64 {
        self.connected.cpu_seconds - self.before.cpu_seconds
    }

    pub fn play_cpu_seconds(&self) -> f64 {
        self.played.cpu_seconds - self.connected.cpu_seconds
    }

    /// Processor seconds for each million of `messages` in and out.
    pub fn cpu_seconds_per_million(&self, messages: u64) -> Option<f64> {
        (messages > 0).then(|| self.play_cpu_seconds() / (messages as f64 / 1e6))
    }

    pub fn switches(&self) -> (u64, u64) {
        (
            self.played.voluntary_switches.saturating_sub(self.connected.voluntary_switches),
            self.played.involuntary_switches.saturating_sub(self.connected.involuntary_switches),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_does_not_shift_the_fields() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 4 0 12345 1000000 500";
        assert_eq!(cpu_ticks(stat), Some(300));
    }

    #[test]
    fn this_process_has_a_cost() {
        let cost = Cost::read(std::process::id()).expect("readable");
        assert!(cost.rss_bytes >= cost.private_bytes && cost.private_bytes > 0, "{cost:?}");
        assert!(cost.voluntary_switches + cost.involuntary_switches > 0, "{cost:?}");
    }

    #[test]
    fn costs_are_shared_out() {
        let mut costs = Costs::default();
        costs.connected = Cost { cpu_seconds: 1.0, rss_bytes: 400_000, private_bytes: 200_000, ..costs.before };
        costs.played = Cost { cpu_seconds: 3.0, ..costs.connected };
        assert_eq!(costs.bytes_per_client(1000), Some((400.0, 200.0)));
        assert_eq!(costs.cpu_seconds_per_million(4_000_000), Some(0.5));
        assert_eq!(costs.bytes_per_client(0), None);
    }
}
