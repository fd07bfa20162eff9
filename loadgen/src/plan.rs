//! What a run is: a value that every loop reads and none changes.
//!
//! A scenario is nothing but a plan; the loops know no scenario by name. Never knows the command line.

use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;

use crate::profile::{Names, Profile};
use crate::roles::Roles;
use crate::target::{Sources, Target};

/// How speakers speak.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Talk {
    Nobody,
    /// One message in flight: the next goes out when the last came back.
    Closed,
    /// Open loop: each speaker speaks so many times a second, whatever comes back.
    Open {
        each: f64,
    },
}

/// How clients live.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Life {
    /// They connect and stay.
    Steady,
    /// All that listen are cut at once and come back at once, so many times, after having been `away`.
    Storm { rounds: u32, pause: Duration, away: Duration },
    /// So many a second of those that listen leave, and come back as new connections.
    Churn { rate: f64 },
    /// The last clients stop reading for a while (None = until the end).
    Stall { stalled: u32, pause: Option<Duration> },
    /// Clients come in steps.
    Ramp { start: u32, step: u32, every: Duration },
}

/// One run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub scenario: &'static str,
    pub target: Target,
    /// Where those who only speak connect to.
    pub publisher_target: Target,
    /// How to speak TLS; None = nobody does.
    pub tls: Option<Arc<ClientConfig>>,
    pub sources: Sources,
    pub headers: Vec<(String, String)>,
    pub profile: Profile,
    pub names: Names,
    pub roles: Roles,
    pub talk: Talk,
    pub life: Life,
    /// Listeners that come back ask for what they missed.
    pub recover: bool,
    /// Bytes of a payload.
    pub size: usize,
    pub threads: u32,
    /// This process is number `part` of `parts` that share one plan.
    pub part: u32,
    pub parts: u32,
    /// Tells the messages of this run from others'.
    pub run: u32,
    /// Connections begun each second, all loops together.
    pub connect_rate: Option<f64>,
    /// Connections under way at a time, each loop; None = no limit.
    pub opening: Option<u32>,
    pub connect_timeout: Duration,
    pub duration: Duration,
    /// Part of `duration` at its start that latency leaves out.
    pub warmup: Duration,
    /// The scenario does not play before this, since 1970; for runs in parts.
    pub start_at: Option<Duration>,
    /// Quiet time between the last connection and the first message.
    pub settle: Duration,
    /// How long messages may still come after the last was sent.
    pub grace: Duration,
    /// Server messages longer than this end their connection.
    pub message_limit: usize,
    /// Below this share of messages delivered, the run did not reach its goal.
    pub min_delivery: Option<f64>,
    /// Above this p99 of latency, neither.
    pub max_p99: Option<Duration>,
    /// Ramp: a step with a slower p99 is beyond the knee.
    pub knee: Duration,
}

impl Plan {
    /// The clients of loop `thread`, by number.
    pub fn clients_of(&self, thread: u32) -> impl Iterator<Item = u32> {
        let first = self.part * self.threads + thread;
        (first..self.roles.clients).step_by((self.threads * self.parts) as usize)
    }

    /// The share of process `part` (from 0) of `parts` that play this together as run number `run`.
    pub fn share(self, part: u32, parts: u32, run: u32) -> Self {
        let here = |rate: f64| rate / f64::from(parts);
        let life = match self.life {
            Life::Churn { rate } => Life::Churn { rate: here(rate) },
            other => other,
        };
        Self { part, parts, run, life, connect_rate: self.connect_rate.map(here), ..self }
    }

    /// Where in the time between two beats loop `thread` has its own, so that the loops of all parts take turns.
    pub fn phase(&self, thread: u32) -> f64 {
        f64::from(self.part * self.threads + thread) / f64::from(self.parts * self.threads)
    }

    /// Clients of this process.
    pub fn clients_here(&self) -> u32 {
        (0..self.threads).map(|thread| self.clients_of(thread).count() as u32).sum()
    }

    /// Of those, the ones there when talk begins.
    pub fn first_clients_here(&self) -> u32 {
        let first = |client: &u32| *client < self.clients_at_step(0);
        (0..self.threads).map(|thread| self.clients_of(thread).filter(first).count() as u32).sum()
    }

    /// Clients there should be at a step of a ramp; all of them in any other life.
    pub fn clients_at_step(&self, number: u32) -> u32 {
        match self.life {
            Life::Ramp { start, step, .. } => start.saturating_add(step.saturating_mul(number)).min(self.roles.clients),
            _ => self.roles.clients,
        }
    }

    /// The step at a time after the start of talk.
    pub fn step_at(&self, elapsed: u64) -> u32 {
        match self.life {
            Life::Ramp { every, .. } => (elapsed / (every.as_nanos() as u64).max(1)) as u32,
            _ => 0,
        }
    }

    /// True for the clients that stop reading.
    pub fn is_stalled(&self, client: u32) -> bool {
        matches!(self.life, Life::Stall { stalled, .. } if client >= self.roles.clients - stalled)
    }
    /// Deliveries that follow from one message in a channel. A stalled client is owed nothing.
    pub fn owed(&self, channel: u32) -> u64 {
        let stalled = match self.life {
            Life::Stall { stalled, .. } => u64::from(stalled),
            _ => 0,
        };
        self.roles.audience(channel).saturating_sub(stalled)
    }
}
