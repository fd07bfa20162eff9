//! The floor: a bare epoll loop that parses no WebSocket. What it costs is the kernel's price, one read and one write.
//!
//! After a fixed answer to the upgrade (the loader always sends the same key), bytes are bytes:
//! - echo: a frame goes back as it came, still masked inside, its header written over the mask: four bytes shorter;
//! - fan-out: what the client at `/pub` sends in one go is written in one go to everyone else, masks cut out once.
//!
//! With TLS, rustls alone makes the handshake, and ring alone seals and opens.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Ipv4Addr;
use std::process::ExitCode;

use clap::Parser;
use gannet_bench::peer::{Flags, Mode, PUBLISHER};
use gannet_bench::records::Records;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use rustls::ServerConfig;
use slab::Slab;
use std::sync::Arc;

/// Bytes of the longest record.
const RECORD_MAX: usize = (1 << 14) + 256 + 5;
const LISTENER: Token = Token(usize::MAX);
const ANSWER: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

#[derive(Clone, Copy)]
enum Phase {
    Head,
    Echo,
    Subscriber,
    Publisher,
}

struct Conn {
    stream: TcpStream,
    phase: Phase,
    tls: Option<Box<Records>>,
}

struct Floor {
    poll: Poll,
    listener: TcpListener,
    conns: Slab<Conn>,
    subscribers: Vec<usize>,
    buffer: Box<[u8]>,
    frames: Vec<u8>,
    sealed: Vec<u8>,
    mode: Mode,
    tls: Option<Arc<ServerConfig>>,
}

impl Floor {
    fn new(flags: &Flags) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut listener = TcpListener::bind((Ipv4Addr::LOCALHOST, flags.port).into())?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let buffer = vec![0; 64 * 1024].into_boxed_slice();
        let (conns, subscribers, frames, sealed) = (Slab::new(), Vec::new(), Vec::new(), Vec::new());
        let tls = flags.tls()?;
        Ok(Self { poll, listener, conns, subscribers, buffer, frames, sealed, mode: flags.mode, tls })
    }

    fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        loop {
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                result => result?,
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept()?,
                    Token(index) => self.serve(index)?,
                }
            }
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let mut stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            stream.set_nodelay(true)?;
            let entry = self.conns.vacant_entry();
            self.poll.registry().register(&mut stream, Token(entry.key()), Interest::READABLE)?;
            let tls = self.tls.as_ref().map(|config| Records::new(config).map(Box::new)).transpose()?;
            entry.insert(Conn { stream, phase: Phase::Head, tls });
        }
    }

    /// One read; a short read has emptied the socket, so a full one asks for another turn.
    fn serve(&mut self, index: usize) -> io::Result<()> {
        loop {
            let Some(conn) = self.conns.get_mut(index) else { return Ok(()) };
            // What came in part before goes in front.
            let room = self.buffer.len() - if conn.tls.is_some() { RECORD_MAX } else { 0 };
            let came = match conn.stream.read(&mut self.buffer[..room]) {
                Ok(size) if size > 0 => size,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Ok(_) | Err(_) => {
                    self.remove(index);
                    return Ok(());
                }
            };
            let size = match &mut conn.tls {
                None => came,
                Some(tls) => {
                    self.sealed.clear();
                    let opened = tls.open(&mut self.buffer, came, &mut self.sealed);
                    if !self.sealed.is_empty() {
                        write_whole(&mut conn.stream, &self.sealed)?;
                    }
                    match opened {
                        Ok(size) => size,
                        Err(_) => {
                            self.remove(index);
                            return Ok(());
                        }
                    }
                }
            };
            match conn.phase {
                _ if size == 0 => {}
                Phase::Echo => {
                    let answer = echo_answer(&mut self.buffer[..size]);
                    say(conn, answer, &mut self.sealed)?;
                }
                Phase::Head => self.upgrade(index, size)?,
                Phase::Publisher => self.fan_out(size)?,
                Phase::Subscriber => {}
            }
            if came < room {
                return Ok(());
            }
        }
    }

    fn remove(&mut self, index: usize) {
        self.conns.remove(index);
        self.subscribers.retain(|subscriber| *subscriber != index);
    }

    /// The loader sends its request in one write, so it is here in one read.
    fn upgrade(&mut self, index: usize, size: usize) -> io::Result<()> {
        let head = &self.buffer[..size];
        let publisher = head.starts_with(format!("GET {PUBLISHER} ").as_bytes());
        let conn = &mut self.conns[index];
        conn.phase = match self.mode {
            Mode::Echo => Phase::Echo,
            Mode::Fanout if publisher => Phase::Publisher,
            Mode::Fanout => Phase::Subscriber,
        };
        if let Phase::Subscriber = conn.phase {
            self.subscribers.push(index);
        }
        say(conn, ANSWER, &mut self.sealed)
    }

    fn fan_out(&mut self, size: usize) -> io::Result<()> {
        self.frames.clear();
        let mut rest = &mut self.buffer[..size];
        while !rest.is_empty() {
            let len = frame_len(rest);
            let (frame, after) = rest.split_at_mut(len.min(rest.len()));
            self.frames.extend_from_slice(echo_answer(frame));
            rest = after;
        }
        for index in &self.subscribers {
            say(&mut self.conns[*index], &self.frames, &mut self.sealed)?;
        }
        Ok(())
    }
}

/// The bytes of the masked frame at the start of `bytes`; the loader sends none of 64 KiB or more.
fn frame_len(bytes: &[u8]) -> usize {
    match bytes {
        [_, 0xfe, high, low, ..] => 8 + usize::from(u16::from_be_bytes([*high, *low])),
        [_, short, ..] => 6 + usize::from(short & 0x7f),
        _ => bytes.len(),
    }
}

/// Turns a masked client frame into an unmasked server frame of the same length by moving its header over the mask.
fn echo_answer(frame: &mut [u8]) -> &[u8] {
    if frame.len() < 8 {
        return frame;
    }
    if frame[1] == 0xfe {
        frame.copy_within(0..4, 4);
        frame[5] = 0x7e;
    } else {
        frame.copy_within(0..2, 4);
        frame[5] &= 0x7f;
    }
    &frame[4..]
}

/// Writes what is to be said, sealed if there is TLS.
fn say(conn: &mut Conn, bytes: &[u8], sealed: &mut Vec<u8>) -> io::Result<()> {
    let Some(tls) = &mut conn.tls else { return write_whole(&mut conn.stream, bytes) };
    sealed.clear();
    tls.seal(bytes, sealed)?;
    write_whole(&mut conn.stream, sealed)
}

/// The floor keeps no outbox: a reader too slow for it ends the run.
fn write_whole(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    match stream.write(bytes) {
        Ok(size) if size == bytes.len() => Ok(()),
        Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => Ok(()),
        Ok(_) => Err(io::Error::other("a short write: the reader is too slow for the floor")),
        Err(error) => Err(error),
    }
}

fn main() -> ExitCode {
    match Floor::new(&Flags::parse()).and_then(|mut floor| floor.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("floor: {error}");
            ExitCode::FAILURE
        }
    }
}
