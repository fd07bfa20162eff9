//! The application's backend of a test: a real HTTP/1.1 server, one thread a connection, that answers as the test says
//! and keeps what it was asked.

use crate::server::{PATIENCE, Server, until};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Asked {
    pub path: String,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    pub body: Value,
}

impl Asked {
    /// All values of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Vec<&str> {
        let values = self.headers.iter().filter(|(key, _)| key == name);
        values.map(|(_, value)| value.as_str()).collect()
    }

    pub fn text(&self, key: &str) -> &str {
        self.body[key].as_str().unwrap_or_default()
    }
}

/// A status and a body.
pub type Said = (u16, String);

pub fn ok(body: Value) -> Said {
    (200, body.to_string())
}

/// No answer: the connection is closed.
pub fn silence() -> Said {
    (0, String::new())
}

#[derive(Clone)]
pub struct Backend {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Backend {
    pub fn start(answer: impl Fn(&Asked) -> Said + Send + Sync + 'static) -> Backend {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let backend = Backend { address: listener.local_addr().expect("an address"), asked: Arc::default() };
        let (asked, answer) = (backend.asked.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (asked, answer) = (asked.clone(), answer.clone());
                std::thread::spawn(move || serve(stream, &asked, &*answer));
            }
        });
        backend
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// What was asked at `path` so far.
    pub fn asked(&self, path: &str) -> Vec<Asked> {
        let asked = self.asked.lock().expect("what was asked");
        asked.iter().filter(|one| one.path == path).cloned().collect()
    }

    /// Waits until `count` questions came to `path`.
    pub fn hears(&self, path: &str, count: usize) -> Vec<Asked> {
        until(&format!("{count} at {path}"), || Some(self.asked(path)).filter(|asked| asked.len() >= count))
    }

    /// A server whose `sections` (`client.proxy.connect` and the like) ask here, each at the path of its last word;
    /// those of clients are switched on.
    pub fn serves(&self, sections: &[&str], options: &[&str]) -> Server {
        let mut all: Vec<String> = Vec::new();
        for section in sections {
            let path = section.rsplit('.').next().unwrap_or_default();
            all.push(format!("--{section}.endpoint={}", self.url(&format!("/{path}"))));
            if section.starts_with("client.") {
                all.push(format!("--{section}.enabled"));
            }
        }
        let all: Vec<&str> = all.iter().map(String::as_str).chain(options.iter().copied()).collect();
        Server::start(&all)
    }
}

fn serve(stream: TcpStream, asked: &Mutex<Vec<Asked>>, answer: &dyn Fn(&Asked) -> Said) {
    let _ = stream.set_nodelay(true);
    let Ok(mut writer) = stream.try_clone() else { return };
    let mut reader = BufReader::new(stream);
    while let Some(question) = read(&mut reader) {
        asked.lock().expect("what was asked").push(question.clone());
        let (status, body) = answer(&question);
        let head = format!("HTTP/1.1 {status} Said\r\nContent-Length: {}\r\n\r\n", body.len());
        if status == 0 || writer.write_all((head + &body).as_bytes()).is_err() {
            return;
        }
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<Asked> {
    let path = read_line(reader)?.split(' ').nth(1)?.to_owned();
    let mut headers = Vec::new();
    loop {
        let line = read_line(reader)?;
        let Some((name, value)) = line.trim_end_matches(['\r', '\n']).split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim_matches(' ').to_owned()));
    }
    let len = headers.iter().find(|(name, _)| name == "content-length").map_or("0", |(_, value)| value);
    let mut body = vec![0; len.parse().ok()?];
    reader.read_exact(&mut body).ok()?;
    Some(Asked { path, headers, body: serde_json::from_slice(&body).unwrap_or_default() })
}

/// A line of a head, each byte of it a character; `None` at the end of the stream.
fn read_line(reader: &mut BufReader<TcpStream>) -> Option<String> {
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line).ok().filter(|len| *len > 0)?;
    Some(line.into_iter().map(char::from).collect())
}

/// Holds answers back until it is opened.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub fn open(&self) {
        *self.0.0.lock().expect("the gate") = true;
        self.0.1.notify_all();
    }

    pub fn pass(&self) {
        let closed = self.0.0.lock().expect("the gate");
        drop(self.0.1.wait_timeout_while(closed, PATIENCE, |open| !*open));
    }
}
