//! A million WebSocket clients on this machine, both ends: connected, subscribed, pinged, published to, drained.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use gannet_bench::figures::seconds_of;
use gannet_bench::machine;
use gannet_bench::million::clients::{self, Share};
use gannet_bench::million::crowd::Crowd;
use gannet_bench::million::growth::Growth;
use gannet_bench::million::kernel::{Kernel, tcp};
use gannet_bench::million::nodes::{Nodes, Settings, memory_of};
use gannet_bench::million::now_ns;
use gannet_bench::million::plan::Plan;
use gannet_bench::million::report::{Connecting, Delivering, Draining, Held, Idle, Report};
use serde_json::Value;

const EXAMPLES: &str = "\
Examples:
  bench/million                            a million; writes bench/results/million.json
  bench/million --grow 10000,100000,1000000 --ping-interval 60s --pong-timeout 25s
                                           each size, smallest first, with processes of its own;
                                           writes bench/results/growth.json

Ctrl-C ends it and all its processes at any time. Ends with 1 if a client was lost, with 2 if the
run itself failed.";

/// Hold a million clients, publish once to all, drain
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
struct Flags {
    #[command(subcommand)]
    part: Option<Part>,
    /// Clients
    #[arg(long, default_value_t = 1_000_000)]
    clients: usize,
    /// 40,000 clients, and no file written
    #[arg(long)]
    quick: bool,
    /// Measure at these sizes, one after the other, how everything grows
    #[arg(long, value_delimiter = ',', value_name = "SIZES", conflicts_with_all = ["clients", "quick"])]
    grow: Vec<usize>,
    /// Seconds to wait at most before each size, until the sockets of the one before are gone
    #[arg(long, default_value_t = 120)]
    settle: u64,
    /// The gannet program [default: beside this program]
    #[arg(long)]
    gannet: Option<PathBuf>,
    /// Server processes, at each size [default: what the descriptors allowed to a process ask for]
    #[arg(long)]
    servers: Option<usize>,
    #[command(flatten)]
    settings: Settings,
    /// Bytes of the publication's data
    #[arg(long, default_value_t = 128)]
    payload: usize,
    /// Seconds to watch the servers do nothing but ping [default: 30; with --grow one ping interval]
    #[arg(long)]
    idle: Option<u64>,
    /// Seconds in which all must have connected, and in which each later part must be over
    #[arg(long, default_value_t = 600)]
    limit: u64,
    /// Folder for million.json and growth.json
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/results"))]
    results: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// One client process; this program starts them itself
    #[command(hide = true)]
    MillionClients(Share),
}

/// Both sides, running.
struct Run {
    plan: Plan,
    nodes: Nodes,
    crowd: Crowd,
    limit: Duration,
}

impl Run {
    fn start(flags: &Flags, plan: Plan) -> io::Result<Self> {
        let gannet = match &flags.gannet {
            Some(path) => path.clone(),
            None => std::env::current_exe()?.with_file_name("gannet"),
        };
        let nodes = Nodes::start(&plan, &gannet, &flags.settings)?;
        nodes.warm_up()?;
        let crowd = Crowd::start(&plan, nodes.port)?;
        Ok(Self { plan, nodes, crowd, limit: Duration::from_secs(flags.limit) })
    }

    /// Listens, and says each second how far it is, until `done` says so.
    fn until(
        &mut self,
        what: &str,
        step: Duration,
        mut done: impl FnMut(&mut Self) -> io::Result<(u64, bool)>,
    ) -> io::Result<()> {
        let (began, mut said, mut before) = (Instant::now(), Instant::now(), 0);
        loop {
            self.crowd.listen(step)?;
            let (count, over) = done(self)?;
            if over || said.elapsed() >= Duration::from_secs(1) {
                let rate = count.saturating_sub(before) as f64 / said.elapsed().as_secs_f64();
                let time = began.elapsed().as_secs();
                eprintln!("{time:4} s  {what} {count} of {}, {rate:.0}/s", self.plan.clients);
                (said, before) = (Instant::now(), count);
            }
            if over {
                return Ok(());
            }
            if began.elapsed() > self.limit {
                let why = self.crowd.status().why;
                return Err(io::Error::new(io::ErrorKind::TimedOut, format!("{what}: {count} in time; {why}")));
            }
        }
    }

