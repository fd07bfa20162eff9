//! TLS of the ports: both versions and both record layers, certificates that change, tickets, and peers that do wrong.

use crate::certificates::{Certificates, NAME};
use crate::file::File;
use crate::secure::{Options, Secure, VERSIONS, open, request, shake};
use crate::server::{KEY, Server, until};
use rustix::process::Signal;
use rustls::{ClientConfig, HandshakeKind};
use serde_json::json;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use tungstenite::{Error, Message};

/// Both record layers for TLS 1.3.
const LAYERS: [&str; 2] = ["--tls.compact=true", "--tls.compact=false"];

fn config(certificates: &Certificates, version: usize) -> Arc<ClientConfig> {
    Arc::new(certificates.client_config(&VERSIONS[version..=version], false))
}

/// Closes, and sees the end: of the WebSocket, and then of TLS.
fn leave(client: &mut Secure) {
    client.socket.close(None).expect("close");
    let end = loop {
        match client.socket.read() {
            Ok(_) => {}
            Err(end) => break end,
        }
    };
    assert!(matches!(end, Error::ConnectionClosed), "{end}");
    assert_eq!(client.socket.get_mut().read(&mut [0; 1]).expect("close_notify"), 0);
}

#[test]
fn clients_of_both_versions_hear_and_are_heard() {
    let certificates = Certificates::new();
    for layer in LAYERS {
        let server = Options::new(&certificates).with(&[layer, "--echo.enabled"]).start();
        for version in [0, 1] {
            let config = config(&certificates, version);
            let mut clients: Vec<Secure> = (0..4).map(|_| Secure::subscribed(&server, &config, "news")).collect();
            for round in 0..3 {
                // Longer than a record, and than what is sealed at once.
                let data = json!({ "round": round, "text": "x".repeat(50_000 * round) });
                server.publish("news", data.clone());
                clients.iter_mut().for_each(|client| assert_eq!(client.publication(), data));
            }
            clients.iter_mut().for_each(leave);
            let mut echo = Secure::at(open(server.address, &config, NAME), "/echo");
            for size in [0, 1, 16_383, 16_384, 16_385, 200_000, 2_000_000] {
                let message = Message::binary(vec![size as u8; size]);
                echo.socket.send(message.clone()).expect("send");
                assert!(echo.socket.read().expect("an echo") == message, "{size} bytes, version {version}, {layer}");
            }
            leave(&mut echo);
        }
        assert_eq!(server.metric("gannet_tls_handshakes_total"), 10);
        assert_eq!(server.metric("gannet_tls_handshakes_tls12_total"), 5);
        assert_eq!(server.metric("gannet_tls_connections_cut_total"), 0);
        assert_eq!(server.metric("gannet_workers_panicked_jobs_total{kind=\"handshake\"}"), 0);
    }
}

#[test]
fn a_connection_goes_to_plain_http_and_comes_back() {
    let certificates = Certificates::new();
    for (layer, version) in [(LAYERS[0], 0), (LAYERS[1], 0), (LAYERS[0], 1)] {
        let server = Options::new(&certificates).with(&[layer, "--http_api.external"]).start();
        let config = config(&certificates, version);
        let mut stream = open(server.address, &config, NAME);
        let key = format!("X-API-Key: {KEY}\r\nContent-Type: application/json\r\n");
        for size in [1, 20_000, 200_000] {
            let body = json!({ "channel": "news", "data": "x".repeat(size) }).to_string();
            let (status, answer) = request(&mut stream, "POST", "/api/publish", &key, &body);
            assert_eq!((status, answer.as_str()), (200, "{\"result\":{}}"));
        }
        assert_eq!(request(&mut stream, "GET", "/nowhere", "", "").0, 404);
        // The same connection becomes a client's.
        let mut client = Secure::over(stream);
        assert!(client.ask(json!({ "connect": {} }))["connect"]["client"].is_string());
        client.ask(json!({ "subscribe": { "channel": "news" } }));
        server.publish("news", json!(7));
        assert_eq!(client.publication(), 7);
        assert_eq!(server.metric("gannet_reactor_sockets_handed_back_total"), 1);
    }
}

