//! What it costs to keep publications: in memory alone, in an archive on this disk, in a database; beside JetStream and
//! Redis streams on the same disk. And whether a page of a long stream costs what one of a short stream does.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::Parser;
use gannet_bench::account::{settled_cpu_ns, thread_cpu_ns};
use gannet_bench::backing::{Backing, BackingServer};
use gannet_bench::calls::{self, Calls};
use gannet_bench::figures::{Bound, Load, Spread, now_unix, print_table, three_digits, with_commas, write_result};
use gannet_bench::machine;
use gannet_bench::peer::Mode;
use gannet_bench::publisher::{Publisher, Texts, Tongue};
use gannet_bench::server::{Kind, Place, Server};
use serde_json::{Value, json};

const EXAMPLES: &str = "\
Gannet, nats-server and redis-server have one core in turn; databases and the publisher share the
other. A publication goes to one of many channels (subjects, keys) and has an answer of its own. With
many in flight a rate counts until all of it is in the archive, also where the answer does not wait.

Examples:
  durable --check              three repetitions; ends with 1 if a goal is missed; about five minutes
  durable --quick              a tenth of everything, once, and no file; about a minute
  durable --only rates         without the pages of a long stream; or --only pages
  durable --path /data/bench   on that disk: root of it must let the users postgres and mysql through

A result is written to bench/results/. Ends with 2 if the run itself failed. bench/durable builds
what is needed first.";

/// Measure publications that are kept
#[derive(Debug, Parser)]
#[command(after_help = EXAMPLES)]
struct Flags {
    #[command(flatten)]
    place: Place,
    /// Folder on the disk that is meant; what is written there is removed
    #[arg(long, default_value = "target/durable")]
    path: PathBuf,
    /// Bytes of a publication's data, which does not compress
    #[arg(long, default_value_t = 128)]
    size: usize,
    /// Channels that publications are spread over
    #[arg(long, default_value_t = 1000)]
    channels: u64,
    /// Connections of the publisher
    #[arg(long, default_value_t = 8)]
    connections: usize,
    /// Publications in flight on each
    #[arg(long, default_value_t = 64)]
    window: usize,
    /// Seconds for each way with many in flight; half of it one at a time
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// Repetitions, each with fresh servers, in turns
    #[arg(long, default_value_t = 3)]
    repetitions: usize,
    /// Publications of the long stream
    #[arg(long, default_value_t = 1_000_000)]
    long: u64,
    /// One part alone: rates, pages
    #[arg(long)]
    only: Option<String>,
    /// A tenth of everything, once, and no file
    #[arg(long)]
    quick: bool,
    /// Exit with 1 if a goal is missed
    #[arg(long)]
    check: bool,
    /// Folder for the JSON result
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/results"))]
    results: PathBuf,
}

impl Flags {
    /// So much, or a tenth of it.
    fn part(&self, full: u64) -> u64 {
        if self.quick { full.div_ceil(10) } else { full }
    }

    fn repetitions(&self) -> usize {
        if self.quick { 1 } else { self.repetitions.max(1) }
    }

    fn does(&self, part: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == part)
    }

    fn texts(&self) -> Texts {
        Texts::new(self.size)
    }
}

/// One way to keep publications.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Way {
    name: &'static str,
    /// Of Gannet; the others have none.
    durability: Option<&'static str>,
    backing: Option<Backing>,
}

const NONE: &str = "gannet, none";
const BATCHED: &str = "gannet, batched, embedded";
const SYNC: &str = "gannet, sync, embedded";
const JETSTREAM: &str = "jetstream";
const JETSTREAM_ALWAYS: &str = "jetstream, sync_interval always";
const REDIS: &str = "redis streams, everysec";

const fn gannet_way(name: &'static str, durability: &'static str, backing: Option<Backing>) -> Way {
    Way { name, durability: Some(durability), backing }
}

const fn rival(name: &'static str, backing: Backing) -> Way {
    Way { name, durability: None, backing: Some(backing) }
}

