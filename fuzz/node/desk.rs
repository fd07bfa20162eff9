//! What a turn asks of its thread: endpoints by a number in the path, and all that is for others gathered.

use super::WIRES;
use super::line::Line;
use gannet::base::metrics::Counters;
use gannet::broker::ConnKey;
use gannet::broker::archive::ArchiveCall;
use gannet::broker::engine::{Engine, EngineCall};
use gannet::broker::log::LogCall;
use gannet::config::Config;
use gannet::http::Head;
use gannet::session::backend::{Call, Hook};
use gannet::shard::{ControlAnswer, Mail};
use gannet::turn::Host;
use gannet::turn::conns::Marks;
use gannet::turn::request::{Decision, Introduction, Spoken, StreamRequest};
use gannet::wire::Wire;
use gannet::ws::Upgrade;

/// Of a response that does not end.
pub const STREAM_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";

#[derive(Default)]
pub struct Desk {
    /// Reactors that take no more.
    pub full: Vec<bool>,
    pub asks: Vec<Call>,
    /// The next question is given back.
    pub refuses: bool,
    pub answers: Vec<(u64, ControlAnswer)>,
    pub sent: Vec<(u16, Vec<Mail>)>,
    /// What the next request for a stream says.
    pub said: Vec<u8>,
    /// Bytes in use beyond the limit.
    pub excess: usize,
    pub gone: usize,
    me: u8,
    ids: u64,
}

impl Desk {
    pub fn new(me: u16, reactors: u16) -> Desk {
        Desk { me: me as u8, full: vec![false; usize::from(reactors)], ..Desk::default() }
    }
}

/// The path of a wire's endpoint.
pub fn path(wire: Wire, frame_pings: bool) -> String {
    format!("/{}/{}", wire as usize, u8::from(frame_pings))
}

/// The wire of a path, and whether pings are frames; any other path is none's.
fn endpoint(path: &str) -> Option<(Wire, bool)> {
    let (wire, pings) = path.strip_prefix('/')?.split_once('/')?;
    let wire = wire.parse().ok().filter(|at| *at < WIRES)?;
    Some((Wire::from_index(wire), pings == "1"))
}

impl Host for Desk {
    type Socket = Line;

    fn decide<'a>(&mut self, head: &Head<'a>) -> Decision<'a> {
        let Some((wire, frame_pings)) = endpoint(head.path) else { return Decision::HandOff };
        if !wire.is_websocket() {
            return Decision::Stream(StreamRequest {
                wire,
                head: STREAM_HEAD.into(),
                said: Spoken::Query(std::mem::take(&mut self.said)),
                body_max: 0,
                expects: false,
                waits: false,
                lines: Box::default(),
                introduction: Introduction::default(),
            });
        }
        let Ok(mut upgrade) = Upgrade::check(head) else { return Decision::HandOff };
        let plain = match wire {
            Wire::DeflatedJson => Wire::WebSocketJson,
            Wire::DeflatedProtobuf => Wire::WebSocketProtobuf,
            plain => plain,
        };
        if plain != wire {
            upgrade = upgrade.deflating(head);
        }
        Decision::Client { upgrade, subprotocol: None, wire: plain, frame_pings, said: None }
    }

    /// Each third one has headers.
    fn introduce(&mut self, _: &Head<'_>) -> Introduction {
        let headers = if self.ids % 3 == 2 { "x-forwarded: 1\n" } else { "" };
        Introduction { headers: headers.into(), ..Introduction::default() }
    }

    fn admit(&mut self, _: &mut Counters) -> Result<(), &'static str> {
        Ok(())
    }

    fn id(&mut self) -> [u8; 16] {
        self.ids += 1;
        let mut id = [self.me; 16];
        id[..8].copy_from_slice(&self.ids.to_le_bytes());
        id
    }

    fn hand_off(&mut self, _: Line, _: &[u8], _: u32, _: &mut Counters) {}

    fn gone(&mut self, _: Marks, _: u32) {
        self.gone += 1;
    }

    fn ask(&mut self, call: Call) -> Result<(), Call> {
        if std::mem::take(&mut self.refuses) {
            return Err(call);
        }
        self.asks.push(call);
        Ok(())
    }

    fn forget(&mut self, _: ConnKey) {}

    fn hook(&mut self, _: Hook) {}

    fn engine(&mut self, _: Engine, call: EngineCall) {
        panic!("no channel lives elsewhere: {call:?}");
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
        self.full[usize::from(reactor)]
    }

    fn send(&mut self, reactor: u16, mail: &mut Vec<Mail>) {
        self.sent.push((reactor, std::mem::take(mail)));
    }

    fn take_settings(&mut self, _: &Config) {}

    fn memory_excess(&mut self) -> usize {
        std::mem::take(&mut self.excess)
    }

    fn micros(&mut self) -> u64 {
        0
    }
}
