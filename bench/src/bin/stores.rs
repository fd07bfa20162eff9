//! Which embedded store an archive is best built on: fjall and redb, side by side on this disk.
//!
//! The work is an archive's: publications of many channels come together and share a commit, pages are read in both
//! directions, the oldest go. What is written is written by a process that is killed, so that the start after it is
//! measured too. docs/durable.md has the figures.

use clap::Parser;
use fjall::{KeyspaceCreateOptions, PersistMode};
use redb::{ReadableDatabase, TableDefinition};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const TABLE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("publications");
const ENGINES: [&str; 2] = ["fjall", "redb"];
/// The channel with a million publications.
const LONG: u32 = u32::MAX;
/// One with a thousand.
const SHORT: u32 = u32::MAX - 1;
const PAGE: usize = 100;

type Outcome<T> = Result<T, Box<dyn Error>>;

#[derive(Parser)]
struct Arguments {
    /// Folder for the files, on the disk that is meant.
    #[arg(long, default_value = "target/stores")]
    path: PathBuf,
    #[arg(long, default_value_t = 100_000)]
    channels: u32,
    /// Publications to those channels.
    #[arg(long, default_value_t = 300_000)]
    publications: u32,
    /// Publications that share a commit.
    #[arg(long, default_value_t = 256)]
    batch: u32,
    /// Publications to the long channel.
    #[arg(long, default_value_t = 1_000_000)]
    long: u64,
    /// Bytes of each.
    #[arg(long, default_value_t = 200)]
    bytes: usize,
    /// For the process that is killed.
    #[arg(long, hide = true)]
    fill: Option<String>,
}

trait Archive {
    /// Writes all of these and brings them to the disk, or to the kernel.
    fn append(&mut self, places: &[(u32, u64)], data: &[u8], fsync: bool) -> Outcome<()>;
    /// How many publications were read.
    fn page(&self, channel: u32, from: u64, reverse: bool) -> Outcome<usize>;
    fn remove(&mut self, channel: u32, offsets: std::ops::Range<u64>) -> Outcome<()>;
}

fn key(channel: u32, offset: u64) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&channel.to_be_bytes());
    key[4..].copy_from_slice(&offset.to_be_bytes());
    key
}

struct Fjall(fjall::Database, fjall::Keyspace);

impl Fjall {
    fn open(path: &Path) -> Outcome<Fjall> {
        let database = fjall::Database::builder(path).worker_threads(1).open()?;
        let keyspace = database.keyspace("publications", KeyspaceCreateOptions::default)?;
        Ok(Fjall(database, keyspace))
    }
}

impl Archive for Fjall {
    fn append(&mut self, places: &[(u32, u64)], data: &[u8], fsync: bool) -> Outcome<()> {
        let mode = if fsync { PersistMode::SyncData } else { PersistMode::Buffer };
        let mut batch = self.0.batch().durability(Some(mode));
        places.iter().for_each(|&(channel, offset)| batch.insert(&self.1, key(channel, offset), data));
        Ok(batch.commit()?)
    }

    fn page(&self, channel: u32, from: u64, reverse: bool) -> Outcome<usize> {
        let range = match reverse {
            false => self.1.range(key(channel, from)..key(channel, u64::MAX)),
            true => self.1.range(key(channel, 0)..key(channel, from)),
        };
        let take = |guard: fjall::Guard| guard.value().map(|value| usize::from(!value.is_empty()));
        let read: Result<Vec<usize>, _> = match reverse {
            false => range.take(PAGE).map(take).collect(),
            true => range.rev().take(PAGE).map(take).collect(),
        };
        Ok(read?.len())
    }

    fn remove(&mut self, channel: u32, offsets: std::ops::Range<u64>) -> Outcome<()> {
        let mut batch = self.0.batch().durability(Some(PersistMode::Buffer));
        offsets.for_each(|offset| batch.remove(&self.1, key(channel, offset)));
        Ok(batch.commit()?)
    }
}

struct Redb(redb::Database);

