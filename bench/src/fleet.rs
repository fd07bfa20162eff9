//! Many client connections in one epoll loop: connect, upgrade, join, then whatever the shape of load asks.

use std::borrow::Cow;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use socket2::{Domain, Protocol, Socket, Type};

use crate::centrifugal;
use crate::tls;
use crate::wire::{Dialect, Got, Inbox, client_frame_in};

/// The example key of RFC 6455 and its answer: no loader needs a fresh one.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &[u8] = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// How many connections may be between `connect` and open at a time.
const OPENING: usize = 256;

/// Source addresses go round over 127.1.0.0 to 127.240.255.255, so that no address runs out of ports.
const FIRST_SOURCE: u32 = 0x7f01_0000;
const SOURCES: u32 = 0x00f0_0000;

/// Where a server is, at 127.0.0.1, and how clients speak TLS to it, if they do.
#[derive(Clone, Debug)]
pub struct Address {
    pub port: u16,
    pub tls: Option<Arc<ClientConfig>>,
}

impl From<u16> for Address {
    fn from(port: u16) -> Self {
        Self { port, tls: None }
    }
}

/// How a client opens: the path it asks for and what it sends first.
#[derive(Clone, Debug)]
pub struct Opening {
    pub path: Cow<'static, str>,
    /// Commands sent after the upgrade, in one frame, and the replies they get.
    pub commands: Option<(Vec<u8>, u64)>,
    /// What it speaks, if that is other than the rest of the fleet.
    pub dialect: Option<Dialect>,
}

impl Opening {
    /// Upgrade and nothing more.
    pub fn bare(path: impl Into<Cow<'static, str>>) -> Self {
        Self { path: path.into(), commands: None, dialect: None }
    }

    /// Upgrade at the Centrifugal endpoint, then these commands.
    pub fn centrifugal(commands: String, replies: u64) -> Self {
        Self { path: centrifugal::PATH.into(), commands: Some((commands.into_bytes(), replies)), dialect: None }
    }

    /// The same in Protobuf.
    pub fn protobuf(commands: Vec<u8>, replies: u64) -> Self {
        let path = centrifugal::PROTOBUF_PATH.into();
        Self { path, commands: Some((commands, replies)), dialect: Some(Dialect::Prefixed) }
    }
}

enum Phase {
    Connecting(Box<Opening>),
    Upgrading(Box<(Opening, Vec<u8>)>),
    Joining(u64),
    Open,
}

/// One connection.
pub struct Client {
    stream: TcpStream,
    tls: Option<Box<ClientConnection>>,
    dialect: Dialect,
    phase: Phase,
    inbox: Inbox,
    unsent: Vec<u8>,
}

impl Client {
    fn connect(to: SocketAddr, number: u32, opening: Opening, dialect: Dialect) -> io::Result<Self> {
        let (stream, dialect) = (dial(to, number)?, opening.dialect.unwrap_or(dialect));
        let phase = Phase::Connecting(Box::new(opening));
        Ok(Self { stream, tls: None, dialect, phase, inbox: Inbox::default(), unsent: Vec::new() })
    }

