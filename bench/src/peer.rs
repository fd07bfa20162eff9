//! The command line every peer server shares.

use clap::{Parser, ValueEnum};

/// A small WebSocket server to measure Gannet against.
#[derive(Clone, Copy, Debug, Parser)]
pub struct Flags {
    /// Port to listen on, at 127.0.0.1
    #[arg(long)]
    pub port: u16,
    /// What to do with a message
    #[arg(long, value_enum, default_value_t = Mode::Echo)]
    pub mode: Mode,
}

/// What a peer does with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Send it back
    Echo,
    /// Send what the client at /pub sends to every other client
    Fanout,
}

/// The path that makes a client the publisher in fan-out mode.
pub const PUBLISHER: &str = "/pub";
