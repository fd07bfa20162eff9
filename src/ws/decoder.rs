//! F1 · Frames from a client: bytes in, items out, unmasked in place.
//!
//! Owns the state of one connection's inbound half: at most [`Decoder`]'s 20 bytes, and no buffer. Whatever it cannot
//! take yet (a header or control frame cut by the read) it leaves unconsumed, and the caller shows it again in front of
//! the next bytes. A data frame longer than the input comes out in parts, which the caller collects.
//! Invariant: after a [`Step::Fault`] the decoder is not asked again.

use super::Opcode;
use super::close;
use super::encoder::{CONTROL_PAYLOAD_MAX, RSV1};
use super::utf8::Utf8;

/// Text or binary, RFC 6455 section 5.6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    Binary,
}

/// What a client said. Text has been checked to be UTF-8, a `Message` in full, parts as they came; but not what is
/// compressed, which is for [`Inflate`](super::Inflate) to check.
#[derive(Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A message that lay whole in the input.
    Message(Kind, &'a [u8]),
    /// The next piece of a message, not its end.
    Part(&'a [u8]),
    /// The last piece of a message that began with a `Part`.
    Last(Kind, &'a [u8]),
    /// A `Message` that is compressed.
    Deflated(Kind, &'a [u8]),
    /// A `Last` whose message is compressed, its `Part`s with it.
    LastDeflated(Kind, &'a [u8]),
    Ping(&'a [u8]),
    Pong(&'a [u8]),
    /// The code, if one was given, with its reason.
    Close(Option<u16>, &'a str),
}

/// How the peer broke the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Protocol(&'static str),
    NotUtf8,
    NotDeflate,
    TooBig,
}

impl Fault {
    /// The close code that answers it, RFC 6455 section 7.4.1.
    pub fn code(self) -> u16 {
        match self {
            Fault::Protocol(_) => close::PROTOCOL_ERROR,
            Fault::NotUtf8 | Fault::NotDeflate => close::INVALID_PAYLOAD,
            Fault::TooBig => close::TOO_BIG,
        }
    }

    pub fn reason(self) -> &'static str {
        match self {
            Fault::Protocol(what) => what,
            Fault::NotUtf8 => "text is not UTF-8",
            Fault::NotDeflate => "compressed data is invalid",
            Fault::TooBig => "message size limit exceeded",
        }
    }
}

/// What one look at the input gave.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// Show the same bytes again with more behind them.
    More,
    /// The first `usize` bytes are used up.
    Item(usize, Item<'a>),
    Fault(Fault),
}

/// The inbound half of a connection.
#[derive(Debug, Clone, Default)]
pub struct Decoder {
    /// Key of the open frame, rotated to its next byte.
    mask: [u8; 4],
    /// Payload bytes of the open frame still to come.
    remaining: u32,
    /// Payload bytes of the open message so far, the open frame's in full.
    announced: u32,
    utf8: Utf8,
    /// The open (or latest) frame ends its message.
    last_frame: bool,
    /// A message that began and did not end.
    message_open: bool,
    text: bool,
    deflated: Deflated,
}

/// Is the open (or latest) message compressed?
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Deflated {
    /// Not negotiated: none may be.
    #[default]
    Never,
    No,
    Yes,
}

const _: () = assert!(size_of::<Decoder>() <= 24);

/// A frame header, parsed. Section 5.2.
struct Header {
    last: bool,
    deflated: bool,
    opcode: Opcode,
    len: u64,
    mask: [u8; 4],
    size: usize,
}

impl Decoder {
    /// For a connection that negotiated permessage-deflate.
    pub fn deflating() -> Decoder {
        Decoder { deflated: Deflated::No, ..Decoder::default() }
    }

    /// Looks at `input` once; `message_size_limit` bounds a message's bytes, over all its frames (at most `u32::MAX`).
    pub fn next<'a>(&mut self, input: &'a mut [u8], message_size_limit: usize) -> Step<'a> {
        if self.remaining > 0 {
            return self.payload(input, 0);
        }
        let header = match parse(input, self.deflated != Deflated::Never) {
            Ok(Some(header)) => header,
            Ok(None) => return Step::More,
            Err(what) => return Step::Fault(Fault::Protocol(what)),
        };
        match header.opcode {
            Opcode::Close | Opcode::Ping | Opcode::Pong => control(header, input),
            opcode => match self.open(&header, opcode, message_size_limit) {
                Ok(()) => self.payload(input, header.size),
                Err(fault) => Step::Fault(fault),
            },
        }
    }

    /// Takes a data frame's header.
    fn open(&mut self, header: &Header, opcode: Opcode, limit: usize) -> Result<(), Fault> {
        match (opcode, self.message_open) {
            (Opcode::Continuation, false) => return Err(Fault::Protocol("continuation of no message")),
            (Opcode::Text | Opcode::Binary, true) => return Err(Fault::Protocol("message inside a message")),
            (Opcode::Continuation, true) => {}
            _ => {
                self.text = opcode == Opcode::Text;
                if self.deflated != Deflated::Never {
                    self.deflated = if header.deflated { Deflated::Yes } else { Deflated::No };
                }
                self.utf8 = Utf8::default();
                self.announced = 0;
            }
        }
        let announced = u64::from(self.announced) + header.len;
        if announced > limit.min(u32::MAX as usize) as u64 {
            return Err(Fault::TooBig);
        }
        self.announced = announced as u32;
        self.remaining = header.len as u32;
        self.mask = header.mask;
        self.last_frame = header.last;
        Ok(())
    }

    /// Takes payload of the open frame, which begins at `start`.
    fn payload<'a>(&mut self, input: &'a mut [u8], start: usize) -> Step<'a> {
        let Some(rest) = input.get_mut(start..) else { return Step::More };
        let take = rest.len().min(self.remaining as usize);
        if take == 0 && self.remaining > 0 && start == 0 {
            return Step::More;
        }
        let (bytes, _) = rest.split_at_mut(take);
        unmask(bytes, self.mask);
        self.mask.rotate_left(take % 4);
        self.remaining -= take as u32;

        let continued = std::mem::replace(&mut self.message_open, true);
        let ended = self.remaining == 0 && self.last_frame;
        self.message_open = !ended;
        let deflated = self.deflated == Deflated::Yes;
        if self.text && !deflated && !self.is_text(bytes, continued, ended) {
            return Step::Fault(Fault::NotUtf8);
        }
        let kind = if self.text { Kind::Text } else { Kind::Binary };
        let item = match (continued, ended, deflated) {
            (_, false, _) => Item::Part(bytes),
            (false, true, false) => Item::Message(kind, bytes),
            (true, true, false) => Item::Last(kind, bytes),
            (false, true, true) => Item::Deflated(kind, bytes),
            (true, true, true) => Item::LastDeflated(kind, bytes),
        };
        Step::Item(start + take, item)
    }

    fn is_text(&mut self, bytes: &[u8], continued: bool, ended: bool) -> bool {
        if ended && !continued {
            return std::str::from_utf8(bytes).is_ok();
        }
        self.utf8.push(bytes) && (!ended || self.utf8.is_whole())
    }
}

/// A header from the front of `input`; `None` while it is cut. `deflate`: a message's first frame may have RSV1.
fn parse(input: &[u8], deflate: bool) -> Result<Option<Header>, &'static str> {
    let Some(&[first, second]) = input.first_chunk() else {
        // A wrong first byte is known before the second comes.
        return input.first().map_or(Ok(None), |&first| opcode(first, deflate).map(|_| None));
    };
    let (opcode, deflated) = opcode(first, deflate)?;
    let last = first & 0x80 != 0;
    if second & 0x80 == 0 {
        return Err("frame is not masked");
    }
    if opcode as u8 >= 8 && (!last || second & 0x7f > CONTROL_PAYLOAD_MAX as u8) {
        return Err("control frame is fragmented or too long");
    }
    let (len, at) = match second & 0x7f {
        126 => match input.get(2..).and_then(|b| b.first_chunk()) {
            Some(&b) => (u64::from(u16::from_be_bytes(b)), 4),
            None => return Ok(None),
        },
        127 => match input.get(2..).and_then(|b| b.first_chunk()) {
            Some(&b) => (u64::from_be_bytes(b), 10),
            None => return Ok(None),
        },
        short => (u64::from(short), 2),
    };
    if len >> 63 != 0 {
        return Err("length has its highest bit set");
    }
    Ok(input.get(at..).and_then(|b| b.first_chunk()).map(|&mask| Header {
        last,
        deflated,
        opcode,
        len,
        mask,
        size: at + 4,
    }))
}

