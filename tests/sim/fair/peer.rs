//! One connection of a client of any transport: what it puts on the wire, and what it makes of what comes.

use crate::net::LinkId;
use crate::node::World;
use crate::script::{Deed, Said};
use crate::wire;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use gannet::broker::ConnKey;
use gannet::protocol::{Encoding, Reply};
use gannet::shard::Mail;
use tungstenite::protocol::frame::coding::OpCode;

/// How a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    WebSocket {
        encoding: Encoding,
        deflates: bool,
    },
    /// Server-sent events, and commands by other requests.
    Sse,
    /// Lines, and commands by other requests.
    Lines,
}

/// What was read, in order.
#[derive(Debug)]
pub enum Heard {
    Reply(Box<Reply>),
    Ping,
    /// Why the server ended it.
    Close(u16),
    /// The end of the stream.
    End,
}

/// The tail that RFC 7692 takes off a message.
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

pub struct Peer {
    pub link: LinkId,
    /// None while it waits at the door.
    pub key: Option<ConnKey>,
    pub transport: Transport,
    inbox: Vec<u8>,
    /// The head of the response was read.
    pub open: bool,
    /// By which other requests name it.
    pub session: String,
    pub closed: Option<u16>,
}

impl Peer {
    pub fn new(world: &mut World, transport: Transport) -> Peer {
        let link = world.net.open(world.options.room);
        let peer =
            Peer { link, key: None, transport, inbox: Vec::new(), open: false, session: String::new(), closed: None };
        world.say(link, &peer.head(), vec![Deed::Head]);
        peer
    }

    fn head(&self) -> Vec<u8> {
        match self.transport {
            Transport::WebSocket { encoding, deflates: false } => wire::upgrade(encoding, false),
            Transport::WebSocket { encoding, deflates: true } => wire::upgrade_with(
                encoding,
                false,
                "Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover\r\n",
            ),
            Transport::Sse => {
                b"GET /connection/sse?cf_connect=%7B%22id%22%3A1%2C%22connect%22%3A%7B%7D%7D HTTP/1.1\r\n\
                Host: node\r\nAccept: text/event-stream\r\n\r\n"
                    .to_vec()
            }
            Transport::Lines => {
                b"POST /connection/http_stream HTTP/1.1\r\nHost: node\r\nContent-Type: application/json\
                \r\nContent-Length: 21\r\n\r\n{\"id\":1,\"connect\":{}}"
                    .to_vec()
            }
        }
    }

    pub fn encoding(&self) -> Encoding {
        match self.transport {
            Transport::WebSocket { encoding, .. } => encoding,
            Transport::Sse | Transport::Lines => Encoding::Json,
        }
    }

    /// Does its connect command come with its request?
    pub fn is_emulated(&self) -> bool {
        matches!(self.transport, Transport::Sse | Transport::Lines)
    }

    /// Commands in one message, in the way of the transport.
    pub fn send(&self, world: &mut World, message: &[u8], deeds: Vec<Deed>) {
        match self.transport {
            Transport::WebSocket { encoding, deflates } => {
                let opcode = if encoding == Encoding::Json { wire::TEXT } else { wire::BINARY };
                let said = Said { decoded: message.len(), deeds, ..Said::default() };
                match deflates && message.len() > 100 {
                    true => self.frame_with(world, opcode, true, &deflate(message), said),
                    false => self.frame_with(world, opcode, false, message, said),
                }
            }
            Transport::Sse | Transport::Lines => {
                let Some(conn) = self.key else { return };
                let (session, message) = (self.session.clone().into(), message.to_vec().into());
                let mail = Mail::Commands { conn, session, message };
                world.post.deliver(usize::from(conn.reactor), world.step, mail, &mut world.rng);
            }
        }
    }

    /// A frame, and what it costs the reactor.
    pub fn frame(&self, world: &mut World, opcode: OpCode, payload: &[u8], said: Said) {
        self.frame_with(world, opcode, false, payload, said);
    }

    fn frame_with(&self, world: &mut World, opcode: OpCode, deflated: bool, payload: &[u8], said: Said) {
        let mut bytes = Vec::new();
        wire::frame(&mut bytes, opcode, !said.more, payload, (world.rng.next() as u32).to_le_bytes());
        bytes[0] |= u8::from(deflated) << 6;
        world.say_all(self.link, &bytes, said);
    }

    /// The pong of its transport.
    pub fn pong(&self, world: &mut World) {
        self.send(world, self.encoding().ping(), vec![Deed::Pong]);
    }

    pub fn read(&mut self, world: &World, max: usize) -> Vec<Heard> {
        let (bytes, ended) = world.net.receive(self.link, max);
        self.inbox.extend(bytes);
        let mut all = Vec::new();
        if !self.open
            && let Some(end) = wire::head_end(&self.inbox)
        {
            let head: Vec<u8> = self.inbox.drain(..end).collect();
            match head.get(9..12) {
                Some(b"101" | b"200") => self.open = true,
                // Refused: told so before its stream began.
                Some(_) => self.closed = Some(0),
                None => panic!("no response: {}", String::from_utf8_lossy(&head)),
            }
        }
        while self.open && self.read_one(&mut all) {}
        if ended {
            all.push(Heard::End);
        }
        all
    }

    /// Takes one message off; false if none is whole.
    fn read_one(&mut self, all: &mut Vec<Heard>) -> bool {
        if matches!(self.transport, Transport::WebSocket { .. }) {
            let Some((opcode, deflated, payload)) = wire::parse_any(&mut self.inbox) else { return false };
            assert!(self.closed.is_none(), "a frame after the close frame");
            let payload = if deflated { inflate(&payload) } else { payload };
            match opcode {
                wire::TEXT | wire::BINARY => self.take(&payload, all),
                wire::PONG => {}
                wire::CLOSE => self.closed = Some(payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code))),
                other => panic!("a frame of the wrong kind: {other:?}"),
            }
            all.extend(self.closed.map(Heard::Close));
            return true;
        }
        let Some(end) = self.inbox.iter().position(|byte| *byte == b'\n') else { return false };
        let line: Vec<u8> = self.inbox.drain(..=end).collect();
        let line = line.strip_suffix(b"\n").expect("it was found");
        match self.transport {
            Transport::Sse if line.is_empty() => {}
            Transport::Sse => self.take(line.strip_prefix(b"data: ").expect("an event's data"), all),
            _ => self.take(line, all),
        }
        true
    }

    fn take(&mut self, message: &[u8], all: &mut Vec<Heard>) {
        if message == self.encoding().ping() {
            return all.push(Heard::Ping);
        }
        for reply in wire::replies(self.encoding(), message) {
            if let Some(connect) = &reply.connect {
                self.session.clone_from(&connect.session);
            }
            if let Some(disconnect) = reply.push.as_ref().and_then(|push| push.disconnect.as_ref()) {
                self.closed = Some(disconnect.code as u16);
                all.push(Heard::Close(disconnect.code as u16));
                continue;
            }
            all.push(Heard::Reply(Box::new(reply)));
        }
    }
}

fn deflate(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + 64);
    Compress::new(Compression::fast(), false)
        .compress_vec(message, &mut out, FlushCompress::Sync)
        .expect("there is room");
    out.truncate(out.len() - TAIL.len());
    out
}

fn inflate(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 << 20);
    let whole = [payload, &TAIL].concat();
    Decompress::new(false).decompress_vec(&whole, &mut out, FlushDecompress::Sync).expect("sound DEFLATE");
    out
}
