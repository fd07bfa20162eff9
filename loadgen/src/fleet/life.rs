//! Which connections begin and end, and when: the pace of connecting, storms, churn, stalls and ramps.
//!
//! A connection's time counts from when it was due, so waiting in this queue is part of what is measured wherever the
//! scenario says when clients come (storm, churn, a connect rate). Never knows what clients say.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use mio::{Interest, Token};
use tungstenite::protocol::frame::coding::Control;

use super::Fleet;
use super::client::{End, Phase};
use crate::clock::{self, MILLISECOND, SECOND};
use crate::plan::{Life, Plan};
use crate::schedule::Schedule;
use crate::shared::Stage;
use crate::wire::control;

/// A client that could not come back tries again after this, doubled each time up to the other, jittered.
const RETRY_FIRST: u64 = 100 * MILLISECOND;
const RETRY_DOUBLINGS_MAX: u32 = 5;
/// How often connections under way are looked at for their time.
const SWEEP: u64 = 250 * MILLISECOND;
/// The payload of a close frame that says all is well.
const NORMAL: [u8; 2] = 1000u16.to_be_bytes();

/// The connections to come.
#[derive(Debug)]
pub struct Lives {
    /// Clients before this place have begun.
    begun: usize,
    /// Places of clients to connect, and since when they are due (None = from the moment they begin).
    queue: VecDeque<(usize, Option<u64>)>,
    retries: BinaryHeap<Reverse<(u64, usize)>>,
    pace: Option<Schedule>,
    churn: Option<Schedule>,
    /// The place of the next client to leave.
    leaver: usize,
    /// The round of the storm that this loop is in.
    pub round: u32,
    next_sweep: u64,
    stall_ends: Option<u64>,
    connections: u64,
    dice: u32,
}

impl Lives {
    pub fn new(plan: &Plan, thread: u32, now: u64) -> Self {
        let phase = plan.phase(thread);
        let pace = plan.connect_rate.map(|rate| Schedule::new(now, rate / f64::from(plan.threads), phase));
        Self {
            begun: 0,
            queue: VecDeque::new(),
            retries: BinaryHeap::new(),
            pace,
            churn: None,
            leaver: 0,
            round: 0,
            next_sweep: 0,
            stall_ends: None,
            connections: u64::from(thread),
            dice: 0x2545_f491 ^ thread,
        }
    }

    pub fn begin_play(&mut self, plan: &Plan, thread: u32, start: u64) {
        match plan.life {
            Life::Churn { rate } => {
                let phase = plan.phase(thread);
                self.churn = Some(Schedule::new(start, rate / f64::from(plan.threads), phase));
                self.pace = None;
            }
            Life::Stall { pause: Some(pause), .. } => self.stall_ends = Some(start + pause.as_nanos() as u64),
            Life::Storm { .. } => self.pace = None,
            _ => {}
        }
    }

    /// Clients that wait for their connection to begin.
    pub fn waiting(&self) -> u64 {
        (self.queue.len() + self.retries.len()) as u64
    }

    /// When something other than connecting is next due.
    pub fn next_due(&self, stage: Stage) -> Option<u64> {
        if stage != Stage::Play {
            return None;
        }
        let churn = self.churn.as_ref().and_then(Schedule::next);
        let retry = self.retries.peek().map(|Reverse((at, _))| *at);
        [churn, retry, self.stall_ends].into_iter().flatten().min()
    }

    pub fn forget_all(&mut self) {
        self.queue.clear();
        self.retries.clear();
        self.churn = None;
    }

    fn roll(&mut self) -> f64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 17;
        self.dice ^= self.dice << 5;
        f64::from(self.dice) / f64::from(u32::MAX)
    }
}

