//! The program against Gannet itself: every scenario, both encodings.

mod under_load;

use std::process::{Command, Output};

use serde_json::Value;
use under_load::{Server, history};

const SECRET: &str = "a secret for tests only, long enough for HMAC";

fn loadgen(arguments: &[&str]) -> (Output, Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gannet-loadgen"));
    let output = command.args(arguments).args(["--quiet", "--json", "-"]).output().expect("the program runs");
    let result = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (output, result)
}

fn reaches_its_goal(arguments: &[&str]) -> Value {
    let (output, result) = loadgen(arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {result:#}");
    result
}

#[test]
fn every_scenario_reaches_its_goal_in_both_encodings() {
    let server = Server::start(&["--client.insecure"]);
    let url = server.url("/connection/websocket");
    let pid = server.child.id().to_string();
    for encoding in [&[][..], &["--protobuf"]] {
        let run = |arguments: &[&str]| reaches_its_goal(&[arguments, encoding].concat());
        let idle = run(&["idle", &url, "--clients", "100", "--channels", "100", "--duration", "300ms", "--pid", &pid]);
        assert_eq!(idle["connected"], 100);
        let echo = run(&["echo", &url, "--clients", "5", "--duration", "300ms"]);
        assert_eq!(echo["counts"]["received"], echo["counts"]["sent"]);
        let fanout = ["--publishers", "3", "--subscribers", "40", "--channels", "4", "--subscriptions", "2"];
        let fanout = run(&[&["fanout", &url, "--rate", "60", "--duration", "500ms"], &fanout[..]].concat());
        assert_eq!((&fanout["counts"]["sent"], &fanout["counts"]["received"]), (&30.into(), &600.into()));
        let chat = run(&["chat", &url, "--clients", "40", "--room", "8", "--every", "200ms", "--duration", "400ms"]);
        assert_eq!((&chat["counts"]["sent"], &chat["counts"]["received"]), (&80.into(), &640.into()));
        let storm = run(&["storm", &url, "--clients", "100", "--channels", "10", "--rounds", "2", "--pause", "50ms"]);
        assert_eq!(storm["counts"]["connections_opened"], 300);
        run(&["churn", &url, "--clients", "30", "--rate", "60", "--duration", "500ms"]);
        run(&["ramp", &url, "--start", "5", "--step", "5", "--max", "10", "--every", "300ms", "--knee", "10s"]);
    }
}

#[test]
fn tokens_are_made_from_the_secret() {
    let server = Server::start(&["--client.token.hmac_secret_key", SECRET]);
    let url = server.url("/connection/websocket");
    let with_token = ["idle", &url, "--clients", "5", "--duration", "100ms", "--token-secret"];
    reaches_its_goal(&[&with_token[..], &[SECRET]].concat());
    for (wrong, code) in [(&["wrong, but just as long as the right one is"][..], "3500"), (&[], "3501")] {
        let arguments = &with_token[..with_token.len() - usize::from(wrong.is_empty())];
        let (output, result) = loadgen(&[arguments, wrong].concat());
        assert_eq!(output.status.code(), Some(1), "{result:#}");
        assert_eq!(result["close_codes"][code], 5, "{result:#}");
    }
}

#[test]
fn stalled_readers_are_cut_off_and_the_others_get_everything() {
    // Small enough that a stalled reader fills it soon, large enough for a reader on a busy machine.
    let limits = ["--client.queue_max_size", "524288", "--http_server.send_buffer_size", "65536"];
    let server = Server::start(&[&["--client.insecure"], &limits[..]].concat());
    let url = server.url("/connection/websocket");
    let load = ["--clients", "12", "--stalled", "2", "--rate", "50", "--size", "30000", "--duration", "3s"];
    let result = reaches_its_goal(&[&["slow", &url], &load[..]].concat());
    assert_eq!(result["counts"]["stalled_cut"], 2, "{result:#}");
    assert_eq!(result["counts"]["connections_lost"], 0, "{result:#}");
}

#[test]
fn a_refused_publication_is_not_owed() {
    let server = Server::start(&["--client.token.hmac_secret_key", SECRET]);
    let url = server.url("/connection/websocket");
    let run = ["--subscribers", "2", "--rate", "20", "--duration", "200ms", "--token-secret", SECRET];
    let (output, result) = loadgen(&[&["fanout", &url], &run[..]].concat());
    assert_eq!(output.status.code(), Some(1), "{result:#}");
    assert_eq!(result["errors"]["connecting: error reply 103"], 2, "{result:#}");
    assert_eq!((&result["counts"]["refused"], &result["counts"]["expected"]), (&4.into(), &0.into()), "{result:#}");
}

#[test]
fn costs_are_told_by_the_process_and_by_its_metrics() {
    let server = Server::start(&["--client.insecure", "--prometheus.enabled"]);
    let (pid, metrics) = (server.child.id().to_string(), format!("http://{}/metrics", server.address));
    let url = server.url("/connection/websocket");
    let load = ["--subscribers", "1000", "--rate", "50", "--duration", "1s", "--settle", "1s"];
    let result = reaches_its_goal(&[&["fanout", &url, "--pid", &pid, "--metrics", &metrics], &load[..]].concat());
    for (name, from_proc) in [("server", true), ("server_metrics", false)] {
        let costs = &result[name];
        let number = |name: &str| costs[name].as_f64().unwrap_or_else(|| panic!("{name}: {result:#}"));
        assert!(number("rss_bytes") > 1e6 && number("rss_bytes") < 1e9, "{costs:#}");
        // Memory that start took may go back meanwhile: it may well be less than before.
        let (grown, clients) = (number("rss_bytes") - number("rss_bytes_before"), 1001.0);
        assert!(grown < 1e8 && (number("rss_bytes_per_client") - grown / clients).abs() < 0.01, "{costs:#}");
        assert!(number("connect_cpu_seconds") > 0.0 && number("play_cpu_seconds") > 0.0, "{costs:#}");
        assert!(number("cpu_seconds_per_million_messages") > 0.0, "{costs:#}");
        assert_eq!(costs["private_bytes"].is_u64(), from_proc, "{costs:#}");
        assert_eq!(costs["voluntary_switches"].is_u64(), from_proc, "{costs:#}");
    }
    let kernel = &result["kernel"];
    assert!(kernel["tcp_buffer_bytes"].is_u64() && kernel["of_both_ends"] == true, "{kernel:#}");
    match kernel["slabs"].as_array() {
        // Only root may read them.
        None => assert!(kernel["slabs_unknown"].as_str().is_some_and(|why| why.contains("slabinfo")), "{kernel:#}"),
        Some(slabs) => {
            let each: Vec<f64> = slabs.iter().filter_map(|slab| slab["bytes_per_client"].as_f64()).collect();
            assert!(!each.is_empty() && each.is_sorted_by(|a, b| a >= b), "{kernel:#}");
            assert!((each.iter().sum::<f64>() - kernel["slab_bytes_per_client"].as_f64().expect("a sum")).abs() < 1e-3);
        }
    }
}

#[test]
fn a_page_without_costs_is_refused_before_the_run() {
    let server = Server::start(&["--client.insecure"]);
    let metrics = format!("http://{}/metrics", server.address);
    let mut command = Command::new(env!("CARGO_BIN_EXE_gannet-loadgen"));
    let url = server.url("/connection/websocket");
    let output = command.args(["idle", &url, "--metrics", &metrics]).output().expect("the program runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(errors.contains("/metrics: http 404"), "{errors}");
}

#[test]
fn after_a_storm_everyone_has_everything_once() {
    let server = Server::start(&history("2000"));
    let url = server.url("/connection/websocket");
    for encoding in [&[][..], &["--protobuf"]] {
        let storm = ["--clients", "60", "--channels", "3", "--rounds", "2", "--pause", "300ms", "--away", "1s"];
        let storm = [&["storm", &url, "--recover", "--rate", "90"], &storm[..], encoding].concat();
        let result = reaches_its_goal(&storm);
        let (recovery, counts) = (&result["recovery"], &result["counts"]);
        assert_eq!((&recovery["recovered"], &recovery["unrecovered"]), (&120.into(), &0.into()), "{result:#}");
        assert_eq!((&recovery["publications_lost"], &recovery["duplicates"]), (&0.into(), &0.into()), "{result:#}");
        assert!(recovery["publications_recovered"].as_u64() > Some(0), "{result:#}");
        assert_eq!(recovery["age_ns"]["count"], recovery["publications_recovered"]);
        assert_eq!(counts["received"], counts["expected"], "{result:#}");
        assert!(counts["received"].as_u64() > recovery["publications_recovered"].as_u64(), "some came live");
        let rounds = result["rounds"].as_array().expect("rounds");
        assert!(rounds.iter().all(|round| round["complete"] == true && round["recovered"] == 60), "{result:#}");
        // Publishers were not cut.
        assert_eq!(counts["connections_opened"], 60 * 3 + 3, "{result:#}");
        let churn = ["churn", &url, "--clients", "30", "--channels", "2", "--rate", "100", "--duration", "1s"];
        let result = reaches_its_goal(&[&churn[..], &["--recover", "--publish-rate", "300"], encoding].concat());
        assert!(result["recovery"]["recovered"].as_u64() >= Some(50), "{result:#}");
        assert_eq!(result["recovery"]["unrecovered"], 0, "{result:#}");
    }
}

#[test]
fn what_a_short_history_does_not_hold_is_missed() {
    let server = Server::start(&history("3"));
    let url = server.url("/connection/websocket");
    for encoding in [&[][..], &["--protobuf"]] {
        let storm = ["--clients", "20", "--pause", "500ms", "--away", "1s", "--grace", "300ms"];
        let storm = [&["storm", &url, "--recover", "--rate", "100"], &storm[..], encoding].concat();
        let (output, result) = loadgen(&storm);
        assert_eq!(output.status.code(), Some(1), "{result:#}");
        let recovery = &result["recovery"];
        assert_eq!((&recovery["recovered"], &recovery["unrecovered"]), (&0.into(), &20.into()), "{result:#}");
        let number = |name: &str| result["counts"][name].as_u64().expect("a count");
        let missing = number("expected") - number("received");
        assert!(missing > 0 && recovery["publications_lost"] == missing, "{result:#}");
        assert!(result["complaints"].to_string().contains("20 of 20 subscriptions came back without"), "{result:#}");
    }
}

#[test]
fn without_a_history_recovery_is_not_possible_and_the_report_says_why() {
    let server = Server::start(&["--client.insecure"]);
    let url = server.url("/connection/websocket");
    for encoding in [&[][..], &["--protobuf"]] {
        let storm = ["--clients", "10", "--pause", "100ms", "--away", "200ms", "--grace", "200ms"];
        let (output, result) = loadgen(&[&["storm", &url, "--recover"], &storm[..], encoding].concat());
        assert_eq!(output.status.code(), Some(1), "{result:#}");
        assert_eq!(result["recovery"]["unrecoverable"], 20, "at the first and at the second subscribe: {result:#}");
        let complaints = result["complaints"].to_string();
        assert!(complaints.contains("not possible") && complaints.contains("history_size"), "{result:#}");
    }
}
