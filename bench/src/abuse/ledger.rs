//! What the control group saw: who got which publication and when, window by window, and what became of each.
//!
//! Publications are numbered from 0 and sent to two channels at once. Never knows sockets or clocks.

use std::io;

use hdrhistogram::Histogram;

use super::phase::WINDOWS;
use crate::figures::histogram;

/// The two channels of the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// Without history: what is lost is lost.
    Plain,
    /// With history and positions: a gap is told, and its subscribers recover what they missed.
    Kept,
}

/// What the publisher was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    None,
    Accepted,
    Refused(u32),
}

/// One publication.
#[derive(Clone, Copy, Debug)]
struct Publication {
    due: u64,
    window: usize,
    answers: [Answer; 2],
}

/// Which publications one subscriber got, a bit each.
#[derive(Clone, Debug, Default)]
struct Got(Vec<u64>);

impl Got {
    /// False if it had it already.
    fn add(&mut self, number: usize) -> bool {
        let (word, bit) = (number / 64, 1 << (number % 64));
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        let fresh = self.0[word] & bit == 0;
        self.0[word] |= bit;
        fresh
    }

    fn has(&self, number: usize) -> bool {
        self.0.get(number / 64).is_some_and(|word| word & (1 << (number % 64)) != 0)
    }
}

/// What a subscriber publishes to itself.
#[derive(Clone, Copy, Debug)]
struct Own {
    due: u64,
    window: usize,
    fate: Fate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Missing,
    Came,
    Refused,
}

impl Own {
    fn is_missing(&self) -> bool {
        self.fate == Fate::Missing
    }
}

/// A subscriber of one of the two channels.
#[derive(Clone, Debug)]
struct Subscriber {
    channel: Channel,
    got: Got,
    closed: bool,
    /// What it publishes to a channel of its own.
    own: Vec<Own>,
}

/// Nanoseconds, one histogram a window.
type Times = [Histogram<u64>; 3];

pub struct Ledger {
    publications: Vec<Publication>,
    subscribers: Vec<Subscriber>,
    /// From when a publication was due until a subscriber had it.
    pub latency: Times,
    /// The same for what subscribers publish to themselves.
    pub own: Times,
    /// How long the group itself waited for a core, or was busy, when something came.
    pub loader: Times,
    /// What came although it had come before.
    pub twice: u64,
    /// Positions that the server gave up, and those that were recovered without a loss.
    pub gaps: u64,
    pub recovered: u64,
    pub pings: u64,
    /// Why connections were closed.
    pub closed: Vec<String>,
}

/// Publications that a subscriber should have had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    pub plain: u64,
    pub kept: u64,
    /// Of those that subscribers publish to themselves.
    pub own: u64,
}

fn times() -> io::Result<Times> {
    Ok([histogram()?, histogram()?, histogram()?])
}

impl Ledger {
    pub fn new(channels: impl IntoIterator<Item = Channel>) -> io::Result<Self> {
        let subscriber = |channel| Subscriber { channel, got: Got::default(), closed: false, own: Vec::new() };
        Ok(Self {
            publications: Vec::new(),
            subscribers: channels.into_iter().map(subscriber).collect(),
            latency: times()?,
            own: times()?,
            loader: times()?,
            twice: 0,
            gaps: 0,
            recovered: 0,
            pings: 0,
            closed: Vec::new(),
        })
    }

    /// The number of the publication that goes out now.
    pub fn publish(&mut self, due: u64, window: usize) -> usize {
        self.publications.push(Publication { due, window, answers: [Answer::None; 2] });
        self.publications.len() - 1
    }

    /// The publisher's reply; `refused` is its error code.
    pub fn answer(&mut self, channel: Channel, number: usize, refused: Option<u32>) {
        if let Some(publication) = self.publications.get_mut(number) {
            publication.answers[channel as usize] = refused.map_or(Answer::Accepted, Answer::Refused);
        }
    }

