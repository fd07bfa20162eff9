//! What one listener got of one speaker: once each, twice, late, or not at all.
//!
//! A track remembers the next number it expects and which of the last 64 it has seen, sixteen bytes in all, so a
//! fleet can afford one for each pair. Never knows what a message holds or when it came.

/// How one message fits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The next one.
    InOrder,
    /// New, but this many before it have not come (yet).
    AfterGap(u32),
    /// New, and once counted in a gap: out of order.
    Late,
    /// Seen before.
    Duplicate,
    /// So far back that nobody knows any more: counted with the duplicates.
    TooOld,
}

/// The state of one (listener, speaker) pair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Track {
    next: u32,
    /// Bit n is set if `next - 1 - n` was seen.
    seen: u64,
}

impl Track {
    /// Takes note of message number `sequence`.
    pub fn note(&mut self, sequence: u32) -> Arrival {
        if sequence >= self.next {
            let ahead = sequence - self.next;
            self.seen = self.seen.checked_shl(ahead.saturating_add(1)).unwrap_or(0) | 1;
            self.next = sequence.saturating_add(1);
            return if ahead == 0 { Arrival::InOrder } else { Arrival::AfterGap(ahead) };
        }
        let back = self.next - 1 - sequence;
        if back >= u64::BITS {
            return Arrival::TooOld;
        }
        if self.seen >> back & 1 == 1 {
            return Arrival::Duplicate;
        }
        self.seen |= 1 << back;
        Arrival::Late
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notes(sequences: &[u32]) -> Vec<Arrival> {
        let mut track = Track::default();
        sequences.iter().map(|sequence| track.note(*sequence)).collect()
    }

    #[test]
    fn in_order_is_in_order() {
        assert!(notes(&(0..200).collect::<Vec<_>>()).iter().all(|arrival| *arrival == Arrival::InOrder));
    }

    #[test]
    fn a_gap_is_measured_and_filled_by_late_ones() {
        use Arrival::*;
        assert_eq!(notes(&[0, 3, 1, 2, 2, 4, 0]), [InOrder, AfterGap(2), Late, Late, Duplicate, InOrder, Duplicate]);
    }

    #[test]
    fn the_first_one_may_be_missing() {
        use Arrival::*;
        assert_eq!(notes(&[5, 6, 4]), [AfterGap(5), InOrder, Late]);
    }

    #[test]
    fn beyond_the_window_nothing_is_claimed() {
        use Arrival::*;
        assert_eq!(notes(&[0, 64, 0, 1]), [InOrder, AfterGap(63), TooOld, Late]);
        assert_eq!(notes(&[1000, 936, 937]), [AfterGap(1000), TooOld, Late]);
    }

    #[test]
    fn a_track_is_small() {
        assert_eq!(size_of::<Track>(), 16);
    }
}