const WAYS: [Way; 11] = [
    gannet_way(NONE, "none", None),
    gannet_way(BATCHED, "batched", None),
    rival(JETSTREAM, Backing::Nats(false)),
    rival(REDIS, Backing::Redis(false)),
    gannet_way(SYNC, "sync", None),
    rival(JETSTREAM_ALWAYS, Backing::Nats(true)),
    rival("redis streams, always", Backing::Redis(true)),
    gannet_way("gannet, batched, postgresql", "batched", Some(Backing::Postgres)),
    gannet_way("gannet, sync, postgresql", "sync", Some(Backing::Postgres)),
    gannet_way("gannet, batched, mysql", "batched", Some(Backing::MariaDb)),
    gannet_way("gannet, sync, mysql", "sync", Some(Backing::MariaDb)),
];

/// What must be kept: publications a second of one way by those of another, at least.
const RATES: [(&str, &str); 3] = [(BATCHED, JETSTREAM), (BATCHED, REDIS), (SYNC, JETSTREAM_ALWAYS)];
/// CPU time of the reactor for a publication that is archived by that of one that is not, at most.
const REACTOR_LIMIT: f64 = 1.1;
/// A page of the long stream by one of the short one, at most.
const PAGE_LIMIT: f64 = 1.25;
const SHORT: u64 = 1000;
const PAGE: u64 = 100;

/// Everything that serves one way. What is listed last ends last.
struct Stage {
    gannet: Option<Server>,
    backing: Option<BackingServer>,
}

impl Stage {
    /// Servers with nothing in them. `at`: a number that no stage had before.
    fn set(flags: &Flags, way: Way, at: usize) -> io::Result<Self> {
        let is_database = matches!(way.backing, Some(Backing::Postgres | Backing::MariaDb));
        let core = if is_database { flags.place.loader_core } else { flags.place.server_core };
        let folder = match way.backing {
            // Databases are made once; what is in them is not.
            Some(backing) if is_database => flags.path.join(format!("{backing:?}")),
            _ => flags.path.join(format!("stage-{at}")),
        };
        let backing = way.backing.map(|backing| BackingServer::start(backing, &folder, core)).transpose()?;
        let Some(durability) = way.durability else { return Ok(Self { gannet: None, backing }) };
        let mut options = match (&backing, way.backing) {
            (Some(server), Some(backing)) => {
                let kind = if backing == Backing::Postgres { "postgresql" } else { "mysql" };
                let dsn = server.database(&format!("stage_{at}"))?;
                vec!["--durable.type".into(), kind.into(), format!("--durable.{kind}.dsn"), dsn]
            }
            _ => vec!["--durable.path".into(), folder.join("archive").display().to_string()],
        };
        if durability == "none" {
            options.clear();
        }
        let namespaces = json!([{
            "name": "hi", "history_size": 100, "history_ttl": "1h", "history_durability": durability,
            "archive_size": 0,
        }]);
        options.extend(["--channel.namespaces".into(), namespaces.to_string()]);
        if backing.is_some() {
            migrate(flags, &options)?;
        }
        // All of it is counted until it is archived, so none of it may be turned away.
        let fixed = ["--client.insecure", "--prometheus.enabled", "--durable.queue_size", "4GiB"];
        let options: Vec<&str> = options.iter().map(String::as_str).chain(fixed).collect();
        let options = [&options[..], &["--http_api.key", calls::KEY]].concat();
        let gannet = Server::start(Kind::Gannet, Mode::Fanout, &flags.place, &options)?;
        let stage = Self { gannet: Some(gannet), backing };
        if durability != "none" {
            stage.until("the archive is up", |metrics| metrics("up") == 1)?;
        }
        Ok(stage)
    }

    fn tongue(&self) -> Tongue {
        match (&self.gannet, self.backing.as_ref().map(BackingServer::kind)) {
            (None, Some(Backing::Redis(_))) => Tongue::Redis,
            (None, _) => Tongue::JetStream,
            _ => Tongue::Gannet,
        }
    }

