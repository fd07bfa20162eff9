//! F10 · The archive in a database: PostgreSQL or MySQL, which several nodes write and read.
//!
//! Owns what both have in common: which table a channel is in, what is written, and what a page is. How each is spoken
//! to is in `postgres` and `mysql`, its tables in `schema`. Knows nothing of reactors.
//!
//! A publication is a row, found by its stream and offset: reading a page costs the same however many there are. Tables
//! are split by channel, so that writers do not meet, and each by time, so that what is old is dropped whole.

mod cursors;
mod days;
pub mod keeper;
pub mod lanes;
pub mod migrate;
mod mysql;
mod postgres;
mod schema;
mod serve;
mod sweep;
mod tls;

use crate::broker::archive::{ArchiveKeep, ArchivePage, ArchivedCursor, ArchivedStream};
use crate::broker::{Epoch, Position};
use crate::config::{Config, TlsOptions};
use crate::protocol::Publication;
use bytes::Bytes;
use compact_str::CompactString;
use cursors::{CursorKey, SqlCursor};
use days::DayPart;
use mysql::MysqlStore;
use postgres::PostgresStore;
use prost::Message;
use schema::SchemaFound;
pub use schema::{SchemaShape, VERSION};
pub use serve::{SqlArchive, faults};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Rows and bytes in one statement. MySQL takes 16 MiB in one, and 65,535 values.
const BATCH_ROWS: usize = 1000;
const BATCH_BYTES: usize = 1 << 20;
/// Parts made for one statement.
const PARTS_MAX: usize = 8;
/// That a stream is used is noted no more often, in milliseconds.
const TOUCH_MS: i64 = 3_600_000;
/// Epochs are of eight letters; engines elsewhere may have longer ones.
const EPOCH_MAX: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SqlKind {
    Postgres,
    Mysql,
}

/// How a database is reached and used.
#[derive(Debug, Clone)]
pub struct SqlOptions {
    pub kind: SqlKind,
    /// With its password.
    pub url: String,
    pub tls: TlsOptions,
    /// Tables of publications.
    pub tables: u16,
    /// Connections, each of which carries out the calls of its share of channels.
    pub connections: usize,
    pub connect_timeout: Duration,
    /// For one statement.
    pub timeout: Duration,
    /// How long what nobody waits for may wait for more.
    pub flush_interval: Duration,
    /// Part of the names of shares.
    pub share: String,
    /// The longest that anything is to be kept, in milliseconds; 0 = for ever. It tells how long a part is.
    pub ttl_max_ms: u64,
}

impl SqlOptions {
    /// Those of a configuration, if its archive is in a database.
    pub fn of(config: &Config) -> Option<SqlOptions> {
        let stores = &config.durable.stores;
        let (kind, url, tls) = match config.durable.kind.as_str() {
            "postgresql" => (SqlKind::Postgres, &stores.postgresql.dsn, &stores.postgresql.tls),
            "mysql" => (SqlKind::Mysql, &stores.mysql.dsn, &stores.mysql.tls),
            _ => return None,
        };
        Some(SqlOptions {
            kind,
            url: url.clone(),
            tls: tls.clone(),
            tables: u16::try_from(stores.tables).unwrap_or(u16::MAX),
            connections: stores.connections,
            connect_timeout: stores.connect_timeout,
            timeout: stores.timeout,
            flush_interval: stores.flush_interval,
            share: stores.share.clone(),
            ttl_max_ms: config.archive_ttl_max_ms(),
        })
    }

    /// The address without who we are there.
    pub fn shown(&self) -> String {
        let after_scheme = self.url.split_once("://").map_or("...", |(_, rest)| rest);
        let place = after_scheme.rsplit_once('@').map_or(after_scheme, |(_, place)| place);
        let place = place.split(['?', '#']).next().unwrap_or_default();
        let scheme = if self.kind == SqlKind::Postgres { "postgresql" } else { "mysql" };
        format!("{scheme}://{place}")
    }
}

