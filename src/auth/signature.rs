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
pub(super) struct HmacSecret {
    sha256: Hmac<Sha256>,
    sha384: Hmac<Sha384>,
    sha512: Hmac<Sha512>,
}

impl HmacSecret {
    /// HMAC takes a key of any length, so there is always one.
    pub(super) fn new(secret: &str) -> Option<HmacSecret> {
        let secret = secret.as_bytes();
        Some(HmacSecret {
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

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    fn bytes(text: &str) -> Vec<u8> {
        URL_SAFE_NO_PAD.decode(text).expect("base64")
    }

    fn holds(key: PublicKey, algorithm: &str, signed: &str, signature: &str) {
        let algorithm = Algorithm::parse(algorithm).expect("an algorithm");
        assert!(key.verify(algorithm, signed.as_bytes(), &bytes(signature)), "{algorithm:?}");
        let mut changed = bytes(signature);
        changed[7] ^= 1;
        assert!(!key.verify(algorithm, signed.as_bytes(), &changed));
        assert!(!key.verify(algorithm, format!("{signed}A").as_bytes(), &bytes(signature)));
        assert!(!key.verify(algorithm, signed.as_bytes(), &[]));
    }

    /// RFC 7515 appendix A.2 to A.4 and RFC 8037 appendix A.4: made by others.
    #[test]
    fn examples_of_the_rfcs() {
        let claims = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
        let n = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4Ql\
            L-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUs\
            LA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoud\
            F8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";
        let key = RsaPublicKey::new(rsa::BigUint::from_bytes_be(&bytes(n)), 65537u32.into()).expect("a key");
        let signature = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujG\
            bds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K\
            0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6\
            LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
        holds(PublicKey::Rsa(Box::new(key)), "RS256", &format!("eyJhbGciOiJSUzI1NiJ9.{claims}"), signature);

        let point = |x: &str, y: &str| [vec![4], bytes(x), bytes(y)].concat();
        let key = point("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0");
        let key = EcdsaKey::P256(p256::ecdsa::VerifyingKey::from_sec1_bytes(&key).expect("a key"));
        let signature = "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
        holds(PublicKey::Ecdsa(Box::new(key)), "ES256", &format!("eyJhbGciOiJFUzI1NiJ9.{claims}"), signature);

        let key = point(
            "AekpBQ8ST8a8VcfVOTNl353vSrDCLLJXmPk06wTjxrrjcBpXp5EOnYG_NjFZ6OvLFV1jSfS9tsz4qUxcWceqwQGk",
            "ADSmRA43Z1DSNx_RvcLI87cdL07l6jQyyBXMoxVg_l2Th-x3S1WDhjDly79ajL4Kkd0AZMaZmh9ubmf63e3kyMj2",
        );
        let key = EcdsaKey::P521(p521::PublicKey::from_sec1_bytes(&key).expect("a key"));
        let signature = "AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOYaRI1bKPWROc-mZZqwqT2SI-KGDKB34XO0aw_7XdtAG8GaSwF\
            KdCAPZgoXD2YBJZCPEX3xKpRwcdOO8KpEHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn";
        holds(PublicKey::Ecdsa(Box::new(key)), "ES512", "eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA", signature);

        let key = Ed25519Key::try_from(bytes("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo").as_slice());
        let signature = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
        let signed = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
        holds(PublicKey::Ed25519(Box::new(key.expect("a key"))), "EdDSA", signed, signature);
    }
}
