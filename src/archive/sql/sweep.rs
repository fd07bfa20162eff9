//! F10 · What an archive in a database forgets, in the background and a little at a time.
//!
//! Owns which parts are needed and which are old, and the trimming of streams that keep more than they should. Readers
//! see none of it: a page leaves out what is too old or too much anyway. One node sweeps at a time.

use super::days::{self, DayPart};
use super::schema::SchemaShape;
use super::{SqlFault, SqlStore, StreamKey, either};

/// Parts made ahead of time, the present one not counted.
const AHEAD: usize = 2;
/// Streams trimmed in one go, and rows of one.
const STREAMS: i64 = 100;
const ROWS: i64 = 2000;

/// A stream that keeps more than it should.
#[derive(Debug, PartialEq, Eq)]
pub struct Overfull {
    pub key: StreamKey,
    /// Up to this offset nothing is needed, and up to that one nothing is there.
    upto: i64,
    trimmed_to: i64,
    /// The same of when it was published.
    before_ms: i64,
    expired_to: i64,
}

impl Overfull {
    pub fn new(key: &[u8], [upto, trimmed_to, before_ms, expired_to]: [i64; 4]) -> Option<Overfull> {
        Some(Overfull { key: StreamKey(key.try_into().ok()?), upto, trimmed_to, before_ms, expired_to })
    }
}

/// Which streams are overfull, in words of both databases; `now`: milliseconds. What is a little too much can wait.
pub fn overfull_text(now: &str) -> String {
    let removed = "CASE WHEN removed_epoch = epoch THEN removed_to ELSE 0 END";
    let over = "CASE WHEN keep_size > 0 THEN top - keep_size ELSE 0 END";
    let before = format!("CASE WHEN keep_ttl_ms > 0 THEN {now} - keep_ttl_ms ELSE 0 END");
    format!(
        "SELECT stream, GREATEST({removed}, {over}), trimmed_to, {before}, expired_to FROM gannet_streams \
         WHERE ({removed} > trimmed_to OR {over} >= trimmed_to + 64 OR (keep_ttl_ms > 0 AND updated_ms >= expired_to \
         AND {now} - keep_ttl_ms - expired_to > GREATEST(keep_ttl_ms / 4, 60000)))"
    )
}

/// Which streams are gone.
pub fn forgotten_text(now: &str) -> String {
    let gone = "keep_ttl_ms > 0 AND keep_meta_ttl_ms > 0 AND expired_to > updated_ms";
    format!("{gone} AND used_ms + GREATEST(keep_ttl_ms, keep_meta_ttl_ms) * 2 + 86400000 < {now}")
}

/// The parts that rows of this time and soon after go to.
pub fn needed(shape: &SchemaShape, unix_ms: i64) -> Vec<DayPart> {
    let first = DayPart::of(unix_ms, shape.part_days);
    std::iter::successors(Some(first), |part| Some(part.next())).take(1 + AHEAD).collect()
}

/// The parts of which nothing is kept any more.
fn old(shape: &SchemaShape, known: &[String], now_ms: i64, ttl_ms: i64) -> Vec<String> {
    if ttl_ms == 0 {
        return Vec::new();
    }
    let days = i64::from(shape.part_days);
    let is_old = |name: &&String| {
        days::first_of(name).is_some_and(|first| DayPart { first, days }.end_ms() < now_ms.saturating_sub(ttl_ms))
    };
    known.iter().filter(is_old).cloned().collect()
}

impl SqlStore {
    /// Makes the parts for rows of this time.
    pub async fn make_parts(&self, table: u16, shape: &SchemaShape, unix_ms: i64) -> Result<(), SqlFault> {
        let parts = needed(shape, unix_ms);
        either!(self, it => it.add_parts(table, &parts).await)
    }

    /// One round over all of it, unless another node is at it: how many rows were deleted, and parts dropped.
    pub async fn sweep(&self, shape: &SchemaShape, now_ms: i64) -> Result<(i64, usize), SqlFault> {
        match self {
            SqlStore::Postgres(it) => match it.sweep_lock().await? {
                Some(lock) => {
                    let done = self.sweep_alone(shape, now_ms).await;
                    it.end_sweep(lock).await;
                    done
                }
                None => Ok((0, 0)),
            },
            SqlStore::Mysql(it) => match it.sweep_lock().await? {
                Some(lock) => {
                    let done = self.sweep_alone(shape, now_ms).await;
                    lock.end().await;
                    done
                }
                None => Ok((0, 0)),
            },
        }
    }

    async fn sweep_alone(&self, shape: &SchemaShape, now_ms: i64) -> Result<(i64, usize), SqlFault> {
        let ttl_ms = either!(self, it => it.longest_ttl().await?);
        let mut dropped = 0;
        for table in 0..shape.tables {
            self.make_parts(table, shape, now_ms).await?;
            let known = either!(self, it => it.parts(table).await?);
            for part in old(shape, &known, now_ms, ttl_ms) {
                either!(self, it => it.drop_part(table, &part).await?);
                dropped += 1;
            }
        }
        let (mut after, mut deleted) = (Vec::new(), 0);
        loop {
            let found = either!(self, it => it.overfull(&after, now_ms, STREAMS).await?);
            let Some(last) = found.last() else { break };
            after = last.key.0.to_vec();
            for stream in &found {
                deleted += self.trim(shape, stream).await?;
            }
        }
        either!(self, it => it.forget_streams(now_ms).await?);
        for table in 0..shape.tables {
            while either!(self, it => it.forget_cursors(table, now_ms, ROWS).await?) >= ROWS {}
        }
        Ok((deleted, dropped))
    }

    /// Whatever is left of a stream is left to the next round.
    async fn trim(&self, shape: &SchemaShape, stream: &Overfull) -> Result<i64, SqlFault> {
        let Overfull { key, upto, trimmed_to, before_ms, expired_to } = *stream;
        let table = key.table(shape.tables);
        let (mut deleted, mut done) = (0, (0, 0));
        if upto > trimmed_to {
            let rows = either!(self, it => it.trim(table, key, upto, i64::MAX, ROWS).await?);
            deleted += rows;
            done.0 = if rows < ROWS { upto } else { 0 };
        }
        if before_ms > expired_to {
            let rows = either!(self, it => it.trim(table, key, i64::MAX, before_ms, ROWS).await?);
            deleted += rows;
            done.1 = if rows < ROWS { before_ms } else { 0 };
        }
        if done != (0, 0) {
            either!(self, it => it.trimmed(key, done.0, done.1).await?);
        }
        Ok(deleted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_made_ahead_and_dropped_once_nothing_of_them_is_kept() {
        let shape = SchemaShape { tables: 1, part_days: 1 };
        let now = 20_000 * days::DAY_MS + 5;
        let names: Vec<String> = needed(&shape, now).into_iter().map(DayPart::name).collect();
        assert_eq!(names, ["20241004", "20241005", "20241006"]);
        let known: Vec<String> = ["20240930", "20241001", "20241002", "20241004", "else"].map(str::to_owned).into();
        let dropped = |ttl_ms| old(&shape, &known, now, ttl_ms);
        assert_eq!(dropped(0), Vec::<String>::new(), "kept for ever");
        assert_eq!(dropped(days::DAY_MS), ["20240930", "20241001", "20241002"]);
        assert_eq!(dropped(2 * days::DAY_MS), ["20240930", "20241001"]);
        let weeks = SchemaShape { part_days: 7, ..shape };
        assert_eq!(old(&weeks, &known, now, 2 * days::DAY_MS), Vec::<String>::new());
    }
}
