//! What each client put on its connection, with the byte at which each message ends: so that it is known, from the
//! bytes that a reactor has read and not held back, which commands it has carried out.

use gannet::base::wheel::Tick;
use gannet::protocol::Encoding;
use std::collections::{BTreeMap, VecDeque};

/// What a part of the stream is about.
#[derive(Debug, Clone)]
pub enum Deed {
    /// The request of the connection.
    Head,
    Subscribe {
        nth: usize,
        channel: String,
    },
    Publish {
        nth: usize,
        channel: String,
        id: u64,
    },
    /// Another command.
    Other {
        nth: usize,
    },
    /// The same, with a signature that is checked.
    Signed,
    /// A pong, as a message or as a frame.
    Pong,
    /// A frame that holds no command.
    Frame,
}

/// A part of the stream.
#[derive(Debug, Default)]
pub struct Said {
    /// Where it ends.
    pub end: u64,
    pub deeds: Vec<Deed>,
    /// Bytes of the message, inflated.
    pub decoded: usize,
    /// A frame that is not its message's last.
    pub more: bool,
    pub counted: bool,
}

/// What one connection caused in a turn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Commands, or frames that hold none.
    pub commands: usize,
    pub decoded: usize,
    pub replies: usize,
    pub signatures: usize,
}

/// What was so when a command was carried out.
#[derive(Debug, Clone, Copy)]
pub struct Carried {
    pub tick: Tick,
    /// The length of its channel's order, if this reactor owns it.
    pub at: Option<usize>,
    /// Its channel's owner took no more.
    pub full: bool,
}

#[derive(Default)]
pub struct Script {
    said: VecDeque<Said>,
    /// How many deeds of the first of them are done.
    done: usize,
    /// By the number of the command on its connection, until its reply is read.
    pub carried: BTreeMap<usize, Carried>,
    pub pongs: Vec<Tick>,
    /// When the session began.
    pub opened: Option<Tick>,
    pub usage: Usage,
}

impl Script {
    pub fn say(&mut self, said: Said) {
        self.said.push_back(said);
    }

    /// The deeds that are done once the stream was taken up to `taken`, but for the last `left` commands of the message
    /// that ended last.
    pub fn advance(&mut self, taken: u64, left: usize) -> Vec<Deed> {
        let mut out = Vec::new();
        self.usage = Usage::default();
        while let Some(said) = self.said.front_mut().filter(|said| said.end <= taken) {
            self.usage.decoded += if std::mem::replace(&mut said.counted, true) { 0 } else { said.decoded };
            let said = &self.said[0];
            let last = self.said.get(1).is_none_or(|next| next.end > taken);
            let done = said.deeds.len() - if last { left.min(said.deeds.len()) } else { 0 };
            out.extend(said.deeds[self.done.min(done)..done].iter().cloned());
            if done < said.deeds.len() {
                self.done = done;
                break;
            }
            self.said.pop_front();
            self.done = 0;
        }
        self.usage.commands = out.iter().filter(|deed| !matches!(deed, Deed::Head)).count();
        self.usage.signatures = out.iter().filter(|deed| matches!(deed, Deed::Signed)).count();
        out
    }
}

/// Commands in what is left of a message.
pub fn count(encoding: Encoding, mut rest: &[u8]) -> usize {
    std::iter::from_fn(|| encoding.decode(&mut rest)?.ok()).count()
}
