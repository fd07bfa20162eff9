//! F9 · Tests of certificates: real ones, in files that change.

use super::*;
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use std::path::PathBuf;

/// A certificate for `name` and its key, in PEM.
fn made(name: &str) -> (String, String) {
    let mut params = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
    params.not_after = date_time_ymd(2051, 3, 4);
    let key = KeyPair::generate().expect("a key");
    (params.self_signed(&key).expect("a certificate").pem(), key.serialize_pem())
}

struct Files(PathBuf);

impl Files {
    fn new(name: &str) -> Files {
        let folder = std::env::temp_dir().join(format!("gannet-certificates-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        Files(folder)
    }

    fn put(&self, (certificate, key): &(String, String)) {
        std::fs::write(self.0.join("tls.crt"), certificate).expect("write");
        std::fs::write(self.0.join("tls.key"), key).expect("write");
    }

    fn config(&self) -> Config {
        let mut config = Config::default();
        let path = |name: &str| self.0.join(name).to_str().expect("a path").to_owned();
        let tls = &mut config.http_server.tls;
        (tls.enabled, tls.cert_pem, tls.key_pem) = (true, path("tls.crt"), path("tls.key"));
        config
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_pair_is_taken_when_it_has_changed_and_fits() {
    let (files, [one, other]) = (Files::new("reload"), [made("a.example"), made("a.example")]);
    files.put(&one);
    let config = files.config();
    let certificates = Certificates::new(&config).expect("a pair");
    let now = || certificates.of(TlsPort::Public).expect("the port has TLS");
    let first = now();
    assert_eq!(certificates.reload(&config), Ok(false), "nothing changed");
    // The certificate is there already, its key is not.
    files.put(&(other.0.clone(), one.1));
    let refused = certificates.reload(&config).expect_err("no pair");
    assert_eq!(refused, "http_server.tls.key_pem: is not the key of the certificate in cert_pem");
    assert_eq!(certificates.reload(&config), Ok(false), "it is told once");
    assert!(Arc::ptr_eq(&now(), &first), "the old one stays");
    files.put(&other);
    assert_eq!(certificates.reload(&config), Ok(true));
    assert!(!Arc::ptr_eq(&now(), &first));
    files.put(&("nothing".into(), other.1));
    let refused = certificates.reload(&config).expect_err("no certificate");
    assert!(refused.starts_with("http_server.tls.cert_pem: expected a certificate in PEM"), "{refused}");
    let mut page = Page::default();
    certificates.write(&mut page);
    let text = page.into_text();
    for line in [
        "gannet_tls_certificate_expiry_timestamp_seconds{port=\"public\",certificate=\"0\"} 2561500800",
        "gannet_tls_certificate_reloads_total 1",
        "gannet_tls_certificate_reload_failures_total 2",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
    }
    assert_eq!(certificates.expiring(2561500800 - 60, 60), [(TlsPort::Public, 60)]);
    assert_eq!(certificates.expiring(2561500800 - 61, 60), []);
}

#[test]
fn what_is_wrong_is_told_by_its_option() {
    let ((certificate, key), (other, other_key)) = (made("a.example"), made("b.example"));
    let said = |change: &dyn Fn(&mut Config)| {
        let mut config = Config::default();
        let tls = &mut config.http_server.tls;
        (tls.enabled, tls.cert_pem, tls.key_pem) = (true, certificate.clone(), key.clone());
        change(&mut config);
        faults(&config)
    };
    assert_eq!(said(&|_| {}), Vec::<String>::new());
    assert_eq!(said(&|c| c.http_server.tls.enabled = false), Vec::<String>::new());
    let named = |certificate: &str, key: &str| {
        vec![crate::config::NamedCertificate { cert_pem: certificate.into(), key_pem: key.into() }]
    };
    assert_eq!(said(&|c| c.tls.certificates = named(&other, &other_key)), Vec::<String>::new());
    type Change<'a> = &'a dyn Fn(&mut Config);
    let cases: [(Change<'_>, &str); 4] = [
        (&|c| c.http_server.tls.key_pem = other_key.clone(), "http_server.tls.key_pem: is not the key"),
        (&|c| c.http_server.tls.client_ca_pem = "/nonexistent".into(), "http_server.tls.client_ca_pem: expected PEM"),
        (&|c| c.tls.certificates = named(&other, &key), "tls.certificates[0].key_pem: is not the key"),
        (&|c| c.tls.certificates = named("/nonexistent", &key), "tls.certificates[0].cert_pem: expected PEM"),
    ];
    for (change, start) in cases {
        let faults = said(change);
        assert!(faults.len() == 1 && faults[0].starts_with(start), "{faults:?}");
        assert!(!faults[0].contains(&key[40..80]), "a key is not quoted");
    }
}
