//! A client that behaves, beside those that do not: it is served soon, misses nothing without a word, and stays.

use super::peer::{By, Heard, Peer, Transport};
use crate::client::command;
use crate::node::World;
use crate::script::Deed;
use crate::wire;
use gannet::protocol::{
    Command, ConnectPush, ConnectRequest, Encoding, PublishRequest, Push, Reply, SubscribeRequest, SubscribeResult,
};
use std::collections::BTreeMap;

/// Steps within which a command is answered, a long turn and no descriptors among them.
const ANSWER_STEPS_MAX: u64 = 200;

pub struct Bystander {
    pub peer: Peer,
    /// It has to connect anew.
    away: bool,
    begun: bool,
    connected: bool,
    /// The subscribe command that waits for its reply.
    asked: Option<u32>,
    pub subscribed: bool,
    /// Where it stands in the channel.
    pub last: Option<(u64, String)>,
    next_id: u32,
    /// Commands that wait for their replies, since when.
    pub pending: BTreeMap<u32, u64>,
    pub heard: usize,
    /// Gaps that it was told of, and how often what it missed could be recovered.
    pub gaps: usize,
    pub recovered: usize,
    pub left: bool,
}

impl Bystander {
    pub fn new(world: &mut World) -> Bystander {
        let encoding = *world.rng.pick(&Encoding::ALL);
        let transport = match world.rng.below(10) {
            0 => Transport::Sse,
            1 => Transport::Lines,
            2 => Transport::Lengths,
            3 => Transport::Listens(By::Events),
            4 => Transport::Listens(By::Lines),
            5 => Transport::Listens(By::WebSocket),
            6 | 7 => Transport::WebSocket { encoding, deflates: true },
            _ => Transport::WebSocket { encoding, deflates: false },
        };
        let peer = Peer::with(world, transport, &wishes(transport, None));
        // Its request may have the connect command in it.
        let emulated = peer.is_emulated();
        let pending = emulated.then_some((1, world.step)).into_iter().collect();
        Bystander {
            peer,
            away: false,
            begun: emulated,
            connected: false,
            asked: None,
            subscribed: false,
            last: None,
            next_id: 1,
            pending,
            heard: 0,
            gaps: 0,
            recovered: 0,
            left: false,
        }
    }

    /// One step; true if it stands at the door again.
    pub fn act(&mut self, world: &mut World, quiet: bool, draining: bool) -> bool {
        self.step(world, quiet, draining);
        let again = std::mem::take(&mut self.away) && !draining;
        if again {
            self.come_again(world);
        }
        again
    }

    /// Who only listens recovers so, and has no other way to subscribe.
    fn come_again(&mut self, world: &mut World) {
        world.net.end(self.peer.link);
        let transport = self.peer.transport;
        self.peer = Peer::with(world, transport, &wishes(transport, self.last.as_ref()));
        (self.begun, self.connected, self.subscribed) = (self.peer.is_emulated(), false, false);
        self.pending = self.begun.then_some((1, world.step)).into_iter().collect();
    }

    fn step(&mut self, world: &mut World, quiet: bool, draining: bool) {
        for heard in self.peer.read(world, usize::MAX) {
            match heard {
                Heard::Reply(reply) => match reply.push {
                    Some(push) => self.pushed(world, push),
                    None => self.replied(world, &reply),
                },
                Heard::Ping if self.peer.listens() => {}
                Heard::Ping => self.peer.pong(world),
                Heard::Close(3010) if self.peer.listens() && self.may_miss(world) => {
                    (self.away, self.gaps) = (true, self.gaps + 1);
                }
                Heard::Close(code) => {
                    assert!(draining && code == 3001, "a bystander was closed with {code}");
                    self.pending.clear();
                }
                Heard::End if self.away => {}
                Heard::End => {
                    assert!(
                        draining && self.peer.closed.is_some(),
                        "a bystander lost its connection: {:?} {:?}",
                        self.peer.key,
                        self.peer.transport
                    );
                    self.left = true;
                    world.net.end(self.peer.link);
                }
            }
        }
        if self.away && !draining {
            return;
        }
        if self.peer.closed.is_some() || self.left {
            if draining && !self.left {
                self.left = true;
                world.net.end(self.peer.link);
            }
            return;
        }
        let late = self.pending.iter().find(|(_, since)| world.step - **since > ANSWER_STEPS_MAX);
        assert!(late.is_none(), "a bystander's command {late:?} is not answered at {}", world.step);
        if self.peer.open && !self.begun {
            self.begun = true;
            self.pending.insert(1, world.step);
            match self.peer.listens() {
                true => {
                    let connect = wishes(self.peer.transport, self.last.as_ref());
                    let message = serde_json::to_vec(&connect).expect("JSON");
                    self.peer.send(world, &message, vec![Deed::Other { nth: 0 }]);
                }
                false => self.say(world, &Command { connect: Some(ConnectRequest::default()), ..command(1) }),
            }
        }
        if self.peer.listens() {
            return;
        }
        if self.connected && !self.subscribed && self.asked.is_none() {
            self.subscribe(world);
        }
        if self.subscribed && !quiet && !draining && world.rng.chance(world.options.client_busy) {
            let id = self.next_id();
            let data = format!("[{}]", world.step).into_bytes().into();
            let publish = Some(PublishRequest { channel: "news".into(), data, kind: 0 });
            self.pending.insert(id, world.step);
            self.say(world, &Command { publish, ..command(id) });
        }
    }

