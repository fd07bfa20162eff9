//! Two reactors without I/O, their clients, and the mail between them: what the targets drive, and what must hold. All
//! but sockets and threads is the server's own, `gannet::turn` with it.

#![allow(dead_code, unused_imports)]

pub mod client;
mod desk;
pub mod line;
pub mod operations;
mod setup;
pub mod turn;

pub use setup::{CHANNELS, KEYS_AT, Setup, USERS, keys, rules, setup, tight, token};

use client::{Client, Known};
use desk::Desk;
use gannet::base::wheel::{TICK_MS, Tick};
use gannet::broker::{Answer as Owned, Asker, ConnKey, Event, Keep, Query, Request, owner};
use gannet::hub::Flags;
use gannet::protocol::Encoding;
use gannet::protocol::code::{ClientError, Disconnect};
use gannet::session::backend::{Ask, Call, Said};
use gannet::session::{Now, Session};
use gannet::shard::{Control, ControlAnswer, Mail, Shard, Table};
use gannet::turn::conns::Conn as Connection;
use gannet::turn::{Bounds, Ready, Turns};
use gannet::wire::Wire;
use gannet::ws::Deflater;
use line::Line;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// The wires that these clients read: the last two, lines and gRPC, are read by their own tests.
pub const WIRES: usize = Wire::COUNT - 2;

pub const SHARDS: u16 = 2;
pub const CONNS: u8 = 6;
const SEED: u64 = 7;
/// The service thread, as a sender of mail.
pub const SERVICE: usize = SHARDS as usize;
/// Tickets of questions that the checks ask themselves.
const CHECK: u64 = 1000;
/// Turns of one tick, or until there is no work left, at most.
const TURNS_MAX: usize = 20_000;
const NS_IN_MS: u64 = 1_000_000;

/// A client and its end of a connection.
pub struct Conn {
    key: ConnKey,
    pub line: Line,
    pub client: Client,
    pub wire: Wire,
    /// It has said what it wants: its stream has begun.
    asked: bool,
}

pub struct Node {
    pub now: Now,
    pub reactors: Vec<Turns<Desk>>,
    /// By their numbers.
    conns: Vec<Option<Conn>>,
    /// By who sends, then by who gets it.
    pub mail: Vec<Vec<VecDeque<Mail>>>,
    /// Questions that the backend has not answered.
    pub asks: Vec<Call>,
    answers: Vec<(u64, ControlAnswer)>,
    pub known: Known,
    setup: Arc<Setup>,
}

impl Node {
    pub fn new(setup: Arc<Setup>) -> Node {
        let lines = || (0..SHARDS).map(|_| VecDeque::new()).collect();
        let reactor = |me| {
            let shard = Shard::new(me, SHARDS, SEED, Arc::new([9; 32]), setup.rules.clone());
            let bounds = Bounds::of_each(&setup.config, usize::from(SHARDS));
            Turns::new(me, SHARDS, shard, Desk::new(me, SHARDS), bounds)
        };
        Node {
            now: Now { tick: 1, ms: TICK_MS, unix_ms: 1_800_000_000_000 },
            reactors: (0..SHARDS).map(reactor).collect(),
            conns: (0..SHARDS as u8 * CONNS).map(|_| None).collect(),
            mail: (0..=SHARDS).map(|_| lines()).collect(),
            asks: Vec::new(),
            answers: Vec::new(),
            known: Known::new(),
            setup,
        }
    }

    /// A connection's place among those of all reactors, and its reactor.
    pub fn at(conn: u8) -> (usize, usize) {
        let place = usize::from(conn % (SHARDS as u8 * CONNS));
        (place, place % usize::from(SHARDS))
    }

    pub fn owner(channel: &str) -> usize {
        usize::from(owner(channel, SHARDS, SEED))
    }

    pub fn conn(&mut self, conn: u8) -> Option<&mut Conn> {
        self.conns[Node::at(conn).0].as_mut()
    }

    /// The server's side of it, while it lasts.
    fn served(&self, conn: &Conn) -> Option<&Connection<Line>> {
        let conns = &self.reactors[usize::from(conn.key.reactor)].conns;
        let is_same = conns.key(conn.key.index) == Some(conn.key);
        conns.iter().find(|(index, _)| is_same && *index == conn.key.index).map(|(_, it)| it)
    }

