//! F10 · Who is present in channels of which no engine keeps it: this node knows its own clients, and asks the others.
//!
//! Owns the list of this node, and the answers made of all. How nodes are asked is the service's.

use crate::broker::engine::{Away, EngineAnswer, EngineCall};
use crate::protocol::ClientInfo;
use foldhash::quality::RandomState;
use hashbrown::HashMap;
use prost::Message;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

type Present = HashMap<[u8; 16], Arc<ClientInfo>, RandomState>;

/// Read by the service, written by the engine's thread.
#[derive(Debug, Default)]
pub struct PresenceBoard {
    channels: Mutex<HashMap<Arc<str>, Present, RandomState>>,
}

/// Who is in the channel, on all nodes? `None`: one of them did not answer.
pub struct PresenceQuestion {
    pub channel: Arc<str>,
    /// More are too many.
    pub most: usize,
    pub answer: oneshot::Sender<Option<Vec<ClientInfo>>>,
}

/// What comes of a call.
#[derive(Debug, PartialEq)]
pub enum Noted {
    Nothing,
    Answer(u64, EngineAnswer),
    /// All nodes are to be asked. `whole`: for the clients; otherwise for their number.
    Ask {
        ticket: u64,
        channel: Arc<str>,
        whole: bool,
        most: usize,
    },
}

impl PresenceBoard {
    fn channels(&self) -> MutexGuard<'_, HashMap<Arc<str>, Present, RandomState>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn take(&self, call: EngineCall) -> Noted {
        match call {
            EngineCall::AddPresence { channel, client, info } => {
                self.channels().entry(channel).or_default().insert(client, info);
                Noted::Nothing
            }
            EngineCall::RemovePresence { channel, client, ticket, .. } => {
                let mut channels = self.channels();
                if let Some(present) = channels.get_mut(&channel) {
                    present.remove(&client);
                    if present.is_empty() {
                        channels.remove(&channel);
                    }
                }
                ticket.map_or(Noted::Nothing, |ticket| Noted::Answer(ticket, EngineAnswer::PresenceRemoved))
            }
            EngineCall::Presence { ticket, channel, most } => Noted::Ask { ticket, channel, whole: true, most },
            EngineCall::PresenceStats { ticket, channel } => {
                Noted::Ask { ticket, channel, whole: false, most: usize::MAX }
            }
            _ => Noted::Nothing,
        }
    }

    /// Who is in the channel, on this node; one more than `most`, if there are more.
    pub fn present(&self, channel: &str, most: usize) -> Vec<ClientInfo> {
        let channels = self.channels();
        let all = channels.get(channel).into_iter().flat_map(HashMap::values);
        all.take(most.saturating_add(1)).map(|info| (**info).clone()).collect()
    }

    /// The same in parts, by the ids of clients: those after `after`, up to so many bytes, and whom to go on after.
    pub fn page(&self, channel: &str, most: usize, after: &[u8], bytes: usize) -> (Vec<ClientInfo>, Option<[u8; 16]>) {
        let channels = self.channels();
        let all = channels.get(channel).into_iter().flatten();
        let mut ahead: Vec<(&[u8; 16], &Arc<ClientInfo>)> = all.filter(|(id, _)| id[..] > *after).collect();
        ahead.sort_unstable_by_key(|(id, _)| *id);
        let (mut page, mut last, mut room) = (Vec::new(), None, bytes);
        for (id, info) in ahead.into_iter().take(most.saturating_add(1)) {
            let len = info.encoded_len();
            if len > room && !page.is_empty() {
                return (page, last);
            }
            page.push((**info).clone());
            (last, room) = (Some(*id), room.saturating_sub(len));
        }
        (page, None)
    }
}

/// What the owner is told of those who were found on all nodes.
pub fn answer(found: Option<Vec<ClientInfo>>, whole: bool) -> Result<EngineAnswer, Away> {
    let found = found.ok_or(Away)?;
    if whole {
        return Ok(EngineAnswer::Presence(found));
    }
    let users: HashSet<&str> = found.iter().map(|info| &*info.user).collect();
    Ok(EngineAnswer::PresenceStats { clients: found.len() as u32, users: users.len() as u32 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_come_and_go() {
        let board = PresenceBoard::default();
        let channel: Arc<str> = "a".into();
        let add = |client: u8, user: &str| {
            let info = Arc::new(ClientInfo { user: user.into(), ..ClientInfo::default() });
            EngineCall::AddPresence { channel: channel.clone(), client: [client; 16], info }
        };
        for call in [add(1, "u"), add(2, "u"), add(3, "v"), add(1, "u")] {
            assert_eq!(board.take(call), Noted::Nothing);
        }
        let found = board.present("a", 9);
        assert_eq!(answer(Some(found), false), Ok(EngineAnswer::PresenceStats { clients: 3, users: 2 }));
        assert_eq!(board.present("a", 1).len(), 2, "that there are more is seen");
        let page = |after: &[u8], bytes| {
            let (page, next) = board.page("a", 9, after, bytes);
            (page.len(), next)
        };
        assert_eq!(page(&[], 0), (1, Some([1; 16])), "one at least");
        let two = 2 * board.present("a", 0)[0].encoded_len();
        assert_eq!((page(&[], two), page(&[2; 16], two)), ((2, Some([2; 16])), (1, None)));
        assert_eq!(answer(None, true), Err(Away));
        for (client, ticket) in [(1, None), (2, Some(7)), (3, None), (3, None)] {
            let (channel, user) = (channel.clone(), Default::default());
            let noted = board.take(EngineCall::RemovePresence { channel, client: [client; 16], user, ticket });
            assert_eq!(noted, ticket.map_or(Noted::Nothing, |at| Noted::Answer(at, EngineAnswer::PresenceRemoved)));
        }
        assert!(board.present("a", 9).is_empty() && board.channels().is_empty(), "nothing is left");
        let ask = board.take(EngineCall::PresenceStats { ticket: 1, channel: channel.clone() });
        assert_eq!(ask, Noted::Ask { ticket: 1, channel, whole: false, most: usize::MAX });
    }
}
