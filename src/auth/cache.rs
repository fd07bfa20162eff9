//! F2 · What was found of tokens, so that a client that comes back costs no signature check, and neither does a bad
//! token that is shown again.
//!
//! Owns how many are kept and for how long: none beyond its own times or its key's, none after the keys have changed or
//! the options by which tokens are judged.
//! Good ones are kept whole. Of bad ones a keyed hash is kept, and they have room of their own, so that whoever has no
//! good one cannot drive the good ones out. Never does what is dear: that is `Verifier`'s, on another thread.

use super::{ChannelClaims, Claims, Dear, Found, FoundOf, Holds, Jwks, Need, TokenError, Verdict, Verifier};
use super::{TOKEN_LEN_MAX, Why};
use foldhash::quality::RandomState;
use hashbrown::{Equivalent, HashMap};
use std::hash::{BuildHasher, Hash};
use std::mem;
use std::sync::Arc;

/// Bytes set aside for an entry.
const ENTRY_LEN: usize = 1024;

/// One for each reactor.
#[derive(Default)]
pub struct Cache {
    connections: Kept<Claims>,
    subscriptions: Kept<ChannelClaims>,
    /// Makes the hashes of bad tokens.
    hasher: RandomState,
    /// Of the key sets that the entries were checked with.
    version: u64,
    /// Of the verifier that they were checked by.
    edition: u64,
    pub tally: TokenTally,
    /// See [`Cache::take_checks`].
    checks: u32,
}

/// What was counted from the beginning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TokenTally {
    /// Tokens that were found good before.
    pub good_again: u64,
    /// Tokens that were found bad before.
    pub bad_again: u64,
    /// Tokens that were looked at whole, here or on another thread.
    pub verified: u64,
    /// Of those, the ones whose signature did not fit.
    pub forged: u64,
}

/// Tokens of one kind.
struct Kept<T> {
    good: Generations<Box<str>, Arc<T>>,
    /// By hash. A good token that has the hash of a bad one would be refused: with a secret key and 64 bits, nobody
    /// brings that about, and chance does not.
    bad: Generations<u64, TokenError>,
}

/// Two generations: the older one goes when the younger is full, so what is asked for again stays.
struct Generations<K, V> {
    young: HashMap<K, Entry<V>, RandomState>,
    old: HashMap<K, Entry<V>, RandomState>,
    /// Of the younger generation.
    cost: usize,
    /// Entries of one generation.
    half: usize,
}

struct Entry<V> {
    found: Holds<V>,
    cost: usize,
}

impl Cache {
    /// `good` tokens of each kind and as many `bad` ones; below two nothing is kept.
    pub fn new(good: usize, bad: usize) -> Cache {
        Cache { connections: Kept::new(good, bad), subscriptions: Kept::new(good, bad), ..Cache::default() }
    }

    /// As [`Verifier::connection`], but for what is dear: that gives [`Need::Check`].
    pub fn connection(
        &mut self,
        verifier: &Verifier,
        jwks: &Jwks,
        token: &str,
        now: u64,
    ) -> Result<Arc<Claims>, TokenError> {
        self.heed(verifier, jwks);
        if let Some(known) = self.connections.recall(token, &self.hasher, now) {
            return self.tally.known(known);
        }
        let found = verifier.find_connection(token, now, jwks, Dear::Elsewhere);
        self.checks += u32::from(self.tally.count(&found));
        self.connections.keep(token, &self.hasher, found, now)
    }

    /// As [`Verifier::subscription`], in the same way.
    pub fn subscription(
        &mut self,
        verifier: &Verifier,
        jwks: &Jwks,
        token: &str,
        now: u64,
    ) -> Result<Arc<ChannelClaims>, TokenError> {
        self.heed(verifier, jwks);
        if let Some(known) = self.subscriptions.recall(token, &self.hasher, now) {
            return self.tally.known(known);
        }
        let found = verifier.find_subscription(token, now, jwks, Dear::Elsewhere);
        self.checks += u32::from(self.tally.count(&found));
        self.subscriptions.keep(token, &self.hasher, found, now)
    }

    /// What another thread found of a connection token. If keys have changed meanwhile, it is to look again.
    pub fn connection_judged(
        &mut self,
        verifier: &Verifier,
        jwks: &Jwks,
        token: &str,
        verdict: Verdict,
        now: u64,
    ) -> Result<Arc<Claims>, TokenError> {
        match self.still_found(verifier, jwks, verdict) {
            Some(FoundOf::Connection(found)) => {
                self.tally.count(&found);
                self.connections.keep(token, &self.hasher, found, now)
            }
            _ => Err(TokenError::Needs(Need::Check)),
        }
    }

    /// The same of a subscription token.
    pub fn subscription_judged(
        &mut self,
        verifier: &Verifier,
        jwks: &Jwks,
        token: &str,
        verdict: Verdict,
        now: u64,
    ) -> Result<Arc<ChannelClaims>, TokenError> {
        match self.still_found(verifier, jwks, verdict) {
            Some(FoundOf::Subscription(found)) => {
                self.tally.count(&found);
                self.subscriptions.keep(token, &self.hasher, found, now)
            }
            _ => Err(TokenError::Needs(Need::Check)),
        }
    }

