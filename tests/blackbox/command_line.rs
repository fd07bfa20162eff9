//! The program without a server: what it refuses to start with, and its other commands.

use crate::client::Client;
use crate::file::File;
use crate::server::{KEY, OPEN, SECRET, Server, gannet};
use serde_json::Value;
use std::net::SocketAddr;
use std::process::{Command, Output};

fn run(args: &[&str], variables: &[(&str, &str)]) -> Output {
    gannet().args(args).envs(variables.iter().copied()).output().expect("run")
}

fn refused(args: &[&str], variables: &[(&str, &str)]) -> String {
    let output = run(args, variables);
    assert_eq!(output.status.code(), Some(2), "{args:?}");
    assert!(output.stdout.is_empty());
    String::from_utf8(output.stderr).expect("text")
}

fn printed(args: &[&str], variables: &[(&str, &str)]) -> String {
    let output = run(args, variables);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn an_unknown_name_is_refused_with_the_nearest() {
    let flag = refused(&["--client.ping_intervall", "5s"], &[]);
    assert!(
        flag.contains("--client.ping_intervall") && flag.contains("did you mean --client.ping_interval?"),
        "{flag}"
    );
    let variable = refused(&[], &[("GANNET_HTTP_SERVER_PROT", "1")]);
    assert!(variable.contains("did you mean GANNET_HTTP_SERVER_PORT?"), "{variable}");
    let file = File::new("unknown.toml", "[websocket]\nmesage_size_limit = '1KiB'\n");
    let key = refused(&["--config", file.path()], &[]);
    assert!(key.contains("did you mean websocket.message_size_limit?") && key.contains("unknown.toml"), "{key}");
    assert!(refused(&["serv"], &[]).contains("serv"));
}

#[test]
fn a_value_out_of_range_is_refused_with_the_range() {
    let text = refused(&["check", "--http_server.port", "70000", "--client.ping_interval", "5"], &[]);
    assert!(text.contains("0 to 65535") && text.contains("a duration with its unit"), "{text}");
    let errors = text.lines().filter(|line| line.starts_with("error: "));
    assert_eq!(errors.count(), 2, "one line for each problem: {text}");
    assert!(refused(&["--config", "/nonexistent.toml"], &[]).contains("/nonexistent.toml"));
}

/// What a server says that cannot have its port.
fn refused_port(address: SocketAddr) -> String {
    let port = address.port().to_string();
    let mut command = Command::new("timeout");
    command.args([
        "10",
        env!("CARGO_BIN_EXE_gannet"),
        "--http_server.address",
        "127.0.0.1",
        "--http_server.port",
        &port,
    ]);
    let output = command.args(["--log.level", "error"]).output().expect("run");
    let text = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(2), "{text}");
    text
}

#[test]
fn a_port_that_is_taken_is_an_error_at_start() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let text = refused_port(taken.local_addr().expect("address"));
    assert!(text.contains("cannot listen on 127.0.0.1:") && text.contains("--http_server.port"), "{text}");
}

#[test]
fn a_port_that_another_server_has_is_an_error_at_start() {
    let other = Server::start(OPEN);
    let text = refused_port(other.address);
    assert!(text.contains("cannot listen on 127.0.0.1:") && text.contains("--http_server.port"), "{text}");
}

#[test]
fn check_config_and_version_print() {
    assert!(printed(&["check"], &[]).ends_with("config ok\n"));
    let version = printed(&["version"], &[]);
    assert_eq!(version.lines().next(), Some(concat!("gannet ", env!("CARGO_PKG_VERSION"))), "{version}");
    assert!(version.contains("\nprofile  ") && version.contains("\nfeatures "), "{version}");
    let secrets = [("GANNET_HTTP_API_KEY", KEY), ("GANNET_CLIENT_TOKEN_HMAC_SECRET_KEY", SECRET)];
    for format in ["toml", "yaml", "json"] {
        let text = printed(&["config", "--format", format, "--reactors", "7"], &secrets);
        assert!(!text.contains(KEY) && !text.contains(SECRET), "secrets stay secret");
        assert!(text.contains("message_size_limit") && text.contains('7'), "{text}");
    }
    let json: Value = serde_json::from_str(&printed(&["config", "--format", "json"], &[])).expect("JSON");
    assert_eq!(json["websocket"]["handler_prefix"], "/connection/websocket");
    let file = File::new("printed.toml", &printed(&["config"], &[]));
    assert!(printed(&["check", "--config", file.path()], &[]).ends_with("config ok\n"));
}

#[test]
fn a_token_that_is_printed_is_taken() {
    let secret = [("GANNET_CLIENT_TOKEN_HMAC_SECRET_KEY", SECRET)];
    let server = Server::start(&["--client.token.hmac_secret_key", SECRET]);
    for algorithm in ["HS256", "HS384", "HS512"] {
        let token = printed(&["token", "connection", "--user", "42", "--alg", algorithm], &secret);
        Client::connected_with(&server, token.trim_end());
    }
    let short = printed(&["token", "--user", "42"], &secret);
    Client::connected_with(&server, short.trim_end());
    assert!(refused(&["token", "--user", "42"], &[]).contains("hmac_secret_key"));
}

#[test]
fn a_token_is_checked_by_the_exit_status() {
    let secret = [("GANNET_CLIENT_TOKEN_HMAC_SECRET_KEY", SECRET)];
    for words in [&["connection"][..], &["subscription", "--channel", "$news"]] {
        let make = [&["token"], words, &["--user", "42", "--ttl", "1m"]].concat();
        let token = printed(&make, &secret);
        let check = ["token", "check", token.trim_end()];
        assert!(printed(&check, &secret).starts_with(&format!("valid {} token\n", words[0])));
        let other = run(&check, &[("GANNET_CLIENT_TOKEN_HMAC_SECRET_KEY", "another")]);
        assert_eq!(other.status.code(), Some(1));
        assert!(other.stdout.starts_with(b"invalid: the signature does not fit the key\n"));
    }
}

#[test]
fn a_key_that_is_none_is_refused_at_start() {
    let args = ["--client.token.rsa_public_key", "secret", "--client.subscription_token.issuer_regex", "("];
    let text = refused(&args, &[]);
    assert!(text.contains("expected an RSA public key in PEM"), "{text}");
    assert!(text.contains("--client.subscription_token.issuer_regex: expected a regular expression"), "{text}");
}
