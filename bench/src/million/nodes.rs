//! The server processes: several Gannets on one port, each a node of its own with its own port for the API.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::plan::Plan;
use super::{CHANNEL, SECRET, now_ns};
use crate::account::{Memory, cpu_ns, memory};
use crate::centrifugal;
use crate::fleet::{Fleet, Opening};
use crate::server::bound_to_us;
use crate::wire::Dialect;

const KEY: &str = "million";

/// How long a node may take to answer a request.
const ANSWER: Duration = Duration::from_secs(60);

/// Clients of each node that come and go before those that count.
const FIRST: usize = 64;

/// Flags all nodes get.
#[derive(Clone, Debug, clap::Args)]
pub struct Settings {
    /// The servers' client.ping_interval
    #[arg(long, default_value = "25s")]
    pub ping_interval: String,
    /// The servers' client.pong_timeout
    #[arg(long, default_value = "8s")]
    pub pong_timeout: String,
    /// The servers' shutdown.spread
    #[arg(long, default_value = "10s")]
    pub spread: String,
    /// The servers' client.token_cache_size: a bound for each process, so no part of a client
    #[arg(long, default_value_t = 0)]
    pub token_cache: u32,
}

pub struct Nodes {
    children: Vec<Child>,
    /// Still running, by child.
    running: Vec<bool>,
    pub port: u16,
    internal: Vec<u16>,
}

impl Nodes {
    /// Starts them and waits until each answers.
    pub fn start(plan: &Plan, gannet: &Path, settings: &Settings) -> io::Result<Self> {
        let ports = free_ports(plan.servers + 1)?;
        let (port, internal) = (ports[0], ports[1..].to_vec());
        let mut nodes = Self { children: Vec::new(), running: vec![true; plan.servers], port, internal };
        for internal in &nodes.internal {
            let mut command = bound_to_us(&[]);
            command.arg(gannet).args(["--http_server.address", "127.0.0.1", "--http_server.share_port"]);
            command.args([
                "--http_server.port",
                &port.to_string(),
                "--http_server.internal_port",
                &internal.to_string(),
            ]);
            command.args(["--http_server.service_connection_limit", "16", "--http_api.key", KEY]);
            command.args(["--client.token.hmac_secret_key", SECRET, "--client.ping_interval", &settings.ping_interval]);
            command.args(["--channel.without_namespace.allow_subscribe_for_client", "--log.level", "error"]);
            command.args(["--client.pong_timeout", &settings.pong_timeout]);
            command.args(["--client.token_cache_size", &settings.token_cache.to_string()]);
            command.args(["--client.allowed_origins", "http://127.0.0.1"]);
            command.args(["--shutdown.delay", "0s", "--shutdown.spread", &settings.spread]);
            command.args(["--shutdown.deadline", "180s", "--reactors", &plan.reactors.to_string()]);
            nodes.children.push(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?);
        }
        let end = Instant::now() + Duration::from_secs(60);
        for at in 0..nodes.children.len() {
            while nodes.clients_of(at).is_err() {
                nodes.check()?;
                if Instant::now() > end {
                    return Err(io::Error::other(format!("server process {at} does not answer")));
                }
                sleep(Duration::from_millis(20));
            }
        }
        Ok(nodes)
    }

