//! `gannet check` and the start say the same of any configuration, and say all of it.

use crate::server::{PATIENCE, gannet};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::Value;
use std::cell::Cell;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::channel;

/// The program with so many descriptors at most.
fn limited(descriptors: Option<u32>) -> Command {
    let Some(count) = descriptors else { return gannet() };
    let program = gannet();
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -n {count}; exec \"$0\" \"$@\"")]).arg(program.get_program());
    program.get_envs().filter(|(_, value)| value.is_none()).for_each(|(name, _)| {
        command.env_remove(name);
    });
    command
}

/// What a start comes to.
#[derive(Debug, PartialEq)]
enum Started {
    Listens,
    /// Exit status, and what was said.
    Ended(Option<i32>, String),
}

fn start(mut command: Command, args: &[String]) -> Started {
    let mut child = command.args(args).stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("start");
    let mut log = BufReader::new(child.stderr.take().expect("stderr"));
    let (tell, told) = channel();
    std::thread::spawn(move || {
        let (mut all, mut line) = (String::new(), String::new());
        while log.read_line(&mut line).is_ok_and(|size| size > 0) {
            let said: Value = serde_json::from_str(&line).unwrap_or_default();
            if said["message"] == "listening" {
                let _ = tell.send(None);
            }
            all += &line;
            line.clear();
        }
        let _ = tell.send(Some(all));
    });
    let first = told.recv_timeout(PATIENCE);
    if !matches!(first, Ok(Some(_))) {
        let _ = child.kill();
    }
    let status = child.wait().expect("wait");
    match first.expect("it listens, or ends") {
        None => Started::Listens,
        Some(said) => Started::Ended(status.code(), said),
    }
}

fn errors(text: &str) -> Vec<&str> {
    text.lines().filter(|line| line.starts_with("error: ")).collect()
}

fn check(mut command: Command, args: &[String]) -> Output {
    command.arg("check").args(args).output().expect("run")
}

/// A port that nothing listens on, and the next.
fn free_ports() -> [u16; 2] {
    loop {
        let one = TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = one.local_addr().expect("address").port();
        if port < u16::MAX && TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
            return [port, port + 1];
        }
    }
}

