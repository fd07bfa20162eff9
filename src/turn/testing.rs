//! F8 · A socket in memory and a host without a thread, for the tests of this floor.

use super::conns::Marks;
use super::request::{Decision, Introduction, Spoken, StreamRequest};
use super::{Bounds, Host, Ready, Socket, Taken, Turns};
use crate::base::metrics::Counters;
use crate::broker::ConnKey;
use crate::broker::archive::ArchiveCall;
use crate::broker::engine::{Engine, EngineCall};
use crate::broker::log::LogCall;
use crate::config::Config;
use crate::http::Head;
use crate::protocol::Encoding;
use crate::session::backend::{Call, Hook};
use crate::session::{Now, Rules};
use crate::shard::{ControlAnswer, Mail, Shard};
use crate::wire::Wire;
use crate::ws;
use bytes::Bytes;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::sync::Arc;

/// What both ends of a line see.
#[derive(Debug)]
struct Ends {
    incoming: VecDeque<u8>,
    written: Vec<u8>,
    /// Bytes that the peer still takes.
    room: usize,
    reads: usize,
    peer_ended: bool,
    ended: bool,
    taken: Option<Taken>,
}

/// A socket whose other end the test holds.
#[derive(Debug, Clone)]
pub struct Line(Rc<RefCell<Ends>>);

impl Default for Line {
    fn default() -> Line {
        Line::with_room(usize::MAX)
    }
}

impl Line {
    pub fn with_room(room: usize) -> Line {
        let (incoming, written) = (VecDeque::new(), Vec::new());
        let ends = Ends { incoming, written, room, reads: 0, peer_ended: false, ended: false, taken: None };
        Line(Rc::new(RefCell::new(ends)))
    }

    /// The peer takes so many bytes more.
    pub fn give_room(&mut self, bytes: usize) {
        self.0.borrow_mut().room += bytes;
    }

    pub fn take_written(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0.borrow_mut().written)
    }

    /// The peer says this.
    pub fn say(&self, bytes: &[u8]) {
        self.0.borrow_mut().incoming.extend(bytes);
    }

    /// The peer says no more.
    pub fn hang_up(&self) {
        self.0.borrow_mut().peer_ended = true;
    }

    /// Was the peer told that nothing more comes?
    pub fn is_ended(&self) -> bool {
        self.0.borrow().ended
    }

    /// The kernel says that the peer has acknowledged so much, and that so much waits.
    pub fn say_taken(&self, acknowledged: u64, waiting: usize) {
        self.0.borrow_mut().taken = Some(Taken { acknowledged, waiting });
    }

    /// The same without what was written; its room stays.
    pub fn forget_written(&self) {
        self.0.borrow_mut().written.clear();
    }

    /// What was written since it was last taken.
    pub fn written(&self) -> Vec<u8> {
        self.0.borrow().written.clone()
    }

    /// Read calls so far.
    pub fn reads(&self) -> usize {
        self.0.borrow().reads
    }
}

impl Socket for Line {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let mut ends = self.0.borrow_mut();
        ends.reads += 1;
        let count = room.len().min(ends.incoming.len());
        if count == 0 && !ends.peer_ended {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        room.iter_mut().zip(ends.incoming.drain(..count)).for_each(|(to, from)| *to = from);
        Ok(count)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut ends = self.0.borrow_mut();
        let count = bytes.len().min(ends.room);
        if count == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        ends.room -= count;
        ends.written.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn write_several(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let all: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
        self.write(&all)
    }

    fn end(&mut self) {
        self.0.borrow_mut().ended = true;
    }

    fn taken(&self) -> Option<Taken> {
        self.0.borrow().taken
    }
}

/// Gathers what a turn gives out.
#[derive(Debug, Default)]
pub struct Desk {
    pub asked: Vec<Call>,
    pub answers: Vec<(u64, ControlAnswer)>,
    /// For engines.
    pub calls: Vec<EngineCall>,
    pub sent: Vec<(u16, Vec<Mail>)>,
    /// Reactors that take no more.
    pub full: Vec<u16>,
    pub gone: usize,
    /// What is in use beyond the limit.
    pub excess: usize,
    /// How often the configuration was another.
    pub settings: usize,
}

impl Host for Desk {
    type Socket = Line;

    fn decide<'a>(&mut self, head: &Head<'a>) -> Decision<'a> {
        match ws::Upgrade::check(head) {
            Ok(upgrade) if head.path == "/echo" => Decision::Echo(upgrade),
            Ok(upgrade) => {
                let wire = Wire::websocket(Encoding::Json);
                let frame_pings = head.asks("cf_ws_frame_ping_pong", "true");
                Decision::Client { upgrade: upgrade.deflating(head), subprotocol: None, wire, frame_pings, said: None }
            }
            Err(_) if head.path == "/stream" => Decision::Stream(StreamRequest {
                wire: Wire::SseJson,
                head: Bytes::new(),
                said: Spoken::Query(br#"{"id":1,"connect":{}}"#.to_vec()),
                body_max: 0,
                expects: false,
                waits: false,
                lines: Box::default(),
                introduction: Introduction::default(),
            }),
            Err(_) => Decision::HandOff,
        }
    }

    fn introduce(&mut self, _: &Head<'_>) -> Introduction {
        Introduction::default()
    }

