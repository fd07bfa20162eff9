//! Ten thousand users who are away half of the time, rooms and personal channels with an inbox and history on disk:
//! nothing is lost, nothing doubled, and memory stays as it is.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs;
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use clap::Parser;
use gannet_bench::account::memory;
use gannet_bench::calls;
use gannet_bench::centrifugal;
use gannet_bench::figures::{now_unix, with_commas, write_result};
use gannet_bench::machine;
use gannet_bench::publisher::read_until;
use gannet_bench::server::{Place, Server};
use gannet_bench::soak::ledger::{Ledger, Seen};
use gannet_bench::soak::visit::{User, Visit};
use mio::{Events, Interest, Poll, Token};
use serde_json::{Value, json};

const EXAMPLES: &str = "\
Each user has a room, shared with a hundred others, and a channel of its own. It comes for 30 to 90 seconds
and goes for as long. Half of the users keep their positions and leave at any moment; the others keep
nothing, and are sent by the inbox what they missed. At the end all come once more and must have
everything. Memory is flat if its peak in the last third is that of the second third, but for a twentieth
and 8 MiB: by then histories are full, and so was what the archive gathers in memory (64 MiB). Less than
15 minutes are too short for that, and it is shown alone.

Examples:
  soak                         half an hour, 10,000 users, 300 publications a second; ends with 1 if not so
  soak --minutes 1 --users 500 a look
  soak --gannet target/release/gannet --path /data/soak

A result is written to bench/results/. Ends with 2 if the run itself failed. bench/soak builds what is
needed first.";

/// Keep ten thousand users coming and going, and see that nothing is lost or doubled
#[derive(Debug, Parser)]
#[command(after_help = EXAMPLES)]
struct Flags {
    #[command(flatten)]
    place: Place,
    /// Folder on the disk that is meant; what is written there is removed
    #[arg(long, default_value = "target/soak")]
    path: PathBuf,
    #[arg(long, default_value_t = 10_000)]
    users: usize,
    /// Users of a room
    #[arg(long, default_value_t = 100)]
    room: usize,
    #[arg(long, default_value_t = 30.0)]
    minutes: f64,
    /// Publications a second, half of them to rooms
    #[arg(long, default_value_t = 300.0)]
    rate: f64,
    /// Folder for the JSON result
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/results"))]
    results: PathBuf,
}

const SECRET: &str = "a secret of this run";
const PUBLISHERS: u64 = 4;
/// Shorter than this, memory is not judged.
const JUDGED: Duration = Duration::from_secs(15 * 60);
const SAMPLE: Duration = Duration::from_secs(5);
const TOLD: Duration = Duration::from_secs(60);
/// Users who may be on their way in at a time.
const ENTERING: usize = 200;

fn options(flags: &Flags) -> Vec<String> {
    let namespace = |name: &str, history_size: u64| {
        json!({
            "name": name, "history_size": history_size, "history_ttl": "1h", "history_durability": "sync",
            "archive_size": 1000, "force_recovery": true, "inbox": {"enabled": true},
            "allow_subscribe_for_client": true,
        })
    };
    let namespaces = json!([namespace("room", 10), namespace("me", 2)]).to_string();
    let path = flags.path.join("archive").display().to_string();
    let pairs = [
        ("--channel.namespaces", namespaces.as_str()),
        ("--durable.path", &path),
        ("--client.token.hmac_secret_key", SECRET),
        ("--http_api.key", calls::KEY),
        ("--client.ping_interval", "60s"),
        ("--client.pong_timeout", "50s"),
    ];
    pairs.iter().flat_map(|(name, value)| [(*name).to_owned(), (*value).to_owned()]).collect()
}

/// What all threads see.
struct Shared {
    ledger: Mutex<Ledger>,
    ends: AtomicBool,
}

