//! WebSocket frames of a client: masked ones out, a server's in.
//!
//! Headers are read and written by tungstenite's `FrameHeader`; this file adds what a non-blocking client needs:
//! frames that end in a later read, and messages of several frames. An inbox between messages owns no buffer.
//! Never knows what a message says, nor what a socket is.

use std::fmt;
use std::io::Cursor;

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

/// The longest payload of a control frame.
const CONTROL_MAX: u64 = 125;

/// Appends one whole masked frame.
pub fn put_frame(out: &mut Vec<u8>, opcode: OpCode, payload: &[u8], mask: [u8; 4]) {
    let header = FrameHeader { opcode, mask: Some(mask), ..FrameHeader::default() };
    out.reserve(header.len(payload.len() as u64) + payload.len());
    header.format(payload.len() as u64, out).expect("a vector takes every byte");
    let start = out.len();
    out.extend_from_slice(payload);
    let mut chunks = out[start..].chunks_exact_mut(4);
    for chunk in &mut chunks {
        for (byte, key) in chunk.iter_mut().zip(mask) {
            *byte ^= key;
        }
    }
    for (byte, key) in chunks.into_remainder().iter_mut().zip(mask) {
        *byte ^= key;
    }
}

/// A text or binary message.
pub fn message(text: bool) -> OpCode {
    OpCode::Data(if text { Data::Text } else { Data::Binary })
}

/// A control frame.
pub fn control(kind: Control) -> OpCode {
    OpCode::Control(kind)
}

/// What came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    Message(&'a [u8]),
    Ping(&'a [u8]),
    Pong,
    /// A close frame: code, and reason.
    Close(Option<u16>, &'a [u8]),
}

/// What a server must not send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault(pub &'static str);

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// The reading side of one connection.
#[derive(Debug, Default)]
pub struct Inbox {
    /// The start of a frame whose rest has not come.
    partial: Vec<u8>,
    /// The frames so far of a message in several.
    message: Vec<u8>,
    in_message: bool,
}

impl Inbox {
    /// Shows each thing that `bytes` complete to `seen`. A message longer than `limit` is a fault.
    pub fn take(&mut self, bytes: &[u8], limit: usize, mut seen: impl FnMut(Item<'_>)) -> Result<(), Fault> {
        if self.partial.is_empty() {
            let used = self.take_frames(bytes, limit, &mut seen)?;
            self.partial.extend_from_slice(&bytes[used..]);
            return Ok(());
        }
        let mut partial = std::mem::take(&mut self.partial);
        partial.extend_from_slice(bytes);
        let used = self.take_frames(&partial, limit, &mut seen)?;
        if used < partial.len() {
            partial.drain(..used);
            self.partial = partial;
        }
        Ok(())
    }

    /// Takes whole frames: how many bytes they had.
    fn take_frames(&mut self, bytes: &[u8], limit: usize, seen: &mut impl FnMut(Item<'_>)) -> Result<usize, Fault> {
        let mut used = 0;
        loop {
            let mut cursor = Cursor::new(&bytes[used..]);
            let Some((header, len)) = FrameHeader::parse(&mut cursor).map_err(|_| Fault("unknown opcode"))? else {
                return Ok(used);
            };
            let start = used + cursor.position() as usize;
            check(&header, len)?;
            if len > (limit.saturating_sub(self.message.len())) as u64 {
                return Err(Fault("message over the limit"));
            }
            let Some(payload) = bytes.get(start..start + len as usize) else { return Ok(used) };
            used = start + payload.len();
            match header.opcode {
                OpCode::Control(kind) => seen(control_item(kind, payload)?),
                OpCode::Data(kind) => self.take_data(kind, header.is_final, payload, seen)?,
            }
        }
    }

    fn take_data(
        &mut self,
        kind: Data,
        is_final: bool,
        payload: &[u8],
        seen: &mut impl FnMut(Item<'_>),
    ) -> Result<(), Fault> {
        if (kind == Data::Continue) != self.in_message {
            return Err(Fault("frames of two messages mixed"));
        }
        if is_final && !self.in_message {
            seen(Item::Message(payload));
            return Ok(());
        }
        self.message.extend_from_slice(payload);
        self.in_message = !is_final;
        if is_final {
            seen(Item::Message(&std::mem::take(&mut self.message)));
        }
        Ok(())
    }
}

fn check(header: &FrameHeader, len: u64) -> Result<(), Fault> {
    if header.mask.is_some() {
        return Err(Fault("masked frame from a server"));
    }
    if header.rsv1 || header.rsv2 || header.rsv3 {
        return Err(Fault("reserved bit without an extension"));
    }
    if matches!(header.opcode, OpCode::Control(_)) && (!header.is_final || len > CONTROL_MAX) {
        return Err(Fault("control frame too long or not final"));
    }
    Ok(())
}

fn control_item(kind: Control, payload: &[u8]) -> Result<Item<'_>, Fault> {
    match (kind, payload) {
        (Control::Ping, _) => Ok(Item::Ping(payload)),
        (Control::Pong, _) => Ok(Item::Pong),
        (Control::Close, []) => Ok(Item::Close(None, payload)),
        (Control::Close, [high, low, reason @ ..]) => Ok(Item::Close(Some(u16::from_be_bytes([*high, *low])), reason)),
        _ => Err(Fault("close frame of one byte")),
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
