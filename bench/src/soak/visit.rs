//! One connection of a user: from the first packet to the last, as a client of the Centrifugal protocol in JSON.
//!
//! A user of one kind keeps positions and recovers by them, and leaves at any moment. One of the other kind keeps
//! nothing, is sent by the inbox what was missed, and proves what arrived before it leaves.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};

use memchr::memmem::find;
use mio::net::TcpStream;
use serde_json::{Value, json};

use super::ledger::{Ledger, Seen};
use crate::centrifugal;
use crate::fleet::{check_upgrade, dial, upgrade_request};
use crate::wire::client_frame;

/// The ids of commands: connect has 1, subscriptions follow.
const SUBSCRIBE: u64 = 2;
const ACK: u64 = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Upgrading,
    /// Replies to subscribe that are still to come.
    Joining(usize),
    Open,
    /// Asked to prove what arrived; whether more came since.
    Proving(bool),
    Gone,
}

/// A user: two channels, and where it is in both.
#[derive(Debug)]
pub struct User {
    pub number: usize,
    pub channels: [String; 2],
    pub seen: [Seen; 2],
    pub keeps: bool,
}

impl User {
    /// The command, with the position or without.
    fn subscribe(&self, place: usize, with_position: bool) -> String {
        let (channel, seen) = (&self.channels[place], &self.seen[place]);
        let subscribe = match with_position && seen.is_known {
            true => json!({"channel": channel, "recover": true, "offset": seen.offset, "epoch": seen.epoch}),
            false => json!({ "channel": channel }),
        };
        json!({"id": SUBSCRIBE + place as u64, "subscribe": subscribe}).to_string()
    }
}

pub struct Visit {
    pub stream: TcpStream,
    phase: Phase,
    opening: String,
    unread: Vec<u8>,
    unsent: Vec<u8>,
}

/// What a visit brought.
#[derive(Default)]
pub struct Brought {
    pub live: u64,
    pub missed: u64,
}

