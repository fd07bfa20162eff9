//! F1 · Frames to a client: never masked (RFC 6455 section 5.1), never fragmented.

use super::Opcode;
use bytes::Bytes;

/// Bytes of the longest header a server writes.
pub const HEADER_MAX: usize = 10;
/// Bytes a control frame may carry, section 5.5.
pub const CONTROL_PAYLOAD_MAX: usize = 125;
/// In a frame's first byte: its message is compressed (RFC 7692 section 6).
pub const RSV1: u8 = 0x40;

/// Appends the header of a frame of `len` bytes.
pub fn push_header(out: &mut Vec<u8>, opcode: Opcode, len: usize) {
    push_header_by(out, 0x80 | opcode as u8, len);
}

fn push_header_by(out: &mut Vec<u8>, first: u8, len: usize) {
    match len {
        0..=125 => out.extend_from_slice(&[first, len as u8]),
        126..=0xffff => {
            let [a, b] = (len as u16).to_be_bytes();
            out.extend_from_slice(&[first, 126, a, b]);
        }
        _ => {
            out.extend_from_slice(&[first, 127]);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
}

/// Bytes of that header.
fn header_size(len: usize) -> usize {
    match len {
        0..=125 => 2,
        126..=0xffff => 4,
        _ => HEADER_MAX,
    }
}

/// Appends a whole frame.
pub fn push_frame(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) {
    push_header(out, opcode, payload.len());
    out.extend_from_slice(payload);
}

/// Appends a whole frame whose payload is compressed.
pub fn push_deflated_frame(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) {
    push_header_by(out, 0x80 | RSV1 | opcode as u8, payload.len());
    out.extend_from_slice(payload);
}

/// A whole frame, to be shared.
pub fn frame(opcode: Opcode, payload: &[u8]) -> Bytes {
    // Exactly as long as it gets, so that it becomes shared without another allocation.
    let mut out = Vec::with_capacity(header_size(payload.len()) + payload.len());
    push_frame(&mut out, opcode, payload);
    out.into()
}

/// A whole frame whose payload is compressed, to be shared.
pub fn deflated_frame(opcode: Opcode, payload: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(header_size(payload.len()) + payload.len());
    push_deflated_frame(&mut out, opcode, payload);
    out.into()
}

/// A ping, pong or close. `payload` is cut at [`CONTROL_PAYLOAD_MAX`].
pub fn control_frame(opcode: Opcode, payload: &[u8]) -> Bytes {
    frame(opcode, payload.get(..CONTROL_PAYLOAD_MAX).unwrap_or(payload))
}

/// A close frame; the reason is cut, between characters, to the 123 bytes that fit.
pub fn close_frame(code: u16, reason: &str) -> Bytes {
    let mut end = reason.len().min(CONTROL_PAYLOAD_MAX - 2);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let mut payload = Vec::with_capacity(2 + end);
    payload.extend(code.to_be_bytes());
    payload.extend(reason.bytes().take(end));
    frame(Opcode::Close, &payload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tungstenite::protocol::frame::FrameHeader;

    #[test]
    fn headers_read_back_by_tungstenite() {
        for len in [0usize, 1, 125, 126, 65_535, 65_536, 1 << 20] {
            let mut out = Vec::new();
            push_header(&mut out, Opcode::Binary, len);
            let (header, read) = FrameHeader::parse(&mut std::io::Cursor::new(&out)).expect("valid").expect("whole");
            assert_eq!((read, header.is_final, header.mask), (len as u64, true, None));
            assert_eq!(out.len(), header_size(len));
        }
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let frame = close_frame(3501, &"é".repeat(100));
        assert_eq!(frame.len(), 2 + 2 + 122);
        assert!(std::str::from_utf8(&frame[4..]).is_ok());
    }
}
