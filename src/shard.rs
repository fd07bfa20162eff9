//! F4 · One reactor's part of the node, without its I/O: sessions at work on the hub and the broker's shard.
//!
//! Owns the hub, this shard of the memory broker and the list of users; carries out what sessions want ([`Effect`]) and
//! what other shards send ([`Mail`]). What is left for the reactor comes out as [`Out`], in order. Knows nothing of
//! sockets, threads or clocks: the simulator runs many shards in one thread with the same code.

use crate::broker::{self, Asker, ConnKey, Event, Memory, Request, Target};
use crate::hub::{Moved, Slot, Work, opcode};
use crate::metrics::Counters;
use crate::protocol::Encoding;
use crate::protocol::code::Disconnect;
use crate::session::{Channels, Effect, Effects, Joining, Now, Rules, Session, Sessions, Turn, Users};
use crate::wheel::TICK_MS;
use crate::ws;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;

/// What shards and the service thread send to a shard.
#[derive(Debug)]
pub enum Mail {
    /// To the owner of a channel.
    Ask(Request),
    /// From the owner of a channel.
    Event(Event),
    /// From the service thread; answered with the same ticket.
    Control { ticket: u64, control: Control },
}

/// What the backend asks of every reactor.
#[derive(Debug, Clone)]
pub enum Control {
    /// Closes the clients of a user. A client id that is given narrows it; `keep` names clients to spare.
    Disconnect { user: String, client: String, keep: Vec<String>, disconnect: Disconnect },
    /// Ends subscriptions of a user to a channel ("" = all of them).
    Unsubscribe { user: String, client: String, channel: String },
    /// Channels owned here that match.
    Channels(Option<globset::GlobMatcher>),
    /// Counts and metrics.
    Stats,
    /// A hash of each user here, the same for the same user on every reactor.
    Users,
}

/// What comes back to the service thread.
#[derive(Debug)]
pub enum Answer {
    Published,
    /// So many clients or subscriptions were met.
    Met(usize),
    Channels(Vec<(Arc<str>, u64)>),
    Stats(Box<Stats>),
    Users(Vec<u32>),
}

/// One reactor's numbers.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    pub reactor: u16,
    /// Sockets, whatever they speak.
    pub connections: usize,
    pub clients: usize,
    pub users: usize,
    pub subscriptions: usize,
    /// Channels this reactor owns.
    pub channels: usize,
    /// Bytes of publications that wait for delivery.
    pub waiting_bytes: usize,
    /// Values that wait in the mailbox.
    pub mailbox: usize,
    pub counters: Counters,
}

/// What the reactor is to do.
#[derive(Debug)]
pub enum Out {
    /// Queue a frame.
    Send {
        conn: u32,
        frame: Bytes,
    },
    /// Keep a place for the frame that comes with the same ticket.
    Hole {
        conn: u32,
        ticket: u32,
    },
    Fill {
        conn: u32,
        ticket: u32,
        frame: Bytes,
    },
    /// The session is over: send the close frame and let go.
    Close {
        conn: u32,
        disconnect: Disconnect,
    },
    Mail {
        reactor: u16,
        mail: Mail,
    },
    Answer {
        ticket: u64,
        answer: Answer,
    },
}

/// The reactor's connections, as far as a shard needs them.
pub trait Table: Sessions {
    /// The connection's key; its generation tells a late answer from a timely one.
    fn key(&self, conn: u32) -> Option<ConnKey>;
    /// Takes the session out of its connection.
    fn take(&mut self, conn: u32) -> Option<Box<Session>>;
    /// Queues a frame that many share. `alone`: the fan-out has nothing else for this connection in this turn.
    fn deliver(&mut self, conn: u32, frame: &Bytes, alone: bool);
}

