//! The handshake shape: connect, upgrade, close, again and again, 64 at a time.

use std::io;
use std::time::{Duration, Instant};

use crate::figures::{Bound, Load, histogram};
use crate::fleet::{Fleet, Opening};
use crate::wire::Dialect;

const AT_ONCE: usize = 64;

/// Opens and closes connections at `/echo` until the bound is met. The client closes first, without a close frame.
pub fn run(port: u16, bound: Bound) -> io::Result<Load> {
    let began = Instant::now();
    let opening = || Opening::bare("/echo");
    let mut fleet = Fleet::new(port, Dialect::Raw)?;
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
