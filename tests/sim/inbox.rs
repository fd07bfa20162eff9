//! The fifth kind of simulation: users who come and go, on two reactors, with a device or two each, and an inbox. Their
//! connections die between delivery and pong, and their apps lose their position or keep it.
//!
//! What must hold: nobody misses anything without being told; who keeps its position hears everything once; and no
//! cursor is ever ahead of what its client has read.

use crate::rng::Rng;
use bytes::Bytes;
use gannet::broker::{self, Asker, ConnKey, Keep, Request, Treatment};
use gannet::config::{ChannelOptions, Config};
use gannet::protocol::{Encoding, Publication};
use gannet::session::backend::{ConnectGrant, Said};
use gannet::session::{Now, Rules, Session, Sessions};
use gannet::shard::{Control, ControlAnswer, InboxCall, Mail, Out, Shard, Table};
use gannet::wire::Wire;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

const REACTORS: u16 = 2;
const SEED: u64 = 9;
const CHANNELS: [&str; 3] = ["a", "b", "c"];
const HISTORY: u32 = 12;
const STEPS: usize = 400;
const REST_MAX: usize = 2000;

/// What a seed came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Summary {
    pub heard: usize,
    /// Heard by an app that had lost its position, though it had them.
    pub again: usize,
    pub deaths: usize,
    pub proofs: usize,
    /// Told that more is missing than there is.
    pub lost: usize,
    pub parts: usize,
}

impl Summary {
    pub fn add(&mut self, other: &Summary) {
        self.heard += other.heard;
        self.again += other.again;
        self.deaths += other.deaths;
        self.proofs += other.proofs;
        self.lost += other.lost;
        self.parts += other.parts;
    }
}

/// What is on its way to a client.
enum Sent {
    Frame(Bytes),
    Hole(u32),
    Close,
}

struct Conn {
    generation: u32,
    session: Option<Box<Session>>,
    line: VecDeque<Sent>,
}

#[derive(Default)]
struct Conns {
    me: u16,
    all: Vec<Conn>,
}

impl Sessions for Conns {
    fn session(&mut self, conn: u32) -> Option<&mut Session> {
        self.all.get_mut(conn as usize)?.session.as_deref_mut()
    }
}

impl Table for Conns {
    fn key(&self, conn: u32) -> Option<ConnKey> {
        let generation = self.all.get(conn as usize)?.generation;
        Some(ConnKey { reactor: self.me, index: conn, generation })
    }

    fn take(&mut self, conn: u32) -> Option<Box<Session>> {
        self.all.get_mut(conn as usize)?.session.take()
    }

    fn deliver(&mut self, conn: u32, frame: &Bytes, _: bool) {
        self.all[conn as usize].line.push_back(Sent::Frame(frame.clone()));
    }
}

struct Reactor {
    shard: Shard,
    conns: Conns,
    mail: VecDeque<Mail>,
}

/// An app's end of its connection.
struct Link {
    reactor: usize,
    conn: u32,
    /// Said and not arrived.
    up: VecDeque<String>,
    next_id: u32,
    /// Commands that are not answered: the channel of each.
    asked: BTreeMap<u32, usize>,
}

struct Device {
    user: &'static str,
    name: &'static str,
    link: Option<Link>,
    /// Where it is in each channel, as long as its app lives.
    positions: [Option<(u64, String)>; CHANNELS.len()],
    live: [bool; CHANNELS.len()],
    /// The last offset that it read, in any life of the app.
    read: [Option<u64>; CHANNELS.len()],
}

struct Sim {
    rng: Rng,
    tick: u32,
    of_device: bool,
    /// Answers pings that it has not come to, on purpose.
    lies: bool,
    reactors: Vec<Reactor>,
    devices: Vec<Device>,
    /// Connections that are dead and of which the server does not know yet.
    dead: Vec<(usize, u32, u32)>,
    tops: [u64; CHANNELS.len()],
    answers: Vec<ControlAnswer>,
    sum: Summary,
}

pub fn run(seed: u64, lies: bool) -> Summary {
    let mut sim = Sim::new(seed, lies);
    for _ in 0..STEPS {
        sim.step();
        sim.check_cursors();
    }
    sim.rest();
    sim.sum
}

