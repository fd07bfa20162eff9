//! The other end of a connection, byte by byte: HTTP by hand, and WebSocket frames as broken as a test wants them.

use crate::server::{PATIENCE, Server};
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

/// The client endpoint.
pub const PATH: &str = "/connection/websocket";
/// A frame's first byte, with FIN.
pub const TEXT: u8 = 0x81;
pub const BINARY: u8 = 0x82;
pub const CLOSE: u8 = 0x88;
pub const PING: u8 = 0x89;
pub const PONG: u8 = 0x8a;
/// In a frame's first byte: another frame follows.
pub const UNFINISHED: u8 = 0x7f;

pub struct Peer {
    pub stream: TcpStream,
    /// Read and not yet asked for.
    bytes: Vec<u8>,
}

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Response {
    /// The value of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<String> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned()).next()
    }
}

/// A handshake's head; each of `extra` is a further header line.
pub fn upgrade_head(path: &str, extra: &[&str]) -> String {
    let mut head = format!("GET {path} HTTP/1.1\r\n");
    let upgrade = ["Host: gannet.example", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"];
    for line in upgrade.iter().chain(&["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]).chain(extra) {
        head.push_str(&format!("{line}\r\n"));
    }
    head + "\r\n"
}

/// A masked frame, whatever its first byte says.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let mut bytes = frame_header(first, payload.len() as u64);
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

/// The header of a masked frame, up to its mask.
pub fn frame_header(first: u8, len: u64) -> Vec<u8> {
    let mut bytes = vec![first];
    match len {
        0..126 => bytes.push(0x80 | len as u8),
        126..65536 => {
            bytes.push(0x80 | 126);
            bytes.extend((len as u16).to_be_bytes());
        }
        _ => {
            bytes.push(0x80 | 127);
            bytes.extend(len.to_be_bytes());
        }
    }
    bytes
}

impl Peer {
    pub fn open(address: SocketAddr) -> Peer {
        Peer::over(TcpStream::connect(address).expect("connect"))
    }

    /// From another address of this machine.
    pub fn open_from(ip: &str, address: SocketAddr) -> Peer {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
        let ip: IpAddr = ip.parse().expect("an address");
        socket.bind(&SocketAddr::new(ip, 0).into()).expect("bind");
        socket.connect(&address.into()).expect("connect");
        Peer::over(socket.into())
    }

    /// With a small window, so that what it does not read soon stops its sender.
    pub fn open_narrow(address: SocketAddr) -> Peer {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
        socket.set_recv_buffer_size(4096).expect("receive buffer");
        socket.connect(&address.into()).expect("connect");
        Peer::over(socket.into())
    }

    fn over(stream: TcpStream) -> Peer {
        stream.set_nodelay(true).expect("no delay");
        stream.set_read_timeout(Some(PATIENCE)).expect("read timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("write timeout");
        Peer { stream, bytes: Vec::new() }
    }

    /// A WebSocket on the client endpoint.
    pub fn upgraded(server: &Server) -> Peer {
        Peer::open(server.address).upgrade(PATH)
    }

    /// A client whose connect command was answered.
    pub fn connected(server: &Server) -> Peer {
        let mut peer = Peer::upgraded(server);
        peer.connect();
        peer
    }

    /// The connect command; its result.
    pub fn connect(&mut self) -> Value {
        self.send_frame(TEXT, br#"{"id":1,"connect":{}}"#);
        let mut reply: Value = serde_json::from_str(&self.text()).expect("JSON");
        assert!(reply["connect"]["client"].is_string(), "{reply}");
        reply["connect"].take()
    }

    pub fn upgrade(mut self, path: &str) -> Peer {
        self.send(upgrade_head(path, &[]).as_bytes());
        let response = self.response();
        assert_eq!(response.status, 101, "{response:?}");
        self
    }

    /// Sends, unless the server is gone already: what it said before it went is still to be read.
    pub fn send(&mut self, bytes: &[u8]) {
        match self.stream.write_all(bytes) {
            Err(error) if !matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                panic!("send: {error}")
            }
            _ => {}
        }
    }

    /// Sends what the socket takes at once, for as long as it takes any within 300 ms.
    pub fn send_some(&mut self, mut bytes: &[u8]) {
        self.stream.set_write_timeout(Some(Duration::from_millis(300))).expect("write timeout");
        while let Ok(count @ 1..) = self.stream.write(bytes) {
            bytes = &bytes[count..];
        }
    }

    pub fn send_frame(&mut self, first: u8, payload: &[u8]) {
        self.send(&frame(first, payload));
    }

    /// Reads more; false at the end of the stream, orderly or not.
    fn fill(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(count) => {
                self.bytes.extend_from_slice(&buffer[..count]);
                count > 0
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            Err(error) => panic!("nothing came: {error}"),
        }
    }

    fn fill_to(&mut self, len: usize) -> bool {
        while self.bytes.len() < len {
            if !self.fill() {
                return false;
            }
        }
        true
    }

    fn take(&mut self, len: usize) -> Vec<u8> {
        self.bytes.drain(..len).collect()
    }

    /// An HTTP response; `None` if the stream ended instead.
    pub fn try_response(&mut self) -> Option<Response> {
        let end = loop {
            if let Some(at) = self.bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if !self.fill() {
                return None;
            }
        };
        let head = String::from_utf8(self.take(end)).expect("a head of text");
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a status");
        let mut response = Response { status, head, body: String::new() };
        let len = response.header("content-length").map_or(0, |value| value.parse().expect("a length"));
        assert!(self.fill_to(len), "a cut body after {}", response.head);
        response.body = String::from_utf8(self.take(len)).expect("a body of text");
        Some(response)
    }

    pub fn response(&mut self) -> Response {
        self.try_response().expect("an answer")
    }

    /// A whole request and its answer, on a connection that is kept; `None` if the server has closed it.
    pub fn request(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Option<Response> {
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: gannet.example\r\n");
        headers.iter().for_each(|(name, value)| request.push_str(&format!("{name}: {value}\r\n")));
        request.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
        self.send(request.as_bytes());
        self.try_response()
    }

    /// The next frame: its first byte and its payload.
    pub fn frame(&mut self) -> (u8, Vec<u8>) {
        self.try_frame().expect("a frame")
    }

    /// The same; `None` at the end of the stream.
    pub fn try_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        if !self.fill_to(2) {
            return None;
        }
        let (first, short) = (self.bytes[0], self.bytes[1]);
        assert_eq!(short & 0x80, 0, "a server does not mask");
        let size = 2 + [0, 2, 8][usize::from(short.saturating_sub(125))];
        if !self.fill_to(size) {
            return None;
        }
        let header = self.take(size);
        let len = match short {
            126 | 127 => header[2..].iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)),
            short => usize::from(short),
        };
        if !self.fill_to(len) {
            return None;
        }
        Some((first, self.take(len)))
    }

    /// The next text frame.
    pub fn text(&mut self) -> String {
        let (first, payload) = self.frame();
        assert_eq!(first, TEXT, "{payload:?}");
        String::from_utf8(payload).expect("text")
    }

    /// Reads on to the server's close frame, answers it, and sees the stream end; its code and reason.
    pub fn closed(&mut self) -> (u16, String) {
        let payload = loop {
            match self.frame() {
                (CLOSE, payload) => break payload,
                _ => continue,
            }
        };
        self.send_frame(CLOSE, &payload[..payload.len().min(2)]);
        self.ended();
        let code = payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
        (code, String::from_utf8_lossy(payload.get(2..).unwrap_or_default()).into_owned())
    }

    /// The next line of a body that does not end, without its end; `None` at the end of the stream.
    pub fn line(&mut self) -> Option<String> {
        let end = loop {
            if let Some(at) = self.bytes.iter().position(|byte| *byte == b'\n') {
                break at + 1;
            }
            if !self.fill() {
                assert!(self.bytes.is_empty(), "cut: {:?}", String::from_utf8_lossy(&self.bytes));
                return None;
            }
        };
        let mut line = String::from_utf8(self.take(end)).expect("a line of text");
        line.pop();
        Some(line)
    }

    /// The next bytes of a body that does not end.
    pub fn exactly(&mut self, len: usize) -> Vec<u8> {
        assert!(self.fill_to(len), "only {:?}", self.bytes);
        self.take(len)
    }

    /// All that comes until the stream ends.
    pub fn rest(&mut self) -> Vec<u8> {
        self.ended();
        self.take(self.bytes.len())
    }

    /// Reads to the end of the stream.
    pub fn ended(&mut self) {
        while self.fill() {}
    }

    /// Has the server ended this connection? Does not wait, and drops what came.
    pub fn is_ended(&mut self) -> bool {
        self.stream.set_nonblocking(true).expect("non-blocking");
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return true,
                Ok(_) => continue,
                Err(error) => return error.kind() != ErrorKind::WouldBlock,
            }
        }
    }
}
