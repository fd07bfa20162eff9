//! Judges every message a client gets: is it owed, is it new, how late is it.
//!
//! Owns the loop's tally. Never touches a socket; what must be answered is the caller's to send.

use std::sync::Arc;

use super::client::{Client, Phase};
use crate::plan::Plan;
use crate::profile::{Ear, Heard};
use crate::sequence::Arrival;
use crate::stamp::Stamp;
use crate::tally::Tally;

/// What a message asks of the client.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asks {
    pub pongs: u32,
    /// Replies to commands.
    pub replies: u32,
    /// An error reply while joining: its code.
    pub join_error: Option<u32>,
    /// The client's own message came back.
    pub came_back: bool,
}

pub struct Witness {
    plan: Arc<Plan>,
    ear: Ear,
    pub tally: Tally,
    /// When the scenario began to play.
    pub start: u64,
    /// What is added to this host's clock to make it the one of the stamps.
    pub skew: i64,
}

impl Witness {
    pub fn new(plan: Arc<Plan>) -> Self {
        Self { plan, ear: Ear::default(), tally: Tally::default(), start: u64::MAX, skew: 0 }
    }

    /// Takes note of one message that came at `now`.
    pub fn hear(&mut self, client: &mut Client, message: &[u8], now: u64) -> Asks {
        let Self { plan, ear, tally, start, skew } = self;
        let mut asks = Asks::default();
        tally.counts.messages_in += 1;
        for heard in ear.hear(&plan.profile, message, &plan.names) {
            match *heard {
                Heard::Publication(stamp, channel) => {
                    let stamp = Stamp { due: stamp.due.wrapping_add_signed(skew.wrapping_neg()), ..stamp };
                    if judge(plan, tally, *start, client, stamp, channel, now) {
                        asks.came_back |= stamp.speaker == client.number;
                    }
                }
                Heard::Reply { error, .. } => {
                    asks.replies += 1;
                    if error > 0 {
                        refuse(plan, tally, client, error, &mut asks);
                    }
                }
                Heard::Ping => {
                    tally.counts.pings += 1;
                    asks.pongs += 1;
                }
                Heard::Unsubscribed(code) => {
                    tally.counts.unsubscribed += 1;
                    tally.error(format!("unsubscribed with {code}"));
                }
                Heard::Unstamped => tally.counts.unstamped += 1,
                Heard::Other => {}
                Heard::Nonsense => tally.counts.nonsense += 1,
            }
        }
        asks
    }

    /// Takes note of a message that was due at `due` and is written at `now`; `owed` deliveries follow from it.
    pub fn spoke(&mut self, due: u64, now: u64, owed: u64) {
        self.tally.counts.sent += 1;
        self.tally.counts.expected += owed;
        self.tally.lateness.saturating_record(now.saturating_sub(due).max(1));
        if matches!(self.plan.life, crate::plan::Life::Ramp { .. }) {
            let number = self.plan.step_at(due.saturating_sub(self.start));
            let step = self.tally.step(number);
            step.sent += 1;
            step.expected += owed;
        }
    }
}

/// True if the message is owed to this client and new.
fn judge(
    plan: &Plan,
    tally: &mut Tally,
    start: u64,
    client: &mut Client,
    stamp: Stamp,
    channel: Option<u32>,
    now: u64,
) -> bool {
    if stamp.run != plan.run {
        tally.counts.foreign += 1;
        return false;
    }
    let track = plan.roles.track(client.number, stamp.speaker);
    let own_channel = channel.is_none_or(|channel| channel == plan.roles.channel_of(stamp.speaker));
    let Some(track) = track.filter(|_| own_channel) else {
        tally.counts.stray += 1;
        return false;
    };
    if client.tracks.is_empty() {
        client.tracks.resize(plan.roles.tracks(client.number), Default::default());
    }
    let arrival = client.tracks[track].note(stamp.sequence);
    if plan.is_stalled(client.number) {
        return false;
    }
    match arrival {
        Arrival::InOrder => {}
        Arrival::AfterGap(missing) => tally.counts.gaps += u64::from(missing),
        Arrival::Late => tally.counts.late += 1,
        Arrival::Duplicate | Arrival::TooOld => {
            tally.counts.duplicates += 1;
            return false;
        }
    }
    tally.counts.got += 1;
    let latency = now.saturating_sub(stamp.due).max(1);
    if stamp.due >= start.saturating_add(plan.warmup.as_nanos() as u64) {
        tally.counts.measured += 1;
        tally.latency.saturating_record(latency);
    }
    if matches!(plan.life, crate::plan::Life::Ramp { .. }) {
        let step = tally.step(plan.step_at(stamp.due.saturating_sub(start)));
        step.got += 1;
        step.latency.saturating_record(latency);
    }
    true
}

/// An error reply: the client cannot join, or what it published is not owed to anyone.
fn refuse(plan: &Plan, tally: &mut Tally, client: &Client, error: u32, asks: &mut Asks) {
    *tally.replies.entry(error).or_default() += 1;
    if matches!(client.phase, Phase::Joining(_)) {
        asks.join_error = Some(error);
        return;
    }
    tally.counts.refused += 1;
    let owed = plan.owed(plan.roles.channel_of(client.number));
    tally.counts.expected = tally.counts.expected.saturating_sub(owed);
}
