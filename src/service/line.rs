//! F10 · A kept connection, request by request, until one comes that is a reactor's.
//!
//! Owns where each request of a connection ends, so that hyper gets whole ones only and the socket can be given back
//! with all that hyper has not read. What cannot be made out is hyper's for good, which answers it. Never knows what a
//! request asks for, only whether its path is a reactor's.

use super::connection::Connection;
use crate::http::{Body, Framing, Head};
use bytes::{Buf, Bytes, BytesMut};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::sync::watch::Receiver;

/// Paths of which the requests are a reactor's now, without a slash at the end.
pub type ReactorPaths = Receiver<Arc<[String]>>;

/// Bytes that one connection may read before all others have their turn: the thread is one, and health and the API are
/// on it. Read to their end, frames of a few bytes each would keep it for as long as they come.
const TURN_BYTES: usize = 16 * 1024;

/// What of the input hyper gets next.
enum Next {
    /// The head of a request, once it is whole.
    Head,
    /// So much of a head.
    Bytes(usize),
    Body(Body),
    /// Whatever comes.
    Everything,
    /// Nothing more: it is for a reactor.
    Nothing,
}

/// What a connection says.
pub struct Requests {
    stream: Arc<Connection>,
    paths: ReactorPaths,
    head_max: usize,
    input: BytesMut,
    next: Next,
    /// The body behind the head.
    body: Option<Body>,
    /// The first request came by a reactor, which wants it no more than this thread.
    begun: bool,
    /// Where the input goes that is a reactor's.
    found: Option<oneshot::Sender<Bytes>>,
    ended: Arc<AtomicBool>,
    /// Bytes read since others had their turn.
    read: usize,
}

/// What a connection is told.
pub struct Answers {
    stream: Arc<Connection>,
    given_back: Arc<AtomicBool>,
}

/// Both sides of `stream`, on which nobody looks for requests.
pub fn whole(stream: Arc<Connection>) -> (Requests, Answers) {
    let no_paths: ReactorPaths = tokio::sync::watch::channel(Arc::default()).1;
    let (mut requests, answers, _) = split(stream, Bytes::new(), no_paths, 0);
    requests.next = Next::Everything;
    (requests, answers)
}

/// Both sides of `stream`, of which `input` was read, and where the input comes that is a reactor's.
pub fn split(
    stream: Arc<Connection>,
    input: Bytes,
    paths: ReactorPaths,
    head_max: usize,
) -> (Requests, Answers, oneshot::Receiver<Bytes>) {
    let (given_back, (found, back)) = (Arc::new(AtomicBool::new(false)), oneshot::channel());
    let requests = Requests {
        stream: stream.clone(),
        paths,
        head_max,
        input: BytesMut::from(input),
        next: Next::Head,
        body: None,
        begun: false,
        found: Some(found),
        ended: given_back.clone(),
        read: 0,
    };
    (requests, Answers { stream, given_back }, back)
}

impl Requests {
    /// How many bytes of the input hyper may have now; `None`: more is needed first.
    fn granted(&mut self) -> Option<usize> {
        loop {
            match &mut self.next {
                Next::Everything => return Some(self.input.len()).filter(|len| *len > 0),
                Next::Bytes(0) => self.next = self.body.take().map_or(Next::Head, Next::Body),
                Next::Bytes(left) => return Some((*left).min(self.input.len())).filter(|len| *len > 0),
                Next::Nothing => return None,
                Next::Body(body) => match body.take(&self.input, &mut Vec::new(), usize::MAX) {
                    // Bytes(used) counts what hyper is still to be given.
                    Ok((used, whole)) => {
                        if used == 0 && !whole {
                            return None;
                        }
                        if !whole {
                            let Next::Body(body) = std::mem::replace(&mut self.next, Next::Bytes(used)) else {
                                continue;
                            };
                            self.body = Some(body);
                        } else {
                            self.next = Next::Bytes(used);
                        }
                    }
                    Err(_) => self.next = Next::Everything,
                },
                Next::Head if self.input.is_empty() => return None,
                Next::Head => match self.look() {
                    Some(next) => self.next = next,
                    None => return None,
                },
            }
        }
    }

