//! F9 · Answers to an authority that asks who has a name (TLS-ALPN-01, RFC 8737): a certificate for each question.
//!
//! Owns the questions that are open. Never knows the authority, nor who asks.

use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::CertifiedKey;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The protocol by which an authority asks; nothing is said in it.
pub const CHALLENGE_PROTOCOL: &[u8] = b"acme-tls/1";
/// Bytes of what an authority wants to see.
const DIGEST: usize = 32;

/// The open questions, by name.
#[derive(Debug, Default)]
pub struct Challenges(Mutex<BTreeMap<String, Arc<CertifiedKey>>>);

impl Challenges {
    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Arc<CertifiedKey>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whoever asks for `name` by that protocol gets a certificate with `digest` in it, until the question is closed.
    pub fn open(&self, name: &str, digest: &[u8], provider: &CryptoProvider) -> Result<(), String> {
        if digest.len() != DIGEST {
            return Err(format!("a challenge of {} bytes", digest.len()));
        }
        let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(|error| error.to_string())?;
        params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
        let key = KeyPair::generate().map_err(|error| error.to_string())?;
        let certificate = params.self_signed(&key).map_err(|error| error.to_string())?;
        let signs = PrivateKeyDer::try_from(key.serialize_der()).map_err(str::to_owned)?;
        let signs = provider.key_provider.load_private_key(signs).map_err(|error| error.to_string())?;
        // Not compared with its key, as others are: what is in it for the authority says that nobody else may read it.
        let answer = CertifiedKey::new(vec![certificate.der().clone()], signs);
        self.all().insert(name.to_ascii_lowercase(), Arc::new(answer));
        Ok(())
    }

    pub fn close(&self, name: &str) {
        self.all().remove(&name.to_ascii_lowercase());
    }

    /// The answer about `name`.
    pub(super) fn of(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        self.all().get(&name.to_ascii_lowercase()).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::crypto::ring;

    #[test]
    fn a_question_has_an_answer_while_it_is_open() {
        let (challenges, provider) = (Challenges::default(), ring::default_provider());
        assert!(challenges.open("a.example", &[7; 31], &provider).is_err(), "no digest");
        challenges.open("A.example", &[7; 32], &provider).expect("open");
        let answer = challenges.of("a.EXAMPLE").expect("an answer");
        let certificate: &[u8] = &answer.cert[0];
        // The digest, as an octet string in the extension that RFC 8737 names: 1.3.6.1.5.5.7.1.31.
        let extension = [&[6, 8, 43, 6, 1, 5, 5, 7, 1, 31, 1, 1, 255, 4, 34, 4, 32][..], &[7; 32]].concat();
        assert!(certificate.windows(extension.len()).any(|window| window == extension));
        assert!(challenges.of("b.example").is_none());
        challenges.close("a.example");
        assert!(challenges.of("a.example").is_none());
    }
}
