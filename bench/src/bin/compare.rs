//! Gannet beside the floor and its peers: CPU time of the server per message, all in one interleaved run.
//!
//! For each shape of load and each repetition every server is started fresh on its core, warmed up, measured, and ended.
//! A ratio is always to the floor of the same repetition, so a machine that drifts drifts under both.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use gannet_bench::echo::Echo;
use gannet_bench::fanout::Fanout;
use gannet_bench::figures::{Bound, Load, Spread, now_unix, print_table, write_result};
use gannet_bench::fleet::Address;
use gannet_bench::peer::Mode;
use gannet_bench::server::{Kind, Place, Profile, Server, Url};
use gannet_bench::tls::Identity;
use gannet_bench::{handshake, machine};
use rustls::version::TLS13;
use serde_json::{Value, json};

/// Measure Gannet beside a bare epoll floor and its peers
#[derive(Debug, Parser)]
struct Flags {
    #[command(flatten)]
    place: Place,
    /// Servers to measure, all of them by default; the floor is always among them. Those that need a tool the machine
    /// lacks are left out
    #[arg(long, value_enum, value_delimiter = ',', hide_default_value = true, default_values_t = ALL)]
    servers: Vec<Kind>,
    /// All of it over TLS 1.3, by the servers that have it: the floor seals and opens with ring, as Gannet, and makes its
    /// handshakes by rustls alone
    #[arg(long, conflicts_with = "url")]
    tls: bool,
    /// Measure one more server's echo: ws://127.0.0.1:PORT/PATH, already running
    #[arg(long, requires = "pid")]
    url: Option<Url>,
    /// The process id of the server at the url
    #[arg(long, requires = "url")]
    pid: Option<u32>,
    /// Interleaved repetitions; shapes with few clients, where a run is short, have three times as many
    #[arg(long, default_value_t = 5)]
    repetitions: usize,
    /// Only shapes whose name contains this
    #[arg(long)]
    only: Option<String>,
    /// Bytes of an application message
    #[arg(long, default_value_t = 128)]
    size: usize,
    /// A tenth of the messages and no result file: to see that it works, not for figures
    #[arg(long)]
    quick: bool,
    /// Exit with 1 if Gannet exceeds a target
    #[arg(long)]
    check: bool,
    /// Hold Gannet to the tighter targets
    #[arg(long)]
    strict: bool,
    /// Folder for the JSON result
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/results"))]
    results: PathBuf,
}

const ALL: [Kind; 10] = [
    Kind::Floor,
    Kind::Gannet,
    Kind::FloorWide,
    Kind::TokioTungstenite,
    Kind::Fastwebsockets,
    Kind::Ws,
    Kind::Gorilla,
    Kind::Nbio,
    Kind::Centrifugo,
    Kind::Nginx,
];

/// Those that can be measured over TLS.
const SECURE: [Kind; 6] =
    [Kind::Floor, Kind::Gannet, Kind::FloorWide, Kind::TokioTungstenite, Kind::Gorilla, Kind::Nginx];

#[derive(Clone, Copy, Debug)]
enum Shape {
    Echo {
        clients: usize,
    },
    Fanout {
        subscribers: usize,
        burst: usize,
    },
    Handshake,
    /// With the connect command of the client protocol; the floor does without.
    Connect,
}

impl Shape {
    /// True if `kind` can be measured in it.
    fn suits(self, kind: Kind) -> bool {
        match self {
            Shape::Echo { .. } => !matches!(kind, Kind::Centrifugo | Kind::FloorWide),
            Shape::Fanout { .. } => kind != Kind::ByHand,
            Shape::Handshake => !matches!(kind, Kind::Centrifugo | Kind::ByHand | Kind::FloorWide),
            Shape::Connect => matches!(kind, Kind::Floor | Kind::Gannet | Kind::Nginx),
        }
    }

    /// Parts a repetition is cut into, all servers taking turns in each: the shorter the turns, the less a machine that
    /// drifts tells one server from another. Thousands of clients take too long to open for that.
    fn parts(self) -> u64 {
        match self {
            Shape::Echo { clients: count } | Shape::Fanout { subscribers: count, .. } if count > 1000 => 1,
            _ => 3,
        }
    }
}

/// A shape of load, how long it is measured, and what Gannet promises in it.
struct Work {
    name: &'static str,
    shape: Shape,
    units: u64,
    /// Most CPU time, as a multiple of the floor's.
    cpu_target: Option<f64>,
    /// The same with `--strict`.
    strict_target: Option<f64>,
    /// The same over TLS, strict or not.
    tls_target: Option<f64>,
    /// Most p99 latency, as a multiple of p50.
    fairness_target: Option<f64>,
}

