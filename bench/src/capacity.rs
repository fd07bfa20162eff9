//! What a core and a GiB hold, as Markdown: every figure from a result file, by a formula that stands beside it.

use std::fmt::Write;
use std::io;

use crate::figures::{Spread, seconds_of, three_digits, with_commas};
use crate::results::{Results, Row};

const GIB: f64 = (1u64 << 30) as f64;

/// Microseconds of CPU time a core has in a second.
const CORE: f64 = 1e6;

/// The ping interval idle clients are reckoned for, in seconds: the server's own.
pub const PINGS: f64 = 25.0;

/// Both tables, without the markers around them.
pub fn table(results: &Results) -> io::Result<String> {
    let mut text = String::from("| | | how it is reckoned | from |\n|---|---|---|---|\n");
    let lines = [memory(results)?, messages(results)?, protocol(results)?];
    for line in lines.iter().flatten() {
        let _ = writeln!(text, "| {} | {} | {} | `{}` |", line.what, line.figure, line.formula, line.file);
    }
    let _ = writeln!(text, "\nHow it grows (`growth.json`; {}):\n", results.growth.machine()?);
    text.push_str(&growth(results)?);
    Ok(text)
}

/// A line of the first table.
struct Line {
    what: String,
    figure: String,
    formula: String,
    file: &'static str,
}

fn line(what: String, figure: f64, formula: String, file: &'static str) -> Line {
    Line { what, figure: with_commas(three_digits(figure)), formula, file }
}

/// What fits in a GiB of the server's process.
fn memory(results: &Results) -> io::Result<Vec<Line>> {
    let file = &results.memory;
    let mut lines = Vec::new();
    for row in file.rows()?.into_iter().filter(|row| row.is("/server", "gannet")) {
        let bytes = row.memory("/idle")?;
        let of = match row.text("/case")? {
            "shared" => format!("idle clients per GiB of process memory, in {}", channels(&row)?),
            "cached" => "the same, their tokens remembered".to_owned(),
            "personal" => "the same, each with a channel of its own besides".to_owned(),
            "kept" => {
                let kept = file.head().number("/kept_publications")?;
                let size = file.head().number("/kept_bytes")?;
                format!("channels per GiB that keep {kept:.0} publications of {size:.0} bytes")
            }
            other => return Err(file.lacks(&format!("a case {other:?} that is not known here"))),
        };
        lines.push(line(of, GIB / bytes, format!("2^30 / {} bytes", with_commas(bytes)), file.name));
    }
    if lines.is_empty() { Err(file.lacks("no row of gannet")) } else { Ok(lines) }
}

fn channels(row: &Row<'_>) -> io::Result<String> {
    let count = row.number("/channels")?;
    Ok(format!("{} shared channel{}", with_commas(count), if count == 1.0 { "" } else { "s" }))
}

/// What a core does in a second, shape by shape.
fn messages(results: &Results) -> io::Result<Vec<Line>> {
    let file = &results.compare;
    let mut lines = Vec::new();
    for row in file.rows()?.into_iter().filter(|row| row.is("/server", "gannet")) {
        let (shape, cpu) = (row.text("/shape")?, row.median("/cpu_us")?);
        let what = match shape.split([',', ' ']).next() {
            Some("echo") => "echoes",
            Some("fan-out") => "deliveries",
            _ => "handshakes",
        };
        let formula = by_cpu(cpu);
        lines.push(line(format!("{what} a second per core: {shape}"), CORE / cpu, formula, file.name));
    }
    if lines.is_empty() { Err(file.lacks("no row of gannet")) } else { Ok(lines) }
}

fn by_cpu(cpu: f64) -> String {
    let digits = if cpu < 1.0 { 4 } else { 2 };
    format!("10^6 / {cpu:.digits$} us of CPU each")
}

/// What positions, a second encoding and the server API leave of it.
fn protocol(results: &Results) -> io::Result<Vec<Line>> {
    let file = &results.protocol;
    let subscribers = with_commas(file.head().number("/clients")?);
    let mut lines = Vec::new();
    for row in file.rows()? {
        let what = match row.text("/line")? {
            "positions" => format!("deliveries a second per core: history and positions, to {subscribers}"),
            "encodings" => format!("deliveries a second per core: JSON and Protobuf, to {subscribers}"),
            "api" => "publications a second per core by the server API, nobody subscribed".to_owned(),
            "api-heard" => {
                let heard = with_commas(file.head().number("/subscribers")?);
                format!("publications a second per core by the server API, each to {heard}")
            }
            other => return Err(file.lacks(&format!("a line {other:?} that is not known here"))),
        };
        if row.text("/unit")?.starts_with("CPU us") {
            let cpu = row.median("/subject")?;
            lines.push(line(what, CORE / cpu, by_cpu(cpu), file.name));
            continue;
        }
        let (answers, busy) = (row.numbers("/subject")?, row.numbers("/subject_busy")?);
        let per_core: Vec<f64> = answers.iter().zip(&busy).map(|(answers, busy)| answers / busy).collect();
        let median = Spread::of(&per_core).ok_or_else(|| file.lacks("no repetition"))?.median;
        let formula = "answers a second / part of the core that was busy".to_owned();
        lines.push(line(what, median, formula, file.name));
    }
    Ok(lines)
}

