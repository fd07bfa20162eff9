//! An agent: waits on a port for a controller, plays one part at a time, and says how it goes.
//!
//! Each connection has a thread. Who has not proved what must be proved gets a short time, short lines and no say; a
//! second controller is told that the agent is busy. When a controller is gone, what it asked for ends. Never reads or
//! writes a file for a controller, and never decides when a stage is over.

use std::io::{self, Write, stderr, stdin, stdout};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::thread;
use std::time::Duration;

use super::message::{
    Answer, GREETING_MAX, INTRODUCTION, Lines, Look, ORDER_MAX, Order, PROTOCOL, Patience, SILENCE, Secret, Side,
    VERSION, boot, describe, nonce, send,
};
use super::options::AgentOptions;
use crate::clock::{self, MILLISECOND};
use crate::cost::process::own_cpu_seconds;
use crate::loops::{Led, Loops, raise_descriptors};
use crate::options::scenario_of;
use crate::plan::Plan;
use crate::shared::Stage;

/// Connections at a time, the controller's among them; more are closed at once.
const GUESTS_MAX: usize = 16;
/// More processes than anyone has.
const PARTS_MAX: u32 = 1 << 16;
/// Between the welcome and the job the controller talks to other agents.
const JOB_WAIT: Duration = Duration::from_secs(60);
/// The clients of a job that is over need a moment to leave.
const SEAT_WAIT: Duration = Duration::from_secs(4);
/// How long somebody who was turned away may take to read why.
const PARTING: Duration = Duration::from_secs(1);
/// How often a job is looked at.
const GLANCE: Duration = Duration::from_millis(5);
/// How often the controller hears how it goes, unless something happens.
const LOOK_EVERY: u64 = 250 * MILLISECOND;
/// While everyone waits for the last deliveries.
const LOOK_EVERY_AT_END: u64 = 50 * MILLISECOND;
/// Orders not carried out yet.
const ORDERS_MAX: usize = 64;

/// Waits for controllers until there is a reason to end.
pub fn run(options: &AgentOptions) -> Result<(), String> {
    let secret = Secret::read(options.secret.secret_file.as_deref())?;
    if secret.is_none() && !options.listen.ip().is_loopback() {
        return Err(format!(
            "--listen {}: others can reach this address, so a secret is needed (--secret-file, GANNET_LOADGEN_SECRET)",
            options.listen
        ));
    }
    let at = |error| format!("--listen {}: {error}", options.listen);
    let listener = TcpListener::bind(options.listen).map_err(at)?;
    let address = listener.local_addr().map_err(at)?;
    // Whoever started it may not be interested.
    let _ = writeln!(stdout(), "listening on {address}").and_then(|()| stdout().flush());
    let (end, ended) = channel();
    if options.until_eof {
        let end = end.clone();
        thread::spawn(move || {
            let _ = io::copy(&mut stdin(), &mut io::sink());
            end.send(())
        });
    }
    let agent = Arc::new(Agent {
        secret,
        takes_remote_targets: options.i_own_this_target,
        once: options.once,
        quiet: options.quiet,
        seat: Mutex::new(()),
        guests: AtomicUsize::new(0),
        end,
    });
    thread::spawn(move || agent.accept(&listener));
    ended.recv().map_err(|_| "nobody waits on the port any more".to_owned())
}

struct Agent {
    secret: Option<Secret>,
    takes_remote_targets: bool,
    once: bool,
    quiet: bool,
    /// Who has it has the agent.
    seat: Mutex<()>,
    guests: AtomicUsize,
    end: Sender<()>,
}

