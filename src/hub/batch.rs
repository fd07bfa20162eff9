//! F5 · What a channel's subscribers are sent together, and the bytes of it.
//!
//! Owns the items that wait, and their encoding: once for each variant that a subscriber needs, a variant being a wire
//! and a way with deltas. Knows nothing of who is sent what.

use super::Variant;
use crate::broker::Extras;
use crate::protocol::delta::json_string;
use crate::protocol::{ClientInfo, Encoding, PresencePush, Publication, Push, Reply};
use crate::wire::Wire;
use crate::ws::Deflater;
use bytes::Bytes;
use prost::Message as _;
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::sync::Arc;

/// Bytes of publications that one batch joins, beyond the first.
const BATCH_BYTES_MAX: usize = 128 * 1024;
/// What waits for its fan-out takes so many bytes besides its own: a place in the queue and what all share.
pub(super) const EVENT_BYTES: usize = 256;
/// Bytes of replies that share a message, beyond the first.
const MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// What subscribers are told.
#[derive(Debug, Clone)]
pub enum ChannelEvent {
    Publication { publication: Arc<Publication>, extras: Option<Box<Extras>> },
    Presence { info: Arc<ClientInfo>, joined: bool },
}

impl ChannelEvent {
    /// Bytes of it that are encoded for subscribers, about.
    fn size(&self) -> usize {
        match self {
            ChannelEvent::Publication { publication, .. } => publication.data.len(),
            ChannelEvent::Presence { info, .. } => info.user.len() + info.conn_info.len() + info.chan_info.len(),
        }
    }

    /// Bytes of memory that it counts for while it waits: however small it is, it takes room.
    pub fn cost(&self) -> usize {
        EVENT_BYTES
            + match self {
                ChannelEvent::Publication { publication, extras } => {
                    let delta = extras.as_ref().and_then(|extras| extras.delta.as_ref());
                    publication.encoded_len() + delta.map_or(0, Bytes::len)
                }
                ChannelEvent::Presence { info, .. } => info.encoded_len(),
            }
    }

    fn is_presence(&self) -> bool {
        matches!(self, ChannelEvent::Presence { .. })
    }

    /// Is it in the channel's stream? Deltas are between those that are.
    fn is_kept(&self) -> bool {
        matches!(self, ChannelEvent::Publication { publication, .. } if publication.offset > 0)
    }

    /// Its place in the channel's stream, if it has one.
    pub(super) fn offset(&self) -> Option<u64> {
        match self {
            ChannelEvent::Publication { publication, .. } => Some(publication.offset).filter(|offset| *offset > 0),
            ChannelEvent::Presence { .. } => None,
        }
    }

    fn is_for_all(&self) -> bool {
        match self {
            ChannelEvent::Publication { extras, .. } => extras.as_ref().is_none_or(|extras| extras.except.is_none()),
            ChannelEvent::Presence { .. } => true,
        }
    }
}

/// What waits in a channel, in its order.
#[derive(Debug)]
pub enum Op<J> {
    Event(ChannelEvent),
    Join(J),
    /// Something is missing here.
    Gap,
}

/// Deliveries under way, or, without items, the news of a gap: slots before `cursor` are served, those from `end` on
/// joined later.
#[derive(Debug)]
pub struct Batch {
    pub items: SmallVec<[ChannelEvent; 4]>,
    pub frames: Frames,
    bytes: usize,
    /// What its items count for.
    pub cost: usize,
    pub cursor: usize,
    pub end: usize,
}

/// Bytes by variant, made when first needed. `None` = what is published is no JSON, and cannot be sent as such.
#[derive(Debug, Default)]
pub struct Frames(SmallVec<[(Variant, Option<Bytes>); 2]>);

impl Frames {
    /// Those of `variant`.
    pub fn get(&self, variant: Variant) -> Option<&Bytes> {
        self.0.iter().find(|(at, _)| *at == variant).and_then(|(_, bytes)| bytes.as_ref())
    }

    fn has(&self, variant: Variant) -> bool {
        self.0.iter().any(|(at, _)| *at == variant)
    }
}

impl Batch {
    /// Takes items off the front of `queue`, as many as go together, for the first `end` subscribers. `apart`: each
    /// publication by itself, as subscribers choose among them.
    pub fn take<J>(queue: &mut VecDeque<Op<J>>, end: usize, apart: bool) -> Batch {
        let mut batch = Batch { items: SmallVec::new(), frames: Frames::default(), bytes: 0, cost: 0, cursor: 0, end };
        while let Some(Op::Event(next)) = queue.front()
            && batch.takes(next, apart)
        {
            batch.bytes += next.size();
            batch.cost += next.cost();
            if let Some(Op::Event(next)) = queue.pop_front() {
                batch.items.push(next);
            }
        }
        batch
    }

