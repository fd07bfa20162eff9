//! F1 · The body of a request, as it comes in pieces: of a known length, or in chunks (RFC 9112 sections 6 and 7).
//!
//! Owns how long it is and where it ends. Keeps no bytes: what is of the body goes to its reader.

use super::Head;

/// Bytes that may be left for the next read: of a chunk's size line, or of a line after the last chunk.
pub const TAIL_MAX: usize = 128;

/// Why a body is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyError {
    /// 400.
    Malformed,
    /// 411.
    NoLength,
    /// 413.
    TooLarge,
}

/// What is still to come of a body.
#[derive(Debug, PartialEq, Eq)]
pub struct Body(Next);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// So many bytes, and it is whole.
    Rest(u64),
    /// The line with a chunk's size.
    Size,
    /// So many bytes of a chunk.
    Chunk(u64),
    /// The line end behind a chunk.
    ChunkEnd,
    /// The lines behind the last chunk, up to a blank one.
    Trailer,
}

/// How a request says where it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// With its head.
    None,
    /// So many bytes behind its head.
    Length(u64),
    Chunked,
}

impl Framing {
    /// # Errors
    /// [`BodyError::Malformed`]: a proxy in front might find another end than this server.
    pub fn of(head: &Head<'_>) -> Result<Framing, BodyError> {
        match (head.count("transfer-encoding"), head.count("content-length")) {
            (0, 0) => Ok(Framing::None),
            (0, 1) => {
                let digits = head.only("content-length").unwrap_or("").trim();
                let sound = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
                // More digits than fit are too many bytes.
                let length = sound.then(|| digits.parse().unwrap_or(u64::MAX));
                length.map(Framing::Length).ok_or(BodyError::Malformed)
            }
            (1, 0) if head.minor >= 1 && head.only("transfer-encoding").is_some_and(is_chunked) => Ok(Framing::Chunked),
            // Both, or more than one.
            _ => Err(BodyError::Malformed),
        }
    }

    /// Does anything come behind the head?
    pub fn has_body(self) -> bool {
        !matches!(self, Framing::None | Framing::Length(0))
    }
}

impl Body {
    /// The body that `head` announces, of at most `limit` bytes if it says how many.
    pub fn of(head: &Head<'_>, limit: usize) -> Result<Body, BodyError> {
        match Framing::of(head)? {
            Framing::None => Err(BodyError::NoLength),
            Framing::Length(length) if length > limit as u64 => Err(BodyError::TooLarge),
            Framing::Length(length) => Ok(Body(Next::Rest(length))),
            Framing::Chunked => Ok(Body(Next::Size)),
        }
    }

    /// Takes what `input` has of the body and appends it to `out`, which may grow to `limit` bytes. Bytes used, and
    /// whether the body is whole; at most [`TAIL_MAX`] bytes are left while it is not.
    pub fn take(&mut self, input: &[u8], out: &mut Vec<u8>, limit: usize) -> Result<(usize, bool), BodyError> {
        let mut rest = input;
        loop {
            let before = rest.len();
            match self.0 {
                Next::Rest(left) => {
                    let left = move_bytes(left, &mut rest, out);
                    self.0 = Next::Rest(left);
                    return Ok((input.len() - rest.len(), left == 0));
                }
                Next::Size => {
                    let Some((size, used)) = chunk_size(rest)? else { return Ok((input.len() - before, false)) };
                    if size > limit.saturating_sub(out.len()) as u64 {
                        return Err(BodyError::TooLarge);
                    }
                    rest = rest.get(used..).unwrap_or_default();
                    self.0 = if size == 0 { Next::Trailer } else { Next::Chunk(size) };
                }
                Next::Chunk(left) => match move_bytes(left, &mut rest, out) {
                    0 => self.0 = Next::ChunkEnd,
                    left => {
                        self.0 = Next::Chunk(left);
                        return Ok((input.len() - rest.len(), false));
                    }
                },
                Next::ChunkEnd | Next::Trailer => {
                    let Some(line) = line(&mut rest)? else { return Ok((input.len() - before, false)) };
                    match (self.0, line.is_empty()) {
                        (Next::ChunkEnd, true) => self.0 = Next::Size,
                        (Next::ChunkEnd, false) => return Err(BodyError::Malformed),
                        (_, true) => return Ok((input.len() - rest.len(), true)),
                        (_, false) => {}
                    }
                }
            }
        }
    }
}

fn is_chunked(codings: &str) -> bool {
    codings.trim().eq_ignore_ascii_case("chunked")
}

/// Moves at most `left` bytes to `out`; how many are still missing.
fn move_bytes(left: u64, rest: &mut &[u8], out: &mut Vec<u8>) -> u64 {
    let count = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
    let (taken, behind) = rest.split_at(count);
    out.extend_from_slice(taken);
    *rest = behind;
    left - count as u64
}

