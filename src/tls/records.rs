//! F1 · Records of TLS 1.3 after the handshake (RFC 8446 section 5), on plain data and in the caller's buffers.
//!
//! Owns what must be remembered of a connection: two [`Flow`]s, a key update in pieces, and what is owed to the peer.
//! Knows nothing of sockets, nor of how records lie in what a socket gives: `tunnel` takes them apart. What is here can
//! be written down and read back, between any two records.
//! Invariant: after an `Err` nothing more is opened; the alert is for the peer.

use super::keys::{Flow, HotKeys, SECRET_MAX, Suite};
use ring::aead::Aad;
use zeroize::Zeroizing;

/// Bytes of a record's head: kind, version, length.
pub const HEAD: usize = 5;
/// Bytes that one record may say (section 5.1).
pub const PLAIN_MAX: usize = 1 << 14;
/// Bytes behind the head, at most (section 5.2).
pub const BODY_MAX: usize = PLAIN_MAX + 256;
const TAG: usize = 16;
/// Records that say nothing, beyond those that say something: empty ones, key updates, warnings.
const FRUITLESS_MAX: u8 = 128;
/// A key update counts for so many of them: it costs three expansions, and 27 bytes ask for it.
const UPDATE_WEIGHT: u8 = 8;
const KEY_UPDATE: u8 = 24;
const KEY_UPDATE_LEN: usize = 5;

/// The kind of a record (section B.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Content {
    Alert = 21,
    Handshake = 22,
    Data = 23,
}

/// What ends a connection, for the peer to hear (section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Alert {
    CloseNotify = 0,
    UnexpectedMessage = 10,
    BadRecordMac = 20,
    RecordOverflow = 22,
    IllegalParameter = 47,
    DecodeError = 50,
    InternalError = 80,
}

/// What a record that was opened has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// So many bytes, at the front of the buffer.
    Data(usize),
    /// Nothing for those above.
    Nothing,
    /// The peer says no more.
    Closed,
    /// The peer gives up, for this reason of its own.
    GivenUp(u8),
}

/// A connection of TLS 1.3 whose handshake is done. There is one of it: two that seal would use a nonce twice.
pub struct Records {
    suite: Suite,
    read: Flow,
    write: Flow,
    /// The beginning of a key update that is spread over records.
    part: [u8; KEY_UPDATE_LEN],
    part_len: u8,
    /// Records that said nothing, less those that said something since.
    fruitless: u8,
    /// The peer wants the next key; it comes before the next record.
    update_owed: bool,
}

/// The length behind a record's head; `None` while the head is cut.
pub fn body_len(bytes: &[u8]) -> Result<Option<usize>, Alert> {
    let Some([kind, _, _, high, low]) = bytes.first_chunk::<HEAD>() else { return Ok(None) };
    let len = usize::from(u16::from_be_bytes([*high, *low]));
    // In the clear there is nothing any more, and the version means nothing (sections 5, 5.1).
    match (*kind == Content::Data as u8, len > BODY_MAX) {
        (false, _) => Err(Alert::UnexpectedMessage),
        (true, true) => Err(Alert::RecordOverflow),
        (true, false) => Ok(Some(len)),
    }
}

impl Records {
    /// `None` if a secret has not the length of the suite's hash.
    pub fn new(suite: Suite, (read, read_from): (&[u8], u64), (write, write_from): (&[u8], u64)) -> Option<Records> {
        let (read, write) = (Flow::new(suite, read, read_from)?, Flow::new(suite, write, write_from)?);
        let (part, part_len, fruitless, update_owed) = ([0; KEY_UPDATE_LEN], 0, 0, false);
        Some(Records { suite, read, write, part, part_len, fruitless, update_owed })
    }

    /// The two directions, to be compared with what others derived.
    pub fn flows(&self) -> (Suite, &Flow, &Flow) {
        (self.suite, &self.read, &self.write)
    }

