//! A server under measurement: started on its core, ready, and gone when dropped or when the harness dies.

use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::ValueEnum;

use crate::account::settled_cpu_ns;
use crate::peer::Mode;
use crate::tls::Identity;

/// The servers the harness knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// A bare epoll loop without WebSocket: what the kernel alone costs
    Floor,
    Gannet,
    /// The floor again, delivering as many bytes as Gannet did
    FloorWide,
    TokioTungstenite,
    Fastwebsockets,
    /// ws on Node
    Ws,
    /// gorilla/websocket with Gin, in Go
    Gorilla,
    /// nbio, in Go
    Nbio,
    /// The centrifugo program on the PATH
    Centrifugo,
    /// nginx that ends TLS in front of Gannet; both count. With --tls only
    Nginx,
    /// A node of the library that Centrifugo is made of, over Redis
    #[value(skip)]
    Centrifuge,
    /// An HTTP handler that does nothing
    #[value(skip)]
    Axum,
    /// A server that somebody else started
    #[value(skip)]
    ByHand,
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
            Self::FloorWide => "floor-wide",
            Self::TokioTungstenite => "tokio-tungstenite",
            Self::Fastwebsockets => "fastwebsockets",
            Self::Ws => "ws",
            Self::Gorilla => "gorilla",
            Self::Nbio => "nbio",
            Self::Centrifugo => "centrifugo",
            Self::Nginx => "nginx + gannet",
            Self::Centrifuge => "centrifuge",
            Self::Axum => "axum",
            Self::ByHand => "by hand",
        }
    }

    /// How the loader speaks to it.
    pub fn profile(self) -> Profile {
        if matches!(self, Self::Gannet | Self::Centrifugo | Self::Centrifuge | Self::Nginx) {
            Profile::Centrifugal
        } else {
            Profile::Raw
        }
    }

    /// True for those that need what not every machine has.
    pub fn is_optional(self) -> bool {
        matches!(self, Self::Ws | Self::Gorilla | Self::Nbio | Self::Centrifugo | Self::Centrifuge | Self::Nginx)
    }

    fn program(self) -> &'static str {
        match self {
            Self::Floor | Self::FloorWide => "peer_floor",
            Self::Gannet => "gannet",
            Self::TokioTungstenite => "peer_tokio_tungstenite",
            Self::Fastwebsockets => "peer_fastwebsockets",
            Self::Ws => "node",
            Self::Gorilla => "peer_gorilla",
            Self::Nbio => "peer_nbio",
            Self::Centrifugo => "centrifugo",
            Self::Nginx => "nginx",
            Self::Centrifuge => "peer_centrifuge",
            Self::Axum => "peer_axum",
            Self::ByHand => "",
        }
    }
}

/// The folder of the ws peer.
const NODE_PEER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/node");

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
    /// The program of `kind`, or why there is none.
    pub fn program(&self, kind: Kind) -> io::Result<PathBuf> {
        let lacks = |what: String| Err(io::Error::other(what));
        let beside = std::env::current_exe()?.with_file_name(kind.program());
        match (kind, &self.gannet) {
            (Kind::Gannet, Some(path)) if path.is_file() => Ok(path.clone()),
            (Kind::Gannet, Some(path)) => lacks(format!("{} is not there", path.display())),
            (Kind::Ws | Kind::Centrifugo | Kind::Nginx, _) => match on_path(kind.program()) {
                None => lacks(format!("{} is not on the PATH", kind.program())),
                Some(_) if kind == Kind::Ws && !Path::new(NODE_PEER).join("node_modules/ws").is_dir() => {
                    lacks("its packages are not installed: bench/compare does it".to_owned())
                }
                Some(path) => Ok(path),
            },
            _ if beside.is_file() => Ok(beside),
            (Kind::Gorilla | Kind::Nbio | Kind::Centrifuge, _) if on_path("go").is_none() => {
                lacks("go is not on the PATH".to_owned())
            }
            (Kind::Gorilla | Kind::Nbio, _) => lacks("it is not built: bench/compare does it".to_owned()),
            _ => lacks(format!("{} is not there: build it with --profile dist", beside.display())),
        }
    }

    /// True if the program of `kind` is built.
    pub fn has(&self, kind: Kind) -> bool {
        self.program(kind).is_ok()
    }

    /// Why `kind` must be left out, if it may be and must.
    pub fn left_out(&self, kind: Kind) -> Option<String> {
        self.program(kind).err().filter(|_| kind.is_optional()).map(|error| error.to_string())
    }
}

