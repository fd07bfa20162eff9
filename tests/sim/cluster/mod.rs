//! The fourth kind of simulation: several nodes that share a store, which lags, fails over, loses its end and begins
//! anew, by connections that are late and die. The owners of channels are the real ones; what surrounds them is
//! simulated, and each client checks what it hears.

mod client;
mod link;
mod store;

use crate::rng::Rng;
use client::{CHANNELS, Client};
use gannet::broker::engine::Engine;
use gannet::broker::{Answer, Asker, Event, InboxLimits, Keep, Limits, Owner, Request, Target, Told, Treatment};
use gannet::broker::{DurableLimits, EngineLimits, OwnerLimits, Want};
use gannet::protocol::{ClientInfo, Publication};
use link::Link;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use store::Store;

pub const KEEP: Keep = Keep { size: 50, ttl_ms: 3_600_000, meta_ttl_ms: 3_600_000 };
/// Clients of a node stand on so many reactors.
const REACTORS: usize = 2;
const REST_STEPS_MAX: usize = 4000;
/// Steps at rest after which whoever nobody names is forgotten.
const FORGOTTEN_STEPS: usize = 140;

/// What a seed came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    pub hash: u64,
    pub published: u64,
    pub heard: u64,
    pub recovered: u64,
    pub gaps: u64,
    pub refused: u64,
    pub healed: u64,
    pub lost_by_store: u64,
    pub fail_overs: u64,
    /// Joins and leaves that were held against who is there.
    pub met: u64,
}

impl Summary {
    pub fn add(&mut self, other: &Summary) {
        self.published += other.published;
        self.heard += other.heard;
        self.recovered += other.recovered;
        self.gaps += other.gaps;
        self.refused += other.refused;
        self.healed += other.healed;
        self.lost_by_store += other.lost_by_store;
        self.met += other.met;
        self.fail_overs += other.fail_overs;
    }
}

struct NodeSim {
    owner: Owner,
    link: Link,
    clients: Vec<Client>,
}

struct Cluster {
    rng: Rng,
    store: Store,
    nodes: Vec<NodeSim>,
    now_ms: u64,
    step: u64,
    number: u64,
    /// Publications that nobody has answered, by their tickets.
    asked: BTreeSet<u64>,
    tickets: u64,
    faults: usize,
    resting: bool,
    summary: Summary,
}

/// What is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    Nothing,
    /// Nobody is told that something is missing.
    Gaps,
    /// Nobody is told that somebody left.
    Leaves,
}

/// Runs one seed.
pub fn run(seed: u64, broken: Broken) -> Summary {
    let mut cluster = Cluster::new(seed);
    let rounds = cluster.rng.within(1, 3);
    for _ in 0..rounds {
        for _ in 0..cluster.rng.within(50, 250) {
            cluster.step(broken);
        }
        cluster.rest(broken);
        cluster.check_rest();
    }
    cluster.finish(broken);
    cluster.summary
}

impl Cluster {
    fn new(seed: u64) -> Cluster {
        let mut rng = Rng::new(seed ^ 0x5eed_c105_7e12);
        let limits = EngineLimits {
            held: *rng.pick(&[2, 10, 512]),
            held_bytes: *rng.pick(&[2000, 1 << 20]),
            inflight: *rng.pick(&[4, 1000, 1000]),
            present: 100,
            presence_ms: 27_000,
            check_ms: 5_000,
        };
        let (memory, durable) = (Limits { history_bytes: 0, recent: 10 }, DurableLimits::default());
        let limits = OwnerLimits { memory, engine: limits, inbox: InboxLimits { bytes: 0, of_user: 1000 }, durable };
        let nodes = (0..rng.within(1, 3)).map(|node| NodeSim {
            owner: Owner::new(seed, limits, false),
            link: Link::default(),
            clients: (0..rng.within(2, 6)).map(|at| Client::new(node, at, at % REACTORS)).collect(),
        });
        let nodes = nodes.collect();
        let faults = *rng.pick(&[0, 1, 3]);
        let (store, summary) = (Store::default(), Summary::default());
        Cluster {
            rng,
            store,
            nodes,
            now_ms: 1_000_000,
            step: 0,
            number: 0,
            asked: BTreeSet::new(),
            tickets: 0,
            faults,
            resting: false,
            summary,
        }
    }

