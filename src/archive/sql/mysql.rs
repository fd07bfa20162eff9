//! F10 · MySQL and MariaDB: statements and what their errors mean.
//!
//! Owns the pool. A statement that was not answered in time takes its connection with it. Knows nothing of lanes.

use super::cursors::{CursorKey, SqlCursor, found};
use super::days::DayPart;
use super::schema::{self, SchemaFound, SchemaShape, cursor_table_name, table_name};
use super::sweep::{self, Overfull};
use super::tls::mysql_tls;
use super::{
    Place, SqlBatch, SqlFault, SqlFound, SqlKind, SqlOptions, SqlRange, SqlRow, SqlShare, SqlStream, SqlTop, StreamKey,
    TOUCH_MS, signed,
};
use crate::broker::Epoch;
use crate::broker::archive::{ArchiveKeep, ArchivedCursor};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Opts, OptsBuilder, Params, Pool, PoolConstraints, PoolOpts, TxOpts, Value};
use std::time::Duration;
use tokio::sync::Mutex;

/// Of everyone who makes or drops tables of Gannet, and of everyone who trims them.
// With the database behind them: names of locks hold for the whole server.
const LOCK_SCHEMA: &str = "gannet_schema_";
const LOCK_SWEEP: &str = "gannet_sweep_";
/// With database and share behind it; a name has 64 letters at most.
const LOCK_SHARE: &str = "gannet_share_";
/// How long a connection that is of no use may take to say so.
const FAREWELL: Duration = Duration::from_millis(100);

pub struct MysqlStore {
    pool: Pool,
    connect_timeout: Duration,
    timeout: Duration,
    /// Held as long as this node has the share.
    share: Mutex<Option<Conn>>,
}

impl MysqlStore {
    pub fn new(options: &SqlOptions) -> Result<MysqlStore, String> {
        let opts = Opts::from_url(&options.url).map_err(|error| format!("durable.mysql.dsn: {error}"))?;
        let tls = match options.tls.enabled || opts.ssl_opts().is_some() {
            true => Some(mysql_tls(&options.tls).map_err(|error| format!("durable.mysql.tls.{error}"))?),
            false => None,
        };
        let constraints = PoolConstraints::new(0, options.connections + 2).unwrap_or_default();
        // Prepared statements would be forgotten by a reset.
        let pool = PoolOpts::new().with_constraints(constraints).with_reset_connection(false);
        let waits = (options.timeout.as_secs() + 1) * 2;
        // What is too long is an error, and a lock is not waited for longer than an answer.
        let strict = format!(
            "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', lock_wait_timeout = {waits}, \
             innodb_lock_wait_timeout = {waits}"
        );
        let setup = vec![strict, "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED".into()];
        let builder = OptsBuilder::from_opts(opts)
            .pool_opts(pool)
            .setup(setup)
            .stmt_cache_size(64)
            .prefer_socket(false)
            .tcp_keepalive(Some(Duration::from_secs(10)))
            .ssl_opts(tls);
        let (connect_timeout, timeout) = (options.connect_timeout, options.timeout);
        Ok(MysqlStore { pool: Pool::new(builder), connect_timeout, timeout, share: Mutex::default() })
    }

    async fn conn(&self) -> Result<Conn, SqlFault> {
        match tokio::time::timeout(self.connect_timeout, self.pool.get_conn()).await {
            Ok(conn) => conn.map_err(|error| fault(&error)),
            Err(_) => Err(SqlFault::Away("no connection within durable.connect_timeout".into())),
        }
    }

