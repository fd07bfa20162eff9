//! What a run gives and how several runs become one figure: medians, spreads, tables, result files.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;
use serde_json::Value;

/// Where a run stops: after so many units or so much time, whichever comes first.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    pub units: u64,
    pub time: Duration,
}

/// What the loader saw of a run. A unit is an echo, a delivery or a handshake.
pub struct Load {
    pub units: u64,
    /// Frame bytes received.
    pub bytes: u64,
    pub wall: Duration,
    /// Nanoseconds.
    pub latency: Histogram<u64>,
}

/// A histogram for nanoseconds up to a minute, three digits.
pub fn histogram() -> io::Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).map_err(io::Error::other)
}

/// Median and extremes of a few figures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    /// Of no figure there is none.
    pub fn of(figures: &[f64]) -> Option<Self> {
        let mut sorted = figures.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let half = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 { sorted[half] } else { (sorted[half - 1] + sorted[half]) / 2.0 };
        Some(Self { median, min, max })
    }

    /// Of one figure a repetition.
    pub fn of_repetitions(figures: impl IntoIterator<Item = f64>) -> io::Result<Self> {
        let figures: Vec<f64> = figures.into_iter().collect();
        Self::of(&figures).ok_or_else(|| io::Error::other("no repetition was run"))
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} ({:.3}..{:.3})", self.median, self.min, self.max)
    }
}

/// Prints rows under a head, columns as wide as their widest cell; the first column is set left, the others right.
pub fn print_table(head: &[&str], rows: &[Vec<String>]) {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([head[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let mut text = String::new();
        for (column, (cell, width)) in cells.iter().zip(&widths).enumerate() {
            let cell = if column == 0 { format!("{cell:<width$}") } else { format!("  {cell:>width$}") };
            text.push_str(&cell);
        }
        println!("{}", text.trim_end());
    };
    line(head.to_vec());
    for row in rows {
        line(row.iter().map(String::as_str).collect());
    }
}

/// A whole number with commas between thousands.
pub fn with_commas(figure: f64) -> String {
    let digits = format!("{:.0}", figure.abs());
    let mut text = String::from(if figure <= -0.5 { "-" } else { "" });
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Rounded to three digits that count: more would promise what no measurement keeps.
pub fn three_digits(figure: f64) -> f64 {
    if figure == 0.0 || !figure.is_finite() {
        return figure;
    }
    let step = 10f64.powi(figure.abs().log10().floor() as i32 - 2);
    (figure / step).round() * step
}

/// Seconds of a duration as the server's options have it, in one unit: `25s`, `500ms`, `1m`.
pub fn seconds_of(text: &str) -> Option<f64> {
    let at = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(at);
    let unit = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * unit)
}

/// Seconds since 1970.
pub fn now_unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Writes `NAME-SECONDS.json` to the folder, which is made if missing; returns its path.
pub fn write_result(folder: &Path, name: &str, result: &Value) -> io::Result<PathBuf> {
    fs::create_dir_all(folder)?;
    let path = folder.join(format!("{name}-{}.json", now_unix()));
    let mut text = serde_json::to_string_pretty(result)?;
    text.push('\n');
    fs::write(&path, text)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_in_words() {
        let texts = [0.0, 999.4, 1000.0, 1_234_567.0, -1234.0].map(with_commas);
        assert_eq!(texts, ["0", "999", "1,000", "1,234,567", "-1,234"]);
        assert_eq!([186_012.3, 0.0, 99.96].map(|figure| with_commas(three_digits(figure))), ["186,000", "0", "100"]);
        assert_eq!(format!("{:.4}", three_digits(0.012_345)), "0.0123");
        assert_eq!(
            ["25s", "500ms", "1m", "25", "x", "1d"].map(seconds_of),
            [Some(25.0), Some(0.5), Some(60.0), None, None, None]
        );
    }

    #[test]
    fn spread_of_odd_even_and_none() {
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Spread::of(&[4.0, 1.0]), Some(Spread { median: 2.5, min: 1.0, max: 4.0 }));
        assert_eq!(Spread::of(&[]), None);
    }
}
