//! Which limits a trial passed.

use std::fmt;

use super::attack::{Allowed, Demand, LIMITS, Limits, MANY};
use super::crowd::Tally;
use super::ledger::Lost;
use super::node::Log;
use super::probe::Answers;
use crate::figures::with_commas;

/// Bytes of resident memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    pub before: u64,
    pub peak: u64,
    pub after: u64,
}

/// Median and 99th percentile in milliseconds, by window.
pub type Percentiles = [Option<[f64; 2]>; 3];

/// All that a trial gave.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub name: &'static str,
    pub attackers: usize,
    /// Those of them that could connect.
    pub came: usize,
    pub residents: usize,
    pub latency: Percentiles,
    pub own: Percentiles,
    /// How late the control group itself was.
    pub loader: Percentiles,
    /// The part of the attack's time in which a reactor wanted a core and had none.
    pub starved: f64,
    /// Publications to either channel; those refused, own ones with them, and those not answered.
    pub published: (u64, u64, u64),
    pub refusals: Vec<u32>,
    pub lost: Lost,
    pub twice: u64,
    pub gaps: u64,
    pub recovered: u64,
    pub pings: u64,
    /// Why bystanders were closed.
    pub closed: Vec<String>,
    pub memory: Sizes,
    /// Seconds from the end of the attack until memory was read again.
    pub waited: f64,
    pub answers: [Answers; 3],
    /// Why a client that came afterwards was not served.
    pub newcomer: Option<String>,
    pub log: Log,
    pub tally: Tally,
    /// How the server ended, if it did.
    pub ended: Option<String>,
}

/// A limit that was passed.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    Ended(String),
    Closed(usize, String),
    Lost(Lost),
    Twice(u64),
    Refused(u64, Vec<u32>),
    Unanswered(u64),
    Slow { what: &'static str, p99: f64, limit: f64 },
    Peak { peak: u64, limit: u64 },
    NotBack { after: u64, limit: u64, waited: f64 },
    NoAnswer(u64, String),
    NoNewcomer(String),
    Logged(u64),
    AttackersClosed(u64),
    Answered(u16, u64),
}

/// What can be said of a trial.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    pub faults: Vec<Fault>,
    /// The loader was too late or too few attackers came, so nothing can be said.
    pub unclear: Option<String>,
}

/// Judges. `timed` is false where time is shown only.
pub fn judge(outcome: &Outcome, allowed: &Allowed, demand: Demand, timed: bool) -> Verdict {
    let mut verdict = Verdict::default();
    if let Some(how) = &outcome.ended {
        verdict.faults.push(Fault::Ended(how.clone()));
        return verdict;
    }
    if outcome.came < outcome.attackers {
        verdict.unclear = Some(format!("{} of {} attackers came", outcome.came, outcome.attackers));
    }
    judge_bystanders(outcome, allowed, &mut verdict.faults);
    judge_memory(&outcome.memory, outcome.waited, allowed, &LIMITS, &mut verdict.faults);
    judge_service(outcome, allowed, demand, &LIMITS, &mut verdict.faults);
    if timed && outcome.attackers < MANY {
        judge_time(outcome, &LIMITS, &mut verdict);
    }
    verdict
}

fn judge_bystanders(outcome: &Outcome, allowed: &Allowed, faults: &mut Vec<Fault>) {
    if let Some(why) = outcome.closed.first() {
        faults.push(Fault::Closed(outcome.closed.len(), why.clone()));
    }
    let plain = if allowed.losses { 0 } else { outcome.lost.plain };
    let own = if allowed.losses { 0 } else { outcome.lost.own };
    let lost = Lost { plain, own, ..outcome.lost };
    if lost != Lost::default() {
        faults.push(Fault::Lost(lost));
    }
    if outcome.twice > 0 {
        faults.push(Fault::Twice(outcome.twice));
    }
    let (_, refused, unanswered) = outcome.published;
    if refused > 0 && !allowed.refusals {
        faults.push(Fault::Refused(refused, outcome.refusals.clone()));
    }
    if unanswered > 0 {
        faults.push(Fault::Unanswered(unanswered));
    }
}

