//! The second kind of simulation: clients that behave, on a node where everything else may fail. What they know of each
//! channel is carried over reconnects and held against the truth.

mod acts;
mod backend;
mod client;
mod line;
mod options;
mod tokens;
mod truth;

use crate::breakage::{Breakage, Chances};
use crate::log::Log;
use crate::node::{Reactor, World};
use crate::rng::Rng;
use backend::Backend;
use client::{Announced, Sdk};
use gannet::broker::{self, Asker, Request};
use gannet::hub::Flags;
use gannet::protocol::Encoding;
use gannet::shard::{ControlAnswer, Mail};
use std::collections::{BTreeMap, BTreeSet};
use truth::Truth;

/// Ticks within which everything must come to rest.
const REST_TICKS_MAX: usize = 1500;

/// What a seed came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Summary {
    pub hash: u64,
    pub connections: usize,
    pub recovered: usize,
    pub lost: usize,
    /// Publications that came by recovery.
    pub missed: usize,
    pub deltas: usize,
    pub repeated: usize,
    pub dropped: u64,
    pub codes: BTreeMap<u32, u64>,
}

impl Summary {
    pub fn add(&mut self, other: Summary) {
        self.connections += other.connections;
        self.recovered += other.recovered;
        self.lost += other.lost;
        self.missed += other.missed;
        self.deltas += other.deltas;
        self.repeated += other.repeated;
        self.dropped += other.dropped;
        for (code, count) in other.codes {
            *self.codes.entry(code).or_default() += count;
        }
    }
}

struct Sim {
    world: World,
    truth: Truth,
    backend: Backend,
    reactors: Vec<Reactor>,
    clients: Vec<Sdk>,
    connections: usize,
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
    let count = |what: fn(&Sdk) -> usize| sim.clients.iter().map(what).sum();
    Summary {
        hash: sim.world.log.hash(),
        connections: sim.connections,
        recovered: count(|sdk| sdk.recovered),
        lost: count(|sdk| sdk.lost),
        missed: count(|sdk| sdk.missed),
        deltas: count(|sdk| sdk.deltas),
        repeated: sim.backend.repeated,
        dropped: sim.world.post.dropped,
        codes: sim.world.codes,
    }
}

impl Sim {
    fn new(seed: u64, breakage: Option<Breakage>, log: Log) -> Sim {
        let mut rng = Rng::new(!seed);
        let options = options::draw(&mut rng);
        let mut world = World::new(options, rng, log, Chances::new(breakage), false);
        Sim {
            reactors: world.reactors(),
            clients: (0..world.options.clients).map(|_| Sdk::default()).collect(),
            world,
            truth: Truth::default(),
            backend: Backend::default(),
            connections: 0,
            resting: false,
        }
    }

    fn tick(&mut self) {
        self.world.pass_tick();
        let steps = self.world.rng.within(1, 3);
        for step in 1..=steps {
            self.step(step == steps);
        }
        self.check_seats();
    }

    fn step(&mut self, all: bool) {
        self.world.go_on();
        for client in 0..self.clients.len() {
            self.client(client);
        }
        let busy = self.world.options.backend_busy;
        if !self.resting && self.world.rng.chance(busy) {
            self.backend.act(&mut self.world, &mut self.truth);
        }
        self.backend.answer(&mut self.world, &mut self.truth, self.resting);
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
        self.backend.hear(&mut self.world, &mut self.truth);
    }

    // --- clients ---

