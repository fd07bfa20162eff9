//! F9 · Which certificate a client gets, by the name that it asks for.

use rustls::client::verify_server_name;
use rustls::pki_types::ServerName;
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::sync::Arc;

/// The certificates of a port, its own first.
#[derive(Debug)]
pub struct ShownNames(Vec<Arc<CertifiedKey>>);

impl ShownNames {
    pub fn new(all: Vec<Arc<CertifiedKey>>) -> ShownNames {
        ShownNames(all)
    }

    /// The first that has the name, or the port's own: its client says best what is wrong with it.
    fn by_name(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let own = self.0.first();
        // Certificates are parsed only for who asks for one of several.
        let name = name.filter(|_| self.0.len() > 1).and_then(|name| ServerName::try_from(name).ok());
        let Some(name) = name else { return own.cloned() };
        let has = |key: &&Arc<CertifiedKey>| {
            let certificate = key.cert.first().and_then(|der| ParsedCertificate::try_from(der).ok());
            certificate.is_some_and(|certificate| verify_server_name(&certificate, &name).is_ok())
        };
        self.0.iter().find(has).or(own).cloned()
    }
}

impl ResolvesServerCert for ShownNames {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.by_name(hello.server_name())
    }
}