#[test]
fn ports_have_tls_of_their_own() {
    let certificates = Certificates::new();
    let (certificate, key) = &certificates.server;
    let tls = |section: &str| {
        let (enabled, cert, key_pem) = (
            format!("--{section}.enabled"),
            format!("--{section}.cert_pem={certificate}"),
            format!("--{section}.key_pem={key}"),
        );
        [enabled, cert, key_pem]
    };
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port").port().to_string();
    let mut options = vec!["--client.insecure".to_owned(), "--http_server.internal_port".into(), port];
    options.extend(["--grpc_api.enabled", "--grpc_api.address=127.0.0.1", "--grpc_api.port=0"].map(str::to_owned));
    options.extend(tls("http_server.internal_tls"));
    options.extend(tls("grpc_api.tls"));
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let server = Server::start(&options);
    for version in [0, 1] {
        let mut internal = open(server.internal.expect("it is on"), &config(&certificates, version), NAME);
        for _ in 0..3 {
            let (status, page) = request(&mut internal, "GET", "/metrics", "", "");
            assert!(status == 200 && page.contains("gannet_tls_certificate_expiry_timestamp_seconds{port=\"grpc\""));
        }
        let mut with_h2 = certificates.client_config(&VERSIONS[version..=version], false);
        with_h2.alpn_protocols = vec![b"h2".to_vec()];
        let mut grpc = open(server.grpc.expect("it is on"), &Arc::new(with_h2), NAME);
        shake(&mut grpc).expect("a handshake");
        assert_eq!(grpc.conn.alpn_protocol(), Some(&b"h2"[..]));
        // A client's preface and its settings; the server's settings come first.
        grpc.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").expect("send");
        let mut head = [0; 9];
        grpc.read_exact(&mut head).expect("a frame");
        assert_eq!(head[3], 4, "SETTINGS");
    }
    // The public port has none.
    crate::peer::Peer::connected(&server);
}

#[test]
fn a_client_that_knows_none_of_the_protocols_is_told_so() {
    let certificates = Certificates::new();
    let server = Options::new(&certificates).start();
    for version in [0, 1] {
        for (protocols, fits) in [(&["h2", "http/1.0"][..], false), (&["h2", "http/1.1"], true), (&[], true)] {
            let mut config = certificates.client_config(&VERSIONS[version..=version], false);
            config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
            let mut stream = open(server.address, &Arc::new(config), NAME);
            match shake(&mut stream) {
                Ok(()) => assert!(fits && stream.conn.alpn_protocol().is_none_or(|chosen| chosen == b"http/1.1")),
                Err(error) => {
                    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
                    let told = rustls::Error::AlertReceived(rustls::AlertDescription::NoApplicationProtocol);
                    assert!(!fits && inner == Some(&told), "{protocols:?}: {error}");
                }
            }
        }
    }
    server.counts("gannet_tls_handshake_failures_total", 2);
}

/// Connects with what the client remembers, and says whether it resumed.
fn resumes(server: &Server, config: &Arc<ClientConfig>) -> bool {
    let mut client = Secure::over(open(server.address, config, NAME));
    assert!(client.ask(json!({ "connect": {} }))["connect"]["client"].is_string());
    client.socket.get_ref().conn.handshake_kind() == Some(HandshakeKind::Resumed)
}

#[test]
fn nodes_with_one_secret_resume_each_other_s_clients() {
    let certificates = Certificates::new();
    let start = |secret: &str| Options::new(&certificates).with(&["--tls.ticket_secret", secret]).start();
    let [one, other, stranger] = [&"a".repeat(32), &"a".repeat(32), &"b".repeat(32)].map(|secret| start(secret));
    let alone = Options::new(&certificates).start();
    for version in [0, 1] {
        let config = config(&certificates, version);
        // With TLS 1.2 whoever got hold of the secret could read on: it has no tickets.
        let may = version == 0;
        assert_eq!([&one, &one, &other].map(|server| resumes(server, &config)), [false, may, may], "{version}");
        assert!(!resumes(&stranger, &config), "its secret is another");
        let config = self::config(&certificates, version);
        assert_eq!([&alone, &alone].map(|server| resumes(server, &config)), [false, may], "without a secret");
    }
    assert_eq!(other.metric("gannet_tls_handshakes_resumed_total"), 1);
}

