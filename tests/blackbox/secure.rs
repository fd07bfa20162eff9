//! The other end of a connection with TLS, by rustls: bytes, HTTP requests and a WebSocket client over it.

use crate::certificates::{Certificates, NAME};
use crate::peer::PATH;
use crate::server::{PATIENCE, Server, gannet};
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, StreamOwned, SupportedProtocolVersion};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use tungstenite::{Message, WebSocket};

pub type Stream = StreamOwned<ClientConnection, TcpStream>;

pub const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];

/// Options of a server whose public port has TLS, and an internal one that has not.
pub struct Options(Vec<String>);

impl Options {
    pub fn new(certificates: &Certificates) -> Options {
        let (certificate, key) = &certificates.server;
        Options::of(certificate, key)
    }

    /// `certificate` and `key`: PEM, or files.
    pub fn of(certificate: &str, key: &str) -> Options {
        Options(Vec::new())
            .with(&["--http_server.tls.enabled", "--http_server.tls_external", "--client.insecure", "--reactors", "1"])
            .with(&["--http_server.tls.cert_pem", certificate, "--http_server.tls.key_pem", key])
    }

    pub fn with(mut self, options: &[&str]) -> Options {
        self.0.extend(options.iter().map(|option| (*option).to_owned()));
        self
    }

    pub fn start(&self) -> Server {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
        let mut options: Vec<&str> = self.0.iter().map(String::as_str).collect();
        let port = port.to_string();
        options.extend(["--http_server.internal_port", &port]);
        Server::start_by(gannet(), &options)
    }
}

/// A connection by this configuration, before its handshake.
pub fn open(address: SocketAddr, config: &Arc<ClientConfig>, name: &str) -> Stream {
    let stream = TcpStream::connect(address).expect("connect");
    stream.set_nodelay(true).expect("no delay");
    stream.set_read_timeout(Some(PATIENCE)).expect("read timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("write timeout");
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    StreamOwned::new(ClientConnection::new(config.clone(), name).expect("a connection"), stream)
}

/// The handshake; what went wrong.
pub fn shake(stream: &mut Stream) -> std::io::Result<()> {
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(())
}

/// A request on a connection that is kept; status and body.
pub fn request(stream: &mut Stream, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: gannet.example\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
    stream.write_all((head + body).as_bytes()).expect("send");
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("an answer");
        bytes.push(byte[0]);
    };
    let head = String::from_utf8(bytes[..end].to_vec()).expect("text").to_ascii_lowercase();
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a status");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.trim().parse().expect("a length"))];
    stream.read_exact(&mut body).expect("a body");
    (status, String::from_utf8(body).expect("text"))
}

/// A WebSocket client over TLS.
pub struct Secure {
    pub socket: WebSocket<Stream>,
    next_id: u32,
}

impl Secure {
    pub fn over(stream: Stream) -> Secure {
        Secure::at(stream, PATH)
    }

    pub fn at(stream: Stream, path: &str) -> Secure {
        let (socket, _) = tungstenite::client(format!("wss://{NAME}{path}"), stream).expect("a handshake");
        Secure { socket, next_id: 1 }
    }

    /// A client that is connected and subscribed.
    pub fn subscribed(server: &Server, config: &Arc<ClientConfig>, channel: &str) -> Secure {
        let mut client = Secure::over(open(server.address, config, NAME));
        let reply = client.ask(json!({ "connect": {} }));
        assert!(reply["connect"]["client"].is_string(), "{reply}");
        let reply = client.ask(json!({ "subscribe": { "channel": channel } }));
        assert_eq!(reply["subscribe"], json!({}), "{reply}");
        client
    }

    pub fn ask(&mut self, mut command: Value) -> Value {
        command["id"] = self.next_id.into();
        self.next_id += 1;
        self.socket.send(Message::text(command.to_string())).expect("send");
        loop {
            let reply = self.next();
            if reply["id"] == command["id"] {
                return reply;
            }
        }
    }

    /// The next reply or push.
    pub fn next(&mut self) -> Value {
        loop {
            match self.socket.read().expect("a message") {
                Message::Text(text) if text.as_str() == "{}" => self.socket.send(Message::text("{}")).expect("send"),
                Message::Text(text) => return serde_json::from_str(text.as_str()).expect("JSON"),
                other => panic!("{other:?}"),
            }
        }
    }

    /// The data of the next publication.
    pub fn publication(&mut self) -> Value {
        let push = self.next();
        push["push"]["pub"]["data"].clone()
    }

    /// Is it answered?
    pub fn lives(&mut self) {
        let reply = self.ask(json!({ "presence_stats": { "channel": "x" } }));
        assert!(reply["error"]["code"].is_u64(), "{reply}");
    }
}