/// Why a statement was not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SqlFault {
    /// It may be carried out another time: no connection, no answer in time, a full disk, no rights.
    Away(String),
    /// Another one was in its way: at once again.
    Again(String),
    /// There is no part for its time yet.
    NoPart,
    /// What it was to write cannot be written, now or ever.
    Unfit(String),
    /// The tables are not those of this program.
    Schema(String),
}

impl fmt::Display for SqlFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SqlFault::Away(why) | SqlFault::Again(why) | SqlFault::Unfit(why) | SqlFault::Schema(why) => {
                f.write_str(why)
            }
            SqlFault::NoPart => f.write_str("there is no part for this day"),
        }
    }
}

/// What a stream is found by: the same for the same channel on every node of a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamKey([u8; 16]);

impl StreamKey {
    pub fn new(share: &str, channel: &str) -> StreamKey {
        let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
        digest.update(&(share.len() as u64).to_be_bytes());
        digest.update(share.as_bytes());
        digest.update(channel.as_bytes());
        let mut key = [0; 16];
        key.copy_from_slice(&digest.finish().as_ref()[..16]);
        StreamKey(key)
    }

    pub fn table(self, tables: u16) -> u16 {
        u16::from_be_bytes([self.0[0], self.0[1]]) % tables.max(1)
    }
}

/// Whose streams these are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlShare {
    pub name: String,
    /// One node alone writes them, in their order; otherwise that is told by the time.
    pub is_ordered: bool,
}

/// A publication to be written.
#[derive(Debug, Clone)]
pub struct SqlRow {
    pub data: Bytes,
    /// All else that is in it, as Protobuf.
    pub rest: Option<Vec<u8>>,
}

/// Where a row is: its stream, offset, epoch, and when it was published.
type Place = (StreamKey, i64, CompactString, i64);

/// What is written of a stream along with its publications.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlTop {
    pub channel: Arc<str>,
    pub epoch: Epoch,
    pub top: i64,
    pub keep: ArchiveKeep,
    pub unix_ms: i64,
    /// In this life publications are sent before they are on disk.
    pub ahead: Option<i64>,
}

/// What is written as one, to one table and of one share. Streams and rows stand in the order in which all writers take
/// their locks.
#[derive(Debug, Default)]
pub struct SqlBatch {
    tops: BTreeMap<StreamKey, SqlTop>,
    rows: BTreeMap<Place, SqlRow>,
    /// `None`: it is no more.
    cursors: BTreeMap<CursorKey, Option<SqlCursor>>,
    bytes: usize,
}

/// An archive has no place for it, now or ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoPlace;

/// Where a stream stands, and what is kept of it.
#[derive(Debug, Clone, Copy)]
pub struct SqlStand<'a> {
    pub key: StreamKey,
    pub channel: &'a Arc<str>,
    pub position: &'a Position,
    pub unix_ms: u64,
    pub keep: ArchiveKeep,
    pub ahead: Option<i64>,
}

impl SqlBatch {
    /// The stream stands here.
    pub fn stand(&mut self, stand: SqlStand<'_>) -> Result<(), NoPlace> {
        let SqlStand { key, channel, position, unix_ms, keep, ahead } = stand;
        let fits = position.epoch.as_str().len() <= EPOCH_MAX;
        let top = i64::try_from(position.offset).ok().filter(|_| fits).ok_or(NoPlace)?;
        let unix_ms = i64::try_from(unix_ms).map_err(|_| NoPlace)?;
        let mut own = SqlTop { channel: channel.clone(), epoch: position.epoch.clone(), top, keep, unix_ms, ahead };
        if let Some(known) = self.tops.get(&key).filter(|known| known.epoch == own.epoch) {
            (own.top, own.unix_ms) = (known.top.max(own.top), known.unix_ms.max(own.unix_ms));
        }
        self.tops.insert(key, own);
        Ok(())
    }

