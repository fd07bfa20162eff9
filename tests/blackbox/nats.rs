//! A nats-server of a test: on a free port, in a folder of its own, and ended whatever happens; and a client of it that
//! says and hears bytes.

use crate::redis::free_port;
use crate::server::until;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

pub struct NatsProcess {
    process: Child,
    pub port: u16,
    folder: PathBuf,
    configuration: String,
}

impl NatsProcess {
    /// `configuration`: in the language of nats-server, beside where it listens.
    pub fn start(configuration: &str) -> NatsProcess {
        let port = free_port();
        let folder = std::env::temp_dir().join(format!("gannet-blackbox-nats-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let configuration = listening(port, configuration);
        let process = spawn(&folder, &configuration);
        let nats = NatsProcess { process, port, folder, configuration };
        nats.answers();
        nats
    }

    /// It says who it is once it listens.
    fn answers(&self) {
        until("the NATS answers", || {
            let mut said = [0; 4];
            let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
            stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
            stream.read_exact(&mut said).ok().filter(|()| said == *b"INFO")
        });
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// As a power cut.
    pub fn kill(&mut self) {
        self.process.kill().expect("killed");
        self.process.wait().expect("ended");
    }

    /// After `kill`.
    pub fn restart(&mut self) {
        self.process = spawn(&self.folder, &self.configuration);
        self.answers();
    }

    /// The same with another configuration.
    pub fn restart_with(&mut self, configuration: &str) {
        self.configuration = listening(self.port, configuration);
        self.restart();
    }

    pub fn signal(&self, name: &str) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().expect("kill").success());
    }
}

fn listening(port: u16, configuration: &str) -> String {
    format!("listen: \"127.0.0.1:{port}\"\n{configuration}\n")
}

fn spawn(folder: &std::path::Path, configuration: &str) -> Child {
    let file = folder.join("nats.conf");
    std::fs::write(&file, configuration).expect("written");
    Command::new("nats-server")
        .arg("-c")
        .arg(file)
        .current_dir(folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("nats-server, which tests/run installs")
}

impl Drop for NatsProcess {
    fn drop(&mut self) {
        // It may be ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Another program at the same server.
pub struct Bystander {
    stream: BufReader<TcpStream>,
}

impl Bystander {
    pub fn join(nats: &NatsProcess) -> Bystander {
        let stream = TcpStream::connect(("127.0.0.1", nats.port)).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        let mut bystander = Bystander { stream: BufReader::new(stream) };
        assert!(bystander.line().starts_with("INFO "));
        bystander.say(b"CONNECT {\"verbose\":false,\"headers\":true}\r\n");
        bystander.settle();
        bystander
    }

    fn say(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).expect("written");
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("a line");
        line
    }

    /// The server has done what was said before.
    fn settle(&mut self) {
        self.say(b"PING\r\n");
        assert_eq!(self.line(), "PONG\r\n");
    }

    pub fn publish(&mut self, subject: &str, payload: &[u8]) {
        let head = format!("PUB {subject} {}\r\n", payload.len());
        self.say(&[head.as_bytes(), payload, b"\r\n"].concat());
    }

    /// A message whose headers are names and values.
    pub fn publish_with(&mut self, subject: &str, headers: &[(&str, &str)], payload: &[u8]) {
        let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let lines = format!("NATS/1.0\r\n{lines}\r\n");
        let head = format!("HPUB {subject} {} {}\r\n", lines.len(), lines.len() + payload.len());
        self.say(&[head.as_bytes(), lines.as_bytes(), payload, b"\r\n"].concat());
    }

    /// Asks JetStream; the answer as JSON.
    pub fn jetstream(&mut self, question: &str, body: serde_json::Value) -> serde_json::Value {
        let body = body.to_string();
        self.say(format!("SUB answers 9\r\nPUB $JS.API.{question} answers {}\r\n{body}\r\n", body.len()).as_bytes());
        let answer = self.next().1;
        self.say(b"UNSUB 9\r\n");
        self.settle();
        serde_json::from_slice(&answer).expect("JSON")
    }

    pub fn subscribe(&mut self, subject: &str) {
        self.say(format!("SUB {subject} 1\r\n").as_bytes());
        self.settle();
    }

    /// The next message: its subject and its bytes.
    pub fn next(&mut self) -> (String, Vec<u8>) {
        loop {
            let line = self.line();
            let words: Vec<&str> = line.split_whitespace().collect();
            let ["MSG", subject, _, len] = words[..] else { continue };
            let mut payload = vec![0; len.parse::<usize>().expect("a length") + 2];
            self.stream.read_exact(&mut payload).expect("a message");
            payload.truncate(payload.len() - 2);
            return (subject.to_owned(), payload);
        }
    }
}
