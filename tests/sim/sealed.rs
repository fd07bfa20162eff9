//! TLS on a link: the record layer of the reactors at both ends, with secrets of the link's seed. The handshake is not
//! simulated; what it would have agreed on is there.

use crate::rng::Rng;
use gannet::tls::{HEAD, Kit, Layer, Records, Suite, Tunnel, body_len};
use gannet::turn::secured::KitPlace;
use std::cell::RefCell;
use std::io::{self, ErrorKind, IoSlice};

/// Room for what one record says, and the head of the next.
const ROOM: usize = 20_000;
/// Expanded keys that a reactor keeps: few, so that they are made again.
const KEYS: usize = 3;

thread_local! {
    static SERVER: RefCell<Kit> = RefCell::new(Kit::new(KEYS));
    static CLIENTS: RefCell<Kit> = RefCell::new(Kit::new(KEYS));
}

/// That of all reactors of a simulation.
pub struct ServerKit;

impl KitPlace for ServerKit {
    fn with_kit<T>(work: impl FnOnce(&mut Kit) -> T) -> T {
        SERVER.with_borrow_mut(work)
    }
}

/// The client's end of a link.
pub struct ClientEnd {
    tunnel: Tunnel,
    /// Heard, and not read by the client.
    heard: Vec<u8>,
    /// Of the server's stream: not a record yet.
    cut: Vec<u8>,
}

/// The server's end and the client's.
pub fn ends(seed: u64) -> (Tunnel, ClientEnd) {
    let mut rng = Rng::new(seed);
    let suite = *rng.pick(&[Suite::Aes128Gcm, Suite::Aes256Gcm, Suite::ChaCha20Poly1305]);
    let mut secret = || (0..suite.secret_len()).map(|_| rng.next() as u8).collect::<Vec<u8>>();
    let (ours, theirs) = (secret(), secret());
    let tunnel = |read: &[u8], write: &[u8]| {
        let records = Records::new(suite, (read, 0), (write, 0)).expect("secrets of their length");
        Tunnel::new(Layer::Compact(Box::new(records)), Vec::new())
    };
    let client = ClientEnd { tunnel: tunnel(&ours, &theirs), heard: Vec::new(), cut: Vec::new() };
    (tunnel(&theirs, &ours), client)
}

impl ClientEnd {
    pub fn seal(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut sealed = Vec::new();
        let mut take = |record: &[u8]| -> io::Result<usize> {
            sealed.extend_from_slice(record);
            Ok(record.len())
        };
        let taken = CLIENTS.with_borrow_mut(|kit| self.tunnel.write(kit, &[IoSlice::new(bytes)], &mut take));
        assert_eq!(taken.expect("a tunnel that is open"), bytes.len());
        sealed
    }

    /// The record by which it says that it says no more.
    pub fn last_word(&mut self) -> Vec<u8> {
        let mut sealed = Vec::new();
        CLIENTS.with_borrow_mut(|kit| {
            self.tunnel.end(kit, |record| {
                sealed.extend_from_slice(record);
                Ok(record.len())
            });
        });
        sealed
    }

    /// Is the next record needed for a client that reads up to `max` bytes?
    pub fn wants(&self, max: usize) -> bool {
        self.heard.len() < max
    }

    /// Takes bytes of the server's stream.
    pub fn take(&mut self, bytes: &[u8]) {
        self.cut.extend_from_slice(bytes);
        while let Some(len) = body_len(&self.cut).expect("records").map(|len| HEAD + len)
            && len <= self.cut.len()
        {
            let record: Vec<u8> = self.cut.drain(..len).collect();
            self.open(&record);
        }
    }

    fn open(&mut self, record: &[u8]) {
        let mut room = vec![0; ROOM];
        let read = CLIENTS.with_borrow_mut(|kit| {
            self.tunnel.read(kit, &mut room, |room| {
                room[..record.len()].copy_from_slice(record);
                Ok(record.len())
            })
        });
        match read {
            Ok(count) => self.heard.extend_from_slice(&room[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("a record that the client cannot open: {error}"),
        }
    }

    /// Up to `max` bytes of what was heard.
    pub fn read(&mut self, max: usize) -> Vec<u8> {
        let count = self.heard.len().min(max);
        self.heard.drain(..count).collect()
    }

    /// Is there nothing that the client has not read?
    pub fn is_drained(&self) -> bool {
        self.heard.is_empty()
    }

    /// Did the server say that it says no more?
    pub fn heard_last_word(&self) -> bool {
        !self.tunnel.is_cut()
    }
}
