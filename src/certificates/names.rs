//! F9 · Which certificate a client gets, by the name that it asks for.

use super::challenges::{CHALLENGE_PROTOCOL, Challenges};
use rustls::client::verify_server_name;
use rustls::pki_types::ServerName;
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::sync::Arc;

/// The certificates of a port, its own first.
#[derive(Debug)]
pub struct ShownNames {
    all: Vec<Arc<CertifiedKey>>,
    /// Where an authority asks who has a name.
    challenges: Option<Arc<Challenges>>,
}

impl ShownNames {
    pub fn new(all: Vec<Arc<CertifiedKey>>, challenges: Option<Arc<Challenges>>) -> ShownNames {
        ShownNames { all, challenges }
    }

    /// The first that has the name, or the port's own: its client says best what is wrong with it.
    fn by_name(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let own = self.all.first();
        // Certificates are parsed only for who asks for one of several.
        let name = name.filter(|_| self.all.len() > 1).and_then(|name| ServerName::try_from(name).ok());
        let Some(name) = name else { return own.cloned() };
        let has = |key: &&Arc<CertifiedKey>| {
            let certificate = key.cert.first().and_then(|der| ParsedCertificate::try_from(der).ok());
            certificate.is_some_and(|certificate| verify_server_name(&certificate, &name).is_ok())
        };
        self.all.iter().find(has).or(own).cloned()
    }
}

impl ResolvesServerCert for ShownNames {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // An authority that asks knows no other protocol.
        let is_question = hello.alpn().is_some_and(|mut protocols| protocols.all(|one| one == CHALLENGE_PROTOCOL));
        match &self.challenges {
            Some(challenges) if is_question => challenges.of(hello.server_name()?),
            _ => self.by_name(hello.server_name()),
        }
    }
}
