//! F11 · The doctor's report as text for people; as JSON it is the same report, serialised.
//!
//! Owns layout and the writing of numbers. Never decides what fits.

use std::fmt::Write;

use super::Report;
use super::limits::HostLimit;
use super::warnings::Level;

/// 1000000 -> 1,000,000
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// With a unit and one digit after the point.
pub fn bytes(number: u64) -> String {
    const UNITS: &[(u32, &str)] = &[(50, "PiB"), (40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    for (shift, unit) in UNITS {
        if number >> shift > 0 {
            let tenths = ((number >> (shift - 10)) * 10) >> 10;
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
    }
    format!("{number} B")
}

/// A limit beyond this is none.
fn clients(number: u64) -> String {
    if number >= u64::from(u32::MAX) { "no limit".into() } else { count(number) }
}

pub fn text(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut out, report);
    out
}

fn write(out: &mut String, report: &Report) -> std::fmt::Result {
    let unknown = || "unknown".to_owned();
    let known = |number: Option<u64>, show: fn(u64) -> String| number.map_or_else(unknown, show);
    let kernel = report.kernel.clone().unwrap_or_else(unknown);
    let (cpus, memory) = (known(report.cpus, count), known(report.memory_total, bytes));
    writeln!(out, "Linux {kernel}, {cpus} CPUs, {memory} of memory\n")?;
    match report.wanted {
        Some(wanted) if report.fits => {
            writeln!(out, "{} clients fit: there is room for {}.", count(wanted), clients(report.clients))?
        }
        Some(wanted) => {
            writeln!(out, "{} clients do not fit: there is room for {}.", count(wanted), clients(report.clients))?
        }
        None => writeln!(out, "There is room for {} clients.", clients(report.clients))?,
    }
    writeln!(out, "What binds first: {}.", report.binds)?;

    let (always, sometimes): (Vec<&HostLimit>, Vec<&HostLimit>) =
        report.limits.iter().partition(|limit| limit.only_if.is_empty());
    writeln!(out, "\n{:>12}  LIMIT", "CLIENTS")?;
    always.iter().try_for_each(|limit| row(out, limit))?;
    if !sometimes.is_empty() {
        writeln!(out, "\nOnly under a condition:")?;
        for limit in sometimes {
            row(out, limit)?;
            writeln!(out, "{:>14}if {}", "", limit.only_if)?;
            if !limit.lift.is_empty() {
                writeln!(out, "{:>14}then: {}", "", limit.lift)?;
            }
        }
    }
    lifts(out, report, &always)?;
    warnings(out, report)
}

fn row(out: &mut String, limit: &HostLimit) -> std::fmt::Result {
    writeln!(out, "{:>12}  {:<30} {}", clients(limit.clients), limit.name, limit.why)
}

fn lifts(out: &mut String, report: &Report, always: &[&HostLimit]) -> std::fmt::Result {
    let low: Vec<_> = always.iter().filter(|limit| !limit.lift.is_empty()).collect();
    if low.is_empty() {
        return Ok(());
    }
    match report.wanted {
        Some(wanted) => writeln!(out, "\nFor {} clients:", count(wanted))?,
        None => writeln!(out, "\nFor twice as many:")?,
    }
    for limit in &low {
        writeln!(out, "  {:<30} {}", limit.name, limit.lift)?;
    }
    if low.iter().any(|limit| limit.lift.contains("sysctl -w")) {
        writeln!(out, "  (tuning/apply edge --persist sets such keys for good, and can undo it)")?;
    }
    Ok(())
}

fn warnings(out: &mut String, report: &Report) -> std::fmt::Result {
    if !report.warnings.is_empty() {
        out.push('\n');
    }
    for warning in &report.warnings {
        let level = if warning.level == Level::Warning { "warning" } else { "note" };
        writeln!(out, "{level}: {}: {}", warning.about, warning.message)?;
        if !warning.command.is_empty() {
            writeln!(out, "    {}", warning.command)?;
        }
    }
    if !report.unread.is_empty() {
        writeln!(out, "\ncould not be read, so not judged: {}", report.unread.join(", "))?;
    }
    Ok(())
}
