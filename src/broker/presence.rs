//! F3 · Who is in a channel.
//!
//! Owns the clients present, by their id, and how many of them each user has, so that the counts cost nothing to ask
//! for. Knows nothing of subscriptions.

use crate::protocol::ClientInfo;
use bytes::Bytes;
use compact_str::CompactString;
use foldhash::quality::RandomState;
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use std::collections::BTreeMap;
use std::ops::Bound;

#[derive(Debug, Default)]
pub struct Presence {
    /// In an order, so that they can be listed a part at a time while others come and go.
    clients: BTreeMap<[u8; 16], Present>,
    users: HashMap<CompactString, u32, RandomState>,
}

/// One client, as small as can be: there may be a hundred thousand in a channel.
#[derive(Debug)]
struct Present {
    user: CompactString,
    /// `conn_info` and `chan_info`, if there is either.
    infos: Option<Box<(Bytes, Bytes)>>,
}

impl Presence {
    pub fn insert(&mut self, client: [u8; 16], info: &ClientInfo) {
        let infos = (info.conn_info.clone(), info.chan_info.clone());
        let infos = (!infos.0.is_empty() || !infos.1.is_empty()).then(|| Box::new(infos));
        let user = CompactString::from(&info.user);
        self.remove(client);
        *self.users.entry(user.clone()).or_default() += 1;
        self.clients.insert(client, Present { user, infos });
    }

    pub fn remove(&mut self, client: [u8; 16]) {
        let Some(Present { user, .. }) = self.clients.remove(&client) else { return };
        if let Entry::Occupied(mut count) = self.users.entry(user) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        if self.users.len() < self.users.capacity() / 8 {
            self.users.shrink_to(self.users.len() * 2);
        }
    }

    pub fn len(&self) -> usize {
        self.clients.len()
    }

    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// Clients and users.
    pub fn counts(&self) -> (u32, u32) {
        (self.clients.len() as u32, self.users.len() as u32)
    }

    /// The clients that follow the one with the id `after`, from the first without; in the order of their ids.
    pub fn clients(&self, after: Option<[u8; 16]>) -> impl Iterator<Item = ([u8; 16], ClientInfo)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.clients.range((from, Bound::Unbounded)).map(|(client, present)| {
            let (conn_info, chan_info) = present.infos.as_deref().cloned().unwrap_or_default();
            let id = uuid::Uuid::from_bytes(*client).to_string();
            (*client, ClientInfo { user: present.user.to_string(), client: id, conn_info, chan_info })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn info(client: u8, user: u8) -> ClientInfo {
        let conn_info = if client.is_multiple_of(3) { Bytes::new() } else { vec![client, user].into() };
        let chan_info = if client.is_multiple_of(2) { Bytes::new() } else { vec![user].into() };
        let id = uuid::Uuid::from_bytes([client; 16]).to_string();
        ClientInfo { user: user.to_string(), client: id, conn_info, chan_info }
    }

    proptest! {
        /// Whoever came last with an id is there, and each user counts once.
        #[test]
        fn agrees_with_a_map(steps in prop::collection::vec((0u8..30, 0u8..4, any::<bool>()), 1..200)) {
            let mut presence = Presence::default();
            let mut model: BTreeMap<u8, u8> = BTreeMap::new();
            for (client, user, comes) in steps {
                if comes {
                    presence.insert([client; 16], &info(client, user));
                    model.insert(client, user);
                } else {
                    presence.remove([client; 16]);
                    model.remove(&client);
                }
                let users: BTreeSet<&u8> = model.values().collect();
                prop_assert_eq!(presence.counts(), (model.len() as u32, users.len() as u32));
                prop_assert_eq!(presence.is_empty(), model.is_empty());
            }
            let expected: Vec<([u8; 16], ClientInfo)> =
                model.iter().map(|(&client, &user)| ([client; 16], info(client, user))).collect();
            prop_assert_eq!(presence.clients(None).collect::<Vec<_>>(), &expected[..]);
            let (mut listed, mut after) = (Vec::new(), None);
            loop {
                let before = listed.len();
                listed.extend(presence.clients(after).take(7));
                after = listed.last().map(|&(client, _)| client);
                if listed.len() == before {
                    break;
                }
            }
            prop_assert_eq!(listed, expected);
        }
    }
}
