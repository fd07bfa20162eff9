//! System calls of the server per message, counted by `strace -c` while it is under load.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use gannet_bench::echo::Echo;
use gannet_bench::fanout::Fanout;
use gannet_bench::figures::{Bound, now_unix, print_table, write_result};
use gannet_bench::fleet::{Fleet, Opening};
use gannet_bench::peer::Mode;
use gannet_bench::server::{Kind, Place, Server};
use gannet_bench::strace::{Calls, Strace};
use gannet_bench::wire::Dialect;
use gannet_bench::{centrifugal, machine};
use serde_json::{Value, json};

/// Count system calls per message
#[derive(Debug, Parser)]
struct Flags {
    #[command(flatten)]
    place: Place,
    /// Servers to count
    #[arg(long, value_enum, value_delimiter = ',', default_value = "floor,gannet")]
    servers: Vec<Kind>,
    /// Clients or subscribers
    #[arg(long, default_value_t = 200)]
    clients: usize,
    /// Echoes, and deliveries of one publication at a time
    #[arg(long, default_value_t = 20_000)]
    messages: u64,
    /// Seconds to count pings, which come every two seconds then
    #[arg(long, default_value_t = 8)]
    idle: u64,
    /// Exit with 1 if Gannet makes more calls than promised
    #[arg(long)]
    check: bool,
    /// Folder for the JSON result
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/results"))]
    results: PathBuf,
}

/// Calls of one server under one load.
struct Row {
    name: &'static str,
    kind: Kind,
    units: u64,
    calls: Calls,
    /// Most reads and writes there may be.
    most: (u64, u64),
}

impl Row {
    fn within(&self) -> bool {
        let calls = self.calls;
        calls.failed_reads == 0 && calls.reads <= self.most.0 && calls.writes <= self.most.1
    }

    fn cells(&self) -> Vec<String> {
        let per_unit = |calls: u64| format!("{:.3}", calls as f64 / self.units as f64);
        let calls = self.calls;
        vec![
            self.name.to_owned(),
            self.kind.name().to_owned(),
            self.units.to_string(),
            per_unit(calls.reads),
            per_unit(calls.writes),
            per_unit(calls.waits),
            per_unit(calls.others),
            calls.failed_reads.to_string(),
            calls.failed_writes.to_string(),
            if self.within() { "kept" } else { "EXCEEDED" }.to_owned(),
        ]
    }

    fn json(&self) -> Value {
        json!({
            "load": self.name, "server": self.kind.name(), "units": self.units, "reads": self.calls.reads,
            "writes": self.calls.writes, "waits": self.calls.waits, "others": self.calls.others,
            "failed_reads": self.calls.failed_reads, "failed_writes": self.calls.failed_writes, "kept": self.within(),
        })
    }
}

const HEAD: [&str; 10] =
    ["load", "server", "units", "reads", "writes", "waits", "others", "failed reads", "failed writes", "verdict"];

fn echo(flags: &Flags, kind: Kind) -> io::Result<Row> {
    let server = Server::start(kind, Mode::Echo, &flags.place, &["--echo.enabled"])?;
    let mut echo = Echo::open(server.port, flags.clients, 128)?;
    let bound = Bound { units: flags.messages, time: Duration::from_secs(60) };
    echo.run(bound)?;
    let strace = Strace::attach(server.pid())?;
    let units = echo.run(bound)?.units;
    let calls = strace.finish()?;
    Ok(Row { name: "echo", kind, units, calls, most: (units, units) })
}

/// Gannet also writes one reply to the publisher for each publication, or one for several.
fn fan_out(flags: &Flags, kind: Kind, name: &'static str, burst: usize) -> io::Result<Row> {
    let server = Server::start(kind, Mode::Fanout, &flags.place, &["--client.insecure"])?;
    let mut fanout = Fanout::open(server.port, kind.profile(), flags.clients, 128)?;
    let bound = Bound { units: flags.messages * burst as u64, time: Duration::from_secs(60) };
    fanout.run(burst, bound)?;
    let strace = Strace::attach(server.pid())?;
    let units = fanout.run(burst, bound)?.units;
    let calls = strace.finish()?;
    let publications = units / flags.clients as u64;
    Ok(Row { name, kind, units, calls, most: (publications, units + publications) })
}

/// A ping is a write and its pong a read. Where counting begins and ends a few are cut in half: two in a hundred are let go.
fn idle(flags: &Flags) -> io::Result<Row> {
    let pings = ["--client.insecure", "--client.ping_interval", "2s", "--client.pong_timeout", "1s"];
    let server = Server::start(Kind::Gannet, Mode::Echo, &flags.place, &pings)?;
    let mut fleet = Fleet::new(server.port, Dialect::Lines)?;
    let commands = centrifugal::connect_and_subscribe(None, "bench");
    fleet.open(flags.clients, Duration::from_secs(60), |_| Ok(Opening::centrifugal(commands.clone(), 2)))?;
    let watch = |fleet: &mut Fleet, time: Duration| {
        let began = Instant::now();
        while began.elapsed() < time {
            fleet.turn(Duration::from_millis(100), |_, _, _| Ok(()))?;
        }
        io::Result::Ok(fleet.pings)
    };
    let before = watch(&mut fleet, Duration::from_secs(2))?;
    let strace = Strace::attach(server.pid())?;
    let units = watch(&mut fleet, Duration::from_secs(flags.idle))? - before;
    let calls = strace.finish()?;
    if units == 0 {
        return Err(io::Error::other("no ping came"));
    }
    let most = units + units / 50;
    Ok(Row { name: "idle, per ping and pong", kind: Kind::Gannet, units, calls, most: (most, most) })
}

fn run(flags: &Flags) -> io::Result<bool> {
    machine::raise_descriptors()?;
    machine::pin(flags.place.loader_core)?;
    let mut rows = Vec::new();
    for kind in &flags.servers {
        rows.push(echo(flags, *kind)?);
    }
    for kind in &flags.servers {
        rows.push(fan_out(flags, *kind, "fan-out, 1 in flight", 1)?);
    }
    for kind in &flags.servers {
        rows.push(fan_out(flags, *kind, "fan-out, 64 in flight", 64)?);
    }
    if flags.servers.contains(&Kind::Gannet) {
        rows.push(idle(flags)?);
    }
    println!("{} clients; calls per echo, per delivery, per ping", flags.clients);
    print_table(&HEAD, &rows.iter().map(Row::cells).collect::<Vec<_>>());
    let result = json!({
        "at_unix": now_unix(), "machine": machine::describe(), "clients": flags.clients,
        "rows": rows.iter().map(Row::json).collect::<Vec<_>>(),
    });
    println!("written to {}", write_result(&flags.results, "syscalls", &result)?.display());
    Ok(!flags.check || rows.iter().all(|row| row.kind != Kind::Gannet || row.within()))
}

fn main() -> ExitCode {
    match run(&Flags::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("syscalls: {error}");
            ExitCode::from(2)
        }
    }
}
