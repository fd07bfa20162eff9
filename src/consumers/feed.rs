//! F10 · What a source is given: a message carried out, when to wait, and when to stop.
//!
//! Owns the verdict on a message, the pauses between tries, and the log's words on a source. Never knows how messages
//! come or are acknowledged.

use super::content::{Consumed, Demand, Form};
use super::counts::ConsumerCounts;
use crate::admission::Admission;
use crate::service::{Carried, Carrier, add_to_sum};
use crate::spans::{self, Span};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch::Receiver;

/// Between two tries: the first pause, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A node that is full is looked at this often.
const FULL_INTERVAL: Duration = Duration::from_millis(100);

/// What is to be done with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is acknowledged: it was carried out, or never will be.
    Done,
    /// Error 100: it is tried again, before what follows it.
    Again,
    /// The node leaves: this one was not carried out, and none after it will be.
    Stopping,
}

/// Pauses that grow, and are never the same for two nodes.
#[derive(Debug, Default)]
pub struct Pauses(Option<Duration>);

impl Pauses {
    pub fn reset(&mut self) {
        self.0 = None;
    }

    pub fn next(&mut self) -> Duration {
        let pause = self.0.map_or(PAUSE_MIN, |last| (last * 2).min(PAUSE_MAX));
        self.0 = Some(pause);
        Self::mixed(pause)
    }

    /// The pause after so many tries, for who does not keep them.
    pub fn after(tries: u64) -> Duration {
        let doubled = tries.saturating_sub(1).min(16) as u32;
        Self::mixed((PAUSE_MIN * (1 << doubled)).min(PAUSE_MAX))
    }

    fn mixed(pause: Duration) -> Duration {
        let part = f64::from(getrandom::u32().unwrap_or(u32::MAX / 2)) / f64::from(u32::MAX);
        pause / 2 + (pause / 2).mul_f64(part)
    }
}

/// What all readers of a consumer have in common.
pub struct Shared {
    pub name: String,
    pub form: Form,
    pub message_max: usize,
    pub carrier: Carrier,
    pub admission: Arc<Admission>,
    /// The node leaves.
    pub leaving: Receiver<bool>,
    pub counts: Arc<ConsumerCounts>,
    /// Readers whose source is away.
    pub lost: Cell<usize>,
    /// That was said.
    pub told: Cell<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    Unknown,
    Reached,
    Lost,
}

/// What one reader of a source is given. Clones are the same reader.
#[derive(Clone)]
pub struct Feed {
    shared: Rc<Shared>,
    reach: Rc<Cell<Reach>>,
    lag: Rc<Cell<u64>>,
}

impl Feed {
    pub fn new(shared: Rc<Shared>) -> Feed {
        shared.counts.readers(1);
        Feed { shared, reach: Rc::new(Cell::new(Reach::Unknown)), lag: Rc::default() }
    }

    /// Bytes of a message: a longer one need not be read at all.
    pub fn message_max(&self) -> usize {
        self.shared.message_max
    }

    pub fn is_stopping(&self) -> bool {
        *self.shared.leaving.borrow()
    }

    /// Comes when the node leaves. For what waits: a commit is not to be broken off.
    pub async fn stopped(&self) {
        // Without a sender the process is at its end.
        let _ = self.shared.leaving.clone().wait_for(|leaving| *leaving).await;
    }

    /// Waits while the node is full; false if it leaves. To be asked before more is read.
    pub async fn room(&self) -> bool {
        while !self.is_stopping() {
            if !self.shared.admission.is_over_memory() {
                return true;
            }
            self.shared.counts.paused();
            self.sleep(FULL_INTERVAL).await;
        }
        false
    }