    /// True once upgraded and, if it has commands to open with, answered.
    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    /// Writes now; what the socket does not take goes when it is writable again.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(tls) = &mut self.tls else { return self.send_raw(bytes) };
        tls.writer().write_all(bytes)?;
        self.send_sealed()
    }

    fn send_sealed(&mut self) -> io::Result<()> {
        let mut sealed = Vec::new();
        while let Some(tls) = self.tls.as_mut().filter(|tls| tls.wants_write()) {
            tls.write_tls(&mut sealed)?;
        }
        if sealed.is_empty() { Ok(()) } else { self.send_raw(&sealed) }
    }

    fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        let written = if self.unsent.is_empty() { write_some(&mut self.stream, bytes)? } else { 0 };
        self.unsent.extend_from_slice(&bytes[written..]);
        Ok(())
    }

    fn ready(&mut self, event: &Event, buffer: &mut [u8], got: &mut Got) -> io::Result<()> {
        if event.is_writable() {
            if let Phase::Connecting(opening) = &self.phase {
                if let Some(error) = self.stream.take_error()? {
                    return Err(error);
                }
                let opening = opening.as_ref().clone();
                let request = upgrade_request(&opening.path);
                self.phase = Phase::Upgrading(Box::new((opening, Vec::new())));
                self.send(request.as_bytes())?;
            } else if !self.unsent.is_empty() {
                let written = write_some(&mut self.stream, &self.unsent)?;
                self.unsent.drain(..written);
            }
        }
        if event.is_readable() && !matches!(self.phase, Phase::Connecting(_)) {
            self.read_all(buffer, got)?;
        }
        Ok(())
    }

    /// Reads until a read comes back short: the socket is empty then.
    fn read_all(&mut self, buffer: &mut [u8], got: &mut Got) -> io::Result<()> {
        loop {
            let size = match self.stream.read(buffer) {
                Ok(0) => return Err(io::Error::new(ErrorKind::UnexpectedEof, "the server closed the connection")),
                Ok(size) => size,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            match self.tls.is_some() {
                true => self.take_sealed(&buffer[..size], got)?,
                false => self.take(&buffer[..size], got)?,
            }
            if size < buffer.len() {
                return Ok(());
            }
        }
    }

    fn take_sealed(&mut self, mut sealed: &[u8], got: &mut Got) -> io::Result<()> {
        while let Some(tls) = self.tls.as_mut().filter(|_| !sealed.is_empty()) {
            tls.read_tls(&mut sealed)?;
            let state = tls.process_new_packets().map_err(io::Error::other)?;
            let mut said = vec![0; state.plaintext_bytes_to_read()];
            tls.reader().read_exact(&mut said)?;
            self.take(&said, got)?;
        }
        self.send_sealed()
    }

    fn take(&mut self, bytes: &[u8], got: &mut Got) -> io::Result<()> {
        match &mut self.phase {
            Phase::Upgrading(upgrading) => {
                let (opening, head) = upgrading.as_mut();
                head.extend_from_slice(bytes);
                let Some(end) = memchr::memmem::find(head, b"\r\n\r\n") else { return Ok(()) };
                check_upgrade(&head[..end])?;
                let rest = head.split_off(end + 4);
                match opening.commands.take() {
                    Some((commands, replies)) => {
                        let mut frame = Vec::new();
                        client_frame_in(self.dialect, &mut frame, &commands);
                        self.phase = Phase::Joining(replies);
                        self.send(&frame)?;
                    }
                    None => self.phase = Phase::Open,
                }
                self.inbox.take(&rest, self.dialect, got)
            }
            Phase::Joining(replies) => {
                self.inbox.take(bytes, self.dialect, got)?;
                *replies = replies.saturating_sub(got.replies);
                if *replies == 0 {
                    self.phase = Phase::Open;
                }
                Ok(())
            }
            _ => self.inbox.take(bytes, self.dialect, got),
        }
    }
}

/// All connections of a run.
pub struct Fleet {
    poll: Poll,
    events: Events,
    buffer: Box<[u8]>,
    clients: Vec<Client>,
    to: SocketAddr,
    dialect: Dialect,
    tls: Option<Arc<ClientConfig>>,
    connected: u32,
    opened: usize,
    /// Pings answered so far.
    pub pings: u64,
}

impl Fleet {
    /// An empty fleet for the server at this address.
    pub fn new(to: impl Into<Address>, dialect: Dialect) -> io::Result<Self> {
        let Address { port, tls } = to.into();
        Ok(Self {
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            buffer: vec![0; 256 * 1024].into_boxed_slice(),
            clients: Vec::new(),
            to: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            dialect,
            tls,
            connected: 0,
            opened: 0,
            pings: 0,
        })
    }

