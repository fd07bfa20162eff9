//! What the protocol adds to a bare fan-out, and what the server API adds to bare HTTP: ratios, each within one run.
//!
//! In each repetition both sides of a ratio are measured a few times in turn, on servers started fresh on their core,
//! so a machine that drifts drifts under both.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use gannet_bench::account::settled_cpu_ns;
use gannet_bench::calls::{self, Calls};
use gannet_bench::figures::{Bound, Spread, now_unix, print_table, write_result};
use gannet_bench::fleet::{Fleet, Opening};
use gannet_bench::lanes::{Cost, Lane, Lanes};
use gannet_bench::peer::Mode;
use gannet_bench::server::{Kind, Place, Server};
use gannet_bench::wire::Dialect;
use gannet_bench::{centrifugal, machine};
use serde_json::{Value, json};

const EXAMPLES: &str = "\
Lines:
  positions   CPU time per delivery of a fan-out to a channel with history and force_recovery, over
              that to a plain one; every client is in both, in one connection. At most 1.2
  encodings   CPU time per delivery of a fan-out to JSON and Protobuf clients in one channel, over
              the mean of a channel of either alone; half the clients each. At most 1.1
  api         answers per second to POST /api/publish, nobody subscribed, over those of an axum
              handler that does nothing with the same request. At least 0.6, and so per second of
              the servers' CPU time, for the loader may be slower than the servers
  api-heard   the same with subscribers, all of whom must get all of it; shown, not checked

Examples:
  protocol --check                                  all lines; ends with 1 if one misses its target
  protocol --only positions --clients 1000          one line, with fewer clients
  protocol --only api,api-heard --connections 1     what one call after the other costs
  protocol --quick                                  a tenth of the work and no file: does it run?

A result is written to bench/results/. Ends with 2 if the run itself failed.";

/// Measure what the client protocol and the server API cost beyond what is below them
#[derive(Debug, Parser)]
#[command(after_help = EXAMPLES)]
struct Flags {
    #[command(flatten)]
    place: Place,
    /// Only these lines
    #[arg(long, value_enum, value_delimiter = ',', hide_default_value = true, default_values_t = ALL)]
    only: Vec<Line>,
    /// Clients of the fan-out lines; one process may have as many as its descriptor limit, here and in the server
    #[arg(long, default_value_t = 10_000)]
    clients: usize,
    /// Publications to each channel in a repetition
    #[arg(long, default_value_t = 40)]
    publications: usize,
    /// Keep-alive connections of the API lines, one request in flight on each
    #[arg(long, default_value_t = 10)]
    connections: usize,
    /// Calls to each server in a repetition; a tenth in the line api-heard
    #[arg(long, default_value_t = 100_000)]
    calls: u64,
    /// Subscribers of the channel in the line api-heard
    #[arg(long, default_value_t = 100)]
    subscribers: usize,
    /// Bytes of a publication's data
    #[arg(long, default_value_t = 128)]
    size: usize,
    /// Interleaved repetitions
    #[arg(long, default_value_t = 5)]
    repetitions: usize,
    /// A tenth of clients, publications and calls, and no result file: to see that it works, not for figures
    #[arg(long)]
    quick: bool,
    /// Exit with 1 if a target is missed
    #[arg(long)]
    check: bool,
    /// Folder for the JSON result
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/results"))]
    results: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Line {
    Positions,
    Encodings,
    Api,
    ApiHeard,
}

const ALL: [Line; 4] = [Line::Positions, Line::Encodings, Line::Api, Line::ApiHeard];

/// What a ratio is held to.
#[derive(Clone, Copy, Debug)]
enum Target {
    AtMost(f64),
    AtLeast(f64),
    None,
}

impl Target {
    fn is_met(self, ratio: f64) -> bool {
        match self {
            Self::AtMost(most) => ratio <= most,
            Self::AtLeast(least) => ratio >= least,
            Self::None => true,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(most) => write!(f, "<= {most:.2}"),
            Self::AtLeast(least) => write!(f, ">= {least:.2}"),
            Self::None => Ok(()),
        }
    }
}

impl Line {
    fn name(self) -> &'static str {
        match self {
            Self::Positions => "positions",
            Self::Encodings => "encodings",
            Self::Api => "api",
            Self::ApiHeard => "api-heard",
        }
    }

