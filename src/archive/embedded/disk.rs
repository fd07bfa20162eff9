//! F10 · The archive's files.
//!
//! Owns them: publications by channel and offset, how each stream stands, cursors, and which lives ended cleanly. What
//! is changed is gathered until [`Disk::commit`]. The files are those of an LSM tree with a journal, by `fjall`.

use super::entry::{self, StreamEntry};
use crate::broker::Position;
use crate::broker::archive::{
    ArchiveAnswer, ArchiveCall, ArchiveKeep, ArchivePage, ArchivedCursor, ArchivedStream, cursor_name,
};
use crate::protocol::Publication;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, LsmError, OwnedWriteBatch, PersistMode};
use foldhash::quality::RandomState;
use hashbrown::HashMap;
use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Streams that are known without a look at the disk.
const KNOWN_MAX: usize = 65536;
/// Streams looked at, and publications forgotten, in one part of a sweep.
const SWEPT_STREAMS: usize = 256;
const SWEPT_CURSORS: usize = 256;
const SWEPT_PUBLICATIONS: usize = 2048;
/// Publications forgotten for one that is appended, because of archive_size.
const TRIMMED: u64 = 2;
/// How long it may take to write what a journal had into files.
const REWRITE: Duration = Duration::from_secs(20);
const FORMAT: &str = "format";
const LIFE: &str = "life";
/// With the life's number behind it.
const CLEAN: &[u8] = b"clean ";

/// Why the disk is of no use now.
#[derive(Debug)]
pub enum DiskFault {
    InUse,
    Io(io::Error),
    /// It is not what was written.
    Damaged(String),
    /// It is of a later version.
    Newer(u64),
    /// A write failed before.
    Poisoned,
}

impl From<fjall::Error> for DiskFault {
    fn from(error: fjall::Error) -> DiskFault {
        match error {
            fjall::Error::Locked => DiskFault::InUse,
            fjall::Error::Io(error) | fjall::Error::Storage(LsmError::Io(error)) => match error.kind() {
                ErrorKind::UnexpectedEof | ErrorKind::InvalidData | ErrorKind::NotFound => {
                    DiskFault::Damaged(error.to_string())
                }
                _ => DiskFault::Io(error),
            },
            fjall::Error::Poisoned => DiskFault::Poisoned,
            other => DiskFault::Damaged(format!("{other:?}")),
        }
    }
}

/// What came of a call, and whether its answer waits for the disk; `None` = it is refused.
pub type Done = Option<(ArchiveAnswer, bool)>;

/// A stream, and whether it is other than on disk.
#[derive(Debug)]
struct Known {
    entry: StreamEntry,
    changed: bool,
}

pub struct Disk {
    database: Database,
    publications: Keyspace,
    streams: Keyspace,
    cursors: Keyspace,
    about: Keyspace,
    life: u64,
    /// Lives that ended cleanly.
    clean: BTreeSet<u64>,
    /// The life before this one did not.
    pub was_killed: bool,
    batch: OwnedWriteBatch,
    known: HashMap<Arc<str>, Known, RandomState>,
    changed: Vec<Arc<str>>,
    /// The name of the stream that was swept last.
    swept: Option<Vec<u8>>,
    /// The key of the cursor that was looked at last.
    swept_cursor: Option<Vec<u8>>,
}

