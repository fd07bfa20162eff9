//! What belongs to an attack: the server's options, what is there before, who attacks and how, and what it may cost.

use std::time::Duration;

use serde_json::{Value, json};

use super::MIB;
use super::crowd::Crowd;
use super::node::Ports;

/// From this many attackers on the time of bystanders is shown and not judged: so many have a share of the CPU.
pub const MANY: usize = 1000;

/// One attack.
pub struct Attack {
    pub name: &'static str,
    /// What the attackers do, in a line.
    pub about: &'static str,
    pub plan: fn(&Site) -> Plan,
}

/// Where and how large it is to be.
#[derive(Clone, Copy, Debug)]
pub struct Site {
    pub ports: Ports,
    pub short: bool,
}

impl Site {
    /// A number of clients, and the one for the short version.
    pub fn size(&self, long: usize, short: usize) -> usize {
        if self.short { short } else { long }
    }
}

/// What an attack may cost beyond the limits that hold for all, because it is documented.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allowed {
    /// Bytes of memory while it lasts.
    pub buffers: u64,
    /// Bytes of memory that stay.
    pub kept: u64,
    /// All of the process's memory: a limit that the server was given.
    pub total: Option<u64>,
    /// Publications to bystanders may be refused, and questions to the node.
    pub refusals: bool,
    /// Bystanders whose channel has no history may lose publications.
    pub losses: bool,
    /// Why: which option says so.
    pub because: &'static str,
}

/// What is asked of the attackers' own connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    Nothing,
    /// None is closed: they do what they may.
    Stay,
    /// None is answered with this status.
    Never(u16),
}

pub struct Plan {
    pub flags: Vec<String>,
    pub reactors: usize,
    /// Calls of the server API before all else.
    pub fill: Vec<(&'static str, Value)>,
    pub crowds: Vec<Crowd>,
    pub silent_backend: bool,
    /// The attack lasts at least so long.
    pub least: Duration,
    /// Time is shown and not judged, because the clients that are there before do much themselves.
    pub untimed: bool,
    pub allowed: Allowed,
    pub demand: Demand,
}

impl Plan {
    /// One reactor, and the channels of the control group.
    pub fn new(crowds: Vec<Crowd>) -> Self {
        Self::with_namespaces(crowds, Vec::new())
    }

    /// The same with more namespaces. Every channel may be subscribed to and published to by clients with a token.
    pub fn with_namespaces(crowds: Vec<Crowd>, more: Vec<Value>) -> Self {
        let kept = namespace("kept", json!({"history_size": 300, "history_ttl": "60s", "force_recovery": true}));
        let namespaces = Value::from([vec![kept], more].concat());
        let own = ["allow_subscribe_for_client", "allow_publish_for_client"];
        let own = own.map(|option| format!("--channel.without_namespace.{option}"));
        let plan = Self {
            flags: own.to_vec(),
            reactors: 1,
            fill: Vec::new(),
            crowds,
            silent_backend: false,
            least: Duration::ZERO,
            untimed: false,
            allowed: Allowed::default(),
            demand: Demand::Nothing,
        };
        plan.flag("--channel.namespaces", &namespaces.to_string())
    }

    pub fn flag(mut self, name: &str, value: &str) -> Self {
        self.flags.extend([name.to_owned(), value.to_owned()]);
        self
    }

    pub fn on(mut self, name: &str) -> Self {
        self.flags.push(name.to_owned());
        self
    }

    pub fn demand(self, demand: Demand) -> Self {
        Self { demand, ..self }
    }

    pub fn allow(self, allowed: Allowed) -> Self {
        Self { allowed, ..self }
    }

    /// Attackers, without the clients that are there before.
    pub fn attackers(&self) -> usize {
        self.crowds.iter().filter(|crowd| !crowd.resident).map(|crowd| crowd.count).sum()
    }
}

/// A namespace that clients may subscribe and publish to, with more options.
pub fn namespace(name: &str, options: Value) -> Value {
    let mut all = json!({"name": name, "allow_subscribe_for_client": true, "allow_publish_for_client": true});
    if let (Value::Object(all), Value::Object(options)) = (&mut all, options) {
        all.extend(options);
    }
    all
}

/// What every trial is held to.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Milliseconds: the 99th percentile of bystanders beside attackers that are not many.
    pub p99: f64,
    /// Bytes of memory over the quiet server, at the peak.
    pub growth: u64,
    /// Bytes over the quiet server that may stay, if a tenth of it is less.
    pub rest: u64,
    /// Lines in the log while the attack lasts.
    pub lines: u64,
}

pub const LIMITS: Limits = Limits { p99: 50.0, growth: 64 * MIB, rest: 8 * MIB, lines: 50 };

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abuse::script::{Door, Script};

    #[test]
    fn residents_are_no_attackers() {
        let script = || Script::raw(Door::Public);
        let plan = Plan::new(vec![Crowd::of(3, script()), Crowd::resident(500, script()), Crowd::of(4, script())]);
        assert_eq!(plan.attackers(), 7);
    }

    #[test]
    fn a_namespace_has_its_options_beside_the_usual() {
        let made = namespace("big", json!({"history_size": 1}));
        assert_eq!((&made["name"], &made["history_size"]), (&json!("big"), &json!(1)));
        assert_eq!(made["allow_publish_for_client"], json!(true));
    }
}
