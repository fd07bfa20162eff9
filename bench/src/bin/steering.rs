//! Connections spread by hash beside connections steered to the reactor on their CPU: the server's CPU time per echo.
//!
//! Every core has a reactor and a loader, and a loader stays on its core: on loopback the packets it sends arrive there,
//! as those of a network card's queue arrive at the core of its interrupt. By hash about half of the clients (of two
//! cores) are served by a reactor elsewhere; steered, none is.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use clap::Parser;
use gannet_bench::account::settled_cpu_ns;
use gannet_bench::echo::Echo;
use gannet_bench::figures::{Bound, Load, Spread, histogram, now_unix, print_table, write_result};
use gannet_bench::machine;
use gannet_bench::server::{Place, Server};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};
use serde_json::{Value, json};

const EXAMPLES: &str = "\
Each repetition runs all ways one after the other, each with a fresh server, beginning with
another one each time. A ratio is to the hash of the same repetition, whose reactors go where the
scheduler puts them. A steered server pins its reactors to their cores; \"hash, pinned\" is hashed,
with reactors that this program pins, and tells what the pinning alone does.

Examples:
  steering                                 1,000 clients on cores 0 and 1; about a minute
  steering --repetitions 9 --clients 10000
  steering --quick --clients 50            does it work? no figures

A result is written to bench/results/. Ends with 2 if the run failed.";

/// Measure http_server.steering = cpu beside hash
#[derive(Debug, Parser)]
#[command(after_help = EXAMPLES)]
struct Flags {
    /// The gannet program [default: beside this program]
    #[arg(long)]
    gannet: Option<PathBuf>,
    /// Cores, each with a reactor and a loader
    #[arg(long, value_delimiter = ',', default_value = "0,1")]
    cores: Vec<usize>,
    /// Clients of all loaders together
    #[arg(long, default_value_t = 1000)]
    clients: usize,
    /// Echoes of all loaders together
    #[arg(long, default_value_t = 400_000)]
    messages: u64,
    /// Bytes of a message
    #[arg(long, default_value_t = 128)]
    size: usize,
    /// Interleaved repetitions
    #[arg(long, default_value_t = 5)]
    repetitions: usize,
    /// A tenth of the messages and no result file: to see that it works, not for figures
    #[arg(long)]
    quick: bool,
    /// Folder for the JSON result
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/results"))]
    results: PathBuf,
}

/// A way to spread connections.
#[derive(Clone, Copy, Debug)]
struct Way {
    name: &'static str,
    /// The value of the option.
    steering: &'static str,
    /// Its reactors are pinned from here.
    pinned: bool,
}

/// The first is what the others are compared with.
const WAYS: [Way; 3] = [
    Way { name: "hash", steering: "hash", pinned: false },
    Way { name: "hash, pinned", steering: "hash", pinned: true },
    Way { name: "cpu", steering: "cpu", pinned: false },
];

/// One way in one repetition.
struct Sample {
    cpu_us: f64,
    busy: f64,
    rate: f64,
    p50_us: f64,
    p99_us: f64,
    /// For each loader, how many of its connections each reactor has.
    shares: Vec<Vec<u64>>,
}

impl Sample {
    fn of(load: &Load, cpu_ns: u64, shares: Vec<Vec<u64>>) -> Self {
        let (units, wall) = (load.units as f64, load.wall.as_secs_f64());
        Self {
            cpu_us: cpu_ns as f64 / 1e3 / units,
            busy: cpu_ns as f64 / 1e9 / wall,
            rate: units / wall,
            p50_us: load.latency.value_at_quantile(0.5) as f64 / 1e3,
            p99_us: load.latency.value_at_quantile(0.99) as f64 / 1e3,
            shares,
        }
    }

    /// The part of all connections that each reactor has, of 1.
    fn balance(&self) -> Vec<f64> {
        let of_reactor = |reactor: usize| self.shares.iter().map(|loader| loader[reactor]).sum::<u64>() as f64;
        (0..self.shares.len()).map(|reactor| of_reactor(reactor) / self.connections()).collect()
    }

    /// The part of the connections whose loader and reactor have the same number, of 1.
    fn at_home(&self) -> f64 {
        self.shares.iter().enumerate().map(|(at, loader)| loader[at]).sum::<u64>() as f64 / self.connections()
    }

    fn connections(&self) -> f64 {
        self.shares.iter().flatten().sum::<u64>() as f64
    }
}

/// A loader on a thread of its own: it opens its clients, warms up, says so, and runs when told.
struct Loader {
    open: Receiver<io::Result<()>>,
    go: Sender<Bound>,
    thread: thread::JoinHandle<io::Result<Load>>,
}

