//! A backend with certificates of its own authority, which wants one of its clients too.

use crate::certificates::{Certificates, NAME};
use crate::client::Client;
use crate::file::File;
use crate::server::{OPEN, Server};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

/// Answers every question with the same.
fn backend(config: Arc<ServerConfig>, answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let config = config.clone();
            std::thread::spawn(move || serve(config, stream, answer));
        }
    });
    address
}

fn serve(config: Arc<ServerConfig>, stream: TcpStream, answer: &str) -> Option<()> {
    let connection = ServerConnection::new(config).ok()?;
    let mut stream = BufReader::new(StreamOwned::new(connection, stream));
    loop {
        let mut len = 0;
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).ok().filter(|len| *len > 0)?;
            match line.trim().split_once(": ") {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => len = value.parse().ok()?,
                None if line.trim().is_empty() => break,
                _ => {}
            }
        }
        stream.read_exact(&mut vec![0; len]).ok()?;
        let reply = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{answer}", answer.len());
        stream.get_mut().write_all(reply.as_bytes()).ok()?;
        stream.get_mut().flush().ok()?;
    }
}

#[test]
fn a_backend_is_believed_by_its_authority_and_shown_a_certificate() {
    let [ours, others] = [Certificates::new(), Certificates::new()];
    let address = backend(ours.server(&[]), r#"{"result":{"data":"by tls"}}"#);
    let file = File::new("ca.pem", &ours.authority);
    let shown = |certificates: &Certificates| {
        let (certificate, key) = &certificates.client;
        json!({ "cert_pem": certificate, "key_pem": STANDARD.encode(key) })
    };
    let with = |mut tls: Value, more: Value| {
        let more = more.as_object().expect("an object").clone();
        tls.as_object_mut().expect("an object").extend(more);
        tls
    };
    let name = json!({ "server_name": NAME, "server_ca_pem": file.path() });
    let cases = [
        ("all", with(shown(&ours), name.clone()), true),
        ("no certificate", name.clone(), false),
        ("another's", with(shown(&others), name), false),
        (
            "another name",
            with(shown(&ours), json!({ "server_name": "a.example", "server_ca_pem": ours.authority })),
            false,
        ),
        (
            "another authority",
            with(shown(&ours), json!({ "server_name": NAME, "server_ca_pem": others.authority })),
            false,
        ),
        ("anyone", with(shown(&ours), json!({ "insecure_skip_verify": true })), true),
    ];
    let mut proxies = Vec::new();
    for (name, mut tls, _) in cases.clone() {
        tls["enabled"] = true.into();
        let name = name.replace(' ', "-").replace('\'', "");
        proxies.push(json!({ "name": name, "endpoint": format!("https://{address}/rpc"), "timeout": "10s", "http": { "tls": tls } }));
    }
    let namespaces: Vec<Value> = proxies
        .iter()
        .map(|proxy| json!({ "name": proxy["name"], "proxy_enabled": true, "proxy_name": proxy["name"] }))
        .collect();
    let config = File::new("tls.json", &json!({ "proxies": proxies, "rpc": { "namespaces": namespaces } }).to_string());
    let server = Server::with(OPEN, &["--config", config.path()]);
    let mut client = Client::connected(&server);
    for ((name, _, good), namespace) in cases.into_iter().zip(namespaces) {
        let method = format!("{}:x", namespace["name"].as_str().expect("a name"));
        let reply = client.ask(json!({ "rpc": { "method": method, "data": 1 } }));
        match good {
            true => assert_eq!(reply["rpc"]["data"], "by tls", "{name}: {reply}"),
            false => assert_eq!(reply["error"]["code"], 100, "{name}: {reply}"),
        }
    }
}

#[test]
fn certificates_that_cannot_be_read_are_told_by_check() {
    let options = ["--rpc.proxy.endpoint=https://127.0.0.1:1/", "--rpc.proxy.http.tls.enabled"];
    for (option, told) in [
        ("--rpc.proxy.http.tls.server_ca_pem=/nonexistent", "rpc.proxy: http.tls.server_ca_pem: expected PEM"),
        ("--rpc.proxy.grpc.tls.server_ca_pem=/nonexistent", ""),
    ] {
        let output = crate::server::gannet().arg("check").args(options).arg(option).output().expect("run");
        let text = String::from_utf8(output.stderr).expect("text");
        assert!(text.contains(told) && (told.is_empty() || output.status.code() == Some(2)), "{text}");
    }
}
