//! Several channels of one server, published to in turn: the same clients, the same minute, another kind of channel.

use std::io;
use std::time::{Duration, Instant};

use crate::account::settled_cpu_ns;
use crate::centrifugal;
use crate::fleet::{Fleet, Opening};
use crate::wire::{Dialect, client_frame};

/// How long a publication may take to reach everybody.
const PATIENCE: Duration = Duration::from_secs(30);

/// A channel and who listens there.
#[derive(Clone, Copy, Debug)]
pub struct Lane {
    pub channel: &'static str,
    pub subscribers: usize,
}

/// What the publications to one lane cost so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    pub deliveries: u64,
    pub cpu_ns: u64,
    pub wall: Duration,
}

impl Cost {
    /// Microseconds of the server's CPU time for a delivery.
    pub fn cpu_us(&self) -> f64 {
        self.cpu_ns as f64 / 1e3 / self.deliveries as f64
    }

    /// CPU time by wall time.
    pub fn busy(&self) -> f64 {
        self.cpu_ns as f64 / self.wall.as_nanos() as f64
    }
}

/// Open subscribers of all lanes, and one publisher that listens to none.
pub struct Lanes {
    fleet: Fleet,
    size: usize,
    commands: usize,
}

impl Lanes {
    /// Opens `clients` and the publisher; a publication carries `size` bytes.
    pub fn open(
        port: u16,
        clients: usize,
        size: usize,
        opening: impl FnMut(usize) -> io::Result<Opening>,
    ) -> io::Result<Self> {
        let mut fleet = Fleet::new(port, Dialect::Lines)?;
        fleet.open(clients, Duration::from_secs(120), opening)?;
        fleet.open(1, PATIENCE, |_| Ok(Opening::centrifugal(centrifugal::connect(None), 1)))?;
        Ok(Self { fleet, size, commands: 1 })
    }

    /// Publishes `count` times, each time waits until every subscriber has it, and adds what the server with this
    /// `pid` used for it to `cost`.
    pub fn publish(&mut self, pid: u32, lane: Lane, count: usize, cost: &mut Cost) -> io::Result<()> {
        let before = settled_cpu_ns(pid)?;
        let began = Instant::now();
        for _ in 0..count {
            self.publish_once(lane)?;
        }
        cost.wall += began.elapsed();
        cost.cpu_ns += settled_cpu_ns(pid)? - before;
        cost.deliveries += (count * lane.subscribers) as u64;
        Ok(())
    }

    fn publish_once(&mut self, lane: Lane) -> io::Result<()> {
        let publisher = self.fleet.len() - 1;
        self.commands += 1;
        let mut frame = Vec::new();
        client_frame(&mut frame, centrifugal::publish(self.commands, lane.channel, self.size).as_bytes());
        self.fleet.client(publisher).send(&frame)?;
        let (mut delivered, mut replied) = (0, 0);
        let end = Instant::now() + PATIENCE;
        while delivered < lane.subscribers as u64 || replied == 0 {
            if Instant::now() > end {
                let state = format!("{}: {delivered} of {} deliveries came in time", lane.channel, lane.subscribers);
                return Err(io::Error::other(state));
            }
            self.fleet.turn(Duration::from_millis(100), |_, _, got| {
                delivered += got.messages;
                replied += got.replies;
                Ok(())
            })?;
        }
        if delivered > lane.subscribers as u64 {
            return Err(io::Error::other(format!("{}: {delivered} deliveries, more than subscribers", lane.channel)));
        }
        Ok(())
    }
}