impl Shared {
    fn ledger(&self) -> std::sync::MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Publishes at its share of the rate, one call at a time, until it is told to end.
fn publish(shared: &Shared, port: u16, me: u64, flags: (f64, u64, u64)) -> io::Result<()> {
    let (rate, users, rooms) = flags;
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(120)))?;
    let (mut state, mut count) = (88_172_645_463_325_252 + me, 0_u64);
    let mut due = Instant::now();
    while !shared.ends.load(Ordering::Relaxed) {
        due += Duration::from_secs_f64(PUBLISHERS as f64 / rate);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        count += 1;
        let number = count * PUBLISHERS + me;
        let at = state >> 8;
        let channel = if state & 1 == 0 { format!("room:{}", at % rooms) } else { format!("me:{}", at % users) };
        let data = json!({"n": number, "text": "what is said in a room, as long as such things are"});
        let mut request = Vec::new();
        calls::request(&mut request, "publish", &json!({"channel": channel, "data": data}).to_string());
        stream.write_all(&request)?;
        let answer = answer(&mut stream)?;
        let mut ledger = shared.ledger();
        match (answer["result"]["offset"].as_u64(), answer["result"]["epoch"].as_str()) {
            (Some(offset), Some(epoch)) => ledger.answered(&channel, number, offset, epoch),
            _ => {
                ledger.refused += 1;
                if ledger.refused <= 5 {
                    eprintln!("soak: {channel}: {answer}");
                }
            }
        }
    }
    Ok(())
}

fn answer(stream: &mut TcpStream) -> io::Result<Value> {
    let head = String::from_utf8_lossy(&read_until(stream, b"\r\n\r\n")?).to_ascii_lowercase();
    let size = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
    let size = size.ok_or_else(|| io::Error::other(format!("the API answered {head}")))?;
    let mut body = vec![0_u8; size];
    io::Read::read_exact(stream, &mut body)?;
    Ok(serde_json::from_slice(&body)?)
}

/// All users, those who are here and those who are away.
struct Crowd {
    poll: Poll,
    events: Events,
    buffer: Vec<u8>,
    port: u16,
    users: Vec<User>,
    visits: Vec<Option<Visit>>,
    /// When a user comes or goes.
    due: BinaryHeap<Reverse<(Instant, usize)>>,
    entering: usize,
    here: usize,
    visited: u32,
    state: u64,
    live: u64,
    missed: u64,
}

impl Crowd {
    fn new(flags: &Flags, port: u16) -> io::Result<Self> {
        let rooms = flags.users.div_ceil(flags.room.max(1));
        let user = |number: usize| User {
            number,
            channels: [format!("room:{}", number % rooms), format!("me:{number}")],
            seen: [Seen::default(), Seen::default()],
            keeps: number / rooms % 2 == 1,
        };
        Ok(Self {
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            buffer: vec![0; 64 * 1024],
            port,
            users: (0..flags.users).map(user).collect(),
            visits: (0..flags.users).map(|_| None).collect(),
            due: BinaryHeap::new(),
            entering: 0,
            here: 0,
            visited: 0,
            state: 7,
            live: 0,
            missed: 0,
        })
    }

    /// From now, 30 to 90 seconds.
    fn later(&mut self, user: usize) {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.due.push(Reverse((Instant::now() + Duration::from_millis(30_000 + self.state % 60_000), user)));
    }