/// A frame's opcode, and whether it begins a compressed message (RFC 7692 section 6).
fn opcode(first: u8, deflate: bool) -> Result<(Opcode, bool), &'static str> {
    let opcode = match first & 0x0f {
        0 => Opcode::Continuation,
        1 => Opcode::Text,
        2 => Opcode::Binary,
        8 => Opcode::Close,
        9 => Opcode::Ping,
        10 => Opcode::Pong,
        _ => return Err("reserved opcode"),
    };
    match first & 0x70 {
        0 => Ok((opcode, false)),
        RSV1 if deflate && matches!(opcode, Opcode::Text | Opcode::Binary) => Ok((opcode, true)),
        _ => Err("reserved bits are set"),
    }
}

/// A control frame comes out whole or not at all.
fn control(header: Header, input: &mut [u8]) -> Step<'_> {
    let end = header.size + header.len as usize;
    let Some(payload) = input.get_mut(header.size..end) else { return Step::More };
    unmask(payload, header.mask);
    match header.opcode {
        Opcode::Ping => Step::Item(end, Item::Ping(payload)),
        Opcode::Pong => Step::Item(end, Item::Pong(payload)),
        _ => match parse_close(payload) {
            Ok((code, reason)) => Step::Item(end, Item::Close(code, reason)),
            Err(fault) => Step::Fault(fault),
        },
    }
}

