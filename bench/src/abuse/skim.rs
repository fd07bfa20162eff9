//! What an attacker looks at of what it reads: how many frames, pings, and the code of a close. Nothing is kept.

/// What one read brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub frames: u64,
    /// Pings of the client protocol, which want a pong.
    pub pings: u64,
    /// Ping frames of WebSocket's own.
    pub ping_frames: u64,
    /// Code of a close frame; 1005 if it had none.
    pub closed: Option<u16>,
}

/// The reading side of one connection, between two reads.
#[derive(Clone, Copy, Debug, Default)]
pub struct Skim {
    head: [u8; 10],
    head_len: u8,
    /// Payload bytes of the frame still to come.
    left: u64,
    start: [u8; 2],
    start_len: u8,
}

impl Skim {
    /// Takes what was read. Frames of a server are believed to be well made: that is looked at elsewhere.
    pub fn take(&mut self, mut bytes: &[u8], seen: &mut Seen) {
        while let [first, rest @ ..] = bytes {
            if self.left == 0 {
                bytes = rest;
                self.take_head(*first, seen);
                continue;
            }
            let size = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
            for byte in &bytes[..size.min(2 - usize::from(self.start_len))] {
                self.start[usize::from(self.start_len)] = *byte;
                self.start_len += 1;
            }
            self.left -= size as u64;
            bytes = &bytes[size..];
            if self.left == 0 {
                self.end(seen);
            }
        }
    }

    fn take_head(&mut self, byte: u8, seen: &mut Seen) {
        self.head[usize::from(self.head_len)] = byte;
        self.head_len += 1;
        let need = match self.head[1] & 0x7f {
            _ if self.head_len < 2 => return,
            126 => 4,
            127 => 10,
            _ => 2,
        };
        if self.head_len < need {
            return;
        }
        self.left = match need {
            2 => u64::from(self.head[1] & 0x7f),
            _ => self.head[2..usize::from(need)].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
        };
        (self.head_len, self.start_len) = (0, 0);
        if self.left == 0 {
            self.end(seen);
        }
    }

    fn end(&mut self, seen: &mut Seen) {
        seen.frames += 1;
        let whole = self.head[1] & 0x7f == 2 && self.start_len == 2;
        match self.head[0] & 0x0f {
            8 if self.start_len == 2 => seen.closed = Some(u16::from_be_bytes(self.start)),
            8 => seen.closed = Some(1005),
            9 => seen.ping_frames += 1,
            1 if whole && self.start == *b"{}" => seen.pings += 1,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_pings_and_a_close_are_seen_at_every_split() {
        let mut bytes = vec![0x81, 2, b'{', b'}', 0x81, 126, 1, 0];
        bytes.extend([b'x'; 256]);
        bytes.extend([0x89, 0, 0x81, 3, b'{', b'}', b' ', 0x88, 4, 0x0b, 0xc0, b'n', b'o']);
        for split in 0..=bytes.len() {
            let (mut skim, mut seen) = (Skim::default(), Seen::default());
            skim.take(&bytes[..split], &mut seen);
            skim.take(&bytes[split..], &mut seen);
            let wanted = Seen { frames: 5, pings: 1, ping_frames: 1, closed: Some(3008) };
            assert_eq!(seen, wanted, "split at {split}");
        }
    }

    #[test]
    fn a_close_without_a_code_is_1005() {
        let mut seen = Seen::default();
        Skim::default().take(&[0x88, 0], &mut seen);
        assert_eq!(seen.closed, Some(1005));
    }
}