    fn client(&mut self, index: usize) {
        let (world, truth, sdk) = (&mut self.world, &mut self.truth, &mut self.clients[index]);
        let busy = world.options.client_busy;
        if sdk.read(world, truth) {
            let link = sdk.line.as_ref().expect("a connection").link;
            world.net.end(link);
            return sdk.forget_line();
        }
        if sdk.line.as_ref().is_some_and(|line| line.may_begin()) {
            return acts::connect(sdk, world, truth);
        }
        let Some(line) = &mut sdk.line else {
            if !self.resting && world.rng.chance(busy) {
                self.connect(index);
            }
            return;
        };
        let (link, closing) = (line.link, line.closed.is_some());
        if self.resting {
            // What was taken away comes back: an SDK's own doing.
            if line.connected && !closing {
                let list = acts::resubscribe(sdk, world, truth);
                if let Some(line) = sdk.line.as_mut().filter(|_| !list.is_empty() && world.rng.chance(20)) {
                    line.send(world, list);
                } else {
                    list.into_iter().for_each(|(_, what)| sdk.unask(what));
                }
            }
            return;
        }
        if closing || line.refused {
            if line.refused || world.rng.chance(20) {
                world.net.reset(link);
                sdk.forget_line();
            }
            return;
        }
        if !world.rng.chance(busy) {
            return;
        }
        if world.rng.chance(world.options.faults) {
            match world.rng.below(4) {
                0 => world.net.cut(link),
                1 => world.net.reset(link),
                2 => world.net.end(link),
                _ => return line.say_close(world, 1000),
            }
            return sdk.forget_line();
        }
        if line.connected || line.begun && world.rng.chance(10) {
            acts::act(sdk, world, truth);
        }
    }

    fn connect(&mut self, index: usize) {
        let world = &mut self.world;
        let link = world.net.open(world.options.room);
        let encoding = *world.rng.pick(&Encoding::ALL);
        let reactor = world.rng.below(self.reactors.len());
        let key = self.reactors[reactor].accept(world, link);
        self.connections += 1;
        world.say(link, &crate::wire::upgrade(encoding, false), vec![crate::script::Deed::Head]);
        self.clients[index].line = Some(line::Line::new(link, key, world.step, encoding));
    }

    // --- at rest ---

    fn rest(&mut self) {
        self.resting = true;
        for _ in 0..REST_TICKS_MAX {
            self.tick();
            if self.is_quiet() {
                self.resting = false;
                return;
            }
        }
        panic!("no rest after {REST_TICKS_MAX} ticks: {}", self.unrest());
    }

    fn unrest(&self) -> String {
        let pending: Vec<_> = self.clients.iter().filter_map(|sdk| Some(&sdk.line.as_ref()?.pending)).collect();
        let work = self.reactors.iter().any(|reactor| reactor.turns.has_work());
        format!(
            "post {} net {} asks {} work {work} pending {pending:?}",
            self.world.post.is_empty(),
            self.world.net.is_quiet(),
            self.world.asks.len()
        )
    }

    fn is_quiet(&self) -> bool {
        let hears = |link| self.clients.iter().any(|sdk| sdk.line.as_ref().is_some_and(|line| line.link == link));
        let idle = |reactor: &Reactor| {
            let turns = &reactor.turns;
            !turns.has_work() && turns.shard.hub().waiting_bytes() == 0 && !reactor.waits(hears)
        };
        let settled = |sdk: &Sdk| {
            let asked = sdk.subs.values().any(|sub| sub.asked || sub.wanted && sub.live.is_none() && !sub.server);
            sdk.line.as_ref().is_none_or(|line| line.closed.is_none() && line.pending.is_empty() && !asked)
        };
        let world = &self.world;
        let idle = self.reactors.iter().all(idle) && self.clients.iter().all(settled);
        idle && world.asks.is_empty() && world.post.is_empty() && world.net.is_quiet()
    }

    /// No user has more connections than it may.
    fn check_seats(&self) {
        let limit = self.world.options.config.client.user_connection_limit;
        if limit == 0 {
            return;
        }
        let mut users: BTreeMap<String, usize> = BTreeMap::new();
        for reactor in &self.reactors {
            for session in reactor.turns.conns.iter().filter_map(|(_, it)| it.session.as_ref()) {
                if session.is_connected() && !session.user().is_empty() {
                    *users.entry(session.user().to_owned()).or_default() += 1;
                }
            }
        }
        let over = users.iter().find(|(_, count)| **count > limit);
        assert!(over.is_none(), "connections of a user, of {limit}: {over:?}");
        if self.resting && self.is_quiet() {
            let taken: u32 = self.reactors.iter().map(|reactor| reactor.turns.shard.seats()).sum();
            assert_eq!(taken as usize, users.values().sum::<usize>(), "places taken, and connections");
        }
    }

