//! F10 · What an engine tells the owners of channels, in batches.
//!
//! Owns who is told: the owner of a channel, or the reactor that asked. Never waits: what a full reactor is not told is
//! counted, and its owner finds it by the offsets.

use super::counts::EngineCounts;
use crate::base::mailbox::Sender;
use crate::broker;
use crate::broker::engine::{Away, EngineAnswer, Heard};
use crate::shard::Mail;
use std::sync::Arc;
use std::sync::atomic::Ordering;

pub struct Post {
    reactors: Vec<Sender<Mail>>,
    seed: u64,
    counts: Arc<EngineCounts>,
    /// For each reactor.
    ready: Vec<Vec<Mail>>,
}

impl Post {
    pub fn new(reactors: Vec<Sender<Mail>>, seed: u64, counts: Arc<EngineCounts>) -> Post {
        let ready = reactors.iter().map(|_| Vec::new()).collect();
        Post { reactors, seed, counts, ready }
    }

    /// To the owner of `channel`, whatever waits there.
    pub fn tell(&mut self, channel: &str, heard: Heard) {
        let owner = usize::from(broker::owner(channel, self.reactors.len() as u16, self.seed));
        if let Some(ready) = self.ready.get_mut(owner) {
            ready.push(Mail::Engine(heard));
        }
    }

    /// To the owner of `channel`, if it has room.
    pub fn offer(&mut self, channel: &str, heard: Heard) {
        let owner = usize::from(broker::owner(channel, self.reactors.len() as u16, self.seed));
        let (Some(ready), Some(reactor)) = (self.ready.get_mut(owner), self.reactors.get(owner)) else { return };
        match ready.len() < reactor.room() {
            true => ready.push(Mail::Engine(heard)),
            false => drop(self.counts.dropped.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// To the reactor that asked.
    pub fn reply(&mut self, reactor: u16, heard: Heard) {
        if let Some(ready) = self.ready.get_mut(usize::from(reactor)) {
            ready.push(Mail::Engine(heard));
        }
    }

    pub fn answer(&mut self, reactor: u16, ticket: u64, answer: Result<EngineAnswer, Away>) {
        self.reply(reactor, Heard::Answer { ticket, answer });
    }

    /// Sends what is ready.
    pub fn flush(&mut self) {
        for (reactor, ready) in self.reactors.iter().zip(&mut self.ready) {
            reactor.send_all(ready);
        }
    }
}
