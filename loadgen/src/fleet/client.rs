//! One client: its socket, how far it has come, and bytes that wait to go out.
//!
//! Never knows the scenario, what messages say, or other clients. An idle client owns no buffer.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mio::net::TcpStream;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tungstenite::protocol::frame::coding::OpCode;

use super::position::Positions;
use crate::handshake::Upgrade;
use crate::secure::{Scratch, Secure};
use crate::sequence::Track;
use crate::wire::{Fault, Inbox, put_frame};

/// Bytes that may wait for one socket; a speaker beyond it skips its turn.
const OUTBOX_BYTES_MAX: usize = 4 << 20;
/// What an outbox may keep when it is empty.
const OUTBOX_BYTES_KEPT: usize = 512;
/// The kernel buffer of a reader that stalls: full soon.
const STALLED_BUFFER_BYTES: usize = 4096;

/// How far a client has come.
#[derive(Debug)]
pub enum Phase {
    /// No connection.
    Absent,
    Connecting,
    /// Connected, and in the handshake of TLS.
    Securing,
    Upgrading(Box<Upgrade>),
    /// Upgraded; so many replies are awaited.
    Joining(u32),
    Open,
    /// It sent a close frame.
    Leaving,
}

/// Why a connection ended.
#[derive(Debug)]
pub enum End {
    Io(io::Error),
    /// The peer ended the stream without a close frame.
    Eof,
    Close(Option<u16>),
    Fault(Fault),
    /// No upgrade, or no place: in words.
    Refused(String),
    TimedOut,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => match error.kind() {
                ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
                    write!(f, "{}", error.kind())
                }
                _ => write!(f, "{error}"),
            },
            Self::Eof => f.write_str("ended without a close frame"),
            Self::Close(Some(code)) => write!(f, "closed with {code}"),
            Self::Close(None) => f.write_str("closed without a code"),
            Self::Fault(fault) => write!(f, "broke the protocol: {fault}"),
            Self::Refused(reason) => f.write_str(reason),
            Self::TimedOut => f.write_str("timed out"),
        }
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

#[derive(Debug)]
pub struct Client {
    pub number: u32,
    pub phase: Phase,
    /// Set while it stalls.
    pub stalled: bool,
    /// Its outbox is on the list of those to write.
    pub dirty: bool,
    /// It is among the speakers.
    pub has_turns: bool,
    /// When its connection was meant to begin, and when it did.
    pub due: u64,
    pub began: u64,
    /// The id of its next command.
    pub next_id: u32,
    /// The number of its next message.
    pub sequence: u32,
    /// Connections that failed in a row.
    pub failures: u32,
    pub tracks: Vec<Track>,
    pub positions: Positions,
    pub inbox: Inbox,
    outbox: Vec<u8>,
    socket: Option<TcpStream>,
    /// None = without TLS.
    secure: Option<Box<Secure>>,
}

impl Client {
    pub fn new(number: u32) -> Self {
        Self {
            number,
            phase: Phase::Absent,
            stalled: false,
            dirty: false,
            has_turns: false,
            due: 0,
            began: 0,
            next_id: 1,
            sequence: 0,
            failures: 0,
            tracks: Vec::new(),
            positions: Positions::default(),
            inbox: Inbox::default(),
            outbox: Vec::new(),
            socket: None,
            secure: None,
        }
    }

