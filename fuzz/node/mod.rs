//! Two shards without I/O, their clients, and the mail between them: what the targets drive, and what must hold.

#![allow(dead_code, unused_imports)]

pub mod client;
mod setup;

pub use setup::{CHANNELS, KEYS_AT, USERS, keys, rules, token};

use bytes::Bytes;
use client::{Client, Known};
use gannet::base::wheel::TICK_MS;
use gannet::broker::{Answer as Owned, Asker, ConnKey, Event, Keep, Query, Request, owner};
use gannet::hub::Flags;
use gannet::protocol::Encoding;
use gannet::protocol::code::{ClientError, Disconnect};
use gannet::session::backend::{Ask, Call, Said};
use gannet::session::{Now, Session, Sessions};
use gannet::shard::{Control, ControlAnswer, Mail, Out, Shard, Table};
use gannet::wire::Wire;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

pub const SHARDS: u16 = 2;
pub const CONNS: u8 = 6;
const SEED: u64 = 7;
/// The service thread, as a sender of mail.
pub const SERVICE: usize = SHARDS as usize;
/// Tickets of questions that the checks ask themselves.
const CHECK: u64 = 1000;

pub struct Conn {
    generation: u32,
    session: Option<Box<Session>>,
    pub client: Client,
    pub wire: Wire,
    /// Commands that wait until the connect command is answered.
    rest: Vec<u8>,
}

pub struct Conns {
    me: u16,
    pub list: Vec<Option<Conn>>,
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

    fn deliver(&mut self, conn: u32, frame: &Bytes, _: bool) {
        let conn = self.list[conn as usize].as_mut().filter(|conn| conn.session.is_some());
        assert!(!frame.is_empty(), "an empty delivery");
        conn.expect("a delivery to nobody").client.send(frame.clone());
    }
}

impl Conns {
    fn client(&mut self, conn: u32) -> &mut Client {
        &mut self.list[conn as usize].as_mut().expect("a connection").client
    }

    fn sessions(&self) -> impl Iterator<Item = (usize, &Conn, &Session)> {
        let conns = self.list.iter().enumerate().filter_map(|(at, conn)| Some((at, conn.as_ref()?)));
        conns.filter_map(|(at, conn)| Some((at, conn, conn.session.as_deref()?)))
    }
}

pub struct Node {
    pub now: Now,
    pub shards: Vec<Shard>,
    pub conns: Vec<Conns>,
    /// By who sends, then by who gets it.
    pub mail: Vec<Vec<VecDeque<Mail>>>,
    /// Questions that the backend has not answered.
    pub asks: Vec<Box<Call>>,
    answers: Vec<(u64, ControlAnswer)>,
    pub known: Known,
    generation: u32,
    user_limit: u32,
}

impl Node {
    pub fn new(setup: u8) -> Node {
        let rules = rules(setup);
        let user_limit = rules.user_connection_limit as u32;
        let conns = |me| Conns { me, list: (0..CONNS).map(|_| None).collect() };
        let lines = || (0..SHARDS).map(|_| VecDeque::new()).collect();
        Node {
            now: Now { tick: 1, ms: TICK_MS, unix_ms: 1_800_000_000_000 },
            shards: (0..SHARDS).map(|me| Shard::new(me, SHARDS, SEED, Arc::new([9; 32]), rules.clone())).collect(),
            conns: (0..SHARDS).map(conns).collect(),
            mail: (0..=SHARDS).map(|_| lines()).collect(),
            asks: Vec::new(),
            answers: Vec::new(),
            known: Known::new(),
            generation: 0,
            user_limit,
        }
    }

    /// A connection by its number over all shards.
    pub fn at(conn: u8) -> (usize, u32) {
        (usize::from(conn) % usize::from(SHARDS), u32::from(conn / SHARDS as u8 % CONNS))
    }

    pub fn owner(channel: &str) -> usize {
        usize::from(owner(channel, SHARDS, SEED))
    }

