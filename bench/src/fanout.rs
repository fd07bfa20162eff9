//! The fan-out shape: one publisher, many subscribers, one publication or a burst of them in flight.

use std::io;
use std::time::{Duration, Instant};

use crate::centrifugal;
use crate::figures::{Bound, Load, histogram};
use crate::fleet::{Address, Fleet, Opening};
use crate::peer::PUBLISHER;
use crate::server::Profile;
use crate::wire::{Dialect, client_frame};

const CHANNEL: &str = "bench";

/// Open subscribers and their publisher.
pub struct Fanout {
    fleet: Fleet,
    profile: Profile,
    size: usize,
    channel: &'static str,
}

impl Fanout {
    /// Opens `subscribers` and one publisher; a publication carries `size` bytes.
    pub fn open(to: impl Into<Address>, profile: Profile, subscribers: usize, size: usize) -> io::Result<Self> {
        Self::open_in(CHANNEL, to, profile, subscribers, size)
    }

    /// The same in a channel of that name.
    pub fn open_in(
        channel: &'static str,
        to: impl Into<Address>,
        profile: Profile,
        subscribers: usize,
        size: usize,
    ) -> io::Result<Self> {
        let limit = Duration::from_secs(60);
        let dialect = match profile {
            Profile::Raw => Dialect::Raw,
            Profile::Centrifugal => Dialect::Lines,
        };
        let mut fleet = Fleet::new(to, dialect)?;
        fleet.open(subscribers, limit, |_| {
            Ok(match profile {
                Profile::Raw => Opening::bare("/"),
                Profile::Centrifugal => Opening::centrifugal(centrifugal::connect_and_subscribe(None, channel), 2),
            })
        })?;
        fleet.open(1, limit, |_| {
            Ok(match profile {
                Profile::Raw => Opening::bare(PUBLISHER),
                Profile::Centrifugal => Opening::centrifugal(centrifugal::connect(None), 1),
            })
        })?;
        Ok(Self { fleet, profile, size, channel })
    }

    /// Publishes `burst` at a time in one write, each time waits until every subscriber has all of them.
    /// The units of the bound and of the result are deliveries; the latency is that of the last delivery of a burst.
    pub fn run(&mut self, burst: usize, bound: Bound) -> io::Result<Load> {
        let frames = self.burst(burst);
        let publisher = self.fleet.len() - 1;
        let replies = if self.profile == Profile::Raw { 0 } else { burst as u64 };
        let wanted = (publisher * burst) as u64;
        let began = Instant::now();
        let mut load = Load { units: 0, bytes: 0, wall: Duration::ZERO, latency: histogram()? };
        while load.units == 0 || (load.units < bound.units && began.elapsed() < bound.time) {
            let sent = Instant::now();
            self.fleet.client(publisher).send(&frames)?;
            let (mut delivered, mut replied) = (0, 0);
            while delivered < wanted || replied < replies {
                if sent.elapsed() > Duration::from_secs(30) {
                    let state =
                        format!("{delivered} of {wanted} deliveries, {replied} of {replies} replies came in time");
                    return Err(io::Error::other(state));
                }
                self.fleet.turn(Duration::from_millis(100), |_, _, got| {
                    delivered += got.messages;
                    replied += got.replies;
                    load.bytes += got.bytes;
                    Ok(())
                })?;
            }
            if delivered > wanted {
                return Err(io::Error::other(format!("{delivered} deliveries where {wanted} were due")));
            }
            load.latency.saturating_record(sent.elapsed().as_nanos() as u64);
            load.units += delivered;
        }
        load.wall = began.elapsed();
        Ok(load)
    }

    fn burst(&self, count: usize) -> Vec<u8> {
        let mut frames = Vec::new();
        for id in 0..count {
            match self.profile {
                Profile::Raw => client_frame(&mut frames, &vec![b'x'; self.size]),
                Profile::Centrifugal => {
                    client_frame(&mut frames, centrifugal::publish(id + 2, self.channel, self.size).as_bytes());
                }
            }
        }
        frames
    }
}
