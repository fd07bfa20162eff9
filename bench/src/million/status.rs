//! What a client process says of itself, as one line of JSON.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Counts since the start; times are those of [`super::now_ns`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Clients that got their replies to connect and subscribe.
    pub opened: u64,
    pub opened_at: u64,
    /// Attempts that ended before that, and were made again.
    pub failed: u64,
    /// Open clients that ended without a close frame.
    pub lost: u64,
    /// Pings answered.
    pub pings: u64,
    /// Publications received.
    pub pushes: u64,
    /// Open clients told to go, by code.
    pub told: BTreeMap<u16, u64>,
    pub told_at: u64,
    /// The last thing that went wrong.
    pub why: String,
}

impl Status {
    /// Clients that got a close frame.
    pub fn told_all(&self) -> u64 {
        self.told.values().sum()
    }

    pub fn json(&self) -> Value {
        let told: serde_json::Map<String, Value> =
            self.told.iter().map(|(code, count)| (code.to_string(), json!(count))).collect();
        json!({
            "opened": self.opened, "opened_at": self.opened_at, "failed": self.failed, "lost": self.lost,
            "pings": self.pings, "pushes": self.pushes, "told": told, "told_at": self.told_at, "why": self.why,
        })
    }

    pub fn from_json(value: &Value) -> Option<Self> {
        let number = |key: &str| value.get(key).and_then(Value::as_u64);
        let told = value.get("told")?.as_object()?.iter();
        Some(Self {
            opened: number("opened")?,
            opened_at: number("opened_at")?,
            failed: number("failed")?,
            lost: number("lost")?,
            pings: number("pings")?,
            pushes: number("pushes")?,
            told: told.filter_map(|(code, count)| Some((code.parse().ok()?, count.as_u64()?))).collect(),
            told_at: number("told_at")?,
            why: value.get("why")?.as_str()?.to_owned(),
        })
    }

    /// Adds what another process said.
    pub fn add(&mut self, other: &Self) {
        self.opened += other.opened;
        self.opened_at = self.opened_at.max(other.opened_at);
        self.failed += other.failed;
        self.lost += other.lost;
        self.pings += other.pings;
        self.pushes += other.pushes;
        for (code, count) in &other.told {
            *self.told.entry(*code).or_default() += count;
        }
        self.told_at = self.told_at.max(other.told_at);
        if !other.why.is_empty() {
            self.why.clone_from(&other.why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_survives_its_line() {
        let status = Status { opened: 3, told: [(3001, 2)].into(), why: "late".into(), ..Status::default() };
        assert_eq!(Status::from_json(&status.json()), Some(status));
    }
}
