//! Black-box tests: the real binary, real sockets, and whatever a peer may do to it.
//!
//! Each test starts a server of its own on a port that the kernel picks, and stops it whatever happens. Nothing waits
//! for a fixed time: all waiting is for something to happen, with a deadline. docs/security.md lists what is tried.

mod admin;
mod api;
mod api_methods;
mod backend;
mod bad_input;
mod certificates;
mod check;
mod client;
mod command_line;
mod commands;
mod compose;
#[cfg(feature = "packaged")]
mod consumers;
#[cfg(feature = "packaged")]
mod consumers_sources;
mod contract;
#[cfg(feature = "databases")]
#[path = "../archive/databases.rs"]
mod databases;
mod deflate;
mod descriptors;
mod drain;
mod durable;
#[cfg(feature = "databases")]
mod durable_sql;
mod engine_garbage;
mod file;
mod files;
mod fleet;
mod fleet_nats;
mod fleet_options;
mod frames;
mod grpc;
mod handshake;
mod hooks;
mod inbox;
#[cfg(feature = "full")]
mod kafka;
#[cfg(feature = "full")]
mod kafka_consumer;
#[cfg(feature = "full")]
mod kafka_log;
mod key_sets;
mod lifetime;
mod limits;
mod namespaces;
mod nats;
mod nats_accounts;
mod order;
mod overload;
mod pages;
mod peer;
mod ports;
#[cfg(feature = "packaged")]
mod postgres;
mod proxy_channels;
mod proxy_connect;
mod proxy_failures;
mod proxy_grpc;
mod proxy_streams;
mod proxy_tls;
mod quiet;
mod recovery;
mod redis;
mod reload;
mod remote;
mod secure;
mod server;
mod signals;
mod slow;
mod steering;
mod stream;
mod streams;
mod supervisor;
mod tcp_line;
mod tls;
mod tls_openssl;
mod tokens;
mod traces;
mod uni;
mod uni_grpc;
mod workers;
