//! The result as one page that needs nothing else: the table and three plots.

use hdrhistogram::Histogram;

use super::plot::{Line, Marks, plot, round_marks};
use super::text::{count, nanoseconds};
use crate::conduct::{Outcome, Sample};
use crate::plan::Plan;

const STYLE: &str = "\
body{font:15px/1.5 system-ui,sans-serif;max-width:900px;margin:2em auto;padding:0 1em;color:#222;background:#fff}\
pre{background:#f4f4f4;padding:1em;overflow-x:auto;font-size:13px}\
figure{margin:2em 0}svg{width:100%;height:auto}svg text{font-size:12px;fill:#555}.grid{stroke:#ddd}\
@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}pre{background:#242424}\
svg text{fill:#aaa}.grid{stroke:#333}}";

/// The page; `table` is the result as text.
pub fn page(plan: &Plan, outcome: &Outcome, table: &str) -> String {
    let title = format!("{}: {}", escape(plan.scenario), escape(&plan.target.authority));
    let plots = [
        curve("Latency by percentile", &outcome.tally.latency),
        curve("Time to connect by percentile", &outcome.tally.connect),
        throughput(&outcome.samples),
        connections(&outcome.samples),
    ];
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title><style>{STYLE}</style></head>\
         <body><h1>{title}</h1><pre>{}</pre>{}</body></html>\n",
        escape(table),
        plots.concat()
    )
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
    plot(title, &[Line { name: "", points }], &across.collect(), &up)
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
    over_time("Throughput", &lines)
}

fn connections(samples: &[Sample]) -> String {
    let points = samples.iter().map(|sample| (sample.at, sample.reading.open as f64)).collect();
    over_time("Connections", &[Line { name: "open", points }])
}

fn over_time(title: &str, lines: &[Line<'_>]) -> String {
    let points = || lines.iter().flat_map(|line| &line.points);
    let (longest, highest) = points().fold((0f64, 0f64), |most, point| (most.0.max(point.0), most.1.max(point.1)));
    let across = round_marks(longest, |seconds| format!("{} s", (seconds * 1000.0).round() / 1000.0));
    let up = round_marks(highest, |value| if highest < 5.0 { format!("{value:.1}") } else { count(value as u64) });
    plot(title, lines, &across, &up)
}
