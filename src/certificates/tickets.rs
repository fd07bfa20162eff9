//! F9 · Tickets by which clients resume, sealed with keys that come from a secret and the time.
//!
//! Owns the keys. Nodes with one secret make the same keys without a word between them; each holds for a window, and
//! the windows beside it are read too. Every ticket has a key of its own, so random numbers never meet under one.
//! TLS 1.2 gets none: there a ticket travels in clear with all that opens its connection, and the next, inside.

use crate::config::TlsPort;
use crate::wall_clock::unix_s;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use rustls::server::ProducesTickets;
use std::fmt;
use zeroize::Zeroizing;

/// How long a ticket is good at least; it is so for twice as long at most, but for clocks that differ.
const WINDOW_S: u64 = 6 * 60 * 60;
const NAME: usize = 16;
const SALT: usize = 32;
const TAG: usize = 16;
/// Bytes of a ticket: a secret, a name and a protocol; where clients show certificates there are no tickets.
const TICKET_MAX: usize = 4 * 1024;

/// Where the keys come from.
#[derive(Clone, PartialEq, Eq)]
pub struct TicketSecret(Zeroizing<Vec<u8>>);

impl TicketSecret {
    /// One that nobody else has.
    pub fn random() -> Result<TicketSecret, getrandom::Error> {
        let mut bytes = Zeroizing::new(vec![0; 32]);
        getrandom::fill(&mut bytes)?;
        Ok(TicketSecret(bytes))
    }

    /// `None` if there is no text.
    pub fn of(text: &str) -> Option<TicketSecret> {
        (!text.is_empty()).then(|| TicketSecret(text.as_bytes().to_vec().into()))
    }
}

/// The tickets of one port.
pub struct Tickets {
    secret: Prk,
    /// Where a connection was: a ticket of another port is none.
    scope: &'static [u8],
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

impl Tickets {
    pub fn new(secret: &TicketSecret, port: TlsPort) -> Tickets {
        let secret = Salt::new(HKDF_SHA256, b"gannet tickets").extract(&secret.0);
        Tickets { secret, scope: port.label().as_bytes(), clock: unix_s }
    }

    /// What a window's tickets begin with. It tells nobody which node, or when, without the secret.
    fn name(&self, window: u64) -> Option<[u8; NAME]> {
        derive(&self.secret, &[b"name", &window.to_be_bytes(), self.scope])
    }

    fn key(&self, window: u64, salt: &[u8]) -> Option<LessSafeKey> {
        let key: [u8; 32] = derive(&self.secret, &[b"key", &window.to_be_bytes(), salt, self.scope])?;
        let key = Zeroizing::new(key);
        Some(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key[..]).ok()?))
    }
}

/// Is it what rustls remembers of a TLS 1.3 connection? The name that was asked for comes first, and then the version.
fn is_13(plain: &[u8]) -> bool {
    let version = match plain {
        [0, rest @ ..] => Some(rest),
        [1, len, rest @ ..] => rest.get(usize::from(*len)..),
        _ => None,
    };
    version.is_some_and(|rest| rest.starts_with(&[3, 4]))
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

    /// `None`: the client is told that it has no ticket.
    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        if !is_13(plain) {
            return None;
        }
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
        // A server of before may have given one to TLS 1.2.
        is_13(&plain).then_some(plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATE: &[u8] = b"\0\x03\x04state";

    fn tickets(secret: &str, port: TlsPort, clock: fn() -> u64) -> Tickets {
        let secret = TicketSecret::of(secret).expect("a secret");
        Tickets { clock, ..Tickets::new(&secret, port) }
    }

    #[test]
    fn a_ticket_is_good_at_every_node_with_the_secret_for_its_time() {
        const AT: u64 = 1_000_000 * WINDOW_S;
        let of = |clock: fn() -> u64| tickets("a", TlsPort::Public, clock);
        let ticket = of(|| AT).encrypt(STATE).expect("a ticket");
        assert_ne!(of(|| AT).encrypt(STATE).expect("a ticket"), ticket, "no two are alike");
        for (clock, good) in [
            ((|| AT) as fn() -> u64, true),
            (|| AT + WINDOW_S, true),
            (|| AT + 2 * WINDOW_S - 1, true),
            (|| AT + 2 * WINDOW_S, false),
            (|| AT - 1, true),
            (|| AT - WINDOW_S - 1, false),
        ] {
            assert_eq!(of(clock).decrypt(&ticket).as_deref() == Some(STATE), good, "{}", clock());
        }
        for other in [tickets("b", TlsPort::Public, || AT), tickets("a", TlsPort::Internal, || AT)] {
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

    #[test]
    fn tls_1_2_has_no_tickets() {
        let tickets = tickets("a", TlsPort::Public, unix_s);
        for (state, good) in [
            (&b"\0\x03\x04s"[..], true),
            (b"\x01\x03a.b\x03\x04s", true),
            (b"\0\x03\x03s", false),
            (b"\x01\x03a.b\x03\x03s", false),
            (b"\x01\x09a.b\x03\x04s", false),
            (b"\x01", false),
            (b"", false),
        ] {
            let ticket = tickets.encrypt(state);
            assert_eq!(ticket.and_then(|ticket| tickets.decrypt(&ticket)).as_deref(), good.then_some(state));
        }
    }
}
