//! F1 · One connection's TLS as a socket sees it: ciphered bytes in and out by two calls, what is said between them.
//!
//! Owns what must be kept between calls: a record that was cut by a read, and sealed bytes that the socket did not
//! take. Both layers, that of `records` and a connection of rustls, are used in the same way.
//!
//! **Writes.** Tickets, and what else nobody waits for, leave with the first word that is said. Once a record is sealed
//! it must leave whole, for its number is used up. What the socket did not take of it is kept here and goes first the
//! next time. The caller must come again then, and it comes only if it has something to say: so the last byte of what
//! was sealed is reported as not taken (`withheld`), and is passed over when the caller brings it again.

use super::keys::HotKeys;
use super::records::{Alert, HEAD, Opened, PLAIN_MAX, Records, body_len};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use std::io::{self, ErrorKind, IoSlice};

/// Bytes that are sealed before the socket is asked to take them, in one record: what a peer that reads nothing has
/// here, besides its outbox.
const SEALED_MAX: usize = PLAIN_MAX;
/// What rustls needs beyond what is said: two records' heads, nonces and tags, and a key update.
const RUSTLS_EXTRA: usize = 512;

/// What a thread has for all of its connections.
pub struct Kit {
    pub keys: HotKeys,
    plain: Vec<u8>,
    sealed: Vec<u8>,
}

impl Kit {
    /// With room for so many expanded keys.
    pub fn new(keys: usize) -> Kit {
        Kit { keys: HotKeys::new(keys), plain: Vec::new(), sealed: Vec::new() }
    }
}

/// What turns what is said into records, and back.
pub enum Layer {
    Compact(Box<Records>),
    Rustls(Box<UnbufferedServerConnection>),
}

/// What came of records: bytes that they say, bytes that they were, and what is wrong with the one behind them.
#[derive(Default)]
struct Progress {
    said: usize,
    used: usize,
    failed: Option<Alert>,
}

/// Bytes kept between calls; none mostly.
#[derive(Default)]
struct Kept {
    /// From the peer: records that were not opened, the last of them cut.
    input: Vec<u8>,
    /// For the peer: sealed, and not taken by the socket.
    output: Vec<u8>,
}

/// A connection's TLS.
pub struct Tunnel {
    layer: Layer,
    kept: Option<Box<Kept>>,
    /// The socket may have more, or there is more here.
    more: bool,
    /// The peer said that it says no more.
    closed: bool,
    /// It said so by giving up: it is told nothing more (RFC 8446 section 6.2), and its stream has no end.
    given_up: bool,
    /// We did.
    ended: bool,
    /// The last byte that was reported as not taken is sealed already.
    withheld: bool,
    /// It cannot go on; what the peer is to hear of that.
    failed: Option<Alert>,
}

impl Tunnel {
    /// `input`: what came behind the handshake.
    pub fn new(layer: Layer, input: Vec<u8>) -> Tunnel {
        let kept = (!input.is_empty()).then(|| Box::new(Kept { input, output: Vec::new() }));
        let (closed, given_up, ended, withheld) = (false, false, false, false);
        Tunnel { layer, kept, more: true, closed, given_up, ended, withheld, failed: None }
    }

    /// With what is sealed already and may wait: it leaves with the first word.
    pub fn saying_first(mut self, sealed: Vec<u8>) -> Tunnel {
        if !sealed.is_empty() {
            self.kept.get_or_insert_default().output = sealed;
        }
        self
    }

    pub fn layer(&self) -> &Layer {
        &self.layer
    }

    /// Is there more to be read, as far as is known?
    pub fn has_more(&self) -> bool {
        self.more
    }

    /// Is its stream at an end without a word from the peer that it is?
    pub fn is_cut(&self) -> bool {
        !self.closed || self.given_up
    }

    /// Bytes that the socket is still to take.
    pub fn unsent(&self) -> usize {
        self.kept.as_ref().map_or(0, |kept| kept.output.len())
    }

    /// Bytes of a record that is not whole yet.
    pub fn held(&self) -> usize {
        self.kept.as_ref().map_or(0, |kept| kept.input.len())
    }

