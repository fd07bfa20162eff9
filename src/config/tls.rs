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
    pub struct TlsAutocert {
        /// The public port has TLS, with certificates that come by ACME (RFC 8555) and are renewed. The authority asks
        /// at port 443 of each name, by TLS-ALPN-01: it must lead here. In place of `http_server.tls`.
        enabled: bool = false;
        /// Names that get a certificate, each its own.
        host_whitelist: Vec<String> = Vec::new();
        /// Folder for certificates and keys, and for the account: it is made so that nobody else may read it.
        cache_dir: String = String::new();
        /// Where the authority writes to when something is wrong.
        email: String = String::new();
        /// Which of the names is shown to who asks for none. Empty = the first.
        server_name: String = String::new();
        /// The directory of the authority, an https URL.
        directory_url: String = "https://acme-v02.api.letsencrypt.org/directory".into(), Rule::Url;
        /// Authorities that the directory's own certificate is from: PEM, base64 of it, or a file. Empty = this host's.
        directory_ca_pem: String = String::new();
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

/// The section of certificates by ACME.
pub const AUTOCERT: &str = "http_server.tls_autocert";

impl Config {
    /// The TLS of a port with the section that it is from; `None` = it has none, or there is no such port.
    pub fn tls_of(&self, port: TlsPort) -> Option<(&'static str, &TlsOptions)> {
        let (http, grpc, uni) = (&self.http_server, &self.grpc_api, &self.uni_grpc);
        let (section, options) = match port {
            TlsPort::Internal if http.internal_port == 0 => return None,
            TlsPort::Internal if http.internal_tls.enabled => ("http_server.internal_tls", &http.internal_tls),
            TlsPort::Internal if http.tls_external => return None,
            TlsPort::Public | TlsPort::Internal if http.tls_autocert.enabled => return Some((AUTOCERT, &http.tls)),
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
        problems.extend(self.check_autocert());
        let secret = &self.tls.ticket_secret;
        if !secret.is_empty() && secret.len() < SECRET_MIN {
            let message = format!("expected {SECRET_MIN} bytes or more (openssl rand -hex 32); got {}", secret.len());
            problems.push(Problem { option: "tls.ticket_secret".into(), at: String::new(), message });
        }
        problems
    }
}

impl Config {
    fn check_autocert(&self) -> Vec<Problem> {
        let (http, autocert) = (&self.http_server, &self.http_server.tls_autocert);
        if !autocert.enabled {
            return Vec::new();
        }
        let problem = |key: &str, at: String, message: &str| {
            let option = if key.is_empty() { AUTOCERT.to_owned() } else { format!("{AUTOCERT}.{key}") };
            Problem { option, at, message: message.to_owned() }
        };
        let mut problems = Vec::new();
        if http.tls.enabled {
            let message = "expected one of tls and tls_autocert; got both: further certificates go to tls.certificates";
            problems.push(problem("enabled", String::new(), message));
        }
        if autocert.host_whitelist.is_empty() {
            let message = "expected the names to get certificates for; got none";
            problems.push(problem("host_whitelist", String::new(), message));
        }
        for (at, name) in autocert.host_whitelist.iter().enumerate().filter(|(_, name)| !is_host(name)) {
            let message = format!("expected a name such as ws.example.com, without a wildcard; got {name:?}");
            problems.push(problem("host_whitelist", format!("[{at}]"), &message));
        }
        if autocert.cache_dir.is_empty() {
            let message = "expected a folder, so that a restart needs no new certificates; got nothing";
            problems.push(problem("cache_dir", String::new(), message));
        }
        if !autocert.directory_url.starts_with("https://") {
            problems.push(problem("directory_url", String::new(), "expected an https URL"));
        }
        problems
    }
}

/// Does a certificate for it come by TLS-ALPN-01? It is a file's name too.
fn is_host(name: &str) -> bool {
    let is_label = |label: &str| {
        let sound = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        sound && (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
    };
    let is_address = name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    name.len() <= 253 && !is_address && name.split('.').all(is_label)
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
        let autocert = |c: &mut Config| c.http_server.tls_autocert.enabled = true;
        assert_eq!(has(autocert), [Some(AUTOCERT), Some(AUTOCERT), None, None]);
    }

    #[test]
    fn certificates_come_for_names_that_an_authority_can_ask_for() {
        let mut config = Config::default();
        config.http_server.tls_autocert.enabled = true;
        let said = |config: &Config| -> Vec<String> {
            config.check().err().unwrap_or_default().iter().map(ToString::to_string).collect()
        };
        let faults = said(&config);
        assert!(faults.len() == 2 && faults[0].starts_with("http_server.tls_autocert.host_whitelist"), "{faults:?}");
        let autocert = &mut config.http_server.tls_autocert;
        autocert.cache_dir = "/var/lib/gannet".into();
        autocert.host_whitelist = ["a.example", "A-1.example", "localhost"].map(str::to_owned).into();
        assert_eq!(said(&config), Vec::<String>::new());
        let wrong = ["*.example", "", "a..b", "../a", "127.0.0.1", "a.example.", "-a.example", "a_b.example"];
        config.http_server.tls_autocert.host_whitelist = wrong.map(str::to_owned).into();
        assert_eq!(said(&config).len(), wrong.len(), "{:?}", said(&config));
        (config.http_server.tls_autocert.host_whitelist, config.http_server.tls.enabled) = (vec!["a.b".into()], true);
        config.http_server.tls_autocert.directory_url = "http://a.example".into();
        let faults = said(&config);
        assert!(faults.iter().any(|line| line.contains("one of tls and tls_autocert")), "{faults:?}");
        assert!(faults.iter().any(|line| line.contains("expected an https URL")), "{faults:?}");
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
