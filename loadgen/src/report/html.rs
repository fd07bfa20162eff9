//! The result as one page that needs nothing else: the verdict, the key figures, plots, how it was made, the table.

use hdrhistogram::Histogram;

use super::plot::{Line, Marks, plot, round_marks};
use super::setup;
use super::text::{count, nanoseconds, rate};
use crate::conduct::{Outcome, Sample};
use crate::plan::Plan;

const STYLE: &str = "\
body{font:16px/1.5 system-ui,sans-serif;max-width:960px;margin:0 auto;padding:1em;color:#1c2430;background:#fff}\
h1{font-size:1.5em;margin:.5em 0}h2{font-size:1.15em;margin:2em 0 .5em}\
.verdict{padding:.7em 1em;border-radius:8px;font-weight:600;background:#e3f4e8;color:#0b5a2a}\
.verdict.missed{background:#fdeaea;color:#8c1414}.verdict ul{margin:.3em 0 0;padding-left:1.2em;font-weight:400}\
.key{display:grid;grid-template-columns:repeat(auto-fit,minmax(140px,1fr));gap:10px;margin:1em 0}\
.key div{border:1px solid #d9dee5;border-radius:8px;padding:.6em .8em}\
.key b{display:block;white-space:nowrap;font-size:1.35em;line-height:1.25;font-variant-numeric:tabular-nums}.key span{color:#5b6675}\
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2em 1em;margin:0}dt{color:#5b6675}\
dd{margin:0;overflow-wrap:anywhere}pre{background:#f4f6f8;padding:1em;overflow-x:auto;font-size:13px;border-radius:8px}\
figure{margin:1.5em 0;overflow-x:auto;padding-right:14px}svg{width:100%;min-width:600px;height:auto;overflow:visible}\
svg text{font-size:13px;fill:#5b6675}.grid{stroke:#dfe3e8}summary{cursor:pointer}\
@media(prefers-color-scheme:dark){body{color:#dfe5ec;background:#14181d}pre{background:#1d232a}\
.verdict{background:#123420;color:#a8e6bd}.verdict.missed{background:#421818;color:#ffb9b9}.key div{border-color:#333c46}\
.key span,dt{color:#98a4b3}svg text{fill:#98a4b3}.grid{stroke:#2c343d}}";

/// The page; `table` is the result as text.
pub fn page(plan: &Plan, outcome: &Outcome, table: &str, complaints: &[String]) -> String {
    let title = format!("{}: {}", escape(plan.scenario), escape(&plan.target.authority));
    let plots = [
        curve("Latency by percentile", &outcome.tally.latency),
        curve("Time to connect by percentile", &outcome.tally.connect),
        throughput(&outcome.samples),
        connections(&outcome.samples),
    ];
    let facts = setup::facts(plan).into_iter();
    let facts: String = facts.map(|(name, text)| format!("<dt>{name}</dt><dd>{}</dd>", escape(&text))).collect();
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>{title}</title>\
         <style>{STYLE}</style></head><body><h1>{title}</h1>{}{}{}<h2>How it was made</h2><dl>{facts}</dl>\
         <h2>All figures</h2><details open><summary>the table of the terminal</summary><pre>{}</pre></details>\
         </body></html>\n",
        verdict(complaints),
        key_figures(outcome),
        plots.concat(),
        escape(table),
    )
}

fn verdict(complaints: &[String]) -> String {
    if complaints.is_empty() {
        return "<div class=\"verdict\">&#10003; The goal was reached.</div>".to_owned();
    }
    let items: String = complaints.iter().map(|complaint| format!("<li>{}</li>", escape(complaint))).collect();
    format!("<div class=\"verdict missed\">&#10007; The goal was missed.<ul>{items}</ul></div>")
}