    /// A subscriber got a publication. One that was recovered is no measure of time.
    pub fn heard(&mut self, subscriber: usize, number: usize, now: u64, live: bool) {
        let Some(publication) = self.publications.get(number) else { return };
        if !self.subscribers[subscriber].got.add(number) {
            self.twice += 1;
        } else if live {
            self.latency[publication.window].saturating_record(now.saturating_sub(publication.due).max(1));
        }
    }

    /// The number of what a subscriber publishes to itself now.
    pub fn publish_own(&mut self, subscriber: usize, due: u64, window: usize) -> usize {
        let own = &mut self.subscribers[subscriber].own;
        own.push(Own { due, window, fate: Fate::Missing });
        own.len() - 1
    }

    pub fn refuse_own(&mut self, subscriber: usize, number: usize) {
        if let Some(own) = self.subscribers[subscriber].own.get_mut(number) {
            own.fate = Fate::Refused;
        }
    }

    pub fn heard_own(&mut self, subscriber: usize, number: usize, now: u64) {
        if let Some(own) = self.subscribers[subscriber].own.get_mut(number) {
            own.fate = Fate::Came;
            self.own[own.window].saturating_record(now.saturating_sub(own.due).max(1));
        }
    }

    pub fn close(&mut self, subscriber: Option<usize>, why: String) {
        if let Some(subscriber) = subscriber {
            self.subscribers[subscriber].closed = true;
        }
        self.closed.push(why);
    }

    /// Publications of subscribers to themselves that were refused.
    pub fn refused_own(&self) -> u64 {
        let own = self.subscribers.iter().flat_map(|subscriber| &subscriber.own);
        own.filter(|own| own.fate == Fate::Refused).count() as u64
    }

    /// Publications to either channel, and how many of them were refused, and not answered.
    pub fn published(&self) -> (u64, u64, u64) {
        let count = |which: fn(&Answer) -> bool| {
            self.publications.iter().flat_map(|p| &p.answers).filter(|answer| which(answer)).count() as u64
        };
        let refused = |answer: &Answer| matches!(answer, Answer::Refused(_));
        (self.publications.len() as u64 * 2, count(refused), count(|answer| *answer == Answer::None))
    }

    /// The codes of the refusals, each once.
    pub fn refusals(&self) -> Vec<u32> {
        let codes = self.publications.iter().flat_map(|p| &p.answers).filter_map(|answer| match answer {
            Answer::Refused(code) => Some(*code),
            _ => None,
        });
        let mut codes: Vec<u32> = codes.collect();
        codes.sort_unstable();
        codes.dedup();
        codes
    }

    /// What subscribers that were not closed lack of what was accepted.
    pub fn lost(&self) -> Lost {
        let mut lost = Lost::default();
        for subscriber in self.subscribers.iter().filter(|subscriber| !subscriber.closed) {
            let lacks = self.lacking(subscriber).count() as u64;
            match subscriber.channel {
                Channel::Plain => lost.plain += lacks,
                Channel::Kept => lost.kept += lacks,
            }
            lost.own += subscriber.own.iter().filter(|own| own.is_missing()).count() as u64;
        }
        lost
    }

    /// True once everybody has everything.
    pub fn is_whole(&self) -> bool {
        let open = || self.subscribers.iter().filter(|subscriber| !subscriber.closed);
        open()
            .all(|subscriber| self.lacking(subscriber).next().is_none() && !subscriber.own.iter().any(Own::is_missing))
            && self.published().2 == 0
    }

    fn lacking<'a>(&'a self, subscriber: &'a Subscriber) -> impl Iterator<Item = usize> + 'a {
        let accepted =
            move |publication: &Publication| publication.answers[subscriber.channel as usize] == Answer::Accepted;
        let all = self.publications.iter().enumerate();
        all.filter(move |(number, p)| accepted(p) && !subscriber.got.has(*number)).map(|(number, _)| number)
    }
}

