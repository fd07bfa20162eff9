//! F5 · This reactor's channels: who listens, and the fan-out of publications to them.
//!
//! Owns the channel table, each channel's list of subscribers, what waits for delivery, and how far the channel's
//! stream has come here: one position for all its subscribers, so that a gap is seen by an offset that does not follow.
//! Knows nothing of sockets or sessions: a subscriber is a [`Slot`]. What is sent, in which bytes, is in `batch`.
//!
//! A fan-out is cut into slices, and the order inside a channel is kept all the same: while a channel has deliveries
//! under way, who joins waits in line behind them, and who leaves is taken out so that nobody is served twice or
//! missed. Publications that wait together are delivered together: one buffer, one write for each subscriber.

mod batch;
#[cfg(test)]
mod tests;

pub use batch::{ChannelEvent, Frames, as_delta};

use crate::broker::{EpochMark, Extras, Position};
use crate::protocol::Publication;
use crate::wire::Wire;
use crate::ws::Deflater;
use batch::{Batch, Op};
use foldhash::quality::RandomState;
use hashbrown::HashTable;
use slab::Slab;
use smallvec::SmallVec;
use std::collections::{BTreeSet, VecDeque};
use std::hash::BuildHasher;
use std::sync::Arc;

/// A channel of this hub, until it is released.
pub type ChannelId = u32;

/// A subscriber: its connection, where the subscription stands in its session, and what it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    pub conn: u32,
    pub back: u16,
    pub wire: Wire,
    pub flags: Flags,
}

const _: () = assert!(size_of::<Slot>() <= 8);

/// What a subscription is besides plain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(u8);

impl Flags {
    /// Takes deltas.
    pub const DELTA: Flags = Flags(1);
    /// Has the publication that the next delta is to.
    pub const DELTA_READY: Flags = Flags(2);
    /// Is told who comes and goes.
    pub const JOIN_LEAVE: Flags = Flags(4);
    /// Is told of a gap.
    pub const POSITIONED: Flags = Flags(8);
    /// Chooses publications by their tags.
    pub const FILTERED: Flags = Flags(16);
    /// The server made it.
    pub const SERVER_SIDE: Flags = Flags(32);
    /// Is listed among those present.
    pub const PRESENT: Flags = Flags(64);
    /// Its coming and going are told to others.
    pub const ANNOUNCED: Flags = Flags(128);

    pub fn has(self, other: Flags) -> bool {
        self.0 & other.0 != 0
    }

    pub fn set(&mut self, other: Flags, on: bool) {
        self.0 = if on { self.0 | other.0 } else { self.0 & !other.0 };
    }

    /// Those of `self` and `other`, if `on`.
    pub fn with(mut self, other: Flags, on: bool) -> Flags {
        self.0 |= if on { other.0 } else { 0 };
        self
    }
}

impl Slot {
    /// Equal for slots that are sent the same: cheaper to compare than what is sent is to find.
    pub fn likeness(&self) -> u16 {
        let deltas = Flags::DELTA.0 | Flags::DELTA_READY.0 | Flags::JOIN_LEAVE.0;
        u16::from(self.wire as u8) << 8 | u16::from(self.flags.0 & deltas)
    }

    fn variant(&self) -> Variant {
        let deltas = match (self.flags.has(Flags::DELTA), self.flags.has(Flags::DELTA_READY)) {
            (false, _) => 0,
            (true, false) => 1,
            (true, true) => 2,
        };
        Variant::of(self.wire, deltas)
    }

    /// Does it take deltas, and is whether it has what the next one is to other than `ready`?
    pub fn is_delta_turned(&self, ready: bool) -> bool {
        self.flags.has(Flags::DELTA) && self.flags.has(Flags::DELTA_READY) != ready
    }
}

/// A wire, and one of three ways with deltas: none; the first is whole and deltas follow; deltas. The ways stand apart,
/// as all wires have the first, and the last wire, which takes no deltas, has no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variant(u8);

const _: () = assert!(Wire::COUNT * 3 - 2 <= 64 && Wire::UniGrpc as usize == Wire::COUNT - 1);

impl Variant {
    fn of(wire: Wire, deltas: u8) -> Variant {
        let of_wires = Wire::COUNT as u8;
        match deltas {
            0 => Variant(wire as u8),
            way => Variant(of_wires + (way - 1) * (of_wires - 1) + wire as u8),
        }
    }

