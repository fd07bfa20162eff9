//! What is printed and written of all trials.

use serde_json::{Value, json};

use super::attack::LIMITS;
use super::verdict::{Outcome, Percentiles, Verdict, mib};
use crate::figures::{now_unix, print_table};
use crate::machine;

/// A part of the time from which on it is said that reactors were starved.
const STARVED: f64 = 0.1;

const HEAD: [&str; 12] = [
    "attack",
    "attackers",
    "before ms",
    "during ms",
    "after ms",
    "own p99",
    "lost",
    "closed",
    "MiB before",
    "peak",
    "after",
    "verdict",
];

/// One trial and what is to be said of it.
pub type Row = (Outcome, Verdict);

/// The table: p50/p99 of the control group's publications, what it lost, the server's memory.
pub fn print(rows: &[Row]) {
    print_table(&HEAD, &rows.iter().map(cells).collect::<Vec<_>>());
    println!(
        "before, during, after: p50/p99 of publications to bystanders. own: of those they publish to themselves, \
         during. MiB: resident memory."
    );
}

fn cells((outcome, verdict): &Row) -> Vec<String> {
    let lost = outcome.lost;
    let [before, during, after] = [0, 1, 2].map(|window| both(&outcome.latency, window));
    let memory = outcome.memory;
    vec![
        outcome.name.to_owned(),
        outcome.attackers.to_string(),
        before,
        during,
        after,
        outcome.own[1].map_or("-".to_owned(), |[_, p99]| format!("{p99:.1}")),
        (lost.plain + lost.kept + lost.own).to_string(),
        outcome.closed.len().to_string(),
        mib(memory.before),
        mib(memory.peak),
        mib(memory.after),
        word(verdict).to_owned(),
    ]
}

fn both(times: &Percentiles, window: usize) -> String {
    times[window].map_or("-".to_owned(), |[p50, p99]| format!("{p50:.1}/{p99:.1}"))
}

fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict { faults, .. } if !faults.is_empty() => "FAULT",
        Verdict { unclear: Some(_), .. } => "unclear",
        Verdict { .. } => "kept",
    }
}

/// What is said of one trial as soon as it is over.
pub fn lines((outcome, verdict): &Row) -> Vec<String> {
    let mut lines: Vec<String> = verdict.faults.iter().map(|fault| format!("FAULT: {fault}")).collect();
    if let Some(first) = outcome.log.first.first().filter(|_| outcome.log.lines > LIMITS.lines) {
        lines.push(format!("the first line logged: {first}"));
    }
    if let Some(why) = &verdict.unclear {
        lines.push(format!("unclear: {why}"));
    }
    if outcome.starved > STARVED {
        lines.push(format!("a reactor waited for a core {:.0}% of the time", outcome.starved * 100.0));
    }
    let (tally, gaps) = (&outcome.tally, outcome.gaps);
    if gaps > 0 {
        lines.push(format!("{gaps} positions were given up, {} recovered", outcome.recovered));
    }
    lines.push(format!(
        "attackers: {} connections, {} failed, {} MiB sent, {} MiB read, closed {:?}, statuses {:?}",
        tally.opened,
        tally.failed,
        mib(tally.sent),
        mib(tally.received),
        tally.closed,
        tally.statuses
    ));
    lines
}

/// All of it for programs.
pub fn json(rows: &[Row], short: bool) -> Value {
    json!({
        "at_unix": now_unix(), "machine": machine::describe(), "short": short,
        "limits": {
            "p99_ms": LIMITS.p99, "growth_bytes": LIMITS.growth, "rest_bytes": LIMITS.rest, "log_lines": LIMITS.lines,
        },
        "rows": rows.iter().map(row).collect::<Vec<_>>(),
    })
}

fn row((outcome, verdict): &Row) -> Value {
    let windows = |times: &Percentiles| {
        let of = |window: usize| times[window].map_or(Value::Null, |[p50, p99]| json!({"p50": p50, "p99": p99}));
        json!({"before": of(0), "during": of(1), "after": of(2)})
    };
    let answers = |window: usize| {
        let answers = &outcome.answers[window];
        let slowest = answers.slowest.as_secs_f64() * 1e3;
        json!({"asked": answers.asked, "failed": answers.failed, "slowest_ms": slowest, "why": answers.why})
    };
    let (memory, lost) = (outcome.memory, outcome.lost);
    let (published, refused, unanswered) = outcome.published;
    json!({
        "attack": outcome.name, "attackers": outcome.attackers, "came": outcome.came,
        "residents": outcome.residents,
        "latency_ms": windows(&outcome.latency), "own_ms": windows(&outcome.own),
        "loader_late_ms": windows(&outcome.loader), "reactor_starved": outcome.starved,
        "published": published, "refused": refused, "refusals": outcome.refusals, "unanswered": unanswered,
        "lost": {"plain": lost.plain, "kept": lost.kept, "own": lost.own}, "twice": outcome.twice,
        "gaps": outcome.gaps, "recovered": outcome.recovered, "pings": outcome.pings, "closed": outcome.closed,
        "memory_bytes": {"before": memory.before, "peak": memory.peak, "after": memory.after},
        "memory_after_seconds": outcome.waited,
        "node": {"before": answers(0), "during": answers(1), "after": answers(2)},
        "newcomer": outcome.newcomer, "log_lines": outcome.log.lines, "log_first": outcome.log.first,
        "attackers_saw": outcome.tally.json(), "ended": outcome.ended,
        "faults": verdict.faults.iter().map(ToString::to_string).collect::<Vec<_>>(), "unclear": verdict.unclear,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abuse::verdict::Fault;

    #[test]
    fn a_row_has_a_cell_for_each_head_and_says_the_worst() {
        let mut row = (Outcome { name: "x", ..Outcome::default() }, Verdict::default());
        assert_eq!(cells(&row).len(), HEAD.len());
        assert_eq!((cells(&row)[2].as_str(), cells(&row)[11].as_str()), ("-", "kept"));
        row.1.unclear = Some("late".to_owned());
        assert_eq!(cells(&row)[11], "unclear");
        row.1.faults.push(Fault::Twice(1));
        row.0.latency[1] = Some([1.25, 60.0]);
        assert_eq!((cells(&row)[3].as_str(), cells(&row)[11].as_str()), ("1.2/60.0", "FAULT"));
        assert!(lines(&row)[0].contains("came twice"));
        assert_eq!(json(&[row], true)["rows"][0]["faults"][0], "1 publications came twice");
    }
}
