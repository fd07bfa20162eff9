//! F10 · Kafka: publications that go there, on threads of their own.
//!
//! Owns the log of publications (`log` the way of reactors to it and its numbers, `unwritten` who waits for it,
//! `writer` the thread) and how a cluster is reached (`client`). What needs the library is in builds with the feature
//! `kafka` only; without it there is no log, and a configuration that asks for one is refused. Knows nothing of
//! clients.

#[cfg(feature = "kafka")]
mod client;
pub mod log;
#[cfg(feature = "kafka")]
mod unwritten;
#[cfg(feature = "kafka")]
mod writer;

#[cfg(feature = "kafka")]
pub use client::{Voice, client_config};
