//! F10 · TLS towards others: certificates and keys by an option's value, made into what rustls wants.
//!
//! Files are read here, so it is not for the service thread. Never knows who is asked.

use crate::certificates::{client_identity, read_certificates};
use crate::config::TlsOptions;
use hyper_rustls::ConfigBuilderExt;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::sync::Arc;

/// The error is a sentence that begins with the option's key.
pub fn client_config(options: &TlsOptions) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = if options.insecure_skip_verify {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone(provider)))
    } else if options.server_ca_pem.is_empty() {
        builder.with_native_roots().map_err(|error| {
            format!("server_ca_pem: is empty, and this host has no certificates of authorities ({error})")
        })?
    } else {
        let mut roots = RootCertStore::empty();
        for authority in read_certificates("server_ca_pem", &options.server_ca_pem)? {
            roots.add(authority).map_err(|error| format!("server_ca_pem: {error}"))?;
        }
        builder.with_root_certificates(roots)
    };
    if options.cert_pem.is_empty() {
        return Ok(builder.with_no_client_auth());
    }
    let (certificates, key) = client_identity(&options.cert_pem, &options.key_pem)?;
    let shown = builder.with_client_auth_cert(certificates, key);
    shown.map_err(|error| format!("cert_pem: {error}"))
}

/// To believe the authority in a file, or those of this host if there is no file.
pub fn with_authority(file: &str) -> Result<ClientConfig, String> {
    client_config(&TlsOptions { server_ca_pem: file.to_owned(), ..TlsOptions::default() })
}

/// One that is never used for TLS.
pub fn none() -> ClientConfig {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap_or_else(|error| unreachable!("{error}"));
    config.with_root_certificates(RootCertStore::empty()).with_no_client_auth()
}

/// Takes whoever answers, as long as its signature is its own.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    fn made() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(["a.example".to_owned()]).expect("a certificate");
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn pem_is_text_or_base64_or_a_file() {
        let (certificate, key) = made();
        let path = std::env::temp_dir().join(format!("gannet-tls-{}.pem", std::process::id()));
        std::fs::write(&path, &certificate).expect("write");
        let file = path.to_str().expect("a path").to_owned();
        for cert_pem in [certificate.clone(), STANDARD.encode(&certificate), file] {
            let server_ca_pem = cert_pem.clone();
            let options = TlsOptions { cert_pem, key_pem: key.clone(), server_ca_pem, ..TlsOptions::default() };
            client_config(&options).expect("a configuration");
        }
        std::fs::remove_file(path).expect("remove");
        let with = |cert_pem: &str, key_pem: &str, server_ca_pem: &str| {
            let (cert_pem, key_pem, server_ca_pem) = (cert_pem.into(), key_pem.into(), server_ca_pem.into());
            let options = TlsOptions { cert_pem, key_pem, server_ca_pem, ..TlsOptions::default() };
            client_config(&options).map(drop).expect_err("refused")
        };
        let (_, other) = made();
        for (error, start) in [
            (with("", "", "/nonexistent"), "server_ca_pem: expected PEM, base64 of it, or a file"),
            (with("", "", &key), "server_ca_pem: expected a certificate in PEM; there is none"),
            (with(&certificate, &certificate, &certificate), "key_pem: no private key can be read"),
            (with(&certificate, &other, &certificate), "cert_pem: "),
        ] {
            assert!(error.starts_with(start), "{error}");
        }
        let half = &key[30..];
        assert!(!with(&certificate, half, &certificate).contains(half), "a key is not quoted");
    }
}
