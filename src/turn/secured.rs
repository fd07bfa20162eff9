//! F8 · A socket with TLS on it, as a turn uses it.
//!
//! Owns the meeting of a socket with its [`Tunnel`]. Never knows where the buffers and the expanded keys of all
//! connections are kept: a [`KitPlace`] does.

use super::{Socket, Taken};
use crate::tls::{Kit, Tunnel};
use std::io::{self, IoSlice};
use std::marker::PhantomData;

/// Where there is one [`Kit`] for all connections of a thread, or of a simulation.
pub trait KitPlace {
    fn with_kit<T>(work: impl FnOnce(&mut Kit) -> T) -> T;
}

/// A plain connection has none of this.
pub struct Secured<S, K> {
    pub socket: S,
    /// Absent where the other end is this process's own: a call that another thread answers.
    pub tunnel: Option<Tunnel>,
    kit: PhantomData<K>,
}

impl<S, K> Secured<S, K> {
    pub fn new(socket: S, tunnel: Option<Tunnel>) -> Secured<S, K> {
        Secured { socket, tunnel, kit: PhantomData }
    }
}

impl<S: Socket, K: KitPlace> Socket for Box<Secured<S, K>> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let Secured { socket, tunnel, .. } = &mut **self;
        match tunnel {
            Some(tunnel) => K::with_kit(|kit| tunnel.read(kit, room, |room| socket.read(room))),
            None => socket.read(room),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_several(&[IoSlice::new(bytes)])
    }

    fn write_several(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let Secured { socket, tunnel, .. } = &mut **self;
        match tunnel {
            Some(tunnel) => K::with_kit(|kit| tunnel.write(kit, pieces, |sealed| socket.write(sealed))),
            None => socket.write_several(pieces),
        }
    }

    fn end(&mut self) {
        self.close();
        self.socket.end();
    }

    fn taken(&self) -> Option<Taken> {
        let taken = self.socket.taken()?;
        let unsent = self.tunnel.as_ref().map_or(0, Tunnel::unsent);
        Some(Taken { waiting: taken.waiting + unsent, ..taken })
    }

    fn peer(&self) -> String {
        self.socket.peer()
    }

    fn has_more(&self, count: usize, room: usize) -> bool {
        self.tunnel.as_ref().map_or_else(|| self.socket.has_more(count, room), Tunnel::has_more)
    }

    fn held(&self) -> usize {
        self.tunnel.as_ref().map_or(0, Tunnel::held)
    }

    fn is_cut(&self) -> bool {
        self.tunnel.as_ref().is_some_and(Tunnel::is_cut)
    }

    fn close(&mut self) {
        let Secured { socket, tunnel, .. } = &mut **self;
        let Some(tunnel) = tunnel else { return };
        K::with_kit(|kit| {
            tunnel.end(kit, |sealed| socket.write(sealed));
            tunnel.forget(kit);
        });
    }
}
