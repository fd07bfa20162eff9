//! The command line every peer server shares.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Parser, ValueEnum};
use rustls::ServerConfig;

use crate::tls;

/// A small WebSocket server to measure Gannet against.
#[derive(Clone, Debug, Parser)]
pub struct Flags {
    /// Port to listen on, at 127.0.0.1
    #[arg(long)]
    pub port: u16,
    /// What to do with a message
    #[arg(long, value_enum, default_value_t = Mode::Echo)]
    pub mode: Mode,
    /// With TLS: the certificate, in PEM
    #[arg(long, requires = "key")]
    pub cert: Option<PathBuf>,
    /// Its key
    #[arg(long, requires = "cert")]
    pub key: Option<PathBuf>,
}

impl Flags {
    /// What it shows in TLS; None = it has none.
    pub fn tls(&self) -> io::Result<Option<Arc<ServerConfig>>> {
        let Some((certificate, key)) = self.cert.as_ref().zip(self.key.as_ref()) else { return Ok(None) };
        tls::server(certificate, key).map(|config| Some(Arc::new(config)))
    }
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
