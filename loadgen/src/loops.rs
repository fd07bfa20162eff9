//! What a conductor leads, and the one that is near: the loops of this process, each a thread.
//!
//! Never decides when a stage ends, nor what is made of the tallies.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::clock::{self, MILLISECOND};
use crate::fleet::Fleet;
use crate::plan::Plan;
use crate::shared::{Reading, Shared, Stage};
use crate::tally::Tally;

/// From the word to the first beat, so that all loops have heard it.
const UPBEAT: u64 = 20 * MILLISECOND;
/// Descriptors that are no connections: standard streams, polls, alarms, and the files of the report.
const DESCRIPTORS_SPARE: u64 = 64;

/// What a conductor leads from stage to stage: the loops of this process, or agents with loops of their own. Moments
/// are those of this process's clock.
pub trait Led {
    /// Clients begin to connect: when they do.
    fn begin(&mut self) -> io::Result<u64>;
    /// The scenario plays from `at` on, which must lie `upbeat` ahead.
    fn play(&mut self, at: u64);
    fn upbeat(&self) -> u64;
    /// Begins the next round of a storm: when it does.
    fn next_round(&mut self) -> u64;
    fn enter(&mut self, stage: Stage);
    /// The gauges' sums.
    fn read(&self) -> Reading;
    /// When the last client that was on its way had arrived, or had failed; None = some are on their way.
    fn settled_at(&self) -> Option<u64>;
    /// Everything said before `stage` is in the reading.
    fn has_reached(&self, stage: Stage) -> bool;
    /// Everyone has said all there was to say.
    fn is_silent(&self) -> bool;
    /// It cannot go on.
    fn is_broken(&self) -> bool;
    /// Something that whoever watches should know now.
    fn news(&mut self) -> Option<String> {
        None
    }
    /// Waits for the clients to leave: what was counted.
    fn end(&mut self) -> io::Result<Tally>;
}

/// One process may hold as many connections as the hard limit of descriptors allows.
pub fn raise_descriptors(plan: &Plan) -> Result<(), String> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).map_err(|error| format!("descriptors: {error}"))?;
    let (most, clients) = (limit.maximum.unwrap_or(u64::MAX), u64::from(plan.clients_here()));
    if clients > most.saturating_sub(DESCRIPTORS_SPARE) {
        return Err(format!(
            "{clients} clients need as many descriptors, and this process may have {most}: raise the hard limit \
             (ulimit -Hn), or share the clients among more processes with gannet-loadgen controller --local N"
        ));
    }
    Ok(())
}

/// The loops of this process. They end with it.
pub struct Loops {
    plan: Arc<Plan>,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<io::Result<Tally>>>,
}

impl Loops {
    /// Loops that have not begun.
    pub fn new(plan: Plan) -> Self {
        let first = |thread| plan.clients_of(thread).filter(|client| *client < plan.clients_at_step(0)).count() as u64;
        let shared = Arc::new(Shared::new(&(0..plan.threads).map(first).collect::<Vec<_>>()));
        Self { plan: Arc::new(plan), shared, threads: Vec::new() }
    }

    /// What they share: for a conductor at the other end of a wire.
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    fn join(&mut self) -> io::Result<Tally> {
        let mut sum = Tally::default();
        let mut result = Ok(());
        for thread in self.threads.drain(..) {
            match thread.join() {
                Ok(Ok(tally)) => sum.add(&tally),
                Ok(Err(error)) => result = Err(error),
                Err(_) => result = Err(io::Error::other("a loop panicked")),
            }
        }
        result.map(|()| sum)
    }
}

impl Led for Loops {
    fn begin(&mut self) -> io::Result<u64> {
        let began = clock::now();
        for number in 0..self.plan.threads {
            let (plan, shared) = (self.plan.clone(), self.shared.clone());
            self.threads.push(thread::Builder::new().name(format!("loop-{number}")).spawn(move || {
                let result = Fleet::new(plan, shared.clone(), number).and_then(Fleet::run);
                if result.is_err() {
                    shared.break_off();
                }
                result
            })?);
        }
        Ok(began)
    }

    fn play(&mut self, at: u64) {
        self.shared.play(at);
    }

    fn upbeat(&self) -> u64 {
        UPBEAT
    }

    fn next_round(&mut self) -> u64 {
        let at = clock::now();
        self.shared.next_round(at);
        at
    }

    fn enter(&mut self, stage: Stage) {
        self.shared.enter(stage);
    }

    fn read(&self) -> Reading {
        self.shared.read()
    }

    fn settled_at(&self) -> Option<u64> {
        self.shared.is_settled().then(clock::now)
    }

    fn has_reached(&self, stage: Stage) -> bool {
        self.shared.reached() >= stage
    }

    fn is_silent(&self) -> bool {
        self.shared.is_silent()
    }

    fn is_broken(&self) -> bool {
        self.shared.is_broken()
    }

    fn end(&mut self) -> io::Result<Tally> {
        self.shared.enter(Stage::Leave);
        self.join()
    }
}

impl Drop for Loops {
    fn drop(&mut self) {
        // Whoever could have been told is gone.
        let _ = self.end();
    }
}