impl Fleet {
    /// Does what is due.
    pub(super) fn live(&mut self, now: u64) {
        if self.stage <= Stage::Play {
            self.queue_newcomers(now);
        }
        if self.stage == Stage::Play {
            self.storm();
            self.churn(now);
            if self.lives.stall_ends.is_some_and(|at| at <= now) {
                self.end_stall();
            }
        }
        while let Some(Reverse((at, place))) = self.lives.retries.peek().copied()
            && at <= now
        {
            self.lives.retries.pop();
            self.lives.queue.push_back((place, Some(self.clients[place].due)));
        }
        self.begin_connections(now);
        if self.opening > 0 && now >= self.lives.next_sweep {
            self.sweep(now);
        }
    }

    /// Clients whose time has come for the first time.
    fn queue_newcomers(&mut self, now: u64) {
        let step =
            if self.stage == Stage::Play { self.plan.step_at(now.saturating_sub(self.shared.start())) } else { 0 };
        let there = self.plan.clients_at_step(step);
        while let Some(client) = self.clients.get(self.lives.begun)
            && client.number < there
        {
            self.lives.queue.push_back((self.lives.begun, None));
            self.lives.begun += 1;
        }
    }

    /// A new round: everyone but those who only speak is cut, and wants back at once.
    fn storm(&mut self) {
        let (round, start) = self.shared.round();
        if round == self.lives.round {
            return;
        }
        self.lives.round = round;
        self.lives.forget_all();
        let Life::Storm { away, .. } = self.plan.life else { return };
        let back = start + away.as_nanos() as u64;
        for place in 0..self.clients.len() {
            let client = &mut self.clients[place];
            if client.number < self.plan.roles.publishers {
                // Its turn to try again was just forgotten.
                if matches!(client.phase, Phase::Absent) {
                    self.lives.queue.push_back((place, Some(start)));
                }
                continue;
            }
            self.open -= u64::from(client.is_open());
            self.opening -= u64::from(client.is_opening());
            client.drop_connection(true, &mut self.scratch);
            client.failures = 0;
            client.due = back;
            if away.is_zero() {
                self.lives.queue.push_back((place, Some(back)));
            } else {
                self.lives.retries.push(Reverse((back, place)));
            }
        }
    }

    /// Clients that leave, and come back as new connections.
    fn churn(&mut self, now: u64) {
        while let Some(due) = self.lives.churn.as_mut().and_then(|churn| churn.take(now)) {
            let place = self.next_leaver();
            match self.clients.get(place) {
                Some(client) if client.is_open() => {
                    self.leave(place);
                    // The close frame goes out at once; the socket does not wait for the server's.
                    let _ = self.clients[place].flush(&mut self.scratch);
                    self.open -= 1;
                    self.clients[place].drop_connection(false, &mut self.scratch);
                    self.lives.queue.push_back((place, Some(due)));
                }
                Some(client) if matches!(client.phase, Phase::Absent) => {
                    self.lives.queue.push_back((place, Some(due)));
                }
                _ => self.witness.tally.counts.skipped += 1,
            }
        }
    }

    /// Everyone's turn to leave comes round, but that of those who only speak.
    fn next_leaver(&mut self) -> usize {
        let mut place = self.lives.leaver;
        for _ in 0..self.clients.len() {
            match self.clients.get(place) {
                Some(client) if client.number < self.plan.roles.publishers => {
                    place = (place + 1) % self.clients.len();
                }
                _ => {
                    self.lives.leaver = (place + 1) % self.clients.len();
                    return place;
                }
            }
        }
        // Nobody here may leave.
        self.clients.len()
    }

    /// Says goodbye.
    pub(super) fn leave(&mut self, place: usize) {
        if self.clients[place].is_open() {
            self.put_frame(place, control(Control::Close), &NORMAL);
            self.clients[place].phase = Phase::Leaving;
        }
    }

    /// When the next connection may begin.
    pub(super) fn next_connection(&self) -> Option<u64> {
        if self.lives.queue.is_empty() || self.has_no_room() {
            return None;
        }
        self.lives.pace.as_ref().map_or(Some(0), Schedule::next)
    }

    fn has_no_room(&self) -> bool {
        self.plan.opening.is_some_and(|limit| self.opening >= u64::from(limit))
    }

