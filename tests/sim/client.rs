//! A simulated client: speaks the real protocol, does wrong on purpose, and checks all that it hears.
//!
//! What a connection is to answer is foreseen when a command is sent ([`Expect`]) and judged when its reply is read:
//! by then the client has read all that the server did before it, so its view of its subscriptions is the server's.

use crate::ledger::{Ledger, Sent};
use crate::net::LinkId;
use crate::node::World;
use crate::script::{Carried, Deed};
use crate::wire;
use gannet::base::wheel::Tick;
use gannet::broker::ConnKey;
use gannet::protocol::{Command, Encoding, Publication, Push, Reply};
use std::collections::{BTreeMap, VecDeque};
use tungstenite::protocol::frame::coding::OpCode;

/// Ticks that a pong frame may take.
const FRAME_PONG_TICKS: Tick = 100;

/// What a close frame without a code counts as (RFC 6455 section 7.1.5).
pub const NO_CODE: u16 = 1005;

#[derive(Debug, Clone)]
pub enum Expect {
    Connect,
    Subscribe(String),
    Unsubscribe(String),
    Publish {
        channel: String,
        empty: bool,
    },
    SubRefresh(String),
    Refresh,
    /// An error reply with this code, whatever the state.
    Error(u32),
    Close(u16),
}

impl Expect {
    /// Does its answer come from the owner of a channel?
    fn waits(&self) -> bool {
        matches!(self, Expect::Subscribe(_) | Expect::Publish { .. })
    }
}

/// How far the server will have come once it has read all that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foreseen {
    New,
    Connected,
    /// The connect command gets an error: whatever comes next ends the connection.
    Refused,
    Doomed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    Fast,
    Slow,
    Not,
}

/// Where in the owner's order a subscription stands.
enum At {
    /// Where its so-manieth from this connection began.
    Nth(usize),
    /// What it hears next.
    Next(usize),
    /// With two commands of one id the client cannot know.
    Unknown,
}

/// The first and the last tick in which something may have happened.
type Range = (Tick, Tick);

/// A command that waits for its reply.
#[derive(Debug)]
pub struct Pending {
    pub id: u32,
    pub expect: Expect,
    /// Its number on this connection, if it is one.
    nth: Option<usize>,
}

/// One connection, from the client's end.
pub struct Talk {
    pub link: LinkId,
    pub key: ConnKey,
    pub encoding: Encoding,
    pub frame_pings: bool,
    inbox: Vec<u8>,
    /// Bytes of the server's that were read in whole frames.
    parsed: u64,
    /// The answer to the upgrade was read.
    switched: bool,
    pub foreseen: Foreseen,
    pub user: String,
    pub pending: VecDeque<Pending>,
    /// Commands sent so far.
    commands: usize,
    view: BTreeMap<String, At>,
    begun: BTreeMap<String, usize>,
    /// When the connect command was carried out, if with success.
    connected: Option<Tick>,
    /// When the pings that it heard were sent.
    pings: Vec<Range>,
    /// A reply was left out: only a close may follow.
    must_close: bool,
    pub duplicates_ids: bool,
    pub answers_pings: bool,
    /// A pong that nobody asked for was sent: 3501 may come at any time.
    pub loose: bool,
    pub reads: Reads,
    pub may_expire: bool,
    pub pings_sent: VecDeque<Vec<u8>>,
    pub said_close: bool,
    pub closed: Option<u16>,
    pub next_id: u32,
    /// Frames that are to be sent in answer to what was read.
    owed: Vec<(OpCode, Vec<u8>)>,
}

/// What reading brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    Nothing,
    /// The server's close frame.
    Close,
    /// The end of the stream.
    End,
}

