//! A node's reactors without threads: the real turns over simulated sockets, their polls and mail, with checks of what
//! must hold after each turn.

use crate::breakage::{Breakage, Chances};
use crate::desk::{Desk, Told};
use crate::ledger::Ledger;
use crate::log::Log;
use crate::net::{LinkId, Net};
use crate::options::{BEGAN_S, Options};
use crate::post::Post;
use crate::rng::Rng;
use crate::script::{Carried, Deed, Said, Script, Usage, count};
use gannet::base::wheel::{TICK_MS, Tick};
use gannet::broker::{self, Answer, ConnKey, Event, Request};
use gannet::protocol::Encoding;
use gannet::session::Now;
use gannet::session::backend::{Ask, Call, Hook};
use gannet::shard::{Chosen, Control, ControlAnswer, Mail, Shard, Table};
use gannet::turn::conns::{Marks, Phase};
use gannet::turn::{Bounds, Budget, Clock, Socket, Turns};
use gannet::ws;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Decides which reactor owns a channel.
pub const SEED: u64 = 42;
/// Turns of one tick in which timers are due, at most.
const TIMER_TURNS_MAX: usize = 50;
/// Turns in a step in which a reactor works off what waits, at most.
const WORK_TURNS_MAX: usize = 100;
/// Bytes of a ping.
const PING_BYTES_MAX: usize = 4;
const NS_IN_MS: u64 = 1_000_000;
/// Connections with TLS, in a hundred.
const SECURED: usize = 40;

/// What all reactors and clients of a simulation share.
pub struct World {
    pub options: Options,
    pub rng: Rng,
    pub net: Net,
    pub post: Post,
    pub ledger: Ledger,
    pub log: Log,
    pub tick: Tick,
    /// Milliseconds of the machine's clock.
    pub ms: u64,
    /// The wall clock when that was 0.
    pub wall_ms: u64,
    /// Turns and sleeps may be long: each reactor judges its peers by a clock of its own.
    pub clocked: bool,
    /// How long the next turn takes.
    pub turn_ms: u64,
    turn_seed: u64,
    pub step: u64,
    /// What clients said, by their links.
    pub scripts: Vec<Script>,
    /// What came back to the backend.
    pub answers: Vec<(u64, ControlAnswer)>,
    /// How often clients heard each error (below 1000) and close code.
    pub codes: BTreeMap<u32, u64>,
    /// Questions to the backend, with the step at which they are answered.
    pub asks: Vec<(u64, Call)>,
    /// What the backend was told without asking.
    pub hooks: Hooks,
    /// Commands are judged one by one, against the ledger: nothing is granted late.
    pub strict: bool,
    pub chances: Chances,
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
            Hook::Undelivered(_) => true,
        };
        assert!(news, "the backend knew that already: {hook:?}");
    }
}

impl World {
    pub fn new(options: Options, mut rng: Rng, log: Log, chances: Chances, strict: bool) -> World {
        let turn_seed = rng.next();
        let spoiler = crate::breakage::Spoiler::new(chances.clone());
        World {
            net: Net::new(options.net_delay, rng.next(), spoiler, if chances.breakage.is_some() { 0 } else { SECURED }),
            post: Post::new(usize::from(options.reactors), options.mailbox_len, options.mail_delay, chances.clone()),
            ledger: Ledger::default(),
            log,
            rng,
            tick: 0,
            ms: 0,
            wall_ms: BEGAN_S * 1000,
            clocked: false,
            turn_ms: 0,
            turn_seed,
            step: 0,
            scripts: Vec::new(),
            answers: Vec::new(),
            codes: BTreeMap::new(),
            asks: Vec::new(),
            hooks: Hooks::default(),
            strict,
            options,
            chances,
        }
    }

    pub fn reactors(&mut self) -> Vec<Reactor> {
        (0..self.options.reactors).map(|me| Reactor::new(me, self)).collect()
    }

    /// A tenth of a second has passed.
    pub fn pass_tick(&mut self) {
        self.ms += TICK_MS;
        self.tick = (self.ms / TICK_MS) as Tick;
    }