    pub fn open(&mut self, conn: u8, wire: Wire, frame_pings: bool) {
        let (at, index) = Node::at(conn);
        self.shards[at].close(self.now, &mut self.conns[at], index, None);
        self.act();
        self.generation += 1;
        let generation = self.generation;
        let mut id = [conn; 16];
        id[..4].copy_from_slice(&generation.to_le_bytes());
        // Streams know no frames.
        let mut session = self.shards[at].open(self.now, id, wire, frame_pings && wire.is_websocket());
        if generation.is_multiple_of(3) {
            session.set_headers("x-forwarded: 1\n".into());
        }
        self.conns[at].list[index as usize] =
            Some(Conn { generation, session: Some(session), client: Client::new(wire), wire, rest: Vec::new() });
    }

    pub fn is_open(&self, conn: u8) -> bool {
        let (at, index) = Node::at(conn);
        self.conns[at].list[index as usize].as_ref().is_some_and(|conn| conn.session.is_some())
    }

    pub fn message(&mut self, conn: u8, message: &[u8]) {
        let (at, index) = Node::at(conn);
        let Some(it) = self.conns[at].list[index as usize].as_mut() else { return };
        if !it.rest.is_empty() && it.wire.encoding() == Encoding::Json {
            it.rest.push(b'\n');
        }
        let fresh = it.rest.is_empty();
        it.rest.extend_from_slice(message);
        self.go_on(at, index, fresh);
    }

    /// Carries out the commands of a client that wait, up to one that has to wait for the connect command.
    fn go_on(&mut self, at: usize, index: u32, mut first: bool) {
        loop {
            let Some(it) = self.conns[at].list[index as usize].as_mut() else { return };
            let Some(session) = it.session.as_ref() else { return it.rest.clear() };
            if session.is_connecting() || it.rest.is_empty() && !first {
                return;
            }
            let rest = std::mem::take(&mut it.rest);
            let used = self.shards[at].command(self.now, &mut self.conns[at], index, &rest, std::mem::take(&mut first));
            if let Some(it) = self.conns[at].list[index as usize].as_mut() {
                it.rest = rest[used..].to_vec();
            }
            self.act();
        }
    }

    /// The same for all clients.
    fn all_go_on(&mut self) {
        for at in 0..self.shards.len() {
            (0..u32::from(CONNS)).for_each(|index| self.go_on(at, index, false));
        }
    }

    pub fn close(&mut self, conn: u8) {
        let (at, index) = Node::at(conn);
        self.shards[at].close(self.now, &mut self.conns[at], index, None);
        self.act();
    }

    pub fn control(&mut self, control: &Control) {
        for line in &mut self.mail[SERVICE] {
            line.push_back(Mail::Control { ticket: 1, control: Box::new(control.clone()) });
        }
    }

    /// The backend answers one of its questions: by mail, or the service thread has no room for it.
    pub fn said(&mut self, at: usize, said: Option<Said>) {
        if self.asks.is_empty() {
            return;
        }
        let call = self.asks.swap_remove(at % self.asks.len());
        let to = usize::from(call.conn.reactor);
        match said {
            Some(said) => {
                let Call { conn, ticket, ask, .. } = *call;
                let said = match (&ask, said) {
                    (_, said @ Said::Error(_)) => said,
                    // A worker says nothing else.
                    (Ask::Check(check), _) => Said::Checked(check.judge(self.shards[to].rules()).into()),
                    (_, said) => said,
                };
                self.mail[SERVICE][to].push_back(Mail::Backend { conn, ticket, ask, said });
            }
            None => self.shards[to].refuse_call(self.now, &mut self.conns[to], *call),
        }
        self.act();
        self.all_go_on();
    }

    /// Time goes on; whatever is due on the way happens at its time.
    pub fn tick(&mut self, ticks: u32) {
        let until = self.now.tick + ticks;
        while self.now.tick < until {
            let deadlines = self.conns.iter().flat_map(|conns| conns.sessions().map(|(.., s)| s.next_deadline()));
            let next = deadlines.min().unwrap_or(until).clamp(self.now.tick + 1, until);
            self.pass(u64::from(next - self.now.tick) * TICK_MS);
            for at in 0..self.shards.len() {
                for conn in 0..u32::from(CONNS) {
                    self.timeouts(at, conn);
                }
                self.shards[at].tick(self.now);
            }
        }
    }

    fn pass(&mut self, ms: u64) {
        self.now.tick += (ms / TICK_MS) as u32;
        self.now.ms += ms;
        self.now.unix_ms += ms;
    }

