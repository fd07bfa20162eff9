//! F4 · This reactor's channels: who listens, and the fan-out of publications to them.
//!
//! Owns the channel table, each channel's list of subscribers, the publications that wait for delivery, and the
//! encoding of each, done once per encoding and framed once. Knows nothing of sockets or sessions: a subscriber is a
//! [`Slot`].
//!
//! A fan-out is cut into slices, and the order inside a channel is kept all the same: while a channel has deliveries
//! under way, who joins waits in line behind them, and who leaves is taken out so that nobody is served twice or
//! missed. Publications that wait together are delivered together: one buffer, one write for each subscriber.

use crate::protocol::{Encoding, Publication};
use crate::ws;
use bytes::Bytes;
use foldhash::quality::RandomState;
use hashbrown::HashTable;
use slab::Slab;
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::sync::Arc;

/// A channel of this hub, until it is released.
pub type ChannelId = u32;

/// Bytes of publications that one batch joins, beyond the first.
const BATCH_BYTES_MAX: usize = 128 * 1024;
/// Bytes of replies that share a WebSocket frame, beyond the first.
const FRAME_BYTES_MAX: usize = 16 * 1024;

/// A subscriber: its connection, where the subscription stands in its session, and its encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    pub conn: u32,
    pub back: u16,
    pub encoding: Encoding,
}

const _: () = assert!(size_of::<Slot>() <= 8);

/// A subscriber whose place in the list changed: its session must be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    pub conn: u32,
    pub back: u16,
    pub slot: u32,
}

/// What to do next for the channels that wait.
pub enum Work<'a, J> {
    /// Send these bytes to these subscribers. `None` = the payload is no JSON, and a JSON subscriber cannot go on.
    /// `alone`: no other channel has anything waiting, so nobody gets more in this turn than this.
    Deliver { frames: &'a [Option<Bytes>; 2], publications: u32, slots: &'a [Slot], alone: bool },
    /// A subscription whose turn has come, after all that was published before it.
    Join(J),
}

#[derive(Debug)]
struct Channel<J> {
    name: Arc<str>,
    slots: SmallVec<[Slot; 2]>,
    /// Subscriptions asked for and not yet joined: they keep the id alive.
    holds: u32,
    waiting: Option<Box<Waiting<J>>>,
}

const _: () = assert!(size_of::<Channel<()>>() <= 56);

#[derive(Debug)]
struct Waiting<J> {
    queue: VecDeque<Op<J>>,
    batch: Option<Batch>,
}

#[derive(Debug)]
enum Op<J> {
    Publish(Arc<Publication>),
    Join(J),
}

/// Deliveries under way: slots before `cursor` are served, those from `end` on joined later.
#[derive(Debug)]
struct Batch {
    publications: SmallVec<[Arc<Publication>; 4]>,
    /// By encoding, once a subscriber asked for it.
    encoded: [bool; 2],
    frames: [Option<Bytes>; 2],
    bytes: usize,
    cursor: usize,
    end: usize,
}

/// The channel table. `J` is what a join is to its owner.
#[derive(Debug)]
pub struct Hub<J> {
    names: HashTable<ChannelId>,
    hasher: RandomState,
    channels: Slab<Channel<J>>,
    /// Channels with something waiting, each once, served in turn.
    active: VecDeque<ChannelId>,
    subscriptions: usize,
    waiting_bytes: usize,
}

impl<J> Default for Hub<J> {
    fn default() -> Self {
        Hub {
            names: HashTable::new(),
            hasher: RandomState::default(),
            channels: Slab::new(),
            active: VecDeque::new(),
            subscriptions: 0,
            waiting_bytes: 0,
        }
    }
}

impl<J> Hub<J> {
    /// Channels known here.
    pub fn len(&self) -> usize {
        self.channels.len()
    }

    pub fn is_empty(&self) -> bool {
        self.channels.is_empty()
    }

    /// Subscribers of all channels here.
    pub fn subscriptions(&self) -> usize {
        self.subscriptions
    }

