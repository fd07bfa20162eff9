//! The mark every measured message carries: which run, which speaker, its number, and when it was due.
//!
//! Forty-four ASCII characters that survive inside a JSON string, a Protobuf field or any wrapping a server puts
//! around them, because a reader looks for the mark anywhere in a message. The time is the moment the message was
//! *due*, not the moment it was written: a generator or server that falls behind shows up as latency and is not
//! left out (no coordinated omission). Never knows who sends or counts.

use memchr::memmem;

/// Bytes of a stamp; no stamped payload is shorter.
pub const LEN: usize = 44;

const MARK: &[u8; 4] = b"gnt:";

/// What is known of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// One number for a whole run, so that messages of another run are told apart.
    pub run: u32,
    /// The client that spoke.
    pub speaker: u32,
    /// Counts from 0 for each speaker.
    pub sequence: u32,
    /// When it was due, in nanoseconds of the run's clock: the monotonic one of the host, or of the controller's host.
    pub due: u64,
}

impl Stamp {
    /// Appends the stamp, and fills up to `size` bytes.
    pub fn write(&self, size: usize, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(MARK);
        hex(u64::from(self.run), 8, out);
        hex(u64::from(self.speaker), 8, out);
        hex(u64::from(self.sequence), 8, out);
        hex(self.due, 16, out);
        out.resize(start + size.max(LEN), b'x');
    }

    /// The first stamp in `bytes`.
    pub fn find(bytes: &[u8]) -> Option<Self> {
        let from = memmem::find(bytes, MARK)?;
        let text = bytes.get(from..from + LEN)?;
        Some(Self {
            run: u32::try_from(unhex(&text[4..12])?).ok()?,
            speaker: u32::try_from(unhex(&text[12..20])?).ok()?,
            sequence: u32::try_from(unhex(&text[20..28])?).ok()?,
            due: unhex(&text[28..])?,
        })
    }
}

fn hex(value: u64, digits: u32, out: &mut Vec<u8>) {
    let shifts = (0..digits).rev().map(|digit| digit * 4);
    out.extend(shifts.map(|shift| b"0123456789abcdef"[((value >> shift) & 0xf) as usize]));
}

fn unhex(text: &[u8]) -> Option<u64> {
    text.iter().try_fold(0, |sum, byte| Some(sum << 4 | u64::from(char::from(*byte).to_digit(16)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_found_again_inside_anything() {
        let stamp = Stamp { run: 0xfeed_0001, speaker: 999_999, sequence: u32::MAX, due: u64::MAX - 7 };
        for size in [0, LEN, LEN + 1, 500] {
            let mut text = b"{\"data\":\"".to_vec();
            let before = text.len();
            stamp.write(size, &mut text);
            assert_eq!(text.len() - before, size.max(LEN));
            text.extend_from_slice(b"\"}");
            assert_eq!(Stamp::find(&text), Some(stamp));
            assert!(text.is_ascii());
        }
    }

    #[test]
    fn what_is_not_a_stamp_is_none() {
        for text in [&b""[..], b"hello", b"gnt:", b"gnt:000000000000000000000000000000000000000g"] {
            assert_eq!(Stamp::find(text), None);
        }
    }
}