impl Talk {
    pub fn new(link: LinkId, key: ConnKey, encoding: Encoding, frame_pings: bool) -> Talk {
        Talk {
            link,
            key,
            encoding,
            frame_pings,
            inbox: Vec::new(),
            parsed: 0,
            switched: false,
            foreseen: Foreseen::New,
            user: String::new(),
            pending: VecDeque::new(),
            commands: 0,
            view: BTreeMap::new(),
            begun: BTreeMap::new(),
            connected: None,
            pings: Vec::new(),
            must_close: false,
            duplicates_ids: false,
            answers_pings: true,
            loose: false,
            reads: Reads::Fast,
            may_expire: false,
            pings_sent: VecDeque::new(),
            said_close: false,
            closed: None,
            next_id: 0,
            owed: Vec::new(),
        }
    }

    // --- sending ---

    /// Asks for the upgrade.
    pub fn send_head(&self, world: &mut World) {
        world.say(self.link, &wire::upgrade(self.encoding, self.frame_pings), vec![Deed::Head]);
    }

    pub fn send_frame(&mut self, world: &mut World, opcode: OpCode, payload: &[u8], deeds: Vec<Deed>) {
        let mut bytes = Vec::new();
        let mask = (world.rng.next() as u32).to_le_bytes();
        wire::frame(&mut bytes, opcode, true, payload, mask);
        world.say(self.link, &bytes, deeds);
    }

    /// A message in one frame, or in several with a ping between them.
    pub fn send_message(&mut self, world: &mut World, message: &[u8], deeds: Vec<Deed>) {
        let opcode = if self.encoding == Encoding::Json { wire::TEXT } else { wire::BINARY };
        if !world.rng.chance(15) {
            return self.send_frame(world, opcode, message, deeds);
        }
        let (first, rest) = message.split_at(world.rng.below(message.len() + 1));
        let mut bytes = Vec::new();
        wire::frame(&mut bytes, opcode, false, first, [1, 2, 3, 4]);
        let ping = world.rng.next().to_string().into_bytes();
        wire::frame(&mut bytes, wire::PING, true, &ping, [0; 4]);
        self.pings_sent.push_back(ping);
        wire::frame(&mut bytes, wire::CONTINUE, true, rest, [9, 8, 7, 6]);
        world.say(self.link, &bytes, deeds);
    }

    /// Bytes that end the connection with `code`.
    pub fn send_fatal(&mut self, world: &mut World, bytes: &[u8], code: u16) {
        world.net.send(self.link, bytes);
        self.expect(0, None, Expect::Close(code));
    }

    /// A command is about to be sent, and this is to come.
    pub fn expect_reply(&mut self, command: &Command, expect: Option<Expect>) -> Deed {
        let nth = self.commands;
        self.commands += 1;
        if let Some(expect) = expect {
            self.expect(command.id, Some(nth), expect);
        }
        match (&command.subscribe, &command.publish) {
            (Some(subscribe), _) => Deed::Subscribe { nth, channel: subscribe.channel.clone() },
            (_, Some(publish)) if !publish.data.is_empty() => {
                let id = Ledger::id(&publish.data).expect("a publication of this simulation");
                Deed::Publish { nth, channel: publish.channel.clone(), id }
            }
            _ => Deed::Other { nth },
        }
    }

    /// Notes what is to come, unless the connection is over by then anyway.
    pub fn expect(&mut self, id: u32, nth: Option<usize>, expect: Expect) {
        if self.foreseen == Foreseen::Doomed {
            return;
        }
        if matches!(expect, Expect::Close(_)) {
            self.foreseen = Foreseen::Doomed;
        }
        self.pending.push_back(Pending { id, expect, nth });
    }

    // --- reading ---

