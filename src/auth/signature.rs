//! F2 · Whether a signature fits a key and a message.
//!
//! Owns the algorithms of JWT and which key may serve which: a public key is no secret by its type, so none can be
//! taken for one. Never sees claims.

use crate::config::EcdsaKey;
use ed25519_dalek::VerifyingKey as Ed25519Key;
use hmac::{Hmac, Mac};
use p256::ecdsa::signature::Verifier;
use rsa::{Pkcs1v15Sign, RsaPublicKey};
use sha2::{Digest, Sha256, Sha384, Sha512};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

/// RFC 7518 section 3.1, and RFC 8037. `none` is not among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Hs(Hash),
    Rs(Hash),
    Es(Hash),
    EdDsa,
}

impl Algorithm {
    pub(super) fn parse(name: &str) -> Option<Algorithm> {
        if name == "EdDSA" {
            return Some(Algorithm::EdDsa);
        }
        let (family, bits) = name.split_at_checked(2)?;
        let hash = match bits {
            "256" => Hash::Sha256,
            "384" => Hash::Sha384,
            "512" => Hash::Sha512,
            _ => return None,
        };
        match family {
            "HS" => Some(Algorithm::Hs(hash)),
            "RS" => Some(Algorithm::Rs(hash)),
            "ES" => Some(Algorithm::Es(hash)),
            _ => None,
        }
    }
}

/// A secret, with the part of the work done that is the same for every message.
pub(super) struct Secret {
    sha256: Hmac<Sha256>,
    sha384: Hmac<Sha384>,
    sha512: Hmac<Sha512>,
}

impl Secret {
    /// HMAC takes a key of any length, so there is always one.
    pub(super) fn new(secret: &str) -> Option<Secret> {
        let secret = secret.as_bytes();
        Some(Secret {
            sha256: Hmac::new_from_slice(secret).ok()?,
            sha384: Hmac::new_from_slice(secret).ok()?,
            sha512: Hmac::new_from_slice(secret).ok()?,
        })
    }

    /// In constant time.
    pub(super) fn verify(&self, hash: Hash, message: &[u8], signature: &[u8]) -> bool {
        match hash {
            Hash::Sha256 => self.sha256.clone().chain_update(message).verify_slice(signature).is_ok(),
            Hash::Sha384 => self.sha384.clone().chain_update(message).verify_slice(signature).is_ok(),
            Hash::Sha512 => self.sha512.clone().chain_update(message).verify_slice(signature).is_ok(),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum PublicKey {
    Rsa(Box<RsaPublicKey>),
    Ecdsa(Box<EcdsaKey>),
    Ed25519(Box<Ed25519Key>),
}

impl PublicKey {
    /// A curve has one algorithm, RFC 7518 section 3.4; an RSA key has three.
    pub(super) fn fits(&self, algorithm: Algorithm) -> bool {
        match self {
            PublicKey::Rsa(_) => matches!(algorithm, Algorithm::Rs(_)),
            PublicKey::Ecdsa(key) => match **key {
                EcdsaKey::P256(_) => algorithm == Algorithm::Es(Hash::Sha256),
                EcdsaKey::P384(_) => algorithm == Algorithm::Es(Hash::Sha384),
                EcdsaKey::P521(_) => algorithm == Algorithm::Es(Hash::Sha512),
            },
            PublicKey::Ed25519(_) => algorithm == Algorithm::EdDsa,
        }
    }

    pub(super) fn verify(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        match (self, algorithm) {
            (PublicKey::Rsa(key), Algorithm::Rs(hash)) => verify_rsa(key, hash, message, signature),
            (PublicKey::Ecdsa(key), _) if self.fits(algorithm) => verify_ecdsa(key, message, signature),
            (PublicKey::Ed25519(key), Algorithm::EdDsa) => {
                let signature = ed25519_dalek::Signature::from_slice(signature);
                signature.is_ok_and(|signature| key.verify_strict(message, &signature).is_ok())
            }
            _ => false,
        }
    }
}

fn verify_rsa(key: &RsaPublicKey, hash: Hash, message: &[u8], signature: &[u8]) -> bool {
    let verified = match hash {
        Hash::Sha256 => key.verify(Pkcs1v15Sign::new::<Sha256>(), &Sha256::digest(message), signature),
        Hash::Sha384 => key.verify(Pkcs1v15Sign::new::<Sha384>(), &Sha384::digest(message), signature),
        Hash::Sha512 => key.verify(Pkcs1v15Sign::new::<Sha512>(), &Sha512::digest(message), signature),
    };
    verified.is_ok()
}

/// The two numbers side by side, RFC 7518 section 3.4, of the curve's length.
fn verify_ecdsa(key: &EcdsaKey, message: &[u8], signature: &[u8]) -> bool {
    match key {
        EcdsaKey::P256(key) => {
            p256::ecdsa::Signature::from_slice(signature).is_ok_and(|s| key.verify(message, &s).is_ok())
        }
        EcdsaKey::P384(key) => {
            p384::ecdsa::Signature::from_slice(signature).is_ok_and(|s| key.verify(message, &s).is_ok())
        }
        EcdsaKey::P521(key) => {
            let Ok(key) = p521::ecdsa::VerifyingKey::from_affine(*key.as_affine()) else { return false };
            p521::ecdsa::Signature::from_slice(signature).is_ok_and(|s| key.verify(message, &s).is_ok())
        }
    }
}