/// A program by its name, where the shell would find it.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    // Debian has nginx there.
    let also = std::iter::once(PathBuf::from("/usr/sbin"));
    std::env::split_paths(&folders).chain(also).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// An address given by hand: `ws://127.0.0.1:PORT/PATH`. Its server is on this machine, for its CPU time is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    pub port: u16,
    pub path: String,
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix("ws://").ok_or("it does not begin with ws://")?;
        let (host, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        let (name, port) = host.rsplit_once(':').unwrap_or((host, "80"));
        if name != "127.0.0.1" && name != "localhost" {
            return Err("the server must be on this machine, at 127.0.0.1".to_owned());
        }
        let port = port.parse().map_err(|_| format!("{port} is not a port"))?;
        Ok(Self { port, path: path.to_owned() })
    }
}

/// A running server.
pub struct Server {
    /// None for a server that somebody else started: it goes on.
    child: Option<Child>,
    pid: u32,
    pub port: u16,
    /// What it stands in front of.
    behind: Option<Box<Server>>,
}

impl Server {
    /// Starts `kind` with TLS: clients believe `identity`.
    pub fn start_secured(
        kind: Kind,
        mode: Mode,
        place: &Place,
        extra: &[&str],
        identity: &Identity,
    ) -> io::Result<Self> {
        let options = identity.options();
        let gannet = options.iter().map(String::as_str).chain(extra.iter().copied()).collect::<Vec<_>>();
        let files = [("--cert", &identity.certificate), ("--key", &identity.key)];
        let peer: Vec<_> = files.iter().flat_map(|(flag, path)| [(*flag).into(), path.display().to_string()]).collect();
        let peer: Vec<&str> = peer.iter().map(String::as_str).collect();
        match kind {
            Kind::Gannet => Self::start(kind, mode, place, &gannet),
            Kind::Nginx => Self::start_behind_nginx(mode, place, extra, identity),
            _ => Self::launch(kind, mode, place, &[place.server_core], &peer),
        }
    }

    fn start_behind_nginx(mode: Mode, place: &Place, extra: &[&str], identity: &Identity) -> io::Result<Self> {
        let behind = Self::start(Kind::Gannet, mode, place, extra)?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let (program, folder) = (place.program(Kind::Nginx)?, identity.folder());
        let file = folder.join("nginx.conf");
        std::fs::write(&file, nginx_configuration(port, behind.port, folder))?;
        let mut command = bound_to_us(&["taskset", "--cpu-list", &place.server_core.to_string()]);
        command.arg(&program).arg("-c").arg(&file).arg("-p").arg(folder).arg("-e").arg(folder.join("error.log"));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        let pid = child.id();
        let mut server = Self { child: Some(child), pid, port, behind: Some(Box::new(behind)) };
        server.wait_until_ready(&program)?;
        Ok(server)
    }

    /// CPU time of it and of what is behind it, once they sleep.
    pub fn settled_cpu_ns(&self) -> io::Result<u64> {
        let behind = self.behind.as_ref().map_or(Ok(0), |server| server.settled_cpu_ns());
        Ok(settled_cpu_ns(self.pid)? + behind?)
    }

    /// Starts `kind` on a free port and waits until it accepts connections. `extra` are more flags for gannet,
    /// or for the node that stands beside it in a fleet; no other peer has any.
    pub fn start(kind: Kind, mode: Mode, place: &Place, extra: &[&str]) -> io::Result<Self> {
        let extra = if matches!(kind, Kind::Gannet | Kind::Centrifuge) { extra } else { &[] };
        Self::launch(kind, mode, place, &[place.server_core], extra)
    }

    /// Starts gannet with as many reactors as there are `cores`, which they may use all.
    pub fn start_on(cores: &[usize], place: &Place, extra: &[&str]) -> io::Result<Self> {
        Self::launch(Kind::Gannet, Mode::Echo, place, cores, extra)
    }