    /// Opens the record whose head begins at `at` and which ends with `buffer`. What it says comes to the buffer's
    /// front.
    pub fn open(&mut self, keys: &mut HotKeys, buffer: &mut [u8], at: usize) -> Result<Opened, Alert> {
        let head: [u8; HEAD] = *buffer.get(at..).and_then(|rest| rest.first_chunk()).ok_or(Alert::DecodeError)?;
        let body = buffer.len() - at - HEAD;
        if body < TAG + 1 {
            return Err(if body < TAG { Alert::BadRecordMac } else { Alert::UnexpectedMessage });
        }
        let key = keys.get(self.suite, &self.read).ok_or(Alert::InternalError)?;
        let nonce = self.read.next_nonce().ok_or(Alert::InternalError)?;
        let opened = key.open_within(nonce, Aad::from(head), buffer, at + HEAD..);
        let inner: &[u8] = opened.map_err(|_| Alert::BadRecordMac)?;
        if inner.len() > PLAIN_MAX + 1 {
            return Err(Alert::RecordOverflow);
        }
        // The kind stands behind what is said, and zeros behind that.
        let kind_at = inner.iter().rposition(|byte| *byte != 0).ok_or(Alert::UnexpectedMessage)?;
        let (said, kind) = (&inner[..kind_at], inner[kind_at]);
        if kind == Content::Data as u8 {
            return self.take_data(said.len());
        }
        let said: ([u8; KEY_UPDATE_LEN], usize) = match said.len() {
            0 => return Err(Alert::UnexpectedMessage),
            len if len <= KEY_UPDATE_LEN => {
                let mut copy = [0; KEY_UPDATE_LEN];
                copy[..len].copy_from_slice(said);
                (copy, len)
            }
            // Longer than any message that a client may still send.
            len => ([said[0]; KEY_UPDATE_LEN], len),
        };
        self.count_fruitless(1)?;
        match kind {
            kind if kind == Content::Alert as u8 => self.take_alert(&said.0, said.1),
            kind if kind == Content::Handshake as u8 => self.take_handshake(keys, &said.0, said.1),
            _ => Err(Alert::UnexpectedMessage),
        }
    }

    fn take_data(&mut self, len: usize) -> Result<Opened, Alert> {
        // A message of the handshake may not be cut by other records.
        if self.part_len > 0 {
            return Err(Alert::UnexpectedMessage);
        }
        match len {
            0 => self.count_fruitless(1).map(|()| Opened::Nothing),
            len => {
                // Not forgotten at once, or every other record could be an update.
                self.fruitless = self.fruitless.saturating_sub(1);
                Ok(Opened::Data(len))
            }
        }
    }

    fn count_fruitless(&mut self, weight: u8) -> Result<(), Alert> {
        self.fruitless = self.fruitless.saturating_add(weight);
        if self.fruitless > FRUITLESS_MAX { Err(Alert::UnexpectedMessage) } else { Ok(()) }
    }

    fn take_alert(&self, said: &[u8], len: usize) -> Result<Opened, Alert> {
        const USER_CANCELED: u8 = 90;
        if self.part_len > 0 {
            return Err(Alert::UnexpectedMessage);
        }
        match (len, said) {
            // The level means nothing (section 6).
            (2, [_, 0, ..]) => Ok(Opened::Closed),
            (2, [_, USER_CANCELED, ..]) => Ok(Opened::Nothing),
            (2, [_, reason, ..]) => Ok(Opened::GivenUp(*reason)),
            _ => Err(Alert::DecodeError),
        }
    }

    /// A client that is not asked for a certificate again may only say that its key changes (section 4.6).
    fn take_handshake(&mut self, keys: &mut HotKeys, said: &[u8], len: usize) -> Result<Opened, Alert> {
        let have = usize::from(self.part_len);
        let first = if have == 0 { said.first() } else { self.part.first() };
        if first != Some(&KEY_UPDATE) {
            return Err(Alert::UnexpectedMessage);
        }
        // With the key changes everything: nothing may stand behind it in its record (section 5.1).
        let room = self.part.get_mut(have..have + len).ok_or(Alert::UnexpectedMessage)?;
        room.copy_from_slice(said.get(..len).ok_or(Alert::InternalError)?);
        self.part_len += len as u8;
        if usize::from(self.part_len) < KEY_UPDATE_LEN {
            return Ok(Opened::Nothing);
        }
        self.part_len = 0;
        self.count_fruitless(UPDATE_WEIGHT - 1)?;
        let [_, length @ .., wanted] = self.part;
        if length != [0, 0, 1] {
            return Err(Alert::DecodeError);
        }
        self.update_owed |= match wanted {
            0 => false,
            1 => true,
            _ => return Err(Alert::IllegalParameter),
        };
        let next = self.read.updated(self.suite).ok_or(Alert::InternalError)?;
        keys.forget(&std::mem::replace(&mut self.read, next));
        Ok(Opened::Nothing)
    }

    /// Appends records that say `pieces`; an update of the key goes in front when one is due. False: it cannot be said,
    /// and `out` is as it was.
    pub fn seal(&mut self, keys: &mut HotKeys, said: &[u8], out: &mut Vec<u8>) -> bool {
        let before = out.len();
        let sealed = said.chunks(PLAIN_MAX).all(|said| {
            let due = self.update_owed || self.write.sequence >= self.suite.records_max();
            (!due || self.update(keys, out)) && self.seal_one(keys, Content::Data, said, out)
        });
        if !sealed {
            out.truncate(before);
        }
        sealed
    }

