//! Bytes and operations of several connections through the turns of two reactors, under small limits: reads that are
//! cut anywhere, writes that block, floods, timers, mail, full mailboxes, memory over its limit, a drain. What a turn may
//! do is checked after each; at rest nothing is left, not even of those that never say a word again.

use super::{CHANNELS, CONNS, Node, SERVICE, SHARDS, WIRES, masked, tight, upgrade};
use arbitrary::Arbitrary;
use gannet::broker::{Asker, Request, Treatment};
use gannet::protocol::Publication;
use gannet::shard::Mail;
use gannet::wire::Wire;
use gannet::ws::Deflate;
use std::sync::Arc;

#[derive(Debug, Arbitrary)]
pub enum Operation {
    /// The head of a request too, unless it is to come later.
    Open {
        conn: u8,
        wire: u8,
        head: bool,
    },
    /// The same words again and again, in pieces.
    Say {
        conn: u8,
        words: Words,
        times: u8,
        piece: u16,
    },
    Bytes {
        conn: u8,
        bytes: Vec<u8>,
        piece: u8,
    },
    /// What a client takes from now on.
    Room {
        conn: u8,
        bytes: u16,
    },
    HangUp {
        conn: u8,
    },
    Reset {
        conn: u8,
    },
    Turn {
        at: u8,
    },
    Work {
        turns: u8,
    },
    Mail {
        from: u8,
        count: u8,
    },
    Tick {
        ticks: u8,
    },
    Publish {
        channel: u8,
        bytes: u16,
    },
    Answer {
        at: u8,
    },
    Full {
        which: u8,
    },
    Excess {
        at: u8,
        bytes: u16,
    },
    Drain {
        at_once: bool,
    },
}

#[derive(Debug, Arbitrary)]
pub enum Words {
    Connect,
    Subscribe(u8),
    Unsubscribe(u8),
    Recover(u8),
    Publish(u8, u8),
    History(u8),
    Presence(u8),
    Stats(u8),
    Rpc,
    Pong,
    PingFrame(u8),
    PongFrame,
    /// A part of a message, the last or not.
    Part(u8, bool),
    /// Many in one message; compressed if that was agreed on.
    Many(u8, bool),
    Close(u16),
    Nothing,
}

pub type Input = (u8, Vec<Operation>);

pub fn try_it((bits, operations): Input) {
    let mut node = Node::new(tight(bits));
    for operation in operations.iter().take(200) {
        run(&mut node, operation);
        node.check();
    }
    rest(&mut node);
}

/// Nobody says anything any more: all have their time, and go.
fn rest(node: &mut Node) {
    for conn in 0..SHARDS as u8 * CONNS {
        node.set_room(conn, usize::MAX);
    }
    node.settle();
    node.tick(1200);
    node.settle();
    for conn in 0..SHARDS as u8 * CONNS {
        // Who only listens is asked for no pong.
        let listens = node.conn(conn).is_some_and(|conn| conn.wire.is_uni());
        let waits = listens || node.is_stream_to_come(conn);
        assert!(!node.is_open(conn) || waits, "a client that never answers a ping is here: {}", node.shown(conn));
        node.close(conn);
    }
    node.check();
    node.leave_nothing();
}

fn channel(which: u8) -> &'static str {
    CHANNELS[usize::from(which) % CHANNELS.len()]
}

fn run(node: &mut Node, operation: &Operation) {
    match operation {
        Operation::Open { conn, wire, head } => {
            let wire = Wire::from_index(usize::from(*wire) % WIRES);
            match head {
                true => node.open(*conn, wire, wire.is_websocket() && conn % 3 == 0),
                false => {
                    node.accept(*conn, wire);
                    node.say(*conn, upgrade(wire, false).as_bytes(), 37);
                }
            }
        }
        Operation::Say { conn, words, times, piece } => say(node, *conn, words, *times, usize::from(*piece)),
        Operation::Bytes { conn, bytes, piece } => {
            node.muddle(*conn);
            node.say(*conn, bytes, usize::from(*piece));
        }
        Operation::Room { conn, bytes } => node.set_room(*conn, usize::from(*bytes)),
        Operation::HangUp { conn } => node.conn(*conn).into_iter().for_each(|conn| conn.line.hang_up()),
        Operation::Reset { conn } => node.conn(*conn).into_iter().for_each(|conn| conn.line.reset()),
        Operation::Turn { at } => node.turn(usize::from(*at) % SERVICE, Vec::new()),
        Operation::Work { turns } => _ = node.work(usize::from(*turns)),
        Operation::Mail { from, count } => {
            node.take_mail(usize::from(*from) % (SERVICE + 1), usize::from(*count));
        }
        Operation::Tick { ticks } => node.tick(u32::from(*ticks)),
        Operation::Publish { channel: which, bytes } => publish(node, channel(*which), usize::from(*bytes % 1000)),
        Operation::Answer { at } => {
            node.said(usize::from(*at), Some(gannet::session::backend::Said::Rpc("1".into())));
        }
        Operation::Full { which } => node.set_full([which & 1 != 0, which & 2 != 0]),
        Operation::Excess { at, bytes } => {
            node.reactors[usize::from(*at) % SERVICE].host.excess = usize::from(*bytes);
        }
        Operation::Drain { at_once } => {
            for line in &mut node.mail[SERVICE] {
                line.push_back(Mail::Drain { at_once: *at_once });
            }
        }
    }
}

