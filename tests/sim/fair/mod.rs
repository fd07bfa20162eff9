//! The third kind of simulation: a node under attack. Attackers ask for more than their share; turns are long, the wall
//! clock steps, descriptors run out, mailboxes are full; in the end the node leaves. Bystanders notice none of it.

mod bystander;
mod crowd;
mod options;
mod peer;

use crate::breakage::{Breakage, Chances};
use crate::log::Log;
use crate::net::LinkId;
use crate::node::{Reactor, World};
use crate::options::BEGAN_S;
use crate::rng::Rng;
use crate::script::Usage;
use bystander::Bystander;
use crowd::{Attacker, KINDS, Kind};
use gannet::broker::{Answer, Asker, Keep, Query, Request, Treatment};
use gannet::protocol::Publication;
use gannet::shard::{ControlAnswer, Mail};
use gannet::turn::{Budget, READ_SIZE};
use std::collections::{BTreeMap, VecDeque};

/// Turns over which nobody gets more than its budget.
const WINDOW: usize = 100;
const LONG_TURN_MS_MAX: usize = 2500;
const REST_TICKS_MAX: usize = 800;
/// One of these replies, and a ping.
const REPLY_MAX: usize = options::BIG_LEN * (options::BIG_BYTES + 200) + 100;

/// What a seed came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Summary {
    pub hash: u64,
    pub heard: usize,
    pub gaps: usize,
    pub recovered: usize,
    pub attacks: usize,
    pub dropped: u64,
    /// How often input waited, by reason.
    pub waits: Vec<u64>,
    pub codes: BTreeMap<u32, u64>,
}

impl Summary {
    pub fn add(&mut self, other: Summary) {
        self.heard += other.heard;
        self.gaps += other.gaps;
        self.recovered += other.recovered;
        self.attacks += other.attacks;
        self.dropped += other.dropped;
        self.waits.resize(other.waits.len(), 0);
        self.waits.iter_mut().zip(other.waits).for_each(|(all, more)| *all += more);
        for (code, count) in other.codes {
            *self.codes.entry(code).or_default() += count;
        }
    }
}

/// What one connection caused in the latest turns.
#[derive(Default)]
struct Window {
    turns: VecDeque<Usage>,
    sum: Usage,
}

impl Window {
    fn add(&mut self, usage: Usage) {
        self.turns.push_back(usage);
        let Usage { commands, decoded, replies, signatures } = usage;
        self.sum.commands += commands;
        self.sum.decoded += decoded;
        self.sum.replies += replies;
        self.sum.signatures += signatures;
        if self.turns.len() > WINDOW
            && let Some(Usage { commands, decoded, replies, signatures }) = self.turns.pop_front()
        {
            self.sum.commands -= commands;
            self.sum.decoded -= decoded;
            self.sum.replies -= replies;
            self.sum.signatures -= signatures;
        }
    }
}

struct Sim {
    world: World,
    reactors: Vec<Reactor>,
    bystanders: Vec<Bystander>,
    attackers: Vec<Attacker>,
    crowd: Vec<Kind>,
    attacks: usize,
    /// Sockets that nobody has accepted, by reactor.
    door: Vec<VecDeque<LinkId>>,
    /// Until this tick there is no descriptor.
    exhausted: u32,
    /// Until this tick no other turn is long.
    long_turn: u32,
    windows: BTreeMap<LinkId, Window>,
    tickets: u64,
    draining: bool,
    resting: bool,
}

pub fn run(seed: u64, breakage: Option<Breakage>, log: Log) -> Summary {
    let mut sim = Sim::new(seed, breakage, log);
    sim.fill_history();
    for _ in 0..sim.world.options.ticks_per_round {
        sim.tick();
    }
    sim.rest();
    sim.finish();
    let count = |what: fn(&Bystander) -> usize| sim.bystanders.iter().map(what).sum();
    let waits = |at: usize| sim.reactors.iter().map(|reactor| reactor.turns.shard.counters.waits[at]).sum();
    Summary {
        hash: sim.world.log.hash(),
        heard: count(|it| it.heard),
        gaps: count(|it| it.gaps),
        recovered: count(|it| it.recovered),
        attacks: sim.attacks,
        dropped: sim.world.post.dropped,
        waits: (0..gannet::base::metrics::WAITS.len()).map(waits).collect(),
        codes: sim.world.codes.clone(),
    }
}

