//! Memory of the server per idle client: before and after each has sent a large message.
//!
//! A client of Gannet has a token, one connection and one subscription; a client of a peer is only connected.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use gannet_bench::account::{Memory, cpu_ns, settled_memory};
use gannet_bench::figures::{now_unix, print_table, write_result};
use gannet_bench::fleet::{Fleet, Opening};
use gannet_bench::peer::Mode;
use gannet_bench::server::{Kind, Place, Profile, Server};
use gannet_bench::wire::{Dialect, client_frame};
use gannet_bench::{centrifugal, machine};
use serde_json::{Value, json};

const SECRET: &str = "secret";

const GANNET: [&str; 6] = [
    "--client.token.hmac_secret_key",
    SECRET,
    "--channel.without_namespace.allow_subscribe_for_client",
    "--channel.without_namespace.allow_publish_for_client",
    "--client.ping_interval",
    "25s",
];

/// A message of this many clients is under way at a time.
const AT_ONCE: usize = 64;

/// Measure memory per idle client
#[derive(Debug, Parser)]
struct Flags {
    #[command(flatten)]
    place: Place,
    /// Servers to measure
    #[arg(long, value_enum, value_delimiter = ',', default_value = "gannet")]
    servers: Vec<Kind>,
    /// Clients; one process may have as many as its descriptor limit, here and in the server
    #[arg(long, default_value_t = 15_000)]
    clients: usize,
    /// Channels the clients are spread over; several numbers make several runs
    #[arg(long, value_delimiter = ',', default_value = "1,100")]
    channels: Vec<usize>,
    /// Bytes of the large message
    #[arg(long, default_value_t = 16_384)]
    message: usize,
    /// Seconds to watch the CPU time of the idle server; 0 for none
    #[arg(long, default_value_t = 25)]
    idle: u64,
    /// Bytes a client of Gannet may take
    #[arg(long, default_value_t = 400)]
    limit: i64,
    /// Exit with 1 if Gannet takes more
    #[arg(long)]
    check: bool,
    /// Folder for the JSON result
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/results"))]
    results: PathBuf,
}

/// Bytes per client beyond the server with one.
#[derive(Clone, Copy)]
struct PerClient {
    rss: i64,
    private: i64,
}

impl PerClient {
    fn of(before: Memory, after: Memory, clients: usize) -> Self {
        let each = |before: u64, after: u64| (after as i64 - before as i64) / clients as i64;
        Self { rss: each(before.rss, after.rss), private: each(before.private, after.private) }
    }
}

struct Row {
    kind: Kind,
    channels: usize,
    base: Memory,
    idle: PerClient,
    after_message: PerClient,
    /// CPU microseconds a second per client, and pings seen, while nothing happens.
    rest: Option<(f64, u64)>,
}

impl Row {
    fn within(&self, limit: i64) -> bool {
        self.kind != Kind::Gannet || (self.idle.rss <= limit && self.after_message.rss <= limit)
    }

    fn cells(&self, limit: i64) -> Vec<String> {
        let (cpu, pings) =
            self.rest.map_or_else(Default::default, |(cpu, pings)| (format!("{cpu:.2}"), pings.to_string()));
        vec![
            self.kind.name().to_owned(),
            self.channels.to_string(),
            format!("{}", self.base.rss / 1024),
            format!("{}", self.base.private / 1024),
            self.idle.rss.to_string(),
            self.idle.private.to_string(),
            self.after_message.rss.to_string(),
            self.after_message.private.to_string(),
            cpu,
            pings,
            match (self.kind, self.within(limit)) {
                (Kind::Gannet, true) => "kept".to_owned(),
                (Kind::Gannet, false) => "EXCEEDED".to_owned(),
                _ => String::new(),
            },
        ]
    }

    fn json(&self) -> Value {
        json!({
            "server": self.kind.name(), "channels": self.channels, "base_rss": self.base.rss, "base_private": self.base.private,
            "idle": {"rss": self.idle.rss, "private": self.idle.private},
            "after_message": {"rss": self.after_message.rss, "private": self.after_message.private},
            "idle_cpu_us_per_second": self.rest.map(|(cpu, _)| cpu),
        })
    }
}

const HEAD: [&str; 11] = [
    "server",
    "channels",
    "base KiB",
    "private",
    "idle RSS",
    "private",
    "after message RSS",
    "private",
    "idle CPU us/s",
    "pings",
    "verdict",
];

fn opening(kind: Kind, index: usize, channels: usize) -> io::Result<Opening> {
    Ok(match kind.profile() {
        Profile::Raw => Opening::bare("/"),
        Profile::Centrifugal => {
            let token = centrifugal::token(SECRET, &format!("user-{index}"))?;
            let channel = format!("channel-{}", index % channels);
            Opening::centrifugal(centrifugal::connect_and_subscribe(Some(&token), &channel), 2)
        }
    })
}

