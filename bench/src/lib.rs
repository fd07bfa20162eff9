//! What the bench programs share: a load generator with its own few lines of WebSocket,
//! servers as child processes, and figures as the kernel counts them.
//!
//! From the bottom up:
//! - `wire` frames out and frames counted in; `centrifugal` the few commands of the client protocol the loader speaks;
//! - `fleet` many client connections in one epoll loop; `echo`, `fanout`, `handshake` the three shapes of load over it;
//! - `lanes` several channels of one server in turn; `calls` the server API by HTTP;
//! - `server` a server under measurement as a child process; `account` its CPU and memory by the kernel's books;
//! - `backing` databases, NATS and Redis on this disk; `publisher` many publications in flight to those that keep them;
//! - `strace` system calls of a running server; `machine` limits and cores; `figures` medians, spreads, tables;
//! - `abuse` attackers beside a control group, and the limits on what they may do to it;
//! - `million` a million clients over many processes on one port, and what grows on the way there;
//! - `soak` users who come and go, and a ledger of what reaches them;
//! - `results` the result files read back; `standings` and `capacity` the tables made of them; `svg` a plot, `plots` those
//!   that are made; `page` tables and plots where they are committed, and whether they are what the results give;
//! - `peer` the command line every peer server shares; `tls` a certificate for them, `records` TLS of the floor.
//!
//! It shares no code with the server, so that a mistake there cannot hide here.

pub mod abuse;
pub mod account;
pub mod backing;
pub mod calls;
pub mod capacity;
pub mod centrifugal;
pub mod echo;
pub mod fanout;
pub mod figures;
pub mod fleet;
pub mod handshake;
pub mod lanes;
pub mod machine;
pub mod million;
pub mod page;
pub mod peer;
pub mod plots;
pub mod publisher;
pub mod records;
pub mod results;
pub mod server;
pub mod soak;
pub mod standings;
pub mod strace;
pub mod svg;
pub mod tls;
pub mod wire;
