//! Memory of the server per idle client, before and after each has sent a large message, and per channel with history.
//!
//! A client of Gannet has a token, one connection and one subscription, and in the case "personal" a channel of its own
//! besides; a client of a peer is only connected. In the case "kept" there are no clients, only channels and what the
//! backend published to them.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use gannet_bench::account::{Memory, cpu_ns, in_use, settled_memory};
use gannet_bench::calls::{self, Calls};
use gannet_bench::figures::{Bound, now_unix, print_table, write_result};
use gannet_bench::fleet::{Address, Fleet, Opening};
use gannet_bench::peer::Mode;
use gannet_bench::server::{Kind, Place, Profile, Server};
use gannet_bench::tls::Identity;
use gannet_bench::wire::{Dialect, client_frame};
use gannet_bench::{centrifugal, machine};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, SupportedProtocolVersion};
use serde_json::{Value, json};

const SECRET: &str = "secret";

const GANNET: [&str; 11] = [
    "--prometheus.enabled",
    "--client.token.hmac_secret_key",
    SECRET,
    "--channel.without_namespace.allow_subscribe_for_client",
    "--channel.without_namespace.allow_publish_for_client",
    "--client.ping_interval",
    "25s",
    "--channel.namespaces",
    r#"[{"name":"kept","history_size":100,"history_ttl":"24h"}]"#,
    "--http_api.key",
    calls::KEY,
];

/// A channel of its own for each user, in the case "personal".
const PERSONAL: &str = "--client.subscribe_to_user_personal_channel.enabled";

/// Publications a channel keeps in the case "kept", as in the namespace above.
const KEPT: u64 = 100;

/// Connections that publish in the case "kept".
const CALLERS: usize = 10;

/// A message of this many clients is under way at a time.
const AT_ONCE: usize = 64;

const EXAMPLES: &str = "\
Cases, all but the first for Gannet alone:
  shared     a client with one subscription, to a channel that others share; at most --limit
  cached     the same, and the server remembers good tokens as it does if it is not told. They
             have a bound of their own, but count as the clients' bytes here: shown, not checked
  personal   shared, and a server-side subscription to its user's own channel; at most
             --personal-limit
  tls        shared, over TLS 1.3; at most --tls-limit
  tls12      the same over TLS 1.2; at most --tls12-limit
  kept       a channel with 100 publications of --kept-size bytes; at most --kept-limit

Examples:
  memory --check                           all cases; ends with 1 if one is beyond its limit
  memory --cases shared --clients 18500 --channels 1,100,18500
  memory --cases kept --kept-channels 10000
  memory --cases shared --servers gannet,tokio-tungstenite --idle 0

A result is written to bench/results/. Ends with 2 if the run itself failed.";

/// Measure memory per idle client and per channel with history
#[derive(Debug, Parser)]
#[command(after_help = EXAMPLES)]
struct Flags {
    #[command(flatten)]
    place: Place,
    /// Servers to measure
    #[arg(long, value_enum, value_delimiter = ',', default_value = "gannet")]
    servers: Vec<Kind>,
    /// Cases to measure
    #[arg(long, value_enum, value_delimiter = ',', default_value = "shared,cached,personal,tls,tls12,kept")]
    cases: Vec<Case>,
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
    #[arg(long, default_value_t = 250)]
    limit: i64,
    /// The same with a channel of its own
    #[arg(long, default_value_t = 700)]
    personal_limit: i64,
    /// The same over TLS 1.3
    #[arg(long, default_value_t = 600)]
    tls_limit: i64,
    /// The same over TLS 1.2
    #[arg(long, default_value_t = 3891)]
    tls12_limit: i64,
    /// Channels with history
    #[arg(long, default_value_t = 2000)]
    kept_channels: usize,
    /// Bytes of a publication's data in them
    #[arg(long, default_value_t = 128)]
    kept_size: usize,
    /// Bytes a channel with its history may take
    #[arg(long, default_value_t = 20 * 1024)]
    kept_limit: i64,
    /// Exit with 1 if Gannet takes more
    #[arg(long)]
    check: bool,
    /// Folder for the JSON result
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/results"))]
    results: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Case {
    Shared,
    Cached,
    Personal,
    Tls,
    Tls12,
    Kept,
}

impl Case {
    fn name(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Cached => "cached",
            Self::Personal => "personal",
            Self::Tls => "tls",
            Self::Tls12 => "tls12",
            Self::Kept => "kept",
        }
    }

