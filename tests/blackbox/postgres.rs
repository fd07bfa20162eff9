//! A PostgreSQL of a test: on a free port, in a folder of its own, and ended whatever happens.

use crate::redis::free_port;
use crate::server::until;
use rustix::process::geteuid;
use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

pub struct PostgresProcess {
    process: Child,
    pub port: u16,
    folder: PathBuf,
    options: Vec<String>,
}

/// Where Debian has the programs, of whichever version.
fn program(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL, which tests/run installs");
    let found = versions.flatten().map(|version| version.path().join("bin").join(name)).find(|path| path.exists());
    found.expect("a program of PostgreSQL, which tests/run installs")
}

/// It refuses to be root.
fn command(name: &str) -> Command {
    let program = program(name);
    if !geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]).arg(program);
    command
}

impl PostgresProcess {
    /// Everyone on this host may come as whoever they like. `options`: `-c name=value`, as the server takes them.
    pub fn start(options: &[&str]) -> PostgresProcess {
        PostgresProcess::start_with(options, &[])
    }

    /// With files, by their names, that only the server may read. Its folder is where it is.
    pub fn start_with(options: &[&str], files: &[(&str, &str)]) -> PostgresProcess {
        let port = free_port();
        let folder = std::env::temp_dir().join(format!("gannet-blackbox-postgres-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        if geteuid().is_root() {
            assert!(Command::new("chown").arg("postgres:").arg(&folder).status().expect("chown").success());
        }
        let mut init = command("initdb");
        let init = init.arg("-D").arg(folder.join("db")).args(["-U", "postgres", "-A", "trust", "-N", "-E", "UTF8"]);
        let made = init.current_dir(&folder).output().expect("initdb");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        for (name, text) in files {
            let path = folder.join(name);
            std::fs::write(&path, text).expect("written");
            std::fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("its permissions");
            if geteuid().is_root() {
                assert!(Command::new("chown").arg("postgres:").arg(&path).status().expect("chown").success());
            }
        }
        let options: Vec<String> = options.iter().map(ToString::to_string).collect();
        let process = spawn(port, &folder, &options);
        let postgres = PostgresProcess { process, port, folder, options };
        postgres.answers();
        postgres
    }

    fn answers(&self) {
        until("PostgreSQL answers", || self.try_sql("SELECT 1").ok());
    }

    pub fn dsn(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    fn try_sql(&self, text: &str) -> Result<String, String> {
        let mut psql = Command::new(program("psql"));
        let psql = psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", &self.dsn()]);
        let mut child = psql.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("psql");
        let written = child.stdin.take().expect("stdin").write_all(text.as_bytes());
        let output = child.wait_with_output().expect("its end");
        match written.is_ok() && output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// Carries out statements; what they say, a row on a line.
    pub fn sql(&self, text: &str) -> String {
        self.try_sql(text).unwrap_or_else(|error| panic!("{error}"))
    }

    /// A program that carries out statements, however long they take.
    pub fn session(&self, text: &str) -> Child {
        let mut psql = Command::new(program("psql"));
        psql.args(["-X", "-q", "-d", &self.dsn(), "-c", text]);
        psql.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("psql")
    }

    /// As a power cut, as far as this process is concerned.
    pub fn kill(&mut self) {
        // Its children go when they see that it is gone.
        self.process.kill().expect("killed");
        self.process.wait().expect("ended");
    }

    /// After `kill`.
    pub fn restart(&mut self) {
        // Until the children are gone, the memory that they share keeps another from starting.
        until("PostgreSQL is back", || {
            if self.try_sql("SELECT 1").is_ok() && self.process.try_wait().expect("wait").is_none() {
                return Some(());
            }
            if self.process.try_wait().expect("wait").is_some() {
                self.process = spawn(self.port, &self.folder, &self.options);
            }
            None
        });
    }
}

fn spawn(port: u16, folder: &Path, options: &[String]) -> Child {
    let mut postgres = command("postgres");
    postgres.arg("-D").arg(folder.join("db")).args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"]);
    // The kernel keeps what it was given when a process is killed.
    postgres.args(["-c", "fsync=off"]);
    postgres.arg("-c").arg(format!("unix_socket_directories={}", folder.display())).args(options);
    let log = std::fs::File::create(folder.join("log")).expect("a log");
    postgres.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("postgres")
}

impl Drop for PostgresProcess {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            eprintln!("--- PostgreSQL's log:\n{log}");
        }
        // Its children end with it. It may be ended already.
        let _ = Command::new("kill").args(["-QUIT", &self.process.id().to_string()]).stderr(Stdio::null()).status();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
