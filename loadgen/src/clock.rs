//! Time: the monotonic clock of the host in nanoseconds, and an alarm a poll can wait for.
//!
//! Every process of one host reads the same clock, so a stamp made by one may be judged by another. `epoll` counts
//! in milliseconds; the alarm (a timerfd) wakes a loop to the microsecond, which an open-loop schedule needs.
//! Never knows what the time is for.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime, timerfd_create,
    timerfd_settime,
};

/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000_000_000;
/// Nanoseconds in a millisecond.
pub const MILLISECOND: u64 = 1_000_000;

/// Nanoseconds of the monotonic clock.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec.unsigned_abs() * SECOND + time.tv_nsec.unsigned_abs()
}

/// Wakes a poll at one moment.
#[derive(Debug)]
pub struct Alarm {
    timer: OwnedFd,
    set_for: u64,
}

impl Alarm {
    pub fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        Ok(Self { timer: timerfd_create(TimerfdClockId::Monotonic, flags)?, set_for: 0 })
    }

    /// What to register with the poll.
    pub fn raw_fd(&self) -> RawFd {
        self.timer.as_raw_fd()
    }

    /// Rings once at `at`, a moment of [`now`], in place of what was set before.
    pub fn set(&mut self, at: u64) -> io::Result<()> {
        if self.set_for == at {
            return Ok(());
        }
        self.set_for = at;
        let (seconds, rest) = (at / SECOND, at % SECOND);
        let value = Timespec { tv_sec: seconds.cast_signed(), tv_nsec: rest.cast_signed() };
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        let spec = Itimerspec { it_interval: never, it_value: value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &spec)?;
        Ok(())
    }

    /// After it rang: the next `set` counts again. A new setting also clears the readiness.
    pub fn rang(&mut self) {
        self.set_for = 0;
    }
}
