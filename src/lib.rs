//! # Gannet: an edge connection tier
//!
//! One binary holds a million WebSocket clients on one host, speaks the Centrifugal client protocol to them, and is
//! driven by an application's backend through a server API. This is the map; each file opens with what it owns and what
//! it never knows. A file imports only from lower floors, and a test holds that.
//!
//! **F0, options and containers.** `config` is every option as a value. `base` has what knows no use: `wheel` keeps
//! deadlines inside their owners, `mailbox` brings values to a thread, `meter` says how often something may happen,
//! `metrics` counts and prints.
//!
//! **F1, byte protocols.** `http` reads a request head. `ws` is RFC 6455: upgrade, frames, UTF-8, close codes. `tls` is
//! the record layer between a handshake and the end.
//!
//! **F2, vocabulary.** `protocol` is what clients and server say, in JSON and Protobuf. `auth` turns a token into
//! claims.
//!
//! **F3, channel state.** `broker` orders each channel's publications and knows which reactors listen.
//!
//! **F4 to F7, client logic.** `wire` is what a transport puts around a message. `hub` is one reactor's channels and
//! their fan-out. `session` is one client. `shard` lets them work together.
//!
//! **F8, a turn.** `turn` serves a reactor's connections, fairly and within budgets. It is all of a reactor but its
//! I/O: the simulator runs it as it is.
//!
//! **F9, who may come in.** `admission` is the limits of the whole node, `origin` the pages whose scripts may connect.
//! `heap` is the allocator: how much is in use, and how soon the rest goes back. `certificates` is what ports show in
//! TLS. `wall_clock` is the time of day.
//!
//! **F10, I/O.** `reactor` is the thread with poll, sockets and clock. `service` is the tokio thread for plain HTTP:
//! the server API, health, metrics, and what is asked of the application's backend. `workers` are threads for what
//! would hold a reactor up. `engine` keeps channels for all nodes. `consumers` carries out messages of databases and
//! brokers. `kafka` is the log of publications. `archive` keeps publications on disk or in a database. `spans` tell a
//! collector how long calls took.
//!
//! **F11, assembly.** `host` tells what this host lacks, `server` starts and drains the node. `cli` is the command
//! line; `main` prints and exits.

#![forbid(unsafe_code)]

pub mod base;
pub mod config;

pub mod http;
pub mod tls;
pub mod ws;

pub mod auth;
pub mod protocol;

pub mod broker;

pub mod hub;
pub mod session;
pub mod shard;
pub mod wire;

pub mod turn;

pub mod admission;
pub mod certificates;
pub mod heap;
pub mod kafka;
pub mod origin;
pub mod wall_clock;

pub mod archive;
pub mod consumers;
pub mod engine;
pub mod reactor;
pub mod service;
pub mod spans;
pub mod workers;

pub mod cli;
pub mod host;
pub mod server;