    /// The first `end` subscribers are told that something is missing.
    pub fn gap(end: usize) -> Batch {
        Batch { items: SmallVec::new(), frames: Frames::default(), bytes: 0, cost: 0, cursor: 0, end }
    }

    pub fn is_gap(&self) -> bool {
        self.items.is_empty()
    }

    fn takes(&self, next: &ChannelEvent, apart: bool) -> bool {
        let Some(last) = self.items.last() else { return true };
        let alike = last.is_presence() == next.is_presence() && last.is_for_all() && next.is_for_all();
        alike && (!apart || next.is_presence()) && self.bytes + next.size() <= BATCH_BYTES_MAX
    }

    /// Does it end with what the next delta is to?
    pub fn begins_deltas(&self) -> bool {
        self.items.last().is_some_and(ChannelEvent::is_kept)
    }

    pub fn is_presence(&self) -> bool {
        self.items.first().is_some_and(ChannelEvent::is_presence)
    }

    /// The publication, if it is the only one.
    pub fn single(&self) -> Option<(&Publication, Option<&Extras>)> {
        match &self.items[..] {
            [ChannelEvent::Publication { publication, extras }] => Some((publication, extras.as_deref())),
            _ => None,
        }
    }

    /// Makes the bytes of each variant in the set that has none yet: encoded once, and compressed once.
    pub fn encode(&mut self, name: &str, mut wanted: u64, deflater: &mut Deflater) {
        while wanted != 0 {
            let variant = Variant(wanted.trailing_zeros() as u8);
            wanted &= wanted - 1;
            if !self.frames.has(variant) {
                let bytes = encode(variant, name, &self.items, deflater);
                self.frames.0.push((variant, bytes));
            }
        }
    }
}

/// One buffer with all of `items`, in as few messages as their sizes allow; `None` if one cannot be encoded.
fn encode(variant: Variant, name: &str, items: &[ChannelEvent], deflater: &mut Deflater) -> Option<Bytes> {
    let wire = variant.wire();
    let (mut packed, mut message) = (Vec::new(), Vec::new());
    for (at, item) in items.iter().enumerate() {
        let full = !wire.joins() || message.len() + item.size() > MESSAGE_BYTES_MAX;
        if full && !message.is_empty() {
            wire.pack(&message, deflater, &mut packed);
            message.clear();
        }
        let chained = if at == 0 { variant.is_chain() } else { items[at - 1].is_kept() };
        match item {
            ChannelEvent::Publication { publication, .. } if !variant.takes_deltas() && !wire.is_uni() => {
                wire.encoding().encode_publication(name, publication, &mut message).ok()?;
            }
            ChannelEvent::Publication { publication, extras } => {
                let delta = extras.as_ref().and_then(|extras| extras.delta.as_ref()).filter(|_| chained);
                let publication = match variant.takes_deltas() {
                    true => as_delta(wire.encoding(), publication, delta)?,
                    false => Publication::clone(publication),
                };
                say(wire, name, Push { publication: Some(publication), ..Push::default() }, &mut message)?;
            }
            ChannelEvent::Presence { info, joined } => {
                let presence = Some(PresencePush { info: Some(ClientInfo::clone(info)) });
                let push = match joined {
                    true => Push { join: presence, ..Push::default() },
                    false => Push { leave: presence, ..Push::default() },
                };
                say(wire, name, push, &mut message)?;
            }
        }
    }
    if packed.is_empty() {
        return Some(wire.packed(&message, deflater));
    }
    wire.pack(&message, deflater, &mut packed);
    Some(packed.into())
}

fn say(wire: Wire, name: &str, push: Push, message: &mut Vec<u8>) -> Option<()> {
    let push = Push { channel: name.to_owned(), ..push };
    wire.say(&Reply { push: Some(push), ..Reply::default() }, message).ok()
}

/// A publication for a subscriber that takes deltas: the delta if there is one, else the whole. JSON clients get
/// either as a string, for neither need be JSON. `None` = it is not text.
pub fn as_delta(encoding: Encoding, publication: &Publication, delta: Option<&Bytes>) -> Option<Publication> {
    let bytes = delta.unwrap_or(&publication.data);
    let data = match encoding {
        Encoding::Json => json_string(bytes)?,
        Encoding::Protobuf => bytes.clone(),
    };
    Some(Publication { data, delta: delta.is_some(), ..publication.clone() })
}

