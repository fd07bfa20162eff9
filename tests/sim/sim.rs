//! One simulation: a node of several reactors, its clients and its backend, all from one seed in one thread.

use crate::actions::{self, Leave};
use crate::breakage::{Breakage, Chances};
use crate::client::{Foreseen, Heard, Reads, Talk};
use crate::log::Log;
use crate::node::{Reactor, World};
use crate::options::{CHANNELS, Options, USERS};
use crate::rng::Rng;
use crate::wire;
use gannet::broker::{Asker, Request};
use gannet::protocol::code::Disconnect;
use gannet::protocol::{Encoding, Publication};
use gannet::shard::{Chosen, Control, Mail};
use std::collections::{BTreeMap, BTreeSet};

/// Steps within which everything must come to rest.
const REST_STEPS_MAX: usize = 3000;

/// What a seed came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Summary {
    pub hash: u64,
    pub events: u64,
    pub accepted: usize,
    pub dropped: u64,
    pub connections: usize,
    /// Errors and close codes that clients heard.
    pub codes: BTreeMap<u32, u64>,
}

pub struct Sim {
    world: World,
    reactors: Vec<Reactor>,
    clients: Vec<Option<Talk>>,
    next_ticket: u64,
    unanswered: BTreeSet<u64>,
    connections: usize,
    /// No new deeds: clients only read and answer pings.
    resting: bool,
}

pub fn run(seed: u64, breakage: Option<Breakage>, log: Log) -> Summary {
    let mut sim = Sim::new(seed, breakage, log);
    for _ in 0..sim.world.options.rounds {
        for _ in 0..sim.world.options.ticks_per_round {
            sim.tick();
        }
        sim.rest();
        sim.check_rest();
    }
    sim.finish();
    let World { log, ledger, post, codes, .. } = &sim.world;
    Summary {
        hash: log.hash(),
        events: log.events(),
        accepted: ledger.accepted(),
        dropped: post.dropped,
        connections: sim.connections,
        codes: codes.clone(),
    }
}

impl Sim {
    fn new(seed: u64, breakage: Option<Breakage>, log: Log) -> Sim {
        let mut rng = Rng::new(seed);
        let options = Options::new(&mut rng);
        let mut world = World::new(options, rng, log, Chances::new(breakage), true);
        Sim {
            reactors: world.reactors(),
            clients: (0..world.options.clients).map(|_| None).collect(),
            world,
            next_ticket: 0,
            unanswered: BTreeSet::new(),
            connections: 0,
            resting: false,
        }
    }

    /// A tenth of a second: some steps, in the last of which every reactor has its turn.
    fn tick(&mut self) {
        self.world.pass_tick();
        let steps = self.world.rng.within(1, 3);
        for step in 1..=steps {
            self.step(step == steps);
        }
    }

    fn step(&mut self, all: bool) {
        self.world.go_on();
        for client in 0..self.clients.len() {
            self.client(client);
        }
        let busy = self.world.options.backend_busy;
        if !self.resting && self.world.rng.chance(busy) {
            self.backend();
        }
        let mut order: Vec<usize> = (0..self.reactors.len()).collect();
        self.world.rng.shuffle(&mut order);
        for reactor in order {
            if all || self.world.rng.chance(70) {
                self.reactors[reactor].turn(&mut self.world);
            }
        }
        if all {
            self.reactors.iter_mut().for_each(|reactor| reactor.end_tick(&mut self.world));
        }
        for (ticket, answer) in std::mem::take(&mut self.world.answers) {
            assert!(self.unanswered.remove(&ticket), "an answer to nothing, or a second one: {answer:?}");
        }
    }

    // --- clients ---

    fn client(&mut self, index: usize) {
        let world = &mut self.world;
        let busy = world.options.client_busy;
        let Some(talk) = &mut self.clients[index] else {
            if !self.resting && world.rng.chance(busy) {
                self.clients[index] = Some(self.connect());
            }
            return;
        };
        let left = match talk.read(world) {
            Heard::End => Some(Leave::End),
            Heard::Close => Sim::hear_close(talk, world),
            Heard::Nothing if !self.resting && world.rng.chance(busy) => actions::act(talk, world),
            Heard::Nothing => None,
        };
        let link = talk.link;
        match left {
            None => return,
            // Its close frame is on the way, and the server's is awaited.
            Some(Leave::Close) => return,
            Some(Leave::End) => world.net.end(link),
            Some(Leave::Reset) => world.net.reset(link),
            Some(Leave::Cut) => world.net.cut(link),
        }
        self.clients[index] = None;
    }

