//! F3 · One reactor's share of the node's channels, wherever they live.
//!
//! Owns the choice: a channel is kept here, or an engine keeps it. Either way the same requests bring the same events.

use super::engine::{Engine, EngineCall, Heard};
use super::{EngineLimits, Limits, Memory, RemoteChannels, Request, Told};
use std::sync::Arc;

#[derive(Debug)]
pub struct Owner {
    pub memory: Memory,
    pub remote: RemoteChannels,
}

impl Owner {
    /// `seed`: of this shard, for epochs that no other life of a stream has. `announces`: tell when channels are
    /// occupied and vacated.
    pub fn new(seed: u64, limits: Limits, engine_limits: EngineLimits, announces: bool) -> Owner {
        let (mut memory, mut remote) = (Memory::new(seed, limits), RemoteChannels::new(engine_limits));
        (memory.announces, remote.announces) = (announces, announces);
        Owner { memory, remote }
    }

    /// Carries out `request`, of a channel that lives in `engine`, unless it is known to live elsewhere already; what
    /// follows is appended to `out`, in order. What is for engines is gathered for [`Owner::take_calls`].
    pub fn handle(&mut self, now_ms: u64, engine: Engine, request: Request, out: &mut Told) {
        match engine == Engine::Memory && !self.remote.has(request.channel()) {
            true => self.memory.handle(now_ms, request, out),
            false => self.remote.handle(now_ms, engine, request, out),
        }
    }

    pub fn hear(&mut self, now_ms: u64, heard: Heard, out: &mut Told) {
        self.remote.hear(now_ms, heard, out);
    }

    /// What engines are to be told, in order.
    pub fn take_calls(&mut self) -> impl Iterator<Item = (Engine, EngineCall)> {
        self.remote.calls.drain(..)
    }

    /// What comes with time; when the next call is wanted.
    pub fn expire(&mut self, now_ms: u64, out: &mut Told) -> Option<u64> {
        let (memory, remote) = (self.memory.expire(now_ms), self.remote.expire(now_ms, out));
        memory.into_iter().chain(remote).min()
    }

    /// Channels with subscribers.
    pub fn len(&self) -> usize {
        self.memory.len() + self.remote.occupied()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Each channel of a part that has subscribers on this node, with their number over all reactors.
    pub fn channels(&self, part: usize) -> impl Iterator<Item = (&Arc<str>, u64)> {
        self.memory.channels(part).chain(self.remote.channels(part))
    }

    /// How many channels a part has, those without subscribers too.
    pub fn part_len(&self, part: usize) -> usize {
        self.memory.part_len(part) + self.remote.part_len(part)
    }
}