    /// The next step begins.
    pub fn go_on(&mut self) {
        self.step += 1;
        self.net.go_on(self.step, self.tick);
    }

    pub fn now(&self) -> Now {
        Now { tick: self.tick, ms: self.ms, unix_ms: self.wall_ms + self.ms }
    }

    /// By the clock of the machine.
    fn ns(&self) -> u64 {
        self.ms * NS_IN_MS
    }

    pub fn owner(&self, channel: &str) -> u16 {
        broker::owner(channel, self.options.reactors, SEED)
    }

    /// All reactors are told to leave.
    pub fn drain(&mut self) {
        for to in 0..usize::from(self.options.reactors) {
            self.post.deliver(to, self.step, Mail::Drain { at_once: false }, &mut self.rng);
        }
    }

    /// A client's bytes, and what they are about.
    pub fn say(&mut self, link: LinkId, bytes: &[u8], deeds: Vec<Deed>) {
        self.say_all(link, bytes, Said { deeds, ..Said::default() });
    }

    /// The same with what it costs the reactor.
    pub fn say_all(&mut self, link: LinkId, bytes: &[u8], said: Said) {
        let end = self.net.send(link, bytes);
        self.scripts.resize_with(self.scripts.len().max(link + 1), Script::default);
        if !said.deeds.is_empty() || said.decoded > 0 {
            self.scripts[link].say(Said { end, ..said });
        }
    }
}

/// Mail of which the ledger is told when it is carried out.
enum Note {
    Subscribe(Arc<str>, ConnKey),
    Publish(Arc<str>, u64),
}

pub struct Reactor {
    me: u16,
    pub turns: Turns<Desk>,
    /// Mail that a broken reactor sends too late, with its step and owner.
    late: Vec<(u64, usize, Mail)>,
    /// As the shard was told at the beginning of the turn.
    full: Vec<bool>,
    now: Now,
    /// Requests that wait with other mail.
    notes: VecDeque<Note>,
    /// As its counter was after the last turn.
    dropped: u64,
    accepted: usize,
    outbox_max: usize,
    chances: Chances,
    /// A broken poll sleeps through this tick.
    deaf: Tick,
    /// Connections whose deadline has passed, since when.
    overdue: BTreeMap<u32, Tick>,
    /// The time by which it judges its peers, if that is not the machine's.
    clock: Option<Clock>,
    /// Until when it meant to sleep.
    until: Option<u64>,
    /// Its turn lasts until then.
    busy_until: u64,
    holds: bool,
    /// What connections that are still open caused in the last turn.
    pub used: Vec<(LinkId, Usage)>,
}

impl Reactor {
    fn new(me: u16, world: &mut World) -> Reactor {
        let options = &world.options;
        let mut shard = Shard::new(me, options.reactors, SEED, Arc::new([7; 32]), options.rules.clone());
        shard.deflater = ws::Deflater::new(&options.config.websocket);
        let mut bounds = Bounds::new(&options.config);
        bounds.fanout_slice = options.fanout_slice;
        if world.chances.is(Breakage::IgnoreSlow) {
            bounds.outbox_bytes = usize::MAX;
        }
        if world.chances.is(Breakage::NoBudget) {
            let all = usize::MAX / 16;
            bounds.budget = Budget { commands: all, decoded_bytes: all, reply_bytes: all, signatures: all };
        }
        let desk = Desk::new(&options.config, usize::from(options.reactors), world.rng.next());
        Reactor {
            me,
            turns: Turns::new(me, options.reactors, shard, desk, bounds),
            late: Vec::new(),
            full: Vec::new(),
            now: world.now(),
            notes: VecDeque::new(),
            dropped: 0,
            accepted: 0,
            outbox_max: options.outbox_bytes_max,
            chances: world.chances.clone(),
            deaf: 0,
            overdue: BTreeMap::new(),
            clock: world.clocked.then(Clock::default),
            until: Some(0),
            busy_until: 0,
            holds: false,
            used: Vec::new(),
        }
    }

