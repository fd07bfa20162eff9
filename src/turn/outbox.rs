//! F8 · Bytes that wait for one peer, in order, shared with everyone else who gets the same.
//!
//! Owns frames and holes: a hole keeps the place of a reply that another reactor or the backend still owes, so that
//! replies leave in the order of their commands. Knows nothing of who fills a hole, or of how a socket writes. A
//! connection has an outbox only while something waits; the rest lie in a pool.
//!
//! Invariants: `bytes` is the sum of the queued frames. `holes` lists the places of all holes, in their order, counted
//! from the first item that this outbox ever had; `left` items of those are gone. What waits counts for its bytes and
//! its places, so that many small frames take no more memory than they are allowed.

use super::Socket;
use bytes::{Buf, Bytes};
use std::collections::VecDeque;
use std::io::{self, IoSlice};

/// Frames given to one write call.
const SLICES_MAX: usize = 128;
/// Room an outbox may keep when it goes back to the pool, in frames.
const KEEP_MAX: usize = 4;
/// What a frame takes beside its bytes: its place, in a queue that has room for twice as many at most.
pub const PLACE_BYTES: usize = 2 * size_of::<Item>();

#[derive(Debug)]
enum Item {
    Frame(Bytes),
    Hole,
}

const _: () = assert!(size_of::<Item>() == 32);

/// A reply that is owed.
#[derive(Debug, Clone, Copy)]
struct Hole {
    ticket: u32,
    /// What the reply counts for until it is there.
    weight: u32,
    /// Its place among all items that this outbox ever had.
    place: usize,
}

#[derive(Debug, Default)]
pub struct Outbox {
    queue: VecDeque<Item>,
    bytes: usize,
    holes: VecDeque<Hole>,
    /// What all holes count for.
    owed: usize,
    /// Items that left from the front.
    left: usize,
    /// Part of the front frame is on the wire, or may be: it must be finished.
    begun: bool,
    /// Its size when it was last asked for.
    counted: usize,
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
    /// Bytes that wait, those behind holes with them.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What all that waits counts for: its bytes and its places. A frame that others wait for too counts in full.
    pub fn size(&self) -> usize {
        self.bytes + self.queue.len() * PLACE_BYTES
    }

    /// Its size now, and when this was last asked.
    pub fn recount(&mut self) -> (usize, usize) {
        let size = self.size();
        (size, std::mem::replace(&mut self.counted, size))
    }

    /// Replies that are owed.
    pub fn holes(&self) -> usize {
        self.holes.len()
    }

