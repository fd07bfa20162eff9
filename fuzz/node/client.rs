//! What a client makes of the bytes it is sent: replies in their places, positions without holes, deltas that fit.

use bytes::Bytes;
use gannet::protocol::delta::apply;
use gannet::protocol::{Encoding, Publication, Push, Reply, SubscribeResult};
use gannet::wire::Wire;
use prost::Message;
use std::collections::{HashMap, VecDeque};

/// Offset and epoch of a channel, as some client was told: what recovery begins from.
pub type Known = HashMap<String, (u64, String)>;

enum Item {
    Frame(Bytes),
    Hole(u32),
}

/// What a command was about, by its id.
pub enum Asked {
    Subscribe { channel: String, filtered: bool },
    Unsubscribe { channel: String },
}

#[derive(Default)]
struct Sub {
    /// Of the latest publication, if the subscription counts them.
    last: Option<u64>,
    /// Each publication comes, none is left out by a wish or an option.
    strict: bool,
    delta: bool,
    data: Option<Vec<u8>>,
}

pub struct Client {
    wire: Wire,
    outbox: VecDeque<Item>,
    subs: HashMap<String, Sub>,
    pub asked: HashMap<u32, Asked>,
    pub next_id: u32,
    /// It said something that is not followed here, or gave an id twice.
    pub muddled: bool,
}

impl Client {
    pub fn new(wire: Wire) -> Client {
        let (outbox, subs, asked) = (VecDeque::new(), HashMap::new(), HashMap::new());
        Client { wire, outbox, subs, asked, next_id: 1, muddled: false }
    }

    pub fn send(&mut self, frame: Bytes) {
        self.outbox.push_back(Item::Frame(frame));
    }

    pub fn send_hole(&mut self, ticket: u32) {
        self.outbox.push_back(Item::Hole(ticket));
    }

    pub fn fill(&mut self, ticket: u32, frame: Bytes) {
        let hole = self.outbox.iter_mut().find(|item| matches!(item, Item::Hole(kept) if *kept == ticket));
        *hole.expect("a place for each late reply") = Item::Frame(frame);
    }

    /// Places that are kept still.
    pub fn holes(&self) -> usize {
        self.outbox.iter().filter(|item| matches!(item, Item::Hole(_))).count()
    }

    /// Takes in what has come, up to the first place that is kept.
    pub fn read(&mut self, known: &mut Known) {
        while let Some(Item::Frame(frame)) = self.outbox.front() {
            let frame = frame.clone();
            self.outbox.pop_front();
            for message in messages(self.wire, &frame) {
                for reply in replies(self.wire, &message) {
                    self.hear(reply, known);
                }
            }
        }
    }

    fn hear(&mut self, reply: Reply, known: &mut Known) {
        if let Some(push) = reply.push {
            return self.hear_push(push, known);
        }
        if let Some(connect) = reply.connect {
            for sub in connect.subs {
                self.begin(sub.channel, sub.result.unwrap_or_default(), false, known);
            }
            return;
        }
        let asked = self.asked.remove(&reply.id);
        match (asked, reply.subscribe) {
            (Some(Asked::Subscribe { channel, filtered }), Some(result)) => {
                self.begin(channel, result, filtered, known);
            }
            (Some(Asked::Unsubscribe { channel }), _) if reply.error.is_none() => {
                self.subs.remove(&channel);
            }
            _ => {}
        }
    }

    fn hear_push(&mut self, push: Push, known: &mut Known) {
        let Push { channel, publication, join, leave, unsubscribe, subscribe, connect, .. } = push;
        if unsubscribe.is_some() {
            self.subs.remove(&channel);
        } else if let Some(result) = subscribe {
            let (positioned, offset, epoch) = (result.positioned, result.offset, result.epoch);
            let result = SubscribeResult { positioned, offset, epoch, ..SubscribeResult::default() };
            self.begin(channel, result, false, known);
        } else if let Some(connect) = connect {
            for sub in connect.subs {
                self.begin(sub.channel, sub.result.unwrap_or_default(), false, known);
            }
        } else if let Some(publication) = publication {
            self.take(&channel, publication, known);
        } else if join.is_some() || leave.is_some() {
            assert!(
                self.muddled || self.subs.contains_key(&channel),
                "news of {channel}, to which it is no subscriber"
            );
        }
    }

