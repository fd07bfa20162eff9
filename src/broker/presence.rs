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

#[derive(Debug, Default)]
pub struct Presence {
    clients: HashMap<[u8; 16], Present, RandomState>,
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
        if self.clients.len() < self.clients.capacity() / 8 {
            self.clients.shrink_to(self.clients.len() * 2);
            self.users.shrink_to(self.users.len() * 2);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// Clients and users.
    pub fn counts(&self) -> (u32, u32) {
        (self.clients.len() as u32, self.users.len() as u32)
    }

    pub fn all(&self) -> Vec<ClientInfo> {
        let one = |(client, present): (&[u8; 16], &Present)| {
            let (conn_info, chan_info) = present.infos.as_deref().cloned().unwrap_or_default();
            let client = uuid::Uuid::from_bytes(*client).to_string();
            ClientInfo { user: present.user.to_string(), client, conn_info, chan_info }
        };
        self.clients.iter().map(one).collect()
    }
}
