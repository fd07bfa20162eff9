//! What a turn asks of its thread, simulated: endpoints by the real routes, ids and refusals by chance, and all that is
//! for others gathered until the turn is over.

use crate::net::End;
use crate::rng::Rng;
use gannet::base::metrics::Counters;
use gannet::broker::ConnKey;
use gannet::broker::archive::ArchiveCall;
use gannet::broker::engine::{Engine, EngineCall};
use gannet::broker::log::LogCall;
use gannet::config::Config;
use gannet::http::Head;
use gannet::reactor::Routes;
use gannet::session::backend::{Call, Hook};
use gannet::shard::{ControlAnswer, Mail};
use gannet::turn::Host;
use gannet::turn::conns::Marks;
use gannet::turn::request::{Decision, Introduction};

/// Questions that the backend has no room for, in a hundred.
const REFUSED: usize = 4;

/// What a turn gave out, in its order.
pub enum Told {
    Ask(Call),
    Forget(ConnKey),
    Hook(Hook),
    Engine(EngineCall),
    Answer(u64, ControlAnswer),
    Send(u16, Vec<Mail>),
}

pub struct Desk {
    routes: Routes,
    rng: Rng,
    /// Reactors that take no more, as it is when a turn begins.
    pub full: Vec<bool>,
    pub told: Vec<Told>,
    /// Connections that are gone.
    pub gone: usize,
}

impl Desk {
    pub fn new(config: &Config, reactors: usize, seed: u64) -> Desk {
        let routes = Routes::new(config).expect("globs");
        Desk { routes, rng: Rng::new(seed), full: vec![false; reactors], told: Vec::new(), gone: 0 }
    }
}

impl Host for Desk {
    type Socket = End;

    fn decide<'a>(&mut self, head: &Head<'a>) -> Decision<'a> {
        self.routes.decide(head)
    }

    fn introduce(&mut self, _: &Head<'_>) -> Introduction {
        Introduction::default()
    }

    fn admit(&mut self, _: &mut Counters) -> Result<(), &'static str> {
        Ok(())
    }

    fn id(&mut self) -> [u8; 16] {
        self.rng.bytes16()
    }

    fn hand_off(&mut self, _: End, bytes: &[u8], _: u32, _: &mut Counters) {
        panic!("a request for others: {}", String::from_utf8_lossy(bytes));
    }

    fn gone(&mut self, _: Marks, _: u32) {
        self.gone += 1;
    }

    fn ask(&mut self, call: Call) -> Result<(), Call> {
        if self.rng.chance(REFUSED) {
            return Err(call);
        }
        self.told.push(Told::Ask(call));
        Ok(())
    }

    fn forget(&mut self, key: ConnKey) {
        self.told.push(Told::Forget(key));
    }

    fn hook(&mut self, hook: Hook) {
        self.told.push(Told::Hook(hook));
    }

    fn engine(&mut self, _: Engine, call: EngineCall) {
        self.told.push(Told::Engine(call));
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
        self.told.push(Told::Answer(ticket, answer));
    }

    fn is_full(&self, reactor: u16) -> bool {
        self.full[usize::from(reactor)]
    }

    fn send(&mut self, reactor: u16, mail: &mut Vec<Mail>) {
        self.told.push(Told::Send(reactor, std::mem::take(mail)));
    }

    fn take_settings(&mut self, _: &Config) {}

    fn memory_excess(&mut self) -> usize {
        0
    }

    fn micros(&mut self) -> u64 {
        0
    }
}
