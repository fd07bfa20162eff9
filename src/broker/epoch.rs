//! F3 · Which life of a stream a position belongs to.
//!
//! Owns the text that tells one life from another, and the mark by which a hub compares them. Whoever lost its memory
//! begins another life. Ours have eight letters, as Centrifugo's; what other nodes keep may have any text.

use foldhash::fast::FixedState;
use std::fmt;
use std::hash::BuildHasher;
use std::sync::Arc;

/// Which life of a stream.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Epoch(Text);

/// Eight bytes need no memory of their own.
#[derive(Clone, PartialEq, Eq)]
enum Text {
    /// Up to eight bytes of UTF-8, and zeros.
    Short([u8; 8]),
    Long(Arc<str>),
}

const _: () = assert!(size_of::<Epoch>() <= 16);

impl Default for Text {
    fn default() -> Text {
        Text::Short([0; 8])
    }
}

impl Epoch {
    /// Of a channel without a stream.
    pub const NONE: Epoch = Epoch(Text::Short([0; 8]));

    /// From any 64 random bits.
    pub fn random(bits: u64) -> Epoch {
        Epoch(Text::Short(bits.to_le_bytes().map(|byte| b'a' + byte % 26)))
    }

    pub fn as_str(&self) -> &str {
        match &self.0 {
            Text::Short(bytes) => {
                let len = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
                std::str::from_utf8(&bytes[..len]).unwrap_or_default()
            }
            Text::Long(text) => text,
        }
    }

    pub fn mark(&self) -> EpochMark {
        match &self.0 {
            Text::Short(bytes) => EpochMark(*bytes),
            Text::Long(text) => EpochMark::of_long(text),
        }
    }
}

impl From<&str> for Epoch {
    fn from(text: &str) -> Epoch {
        match short(text) {
            Some(bytes) => Epoch(Text::Short(bytes)),
            None => Epoch(Text::Long(text.into())),
        }
    }
}

/// A text that needs no memory of its own.
fn short(text: &str) -> Option<[u8; 8]> {
    let mut bytes = [0; 8];
    bytes.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
    (!text.contains('\0')).then_some(bytes)
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl PartialEq<str> for Epoch {
    fn eq(&self, text: &str) -> bool {
        self.as_str() == text
    }
}

/// An epoch in eight bytes: its text, or a hash of a longer one. Only for comparing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EpochMark([u8; 8]);

impl EpochMark {
    /// Of [`Epoch::NONE`].
    pub const NONE: EpochMark = EpochMark([0; 8]);

    /// The text, unless it was a longer one.
    pub fn epoch(self) -> Option<Epoch> {
        (self.0[0] != 0xff).then_some(Epoch(Text::Short(self.0)))
    }

    fn of_long(text: &str) -> EpochMark {
        // No text has a byte of this value, so it is taken for no short one.
        let mut hash = FixedState::with_seed(0).hash_one(text).to_le_bytes();
        hash[0] = 0xff;
        EpochMark(hash)
    }
}

impl PartialEq<str> for EpochMark {
    fn eq(&self, text: &str) -> bool {
        *self == short(text).map_or_else(|| EpochMark::of_long(text), EpochMark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_is_an_epoch_and_has_a_mark_of_its_own() {
        let texts = ["", "a", "abcdefgh", "abcdefghi", "abcdefghj", "größer", "a\0b", "\0", "01234567-89ab-cdef"];
        for one in texts {
            let epoch = Epoch::from(one);
            assert_eq!((epoch.as_str(), epoch.to_string().as_str()), (one, one));
            for other in texts {
                let (same, made) = (one == other, Epoch::from(other));
                assert_eq!((epoch == *other, epoch == made), (same, same), "{one:?} {other:?}");
                let marks = (epoch.mark() == *other, epoch.mark() == made.mark());
                assert_eq!(marks, (same, same), "{one:?} {other:?}");
            }
        }
        assert_eq!((Epoch::from(""), Epoch::default().mark()), (Epoch::NONE, EpochMark::NONE));
        assert_eq!(Epoch::random(7).as_str().len(), 8);
    }
}