    /// A publication, and that the stream stands there.
    pub fn append(&mut self, stand: SqlStand<'_>, publication: &Publication) -> Result<(), NoPlace> {
        self.stand(stand)?;
        let SqlStand { key, channel, position, unix_ms, .. } = stand;
        let rest = Publication { data: Bytes::new(), offset: 0, ..publication.clone() }.encode_to_vec();
        let place = (key, position.offset as i64, position.epoch.as_str().into(), unix_ms as i64);
        self.bytes += publication.data.len() + rest.len() + channel.len() + 64;
        self.rows.insert(place, SqlRow { data: publication.data.clone(), rest: (!rest.is_empty()).then_some(rest) });
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.tops.is_empty() && self.cursors.is_empty()
    }

    /// No more should be put in.
    pub fn is_full(&self) -> bool {
        self.rows.len() + self.tops.len() + self.cursors.len() >= BATCH_ROWS || self.bytes >= BATCH_BYTES
    }

    pub fn publications(&self) -> usize {
        self.rows.len()
    }

    /// Those that stand, and those that are no more.
    pub fn cursors(&self) -> usize {
        self.cursors.len()
    }

    /// A moment of each part that its rows go to, some at most.
    fn days(&self, shape: &SchemaShape) -> Vec<i64> {
        let mut parts: Vec<DayPart> = Vec::new();
        for (.., unix_ms) in self.rows.keys() {
            let part = DayPart::of(*unix_ms, shape.part_days);
            if !parts.contains(&part) && parts.len() < PARTS_MAX {
                parts.push(part);
            }
        }
        parts.into_iter().map(DayPart::start_ms).collect()
    }
}

/// A stream as the database has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlStream {
    pub key: StreamKey,
    pub epoch: Epoch,
    pub top: i64,
    pub keep: ArchiveKeep,
    /// Publications of this epoch, or of any, up to this offset were removed.
    pub removed: Option<(Epoch, i64)>,
    /// In which life its publications were sent before they were on disk, and whether that ended cleanly.
    pub ahead: Option<(i64, bool)>,
}

impl SqlStream {
    /// Nothing is missing, in the eyes of this life.
    fn is_whole(&self, life: i64) -> bool {
        self.ahead.is_none_or(|(ahead, is_clean)| is_clean || ahead == life)
    }
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Rows of one stream, in the order of their offsets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlRange {
    /// Offsets after it.
    pub after: i64,
    pub upto: i64,
    /// Published at this time, or later.
    pub from_ms: i64,
    pub limit: i64,
    pub reverse: bool,
    /// Of one life alone.
    pub epoch: Option<Epoch>,
}

impl SqlRange {
    /// What a page is, given what is known of its stream.
    fn of(page: &ArchivePage, epoch: Option<&Epoch>, stream: &SqlStream, now_ms: u64) -> SqlRange {
        let is_current = epoch.is_none_or(|epoch| *epoch == stream.epoch);
        let (mut after, mut upto) = (0, signed(page.until));
        match (page.since, page.reverse) {
            (Some(since), false) => after = signed(since),
            (Some(since), true) => upto = upto.min(signed(since).saturating_sub(1)),
            (None, _) => {}
        }
        if let Some((removed, up_to)) = &stream.removed
            && epoch.is_none_or(|epoch| epoch == removed)
        {
            after = after.max(*up_to);
        }
        if stream.keep.size > 0 && is_current {
            after = after.max(stream.top.saturating_sub(signed(stream.keep.size)));
        }
        let from_ms = match stream.keep.ttl_ms {
            0 => 0,
            ttl => signed(now_ms.saturating_sub(ttl)),
        };
        let limit = i64::try_from(page.limit).unwrap_or(i64::MAX);
        SqlRange { after, upto, from_ms, limit, reverse: page.reverse, epoch: epoch.cloned() }
    }

    fn is_empty(&self) -> bool {
        self.after >= self.upto || self.limit <= 0
    }