impl Redb {
    fn open(path: &Path) -> Outcome<Redb> {
        std::fs::create_dir_all(path)?;
        let database = redb::Database::create(path.join("publications.redb"))?;
        let begin = database.begin_write()?;
        begin.open_table(TABLE)?;
        begin.commit()?;
        Ok(Redb(database))
    }

    fn change(
        &mut self,
        fsync: bool,
        change: impl FnOnce(&mut redb::Table<&[u8], &[u8]>) -> Outcome<()>,
    ) -> Outcome<()> {
        let mut begun = self.0.begin_write()?;
        begun.set_durability(if fsync { redb::Durability::Immediate } else { redb::Durability::None })?;
        change(&mut begun.open_table(TABLE)?)?;
        Ok(begun.commit()?)
    }
}

impl Archive for Redb {
    fn append(&mut self, places: &[(u32, u64)], data: &[u8], fsync: bool) -> Outcome<()> {
        self.change(fsync, |table| {
            for &(channel, offset) in places {
                table.insert(&key(channel, offset)[..], data)?;
            }
            Ok(())
        })
    }

    fn page(&self, channel: u32, from: u64, reverse: bool) -> Outcome<usize> {
        let table = self.0.begin_read()?.open_table(TABLE)?;
        let (low, high) = if reverse { (0, from) } else { (from, u64::MAX) };
        let range = table.range::<&[u8]>(&key(channel, low)[..]..&key(channel, high)[..])?;
        let mut read = 0;
        let mut take = |entry: Result<(_, redb::AccessGuard<'_, &[u8]>), _>| -> Outcome<()> {
            let (_, value): (redb::AccessGuard<'_, &[u8]>, _) = entry?;
            read += usize::from(!value.value().is_empty());
            Ok(())
        };
        match reverse {
            false => range.take(PAGE).try_for_each(&mut take)?,
            true => range.rev().take(PAGE).try_for_each(&mut take)?,
        }
        Ok(read)
    }

    fn remove(&mut self, channel: u32, offsets: std::ops::Range<u64>) -> Outcome<()> {
        self.change(false, |table| {
            for offset in offsets {
                table.remove(&key(channel, offset)[..])?;
            }
            Ok(())
        })
    }
}

fn open(engine: &str, path: &Path) -> Outcome<Box<dyn Archive>> {
    Ok(match engine {
        "fjall" => Box::new(Fjall::open(path)?),
        _ => Box::new(Redb::open(path)?),
    })
}

/// The bytes of a publication: text that is a little like other text.
fn data(bytes: usize) -> Vec<u8> {
    let text = br#"{"user":"u123","text":"the quick brown fox","at":1700000000}"#;
    text.iter().copied().cycle().take(bytes).collect()
}

/// A number that nobody foresees, the same each time.
fn draw(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

fn size_mib(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(path) else { return 0 };
    let of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(facts) if facts.is_dir() => size_mib(&entry.path()) << 20,
        Ok(facts) => facts.blocks() * 512,
        Err(_) => 0,
    };
    entries.flatten().map(of).sum::<u64>() >> 20
}

fn tell(engine: &str, what: &str, figure: String) {
    println!("{engine:6} {what:44} {figure:>14}");
}

fn percentile(times: &mut [Duration], part: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() - 1) * part / 100]
}

