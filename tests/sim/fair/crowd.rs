//! Attackers: clients that ask for as much as they can, or that hold on to what they can.

use super::peer::{Heard, Peer, Transport};
use crate::actions::token;
use crate::node::World;
use crate::script::{Deed, Said};
use crate::wire;
use gannet::protocol::Encoding;
use serde_json::json;

/// Bytes that an attacker keeps under way.
const UNDER_WAY_MAX: usize = 30_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Commands,
    Pings,
    /// Empty frames of one message.
    Continuations,
    Pongs,
    LargeReplies,
    /// The same without reading them.
    LargeRepliesUnread,
    /// Many commands in a small message.
    Compressed,
    Signatures,
    /// Subscribes and stops reading.
    StopsReading,
    /// Begins a message, and no more.
    Half,
    /// Commands by other requests.
    Emulated,
}

pub const KINDS: [Kind; 11] = [
    Kind::Commands,
    Kind::Pings,
    Kind::Continuations,
    Kind::Pongs,
    Kind::LargeReplies,
    Kind::LargeRepliesUnread,
    Kind::Compressed,
    Kind::Signatures,
    Kind::StopsReading,
    Kind::Half,
    Kind::Emulated,
];

pub struct Attacker {
    pub kind: Kind,
    pub peer: Peer,
    connected: bool,
    begun: bool,
    next_id: u32,
}

impl Attacker {
    pub fn new(world: &mut World, kind: Kind) -> Attacker {
        let deflates = kind == Kind::Compressed;
        let transport = match kind {
            Kind::Emulated if world.rng.chance(50) => Transport::Lines,
            Kind::Emulated => Transport::Sse,
            _ => Transport::WebSocket { encoding: Encoding::Json, deflates },
        };
        let peer = Peer::new(world, transport);
        Attacker { kind, peer, connected: false, begun: false, next_id: 1 }
    }

    /// One step; true once it is gone.
    pub fn act(&mut self, world: &mut World, quiet: bool) -> bool {
        let gone = self.step(world, quiet);
        if gone {
            world.net.end(self.peer.link);
        }
        gone
    }

    fn step(&mut self, world: &mut World, quiet: bool) -> bool {
        let unread = matches!(self.kind, Kind::LargeRepliesUnread | Kind::StopsReading) && self.connected;
        for heard in self.peer.read(world, if unread { 0 } else { usize::MAX }) {
            match heard {
                Heard::Reply(reply) => self.connected |= reply.connect.is_some(),
                // It would become a part of the message.
                Heard::Ping if self.kind == Kind::Half => {}
                Heard::Ping => self.peer.pong(world),
                Heard::Close(code) => *world.codes.entry(u32::from(code)).or_default() += 1,
                Heard::End => return true,
            }
        }
        if self.peer.closed.is_some() {
            return world.rng.chance(20);
        }
        if self.peer.open && !self.begun {
            self.begun = true;
            if !self.peer.is_emulated() {
                self.peer.send(world, br#"{"id":1,"connect":{}}"#, vec![Deed::Other { nth: 0 }]);
            }
        } else if self.connected && !quiet {
            while world.net.unread_bytes(self.peer.link) < UNDER_WAY_MAX && self.attack(world) {}
        }
        false
    }

    /// Says one more thing; false if that is all for now.
    fn attack(&mut self, world: &mut World) -> bool {
        let frame = |more| Said { deeds: vec![Deed::Frame], more, ..Said::default() };
        match self.kind {
            Kind::Commands | Kind::Compressed | Kind::Emulated => {
                let count = if self.kind == Kind::Compressed { 400 } else { world.rng.within(1, 80) };
                self.commands(world, count, |id, chance| match chance {
                    0 => format!(r#"{{"id":{id},"presence_stats":{{"channel":"noise:1"}}}}"#),
                    1 => format!(r#"{{"id":{id},"unsubscribe":{{"channel":"noise:2"}}}}"#),
                    _ => format!(r#"{{"id":{id},"publish":{{"channel":"noise:1","data":1}}}}"#),
                });
                // By mail, a message in each step.
                return self.kind != Kind::Emulated;
            }
            Kind::LargeReplies | Kind::LargeRepliesUnread => {
                self.commands(world, 20, |id, _| format!(r#"{{"id":{id},"history":{{"channel":"big","limit":-1}}}}"#))
            }
            Kind::Pings => {
                let len = world.rng.below(100);
                self.peer.frame(world, wire::PING, &[b'p'; 100][..len], frame(false));
            }
            Kind::Pongs => self.peer.frame(world, wire::PONG, b"", frame(false)),
            Kind::Continuations => {
                let opcode = if self.next_id == 1 { wire::TEXT } else { wire::CONTINUE };
                self.next_id += 1;
                self.peer.frame(world, opcode, b"", frame(true));
            }
            Kind::Signatures => {
                self.next_id += 1;
                let id = self.next_id;
                let token = token(json!({"sub": "", "channel": "noise:3", "n": world.rng.next()}), "another key");
                let message = format!(r#"{{"id":{id},"subscribe":{{"channel":"noise:3","token":"{token}"}}}}"#);
                self.peer.send(world, message.as_bytes(), vec![Deed::Signed]);
                return world.net.unread_bytes(self.peer.link) < 3000;
            }
            Kind::StopsReading if self.next_id == 1 => {
                self.next_id = 2;
                self.peer.send(world, br#"{"id":2,"subscribe":{"channel":"news"}}"#, vec![Deed::Other { nth: 0 }]);
            }
            Kind::Half if self.next_id == 1 => {
                self.next_id = 2;
                let len = world.rng.within(1, 15_000);
                let mut bytes = Vec::new();
                wire::frame(&mut bytes, wire::TEXT, true, &vec![b' '; len], [0; 4]);
                bytes.pop();
                world.net.send(self.peer.link, &bytes);
            }
            Kind::StopsReading | Kind::Half => return false,
        }
        true
    }

    fn commands(&mut self, world: &mut World, count: usize, one: impl Fn(u32, usize) -> String) {
        let lines = (0..count).map(|_| {
            self.next_id += 1;
            one(self.next_id, world.rng.below(8))
        });
        let message = lines.collect::<Vec<_>>().join("\n");
        self.peer.send(world, message.as_bytes(), vec![Deed::Other { nth: 0 }; count]);
    }
}
