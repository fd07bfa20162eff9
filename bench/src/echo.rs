//! The echo shape: every client has one message in flight.

use std::io;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::figures::{Bound, Load, histogram};
use crate::fleet::{Address, Fleet, Opening};
use crate::wire::{Dialect, client_frame};

/// Open clients that wait for a run.
pub struct Echo {
    fleet: Fleet,
    frame: Vec<u8>,
}

impl Echo {
    /// Opens `clients` connections at `/echo`; messages will have `size` bytes.
    pub fn open(to: impl Into<Address>, clients: usize, size: usize) -> io::Result<Self> {
        Self::open_at(to, "/echo", clients, size)
    }

    /// The same at another path.
    pub fn open_at(to: impl Into<Address>, path: &str, clients: usize, size: usize) -> io::Result<Self> {
        let mut fleet = Fleet::new(to, Dialect::Raw)?;
        fleet.open(clients, Duration::from_secs(60), |_| Ok(Opening::bare(path.to_owned())))?;
        let mut frame = Vec::new();
        client_frame(&mut frame, &vec![b'x'; size]);
        Ok(Self { fleet, frame })
    }

    /// Sends until the bound is met, waits for the last answer, and tells how long answers took.
    pub fn run(&mut self, bound: Bound) -> io::Result<Load> {
        let began = Instant::now();
        let mut latency: Histogram<u64> = histogram()?;
        let mut sent_at = vec![began; self.fleet.len()];
        let (mut sent, mut received, mut bytes) = (0, 0, 0);
        for (index, at) in sent_at.iter_mut().enumerate() {
            if sent < bound.units {
                *at = Instant::now();
                self.fleet.client(index).send(&self.frame)?;
                sent += 1;
            }
        }
        while received < sent {
            if began.elapsed() > bound.time + Duration::from_secs(30) {
                return Err(io::Error::other(format!("{received} of {sent} echoes came back in time")));
            }
            let frame = &self.frame;
            self.fleet.turn(Duration::from_millis(100), |index, client, got| {
                bytes += got.bytes;
                if got.messages == 0 {
                    return Ok(());
                }
                if got.messages > 1 {
                    return Err(io::Error::other("more answers than messages"));
                }
                let now = Instant::now();
                received += 1;
                latency.saturating_record((now - sent_at[index]).as_nanos() as u64);
                if sent < bound.units && now - began < bound.time {
                    sent_at[index] = now;
                    sent += 1;
                    client.send(frame)?;
                }
                Ok(())
            })?;
        }
        Ok(Load { units: received, bytes, wall: began.elapsed(), latency })
    }
}