    /// Bytes of publications that wait for their fan-out or are in it.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    pub fn has_work(&self) -> bool {
        !self.active.is_empty()
    }

    /// The id of `name`, if the channel is known.
    pub fn find(&self, name: &str) -> Option<ChannelId> {
        let hash = self.hasher.hash_one(name);
        self.names.find(hash, |&id| *self.channels[id as usize].name == *name).copied()
    }

    /// The id of `name`, made if need be, and held until [`Hub::join`] or [`Hub::release`].
    pub fn hold(&mut self, name: &str) -> ChannelId {
        let id = self.find(name).unwrap_or_else(|| self.insert(name));
        self.channels[id as usize].holds += 1;
        id
    }

    fn insert(&mut self, name: &str) -> ChannelId {
        let channel = Channel { name: name.into(), slots: SmallVec::new(), holds: 0, waiting: None };
        let id = self.channels.insert(channel) as ChannelId;
        let Hub { names, hasher, channels, .. } = self;
        let hash = hasher.hash_one(name);
        names.insert_unique(hash, id, |&id| hasher.hash_one(&*channels[id as usize].name));
        id
    }

    /// The name of a channel that is held or has subscribers.
    pub fn name(&self, id: ChannelId) -> &Arc<str> {
        &self.channels[id as usize].name
    }

    /// Gives a hold back without joining.
    pub fn release(&mut self, id: ChannelId) {
        self.channels[id as usize].holds -= 1;
        self.forget_if_unused(id);
    }

    /// Turns a hold into a subscription; the slot's index.
    pub fn join(&mut self, id: ChannelId, slot: Slot) -> u32 {
        let channel = &mut self.channels[id as usize];
        channel.holds -= 1;
        channel.slots.push(slot);
        self.subscriptions += 1;
        (channel.slots.len() - 1) as u32
    }

    /// The subscription of `slot` stands at `back` in its session now.
    pub fn set_back(&mut self, id: ChannelId, slot: u32, back: u16) {
        self.channels[id as usize].slots[slot as usize].back = back;
    }

    /// Ends a subscription. At most three others change places (served, being served, joined later: the hole is
    /// filled inside each part, so that a fan-out under way misses nobody).
    pub fn leave(&mut self, id: ChannelId, slot: u32) -> SmallVec<[Moved; 3]> {
        let channel = &mut self.channels[id as usize];
        let slots = &mut channel.slots;
        let (mut moved, mut hole) = (SmallVec::new(), slot as usize);
        if let Some(batch) = channel.waiting.as_mut().and_then(|waiting| waiting.batch.as_mut()) {
            for bound in [&mut batch.cursor, &mut batch.end] {
                if hole < *bound {
                    *bound -= 1;
                    slots.swap(hole, *bound);
                    hole = *bound;
                }
            }
        }
        slots.swap_remove(hole);
        // Whatever stands between the old place and the new hole may have moved: at most one slot in each part.
        let bounds = channel.waiting.as_ref().and_then(|w| w.batch.as_ref()).map(|b| [b.cursor, b.end]);
        let mut changed: SmallVec<[usize; 3]> = SmallVec::new();
        changed.push(slot as usize);
        changed.extend(bounds.into_iter().flatten().filter(|&at| at > slot as usize));
        changed.dedup();
        for at in changed {
            if let Some(s) = slots.get(at) {
                moved.push(Moved { conn: s.conn, back: s.back, slot: at as u32 });
            }
        }
        if slots.spilled() && slots.len() < slots.capacity() / 4 {
            slots.shrink_to_fit();
        }
        self.subscriptions -= 1;
        self.forget_if_unused(id);
        moved
    }

    /// Queues `publication` for the subscribers of `name`; false if there are none here.
    pub fn publish(&mut self, name: &str, publication: Arc<Publication>) -> bool {
        let Some(id) = self.find(name) else { return false };
        let channel = &self.channels[id as usize];
        if channel.slots.is_empty() && channel.waiting.is_none() {
            return false;
        }
        self.waiting_bytes += publication.data.len();
        self.wait(id, Op::Publish(publication));
        true
    }

    /// A join that must wait for publications under way; `None` if it was put in line, else `join` comes back and may
    /// go ahead.
    pub fn queue_join(&mut self, id: ChannelId, join: J) -> Option<J> {
        if self.channels[id as usize].waiting.is_none() {
            return Some(join);
        }
        self.wait(id, Op::Join(join));
        None
    }

    fn wait(&mut self, id: ChannelId, op: Op<J>) {
        let waiting = &mut self.channels[id as usize].waiting;
        if waiting.is_none() {
            self.active.push_back(id);
        }
        waiting
            .get_or_insert_with(|| Box::new(Waiting { queue: VecDeque::with_capacity(1), batch: None }))
            .queue
            .push_back(op);
    }

    /// The next slice, of at most `budget` deliveries; `None` when nothing waits. Channels take turns.
    pub fn next(&mut self, budget: usize) -> Option<Work<'_, J>> {
        loop {
            let id = *self.active.front()?;
            let channel = &mut self.channels[id as usize];
            let Some(waiting) = channel.waiting.as_mut() else {
                // Cannot be: a channel is listed exactly while it waits.
                self.active.pop_front();
                continue;
            };
            let done = waiting.batch.as_ref().is_none_or(|batch| batch.cursor >= batch.end);
            if !done {
                break;
            }
            if let Some(batch) = waiting.batch.take() {
                self.waiting_bytes -= batch.bytes;
            }
            match waiting.queue.front() {
                None => {
                    channel.waiting = None;
                    self.active.pop_front();
                    self.forget_if_unused(id);
                }
                Some(Op::Publish(_)) => waiting.batch = Some(batch(&mut waiting.queue, channel.slots.len())),
                Some(Op::Join(_)) => {
                    if let Some(Op::Join(join)) = waiting.queue.pop_front() {
                        return Some(Work::Join(join));
                    }
                }
            }
        }
        let id = self.active.pop_front()?;
        let alone = self.active.is_empty();
        self.active.push_back(id);
        let channel = &mut self.channels[id as usize];
        let batch = channel.waiting.as_mut()?.batch.as_mut()?;
        let start = batch.cursor;
        batch.cursor = batch.end.min(start + budget);
        let slots = &channel.slots[start..batch.cursor];
        for encoding in Encoding::ALL {
            let at = encoding as usize;
            if !batch.encoded[at] && slots.iter().any(|slot| slot.encoding == encoding) {
                batch.frames[at] = encode(encoding, &channel.name, &batch.publications);
                batch.encoded[at] = true;
            }
        }
        Some(Work::Deliver { frames: &batch.frames, publications: batch.publications.len() as u32, slots, alone })
    }

    fn forget_if_unused(&mut self, id: ChannelId) {
        let channel = &self.channels[id as usize];
        if !channel.slots.is_empty() || channel.holds > 0 || channel.waiting.is_some() {
            return;
        }
        let hash = self.hasher.hash_one(&*channel.name);
        if let Ok(entry) = self.names.find_entry(hash, |&at| at == id) {
            entry.remove();
        }
        self.channels.remove(id as usize);
    }
}

