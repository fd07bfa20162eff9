//! The inside of a client process: up to a descriptor table full of clients in one epoll loop, eight bytes each.
//!
//! It is told what to do by words on standard input and tells what it sees by lines on standard output.

use std::collections::HashMap;
use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::event::Event;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use serde_json::json;

use super::frames::{self, Frame};
use super::status::Status;
use super::{CHANNEL, LEAVING, SECRET, now_ns};
use crate::centrifugal;
use crate::figures::histogram;
use crate::fleet::{check_upgrade, dial, upgrade_request};
use crate::wire::client_frame;

/// How often a line is written, and how long one wait for events takes at most.
const TELL: Duration = Duration::from_millis(200);

/// The part of all clients that one process is.
#[derive(Clone, Debug, clap::Args)]
pub struct Share {
    /// Port of the servers, at 127.0.0.1
    #[arg(long)]
    pub port: u16,
    /// Number of the first client; a client's number gives its user and its source address
    #[arg(long)]
    pub first: u32,
    #[arg(long)]
    pub count: usize,
    /// Clients between connect and open at a time
    #[arg(long)]
    pub opening: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Absent,
    Connecting,
    Upgrading,
    Joining,
    Open,
    Told,
}

/// All that is kept of a client.
struct Client {
    stream: Option<TcpStream>,
    phase: Phase,
    pushes: u8,
}

// A debug build of mio keeps more in a stream.
#[cfg(not(debug_assertions))]
const _: () = assert!(size_of::<Client>() <= 8);

struct Clients {
    share: Share,
    poll: Poll,
    all: Vec<Client>,
    /// Frames that came in parts, by client. Nearly always empty.
    parts: HashMap<usize, Vec<u8>>,
    /// Clients not begun yet: those from here on, and those that failed.
    fresh: usize,
    again: Vec<usize>,
    opening: usize,
    pong: Vec<u8>,
    status: Status,
    times: Histogram<u64>,
}

/// Waits for the word `go`, then connects and holds until standard input ends.
pub fn run(share: Share) -> io::Result<()> {
    crate::machine::raise_descriptors()?;
    let words = words();
    let mut clients = Clients::new(share)?;
    let (mut events, mut buffer) = (Events::with_capacity(1024), vec![0; 64 * 1024]);
    if words.recv().is_err() {
        return Ok(());
    }
    let mut told = Instant::now();
    loop {
        match words.try_recv() {
            Ok(word) if word == "times" => clients.tell_times()?,
            Ok(_) | Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return Ok(()),
        }
        clients.connect_more()?;
        clients.turn(&mut events, &mut buffer)?;
        if told.elapsed() >= TELL {
            told = Instant::now();
            say(&clients.status.json())?;
        }
    }
}

/// The lines of standard input; the channel ends with it.
fn words() -> Receiver<String> {
    let (sender, words) = channel();
    thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    words
}

fn say(value: &serde_json::Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{value}")?;
    out.flush()
}

impl Clients {
    fn new(share: Share) -> io::Result<Self> {
        let mut pong = Vec::new();
        client_frame(&mut pong, centrifugal::PING.as_bytes());
        Ok(Self {
            poll: Poll::new()?,
            all: (0..share.count).map(|_| Client { stream: None, phase: Phase::Absent, pushes: 0 }).collect(),
            parts: HashMap::new(),
            fresh: 0,
            again: Vec::new(),
            opening: 0,
            pong,
            status: Status::default(),
            times: histogram()?,
            share,
        })
    }