    /// Clients in the fleet.
    pub fn len(&self) -> usize {
        self.clients.len()
    }

    /// True without clients.
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// One client.
    pub fn client(&mut self, index: usize) -> &mut Client {
        &mut self.clients[index]
    }

    /// Adds `count` clients and waits until all are open.
    pub fn open(
        &mut self,
        count: usize,
        limit: Duration,
        mut opening: impl FnMut(usize) -> io::Result<Opening>,
    ) -> io::Result<()> {
        let all = self.clients.len() + count;
        let end = Instant::now() + limit;
        while self.opened < all {
            while self.clients.len() < all && self.clients.len() - self.opened < OPENING {
                let index = self.clients.len();
                let client = self.connect(index, opening(index)?)?;
                self.clients.push(client);
            }
            if Instant::now() > end {
                return Err(io::Error::new(
                    ErrorKind::TimedOut,
                    format!("{} of {all} clients opened in time", self.opened),
                ));
            }
            self.turn(Duration::from_millis(100), |_, _, _| Ok(()))?;
        }
        Ok(())
    }

    /// Closes a client and opens a new one in its place.
    pub fn replace(&mut self, index: usize, opening: Opening) -> io::Result<()> {
        self.opened -= usize::from(self.clients[index].is_open());
        let client = self.connect(index, opening)?;
        self.clients[index] = client;
        Ok(())
    }

    /// Waits once for events and shows each client that had one to `seen`. Pings are answered here.
    pub fn turn(
        &mut self,
        limit: Duration,
        mut seen: impl FnMut(usize, &mut Client, &Got) -> io::Result<()>,
    ) -> io::Result<()> {
        match self.poll.poll(&mut self.events, Some(limit)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            result => result?,
        }
        for event in &self.events {
            let index = event.token().0;
            let client = &mut self.clients[index];
            let mut got = Got::default();
            let was_open = client.is_open();
            client
                .ready(event, &mut self.buffer, &mut got)
                .map_err(|error| io::Error::new(error.kind(), format!("client {index}: {error}")))?;
            self.opened += usize::from(!was_open && client.is_open());
            if got.pings > 0 {
                self.pings += got.pings;
                let mut pong = Vec::new();
                let body = if client.dialect == Dialect::Prefixed { &[0][..] } else { centrifugal::PING.as_bytes() };
                client_frame_in(client.dialect, &mut pong, body);
                client.send(&pong)?;
            }
            seen(index, client, &got)?;
        }
        Ok(())
    }

    fn connect(&mut self, index: usize, opening: Opening) -> io::Result<Client> {
        let mut client = Client::connect(self.to, self.connected, opening, self.dialect)?;
        self.connected = self.connected.wrapping_add(1);
        if let Some(config) = &self.tls {
            let name = ServerName::try_from(tls::NAME).map_err(io::Error::other)?;
            client.tls = Some(Box::new(ClientConnection::new(config.clone(), name).map_err(io::Error::other)?));
        }
        let both = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut client.stream, Token(index), both)?;
        Ok(client)
    }
}

/// Begins to connect from the source address with this number.
pub(crate) fn dial(to: SocketAddr, number: u32) -> io::Result<TcpStream> {
    let source = Ipv4Addr::from(FIRST_SOURCE + number % SOURCES);
    let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.bind(&SocketAddrV4::new(source, 0).into())?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => Err(error),
        _ => Ok(TcpStream::from_std(socket.into())),
    }
}

fn write_some(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
    match stream.write(bytes) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        result => result,
    }
}

pub(crate) fn upgrade_request(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
}

pub(crate) fn check_upgrade(head: &[u8]) -> io::Result<()> {
    if head.starts_with(b"HTTP/1.1 101") && memchr::memmem::find(head, ACCEPT).is_some() {
        return Ok(());
    }
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    Err(io::Error::other(format!("no upgrade: {}", String::from_utf8_lossy(line))))
}