fn judge_memory(sizes: &Sizes, waited: f64, allowed: &Allowed, limits: &Limits, faults: &mut Vec<Fault>) {
    let limit = sizes.before + limits.growth + allowed.buffers;
    let limit = allowed.total.map_or(limit, |total| total.max(sizes.before));
    if sizes.peak > limit {
        faults.push(Fault::Peak { peak: sizes.peak, limit });
    }
    let limit = most_after(sizes.before, allowed, limits);
    if sizes.after > limit {
        faults.push(Fault::NotBack { after: sizes.after, limit, waited });
    }
}

/// What memory may be when the attack is over: within a tenth of what it was, or a little more where that is little.
pub fn most_after(before: u64, allowed: &Allowed, limits: &Limits) -> u64 {
    before + (before / 10).max(limits.rest) + allowed.kept
}

fn judge_service(outcome: &Outcome, allowed: &Allowed, demand: Demand, limits: &Limits, faults: &mut Vec<Fault>) {
    let failed = |answers: &Answers| answers.failed - if allowed.refusals { answers.refused } else { 0 };
    let failed: u64 = outcome.answers[1..].iter().map(failed).sum();
    if failed > 0 {
        let why = outcome.answers[1..].iter().find_map(|answers| answers.why.clone());
        faults.push(Fault::NoAnswer(failed, why.unwrap_or_default()));
    }
    if let Some(why) = &outcome.newcomer {
        faults.push(Fault::NoNewcomer(why.clone()));
    }
    if outcome.log.lines > limits.lines {
        faults.push(Fault::Logged(outcome.log.lines));
    }
    match demand {
        Demand::Stay if outcome.tally.closed_all() > 0 => {
            faults.push(Fault::AttackersClosed(outcome.tally.closed_all()));
        }
        Demand::Never(status) if outcome.tally.statuses.contains_key(&status) => {
            faults.push(Fault::Answered(status, outcome.tally.statuses[&status]));
        }
        Demand::Nothing | Demand::Stay | Demand::Never(_) => {}
    }
}

fn judge_time(outcome: &Outcome, limits: &Limits, verdict: &mut Verdict) {
    let late = outcome.loader[1].map_or(0.0, |[_, p99]| p99);
    for (what, times) in [("publications", &outcome.latency), ("own publications", &outcome.own)] {
        let Some([_, p99]) = times[1] else { continue };
        if p99 <= limits.p99 {
            continue;
        }
        // Whoever is half as late as what it measures, measures itself.
        if late * 2.0 > p99 {
            verdict.unclear = Some(format!("the loader was the limit: it was {late:.1} ms late itself (p99)"));
        } else {
            verdict.faults.push(Fault::Slow { what, p99, limit: limits.p99 });
        }
    }
}

