//! F9 · Who may come in: limits of the whole node, asked by every reactor.
//!
//! Owns the shared counts: atomics, and for the limit per address a table behind a lock that is taken only if that
//! limit is set, once when a connection comes and once when it goes. All limits are named options; each refusal has a
//! counter.

use crate::base::meter::Bucket;
use crate::config::Config;
use crate::heap;
use hashbrown::HashMap;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// So many a second, with a burst of one second's worth, shared without a lock.
#[derive(Debug)]
struct Rate {
    /// 0 = no limit.
    per_second: AtomicU32,
    full_at_ns: AtomicU64,
}

impl Rate {
    /// `per_second` = 0 is no limit.
    fn new(per_second: usize) -> Rate {
        let rate = Rate { per_second: AtomicU32::new(0), full_at_ns: AtomicU64::new(0) };
        rate.set(per_second);
        rate
    }

    fn set(&self, per_second: usize) {
        self.per_second.store(u32::try_from(per_second).unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    /// Takes one at `now_ns`, of any monotonic clock; false if there is none left.
    fn take(&self, now_ns: u64) -> bool {
        let rate = self.per_second.load(Ordering::Relaxed);
        if rate == 0 {
            return true;
        }
        let bucket = Bucket::new(rate, Duration::from_secs(1));
        let step = |full_at| bucket.take(full_at, now_ns);
        self.full_at_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step).is_ok()
    }
}

/// The key of a socket that is not counted by its address: there was no limit when it came.
const UNCOUNTED: u32 = 0;
/// While handshakes come, memory is looked at so often: what they may add meanwhile is little.
const LOOK_NS: u64 = 10_000_000;

/// Why a handshake is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The sockets of all reactors use up the file descriptors.
    Sockets,
    Connections,
    Rate,
    Memory,
    Address,
    Draining,
}

/// Shared by all reactors of a node.
#[derive(Debug)]
pub struct Admission {
    sockets: AtomicUsize,
    sockets_max: usize,
    clients: AtomicUsize,
    /// How many clients the file descriptors allow.
    clients_room: usize,
    clients_max: AtomicUsize,
    handshakes: Rate,
    accepts: Rate,
    per_ip_max: AtomicUsize,
    per_ip: Mutex<HashMap<u32, u32, foldhash::quality::RandomState>>,
    hasher: foldhash::quality::RandomState,
    /// Bytes in use; 0 = no limit.
    memory_max: AtomicUsize,
    /// Bytes in use beyond that.
    excess: AtomicUsize,
    /// How often memory was looked at.
    looks: AtomicU64,
    /// When memory was looked at.
    looked_ns: AtomicU64,
    /// Health says so.
    leaving: AtomicBool,
    /// The ports are closed.
    draining: AtomicBool,
}

/// A socket that was counted and left its reactor: counted until this is dropped.
#[derive(Debug)]
pub struct Entry {
    admission: Arc<Admission>,
    key: Option<u32>,
}

impl Entry {
    /// `key`: what [`Admission::enter`] gave.
    pub fn new(admission: Arc<Admission>, key: u32) -> Entry {
        Entry { admission, key: Some(key) }
    }

    /// The socket goes on to be counted by whoever gets it, with this key.
    pub fn pass_on(mut self) -> Option<u32> {
        self.key.take()
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.admission.leave(key);
        }
    }
}

/// What an address counts as: of IPv6 its /64, which is what one subscriber holds.
pub fn network(ip: IpAddr) -> u128 {
    match ip.to_canonical() {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => u128::from(ip) >> 64 << 64,
    }
}

impl Admission {
    /// `sockets`: how many the file descriptors allow; `clients`: how many of them may be clients.
    pub fn new(config: &Config, sockets: usize, clients: usize) -> Admission {
        let admission = Admission {
            sockets: AtomicUsize::new(0),
            sockets_max: sockets,
            clients: AtomicUsize::new(0),
            clients_room: clients,
            clients_max: AtomicUsize::new(0),
            handshakes: Rate::new(0),
            accepts: Rate::new(0),
            per_ip_max: AtomicUsize::new(0),
            per_ip: Mutex::default(),
            hasher: Default::default(),
            memory_max: AtomicUsize::new(0),
            excess: AtomicUsize::new(0),
            looks: AtomicU64::new(0),
            looked_ns: AtomicU64::new(0),
            leaving: AtomicBool::new(false),
            draining: AtomicBool::new(false),
        };
        admission.take_settings(config);
        admission
    }

