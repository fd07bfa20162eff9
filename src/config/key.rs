//! F0 · Public keys of tokens, read once from PEM or from numbers, in the form in which signatures are checked.
//!
//! Owns what makes a key sound: on its curve, and long enough. Never sees a token.

use p256::elliptic_curve::sec1::ToSec1Point;
use p256::pkcs8::SubjectPublicKeyInfoRef;
use pkcs1::der::asn1::UintRef;
use pkcs1::der::{Decode, Document};

/// RFC 7518 section 3.3 wants so many bits; beyond the second number a check takes long.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;
/// Bits of an exponent; it is 65537 nearly always.
const EXPONENT_BITS: usize = 33;

/// Two numbers, big-endian, without zeros in front.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RsaKey {
    pub modulus: Box<[u8]>,
    pub exponent: Box<[u8]>,
}

/// A public key on one of the three curves of JWT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EcdsaKey {
    /// The point, as SEC 1 has it uncompressed.
    P256(Box<[u8]>),
    P384(Box<[u8]>),
    P521(Box<p521::ecdsa::VerifyingKey>),
}

impl RsaKey {
    /// `None` if the numbers make no key, or not one of 2048 to 4096 bits.
    pub fn new(modulus: &[u8], exponent: &[u8]) -> Option<RsaKey> {
        let key = RsaKey { modulus: trimmed(modulus).into(), exponent: trimmed(exponent).into() };
        let is_odd = |number: &[u8]| number.last().is_some_and(|last| last % 2 == 1);
        let odd = is_odd(&key.modulus) && is_odd(&key.exponent);
        let exponent = (2..=EXPONENT_BITS).contains(&bits(&key.exponent));
        (odd && exponent && RSA_BITS.contains(&key.bits())).then_some(key)
    }

    pub(super) fn from_pem(pem: &str) -> Result<RsaKey, String> {
        let (modulus, exponent) =
            rsa_numbers(pem).ok_or("expected an RSA public key in PEM (-----BEGIN PUBLIC KEY-----)")?;
        let key = RsaKey::new(&modulus, &exponent);
        key.ok_or_else(|| match bits(trimmed(&modulus)) {
            bits if RSA_BITS.contains(&bits) => "expected an RSA public key whose numbers are odd".to_owned(),
            bits => format!("expected a key of 2048 to 4096 bits; got {bits}"),
        })
    }

    fn bits(&self) -> usize {
        bits(&self.modulus)
    }
}

impl EcdsaKey {
    /// The key of a point's coordinates; `None` if the point is not on `curve`, or there is no curve of that name.
    pub fn new(curve: &str, x: &[u8], y: &[u8]) -> Option<EcdsaKey> {
        let point = [&[4], x, y].concat();
        match (curve, x.len()) {
            ("P-256", 32) => Some(EcdsaKey::p256(&p256::PublicKey::from_sec1_bytes(&point).ok()?)),
            ("P-384", 48) => Some(EcdsaKey::p384(&p384::PublicKey::from_sec1_bytes(&point).ok()?)),
            ("P-521", 66) => Some(EcdsaKey::P521(p521::ecdsa::VerifyingKey::from_sec1_bytes(&point).ok()?.into())),
            _ => None,
        }
    }

    pub(super) fn from_pem(pem: &str) -> Result<EcdsaKey, String> {
        use p256::pkcs8::DecodePublicKey;
        let key = p256::PublicKey::from_public_key_pem(pem).map(|key| EcdsaKey::p256(&key));
        let key = key.or_else(|_| p384::PublicKey::from_public_key_pem(pem).map(|key| EcdsaKey::p384(&key)));
        let key =
            key.or_else(|_| p521::ecdsa::VerifyingKey::from_public_key_pem(pem).map(|key| EcdsaKey::P521(key.into())));
        key.map_err(|_| "expected a public key on P-256, P-384 or P-521 in PEM (-----BEGIN PUBLIC KEY-----)".into())
    }

    fn p256(key: &p256::PublicKey) -> EcdsaKey {
        EcdsaKey::P256(key.to_sec1_point(false).as_bytes().into())
    }

    fn p384(key: &p384::PublicKey) -> EcdsaKey {
        EcdsaKey::P384(key.to_sec1_point(false).as_bytes().into())
    }
}

/// Modulus and exponent from `BEGIN PUBLIC KEY` or `BEGIN RSA PUBLIC KEY`.
fn rsa_numbers(pem: &str) -> Option<(Vec<u8>, Vec<u8>)> {
    let (label, document) = Document::from_pem(pem).ok()?;
    let info;
    let bytes = match label {
        "PUBLIC KEY" => {
            info = SubjectPublicKeyInfoRef::from_der(document.as_bytes()).ok()?;
            info.algorithm.assert_algorithm_oid(pkcs1::ALGORITHM_OID).ok()?;
            info.subject_public_key.as_bytes()?
        }
        "RSA PUBLIC KEY" => document.as_bytes(),
        _ => return None,
    };
    let key = pkcs1::RsaPublicKey::<UintRef<'_>>::from_der(bytes).ok()?;
    Some((key.modulus.as_bytes().into(), key.public_exponent.as_bytes().into()))
}

fn trimmed(number: &[u8]) -> &[u8] {
    &number[number.iter().take_while(|byte| **byte == 0).count()..]
}

/// Of a number without zeros in front.
fn bits(number: &[u8]) -> usize {
    number.first().map_or(0, |first| 8 * number.len() - first.leading_zeros() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_make_a_key() {
        let modulus = |bytes: usize| [&[0, 0x80], vec![0xff; bytes - 1].as_slice()].concat();
        let bits = |bytes: usize, exponent: &[u8]| RsaKey::new(&modulus(bytes), exponent).map(|key| key.bits());
        assert_eq!([bits(256, &[3]), bits(512, &[0, 1, 0, 1])], [Some(2048), Some(4096)]);
        assert_eq!([bits(255, &[3]), bits(513, &[3])], [None, None], "too short, and too long");
        for exponent in [&[][..], &[0], &[1], &[4], &[3, 0, 0, 0, 1]] {
            assert_eq!(bits(256, exponent), None, "{exponent:?}");
        }
        assert_eq!(bits(256, &[1, 0xff, 0xff, 0xff, 0xff]), Some(2048));
        assert_eq!(RsaKey::new(&[0xfe; 256], &[3]), None, "even");
        assert_eq!(RsaKey::new(&[], &[]), None);
    }
}
