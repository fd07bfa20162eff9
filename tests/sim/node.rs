//! A reactor without I/O: the turn of src/reactor/mod.rs around a real shard, with checks at every point of it.

use crate::conns::{Breakage, Conns, Phase, Watch};
use crate::ledger::Ledger;
use crate::log::Log;
use crate::net::{LinkId, Net, Read};
use crate::options::{BEGAN_S, Options};
use crate::post::Post;
use crate::rng::Rng;
use crate::wire;
use bytes::Bytes;
use gannet::base::wheel::{TICK_MS, Tick};
use gannet::broker::{self, ConnKey, Event, Request};
use gannet::protocol::code::Disconnect;
use gannet::protocol::{Command, Encoding, Reply};
use gannet::session::Now;
use gannet::session::backend::{Ask, Call, Hook};
use gannet::shard::{Chosen, Control, ControlAnswer, Mail, Out, Shard, Table};
use gannet::wire::Wire;
use gannet::ws::{self, Item, Step};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Decides which reactor owns a channel.
pub const SEED: u64 = 42;
const READ_MAX: usize = 1000;

/// What all reactors and clients of a simulation share.
pub struct World {
    pub options: Options,
    pub rng: Rng,
    pub net: Net,
    pub post: Post,
    pub ledger: Ledger,
    pub log: Log,
    pub tick: Tick,
    pub step: u64,
    /// What came back to the backend.
    pub answers: Vec<(u64, ControlAnswer)>,
    /// How often clients heard each error (below 1000) and close code.
    pub codes: BTreeMap<u32, u64>,
    /// Questions to the backend, with the step at which they are answered.
    pub asks: Vec<(u64, Call)>,
    /// What the backend was told without asking.
    pub hooks: Hooks,
    /// Commands are judged here, one by one, against the ledger: nothing is granted late.
    pub strict: bool,
}

/// Who is connected and which channels are in use, as the backend was told.
#[derive(Default)]
pub struct Hooks {
    pub clients: BTreeSet<String>,
    pub channels: BTreeSet<String>,
}

impl Hooks {
    fn tell(&mut self, hook: Hook) {
        let news = match &hook {
            Hook::Connected { client, .. } => self.clients.insert(client.clone()),
            Hook::Disconnected { client, .. } => self.clients.remove(client),
            Hook::Occupied { channel } => self.channels.insert(channel.to_string()),
            Hook::Vacated { channel } => self.channels.remove(&**channel),
        };
        assert!(news, "the backend knew that already: {hook:?}");
    }
}

impl World {
    pub fn now(&self) -> Now {
        let ms = u64::from(self.tick) * TICK_MS;
        Now { tick: self.tick, ms, unix_ms: BEGAN_S * 1000 + ms }
    }

    pub fn owner(&self, channel: &str) -> u16 {
        broker::owner(channel, self.options.reactors, SEED)
    }
}

pub struct Reactor {
    me: u16,
    pub shard: Shard,
    pub conns: Conns,
    outgoing: Vec<Vec<Mail>>,
    /// Mail that a broken reactor sends too late, with its step and owner.
    late: Vec<(u64, usize, Mail)>,
    /// Connections whose deadlines came nearer in this tick.
    sooner: BTreeSet<u32>,
    /// As the shard was told at the beginning of the turn.
    full: Vec<bool>,
    now: Now,
}

/// What one command brought, in the order of the outbox.
enum Outcome {
    Reply(Box<Reply>),
    Place(u32),
    Close,
}

impl Reactor {
    pub fn new(me: u16, world: &World, breakage: Option<Breakage>) -> Reactor {
        let options = &world.options;
        Reactor {
            me,
            shard: Shard::new(me, options.reactors, SEED, Arc::new([7; 32]), options.rules.clone()),
            conns: Conns::new(me, world.tick, options.outbox_bytes_max, breakage),
            outgoing: (0..options.reactors).map(|_| Vec::new()).collect(),
            late: Vec::new(),
            sooner: BTreeSet::new(),
            full: vec![false; usize::from(options.reactors)],
            now: world.now(),
        }
    }

