//! Clients that speak in lines on a port of their own: what a device, `nc` or a script may do there, and do wrong.

use crate::backend::{Backend, ok};
use crate::certificates::{Certificates, NAME};
use crate::client::{Client, token};
use crate::peer::Peer;
use crate::secure::{self, Options, VERSIONS};
use crate::server::{GUARDED, OPEN, Server, until};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;

const ON: &[&str] = &["--tcp_line.enabled", "--tcp_line.address", "127.0.0.1", "--tcp_line.port", "0"];
const CONNECT: &str = r#"{"id":1,"connect":{}}"#;
const SUBSCRIBE: &str = r#"{"id":2,"subscribe":{"channel":"c"}}"#;

/// One end of lines, whatever carries them.
struct Lines<S: Read + Write>(BufReader<S>);

fn start(preset: &[&str], options: &[&str]) -> Server {
    Server::start(&[preset, ON, options].concat())
}

fn open(server: &Server) -> Lines<TcpStream> {
    Lines(BufReader::new(Peer::open(server.tcp_line.expect("a port")).stream))
}

fn connected(server: &Server) -> Lines<TcpStream> {
    let mut lines = open(server);
    lines.say(CONNECT);
    assert!(lines.next()["connect"]["client"].is_string());
    lines
}

impl<S: Read + Write> Lines<S> {
    fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).and_then(|()| self.0.get_mut().flush()).expect("send");
    }

    fn say(&mut self, line: &str) {
        self.send(format!("{line}\n").as_bytes());
    }

    /// The next line; `None` at the end of the stream.
    fn try_next(&mut self) -> Option<Value> {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(serde_json::from_str(&line).expect("JSON")),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("no line: {error}"),
        }
    }

    /// A line that is no ping.
    fn next(&mut self) -> Value {
        self.try_next().expect("a line")
    }

    /// The code of the disconnect that comes last.
    fn closed(&mut self) -> u64 {
        let mut last = Value::Null;
        while let Some(line) = self.try_next() {
            last = line;
        }
        last["push"]["disconnect"]["code"].as_u64().unwrap_or_else(|| panic!("no disconnect: {last}"))
    }
}

#[test]
fn lines_are_commands_and_replies_however_they_arrive() {
    let server = start(OPEN, &[]);
    let mut one = open(&server);
    for byte in format!("{CONNECT}\r\n\r\n").as_bytes() {
        one.send(&[*byte]);
    }
    assert!(one.next()["connect"]["client"].is_string());
    one.send(format!("{SUBSCRIBE}\r\n{{\"id\":3,\"presence_stats\":{{\"channel\":\"c\"}}}}\n{{\"id\":4,").as_bytes());
    assert_eq!(one.next(), json!({"id": 2, "subscribe": {}}));
    assert_eq!(one.next()["id"], 3);
    one.send(b"\"publish\":{\"channel\":\"c\",\"data\":\"\\n\"}}\n");
    let both = [one.next(), one.next()];
    assert!(both.contains(&json!({"id": 4, "publish": {}})), "{both:?}");
    assert!(both.iter().any(|line| line["push"]["pub"]["data"] == "\n"), "{both:?}");
    // With those who come by HTTP in one channel.
    let mut other = Client::subscribed(&server, "c");
    server.publish("c", json!({"text": "é"}));
    assert_eq!(one.next()["push"]["pub"]["data"], json!({"text": "é"}));
    assert_eq!(other.publication().1, json!({"text": "é"}));
    assert_eq!(server.metric("gannet_tcp_line_connections_accepted_total"), 1);
    assert_eq!(server.metric("gannet_client_connects_total"), 2);
}

