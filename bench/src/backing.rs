//! Stores on this disk that servers under measurement use or stand beside: PostgreSQL, MariaDB, NATS, Redis.
//!
//! Each has a folder of its own, takes a free port, syncs as it does by default unless told otherwise, and is gone when
//! dropped or when the harness dies.

use std::fs;
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::publisher::read_until;
use crate::server::{bound_to, on_path};

/// Which store, and how it syncs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    Postgres,
    MariaDb,
    /// JetStream; `true`: each message is on disk before its answer
    Nats(bool),
    /// `true`: as above; else each second
    Redis(bool),
}

/// How long one may take to start.
const PATIENCE: Duration = Duration::from_secs(60);
/// The stream that publications go to, and its subjects.
const STREAM: &str = r#"{"name":"BENCH","subjects":["hi.*"],"storage":"file","retention":"limits","num_replicas":1}"#;

impl Backing {
    /// Its program, or why there is none.
    fn program(self) -> io::Result<PathBuf> {
        let lacks = |what: &str| io::Error::other(what.to_owned());
        match self {
            Backing::Postgres => postgres("postgres"),
            Backing::MariaDb => on_path("mariadbd").ok_or_else(|| lacks("mariadbd is needed (apt: mariadb-server)")),
            Backing::Redis(_) => on_path("redis-server").ok_or_else(|| lacks("redis-server is needed")),
            // The one of the distribution is older than sync_interval.
            Backing::Nats(_) => Some(std::env::current_exe()?.with_file_name("peer_nats"))
                .filter(|path| path.is_file())
                .ok_or_else(|| lacks("nats-server is not built: bench/durable does it, and needs go")),
        }
    }

    /// Why it must be left out, if it must.
    pub fn left_out(self) -> Option<String> {
        self.program().err().map(|error| error.to_string())
    }

    /// The user that it runs as, if this is root.
    fn user(self) -> Option<&'static str> {
        let name = match self {
            Backing::Postgres => "postgres",
            Backing::MariaDb => "mysql",
            Backing::Nats(_) | Backing::Redis(_) => return None,
        };
        rustix::process::geteuid().is_root().then_some(name)
    }

    /// Makes what a server finds at its first start.
    fn prepare(self, folder: &Path) -> io::Result<()> {
        let at = |name: &str| folder.join(name).display().to_string();
        if let Some(user) = self.user() {
            run(Command::new("chown").arg(format!("{user}:")).arg(folder))?;
        }
        match self {
            Backing::Postgres => {
                let (program, data) = (postgres("initdb")?.display().to_string(), at("db"));
                let words = [&program, "-D", &data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"];
                run(bound_to(self.user(), &words).current_dir(folder))
            }
            Backing::MariaDb => {
                let mut make = Command::new("mariadb-install-db");
                make.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]);
                if let Some(user) = self.user() {
                    make.arg(format!("--user={user}"));
                }
                run(make.arg(format!("--datadir={}", at("db"))).arg(format!("--tmpdir={}", folder.display())))
            }
            Backing::Nats(_) | Backing::Redis(_) => Ok(()),
        }
    }

    fn words(self, folder: &Path, port: u16) -> io::Result<Vec<String>> {
        let at = |name: &str| folder.join(name).display().to_string();
        let here = folder.display();
        let text = match self {
            Backing::Postgres => format!(
                "-D {} -p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={here} -c max_connections=50",
                at("db")
            ),
            Backing::MariaDb => format!(
                "--no-defaults --bind-address=127.0.0.1 --port={port} --datadir={} --socket={} --pid-file={} \
                 --tmpdir={here}",
                at("db"),
                at("socket"),
                at("pid")
            ),
            Backing::Nats(always) => {
                let sync = if always { "sync_interval: always" } else { "" };
                let jetstream = format!("jetstream {{ store_dir: \"{}\"\n {sync} }}", at("js"));
                fs::write(folder.join("nats.conf"), format!("listen: \"127.0.0.1:{port}\"\n{jetstream}\n"))?;
                format!("-c {}", at("nats.conf"))
            }
            Backing::Redis(always) => format!(
                "--bind 127.0.0.1 --port {port} --dir {here} --save '' --appendonly yes --appendfsync {} \
                 --auto-aof-rewrite-percentage 0",
                if always { "always" } else { "everysec" }
            ),
        };
        Ok(text.split_whitespace().map(|word| word.replace("''", "")).collect())
    }
}

/// One that runs.
pub struct BackingServer {
    backing: Backing,
    child: Child,
    pub port: u16,
}

