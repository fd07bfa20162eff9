//! A connection without a network: the test holds the other end, and says when its bytes arrive and how many it takes.

use gannet::turn::{Ready, Socket, Taken};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::rc::Rc;

#[derive(Default)]
struct Ends {
    arrived: VecDeque<u8>,
    /// What arrives later, a piece at a time.
    coming: VecDeque<Vec<u8>>,
    written: Vec<u8>,
    written_ever: u64,
    /// Bytes that the peer still takes.
    room: usize,
    /// The last write was cut short.
    starved: bool,
    ended: bool,
    reset: bool,
    end_told: bool,
    reads: usize,
}

#[derive(Clone)]
pub struct Line(Rc<RefCell<Ends>>);

impl Line {
    pub fn new() -> Line {
        Line(Rc::new(RefCell::new(Ends { room: usize::MAX, ..Ends::default() })))
    }

    /// The peer says this; it arrives in pieces of so many bytes.
    pub fn say(&self, bytes: &[u8], piece: usize) {
        self.0.borrow_mut().coming.extend(bytes.chunks(piece.max(1)).map(<[u8]>::to_vec));
    }

    /// The peer says no more.
    pub fn hang_up(&self) {
        self.0.borrow_mut().ended = true;
    }

    /// Neither side hears of the other again.
    pub fn reset(&self) {
        let mut ends = self.0.borrow_mut();
        // The poll tells of it, even if it has told of an end before.
        (ends.ended, ends.reset, ends.end_told) = (true, true, ends.reset && ends.end_told);
        ends.coming.clear();
        ends.arrived.clear();
    }

    /// From now on the peer takes so many bytes.
    pub fn set_room(&self, bytes: usize) {
        self.0.borrow_mut().room = bytes;
    }

    pub fn take_written(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.borrow_mut().written)
    }

    /// Bytes written since it began.
    pub fn written_ever(&self) -> u64 {
        self.0.borrow().written_ever
    }

    pub fn reads(&self) -> usize {
        self.0.borrow().reads
    }

    /// Does anything arrive later, or did nobody look at what is there?
    pub fn is_busy(&self) -> bool {
        let ends = self.0.borrow();
        !ends.coming.is_empty() || ends.ended && !ends.end_told
    }

    /// What the poll says of it, if there is news: bytes, an end, or room after a write that was cut short.
    pub fn poll(&self, conn: u32) -> Option<Ready> {
        let mut ends = self.0.borrow_mut();
        let piece = if ends.arrived.is_empty() { ends.coming.pop_front() } else { None };
        let news = piece.is_some();
        ends.arrived.extend(piece.into_iter().flatten());
        let ended = ends.ended && ends.coming.is_empty();
        let (end_news, writable) = (ended && !ends.end_told, ends.starved && ends.room > 0);
        if !news && !end_news && !writable {
            return None;
        }
        (ends.end_told, ends.starved) = (ended, ends.starved && !writable);
        Some(Ready { conn, readable: news || end_news, writable, ended, broken: ends.reset })
    }
}

impl Socket for Line {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let mut ends = self.0.borrow_mut();
        ends.reads += 1;
        let count = room.len().min(ends.arrived.len());
        match count {
            0 if ends.reset => return Err(io::ErrorKind::ConnectionReset.into()),
            0 if ends.ended && ends.coming.is_empty() => return Ok(0),
            0 => return Err(io::ErrorKind::WouldBlock.into()),
            _ => {}
        }
        room.iter_mut().zip(ends.arrived.drain(..count)).for_each(|(to, from)| *to = from);
        Ok(count)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut ends = self.0.borrow_mut();
        assert!(!bytes.is_empty(), "an empty write");
        if ends.reset {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let count = bytes.len().min(ends.room);
        ends.starved = count < bytes.len();
        if count == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        ends.room -= if ends.room == usize::MAX { 0 } else { count };
        ends.written_ever += count as u64;
        ends.written.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn write_several(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let all: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
        self.write(&all)
    }

    fn end(&mut self) {}

    fn taken(&self) -> Option<Taken> {
        let ends = self.0.borrow();
        Some(Taken { acknowledged: ends.written_ever, waiting: 0 })
    }
}