impl Work {
    fn target(&self, flags: &Flags) -> Option<f64> {
        match (flags.tls, flags.strict) {
            (true, _) => self.tls_target,
            (false, true) => self.strict_target,
            (false, false) => self.cpu_target,
        }
    }
}

const fn echo(name: &'static str, clients: usize, fairness_target: Option<f64>) -> Work {
    let shape = Shape::Echo { clients };
    let (cpu_target, strict_target, tls_target) = (Some(1.05), Some(1.03), Some(1.25));
    Work { name, shape, units: 200_000, cpu_target, strict_target, tls_target, fairness_target }
}

const fn fan_out(name: &'static str, subscribers: usize, burst: usize) -> Work {
    let shape = Shape::Fanout { subscribers, burst };
    let (units, cpu_target, strict_target) =
        if burst == 1 { (200_000, Some(1.10), Some(1.05)) } else { (3_200_000, Some(2.0), Some(1.5)) };
    let tls_target = if burst == 1 { Some(1.25) } else { None };
    Work { name, shape, units, cpu_target, strict_target, tls_target, fairness_target: None }
}

const fn handshakes(name: &'static str, shape: Shape, strict_target: f64, tls_target: Option<f64>) -> Work {
    let strict_target = Some(strict_target);
    Work { name, shape, units: 20_000, cpu_target: None, strict_target, tls_target, fairness_target: None }
}

const WORKS: [Work; 9] = [
    echo("echo, 50 clients", 50, None),
    echo("echo, 1000 clients", 1000, None),
    echo("echo, 10000 clients", 10_000, Some(3.0)),
    fan_out("fan-out to 1000, 1 in flight", 1000, 1),
    fan_out("fan-out to 10000, 1 in flight", 10_000, 1),
    fan_out("fan-out to 1000, 64 in flight", 1000, 64),
    fan_out("fan-out to 10000, 64 in flight", 10_000, 64),
    handshakes("connect, upgrade, close", Shape::Handshake, 1.10, Some(1.10)),
    handshakes("connect, upgrade, connect command, close", Shape::Connect, 1.25, None),
];

/// One server in one repetition.
struct Sample {
    cpu_us: f64,
    busy: f64,
    rate: f64,
    bytes: f64,
    p50_us: f64,
    p99_us: f64,
}

impl Sample {
    fn of(load: &Load, cpu_ns: u64) -> Self {
        let (units, wall) = (load.units as f64, load.wall.as_secs_f64());
        Self {
            cpu_us: cpu_ns as f64 / 1e3 / units,
            busy: cpu_ns as f64 / 1e9 / wall,
            rate: units / wall,
            bytes: load.bytes as f64 / units,
            p50_us: load.latency.value_at_quantile(0.5) as f64 / 1e3,
            p99_us: load.latency.value_at_quantile(0.99) as f64 / 1e3,
        }
    }

    fn unfairness(&self) -> f64 {
        self.p99_us / self.p50_us
    }
}

/// All samples of one server in one shape, by repetition, and the floor's beside them.
struct Row<'a> {
    work: &'a Work,
    target: Option<f64>,
    kind: Kind,
    samples: &'a [Sample],
    floor: &'a [Sample],
}

