//! F7 · A client's subscriptions in any order of events, beside a small model.
//!
//! The channels belong to another reactor and some are decided about by the backend, so each answer comes when the test
//! says so. Owns the model: the state of each channel, what each command is answered with, what is pushed.

use super::{Node, SEED, granted, now};
use crate::broker::{CHANNEL_PARTS, Event, Limits, Memory, Request, Target, owner};
use crate::config::{ChannelOptions, NamespaceOptions};
use crate::protocol::SubscribeRequest;
use crate::protocol::code::ClientError;
use crate::session::Sessions;
use crate::session::backend::{Ask, Said, SubscribeGrant};
use crate::shard::{Chosen, Control, Mail, Out};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

const CHANNELS: usize = 4;
const ALREADY_SUBSCRIBED: u64 = 105;
const REFUSED: u64 = 103;

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    None,
    /// The backend is asked, for this command.
    Reserved(u32),
    /// The owner is asked: the number of the question.
    Waiting(usize),
    Live,
}

/// Who is told: the client by the reply to this command, or by a push.
type Teller = Option<u32>;

struct World {
    node: Node,
    conn: u32,
    names: Vec<String>,
    owner: Memory,
    to_owner: VecDeque<Request>,
    next_id: u32,
    // What the server did.
    replies: HashMap<u32, Vec<Value>>,
    holes: usize,
    subscribe_pushes: usize,
    unsubscribe_pushes: usize,
    closed: bool,
    // The model.
    states: [State; CHANNELS],
    by_server: [bool; CHANNELS],
    /// Questions to the owner by which the server begins a subscription anew.
    anew: [VecDeque<usize>; CHANNELS],
    /// The server wants a subscription, once the client's own command is answered.
    wanted: [bool; CHANNELS],
    /// Each question to the owner: the channel, and who is told.
    questions: Vec<(usize, Teller)>,
    /// Those not answered.
    unanswered: VecDeque<usize>,
    /// By command: 0 for a good answer, or the error's code.
    expected: HashMap<u32, u64>,
    expected_subscribe_pushes: usize,
    expected_unsubscribe_pushes: usize,
}

/// A name in `namespace` of a channel that the other reactor owns.
fn elsewhere(namespace: &str) -> String {
    let names = (0..).map(|number| format!("{namespace}:{number}"));
    names.into_iter().find(|name| owner(name, 2, SEED) == 1).expect("half of them are")
}

/// Two that the backend decides about, two with a position.
fn is_asked(channel: usize) -> bool {
    channel >= 2
}

fn is_positioned(channel: usize) -> bool {
    channel % 2 == 1
}

impl World {
    fn new() -> World {
        let namespaces = ["plain", "kept", "asked", "both"];
        let mut node = Node::new(
            2,
            |config| {
                for (channel, name) in namespaces.into_iter().enumerate() {
                    let options = ChannelOptions {
                        allow_subscribe_for_client: !is_asked(channel),
                        allow_subscribe_for_anonymous: !is_asked(channel),
                        subscribe_proxy_enabled: is_asked(channel),
                        history_size: if is_positioned(channel) { 10 } else { 0 },
                        history_ttl: Duration::from_secs(if is_positioned(channel) { 60 } else { 0 }),
                        force_positioning: is_positioned(channel),
                        ..ChannelOptions::default()
                    };
                    config.channel.namespaces.push(NamespaceOptions { name: name.into(), options });
                }
            },
            |_| {},
        );
        let conn = node.open();
        node.say(conn, &[json!({"id": 1, "connect": {}})]);
        World {
            node,
            conn,
            names: namespaces.map(elsewhere).to_vec(),
            owner: Memory::new(3, Limits { history_bytes: 0, recent: 0 }),
            to_owner: VecDeque::new(),
            next_id: 2,
            replies: HashMap::new(),
            holes: 0,
            subscribe_pushes: 0,
            unsubscribe_pushes: 0,
            closed: false,
            states: [State::None; CHANNELS],
            by_server: [false; CHANNELS],
            anew: Default::default(),
            wanted: [false; CHANNELS],
            questions: Vec::new(),
            unanswered: VecDeque::new(),
            expected: HashMap::new(),
            expected_subscribe_pushes: 0,
            expected_unsubscribe_pushes: 0,
        }
    }