    fn connect(&mut self) -> Talk {
        let world = &mut self.world;
        let link = world.net.open(world.options.room);
        let encoding = *world.rng.pick(&Encoding::ALL);
        let frame_pings = world.rng.chance(15);
        let reactor = world.rng.below(self.reactors.len());
        let key = self.reactors[reactor].accept(world, link);
        self.connections += 1;
        let talk = Talk::new(link, key, encoding, frame_pings);
        talk.send_head(world);
        talk
    }

    /// The server said goodbye: most answer it, some just go, some do nothing and are let go of.
    fn hear_close(talk: &mut Talk, world: &mut World) -> Option<Leave> {
        match world.rng.below(10) {
            0 => Some(Leave::Reset),
            1 => None,
            _ if talk.said_close => Some(Leave::End),
            _ => {
                let code = talk.closed.filter(|code| *code != crate::client::NO_CODE).unwrap_or(1000);
                talk.send_frame(world, wire::CLOSE, &code.to_be_bytes(), Vec::new());
                None
            }
        }
    }

    // --- the backend ---

    fn backend(&mut self) {
        let world = &mut self.world;
        let user = (*world.rng.pick(&USERS)).to_owned();
        let channel = CHANNELS[world.rng.below(world.options.channels)].to_owned();
        let talks: Vec<&Talk> = self.clients.iter().flatten().collect();
        let client = match world.rng.below(10) {
            0 if !talks.is_empty() => world.ledger.client(world.rng.pick(&talks).key).cloned().unwrap_or_default(),
            _ => String::new(),
        };
        let control = match world.rng.below(100) {
            0..94 => return self.publish(&channel),
            94 => {
                world.ledger.disconnected.insert(user.clone());
                let custom = Disconnect { code: 4000, reason: "go".into() };
                let disconnect = if world.rng.chance(50) { custom } else { Disconnect::FORCE_DISCONNECT };
                Control::Disconnect {
                    chosen: Chosen { user, client, ..Chosen::default() },
                    keep: Vec::new(),
                    disconnect,
                }
            }
            95..97 => {
                let channel = if world.rng.chance(30) { String::new() } else { channel };
                Control::Unsubscribe { chosen: Chosen { user, client, ..Chosen::default() }, channel }
            }
            97 => Control::Channels(None),
            98 => Control::Stats,
            _ => Control::Users,
        };
        for reactor in 0..self.reactors.len() {
            let control = control.clone();
            self.ask(reactor, move |ticket| Mail::Control { ticket, control: Box::new(control) });
        }
    }

    fn ask(&mut self, reactor: usize, mail: impl FnOnce(u64) -> Mail) {
        let world = &mut self.world;
        self.next_ticket += 1;
        if world.post.offer(reactor, world.step, mail(self.next_ticket), &mut world.rng) {
            self.unanswered.insert(self.next_ticket);
        }
    }

    fn publish(&mut self, channel: &str) {
        let world = &mut self.world;
        let is_json = world.rng.below(1000) >= world.options.faults;
        let data = actions::payload(world, channel, None, is_json, true);
        let owner = usize::from(world.owner(channel));
        let publication = Publication { data: data.into(), ..Publication::default() }.into();
        let channel = channel.into();
        self.ask(owner, |ticket| {
            Mail::Ask(Request::Publish { channel, publication, asker: Asker::Backend(ticket), treatment: None })
        });
    }

    // --- at rest ---

    /// Lets everything under way arrive, with time standing still.
    fn rest(&mut self) {
        let before = self.resting;
        self.resting = true;
        for talk in self.clients.iter_mut().flatten() {
            talk.reads = Reads::Fast;
        }
        let mut quiet = 0;
        for _ in 0..REST_STEPS_MAX {
            self.step(true);
            self.reactors.iter_mut().for_each(|reactor| reactor.work_off(&mut self.world));
            quiet = if self.is_quiet() { quiet + 1 } else { 0 };
            if quiet == 3 {
                self.resting = before;
                return;
            }
        }
        panic!("no rest after {REST_STEPS_MAX} steps: {}", self.unrest());
    }