    /// At the beginning of a request; `None` while its head is cut.
    fn look(&mut self) -> Option<Next> {
        let head = match Head::parse(&self.input) {
            Ok(Some(head)) => head,
            Ok(None) if self.input.len() < self.head_max => return None,
            Ok(None) | Err(_) => return Some(Next::Everything),
        };
        let Ok(framing) = Framing::of(&head) else { return Some(Next::Everything) };
        let path = crate::reactor::trim(head.path);
        if self.begun && self.paths.borrow().iter().any(|ours| ours == path) {
            return Some(Next::Nothing);
        }
        self.begun = true;
        self.body = framing.has_body().then(|| Body::of(&head, usize::MAX).ok()).flatten();
        Some(Next::Bytes(head.size))
    }

    /// Reads more; false at the end of the stream.
    fn fill(&mut self, turn: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.read >= TURN_BYTES {
            self.read = 0;
            // A task that wakes itself goes before what the sockets of others have to say; one that yields does not.
            let _ = std::pin::pin!(tokio::task::yield_now()).poll(turn);
            return Poll::Pending;
        }
        let read = self.stream.poll_read(turn, &mut self.input);
        match &read {
            Poll::Ready(Ok(count)) => self.read += count,
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.read = 0,
        }
        read.map(|result| result.map(|count| count > 0))
    }
}

impl AsyncRead for Requests {
    fn poll_read(mut self: Pin<&mut Self>, turn: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if let Some(granted) = this.granted() {
                let count = granted.min(into.remaining());
                into.put_slice(&this.input[..count]);
                this.input.advance(count);
                if let Next::Bytes(left) = &mut this.next {
                    *left -= count;
                }
                return Poll::Ready(Ok(()));
            }
            if matches!(this.next, Next::Nothing) {
                this.ended.store(true, Ordering::Relaxed);
                if let Some(found) = this.found.take() {
                    // Who waits for it is gone only with the connection.
                    let _ = found.send(this.input.split().freeze());
                }
                // The connection is told to shut down, which wakes it.
                return Poll::Pending;
            }
            if !ready!(this.fill(turn))? {
                this.next = Next::Everything;
                if this.input.is_empty() {
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl AsyncWrite for Answers {
    fn poll_write(self: Pin<&mut Self>, turn: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream.poll_write(turn, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        turn: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream.poll_write(turn, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.given_back.load(Ordering::Relaxed) {
            self.stream.end()?;
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::Detached;
    use std::io::Write;
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::thread;
    use tokio::io::AsyncReadExt;

    #[test]
    fn one_that_says_much_lets_others_have_their_turn() {
        const ALL: usize = 64 * TURN_BYTES;
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut peer = TcpStream::connect(listener.local_addr().expect("an address")).expect("connect");
        let (stream, _) = listener.accept().expect("a connection");
        stream.set_nonblocking(true).expect("non-blocking");
        let writing = thread::spawn(move || {
            peer.write_all(&vec![b'x'; ALL]).expect("write");
            peer.shutdown(Shutdown::Write).expect("the end");
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (mut since, mut most, mut all) = (0, 0, 0);
        runtime.block_on(async {
            let stream = Connection::of(Detached { stream, tunnel: None }).expect("a connection");
            let (mut requests, _answers) = whole(Arc::new(stream));
            let mut room = vec![0; 4096];
            while all < ALL {
                // Each time that it waits, others are served.
                let mut read = std::pin::pin!(requests.read(&mut room));
                let count = std::future::poll_fn(|turn| {
                    let polled = read.as_mut().poll(turn);
                    since = if polled.is_pending() { 0 } else { since };
                    polled
                });
                let count = count.await.expect("read");
                assert!(count > 0, "the end after {all} bytes");
                (since, all) = (since + count, all + count);
                most = most.max(since);
            }
        });
        writing.join().expect("written");
        assert!(most <= 4 * TURN_BYTES, "{most} bytes in one turn");
    }
}
