//! F5 · The one compressor of a reactor, and which messages are worth it.

use crate::config::WebSocket;
use crate::ws::Deflate;

#[derive(Debug, Default)]
pub struct Deflater {
    /// Absent if compression is off.
    deflate: Option<Deflate>,
    min_size: usize,
}

impl Deflater {
    pub fn new(config: &WebSocket) -> Deflater {
        let deflate = config.compression.then(|| Deflate::new(config.compression_level));
        Deflater { deflate, min_size: config.compression_min_size }
    }

    /// The compressed payload for a peer with that window (0 = it takes none); `None` to send `message` as it is.
    pub fn payload(&mut self, message: &[u8], window_bits: u8) -> Option<&[u8]> {
        if window_bits == 0 || message.len() < self.min_size {
            return None;
        }
        self.deflate.as_mut()?.message(message, window_bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_messages_and_peers_that_offered_nothing_get_none() {
        let config = WebSocket { compression: true, compression_min_size: 100, ..WebSocket::default() };
        let mut deflater = Deflater::new(&config);
        assert!(deflater.payload(&[b'a'; 100], 15).is_some());
        assert!(deflater.payload(&[b'a'; 99], 15).is_none() && deflater.payload(&[b'a'; 100], 0).is_none());
        assert!(Deflater::new(&WebSocket::default()).payload(&[b'a'; 100], 15).is_none());
    }
}