impl Row<'_> {
    fn spread(&self, figure: impl Fn(&Sample) -> f64) -> io::Result<Spread> {
        Spread::of_repetitions(self.samples.iter().map(figure))
    }

    fn ratio(&self) -> io::Result<Spread> {
        let pairs = self.samples.iter().zip(self.floor);
        Spread::of_repetitions(pairs.map(|(own, floor)| own.cpu_us / floor.cpu_us))
    }

    /// What Gannet promised here and did not keep.
    fn broken(&self) -> io::Result<Vec<String>> {
        let mut broken = Vec::new();
        if self.kind != Kind::Gannet {
            return Ok(broken);
        }
        let (ratio, unfairness) = (self.ratio()?, self.spread(Sample::unfairness)?);
        if let Some(target) = self.target.filter(|target| ratio.median > *target) {
            broken.push(format!("{}: {ratio} x floor, target {target}", self.work.name));
        }
        if let Some(target) = self.work.fairness_target.filter(|target| unfairness.median >= *target) {
            broken.push(format!("{}: p99/p50 {unfairness}, target below {target}", self.work.name));
        }
        Ok(broken)
    }

    fn cells(&self) -> io::Result<Vec<String>> {
        let target = match (self.kind, self.target) {
            (Kind::Gannet, Some(target)) => format!("<= {target:.2}"),
            _ => String::new(),
        };
        let verdict = match (target.is_empty() && self.work.fairness_target.is_none(), self.broken()?.is_empty()) {
            _ if self.kind != Kind::Gannet => "",
            (true, _) => "",
            (_, true) => "kept",
            (_, false) => "EXCEEDED",
        };
        Ok(vec![
            self.work.name.to_owned(),
            self.kind.name().to_owned(),
            format!("{:.3}", self.spread(|sample| sample.cpu_us)?.median),
            self.ratio()?.to_string(),
            target,
            verdict.to_owned(),
            format!("{:.0}", self.spread(|sample| sample.busy * 100.0)?.median),
            format!("{:.0}", self.spread(|sample| sample.rate)?.median),
            format!("{:.0}", self.spread(|sample| sample.bytes)?.median),
            format!("{:.0}", self.spread(|sample| sample.p50_us)?.median),
            format!("{:.0}", self.spread(|sample| sample.p99_us)?.median),
            format!("{:.2}", self.spread(Sample::unfairness)?.median),
        ])
    }

    fn json(&self) -> io::Result<Value> {
        let all = |figure: fn(&Sample) -> f64| self.samples.iter().map(figure).collect::<Vec<f64>>();
        let ratio = self.ratio()?;
        Ok(json!({
            "shape": self.work.name,
            "server": self.kind.name(),
            "target": self.target,
            "cpu_us": all(|sample| sample.cpu_us),
            "ratio": {"median": ratio.median, "min": ratio.min, "max": ratio.max},
            "busy": all(|sample| sample.busy),
            "per_second": all(|sample| sample.rate),
            "bytes": all(|sample| sample.bytes),
            "p50_us": all(|sample| sample.p50_us),
            "p99_us": all(|sample| sample.p99_us),
        }))
    }
}

const HEAD: [&str; 12] = [
    "shape",
    "server",
    "CPU us",
    "x floor (min..max)",
    "target",
    "verdict",
    "busy %",
    "per s",
    "bytes",
    "p50 us",
    "p99 us",
    "p99/p50",
];

fn measure(flags: &Flags, work: &Work, kind: Kind, size: usize) -> io::Result<Sample> {
    let mode = if let Shape::Fanout { .. } = work.shape { Mode::Fanout } else { Mode::Echo };
    let identity = flags.tls.then(Identity::new).transpose()?;
    let options = ["--echo.enabled", "--client.insecure"];
    let (server, path) = match (&flags.url, flags.pid, &identity) {
        (Some(url), Some(pid), _) if kind == Kind::ByHand => (Server::running(pid, url.port), url.path.as_str()),
        (.., Some(identity)) => (Server::start_secured(kind, mode, &flags.place, &options, identity)?, "/echo"),
        (.., None) => (Server::start(kind, mode, &flags.place, &options)?, "/echo"),
    };
    let tls = identity.as_ref().map(|identity| identity.client(&TLS13)).transpose()?;
    let at = Address { port: server.port, tls };
    let units = if flags.quick { work.units / 10 } else { work.units };
    let time = Duration::from_secs(if flags.quick { 1 } else { 5 });
    let warm_up = Bound { units: units / 5, time: time / 5 };
    let bound = Bound { units: units / work.shape.parts(), time };
    match work.shape {
        Shape::Echo { clients } => {
            let mut echo = Echo::open_at(at, path, clients, size)?;
            echo.run(Bound { units: warm_up.units.max(2 * clients as u64), ..warm_up })?;
            account_for(&server, || echo.run(bound))
        }
        Shape::Fanout { subscribers, burst } => {
            let mut fanout = Fanout::open(at, kind.profile(), subscribers, size)?;
            fanout.run(burst, warm_up)?;
            account_for(&server, || fanout.run(burst, bound))
        }
        Shape::Handshake | Shape::Connect => {
            let profile = if let Shape::Connect = work.shape { kind.profile() } else { Profile::Raw };
            handshake::run(at.clone(), profile, warm_up)?;
            account_for(&server, || handshake::run(at, profile, bound))
        }
    }
}

fn account_for(server: &Server, load: impl FnOnce() -> io::Result<Load>) -> io::Result<Sample> {
    let before = server.settled_cpu_ns()?;
    let load = load()?;
    let after = server.settled_cpu_ns()?;
    Ok(Sample::of(&load, after - before))
}

/// Bytes of a frame's header, for payloads of 126 to 65,535 bytes.
const HEADER: usize = 4;

