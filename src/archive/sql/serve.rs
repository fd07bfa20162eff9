//! F10 · The archive's thread, if it is in a database: lanes, and who looks after them.
//!
//! Owns which lane a channel is in. A server whose tables are not fit does not start ([`faults`]); one whose database
//! is away does, and waits for it.

use super::keeper::{self, Keeper};
use super::lanes::{Lane, LaneCall, LaneEnds, LaneHouse};
use super::{SqlFault, SqlOptions, SqlStore};
use crate::archive::{ArchiveCounts, ArchiveOrder, ArchivePost, ArchiveStore};
use crate::broker::archive::{ArchiveAnswer, ArchiveCall};
use crate::broker::engine::Away;
use crate::config::Config;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, LocalSet};

pub struct SqlArchive {
    options: SqlOptions,
    runtime: Runtime,
    counts: Arc<ArchiveCounts>,
    /// Is it a channel that nodes share by an engine?
    is_shared: Box<dyn Fn(&str) -> bool + Send>,
    /// Some channels are this node's own.
    holds: bool,
}

impl SqlArchive {
    /// The error is a line for the operator.
    pub fn open(
        options: SqlOptions,
        counts: Arc<ArchiveCounts>,
        is_shared: Box<dyn Fn(&str) -> bool + Send>,
        holds: bool,
    ) -> Result<SqlArchive, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("cannot start the archive's runtime: {error}"))?;
        Ok(SqlArchive { options, runtime, counts, is_shared, holds })
    }
}

/// Why a server cannot use the tables, if they can be seen: it waits for a database that is away.
pub fn faults(config: &Config) -> Vec<String> {
    let Some(options) = config.archive_kind().and_then(|_| SqlOptions::of(config)) else { return Vec::new() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return Vec::new() };
    let looked = runtime.block_on(async {
        let store = SqlStore::new(&options)?;
        match store.shape(options.tables).await {
            Err(SqlFault::Schema(why)) => Err(format!("{}: {why}", options.shown())),
            Err(_) | Ok(_) => Ok(()),
        }
    });
    looked.err().into_iter().collect()
}

impl ArchiveStore for SqlArchive {
    fn serve(self: Box<Self>, orders: mpsc::UnboundedReceiver<ArchiveOrder>, post: ArchivePost) {
        let SqlArchive { options, runtime, counts, is_shared, holds } = *self;
        let serve = async {
            // A store belongs to the set of tasks that its connections run in.
            match SqlStore::new(&options) {
                Ok(store) => {
                    let ends = Rc::new(PostEnds { post: RefCell::new(post), counts });
                    let (shown, flush) = (options.shown(), options.flush_interval);
                    let house = LaneHouse::new(store, shown, &options.share, is_shared, flush, ends);
                    carry_out(Rc::new(house), &options, holds, orders).await;
                }
                Err(why) => tracing::error!("{why}"),
            }
        };
        LocalSet::new().block_on(&runtime, serve);
    }
}

async fn carry_out(
    house: Rc<LaneHouse>,
    options: &SqlOptions,
    holds: bool,
    mut orders: mpsc::UnboundedReceiver<ArchiveOrder>,
) {
    let keeper = tokio::task::spawn_local(Keeper::new(house.clone(), options, holds).run());
    let (mut lanes, mut running): (Vec<_>, Vec<JoinHandle<()>>) = (Vec::new(), Vec::new());
    for _ in 0..options.connections.min(usize::from(options.tables)).max(1) {
        let (lane, calls) = mpsc::unbounded_channel();
        lanes.push(lane);
        running.push(tokio::task::spawn_local(Lane::new(house.clone(), calls).run()));
    }
    while let Some(order) = orders.recv().await {
        match order {
            ArchiveOrder::Calls(reactor, calls) => {
                let mut shares: Vec<Vec<LaneCall>> = lanes.iter().map(|_| Vec::new()).collect();
                for call in calls {
                    let table = house.key(call.channel()).table(options.tables);
                    shares[usize::from(table) % lanes.len()].push(LaneCall { reactor, call });
                }
                for (lane, calls) in lanes.iter().zip(shares).filter(|(_, calls)| !calls.is_empty()) {
                    // A lane ends after this.
                    let _ = lane.send(calls);
                }
            }
            ArchiveOrder::End(told) => {
                lanes.clear();
                for lane in running {
                    let _ = lane.await;
                }
                keeper.abort();
                if let Err(fault) = keeper::end(&house).await {
                    tracing::warn!(database = house.shown, %fault, "the archive's life did not end cleanly");
                }
                let _ = told.send(());
                return;
            }
        }
    }
}

struct PostEnds {
    post: RefCell<ArchivePost>,
    counts: Arc<ArchiveCounts>,
}

impl LaneEnds for PostEnds {
    fn answer(&self, reactor: u16, ticket: u64, answer: Result<ArchiveAnswer, Away>) {
        self.post.borrow_mut().answer(reactor, ticket, answer);
    }

    fn leave(&self, call: &ArchiveCall) {
        self.counts.leave(call);
    }

    fn flush(&self) {
        self.post.borrow_mut().flush();
    }

    fn wrote(&self, publications: usize, took: Duration) {
        ArchiveCounts::add(&self.counts.appended, publications);
        ArchiveCounts::add(&self.counts.commits, 1);
        ArchiveCounts::add(&self.counts.commit_micros, took.as_micros() as usize);
    }

    fn followed(&self, cursors: usize) {
        ArchiveCounts::add(&self.counts.cursors, cursors);
    }

    fn lost(&self, publications: usize) {
        ArchiveCounts::add(&self.counts.lost, publications);
    }

    fn expired(&self, publications: i64) {
        ArchiveCounts::add(&self.counts.expired, usize::try_from(publications).unwrap_or(0));
    }

    fn set_up(&self, is_up: bool) {
        self.counts.is_up.store(is_up, Ordering::Relaxed);
    }
}