    fn launch(kind: Kind, mode: Mode, place: &Place, cores: &[usize], extra: &[&str]) -> io::Result<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let program = place.program(kind)?;
        let list = cores.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
        let mut command = bound_to_us(&["taskset", "--cpu-list", &list]);
        command.arg(&program).env("GOMAXPROCS", "1");
        match kind {
            Kind::Gannet => gannet_flags(&mut command, port, cores.len()).args(extra),
            Kind::Centrifugo => centrifugo_options(&mut command, port),
            Kind::Ws => peer_flags(command.arg(Path::new(NODE_PEER).join("server.mjs")), port, mode),
            _ => peer_flags(&mut command, port, mode).args(extra),
        };
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        let pid = child.id();
        let mut server = Self { child: Some(child), pid, port, behind: None };
        server.wait_until_ready(&program)?;
        Ok(server)
    }

    /// A server that runs already.
    pub fn running(pid: u32, port: u16) -> Self {
        Self { child: None, pid, port, behind: None }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    fn wait_until_ready(&mut self, program: &Path) -> io::Result<()> {
        let end = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            if let Some(status) = self.child.as_mut().map(Child::try_wait).transpose()?.flatten() {
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
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Goes on only if its parent is still the one it was told: one that ended before the kernel was asked to kill is not
/// noticed by the kernel.
const IF_OURS: &str = r#"[ "$PPID" = "$0" ] && exec "$@""#;

/// A command that the kernel kills when the harness ends, however and whenever it ends.
pub fn bound_to_us(words: &[&str]) -> Command {
    bound_to(None, words)
}

/// The same as another user of this machine.
pub fn bound_to(user: Option<&str>, words: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    if let Some(user) = user {
        command.args([&format!("--reuid={user}"), &format!("--regid={user}"), "--init-groups"]);
    }
    command.args(["--pdeathsig", "KILL", "sh", "-c", IF_OURS, &std::process::id().to_string()]).args(words);
    command
}

fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Echo => "echo",
        Mode::Fanout => "fanout",
    }
}

fn peer_flags(command: &mut Command, port: u16, mode: Mode) -> &mut Command {
    command.args(["--port", &port.to_string(), "--mode", mode_name(mode)])
}

/// Its options are all variables, whatever flags a version has.
fn centrifugo_options(command: &mut Command, port: u16) -> &mut Command {
    command.env("CENTRIFUGO_HTTP_SERVER_ADDRESS", "127.0.0.1").env("CENTRIFUGO_HTTP_SERVER_PORT", port.to_string());
    command.env("CENTRIFUGO_CLIENT_INSECURE", "true").env("CENTRIFUGO_LOG_LEVEL", "error")
}

/// One process that ends TLS and passes bytes on.
fn nginx_configuration(port: u16, behind: u16, folder: &Path) -> String {
    let folder = folder.display();
    let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|name| format!("{name}_temp_path {folder};"));
    format!(
        "daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr error; worker_rlimit_nofile 65536;
         events {{ worker_connections 40000; }}
         http {{
           access_log off; {}
           upstream gannet {{ server 127.0.0.1:{behind}; }}
           server {{
             listen 127.0.0.1:{port} ssl backlog=4096;
             ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem; ssl_protocols TLSv1.3;
             location / {{
               proxy_pass http://gannet; proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade;
               proxy_set_header Connection upgrade; proxy_set_header Host $host; proxy_read_timeout 1h;
               tcp_nodelay on;
             }}
           }}
         }}",
        paths.join(" ")
    )
}

fn gannet_flags(command: &mut Command, port: u16, reactors: usize) -> &mut Command {
    command.args(["--http_server.address", "127.0.0.1", "--http_server.port", &port.to_string()]);
    command.args(["--reactors", &reactors.to_string(), "--log.level", "error"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_whose_harness_is_gone_does_not_start() -> io::Result<()> {
        let ours = bound_to_us(&["echo", "started"]).output()?;
        assert_eq!(ours.stdout, b"started\n");
        let bound = bound_to_us(&["echo", "started"]);
        let mut orphan = Command::new("sh");
        orphan.args(["-c", r#""$@"; exit 0"#, "sh"]).arg(bound.get_program()).args(bound.get_args());
        assert_eq!(orphan.output()?.stdout, b"", "its parent is the shell");
        Ok(())
    }

    #[test]
    fn a_url_is_a_port_and_a_path_here() {
        let url = |text: &str| text.parse::<Url>().map(|url| (url.port, url.path));
        assert_eq!(url("ws://127.0.0.1:9001/a/b?c"), Ok((9001, "/a/b?c".to_owned())));
        assert_eq!(url("ws://localhost"), Ok((80, "/".to_owned())));
        for bad in ["http://127.0.0.1:1/", "ws://192.0.2.1:1/", "ws://127.0.0.1:x/", "127.0.0.1:1"] {
            assert!(url(bad).is_err(), "{bad}");
        }
    }
}
