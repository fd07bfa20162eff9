//! A redis-server of a test: on a free port, in a folder of its own, and ended whatever happens.

use crate::server::until;
use std::io::Write;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

pub struct RedisProcess {
    process: Child,
    pub port: u16,
    folder: PathBuf,
    options: Vec<String>,
}

impl RedisProcess {
    pub fn start(options: &[&str]) -> RedisProcess {
        let port = free_port();
        let folder = std::env::temp_dir().join(format!("gannet-blackbox-redis-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let options: Vec<String> = options.iter().map(ToString::to_string).collect();
        let process = spawn(port, &folder, &options);
        let redis = RedisProcess { process, port, folder, options };
        redis.answers();
        redis
    }

    fn answers(&self) {
        until("the Redis answers", || (self.cli(&["PING"]).trim() == "PONG").then_some(()));
    }

    pub fn address(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// What redis-cli prints.
    pub fn cli(&self, words: &[&str]) -> String {
        let output = Command::new("redis-cli").args(["-p", &self.port.to_string()]).args(words).output();
        String::from_utf8_lossy(&output.expect("redis-cli, which tests/run installs").stdout).into_owned()
    }

    /// Commands as redis-cli reads them from a file: quoted, with bytes as `\x..`.
    pub fn script(&self, text: &str) {
        let mut cli = Command::new("redis-cli");
        let cli = cli.args(["-p", &self.port.to_string()]).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = cli.spawn().expect("redis-cli, which tests/run installs");
        child.stdin.take().expect("stdin").write_all(text.as_bytes()).expect("written");
        assert!(child.wait().expect("its end").success());
    }

    /// As a power cut.
    pub fn kill(&mut self) {
        self.process.kill().expect("killed");
        self.process.wait().expect("ended");
    }

    /// After `kill`.
    pub fn restart(&mut self) {
        self.process = spawn(self.port, &self.folder, &self.options);
        self.answers();
    }

    pub fn signal(&self, name: &str) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().expect("kill").success());
    }
}

/// Three of them that are one cluster.
pub fn cluster() -> Vec<RedisProcess> {
    let options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "30000"];
    let nodes: Vec<RedisProcess> = (0..3).map(|_| RedisProcess::start(&options)).collect();
    let places: Vec<String> = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
    let mut create = vec!["--cluster", "create"];
    create.extend(places.iter().map(String::as_str));
    create.extend(["--cluster-replicas", "0", "--cluster-yes"]);
    nodes[0].cli(&create);
    let whole = |node: &RedisProcess| node.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok");
    until("the cluster is whole", || nodes.iter().all(whole).then_some(()));
    nodes
}

/// Knows where the Redis called mymaster is.
pub struct SentinelProcess {
    process: Child,
    pub port: u16,
    folder: PathBuf,
}

impl SentinelProcess {
    pub fn start(master: &RedisProcess) -> SentinelProcess {
        let port = free_port();
        let folder = std::env::temp_dir().join(format!("gannet-blackbox-sentinel-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let file = folder.join("sentinel.conf");
        let monitored = format!("sentinel monitor mymaster 127.0.0.1 {} 1", master.port);
        std::fs::write(&file, format!("port {port}\nbind 127.0.0.1\n{monitored}\n")).expect("written");
        let mut command = Command::new("redis-sentinel");
        let process = command.arg(&file).stdout(Stdio::null()).spawn().expect("redis-sentinel");
        let sentinel = SentinelProcess { process, port, folder };
        let ping = || Command::new("redis-cli").args(["-p", &port.to_string(), "PING"]).output().expect("redis-cli");
        until("the sentinel answers", || ping().stdout.starts_with(b"PONG").then_some(()));
        sentinel
    }
}

impl Drop for SentinelProcess {
    fn drop(&mut self) {
        // It may be ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

pub fn free_port() -> u16 {
    // Below those that the kernel gives to connections, and so is the one of a cluster's bus, 10,000 above.
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = std::process::id() as u16;
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    loop {
        let port = 10_000 + first.wrapping_mul(97).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        if is_free(port) && is_free(port + 10_000) {
            return port;
        }
    }
}

fn spawn(port: u16, folder: &PathBuf, options: &[String]) -> Child {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
        .arg("--dir")
        .arg(folder)
        .args(options)
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server, which tests/run installs")
}

impl Drop for RedisProcess {
    fn drop(&mut self) {
        // It may be ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
