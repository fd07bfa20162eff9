//! # Gannet: an edge connection tier
//!
//! One binary holds a million WebSocket clients on one host, speaks the Centrifugal client protocol to them, and is
//! driven by an application's backend through a server API. This is the map; each file opens with what it owns and what
//! it never knows. A file imports only from lower floors, and a test holds that.
//!
//! **F0, containers.** `config` is every option as a value. `wheel` keeps deadlines inside their owners. `mailbox`
//! brings values to a thread. `metrics` counts and prints. `meter` says how often something may happen.
//!
//! **F1, byte protocols.** `http` reads a request head. `ws` is RFC 6455: upgrade, frames, UTF-8, close codes.
//!
//! **F2, vocabulary.** `protocol` is what clients and server say, in JSON and Protobuf. `auth` turns a token into
//! claims.
//!
//! **F3, channel state.** `broker` orders each channel's publications and knows which reactors listen.
//!
//! **F4, client logic.** `session` is one client. `hub` is one reactor's channels and their fan-out. `wire` is what a
//! transport puts around a message. `shard` lets them work together, and is all of a reactor but its I/O: the simulator
//! runs it as it is.
//!
//! **F5, I/O.** `reactor` is the thread with poll, sockets and clock. `service` is the tokio thread for plain HTTP: the
//! server API, health, metrics, and what is asked of the application's backend.
//!
//! **F6, assembly.** `server` starts and drains the node. `cli` is the command line; `main` prints and exits.

#![forbid(unsafe_code)]

pub mod config;
pub mod mailbox;
pub mod meter;
pub mod metrics;
pub mod wheel;

pub mod http;
pub mod ws;

pub mod auth;
pub mod protocol;

pub mod broker;

pub mod hub;
pub mod session;
pub mod shard;
pub mod wire;

pub mod reactor;
pub mod service;

pub mod cli;
pub mod server;