    pub fn key(&self, conn: u8) -> Option<ConnKey> {
        let conn = self.conns[Node::at(conn).0].as_ref()?;
        self.served(conn).map(|_| conn.key)
    }

    /// The name of its session, as it was told.
    pub fn session_name(&mut self, conn: u8) -> Option<String> {
        let key = self.key(conn)?;
        let Turns { shard, conns, .. } = &mut self.reactors[usize::from(key.reactor)];
        shard.session_name(conns, key.index)
    }

    pub fn is_open(&self, conn: u8) -> bool {
        self.conns[Node::at(conn).0].as_ref().is_some_and(|conn| {
            self.served(conn).is_some_and(|it| it.session.is_some() || !conn.wire.is_websocket() && !conn.asked)
        })
    }

    /// A connection with nothing said on it.
    pub fn accept(&mut self, conn: u8, wire: Wire) {
        self.close(conn);
        let (place, at) = Node::at(conn);
        let (line, ns) = (Line::new(), self.now.ms * NS_IN_MS);
        let turns = &mut self.reactors[at];
        turns.begin(self.now, ns);
        let index = turns.accept(line.clone(), 0);
        let key = turns.conns.key(index).expect("just accepted");
        if matches!(wire, Wire::DeflatedJson | Wire::DeflatedProtobuf) {
            turns.shard.deflater = Deflater::new(&self.setup.config.websocket);
        }
        self.conns[place] = Some(Conn { key, line, client: Client::new(wire), wire, asked: false });
    }

    pub fn open(&mut self, conn: u8, wire: Wire, frame_pings: bool) {
        self.accept(conn, wire);
        if wire.is_websocket() {
            let head = upgrade(wire, frame_pings);
            self.say(conn, head.as_bytes(), usize::MAX);
            self.turn(Node::at(conn).1, Vec::new());
        }
    }

    /// Bytes of a client, in pieces.
    pub fn say(&mut self, conn: u8, bytes: &[u8], piece: usize) {
        if let Some(conn) = self.conn(conn) {
            conn.line.say(bytes, piece);
        }
    }

    /// A client takes so many bytes from now on.
    pub fn set_room(&mut self, conn: u8, bytes: usize) {
        if let Some(conn) = self.conn(conn) {
            conn.line.set_room(bytes);
        }
    }

    /// What this client says is not followed.
    pub fn muddle(&mut self, conn: u8) {
        if let Some(conn) = self.conn(conn) {
            conn.client.muddled = true;
        }
    }

    /// What is known of a connection, for a message.
    pub fn shown(&self, conn: u8) -> String {
        let conn = self.conns[Node::at(conn).0].as_ref().expect("a client");
        let it = self.served(conn).map(|it| {
            let (phase, marks, session) = (it.phase, it.marks, it.session.as_ref());
            let session =
                session.map(|session| (session.next_deadline(), session.is_connected(), session.is_connecting()));
            format!("{phase:?} {marks:?} {:?} {session:?} {:?}", it.io_due, it.partial)
        });
        format!("{:?} at {}, {it:?}", conn.wire, self.now.tick)
    }

    /// A stream of which nothing was asked.
    pub fn is_stream_to_come(&mut self, conn: u8) -> bool {
        self.conn(conn).is_some_and(|conn| !conn.wire.is_websocket() && !conn.asked)
    }

    /// A message, by whatever way the client has.
    pub fn message(&mut self, conn: u8, message: &[u8]) {
        let at = Node::at(conn).1;
        let Some(wire) = self.conn(conn).map(|conn| conn.wire) else { return };
        let mut mail = Vec::new();
        if wire.is_websocket() {
            let first = if wire.encoding() == Encoding::Json { 0x81 } else { 0x82 };
            self.say(conn, &masked(first, message), usize::MAX);
        } else if !std::mem::replace(&mut self.conn(conn).expect("a client").asked, true) {
            self.reactors[at].host.said = message.to_vec();
            let head = format!("GET {} HTTP/1.1\r\nHost: h\r\n\r\n", desk::path(wire, false));
            self.say(conn, head.as_bytes(), usize::MAX);
        } else if wire.is_emulated()
            && let (Some(key), Some(session)) = (self.key(conn), self.session_name(conn))
        {
            mail.push(Mail::Commands { conn: key, session: session.into(), message: message.to_vec().into() });
        }
        self.turn(at, mail);
    }

