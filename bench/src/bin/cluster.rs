//! What channels in a Redis cost a node, beside a node of the library that Centrifugo is made of: CPU time for each
//! publication and delivery, publications a second, latency from one node to another; and, of Gannet alone, memory of a
//! channel and what many members that are present cost.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::Parser;
use gannet_bench::account::{cpu_ns, in_use, settled_memory};
use gannet_bench::calls::{self, Calls};
use gannet_bench::fanout::Fanout;
use gannet_bench::figures::{Bound, Spread, histogram, now_unix, print_table, write_result};
use gannet_bench::fleet::{Fleet, Opening};
use gannet_bench::peer::Mode;
use gannet_bench::server::{Kind, Place, Server, bound_to_us};
use gannet_bench::wire::{Dialect, client_frame};
use gannet_bench::{centrifugal, machine};
use serde_json::{Value, json};

const EXAMPLES: &str = "\
The node has one core; redis-server and the load generator share the other. Nodes take turns inside
a repetition, each with a Redis of its own that is empty at its start.

Examples:
  cluster --check              three repetitions; ends with 1 if a goal is missed
  cluster --quick              a tenth of everything, once, and no file
  cluster --only latency       one part: cost, latency, memory or presence

A result is written to bench/results/. Ends with 2 if the run itself failed. bench/cluster builds
what is needed first.";

/// Measure channels that live in Redis
#[derive(Debug, Parser)]
#[command(after_help = EXAMPLES)]
struct Flags {
    #[command(flatten)]
    place: Place,
    /// Bytes of a publication's data
    #[arg(long, default_value_t = 128)]
    size: usize,
    /// Repetitions, each with fresh servers
    #[arg(long, default_value_t = 3)]
    repetitions: usize,
    /// Clients that are present in one channel, half of them on each of two nodes
    #[arg(long, default_value_t = 20_000)]
    members: usize,
    /// One part alone: cost, latency, memory, presence
    #[arg(long)]
    only: Option<String>,
    /// A tenth of everything, once, and no file
    #[arg(long)]
    quick: bool,
    /// Exit with 1 if a goal is missed
    #[arg(long)]
    check: bool,
    /// Hold so many clients of a node (PORT:CLIENTS) until the input ends: what this program starts for each node
    #[arg(long, hide = true, value_name = "PORT:CLIENTS", value_parser = held)]
    hold: Option<(u16, usize)>,
    /// Folder for the JSON result
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/results"))]
    results: PathBuf,
}

const NODES: [Kind; 2] = [Kind::Gannet, Kind::Centrifuge];
const PLAIN: &str = "bench";
const KEPT: &str = "hi:bench";
/// Channel, subscribers, publications in flight, and the most of the library's CPU time that is promised.
const SHAPES: [(&str, usize, usize, f64); 8] = [
    (PLAIN, 1, 64, 0.25),
    (PLAIN, 100, 64, 0.10),
    (PLAIN, 1000, 64, 0.10),
    (PLAIN, 1, 1, 0.50),
    (PLAIN, 100, 1, 0.50),
    (PLAIN, 1000, 1, 0.50),
    (KEPT, 1, 64, 0.25),
    (KEPT, 1, 1, 0.50),
];
const NAMESPACES: &str = r#"[{"name":"hi","history_size":100,"history_ttl":"10m","force_recovery":true},
    {"name":"pr","presence":true}]"#;
/// Bytes that a channel in Redis may take beyond one in memory.
const CHANNEL_LIMIT: f64 = 100.0;
const STATS_LIMIT_MS: f64 = 5.0;
/// What a process says whose clients are there.
const HELD: &str = "held\n";

fn held(text: &str) -> Result<(u16, usize), String> {
    let (port, clients) = text.split_once(':').ok_or("expected PORT:CLIENTS")?;
    Ok((port.parse().map_err(|_| "expected a port")?, clients.parse().map_err(|_| "expected a number")?))
}