impl Agent {
    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for stream in listener.incoming() {
            let Ok(stream) = stream else {
                // Out of descriptors, most likely: some will be free again.
                thread::sleep(Duration::from_millis(100));
                continue;
            };
            if self.guests.fetch_add(1, SeqCst) >= GUESTS_MAX {
                self.guests.fetch_sub(1, SeqCst);
                continue;
            }
            let agent = self.clone();
            thread::spawn(move || {
                agent.receive(&stream);
                agent.guests.fetch_sub(1, SeqCst);
            });
        }
    }

    /// One connection from beginning to end.
    fn receive(&self, stream: &TcpStream) {
        let peer = stream.peer_addr().map_or_else(|error| error.to_string(), |peer| peer.to_string());
        match self.introduce(stream) {
            Ok((seat, lines)) => {
                let result = self.work(stream, lines, &peer);
                if let Err(why) = &result {
                    self.say(&format!("{peer}: {why}"));
                    part_from(stream, why);
                }
                drop(seat);
                if self.once {
                    // Nobody to tell: the agent ends already.
                    let _ = self.end.send(());
                }
            }
            Err(why) => {
                self.say(&format!("{peer}: turned away: {why}"));
                part_from(stream, &why);
            }
        }
    }

    fn say(&self, text: &str) {
        if !self.quiet {
            let _ = writeln!(stderr(), "{text}");
        }
    }

    /// Finds out that this is a controller, and the only one.
    fn introduce(&self, stream: &TcpStream) -> Result<(MutexGuard<'_, ()>, Lines), String> {
        let failed = |error: io::Error| describe(&error);
        stream.set_nodelay(true).map_err(failed)?;
        stream.set_write_timeout(Some(SILENCE)).map_err(failed)?;
        let mut lines = Lines::new(stream.try_clone().map_err(failed)?);
        let mine = nonce().map_err(failed)?;
        let hello = Answer::Hello { protocol: PROTOCOL, version: VERSION.to_owned(), nonce: mine.clone() };
        send(stream, &hello).map_err(failed)?;
        let (theirs, proof) = match lines.message(GREETING_MAX, Patience::of(INTRODUCTION))? {
            Some(Order::Greet { protocol, version, .. }) if protocol != PROTOCOL || version != VERSION => {
                return Err(format!("this is version {VERSION}, and the controller has {version}"));
            }
            Some(Order::Greet { nonce, proof, .. }) => (nonce, proof),
            Some(_) => return Err("a controller begins with a greeting".to_owned()),
            None => return Err("closed without a word".to_owned()),
        };
        let nonces = [mine.as_str(), theirs.as_str()];
        let proof = match &self.secret {
            None => None,
            Some(secret) if secret.is_proved(proof.as_deref(), Side::Controller, nonces) => {
                Some(secret.proof(Side::Agent, nonces)?)
            }
            Some(_) => return Err("the secret is wrong or missing".to_owned()),
        };
        let seat = self.take_seat().ok_or("busy with another controller's job")?;
        send(stream, &Answer::Welcome { proof, boot: boot() }).map_err(failed)?;
        Ok((seat, lines))
    }

    /// The seat, if it is free or soon will be.
    fn take_seat(&self) -> Option<MutexGuard<'_, ()>> {
        let by = clock::now() + SEAT_WAIT.as_nanos() as u64;
        loop {
            match self.seat.try_lock() {
                Ok(seat) => return Some(seat),
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) if clock::now() >= by => return None,
                Err(TryLockError::WouldBlock) => thread::sleep(GLANCE),
            }
        }
    }

    /// Takes a job and plays it.
    fn work(&self, stream: &TcpStream, mut lines: Lines, peer: &str) -> Result<(), String> {
        let plan = match lines.message(ORDER_MAX, Patience::of(JOB_WAIT))? {
            Some(Order::Job { words, part, parts, run }) if part < parts && parts <= PARTS_MAX => {
                self.plan(&words)?.share(part, parts, run)
            }
            Some(_) => return Err("a job was expected".to_owned()),
            None => return Err("closed without a job".to_owned()),
        };
        raise_descriptors(&plan)?;
        let (clients, scenario) = (plan.clients_here(), plan.scenario);
        self.say(&format!("{peer}: {scenario}, part {} of {}, {clients} clients", plan.part + 1, plan.parts));
        send(stream, &Answer::Holds { clients }).map_err(|error| describe(&error))?;
        let (orders, inbox) = sync_channel(ORDERS_MAX);
        thread::spawn(move || {
            loop {
                let order = lines.message::<Order>(ORDER_MAX, Patience::Between(SILENCE));
                let order = order.and_then(|order| order.ok_or_else(|| "the controller is gone".to_owned()));
                let is_last = order.is_err();
                if orders.send(order).is_err() || is_last {
                    return;
                }
            }
        });
        let mut job = Job::new(plan, stream);
        job.play(&inbox)?;
        self.say(&format!("{peer}: done"));
        // Until the controller has read it all and hangs up: to close with something unread would cut it short.
        let _ = stream.shutdown(Shutdown::Write);
        while inbox.recv().is_ok_and(|order| order.is_ok()) {}
        Ok(())
    }

    /// What the words ask for, if this agent may do it.
    fn plan(&self, words: &[String]) -> Result<Plan, String> {
        let scenario = scenario_of(words).map_err(|error| error.to_string())?;
        if scenario.common().part.is_some() || scenario.common().start_at.is_some() {
            return Err("--part and --start-at are for parts without a controller".to_owned());
        }
        let plan = scenario.plan()?;
        for target in [&plan.target, &plan.publisher_target] {
            if !target.is_loopback() && !self.takes_remote_targets {
                return Err(format!(
                    "{} is not on the agent's host ({}): if it may be loaded, start the agent with --i-own-this-target",
                    target.authority,
                    target.address.ip()
                ));
            }
        }
        Ok(plan)
    }
}

