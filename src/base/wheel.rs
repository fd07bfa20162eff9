//! F0 · The timer wheel: one deadline a connection, kept inside the connection itself.
//!
//! Owns the slot heads and the rule that links form sound lists. Knows nothing of what a deadline means, of
//! clocks, or of where the nodes live: the time is an argument and the nodes are reached through [`Nodes`].
//!
//! A node is armed for its *nearest* deadline only, and lazily: a deadline that moves later is left where it is,
//! and whoever is popped asks its owner what is due now and arms again. So activity costs one store, not a
//! relink. Deadlines beyond the wheel's horizon wait in the last slot and are asked again there.

/// A point in time, in units of [`TICK_MS`] since the reactor began.
pub type Tick = u32;
/// Milliseconds in a tick: the resolution of every timeout on a connection.
pub const TICK_MS: u64 = 100;
/// No deadline.
pub const NEVER: Tick = Tick::MAX;

const NONE: u32 = u32::MAX;
/// Slots in the wheel: a horizon of 102.4 s, so that pings (25 s by default) never need a second look.
const SLOTS: u32 = 1024;

/// Rounds a duration up to whole ticks, at least one: a timeout never fires early.
pub fn ticks(duration: std::time::Duration) -> Tick {
    duration.as_millis().div_ceil(TICK_MS as u128).clamp(1, (NEVER / 2) as u128) as Tick
}

/// The part of a node that the wheel owns. 12 bytes.
#[derive(Debug, Clone, Copy)]
pub struct WheelLinks {
    next: u32,
    prev: u32,
    due: Tick,
}

impl Default for WheelLinks {
    fn default() -> WheelLinks {
        WheelLinks { next: NONE, prev: NONE, due: NEVER }
    }
}

/// Where the nodes live: a slab, addressed by index.
pub trait Nodes {
    fn links(&mut self, node: u32) -> &mut WheelLinks;
}

/// Slot heads and the last tick that was expired in full.
#[derive(Debug)]
pub struct Wheel {
    heads: Box<[u32]>,
    cursor: Tick,
    /// Nothing is armed for a time before this: where a look for what is due next begins.
    nearest: Tick,
    armed: usize,
}

impl Wheel {
    pub fn new(now: Tick) -> Wheel {
        Wheel { heads: vec![NONE; SLOTS as usize].into_boxed_slice(), cursor: now, nearest: now, armed: 0 }
    }

    /// Nodes armed.
    pub fn len(&self) -> usize {
        self.armed
    }

    pub fn is_empty(&self) -> bool {
        self.armed == 0
    }

    /// When something may be due next: nothing is before. `None` = nothing is armed.
    /// Asked in every turn, it looks at a slot once.
    pub fn next_due(&mut self) -> Option<Tick> {
        if self.armed == 0 {
            return None;
        }
        let is_due = |tick: &Tick| self.heads[(tick % SLOTS) as usize] != NONE;
        self.nearest = (self.nearest.max(self.cursor)..self.cursor + SLOTS).find(is_due)?;
        Some(self.nearest)
    }

    /// Makes sure `node` is popped at `due` or before. `NEVER` leaves it as it is.
    pub fn arm(&mut self, nodes: &mut impl Nodes, node: u32, due: Tick) {
        if due == NEVER {
            return;
        }
        let due = due.clamp(self.cursor + 1, self.cursor + SLOTS - 1);
        let armed = nodes.links(node).due;
        if armed <= due {
            return;
        }
        if armed != NEVER {
            self.disarm(nodes, node);
        }
        let head = &mut self.heads[(due % SLOTS) as usize];
        let next = std::mem::replace(head, node);
        *nodes.links(node) = WheelLinks { next, prev: NONE, due };
        if next != NONE {
            nodes.links(next).prev = node;
        }
        self.nearest = self.nearest.min(due);
        self.armed += 1;
    }

    /// Takes `node` out, armed or not. Must be called before a node's slot in the slab is freed.
    pub fn disarm(&mut self, nodes: &mut impl Nodes, node: u32) {
        let WheelLinks { next, prev, due } = std::mem::take(nodes.links(node));
        if due == NEVER {
            return;
        }
        if prev == NONE {
            self.heads[(due % SLOTS) as usize] = next;
        } else {
            nodes.links(prev).next = next;
        }
        if next != NONE {
            nodes.links(next).prev = prev;
        }
        self.armed -= 1;
    }

