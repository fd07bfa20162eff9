//! F9 · What this node's ports show of themselves in TLS: certificates and keys, tickets, and what clients must show.
//!
//! Owns the configurations of rustls for each port, made from options and files, and made again when those change. What
//! is wrong changes nothing: the one before stays. Never knows of a connection.

mod challenges;
mod expiry;
mod folder;
mod material;
mod names;
mod secrets;
mod tickets;

pub use challenges::CHALLENGE_PROTOCOL;
pub use folder::CertificateFolder;
pub use material::{client_identity, pem, read_certificates};
pub use secrets::{Secrets, take_secrets};

use crate::base::metrics::Page;
use crate::config::{Config, TlsPort};
use challenges::Challenges;
use material::{Material, PortMaterial};
use names::ShownNames;
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tickets::{TicketSecret, Tickets};

/// All ports, as they are now.
pub struct Certificates {
    now: Mutex<Now>,
    own_secret: TicketSecret,
    compact: bool,
    challenges: Arc<Challenges>,
    taken: AtomicU64,
    refused: AtomicU64,
    /// Orders at an authority that came to a certificate, and that did not.
    orders: [AtomicU64; 2],
}

struct Now {
    material: Material,
    /// Why the last was refused: it is told once.
    refused: Option<String>,
    ports: [Option<Arc<ServerConfig>>; TlsPort::COUNT],
    /// Of each certificate: its port, and its last second since 1970.
    expiries: Vec<(TlsPort, u64)>,
}

