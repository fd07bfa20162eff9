//! F0 · TLS of this node's ports: which have it, and what they have in common.
//!
//! Owns the options and the rules between them. Never reads a certificate: whether one fits its key is the start's to
//! find out.

use super::check::Problem;
use super::list::ListEntry;
use super::value::Rule;
use super::{Config, DAY, GIB, KIB, MIB, TlsOptions, secs};
use std::time::Duration;

options! {
    pub struct TlsPorts {
        /// `[{cert_pem, key_pem}]`: further certificates of ports with http_server.tls. A client gets the first that
        /// has the name it asks for, or that of http_server.tls.
        certificates: Vec<NamedCertificate> = Vec::new();
        /// Clients with TLS 1.3 are kept in a few hundred bytes, by a record layer of this server's own. Without it,
        /// and with TLS 1.2, it is rustls's, in 3 KiB.
        compact: bool = true;
        /// Nodes with the same text, 32 bytes or more of it (openssl rand -hex 32), resume each other's clients with
        /// TLS 1.3, and after a restart too. Empty = a node resumes its own, until it ends. Secret: never printed.
        ticket_secret: String = String::new(), Rule::Secret;
        /// Clients in their handshake, in one reactor; beyond: the oldest of them is closed.
        handshake_limit: usize = 16384, Rule::Count(1, MIB);
        /// Bytes that clients in their handshake said, in one reactor, and that wait for more; beyond: the client with
        /// most of them is closed. The other ports have as much each; beyond: who says more is closed.
        handshake_memory_limit: usize = 32 << 20, Rule::Bytes(128 * KIB, GIB);
        /// Clients of one reactor whose keys stay ready for use with `compact`, at most; a KiB for each. The keys of
        /// all others are made ready when bytes come or go.
        key_cache_size: usize = 256, Rule::Count(1, MIB);
        /// Certificates and keys in files are looked at so often, and those that have changed are taken.
        reload_interval: Duration = secs(10), Rule::Time(secs(1), DAY);
    }
}

options! {
    pub struct NamedCertificate {
        /// The certificate, with those above it: PEM, base64 of that, or a file.
        cert_pem: String = String::new();
        /// Its private key, likewise. Secret: never printed.
        key_pem: String = String::new(), Rule::Secret;
    }
}

impl ListEntry for NamedCertificate {
    const WHAT: &'static str = "a certificate";
    const EXAMPLE: &'static str = "[{\"cert_pem\": \"/etc/gannet/b.pem\", \"key_pem\": \"/etc/gannet/b.key\"}]";
    const NEEDED: &'static [&'static str] = &["cert_pem", "key_pem"];
}

/// A port that may have TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsPort {
    Public,
    Internal,
    Grpc,
    UniGrpc,
}

impl TlsPort {
    /// In the order of their numbers.
    pub const ALL: [TlsPort; TlsPort::COUNT] = [TlsPort::Public, TlsPort::Internal, TlsPort::Grpc, TlsPort::UniGrpc];
    pub const COUNT: usize = 4;

    /// As metrics and the log have it.
    pub fn label(self) -> &'static str {
        match self {
            TlsPort::Public => "public",
            TlsPort::Internal => "internal",
            TlsPort::Grpc => "grpc",
            TlsPort::UniGrpc => "uni_grpc",
        }
    }
}

impl Config {
    /// The TLS of a port with the section that it is from; `None` = it has none, or there is no such port.
    pub fn tls_of(&self, port: TlsPort) -> Option<(&'static str, &TlsOptions)> {
        let (http, grpc, uni) = (&self.http_server, &self.grpc_api, &self.uni_grpc);
        let (section, options) = match port {
            TlsPort::Internal if http.internal_port == 0 => return None,
            TlsPort::Internal if http.internal_tls.enabled => ("http_server.internal_tls", &http.internal_tls),
            TlsPort::Internal if http.tls_external => return None,
            TlsPort::Public | TlsPort::Internal => ("http_server.tls", &http.tls),
            TlsPort::Grpc if !grpc.enabled => return None,
            TlsPort::Grpc => ("grpc_api.tls", &grpc.tls),
            TlsPort::UniGrpc if !uni.enabled => return None,
            TlsPort::UniGrpc => ("uni_grpc.tls", &uni.tls),
        };
        options.enabled.then_some((section, options))
    }