    /// Goes on with the limits of another configuration. Whoever is in stays.
    pub fn take_settings(&self, config: &Config) {
        let (limit, room) = (config.client.connection_limit, self.clients_room);
        self.clients_max.store(if limit == 0 { room } else { limit.min(room) }, Ordering::Relaxed);
        self.handshakes.set(config.client.connection_rate_limit);
        self.accepts.set(config.overload.accept_rate_limit);
        self.per_ip_max.store(config.client.connection_limit_per_ip, Ordering::Relaxed);
        self.memory_max.store(config.overload.memory_limit, Ordering::Relaxed);
        self.excess.store(0, Ordering::Relaxed);
        self.look_at_memory();
    }

    /// May a socket be read at all?
    pub fn accept(&self, now_ns: u64) -> bool {
        self.accepts.take(now_ns)
    }

    /// Counts a socket from `ip`: its key for [`Admission::leave`], or the limit it is beyond.
    pub fn enter(&self, ip: IpAddr) -> Result<u32, Refused> {
        if self.sockets.fetch_add(1, Ordering::Relaxed) >= self.sockets_max {
            self.sockets.fetch_sub(1, Ordering::Relaxed);
            return Err(Refused::Sockets);
        }
        if self.per_ip_max.load(Ordering::Relaxed) == 0 {
            return Ok(UNCOUNTED);
        }
        self.enter_from(ip).inspect_err(|_| {
            self.sockets.fetch_sub(1, Ordering::Relaxed);
        })
    }

    fn enter_from(&self, ip: IpAddr) -> Result<u32, Refused> {
        let key = self.hasher.hash_one(network(ip)) as u32;
        // The key is a hash: two addresses that share one of four billion would be counted together.
        let key = if key == UNCOUNTED { UNCOUNTED + 1 } else { key };
        let mut table = self.per_ip.lock().unwrap_or_else(PoisonError::into_inner);
        let count = table.entry(key).or_insert(0);
        if *count as usize >= self.per_ip_max.load(Ordering::Relaxed) {
            return Err(Refused::Address);
        }
        *count += 1;
        Ok(key)
    }

    /// A socket that entered with `key` is gone.
    pub fn leave(&self, key: u32) {
        self.sockets.fetch_sub(1, Ordering::Relaxed);
        if key == UNCOUNTED {
            return;
        }
        let mut table = self.per_ip.lock().unwrap_or_else(PoisonError::into_inner);
        if let hashbrown::hash_map::Entry::Occupied(mut entry) = table.entry(key) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }

    /// Counts a client whose handshake is sound, or says why it must not come in.
    pub fn admit(&self, now_ns: u64) -> Result<(), Refused> {
        if self.draining.load(Ordering::Relaxed) {
            return Err(Refused::Draining);
        }
        self.look_in_time(now_ns);
        if self.is_over_memory() {
            return Err(Refused::Memory);
        }
        // Counted first and taken back, so that reactors cannot pass the limit together.
        if self.clients.fetch_add(1, Ordering::Relaxed) >= self.clients_max() {
            self.dismiss();
            return Err(Refused::Connections);
        }
        if !self.handshakes.take(now_ns) {
            self.dismiss();
            return Err(Refused::Rate);
        }
        Ok(())
    }

    /// An admitted client is gone.
    pub fn dismiss(&self) {
        self.clients.fetch_sub(1, Ordering::Relaxed);
    }

    /// Clients admitted and not gone.
    pub fn clients(&self) -> usize {
        self.clients.load(Ordering::Relaxed)
    }

    pub fn clients_max(&self) -> usize {
        self.clients_max.load(Ordering::Relaxed)
    }

    /// Looks at memory if that was long ago.
    fn look_in_time(&self, now_ns: u64) {
        let looked_ns = self.looked_ns.load(Ordering::Relaxed);
        if self.memory_max.load(Ordering::Relaxed) > 0 && now_ns.saturating_sub(looked_ns) >= LOOK_NS {
            // One reactor looks for all; should two do so, nothing is lost.
            self.looked_ns.store(now_ns, Ordering::Relaxed);
            self.look_at_memory();
        }
    }

