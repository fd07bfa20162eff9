//! F7 · One reactor's part of the node, without its I/O: sessions at work on the hub and the broker's shard.
//!
//! Owns the hub, this shard of the memory broker and the list of users; carries out what sessions want ([`Effect`]) and
//! what other shards send ([`Mail`]). What is left for the reactor comes out as [`Out`], in order. Knows nothing of
//! sockets, threads or clocks: the simulator runs many shards in one thread with the same code.

mod carry;
mod control;
mod inbox;
mod name;
mod slices;
#[cfg(test)]
mod tests;
mod trace;

pub use control::{Chosen, ClientFacts, ClientSearch, Control, ControlAnswer, InboxCall, Stats};
pub use name::{Secret, name_of, place_of};
pub use trace::{TraceFound, TraceLimits, TraceMessage, TraceRequest, Traced};

use crate::auth::{Cache, Jwks};
use crate::base::metrics::Counters;
use crate::base::wheel::TICK_MS;
use crate::broker::archive::{ArchiveCall, Archived};
use crate::broker::engine::{Engine, EngineCall, Heard};
use crate::broker::log::LogCall;
use crate::broker::{self, Answer, Arrived, Asker, ConnKey, Event, Owner, OwnerLimits, Request, Target};
use crate::hub::{ChannelEvent, Delivery, Flags, Work};
use crate::protocol::code::{ClientError, Disconnect};
use crate::session::backend::{Ask, Call, Hook, Said, StreamNews};
use crate::session::{
    Arrivals, Channels, Effects, HttpAnswer, Joining, Now, Rules, Session, Sessions, Settings, Tokens, Turn, Users,
};
use crate::wire::Wire;
use crate::ws::Deflater;
use bytes::Bytes;
use compact_str::CompactString;
use foldhash::quality::RandomState;
use hashbrown::{HashMap, HashSet};
use std::collections::VecDeque;
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// What shards and the service thread send to a shard.
#[derive(Debug)]
pub enum Mail {
    /// To the owner of a channel.
    Ask(Request),
    /// From the owner of a channel.
    Event(Event),
    /// From an engine, to the owner of a channel.
    Engine(Heard),
    /// From the archive, to the owner of a channel.
    Archived(Archived),
    /// The node is about to end: call nothing more of the archive, and accept nothing that is to be archived.
    EndArchive,
    /// From the service thread; answered with the same ticket.
    Control { ticket: u64, control: Box<Control> },
    /// From the backend, or with keys of tokens: the question and its answer.
    Backend { conn: ConnKey, ticket: u32, ask: Ask, said: Said },
    /// What came by a subscription stream of this client.
    Stream { conn: ConnKey, stream: u64, news: StreamNews },
    /// Keys of tokens that were fetched anew.
    Keys(Arc<Jwks>),
    /// Commands of a client that came by another request.
    Commands { conn: ConnKey, session: Box<str>, message: Bytes },
    /// To the reactor that counts the connections of `user`: one more wants to be.
    TakeSeat { user: CompactString, conn: ConnKey, ticket: u32 },
    /// Whether it may.
    Seat { conn: ConnKey, ticket: u32, user: CompactString, granted: bool },
    /// One less.
    LeaveSeat { user: CompactString },
    /// To an owner of channels: this client is gone, and waits no more for lists of who is present.
    Unlist { conn: ConnKey },
    /// To the same reactor: `conn` is to be the user's only one. It puts those that want that in an order.
    BeOnlyOne { user: CompactString, conn: ConnKey },
    /// This user may have one connection only, and it is `keep`, unless one that came later is about to be told here.
    CloseOthers { user: CompactString, keep: ConnKey },
    /// To an owner of channels: what has arrived at clients.
    Arrived(Box<[Arrived]>),
    /// Take no more connections and let the clients go, spread over `shutdown.spread`. Channels are owned to the end:
    /// other reactors may still have clients in them. `at_once`: without the spread, and though it has begun already.
    Drain { at_once: bool },
    /// Serve by these from now on.
    Settings(Arc<Settings>),
}