    pub fn read(&mut self, world: &mut World) -> Heard {
        let max = match self.reads {
            Reads::Fast => usize::MAX,
            Reads::Slow => world.rng.below(60),
            Reads::Not => 0,
        };
        let (bytes, ended) = world.net.receive(self.link, max);
        self.inbox.extend(bytes);
        let mut heard = Heard::Nothing;
        self.read_head();
        while let Some((size, opcode, payload)) = self.next_frame() {
            let written = world.net.stamp(self.link, self.parsed);
            let sent = (world.net.lag(self.link, written), written);
            self.parsed += size;
            assert!(self.closed.is_none(), "a frame after the close frame");
            let at = [u64::from(world.tick), u64::from(self.key.reactor), u64::from(self.key.index)];
            world.log.add("heard", at, &payload);
            self.hear(world, opcode, payload, sent);
            if self.closed.is_some() {
                heard = Heard::Close;
            }
        }
        for (opcode, payload) in std::mem::take(&mut self.owed) {
            self.send_frame(world, opcode, &payload, vec![Deed::Pong]);
        }
        if ended && heard == Heard::Nothing {
            let excused = self.closed.is_some() || self.said_close || world.net.was_broken_off(self.link);
            assert!(excused, "the stream ended without a close frame: {:?}", self.pending);
            return Heard::End;
        }
        heard
    }

    /// The answer to the upgrade.
    fn read_head(&mut self) {
        if !self.switched
            && let Some(end) = wire::head_end(&self.inbox)
        {
            let head: Vec<u8> = self.inbox.drain(..end).collect();
            assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
            self.parsed += end as u64;
            self.switched = true;
        }
    }

    /// The next frame, with its size.
    fn next_frame(&mut self) -> Option<(u64, OpCode, Vec<u8>)> {
        if !self.switched {
            return None;
        }
        let before = self.inbox.len();
        let (opcode, payload) = wire::parse(&mut self.inbox)?;
        Some(((before - self.inbox.len()) as u64, opcode, payload))
    }

    fn hear(&mut self, world: &mut World, opcode: OpCode, payload: Vec<u8>, sent: Range) {
        let data = if self.encoding == Encoding::Json { wire::TEXT } else { wire::BINARY };
        if opcode == data {
            if payload == self.encoding.ping() {
                return self.pinged(world, data, sent);
            }
            for reply in wire::replies(self.encoding, &payload) {
                world.log.follow([u64::from(self.key.reactor), u64::from(self.key.index)], &reply);
                match reply.push {
                    Some(push) => self.pushed(world, push),
                    None => {
                        let code = reply.error.as_ref().map(|error| error.code);
                        code.into_iter().for_each(|code| *world.codes.entry(code).or_default() += 1);
                        self.answered(world, reply);
                    }
                }
            }
        } else if opcode == wire::PING {
            assert!(self.frame_pings, "a ping frame that nobody asked for");
            self.watch_ping(world, sent);
            if self.answers_pings {
                self.owed.push((wire::PONG, payload));
            }
        } else if opcode == wire::PONG {
            assert_eq!(self.pings_sent.pop_front(), Some(payload), "a pong to no ping");
        } else {
            assert_eq!(opcode, wire::CLOSE, "a frame of the wrong kind");
            let code = payload.first_chunk().map_or(NO_CODE, |code| u16::from_be_bytes(*code));
            *world.codes.entry(u32::from(code)).or_default() += 1;
            self.watch_close(world, code, sent);
            self.end(world, code);
        }
    }

    /// Pings keep their interval and their grid to the tick.
    fn watch_ping(&mut self, world: &World, sent: Range) {
        let (interval, grid) = (world.options.rules.ping_interval, world.options.rules.ping_grid);
        let (from, to) = sent;
        let connected = self.connected.expect("pings begin with the connect reply");
        let window = match self.pings.last() {
            Some((from, to)) => from + interval - (grid - 1)..=to + interval,
            None => connected + interval - interval / 2 - (grid - 1)..=connected + interval,
        };
        let fits = (from..=to).any(|tick| window.contains(&tick) && tick.is_multiple_of(grid));
        assert!(fits, "{:?}: a ping at {sent:?}, not in {window:?} on the grid of {grid}", self.key);
        self.pings.push(sent);
    }

