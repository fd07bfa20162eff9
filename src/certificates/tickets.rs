//! F9 · Tickets by which clients resume, sealed with keys that come from a secret and the time.
//!
//! Owns the keys. Nodes with one secret make the same keys without a word between them; each holds for a window, and
//! the windows beside it are read too. Every ticket has a key of its own, so random numbers never meet under one.

use crate::config::TlsPort;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::digest;
use ring::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use rustls::server::ProducesTickets;
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

/// How long a ticket is good at least; it is so for twice as long at most, but for clocks that differ.
const WINDOW_S: u64 = 6 * 60 * 60;
const NAME: usize = 16;
const SALT: usize = 32;
const TAG: usize = 16;
/// Bytes of a ticket: a client's certificates may be in it.
const TICKET_MAX: usize = 32 * 1024;

/// Where the keys come from.
#[derive(Clone, PartialEq, Eq)]
pub struct TicketSecret(Vec<u8>);

impl TicketSecret {
    /// One that nobody else has.
    pub fn random() -> Result<TicketSecret, getrandom::Error> {
        let mut bytes = vec![0; 32];
        getrandom::fill(&mut bytes)?;
        Ok(TicketSecret(bytes))
    }

    /// `None` if there is no text.
    pub fn of(text: &str) -> Option<TicketSecret> {
        (!text.is_empty()).then(|| TicketSecret(text.as_bytes().to_vec()))
    }
}

/// The tickets of one port.
pub struct Tickets {
    secret: Prk,
    /// What a connection had to show, and where: a ticket of another is none.
    scope: Vec<u8>,
    clock: fn() -> u64,
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tickets")
    }
}

/// Nothing is longer than a key.
struct Size(usize);

impl KeyType for Size {
    fn len(&self) -> usize {
        self.0
    }
}

fn derive<const N: usize>(secret: &Prk, info: &[&[u8]]) -> Option<[u8; N]> {
    let mut key = [0; N];
    secret.expand(info, Size(N)).ok()?.fill(&mut key).ok()?;
    Some(key)
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl Tickets {
    pub fn new(secret: &TicketSecret, port: TlsPort, client_ca: &[u8]) -> Tickets {
        let secret = Salt::new(HKDF_SHA256, b"gannet tickets").extract(&secret.0);
        let mut scope = port.label().as_bytes().to_vec();
        scope.extend(digest::digest(&digest::SHA256, client_ca).as_ref());
        Tickets { secret, scope, clock: unix_s }
    }

    /// What a window's tickets begin with. It tells nobody which node, or when, without the secret.
    fn name(&self, window: u64) -> Option<[u8; NAME]> {
        derive(&self.secret, &[b"name", &window.to_be_bytes(), &self.scope])
    }

    fn key(&self, window: u64, salt: &[u8]) -> Option<LessSafeKey> {
        let key: [u8; 32] = derive(&self.secret, &[b"key", &window.to_be_bytes(), salt, &self.scope])?;
        Some(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).ok()?))
    }
}

/// Each key seals once.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        WINDOW_S as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let window = (self.clock)() / WINDOW_S;
        let (name, mut salt) = (self.name(window)?, [0; SALT]);
        getrandom::fill(&mut salt).ok()?;
        let mut ticket = Vec::with_capacity(NAME + SALT + plain.len() + TAG);
        ticket.extend(name);
        ticket.extend(salt);
        let sealed_at = ticket.len();
        ticket.extend(plain);
        let key = self.key(window, &salt)?;
        let tag = key.seal_in_place_separate_tag(nonce(), Aad::from(name), ticket.get_mut(sealed_at..)?).ok()?;
        ticket.extend(tag.as_ref());
        (ticket.len() <= TICKET_MAX).then_some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        if ticket.len() > TICKET_MAX {
            return None;
        }
        let (name, rest) = ticket.split_first_chunk::<NAME>()?;
        let (salt, sealed) = rest.split_first_chunk::<SALT>()?;
        let now = (self.clock)() / WINDOW_S;
        // Another node's clock may be ahead.
        let window =
            [now, now.saturating_sub(1), now + 1].into_iter().find(|window| self.name(*window) == Some(*name))?;
        let mut plain = sealed.to_vec();
        let len = self.key(window, salt)?.open_in_place(nonce(), Aad::from(*name), &mut plain).ok()?.len();
        plain.truncate(len);
        Some(plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tickets(secret: &str, port: TlsPort, client_ca: &[u8], clock: fn() -> u64) -> Tickets {
        let secret = TicketSecret::of(secret).expect("a secret");
        Tickets { clock, ..Tickets::new(&secret, port, client_ca) }
    }

    #[test]
    fn a_ticket_is_good_at_every_node_with_the_secret_for_its_time() {
        const AT: u64 = 1_000_000 * WINDOW_S;
        let of = |clock: fn() -> u64| tickets("a", TlsPort::Public, b"", clock);
        let ticket = of(|| AT).encrypt(b"state").expect("a ticket");
        assert_ne!(of(|| AT).encrypt(b"state").expect("a ticket"), ticket, "no two are alike");
        for (clock, good) in [
            ((|| AT) as fn() -> u64, true),
            (|| AT + WINDOW_S, true),
            (|| AT + 2 * WINDOW_S - 1, true),
            (|| AT + 2 * WINDOW_S, false),
            (|| AT - 1, true),
            (|| AT - WINDOW_S - 1, false),
        ] {
            assert_eq!(of(clock).decrypt(&ticket).as_deref() == Some(&b"state"[..]), good, "{}", clock());
        }
        for other in [
            tickets("b", TlsPort::Public, b"", || AT),
            tickets("a", TlsPort::Internal, b"", || AT),
            tickets("a", TlsPort::Public, b"another authority", || AT),
        ] {
            assert_eq!(other.decrypt(&ticket), None);
        }
        for at in 0..ticket.len() {
            let mut broken = ticket.clone();
            broken[at] ^= 1;
            assert_eq!(of(|| AT).decrypt(&broken), None, "byte {at}");
            assert_eq!(of(|| AT).decrypt(&ticket[..at]), None, "cut at {at}");
        }
        assert_eq!(of(|| AT).decrypt(&vec![0; TICKET_MAX + 1]), None);
    }
}