/// Says why, and gives the other side the time to read it.
fn part_from(stream: &TcpStream, why: &str) {
    let refused = send(stream, &Answer::Refused { why: why.to_owned() });
    if refused.and_then(|()| stream.shutdown(Shutdown::Write)).is_ok()
        && let Ok(stream) = stream.try_clone()
    {
        // Closing with something unread would take the answer back.
        Lines::new(stream).skip_all(Patience::of(PARTING));
    }
}

/// What is to happen at a moment to come.
#[derive(Clone, Copy, Debug)]
enum Cue {
    Begin,
    Round,
}

/// One part of a scenario, being played.
struct Job<'a> {
    loops: Loops,
    stream: &'a TcpStream,
    has_begun: bool,
    cue: Option<(u64, Cue)>,
    /// When nothing more is due.
    play_end: u64,
    settled: Option<(u32, u64)>,
    /// The last look, and when the next is due.
    look: Look,
    next_look: u64,
    /// Processor seconds before play, and of play.
    own_cpu: (f64, f64),
}

impl<'a> Job<'a> {
    fn new(plan: Plan, stream: &'a TcpStream) -> Self {
        Self {
            loops: Loops::new(plan),
            stream,
            has_begun: false,
            cue: None,
            play_end: u64::MAX,
            settled: None,
            look: Look::default(),
            next_look: 0,
            own_cpu: (0.0, 0.0),
        }
    }

    /// Carries out orders to the last, and sends the result.
    fn play(&mut self, inbox: &Receiver<Result<Order, String>>) -> Result<(), String> {
        loop {
            match inbox.recv_timeout(GLANCE) {
                Ok(Ok(Order::Leave)) => break,
                Ok(order) => self.obey(order?).map_err(|error| describe(&error))?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err("the controller is gone".to_owned()),
            }
            self.take_cue().map_err(|error| format!("the loops: {error}"))?;
            if self.loops.is_broken() {
                break;
            }
            self.show().map_err(|error| describe(&error))?;
        }
        let tally = Box::new(self.loops.end().map_err(|error| format!("the loops: {error}"))?);
        let result = Answer::Result { tally, own_cpu_seconds: self.own_cpu.1 };
        send(self.stream, &result).map_err(|error| describe(&error))
    }

    fn obey(&mut self, order: Order) -> io::Result<()> {
        match order {
            Order::Time { sent } => send(self.stream, &Answer::Time { sent, now: clock::now() })?,
            Order::Begin { at } if !self.has_begun => self.cue = Some((at, Cue::Begin)),
            Order::Round { at } => self.cue = Some((at, Cue::Round)),
            Order::Play { at, skew } => {
                self.own_cpu.0 = own_cpu_seconds()?;
                self.play_end = at.saturating_add(self.loops.plan().duration.as_nanos() as u64);
                self.loops.shared().set_skew(skew);
                self.loops.play(at);
            }
            // A storm's talk ended before.
            Order::Drain if self.loops.shared().stage() >= Stage::Drain => {}
            Order::Drain => {
                self.own_cpu.1 = own_cpu_seconds()? - self.own_cpu.0;
                self.loops.enter(Stage::Drain);
            }
            Order::Leave | Order::Begin { .. } | Order::Greet { .. } | Order::Job { .. } => {
                return Err(io::Error::other("out of turn"));
            }
        }
        Ok(())
    }

    /// Does what is due.
    fn take_cue(&mut self) -> io::Result<()> {
        match self.cue {
            Some((at, Cue::Begin)) if at <= clock::now() => {
                self.has_begun = true;
                self.loops.begin()?;
            }
            Some((at, Cue::Round)) if at <= clock::now() => self.loops.shared().next_round(at),
            _ => return Ok(()),
        }
        self.cue = None;
        Ok(())
    }

    /// Tells the controller how it goes, when it is time or something has happened.
    fn show(&mut self) -> io::Result<()> {
        let (now, round) = (clock::now(), self.loops.shared().round().0);
        if self.has_begun && self.settled.is_none_or(|(settled, _)| settled != round) {
            self.settled = self.loops.settled_at().map(|at| (round, at)).or(self.settled);
        }
        // First the stage, then the reading that holds everything before it.
        let stage = self.loops.shared().reached();
        let silent = stage >= Stage::Play && now >= self.play_end && self.loops.is_silent();
        let has_news = (stage, self.settled, silent) != (self.look.stage, self.look.settled, self.look.silent);
        if now < self.next_look && !has_news {
            return Ok(());
        }
        self.next_look = now + if stage >= Stage::Drain { LOOK_EVERY_AT_END } else { LOOK_EVERY };
        self.look = Look { reading: self.loops.read(), stage, settled: self.settled, silent };
        send(self.stream, &Answer::Look(self.look))
    }
}
