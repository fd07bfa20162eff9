//! F10 · A socket of the service thread, with TLS on it or without.
//!
//! Owns the ways in which bytes come and go here, whether the socket was a reactor's before or was accepted by this
//! thread, and the handshakes of the operators' ports: whoever comes there is known, so no worker is needed.

use super::admin::FarEnd;
use super::room::HandshakeBytes;
use crate::reactor::{Detached, ThreadKit};
use crate::tls::Tunnel;
use crate::turn::secured::KitPlace;
use crate::workers::{Handshake, Next};
use bytes::BytesMut;
use rustix::net::Shutdown;
use rustls::ServerConfig;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Bytes read at once.
const READ_SIZE: usize = 8 * 1024;
/// The same with TLS: there must be room for whole records.
const SEALED_READ_SIZE: usize = 64 * 1024;

pub struct Connection {
    stream: TcpStream,
    tunnel: Option<Mutex<Box<Tunnel>>>,
}

impl Connection {
    /// One that a reactor had.
    pub fn of(detached: Detached) -> io::Result<Connection> {
        let Detached { stream, tunnel } = detached;
        Ok(Connection { stream: TcpStream::from_std(stream)?, tunnel: tunnel.map(Mutex::new) })
    }

    /// One that was accepted here, after its handshake if the port has TLS; it must be done in time.
    pub async fn accepted(
        mut stream: TcpStream,
        tls: Option<Arc<ServerConfig>>,
        timeout: Duration,
        bytes: HandshakeBytes,
    ) -> io::Result<Connection> {
        let Some(config) = tls else { return Ok(Connection { stream, tunnel: None }) };
        let tunnel = tokio::time::timeout(timeout, shake(&mut stream, &config, bytes)).await??;
        Ok(Connection { stream, tunnel: Some(Mutex::new(tunnel)) })
    }

    /// Who is at its other end.
    pub fn far_end(&self) -> FarEnd {
        FarEnd { ip: self.stream.peer_addr().ok().map(|address| address.ip()), secure: self.tunnel.is_some() }
    }

    /// To go back to a reactor.
    pub fn detach(self) -> io::Result<Detached> {
        let tunnel = self.tunnel.map(|tunnel| tunnel.into_inner().unwrap_or_else(PoisonError::into_inner));
        Ok(Detached { stream: self.stream.into_std()?, tunnel })
    }

    /// Appends what comes; 0 at the end of the stream.
    pub fn poll_read(&self, turn: &mut Context<'_>, into: &mut BytesMut) -> Poll<io::Result<usize>> {
        loop {
            let has_more = self.tunnel().is_some_and(|tunnel| tunnel.has_more());
            if !has_more {
                ready!(self.stream.poll_read_ready(turn))?;
            }
            match self.try_read(into) {
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                result => return Poll::Ready(result),
            }
        }
    }

    fn try_read(&self, into: &mut BytesMut) -> io::Result<usize> {
        let Some(mut tunnel) = self.tunnel() else {
            into.reserve(READ_SIZE);
            return self.stream.try_read_buf(into);
        };
        let mut room = vec![0; SEALED_READ_SIZE];
        let count = ThreadKit::with_kit(|kit| tunnel.read(kit, &mut room, |room| self.stream.try_read(room)))?;
        into.extend_from_slice(&room[..count]);
        Ok(count)
    }

    pub fn poll_write(&self, turn: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(turn))?;
            let wrote = match self.tunnel() {
                None => self.stream.try_write_vectored(pieces),
                Some(mut tunnel) => {
                    let wrote =
                        ThreadKit::with_kit(|kit| tunnel.write(kit, pieces, |sealed| self.stream.try_write(sealed)));
                    match wrote {
                        // All of it was sealed, and the last of it is still here: the caller comes again.
                        Ok(0) if pieces.iter().any(|piece| !piece.is_empty()) => Err(io::ErrorKind::WouldBlock.into()),
                        wrote => wrote,
                    }
                }
            };
            match wrote {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    /// Says no more.
    pub fn end(&self) -> io::Result<()> {
        if let Some(mut tunnel) = self.tunnel() {
            ThreadKit::with_kit(|kit| tunnel.end(kit, |sealed| self.stream.try_write(sealed)));
        }
        Ok(rustix::net::shutdown(&self.stream, Shutdown::Write)?)
    }

    fn tunnel(&self) -> Option<MutexGuard<'_, Box<Tunnel>>> {
        // One thread has it; the lock is for the compiler.
        self.tunnel.as_ref().map(|tunnel| tunnel.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn shake(
    stream: &mut TcpStream,
    config: &Arc<ServerConfig>,
    mut bytes: HandshakeBytes,
) -> io::Result<Box<Tunnel>> {
    let mut handshake = Box::<Handshake>::default();
    let mut room = vec![0; READ_SIZE];
    loop {
        let count = stream.read(&mut room).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (output, next) = handshake.step(config, &room[..count]);
        stream.write_all(&output).await?;
        handshake = match next {
            Next::More(handshake) if bytes.hold(handshake.held()) => handshake,
            Next::More(_) => return Err(io::Error::other("handshakes hold more than tls.handshake_memory_limit")),
            Next::Done { tunnel, .. } => return Ok(tunnel),
            Next::Answered => return Err(io::ErrorKind::ConnectionAborted.into()),
            Next::Failed(error) => return Err(io::Error::other(error)),
        };
    }
}