    fn check_rest(&mut self) {
        self.backend.check_rest();
        let announced = self.announced();
        for sdk in &mut self.clients {
            sdk.check_rest(&self.world, &self.truth, &announced);
        }
        self.check_positions();
        let mut present: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let (mut joined, mut connected): (BTreeMap<String, u64>, _) = (BTreeMap::new(), BTreeSet::new());
        for reactor in &self.reactors {
            assert!(!reactor.has_holes(), "a place is still kept at rest");
            let hub = reactor.turns.shard.hub();
            let mut here = BTreeSet::new();
            for session in reactor.turns.conns.iter().filter_map(|(_, it)| it.session.as_ref()) {
                if session.is_connected() {
                    connected.insert(session.client());
                }
                for back in 0..session.subscriptions() as u16 {
                    let (channel, slot) = session.slot(back).expect("every subscription has begun at rest");
                    let name = hub.name(channel).to_string();
                    if hub.slot(channel, slot).expect("a slot").flags.has(Flags::PRESENT) {
                        present.entry(name.clone()).or_default().insert(session.client());
                    }
                    here.insert(name.clone());
                    *joined.entry(name).or_default() += 1;
                }
            }
            assert_eq!(hub.len(), here.len(), "channels in the hub, of those with subscribers");
        }
        assert_eq!(self.channels(), joined, "subscribers that the broker counts, and the live ones");
        let occupied: BTreeSet<String> = joined.into_keys().collect();
        assert_eq!(self.world.hooks.channels, occupied, "channels in use, as the backend was told");
        assert_eq!(self.world.hooks.clients, connected, "clients, as the backend was told");
        self.check_presence(&present);
    }

    /// Who is in each channel with a word to the others.
    fn announced(&self) -> Announced {
        let lines = self.clients.iter().filter_map(|sdk| sdk.line.as_ref());
        let since: BTreeMap<String, u64> = lines.map(|line| (line.client.clone(), line.since)).collect();
        let mut all = Announced::default();
        for reactor in &self.reactors {
            let hub = reactor.turns.shard.hub();
            for session in reactor.turns.conns.iter().filter_map(|(_, it)| it.session.as_ref()) {
                for (channel, slot) in (0..session.subscriptions() as u16).filter_map(|back| session.slot(back)) {
                    if hub.slot(channel, slot).is_some_and(|slot| slot.flags.has(Flags::ANNOUNCED)) {
                        let client = session.client();
                        let since = since.get(&client).copied().unwrap_or_default();
                        all.entry(hub.name(channel).to_string()).or_default().insert(client, since);
                    }
                }
            }
        }
        all
    }

    /// Each client stands where its channels do.
    fn check_positions(&mut self) {
        let mut tops: BTreeMap<String, (u64, String)> = BTreeMap::new();
        for index in 0..self.clients.len() {
            let sdk = &self.clients[index];
            let Some(line) = sdk.line.as_ref().filter(|line| line.closed.is_none()) else { continue };
            let key = line.key;
            let all: Vec<_> = sdk.positions().map(|(c, e, l, f)| (c.clone(), e.to_owned(), l, f.cloned())).collect();
            for (channel, epoch, last, filter) in all {
                if !tops.contains_key(&channel) {
                    let top = self.top(&channel);
                    tops.insert(channel.clone(), top);
                }
                let (top, now) = &tops[&channel];
                assert_eq!((&epoch, last.max(*top)), (now, *top), "{channel}: where {key:?} is");
                let options = self.world.options.rules.channel(&channel).expect("a namespace");
                if options.batch_flush_latest {
                    continue;
                }
                let plain = filter.is_none() && !options.skip_publisher;
                assert!(!plain || last == *top, "{channel}: {key:?} never heard what came after {last}, up to {top}");
                for offset in last + 1..=*top {
                    let skipped = (channel.as_str(), epoch.as_str(), offset, filter.as_ref(), key);
                    Sdk::check_skipped(&self.truth, &self.world, skipped);
                }
            }
        }
    }