    fn pid_and_port(&self) -> io::Result<(u32, u16)> {
        let gannet = self.gannet.as_ref().map(|server| (server.pid(), server.port));
        let backing = self.backing.as_ref().map(|server| (server.pid(), server.port));
        gannet.or(backing).ok_or_else(|| io::Error::other("a stage without a server"))
    }

    fn publisher(&self, flags: &Flags, connections: usize) -> io::Result<Publisher> {
        Publisher::open(self.tongue(), self.pid_and_port()?.1, connections, flags.texts())
    }

    /// Waits for what Gannet's archive counts.
    fn until(&self, what: &str, is_so: impl Fn(&dyn Fn(&str) -> u64) -> bool) -> io::Result<()> {
        let end = Instant::now() + Duration::from_secs(120);
        loop {
            let page = get(self.pid_and_port()?.1, "/metrics")?;
            let metric = |name: &str| {
                let line = page.lines().find_map(|line| line.strip_prefix("gannet_archive_")?.strip_prefix(name));
                line.and_then(|value| value.trim().parse::<f64>().ok()).unwrap_or(0.0) as u64
            };
            let turned_away = metric("unarchived_total") + metric("lost_total") + metric("errors_total");
            if turned_away > 0 {
                return Err(io::Error::other(format!("{turned_away} publications did not come to the archive")));
            }
            if is_so(&metric) {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(io::Error::other(format!("{what}: not in time")));
            }
            sleep(Duration::from_millis(5));
        }
    }

    /// Waits until the archive has so many publications.
    fn archived(&self, count: u64) -> io::Result<()> {
        self.until("all is archived", |metric| metric("appended_total") >= count)
    }
}

fn migrate(flags: &Flags, options: &[String]) -> io::Result<()> {
    let mut command = Command::new(flags.place.program(Kind::Gannet)?);
    let output = command.args(["durable", "migrate"]).args(options).output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned())),
    }
}

/// The body that a page has.
fn get(port: u16, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    match text.starts_with("HTTP/1.1 200") {
        true => Ok(text),
        false => Err(io::Error::other(format!("{path}: {}", text.lines().next().unwrap_or_default()))),
    }
}

/// What one way did in one repetition.
#[derive(Clone, Copy, Debug)]
struct Figures {
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    /// Microseconds of CPU for a publication: of all threads, and of the reactor.
    cpu_us: f64,
    reactor_us: f64,
    /// One at a time.
    alone_per_second: f64,
    alone_p50_ms: f64,
    alone_p99_ms: f64,
}

type FigureOf = fn(&Figures) -> f64;

fn ms(load: &Load, at: f64) -> f64 {
    load.latency.value_at_quantile(at) as f64 / 1e6
}

fn rates_of(flags: &Flags, way: Way, at: usize) -> io::Result<Figures> {
    let stage = Stage::set(flags, way, at)?;
    // What others wrote is not to be written during this.
    Command::new("sync").status()?;
    let (pid, _) = stage.pid_and_port()?;
    let mut many = stage.publisher(flags, flags.connections)?;
    let channels = flags.channels.max(1);
    let channel = |number: u64| format!("hi{}{}", if stage.gannet.is_some() { ":" } else { "." }, number % channels);
    // Streams are there before the clock runs.
    let first = many.run(flags.window, Bound { units: channels, time: Duration::from_secs(60) }, channel)?;
    let is_archived = way.durability.is_some_and(|durability| durability != "none");
    if is_archived {
        stage.archived(first.units)?;
    }
    let (cpu, reactor) = (settled_cpu_ns(pid)?, thread_cpu_ns(pid, "reactor")?);
    let began = Instant::now();
    let time = Duration::from_millis(flags.part(flags.seconds * 1000));
    let load = many.run(flags.window, Bound { units: u64::MAX / 2, time }, channel)?;
    if is_archived {
        stage.archived(first.units + load.units)?;
    }
    let wall = began.elapsed().as_secs_f64();
    let (cpu, reactor) = (settled_cpu_ns(pid)? - cpu, thread_cpu_ns(pid, "reactor")? - reactor);
    drop(many);
    let alone = stage.publisher(flags, 1)?.run(1, Bound { units: u64::MAX / 2, time: time / 2 }, channel)?;
    let units = load.units as f64;
    Ok(Figures {
        per_second: units / wall,
        p50_ms: ms(&load, 0.5),
        p99_ms: ms(&load, 0.99),
        cpu_us: cpu as f64 / 1e3 / units,
        reactor_us: reactor as f64 / 1e3 / units,
        alone_per_second: alone.units as f64 / alone.wall.as_secs_f64(),
        alone_p50_ms: ms(&alone, 0.5),
        alone_p99_ms: ms(&alone, 0.99),
    })
}

