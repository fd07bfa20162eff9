//! F1 · The one compressor of a reactor, which messages are worth it, and what came of it.
//!
//! Off unless the configuration says so. Knows nothing of frames.

use super::Deflate;
use crate::config::WebSocket;

/// The window that needs no limit, RFC 7692 section 7.1.2.1: what is compressed for it is for every peer that set none.
pub const WINDOW_BITS_MAX: u8 = 15;

#[derive(Debug, Default)]
pub struct Deflater {
    /// Absent if compression is off.
    deflate: Option<Deflate>,
    min_size: usize,
    pub tally: Tally,
}

/// What was compressed since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Messages that got smaller.
    pub messages: u64,
    /// Messages that would not have, and were left as they are.
    pub in_vain: u64,
    /// Bytes of the first, before and after.
    pub before: u64,
    pub after: u64,
}

impl Deflater {
    pub fn new(config: &WebSocket) -> Deflater {
        let deflate = config.compression.then(|| Deflate::new(config.compression_level));
        Deflater { deflate, min_size: config.compression_min_size, tally: Tally::default() }
    }

    /// The compressed payload for a peer with that window (0 = it takes none); `None` to send `message` as it is.
    pub fn payload(&mut self, message: &[u8], window_bits: u8) -> Option<&[u8]> {
        if window_bits == 0 || message.len() < self.min_size {
            return None;
        }
        let payload = self.deflate.as_mut()?.message(message, window_bits);
        match payload {
            Some(payload) => {
                self.tally.messages += 1;
                self.tally.before += message.len() as u64;
                self.tally.after += payload.len() as u64;
            }
            None => self.tally.in_vain += 1,
        }
        payload
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_messages_and_peers_that_offered_nothing_get_none() {
        let config = WebSocket { compression: true, compression_min_size: 100, ..WebSocket::default() };
        let mut deflater = Deflater::new(&config);
        let size = deflater.payload(&[b'a'; 100], 15).expect("smaller").len() as u64;
        assert!(deflater.payload(&[b'a'; 99], 15).is_none() && deflater.payload(&[b'a'; 100], 0).is_none());
        let different: Vec<u8> = (0..100).collect();
        assert!(deflater.payload(&different, 15).is_none());
        assert_eq!(deflater.tally, Tally { messages: 1, in_vain: 1, before: 100, after: size });
        assert!(Deflater::new(&WebSocket::default()).payload(&[b'a'; 100], 15).is_none());
    }
}
