//! F10 · Who waits until the log has what they published.
//!
//! Pure. Each publication has a number, in the order in which they came, and numbers end in any order. Who published
//! something again waits for all numbers before.

use std::collections::{BTreeMap, VecDeque};

#[derive(Debug)]
pub struct Unwritten<T> {
    /// `None`: it waited too long and was answered.
    entries: BTreeMap<u64, Option<T>>,
    settling: VecDeque<(u64, T)>,
}

impl<T> Default for Unwritten<T> {
    fn default() -> Self {
        Unwritten { entries: BTreeMap::new(), settling: VecDeque::new() }
    }
}

impl<T> Unwritten<T> {
    /// `reply` waits for this number.
    pub fn add(&mut self, number: u64, reply: T) {
        self.entries.insert(number, Some(reply));
    }

    /// `reply` waits for all below `number`. Gives it back if there are none.
    pub fn settle(&mut self, number: u64, reply: T) -> Option<T> {
        if self.entries.is_empty() {
            return Some(reply);
        }
        self.settling.push_back((number, reply));
        None
    }

    /// The log has what that number stands for, or never will; who is to be answered with that.
    pub fn end(&mut self, number: u64, is_in: bool) -> Vec<T> {
        let mut replies: Vec<T> = self.entries.remove(&number).flatten().into_iter().collect();
        let first = self.entries.first_key_value().map_or(u64::MAX, |(number, _)| *number);
        if is_in {
            let before = self.settling.partition_point(|(number, _)| *number < first);
            replies.extend(self.settling.drain(..before).map(|(_, reply)| reply));
        } else {
            let at = self.settling.partition_point(|(settling, _)| *settling < number);
            replies.extend(self.settling.drain(at..).map(|(_, reply)| reply));
        }
        replies
    }

    /// That number waited too long; who waits for it, if anybody still does.
    pub fn overdue(&mut self, number: u64) -> Option<T> {
        if let Some(reply) = self.entries.get_mut(&number) {
            return reply.take();
        }
        let at = self.settling.binary_search_by_key(&number, |(number, _)| *number).ok()?;
        self.settling.remove(at).map(|(_, reply)| reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_answered_once_and_who_settles_after_all_before() {
        let mut pending = Unwritten::default();
        assert_eq!(pending.settle(1, 'a'), Some('a'), "there is nothing to wait for");
        pending.add(2, 'b');
        pending.add(3, 'c');
        assert_eq!(pending.settle(4, 'd'), None);
        pending.add(5, 'e');
        assert_eq!(pending.end(3, true), ['c']);
        assert_eq!(pending.end(2, true), ['b', 'd']);
        assert_eq!(pending.end(5, true), ['e']);
        assert!(pending.entries.is_empty() && pending.settling.is_empty());
    }

    #[test]
    fn what_is_late_is_answered_then_and_still_waited_for() {
        let mut pending = Unwritten::default();
        pending.add(1, 'a');
        assert_eq!((pending.overdue(1), pending.overdue(1)), (Some('a'), None));
        assert_eq!(pending.settle(2, 'b'), None, "the log has not the first yet");
        assert_eq!(pending.settle(3, 'c'), None);
        assert_eq!((pending.overdue(3), pending.overdue(3)), (Some('c'), None));
        assert_eq!(pending.end(1, true), ['b']);
    }

    #[test]
    fn who_settles_is_told_of_a_failure_before() {
        let mut pending = Unwritten::default();
        pending.add(1, 'a');
        assert_eq!(pending.settle(2, 'b'), None);
        pending.add(3, 'c');
        assert_eq!(pending.settle(4, 'd'), None);
        assert_eq!(pending.end(3, false), ['c', 'd']);
        assert_eq!(pending.end(1, false), ['a', 'b']);
    }
}
