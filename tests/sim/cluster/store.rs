//! A model of the store that nodes share: streams and presence on a primary, and a replica that lags behind it.

use gannet::broker::engine::{EngineAnswer, EngineCall};
use gannet::broker::{Epoch, Keep, Position, Query};
use gannet::protocol::{ClientInfo, Publication};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// A client that nobody names again is forgotten after so long.
pub const PRESENCE_MS: u64 = 60_000;

#[derive(Debug, Clone, Default)]
pub struct Stream {
    pub epoch: String,
    pub top: u64,
    pub kept: VecDeque<Publication>,
}

/// Clients, and until when each is remembered.
type Present = BTreeMap<[u8; 16], (Arc<ClientInfo>, u64)>;

#[derive(Debug, Clone, Default)]
struct State {
    streams: BTreeMap<Arc<str>, Stream>,
    present: BTreeMap<Arc<str>, Present>,
}

/// What is told on the connections of those who listen.
#[derive(Debug, Clone)]
pub enum News {
    Publication { channel: Arc<str>, publication: Arc<Publication>, position: Option<Position> },
    Presence { channel: Arc<str>, info: Arc<ClientInfo>, joined: bool },
}

#[derive(Default)]
pub struct Store {
    now: State,
    replica: State,
    lives: u32,
    /// Offsets that were given twice: when the stream went back, by channel.
    pub went_back: BTreeMap<Arc<str>, u64>,
    /// Numbers of publications that it lost itself.
    pub lost: BTreeSet<u64>,
}

impl Store {
    fn stream(&mut self, channel: &Arc<str>) -> &mut Stream {
        let Store { now, lives, .. } = self;
        now.streams.entry(channel.clone()).or_insert_with(|| {
            *lives += 1;
            Stream { epoch: format!("life{lives}"), ..Stream::default() }
        })
    }

    pub fn position(&mut self, channel: &Arc<str>) -> Position {
        let stream = self.stream(channel);
        Position { offset: stream.top, epoch: Epoch::from(stream.epoch.as_str()) }
    }

    /// The number of the publication at each offset that is kept.
    pub fn numbers(&mut self, channel: &Arc<str>) -> BTreeMap<u64, u64> {
        self.stream(channel).kept.iter().map(|it| (it.offset, number(it))).collect()
    }

    pub fn present(&mut self, now_ms: u64, channel: &Arc<str>) -> BTreeSet<[u8; 16]> {
        let Some(all) = self.now.present.get_mut(channel) else { return BTreeSet::new() };
        all.retain(|_, (_, until)| *until > now_ms);
        all.keys().copied().collect()
    }

    /// The replica has all that there is.
    pub fn replicate(&mut self) {
        self.replica = self.now.clone();
    }

    /// The replica is the primary from now on: what it had not got is lost.
    pub fn fail_over(&mut self, step: u64) {
        let before = std::mem::replace(&mut self.now, self.replica.clone());
        for (channel, old) in before.streams {
            let new = self.now.streams.get(&channel);
            let top = new.filter(|new| new.epoch == old.epoch).map_or(0, |new| new.top);
            self.lost.extend(old.kept.iter().filter(|it| it.offset > top).map(number));
            if old.top > top {
                self.went_back.insert(channel, step);
            }
        }
    }

    /// It begins again with nothing.
    pub fn forget(&mut self) {
        for stream in self.now.streams.values() {
            self.lost.extend(stream.kept.iter().map(number));
        }
        (self.now, self.replica) = (State::default(), State::default());
    }

    fn publish(
        &mut self,
        channel: &Arc<str>,
        publication: &Publication,
        keep: Option<Keep>,
    ) -> (News, Option<Position>) {
        let mut publication = publication.clone();
        let position = keep.map(|keep| {
            let stream = self.stream(channel);
            stream.top += 1;
            publication.offset = stream.top;
            stream.kept.push_back(publication.clone());
            if stream.kept.len() > keep.size as usize {
                stream.kept.pop_front();
            }
            Position { offset: stream.top, epoch: Epoch::from(stream.epoch.as_str()) }
        });
        let news =
            News::Publication { channel: channel.clone(), publication: publication.into(), position: position.clone() };
        (news, position)
    }

    fn read(&mut self, channel: &Arc<str>, query: &Query) -> EngineAnswer {
        let position = self.position(channel);
        if let Some((_, epoch)) = &query.since
            && !epoch.is_empty()
            && position.epoch != **epoch
        {
            return EngineAnswer::Unrecoverable;
        }
        let since = query.since.as_ref().map_or(0, |(offset, _)| *offset);
        let kept = self.stream(channel).kept.clone();
        let found: Vec<Publication> = match query.reverse {
            true => kept.into_iter().rev().take(query.limit).collect(),
            false => kept.into_iter().filter(|it| it.offset > since).take(query.limit).collect(),
        };
        EngineAnswer::Read(Box::new((position, found)))
    }

    /// Does what a node calls for: the answer with its ticket, and what all who listen are told.
    pub fn carry_out(&mut self, now_ms: u64, call: &EngineCall) -> (Option<(u64, EngineAnswer)>, Option<News>) {
        match call {
            EngineCall::Publish { ticket, channel, publication, treatment } => {
                let keep = treatment.as_ref().and_then(|treatment| treatment.keep);
                let (news, position) = self.publish(channel, publication, keep);
                (Some((*ticket, EngineAnswer::Published(position))), Some(news))
            }
            EngineCall::Announce { channel, info, joined } => {
                let (channel, info) = (channel.clone(), info.clone());
                (None, Some(News::Presence { channel, info, joined: *joined }))
            }
            EngineCall::Read { ticket, channel, query } => (Some((*ticket, self.read(channel, query))), None),
            EngineCall::AddPresence { channel, client, info } => {
                let until = now_ms + PRESENCE_MS;
                self.now.present.entry(channel.clone()).or_default().insert(*client, (info.clone(), until));
                (None, None)
            }
            EngineCall::RemovePresence { channel, client, ticket, .. } => {
                self.now.present.entry(channel.clone()).or_default().remove(client);
                (ticket.map(|ticket| (ticket, EngineAnswer::PresenceRemoved)), None)
            }
            other => panic!("nobody calls for this: {other:?}"),
        }
    }
}

/// The number that a publication carries.
pub fn number(publication: &Publication) -> u64 {
    String::from_utf8_lossy(&publication.data).parse().expect("a number")
}
