//! Black-box tests: the real binary, real sockets, and whatever a peer may do to it.
//!
//! Each test starts a server of its own on a port that the kernel picks, and stops it whatever happens. Nothing waits
//! for a fixed time: all waiting is for something to happen, with a deadline. docs/security.md lists what is tried.

mod api;
mod api_methods;
mod backend;
mod bad_input;
mod certificates;
mod check;
mod client;
mod command_line;
mod commands;
mod deflate;
mod descriptors;
mod drain;
mod file;
mod files;
mod fleet;
mod frames;
mod grpc;
mod handshake;
mod hooks;
mod key_sets;
mod lifetime;
mod limits;
mod namespaces;
mod order;
mod overload;
mod pages;
mod peer;
mod ports;
mod proxy_channels;
mod proxy_connect;
mod proxy_failures;
mod proxy_grpc;
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
mod tls;
mod tls_openssl;
mod tokens;
mod traces;
mod uni;
mod workers;
