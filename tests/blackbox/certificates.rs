//! Certificates of a test: an authority, a server's, a client's.

use crate::file::File;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ServerConfig, SupportedProtocolVersion};
use std::sync::Arc;

/// The name that the server's certificate has.
pub const NAME: &str = "backend.example";

pub struct Certificates {
    issuer: Issuer<'static, KeyPair>,
    /// In PEM, as all of them.
    pub authority: String,
    pub server: (String, String),
    /// The client's, and its key.
    pub client: (String, String),
}

impl Certificates {
    pub fn new() -> Certificates {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let authority = params.self_signed(&key).expect("an authority").pem();
        let issuer = Issuer::new(params, key);
        let (server, client) = (signed(&issuer, NAME), signed(&issuer, "client.example"));
        Certificates { authority, server, client, issuer }
    }

    /// One more for a server, and its key, in PEM.
    pub fn signed(&self, name: &str) -> (String, String) {
        signed(&self.issuer, name)
    }

    /// In files: the authority's, a pair for a server on this machine, and the client's pair.
    pub fn files(&self, prefix: &str) -> [File; 5] {
        let (server, key) = self.signed("localhost");
        [
            ("authority", &self.authority),
            ("server", &server),
            ("key", &key),
            ("client", &self.client.0),
            ("client-key", &self.client.1),
        ]
        .map(|(name, text)| File::new(&format!("{prefix}-{name}"), text))
    }

    /// A server's pair, which ends in so many days.
    pub fn ending_in(&self, days: u64) -> (String, String) {
        let mut params = CertificateParams::new(vec![NAME.to_owned()]).expect("parameters");
        params.not_after = std::time::SystemTime::now().into();
        params.not_after += std::time::Duration::from_secs(days * 86_400);
        let key = KeyPair::generate().expect("a key");
        (params.signed_by(&key, &self.issuer).expect("a certificate").pem(), key.serialize_pem())
    }

    fn roots(&self) -> rustls::RootCertStore {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.as_bytes()).expect("a certificate")).expect("a root");
        roots
    }

    /// A client that believes this authority, by these versions; it shows its certificate if it is to.
    pub fn client_config(&self, versions: &[&'static SupportedProtocolVersion], shows: bool) -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_protocol_versions(versions).expect("versions").with_root_certificates(self.roots());
        let (certificate, key) = &self.client;
        match shows {
            false => builder.with_no_client_auth(),
            true => {
                let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).expect("a certificate");
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
                builder.with_client_auth_cert(vec![certificate], key).expect("a client")
            }
        }
    }

    /// A server that takes clients of this authority only.
    pub fn server(&self, protocols: &[&str]) -> Arc<ServerConfig> {
        let provider = Arc::new(ring::default_provider());
        let roots = self.roots();
        let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone()).build();
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.expect("versions").with_client_cert_verifier(clients.expect("a verifier"));
        let certificate = CertificateDer::from_pem_slice(self.server.0.as_bytes()).expect("a certificate");
        let key = PrivateKeyDer::from_pem_slice(self.server.1.as_bytes()).expect("a key");
        let mut config = builder.with_single_cert(vec![certificate], key).expect("a server");
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        config.into()
    }
}

fn signed(issuer: &Issuer<'_, KeyPair>, name: &str) -> (String, String) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
    params.distinguished_name.push(DnType::CommonName, name);
    (params.signed_by(&key, issuer).expect("a certificate").pem(), key.serialize_pem())
}