    fn top(&mut self, channel: &str) -> (u64, String) {
        let request = backend::position_query(&self.world, channel).expect("history");
        let broker::Answer::History(found) = self.ask_owner(channel, request) else { panic!("a history") };
        (found.0.offset, found.0.epoch.to_string())
    }

    fn check_presence(&mut self, present: &BTreeMap<String, BTreeSet<String>>) {
        for namespace in options::NAMESPACES {
            for at in 0..options::CHANNELS {
                let name = format!("{namespace}:{at}");
                let asker = Asker::Backend(0);
                let request = Request::Presence { channel: name.as_str().into(), asker };
                let broker::Answer::Presence(list) = self.ask_owner(&name, request) else { panic!("a presence") };
                let listed: BTreeSet<String> = list.iter().map(|info| info.client.clone()).collect();
                let expected = present.get(&name).cloned().unwrap_or_default();
                assert_eq!(listed, expected, "{name}: who is present, and who is there");
                let users: BTreeSet<&String> = list.iter().map(|info| &info.user).collect();
                let counts = broker::Answer::PresenceStats { clients: list.len() as u32, users: users.len() as u32 };
                let request = Request::PresenceStats { channel: name.as_str().into(), asker };
                assert_eq!(self.ask_owner(&name, request), counts, "{name}: the counts");
                let shown = self.world.options.rules.channel(&name).is_some_and(|options| options.presence);
                for sdk in self.clients.iter().filter(|sdk| shown && sdk.live().any(|live| *live == name)) {
                    let client = &sdk.line.as_ref().expect("a connection").client;
                    assert!(expected.contains(client), "{name}: {client} is subscribed and not listed");
                }
            }
        }
    }

    fn ask_owner(&mut self, channel: &str, request: Request) -> broker::Answer {
        let owner = usize::from(self.world.owner(channel));
        let now = self.world.now();
        match self.reactors[owner].question(now, Mail::Ask(request)) {
            ControlAnswer::Owner(answer) => answer,
            other => panic!("a question brought {other:?}"),
        }
    }

    /// Each channel's subscribers as its owner counts them.
    fn channels(&mut self) -> BTreeMap<String, u64> {
        let now = self.world.now();
        self.reactors.iter_mut().flat_map(|reactor| reactor.channels(now)).collect()
    }

    /// The node shuts down; nothing may be left of its clients.
    fn finish(&mut self) {
        self.world.drain();
        self.resting = true;
        for _ in 0..self.world.options.leaving_ticks() + 12 {
            self.tick();
        }
        self.rest();
        assert!(self.channels().is_empty(), "the broker knows channels without clients");
        assert!(self.world.hooks.channels.is_empty() && self.world.hooks.clients.is_empty(), "what the backend knows");
        for reactor in &self.reactors {
            assert_eq!(reactor.turns.conns.len(), 0, "connections after the end");
            let (hub, stats) = (reactor.turns.shard.hub(), reactor.turns.shard.stats());
            assert!(hub.is_empty() && hub.subscriptions() == 0, "the hub is not empty");
            assert_eq!((stats.clients, stats.users, stats.channels), (0, 0, 0), "clients, users, channels");
            assert_eq!(reactor.turns.shard.seats(), 0, "places taken");
        }
        // Streams end by themselves, and their bytes are counted back.
        self.world.ms += 2 * options::LONG.as_millis() as u64;
        self.world.pass_tick();
        let now = self.world.now();
        for reactor in &mut self.reactors {
            while reactor.turns.shard.tick(now).is_some_and(|at| at <= now.ms) {}
            assert_eq!(reactor.turns.shard.stats().history_bytes, 0, "bytes of streams that are over");
        }
    }
}
