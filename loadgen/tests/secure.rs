//! The program over TLS against Gannet: both versions, scenarios that connect, speak, leave and are cut.

mod under_load;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::Value;
use under_load::{Server, history};

fn loadgen(arguments: &[&str]) -> (Output, Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gannet-loadgen"));
    let output = command.args(arguments).args(["--quiet", "--json", "-"]).output().expect("the program runs");
    let result = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (output, result)
}

/// A server whose certificate is of an authority in a file.
struct Secured {
    server: Server,
    authority: PathBuf,
}

impl Secured {
    fn start(name: &str, options: &[&str]) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut authority = CertificateParams::new(Vec::new()).expect("sound");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority_pem = authority.self_signed(&key).expect("a certificate").pem();
        let (issuer, own_key) = (Issuer::new(authority, key), KeyPair::generate().expect("a key"));
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let own = CertificateParams::new(names).expect("names").signed_by(&own_key, &issuer).expect("a certificate");
        let file = std::env::temp_dir().join(format!("gannet-loadgen-{name}-{}.pem", std::process::id()));
        fs::write(&file, authority_pem).expect("written");
        let certificate = format!("--http_server.tls.cert_pem={}", own.pem());
        let key = format!("--http_server.tls.key_pem={}", own_key.serialize_pem());
        // Handshakes are dear on a machine that is busy with something else.
        let tls = ["--http_server.tls.enabled", &certificate, &key, "--http_server.handshake_timeout", "2m"];
        Self { server: Server::start(&[&tls, options].concat()), authority: file }
    }

    fn url(&self, path: &str) -> String {
        self.server.url(path).replacen("ws:", "wss:", 1)
    }
}

impl Drop for Secured {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.authority);
    }
}

#[test]
fn scenarios_reach_their_goals_over_both_versions() {
    let secured = Secured::start("scenarios", &[&history("2000")[..], &["--prometheus.enabled"]].concat());
    let (url, echo) = (secured.url("/connection/websocket"), secured.url("/echo"));
    let metrics = format!("https://{}/metrics", secured.server.address);
    let authority = secured.authority.to_str().expect("a path");
    for version in ["1.3", "1.2"] {
        let run = |arguments: &[&str]| {
            let (output, result) = loadgen(
                &[arguments, &["--ca", authority, "--tls-version", version, "--connect-timeout", "2m"]].concat(),
            );
            assert_eq!(output.status.code(), Some(0), "{arguments:?}: {result:#}");
            result
        };
        let load = ["--clients", "10", "--channels", "10", "--duration", "200ms", "--metrics", &metrics];
        let idle = run(&[&["idle", &url], &load[..]].concat());
        assert!(idle["server_metrics"]["rss_bytes"].as_u64() > Some(0), "{idle:#}");
        assert!(idle["target"].as_str().is_some_and(|target| target.starts_with("wss://")), "{idle:#}");
        // Larger than a record.
        let spoken = run(&["echo", &echo, "--clients", "2", "--duration", "200ms", "--size", "40000", "--grace", "1m"]);
        assert_eq!(spoken["counts"]["received"], spoken["counts"]["sent"]);
        let load = ["--subscribers", "10", "--rate", "10", "--duration", "500ms", "--grace", "1m", "--protobuf"];
        let fanout = run(&[&["fanout", &url], &load[..]].concat());
        assert_eq!((&fanout["counts"]["sent"], &fanout["counts"]["received"]), (&5.into(), &50.into()));
        let storm = run(&["storm", &url, "--clients", "10", "--rounds", "2", "--pause", "50ms"]);
        assert_eq!(storm["counts"]["connections_opened"], 30);
        let load =
            ["--clients", "10", "--channels", "1", "--recover", "--away", "200ms", "--pause", "200ms", "--grace", "1m"];
        let storm = run(&[&["storm", &url], &load[..]].concat());
        assert_eq!(storm["recovery"]["recovered"], 10, "{storm:#}");
        run(&["churn", &url, "--clients", "5", "--rate", "10", "--duration", "500ms"]);
    }
}

#[test]
fn who_is_not_believed_is_told() {
    let secured = Secured::start("unknown", &["--client.insecure"]);
    let url = secured.url("/connection/websocket");
    let other = Secured::start("other", &[]);
    let wrong = other.authority.to_str().expect("a path");
    let idle = ["idle", &url, "--clients", "2", "--duration", "100ms"];
    let (output, result) = loadgen(&[&idle[..], &["--ca", wrong]].concat());
    assert_eq!(output.status.code(), Some(1), "{result:#}");
    assert!(result["errors"].to_string().contains("invalid peer certificate"), "{result:#}");
    let (output, result) = loadgen(&[&idle[..], &["--insecure"]].concat());
    assert_eq!(output.status.code(), Some(0), "{result:#}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_gannet-loadgen"));
    let output = command.args(idle).args(["--ca", "/nonexistent"]).output().expect("the program runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(errors.contains("--ca /nonexistent"), "{errors}");
}