    /// Works with a connection, within the time there is.
    async fn with<T>(&self, work: impl AsyncFnOnce(&mut Conn) -> Result<T, Error>) -> Result<T, SqlFault> {
        let mut conn = self.conn().await?;
        let done = tokio::time::timeout(self.timeout, work(&mut conn)).await;
        let fault = match done {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error @ Error::Server(_))) => return Err(fault(&error)),
            Ok(Err(error)) => fault(&error),
            Err(_) => SqlFault::Away("no answer within durable.timeout".into()),
        };
        // It may be in the middle of an answer: it does not go back to the others.
        let _ = tokio::time::timeout(FAREWELL, conn.disconnect()).await;
        Err(fault)
    }

    pub async fn append(&self, table: u16, share: &SqlShare, batch: &SqlBatch) -> Result<(), SqlFault> {
        let SqlBatch { tops, rows, .. } = batch;
        let streams = streams_text(tops.len(), share.is_ordered);
        let values = tops.iter().flat_map(|(key, top)| stream_values(&share.name, *key, top)).collect();
        let text = rows_text(table, rows.len());
        let row_values = rows.iter().flat_map(|(place, row)| row_values(place, row)).collect();
        self.with(async |conn| {
            let mut change = conn.start_transaction(TxOpts::default()).await?;
            change.exec_drop(streams, Params::Positional(values)).await?;
            if !rows.is_empty() {
                change.exec_drop(text, Params::Positional(row_values)).await?;
            }
            change.commit().await
        })
        .await
    }

    /// Cursors that stand, or are no more, each in the order of its key.
    pub async fn follow(&self, table: u16, batch: &SqlBatch) -> Result<(), SqlFault> {
        let (standing, gone) = (batch.standing(), batch.gone());
        if !standing.is_empty() {
            let text = follow_text(table, standing.len());
            let values = standing.iter().flat_map(|(key, row)| cursor_values(key, row)).collect();
            self.with(async |conn| conn.exec_drop(text, Params::Positional(values)).await).await?;
        }
        if !gone.is_empty() {
            let places = vec!["(stream = ? AND who = ?)"; gone.len()].join(" OR ");
            let text = format!("DELETE FROM {} WHERE {places}", cursor_table_name(table));
            let values = gone.iter().flat_map(|(stream, who)| [stream.0[..].into(), who.0[..].into()]).collect();
            self.with(async |conn| conn.exec_drop(text, Params::Positional(values)).await).await?;
        }
        Ok(())
    }

    pub async fn cursors(
        &self,
        table: u16,
        key: StreamKey,
        now_ms: i64,
        most: i64,
    ) -> Result<Vec<ArchivedCursor>, SqlFault> {
        type Found = (Vec<u8>, Vec<u8>, i64, i64, i64, i16);
        let text = format!(
            "SELECT name, epoch, arrived, told, until_ms, is_torn FROM {} WHERE stream = ? AND until_ms > ? LIMIT {most}",
            cursor_table_name(table)
        );
        let rows: Vec<Found> = self.with(async |conn| conn.exec(text, (&key.0[..], now_ms)).await).await?;
        let cursor =
            |(name, epoch, offset, told, until_ms, torn): Found| found(&name, &epoch, [offset, told, until_ms], torn);
        Ok(rows.into_iter().filter_map(cursor).collect())
    }

    /// Forgets cursors past their time, so many at most: how many those were.
    pub async fn forget_cursors(&self, table: u16, now_ms: i64, most: i64) -> Result<i64, SqlFault> {
        let name = cursor_table_name(table);
        let text = format!("DELETE FROM {name} WHERE until_ms <= ? ORDER BY until_ms LIMIT {most}");
        self.with(async |conn| {
            conn.exec_drop(text, (now_ms,)).await?;
            Ok(i64::try_from(conn.affected_rows()).unwrap_or(i64::MAX))
        })
        .await
    }

    pub async fn stream(&self, key: StreamKey) -> Result<Option<SqlStream>, SqlFault> {
        type Found = (Vec<u8>, i64, u64, u64, u64, Option<Vec<u8>>, i64, Option<i64>, Option<i16>);
        let text = "SELECT epoch, top, keep_size, keep_ttl_ms, keep_meta_ttl_ms, removed_epoch, removed_to, \
                    ahead_life, is_clean FROM gannet_streams LEFT JOIN gannet_lives ON life = ahead_life \
                    WHERE stream = ?";
        let found: Option<Found> = self.with(async |conn| conn.exec_first(text, (&key.0[..],)).await).await?;
        Ok(found.map(|(own, top, size, ttl_ms, meta_ttl_ms, removed, removed_to, ahead, is_clean)| SqlStream {
            key,
            epoch: epoch(&own),
            top,
            keep: ArchiveKeep { size, ttl_ms, meta_ttl_ms },
            removed: removed.map(|life| (epoch(&life), removed_to)),
            ahead: ahead.map(|life| (life, is_clean == Some(1))),
        }))
    }

    pub async fn range(&self, table: u16, key: StreamKey, range: &SqlRange) -> Result<Vec<SqlFound>, SqlFault> {
        let text = range_text(table, range.reverse, range.epoch.is_some());
        let SqlRange { after, upto, from_ms, limit, .. } = range;
        let mut values: Vec<Value> = vec![key.0[..].into(), after.into(), upto.into(), from_ms.into()];
        values.extend(range.epoch.as_ref().map(|epoch| Value::from(epoch.as_str().as_bytes())));
        values.push(limit.into());
        type Found = (i64, i64, Vec<u8>, Option<Vec<u8>>);
        let found: Vec<Found> = self.with(async |conn| conn.exec(text, Params::Positional(values)).await).await?;
        let row = |(offset, unix_ms, data, rest): Found| SqlFound { unix_ms, offset, data, rest };
        Ok(found.into_iter().map(row).collect())
    }

    pub async fn remove(&self, stream: &SqlStream) -> Result<(), SqlFault> {
        let text = "UPDATE gannet_streams SET removed_to = IF(removed_epoch = ?, GREATEST(removed_to, ?), ?), \
                    removed_epoch = ? WHERE stream = ? AND epoch = ?";
        let (epoch, top) = (stream.epoch.as_str().as_bytes(), stream.top);
        let values = (epoch, top, top, epoch, &stream.key.0[..], epoch);
        self.with(async |conn| conn.exec_drop(text, values).await).await
    }

    /// What is there, if anything.
    pub async fn schema(&self) -> Result<Option<SchemaFound>, SqlFault> {
        let text = "SELECT version, publication_tables, part_days FROM gannet_schema WHERE id = 1";
        let found: Result<Option<(i32, u16, u16)>, _> = self.with(async |conn| conn.query_first(text).await).await;
        match found {
            Err(SqlFault::Schema(_)) => Ok(None),
            Err(other) => Err(other),
            Ok(row) => Ok(row
                .map(|(version, tables, part_days)| SchemaFound { version, shape: SchemaShape { tables, part_days } })),
        }
    }

    /// Carries out the statements one by one, while nobody else changes tables.
    pub async fn change(&self, statements: &[String]) -> Result<(), SqlFault> {
        let waits = self.timeout.as_secs().max(1);
        self.with(async |conn| {
            let is_ours: Option<Option<u8>> =
                conn.exec_first("SELECT GET_LOCK(CONCAT(?, MD5(DATABASE())), ?)", (LOCK_SCHEMA, waits)).await?;
            if is_ours.flatten() != Some(1) {
                return Ok(Err(SqlFault::Away("another node changes the tables".into())));
            }
            let mut done = Ok(());
            for statement in statements {
                done = conn.query_drop(statement).await;
                // What two do at once is done.
                if matches!(&done, Err(Error::Server(said)) if IS_DONE.contains(&said.code)) {
                    done = Ok(());
                }
                if done.is_err() {
                    break;
                }
            }
            conn.exec_drop("DO RELEASE_LOCK(CONCAT(?, MD5(DATABASE())))", (LOCK_SCHEMA,)).await?;
            done.map(Ok)
        })
        .await?
    }

    /// Names of the parts of a table.
    pub async fn parts(&self, table: u16) -> Result<Vec<String>, SqlFault> {
        let text = "SELECT PARTITION_NAME FROM information_schema.PARTITIONS WHERE TABLE_SCHEMA = DATABASE() \
                    AND TABLE_NAME = ? AND PARTITION_NAME IS NOT NULL";
        let names: Vec<String> = self.with(async |conn| conn.exec(text, (table_name(table),)).await).await?;
        Ok(names.into_iter().filter_map(|name| name.strip_prefix('p').map(str::to_owned)).collect())
    }

    /// Those after the latest, for no others can be added; there is one for everything before.
    pub async fn add_parts(&self, table: u16, parts: &[DayPart]) -> Result<(), SqlFault> {
        let known = self.parts(table).await?;
        let latest = known.into_iter().max().unwrap_or_default();
        let mut missing: Vec<DayPart> = parts.iter().copied().filter(|part| part.name() > latest).collect();
        missing.sort();
        missing.dedup();
        let statements: Vec<String> =
            missing.into_iter().map(|part| schema::add_part(SqlKind::Mysql, table, part)).collect();
        if statements.is_empty() { Ok(()) } else { self.change(&statements).await }
    }

    /// Is the database set so that what it answers is on disk? If not, what to change.
    pub async fn advice(&self) -> Result<Vec<String>, SqlFault> {
        let text = "SELECT @@innodb_flush_log_at_trx_commit, @@max_allowed_packet";
        let found: Option<(u64, u64)> = self.with(async |conn| conn.query_first(text).await).await?;
        let (flush, packet) = found.unwrap_or((1, u64::MAX));
        let mut advice = Vec::new();
        if flush != 1 {
            let lost = "publications that were answered may be lost when its host loses power";
            advice.push(format!("innodb_flush_log_at_trx_commit is {flush}: {lost}"));
        }
        if packet < 4 << 20 {
            advice.push(format!("max_allowed_packet is {packet}: set it to 16M, or large publications are refused"));
        }
        Ok(advice)
    }

    /// Takes the share for this node alone, until the connection ends: whether nobody else has it.
    pub async fn hold_share(&self, share: &str) -> Result<bool, SqlFault> {
        if self.is_share_held().await {
            return Ok(true);
        }
        let mut held = self.share.lock().await;
        if let Some(lost) = held.take() {
            let _ = tokio::time::timeout(FAREWELL, lost.disconnect()).await;
        }
        let mut conn = self.conn().await?;
        let text = "SELECT GET_LOCK(CONCAT(?, MD5(CONCAT(DATABASE(), '/', ?))), 0)";
        let asked = conn.exec_first(text, (LOCK_SHARE, share));
        let found = tokio::time::timeout(self.timeout, asked).await;
        let found: Option<Option<u8>> =
            found.map_err(|_| SqlFault::Away("no answer within durable.timeout".into()))?.map_err(|e| fault(&e))?;
        let is_ours = found.flatten() == Some(1);
        if is_ours {
            *held = Some(conn);
        }
        Ok(is_ours)
    }

    /// The server ends connections that say nothing: so this one says something.
    pub async fn is_share_held(&self) -> bool {
        let mut held = self.share.lock().await;
        let Some(conn) = held.as_mut() else { return false };
        matches!(tokio::time::timeout(self.timeout, conn.ping()).await, Ok(Ok(())))
    }

    /// Begins a life.
    pub async fn begin_life(&self, share: &str) -> Result<i64, SqlFault> {
        let text = "INSERT INTO gannet_lives (share, is_clean) VALUES (?, 0)";
        self.with(async |conn| {
            conn.exec_drop(text, (share.as_bytes(),)).await?;
            Ok(conn.last_insert_id().and_then(|life| i64::try_from(life).ok()).unwrap_or(0))
        })
        .await
    }

    pub async fn latest_life(&self, share: &str) -> Result<Option<i64>, SqlFault> {
        let text = "SELECT MAX(life) FROM gannet_lives WHERE share = ?";
        let found: Option<Option<i64>> =
            self.with(async |conn| conn.exec_first(text, (share.as_bytes(),)).await).await?;
        Ok(found.flatten())
    }

    /// It ended cleanly.
    pub async fn end_life(&self, life: i64) -> Result<(), SqlFault> {
        let text = "UPDATE gannet_lives SET is_clean = 1 WHERE life = ?";
        self.with(async |conn| conn.exec_drop(text, (life,)).await).await
    }

    /// The stream is used, in this life with publications ahead of the disk.
    pub async fn touch(&self, key: StreamKey, ahead: Option<i64>, now_ms: i64) -> Result<(), SqlFault> {
        let text = "UPDATE gannet_streams SET ahead_life = COALESCE(?, ahead_life), \
                    used_ms = GREATEST(used_ms, ?) WHERE stream = ? AND (? IS NOT NULL OR used_ms < ?)";
        let values = (ahead, now_ms, &key.0[..], ahead, now_ms - TOUCH_MS);
        self.with(async |conn| conn.exec_drop(text, values).await).await
    }

    /// The longest that any stream is kept, in milliseconds; 0 = for ever, or nothing is known.
    pub async fn longest_ttl(&self) -> Result<i64, SqlFault> {
        let text = "SELECT IF(COALESCE(MIN(keep_ttl_ms), 0) = 0, 0, MAX(keep_ttl_ms)) FROM gannet_streams";
        let found: Option<i64> = self.with(async |conn| conn.query_first(text).await).await?;
        Ok(found.unwrap_or(0))
    }

    pub async fn drop_part(&self, table: u16, part: &str) -> Result<(), SqlFault> {
        self.change(&[schema::drop_part(SqlKind::Mysql, table, part)]).await
    }

    /// Streams after this one that keep more than they should, in the order of their keys.
    pub async fn overfull(&self, after: &[u8], now_ms: i64, most: i64) -> Result<Vec<Overfull>, SqlFault> {
        let which = sweep::overfull_text(&now_ms.to_string());
        let text = format!("{which} AND stream > ? ORDER BY stream LIMIT {most}");
        let found: Vec<(Vec<u8>, i64, i64, i64, i64)> = self.with(async |conn| conn.exec(text, (after,)).await).await?;
        let stream = |(key, a, b, c, d): (Vec<u8>, _, _, _, _)| Overfull::new(&key, [a, b, c, d]);
        Ok(found.into_iter().filter_map(stream).collect())
    }

    /// Deletes rows up to an offset, or from before a time, so many at most: how many those were.
    pub async fn trim(
        &self,
        table: u16,
        key: StreamKey,
        upto: i64,
        before_ms: i64,
        most: i64,
    ) -> Result<i64, SqlFault> {
        let text = format!(
            "DELETE FROM {} WHERE stream = ? AND channel_offset <= ? AND published_at < ? \
             ORDER BY channel_offset LIMIT {most}",
            table_name(table)
        );
        self.with(async |conn| {
            conn.exec_drop(text, (&key.0[..], upto, before_ms)).await?;
            Ok(i64::try_from(conn.affected_rows()).unwrap_or(i64::MAX))
        })
        .await
    }

    pub async fn trimmed(&self, key: StreamKey, upto: i64, before_ms: i64) -> Result<(), SqlFault> {
        let text = "UPDATE gannet_streams SET trimmed_to = GREATEST(trimmed_to, ?), \
                    expired_to = GREATEST(expired_to, ?) WHERE stream = ?";
        self.with(async |conn| conn.exec_drop(text, (upto, before_ms, &key.0[..])).await).await
    }

    /// Forgets streams of which nothing is kept any more, and nothing was written for as long again and a day.
    pub async fn forget_streams(&self, now_ms: i64) -> Result<(), SqlFault> {
        let text = format!("DELETE FROM gannet_streams WHERE {}", sweep::forgotten_text(&now_ms.to_string()));
        self.with(async |conn| conn.query_drop(text).await).await
    }

    /// Works while no other node sweeps; `None` if another one does.
    pub async fn sweep_lock(&self) -> Result<Option<MysqlLock>, SqlFault> {
        let mut conn = self.conn().await?;
        let asked = conn.exec_first("SELECT GET_LOCK(CONCAT(?, MD5(DATABASE())), 0)", (LOCK_SWEEP,));
        let found = tokio::time::timeout(self.timeout, asked).await;
        let found: Option<Option<u8>> =
            found.map_err(|_| SqlFault::Away("no answer within durable.timeout".into()))?.map_err(|e| fault(&e))?;
        Ok((found.flatten() == Some(1)).then_some(MysqlLock { conn: Some(conn) }))
    }
}

