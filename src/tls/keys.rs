//! F1 · The keys of one direction of a TLS 1.3 connection, derived from its traffic secret (RFC 8446 section 7).
//!
//! Owns the derivation, the nonces and the cache of keys that are expanded for use. A connection keeps the secret and
//! the short form of its keys; the long form, several times as large, is made when bytes come or go.

use ring::aead::{AES_128_GCM, AES_256_GCM, Algorithm, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, HKDF_SHA384, KeyType, Prk};
use zeroize::{Zeroize, Zeroizing};

/// Bytes of the longest traffic secret.
pub const SECRET_MAX: usize = 48;
const KEY_MAX: usize = 32;
/// Records that AES-GCM may protect by one key are 2^24.5 (section 5.5); the next key comes before.
const GCM_RECORDS_MAX: u64 = 1 << 24;

/// A cipher suite of TLS 1.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    Aes128Gcm,
    Aes256Gcm,
    ChaCha20Poly1305,
}

impl Suite {
    /// By its number in RFC 8446, appendix B.4.
    pub fn of(code: u16) -> Option<Suite> {
        match code {
            0x1301 => Some(Suite::Aes128Gcm),
            0x1302 => Some(Suite::Aes256Gcm),
            0x1303 => Some(Suite::ChaCha20Poly1305),
            _ => None,
        }
    }

    pub fn code(self) -> u16 {
        match self {
            Suite::Aes128Gcm => 0x1301,
            Suite::Aes256Gcm => 0x1302,
            Suite::ChaCha20Poly1305 => 0x1303,
        }
    }

    fn aead(self) -> &'static Algorithm {
        match self {
            Suite::Aes128Gcm => &AES_128_GCM,
            Suite::Aes256Gcm => &AES_256_GCM,
            Suite::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        }
    }

    /// Bytes of a traffic secret: of the suite's hash.
    pub fn secret_len(self) -> usize {
        match self {
            Suite::Aes256Gcm => 48,
            Suite::Aes128Gcm | Suite::ChaCha20Poly1305 => 32,
        }
    }

    fn secret(self, bytes: &[u8]) -> Prk {
        let hash = if self.secret_len() == SECRET_MAX { HKDF_SHA384 } else { HKDF_SHA256 };
        Prk::new_less_safe(hash, bytes)
    }

    /// Records after which the key must be another.
    pub fn records_max(self) -> u64 {
        match self {
            Suite::Aes128Gcm | Suite::Aes256Gcm => GCM_RECORDS_MAX,
            // More than there can be.
            Suite::ChaCha20Poly1305 => u64::MAX,
        }
    }
}

/// One direction. There is one of it: two that seal would use a nonce twice. What it holds is erased with it.
pub struct Flow {
    secret: [u8; SECRET_MAX],
    key: [u8; KEY_MAX],
    iv: [u8; NONCE_LEN],
    /// Records so far by this key.
    pub sequence: u64,
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.secret.zeroize();
        self.key.zeroize();
        self.iv.zeroize();
    }
}

struct Size(usize);

impl KeyType for Size {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF-Expand-Label without a context (section 7.1).
fn expand(from: &Prk, label: &[u8], to: &mut [u8]) -> Option<()> {
    let size = u16::try_from(to.len()).ok()?.to_be_bytes();
    let labels = [b"tls13 ".len() as u8 + label.len() as u8];
    let info = [&size[..], &labels, b"tls13 ", label, &[0]];
    from.expand(&info, Size(to.len())).ok()?.fill(to).ok()
}

impl Flow {
    /// `None` if `secret` has not the length of the suite's hash.
    pub fn new(suite: Suite, secret: &[u8], sequence: u64) -> Option<Flow> {
        if secret.len() != suite.secret_len() {
            return None;
        }
        let mut flow = Flow { secret: [0; SECRET_MAX], key: [0; KEY_MAX], iv: [0; NONCE_LEN], sequence };
        flow.secret[..secret.len()].copy_from_slice(secret);
        let from = suite.secret(secret);
        expand(&from, b"key", &mut flow.key[..suite.aead().key_len()])?;
        expand(&from, b"iv", &mut flow.iv)?;
        Some(flow)
    }

    /// The same direction after a key update (section 7.2).
    pub fn updated(&self, suite: Suite) -> Option<Flow> {
        let mut next = Zeroizing::new([0; SECRET_MAX]);
        let next = next.get_mut(..suite.secret_len())?;
        expand(&suite.secret(self.secret(suite)), b"traffic upd", next)?;
        Flow::new(suite, next, 0)
    }

    pub fn secret(&self, suite: Suite) -> &[u8] {
        &self.secret[..suite.secret_len()]
    }

    /// Are these its key and its initialization vector? Whoever made them says so.
    pub fn has(&self, suite: Suite, key: &[u8], iv: &[u8]) -> bool {
        self.key.get(..suite.aead().key_len()) == Some(key) && self.iv == iv
    }

    /// The nonce of the next record (section 5.3), which is counted.
    pub fn next_nonce(&mut self) -> Option<Nonce> {
        let mut nonce = self.iv;
        let sequence = self.sequence.to_be_bytes();
        nonce.iter_mut().rev().zip(sequence.iter().rev()).for_each(|(byte, number)| *byte ^= number);
        // It never wraps: a nonce that came again would give the key away.
        self.sequence = self.sequence.checked_add(1)?;
        Some(Nonce::assume_unique_for_key(nonce))
    }
}

/// Keys expanded for use, as many as there are places: a connection that speaks again soon finds its own.
pub struct HotKeys {
    places: Vec<Option<Box<HotKey>>>,
}

struct HotKey {
    suite: Suite,
    short: [u8; KEY_MAX],
    /// ring's, which does not erase it: its memory is used again by the next.
    long: LessSafeKey,
}

impl Drop for HotKey {
    fn drop(&mut self) {
        self.short.zeroize();
    }
}

impl HotKeys {
    /// `places`: one at least.
    pub fn new(places: usize) -> HotKeys {
        HotKeys { places: (0..places.max(1)).map(|_| None).collect() }
    }

    /// Keys are random, so their own bytes spread them.
    fn place(&mut self, flow: &Flow) -> &mut Option<Box<HotKey>> {
        let [a, b, c, d, ..] = flow.key;
        let at = u32::from_le_bytes([a, b, c, d]) as usize % self.places.len();
        &mut self.places[at]
    }

    pub fn get(&mut self, suite: Suite, flow: &Flow) -> Option<&LessSafeKey> {
        let place = self.place(flow);
        if !place.as_ref().is_some_and(|hot| hot.short == flow.key && hot.suite == suite) {
            let short = flow.key.get(..suite.aead().key_len())?;
            let long = LessSafeKey::new(UnboundKey::new(suite.aead(), short).ok()?);
            let hot = HotKey { suite, short: flow.key, long };
            match place {
                Some(old) => **old = hot,
                None => *place = Some(Box::new(hot)),
            }
        }
        place.as_ref().map(|hot| &hot.long)
    }

    /// The key is used no more.
    pub fn forget(&mut self, flow: &Flow) {
        let place = self.place(flow);
        if place.as_ref().is_some_and(|hot| hot.short == flow.key) {
            *place = None;
        }
    }

    /// Keys that are held.
    pub fn held(&self) -> usize {
        self.places.iter().flatten().count()
    }
}