impl Visit {
    /// Begins; `source`: a number of which the address is made.
    pub fn begin(port: u16, source: u32, user: &User, token: &str) -> io::Result<Self> {
        let mut opening = centrifugal::connect(Some(token));
        for place in 0..user.channels.len() {
            opening.push('\n');
            opening.push_str(&user.subscribe(place, user.keeps));
        }
        let stream = dial(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), source)?;
        let unsent = upgrade_request(centrifugal::PATH).into_bytes();
        Ok(Self { stream, phase: Phase::Upgrading, opening, unread: Vec::new(), unsent })
    }

    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    pub fn is_gone(&self) -> bool {
        self.phase == Phase::Gone
    }

    /// The user wants to go. It is gone at once, or after a proof.
    pub fn leave(&mut self, user: &User) -> io::Result<()> {
        if user.keeps {
            self.phase = Phase::Gone;
            return Ok(());
        }
        self.prove();
        self.write()
    }

    fn prove(&mut self) {
        self.phase = Phase::Proving(false);
        let ack = json!({"id": ACK, "rpc": {"method": "inbox.ack", "data": {}}});
        client_frame(&mut self.unsent, ack.to_string().as_bytes());
    }

    fn write(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(size) => drop(self.unsent.drain(..size)),
                Err(error) if [ErrorKind::WouldBlock, ErrorKind::NotConnected].contains(&error.kind()) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Goes on with what the socket has.
    pub fn turn(&mut self, user: &mut User, ledger: &mut Ledger, buffer: &mut [u8]) -> io::Result<Brought> {
        let mut brought = Brought::default();
        if let Some(error) = self.stream.take_error()? {
            return Err(error);
        }
        self.write()?;
        loop {
            match self.stream.read(buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(size) => self.unread.extend_from_slice(&buffer[..size]),
                Err(error) if [ErrorKind::WouldBlock, ErrorKind::NotConnected].contains(&error.kind()) => break,
                Err(error) => return Err(error),
            }
        }
        if self.phase == Phase::Upgrading {
            let Some(end) = find(&self.unread, b"\r\n\r\n") else { return Ok(brought) };
            check_upgrade(&self.unread[..end])?;
            self.unread.drain(..end + 4);
            self.phase = Phase::Joining(user.channels.len());
            client_frame(&mut self.unsent, self.opening.as_bytes());
        }
        while let Some(payload) = self.frame()? {
            for line in payload.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                let message = serde_json::from_slice(line)?;
                self.take(&message, user, ledger, &mut brought)?;
                if self.is_gone() {
                    return Ok(brought);
                }
            }
        }
        self.write()?;
        Ok(brought)
    }

    /// The payload of the next whole frame.
    fn frame(&mut self) -> io::Result<Option<Vec<u8>>> {
        let (head, size) = match self.unread[..] {
            [_, 126, high, low, ..] => (4, usize::from(u16::from_be_bytes([high, low]))),
            [_, 127, ref rest @ ..] if rest.len() >= 8 => {
                (10, rest.iter().take(8).fold(0, |size, byte| size << 8 | usize::from(*byte)))
            }
            [_, size @ 0..=125, ..] => (2, usize::from(size)),
            _ => return Ok(None),
        };
        if self.unread.len() < head + size {
            return Ok(None);
        }
        if self.unread[0] & 0x0f == 8 {
            let why = String::from_utf8_lossy(&self.unread[head..head + size]).into_owned();
            return Err(io::Error::other(format!("closed by the server: {why}")));
        }
        let payload = self.unread[head..head + size].to_vec();
        self.unread.drain(..head + size);
        Ok(Some(payload))
    }

    fn take(&mut self, message: &Value, user: &mut User, ledger: &mut Ledger, got: &mut Brought) -> io::Result<()> {
        let push = &message["push"];
        let place = user.channels.iter().position(|channel| push["channel"] == channel.as_str());
        match (message["id"].as_u64(), place) {
            _ if message["error"].is_object() => return Err(io::Error::other(message.to_string())),
            // More was missed than comes at once: as the SDKs do, it goes on from there.
            (_, Some(place)) if push["unsubscribe"]["code"] == 2500 => {
                client_frame(&mut self.unsent, user.subscribe(place, true).as_bytes());
            }
            (_, Some(place)) if push["pub"].is_object() => {
                got.live += 1;
                arrived(user, place, &push["pub"], ledger)?;
                self.has_more();
            }
            (None, None) if message.as_object().is_some_and(serde_json::Map::is_empty) => {
                client_frame(&mut self.unsent, centrifugal::PING.as_bytes());
            }
            (Some(ACK), _) => match self.phase {
                // What came in between is not proven.
                Phase::Proving(true) => self.prove(),
                _ => self.phase = Phase::Gone,
            },
            (Some(id @ SUBSCRIBE..ACK), _) => {
                self.joined(user, (id - SUBSCRIBE) as usize, &message["subscribe"], ledger, got)?;
            }
            (Some(_), None) => {}
            _ => return Err(io::Error::other(format!("not understood: {message}"))),
        }
        Ok(())
    }

    /// What came after the proof was asked for may not be proven by it.
    fn has_more(&mut self) {
        if self.phase == Phase::Proving(false) {
            self.phase = Phase::Proving(true);
        }
    }

    fn joined(
        &mut self,
        user: &mut User,
        place: usize,
        reply: &Value,
        ledger: &mut Ledger,
        got: &mut Brought,
    ) -> io::Result<()> {
        let malformed = || io::Error::other(format!("not understood: {reply}"));
        let epoch = reply["epoch"].as_str().ok_or_else(malformed)?.to_owned();
        let (number, channel) = (user.number, user.channels[place].clone());
        let seen = &mut user.seen[place];
        if !seen.is_known {
            // One who is new gets nothing of the past.
            let offset = reply["offset"].as_u64().unwrap_or(0);
            *seen = Seen { offset, epoch, is_known: true };
        } else if seen.epoch != epoch || reply["recovered"] != true {
            ledger.fault(format!("user {number}, {channel}: not recovered from {}: {reply:.300}", seen.offset));
        }
        for publication in reply["publications"].as_array().into_iter().flatten() {
            got.missed += 1;
            arrived(user, place, publication, ledger)?;
            self.has_more();
        }
        if let Phase::Joining(left) = self.phase {
            self.phase = if left > 1 { Phase::Joining(left - 1) } else { Phase::Open };
        }
        Ok(())
    }
}

fn arrived(user: &mut User, place: usize, publication: &Value, ledger: &mut Ledger) -> io::Result<()> {
    let numbers = (publication["offset"].as_u64(), publication["data"]["n"].as_u64());
    let (Some(offset), Some(number)) = numbers else {
        return Err(io::Error::other(format!("not understood: {publication}")));
    };
    let (me, channel) = (user.number, user.channels[place].clone());
    ledger.arrived(me, &channel, &mut user.seen[place], offset, number);
    Ok(())
}