/// What people ask for first, large.
fn key_figures(outcome: &Outcome) -> String {
    let (tally, counts) = (&outcome.tally, &outcome.tally.counts);
    let seconds = outcome.play_seconds.max(1e-9);
    let mut all = vec![("clients", count(outcome.open_at_play))];
    if counts.sent > 0 {
        all.push(("sent a second", rate(counts.sent as f64 / seconds)));
        all.push(("delivered a second", rate(counts.got as f64 / seconds)));
    }
    if let Some(delivery) = tally.delivery() {
        let percent = delivery * 100.0;
        all.push(("delivered", if percent == 100.0 { "100%".to_owned() } else { format!("{percent:.4}%") }));
    }
    let shown = if tally.latency.is_empty() { (&tally.connect, "connect ") } else { (&tally.latency, "") };
    if !shown.0.is_empty() {
        all.extend([("p50", 0.5), ("p99", 0.99)].map(|(name, quantile)| {
            let name = if shown.1.is_empty() {
                name
            } else if name == "p50" {
                "connect, p50"
            } else {
                "connect, p99"
            };
            (name, nanoseconds(shown.0.value_at_quantile(quantile)))
        }));
        all.push(("longest", nanoseconds(shown.0.max())));
    }
    let cells: String = all.iter().map(|(name, text)| format!("<div><b>{text}</b><span>{name}</span></div>")).collect();
    format!("<div class=\"key\">{cells}</div>")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Values over percentiles; each nine has the same width, and each factor of ten the same height.
fn curve(title: &str, histogram: &Histogram<u64>) -> String {
    if histogram.is_empty() {
        return String::new();
    }
    let nines = ((histogram.len() as f64).log10().ceil()).clamp(1.0, 6.0);
    let place = |quantile: f64| (-(1.0 - quantile).max(10f64.powf(-nines)).log10()).max(0.0);
    let points = histogram
        .iter_quantiles(5)
        .map(|value| (place(value.quantile_iterated_to()), (value.value_iterated_to().max(1) as f64).log10()));
    let points: Vec<(f64, f64)> = points.collect();
    let low = (histogram.min().max(1) as f64).log10().floor();
    let high = (histogram.max().max(1) as f64).log10().ceil().max(low + 1.0);
    let across = (0..=nines as u32).map(|nine| {
        let (nines, decimals) = (nine as usize, (nine as usize).saturating_sub(2));
        let percent = if nines == 0 { 0.0 } else { 100.0 - 10f64.powi(2 - nine.cast_signed()) };
        (f64::from(nine), format!("{percent:.decimals$}%"))
    });
    let powers = (low as u32)..=(high as u32);
    let up: Marks = powers.map(|power| (f64::from(power), nanoseconds(10u64.pow(power)))).collect();
    let said = |place: f64, power: f64| {
        let percent = 100.0 - 10f64.powf(2.0 - place);
        format!("{} at {percent:.3}%", nanoseconds(10f64.powf(power) as u64))
    };
    plot(title, &[Line { name: "", points }], &across.collect(), &up, &said)
}

/// Differences from sample to sample, each second.
fn rates(samples: &[Sample], value: impl Fn(&Sample) -> u64) -> Vec<(f64, f64)> {
    let rate = |pair: &[Sample]| {
        let seconds = (pair[1].at - pair[0].at).max(1e-3);
        (pair[1].at, value(&pair[1]).saturating_sub(value(&pair[0])) as f64 / seconds)
    };
    samples.windows(2).map(rate).collect()
}

fn throughput(samples: &[Sample]) -> String {
    let lines = [
        Line { name: "received/s", points: rates(samples, |sample| sample.reading.got) },
        Line { name: "sent/s", points: rates(samples, |sample| sample.reading.sent) },
    ];
    if lines.iter().all(|line| line.points.iter().all(|point| point.1 == 0.0)) {
        return String::new();
    }
    over_time("Messages a second, over time", &lines)
}

fn connections(samples: &[Sample]) -> String {
    let points = samples.iter().map(|sample| (sample.at, sample.reading.open as f64)).collect();
    over_time("Open connections, over time", &[Line { name: "open", points }])
}

fn over_time(title: &str, lines: &[Line<'_>]) -> String {
    let points = || lines.iter().flat_map(|line| &line.points);
    let (longest, highest) = points().fold((0f64, 0f64), |most, point| (most.0.max(point.0), most.1.max(point.1)));
    let across = round_marks(longest, |seconds| format!("{} s", (seconds * 1000.0).round() / 1000.0));
    let up = round_marks(highest, |value| if highest < 5.0 { format!("{value:.1}") } else { count(value as u64) });
    let said = |seconds: f64, value: f64| format!("{} at {seconds:.2} s", rate(value));
    plot(title, lines, &across, &up, &said)
}