fn rules(rng: &mut Rng, of_device: bool) -> Rules {
    let mut config = Config::default();
    config.client.proxy.connect.enabled = true;
    config.client.ping_interval = Duration::from_secs(5);
    config.client.pong_timeout = Duration::from_secs(4);
    config.client.recovery_max_publication_limit = *rng.pick(&[3, 7, 100]);
    let mut options = ChannelOptions {
        allow_subscribe_for_client: true,
        history_size: HISTORY as usize,
        history_ttl: Duration::from_secs(100_000),
        batch_max_delay: *rng.pick(&[Duration::ZERO, Duration::ZERO, Duration::from_secs(3)]),
        ..ChannelOptions::default()
    };
    options.inbox.enabled = true;
    options.inbox.scope = if of_device { "device" } else { "user" }.into();
    config.channel.without_namespace = options;
    Rules::new(&config).expect("rules")
}

impl Sim {
    fn new(seed: u64, lies: bool) -> Sim {
        let mut rng = Rng::new(seed.rotate_left(17));
        let of_device = rng.chance(50);
        let rules = Arc::new(rules(&mut rng, of_device));
        let reactor = |me| Reactor {
            shard: Shard::new(me, REACTORS, SEED, Arc::new([0; 32]), rules.clone()),
            conns: Conns { me, all: Vec::new() },
            mail: VecDeque::new(),
        };
        let device = |(user, name)| Device {
            user,
            name,
            link: None,
            positions: Default::default(),
            live: Default::default(),
            read: Default::default(),
        };
        Sim {
            tick: 1000,
            of_device,
            lies,
            reactors: (0..REACTORS).map(reactor).collect(),
            devices: [("anna", "phone"), ("anna", "desk"), ("bert", "phone"), ("cora", "phone")].map(device).into(),
            dead: Vec::new(),
            tops: [0; CHANNELS.len()],
            answers: Vec::new(),
            sum: Summary::default(),
            rng,
        }
    }

    fn now(&self) -> Now {
        let ms = u64::from(self.tick) * 100;
        Now { tick: self.tick, ms, unix_ms: 1_800_000_000_000 + ms }
    }

    fn step(&mut self) {
        match self.rng.below(12) {
            0 | 1 => self.publish(),
            2 => self.come(),
            3 => self.die(),
            4 => self.notice(),
            5 => self.pass(),
            _ => {}
        }
        self.move_on();
    }

    /// Something of what is on its way arrives.
    fn move_on(&mut self) {
        for reactor in 0..self.reactors.len() {
            for _ in 0..self.rng.below(4) {
                let Some(mail) = self.reactors[reactor].mail.pop_front() else { break };
                let now = self.now();
                let Reactor { shard, conns, .. } = &mut self.reactors[reactor];
                shard.mail(now, conns, mail);
                self.act(reactor);
            }
            let budget = self.rng.within(1, 5);
            let now = self.now();
            let Reactor { shard, conns, .. } = &mut self.reactors[reactor];
            shard.tick(now);
            shard.fan_out(now, conns, budget);
            self.act(reactor);
        }
        for device in 0..self.devices.len() {
            for _ in 0..self.rng.below(4) {
                self.hear(device);
            }
            if self.rng.chance(60) {
                self.speak(device);
            }
        }
    }

    fn publish(&mut self) {
        let at = self.rng.below(CHANNELS.len());
        self.tops[at] += 1;
        let keep = Some(Keep { size: HISTORY, ttl_ms: 100_000_000, meta_ttl_ms: 100_000_000 });
        let publication = Publication { data: self.tops[at].to_string().into(), ..Publication::default() };
        let request = Request::Publish {
            channel: CHANNELS[at].into(),
            publication: publication.into(),
            asker: Asker::Backend(1),
            treatment: Some(Box::new(Treatment { keep, ..Treatment::default() })),
        };
        // Straight to its owner, so that offsets are known here.
        let owner = usize::from(broker::owner(CHANNELS[at], REACTORS, SEED));
        let now = self.now();
        let Reactor { shard, conns, .. } = &mut self.reactors[owner];
        shard.mail(now, conns, Mail::Ask(request));
        self.act(owner);
    }

    /// A device connects, on any reactor; its app may have lost everything.
    fn come(&mut self) {
        let at = self.rng.below(self.devices.len());
        if self.devices[at].link.is_some() {
            return;
        }
        if self.rng.chance(60) {
            self.devices[at].positions = Default::default();
        }
        self.connect(at);
    }

