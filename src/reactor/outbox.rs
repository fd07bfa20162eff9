//! F10 · Bytes that wait for one peer, in order, shared with everyone else who gets the same.
//!
//! Owns frames and holes: a hole keeps the place of a reply that another reactor still owes, so that replies leave in
//! the order of their commands. A connection has an outbox only while something waits; the rest lie in a pool.

use bytes::{Buf, Bytes};
use rustix::net::{RecvFlags, SendFlags};
use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};
use std::net::TcpStream;

/// Frames given to one write call.
const SLICES_MAX: usize = 128;
/// What a hole counts towards the limit of an outbox: the reply that will fill it.
const HOLE_BYTES: usize = 64;
/// Room an outbox may keep when it goes back to the pool, in frames.
const KEEP_MAX: usize = 4;

#[derive(Debug)]
enum Item {
    Frame(Bytes),
    Hole(u32),
}

#[derive(Debug, Default)]
pub struct Outbox {
    queue: VecDeque<Item>,
    bytes: usize,
    holes: usize,
    /// No hole stands before this place.
    first_hole: usize,
    /// Part of the front frame is on the wire: it must be finished.
    begun: bool,
}

/// What writing came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wrote {
    pub bytes: usize,
    pub calls: u32,
    /// The socket took less than it was given.
    pub blocked: bool,
}