    fn enter(&mut self, user: usize) -> io::Result<()> {
        let token = centrifugal::token(SECRET, &format!("u{user}"))?;
        self.visited = self.visited.wrapping_add(1);
        let mut visit = Visit::begin(self.port, self.visited, &self.users[user], &token)?;
        let both = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut visit.stream, Token(user), both)?;
        self.visits[user] = Some(visit);
        self.entering += 1;
        self.here += 1;
        Ok(())
    }

    /// Whoever is due comes or goes.
    fn move_on(&mut self) -> io::Result<()> {
        while let Some(Reverse((at, user))) = self.due.peek().copied() {
            let enters = self.visits[user].is_none();
            if at > Instant::now() || (enters && self.entering >= ENTERING) {
                break;
            }
            self.due.pop();
            if enters {
                self.enter(user)?;
            } else {
                self.leave(user)?;
            }
        }
        Ok(())
    }

    fn leave(&mut self, user: usize) -> io::Result<()> {
        if let Some(visit) = &mut self.visits[user] {
            visit.leave(&self.users[user])?;
        }
        self.clear_if_gone(user);
        Ok(())
    }

    fn clear_if_gone(&mut self, user: usize) {
        if self.visits[user].as_ref().is_some_and(Visit::is_gone) {
            self.visits[user] = None;
            self.here -= 1;
            self.later(user);
        }
    }

    /// One round of the loop.
    fn turn(&mut self, shared: &Shared) -> io::Result<()> {
        self.poll.poll(&mut self.events, Some(Duration::from_millis(20)))?;
        let ready: Vec<usize> = self.events.iter().map(|event| event.token().0).collect();
        for user in ready {
            let Some(visit) = &mut self.visits[user] else { continue };
            let was_open = visit.is_open();
            let mut ledger = shared.ledger();
            match visit.turn(&mut self.users[user], &mut ledger, &mut self.buffer) {
                Ok(brought) => {
                    self.live += brought.live;
                    self.missed += brought.missed;
                    if visit.is_open() && !was_open {
                        self.entering -= 1;
                        drop(ledger);
                        self.later(user);
                    }
                }
                Err(error) => return Err(io::Error::other(format!("user {user}: {error}"))),
            }
            self.clear_if_gone(user);
        }
        Ok(())
    }

    /// All come, and stay until they have everything.
    fn gather(&mut self, shared: &Shared) -> io::Result<()> {
        self.due.clear();
        let end = Instant::now() + Duration::from_secs(300);
        loop {
            let away: Vec<usize> = (0..self.users.len()).filter(|user| self.visits[*user].is_none()).collect();
            for user in away.into_iter().take(ENTERING.saturating_sub(self.entering)) {
                self.enter(user)?;
            }
            self.turn(shared)?;
            self.due.clear();
            let ledger = shared.ledger();
            let all_here = self.here == self.users.len() && self.entering == 0;
            let has_all = |user: &User| {
                user.channels.iter().zip(&user.seen).all(|(channel, seen)| seen.offset >= ledger.top(channel))
            };
            if all_here && (self.users.iter().all(has_all) || Instant::now() > end) {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(io::Error::other(format!("{} of {} users came in time", self.here, self.users.len())));
            }
        }
    }
}

/// Memory over time, in bytes.
struct Samples(Vec<u64>);

impl Samples {
    /// The peak of one third.
    fn peak(&self, third: usize) -> u64 {
        let size = self.0.len() / 3;
        self.0.iter().skip(third * size).take(size.max(1)).copied().max().unwrap_or(0)
    }

    fn is_flat(&self) -> bool {
        let (before, after) = (self.peak(1), self.peak(2));
        after <= before + before / 20 + (8 << 20)
    }
}

fn mib(bytes: u64) -> u64 {
    bytes >> 20
}

fn watch(crowd: &mut Crowd, shared: &Shared, pid: u32, time: Duration) -> io::Result<Samples> {
    let (began, mut sampled, mut told) = (Instant::now(), Instant::now(), Instant::now());
    let mut samples = Samples(Vec::new());
    while began.elapsed() < time {
        crowd.move_on()?;
        crowd.turn(shared)?;
        if sampled.elapsed() >= SAMPLE {
            sampled = Instant::now();
            samples.0.push(memory(pid)?.rss);
        }
        if told.elapsed() >= TOLD {
            told = Instant::now();
            let ledger = shared.ledger();
            println!(
                "{:4.0} s: {} here, {} visits, {} published, {} live, {} after a time away, {} faults, {} MiB",
                began.elapsed().as_secs_f64(),
                crowd.here,
                with_commas(f64::from(crowd.visited)),
                with_commas(ledger.published as f64),
                with_commas(crowd.live as f64),
                with_commas(crowd.missed as f64),
                ledger.fault_count,
                samples.0.last().map_or(0, |bytes| mib(*bytes)),
            );
        }
    }
    Ok(samples)
}

