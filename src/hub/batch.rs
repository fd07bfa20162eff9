//! F4 · What a channel's subscribers are sent together, and the bytes of it.
//!
//! Owns the items that wait, and their encoding: once for each variant that a subscriber needs, a variant being a wire
//! and a way with deltas. Knows nothing of who is sent what.

use super::Variant;
use crate::broker::Extras;
use crate::protocol::delta::json_string;
use crate::protocol::{ClientInfo, Encoding, Presence, Publication, Push, Reply};
use crate::wire::Wire;
use bytes::Bytes;
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::sync::Arc;

/// Bytes of publications that one batch joins, beyond the first.
const BATCH_BYTES_MAX: usize = 128 * 1024;
/// Bytes of replies that share a message, beyond the first.
const MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// What subscribers are told.
#[derive(Debug, Clone)]
pub enum Item {
    Publication { publication: Arc<Publication>, extras: Option<Box<Extras>> },
    Presence { info: Arc<ClientInfo>, joined: bool },
}

impl Item {
    /// Bytes that wait because of it.
    pub fn size(&self) -> usize {
        match self {
            Item::Publication { publication, .. } => publication.data.len(),
            Item::Presence { info, .. } => info.user.len() + info.conn_info.len() + info.chan_info.len(),
        }
    }

    fn is_presence(&self) -> bool {
        matches!(self, Item::Presence { .. })
    }

    /// Is it in the channel's stream? Deltas are between those that are.
    fn is_kept(&self) -> bool {
        matches!(self, Item::Publication { publication, .. } if publication.offset > 0)
    }

    fn is_for_all(&self) -> bool {
        match self {
            Item::Publication { extras, .. } => extras.as_ref().is_none_or(|extras| extras.except.is_none()),
            Item::Presence { .. } => true,
        }
    }
}

/// What waits in a channel, in its order.
#[derive(Debug)]
pub enum Op<J> {
    Item(Item),
    Join(J),
    /// Something is missing here.
    Gap,
}

/// Deliveries under way: slots before `cursor` are served, those from `end` on joined later.
#[derive(Debug)]
pub struct Batch {
    pub items: SmallVec<[Item; 4]>,
    pub frames: Frames,
    pub bytes: usize,
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
        let mut batch = Batch { items: SmallVec::new(), frames: Frames::default(), bytes: 0, cursor: 0, end };
        while let Some(Op::Item(next)) = queue.front()
            && batch.takes(next, apart)
        {
            batch.bytes += next.size();
            if let Some(Op::Item(next)) = queue.pop_front() {
                batch.items.push(next);
            }
        }
        batch
    }

    fn takes(&self, next: &Item, apart: bool) -> bool {
        let Some(last) = self.items.last() else { return true };
        let alike = last.is_presence() == next.is_presence() && last.is_for_all() && next.is_for_all();
        alike && (!apart || next.is_presence()) && self.bytes + next.size() <= BATCH_BYTES_MAX
    }

    /// Does it end with what the next delta is to?
    pub fn begins_deltas(&self) -> bool {
        self.items.last().is_some_and(Item::is_kept)
    }

    pub fn is_presence(&self) -> bool {
        self.items.first().is_some_and(Item::is_presence)
    }

    /// The publication, if it is the only one.
    pub fn single(&self) -> Option<(&Publication, Option<&Extras>)> {
        match &self.items[..] {
            [Item::Publication { publication, extras }] => Some((publication, extras.as_deref())),
            _ => None,
        }
    }

    /// Makes the bytes of each variant in the set that has none yet.
    pub fn encode(&mut self, name: &str, mut wanted: u32) {
        while wanted != 0 {
            let variant = Variant(wanted.trailing_zeros() as u8);
            wanted &= wanted - 1;
            if !self.frames.has(variant) {
                let bytes = encode(variant, name, &self.items);
                self.frames.0.push((variant, bytes));
            }
        }
    }
}

/// One buffer with all of `items`, in as few messages as their sizes allow; `None` if one cannot be encoded.
fn encode(variant: Variant, name: &str, items: &[Item]) -> Option<Bytes> {
    let wire = variant.wire();
    let (mut packed, mut message) = (Vec::new(), Vec::new());
    for (at, item) in items.iter().enumerate() {
        let full = !wire.joins() || message.len() + item.size() > MESSAGE_BYTES_MAX;
        if full && !message.is_empty() {
            wire.pack(&message, &mut packed);
            message.clear();
        }
        let chained = if at == 0 { variant.is_chain() } else { items[at - 1].is_kept() };
        match item {
            Item::Publication { publication, .. } if !variant.takes_deltas() && !wire.is_uni() => {
                wire.encoding().encode_publication(name, publication, &mut message).ok()?;
            }
            Item::Publication { publication, extras } => {
                let delta = extras.as_ref().and_then(|extras| extras.delta.as_ref()).filter(|_| chained);
                let publication = match variant.takes_deltas() {
                    true => as_delta(wire.encoding(), publication, delta)?,
                    false => Publication::clone(publication),
                };
                say(wire, name, Push { publication: Some(publication), ..Push::default() }, &mut message)?;
            }
            Item::Presence { info, joined } => {
                let presence = Some(Presence { info: Some(ClientInfo::clone(info)) });
                let push = match joined {
                    true => Push { join: presence, ..Push::default() },
                    false => Push { leave: presence, ..Push::default() },
                };
                say(wire, name, push, &mut message)?;
            }
        }
    }
    if packed.is_empty() {
        return Some(wire.packed(&message));
    }
    wire.pack(&message, &mut packed);
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
