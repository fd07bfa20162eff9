//! One publisher for servers that keep what they are sent: several connections, so many publications in flight on each.
//!
//! All are driven alike: what may be sent is sent in one write, and a publication's time is from that write to its own
//! answer. Nothing is subscribed to.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use memchr::memchr;
use memchr::memmem::find;
use mio::{Events, Interest, Poll, Token};

use crate::centrifugal;
use crate::figures::{Bound, Load, histogram};
use crate::fleet::{check_upgrade, upgrade_request};
use crate::wire::client_frame;

/// How it speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tongue {
    /// Commands of the Centrifugal client protocol; those that go together share a frame
    Gannet,
    /// Messages of NATS with an inbox for JetStream's acknowledgement
    JetStream,
    /// XADD
    Redis,
}

/// The id of the first publication: `connect` had the one before.
const FIRST_ID: u64 = 2;
/// How long the answers may take after the last was sent.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is published: text that does not compress, of which each publication takes a piece.
pub struct Texts {
    pool: Vec<u8>,
    size: usize,
}

impl Texts {
    /// Each piece takes `size` bytes, with the quotes of a JSON string.
    pub fn new(size: usize) -> Self {
        const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut state = 88_172_645_463_325_252_u64;
        let letter = |_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            LETTERS[(state >> 32) as usize % LETTERS.len()]
        };
        Self { pool: (0..size + (1 << 16)).map(letter).collect(), size: size.max(2) }
    }

    /// Of a publication with this number.
    fn piece(&self, number: u64) -> &[u8] {
        let at = (number.wrapping_mul(40_503) % (1 << 16)) as usize;
        &self.pool[at..at + self.size - 2]
    }
}

struct Line {
    stream: mio::net::TcpStream,
    /// Its number among the connections.
    me: usize,
    unread: Vec<u8>,
    unsent: Vec<u8>,
    in_flight: VecDeque<(u64, Instant)>,
}

/// Open connections that wait for a run.
pub struct Publisher {
    poll: Poll,
    events: Events,
    lines: Vec<Line>,
    tongue: Tongue,
    buffer: Vec<u8>,
    texts: Texts,
    /// The number of the next publication; it goes on from run to run.
    next: u64,
}

impl Publisher {
    pub fn open(tongue: Tongue, port: u16, connections: usize, texts: Texts) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut lines = Vec::new();
        for me in 0..connections {
            let stream = greet(tongue, port, me)?;
            stream.set_nonblocking(true)?;
            let mut stream = mio::net::TcpStream::from_std(stream);
            let both = Interest::READABLE | Interest::WRITABLE;
            poll.registry().register(&mut stream, Token(me), both)?;
            lines.push(Line { stream, me, unread: Vec::new(), unsent: Vec::new(), in_flight: VecDeque::new() });
        }
        let events = Events::with_capacity(connections.max(1));
        Ok(Self { poll, events, lines, tongue, buffer: vec![0; 256 * 1024], texts, next: 0 })
    }

    /// Publishes until the bound is met, `window` in flight on each connection, and waits for the last answer.
    /// `channel` says where a publication with a number goes. A unit is a publication.
    pub fn run(&mut self, window: usize, bound: Bound, channel: impl Fn(u64) -> String) -> io::Result<Load> {
        let (began, first) = (Instant::now(), self.next);
        let mut load = Load { units: 0, bytes: 0, wall: Duration::ZERO, latency: histogram()? };
        let mut quiet_since = began;
        for line in 0..self.lines.len() {
            self.fill(line, window, first + bound.units, &channel)?;
        }
        while self.lines.iter().any(|line| !line.in_flight.is_empty()) {
            if quiet_since.elapsed() > PATIENCE {
                return Err(io::Error::other(format!("no answer for {PATIENCE:?} after {} of them", load.units)));
            }
            self.poll.poll(&mut self.events, Some(Duration::from_millis(100)))?;
            let ready: Vec<usize> = self.events.iter().map(|event| event.token().0).collect();
            for at in ready {
                let before = load.units;
                self.lines[at].read(self.tongue, &mut self.buffer, &mut load)?;
                if load.units > before {
                    quiet_since = Instant::now();
                }
                let until = if began.elapsed() < bound.time { first + bound.units } else { 0 };
                self.fill(at, window, until, &channel)?;
            }
        }
        load.wall = began.elapsed();
        Ok(load)
    }

    /// Sends as many as may be in flight, up to the number `until`.
    fn fill(&mut self, at: usize, window: usize, until: u64, channel: impl Fn(u64) -> String) -> io::Result<()> {
        let line = &mut self.lines[at];
        let room = window.saturating_sub(line.in_flight.len()) as u64;
        let last = until.min(self.next.saturating_add(room));
        if self.next < last {
            let (now, mut commands) = (Instant::now(), Vec::new());
            for number in self.next..last {
                self.tongue.publish(&mut commands, line.me, number, &channel(number), self.texts.piece(number));
                line.in_flight.push_back((number, now));
            }
            self.next = last;
            match self.tongue {
                Tongue::Gannet => client_frame(&mut line.unsent, commands.trim_ascii_end()),
                Tongue::JetStream | Tongue::Redis => line.unsent.append(&mut commands),
            }
        }
        line.write()
    }
}

