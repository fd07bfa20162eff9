//! Two shards under a sequence of typed operations, their mail in order but late; what must hold holds after each.
#![no_main]

use arbitrary::Arbitrary;
use bytes::Bytes;
use gannet::broker::{Asker, ConnKey, Request, owner};
use gannet::config::Config;
use gannet::protocol::code::Disconnect;
use gannet::protocol::{Command, ConnectRequest, Encoding, Publication, PublishRequest, SubscribeRequest};
use gannet::protocol::{RefreshRequest, UnsubscribeRequest};
use gannet::session::{Now, Rules, Session, Sessions};
use gannet::shard::{Control, Mail, Out, Shard, Table};
use libfuzzer_sys::fuzz_target;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

const SHARDS: u16 = 2;
const CONNS: u8 = 6;
const CHANNELS: [&str; 4] = ["a", "b", "c", "d"];

#[derive(Debug, Arbitrary)]
enum Operation {
    Open { conn: u8, protobuf: bool, frame_pings: bool },
    Command { conn: u8, id: u8, what: What },
    Two { conn: u8, first: What, second: What },
    Bytes { conn: u8, message: Vec<u8> },
    PongFrame { conn: u8 },
    Close { conn: u8 },
    Timeout { conn: u8 },
    Tick { ticks: u8 },
    Publish { channel: u8, json: bool },
    Mail { count: u8 },
    FanOut { budget: u8 },
    Disconnect,
    Unsubscribe { channel: u8 },
    Channels,
}

#[derive(Debug, Arbitrary)]
enum What {
    Connect,
    Subscribe(u8),
    Unsubscribe(u8),
    Publish(u8),
    Refresh,
}

struct Conn {
    generation: u32,
    session: Option<Box<Session>>,
    encoding: Encoding,
}

struct Conns {
    me: u16,
    list: Vec<Option<Conn>>,
    delivered: usize,
}

impl Sessions for Conns {
    fn session(&mut self, conn: u32) -> Option<&mut Session> {
        self.list.get_mut(conn as usize)?.as_mut()?.session.as_deref_mut()
    }
}

impl Table for Conns {
    fn key(&self, conn: u32) -> Option<ConnKey> {
        let generation = self.list.get(conn as usize)?.as_ref()?.generation;
        Some(ConnKey { reactor: self.me, index: conn, generation })
    }

    fn take(&mut self, conn: u32) -> Option<Box<Session>> {
        self.list.get_mut(conn as usize)?.as_mut()?.session.take()
    }

    fn deliver(&mut self, conn: u32, frame: &Bytes) {
        assert!(self.session(conn).is_some() && !frame.is_empty(), "a delivery to nobody");
        self.delivered += 1;
    }
}

struct Node {
    now: Now,
    shards: Vec<Shard>,
    conns: Vec<Conns>,
    mail: Vec<VecDeque<Mail>>,
    generation: u32,
}

impl Node {
    fn new() -> Node {
        let mut config = Config::default();
        config.client.insecure = true;
        config.client.channel_limit = 3;
        let rules = Arc::new(Rules::new(&config));
        let conns = |me| Conns { me, list: (0..CONNS).map(|_| None).collect(), delivered: 0 };
        Node {
            now: Now { tick: 1, unix_ms: 1_800_000_000_000 },
            shards: (0..SHARDS).map(|me| Shard::new(me, SHARDS, 7, rules.clone())).collect(),
            conns: (0..SHARDS).map(conns).collect(),
            mail: (0..SHARDS).map(|_| VecDeque::new()).collect(),
            generation: 0,
        }
    }

    /// A connection by its number over all shards.
    fn at(conn: u8) -> (usize, u32) {
        (usize::from(conn) % usize::from(SHARDS), u32::from(conn / SHARDS as u8 % CONNS))
    }

    fn open(&mut self, conn: u8, encoding: Encoding, frame_pings: bool) {
        let (at, index) = Node::at(conn);
        self.shards[at].close(self.now, &mut self.conns[at], index, None);
        self.generation += 1;
        let session = self.shards[at].open(self.now, [conn; 16], encoding, frame_pings);
        let generation = self.generation;
        self.conns[at].list[index as usize] = Some(Conn { generation, session: Some(session), encoding });
    }

    fn command(&mut self, conn: u8, list: &[(u32, &What)]) {
        let (at, index) = Node::at(conn);
        let Some(encoding) = self.conns[at].list[index as usize].as_ref().map(|it| it.encoding) else { return };
        let mut message = Vec::new();
        for (id, what) in list {
            let command = command(*id, what);
            match encoding {
                Encoding::Json => {
                    message.extend(serde_json::to_vec(&command).expect("JSON"));
                    message.push(b'\n');
                }
                Encoding::Protobuf => message.extend(prost::Message::encode_length_delimited_to_vec(&command)),
            }
        }
        self.shards[at].message(self.now, &mut self.conns[at], index, &message);
    }

    fn control(&mut self, control: Control) {
        for at in 0..self.shards.len() {
            let mail = Mail::Control { ticket: 1, control: control.clone() };
            self.shards[at].mail(self.now, &mut self.conns[at], mail);
        }
    }

