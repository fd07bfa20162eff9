//! A certificate for the servers under measurement, and clients that believe it.
//!
//! Owns two files in a temporary folder, which go with it. Never knows which server shows them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};

/// The name in the certificate.
pub const NAME: &str = "gannet.example";

static MADE: AtomicU32 = AtomicU32::new(0);

/// A certificate (ECDSA, P-256) and its key, in files.
pub struct Identity {
    folder: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
    trusted: CertificateDer<'static>,
}

impl Identity {
    pub fn new() -> io::Result<Self> {
        let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).map_err(io::Error::other)?;
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("gannet-bench-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let (certificate, key) = (folder.join("cert.pem"), folder.join("key.pem"));
        fs::write(&certificate, made.cert.pem())?;
        fs::write(&key, made.signing_key.serialize_pem())?;
        Ok(Self { folder, certificate, key, trusted: made.cert.der().clone() })
    }

    /// Clients that speak this version and resume nothing.
    pub fn client(&self, version: &'static SupportedProtocolVersion) -> io::Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.trusted.clone()).map_err(io::Error::other)?;
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_protocol_versions(&[version]).map_err(io::Error::other)?;
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }

    /// Where the files are; it goes with this.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What Gannet is told.
    pub fn options(&self) -> [String; 3] {
        [
            "--http_server.tls.enabled".to_owned(),
            format!("--http_server.tls.cert_pem={}", self.certificate.display()),
            format!("--http_server.tls.key_pem={}", self.key.display()),
        ]
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// What a peer in Rust shows: TLS 1.3 with a ticket, as Gannet.
pub fn server(certificate: &Path, key: &Path) -> io::Result<ServerConfig> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(certificate).map_err(io::Error::other)?.collect();
    let key = PrivateKeyDer::from_pem_file(key).map_err(io::Error::other)?;
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_protocol_versions(&[&TLS13]).map_err(io::Error::other)?;
    let config = builder.with_no_client_auth().with_single_cert(chain.map_err(io::Error::other)?, key);
    let mut config = config.map_err(io::Error::other)?;
    config.enable_secret_extraction = true;
    config.send_tls13_tickets = 1;
    config.ticketer = ring::Ticketer::new().map_err(io::Error::other)?;
    Ok(config)
}