    fn begin(&mut self, channel: String, result: SubscribeResult, filtered: bool, known: &mut Known) {
        let strict = !filtered && channel.starts_with("h:");
        let mut sub = Sub { strict, delta: result.delta, ..Sub::default() };
        if result.positioned {
            assert!(!result.epoch.is_empty(), "a position without an epoch");
            sub.last = Some(result.offset);
            known.insert(channel.clone(), (result.offset, result.epoch));
        }
        self.subs.insert(channel.clone(), sub);
        for publication in result.publications {
            self.take(&channel, publication, known);
        }
    }

    fn take(&mut self, channel: &str, publication: Publication, known: &mut Known) {
        if self.muddled {
            return;
        }
        let sub = self.subs.get_mut(channel);
        let sub = sub.unwrap_or_else(|| panic!("a publication in {channel}, to which it is no subscriber"));
        let Publication { data, offset, delta, .. } = publication;
        if let Some(last) = sub.last.filter(|_| offset > 0) {
            let follows = if sub.strict { offset == last + 1 } else { offset > last };
            assert!(follows, "{channel}: {offset} after {last}");
            sub.last = Some(offset);
            if let Some(known) = known.get_mut(channel) {
                known.0 = offset;
            }
        }
        if !sub.delta {
            assert!(!delta, "a delta to who asked for none");
            return;
        }
        let data = match self.wire.encoding() {
            Encoding::Json => serde_json::from_slice::<String>(&data).expect("deltas are strings in JSON").into_bytes(),
            Encoding::Protobuf => data.to_vec(),
        };
        sub.data = Some(match &sub.data {
            Some(before) if delta => apply(before, &data, 1 << 16).expect("a delta to what came before"),
            None if delta => panic!("a delta to nothing"),
            _ => data,
        });
    }

    /// Where its subscription to `channel` stands, if every publication counts.
    pub fn position(&self, channel: &str) -> Option<u64> {
        self.subs.get(channel).filter(|sub| sub.strict && !self.muddled)?.last
    }
}

/// What a transport put something around.
fn messages(wire: Wire, mut bytes: &[u8]) -> Vec<Vec<u8>> {
    if matches!(wire, Wire::SseJson | Wire::UniSse) {
        let text = std::str::from_utf8(bytes).expect("text");
        let events = text.strip_suffix("\n\n").expect("whole events").split("\n\n");
        let data = |line: &str| line.strip_prefix("data: ").expect("a line of data").to_owned();
        return events.map(|event| event.lines().map(data).collect::<Vec<_>>().join("\n").into_bytes()).collect();
    }
    if !wire.is_websocket() {
        return vec![bytes.to_vec()];
    }
    let mut messages = Vec::new();
    while let [first, len, rest @ ..] = bytes {
        let (size, rest) = match len {
            126 => (usize::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..]),
            127 => (u64::from_be_bytes(rest[..8].try_into().expect("eight")) as usize, &rest[8..]),
            len => (usize::from(*len), rest),
        };
        if matches!(first, 0x81 | 0x82) {
            messages.push(rest[..size].to_vec());
        }
        bytes = &rest[size..];
    }
    assert!(bytes.is_empty(), "a cut frame");
    messages
}

fn replies(wire: Wire, mut message: &[u8]) -> Vec<Reply> {
    if wire.encoding() == Encoding::Protobuf {
        let next = || (!message.is_empty()).then(|| Reply::decode_length_delimited(&mut message).expect("a reply"));
        return std::iter::from_fn(next).collect();
    }
    let lines = message.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let read = |line: &[u8]| match wire.is_uni() {
        true => Reply { push: Some(json(line)), ..Reply::default() },
        false => json(line),
    };
    lines.map(read).collect()
}

fn json<'a, T: serde::Deserialize<'a>>(line: &'a [u8]) -> T {
    serde_json::from_slice(line).unwrap_or_else(|error| panic!("{error}: {}", line.escape_ascii()))
}
