//! The result as a table on stdout. Never decides whether it is good.

use std::fmt::Write;

use hdrhistogram::Histogram;

use super::text::{bytes, count, nanoseconds, rate};
use super::verdict::knee;
use crate::conduct::Outcome;
use crate::plan::{Life, Plan, Talk};

/// The percentiles shown.
pub const QUANTILES: [(&str, f64); 6] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999), ("max", 1.0)];

/// The whole table.
pub fn table(plan: &Plan, outcome: &Outcome, complaints: &[String]) -> String {
    let mut out = String::new();
    row(&mut out, "scenario", &format!("{} ({}) at {}", plan.scenario, plan.profile.name(), plan.target.url()));
    connections(&mut out, plan, outcome);
    if plan.talk != Talk::Nobody {
        messages(&mut out, outcome);
    }
    traffic(&mut out, outcome);
    latencies(&mut out, plan, outcome);
    life(&mut out, plan, outcome);
    for (kind, number) in &outcome.tally.errors {
        row(&mut out, "error", &format!("{} x {kind}", count(*number)));
    }
    for (code, number) in &outcome.tally.closes {
        row(&mut out, "close code", &format!("{} x {code}", count(*number)));
    }
    for (code, number) in &outcome.tally.replies {
        row(&mut out, "error reply", &format!("{} x {code}", count(*number)));
    }
    let loops = plan.threads * super::agents::heard(outcome).max(1) as u32;
    let share = outcome.own_cpu_seconds / outcome.play_seconds.max(1e-9) / f64::from(loops) * 100.0;
    let own = format!("{:.2} s to play, {share:.0}% of what its loops can have", outcome.own_cpu_seconds);
    row(&mut out, "own cpu", &own);
    for (name, text) in super::agents::rows(plan, outcome).into_iter().chain(super::cost::rows(outcome)) {
        row(&mut out, name, &text);
    }
    if complaints.is_empty() {
        row(&mut out, "goal", "reached");
    }
    for complaint in complaints {
        row(&mut out, "goal missed", complaint);
    }
    out
}

fn row(out: &mut String, name: &str, text: &str) {
    writeln!(out, "{name:<14} {text}").expect("a string takes every text");
}

fn connections(out: &mut String, plan: &Plan, outcome: &Outcome) {
    let counts = &outcome.tally.counts;
    let per_second = outcome.open_at_play as f64 / outcome.connect_seconds.max(1e-9);
    let text = format!(
        "{} of {} in {:.2} s ({}/s); all in all {} opened, {} failed, {} lost",
        count(outcome.open_at_play),
        count(u64::from(plan.first_clients_here())),
        outcome.connect_seconds,
        rate(per_second),
        count(counts.opened),
        count(counts.failed),
        count(counts.lost),
    );
    row(out, "connected", &text);
}

fn messages(out: &mut String, outcome: &Outcome) {
    let counts = &outcome.tally.counts;
    let seconds = outcome.play_seconds.max(1e-9);
    row(out, "sent", &format!("{} ({}/s)", count(counts.sent), rate(counts.sent as f64 / seconds)));
    row(out, "received", &format!("{} ({}/s)", count(counts.got), rate(counts.got as f64 / seconds)));
    if let Some(delivery) = outcome.tally.delivery() {
        row(out, "delivery", &format!("{delivery:.6} of {} expected", count(counts.expected)));
    }
    let odd = [
        ("duplicates", counts.duplicates),
        ("gaps", counts.gaps),
        ("out of order", counts.late),
        ("refused", counts.refused),
        ("skipped", counts.skipped),
        ("stray", counts.stray),
        ("of other runs", counts.foreign),
        ("nonsense", counts.nonsense),
        ("unsubscribed", counts.unsubscribed),
    ];
    let found = odd.iter().filter(|(name, number)| *number > 0 || matches!(*name, "duplicates" | "gaps"));
    let text: Vec<String> = found.map(|(name, number)| format!("{name} {}", count(*number))).collect();
    row(out, "sequence", &text.join(", "));
}

fn traffic(out: &mut String, outcome: &Outcome) {
    let counts = &outcome.tally.counts;
    let text = format!("{} in, {} out", bytes(counts.bytes_in as f64), bytes(counts.bytes_out as f64));
    row(out, "traffic", &text);
    if counts.pings + counts.frame_pings > 0 {
        let text =
            format!("{} answered, {} of them WebSocket pings", counts.pings + counts.frame_pings, counts.frame_pings);
        row(out, "pings", &text);
    }
}