impl BackingServer {
    /// Starts it in `folder`, with what is there from an earlier start, on this core.
    pub fn start(backing: Backing, folder: &Path, core: usize) -> io::Result<Self> {
        let program = backing.program()?;
        if !folder.is_dir() {
            fs::create_dir_all(folder)?;
            backing.prepare(folder)?;
        }
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let (core, program) = (core.to_string(), program.display().to_string());
        let options = backing.words(folder, port)?;
        let words = ["taskset", "--cpu-list", &core, &program].into_iter().chain(options.iter().map(String::as_str));
        let mut command = bound_to(backing.user(), &words.collect::<Vec<_>>());
        let log = fs::File::create(folder.join("log"))?;
        command.current_dir(folder).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn()?;
        let mut server = Self { backing, child, port };
        let end = Instant::now() + PATIENCE;
        while server.answers().is_err() {
            let ended = server.child.try_wait()?;
            if ended.is_some() || Instant::now() > end {
                let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
                return Err(io::Error::other(format!("{backing:?} does not start ({ended:?}): {log}")));
            }
            sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    pub fn kind(&self) -> Backing {
        self.backing
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn answers(&self) -> io::Result<()> {
        match self.backing {
            Backing::Postgres => self.sql("SELECT 1"),
            Backing::MariaDb => self.sql("SELECT 1"),
            Backing::Nats(_) => self.make_stream(),
            Backing::Redis(_) => {
                let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.write_all(b"PING\r\n")?;
                read_until(&mut stream, b"+PONG\r\n").map(drop)
            }
        }
    }

    fn sql(&self, text: &str) -> io::Result<()> {
        let port = self.port.to_string();
        let mut client = match self.backing {
            Backing::Postgres => Command::new(postgres("psql")?),
            _ => Command::new("mariadb"),
        };
        match self.backing {
            Backing::Postgres => {
                client.args(["-X", "-q", "-h", "127.0.0.1", "-U", "postgres", "-p", &port, "-c", text])
            }
            _ => client.args(["--no-defaults", "-h", "127.0.0.1", "-u", "root", "-P", &port, "-e", text]),
        };
        run(&mut client)
    }

    /// An empty database, and its address.
    pub fn database(&self, name: &str) -> io::Result<String> {
        self.sql(&format!("CREATE DATABASE {name}"))?;
        Ok(match self.backing {
            Backing::Postgres => format!("postgres://postgres@127.0.0.1:{}/{name}?sslmode=disable", self.port),
            _ => format!("mysql://root@127.0.0.1:{}/{name}", self.port),
        })
    }

    fn make_stream(&self) -> io::Result<()> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let size = STREAM.len();
        let ask = format!("PUB $JS.API.STREAM.CREATE.BENCH _INBOX.s {size}\r\n{STREAM}\r\n");
        stream.write_all(format!("CONNECT {{\"verbose\":false}}\r\nSUB _INBOX.s 1\r\n{ask}").as_bytes())?;
        read_until(&mut stream, b"MSG _INBOX.s 1")?;
        read_until(&mut stream, b"\r\n")?;
        let answer = String::from_utf8(read_until(&mut stream, b"\r\n")?).unwrap_or_default();
        // It may have been made by a try before.
        match answer.contains("\"error\"") && !answer.contains("already in use") {
            true => Err(io::Error::other(answer)),
            false => Ok(()),
        }
    }
}

impl Drop for BackingServer {
    fn drop(&mut self) {
        let signal = match self.backing {
            // Its children end with it.
            Backing::Postgres => rustix::process::Signal::QUIT,
            _ => rustix::process::Signal::KILL,
        };
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id() as i32) {
            let _ = rustix::process::kill_process(pid, signal);
        }
        let _ = self.child.wait();
    }
}

/// Where Debian has the programs of PostgreSQL, the newest of them.
fn postgres(name: &str) -> io::Result<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let found = versions.map(|version| version.path().join("bin").join(name)).filter(|path| path.is_file());
    found.max().or_else(|| on_path(name)).ok_or_else(|| io::Error::other(format!("{name} is needed (apt: postgresql)")))
}

fn run(command: &mut Command) -> io::Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_words_of_their_own() -> io::Result<()> {
        let words = Backing::Redis(true).words(Path::new("/d"), 7)?;
        assert!(words.contains(&String::new()) && words.contains(&"always".to_owned()), "{words:?}");
        assert!(Backing::Redis(false).words(Path::new("/d"), 7)?.contains(&"everysec".to_owned()));
        assert!(Backing::MariaDb.words(Path::new("/d"), 7)?.contains(&"--port=7".to_owned()));
        Ok(())
    }
}