    /// The number of the latest look at memory, and the bytes that were in use beyond the limit.
    pub fn memory_excess(&self, now_ns: u64) -> (u64, usize) {
        self.look_in_time(now_ns);
        (self.looks.load(Ordering::Relaxed), self.excess.load(Ordering::Relaxed))
    }

    /// Looks whether memory is over its limit, for [`Admission::admit`]. What is not known has not changed.
    pub fn look_at_memory(&self) {
        let is_limited = self.memory_max.load(Ordering::Relaxed) > 0;
        if let Some(in_use) = is_limited.then(heap::in_use_bytes).flatten() {
            self.set_in_use(in_use);
        }
    }

    fn set_in_use(&self, bytes: usize) {
        self.excess.store(bytes.saturating_sub(self.memory_max.load(Ordering::Relaxed)), Ordering::Relaxed);
        self.looks.fetch_add(1, Ordering::Relaxed);
    }

    pub fn is_over_memory(&self) -> bool {
        self.excess.load(Ordering::Relaxed) > 0
    }

    /// The node will leave: health says so, clients are still taken.
    pub fn set_leaving(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// Are the ports closed?
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// The ports close: handshakes still under way are refused.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_rate_is_a_true_rate() {
        let rate = Rate::new(10);
        let start = 7 * SECOND;
        assert_eq!((0..100).filter(|_| rate.take(start)).count(), 10, "the burst");
        let in_ten_seconds = (1..=1000).filter(|i| rate.take(start + i * SECOND / 100)).count();
        assert_eq!(in_ten_seconds, 100);
        assert!((0..1000).all(|_| Rate::new(0).take(start)), "0 is no limit");
    }

    #[test]
    fn clients_are_counted_and_refused_at_the_limit() {
        let mut config = Config::default();
        config.client.connection_limit = 2;
        let admission = Admission::new(&config, 100, 100);
        assert_eq!([0; 3].map(|_| admission.admit(0)), [Ok(()), Ok(()), Err(Refused::Connections)]);
        admission.dismiss();
        assert_eq!(admission.admit(0), Ok(()));
        admission.set_in_use(1);
        assert_eq!(admission.admit(0), Err(Refused::Memory));
        assert_eq!(Admission::new(&config, 100, 1).clients_max(), 1, "descriptors bind first");
    }

    #[test]
    fn addresses_are_counted_and_forgotten() {
        let mut config = Config::default();
        config.client.connection_limit_per_ip = 1;
        let admission = Admission::new(&config, 100, 100);
        let ip = |text: &str| text.parse::<IpAddr>().expect("address");
        let key = admission.enter(ip("10.0.0.1")).expect("first");
        assert!(admission.enter(ip("::ffff:10.0.0.1")).is_err(), "the same address, mapped");
        assert!(admission.enter(ip("10.0.0.2")).is_ok());
        assert!(admission.enter(ip("2001:db8::1")).is_ok() && admission.enter(ip("2001:db8::2")).is_err());
        admission.leave(key);
        assert!(admission.enter(ip("10.0.0.1")).is_ok());
    }

    #[test]
    fn other_limits_hold_for_whoever_comes_next() {
        let (free, mut config) = (Config::default(), Config::default());
        (config.client.connection_limit_per_ip, config.client.connection_limit) = (1, 1);
        (config.client.connection_rate_limit, config.overload.accept_rate_limit) = (1, 1);
        let admission = Admission::new(&free, 100, 100);
        let ip = "10.0.0.1".parse::<IpAddr>().expect("address");
        let uncounted = [0; 3].map(|_| admission.enter(ip).expect("no limit"));
        assert_eq!([0; 3].map(|_| admission.admit(SECOND)), [Ok(()); 3]);
        admission.take_settings(&config);
        uncounted.into_iter().for_each(|key| admission.leave(key));
        let counted = admission.enter(ip).expect("the first that is counted");
        assert_eq!(admission.enter(ip), Err(Refused::Address));
        assert_eq!(admission.admit(SECOND), Err(Refused::Connections), "three are in");
        assert_eq!((admission.accept(SECOND), admission.accept(SECOND)), (true, false));
        admission.take_settings(&free);
        admission.leave(counted);
        assert!(admission.per_ip.lock().expect("a lock").is_empty(), "what was counted is not left behind");
        assert_eq!([0; 3].map(|_| admission.admit(SECOND)), [Ok(()); 3]);
        assert!((0..9).all(|_| admission.accept(SECOND)));
    }
}
