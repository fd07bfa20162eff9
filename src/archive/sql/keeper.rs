//! F10 · Who looks after the database of an archive: is it fit, is the share ours, and what is to be forgotten?
//!
//! Owns the life and the sweeps. Lanes carry out nothing before it found the database fit.
//!
//! A share has one node alone, which holds a lock as long as its connection lives. When that was lost and nobody else
//! came meanwhile, the life goes on: what lanes wrote is there, and what they could not write waits.

use super::lanes::LaneHouse;
use super::{SchemaShape, SqlFault, SqlOptions};
use crate::engine::backoff::Backoff;
use crate::wall_clock::unix_ms;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::Instant;

/// How often it is looked at.
const WATCH: Duration = Duration::from_secs(2);
/// How often it is swept.
const SWEEP: Duration = Duration::from_secs(60);

pub struct Keeper {
    house: Rc<LaneHouse>,
    tables: u16,
    /// Some channels are this node's own.
    holds: bool,
    life: Option<i64>,
    /// What was said last.
    said: String,
    advised: bool,
    swept: Instant,
}

impl Keeper {
    pub fn new(house: Rc<LaneHouse>, options: &SqlOptions, holds: bool) -> Keeper {
        let (tables, life, said) = (options.tables, None, String::new());
        Keeper { house, tables, holds, life, said, advised: false, swept: Instant::now() }
    }

    /// Never ends.
    pub async fn run(mut self) {
        let mut backoff = Backoff::new();
        loop {
            match self.open().await {
                Ok(shape) => {
                    backoff = Backoff::new();
                    self.watch(shape).await;
                    self.house.set_open(None);
                }
                Err(fault) => {
                    self.say(&fault.to_string());
                    backoff.wait().await;
                }
            }
        }
    }

    /// The database as the lanes need it.
    async fn open(&mut self) -> Result<SchemaShape, SqlFault> {
        let store = &self.house.store;
        let shape = store.shape(self.tables).await?;
        let share = self.house.own.name.clone();
        if self.holds && !store.hold_share(&share).await? {
            let what = "another node has this share of the archive: give each node a durable.share of its own";
            return Err(SqlFault::Away(what.into()));
        }
        let life = match self.life {
            Some(life) if store.is_latest(life, &share).await? => life,
            _ => store.begin_life(&share).await?,
        };
        self.life = Some(life);
        if !std::mem::replace(&mut self.advised, true) {
            for line in store.advice().await? {
                tracing::warn!(database = self.house.shown, "{line}");
            }
        }
        self.said.clear();
        tracing::info!(database = self.house.shown, life, tables = shape.tables, "the archive's database is fit");
        self.house.set_open(Some((life, shape)));
        Ok(shape)
    }

    /// As long as the share is ours.
    async fn watch(&mut self, shape: SchemaShape) {
        loop {
            tokio::time::sleep(WATCH).await;
            if self.holds && !self.house.store.is_share_held().await {
                return self.say("the connection that has the share was lost");
            }
            if self.swept.elapsed() >= SWEEP {
                self.swept = Instant::now();
                match self.house.store.sweep(&shape, unix_ms() as i64).await {
                    Ok((0, 0)) => {}
                    Ok((rows, parts)) => {
                        self.house.ends.expired(rows);
                        tracing::debug!(rows, parts, "swept the archive");
                    }
                    Err(fault) => tracing::debug!(%fault, "the archive was not swept"),
                }
            }
        }
    }

    /// Once.
    fn say(&mut self, what: &str) {
        if self.said != what {
            tracing::warn!(database = self.house.shown, "the archive waits: {what}");
            self.said = what.to_owned();
        }
    }
}

/// The life ended, and all that was called in it is on disk.
pub async fn end(house: &LaneHouse) -> Result<(), SqlFault> {
    match house.open.get() {
        Some((life, _)) if !house.has_lost.get() => house.store.end_life(life).await,
        _ => Err(SqlFault::Away("not all of it is on disk".into())),
    }
}