    /// Begins a connection; the socket is for the poll.
    pub fn connect(&mut self, to: SocketAddr, from: Option<SocketAddr>, stalls: bool) -> io::Result<&mut TcpStream> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        if let Some(from) = from {
            socket.bind(&from.into())?;
        }
        if stalls {
            socket.set_recv_buffer_size(STALLED_BUFFER_BYTES)?;
        }
        socket.set_tcp_nodelay(true)?;
        match socket.connect(&to.into()) {
            Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
                return Err(error);
            }
            _ => {}
        }
        self.phase = Phase::Connecting;
        self.inbox = Inbox::default();
        self.outbox = Vec::new();
        Ok(self.socket.insert(TcpStream::from_std(socket.into())))
    }

    /// True once the socket of a connection under way is connected.
    pub fn is_connected(&self) -> Result<bool, End> {
        let Some(socket) = &self.socket else { return Ok(false) };
        if let Some(error) = socket.take_error()? {
            return Err(error.into());
        }
        match socket.peer_addr() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    /// True on the way from nothing to open.
    pub fn is_opening(&self) -> bool {
        matches!(self.phase, Phase::Connecting | Phase::Securing | Phase::Upgrading(_) | Phase::Joining(_))
    }

    /// Begins TLS.
    pub fn secure(&mut self, config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<(), End> {
        let mut secure = Secure::new(config, name).map_err(End::Refused)?;
        secure.take(&[], &mut Vec::new())?;
        self.secure = Some(Box::new(secure));
        self.phase = Phase::Securing;
        Ok(())
    }

    /// May it speak: is it connected, and TLS there if there is to be any?
    pub fn may_upgrade(&self) -> bool {
        matches!(self.phase, Phase::Securing) && self.secure.as_ref().is_some_and(|secure| secure.is_ready())
    }

    /// Room for another message?
    pub fn has_room(&self) -> bool {
        self.outbox.len() + self.secure.as_ref().map_or(0, |secure| secure.unsent()) < OUTBOX_BYTES_MAX
    }

    /// Queues bytes as they are.
    pub fn put(&mut self, bytes: &[u8]) {
        self.outbox.extend_from_slice(bytes);
    }

    /// Queues a frame: how many bytes it has.
    pub fn put_frame(&mut self, opcode: OpCode, payload: &[u8], mask: [u8; 4]) -> u64 {
        let before = self.outbox.len();
        put_frame(&mut self.outbox, opcode, payload, mask);
        (self.outbox.len() - before) as u64
    }

    /// Writes what the socket takes.
    pub fn flush(&mut self, scratch: &mut Scratch) -> Result<(), End> {
        let Some(socket) = &mut self.socket else { return Ok(()) };
        match &mut self.secure {
            None => send(socket, &mut self.outbox)?,
            Some(secure) => {
                if secure.is_ready() {
                    secure.put(&self.outbox, scratch)?;
                    self.outbox.clear();
                }
                send(socket, secure.output())?;
            }
        }
        if self.outbox.is_empty() && self.outbox.capacity() > OUTBOX_BYTES_KEPT {
            self.outbox = Vec::new();
        }
        Ok(())
    }

    /// One read: None = nothing there.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, End> {
        let Some(socket) = &mut self.socket else { return Ok(None) };
        loop {
            return match socket.read(buffer) {
                Ok(0) => Err(End::Eof),
                Ok(size) => Ok(Some(size)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => Err(error.into()),
            };
        }
    }

    /// With TLS: opens what a read gave; what it says is in the scratch.
    pub fn open(&mut self, came: &[u8], scratch: &mut Scratch) -> Result<(), End> {
        let Some(secure) = &mut self.secure else { return Ok(()) };
        scratch.said.clear();
        secure.take(came, &mut scratch.said)?;
        Ok(())
    }

    pub fn is_secure(&self) -> bool {
        self.secure.is_some()
    }

    /// The peer said in TLS that it says no more.
    pub fn has_ended(&self) -> bool {
        self.secure.as_ref().is_some_and(|secure| secure.is_closed())
    }

    /// Tells the peer in TLS that it says no more, if it can be told at once.
    fn say_end(&mut self, scratch: &mut Scratch) {
        let Some((socket, secure)) = self.socket.as_mut().zip(self.secure.as_mut()) else { return };
        if secure.is_ready() && self.outbox.is_empty() {
            secure.end(scratch);
            // Whoever is gone need not hear it.
            let _ = send(socket, secure.output());
        }
    }

    /// Drops the connection. A cut resets it, as a host that dies does; otherwise the stream ends in order.
    pub fn drop_connection(&mut self, cut: bool, scratch: &mut Scratch) {
        if !cut {
            self.say_end(scratch);
        }
        self.secure = None;
        if let Some(socket) = self.socket.take()
            && cut
        {
            // If it fails the stream ends in order: good enough for a cut.
            let _ = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
        }
        self.phase = Phase::Absent;
        self.inbox = Inbox::default();
        self.outbox = Vec::new();
    }
}

/// Sends what the socket takes, and takes it away.
fn send(socket: &mut TcpStream, bytes: &mut Vec<u8>) -> Result<(), End> {
    let mut written = 0;
    while written < bytes.len() {
        match socket.write(&bytes[written..]) {
            Ok(0) => return Err(End::Eof),
            Ok(size) => written += size,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    bytes.drain(..written);
    Ok(())
}
