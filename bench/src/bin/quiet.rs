//! How long a message on a quiet channel takes while another channel fans out to many: two channels, one reactor.
//!
//! The quiet channel's pair has a thread of its own, which goes before the thread that reads the fan-out: what is
//! measured is that the server serves both, not that the loader does.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use gannet_bench::fanout::Fanout;
use gannet_bench::figures::{Bound, Spread, histogram, now_unix, print_table, write_result};
use gannet_bench::fleet::{Fleet, Opening};
use gannet_bench::peer::Mode;
use gannet_bench::server::{Kind, Place, Server};
use gannet_bench::wire::{Dialect, client_frame};
use gannet_bench::{centrifugal, machine};
use hdrhistogram::Histogram;
use serde_json::json;

const EXAMPLES: &str = "\
The ratio is the p99 of the quiet channel by the median time of a whole fan-out, until its last
subscriber has it. At most 1/20 is promised for 100,000 subscribers, which take as many descriptors
here and in the server. The default is what most machines can do: the fan-out is shorter then, but
the quiet channel still waits for the slice under way, so the ratio is greater. Beside it stands the
ratio to what the fan-out would take for 100,000 at the pace that was measured, and that one is held
to the limit. With 100,000 or more both are the same.

Examples:
  quiet --check                        10,000 subscribers; ends with 1 if the ratio is above 0.05
  quiet --subscribers 100000 --check   where `ulimit -Hn` allows it
  quiet --subscribers 500 --fanouts 5 --repetitions 1 --results /tmp/quiet

A result is written to bench/results/. Ends with 2 if the run itself failed.";

/// Measure a quiet channel beside a busy one
#[derive(Debug, Parser)]
#[command(after_help = EXAMPLES)]
struct Flags {
    #[command(flatten)]
    place: Place,
    /// Subscribers of the busy channel; one process may have as many as its descriptor limit, here and in the server
    #[arg(long, default_value_t = 10_000)]
    subscribers: usize,
    /// Fan-outs in a repetition, one after the other
    #[arg(long, default_value_t = 50)]
    fanouts: u64,
    /// Microseconds from a message on the quiet channel to the next
    #[arg(long, default_value_t = 1000)]
    pause: u64,
    /// Bytes of a publication's data
    #[arg(long, default_value_t = 128)]
    size: usize,
    /// Repetitions, each with a fresh server
    #[arg(long, default_value_t = 5)]
    repetitions: usize,
    /// Most of the ratio for 100,000 subscribers
    #[arg(long, default_value_t = 0.05)]
    limit: f64,
    /// Exit with 1 if the ratio is above the limit
    #[arg(long)]
    check: bool,
    /// Folder for the JSON result
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/results"))]
    results: PathBuf,
}

const CHANNEL: &str = "quiet";

/// Subscribers for whom the limit is promised.
const PROMISED: usize = 100_000;

/// How long a message on the quiet channel may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A subscriber and a publisher of the quiet channel.
struct Pair(Fleet);

impl Pair {
    fn open(port: u16) -> io::Result<Self> {
        let mut fleet = Fleet::new(port, Dialect::Lines)?;
        fleet.open(2, PATIENCE, |index| {
            Ok(match index {
                0 => Opening::centrifugal(centrifugal::connect_and_subscribe(None, CHANNEL), 2),
                _ => Opening::centrifugal(centrifugal::connect(None), 1),
            })
        })?;
        Ok(Self(fleet))
    }

    /// One message; how long until the subscriber had it.
    fn send(&mut self, id: usize, size: usize) -> io::Result<Duration> {
        let mut frame = Vec::new();
        client_frame(&mut frame, centrifugal::publish(id, CHANNEL, size).as_bytes());
        let sent = Instant::now();
        self.0.client(1).send(&frame)?;
        let (mut took, mut replied) = (None, false);
        while took.is_none() || !replied {
            if sent.elapsed() > PATIENCE {
                return Err(io::Error::other("a message on the quiet channel did not come in time"));
            }
            self.0.turn(Duration::from_millis(100), |_, _, got| {
                if got.messages > 0 {
                    took = Some(sent.elapsed());
                }
                replied |= got.replies > 0;
                Ok(())
            })?;
        }
        took.ok_or_else(|| io::Error::other("no message"))
    }

    fn talk(&mut self, flags: &Flags, over: &AtomicBool) -> io::Result<Histogram<u64>> {
        let mut latency = histogram()?;
        for id in 2.. {
            if over.load(Ordering::Relaxed) {
                break;
            }
            latency.saturating_record(self.send(id, flags.size)?.as_nanos() as u64);
            thread::sleep(Duration::from_micros(flags.pause));
        }
        Ok(latency)
    }
}

