//! The result as JSON, for programs. Times are nanoseconds unless a name says otherwise.

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use super::cost;
use super::table::QUANTILES;
use super::verdict::knee;
use crate::conduct::{Outcome, Round};
use crate::plan::Plan;

pub fn json(plan: &Plan, outcome: &Outcome, complaints: &[String]) -> Value {
    let tally = &outcome.tally;
    let counts: Map<String, Value> =
        tally.counts.named().into_iter().map(|(name, number)| (name.to_owned(), number.into())).collect();
    let seconds = outcome.play_seconds.max(1e-9);
    json!({
        "goal_reached": complaints.is_empty(),
        "complaints": complaints,
        "setup": super::setup::json(plan),
        "scenario": plan.scenario,
        "profile": plan.profile.name(),
        "target": plan.target.url(),
        "clients": plan.clients_here(),
        "threads": plan.threads,
        "payload_bytes": plan.size,
        "run": plan.run,
        "connected": outcome.open_at_play,
        "connect_seconds": outcome.connect_seconds,
        "connect_rate": outcome.open_at_play as f64 / outcome.connect_seconds.max(1e-9),
        "play_seconds": outcome.play_seconds,
        "sent_per_second": tally.counts.sent as f64 / seconds,
        "received_per_second": tally.counts.got as f64 / seconds,
        "delivery_ratio": tally.delivery(),
        "counts": counts,
        "latency_ns": quantiles(&tally.latency),
        "connect_ns": quantiles(&tally.connect),
        "own_cpu_seconds": outcome.own_cpu_seconds,
        "own_lateness_ns": quantiles(&tally.lateness),
        "agents": super::agents::json(outcome),
        "unaccounted_deliveries": super::agents::unaccounted(outcome),
        "clock_uncertainty_ns": super::agents::clock_uncertainty(outcome),
        "errors": tally.errors,
        "close_codes": named(&tally.closes),
        "error_replies": named(&tally.replies),
        "recovery": recovery(plan, outcome),
        "rounds": rounds(outcome),
        "steps": steps(plan, outcome),
        "knee_step": knee(plan, &tally.steps),
        "server": cost::costs_json(outcome, outcome.spent.processes.as_ref()),
        "server_metrics": cost::costs_json(outcome, outcome.spent.pages.as_ref()),
        "kernel": cost::kernel_json(outcome),
        "series": series(outcome),
    })
}

fn named<K: ToString>(counts: &std::collections::BTreeMap<K, u64>) -> Map<String, Value> {
    counts.iter().map(|(code, number)| (code.to_string(), (*number).into())).collect()
}

fn quantiles(histogram: &Histogram<u64>) -> Value {
    if histogram.is_empty() {
        return Value::Null;
    }
    let mut all: Map<String, Value> = QUANTILES
        .iter()
        .map(|(name, quantile)| ((*name).to_owned(), histogram.value_at_quantile(*quantile).into()))
        .collect();
    all.insert("max".to_owned(), histogram.max().into());
    all.insert("mean".to_owned(), histogram.mean().into());
    all.insert("count".to_owned(), histogram.len().into());
    all.into()
}

/// null = it was not asked for.
fn recovery(plan: &Plan, outcome: &Outcome) -> Value {
    let (tally, counts) = (&outcome.tally, &outcome.tally.counts);
    if !plan.recover {
        return Value::Null;
    }
    json!({
        "recovered": counts.recovered,
        "unrecovered": counts.unrecovered,
        "unrecoverable": counts.unrecoverable,
        "publications_recovered": counts.from_history,
        "publications_lost": counts.lost(),
        "duplicates": counts.duplicates,
        "age_ns": quantiles(&tally.missed),
    })
}

fn rounds(outcome: &Outcome) -> Vec<Value> {
    let round = |round: &Round| {
        json!({
            "seconds": round.seconds,
            "complete": round.complete,
            "recovered": round.recovered,
            "unrecovered": round.unrecovered,
            "publications_recovered": round.from_history,
        })
    };
    outcome.rounds.iter().map(round).collect()
}

fn steps(plan: &Plan, outcome: &Outcome) -> Vec<Value> {
    let step = |(number, step): (u32, &crate::tally::Step)| {
        json!({
            "clients": plan.clients_at_step(number),
            "sent": step.sent,
            "expected": step.expected,
            "received": step.got,
            "errors": step.errors,
            "latency_ns": quantiles(&step.latency),
        })
    };
    (0..).zip(&outcome.tally.steps).map(step).collect()
}

fn series(outcome: &Outcome) -> Vec<Value> {
    let sample = |sample: &crate::conduct::Sample| {
        json!({
            "seconds": sample.at,
            "open": sample.reading.open,
            "sent": sample.reading.sent,
            "received": sample.reading.got,
            "bytes_in": sample.reading.bytes_in,
            "bytes_out": sample.reading.bytes_out,
            "errors": sample.reading.errors,
        })
    };
    outcome.samples.iter().map(sample).collect()
}
