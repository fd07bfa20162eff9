//! `gannet-loadgen`: puts load on a WebSocket server and measures what comes back.
//!
//! The map, from the wire up: `secure`, `wire`, `handshake` (TLS, frames, upgrade) - `profile` (what messages say) - `stamp`,
//! `sequence`, `schedule`, `roles` (what is owed, by whom, when) - `plan` (one run as a value) - `fleet` (a loop and
//! its clients) - `loops` - `conduct` (the stages of a run) - `report`. `options` and `scenario` make a plan of a
//! command line; `agents` plays it with other processes.
//! It shares no code with any server, so that it can bear witness. This file alone prints results and exits.

#![forbid(unsafe_code)]

mod agents;
mod clock;
mod conduct;
mod cost;
mod fleet;
mod handshake;
mod loops;
mod options;
mod place;
mod plan;
mod profile;
mod progress;
mod report;
mod roles;
mod scenario;
mod schedule;
mod secure;
mod sequence;
mod shared;
mod stamp;
mod tally;
mod target;
mod wire;

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

use agents::options::ControllerOptions;
use conduct::Outcome;
use cost::Watch;
use loops::{Loops, raise_descriptors};
use options::{Command, Common, Options, Scenario, scenario_of};
use plan::Plan;
use progress::Progress;

/// The goal was not reached.
const EXIT_MISSED: u8 = 1;
/// The command line is wrong, or the run could not begin.
const EXIT_UNUSABLE: u8 = 2;

fn main() -> ExitCode {
    let options = Options::parse();
    let result = match &options.command {
        Command::Scenario(scenario) => run(scenario),
        Command::Controller(controller) => control(controller),
        Command::Agent(agent) => agents::agent::run(agent).map(|()| true),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_MISSED),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(EXIT_UNUSABLE)
        }
    }
}

/// True if the goal was reached.
fn run(scenario: &Scenario) -> Result<bool, String> {
    let (common, plan) = (scenario.common(), scenario.plan()?);
    try_outputs(common)?;
    raise_descriptors(&plan)?;
    let watch = Watch::new(&common.pid, &common.metrics, plan.target.is_loopback(), plan.tls.as_ref())?;
    tell_strangers(&common.pid);
    let outcome = conduct::run(&plan, &mut Loops::new(plan.clone()), &watch, Progress::new(common.quiet))
        .map_err(|error| format!("the run could not go on: {error}"))?;
    judge(common, &plan, &outcome)
}

/// The same with agents.
fn control(options: &ControllerOptions) -> Result<bool, String> {
    let scenario = scenario_of(&options.words).unwrap_or_else(|error| error.exit());
    let plan = scenario.plan()?;
    try_outputs(scenario.common())?;
    let outcome = agents::controller::run(options, &scenario, &plan)?;
    judge(scenario.common(), &plan, &outcome)
}

/// Can the results be written where they shall? A run may last for hours.
fn try_outputs(common: &Common) -> Result<(), String> {
    let all = [&common.json, &common.hgrm, &common.hlog, &common.html];
    for path in all.into_iter().flatten().filter(|path| *path != Path::new("-")) {
        let was_there = path.exists();
        let opened = fs::OpenOptions::new().create(true).append(true).open(path);
        opened.map_err(|error| format!("{} cannot be written: {error}", path.display()))?;
        if !was_there {
            // The run may fail: then nothing is left of it.
            let _ = fs::remove_file(path);
        }
    }
    Ok(())
}

/// Another program's costs may be wanted, but not by mistake.
fn tell_strangers(pids: &[u32]) {
    for pid in pids {
        if let Some(name) = cost::process::name(*pid).filter(|name| name != "gannet") {
            eprintln!("note: process {pid} (--pid) is {name}, not gannet");
        }
    }
}

fn judge(common: &Common, plan: &Plan, outcome: &Outcome) -> Result<bool, String> {
    let complaints = report::verdict::complaints(plan, outcome);
    publish(common, plan, outcome, &complaints).map_err(|error| format!("the result: {error}"))?;
    Ok(complaints.is_empty())
}

/// Writes everything that was asked for.
fn publish(common: &Common, plan: &Plan, outcome: &Outcome, complaints: &[String]) -> io::Result<()> {
    let table = report::table::table(plan, outcome, complaints);
    let is_stdout = |path: &Path| path == Path::new("-");
    if !common.json.as_deref().is_some_and(is_stdout) {
        io::stdout().write_all(table.as_bytes())?;
    }
    if let Some(path) = &common.json {
        let mut text = serde_json::to_string_pretty(&report::json::json(plan, outcome, complaints))?;
        text.push('\n');
        if is_stdout(path) { io::stdout().write_all(text.as_bytes())? } else { write(path, text.as_bytes())? }
    }
    if let Some(path) = &common.hgrm {
        let mut bytes = Vec::new();
        report::hgrm::percentiles(&outcome.tally.latency, &mut bytes)?;
        write(path, &bytes)?;
    }
    if let Some(path) = &common.hlog {
        let mut bytes = Vec::new();
        report::hgrm::log(&outcome.tally.latency, outcome.play_seconds, &mut bytes)?;
        write(path, &bytes)?;
    }
    if let Some(path) = &common.html {
        write(path, report::html::page(plan, outcome, &table, complaints).as_bytes())?;
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::write(path, bytes).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}
