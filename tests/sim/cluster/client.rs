//! A client of one node: what it asks for, and that it hears everything once and in order, or is told of the gap.

use super::store::{Store, number};
use super::{Summary, want};
use crate::rng::Rng;
use gannet::broker::{ConnKey, Event, Found, Gone, Member, Position, Recover, Request, Want};
use gannet::protocol::{ClientInfo, Publication};
use std::collections::{BTreeMap, BTreeSet};

pub const CHANNELS: [&str; 2] = ["plain", "positioned"];

#[derive(Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Off,
    /// Its owner was asked.
    Asked,
    /// It was given up before its owner answered.
    Abandoned,
    On,
}

#[derive(Debug, Default)]
struct Sub {
    state: State,
    wanted: bool,
    /// Where it is, if it keeps a position.
    at: Option<Position>,
    /// Where it was when it ended, and the step at which it heard of that place.
    known: Option<(Position, u64)>,
    /// The step at which it heard of its place.
    heard_at: u64,
    asked: Option<Position>,
    /// From this offset on it hears everything.
    whole_from: u64,
    seen: BTreeSet<u64>,
    /// The step at which it began, and the one at which it came or went last.
    began: u64,
    changed: u64,
    /// Whether the last that it heard of each of the others, since it began, is that they came.
    others: BTreeMap<String, bool>,
}

pub struct Client {
    pub conn: ConnKey,
    id: [u8; 16],
    subs: BTreeMap<&'static str, Sub>,
    pub requests: Vec<Request>,
    step: u64,
}

impl Client {
    pub fn new(node: usize, at: usize, reactor: usize) -> Client {
        let conn = ConnKey { reactor: reactor as u16, index: at as u32, generation: 1 };
        let subs = CHANNELS.into_iter().map(|channel| (channel, Sub::default())).collect();
        Client { conn, id: [(node * 16 + at + 1) as u8; 16], subs, requests: Vec::new(), step: 0 }
    }

    /// It changes its mind about a channel.
    pub fn turn(&mut self, channel: &'static str, rng: &mut Rng) {
        let sub = self.subs.get_mut(channel).expect("a channel");
        sub.wanted = !sub.wanted;
        let forgets = rng.chance(20);
        match (sub.wanted, &sub.state) {
            (true, State::Off) => self.subscribe(channel, !forgets),
            (false, State::On | State::Asked) => self.leave(channel),
            _ => {}
        }
    }

    fn subscribe(&mut self, channel: &'static str, recovers: bool) {
        let sub = self.subs.get_mut(channel).expect("a channel");
        let positioned = channel == "positioned";
        let known = sub.known.as_ref().filter(|_| positioned && recovers).map(|(at, _)| at.clone());
        let recover = known.clone().map(|at| {
            let (offset, epoch) = (at.offset, at.epoch.as_str().into());
            Recover { offset, epoch, limit: 20, most: 20, cache: false }
        });
        (sub.state, sub.asked) = (State::Asked, known);
        let want = Some(Box::new(Want { recover, ..want(positioned, self.id) }));
        self.requests.push(Request::Subscribe { channel: channel.into(), from: self.conn, ticket: 1, want });
    }

    fn leave(&mut self, channel: &'static str) {
        let sub = self.subs.get_mut(channel).expect("a channel");
        if sub.state == State::On {
            sub.changed = self.step;
        }
        sub.state = if sub.state == State::Asked { State::Abandoned } else { State::Off };
        if let Some(at) = sub.at.take() {
            sub.known = Some((at, sub.heard_at));
        }
        let member = want(false, self.id).member;
        self.push_leave(channel, member);
    }

    fn push_leave(&mut self, channel: &'static str, member: Option<Member>) {
        let gone = member.map(|member| Box::new(Gone { member: Some(member), delta: false, asker: None }));
        self.requests.push(Request::Leave { channel: channel.into(), reactor: self.conn.reactor, gone });
    }

    pub fn hear(&mut self, step: u64, event: &Event, store: &Store, summary: &mut Summary) {
        self.step = step;
        match event {
            Event::Subscribed { channel, conn, found, .. } if *conn == self.conn => {
                let channel = name_of(channel);
                let sub = self.subs.get_mut(channel).expect("a channel");
                if sub.state == State::Abandoned {
                    return self.end(channel);
                }
                assert_eq!(sub.state, State::Asked, "{channel}: begun unasked");
                sub.state = State::On;
                (sub.began, sub.changed, sub.others) = (step, step, BTreeMap::new());
                sub.begin(step, found.as_deref(), store, channel, summary);
            }
            Event::Refused { channel, conn, .. } if *conn == self.conn => {
                let channel = name_of(channel);
                summary.refused += 1;
                let sub = self.subs.get_mut(channel).expect("a channel");
                if sub.state != State::Abandoned {
                    self.push_leave(channel, None);
                }
                // It waits a little before it tries again.
                self.subs.get_mut(channel).expect("a channel").state = State::Off;
            }
            Event::Publication { channel, publication, .. } => {
                let channel = name_of(channel);
                let sub = self.subs.get_mut(channel).expect("a channel");
                if sub.state == State::On {
                    summary.heard += 1;
                    sub.heard_at = step;
                    sub.take(channel, publication);
                }
            }
            Event::Join { channel, info } => self.meet(channel, info, true),
            Event::Leave { channel, info } => self.meet(channel, info, false),
            Event::Gap { channel } => {
                let channel = name_of(channel);
                let sub = self.subs.get_mut(channel).expect("a channel");
                if sub.state == State::On && sub.at.is_some() {
                    summary.gaps += 1;
                    self.leave(channel);
                    self.end(channel);
                }
            }
            _ => {}
        }
    }

