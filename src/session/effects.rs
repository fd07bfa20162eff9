//! F6 · What a session wants done: a list its caller carries out, in order, after the call returns.
//!
//! One list, reused for every call; replies are encoded into its buffer, so that several leave in one frame.

use super::backend::{Ask, Who};
use super::subscription::Pending;
use crate::base::metrics::Limited;
use crate::broker::{Arrived, Gone, Query, Treatment, Want};
use crate::hub::{ChannelId, Flags};
use crate::protocol::code::Disconnect;
use crate::protocol::{Error, Publication, Reply};
use crate::wire::Wire;
use std::ops::Range;
use std::sync::Arc;

#[derive(Debug)]
pub enum Effect {
    /// Send this part of the buffer: whole replies, in the session's encoding.
    Send(Range<usize>),
    /// Keep a place for the reply to the command of `ticket`: what is sent from here on comes after it. `large`: the
    /// reply may hold much.
    Hole {
        ticket: u32,
        large: bool,
    },
    /// The reply, where its place was kept.
    Fill {
        ticket: u32,
        range: Range<usize>,
    },
    /// Send the ping of the session's wire.
    Ping,
    /// Send a WebSocket ping frame.
    PingFrame,
    /// The awaited pong came.
    Ponged,
    /// The client says that these publications have arrived.
    Arrived(Box<Arrived>),
    /// The client is known now: list it under its user.
    Connected,
    /// Hold the channel in the hub, tell the session its id
    /// ([`Session::wait_for_owner`](super::Session::wait_for_owner)), and ask the channel's owner; the answer comes
    /// back with `ticket`. The hold ends with `Join` or `Release`, or with the session.
    Subscribe {
        channel: Arc<str>,
        ticket: u32,
        want: Option<Box<Want>>,
        pending: Option<Box<Pending>>,
    },
    /// A subscription begins: take it into the hub at `back` in the session's list.
    Join {
        channel: ChannelId,
        back: u16,
        flags: Flags,
    },
    /// A subscription ends; without a `slot` it had not begun. With a `ticket` the owner answers when it is done.
    Leave {
        channel: ChannelId,
        slot: Option<u32>,
        gone: Option<Box<Gone>>,
        ticket: Option<u32>,
    },
    /// The subscription at `slot` stands at `back` in the session's list now.
    SetBack {
        channel: ChannelId,
        slot: u32,
        back: u16,
    },
    /// The owner's answer begins nothing: give up the hold on the channel.
    Release {
        channel: ChannelId,
    },
    /// Ask the channel's owner to publish; answered likewise.
    Publish {
        channel: Arc<str>,
        publication: Arc<Publication>,
        ticket: u32,
        treatment: Option<Box<Treatment>>,
        /// Not to the client itself.
        skip_own: bool,
    },
    History {
        channel: Arc<str>,
        ticket: u32,
        query: Box<Query>,
    },
    Presence {
        channel: Arc<str>,
        ticket: u32,
        counts: bool,
    },
    /// Ask the backend, or for keys; the answer comes back with `ticket`.
    Ask {
        ticket: u32,
        who: Box<Who>,
        ask: Box<Ask>,
    },
    /// Ask for one of the user's places on this node; the answer comes back with `ticket`.
    TakeSeat {
        ticket: u32,
    },
    /// Close this user's other clients on all reactors: it may have but one.
    CloseOthers,
    /// The session of a client that reads no replies is over for this error; nothing follows.
    Refuse(Error),
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
    /// What went beyond a limit: which limits, what command, and whether it was let through to try them out.
    pub limited: Vec<Limited>,
    /// The error that is answered next is for what the client asked too often.
    pub own_fault: bool,
    /// Subscriptions of the server's making that their owners refused.
    pub lost_subscriptions: u32,
    /// Bytes of publications to which deltas were searched, and what moving cursors counts for.
    pub searched_bytes: u64,
    /// The client was sent what it had missed.
    pub caught_up: bool,
    /// The command that is answered now, if the place of its reply was kept.
    pub kept: Option<u32>,
}

impl Effects {
    pub fn clear(&mut self) {
        self.list.clear();
        self.kept = None;
        self.own_fault = false;
        self.caught_up = false;
        self.bytes.clear();
        // A large reply must not stay for the life of the reactor.
        self.bytes.shrink_to(64 * 1024);
    }

    pub fn push(&mut self, effect: Effect) {
        self.list.push(effect);
    }

    /// Encodes `reply`: to be sent now, or where its place was kept. What cannot be given to a client of this encoding
    /// ends it. The buffer as a whole is one message of the encoding, separators and all, so that ranges next to each
    /// other can leave together.
    pub fn reply(&mut self, wire: Wire, reply: &Reply) {
        let Some(range) = self.encode(wire, reply) else { return };
        if reply.id != 0 && self.kept == Some(reply.id) {
            self.kept = None;
            self.list.push(Effect::Fill { ticket: reply.id, range });
        } else if !range.is_empty() {
            self.list.push(Effect::Send(range));
        }
    }

    /// The reply to the command of `ticket` comes later: what is sent from here on comes after it.
    pub fn keep_place(&mut self, ticket: u32) {
        self.keep(ticket, false);
    }

    /// The same for a reply that may hold much: publications of a history, clients that are present.
    pub fn keep_large_place(&mut self, ticket: u32) {
        self.keep(ticket, true);
    }

    fn keep(&mut self, ticket: u32, large: bool) {
        if self.kept == Some(ticket) {
            // It has been kept all along.
            self.kept = None;
        } else {
            self.list.push(Effect::Hole { ticket, large });
        }
    }

    fn encode(&mut self, wire: Wire, reply: &Reply) -> Option<Range<usize>> {
        let before = self.bytes.len();
        if wire.say(reply, &mut self.bytes).is_err() {
            self.list.push(Effect::Close(Disconnect::INAPPROPRIATE_PROTOCOL));
            return None;
        }
        let separated = before > 0 && wire.joins() && wire.encoding() == crate::protocol::Encoding::Json;
        Some(before + usize::from(separated)..self.bytes.len())
    }
}
