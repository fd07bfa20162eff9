//! One attack from start to end: a server, the control group, the attackers, and what memory does afterwards.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::attack::{Attack, LIMITS, Plan, Site};
use super::backend::SilentBackend;
use super::crowd::{Attackers, Tally};
use super::group::{Group, KEPT_CHANNEL};
use super::ledger::{Ledger, percentiles};
use super::node::{Node, PATIENCE, Ports, call, in_words};
use super::phase::{Phase, Stage};
use super::probe::Probe;
use super::speech::{connect_attacker, message, subscribe, upgrade};
use super::verdict::{Outcome, Sizes, Verdict, judge, most_after};
use crate::centrifugal;
use crate::fleet::check_upgrade;

/// How long clients may take to be there before the attack.
const SETUP: Duration = Duration::from_secs(60);
/// How long an attack may last until all attackers were there.
const LONGEST: Duration = Duration::from_secs(30);
/// How often a wait looks again.
const STEP: Duration = Duration::from_millis(50);

/// How long the parts of a trial last.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    pub before: Duration,
    pub during: Duration,
    pub after: Duration,
    /// How long memory may take to come back, from the end of the attack.
    pub back: Duration,
    /// Memory is read when that is over; otherwise as soon as it is back.
    pub whole: bool,
    /// Times are judged.
    pub judged: bool,
}

impl Times {
    pub fn full(seconds: u64) -> Self {
        Self {
            before: Duration::from_secs(4),
            during: Duration::from_secs(seconds),
            after: Duration::from_secs(4),
            back: Duration::from_secs(30),
            whole: true,
            judged: true,
        }
    }

    /// Long enough to see losses, closes and memory; too short for times.
    pub fn short() -> Self {
        Self {
            before: Duration::from_millis(700),
            during: Duration::from_millis(1500),
            after: Duration::from_millis(500),
            back: Duration::from_secs(30),
            whole: false,
            judged: false,
        }
    }
}

/// What threads run until the stage is at its end, which it is when this is dropped.
struct Ending(Stage);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.set(Phase::End);
    }
}

/// All that runs beside the server.
struct Trial {
    node: Node,
    stage: Stage,
    ports: Ports,
    group: Group,
    attackers: Attackers,
    probe: Probe,
    _ending: Ending,
}

/// Runs one attack against a server of its own.
pub fn run(attack: &Attack, program: &Path, short: bool, times: &Times) -> io::Result<(Outcome, Verdict)> {
    let ports = Ports::free()?;
    let plan = (attack.plan)(&Site { ports, short });
    let _backend = plan.silent_backend.then(|| SilentBackend::listen(ports.backend)).transpose()?;
    let mut trial = Trial::start(&plan, program, ports)?;
    let mut outcome = Outcome { name: attack.name, attackers: plan.attackers(), ..Outcome::default() };
    outcome.residents = plan.crowds.iter().map(|crowd| crowd.count).sum::<usize>() - outcome.attackers;
    trial.windows(&plan, times, &mut outcome)?;
    let Trial { mut node, stage, group, attackers, probe, .. } = trial;
    stage.set(Phase::End);
    fill(&mut outcome, &group.join()?, attackers.join()?);
    outcome.answers = probe.join()?;
    outcome.ended = outcome.ended.or_else(|| node.ended());
    let verdict = judge(&outcome, &plan.allowed, plan.demand, times.judged && !plan.untimed);
    Ok((outcome, verdict))
}

impl Trial {
    /// Returns once everybody is there who should be there before the attack.
    fn start(plan: &Plan, program: &Path, ports: Ports) -> io::Result<Self> {
        let node = Node::start(program, ports, plan.reactors, &plan.flags)?;
        for (method, body) in &plan.fill {
            call(ports.internal, method, body)?;
        }
        let stage = Stage::default();
        let ending = Ending(stage.clone());
        let attackers = Attackers::start(ports, plan.crowds.clone(), stage.clone())?;
        wait(SETUP, "the clients of the attack", || attackers.are_ready(), || attackers.have_failed())?;
        let group = Group::start(ports.public, stage.clone())?;
        let came = wait(SETUP, "the control group", || group.is_open(), || group.has_failed());
        if came.is_err() && group.has_failed() {
            group.join()?;
            return Err(io::Error::other("the control group left"));
        }
        came?;
        let probe = Probe::start(ports.internal, stage.clone());
        Ok(Self { node, stage, ports, group, attackers, probe, _ending: ending })
    }

