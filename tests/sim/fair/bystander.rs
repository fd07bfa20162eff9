//! A client that behaves, beside those that do not: it is served soon, misses nothing without a word, and stays.

use super::peer::{Heard, Peer, Transport};
use crate::client::command;
use crate::node::World;
use crate::script::Deed;
use crate::wire;
use gannet::protocol::{Command, ConnectRequest, Encoding, PublishRequest, Push, Reply, SubscribeRequest};
use std::collections::BTreeMap;

/// Steps within which a command is answered, a long turn and no descriptors among them.
const ANSWER_STEPS_MAX: u64 = 200;

pub struct Bystander {
    pub peer: Peer,
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
        let transport = match world.rng.below(6) {
            0 => Transport::Sse,
            1 => Transport::Lines,
            2 | 3 => Transport::WebSocket { encoding, deflates: true },
            _ => Transport::WebSocket { encoding, deflates: false },
        };
        let peer = Peer::new(world, transport);
        // Its request may have the connect command in it.
        let emulated = peer.is_emulated();
        let pending = emulated.then_some((1, world.step)).into_iter().collect();
        Bystander {
            peer,
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

    pub fn act(&mut self, world: &mut World, quiet: bool, draining: bool) {
        for heard in self.peer.read(world, usize::MAX) {
            match heard {
                Heard::Reply(reply) => match reply.push {
                    Some(push) => self.pushed(world, push),
                    None => self.replied(world, &reply),
                },
                Heard::Ping => self.peer.pong(world),
                Heard::Close(code) => {
                    assert!(draining && code == 3001, "a bystander was closed with {code}");
                    self.pending.clear();
                }
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
            self.say(world, &Command { connect: Some(ConnectRequest::default()), ..command(1) });
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
        let (offset, epoch) = self.last.clone().unwrap_or_default();
        let subscribe = Some(SubscribeRequest {
            channel: "news".into(),
            recoverable: true,
            positioned: true,
            recover: self.last.is_some(),
            offset,
            epoch,
            flag: 1,
            ..SubscribeRequest::default()
        });
        self.asked = Some(id);
        self.pending.insert(id, world.step);
        self.say(world, &Command { subscribe, ..command(id) });
    }

    fn replied(&mut self, world: &World, reply: &Reply) {
        assert!(self.pending.remove(&reply.id).is_some(), "a reply to nothing: {reply:?}");
        if let Some(error) = &reply.error {
            let full =
                world.options.mailbox_len < usize::MAX || world.options.config.reactor.fanout_queue_size < 1 << 20;
            assert!(error.code == 111 && full, "a bystander was refused: {reply:?}");
            self.asked.take_if(|id| *id == reply.id);
            return;
        }
        self.connected |= reply.connect.is_some();
        let Some(result) = &reply.subscribe else { return };
        (self.asked, self.subscribed) = (None, true);
        if result.was_recovering && !result.recovered {
            assert!(world.post.dropped > 0, "nothing was recovered: {result:?}");
            self.last = None;
        }
        self.recovered += usize::from(result.recovered);
        if !result.recovered {
            self.last = Some((result.offset, result.epoch.clone()));
        }
        for publication in &result.publications {
            self.hear(publication.offset);
        }
    }

    fn pushed(&mut self, world: &World, push: Push) {
        if let Some(unsubscribe) = push.unsubscribe {
            assert!(
                unsubscribe.code == 2500 && world.post.dropped > 0,
                "a bystander was unsubscribed: {unsubscribe:?}"
            );
            self.subscribed = false;
            self.gaps += 1;
        } else if let Some(publication) = push.publication {
            assert!(self.subscribed, "a publication without a subscription");
            self.hear(publication.offset);
        } else {
            panic!("a push of another kind: {push:?}");
        }
    }

    fn hear(&mut self, offset: u64) {
        let (last, _) = self.last.as_mut().expect("its subscription has a position");
        assert_eq!(offset, *last + 1, "a bystander missed publications without a word");
        *last = offset;
        self.heard += 1;
    }
}