fn parse_close(payload: &[u8]) -> Result<(Option<u16>, &str), Fault> {
    match payload {
        [] => Ok((None, "")),
        [_] => Err(Fault::Protocol("close code is cut")),
        [a, b, reason @ ..] => {
            let code = u16::from_be_bytes([*a, *b]);
            if !close::is_valid(code) {
                return Err(Fault::Protocol("invalid close code"));
            }
            let reason = std::str::from_utf8(reason).map_err(|_| Fault::NotUtf8)?;
            Ok((Some(code), reason))
        }
    }
}

/// XORs `bytes` with the key, eight at a time. Section 5.3.
fn unmask(bytes: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (chunks, tail) = bytes.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, key) in tail.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tungstenite::protocol::frame::coding::{Control, Data, OpCode};
    use tungstenite::protocol::frame::{Frame, FrameHeader};

    #[derive(Debug, PartialEq, Clone)]
    enum Said {
        Message(Kind, Vec<u8>),
        Deflated(Kind, Vec<u8>),
        Ping(Vec<u8>),
        Pong(Vec<u8>),
        Close(Option<u16>, String),
        Fault(Fault),
    }

    /// Feeds `wire` in pieces of the given sizes (the last size again and again), as the reactor does.
    fn decode(wire: &[u8], sizes: &[usize], limit: usize) -> Vec<Said> {
        decode_by(Decoder::default(), wire, sizes, limit)
    }

    fn decode_by(mut decoder: Decoder, wire: &[u8], sizes: &[usize], limit: usize) -> Vec<Said> {
        let mut out = Vec::new();
        let (mut held, mut message, mut rest) = (Vec::new(), Vec::new(), wire);
        let mut sizes =
            sizes.iter().copied().chain(std::iter::repeat(sizes.last().copied().unwrap_or(wire.len()).max(1)));
        while !rest.is_empty() {
            let (piece, tail) = rest.split_at(sizes.next().expect("endless").clamp(1, rest.len()));
            rest = tail;
            held.extend_from_slice(piece);
            let mut at = 0;
            loop {
                match decoder.next(&mut held[at..], limit) {
                    Step::More => break,
                    Step::Fault(fault) => {
                        out.push(Said::Fault(fault));
                        return out;
                    }
                    Step::Item(used, item) => {
                        match item {
                            Item::Message(kind, bytes) => out.push(Said::Message(kind, bytes.to_vec())),
                            Item::Part(bytes) => message.extend_from_slice(bytes),
                            Item::Last(kind, bytes) => {
                                message.extend_from_slice(bytes);
                                out.push(Said::Message(kind, std::mem::take(&mut message)));
                            }
                            Item::Deflated(kind, bytes) => out.push(Said::Deflated(kind, bytes.to_vec())),
                            Item::LastDeflated(kind, bytes) => {
                                message.extend_from_slice(bytes);
                                out.push(Said::Deflated(kind, std::mem::take(&mut message)));
                            }
                            Item::Ping(b) => out.push(Said::Ping(b.to_vec())),
                            Item::Pong(b) => out.push(Said::Pong(b.to_vec())),
                            Item::Close(code, reason) => out.push(Said::Close(code, reason.to_owned())),
                        }
                        at += used;
                    }
                }
            }
            held.drain(..at);
        }
        out
    }

    /// A masked frame as tungstenite writes it.
    fn frame(opcode: OpCode, last: bool, payload: &[u8]) -> Vec<u8> {
        let header = FrameHeader { is_final: last, opcode, mask: Some([1, 2, 3, 0xfe]), ..FrameHeader::default() };
        let mut out = Vec::new();
        Frame::from_payload(header, payload.to_vec().into()).format(&mut out).expect("format");
        out
    }

    fn conversation() -> (Vec<u8>, Vec<Said>) {
        let long = vec![7u8; 70_000];
        let wire = [
            frame(OpCode::Data(Data::Text), true, "héllo".as_bytes()),
            frame(OpCode::Data(Data::Text), false, b"\xf0\x9f"),
            frame(OpCode::Control(Control::Ping), true, b"between"),
            frame(OpCode::Data(Data::Continue), false, b""),
            frame(OpCode::Data(Data::Continue), true, b"\x98\x80!"),
            frame(OpCode::Data(Data::Binary), true, &long),
            frame(OpCode::Control(Control::Pong), true, b""),
            frame(OpCode::Data(Data::Binary), true, b""),
            frame(OpCode::Control(Control::Close), true, b"\x03\xe8bye"),
        ];
        let said = vec![
            Said::Message(Kind::Text, "héllo".into()),
            Said::Ping(b"between".to_vec()),
            Said::Message(Kind::Text, "😀!".into()),
            Said::Message(Kind::Binary, long),
            Said::Pong(vec![]),
            Said::Message(Kind::Binary, vec![]),
            Said::Close(Some(1000), "bye".into()),
        ];
        (wire.concat(), said)
    }

    #[test]
    fn reads_what_tungstenite_writes_split_at_every_byte() {
        let (wire, said) = conversation();
        assert_eq!(decode(&wire, &[wire.len()], 1 << 20), said);
        for cut in 1..wire.len() {
            assert_eq!(decode(&wire, &[cut, wire.len()], 1 << 20), said, "cut at {cut}");
        }
        assert_eq!(decode(&wire, &[1], 1 << 20), said, "byte by byte");
    }

    #[test]
    fn every_violation_has_its_code() {
        let cases: &[(&[u8], u16)] = &[
            (b"\x81\x02hi", 1002),                         // not masked
            (b"\xc1\x80\0\0\0\0", 1002),                   // RSV1 without an extension
            (b"\x83\x80\0\0\0\0", 1002),                   // opcode 3
            (b"\x8b", 1002),                               // opcode 11, told by its first byte
            (b"\x09\x80\0\0\0\0", 1002),                   // fragmented ping
            (b"\x89\xfe\0\x7e\0\0\0\0", 1002),             // ping of 126 bytes
            (b"\x80\x80\0\0\0\0", 1002),                   // continuation of nothing
            (b"\x01\x80\0\0\0\0\x81\x80\0\0\0\0", 1002),   // message inside a message
            (b"\x82\xff\xff\0\0\0\0\0\0\0\0\0\0\0", 1002), // 64-bit length with its top bit
            (b"\x88\x81\0\0\0\0\x03", 1002),               // half a close code
            (b"\x88\x82\0\0\0\0\x03\xed", 1002),           // 1005 on the wire
            (b"\x88\x83\0\0\0\0\x03\xe8\xff", 1007),       // reason is not UTF-8
            (b"\x81\x81\0\0\0\0\xff", 1007),               // text is not UTF-8
            (b"\x81\x81\0\0\0\0\xc3", 1007),               // text ends inside a character
            (b"\x82\xfe\x01\x01\0\0\0\0", 1009),           // 257 bytes where 256 are allowed
            (b"\x02\xfe\x01\0\0\0\0\0", 0),                // exactly the limit, still open
        ];
        for (wire, code) in cases {
            let said = decode(wire, &[wire.len()], 256);
            let got = said.last().map_or(0, |said| if let Said::Fault(fault) = said { fault.code() } else { 0 });
            assert_eq!(got, *code, "{wire:x?} gave {said:?}");
        }
    }

    /// A frame whose first byte has RSV1 too.
    fn rsv1(opcode: OpCode, last: bool, payload: &[u8]) -> Vec<u8> {
        let mut frame = frame(opcode, last, payload);
        frame[0] |= RSV1;
        frame
    }

    #[test]
    fn compressed_messages_are_told_apart_where_they_were_negotiated() {
        let (text, binary) = (OpCode::Data(Data::Text), OpCode::Data(Data::Binary));
        let wire = [
            rsv1(text, true, b"\xff\xfe"),
            frame(text, true, b"plain"),
            rsv1(binary, false, b"one"),
            frame(OpCode::Control(Control::Ping), true, b"between"),
            frame(OpCode::Data(Data::Continue), true, b"two"),
            frame(text, false, b"pl"),
            frame(OpCode::Data(Data::Continue), true, b"\xff"),
        ]
        .concat();
        let said = [
            Said::Deflated(Kind::Text, b"\xff\xfe".to_vec()),
            Said::Message(Kind::Text, b"plain".to_vec()),
            Said::Ping(b"between".to_vec()),
            Said::Deflated(Kind::Binary, b"onetwo".to_vec()),
            Said::Fault(Fault::NotUtf8),
        ];
        for cut in 1..=wire.len() {
            assert_eq!(decode_by(Decoder::deflating(), &wire, &[cut, wire.len()], 256), said, "cut at {cut}");
        }
        assert_eq!(decode_by(Decoder::deflating(), &wire, &[1], 256), said, "byte by byte");
    }

    #[test]
    fn reserved_bits_are_refused_wherever_compression_has_no_use_for_them() {
        let begun = frame(OpCode::Data(Data::Text), false, b"a");
        for (wire, why) in [
            (rsv1(OpCode::Data(Data::Continue), true, b"a"), "a continuation of nothing"),
            ([begun.clone(), rsv1(OpCode::Data(Data::Continue), true, b"a")].concat(), "a continuation"),
            (rsv1(OpCode::Control(Control::Ping), true, b""), "a ping"),
            (rsv1(OpCode::Control(Control::Close), true, b""), "a close"),
            (b"\xa1\x80\0\0\0\0".to_vec(), "RSV2"),
            (b"\xd1\x80\0\0\0\0".to_vec(), "RSV1 and RSV3"),
        ] {
            let said = decode_by(Decoder::deflating(), &wire, &[1], 256);
            assert_eq!(said, [Said::Fault(Fault::Protocol("reserved bits are set"))], "{why}");
        }
    }

    #[test]
    fn the_limit_counts_all_frames_of_a_message() {
        let wire =
            [frame(OpCode::Data(Data::Binary), false, &[0; 200]), frame(OpCode::Data(Data::Continue), true, &[0; 57])]
                .concat();
        assert_eq!(decode(&wire, &[64], 256), [Said::Fault(Fault::TooBig)]);
        assert_eq!(decode(&wire, &[64], 257).len(), 1);
    }

    #[test]
    fn the_limit_is_of_each_message() {
        let (begin, end) = (OpCode::Data(Data::Binary), OpCode::Data(Data::Continue));
        let message = [frame(begin, false, &[0; 100]), frame(end, true, &[0; 100])].concat();
        let wire = [frame(begin, true, &[0; 200]), message, frame(begin, true, &[0; 200])].concat();
        for size in [1, wire.len()] {
            let said = decode(&wire, &[size], 256);
            assert_eq!(said, vec![Said::Message(Kind::Binary, vec![0; 200]); 3]);
        }
    }

    #[test]
    fn text_is_judged_over_all_frames_of_its_message() {
        let (text, more) = (OpCode::Data(Data::Text), OpCode::Data(Data::Continue));
        let whole = [frame(text, false, b"\xc3"), frame(more, true, b"\xa9")].concat();
        let cut = [frame(text, false, b"a"), frame(more, true, b"\xc3")].concat();
        let broken = [frame(text, false, b"\xc3"), frame(more, true, b"a")].concat();
        let said = |wire: &[u8]| {
            let [at_once, by_byte] = [wire.len(), 1].map(|size| decode(wire, &[size], 256));
            assert_eq!(at_once, by_byte);
            at_once
        };
        let character = Said::Message(Kind::Text, "é".into());
        assert_eq!(said(&[whole.clone(), whole.clone()].concat()), [character.clone(), character.clone()]);
        assert_eq!(said(&[whole.clone(), cut].concat()), [character.clone(), Said::Fault(Fault::NotUtf8)]);
        assert_eq!(said(&[whole, broken].concat()), [character, Said::Fault(Fault::NotUtf8)]);
    }

    proptest! {
        /// Any bytes, however cut: the same items, never a panic, and a fault is the end.
        #[test]
        fn the_cut_does_not_matter(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            sizes in prop::collection::vec(1usize..40, 1..20),
        ) {
            for decoder in [Decoder::default(), Decoder::deflating()] {
                let whole = decode_by(decoder.clone(), &bytes, &[bytes.len().max(1)], 1 << 16);
                let cut = decode_by(decoder, &bytes, &sizes, 1 << 16);
                prop_assert_eq!(whole, cut);
            }
        }
    }
}
