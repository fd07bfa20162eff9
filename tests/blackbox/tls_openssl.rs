//! The client of OpenSSL against a port with TLS: another's idea of both versions, of key updates, and of early data.

use crate::certificates::{Certificates, NAME};
use crate::file::File;
use crate::peer::{PATH, upgrade_head};
use crate::secure::Options;
use crate::server::{PATIENCE, Server, until};
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};

/// What is said by one `openssl s_client`, and what it tells.
struct Openssl {
    child: Child,
    says: ChildStdin,
    tells: Receiver<Vec<u8>>,
    told: Vec<u8>,
}

impl Openssl {
    fn start(server: &Server, authority: &File, options: &[&str]) -> Openssl {
        let address = server.address.to_string();
        let mut command = Command::new("openssl");
        command.args(["s_client", "-connect", &address, "-servername", NAME, "-verify_hostname", NAME]);
        command.args(["-CAfile", authority.path(), "-verify_return_error", "-no_ign_eof"]).args(options);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("openssl is installed");
        let (says, mut output) = (child.stdin.take().expect("stdin"), child.stdout.take().expect("stdout"));
        let (tell, tells) = channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                if tell.send(bytes[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Openssl { child, says, tells, told: Vec::new() }
    }

    fn say(&mut self, bytes: &[u8]) {
        self.says.write_all(bytes).and_then(|()| self.says.flush()).expect("it listens");
    }

    fn ends(&mut self) -> ExitStatus {
        until("its end", || self.child.try_wait().expect("wait"))
    }

    /// Waits until it has told `what`; all that it told up to there.
    fn until(&mut self, what: &str) -> String {
        loop {
            if let Some(at) = self.told.windows(what.len()).position(|window| window == what.as_bytes()) {
                return String::from_utf8_lossy(&self.told.drain(..at + what.len()).collect::<Vec<_>>()).into_owned();
            }
            match self.tells.recv_timeout(PATIENCE) {
                Ok(more) => self.told.extend(more),
                Err(_) => panic!("{what:?} is not in {:?}", String::from_utf8_lossy(&self.told)),
            }
        }
    }
}

impl Drop for Openssl {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A masked text frame without a letter at its beginning that s_client takes for a command.
fn text(said: &str) -> Vec<u8> {
    crate::peer::frame(crate::peer::TEXT, said.as_bytes())
}

const LAYERS: [&str; 2] = ["--tls.compact=true", "--tls.compact=false"];

#[test]
fn openssl_speaks_both_versions_with_every_suite() {
    let certificates = Certificates::new();
    let authority = File::new("openssl-ca.pem", &certificates.authority);
    for layer in LAYERS {
        let server = Options::new(&certificates).with(&[layer, "--echo.enabled"]).start();
        for (version, suites) in [
            ("-tls1_3", ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"]),
            (
                "-tls1_2",
                ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305"],
            ),
        ] {
            for suite in suites {
                let option = if version == "-tls1_3" { "-ciphersuites" } else { "-cipher" };
                let mut client = Openssl::start(&server, &authority, &[version, option, suite, "-alpn", "http/1.1"]);
                client.until("Verify return code: 0 (ok)");
                client.say(upgrade_head("/echo", &[]).as_bytes());
                client.until("101 Switching Protocols");
                client.say(&text("one thing and another"));
                client.until("one thing and another");
            }
        }
        for refused in [&["-tls1_1"][..], &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA"], &["-alpn", "h2"]] {
            let mut client = Openssl::start(&server, &authority, refused);
            assert!(!client.ends().success(), "{refused:?}");
        }
    }
}

#[test]
fn keys_are_updated_as_openssl_wants_it() {
    let certificates = Certificates::new();
    let authority = File::new("openssl-update-ca.pem", &certificates.authority);
    for layer in LAYERS {
        let server = Options::new(&certificates).with(&[layer, "--echo.enabled"]).start();
        let mut client = Openssl::start(&server, &authority, &["-tls1_3", "-msg"]);
        client.until("Verify return code: 0 (ok)");
        client.say(upgrade_head("/echo", &[]).as_bytes());
        client.until("101 Switching Protocols");
        for round in 0..3 {
            // Its own key changes; then it wants the server's to change too.
            for (command, answered) in [("k\n", false), ("K\n", true)] {
                client.say(command.as_bytes());
                client.until(">>> TLS 1.3, Handshake [length 0005], KeyUpdate");
                let said = format!("round {round} {answered}");
                client.say(&text(&said));
                if answered {
                    client.until("<<< TLS 1.3, Handshake [length 0005], KeyUpdate");
                }
                client.until(&said);
            }
        }
    }
}

#[test]
fn early_data_is_not_taken() {
    let certificates = Certificates::new();
    let authority = File::new("openssl-early-ca.pem", &certificates.authority);
    let (session, early) = (File::none("openssl-session.pem"), File::new("openssl-early", &upgrade_head(PATH, &[])));
    let server = Options::new(&certificates).start();
    let mut client = Openssl::start(&server, &authority, &["-tls1_3", "-sess_out", session.path()]);
    client.until("Verify return code: 0 (ok)");
    client.say(upgrade_head(PATH, &[]).as_bytes());
    client.until("101 Switching Protocols");
    let _ = client.says.write_all(b"Q\n");
    client.ends();
    // What it has to say of tickets it keeps until then.
    client.until("Max Early Data: 0");
    let options = ["-tls1_3", "-sess_in", session.path(), "-early_data", early.path()];
    let mut client = Openssl::start(&server, &authority, &options);
    assert!(client.until("Early data was").len() < 100_000);
    client.until("not sent");
}
