//! F11 · Leaving: health first, then the ports, then the clients, and never later than the deadline.

use super::{Happened, ServeError, failed};
use crate::admission::Admission;
use crate::base::mailbox::Sender;
use crate::config;
use crate::server::signals::Wish;
use crate::shard::Mail;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// How long clients that are told at once may take to go.
const AT_ONCE: Duration = Duration::from_secs(3);

/// How the node came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// All clients were told to go in their time, or `shutdown.deadline` came.
    InTime,
    /// A second signal told all that were left to go at once.
    AtOnce,
}

/// From the first signal to the end: health says 503, the ports close after `shutdown.delay`, clients are told over
/// `shutdown.spread`, and it is over when all are gone or at `shutdown.deadline`. A second signal tells all clients
/// now, and waits for them a little.
pub fn leave(
    shutdown: &config::Shutdown,
    admission: &Admission,
    reactors: &[Sender<Mail>],
    happening: &Receiver<Happened>,
) -> Result<Left, ServeError> {
    admission.set_leaving();
    tracing::info!(
        clients = admission.clients(),
        delay = ?shutdown.delay,
        spread = ?shutdown.spread,
        deadline = ?shutdown.deadline,
        "draining; another signal a second from now or later tells all clients to go at once"
    );
    let drain = |at_once| {
        admission.set_draining();
        reactors.iter().for_each(|reactor| reactor.send(Mail::Drain { at_once }));
    };
    let (began, mut left) = (Instant::now(), Left::InTime);
    let (mut told, mut until) = (false, shutdown.delay.min(shutdown.deadline));
    let mut drained = 0;
    while drained < reactors.len() {
        match happening.recv_timeout(until.saturating_sub(began.elapsed())) {
            Ok(Happened::Wish(Wish::LeaveAtOnce)) if left == Left::InTime => {
                tracing::warn!(clients = admission.clients(), "second signal: all clients are told to go at once");
                drain(true);
                (told, left, until) = (true, Left::AtOnce, began.elapsed() + AT_ONCE);
            }
            Ok(Happened::Wish(wish)) => tracing::info!(?wish, "a signal is ignored: the node is leaving"),
            Ok(Happened::Drained) => drained += 1,
            Ok(Happened::Failed(me, error)) => return Err(failed(me, &error)),
            Err(RecvTimeoutError::Timeout) if !told => {
                drain(false);
                (told, until) = (true, shutdown.deadline);
            }
            Err(RecvTimeoutError::Timeout) if left == Left::AtOnce => {
                tracing::warn!(clients = admission.clients(), "exit with clients left, who were told to go");
                return Ok(left);
            }
            Err(RecvTimeoutError::Timeout) => {
                tracing::warn!(clients = admission.clients(), "shutdown.deadline reached: exit with clients left");
                return Ok(left);
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    tracing::info!(took = ?Duration::from_millis(began.elapsed().as_millis() as u64), "drained");
    Ok(left)
}