    // --- reading ---

    /// Reads once and gives what the peer said, at the front of `room`, which holds a record at least. 0 = it says no
    /// more. `Interrupted` = nothing yet, and there is more to be read.
    pub fn read(
        &mut self,
        kit: &mut Kit,
        room: &mut [u8],
        receive: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        if self.failed.is_some() {
            return Err(ErrorKind::InvalidData.into());
        }
        if self.closed {
            self.more = false;
            return Ok(0);
        }
        let held = self.take_input(room);
        let full = held == room.len();
        let (end, over) = match if full { Ok(0) } else { receive(&mut room[held..]) } {
            Ok(0) if !full => (held, true),
            Ok(count) => (held + count, false),
            Err(error) if error.kind() == ErrorKind::WouldBlock => (held, false),
            Err(error) => {
                self.keep_input(&room[..held]);
                self.more = error.kind() == ErrorKind::Interrupted;
                return Err(error);
            }
        };
        let Progress { said, used, failed } = self.open(kit, &mut room[..end]);
        if failed.is_some() {
            self.failed = failed;
            // What was said in front of it is heard, however the bytes came in; the next read fails.
            self.more = said > 0;
            return if said > 0 { Ok(said) } else { Err(ErrorKind::InvalidData.into()) };
        }
        // Behind its last word nothing counts.
        if !self.closed {
            self.keep_input(&room[used..end]);
        }
        self.more = end == room.len() || said > 0 && (over || self.closed);
        match said {
            0 if self.closed || over => Ok(0),
            0 if self.more => Err(ErrorKind::Interrupted.into()),
            0 => Err(ErrorKind::WouldBlock.into()),
            said => Ok(said),
        }
    }

    fn take_input(&mut self, room: &mut [u8]) -> usize {
        let Some(kept) = &mut self.kept else { return 0 };
        let count = kept.input.len().min(room.len());
        room[..count].copy_from_slice(&kept.input[..count]);
        kept.input.drain(..count);
        self.tidy();
        count
    }