pub struct Shard {
    me: u16,
    reactors: u16,
    /// Decides which reactor owns a channel; the same on all of them.
    seed: u64,
    rules: Arc<Rules>,
    hub: Channels,
    broker: Memory,
    users: Users,
    clients: usize,
    fx: Effects,
    told: Vec<(Target, Event)>,
    /// Events from this shard's own channels: handled in the same turn, with no thread between.
    local: VecDeque<Event>,
    /// Reactors whose mailboxes take no more requests; refreshed each turn.
    full: Vec<bool>,
    /// For the reactor, in order. Emptied by it after each call.
    pub out: Vec<Out>,
    pub counters: Counters,
    /// Sockets of this reactor and values in its mailbox, for its numbers; the reactor's to set.
    pub connections: usize,
    pub mailbox: usize,
}

const JSON_PING: Bytes = Bytes::from_static(b"\x81\x02{}");
const PROTOBUF_PING: Bytes = Bytes::from_static(b"\x82\x01\0");
const FRAME_PING: Bytes = Bytes::from_static(b"\x89\0");

impl Shard {
    pub fn new(me: u16, reactors: u16, seed: u64, rules: Arc<Rules>) -> Shard {
        Shard {
            me,
            reactors,
            seed,
            rules,
            hub: Channels::default(),
            broker: Memory::default(),
            users: Users::new(seed),
            clients: 0,
            fx: Effects::default(),
            told: Vec::new(),
            local: VecDeque::new(),
            full: vec![false; usize::from(reactors)],
            out: Vec::new(),
            counters: Counters::default(),
            connections: 0,
            mailbox: 0,
        }
    }

    /// A session for a client that finished its handshake. `id`: 16 random bytes.
    pub fn open(&self, now: Now, id: [u8; 16], encoding: Encoding, frame_pings: bool) -> Box<Session> {
        Box::new(Session::new(id, encoding, frame_pings, now, &self.rules))
    }

    /// Tells which reactors take no more requests. This one is full while too much waits in its own hub.
    pub fn set_full(&mut self, full: impl Iterator<Item = bool>) {
        self.full.clear();
        self.full.extend(full);
        if self.hub.waiting_bytes() > self.rules.fanout_queue_bytes_max {
            self.full[usize::from(self.me)] = true;
        }
    }

    /// Should mail wait? While true, other shards' publications stay in the mailbox, which fills and refuses.
    pub fn is_full(&self) -> bool {
        self.hub.waiting_bytes() > self.rules.fanout_queue_bytes_max
    }

    /// A whole message from a client.
    pub fn message(&mut self, now: Now, table: &mut impl Table, conn: u32, message: &[u8]) {
        let Some(encoding) = table.session(conn).map(|session| session.encoding()) else { return };
        if message == encoding.ping() {
            return self.pong(now, table, conn);
        }
        self.with(now, table, conn, |session, turn| session.handle_message(message, turn));
        self.settle_local(now, table);
    }

    fn pong(&mut self, now: Now, table: &mut impl Table, conn: u32) {
        let left = table.session(conn).and_then(|session| session.pong_left(now));
        if let (Some(left), Some(timeout)) = (left, self.rules.pong_timeout) {
            self.counters.pong.record_ms(u64::from(timeout.saturating_sub(left)) * TICK_MS);
        }
        self.with(now, table, conn, |session, turn| session.handle_pong(turn));
    }

    /// A WebSocket pong frame.
    pub fn pong_frame(&mut self, table: &mut impl Table, conn: u32) {
        if let Some(session) = table.session(conn) {
            session.handle_pong_frame();
        }
    }

    /// The session's deadline came.
    pub fn timeout(&mut self, now: Now, table: &mut impl Table, conn: u32) {
        self.with(now, table, conn, |session, turn| session.handle_timeout(turn));
    }

    /// Ends a session from outside; the client is told `disconnect` if it is still there.
    pub fn close(&mut self, now: Now, table: &mut impl Table, conn: u32, disconnect: Option<Disconnect>) {
        let Some(key) = table.key(conn) else { return };
        if table.session(conn).is_some() {
            self.detach(now, table, key);
            if let Some(disconnect) = disconnect {
                self.say_close(conn, disconnect);
            }
        }
        self.settle_local(now, table);
    }