    fn connect(&mut self, at: usize) {
        let reactor = self.rng.below(self.reactors.len());
        let (now, id) = (self.now(), self.rng.bytes16());
        let Reactor { shard, conns, .. } = &mut self.reactors[reactor];
        let session = Some(shard.open(now, id, Wire::websocket(Encoding::Json), false));
        let busy = |index: usize| {
            let linked = self.devices.iter().filter_map(|device| device.link.as_ref());
            let mut used = linked.map(|link| (link.reactor, link.conn));
            used.any(|(of, conn)| of == reactor && conn as usize == index)
        };
        let free = (0..conns.all.len()).find(|index| conns.all[*index].session.is_none() && !busy(*index));
        let conn = free.unwrap_or_else(|| {
            conns.all.push(Conn { generation: 0, session: None, line: VecDeque::new() });
            conns.all.len() - 1
        });
        let place = &mut conns.all[conn];
        *place = Conn { generation: place.generation + 1, session, line: VecDeque::new() };
        let up = [json!({ "id": 1, "connect": {} }).to_string()].into();
        let link = Link { reactor, conn: conn as u32, up, next_id: 2, asked: BTreeMap::new() };
        let device = &mut self.devices[at];
        (device.link, device.live) = (Some(link), Default::default());
        for channel in 0..CHANNELS.len() {
            self.subscribe(at, channel);
        }
    }

    fn subscribe(&mut self, at: usize, channel: usize) {
        let device = &mut self.devices[at];
        let Some(link) = &mut device.link else { return };
        let mut subscribe = json!({ "channel": CHANNELS[channel] });
        if let Some((offset, epoch)) = &device.positions[channel] {
            subscribe["recover"] = true.into();
            (subscribe["offset"], subscribe["epoch"]) = ((*offset).into(), epoch.as_str().into());
        }
        let id = link.next_id;
        link.next_id += 1;
        link.asked.insert(id, channel);
        link.up.push_back(json!({ "id": id, "subscribe": subscribe }).to_string());
    }

    /// A device is gone, with all that was on its way in both directions. The server notices at once, or later.
    fn die(&mut self) {
        let at = self.rng.below(self.devices.len());
        let Some(link) = self.devices[at].link.take() else { return };
        let generation = self.reactors[link.reactor].conns.all[link.conn as usize].generation;
        self.dead.push((link.reactor, link.conn, generation));
        self.sum.deaths += 1;
        if self.rng.chance(50) {
            self.notice();
        }
    }

    fn notice(&mut self) {
        let Some((reactor, conn, generation)) = self.dead.pop() else { return };
        let now = self.now();
        let Reactor { shard, conns, .. } = &mut self.reactors[reactor];
        if conns.all[conn as usize].generation == generation {
            shard.close(now, conns, conn, None);
            self.act(reactor);
        }
    }

    /// Time passes, and timers are due.
    fn pass(&mut self) {
        self.tick += self.rng.within(1, 30) as u32;
        let now = self.now();
        for reactor in 0..self.reactors.len() {
            for conn in 0..self.reactors[reactor].conns.all.len() as u32 {
                let Reactor { shard, conns, .. } = &mut self.reactors[reactor];
                if conns.session(conn).is_some_and(|session| session.next_deadline() <= now.tick) {
                    shard.timeout(now, conns, conn);
                    self.act(reactor);
                }
            }
        }
    }

    /// Does what a shard gave out.
    fn act(&mut self, reactor: usize) {
        while !self.reactors[reactor].shard.out.is_empty() {
            for out in std::mem::take(&mut self.reactors[reactor].shard.out) {
                self.act_on(reactor, out);
            }
        }
    }

    fn act_on(&mut self, reactor: usize, out: Out) {
        let now = self.now();
        let line = |sim: &mut Sim, conn: u32, sent| {
            sim.reactors[reactor].conns.all[conn as usize].line.push_back(sent);
        };
        match out {
            Out::Send { conn, frame } => line(self, conn, Sent::Frame(frame)),
            Out::Hole { conn, ticket, .. } => line(self, conn, Sent::Hole(ticket)),
            Out::Close { conn, .. } => line(self, conn, Sent::Close),
            Out::Fill { conn, ticket, frame } => {
                let all = &mut self.reactors[reactor].conns.all[conn as usize].line;
                let hole = all.iter_mut().find(|sent| matches!(sent, Sent::Hole(of) if *of == ticket));
                *hole.expect("a place for each reply") = Sent::Frame(frame);
            }
            Out::Mail { reactor: to, mail } => self.reactors[usize::from(to)].mail.push_back(mail),
            Out::Answer { answer, .. } => self.answers.push(answer),
            Out::Ask(call) => {
                let of = |link: &Link| link.reactor == reactor && link.conn == call.conn.index;
                let device = self.devices.iter().find(|device| device.link.as_ref().is_some_and(of));
                let (user, name) = device.map_or(("", ""), |device| (device.user, device.name));
                let meta = json!({ "device": name }).to_string().into();
                let grant = ConnectGrant { user: user.into(), meta, ..ConnectGrant::default() };
                let said = Said::Connect(Box::new(grant));
                let mail = Mail::Backend { conn: call.conn, ticket: call.ticket, ask: call.ask, said };
                let Reactor { shard, conns, .. } = &mut self.reactors[reactor];
                shard.mail(now, conns, mail);
            }
            _ => {}
        }
    }

