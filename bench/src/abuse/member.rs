//! One well-behaved client: it connects, subscribes, answers pings, and recovers what it missed, as an SDK does.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use serde_json::{Value, json};

use super::SECRET;
use super::speech::{message, pong, subscribe, upgrade};
use crate::centrifugal;
use crate::fleet::{check_upgrade, dial};
use crate::million::frames::{self, Frame};
use crate::million::now_ns;

/// The id of the command that subscribes again.
const AGAIN: u64 = 9;

/// How long it waits, in nanoseconds, to subscribe again after it was refused with a temporary error.
const BACKOFF: u64 = 500_000_000;

/// What a client noticed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A publication in one of its channels, which are counted from 0; live or recovered.
    Publication {
        channel: usize,
        number: usize,
        live: bool,
    },
    /// The reply to a command, with the code of an error.
    Reply {
        id: u64,
        error: Option<u32>,
    },
    Ping,
    /// The server gave up its position.
    Gap,
    /// It has all it missed.
    Recovered,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Connecting,
    Upgrading,
    /// Replies that are still to come.
    Joining(usize),
    Open,
    Closed,
}

pub struct Member {
    stream: TcpStream,
    state: State,
    user: String,
    channels: Vec<String>,
    part: Vec<u8>,
    unsent: Vec<u8>,
    offset: u64,
    epoch: String,
    /// It is to subscribe again then.
    again_at: Option<u64>,
}