/// Milliseconds that 4 KiB take to the disk, without anybody's code.
fn disk_ms(folder: &Path) -> io::Result<f64> {
    let path = folder.join("probe");
    let mut file = fs::File::create(&path)?;
    let mut took = Vec::new();
    for _ in 0..50 {
        let began = Instant::now();
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
        took.push(began.elapsed().as_secs_f64() * 1e3);
    }
    fs::remove_file(&path)?;
    Ok(Spread::of_repetitions(took)?.median)
}

/// A verdict that also goes into the result.
struct Found {
    result: Value,
    kept: bool,
}

impl Found {
    fn goal(&mut self, what: String, figure: f64, limit: &str, is_kept: bool) {
        self.kept &= is_kept;
        let verdict = if is_kept { "kept" } else { "MISSED" };
        println!("{what}: {figure:.3}, {limit}: {verdict}");
        let goal = json!({"what": what, "figure": three_digits(figure), "limit": limit, "kept": is_kept});
        if let Some(goals) = self.result["goals"].as_array_mut() {
            goals.push(goal);
        }
    }
}

fn rates(flags: &Flags, found: &mut Found) -> io::Result<()> {
    let mut ways: Vec<Way> = Vec::new();
    for way in WAYS {
        match way.backing.and_then(Backing::left_out) {
            Some(why) => println!("{} is left out: {why}", way.name),
            None => ways.push(way),
        }
    }
    let mut all: Vec<Vec<Figures>> = vec![Vec::new(); ways.len()];
    let mut disk = Vec::new();
    for repetition in 0..flags.repetitions() {
        disk.push(disk_ms(&flags.path)?);
        let mut order: Vec<usize> = (0..ways.len()).collect();
        if repetition % 2 == 1 {
            order.reverse();
        }
        for at in order {
            let stage = repetition * WAYS.len() + at;
            let figures = rates_of(flags, ways[at], stage);
            all[at].push(figures.map_err(|error| io::Error::other(format!("{}: {error}", ways[at].name)))?);
            let _ = fs::remove_dir_all(flags.path.join(format!("stage-{stage}")));
        }
    }
    let spread = |at: usize, of: FigureOf| Spread::of_repetitions(all[at].iter().map(of));
    let disk = Spread::of_repetitions(disk)?;
    println!("4 KiB are on this disk after {disk} ms; {} in flight", flags.connections * flags.window);
    let mut rows = Vec::new();
    for (at, way) in ways.iter().enumerate() {
        let columns: [(&str, FigureOf); 8] = [
            ("per_second", |it| it.per_second),
            ("p50_ms", |it| it.p50_ms),
            ("p99_ms", |it| it.p99_ms),
            ("cpu_us", |it| it.cpu_us),
            ("reactor_us", |it| it.reactor_us),
            ("alone_per_second", |it| it.alone_per_second),
            ("alone_p50_ms", |it| it.alone_p50_ms),
            ("alone_p99_ms", |it| it.alone_p99_ms),
        ];
        let (mut row, mut entry) = (vec![way.name.to_owned()], json!({"way": way.name}));
        for (name, of) in columns {
            let Spread { median, min, max } = spread(at, of)?;
            let text =
                if name.ends_with("second") { with_commas(three_digits(median)) } else { format!("{median:.3}") };
            row.push(text);
            entry[name] = json!({"median": three_digits(median), "min": three_digits(min), "max": three_digits(max)});
        }
        let Spread { min, max, .. } = spread(at, |it| it.per_second)?;
        row.insert(2, format!("{}..{}", with_commas(three_digits(min)), with_commas(three_digits(max))));
        rows.push(row);
        if let Some(entries) = found.result["rates"].as_array_mut() {
            entries.push(entry);
        }
    }
    let head =
        ["", "a second", "from..to", "p50 ms", "p99 ms", "CPU us", "reactor us", "one by one", "p50 ms", "p99 ms"];
    print_table(&head, &rows);
    found.result["disk_ms"] = json!(three_digits(disk.median));
    let place = |name: &str| ways.iter().position(|way| way.name == name);
    let ratio = |of: fn(&Figures) -> f64, ours: &str, theirs: &str| -> io::Result<Option<f64>> {
        let (Some(ours), Some(theirs)) = (place(ours), place(theirs)) else { return Ok(None) };
        let ratios = all[ours].iter().zip(&all[theirs]).map(|(ours, theirs)| of(ours) / of(theirs));
        Ok(Some(Spread::of_repetitions(ratios)?.median))
    };
    for (ours, theirs) in RATES {
        if let Some(figure) = ratio(|it| it.per_second, ours, theirs)? {
            found.goal(format!("{ours}, by {theirs}"), figure, "at least 1", figure >= 1.0);
        }
    }
    if let Some(figure) = ratio(|it| it.reactor_us, BATCHED, NONE)? {
        let limit = format!("at most {REACTOR_LIMIT}");
        found.goal("CPU of the reactor, batched by none".into(), figure, &limit, figure <= REACTOR_LIMIT);
    }
    Ok(())
}