/// What the reactor is to do.
#[derive(Debug)]
pub enum Out {
    /// Queue a frame.
    Send {
        conn: u32,
        frame: Bytes,
    },
    /// Keep a place for the frame that comes with the same ticket. `large`: the frame may hold much.
    Hole {
        conn: u32,
        ticket: u32,
        large: bool,
    },
    Fill {
        conn: u32,
        ticket: u32,
        frame: Bytes,
    },
    /// The session is over: send the close frame and let go; or the `answer`, if the response has not begun.
    /// `unconnected`: the reply to its connect command is owed, so nothing that stands behind it may leave.
    Close {
        conn: u32,
        wire: Wire,
        disconnect: Disconnect,
        answer: Option<Box<HttpAnswer>>,
        unconnected: bool,
    },
    /// Commands of the client that came by another request: they follow those that it sent before.
    Commands {
        conn: u32,
        message: Bytes,
    },
    /// The session wants to be asked sooner than it said: look at [`Session::next_deadline`] again.
    Sooner {
        conn: u32,
    },
    Mail {
        reactor: u16,
        mail: Mail,
    },
    Answer {
        ticket: u64,
        answer: ControlAnswer,
    },
    /// A question for the service thread or a worker; if it takes no more, [`Shard::refuse_call`].
    Ask(Box<Call>),
    /// The session is over: nobody waits for answers to it.
    Gone(ConnKey),
    Hook(Hook),
    /// For an engine, by which others share this shard's channels.
    Engine {
        engine: Engine,
        call: EngineCall,
    },
    /// For the log of publications.
    Log(LogCall),
    /// For the archive.
    Archive(ArchiveCall),
    /// There will be no more for the archive.
    ArchiveEnded,
    /// A client showed no good credentials; for the log.
    Rejected {
        conn: u32,
        user: CompactString,
        cause: &'static str,
    },
    /// Begin to leave, or be quick about it.
    Drain {
        at_once: bool,
    },
    /// Serve by these from now on.
    Settings(Arc<Settings>),
}

/// The reactor's connections, as far as a shard needs them.
pub trait Table: Sessions {
    /// The connection's key; its generation tells a late answer from a timely one.
    fn key(&self, conn: u32) -> Option<ConnKey>;
    /// Takes the session out of its connection.
    fn take(&mut self, conn: u32) -> Option<Box<Session>>;
    /// Looks at connections that [`Table::deliver`] is about to be called for.
    fn approach(&self, _conns: impl Iterator<Item = u32>) {}
    /// Queues a frame that many share. `alone`: the fan-out has nothing else for this connection in this turn.
    fn deliver(&mut self, conn: u32, frame: &Bytes, alone: bool);
    /// Connections have numbers below this.
    fn bound(&self) -> u32 {
        0
    }
    /// Bytes that wait for a connection.
    fn owed(&self, _conn: u32) -> usize {
        0
    }
    /// What an operator is told of a connection beside its session.
    fn facts(&self, _conn: u32, _now: Now) -> ConnFacts {
        ConnFacts::default()
    }
}

/// A connection as an operator sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConnFacts {
    /// Its address; "" = nobody knows.
    pub peer: String,
    /// Bytes that wait for it.
    pub waiting: usize,
    /// Since it came, to the minute.
    pub minutes: u16,
}

pub struct Shard {
    me: u16,
    reactors: u16,
    /// Decides which reactor owns a channel; the same on all of them.
    seed: u64,
    rules: Arc<Rules>,
    hub: Channels,
    broker: Owner,
    users: Users,
    clients: usize,
    fx: Effects,
    told: Vec<(Target, Event)>,
    /// Events from this shard's own channels: handled in the same turn, with no thread between.
    local: VecDeque<Event>,
    /// Reactors whose mailboxes take no more requests; refreshed each turn.
    full: Vec<bool>,
    tokens: Tokens,
    /// Connections of each user that is counted here.
    seats: HashMap<CompactString, u32, RandomState>,
    /// Clients here that want to be their user's only one, and have not been put in an order yet.
    only_ones: HashSet<ConnKey, RandomState>,
    /// Work over very many clients or channels that is under way.
    slow: VecDeque<slices::Slow>,
    /// Who is present in large channels, as it is gathered.
    lists: VecDeque<slices::PresentList>,
    /// Clients here that asked other reactors for such lists.
    list_askers: slices::ListAskers,
    /// What clients were sent and have not proven to have.
    arrivals: Arrivals,
    /// What operators watch.
    traces: trace::Traces,
    secret: Arc<Secret>,
    /// Bytes of publications and clients in the answers that this shard gave as an owner.
    pub answered_bytes: u64,
    /// Bytes of publications to which deltas were searched for clients that recover, and what their acknowledgements
    /// count for.
    pub searched_bytes: u64,
    /// For the reactor, in order. Emptied by it after each call.
    pub out: Vec<Out>,
    pub counters: Counters,
    /// Compresses what goes by wires that are for it; off until the reactor sets it.
    pub deflater: Deflater,
    /// Sockets of this reactor and values in its mailbox, for its numbers; the reactor's to set.
    pub connections: usize,
    pub mailbox: usize,
    /// Other nodes are there to be told of clients that came; the server sets it.
    pub has_fleet: bool,
    /// The log of publications takes no more: who is to wait for it is refused. Refreshed each turn.
    pub log_is_full: bool,
}