    fn next_id(&mut self) -> u32 {
        self.next_id += 1;
        self.next_id
    }

    fn say(&self, world: &mut World, it: &Command) {
        let message = wire::commands(self.peer.encoding(), std::slice::from_ref(it));
        self.peer.send(world, &message, vec![Deed::Other { nth: 0 }]);
    }

    fn subscribe(&mut self, world: &mut World) {
        let id = self.next_id();
        let subscribe = Some(wish(self.last.as_ref()));
        self.asked = Some(id);
        self.pending.insert(id, world.step);
        self.say(world, &Command { subscribe, ..command(id) });
    }

    fn replied(&mut self, world: &World, reply: &Reply) {
        assert!(self.pending.remove(&reply.id).is_some(), "a reply to nothing: {reply:?}");
        if let Some(error) = &reply.error {
            assert!(error.code == 111 && may_be_full(world), "a bystander was refused: {reply:?}");
            self.asked.take_if(|id| *id == reply.id);
            return;
        }
        self.connected |= reply.connect.is_some();
        if let Some(result) = reply.subscribe.clone() {
            self.begin(world, result);
        }
    }

    fn begin(&mut self, world: &World, result: SubscribeResult) {
        (self.asked, self.subscribed) = (None, true);
        if result.was_recovering && !result.recovered {
            assert!(self.may_miss(world), "nothing was recovered: {result:?}");
            self.last = None;
        }
        self.recovered += usize::from(result.recovered);
        if !result.recovered {
            self.last = Some((result.offset, result.epoch));
        }
        for publication in &result.publications {
            self.hear(publication.offset);
        }
    }

    /// Who only listens has come in.
    fn connected(&mut self, world: &World, connect: ConnectPush) {
        assert!(self.peer.listens() && self.pending.remove(&1).is_some(), "a second connect push");
        self.connected = true;
        match connect.subs.into_iter().find(|sub| sub.channel == "news") {
            Some(sub) => self.begin(world, sub.result.unwrap_or_default()),
            None => {
                assert!(may_be_full(world), "a bystander was refused its channel");
                self.away = true;
            }
        }
    }

    fn pushed(&mut self, world: &World, push: Push) {
        if let Some(connect) = push.connect {
            self.connected(world, connect);
        } else if let Some(unsubscribe) = push.unsubscribe {
            assert!(unsubscribe.code == 2500 && self.may_miss(world), "a bystander was unsubscribed: {unsubscribe:?}");
            self.subscribed = false;
            self.gaps += 1;
        } else if let Some(publication) = push.publication {
            assert!(self.subscribed, "a publication without a subscription");
            self.hear(publication.offset);
        } else {
            panic!("a push of another kind: {push:?}");
        }
    }

    /// Did the owner of its channel ever find its reactor full?
    fn may_miss(&self, world: &World) -> bool {
        self.peer.key.is_some_and(|key| world.post.has_lost(world.owner("news"), key.reactor, 0))
    }

    fn hear(&mut self, offset: u64) {
        let (last, _) = self.last.as_mut().expect("its subscription has a position");
        assert_eq!(offset, *last + 1, "a bystander missed publications without a word: {:?}", self.peer.transport);
        *last = offset;
        self.heard += 1;
    }
}

/// What it subscribes with; from where it was.
fn wish(last: Option<&(u64, String)>) -> SubscribeRequest {
    let (offset, epoch) = last.cloned().unwrap_or_default();
    SubscribeRequest {
        channel: "news".into(),
        recoverable: true,
        positioned: true,
        recover: last.is_some(),
        offset,
        epoch,
        flag: 1,
        ..SubscribeRequest::default()
    }
}

/// What it connects with: who only listens says at once what it wants to hear.
fn wishes(transport: Transport, last: Option<&(u64, String)>) -> ConnectRequest {
    let wanted = matches!(transport, Transport::Listens(_)).then(|| ("news".to_owned(), wish(last)));
    ConnectRequest { subs: wanted.into_iter().collect(), ..ConnectRequest::default() }
}

fn may_be_full(world: &World) -> bool {
    world.options.mailbox_len < usize::MAX || world.options.config.reactor.fanout_queue_size < 1 << 20
}
