//! F10 · How many connections a port serves at once, and which of them go when that gets tight.
//!
//! Owns the count of one port. Each port has its own: what comes to the public one cannot keep anybody from the
//! operators' port.

use crate::admission::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// How long a connection may be idle while its port is short of room.
const IDLE_MAX: Duration = Duration::from_secs(1);

/// The connections that one port may have.
pub struct PortRoom {
    free: Arc<Semaphore>,
    size: usize,
    /// Less than a quarter was free, and it is not half yet.
    short: watch::Sender<bool>,
    /// Connections that ended for it.
    ended: AtomicU64,
    /// Bytes that connections in their TLS handshake hold, how many they may, and who ended because of that.
    shaking: AtomicUsize,
    shaking_max: usize,
    refused: AtomicU64,
}

/// What one handshake holds of its port's bytes.
pub struct HandshakeBytes {
    room: Arc<PortRoom>,
    held: usize,
}

/// A connection's place, and its part in the counts of the node if it came by a reactor.
pub struct ConnectionPermit {
    room: Arc<PortRoom>,
    permit: Option<OwnedSemaphorePermit>,
    entry: Option<Entry>,
}

impl PortRoom {
    /// For so many connections, and so many bytes of their handshakes.
    pub fn new(size: usize, shaking_max: usize) -> Arc<PortRoom> {
        let (free, (short, _)) = (Arc::new(Semaphore::new(size)), watch::channel(false));
        let (ended, refused, shaking) = (AtomicU64::new(0), AtomicU64::new(0), AtomicUsize::new(0));
        Arc::new(PortRoom { free, size, short, ended, shaking, shaking_max, refused })
    }

    /// A place if there is one.
    pub fn take(self: &Arc<Self>, entry: Entry) -> Option<ConnectionPermit> {
        let permit = self.free.clone().try_acquire_owned().ok();
        if permit.is_none() {
            // Those that are idle go, so that the next one finds a place.
            self.short.send_replace(true);
        }
        permit.map(|permit| self.permit(permit, Some(entry)))
    }

    /// A place once there is one.
    pub async fn wait(self: &Arc<Self>) -> Option<ConnectionPermit> {
        let permit = self.free.clone().acquire_owned().await.ok()?;
        Some(self.permit(permit, None))
    }

    fn permit(self: &Arc<Self>, permit: OwnedSemaphorePermit, entry: Option<Entry>) -> ConnectionPermit {
        self.look();
        ConnectionPermit { room: self.clone(), permit: Some(permit), entry }
    }

    /// Ends when no connection is left, and lets nobody in from then on.
    pub async fn emptied(&self) {
        if let Ok(all) = self.free.acquire_many(u32::try_from(self.size).unwrap_or(u32::MAX)).await {
            all.forget();
        }
    }

    /// Connections that are here.
    pub fn taken(&self) -> usize {
        self.size - self.free.available_permits()
    }

    pub fn size(&self) -> usize {
        self.size
    }

    /// Connections that ended because there was little room.
    pub fn ended(&self) -> u64 {
        self.ended.load(Ordering::Relaxed)
    }

    /// Connections that ended in their handshake because all of them held too much.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    fn look(&self) {
        let free = self.free.available_permits();
        let short = if free * 4 < self.size { Some(true) } else { (free * 2 >= self.size).then_some(false) };
        if let Some(short) = short {
            self.short.send_if_modified(|was| std::mem::replace(was, short) != short);
        }
    }
}

impl HandshakeBytes {
    /// It holds so much now. False: all hold more than they may.
    pub fn hold(&mut self, now: usize) -> bool {
        let was = std::mem::replace(&mut self.held, now);
        let before = self.room.shaking.fetch_add(now, Ordering::Relaxed);
        self.room.shaking.fetch_sub(was, Ordering::Relaxed);
        // Who holds no more than before is not the one that is too much.
        let fits = now <= was || before + now - was <= self.room.shaking_max;
        if !fits {
            self.room.refused.fetch_add(1, Ordering::Relaxed);
        }
        fits
    }
}

impl Drop for HandshakeBytes {
    fn drop(&mut self) {
        self.room.shaking.fetch_sub(self.held, Ordering::Relaxed);
    }
}

impl ConnectionPermit {
    /// The bytes of this connection's handshake.
    pub fn handshake(&self) -> HandshakeBytes {
        HandshakeBytes { room: self.room.clone(), held: 0 }
    }

    /// The connection goes back to where it came from; what it counts as there.
    pub fn give_back(mut self) -> Option<u32> {
        self.entry.take().and_then(Entry::pass_on)
    }

    /// Ends once room has been short for as long as a connection may be idle then.
    pub fn shortage(&self) -> impl Future<Output = ()> + Send + 'static {
        let (mut short, room) = (self.room.short.subscribe(), self.room.clone());
        async move {
            if short.wait_for(|short| *short).await.is_err() {
                return std::future::pending().await;
            }
            tokio::time::sleep(IDLE_MAX).await;
            room.ended.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.permit = None;
        self.room.look();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn room_is_short_from_a_quarter_until_a_half_is_free() {
        let room = PortRoom::new(8, 100);
        let mut taken = Vec::new();
        let is_short = || *room.short.borrow();
        for count in 1..=8 {
            taken.push(room.wait().await.expect("a place"));
            assert_eq!((room.taken(), is_short()), (count, count > 6), "{count}");
        }
        for count in (0..8).rev() {
            taken.pop();
            assert_eq!((room.taken(), is_short()), (count, count > 4), "{count}");
        }
    }

    #[tokio::test]
    async fn handshakes_hold_so_much_together_and_no_more() {
        let room = PortRoom::new(8, 100);
        let permits = [room.wait().await.expect("a place"), room.wait().await.expect("a place")];
        let [mut one, mut other] = [permits[0].handshake(), permits[1].handshake()];
        assert!(one.hold(60) && one.hold(50) && other.hold(50) && other.hold(50));
        assert!(!one.hold(51), "one byte too many");
        drop(one);
        assert!(other.hold(100) && other.hold(0));
        drop(other);
        assert_eq!((room.shaking.load(Ordering::Relaxed), room.refused()), (0, 1));
    }
}