/// Every client sends one large message: to a channel nobody reads, or to a peer that sends it back.
fn send_large(fleet: &mut Fleet, kind: Kind, clients: usize, size: usize) -> io::Result<()> {
    let mut frame = Vec::new();
    match kind.profile() {
        Profile::Raw => client_frame(&mut frame, &vec![b'x'; size]),
        Profile::Centrifugal => client_frame(&mut frame, centrifugal::publish(3, "nobody", size).as_bytes()),
    }
    let (mut sent, mut answered) = (0, 0);
    let end = Instant::now() + Duration::from_secs(120);
    while answered < clients {
        while sent < clients && sent - answered < AT_ONCE {
            fleet.client(sent).send(&frame)?;
            sent += 1;
        }
        if Instant::now() > end {
            return Err(io::Error::other(format!("{answered} of {clients} large messages were answered in time")));
        }
        fleet.turn(Duration::from_millis(100), |_, _, got| {
            answered += (got.messages + got.replies) as usize;
            Ok(())
        })?;
    }
    Ok(())
}

fn watch_idle(fleet: &mut Fleet, pid: u32, clients: usize, time: Duration) -> io::Result<(f64, u64)> {
    let (cpu, pings, began) = (cpu_ns(pid)?, fleet.pings, Instant::now());
    while began.elapsed() < time {
        fleet.turn(Duration::from_millis(200), |_, _, _| Ok(()))?;
    }
    let used_us = (cpu_ns(pid)? - cpu) as f64 / 1e3;
    Ok((used_us / began.elapsed().as_secs_f64() / clients as f64, fleet.pings - pings))
}

fn measure(flags: &Flags, kind: Kind, channels: usize) -> io::Result<Row> {
    let server = Server::start(kind, Mode::Echo, &flags.place, &GANNET)?;
    let dialect = if kind.profile() == Profile::Raw { Dialect::Raw } else { Dialect::Lines };
    let mut fleet = Fleet::new(server.port, dialect)?;
    let settle = |fleet: &mut Fleet| {
        settled_memory(server.pid(), Duration::from_secs(10), |limit| fleet.turn(limit, |_, _, _| Ok(())))
    };
    fleet.open(1, Duration::from_secs(10), |index| opening(kind, index, channels))?;
    send_large(&mut fleet, kind, 1, flags.message)?;
    let base = settle(&mut fleet)?;
    fleet.open(flags.clients, Duration::from_secs(120), |index| opening(kind, index + 1, channels))?;
    let idle = settle(&mut fleet)?;
    send_large(&mut fleet, kind, flags.clients, flags.message)?;
    let after = settle(&mut fleet)?;
    let rest = match flags.idle {
        0 => None,
        seconds => Some(watch_idle(&mut fleet, server.pid(), flags.clients, Duration::from_secs(seconds))?),
    };
    Ok(Row {
        kind,
        channels,
        base,
        idle: PerClient::of(base, idle, flags.clients),
        after_message: PerClient::of(base, after, flags.clients),
        rest,
    })
}

fn run(flags: &Flags) -> io::Result<bool> {
    let descriptors = machine::raise_descriptors()?;
    if flags.clients as u64 + 50 > descriptors {
        return Err(io::Error::other(format!(
            "{} clients need more than the {descriptors} descriptors allowed",
            flags.clients
        )));
    }
    machine::pin(flags.place.loader_core)?;
    let mut rows = Vec::new();
    for kind in &flags.servers {
        let channels = if kind.profile() == Profile::Raw { &[0] } else { flags.channels.as_slice() };
        for channels in channels {
            rows.push(measure(flags, *kind, *channels)?);
        }
    }
    println!(
        "{} clients, bytes per client beyond the server with one; message of {} bytes",
        flags.clients, flags.message
    );
    print_table(&HEAD, &rows.iter().map(|row| row.cells(flags.limit)).collect::<Vec<_>>());
    let result = json!({
        "at_unix": now_unix(), "machine": machine::describe(), "clients": flags.clients,
        "message_bytes": flags.message, "limit": flags.limit, "rows": rows.iter().map(Row::json).collect::<Vec<_>>(),
    });
    println!("written to {}", write_result(&flags.results, "memory", &result)?.display());
    Ok(!flags.check || rows.iter().all(|row| row.within(flags.limit)))
}

fn main() -> ExitCode {
    match run(&Flags::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("memory: {error}");
            ExitCode::from(2)
        }
    }
}
