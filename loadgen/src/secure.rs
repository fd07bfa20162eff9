//! TLS of one client, by rustls, in buffers that all clients of a thread share.
//!
//! Owns what a connection must keep between two events: rustls's state, a record that came in part, and sealed bytes
//! that the socket did not take. Each connection makes a whole handshake: nothing is resumed, so that a storm costs the
//! server what it costs with clients that were never there. Never knows what is said inside.

use std::fmt;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, UnbufferedClientConnection};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use crate::options::Common;

/// Bytes that one record seals.
const SEALED_MAX: usize = 16 * 1024;
/// What sealing adds, with a key update in front.
const EXTRA: usize = 512;

/// What all clients share; read from files, so before the run.
pub fn config(common: &Common) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(ring::default_provider());
    let versions = match common.tls_version.as_deref() {
        Some("1.2") => &[&TLS12][..],
        Some("1.3") => &[&TLS13],
        _ => &[&TLS13, &TLS12],
    };
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .map_err(|error| format!("TLS: {error}"))?;
    let mut config = if common.insecure {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone(provider))).with_no_client_auth()
    } else {
        builder.with_root_certificates(roots(common.ca.as_deref())?).with_no_client_auth()
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn roots(file: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let Some(file) = file else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return match roots.is_empty() {
            true => Err("TLS: this host has no certificates of authorities: give --ca FILE, or --insecure".to_owned()),
            false => Ok(roots),
        };
    };
    let told = |error: &dyn std::fmt::Display| format!("--ca {}: {error}", file.display());
    let found = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    for certificate in found.map_err(|error| told(&error))? {
        roots.add(certificate).map_err(|error| told(&error))?;
    }
    if roots.is_empty() { Err(told(&"there is no certificate in PEM")) } else { Ok(roots) }
}

/// Buffers for who has the turn.
#[derive(Debug, Default)]
pub struct Scratch {
    sealed: Vec<u8>,
    /// What was opened last.
    pub said: Vec<u8>,
}

/// One client's TLS.
pub struct Secure {
    connection: UnbufferedClientConnection,
    /// Records that were not opened; the last of them is cut.
    input: Vec<u8>,
    /// For the socket.
    output: Vec<u8>,
    ready: bool,
    closed: bool,
}

impl fmt::Debug for Secure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secure").field("ready", &self.ready).field("closed", &self.closed).finish_non_exhaustive()
    }
}

impl Secure {
    pub fn new(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Self, String> {
        let connection = UnbufferedClientConnection::new(config, name).map_err(|error| error.to_string())?;
        Ok(Self { connection, input: Vec::new(), output: Vec::new(), ready: false, closed: false })
    }

    /// The handshake is done.
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// The peer says no more.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Bytes that the socket did not take.
    pub fn unsent(&self) -> usize {
        self.output.len()
    }

    /// Bytes for the socket: sent ones are taken away by who sends them.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Takes what the socket gave, and appends what it says to `said`. With nothing, it begins the handshake.
    pub fn take(&mut self, came: &[u8], said: &mut Vec<u8>) -> io::Result<()> {
        self.input.extend_from_slice(came);
        loop {
            let UnbufferedStatus { mut discard, state } = self.connection.process_tls_records(&mut self.input);
            let mut waits = false;
            match state {
                Ok(ConnectionState::ReadTraffic(mut records)) => {
                    while let Some(record) = records.next_record() {
                        let record = record.map_err(broken)?;
                        discard += record.discard;
                        said.extend_from_slice(record.payload);
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut message)) => {
                    encode(|room| message.encode(room), &mut self.output)
                }
                Ok(ConnectionState::TransmitTlsData(sent)) => sent.done(),
                Ok(ConnectionState::WriteTraffic(_)) => (self.ready, waits) = (true, true),
                Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => (self.closed, waits) = (true, true),
                Ok(_) => waits = true,
                Err(error) => return Err(broken(error)),
            }
            self.input.drain(..discard);
            if waits {
                break;
            }
        }
        // An idle client owns no buffer.
        self.input.shrink_to_fit();
        Ok(())
    }

    /// Seals all that `said` says.
    pub fn put(&mut self, said: &[u8], scratch: &mut Scratch) -> io::Result<()> {
        for part in said.chunks(SEALED_MAX) {
            self.speak(|traffic, room| traffic.encrypt(part, room).ok(), part.len() + EXTRA, scratch)?;
        }
        Ok(())
    }

    /// Says that nothing more is said.
    pub fn end(&mut self, scratch: &mut Scratch) {
        // Whoever is gone need not hear it.
        let _ = self.speak(|traffic, room| traffic.queue_close_notify(room).ok(), EXTRA, scratch);
    }

    fn speak(
        &mut self,
        mut say: impl FnMut(&mut Traffic<'_>, &mut [u8]) -> Option<usize>,
        size: usize,
        scratch: &mut Scratch,
    ) -> io::Result<()> {
        loop {
            let UnbufferedStatus { discard, state } = self.connection.process_tls_records(&mut self.input);
            let sealed = match state {
                Ok(ConnectionState::EncodeTlsData(mut message)) => {
                    encode(|room| message.encode(room), &mut self.output);
                    None
                }
                Ok(ConnectionState::TransmitTlsData(sent)) => {
                    sent.done();
                    None
                }
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    scratch.sealed.resize(size.max(scratch.sealed.len()), 0);
                    Some(say(&mut traffic, &mut scratch.sealed[..size]).ok_or(ErrorKind::BrokenPipe)?)
                }
                Ok(_) => return Err(ErrorKind::BrokenPipe.into()),
                Err(error) => return Err(broken(error)),
            };
            self.input.drain(..discard);
            if let Some(sealed) = sealed {
                self.output.extend_from_slice(&scratch.sealed[..sealed]);
                return Ok(());
            }
        }
    }
}

type Traffic<'c> = rustls::unbuffered::WriteTraffic<'c, rustls::client::ClientConnectionData>;

fn broken(error: Error) -> io::Error {
    io::Error::other(format!("TLS: {error}"))
}

fn encode(mut write: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>, out: &mut Vec<u8>) {
    let (at, mut size) = (out.len(), EXTRA);
    loop {
        out.resize(at + size, 0);
        match write(&mut out[at..]) {
            Ok(size) => return out.truncate(at + size),
            Err(EncodeError::InsufficientSize(needed)) if needed.required_size > size => size = needed.required_size,
            Err(_) => return out.truncate(at),
        }
    }
}

/// `--insecure`: whoever answers, as long as its signature is its own.
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
