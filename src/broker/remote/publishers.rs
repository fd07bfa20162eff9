//! F3 · Who published of late and is not to be sent its own.
//!
//! Owns the connections of those publishers by their client ids: a publication that comes back from an engine names its
//! publisher by that. Each is remembered for some minutes after its latest publication, so many at most.

use super::super::ConnKey;
use crate::protocol::Publication;
use foldhash::quality::RandomState;
use hashbrown::HashMap;
use std::collections::VecDeque;

const REMEMBERED_MS: u64 = 5 * 60 * 1000;
/// Publications remembered; beyond, the oldest is forgotten.
const MAX: usize = 1 << 16;

type ClientId = [u8; 16];

#[derive(Debug, Default)]
pub struct Publishers {
    /// With the time until which they are remembered.
    conns: HashMap<ClientId, (ConnKey, u64), RandomState>,
    /// One for each publication.
    order: VecDeque<(u64, ClientId)>,
}

impl Publishers {
    /// `conn` publishes this, and is not to be sent it.
    pub fn insert(&mut self, now_ms: u64, publication: &Publication, conn: ConnKey) {
        let Some(client) = client_of(publication) else { return };
        let until = now_ms + REMEMBERED_MS;
        self.conns.insert(client, (conn, until));
        self.order.push_back((until, client));
        while self.order.len() > MAX || self.order.front().is_some_and(|(until, _)| *until <= now_ms) {
            let Some((until, client)) = self.order.pop_front() else { break };
            if self.conns.get(&client).is_some_and(|(_, latest)| *latest == until) {
                self.conns.remove(&client);
            }
        }
    }

    /// Who is not to be sent this.
    pub fn find(&self, publication: &Publication) -> Option<ConnKey> {
        if self.conns.is_empty() {
            return None;
        }
        self.conns.get(&client_of(publication)?).map(|(conn, _)| *conn)
    }
}

fn client_of(publication: &Publication) -> Option<ClientId> {
    let client = &publication.info.as_ref()?.client;
    uuid::Uuid::try_parse(client).ok().map(uuid::Uuid::into_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::ClientInfo;

    fn by(client: u128) -> Publication {
        let client = uuid::Uuid::from_u128(client).to_string();
        Publication { info: Some(ClientInfo { client, ..ClientInfo::default() }), ..Publication::default() }
    }

    #[test]
    fn a_publisher_is_known_by_its_client_id_for_some_minutes() {
        let conn = |index| ConnKey { reactor: 0, index, generation: 1 };
        let mut all = Publishers::default();
        assert_eq!(all.find(&by(1)), None);
        all.insert(0, &by(1), conn(1));
        all.insert(0, &Publication::default(), conn(9));
        all.insert(REMEMBERED_MS - 1, &by(1), conn(1));
        assert_eq!(
            (all.find(&by(1)), all.find(&by(2)), all.find(&Publication::default())),
            (Some(conn(1)), None, None)
        );
        all.insert(REMEMBERED_MS, &by(2), conn(2));
        assert_eq!(all.find(&by(1)), Some(conn(1)), "it published again");
        all.insert(3 * REMEMBERED_MS, &by(3), conn(3));
        assert_eq!((all.find(&by(1)), all.find(&by(2)), all.conns.len(), all.order.len()), (None, None, 1, 1));
        for n in 0..MAX as u128 + 10 {
            all.insert(3 * REMEMBERED_MS, &by(n + 10), conn(4));
        }
        assert_eq!((all.conns.len(), all.order.len()), (MAX, MAX));
    }
}
