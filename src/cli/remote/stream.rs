//! F11 · A client's WebSocket to a server, with TLS or without.
//!
//! Owns how it is opened and what a failure to open it means. Knows nothing of what the messages say.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use tungstenite::{Error as SocketError, HandshakeError, WebSocket};

use super::Place;
use crate::service::tls_config;

/// For the connection, and for each answer to what opens it.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// What the bytes go through.
pub enum ClientLine {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

pub type ClientSocket = WebSocket<ClientLine>;

impl Read for ClientLine {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            ClientLine::Plain(stream) => stream.read(into),
            ClientLine::Tls(stream) => stream.read(into),
        }
    }
}

impl Write for ClientLine {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            ClientLine::Plain(stream) => stream.write(bytes),
            ClientLine::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            ClientLine::Plain(stream) => stream.flush(),
            ClientLine::Tls(stream) => stream.flush(),
        }
    }
}

impl ClientLine {
    /// How long a read waits.
    pub fn set_patience(&self, patience: Duration) -> io::Result<()> {
        let stream = match self {
            ClientLine::Plain(stream) => stream,
            ClientLine::Tls(stream) => &stream.sock,
        };
        stream.set_read_timeout(Some(patience))
    }
}

/// The error is a sentence. `ca` is a file with the certificates of an authority.
pub fn open(place: &Place, path: &str, ca: Option<&str>) -> Result<ClientSocket, String> {
    let url = place.url(path);
    let unreachable = |error: io::Error| format!("no server at {}: {error}\n{NO_SERVER}", place.url(""));
    let stream = connect(place).map_err(unreachable)?;
    stream.set_read_timeout(Some(OPEN_TIMEOUT)).map_err(unreachable)?;
    stream.set_write_timeout(Some(OPEN_TIMEOUT)).map_err(unreachable)?;
    let line = match place.is_tls {
        false => ClientLine::Plain(stream),
        true => ClientLine::Tls(Box::new(secured(place, stream, ca)?)),
    };
    let request = url.replacen("http", "ws", 1);
    match tungstenite::client(request.as_str(), line) {
        Ok((socket, _)) => Ok(socket),
        Err(HandshakeError::Failure(SocketError::Http(answer))) => Err(refused(&url, answer.status().as_u16())),
        Err(error) => Err(format!("{url}: {error}")),
    }
}

const NO_SERVER: &str = "Is it running? --url says where; without, the configuration (-c FILE) does.";

fn connect(place: &Place) -> io::Result<TcpStream> {
    let port = if place.is_tls { 443 } else { 80 };
    let has_port = place.authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let stream = match has_port {
        true => TcpStream::connect(&place.authority)?,
        false => TcpStream::connect((place.authority.as_str(), port))?,
    };
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn secured(
    place: &Place,
    stream: TcpStream,
    ca: Option<&str>,
) -> Result<StreamOwned<ClientConnection, TcpStream>, String> {
    let config = Arc::new(tls_config(ca.unwrap_or_default())?);
    let host = place.authority.rsplit_once(':').map_or(place.authority.as_str(), |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(host).map_err(|error| error.to_string())?;
    let connection = ClientConnection::new(config, name).map_err(|error| error.to_string())?;
    Ok(StreamOwned::new(connection, stream))
}

fn refused(url: &str, status: u16) -> String {
    let advice = match status {
        404 => "\nwebsocket.handler_prefix moves it; with a proxy before the server, --url may have a path.",
        403 => "\nA proxy or the server refuses this address.",
        503 => "\nThe server is full, or on its way out: try again.",
        _ => "",
    };
    format!("no WebSocket at {url}: HTTP status {status}{advice}")
}