    /// A value from another thread.
    pub fn mail(&mut self, now: Now, table: &mut impl Table, mail: Mail) {
        match mail {
            Mail::Ask(request) => self.ask(request),
            Mail::Event(event) => self.event(now, table, event),
            Mail::Control { ticket, control } => {
                let answer = self.control(now, table, control);
                self.out.push(Out::Answer { ticket, answer });
            }
        }
        self.settle_local(now, table);
    }

    /// Does the fan-out have more to do?
    pub fn has_work(&self) -> bool {
        self.hub.has_work()
    }

    /// Up to `budget` deliveries; how many it was. Joins that waited for their turn are done on the way.
    pub fn fan_out(&mut self, now: Now, table: &mut impl Table, budget: usize) -> usize {
        let mut done = 0;
        while done < budget
            && let Some(work) = self.hub.next(budget - done)
        {
            match work {
                Work::Deliver { frames, publications, slots, alone } => {
                    let mut refused = Vec::new();
                    for slot in slots {
                        match &frames[slot.encoding as usize] {
                            Some(frame) => table.deliver(slot.conn, frame, alone),
                            None => refused.push(slot.conn),
                        }
                    }
                    done += slots.len();
                    self.counters.deliveries += slots.len() as u64 * u64::from(publications);
                    for conn in refused {
                        self.close(now, table, conn, Some(Disconnect::INAPPROPRIATE_PROTOCOL));
                    }
                }
                Work::Join(joining) => self.join(now, table, joining),
            }
        }
        done
    }

