//! A node's connections to the store: one for calls, one for what is heard. Each is late, and may die at any time.

use super::store::{News, Store};
use crate::rng::Rng;
use gannet::broker::engine::{Away, EngineCall, Heard};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

#[derive(Default)]
pub struct Link {
    /// Not carried out yet.
    calls: VecDeque<EngineCall>,
    /// On their way back.
    answers: VecDeque<Heard>,
    /// Heard, and on its way.
    wire: VecDeque<Heard>,
    /// Channels that are listened to.
    listens: BTreeMap<Arc<str>, u32>,
    /// The connection for what is heard is being made anew.
    deaf: bool,
    /// No call gets through.
    pub cut: bool,
}

impl Link {
    pub fn call(&mut self, call: EngineCall) {
        if self.cut {
            if let EngineCall::Unlisten { channel } = &call {
                self.listens.remove(channel);
            }
            self.answers.extend(call.away());
            return;
        }
        self.calls.push_back(call);
    }

    /// Carries out some of the calls, in their order; the news.
    pub fn work(&mut self, now_ms: u64, store: &mut Store, rng: &mut Rng, all: bool) -> Vec<News> {
        let count = if all { self.calls.len() } else { rng.below(self.calls.len() + 1) };
        let mut news = Vec::new();
        for call in self.calls.drain(..count) {
            match call {
                EngineCall::Listen { channel, .. } if self.deaf => {
                    let life = self.listens.get(&channel).copied().unwrap_or(0);
                    panic!("{channel} {life}: a node that is deaf takes no such call");
                }
                EngineCall::Listen { channel, life } => {
                    self.listens.insert(channel.clone(), life);
                    self.wire.push_back(Heard::Listening { channel, life, result: Ok(()) });
                }
                EngineCall::Unlisten { channel } => drop(self.listens.remove(&channel)),
                call => {
                    let (answer, told) = store.carry_out(now_ms, &call);
                    news.extend(told);
                    self.answers.extend(answer.map(|(ticket, it)| Heard::Answer { ticket, answer: Ok(it) }));
                }
            }
        }
        news
    }

    /// Can calls be carried out?
    pub fn can_work(&self) -> bool {
        !self.cut && !self.deaf
    }

    pub fn tell(&mut self, news: &News) {
        let channel = match news {
            News::Publication { channel, .. } | News::Presence { channel, .. } => channel,
        };
        if self.deaf || !self.listens.contains_key(channel) {
            return;
        }
        self.wire.push_back(match news.clone() {
            News::Publication { channel, publication, position } => {
                Heard::Publication { channel, publication, position, previous: None }
            }
            News::Presence { channel, info, joined } => Heard::Presence { channel, info, joined },
        });
    }

    /// The connection for what is heard dies with all that is on it.
    pub fn go_deaf(&mut self) {
        self.deaf = true;
        // An answer to a wish to listen is never lost: the wish is made again.
        let listening = |heard: &Heard| matches!(heard, Heard::Listening { .. });
        self.wire.retain(listening);
    }

    /// It is made anew: all channels are listened to again.
    pub fn hear_again(&mut self) {
        if self.deaf && !self.cut {
            self.deaf = false;
            let all = self.listens.iter();
            self.wire.extend(all.map(|(channel, life)| Heard::Listening {
                channel: channel.clone(),
                life: *life,
                result: Ok(()),
            }));
        }
    }

    /// The connection for calls dies: some of those on it were carried out, and no answer comes back.
    pub fn lose_calls(&mut self, now_ms: u64, store: &mut Store, rng: &mut Rng) -> Vec<News> {
        let mut news = Vec::new();
        let done = rng.below(self.calls.len() + 1);
        for (at, call) in self.calls.drain(..).enumerate() {
            match &call {
                EngineCall::Listen { .. } => {}
                EngineCall::Unlisten { channel } => drop(self.listens.remove(channel)),
                call if at < done => news.extend(store.carry_out(now_ms, call).1),
                _ => {}
            }
            self.answers.extend(call.away());
        }
        for answer in &mut self.answers {
            if let Heard::Answer { answer, .. } = answer {
                *answer = Err(Away);
            }
        }
        news
    }

    /// What arrives now, the two connections in an order of chance.
    pub fn arrive(&mut self, rng: &mut Rng, all: bool) -> Vec<Heard> {
        let mut count = |len: usize| if all { len } else { rng.below(len + 1) };
        let (answers, wire) = (count(self.answers.len()), count(self.wire.len()));
        let answers: Vec<Heard> = self.answers.drain(..answers).collect();
        let wire: Vec<Heard> = self.wire.drain(..wire).collect();
        match rng.chance(50) {
            true => answers.into_iter().chain(wire).collect(),
            false => wire.into_iter().chain(answers).collect(),
        }
    }

    pub fn is_quiet(&self) -> bool {
        self.calls.is_empty() && self.answers.is_empty() && self.wire.is_empty() && !self.deaf && !self.cut
    }
}