    fn wire(self) -> Wire {
        let at = usize::from(self.0);
        Wire::from_index(if at < Wire::COUNT { at } else { (at - Wire::COUNT) % (Wire::COUNT - 1) })
    }

    fn takes_deltas(self) -> bool {
        usize::from(self.0) >= Wire::COUNT
    }

    fn is_chain(self) -> bool {
        usize::from(self.0) >= Wire::COUNT * 2 - 1
    }
}

/// A subscriber whose place in the list changed: its session must be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    pub conn: u32,
    pub back: u16,
    pub slot: u32,
}

/// What to do next for the channels that wait.
pub enum Work<'a, J> {
    Deliver(Delivery<'a>),
    /// A subscription whose turn has come, after all that was published before it.
    Join(J),
    /// Publications are missing here: those of these subscribers that keep a position must be told.
    Gap {
        channel: ChannelId,
        slots: &'a [Slot],
    },
}

/// A slice of a fan-out.
pub struct Delivery<'a> {
    pub channel: ChannelId,
    pub frames: &'a Frames,
    /// Publications, joins or leaves in them.
    pub items: u32,
    /// Joins and leaves: only for those who want them.
    pub presence: bool,
    /// Whoever takes deltas has by these what the next one is to.
    pub begins_deltas: bool,
    /// The one publication of these frames, if it is one.
    pub single: Option<(&'a Publication, Option<&'a Extras>)>,
    /// Index of the first slot.
    pub start: u32,
    pub slots: &'a [Slot],
    /// No other channel has anything waiting, so nobody gets more in this turn than this.
    pub alone: bool,
}

impl Delivery<'_> {
    /// The bytes for one of the slots. `None` = the payload is no JSON, and a JSON subscriber cannot go on.
    pub fn bytes(&self, slot: &Slot) -> Option<&bytes::Bytes> {
        self.frames.get(slot.variant())
    }
}

/// Publications of a channel leave together, so many or after so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// 0 = any number.
    pub size_max: usize,
    pub delay_ms: u64,
    /// Only the latest leaves.
    pub latest: bool,
}

#[derive(Debug)]
struct Channel<J> {
    name: Arc<str>,
    slots: SmallVec<[Slot; 2]>,
    /// Subscriptions asked for and not yet joined: they keep the id alive.
    holds: u32,
    /// Subscribers that choose by tags.
    filtered: u32,
    /// How far the stream has come here, for those who keep a position.
    place: StreamPlace,
    waiting: Option<Box<Waiting<J>>>,
}

const _: () = assert!(size_of::<Channel<()>>() <= 72);

/// A position as small as can be; no epoch = not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct StreamPlace {
    offset: u64,
    epoch: EpochMark,
}

/// How far a channel's subscribers have been sent its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivered {
    pub offset: u64,
    pub epoch: EpochMark,
    /// Nothing waits behind.
    pub whole: bool,
}

#[derive(Debug)]
struct Waiting<J> {
    queue: VecDeque<Op<J>>,
    batch: Option<Batch>,
    /// In the line of channels to be served; otherwise it waits for its time.
    active: bool,
    /// That time, if it is listed with it.
    due: Option<u64>,
    /// Publications since it began to wait, those that were overtaken too.
    paced: usize,
    latest_only: bool,
}

/// The channel table. `J` is what a join is to its owner.
#[derive(Debug)]
pub struct Hub<J> {
    names: HashTable<ChannelId>,
    hasher: RandomState,
    channels: Slab<Channel<J>>,
    /// Channels with something waiting, each once, served in turn.
    active: VecDeque<ChannelId>,
    /// Channels that wait for their time, each once, in milliseconds of a clock that never steps.
    delayed: BTreeSet<(u64, ChannelId)>,
    subscriptions: usize,
    waiting_bytes: usize,
    /// Beyond so many bytes nothing waits for its time.
    full_at: usize,
    /// Gaps that were told.
    gaps: u64,
}

impl<J> Default for Hub<J> {
    fn default() -> Self {
        Hub {
            names: HashTable::new(),
            hasher: RandomState::default(),
            channels: Slab::new(),
            active: VecDeque::new(),
            delayed: BTreeSet::new(),
            full_at: usize::MAX,
            gaps: 0,
            subscriptions: 0,
            waiting_bytes: 0,
        }
    }
}