    // --- what the server does ---

    /// Takes in what the shard gave out, and what its hub has to deliver.
    fn settle(&mut self) {
        loop {
            self.node.shard.fan_out(now(), &mut self.node.clients, 100);
            let all = std::mem::take(&mut self.node.shard.out);
            if all.is_empty() {
                return;
            }
            for out in all {
                match out {
                    Out::Send { frame, .. } => self.hear(&frame),
                    Out::Hole { .. } => self.holes += 1,
                    Out::Fill { frame, .. } => {
                        self.holes -= 1;
                        self.hear(&frame);
                    }
                    Out::Close { .. } => self.closed = true,
                    Out::Mail { reactor: 1, mail: Mail::Ask(request) } => self.to_owner.push_back(request),
                    Out::Ask(call) => self.node.asked.push(*call),
                    Out::Answer { .. } | Out::Sooner { .. } | Out::Gone(_) => {}
                    other => panic!("out of place: {other:?}"),
                }
            }
        }
    }

    fn hear(&mut self, frame: &[u8]) {
        let payload = if frame[1] < 126 { &frame[2..] } else { &frame[4..] };
        for line in payload.split(|byte| *byte == b'\n') {
            let reply: Value = serde_json::from_slice(line).expect("JSON");
            match reply["id"].as_u64() {
                Some(id) => self.replies.entry(id as u32).or_default().push(reply),
                None => {
                    self.subscribe_pushes += usize::from(!reply["push"]["subscribe"].is_null());
                    self.unsubscribe_pushes += usize::from(!reply["push"]["unsubscribe"].is_null());
                }
            }
        }
    }

    fn say(&mut self, command: &str, channel: usize) -> u32 {
        let id = self.next_id;
        self.next_id += 1;
        let mut message = json!({"id": id});
        message[command] = json!({"channel": self.names[channel]});
        let message = message.to_string();
        self.node.shard.command(now(), &mut self.node.clients, self.conn, message.as_bytes(), true);
        id
    }

    fn control(&mut self, control: Control) {
        let mail = Mail::Control { ticket: 1, control: Box::new(control) };
        self.node.shard.mail(now(), &mut self.node.clients, mail);
    }

    // --- the steps ---

    fn step(&mut self, what: u8, channel: usize) {
        match what {
            0 | 1 => self.subscribe(channel),
            2 => self.unsubscribe(channel),
            3 | 4 => self.owner_answers(),
            5 => self.backend_answers(channel, granted()),
            6 => self.backend_answers(channel, Said::Error(ClientError::PermissionDenied.into())),
            7 => self.gap(channel),
            8 => self.server_subscribes(channel),
            _ => self.server_unsubscribes(channel),
        }
        self.settle();
    }

    /// What the server wanted while the client's own command was not answered.
    fn begin_wanted(&mut self, channel: usize) {
        if !std::mem::take(&mut self.wanted[channel]) {
            return;
        }
        match self.states[channel] {
            State::None => self.asks_owner(channel, None),
            _ => self.asks_anew(channel),
        }
    }

    fn asks_anew(&mut self, channel: usize) {
        self.unanswered.push_back(self.questions.len());
        self.anew[channel].push_back(self.questions.len());
        self.questions.push((channel, None));
    }

    fn asks_owner(&mut self, channel: usize, teller: Teller) {
        self.unanswered.push_back(self.questions.len());
        self.states[channel] = State::Waiting(self.questions.len());
        self.by_server[channel] = teller.is_none();
        self.questions.push((channel, teller));
    }