    /// Lets a few clients connect, subscribe and leave: what a process takes for its first client alone is no client's.
    pub fn warm_up(&self) -> io::Result<()> {
        let mut fleet = Fleet::new(self.port, Dialect::Lines)?;
        fleet.open(FIRST * self.children.len(), ANSWER, |index| {
            let token = centrifugal::token(SECRET, &format!("first-{index}"))?;
            Ok(Opening::centrifugal(centrifugal::connect_and_subscribe(Some(&token), CHANNEL), 2))
        })?;
        drop(fleet);
        let end = Instant::now() + ANSWER;
        while self.clients()?.iter().any(|clients| *clients > 0) {
            if Instant::now() > end {
                return Err(io::Error::other("the first clients left, but their servers still have them"));
            }
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// An error if one of them ended.
    pub fn check(&mut self) -> io::Result<()> {
        for (at, child) in self.children.iter_mut().enumerate() {
            if let Some(status) = child.try_wait()? {
                return Err(io::Error::other(format!("server process {at} ended: {status}")));
            }
        }
        Ok(())
    }

    pub fn pids(&self) -> Vec<u32> {
        self.children.iter().map(Child::id).collect()
    }

    /// Nanoseconds of CPU time of all of them.
    pub fn cpu_ns(&self) -> io::Result<u64> {
        self.children.iter().map(|child| cpu_ns(child.id())).sum()
    }

    /// Clients of each.
    pub fn clients(&self) -> io::Result<Vec<u64>> {
        (0..self.children.len()).map(|at| self.clients_of(at)).collect()
    }

    fn clients_of(&self, at: usize) -> io::Result<u64> {
        let answer = answer(ask(connect(self.internal[at])?, "info", &json!({}))?)?;
        let clients = answer["result"]["nodes"][0]["num_clients"].as_u64();
        clients.ok_or_else(|| io::Error::other(format!("unexpected answer to info: {answer}")))
    }

    /// Publishes once at each, all at the same moment; returns that moment, taken before the first request is sent.
    pub fn publish(&self, size: usize) -> io::Result<u64> {
        let streams = self.internal.iter().map(|port| connect(*port)).collect::<io::Result<Vec<_>>>()?;
        let sent = now_ns();
        let pad = "x".repeat(size.saturating_sub(json!({"sent": sent, "pad": ""}).to_string().len()));
        let body = json!({"channel": CHANNEL, "data": {"sent": sent, "pad": pad}});
        let asked = streams.into_iter().map(|stream| ask(stream, "publish", &body)).collect::<io::Result<Vec<_>>>()?;
        for stream in asked {
            let answer = answer(stream)?;
            if answer.get("result").is_none() {
                return Err(io::Error::other(format!("publish was refused: {answer}")));
            }
        }
        Ok(sent)
    }

    /// Asks all to leave.
    pub fn terminate(&self) -> io::Result<()> {
        for child in &self.children {
            kill_process(Pid::from_child(child), Signal::TERM)?;
        }
        Ok(())
    }

    /// How many still run; one that did not end well is an error.
    pub fn left(&mut self) -> io::Result<usize> {
        for (at, child) in self.children.iter_mut().enumerate() {
            match child.try_wait()? {
                Some(status) if status.success() => self.running[at] = false,
                Some(status) => return Err(io::Error::other(format!("server process {at} ended: {status}"))),
                None => {}
            }
        }
        Ok(self.running.iter().filter(|running| **running).count())
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
        }
        for child in &mut self.children {
            let _ = child.wait();
        }
    }
}

/// Memory of several processes together.
pub fn memory_of(pids: &[u32]) -> io::Result<Memory> {
    let mut sum = Memory { rss: 0, private: 0 };
    for pid in pids {
        let one = memory(*pid)?;
        sum = Memory { rss: sum.rss + one.rss, private: sum.private + one.private };
    }
    Ok(sum)
}

pub(crate) fn free_ports(count: usize) -> io::Result<Vec<u16>> {
    let held = (0..count).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<io::Result<Vec<_>>>()?;
    held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

fn connect(port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sends a request to the server API.
fn ask(mut stream: TcpStream, method: &str, body: &Value) -> io::Result<TcpStream> {
    let body = body.to_string();
    let request = format!(
        "POST /api/{method} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: {KEY}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes())?;
    Ok(stream)
}

/// The body of its answer.
fn answer(mut stream: TcpStream) -> io::Result<Value> {
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    match text.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200") => Ok(serde_json::from_str(body)?),
        _ => Err(io::Error::other(format!("the server API answered {}", text.lines().next().unwrap_or("nothing")))),
    }
}