impl Member {
    pub fn connect(to: SocketAddr, number: usize, channels: Vec<String>, registry: &Registry) -> io::Result<Self> {
        let mut stream = dial(to, number as u32)?;
        registry.register(&mut stream, Token(number), Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self {
            stream,
            state: State::Connecting,
            user: format!("member-{number}"),
            channels,
            part: Vec::new(),
            unsent: Vec::new(),
            offset: 0,
            epoch: String::new(),
            again_at: None,
        })
    }

    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }

    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    pub fn close(&mut self) {
        self.state = State::Closed;
    }

    /// Sends one message of commands.
    pub fn say(&mut self, commands: &str) -> io::Result<()> {
        self.send(&message(commands))
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.unsent.extend_from_slice(bytes);
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(size) => drop(self.unsent.drain(..size)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Does what its socket allows; an error is the end of its connection.
    pub fn ready(&mut self, event: &Event, buffer: &mut [u8], heard: &mut Vec<Heard>) -> io::Result<()> {
        if event.is_writable() {
            if self.state == State::Connecting {
                if let Some(error) = self.stream.take_error()? {
                    return Err(error);
                }
                self.state = State::Upgrading;
                self.send(&upgrade(centrifugal::PATH, &[]))?;
            }
            self.flush()?;
        }
        if !event.is_readable() {
            return Ok(());
        }
        loop {
            let size = match self.stream.read(buffer) {
                Ok(0) => return Err(io::Error::new(ErrorKind::UnexpectedEof, "closed without a word")),
                Ok(size) => size,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            let mut bytes = std::mem::take(&mut self.part);
            match bytes.is_empty() {
                true => self.take(&buffer[..size], heard)?,
                false => {
                    bytes.extend_from_slice(&buffer[..size]);
                    self.take(&bytes, heard)?;
                }
            }
            if size < buffer.len() && !event.is_read_closed() {
                return Ok(());
            }
        }
    }

    fn take(&mut self, mut bytes: &[u8], heard: &mut Vec<Heard>) -> io::Result<()> {
        if self.state == State::Upgrading {
            let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else {
                self.part = bytes.to_vec();
                return Ok(());
            };
            check_upgrade(&bytes[..end])?;
            bytes = &bytes[end + 4..];
            self.join()?;
        }
        while let Some((frame, rest)) = frames::next(bytes)? {
            bytes = rest;
            match frame {
                Frame::Text(text) => {
                    for line in text.split(|byte| *byte == b'\n') {
                        self.take_line(line, heard)?;
                    }
                }
                Frame::Close(code) => return Err(io::Error::other(format!("closed with {code}"))),
                Frame::Other => {}
            }
        }
        self.part = bytes.to_vec();
        Ok(())
    }

    fn join(&mut self) -> io::Result<()> {
        let mut commands = centrifugal::connect(Some(&centrifugal::token(SECRET, &self.user)?));
        for (channel, id) in self.channels.iter().zip(2..) {
            commands.push('\n');
            commands.push_str(&subscribe(id, channel));
        }
        self.state = State::Joining(1 + self.channels.len());
        self.say(&commands)
    }

    fn take_line(&mut self, line: &[u8], heard: &mut Vec<Heard>) -> io::Result<()> {
        if line == centrifugal::PING.as_bytes() {
            heard.push(Heard::Ping);
            return self.send(&pong());
        }
        if let Some(push) = line.strip_prefix(br#"{"push":{"channel":""#) {
            return self.take_push(push, heard);
        }
        match number_after(line, br#"{"id":"#) {
            Some(id) => self.take_reply(id, line, heard),
            None => Err(io::Error::other(format!("was told {}", String::from_utf8_lossy(line)))),
        }
    }

    /// What follows the quote before the channel's name.
    fn take_push(&mut self, push: &[u8], heard: &mut Vec<Heard>) -> io::Result<()> {
        let name = push.split(|byte| *byte == b'"').next().unwrap_or_default();
        if let Some(number) = number_after(push, br#""n":"#) {
            self.offset = number_after(push, br#""offset":"#).unwrap_or(self.offset);
            let Some(channel) = self.channels.iter().position(|channel| channel.as_bytes() == name) else {
                return Err(io::Error::other(format!("got what is of {}", String::from_utf8_lossy(name))));
            };
            heard.push(Heard::Publication { channel, number: number as usize, live: true });
            return Ok(());
        }
        if memchr::memmem::find(push, br#""unsubscribe":{"#).is_none() {
            return Ok(());
        }
        heard.push(Heard::Gap);
        self.subscribe_again()
    }

    fn subscribe_again(&mut self) -> io::Result<()> {
        self.again_at = None;
        let command = json!({"id": AGAIN, "subscribe": {
            "channel": self.channels.first(), "recover": true, "offset": self.offset, "epoch": self.epoch,
        }});
        self.say(&command.to_string())
    }

    /// Subscribes again if that was refused and its time has come.
    pub fn try_again(&mut self, now: u64) -> io::Result<()> {
        match self.again_at {
            Some(due) if due <= now && !self.is_closed() => self.subscribe_again(),
            _ => Ok(()),
        }
    }

    fn take_reply(&mut self, id: u64, line: &[u8], heard: &mut Vec<Heard>) -> io::Result<()> {
        let error = number_after(line, br#""error":{"code":"#).map(|code| code as u32);
        if let State::Joining(left) = self.state {
            if let Some(code) = error {
                return Err(io::Error::other(format!("was refused with {code}")));
            }
            self.state = if left == 1 { State::Open } else { State::Joining(left - 1) };
        }
        match (id, error) {
            (2..=AGAIN, None) => self.take_position(line, heard)?,
            (AGAIN, Some(_)) => self.again_at = Some(now_ns() + BACKOFF),
            _ => {}
        }
        heard.push(Heard::Reply { id, error });
        Ok(())
    }

    /// The reply to a subscribe command: where the stream stands, and what was missed.
    fn take_position(&mut self, line: &[u8], heard: &mut Vec<Heard>) -> io::Result<()> {
        let reply: Value = serde_json::from_slice(line)?;
        let result = &reply["subscribe"];
        let Some(epoch) = result["epoch"].as_str() else { return Ok(()) };
        epoch.clone_into(&mut self.epoch);
        self.offset = result["offset"].as_u64().unwrap_or(0);
        for publication in result["publications"].as_array().into_iter().flatten() {
            let number = publication["data"]["n"].as_u64().unwrap_or(u64::MAX) as usize;
            self.offset = publication["offset"].as_u64().unwrap_or(self.offset);
            heard.push(Heard::Publication { channel: 0, number, live: false });
        }
        if result["recovered"] == true {
            heard.push(Heard::Recovered);
        }
        Ok(())
    }
}

/// The number behind a key, wherever it stands.
fn number_after(line: &[u8], key: &[u8]) -> Option<u64> {
    let at = memchr::memmem::find(line, key)? + key.len();
    let digits = line[at..].iter().take_while(|byte| byte.is_ascii_digit());
    let digits: Vec<u8> = digits.copied().collect();
    std::str::from_utf8(&digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// A member and the other end of its connection, which reads nothing.
    fn member() -> io::Result<(Member, TcpListener)> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let stream = std::net::TcpStream::connect(listener.local_addr()?)?;
        let member = Member {
            stream: TcpStream::from_std(stream),
            state: State::Joining(2),
            user: String::new(),
            channels: vec!["kept:control".to_owned()],
            part: Vec::new(),
            unsent: Vec::new(),
            offset: 0,
            epoch: String::new(),
            again_at: None,
        };
        Ok((member, listener))
    }

    fn lines(member: &mut Member, lines: &[&str]) -> io::Result<Vec<Heard>> {
        let mut heard = Vec::new();
        let text = lines.join("\n");
        let mut frame = vec![0x81, 126];
        frame.extend((text.len() as u16).to_be_bytes());
        frame.extend(text.as_bytes());
        member.take(&frame, &mut heard)?;
        Ok(heard)
    }

    #[test]
    fn replies_publications_and_pings_are_told_apart() -> io::Result<()> {
        let (mut member, _peer) = member()?;
        let joined = [
            r#"{"id":1,"connect":{"client":"a","ping":3,"pong":true}}"#,
            r#"{"id":2,"subscribe":{"recoverable":true,"epoch":"e","offset":4}}"#,
        ];
        assert_eq!(lines(&mut member, &joined)?.len(), 2);
        assert!(member.is_open());
        let heard = lines(
            &mut member,
            &[
                r#"{"push":{"channel":"kept:control","pub":{"data":{"n":17},"info":{"user":"x"},"offset":5}}}"#,
                "{}",
                r#"{"id":30,"error":{"code":111,"message":"too many requests","temporary":true}}"#,
            ],
        )?;
        assert_eq!(heard[0], Heard::Publication { channel: 0, number: 17, live: true });
        assert_eq!(heard[1..], [Heard::Ping, Heard::Reply { id: 30, error: Some(111) }]);
        assert_eq!((member.offset, member.epoch.as_str()), (5, "e"));
        Ok(())
    }

    #[test]
    fn a_gap_is_recovered() -> io::Result<()> {
        let (mut member, _peer) = member()?;
        lines(&mut member, &[r#"{"id":2,"subscribe":{"epoch":"e","offset":4}}"#])?;
        let gap = r#"{"push":{"channel":"kept:control","unsubscribe":{"code":2500,"reason":"insufficient state"}}}"#;
        assert_eq!(lines(&mut member, &[gap])?, [Heard::Gap]);
        let missed =
            r#"{"id":9,"subscribe":{"epoch":"e","publications":[{"data":{"n":8},"offset":5}],"recovered":true}}"#;
        let heard = lines(&mut member, &[missed])?;
        assert_eq!(heard[0], Heard::Publication { channel: 0, number: 8, live: false });
        assert_eq!(heard[1..], [Heard::Recovered, Heard::Reply { id: 9, error: None }]);
        assert_eq!(member.offset, 5);
        Ok(())
    }

    #[test]
    fn it_subscribes_again_when_that_was_refused() -> io::Result<()> {
        let (mut member, mut peer) = {
            let (member, listener) = member()?;
            (member, listener.accept()?.0)
        };
        member.state = State::Open;
        let refused = r#"{"id":9,"error":{"code":111,"message":"too many requests","temporary":true}}"#;
        assert_eq!(lines(&mut member, &[refused])?, [Heard::Reply { id: 9, error: Some(111) }]);
        member.try_again(now_ns())?;
        member.try_again(u64::MAX)?;
        member.try_again(u64::MAX)?;
        drop(member);
        let mut said = Vec::new();
        peer.read_to_end(&mut said)?;
        let wanted = r#"{"id":9,"subscribe":{"channel":"kept:control","epoch":"","offset":0,"recover":true}}"#;
        assert_eq!(said, message(wanted), "once");
        Ok(())
    }

    #[test]
    fn a_close_and_a_refusal_end_it() -> io::Result<()> {
        let (mut member, _peer) = member()?;
        let refused = lines(&mut member, &[r#"{"id":2,"error":{"code":103,"message":"permission denied"}}"#]);
        assert!(refused.is_err_and(|error| error.to_string().contains("103")));
        let closed = member.take(&[0x88, 2, 0x0b, 0xc4], &mut Vec::new());
        assert!(closed.is_err_and(|error| error.to_string().contains("3012")));
        Ok(())
    }
}
