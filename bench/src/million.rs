//! A million clients on one machine: many server processes on one port, many client processes, one conductor.
//!
//! - `plan` how many processes, and whether they fit here;
//! - `nodes` the server processes; `crowd` the client processes as the conductor sees them;
//! - `clients` the inside of a client process; `frames` what it reads without keeping a buffer for each client;
//! - `status` what a client process says of itself; `kernel` what the kernel keeps for sockets;
//! - `report` the table and the JSON; `growth` the same at several sizes.

pub mod clients;
pub mod crowd;
pub mod frames;
pub mod growth;
pub mod kernel;
pub mod nodes;
pub mod plan;
pub mod report;
pub mod status;

use rustix::time::{ClockId, clock_gettime};

/// The key of the clients' tokens.
const SECRET: &str = "million";

/// The channel all clients are subscribed to.
const CHANNEL: &str = "news";

/// What a client is told when its server leaves.
pub const LEAVING: u16 = 3001;

/// CLOCK_MONOTONIC in nanoseconds: the same for all processes of a machine.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