/// One shape: every repetition runs all servers one after the other. A peer in another language that fails (too slow
/// for the loader's patience, say) has no samples in this shape and a line in `left_out`; the run goes on.
fn run_work(flags: &Flags, servers: &[Kind], work: &Work, left_out: &mut Vec<String>) -> io::Result<Vec<Vec<Sample>>> {
    let mut samples: Vec<Option<Vec<Sample>>> = servers.iter().map(|_| Some(Vec::new())).collect();
    for repetition in 1..=flags.repetitions * work.shape.parts() as usize {
        let mut heard = flags.size;
        for (kind, place) in servers.iter().zip(&mut samples) {
            let Some(samples) = place else { continue };
            let size = if *kind == Kind::FloorWide { heard } else { flags.size };
            match measure(flags, work, *kind, size) {
                Ok(sample) => {
                    if *kind == Kind::Gannet {
                        heard = (sample.bytes.round() as usize).saturating_sub(HEADER);
                    }
                    eprintln!("{}, repetition {repetition}, {}: {:.3} us", work.name, kind.name(), sample.cpu_us);
                    samples.push(sample);
                }
                Err(error) if kind.is_optional() => {
                    eprintln!("{}, {} is left out: {error}", work.name, kind.name());
                    left_out.push(format!("{}, {}: {error}", work.name, kind.name()));
                    *place = None;
                }
                Err(error) => {
                    return Err(io::Error::new(error.kind(), format!("{}, {}: {error}", work.name, kind.name())));
                }
            }
        }
    }
    Ok(samples.into_iter().map(Option::unwrap_or_default).collect())
}

/// The servers of this run, the floor first, and a line for each that the machine cannot run.
fn contestants(flags: &Flags) -> (Vec<Kind>, Vec<String>) {
    let (mut servers, mut left_out) = (vec![Kind::Floor], Vec::new());
    let suits = |kind: &&Kind| if flags.tls { SECURE.contains(kind) } else { **kind != Kind::Nginx };
    for kind in flags.servers.iter().filter(|kind| **kind != Kind::Floor).filter(suits) {
        let first =
            (*kind == Kind::FloorWide && !servers.contains(&Kind::Gannet)).then(|| "name gannet before it".to_owned());
        match first.or_else(|| flags.place.left_out(*kind)) {
            None => servers.push(*kind),
            Some(why) => {
                eprintln!("{} is left out: {why}", kind.name());
                left_out.push(format!("{}: {why}", kind.name()));
            }
        }
    }
    servers.extend(flags.url.as_ref().map(|_| Kind::ByHand));
    (servers, left_out)
}

fn run(flags: &Flags) -> io::Result<bool> {
    machine::raise_descriptors()?;
    machine::pin(flags.place.loader_core)?;
    let (servers, mut left_out) = contestants(flags);
    let (mut table, mut results, mut broken) = (Vec::new(), Vec::new(), Vec::new());
    let wanted = |work: &&Work| flags.only.as_ref().is_none_or(|only| work.name.contains(only.as_str()));
    for work in WORKS.iter().filter(wanted) {
        let servers: Vec<Kind> = servers.iter().copied().filter(|kind| work.shape.suits(*kind)).collect();
        let samples = run_work(flags, &servers, work, &mut left_out)?;
        for (kind, own) in servers.iter().zip(&samples).filter(|(_, own)| !own.is_empty()) {
            let target = work.target(flags);
            let row = Row { work, target, kind: *kind, samples: own, floor: &samples[0] };
            table.push(row.cells()?);
            results.push(row.json()?);
            broken.extend(row.broken()?);
        }
    }
    println!(
        "{} repetitions, messages of {} bytes, CPU time of the server per message; medians",
        flags.repetitions, flags.size
    );
    print_table(&HEAD, &table);
    let result = json!({
        "at_unix": now_unix(), "machine": machine::describe(), "repetitions": flags.repetitions,
        "message_bytes": flags.size, "strict": flags.strict, "tls": flags.tls, "left_out": left_out, "rows": results, "exceeded": broken,
    });
    if !flags.quick {
        println!(
            "written to {}",
            write_result(&flags.results, if flags.tls { "compare-tls" } else { "compare" }, &result)?.display()
        );
    }
    for line in &left_out {
        println!("left out  {line}");
    }
    for line in &broken {
        println!("EXCEEDED  {line}");
    }
    Ok(broken.is_empty() || !flags.check)
}

fn main() -> ExitCode {
    match run(&Flags::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("compare: {error}");
            ExitCode::from(2)
        }
    }
}