#[test]
fn the_certificate_is_that_of_the_name_asked_for() {
    let certificates = Certificates::new();
    let named = ["b.example", "*.c.example"].map(|name| {
        let (cert_pem, key_pem) = certificates.signed(name);
        json!({ "cert_pem": cert_pem, "key_pem": key_pem })
    });
    let server = Options::new(&certificates).with(&["--tls.certificates", &json!(named).to_string()]).start();
    for version in [0, 1] {
        let config = config(&certificates, version);
        for (name, good) in [(NAME, true), ("b.example", true), ("x.c.example", true), ("c.example", false)] {
            let shaken = shake(&mut open(server.address, &config, name));
            assert_eq!(shaken.is_ok(), good, "{name}: {shaken:?}");
        }
    }
    let page = server.metrics();
    let expiries =
        page.lines().filter(|line| line.starts_with("gannet_tls_certificate_expiry_timestamp_seconds{port=\"public\""));
    assert_eq!(expiries.count(), 3);
}

#[test]
fn a_client_shows_a_certificate_where_it_must() {
    let [ours, others] = [Certificates::new(), Certificates::new()];
    for layer in LAYERS {
        let server = Options::new(&ours).with(&[layer, "--http_server.tls.client_ca_pem", &ours.authority]).start();
        for version in 0..2 {
            let versions = &VERSIONS[version..=version];
            let good = Arc::new(ours.client_config(versions, true));
            // Each time: a ticket would outlive what it was given for.
            assert_eq!([resumes(&server, &good), resumes(&server, &good)], [false, false]);
            let mut stranger = ours.client_config(versions, false);
            for config in [ours.client_config(versions, false), {
                let shown = others.client_config(versions, true);
                stranger.client_auth_cert_resolver = shown.client_auth_cert_resolver;
                stranger
            }] {
                let mut stream = open(server.address, &Arc::new(config), NAME);
                // With TLS 1.3 the client is done before it is refused.
                let refused = shake(&mut stream).and_then(|()| stream.read(&mut [0; 1]));
                assert!(matches!(refused, Err(ref error) if error.kind() == ErrorKind::InvalidData), "{refused:?}");
            }
        }
        server.counts("gannet_tls_handshake_failures_total", 4);
    }
}

#[test]
fn certificates_change_and_no_client_is_lost() {
    let [old, new] = [Certificates::new(), Certificates::new()];
    let (certificate, key) = (File::new("tls.crt", &old.server.0), File::new("tls.key", &old.server.1));
    let server = Options::of(certificate.path(), key.path()).with(&["--tls.reload_interval", "1s"]).start();
    let mut clients: Vec<Secure> = (0..3).map(|_| Secure::subscribed(&server, &config(&old, 0), "news")).collect();
    // Nothing is remembered of connections before, and so each looks at the certificate.
    let fits = |certificates: &Certificates| shake(&mut open(server.address, &config(certificates, 0), NAME)).is_ok();
    // A certificate without its key is refused, and the old pair goes on.
    certificate.write(&new.server.0);
    let refused = "http_server.tls.key_pem: is not the key of the certificate in cert_pem";
    until("a refusal", || server.logged(refused).then_some(()));
    assert!(fits(&old) && !fits(&new));
    key.write(&new.server.1);
    until("the new pair", || server.logged("other certificates or keys are taken").then_some(()));
    assert!(fits(&new) && !fits(&old));
    // The other way back at once, by a signal.
    certificate.write(&old.server.0);
    key.write(&old.server.1);
    server.signal(Signal::HUP);
    until("the old pair", || fits(&old).then_some(()));
    server.publish("news", json!("still here"));
    clients.iter_mut().for_each(|client| assert_eq!(client.publication(), "still here"));
    server.counts("gannet_tls_certificate_reload_failures_total", 1);
    server.counts("gannet_tls_certificate_reloads_total", 2);
}

#[test]
fn a_certificate_that_ends_soon_is_told_of() {
    let certificates = Certificates::new();
    let (certificate, key) = certificates.ending_in(13);
    let server = Options::of(&certificate, &key).start();
    until("a line", || server.logged("a certificate ends within so many days").then_some(()));
}

