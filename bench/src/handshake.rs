//! The handshake shape: connect, upgrade, close, again and again, 64 at a time; with the connect command if asked.

use std::io;
use std::time::{Duration, Instant};

use crate::centrifugal;
use crate::figures::{Bound, Load, histogram};
use crate::fleet::{Address, Fleet, Opening};
use crate::server::Profile;
use crate::wire::Dialect;

const AT_ONCE: usize = 64;

/// Opens and closes connections until the bound is met: raw at `/echo`, centrifugal with a `connect` that is answered.
/// The client closes first, without a close frame.
pub fn run(to: impl Into<Address>, profile: Profile, bound: Bound) -> io::Result<Load> {
    let began = Instant::now();
    let (dialect, opening): (_, fn() -> Opening) = match profile {
        Profile::Raw => (Dialect::Raw, || Opening::bare("/echo")),
        Profile::Centrifugal => (Dialect::Lines, || Opening::centrifugal(centrifugal::connect(None), 1)),
    };
    let mut fleet = Fleet::new(to, dialect)?;
    let mut load = Load { units: 0, bytes: 0, wall: Duration::ZERO, latency: histogram()? };
    let mut since = vec![began; AT_ONCE];
    fleet.open(AT_ONCE, Duration::from_secs(10), |_| Ok(opening()))?;
    let mut opened: Vec<usize> = (0..AT_ONCE).collect();
    while load.units < bound.units && began.elapsed() < bound.time {
        for index in opened.drain(..) {
            since[index] = Instant::now();
            fleet.replace(index, opening())?;
        }
        fleet.turn(Duration::from_millis(100), |index, client, got| {
            load.bytes += got.bytes;
            if client.is_open() {
                load.units += 1;
                load.latency.saturating_record(since[index].elapsed().as_nanos() as u64);
                opened.push(index);
            }
            Ok(())
        })?;
    }
    load.wall = began.elapsed();
    Ok(load)
}