/// The connection that has a lock.
pub struct MysqlLock {
    conn: Option<Conn>,
}

impl MysqlLock {
    /// Gives the lock back now, and not when the server sees that the connection is gone.
    pub async fn end(mut self) {
        if let Some(mut conn) = self.conn.take() {
            let given = conn.exec_drop("DO RELEASE_LOCK(CONCAT(?, MD5(DATABASE())))", (LOCK_SWEEP,));
            let _ = tokio::time::timeout(FAREWELL * 50, given).await;
            let _ = tokio::time::timeout(FAREWELL, conn.disconnect()).await;
        }
    }
}

fn epoch(bytes: &[u8]) -> Epoch {
    String::from_utf8_lossy(bytes).as_ref().into()
}

fn streams_text(count: usize, is_ordered: bool) -> String {
    let values = vec!["(?,?,?,?,?,?,?,?,?,?,?)"; count].join(",");
    let later = if is_ordered { "TRUE" } else { "VALUES(updated_ms) >= updated_ms" };
    // Carried out from left to right: what is compared is not changed before.
    format!(
        "INSERT INTO gannet_streams (stream, share, channel, epoch, top, keep_size, keep_ttl_ms, keep_meta_ttl_ms, \
         updated_ms, used_ms, ahead_life) VALUES {values} ON DUPLICATE KEY UPDATE \
         top = IF(epoch = VALUES(epoch), GREATEST(top, VALUES(top)), IF({later}, VALUES(top), top)), \
         trimmed_to = IF(epoch = VALUES(epoch), trimmed_to, 0), epoch = IF({later}, VALUES(epoch), epoch), \
         keep_size = VALUES(keep_size), keep_ttl_ms = VALUES(keep_ttl_ms), \
         keep_meta_ttl_ms = VALUES(keep_meta_ttl_ms), ahead_life = VALUES(ahead_life), \
         updated_ms = GREATEST(updated_ms, VALUES(updated_ms)), used_ms = GREATEST(used_ms, VALUES(used_ms))"
    )
}

