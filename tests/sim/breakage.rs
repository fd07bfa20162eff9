//! Parts broken on purpose, to show that the checks can fail: in what sockets carry, in mail, and in the poll.

use crate::wire;
use gannet::protocol::Encoding;
use std::cell::Cell;
use std::rc::Rc;

/// A part broken on purpose, from its first use to the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breakage {
    /// Every so often a delivery does not happen.
    DropDelivery,
    /// Every so often a delivery happens after the next one.
    SwapDeliveries,
    RepeatDelivery,
    /// Every so often a publication does not reach a bystander, whatever its transport.
    DropHeard,
    /// Every so often a reply does not keep its place.
    IgnoreHoles,
    /// Every so often a subscribe or publish reply is lost.
    LoseFill,
    /// Every so often a reactor sleeps through a tick in which timers are due.
    ForgetDeadline,
    /// A limit on the outbox that nobody enforces.
    IgnoreSlow,
    /// Leaves to other reactors get lost.
    LoseLeave,
    /// A leave that somebody waits for is answered at once and reaches its owner later.
    LatePresence,
    /// A full mailbox drops publications and nobody is told.
    LoseGap,
    /// Once anything was dropped, every so often the news of who came or went is lost too, with room in the mailbox.
    LoseJoin,
    /// Every so often a publication has another offset than its owner gave it.
    ShiftOffset,
    /// Every so often a delta is to something else.
    WrongDelta,
    /// Every so often a value from one reactor to another overtakes the one before it.
    SwapMail,
    /// Nobody's budget is ever used up.
    NoBudget,
    /// Peers are judged by the machine's clock, however long a turn was.
    NoClock,
    /// Delays are counted by the wall clock.
    WallClock,
}

/// One in so many is broken.
pub const BROKEN_EVERY: u32 = 9;

/// The part that is broken, if one is, and how often it could have been noticed.
#[derive(Debug, Clone, Default)]
pub struct Chances {
    pub breakage: Option<Breakage>,
    count: Rc<Cell<u32>>,
}

impl Chances {
    pub fn new(breakage: Option<Breakage>) -> Chances {
        Chances { breakage, count: Rc::default() }
    }

    pub fn is(&self, kind: Breakage) -> bool {
        self.breakage == Some(kind)
    }

    /// Is this the time at which the broken part is to break?
    pub fn breaks(&self, kind: Breakage) -> bool {
        self.is(kind) && {
            self.count.set(self.count.get() + 1);
            self.count.get().is_multiple_of(BROKEN_EVERY)
        }
    }
}

/// What a message from the server is.
enum What {
    Delivery,
    /// A reply that an owner may have been asked for.
    Reply,
    Other,
}

/// What a broken server puts on one connection in place of what it should.
#[derive(Debug, Clone, Default)]
pub struct Spoiler {
    chances: Chances,
    /// The answer to the upgrade has passed.
    switched: bool,
    bytes: Vec<u8>,
    held_back: Option<Vec<u8>>,
}

impl Spoiler {
    pub fn new(chances: Chances) -> Spoiler {
        Spoiler { chances, ..Spoiler::default() }
    }

    /// What is carried in place of `bytes`: the same, if nothing is broken.
    pub fn pass(&mut self, bytes: &[u8]) -> Vec<u8> {
        use Breakage::{DropDelivery, IgnoreHoles, LoseFill, RepeatDelivery, SwapDeliveries};
        let kinds = [DropDelivery, SwapDeliveries, RepeatDelivery, IgnoreHoles, LoseFill];
        if !kinds.into_iter().any(|kind| self.chances.is(kind)) {
            return bytes.to_vec();
        }
        self.bytes.extend_from_slice(bytes);
        let mut out = Vec::new();
        if !self.switched {
            let Some(end) = wire::head_end(&self.bytes) else { return out };
            out.extend(self.bytes.drain(..end));
            self.switched = true;
        }
        while let Some(size) = wire::frame_size(&self.bytes) {
            let frame: Vec<u8> = self.bytes.drain(..size).collect();
            self.spoil(frame, &mut out);
        }
        out
    }

    fn spoil(&mut self, frame: Vec<u8>, out: &mut Vec<u8>) {
        let what = what(&frame);
        if frame[0] & 0x0f == u8::from(wire::CLOSE) {
            // Nothing may follow.
            self.held_back = None;
        }
        match what {
            What::Delivery if self.chances.breaks(Breakage::DropDelivery) => return,
            What::Reply if self.chances.breaks(Breakage::LoseFill) => return,
            What::Delivery if self.held_back.is_none() && self.chances.breaks(Breakage::SwapDeliveries) => {
                self.held_back = Some(frame);
                return;
            }
            What::Reply if self.held_back.is_none() && self.chances.breaks(Breakage::IgnoreHoles) => {
                self.held_back = Some(frame);
                return;
            }
            _ => {}
        }
        out.extend_from_slice(&frame);
        if matches!(what, What::Delivery) && self.chances.breaks(Breakage::RepeatDelivery) {
            out.extend_from_slice(&frame);
        }
        if matches!(what, What::Delivery) || self.chances.is(Breakage::IgnoreHoles) {
            out.extend(self.held_back.take().into_iter().flatten());
        }
    }
}

fn what(frame: &[u8]) -> What {
    let mut bytes = frame.to_vec();
    let Some((opcode, payload)) = wire::parse(&mut bytes) else { return What::Other };
    let encoding = match opcode {
        wire::TEXT => Encoding::Json,
        wire::BINARY => Encoding::Protobuf,
        _ => return What::Other,
    };
    if payload == encoding.ping() {
        return What::Other;
    }
    let Some(reply) = wire::replies(encoding, &payload).into_iter().next() else { return What::Other };
    match reply.push {
        Some(push) if push.publication.is_some() || push.join.is_some() || push.leave.is_some() => What::Delivery,
        None if reply.subscribe.is_some() || reply.publish.is_some() => What::Reply,
        _ => What::Other,
    }
}
