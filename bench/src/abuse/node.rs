//! The server under attack: started with fitting options, watched, asked by its API, and gone when dropped.

use std::fs;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{MIB, SECRET};
use crate::account::memory;
use crate::calls::{KEY, request};
use crate::million::nodes::free_ports;
use crate::server::bound_to_us;

/// How long one answer may take before it counts as none.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes of memory with which the server is stopped, so that it does not take those of all others.
const MOST: u64 = 2048 * MIB;

/// Lines of the log that are kept to be shown.
const SHOWN: usize = 5;

/// Free ports on loopback.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    pub public: u16,
    pub internal: u16,
    pub grpc: u16,
    pub backend: u16,
}

impl Ports {
    pub fn free() -> io::Result<Self> {
        match free_ports(4)?[..] {
            [public, internal, grpc, backend] => Ok(Self { public, internal, grpc, backend }),
            _ => Err(io::Error::other("no free ports")),
        }
    }
}

/// What the server logged since it was told to count.
#[derive(Clone, Debug, Default)]
pub struct Log {
    pub lines: u64,
    /// Bytes of them.
    pub bytes: u64,
    pub first: Vec<String>,
}

pub struct Node {
    child: Child,
    ports: Ports,
    log: Arc<Mutex<Log>>,
}

impl Node {
    /// Starts the server and waits until it is healthy. Pings come often, so that who is not served loses its clients.
    pub fn start(program: &Path, ports: Ports, reactors: usize, flags: &[String]) -> io::Result<Self> {
        let port = |port: u16| port.to_string();
        let mut command = bound_to_us(&[]);
        command.arg(program).args(["--http_server.address", "127.0.0.1", "--reactors", &reactors.to_string()]);
        command.args(["--http_server.port", &port(ports.public), "--http_server.internal_port", &port(ports.internal)]);
        command.args(["--http_api.key", KEY, "--client.token.hmac_secret_key", SECRET]);
        command.args(["--client.ping_interval", "3s", "--client.pong_timeout", "2s", "--log.format", "text"]);
        command.args(flags).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let log = Arc::new(Mutex::new(Log::default()));
        if let Some(stderr) = child.stderr.take() {
            let kept = log.clone();
            thread::spawn(move || count(BufReader::new(stderr), &kept));
        }
        let mut node = Self { child, ports, log };
        node.wait_until_healthy()?;
        Ok(node)
    }

    fn wait_until_healthy(&mut self) -> io::Result<()> {
        let end = Instant::now() + Duration::from_secs(10);
        while health(self.ports.internal).is_err() {
            if let Some(how) = self.ended() {
                let said = self.log().first.join("\n");
                return Err(io::Error::other(format!("the server ended at once, {how}: {said}")));
            }
            if Instant::now() > end {
                return Err(io::Error::other("the server does not become healthy"));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// How it ended, if it did. One that takes all of the machine's memory is ended here.
    pub fn ended(&mut self) -> Option<String> {
        if self.status("VmRSS:").is_ok_and(|memory| memory > MOST) {
            let _ = self.child.kill();
            let _ = self.child.wait();
            return Some(format!("it was stopped when it had more than {} MiB", MOST / MIB));
        }
        self.child.try_wait().ok().flatten().map(|status| status.to_string())
    }

    /// Resident memory.
    pub fn memory(&self) -> io::Result<u64> {
        Ok(memory(self.child.id())?.rss)
    }

    /// The most resident memory it had since it started.
    pub fn peak(&self) -> io::Result<u64> {
        self.status("VmHWM:")
    }

    /// Bytes, by a name in the kernel's page on the process.
    fn status(&self, name: &str) -> io::Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|rest| rest.split_whitespace().next()).and_then(|field| field.parse::<u64>().ok());
        kib.map(|kib| kib * 1024).ok_or_else(|| io::Error::other("unexpected status of a process"))
    }

    /// Nanoseconds in which a reactor wanted a core and had none, all reactors together.
    pub fn waited_ns(&self) -> io::Result<u64> {
        let mut sum = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let path = task?.path();
            if fs::read_to_string(path.join("comm"))?.starts_with("reactor") {
                sum += waited_in(&fs::read_to_string(path.join("schedstat"))?);
            }
        }
        Ok(sum)
    }

