//! Databases of a test: PostgreSQL and MariaDB on free ports, in folders of their own, and ended whatever happens.
//!
//! A shell stands between: when this process is gone, or asks it to, it ends the database as a power cut would.

use rcgen::generate_simple_self_signed;
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

pub const PASSWORD: &str = "pass-word";
/// The name in the certificate that they show.
pub const TLS_NAME: &str = "database.example";
const PATIENCE: Duration = Duration::from_secs(120);

const GUARD: &str = "\"$@\" & p=$!; read word; kill -9 $p $(cat /proc/$p/task/$p/children); wait $p; \
                     if [ \"$word\" != keep ]; then rm -rf \"$FOLDER\"; fi";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Postgres,
    MariaDb,
}

pub struct Database {
    pub kind: Kind,
    pub port: u16,
    folder: PathBuf,
    guard: Child,
}

fn free_port() -> u16 {
    // Below those that the kernel gives to connections.
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = std::process::id() as u16;
    loop {
        let port = 22_000 + first.wrapping_mul(89).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 9_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}, which tests/run installs: {error}"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn is_root() -> bool {
    run(Command::new("id").arg("-u")).trim() == "0"
}

/// Where PostgreSQL has its programs: not in the path.
fn postgres(program: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL, which tests/run installs");
    let mut found: Vec<PathBuf> = versions.flatten().map(|version| version.path().join("bin").join(program)).collect();
    found.retain(|path| path.exists());
    found.sort();
    found.pop().expect("a PostgreSQL server")
}

/// The command as the user that the database wants to be; `root` is none.
fn as_user(user: &str, program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args([&format!("--reuid={user}"), &format!("--regid={user}"), "--init-groups"]).arg(program);
    command
}

impl Database {
    pub fn start(kind: Kind) -> Database {
        let port = free_port();
        let folder = std::env::temp_dir().join(format!("gannet-database-{}-{port}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let made = generate_simple_self_signed([TLS_NAME.to_owned()]).expect("a certificate");
        fs::write(folder.join("cert.pem"), made.cert.pem()).expect("written");
        fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).expect("written");
        fs::write(folder.join("password"), PASSWORD).expect("written");
        // A MariaDB that starts deletes what others keep for a while in the folder that all have by default.
        fs::create_dir(folder.join("tmp")).expect("a folder");
        let user = if kind == Kind::Postgres { "postgres" } else { "mysql" };
        if is_root() {
            run(Command::new("chown").args(["-R", &format!("{user}:{user}")]).arg(&folder));
        }
        run(Command::new("chmod").args(["0600"]).arg(folder.join("key.pem")));
        match kind {
            Kind::Postgres => {
                let mut init = as_user(user, &postgres("initdb"));
                init.arg("-D").arg(folder.join("db")).args(["-U", "gannet", "-A", "scram-sha-256", "--no-sync"]);
                init.args(["--locale=C", "-E", "UTF8"]).arg("--pwfile").arg(folder.join("password"));
                run(&mut init);
            }
            Kind::MariaDb => {
                let mut init = Command::new("mariadb-install-db");
                init.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]);
                if is_root() {
                    init.arg("--user=mysql");
                }
                init.arg(format!("--datadir={}", folder.join("db").display()));
                run(init.arg(format!("--tmpdir={}", folder.join("tmp").display())));
            }
        }
        let guard = spawn(kind, port, &folder);
        let database = Database { kind, port, folder, guard };
        database.answers();
        if kind == Kind::MariaDb {
            let user = format!("CREATE USER gannet@'%' IDENTIFIED BY '{PASSWORD}'; GRANT ALL ON *.* TO gannet@'%'");
            run(database.client("root", "").args(["-e", &user]));
        }
        database
    }

    fn answers(&self) {
        let began = Instant::now();
        loop {
            let mut ping = match self.kind {
                Kind::Postgres => Command::new(postgres("pg_isready")),
                Kind::MariaDb => Command::new("mariadb-admin"),
            };
            match self.kind {
                Kind::Postgres => ping.args(["-q", "-h", "127.0.0.1", "-t", "1", "-p", &self.port.to_string()]),
                Kind::MariaDb => {
                    ping.args(["--no-defaults", "-h", "127.0.0.1", "-u", "root", "-P", &self.port.to_string(), "ping"])
                }
            };
            let said = ping.output().expect("a client, which tests/run installs");
            if said.status.success() {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{:?} does not answer: {said:?}", self.kind);
        }
    }

    fn client(&self, user: &str, database: &str) -> Command {
        let port = self.port.to_string();
        let mut command;
        match self.kind {
            Kind::Postgres => {
                command = Command::new(postgres("psql"));
                command.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", &port]);
                command.args(["-U", user, "-d", if database.is_empty() { "postgres" } else { database }]);
                command.env("PGPASSWORD", PASSWORD);
            }
            Kind::MariaDb => {
                command = Command::new("mariadb");
                command.args(["--no-defaults", "-N", "-B", "-h", "127.0.0.1", "-P", &port, "-u", user]);
                if user != "root" {
                    command.arg(format!("-p{PASSWORD}"));
                }
                command.args(Some(database).filter(|name| !name.is_empty()));
            }
        }
        command
    }

    /// What the database's own client prints.
    pub fn sql(&self, database: &str, text: &str) -> String {
        let flag = if self.kind == Kind::Postgres { "-c" } else { "-e" };
        run(self.client("gannet", database).args([flag, text])).trim().to_owned()
    }

    /// An empty database, and its address.
    pub fn fresh(&self, name: &str) -> String {
        self.sql("", &format!("CREATE DATABASE {name}"));
        let scheme = if self.kind == Kind::Postgres { "postgresql" } else { "mysql" };
        format!("{scheme}://gannet:{PASSWORD}@127.0.0.1:{}/{name}", self.port)
    }

    /// The certificate that it shows.
    pub fn certificate(&self) -> String {
        fs::read_to_string(self.folder.join("cert.pem")).expect("a certificate")
    }

    /// As a power cut.
    pub fn kill(&mut self) {
        let mut stdin = self.guard.stdin.take().expect("it runs");
        stdin.write_all(b"keep\n").expect("told");
        self.guard.wait().expect("ended");
    }

    /// After `kill`.
    pub fn restart(&mut self) {
        self.guard = spawn(self.kind, self.port, &self.folder);
        self.answers();
    }
}

