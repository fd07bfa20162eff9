//! F9 · Certificates and keys as the options give them: PEM as text, as base64, or in files.
//!
//! Owns the reading, for ports and for those who ask others. Files are read here, so it is not for a thread that others
//! wait for. What cannot be read is never quoted: it may be half of a key.

use super::folder::CertificateFolder;
use super::tickets::TicketSecret;
use crate::config::{AUTOCERT, Config, TlsAutocert, TlsPort};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::RootCertStore;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

/// What stands at the beginning of each PEM block.
const PEM: &str = "-----BEGIN ";

/// A certificate and its key, in PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    certificate: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
}

/// What one port shows and wants.
#[derive(Clone, PartialEq, Eq)]
pub struct PortMaterial {
    pub section: &'static str,
    /// Its own, the first before all. With ACME there may be none yet.
    pub identities: Vec<Identity>,
    /// An authority asks there who has a name.
    pub is_asked: bool,
    /// In PEM; empty = nobody must show a certificate.
    pub client_ca: Vec<u8>,
    /// It has those of tls.certificates too.
    pub has_others: bool,
}

/// All that the ports' TLS is made of, to be compared with what it was made of before.
#[derive(Clone, PartialEq, Eq)]
pub struct Material {
    pub ports: [Option<PortMaterial>; TlsPort::COUNT],
    pub others: Vec<Identity>,
    pub ticket_secret: Option<TicketSecret>,
}

impl Material {
    /// The error is a sentence that begins with the option.
    pub fn read(config: &Config) -> Result<Material, String> {
        let mut ports = [const { None }; TlsPort::COUNT];
        for port in TlsPort::ALL {
            let Some((section, options)) = config.tls_of(port) else { continue };
            let told = |error: String| format!("{section}.{error}");
            let has_others = section == "http_server.tls" || section == AUTOCERT;
            if section == AUTOCERT {
                let (identities, client_ca) = (kept(&config.http_server.tls_autocert), Vec::new());
                let is_asked = port == TlsPort::Public;
                ports[port as usize] = Some(PortMaterial { section, identities, is_asked, client_ca, has_others });
                continue;
            }
            let identity = Identity::read(&options.cert_pem, &options.key_pem).map_err(told)?;
            let client_ca = match options.client_ca_pem.as_str() {
                "" => Vec::new(),
                value => pem("client_ca_pem", value).map_err(told)?,
            };
            let (identities, is_asked) = (vec![identity], false);
            ports[port as usize] = Some(PortMaterial { section, identities, is_asked, client_ca, has_others });
        }
        let mut others = Vec::new();
        for (at, named) in config.tls.certificates.iter().enumerate() {
            let identity = Identity::read(&named.cert_pem, &named.key_pem);
            others.push(identity.map_err(|error| format!("tls.certificates[{at}].{error}"))?);
        }
        Ok(Material { ports, others, ticket_secret: TicketSecret::of(&config.tls.ticket_secret) })
    }
}

/// What came by ACME so far. The first is that of who asks for no name.
fn kept(options: &TlsAutocert) -> Vec<Identity> {
    let (kept, provider) = (CertificateFolder::new(&options.cache_dir), ring::default_provider());
    let (first, rest): (Vec<_>, Vec<_>) =
        options.host_whitelist.iter().partition(|name| name.eq_ignore_ascii_case(&options.server_name));
    first.into_iter().chain(rest).filter_map(|name| kept.identity(name, &provider)).collect()
}

impl Identity {
    /// Both in PEM, each among what else there may be.
    pub fn of(certificate: Vec<u8>, key: Vec<u8>) -> Identity {
        Identity { certificate, key: key.into() }
    }

    fn read(certificate: &str, key: &str) -> Result<Identity, String> {
        Ok(Identity::of(pem("cert_pem", certificate)?, pem("key_pem", key)?))
    }

    /// Both, if they belong together. The error begins with the option's key.
    pub fn certified(&self, provider: &CryptoProvider) -> Result<CertifiedKey, String> {
        let chain = certificates("cert_pem", &self.certificate)?;
        let key = private_key("key_pem", &self.key)?;
        CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => "key_pem: is not the key of the certificate in cert_pem".to_owned(),
            error => format!("cert_pem: {error}"),
        })
    }
}

impl PortMaterial {
    /// Of those who connect; `None` = nobody must show a certificate.
    pub fn authorities(&self) -> Result<Option<RootCertStore>, String> {
        if self.client_ca.is_empty() {
            return Ok(None);
        }
        let mut roots = RootCertStore::empty();
        for authority in certificates("client_ca_pem", &self.client_ca)? {
            roots.add(authority).map_err(|error| format!("client_ca_pem: {error}"))?;
        }
        Ok(Some(roots))
    }
}

/// The certificates that an option stands for. The error is a sentence that begins with the option's key.
pub fn read_certificates(option: &str, value: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    certificates(option, &pem(option, value)?)
}

/// A certificate and its key for who asks others, by their options' values.
pub fn client_identity(
    certificate: &str,
    key: &str,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), String> {
    let key = private_key("key_pem", &pem("key_pem", key)?)?;
    Ok((read_certificates("cert_pem", certificate)?, key))
}

fn private_key(option: &str, pem: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| format!("{option}: no private key can be read: {error}"))
}

fn certificates(option: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err(format!("{option}: expected a certificate in PEM; there is none")),
        Err(error) => Err(format!("{option}: no certificate can be read: {error}")),
    }
}

/// The PEM that an option stands for: itself, or in base64, or the name of a file.
pub fn pem(option: &str, value: &str) -> Result<Vec<u8>, String> {
    if value.contains(PEM) {
        return Ok(value.as_bytes().to_vec());
    }
    let decoded = STANDARD.decode(value.trim()).ok().filter(|bytes| bytes.starts_with(PEM.as_bytes()));
    if let Some(decoded) = decoded {
        return Ok(decoded);
    }
    let read = std::fs::read(value);
    read.map_err(|error| format!("{option}: expected PEM, base64 of it, or a file that has it; as a file: {error}"))
}