    /// The rules of TLS.
    pub(super) fn check_tls(&self) -> Vec<Problem> {
        let (http, grpc) = (&self.http_server, &self.grpc_api);
        let sections = [
            ("http_server.tls", &http.tls),
            ("http_server.internal_tls", &http.internal_tls),
            ("grpc_api.tls", &grpc.tls),
            ("uni_grpc.tls", &self.uni_grpc.tls),
        ];
        let mut problems = Vec::new();
        for (section, options) in sections.into_iter().filter(|(_, options)| options.enabled) {
            for (key, value) in [("cert_pem", &options.cert_pem), ("key_pem", &options.key_pem)] {
                if value.is_empty() {
                    let message =
                        "expected PEM, base64 of it, or a file that has it, because TLS is enabled; got nothing";
                    let (option, at, message) = (format!("{section}.{key}"), String::new(), message.to_owned());
                    problems.push(Problem { option, at, message });
                }
            }
        }
        let secret = &self.tls.ticket_secret;
        if !secret.is_empty() && secret.len() < SECRET_MIN {
            let message = format!("expected {SECRET_MIN} bytes or more (openssl rand -hex 32); got {}", secret.len());
            problems.push(Problem { option: "tls.ticket_secret".into(), at: String::new(), message });
        }
        problems
    }
}

/// Who can guess the secret can pass for this server to clients that resume.
const SECRET_MIN: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_have_tls_as_centrifugo_gives_it_to_them() {
        let has = |change: fn(&mut Config)| {
            let mut config = Config::default();
            config.http_server.internal_port = 9000;
            change(&mut config);
            TlsPort::ALL.map(|port| config.tls_of(port).map(|(section, _)| section))
        };
        let (public, internal) = (Some("http_server.tls"), Some("http_server.internal_tls"));
        assert_eq!(has(|_| {}), [None; 4]);
        assert_eq!(has(|c| c.http_server.tls.enabled = true), [public, public, None, None]);
        let external = |c: &mut Config| (c.http_server.tls.enabled, c.http_server.tls_external) = (true, true);
        assert_eq!(has(external), [public, None, None, None]);
        let both = |c: &mut Config| (c.http_server.tls.enabled, c.http_server.internal_tls.enabled) = (true, true);
        assert_eq!(has(both), [public, internal, None, None]);
        let none = |c: &mut Config| (c.http_server.tls.enabled, c.http_server.internal_port) = (true, 0);
        assert_eq!(has(none), [public, None, None, None]);
        let grpc = |c: &mut Config| (c.grpc_api.enabled, c.grpc_api.tls.enabled) = (true, true);
        assert_eq!(has(grpc), [None, None, Some("grpc_api.tls"), None]);
        let uni = |c: &mut Config| (c.uni_grpc.enabled, c.uni_grpc.tls.enabled) = (true, true);
        assert_eq!(has(uni), [None, None, None, Some("uni_grpc.tls")]);
        assert_eq!(has(|c| c.uni_grpc.tls.enabled = true), [None; 4]);
        assert_eq!(has(|c| c.grpc_api.tls.enabled = true), [None; 4]);
    }

    #[test]
    fn tls_wants_a_certificate_and_a_secret_that_nobody_guesses() {
        let mut config = Config::default();
        (config.http_server.tls.enabled, config.http_server.tls.key_pem) = (true, "x".into());
        config.tls.ticket_secret = "short".into();
        let said: Vec<String> = config.check().expect_err("refused").iter().map(ToString::to_string).collect();
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].starts_with("http_server.tls.cert_pem: expected PEM"), "{said:?}");
        assert!(said[1].starts_with("tls.ticket_secret: expected 32 bytes or more"), "{said:?}");
    }
}
