//! Conducts a run: leads loops, here or at agents, from stage to stage, and samples their gauges.
//!
//! Every stage ends by itself or by its time; nothing here waits without a bound. Never touches a socket, and never
//! knows where the loops are.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::agents::Part;
use crate::clock::{self, MILLISECOND, SECOND};
use crate::cost::process::own_cpu_seconds;
use crate::cost::{Look, Spent, Watch};
use crate::loops::Led;
use crate::plan::{Life, Plan, Talk};
use crate::progress::Progress;
use crate::shared::{Reading, Stage};
use crate::tally::Tally;

/// How often the conductor looks.
const LOOK: Duration = Duration::from_millis(5);
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
    /// From the moment clients wanted back until the last one was.
    pub seconds: f64,
    /// Everyone came back.
    pub complete: bool,
    /// Subscriptions that got what they missed, those that did not, and what they got.
    pub recovered: u64,
    pub unrecovered: u64,
    pub from_history: u64,
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
    /// What the server spent.
    pub spent: Spent,
    /// What this process spent while the scenario played: near one second a second for each loop, it is the limit.
    pub own_cpu_seconds: f64,
    pub interrupted: bool,
    /// What each agent came to; none if the loops were of this process.
    pub agents: Vec<Part>,
}

struct Conductor<'a> {
    plan: &'a Plan,
    led: &'a mut dyn Led,
    progress: Progress,
    stop: Arc<AtomicBool>,
    began: u64,
    samples: Vec<Sample>,
    sample_every: u64,
    next_sample: u64,
}

/// Runs a plan. `watch` shows what the server spends.
pub fn run(plan: &Plan, led: &mut dyn Led, watch: &Watch, progress: Progress) -> io::Result<Outcome> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // The first signal ends the run early with a report, the second ends the process.
        signal_hook::flag::register_conditional_shutdown(signal, 130, stop.clone())?;
        signal_hook::flag::register(signal, stop.clone())?;
    }
    let before = watch.look();
    if let Some(fault) = before.fault() {
        return Err(io::Error::other(fault.to_owned()));
    }
    let began = led.begin()?;
    let sample_every = if plan.duration < Duration::from_secs(60) { SECOND / 4 } else { SECOND };
    let samples = Vec::new();
    let mut conductor = Conductor { plan, led, progress, stop, began, samples, sample_every, next_sample: 0 };
    let outcome = conductor.lead(watch, before)?;
    Ok(Outcome { samples: conductor.samples, tally: conductor.led.end()?, ..outcome })
}