    /// The next node whose time has come, disarmed; `None` when all up to `now` are done. Stopping early is safe:
    /// the rest come out of later calls. A node armed again from within comes out at the next tick at the soonest,
    /// so a loop over this ends.
    pub fn pop(&mut self, nodes: &mut impl Nodes, now: Tick) -> Option<u32> {
        if self.armed == 0 {
            self.cursor = self.cursor.max(now);
            return None;
        }
        while self.cursor <= now {
            let node = self.heads[(self.cursor % SLOTS) as usize];
            if node != NONE {
                self.disarm(nodes, node);
                return Some(node);
            }
            if self.cursor == now {
                return None;
            }
            self.cursor += 1;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    impl Nodes for Vec<WheelLinks> {
        fn links(&mut self, node: u32) -> &mut WheelLinks {
            &mut self[node as usize]
        }
    }

    fn drain(wheel: &mut Wheel, nodes: &mut Vec<WheelLinks>, now: Tick) -> Vec<u32> {
        let mut out: Vec<u32> = std::iter::from_fn(|| wheel.pop(nodes, now)).collect();
        out.sort_unstable();
        out
    }

    #[test]
    fn pops_at_the_tick_and_not_before() {
        let (mut wheel, mut nodes) = (Wheel::new(10), vec![WheelLinks::default(); 4]);
        for (node, due) in [(0, 12), (1, 12), (2, 13), (3, NEVER)] {
            wheel.arm(&mut nodes, node, due);
        }
        assert!(drain(&mut wheel, &mut nodes, 11).is_empty());
        assert_eq!(drain(&mut wheel, &mut nodes, 12), [0, 1]);
        assert_eq!(drain(&mut wheel, &mut nodes, 100), [2]);
        assert!(wheel.is_empty());
    }

    #[test]
    fn the_next_due_is_the_first_of_all() {
        let (mut wheel, mut nodes) = (Wheel::new(10), vec![WheelLinks::default(); 3]);
        assert_eq!(wheel.next_due(), None);
        wheel.arm(&mut nodes, 0, 10 + 5 * SLOTS);
        assert_eq!(wheel.next_due(), Some(10 + SLOTS - 1), "beyond the horizon it is asked again");
        wheel.arm(&mut nodes, 1, 300);
        wheel.arm(&mut nodes, 2, 12);
        assert_eq!(wheel.next_due(), Some(12));
        assert_eq!(drain(&mut wheel, &mut nodes, 200), [2]);
        assert_eq!(wheel.next_due(), Some(300));
        assert_eq!(wheel.pop(&mut nodes, 300), Some(1));
        assert_eq!(wheel.next_due(), Some(10 + SLOTS - 1));
    }

    #[test]
    fn a_later_deadline_leaves_the_node_and_an_earlier_one_moves_it() {
        let (mut wheel, mut nodes) = (Wheel::new(0), vec![WheelLinks::default(); 1]);
        wheel.arm(&mut nodes, 0, 50);
        wheel.arm(&mut nodes, 0, 80);
        assert_eq!(wheel.len(), 1);
        wheel.arm(&mut nodes, 0, 20);
        assert_eq!(drain(&mut wheel, &mut nodes, 20), [0]);
    }

    #[test]
    fn a_past_or_far_deadline_is_asked_at_the_next_tick_or_the_horizon() {
        let (mut wheel, mut nodes) = (Wheel::new(100), vec![WheelLinks::default(); 2]);
        wheel.arm(&mut nodes, 0, 3);
        wheel.arm(&mut nodes, 1, 100_000);
        assert_eq!(drain(&mut wheel, &mut nodes, 101), [0]);
        assert_eq!(drain(&mut wheel, &mut nodes, 100 + SLOTS), [1]);
    }

    #[test]
    fn durations_round_up() {
        use std::time::Duration;
        assert_eq!([0, 1, 100, 101].map(|ms| ticks(Duration::from_millis(ms))), [1, 1, 1, 2]);
    }

    proptest! {
        /// Against a plain map: every node comes out once, never early, never later than asked for.
        #[test]
        fn agrees_with_a_map(steps in prop::collection::vec((0u32..16, 0u32..4, 0u32..600, any::<bool>()), 1..200)) {
            let (mut wheel, mut nodes) = (Wheel::new(0), vec![WheelLinks::default(); 16]);
            let mut model = std::collections::BTreeMap::new();
            let mut now = 0;
            for (node, what, amount, ask) in steps {
                match what {
                    0 => { wheel.disarm(&mut nodes, node); model.remove(&node); }
                    1 => {
                        now += amount;
                        let due: Vec<u32> = model.iter().filter(|(_, d)| **d <= now).map(|(n, _)| *n).collect();
                        prop_assert_eq!(drain(&mut wheel, &mut nodes, now), due.clone());
                        for n in due { model.remove(&n); }
                    }
                    _ => {
                        let due = now + 1 + amount;
                        wheel.arm(&mut nodes, node, due);
                        let slot = model.entry(node).or_insert(due);
                        *slot = (*slot).min(due);
                    }
                }
                prop_assert_eq!(wheel.len(), model.len());
                if ask {
                    prop_assert_eq!(wheel.next_due(), model.values().min().copied());
                }
            }
        }
    }
}
