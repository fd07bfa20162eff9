//! A server under measurement: started on its core, ready, and gone when dropped or when the harness dies.

use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::ValueEnum;

use crate::peer::Mode;

/// The servers the harness knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// A bare epoll loop without WebSocket: what the kernel alone costs
    Floor,
    Gannet,
    TokioTungstenite,
    Fastwebsockets,
}

/// How the loader speaks to a server in fan-out and idle runs. Echo is the same for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// A client subscribes by connecting; the client at `/pub` publishes.
    Raw,
    /// The Centrifugal client protocol in JSON.
    Centrifugal,
}

impl Kind {
    /// Its name in tables and results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Gannet => "gannet",
            Self::TokioTungstenite => "tokio-tungstenite",
            Self::Fastwebsockets => "fastwebsockets",
        }
    }

    /// How the loader speaks to it.
    pub fn profile(self) -> Profile {
        if self == Self::Gannet { Profile::Centrifugal } else { Profile::Raw }
    }

    fn program(self) -> &'static str {
        match self {
            Self::Floor => "peer_floor",
            Self::Gannet => "gannet",
            Self::TokioTungstenite => "peer_tokio_tungstenite",
            Self::Fastwebsockets => "peer_fastwebsockets",
        }
    }
}

/// Where the programs are and on which core the servers run.
#[derive(Clone, Debug, clap::Args)]
pub struct Place {
    /// The gannet program [default: beside this program]
    #[arg(long)]
    pub gannet: Option<PathBuf>,
    /// Core the server runs on
    #[arg(long, default_value_t = 0)]
    pub server_core: usize,
    /// Core the load generator runs on
    #[arg(long, default_value_t = 1)]
    pub loader_core: usize,
}

impl Place {
    fn program(&self, kind: Kind) -> io::Result<PathBuf> {
        let beside = std::env::current_exe()?.with_file_name(kind.program());
        let path = match (&self.gannet, kind) {
            (Some(path), Kind::Gannet) => path.clone(),
            _ => beside,
        };
        match path.is_file() {
            true => Ok(path),
            false => Err(io::Error::other(format!("{} is not there: build it with --release", path.display()))),
        }
    }

    /// True if the program of `kind` is built.
    pub fn has(&self, kind: Kind) -> bool {
        self.program(kind).is_ok()
    }
}

/// A running server.
pub struct Server {
    child: Child,
    pub port: u16,
}

impl Server {
    /// Starts `kind` on a free port and waits until it accepts connections. `extra` are more flags for gannet.
    pub fn start(kind: Kind, mode: Mode, place: &Place, extra: &[&str]) -> io::Result<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let program = place.program(kind)?;
        let mut command = bound_to_us(&["taskset", "--cpu-list", &place.server_core.to_string()]);
        command.arg(&program);
        match kind {
            Kind::Gannet => gannet_flags(&mut command, port).args(extra),
            _ => command.args(["--port", &port.to_string(), "--mode", mode_name(mode)]),
        };
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        let mut server = Self { child, port };
        server.wait_until_ready(&program)?;
        Ok(server)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn wait_until_ready(&mut self, program: &Path) -> io::Result<()> {
        let end = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            if let Some(status) = self.child.try_wait()? {
                return Err(io::Error::other(format!("{} ended at once: {status}", program.display())));
            }
            if Instant::now() > end {
                return Err(io::Error::other(format!("{} does not listen", program.display())));
            }
            sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command that the kernel kills when the harness ends, however it ends.
pub fn bound_to_us(words: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).args(words);
    command
}

fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Echo => "echo",
        Mode::Fanout => "fanout",
    }
}

fn gannet_flags(command: &mut Command, port: u16) -> &mut Command {
    command.args(["--http_server.address", "127.0.0.1", "--http_server.port", &port.to_string()]);
    command.args(["--reactors", "1", "--log.level", "error"])
}