impl Conductor<'_> {
    fn lead(&mut self, watch: &Watch, before: Look) -> io::Result<Outcome> {
        let connect_by = self.began + self.connect_limit();
        self.wait("connecting", connect_by, |led| led.settled_at().is_some());
        let settled = self.led.settled_at().unwrap_or_else(clock::now);
        let connect_seconds = settled.saturating_sub(self.began) as f64 / 1e9;
        self.wait("settling", clock::now() + self.plan.settle.as_nanos() as u64, |_| false);
        let connected = watch.look();
        let open_at_play = self.led.read().open;
        let start = self.start(open_at_play);
        let own_before = own_cpu_seconds()?;
        let play_at = start.saturating_sub(self.began) as f64 / 1e9;
        self.led.play(start);
        let rounds = if open_at_play > 0 { self.play(start) } else { Vec::new() };
        let own_cpu_seconds = own_cpu_seconds()? - own_before;
        let play_seconds = (self.seconds() - play_at).clamp(0.0, self.plan.duration.as_secs_f64());
        let played = watch.look();
        self.drain();
        self.look("leaving", true);
        self.led.enter(Stage::Leave);
        self.progress.end();
        Ok(Outcome {
            tally: Tally::default(),
            samples: Vec::new(),
            rounds,
            connect_seconds,
            play_seconds,
            open_at_play,
            spent: watch.spent(before, connected, played, open_at_play),
            own_cpu_seconds,
            interrupted: self.stop.load(Relaxed),
            agents: Vec::new(),
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
        let soon = clock::now() + self.led.upbeat();
        let agreed = self.plan.start_at.map_or(Duration::ZERO, |at| {
            at.saturating_sub(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
        });
        let start = soon.max(clock::now() + agreed.as_nanos() as u64);
        if open > 0 {
            self.wait("waiting", start.saturating_sub(self.led.upbeat()), |_| false);
        }
        start
    }

    fn play(&mut self, start: u64) -> Vec<Round> {
        let end = start + self.plan.duration.as_nanos() as u64;
        let Life::Storm { rounds, pause, away } = self.plan.life else {
            self.wait("playing", end, |_| false);
            // Loops stop by themselves at the end; a busy one has a moment to say what was due before it.
            self.wait("playing", end + SECOND, |led| led.is_silent());
            return Vec::new();
        };
        // Where there is talk, clients hear some of it before they are cut, and after the last of them is back.
        let talks = self.plan.talk != Talk::Nobody;
        let calm = |conductor: &mut Self| {
            conductor.wait("calm", (clock::now() + pause.as_nanos() as u64).min(end), |_| false);
        };
        if talks {
            calm(self);
        }
        let mut played = Vec::new();
        for number in 0..rounds {
            if clock::now() >= end || self.must_stop() {
                break;
            }
            let before = self.led.read();
            let back = self.led.next_round() + away.as_nanos() as u64;
            let complete = self.wait("storm", end, |led| led.settled_at().is_some());
            let over = self.led.settled_at().filter(|_| complete).unwrap_or_else(clock::now);
            let after = self.led.read();
            played.push(Round {
                seconds: over.saturating_sub(back) as f64 / 1e9,
                complete,
                recovered: after.recovered.saturating_sub(before.recovered),
                unrecovered: after.unrecovered.saturating_sub(before.unrecovered),
                from_history: after.from_history.saturating_sub(before.from_history),
            });
            if number + 1 < rounds || talks {
                calm(self);
            }
        }
        // Other lives are silent by now; here the last word is said when the rounds are over.
        self.led.enter(Stage::Drain);
        played
    }

    /// What is under way may arrive.
    fn drain(&mut self) {
        self.led.enter(Stage::Drain);
        let end = clock::now() + self.plan.grace.as_nanos() as u64;
        // Stalled readers have much to read before they see whether they were cut off.
        let quiet_needed = if matches!(self.plan.life, Life::Stall { .. }) { QUIET } else { 0 };
        let mut quiet = (0, clock::now());
        self.wait("draining", end, |led| {
            // First this, then the reading: loops show what they sent last before they show the stage.
            let is_all_shown = led.has_reached(Stage::Drain);
            let (now, reading) = (clock::now(), led.read());
            if reading.bytes_in != quiet.0 {
                quiet = (reading.bytes_in, now);
            }
            is_all_shown && reading.got >= reading.expected && now - quiet.1 >= quiet_needed
        });
    }

    /// Waits until `is_done`, or `until`: true if done.
    fn wait(&mut self, stage: &'static str, until: u64, mut is_done: impl FnMut(&dyn Led) -> bool) -> bool {
        loop {
            if is_done(&*self.led) {
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
        self.stop.load(Relaxed) || self.led.is_broken()
    }

    fn look(&mut self, stage: &'static str, last: bool) {
        let now = clock::now();
        while let Some(news) = self.led.news() {
            self.progress.say(&news);
        }
        if now >= self.next_sample || last {
            self.next_sample = now + self.sample_every;
            self.samples.push(Sample { at: self.seconds(), reading: self.led.read() });
        }
        self.progress.show(stage, now, self.began, &*self.led);
    }

    fn seconds(&self) -> f64 {
        clock::now().saturating_sub(self.began) as f64 / 1e9
    }
}