    /// A client whose handshake is done.
    pub fn accept(&mut self, world: &mut World, link: LinkId, encoding: Encoding, frame_pings: bool) -> ConnKey {
        let now = world.now();
        let session = self.shard.open(now, world.rng.bytes16(), Wire::websocket(encoding), frame_pings);
        let opened = now.tick;
        let watch = Watch { opened, connected: None, last_ping: None, pinged: None, frame_pings, encoding };
        let conn = self.conns.insert(link, session, watch);
        self.conns.key(conn).expect("just inserted")
    }

    /// One turn, in the order of the real one.
    pub fn turn(&mut self, world: &mut World) {
        if self.now.tick != world.tick {
            self.sooner.clear();
        }
        self.now = world.now();
        self.full = (0..self.outgoing.len()).map(|to| world.post.is_full(to)).collect();
        self.shard.set_full(self.full.iter().copied());
        self.full[usize::from(self.me)] |= self.shard.is_full();
        for conn in self.conns.indices() {
            self.go_on(world, conn);
            self.read(world, conn);
        }
        self.read_mail(world);
        while let Some(conn) = self.conns.pop_due(self.now.tick) {
            self.timeout(world, conn);
            self.conns.arm(conn);
        }
        self.shard.tick(self.now);
        self.shard.fan_out(self.now, &mut self.conns, world.options.fanout_slice);
        self.act(world);
        self.flush(world);
        self.conns.reap(&mut world.net, world.step);
        self.send_mail(world);
        self.check(world.strict);
    }

    fn log(&self, world: &World, what: &'static str, conn: u32, bytes: &[u8]) {
        world.log.add(what, [u64::from(self.now.tick), u64::from(self.me), u64::from(conn)], bytes);
    }

    // --- coming in ---

    fn read(&mut self, world: &mut World, conn: u32) {
        let Some(it) = self.conns.get(conn).filter(|it| it.phase != Phase::Dead) else { return };
        let max = world.rng.within(1, READ_MAX);
        match world.net.read(it.link, world.step, max) {
            Read::Nothing => {}
            Read::End => self.lost(world, conn),
            Read::Bytes(bytes) => {
                let mut all = std::mem::take(&mut it.tail);
                all.extend(bytes);
                let used = self.take_frames(world, conn, &mut all);
                if let Some(it) = self.conns.get(conn) {
                    it.tail = all[used..].to_vec();
                }
                self.conns.arm(conn);
            }
        }
    }

    fn lost(&mut self, world: &mut World, conn: u32) {
        self.log(world, "lost", conn, &[]);
        self.shard.close(self.now, &mut self.conns, conn, None);
        self.conns.kill(conn);
        self.act(world);
    }

    fn take_frames(&mut self, world: &mut World, conn: u32, bytes: &mut [u8]) -> usize {
        let Some(it) = self.conns.get(conn) else { return bytes.len() };
        let mut decoder = std::mem::take(&mut it.decoder);
        let mut used = 0;
        loop {
            match decoder.next(&mut bytes[used..], world.options.message_bytes_max) {
                Step::More => break,
                Step::Item(size, item) => {
                    self.take_item(world, conn, item);
                    used += size;
                }
                Step::Fault(fault) => {
                    self.end(world, conn, ws::close_frame(fault.code(), fault.reason()));
                    used = bytes.len();
                }
            }
            if used == bytes.len() {
                break;
            }
        }
        if let Some(it) = self.conns.get(conn) {
            it.decoder = decoder;
        }
        used
    }

    fn take_item(&mut self, world: &mut World, conn: u32, item: Item<'_>) {
        let Some(it) = self.conns.get(conn) else { return };
        if it.phase != Phase::Client {
            // Only the peer's close matters now.
            it.peer_closed |= matches!(item, Item::Close(..));
            return;
        }
        match item {
            Item::Message(_, message) => self.take_message(world, conn, message),
            Item::Part(part) => it.message.extend_from_slice(part),
            Item::Last(_, part) => {
                it.message.extend_from_slice(part);
                let message = std::mem::take(&mut it.message);
                self.take_message(world, conn, &message);
            }
            Item::Deflated(..) | Item::LastDeflated(..) => unreachable!("compression was not negotiated"),
            Item::Ping(payload) => self.conns.send(conn, ws::control_frame(ws::Opcode::Pong, payload)),
            Item::Pong(_) => {
                if it.watch.frame_pings {
                    it.watch.pinged = None;
                }
                self.shard.pong_frame(&mut self.conns, conn);
            }
            Item::Close(code, _) => {
                it.peer_closed = true;
                let frame = code.map_or(Bytes::from_static(b"\x88\0"), |code| ws::close_frame(code, ""));
                self.end(world, conn, frame);
            }
        }
    }