#[test]
fn peers_that_do_wrong_in_the_handshake_disturb_nobody() {
    let certificates = Certificates::new();
    let limits = ["--http_server.handshake_timeout", "2s", "--tls.handshake_limit", "8"];
    let server = Options::new(&certificates).with(&limits).start();
    let config = config(&certificates, 0);
    let mut witness = Secure::subscribed(&server, &config, "news");
    let connect = || TcpStream::connect(server.address).expect("connect");
    let noise: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x50\x01",
        b"\x16\x03\x01\0\x05\x01\0\0\x01\0",
        b"\x17\x03\x03\0\x01\0",
        b"\x15\x03\x03\0\x02\x02\x28",
        &[0; 100],
    ];
    for (count, bytes) in (1..).zip(noise) {
        let mut stream = connect();
        stream.write_all(bytes).expect("send");
        // An alert may come, and then the end.
        let _ = stream.read_to_end(&mut Vec::new());
        server.counts("gannet_tls_handshake_failures_total", count);
    }
    // Each says nothing, or half a hello; the oldest goes when there are more than may be.
    let idle: Vec<TcpStream> = (0..12).map(|_| connect()).collect();
    server.counts("gannet_tls_handshakes_refused_total", 4);
    for mut stream in idle.iter().skip(4) {
        let _ = stream.write_all(b"\x16\x03\x01\x02\0\x01\0\x01\xfc");
    }
    witness.lives();
    server.counts("gannet_tls_handshake_timeouts_total", 8);
    for mut stream in &idle {
        stream.set_read_timeout(Some(crate::server::PATIENCE)).expect("read timeout");
        assert!(!matches!(stream.read(&mut [0; 1]), Ok(1)), "closed without a word");
    }
    server.publish("news", json!(1));
    assert_eq!(witness.publication(), 1);
}

/// A hello of 64 KiB less a byte, so many bytes of it, in records.
fn endless_hello(len: usize) -> Vec<u8> {
    let hello = [&[1, 0, 0xff, 0xff, 3, 3][..], &vec![7; len]].concat();
    let record = |said: &[u8]| [&[22, 3, 1][..], &(said.len() as u16).to_be_bytes(), said].concat();
    hello.chunks(16 * 1024).flat_map(record).collect()
}

#[test]
fn who_hangs_up_in_the_handshake_is_noticed_at_once() {
    let certificates = Certificates::new();
    let server = Options::new(&certificates).with(&["--http_server.handshake_timeout", "30m"]).start();
    let mut failures = 0;
    for version in [0, 1] {
        let mut hello = Vec::new();
        open(server.address, &config(&certificates, version), NAME).conn.write_tls(&mut hello).expect("a vector");
        failures += 1;
        server.counts("gannet_tls_handshake_failures_total", failures);
        // What was said and the end of it may come to the server together or one after the other.
        for said in [&hello[..], &hello[..100], &hello[..3]] {
            let mut stream = TcpStream::connect(server.address).expect("connect");
            stream.write_all(said).expect("send");
            stream.shutdown(Shutdown::Write).expect("an end");
            // Of a whole hello an answer comes first.
            let _ = stream.read_to_end(&mut Vec::new());
            failures += 1;
            server.counts("gannet_tls_handshake_failures_total", failures);
        }
        let mut stream = TcpStream::connect(server.address).expect("connect");
        stream.write_all(&hello).expect("send");
        stream.read_exact(&mut [0; 1]).expect("an answer");
        socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)).expect("linger");
        drop(stream);
        failures += 1;
        server.counts("gannet_tls_handshake_failures_total", failures);
    }
    assert_eq!(server.metric("gannet_tls_handshake_timeouts_total"), 0);
}

#[test]
fn who_says_more_than_a_hello_is_closed() {
    let certificates = Certificates::new();
    let authority = certificates.authority.clone();
    for (options, closed) in [(&[][..], true), (&["--http_server.tls.client_ca_pem", &authority][..], false)] {
        let patient = [options, &["--http_server.handshake_timeout", "1m"]].concat();
        let server = Options::new(&certificates).with(&patient).start();
        let mut stream = TcpStream::connect(server.address).expect("connect");
        // It may be closed before it said all.
        let _ = stream.write_all(&endless_hello(60_000));
        server.counts("gannet_tls_handshake_failures_total", u64::from(closed));
        if !closed {
            // A certificate may be long, and yet not longer than any message.
            stream.write_all(&endless_hello(60_000)).expect("it is still there");
            server.counts("gannet_tls_handshake_failures_total", 1);
        }
        assert_eq!(server.metric("gannet_tls_handshake_timeouts_total"), 0);
    }
}