/// Median and 99th percentile of each window in milliseconds; None where nothing was measured.
pub fn percentiles(times: &Times) -> [Option<[f64; 2]>; WINDOWS.len()] {
    let of = |times: &Histogram<u64>| {
        let ms = |quantile| times.value_at_quantile(quantile) as f64 / 1e6;
        (!times.is_empty()).then(|| [ms(0.5), ms(0.99)])
    };
    [of(&times[0]), of(&times[1]), of(&times[2])]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> Ledger {
        Ledger::new([Channel::Plain, Channel::Plain, Channel::Kept]).expect("histograms")
    }

    #[test]
    fn a_publication_counts_in_the_window_it_was_due_in() {
        let mut ledger = ledger();
        for (window, late) in [(0, 1), (1, 40), (1, 900), (2, 3)] {
            let number = ledger.publish(1_000_000, window);
            // It comes when the next window has begun long ago.
            ledger.heard(0, number, 1_000_000 + late * 1_000_000, true);
        }
        let rounded = |window: usize| percentiles(&ledger.latency)[window].map(|both| both.map(f64::round));
        assert_eq!([rounded(0), rounded(2)], [Some([1.0, 1.0]), Some([3.0, 3.0])]);
        assert_eq!(rounded(1), Some([40.0, 900.0]));
        assert_eq!(percentiles(&ledger.own), [None; 3]);
    }

    #[test]
    fn what_was_accepted_and_did_not_come_is_lost() {
        let mut ledger = ledger();
        for number in 0..130 {
            ledger.publish(1, 0);
            ledger.answer(Channel::Plain, number, None);
            ledger.answer(Channel::Kept, number, (number == 7).then_some(111));
            for subscriber in 0..3 {
                let missing = matches!((subscriber, number), (0, 64) | (1, 129) | (2, 7) | (2, 8));
                if !missing {
                    ledger.heard(subscriber, number, 2, true);
                }
            }
        }
        assert_eq!(ledger.lost(), Lost { plain: 2, kept: 1, own: 0 });
        assert_eq!((ledger.published(), ledger.refusals()), ((260, 1, 0), vec![111]));
        assert!(!ledger.is_whole());
        ledger.heard(2, 8, 2, false);
        ledger.heard(0, 64, 2, true);
        assert_eq!(ledger.lost(), Lost { plain: 1, kept: 0, own: 0 });
        ledger.close(Some(1), "3012".to_owned());
        assert_eq!(ledger.lost(), Lost::default(), "a closed client is counted as closed and not as a loss");
        assert!(ledger.is_whole());
        ledger.heard(0, 64, 2, true);
        assert_eq!((ledger.twice, ledger.closed.len()), (1, 1));
    }

    #[test]
    fn what_is_not_answered_is_neither_accepted_nor_refused() {
        let mut ledger = ledger();
        ledger.publish(1, 1);
        assert_eq!((ledger.published(), ledger.lost(), ledger.is_whole()), ((2, 0, 2), Lost::default(), false));
    }

    #[test]
    fn what_never_came_is_lost_and_not_late() {
        let mut ledger = ledger();
        let numbers = [0, 1].map(|_| ledger.publish(1_000_000, 1));
        numbers.iter().for_each(|number| ledger.answer(Channel::Plain, *number, None));
        ledger.heard(0, numbers[0], 2_000_000, true);
        ledger.publish_own(0, 3_000_000, 1);
        let rounded = percentiles(&ledger.latency).map(|both| both.map(|both| both.map(f64::round)));
        assert_eq!(rounded, [None, Some([1.0, 1.0]), None]);
        assert_eq!((percentiles(&ledger.own)[1], ledger.lost()), (None, Lost { plain: 3, kept: 0, own: 1 }));
    }

    #[test]
    fn own_publications_are_lost_too() {
        let mut ledger = ledger();
        let numbers = [5, 6, 7].map(|due| ledger.publish_own(1, due, 2));
        ledger.heard_own(1, numbers[0], 2_000_005);
        ledger.refuse_own(1, numbers[2]);
        assert_eq!((ledger.lost(), ledger.refused_own()), (Lost { plain: 0, kept: 0, own: 1 }, 1));
        assert_eq!(percentiles(&ledger.own)[2].map(|both| both[1].round()), Some(2.0));
    }
}