    /// What the replies that are owed count for.
    pub fn owed(&self) -> usize {
        self.owed
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

    /// Keeps a place for the reply to the command of `ticket`, which counts for `weight` bytes until it is there.
    pub fn push_hole(&mut self, ticket: u32, weight: u32) {
        self.holes.push_back(Hole { ticket, weight, place: self.left + self.queue.len() });
        self.owed += weight as usize;
        self.queue.push_back(Item::Hole);
    }

    /// Puts `frame` where the first hole of that ticket is; false if there is none. Answers come in the order of the
    /// commands, or nearly, so the first holes are looked at first; how many there may be is limited.
    pub fn fill(&mut self, ticket: u32, frame: Bytes) -> bool {
        let Some(at) = self.holes.iter().position(|hole| hole.ticket == ticket) else { return false };
        let Some(Hole { weight, place, .. }) = self.holes.remove(at) else { return false };
        self.owed -= weight as usize;
        self.bytes += frame.len();
        self.queue[place - self.left] = Item::Frame(frame);
        true
    }

    /// Drops what has not begun to leave; a frame that has is kept, for the peer could not read on otherwise.
    pub fn clear_unbegun(&mut self) {
        let begun = if self.begun { self.queue.pop_front() } else { None };
        self.queue.clear();
        self.holes.clear();
        (self.bytes, self.owed, self.left) = (0, 0, 0);
        if let Some(Item::Frame(frame)) = begun {
            self.push(frame);
        }
    }

    /// Drops the holes: nobody will fill them.
    pub fn drop_holes(&mut self) {
        self.queue.retain(|item| matches!(item, Item::Frame(_)));
        self.holes.clear();
        self.owed = 0;
    }

    /// Drops the first hole and all behind it.
    pub fn cut_at_hole(&mut self) {
        let Some(first) = self.holes.front() else { return };
        for item in self.queue.drain(first.place - self.left..) {
            if let Item::Frame(frame) = item {
                self.bytes -= frame.len();
            }
        }
        self.drop_holes();
    }

    /// Makes it new, with a little room kept.
    pub fn reset(&mut self) {
        self.clear_unbegun();
        self.queue.clear();
        (self.bytes, self.begun, self.counted) = (0, false, 0);
        self.queue.shrink_to(KEEP_MAX);
        self.holes.shrink_to(0);
    }

    /// Writes up to the first hole, or until the socket takes no more. A short write is not tried again: the socket
    /// tells when there is room.
    pub fn write(&mut self, socket: &mut impl Socket) -> io::Result<Wrote> {
        let mut wrote = Wrote { bytes: 0, calls: 0, blocked: false };
        loop {
            let (result, given) = match (self.queue.front(), self.queue.get(1)) {
                (None | Some(Item::Hole), _) => return Ok(wrote),
                (Some(Item::Frame(frame)), None | Some(Item::Hole)) => (socket.write(frame), frame.len()),
                _ => self.write_several(socket),
            };
            wrote.calls += 1;
            let (taken, answered) = match result {
                Ok(taken) => (taken, true),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => (0, false),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            self.advance(taken);
            wrote.bytes += taken;
            if taken < given {
                // A socket with TLS may have sealed the next byte too, and brings it with what comes next: that frame
                // must be finished, even if nothing of it counts as taken. A plain socket sends one frame more for it.
                self.begun |= answered;
                wrote.blocked = true;
                return Ok(wrote);
            }
        }
    }

    /// One call for the frames before the first hole; what it said, and the bytes it was given.
    fn write_several(&self, socket: &mut impl Socket) -> (io::Result<usize>, usize) {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let (mut count, mut given) = (0, 0);
        for (slice, item) in slices.iter_mut().zip(&self.queue) {
            let Item::Frame(frame) = item else { break };
            *slice = IoSlice::new(frame);
            count += 1;
            given += frame.len();
        }
        (socket.write_several(&slices[..count]), given)
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
            self.left += 1;
            self.begun = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Taken, testing::Line};
    use super::*;
    use crate::tls::{Kit, Layer, Records, Suite, Tunnel};

    fn written(outbox: &mut Outbox, line: &mut Line) -> (Wrote, String) {
        let wrote = outbox.write(line).expect("write");
        (wrote, String::from_utf8(line.take_written()).expect("text"))
    }

    #[test]
    fn a_hole_holds_back_what_follows_until_it_is_filled() {
        let (mut outbox, mut line) = (Outbox::default(), Line::default());
        outbox.push("a".into());
        outbox.push_hole(7, 100);
        outbox.push("c".into());
        assert_eq!((outbox.bytes(), outbox.holes(), outbox.owed()), (2, 1, 100));
        let once = |bytes| Wrote { bytes, calls: 1, blocked: false };
        assert_eq!(written(&mut outbox, &mut line), (once(1), "a".into()));
        assert!(!outbox.fill(8, "x".into()) && outbox.fill(7, "b".into()));
        assert_eq!(written(&mut outbox, &mut line), (once(2), "bc".into()));
        assert!(outbox.is_empty() && (outbox.bytes(), outbox.holes(), outbox.owed()) == (0, 0, 0));
    }

    #[test]
    fn holes_are_filled_in_any_order_and_the_first_of_a_ticket_first() {
        let (mut outbox, mut line) = (Outbox::default(), Line::default());
        for (ticket, frame) in [(1, "a"), (2, "b"), (2, "c"), (3, "d")] {
            outbox.push_hole(ticket, 1);
            outbox.push(frame.into());
        }
        assert!(outbox.fill(3, "4".into()) && outbox.fill(2, "2".into()));
        assert_eq!(written(&mut outbox, &mut line).1, "");
        assert!(outbox.fill(1, "1".into()));
        assert_eq!(written(&mut outbox, &mut line).1, "1a2b");
        assert!(outbox.fill(2, "3".into()) && !outbox.fill(2, "x".into()));
        assert_eq!(written(&mut outbox, &mut line).1, "3c4d");
    }

    #[test]
    fn what_left_as_a_whole_holds_nothing_back_from_being_dropped() {
        let (mut outbox, mut line) = (Outbox::default(), Line::with_room(1));
        outbox.push("ab".into());
        assert_eq!(written(&mut outbox, &mut line).1, "a");
        line.give_room(1);
        assert_eq!(written(&mut outbox, &mut line).1, "b");
        outbox.push("cd".into());
        outbox.clear_unbegun();
        assert!(outbox.is_empty() && outbox.bytes() == 0);
    }

    #[test]
    fn a_cut_drops_the_first_hole_and_all_behind_it() {
        let (mut outbox, mut line) = (Outbox::default(), Line::default());
        outbox.push("a".into());
        assert_eq!(written(&mut outbox, &mut line).1, "a");
        outbox.push("b".into());
        outbox.cut_at_hole();
        outbox.push_hole(1, 1);
        outbox.push("c".into());
        outbox.push_hole(2, 1);
        outbox.cut_at_hole();
        assert_eq!((outbox.bytes(), outbox.holes(), outbox.owed()), (1, 0, 0));
        outbox.push("d".into());
        assert_eq!(written(&mut outbox, &mut line).1, "bd");
    }

    /// What a reply costs does not depend on how much was answered behind one that is still owed.
    #[test]
    fn answers_behind_one_that_is_owed_are_found_at_once() {
        let mut outbox = Outbox::default();
        outbox.push_hole(0, 1);
        for ticket in 1..50_000 {
            outbox.push_hole(ticket, 1);
            assert!(outbox.fill(ticket, "{}".into()));
            assert_eq!(outbox.holes.len(), 1, "what is searched");
        }
        assert_eq!(outbox.queue.len(), 50_000);
    }

    #[test]
    fn a_full_socket_stops_it_and_nothing_is_lost() {
        let (mut outbox, mut line) = (Outbox::default(), Line::with_room(5));
        (0..3).for_each(|_| outbox.push("abcd".into()));
        assert_eq!(written(&mut outbox, &mut line), (Wrote { bytes: 5, calls: 1, blocked: true }, "abcda".into()));
        outbox.push("end".into());
        line.give_room(100);
        assert_eq!(written(&mut outbox, &mut line).1, "bcdabcdend");
        assert_eq!(outbox.bytes(), 0);
    }

    /// A socket with TLS that takes so many sealed bytes more.
    struct Sealed {
        tunnel: Tunnel,
        kit: Kit,
        room: usize,
        took: Vec<u8>,
    }

    impl Sealed {
        fn new() -> (Sealed, Tunnel) {
            let side = |read: &[u8], write: &[u8]| {
                let records = Records::new(Suite::Aes128Gcm, (read, 0), (write, 0)).expect("secrets");
                Tunnel::new(Layer::Compact(Box::new(records)), Vec::new())
            };
            let (client, server) = ([7; 32], [9; 32]);
            let (tunnel, peer) = (side(&client, &server), side(&server, &client));
            (Sealed { tunnel, kit: Kit::new(2), room: 0, took: Vec::new() }, peer)
        }

        /// All that the peer hears.
        fn heard(&self, peer: &mut Tunnel) -> Vec<u8> {
            let (mut kit, mut room, mut said, mut rest) = (Kit::new(1), vec![0; 1 << 16], Vec::new(), &self.took[..]);
            while !rest.is_empty() || peer.has_more() {
                match peer.read(&mut kit, &mut room, |room| io::Read::read(&mut rest, room)) {
                    Ok(0) => break,
                    Ok(count) => said.extend_from_slice(&room[..count]),
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::Interrupted),
                }
            }
            said
        }
    }

    impl Socket for Sealed {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::WouldBlock.into())
        }

        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.write_several(&[IoSlice::new(bytes)])
        }

        fn write_several(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
            let Sealed { tunnel, kit, room, took } = self;
            tunnel.write(kit, pieces, |sealed| {
                let count = sealed.len().min(*room);
                *room -= count;
                took.extend_from_slice(&sealed[..count]);
                if count == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(count) }
            })
        }

        fn end(&mut self) {}

        fn taken(&self) -> Option<Taken> {
            None
        }
    }

    /// Also where what was sealed ends with the first byte of a frame: none of that frame counts as taken.
    #[test]
    fn a_frame_whose_first_byte_is_sealed_survives_clearing() {
        for (first, room) in [(16_383, 1000), (16_383, 0), (16_382, 1000), (16_384, 1000), (1, 3), (0, 3), (0, 0)] {
            let ((mut socket, mut peer), mut outbox) = (Sealed::new(), Outbox::default());
            let frames = [vec![b'a'; first], vec![b'b'; if first == 0 { 1 } else { 50 }], vec![b'x'; 20_000]];
            let kept = if first == 16_384 { 1 } else { 2 };
            frames.iter().filter(|frame| !frame.is_empty()).for_each(|frame| outbox.push(frame.clone().into()));
            // The last is left out where it would be sealed with the others.
            if first < 16_000 {
                outbox.queue.pop_back();
                outbox.bytes -= 20_000;
            }
            socket.room = room;
            assert!(outbox.write(&mut socket).expect("write").blocked);
            outbox.clear_unbegun();
            outbox.push("close".into());
            socket.room = usize::MAX;
            assert!(!outbox.write(&mut socket).expect("write").blocked && outbox.is_empty());
            let whole = [&frames[..kept].concat()[..], b"close"].concat();
            assert!(socket.heard(&mut peer) == whole, "{first} bytes before, room for {room}");
        }
    }

    #[test]
    fn a_begun_frame_survives_clearing() {
        let mut outbox = Outbox::default();
        outbox.push_begun("rest".into());
        outbox.push_hole(1, 1);
        outbox.push("dropped".into());
        outbox.clear_unbegun();
        assert_eq!((outbox.bytes(), outbox.holes(), outbox.owed()), (4, 0, 0));
        outbox.push_hole(2, 1);
        assert!(outbox.fill(2, "x".into()));
        assert_eq!(outbox.bytes(), 5);
    }
}
