//! How a run was made: when, where, by which command. What may be a secret in the command is left out.

use std::fs;
use std::time::SystemTime;

use serde_json::{Value, json};

use super::text::{bytes, count, rate};
use crate::plan::{Plan, Talk};

/// Options whose values may be secrets.
const SECRETS: [&str; 3] = ["--token-secret", "--header", "-H"];

/// What stands in a report beside the figures: a name and a text for each.
pub fn facts(plan: &Plan) -> Vec<(&'static str, String)> {
    let system = rustix::system::uname();
    let name = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
    let cpus = std::thread::available_parallelism().map_or(0, |cpus| cpus.get());
    let asked = match plan.talk {
        Talk::Nobody => "nobody speaks".to_owned(),
        Talk::Closed => "one message in flight for each client".to_owned(),
        Talk::Open { .. } => format!("{} messages a second asked for", rate(asked_rate(plan).unwrap_or(0.0))),
    };
    vec![
        ("date", humantime::format_rfc3339_seconds(SystemTime::now()).to_string()),
        ("command", command(std::env::args())),
        ("version", format!("gannet-loadgen {}", env!("CARGO_PKG_VERSION"))),
        ("target", plan.target.url()),
        ("clients", format!("{} on {} threads", count(u64::from(plan.roles.clients)), plan.threads)),
        ("rate", asked),
        ("payload", bytes(plan.size as f64)),
        ("duration", humantime::format_duration(plan.duration).to_string()),
        ("host", name(system.nodename())),
        ("kernel", format!("{} {}", name(system.sysname()), name(system.release()))),
        ("cpu", format!("{cpus} x {}", cpu().unwrap_or_else(|| name(system.machine())))),
    ]
}

/// The same for programs.
pub fn json(plan: &Plan) -> Value {
    let mut all: serde_json::Map<String, Value> =
        facts(plan).into_iter().map(|(name, text)| (name.to_owned(), text.into())).collect();
    all.insert("asked_rate".to_owned(), json!(asked_rate(plan)));
    all.into()
}

/// Messages a second that all speakers together shall say; None = there is no such number.
pub fn asked_rate(plan: &Plan) -> Option<f64> {
    match plan.talk {
        Talk::Open { each } => Some(each * f64::from(plan.roles.speakers())),
        _ => None,
    }
}

fn command(words: impl Iterator<Item = String>) -> String {
    let (mut out, mut hides) = (Vec::new(), false);
    for word in words {
        let (name, value) = word.split_once('=').map_or((word.as_str(), false), |(name, _)| (name, true));
        let is_secret = SECRETS.contains(&name);
        let shown = match (hides, is_secret && value) {
            (true, _) => "***".to_owned(),
            (false, true) => format!("{name}=***"),
            (false, false) if word.contains([' ', '"', '\'', '$', '{']) => format!("'{word}'"),
            _ => word.clone(),
        };
        out.push(shown);
        hides = !hides && is_secret && !value;
    }
    out.join(" ")
}

fn cpu() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_without_its_secrets() {
        let words = ["gannet-loadgen", "idle", "--token-secret", "hush", "-H", "Cookie: a", "--token-secret=b", "-q"];
        let shown = command(words.into_iter().map(str::to_owned));
        assert_eq!(shown, "gannet-loadgen idle --token-secret *** -H *** --token-secret=*** -q");
    }
}
