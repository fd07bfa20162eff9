//! One scenario played by several processes: a controller leads, agents play their parts, and the result is one.
//!
//! The map: `message` (what they say), `skew` (whose clock is ahead), `agent` (waits on a port, plays a part),
//! `controller` (what `conduct` leads in place of its own loops; adds up the results), `local` (agents that are
//! children of the controller), `options`. An agent has no conductor: it carries out the stages as it is told.

pub mod agent;
pub mod controller;
mod local;
mod message;
pub mod options;
mod skew;

use crate::shared::Reading;

/// What one agent came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    pub name: String,
    /// Clients of its part.
    pub clients: u32,
    /// Of them, how many were there when the scenario began to play.
    pub connected: u64,
    /// Its kernel is the one this process runs on.
    pub is_same_host: bool,
    /// Its last.
    pub reading: Reading,
    /// To play; None = it did not live to tell.
    pub own_cpu_seconds: Option<f64>,
    /// The p99 of how late it wrote itself, in nanoseconds.
    pub lateness_p99: Option<u64>,
    /// Its stamps may be wrong by so many nanoseconds.
    pub clock_uncertainty: u64,
    pub lost: Option<Loss>,
}

/// How an agent was lost.
#[derive(Clone, Debug, PartialEq)]
pub struct Loss {
    /// What it was doing.
    pub stage: &'static str,
    pub why: String,
}