    fn windows(&mut self, plan: &Plan, times: &Times, outcome: &mut Outcome) -> io::Result<()> {
        self.stage.set(Phase::Before);
        sleep(times.before);
        let before = self.node.memory()?;
        let (log, waited, began) = (self.node.log(), self.node.waited_ns()?, Instant::now());
        self.stage.set(Phase::During);
        self.pass(times.during.max(plan.least));
        // A machine that has much else to do needs longer until all attackers are there.
        while self.attackers.came() < outcome.attackers && began.elapsed() < LONGEST && self.node.ended().is_none() {
            self.pass(STEP);
        }
        outcome.came = self.attackers.came();
        let lasted = began.elapsed();
        outcome.log = self.node.log().since(&log);
        let waits = self.node.waited_ns().unwrap_or(waited).saturating_sub(waited);
        outcome.starved = waits as f64 / lasted.as_nanos() as f64 / plan.reactors as f64;
        self.stage.set(Phase::After);
        let ended_at = Instant::now();
        self.pass(times.after);
        outcome.ended = self.node.ended();
        if outcome.ended.is_some() {
            return Ok(());
        }
        outcome.newcomer = newcomer(self.ports.public);
        let limit = most_after(before, &plan.allowed, &LIMITS);
        while ended_at.elapsed() < times.back && (times.whole || self.node.memory()? > limit) {
            sleep(STEP);
        }
        outcome.waited = ended_at.elapsed().as_secs_f64();
        outcome.memory = Sizes { before, peak: self.node.peak()?, after: self.node.memory()? };
        Ok(())
    }

    /// Lets time pass, as long as the server runs.
    fn pass(&mut self, time: Duration) {
        let began = Instant::now();
        while began.elapsed() < time && self.node.ended().is_none() {
            sleep(STEP.min(time));
        }
    }
}

fn fill(outcome: &mut Outcome, ledger: &Ledger, tally: Tally) {
    outcome.latency = percentiles(&ledger.latency);
    outcome.own = percentiles(&ledger.own);
    outcome.loader = percentiles(&ledger.loader);
    outcome.published = ledger.published();
    outcome.published.1 += ledger.refused_own();
    outcome.refusals = ledger.refusals();
    outcome.lost = ledger.lost();
    (outcome.twice, outcome.gaps, outcome.recovered) = (ledger.twice, ledger.gaps, ledger.recovered);
    outcome.pings = ledger.pings;
    outcome.closed.clone_from(&ledger.closed);
    outcome.tally = tally;
}

fn wait(limit: Duration, what: &str, done: impl Fn() -> bool, failed: impl Fn() -> bool) -> io::Result<()> {
    let end = Instant::now() + limit;
    while !done() {
        if failed() || Instant::now() > end {
            return Err(io::Error::other(format!("{what} did not all come")));
        }
        sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// A client that comes after the attack; why it was not served, if it was not. It tries again as clients do.
fn newcomer(port: u16) -> Option<String> {
    let end = Instant::now() + PATIENCE;
    loop {
        match come(port) {
            Ok(()) => return None,
            Err(error) if Instant::now() > end => return Some(error.to_string()),
            Err(_) => sleep(Duration::from_millis(200)),
        }
    }
}

fn come(port: u16) -> io::Result<()> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&upgrade(centrifugal::PATH, &[]))?;
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).map_err(in_words)?;
        head.extend(byte);
    }
    check_upgrade(&head)?;
    stream.write_all(&message(&format!("{}\n{}", connect_attacker(), subscribe(2, KEPT_CHANNEL))))?;
    let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
    while memchr::memmem::find(&said, br#"{"id":2,"subscribe":"#).is_none() {
        let size = stream.read(&mut buffer).map_err(in_words)?;
        if size == 0 || memchr::memmem::find(&said, br#""error":"#).is_some() {
            let from = memchr::memmem::find(&said, br#""error":"#).unwrap_or(0);
            return Err(io::Error::other(format!("it was told {}", String::from_utf8_lossy(&said[from..]))));
        }
        said.extend_from_slice(&buffer[..size]);
    }
    Ok(())
}
