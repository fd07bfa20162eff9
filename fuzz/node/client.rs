//! What a client makes of the bytes it is sent: replies in their places, positions without holes, deltas that fit.

use gannet::protocol::delta::apply;
use gannet::protocol::{Encoding, Publication, Push, Reply, SubscribeResult};
use gannet::wire::Wire;
use gannet::ws::{Inflate, Kind};
use prost::Message;
use std::collections::HashMap;

/// Offset and epoch of a channel, as some client was told: what recovery begins from.
pub type Known = HashMap<String, (u64, String)>;

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
    /// Bytes that came and are not understood yet.
    bytes: Vec<u8>,
    /// The head of the response has come.
    begun: bool,
    /// The server said that it is over.
    pub closed: bool,
    subs: HashMap<String, Sub>,
    pub asked: HashMap<u32, Asked>,
    pub next_id: u32,
    /// It said something that is not followed here, or gave an id twice.
    pub muddled: bool,
}

impl Client {
    pub fn new(wire: Wire) -> Client {
        let (bytes, subs, asked) = (Vec::new(), HashMap::new(), HashMap::new());
        Client { wire, bytes, begun: false, closed: false, subs, asked, next_id: 1, muddled: false }
    }

    /// Takes in what has come.
    pub fn read(&mut self, bytes: &[u8], known: &mut Known) {
        self.bytes.extend_from_slice(bytes);
        if !self.begun {
            let Some(end) = self.bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return };
            self.begun = true;
            if !self.bytes.starts_with(b"HTTP/1.1 101") && !self.bytes.starts_with(b"HTTP/1.1 200") {
                (self.closed, self.muddled) = (true, true);
            }
            self.bytes.drain(..end + 4);
        }
        if self.closed {
            return self.bytes.clear();
        }
        let bytes = std::mem::take(&mut self.bytes);
        let used = self.take_messages(&bytes, known);
        self.bytes = bytes[used..].to_vec();
    }

    /// Whole messages, and what the transport put around them; bytes used.
    fn take_messages(&mut self, bytes: &[u8], known: &mut Known) -> usize {
        let mut used = 0;
        while let Some((size, message)) = next_message(self.wire, &bytes[used..]) {
            used += size;
            match message {
                Told::Nothing => {}
                Told::Close => (self.closed, self.muddled) = (true, true),
                Told::Message(message) => {
                    replies(self.wire, &message).into_iter().for_each(|reply| self.hear(reply, known));
                }
            }
        }
        used
    }

    /// Is nothing cut?
    pub fn is_whole(&self) -> bool {
        self.bytes.is_empty()
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
        let Push { channel, publication, join, leave, unsubscribe, subscribe, connect, disconnect, .. } = push;
        if disconnect.is_some() {
            (self.closed, self.muddled) = (true, true);
        } else if unsubscribe.is_some() {
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
        // The latest publication comes to whoever cannot prove to have it, whatever offset was asked from.
        if let (true, Some(latest)) = (channel.starts_with("c:"), result.publications.first()) {
            sub.last = sub.last.map(|_| latest.offset - 1);
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

/// What came, without what its transport put around it.
enum Told {
    Nothing,
    Close,
    Message(Vec<u8>),
}

/// The next thing that is whole, and how long it is.
fn next_message(wire: Wire, bytes: &[u8]) -> Option<(usize, Told)> {
    match wire {
        Wire::SseJson | Wire::UniSse => {
            let end = bytes.windows(2).position(|two| two == b"\n\n")?;
            let text = std::str::from_utf8(&bytes[..end]).expect("text");
            let data = |line: &str| line.strip_prefix("data: ").expect("a line of data").to_owned();
            let message = text.lines().map(data).collect::<Vec<_>>().join("\n");
            Some((end + 2, Told::Message(message.into_bytes())))
        }
        Wire::StreamJson | Wire::UniStream => {
            let end = bytes.iter().position(|byte| *byte == b'\n')?;
            Some((end + 1, Told::Message(bytes[..end].to_vec())))
        }
        Wire::StreamProtobuf => {
            let mut rest = bytes;
            let size = prost::decode_length_delimiter(&mut rest).ok()?;
            let whole = bytes.len() - rest.len() + size;
            Some((whole, Told::Message(bytes.get(..whole)?.to_vec())))
        }
        _ => next_frame(bytes),
    }
}

fn next_frame(bytes: &[u8]) -> Option<(usize, Told)> {
    let [first, len, rest @ ..] = bytes else { return None };
    let (size, rest) = match len {
        126 => (usize::from(u16::from_be_bytes(*rest.first_chunk()?)), &rest[2..]),
        127 => (u64::from_be_bytes(*rest.first_chunk()?) as usize, &rest[8..]),
        len => (usize::from(*len), rest),
    };
    let payload = rest.get(..size)?;
    let told = match first {
        0x81 | 0x82 => Told::Message(payload.to_vec()),
        0xC1 | 0xC2 => {
            let message =
                Inflate::default().message(Kind::Binary, payload, 1 << 20).expect("what was compressed").to_vec();
            Told::Message(message)
        }
        0x88 => Told::Close,
        0x89 | 0x8A => Told::Nothing,
        other => panic!("a frame that begins with {other:#x}"),
    };
    Some((bytes.len() - rest.len() + size, told))
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