/// A chunk's size and the bytes of its line; `None` while it is cut.
fn chunk_size(rest: &[u8]) -> Result<Option<(u64, usize)>, BodyError> {
    let line = rest.get(..TAIL_MAX).unwrap_or(rest);
    match httparse::parse_chunk_size(line) {
        Ok(httparse::Status::Complete((used, size))) => Ok(Some((size, used))),
        Ok(httparse::Status::Partial) if rest.len() < TAIL_MAX => Ok(None),
        _ => Err(BodyError::Malformed),
    }
}

/// The line at the front, without its end; `None` while it is cut.
fn line<'a>(rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>, BodyError> {
    match rest.iter().take(TAIL_MAX).position(|&byte| byte == b'\n') {
        Some(at) => {
            let (line, behind) = rest.split_at(at);
            *rest = behind.get(1..).unwrap_or_default();
            Ok(Some(line.strip_suffix(b"\r").unwrap_or(line)))
        }
        None if rest.len() < TAIL_MAX => Ok(None),
        None => Err(BodyError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(lines: &str, limit: usize) -> Result<Body, BodyError> {
        let request = format!("POST / HTTP/1.1\r\n{lines}\r\n");
        Body::of(&Head::parse(request.as_bytes()).expect("sound").expect("whole"), limit)
    }

    /// What is read of `input` when it comes `step` bytes at a time: the body and what is behind it.
    fn read(lines: &str, input: &[u8], step: usize) -> Result<(String, usize), BodyError> {
        let mut body = body(lines, 20)?;
        let (mut out, mut held, mut seen) = (Vec::new(), Vec::new(), 0);
        for piece in input.chunks(step) {
            held.extend_from_slice(piece);
            seen += piece.len();
            let (used, whole) = body.take(&held, &mut out, 20)?;
            held.drain(..used);
            if whole {
                return Ok((String::from_utf8(out).expect("UTF-8"), input.len() - seen + held.len()));
            }
            assert!(held.len() < TAIL_MAX, "{} bytes left", held.len());
        }
        Ok(("cut".into(), 0))
    }

    #[test]
    fn a_body_is_read_to_its_end_however_it_comes() {
        const CHUNKS: &str = "Transfer-Encoding: Chunked\r\n";
        for step in [1, 2, 3, 7, 100] {
            let whole = |text: &str, behind| Ok((text.to_owned(), behind));
            assert_eq!(read("Content-Length: 5\r\n", b"hello!!", step), whole("hello", 2), "{step}");
            assert_eq!(
                read(CHUNKS, b"5\r\nhello\r\nA;x=y\r\n, you here\r\n0\r\n\r\n!", step),
                whole("hello, you here", 1)
            );
            assert_eq!(read(CHUNKS, b"1\r\na\r\n0\r\nA: b\r\nC: d\r\n\r\n", step), whole("a", 0));
            assert_eq!(read(CHUNKS, b"1\r\na\r\n0\r\n", step), whole("cut", 0));
        }
        assert_eq!(body("Content-Length: 0\r\n", 1).expect("a length").take(b"", &mut Vec::new(), 1), Ok((0, true)));
    }

    #[test]
    fn what_has_no_sound_length_is_refused() {
        use BodyError::*;
        for (lines, expected) in [
            ("", NoLength),
            ("Content-Length: 21\r\n", TooLarge),
            ("Content-Length: 99999999999999999999999\r\n", TooLarge),
            ("Content-Length: \r\n", Malformed),
            ("Content-Length: +5\r\n", Malformed),
            ("Content-Length: 5, 5\r\n", Malformed),
            ("Content-Length: 5\r\nContent-Length: 5\r\n", Malformed),
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", Malformed),
            ("Transfer-Encoding: gzip\r\n", Malformed),
            ("Transfer-Encoding: gzip, chunked\r\n", Malformed),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Malformed),
            ("Transfer-Encoding: \r\n", Malformed),
        ] {
            assert_eq!(body(lines, 20), Err(expected), "{lines:?}");
        }
        let long = [&b"0\r\n"[..], &b"x".repeat(TAIL_MAX)].concat();
        for (input, expected) in [
            (&b"15\r\n"[..], TooLarge),
            (b"5\r\n12345\r\n10\r\n", TooLarge),
            (b"ffffffffffffffffff\r\n", Malformed),
            (b"x\r\n", Malformed),
            (b"-1\r\n", Malformed),
            (b"1\r\nab\r\n0\r\n\r\n", Malformed),
            (&b"1;".repeat(TAIL_MAX), Malformed),
            (&long, Malformed),
        ] {
            for step in [1, 400] {
                assert_eq!(read("Transfer-Encoding: chunked\r\n", input, step), Err(expected), "{input:?}");
            }
        }
    }
}