impl Sim {
    fn new(seed: u64, breakage: Option<Breakage>, log: Log) -> Sim {
        let mut rng = Rng::new(seed.rotate_left(32));
        let options = options::draw(&mut rng);
        let mut world = World::new(options, rng, log, Chances::new(breakage), false);
        world.clocked = breakage != Some(Breakage::NoClock);
        let crowd = (0..world.rng.within(1, 4)).map(|_| *world.rng.pick(&KINDS)).collect();
        let reactors = world.reactors();
        Sim {
            door: reactors.iter().map(|_| VecDeque::new()).collect(),
            reactors,
            bystanders: Vec::new(),
            attackers: Vec::new(),
            crowd,
            attacks: 0,
            exhausted: 0,
            long_turn: 0,
            windows: BTreeMap::new(),
            tickets: 0,
            draining: false,
            resting: false,
            world,
        }
    }

    fn tick(&mut self) {
        self.world.pass_tick();
        if self.world.rng.chance(2) {
            // Hours, there or back.
            self.world.wall_ms = BEGAN_S * 1000 - 7_200_000 + self.world.rng.below(14_400_000) as u64;
        }
        if self.world.rng.chance(2) {
            self.exhausted = self.world.tick + self.world.rng.within(1, 8) as u32;
        }
        let steps = self.world.rng.within(1, 3);
        for step in 1..=steps {
            self.step(step == steps);
        }
    }

    fn step(&mut self, all: bool) {
        self.world.go_on();
        self.come();
        let quiet = self.resting || self.draining;
        let world = &mut self.world;
        for bystander in &mut self.bystanders {
            if bystander.act(world, quiet, self.draining) {
                self.door[world.rng.below(self.reactors.len())].push_back(bystander.peer.link);
            }
        }
        self.attackers.retain_mut(|attacker| !attacker.act(world, quiet));
        let busy = world.options.backend_busy;
        if !quiet && world.rng.chance(busy) {
            let data = "x".repeat(world.rng.below(200));
            self.publish("news", format!("\"{data}\"").into());
        }
        self.accept();
        let mut order: Vec<usize> = (0..self.reactors.len()).collect();
        self.world.rng.shuffle(&mut order);
        for at in order {
            if !all && self.world.rng.chance(30) {
                continue;
            }
            if !self.resting && !self.draining && self.world.tick > self.long_turn && self.world.rng.below(20) == 0 {
                self.long_turn = self.world.tick + LONG_TURN_MS_MAX as u32 / 50;
                self.world.turn_ms = self.world.rng.within(200, LONG_TURN_MS_MAX) as u64;
            }
            self.reactors[at].turn(&mut self.world);
            self.world.turn_ms = 0;
            self.check_budgets(at);
        }
        self.world.answers.clear();
        self.world.asks.clear();
    }

    // --- who comes ---

    fn come(&mut self) {
        let world = &mut self.world;
        if self.draining || self.resting {
            return;
        }
        if self.bystanders.len() < world.options.clients && world.rng.chance(30) {
            let bystander = Bystander::new(world);
            self.door[world.rng.below(self.reactors.len())].push_back(bystander.peer.link);
            self.bystanders.push(bystander);
        }
        let faults = world.options.faults;
        if self.attackers.len() < self.crowd.len() && world.rng.chance(faults) {
            let kind = self.crowd[self.attacks % self.crowd.len()];
            let attacker = Attacker::new(world, kind);
            self.attacks += 1;
            self.door[world.rng.below(self.reactors.len())].push_back(attacker.peer.link);
            self.attackers.push(attacker);
        }
    }

    /// Takes in who waits, unless there is no descriptor.
    fn accept(&mut self) {
        if self.world.tick < self.exhausted {
            return;
        }
        for (at, door) in self.door.iter_mut().enumerate() {
            if self.reactors[at].is_busy(&self.world) {
                continue;
            }
            for link in door.drain(..) {
                let key = self.reactors[at].accept(&mut self.world, link);
                let bystanders = self.bystanders.iter_mut().map(|it| &mut it.peer);
                let peers = bystanders.chain(self.attackers.iter_mut().map(|it| &mut it.peer));
                peers.filter(|peer| peer.link == link).for_each(|peer| peer.key = Some(key));
            }
        }
    }

    // --- the backend ---

    fn publish(&mut self, channel: &str, data: bytes::Bytes) {
        let keep = self.world.options.rules.namespace(channel).expect("a namespace").keep;
        let publication = Publication { data, ..Publication::default() }.into();
        self.tickets += 1;
        let mail = Mail::Ask(Request::Publish {
            channel: channel.into(),
            publication,
            asker: Asker::Backend(self.tickets),
            treatment: Some(Box::new(Treatment { keep, ..Treatment::default() })),
        });
        let owner = usize::from(self.world.owner(channel));
        self.world.post.offer(owner, self.world.step, mail, &mut self.world.rng);
    }