fn stream_values(share: &str, key: StreamKey, top: &SqlTop) -> [Value; 11] {
    let ArchiveKeep { size, ttl_ms, meta_ttl_ms } = top.keep;
    [
        key.0[..].into(),
        share.as_bytes().into(),
        top.channel.as_bytes().into(),
        top.epoch.as_str().as_bytes().into(),
        top.top.into(),
        signed(size).into(),
        signed(ttl_ms).into(),
        signed(meta_ttl_ms).into(),
        top.unix_ms.into(),
        top.unix_ms.into(),
        top.ahead.into(),
    ]
}

/// Not `INSERT IGNORE`, which would leave out what it should complain of.
fn rows_text(table: u16, count: usize) -> String {
    let (name, values) = (table_name(table), vec!["(?,?,?,?,?,?)"; count].join(","));
    format!(
        "INSERT INTO {name} (stream, channel_offset, epoch, published_at, data, rest) VALUES {values} \
         ON DUPLICATE KEY UPDATE data = VALUES(data), rest = VALUES(rest)"
    )
}

fn row_values((key, offset, epoch, unix_ms): &Place, row: &SqlRow) -> [Value; 6] {
    [
        key.0[..].into(),
        offset.into(),
        epoch.as_bytes().into(),
        unix_ms.into(),
        row.data[..].into(),
        row.rest.as_deref().into(),
    ]
}

