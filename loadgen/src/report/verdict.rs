//! Did the run reach its goal, and if not, why not; and where a ramp has its knee.
//!
//! Never prints.

use super::setup;
use crate::conduct::Outcome;
use crate::plan::{Life, Plan};
use crate::tally::Step;

/// A step that delivers less than this share is beyond the knee.
const STEP_DELIVERY_MIN: f64 = 0.99;
/// Less than this share of the messages that were asked for is another run than that.
const OFFERED_MIN: f64 = 0.95;

/// What there is to blame; empty = the goal is reached.
pub fn complaints(plan: &Plan, outcome: &Outcome) -> Vec<String> {
    let (tally, counts) = (&outcome.tally, &outcome.tally.counts);
    let mut all = Vec::new();
    let first = u64::from(plan.first_clients_here());
    if outcome.open_at_play < first {
        all.push(format!("{} of {first} clients connected", outcome.open_at_play));
    }
    all.extend(super::agents::complaints(outcome));
    if outcome.interrupted {
        all.push("interrupted".to_owned());
    }
    if counts.nonsense > 0 {
        all.push(format!("{} messages broke the protocol", counts.nonsense));
    }
    if counts.stray > 0 {
        all.push(format!("{} messages reached somebody they were not for", counts.stray));
    }
    if let Some(least) = plan.min_delivery {
        let delivery = tally.delivery().unwrap_or(1.0);
        if delivery < least {
            all.push(format!("delivery ratio {delivery:.6} is below {least}"));
        }
        if counts.sent == 0 && plan.roles.speakers() > 0 && plan.parts == 1 {
            all.push("nothing was sent".to_owned());
        }
        if counts.duplicates > 0 {
            all.push(format!("{} messages came twice", counts.duplicates));
        }
    }
    all.extend(offered(plan, outcome));
    all.extend(late(plan, outcome));
    if plan.recover {
        recovery(plan, outcome, &mut all);
    }
    match plan.life {
        Life::Storm { rounds, .. } => {
            let complete = outcome.rounds.iter().filter(|round| round.complete).count();
            if complete < rounds as usize {
                all.push(format!("everyone came back in {complete} of {rounds} rounds"));
            }
        }
        Life::Ramp { .. } if knee(plan, &tally.steps) == Some(0) => {
            all.push("the first step is beyond the knee already".to_owned());
        }
        Life::Churn { .. } if counts.failed + counts.lost > 0 => {
            all.push(format!("{} connections failed or were lost", counts.failed + counts.lost));
        }
        Life::Steady | Life::Stall { .. } if counts.lost > 0 => {
            all.push(format!("{} connections were lost", counts.lost))
        }
        _ => {}
    }
    all
}

/// Messages that were due and never sent are in no percentile: latency says nothing of the rate that was asked for.
fn offered(plan: &Plan, outcome: &Outcome) -> Option<String> {
    let rate = setup::asked_rate(plan)?;
    // The knee judges a ramp; a storm is over with its rounds, whatever is due; a part knows only its own speakers.
    if matches!(plan.life, Life::Ramp { .. } | Life::Storm { .. }) || plan.parts > 1 || outcome.interrupted {
        return None;
    }
    let (due, sent) = (rate * outcome.play_seconds, outcome.tally.counts.sent as f64);
    // Each loop begins within a beat.
    let slack = f64::from(plan.threads) + 1.0;
    (sent + slack < due * OFFERED_MIN).then(|| {
        format!(
            "{:.0}% of the {} messages a second that were asked for were sent: the others are in no percentile; give it \
             more --threads or another host, or ask for less",
            sent / due * 100.0,
            super::text::rate(rate)
        )
    })
}

fn late(plan: &Plan, outcome: &Outcome) -> Option<String> {
    let (most, latency) = (plan.max_p99?, &outcome.tally.latency);
    if latency.is_empty() {
        return Some("--max-p99: no latency was measured".to_owned());
    }
    let p99 = latency.value_at_quantile(0.99);
    let shown = super::text::nanoseconds;
    (u128::from(p99) > most.as_nanos())
        .then(|| format!("p99 {} is above {} (--max-p99)", shown(p99), shown(most.as_nanos() as u64)))
}

/// What recovery is to blame for.
fn recovery(plan: &Plan, outcome: &Outcome, all: &mut Vec<String>) {
    let counts = &outcome.tally.counts;
    if counts.unrecoverable > 0 {
        all.push(format!(
            "recovery was not possible: {} subscriptions were given no position; the server must keep a history of \
             the channels {}... (gannet: history_size, history_ttl and force_recovery)",
            counts.unrecoverable, plan.names.prefix
        ));
    }
    if counts.unrecovered > 0 {
        all.push(format!(
            "{} of {} subscriptions came back without what they missed; the server must keep more, for longer, and \
             give more at once (gannet: history_size, history_ttl, client.recovery_max_publication_limit)",
            counts.unrecovered,
            counts.unrecovered + counts.recovered
        ));
    }
    // A part cannot judge delivery, but its listeners know what they lack.
    if plan.min_delivery.is_none() && counts.lost() + counts.duplicates > 0 {
        all.push(format!("{} publications were lost, and {} came twice", counts.lost(), counts.duplicates));
    }
    if counts.recovered + counts.unrecovered + counts.unrecoverable == 0 && plan.parts == 1 {
        all.push("nobody came back, so nothing was recovered".to_owned());
    }
}

/// The first step of a ramp that the server did not keep up with.
pub fn knee(plan: &Plan, steps: &[Step]) -> Option<usize> {
    steps.iter().position(|step| {
        let slow = step.latency.value_at_quantile(0.99) > plan.knee.as_nanos() as u64;
        let short = (step.got as f64) < step.expected as f64 * STEP_DELIVERY_MIN;
        step.errors > 0 || step.sent > 0 && (slow || short)
    })
}
