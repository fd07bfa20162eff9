//! F3 · Who listens to a channel: how many subscribers each reactor has.
//!
//! Owns the counts, and the channel's line of events to those reactors. Knows nothing of what is kept of the channel.

use super::{Event, Extras, Target};
use crate::protocol::Publication;
use smallvec::SmallVec;
use std::sync::Arc;

/// What an owner says, and to whom.
pub type Told = Vec<(Target, Event)>;

/// Subscribers by reactor; reactors without any are not listed.
#[derive(Debug, Default)]
pub struct Interest(SmallVec<[(u16, u32); 2]>);

const _: () = assert!(size_of::<Interest>() <= 24);

impl Interest {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Subscribers on all reactors.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|&(_, count)| u64::from(count)).sum()
    }

    pub fn add(&mut self, reactor: u16) {
        match self.0.iter_mut().find(|(at, _)| *at == reactor) {
            Some((_, count)) => *count += 1,
            None => self.0.push((reactor, 1)),
        }
    }

    pub fn remove(&mut self, reactor: u16) {
        self.0.retain(|(at, count)| {
            *count -= u32::from(*at == reactor);
            *count > 0
        });
    }

    /// Sends `event` to each reactor with subscribers.
    pub fn tell(&self, out: &mut Told, event: impl Fn() -> Event) {
        out.extend(self.0.iter().map(|&(reactor, _)| (Target::Reactor(reactor), event())));
    }

    /// A publication to each reactor with subscribers.
    pub fn send(&self, name: &Arc<str>, publication: &Arc<Publication>, extras: Option<&Extras>, out: &mut Told) {
        self.tell(out, || {
            let (channel, publication) = (name.clone(), publication.clone());
            Event::Publication { channel, publication, extras: extras.map(|extras| Box::new(extras.clone())) }
        });
    }
}