    /// The connection breaks; what it said before that is carried out first, within its budget.
    pub fn close(&mut self, conn: u8) {
        if let Some(it) = self.conn(conn) {
            it.line.reset();
            self.turn(Node::at(conn).1, Vec::new());
        }
        for _ in 0..TURNS_MAX {
            if self.key(conn).is_none() {
                return;
            }
            self.turn(Node::at(conn).1, Vec::new());
        }
        panic!("a broken connection that stays: {}", self.shown(conn));
    }

    pub fn control(&mut self, control: &Control) {
        for line in &mut self.mail[SERVICE] {
            line.push_back(Mail::Control { ticket: 1, control: Box::new(control.clone()) });
        }
    }

    /// Which reactors take no more.
    pub fn set_full(&mut self, full: [bool; SHARDS as usize]) {
        self.reactors.iter_mut().for_each(|turns| turns.host.full = full.to_vec());
    }

    /// The backend answers one of its questions: by mail, or the service thread has no room for the next.
    pub fn said(&mut self, at: usize, said: Option<Said>) {
        let Some(said) = said else {
            return self.reactors.iter_mut().for_each(|turns| turns.host.refuses = true);
        };
        if self.asks.is_empty() {
            return;
        }
        let Call { conn, ticket, ask, .. } = self.asks.swap_remove(at % self.asks.len());
        let to = usize::from(conn.reactor);
        let said = match (&ask, said) {
            (_, said @ Said::Error(_)) => said,
            // A worker says nothing else.
            (Ask::Check(check), _) => Said::Checked(check.judge(self.reactors[to].shard.rules()).into()),
            (_, said) => said,
        };
        self.mail[SERVICE][to].push_back(Mail::Backend { conn, ticket, ask, said });
    }

    /// A turn of one reactor, if there is anything for it.
    pub fn turn(&mut self, at: usize, mut mail: Vec<Mail>) {
        let own: Vec<usize> = (0..self.conns.len()).filter(|place| Node::at(*place as u8).1 == at).collect();
        let mut ready = Vec::new();
        let mut before = Vec::new();
        for place in &own {
            let Some(conn) = self.conns[*place].as_ref() else { continue };
            if let Some(it) = self.served(conn) {
                let waiting = self.reactors[at].conns.waiting(conn.key.index) as u64;
                let subscribed = it.session.as_ref().is_some_and(|session| session.subscriptions() > 0);
                before.push((*place, conn.line.reads(), conn.line.written_ever() + waiting, subscribed));
                ready.extend(conn.line.poll(conn.key.index));
            }
        }
        let quiet = mail.is_empty() && self.reactors[at].mail_waiting() == 0;
        let turns = &mut self.reactors[at];
        turns.begin(self.now, self.now.ms * NS_IN_MS);
        turns.run(ready.into_iter(), &mut mail);
        for (to, mail) in std::mem::take(&mut turns.host.sent) {
            self.mail[at][usize::from(to)].extend(mail);
        }
        self.asks.append(&mut turns.host.asks);
        self.answers.append(&mut turns.host.answers);
        if self.answers.len() > 100 {
            self.answers.clear();
        }
        for place in own {
            if let Some(conn) = self.conns[place].as_mut() {
                conn.client.read(&conn.line.take_written(), &mut self.known);
            }
        }
        self.check_turn(at, quiet, before);
    }

    /// What one turn may do.
    fn check_turn(&self, at: usize, quiet: bool, before: Vec<(usize, usize, u64, bool)>) {
        let (turns, config) = (&self.reactors[at], &self.setup.config);
        for (place, reads, sent, subscribed) in before {
            let conn = self.conns[place].as_ref().expect("it was there");
            assert!(conn.line.reads() <= reads + 1, "{} reads in a turn", conn.line.reads() - reads);
            let caused = conn.line.written_ever() + turns.conns.waiting(conn.key.index) as u64;
            let most = (config.reactor.reply_budget + STEP_MAX) as u64;
            if self.served(conn).is_some() && quiet && !subscribed {
                assert!(caused.saturating_sub(sent) <= most, "{} bytes in a turn", caused - sent);
            }
        }
        let (mut held, mut output) = (0, 0);
        for (index, it) in turns.conns.iter() {
            let size = turns.conns.output_of(index);
            let most = config.client.queue_max_size;
            assert!(size <= most || !it.phase.is_open(), "{size} wait, of {most}");
            held += it.partial.as_ref().map_or(0, |it| it.tail.len() + it.message.len() + it.rest.len());
            output += size;
        }
        assert_eq!((turns.conns.held_bytes(), turns.conns.output_bytes()), (held, output), "held, and waiting");
        assert!(held <= config.reactor.held_input_size + 2 * gannet::turn::READ_SIZE, "{held} bytes are held");
        let queued: BTreeSet<u32> = turns.conns.queued().iter().copied().collect();
        assert_eq!(queued.len(), turns.conns.queued().len(), "it stands in the line twice");
    }