impl Loader {
    fn start(core: usize, port: u16, clients: usize, size: usize, warm_up: Bound) -> Self {
        let (tell, open) = channel();
        let (go, told) = channel();
        let thread = thread::spawn(move || {
            let ready = || -> io::Result<Echo> {
                machine::pin(core)?;
                let mut echo = Echo::open(port, clients, size)?;
                echo.run(warm_up)?;
                Ok(echo)
            };
            let (said, echo) = match ready() {
                Ok(echo) => (Ok(()), Some(echo)),
                Err(error) => (Err(error), None),
            };
            let gone = || io::Error::other("the run was given up");
            tell.send(said).map_err(|_| gone())?;
            let bound = told.recv().map_err(|_| gone())?;
            echo.ok_or_else(gone)?.run(bound)
        });
        Self { open, go, thread }
    }

    /// Waits until its clients are open and warm.
    fn opened(&self) -> io::Result<()> {
        self.open.recv().map_err(io::Error::other)?
    }
}

/// The connections of each reactor, as the server tells.
fn connections(port: u16, reactors: usize) -> io::Result<Vec<u64>> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    let of_reactor = |reactor: usize| {
        let series = format!("gannet_reactor_connections{{reactor=\"{reactor}\"}} ");
        let value = page.lines().find_map(|line| line.strip_prefix(&series)?.trim().parse().ok());
        value.ok_or_else(|| io::Error::other(format!("no {series}in the metrics")))
    };
    (0..reactors).map(of_reactor).collect()
}

/// The same, once those that asked whether the server is ready have been closed.
fn at_rest(port: u16, reactors: usize) -> io::Result<Vec<u64>> {
    for _ in 0..100 {
        let now = connections(port, reactors)?;
        if now.iter().all(|count| *count == 0) {
            return Ok(now);
        }
        thread::sleep(Duration::from_millis(10));
    }
    Err(io::Error::other("the server has connections that nobody made"))
}

/// Keeps each reactor of the server on its core.
fn pin_reactors(pid: u32, cores: &[usize]) -> io::Result<()> {
    let mut pinned = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?.path();
        let name = std::fs::read_to_string(task.join("comm"))?;
        let reactor = name.trim().strip_prefix("reactor-").and_then(|number| number.parse::<usize>().ok());
        let id = task.file_name().and_then(|id| id.to_str()?.parse().ok()).and_then(Pid::from_raw);
        let (Some(core), Some(id)) = (reactor.and_then(|reactor| cores.get(reactor)), id) else { continue };
        let mut set = CpuSet::new();
        set.set(*core);
        sched_setaffinity(Some(id), &set)?;
        pinned += 1;
    }
    if pinned == cores.len() { Ok(()) } else { Err(io::Error::other(format!("{pinned} reactors were found"))) }
}

fn measure(flags: &Flags, way: Way) -> io::Result<Sample> {
    let place = Place { gannet: flags.gannet.clone(), server_core: flags.cores[0], loader_core: flags.cores[0] };
    let options = ["--echo.enabled", "--prometheus.enabled", "--http_server.steering", way.steering];
    let server = Server::start_on(&flags.cores, &place, &options)?;
    let count = flags.cores.len();
    let messages = if flags.quick { flags.messages / 10 } else { flags.messages };
    let bound = Bound { units: messages / count as u64, time: Duration::from_secs(if flags.quick { 1 } else { 10 }) };
    let (mut loaders, mut shares, mut before) = (Vec::new(), Vec::new(), at_rest(server.port, count)?);
    if way.pinned {
        pin_reactors(server.pid(), &flags.cores)?;
    }
    for (at, core) in flags.cores.iter().enumerate() {
        let clients = flags.clients / count + usize::from(at < flags.clients % count);
        let warm_up = Bound { units: (bound.units / 5).max(2 * clients as u64), time: bound.time / 5 };
        let loader = Loader::start(*core, server.port, clients, flags.size, warm_up);
        loader.opened()?;
        let now = connections(server.port, count)?;
        shares.push(now.iter().zip(&before).map(|(now, before)| now.saturating_sub(*before)).collect::<Vec<_>>());
        before = now;
        loaders.push(loader);
    }
    let before = settled_cpu_ns(server.pid())?;
    loaders.iter().try_for_each(|loader| loader.go.send(bound)).map_err(io::Error::other)?;
    let mut all = Load { units: 0, bytes: 0, wall: Duration::ZERO, latency: histogram()? };
    for loader in loaders {
        let load = loader.thread.join().map_err(|_| io::Error::other("a loader panicked"))??;
        (all.units, all.bytes, all.wall) = (all.units + load.units, all.bytes + load.bytes, all.wall.max(load.wall));
        all.latency.add(&load.latency).map_err(io::Error::other)?;
    }
    let after = settled_cpu_ns(server.pid())?;
    Ok(Sample::of(&all, after - before, shares))
}

/// All samples of one way, by repetition, and those of the hash beside them.
struct Row<'a> {
    way: &'static str,
    samples: &'a [Sample],
    hash: &'a [Sample],
}