/// Milliseconds that pages of 100 take, one after the other: those of a stream with so many publications.
fn pages_of(flags: &Flags, stage: &Stage, channel: &str, count: u64, reverse: bool) -> io::Result<Vec<f64>> {
    let mut api = Calls::open(stage.pid_and_port()?.1, 1)?;
    let (mut epoch, mut state) = (String::new(), 99_u64);
    let ask = json!({ "channel": channel }).to_string();
    let one = Bound { units: 1, time: Duration::from_secs(60) };
    let standing = |body: &[u8]| {
        let answer: Value = serde_json::from_slice(body)?;
        epoch = answer["result"]["epoch"].as_str().unwrap_or_default().to_owned();
        Ok(())
    };
    api.run(one, |_, out: &mut Vec<u8>| calls::request(out, "history", &ask), standing, None)?;
    let bound = Bound { units: flags.part(500), time: Duration::from_secs(60) };
    // Below what memory has.
    let room = count - PAGE - 100;
    let fill = |_, out: &mut Vec<u8>| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let offset = state % room + if reverse { PAGE + 1 } else { 0 };
        let since = json!({"offset": offset, "epoch": epoch});
        let ask = json!({"channel": channel, "limit": PAGE, "reverse": reverse, "since": since});
        calls::request(out, "history", &ask.to_string());
    };
    let whole = |body: &[u8]| match memchr::memmem::find_iter(body, b"\"offset\":").count() as u64 {
        got if got >= PAGE => Ok(()),
        got => Err(io::Error::other(format!("{got} publications in a page"))),
    };
    let load = api.run(bound, fill, whole, None)?;
    Ok(vec![ms(&load, 0.5), ms(&load, 0.99)])
}