    /// What is behind a row of it.
    fn beyond(&mut self, offset: i64) {
        match self.reverse {
            true => self.upto = offset - 1,
            false => self.after = offset,
        }
    }
}

/// Written at two times, by two nodes, after a failure or in another life, an offset is there twice: what came last
/// holds.
fn latest_of_each(found: Vec<SqlFound>) -> Vec<SqlFound> {
    let mut latest: Vec<SqlFound> = Vec::with_capacity(found.len());
    for row in found {
        match latest.last_mut().filter(|last| last.offset == row.offset) {
            Some(last) if row.unix_ms >= last.unix_ms => *last = row,
            Some(_) => {}
            None => latest.push(row),
        }
    }
    latest
}

/// A row as it was read.
pub struct SqlFound {
    pub unix_ms: i64,
    pub offset: i64,
    pub data: Vec<u8>,
    pub rest: Option<Vec<u8>>,
}

impl SqlFound {
    fn publication(self) -> Result<Publication, SqlFault> {
        let rest = self.rest.as_deref().unwrap_or_default();
        let rest = Publication::decode(rest).map_err(|error| SqlFault::Away(format!("a row is damaged: {error}")))?;
        Ok(Publication { data: self.data.into(), offset: self.offset.unsigned_abs(), ..rest })
    }
}

/// A database, spoken to in its own way.
pub enum SqlStore {
    Postgres(PostgresStore),
    Mysql(MysqlStore),
}

/// A page's statement. Where its values stand in it is each database's own.
pub fn page_text(kind: SqlKind, table: u16, reverse: bool, with_epoch: bool) -> String {
    match kind {
        SqlKind::Postgres => postgres::range_text(table, reverse, with_epoch),
        SqlKind::Mysql => mysql::range_text(table, reverse, with_epoch),
    }
}

/// Carries it out in whichever database it is.
macro_rules! either {
    ($store:expr, $it:ident => $what:expr) => {
        match $store {
            SqlStore::Postgres($it) => $what,
            SqlStore::Mysql($it) => $what,
        }
    };
}
use either;

impl SqlStore {
    /// Connects to nothing yet. The error is a line for the operator, without a password.
    pub fn new(options: &SqlOptions) -> Result<SqlStore, String> {
        match options.kind {
            SqlKind::Postgres => PostgresStore::new(options).map(SqlStore::Postgres),
            SqlKind::Mysql => MysqlStore::new(options).map(SqlStore::Mysql),
        }
    }

    /// Begins a life of this share.
    pub async fn begin_life(&self, share: &str) -> Result<i64, SqlFault> {
        either!(self, it => it.begin_life(share).await)
    }

    /// It ended cleanly.
    pub async fn end_life(&self, life: i64) -> Result<(), SqlFault> {
        either!(self, it => it.end_life(life).await)
    }

    /// Did no other node begin a life of this share after this one?
    pub async fn is_latest(&self, life: i64, share: &str) -> Result<bool, SqlFault> {
        Ok(either!(self, it => it.latest_life(share).await?) == Some(life))
    }

    pub async fn is_share_held(&self) -> bool {
        either!(self, it => it.is_share_held().await)
    }

    /// Takes the share for this store alone, or finds that it has it: whether nobody else has.
    pub async fn hold_share(&self, share: &str) -> Result<bool, SqlFault> {
        either!(self, it => it.hold_share(share).await)
    }

    /// What the tables are, if a server can use them.
    pub async fn shape(&self, tables: u16) -> Result<SchemaShape, SqlFault> {
        let found = either!(self, it => it.schema().await?);
        SchemaFound::fault(found, tables).map_err(SqlFault::Schema)
    }

    /// What to change so that what was answered is on disk.
    pub async fn advice(&self) -> Result<Vec<String>, SqlFault> {
        either!(self, it => it.advice().await)
    }