    fn subscribe(&mut self, channel: usize) {
        let id = self.say("subscribe", channel);
        match self.states[channel] {
            State::None if is_asked(channel) => self.states[channel] = State::Reserved(id),
            State::None => self.asks_owner(channel, Some(id)),
            State::Reserved(_) | State::Waiting(_) | State::Live => {
                self.expected.insert(id, ALREADY_SUBSCRIBED);
            }
        }
    }

    fn unsubscribe(&mut self, channel: usize) {
        let id = self.say("unsubscribe", channel);
        self.expected.insert(id, 0);
        self.states[channel] = State::None;
        self.anew[channel].clear();
        self.wanted[channel] = false;
    }

    fn owner_answers(&mut self) {
        let Some(request) = self.to_owner.pop_front() else { return };
        let is_question = matches!(request, Request::Subscribe { .. });
        let mut told = Vec::new();
        self.owner.handle(now().unix_ms, request, &mut told);
        for (target, event) in told {
            assert_eq!(target, Target::Reactor(0));
            self.node.shard.mail(now(), &mut self.node.clients, Mail::Event(event));
        }
        if !is_question {
            return;
        }
        let number = self.unanswered.pop_front().expect("a question");
        let (channel, teller) = self.questions[number];
        let anew = self.anew[channel].front() == Some(&number);
        if anew {
            self.anew[channel].pop_front();
            self.by_server[channel] = true;
        }
        let begins = anew || self.states[channel] == State::Waiting(number);
        if begins {
            self.states[channel] = State::Live;
        }
        match teller {
            Some(id) => drop(self.expected.insert(id, 0)),
            None => self.expected_subscribe_pushes += usize::from(begins),
        }
        if begins && teller.is_some() {
            self.begin_wanted(channel);
        }
    }

    /// To one of the questions.
    fn backend_answers(&mut self, which: usize, said: Said) {
        if self.node.asked.is_empty() {
            return;
        }
        let call = self.node.asked.remove(which % self.node.asked.len());
        let Ask::Subscribe(request) = &call.ask else { panic!("{call:?}") };
        let channel = self.names.iter().position(|name| *name == request.channel).expect("one of ours");
        let grants = matches!(said, Said::Subscribe(_));
        let mail = Mail::Backend { conn: call.conn, ticket: call.ticket, ask: call.ask, said };
        self.node.shard.mail(now(), &mut self.node.clients, mail);
        if self.states[channel] != State::Reserved(call.ticket) {
            self.expected.insert(call.ticket, 0);
        } else if grants {
            self.asks_owner(channel, Some(call.ticket));
        } else {
            self.expected.insert(call.ticket, REFUSED);
            self.states[channel] = State::None;
            self.begin_wanted(channel);
        }
    }

    fn gap(&mut self, channel: usize) {
        let event = Event::Gap { channel: self.names[channel].as_str().into() };
        self.node.shard.mail(now(), &mut self.node.clients, Mail::Event(event));
        self.settle();
        if self.states[channel] != State::Live || !is_positioned(channel) {
            return;
        }
        if self.by_server[channel] {
            assert!(self.closed, "a client whose server-side subscription has a gap connects anew");
            return;
        }
        self.expected_unsubscribe_pushes += 1;
        self.states[channel] = State::None;
        if let Some(number) = self.anew[channel].pop_front() {
            self.states[channel] = State::Waiting(number);
            self.by_server[channel] = true;
        }
    }

    fn server_subscribes(&mut self, channel: usize) {
        let request = SubscribeRequest { channel: self.names[channel].clone(), ..SubscribeRequest::default() };
        let grant = SubscribeGrant::default();
        self.control(Control::Subscribe { chosen: Chosen::default(), request, grant });
        match self.states[channel] {
            State::None => self.asks_owner(channel, None),
            State::Waiting(_) if !self.by_server[channel] => self.wanted[channel] = true,
            State::Reserved(_) => self.wanted[channel] = true,
            State::Waiting(_) | State::Live => self.asks_anew(channel),
        }
    }