    /// What a verdict says, if keys and rules are those that it was made by.
    fn still_found(&mut self, verifier: &Verifier, jwks: &Jwks, verdict: Verdict) -> Option<FoundOf> {
        self.heed(verifier, jwks);
        ((verdict.version, verdict.edition) == (self.version, self.edition)).then_some(verdict.found)
    }

    /// Tokens that were looked at whole here, on this thread, since the last call.
    pub fn take_checks(&mut self) -> u32 {
        mem::take(&mut self.checks)
    }

    /// Forgets all: for another verifier than before.
    pub fn clear(&mut self) {
        self.connections.clear();
        self.subscriptions.clear();
    }

    /// Good tokens kept.
    pub fn len(&self) -> usize {
        self.connections.good.len() + self.subscriptions.good.len()
    }

    /// Bad tokens kept.
    pub fn bad_len(&self) -> usize {
        self.connections.bad.len() + self.subscriptions.bad.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0 && self.bad_len() == 0
    }

    fn heed(&mut self, verifier: &Verifier, jwks: &Jwks) {
        let now = (jwks.version(), verifier.edition);
        if (self.version, self.edition) != now {
            (self.version, self.edition) = now;
            self.clear();
        }
    }
}

impl TokenTally {
    fn known<T>(&mut self, known: Result<T, TokenError>) -> Result<T, TokenError> {
        self.good_again += u64::from(known.is_ok());
        self.bad_again += u64::from(known.is_err());
        known
    }

    /// Whether anything was found.
    fn count<T>(&mut self, found: &Found<T>) -> bool {
        let error = found.as_ref().err().map(|bad| &bad.what);
        let is_done = !matches!(error, Some(TokenError::Needs(_)));
        self.verified += u64::from(is_done);
        self.forged += u64::from(error == Some(&TokenError::Invalid(Why::Signature)));
        is_done
    }
}

impl<T> Default for Kept<T> {
    fn default() -> Kept<T> {
        Kept::new(0, 0)
    }
}

impl<T> Kept<T> {
    fn new(good: usize, bad: usize) -> Kept<T> {
        Kept { good: Generations::new(good), bad: Generations::new(bad) }
    }

    fn recall(&mut self, token: &str, hasher: &RandomState, now: u64) -> Option<Result<Arc<T>, TokenError>> {
        if token.len() > TOKEN_LEN_MAX {
            // It is not even hashed.
            return Some(Err(Why::TooLong.into()));
        }
        self.good.get(token, now).map(Ok).or_else(|| self.bad.get(&hasher.hash_one(token), now).map(Err))
    }

    /// What was found may be older than `now`.
    fn keep(&mut self, token: &str, hasher: &RandomState, found: Found<T>, now: u64) -> Result<Arc<T>, TokenError> {
        match found {
            Ok(found) => {
                let claims = if found.at(now) { Ok(found.what.clone()) } else { Err(TokenError::Expired) };
                self.good.insert(token.into(), found, good_cost(token));
                claims
            }
            Err(found) => {
                let error = found.what.clone();
                // What is broken at first sight is seen as soon as remembered.
                let is_dear = !matches!(error, TokenError::Invalid(Why::Malformed | Why::Algorithm));
                if is_dear && found.at(now) {
                    self.bad.insert(hasher.hash_one(token), found, 0);
                }
                Err(error)
            }
        }
    }

    fn clear(&mut self) {
        self.good.clear();
        self.bad.clear();
    }
}

impl<K: Eq + Hash, V: Clone> Generations<K, V> {
    fn new(entries: usize) -> Generations<K, V> {
        let (young, old) = (HashMap::default(), HashMap::default());
        Generations { young, old, cost: 0, half: entries / 2 }
    }

    fn get<Q: Hash + Equivalent<K> + ?Sized>(&mut self, key: &Q, now: u64) -> Option<V> {
        if let Some(Entry { found, .. }) = self.young.get(key) {
            return found.at(now).then(|| found.what.clone());
        }
        let (key, Entry { found, cost }) = self.old.remove_entry(key).filter(|(_, entry)| entry.found.at(now))?;
        let what = found.what.clone();
        self.insert(key, found, cost);
        Some(what)
    }

    fn insert(&mut self, key: K, found: Holds<V>, cost: usize) {
        let most = self.half * ENTRY_LEN;
        if self.half == 0 || cost > most {
            return;
        }
        if self.young.len() >= self.half || self.cost + cost > most {
            self.old.clear();
            mem::swap(&mut self.young, &mut self.old);
            self.cost = 0;
        }
        if self.young.insert(key, Entry { found, cost }).is_none() {
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

/// Bytes of a good token's entry: the token, and claims that are no longer than it.
fn good_cost(token: &str) -> usize {
    2 * token.len() + 192
}