#[test]
fn what_is_no_line_of_the_protocol_ends_the_client() {
    let server = start(OPEN, &["--tcp_line.message_size_limit", "1000"]);
    let random: Vec<u8> = (0..2000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).chain(*b"\n").collect();
    let long = format!(r#"{{"id":2,"rpc":{{"data":"{}"}}}}"#, "x".repeat(1000));
    for bad in [&b"GET /connection/websocket HTTP/1.1\r\nHost: h\r\n\r\n"[..], b"[1]\n", &random, long.as_bytes()] {
        let mut lines = open(&server);
        lines.send(bad);
        assert_eq!(lines.closed(), 3501);
    }
    assert!(server.metric("gannet_tcp_line_message_size_limit_total") >= 1);
    // Half a line is nobody's command.
    let mut lines = connected(&server);
    lines.send(br#"{"id":2,"publish":{"channel":"c","data":1}"#);
    lines.0.get_ref().shutdown(Shutdown::Write).expect("shutdown");
    assert_eq!(lines.try_next(), None);
    assert_eq!(server.metric("gannet_node_publications_received_total"), 0);
}

/// All said at once, as by a program in a pipe, is answered before the end.
#[test]
fn a_pipe_gets_its_replies() {
    let server = start(OPEN, &[]);
    for round in 0..20 {
        let mut lines = open(&server);
        let publish = format!(r#"{{"id":2,"publish":{{"channel":"c{round}","data":{round}}}}}"#);
        lines.send(format!("{CONNECT}\n{publish}\n").as_bytes());
        lines.0.get_ref().shutdown(Shutdown::Write).expect("shutdown");
        assert_eq!(lines.next()["id"], 1);
        assert_eq!(lines.next(), json!({"id": 2, "publish": {}}));
        assert_eq!(lines.try_next(), None);
    }
    assert_eq!(server.metric("gannet_node_publications_received_total"), 20);
    assert_eq!(server.metric("gannet_transport_connections_lost_total"), 0);
}

#[test]
fn tokens_and_limits_are_those_of_all_clients() {
    let server = start(GUARDED, &["--client.connection_limit", "2"]);
    let mut lines = open(&server);
    let bearer = token(&json!({"sub": "42"}));
    lines.say(&json!({"id": 1, "connect": {"token": bearer}}).to_string());
    assert!(lines.next()["connect"]["client"].is_string());
    lines.say(r#"{"id":2,"publish":{"channel":"c","data":1}}"#);
    assert_eq!(lines.next()["error"]["code"], 103);
    let mut forged = open(&server);
    forged.say(r#"{"id":1,"connect":{"token":"a.b.c"}}"#);
    assert_eq!(forged.closed(), 3500);
    until("its place to be free", || {
        // Connections of the API are handed off, which counts as closed.
        let [handed_off, closed] =
            ["handed_off", "closed"].map(|what| server.metric(&format!("gannet_transport_connections_{what}_total")));
        (closed > handed_off).then_some(())
    });
    let _second = connected(&server);
    assert_eq!(open(&server).closed(), 3013);
    assert_eq!(server.metric("gannet_node_client_connection_limit_total"), 1);
}

#[test]
fn the_backend_is_told_of_the_transport() {
    let backend = Backend::start(|_| ok(json!({"result": {"user": "42"}})));
    let endpoint = backend.url("/connect");
    let options = ["--client.proxy.connect.enabled", "--client.proxy.connect.endpoint", &endpoint];
    let server = start(OPEN, &options);
    // The answer comes although the client has said all.
    let mut lines = open(&server);
    lines.say(CONNECT);
    lines.0.get_ref().shutdown(Shutdown::Write).expect("shutdown");
    assert!(lines.next()["connect"]["client"].is_string());
    let asked = backend.hears("/connect", 1).remove(0);
    assert_eq!((&asked.body["transport"], &asked.body["encoding"]), (&json!("tcp_line"), &json!("json")));
}

#[test]
fn a_ping_is_a_line_and_wants_an_answer() {
    let server = start(OPEN, &["--client.ping_interval", "1s", "--client.pong_timeout", "500ms"]);
    let mut deaf = connected(&server);
    assert_eq!(deaf.next(), json!({}));
    assert_eq!(deaf.closed(), 3012);
}

#[test]
fn who_reads_nothing_is_slow_and_who_stays_is_told_of_the_end() {
    let limits = ["--http_server.send_buffer_size", "16KiB", "--client.queue_max_size", "256KiB"];
    let mut server = start(OPEN, &[&limits[..], &["--shutdown.delay", "0s", "--shutdown.spread", "0s"]].concat());
    let mut deaf = Lines(BufReader::new(Peer::open_narrow(server.tcp_line.expect("a port")).stream));
    deaf.send(format!("{CONNECT}\n{SUBSCRIBE}\n").as_bytes());
    assert_eq!([&deaf.next()["id"], &deaf.next()["id"]], [1, 2]);
    let data = "x".repeat(50_000);
    until("the deaf one to be slow", || {
        server.publish("c", json!(data));
        (server.disconnects(3008) > 0).then_some(())
    });
    assert_eq!(deaf.closed(), 3008);
    let mut lines = connected(&server);
    server.signal(Signal::TERM);
    assert_eq!(lines.closed(), 3001);
    assert_eq!(server.exit().code(), Some(0));
}

#[test]
fn lines_may_have_the_tls_of_the_public_port_or_none() {
    let certificates = Certificates::new();
    for tls in [true, false] {
        let tls_option = format!("--tcp_line.tls={tls}");
        let server = Options::new(&certificates).with(ON).with(&[&tls_option]).start();
        if tls {
            for version in VERSIONS {
                let config = Arc::new(certificates.client_config(&[version], false));
                let stream = secure::open(server.tcp_line.expect("a port"), &config, NAME);
                exchange(&mut Lines(BufReader::new(stream)));
            }
        } else {
            exchange(&mut open(&server));
        }
    }
}

fn exchange<S: Read + Write>(lines: &mut Lines<S>) {
    lines.send(format!("{CONNECT}\n{SUBSCRIBE}\n").as_bytes());
    assert_eq!([&lines.next()["id"], &lines.next()["id"]], [1, 2]);
    let data = "x".repeat(60_000);
    lines.say(&json!({"id": 3, "publish": {"channel": "c", "data": data}}).to_string());
    let both = [lines.next(), lines.next()];
    assert!(both.iter().any(|line| line["push"]["pub"]["data"] == data.as_str()) && both.iter().any(|l| l["id"] == 3));
}