    fn server_unsubscribes(&mut self, channel: usize) {
        self.control(Control::Unsubscribe { chosen: Chosen::default(), channel: self.names[channel].clone() });
        let untold = matches!(self.states[channel], State::Waiting(_)) && self.by_server[channel];
        self.expected_unsubscribe_pushes += usize::from(self.states[channel] != State::None && !untold);
        self.states[channel] = State::None;
        self.anew[channel].clear();
        self.wanted[channel] = false;
    }

    // --- what must hold ---

    /// The subscribers that the owner counts, by channel.
    fn channels(&self) -> Vec<u64> {
        (0..CHANNEL_PARTS).flat_map(|part| self.owner.channels(part).map(|(_, clients)| clients)).collect()
    }

    fn check(&mut self) {
        let live = self.states.iter().filter(|state| **state == State::Live).count();
        assert_eq!(self.node.shard.hub().subscriptions(), live, "{:?}", self.states);
        let all = self.states.iter().filter(|state| **state != State::None).count();
        let all = all + self.anew.iter().map(VecDeque::len).sum::<usize>();
        let session = self.node.clients.session(self.conn).expect("a session");
        assert_eq!(session.subscriptions(), all, "{:?}", self.states);
        // Each live one knows its place, and the hub knows its way back.
        let places: Vec<_> = (0..all as u16).filter_map(|back| Some((back, session.slot(back)?))).collect();
        assert_eq!(places.len(), live);
        for (back, (id, slot)) in places {
            let found = self.node.shard.hub().slot(id, slot).map(|slot| (slot.conn, slot.back));
            assert_eq!(found, Some((self.conn, back)));
        }
        for (id, code) in &self.expected {
            let got: Vec<u64> = self.replies.get(id).into_iter().flatten().map(code_of).collect();
            assert_eq!(got, [*code], "command {id}");
        }
        assert_eq!(self.replies.len(), self.expected.len());
        assert_eq!(self.holes + self.expected.len() + 2, self.next_id as usize, "who is not answered keeps a place");
        let pushes = (self.subscribe_pushes, self.unsubscribe_pushes);
        assert_eq!(pushes, (self.expected_subscribe_pushes, self.expected_unsubscribe_pushes));
    }

    /// All that is under way is answered.
    fn rest(&mut self) {
        while !self.to_owner.is_empty() || !self.node.asked.is_empty() {
            self.backend_answers(0, granted());
            self.settle();
            self.owner_answers();
            self.settle();
        }
    }
}

fn code_of(reply: &Value) -> u64 {
    reply["error"]["code"].as_u64().unwrap_or(0)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Commands, answers of owners and of the backend, gaps, and what the server does, in any order and never in step:
    /// each command is answered once and rightly, session, hub and owner agree on who is subscribed, and when the
    /// client is gone nothing is left.
    #[test]
    fn subscriptions_are_in_the_state_that_the_model_says(
        steps in prop::collection::vec((0u8..10, 0..CHANNELS), 1..60),
        waits in any::<bool>(),
    ) {
        let mut world = World::new();
        for (what, channel) in steps {
            world.step(what, channel);
            if world.closed {
                break;
            }
            world.check();
        }
        if waits && !world.closed {
            world.rest();
            world.check();
            prop_assert_eq!(world.holes, 0);
            let live = world.states.iter().filter(|state| **state == State::Live).count();
            prop_assert_eq!(world.channels().iter().sum::<u64>(), live as u64);
        }
        world.node.shard.close(now(), &mut world.node.clients, world.conn, None);
        prop_assert!(world.node.clients.session(world.conn).is_none());
        world.settle();
        while !world.to_owner.is_empty() {
            world.owner_answers();
            world.settle();
        }
        prop_assert!(world.node.shard.hub().is_empty(), "the hub holds a channel for nobody");
        prop_assert_eq!(world.channels().len(), 0, "an owner counts a subscriber that is gone");
    }
}