    /// The server's end of a link comes in.
    pub fn accept(&mut self, world: &mut World, link: LinkId) -> ConnKey {
        self.now = self.read_clock(world);
        if let Some(clock) = &mut self.clock {
            clock.end(world.ms, world.ms);
            self.until = Some(0);
        }
        self.turns.begin(self.now, world.ns());
        self.accepted += 1;
        let conn = self.turns.accept(world.net.socket(link), 0);
        self.turns.conns.key(conn).expect("just inserted")
    }

    /// Connections with their links.
    pub fn links(&self) -> Vec<(u32, LinkId)> {
        let conns = self.turns.conns.iter();
        conns.map(|(conn, it)| (conn, it.socket.as_ref().expect("nothing is handed off").link)).collect()
    }

    /// All turns of a tick that its timers want.
    pub fn end_tick(&mut self, world: &mut World) {
        let mut turns = 0;
        while self.is_due(world) {
            self.turn(world);
            turns += 1;
            assert!(turns < TIMER_TURNS_MAX, "a timer that stays due");
        }
        self.check_deadlines(world);
    }

    /// Turns while there is work that waits for nothing.
    pub fn work_off(&mut self, world: &mut World) {
        for _ in 0..WORK_TURNS_MAX {
            if !self.turns.has_work() {
                return;
            }
            self.turn(world);
        }
    }

    /// Does a timer wake the poll up?
    fn is_due(&mut self, world: &World) -> bool {
        let tick = world.tick;
        let at = |due: Tick| self.clock.as_ref().map_or(u64::from(due) * TICK_MS, |clock| clock.at_ms(due));
        let due = self.turns.next_tick().is_some_and(|due| at(due) <= world.ms);
        if due && self.deaf != tick && self.chances.breaks(Breakage::ForgetDeadline) {
            self.deaf = tick;
        }
        due && self.deaf != tick
    }

    fn is_awake(&mut self, world: &World) -> bool {
        self.is_due(world)
            || self.turns.has_work()
            || self.turns.wake_at().is_some_and(|at| at <= world.now().ms)
            || self.turns.flush_at().is_some_and(|at| at <= world.ns())
    }

    /// Is a turn under way still?
    pub fn is_busy(&self, world: &World) -> bool {
        world.ms < self.busy_until
    }

    /// One turn, if anything wakes the reactor up.
    pub fn turn(&mut self, world: &mut World) {
        let me = usize::from(self.me);
        self.used.clear();
        if self.is_busy(world) {
            return;
        }
        self.hold(world, false);
        self.send_late(world);
        let links = self.links();
        let mut ready: Vec<_> = links.iter().filter_map(|(conn, link)| world.net.poll(*conn, *link)).collect();
        // How many turns a fan-out takes may be chance of the process, as the order of maps is: they draw from a source
        // of their own.
        let mut rng = Rng::new(world.turn_seed ^ world.step << 8 ^ u64::from(self.me));
        rng.shuffle(&mut ready);
        let full: Vec<bool> = (0..usize::from(world.options.reactors)).map(|to| world.post.is_full(to)).collect();
        let mut mail = world.post.drain(me, world.step, &mut rng);
        if ready.is_empty() && mail.is_empty() && !self.is_awake(world) {
            return;
        }
        self.now = self.read_clock(world);
        self.turns.host.full.clone_from(&full);
        self.turns.begin(self.now, world.ns());
        self.full = full;
        self.full[me] |= self.turns.shard.is_full();
        let alone = if world.strict { self.foresee(world, &mail, &ready) } else { None };
        let mut order = self.turns.conns.queued().to_vec();
        order.extend(ready.iter().map(|ready| ready.conn));
        let spent: Vec<u64> = links.iter().map(|(conn, link)| self.sent_bytes(world, *conn, *link)).collect();
        self.turns.run(ready.into_iter(), &mut mail);
        self.end_turn(world);
        world.post.keep(me, self.turns.mail_waiting());
        self.note_carried(world, &order, &links);
        self.note_used(world, &links, &spent);
        self.hand_out(world, alone);
        self.note_state(world);
        self.check();
    }

