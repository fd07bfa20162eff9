//! The controller: agents in the place of loops, led by the same conductor, and their results as one.
//!
//! A thread for each agent listens to it and keeps its last look; what the conductor asks is answered from these.
//! Who is silent, gone or refuses is lost, with what it was doing; the others go on. Never knows what a scenario is.

use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::local::Locals;
use super::message::{
    ANSWER_MAX, Answer, INTRODUCTION, Lines, Look, ORDER_MAX, Order, PROTOCOL, Patience, SILENCE, Secret, Side,
    VERSION, boot, describe, nonce, send,
};
use super::options::ControllerOptions;
use super::skew::{Skew, Trips};
use super::{Loss, Part};
use crate::clock::{self, MILLISECOND, SECOND};
use crate::conduct::{self, Outcome};
use crate::cost::Watch;
use crate::loops::Led;
use crate::options::Scenario;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::shared::{Reading, Stage};
use crate::tally::Tally;

/// Round trips before anything begins.
const FIRST_TRIPS: usize = 16;
/// How often an agent is asked for its time afterwards.
const TRIP_EVERY: u64 = SECOND;
/// From the word to the deed; with the slowest round trip, so that all agents have heard it.
const UPBEAT: u64 = 200 * MILLISECOND;
/// How long the results may take.
const RESULTS: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);

/// Plays the scenario with agents. `plan` is what `scenario` comes to, whole.
pub fn run(options: &ControllerOptions, scenario: &Scenario, plan: &Plan) -> Result<Outcome, String> {
    let common = scenario.common();
    if common.part.is_some() || common.start_at.is_some() {
        return Err(
            "--part and --start-at are for parts without a controller, which shares out and starts itself".into()
        );
    }
    if options.agents.is_empty() && options.local == 0 {
        return Err("the controller needs agents: --agents HOST:PORT,... or --local N".into());
    }
    let secret = Secret::read(options.secret.secret_file.as_deref())?;
    let (locals, local_secret, addresses) = Locals::start(options.local, common.i_own_this_target)?;
    let local = (1..).zip(&addresses).map(|(number, address)| (format!("local-{number}"), address, &local_secret));
    let remote = options.agents.iter().map(|address| (address.clone(), address, &secret));
    let mut welcomed = Vec::new();
    for (name, address, secret) in remote.chain(local) {
        let agent = Candidate::meet(address, secret.as_ref()).map_err(|why| format!("agent {name}: {why}"))?;
        welcomed.push((name, agent));
    }
    // An agent elsewhere has a loopback of its own.
    let is_here = plan.target.is_loopback() && welcomed.iter().all(|(_, agent)| agent.is_same_host);
    let watch = Watch::new(&common.pid, &common.metrics, is_here, plan.tls.as_ref())?;
    let (words, parts) = (words(options, scenario), welcomed.len() as u32);
    let mut agents = Agents::default();
    for (part, (name, agent)) in (0..).zip(welcomed) {
        let job = Order::Job { words: words.clone(), part, parts, run: plan.run };
        let agent = agent.hire(name.clone(), &job).map_err(|why| format!("agent {name}: {why}"))?;
        agents.all.push(agent);
    }
    let outcome = conduct::run(plan, &mut agents, &watch, Progress::new(common.quiet))
        .map_err(|error| format!("the run could not go on: {error}"))?;
    drop(locals);
    Ok(agents.account(outcome))
}

/// The scenario's words for agents, which do not have this process's environment.
fn words(options: &ControllerOptions, scenario: &Scenario) -> Vec<String> {
    let mut words = options.words.clone();
    let is_said = words.iter().any(|word| word.split('=').next() == Some("--token-secret"));
    if let Some(secret) = scenario.common().token_secret.as_ref().filter(|_| !is_said) {
        words.push(format!("--token-secret={secret}"));
    }
    words
}

/// An agent that has shown who it is.
struct Candidate {
    stream: TcpStream,
    lines: Lines,
    is_same_host: bool,
}

