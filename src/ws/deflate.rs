//! F1 · Message compression, RFC 7692 section 7.2: raw DEFLATE without the last four bytes of its flush.
//!
//! Neither side keeps its window from one message to the next, so one [`Deflate`] and one [`Inflate`] serve any number
//! of connections, and a message compressed once may be sent to many. Owns their state and scratch; knows nothing of
//! frames.

use super::decoder::{Fault, Kind};
use super::deflater::WINDOW_BITS_MAX;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// What a flush ends with, and a sender leaves out.
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];
/// An empty last block. It ends the data only if that was whole: a cut block would swallow it.
const END: [u8; 2] = [3, 0];
/// What a flush may take, and the header of a block.
const FLUSH_MAX: usize = 32;
/// Room that the scratch may keep.
const KEEP_MAX: usize = 128 * 1024;
/// The least room that inflation is given at a time.
const STEP_MIN: usize = 4096;

/// Compresses messages. About 300 KB.
#[derive(Debug)]
pub struct Deflate {
    raw: Compress,
    level: Compression,
    out: Vec<u8>,
}

impl Deflate {
    /// `level`: 1 (fast) to 9 (small).
    pub fn new(level: u32) -> Deflate {
        let level = Compression::new(level.clamp(1, 9));
        Deflate { raw: Compress::new(level, false), level, out: Vec::new() }
    }

    /// The payload that stands for `message` in a compressed frame; `None` if it would not be smaller.
    /// `window_bits`: the peer's window, 8 to 15.
    pub fn message(&mut self, message: &[u8], window_bits: u8) -> Option<&[u8]> {
        // A small window is kept by forgetting, not by a compressor of its own: what comes in pieces of its size never
        // refers back beyond it.
        let piece = if window_bits < WINDOW_BITS_MAX { 1 << window_bits } else { message.len().max(1) };
        self.raw.reset();
        self.out.clear();
        self.out.shrink_to(KEEP_MAX);
        // More than the worst input takes, flushes with it.
        self.out.reserve(message.len() + message.len() / 4 + (message.len() / piece + 1) * FLUSH_MAX);
        let mut rest = message;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(piece.min(rest.len()));
            let flush = if later.is_empty() { FlushCompress::Sync } else { FlushCompress::Full };
            let result = self.raw.compress_vec(now, &mut self.out, flush);
            if result.is_err() || self.out.len() == self.out.capacity() {
                // A reset does not do away with output that found no room (zlib-rs 0.6.8): it would panic later.
                self.raw = Compress::new(self.level, false);
                return None;
            }
            rest = later;
        }
        let payload = self.out.strip_suffix(&TAIL)?;
        (payload.len() < message.len()).then_some(payload)
    }
}

/// Undoes it. About 50 KB.
#[derive(Debug)]
pub struct Inflate {
    raw: Decompress,
    out: Vec<u8>,
}

impl Default for Inflate {
    fn default() -> Inflate {
        Inflate { raw: Decompress::new(false), out: Vec::new() }
    }
}

impl Inflate {
    /// The message that `payload` stands for, of at most `limit` bytes; text is UTF-8.
    pub fn message(&mut self, kind: Kind, payload: &[u8], limit: usize) -> Result<&[u8], Fault> {
        self.out.clear();
        self.out.shrink_to(KEEP_MAX);
        self.raw.reset(false);
        if payload.is_empty() {
            // Not what section 7.2.3.6 has an empty message be, but there is nothing else that it could mean.
            return Ok(&self.out);
        }
        // A sender that ends its data for good has no flush to cut short.
        if !self.take(payload, limit)? {
            self.take(&TAIL, limit)?;
            if !self.take(&END, limit)? {
                return Err(Fault::NotDeflate);
            }
        }
        match kind {
            Kind::Text if std::str::from_utf8(&self.out).is_err() => Err(Fault::NotUtf8),
            _ => Ok(&self.out),
        }
    }