impl Flags {
    /// So much, or a tenth of it.
    fn part(&self, full: u64) -> u64 {
        if self.quick { full.div_ceil(10) } else { full }
    }

    fn does(&self, part: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == part)
    }
}

/// A redis-server of this run, on the loader's core.
struct Redis {
    child: Child,
    port: u16,
}

impl Redis {
    fn start(flags: &Flags) -> io::Result<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let mut command = bound_to_us(&["taskset", "--cpu-list", &flags.place.loader_core.to_string()]);
        command.args(["redis-server", "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        command.args(["--port", &port.to_string()]).stdin(Stdio::null()).stdout(Stdio::null());
        let redis = Self { child: command.spawn()?, port };
        let end = Instant::now() + Duration::from_secs(10);
        while redis.ask(&["PING"])?.trim() != "PONG" {
            if Instant::now() > end {
                return Err(io::Error::other("redis-server does not answer"));
            }
            sleep(Duration::from_millis(20));
        }
        Ok(redis)
    }

    fn ask(&self, words: &[&str]) -> io::Result<String> {
        let output = Command::new("redis-cli").args(["-p", &self.port.to_string()]).args(words).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Commands, and scripts among them, that it was sent so far.
    fn commands(&self) -> io::Result<(u64, u64)> {
        let text = self.ask(&["INFO", "all"])?;
        let number = |from: &str, to: char| {
            let rest = text.lines().find_map(|line| line.strip_prefix(from)).unwrap_or("0");
            rest.split(to).next().and_then(|digits| digits.trim().parse::<u64>().ok()).unwrap_or(0)
        };
        let scripts = number("cmdstat_evalsha:calls=", ',') + number("cmdstat_eval:calls=", ',');
        Ok((number("total_commands_processed:", '\n'), scripts))
    }

    /// A node over it.
    fn node(&self, kind: Kind, flags: &Flags, more: &[&str]) -> io::Result<Server> {
        let place = format!("127.0.0.1:{}", self.port);
        if kind == Kind::Centrifuge {
            return Server::start(kind, Mode::Fanout, &flags.place, &["--redis", &place]);
        }
        let options = ["--engine.type=redis", "--engine.redis.address", &place, "--health.enabled"];
        let server = gannet(flags, &[&options[..], more].concat())?;
        until_ready(server.port)?;
        Ok(server)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn gannet(flags: &Flags, more: &[&str]) -> io::Result<Server> {
    let options =
        ["--client.insecure", "--prometheus.enabled", "--http_api.key", calls::KEY, "--channel.namespaces", NAMESPACES];
    Server::start(Kind::Gannet, Mode::Fanout, &flags.place, &[&options[..], more].concat())
}

/// Until the node has reached its Redis.
fn until_ready(port: u16) -> io::Result<()> {
    use std::io::Read;
    for _ in 0..200 {
        let mut stream = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /health/ready HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        if head.ends_with(b"200") {
            return Ok(());
        }
        sleep(Duration::from_millis(50));
    }
    Err(io::Error::other("the node does not reach its Redis"))
}

/// The CPU time and the rate of one node, in one shape and repetition.
struct Cost {
    shape: usize,
    kind: Kind,
    /// Microseconds of CPU for each delivery; with one subscriber, for publishing and delivering.
    cpu_us: f64,
    publications_per_second: f64,
}

fn cost(flags: &Flags, kind: Kind, shape: usize) -> io::Result<Cost> {
    let (channel, subscribers, burst, _) = SHAPES[shape];
    let redis = Redis::start(flags)?;
    let server = redis.node(kind, flags, &[])?;
    let mut fanout = Fanout::open_in(channel, server.port, kind.profile(), subscribers, flags.size)?;
    let bound = |share: u64| Bound {
        units: flags.part(400_000) / share,
        time: Duration::from_millis(flags.part(8000) / share),
    };
    fanout.run(burst, bound(10))?;
    let before = server.settled_cpu_ns()?;
    let load = fanout.run(burst, bound(1))?;
    let used = server.settled_cpu_ns()? - before;
    Ok(Cost {
        shape,
        kind,
        cpu_us: used as f64 / 1e3 / load.units as f64,
        publications_per_second: load.units as f64 / subscribers as f64 / load.wall.as_secs_f64(),
    })
}

/// Milliseconds from a publication on one node until a subscriber of another has it, at `rate` a second.
fn latency(flags: &Flags, kind: Kind, rate: f64) -> io::Result<(f64, f64)> {
    let redis = Redis::start(flags)?;
    let (here, there) = (redis.node(kind, flags, &[])?, redis.node(kind, flags, &[])?);
    let limit = Duration::from_secs(30);
    let mut publisher = Fleet::new(here.port, Dialect::Lines)?;
    publisher.open(1, limit, |_| Ok(Opening::centrifugal(centrifugal::connect(None), 1)))?;
    let mut subscriber = Fleet::new(there.port, Dialect::Lines)?;
    let joins = centrifugal::connect_and_subscribe(None, PLAIN);
    subscriber.open(1, limit, |_| Ok(Opening::centrifugal(joins.clone(), 2)))?;
    let count = ((flags.part(10_000) as f64 / 1e3) * rate).max(20.0) as usize;
    let (mut sent, mut heard, mut taken) = (Vec::with_capacity(count), 0, histogram()?);
    let began = Instant::now();
    while heard < count {
        let due = began + Duration::from_secs_f64(sent.len() as f64 / rate);
        if sent.len() < count && Instant::now() >= due {
            let mut frame = Vec::new();
            client_frame(&mut frame, centrifugal::publish(sent.len() + 2, PLAIN, flags.size).as_bytes());
            // From when it was due: what waits for this loop counts, too.
            sent.push(due);
            publisher.client(0).send(&frame)?;
        }
        publisher.turn(Duration::ZERO, |_, _, _| Ok(()))?;
        subscriber.turn(Duration::ZERO, |_, _, got| {
            for _ in 0..got.messages {
                let since = sent.get(heard).ok_or_else(|| io::Error::other("more was heard than was said"))?;
                taken.saturating_record(since.elapsed().as_nanos() as u64);
                heard += 1;
            }
            Ok(())
        })?;
        if began.elapsed() > limit + Duration::from_secs_f64(count as f64 / rate) {
            return Err(io::Error::other(format!("{heard} of {count} publications came in time")));
        }
    }
    let ms = |at| taken.value_at_quantile(at) as f64 / 1e6;
    Ok((ms(0.5), ms(0.99)))
}

/// Bytes that channels with a position and one subscriber each take, of a node with that engine: those in use by its
/// allocator. Pages that a burst of subscriptions leaves behind come back later and are no channel's.
fn channel_bytes(flags: &Flags, redis: Option<&Redis>) -> io::Result<f64> {
    const EACH: usize = 100;
    let clients = flags.part(200) as usize;
    let server = match redis {
        Some(redis) => redis.node(Kind::Gannet, flags, &[])?,
        None => gannet(flags, &[])?,
    };
    let mut fleet = Fleet::new(server.port, Dialect::Lines)?;
    let limit = Duration::from_secs(60);
    // Clients without a channel come first, so that the cost of a connection is not counted for a channel.
    fleet.open(clients, limit, |_| Ok(Opening::centrifugal(centrifugal::connect(None), 1)))?;
    let settled = |fleet: &mut Fleet| {
        settled_memory(server.pid(), Duration::from_secs(20), |pause| fleet.turn(pause, |_, _, _| Ok(())))?;
        in_use(server.port)
    };
    let before = settled(&mut fleet)?;
    fleet.open(clients, limit, |index| {
        let names: Vec<String> = (0..EACH).map(|at| format!("hi:{index}.{at}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        Ok(Opening::centrifugal(centrifugal::connect_and_subscribe_all(None, &names), EACH as u64 + 1))
    })?;
    let after = settled(&mut fleet)?;
    Ok(after.saturating_sub(before) as f64 / (clients * EACH) as f64)
}

/// Who is present on one node, in a process of its own: one has too few descriptors for both halves.
struct Members {
    child: Child,
}

impl Members {
    fn start(port: u16, clients: usize) -> io::Result<Self> {
        let mut command = bound_to_us(&[&std::env::current_exe()?.to_string_lossy()]);
        command.args(["--hold", &format!("{port}:{clients}")]).stdin(Stdio::piped()).stdout(Stdio::piped());
        Ok(Self { child: command.spawn()? })
    }

    /// Until all of them are there.
    fn wait(&mut self) -> io::Result<()> {
        let output = self.child.stdout.take().ok_or_else(|| io::Error::other("it has no output"))?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        if line == HELD { Ok(()) } else { Err(io::Error::other("members did not come")) }
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What that process is: it says a line when its clients are there, and ends with its input.
fn hold((port, clients): (u16, usize)) -> io::Result<bool> {
    machine::raise_descriptors()?;
    let mut fleet = Fleet::new(port, Dialect::Lines)?;
    let joins = centrifugal::connect_and_subscribe(None, "pr:many");
    fleet.open(clients, Duration::from_secs(120), |_| Ok(Opening::centrifugal(joins.clone(), 2)))?;
    print!("{HELD}");
    io::stdout().flush()?;
    let (ended, end) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        ended.send(())
    });
    while end.try_recv().is_err() {
        fleet.turn(Duration::from_millis(100), |_, _, _| Ok(()))?;
    }
    Ok(true)
}

struct Presence {
    members: usize,
    commands_per_second: f64,
    scripts_per_second: f64,
    cpu_share: f64,
    stats_ms: (f64, f64),
}

/// Members on two nodes, who are named again all the time.
fn presence(flags: &Flags, members: usize) -> io::Result<Presence> {
    let redis = Redis::start(flags)?;
    let counts = ["--engine.redis.presence_user_mapping"];
    let nodes = [redis.node(Kind::Gannet, flags, &counts)?, redis.node(Kind::Gannet, flags, &counts)?];
    let half = (flags.part(members as u64) / 2) as usize;
    let mut all = Vec::new();
    for node in &nodes {
        let mut members = Members::start(node.port, half)?;
        members.wait()?;
        all.push(members);
    }
    sleep(Duration::from_secs(2));
    let (before, used, began) = (redis.commands()?, cpu_ns(nodes[0].pid())?, Instant::now());
    sleep(Duration::from_secs(flags.part(60)));
    let (after, used, took) = (redis.commands()?, cpu_ns(nodes[0].pid())? - used, began.elapsed().as_secs_f64());
    let mut api = Calls::open(nodes[1].port, 1)?;
    let bound = Bound { units: flags.part(1000), time: Duration::from_secs(30) };
    let fill = |_, request: &mut Vec<u8>| calls::request(request, "presence_stats", r#"{"channel":"pr:many"}"#);
    let expected = format!("\"num_clients\":{}", 2 * half);
    let answered = |body: &[u8]| match String::from_utf8_lossy(body).contains(&expected) {
        true => Ok(()),
        false => Err(io::Error::other(format!("{}, not {expected}", String::from_utf8_lossy(body)))),
    };
    let load = api.run(bound, fill, answered, None)?;
    let ms = |at| load.latency.value_at_quantile(at) as f64 / 1e6;
    Ok(Presence {
        members: 2 * half,
        commands_per_second: (after.0 - before.0) as f64 / took,
        scripts_per_second: (after.1 - before.1) as f64 / took,
        cpu_share: used as f64 / 1e9 / took,
        stats_ms: (ms(0.5), ms(0.99)),
    })
}

/// The results so far, and whether every goal is kept.
struct Found {
    result: Value,
    kept: bool,
}

impl Found {
    fn goal(&mut self, kept: bool) -> &'static str {
        self.kept &= kept;
        if kept { "kept" } else { "MISSED" }
    }
}

fn costs(flags: &Flags, nodes: &[Kind], found: &mut Found) -> io::Result<Vec<Cost>> {
    let mut all = Vec::new();
    let repetitions = if flags.quick { 1 } else { flags.repetitions };
    for repetition in 1..=repetitions {
        for shape in 0..SHAPES.len() {
            for kind in nodes {
                all.push(cost(flags, *kind, shape)?);
            }
        }
        eprintln!("repetition {repetition} of {repetitions}");
    }
    let (mut rows, mut json_rows) = (Vec::new(), Vec::new());
    for (at, (channel, subscribers, burst, goal)) in SHAPES.into_iter().enumerate() {
        let of = |kind: Kind, figure: fn(&Cost) -> f64| -> Vec<f64> {
            all.iter().filter(|cost| (cost.shape, cost.kind) == (at, kind)).map(figure).collect()
        };
        let ours = Spread::of_repetitions(of(Kind::Gannet, |cost| cost.cpu_us))?;
        let theirs = Spread::of(&of(Kind::Centrifuge, |cost| cost.cpu_us));
        let per_second = |kind| Spread::of(&of(kind, |cost| cost.publications_per_second)).map_or(0.0, |it| it.median);
        let ratio = theirs.map(|theirs| ours.median / theirs.median);
        let verdict = ratio.map_or("no peer", |ratio| found.goal(ratio <= goal));
        rows.push(vec![
            format!("{channel}, {subscribers} subscribers, {burst} in flight"),
            ours.to_string(),
            theirs.map_or("-".into(), |theirs| theirs.to_string()),
            ratio.map_or("-".into(), |ratio| format!("{ratio:.3}")),
            goal.to_string(),
            verdict.to_owned(),
            format!("{:.0}", per_second(Kind::Gannet)),
            format!("{:.0}", per_second(Kind::Centrifuge)),
        ]);
        json_rows.push(json!({
            "channel": channel, "subscribers": subscribers, "in_flight": burst, "goal": goal, "ratio": ratio,
            "gannet_cpu_us": of(Kind::Gannet, |cost| cost.cpu_us),
            "centrifuge_cpu_us": of(Kind::Centrifuge, |cost| cost.cpu_us),
            "gannet_per_second": of(Kind::Gannet, |cost| cost.publications_per_second),
            "centrifuge_per_second": of(Kind::Centrifuge, |cost| cost.publications_per_second),
        }));
    }
    let head = ["CPU for a delivery", "gannet us", "centrifuge us", "ratio", "goal", "verdict", "gannet/s", "peer/s"];
    print_table(&head, &rows);
    found.result["rows"] = json_rows.into();
    Ok(all)
}

fn latencies(flags: &Flags, nodes: &[Kind], rate: f64, found: &mut Found) -> io::Result<()> {
    let repetitions = if flags.quick { 1 } else { flags.repetitions };
    let mut all: Vec<(Kind, f64, f64)> = Vec::new();
    for _ in 0..repetitions {
        for kind in nodes {
            let (p50, p99) = latency(flags, *kind, rate)?;
            all.push((*kind, p50, p99));
        }
    }
    let of = |kind: Kind| all.iter().filter(move |one| one.0 == kind);
    let p99 = |kind| Spread::of(&of(kind).map(|one| one.2).collect::<Vec<f64>>());
    let p50 = |kind| Spread::of(&of(kind).map(|one| one.1).collect::<Vec<f64>>());
    let rows: Vec<Vec<String>> = nodes
        .iter()
        .filter_map(|kind| Some(vec![kind.name().into(), p50(*kind)?.to_string(), p99(*kind)?.to_string()]))
        .collect();
    print_table(&[&format!("node to node, {rate:.0} a second"), "p50 ms", "p99 ms"], &rows);
    if let (Some(ours), Some(theirs)) = (p99(Kind::Gannet), p99(Kind::Centrifuge)) {
        println!("p99 at most the peer's: {}", found.goal(ours.median <= theirs.median));
    }
    let figures = |kind: Kind| json!(of(kind).map(|one| [one.1, one.2]).collect::<Vec<_>>());
    found.result["latency"] = json!({
        "rate": rate, "gannet_p50_p99_ms": figures(Kind::Gannet), "centrifuge_p50_p99_ms": figures(Kind::Centrifuge),
    });
    Ok(())
}

fn memory(flags: &Flags, found: &mut Found) -> io::Result<()> {
    let here = channel_bytes(flags, None)?;
    let redis = Redis::start(flags)?;
    let there = channel_bytes(flags, Some(&redis))?;
    let more = there - here;
    let verdict = found.goal(more <= CHANNEL_LIMIT);
    println!(
        "a channel with one subscriber: {here:.0} bytes in memory, {there:.0} in Redis, {more:.0} more: {verdict}"
    );
    found.result["memory"] =
        json!({"memory_channel_bytes": here, "redis_channel_bytes": there, "limit": CHANNEL_LIMIT});
    Ok(())
}

fn present(flags: &Flags, members: usize, found: &mut Found) -> io::Result<()> {
    let Presence { members, commands_per_second, scripts_per_second, cpu_share, stats_ms } = presence(flags, members)?;
    let verdict = found.goal(stats_ms.1 < STATS_LIMIT_MS);
    println!(
        "{members} members on two nodes: {scripts_per_second:.0} scripts and {commands_per_second:.0} commands a second \
         in Redis, {:.1}% of a core in a node; stats in {:.2} ms, p99 {:.2} ms: {verdict}",
        cpu_share * 100.0,
        stats_ms.0,
        stats_ms.1
    );
    found.result["presence"] = json!({
        "members": members, "redis_commands_per_second": commands_per_second, "scripts_per_second": scripts_per_second,
        "node_cpu_share": cpu_share, "stats_p50_ms": stats_ms.0, "stats_p99_ms": stats_ms.1, "limit_ms": STATS_LIMIT_MS,
    });
    Ok(())
}

fn run(flags: &Flags) -> io::Result<bool> {
    let descriptors = machine::raise_descriptors()?;
    // Half of them in each of two processes, and on each of two nodes.
    let members = flags.members.min(2 * descriptors.saturating_sub(500) as usize);
    if members < flags.members {
        println!("{members} members: the descriptor limit of a process is {descriptors}");
    }
    machine::pin(flags.place.loader_core)?;
    let nodes: Vec<Kind> = NODES.into_iter().filter(|kind| flags.place.left_out(*kind).is_none()).collect();
    if let Some(why) = flags.place.left_out(Kind::Centrifuge) {
        println!("centrifuge is left out: {why}");
    }
    let result = json!({
        "at_unix": now_unix(), "machine": machine::describe(), "repetitions": flags.repetitions,
        "data_bytes": flags.size,
    });
    let mut found = Found { result, kept: true };
    // Without a measured rate: half of what such a node does on a slow core.
    let mut rate = 2000.0;
    if flags.does("cost") {
        let all = costs(flags, &nodes, &mut found)?;
        let theirs = all.iter().filter(|cost| cost.kind == Kind::Centrifuge && cost.shape == 0);
        let rates: Vec<f64> = theirs.map(|cost| cost.publications_per_second).collect();
        rate = Spread::of(&rates).map_or(rate, |spread| spread.median / 2.0);
    }
    if flags.does("latency") {
        latencies(flags, &nodes, rate, &mut found)?;
    }
    if flags.does("memory") {
        memory(flags, &mut found)?;
    }
    if flags.does("presence") {
        present(flags, members, &mut found)?;
    }
    found.result["kept"] = found.kept.into();
    if !flags.quick {
        println!("written to {}", write_result(&flags.results, "cluster", &found.result)?.display());
    }
    Ok(found.kept || !flags.check)
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    match flags.hold.map_or_else(|| run(&flags), hold) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cluster: {error}");
            ExitCode::from(2)
        }
    }
}