impl Disk {
    pub fn open(path: &Path, cache_bytes: u64) -> Result<Disk, DiskFault> {
        std::fs::create_dir_all(path).map_err(DiskFault::Io)?;
        let database = Database::builder(path).cache_size(cache_bytes).worker_threads(1).open()?;
        let keyspace = |name| database.keyspace(name, KeyspaceCreateOptions::default);
        let (publications, streams, about) = (keyspace("publications")?, keyspace("streams")?, keyspace("about")?);
        let cursors = keyspace("cursors")?;
        let number = |key: &str| -> Result<Option<u64>, DiskFault> {
            let Some(value) = about.get(key)? else { return Ok(None) };
            let number = value.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes));
            number.map(Some).ok_or_else(|| DiskFault::Damaged(format!("{key:?} is no number")))
        };
        let (format, before) = (number(FORMAT)?.unwrap_or(entry::FORMAT), number(LIFE)?.unwrap_or(0));
        if format != entry::FORMAT {
            return Err(DiskFault::Newer(format));
        }
        let mut clean = BTreeSet::new();
        for guard in about.prefix(CLEAN) {
            clean.extend(entry::offset_of(&guard.key()?));
        }
        let was_killed = before > 0 && !clean.contains(&before);
        let batch = OwnedWriteBatch::with_capacity(database.clone(), 0);
        let life = before + 1;
        let (known, changed) = (HashMap::default(), Vec::new());
        let mut disk = Disk {
            database,
            publications,
            streams,
            cursors,
            about,
            life,
            clean,
            was_killed,
            batch,
            known,
            changed,
            swept: None,
            swept_cursor: None,
        };
        if was_killed {
            disk.rewrite()?;
        }
        disk.about.insert(FORMAT, entry::FORMAT.to_le_bytes())?;
        disk.about.insert(LIFE, life.to_le_bytes())?;
        disk.database.persist(PersistMode::SyncAll)?;
        Ok(disk)
    }

    /// After a failed write the kernel may show what is not on the disk. What was read of the journal is written
    /// again, to files of its own, before anybody is told of it.
    fn rewrite(&mut self) -> Result<(), DiskFault> {
        let since = Instant::now();
        for keyspace in [&self.publications, &self.streams, &self.cursors, &self.about] {
            keyspace.rotate_memtable()?;
            while keyspace.sealed_memtable_count() > 0 {
                if since.elapsed() > REWRITE {
                    return Err(DiskFault::Io(io::Error::other("what the journal has could not be written")));
                }
                // It says so if that failed.
                self.database.persist(PersistMode::Buffer)?;
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        Ok(())
    }

    pub fn carry_out(&mut self, now_ms: u64, call: ArchiveCall) -> Result<Done, DiskFault> {
        match call {
            ArchiveCall::Append { ticket, channel, position, publication, unix_ms, keep } => {
                self.append(ticket.is_some(), channel, position, &publication, unix_ms, keep)
            }
            ArchiveCall::Stand { channel, position, unix_ms, keep } => {
                let life = self.life;
                let next = position.offset + 1;
                let entry = self.change(&channel, || new_entry(position.clone(), next, keep))?;
                (entry.position, entry.ahead, entry.keep, entry.used_ms) = (position, life, keep, unix_ms);
                Ok(Some((ArchiveAnswer::Appended, false)))
            }
            ArchiveCall::Open { channel, latest, ahead, cursors, .. } => {
                let cursors = self.cursors_of(now_ms, &channel, cursors)?;
                let (stream, notes) = self.open_stream(now_ms, &channel, latest, ahead)?;
                Ok(Some((ArchiveAnswer::Opened { stream: stream.map(Box::new), cursors }, notes)))
            }
            ArchiveCall::Follow { channel, cursor } => {
                let key = entry::cursor_key(&channel, &cursor.name());
                self.batch.insert(&self.cursors, key, entry::cursor_value(&cursor));
                Ok(Some((ArchiveAnswer::Appended, false)))
            }
            ArchiveCall::Unfollow { channel, user, device } => {
                self.batch.remove(&self.cursors, entry::cursor_key(&channel, &cursor_name(&user, &device)));
                Ok(Some((ArchiveAnswer::Removed, false)))
            }
            ArchiveCall::Read { channel, page, .. } => {
                Ok(Some((ArchiveAnswer::Page(self.read(now_ms, &channel, &page)?), false)))
            }
            ArchiveCall::Remove { channel, .. } => {
                if self.entry(&channel)?.is_some() {
                    let entry = self.change(&channel, || new_entry(Position::default(), 0, NO_KEEP))?;
                    entry.first = entry.position.offset + 1;
                }
                Ok(Some((ArchiveAnswer::Removed, true)))
            }
        }
    }

    fn append(
        &mut self,
        waits: bool,
        channel: Arc<str>,
        position: Position,
        publication: &Publication,
        unix_ms: u64,
        keep: ArchiveKeep,
    ) -> Result<Done, DiskFault> {
        let offset = position.offset;
        let follows = self
            .entry(&channel)?
            .map_or(offset <= 1, |entry| entry.position.epoch == position.epoch && offset <= entry.position.offset + 1);
        if waits && !follows {
            // The one before it came to nothing.
            return Ok(None);
        }
        let life = self.life;
        let entry = self.change(&channel, || new_entry(position.clone(), offset, keep))?;
        (entry.position, entry.keep, entry.used_ms) = (position, keep, unix_ms);
        entry.ahead = if waits { 0 } else { life };
        if keep.size > 0 {
            entry.first = entry.first.max((offset + 1).saturating_sub(keep.size));
        }
        let trim = entry.swept..entry.first.min(entry.swept + TRIMMED);
        entry.swept = trim.end;
        for gone in trim {
            self.batch.remove(&self.publications, entry::key(&channel, gone));
        }
        let value = entry::value(publication, unix_ms);
        self.batch.insert(&self.publications, entry::key(&channel, offset), value);
        Ok(Some((ArchiveAnswer::Appended, waits)))
    }

    /// Its cursors, so many at most, but those past their time.
    fn cursors_of(&mut self, now_ms: u64, channel: &str, most: usize) -> Result<Vec<ArchivedCursor>, DiskFault> {
        let mut cursors = Vec::new();
        if most == 0 {
            return Ok(cursors);
        }
        self.commit(false)?;
        let prefix = entry::cursor_prefix(channel);
        for guard in self.cursors.prefix(&prefix) {
            let (key, value) = guard.into_inner()?;
            let cursor = entry::cursor_of(key.get(prefix.len()..).unwrap_or_default(), &value);
            let cursor = cursor.ok_or_else(|| DiskFault::Damaged("a cursor cannot be read".into()))?;
            if cursor.until_ms > now_ms {
                cursors.push(cursor);
            }
            if cursors.len() >= most {
                break;
            }
        }
        Ok(cursors)
    }

    fn open_stream(
        &mut self,
        now_ms: u64,
        channel: &Arc<str>,
        latest: usize,
        ahead: bool,
    ) -> Result<(Option<ArchivedStream>, bool), DiskFault> {
        let Some(entry) = self.entry(channel)?.cloned() else { return Ok((None, false)) };
        let whole = [0, self.life].contains(&entry.ahead) || self.clean.contains(&entry.ahead);
        let page = ArchivePage { since: None, until: u64::MAX, limit: latest, reverse: true };
        let mut latest = self.read(now_ms, channel, &page)?;
        latest.reverse();
        let notes = ahead && whole && entry.ahead != self.life;
        if notes {
            let life = self.life;
            self.change(channel, || entry.clone())?.ahead = life;
        }
        Ok((Some(ArchivedStream { position: entry.position, whole, latest }), notes))
    }

    fn read(&mut self, now_ms: u64, channel: &Arc<str>, page: &ArchivePage) -> Result<Vec<Publication>, DiskFault> {
        if self.known.get(channel).is_some_and(|known| known.changed) {
            self.commit(false)?;
        }
        let Some(entry) = self.entry(channel)?.cloned() else { return Ok(Vec::new()) };
        let (mut low, mut high) = (self.live_from(now_ms, channel, &entry)?, page.until.min(entry.position.offset));
        match (page.since, page.reverse) {
            (Some(since), false) => low = low.max(since.saturating_add(1)),
            (Some(since), true) => high = high.min(since.saturating_sub(1)),
            (None, _) => {}
        }
        if low > high || page.limit == 0 {
            return Ok(Vec::new());
        }
        let found = self.publications.range(entry::key(channel, low)..=entry::key(channel, high));
        let mut publications = Vec::new();
        let mut take = |guard: fjall::Guard| -> Result<(), DiskFault> {
            let value = guard.value()?;
            let publication = entry::publication_of(&value);
            publications.push(publication.ok_or_else(|| DiskFault::Damaged("a publication cannot be read".into()))?);
            Ok(())
        };
        match page.reverse {
            false => found.take(page.limit).try_for_each(&mut take)?,
            true => found.rev().take(page.limit).try_for_each(&mut take)?,
        }
        Ok(publications)
    }

    /// The first offset that is not past its time. Times follow each other as offsets do, so half of what is left is
    /// out at each look.
    fn live_from(&self, now_ms: u64, channel: &str, entry: &StreamEntry) -> Result<u64, DiskFault> {
        let (mut low, mut high) = (entry.first, entry.position.offset + 1);
        if entry.keep.ttl_ms == 0 {
            return Ok(low);
        }
        let is_over = |time: u64| time.saturating_add(entry.keep.ttl_ms) <= now_ms;
        let mut middle = low;
        while low < high {
            let next = self.publications.range(entry::key(channel, middle)..entry::key(channel, high)).next();
            let Some(guard) = next else {
                high = middle;
                middle = low + (high - low) / 2;
                continue;
            };
            let (key, value) = guard.into_inner()?;
            let (offset, time) = (entry::offset_of(&key).unwrap_or(middle), entry::time_of(&value).unwrap_or(0));
            if !is_over(time) {
                if middle == low {
                    return Ok(low);
                }
                high = middle;
            } else {
                low = offset + 1;
            }
            middle = low + (high - low) / 2;
        }
        Ok(low)
    }

    /// How a stream stands.
    fn entry(&mut self, channel: &Arc<str>) -> Result<Option<&StreamEntry>, DiskFault> {
        if !self.known.contains_key(channel) {
            let Some(value) = self.streams.get(channel.as_bytes())? else { return Ok(None) };
            let entry = StreamEntry::from_bytes(&value);
            let entry = entry.ok_or_else(|| DiskFault::Damaged("a stream's entry cannot be read".into()))?;
            self.known.insert(channel.clone(), Known { entry, changed: false });
        }
        Ok(self.known.get(channel).map(|known| &known.entry))
    }

    /// The same to be changed, and made if there is none.
    fn change(&mut self, channel: &Arc<str>, new: impl FnOnce() -> StreamEntry) -> Result<&mut StreamEntry, DiskFault> {
        self.entry(channel)?;
        let known = self.known.entry(channel.clone());
        let known = known.or_insert_with(|| Known { entry: new(), changed: false });
        if !std::mem::replace(&mut known.changed, true) {
            self.changed.push(channel.clone());
        }
        Ok(&mut known.entry)
    }

    /// Writes what was gathered; `fsyncs`: so that it outlives a loss of power. Was there anything?
    pub fn commit(&mut self, fsyncs: bool) -> Result<bool, DiskFault> {
        for channel in self.changed.drain(..) {
            if let Some(known) = self.known.get_mut(&channel) {
                known.changed = false;
                self.batch.insert(&self.streams, channel.as_bytes(), known.entry.to_bytes());
            }
        }
        if self.known.len() > KNOWN_MAX {
            self.known.clear();
        }
        let wrote = !self.batch.is_empty();
        let next = OwnedWriteBatch::with_capacity(self.database.clone(), 0);
        let batch = std::mem::replace(&mut self.batch, next);
        // What the kernel has outlives the process.
        let mode = if fsyncs { PersistMode::SyncData } else { PersistMode::Buffer };
        match (wrote, fsyncs) {
            (true, _) => batch.durability(Some(mode)).commit()?,
            (false, true) => self.database.persist(PersistMode::SyncData)?,
            (false, false) => {}
        }
        Ok(wrote)
    }

    /// All that was written outlives a loss of power.
    pub fn flush(&mut self) -> Result<(), DiskFault> {
        self.commit(true).map(drop)
    }

    /// This life ends cleanly.
    pub fn end(&mut self) -> Result<(), DiskFault> {
        self.flush()?;
        self.database.persist(PersistMode::SyncAll)?;
        self.about.insert([CLEAN, &self.life.to_be_bytes()].concat(), "")?;
        self.database.persist(PersistMode::SyncAll)?;
        self.clean.insert(self.life);
        Ok(())
    }

    /// Forgets what is past its time, or too much, of the next few streams; how many publications those were.
    pub fn sweep(&mut self, now_ms: u64) -> Result<usize, DiskFault> {
        self.sweep_cursors(now_ms)?;
        let from = self.swept.clone().map_or(Bound::Unbounded, Bound::Excluded);
        let mut names = Vec::new();
        for guard in self.streams.range((from, Bound::Unbounded)).take(SWEPT_STREAMS) {
            names.push(guard.key()?.to_vec());
        }
        let ends = names.len() < SWEPT_STREAMS;
        let mut gone = 0;
        for name in names {
            let channel: Arc<str> = String::from_utf8_lossy(&name).into();
            gone += self.sweep_stream(now_ms, &channel, SWEPT_PUBLICATIONS - gone)?;
            if gone >= SWEPT_PUBLICATIONS {
                // It may have more.
                self.commit(false)?;
                return Ok(gone);
            }
            self.swept = Some(name);
        }
        if ends {
            self.swept = None;
        }
        self.commit(false)?;
        Ok(gone)
    }

    /// Forgets the next few cursors that are past their time.
    fn sweep_cursors(&mut self, now_ms: u64) -> Result<(), DiskFault> {
        let from = self.swept_cursor.take().map_or(Bound::Unbounded, Bound::Excluded);
        let mut looked = 0;
        for guard in self.cursors.range((from, Bound::Unbounded)).take(SWEPT_CURSORS) {
            let (key, value) = guard.into_inner()?;
            looked += 1;
            if entry::cursor_until(&value).is_none_or(|until_ms| until_ms <= now_ms) {
                self.batch.remove(&self.cursors, key.clone());
            }
            self.swept_cursor = Some(key.to_vec());
        }
        if looked < SWEPT_CURSORS {
            self.swept_cursor = None;
        }
        Ok(())
    }

    fn sweep_stream(&mut self, now_ms: u64, channel: &Arc<str>, max: usize) -> Result<usize, DiskFault> {
        let Some(entry) = self.entry(channel)?.cloned() else { return Ok(0) };
        let first = self.live_from(now_ms, channel, &entry)?;
        let mut gone = Vec::new();
        if entry.swept < first {
            for guard in self.publications.range(entry::key(channel, entry.swept)..entry::key(channel, first)).take(max)
            {
                gone.push(guard.key()?);
            }
        }
        let swept = match gone.len() < max {
            true => first,
            false => gone.last().and_then(|key| entry::offset_of(key)).map_or(first, |last| last + 1),
        };
        let count = gone.len();
        gone.into_iter().for_each(|key| self.batch.remove(&self.publications, key));
        let unused_ms = now_ms.saturating_sub(entry.used_ms);
        let keep = entry.keep;
        if swept > entry.position.offset && unused_ms > keep.meta_ttl_ms.max(keep.ttl_ms) {
            self.known.remove(channel);
            self.changed.retain(|name| name != channel);
            self.batch.remove(&self.streams, channel.as_bytes());
        } else if (first, swept) != (entry.first, entry.swept) {
            let entry = self.change(channel, || entry.clone())?;
            (entry.first, entry.swept) = (first, swept);
        }
        Ok(count)
    }

    /// Bytes on the disk.
    pub fn bytes(&self) -> Option<u64> {
        self.database.disk_space().ok()
    }
}

const NO_KEEP: ArchiveKeep = ArchiveKeep { size: 0, ttl_ms: 0, meta_ttl_ms: 0 };

fn new_entry(position: Position, first: u64, keep: ArchiveKeep) -> StreamEntry {
    StreamEntry { position, first, swept: first, ahead: 0, keep, used_ms: 0 }
}