    fn admit(&mut self, _: &mut Counters) -> Result<(), &'static str> {
        Ok(())
    }

    fn id(&mut self) -> [u8; 16] {
        [7; 16]
    }

    fn hand_off(&mut self, _: Line, _: &[u8], _: u32, _: &mut Counters) {}

    fn gone(&mut self, _: Marks, _: u32) {
        self.gone += 1;
    }

    fn ask(&mut self, call: Call) -> Result<(), Call> {
        self.asked.push(call);
        Ok(())
    }

    fn forget(&mut self, key: ConnKey) {
        self.asked.retain(|call| call.conn != key);
    }

    fn hook(&mut self, _: Hook) {}

    fn engine(&mut self, _: Engine, call: EngineCall) {
        self.calls.push(call);
    }

    fn log(&mut self, call: LogCall) {
        panic!("no namespace has a log: {call:?}");
    }

    fn log_is_full(&self) -> bool {
        false
    }

    fn archive(&mut self, _: ArchiveCall) {}

    fn end_archive(&mut self) {}

    fn archive_room(&self) -> usize {
        usize::MAX
    }

    fn answer(&mut self, ticket: u64, answer: ControlAnswer) {
        self.answers.push((ticket, answer));
    }

    fn is_full(&self, reactor: u16) -> bool {
        self.full.contains(&reactor)
    }

    fn send(&mut self, reactor: u16, mail: &mut Vec<Mail>) {
        self.sent.push((reactor, std::mem::take(mail)));
    }

    fn take_settings(&mut self, _: &Config) {
        self.settings += 1;
    }

    fn memory_excess(&mut self) -> usize {
        std::mem::take(&mut self.excess)
    }

    fn micros(&mut self) -> u64 {
        0
    }
}

/// A turn whose time and peers the test moves.
pub struct Bench {
    pub turn: Turns<Desk>,
    pub now: Now,
}

impl Bench {
    /// One of `reactors`, the first.
    pub fn new(reactors: u16, change: impl FnOnce(&mut Config)) -> Bench {
        let mut config = Config::default();
        config.client.insecure = true;
        change(&mut config);
        let rules = Arc::new(Rules::new(&config).expect("rules"));
        let mut shard = Shard::new(0, reactors, 7, Arc::new([0; 32]), rules);
        shard.deflater = ws::Deflater::new(&config.websocket);
        let turn = Turns::new(0, reactors, shard, Desk::default(), Bounds::of_each(&config, usize::from(reactors)));
        Bench { turn, now: Now { tick: 1, ms: 100, unix_ms: 1_800_000_000_000 } }
    }

    /// A connection that has not said anything.
    pub fn accept(&mut self, line: &Line) -> u32 {
        self.turn.accept(line.clone(), 0)
    }

    /// A client whose handshake is done and whose connect command is answered.
    pub fn client(&mut self, line: &Line, query: &str) -> u32 {
        let conn = self.open(line, &format!("/connection/websocket{query}"));
        line.say(&frame(r#"{"id":1,"connect":{}}"#));
        self.run(&[conn]);
        let said = String::from_utf8_lossy(&line.clone().take_written()).into_owned();
        assert!(said.contains(r#""connect":"#), "{said}");
        conn
    }

    /// A WebSocket at `target`.
    pub fn open(&mut self, line: &Line, target: &str) -> u32 {
        let conn = self.accept(line);
        line.say(upgrade(target).as_bytes());
        self.run(&[conn]);
        assert!(line.clone().take_written().starts_with(b"HTTP/1.1 101"));
        conn
    }

    /// A turn in which these sockets are readable.
    pub fn run(&mut self, readable: &[u32]) {
        self.run_with(readable, Vec::new());
    }

    pub fn run_with(&mut self, readable: &[u32], mut mail: Vec<Mail>) {
        let ready = readable.iter().map(|conn| {
            let ended = self
                .turn
                .conns
                .get(*conn)
                .is_some_and(|it| it.socket.as_ref().is_some_and(|line| line.0.borrow().peer_ended));
            Ready { conn: *conn, readable: true, writable: true, ended, broken: false }
        });
        let ready: Vec<Ready> = ready.collect();
        self.turn.begin(self.now, 0);
        self.turn.run(ready.into_iter(), &mut mail);
    }

    /// The same without an allocation of the test's own.
    pub fn run_quietly(&mut self, readable: &[u32]) {
        let ready = readable.iter();
        let ready =
            ready.map(|conn| Ready { conn: *conn, readable: true, writable: true, ended: false, broken: false });
        self.turn.begin(self.now, 0);
        self.turn.run(ready, &mut Vec::new());
    }

    /// Turns until no work is left, at most `most`; how many.
    pub fn settle(&mut self, most: usize) -> usize {
        let mut turns = 0;
        while self.turn.has_work() {
            turns += 1;
            assert!(turns <= most, "work is left after {most} turns");
            self.run(&[]);
        }
        turns
    }
}

/// The request of a WebSocket at `target`, which offers compression.
pub fn upgrade(target: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
         Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
    )
}

/// A masked text frame with the key 0, under which a payload is its own mask.
pub fn frame(text: &str) -> Vec<u8> {
    masked(0x81, text.as_bytes())
}

/// The same with any first byte.
pub fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..126 => bytes.push(0x80 | len as u8),
        len @ 126..65_536 => {
            bytes.push(0x80 | 126);
            bytes.extend((len as u16).to_be_bytes());
        }
        len => {
            bytes.push(0x80 | 127);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes.extend_from_slice(payload);
    bytes
}
