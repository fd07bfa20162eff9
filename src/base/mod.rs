//! F0 · Containers: deadlines, values to a thread, token buckets, counters. None knows what it is used for.

pub mod hex;
pub mod mailbox;
pub mod meter;
pub mod metrics;
pub mod wheel;