    fn run(&mut self, operation: &Operation) {
        match operation {
            Operation::Open { conn, protobuf, frame_pings } => {
                self.open(*conn, if *protobuf { Encoding::Protobuf } else { Encoding::Json }, *frame_pings);
            }
            Operation::Command { conn, id, what } => self.command(*conn, &[(u32::from(*id), what)]),
            Operation::Two { conn, first, second } => self.command(*conn, &[(1, first), (2, second)]),
            Operation::Tick { ticks } => {
                self.now.tick += u32::from(*ticks);
                self.now.unix_ms += u64::from(*ticks) * 100;
            }
            Operation::Publish { channel, json } => {
                let channel: Arc<str> = CHANNELS[usize::from(*channel) % CHANNELS.len()].into();
                let data = if *json { "1" } else { "!" };
                let publication = Arc::new(Publication { data: data.into(), ..Publication::default() });
                let to = usize::from(owner(&channel, SHARDS, 7));
                self.mail[to].push_back(Mail::Ask(Request::Publish { channel, publication, asker: Asker::Backend(1) }));
            }
            Operation::Disconnect => {
                let (user, client, keep) = (String::new(), String::new(), Vec::new());
                self.control(Control::Disconnect { user, client, keep, disconnect: Disconnect::FORCE_DISCONNECT });
            }
            Operation::Unsubscribe { channel } => {
                let channel = CHANNELS[usize::from(*channel) % CHANNELS.len()].into();
                self.control(Control::Unsubscribe { user: String::new(), client: String::new(), channel });
            }
            Operation::Channels => self.control(Control::Channels(None)),
            Operation::Mail { count } => self.take_mail(usize::from(*count)),
            Operation::FanOut { budget } => self.fan_out(usize::from(*budget)),
            other => self.run_on_one(other),
        }
        self.act();
    }

    fn run_on_one(&mut self, operation: &Operation) {
        let (Operation::Bytes { conn, .. }
        | Operation::PongFrame { conn }
        | Operation::Close { conn }
        | Operation::Timeout { conn }) = operation
        else {
            return;
        };
        let (at, index) = Node::at(*conn);
        let (shard, conns) = (&mut self.shards[at], &mut self.conns[at]);
        match operation {
            Operation::Bytes { message, .. } => shard.message(self.now, conns, index, message),
            Operation::PongFrame { .. } => shard.pong_frame(conns, index),
            Operation::Timeout { .. } => shard.timeout(self.now, conns, index),
            _ => shard.close(self.now, conns, index, None),
        }
    }

    fn take_mail(&mut self, count: usize) {
        for at in 0..self.shards.len() {
            for _ in 0..count {
                let Some(mail) = self.mail[at].pop_front() else { break };
                self.shards[at].mail(self.now, &mut self.conns[at], mail);
                self.act();
            }
        }
    }

    fn fan_out(&mut self, budget: usize) {
        for (shard, conns) in self.shards.iter_mut().zip(&mut self.conns) {
            shard.fan_out(self.now, conns, budget);
        }
    }

    fn act(&mut self) {
        for shard in &mut self.shards {
            for out in shard.out.drain(..) {
                if let Out::Mail { reactor, mail } = out {
                    self.mail[usize::from(reactor)].push_back(mail);
                }
            }
        }
    }

    /// The sessions and the hubs agree on who listens, and where.
    fn check(&self) {
        for (shard, conns) in self.shards.iter().zip(&self.conns) {
            let mut places: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
            let (mut joined, mut connected) = (0, 0);
            for session in conns.list.iter().flatten().filter_map(|it| it.session.as_ref()) {
                connected += usize::from(session.is_connected());
                for (channel, slot) in (0..session.subscriptions() as u16).filter_map(|back| session.slot(back)) {
                    joined += 1;
                    assert!(places.entry(channel).or_default().insert(slot), "two in one slot");
                }
            }
            assert!(places.values().all(|slots| slots.iter().copied().eq(0..slots.len() as u32)), "a gap");
            assert_eq!((shard.hub().subscriptions(), shard.clients()), (joined, connected));
        }
    }

    /// All clients go; nothing may be left of them.
    fn finish(&mut self) {
        for conn in 0..SHARDS as u8 * CONNS {
            self.run(&Operation::Close { conn });
        }
        while self.mail.iter().any(|mail| !mail.is_empty()) || self.shards.iter().any(Shard::has_work) {
            self.take_mail(1);
            self.fan_out(1);
            self.act();
        }
        for shard in &self.shards {
            let stats = shard.stats();
            assert!(shard.hub().is_empty() && shard.hub().waiting_bytes() == 0, "the hub is not empty");
            assert_eq!((stats.clients, stats.users, stats.channels, stats.subscriptions), (0, 0, 0, 0));
        }
    }
}

fn command(id: u32, what: &What) -> Command {
    let name = |channel: &u8| CHANNELS[usize::from(*channel) % CHANNELS.len()].to_owned();
    let mut command = Command { id, ..Command::default() };
    match what {
        What::Connect => command.connect = Some(ConnectRequest::default()),
        What::Subscribe(channel) => {
            command.subscribe = Some(SubscribeRequest { channel: name(channel), ..SubscribeRequest::default() });
        }
        What::Unsubscribe(channel) => command.unsubscribe = Some(UnsubscribeRequest { channel: name(channel) }),
        What::Publish(channel) => {
            command.publish = Some(PublishRequest { channel: name(channel), data: "2".into(), kind: 0 });
        }
        What::Refresh => command.refresh = Some(RefreshRequest { token: "no token".into() }),
    }
    command
}

fuzz_target!(|operations: Vec<Operation>| {
    let mut node = Node::new();
    for operation in operations.iter().take(200) {
        node.run(operation);
        node.check();
    }
    node.finish();
});
