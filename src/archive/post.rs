//! F10 · What an archive tells the owners of channels, in batches.

use super::ArchiveCounts;
use crate::base::mailbox::Sender;
use crate::broker::archive::{ArchiveAnswer, Archived};
use crate::broker::engine::Away;
use crate::shard::Mail;
use std::sync::Arc;

pub struct ArchivePost {
    reactors: Vec<Sender<Mail>>,
    /// For each reactor.
    ready: Vec<Vec<Mail>>,
    pub counts: Arc<ArchiveCounts>,
}

impl ArchivePost {
    pub fn new(reactors: Vec<Sender<Mail>>, counts: Arc<ArchiveCounts>) -> ArchivePost {
        let ready = reactors.iter().map(|_| Vec::new()).collect();
        ArchivePost { reactors, ready, counts }
    }

    /// To the reactor that asked, with the next [`ArchivePost::flush`].
    pub fn answer(&mut self, reactor: u16, ticket: u64, answer: Result<ArchiveAnswer, Away>) {
        self.counts.answered(&answer);
        if let Some(ready) = self.ready.get_mut(usize::from(reactor)) {
            ready.push(Mail::Archived(Archived { ticket, answer }));
        }
    }

    /// Sends what is ready.
    pub fn flush(&mut self) {
        for (reactor, ready) in self.reactors.iter().zip(&mut self.ready) {
            reactor.send_all(ready);
        }
    }
}