    /// Waits, but not when the node leaves: then false.
    pub async fn sleep(&self, time: Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(time) => true,
            () = self.stopped() => false,
        }
    }

    /// Carries out a message, once.
    pub async fn carry_out(&self, message: &Consumed<'_>) -> Fate {
        if !self.room().await {
            return Fate::Stopping;
        }
        let span = Span::of_message(&self.shared.name, &message.headers);
        span.carry(self.attempt(message, &span)).await
    }

    async fn attempt(&self, message: &Consumed<'_>, span: &Span) -> Fate {
        let max = self.shared.message_max;
        if message.body.len() > max {
            span.fail("skipped: it is too long");
            return self.skip("long", format!("it is longer than message_size_limit, {max} bytes"));
        }
        let work = match self.shared.form.read(message) {
            Ok(work) => work,
            Err(why) => {
                span.fail("skipped: its form is wrong");
                return self.skip("form", why);
            }
        };
        let carried = match work {
            Demand::Command { method, payload } => self.shared.carrier.command(&method, &payload).await,
            Demand::Publication(publication) => self.shared.carrier.publish(publication).await,
        };
        match carried {
            Carried::Done => {
                self.shared.counts.processed();
                Fate::Done
            }
            Carried::Refused(why) => {
                span.fail("skipped: it was refused");
                self.skip("refused", why)
            }
            Carried::Again => {
                span.fail("error 100: it is tried again");
                self.shared.counts.failed();
                let consumer = self.shared.name.clone();
                add_to_sum(&format!("consumer {consumer} 100"), 1, move |count| {
                    tracing::warn!(consumer, count, "a message ended in error 100 and is tried again");
                });
                Fate::Again
            }
        }
    }

    /// Carries out a message, with pauses that grow, until it is done; false if the node leaves before.
    pub async fn insist(&self, message: &Consumed<'_>) -> bool {
        let mut pauses = Pauses::default();
        loop {
            match self.carry_out(message).await {
                Fate::Done => return true,
                Fate::Stopping => return false,
                Fate::Again if !self.sleep(pauses.next()).await => return false,
                Fate::Again => {}
            }
        }
    }

    /// Acknowledged without being carried out; `kind` is one of few, and `why` never has the content.
    pub fn skip(&self, kind: &str, why: String) -> Fate {
        self.shared.counts.skipped();
        let (consumer, trace_id) = (self.shared.name.clone(), spans::trace_id());
        add_to_sum(&format!("consumer {consumer} {kind}"), 1, move |count| {
            let trace_id = trace_id.as_deref();
            tracing::warn!(consumer, count, trace_id, why, "a message is skipped: who writes such must mend it");
        });
        Fate::Done
    }

    /// The source was read with success. To be said again and again.
    pub fn reached(&self) {
        let before = self.reach.replace(Reach::Reached);
        let shared = &self.shared;
        match before {
            Reach::Reached => return,
            Reach::Lost => shared.lost.set(shared.lost.get() - 1),
            Reach::Unknown => {}
        }
        shared.counts.up(1);
        if shared.counts.all_are_up() {
            let back = if shared.told.replace(false) { "the source is back" } else { "the source is read" };
            tracing::info!(consumer = shared.name, "{back}");
        }
    }

    /// It cannot be read. Said once in the log, until all readers have reached it again.
    pub fn lost(&self, why: &str) {
        let shared = &self.shared;
        shared.counts.failed();
        let before = self.reach.replace(Reach::Lost);
        if before != Reach::Lost {
            shared.lost.set(shared.lost.get() + 1);
        }
        if before == Reach::Reached {
            shared.counts.up(-1);
        }
        if shared.told.replace(true) {
            tracing::debug!(consumer = shared.name, why, "the source cannot be read");
        } else {
            tracing::warn!(consumer = shared.name, why, "the source cannot be read, trying again until it is back");
        }
    }

    /// Is there a connection that has been read from?
    pub fn is_reached(&self) -> bool {
        self.reach.get() == Reach::Reached
    }

    /// Messages that wait in the source for this reader.
    pub fn set_lag(&self, lag: u64) {
        self.shared.counts.lag(self.lag.replace(lag), lag);
    }
}

/// `None` if the node leaves before it comes.
pub async fn before_stop<T>(feed: &Feed, future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        found = future => Some(found),
        () = feed.stopped() => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_limit() {
        let mut pauses = Pauses::default();
        let mut expected = PAUSE_MIN;
        for _ in 0..20 {
            let pause = pauses.next();
            assert!((expected / 2..=expected).contains(&pause), "{pause:?} {expected:?}");
            expected = (expected * 2).min(PAUSE_MAX);
        }
        for (tries, most) in [(0, PAUSE_MIN), (1, PAUSE_MIN), (2, PAUSE_MIN * 2), (u64::MAX, PAUSE_MAX)] {
            assert!((most / 2..=most).contains(&Pauses::after(tries)), "{tries}");
        }
        pauses.reset();
        assert!(pauses.next() <= PAUSE_MIN);
    }
}