#[cfg(test)]
mod tests {
    use super::{BATCH_BYTES_MAX, Batch, ChannelEvent, Op};
    use crate::broker::{ConnKey, Extras};
    use crate::config::WebSocket;
    use crate::hub::{Delivery, Flags, Hub, Slot, Work};
    use crate::protocol::Publication;
    use crate::wire::Wire;
    use crate::ws::{Deflater, Inflate, Kind, Tally};
    use bytes::Bytes;
    use proptest::prelude::*;
    use std::collections::{HashSet, VecDeque};
    use std::io::Cursor;
    use std::sync::Arc;
    use tungstenite::protocol::frame::FrameHeader;

    const COMPRESSED: u8 = 0x40;
    /// Ways with deltas.
    const WAYS: [&[Flags]; 3] = [&[], &[Flags::DELTA], &[Flags::DELTA, Flags::DELTA_READY]];
    const PAIRS: [(Wire, Wire); 2] =
        [(Wire::WebSocketJson, Wire::DeflatedJson), (Wire::WebSocketProtobuf, Wire::DeflatedProtobuf)];

    fn deflater(min_size: usize) -> Deflater {
        Deflater::new(&WebSocket { compression: true, compression_min_size: min_size, ..WebSocket::default() })
    }

    fn join(hub: &mut Hub<()>, conn: u32, wire: Wire, way: &[Flags]) {
        let flags = way.iter().fold(Flags::default(), |flags, flag| flags.with(*flag, true));
        let id = hub.hold("c");
        hub.join(id, Slot { conn, back: 0, wire, flags });
    }

    /// A publication of so many bytes, and a delta to it.
    fn publish(hub: &mut Hub<()>, len: usize) {
        let digits = (1u64..).flat_map(|i| (i * i % 97).to_string().into_bytes()).filter(|digit| *digit != b'0');
        let data: Vec<u8> = digits.take(len).collect();
        let extras = Extras { delta: Some([b"delta ", &data[..]].concat().into()), ..Extras::default() };
        let publication = Publication { data: data.into(), ..Publication::default() };
        assert!(hub.publish("c", publication.into(), Some(Box::new(extras)), None));
    }