    /// What it logged so far.
    pub fn log(&self) -> Log {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The second figure of a schedstat: nanoseconds spent waiting for a core.
pub fn waited_in(schedstat: &str) -> u64 {
    schedstat.split_whitespace().nth(1).and_then(|field| field.parse().ok()).unwrap_or(0)
}

fn count(mut from: impl BufRead, log: &Mutex<Log>) {
    let mut line = String::new();
    while from.read_line(&mut line).is_ok_and(|size| size > 0) {
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        log.lines += 1;
        log.bytes += line.len() as u64;
        if log.first.len() < SHOWN {
            log.first.push(line.trim_end().to_owned());
        }
        line.clear();
    }
}

impl Log {
    /// What came after `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        let first = self.first.get(earlier.first.len()..).unwrap_or_default().to_vec();
        Self { lines: self.lines - earlier.lines, bytes: self.bytes - earlier.bytes, first }
    }
}

/// Health by the internal port: an error if it is anything but 200.
pub fn health(internal: u16) -> io::Result<()> {
    ask(internal, b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").map(|_| ())
}

/// A call of the server API on a connection of its own: its result.
pub fn call(internal: u16, method: &str, body: &Value) -> io::Result<Value> {
    let mut bytes = Vec::new();
    request(&mut bytes, method, &body.to_string());
    let answer: Value = serde_json::from_str(&ask(internal, &bytes)?)?;
    match answer.get("result") {
        Some(result) => Ok(result.clone()),
        None => Err(io::Error::other(format!("{method} was refused: {answer}"))),
    }
}

/// One request and its answer's body, which must have a length.
fn ask(port: u16, request: &[u8]) -> io::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(request)?;
    let end = Instant::now() + PATIENCE;
    let (mut answer, mut buffer) = (Vec::new(), [0; 16 * 1024]);
    loop {
        if let Some(body) = whole_body(&answer)? {
            return Ok(body);
        }
        match stream.read(&mut buffer).map_err(in_words)? {
            0 => return Err(io::Error::new(ErrorKind::UnexpectedEof, "no whole answer")),
            _ if Instant::now() > end => return Err(io::Error::new(ErrorKind::TimedOut, "no whole answer in time")),
            size => answer.extend_from_slice(&buffer[..size]),
        }
    }
}

/// A read that had its time and brought nothing is called by the name of a try that may be made again.
pub fn in_words(error: io::Error) -> io::Error {
    match error.kind() {
        ErrorKind::WouldBlock => io::Error::new(ErrorKind::TimedOut, "no answer in time"),
        _ => error,
    }
}

fn whole_body(answer: &[u8]) -> io::Result<Option<String>> {
    let Some(end) = memchr::memmem::find(answer, b"\r\n\r\n") else { return Ok(None) };
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    if !head.starts_with("http/1.1 200") {
        let status = head.lines().next().unwrap_or_default();
        return Err(io::Error::other(format!("the server answered {status}")));
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length = length.and_then(|text| text.trim().parse::<usize>().ok());
    let length = length.ok_or_else(|| io::Error::other("an answer without a length"))?;
    let body = answer.get(end + 4..end + 4 + length);
    Ok(body.map(|body| String::from_utf8_lossy(body).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_with_its_length() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        for cut in 0..whole.len() {
            assert_eq!(whole_body(&whole[..cut]).expect("no error"), None, "cut at {cut}");
        }
        assert_eq!(whole_body(whole).expect("no error").as_deref(), Some("{}"));
        assert!(whole_body(b"HTTP/1.1 503 No\r\n\r\n").is_err());
    }

    #[test]
    fn log_lines_are_counted_from_a_moment_on() {
        let log = Mutex::new(Log::default());
        count(&b"one\ntwo\n"[..], &log);
        let earlier = log.lock().expect("a lock").clone();
        count(&b"three\n"[..], &log);
        let log = log.into_inner().expect("a lock").since(&earlier);
        assert_eq!((log.lines, log.bytes, log.first), (1, 6, vec!["three".to_owned()]));
    }

    #[test]
    fn the_wait_is_the_second_figure() {
        assert_eq!([waited_in("10 20 3"), waited_in("")], [20, 0]);
    }
}