impl<J> Hub<J> {
    /// One in which publications wait for their time only up to `full_at` bytes: a full hub always has work to do.
    pub fn with_room(full_at: usize) -> Hub<J> {
        Hub { full_at, ..Hub::default() }
    }

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

    /// Bytes that wait for their fan-out or are in it, with what each publication takes besides its own.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Gaps told here since the start.
    pub fn gaps(&self) -> u64 {
        self.gaps
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
    pub fn hold(&mut self, name: impl AsRef<str> + Into<Arc<str>>) -> ChannelId {
        let id = self.find(name.as_ref()).unwrap_or_else(|| self.insert(name.into()));
        self.channels[id as usize].holds += 1;
        id
    }

    fn insert(&mut self, name: Arc<str>) -> ChannelId {
        let (slots, place) = (SmallVec::new(), StreamPlace::default());
        let hash = self.hasher.hash_one(&*name);
        let channel = Channel { name, slots, holds: 0, filtered: 0, place, waiting: None };
        let id = self.channels.insert(channel) as ChannelId;
        let Hub { names, hasher, channels, .. } = self;
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
        channel.filtered += u32::from(slot.flags.has(Flags::FILTERED));
        channel.slots.push(slot);
        self.subscriptions += 1;
        (channel.slots.len() - 1) as u32
    }

    /// The subscription of `slot` stands at `back` in its session now.
    pub fn set_back(&mut self, id: ChannelId, slot: u32, back: u16) {
        self.channels[id as usize].slots[slot as usize].back = back;
    }

    /// What stands at `slot`.
    pub fn slot(&self, id: ChannelId, slot: u32) -> Option<Slot> {
        self.channels.get(id as usize)?.slots.get(slot as usize).copied()
    }

    /// Whether the subscriber at `slot` has what the next delta is to.
    pub fn set_delta_ready(&mut self, id: ChannelId, slot: u32, ready: bool) {
        if let Some(slot) = self.channels.get_mut(id as usize).and_then(|c| c.slots.get_mut(slot as usize)) {
            slot.flags.set(Flags::DELTA_READY, ready);
        }
    }

    /// The channel's owner told where the stream stands: from here on each publication must follow. What was known
    /// before is of no use if nobody listened meanwhile; if somebody did, it is the same or something was lost.
    pub fn begin(&mut self, id: ChannelId, position: &Position) {
        let channel = &mut self.channels[id as usize];
        let place = StreamPlace { offset: position.offset, epoch: position.epoch.mark() };
        let known = std::mem::replace(&mut channel.place, place);
        if known.epoch != EpochMark::NONE && known != place && !channel.slots.is_empty() {
            self.wait(id, Op::Gap, None);
        }
    }

    /// How far the subscribers of a channel have been sent its stream; `None` if that is not known, or something that
    /// was lost is about to be told.
    pub fn delivered(&self, id: ChannelId) -> Option<Delivered> {
        let Channel { place: StreamPlace { offset, epoch }, waiting, .. } = self.channels.get(id as usize)?;
        let (offset, epoch) = (*offset, *epoch);
        if epoch == EpochMark::NONE {
            return None;
        }
        let Some(waiting) = waiting else { return Some(Delivered { offset, epoch, whole: true }) };
        let under_way = waiting.batch.as_ref().filter(|batch| batch.cursor < batch.end);
        let gap = under_way.is_some_and(Batch::is_gap) || waiting.queue.iter().any(|op| matches!(op, Op::Gap));
        let items = under_way.into_iter().flat_map(|batch| &batch.items);
        let queued = waiting.queue.iter().filter_map(|op| match op {
            Op::Event(item) => Some(item),
            Op::Join(_) | Op::Gap => None,
        });
        let first = items.chain(queued).find_map(ChannelEvent::offset);
        let offset = first.map_or(offset, |first| first - 1);
        (!gap).then_some(Delivered { offset, epoch, whole: first.is_none() })
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
        let left = slots.swap_remove(hole);
        channel.filtered -= u32::from(left.flags.has(Flags::FILTERED));
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

    /// Queues a publication for the subscribers of `name`; false if there are none here. With a `pace` it waits for
    /// others until `now_ms` and the pace's delay.
    pub fn publish(
        &mut self,
        name: &str,
        publication: Arc<Publication>,
        extras: Option<Box<Extras>>,
        pace: Option<(Pace, u64)>,
    ) -> bool {
        let Some(id) = self.find(name) else { return false };
        match self.follow(id, &publication) {
            Follows::Yes => {}
            Follows::Again => return false,
            Follows::Not => self.wait(id, Op::Gap, None),
        }
        let channel = &self.channels[id as usize];
        if channel.slots.is_empty() && channel.waiting.is_none() {
            return false;
        }
        self.wait(id, Op::Event(ChannelEvent::Publication { publication, extras }), pace);
        true
    }

    /// Queues the news that somebody came or went.
    pub fn announce(&mut self, name: &str, item: ChannelEvent) {
        if let Some(id) = self.find(name)
            && !(self.channels[id as usize].slots.is_empty() && self.channels[id as usize].waiting.is_none())
        {
            self.wait(id, Op::Event(item), None);
        }
    }

    /// Publications of `name` were lost on their way here.
    pub fn gap(&mut self, name: &str) {
        if let Some(id) = self.find(name) {
            self.channels[id as usize].place = StreamPlace::default();
            self.wait(id, Op::Gap, None);
        }
    }

    /// Does this publication come right after the last one?
    fn follow(&mut self, id: ChannelId, publication: &Publication) -> Follows {
        let known = &mut self.channels[id as usize].place;
        if publication.offset == 0 || known.epoch == EpochMark::NONE {
            return Follows::Yes;
        }
        let same_life = publication.epoch.is_empty() || known.epoch == *publication.epoch;
        if same_life && publication.offset == known.offset + 1 {
            known.offset += 1;
            return Follows::Yes;
        }
        if same_life && publication.offset <= known.offset {
            return Follows::Again;
        }
        *known = StreamPlace::default();
        Follows::Not
    }

    /// A join that must wait for publications under way; `None` if it was put in line, else `join` comes back and may
    /// go ahead.
    pub fn queue_join(&mut self, id: ChannelId, join: J) -> Option<J> {
        if self.channels[id as usize].waiting.is_none() {
            return Some(join);
        }
        self.wait(id, Op::Join(join), None);
        None
    }

    fn wait(&mut self, id: ChannelId, mut op: Op<J>, pace: Option<(Pace, u64)>) {
        let channel = &mut self.channels[id as usize];
        let begins = channel.waiting.is_none();
        let waiting = channel.waiting.get_or_insert_with(|| {
            let queue = VecDeque::with_capacity(1);
            Box::new(Waiting { queue, batch: None, active: false, due: None, paced: 0, latest_only: false })
        });
        if let Some((pace, _)) = pace
            && !waiting.active
        {
            waiting.paced += 1;
            waiting.latest_only = pace.latest;
        }
        if waiting.latest_only && !waiting.active {
            self.waiting_bytes -= drop_overtaken(&mut waiting.queue, &mut op);
        }
        if let Op::Event(item) = &op {
            self.waiting_bytes += item.cost();
        }
        waiting.queue.push_back(op);
        match pace {
            _ if waiting.active => {}
            Some((pace, now_ms)) if pace.size_max == 0 || waiting.paced < pace.size_max => {
                if begins {
                    let due = now_ms + pace.delay_ms;
                    waiting.due = Some(due);
                    self.delayed.insert((due, id));
                }
            }
            _ => self.activate(id),
        }
        if self.waiting_bytes > self.full_at {
            self.release_delayed();
        }
    }

    /// Nothing waits for its time any more.
    fn release_delayed(&mut self) {
        for (_, id) in std::mem::take(&mut self.delayed) {
            self.activate(id);
        }
    }

    fn activate(&mut self, id: ChannelId) {
        let Some(waiting) = self.channels.get_mut(id as usize).and_then(|channel| channel.waiting.as_mut()) else {
            return;
        };
        if let Some(due) = waiting.due.take() {
            self.delayed.remove(&(due, id));
        }
        if !std::mem::replace(&mut waiting.active, true) {
            self.active.push_back(id);
            if std::mem::take(&mut waiting.latest_only) {
                self.waiting_bytes -= keep_latest(&mut waiting.queue);
            }
        }
    }

    /// Channels whose time has come may be served; when the next one's comes.
    pub fn wake(&mut self, now_ms: u64) -> Option<u64> {
        while let Some(&(due, id)) = self.delayed.first() {
            if due > now_ms {
                return Some(due);
            }
            self.activate(id);
        }
        None
    }

    /// The next slice, of at most `budget` deliveries; `None` when nothing waits. Channels take turns. `deflater`
    /// compresses for those who want that.
    pub fn next(&mut self, budget: usize, deflater: &mut Deflater) -> Option<Work<'_, J>> {
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
                self.waiting_bytes -= batch.cost;
            }
            match waiting.queue.front() {
                None => {
                    channel.waiting = None;
                    self.active.pop_front();
                    self.forget_if_unused(id);
                }
                Some(Op::Event(_)) => {
                    let apart = channel.filtered > 0;
                    waiting.batch = Some(Batch::take(&mut waiting.queue, channel.slots.len(), apart));
                }
                Some(Op::Join(_)) => {
                    if let Some(Op::Join(join)) = waiting.queue.pop_front() {
                        return Some(Work::Join(join));
                    }
                }
                Some(Op::Gap) => {
                    waiting.queue.pop_front();
                    waiting.batch = Some(Batch::gap(channel.slots.len()));
                    self.gaps += 1;
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
        let slots = &mut channel.slots[start..batch.cursor];
        if batch.is_gap() {
            // The next delta may be to what is missing.
            slots.iter_mut().for_each(|slot| slot.flags.set(Flags::DELTA_READY, false));
            return Some(Work::Gap { channel: id, slots });
        }
        let presence = batch.is_presence();
        batch.encode(&channel.name, wanted(slots, presence), deflater);
        Some(Work::Deliver(Delivery {
            channel: id,
            frames: &batch.frames,
            items: batch.items.len() as u32,
            presence,
            begins_deltas: batch.begins_deltas(),
            single: batch.single(),
            start: start as u32,
            slots,
            alone,
        }))
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

/// The variants that these subscribers need.
fn wanted(slots: &[Slot], presence: bool) -> u64 {
    let (mut wanted, mut last) = (0u64, None);
    for slot in slots {
        // Mostly they are all alike.
        if last != Some(slot.likeness()) {
            last = Some(slot.likeness());
            let wants = !presence || slot.flags.has(Flags::JOIN_LEAVE);
            wanted |= u64::from(wants) << slot.variant().0;
        }
    }
    wanted
}

/// How a publication stands to the one before it.
enum Follows {
    Yes,
    /// It was here before.
    Again,
    /// Others should have come first.
    Not,
}

/// Drops the publication at the end of `queue` if `next` is a later one; bytes dropped.
fn drop_overtaken<J>(queue: &mut VecDeque<Op<J>>, next: &mut Op<J>) -> usize {
    if !is_publication(next) || !queue.back().is_some_and(is_publication) {
        return 0;
    }
    let Some(Op::Event(last)) = queue.pop_back() else { return 0 };
    forget_delta(next);
    last.cost()
}

fn is_publication<J>(op: &Op<J>) -> bool {
    matches!(op, Op::Event(ChannelEvent::Publication { .. }))
}

/// The delta of `op` is to a publication that nobody got; bytes dropped.
fn forget_delta<J>(op: &mut Op<J>) -> usize {
    let Op::Event(ChannelEvent::Publication { extras: Some(extras), .. }) = op else { return 0 };
    extras.delta.take().map_or(0, |delta| delta.len())
}

/// Drops all publications but the last; bytes dropped.
fn keep_latest<J>(queue: &mut VecDeque<Op<J>>) -> usize {
    let last = queue.iter().rposition(is_publication).unwrap_or(0);
    let (mut at, mut dropped) = (0, 0);
    queue.retain(|op| {
        let goes = is_publication(op) && at < last;
        at += 1;
        if let (true, Op::Event(item)) = (goes, op) {
            dropped += item.cost();
        }
        !goes
    });
    if dropped > 0
        && let Some(latest) = queue.iter_mut().rfind(|op| is_publication(op))
    {
        dropped += forget_delta(latest);
    }
    dropped
}