const FRAME_PING: Bytes = Bytes::from_static(b"\x89\0");

impl Shard {
    /// `seed` is the node's; `secret` makes the names by which clients without a socket of their own are found.
    pub fn new(me: u16, reactors: u16, seed: u64, secret: Arc<Secret>, rules: Arc<Rules>) -> Shard {
        let own_seed = seed ^ u64::from(me).rotate_left(32);
        let (engine, inbox) = (rules.engine_limits, rules.inboxes.limits);
        let limits = OwnerLimits { memory: rules.broker, engine, inbox, durable: rules.durable_limits };
        let broker = Owner::new(own_seed, limits, rules.hooks);
        let hub_bytes = rules.fanout_queue_bytes_max;
        let cache = Cache::new(rules.token_cache_size, rules.bad_token_cache_size);
        let tokens = Tokens { cache, ..Tokens::default() };
        Shard {
            me,
            reactors,
            seed,
            rules,
            hub: Channels::with_room(hub_bytes),
            broker,
            users: Users::new(seed),
            clients: 0,
            fx: Effects::default(),
            told: Vec::new(),
            local: VecDeque::new(),
            full: vec![false; usize::from(reactors)],
            tokens,
            seats: HashMap::default(),
            only_ones: HashSet::default(),
            slow: VecDeque::new(),
            lists: VecDeque::new(),
            list_askers: slices::ListAskers::default(),
            arrivals: Arrivals::default(),
            traces: trace::Traces::default(),
            secret,
            answered_bytes: 0,
            searched_bytes: 0,
            out: Vec::new(),
            counters: Counters::default(),
            deflater: Deflater::default(),
            connections: 0,
            mailbox: 0,
            has_fleet: false,
            log_is_full: false,
        }
    }

    /// A session for a client that finished its handshake. `id`: 16 random bytes.
    pub fn open(&self, now: Now, id: [u8; 16], wire: Wire, frame_pings: bool) -> Box<Session> {
        Box::new(Session::new(id, wire, frame_pings, now, &self.rules))
    }

    /// Tells which reactors take no more requests. This one is full while too much waits in its own hub.
    pub fn set_full(&mut self, full: impl Iterator<Item = bool>) {
        self.full.clear();
        self.full.extend(full);
        if self.hub.waiting_bytes() > self.rules.fanout_queue_bytes_max {
            self.full[usize::from(self.me)] = true;
        }
    }

    /// Bytes that may still wait for the archive; refreshed each turn.
    pub fn set_archive_room(&mut self, bytes: usize) {
        self.broker.durable.set_room(bytes);
    }

    /// Should mail wait? While true, other shards' publications stay in the mailbox, which fills and refuses.
    pub fn is_full(&self) -> bool {
        self.hub.waiting_bytes() > self.rules.fanout_queue_bytes_max
    }