    fn timeouts(&mut self, at: usize, conn: u32) {
        for _ in 0..8 {
            let due = self.conns[at].session(conn).is_some_and(|session| session.next_deadline() <= self.now.tick);
            if !due {
                return;
            }
            self.shards[at].timeout(self.now, &mut self.conns[at], conn);
            self.act();
        }
        panic!("a deadline that stays");
    }

    /// Up to `count` values from each to each.
    pub fn take_mail(&mut self, from: usize, count: usize) -> bool {
        let mut any = false;
        for to in 0..self.shards.len() {
            for _ in 0..count {
                let Some(mail) = self.mail[from][to].pop_front() else { break };
                self.shards[to].mail(self.now, &mut self.conns[to], mail);
                self.act();
                any = true;
            }
        }
        self.all_go_on();
        any
    }

    /// A publication on its way to a shard finds no room: what is left of it is the news of the gap.
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

    pub fn fan_out(&mut self, budget: usize) {
        for at in 0..self.shards.len() {
            self.shards[at].fan_out(self.now, &mut self.conns[at], budget);
            self.act();
        }
    }

    /// Does what the shards want done.
    pub fn act(&mut self) {
        for (at, shard) in self.shards.iter_mut().enumerate() {
            let conns = &mut self.conns[at];
            for out in shard.out.drain(..) {
                match out {
                    Out::Send { conn, frame } => conns.client(conn).send(frame),
                    Out::Hole { conn, ticket, .. } => conns.client(conn).send_hole(ticket),
                    Out::Fill { conn, ticket, frame } => conns.client(conn).fill(ticket, frame),
                    Out::Close { conn, wire, disconnect } => {
                        assert!(conns.session(conn).is_none(), "closed, and a session still");
                        assert!((3000..5000).contains(&disconnect.code) && !wire.close(&disconnect).is_empty());
                        conns.client(conn).muddled = true;
                    }
                    Out::Mail { reactor, mail } => self.mail[at][usize::from(reactor)].push_back(mail),
                    Out::Ask(call) => self.asks.push(call),
                    Out::Answer { ticket, answer } => self.answers.push((ticket, answer)),
                    // Deadlines are looked at whenever time goes on.
                    Out::Hook(_) | Out::Gone(_) | Out::Sooner { .. } | Out::Drain { .. } | Out::Settings(_) | Out::Rejected { .. } | Out::Commands { .. } => {}
                }
            }
            for conn in conns.list.iter_mut().flatten() {
                conn.client.read(&mut self.known);
            }
        }
        if self.answers.len() > 100 {
            self.answers.clear();
        }
    }

    /// The sessions and the hubs agree on who listens, and where.
    pub fn check(&self) {
        for (shard, conns) in self.shards.iter().zip(&self.conns) {
            let mut places: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
            let (mut joined, mut connected) = (0, 0);
            for (index, conn, session) in conns.sessions() {
                connected += usize::from(session.is_connected());
                assert!(session.subscriptions() <= 3, "more subscriptions than the limit");
                for back in 0..session.subscriptions() as u16 {
                    let Some((channel, slot)) = session.slot(back) else { continue };
                    joined += 1;
                    assert!(places.entry(channel).or_default().insert(slot), "two in one slot");
                    let there = shard.hub().slot(channel, slot).expect("a slot");
                    assert_eq!(
                        (there.conn as usize, there.back, there.wire),
                        (index, back, conn.wire),
                        "another's slot"
                    );
                }
            }
            assert!(places.values().all(|slots| slots.iter().copied().eq(0..slots.len() as u32)), "a gap");
            assert_eq!((shard.hub().subscriptions(), shard.clients()), (joined, connected));
        }
    }

    /// Until nothing is under way any more: the backend refuses what it was asked, held publications leave.
    pub fn settle(&mut self) {
        for _ in 0..2 {
            for shard in &mut self.shards {
                shard.set_full([false; SHARDS as usize].into_iter());
                shard.tick(self.now);
            }
            let mut busy = true;
            while busy {
                busy = (0..=SERVICE).fold(false, |busy, from| self.take_mail(from, usize::MAX) || busy);
                while !self.asks.is_empty() {
                    self.said(0, Some(Said::Error(ClientError::Internal.into())));
                    busy = true;
                }
                while self.shards.iter().any(Shard::has_work) {
                    self.fan_out(3);
                    busy = true;
                }
            }
            // Channels that gather publications do so for less.
            self.pass(1000);
        }
    }

