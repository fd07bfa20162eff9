//! How clients talk to a server: what they send to join and to speak, and what the server's messages mean.
//!
//! Two profiles: `raw`, messages as the user configures them; `centrifugal`, the Centrifugal client protocol in JSON
//! or Protobuf. Never knows frames, sockets, schedules or counts.

pub mod centrifugal;
pub mod json;
pub mod protobuf;
pub mod raw;

use crate::stamp::Stamp;

pub use centrifugal::Centrifugal;
pub use raw::Raw;

/// Where a publication stands: its channel if it said so, and its offset in the channel's stream; 0 = it has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spot {
    pub channel: Option<u32>,
    pub offset: u64,
}

/// The answer to a subscribe whose channel has a stream that can be recovered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscribed {
    pub id: u32,
    /// What was missed came with it.
    pub recovered: bool,
    pub offset: u64,
    pub epoch: String,
    /// What was missed, in order: stamps, None = a publication without one, and offsets.
    pub publications: Vec<(Option<Stamp>, u64)>,
}

/// One thing a server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A stamped message.
    Publication(Stamp, Spot),
    /// A message without a stamp.
    Unstamped(Spot),
    /// The answer to a command; 0 = no error.
    Reply { id: u32, error: u32 },
    /// The answer to a subscribe, with a position.
    Subscribed(Box<Subscribed>),
    /// A ping that wants a pong.
    Ping,
    /// The server ended a subscription, with this code, in this channel.
    Unsubscribed(u32, Option<u32>),
    /// Anything else that is sound.
    Other,
    /// What the protocol does not allow.
    Nonsense,
}

/// Names of channels: a prefix and a number.
#[derive(Clone, Debug)]
pub struct Names {
    pub prefix: String,
}

impl Names {
    pub fn of(&self, channel: u32) -> String {
        format!("{}{channel}", self.prefix)
    }

    /// The number of the channel with this name.
    pub fn number(&self, name: &str) -> Option<u32> {
        name.strip_prefix(self.prefix.as_str())?.parse().ok()
    }
}

/// What a subscription asks of its channel's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Past<'a> {
    /// Nothing.
    Ignored,
    /// A position to recover from later.
    Followed,
    /// All that came after this offset of this epoch.
    Since(u64, &'a str),
}

/// A subscription to ask for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The id of the command.
    pub id: u32,
    pub channel: u32,
    pub past: Past<'a>,
}

/// A message to send.
pub struct Outgoing {
    pub text: bool,
    pub bytes: Vec<u8>,
}

/// The profile of a run.
#[derive(Clone, Debug)]
pub enum Profile {
    Raw(Raw),
    Centrifugal(Centrifugal),
}

impl Profile {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Raw(_) => "raw",
            Self::Centrifugal(centrifugal) => centrifugal.encoding.name(),
        }
    }

    /// The WebSocket subprotocol to offer.
    pub fn subprotocol(&self) -> Option<&'static str> {
        match self {
            Self::Raw(_) => None,
            Self::Centrifugal(centrifugal) => centrifugal.subprotocol(),
        }
    }

    /// What a client sends once its connection is open, and how many replies it then awaits.
    pub fn join(&self, client: u32, wanted: &[Wanted<'_>], names: &Names) -> Result<(Vec<Outgoing>, u32), String> {
        match self {
            Self::Raw(raw) => Ok((raw.join(client, wanted, names), 0)),
            Self::Centrifugal(centrifugal) => {
                Ok((vec![centrifugal.join(client, wanted, names)?], 1 + wanted.len() as u32))
            }
        }
    }

    /// What asks for one more subscription; None = nothing can.
    pub fn subscribe(&self, wanted: &Wanted<'_>, names: &Names) -> Option<Outgoing> {
        match self {
            Self::Raw(_) => None,
            Self::Centrifugal(centrifugal) => Some(centrifugal.subscribe(wanted, names)),
        }
    }

    /// The message that says `payload` in `channel`; true = it is text.
    pub fn speak(&self, id: u32, client: u32, channel: &str, payload: &[u8], out: &mut Vec<u8>) -> bool {
        match self {
            Self::Raw(raw) => raw.speak(client, channel, payload, out),
            Self::Centrifugal(centrifugal) => centrifugal.publish(id, channel, payload, out),
        }
    }

    /// The answer to a ping.
    pub fn pong(&self) -> Option<(bool, &'static [u8])> {
        match self {
            Self::Raw(_) => None,
            Self::Centrifugal(centrifugal) => Some(centrifugal.pong()),
        }
    }

    /// Shows everything a message says, in order.
    pub fn hear(&self, message: &[u8], names: &Names, heard: impl FnMut(Heard)) {
        match self {
            Self::Raw(_) => raw::hear(message, heard),
            Self::Centrifugal(centrifugal) => centrifugal.hear(message, names, heard),
        }
    }
}

/// Remembers what the last message said.
///
/// A publication reaches all clients of a loop in the same bytes; taking them apart once is enough. That keeps the
/// witness faster than the server it watches without trusting it: every byte is still compared.
#[derive(Debug, Default)]
pub struct Ear {
    last: Vec<u8>,
    said: Vec<Heard>,
}

/// Shorter messages are taken apart each time.
const REMEMBERED_MIN: usize = crate::stamp::LEN;

impl Ear {
    /// Everything `message` says, in order.
    pub fn hear(&mut self, profile: &Profile, message: &[u8], names: &Names) -> &[Heard] {
        if message.len() < REMEMBERED_MIN || message != self.last {
            self.last.clear();
            self.said.clear();
            if message.len() >= REMEMBERED_MIN {
                self.last.extend_from_slice(message);
            }
            let said = &mut self.said;
            profile.hear(message, names, |heard| said.push(heard));
        }
        &self.said
    }
}