impl Candidate {
    fn meet(address: &str, secret: Option<&Secret>) -> Result<Self, String> {
        let stream = connect(address)?;
        let failed = |error: io::Error| describe(&error);
        stream.set_nodelay(true).map_err(failed)?;
        stream.set_write_timeout(Some(SILENCE)).map_err(failed)?;
        let mut lines = Lines::new(stream.try_clone().map_err(failed)?);
        let theirs = match answer(&mut lines)? {
            Answer::Hello { protocol, version, nonce } if protocol == PROTOCOL && version == VERSION => nonce,
            Answer::Hello { version, .. } => {
                return Err(format!("it is version {version}, and this is {VERSION}: all must be the same"));
            }
            _ => return Err("no agent answers there".to_owned()),
        };
        let mine = nonce().map_err(failed)?;
        let nonces = [theirs.as_str(), mine.as_str()];
        let proof = secret.map(|secret| secret.proof(Side::Controller, nonces)).transpose()?;
        let greet = Order::Greet { protocol: PROTOCOL, version: VERSION.to_owned(), nonce: mine.clone(), proof };
        send(&stream, &greet).map_err(failed)?;
        let Answer::Welcome { proof, boot: booted } = answer(&mut lines)? else {
            return Err("no agent answers there".to_owned());
        };
        if secret.is_some_and(|secret| !secret.is_proved(proof.as_deref(), Side::Agent, nonces)) {
            return Err("it does not know the secret: start it with the same".to_owned());
        }
        Ok(Self { stream, lines, is_same_host: !booted.is_empty() && booted == boot() })
    }

    /// Gives it its part, compares clocks, and begins to listen.
    fn hire(mut self, name: String, job: &Order) -> Result<Agent, String> {
        let failed = |error: io::Error| describe(&error);
        send(&self.stream, job).map_err(failed)?;
        let Answer::Holds { clients } = answer(&mut self.lines)? else {
            return Err("it says nothing of its part".to_owned());
        };
        let mut trips = Trips::new(self.is_same_host);
        for _ in 0..FIRST_TRIPS {
            send(&self.stream, &Order::Time { sent: clock::now() }).map_err(failed)?;
            loop {
                match answer(&mut self.lines)? {
                    Answer::Time { sent, now } => break trips.add(sent, now, clock::now()),
                    Answer::Look(_) => {}
                    _ => return Err("it does not tell the time".to_owned()),
                }
            }
        }
        let state = State { stage: "waiting", look: Look::default(), trips, result: None, lost: None, is_told: false };
        let link = Arc::new(Link { stream: self.stream, writing: Mutex::new(()), state: Mutex::new(state) });
        let listener = link.clone();
        thread::Builder::new().spawn(move || listener.listen(self.lines)).map_err(failed)?;
        Ok(Agent { name, clients, is_same_host: self.is_same_host, connected: 0, skew: Skew::default(), link })
    }
}

fn connect(address: &str) -> Result<TcpStream, String> {
    let addresses = address.to_socket_addrs().map_err(|error| format!("an address such as 10.0.0.5:7070: {error}"))?;
    let mut why = "it has no address".to_owned();
    for address in addresses {
        match TcpStream::connect_timeout(&address, INTRODUCTION) {
            Ok(stream) => return Ok(stream),
            Err(error) => why = format!("it cannot be reached: {}", describe(&error)),
        }
    }
    Err(why)
}

/// What an agent says while nobody listens to it all the time.
fn answer(lines: &mut Lines) -> Result<Answer, String> {
    match lines.message(ORDER_MAX, Patience::of(INTRODUCTION))? {
        Some(Answer::Refused { why }) => Err(format!("it refuses: {why}")),
        Some(answer) => Ok(answer),
        None => Err("it hangs up".to_owned()),
    }
}

/// What is known of an agent.
struct State {
    /// What it was told to do last.
    stage: &'static str,
    look: Look,
    trips: Trips,
    result: Option<(Box<Tally>, f64)>,
    lost: Option<Loss>,
    /// Whoever watches has heard of the loss.
    is_told: bool,
}

impl State {
    fn is_live(&self) -> bool {
        self.lost.is_none()
    }
}

/// The connection to an agent, written to by the conductor and by who listens.
struct Link {
    stream: TcpStream,
    writing: Mutex<()>,
    state: Mutex<State>,
}

impl Link {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lose(&self, why: String) {
        let mut state = self.state();
        if state.result.is_none() && state.lost.is_none() {
            state.lost = Some(Loss { stage: state.stage, why });
        }
    }

