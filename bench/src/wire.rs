//! The loader's own WebSocket: masked frames out, and server frames counted as they come in.
//!
//! Nothing is stored but the first bytes of the message being read, so ten thousand readers cost little
//! and the loader stays faster than any server it drives.

use std::io;

/// Every client frame uses this mask: servers must unmask all the same.
pub(crate) const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// The bytes of a message kept to tell what it is, enough for an error reply up to its code.
const START: usize = 40;

/// Appends one masked text frame.
pub fn client_frame(out: &mut Vec<u8>, payload: &[u8]) {
    masked_frame(out, 0x81, payload);
}

/// Appends one masked frame in which the server expects `dialect`: binary for Protobuf, else text.
pub fn client_frame_in(dialect: Dialect, out: &mut Vec<u8>, payload: &[u8]) {
    masked_frame(out, if dialect == Dialect::Prefixed { 0x82 } else { 0x81 }, payload);
}

pub(crate) fn masked_frame(out: &mut Vec<u8>, first: u8, payload: &[u8]) {
    out.push(first);
    match payload.len() {
        len @ 0..=125 => out.push(0x80 | len as u8),
        len @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&MASK);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

/// How the messages of a server are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// One frame is one message, whatever is in it.
    Raw,
    /// Each line of a frame is a JSON reply, push or ping of the Centrifugal protocol.
    Lines,
    /// The same in Protobuf: each message of a frame stands behind its length.
    Prefixed,
}

/// What one read brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Got {
    /// Frames (raw) or pushes.
    pub messages: u64,
    pub replies: u64,
    pub pings: u64,
    /// Frame bytes, headers included.
    pub bytes: u64,
}

/// The reading side of one connection.
#[derive(Debug)]
pub struct Inbox {
    header: [u8; 10],
    header_len: u8,
    final_frame: bool,
    opcode: u8,
    start_len: u8,
    start: [u8; START],
    /// Payload bytes of the current frame still to come; 0 between frames.
    left: u64,
    line_len: u64,
    /// The length of a Protobuf message as far as it is read, how many bits that is, and then what is left of it.
    prefix: u64,
    prefix_bits: u8,
    message_left: u64,
}

impl Default for Inbox {
    fn default() -> Self {
        Self {
            header: [0; 10],
            header_len: 0,
            final_frame: false,
            opcode: 0,
            start_len: 0,
            start: [0; START],
            left: 0,
            line_len: 0,
            prefix: 0,
            prefix_bits: 0,
            message_left: 0,
        }
    }
}

