//! F11 · Signals: what each asks for, and which of them are one.

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;
use std::io;
use std::time::{Duration, Instant};

/// Signals to leave that come within this time are one: a supervisor sends its own to the process and to its group, and
/// so does a shell to whatever it started.
const ONE: Duration = Duration::from_secs(1);

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// SIGTERM, SIGINT: drain.
    Leave,
    /// The same again: leave now.
    LeaveAtOnce,
    /// SIGHUP: read the configuration again.
    Reload,
    /// SIGUSR1: open the log's file anew.
    Reopen,
    /// Nothing: the name of one that would end the process if nobody listened for it.
    Nothing(&'static str),
}

/// Listens from now on. What comes before the first look is kept.
pub fn listen() -> io::Result<Signals> {
    Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2, SIGQUIT])
}

/// Tells first from second signals to leave.
#[derive(Debug, Default)]
pub struct Reader {
    leaving: Option<Instant>,
}

impl Reader {
    /// What `signal`, which came at `now`, asks for; `None` if it is one with the last.
    pub fn read(&mut self, signal: i32, now: Instant) -> Option<Wish> {
        Some(match (signal, self.leaving) {
            (SIGHUP, _) => Wish::Reload,
            (SIGUSR1, _) => Wish::Reopen,
            (SIGUSR2, _) => Wish::Nothing("SIGUSR2"),
            (SIGQUIT, _) => Wish::Nothing("SIGQUIT"),
            (_, None) => {
                self.leaving = Some(now);
                Wish::Leave
            }
            (_, Some(first)) if now.duration_since(first) < ONE => return None,
            (_, Some(_)) => Wish::LeaveAtOnce,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_to_leave_within_a_second_are_one() {
        let (mut reader, start) = (Reader::default(), Instant::now());
        let mut read = |signal, ms| reader.read(signal, start + Duration::from_millis(ms));
        assert_eq!(read(SIGHUP, 0), Some(Wish::Reload));
        assert_eq!(read(SIGTERM, 0), Some(Wish::Leave));
        assert_eq!([read(SIGTERM, 1), read(SIGINT, 400), read(SIGTERM, 999)], [None; 3]);
        assert_eq!(read(SIGQUIT, 500), Some(Wish::Nothing("SIGQUIT")));
        assert_eq!(read(SIGUSR2, 500), Some(Wish::Nothing("SIGUSR2")));
        assert_eq!(read(SIGUSR1, 500), Some(Wish::Reopen));
        assert_eq!(read(SIGINT, 1000), Some(Wish::LeaveAtOnce));
        assert_eq!(read(SIGTERM, 1001), Some(Wish::LeaveAtOnce));
    }
}
