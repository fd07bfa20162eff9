//! F9 · What the world calls now, for what leaves the process: tokens, cookies, certificates, entries of stores.
//!
//! Owns reading it. Never measures how long anything takes: the clock may be set at any time.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970; 0 for a clock that is before.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// Seconds since 1970.
pub fn unix_s() -> u64 {
    unix_ms() / 1000
}