    fn tell(&self, order: &Order) {
        let sent = {
            let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
            send(&self.stream, order)
        };
        if let Err(error) = sent {
            self.lose(describe(&error));
        }
    }

    /// Listens until there is a result, or nothing more to hear.
    fn listen(&self, mut lines: Lines) {
        let mut asked = 0;
        loop {
            let answer = match lines.message(ANSWER_MAX, Patience::Between(SILENCE)) {
                Ok(Some(answer)) => answer,
                Ok(None) => return self.lose("the connection ended".to_owned()),
                Err(why) => return self.lose(why),
            };
            let now = clock::now();
            match answer {
                Answer::Look(look) => self.state().look = look,
                Answer::Time { sent, now: theirs } => self.state().trips.add(sent, theirs, now),
                Answer::Result { tally, own_cpu_seconds } => {
                    self.state().result = Some((tally, own_cpu_seconds));
                    // It waits until all is read.
                    let _ = self.stream.shutdown(std::net::Shutdown::Both);
                    return;
                }
                Answer::Refused { why } => return self.lose(why),
                Answer::Hello { .. } | Answer::Welcome { .. } | Answer::Holds { .. } => {
                    return self.lose("it spoke out of turn".to_owned());
                }
            }
            if now.saturating_sub(asked) >= TRIP_EVERY {
                asked = now;
                self.tell(&Order::Time { sent: clock::now() });
            }
        }
    }
}

/// One agent with a part.
struct Agent {
    name: String,
    clients: u32,
    is_same_host: bool,
    /// Clients there when the scenario began to play, and what its clock was taken for then.
    connected: u64,
    skew: Skew,
    link: Arc<Link>,
}

impl Agent {
    fn skew_now(&self) -> Skew {
        self.link.state().trips.skew().unwrap_or_default()
    }

    /// Its open connections; those of a lost agent are gone.
    fn open(&self) -> u64 {
        let state = self.link.state();
        if state.is_live() { state.look.reading.open } else { 0 }
    }

    fn enter(&self, stage: &'static str, order: &Order) {
        let is_live = {
            let mut state = self.link.state();
            if state.is_live() {
                state.stage = stage;
            }
            state.is_live()
        };
        if is_live {
            self.link.tell(order);
        }
    }
}

/// All agents of a run, as a conductor leads them.
#[derive(Default)]
struct Agents {
    all: Vec<Agent>,
    /// Of a storm.
    round: u32,
}

impl Agents {
    /// What `ask` says of each agent that is there.
    fn live<T>(&self, ask: impl Fn(&Agent, &State) -> T) -> Vec<T> {
        let answer = |agent: &Agent| {
            let state = agent.link.state();
            state.is_live().then(|| ask(agent, &state))
        };
        self.all.iter().filter_map(answer).collect()
    }

    /// The outcome with what is known of each agent.
    fn account(&self, mut outcome: Outcome) -> Outcome {
        outcome.own_cpu_seconds = 0.0;
        for agent in &self.all {
            let state = agent.link.state();
            let result = state.result.as_ref();
            outcome.own_cpu_seconds += result.map_or(0.0, |(_, seconds)| *seconds);
            if state.lost.is_some() {
                // Not everyone came back, whatever the others say.
                let first_missed = state.look.settled.map_or(0, |(round, _)| round as usize);
                outcome.rounds.iter_mut().skip(first_missed).for_each(|round| round.complete = false);
            }
            let lateness = result.map(|(tally, _)| &tally.lateness).filter(|lateness| !lateness.is_empty());
            outcome.agents.push(Part {
                name: agent.name.clone(),
                clients: agent.clients,
                is_same_host: agent.is_same_host,
                connected: agent.connected,
                reading: result.map_or(state.look.reading, |(tally, _)| reading_of(tally)),
                own_cpu_seconds: result.map(|(_, seconds)| *seconds),
                lateness_p99: lateness.map(|lateness| lateness.value_at_quantile(0.99)),
                clock_uncertainty: state.trips.uncertainty_of(agent.skew),
                lost: state.lost.clone(),
            });
        }
        outcome
    }
}