impl Certificates {
    /// Reads files. The error is a sentence for the operator.
    pub fn new(config: &Config) -> Result<Certificates, String> {
        let own_secret = TicketSecret::random().map_err(|error| format!("cannot draw random numbers: {error}"))?;
        let material = Material::read(config)?;
        let compact = config.tls.compact;
        let challenges = Arc::default();
        let (ports, expiries) = build(&material, &own_secret, compact, &challenges)?;
        let now = Mutex::new(Now { material, refused: None, ports, expiries });
        let (taken, refused, orders) = (AtomicU64::new(0), AtomicU64::new(0), Default::default());
        Ok(Certificates { now, own_secret, compact, challenges, taken, refused, orders })
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        // It is changed as a whole.
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a connection to that port begins with; `None` = it has no TLS.
    pub fn of(&self, port: TlsPort) -> Option<Arc<ServerConfig>> {
        self.now().ports[port as usize].clone()
    }

    /// Does any port have TLS?
    pub fn are_there(&self) -> bool {
        self.now().ports.iter().any(Option::is_some)
    }

    /// Reads the options' values and files once more, and takes what has changed. What was refused already is not told
    /// again.
    pub fn reload(&self, config: &Config) -> Result<bool, String> {
        let read = Material::read(config).and_then(|material| {
            if self.now().material == material {
                return Ok(None);
            }
            // It takes a while, and connections need not wait.
            let (ports, expiries) = build(&material, &self.own_secret, self.compact, &self.challenges)?;
            Ok(Some(Now { material, refused: None, ports, expiries }))
        });
        let mut now = self.now();
        match read {
            Ok(None) => {
                now.refused = None;
                Ok(false)
            }
            Ok(Some(next)) => {
                *now = next;
                self.taken.fetch_add(1, Ordering::Relaxed);
                Ok(true)
            }
            Err(error) if now.refused.as_ref() == Some(&error) => Ok(false),
            Err(error) => {
                now.refused = Some(error.clone());
                self.refused.fetch_add(1, Ordering::Relaxed);
                Err(error)
            }
        }
    }

    /// An authority will ask who has `name`, and must see `digest`.
    pub fn open_challenge(&self, name: &str, digest: &[u8]) -> Result<(), String> {
        self.challenges.open(name, digest, &ring::default_provider())
    }

    pub fn close_challenge(&self, name: &str) {
        self.challenges.close(name);
    }

    /// An order at an authority came to a certificate, or did not.
    pub fn count_order(&self, good: bool) {
        self.orders[usize::from(!good)].fetch_add(1, Ordering::Relaxed);
    }

    /// Ports whose certificates are good for so many seconds at most, by a clock of seconds since 1970, with what is
    /// left.
    pub fn expiring(&self, unix_s: u64, within_s: u64) -> Vec<(TlsPort, u64)> {
        let left = self.now().expiries.iter().map(|(port, at)| (*port, at.saturating_sub(unix_s))).collect::<Vec<_>>();
        left.into_iter().filter(|(_, left)| *left <= within_s).collect()
    }

    /// All numbers as Prometheus text.
    pub fn write(&self, page: &mut Page) {
        let expiries = self.now().expiries.clone();
        let mut numbers = [0; TlsPort::COUNT];
        let series = expiries.iter().map(|(port, at)| {
            let number = &mut numbers[*port as usize];
            *number += 1;
            (format!("port=\"{}\",certificate=\"{}\"", port.label(), *number - 1), *at)
        });
        let help =
            "The last second of each certificate, since 1970; 0 is a port's own, 1 the first of tls.certificates.";
        page.series("gannet_tls_certificate_expiry_timestamp_seconds", help, "gauge", series.collect::<Vec<_>>());
        let help = "Certificates or keys that had changed and were taken.";
        page.single("gannet_tls_certificate_reloads_total", help, "counter", self.taken.load(Ordering::Relaxed));
        let help = "Certificates or keys that had changed and were refused, because they were wrong: the log tells.";
        let refused = self.refused.load(Ordering::Relaxed);
        page.single("gannet_tls_certificate_reload_failures_total", help, "counter", refused);
        let [good, failed] = [0, 1].map(|at: usize| self.orders[at].load(Ordering::Relaxed));
        let help = "Certificates that came by ACME (http_server.tls_autocert).";
        page.single("gannet_tls_autocert_orders_total", help, "counter", good);
        let help = "Orders by ACME that came to none; the log tells why, and they are tried again.";
        page.single("gannet_tls_autocert_failures_total", help, "counter", failed);
    }
}

/// Must clients of this configuration show certificates? Those have no tickets.
pub fn asks_clients(config: &ServerConfig) -> bool {
    config.send_tls13_tickets == 0
}

/// What is wrong with the certificates and keys of ports, which may be in files.
pub fn faults(config: &Config) -> Vec<String> {
    let any = TlsPort::ALL.iter().any(|port| config.tls_of(*port).is_some());
    if any { Certificates::new(config).err().into_iter().collect() } else { Vec::new() }
}

type Built = ([Option<Arc<ServerConfig>>; TlsPort::COUNT], Vec<(TlsPort, u64)>);

fn build(
    material: &Material,
    own_secret: &TicketSecret,
    compact: bool,
    challenges: &Arc<Challenges>,
) -> Result<Built, String> {
    let provider = Arc::new(ring::default_provider());
    let secret = material.ticket_secret.as_ref().unwrap_or(own_secret);
    let mut expiries = Vec::new();
    let mut others = Vec::new();
    for (at, identity) in material.others.iter().enumerate() {
        let key = identity.certified(&provider).map_err(|error| format!("tls.certificates[{at}].{error}"))?;
        others.push(Arc::new(key));
    }
    let mut ports = [const { None }; TlsPort::COUNT];
    for (port, material) in TlsPort::ALL.into_iter().zip(&material.ports) {
        let Some(material) = material else { continue };
        let told = |error: String| format!("{}.{error}", material.section);
        let own = material.identities.iter().map(|identity| identity.certified(&provider).map(Arc::new));
        let own = own.collect::<Result<Vec<_>, _>>().map_err(told)?;
        let others = if material.has_others { &others[..] } else { &[] };
        let all = [&own[..], others].concat();
        expiries.extend(all.iter().filter_map(|key| expiry_of(key)).map(|at| (port, at)));
        let names = ShownNames::new(all, material.is_asked.then(|| challenges.clone()));
        let config = port_config(port, material, names, secret, &provider, compact).map_err(told)?;
        ports[port as usize] = Some(Arc::new(config));
    }
    Ok((ports, expiries))
}

fn expiry_of(key: &CertifiedKey) -> Option<u64> {
    expiry::not_after(key.cert.first()?)
}

fn port_config(
    port: TlsPort,
    material: &PortMaterial,
    names: ShownNames,
    secret: &TicketSecret,
    provider: &Arc<CryptoProvider>,
    compact: bool,
) -> Result<ServerConfig, String> {
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| format!("enabled: {error}"))?;
    let builder = match material.authorities()? {
        None => builder.with_no_client_auth(),
        Some(roots) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone()).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| format!("client_ca_pem: {error}"))?)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(names));
    let protocols: &[&[u8]] = match port {
        TlsPort::Grpc | TlsPort::UniGrpc => &[b"h2"],
        TlsPort::Public | TlsPort::Internal => &[b"http/1.1"],
    };
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    if material.is_asked {
        // The last: whoever knows another one is no authority.
        config.alpn_protocols.push(CHALLENGE_PROTOCOL.to_vec());
    }
    config.session_storage = Arc::new(NoServerSessionStorage {});
    // Nobody looks again at the certificates in a ticket: who must show one shows it each time.
    // Who comes back needs one ticket, and gets another then.
    config.send_tls13_tickets = usize::from(material.client_ca.is_empty());
    if material.client_ca.is_empty() {
        config.ticketer = Arc::new(Tickets::new(secret, port));
    }
    if compact && port == TlsPort::Public {
        config.enable_secret_extraction = true;
        config.key_log = Arc::new(secrets::Catch);
    }
    Ok(config)
}

#[cfg(test)]
mod tests;
