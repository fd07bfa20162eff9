//! One process as /proc shows it: processor time, memory, context switches.

use std::fs;
use std::io::{self, ErrorKind};

use rustix::param::clock_ticks_per_second;

use super::{Cost, Switches};

/// What process `pid` has spent.
pub fn read(pid: u32) -> Result<Cost, String> {
    let folder = format!("/proc/{pid}");
    let cost = look(&folder).map_err(|error| match error.kind() {
        ErrorKind::NotFound => format!("there is no process {pid} ({error})"),
        ErrorKind::PermissionDenied => format!("{folder} may not be read: run as its user, or as root ({error})"),
        _ => format!("{folder}: {error}"),
    })?;
    cost.ok_or_else(|| format!("{folder} is not as expected"))
}

/// What program process `pid` runs, by the kernel's short name for it.
pub fn name(pid: u32) -> Option<String> {
    fs::read_to_string(format!("/proc/{pid}/comm")).ok().map(|name| name.trim_end().to_owned())
}

/// None = what it says is not understood.
fn look(folder: &str) -> io::Result<Option<Cost>> {
    let stat = fs::read_to_string(format!("{folder}/stat"))?;
    let smaps = fs::read_to_string(format!("{folder}/smaps_rollup"))?;
    let mut switches = Switches::default();
    for task in fs::read_dir(format!("{folder}/task"))? {
        // A thread may end between the listing and the look.
        let Ok(status) = fs::read_to_string(task?.path().join("status")) else { continue };
        switches.voluntary += number(&status, "voluntary_ctxt_switches:").unwrap_or(0);
        switches.involuntary += number(&status, "nonvoluntary_ctxt_switches:").unwrap_or(0);
    }
    Ok(cost(&stat, &smaps, switches))
}

fn cost(stat: &str, smaps: &str, switches: Switches) -> Option<Cost> {
    let private = number(smaps, "Private_Clean:")? + number(smaps, "Private_Dirty:")?;
    Some(Cost {
        cpu_seconds: cpu_ticks(stat)? as f64 / clock_ticks_per_second() as f64,
        rss_bytes: number(smaps, "Rss:")? * 1024,
        private_bytes: Some(private * 1024),
        switches: Some(switches),
    })
}

/// Processor seconds this process has used.
pub fn own_cpu_seconds() -> io::Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let ticks = cpu_ticks(&stat).ok_or_else(|| io::Error::other("/proc/self/stat is not as expected"))?;
    Ok(ticks as f64 / clock_ticks_per_second() as f64)
}

/// User and system time: fields 14 and 15, counted behind the name, which may hold spaces.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

/// The number behind `name` at the start of a line.
fn number(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_does_not_shift_the_fields() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 4 0 12345 1000000 500";
        assert_eq!(cpu_ticks(stat), Some(300));
    }

    #[test]
    fn this_process_has_a_cost() {
        let cost = read(std::process::id()).expect("readable");
        let (private, switches) = (cost.private_bytes.expect("told"), cost.switches.expect("told"));
        assert!(cost.rss_bytes >= private && private > 0, "{cost:?}");
        assert!(switches.voluntary + switches.involuntary > 0, "{cost:?}");
    }

    #[test]
    fn a_process_that_is_not_there_is_named() {
        // Beyond the largest number that the kernel gives.
        assert!(read(1 << 30).expect_err("none").contains("no process 1073741824"));
    }
}