    /// Appends an alert.
    pub fn seal_alert(&mut self, keys: &mut HotKeys, alert: Alert, out: &mut Vec<u8>) -> bool {
        const WARNING: u8 = 1;
        const FATAL: u8 = 2;
        let level = if alert == Alert::CloseNotify { WARNING } else { FATAL };
        self.seal_one(keys, Content::Alert, &[level, alert as u8], out)
    }

    /// From here on everything goes by the next key, and the peer is told.
    fn update(&mut self, keys: &mut HotKeys, out: &mut Vec<u8>) -> bool {
        if !self.seal_one(keys, Content::Handshake, &[KEY_UPDATE, 0, 0, 1, 0], out) {
            return false;
        }
        let Some(next) = self.write.updated(self.suite) else { return false };
        keys.forget(&std::mem::replace(&mut self.write, next));
        self.update_owed = false;
        true
    }

    fn seal_one(&mut self, keys: &mut HotKeys, content: Content, said: &[u8], out: &mut Vec<u8>) -> bool {
        let [high, low] = ((said.len() + 1 + TAG) as u16).to_be_bytes();
        let head = [Content::Data as u8, 3, 3, high, low];
        let Some(key) = keys.get(self.suite, &self.write) else { return false };
        let Some(nonce) = self.write.next_nonce() else { return false };
        out.extend_from_slice(&head);
        let at = out.len();
        out.extend_from_slice(said);
        out.push(content as u8);
        let Ok(tag) = key.seal_in_place_separate_tag(nonce, Aad::from(head), &mut out[at..]) else { return false };
        out.extend_from_slice(tag.as_ref());
        true
    }

    /// One more of it, as no connection may have.
    #[cfg(test)]
    pub fn copied(&self) -> Records {
        let flow = |flow: &Flow| Flow::new(self.suite, flow.secret(self.suite), flow.sequence).expect("its own");
        let (read, write) = (flow(&self.read), flow(&self.write));
        Records { read, write, ..*self }
    }

    /// Its keys are used no more.
    pub fn forget(&self, keys: &mut HotKeys) {
        keys.forget(&self.read);
        keys.forget(&self.write);
    }

    /// All of it, to be read by [`Records::thawed`] once, in this version or a later one.
    pub fn frozen(self) -> Zeroizing<Vec<u8>> {
        // It never grows: what it leaves behind would not be erased.
        let mut out = Zeroizing::new(Vec::with_capacity(FROZEN));
        out.push(FROZEN_VERSION);
        out.extend(self.suite.code().to_be_bytes());
        for flow in [&self.read, &self.write] {
            let mut secret = Zeroizing::new([0; SECRET_MAX]);
            let own = flow.secret(self.suite);
            secret[..own.len()].copy_from_slice(own);
            out.extend_from_slice(&secret[..]);
            out.extend(flow.sequence.to_be_bytes());
        }
        out.extend([self.fruitless, u8::from(self.update_owed), self.part_len]);
        out.extend(self.part);
        out
    }

    /// `None` if `bytes` are none that [`Records::frozen`] gave.
    pub fn thawed(bytes: &[u8]) -> Option<Records> {
        let (version, rest) = bytes.split_first_chunk::<1>()?;
        let (code, rest) = rest.split_first_chunk::<2>()?;
        let suite = Suite::of(u16::from_be_bytes(*code)).filter(|_| *version == [FROZEN_VERSION])?;
        let flow = |bytes: &[u8]| -> Option<Flow> {
            let (secret, sequence) = bytes.split_at_checked(SECRET_MAX)?;
            Flow::new(suite, secret.get(..suite.secret_len())?, u64::from_be_bytes(sequence.try_into().ok()?))
        };
        let (read, rest) = rest.split_at_checked(SECRET_MAX + 8)?;
        let (write, rest) = rest.split_at_checked(SECRET_MAX + 8)?;
        let [fruitless @ 0..=FRUITLESS_MAX, update_owed @ 0..=1, part_len @ 0..=4, part @ ..] =
            <[u8; 8]>::try_from(rest).ok()?
        else {
            return None;
        };
        if part_len > 0 && part.first() != Some(&KEY_UPDATE) {
            return None;
        }
        let (read, write, update_owed) = (flow(read)?, flow(write)?, update_owed == 1);
        Some(Records { suite, read, write, part, part_len, fruitless, update_owed })
    }
}

const FROZEN_VERSION: u8 = 1;
const FROZEN: usize = 1 + 2 + 2 * (SECRET_MAX + 8) + 8;