fn pages(flags: &Flags, found: &mut Found) -> io::Result<()> {
    let stores = [
        gannet_way("embedded", "batched", None),
        gannet_way("postgresql", "batched", Some(Backing::Postgres)),
        gannet_way("mysql", "batched", Some(Backing::MariaDb)),
    ];
    let mut rows = Vec::new();
    for (at, way) in (900..).zip(stores) {
        if let Some(why) = way.backing.and_then(Backing::left_out) {
            println!("pages of {} are left out: {why}", way.name);
            continue;
        }
        let stage = Stage::set(flags, way, at)?;
        let mut publisher = stage.publisher(flags, flags.connections)?;
        let mut written = 0;
        for (channel, count) in [("hi:short", SHORT), ("hi:long", flags.part(flags.long).max(2 * SHORT))] {
            let all = written + count;
            while written < all {
                let units = (all - written).min(100_000);
                let bound = Bound { units, time: Duration::from_secs(600) };
                written += publisher.run(flags.window, bound, |_| channel.to_owned())?.units;
                stage.archived(written)?;
            }
        }
        let long = written - SHORT;
        for reverse in [false, true] {
            let (mut short, mut of_long) = (Vec::new(), Vec::new());
            for _ in 0..flags.repetitions() {
                short.push(pages_of(flags, &stage, "hi:short", SHORT, reverse)?);
                of_long.push(pages_of(flags, &stage, "hi:long", long, reverse)?);
            }
            let median = |all: &[Vec<f64>], at: usize| Spread::of_repetitions(all.iter().map(|one| one[at]));
            let ratio = Spread::of_repetitions(of_long.iter().zip(&short).map(|(long, short)| long[0] / short[0]))?;
            let way_round = if reverse { "backwards" } else { "forwards" };
            let name = format!("{}, {way_round}", way.name);
            let figures = [median(&short, 0)?, median(&short, 1)?, median(&of_long, 0)?, median(&of_long, 1)?];
            let mut row = vec![name.clone()];
            row.extend(figures.iter().map(|figure| format!("{:.3}", figure.median)));
            rows.push(row);
            let [short_p50, short_p99, long_p50, long_p99] = figures.map(|figure| three_digits(figure.median));
            let entry = json!({"store": name, "publications": long, "short_p50_ms": short_p50,
                "short_p99_ms": short_p99, "long_p50_ms": long_p50, "long_p99_ms": long_p99});
            if let Some(entries) = found.result["pages"].as_array_mut() {
                entries.push(entry);
            }
            let what = format!("a page of {long} by one of {SHORT}, {name}");
            found.goal(what, ratio.median, &format!("at most {PAGE_LIMIT}"), ratio.median <= PAGE_LIMIT);
        }
        drop(stage);
        let _ = fs::remove_dir_all(flags.path.join(format!("stage-{at}")));
    }
    print_table(&["a page of 100", "of 1,000: p50 ms", "p99 ms", "of the long one: p50 ms", "p99 ms"], &rows);
    Ok(())
}

fn run(flags: &Flags) -> io::Result<bool> {
    machine::raise_descriptors()?;
    machine::pin(flags.place.loader_core)?;
    let _ = fs::remove_dir_all(&flags.path);
    fs::create_dir_all(&flags.path)?;
    let flags = &Flags {
        path: flags.path.canonicalize()?,
        place: flags.place.clone(),
        only: flags.only.clone(),
        results: flags.results.clone(),
        ..*flags
    };
    let mut found = Found {
        result: json!({
            "at_unix": now_unix(), "machine": machine::describe(), "repetitions": flags.repetitions(),
            "data_bytes": flags.size, "channels": flags.channels, "in_flight": flags.connections * flags.window,
            "rates": [], "pages": [], "goals": [],
        }),
        kept: true,
    };
    let done = measure(flags, &mut found);
    let _ = fs::remove_dir_all(&flags.path);
    done?;
    found.result["kept"] = found.kept.into();
    if !flags.quick {
        println!("written to {}", write_result(&flags.results, "durable", &found.result)?.display());
    }
    Ok(found.kept || !flags.check)
}

fn measure(flags: &Flags, found: &mut Found) -> io::Result<()> {
    if flags.does("rates") {
        rates(flags, found)?;
    }
    if flags.does("pages") {
        pages(flags, found)?;
    }
    Ok(())
}

fn main() -> ExitCode {
    match run(&Flags::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("durable: {error}");
            ExitCode::from(2)
        }
    }
}