fn latencies(out: &mut String, plan: &Plan, outcome: &Outcome) {
    let tally = &outcome.tally;
    let shown = |histogram: &Histogram<u64>| !histogram.is_empty();
    if !shown(&tally.latency) && !shown(&tally.connect) {
        return;
    }
    row(out, "", &QUANTILES.map(|(name, _)| format!("{name:>10}")).join(" "));
    if shown(&tally.latency) {
        row(out, "latency", &quantiles(&tally.latency));
    }
    let connect = match plan.life {
        Life::Storm { .. } | Life::Churn { .. } => "back after",
        _ => "connect",
    };
    if shown(&tally.missed) {
        row(out, "missed, aged", &quantiles(&tally.missed));
    }
    if shown(&tally.connect) {
        row(out, connect, &quantiles(&tally.connect));
    }
    if shown(&tally.lateness) && matches!(plan.talk, Talk::Open { .. }) {
        row(out, "own lateness", &quantiles(&tally.lateness));
    }
}

fn quantiles(histogram: &Histogram<u64>) -> String {
    let value = |quantile| if quantile == 1.0 { histogram.max() } else { histogram.value_at_quantile(quantile) };
    QUANTILES.map(|(_, quantile)| format!("{:>10}", nanoseconds(value(quantile)))).join(" ")
}

fn recovery(out: &mut String, outcome: &Outcome) {
    let counts = &outcome.tally.counts;
    let mut text = format!(
        "{} of {} subscriptions got what they missed: {} publications; {} lost, {} twice",
        count(counts.recovered),
        count(counts.recovered + counts.unrecovered + counts.unrecoverable),
        count(counts.from_history),
        count(counts.lost()),
        count(counts.duplicates),
    );
    if counts.unrecoverable > 0 {
        text += &format!("; {} were given no position to recover from", count(counts.unrecoverable));
    }
    row(out, "recovery", &text);
}

fn life(out: &mut String, plan: &Plan, outcome: &Outcome) {
    for (number, round) in (1..).zip(&outcome.rounds) {
        let how = match (round.complete, plan.recover) {
            (false, _) => "not everyone back",
            (true, true) if round.unrecovered == 0 && round.recovered > 0 => "everyone back and caught up",
            (true, _) => "everyone back",
        };
        let missed = match (round.recovered, round.unrecovered) {
            (0, 0) => String::new(),
            (_, 0) => format!(", with {} publications that they missed", count(round.from_history)),
            (_, short) => format!(", {} of them without what they missed", count(short)),
        };
        row(out, "storm", &format!("round {number}: {how} after {:.3} s{missed}", round.seconds));
    }
    if plan.recover {
        recovery(out, outcome);
    }
    if let Life::Stall { stalled, .. } = plan.life {
        let cut = outcome.tally.counts.stalled_cut;
        row(out, "stalled", &format!("{} readers, {} cut off by the server", count(u64::from(stalled)), count(cut)));
    }
    if !matches!(plan.life, Life::Ramp { .. }) {
        return;
    }
    let knee = knee(plan, &outcome.tally.steps);
    for (number, step) in outcome.tally.steps.iter().enumerate() {
        let clients = plan.clients_at_step(number as u32);
        let mark = if knee == Some(number) { "  <- knee" } else { "" };
        let p = |quantile| nanoseconds(step.latency.value_at_quantile(quantile));
        let text = format!(
            "{:>9} clients  {:>9} sent  {:>9} received  p50 {:>9}  p99 {:>9}  p99.9 {:>9}  errors {}{mark}",
            count(u64::from(clients)),
            count(step.sent),
            count(step.got),
            p(0.5),
            p(0.99),
            p(0.999),
            step.errors,
        );
        row(out, &format!("step {}", number + 1), &text);
    }
    let held = knee.unwrap_or(outcome.tally.steps.len()).checked_sub(1);
    if let Some(held) = held {
        let found = if knee.is_some() { "" } else { "; no knee found" };
        let text = format!("{} clients held{found}", count(u64::from(plan.clients_at_step(held as u32))));
        row(out, "knee", &text);
    }
}