    fn fill_history(&mut self) {
        for _ in 0..options::BIG_LEN {
            self.publish("big", format!("\"{}\"", "b".repeat(options::BIG_BYTES - 2)).into());
        }
    }

    /// Where a channel's stream is.
    fn top(&mut self, channel: &str) -> u64 {
        let keep: Keep = self.world.options.rules.namespace(channel).and_then(|it| it.keep).expect("history");
        let query = Box::new(Query { keep, since: None, limit: 0, reverse: false });
        let request = Request::History { channel: channel.into(), asker: Asker::Backend(0), query };
        let (owner, now) = (usize::from(self.world.owner(channel)), self.world.now());
        match self.reactors[owner].question(now, Mail::Ask(request)) {
            ControlAnswer::Owner(Answer::History(found)) => found.0.offset,
            other => panic!("a question brought {other:?}"),
        }
    }

    // --- checks ---

    /// No connection got more in this turn than its budget and one step, nor over many turns.
    fn check_budgets(&mut self, at: usize) {
        let reactor = &self.reactors[at];
        let config = &self.world.options.config;
        let Budget { commands, decoded_bytes, reply_bytes, signatures } = Budget::new(config);
        let message_max = config.websocket.message_size_limit * 10;
        // An owner elsewhere answers when it can: what is owed has its own limit.
        let owed = if self.reactors.len() > 1 { config.client.queue_max_size } else { 0 };
        for (link, usage) in &reactor.used {
            let listens = self.listens(*link);
            let window = self.windows.entry(*link).or_default();
            window.add(*usage);
            let turns = window.turns.len();
            for (sum, turns) in [(usage, 1), (&window.sum, turns)] {
                let judge = |what: &str, used: usize, most: usize| {
                    assert!(used <= turns * most, "{used} {what} of link {link} in {turns} turns, of {most} each");
                };
                judge("commands", sum.commands, commands);
                judge("decoded bytes", sum.decoded, decoded_bytes + message_max);
                judge("signatures", sum.signatures, signatures);
                if !listens {
                    judge("bytes of replies", sum.replies, reply_bytes + REPLY_MAX + owed);
                }
            }
        }
        let (held, most) = (reactor.turns.conns.held_bytes(), config.reactor.held_input_size);
        assert!(held <= most + 2 * READ_SIZE, "{held} bytes of input are held, of {most}");
    }

    /// Does it get publications beside its replies?
    fn listens(&self, link: LinkId) -> bool {
        let bystander = self.bystanders.iter().any(|it| it.peer.link == link);
        bystander || self.attackers.iter().any(|it| it.peer.link == link && it.kind == Kind::StopsReading)
    }

    /// The attackers go, and all that is under way arrives: bystanders have everything, and nothing is held.
    fn rest(&mut self) {
        self.resting = true;
        self.exhausted = 0;
        for attacker in self.attackers.drain(..) {
            // After an end, what they said before would still be carried out.
            self.world.net.reset(attacker.peer.link);
        }
        for _ in 0..REST_TICKS_MAX {
            self.tick();
            self.reactors.iter_mut().for_each(|reactor| reactor.work_off(&mut self.world));
            let top = self.top("news");
            let settled = |it: &Bystander| {
                it.pending.is_empty() && it.subscribed && it.last.as_ref().is_some_and(|(at, _)| *at == top)
            };
            let idle = |reactor: &Reactor| !reactor.turns.has_work() && reactor.turns.conns.held_bytes() == 0;
            if self.bystanders.iter().all(settled) && self.reactors.iter().all(idle) && self.world.post.is_empty() {
                return;
            }
        }
        let top = self.top("news");
        let where_all: Vec<_> = self.bystanders.iter().map(|it| (&it.last, it.subscribed, &it.pending)).collect();
        let waits: Vec<String> = self.reactors.iter().map(Reactor::unrest).collect();
        panic!("no rest: the top is {top}, bystanders {where_all:?}, {waits:?}");
    }

    /// The node leaves.
    fn finish(&mut self) {
        self.draining = true;
        self.world.drain();
        for _ in 0..self.world.options.leaving_ticks() + 30 {
            self.tick();
        }
        assert!(self.bystanders.iter().all(|it| it.left), "a bystander was not told to go");
        for reactor in &self.reactors {
            assert_eq!(reactor.turns.conns.len(), 0, "connections after the end");
            assert!(reactor.turns.is_draining());
        }
    }
}