    fn meet(&mut self, channel: &str, info: &ClientInfo, joined: bool) {
        let sub = self.subs.get_mut(name_of(channel)).expect("a channel");
        if sub.state == State::On {
            sub.others.insert(info.client.clone(), joined);
        }
    }

    /// What it heard of `other` last is how it is; how often it heard something.
    pub fn check_meeting(&self, other: &Client) -> u64 {
        let id = super::info(other.id).client.clone();
        let mut count = 0;
        for (channel, mine) in self.subs.iter().filter(|(_, sub)| sub.state == State::On) {
            let theirs = &other.subs[channel];
            match mine.others.get(&id) {
                Some(joined) => {
                    assert_eq!(*joined, theirs.state == State::On, "{channel}: who came and went");
                    count += 1;
                }
                None => assert!(theirs.changed <= mine.began, "{channel}: nobody said that a client came or went"),
            }
        }
        count
    }

    /// It is over; if it is wanted, it is asked for again.
    fn end(&mut self, channel: &'static str) {
        let sub = self.subs.get_mut(channel).expect("a channel");
        sub.state = State::Off;
        if sub.wanted {
            self.subscribe(channel, true);
        }
    }

    /// Tries again what was refused.
    pub fn settle(&mut self) {
        for channel in CHANNELS {
            let sub = &self.subs[channel];
            if sub.wanted && sub.state == State::Off {
                self.subscribe(channel, true);
            }
        }
    }

    pub fn is_settled(&self) -> bool {
        self.requests.is_empty() && self.subs.values().all(|sub| (sub.state == State::On) == sub.wanted)
    }

    pub fn shown(&self) -> String {
        let states = self.subs.values().map(|sub| format!("{:?} {}", sub.state, sub.wanted));
        states.collect::<Vec<_>>().join(", ")
    }

    pub fn leave_all(&mut self) {
        for channel in CHANNELS {
            let sub = self.subs.get_mut(channel).expect("a channel");
            if std::mem::take(&mut sub.wanted) {
                self.leave(channel);
            }
        }
    }

    pub fn check_rest(&mut self, store: &mut Store, present: &mut BTreeMap<&'static str, BTreeSet<[u8; 16]>>) {
        for (channel, sub) in &self.subs {
            if sub.state != State::On {
                continue;
            }
            present.entry(channel).or_default().insert(self.id);
            let Some(at) = &sub.at else { continue };
            assert_eq!(*at, store.position(&(*channel).into()), "{channel}: where a client is, and the store");
            for (offset, number) in store.numbers(&(*channel).into()) {
                let heard = offset <= sub.whole_from || sub.seen.contains(&number);
                assert!(heard, "{channel}: never heard {number} at {offset}, and should have");
            }
        }
    }
}

impl Sub {
    fn begin(&mut self, step: u64, found: Option<&Found>, store: &Store, channel: &'static str, summary: &mut Summary) {
        let Some(Found { position, recovery }) = found else { return };
        let recovery = recovery.as_ref().filter(|recovery| recovery.recovered);
        self.heard_at = step;
        match (recovery, self.asked.take()) {
            (Some(recovery), Some(asked)) => {
                summary.recovered += 1;
                assert_eq!(asked.epoch, position.epoch, "{channel}: recovered in another life");
                self.at = Some(Position { offset: asked.offset, ..position.clone() });
                for publication in &recovery.publications {
                    self.take(channel, publication);
                }
                let at = self.at.as_ref().map(|at| at.offset);
                assert_eq!(at, Some(position.offset), "{channel}: recovered up to the position");
                // A stream that went back since has other publications at the offsets that it knew.
                let known_at = self.known.as_ref().map_or(0, |(_, step)| *step);
                if store.went_back.get(channel).is_some_and(|step| *step >= known_at) {
                    self.whole_from = position.offset;
                }
            }
            _ => (self.at, self.whole_from) = (Some(position.clone()), position.offset),
        }
    }

    fn take(&mut self, channel: &'static str, publication: &Publication) {
        let number = number(publication);
        assert!(self.seen.insert(number), "{channel}: {number} was heard twice");
        if let Some(at) = &mut self.at {
            assert_eq!(publication.offset, at.offset + 1, "{channel}: {number} does not follow");
            at.offset = publication.offset;
        }
    }
}

fn name_of(channel: &str) -> &'static str {
    CHANNELS.into_iter().find(|name| *name == channel).expect("a channel")
}