/// What the gauges would show at the end.
fn reading_of(tally: &Tally) -> Reading {
    let counts = &tally.counts;
    Reading {
        open: 0,
        opened: counts.opened,
        failed: counts.failed,
        sent: counts.sent,
        expected: counts.expected,
        got: counts.got,
        messages_in: counts.messages_in,
        bytes_in: counts.bytes_in,
        bytes_out: counts.bytes_out,
        recovered: counts.recovered,
        unrecovered: counts.unrecovered,
        from_history: counts.from_history,
        errors: counts.failed + counts.lost + counts.refused,
    }
}

/// Of an agent that was lost, the counts its last look had; its histograms are gone.
fn add_reading(tally: &mut Tally, reading: &Reading) {
    let counts = &mut tally.counts;
    counts.opened += reading.opened;
    counts.failed += reading.failed;
    counts.sent += reading.sent;
    counts.expected += reading.expected;
    counts.got += reading.got;
    counts.messages_in += reading.messages_in;
    counts.bytes_in += reading.bytes_in;
    counts.bytes_out += reading.bytes_out;
    counts.recovered += reading.recovered;
    counts.unrecovered += reading.unrecovered;
    counts.from_history += reading.from_history;
}

impl Led for Agents {
    fn begin(&mut self) -> io::Result<u64> {
        let at = clock::now() + self.upbeat();
        for agent in &self.all {
            agent.enter("connecting", &Order::Begin { at: agent.skew_now().theirs(at) });
        }
        Ok(at)
    }

    fn play(&mut self, at: u64) {
        for agent in &mut self.all {
            agent.skew = agent.skew_now();
            agent.connected = agent.open();
            let order = Order::Play { at: agent.skew.theirs(at), skew: agent.skew.ahead.saturating_neg() };
            agent.enter("playing", &order);
        }
    }

    fn upbeat(&self) -> u64 {
        let slowest = self.live(|_, state| state.trips.skew().map_or(0, |skew| skew.uncertainty));
        UPBEAT + 2 * slowest.into_iter().max().unwrap_or(0)
    }

    fn next_round(&mut self) -> u64 {
        let at = clock::now() + self.upbeat();
        self.round += 1;
        for agent in &self.all {
            agent.enter("playing", &Order::Round { at: agent.skew.theirs(at) });
        }
        at
    }

    fn enter(&mut self, stage: Stage) {
        for agent in &self.all {
            match stage {
                Stage::Connect | Stage::Play => {}
                Stage::Drain => agent.enter("draining", &Order::Drain),
                Stage::Leave => agent.enter("leaving", &Order::Leave),
            }
        }
    }

    fn read(&self) -> Reading {
        let reading = |agent: &Agent| {
            // What a lost agent counted stays counted.
            Reading { open: agent.open(), ..agent.link.state().look.reading }
        };
        self.all.iter().map(reading).fold(Reading::default(), Reading::plus)
    }

    fn settled_at(&self) -> Option<u64> {
        let settled = self.live(|_, state| {
            let (_, at) = state.look.settled.filter(|(round, _)| *round == self.round)?;
            Some(state.trips.skew().unwrap_or_default().ours(at))
        });
        settled.into_iter().collect::<Option<Vec<u64>>>()?.into_iter().max()
    }

    fn has_reached(&self, stage: Stage) -> bool {
        self.live(|_, state| state.look.stage >= stage).into_iter().all(|has| has)
    }

    fn is_silent(&self) -> bool {
        self.live(|_, state| state.look.silent).into_iter().all(|is| is)
    }

    fn is_broken(&self) -> bool {
        self.live(|_, _| ()).is_empty()
    }

    fn news(&mut self) -> Option<String> {
        self.all.iter().find_map(|agent| {
            let mut state = agent.link.state();
            let Loss { stage, why } = state.lost.clone().filter(|_| !state.is_told)?;
            state.is_told = true;
            Some(format!("agent {} was lost while {stage}: {why}; the others go on", agent.name))
        })
    }

    fn end(&mut self) -> io::Result<Tally> {
        let end = clock::now() + RESULTS.as_nanos() as u64;
        while self.live(|_, state| state.result.is_none()).contains(&true) && clock::now() < end {
            thread::sleep(POLL);
        }
        let mut sum = Tally::default();
        for agent in &self.all {
            agent.link.lose("no result came".to_owned());
            let state = agent.link.state();
            match &state.result {
                Some((tally, _)) => sum.add(tally),
                None => add_reading(&mut sum, &state.look.reading),
            }
        }
        Ok(sum)
    }
}