    /// What a device said arrives, one message at a time.
    fn speak(&mut self, at: usize) {
        let now = self.now();
        let Some(link) = &mut self.devices[at].link else { return };
        let (reactor, conn) = (link.reactor, link.conn);
        let Reactor { shard, conns, .. } = &mut self.reactors[reactor];
        if conns.session(conn).is_none_or(|session| session.is_connecting()) {
            return;
        }
        let Some(message) = link.up.pop_front() else { return };
        shard.command(now, conns, conn, message.as_bytes(), true);
        self.act(reactor);
    }

    /// A device reads the next frame.
    fn hear(&mut self, at: usize) {
        let Some(link) = &mut self.devices[at].link else { return };
        let line = &mut self.reactors[link.reactor].conns.all[link.conn as usize].line;
        if self.lies {
            let is_ping = |sent: &Sent| matches!(sent, Sent::Frame(frame) if &frame[2..] == b"{}");
            if let Some(ping) = line.iter().position(is_ping) {
                line.remove(ping);
                link.up.push_back("{}".into());
            }
        }
        match line.pop_front() {
            None => {}
            Some(Sent::Hole(ticket)) => line.push_front(Sent::Hole(ticket)),
            Some(Sent::Close) => self.devices[at].link = None,
            Some(Sent::Frame(frame)) => {
                let start = match frame[1] {
                    126 => 4,
                    127 => 10,
                    _ => 2,
                };
                let text = std::str::from_utf8(&frame[start..]).expect("text").to_owned();
                for said in text.lines() {
                    self.take(at, &serde_json::from_str(said).expect("JSON"));
                }
            }
        }
    }

    fn take(&mut self, at: usize, said: &Value) {
        if said.as_object().is_some_and(|ping| ping.is_empty()) {
            if let Some(link) = &mut self.devices[at].link {
                link.up.push_back("{}".into());
            }
            return;
        }
        let channel = |name: &Value| CHANNELS.iter().position(|channel| name == channel).expect("a channel");
        let push = &said["push"];
        if push["pub"].is_object() {
            return self.read(at, channel(&push["channel"]), &push["pub"]);
        }
        if let Some(code) = push["unsubscribe"]["code"].as_u64() {
            assert_eq!(code, 2500, "{said}");
            let channel = channel(&push["channel"]);
            self.devices[at].live[channel] = false;
            self.sum.parts += 1;
            return self.subscribe(at, channel);
        }
        let asked = self.devices[at].link.as_mut().and_then(|link| link.asked.remove(&(said["id"].as_u64()? as u32)));
        if let Some(channel) = asked {
            assert!(said["subscribe"].is_object(), "{said}");
            self.begin(at, channel, &said["subscribe"]);
        }
    }

    /// A subscribe reply, as an SDK takes it.
    fn begin(&mut self, at: usize, channel: usize, result: &Value) {
        let offset = result["offset"].as_u64().unwrap_or(0);
        let epoch = result["epoch"].as_str().expect("an epoch").to_owned();
        let (was_recovering, recovered) = (result["was_recovering"] == true, result["recovered"] == true);
        let known = self.devices[at].positions[channel].take();
        let read = self.read_by(at, channel);
        match (was_recovering, recovered) {
            (false, _) => {
                assert!(known.is_none() && self.devices[at].read[channel].is_none(), "it was forgotten: {result}");
                self.devices[at].read[channel] = Some(offset);
            }
            (true, true) => {
                assert!(known.as_ref().is_none_or(|(known, _)| *known == offset), "{result}");
                assert!(read.is_none_or(|read| offset <= read), "{offset} was proven, and {read:?} read");
                let own = &mut self.devices[at].read[channel];
                *own = Some(own.map_or(offset, |own| own.max(offset)));
            }
            (true, false) => {
                self.sum.lost += 1;
                let known = known.map_or(0, |(known, _)| known);
                assert!(self.tops[channel] > known + u64::from(HISTORY), "{known} of {}: {result}", self.tops[channel]);
                self.devices[at].read[channel] = Some(offset);
            }
        }
        self.devices[at].positions[channel] = Some((offset, epoch));
        self.devices[at].live[channel] = true;
        for publication in result["publications"].as_array().into_iter().flatten() {
            self.read(at, channel, publication);
        }
    }