    /// The next command of a client's message; bytes used of it, all if there is no other command behind. `first`: the
    /// message begins here. Not to be called while the session is connecting.
    pub fn command(&mut self, now: Now, table: &mut impl Table, conn: u32, message: &[u8], first: bool) -> usize {
        let Some(wire) = table.session(conn).map(|session| session.wire()) else { return message.len() };
        if first && !wire.is_uni() && message == wire.encoding().ping() {
            self.pong(now, table, conn);
            return message.len();
        }
        let mut used = message.len();
        let before = self.watched(now, table, conn);
        self.with(now, table, conn, |session, turn| used = session.handle_command(message, first, turn));
        self.settle_local(now, table);
        if !self.traces.is_empty() {
            self.trace_command(table, (conn, wire), before, &message[..used]);
        }
        used
    }

    /// Signatures that were checked here since the last call.
    pub fn take_checks(&mut self) -> u64 {
        u64::from(self.tokens.take_checks())
    }

    pub fn rules(&self) -> &Rules {
        &self.rules
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
        if let Some(session) = table.session(conn)
            && session.handle_pong_frame()
        {
            self.arrivals.ponged(conn);
        }
    }

    /// The session's deadline came.
    pub fn timeout(&mut self, now: Now, table: &mut impl Table, conn: u32) {
        self.with(now, table, conn, |session, turn| session.handle_timeout(turn));
    }

    /// Ends a session from outside; the client is told `disconnect` if it is still there.
    pub fn close(&mut self, now: Now, table: &mut impl Table, conn: u32, disconnect: Option<Disconnect>) {
        let Some(key) = table.key(conn) else { return };
        if let Some(wire) = table.session(conn).map(|session| session.wire()) {
            let code = disconnect.as_ref().map_or(0, |disconnect| disconnect.code);
            let text = disconnect.as_ref().map_or("", |disconnect| &disconnect.reason);
            let ending = self.ending(table, conn, code.into(), text);
            self.detach(now, table, key, code);
            if let Some(disconnect) = disconnect {
                self.say_close(conn, wire, disconnect, ending);
            }
        }
        self.settle_local(now, table);
    }

    /// A value from another thread.
    pub fn mail(&mut self, now: Now, table: &mut impl Table, mail: Mail) {
        self.traces.at(now);
        match mail {
            Mail::Ask(request) => self.ask(now, request),
            Mail::Event(event) => self.event(now, table, event),
            Mail::Engine(heard) => self.with_owner(|owner, told| owner.hear(now.ms, heard, told)),
            Mail::Archived(archived) => self.archived(now, archived),
            Mail::EndArchive => {
                self.with_owner(|owner, _| owner.durable.end());
                self.out.push(Out::ArchiveEnded);
            }
            Mail::Control { ticket, control } => {
                self.control(now, table, ticket, *control);
            }
            Mail::Backend { conn, ticket, ask, said } => self.said(now, table, conn, ticket, ask, said),
            Mail::Stream { conn, stream, news } => {
                self.with_key(now, table, conn, |session, turn| session.handle_stream(stream, news, turn));
            }
            Mail::Keys(jwks) => self.tokens.jwks = jwks,
            Mail::Commands { conn, session, message } => {
                let emulated = table.session(conn.index).is_some_and(|session| session.wire().is_emulated());
                let is_its = |name: String| bool::from(name.as_bytes().ct_eq(session.as_bytes()));
                let named = emulated && self.session_name(table, conn.index).is_some_and(is_its);
                match named && table.key(conn.index) == Some(conn) {
                    true => {
                        self.counters.messages_received += 1;
                        self.out.push(Out::Commands { conn: conn.index, message });
                    }
                    false => self.counters.commands_astray += 1,
                }
            }
            Mail::TakeSeat { user, conn, ticket } => {
                let count = self.seats.entry(user.clone()).or_default();
                let granted = (*count as usize) < self.rules.user_connection_limit;
                *count += u32::from(granted);
                self.out.push(Out::Mail { reactor: conn.reactor, mail: Mail::Seat { conn, ticket, user, granted } });
            }
            Mail::Seat { conn, ticket, user, granted } => self.seat(now, table, conn, ticket, user, granted),
            Mail::LeaveSeat { user } => self.leave_seat(user),
            Mail::Arrived(all) => all.iter().for_each(|arrived| self.arrived(now, arrived)),
            Mail::Unlist { conn } => self.forget_lists(conn),
            Mail::Drain { at_once } => self.out.push(Out::Drain { at_once }),
            Mail::Settings(settings) => {
                self.rules = settings.rules.clone();
                self.broker.memory.set_history_limit(self.rules.broker.history_bytes);
                self.broker.remote.set_limits(self.rules.engine_limits);
                self.broker.set_inbox_limits(self.rules.inboxes.limits);
                self.broker.durable.set_limits(self.rules.durable_limits);
                self.out.push(Out::Settings(settings));
            }
            Mail::BeOnlyOne { user, conn } => {
                for reactor in 0..self.reactors {
                    let mail = Mail::CloseOthers { user: user.clone(), keep: conn };
                    self.out.push(Out::Mail { reactor, mail });
                }
            }
            Mail::CloseOthers { user, keep } => {
                self.only_ones.remove(&keep);
                for conn in self.users.clients(table, &user) {
                    let later = |key: ConnKey| key == keep || self.only_ones.contains(&key);
                    if !table.key(conn).is_some_and(later) {
                        self.close(now, table, conn, Some(Disconnect::CONNECTION_LIMIT));
                    }
                }
            }
        }
        self.settle_local(now, table);
    }

