//! What a server spends: asked of its processes on this host, of its metrics pages, and of this host's kernel, at three
//! moments of a run.
//!
//! `process` reads /proc of a pid, `page` a metrics page, `kernel` what the kernel keeps. Sums are made of processes
//! and of pages, never across: both may be of the same server. Never knows what the server was asked to do.

pub mod kernel;
pub mod page;
pub mod process;

use std::sync::Arc;

use rustls::ClientConfig;

use kernel::{Growth, Kernel};
use page::Page;

/// What is known of a process, or the sum of several.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    pub cpu_seconds: f64,
    pub rss_bytes: u64,
    /// None = whoever was asked does not tell.
    pub private_bytes: Option<u64>,
    pub switches: Option<Switches>,
}

/// Context switches of all threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Switches {
    pub voluntary: u64,
    pub involuntary: u64,
}

impl Cost {
    fn plus(self, other: Self) -> Self {
        let switches = |(mine, theirs): (Switches, Switches)| Switches {
            voluntary: mine.voluntary + theirs.voluntary,
            involuntary: mine.involuntary + theirs.involuntary,
        };
        Self {
            cpu_seconds: self.cpu_seconds + other.cpu_seconds,
            rss_bytes: self.rss_bytes + other.rss_bytes,
            private_bytes: self.private_bytes.zip(other.private_bytes).map(|(mine, theirs)| mine + theirs),
            switches: self.switches.zip(other.switches).map(switches),
        }
    }
}

/// The sum of what was read; None = nobody was asked, an error = the first that did not answer.
type Sum = Option<Result<Cost, String>>;

fn sum(costs: impl Iterator<Item = Result<Cost, String>>) -> Sum {
    costs.reduce(|sum, cost| Ok(sum?.plus(cost?)))
}

/// Where to look.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    pids: Vec<u32>,
    pages: Vec<Page>,
    /// The server is on this host, so this host's kernel keeps its end of each connection, too.
    is_here: bool,
}

/// One look.
#[derive(Clone, Debug)]
pub struct Look {
    processes: Sum,
    pages: Sum,
    kernel: Option<Kernel>,
}

impl Watch {
    /// The processes with these ids and the pages at these URLs, of a target that is on this host or is not. `tls` is for
    /// pages that have it.
    pub fn new(
        pids: &[u32],
        urls: &[String],
        target_is_here: bool,
        tls: Option<&Arc<ClientConfig>>,
    ) -> Result<Self, String> {
        let pages = urls.iter().map(|url| Page::parse(url, tls)).collect::<Result<_, _>>()?;
        Ok(Self { pids: pids.to_vec(), pages, is_here: target_is_here || !pids.is_empty() })
    }

    pub fn look(&self) -> Look {
        let is_asked = !self.pids.is_empty() || !self.pages.is_empty();
        Look {
            processes: sum(self.pids.iter().map(|pid| process::read(*pid))),
            pages: sum(self.pages.iter().map(Page::read)),
            kernel: is_asked.then(Kernel::read),
        }
    }

    /// What happened between three looks: before the first connection, with everyone connected, and at the end of
    /// play. `clients` were connected at the second.
    pub fn spent(&self, before: Look, connected: Look, played: Look, clients: u64) -> Spent {
        let costs = |before: Sum, connected: Sum, played: Sum| {
            let looks = before.zip(connected).zip(played);
            looks.map(|((before, connected), played)| {
                Ok(Costs { before: before?, connected: connected?, played: played?, clients })
            })
        };
        let kernel = before.kernel.zip(connected.kernel).map(|(before, connected)| {
            let elsewhere = "the server is on another host, and its kernel cannot be asked from here";
            if self.is_here { connected.growth(&before, clients) } else { Growth::unknown(elsewhere) }
        });
        Spent {
            processes: costs(before.processes, connected.processes, played.processes),
            pages: costs(before.pages, connected.pages, played.pages),
            kernel,
        }
    }
}

impl Look {
    /// What could not be read, if anything that was asked for could not.
    pub fn fault(&self) -> Option<&str> {
        [&self.processes, &self.pages].into_iter().flatten().find_map(|sum| sum.as_ref().err().map(String::as_str))
    }
}

