//! What becomes of calls when the database is killed, at each step.

use crate::databases::{Database, Kind};
use crate::store::{FOREVER, options, publication};
use gannet::archive::sql::lanes::{Lane, LaneCall, LaneEnds, LaneHouse};
use gannet::archive::sql::migrate::migrate;
use gannet::archive::sql::{SqlOptions, SqlStore};
use gannet::broker::archive::{ArchiveAnswer, ArchiveCall, ArchivePage};
use gannet::broker::engine::Away;
use gannet::broker::{Epoch, Position};
use gannet::wall_clock::unix_ms;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::LocalSet;

const CHANNELS: [&str; 4] = ["a", "b", "c", "batched"];
/// The one whose publications nobody waits for.
const BATCHED: &str = CHANNELS[3];
/// Publications in each channel and step.
const MANY: u64 = 40;

#[derive(Default)]
struct Told {
    answers: RefCell<BTreeMap<u64, Result<ArchiveAnswer, Away>>>,
    left: Cell<u64>,
    lost: Cell<usize>,
    is_up: Cell<bool>,
}

impl LaneEnds for Told {
    fn answer(&self, _: u16, ticket: u64, answer: Result<ArchiveAnswer, Away>) {
        assert!(self.answers.borrow_mut().insert(ticket, answer).is_none(), "answered twice: {ticket}");
    }
    fn leave(&self, _: &ArchiveCall) {
        self.left.set(self.left.get() + 1);
    }
    fn flush(&self) {}
    fn wrote(&self, _: usize, _: Duration) {}
    fn followed(&self, _: usize) {}
    fn lost(&self, publications: usize) {
        self.lost.set(self.lost.get() + publications);
    }
    fn expired(&self, _: i64) {}
    fn set_up(&self, is_up: bool) {
        self.is_up.set(is_up);
    }
}