    /// How far a device, or any of its user's, has read.
    fn read_by(&self, at: usize, channel: usize) -> Option<u64> {
        let of = |device: &&Device| device.user == self.devices[at].user;
        match self.of_device {
            true => self.devices[at].read[channel],
            false => self.devices.iter().filter(of).filter_map(|device| device.read[channel]).max(),
        }
    }

    fn read(&mut self, at: usize, channel: usize, publication: &Value) {
        let offset = publication["offset"].as_u64().expect("an offset");
        assert_eq!(publication["data"], offset, "the one that belongs there");
        let read = self.read_by(at, channel).expect("it began before");
        assert!(offset <= read + 1, "{offset} after {read}: something is missing");
        let device = &mut self.devices[at];
        let (position, _) = device.positions[channel].as_mut().expect("it knows where it is");
        assert_eq!(offset, *position + 1, "once and in order, for who keeps its position");
        *position = offset;
        let own = device.read[channel].get_or_insert(offset);
        self.sum.again += usize::from(offset <= *own);
        *own = offset.max(*own);
        self.sum.heard += 1;
    }

    /// No cursor is ahead of what was read.
    fn check_cursors(&mut self) {
        for user in ["anna", "bert", "cora"] {
            for facts in self.cursors(user) {
                let channel = CHANNELS.iter().position(|name| **name == *facts.channel).expect("a channel");
                let of = |device: &&Device| device.user == user && (!self.of_device || *device.name == *facts.device);
                let read = self.devices.iter().filter(of).filter_map(|device| device.read[channel]).max();
                // Its first reply may be on its way.
                let Some(read) = read else { continue };
                assert!(facts.offset <= read, "{user} is said to have {} and has {read}: {facts:?}", facts.offset);
            }
        }
    }

    fn cursors(&mut self, user: &str) -> Vec<broker::CursorFacts> {
        let now = self.now();
        let mut found = Vec::new();
        for reactor in 0..self.reactors.len() {
            let control = Box::new(Control::Inbox(InboxCall::Info { user: user.into() }));
            let Reactor { shard, conns, .. } = &mut self.reactors[reactor];
            shard.mail(now, conns, Mail::Control { ticket: 5, control });
            self.act(reactor);
            for answer in self.answers.drain(..) {
                if let ControlAnswer::Cursors(cursors) = answer {
                    found.extend(cursors);
                }
            }
        }
        found
    }

    /// Everybody comes back, and everything arrives: nothing is missing, and in the end all of it is proven.
    fn rest(&mut self) {
        for step in 0..REST_MAX {
            while !self.dead.is_empty() {
                self.notice();
            }
            for at in 0..self.devices.len() {
                if self.devices[at].link.is_none() {
                    self.connect(at);
                }
            }
            if step % 5 == 0 {
                self.pass();
            }
            for _ in 0..10 {
                self.move_on();
            }
            self.check_cursors();
            if self.is_settled() {
                let proofs = |reactor: &Reactor| reactor.shard.stats().counters.inbox_proofs as usize;
                self.sum.proofs = self.reactors.iter().map(proofs).sum();
                return;
            }
        }
        panic!("at rest somebody lacks something, or it is not proven: tops {:?}", self.tops);
    }

    fn is_settled(&mut self) -> bool {
        let has_all = |device: &Device| {
            let all = device.positions.iter().zip(&self.tops);
            all.clone().all(|(position, top)| position.as_ref().is_some_and(|(offset, _)| offset == top))
        };
        if !self.devices.iter().all(|device| device.live == [true; CHANNELS.len()] && has_all(device)) {
            return false;
        }
        let tops = self.tops;
        let top = |name: &str| CHANNELS.iter().position(|channel| *channel == name).map(|at| tops[at]);
        let users = ["anna", "bert", "cora"];
        users.iter().all(|user| self.cursors(user).iter().all(|facts| Some(facts.offset) == top(&facts.channel)))
    }
}