    fn read_clock(&mut self, world: &World) -> Now {
        let mut now = world.now();
        if self.chances.is(Breakage::WallClock) {
            now.ms = now.unix_ms;
        }
        if let Some(clock) = &mut self.clock {
            now.tick = clock.begin(now.ms, self.until);
        }
        now
    }

    /// The turn took its time, and the poll sleeps.
    fn end_turn(&mut self, world: &mut World) {
        self.busy_until = world.ms + std::mem::take(&mut world.turn_ms);
        self.hold(world, self.busy_until > world.ms);
        let Some(clock) = &mut self.clock else { return };
        clock.end(world.ms, self.busy_until);
        let timer = self.turns.next_tick().map(|tick| clock.at_ms(tick));
        let flush = self.turns.flush_at().map(|at| at / NS_IN_MS);
        let until = timer.into_iter().chain(flush).chain(self.turns.wake_at()).min();
        self.until = if self.turns.has_work() { Some(0) } else { until };
    }

    /// What a long turn writes leaves at its end.
    fn hold(&mut self, world: &World, on: bool) {
        if self.holds != on {
            self.holds = on;
            self.links().into_iter().for_each(|(_, link)| world.net.hold(link, on));
        }
    }

    /// What the server has sent on a link so far, and what it is about to.
    fn sent_bytes(&self, world: &World, conn: u32, link: LinkId) -> u64 {
        world.net.written_bytes(link) + self.turns.conns.waiting(conn) as u64
    }

    /// What each connection caused, but for those that ended, whose input is thrown away.
    fn note_used(&mut self, world: &mut World, links: &[(u32, LinkId)], before: &[u64]) {
        for ((conn, link), before) in links.iter().zip(before) {
            let replies = (self.sent_bytes(world, *conn, *link).saturating_sub(*before)) as usize;
            let mut usage = std::mem::take(&mut world.scripts[*link].usage);
            if self.full.contains(&true) {
                // For a channel whose owner takes no more, no token is looked at.
                usage.signatures = 0;
            }
            let it = self.turns.conns.get(*conn).filter(|it| it.phase.is_open());
            if it.is_some_and(|it| it.socket.as_ref().is_some_and(|end| end.link == *link)) {
                self.used.push((*link, Usage { replies, ..usage }));
            }
        }
    }

    fn log(&self, world: &World, what: &'static str, conn: u32, bytes: &[u8]) {
        world.log.add(what, [u64::from(self.now.tick), u64::from(self.me), u64::from(conn)], bytes);
    }

    // --- what is carried out ---

    /// Notes what `mail` asks. If a disconnect is all that happens in this turn: its ticket, and how many it meets.
    fn foresee(&mut self, world: &World, mail: &[Mail], ready: &[gannet::turn::Ready]) -> Option<(u64, usize)> {
        for mail in mail {
            // Dear, and what follows from it is logged as well.
            let shown = if world.log.has_lines() { format!("{mail:?}") } else { String::new() };
            self.log(world, "mail", 0, shown.as_bytes());
            self.notes.extend(match mail {
                Mail::Ask(Request::Subscribe { channel, from, .. }) => Some(Note::Subscribe(channel.clone(), *from)),
                Mail::Ask(Request::Publish { channel, publication, .. }) => {
                    let id = Ledger::id(&publication.data).expect("a publication of this simulation");
                    Some(Note::Publish(channel.clone(), id))
                }
                _ => None,
            });
        }
        let quiet = ready.is_empty() && !self.turns.has_work();
        match mail {
            [Mail::Control { ticket, control }] if quiet => Some((*ticket, self.expected(control)?)),
            _ => None,
        }
    }