/// Writes until it is killed.
fn fill(engine: &str, path: &Path, arguments: &Arguments) -> Outcome<()> {
    let mut store = open(engine, path)?;
    let (data, mut state) = (data(arguments.bytes), 88_172_645_463_325_252);
    let (began, mut times) = (Instant::now(), Vec::new());
    for batch in 0..arguments.publications.div_ceil(arguments.batch) {
        let place = |_| ((draw(&mut state) % u64::from(arguments.channels)) as u32, u64::from(batch));
        let places: Vec<(u32, u64)> = (0..arguments.batch).map(place).collect();
        let at = Instant::now();
        store.append(&places, &data, true)?;
        times.push(at.elapsed());
    }
    let rate = f64::from(arguments.publications) / began.elapsed().as_secs_f64();
    tell(engine, "publications a second, an fsync for each batch", format!("{rate:.0}"));
    tell(engine, "such a commit, p50", format!("{:.2?}", percentile(&mut times, 50)));
    tell(engine, "such a commit, p99", format!("{:.2?}", percentile(&mut times, 99)));
    let mut alone = Vec::new();
    for offset in 0..500 {
        let at = Instant::now();
        store.append(&[(7, 1_000_000 + offset)], &data, true)?;
        alone.push(at.elapsed());
    }
    tell(engine, "a commit of one publication, p50", format!("{:.2?}", percentile(&mut alone, 50)));
    let began = Instant::now();
    for (channel, count) in [(SHORT, 1000), (LONG, arguments.long)] {
        let mut from = 1;
        while from <= count {
            let to = (from + 999).min(count);
            let places: Vec<(u32, u64)> = (from..=to).map(|offset| (channel, offset)).collect();
            store.append(&places, &data, to == count || (to / 1000).is_multiple_of(10))?;
            from = to + 1;
        }
    }
    let rate = (arguments.long + 1000) as f64 / began.elapsed().as_secs_f64();
    tell(engine, "publications a second to one channel", format!("{rate:.0}"));
    tell(engine, "memory after that, MiB", resident_mib().to_string());
    std::process::abort()
}

/// The mean of many pages.
fn pages(store: &dyn Archive, channel: u32, count: u64, reverse: bool) -> Outcome<Duration> {
    let (began, mut state) = (Instant::now(), 99);
    for _ in 0..500 {
        let room = count - PAGE as u64;
        let from = draw(&mut state) % room.max(1) + if reverse { PAGE as u64 + 1 } else { 1 };
        let read = store.page(channel, from, reverse)?;
        if read != PAGE {
            return Err(format!("{read} publications in a page from {from}").into());
        }
    }
    Ok(began.elapsed() / 500)
}

fn measure(engine: &str, arguments: &Arguments) -> Outcome<()> {
    let path = arguments.path.join(engine);
    let _ = std::fs::remove_dir_all(&path);
    let mut command = Command::new(std::env::current_exe()?);
    let numbers =
        [("--channels", arguments.channels.to_string()), ("--publications", arguments.publications.to_string())];
    let more = [("--long", arguments.long.to_string()), ("--bytes", arguments.bytes.to_string())];
    for (name, value) in numbers.iter().chain(&more).chain(&[("--batch", arguments.batch.to_string())]) {
        command.args([*name, value]);
    }
    command.args(["--fill", engine]).arg("--path").arg(&arguments.path).status()?;
    tell(engine, "on disk when it was killed, MiB", size_mib(&path).to_string());
    let began = Instant::now();
    let mut store = open(engine, &path)?;
    tell(engine, "start after that", format!("{:.2?}", began.elapsed()));
    for (what, channel, count) in [("a thousand", SHORT, 1000), ("a million", LONG, arguments.long)] {
        for (way, reverse) in [("forwards", false), ("backwards", true)] {
            let mean = pages(&*store, channel, count, reverse)?;
            tell(engine, &format!("a page of 100 of {what}, {way}"), format!("{mean:.2?}"));
        }
    }
    let began = Instant::now();
    let gone = arguments.long / 2;
    for from in (1..=gone).step_by(2000) {
        store.remove(LONG, from..(from + 2000).min(gone + 1))?;
    }
    let rate = gone as f64 / began.elapsed().as_secs_f64();
    tell(engine, "publications forgotten a second", format!("{rate:.0}"));
    tell(engine, "on disk then, MiB", size_mib(&path).to_string());
    tell(engine, "memory then, MiB", resident_mib().to_string());
    drop(store);
    Ok(std::fs::remove_dir_all(&path)?)
}

fn main() -> Outcome<()> {
    let arguments = Arguments::parse();
    if let Some(engine) = &arguments.fill {
        return fill(engine, &arguments.path.join(engine), &arguments);
    }
    ENGINES.iter().try_for_each(|engine| measure(engine, &arguments))
}
