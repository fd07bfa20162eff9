//! F10 · The engine's servers, for people: what they are, and what to change about them.
//!
//! Owns the lines of `gannet doctor --engine`. Changes nothing.

use super::plan::EnginePlan;
use crate::config::Config;
use tokio::task::LocalSet;

/// The error is a line for the operator.
pub fn report(config: &Config) -> Result<String, String> {
    let plan = EnginePlan::new(config);
    if plan.is_empty() {
        return Ok("no engine is configured: channels are in this process alone (engine.type)\n".into());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let mut lines = Vec::new();
    for server in LocalSet::new().block_on(&runtime, plan.examine())? {
        let (at, name, version, round_trip) = (server.at, server.name, server.version, server.round_trip);
        lines.push(format!("{at}: {name}: {version}, a round trip takes {round_trip:?}"));
        lines.extend(server.facts.map(|facts| format!("  {facts}")));
        lines.extend(server.advice.into_iter().map(|line| format!("  change: {line}")));
    }
    Ok(lines.join("\n") + "\n")
}
