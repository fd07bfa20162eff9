//! One connection of a client of any transport: what it puts on the wire, and what it makes of what comes.

use crate::breakage::Breakage;
use crate::net::LinkId;
use crate::node::World;
use crate::script::{Deed, Said};
use crate::wire;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use gannet::broker::ConnKey;
use gannet::protocol::{Command, ConnectRequest, Encoding, Reply};
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
    /// Protobuf with lengths, and commands by other requests.
    Lengths,
    /// Only listens: what it connects with says what it wants.
    Listens(By),
}

/// How who only listens hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    WebSocket,
    Events,
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
        Peer::with(world, transport, &ConnectRequest::default())
    }

    /// The same with what it connects with, if that goes with its request.
    pub fn with(world: &mut World, transport: Transport, connect: &ConnectRequest) -> Peer {
        let link = world.net.open(world.options.room);
        let peer =
            Peer { link, key: None, transport, inbox: Vec::new(), open: false, session: String::new(), closed: None };
        world.say(link, &peer.head(connect), vec![Deed::Head]);
        peer
    }

    fn head(&self, connect: &ConnectRequest) -> Vec<u8> {
        let command = Command { id: 1, connect: Some(connect.clone()), ..Command::default() };
        let text = |it: &dyn Fn() -> serde_json::Result<Vec<u8>>| it().expect("JSON");
        let command_text = || text(&|| serde_json::to_vec(&command));
        let connect_text = || text(&|| serde_json::to_vec(connect));
        match self.transport {
            Transport::WebSocket { encoding, deflates: false } => wire::upgrade(encoding, false),
            Transport::WebSocket { encoding, deflates: true } => wire::upgrade_with(
                encoding,
                false,
                "Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover\r\n",
            ),
            Transport::Sse => wire::get("/connection/sse", &command_text()),
            Transport::Lines => wire::post("/connection/http_stream", "application/json", &command_text()),
            Transport::Lengths => wire::post(
                "/connection/http_stream",
                "application/octet-stream",
                &wire::commands(Encoding::Protobuf, &[command]),
            ),
            Transport::Listens(By::WebSocket) => wire::upgrade_at("/connection/uni_websocket", ""),
            Transport::Listens(By::Events) => wire::get("/connection/uni_sse", &connect_text()),
            Transport::Listens(By::Lines) => {
                wire::post("/connection/uni_http_stream", "application/json", &connect_text())
            }
        }
    }

    pub fn encoding(&self) -> Encoding {
        match self.transport {
            Transport::WebSocket { encoding, .. } => encoding,
            Transport::Sse | Transport::Lines | Transport::Listens(_) => Encoding::Json,
            Transport::Lengths => Encoding::Protobuf,
        }
    }

    /// Does its connect command come with its request?
    pub fn is_emulated(&self) -> bool {
        !self.is_websocket()
    }

    fn is_websocket(&self) -> bool {
        matches!(self.transport, Transport::WebSocket { .. } | Transport::Listens(By::WebSocket))
    }

    pub fn listens(&self) -> bool {
        matches!(self.transport, Transport::Listens(_))
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
            Transport::Listens(By::WebSocket) => {
                let said = Said { decoded: message.len(), deeds, ..Said::default() };
                self.frame_with(world, wire::TEXT, false, message, said);
            }
            Transport::Listens(_) => panic!("who only listens says nothing"),
            Transport::Sse | Transport::Lines | Transport::Lengths => {
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
        while self.open && self.read_one(world, &mut all) {}
        if ended {
            all.push(Heard::End);
        }
        all
    }

    /// Takes one message off; false if none is whole.
    fn read_one(&mut self, world: &World, all: &mut Vec<Heard>) -> bool {
        if self.is_websocket() {
            let Some((opcode, deflated, payload)) = wire::parse_any(&mut self.inbox) else { return false };
            if self.listens() && self.closed.is_some() && opcode == wire::CLOSE {
                // It was told before, by a push.
                return true;
            }
            assert!(self.closed.is_none(), "a frame after the close frame");
            let payload = if deflated { inflate(&payload) } else { payload };
            match opcode {
                wire::TEXT | wire::BINARY => self.take(world, &payload, all),
                wire::PONG => {}
                wire::CLOSE => self.closed = Some(payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code))),
                other => panic!("a frame of the wrong kind: {other:?}"),
            }
            all.extend(self.closed.map(Heard::Close));
            return true;
        }
        if self.transport == Transport::Lengths {
            let Some(size) = wire::reply_size(&self.inbox) else { return false };
            let whole: Vec<u8> = self.inbox.drain(..size).collect();
            self.take(world, &whole, all);
            return true;
        }
        let Some(end) = self.inbox.iter().position(|byte| *byte == b'\n') else { return false };
        let line: Vec<u8> = self.inbox.drain(..=end).collect();
        let line = line.strip_suffix(b"\n").expect("it was found");
        match self.transport {
            Transport::Sse | Transport::Listens(By::Events) if line.is_empty() => {}
            Transport::Sse | Transport::Listens(By::Events) => {
                self.take(world, line.strip_prefix(b"data: ").expect("an event's data"), all)
            }
            _ => self.take(world, line, all),
        }
        true
    }

    fn take(&mut self, world: &World, message: &[u8], all: &mut Vec<Heard>) {
        if message == self.encoding().ping() {
            return all.push(Heard::Ping);
        }
        let replies = match self.listens() {
            true => wire::pushes(message),
            false => wire::replies(self.encoding(), message),
        };
        for reply in replies {
            if let Some(connect) = &reply.connect {
                self.session.clone_from(&connect.session);
            }
            if let Some(disconnect) = reply.push.as_ref().and_then(|push| push.disconnect.as_ref()) {
                self.closed = Some(disconnect.code as u16);
                all.push(Heard::Close(disconnect.code as u16));
                continue;
            }
            let is_publication = reply.push.as_ref().is_some_and(|push| push.publication.is_some());
            if is_publication && world.chances.breaks(Breakage::DropHeard) {
                continue;
            }
            if let Some(key) = self.key {
                world.log.follow([u64::from(key.reactor), u64::from(key.index)], &reply);
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
