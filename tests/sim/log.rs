//! What happened, as a hash of all of it and, when asked for, its last lines as text.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

/// Lines kept for a failing seed.
const TAIL: usize = 200;
const SHOWN_BYTES_MAX: usize = 160;

#[derive(Default)]
struct Inner {
    hash: u64,
    events: u64,
    /// None = lines are not wanted.
    tail: Option<VecDeque<String>>,
}

/// Shared, so that the last lines outlive a check that panicked.
#[derive(Clone, Default)]
pub struct Log(Rc<RefCell<Inner>>);

impl Log {
    pub fn new(with_lines: bool) -> Log {
        let log = Log::default();
        log.0.borrow_mut().tail = with_lines.then(VecDeque::new);
        log
    }

    /// One event: what, when and where, and the bytes it was about.
    pub fn add(&self, what: &'static str, at: [u64; 3], bytes: &[u8]) {
        let mut inner = self.0.borrow_mut();
        let mut hash = 0_u64;
        // Maps have no order, so that of the bytes does not count, and that of channels within a tick.
        let words = at.into_iter().chain(what.bytes().map(u64::from)).chain(sums(bytes));
        for value in words {
            hash = (hash.rotate_left(5) ^ value).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
        inner.hash = inner.hash.wrapping_add(hash);
        inner.events += 1;
        if let Some(tail) = &mut inner.tail {
            if tail.len() == TAIL {
                tail.pop_front();
            }
            let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN_BYTES_MAX)]);
            tail.push_back(format!("tick {:4}  {}:{:<3} {what:<12} {:?}", at[0], at[1], at[2], shown));
        }
    }

    pub fn has_lines(&self) -> bool {
        self.0.borrow().tail.is_some()
    }

    /// The same for the same events, each in its tick.
    pub fn hash(&self) -> u64 {
        self.0.borrow().hash
    }

    pub fn events(&self) -> u64 {
        self.0.borrow().events
    }

    pub fn tail(&self) -> String {
        let inner = self.0.borrow();
        inner.tail.iter().flatten().fold(String::new(), |all, line| all + line + "\n")
    }
}

fn sums(bytes: &[u8]) -> [u64; 3] {
    let sum = |power: u32| bytes.iter().map(|&byte| u64::from(byte).pow(power)).sum();
    [bytes.len() as u64, sum(1), sum(4)]
}