    /// Of TLS, if clients speak it.
    fn version(self) -> Option<&'static SupportedProtocolVersion> {
        match self {
            Self::Tls => Some(&TLS13),
            Self::Tls12 => Some(&TLS12),
            _ => None,
        }
    }

    fn limit(self, flags: &Flags) -> Option<i64> {
        match self {
            Self::Shared => Some(flags.limit),
            Self::Cached => None,
            Self::Personal => Some(flags.personal_limit),
            Self::Tls => Some(flags.tls_limit),
            Self::Tls12 => Some(flags.tls12_limit),
            Self::Kept => Some(flags.kept_limit),
        }
    }
}

/// What a server has.
#[derive(Clone, Copy)]
struct Taken {
    memory: Memory,
    /// What its allocator says is in use, if it says so.
    in_use: Option<u64>,
}

/// Bytes per client, or per channel, beyond the server with one.
#[derive(Clone, Copy)]
struct Each {
    rss: i64,
    private: i64,
    in_use: Option<i64>,
}

impl Each {
    fn of(before: Taken, after: Taken, count: usize) -> Self {
        let each = |before: u64, after: u64| (after as i64 - before as i64) / count as i64;
        Self {
            rss: each(before.memory.rss, after.memory.rss),
            private: each(before.memory.private, after.memory.private),
            in_use: before.in_use.zip(after.in_use).map(|(before, after)| each(before, after)),
        }
    }

    /// What it is held to. Pages that the server had left over before hide a part of what is resident.
    fn most(self) -> i64 {
        self.in_use.map_or(self.rss, |in_use| in_use.max(self.rss))
    }
}

struct Row {
    case: Case,
    kind: Kind,
    channels: usize,
    /// What Gannet is held to.
    limit: Option<i64>,
    base: Memory,
    idle: Each,
    /// None where nobody sends one.
    after_message: Option<Each>,
    /// CPU microseconds a second per client, and pings seen, while nothing happens.
    rest: Option<(f64, u64)>,
}

impl Row {
    fn within(&self) -> bool {
        let figures = [Some(self.idle), self.after_message].into_iter().flatten();
        self.limit.is_none_or(|limit| figures.map(Each::most).all(|most| most <= limit))
    }

    fn cells(&self) -> Vec<String> {
        let (cpu, pings) =
            self.rest.map_or_else(Default::default, |(cpu, pings)| (format!("{cpu:.2}"), pings.to_string()));
        let after =
            |figure: fn(Each) -> i64| self.after_message.map_or_else(String::new, |each| figure(each).to_string());
        let (limit, verdict) = match (self.limit, self.within()) {
            (Some(limit), true) => (limit.to_string(), "kept"),
            (Some(limit), false) => (limit.to_string(), "EXCEEDED"),
            (None, _) => (String::new(), ""),
        };
        vec![
            self.case.name().to_owned(),
            self.kind.name().to_owned(),
            self.channels.to_string(),
            format!("{}", self.base.rss / 1024),
            format!("{}", self.base.private / 1024),
            self.idle.rss.to_string(),
            self.idle.private.to_string(),
            self.idle.in_use.map_or_else(String::new, |each| each.to_string()),
            after(|each| each.rss),
            after(|each| each.private),
            cpu,
            pings,
            limit,
            verdict.to_owned(),
        ]
    }