/// Takes publications off the front of `queue`, as many as go together, for the first `end` subscribers.
fn batch<J>(queue: &mut VecDeque<Op<J>>, end: usize) -> Batch {
    let (mut publications, mut bytes) = (SmallVec::<[Arc<Publication>; 4]>::new(), 0);
    while let Some(Op::Publish(next)) = queue.front()
        && (publications.is_empty() || bytes + next.data.len() <= BATCH_BYTES_MAX)
    {
        bytes += next.data.len();
        if let Some(Op::Publish(next)) = queue.pop_front() {
            publications.push(next);
        }
    }
    Batch { publications, encoded: [false; 2], frames: [None, None], bytes, cursor: 0, end }
}

/// One buffer with all of `publications`, in as few frames as their sizes allow; `None` if one cannot be encoded.
fn encode(encoding: Encoding, name: &str, publications: &[Arc<Publication>]) -> Option<Bytes> {
    let opcode = opcode(encoding);
    let (mut wire, mut message) = (Vec::new(), Vec::new());
    for publication in publications {
        if message.len() + publication.data.len() > FRAME_BYTES_MAX && !message.is_empty() {
            ws::push_frame(&mut wire, opcode, &message);
            message.clear();
        }
        encoding.encode_publication(name, publication, &mut message).ok()?;
    }
    if wire.is_empty() {
        return Some(ws::frame(opcode, &message));
    }
    ws::push_frame(&mut wire, opcode, &message);
    Some(wire.into())
}