fn spawn(kind: Kind, port: u16, folder: &Path) -> Child {
    let at = |name: &str| folder.join(name).display().to_string();
    let server = match kind {
        Kind::Postgres => {
            let mut server = as_user("postgres", &postgres("postgres"));
            server.args(["-D", &at("db"), "-p", &port.to_string()]);
            let tls = [format!("ssl_cert_file={}", at("cert.pem")), format!("ssl_key_file={}", at("key.pem"))];
            let sockets = format!("unix_socket_directories={}", folder.display());
            for option in ["listen_addresses=127.0.0.1", "fsync=off", "ssl=on", "max_connections=200", &sockets] {
                server.args(["-c", option]);
            }
            for option in &tls {
                server.args(["-c", option]);
            }
            server
        }
        Kind::MariaDb => {
            let mut server = as_user("mysql", Path::new("mariadbd"));
            server.args(["--no-defaults", "--bind-address=127.0.0.1", "--innodb-buffer-pool-size=32M"]);
            server.arg(format!("--port={port}")).arg(format!("--datadir={}", at("db")));
            server.arg(format!("--socket={}", at("socket"))).arg(format!("--pid-file={}", at("pid")));
            server.arg(format!("--tmpdir={}", at("tmp")));
            server.arg(format!("--ssl-cert={}", at("cert.pem"))).arg(format!("--ssl-key={}", at("key.pem")));
            server
        }
    };
    let mut guard = Command::new("sh");
    guard.args(["-c", GUARD, "guard"]).arg(server.get_program()).args(server.get_args());
    let log = fs::File::create(folder.join("log")).expect("a file");
    let errors = log.try_clone().expect("a file");
    guard.env("FOLDER", folder).stdin(Stdio::piped()).stdout(log).stderr(errors).spawn().expect("a shell")
}

impl Drop for Database {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}