/// All that is known about the server's costs after a run; None = it was not asked for.
#[derive(Clone, Debug, Default)]
pub struct Spent {
    pub processes: Option<Result<Costs, String>>,
    pub pages: Option<Result<Costs, String>>,
    pub kernel: Option<Growth>,
}

/// The costs at the moments that matter.
#[derive(Clone, Copy, Debug, Default)]
pub struct Costs {
    /// Before the first connection.
    pub before: Cost,
    /// With everyone connected, before anyone speaks.
    pub connected: Cost,
    /// When the scenario had played.
    pub played: Cost,
    /// How many everyone were.
    pub clients: u64,
}

impl Costs {
    fn each(&self, before: u64, connected: u64) -> Option<f64> {
        (self.clients > 0).then(|| (connected as f64 - before as f64) / self.clients as f64)
    }

    /// Resident bytes that each client added.
    pub fn rss_each(&self) -> Option<f64> {
        self.each(self.before.rss_bytes, self.connected.rss_bytes)
    }

    /// Private bytes that each client added.
    pub fn private_each(&self) -> Option<f64> {
        self.each(self.before.private_bytes?, self.connected.private_bytes?)
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

    /// Context switches while the scenario played.
    pub fn switches(&self) -> Option<Switches> {
        let (before, after) = (self.connected.switches?, self.played.switches?);
        Some(Switches {
            voluntary: after.voluntary.saturating_sub(before.voluntary),
            involuntary: after.involuntary.saturating_sub(before.involuntary),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(cpu_seconds: f64, rss_bytes: u64, private_bytes: Option<u64>) -> Cost {
        Cost { cpu_seconds, rss_bytes, private_bytes, switches: None }
    }

    #[test]
    fn costs_are_shared_out() {
        let before = cost(0.0, 0, Some(0));
        let connected = cost(1.0, 400_000, Some(200_000));
        let played = cost(3.0, 400_000, Some(200_000));
        let costs = Costs { before, connected, played, clients: 1000 };
        assert_eq!((costs.rss_each(), costs.private_each()), (Some(400.0), Some(200.0)));
        assert_eq!(costs.cpu_seconds_per_million(4_000_000), Some(0.5));
        assert_eq!((costs.connect_cpu_seconds(), costs.switches()), (1.0, None));
        assert_eq!(Costs { clients: 0, ..costs }.rss_each(), None);
    }

    #[test]
    fn a_sum_knows_only_what_all_tell() {
        let all = |costs: &[Result<Cost, String>]| sum(costs.iter().cloned());
        let (one, other) = (cost(1.0, 10, Some(5)), cost(2.0, 20, None));
        assert_eq!(all(&[]), None);
        assert_eq!(all(&[Ok(one), Ok(one)]), Some(Ok(cost(2.0, 20, Some(10)))));
        assert_eq!(all(&[Ok(one), Ok(other)]), Some(Ok(cost(3.0, 30, None))));
        assert_eq!(all(&[Ok(one), Err("gone".to_owned()), Ok(other)]), Some(Err("gone".to_owned())));
    }

    #[test]
    fn only_a_kernel_that_has_the_servers_end_is_asked() {
        let this = std::process::id();
        let spent = |pids: &[u32], is_here| {
            let watch = Watch::new(pids, &[], is_here, None).expect("a watch");
            watch.spent(watch.look(), watch.look(), watch.look(), 10)
        };
        assert!(spent(&[], true).kernel.is_none(), "nobody asked for costs");
        assert!(spent(&[this], false).kernel.expect("asked").tcp_bytes.is_some(), "a process here is a server here");
        let page = "http://127.0.0.1:1/metrics".to_owned();
        let watch = Watch::new(&[], &[page], false, None).expect("a watch");
        let look = watch.look();
        assert!(look.fault().is_some_and(|fault| fault.contains("127.0.0.1:1")), "{look:?}");
        let spent = watch.spent(look.clone(), look.clone(), look, 10);
        let kernel = spent.kernel.expect("asked");
        assert!(kernel.slabs.is_err_and(|why| why.contains("another host")) && kernel.tcp_bytes.is_none());
    }
}