    fn next<'a>(hub: &'a mut Hub<()>, budget: usize, deflater: &mut Deflater) -> Delivery<'a> {
        let Some(Work::Deliver(delivery)) = hub.next(budget, deflater) else { panic!("a delivery") };
        delivery
    }

    /// What a client makes of it: the first byte of each frame, and its message inflated.
    fn heard(bytes: &Bytes) -> Vec<(u8, Vec<u8>)> {
        let (mut heard, mut rest) = (Vec::new(), &bytes[..]);
        while let [first, ..] = *rest {
            let mut cursor = Cursor::new(rest);
            let (_, len) = FrameHeader::parse(&mut cursor).expect("valid").expect("whole");
            let (payload, later) = rest[cursor.position() as usize..].split_at(len as usize);
            let message = match first & COMPRESSED {
                0 => payload.to_vec(),
                _ => Inflate::default().message(Kind::Binary, payload, 1 << 20).expect("compressed").to_vec(),
            };
            heard.push((first, message));
            rest = later;
        }
        heard
    }

    #[test]
    fn a_publication_is_compressed_once_for_all_who_share_its_bytes() {
        let (mut hub, mut deflater) = (Hub::default(), deflater(0));
        for conn in 0..300 {
            let wires = [Wire::DeflatedJson, Wire::DeflatedProtobuf, Wire::WebSocketJson];
            join(&mut hub, conn, wires[conn as usize % 3], &[]);
        }
        for publications in 1..=3 {
            publish(&mut hub, 1000);
            let (mut buffers, mut got) = (HashSet::new(), 0);
            while got < 300 {
                let delivery = next(&mut hub, 7, &mut deflater);
                got += delivery.slots.len();
                buffers.extend(delivery.slots.iter().map(|slot| delivery.bytes(slot).expect("a frame").as_ptr()));
            }
            assert_eq!(buffers.len(), 3, "a buffer for each wire");
            let Tally { messages, in_vain, before, after } = deflater.tally;
            assert_eq!((messages, in_vain), (2 * publications, 0));
            assert!(before > messages * 1000 && after < before * 3 / 4, "{after} of {before}");
            assert!(hub.next(7, &mut deflater).is_none());
        }
    }

    #[test]
    fn every_way_with_deltas_is_compressed_and_says_the_same() {
        for (plain, deflated) in PAIRS {
            let (mut hub, mut deflater) = (Hub::default(), deflater(0));
            for (at, way) in WAYS.iter().enumerate() {
                for conn in 0..8 {
                    join(&mut hub, at as u32 * 8 + conn, if conn % 2 == 0 { plain } else { deflated }, way);
                }
            }
            publish(&mut hub, 2000);
            let delivery = next(&mut hub, 99, &mut deflater);
            let said: Vec<_> =
                delivery.slots.iter().map(|slot| heard(delivery.bytes(slot).expect("a frame"))).collect();
            for (at, pair) in said.chunks(2).enumerate() {
                let [[(plain, text)], [(deflated, inflated)]] = [&pair[0][..], &pair[1][..]] else { panic!("a frame") };
                assert_eq!((plain | COMPRESSED, text), (*deflated, inflated));
                let is_delta = text.windows(6).any(|six| six == b"delta ");
                assert_eq!(is_delta, at / 4 == 2, "{}", String::from_utf8_lossy(text));
            }
            assert_eq!(deflater.tally.messages, 3, "one for each way");
        }
    }

    fn publication(len: usize, except: Option<ConnKey>) -> Op<()> {
        let publication = Publication { data: vec![b'1'; len].into(), ..Publication::default() }.into();
        let extras = except.map(|_| Box::new(Extras { except, ..Extras::default() }));
        Op::Event(ChannelEvent::Publication { publication, extras })
    }

    /// How many of `ops` go together, batch by batch.
    fn taken(ops: Vec<Op<()>>, apart: bool) -> Vec<usize> {
        let mut queue = VecDeque::from(ops);
        let mut taken = Vec::new();
        while !queue.is_empty() {
            let batch = Batch::take(&mut queue, 1, apart);
            assert_eq!(batch.cost, batch.items.iter().map(ChannelEvent::cost).sum::<usize>());
            taken.push(batch.items.len());
        }
        taken
    }

    #[test]
    fn what_is_for_the_same_subscribers_goes_together() {
        let all = || publication(1, None);
        let not_to_one = || publication(1, Some(ConnKey { reactor: 0, index: 0, generation: 0 }));
        let join = || Op::Event(ChannelEvent::Presence { info: Arc::default(), joined: true });
        assert_eq!(taken(vec![all(), all(), all()], false), [3]);
        assert_eq!(taken(vec![all(), not_to_one(), all(), all()], false), [1, 1, 2]);
        assert_eq!(taken(vec![not_to_one(), not_to_one()], false), [1, 1]);
        assert_eq!(taken(vec![all(), join(), join(), all()], false), [1, 2, 1]);
        assert_eq!(taken(vec![all(), all(), join(), join()], true), [1, 1, 2], "subscribers choose publications");
    }

    #[test]
    fn what_goes_together_has_a_bound() {
        let half = || publication(BATCH_BYTES_MAX / 2, None);
        assert_eq!(taken(vec![half(), half(), publication(1, None)], false), [2, 1]);
        assert_eq!(taken(vec![publication(3 * BATCH_BYTES_MAX, None), half()], false), [1, 1], "the first always goes");
    }

    #[test]
    fn small_messages_go_as_they_are() {
        for (plain, deflated) in PAIRS {
            let (mut hub, mut deflater) = (Hub::default(), deflater(200));
            join(&mut hub, 0, plain, &[]);
            join(&mut hub, 1, deflated, &[]);
            for (len, is_compressed) in [(100, false), (200, true), (100, false)] {
                publish(&mut hub, len);
                let delivery = next(&mut hub, 9, &mut deflater);
                let [a, b] = [0, 1].map(|at| delivery.bytes(&delivery.slots[at]).expect("a frame"));
                assert_eq!((a != b, heard(b)[0].0 & COMPRESSED != 0), (is_compressed, is_compressed), "{len}");
            }
            assert_eq!(deflater.tally.in_vain, 0);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Whatever waits together: compressed or not, in as many messages, each says the same.
        #[test]
        fn compressed_batches_say_the_same(
            sizes in prop::collection::vec(prop_oneof![1usize..60, 1usize..9000, 16_000usize..40_000], 1..9),
            min_size in prop_oneof![Just(0usize), Just(500)],
            which in 0usize..2,
            way in 0usize..3,
        ) {
            let ((plain, deflated), mut deflater) = (PAIRS[which], deflater(min_size));
            let mut hub = Hub::default();
            join(&mut hub, 0, plain, WAYS[way]);
            join(&mut hub, 1, deflated, WAYS[way]);
            sizes.iter().for_each(|len| publish(&mut hub, *len));
            while let Some(Work::Deliver(delivery)) = hub.next(9, &mut deflater) {
                let [a, b] = [0, 1].map(|at| heard(delivery.bytes(&delivery.slots[at]).expect("a frame")));
                prop_assert_eq!(a.len(), b.len());
                for ((_, a), (first, b)) in a.iter().zip(&b) {
                    prop_assert!(a == b && (b.len() >= min_size || first & COMPRESSED == 0));
                }
            }
        }
    }
}