    fn step(&mut self, broken: Broken) {
        self.step += 1;
        self.now_ms += if self.resting { 500 } else { self.rng.within(1, 300) as u64 };
        if !self.resting {
            self.fail();
            self.act();
        }
        for at in 0..self.nodes.len() {
            let mut told = Told::new();
            if self.resting {
                self.nodes[at].link.cut = false;
                self.nodes[at].link.hear_again();
            }
            for heard in self.nodes[at].link.arrive(&mut self.rng, self.resting) {
                self.nodes[at].owner.hear(self.now_ms, heard, &mut told);
                self.hand_out(at, &mut told, broken);
            }
            self.nodes[at].owner.expire(self.now_ms, &mut told);
            self.hand_out(at, &mut told, broken);
            self.carry_calls(at);
        }
    }

    fn carry_calls(&mut self, at: usize) {
        let Cluster { nodes, store, rng, now_ms, resting, .. } = self;
        let node = &mut nodes[at];
        for (engine, call) in node.owner.take_calls() {
            assert_eq!(engine, Engine::Redis);
            node.link.call(call);
        }
        if node.link.can_work() {
            let news = node.link.work(*now_ms, store, rng, *resting);
            news.iter().for_each(|one| nodes.iter_mut().for_each(|node| node.link.tell(one)));
        }
        if self.rng.chance(30) {
            self.store.replicate();
        }
    }

    /// Something dies, or comes back.
    fn fail(&mut self) {
        if !self.rng.chance(self.faults) {
            let at = self.rng.below(self.nodes.len());
            if self.rng.chance(20) {
                self.nodes[at].link.cut = false;
                self.nodes[at].link.hear_again();
            }
            return;
        }
        let at = self.rng.below(self.nodes.len());
        match self.rng.below(10) {
            0..4 => self.nodes[at].link.go_deaf(),
            4..6 => self.lose_calls(at),
            6 => {
                self.lose_calls(at);
                self.nodes[at].link.go_deaf();
                self.nodes[at].link.cut = true;
            }
            7 | 8 => {
                self.lose_all();
                self.store.fail_over(self.step);
                self.summary.fail_overs += 1;
            }
            _ => {
                self.lose_all();
                self.store.forget();
            }
        }
    }

    fn lose_calls(&mut self, at: usize) {
        let Cluster { nodes, store, rng, now_ms, .. } = self;
        let news = nodes[at].link.lose_calls(*now_ms, store, rng);
        news.iter().for_each(|one| nodes.iter_mut().for_each(|node| node.link.tell(one)));
    }

    /// The store is another: every connection is lost.
    fn lose_all(&mut self) {
        for at in 0..self.nodes.len() {
            self.lose_calls(at);
        }
        self.nodes.iter_mut().for_each(|node| node.link.go_deaf());
    }

    /// Clients and the backend do something.
    fn act(&mut self) {
        let at = self.rng.below(self.nodes.len());
        if self.rng.chance(60) {
            self.publish(at);
        }
        let client = self.rng.below(self.nodes[at].clients.len());
        if self.rng.chance(40) {
            let channel = CHANNELS[self.rng.below(CHANNELS.len())];
            self.nodes[at].clients[client].turn(channel, &mut self.rng);
        }
        if self.rng.chance(20) {
            self.nodes[at].clients[client].settle();
        }
        self.hand_out(at, &mut Told::new(), Broken::Nothing);
    }

    fn publish(&mut self, at: usize) {
        let channel: Arc<str> = CHANNELS[self.rng.below(CHANNELS.len())].into();
        (self.number, self.tickets) = (self.number + 1, self.tickets + 1);
        let publication = Publication { data: self.number.to_string().into(), ..Publication::default() }.into();
        let treatment = Some(Box::new(Treatment { keep: Some(KEEP), ..Treatment::default() }));
        let asker = Asker::Backend(self.tickets);
        self.asked.insert(self.tickets);
        self.ask(at, Request::Publish { channel, publication, asker, treatment });
        self.summary.published += 1;
    }

    fn ask(&mut self, at: usize, request: Request) {
        let mut told = Told::new();
        self.nodes[at].owner.handle(self.now_ms, Engine::Redis, None, request, &mut told);
        self.hand_out(at, &mut told, Broken::Nothing);
    }

