//! Conducts a run: starts the loops, leads them from stage to stage, and samples their gauges.
//!
//! Every stage ends by itself or by its time; nothing here waits without a bound. Never touches a socket.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::clock::{self, MILLISECOND, SECOND};
use crate::cost::{Cost, Costs, own_cpu_seconds};
use crate::fleet::Fleet;
use crate::plan::{Life, Plan};
use crate::progress::Progress;
use crate::shared::{Reading, Shared, Stage};
use crate::tally::Tally;

/// How often the conductor looks.
const LOOK: Duration = Duration::from_millis(5);
/// From the word to the first beat, so that all loops have heard it.
const UPBEAT: u64 = 20 * MILLISECOND;

/// Nothing received for so long: nothing is to come.
const QUIET: u64 = 500 * MILLISECOND;

/// One moment of a run.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Seconds since the run began.
    pub at: f64,
    pub reading: Reading,
}

/// One round of a storm.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    pub seconds: f64,
    /// Everyone came back.
    pub complete: bool,
}

/// All that is known after a run.
#[derive(Debug)]
pub struct Outcome {
    pub tally: Tally,
    pub samples: Vec<Sample>,
    pub rounds: Vec<Round>,
    /// From the first connection begun to the last one settled.
    pub connect_seconds: f64,
    pub play_seconds: f64,
    /// How many were open when it did.
    pub open_at_play: u64,
    pub costs: Option<Costs>,
    /// What this process spent while the scenario played: near one second a second for each loop, it is the limit.
    pub own_cpu_seconds: f64,
    pub interrupted: bool,
}

struct Conductor<'a> {
    plan: &'a Plan,
    shared: &'a Shared,
    progress: Progress,
    stop: Arc<AtomicBool>,
    began: u64,
    samples: Vec<Sample>,
    sample_every: u64,
    next_sample: u64,
}

/// Runs a plan. `pid` is the server to watch.
pub fn run(plan: Plan, pid: Option<u32>, progress: Progress) -> io::Result<Outcome> {
    let plan = Arc::new(plan);
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // The first signal ends the run early with a report, the second ends the process.
        signal_hook::flag::register_conditional_shutdown(signal, 130, stop.clone())?;
        signal_hook::flag::register(signal, stop.clone())?;
    }
    let first = |thread| plan.clients_of(thread).filter(|client| *client < plan.clients_at_step(0)).count() as u64;
    let shared = Arc::new(Shared::new(&(0..plan.threads).map(first).collect::<Vec<_>>()));
    let before = pid.map(Cost::read).transpose()?;
    let began = clock::now();
    let mut threads = Vec::new();
    for number in 0..plan.threads {
        let (plan, shared) = (plan.clone(), shared.clone());
        threads.push(thread::Builder::new().name(format!("loop-{number}")).spawn(move || {
            let result = Fleet::new(plan, shared.clone(), number).and_then(Fleet::run);
            if result.is_err() {
                shared.break_off();
            }
            result
        })?);
    }
    let sample_every = if plan.duration < Duration::from_secs(60) { SECOND / 4 } else { SECOND };
    let (plan, shared) = (&*plan, &*shared);
    let samples = Vec::new();
    let mut conductor = Conductor { plan, shared, progress, stop, began, samples, sample_every, next_sample: 0 };
    let mut outcome = conductor.lead(pid, before)?;
    for thread in threads {
        let tally = thread.join().map_err(|_| io::Error::other("a loop panicked"))??;
        outcome.tally.add(&tally);
    }
    outcome.samples = conductor.samples;
    Ok(outcome)
}