/// Values of options, of which some are not sound.
fn values() -> Vec<(&'static str, Vec<&'static str>)> {
    vec![
        (
            "http_server.address",
            vec!["localhost", "127.0.0.2", "::1", "[::1]", ":8000", "*", "name.local", " ", "192.0.2.1", "127.0.0.1 "],
        ),
        ("http_server.port", vec!["PORT", "NEXT", "70000"]),
        ("http_server.internal_port", vec!["PORT", "NEXT", "0"]),
        ("http_server.internal_address", vec!["127.0.0.1", "[::1]", "127.0.0.2", "name.local"]),
        ("grpc_api.enabled", vec!["true"]),
        ("grpc_api.port", vec!["PORT", "NEXT", "0"]),
        ("uni_grpc.enabled", vec!["true"]),
        ("uni_grpc.port", vec!["PORT", "NEXT", "0"]),
        ("tcp_line.enabled", vec!["true"]),
        ("tcp_line.port", vec!["PORT", "NEXT", "0"]),
        ("tcp_line.tls", vec!["true"]),
        (
            "uni_sse.connect_code_to_http_response.transforms",
            vec![r#"[{"code":1,"to":{"status_code":100}}]"#, r#"[{"code":1,"to":{"status_code":204}}]"#],
        ),
        ("channel.proxy.subscribe_stream.endpoint", vec!["grpc://127.0.0.1:1", "http://127.0.0.1:1/"]),
        ("channel.without_namespace.subscribe_stream_proxy_enabled", vec!["true"]),
        ("reactors", vec!["1", "2", "1000", "1025"]),
        ("http_server.steering", vec!["cpu", "hash", "numa"]),
        ("http_server.share_port", vec!["true"]),
        ("client.ping_interval", vec!["5s", "25", "-1s"]),
        ("client.pong_timeout", vec!["6s", "1s"]),
        ("http_api.key", vec!["0123456789abcdef0123", "0123456789abcdef0123\r", "abc"]),
        (
            "rpc.proxy.endpoint",
            vec![
                "http://127.0.0.1:1/x?y=%20",
                "http://127.0.0.1:99999/",
                "http://h/~'()*!$&+,;=:@",
                "https://127.0.0.1:1/",
                "grpc://127.0.0.1:1",
                "grpc://127.0.0.1:1/x",
            ],
        ),
        ("hooks.endpoint", vec!["http://[::1]:1/[x]", "http://a:/", "http://127.0.0.1"]),
        ("rpc.proxy.http.static_headers", vec![r#"{"X-Key":"k"}"#, r#"{"a b":"c"}"#]),
        ("rpc.proxy.http.tls.enabled", vec!["true"]),
        ("rpc.proxy.http.tls.server_ca_pem", vec!["/nonexistent", "-----BEGIN "]),
        ("rpc.proxy.grpc.tls.enabled", vec!["true"]),
        ("rpc.proxy.grpc.tls.server_ca_pem", vec!["/nonexistent", "-----BEGIN "]),
        ("rpc.proxy.grpc.tls.key_pem", vec!["/nonexistent"]),
        ("pid_file", vec!["/nonexistent/pid"]),
        ("log.file", vec!["/nonexistent/log"]),
        ("channel.namespace_boundary", vec!["/", ""]),
        ("rpc.proxy.http_headers", vec!["Cookie,x-a", "Host"]),
        ("client.token.jwks_public_endpoint", vec!["https://127.0.0.1:1/keys", "http://a:0/"]),
        ("client.allowed_origins", vec!["https://[a", "https://a.b/"]),
        ("admin.enabled", vec!["true"]),
        ("admin.handler_prefix", vec!["/admin", "/api", "x"]),
        ("engine.type", vec!["redis", "memory"]),
        ("client.connection_limit", vec!["10", "1000000000"]),
        ("websocket.handler_prefix", vec!["/api/x", "/w", "w"]),
    ]
}

/// Options, each with values of which some are not sound, alone or beside others.
fn flags([port, next]: [u16; 2]) -> impl Strategy<Value = Vec<String>> {
    let ports = [port.to_string(), next.to_string()];
    let one = |(option, values): (&'static str, Vec<&'static str>)| {
        let ports = ports.clone();
        proptest::option::weighted(0.13, proptest::sample::select(values)).prop_map(move |value| {
            let value = value?.replace("PORT", &ports[0]).replace("NEXT", &ports[1]);
            Some(format!("--{option}={value}"))
        })
    };
    let strategies: Vec<_> = values().into_iter().map(one).collect();
    strategies.prop_map(|all| {
        let given: Vec<String> = all.into_iter().flatten().collect();
        let mut args = vec!["--log.format=json".to_owned(), "--shutdown.delay=0".to_owned()];
        // Loopback only, whatever the options say.
        for (option, value) in [
            ("http_server.address", "127.0.0.1"),
            ("grpc_api.address", "127.0.0.1"),
            ("uni_grpc.address", "127.0.0.1"),
            ("tcp_line.address", "127.0.0.1"),
            ("http_server.port", "0"),
        ] {
            if !given.iter().any(|arg| arg.starts_with(&format!("--{option}="))) {
                args.push(format!("--{option}={value}"));
            }
        }
        args.extend(given);
        args
    })
}

#[test]
fn check_and_start_agree_on_any_configuration() {
    let strategy =
        (flags(free_ports()), proptest::option::weighted(0.15, proptest::sample::select(vec![64, 200, 400])));
    let config = Config { cases: 60, failure_persistence: None, max_shrink_iters: 40, ..Config::default() };
    let (listened, refused) = (Cell::new(0), Cell::new(0));
    let outcome = TestRunner::new(config).run(&strategy, |(args, descriptors)| {
        let checked = check(limited(descriptors), &args);
        let started = start(limited(descriptors), &args);
        let said = String::from_utf8_lossy(&checked.stderr).into_owned();
        const TAKEN: &str = "another program has the port";
        match started {
            // What others do with a port, now or between the two, is no matter of the configuration.
            _ if said.contains(TAKEN) => {}
            Started::Listens => {
                listened.set(listened.get() + 1);
                prop_assert_eq!(checked.status.code(), Some(0), "{:?}: {}", args, said);
            }
            Started::Ended(_, text) if text.contains(TAKEN) => {}
            // Only a start asks Redis; nobody serves at the default address here.
            Started::Ended(_, text) if text.contains("engine.redis: 127.0.0.1:6379: ") => {
                prop_assert_eq!(checked.status.code(), Some(0), "{:?}: {}", args, said);
            }
            Started::Ended(code, text) => {
                refused.set(refused.get() + 1);
                prop_assert_eq!((code, checked.status.code()), (Some(2), Some(2)), "{:?}: {} {}", args, text, said);
                prop_assert_eq!(errors(&text), errors(&said), "{:?}", args);
            }
        }
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    assert!(listened.get() > 5 && refused.get() > 5, "{listened:?} {refused:?}: too much the same");
}

#[test]
fn what_a_start_would_stumble_over_is_told_by_check() {
    let [port, _] = free_ports();
    let (port, cpus) = (port.to_string(), std::thread::available_parallelism().map_or(1, |count| count.get()) + 1);
    let many = cpus.to_string();
    let table: &[(&[&str], &str)] = &[
        (&["-a", ":8000"], "http_server.address: expected an IP address"),
        (&["-a", "*"], "http_server.address: expected an IP address"),
        (&["-a", "name.local"], "http_server.address: expected an IP address"),
        (&["-a", " "], "http_server.address: expected an IP address"),
        (&["-a", "192.0.2.1"], "cannot listen on 192.0.2.1:0: "),
        (&["--grpc_api.enabled", "--grpc_api.port", &port, "-p", &port], "grpc_api.port: expected another port"),
        (&["--http_server.internal_port", &port, "-p", &port], "http_server.internal_port: expected another port"),
        (&["--http_server.steering", "cpu", "--reactors", &many], "http_server.steering = cpu wants a CPU for each"),
    ];
    for (flags, part) in table {
        let mut args: Vec<String> = flags.iter().map(ToString::to_string).collect();
        for (flag, value) in [("-p", "0"), ("-a", "127.0.0.1")] {
            if !flags.contains(&flag) {
                args.extend([flag.to_owned(), value.to_owned()]);
            }
        }
        let checked = check(gannet(), &args);
        let said = String::from_utf8_lossy(&checked.stderr).into_owned();
        assert_eq!(checked.status.code(), Some(2), "{args:?}: {said}");
        assert!(errors(&said).len() == 1 && errors(&said)[0].contains(part), "{args:?}: {said}");
        match start(gannet(), &args) {
            Started::Ended(Some(2), text) => assert_eq!(errors(&text), errors(&said), "{args:?}"),
            other => panic!("{args:?}: {other:?}"),
        }
    }
    let few = check(limited(Some(64)), &["-p".to_owned(), "0".to_owned(), "-a".to_owned(), "127.0.0.1".to_owned()]);
    let mut said = String::new();
    (&few.stderr[..]).read_to_string(&mut said).expect("text");
    assert!(said.contains("the file descriptor limit is 64, too few to serve"), "{said}");
}

#[test]
fn a_port_in_use_is_no_fault_of_the_configuration() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = taken.local_addr().expect("address").port().to_string();
    let args = ["-a".to_owned(), "127.0.0.1".to_owned(), "-p".to_owned(), port];
    let checked = check(gannet(), &args);
    assert!(checked.stdout.ends_with(b"config ok\n"), "a server that runs has its port");
}
