//! What happened, as a hash of all of it and, when asked for, its last lines as text.

use gannet::protocol::{Push, Reply};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// Lines kept for a failing seed.
const TAIL: usize = 200;
const SHOWN_BYTES_MAX: usize = 160;

#[derive(Default)]
struct Inner {
    hash: u64,
    events: u64,
    /// What each connection heard of each channel, and its replies, in their order.
    orders: BTreeMap<(u64, u64, String), u64>,
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
            hash = mixed(hash, value);
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

    /// What the connection at `index` of a reactor heard next. Channels have no order among each other within a tick.
    pub fn follow(&self, [reactor, index]: [u64; 2], reply: &Reply) {
        let (channel, words) = match &reply.push {
            Some(push) => (push.channel.clone(), words_of(push)),
            None => (String::new(), [u64::from(reply.id), reply.error.as_ref().map_or(0, |it| it.code.into()), 0]),
        };
        let mut inner = self.0.borrow_mut();
        let order = inner.orders.entry((reactor, index, channel)).or_default();
        *order = words.into_iter().fold(*order, mixed);
    }

    pub fn has_lines(&self) -> bool {
        self.0.borrow().tail.is_some()
    }

    /// The same for the same events, each in its tick, and each in its place among those of its channel on its
    /// connection.
    pub fn hash(&self) -> u64 {
        let inner = self.0.borrow();
        inner.orders.values().fold(inner.hash, |hash, order| mixed(hash, *order))
    }

    pub fn events(&self) -> u64 {
        self.0.borrow().events
    }

    pub fn tail(&self) -> String {
        let inner = self.0.borrow();
        inner.tail.iter().flatten().fold(String::new(), |all, line| all + line + "\n")
    }
}

fn mixed(hash: u64, value: u64) -> u64 {
    (hash.rotate_left(5) ^ value).wrapping_mul(0x517c_c1b7_2722_0a95)
}

/// What a push is, and of what.
fn words_of(push: &Push) -> [u64; 3] {
    if let Some(publication) = &push.publication {
        let [len, sum, _] = sums(&publication.data);
        return [1, publication.offset, len << 32 | sum];
    }
    let who = |info: &Option<gannet::protocol::ClientInfo>| {
        let sums = info.as_ref().map_or([0; 3], |info| sums(info.client.as_bytes()));
        sums[1] << 32 | sums[2]
    };
    if let Some(presence) = push.join.as_ref().or(push.leave.as_ref()) {
        return [2, u64::from(push.join.is_some()), who(&presence.info)];
    }
    match (&push.subscribe, &push.unsubscribe) {
        (Some(subscribe), _) => [3, subscribe.offset, u64::from(subscribe.positioned)],
        (None, Some(unsubscribe)) => [4, u64::from(unsubscribe.code), 0],
        (None, None) => [5, u64::from(push.refresh.is_some()), 0],
    }
}

fn sums(bytes: &[u8]) -> [u64; 3] {
    let sum = |power: u32| bytes.iter().map(|&byte| u64::from(byte).pow(power)).sum();
    [bytes.len() as u64, sum(1), sum(4)]
}

#[test]
fn the_order_of_a_channel_counts_and_that_among_channels_does_not() {
    let said = |list: &[(&str, u64)]| {
        let log = Log::default();
        for (channel, offset) in list {
            let publication = Some(gannet::protocol::Publication { offset: *offset, ..Default::default() });
            let push = Some(Push { channel: (*channel).to_owned(), publication, ..Push::default() });
            log.follow([1, 2], &Reply { push, ..Reply::default() });
        }
        log.hash()
    };
    assert_eq!(said(&[("a", 1), ("b", 1), ("a", 2)]), said(&[("b", 1), ("a", 1), ("a", 2)]));
    assert_ne!(said(&[("a", 1), ("a", 2)]), said(&[("a", 2), ("a", 1)]));
}
