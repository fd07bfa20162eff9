//! F11 · `gannet doctor`: how many clients this host can hold, what binds first, and the command that lifts it.
//!
//! Owns the report: `facts` reads the host, `limits` and `warnings` judge it, `print` shows it. Reads only; it changes
//! nothing, for that is `tuning/apply`'s work.

mod facts;
mod limits;
mod print;
mod warnings;

use std::path::Path;

use clap::ArgMatches;
use serde::Serialize;

use crate::config::Config;
use facts::{FactSource, Facts};
use limits::{HostLimit, Scenario};
use warnings::Advice;

/// What was asked on the command line.
#[derive(Debug, Default)]
pub struct Question {
    clients: Option<u64>,
    sources: Option<u64>,
    pid: Option<u32>,
    root: String,
    json: bool,
}

impl Question {
    /// From the flags of `gannet doctor`.
    pub fn of(matches: &ArgMatches) -> Question {
        Question {
            clients: matches.get_one("clients").copied(),
            sources: matches.get_one("sources").copied(),
            pid: matches.get_one("pid").copied(),
            root: matches.get_one::<String>("root").cloned().unwrap_or_default(),
            json: matches.get_flag("json"),
        }
    }
}

/// What the doctor found. As JSON it is what `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    kernel: Option<String>,
    cpus: Option<u64>,
    memory_total: Option<u64>,
    /// `--clients`, or client.connection_limit if it is set.
    wanted: Option<u64>,
    /// How many there is room for: the lowest limit that holds always.
    clients: u64,
    fits: bool,
    /// The name of that limit.
    binds: String,
    limits: Vec<HostLimit>,
    warnings: Vec<Advice>,
    /// Kernel keys that could not be read.
    unread: Vec<String>,
}

/// What to print, and whether the clients fit.
pub fn examine(question: &Question, config: &Config) -> Result<(String, bool), String> {
    let root = Path::new(&question.root);
    let page_bytes = rustix::param::page_size() as u64;
    let facts = Facts::read(&FactSource { root, pid: question.pid, page_bytes });
    if facts.nofile_hard.is_none() {
        let process = question.pid.map_or("self".into(), |pid| pid.to_string());
        let path = root.join("proc").join(process).join("limits");
        return Err(format!("cannot read {}: the doctor knows Linux, and running processes, only", path.display()));
    }
    let report = judge(&facts, config, question);
    let text = match question.json {
        true => serde_json::to_string_pretty(&report).map_err(|error| error.to_string())? + "\n",
        false => print::text(&report),
    };
    Ok((text, report.fits))
}

fn judge(facts: &Facts, config: &Config, question: &Question) -> Report {
    let configured = Some(config.client.connection_limit as u64).filter(|limit| *limit > 0);
    let wanted = question.clients.or(configured);
    let ask = Scenario { facts, config, sources: question.sources, target: wanted.unwrap_or(0) };
    let lowest = |limits: &[HostLimit]| {
        let always = limits.iter().find(|limit| limit.only_if.is_empty());
        always.map_or((0, String::new()), |limit| (limit.clients, limit.name.clone()))
    };
    let mut all = limits::limits(ask);
    let (clients, binds) = lowest(&all);
    if wanted.is_none() {
        // Without a number, the commands shall make room for twice as many.
        all = limits::limits(Scenario { target: clients.saturating_mul(2), ..ask });
    }
    Report {
        kernel: facts.kernel.clone(),
        cpus: facts.cpus,
        memory_total: facts.memory_total,
        wanted,
        clients,
        fits: clients >= wanted.unwrap_or(1),
        binds,
        limits: all,
        warnings: warnings::warnings(facts, config, wanted.unwrap_or(clients)),
        unread: facts.unread(),
    }
}

#[cfg(test)]
mod tests;