/// A line of the second table: its name, how it is reckoned, and its figure at one size.
type Grown = (&'static str, &'static str, fn(&Row<'_>) -> io::Result<String>);

const GROWN: [Grown; 13] = [
    ("server processes, a reactor each", "", |row| commas(row.number("/processes/servers")?)),
    ("process memory of a client, bytes", "growth of RSS / clients", |row| commas(user(row)?)),
    ("kernel memory of a connection, the server's end, bytes", "slabs of both ends / 2", |row| commas(kernel(row)?)),
    ("clients per GiB, process memory only", "2^30 / process memory", |row| rounded(GIB / user(row)?)),
    ("clients per GiB, with the kernel's", "2^30 / (process + kernel memory)", |row| {
        rounded(GIB / (user(row)? + kernel(row)?))
    }),
    ("CPU of an idle client, us a second, pings every 25 s", "CPU of all servers / clients / seconds", |row| {
        Ok(format!("{:.3}", idle(row)?))
    }),
    ("idle clients per core", "10^6 / CPU of an idle client", |row| rounded(CORE / idle(row)?)),
    ("connected, authenticated and subscribed in, s", "", |row| Ok(format!("{:.1}", row.number("/connect/seconds")?))),
    ("clients connected a second", "clients / seconds", |row| rounded(row.number("/connect/per_second")?)),
    ("one publication to all: median, ms", "", |row| commas(row.number("/deliver/p50_ms")?)),
    ("99%, ms", "", |row| commas(row.number("/deliver/p99_ms")?)),
    ("the last, ms (deliveries a second)", "clients / time of the last", |row| {
        let (last, rate) = (row.number("/deliver/max_ms")?, row.number("/deliver/per_second")?);
        Ok(format!("{} ({})", with_commas(last), with_commas(three_digits(rate))))
    }),
    ("drained in, s (spread over)", "SIGTERM until the last was told 3001", |row| {
        Ok(format!("{:.1} ({})", row.number("/drain/told_seconds")?, row.text("/drain/spread")?))
    }),
];

fn growth(results: &Results) -> io::Result<String> {
    let rows = results.growth.rows()?;
    let sizes: Vec<String> = rows.iter().map(|row| commas(row.number("/clients")?)).collect::<io::Result<_>>()?;
    let mut text =
        format!("| clients | {} | how it is reckoned |\n|---|{}---|\n", sizes.join(" | "), "---|".repeat(sizes.len()));
    for (what, formula, figure) in GROWN {
        let cells: Vec<String> = rows.iter().map(figure).collect::<io::Result<_>>()?;
        let _ = writeln!(text, "| {what} | {} | {formula} |", cells.join(" | "));
    }
    let intervals: Vec<&str> = rows.iter().map(|row| row.text("/idle/ping_interval")).collect::<io::Result<_>>()?;
    if intervals.iter().any(|interval| seconds_of(interval) != Some(PINGS)) {
        let _ = writeln!(
            text,
            "\nPings were sent every {} where that was measured; the CPU of an idle client is that by interval / {PINGS} s.",
            intervals.join(", ")
        );
    }
    Ok(text)
}

fn commas(figure: f64) -> io::Result<String> {
    Ok(with_commas(figure))
}

fn rounded(figure: f64) -> io::Result<String> {
    Ok(with_commas(three_digits(figure)))
}

/// Bytes of the server processes for a client.
pub fn user(row: &Row<'_>) -> io::Result<f64> {
    row.positive("/user_bytes_each/rss")
}

/// Bytes of the kernel for a connection, at the server's end.
pub fn kernel(row: &Row<'_>) -> io::Result<f64> {
    Ok(row.positive("/kernel_bytes_each/both_ends")? / 2.0)
}

/// CPU microseconds a second of an idle client with a ping each [`PINGS`] seconds: an idle server does nothing else.
pub fn idle(row: &Row<'_>) -> io::Result<f64> {
    let interval = row.text("/idle/ping_interval")?;
    let seconds = seconds_of(interval).ok_or_else(|| io::Error::other(format!("{interval} is no duration")))?;
    Ok(row.positive("/idle/server_cpu_us_per_second_each")? * seconds / PINGS)
}