    fn begin_connections(&mut self, now: u64) {
        while !self.lives.queue.is_empty() && !self.has_no_room() {
            let paced = match &mut self.lives.pace {
                None => None,
                Some(pace) => match pace.take(now) {
                    None => return,
                    due => due,
                },
            };
            if let Some((place, due)) = self.lives.queue.pop_front() {
                let now = clock::now();
                self.connect(place, due.or(paced).unwrap_or(now), now);
            }
        }
    }

    fn connect(&mut self, place: usize, due: u64, now: u64) {
        let client = &mut self.clients[place];
        let plan = &self.plan;
        let target = if client.number < plan.roles.publishers { &plan.publisher_target } else { &plan.target };
        let source = plan.sources.pick(self.lives.connections);
        self.lives.connections += u64::from(plan.threads);
        self.witness.tally.counts.begun += 1;
        (client.due, client.began) = (due, now);
        self.opening += 1;
        let both = Interest::READABLE | Interest::WRITABLE;
        let begun = client
            .connect(target.address, source, plan.is_stalled(client.number))
            .and_then(|socket| self.poll.registry().register(socket, Token(place), both));
        if let Err(error) = begun {
            client.phase = Phase::Connecting;
            self.ended(place, &End::Io(error));
        }
    }

    /// A client has joined.
    pub(super) fn opened(&mut self, place: usize) {
        let now = clock::now();
        let client = &mut self.clients[place];
        client.phase = Phase::Open;
        client.failures = 0;
        client.stalled = self.plan.is_stalled(client.number);
        self.opening -= 1;
        self.open += 1;
        self.witness.tally.counts.opened += 1;
        self.witness.tally.connect.saturating_record(now.saturating_sub(client.due).max(1));
        self.may_speak(place);
    }

    /// Stalled clients read again.
    pub(super) fn end_stall(&mut self) {
        self.lives.stall_ends = None;
        for place in 0..self.clients.len() {
            if std::mem::take(&mut self.clients[place].stalled) {
                self.ready(place, false, true, true);
            }
        }
    }

    /// A connection is over.
    pub(super) fn ended(&mut self, place: usize, end: &End) {
        let client = &mut self.clients[place];
        let (was_open, was_opening) = (client.is_open(), client.is_opening());
        let was_leaving = matches!(client.phase, Phase::Leaving);
        client.drop_connection(false, &mut self.scratch);
        self.open -= u64::from(was_open || was_leaving);
        self.opening -= u64::from(was_opening);
        let stalled = self.plan.is_stalled(client.number);
        let counts = &mut self.witness.tally.counts;
        match (was_open, was_opening) {
            (true, _) if stalled => counts.stalled_cut += 1,
            (true, _) => counts.lost += 1,
            (_, true) => counts.failed += 1,
            _ => return,
        }
        if was_open && !stalled || was_opening {
            self.witness.tally.error(format!("{}: {end}", if was_open { "open" } else { "connecting" }));
        }
        if matches!(self.plan.life, Life::Ramp { .. }) {
            let number = self.plan.step_at(clock::now().saturating_sub(self.witness.start));
            self.witness.tally.step(number).errors += 1;
        }
        if matches!(self.plan.life, Life::Storm { .. }) && self.stage == Stage::Play {
            self.retry(place);
        }
    }

    fn retry(&mut self, place: usize) {
        let client = &mut self.clients[place];
        let wait = RETRY_FIRST << client.failures.min(RETRY_DOUBLINGS_MAX);
        client.failures += 1;
        let jittered = (wait as f64 * (0.5 + self.lives.roll() / 2.0)) as u64;
        self.lives.retries.push(Reverse((clock::now() + jittered.min(4 * SECOND), place)));
    }

    /// Gives up on connections that take too long.
    fn sweep(&mut self, now: u64) {
        self.lives.next_sweep = now + SWEEP;
        let limit = self.plan.connect_timeout.as_nanos() as u64;
        for place in 0..self.clients.len() {
            if self.clients[place].is_opening() && now.saturating_sub(self.clients[place].began) > limit {
                self.ended(place, &End::TimedOut);
            }
        }
    }
}
