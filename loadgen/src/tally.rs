//! What one loop counted; added up, what the run counted. Agents send theirs as JSON, histograms exactly as they are.
//!
//! Never knows how it is printed.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::clock::SECOND;

/// The longest latency told apart, in nanoseconds.
const LONGEST: u64 = 600 * SECOND;

/// An empty histogram of nanoseconds, three digits exact.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST, 3).expect("sound bounds")
}

/// One step of a ramp.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Step {
    #[serde(with = "exact")]
    pub latency: Histogram<u64>,
    pub sent: u64,
    pub expected: u64,
    pub got: u64,
    pub errors: u64,
}

impl Default for Step {
    fn default() -> Self {
        Self { latency: histogram(), sent: 0, expected: 0, got: 0, errors: 0 }
    }
}

/// One loop's counts.
#[derive(Debug, Serialize, Deserialize)]
pub struct Tally {
    /// Due to received, of stamped messages.
    #[serde(with = "exact")]
    pub latency: Histogram<u64>,
    /// Due to received, of stamped messages that a recovery brought.
    #[serde(with = "exact")]
    pub missed: Histogram<u64>,
    /// Due to joined, of connections.
    #[serde(with = "exact")]
    pub connect: Histogram<u64>,
    /// Due to written: how late the generator itself was.
    #[serde(with = "exact")]
    pub lateness: Histogram<u64>,
    pub counts: Counts,
    /// Why connections failed or ended early.
    pub errors: BTreeMap<String, u64>,
    /// Codes of close frames the server sent.
    pub closes: BTreeMap<u16, u64>,
    /// Codes of error replies.
    pub replies: BTreeMap<u32, u64>,
    pub steps: Vec<Step>,
}

/// Plain sums.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Counts {
    pub begun: u64,
    pub opened: u64,
    pub failed: u64,
    /// Open connections the server or the network ended.
    pub lost: u64,
    pub sent: u64,
    /// Due, but the speaker was not connected.
    pub skipped: u64,
    /// Publishes the server refused.
    pub refused: u64,
    /// Deliveries owed for what was sent.
    pub expected: u64,
    /// Deliveries, each counted once.
    pub got: u64,
    /// In the measured part of the run.
    pub measured: u64,
    pub duplicates: u64,
    /// Holes in a speaker's numbers when a later one arrived, and how many were filled afterwards.
    pub gaps: u64,
    pub late: u64,
    /// Stamped messages for somebody else, and messages of another run.
    pub stray: u64,
    pub foreign: u64,
    pub unstamped: u64,
    pub nonsense: u64,
    pub unsubscribed: u64,
    pub pings: u64,
    pub frame_pings: u64,
    pub messages_in: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// Stalled readers whose connection the server had ended by the end.
    pub stalled_cut: u64,
    /// Subscriptions that asked for what they missed: those that got it, and those that did not.
    pub recovered: u64,
    pub unrecovered: u64,
    /// Subscriptions that should recover, and were given no position.
    pub unrecoverable: u64,
    /// Publications that came with the answer to a subscribe.
    pub from_history: u64,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            latency: histogram(),
            missed: histogram(),
            connect: histogram(),
            lateness: histogram(),
            counts: Counts::default(),
            errors: BTreeMap::new(),
            closes: BTreeMap::new(),
            replies: BTreeMap::new(),
            steps: Vec::new(),
        }
    }
}

impl Tally {
    pub fn error(&mut self, kind: impl Into<String>) {
        *self.errors.entry(kind.into()).or_default() += 1;
    }

    /// The counts of a step of a ramp.
    pub fn step(&mut self, number: u32) -> &mut Step {
        let number = number as usize;
        if self.steps.len() <= number {
            self.steps.resize_with(number + 1, Step::default);
        }
        &mut self.steps[number]
    }

    /// Adds another loop's counts.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in [
            (&mut self.latency, &other.latency),
            (&mut self.missed, &other.missed),
            (&mut self.connect, &other.connect),
            (&mut self.lateness, &other.lateness),
        ] {
            mine.add(theirs).expect("equal bounds");
        }
        self.counts.add(&other.counts);
        add_all(&mut self.errors, &other.errors);
        add_all(&mut self.closes, &other.closes);
        add_all(&mut self.replies, &other.replies);
        for (number, theirs) in (0..).zip(&other.steps) {
            let mine = self.step(number);
            mine.latency.add(&theirs.latency).expect("equal bounds");
            mine.sent += theirs.sent;
            mine.expected += theirs.expected;
            mine.got += theirs.got;
            mine.errors += theirs.errors;
        }
    }

    /// Share of owed deliveries that came; None = nothing was owed.
    pub fn delivery(&self) -> Option<f64> {
        let counts = &self.counts;
        (counts.expected > 0).then(|| counts.got as f64 / counts.expected as f64)
    }
}