    /// Inflates all of `rest`; did the data end with it?
    fn take(&mut self, mut rest: &[u8], limit: usize) -> Result<bool, Fault> {
        loop {
            // One byte more than may be tells that there is more.
            let most = limit.saturating_add(1) - self.out.len();
            self.out.reserve_exact(rest.len().saturating_mul(4).max(self.out.len()).max(STEP_MIN).min(most));
            let (taken, made) = (self.raw.total_in(), self.out.len());
            let status = self.raw.decompress_vec(rest, &mut self.out, FlushDecompress::Sync);
            let ended = matches!(status.map_err(|_| Fault::NotDeflate)?, Status::StreamEnd);
            let taken = (self.raw.total_in() - taken) as usize;
            rest = rest.get(taken..).unwrap_or_default();
            if self.out.len() > limit {
                return Err(Fault::TooBig);
            }
            if ended {
                // A last block may be followed by more of them (section 7.2.3.4).
                self.raw.reset(false);
            }
            let full = self.out.len() == self.out.capacity();
            match (rest.is_empty(), ended) {
                (true, true) => return Ok(true),
                (true, false) if !full => return Ok(false),
                // It took nothing and made nothing, though it could have.
                (false, false) if taken == 0 && made == self.out.len() => return Err(Fault::NotDeflate),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HELLO: &[u8] = b"\xf2\x48\xcd\xc9\xc9\x07\x00";

    fn inflated(payload: &[u8], limit: usize) -> Result<Vec<u8>, Fault> {
        Inflate::default().message(Kind::Binary, payload, limit).map(<[u8]>::to_vec)
    }

    /// Text like a feed's, without end.
    fn feed(len: usize) -> Vec<u8> {
        let lines = (0u64..).flat_map(|i| format!(r#"{{"user":{},"price":{}}}"#, i % 7, i * i % 9973).into_bytes());
        lines.take(len).collect()
    }

    /// Nothing that could be compressed.
    fn noise(len: usize) -> Vec<u8> {
        let states = std::iter::successors(Some(1u64), |state| {
            Some(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407))
        });
        states.map(|state| (state >> 56) as u8).take(len).collect()
    }

    #[test]
    fn reads_the_examples_of_the_rfc() {
        for (payload, what) in [
            (HELLO, "one block"),
            (b"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00", "a stored block"),
            (b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00", "a last block, and a byte after it"),
            (b"\xf3\x48\xcd\xc9\xc9\x07\x00", "a last block and nothing"),
            (b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00", "two blocks"),
        ] {
            assert_eq!(inflated(payload, 5).as_deref(), Ok(&b"Hello"[..]), "{what}");
            assert_eq!(inflated(payload, 4), Err(Fault::TooBig), "{what}");
        }
        assert_eq!(inflated(b"\0", 0).as_deref(), Ok(&b""[..]));
        assert_eq!(inflated(b"", 0).as_deref(), Ok(&b""[..]));
    }

    #[test]
    fn what_is_no_deflate_or_is_cut_is_told() {
        for payload in [&b"\xff"[..], b"\x07", b"Hello", b"\x00\x05\x00\xfb\xff", &[HELLO, b"\xff"].concat()] {
            assert_eq!(inflated(payload, 100), Err(Fault::NotDeflate), "{payload:x?}");
        }
        let mut deflate = Deflate::new(6);
        let message = feed(2000);
        let payload = deflate.message(&message, 15).expect("smaller");
        let whole = (1..payload.len()).filter(|cut| inflated(&payload[..*cut], 4000).is_ok());
        assert_eq!(whole.collect::<Vec<_>>(), [0; 0], "cut and taken for whole");
    }

    #[test]
    fn text_is_checked_once_it_is_inflated() {
        let mut inflate = Inflate::default();
        assert_eq!(inflate.message(Kind::Text, HELLO, 9).map(<[u8]>::len), Ok(5));
        let payload = b"\0\x01\0\xfe\xff\xc3\0";
        assert_eq!(inflate.message(Kind::Text, payload, 9), Err(Fault::NotUtf8));
        assert_eq!(inflate.message(Kind::Binary, payload, 9), Ok(&b"\xc3"[..]), "and goes on after a fault");
    }

    #[test]
    fn a_bomb_costs_no_more_than_its_limit() {
        let mut raw = Compress::new(Compression::new(9), false);
        let mut payload = Vec::with_capacity(1 << 20);
        let zeros = vec![0; 1 << 23];
        raw.compress_vec(&zeros, &mut payload, FlushCompress::Sync).expect("compress");
        let mut inflate = Inflate::default();
        assert_eq!(inflate.message(Kind::Binary, &payload, 655_360), Err(Fault::TooBig));
        assert_eq!(inflate.out.capacity(), 655_361);
        assert_eq!(inflate.message(Kind::Binary, HELLO, 655_360).map(<[u8]>::len), Ok(5));
        assert!(inflate.out.capacity() <= KEEP_MAX);
        // Empty last blocks, each of which ends the data.
        assert_eq!(inflate.message(Kind::Binary, &END.repeat(1 << 12), 9), Ok(&b""[..]));
    }

    #[test]
    fn what_would_not_shrink_stays_as_it_is() {
        let mut deflate = Deflate::new(1);
        for short in [&b""[..], b"a", b"abcdefgh"] {
            assert_eq!(deflate.message(short, 15), None);
        }
        let noise = noise(200_000);
        for len in [200_000, 16_384, 16_384, 100_000] {
            assert!([9, 15].into_iter().all(|bits| deflate.message(&noise[..len], bits).is_none()), "{len}");
        }
        assert!(deflate.message(&feed(1000), 15).is_some(), "and goes on");
        assert!(deflate.out.capacity() <= KEEP_MAX);
    }

    /// A payload's flushed pieces, each as a payload of its own.
    fn pieces(payload: &[u8]) -> Vec<&[u8]> {
        let (mut pieces, mut rest) = (Vec::new(), payload);
        while let Some(at) = rest.windows(4).position(|four| four == TAIL) {
            pieces.push(&rest[..at]);
            rest = &rest[at + 4..];
        }
        pieces.push(rest);
        pieces
    }

    #[test]
    fn a_small_window_is_kept_to() {
        // Repeats itself at a distance that only a large window spans, and within the smallest.
        let message = [noise(1000), vec![b'a'; 4000], noise(1000)].concat();
        for level in [1, 3, 9] {
            let mut deflate = Deflate::new(level);
            assert!(deflate.message(&message, 15).expect("smaller").len() < 1500, "the far repetition is used");
            for bits in 8..=14 {
                let payload = deflate.message(&message, bits).expect("smaller").to_vec();
                assert!(inflated(&payload, message.len()).as_deref() == Ok(&message[..]), "level {level}, {bits} bits");
                // None needs what came before it, and none is longer than the window.
                let alone: Vec<Vec<u8>> =
                    pieces(&payload).iter().flat_map(|piece| inflated(piece, 1 << bits)).collect();
                assert!(alone.concat() == message, "level {level}, {bits} bits");
            }
        }
    }

    #[test]
    fn nothing_of_another_message_can_be_had() {
        let mut inflate = Inflate::default();
        let secret = [&b"\0\x06\0\xf9\xffsecret"[..], b"\0"].concat();
        assert_eq!(inflate.message(Kind::Binary, &secret, 99), Ok(&b"secret"[..]));
        // Three bytes from one before the beginning.
        assert_eq!(inflate.message(Kind::Binary, b"\x02\x02\0", 99), Err(Fault::NotDeflate));
    }

    fn message() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop_oneof![Just(b'a'), any::<u8>()], 0..3000)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Whatever goes in comes out, whatever was said before it.
        #[test]
        fn there_and_back(
            messages in prop::collection::vec(message(), 1..4),
            level in 1u32..10,
            bits in 8u8..16,
        ) {
            let (mut deflate, mut inflate) = (Deflate::new(level), Inflate::default());
            for message in messages {
                if let Some(payload) = deflate.message(&message, bits) {
                    prop_assert!(payload.len() < message.len());
                    prop_assert_eq!(inflate.message(Kind::Binary, payload, message.len()), Ok(&message[..]));
                }
            }
        }

        /// Any bytes inflate within the limit or are refused; and the next message is none the worse.
        #[test]
        fn any_bytes_are_bounded(bytes in prop::collection::vec(any::<u8>(), 0..200), limit in 0usize..5000) {
            let mut inflate = Inflate::default();
            if let Ok(message) = inflate.message(Kind::Binary, &bytes, limit) {
                prop_assert!(message.len() <= limit);
            }
            prop_assert_eq!(inflate.message(Kind::Text, HELLO, 5), Ok(&b"Hello"[..]));
        }
    }
}
