//! F10 · The archive: what keeps publications beyond memory and beyond a restart, on a thread of its own.
//!
//! Owns that thread, the way of reactors to it, and how much may wait for it. What an archive owes stands in
//! `broker/archive`; each kind of it is an [`ArchiveStore`]. What a host lacks for one is told by [`faults`]. Knows
//! nothing of clients.

mod counts;
mod embedded;
mod post;
#[cfg(feature = "databases")]
pub mod sql;

pub use counts::ArchiveCounts;
pub use post::ArchivePost;

use crate::base::mailbox::Sender;
use crate::broker::archive::{ArchiveCall, Archived};
use crate::broker::engine::Away;
use crate::config::Config;
use crate::shard::Mail;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;
use tokio::sync::mpsc;

/// How long the last that is called may take to be on disk.
const LAST_WRITES: Duration = Duration::from_secs(10);

/// What is to be done, in order.
#[derive(Debug)]
pub enum ArchiveOrder {
    /// What a reactor called in a turn.
    Calls(u16, Vec<ArchiveCall>),
    /// Nothing more will be called: this life ends cleanly once all is on disk. Then whoever waits is told.
    End(std::sync::mpsc::Sender<()>),
}

/// A kind of archive, ready to serve.
pub trait ArchiveStore: Send {
    /// Carries out what it is told until nothing more comes. Each call that is carried out, or refused, is taken out of
    /// the queue's size by [`ArchiveCounts::leave`].
    fn serve(self: Box<Self>, orders: mpsc::UnboundedReceiver<ArchiveOrder>, post: ArchivePost);
}

/// By which reactors reach the archive; cheap to clone.
#[derive(Clone)]
pub struct ArchiveLink {
    /// `None` if there is no archive.
    sender: Option<mpsc::UnboundedSender<ArchiveOrder>>,
    counts: Arc<ArchiveCounts>,
    reactors: Arc<[Sender<Mail>]>,
    /// Reactors that may still call.
    callers: Arc<AtomicUsize>,
    ended: std::sync::mpsc::Sender<()>,
}

impl ArchiveLink {
    /// Without an archive each call is answered at once.
    pub fn call(&self, reactor: u16, calls: Vec<ArchiveCall>) {
        let refused = match &self.sender {
            None => calls,
            Some(sender) => {
                self.counts.enter(&calls);
                match sender.send(ArchiveOrder::Calls(reactor, calls)) {
                    Ok(()) => return,
                    Err(mpsc::error::SendError(ArchiveOrder::Calls(_, calls))) => {
                        calls.iter().for_each(|call| self.counts.leave(call));
                        calls
                    }
                    Err(_) => return,
                }
            }
        };
        let Some(reactor) = self.reactors.get(usize::from(reactor)) else { return };
        let tickets = refused.iter().filter_map(ArchiveCall::ticket);
        let away = |ticket| Mail::Archived(Archived { ticket, answer: Err(Away) });
        reactor.send_all(&mut tickets.map(away).collect());
    }

    /// Bytes that may still wait.
    pub fn room(&self) -> usize {
        if self.sender.is_some() { self.counts.room() } else { usize::MAX }
    }

    /// A reactor calls no more. After the last one the archive comes to its end.
    pub fn end(&self) {
        if self.callers.fetch_sub(1, Ordering::AcqRel) == 1
            && let Some(sender) = &self.sender
        {
            // Without a thread nobody is told, and who waits gives up.
            let _ = sender.send(ArchiveOrder::End(self.ended.clone()));
        }
    }
}

/// What the rest of the node needs of the archive.
pub struct Archive {
    pub link: ArchiveLink,
    /// Absent without one.
    pub counts: Option<Arc<ArchiveCounts>>,
    pub ending: ArchiveEnding,
}

/// By which a node leaves nothing behind that is not on disk.
pub struct ArchiveEnding(Option<Receiver<()>>);

impl ArchiveEnding {
    /// After `done` owners of channels call no more, and all that they called comes to the disk.
    pub fn after<T>(self, reactors: &[Sender<Mail>], done: T) -> T {
        let Some(ended) = self.0 else { return done };
        reactors.iter().for_each(|reactor| reactor.send(Mail::EndArchive));
        match ended.recv_timeout(LAST_WRITES) {
            Ok(()) => tracing::info!("the archive is complete"),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => tracing::warn!(
                "the archive did not end in {LAST_WRITES:?}: channels with history_durability batched begin another epoch"
            ),
        }
        done
    }
}

impl Archive {
    /// Opens what the configuration asks for and starts the thread. The error is a line for the operator.
    pub fn start(config: &Config, reactors: &[Sender<Mail>]) -> Result<Archive, String> {
        let shared: Arc<[Sender<Mail>]> = reactors.into();
        let counts = Arc::new(ArchiveCounts::new(config.durable.stores.queue_size));
        let callers = Arc::new(AtomicUsize::new(reactors.len()));
        let (ended, ending) = channel();
        let link = |sender| ArchiveLink { sender, counts: counts.clone(), reactors: shared, callers, ended };
        let Some(kind) = config.archive_kind() else {
            return Ok(Archive { link: link(None), counts: None, ending: ArchiveEnding(None) });
        };
        let store = open(kind, config, &counts)?;
        let (sender, orders) = mpsc::unbounded_channel();
        let post = ArchivePost::new(reactors.to_vec(), counts.clone());
        let serve = move || store.serve(orders, post);
        let thread = thread::Builder::new().name("archive".into()).spawn(serve);
        thread.map_err(|error| format!("cannot start a thread: {error}"))?;
        Ok(Archive { link: link(Some(sender)), counts: Some(counts.clone()), ending: ArchiveEnding(Some(ending)) })
    }
}

/// What keeps the archive from its start, as far as that is seen without it.
pub fn faults(config: &Config) -> Vec<String> {
    #[cfg(feature = "databases")]
    return sql::faults(config);
    #[cfg(not(feature = "databases"))]
    {
        let _ = config;
        Vec::new()
    }
}

fn open(kind: &str, config: &Config, counts: &Arc<ArchiveCounts>) -> Result<Box<dyn ArchiveStore>, String> {
    match kind {
        "embedded" => Ok(Box::new(embedded::Embedded::open(&config.durable.stores, counts.clone())?)),
        #[cfg(feature = "databases")]
        other => {
            let options = sql::SqlOptions::of(config).ok_or_else(|| format!("durable.type: {other} is none"))?;
            Ok(Box::new(sql::SqlArchive::open(options, counts.clone(), Box::new(|_| false), true)?))
        }
        #[cfg(not(feature = "databases"))]
        other => Err(format!("durable.type: {other} is not in this build")),
    }
}
