//! F0 · Values to a thread: many senders, one owner, in order.
//!
//! Owns the one lock between threads and the one wake-up for each batch. Knows nothing of what it carries or of how
//! its owner sleeps: waking is a function given at creation. A full mailbox refuses what may be refused
//! ([`Sender::offer`]); what must not be lost ([`Sender::send`]) is bounded by whoever asked for it.

// Under loom each order in which threads can run is tried: tests/loom.
#[cfg(loom)]
use loom::sync::{Arc, Mutex, MutexGuard, atomic};
use std::sync::PoisonError;
#[cfg(not(loom))]
use std::sync::{Arc, Mutex, MutexGuard, atomic};

use atomic::{AtomicBool, AtomicUsize, Ordering};

/// The owner's end.
pub struct Mailbox<T> {
    shared: Arc<Shared<T>>,
}

/// A sender's end; cheap to clone.
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    queue: Mutex<Vec<T>>,
    len: AtomicUsize,
    /// Values that the owner took and has not dealt with.
    kept: AtomicUsize,
    len_max: usize,
    /// Set by the first sender after a drain, so that one batch costs one wake-up.
    woken: AtomicBool,
    /// The owner has seen that it needs what is left for it. Changed under the lock only.
    expected: AtomicBool,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, Vec<T>> {
        // A sender that panicked left the queue whole: a push either happened or did not.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A mailbox that refuses offers beyond `len_max` values; `wake` ends its owner's sleep.
pub fn mailbox<T>(len_max: usize, wake: impl Fn() + Send + Sync + 'static) -> (Sender<T>, Mailbox<T>) {
    let shared = Arc::new(Shared {
        queue: Mutex::new(Vec::new()),
        len: AtomicUsize::new(0),
        kept: AtomicUsize::new(0),
        len_max,
        woken: AtomicBool::new(false),
        expected: AtomicBool::new(false),
        wake: Box::new(wake),
    });
    (Sender { shared: shared.clone() }, Mailbox { shared })
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Sender { shared: self.shared.clone() }
    }
}

impl<T> Sender<T> {
    /// Queues `value` whatever the length.
    pub fn send(&self, value: T) {
        let mut queue = self.shared.lock();
        queue.push(value);
        self.finish(queue);
    }

    /// Queues `value` for an owner that something else will wake, or that said with [`Mailbox::expect`] that it waits.
    pub fn leave(&self, value: T) {
        let mut queue = self.shared.lock();
        queue.push(value);
        if self.shared.expected.swap(false, Ordering::Relaxed) {
            return self.finish(queue);
        }
        self.shared.len.store(queue.len(), Ordering::Relaxed);
    }

    /// Queues all of `values`, in order, under one lock and one wake-up; leaves the vector empty.
    pub fn send_all(&self, values: &mut Vec<T>) {
        if values.is_empty() {
            return;
        }
        let mut queue = self.shared.lock();
        queue.append(values);
        self.finish(queue);
    }

    /// Queues `value`, or gives it back when the mailbox is full.
    pub fn offer(&self, value: T) -> Result<(), T> {
        let mut queue = self.shared.lock();
        if queue.len() + self.shared.kept.load(Ordering::Relaxed) >= self.shared.len_max {
            return Err(value);
        }
        queue.push(value);
        self.finish(queue);
        Ok(())
    }

    /// True while offers would be refused. A hint: another sender may change it at once.
    pub fn is_full(&self) -> bool {
        self.room() == 0
    }

    /// How many offers would be taken. A hint likewise.
    pub fn room(&self) -> usize {
        let (len, kept) = (self.shared.len.load(Ordering::Relaxed), self.shared.kept.load(Ordering::Relaxed));
        self.shared.len_max.saturating_sub(len + kept)
    }

    fn finish(&self, queue: MutexGuard<'_, Vec<T>>) {
        self.shared.len.store(queue.len(), Ordering::Relaxed);
        drop(queue);
        if !self.shared.woken.swap(true, Ordering::AcqRel) {
            (self.shared.wake)();
        }
    }
}