    /// Tells clients what is for them, and asks what they want then.
    fn hand_out(&mut self, at: usize, told: &mut Told, broken: Broken) {
        for (target, event) in told.drain(..) {
            match (target, event) {
                (Target::Backend, Event::Answer { asker: Asker::Backend(ticket), answer }) => {
                    assert!(self.asked.remove(&ticket), "an answer to nothing: {answer:?}");
                    self.summary.refused += u64::from(matches!(answer, Answer::Refused(_)));
                }
                (Target::Reactor(reactor), event) => {
                    match event {
                        Event::Gap { .. } if broken == Broken::Gaps => continue,
                        Event::Leave { .. } if broken == Broken::Leaves => continue,
                        _ => {}
                    }
                    let clients = self.nodes[at].clients.iter_mut();
                    for client in clients.filter(|client| client.conn.reactor == reactor) {
                        client.hear(self.step, &event, &self.store, &mut self.summary);
                    }
                }
                other => panic!("nobody waits for this: {other:?}"),
            }
        }
        let mut requests = Vec::new();
        for client in &mut self.nodes[at].clients {
            requests.append(&mut client.requests);
        }
        for request in requests {
            self.ask(at, request);
        }
    }

    fn rest(&mut self, broken: Broken) {
        self.resting = true;
        let mut quiet = 0;
        for _ in 0..REST_STEPS_MAX {
            for node in &mut self.nodes {
                node.clients.iter_mut().for_each(Client::settle);
            }
            for at in 0..self.nodes.len() {
                self.hand_out(at, &mut Told::new(), broken);
            }
            self.step(broken);
            let idle = |node: &NodeSim| node.link.is_quiet() && node.clients.iter().all(Client::is_settled);
            // Channels are looked at now and then, at rest too.
            let is_idle = self.nodes.iter().all(idle);
            quiet += usize::from(is_idle);
            if is_idle && quiet > FORGOTTEN_STEPS {
                self.resting = false;
                return;
            }
        }
        let states: Vec<String> = self.nodes.iter().flat_map(|node| &node.clients).map(Client::shown).collect();
        panic!("no rest: {states:?}");
    }

    fn check_rest(&mut self) {
        assert!(self.asked.is_empty(), "the backend waits for {:?}", self.asked);
        let mut present: BTreeMap<&str, BTreeSet<[u8; 16]>> = BTreeMap::new();
        for node in &mut self.nodes {
            let engine = &node.owner.remote;
            assert_eq!((engine.inflight(), engine.held_bytes()), (0, 0), "questions and publications at rest");
            self.summary.healed = self.summary.healed.max(engine.tally.healed);
            for client in &mut node.clients {
                client.check_rest(&mut self.store, &mut present);
            }
        }
        if self.faults == 0 {
            self.check_meetings();
        }
        for channel in CHANNELS {
            let listed = self.store.present(self.now_ms, &channel.into());
            assert_eq!(
                listed,
                present.remove(channel).unwrap_or_default(),
                "{channel}: who is present, and who is there"
            );
        }
    }

    /// Who is there, from what each client heard of the others: no connection lost a join or a leave.
    fn check_meetings(&mut self) {
        let all = || self.nodes.iter().flat_map(|node| &node.clients);
        for one in all() {
            self.summary.met += all().map(|other| one.check_meeting(other)).sum::<u64>();
        }
    }

    /// All leave, and nothing is left.
    fn finish(&mut self, broken: Broken) {
        for node in &mut self.nodes {
            node.clients.iter_mut().for_each(Client::leave_all);
        }
        self.rest(broken);
        for node in &self.nodes {
            assert!(node.owner.is_empty(), "channels with subscribers");
            for channel in CHANNELS {
                assert!(!node.owner.remote.has(channel), "{channel} is known to a node without clients");
            }
        }
        self.summary.lost_by_store = self.store.lost.len() as u64;
        self.summary.hash = self.number ^ self.step << 16 ^ self.summary.heard << 32 ^ self.rng.next();
    }
}

/// Who a client is to others.
fn info(client: [u8; 16]) -> Arc<ClientInfo> {
    let client = uuid::Uuid::from_bytes(client).to_string();
    Arc::new(ClientInfo { user: "u".into(), client, ..ClientInfo::default() })
}

/// What a subscriber wants.
fn want(positioned: bool, client: [u8; 16]) -> Want {
    let member = gannet::broker::Member { client, info: info(client), presence: true, announce: true };
    Want { position: positioned.then_some(KEEP), member: Some(member), ..Want::default() }
}