fn start_publishers(flags: &Flags, shared: &Arc<Shared>, port: u16) -> Vec<JoinHandle<io::Result<()>>> {
    let rooms = flags.users.div_ceil(flags.room.max(1)) as u64;
    let how = (flags.rate, flags.users as u64, rooms);
    let start = |me| {
        let shared = shared.clone();
        std::thread::spawn(move || publish(&shared, port, me, how))
    };
    (0..PUBLISHERS).map(start).collect()
}

fn run(flags: &Flags) -> io::Result<bool> {
    machine::raise_descriptors()?;
    let _ = fs::remove_dir_all(&flags.path);
    fs::create_dir_all(&flags.path)?;
    let options = options(flags);
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let server = Server::start_on(&[flags.place.server_core, flags.place.loader_core], &flags.place, &options)?;
    let shared = Arc::new(Shared { ledger: Mutex::new(Ledger::default()), ends: AtomicBool::new(false) });
    let mut crowd = Crowd::new(flags, server.port)?;
    // All are there once before anything is published: who is new is sent nothing of the past.
    crowd.gather(&shared)?;
    for user in 0..flags.users {
        match user % 2 {
            0 => crowd.leave(user)?,
            _ => crowd.later(user),
        }
    }
    let publishers = start_publishers(flags, &shared, server.port);
    let time = Duration::from_secs_f64(flags.minutes * 60.0);
    let samples = watch(&mut crowd, &shared, server.pid(), time);
    shared.ends.store(true, Ordering::Relaxed);
    for publisher in publishers {
        publisher.join().map_err(|_| io::Error::other("a publisher broke off"))??;
    }
    let samples = samples?;
    crowd.gather(&shared)?;
    let mut ledger = shared.ledger();
    for user in &crowd.users {
        for (channel, seen) in user.channels.iter().zip(&user.seen) {
            ledger.ended(user.number, channel, seen);
        }
    }
    let is_judged = time >= JUDGED;
    let is_flat = samples.is_flat();
    let kept = ledger.fault_count == 0 && ledger.refused == 0 && ledger.published > 0 && (is_flat || !is_judged);
    ledger.faults.iter().for_each(|fault| println!("{fault}"));
    let peaks = [0, 1, 2].map(|third| mib(samples.peak(third)));
    println!(
        "{} published, {} refused; {} arrived live and {} after a time away, in {} visits; {} faults; memory's peaks \
         {peaks:?} MiB, {}: {}",
        with_commas(ledger.published as f64),
        ledger.refused,
        with_commas(crowd.live as f64),
        with_commas(crowd.missed as f64),
        with_commas(f64::from(crowd.visited)),
        ledger.fault_count,
        if is_flat { "flat" } else { "not flat" },
        if kept { "kept" } else { "MISSED" }
    );
    let result = json!({
        "at_unix": now_unix(), "machine": machine::describe(), "minutes": flags.minutes, "users": flags.users,
        "published": ledger.published, "refused": ledger.refused, "live": crowd.live, "missed_and_sent": crowd.missed,
        "visits": crowd.visited, "faults": ledger.fault_count, "rss_peaks_mib": peaks, "kept": kept,
    });
    drop(server);
    let _ = fs::remove_dir_all(&flags.path);
    if is_judged {
        println!("written to {}", write_result(&flags.results, "soak", &result)?.display());
    }
    Ok(kept)
}

fn main() -> ExitCode {
    match run(&Flags::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("soak: {error}");
            ExitCode::from(2)
        }
    }
}