fn add_all<K: Ord + Clone>(mine: &mut BTreeMap<K, u64>, theirs: &BTreeMap<K, u64>) {
    for (key, count) in theirs {
        *mine.entry(key.clone()).or_default() += count;
    }
}

impl Counts {
    /// Numbers that a listener never saw, though it saw later ones.
    pub fn lost(&self) -> u64 {
        self.gaps.saturating_sub(self.late)
    }

    /// Every count with its name, in the order of a report.
    pub fn named(&self) -> [(&'static str, u64); 28] {
        [
            ("connections_begun", self.begun),
            ("connections_opened", self.opened),
            ("connections_failed", self.failed),
            ("connections_lost", self.lost),
            ("sent", self.sent),
            ("skipped", self.skipped),
            ("refused", self.refused),
            ("expected", self.expected),
            ("received", self.got),
            ("measured", self.measured),
            ("duplicates", self.duplicates),
            ("gaps", self.gaps),
            ("out_of_order", self.late),
            ("stray", self.stray),
            ("foreign", self.foreign),
            ("unstamped", self.unstamped),
            ("nonsense", self.nonsense),
            ("unsubscribed", self.unsubscribed),
            ("pings", self.pings),
            ("frame_pings", self.frame_pings),
            ("messages_in", self.messages_in),
            ("bytes_in", self.bytes_in),
            ("bytes_out", self.bytes_out),
            ("stalled_cut", self.stalled_cut),
            ("recovered", self.recovered),
            ("unrecovered", self.unrecovered),
            ("unrecoverable", self.unrecoverable),
            ("from_history", self.from_history),
        ]
    }

    fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.each_mut().into_iter().zip(other.named()) {
            *mine += theirs.1;
        }
    }

    /// The same order as [`Counts::named`].
    fn each_mut(&mut self) -> [&mut u64; 28] {
        [
            &mut self.begun,
            &mut self.opened,
            &mut self.failed,
            &mut self.lost,
            &mut self.sent,
            &mut self.skipped,
            &mut self.refused,
            &mut self.expected,
            &mut self.got,
            &mut self.measured,
            &mut self.duplicates,
            &mut self.gaps,
            &mut self.late,
            &mut self.stray,
            &mut self.foreign,
            &mut self.unstamped,
            &mut self.nonsense,
            &mut self.unsubscribed,
            &mut self.pings,
            &mut self.frame_pings,
            &mut self.messages_in,
            &mut self.bytes_in,
            &mut self.bytes_out,
            &mut self.stalled_cut,
            &mut self.recovered,
            &mut self.unrecovered,
            &mut self.unrecoverable,
            &mut self.from_history,
        ]
    }
}

/// A histogram as text: HdrHistogram's V2 encoding, which loses nothing, in base64.
mod exact {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use hdrhistogram::Histogram;
    use hdrhistogram::serialization::{Deserializer as Decoder, Serializer as _, V2Serializer};
    use serde::de::{Deserialize, Deserializer, Error as _};
    use serde::ser::{Error as _, Serializer};

    use super::histogram;

    /// The encoding begins with a cookie and the length of what follows the header; the rest of the header says how
    /// the histogram is laid out.
    const LENGTH: std::ops::Range<usize> = 4..8;
    const LAYOUT: std::ops::Range<usize> = 8..40;

