//! F10 · PostgreSQL: statements and what its errors mean.
//!
//! Owns the pool. A statement that was not answered in time takes its connection with it. Knows nothing of lanes.
//!
//! The planner is told to prefer indexes whatever it believes of a table, because a page must never be sorted: the
//! tables are new each day, and nothing is known of what is new.

use super::cursors::{CursorKey, SqlCursor, found};
use super::days::DayPart;
use super::schema::{self, SchemaFound, SchemaShape, cursor_table_name, table_name};
use super::{
    SqlBatch, SqlFault, SqlFound, SqlKind, SqlOptions, SqlRange, SqlShare, SqlStream, SqlTop, StreamKey, TOUCH_MS,
    signed,
};
use crate::broker::Epoch;
use crate::broker::archive::{ArchiveKeep, ArchivedCursor};
use crate::consumers::dsn::{Database, told};
use deadpool_postgres::{Client, Pool, PoolError, Runtime, Timeouts};
use std::time::Duration;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Row};

/// Of everyone who makes or drops tables of Gannet, and of everyone who trims them.
const LOCK_SCHEMA: i64 = 0x0067_616e_6e65_7401;
const LOCK_SWEEP: i64 = 0x0067_616e_6e65_7402;
/// Those of shares begin here.
const LOCK_SHARE: i32 = 0x6761_6e6e;

pub struct PostgresStore {
    pool: Pool,
    timeout: Duration,
    /// Held as long as this node has the share.
    share: tokio::sync::Mutex<Option<Client>>,
}

impl PostgresStore {
    pub fn new(options: &SqlOptions) -> Result<PostgresStore, String> {
        let database = Database::new(&options.url, &options.tls);
        let (mut config, tls) = database.map_err(|why| format!("durable.postgresql: {why}"))?.into_parts();
        // A statement that nobody waits for any more ends by itself.
        let patience = options.timeout.as_millis() * 2;
        config.options(format!(
            "-c statement_timeout={patience} -c enable_sort=off -c enable_seqscan=off -c enable_bitmapscan=off -c jit=off"
        ));
        config.connect_timeout(options.connect_timeout);
        let patience = Some(options.connect_timeout);
        let pool = Pool::builder(deadpool_postgres::Manager::new(config, tls))
            .max_size(options.connections + 2)
            .timeouts(Timeouts { wait: patience, create: patience, recycle: patience })
            .runtime(Runtime::Tokio1)
            .build();
        let pool = pool.map_err(|error| format!("durable.postgresql: {error}"))?;
        Ok(PostgresStore { pool, timeout: options.timeout, share: tokio::sync::Mutex::default() })
    }

    async fn client(&self) -> Result<Client, SqlFault> {
        self.pool.get().await.map_err(|error| match error {
            PoolError::Backend(error) => fault(&error),
            PoolError::Timeout(_) => SqlFault::Away("no connection within durable.connect_timeout".into()),
            other => SqlFault::Away(other.to_string()),
        })
    }

