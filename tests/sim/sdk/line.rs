//! One connection of a client that behaves as the official SDKs do: frames, pings, and replies in the order asked.

use super::client::{Known, Wish};
use crate::client::NO_CODE;
use crate::net::LinkId;
use crate::node::World;
use crate::wire;
use gannet::broker::ConnKey;
use gannet::protocol::{Command, Encoding, Reply};
use std::collections::{BTreeMap, VecDeque};

/// What a command was, for its reply.
#[derive(Debug, Clone)]
pub enum What {
    /// With the positions that were sent, and channels that the token gives.
    Connect {
        known: BTreeMap<String, Known>,
        given: Vec<String>,
    },
    Subscribe {
        channel: String,
        ask: Option<Known>,
        reject: bool,
        wish: Box<Wish>,
    },
    Unsubscribe(String),
    Publish,
    History {
        channel: String,
        limit: i32,
        since: Option<u64>,
        reverse: bool,
    },
    Presence {
        channel: String,
        asked: u64,
    },
    Stats,
    Rpc(String),
    Refresh,
    SubRefresh,
}

pub struct Line {
    pub link: LinkId,
    pub key: ConnKey,
    /// The step in which it began.
    pub since: u64,
    pub client: String,
    pub encoding: Encoding,
    inbox: Vec<u8>,
    /// The answer to the upgrade was read.
    switched: bool,
    /// The connect command was sent.
    pub begun: bool,
    pub pending: VecDeque<(u32, What)>,
    pub connected: bool,
    /// The claims of its token that name server-side subscriptions: a refresh must bring the same.
    pub granted: Vec<(&'static str, serde_json::Value)>,
    /// The connect command got an error.
    pub refused: bool,
    /// A reply was left out: only a close may follow.
    pub must_close: bool,
    pub closed: Option<u16>,
    said_close: bool,
}

/// What was read, in order.
pub enum Heard {
    Reply(Box<Reply>),
    /// The close frame.
    Close(u16),
    /// The end of the stream.
    End,
}

impl Line {
    pub fn new(link: LinkId, key: ConnKey, since: u64, encoding: Encoding) -> Line {
        Line {
            link,
            key,
            since,
            client: String::new(),
            encoding,
            inbox: Vec::new(),
            switched: false,
            begun: false,
            pending: VecDeque::new(),
            connected: false,
            granted: Vec::new(),
            refused: false,
            must_close: false,
            closed: None,
            said_close: false,
        }
    }

    /// The upgrade is done, and the connect command is to be sent.
    pub fn may_begin(&self) -> bool {
        self.switched && !self.begun
    }

    fn frame(&self, world: &mut World, opcode: tungstenite::protocol::frame::coding::OpCode, payload: &[u8]) {
        let mut bytes = Vec::new();
        wire::frame(&mut bytes, opcode, true, payload, (world.rng.next() as u32).to_le_bytes());
        world.net.send(self.link, &bytes);
    }

    /// Commands in one message.
    pub fn send(&mut self, world: &mut World, list: Vec<(Command, What)>) {
        let (commands, whats): (Vec<Command>, Vec<What>) = list.into_iter().unzip();
        self.pending.extend(commands.iter().map(|command| command.id).zip(whats));
        let opcode = if self.encoding == Encoding::Json { wire::TEXT } else { wire::BINARY };
        self.frame(world, opcode, &wire::commands(self.encoding, &commands));
    }

    pub fn say_close(&mut self, world: &mut World, code: u16) {
        if !self.said_close {
            self.said_close = true;
            self.frame(world, wire::CLOSE, &code.to_be_bytes());
        }
    }

    pub fn read(&mut self, world: &mut World) -> Vec<Heard> {
        let (bytes, ended) = world.net.receive(self.link, usize::MAX);
        self.inbox.extend(bytes);
        let mut all = Vec::new();
        if !self.switched {
            let Some(end) = wire::head_end(&self.inbox) else { return all };
            let head: Vec<u8> = self.inbox.drain(..end).collect();
            assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
            self.switched = true;
        }
        while let Some((opcode, payload)) = wire::parse(&mut self.inbox) {
            assert!(self.closed.is_none(), "a frame after the close frame");
            let at = [u64::from(world.tick), u64::from(self.key.reactor), u64::from(self.key.index)];
            world.log.add("heard", at, &payload);
            let data = if self.encoding == Encoding::Json { wire::TEXT } else { wire::BINARY };
            if opcode == data && payload == self.encoding.ping() {
                self.frame(world, data, self.encoding.ping());
            } else if opcode == data {
                let replies = wire::replies(self.encoding, &payload).into_iter();
                let replies = replies.inspect(|reply| world.log.follow([at[1], at[2]], reply));
                all.extend(replies.map(|reply| Heard::Reply(Box::new(reply))));
            } else {
                assert_eq!(opcode, wire::CLOSE, "a frame of the wrong kind");
                let code = payload.first_chunk().map_or(NO_CODE, |code| u16::from_be_bytes(*code));
                self.closed = Some(code);
                all.push(Heard::Close(code));
            }
        }
        if ended {
            let excused = self.closed.is_some() || self.said_close || world.net.was_broken_off(self.link);
            assert!(excused, "the stream ended without a close frame: {:?}", self.pending);
            all.push(Heard::End);
        }
        all
    }

    /// What `reply` answers: the oldest command that is not. None if a place was kept whose reply never came: then the
    /// connection is about to end.
    pub fn answered(&mut self, reply: &Reply) -> Option<What> {
        if self.pending.front().is_some_and(|(id, _)| *id == reply.id) {
            return self.pending.pop_front().map(|(_, what)| what);
        }
        let later = self.pending.iter().any(|(id, _)| *id == reply.id);
        assert!(later, "expected a reply to {:?}, got {reply:?}", self.pending.front());
        self.must_close = true;
        None
    }
}