/// Milliseconds.
struct Sample {
    messages: u64,
    p50: f64,
    p99: f64,
    /// The whole fan-out.
    whole: f64,
}

fn measure(flags: &Flags) -> io::Result<Sample> {
    let server = Server::start(Kind::Gannet, Mode::Fanout, &flags.place, &["--client.insecure"])?;
    let mut fanout = Fanout::open(server.port, Kind::Gannet.profile(), flags.subscribers, flags.size)?;
    let mut pair = Pair::open(server.port)?;
    let bound = |fanouts: u64| Bound { units: fanouts * flags.subscribers as u64, time: Duration::from_secs(300) };
    fanout.run(1, bound(flags.fanouts.div_ceil(10)))?;
    let over = AtomicBool::new(false);
    let (load, latency) = thread::scope(|scope| {
        let talk = scope.spawn(|| pair.talk(flags, &over));
        // The other thread began with the usual priority and keeps it.
        let load = behind_others().and_then(|()| fanout.run(1, bound(flags.fanouts)));
        over.store(true, Ordering::Relaxed);
        (load, talk.join())
    });
    let (load, latency) = (load?, latency.map_err(|_| io::Error::other("the quiet thread panicked"))??);
    let ms = |latency: &Histogram<u64>, at| latency.value_at_quantile(at) as f64 / 1e6;
    let (p50, p99, whole) = (ms(&latency, 0.5), ms(&latency, 0.99), ms(&load.latency, 0.5));
    Ok(Sample { messages: latency.len(), p50, p99, whole })
}

/// Lets every other thread go first.
fn behind_others() -> io::Result<()> {
    Ok(rustix::process::setpriority_process(None, 19)?)
}

fn run(flags: &Flags) -> io::Result<bool> {
    let descriptors = machine::raise_descriptors()?;
    if flags.subscribers as u64 + 50 > descriptors {
        let state = format!("{} subscribers need more than the {descriptors} descriptors allowed", flags.subscribers);
        return Err(io::Error::other(state));
    }
    machine::pin(flags.place.loader_core)?;
    let mut samples = Vec::new();
    for repetition in 1..=flags.repetitions {
        // A thread of its own for each: what has gone behind others cannot come back without privileges.
        let sample = thread::scope(|scope| scope.spawn(|| measure(flags)).join());
        let sample = sample.map_err(|_| io::Error::other("a repetition panicked"))??;
        eprintln!("repetition {repetition}: p99 {:.3} ms, fan-out {:.3} ms", sample.p99, sample.whole);
        samples.push(sample);
    }
    let all = |figure: fn(&Sample) -> f64| samples.iter().map(figure).collect::<Vec<f64>>();
    let spread = |figure| Spread::of_repetitions(all(figure));
    let ratio = spread(|sample| sample.p99 / sample.whole)?;
    let more = (PROMISED as f64 / flags.subscribers as f64).max(1.0);
    let promised = ratio.median / more;
    let kept = promised <= flags.limit;
    println!(
        "{} repetitions, a fan-out to {} subscribers beside a quiet channel",
        flags.repetitions, flags.subscribers
    );
    let head = [
        "messages",
        "p50 ms",
        "p99 ms (min..max)",
        "fan-out ms (min..max)",
        "ratio (min..max)",
        "for 100000",
        "limit",
        "verdict",
    ];
    let cells = vec![
        samples.iter().map(|sample| sample.messages).sum::<u64>().to_string(),
        format!("{:.3}", spread(|sample| sample.p50)?.median),
        spread(|sample| sample.p99)?.to_string(),
        spread(|sample| sample.whole)?.to_string(),
        ratio.to_string(),
        format!("{promised:.4}"),
        flags.limit.to_string(),
        if kept { "kept" } else { "EXCEEDED" }.to_owned(),
    ];
    print_table(&head, &[cells]);
    let result = json!({
        "at_unix": now_unix(), "machine": machine::describe(), "repetitions": flags.repetitions,
        "subscribers": flags.subscribers, "fanouts": flags.fanouts, "data_bytes": flags.size,
        "p50_ms": all(|sample| sample.p50), "p99_ms": all(|sample| sample.p99), "fanout_ms": all(|sample| sample.whole),
        "ratio": {"median": ratio.median, "min": ratio.min, "max": ratio.max}, "ratio_for_100000": promised,
        "limit": flags.limit, "kept": kept,
    });
    println!("written to {}", write_result(&flags.results, "quiet", &result)?.display());
    Ok(kept || !flags.check)
}

fn main() -> ExitCode {
    match run(&Flags::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("quiet: {error}");
            ExitCode::from(2)
        }
    }
}
