//! F3 · The broker in memory: one reactor's share of the node's channels.
//!
//! Owns, for each channel that hashes here and has subscribers, how many each reactor holds. Pure: requests in, events
//! out. A publication goes once to each reactor with subscribers, however many it has.

use super::{Asker, Event, Request, Target};
use hashbrown::HashMap;
use smallvec::SmallVec;
use std::sync::Arc;

/// Subscribers by reactor; reactors without any are not listed.
#[derive(Debug, Default)]
struct Channel {
    interest: SmallVec<[(u16, u32); 2]>,
}

/// A shard of the memory broker.
#[derive(Debug, Default)]
pub struct Memory {
    channels: HashMap<Arc<str>, Channel, foldhash::quality::RandomState>,
}

impl Memory {
    /// Carries out `request`; what follows from it is appended to `out`, in order.
    pub fn handle(&mut self, request: Request, out: &mut Vec<(Target, Event)>) {
        match request {
            Request::Subscribe { channel, from, ticket } => {
                let interest = &mut self.channels.entry(channel.clone()).or_default().interest;
                match interest.iter_mut().find(|(reactor, _)| *reactor == from.reactor) {
                    Some((_, count)) => *count += 1,
                    None => interest.push((from.reactor, 1)),
                }
                out.push((Target::Reactor(from.reactor), Event::Subscribed { channel, conn: from, ticket }));
            }
            Request::Leave { channel, reactor } => self.leave(&channel, reactor),
            Request::Publish { channel, publication, asker } => {
                if let Some(Channel { interest }) = self.channels.get(&channel) {
                    out.extend(interest.iter().map(|&(reactor, _)| {
                        let event = Event::Publication { channel: channel.clone(), publication: publication.clone() };
                        (Target::Reactor(reactor), event)
                    }));
                }
                let target = match asker {
                    Asker::Client { conn, .. } => Target::Reactor(conn.reactor),
                    Asker::Backend(_) => Target::Backend,
                };
                out.push((target, Event::Published { asker }));
            }
        }
    }

    fn leave(&mut self, name: &Arc<str>, reactor: u16) {
        let channel = self.channels.get_mut(name);
        debug_assert!(channel.is_some(), "a leave follows its subscribe");
        let Some(channel) = channel else { return };
        channel.interest.retain(|(at, count)| {
            *count -= u32::from(*at == reactor);
            *count > 0
        });
        if channel.interest.is_empty() {
            self.channels.remove(name);
        }
    }

    /// Channels with subscribers.
    pub fn len(&self) -> usize {
        self.channels.len()
    }

    pub fn is_empty(&self) -> bool {
        self.channels.is_empty()
    }

    /// Each channel owned here with its subscribers over all reactors.
    pub fn channels(&self) -> impl Iterator<Item = (&Arc<str>, u64)> {
        self.channels.iter().map(|(name, channel)| (name, channel.interest.iter().map(|&(_, n)| u64::from(n)).sum()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::ConnKey;
    use super::*;
    use crate::protocol::Publication;

    fn ask(memory: &mut Memory, request: Request) -> Vec<(Target, Event)> {
        let mut out = Vec::new();
        memory.handle(request, &mut out);
        out
    }

    fn subscribe(memory: &mut Memory, reactor: u16) -> Vec<(Target, Event)> {
        let from = ConnKey { reactor, index: 7, generation: 1 };
        ask(memory, Request::Subscribe { channel: "c".into(), from, ticket: 3 })
    }

    /// Where a publication and then its answer go.
    fn publish(memory: &mut Memory, asker: Asker) -> Vec<Target> {
        let request = Request::Publish { channel: "c".into(), publication: Publication::default().into(), asker };
        ask(memory, request).into_iter().map(|(target, _)| target).collect()
    }

    #[test]
    fn a_publication_goes_once_to_each_reactor_with_subscribers() {
        let mut memory = Memory::default();
        let backend = Asker::Backend(1);
        assert_eq!(publish(&mut memory, backend), [Target::Backend], "answered without subscribers too");
        let told = subscribe(&mut memory, 0);
        let conn = ConnKey { reactor: 0, index: 7, generation: 1 };
        assert_eq!(told, [(Target::Reactor(0), Event::Subscribed { channel: "c".into(), conn, ticket: 3 })]);
        subscribe(&mut memory, 0);
        subscribe(&mut memory, 2);
        assert_eq!(publish(&mut memory, backend), [Target::Reactor(0), Target::Reactor(2), Target::Backend]);
        let client = Asker::Client { conn: ConnKey { reactor: 5, index: 1, generation: 1 }, ticket: 1 };
        assert_eq!(publish(&mut memory, client), [Target::Reactor(0), Target::Reactor(2), Target::Reactor(5)]);
        assert_eq!(memory.channels().map(|(_, n)| n).collect::<Vec<_>>(), [3]);
    }

    #[test]
    fn a_channel_ends_with_its_last_subscriber() {
        let mut memory = Memory::default();
        for reactor in [0, 0, 2] {
            subscribe(&mut memory, reactor);
        }
        for (reactor, left) in
            [(0, vec![Target::Reactor(0), Target::Reactor(2)]), (2, vec![Target::Reactor(0)]), (0, vec![])]
        {
            ask(&mut memory, Request::Leave { channel: "c".into(), reactor });
            let mut told = publish(&mut memory, Asker::Backend(1));
            assert_eq!(told.pop(), Some(Target::Backend));
            assert_eq!(told, left);
        }
        assert!(memory.is_empty());
    }
}
