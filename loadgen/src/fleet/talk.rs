//! Who speaks next, and what goes out.
//!
//! Open loop: the schedule says when, the speakers take turns. Closed loop: whoever's message came back.
//! Never knows what becomes of a message.

use super::Fleet;
use crate::clock;
use crate::plan::Talk;
use crate::schedule::Schedule;
use crate::shared::Stage;
use crate::stamp::Stamp;
use crate::wire::message;

/// Messages said in one turn of the loop before sockets are looked at again.
const TURN_MAX: u32 = 512;

#[derive(Debug, Default)]
pub struct Speech {
    /// Places of speakers that have joined.
    speakers: Vec<usize>,
    schedule: Option<Schedule>,
    /// Closed loop: when everyone says their first.
    first: Option<u64>,
    /// Nothing is due from then on.
    pub end: u64,
    turn: usize,
    payload: Vec<u8>,
    body: Vec<u8>,
}

impl Speech {
    fn rate(&self, each: f64) -> f64 {
        each * self.speakers.len() as f64
    }
}

impl Fleet {
    /// A client joined: if it has something to say, it has its turns from now on.
    pub(super) fn may_speak(&mut self, place: usize) {
        if !self.plan.roles.speaks(self.clients[place].number) || self.plan.talk == Talk::Nobody {
            return;
        }
        if !self.clients[place].has_turns {
            self.clients[place].has_turns = true;
            self.speech.speakers.push(place);
        }
        if self.stage == Stage::Play {
            let now = clock::now();
            match self.plan.talk {
                Talk::Open { each } => {
                    let rate = self.speech.rate(each);
                    if let Some(schedule) = &mut self.speech.schedule {
                        schedule.change(now, rate);
                    }
                }
                Talk::Closed if self.speech.first.is_none() => self.speak(place, now, now),
                _ => {}
            }
        }
    }

    pub(super) fn begin_talk(&mut self, start: u64) {
        self.speech.end = start.saturating_add(self.plan.duration.as_nanos() as u64);
        match self.plan.talk {
            Talk::Nobody => {}
            Talk::Closed => self.speech.first = Some(start),
            Talk::Open { each } => {
                let phase = self.plan.phase(self.thread);
                self.speech.schedule = Some(Schedule::new(start, self.speech.rate(each), phase));
            }
        }
    }

    /// When the schedule next has something.
    pub(super) fn next_speech(&self) -> Option<u64> {
        if self.stage != Stage::Play {
            return None;
        }
        let due = self.speech.first.or_else(|| self.speech.schedule.as_ref()?.next());
        due.filter(|due| *due < self.speech.end)
    }

    /// Says everything that is due.
    pub(super) fn speak_due(&mut self, now: u64) {
        if self.stage != Stage::Play {
            return;
        }
        if self.speech.first.is_some_and(|first| first <= now) {
            self.speech.first = None;
            for turn in 0..self.speech.speakers.len() {
                let now = clock::now();
                self.speak(self.speech.speakers[turn], now, now);
            }
        }
        let now = now.min(self.speech.end.saturating_sub(1));
        for _ in 0..TURN_MAX {
            let Some(due) = self.speech.schedule.as_mut().and_then(|schedule| schedule.take(now)) else { return };
            self.speech.turn = (self.speech.turn + 1) % self.speech.speakers.len().max(1);
            if let Some(place) = self.speech.speakers.get(self.speech.turn).copied() {
                self.speak(place, due, clock::now());
            }
        }
    }

    /// One message of one speaker, due at `due`.
    pub(super) fn speak(&mut self, place: usize, due: u64, now: u64) {
        let client = &mut self.clients[place];
        if !client.is_open() || !client.has_room() {
            self.witness.tally.counts.skipped += 1;
            return;
        }
        let channel = self.plan.roles.channel_of(client.number);
        let said_due = due.wrapping_add_signed(self.witness.skew);
        let stamp = Stamp { run: self.plan.run, speaker: client.number, sequence: client.sequence, due: said_due };
        let (id, number) = (client.next_id, client.number);
        client.sequence = client.sequence.wrapping_add(1);
        client.next_id = client.next_id.wrapping_add(1).max(1);
        let (mut payload, mut body) = (std::mem::take(&mut self.speech.payload), std::mem::take(&mut self.speech.body));
        payload.clear();
        body.clear();
        stamp.write(self.plan.size, &mut payload);
        let text = self.plan.profile.speak(id, number, &self.plan.names.of(channel), &payload, &mut body);
        self.put_frame(place, message(text), &body);
        (self.speech.payload, self.speech.body) = (payload, body);
        self.witness.spoke(due, now, self.plan.owed(channel));
    }
}
