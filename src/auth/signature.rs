//! F2 · Whether a signature fits a key and a message.
//!
//! Owns the algorithms of JWT and which key may serve which: a public key is no secret by its type, so none can be
//! taken for one. Never sees claims.

use crate::config::{EcdsaKey, RsaKey};
use p521::ecdsa::signature::Verifier;
use ring::hmac;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

/// RFC 7518 section 3.1, RFC 8037 and RFC 9864. `none` is not among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Hs(Hash),
    Rs(Hash),
    Es(Hash),
    EdDsa,
}

impl Algorithm {
    pub(super) fn parse(name: &str) -> Option<Algorithm> {
        // RFC 9864 names the curve.
        if matches!(name, "EdDSA" | "Ed25519") {
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

    pub(super) fn is_hmac(self) -> bool {
        matches!(self, Algorithm::Hs(_))
    }
}

/// A secret, with the part of the work done that is the same for every message.
pub(super) struct HmacSecret {
    sha256: hmac::Key,
    sha384: hmac::Key,
    sha512: hmac::Key,
}

impl HmacSecret {
    pub(super) fn new(secret: &str) -> HmacSecret {
        let key = |algorithm| hmac::Key::new(algorithm, secret.as_bytes());
        HmacSecret { sha256: key(hmac::HMAC_SHA256), sha384: key(hmac::HMAC_SHA384), sha512: key(hmac::HMAC_SHA512) }
    }

    fn key(&self, hash: Hash) -> &hmac::Key {
        match hash {
            Hash::Sha256 => &self.sha256,
            Hash::Sha384 => &self.sha384,
            Hash::Sha512 => &self.sha512,
        }
    }

    /// In constant time.
    pub(super) fn verify(&self, hash: Hash, message: &[u8], signature: &[u8]) -> bool {
        hmac::verify(self.key(hash), message, signature).is_ok()
    }

    pub(super) fn sign(&self, hash: Hash, message: &[u8]) -> hmac::Tag {
        hmac::sign(self.key(hash), message)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum PublicKey {
    Rsa(Box<RsaKey>),
    Ecdsa(EcdsaKey),
    Ed25519([u8; 32]),
}

impl PublicKey {
    /// A curve has one algorithm, RFC 7518 section 3.4; an RSA key has three.
    pub(super) fn fits(&self, algorithm: Algorithm) -> bool {
        match self {
            PublicKey::Rsa(_) => matches!(algorithm, Algorithm::Rs(_)),
            PublicKey::Ecdsa(EcdsaKey::P256(_)) => algorithm == Algorithm::Es(Hash::Sha256),
            PublicKey::Ecdsa(EcdsaKey::P384(_)) => algorithm == Algorithm::Es(Hash::Sha384),
            PublicKey::Ecdsa(EcdsaKey::P521(_)) => algorithm == Algorithm::Es(Hash::Sha512),
            PublicKey::Ed25519(_) => algorithm == Algorithm::EdDsa,
        }
    }

    pub(super) fn verify(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        match (self, algorithm) {
            (PublicKey::Rsa(key), Algorithm::Rs(hash)) => verify_rsa(key, hash, message, signature),
            (PublicKey::Ecdsa(key), _) if self.fits(algorithm) => verify_ecdsa(key, message, signature),
            (PublicKey::Ed25519(key), Algorithm::EdDsa) => {
                UnparsedPublicKey::new(&signature::ED25519, key).verify(message, signature).is_ok()
            }
            _ => false,
        }
    }
}

fn verify_rsa(key: &RsaKey, hash: Hash, message: &[u8], signature: &[u8]) -> bool {
    let parameters = match hash {
        Hash::Sha256 => &signature::RSA_PKCS1_2048_8192_SHA256,
        Hash::Sha384 => &signature::RSA_PKCS1_2048_8192_SHA384,
        Hash::Sha512 => &signature::RSA_PKCS1_2048_8192_SHA512,
    };
    RsaPublicKeyComponents { n: &key.modulus, e: &key.exponent }.verify(parameters, message, signature).is_ok()
}

/// The two numbers side by side, RFC 7518 section 3.4, of the curve's length.
fn verify_ecdsa(key: &EcdsaKey, message: &[u8], signature: &[u8]) -> bool {
    let by = |algorithm, point| UnparsedPublicKey::new(algorithm, point).verify(message, signature).is_ok();
    match key {
        EcdsaKey::P256(point) => by(&signature::ECDSA_P256_SHA256_FIXED, point),
        EcdsaKey::P384(point) => by(&signature::ECDSA_P384_SHA384_FIXED, point),
        EcdsaKey::P521(key) => {
            p521::ecdsa::Signature::from_slice(signature).is_ok_and(|numbers| key.verify(message, &numbers).is_ok())
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
        let key = RsaKey::new(&bytes(n), &[1, 0, 1]).expect("a key");
        let signature = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujG\
            bds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K\
            0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6\
            LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
        holds(PublicKey::Rsa(Box::new(key)), "RS256", &format!("eyJhbGciOiJSUzI1NiJ9.{claims}"), signature);

        let key = |curve, x, y| PublicKey::Ecdsa(EcdsaKey::new(curve, &bytes(x), &bytes(y)).expect("a key"));
        let (x, y) = ("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0");
        let signature = "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
        holds(key("P-256", x, y), "ES256", &format!("eyJhbGciOiJFUzI1NiJ9.{claims}"), signature);

        let (x, y) = (
            "AekpBQ8ST8a8VcfVOTNl353vSrDCLLJXmPk06wTjxrrjcBpXp5EOnYG_NjFZ6OvLFV1jSfS9tsz4qUxcWceqwQGk",
            "ADSmRA43Z1DSNx_RvcLI87cdL07l6jQyyBXMoxVg_l2Th-x3S1WDhjDly79ajL4Kkd0AZMaZmh9ubmf63e3kyMj2",
        );
        let signature = "AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOYaRI1bKPWROc-mZZqwqT2SI-KGDKB34XO0aw_7XdtAG8GaSwF\
            KdCAPZgoXD2YBJZCPEX3xKpRwcdOO8KpEHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn";
        holds(key("P-521", x, y), "ES512", "eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA", signature);

        let key = bytes("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo").try_into().expect("32 bytes");
        let signature = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
        let signed = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
        holds(PublicKey::Ed25519(key), "EdDSA", signed, signature);
    }
}
