//! F10 · A TCP socket with TLS on it, as a reactor and the service thread have it.
//!
//! Owns the one kit of each thread, and the way of such a socket from one thread to another. A node whose public port
//! has TLS has these in its reactors; one without has plain sockets there, and nothing of this costs it a byte.

use super::Detached;
use super::socket::ReactorSocket;
use crate::tls::{Kit, Records};
use crate::turn::conns::Conn;
use crate::turn::secured::{KitPlace, Secured};
use std::cell::RefCell;
use std::net::TcpStream;

/// One connection of a port that has TLS.
pub type SecuredStream = Box<Secured<TcpStream, ThreadKit>>;

// One of these for each socket: docs/memory.md has the sum.
const _: () = assert!(size_of::<Conn<SecuredStream>>() <= 88);
const _: () = assert!(size_of::<Secured<TcpStream, ThreadKit>>() <= 48);
const _: () = assert!(size_of::<Records>() <= 224);

thread_local! {
    static KIT: RefCell<Kit> = RefCell::new(Kit::new(1));
}

/// This thread has room for so many expanded keys.
pub fn set_key_cache(size: usize) {
    KIT.set(Kit::new(size));
}

/// What this thread has for all of its connections.
pub struct ThreadKit;

impl KitPlace for ThreadKit {
    fn with_kit<T>(work: impl FnOnce(&mut Kit) -> T) -> T {
        KIT.with_borrow_mut(work)
    }
}

impl ReactorSocket for SecuredStream {
    fn of(detached: Detached) -> Option<SecuredStream> {
        let Detached { stream, tunnel } = detached;
        Some(Box::new(Secured::new(stream, tunnel.map(|tunnel| *tunnel))))
    }

    fn detach(self) -> Detached {
        let Secured { socket, tunnel, .. } = *self;
        Detached { stream: socket, tunnel: tunnel.map(Box::new) }
    }

    fn stream(&self) -> &TcpStream {
        &self.socket
    }
}
