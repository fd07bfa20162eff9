//! What the loops and the conductor tell each other: the stage of the run, and each loop's gauges.
//!
//! Plain atomics, written by one side each; a loop looks at the stage at least every few milliseconds. Nobody waits
//! for a lock. Never knows what a stage means for a client.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use serde::{Deserialize, Serialize};

/// Where the run is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Clients connect.
    #[default]
    Connect,
    /// The scenario plays.
    Play,
    /// Nothing new is said; what is under way may arrive.
    Drain,
    /// Clients leave.
    Leave,
}

impl Stage {
    fn of(number: u8) -> Self {
        match number {
            0 => Self::Connect,
            1 => Self::Play,
            2 => Self::Drain,
            _ => Self::Leave,
        }
    }
}

/// What one loop shows while it runs.
#[derive(Debug, Default)]
pub struct Gauges {
    /// Clients that are connecting, or about to.
    pub busy: AtomicU64,
    /// The round of a storm that `busy` belongs to.
    pub round: AtomicU32,
    /// Nothing is left to be said.
    pub silent: AtomicBool,
    /// The stage it is in; everything before it is shown.
    pub stage: AtomicU8,
    pub open: AtomicU64,
    pub opened: AtomicU64,
    pub failed: AtomicU64,
    pub sent: AtomicU64,
    pub expected: AtomicU64,
    pub got: AtomicU64,
    pub messages_in: AtomicU64,
    pub bytes_in: AtomicU64,
    pub bytes_out: AtomicU64,
    pub recovered: AtomicU64,
    pub unrecovered: AtomicU64,
    pub from_history: AtomicU64,
    pub errors: AtomicU64,
}

/// The sums of all loops' gauges at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    pub open: u64,
    pub opened: u64,
    pub failed: u64,
    pub sent: u64,
    pub expected: u64,
    pub got: u64,
    pub messages_in: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub recovered: u64,
    pub unrecovered: u64,
    pub from_history: u64,
    pub errors: u64,
}

impl Reading {
    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        Self {
            open: self.open + other.open,
            opened: self.opened + other.opened,
            failed: self.failed + other.failed,
            sent: self.sent + other.sent,
            expected: self.expected + other.expected,
            got: self.got + other.got,
            messages_in: self.messages_in + other.messages_in,
            bytes_in: self.bytes_in + other.bytes_in,
            bytes_out: self.bytes_out + other.bytes_out,
            recovered: self.recovered + other.recovered,
            unrecovered: self.unrecovered + other.unrecovered,
            from_history: self.from_history + other.from_history,
            errors: self.errors + other.errors,
        }
    }
}

#[derive(Debug)]
pub struct Shared {
    stage: AtomicU8,
    /// When the scenario starts to play.
    start: AtomicU64,
    /// What is added to this host's clock to make it the run's, if a controller on another host says when things are.
    skew: AtomicI64,
    /// Storm: the round that is on, and when it began.
    round: AtomicU32,
    round_start: AtomicU64,
    /// A loop that cannot go on says so.
    broken: AtomicBool,
    pub loops: Vec<Gauges>,
}

impl Shared {
    /// `clients` of each loop are about to connect.
    pub fn new(clients: &[u64]) -> Self {
        let gauges = |count: &u64| Gauges { busy: AtomicU64::new(*count), ..Gauges::default() };
        Self {
            stage: AtomicU8::new(Stage::Connect as u8),
            start: AtomicU64::new(u64::MAX),
            skew: AtomicI64::new(0),
            round: AtomicU32::new(0),
            round_start: AtomicU64::new(0),
            broken: AtomicBool::new(false),
            loops: clients.iter().map(gauges).collect(),
        }
    }

    pub fn stage(&self) -> Stage {
        Stage::of(self.stage.load(SeqCst))
    }

    /// The stage that every loop has reached.
    pub fn reached(&self) -> Stage {
        self.loops.iter().map(|gauges| Stage::of(gauges.stage.load(SeqCst))).min().unwrap_or(Stage::Leave)
    }

    pub fn enter(&self, stage: Stage) {
        self.stage.store(stage as u8, SeqCst);
    }

    /// Lets the scenario play from `at` on.
    pub fn play(&self, at: u64) {
        self.start.store(at, SeqCst);
        self.enter(Stage::Play);
    }

    pub fn set_skew(&self, skew: i64) {
        self.skew.store(skew, SeqCst);
    }

    pub fn skew(&self) -> i64 {
        self.skew.load(SeqCst)
    }

    pub fn start(&self) -> u64 {
        self.start.load(SeqCst)
    }

    /// Begins the next round of a storm.
    pub fn next_round(&self, at: u64) {
        self.round_start.store(at, SeqCst);
        self.round.fetch_add(1, SeqCst);
    }

    /// The number of the round that is on (from 1; 0 = none yet), and its start.
    pub fn round(&self) -> (u32, u64) {
        (self.round.load(SeqCst), self.round_start.load(SeqCst))
    }

    /// True once every loop is in the round that is on and has nobody on the way.
    pub fn is_settled(&self) -> bool {
        let round = self.round.load(SeqCst);
        let is_there = |gauges: &Gauges| gauges.round.load(SeqCst) == round && gauges.busy.load(SeqCst) == 0;
        self.loops.iter().all(is_there)
    }

    /// True once every loop has said all it has to say.
    pub fn is_silent(&self) -> bool {
        self.loops.iter().all(|gauges| gauges.silent.load(SeqCst))
    }

    pub fn break_off(&self) {
        self.broken.store(true, SeqCst);
    }

    pub fn is_broken(&self) -> bool {
        self.broken.load(SeqCst)
    }

    pub fn read(&self) -> Reading {
        let read = |gauges: &Gauges| Reading {
            open: gauges.open.load(Relaxed),
            opened: gauges.opened.load(Relaxed),
            failed: gauges.failed.load(Relaxed),
            sent: gauges.sent.load(Relaxed),
            expected: gauges.expected.load(Relaxed),
            got: gauges.got.load(Relaxed),
            messages_in: gauges.messages_in.load(Relaxed),
            bytes_in: gauges.bytes_in.load(Relaxed),
            bytes_out: gauges.bytes_out.load(Relaxed),
            recovered: gauges.recovered.load(Relaxed),
            unrecovered: gauges.unrecovered.load(Relaxed),
            from_history: gauges.from_history.load(Relaxed),
            errors: gauges.errors.load(Relaxed),
        };
        self.loops.iter().map(read).fold(Reading::default(), Reading::plus)
    }
}
