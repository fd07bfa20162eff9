//! What is reported of agents: a row each, how well their clocks are known, and what is missing of those that were lost.
//!
//! Never knows how they were spoken to.

use serde_json::{Value, json};

use super::text::{count, nanoseconds};
use crate::agents::{Loss, Part};
use crate::conduct::Outcome;
use crate::plan::{Life, Plan};

/// Those that did not live to tell, and how they were lost.
fn lost(outcome: &Outcome) -> impl Iterator<Item = (&Part, &Loss)> {
    outcome.agents.iter().filter_map(|part| Some((part, part.lost.as_ref()?)))
}

/// How many did.
pub fn heard(outcome: &Outcome) -> usize {
    outcome.agents.len() - lost(outcome).count()
}

/// Deliveries owed that nobody has seen, if an agent was lost that might have.
pub fn unaccounted(outcome: &Outcome) -> Option<u64> {
    let counts = &outcome.tally.counts;
    lost(outcome).next().map(|_| counts.expected.saturating_sub(counts.got))
}

/// The largest; None = there was one clock only, or none to compare.
pub fn clock_uncertainty(outcome: &Outcome) -> Option<u64> {
    outcome.agents.iter().map(|part| part.clock_uncertainty).max()
}

/// Both ends of each client's connection are in this host's kernel; None = of some clients both are.
pub fn has_both_ends(agents: &[Part]) -> Option<bool> {
    let here = agents.iter().filter(|part| part.is_same_host).count();
    match here {
        all if all == agents.len() => Some(true),
        0 => Some(false),
        _ => None,
    }
}

/// Rows of the table, with the name of each.
pub fn rows(plan: &Plan, outcome: &Outcome) -> Vec<(&'static str, String)> {
    let Some(uncertainty) = clock_uncertainty(outcome) else { return Vec::new() };
    let here = heard(outcome);
    let clocks = match uncertainty {
        0 => "one clock".to_owned(),
        _ => format!("clocks known within {}", nanoseconds(uncertainty)),
    };
    let mut rows = vec![("agents", format!("{here} of {} to the end; {clocks}", outcome.agents.len()))];
    let width = outcome.agents.iter().map(|part| part.name.len()).max().unwrap_or(0);
    rows.push((
        "",
        format!(
            "{:width$} {:>9} {:>9} {:>12} {:>12} {:>8} {:>10} {:>10}",
            "", "clients", "connected", "sent", "received", "own cpu", "late p99", "clock +-"
        ),
    ));
    for part in &outcome.agents {
        let seconds = outcome.play_seconds.max(1e-9) * f64::from(plan.threads);
        let share = part.own_cpu_seconds.map(|spent| format!("{:.0}%", spent / seconds * 100.0));
        let unknown = || "-".to_owned();
        let text = format!(
            "{:width$} {:>9} {:>9} {:>12} {:>12} {:>8} {:>10} {:>10}",
            part.name,
            count(u64::from(part.clients)),
            count(part.connected),
            count(part.reading.sent),
            count(part.reading.got),
            share.unwrap_or_else(unknown),
            part.lateness_p99.map_or_else(unknown, nanoseconds),
            nanoseconds(part.clock_uncertainty),
        );
        rows.push((if part.lost.is_some() { "lost" } else { "" }, text));
    }
    for (part, loss) in lost(outcome) {
        rows.push(("agent lost", format!("{} while {}: {}", part.name, loss.stage, loss.why)));
    }
    if let Some(unaccounted) = unaccounted(outcome) {
        let text = format!(
            "counts end with what a lost agent said last, its latencies are missing; {} deliveries are unaccounted for",
            count(unaccounted)
        );
        rows.push(("", text));
    }
    if matches!(plan.life, Life::Storm { .. }) {
        rows.push(("", "a round lasts until the last client of the slowest agent is back".to_owned()));
    }
    rows
}

pub fn json(outcome: &Outcome) -> Vec<Value> {
    let agent = |part: &Part| {
        json!({
            "name": part.name,
            "clients": part.clients,
            "connected": part.connected,
            "sent": part.reading.sent,
            "expected": part.reading.expected,
            "received": part.reading.got,
            "recovered": part.reading.recovered,
            "unrecovered": part.reading.unrecovered,
            "publications_recovered": part.reading.from_history,
            "own_cpu_seconds": part.own_cpu_seconds,
            "own_lateness_p99_ns": part.lateness_p99,
            "clock_uncertainty_ns": part.clock_uncertainty,
            "lost": part.lost.as_ref().map(|loss| json!({"stage": loss.stage, "why": loss.why})),
        })
    };
    outcome.agents.iter().map(agent).collect()
}

/// Why the goal is missed.
pub fn complaints(outcome: &Outcome) -> Vec<String> {
    let complaint = |(part, loss): (&Part, &Loss)| {
        format!(
            "agent {} was lost while {} ({}), with {} clients: its latencies are missing, and {} deliveries are \
             unaccounted for in all",
            part.name,
            loss.stage,
            loss.why,
            part.clients,
            unaccounted(outcome).unwrap_or(0)
        )
    };
    lost(outcome).map(complaint).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::Reading;

    #[test]
    fn a_kernel_has_both_ends_of_those_who_are_here() {
        let part = |is_same_host| Part {
            name: String::new(),
            clients: 1,
            connected: 1,
            is_same_host,
            reading: Reading::default(),
            own_cpu_seconds: None,
            lateness_p99: None,
            clock_uncertainty: 0,
            lost: None,
        };
        assert_eq!(has_both_ends(&[]), Some(true), "the clients are this process's");
        assert_eq!(has_both_ends(&[part(true), part(true)]), Some(true));
        assert_eq!(has_both_ends(&[part(false)]), Some(false));
        assert_eq!(has_both_ends(&[part(false), part(true)]), None);
    }
}