    fn unit(self) -> &'static str {
        if self.is_fan_out() { "CPU us a delivery" } else { "answers per s" }
    }

    fn is_fan_out(self) -> bool {
        matches!(self, Self::Positions | Self::Encodings)
    }

    fn target(self) -> Target {
        match self {
            Self::Positions => Target::AtMost(1.2),
            Self::Encodings => Target::AtMost(1.1),
            Self::Api => Target::AtLeast(0.6),
            Self::ApiHeard => Target::None,
        }
    }
}

/// One side of a ratio in one repetition.
#[derive(Clone, Copy)]
struct Side {
    figure: f64,
    /// CPU time by wall time: below 0.9 the loader or the machine was the limit.
    busy: f64,
}

struct Sample {
    subject: Side,
    base: Side,
}

struct Row {
    line: Line,
    samples: Vec<Sample>,
}

impl Row {
    fn spread(&self, figure: impl Fn(&Sample) -> f64) -> io::Result<Spread> {
        Spread::of_repetitions(self.samples.iter().map(figure))
    }

    fn ratio(&self) -> io::Result<Spread> {
        self.spread(|sample| sample.subject.figure / sample.base.figure)
    }

    /// The ratio of answers per second of the servers' CPU time: what it would be if the loader were never the limit.
    /// Of a fan-out line the ratio is one of CPU times already.
    fn cpu_ratio(&self) -> io::Result<Spread> {
        let per_cpu = |side: Side| side.figure / side.busy;
        if self.line.is_fan_out() {
            return self.ratio();
        }
        self.spread(|sample| per_cpu(sample.subject) / per_cpu(sample.base))
    }

    fn is_kept(&self) -> io::Result<bool> {
        let target = self.line.target();
        Ok(target.is_met(self.ratio()?.median) && target.is_met(self.cpu_ratio()?.median))
    }

    fn cells(&self) -> io::Result<Vec<String>> {
        let target = self.line.target().to_string();
        let verdict = match (target.is_empty(), self.is_kept()?) {
            (true, _) => "",
            (_, true) => "kept",
            (_, false) => "MISSED",
        };
        let figure = |spread: Spread| match self.line.is_fan_out() {
            true => format!("{:.3}", spread.median),
            false => format!("{:.0}", spread.median),
        };
        Ok(vec![
            self.line.name().to_owned(),
            self.line.unit().to_owned(),
            figure(self.spread(|sample| sample.subject.figure)?),
            figure(self.spread(|sample| sample.base.figure)?),
            self.ratio()?.to_string(),
            target,
            verdict.to_owned(),
            format!("{:.0}", self.spread(|sample| sample.subject.busy * 100.0)?.median),
            format!("{:.0}", self.spread(|sample| sample.base.busy * 100.0)?.median),
        ])
    }

    fn json(&self) -> io::Result<Value> {
        let all = |figure: fn(&Sample) -> f64| self.samples.iter().map(figure).collect::<Vec<f64>>();
        let (ratio, cpu_ratio, target) = (self.ratio()?, self.cpu_ratio()?, self.line.target());
        Ok(json!({
            "line": self.line.name(),
            "unit": self.line.unit(),
            "subject": all(|sample| sample.subject.figure),
            "base": all(|sample| sample.base.figure),
            "subject_busy": all(|sample| sample.subject.busy),
            "base_busy": all(|sample| sample.base.busy),
            "ratio": {"median": ratio.median, "min": ratio.min, "max": ratio.max},
            "cpu_ratio": {"median": cpu_ratio.median, "min": cpu_ratio.min, "max": cpu_ratio.max},
            "target": target.to_string(),
            "kept": self.is_kept()?,
        }))
    }
}

const HEAD: [&str; 9] =
    ["line", "unit", "measured", "base", "ratio (min..max)", "target", "verdict", "busy %", "base busy %"];

/// Both sides of a ratio are measured so often in a repetition, in turn.
const TURNS: usize = 4;

const KEPT: &str = r#"[{"name":"kept","history_size":100,"history_ttl":"10m","force_recovery":true}]"#;
const PLAIN_CHANNEL: &str = "plain";
const KEPT_CHANNEL: &str = "kept:it";

