//! F2 · Tokens that were found good, so that a client that comes back costs no signature check.
//!
//! Owns how many are kept and for how long: none beyond its own times or its key's, none after the keys have changed.
//! Bad tokens are not kept, so who has no good one cannot fill it. Never verifies: that is `Verifier`'s.

use super::{ChannelClaims, Claims, Good, Jwks, TokenError, Verifier};
use foldhash::quality::RandomState;
use hashbrown::HashMap;
use std::mem;
use std::sync::Arc;

/// Bytes set aside for an entry.
const ENTRY_LEN: usize = 1024;

/// One for each reactor.
#[derive(Default)]
pub struct Cache {
    connections: Kept<Claims>,
    subscriptions: Kept<ChannelClaims>,
    /// Of the key sets that the entries were checked with.
    version: u64,
    /// Tokens that were found here, and that were not.
    pub hits: u64,
    pub misses: u64,
}

/// Two generations: the older one goes when the younger is full, so what is asked for again stays.
struct Kept<T> {
    young: HashMap<Box<str>, Entry<T>, RandomState>,
    old: HashMap<Box<str>, Entry<T>, RandomState>,
    /// Of the younger generation.
    cost: usize,
    /// Entries of one generation.
    half: usize,
}

struct Entry<T> {
    claims: Arc<T>,
    /// Seconds since 1970: good from the first until before the second.
    from: u64,
    until: u64,
}

impl Cache {
    /// `entries` of each kind of token; below two nothing is kept.
    pub fn new(entries: usize) -> Cache {
        let (connections, subscriptions) = (Kept::new(entries), Kept::new(entries));
        Cache { connections, subscriptions, ..Cache::default() }
    }

    /// As [`Verifier::connection`].
    pub fn connection(
        &mut self,
        verifier: &Verifier,
        jwks: &Jwks,
        token: &str,
        now: u64,
    ) -> Result<Arc<Claims>, TokenError> {
        self.heed(jwks);
        if let Some(claims) = self.connections.get(token, now) {
            self.hits += 1;
            return Ok(claims);
        }
        self.misses += 1;
        Ok(self.connections.keep(token, verifier.good_connection(token, now, jwks)?))
    }

    /// As [`Verifier::subscription`].
    pub fn subscription(
        &mut self,
        verifier: &Verifier,
        jwks: &Jwks,
        token: &str,
        now: u64,
    ) -> Result<Arc<ChannelClaims>, TokenError> {
        self.heed(jwks);
        if let Some(claims) = self.subscriptions.get(token, now) {
            self.hits += 1;
            return Ok(claims);
        }
        self.misses += 1;
        Ok(self.subscriptions.keep(token, verifier.good_subscription(token, now, jwks)?))
    }

    /// Forgets all: for another verifier than before.
    pub fn clear(&mut self) {
        self.connections.clear();
        self.subscriptions.clear();
    }

    /// Tokens kept.
    pub fn len(&self) -> usize {
        self.connections.len() + self.subscriptions.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn heed(&mut self, jwks: &Jwks) {
        if self.version != jwks.version() {
            self.version = jwks.version();
            self.clear();
        }
    }
}

impl<T> Default for Kept<T> {
    fn default() -> Kept<T> {
        Kept::new(0)
    }
}

impl<T> Kept<T> {
    fn new(entries: usize) -> Kept<T> {
        let (young, old) = (HashMap::default(), HashMap::default());
        Kept { young, old, cost: 0, half: entries / 2 }
    }

    fn get(&mut self, token: &str, now: u64) -> Option<Arc<T>> {
        let is_good = |entry: &Entry<T>| (entry.from..entry.until).contains(&now);
        if let Some(entry) = self.young.get(token) {
            return is_good(entry).then(|| entry.claims.clone());
        }
        let (token, entry) = self.old.remove_entry(token).filter(|(_, entry)| is_good(entry))?;
        let claims = entry.claims.clone();
        self.insert(token, entry);
        Some(claims)
    }

    fn keep(&mut self, token: &str, good: Good<T>) -> Arc<T> {
        let Good { claims, from, until } = good;
        let claims = Arc::new(claims);
        if cost(token) <= self.half * ENTRY_LEN {
            self.insert(token.into(), Entry { claims: claims.clone(), from, until });
        }
        claims
    }

    fn insert(&mut self, token: Box<str>, entry: Entry<T>) {
        let cost = cost(&token);
        if self.young.len() >= self.half || self.cost + cost > self.half * ENTRY_LEN {
            self.old.clear();
            mem::swap(&mut self.young, &mut self.old);
            self.cost = 0;
        }
        if self.young.insert(token, entry).is_none() {
            self.cost += cost;
        }
    }

    fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
        self.cost = 0;
    }

    fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

/// Bytes of an entry: the token, and claims that are no longer than it.
fn cost(token: &str) -> usize {
    2 * token.len() + 192
}