    fn archived(&mut self, now: Now, archived: Archived) {
        self.broker.durable.unix_ms = now.unix_ms;
        self.with_owner(|owner, told| owner.archived(now.ms, archived, told));
    }

    /// The service thread answers a question of a client.
    fn said(&mut self, now: Now, table: &mut impl Table, conn: ConnKey, ticket: u32, ask: Ask, said: Said) {
        match &said {
            Said::Keys(jwks) => (self.tokens.jwks, self.tokens.asked) = (jwks.clone(), true),
            Said::Checked(verdict) => self.tokens.verdict = Some(verdict.clone()),
            _ => {}
        }
        self.with_key(now, table, conn, |session, turn| session.handle_said(ticket, ask, said, turn));
        (self.tokens.asked, self.tokens.verdict) = (false, None);
    }

    /// The service thread takes no more questions: a command is answered with an error; whoever was to be given more
    /// time gets a little, for it is not the client's fault.
    pub fn refuse_call(&mut self, now: Now, table: &mut impl Table, call: Call) {
        let said = call.ask.unanswered(ClientError::TooManyRequests, now.seconds());
        self.said(now, table, call.conn, call.ticket, call.ask, said);
        self.settle_local(now, table);
    }

    fn seat(
        &mut self,
        now: Now,
        table: &mut impl Table,
        conn: ConnKey,
        ticket: u32,
        user: CompactString,
        granted: bool,
    ) {
        let mut taken = false;
        self.with_key(now, table, conn, |session, turn| taken = session.handle_seat(ticket, granted, turn));
        if granted && !taken {
            self.give_seat_back(user);
        }
    }

    fn give_seat_back(&mut self, user: CompactString) {
        let reactor = broker::owner(&user, self.reactors, self.seed);
        if reactor == self.me {
            return self.leave_seat(user);
        }
        self.out.push(Out::Mail { reactor, mail: Mail::LeaveSeat { user } });
    }