    fn end(&mut self, world: &mut World, conn: u32, frame: Bytes) {
        self.log(world, "end", conn, &frame);
        self.shard.close(self.now, &mut self.conns, conn, None);
        self.act(world);
        self.conns.close_with(conn, frame, self.now.tick + world.options.close_ticks, false);
    }

    fn take_message(&mut self, world: &mut World, conn: u32, message: &[u8]) {
        self.log(world, "message", conn, message);
        let Some(key) = self.conns.key(conn) else { return };
        let Some(it) = self.conns.get(conn) else { return };
        let encoding = it.watch.encoding;
        if !it.rest.is_empty() {
            if encoding == Encoding::Json {
                it.rest.push(b'\n');
            }
            return it.rest.extend_from_slice(message);
        }
        let rest = self.commands(conn, message);
        if world.strict {
            self.check_outcomes(world, key, encoding, message);
        }
        self.act(world);
        if let Some(it) = self.conns.get(conn) {
            it.rest = rest.to_vec();
        }
    }

    /// Carries commands out until one has to wait; the rest of them.
    fn commands<'m>(&mut self, conn: u32, mut message: &'m [u8]) -> &'m [u8] {
        let mut first = true;
        loop {
            let used = self.shard.command(self.now, &mut self.conns, conn, message, std::mem::take(&mut first));
            message = &message[used..];
            let session = self.conns.get(conn).and_then(|it| it.session.as_ref());
            match session {
                None => return &[],
                Some(session) if message.is_empty() || session.is_connecting() => return message,
                Some(_) => {}
            }
        }
    }

    /// Goes on with commands that waited for the connect command.
    fn go_on(&mut self, world: &mut World, conn: u32) {
        let Some(it) = self.conns.get(conn) else { return };
        let waits = it.session.as_ref().is_some_and(|session| session.is_connecting());
        if it.rest.is_empty() || waits {
            return;
        }
        let rest = std::mem::take(&mut it.rest);
        if it.session.is_some() {
            let left = self.commands(conn, &rest).to_vec();
            self.act(world);
            if let Some(it) = self.conns.get(conn) {
                it.rest = left;
            }
        }
    }

    fn read_mail(&mut self, world: &mut World) {
        if self.shard.is_full() {
            return;
        }
        for mail in world.post.drain(usize::from(self.me), world.step, &mut world.rng) {
            let met = match &mail {
                _ if !world.strict => None,
                Mail::Ask(Request::Subscribe { channel, from, .. }) => {
                    world.ledger.begin(channel, *from);
                    None
                }
                Mail::Ask(Request::Publish { channel, publication, .. }) => {
                    world.ledger.accept(channel, &publication.data);
                    None
                }
                Mail::Control { control, .. } => self.expected(control),
                _ => None,
            };
            // Dear, and what follows from it is logged as well.
            let shown = if world.log.has_lines() { format!("{mail:?}") } else { String::new() };
            self.log(world, "mail", 0, shown.as_bytes());
            self.shard.mail(self.now, &mut self.conns, mail);
            if let (Some(expected), Some(Out::Answer { answer: ControlAnswer::Met(met), .. })) =
                (met, self.shard.out.last())
            {
                assert_eq!(*met, expected, "clients or subscriptions that the backend meant");
            }
            self.act(world);
        }
    }

    /// How many clients a disconnect will meet.
    fn expected(&mut self, control: &Control) -> Option<usize> {
        let Control::Disconnect { chosen: Chosen { user, client, .. }, keep, .. } = control else { return None };
        let sessions = self.conns.iter().filter_map(|(_, it)| it.session.as_ref()).filter(|s| s.is_connected());
        let mut ids = sessions.filter(|s| s.user() == user).map(|s| s.client()).collect::<Vec<_>>();
        ids.retain(|id| (client.is_empty() || id == client) && !keep.contains(id));
        Some(ids.len())
    }

    fn timeout(&mut self, world: &mut World, conn: u32) {
        let tick = self.now.tick;
        let Some(it) = self.conns.get(conn) else { return };
        if tick >= it.io_due {
            return self.lost(world, conn);
        }
        if it.session.as_ref().is_some_and(|session| tick >= session.next_deadline()) {
            self.shard.timeout(self.now, &mut self.conns, conn);
            self.act(world);
        }
    }

    // --- going out ---

    fn act(&mut self, world: &mut World) {
        let mut refused = Vec::new();
        for act in std::mem::take(&mut self.shard.out) {
            match act {
                Out::Send { conn, frame } => {
                    self.log(world, "send", conn, &frame);
                    self.watch_ping(world, conn, &frame);
                    self.conns.send(conn, frame);
                }
                Out::Hole { conn, ticket, .. } => self.conns.send_hole(conn, ticket),
                Out::Commands { .. } => unreachable!("nobody speaks by other requests"),
                Out::Fill { conn, ticket, frame } => {
                    self.log(world, "fill", conn, &frame);
                    self.conns.fill(conn, ticket, frame);
                }
                Out::Close { conn, wire, disconnect } => {
                    self.log(world, "close", conn, disconnect.reason.as_bytes());
                    self.watch_close(world, conn, &disconnect);
                    let hurry = disconnect.code == Disconnect::SLOW.code;
                    let frame = wire.close(&disconnect);
                    self.conns.close_with(conn, frame, self.now.tick + world.options.close_ticks, hurry);
                }
                Out::Sooner { conn } => {
                    self.sooner.insert(conn);
                    self.conns.arm(conn);
                }
                Out::Mail { reactor, mail } => {
                    let is_own = matches!(mail, Mail::Ask(_) | Mail::Event(_)) && reactor == self.me;
                    assert!(!is_own, "mail to itself");
                    self.post(world, usize::from(reactor), mail);
                }
                Out::Answer { ticket, answer } => world.answers.push((ticket, answer)),
                Out::Ask(call) if world.rng.chance(4) => refused.push(*call),
                Out::Ask(call) => {
                    let step = world.step + world.rng.below(30) as u64;
                    world.asks.push((step, *call));
                }
                // As workers forget what nobody waits for.
                Out::Gone(key) => {
                    world.asks.retain(|(_, call)| call.conn != key || !matches!(call.ask, Ask::Check(_)));
                }
                Out::Hook(hook) => world.hooks.tell(hook),
                Out::Drain { .. } => unreachable!("the simulated node is not told to leave"),
                Out::Rejected { .. } => {}
                Out::Settings(_) => unreachable!("the simulated node has the same settings all the time"),
            }
        }
        for call in refused {
            self.shard.refuse_call(self.now, &mut self.conns, call);
            self.act(world);
        }
    }

    fn post(&mut self, world: &mut World, to: usize, mut mail: Mail) {
        if let Mail::Ask(Request::Leave { gone, .. }) = &mut mail {
            if self.conns.is_broken(Breakage::LoseLeave) {
                return;
            }
            let asker = gone.as_mut().filter(|_| self.conns.is_broken(Breakage::LatePresence));
            if let Some(asker) = asker.and_then(|gone| gone.asker.take()) {
                let answer = Mail::Event(Event::Answer { asker, answer: broker::Answer::Left });
                self.outgoing[usize::from(self.me)].push(answer);
                return self.late.push((world.step + 20, to, mail));
            }
        }
        self.outgoing[to].push(mail);
    }

    fn flush(&mut self, world: &mut World) {
        for conn in self.conns.indices() {
            self.conns.flush(conn, &mut world.net, world.step, &mut world.rng);
        }
        for conn in self.conns.take_slow() {
            if self.conns.is_broken(Breakage::IgnoreSlow) {
                continue;
            }
            self.shard.close(self.now, &mut self.conns, conn, Some(Disconnect::SLOW));
            self.act(world);
            self.conns.flush(conn, &mut world.net, world.step, &mut world.rng);
        }
    }

    fn send_mail(&mut self, world: &mut World) {
        let World { post, ledger, rng, step, strict, .. } = world;
        for (_, to, mail) in self.late.extract_if(.., |(due, ..)| *due <= *step) {
            self.outgoing[to].push(mail);
        }
        for (to, mail) in self.outgoing.iter_mut().enumerate() {
            post.send_all(usize::from(self.me), to, *step, mail, rng, |lost| {
                if let (true, Mail::Event(Event::Publication { publication, .. })) = (*strict, lost) {
                    ledger.drop(to as u16, &publication.data);
                }
            });
        }
    }

    /// The node is shutting down.
    pub fn shut_down(&mut self, world: &mut World) {
        for conn in self.conns.indices() {
            self.shard.close(self.now, &mut self.conns, conn, Some(Disconnect::SHUTDOWN));
            self.act(world);
        }
    }

    // --- checks ---

    /// Each command has its answer or its place, in order, or the session is over. Tells the ledger what was accepted
    /// here; what another reactor owns is told when it gets there.
    fn check_outcomes(&mut self, world: &mut World, key: ConnKey, encoding: Encoding, message: &[u8]) {
        let mut outcomes = self.outcomes(key.index, encoding).into_iter();
        let mut rest = message;
        let commands = std::iter::from_fn(|| encoding.decode(&mut rest)?.ok());
        let mut over = false;
        for command in commands {
            if command.id == 0 && command.send.is_none() {
                self.watch_pong(key.index);
                over = matches!(outcomes.as_slice().first(), Some(Outcome::Close));
            } else {
                let outcome = outcomes.next().unwrap_or_else(|| panic!("no answer to {command:?}"));
                over = matches!(outcome, Outcome::Close);
                self.check_outcome(world, key, &command, outcome);
            }
            if over {
                break;
            }
        }
        let left: Vec<Outcome> = outcomes.collect();
        let closed = matches!(left[..], [Outcome::Close]);
        assert!(left.is_empty() || closed, "more answers than commands: {}", String::from_utf8_lossy(message));
        assert!(over || closed || rest.is_empty() || rest.trim_ascii().is_empty(), "an unread command lives on");
    }

    /// What the shard gave out for one connection.
    fn outcomes(&self, conn: u32, encoding: Encoding) -> Vec<Outcome> {
        let mut all = Vec::new();
        for act in &self.shard.out {
            match act {
                Out::Send { conn: to, frame } if *to == conn => {
                    let (_, payload) = wire::parse(&mut frame.to_vec()).expect("a whole frame");
                    let replies = wire::replies(encoding, &payload).into_iter();
                    all.extend(replies.map(|reply| Outcome::Reply(Box::new(reply))));
                }
                Out::Hole { conn: to, ticket, .. } if *to == conn => all.push(Outcome::Place(*ticket)),
                Out::Close { conn: to, .. } if *to == conn => all.push(Outcome::Close),
                _ => {}
            }
        }
        all
    }

    fn check_outcome(&mut self, world: &mut World, key: ConnKey, command: &Command, outcome: Outcome) {
        match outcome {
            Outcome::Close => {}
            Outcome::Place(ticket) => {
                assert_eq!(ticket, command.id, "a place for another command");
                let subscribe = command.subscribe.as_ref().map(|s| (&s.channel, None));
                let publish = || command.publish.as_ref().map(|p| (&p.channel, Some(&p.data)));
                let (channel, data) = subscribe.or_else(publish).expect("only these wait for their answer");
                assert!(!self.is_full(world, channel), "a command was taken for a full owner");
                match data {
                    _ if world.owner(channel) != self.me => {}
                    Some(data) => world.ledger.accept(channel, data),
                    None => world.ledger.begin(channel, key),
                }
            }
            Outcome::Reply(reply) => {
                assert_eq!(reply.id, command.id, "an answer to another command");
                if let (Some(result), Some(it)) = (&reply.connect, self.conns.get(key.index)) {
                    it.watch.connected = Some(self.now.tick);
                    world.ledger.name_client(key, result.client.clone());
                }
                let channel = command.publish.as_ref().map(|p| &p.channel);
                let channel = channel.or(command.subscribe.as_ref().map(|s| &s.channel));
                if let (Some(error), Some(channel)) = (&reply.error, channel) {
                    assert!(error.code != 111 || self.is_full(world, channel), "111 without need");
                }
            }
        }
    }

    fn is_full(&self, world: &World, channel: &str) -> bool {
        self.full[usize::from(world.owner(channel))]
    }

    fn watch_pong(&mut self, conn: u32) {
        if let Some(it) = self.conns.get(conn) {
            it.watch.pinged = None;
        }
    }

    /// Pings keep their interval and their grid to the tick.
    fn watch_ping(&mut self, world: &World, conn: u32, frame: &Bytes) {
        let tick = self.now.tick;
        let Some(it) = self.conns.get(conn).filter(|_| world.strict) else { return };
        let watch = &mut it.watch;
        let ping: &[u8] = match (watch.frame_pings, watch.encoding) {
            (true, _) => b"\x89\0",
            (false, Encoding::Json) => b"\x81\x02{}",
            (false, Encoding::Protobuf) => b"\x82\x01\0",
        };
        if frame != ping {
            return;
        }
        let (interval, grid) = (world.options.rules.ping_interval, world.options.rules.ping_grid);
        assert!(tick.is_multiple_of(grid), "conn {conn}: a ping at {tick}, beside the grid of {grid}");
        let connected = watch.connected.expect("pings begin with the connect reply");
        match watch.last_ping {
            Some(last) => {
                let window = last + interval - (grid - 1)..=last + interval;
                assert!(window.contains(&tick), "conn {conn}: a ping at {tick}, not in {window:?}");
            }
            None => {
                let window = connected + interval - interval / 2 - (grid - 1)..=connected + interval;
                assert!(window.contains(&tick), "conn {conn}: first ping at {tick}, not in {window:?}");
            }
        }
        watch.last_ping = Some(tick);
        if watch.frame_pings || world.options.rules.pong_timeout.is_some() {
            // The first that is not answered counts.
            watch.pinged.get_or_insert(tick);
        }
    }

    /// Ticks that a pong may take on this connection.
    fn pong_timeout(&mut self, world: &World, conn: u32) -> Option<Tick> {
        let frame_pings = self.conns.get(conn)?.watch.frame_pings;
        if frame_pings { Some(100) } else { world.options.rules.pong_timeout }
    }

    /// Who is late is closed at the tick, neither sooner nor for nothing.
    fn watch_close(&mut self, world: &World, conn: u32, disconnect: &Disconnect) {
        let (tick, timeout) = (self.now.tick, self.pong_timeout(world, conn));
        let Some(it) = self.conns.get(conn).filter(|_| world.strict) else { return };
        let watch = &it.watch;
        match disconnect.code {
            3012 => {
                let due = watch.pinged.zip(timeout).map(|(pinged, timeout)| pinged + timeout);
                assert_eq!(Some(tick), due, "conn {conn}: 3012 at the wrong tick");
            }
            3502 => {
                assert!(watch.connected.is_none(), "conn {conn}: a connected client is not stale");
                assert_eq!(tick, watch.opened + world.options.rules.stale_delay, "conn {conn}: 3502 at the wrong tick");
            }
            3008 => assert!(!self.conns.is_broken(Breakage::IgnoreSlow)),
            _ => {}
        }
    }

    /// What holds after every turn.
    fn check(&mut self, strict: bool) {
        let tick = self.now.tick;
        let mut places: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        let (mut joined, mut clients, mut users) = (0, 0, BTreeSet::new());
        for (conn, it) in self.conns.iter() {
            let Some(session) = &it.session else { continue };
            assert_eq!(it.phase, Phase::Client, "conn {conn}: a session without its connection");
            // One that came nearer in this tick, after its timers, is met in the next.
            // Of several that meet in one tick, one is met in each: connection, subscriptions and ping at most.
            let due = session.next_deadline().saturating_add(2 * u32::from(!strict));
            assert!(due > tick || self.sooner.contains(&conn), "conn {conn}: a deadline was missed, {due} at {tick}");
            if session.is_connected() {
                clients += 1;
                users.insert(session.user().to_owned());
            } else {
                assert_eq!(session.subscriptions(), 0, "conn {conn}: subscribed before it connected");
            }
            for back in 0..session.subscriptions() as u16 {
                let Some((channel, slot)) = session.slot(back) else { continue };
                joined += 1;
                assert!(places.entry(channel).or_default().insert(slot), "two subscriptions share a hub slot");
            }
        }
        for (channel, slots) in places {
            let dense = slots.iter().copied().eq(0..slots.len() as u32);
            assert!(dense, "channel {:?}: slots {slots:?} have a gap", self.shard.hub().name(channel));
        }
        assert_eq!(self.shard.hub().subscriptions(), joined, "the hub's subscriptions and the sessions'");
        let stats = self.shard.stats();
        assert_eq!((stats.clients, stats.users), (clients, users.len()), "clients and users of reactor {}", self.me);
        self.conns.check_outboxes();
    }
}