impl Outbox {
    /// Bytes that wait, those still owed with them.
    pub fn bytes(&self) -> usize {
        self.bytes + self.holes * HOLE_BYTES
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub fn push(&mut self, frame: Bytes) {
        self.bytes += frame.len();
        self.queue.push_back(Item::Frame(frame));
    }

    /// Queues what is left of a frame whose beginning is on the wire already.
    pub fn push_begun(&mut self, rest: Bytes) {
        debug_assert!(self.queue.is_empty());
        self.begun = true;
        self.push(rest);
    }

    pub fn push_hole(&mut self, ticket: u32) {
        if self.holes == 0 {
            self.first_hole = self.queue.len();
        }
        self.holes += 1;
        self.queue.push_back(Item::Hole(ticket));
    }

    /// Puts `frame` where the first hole of that ticket is; false if there is none.
    pub fn fill(&mut self, ticket: u32, frame: Bytes) -> bool {
        let from = self.first_hole.min(self.queue.len());
        let mut behind = self.queue.range_mut(from..).enumerate();
        let Some((at, hole)) = behind.find(|(_, item)| matches!(item, Item::Hole(t) if *t == ticket)) else {
            return false;
        };
        self.bytes += frame.len();
        *hole = Item::Frame(frame);
        self.holes -= 1;
        // Answers come in the order of the questions, or nearly: the next search begins here.
        if at == 0 {
            self.first_hole = from + 1;
        }
        true
    }

    /// Drops what has not begun to leave; a frame that has is kept, for the peer could not read on otherwise.
    pub fn clear_unbegun(&mut self) {
        let begun = if self.begun { self.queue.pop_front() } else { None };
        self.queue.clear();
        (self.bytes, self.holes, self.first_hole) = (0, 0, 0);
        if let Some(Item::Frame(frame)) = begun {
            self.push(frame);
        }
    }

    /// Drops the holes: nobody will fill them.
    pub fn drop_holes(&mut self) {
        self.queue.retain(|item| matches!(item, Item::Frame(_)));
        self.holes = 0;
    }

    /// Makes it new, with a little room kept.
    pub fn reset(&mut self) {
        self.queue.clear();
        self.queue.shrink_to(KEEP_MAX);
        (self.bytes, self.holes, self.first_hole, self.begun) = (0, 0, 0, false);
    }

    /// Writes up to the first hole, or until the socket takes no more. A short write is not tried again: the kernel
    /// has noted that this socket wants to be told of room.
    pub fn write(&mut self, stream: &TcpStream) -> io::Result<Wrote> {
        let mut wrote = Wrote { bytes: 0, calls: 0, blocked: false };
        loop {
            let (result, given) = match (self.queue.front(), self.queue.get(1)) {
                (None | Some(Item::Hole(_)), _) => return Ok(wrote),
                (Some(Item::Frame(frame)), None | Some(Item::Hole(_))) => (write(stream, frame), frame.len()),
                _ => self.write_several(stream),
            };
            wrote.calls += 1;
            let taken = match result {
                Ok(taken) => taken,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => 0,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            self.advance(taken);
            wrote.bytes += taken;
            if taken < given {
                wrote.blocked = true;
                return Ok(wrote);
            }
        }
    }

    /// One call for the frames before the first hole; what it said, and the bytes it was given.
    fn write_several(&self, mut stream: &TcpStream) -> (io::Result<usize>, usize) {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let (mut count, mut given) = (0, 0);
        for (slice, item) in slices.iter_mut().zip(&self.queue) {
            let Item::Frame(frame) = item else { break };
            *slice = IoSlice::new(frame);
            count += 1;
            given += frame.len();
        }
        (stream.write_vectored(&slices[..count]), given)
    }

    fn advance(&mut self, mut taken: usize) {
        self.bytes -= taken;
        while taken > 0 {
            let Some(Item::Frame(front)) = self.queue.front_mut() else { return };
            if taken < front.len() {
                front.advance(taken);
                self.begun = true;
                return;
            }
            taken -= front.len();
            self.queue.pop_front();
            self.first_hole = self.first_hole.saturating_sub(1);
            self.begun = false;
        }
    }
}

/// One write. Not through the C library: in a process with threads it makes of each a point where a thread could be
/// cancelled, which costs two atomic operations.
pub fn write(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::net::send(stream, bytes, SendFlags::NOSIGNAL)?)
}

/// One read, in the same way.
pub fn read(stream: &TcpStream, room: &mut [u8]) -> io::Result<usize> {
    Ok(rustix::net::recv(stream, room, RecvFlags::empty())?.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::TcpListener;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let near = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        near.set_nonblocking(true).expect("non-blocking");
        (near, listener.accept().expect("accept").0)
    }

    #[test]
    fn a_hole_holds_back_what_follows_until_it_is_filled() {
        let (near, mut far) = pair();
        let mut outbox = Outbox::default();
        outbox.push("a".into());
        outbox.push_hole(7);
        outbox.push("c".into());
        assert_eq!(outbox.write(&near).expect("write"), Wrote { bytes: 1, calls: 1, blocked: false });
        assert!(!outbox.fill(8, "x".into()) && outbox.fill(7, "b".into()));
        assert_eq!(outbox.write(&near).expect("write"), Wrote { bytes: 2, calls: 1, blocked: false });
        assert!(outbox.is_empty() && outbox.bytes() == 0);
        let mut got = [0; 3];
        far.read_exact(&mut got).expect("read");
        assert_eq!(&got, b"abc");
    }

    #[test]
    fn a_full_socket_stops_it_and_nothing_is_lost() {
        let (near, mut far) = pair();
        let mut outbox = Outbox::default();
        let frame = Bytes::from(vec![7u8; 1 << 20]);
        let total = 24 << 20;
        (0..24).for_each(|_| outbox.push(frame.clone()));
        let first = outbox.write(&near).expect("write");
        assert!(first.blocked && first.bytes > 0);
        outbox.push("end".into());
        let reader = std::thread::spawn(move || {
            let mut got = Vec::new();
            far.read_to_end(&mut got).expect("read");
            got
        });
        near.set_nonblocking(false).expect("blocking");
        while !outbox.is_empty() {
            outbox.write(&near).expect("write");
        }
        drop(near);
        let got = reader.join().expect("reader");
        assert_eq!((got.len(), &got[total..]), (total + 3, &b"end"[..]));
    }

    #[test]
    fn a_begun_frame_survives_clearing() {
        let mut outbox = Outbox::default();
        outbox.push_begun("rest".into());
        outbox.push("dropped".into());
        outbox.clear_unbegun();
        assert_eq!(outbox.bytes(), 4);
    }
}