    /// Works with a connection, within the time there is.
    async fn with<T>(&self, work: impl AsyncFnOnce(&mut Client) -> Result<T, Error>) -> Result<T, SqlFault> {
        let mut client = self.client().await?;
        let done = tokio::time::timeout(self.timeout, work(&mut client)).await;
        match done {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                if error.as_db_error().is_none() {
                    drop(Client::take(client));
                }
                Err(fault(&error))
            }
            Err(_) => {
                drop(Client::take(client));
                Err(SqlFault::Away("no answer within durable.timeout".into()))
            }
        }
    }

    pub async fn append(&self, table: u16, share: &SqlShare, batch: &SqlBatch) -> Result<(), SqlFault> {
        let text = append_text(table);
        let SqlBatch { tops, rows, .. } = batch;
        let numbers = |of: fn(&SqlTop) -> i64| tops.values().map(of).collect::<Vec<i64>>();
        let streams: Vec<&[u8]> = tops.keys().map(|key| &key.0[..]).collect();
        let channels: Vec<&[u8]> = tops.values().map(|top| top.channel.as_bytes()).collect();
        let epochs: Vec<&str> = tops.values().map(|top| top.epoch.as_str()).collect();
        let (offsets, times) = (numbers(|top| top.top), numbers(|top| top.unix_ms));
        let [sizes, ttls, metas] = [
            numbers(|top| signed(top.keep.size)),
            numbers(|top| signed(top.keep.ttl_ms)),
            numbers(|top| signed(top.keep.meta_ttl_ms)),
        ];
        let aheads: Vec<Option<i64>> = tops.values().map(|top| top.ahead).collect();
        let row_streams: Vec<&[u8]> = rows.keys().map(|(key, ..)| &key.0[..]).collect();
        let row_offsets: Vec<i64> = rows.keys().map(|(_, offset, ..)| *offset).collect();
        let row_epochs: Vec<&str> = rows.keys().map(|(_, _, epoch, _)| epoch.as_str()).collect();
        let row_times: Vec<i64> = rows.keys().map(|(.., unix_ms)| *unix_ms).collect();
        let row_data: Vec<&[u8]> = rows.values().map(|row| &row.data[..]).collect();
        let row_rests: Vec<Option<&[u8]>> = rows.values().map(|row| row.rest.as_deref()).collect();
        let (name, is_ordered) = (share.name.as_bytes(), share.is_ordered);
        let values: [&(dyn ToSql + Sync); 17] = [
            &name,
            &is_ordered,
            &streams,
            &channels,
            &epochs,
            &offsets,
            &sizes,
            &ttls,
            &metas,
            &times,
            &aheads,
            &row_streams,
            &row_offsets,
            &row_epochs,
            &row_times,
            &row_data,
            &row_rests,
        ];
        self.with(async |client| {
            let statement = client.prepare_cached(&text).await?;
            client.execute(&statement, &values).await.map(drop)
        })
        .await
    }

    /// Cursors that stand, or are no more, each in the order of its key.
    pub async fn follow(&self, table: u16, batch: &SqlBatch) -> Result<(), SqlFault> {
        let (standing, gone) = (batch.standing(), batch.gone());
        if !standing.is_empty() {
            let numbers = |of: fn(&SqlCursor) -> i64| standing.iter().map(|(_, row)| of(row)).collect::<Vec<i64>>();
            let streams: Vec<&[u8]> = standing.iter().map(|((stream, _), _)| &stream.0[..]).collect();
            let who: Vec<&[u8]> = standing.iter().map(|((_, who), _)| &who.0[..]).collect();
            let names: Vec<&[u8]> = standing.iter().map(|(_, row)| row.name.as_bytes()).collect();
            let epochs: Vec<&str> = standing.iter().map(|(_, row)| row.epoch.as_str()).collect();
            let [offsets, told] = [numbers(|row| row.offset), numbers(|row| row.told)];
            let torn: Vec<i16> = standing.iter().map(|(_, row)| row.torn).collect();
            let until = numbers(|row| row.until_ms);
            let text = follow_text(table);
            let values: [&(dyn ToSql + Sync); 8] = [&streams, &who, &names, &epochs, &offsets, &told, &torn, &until];
            self.with(async |client| {
                let statement = client.prepare_cached(&text).await?;
                client.execute(&statement, &values).await.map(drop)
            })
            .await?;
        }
        if !gone.is_empty() {
            let part = |of: fn(&CursorKey) -> &[u8]| gone.iter().map(|key| of(key)).collect::<Vec<&[u8]>>();
            let (streams, who) = (part(|(stream, _)| &stream.0[..]), part(|(_, who)| &who.0[..]));
            let text = format!(
                "DELETE FROM {} WHERE (stream, who) IN (SELECT * FROM unnest($1::bytea[], $2::bytea[]))",
                cursor_table_name(table)
            );
            self.with(async |client| {
                let statement = client.prepare_cached(&text).await?;
                client.execute(&statement, &[&streams, &who]).await.map(drop)
            })
            .await?;
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
        let text = format!(
            "SELECT name, epoch, arrived, told, until_ms, is_torn FROM {} WHERE stream = $1 AND until_ms > $2 LIMIT $3",
            cursor_table_name(table)
        );
        let rows = self
            .with(async |client| {
                let statement = client.prepare_cached(&text).await?;
                client.query(&statement, &[&&key.0[..], &now_ms, &most]).await
            })
            .await?;
        let cursor = |row: Row| {
            let epoch: &str = row.get(1);
            found(row.get(0), epoch.as_bytes(), [2, 3, 4].map(|at| row.get::<_, i64>(at)), row.get(5))
        };
        Ok(rows.into_iter().filter_map(cursor).collect())
    }

    /// Forgets cursors past their time, so many at most: how many those were.
    pub async fn forget_cursors(&self, table: u16, now_ms: i64, most: i64) -> Result<i64, SqlFault> {
        let name = cursor_table_name(table);
        let text = format!(
            "DELETE FROM {name} WHERE (stream, who) IN (SELECT stream, who FROM {name} WHERE until_ms <= $1 \
             ORDER BY until_ms LIMIT $2) AND until_ms <= $1"
        );
        self.with(async |client| {
            let statement = client.prepare_cached(&text).await?;
            let deleted = client.execute(&statement, &[&now_ms, &most]).await?;
            Ok(i64::try_from(deleted).unwrap_or(i64::MAX))
        })
        .await
    }

    pub async fn stream(&self, key: StreamKey) -> Result<Option<SqlStream>, SqlFault> {
        let text = "SELECT epoch, top, keep_size, keep_ttl_ms, keep_meta_ttl_ms, removed_epoch, removed_to, \
                    ahead_life, is_clean FROM gannet_streams LEFT JOIN gannet_lives ON life = ahead_life \
                    WHERE stream = $1";
        let found = self
            .with(async |client| {
                let statement = client.prepare_cached(text).await?;
                client.query_opt(&statement, &[&&key.0[..]]).await
            })
            .await?;
        Ok(found.map(|row| {
            let epoch = |at| row.get::<_, Option<&str>>(at).map(Epoch::from);
            SqlStream {
                key,
                epoch: epoch(0).unwrap_or_default(),
                top: row.get(1),
                keep: ArchiveKeep {
                    size: unsigned(&row, 2),
                    ttl_ms: unsigned(&row, 3),
                    meta_ttl_ms: unsigned(&row, 4),
                },
                removed: epoch(5).map(|epoch| (epoch, row.get(6))),
                ahead: row.get::<_, Option<i64>>(7).map(|life| (life, row.get::<_, Option<i16>>(8) == Some(1))),
            }
        }))
    }

    pub async fn range(&self, table: u16, key: StreamKey, range: &SqlRange) -> Result<Vec<SqlFound>, SqlFault> {
        let text = range_text(table, range.reverse, range.epoch.is_some());
        let epoch = range.epoch.as_ref().map(Epoch::as_str);
        let found = self
            .with(async |client| {
                let statement = client.prepare_cached(&text).await?;
                let key = &key.0[..];
                let SqlRange { after, upto, from_ms, limit, .. } = range;
                match epoch {
                    Some(epoch) => client.query(&statement, &[&key, after, upto, from_ms, limit, &epoch]).await,
                    None => client.query(&statement, &[&key, after, upto, from_ms, limit]).await,
                }
            })
            .await?;
        let row = |row: Row| SqlFound { offset: row.get(0), unix_ms: row.get(1), data: row.get(2), rest: row.get(3) };
        Ok(found.into_iter().map(row).collect())
    }

    pub async fn remove(&self, stream: &SqlStream) -> Result<(), SqlFault> {
        let text = "UPDATE gannet_streams SET removed_epoch = $2, \
                    removed_to = CASE WHEN removed_epoch = $2 THEN GREATEST(removed_to, $3) ELSE $3 END \
                    WHERE stream = $1 AND epoch = $2";
        self.with(async |client| {
            let statement = client.prepare_cached(text).await?;
            client.execute(&statement, &[&&stream.key.0[..], &stream.epoch.as_str(), &stream.top]).await.map(drop)
        })
        .await
    }

    /// What is there, if anything.
    pub async fn schema(&self) -> Result<Option<SchemaFound>, SqlFault> {
        let text = "SELECT version, publication_tables, part_days FROM gannet_schema WHERE id = 1";
        let found = self.with(async |client| client.query_opt(text, &[]).await).await;
        match found {
            Err(SqlFault::Schema(_)) => Ok(None),
            Err(other) => Err(other),
            Ok(row) => Ok(row.map(|row| {
                let small = |at| u16::try_from(row.get::<_, i32>(at)).unwrap_or_default();
                let shape = SchemaShape { tables: small(1), part_days: small(2) };
                SchemaFound { version: row.get(0), shape }
            })),
        }
    }

    /// Carries out the statements as one, while nobody else changes tables.
    pub async fn change(&self, statements: &[String]) -> Result<(), SqlFault> {
        self.with(async |client| {
            let change = client.transaction().await?;
            change.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK_SCHEMA]).await?;
            change.batch_execute(&(statements.join("; ") + ";")).await?;
            change.commit().await
        })
        .await
    }

    /// Names of the parts of a table.
    pub async fn parts(&self, table: u16) -> Result<Vec<String>, SqlFault> {
        let text = "SELECT child.relname FROM pg_inherits JOIN pg_class child ON child.oid = inhrelid \
                    WHERE inhparent = to_regclass($1)";
        let name = table_name(table);
        let found = self.with(async |client| client.query(text, &[&name]).await).await?;
        let part = |row: Row| row.get::<_, String>(0).rsplit_once('_').map(|(_, part)| part.to_owned());
        Ok(found.into_iter().filter_map(part).collect())
    }

    pub async fn add_parts(&self, table: u16, parts: &[DayPart]) -> Result<(), SqlFault> {
        let known = self.parts(table).await?;
        let missing = parts.iter().filter(|part| !known.contains(&part.name()));
        let statements: Vec<String> = missing.map(|part| schema::add_part(SqlKind::Postgres, table, *part)).collect();
        if statements.is_empty() { Ok(()) } else { self.change(&statements).await }
    }

    /// Is the database set so that what it answers is on disk? If not, what to change.
    pub async fn advice(&self) -> Result<Vec<String>, SqlFault> {
        let text = "SELECT current_setting('fsync'), current_setting('synchronous_commit')";
        let row = self.with(async |client| client.query_one(text, &[]).await).await?;
        let lost = "publications that were answered may be lost when its host loses power";
        let mut advice = Vec::new();
        for (at, name) in ["fsync", "synchronous_commit"].into_iter().enumerate() {
            if row.get::<_, &str>(at) == "off" {
                advice.push(format!("{name} is off: {lost}"));
            }
        }
        Ok(advice)
    }

    /// Takes the share for this node alone, until the connection ends: whether nobody else has it.
    pub async fn hold_share(&self, share: &str) -> Result<bool, SqlFault> {
        let mut held = self.share.lock().await;
        if held.as_ref().is_some_and(|client| !client.is_closed()) {
            return Ok(true);
        }
        *held = None;
        let client = self.client().await?;
        let text = "SELECT pg_try_advisory_lock($1, hashtext($2))";
        let row = tokio::time::timeout(self.timeout, client.query_one(text, &[&LOCK_SHARE, &share])).await;
        let row = row.map_err(|_| SqlFault::Away("no answer within durable.timeout".into()))?;
        let is_ours = row.map_err(|error| fault(&error))?.get(0);
        if is_ours {
            *held = Some(client);
        }
        Ok(is_ours)
    }

    pub async fn is_share_held(&self) -> bool {
        self.share.lock().await.as_ref().is_some_and(|client| !client.is_closed())
    }

    /// Begins a life.
    pub async fn begin_life(&self, share: &str) -> Result<i64, SqlFault> {
        let text = "INSERT INTO gannet_lives (share, is_clean) VALUES ($1, 0) RETURNING life";
        self.with(async |client| client.query_one(text, &[&share.as_bytes()]).await.map(|row| row.get(0))).await
    }

    pub async fn latest_life(&self, share: &str) -> Result<Option<i64>, SqlFault> {
        let text = "SELECT MAX(life) FROM gannet_lives WHERE share = $1";
        self.with(async |client| client.query_one(text, &[&share.as_bytes()]).await.map(|row| row.get(0))).await
    }

    /// It ended cleanly.
    pub async fn end_life(&self, life: i64) -> Result<(), SqlFault> {
        let text = "UPDATE gannet_lives SET is_clean = 1 WHERE life = $1";
        self.with(async |client| client.execute(text, &[&life]).await.map(drop)).await
    }

    /// The stream is used, in this life with publications ahead of the disk.
    pub async fn touch(&self, key: StreamKey, ahead: Option<i64>, now_ms: i64) -> Result<(), SqlFault> {
        let text = "UPDATE gannet_streams SET used_ms = GREATEST(used_ms, $2), \
                    ahead_life = COALESCE($3::bigint, ahead_life) WHERE stream = $1 \
                    AND ($3::bigint IS NOT NULL OR used_ms < $4)";
        let seldom = now_ms - TOUCH_MS;
        self.with(async |client| {
            let statement = client.prepare_cached(text).await?;
            client.execute(&statement, &[&&key.0[..], &now_ms, &ahead, &seldom]).await.map(drop)
        })
        .await
    }

    /// The longest that any stream is kept, in milliseconds; 0 = for ever, or nothing is known.
    pub async fn longest_ttl(&self) -> Result<i64, SqlFault> {
        let text = "SELECT CASE WHEN COALESCE(MIN(keep_ttl_ms), 0) = 0 THEN 0 ELSE MAX(keep_ttl_ms) END \
                    FROM gannet_streams";
        self.with(async |client| client.query_one(text, &[]).await.map(|row| row.get(0))).await
    }

    pub async fn drop_part(&self, table: u16, part: &str) -> Result<(), SqlFault> {
        self.change(&[schema::drop_part(SqlKind::Postgres, table, part)]).await
    }

    /// Streams after this one that keep more than they should, in the order of their keys.
    pub async fn overfull(
        &self,
        after: &[u8],
        now_ms: i64,
        most: i64,
    ) -> Result<Vec<super::sweep::Overfull>, SqlFault> {
        let text = format!("{} AND stream > $2 ORDER BY stream LIMIT $3", super::sweep::overfull_text("$1"));
        let found = self
            .with(async |client| {
                let statement = client.prepare_cached(&text).await?;
                client.query(&statement, &[&now_ms, &after, &most]).await
            })
            .await?;
        let stream = |row: Row| {
            let numbers = [1, 2, 3, 4].map(|at| row.get::<_, i64>(at));
            super::sweep::Overfull::new(row.get(0), numbers)
        };
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
        let name = table_name(table);
        let columns = "stream, channel_offset, epoch, published_at";
        let text = format!(
            "DELETE FROM {name} WHERE ({columns}) IN (SELECT {columns} FROM {name} WHERE stream = $1 \
             AND channel_offset <= $2 AND published_at < $3 ORDER BY channel_offset LIMIT $4)"
        );
        self.with(async |client| {
            let statement = client.prepare_cached(&text).await?;
            let deleted = client.execute(&statement, &[&&key.0[..], &upto, &before_ms, &most]).await?;
            Ok(i64::try_from(deleted).unwrap_or(i64::MAX))
        })
        .await
    }

    pub async fn trimmed(&self, key: StreamKey, upto: i64, before_ms: i64) -> Result<(), SqlFault> {
        let text = "UPDATE gannet_streams SET trimmed_to = GREATEST(trimmed_to, $2), \
                    expired_to = GREATEST(expired_to, $3) WHERE stream = $1";
        self.with(async |client| client.execute(text, &[&&key.0[..], &upto, &before_ms]).await.map(drop)).await
    }

    /// Forgets streams of which nothing is kept any more, and nothing was written for as long again and a day.
    pub async fn forget_streams(&self, now_ms: i64) -> Result<(), SqlFault> {
        let text = format!("DELETE FROM gannet_streams WHERE {}", super::sweep::forgotten_text("$1"));
        self.with(async |client| client.execute(&text, &[&now_ms]).await.map(drop)).await
    }

    /// Another node may sweep.
    pub async fn end_sweep(&self, lock: SweepLock) {
        lock.end(self.timeout).await;
    }

    /// Works while no other node sweeps; `None` if another one does.
    pub async fn sweep_lock(&self) -> Result<Option<SweepLock>, SqlFault> {
        let client = self.client().await?;
        let text = "SELECT pg_try_advisory_lock($1)";
        let row = tokio::time::timeout(self.timeout, client.query_one(text, &[&LOCK_SWEEP])).await;
        let row = row.map_err(|_| SqlFault::Away("no answer within durable.timeout".into()))?;
        let is_ours: bool = row.map_err(|error| fault(&error))?.get(0);
        Ok(is_ours.then(|| SweepLock { client: Client::take(client) }))
    }
}

