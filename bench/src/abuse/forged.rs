//! Subscription tokens with signatures that are wrong, and the public keys they are checked with.
//!
//! Nobody has the private keys: they were thrown away. A signature here is numbers in the right range, so that checking it
//! costs all that checking costs, and each is another one, so that remembering one does not help.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// A kind of asymmetric signature.
#[derive(Clone, Copy, Debug)]
pub struct Algorithm {
    pub name: &'static str,
    /// The option that takes its key.
    pub option: &'static str,
    /// Public, in PEM.
    pub key: &'static str,
    /// Bytes of a signature.
    size: usize,
    /// The first byte of each number in a signature, so that it stays below the order of the curve or the modulus.
    first: u8,
}

pub const ES256: Algorithm = Algorithm {
    name: "ES256",
    option: "--client.token.ecdsa_public_key",
    key: "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEIxer8Cp7Bg7E0OGeWFLzTATgaUYD
Slpo9Q+He8K+zTjvh/BfdiYhcK6Tkova/AaKuLhDeIOxsFEnISGFCChEEw==
-----END PUBLIC KEY-----
",
    size: 64,
    first: 0x7f,
};

pub const ES384: Algorithm = Algorithm {
    name: "ES384",
    option: "--client.token.ecdsa_public_key",
    key: "-----BEGIN PUBLIC KEY-----
MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAE3ZOtHyGg9wKYJezabALLWT3iUMVwfVlm
DtruREebIBFe+h5TgrQbkIRjHIY4ZhVGZU54bf3iVxFi0o17lGHgI7NBS07AclqL
M2JILgFxMTIgqf9J1RrM0GBc9o0ugRJB
-----END PUBLIC KEY-----
",
    size: 96,
    first: 0x7f,
};

pub const ES512: Algorithm = Algorithm {
    name: "ES512",
    option: "--client.token.ecdsa_public_key",
    key: "-----BEGIN PUBLIC KEY-----
MIGbMBAGByqGSM49AgEGBSuBBAAjA4GGAAQAe9bynpFsX48XUk8DnwiDV6WYHM8c
ud3xdywuG5lThyg55EQn15NBBj1P/dRc/faFReW9nbAVONscx+NIQfFZDckAwfYN
Q7hXMRfGxlG8Tuqt04aDbrnePzPwelXRVpzv+1NEdss7Q7V85EjXX7v3IBNu1Pqz
6illTJeZ8/ZGMNp5+9w=
-----END PUBLIC KEY-----
",
    size: 132,
    first: 0x00,
};

pub const RS256: Algorithm = Algorithm {
    name: "RS256",
    option: "--client.token.rsa_public_key",
    key: "-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEArGVHKCN7GThqSGTkgxpQ
itY1IapfzG8l2yLN9qoT9/K/f9rdJEAr5t6+4M+pDjzn5MF8y9IGP17R0KrUG+lM
+CJlBuB2BDeHio4sZL9IplLqFJ6YLNEFhEMufjn9f+Kj+/BCbzCTClUU19RI0oBh
dGbn16zUNc5mXbYM+GX5TaN9DKOktRx6ic68OxEySwchFkHWFuiGQ1XfCDlDNu+E
8WS3VTm90WnHnkFCUF9UofjpNYkTMrYEhyHt6ORcl7WXsilmxhco6p7KtMtNxdHe
+jWJiiJZly3zGmcmcK3O59q129mCP5whHs9CMFRbHD3MDF3SNFlWtOdswZmTalns
XQIDAQAB
-----END PUBLIC KEY-----
",
    size: 256,
    first: 0x5f,
};

impl Algorithm {
    /// A token of the user `attacker` for `channel`; each number gives another signature.
    pub fn token(self, channel: &str, number: u64) -> String {
        let head = format!(r#"{{"alg":"{}","typ":"JWT"}}"#, self.name);
        let claims = format!(r#"{{"sub":"attacker","channel":"{channel}"}}"#);
        let mut signature = vec![0x5a; self.size];
        let half = if self.name.starts_with("ES") { self.size / 2 } else { self.size };
        for part in signature.chunks_mut(half) {
            part[0] = self.first;
            part[8..16].copy_from_slice(&number.to_be_bytes());
        }
        let parts = [head.as_bytes(), claims.as_bytes(), &signature];
        parts.map(|part| URL_SAFE_NO_PAD.encode(part)).join(".")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_have_three_parts_and_differ_in_the_last() {
        for algorithm in [ES256, ES384, ES512, RS256] {
            let [one, other] = [1, 2].map(|number| algorithm.token("a", number));
            let parts = |token: &str| token.split('.').map(str::to_owned).collect::<Vec<_>>();
            let (one, other) = (parts(&one), parts(&other));
            assert_eq!((one.len(), &one[..2]), (3, &other[..2]));
            assert_ne!(one[2], other[2]);
            assert_eq!(URL_SAFE_NO_PAD.decode(&one[2]).map(|bytes| bytes.len()), Ok(algorithm.size));
        }
    }
}