    fn connect(&mut self) -> io::Result<Connecting> {
        let (cpu, began) = (self.nodes.cpu_ns()?, now_ns());
        self.crowd.tell("go")?;
        self.until("connected", Duration::from_millis(100), |run| {
            run.nodes.check()?;
            let status = run.crowd.status();
            let ended = status.lost + status.told_all();
            if ended > 0 {
                return Err(io::Error::other(format!("{ended} clients were not held: {}", status.why)));
            }
            Ok((status.opened, status.opened == run.plan.clients as u64))
        })?;
        let (cpu_ns, status) = (self.nodes.cpu_ns()? - cpu, self.crowd.status());
        let clients = self.nodes.clients()?;
        Ok(Connecting {
            time: Duration::from_nanos(status.opened_at - began),
            cpu_ns,
            failed: status.failed,
            fewest: clients.iter().copied().min().unwrap_or_default(),
            most: clients.iter().copied().max().unwrap_or_default(),
        })
    }

    fn idle(&mut self, time: Duration) -> io::Result<Idle> {
        eprintln!("        watching {} s of pings", time.as_secs());
        let (cpu, pings, began) = (self.nodes.cpu_ns()?, self.crowd.status().pings, Instant::now());
        self.crowd.listen(time)?;
        let cpu_ns = self.nodes.cpu_ns()? - cpu;
        let time = began.elapsed();
        self.nodes.check()?;
        Ok(Idle { time, cpu_ns, pings: self.crowd.status().pings - pings })
    }

    fn deliver(&mut self, payload: usize) -> io::Result<Delivering> {
        let cpu = self.nodes.cpu_ns()?;
        self.nodes.publish(payload)?;
        let mut pages = tcp("mem").unwrap_or_default();
        self.until("delivered", Duration::from_millis(50), |run| {
            pages = pages.max(tcp("mem").unwrap_or_default());
            let status = run.crowd.status();
            Ok((status.pushes, status.pushes + status.lost + status.told_all() >= run.plan.clients as u64))
        })?;
        let cpu_ns = self.nodes.cpu_ns()? - cpu;
        // A delivery too many would come now.
        self.crowd.listen(Duration::from_secs(2))?;
        Ok(Delivering { got: self.crowd.deliveries(self.limit)?, cpu_ns, pages })
    }

    fn drain(&mut self) -> io::Result<Draining> {
        let began = now_ns();
        self.nodes.terminate()?;
        let mut ended = None;
        self.until("told to leave", Duration::from_millis(50), |run| {
            if ended.is_none() && run.nodes.left()? == 0 {
                ended = Some(now_ns() - began);
            }
            let status = run.crowd.status();
            let all = status.told_all() + status.lost == run.plan.clients as u64;
            Ok((status.told_all(), all && ended.is_some()))
        })?;
        let status = self.crowd.status();
        Ok(Draining {
            told: Duration::from_nanos(status.told_at.saturating_sub(began)),
            ended: Duration::from_nanos(ended.unwrap_or_default()),
            status,
            waiting: tcp("tw").unwrap_or_default(),
        })
    }
}

impl Flags {
    /// How long idle servers are watched. At a small size all clients are pinged in the same second, so only a whole
    /// ping interval has each client's ping once.
    fn idle(&self) -> io::Result<Duration> {
        match (self.idle, self.grow.is_empty()) {
            (Some(seconds), _) => Ok(Duration::from_secs(seconds.max(1))),
            (None, true) => Ok(Duration::from_secs(30)),
            (None, false) => {
                let interval =
                    seconds_of(&self.settings.ping_interval).and_then(|s| Duration::try_from_secs_f64(s).ok());
                interval.ok_or_else(|| io::Error::other(format!("{} is no duration", self.settings.ping_interval)))
            }
        }
    }

