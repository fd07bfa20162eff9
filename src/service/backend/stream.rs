//! F10 · Subscription streams: what the backend publishes to one client, and what that client publishes to the backend.
//!
//! Owns the line between a session and its stream, with what may wait on it in each direction, and the numbers of both.
//! The line is over when the session lets go of its end. Never knows how a stream is opened, or what its publications
//! say.

use super::grpc::StreamAnswers;
use super::proxy::Counts;
use crate::base::mailbox::Sender;
use crate::broker::ConnKey;
use crate::service::sums;
use crate::session::backend::{ChannelStream, Handed, StreamLine, StreamNews};
use crate::shard::Mail;
use bytes::Bytes;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

/// Bytes that a permit of a stream's window stands for.
const UNIT: usize = 256;

/// What all streams of the node share.
pub struct Streams {
    pub room: Arc<Semaphore>,
    size: usize,
    /// The next stream's number.
    number: AtomicU64,
}

impl Streams {
    pub fn new(size: usize) -> Streams {
        Streams { room: Arc::new(Semaphore::new(size)), size, number: AtomicU64::new(1) }
    }

    /// Streams that are open, or about to be.
    pub fn taken(&self) -> usize {
        self.size - self.room.available_permits()
    }

    /// Both ends of a line on which so many bytes may wait. `counts`: of the proxy that it leads to.
    pub fn line(&self, opening: Opening<'_>, counts: &Arc<Mutex<Counts>>) -> (ChannelStream, LineEnd) {
        let (open, over) = oneshot::channel();
        let (sender, receiver) = mpsc::unbounded_channel();
        let queued = Arc::new(AtomicUsize::new(0));
        let up = Uplink { sender, queued: queued.clone(), bytes_max: opening.queue_bytes };
        let down = ClientPublications { receiver, queued, counts: counts.clone() };
        let is_bidirectional = opening.is_bidirectional;
        let line = Arc::new(Line { up: is_bidirectional.then_some(up), _open: open });
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        (ChannelStream { number, line }, LineEnd { up: is_bidirectional.then_some(down), over })
    }
}

/// How a stream is to be opened.
#[derive(Clone, Copy)]
pub struct Opening<'a> {
    pub streams: &'a Streams,
    pub queue_bytes: usize,
    pub is_bidirectional: bool,
}

/// A session's end.
struct Line {
    /// Absent if the client says nothing.
    up: Option<Uplink>,
    /// Dropped with the line.
    _open: oneshot::Sender<()>,
}

struct Uplink {
    sender: mpsc::UnboundedSender<Bytes>,
    queued: Arc<AtomicUsize>,
    bytes_max: usize,
}

impl StreamLine for Line {
    fn publish(&self, data: Bytes) -> Handed {
        let Some(up) = &self.up else { return Handed::OneWay };
        let waiting = up.queued.load(Ordering::Relaxed);
        if waiting > 0 && waiting + data.len() > up.bytes_max {
            return Handed::Full;
        }
        up.queued.fetch_add(data.len().max(1), Ordering::Relaxed);
        match up.sender.send(data) {
            Ok(()) => Handed::Taken,
            // The stream has ended, and the session is about to hear of it.
            Err(_) => Handed::Full,
        }
    }
}

/// This thread's end.
pub struct LineEnd {
    pub up: Option<ClientPublications>,
    /// Comes to its end with the session's end.
    pub over: oneshot::Receiver<()>,
}

/// What the client publishes.
pub struct ClientPublications {
    receiver: mpsc::UnboundedReceiver<Bytes>,
    queued: Arc<AtomicUsize>,
    counts: Arc<Mutex<Counts>>,
}

impl ClientPublications {
    /// The next one; `None` once the session has let go.
    pub async fn next(&mut self) -> Option<Bytes> {
        let data = self.receiver.recv().await?;
        self.queued.fetch_sub(data.len().max(1), Ordering::Relaxed);
        with(&self.counts, |counts| counts.stream_publications[1] += 1);
        Some(data)
    }
}

fn with<R>(counts: &Mutex<Counts>, change: impl FnOnce(&mut Counts) -> R) -> R {
    change(&mut counts.lock().unwrap_or_else(PoisonError::into_inner))
}

/// An open stream in the numbers of its proxy, and its place among those of the node.
pub struct Counted {
    counts: Arc<Mutex<Counts>>,
    proxy: String,
    _place: OwnedSemaphorePermit,
}