    /// Who is late is closed at the tick, neither sooner nor for nothing.
    fn watch_close(&self, world: &World, code: u16, (from, to): Range) {
        let script = &world.scripts[self.link];
        if code == 3502 {
            assert!(self.connected.is_none(), "{:?}: a connected client is not stale", self.key);
            let due = script.opened.expect("its head was read") + world.options.rules.stale_delay;
            assert!((from..=to).contains(&due), "{:?}: 3502 at {from}..{to}, due at {due}", self.key);
        }
        let timeout = if self.frame_pings { Some(FRAME_PONG_TICKS) } else { world.options.rules.pong_timeout };
        let (3012, Some(timeout)) = (code, timeout) else { return };
        // The first ping that no pong followed: one in the same tick may stand before the pong or behind it.
        let fits = script.pongs.iter().copied().filter(|pong| *pong <= to).chain([0]).any(|heard| {
            let next = script.pongs.iter().find(|pong| **pong > heard);
            let unanswered = self.pings.iter().filter(|(_, ping)| *ping >= heard);
            let first = unanswered.clone().find(|(ping, _)| *ping > heard).map_or(to, |(ping, _)| *ping);
            next.is_none_or(|next| *next >= from)
                && unanswered.filter(|(ping, _)| *ping <= first).any(|ping| {
                    let postponed = world.net.was_unheard(self.link, ping.0, to);
                    to >= ping.0 + timeout && (from <= ping.1 + timeout || postponed)
                })
        });
        assert!(fits, "{:?}: 3012 at {from}..{to}, pings {:?}, pongs {:?}", self.key, self.pings, script.pongs);
    }

    fn pinged(&mut self, world: &World, data: OpCode, sent: Range) {
        assert!(!self.frame_pings, "a ping of the wrong kind");
        self.watch_ping(world, sent);
        if self.answers_pings && world.options.rules.pong_timeout.is_some() {
            self.owed.push((data, self.encoding.ping().to_vec()));
        }
    }

    fn answered(&mut self, world: &mut World, reply: Reply) {
        if self.must_close {
            return;
        }
        let fits = |pending: &Pending| pending.id == reply.id && self.fits(world, &pending.expect, &reply);
        // Answers to commands of one id may change places among themselves.
        let reach = if self.duplicates_ids { self.pending.len() } else { 1 };
        if let Some(at) = self.pending.iter().take(reach).position(fits)
            && let Some(Pending { expect, nth, .. }) = self.pending.remove(at)
        {
            let nth = nth.expect("a close has no reply");
            let carried = world.scripts[self.link].carried.remove(&nth).expect("a reply to what was not carried out");
            return self.accept(world, expect, &reply, carried);
        }
        // A command that had no answer yet when the server ended the connection.
        let skipped = self.pending.front().is_some_and(|pending| pending.expect.waits());
        assert!(skipped, "expected {:?}, got {reply:?}", self.pending.front());
        self.must_close = true;
    }

    fn fits(&self, world: &World, expect: &Expect, reply: &Reply) -> bool {
        let error = reply.error.as_ref().map(|error| error.code);
        let is = |code: Option<u32>, done: bool| match code {
            Some(code) => error == Some(code),
            None => error.is_none() && done,
        };
        match expect {
            Expect::Connect => is(None, reply.connect.is_some()),
            Expect::Subscribe(channel) => {
                let code = self.subscribe_error(world, channel);
                is(code, reply.subscribe.is_some()) || code.is_none() && error == Some(111)
            }
            Expect::Unsubscribe(_) => is(None, reply.unsubscribe.is_some()),
            Expect::Publish { channel, empty } => {
                let code = self.publish_error(world, channel).or(empty.then_some(107));
                is(code, reply.publish.is_some()) || code.is_none() && error == Some(111)
            }
            Expect::SubRefresh(channel) => is(Some(if self.view.contains_key(channel) { 107 } else { 103 }), false),
            Expect::Refresh => is(None, reply.refresh.is_some()),
            Expect::Error(code) => is(Some(*code), false),
            Expect::Close(_) => false,
        }
    }

