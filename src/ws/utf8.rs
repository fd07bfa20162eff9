//! F1 · UTF-8 that arrives in pieces: refused at the first byte that cannot belong, not at the end of the message.

/// What the pieces so far left open: at most three bytes of an unfinished character. 4 bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Utf8 {
    open: [u8; 3],
    len: u8,
}

impl Utf8 {
    /// Takes the next piece; false as soon as the text so far cannot become valid UTF-8.
    pub fn push(&mut self, mut piece: &[u8]) -> bool {
        while self.len > 0 {
            let Some((&byte, rest)) = piece.split_first() else { return true };
            let len = usize::from(self.len);
            let mut seen = [0u8; 4];
            seen[..len].copy_from_slice(&self.open[..len]);
            seen[len] = byte;
            piece = rest;
            match std::str::from_utf8(&seen[..=len]) {
                Ok(_) => self.len = 0,
                Err(e) if e.error_len().is_some() => return false,
                // A fourth byte always decides, so an unfinished one has at most three.
                Err(_) if len < 3 => {
                    self.open[len] = byte;
                    self.len += 1;
                }
                Err(_) => return false,
            }
        }
        match std::str::from_utf8(piece) {
            Ok(_) => true,
            Err(e) if e.error_len().is_some() => false,
            Err(e) => {
                let open = &piece[e.valid_up_to()..];
                self.open[..open.len()].copy_from_slice(open);
                self.len = open.len() as u8;
                true
            }
        }
    }

    /// Is the text whole, no character left open?
    pub fn is_whole(self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fails_at_the_byte_that_cannot_belong() {
        let mut text = Utf8::default();
        assert!(text.push(b"\xce\xba\xf4"), "an open start");
        assert!(!text.push(b"\x90"), "beyond U+10FFFF, known at the second byte");
    }

    proptest! {
        /// However it is cut, the verdict is that of the whole.
        #[test]
        fn agrees_with_the_whole(
            bytes in prop::collection::vec(
                prop_oneof![Just(0xf0u8), Just(0x9f), Just(0x98), Just(0x80), Just(0xc3), Just(b'a'), any::<u8>()],
                0..12,
            ),
            cuts in prop::collection::vec(1usize..4, 0..12),
        ) {
            let (mut text, mut rest, mut alive) = (Utf8::default(), &bytes[..], true);
            for cut in cuts {
                let (piece, tail) = rest.split_at(cut.min(rest.len()));
                alive = alive && text.push(piece);
                rest = tail;
            }
            alive = alive && text.push(rest);
            prop_assert_eq!(alive && text.is_whole(), std::str::from_utf8(&bytes).is_ok());
        }
    }
}