/// The connection that has the lock: it ends with this.
pub struct SweepLock {
    client: deadpool_postgres::ClientWrapper,
}

impl SweepLock {
    /// Gives the lock back now, and not when the server sees that the connection is gone.
    pub async fn end(self, timeout: Duration) {
        let given = self.client.execute("SELECT pg_advisory_unlock($1)", &[&LOCK_SWEEP]);
        let _ = tokio::time::timeout(timeout, given).await;
    }
}

fn unsigned(row: &Row, at: usize) -> u64 {
    row.get::<_, i64>(at).unsigned_abs()
}

/// Streams are written in the order of their keys, so that two writers wait for each other and neither for ever.
fn append_text(table: u16) -> String {
    let name = table_name(table);
    format!(
        "WITH tops AS (INSERT INTO gannet_streams AS own (share, stream, channel, epoch, top, keep_size, keep_ttl_ms, \
         keep_meta_ttl_ms, updated_ms, used_ms, ahead_life) \
         SELECT $1::bytea, stream, channel, epoch, top, size, ttl, meta, updated, updated, ahead \
         FROM unnest($3::bytea[], $4::bytea[], $5::text[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[], \
         $10::bigint[], $11::bigint[]) AS given (stream, channel, epoch, top, size, ttl, meta, updated, ahead) \
         ON CONFLICT (stream) DO UPDATE SET \
         top = CASE WHEN own.epoch = excluded.epoch THEN GREATEST(own.top, excluded.top) \
         WHEN $2::boolean OR excluded.updated_ms >= own.updated_ms THEN excluded.top ELSE own.top END, \
         epoch = CASE WHEN $2 OR excluded.updated_ms >= own.updated_ms THEN excluded.epoch ELSE own.epoch END, \
         trimmed_to = CASE WHEN own.epoch = excluded.epoch THEN own.trimmed_to ELSE 0 END, \
         keep_size = excluded.keep_size, keep_ttl_ms = excluded.keep_ttl_ms, \
         keep_meta_ttl_ms = excluded.keep_meta_ttl_ms, ahead_life = excluded.ahead_life, \
         updated_ms = GREATEST(own.updated_ms, excluded.updated_ms), \
         used_ms = GREATEST(own.used_ms, excluded.used_ms)) \
         INSERT INTO {name} (stream, channel_offset, epoch, published_at, data, rest) \
         SELECT * FROM unnest($12::bytea[], $13::bigint[], $14::text[], $15::bigint[], $16::bytea[], $17::bytea[]) \
         ON CONFLICT (stream, channel_offset, epoch, published_at) \
         DO UPDATE SET data = excluded.data, rest = excluded.rest"
    )
}