#[test]
fn those_who_say_most_are_closed_when_handshakes_hold_too_much() {
    let certificates = Certificates::new();
    let limits = ["--tls.handshake_memory_limit", "128KiB", "--http_server.handshake_timeout", "1m"];
    let server = Options::new(&certificates).with(&limits).start();
    // Half a hello, as anyone may have.
    let mut small = TcpStream::connect(server.address).expect("connect");
    small.write_all(b"\x16\x03\x01\x02\0\x01\0\x01\xfc").expect("send");
    let _large: Vec<TcpStream> = (1..=20)
        .map(|_| {
            let mut stream = TcpStream::connect(server.address).expect("connect");
            let _ = stream.write_all(&endless_hello(12_000));
            stream
        })
        .collect();
    // Ten of them fit, or a few less.
    until("refusals", || (server.metric("gannet_tls_handshakes_refused_total") >= 10).then_some(()));
    let mut client = Secure::subscribed(&server, &config(&certificates, 0), "news");
    client.lives();
    small.set_nonblocking(true).expect("it is open");
    let nothing = small.read(&mut [0; 1]).expect_err("neither a word nor an end");
    assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
    assert_eq!(server.metric("gannet_tls_handshake_failures_total"), 0);
}

#[test]
fn a_handshake_may_come_byte_by_byte() {
    let certificates = Certificates::new();
    let server = Options::new(&certificates).with(&["--reactor.accept_budget", "1"]).start();
    for version in [0, 1] {
        let mut stream = open(server.address, &config(&certificates, version), NAME);
        while stream.conn.is_handshaking() {
            let mut said = Vec::new();
            while stream.conn.wants_write() {
                stream.conn.write_tls(&mut said).expect("a vector");
            }
            for byte in said {
                stream.sock.write_all(&[byte]).expect("send");
            }
            if stream.conn.is_handshaking() {
                stream.conn.read_tls(&mut stream.sock).expect("an answer");
                stream.conn.process_new_packets().expect("sound");
            }
        }
        let mut client = Secure::over(stream);
        assert!(client.ask(json!({ "connect": {} }))["connect"]["client"].is_string());
    }
}

#[test]
fn a_stream_that_is_cut_is_told_from_one_that_ends() {
    let certificates = Certificates::new();
    for (layer, version) in [(LAYERS[0], 0), (LAYERS[1], 0), (LAYERS[0], 1)] {
        let server = Options::new(&certificates).with(&[layer]).start();
        let config = config(&certificates, version);
        let end = |says: bool| {
            let mut client = Secure::subscribed(&server, &config, "news");
            let stream = client.socket.get_mut();
            if says {
                stream.conn.send_close_notify();
                stream.conn.complete_io(&mut stream.sock).expect("sent");
            }
            stream.sock.shutdown(Shutdown::Write).expect("shut down");
            assert!(stream.sock.read_to_end(&mut Vec::new()).is_ok());
        };
        end(true);
        end(false);
        server.counts("gannet_tls_connections_cut_total", 1);
        end(true);
        server.counts("gannet_transport_connections_lost_total", 3);
        assert_eq!(server.metric("gannet_tls_connections_cut_total"), 1);
        // A record that nobody sealed ends it with an alert.
        let mut client = Secure::subscribed(&server, &config, "news");
        client.socket.get_mut().sock.write_all(b"\x17\x03\x03\0\x20an entirely different byte string").expect("send");
        let end = client.socket.read().expect_err("ended");
        assert!(end.to_string().contains("BadRecordMac") || end.to_string().contains("DecryptError"), "{end}");
    }
}

#[test]
fn a_storm_of_handshakes_leaves_clients_alone() {
    let certificates = Certificates::new();
    // One step a turn: a storm waits in the reactor, too.
    let limits = ["--workers.queue_size", "64KiB", "--reactor.accept_budget", "1"];
    let server = Options::new(&certificates).with(&limits).start();
    let config = config(&certificates, 0);
    let mut witness = Secure::subscribed(&server, &config, "news");
    let address = server.address;
    let storm: Vec<_> = (0..8)
        .map(|_| {
            let certificates = certificates.client_config(&VERSIONS, false);
            std::thread::spawn(move || {
                let config = Arc::new(certificates);
                (0..40).filter(|_| shake(&mut open(address, &config, NAME)).is_ok()).count()
            })
        })
        .collect();
    for round in 0..50 {
        server.publish("news", json!(round));
        assert_eq!(witness.publication(), round);
    }
    let done: usize = storm.into_iter().map(|thread| thread.join().expect("a storm")).sum();
    assert!(done > 0);
    let refused = server.metric("gannet_tls_handshakes_refused_total");
    assert_eq!(done as u64 + refused, 320, "done or refused, nobody is forgotten");
}