    /// One call of a session, and what follows from it.
    fn with(&mut self, now: Now, table: &mut impl Table, conn: u32, call: impl FnOnce(&mut Session, &mut Turn<'_>)) {
        let (Some(key), Some(session)) = (table.key(conn), table.session(conn)) else { return };
        let encoding = session.encoding();
        self.turn(now, |turn| call(session, turn));
        self.carry_out(now, table, key, encoding);
    }

    fn turn<R>(&mut self, now: Now, call: impl FnOnce(&mut Turn<'_>) -> R) -> R {
        let Shard { hub, fx, rules, full, reactors, seed, .. } = self;
        let owner_is_full = |channel: &str| full[usize::from(broker::owner(channel, *reactors, *seed))];
        call(&mut Turn { now, rules, hub, fx, owner_is_full: &owner_is_full })
    }

    /// Does what the effects say, in order. Replies next to each other leave in one frame.
    fn carry_out(&mut self, now: Now, table: &mut impl Table, key: ConnKey, encoding: Encoding) {
        let conn = key.index;
        let mut list = std::mem::take(&mut self.fx.list);
        let (mut replies, mut closing) = (0..0, None);
        for effect in list.drain(..) {
            match effect {
                Effect::Send(range) if replies.is_empty() => replies = range,
                Effect::Send(range) => replies.end = range.end,
                Effect::Ping => {
                    let frame = if encoding == Encoding::Json { JSON_PING } else { PROTOBUF_PING };
                    self.out.push(Out::Send { conn, frame });
                }
                Effect::PingFrame => self.out.push(Out::Send { conn, frame: FRAME_PING }),
                Effect::Connected => {
                    self.users.insert(table, conn);
                    self.clients += 1;
                    self.counters.connects += 1;
                }
                Effect::Subscribe { channel, ticket } => {
                    self.send_replies(conn, encoding, &mut replies);
                    self.out.push(Out::Hole { conn, ticket });
                    let channel = self.hub.name(channel).clone();
                    self.ask(Request::Subscribe { channel, from: key, ticket });
                }
                Effect::Join { channel, back } => {
                    let slot = self.hub.join(channel, Slot { conn, back, encoding });
                    if let Some(session) = table.session(conn) {
                        session.set_slot(back, slot);
                    }
                    self.counters.subscribes += 1;
                }
                Effect::Leave { channel, slot } => self.leave(table, channel, slot),
                Effect::Publish { channel, publication, ticket } => {
                    self.counters.publications_received += 1;
                    self.send_replies(conn, encoding, &mut replies);
                    self.out.push(Out::Hole { conn, ticket });
                    self.ask(Request::Publish { channel, publication, asker: Asker::Client { conn: key, ticket } });
                }
                Effect::Close(disconnect) => {
                    closing = Some(disconnect);
                    break;
                }
            }
        }
        self.send_replies(conn, encoding, &mut replies);
        self.finish_effects(list);
        if let Some(disconnect) = closing {
            self.detach(now, table, key);
            self.say_close(conn, disconnect);
        }
    }

    /// Gives the list its room back for the next call.
    fn finish_effects(&mut self, list: Vec<Effect>) {
        for (code, count) in self.fx.refused.iter_mut().enumerate().filter(|(_, count)| **count > 0) {
            self.counters.refused[code] += u64::from(std::mem::take(count));
        }
        self.fx.clear();
        self.fx.list = list;
    }

    fn send_replies(&mut self, conn: u32, encoding: Encoding, replies: &mut std::ops::Range<usize>) {
        let range = std::mem::replace(replies, 0..0);
        if !range.is_empty() {
            let frame = self.frame(encoding, range);
            self.out.push(Out::Send { conn, frame });
        }
    }

    fn frame(&mut self, encoding: Encoding, range: std::ops::Range<usize>) -> Bytes {
        ws::frame(opcode(encoding), &self.fx.bytes[range])
    }

    fn say_close(&mut self, conn: u32, disconnect: Disconnect) {
        *self.counters.disconnects.entry(disconnect.code).or_default() += 1;
        self.out.push(Out::Close { conn, disconnect });
    }

    /// Takes the session off its connection, its subscriptions and its user.
    fn detach(&mut self, now: Now, table: &mut impl Table, key: ConnKey) {
        let Some(session) = table.session(key.index) else { return };
        if session.is_connected() {
            self.users.remove(table, key.index);
            self.clients -= 1;
        }
        let Some(mut session) = table.take(key.index) else { return };
        let encoding = session.encoding();
        self.turn(now, |turn| session.end(turn));
        self.carry_out(now, table, key, encoding);
    }

    fn leave(&mut self, table: &mut impl Table, channel: u32, slot: Option<u32>) {
        let name = self.hub.name(channel).clone();
        if let Some(slot) = slot {
            for Moved { conn, back, slot } in self.hub.leave(channel, slot) {
                if let Some(session) = table.session(conn) {
                    session.set_slot(back, slot);
                }
            }
        }
        self.ask(Request::Leave { channel: name, reactor: self.me });
    }

    /// To the channel's owner, which may be this shard.
    fn ask(&mut self, request: Request) {
        let owner = broker::owner(request.channel(), self.reactors, self.seed);
        if owner != self.me {
            return self.out.push(Out::Mail { reactor: owner, mail: Mail::Ask(request) });
        }
        let mut told = std::mem::take(&mut self.told);
        self.broker.handle(request, &mut told);
        for (target, event) in told.drain(..) {
            match target {
                Target::Reactor(reactor) if reactor != self.me => {
                    self.out.push(Out::Mail { reactor, mail: Mail::Event(event) });
                }
                Target::Reactor(_) | Target::Backend => self.local.push_back(event),
            }
        }
        self.told = told;
    }

    fn settle_local(&mut self, now: Now, table: &mut impl Table) {
        while let Some(event) = self.local.pop_front() {
            self.event(now, table, event);
        }
    }

    fn event(&mut self, now: Now, table: &mut impl Table, event: Event) {
        match event {
            Event::Publication { channel, publication } => {
                self.hub.publish(&channel, publication);
            }
            Event::Subscribed { channel, conn, ticket } => {
                // It is held since the question was asked.
                let Some(id) = self.hub.find(&channel) else { return };
                if let Some(joining) = self.hub.queue_join(id, Joining { conn, channel: id, ticket }) {
                    self.join(now, table, joining);
                }
            }
            Event::Published { asker: Asker::Backend(ticket) } => {
                self.out.push(Out::Answer { ticket, answer: Answer::Published });
            }
            Event::Published { asker: Asker::Client { conn: key, ticket } } => {
                self.answer_kept(now, table, key, ticket, |session, turn| session.handle_published(ticket, turn));
            }
        }
    }

    /// A subscription takes effect, if its client is still there.
    fn join(&mut self, now: Now, table: &mut impl Table, joining: Joining) {
        let Joining { conn: key, channel, ticket } = joining;
        let call = |session: &mut Session, turn: &mut Turn<'_>| session.handle_subscribed(channel, ticket, turn);
        if !self.answer_kept(now, table, key, ticket, call) {
            self.hub.release(channel);
        }
    }

    /// A session's call whose last effect is the reply to the command of `ticket`: it goes where its place was kept.
    /// False if the client is gone.
    fn answer_kept(
        &mut self,
        now: Now,
        table: &mut impl Table,
        key: ConnKey,
        ticket: u32,
        call: impl FnOnce(&mut Session, &mut Turn<'_>),
    ) -> bool {
        let conn = key.index;
        let session = if table.key(conn) == Some(key) { table.session(conn) } else { None };
        let Some(session) = session else { return false };
        let encoding = session.encoding();
        self.turn(now, |turn| call(session, turn));
        if let Some(Effect::Send(range)) = self.fx.list.pop() {
            let frame = self.frame(encoding, range);
            self.out.push(Out::Fill { conn, ticket, frame });
        }
        self.carry_out(now, table, key, encoding);
        true
    }

    fn control(&mut self, now: Now, table: &mut impl Table, control: Control) -> Answer {
        match control {
            Control::Disconnect { user, client, keep, disconnect } => {
                let mut clients = self.chosen(table, &user, &client);
                clients.retain(|(_, id)| !keep.contains(id));
                for (conn, _) in &clients {
                    self.close(now, table, *conn, Some(disconnect.clone()));
                }
                Answer::Met(clients.len())
            }
            Control::Unsubscribe { user, client, channel } => {
                let mut ended = 0;
                for (conn, _) in self.chosen(table, &user, &client) {
                    self.with(now, table, conn, |session, turn| {
                        ended += session.unsubscribe_by_server(&channel, turn);
                    });
                }
                self.counters.unsubscribes_by_server += ended as u64;
                Answer::Met(ended)
            }
            Control::Channels(pattern) => {
                let fits = |name: &str| pattern.as_ref().is_none_or(|pattern| pattern.is_match(name));
                let found = self.broker.channels().filter(|(name, _)| fits(name));
                Answer::Channels(found.map(|(name, clients)| (name.clone(), clients)).collect())
            }
            Control::Stats => Answer::Stats(Box::new(self.stats())),
            Control::Users => Answer::Users(self.users.hashes().collect()),
        }
    }

    fn chosen(&self, table: &mut impl Table, user: &str, client: &str) -> Vec<(u32, String)> {
        let all = self.users.clients(table, user);
        let named = all.into_iter().filter_map(|conn| Some((conn, table.session(conn)?.client())));
        named.filter(|(_, id)| client.is_empty() || id == client).collect()
    }

    /// This shard's numbers.
    pub fn stats(&self) -> Stats {
        Stats {
            reactor: self.me,
            connections: self.connections,
            clients: self.clients,
            users: self.users.len(),
            subscriptions: self.hub.subscriptions(),
            channels: self.broker.len(),
            waiting_bytes: self.hub.waiting_bytes(),
            mailbox: self.mailbox,
            counters: self.counters.clone(),
        }
    }

    /// Clients connected here.
    pub fn clients(&self) -> usize {
        self.clients
    }

    /// Channels known here and subscriptions in them: for checks.
    pub fn hub(&self) -> &Channels {
        &self.hub
    }
}