/// JSON goes in text frames, Protobuf in binary ones.
pub fn opcode(encoding: Encoding) -> ws::Opcode {
    match encoding {
        Encoding::Json => ws::Opcode::Text,
        Encoding::Protobuf => ws::Opcode::Binary,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn publication(text: &str) -> Arc<Publication> {
        Arc::new(Publication { data: text.to_owned().into(), ..Publication::default() })
    }

    fn subscribe(hub: &mut Hub<u32>, conn: u32, encoding: Encoding) -> (ChannelId, u32) {
        let id = hub.hold("c");
        (id, hub.join(id, Slot { conn, back: 0, encoding }))
    }

    #[test]
    fn one_frame_for_all_that_waits_in_each_encoding() {
        let mut hub = Hub::default();
        subscribe(&mut hub, 1, Encoding::Json);
        subscribe(&mut hub, 2, Encoding::Protobuf);
        assert!(hub.publish("c", publication("1")) && hub.publish("c", publication("2")));
        assert!(!hub.publish("other", publication("3")));
        let Some(Work::Deliver { frames, publications, slots, .. }) = hub.next(10) else { panic!("a delivery") };
        assert_eq!((publications, slots.len()), (2, 2));
        let json =
            "{\"push\":{\"channel\":\"c\",\"pub\":{\"data\":1}}}\n{\"push\":{\"channel\":\"c\",\"pub\":{\"data\":2}}}";
        assert_eq!(frames[0].as_ref().expect("JSON"), &ws::frame(ws::Opcode::Text, json.as_bytes()));
        assert_eq!(
            frames[1].as_ref().expect("Protobuf"),
            &b"\x82\x16\x0a\x22\x08\x12\x01c\x22\x03\x22\x011\x0a\x22\x08\x12\x01c\x22\x03\x22\x012"[..]
        );
        assert!(hub.next(10).is_none() && !hub.has_work());
        assert_eq!(hub.waiting_bytes(), 0);
    }

    #[test]
    fn who_joins_during_a_fan_out_gets_only_what_comes_after() {
        let mut hub = Hub::default();
        for conn in 0..4 {
            subscribe(&mut hub, conn, Encoding::Json);
        }
        hub.publish("c", publication("1"));
        assert!(matches!(hub.next(3), Some(Work::Deliver { slots, .. }) if slots.len() == 3));
        let id = hub.hold("c");
        assert_eq!(hub.queue_join(id, 9), None);
        hub.publish("c", publication("2"));
        assert!(matches!(hub.next(3), Some(Work::Deliver { slots, .. }) if slots.len() == 1));
        assert!(matches!(hub.next(3), Some(Work::Join(9))));
        hub.join(id, Slot { conn: 9, back: 0, encoding: Encoding::Json });
        assert!(matches!(hub.next(9), Some(Work::Deliver { slots, .. }) if slots.len() == 5));
    }

    #[test]
    fn a_payload_that_is_no_json_has_no_json_frame() {
        let mut hub = Hub::default();
        subscribe(&mut hub, 1, Encoding::Json);
        subscribe(&mut hub, 2, Encoding::Protobuf);
        hub.publish("c", publication("not json"));
        assert!(matches!(hub.next(2), Some(Work::Deliver { frames: [None, Some(_)], .. })));
    }

    #[test]
    fn a_channel_is_forgotten_with_its_last_user() {
        let mut hub = Hub::default();
        let (id, slot) = subscribe(&mut hub, 1, Encoding::Json);
        let held = hub.hold("c");
        hub.publish("c", publication("1"));
        assert!(hub.leave(id, slot).is_empty());
        hub.release(held);
        assert_eq!(hub.len(), 1, "a publication waits");
        assert!(hub.next(1).is_none());
        assert!(hub.is_empty() && hub.find("c").is_none());
    }

    /// One step of work: a join is done, a delivery is heard. False when there is none.
    fn drain_one(
        hub: &mut Hub<u32>,
        id: ChannelId,
        place: &mut HashMap<u32, u32>,
        joining: &mut Vec<u32>,
        got: &mut HashMap<u32, Vec<String>>,
        budget: usize,
    ) -> bool {
        match hub.next(budget) {
            None => return false,
            Some(Work::Join(conn)) => {
                joining.retain(|c| *c != conn);
                place.insert(conn, hub.join(id, Slot { conn, back: 0, encoding: Encoding::Json }));
            }
            Some(Work::Deliver { frames, slots, .. }) => {
                let text = String::from_utf8_lossy(frames[0].as_ref().expect("JSON")).into_owned();
                for slot in slots {
                    let heard = text.split("\"data\":").skip(1).map(|t| t.split('}').next().expect("end").to_owned());
                    got.entry(slot.conn).or_default().extend(heard);
                }
            }
        }
        true
    }

    proptest! {
        /// Joins, leaves, publications and slices in any order: everyone there from a publication's arrival to its
        /// delivery gets it exactly once and in order, nobody gets one from before they joined, and every session
        /// is told where it stands.
        #[test]
        fn nobody_is_missed_or_served_twice(steps in prop::collection::vec((0u8..5, 0u32..6, 1usize..4), 1..120)) {
            let mut hub: Hub<u32> = Hub::default();
            let mut place: HashMap<u32, u32> = HashMap::new();
            let mut joining: Vec<u32> = Vec::new();
            let mut expected: HashMap<u32, Vec<String>> = HashMap::new();
            let mut got: HashMap<u32, Vec<String>> = HashMap::new();
            let (mut next, mut alive) = (0, hub.hold("c"));
            let hold = alive;
            let join = |hub: &mut Hub<u32>, place: &mut HashMap<u32, u32>, conn| {
                let slot = hub.join(hold, Slot { conn, back: 0, encoding: Encoding::Json });
                place.insert(conn, slot);
            };
            let drain = |hub: &mut Hub<u32>, place: &mut _, joining: &mut _, got: &mut _, budget| {
                drain_one(hub, hold, place, joining, got, budget)
            };
            for (what, conn, budget) in steps {
                match what {
                    0 if !place.contains_key(&conn) && !joining.contains(&conn) => {
                        alive = hub.hold("c");
                        prop_assert_eq!(alive, hold);
                        // A client that comes again is a new one.
                        expected.remove(&conn);
                        got.remove(&conn);
                        match hub.queue_join(hold, conn) {
                            Some(conn) => join(&mut hub, &mut place, conn),
                            None => joining.push(conn),
                        }
                        expected.insert(conn, Vec::new());
                    }
                    1 => if let Some(slot) = place.remove(&conn) {
                        for moved in hub.leave(hold, slot) {
                            place.insert(moved.conn, moved.slot);
                        }
                        expected.remove(&conn);
                    },
                    2 => {
                        next += 1;
                        let text = next.to_string();
                        hub.publish("c", publication(&text));
                        for heard in expected.values_mut() { heard.push(text.clone()); }
                    }
                    _ => { drain(&mut hub, &mut place, &mut joining, &mut got, budget); }
                }
                for (&conn, &slot) in &place {
                    prop_assert_eq!(hub.channels[hold as usize].slots[slot as usize].conn, conn);
                }
            }
            while drain(&mut hub, &mut place, &mut joining, &mut got, 2) {}
            for (conn, heard) in expected {
                prop_assert_eq!(got.get(&conn).cloned().unwrap_or_default(), heard, "client {}", conn);
            }
            prop_assert_eq!(hub.waiting_bytes(), 0);
        }
    }
}
