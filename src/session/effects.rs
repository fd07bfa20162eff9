//! F4 · What a session wants done: a list its caller carries out, in order, after the call returns.
//!
//! One list, reused for every call; replies are encoded into its buffer, so that several leave in one frame.

use crate::hub::ChannelId;
use crate::protocol::code::Disconnect;
use crate::protocol::{Encoding, Publication, Reply};
use std::ops::Range;
use std::sync::Arc;

#[derive(Debug)]
pub enum Effect {
    /// Send this part of the buffer: whole replies, in the session's encoding.
    Send(Range<usize>),
    /// Send the encoding's ping.
    Ping,
    /// Send a WebSocket ping frame.
    PingFrame,
    /// The client is known now: list it under its user.
    Connected,
    /// Ask the channel's owner; the answer comes back with `ticket`, and the reply's place is kept.
    Subscribe { channel: ChannelId, ticket: u32 },
    /// A subscription begins: take it into the hub at `back` in the session's list.
    Join { channel: ChannelId, back: u16 },
    /// A subscription ends; without a `slot` it had not begun.
    Leave { channel: ChannelId, slot: Option<u32> },
    /// Ask the channel's owner to publish; answered likewise.
    Publish { channel: Arc<str>, publication: Arc<Publication>, ticket: u32 },
    /// The session is over; nothing follows.
    Close(Disconnect),
}

/// The list and its buffer.
#[derive(Debug, Default)]
pub struct Effects {
    pub list: Vec<Effect>,
    pub bytes: Vec<u8>,
    /// Replies refused, by their code less 100.
    pub refused: [u32; 16],
}

impl Effects {
    pub fn clear(&mut self) {
        self.list.clear();
        self.bytes.clear();
        // A large reply must not stay for the life of the reactor.
        self.bytes.shrink_to(64 * 1024);
    }

    pub fn push(&mut self, effect: Effect) {
        self.list.push(effect);
    }

    /// Encodes `reply`; false if it cannot be given to a client of this encoding. The buffer as a whole is one message
    /// of the encoding, separators and all, so that ranges next to each other can leave together.
    pub fn reply(&mut self, encoding: Encoding, reply: &Reply) -> bool {
        let before = self.bytes.len();
        if encoding.encode(reply, &mut self.bytes).is_err() {
            return false;
        }
        let separator = usize::from(before > 0 && encoding == Encoding::Json);
        self.list.push(Effect::Send(before + separator..self.bytes.len()));
        true
    }
}
