//! F10 · A TCP socket with TLS on it, as a turn uses it, and as the service thread does.
//!
//! Owns the meeting of a socket with its [`Tunnel`]. A node whose public port has TLS has these in its reactors; one
//! without has plain sockets there, and nothing of this costs it a byte.

use super::Detached;
use super::socket::ReactorSocket;
use crate::tls::{Kit, Records, Tunnel};
use crate::turn::conns::Conn;
use crate::turn::{Socket, Taken};
use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::net::TcpStream;

// One of these for each socket: docs/memory.md has the sum.
const _: () = assert!(size_of::<Conn<Box<Secured>>>() <= 88);
const _: () = assert!(size_of::<Secured>() <= 48);
const _: () = assert!(size_of::<Records>() <= 224);

/// A plain connection has none of this.
pub struct Secured {
    stream: TcpStream,
    /// Absent where the other end is this process's own: a call that another thread answers.
    tunnel: Option<Tunnel>,
}

thread_local! {
    static KIT: RefCell<Kit> = RefCell::new(Kit::new(1));
}

/// This thread has room for so many expanded keys.
pub fn set_key_cache(size: usize) {
    KIT.set(Kit::new(size));
}

/// Works with what this thread has for all of its connections.
pub fn with_kit<T>(work: impl FnOnce(&mut Kit) -> T) -> T {
    KIT.with_borrow_mut(work)
}

impl ReactorSocket for Box<Secured> {
    fn of(detached: Detached) -> Option<Box<Secured>> {
        let Detached { stream, tunnel } = detached;
        Some(Box::new(Secured { stream, tunnel: tunnel.map(|tunnel| *tunnel) }))
    }

    fn detach(self) -> Detached {
        let Secured { stream, tunnel } = *self;
        Detached { stream, tunnel: tunnel.map(Box::new) }
    }

    fn stream(&self) -> &TcpStream {
        &self.stream
    }
}

impl Socket for Box<Secured> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let Secured { stream, tunnel } = &mut **self;
        match tunnel {
            Some(tunnel) => with_kit(|kit| tunnel.read(kit, room, |room| stream.read(room))),
            None => stream.read(room),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_several(&[IoSlice::new(bytes)])
    }

    fn write_several(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let Secured { stream, tunnel } = &mut **self;
        match tunnel {
            Some(tunnel) => with_kit(|kit| tunnel.write(kit, pieces, |sealed| stream.write(sealed))),
            None => stream.write_several(pieces),
        }
    }

    fn end(&mut self) {
        self.close();
        self.stream.end();
    }

    fn taken(&self) -> Option<Taken> {
        let taken = self.stream.taken()?;
        let unsent = self.tunnel.as_ref().map_or(0, Tunnel::unsent);
        Some(Taken { waiting: taken.waiting + unsent, ..taken })
    }

    fn peer(&self) -> String {
        self.stream.peer()
    }

    fn has_more(&self, count: usize, room: usize) -> bool {
        self.tunnel.as_ref().map_or_else(|| self.stream.has_more(count, room), Tunnel::has_more)
    }

    fn held(&self) -> usize {
        self.tunnel.as_ref().map_or(0, Tunnel::held)
    }

    fn is_cut(&self) -> bool {
        self.tunnel.as_ref().is_some_and(Tunnel::is_cut)
    }

    fn close(&mut self) {
        let Secured { stream, tunnel } = &mut **self;
        let Some(tunnel) = tunnel else { return };
        with_kit(|kit| {
            tunnel.end(kit, |sealed| stream.write(sealed));
            tunnel.forget(kit);
        });
    }
}