    /// Time goes on; whatever is due on the way happens at its time.
    pub fn tick(&mut self, ticks: Tick) {
        let until = self.now.tick + ticks;
        while self.now.tick < until {
            let due = self.reactors.iter_mut().filter_map(Turns::next_tick).min().unwrap_or(until);
            let next = due.clamp(self.now.tick + 1, until);
            self.pass(u64::from(next - self.now.tick) * TICK_MS);
            (0..self.reactors.len()).for_each(|at| self.meet_deadlines(at));
        }
    }

    fn pass(&mut self, ms: u64) {
        self.now.tick += (ms / TICK_MS) as Tick;
        self.now.ms += ms;
        self.now.unix_ms += ms;
    }

    fn meet_deadlines(&mut self, at: usize) {
        for _ in 0..TURNS_MAX {
            self.turn(at, Vec::new());
            if self.reactors[at].next_tick().is_none_or(|due| due > self.now.tick) {
                return;
            }
        }
        panic!("a deadline that stays");
    }

    /// Up to `count` values from each to each.
    pub fn take_mail(&mut self, from: usize, count: usize) -> bool {
        let mut any = false;
        for to in 0..self.reactors.len() {
            let line = &mut self.mail[from][to];
            let mail: Vec<Mail> = line.drain(..count.min(line.len())).collect();
            if !mail.is_empty() {
                any = true;
                self.turn(to, mail);
            }
        }
        any
    }

    /// A publication on its way to a reactor finds no room: what is left of it is the news of the gap.
    pub fn lose(&mut self, from: usize) {
        let lost = self.mail[from].iter_mut().flatten().find_map(|mail| match mail {
            Mail::Event(event @ Event::Publication { .. }) => Some(event),
            _ => None,
        });
        if let Some(event) = lost
            && let Event::Publication { channel, .. } = event
        {
            *event = Event::Gap { channel: channel.clone() };
        }
    }

    /// So many turns of those that have work.
    pub fn work(&mut self, turns: usize) -> bool {
        let mut any = false;
        for _ in 0..turns {
            for at in 0..self.reactors.len() {
                let busy = |conn: &Conn| usize::from(conn.key.reactor) == at && conn.line.is_busy();
                let busy = self.conns.iter().flatten().any(|conn| busy(conn) && self.served(conn).is_some());
                if busy || self.reactors[at].has_work() {
                    any = true;
                    self.turn(at, Vec::new());
                }
            }
        }
        any
    }

    /// The clients with their sessions.
    fn sessions(&self) -> impl Iterator<Item = (&Conn, &Session)> {
        let conns = self.conns.iter().flatten();
        conns.filter_map(|conn| Some((conn, self.served(conn)?.session.as_deref()?)))
    }

    /// The sessions and the hubs agree on who listens, and where.
    pub fn check(&self) {
        for (at, turns) in self.reactors.iter().enumerate() {
            let shard = &turns.shard;
            let mut places: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
            let (mut joined, mut connected) = (0, 0);
            for (conn, session) in self.sessions().filter(|(conn, _)| usize::from(conn.key.reactor) == at) {
                connected += usize::from(session.is_connected());
                assert!(session.subscriptions() <= 3, "more subscriptions than the limit");
                for back in 0..session.subscriptions() as u16 {
                    let Some((channel, slot)) = session.slot(back) else { continue };
                    joined += 1;
                    assert!(places.entry(channel).or_default().insert(slot), "two in one slot");
                    let there = shard.hub().slot(channel, slot).expect("a slot");
                    assert_eq!((there.conn, there.back), (conn.key.index, back), "another's slot");
                    assert_eq!(there.wire, session.wire(), "another's wire");
                }
            }
            assert!(places.values().all(|slots| slots.iter().copied().eq(0..slots.len() as u32)), "a gap");
            assert_eq!((shard.hub().subscriptions(), shard.clients()), (joined, connected));
        }
    }