    /// What must hold when nothing is under way.
    pub fn check_at_rest(&mut self) {
        let mut listeners: BTreeMap<String, (u64, BTreeSet<String>)> = BTreeMap::new();
        for (shard, conns) in self.shards.iter().zip(&self.conns) {
            let mut known = BTreeSet::new();
            for (_, conn, session) in conns.sessions() {
                assert_eq!(conn.client.holes(), 0, "a reply that never came");
                for back in 0..session.subscriptions() as u16 {
                    let (channel, slot) = session.slot(back).expect("a subscription that never began");
                    known.insert(channel);
                    let (count, present) = listeners.entry(shard.hub().name(channel).to_string()).or_default();
                    *count += 1;
                    if shard.hub().slot(channel, slot).is_some_and(|slot| slot.flags.has(Flags::PRESENT)) {
                        present.insert(session.client());
                    }
                }
            }
            assert_eq!((shard.hub().len(), shard.hub().waiting_bytes()), (known.len(), 0), "channels held by nobody");
        }
        self.check_owners(&listeners);
        for channel in listeners.keys().filter(|channel| channel.starts_with("h:")) {
            let Owned::History(history) = self.ask(channel, history) else { panic!("no history") };
            for conns in &self.conns {
                for (_, conn, _) in conns.sessions() {
                    let position = conn.client.position(channel);
                    assert!(position.is_none_or(|at| at == history.0.offset), "{channel}: {position:?} of {history:?}");
                }
            }
        }
    }

    /// Owners know who listens and who is present.
    fn check_owners(&mut self, listeners: &BTreeMap<String, (u64, BTreeSet<String>)>) {
        self.answers.clear();
        self.control(&Control::Channels(None));
        self.settle();
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
        self.settle();
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
        self.settle();
        if self.user_limit > 0 {
            USERS.iter().for_each(|user| self.check_seats(user));
        }
        // Streams outlive their clients, but not for ever.
        self.pass(3_600_000);
        for shard in &mut self.shards {
            while shard.tick(self.now).is_some_and(|due| due <= self.now.ms) {}
            assert!(shard.hub().is_empty() && shard.hub().waiting_bytes() == 0, "the hub is not empty");
            let stats = shard.stats();
            assert_eq!((stats.clients, stats.users, stats.channels, stats.subscriptions), (0, 0, 0, 0));
            assert_eq!(stats.history_bytes, 0, "streams are left");
        }
    }

    /// All places of a user are free again.
    fn check_seats(&mut self, user: &str) {
        let conn = ConnKey { reactor: 0, index: u32::from(CONNS), generation: 0 };
        let at = Node::owner(user);
        let mut granted = 0;
        for _ in 0..=self.user_limit {
            let mail = Mail::TakeSeat { user: user.into(), conn, ticket: 1 };
            self.shards[at].mail(self.now, &mut self.conns[at], mail);
            granted += self.shards[at].out.drain(..).filter(is_granted).count() as u32;
        }
        assert_eq!(granted, self.user_limit, "places of {user} that nobody gave back");
    }
}

fn is_granted(out: &Out) -> bool {
    matches!(out, Out::Mail { mail: Mail::Seat { granted: true, .. }, .. })
}

fn history(channel: Arc<str>, asker: Asker) -> Request {
    let keep = Keep { size: 3, ttl_ms: 2000, meta_ttl_ms: 60_000 };
    let query = Box::new(Query { keep, since: None, limit: 0, reverse: false });
    Request::History { channel, asker, query }
}

/// A client says `message`, before its connect command and after, next to one that stays: whatever it is, nothing is
/// left of it.
pub fn hear(wire: Wire, connect: &[u8], message: &[u8]) {
    // Everything is allowed.
    let mut node = Node::new(1);
    for (conn, first) in [(0, &b""[..]), (1, connect)] {
        node.open(conn, wire, false);
        node.conns[usize::from(conn)].client(0).muddled = true;
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
