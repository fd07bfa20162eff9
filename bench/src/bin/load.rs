//! One shape of load against a server that already runs, for use under a profiler.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use gannet_bench::account::settled_cpu_ns;
use gannet_bench::echo::Echo;
use gannet_bench::fanout::Fanout;
use gannet_bench::figures::{Bound, Load};
use gannet_bench::server::Profile;
use gannet_bench::{handshake, machine};

/// Drive a running server
#[derive(Debug, Parser)]
struct Flags {
    #[arg(value_enum)]
    shape: Shape,
    /// Port of the server at 127.0.0.1
    #[arg(long)]
    port: u16,
    /// Clients or subscribers
    #[arg(long, default_value_t = 1000)]
    clients: usize,
    /// Publications in flight
    #[arg(long, default_value_t = 1)]
    burst: usize,
    /// Bytes of a message
    #[arg(long, default_value_t = 128)]
    size: usize,
    /// Stop after so many messages, deliveries or connections
    #[arg(long, default_value_t = 1_000_000)]
    units: u64,
    /// Stop after so many seconds
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// The server is a peer: fan-out without the Centrifugal protocol
    #[arg(long)]
    raw: bool,
    /// Tell the CPU time of this process
    #[arg(long)]
    pid: Option<u32>,
    /// Core to run on
    #[arg(long, default_value_t = 1)]
    core: usize,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shape {
    Echo,
    Fanout,
    Handshake,
}

fn run(flags: &Flags) -> io::Result<()> {
    machine::raise_descriptors()?;
    machine::pin(flags.core)?;
    let bound = Bound { units: flags.units, time: Duration::from_secs(flags.seconds) };
    let cpu = || flags.pid.map(settled_cpu_ns).transpose();
    let (before, load): (Option<u64>, Load) = match flags.shape {
        Shape::Echo => {
            let mut echo = Echo::open(flags.port, flags.clients, flags.size)?;
            (cpu()?, echo.run(bound)?)
        }
        Shape::Fanout => {
            let profile = if flags.raw { Profile::Raw } else { Profile::Centrifugal };
            let mut fanout = Fanout::open(flags.port, profile, flags.clients, flags.size)?;
            (cpu()?, fanout.run(flags.burst, bound)?)
        }
        Shape::Handshake => {
            let profile = if flags.raw { Profile::Raw } else { Profile::Centrifugal };
            (cpu()?, handshake::run(flags.port, profile, bound)?)
        }
    };
    let (units, wall) = (load.units as f64, load.wall.as_secs_f64());
    let quantile = |at| load.latency.value_at_quantile(at) as f64 / 1e3;
    println!("{units} in {wall:.2} s, {:.0} per s, {:.0} bytes each", units / wall, load.bytes as f64 / units);
    println!("latency us: p50 {:.0}, p99 {:.0}, p99.9 {:.0}", quantile(0.5), quantile(0.99), quantile(0.999));
    if let (Some(before), Some(after)) = (before, cpu()?) {
        println!("server CPU us each: {:.3}", (after - before) as f64 / 1e3 / units);
    }
    Ok(())
}

fn main() -> ExitCode {
    match run(&Flags::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}
