//! F10 · Who a node is to a NATS server that knows users by NKey or JWT: a file with a seed, and the proof made of it.
//!
//! Owns the syntax of the file, which is that of `nsc`. Knows nothing of connections, and keeps no seed.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use nkeys::{KeyPair, KeyPairType};
use zeroize::Zeroizing;

/// A file of credentials is no longer than this.
const FILE_MAX: u64 = 64 << 10;

/// What proves to a server who we are; nothing without a file.
#[derive(Default)]
pub struct Proof {
    /// Empty: the server knows the key itself.
    pub jwt: String,
    /// The public key.
    pub nkey: String,
    pub signature: String,
}

/// Reads the file, and signs what the server asks to be signed. The error tells nothing of what is in it.
pub fn prove(path: &str, nonce: &str) -> Result<Proof, String> {
    use std::io::Read;
    let mut text = Zeroizing::new(String::new());
    let file = std::fs::File::open(path).map_err(|error| format!("{path}: {error}"))?;
    file.take(FILE_MAX).read_to_string(&mut text).map_err(|error| format!("{path}: {error}"))?;
    sign(&text, nonce).ok_or_else(|| format!("{path}: expected the NKey seed of a user (SU...), with its JWT or alone"))
}

fn sign(text: &str, nonce: &str) -> Option<Proof> {
    let key = KeyPair::from_seed(seed(text)?).ok().filter(|key| key.key_pair_type() == KeyPairType::User)?;
    let signature = BASE64_URL_SAFE_NO_PAD.encode(key.sign(nonce.as_bytes()).ok()?);
    Some(Proof { jwt: jwt(text).unwrap_or_default().to_owned(), nkey: key.public_key(), signature })
}

/// A line that is one, between lines of dashes or alone.
fn seed(text: &str) -> Option<&str> {
    text.lines().map(str::trim).find(|line| line.starts_with("SU") && !line.contains('-'))
}

fn jwt(text: &str) -> Option<&str> {
    text.lines().map(str::trim).find(|line| line.starts_with("ey") && line.split('.').count() == 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_found_with_its_jwt_or_alone() {
        let user = KeyPair::new_user();
        let seed = user.seed().expect("a seed");
        let file = format!(
            "-----BEGIN NATS USER JWT-----\r\neyJ0.eyJz.c2ln\r\n------END NATS USER JWT------\r\n\r\n\
             *** IMPORTANT ***\r\n-----BEGIN USER NKEY SEED-----\r\n{seed}\r\n------END USER NKEY SEED------\r\n"
        );
        for (text, jwt) in [(&*file, "eyJ0.eyJz.c2ln"), (&*seed, "")] {
            let proof = sign(text, "nonce").expect("a proof");
            assert_eq!((&*proof.jwt, &*proof.nkey), (jwt, &*user.public_key()));
            let signature = BASE64_URL_SAFE_NO_PAD.decode(proof.signature).expect("base64");
            assert!(user.verify(b"nonce", &signature).is_ok() && user.verify(b"other", &signature).is_err());
        }
        let account = KeyPair::new_account().seed().expect("a seed");
        for bad in ["", "SU", "SUAAAA", &account, &format!("x{seed}")] {
            assert!(sign(bad, "nonce").is_none(), "{bad}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_file_is_told_without_what_is_in_it() {
        let error = prove("/nowhere/user.creds", "n").err().expect("an error");
        assert!(error.starts_with("/nowhere/user.creds: "), "{error}");
    }
}