    fn json(&self) -> Value {
        let each = |each: Each| json!({"rss": each.rss, "private": each.private, "in_use": each.in_use});
        json!({
            "case": self.case.name(), "server": self.kind.name(), "channels": self.channels, "limit": self.limit,
            "base_rss": self.base.rss, "base_private": self.base.private,
            "idle": each(self.idle), "after_message": self.after_message.map(each),
            "idle_cpu_us_per_second": self.rest.map(|(cpu, _)| cpu),
        })
    }
}

const HEAD: [&str; 14] = [
    "case",
    "server",
    "channels",
    "base KiB",
    "private",
    "idle RSS",
    "private",
    "in use",
    "after message RSS",
    "private",
    "idle CPU us/s",
    "pings",
    "limit",
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

/// `port`: where Gannet tells its numbers.
fn settled(fleet: &mut Fleet, server: &Server, kind: Kind, port: u16) -> io::Result<Taken> {
    let memory = settled_memory(server.pid(), Duration::from_secs(10), |limit| fleet.turn(limit, |_, _, _| Ok(())))?;
    let in_use = if kind == Kind::Gannet { Some(in_use(port)?) } else { None };
    Ok(Taken { memory, in_use })
}

/// A server with TLS on its public port, and its clients.
struct Secured {
    options: Vec<String>,
    /// Where it tells its numbers without TLS.
    plain_port: u16,
    client: Arc<ClientConfig>,
    _identity: Identity,
}

fn secured(version: &'static SupportedProtocolVersion) -> io::Result<Secured> {
    let identity = Identity::new()?;
    let plain_port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    let mut options = identity.options().to_vec();
    options.push("--http_server.tls_external".to_owned());
    options.push(format!("--http_server.internal_port={plain_port}"));
    Ok(Secured { options, plain_port, client: identity.client(version)?, _identity: identity })
}

fn measure(flags: &Flags, case: Case, kind: Kind, channels: usize) -> io::Result<Row> {
    let mut extra = GANNET.to_vec();
    if case != Case::Cached {
        extra.extend(["--client.token_cache_size", "0"]);
    }
    extra.extend((case == Case::Personal).then_some(PERSONAL));
    let secured = case.version().map(secured).transpose()?;
    extra.extend(secured.iter().flat_map(|secured| secured.options.iter().map(String::as_str)));
    let server = Server::start(kind, Mode::Echo, &flags.place, &extra)?;
    let port = secured.as_ref().map_or(server.port, |secured| secured.plain_port);
    let dialect = if kind.profile() == Profile::Raw { Dialect::Raw } else { Dialect::Lines };
    let tls = secured.as_ref().map(|secured| secured.client.clone());
    let mut fleet = Fleet::new(Address { port: server.port, tls }, dialect)?;
    fleet.open(1, Duration::from_secs(10), |index| opening(kind, index, channels))?;
    send_large(&mut fleet, kind, 1, flags.message)?;
    let base = settled(&mut fleet, &server, kind, port)?;
    fleet.open(flags.clients, Duration::from_secs(120), |index| opening(kind, index + 1, channels))?;
    let idle = settled(&mut fleet, &server, kind, port)?;
    send_large(&mut fleet, kind, flags.clients, flags.message)?;
    let after = settled(&mut fleet, &server, kind, port)?;
    if case == Case::Personal {
        let occupied = occupied(server.port)?;
        let due = flags.clients + 1 + channels.min(flags.clients + 1);
        if occupied != due {
            return Err(io::Error::other(format!("{occupied} channels have subscribers where {due} were to be")));
        }
    }
    let rest = match flags.idle {
        0 => None,
        seconds => Some(watch_idle(&mut fleet, server.pid(), flags.clients, Duration::from_secs(seconds))?),
    };
    Ok(Row {
        case,
        kind,
        channels,
        limit: case.limit(flags).filter(|_| kind == Kind::Gannet),
        base: base.memory,
        idle: Each::of(base, idle, flags.clients),
        after_message: Some(Each::of(base, after, flags.clients)),
        rest,
    })
}

/// How many channels have subscribers, by the server API.
fn occupied(port: u16) -> io::Result<usize> {
    let mut count = None;
    Calls::open(port, 1)?.run(
        Bound { units: 1, time: Duration::from_secs(10) },
        |_, out| calls::request(out, "channels", "{}"),
        |body| {
            let answer: Value = serde_json::from_slice(body)?;
            count = answer["result"]["channels"].as_object().map(serde_json::Map::len);
            Ok(())
        },
        None,
    )?;
    count.ok_or_else(|| io::Error::other("the API told no channels"))
}

/// Publishes [`KEPT`] times to each of the channels with these numbers, to one after the other, and sees that all is kept.
fn fill(calls: &mut Calls, flags: &Flags, first: usize, channels: usize) -> io::Result<()> {
    let count = KEPT * channels as u64;
    let (mut full, last) = (0, format!("\"offset\":{KEPT}"));
    let bound = Bound { units: count, time: Duration::from_secs(600) };
    let load = calls.run(
        bound,
        |number, out| {
            let channel = first as u64 + number % channels as u64;
            calls::publish(out, &format!("kept:channel-{channel}"), flags.kept_size);
        },
        |body| {
            full += usize::from(memchr::memmem::find(body, last.as_bytes()).is_some());
            Ok(())
        },
        None,
    )?;
    if (load.units, full) != (count, channels) {
        let state = format!("{} of {count} were published, {full} of {channels} channels are full", load.units);
        return Err(io::Error::other(state));
    }
    Ok(())
}

fn measure_kept(flags: &Flags) -> io::Result<Row> {
    let server = Server::start(Kind::Gannet, Mode::Echo, &flags.place, &GANNET)?;
    let mut nobody = Fleet::new(server.port, Dialect::Lines)?;
    let mut calls = Calls::open(server.port, CALLERS)?;
    fill(&mut calls, flags, 0, 1)?;
    let base = settled(&mut nobody, &server, Kind::Gannet, server.port)?;
    fill(&mut calls, flags, 1, flags.kept_channels)?;
    let idle = settled(&mut nobody, &server, Kind::Gannet, server.port)?;
    Ok(Row {
        case: Case::Kept,
        kind: Kind::Gannet,
        channels: flags.kept_channels,
        limit: Case::Kept.limit(flags),
        base: base.memory,
        idle: Each::of(base, idle, flags.kept_channels),
        after_message: None,
        rest: None,
    })
}

fn measure_all(flags: &Flags) -> io::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for case in &flags.cases {
        if *case == Case::Kept {
            rows.push(measure_kept(flags)?);
            continue;
        }
        for kind in flags.servers.iter().filter(|kind| *case == Case::Shared || **kind == Kind::Gannet) {
            let channels = match (kind.profile(), case) {
                (Profile::Raw, _) => &[0],
                (_, Case::Cached | Case::Personal | Case::Tls | Case::Tls12) => &[1],
                _ => flags.channels.as_slice(),
            };
            for channels in channels {
                rows.push(measure(flags, *case, *kind, *channels)?);
            }
        }
    }
    Ok(rows)
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
    let rows = measure_all(flags)?;
    println!(
        "{} clients, bytes per client beyond the server with one; message of {} bytes; kept: bytes per channel beyond \
         the server with one, {KEPT} publications of {} bytes in each",
        flags.clients, flags.message, flags.kept_size
    );
    print_table(&HEAD, &rows.iter().map(Row::cells).collect::<Vec<_>>());
    let result = json!({
        "at_unix": now_unix(), "machine": machine::describe(), "clients": flags.clients,
        "message_bytes": flags.message, "kept_publications": KEPT, "kept_bytes": flags.kept_size, "rows": rows.iter().map(Row::json).collect::<Vec<_>>(),
    });
    println!("written to {}", write_result(&flags.results, "memory", &result)?.display());
    Ok(!flags.check || rows.iter().all(Row::within))
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
