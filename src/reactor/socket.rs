//! F10 · A TCP socket as a turn uses it.

use super::{Detached, acknowledged};
use crate::turn::conns::Conn;
use crate::turn::{Socket, Taken};
use rustix::net::{RecvFlags, SendFlags};
use std::io::{self, IoSlice, Write};
use std::net::{Shutdown, TcpStream};

// One of these for each socket: docs/memory.md has the sum.
const _: () = assert!(size_of::<Conn<TcpStream>>() <= 80);

/// What a reactor's connections have: all of them plain sockets, or all with TLS.
pub trait ReactorSocket: Socket + Sized {
    /// `None` if it has TLS and should not, or the other way round.
    fn of(detached: Detached) -> Option<Self>;
    fn detach(self) -> Detached;
    fn stream(&self) -> &TcpStream;
}

impl ReactorSocket for TcpStream {
    fn of(detached: Detached) -> Option<TcpStream> {
        detached.tunnel.is_none().then_some(detached.stream)
    }

    fn detach(self) -> Detached {
        Detached { stream: self, tunnel: None }
    }

    fn stream(&self) -> &TcpStream {
        self
    }
}

/// Reads and writes do not go through the C library: in a process with threads it makes of each a point where a thread
/// could be cancelled, which costs two atomic operations.
impl Socket for TcpStream {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::net::recv(&*self, room, RecvFlags::empty())?.0)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(&*self, bytes, SendFlags::NOSIGNAL)?)
    }

    fn write_several(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.write_vectored(pieces)
    }

    fn end(&mut self) {
        // A peer that is gone already needs no end.
        let _ = self.shutdown(Shutdown::Write);
    }

    fn taken(&self) -> Option<Taken> {
        acknowledged::taken(self)
    }

    fn peer(&self) -> String {
        self.peer_addr().map(|address| address.to_string()).unwrap_or_default()
    }
}
