//! Server frames read from a slice: a client that waits keeps no byte.

use std::io;

use crate::wire::MASK;

/// A whole frame.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    Text(&'a [u8]),
    /// Its code; 1005 if it has none.
    Close(u16),
    /// A ping or pong of WebSocket's own; no server here sends one.
    Other,
}

/// The first frame in `bytes` and what follows it, or nothing while it is not whole.
pub fn next(bytes: &[u8]) -> io::Result<Option<(Frame<'_>, &[u8])>> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    if second & 0x80 != 0 || first & 0xf0 != 0x80 {
        return Err(io::Error::other(format!("unexpected frame head {first:02x} {second:02x}")));
    }
    let (size, rest) = match (second, rest) {
        (127, _) => match rest.split_first_chunk() {
            Some((size, rest)) => (usize::try_from(u64::from_be_bytes(*size)).map_err(io::Error::other)?, rest),
            None => return Ok(None),
        },
        (126, [high, low, rest @ ..]) => (usize::from(u16::from_be_bytes([*high, *low])), rest),
        (126, _) => return Ok(None),
        (size, rest) => (usize::from(*size), rest),
    };
    let Some((payload, rest)) = rest.split_at_checked(size) else { return Ok(None) };
    let frame = match (first & 0x0f, payload) {
        (1, text) => Frame::Text(text),
        (8, [high, low, ..]) => Frame::Close(u16::from_be_bytes([*high, *low])),
        (8, _) => Frame::Close(1005),
        _ => Frame::Other,
    };
    Ok(Some((frame, rest)))
}

/// The answer to a close frame.
pub fn close_reply(code: u16) -> [u8; 8] {
    let [high, low] = code.to_be_bytes();
    [0x88, 0x82, MASK[0], MASK[1], MASK[2], MASK[3], high ^ MASK[0], low ^ MASK[1]]
}

/// The number after `"sent":` in a publication.
pub fn stamp(push: &[u8]) -> Option<u64> {
    const KEY: &[u8] = b"\"sent\":";
    let at = memchr::memmem::find(push, KEY)? + KEY.len();
    let digits = push[at..].iter().take_while(|byte| byte.is_ascii_digit());
    Some(digits.fold(0, |sum: u64, digit| sum.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_frames_come_out_one_by_one_and_cut_ones_wait() {
        let long = [b'x'; 300];
        let mut bytes = vec![0x81, 2, b'{', b'}', 0x81, 126, 1, 44];
        bytes.extend_from_slice(&long);
        bytes.extend_from_slice(&[0x88, 4, 0x0b, 0xb9, b'g', b'o']);
        let (frame, rest) = next(&bytes).expect("valid").expect("whole");
        assert_eq!(frame, Frame::Text(b"{}"));
        for cut in 0..304 {
            assert_eq!(next(&rest[..cut]).expect("valid"), None, "cut at {cut}");
        }
        let (frame, rest) = next(rest).expect("valid").expect("whole");
        assert_eq!(frame, Frame::Text(&long));
        assert_eq!(next(rest).expect("valid"), Some((Frame::Close(3001), &[][..])));
        assert!(next(&[0x01, 0]).is_err(), "a fragment");
        let longer = [&[0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0][..], &[b'y'; 65536]].concat();
        assert_eq!(next(&longer).expect("valid"), Some((Frame::Text(&longer[10..]), &[][..])));
        for cut in [2, 9, 10, longer.len() - 1] {
            assert_eq!(next(&longer[..cut]).expect("valid"), None, "cut at {cut}");
        }
    }

    #[test]
    fn a_stamp_is_found() {
        assert_eq!(stamp(br#"{"push":{"pub":{"data":{"sent":12345,"pad":""}}}}"#), Some(12345));
        assert_eq!(stamp(b"{}"), None);
    }
}