    fn unrest(&self) -> String {
        let waits: Vec<String> = self.reactors.iter().map(Reactor::unrest).collect();
        format!("post {} net {:?} reactors {waits:?}", self.world.post.is_empty(), self.world.net.unrest())
    }

    fn is_quiet(&self) -> bool {
        let hears = |link| self.clients.iter().flatten().any(|talk| talk.link == link);
        let idle = |reactor: &Reactor| !reactor.turns.has_work() && !reactor.waits(hears);
        self.world.post.is_empty() && self.world.net.is_quiet() && self.reactors.iter().all(idle)
    }

    fn check_rest(&mut self) {
        assert!(self.unanswered.is_empty(), "the backend waits for {:?}", self.unanswered);
        for talk in self.clients.iter().flatten() {
            talk.check_rest(&self.world);
            let session = self.reactors[usize::from(talk.key.reactor)].turns.conns.get(talk.key.index);
            let session = session.and_then(|it| it.session.as_ref());
            let known = session.map_or(0, |session| session.subscriptions());
            let expected = if talk.closed.is_some() { 0 } else { talk.subscriptions() };
            assert_eq!(known, expected, "subscriptions of {:?}", talk.key);
            let doomed = talk.foreseen == Foreseen::Doomed;
            assert!(!doomed || talk.closed.is_some(), "{:?} had to be closed", talk.key);
        }
        let mut joined: BTreeMap<String, u64> = BTreeMap::new();
        for reactor in &self.reactors {
            assert!(!reactor.has_holes(), "a place is still kept at rest");
            assert_eq!(reactor.turns.shard.hub().waiting_bytes(), 0, "bytes wait at rest");
            let mut here = BTreeSet::new();
            for session in reactor.turns.conns.iter().filter_map(|(_, it)| it.session.as_ref()) {
                for back in 0..session.subscriptions() as u16 {
                    let (channel, _) = session.slot(back).expect("every subscription has begun at rest");
                    let name = reactor.turns.shard.hub().name(channel).to_string();
                    here.insert(name.clone());
                    *joined.entry(name).or_default() += 1;
                }
            }
            assert_eq!(reactor.turns.shard.hub().len(), here.len(), "channels in the hub, of those with subscribers");
        }
        assert_eq!(self.channels(), joined, "subscribers that the broker counts, and the live ones");
        let dropped: u64 = self.world.post.dropped;
        assert!(dropped == 0 || self.world.options.mailbox_len < usize::MAX, "dropped without need");
    }

    /// Each channel's subscribers as its owner counts them.
    fn channels(&mut self) -> BTreeMap<String, u64> {
        let now = self.world.now();
        let mut all = BTreeMap::new();
        for (me, reactor) in self.reactors.iter_mut().enumerate() {
            for (name, count) in reactor.channels(now) {
                assert_eq!(usize::from(self.world.owner(&name)), me, "{name} has another owner");
                all.insert(name, count);
            }
        }
        all
    }

    /// All clients go, or the node does; nothing may be left of them.
    fn finish(&mut self) {
        for client in &mut self.clients {
            let leave = *self.world.rng.pick(&[Leave::End, Leave::Reset, Leave::Cut, Leave::Close]);
            if let Some(talk) = client.take_if(|_| leave != Leave::Close) {
                match leave {
                    Leave::End => self.world.net.end(talk.link),
                    Leave::Reset => self.world.net.reset(talk.link),
                    _ => self.world.net.cut(talk.link),
                }
            }
        }
        self.resting = true;
        self.rest();
        self.world.ledger.shutting_down = true;
        self.world.drain();
        for _ in 0..self.world.options.leaving_ticks() {
            self.tick();
        }
        self.rest();
        assert!(self.channels().is_empty(), "the broker knows channels without clients");
        for reactor in &self.reactors {
            assert_eq!(reactor.turns.conns.len(), 0, "connections after the end");
            let (hub, stats) = (reactor.turns.shard.hub(), reactor.turns.shard.stats());
            assert!(hub.is_empty() && hub.subscriptions() == 0, "the hub is not empty");
            assert_eq!((stats.clients, stats.users, stats.channels), (0, 0, 0), "clients, users, channels");
        }
    }
}