    /// How many clients a disconnect will meet.
    fn expected(&self, control: &Control) -> Option<usize> {
        let Control::Disconnect { chosen: Chosen { user, client, .. }, keep, .. } = control else { return None };
        let sessions = self.turns.conns.iter().filter_map(|(_, it)| it.session.as_ref()).filter(|s| s.is_connected());
        let mut ids = sessions.filter(|s| s.user() == user).map(|s| s.client()).collect::<Vec<_>>();
        ids.retain(|id| (client.is_empty() || id == client) && !keep.contains(id));
        Some(ids.len())
    }

    /// Tells the ledger what this turn carried out: commands in the order in which their connections were served, then
    /// mail.
    fn note_carried(&mut self, world: &mut World, order: &[u32], links: &[(u32, LinkId)]) {
        let links: BTreeMap<u32, LinkId> = links.iter().copied().collect();
        let mut published = Vec::new();
        let mut seen = BTreeSet::new();
        for conn in order.iter().filter(|conn| seen.insert(**conn)) {
            let Some(link) = links.get(conn) else { continue };
            let mut taken = world.net.read_bytes(*link);
            let mut left = 0;
            let it = self.turns.conns.get(*conn).filter(|it| it.socket.as_ref().is_some_and(|end| end.link == *link));
            if let Some((it, partial)) = it.and_then(|it| Some((&it.session, it.partial.as_ref()?))) {
                taken -= partial.tail.len() as u64;
                let encoding = it.as_ref().map_or(Encoding::Json, |session| session.encoding());
                left = if partial.rest.is_empty() { 0 } else { count(encoding, &partial.rest[partial.rest_at..]) };
            }
            for deed in world.scripts[*link].advance(taken, left) {
                published.extend(self.note_deed(world, *conn, *link, deed));
            }
        }
        let waiting = self.turns.inbox().filter(|mail| is_noted(mail)).count();
        let done = if world.strict { self.notes.len() - waiting } else { 0 };
        for note in self.notes.drain(..done) {
            match note {
                Note::Subscribe(channel, from) => world.ledger.begin(&channel, from),
                Note::Publish(channel, id) => {
                    world.ledger.accept(&channel, id, true);
                    published.push(id);
                }
            }
        }
        // What the turn had for a full reactor was dropped, and counted.
        let dropped = self.turns.shard.counters.publications_dropped;
        let now = dropped - std::mem::replace(&mut self.dropped, dropped);
        world.post.dropped += now;
        for (to, _) in
            self.turns.host.full.iter().enumerate().filter(|(to, full)| **full && *to != usize::from(self.me))
        {
            published.iter().for_each(|id| world.ledger.drop(to as u16, *id));
            if now > 0 {
                world.post.note_lost(self.me, to as u16, world.step);
            }
        }
    }

    /// The number of the publication, if it was for a channel of this reactor.
    fn note_deed(&mut self, world: &mut World, conn: u32, link: LinkId, deed: Deed) -> Option<u64> {
        let tick = self.now.tick;
        let (nth, channel, id) = match deed {
            Deed::Head => {
                world.scripts[link].opened = Some(tick);
                let key = self.turns.conns.key(conn)?;
                let session = self.turns.conns.get(conn)?.session.as_ref()?;
                world.ledger.name_client(key, session.client());
                return None;
            }
            Deed::Pong => {
                world.scripts[link].pongs.push(tick);
                return None;
            }
            Deed::Signed | Deed::Frame => return None,
            Deed::Other { nth } => (nth, None, None),
            Deed::Subscribe { nth, channel } => (nth, Some(channel), None),
            Deed::Publish { nth, channel, id } => (nth, Some(channel), Some(id)),
        };
        let owner = channel.as_ref().map(|channel| world.owner(channel));
        let full = owner.is_some_and(|owner| self.full[usize::from(owner)]);
        let own = channel.filter(|_| owner == Some(self.me));
        let at = own.as_ref().map(|channel| world.ledger.end(channel));
        world.scripts[link].carried.insert(nth, Carried { tick, at, full });
        let (channel, id) = own.zip(id)?;
        world.ledger.accept(&channel, id, false);
        Some(id)
    }

    // --- going out ---