impl Conductor<'_> {
    fn lead(&mut self, pid: Option<u32>, before: Option<Cost>) -> io::Result<Outcome> {
        let connect_by = self.began + self.connect_limit();
        self.wait("connecting", connect_by, Shared::is_settled);
        let connect_seconds = self.seconds();
        self.wait("settling", clock::now() + self.plan.settle.as_nanos() as u64, |_| false);
        let connected = pid.map(Cost::read).transpose()?;
        let open_at_play = self.shared.read().open;
        let start = self.start(open_at_play);
        let own_before = own_cpu_seconds()?;
        let play_at = (start - self.began) as f64 / 1e9;
        self.shared.play(start);
        let rounds = if open_at_play > 0 { self.play(start) } else { Vec::new() };
        let played = pid.map(Cost::read).transpose()?;
        let own_cpu_seconds = own_cpu_seconds()? - own_before;
        let play_seconds = (self.seconds() - play_at).min(self.plan.duration.as_secs_f64());
        self.drain();
        self.look("leaving", true);
        self.shared.enter(Stage::Leave);
        self.progress.end();
        let costs = match (before, connected, played) {
            (Some(before), Some(connected), Some(played)) => Some(Costs { before, connected, played }),
            _ => None,
        };
        Ok(Outcome {
            tally: Tally::default(),
            samples: Vec::new(),
            rounds,
            connect_seconds,
            play_seconds,
            open_at_play,
            costs,
            own_cpu_seconds,
            interrupted: self.stop.load(Relaxed),
        })
    }

    /// Everyone has the time their pace needs, and then the time a connection may take.
    fn connect_limit(&self) -> u64 {
        let clients = f64::from(self.plan.first_clients_here());
        let paced = self.plan.connect_rate.map_or(clients / 1000.0, |rate| clients / rate);
        (paced * 1e9) as u64 + 2 * self.plan.connect_timeout.as_nanos() as u64
    }

    /// When the scenario plays: at once, or at the moment agreed on.
    fn start(&mut self, open: u64) -> u64 {
        let soon = clock::now() + UPBEAT;
        let agreed = self.plan.start_at.map_or(Duration::ZERO, |at| {
            at.saturating_sub(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
        });
        let start = soon.max(clock::now() + agreed.as_nanos() as u64);
        if open > 0 {
            self.wait("waiting", start.saturating_sub(UPBEAT), |_| false);
        }
        start
    }

    fn play(&mut self, start: u64) -> Vec<Round> {
        let end = start + self.plan.duration.as_nanos() as u64;
        let Life::Storm { rounds, pause } = self.plan.life else {
            self.wait("playing", end, |_| false);
            // Loops stop by themselves at the end; a busy one has a moment to say what was due before it.
            self.wait("playing", end + SECOND, Shared::is_silent);
            return Vec::new();
        };
        let mut played = Vec::new();
        for number in 0..rounds {
            if clock::now() >= end || self.must_stop() {
                break;
            }
            let at = clock::now();
            self.shared.next_round(at);
            let complete = self.wait("storm", end, Shared::is_settled);
            played.push(Round { seconds: (clock::now() - at) as f64 / 1e9, complete });
            if number + 1 < rounds {
                self.wait("calm", (clock::now() + pause.as_nanos() as u64).min(end), |_| false);
            }
        }
        played
    }

    /// What is under way may arrive.
    fn drain(&mut self) {
        self.shared.enter(Stage::Drain);
        let end = clock::now() + self.plan.grace.as_nanos() as u64;
        // Stalled readers have much to read before they see whether they were cut off.
        let quiet_needed = if matches!(self.plan.life, Life::Stall { .. }) { QUIET } else { 0 };
        let mut quiet = (0, clock::now());
        // Loops may not yet have shown what they sent last.
        self.wait("draining", clock::now() + UPBEAT, |_| false);
        self.wait("draining", end, |shared| {
            let (now, reading) = (clock::now(), shared.read());
            if reading.bytes_in != quiet.0 {
                quiet = (reading.bytes_in, now);
            }
            reading.got >= reading.expected && now - quiet.1 >= quiet_needed
        });
    }

    /// Waits until `is_done`, or `until`: true if done.
    fn wait(&mut self, stage: &'static str, until: u64, mut is_done: impl FnMut(&Shared) -> bool) -> bool {
        loop {
            if is_done(self.shared) {
                return true;
            }
            if clock::now() >= until || self.must_stop() {
                return false;
            }
            self.look(stage, false);
            thread::sleep(LOOK);
        }
    }

    fn must_stop(&self) -> bool {
        self.stop.load(Relaxed) || self.shared.is_broken()
    }

    fn look(&mut self, stage: &'static str, last: bool) {
        let now = clock::now();
        if now >= self.next_sample || last {
            self.next_sample = now + self.sample_every;
            self.samples.push(Sample { at: self.seconds(), reading: self.shared.read() });
        }
        self.progress.show(stage, now, self.began, self.shared);
    }

    fn seconds(&self) -> f64 {
        (clock::now() - self.began) as f64 / 1e9
    }
}