impl<T> Mailbox<T> {
    /// Moves everything that waits into `into` (which must be empty: its room is traded for the queue's).
    pub fn drain(&self, into: &mut Vec<T>) {
        debug_assert!(into.is_empty());
        // Before the swap: a value pushed after it then wakes the owner again.
        if !self.shared.woken.swap(false, Ordering::AcqRel) {
            return;
        }
        let mut queue = self.shared.lock();
        std::mem::swap(&mut *queue, into);
        self.shared.len.store(0, Ordering::Relaxed);
    }

    /// The same, with what was left for it without a wake-up.
    pub fn collect(&self, into: &mut Vec<T>) {
        debug_assert!(into.is_empty());
        let woken = self.shared.woken.swap(false, Ordering::AcqRel);
        if woken || !self.is_empty() {
            let mut queue = self.shared.lock();
            std::mem::swap(&mut *queue, into);
            self.shared.len.store(0, Ordering::Relaxed);
        }
    }

    /// The next value that is left wakes the owner. One that was left before has not: look whether it is there.
    pub fn expect(&self) {
        let _queue = self.shared.lock();
        self.shared.expected.store(true, Ordering::Relaxed);
    }

    /// So many values that were drained wait still: they count towards the length.
    pub fn keep(&self, count: usize) {
        self.shared.kept.store(count, Ordering::Relaxed);
    }

    /// Values that wait to be drained.
    pub fn len(&self) -> usize {
        self.shared.len.load(Ordering::Relaxed)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_order_and_wakes_once_a_batch() {
        let wakes = Arc::new(AtomicUsize::new(0));
        let count = wakes.clone();
        let (sender, mailbox) = mailbox(8, move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        sender.send(1);
        sender.send_all(&mut vec![2, 3]);
        assert_eq!(wakes.load(Ordering::Relaxed), 1);
        let mut got = Vec::new();
        mailbox.drain(&mut got);
        assert_eq!(got, [1, 2, 3]);
        sender.send(4);
        assert_eq!(wakes.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn what_is_left_wakes_only_who_expects_it() {
        let wakes = Arc::new(AtomicUsize::new(0));
        let count = wakes.clone();
        let (sender, mailbox) = mailbox(8, move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        sender.leave(1);
        assert_eq!((wakes.load(Ordering::Relaxed), mailbox.len()), (0, 1));
        mailbox.expect();
        sender.leave(2);
        sender.leave(3);
        assert_eq!(wakes.load(Ordering::Relaxed), 1);
        let mut got = Vec::new();
        mailbox.collect(&mut got);
        assert_eq!(got, [1, 2, 3]);
        sender.leave(4);
        sender.send(5);
        assert_eq!(wakes.load(Ordering::Relaxed), 2);
        got.clear();
        mailbox.collect(&mut got);
        assert_eq!((got, mailbox.is_empty()), (vec![4, 5], true));
    }

    #[test]
    fn refuses_offers_beyond_its_length_but_never_a_send() {
        let (sender, mailbox) = mailbox(2, || {});
        assert!(sender.offer(1).is_ok() && sender.offer(2).is_ok());
        assert!(sender.is_full());
        assert_eq!(sender.offer(3), Err(3));
        sender.send(4);
        assert_eq!(mailbox.len(), 3);
    }

    #[test]
    fn loses_nothing_between_threads() {
        let (wake_tx, wake_rx) = std::sync::mpsc::channel();
        let (sender, mailbox) = mailbox(usize::MAX, move || {
            let _ = wake_tx.send(());
        });
        let threads: Vec<_> = (0..4)
            .map(|t| {
                let sender = sender.clone();
                std::thread::spawn(move || (0..1000).for_each(|i| sender.send((t, i))))
            })
            .collect();
        let (mut seen, mut batch) = ([0; 4], Vec::new());
        while seen.iter().sum::<i32>() < 4000 {
            wake_rx.recv_timeout(std::time::Duration::from_secs(20)).expect("a wake-up for every batch");
            mailbox.drain(&mut batch);
            for (t, i) in batch.drain(..) {
                assert_eq!(seen[t], i, "in order per sender");
                seen[t] += 1;
            }
        }
        threads.into_iter().for_each(|t| t.join().expect("sender"));
    }
}
