//! F10 · Requests of gRPC that anyone may begin, and what all of them may hold until they are whole.
//!
//! Owns the sum, and who is refused when it is too much: as with input that reactors hold, one that holds no less than
//! its share, so that small requests go on. Never knows what a request says.

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use tonic::{Code, Status};

/// What stands before each message of gRPC: whether it is compressed, and its length, for which room is made at once.
const PREFIX: usize = 5;

/// What requests on their way hold together.
#[derive(Default)]
pub struct InputRoom {
    bytes: AtomicUsize,
    requests: AtomicUsize,
    refused: AtomicU64,
}

impl InputRoom {
    /// Bytes that are held.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Requests refused because all held too much.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

/// The body of a request of one message.
pub struct Arriving<B> {
    body: B,
    room: Arc<InputRoom>,
    /// Bytes that all may hold.
    most: usize,
    /// A longer message is refused by whoever reads it, and no room is made for it.
    message_max: usize,
    prefix: [u8; PREFIX],
    came: usize,
    /// What it counts for.
    counted: usize,
}

impl<B> Arriving<B> {
    pub fn new(body: B, room: Arc<InputRoom>, most: usize, message_max: usize) -> Arriving<B> {
        room.requests.fetch_add(1, Ordering::Relaxed);
        Arriving { body, room, most, message_max, prefix: [0; PREFIX], came: 0, counted: 0 }
    }

    /// More of it came. Is it to be refused?
    fn count(&mut self, bytes: &[u8]) -> bool {
        let missing = self.prefix.get_mut(self.came..).unwrap_or_default();
        missing.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        self.came += bytes.len();
        let [_, length @ ..] = self.prefix;
        let announced = match self.came < PREFIX {
            true => 0,
            false => usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX),
        };
        let announced = if announced <= self.message_max { announced } else { 0 };
        let more = self.came.max(announced) - self.counted;
        self.counted += more;
        let all = self.room.bytes.fetch_add(more, Ordering::Relaxed) + more;
        let requests = self.room.requests.load(Ordering::Relaxed);
        let refused = all > self.most && self.counted.saturating_mul(requests) >= all;
        self.room.refused.fetch_add(u64::from(refused), Ordering::Relaxed);
        refused
    }
}

impl<B> Drop for Arriving<B> {
    fn drop(&mut self) {
        self.room.bytes.fetch_sub(self.counted, Ordering::Relaxed);
        self.room.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Arriving<B>
where
    B::Error: Into<tonic::codegen::StdError>,
{
    type Data = Bytes;
    type Error = tonic::codegen::StdError;

    fn poll_frame(mut self: Pin<&mut Self>, turn: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(turn));
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                let refused = frame.data_ref().is_some_and(|data| self.count(data.chunk()));
                let why = "requests that are not whole hold too much: reactor.held_input_size";
                Some(if refused { Err(Status::new(Code::ResourceExhausted, why).into()) } else { Ok(frame) })
            }
            Some(Err(error)) => Some(Err(error.into())),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn begun(room: &Arc<InputRoom>, length: u32) -> (Arriving<()>, bool) {
        let mut request = Arriving::new((), room.clone(), 8 * MIB, 4 * MIB);
        let prefix = [&[0][..], &length.to_be_bytes()].concat();
        // The prefix may come in pieces.
        let refused = request.count(&prefix[..3]) | request.count(&prefix[3..]);
        (request, refused)
    }

    #[test]
    fn those_that_hold_most_are_refused_and_small_ones_go_on() {
        let room = Arc::new(InputRoom::default());
        let large: Vec<_> = (0..3).map(|_| begun(&room, 3 * MIB as u32)).collect();
        assert_eq!(large.iter().map(|(_, refused)| *refused).collect::<Vec<_>>(), [false, false, true]);
        let (mut small, refused) = begun(&room, 100);
        assert!(!refused && !small.count(&[0; 100]) && room.bytes() > 8 * MIB);
        assert_eq!(room.refused(), 1);
        drop((large, small));
        assert_eq!((room.bytes(), room.requests.load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn a_request_counts_for_what_it_announces_or_for_what_came_if_that_is_more() {
        let room = Arc::new(InputRoom::default());
        let (mut request, _) = begun(&room, 1000);
        assert_eq!(room.bytes(), 1000);
        request.count(&[0; 500]);
        assert_eq!(room.bytes(), 1000);
        request.count(&[0; 1000]);
        assert_eq!(room.bytes(), 1505, "more than one message");
        // Whoever reads it refuses it by its length alone.
        let (_beyond, refused) = begun(&room, 5 * MIB as u32);
        assert_eq!((refused, room.bytes()), (false, 1510));
    }
}
