//! Gannet as a process that tests put under load. Builds it first, so that no test is of an old one.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

/// The server's binary: `$GANNET`, or built into the target directory of this test.
fn gannet() -> &'static PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        if let Some(path) = std::env::var_os("GANNET") {
            return path.into();
        }
        let this = std::env::current_exe().expect("a path");
        let is_profile = |path: &&Path| ["debug", "release", "dist"].iter().any(|name| path.ends_with(name));
        let profile_dir = this.ancestors().find(is_profile).expect("a target directory");
        // With the workspace, so that what its tests built is built already.
        let mut build = Command::new(env!("CARGO"));
        build
            .args(["build", "--workspace", "--bin", "gannet", "--target-dir"])
            .arg(profile_dir.parent().expect("a parent"));
        build.args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml")]);
        match profile_dir.file_name().and_then(|name| name.to_str()) {
            Some("debug") | None => {}
            Some(name) => drop(build.args(["--profile", name])),
        }
        assert!(build.status().expect("cargo runs").success(), "the server builds");
        profile_dir.join("gannet")
    })
}

/// A running server.
pub struct Server {
    pub child: Child,
    pub address: String,
}

impl Server {
    pub fn start(arguments: &[&str]) -> Self {
        let fixed = ["--http_server.port", "0", "--http_server.address", "127.0.0.1", "--log.format", "json"];
        let mut command = Command::new(gannet());
        command.args(fixed).args(["--echo.enabled", "--reactors", "2"]).args(arguments);
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("the server starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let address = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let line: Value = serde_json::from_str(&line).ok()?;
            (line["message"] == "listening").then(|| line["address"].as_str().map(str::to_owned))?
        });
        // The server must never wait for a reader of its log.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address: address.expect("the server says where it listens") }
    }

    pub fn url(&self, path: &str) -> String {
        format!("ws://{}{path}", self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Options for a server that keeps so many publications of each channel.
pub fn history(size: &str) -> [&str; 6] {
    let (count, time) = ("--channel.without_namespace.history_size", "--channel.without_namespace.history_ttl");
    [count, size, time, "10m", "--channel.without_namespace.force_recovery", "--client.insecure"]
}