    fn write(&self, name: &str, result: &Value) -> io::Result<()> {
        fs::create_dir_all(&self.results)?;
        let path = self.results.join(name);
        fs::write(&path, format!("{result:#}\n"))?;
        println!("written to {}", path.display());
        Ok(())
    }
}

fn measure(flags: &Flags, plan: Plan) -> io::Result<Report> {
    let mut run = Run::start(flags, plan)?;
    run.crowd.listen(Duration::from_secs(2))?;
    let (servers, crews) = (run.nodes.pids(), run.crowd.pids());
    let (empty, crews_empty, before) = (memory_of(&servers)?, memory_of(&crews)?, Kernel::read());
    let connecting = run.connect()?;
    run.crowd.listen(Duration::from_secs(3))?;
    let (full, crews_full, after) = (memory_of(&servers)?, memory_of(&crews)?, Kernel::read());
    let held = Held {
        empty,
        full,
        clients_rss: crews_full.rss as i64 - crews_empty.rss as i64,
        slabs: after.growth(&before, run.plan.clients as u64),
        scanned: after.scanned(&before, run.plan.clients as u64),
        available: before.available as i64 - after.available as i64,
    };
    let idle = run.idle(flags.idle()?)?;
    let delivering = run.deliver(flags.payload)?;
    let draining = run.drain()?;
    Ok(Report {
        plan: run.plan.clone(),
        settings: flags.settings.clone(),
        payload: flags.payload,
        connecting,
        held,
        idle,
        delivering,
        draining,
    })
}

/// Says what limits the clients here; an error if they do not fit.
fn announce(plan: &Plan) -> io::Result<()> {
    eprintln!("{}", plan.describe());
    for (name, fit) in plan.limits() {
        eprintln!("        {name}: room for {fit}");
    }
    plan.check().map(|_| ())
}

fn hold(flags: &Flags, descriptors: u64) -> io::Result<bool> {
    let clients = if flags.quick { 40_000 } else { flags.clients };
    let plan = Plan::new(clients, descriptors, flags.servers);
    announce(&plan)?;
    let report = measure(flags, plan)?;
    report.print();
    if !flags.quick {
        flags.write("million.json", &report.json())?;
    }
    if !report.is_whole() {
        println!("NOT WHOLE: {} lost; {}", report.draining.status.lost, report.draining.status.why);
    }
    Ok(report.is_whole())
}

/// Every size has as many server processes as it needs, so that they are about equally full, and one reactor in each:
/// what a process takes beyond its clients then weighs the same at every size.
fn grow(flags: &Flags, descriptors: u64) -> io::Result<bool> {
    let mut sizes = flags.grow.clone();
    sizes.sort_unstable();
    sizes.dedup();
    if sizes.first() == Some(&0) {
        return Err(io::Error::other("a size of 0 clients measures nothing"));
    }
    let plan = |size: &usize| Plan { reactors: 1, ..Plan::new(*size, descriptors, flags.servers) };
    let plans: Vec<Plan> = sizes.iter().map(plan).collect();
    plans.iter().try_for_each(announce)?;
    let mut growth = Growth::new(&sizes);
    for plan in plans {
        let size = plan.clients;
        let calm = growth.settle(Duration::from_secs(flags.settle));
        eprintln!("{}", plan.describe());
        match measure(flags, plan) {
            Ok(report) => {
                report.print();
                growth.add(&report, &calm);
            }
            Err(error) => {
                growth.fail(size, &error);
                if !growth.is_empty() {
                    flags.write("growth.json", &growth.json())?;
                }
                return Err(error);
            }
        }
    }
    growth.print();
    flags.write("growth.json", &growth.json())?;
    Ok(growth.is_whole())
}

fn run(flags: &Flags) -> io::Result<bool> {
    let descriptors = machine::raise_descriptors()?;
    flags.idle()?;
    if flags.grow.is_empty() { hold(flags, descriptors) } else { grow(flags, descriptors) }
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let result = match flags.part {
        Some(Part::MillionClients(share)) => clients::run(share).map(|()| true),
        None => run(&flags),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("million: {error}");
            ExitCode::from(2)
        }
    }
}
