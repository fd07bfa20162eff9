//! What attackers send: heads, frames, batches of commands, compressed messages.

use flate2::{Compress, Compression, FlushCompress};

use super::SECRET;
use crate::centrifugal;
use crate::wire::masked_frame;

/// What a message of a client may have, by default.
pub const MESSAGE: usize = 65_536;

pub const TEXT: u8 = 0x81;
pub const BINARY: u8 = 0x82;
/// In a frame's first byte: more of the message follows.
pub const UNFINISHED: u8 = 0x01;
/// A continuation that is not the last.
pub const CONTINUED: u8 = 0x00;
pub const PING: u8 = 0x89;
const PONG: u8 = 0x8a;
/// In a frame's first byte: the message is compressed.
const COMPRESSED: u8 = 0x40;

/// One masked frame.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 14);
    masked_frame(&mut out, first, payload);
    out
}

/// A text message.
pub fn message(text: &str) -> Vec<u8> {
    frame(TEXT, text.as_bytes())
}

/// The answer to a ping of the client protocol.
pub fn pong() -> Vec<u8> {
    message(centrifugal::PING)
}

/// The answer to an empty ping frame.
pub fn pong_frame() -> Vec<u8> {
    frame(PONG, b"")
}

/// The same bytes so often that they fill what is sent in one go.
pub fn repeated(unit: &[u8]) -> Vec<u8> {
    unit.repeat((MESSAGE / unit.len().max(1)).max(1))
}

/// One message of as many commands as it may have; `command` writes the one with a number.
pub fn batch(command: impl FnMut(u64) -> String) -> Vec<u8> {
    frame(TEXT, lines(MESSAGE, command).as_bytes())
}

/// Commands, one a line, in at most so many bytes.
pub fn lines(most: usize, mut command: impl FnMut(u64) -> String) -> String {
    let mut text = String::with_capacity(most);
    for number in 0.. {
        let line = command(number);
        if text.len() + line.len() + 1 > most {
            break;
        }
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&line);
    }
    text
}

/// A compressed text message.
pub fn deflated(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 64);
    let mut raw = Compress::new(Compression::new(9), false);
    // The room is enough for text that does not compress at all, and a flush ends it with 00 00 ff ff.
    let ended = raw.compress_vec(text, &mut out, FlushCompress::Sync);
    debug_assert!(ended.is_ok() && raw.total_in() == text.len() as u64);
    out.truncate(out.len().saturating_sub(4));
    frame(TEXT | COMPRESSED, &out)
}

/// A compressed message that inflates to so many MiB: about a thousandth of that.
pub fn bomb(mib: usize) -> Vec<u8> {
    let mut piece = Vec::with_capacity(4096);
    let mut raw = Compress::new(Compression::new(9), false);
    let ended = raw.compress_vec(&vec![b' '; 1 << 20], &mut piece, FlushCompress::Full);
    debug_assert!(ended.is_ok() && raw.total_in() == 1 << 20);
    let mut all = piece.repeat(mib);
    all.truncate(all.len().saturating_sub(4));
    frame(TEXT | COMPRESSED, &all)
}

/// The head of a WebSocket handshake.
pub fn upgrade(path: &str, lines: &[&str]) -> Vec<u8> {
    let head = crate::fleet::upgrade_request(path);
    let more: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    format!("{}{more}\r\n", head.strip_suffix("\r\n").unwrap_or(&head)).into_bytes()
}

/// The connect command of the user `attacker`.
pub fn connect_attacker() -> String {
    // A token cannot fail to be made of a short text and a key.
    centrifugal::connect(centrifugal::token(SECRET, "attacker").ok().as_deref())
}

pub fn subscribe(id: u64, channel: &str) -> String {
    format!(r#"{{"subscribe":{{"channel":"{channel}"}},"id":{id}}}"#)
}

pub fn unsubscribe(id: u64, channel: &str) -> String {
    format!(r#"{{"unsubscribe":{{"channel":"{channel}"}},"id":{id}}}"#)
}

pub fn history(id: u64, channel: &str, limit: u32) -> String {
    format!(r#"{{"history":{{"channel":"{channel}","limit":{limit}}},"id":{id}}}"#)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_one_message_within_the_limit() {
        let bytes = batch(|id| subscribe(id + 2, "a"));
        assert_eq!((bytes[0], bytes[1] & 0x7f), (TEXT, 126));
        let size = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
        assert_eq!(bytes.len(), size + 8);
        assert!(size <= MESSAGE && size > MESSAGE - 60, "{size}");
    }

    #[test]
    fn a_head_ends_with_one_empty_line() {
        let head = String::from_utf8(upgrade("/x", &["Origin: http://a"])).expect("text");
        assert!(head.starts_with("GET /x HTTP/1.1\r\n") && head.ends_with("\r\nOrigin: http://a\r\n\r\n"), "{head}");
        assert_eq!(head.matches("\r\n\r\n").count(), 1);
        assert!(String::from_utf8(upgrade("/x", &[])).expect("text").ends_with("13\r\n\r\n"));
    }

    #[test]
    fn what_is_deflated_is_small_and_marked() {
        let bytes = deflated(&[b'0'; 100_000]);
        assert_eq!(bytes[0], 0xc1);
        assert!(bytes.len() < 300, "{}", bytes.len());
    }
}