    fn hand_out(&mut self, world: &mut World, alone: Option<(u64, usize)>) {
        for told in std::mem::take(&mut self.turns.host.told) {
            match told {
                Told::Ask(call) => {
                    let step = world.step + world.rng.below(30) as u64;
                    world.asks.push((step, call));
                }
                // As workers forget what nobody waits for.
                Told::Forget(key) => {
                    world.asks.retain(|(_, call)| call.conn != key || !matches!(call.ask, Ask::Check(_)));
                }
                Told::Hook(hook) => world.hooks.tell(hook),
                Told::Engine(call) => panic!("no channel lives elsewhere: {call:?}"),
                Told::Answer(ticket, answer) => {
                    if let (Some((asked, expected)), ControlAnswer::Met(met)) = (alone, &answer)
                        && asked == ticket
                    {
                        assert_eq!(*met, expected, "clients or subscriptions that the backend meant");
                    }
                    world.answers.push((ticket, answer));
                }
                Told::Send(to, mail) => self.post(world, usize::from(to), mail),
            }
        }
    }

    fn post(&mut self, world: &mut World, to: usize, mail: Vec<Mail>) {
        let me = usize::from(self.me);
        let mut out = Vec::new();
        for mut mail in mail {
            let own = matches!(mail, Mail::Ask(_) | Mail::Event(_)) && to == me;
            assert!(!own, "mail to itself");
            if let Mail::Ask(Request::Leave { gone, .. }) = &mut mail {
                if self.chances.is(Breakage::LoseLeave) {
                    continue;
                }
                let asker = gone.as_mut().filter(|_| self.chances.is(Breakage::LatePresence));
                if let Some(asker) = asker.and_then(|gone| gone.asker.take()) {
                    let answer = Mail::Event(Event::Answer { asker, answer: Answer::Left });
                    world.post.send(me, me, world.step, vec![answer], &mut world.rng);
                    self.late.push((world.step + 20, to, mail));
                    continue;
                }
            }
            out.push(mail);
        }
        let mut rng = Rng::new(world.turn_seed ^ world.step << 8 ^ (me << 4 | to) as u64);
        world.post.send(me, to, world.step, out, &mut rng);
    }

    fn send_late(&mut self, world: &mut World) {
        let step = world.step;
        for (_, to, mail) in self.late.extract_if(.., |(due, ..)| *due <= step) {
            world.post.send(usize::from(self.me), to, step, vec![mail], &mut world.rng);
        }
    }

    // --- checks ---

    /// What the turn left undone on each connection.
    fn note_state(&mut self, world: &World) {
        for (conn, link) in self.links() {
            let waits = self.turns.conns.has_outbox(conn);
            let marks = self.turns.conns.get(conn).map(|it| it.marks).unwrap_or_default();
            world.net.note(
                link,
                self.now.tick,
                waits,
                [Marks::HELD, Marks::UNREAD, Marks::PING_WAITS, Marks::BLOCKED].into_iter().any(|mark| marks.has(mark)),
            );
        }
    }

    /// Whoever has a deadline in this tick had its turn.
    fn check_deadlines(&mut self, world: &World) {
        // Of several that meet in one tick, one is met in each: connection, subscriptions and ping at most. And what is
        // granted late may have ended before.
        let slack = if world.strict { 0 } else { 2 };
        let tick = world.tick;
        let mut late = BTreeMap::new();
        for (conn, it) in self.turns.conns.iter() {
            let session = it.session.as_ref().map_or(Tick::MAX, |session| session.next_deadline());
            let due = session.min(it.io_due).min(it.partial.as_ref().map_or(Tick::MAX, |partial| partial.due));
            if due <= tick {
                let since = self.overdue.get(&conn).copied().unwrap_or(tick);
                assert!(tick - since < slack, "conn {conn}: a deadline was missed, {due} at {tick}");
                late.insert(conn, since);
            }
        }
        self.overdue = late;
    }