fn follow_text(table: u16) -> String {
    let name = cursor_table_name(table);
    format!(
        "INSERT INTO {name} (stream, who, name, epoch, arrived, told, is_torn, until_ms) \
         SELECT * FROM unnest($1::bytea[], $2::bytea[], $3::bytea[], $4::text[], $5::bigint[], $6::bigint[], \
         $7::smallint[], $8::bigint[]) ON CONFLICT (stream, who) DO UPDATE SET epoch = excluded.epoch, \
         arrived = excluded.arrived, told = excluded.told, is_torn = excluded.is_torn, until_ms = excluded.until_ms"
    )
}

/// Found by the primary key, in its order.
pub fn range_text(table: u16, reverse: bool, with_epoch: bool) -> String {
    let name = table_name(table);
    let order = if reverse { "DESC" } else { "ASC" };
    let epoch = if with_epoch { "AND epoch = $6 " } else { "" };
    format!(
        "SELECT channel_offset, published_at, data, rest FROM {name} WHERE stream = $1 AND channel_offset > $2 \
         AND channel_offset <= $3 AND published_at >= $4 {epoch}ORDER BY channel_offset {order} LIMIT $5"
    )
}

fn fault(error: &Error) -> SqlFault {
    let Some(said) = error.as_db_error() else {
        return SqlFault::Away(told(error));
    };
    let code = said.code();
    let why = format!("{} ({})", said.message(), code.code());
    let again = [SqlState::T_R_DEADLOCK_DETECTED, SqlState::T_R_SERIALIZATION_FAILURE];
    let of_value = ["22", "54"].iter().any(|class| code.code().starts_with(class));
    match code {
        code if again.contains(code) => SqlFault::Again(why),
        code if *code == SqlState::CHECK_VIOLATION && said.message().contains("no partition") => SqlFault::NoPart,
        code if *code == SqlState::UNDEFINED_TABLE || *code == SqlState::UNDEFINED_COLUMN => SqlFault::Schema(why),
        _ if of_value => SqlFault::Unfit(why),
        _ => SqlFault::Away(why),
    }
}
