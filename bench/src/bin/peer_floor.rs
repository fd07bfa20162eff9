//! The floor: a bare epoll loop that parses no WebSocket. What it costs is the kernel's price, one read and one write.
//!
//! After a fixed answer to the upgrade (the loader always sends the same key), bytes are bytes:
//! - echo: a frame goes back as it came, still masked inside, its header written over the mask: four bytes shorter;
//! - fan-out: what the client at `/pub` sends in one go is written in one go to everyone else, masks cut out once.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Ipv4Addr;
use std::process::ExitCode;

use clap::Parser;
use gannet_bench::peer::{Flags, Mode, PUBLISHER};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

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
}

struct Floor {
    poll: Poll,
    listener: TcpListener,
    conns: Slab<Conn>,
    subscribers: Vec<usize>,
    buffer: Box<[u8]>,
    frames: Vec<u8>,
    mode: Mode,
}

impl Floor {
    fn new(flags: Flags) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut listener = TcpListener::bind((Ipv4Addr::LOCALHOST, flags.port).into())?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let buffer = vec![0; 64 * 1024].into_boxed_slice();
        let (conns, subscribers, frames) = (Slab::new(), Vec::new(), Vec::new());
        Ok(Self { poll, listener, conns, subscribers, buffer, frames, mode: flags.mode })
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
            entry.insert(Conn { stream, phase: Phase::Head });
        }
    }

    /// One read; a short read has emptied the socket, so a full one asks for another turn.
    fn serve(&mut self, index: usize) -> io::Result<()> {
        loop {
            let Some(conn) = self.conns.get_mut(index) else { return Ok(()) };
            let size = match conn.stream.read(&mut self.buffer) {
                Ok(size) if size > 0 => size,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Ok(_) | Err(_) => {
                    self.conns.remove(index);
                    self.subscribers.retain(|subscriber| *subscriber != index);
                    return Ok(());
                }
            };
            match conn.phase {
                Phase::Echo => {
                    let answer = echo_answer(&mut self.buffer[..size]);
                    write_whole(&mut conn.stream, answer)?;
                }
                Phase::Head => self.upgrade(index, size)?,
                Phase::Publisher => self.fan_out(size)?,
                Phase::Subscriber => {}
            }
            if size < self.buffer.len() {
                return Ok(());
            }
        }
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
        write_whole(&mut conn.stream, ANSWER)
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
            write_whole(&mut self.conns[*index].stream, &self.frames)?;
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
    match Floor::new(Flags::parse()).and_then(|mut floor| floor.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("floor: {error}");
            ExitCode::FAILURE
        }
    }
}