    /// What holds after every turn.
    fn check(&self) {
        let (conns, shard) = (&self.turns.conns, &self.turns.shard);
        let mut places: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        let (mut joined, mut clients, mut users) = (0, 0, BTreeSet::new());
        for (conn, it) in conns.iter() {
            let Some(session) = &it.session else { continue };
            assert!(matches!(it.phase, Phase::Client | Phase::Stream), "conn {conn}: a session without its connection");
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
            assert!(dense, "channel {:?}: slots {slots:?} have a gap", shard.hub().name(channel));
        }
        assert_eq!(shard.hub().subscriptions(), joined, "the hub's subscriptions and the sessions'");
        let stats = shard.stats();
        assert_eq!((stats.clients, stats.users), (clients, users.len()), "clients and users of reactor {}", self.me);
        assert_eq!(self.accepted, conns.len() + self.turns.host.gone, "connections that came, are here, and went");
        self.check_memory();
    }

    /// The outbox of a client holds no more than it may, and held input is counted right.
    fn check_memory(&self) {
        let conns = &self.turns.conns;
        let max = self.outbox_max;
        let (mut held, mut output) = (0, 0);
        for (conn, it) in conns.iter() {
            let bytes = conns.output_of(conn);
            output += bytes;
            assert!(bytes <= max || !it.phase.is_open(), "conn {conn}: {bytes} bytes in an outbox of {max}");
            held += it.partial.as_ref().map_or(0, |it| it.tail.len() + it.message.len() + it.rest.len());
            held += it.socket.as_ref().map_or(0, Socket::held);
        }
        assert_eq!(conns.held_bytes(), held, "input that is held, as it is counted");
        assert_eq!(conns.output_bytes(), output, "what waits for peers, as it is counted");
    }

    /// Is a place kept for a reply?
    pub fn has_holes(&self) -> bool {
        self.turns.conns.iter().any(|(conn, _)| self.turns.conns.owes_enough(conn, 1))
    }

    /// Does anything wait for a peer that still reads?
    pub fn waits(&self, hears: impl Fn(LinkId) -> bool) -> bool {
        // Pings wait too, where what is sent is held back, and others with them.
        let more = |conn| self.turns.conns.waiting(conn) > PING_BYTES_MAX || self.turns.conns.owes_enough(conn, 1);
        self.links().into_iter().any(|(conn, link)| hears(link) && more(conn))
    }

    /// What is not done, for a simulation that does not come to rest.
    pub fn unrest(&self) -> String {
        let turns = &self.turns;
        let conns = turns.conns.iter().filter(|(conn, it)| it.partial.is_some() || turns.conns.has_outbox(*conn));
        let conns: Vec<String> = conns
            .map(|(conn, it)| {
                format!(
                    "{conn} {:?} {:?} waits {} owes {}",
                    it.phase,
                    it.marks,
                    turns.conns.waiting(conn),
                    turns.conns.owes_enough(conn, 1)
                )
            })
            .collect();
        format!("work {} mail {} {conns:?}", turns.has_work(), turns.mail_waiting())
    }

    /// Each channel's subscribers as this reactor, their owner, counts them.
    pub fn channels(&mut self, now: Now) -> Vec<(String, u64)> {
        let mail = Mail::Control { ticket: 0, control: Box::new(Control::Channels(None)) };
        match self.question(now, mail) {
            ControlAnswer::Channels(list) => list.into_iter().map(|(name, count)| (name.to_string(), count)).collect(),
            other => panic!("a question brought {other:?}"),
        }
    }

    /// Asks between two turns.
    pub fn question(&mut self, now: Now, mail: Mail) -> ControlAnswer {
        let Turns { shard, conns, .. } = &mut self.turns;
        shard.mail(now, conns, mail);
        let out: Vec<gannet::shard::Out> = shard.out.drain(..).collect();
        match out.into_iter().next() {
            Some(gannet::shard::Out::Answer { answer, .. }) => answer,
            other => panic!("a question brought {other:?}"),
        }
    }
}

fn is_noted(mail: &Mail) -> bool {
    matches!(mail, Mail::Ask(Request::Subscribe { .. } | Request::Publish { .. }))
}
