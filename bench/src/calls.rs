//! The server API by HTTP: keep-alive connections, one request in flight on each.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::figures::{Bound, Load, histogram};

/// The key every request shows.
pub const KEY: &str = "secret";

/// What must be done between the answers: readers of what the calls publish, say.
pub type Beside<'a> = &'a mut dyn FnMut() -> io::Result<()>;

/// A whole request for `POST /api/METHOD`.
pub fn request(out: &mut Vec<u8>, method: &str, body: &str) {
    let size = body.len();
    out.extend_from_slice(
        format!(
            "POST /api/{method} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: {KEY}\r\n\
             Content-Type: application/json\r\nContent-Length: {size}\r\n\r\n{body}"
        )
        .as_bytes(),
    );
}

/// A request to publish a JSON string that takes `size` bytes with its quotes.
pub fn publish(out: &mut Vec<u8>, channel: &str, size: usize) {
    let text = "x".repeat(size.saturating_sub(2));
    request(out, "publish", &format!(r#"{{"channel":"{channel}","data":"{text}"}}"#));
}

struct Line {
    stream: TcpStream,
    answer: Vec<u8>,
    sent_at: Instant,
}

impl Line {
    /// Requests are far smaller than a socket's buffer, which is empty when one is sent.
    fn send(&mut self, request: &[u8]) -> io::Result<()> {
        self.sent_at = Instant::now();
        match self.stream.write(request)? {
            size if size == request.len() => Ok(()),
            size => Err(io::Error::other(format!("the socket took {size} of {} bytes", request.len()))),
        }
    }

    fn read_all(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => return Err(io::Error::new(ErrorKind::UnexpectedEof, "the server closed the connection")),
                Ok(size) => {
                    self.answer.extend_from_slice(&buffer[..size]);
                    if size < buffer.len() {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Open connections that wait for a run.
pub struct Calls {
    poll: Poll,
    events: Events,
    lines: Vec<Line>,
    buffer: Vec<u8>,
}

impl Calls {
    /// Opens `connections` to the server at `port`.
    pub fn open(port: u16, connections: usize) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut lines = Vec::new();
        for index in 0..connections {
            let stream = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let mut stream = TcpStream::from_std(stream);
            poll.registry().register(&mut stream, Token(index), Interest::READABLE)?;
            lines.push(Line { stream, answer: Vec::new(), sent_at: Instant::now() });
        }
        Ok(Self { poll, events: Events::with_capacity(connections.max(1)), lines, buffer: vec![0; 64 * 1024] })
    }

    /// Calls until the bound is met and waits for the last answer. `fill` writes the request with a number, `answered`
    /// sees the body of each answer; `beside` is done as often as possible, without it the loop sleeps. A unit is a
    /// call.
    pub fn run(
        &mut self,
        bound: Bound,
        mut fill: impl FnMut(u64, &mut Vec<u8>),
        mut answered: impl FnMut(&[u8]) -> io::Result<()>,
        mut beside: Option<Beside<'_>>,
    ) -> io::Result<Load> {
        let began = Instant::now();
        let mut load = Load { units: 0, bytes: 0, wall: Duration::ZERO, latency: histogram()? };
        let (mut sent, mut request) = (0, Vec::new());
        let mut next = |sent: &mut u64, line: &mut Line| {
            request.clear();
            fill(*sent, &mut request);
            *sent += 1;
            line.send(&request)
        };
        for line in &mut self.lines {
            if sent < bound.units {
                next(&mut sent, line)?;
            }
        }
        let wait = if beside.is_some() { Duration::ZERO } else { Duration::from_millis(100) };
        while load.units < sent {
            if began.elapsed() > bound.time + Duration::from_secs(30) {
                return Err(io::Error::other(format!("{} of {sent} calls were answered in time", load.units)));
            }
            self.poll.poll(&mut self.events, Some(wait))?;
            for event in &self.events {
                let line = &mut self.lines[event.token().0];
                line.read_all(&mut self.buffer)?;
                let Some(body) = body_of(&line.answer)? else { continue };
                load.units += 1;
                load.bytes += line.answer.len() as u64;
                load.latency.saturating_record(line.sent_at.elapsed().as_nanos() as u64);
                answered(&line.answer[body..])?;
                line.answer.clear();
                if sent < bound.units && began.elapsed() < bound.time {
                    next(&mut sent, line)?;
                }
            }
            if let Some(beside) = &mut beside {
                beside()?;
            }
        }
        load.wall = began.elapsed();
        Ok(load)
    }
}

/// Where the body of a whole answer begins, none if there is more to come. Anything but a result is an error.
fn body_of(answer: &[u8]) -> io::Result<Option<usize>> {
    let Some(end) = memchr::memmem::find(answer, b"\r\n\r\n") else { return Ok(None) };
    let (head, body) = (answer[..end].to_ascii_lowercase(), end + 4);
    let refused = || io::Error::other(format!("the API answered {}", String::from_utf8_lossy(answer)));
    let name = b"content-length: ";
    let digits = memchr::memmem::find(&head, name).map(|at| &head[at + name.len()..]).ok_or_else(refused)?;
    let digits = digits.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let size: usize = std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok()).ok_or_else(refused)?;
    if answer.len() < body + size {
        return Ok(None);
    }
    let good = head.starts_with(b"http/1.1 200") && answer[body..].starts_with(b"{\"result\":");
    if good && answer.len() == body + size { Ok(Some(body)) } else { Err(refused()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_or_waited_for_or_an_error() {
        let good = b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{\"result\":{}}";
        for cut in 0..good.len() {
            assert_eq!(body_of(&good[..cut]).ok(), Some(None), "cut at {cut}");
        }
        assert_eq!(body_of(good).ok(), Some(Some(good.len() - 13)));
        let bad: [&[u8]; 4] = [
            b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n{\"error\":{}}",
            b"HTTP/1.1 200 OK\r\n\r\n{\"result\":{}}",
            b"HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\n{\"result\":{}}H",
        ];
        for bad in bad {
            assert!(body_of(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }
}