impl Line {
    fn write(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(size) => drop(self.unsent.drain(..size)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn read(&mut self, tongue: Tongue, buffer: &mut [u8], load: &mut Load) -> io::Result<()> {
        loop {
            let size = match self.stream.read(buffer) {
                Ok(0) => return Err(io::Error::new(ErrorKind::UnexpectedEof, "the server closed the connection")),
                Ok(size) => size,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            load.bytes += size as u64;
            self.unread.extend_from_slice(&buffer[..size]);
            let (now, in_flight) = (Instant::now(), &mut self.in_flight);
            let mut answered = |number: Option<u64>| {
                // Answers to different channels may come in another order than they were asked for.
                let is_it = |(sent, _): &(u64, Instant)| number.is_none_or(|number| *sent == number);
                let at = in_flight.iter().position(is_it);
                let (_, since) = at
                    .and_then(|at| in_flight.remove(at))
                    .ok_or_else(|| io::Error::other(format!("an answer to what was not asked: {number:?}")))?;
                load.units += 1;
                load.latency.saturating_record((now - since).as_nanos() as u64);
                Ok(())
            };
            let taken = tongue.answers(&self.unread, &mut self.unsent, &mut answered)?;
            self.unread.drain(..taken);
            if size < buffer.len() {
                return Ok(());
            }
        }
    }
}

impl Tongue {
    /// Appends one publication.
    fn publish(self, out: &mut Vec<u8>, me: usize, number: u64, channel: &str, text: &[u8]) {
        // A vector takes any number of bytes.
        let _ = match self {
            Tongue::Gannet => {
                write!(out, "{{\"id\":{},\"publish\":{{\"channel\":\"{channel}\",\"data\":\"", number + FIRST_ID)
            }
            Tongue::JetStream => write!(out, "PUB {channel} _INBOX.b{me}.{number} {}\r\n\"", text.len() + 2),
            Tongue::Redis => {
                let (name, size) = (channel.len(), text.len() + 2);
                write!(out, "*5\r\n$4\r\nXADD\r\n${name}\r\n{channel}\r\n$1\r\n*\r\n$1\r\nd\r\n${size}\r\n\"")
            }
        };
        out.extend_from_slice(text);
        out.extend_from_slice(match self {
            Tongue::Gannet => b"\"}}\n",
            Tongue::JetStream | Tongue::Redis => b"\"\r\n",
        });
    }

    /// Tells `each` which publications the whole answers at the head of `bytes` are to (none: the next in order), and
    /// returns how many bytes those took. What the server asks is answered in `out`.
    fn answers(
        self,
        bytes: &[u8],
        out: &mut Vec<u8>,
        each: &mut dyn FnMut(Option<u64>) -> io::Result<()>,
    ) -> io::Result<usize> {
        let mut taken = 0;
        loop {
            let rest = &bytes[taken..];
            let size = match self {
                Tongue::Gannet => gannet_answer(rest, out, each)?,
                Tongue::JetStream => jetstream_answer(rest, out, each)?,
                Tongue::Redis => redis_answer(rest, each)?,
            };
            match size {
                0 => return Ok(taken),
                size => taken += size,
            }
        }
    }
}

fn refused(answer: &[u8]) -> io::Error {
    io::Error::other(format!("the server answered {}", String::from_utf8_lossy(&answer[..answer.len().min(300)])))
}

fn number_of(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.trim().parse().ok()
}

/// One frame, with a reply on each line.
fn gannet_answer(
    bytes: &[u8],
    out: &mut Vec<u8>,
    each: &mut dyn FnMut(Option<u64>) -> io::Result<()>,
) -> io::Result<usize> {
    let (head, size) = match bytes {
        [_, 126, high, low, ..] => (4, usize::from(u16::from_be_bytes([*high, *low]))),
        [_, 127, rest @ ..] if rest.len() >= 8 => {
            (10, rest.iter().take(8).fold(0, |size, byte| size << 8 | usize::from(*byte)))
        }
        [_, size @ 0..=125, ..] => (2, usize::from(*size)),
        _ => return Ok(0),
    };
    let Some(payload) = bytes.get(head..head + size) else { return Ok(0) };
    if bytes[0] & 0x0f > 2 {
        return Err(refused(payload));
    }
    for line in payload.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        if line == centrifugal::PING.as_bytes() {
            client_frame(out, centrifugal::PING.as_bytes());
            continue;
        }
        let digits = line.strip_prefix(b"{\"id\":").ok_or_else(|| refused(line))?;
        let end = digits.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(digits.len());
        if find(line, b"\"error\"").is_some() {
            return Err(refused(line));
        }
        let id = number_of(&digits[..end]).ok_or_else(|| refused(line))?;
        each(Some(id - FIRST_ID))?;
    }
    Ok(head + size)
}

/// One message, or PING.
fn jetstream_answer(
    bytes: &[u8],
    out: &mut Vec<u8>,
    each: &mut dyn FnMut(Option<u64>) -> io::Result<()>,
) -> io::Result<usize> {
    let Some(end) = memchr(b'\n', bytes) else { return Ok(0) };
    let line = &bytes[..end];
    if line.starts_with(b"PING") {
        out.extend_from_slice(b"PONG\r\n");
        return Ok(end + 1);
    }
    let Some(words) = line.strip_prefix(b"MSG ") else { return Err(refused(bytes)) };
    let mut words = words.split(|byte| *byte == b' ');
    let (subject, size) = (words.next().unwrap_or_default(), words.next_back().and_then(number_of));
    let size = size.ok_or_else(|| refused(line))? as usize;
    let Some(payload) = bytes.get(end + 1..end + 1 + size + 2) else { return Ok(0) };
    if find(payload, b"\"error\"").is_some() {
        return Err(refused(payload));
    }
    let number = subject.rsplit(|byte| *byte == b'.').next().and_then(number_of);
    each(Some(number.ok_or_else(|| refused(line))?))?;
    Ok(end + 1 + size + 2)
}

/// An entry's id.
fn redis_answer(bytes: &[u8], each: &mut dyn FnMut(Option<u64>) -> io::Result<()>) -> io::Result<usize> {
    let Some(end) = memchr(b'\n', bytes) else { return Ok(0) };
    let Some(size) = bytes[..end].strip_prefix(b"$").and_then(number_of) else { return Err(refused(bytes)) };
    let whole = end + 1 + size as usize + 2;
    if bytes.len() < whole {
        return Ok(0);
    }
    each(None)?;
    Ok(whole)
}

/// A connection on which publications may follow.
fn greet(tongue: Tongue, port: u16, me: usize) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    match tongue {
        Tongue::Gannet => {
            stream.write_all(upgrade_request(centrifugal::PATH).as_bytes())?;
            let head = read_until(&mut stream, b"\r\n\r\n")?;
            check_upgrade(&head[..head.len() - 4])?;
            let mut frame = Vec::new();
            client_frame(&mut frame, centrifugal::connect(None).as_bytes());
            stream.write_all(&frame)?;
            let mut length = [0; 2];
            stream.read_exact(&mut length)?;
            let mut reply = vec![0; usize::from(length[1])];
            match length[1] {
                126.. => return Err(io::Error::other("a long answer to connect")),
                _ => stream.read_exact(&mut reply)?,
            }
            if find(&reply, b"\"error\"").is_some() {
                return Err(refused(&reply));
            }
        }
        Tongue::JetStream => {
            let hello = r#"CONNECT {"verbose":false,"pedantic":false,"name":"bench","lang":"rust","version":"1"}"#;
            stream.write_all(format!("{hello}\r\nSUB _INBOX.b{me}.* 1\r\nPING\r\n").as_bytes())?;
            read_until(&mut stream, b"PONG\r\n")?;
        }
        Tongue::Redis => {
            stream.write_all(b"PING\r\n")?;
            read_until(&mut stream, b"+PONG\r\n")?;
        }
    }
    Ok(stream)
}

/// Byte by byte, so that nothing behind it is taken.
pub fn read_until(stream: &mut TcpStream, end: &[u8]) -> io::Result<Vec<u8>> {
    let mut read = Vec::new();
    while !read.ends_with(end) {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        read.push(byte[0]);
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(tongue: Tongue, bytes: &[u8]) -> io::Result<(usize, Vec<Option<u64>>, Vec<u8>)> {
        let (mut out, mut numbers) = (Vec::new(), Vec::new());
        let taken = tongue.answers(bytes, &mut out, &mut |number| {
            numbers.push(number);
            Ok(())
        })?;
        Ok((taken, numbers, out))
    }

    #[test]
    fn answers_are_told_apart_wherever_they_are_cut() -> io::Result<()> {
        let frame = |text: &str| [&[0x81, text.len() as u8], text.as_bytes()].concat();
        let gannet =
            [frame("{\"id\":3,\"publish\":{}}\n{\"id\":2,\"publish\":{}}"), frame("{\"id\":4,\"publish\":{}}")];
        let jetstream = b"MSG _INBOX.b1.7 1 5\r\n{\"s\"}\r\nMSG _INBOX.b1.8 1 2\r\n{}\r\n".to_vec();
        let cases = [
            (Tongue::Gannet, gannet.concat(), vec![Some(1), Some(0), Some(2)]),
            (Tongue::JetStream, jetstream, vec![Some(7), Some(8)]),
            (Tongue::Redis, b"$3\r\n1-1\r\n$4\r\n12-0\r\n".to_vec(), vec![None, None]),
        ];
        for (tongue, bytes, numbers) in cases {
            for cut in 0..=bytes.len() {
                let (taken, mut found, _) = answered(tongue, &bytes[..cut])?;
                found.extend(answered(tongue, &bytes[taken..])?.1);
                assert_eq!(found, numbers, "{tongue:?} cut at {cut}");
            }
        }
        Ok(())
    }

    #[test]
    fn who_is_asked_answers_and_a_refusal_ends_the_run() -> io::Result<()> {
        assert_eq!(answered(Tongue::JetStream, b"PING\r\n")?.2, b"PONG\r\n");
        assert_eq!(answered(Tongue::Gannet, b"\x81\x02{}")?.2.len(), 8, "a masked pong");
        let refusals: [(Tongue, &[u8]); 4] = [
            (Tongue::Gannet, b"\x81\x1a{\"id\":2,\"error\":{\"code\":1}"),
            (Tongue::Gannet, b"\x88\x02\x03\xe8"),
            (Tongue::JetStream, b"MSG _INBOX.b0.0 1 12\r\n{\"error\":{}}\r\n"),
            (Tongue::Redis, b"-ERR no\r\n"),
        ];
        for (tongue, bytes) in refusals {
            assert!(answered(tongue, bytes).is_err(), "{tongue:?}");
        }
        Ok(())
    }

    #[test]
    fn publications_are_what_their_servers_read() {
        let said = |tongue: Tongue| {
            let mut out = Vec::new();
            tongue.publish(&mut out, 3, 5, "b:1", b"abc");
            String::from_utf8_lossy(&out).into_owned()
        };
        assert_eq!(said(Tongue::Gannet), "{\"id\":7,\"publish\":{\"channel\":\"b:1\",\"data\":\"abc\"}}\n");
        assert_eq!(said(Tongue::JetStream), "PUB b:1 _INBOX.b3.5 5\r\n\"abc\"\r\n");
        assert_eq!(said(Tongue::Redis), "*5\r\n$4\r\nXADD\r\n$3\r\nb:1\r\n$1\r\n*\r\n$1\r\nd\r\n$5\r\n\"abc\"\r\n");
        let texts = Texts::new(128);
        assert!((0..100_000).all(|number| texts.piece(number).len() == 126));
    }
}
