//! Agents that are children of this process, for when one process may not have descriptors enough.
//!
//! Each holds the other end of a pipe to its standard input: when this process is gone, however it went, the pipe is
//! closed, and the agent ends. Never knows what they are told.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::message::Secret;

/// How long a child may take to end once its standard input has.
const ENDING: Duration = Duration::from_secs(3);

/// Children, for as long as this lives.
#[derive(Default)]
pub struct Locals {
    children: Vec<Child>,
}

impl Locals {
    /// Starts `count` agents: they, and a secret that only they know, with their addresses. `remote_targets` gives
    /// them the consent that the scenario has.
    pub fn start(count: u32, remote_targets: bool) -> Result<(Self, Option<Secret>, Vec<String>), String> {
        let mut locals = Self::default();
        if count == 0 {
            return Ok((locals, None, Vec::new()));
        }
        let failed = |error| format!("--local: {error}");
        let program = std::env::current_exe().map_err(failed)?;
        let (secret, variable) = Secret::fresh().map_err(failed)?;
        for _ in 0..count {
            let mut command = Command::new(&program);
            command.args(["agent", "--listen", "127.0.0.1:0", "--until-eof", "--quiet"]);
            command.args(remote_targets.then_some("--i-own-this-target"));
            command.env(variable.0, &variable.1).stdin(Stdio::piped()).stdout(Stdio::piped());
            // An interrupt from the terminal is for the controller, which then wants their results.
            command.process_group(0);
            locals.children.push(command.spawn().map_err(failed)?);
        }
        let addresses = locals.children.iter_mut().map(address).collect::<Result<_, _>>()?;
        Ok((locals, Some(secret), addresses))
    }
}

/// Where a child waits: it says so on its first line.
fn address(child: &mut Child) -> Result<String, String> {
    let mut line = String::new();
    if let Some(out) = child.stdout.take() {
        BufReader::new(out).read_line(&mut line).map_err(|error| format!("--local: {error}"))?;
    }
    line.split_whitespace().last().map(str::to_owned).ok_or_else(|| "--local: an agent did not start".to_owned())
}

impl Drop for Locals {
    fn drop(&mut self) {
        for child in &mut self.children {
            drop(child.stdin.take());
        }
        let deadline = Instant::now() + ENDING;
        for child in &mut self.children {
            while matches!(child.try_wait(), Ok(None)) {
                if Instant::now() >= deadline {
                    let _ = child.kill();
                }
                thread::sleep(Duration::from_millis(5));
            }
        }
    }
}