    /// In front of what is kept already.
    fn keep_input(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            let input = &mut self.kept.get_or_insert_default().input;
            input.reserve_exact(bytes.len());
            input.splice(..0, bytes.iter().copied());
        }
    }

    fn tidy(&mut self) {
        if self.kept.as_ref().is_some_and(|kept| kept.input.is_empty() && kept.output.is_empty()) {
            self.kept = None;
        }
    }

    /// What whole records say comes to the front of `bytes`.
    fn open(&mut self, kit: &mut Kit, bytes: &mut [u8]) -> Progress {
        let records = match &mut self.layer {
            Layer::Compact(records) => records,
            Layer::Rustls(_) => return self.open_by_rustls(kit, bytes),
        };
        let mut progress = Progress::default();
        let Progress { said, used, failed } = &mut progress;
        loop {
            let end = match body_len(&bytes[*used..]) {
                Ok(Some(len)) => *used + HEAD + len,
                Ok(None) => break,
                Err(alert) => {
                    *failed = Some(alert);
                    break;
                }
            };
            let Some(record) = bytes.get_mut(*said..end) else { break };
            match records.open(&mut kit.keys, record, *used - *said) {
                Ok(Opened::Data(len)) => *said += len,
                Ok(Opened::Nothing) => {}
                Ok(end @ (Opened::Closed | Opened::GivenUp(_))) => {
                    (self.closed, self.given_up) = (true, end != Opened::Closed);
                    break;
                }
                Err(alert) => {
                    *failed = Some(alert);
                    break;
                }
            }
            *used = end;
        }
        progress
    }

    fn open_by_rustls(&mut self, kit: &mut Kit, bytes: &mut [u8]) -> Progress {
        let Layer::Rustls(connection) = &mut self.layer else { return Progress::default() };
        kit.plain.clear();
        kit.sealed.clear();
        let mut used = 0;
        let failed = loop {
            let UnbufferedStatus { mut discard, state } = connection.process_tls_records(&mut bytes[used..]);
            let mut waits = false;
            match state {
                Ok(ConnectionState::ReadTraffic(mut records)) => {
                    while let Some(Ok(record)) = records.next_record() {
                        discard += record.discard;
                        kit.plain.extend_from_slice(record.payload);
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut message)) => encode(&mut message, &mut kit.sealed),
                Ok(ConnectionState::TransmitTlsData(sent)) => sent.done(),
                Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => self.closed = true,
                Ok(_) => waits = true,
                Err(_) => {
                    used += discard;
                    break true;
                }
            }
            used += discard;
            if waits || self.closed {
                break false;
            }
        };
        // Its alert is waiting, and rustls is asked for nothing else: it counts on not being asked again.
        while failed && connection.wants_write() {
            let state = connection.process_tls_records(&mut bytes[used..]).state;
            let Ok(ConnectionState::EncodeTlsData(mut message)) = state else { break };
            encode(&mut message, &mut kit.sealed);
        }
        if !kit.sealed.is_empty() {
            self.kept.get_or_insert_default().output.extend_from_slice(&kit.sealed);
        }
        let said = kit.plain.len().min(bytes.len());
        bytes[..said].copy_from_slice(&kit.plain[..said]);
        Progress { said, used: used.max(said), failed: failed.then_some(Alert::InternalError) }
    }

    // --- writing ---

    /// Seals and sends what `pieces` say, in their order; how many bytes were taken. Less than all of them = no more
    /// until the socket takes something again.
    pub fn write(
        &mut self,
        kit: &mut Kit,
        pieces: &[IoSlice<'_>],
        mut send: impl FnMut(&[u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        if self.failed.is_some() || self.ended || self.given_up {
            return Err(ErrorKind::BrokenPipe.into());
        }
        if self.withheld && !self.send_kept(&mut send)? {
            return Err(ErrorKind::WouldBlock.into());
        }
        let mut taken = usize::from(std::mem::take(&mut self.withheld));
        loop {
            fill(pieces, taken, &mut kit.plain);
            if kit.plain.is_empty() {
                self.send_kept(&mut send)?;
                return Ok(taken);
            }
            kit.sealed.clear();
            // What the socket has not been offered yet leaves by the same call.
            self.take_output(&mut kit.sealed);
            if !self.seal(kit) {
                self.failed = Some(Alert::InternalError);
                return Err(ErrorKind::BrokenPipe.into());
            }
            taken += kit.plain.len();
            let sent = send_some(&kit.sealed, &mut send)?;
            if sent < kit.sealed.len() {
                self.kept.get_or_insert_default().output.extend_from_slice(&kit.sealed[sent..]);
                self.withheld = true;
                return Ok(taken - 1);
            }
        }
    }

    /// Says that we say no more, or why it cannot go on; once. What cannot leave at once is lost.
    pub fn end(&mut self, kit: &mut Kit, mut send: impl FnMut(&[u8]) -> io::Result<usize>) {
        if std::mem::replace(&mut self.ended, true) || self.given_up {
            return;
        }
        kit.sealed.clear();
        let alert = self.failed.unwrap_or(Alert::CloseNotify);
        match &mut self.layer {
            Layer::Compact(records) => drop(records.seal_alert(&mut kit.keys, alert, &mut kit.sealed)),
            // The alert for a failure is among what is kept.
            Layer::Rustls(_) if self.failed.is_some() => {}
            Layer::Rustls(connection) => {
                let say = |traffic: &mut Traffic<'_>, room: &mut [u8]| traffic.queue_close_notify(room).ok();
                let mut none = Vec::new();
                let input = self.kept.as_mut().map_or(&mut none, |kept| &mut kept.input);
                let _ = speak(connection, input, RUSTLS_EXTRA, &mut kit.sealed, say);
            }
        }
        if self.send_kept(&mut send).is_ok_and(|all| all) {
            let _ = send(&kit.sealed);
        }
    }

    /// Its keys are used no more.
    pub fn forget(&self, kit: &mut Kit) {
        if let Layer::Compact(records) = &self.layer {
            records.forget(&mut kit.keys);
        }
    }

    fn take_output(&mut self, into: &mut Vec<u8>) {
        if let Some(kept) = self.kept.as_mut().filter(|kept| !kept.output.is_empty()) {
            into.extend_from_slice(&std::mem::take(&mut kept.output));
            self.tidy();
        }
    }

    /// False: the socket did not take all of it.
    fn send_kept(&mut self, send: &mut impl FnMut(&[u8]) -> io::Result<usize>) -> io::Result<bool> {
        let Some(kept) = self.kept.as_mut().filter(|kept| !kept.output.is_empty()) else { return Ok(true) };
        let sent = send_some(&kept.output, send)?;
        kept.output.drain(..sent);
        let all = kept.output.is_empty();
        if all {
            kept.output = Vec::new();
            self.tidy();
        }
        Ok(all)
    }

    fn seal(&mut self, kit: &mut Kit) -> bool {
        match &mut self.layer {
            Layer::Compact(records) => records.seal(&mut kit.keys, &kit.plain, &mut kit.sealed),
            Layer::Rustls(connection) => {
                let Kit { plain, sealed, .. } = kit;
                let say = |traffic: &mut Traffic<'_>, room: &mut [u8]| traffic.encrypt(plain, room).ok();
                let mut none = Vec::new();
                let input = self.kept.as_mut().map_or(&mut none, |kept| &mut kept.input);
                speak(connection, input, plain.len() + RUSTLS_EXTRA, sealed, say).is_some()
            }
        }
    }
}

type Traffic<'c> = rustls::unbuffered::WriteTraffic<'c, rustls::server::ServerConnectionData>;

/// Appends what rustls has to say of its own, and then what `say` seals into room for `size` bytes. `input` is what it
/// was shown last and did not use up: it remembers what lies there.
fn speak(
    connection: &mut UnbufferedServerConnection,
    input: &mut Vec<u8>,
    size: usize,
    out: &mut Vec<u8>,
    say: impl FnOnce(&mut Traffic<'_>, &mut [u8]) -> Option<usize>,
) -> Option<()> {
    loop {
        let UnbufferedStatus { discard, state } = connection.process_tls_records(input);
        match state {
            Ok(ConnectionState::EncodeTlsData(mut message)) => encode(&mut message, out),
            Ok(ConnectionState::TransmitTlsData(sent)) => sent.done(),
            Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                let at = out.len();
                out.resize(at + size, 0);
                let sealed = say(&mut traffic, &mut out[at..]);
                out.truncate(at + sealed.unwrap_or(0));
                input.drain(..discard);
                return sealed.map(drop);
            }
            _ => return None,
        }
        input.drain(..discard);
    }
}

type Message<'c> = rustls::unbuffered::EncodeTlsData<'c, rustls::server::ServerConnectionData>;

fn encode(message: &mut Message<'_>, out: &mut Vec<u8>) {
    let at = out.len();
    let mut size = RUSTLS_EXTRA;
    loop {
        out.resize(at + size, 0);
        match message.encode(&mut out[at..]) {
            Ok(size) => return out.truncate(at + size),
            Err(rustls::unbuffered::EncodeError::InsufficientSize(needed)) if needed.required_size > size => {
                size = needed.required_size;
            }
            Err(_) => return out.truncate(at),
        }
    }
}

/// Nothing taken is no error.
fn send_some(bytes: &[u8], send: &mut impl FnMut(&[u8]) -> io::Result<usize>) -> io::Result<usize> {
    match send(bytes) {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(0),
        result => result,
    }
}

/// What `pieces` say from `at` on, as much as is sealed at once.
fn fill(pieces: &[IoSlice<'_>], mut at: usize, plain: &mut Vec<u8>) {
    plain.clear();
    for piece in pieces {
        let Some(rest) = piece.get(at..) else {
            at -= piece.len();
            continue;
        };
        at = 0;
        let count = rest.len().min(SEALED_MAX - plain.len());
        plain.extend_from_slice(&rest[..count]);
        if count < rest.len() {
            return;
        }
    }
}