fn publish(node: &mut Node, name: &str, bytes: usize) {
    let channel: Arc<str> = name.into();
    let Some(keep) = super::rules(0).namespace(&channel).map(|namespace| namespace.keep) else { return };
    let data = format!("\"{}\"", "x".repeat(bytes));
    let publication = Publication { data: data.into(), ..Publication::default() };
    let treatment = Some(Box::new(Treatment { keep, ..Treatment::default() }));
    let asker = Asker::Backend(1);
    let to = Node::owner(&channel);
    let publish = Request::Publish { channel, publication: publication.into(), asker, treatment };
    node.mail[SERVICE][to].push_back(Mail::Ask(publish));
}

fn say(node: &mut Node, conn: u8, words: &Words, times: u8, piece: usize) {
    let Some(it) = node.conn(conn) else { return };
    let wire = it.wire;
    // What it gets is not followed here as that of operations is.
    it.client.muddled = true;
    let Some(bytes) = spoken(words) else { return };
    if !wire.is_websocket() {
        if let Spoken::Message(message) = bytes {
            node.message(conn, &message);
        }
        return;
    }
    let frames = match bytes {
        Spoken::Message(message) => masked(0x81, &message),
        Spoken::Frame(first, payload) => masked(first, &payload),
    };
    node.say(conn, &frames.repeat(usize::from(times).max(1)), if piece == 0 { usize::MAX } else { piece });
}

enum Spoken {
    Message(Vec<u8>),
    Frame(u8, Vec<u8>),
}

fn spoken(words: &Words) -> Option<Spoken> {
    let on = |what: &str, which: u8| format!(r#"{{"id":2,"{what}":{{"channel":"{}"}}}}"#, channel(which));
    let text = match words {
        Words::Connect => r#"{"id":1,"connect":{}}"#.to_owned(),
        Words::Subscribe(which) => on("subscribe", *which),
        Words::Unsubscribe(which) => on("unsubscribe", *which),
        Words::Recover(which) => {
            format!(r#"{{"id":3,"subscribe":{{"channel":"{}","recover":true,"epoch":""}}}}"#, channel(*which))
        }
        Words::Publish(which, bytes) => {
            let data = "y".repeat(usize::from(*bytes));
            format!(r#"{{"id":4,"publish":{{"channel":"{}","data":"{data}"}}}}"#, channel(*which))
        }
        Words::History(which) => format!(r#"{{"id":5,"history":{{"channel":"{}","limit":-1}}}}"#, channel(*which)),
        Words::Presence(which) => on("presence", *which),
        Words::Stats(which) => on("presence_stats", *which),
        Words::Rpc => r#"{"id":6,"rpc":{"data":1}}"#.to_owned(),
        Words::Pong => "{}".to_owned(),
        Words::PingFrame(bytes) => return Some(Spoken::Frame(0x89, vec![b'p'; usize::from(bytes % 126)])),
        Words::PongFrame => return Some(Spoken::Frame(0x8A, Vec::new())),
        Words::Part(bytes, last) => return Some(Spoken::Frame(u8::from(*last) << 7, vec![b' '; usize::from(*bytes)])),
        Words::Many(count, compressed) => {
            let lines: Vec<String> = (0..*count).map(|at| on("presence_stats", at)).collect();
            let lines = lines.join("\n");
            if !compressed {
                return Some(Spoken::Message(lines.into_bytes()));
            }
            let mut deflate = Deflate::new(6);
            return Some(Spoken::Frame(0xC1, deflate.message(lines.as_bytes(), 15)?.to_vec()));
        }
        Words::Close(code) => return Some(Spoken::Frame(0x88, code.to_be_bytes().to_vec())),
        Words::Nothing => return Some(Spoken::Frame(0x01, Vec::new())),
    };
    Some(Spoken::Message(text.into_bytes()))
}
