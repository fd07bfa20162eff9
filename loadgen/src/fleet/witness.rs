//! Judges every message a client gets: is it owed, is it new, how late is it.
//!
//! Owns the loop's tally. Never touches a socket; what must be answered is the caller's to send.

use std::sync::Arc;

use super::client::{Client, Phase};
use super::position::Standing;
use crate::plan::Plan;
use crate::profile::{Ear, Heard, Spot, Subscribed};
use crate::sequence::Arrival;
use crate::stamp::Stamp;
use crate::tally::Tally;

/// What a message asks of the client.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asks {
    pub pongs: u32,
    /// Replies to commands.
    pub replies: u32,
    /// An error reply while joining, or to a subscribe: its code.
    pub join_error: Option<u32>,
    /// The client's own message came back.
    pub came_back: bool,
    /// The server has ended subscriptions that are to be asked for again.
    pub ended: bool,
}

/// A code of unsubscribe from which on a client asks again, with what it missed.
const RESUBSCRIBE_MIN: u32 = 2500;

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
            match heard {
                Heard::Publication(stamp, spot) => {
                    let came = Came { channel: spot.channel, at: now, from_history: false };
                    if judge(plan, tally, *start, client, in_our_time(*stamp, *skew), came) {
                        asks.came_back |= stamp.speaker == client.number;
                    }
                    advance(plan, client, *spot);
                }
                Heard::Subscribed(subscribed) => {
                    asks.replies += 1;
                    recover(plan, tally, *start, *skew, client, subscribed, now);
                }
                Heard::Reply { id, error } => {
                    asks.replies += 1;
                    if *error > 0 {
                        refuse(plan, tally, client, *id, *error, &mut asks);
                    } else if let Some((_, standing)) = client.positions.take(*id, None) {
                        count(tally, standing);
                    }
                }
                Heard::Ping => {
                    tally.counts.pings += 1;
                    asks.pongs += 1;
                }
                Heard::Unsubscribed(code, channel) => {
                    tally.counts.unsubscribed += 1;
                    tally.error(format!("unsubscribed with {code}"));
                    let slot = channel.and_then(|channel| plan.roles.slot(client.number, channel));
                    asks.ended |= *code >= RESUBSCRIBE_MIN && slot.is_some_and(|slot| client.positions.end(slot));
                }
                Heard::Unstamped(spot) => {
                    tally.counts.unstamped += 1;
                    advance(plan, client, *spot);
                }
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

/// The stamp with its moment on this host's clock.
fn in_our_time(stamp: Stamp, skew: i64) -> Stamp {
    Stamp { due: stamp.due.wrapping_add_signed(skew.wrapping_neg()), ..stamp }
}

/// A publication moves the client's position.
fn advance(plan: &Plan, client: &mut Client, spot: Spot) {
    if plan.recover
        && let Some(slot) = spot.channel.and_then(|channel| plan.roles.slot(client.number, channel))
    {
        client.positions.advance(slot, spot.offset);
    }
}

/// Takes the answer to a subscribe, and what came with it.
fn recover(
    plan: &Plan,
    tally: &mut Tally,
    start: u64,
    skew: i64,
    client: &mut Client,
    subscribed: &Subscribed,
    now: u64,
) {
    let Some((slot, standing)) = client.positions.take(subscribed.id, Some(subscribed)) else { return };
    count(tally, standing);
    let channel = plan.roles.listens_to(client.number).get(slot).copied();
    tally.counts.from_history += subscribed.publications.len() as u64;
    for (stamp, _) in &subscribed.publications {
        match stamp {
            Some(stamp) => {
                let came = Came { channel, at: now, from_history: true };
                judge(plan, tally, start, client, in_our_time(*stamp, skew), came);
            }
            None => tally.counts.unstamped += 1,
        }
    }
}

fn count(tally: &mut Tally, standing: Standing) {
    match standing {
        Standing::Begun => {}
        Standing::Recovered => tally.counts.recovered += 1,
        Standing::Unrecovered => tally.counts.unrecovered += 1,
        Standing::Unrecoverable => tally.counts.unrecoverable += 1,
    }
}

/// How a message came.
#[derive(Clone, Copy)]
struct Came {
    /// In which channel, if it said so.
    channel: Option<u32>,
    at: u64,
    /// With the answer to a subscribe.
    from_history: bool,
}

/// True if the message is owed to this client and new.
fn judge(plan: &Plan, tally: &mut Tally, start: u64, client: &mut Client, stamp: Stamp, came: Came) -> bool {
    if stamp.run != plan.run {
        tally.counts.foreign += 1;
        return false;
    }
    let track = plan.roles.track(client.number, stamp.speaker);
    let own_channel = came.channel.is_none_or(|channel| channel == plan.roles.channel_of(stamp.speaker));
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
    let latency = came.at.saturating_sub(stamp.due).max(1);
    if came.from_history {
        // Its age says how long the client was away, and nothing about the way through the server.
        tally.missed.saturating_record(latency);
        return true;
    }
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
fn refuse(plan: &Plan, tally: &mut Tally, client: &Client, id: u32, error: u32, asks: &mut Asks) {
    *tally.replies.entry(error).or_default() += 1;
    if matches!(client.phase, Phase::Joining(_)) || client.positions.awaits(id) {
        asks.join_error = Some(error);
        return;
    }
    tally.counts.refused += 1;
    let owed = plan.owed(plan.roles.channel_of(client.number));
    tally.counts.expected = tally.counts.expected.saturating_sub(owed);
}