impl Row<'_> {
    fn spread(&self, figure: impl Fn(&Sample) -> f64) -> io::Result<Spread> {
        Spread::of_repetitions(self.samples.iter().map(figure))
    }

    /// To the hash of the same repetition.
    fn ratio(&self, figure: impl Fn(&Sample) -> f64) -> io::Result<Spread> {
        let pairs = self.samples.iter().zip(self.hash);
        Spread::of_repetitions(pairs.map(|(own, hash)| figure(own) / figure(hash)))
    }

    fn cells(&self) -> io::Result<Vec<String>> {
        let count = self.samples.first().map_or(0, |sample| sample.shares.len());
        let share = |reactor: usize| Ok(self.spread(|sample| 100.0 * sample.balance()[reactor])?.median);
        let shares = (0..count).map(share).collect::<io::Result<Vec<f64>>>()?;
        let shares = shares.iter().map(|share| format!("{share:.0}")).collect::<Vec<_>>().join("/");
        Ok(vec![
            self.way.to_owned(),
            format!("{:.3}", self.spread(|sample| sample.cpu_us)?.median),
            self.ratio(|sample| sample.cpu_us)?.to_string(),
            format!("{:.0}", self.spread(|sample| 100.0 * sample.busy)?.median),
            format!("{:.0}", self.spread(|sample| sample.rate)?.median),
            format!("{:.0}", self.spread(|sample| sample.p50_us)?.median),
            format!("{:.0}", self.spread(|sample| sample.p99_us)?.median),
            self.ratio(|sample| sample.p99_us)?.to_string(),
            shares,
            format!("{:.0}", self.spread(|sample| 100.0 * sample.at_home())?.median),
        ])
    }

    fn json(&self) -> io::Result<Value> {
        let all = |figure: fn(&Sample) -> f64| self.samples.iter().map(figure).collect::<Vec<f64>>();
        let ratio = |figure: fn(&Sample) -> f64| {
            self.ratio(figure).map(|ratio| json!({"median": ratio.median, "min": ratio.min, "max": ratio.max}))
        };
        Ok(json!({
            "steering": self.way,
            "cpu_us": all(|sample| sample.cpu_us),
            "ratio": ratio(|sample| sample.cpu_us)?,
            "busy": all(|sample| sample.busy),
            "per_second": all(|sample| sample.rate),
            "p50_us": all(|sample| sample.p50_us),
            "p50_ratio": ratio(|sample| sample.p50_us)?,
            "p99_us": all(|sample| sample.p99_us),
            "p99_ratio": ratio(|sample| sample.p99_us)?,
            "at_home": all(Sample::at_home),
            "connections_of_loaders_by_reactor": self.samples.iter().map(|sample| &sample.shares).collect::<Vec<_>>(),
        }))
    }
}

const HEAD: [&str; 10] = [
    "steering",
    "CPU us",
    "x hash (min..max)",
    "busy %",
    "per s",
    "p50 us",
    "p99 us",
    "p99 x hash (min..max)",
    "by reactor %",
    "own CPU %",
];

fn run(flags: &Flags) -> io::Result<()> {
    let count = flags.cores.len();
    if count < 2 || flags.clients < count || !flags.cores.is_sorted_by(|a, b| a < b) {
        return Err(io::Error::other("it takes two cores or more, in rising order, and a client for each"));
    }
    machine::raise_descriptors()?;
    let mut samples = WAYS.map(|_| Vec::new());
    for repetition in 1..=flags.repetitions {
        for turn in 0..WAYS.len() {
            let at = (repetition + turn) % WAYS.len();
            let sample = measure(flags, WAYS[at])?;
            eprintln!("repetition {repetition}, {}: {:.3} us", WAYS[at].name, sample.cpu_us);
            samples[at].push(sample);
        }
    }
    let [hash, ..] = &samples;
    let rows = WAYS.iter().zip(&samples).map(|(way, samples)| Row { way: way.name, samples, hash });
    let rows = rows.collect::<Vec<_>>();
    println!(
        "{} repetitions, {} clients, messages of {} bytes, cores {:?}, each with a reactor and a loader; medians",
        flags.repetitions, flags.clients, flags.size, flags.cores
    );
    print_table(&HEAD, &rows.iter().map(Row::cells).collect::<io::Result<Vec<_>>>()?);
    let result = json!({
        "at_unix": now_unix(), "machine": machine::describe(), "repetitions": flags.repetitions, "cores": flags.cores,
        "clients": flags.clients, "messages": flags.messages, "message_bytes": flags.size,
        "rows": rows.iter().map(Row::json).collect::<io::Result<Vec<_>>>()?,
    });
    if !flags.quick {
        println!("written to {}", write_result(&flags.results, "steering", &result)?.display());
    }
    Ok(())
}

fn main() -> ExitCode {
    match run(&Flags::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("steering: {error}");
            ExitCode::from(2)
        }
    }
}