fn json_client(channels: &[&str]) -> Opening {
    let replies = 1 + channels.len() as u64;
    Opening::centrifugal(centrifugal::connect_and_subscribe_all(None, channels), replies)
}

fn protobuf_client(channels: &[&str]) -> Opening {
    let replies = 1 + channels.len() as u64;
    Opening::protobuf(centrifugal::protobuf_connect_and_subscribe_all(channels), replies)
}

/// The lanes of a fan-out line, the one measured last, and how each client opens.
fn fan_out(line: Line, clients: usize) -> (Vec<Lane>, fn(usize) -> Opening) {
    let lane = |channel, subscribers| Lane { channel, subscribers };
    match line {
        Line::Encodings => {
            let half = clients / 2;
            let lanes = vec![lane("json", clients - half), lane("protobuf", half), lane("mixed", clients)];
            (lanes, |index| match index % 2 {
                0 => json_client(&["json", "mixed"]),
                _ => protobuf_client(&["protobuf", "mixed"]),
            })
        }
        _ => {
            let lanes = vec![lane(PLAIN_CHANNEL, clients), lane(KEPT_CHANNEL, clients)];
            (lanes, |_| json_client(&[PLAIN_CHANNEL, KEPT_CHANNEL]))
        }
    }
}

fn measure_fan_out(flags: &Flags, line: Line) -> io::Result<Sample> {
    let server =
        Server::start(Kind::Gannet, Mode::Fanout, &flags.place, &["--client.insecure", "--channel.namespaces", KEPT])?;
    let (lanes, opening) = fan_out(line, flags.clients);
    let mut open = Lanes::open(server.port, flags.clients, flags.size, |index| Ok(opening(index)))?;
    let each = flags.publications.div_ceil(TURNS);
    let mut costs = vec![Cost::default(); lanes.len()];
    for lane in &lanes {
        open.publish(server.pid(), *lane, each, &mut Cost::default())?;
    }
    for turn in 0..TURNS {
        // There and back: whoever comes first in a turn comes last in the next.
        for place in 0..lanes.len() {
            let place = if turn % 2 == 0 { place } else { lanes.len() - 1 - place };
            open.publish(server.pid(), lanes[place], each, &mut costs[place])?;
        }
    }
    let side = |cost: &Cost| Side { figure: cost.cpu_us(), busy: cost.busy() };
    let (subject, others) = costs.split_last().ok_or_else(|| io::Error::other("a line has lanes"))?;
    let mean = |figure: fn(&Cost) -> f64| others.iter().map(figure).sum::<f64>() / others.len() as f64;
    Ok(Sample { subject: side(subject), base: Side { figure: mean(Cost::cpu_us), busy: mean(Cost::busy) } })
}

/// A server with open connections, and what its calls took so far.
struct Called {
    server: Server,
    calls: Calls,
    audience: Fleet,
    done: u64,
    wall: Duration,
    cpu_ns: u64,
}

impl Called {
    fn open(flags: &Flags, kind: Kind, subscribers: usize) -> io::Result<Self> {
        let extra = ["--client.insecure", "--http_api.key", calls::KEY];
        let server = Server::start(kind, Mode::Fanout, &flags.place, &extra)?;
        let calls = Calls::open(server.port, flags.connections)?;
        let mut audience = Fleet::new(server.port, Dialect::Lines)?;
        audience.open(subscribers, Duration::from_secs(60), |_| Ok(json_client(&[PLAIN_CHANNEL])))?;
        Ok(Self { server, calls, audience, done: 0, wall: Duration::ZERO, cpu_ns: 0 })
    }

    fn run(&mut self, count: u64, size: usize) -> io::Result<()> {
        let Self { server, calls, audience, .. } = self;
        let before = settled_cpu_ns(server.pid())?;
        let subscribers = audience.len() as u64;
        let (began, mut heard, mut request) = (Instant::now(), 0, Vec::new());
        calls::publish(&mut request, PLAIN_CHANNEL, size);
        let mut listen = || {
            audience.turn(Duration::ZERO, |_, _, got| {
                heard += got.messages;
                Ok(())
            })
        };
        let beside: Option<calls::Beside<'_>> = if subscribers > 0 { Some(&mut listen) } else { None };
        let bound = Bound { units: count, time: Duration::from_secs(600) };
        let load = calls.run(bound, |_, out| out.extend_from_slice(&request), |_| Ok(()), beside)?;
        let end = Instant::now() + Duration::from_secs(30);
        while heard < load.units * subscribers && Instant::now() < end {
            audience.turn(Duration::from_millis(100), |_, _, got| {
                heard += got.messages;
                Ok(())
            })?;
        }
        if heard != load.units * subscribers {
            let due = load.units * subscribers;
            return Err(io::Error::other(format!("{heard} deliveries where {due} were due")));
        }
        self.done += load.units;
        self.wall += began.elapsed();
        self.cpu_ns += settled_cpu_ns(self.server.pid())? - before;
        Ok(())
    }

