//! F3 · Lists through cursors: each cursor stands in several at once, and leaves each in constant time.

use super::Cursor;
use slab::Slab;

/// No neighbour.
pub const NONE: u32 = u32::MAX;

/// The lists that a cursor stands in: of its channel, of its user, of those by their last use, and sometimes of those
/// that the archive is to be told of.
pub const IN_CHANNEL: usize = 0;
pub const IN_USER: usize = 1;
pub const IN_USE: usize = 2;
pub const UNWRITTEN: usize = 3;

/// The neighbours in one list.
#[derive(Debug, Clone, Copy)]
pub struct CursorLink {
    next: u32,
    prev: u32,
}

impl Default for CursorLink {
    fn default() -> CursorLink {
        CursorLink { next: NONE, prev: NONE }
    }
}

impl CursorLink {
    /// [`NONE`] at the end.
    pub fn next(self) -> u32 {
        self.next
    }
}

/// Its ends, and how many are in it.
#[derive(Debug, Clone, Copy)]
pub struct List {
    head: u32,
    tail: u32,
    len: u32,
}

impl Default for List {
    fn default() -> List {
        List { head: NONE, tail: NONE, len: 0 }
    }
}

impl List {
    pub fn len(&self) -> u32 {
        self.len
    }

    pub fn first(&self) -> Option<u32> {
        (self.head != NONE).then_some(self.head)
    }

    /// Puts the cursor at `at` at the end of this list, which is of kind `kind`.
    pub fn push(&mut self, cursors: &mut Slab<Cursor>, kind: usize, at: u32) {
        cursors[at as usize].links[kind] = CursorLink { next: NONE, prev: self.tail };
        match self.tail {
            NONE => self.head = at,
            tail => cursors[tail as usize].links[kind].next = at,
        }
        self.tail = at;
        self.len += 1;
    }

    /// Takes it out.
    pub fn remove(&mut self, cursors: &mut Slab<Cursor>, kind: usize, at: u32) {
        let CursorLink { next, prev } = std::mem::take(&mut cursors[at as usize].links[kind]);
        match prev {
            NONE => self.head = next,
            prev => cursors[prev as usize].links[kind].next = next,
        }
        match next {
            NONE => self.tail = prev,
            next => cursors[next as usize].links[kind].prev = prev,
        }
        self.len -= 1;
    }
}