impl Counted {
    pub fn new(counts: &Arc<Mutex<Counts>>, proxy: &str, place: OwnedSemaphorePermit) -> Counted {
        with(counts, |counts| counts.streams += 1);
        Counted { counts: counts.clone(), proxy: proxy.to_owned(), _place: place }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        with(&self.counts, |counts| counts.streams -= 1);
    }
}

/// Why streams end: the subscription did, the backend ended the call well, or otherwise.
pub const ENDS: [&str; 3] = ["subscription", "backend", "error"];

/// An open stream, whose publications go to its session.
pub struct Pump {
    pub answers: StreamAnswers,
    pub over: oneshot::Receiver<()>,
    pub counted: Counted,
    pub queue_bytes: usize,
    pub number: u64,
}

impl Pump {
    /// Until the stream or the subscription ends, whichever is first.
    pub async fn run(mut self, conn: ConnKey, reactor: &Sender<Mail>) {
        let stream = self.number;
        let end = self.carry(conn, reactor).await;
        with(&self.counted.counts, |counts| *counts.streams_ended.entry(ENDS[end]).or_default() += 1);
        if end > 0 {
            reactor.send(Mail::Stream { conn, stream, news: StreamNews::Ended { well: end == 1 } });
        }
    }

    /// Which of [`ENDS`] it came to.
    async fn carry(&mut self, conn: ConnKey, reactor: &Sender<Mail>) -> usize {
        let size = 1 + self.queue_bytes / UNIT;
        let window = Arc::new(Semaphore::new(size));
        loop {
            let next = tokio::select! {
                _ = &mut self.over => return 0,
                next = self.answers.message() => next,
            };
            let publication = match next {
                Ok(Some(answer)) => answer.publication,
                Ok(None) => return 1,
                Err(status) => {
                    self.complain(&status);
                    return 2;
                }
            };
            let Some(publication) = publication else { continue };
            let wanted = (1 + publication.data.len() / UNIT).min(size);
            let held = tokio::select! {
                _ = &mut self.over => return 0,
                held = window.clone().acquire_many_owned(wanted as u32) => held,
            };
            let Ok(held) = held else { return 0 };
            with(&self.counted.counts, |counts| counts.stream_publications[0] += 1);
            let (data, tags) = (publication.data, publication.tags);
            // Its room is free again once the reactor has let go of the letter.
            let news = StreamNews::Publication { data, tags, held: Box::new(held) };
            reactor.send(Mail::Stream { conn, stream: self.number, news });
        }
    }

    fn complain(&self, status: &tonic::Status) {
        let (proxy, code) = (self.counted.proxy.clone(), status.code());
        let message: String = status.message().chars().take(200).collect();
        sums::add(&format!("streams {proxy}"), 1, move |count| {
            let advice = "subscription streams ended with an error: their clients subscribe anew; see to the backend";
            tracing::warn!(proxy, count, ?code, message, "{advice}");
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn so_much_may_wait_for_the_backend_and_no_more() {
        let (streams, counts) = (Streams::new(1), Arc::default());
        let opening = Opening { streams: &streams, queue_bytes: 10, is_bidirectional: true };
        let (line, end) = streams.line(opening, &counts);
        let mut up = end.up.expect("two ways");
        // The first goes whatever its size.
        assert_eq!(line.line.publish(Bytes::from_static(&[0; 20])), Handed::Taken);
        assert_eq!(line.line.publish(Bytes::new()), Handed::Full);
        assert_eq!(up.next().await.expect("data").len(), 20);
        for _ in 0..2 {
            assert_eq!(line.line.publish(Bytes::from_static(&[0; 5])), Handed::Taken);
        }
        assert_eq!(line.line.publish(Bytes::from_static(&[0; 1])), Handed::Full);
        let other = line.clone();
        drop(line);
        let mut over = end.over;
        assert!(over.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Empty));
        drop(other);
        over.await.expect_err("the line is over");
        assert!(up.next().await.is_some() && up.next().await.is_some() && up.next().await.is_none());
        let one_way = Opening { is_bidirectional: false, ..opening };
        let (line, end) = streams.line(one_way, &counts);
        assert_eq!((line.line.publish(Bytes::new()), end.up.is_none()), (Handed::OneWay, true));
        assert_eq!(with(&counts, |counts: &mut Counts| counts.stream_publications), [0, 3]);
    }
}