    fn side(&self) -> Side {
        let wall = self.wall.as_secs_f64();
        Side { figure: self.done as f64 / wall, busy: self.cpu_ns as f64 / 1e9 / wall }
    }
}

fn measure_api(flags: &Flags, calls: u64, subscribers: usize) -> io::Result<Sample> {
    let mut gannet = Called::open(flags, Kind::Gannet, subscribers)?;
    let mut axum = Called::open(flags, Kind::Axum, 0)?;
    let each = calls.div_ceil(TURNS as u64);
    for called in [&mut gannet, &mut axum] {
        called.run(each / 4 + 1, flags.size)?;
        (called.done, called.wall, called.cpu_ns) = (0, Duration::ZERO, 0);
    }
    for _ in 0..TURNS {
        gannet.run(each, flags.size)?;
        axum.run(each, flags.size)?;
    }
    Ok(Sample { subject: gannet.side(), base: axum.side() })
}

fn measure(flags: &Flags, line: Line) -> io::Result<Row> {
    let mut samples = Vec::new();
    for repetition in 1..=flags.repetitions {
        let sample = match line {
            Line::Api => measure_api(flags, flags.calls, 0),
            Line::ApiHeard => measure_api(flags, flags.calls.div_ceil(10), flags.subscribers),
            _ => measure_fan_out(flags, line),
        };
        let sample = sample.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", line.name())))?;
        let (subject, base) = (sample.subject.figure, sample.base.figure);
        eprintln!("{}, repetition {repetition}: {subject:.3} by {base:.3}, {}", line.name(), line.unit());
        samples.push(sample);
    }
    Ok(Row { line, samples })
}

fn run(mut flags: Flags) -> io::Result<bool> {
    if flags.quick {
        flags.clients = (flags.clients / 10).max(2);
        flags.publications = (flags.publications / 10).max(1);
        flags.calls = (flags.calls / 10).max(1);
    }
    let descriptors = machine::raise_descriptors()?;
    if flags.clients as u64 + 50 > descriptors {
        let state = format!("{} clients need more than the {descriptors} descriptors allowed", flags.clients);
        return Err(io::Error::other(state));
    }
    machine::pin(flags.place.loader_core)?;
    let rows = flags.only.iter().map(|line| measure(&flags, *line)).collect::<io::Result<Vec<Row>>>()?;
    println!(
        "{} repetitions, {} clients, {} connections, data of {} bytes; medians",
        flags.repetitions, flags.clients, flags.connections, flags.size
    );
    print_table(&HEAD, &rows.iter().map(Row::cells).collect::<io::Result<Vec<_>>>()?);
    for row in rows.iter().filter(|row| !row.line.is_fan_out()) {
        println!("{}: by answers per second of the servers' CPU time {}", row.line.name(), row.cpu_ratio()?);
    }
    let result = json!({
        "at_unix": now_unix(), "machine": machine::describe(), "repetitions": flags.repetitions,
        "clients": flags.clients, "publications": flags.publications, "connections": flags.connections,
        "calls": flags.calls, "subscribers": flags.subscribers, "data_bytes": flags.size,
        "rows": rows.iter().map(Row::json).collect::<io::Result<Vec<_>>>()?,
    });
    if !flags.quick {
        println!("written to {}", write_result(&flags.results, "protocol", &result)?.display());
    }
    let mut kept = true;
    for row in &rows {
        kept &= row.is_kept()?;
    }
    Ok(kept || !flags.check)
}

fn main() -> ExitCode {
    match run(Flags::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("protocol: {error}");
            ExitCode::from(2)
        }
    }
}