    /// What is wrong with a name whatever is done with it; 106 and its like come between the two checks.
    fn name_error(world: &World, name: &str, between: impl FnOnce() -> Option<u32>) -> Option<u32> {
        if name.len() > world.options.config.channel.max_length {
            return Some(107);
        }
        let state = between();
        if state.is_some() {
            return state;
        }
        if world.options.rules.channel(name).is_none() {
            return Some(102);
        }
        (!name.is_ascii()).then_some(107)
    }

    /// The order of protocol section 7; `None` = it is taken, or its owner is busy.
    fn subscribe_error(&self, world: &World, name: &str) -> Option<u32> {
        let state = || {
            let full = self.view.len() >= world.options.config.client.channel_limit;
            if self.view.contains_key(name) { Some(105) } else { full.then_some(106) }
        };
        Talk::name_error(world, name, state).or_else(|| {
            let open = !name.contains(':') || name.starts_with("room:") && !self.user.is_empty();
            let allowed = world.options.config.client.insecure || open;
            (name.starts_with('$') || !allowed).then_some(103)
        })
    }

    fn publish_error(&self, world: &World, name: &str) -> Option<u32> {
        Talk::name_error(world, name, || None).or_else(|| {
            let in_room = name.starts_with("room:") && !self.user.is_empty() && self.view.contains_key(name);
            let allowed = world.options.config.client.insecure || !name.contains(':') || in_room;
            (!allowed).then_some(103)
        })
    }

    fn accept(&mut self, world: &mut World, expect: Expect, reply: &Reply, carried: Carried) {
        let error = reply.error.as_ref().map(|error| error.code);
        if let Expect::Subscribe(channel) | Expect::Publish { channel, .. } = &expect {
            self.check_full(world, channel, error, carried);
        }
        match expect {
            Expect::Connect => {
                let client = reply.connect.as_ref().map_or("", |result| &result.client);
                assert_eq!(client.len(), 36, "a client id is a UUID");
                self.connected = Some(carried.tick);
            }
            Expect::Subscribe(channel) if error.is_none() => {
                let own = world.owner(&channel) == self.key.reactor;
                let at = match carried.at {
                    _ if self.duplicates_ids => At::Unknown,
                    Some(at) if own => At::Next(at),
                    _ => At::Nth(self.begun.get(&channel).copied().unwrap_or(0)),
                };
                *self.begun.entry(channel.clone()).or_default() += 1;
                self.view.insert(channel, at);
            }
            Expect::Unsubscribe(channel) => {
                self.view.remove(&channel);
            }
            Expect::Publish { channel, empty: false } if !self.duplicates_ids => {
                if let Some(at) = carried.at {
                    world.ledger.settle(&channel, at, error.is_none());
                }
            }
            _ => {}
        }
    }

    /// An owner that takes no more is asked nothing, and only then.
    fn check_full(&self, world: &World, channel: &str, error: Option<u32>, carried: Carried) {
        if self.duplicates_ids {
            return;
        }
        assert!(error.is_some() || !carried.full, "a command was taken for a full owner");
        // Its own hub may have become full in the turn.
        let may_fill = carried.at.is_some() && world.options.config.reactor.fanout_queue_size < 1 << 20;
        assert!(error != Some(111) || carried.full || may_fill, "{channel}: 111 without need");
    }