/// Waits for what other tasks do, as long as it takes.
async fn until(what: &str, mut look: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(120);
    while !look() {
        assert!(tokio::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// An owner of channels.
struct Owner {
    told: Rc<Told>,
    lane: mpsc::UnboundedSender<Vec<LaneCall>>,
    tickets: u64,
    calls: u64,
    /// The latest offset of each channel.
    tops: BTreeMap<&'static str, u64>,
}

impl Owner {
    fn call(&mut self, make: impl FnOnce(u64) -> ArchiveCall) -> u64 {
        self.tickets += 1;
        self.calls += 1;
        self.lane.send(vec![LaneCall { reactor: 0, call: make(self.tickets) }]).expect("a lane");
        self.tickets
    }

    /// Publishes in all channels: tickets with channels and offsets.
    fn publish(&mut self) -> Vec<(u64, &'static str, u64)> {
        let mut asked = Vec::new();
        for _ in 0..MANY {
            for channel in CHANNELS {
                let top = self.tops.entry(channel).or_default();
                *top += 1;
                let offset = *top;
                let position = Position { offset, epoch: Epoch::from("one") };
                let (publication, unix_ms, name) = (Arc::new(publication(offset)), unix_ms(), channel.into());
                let ticket = self.call(|ticket| {
                    let ticket = (channel != BATCHED).then_some(ticket);
                    ArchiveCall::Append { ticket, channel: name, position, publication, unix_ms, keep: FOREVER }
                });
                if channel != BATCHED {
                    asked.push((ticket, channel, offset));
                }
            }
        }
        asked
    }

    fn answer(&self, ticket: u64) -> Option<Result<ArchiveAnswer, Away>> {
        self.told.answers.borrow().get(&ticket).cloned()
    }

    async fn answered(&self, ticket: u64) -> Result<ArchiveAnswer, Away> {
        until("an answer", || self.answer(ticket).is_some()).await;
        self.answer(ticket).expect("an answer")
    }

    /// Asks until the database answers.
    async fn insist(&mut self, make: impl Fn(u64) -> ArchiveCall) -> ArchiveAnswer {
        for _ in 0..10_000 {
            let ticket = self.call(&make);
            if let Ok(answer) = self.answered(ticket).await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("the database does not come back");
    }

    /// Where the stream stands, and all that is in it.
    async fn look(&mut self, channel: &'static str) -> (u64, Vec<u64>) {
        let opened = self
            .insist(|ticket| ArchiveCall::Open { ticket, channel: channel.into(), latest: 1, ahead: false, cursors: 0 })
            .await;
        let top = match opened {
            ArchiveAnswer::Opened { stream, .. } => stream.map_or(0, |stream| stream.position.offset),
            other => panic!("{other:?}"),
        };
        let page = ArchivePage { since: None, until: u64::MAX >> 1, limit: 100_000, reverse: false };
        let read = self.insist(|ticket| ArchiveCall::Read { ticket, channel: channel.into(), page }).await;
        let ArchiveAnswer::Page(found) = read else { panic!("{read:?}") };
        (top, found.iter().map(|publication| publication.offset).collect())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// All was answered.
    Quiet,
    /// Some were.
    Middle,
    /// It is down already.
    Before,
}

async fn killed_at_each_step(database: &mut Database, options: &SqlOptions) {
    migrate(options, false).await.expect("tables");
    let store = SqlStore::new(options).expect("a store");
    let shape = store.shape(options.tables).await.expect("tables");
    let life = store.begin_life("").await.expect("a life");
    let told = Rc::new(Told::default());
    let ends = told.clone();
    let house = LaneHouse::new(store, options.shown(), "", Box::new(|_| false), options.flush_interval, ends);
    house.set_open(Some((life, shape)));
    let house = Rc::new(house);
    let (lane, calls) = mpsc::unbounded_channel();
    let running = tokio::task::spawn_local(Lane::new(house.clone(), calls).run());
    let mut it = Owner { told, lane, tickets: 0, calls: 0, tops: BTreeMap::new() };
    for moment in [Moment::Quiet, Moment::Middle, Moment::Before, Moment::Middle] {
        if moment == Moment::Before {
            database.kill();
        }
        let asked = it.publish();
        match moment {
            Moment::Quiet => until("all", || asked.iter().all(|asked| it.answer(asked.0).is_some())).await,
            Moment::Middle => {
                until("some", || it.answer(asked[0].0).is_some()).await;
                // And one is on its way.
                it.publish();
                tokio::task::yield_now().await;
            }
            Moment::Before => {}
        }
        if moment != Moment::Before {
            database.kill();
        }
        until("all tickets are answered", || asked.iter().all(|asked| it.answer(asked.0).is_some())).await;
        if moment == Moment::Before {
            assert!(asked.iter().all(|asked| it.answer(asked.0) == Some(Err(Away))), "it was down");
            assert!(!it.told.is_up.get());
        }
        database.restart();
        for channel in &CHANNELS[..3] {
            let (top, found) = it.look(channel).await;
            for (ticket, _, offset) in asked.iter().filter(|asked| asked.1 == *channel) {
                let answered = it.answer(*ticket) == Some(Ok(ArchiveAnswer::Appended));
                assert!(!answered || found.contains(offset), "{moment:?}: {channel} {offset} was answered");
            }
            assert_eq!(found, (1..=top).collect::<Vec<u64>>(), "{moment:?}: {channel} has no gaps");
            it.tops.insert(channel, top);
        }
        until("nothing waits", || it.told.left.get() == it.calls).await;
        let (top, found) = it.look(BATCHED).await;
        assert_eq!(top, it.tops[BATCHED], "{moment:?}: what nobody waited for, waited");
        assert_eq!(found, (1..=top).collect::<Vec<u64>>(), "{moment:?}");
        until("it is up", || it.told.is_up.get()).await;
    }
    assert_eq!(it.told.lost.get(), 0);
    drop(it.lane);
    running.await.expect("its end");
    assert!(!house.has_lost.get());
}

#[test]
fn what_was_answered_outlives_a_killed_database_and_what_waits_is_written_after() {
    for kind in [Kind::Postgres, Kind::MariaDb] {
        let mut database = Database::start(kind);
        let options = options(&database, "killed");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        LocalSet::new().block_on(&runtime, killed_at_each_step(&mut database, &options));
    }
}

/// Nobody waits for a database that was never there.
#[tokio::test]
async fn without_a_database_all_is_refused_at_once_or_lost_in_the_end() {
    let set = LocalSet::new();
    set.run_until(async {
        let options = SqlOptions { url: "mysql://u:p@127.0.0.1:1/d".into(), ..options_of_none() };
        let store = SqlStore::new(&options).expect("a store");
        let told = Rc::new(Told::default());
        let flush = options.flush_interval;
        let ends = told.clone();
        let house = Rc::new(LaneHouse::new(store, options.shown(), "", Box::new(|_| false), flush, ends));
        let (lane, calls) = mpsc::unbounded_channel();
        let running = tokio::task::spawn_local(Lane::new(house.clone(), calls).run());
        let mut it = Owner { told, lane, tickets: 0, calls: 0, tops: BTreeMap::new() };
        let asked = it.publish();
        for (ticket, ..) in &asked {
            assert_eq!(it.answered(*ticket).await, Err(Away));
        }
        drop(it.lane);
        running.await.expect("its end");
        assert_eq!((it.told.lost.get() as u64, it.told.left.get()), (MANY, it.calls));
        assert!(house.has_lost.get());
    })
    .await;
}

fn options_of_none() -> SqlOptions {
    SqlOptions {
        kind: gannet::archive::sql::SqlKind::Mysql,
        url: String::new(),
        tls: gannet::config::TlsOptions::default(),
        tables: 4,
        connections: 1,
        connect_timeout: Duration::from_secs(60),
        timeout: Duration::from_secs(60),
        flush_interval: Duration::from_millis(1),
        share: String::new(),
        ttl_max_ms: 0,
    }
}