    fn leave_seat(&mut self, user: CompactString) {
        if let hashbrown::hash_map::Entry::Occupied(mut count) = self.seats.entry(user) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    /// Does the fan-out have more to do?
    pub fn has_work(&self) -> bool {
        self.hub.has_work() || !self.slow.is_empty()
    }

    /// What comes with time: streams end, and publications that were held back leave. When the next call is wanted, as
    /// [`Now::ms`].
    pub fn tick(&mut self, now: Now) -> Option<u64> {
        self.tell_arrived(now);
        let mut ends = None;
        self.with_owner(|owner, told| ends = owner.expire(now.ms, told));
        let leaves = self.hub.wake(now.ms);
        ends.into_iter().chain(leaves).min()
    }

    /// Up to `budget` deliveries; how many it was. Joins that waited for their turn are done on the way.
    pub fn fan_out(&mut self, now: Now, table: &mut impl Table, budget: usize) -> usize {
        // What else goes in slices takes turns with the fan-outs. These go first: what was published before a client is
        // disconnected still reaches it.
        let share = if self.slow.is_empty() { budget } else { budget.div_ceil(2) };
        let mut done = 0;
        while done < share
            && let Some(work) = self.hub.next(share - done, &mut self.deflater)
        {
            match work {
                Work::Deliver(delivery) => {
                    let after = deliver(&delivery, self.me, table);
                    let (channel, count) = (delivery.channel, delivery.slots.len());
                    done += count;
                    self.counters.deliveries += (count - after.skipped) as u64 * u64::from(delivery.items);
                    self.counters.publications_filtered += after.filtered as u64;
                    for (slot, ready) in after.deltas {
                        self.hub.set_delta_ready(channel, slot, ready);
                    }
                    for conn in after.refused {
                        self.close(now, table, conn, Some(Disconnect::INAPPROPRIATE_PROTOCOL));
                    }
                }
                Work::Join(joining) => {
                    let before = self.out.len();
                    self.join(now, table, joining);
                    // A push that tells of it must be queued before what is delivered next. A reply has its place.
                    if self.out[before..].iter().any(|out| matches!(out, Out::Send { .. })) {
                        break;
                    }
                }
                Work::Gap { channel, slots } => {
                    done += slots.len();
                    let positioned = slots.iter().filter(|slot| slot.flags.has(Flags::POSITIONED));
                    let told: Vec<u32> = positioned.map(|slot| slot.conn).collect();
                    for conn in told {
                        self.with(now, table, conn, |session, turn| session.handle_gap(channel, turn));
                    }
                }
            }
        }
        self.settle_local(now, table);
        done += self.run_slice(now, table, budget.saturating_sub(done));
        self.settle_local(now, table);
        done
    }

    /// One call of a session, and what follows from it.
    fn with(&mut self, now: Now, table: &mut impl Table, conn: u32, call: impl FnOnce(&mut Session, &mut Turn<'_>)) {
        let (Some(key), Some(session)) = (table.key(conn), table.session(conn)) else { return };
        let wire = session.wire();
        self.turn(now, key, |turn| call(session, turn));
        self.carry_out(now, table, key, wire);
    }

    /// The same for a connection that may be another by now; false if it is.
    fn with_key(
        &mut self,
        now: Now,
        table: &mut impl Table,
        key: ConnKey,
        call: impl FnOnce(&mut Session, &mut Turn<'_>),
    ) -> bool {
        let conn = key.index;
        let due = |table: &mut _| Sessions::session(table, conn).map(|session| session.next_deadline());
        let Some(before) = due(table).filter(|_| table.key(conn) == Some(key)) else { return false };
        self.with(now, table, conn, call);
        // Nothing of the client's came, so nobody looks at its timer.
        if due(table).is_some_and(|after| after < before) {
            self.out.push(Out::Sooner { conn });
        }
        true
    }

    fn turn<R>(&mut self, now: Now, key: ConnKey, call: impl FnOnce(&mut Turn<'_>) -> R) -> R {
        let Shard { hub, fx, rules, full, reactors, seed, tokens, secret, .. } = self;
        let name = |client: [u8; 16]| name_of(secret, key, client);
        let owner_is_full = |channel: &str| full[usize::from(broker::owner(channel, *reactors, *seed))];
        call(&mut Turn { now, rules, hub, fx, tokens, owner_is_full: &owner_is_full, name: &name })
    }

    /// Takes the session off its connection, its subscriptions and its user. `code`: of its disconnect, or 0.
    fn detach(&mut self, now: Now, table: &mut impl Table, key: ConnKey, code: u16) {
        if let Some(who) = self.watched(now, table, key.index) {
            self.traces.end(&who, code);
        }
        let Some(session) = table.session(key.index) else { return };
        if session.is_connected() {
            let (client, user) = (session.client(), CompactString::from(session.user()));
            let next = session.next_of_user();
            self.pass_over(key.index, next);
            self.users.remove(table, key.index);
            self.clients -= 1;
            if self.rules.user_connection_limit > 0 && !user.is_empty() {
                self.give_seat_back(user.clone());
            }
            if self.rules.hooks {
                self.out.push(Out::Hook(Hook::Disconnected { client, user, code }));
            }
        }
        let Some(mut session) = table.take(key.index) else { return };
        let wire = session.wire();
        self.stop_listing(key);
        self.arrivals.forget(key.index);
        self.out.push(Out::Gone(key));
        self.turn(now, key, |turn| session.end(turn));
        self.carry_out(now, table, key, wire);
    }

    /// To the channel's owner, which may be this shard.
    fn ask(&mut self, now: Now, mut request: Request) {
        let owner = broker::owner(request.channel(), self.reactors, self.seed);
        if owner != self.me {
            return self.out.push(Out::Mail { reactor: owner, mail: Mail::Ask(request) });
        }
        if let Request::Publish { channel, asker, treatment, .. } = &mut request
            && let Some(log) = self.rules.log(channel)
        {
            if log.waits && self.log_is_full {
                let asker = *asker;
                let answer = Answer::Refused(ClientError::Internal);
                return self.tell(asker.into(), Event::Answer { asker, answer });
            }
            treatment.get_or_insert_default().log = Some(log.clone());
        }
        if let Request::Presence { channel, asker } = &request {
            let (channel, asker) = (channel.clone(), *asker);
            let present = self.broker.memory.presence_count(&channel);
            if present > self.rules.presence_limit && matches!(asker, Asker::Client { .. }) {
                let answer = Answer::Refused(ClientError::LimitExceeded);
                return self.tell(asker.into(), Event::Answer { asker, answer });
            }
            if present > slices::AT_ONCE {
                return self.list_present(channel, asker);
            }
        }
        let (engine, durable) = self.rules.home(request.channel());
        self.broker.durable.unix_ms = now.unix_ms;
        self.with_owner(|owner, told| owner.handle(now.ms, engine, durable, request, told));
    }

    /// One call of this shard as an owner, and what follows from it.
    fn with_owner(&mut self, call: impl FnOnce(&mut Owner, &mut broker::Told)) {
        let mut told = std::mem::take(&mut self.told);
        call(&mut self.broker, &mut told);
        for (target, event) in told.drain(..) {
            if !self.traces.is_empty() {
                self.traces.hear(&event);
            }
            self.tell(target, event);
        }
        self.told = told;
        self.out.extend(self.broker.take_calls().map(|(engine, call)| Out::Engine { engine, call }));
        self.out.extend(self.broker.take_archive_calls().map(Out::Archive));
    }

    /// What this shard says as an owner.
    fn tell(&mut self, target: Target, event: Event) {
        self.answered_bytes += event.answered_bytes() as u64;
        match target {
            Target::Reactor(reactor) if reactor != self.me => {
                self.out.push(Out::Mail { reactor, mail: Mail::Event(event) });
            }
            Target::Reactor(_) | Target::Backend | Target::Log => self.local.push_back(event),
        }
    }

    fn settle_local(&mut self, now: Now, table: &mut impl Table) {
        while let Some(event) = self.local.pop_front() {
            self.event(now, table, event);
        }
    }

    fn event(&mut self, now: Now, table: &mut impl Table, event: Event) {
        match event {
            Event::Publication { channel, publication, extras } => {
                let namespace = self.rules.namespace(&channel);
                let pace = namespace.and_then(|namespace| namespace.pace);
                if namespace.is_some_and(|namespace| namespace.inbox.is_some())
                    && let Some(id) = self.hub.find(&channel)
                {
                    self.arrivals.moved(id);
                }
                self.hub.publish(&channel, publication, extras, pace.map(|pace| (pace, now.ms)));
            }
            Event::Join { channel, info } => self.hub.announce(&channel, ChannelEvent::Presence { info, joined: true }),
            Event::Leave { channel, info } => {
                self.hub.announce(&channel, ChannelEvent::Presence { info, joined: false })
            }
            Event::Gap { channel } => self.hub.gap(&channel),
            Event::Subscribed { channel, conn, ticket, found } => {
                // It is held since the question was asked.
                let Some(id) = self.hub.find(&channel) else { return };
                if let Some(found) = &found {
                    self.hub.begin(id, &found.position);
                }
                let outcome = Ok(found);
                if let Some(joining) = self.hub.queue_join(id, Joining { conn, channel: id, ticket, outcome }) {
                    self.join(now, table, joining);
                }
            }
            Event::Refused { channel, conn, ticket, error } => {
                let Some(id) = self.hub.find(&channel) else { return };
                let outcome = Err(error);
                if let Some(joining) = self.hub.queue_join(id, Joining { conn, channel: id, ticket, outcome }) {
                    self.join(now, table, joining);
                }
            }
            Event::Answer { asker: Asker::Backend(ticket), answer } => {
                self.out.push(Out::Answer { ticket, answer: ControlAnswer::Owner(answer) });
            }
            Event::Answer { asker: Asker::Client { conn, ticket }, answer } => {
                self.list_askers.answered(conn, ticket);
                self.with_key(now, table, conn, |session, turn| session.handle_answer(ticket, answer, turn));
            }
            Event::Undelivered(undelivered) => self.out.push(Out::Hook(Hook::Undelivered(undelivered))),
            Event::Logged(call) => self.out.push(Out::Log(*call)),
            Event::Occupied { channel, occupied: true } => self.out.push(Out::Hook(Hook::Occupied { channel })),
            Event::Occupied { channel, occupied: false } => self.out.push(Out::Hook(Hook::Vacated { channel })),
        }
    }

    /// A subscription takes effect, or is refused, if its client is still there.
    fn join(&mut self, now: Now, table: &mut impl Table, joining: Joining) {
        let Joining { conn, channel, ticket, outcome } = joining;
        let call = |session: &mut Session, turn: &mut Turn<'_>| match outcome {
            Ok(found) => session.handle_subscribed(channel, ticket, found, turn),
            Err(error) => session.handle_unsubscribed(channel, ticket, error, turn),
        };
        if !self.with_key(now, table, conn, call) {
            self.hub.release(channel);
        }
    }

    /// Clients connected here.
    pub fn clients(&self) -> usize {
        self.clients
    }

    /// Places taken by the users who are counted here: for checks.
    pub fn seats(&self) -> u32 {
        self.seats.values().sum()
    }

    /// Channels known here and subscriptions in them: for checks.
    pub fn hub(&self) -> &Channels {
        &self.hub
    }
}

/// What is to be done after a slice of a fan-out.
#[derive(Default)]
struct After {
    /// Clients that cannot be given what was published.
    refused: Vec<u32>,
    /// Slots whose next publication may be a delta, or may not.
    deltas: Vec<(u32, bool)>,
    /// Subscribers that got nothing: it was not for them, or they did not want it.
    skipped: usize,
    filtered: usize,
}

/// Connections looked at together before they are served.
pub const APPROACHED: usize = 32;

/// A slice of a fan-out.
fn deliver(delivery: &Delivery<'_>, me: u16, table: &mut impl Table) -> After {
    let mut after = After::default();
    let except = delivery.single.and_then(|(_, extras)| extras?.except).filter(|key| key.reactor == me);
    let mut last: Option<(u16, Option<&Bytes>)> = None;
    for (at, slot) in delivery.slots.iter().enumerate() {
        if at % APPROACHED == 0 {
            table.approach(delivery.slots[at..].iter().take(APPROACHED).map(|slot| slot.conn));
        }
        if delivery.presence && !slot.flags.has(Flags::JOIN_LEAVE) {
            after.skipped += 1;
            continue;
        }
        if except.is_some_and(|key| key.index == slot.conn && table.key(slot.conn) == Some(key)) {
            after.skipped += 1;
            // The next delta would be to a publication that it has not got.
            after.deltas.push((delivery.start + at as u32, false));
            continue;
        }
        if slot.flags.has(Flags::FILTERED)
            && let Some((publication, _)) = delivery.single
            && !table.session(slot.conn).is_some_and(|session| session.wants(delivery.channel, publication))
        {
            after.skipped += 1;
            after.filtered += 1;
            continue;
        }
        let bytes = match last {
            Some((likeness, bytes)) if likeness == slot.likeness() => bytes,
            _ => delivery.bytes(slot),
        };
        last = Some((slot.likeness(), bytes));
        match bytes {
            Some(bytes) => {
                table.deliver(slot.conn, bytes, delivery.alone);
                if !delivery.presence && slot.is_delta_turned(delivery.begins_deltas) {
                    after.deltas.push((delivery.start + at as u32, delivery.begins_deltas));
                }
            }
            None => after.refused.push(slot.conn),
        }
    }
    after
}