    fn connect_more(&mut self) -> io::Result<()> {
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, self.share.port));
        while self.opening < self.share.opening {
            let index = match self.again.pop() {
                Some(index) => index,
                None if self.fresh < self.all.len() => {
                    self.fresh += 1;
                    self.fresh - 1
                }
                None => break,
            };
            let mut stream = dial(to, self.share.first + index as u32)?;
            self.poll.registry().register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)?;
            self.all[index] = Client { stream: Some(stream), phase: Phase::Connecting, pushes: 0 };
            self.opening += 1;
        }
        Ok(())
    }

    fn turn(&mut self, events: &mut Events, buffer: &mut [u8]) -> io::Result<()> {
        match self.poll.poll(events, Some(TELL)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            result => result?,
        }
        for event in events.iter() {
            let index = event.token().0;
            if let Err(error) = self.ready(index, event, buffer) {
                self.give_up(index, &error)?;
            }
        }
        Ok(())
    }

    fn ready(&mut self, index: usize, event: &Event, buffer: &mut [u8]) -> io::Result<()> {
        let client = &mut self.all[index];
        if let (Phase::Connecting, Some(stream)) = (client.phase, client.stream.as_mut()) {
            if let Some(error) = stream.take_error()? {
                return Err(error);
            }
            if !event.is_writable() {
                return Ok(());
            }
            stream.write_all(upgrade_request(centrifugal::PATH).as_bytes())?;
            client.phase = Phase::Upgrading;
        }
        if !event.is_readable() {
            return Ok(());
        }
        // A read that comes back short has emptied the socket, unless its end was seen too.
        loop {
            let Some(stream) = self.all[index].stream.as_mut() else { return Ok(()) };
            let size = match stream.read(buffer) {
                Ok(0) => return self.end(index),
                Ok(size) => size,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            match self.parts.remove(&index) {
                None => self.take(index, &buffer[..size])?,
                Some(mut part) => {
                    part.extend_from_slice(&buffer[..size]);
                    self.take(index, &part)?;
                }
            }
            if size < buffer.len() && !event.is_read_closed() {
                return Ok(());
            }
        }
    }

    fn take(&mut self, index: usize, mut bytes: &[u8]) -> io::Result<()> {
        if self.all[index].phase == Phase::Upgrading {
            let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else {
                self.parts.insert(index, bytes.to_vec());
                return Ok(());
            };
            check_upgrade(&bytes[..end])?;
            bytes = &bytes[end + 4..];
            let token = centrifugal::token(SECRET, &format!("user-{}", self.share.first as usize + index))?;
            let mut join = Vec::new();
            client_frame(&mut join, centrifugal::connect_and_subscribe(Some(&token), CHANNEL).as_bytes());
            self.all[index].phase = Phase::Joining;
            self.send(index, &join)?;
        }
        while let Some((frame, rest)) = frames::next(bytes)? {
            bytes = rest;
            match frame {
                Frame::Text(lines) => {
                    for line in lines.split(|byte| *byte == b'\n') {
                        self.take_line(index, line)?;
                    }
                }
                Frame::Close(code) => self.told(index, code)?,
                Frame::Other => {}
            }
        }
        if !bytes.is_empty() {
            self.parts.insert(index, bytes.to_vec());
        }
        Ok(())
    }

    fn take_line(&mut self, index: usize, line: &[u8]) -> io::Result<()> {
        if line == centrifugal::PING.as_bytes() {
            self.status.pings += 1;
            let pong = std::mem::take(&mut self.pong);
            let sent = self.send(index, &pong);
            self.pong = pong;
            return sent;
        }
        if line.starts_with(br#"{"push":"#) {
            let late = now_ns().saturating_sub(frames::stamp(line).unwrap_or_default());
            self.times.saturating_record(late);
            self.status.pushes += 1;
            self.all[index].pushes = self.all[index].pushes.saturating_add(1);
            return Ok(());
        }
        if !line.starts_with(br#"{"id":"#) || memchr::memmem::find(line, br#""error":"#).is_some() {
            return Err(io::Error::other(format!("the server answered {}", String::from_utf8_lossy(line))));
        }
        if line.starts_with(br#"{"id":2,"#) {
            self.all[index].phase = Phase::Open;
            self.opening -= 1;
            self.status.opened += 1;
            self.status.opened_at = now_ns();
        }
        Ok(())
    }

    fn told(&mut self, index: usize, code: u16) -> io::Result<()> {
        if self.all[index].phase != Phase::Open {
            return Err(io::Error::other(format!("the server closed with {code}")));
        }
        self.all[index].phase = Phase::Told;
        *self.status.told.entry(code).or_default() += 1;
        self.status.told_at = now_ns();
        if code != LEAVING {
            self.status.why = format!("the server closed with {code}");
        }
        self.send(index, &frames::close_reply(code))
    }

    /// A few bytes on a socket that has nothing unsent: they fit.
    fn send(&mut self, index: usize, bytes: &[u8]) -> io::Result<()> {
        self.all[index].stream.as_mut().map_or(Ok(()), |stream| stream.write_all(bytes))
    }

    /// The server's side is closed.
    fn end(&mut self, index: usize) -> io::Result<()> {
        if self.all[index].phase != Phase::Told {
            return Err(io::Error::new(ErrorKind::UnexpectedEof, "the server closed without a word"));
        }
        self.all[index].stream = None;
        Ok(())
    }

    /// A client that is not open yet tries again; more than a tenth of them is no measurement.
    fn give_up(&mut self, index: usize, error: &io::Error) -> io::Result<()> {
        self.all[index].stream = None;
        self.parts.remove(&index);
        match self.all[index].phase {
            Phase::Absent | Phase::Told => return Ok(()),
            Phase::Open => self.status.lost += 1,
            Phase::Connecting | Phase::Upgrading | Phase::Joining => {
                self.opening -= 1;
                self.status.failed += 1;
                self.again.push(index);
            }
        }
        self.all[index].phase = Phase::Absent;
        self.status.why = error.to_string();
        if self.status.failed as usize > 10 + self.share.count / 10 {
            return Err(io::Error::other(format!("{} attempts failed: {error}", self.status.failed)));
        }
        Ok(())
    }

    fn tell_times(&self) -> io::Result<()> {
        let seen = |count: fn(u8) -> bool| self.all.iter().filter(|client| count(client.pushes)).count();
        let times: Vec<(u64, u64)> =
            self.times.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value())).collect();
        say(&json!({"times": times, "max": self.times.max(),
            "none": seen(|n| n == 0), "once": seen(|n| n == 1), "more": seen(|n| n > 1)}))
    }
}
