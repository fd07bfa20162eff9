//! Certificates of a test: an authority, a server's, a client's.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use std::sync::Arc;

/// The name that the server's certificate has.
pub const NAME: &str = "backend.example";

pub struct Certificates {
    /// In PEM, as all of them.
    pub authority: String,
    server: (String, String),
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
        let signed = |name: &str| {
            let key = KeyPair::generate().expect("a key");
            let params = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
            (params.signed_by(&key, &issuer).expect("a certificate").pem(), key.serialize_pem())
        };
        Certificates { authority, server: signed(NAME), client: signed("client.example") }
    }

    /// A server that takes clients of this authority only.
    pub fn server(&self, protocols: &[&str]) -> Arc<ServerConfig> {
        let provider = Arc::new(ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.as_bytes()).expect("a certificate")).expect("a root");
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