    /// Until nothing is under way any more: the backend refuses what it was asked, held publications leave.
    pub fn settle(&mut self) {
        self.set_full([false; SHARDS as usize]);
        for _ in 0..2 {
            self.calm_down();
            // Channels that gather publications do so for less, and so do clients.
            self.pass(4 * TICK_MS);
            (0..self.reactors.len()).for_each(|at| self.meet_deadlines(at));
        }
        self.calm_down();
    }

    /// The same, and no time passes.
    fn calm_down(&mut self) {
        for _ in 0..TURNS_MAX {
            let mut busy = (0..=SERVICE).filter(|from| self.take_mail(*from, usize::MAX)).count() > 0;
            while !self.asks.is_empty() {
                self.said(0, Some(Said::Error(ClientError::Internal.into())));
                busy = true;
            }
            if !self.work(1) && !busy {
                return;
            }
        }
        panic!("no rest");
    }

    /// What must hold when nothing is under way.
    pub fn check_at_rest(&mut self) {
        let mut listeners: BTreeMap<String, (u64, BTreeSet<String>)> = BTreeMap::new();
        for (at, turns) in self.reactors.iter().enumerate() {
            let mut known = BTreeSet::new();
            for (conn, session) in self.sessions().filter(|(conn, _)| usize::from(conn.key.reactor) == at) {
                assert!(!turns.conns.has_outbox(conn.key.index), "a reply that never came");
                for back in 0..session.subscriptions() as u16 {
                    let (channel, slot) = session.slot(back).expect("a subscription that never began");
                    known.insert(channel);
                    let (count, present) = listeners.entry(turns.shard.hub().name(channel).to_string()).or_default();
                    *count += 1;
                    if turns.shard.hub().slot(channel, slot).is_some_and(|slot| slot.flags.has(Flags::PRESENT)) {
                        present.insert(session.client());
                    }
                }
            }
            let hub = turns.shard.hub();
            assert_eq!((hub.len(), hub.waiting_bytes()), (known.len(), 0), "channels held by nobody");
        }
        self.check_owners(&listeners);
        for channel in listeners.keys().filter(|channel| channel.starts_with("h:")) {
            let Owned::History(history) = self.ask(channel, history) else { panic!("no history") };
            for (conn, _) in self.sessions() {
                let position = conn.client.position(channel);
                assert!(position.is_none_or(|at| at == history.0.offset), "{channel}: {position:?} of {history:?}");
            }
        }
    }

    /// Owners know who listens and who is present.
    fn check_owners(&mut self, listeners: &BTreeMap<String, (u64, BTreeSet<String>)>) {
        self.answers.clear();
        self.control(&Control::Channels(None));
        self.calm_down();
        let mut owned: BTreeMap<String, u64> = BTreeMap::new();
        for (_, answer) in std::mem::take(&mut self.answers) {
            if let ControlAnswer::Channels(channels) = answer {
                owned.extend(channels.into_iter().map(|(name, count)| (name.to_string(), count)));
            }
        }
        assert_eq!(owned, listeners.iter().map(|(name, (count, _))| (name.clone(), *count)).collect(), "listeners");
        for name in CHANNELS {
            let Owned::Presence(list) = self.ask(name, |channel, asker| Request::Presence { channel, asker }) else {
                panic!("no presence");
            };
            let there: BTreeSet<String> = list.into_iter().map(|info| info.client).collect();
            let expected = listeners.get(name).map(|(_, present)| present.clone()).unwrap_or_default();
            assert_eq!(there, expected, "who is present in {name}");
        }
    }

    /// Asks a channel's owner as the backend does.
    fn ask(&mut self, channel: &str, request: impl Fn(Arc<str>, Asker) -> Request) -> Owned {
        self.answers.clear();
        let request = request(channel.into(), Asker::Backend(CHECK));
        self.mail[SERVICE][Node::owner(channel)].push_back(Mail::Ask(request));
        self.calm_down();
        let answers = std::mem::take(&mut self.answers).into_iter();
        let mut found = answers.filter_map(|(ticket, answer)| match answer {
            ControlAnswer::Owner(answer) if ticket == CHECK => Some(answer),
            _ => None,
        });
        found.next().expect("an answer")
    }

