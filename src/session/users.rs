//! F6 · Which clients of this reactor are whose.
//!
//! Owns the table of users; the clients of one user form a list whose links live in the sessions themselves, so that
//! a user with a hundred thousand clients costs as little as a hundred thousand users. Every client is listed, the
//! anonymous ones under "".

use super::{NO_CLIENT, Session, UserLinks};
use foldhash::quality::FixedState;
use hashbrown::HashTable;
use std::hash::BuildHasher;

/// Where the sessions live: by connection index.
pub trait Sessions {
    fn session(&mut self, conn: u32) -> Option<&mut Session>;
}

impl Session {
    /// The next client of the same user, or [`NO_CLIENT`].
    pub fn next_of_user(&self) -> u32 {
        self.same_user.next
    }
}

/// User to the first of its clients.
#[derive(Debug)]
pub struct Users {
    heads: HashTable<Head>,
    hasher: FixedState,
}

/// The full hash is kept so that growing the table needs no session.
#[derive(Debug, Clone, Copy)]
struct Head {
    hash: u32,
    conn: u32,
}

impl Users {
    /// `seed`: the node's, so that all reactors give a user the same hash.
    pub fn new(seed: u64) -> Users {
        Users { heads: HashTable::new(), hasher: FixedState::with_seed(seed) }
    }

    /// The hash of each user, to count those of several reactors together.
    pub fn hashes(&self) -> impl Iterator<Item = u32> {
        self.heads.iter().map(|head| head.hash)
    }

    /// Users with at least one client here.
    pub fn len(&self) -> usize {
        self.heads.len()
    }

    pub fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    fn hash(&self, user: &str) -> u32 {
        self.hasher.hash_one(user) as u32
    }

    /// Spreads the kept 32 bits over the 64 the table looks at (its top seven, and its low ones).
    fn widen(hash: u32) -> u64 {
        u64::from(hash) << 32 | u64::from(hash)
    }

    fn head(&self, table: &mut impl Sessions, user: &str) -> Option<u32> {
        let hash = self.hash(user);
        let of_user = |head: &Head| head.hash == hash && table.session(head.conn).is_some_and(|s| s.user() == user);
        self.heads.find(Users::widen(hash), of_user).map(|head| head.conn)
    }

    /// Lists `conn` under its session's user.
    pub fn insert(&mut self, table: &mut impl Sessions, conn: u32) {
        let Some(user) = table.session(conn).map(|session| session.user.clone()) else { return };
        let first = self.head(table, &user);
        match first {
            None => {
                let hash = self.hash(&user);
                self.heads.insert_unique(Users::widen(hash), Head { hash, conn }, |head| Users::widen(head.hash));
            }
            // Behind the first: the table need not change.
            Some(first) => {
                let Some(head) = table.session(first) else { return };
                let next = std::mem::replace(&mut head.same_user.next, conn);
                if let Some(session) = table.session(conn) {
                    session.same_user = UserLinks { next, prev: first };
                }
                if let Some(after) = table.session(next) {
                    after.same_user.prev = conn;
                }
            }
        }
    }

    /// Takes `conn`, listed before, off its user's list.
    pub fn remove(&mut self, table: &mut impl Sessions, conn: u32) {
        let Some(session) = table.session(conn) else { return };
        let UserLinks { next, prev } = session.same_user;
        session.same_user = UserLinks { next: NO_CLIENT, prev: NO_CLIENT };
        let hash = self.hasher.hash_one(session.user()) as u32;
        if let Some(after) = table.session(next) {
            after.same_user.prev = prev;
        }
        if let Some(before) = table.session(prev) {
            before.same_user.next = next;
            return;
        }
        let Ok(mut entry) = self.heads.find_entry(Users::widen(hash), |head| head.conn == conn) else { return };
        if next == NO_CLIENT {
            entry.remove();
        } else {
            entry.get_mut().conn = next;
        }
    }

    /// The first client of `user` on this reactor; [`Session::next_of_user`] leads to the others. A client that comes
    /// while somebody goes through them stands behind the first.
    pub fn first(&self, table: &mut impl Sessions, user: &str) -> Option<u32> {
        self.head(table, user)
    }

    /// The clients of `user` on this reactor.
    pub fn clients(&self, table: &mut impl Sessions, user: &str) -> Vec<u32> {
        let first = self.head(table, user);
        let next = |conn: &u32| table.session(*conn).map(|s| s.same_user.next).filter(|next| *next != NO_CLIENT);
        std::iter::successors(first, next).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{Now, Rules};
    use crate::wire::Wire;
    use proptest::prelude::*;

    impl Sessions for Vec<Option<Session>> {
        fn session(&mut self, conn: u32) -> Option<&mut Session> {
            self.get_mut(conn as usize)?.as_mut()
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_list(steps in prop::collection::vec((0u32..20, 0u8..4), 1..100)) {
            let rules = Rules::new(&Default::default()).expect("rules");
            let mut users = Users::new(1);
            let mut table: Vec<Option<Session>> = (0..20).map(|_| None).collect();
            for (conn, user) in steps {
                let at = conn as usize;
                if table[at].is_some() {
                    users.remove(&mut table, conn);
                    table[at] = None;
                } else {
                    let mut session = Session::new([0; 16], Wire::WebSocketJson, false, Now::default(), &rules);
                    session.user = ["", "a", "b", "c"][usize::from(user)].into();
                    table[at] = Some(session);
                    users.insert(&mut table, conn);
                }
                let mut distinct = 0;
                for user in ["", "a", "b", "c"] {
                    let mut found = users.clients(&mut table, user);
                    found.sort_unstable();
                    let is_theirs = |c: &u32| table[*c as usize].as_ref().is_some_and(|s| s.user == user);
                    let expected: Vec<u32> = (0..20).filter(is_theirs).collect();
                    distinct += usize::from(!expected.is_empty());
                    prop_assert_eq!(found, expected);
                }
                prop_assert_eq!(users.len(), distinct);
            }
        }
    }
}