/// Bytes in MiB, for people.
pub fn mib(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / super::MIB as f64)
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended(how) => write!(f, "the server ended: {how}"),
            Self::Closed(count, why) => write!(f, "{count} bystanders were closed; the first {why}"),
            Self::Lost(lost) => write!(
                f,
                "bystanders lost {} publications ({} of a channel with history, {} of their own)",
                lost.plain + lost.kept + lost.own,
                lost.kept,
                lost.own
            ),
            Self::Twice(count) => write!(f, "{count} publications came twice"),
            Self::Refused(count, codes) => write!(f, "{count} publications of a bystander were refused: {codes:?}"),
            Self::Unanswered(count) => write!(f, "{count} publications of a bystander were never answered"),
            Self::Slow { what, p99, limit } => write!(f, "p99 of {what} was {p99:.1} ms, limit {limit} ms"),
            Self::Peak { peak, limit } => {
                write!(f, "memory went up to {} MiB, limit {} MiB", mib(*peak), mib(*limit))
            }
            Self::NotBack { after, limit, waited } => {
                write!(f, "memory was still {} MiB after {waited:.0} s, limit {} MiB", mib(*after), mib(*limit))
            }
            Self::NoAnswer(count, why) => write!(f, "{count} questions to the node failed; the first, {why}"),
            Self::NoNewcomer(why) => write!(f, "a client that came afterwards was not served: {why}"),
            Self::Logged(lines) => write!(f, "{} lines were logged", with_commas(*lines as f64)),
            Self::AttackersClosed(count) => write!(f, "{count} clients were closed that did what they may"),
            Self::Answered(status, count) => write!(f, "{count} requests were answered with {status}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abuse::MIB;
    use std::collections::BTreeMap;

    /// A trial in which nothing happened.
    fn quiet() -> Outcome {
        Outcome {
            attackers: 4,
            came: 4,
            latency: [Some([1.0, 5.0]); 3],
            loader: [Some([0.1, 1.0]); 3],
            memory: Sizes { before: 20 * MIB, peak: 21 * MIB, after: 20 * MIB },
            ..Outcome::default()
        }
    }

    fn faults(change: impl FnOnce(&mut Outcome)) -> Vec<Fault> {
        let mut outcome = quiet();
        change(&mut outcome);
        judge(&outcome, &Allowed::default(), Demand::Nothing, true).faults
    }

    #[test]
    fn a_quiet_trial_passes() {
        assert_eq!(judge(&quiet(), &Allowed::default(), Demand::Nothing, true), Verdict::default());
    }

    #[test]
    fn each_harm_is_a_fault() {
        assert_eq!(faults(|o| o.ended = Some("signal 6".into())), [Fault::Ended("signal 6".into())]);
        assert_eq!(faults(|o| o.closed.push("closed with 3012".into())), [Fault::Closed(1, "closed with 3012".into())]);
        assert_eq!(faults(|o| o.lost.kept = 2).len(), 1);
        assert_eq!(faults(|o| o.lost.plain = 2).len(), 1);
        assert_eq!(faults(|o| o.lost.own = 2).len(), 1);
        assert_eq!(faults(|o| o.twice = 1), [Fault::Twice(1)]);
        assert_eq!(faults(|o| o.published = (40, 3, 0)), [Fault::Refused(3, Vec::new())]);
        assert_eq!(faults(|o| o.published = (40, 0, 3)), [Fault::Unanswered(3)]);
        assert_eq!(faults(|o| o.newcomer = Some("503".into())), [Fault::NoNewcomer("503".into())]);
        assert_eq!(faults(|o| o.log.lines = 51), [Fault::Logged(51)]);
        assert_eq!(faults(|o| o.log.lines = 50), []);
        assert_eq!(faults(|o| o.answers[1].failed = 1).len(), 1);
        assert_eq!(faults(|o| o.answers[2].failed = 1).len(), 1);
    }

    #[test]
    fn time_is_judged_beside_few_attackers_only() {
        let slow = |o: &mut Outcome| o.latency[1] = Some([1.0, 50.1]);
        assert_eq!(faults(slow), [Fault::Slow { what: "publications", p99: 50.1, limit: 50.0 }]);
        assert_eq!(faults(|o| o.latency[1] = Some([1.0, 50.0])), []);
        assert_eq!(faults(|o| o.latency[2] = Some([1.0, 500.0])), [], "afterwards is shown");
        assert_eq!(faults(|o| o.own[1] = Some([1.0, 51.0])).len(), 1);
        let many = |o: &mut Outcome| {
            slow(o);
            (o.attackers, o.came) = (MANY, MANY);
        };
        assert_eq!(faults(many), []);
        let mut outcome = quiet();
        slow(&mut outcome);
        assert_eq!(judge(&outcome, &Allowed::default(), Demand::Nothing, false), Verdict::default());
    }

    #[test]
    fn a_loader_that_was_late_makes_the_time_unclear_and_nothing_else() {
        let mut outcome = quiet();
        outcome.latency[1] = Some([1.0, 60.0]);
        outcome.loader[1] = Some([1.0, 31.0]);
        outcome.twice = 1;
        let verdict = judge(&outcome, &Allowed::default(), Demand::Nothing, true);
        assert_eq!(verdict.faults, [Fault::Twice(1)]);
        assert!(verdict.unclear.is_some_and(|why| why.contains("31.0 ms late")));
        outcome.loader[1] = Some([1.0, 29.0]);
        assert_eq!(judge(&outcome, &Allowed::default(), Demand::Nothing, true).unclear, None);
    }

    #[test]
    fn an_attack_that_did_not_come_proves_nothing() {
        let outcome = Outcome { came: 3, ..quiet() };
        let verdict = judge(&outcome, &Allowed::default(), Demand::Nothing, false);
        assert_eq!(verdict.unclear.as_deref(), Some("3 of 4 attackers came"));
    }

    #[test]
    fn memory_may_grow_by_so_much_and_comes_back() {
        let sizes = |peak: u64, after: u64| {
            move |o: &mut Outcome| o.memory = Sizes { before: 20 * MIB, peak: peak * MIB, after: after * MIB }
        };
        assert_eq!(faults(sizes(84, 28)), []);
        assert_eq!(faults(sizes(85, 20)), [Fault::Peak { peak: 85 * MIB, limit: 84 * MIB }]);
        let not_back = Fault::NotBack { after: 29 * MIB, limit: 28 * MIB, waited: 0.0 };
        assert_eq!(faults(sizes(30, 29)), [not_back]);
        let large =
            |after: u64| faults(|o| o.memory = Sizes { before: 200 * MIB, peak: 220 * MIB, after: after * MIB }).len();
        assert_eq!([large(220), large(221)], [0, 1], "a tenth of what it was");
    }

    #[test]
    fn what_is_documented_is_allowed() {
        let allowed = Allowed { buffers: 8 * MIB, kept: 16 * MIB, refusals: true, losses: true, ..Allowed::default() };
        let mut outcome = quiet();
        outcome.memory = Sizes { before: 20 * MIB, peak: 92 * MIB, after: 44 * MIB };
        outcome.published = (10, 4, 0);
        outcome.lost = Lost { plain: 3, kept: 0, own: 2 };
        assert_eq!(judge(&outcome, &allowed, Demand::Nothing, true).faults, []);
        (outcome.answers[1].failed, outcome.answers[1].refused) = (2, 2);
        assert_eq!(judge(&outcome, &allowed, Demand::Nothing, true).faults, []);
        outcome.answers[1].refused = 1;
        assert_eq!(judge(&outcome, &allowed, Demand::Nothing, true).faults.len(), 1, "one was not answered at all");
        outcome.answers[1].failed = 1;
        outcome.lost.kept = 1;
        assert_eq!(judge(&outcome, &allowed, Demand::Nothing, true).faults.len(), 1, "what is kept is recovered");
        let limited = Allowed { total: Some(110 * MIB), kept: 24 * MIB, ..Allowed::default() };
        outcome = quiet();
        outcome.memory.peak = 111 * MIB;
        let faults = judge(&outcome, &limited, Demand::Nothing, true).faults;
        assert_eq!(faults, [Fault::Peak { peak: 111 * MIB, limit: 110 * MIB }]);
    }

    #[test]
    fn demands_on_the_attackers_own_connections() {
        let mut outcome = quiet();
        outcome.tally.closed = BTreeMap::from([(0, 2)]);
        outcome.tally.statuses = BTreeMap::from([(101, 3)]);
        let of = |demand| judge(&outcome, &Allowed::default(), demand, true).faults;
        assert_eq!(of(Demand::Nothing), []);
        assert_eq!(of(Demand::Stay), [Fault::AttackersClosed(2)]);
        assert_eq!(of(Demand::Never(101)), [Fault::Answered(101, 3)]);
        assert_eq!(of(Demand::Never(200)), []);
    }
}