fn follow_text(table: u16, count: usize) -> String {
    let (name, values) = (cursor_table_name(table), vec!["(?,?,?,?,?,?,?,?)"; count].join(","));
    format!(
        "INSERT INTO {name} (stream, who, name, epoch, arrived, told, is_torn, until_ms) VALUES {values} \
         ON DUPLICATE KEY UPDATE epoch = VALUES(epoch), arrived = VALUES(arrived), told = VALUES(told), \
         is_torn = VALUES(is_torn), until_ms = VALUES(until_ms)"
    )
}

fn cursor_values((stream, who): &CursorKey, row: &SqlCursor) -> [Value; 8] {
    [
        stream.0[..].into(),
        who.0[..].into(),
        row.name.as_bytes().into(),
        row.epoch.as_bytes().into(),
        row.offset.into(),
        row.told.into(),
        row.torn.into(),
        row.until_ms.into(),
    ]
}

/// Found by the primary key, in its order.
pub fn range_text(table: u16, reverse: bool, with_epoch: bool) -> String {
    let name = table_name(table);
    let order = if reverse { "DESC" } else { "ASC" };
    let epoch = if with_epoch { "AND epoch = ? " } else { "" };
    format!(
        "SELECT channel_offset, published_at, data, rest FROM {name} FORCE INDEX (PRIMARY) WHERE stream = ? \
         AND channel_offset > ? AND channel_offset <= ? AND published_at >= ? {epoch}\
         ORDER BY channel_offset {order} LIMIT ?"
    )
}

/// A part of that name is there, or is not, as it should be.
const IS_DONE: [u16; 3] = [1493, 1507, 1517];
const DEADLOCK: [u16; 2] = [1213, 1205];
const NO_PART: u16 = 1526;
const NO_TABLE: [u16; 2] = [1146, 1054];
/// Too long, too large, of another kind.
const OF_VALUE: [u16; 6] = [1153, 1264, 1366, 1406, 1301, 1118];

fn fault(error: &Error) -> SqlFault {
    let Error::Server(said) = error else { return SqlFault::Away(error.to_string()) };
    let why = format!("{} ({})", said.message, said.code);
    match said.code {
        code if DEADLOCK.contains(&code) => SqlFault::Again(why),
        NO_PART => SqlFault::NoPart,
        code if NO_TABLE.contains(&code) => SqlFault::Schema(why),
        code if OF_VALUE.contains(&code) => SqlFault::Unfit(why),
        _ => SqlFault::Away(why),
    }
}