    /// Writes all of its publications or nothing, and then its cursors.
    pub async fn append(&self, table: u16, share: &SqlShare, batch: &SqlBatch) -> Result<(), SqlFault> {
        if !batch.tops.is_empty() {
            either!(self, it => it.append(table, share, batch).await)?;
        }
        if batch.cursors.is_empty() { Ok(()) } else { either!(self, it => it.follow(table, batch).await) }
    }

    /// Cursors of a stream, so many at most, but those past their time.
    pub async fn cursors(
        &self,
        table: u16,
        key: StreamKey,
        now_ms: u64,
        most: usize,
    ) -> Result<Vec<ArchivedCursor>, SqlFault> {
        if most == 0 {
            return Ok(Vec::new());
        }
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        either!(self, it => it.cursors(table, key, signed(now_ms), most).await)
    }

    async fn stream(&self, key: StreamKey) -> Result<Option<SqlStream>, SqlFault> {
        either!(self, it => it.stream(key).await)
    }

    async fn range(&self, table: u16, key: StreamKey, range: &SqlRange) -> Result<Vec<SqlFound>, SqlFault> {
        either!(self, it => it.range(table, key, range).await)
    }

    /// Publications of one life of the stream, or of all.
    pub async fn read(
        &self,
        table: u16,
        key: StreamKey,
        epoch: Option<&Epoch>,
        page: &ArchivePage,
        now_ms: u64,
    ) -> Result<Vec<Publication>, SqlFault> {
        match self.stream(key).await? {
            Some(stream) => self.read_of(table, &stream, epoch, page, now_ms).await,
            None => Ok(Vec::new()),
        }
    }

    async fn read_of(
        &self,
        table: u16,
        stream: &SqlStream,
        epoch: Option<&Epoch>,
        page: &ArchivePage,
        now_ms: u64,
    ) -> Result<Vec<Publication>, SqlFault> {
        let mut range = SqlRange::of(page, epoch, stream, now_ms);
        let mut publications: Vec<Publication> = Vec::new();
        while !range.is_empty() {
            // One more tells that the last one wanted is whole.
            let wanted = range.limit;
            range.limit = wanted.saturating_add(1);
            let found = self.range(table, stream.key, &range).await?;
            let is_last = (found.len() as i64) < range.limit;
            let mut latest = latest_of_each(found);
            if !is_last && latest.len() > 1 {
                latest.pop();
            }
            latest.truncate(usize::try_from(wanted).unwrap_or(usize::MAX));
            let Some(offset) = latest.last().map(|row| row.offset) else { break };
            for row in latest {
                publications.push(row.publication()?);
            }
            if is_last {
                break;
            }
            range.beyond(offset);
            range.limit = page.limit as i64 - publications.len() as i64;
        }
        Ok(publications)
    }

    /// Where the stream stands, with its latest publications. `ahead`: it is noted that some are sent before they are
    /// on disk.
    pub async fn open(
        &self,
        table: u16,
        key: StreamKey,
        latest: usize,
        ahead: bool,
        life: i64,
        now_ms: u64,
    ) -> Result<Option<ArchivedStream>, SqlFault> {
        let Some(stream) = self.stream(key).await? else { return Ok(None) };
        let whole = stream.is_whole(life);
        let noted = stream.ahead.is_some_and(|(ahead, _)| ahead == life);
        let ahead = (ahead && whole && !noted).then_some(life);
        either!(self, it => it.touch(key, ahead, now_ms as i64).await?);
        let top = stream.top.unsigned_abs();
        let page = ArchivePage { since: None, until: top, limit: latest, reverse: true };
        let mut found = self.read_of(table, &stream, None, &page, now_ms).await?;
        found.reverse();
        let position = Position { offset: top, epoch: stream.epoch };
        Ok(Some(ArchivedStream { position, whole, latest: found }))
    }

    /// Forgets the publications up to where the stream stands now, so that a late answer takes no later ones away.
    pub async fn remove(&self, key: StreamKey) -> Result<(), SqlFault> {
        let Some(stream) = self.stream(key).await? else { return Ok(()) };
        either!(self, it => it.remove(&stream).await)
    }
}