    fn pushed(&mut self, world: &mut World, push: Push) {
        if self.must_close {
            return;
        }
        if let Some(unsubscribe) = push.unsubscribe {
            assert_eq!(unsubscribe.code, 2000);
            if self.view.remove(&push.channel).is_none() {
                self.miss(&push.channel);
            }
            return;
        }
        let publication = push.publication.expect("pushes are publications or unsubscribes");
        let Some(place) = self.view.get(&push.channel) else {
            // With two commands of one id the client cannot know which was answered.
            assert!(self.duplicates_ids, "a publication in {}, which is not subscribed", push.channel);
            return self.miss(&push.channel);
        };
        let heard = Ledger::id(&publication.data);
        let from = match *place {
            At::Next(at) => at,
            At::Nth(nth) => world.ledger.begun(&push.channel, self.key, nth).expect("a subscription begins"),
            At::Unknown => world.ledger.place(&push.channel, heard).expect("somebody sent it"),
        };
        let at = world.ledger.hear(&push.channel, self.key.reactor, from, heard);
        let at = at.unwrap_or_else(|why| panic!("{}: from {from} on, publication {why}", push.channel));
        self.view.insert(push.channel, At::Next(at + 1));
        let ledger = &world.ledger;
        check_content(ledger, ledger.sent(heard.expect("it was found")), &publication, self.encoding);
    }

    /// A push about a subscription whose reply was left out: the connection ended before the owner's answer came.
    fn miss(&mut self, channel: &str) {
        let asked = |pending: &Pending| matches!(&pending.expect, Expect::Subscribe(name) if name == channel);
        assert!(self.pending.iter().any(asked), "a push about {channel}, which is not subscribed");
        self.must_close = true;
    }

    fn end(&mut self, world: &World, code: u16) {
        self.closed = Some(code);
        // Places of replies that were kept when the end came; after one, answers are not followed.
        let skipped = self.must_close;
        while self.pending.len() > 1 && (skipped || self.pending[0].expect.waits()) {
            self.pending.pop_front();
        }
        if matches!(self.pending.front(), Some(Pending { expect: Expect::Close(expected), .. }) if *expected == code) {
            return;
        }
        let options = &world.options;
        let possible = match code {
            // Their ticks and sizes are checked where they arise.
            3008 => true,
            3012 => self.frame_pings || options.rules.pong_timeout.is_some(),
            3502 => self.connected.is_none(),
            3005 => self.may_expire,
            3501 => self.loose,
            3503 | 4000 => world.ledger.disconnected.contains(&self.user),
            3506 => self.encoding == Encoding::Json && world.ledger.has_binary(),
            3001 => world.ledger.shutting_down,
            _ => false,
        };
        assert!(possible, "closed with {code}, foreseen {:?}", self.pending);
    }

    // --- at rest ---

    pub fn subscriptions(&self) -> usize {
        self.view.len()
    }

    /// All has been said: nothing may be owed.
    pub fn check_rest(&self, world: &World) {
        if self.closed.is_some() {
            return;
        }
        assert!(self.pending.is_empty(), "{:?}: unanswered at rest: {:?}", self.key, self.pending);
        assert!(!self.must_close, "an answer is missing, and the connection lives on");
        assert!(self.pings_sent.is_empty(), "a ping frame without its pong");
        for (channel, at) in &self.view {
            let from = match *at {
                At::Next(at) => at,
                At::Nth(nth) => world.ledger.begun(channel, self.key, nth).expect("a subscription begins"),
                At::Unknown => continue,
            };
            let missed = world.ledger.next(channel, self.key.reactor, from);
            assert_eq!(missed, None, "{channel}: conn {:?} never heard it", self.key);
        }
    }
}

/// The payload is what was sent, and its publisher who sent it.
fn check_content(ledger: &Ledger, sent: &Sent, publication: &Publication, encoding: Encoding) {
    let mut data = sent.data.clone();
    if encoding == Encoding::Json {
        assert!(sent.is_json, "a JSON client was given what is no JSON");
        // Line ends would end the reply.
        data.iter_mut().filter(|byte| matches!(**byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
    }
    assert_eq!(publication.data, data, "the payload changed on the way");
    let info = publication.info.as_ref().map(|info| (info.client.clone(), info.user.clone()));
    match sent.by {
        Some(key) => assert!(info.is_some() && ledger.who(key).is_none_or(|who| Some(who) == info), "the publisher"),
        None => assert_eq!(info, None, "the publisher"),
    }
}

/// A command with a number and nothing else.
pub fn command(id: u32) -> Command {
    Command { id, ..Command::default() }
}