    /// Everything comes to rest, all clients go, and nothing may be left of them.
    pub fn finish(&mut self) {
        self.settle();
        self.check();
        self.check_at_rest();
        for conn in 0..SHARDS as u8 * CONNS {
            self.close(conn);
            self.check();
        }
        self.leave_nothing();
    }

    /// All clients are gone.
    pub fn leave_nothing(&mut self) {
        self.settle();
        if self.setup.rules.user_connection_limit > 0 {
            USERS.iter().for_each(|user| self.check_seats(user));
        }
        // Streams outlive their clients, but not for ever.
        self.pass(3_600_000);
        for at in 0..self.reactors.len() {
            self.meet_deadlines(at);
            while self.reactors[at].wake_at().is_some_and(|due| due <= self.now.ms) {
                self.turn(at, Vec::new());
            }
            let Turns { shard, conns, .. } = &self.reactors[at];
            assert!(shard.hub().is_empty() && shard.hub().waiting_bytes() == 0, "the hub is not empty");
            let stats = shard.stats();
            assert_eq!((stats.clients, stats.users, stats.channels, stats.subscriptions), (0, 0, 0, 0));
            assert_eq!(stats.history_bytes, 0, "streams are left");
            assert_eq!((conns.len(), conns.held_bytes(), conns.output_bytes()), (0, 0, 0), "connections are left");
        }
    }

    /// All places of a user are free again.
    fn check_seats(&mut self, user: &str) {
        // Nobody is there, and nobody hears the answer but this.
        let conn = ConnKey { reactor: 0, index: 1000, generation: 0 };
        let (at, limit) = (Node::owner(user), self.setup.rules.user_connection_limit);
        self.mail.iter_mut().flatten().for_each(VecDeque::clear);
        let ask = || Mail::TakeSeat { user: user.into(), conn, ticket: 1 };
        self.turn(at, (0..=limit).map(|_| ask()).collect());
        let granted = self.mail.iter().flatten().flatten().filter(|mail| is_granted(mail)).count();
        // Mail of a reactor to itself is carried out in its turn.
        if at != 0 {
            assert_eq!(granted, limit, "places of {user} that nobody gave back");
        }
        self.mail.iter_mut().flatten().for_each(VecDeque::clear);
    }
}

/// Bytes that one step more may come to: one reply.
const STEP_MAX: usize = 16 * 1024;

fn is_granted(mail: &Mail) -> bool {
    matches!(mail, Mail::Seat { granted: true, .. })
}

fn history(channel: Arc<str>, asker: Asker) -> Request {
    let keep = Keep { size: 3, ttl_ms: 2000, meta_ttl_ms: 60_000 };
    let query = Box::new(Query { keep, since: None, limit: 0, reverse: false });
    Request::History { channel, asker, query }
}

/// The request of a WebSocket on a wire, which offers compression.
pub fn upgrade(wire: Wire, frame_pings: bool) -> String {
    format!(
        "GET {} HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
        desk::path(wire, frame_pings)
    )
}

/// A masked frame with the key 0, under which a payload is its own mask.
pub fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..126 => bytes.push(0x80 | len as u8),
        len @ 126..65_536 => {
            bytes.push(0x80 | 126);
            bytes.extend((len as u16).to_be_bytes());
        }
        len => {
            bytes.push(0x80 | 127);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes.extend_from_slice(payload);
    bytes
}

/// A client says `message`, before its connect command and after, next to one that stays: whatever it is, nothing is
/// left of it.
pub fn hear(wire: Wire, connect: &[u8], message: &[u8]) {
    // Everything is allowed.
    let mut node = Node::new(setup(1));
    for (conn, first) in [(0, &b""[..]), (1, connect)] {
        node.open(conn, wire, false);
        node.conn(conn).expect("a client").client.muddled = true;
        if !first.is_empty() {
            node.message(conn, first);
        }
        if node.is_open(conn) {
            node.message(conn, message);
        }
        node.check();
    }
    node.settle();
    node.tick(30);
    node.finish();
}

/// Ends clients as the backend does.
pub fn disconnect(code: u16) -> Disconnect {
    Disconnect { code: 3000 + code % 2000, reason: "as the backend wants it".into() }
}
