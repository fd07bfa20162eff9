//! A million WebSocket clients on this machine, both ends: connected, subscribed, pinged, published to, drained.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use gannet_bench::machine;
use gannet_bench::million::clients::{self, Share};
use gannet_bench::million::crowd::Crowd;
use gannet_bench::million::kernel::{Kernel, tcp};
use gannet_bench::million::nodes::{Nodes, Settings, memory_of};
use gannet_bench::million::now_ns;
use gannet_bench::million::plan::Plan;
use gannet_bench::million::report::{Connecting, Delivering, Draining, Held, Idle, Report};

/// Hold a million clients, publish once to all, drain
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Flags {
    #[command(subcommand)]
    part: Option<Part>,
    /// Clients
    #[arg(long, default_value_t = 1_000_000)]
    clients: usize,
    /// 40,000 clients, and no file written
    #[arg(long)]
    quick: bool,
    /// The gannet program [default: beside this program]
    #[arg(long)]
    gannet: Option<PathBuf>,
    /// Server processes [default: what the descriptors allowed to a process ask for]
    #[arg(long)]
    servers: Option<usize>,
    #[command(flatten)]
    settings: Settings,
    /// Bytes of the publication's data
    #[arg(long, default_value_t = 128)]
    payload: usize,
    /// Seconds to watch the servers do nothing but ping
    #[arg(long, default_value_t = 30)]
    idle: u64,
    /// Seconds in which all must have connected, and in which each later part must be over
    #[arg(long, default_value_t = 600)]
    limit: u64,
    /// Folder for million.json
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
    let idle = run.idle(Duration::from_secs(flags.idle.max(1)))?;
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

fn run(flags: &Flags) -> io::Result<bool> {
    let descriptors = machine::raise_descriptors()?;
    let clients = if flags.quick { 40_000 } else { flags.clients };
    let plan = Plan::new(clients, descriptors, flags.servers);
    eprintln!("{}", plan.describe());
    for (name, fit) in plan.limits() {
        eprintln!("        {name}: room for {fit}");
    }
    plan.check()?;
    let report = measure(flags, plan)?;
    report.print();
    if !flags.quick {
        fs::create_dir_all(&flags.results)?;
        let path = flags.results.join("million.json");
        fs::write(&path, format!("{:#}\n", report.json()))?;
        println!("written to {}", path.display());
    }
    if !report.is_whole() {
        println!("NOT WHOLE: {} lost; {}", report.draining.status.lost, report.draining.status.why);
    }
    Ok(report.is_whole())
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