impl Inbox {
    /// Counts what `bytes` finish. A close frame or an error reply is an error: no run should meet one.
    pub fn take(&mut self, mut bytes: &[u8], dialect: Dialect, got: &mut Got) -> io::Result<()> {
        got.bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            if self.left == 0 {
                let (complete, rest) = self.take_header(bytes)?;
                bytes = rest;
                if complete && self.left == 0 {
                    self.end_frame(dialect, got)?;
                }
                continue;
            }
            let size = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
            let (payload, rest) = bytes.split_at(size);
            self.take_payload(payload, dialect, got)?;
            self.left -= size as u64;
            bytes = rest;
            if self.left == 0 {
                self.end_frame(dialect, got)?;
            }
        }
        Ok(())
    }

    fn take_header<'a>(&mut self, bytes: &'a [u8]) -> io::Result<(bool, &'a [u8])> {
        for (used, byte) in bytes.iter().enumerate() {
            self.header[usize::from(self.header_len)] = *byte;
            self.header_len += 1;
            let need = match self.header[1] {
                _ if self.header_len < 2 => continue,
                masked if masked & 0x80 != 0 => return Err(io::Error::other("masked frame from a server")),
                126 => 4,
                127 => 10,
                _ => 2,
            };
            if self.header_len < need {
                continue;
            }
            self.left = match need {
                2 => u64::from(self.header[1]),
                _ => self.header[2..usize::from(need)].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
            };
            self.final_frame = self.header[0] & 0x80 != 0;
            self.opcode = self.header[0] & 0x0f;
            self.header_len = 0;
            return Ok((true, &bytes[used + 1..]));
        }
        Ok((false, &[]))
    }

    fn take_payload(&mut self, mut payload: &[u8], dialect: Dialect, got: &mut Got) -> io::Result<()> {
        if dialect == Dialect::Prefixed && self.opcode < 8 {
            return self.take_prefixed(payload, got);
        }
        if dialect == Dialect::Lines && self.opcode < 8 {
            while let Some(end) = memchr::memchr(b'\n', payload) {
                self.take_line(&payload[..end]);
                self.end_line(got)?;
                payload = &payload[end + 1..];
            }
        }
        self.take_line(payload);
        Ok(())
    }

    fn take_prefixed(&mut self, mut payload: &[u8], got: &mut Got) -> io::Result<()> {
        while let [first, rest @ ..] = payload {
            if self.message_left > 0 {
                let size = payload.len().min(usize::try_from(self.message_left).unwrap_or(usize::MAX));
                let (part, rest) = payload.split_at(size);
                self.take_line(part);
                self.message_left -= size as u64;
                if self.message_left == 0 {
                    self.end_message(got)?;
                }
                payload = rest;
                continue;
            }
            payload = rest;
            self.prefix |= u64::from(first & 0x7f) << self.prefix_bits;
            if first & 0x80 == 0 {
                self.message_left = std::mem::take(&mut self.prefix);
                self.prefix_bits = 0;
                got.pings += u64::from(self.message_left == 0);
            } else {
                self.prefix_bits += 7;
                if self.prefix_bits > 28 {
                    return Err(io::Error::other("a Protobuf message longer than any the server sends"));
                }
            }
        }
        Ok(())
    }

    /// A push is field 4 of a reply; otherwise it begins with the id, and field 2 after that is an error.
    fn end_message(&mut self, got: &mut Got) -> io::Result<()> {
        let start = &self.start[..usize::from(self.start_len)];
        let after_id = start.iter().skip(1).position(|byte| byte & 0x80 == 0).and_then(|at| start.get(at + 2));
        match (start.first(), after_id) {
            (Some(0x22), _) => got.messages += 1,
            (Some(0x08), Some(field)) if *field != 0x12 => got.replies += 1,
            _ => return Err(io::Error::other(format!("the server answered {}", start.escape_ascii()))),
        }
        self.clear_line();
        Ok(())
    }

    fn take_line(&mut self, part: &[u8]) {
        let from = usize::from(self.start_len);
        let size = part.len().min(START - from);
        self.start[from..from + size].copy_from_slice(&part[..size]);
        self.start_len += size as u8;
        self.line_len += part.len() as u64;
    }

    fn end_line(&mut self, got: &mut Got) -> io::Result<()> {
        let start = &self.start[..usize::from(self.start_len)];
        if self.line_len == 2 && start == b"{}" {
            got.pings += 1;
        } else if start.starts_with(br#"{"push":"#) {
            got.messages += 1;
        } else if start.starts_with(br#"{"id":"#) && memchr::memmem::find(start, b"\"error\"").is_none() {
            got.replies += 1;
        } else {
            return Err(io::Error::other(format!("the server answered {}", String::from_utf8_lossy(start))));
        }
        self.clear_line();
        Ok(())
    }

    fn end_frame(&mut self, dialect: Dialect, got: &mut Got) -> io::Result<()> {
        match self.opcode {
            8 => {
                let code = u16::from_be_bytes([self.start[0], self.start[1]]);
                let reason = String::from_utf8_lossy(
                    &self.start[2.min(usize::from(self.start_len))..usize::from(self.start_len)],
                );
                Err(io::Error::other(format!("the server closed with {code} {reason}")))
            }
            9.. => {
                self.clear_line();
                Ok(())
            }
            _ if !self.final_frame => Ok(()),
            _ if dialect == Dialect::Lines => self.end_line(got),
            _ if dialect == Dialect::Prefixed && (self.message_left > 0 || self.prefix_bits > 0) => {
                Err(io::Error::other("the frame ends within a Protobuf message"))
            }
            _ if dialect == Dialect::Prefixed => Ok(()),
            _ => {
                got.messages += 1;
                self.clear_line();
                Ok(())
            }
        }
    }

    fn clear_line(&mut self) {
        self.start_len = 0;
        self.line_len = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server_frame(payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0x81];
        match payload.len() {
            len @ 0..=125 => frame.push(len as u8),
            len => {
                frame.push(126);
                frame.extend_from_slice(&(len as u16).to_be_bytes());
            }
        }
        frame.extend_from_slice(payload);
        frame
    }

    #[test]
    fn frames_are_masked() {
        let mut out = Vec::new();
        client_frame(&mut out, b"hello");
        assert_eq!(out[..2], [0x81, 0x85]);
        let plain: Vec<u8> = out[6..].iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        assert_eq!(plain, b"hello");
    }

    #[test]
    fn counts_are_the_same_at_every_split() {
        let long = format!("{{\"push\":{{\"channel\":\"{}\"}}}}", "c".repeat(300));
        let lines = format!("{{\"id\":1,\"connect\":{{}}}}\n{long}\n{{}}");
        let mut bytes = server_frame(lines.as_bytes());
        bytes.extend(server_frame(b"{}"));
        bytes.extend(server_frame(long.as_bytes()));
        for split in 0..=bytes.len() {
            let (mut inbox, mut got) = (Inbox::default(), Got::default());
            inbox.take(&bytes[..split], Dialect::Lines, &mut got).expect("first part");
            inbox.take(&bytes[split..], Dialect::Lines, &mut got).expect("second part");
            assert_eq!((got.messages, got.replies, got.pings), (2, 1, 2), "split at {split}");
            let (mut inbox, mut got) = (Inbox::default(), Got::default());
            inbox.take(&bytes[..split], Dialect::Raw, &mut got).expect("first part");
            inbox.take(&bytes[split..], Dialect::Raw, &mut got).expect("second part");
            assert_eq!(got.messages, 3, "split at {split}");
        }
    }

    #[test]
    fn protobuf_messages_are_told_apart_at_every_split() {
        let mut messages = vec![4, 0x08, 1, 0x2a, 0];
        messages.extend([0x0b, 0x22, 0x09, 0x12, 1, b'c', 0x22, 4, 0x22, 2, b'{', b'}', 0]);
        messages.extend([0xac, 0x02, 0x22, 0xa9, 0x02]);
        messages.extend([b'x'; 297]);
        let bytes = server_frame(&messages);
        for split in 0..=bytes.len() {
            let (mut inbox, mut got) = (Inbox::default(), Got::default());
            inbox.take(&bytes[..split], Dialect::Prefixed, &mut got).expect("first part");
            inbox.take(&bytes[split..], Dialect::Prefixed, &mut got).expect("second part");
            assert_eq!((got.messages, got.replies, got.pings), (2, 1, 1), "split at {split}");
        }
    }

    #[test]
    fn a_protobuf_error_or_a_cut_message_ends_the_run() {
        for bad in [&[6, 0x08, 0xac, 0x02, 0x12, 1, 0][..], &[2, 0x2a, 0], &[5, 0x22, 3], &[0x80], &[0xff; 6]] {
            let result = Inbox::default().take(&server_frame(bad), Dialect::Prefixed, &mut Got::default());
            assert!(result.is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_error_reply_and_a_close_end_the_run() {
        let mut got = Got::default();
        let reply = server_frame(br#"{"id":7,"error":{"code":103,"message":"permission denied"}}"#);
        let error = Inbox::default().take(&reply, Dialect::Lines, &mut got).expect_err("an error reply");
        assert!(error.to_string().contains("103"), "{error}");
        let error = Inbox::default().take(&[0x88, 2, 0x0d, 0xac], Dialect::Raw, &mut got).expect_err("a close");
        assert!(error.to_string().contains("3500"), "{error}");
    }
}
