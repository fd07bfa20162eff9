//! What is left of a client or a call that was refused: a line for whoever looks for it, and a number.

use crate::client::{Client, now, signed, token};
use crate::peer::Peer;
use crate::server::{SECRET, Server, until};
use serde_json::{Value, json};

const GUARDED: &[&str] = &["--client.token.hmac_secret_key", SECRET, "--client.token.issuer", "us"];

fn rejected(server: &Server, cause: &str) -> u64 {
    server.metric(&format!("gannet_client_rejected_total{{cause=\"{cause}\"}}"))
}

/// The line that was written for one client, if there is one.
fn line(server: &Server, cause: &str) -> Option<Value> {
    let lines = server.lines().into_iter().filter_map(|line| serde_json::from_str::<Value>(&line).ok());
    lines.into_iter().find(|line| line["message"] == "credentials refused" && line["cause"] == cause)
}

#[test]
fn a_refused_client_is_told_of_with_its_cause_address_and_user() {
    let server = Server::with(GUARDED, &["--log.level", "debug", "--reactors", "1"]);
    let good = json!({ "sub": "42", "iss": "us" });
    let cases = [
        ("no_token", String::new()),
        ("signature", signed(&good, "another")),
        ("expired", token(&json!({ "sub": "42", "iss": "us", "exp": now() - 60 }))),
        ("issuer", token(&json!({ "sub": "42", "iss": "them" }))),
        ("malformed", "a.b".into()),
        ("algorithm", "eyJhbGciOiJub25lIn0.e30.".into()),
    ];
    for (cause, token) in cases {
        let mut client = Client::open(&server);
        client.send(&json!({ "id": 1, "connect": { "token": token } }).to_string());
        server.counts(&format!("gannet_client_rejected_total{{cause=\"{cause}\"}}"), 1);
        let told = line(&server, cause).unwrap_or_else(|| panic!("no line for {cause}"));
        assert_eq!(told["level"], "DEBUG");
        assert!(told["address"].as_str().is_some_and(|address| address.starts_with("127.0.0.1:")), "{told}");
    }
    let mut client = Client::connected_with(&server, &token(&good));
    let expired = token(&json!({ "sub": "42", "iss": "us", "channel": "news", "exp": now() - 60 }));
    assert_eq!(client.refused(json!({ "subscribe": { "channel": "news", "token": expired } })), 109);
    assert_eq!(rejected(&server, "expired"), 2);
    assert!(server.lines().iter().any(|line| line.contains("credentials refused") && line.contains("\"user\":\"42\"")));
}

#[test]
fn refused_clients_are_told_of_as_a_sum_for_each_cause() {
    let server = Server::start(GUARDED);
    for _ in 0..3 {
        let mut client = Client::open(&server);
        client.send(&json!({ "id": 1, "connect": {} }).to_string());
        assert_eq!(client.closed(), 3501);
    }
    until("a sum", || server.logged("credentials of clients refused").then_some(()));
    let lines = server.lines();
    let sums = lines.iter().filter(|line| line.contains("credentials of clients refused"));
    let sum: u64 =
        sums.map(|line| serde_json::from_str::<Value>(line).expect("JSON")["count"].as_u64().expect("a count")).sum();
    assert_eq!(sum, 3, "{lines:#?}");
    assert!(!server.logged("credentials refused"), "single ones are for debug");
}

#[test]
fn counters_are_there_before_there_is_anything_to_count() {
    let options = ["--rpc.proxy.endpoint=http://127.0.0.1:1/", "--client.rate_limit.client_command.enabled"];
    let server = Server::start(&options);
    let page = server.metrics();
    for series in [
        "gannet_client_num_server_disconnects_total{code=\"3500\"}",
        "gannet_client_num_reply_errors_total{code=\"103\"}",
        "gannet_client_rejected_total{cause=\"issuer\"}",
        "gannet_transport_protocol_errors_total{code=\"1002\"}",
        "gannet_node_handshake_refusals_total{status=\"403\"}",
        "gannet_rate_limit_client_over_limit_total{layer=\"client_command\",command=\"publish\",dry_run=\"false\"}",
        "gannet_api_command_errors_total{protocol=\"http\",method=\"publish\",code=\"107\"}",
        "gannet_proxy_errors_total{proxy=\"rpc.proxy\",type=\"rpc\",cause=\"unreachable\"}",
        "gannet_proxy_refused_total{proxy=\"rpc.proxy\",type=\"rpc\",limit=\"breaker\"}",
    ] {
        assert!(page.lines().any(|line| line == format!("{series} 0")), "{series} in\n{page}");
    }
}

#[test]
fn plain_requests_are_counted_if_that_is_asked_for() {
    let asked = |options: &[&str]| {
        let server = Server::with(crate::server::OPEN, options);
        server.call("info", json!({}));
        let status = |method: &str, path: &str| {
            Peer::open(server.address).request(method, path, &[], "").expect("an answer").status
        };
        assert_eq!(
            [status("POST", "/api/publish"), status("GET", "/health"), status("GET", "/stranger")],
            [401, 200, 404]
        );
        server.metrics()
    };
    let page = asked(&["--prometheus.instrument_http_handlers"]);
    for (path, method, status) in
        [("/api/info", "POST", 200), ("/api/publish", "POST", 401), ("/health", "GET", 200), ("other", "GET", 404)]
    {
        let line = format!("gannet_http_requests_total{{path=\"{path}\",method=\"{method}\",status=\"{status}\"}} 1");
        assert!(page.lines().any(|l| l == line), "{line} in\n{page}");
    }
    assert!(!asked(&[]).contains("gannet_http_requests_total{"));
}

#[test]
fn dev_warns_once() {
    let server = Server::start(&["--dev"]);
    let lines = server.lines();
    let warnings: Vec<&String> = lines.iter().filter(|line| line.contains("\"level\":\"WARN\"")).collect();
    assert!(warnings.len() == 1 && warnings[0].contains("INSECURE MODE"), "{warnings:#?}");
}

#[test]
fn a_bad_call_of_the_api_names_its_field_in_the_log() {
    let server = Server::start(crate::server::OPEN);
    let calls = [
        ("publish", json!({ "data": 1 }), "channel"),
        ("publish", json!({ "channel": "a", "b64data": "%" }), "b64data or b64info"),
        ("broadcast", json!({ "channels": ["a", ""], "data": 1 }), "channel"),
        ("disconnect", json!({ "user": "1", "disconnect": { "code": 200 } }), "disconnect.code"),
        ("refresh", json!({}), "user"),
    ];
    for (method, body, field) in calls {
        server.call(method, body);
        let written = |line: &String| {
            let line: Value = serde_json::from_str(line).unwrap_or_default();
            line["method"] == method && line["field"] == field && line["code"] == 107
        };
        assert!(server.lines().iter().any(written), "{method} {field}");
    }
}