    fn encode(histogram: &Histogram<u64>) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        V2Serializer::new().serialize(histogram, &mut bytes).map_err(|error| error.to_string())?;
        Ok(bytes)
    }

    /// Takes only what is laid out as ours are, so that it can be added and its size is known.
    fn decode(bytes: &[u8]) -> Result<Histogram<u64>, String> {
        let own = encode(&histogram())?;
        let rest = bytes.len().checked_sub(LAYOUT.end).and_then(|rest| u32::try_from(rest).ok());
        let is_whole = rest.is_some_and(|rest| bytes[LENGTH] == rest.to_be_bytes());
        if !is_whole || bytes[LAYOUT] != own[LAYOUT] {
            return Err("no histogram of nanoseconds up to 600 s with three digits".to_owned());
        }
        Decoder::new().deserialize(&mut &*bytes).map_err(|error| error.to_string())
    }

    pub fn serialize<S: Serializer>(histogram: &Histogram<u64>, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&STANDARD.encode(encode(histogram).map_err(S::Error::custom)?))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Histogram<u64>, D::Error> {
        let text = String::deserialize(from)?;
        let bytes = STANDARD.decode(text).map_err(D::Error::custom)?;
        decode(&bytes).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values from `seed` on, over nine orders of magnitude.
    fn tally(seed: u64) -> Tally {
        let mut tally = Tally::default();
        for n in 0..5_000 {
            tally.latency.saturating_record(seed + n * n * 17_003);
            tally.connect.saturating_record(seed * 3 + n);
            tally.missed.saturating_record(seed + n * 999);
        }
        // Beyond what is told apart, and the least there is.
        tally.latency.saturating_record(u64::MAX);
        tally.lateness.saturating_record(1);
        tally.counts.sent = seed;
        tally.step(2).latency.saturating_record(seed);
        tally.step(1).errors = seed;
        tally.error("open: gone");
        tally.closes.insert(1006, seed);
        tally.replies.insert(103, 2);
        tally
    }

    #[test]
    fn what_was_sent_as_text_adds_up_as_what_was_not() {
        let parts = [tally(1), tally(77_777), tally(3_000_000_000)];
        let (mut near, mut far) = (Tally::default(), Tally::default());
        for part in &parts {
            near.add(part);
            let text = serde_json::to_string(part).expect("JSON");
            far.add(&serde_json::from_str(&text).expect("the same tally"));
        }
        for (near, far) in [
            (&near.latency, &far.latency),
            (&near.missed, &far.missed),
            (&near.connect, &far.connect),
            (&near.lateness, &far.lateness),
        ] {
            assert_eq!(near, far, "every bucket");
            assert_eq!((near.len(), near.max(), near.min()), (far.len(), far.max(), far.min()));
            for quantile in [0.0, 0.5, 0.99, 0.9999, 1.0] {
                assert_eq!(near.value_at_quantile(quantile), far.value_at_quantile(quantile));
            }
        }
        assert_eq!(near.latency.len(), 15_003);
        assert_eq!(near.counts.named(), far.counts.named());
        assert_eq!(
            (&near.errors, &near.closes, &near.replies, near.steps.len()),
            (&far.errors, &far.closes, &far.replies, 3)
        );
        for (near, far) in near.steps.iter().zip(&far.steps) {
            assert_eq!((&near.latency, near.errors), (&far.latency, far.errors));
        }
    }

    #[test]
    fn what_is_no_histogram_of_ours_is_refused() {
        let sound = serde_json::to_value(tally(5)).expect("JSON");
        let is_taken = |text: &str| {
            let mut value = sound.clone();
            value["latency"] = text.into();
            serde_json::from_value::<Tally>(value).is_ok()
        };
        let text = sound["latency"].as_str().expect("text");
        assert!(is_taken(text));
        // Cut short, with a length it has not, of another layout, no base64, nothing.
        let other = serde_json::to_value(Step { latency: Histogram::new(2).expect("sound"), ..Step::default() });
        let other = other.expect("JSON")["latency"].as_str().expect("text").to_owned();
        for wrong in [&text[..text.len() - 4], "HISTFAAAAP////8=", &other, "%", ""] {
            assert!(!is_taken(wrong), "{wrong}");
        }
    }

    #[test]
    fn sums_keep_their_names() {
        let mut counts = Counts::default();
        for (number, count) in (1..).zip(counts.each_mut()) {
            *count = number;
        }
        let mut twice = counts.clone();
        twice.add(&counts);
        for (number, (name, count)) in (1..).zip(twice.named()) {
            assert_eq!(count, number * 2, "{name}");
        }
        assert_eq!((twice.begun, twice.got, twice.from_history), (2, 18, 56));
    }

    #[test]
    fn delivery_is_a_share() {
        let mut tally = Tally::default();
        assert_eq!(tally.delivery(), None);
        tally.counts.expected = 4;
        tally.counts.got = 3;
        let mut sum = Tally::default();
        sum.add(&tally);
        assert_eq!(sum.delivery(), Some(0.75));
    }
}
