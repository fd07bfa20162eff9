//! What was published where, and what each user has of it: the only judge of lost and doubled.

use std::collections::HashMap;

/// Where a channel stands by the answers to its publications, and what it was seen to have.
#[derive(Default)]
struct Stream {
    epoch: String,
    /// The highest offset that was answered.
    top: u64,
    /// The number of a publication by its offset, by its answer or by who got it first.
    numbers: HashMap<u64, u64>,
}

/// All channels.
#[derive(Default)]
pub struct Ledger {
    streams: HashMap<String, Stream>,
    pub published: u64,
    /// Publications that were refused: they may be there or not.
    pub refused: u64,
    /// What must not happen, in words; the first few.
    pub faults: Vec<String>,
    pub fault_count: u64,
}

/// Where a user is in a channel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The latest publication that arrived; nothing before it is missing.
    pub offset: u64,
    pub epoch: String,
    /// The user has been there before.
    pub is_known: bool,
}

impl Ledger {
    pub fn fault(&mut self, what: String) {
        self.fault_count += 1;
        if self.faults.len() < 20 {
            self.faults.push(what);
        }
    }

    /// A publication was answered.
    pub fn answered(&mut self, channel: &str, number: u64, offset: u64, epoch: &str) {
        self.published += 1;
        let stream = self.streams.entry(channel.to_owned()).or_default();
        stream.top = stream.top.max(offset);
        if stream.epoch.is_empty() {
            epoch.clone_into(&mut stream.epoch);
        }
        let is_same = stream.epoch == epoch;
        if !is_same {
            self.fault(format!("{channel} began another epoch"));
        }
        self.is_number(channel, offset, number);
    }

    /// A publication arrived at a user.
    pub fn arrived(&mut self, user: usize, channel: &str, seen: &mut Seen, offset: u64, number: u64) {
        if offset != seen.offset + 1 {
            let what = if offset <= seen.offset { "doubled" } else { "lost" };
            self.fault(format!("user {user}, {channel}: {what}, {offset} came after {}", seen.offset));
        }
        seen.offset = seen.offset.max(offset);
        self.is_number(channel, offset, number);
    }

    fn is_number(&mut self, channel: &str, offset: u64, number: u64) {
        let Some(stream) = self.streams.get_mut(channel) else {
            self.streams.entry(channel.to_owned()).or_default().numbers.insert(offset, number);
            return;
        };
        let known = *stream.numbers.entry(offset).or_insert(number);
        if known != number {
            self.fault(format!("{channel}: offset {offset} is of {known} and of {number}"));
        }
    }

    /// The highest offset that was answered.
    pub fn top(&self, channel: &str) -> u64 {
        self.streams.get(channel).map_or(0, |stream| stream.top)
    }

    /// At the end a user must have everything.
    pub fn ended(&mut self, user: usize, channel: &str, seen: &Seen) {
        let top = self.top(channel);
        if seen.offset < top {
            self.fault(format!("user {user}, {channel}: lost, {} of {top} came", seen.offset));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_and_doubled_and_two_of_one_offset_are_faults() {
        let mut ledger = Ledger::default();
        let mut seen = Seen::default();
        ledger.answered("a", 10, 1, "e");
        ledger.arrived(0, "a", &mut seen, 1, 10);
        ledger.arrived(0, "a", &mut seen, 2, 11);
        ledger.answered("a", 11, 2, "e");
        ledger.ended(0, "a", &seen);
        assert_eq!((ledger.fault_count, ledger.published, ledger.top("a")), (0, 2, 2));
        ledger.arrived(0, "a", &mut seen, 2, 11);
        ledger.arrived(0, "a", &mut seen, 4, 13);
        ledger.arrived(1, "a", &mut Seen { offset: 3, ..Seen::default() }, 4, 14);
        ledger.answered("a", 15, 9, "f");
        ledger.ended(0, "a", &seen);
        let words = ["doubled", "lost", "is of", "another epoch", "lost"];
        assert_eq!(ledger.fault_count, 5, "{:?}", ledger.faults);
        assert!(ledger.faults.iter().zip(words).all(|(fault, word)| fault.contains(word)), "{:?}", ledger.faults);
    }
}
