//! Latency as HdrHistogram files: the percentile listing (`.hgrm`) that its plotters take, in milliseconds, and the
//! histogram itself in one line of an interval log (`.hlog`), which loses nothing and can be added to others.

use std::io::{self, Write};
use std::time::Duration;

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::IntervalLogWriterBuilder;

/// Lines for each halving of the distance to 100 %.
const TICKS_PER_HALF: u32 = 5;
const MILLISECOND: f64 = 1e6;

/// The percentile listing.
pub fn percentiles(histogram: &Histogram<u64>, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{:>12} {:>14} {:>10} {:>14}\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)")?;
    let mut total = 0;
    for value in histogram.iter_quantiles(TICKS_PER_HALF) {
        total += value.count_since_last_iteration();
        let (milliseconds, quantile) = (value.value_iterated_to() as f64 / MILLISECOND, value.quantile_iterated_to());
        write!(out, "{milliseconds:12.6} {quantile:14.12} {total:10}")?;
        match quantile < 1.0 {
            true => writeln!(out, " {:14.2}", 1.0 / (1.0 - quantile))?,
            false => writeln!(out)?,
        }
    }
    let (mean, deviation) = (histogram.mean() / MILLISECOND, histogram.stdev() / MILLISECOND);
    writeln!(out, "#[Mean    = {mean:12.3}, StdDeviation   = {deviation:12.3}]")?;
    writeln!(
        out,
        "#[Max     = {:12.3}, Total count    = {:12}]",
        histogram.max() as f64 / MILLISECOND,
        histogram.len()
    )?;
    writeln!(out, "#[Buckets = {:12}, SubBuckets     = {:12}]", histogram.buckets(), histogram.distinct_values())
}

/// An interval log with one interval, the whole run; values are nanoseconds.
pub fn log(histogram: &Histogram<u64>, seconds: f64, out: &mut impl Write) -> io::Result<()> {
    let mut serializer = V2DeflateSerializer::new();
    let mut log = IntervalLogWriterBuilder::new().begin_log_with(out, &mut serializer)?;
    let run = Duration::from_secs_f64(seconds.max(0.0));
    let written = log.write_histogram(histogram, Duration::ZERO, run, None);
    written.map_err(|error| io::Error::other(format!("{error:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tally::histogram;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    #[test]
    fn the_listing_ends_with_all_of_them() {
        let mut all = histogram();
        (1..=1000).for_each(|value| all.record(value * 1_000_000).expect("in bounds"));
        let mut out = Vec::new();
        percentiles(&all, &mut out).expect("written");
        let text = String::from_utf8(out).expect("UTF-8");
        let last = text.lines().rfind(|line| !line.starts_with('#')).expect("a line");
        let fields: Vec<&str> = last.split_whitespace().collect();
        assert_eq!((fields[1], fields[2]), ("1.000000000000", "1000"));
        assert!(text.contains("Total count    =         1000]"), "{text}");
    }

    #[test]
    fn the_log_is_one_interval_that_others_can_read() {
        let mut all = histogram();
        for value in [5, 500, 5_000_000] {
            all.record(value).expect("in bounds");
        }
        let mut out = Vec::new();
        log(&all, 1.5, &mut out).expect("written");
        let intervals: Vec<_> = IntervalLogIterator::new(&out)
            .filter_map(|entry| match entry {
                Ok(LogEntry::Interval(interval)) => Some((interval.duration(), interval.max())),
                _ => None,
            })
            .collect();
        assert_eq!(intervals, [(Duration::from_millis(1500), all.max() as f64)]);
    }
}
