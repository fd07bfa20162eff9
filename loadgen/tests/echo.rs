//! The program against a small echo server made of tungstenite, as a user would run it.

use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::thread;

use serde_json::Value;
use tungstenite::Message;

/// Echoes; a message with number `drop_every` from each client is not answered, and every one is answered twice if
/// `twice`.
#[derive(Clone, Copy, Default)]
struct Manners {
    drop_every: Option<u32>,
    twice: bool,
    pings: bool,
}

/// A server with a thread for each client: its port.
fn server(manners: Manners) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || serve(stream, manners));
        }
    });
    port
}

fn serve(stream: TcpStream, manners: Manners) {
    let Ok(mut socket) = tungstenite::accept(stream) else { return };
    let mut number = 0;
    loop {
        match socket.read() {
            Ok(message) if message.is_text() || message.is_binary() => {
                number += 1;
                if manners.pings && number == 1 {
                    socket.send(Message::Ping("are you there".into())).expect("a ping sent");
                }
                if manners.drop_every.is_some_and(|every| number % every == 0) {
                    continue;
                }
                for _ in 0..=u32::from(manners.twice) {
                    if socket.send(message.clone()).is_err() {
                        return;
                    }
                }
            }
            Ok(Message::Pong(payload)) => assert_eq!(payload, "are you there"),
            Ok(_) => {}
            Err(tungstenite::Error::Io(error)) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

fn loadgen(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gannet-loadgen")).args(arguments).output().expect("the program runs")
}

fn json(output: &Output) -> Value {
    let errors = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?} {errors}"))
}

fn scratch(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name)
}

#[test]
fn closed_loop_echo_counts_every_message() {
    let url = format!("ws://127.0.0.1:{}/", server(Manners { pings: true, ..Manners::default() }));
    let output = loadgen(&["echo", &url, "--clients", "8", "--duration", "400ms", "--quiet", "--json", "-"]);
    let result = json(&output);
    assert_eq!(output.status.code(), Some(0), "{result:#}");
    let counts = &result["counts"];
    assert!(counts["sent"].as_u64().is_some_and(|sent| sent >= 8), "{result:#}");
    assert_eq!(counts["sent"], counts["received"]);
    assert_eq!((&counts["duplicates"], &counts["gaps"], &counts["frame_pings"]), (&0.into(), &0.into(), &8.into()));
    assert_eq!(result["latency_ns"]["count"], counts["received"]);
    assert_eq!(result["delivery_ratio"], 1.0);
}

#[test]
fn an_open_loop_keeps_its_schedule_over_two_threads() {
    let url = format!("ws://127.0.0.1:{}/", server(Manners::default()));
    let run = ["--clients", "6", "--threads", "2", "--rate", "500", "--duration", "600ms", "--binary", "--size", "300"];
    let output = loadgen(&[&["echo", &url, "--quiet", "--json", "-"], &run[..]].concat());
    let result = json(&output);
    assert_eq!(output.status.code(), Some(0), "{result:#}");
    assert_eq!(result["counts"]["sent"], 300, "500 a second for 0.6 s: {result:#}");
    assert_eq!(result["counts"]["received"], 300);
}

#[test]
fn what_is_lost_is_seen() {
    let url = format!("ws://127.0.0.1:{}/", server(Manners { drop_every: Some(5), ..Manners::default() }));
    let run = ["--clients", "2", "--rate", "100", "--duration", "1s", "--grace", "200ms", "--quiet", "--json", "-"];
    let output = loadgen(&[&["echo", &url], &run[..]].concat());
    let result = json(&output);
    assert_eq!(output.status.code(), Some(1), "{result:#}");
    assert_eq!(result["goal_reached"], false);
    assert_eq!(result["delivery_ratio"], 0.8);
    assert!(result["counts"]["gaps"].as_u64().is_some_and(|gaps| gaps >= 18), "{result:#}");
    let lenient = [&["echo", &url, "--min-delivery", "0.75"], &run[..]].concat();
    assert_eq!(loadgen(&lenient).status.code(), Some(0));
}

#[test]
fn a_goal_of_latency_and_a_rate_that_was_not_offered_are_judged() {
    let url = format!("ws://127.0.0.1:{}/", server(Manners::default()));
    let run = ["--clients", "2", "--duration", "300ms", "--grace", "100ms", "--quiet", "--json", "-"];
    let judged = |more: &[&str]| {
        let output = loadgen(&[&["echo", &url], &run[..], more].concat());
        (output.status.code(), json(&output)["complaints"].to_string())
    };
    assert_eq!(judged(&["--rate", "100", "--max-p99", "1m"]), (Some(0), "[]".to_owned()));
    let (status, slow) = judged(&["--rate", "100", "--max-p99", "1ns"]);
    assert!(status == Some(1) && slow.contains("is above 1 ns (--max-p99)"), "{slow}");
    // No machine says so much.
    let (status, short) = judged(&["--rate", "50000000", "--min-delivery", "0"]);
    assert!(
        status == Some(1) && short.contains("% of the 50,000,000 messages a second that were asked for"),
        "{short}"
    );
}

#[test]
fn what_comes_twice_is_seen() {
    let url = format!("ws://127.0.0.1:{}/", server(Manners { twice: true, ..Manners::default() }));
    let run = ["--clients", "1", "--rate", "50", "--duration", "400ms", "--quiet", "--json", "-"];
    let output = loadgen(&[&["echo", &url], &run[..]].concat());
    let result = json(&output);
    assert_eq!(output.status.code(), Some(1), "{result:#}");
    assert_eq!((&result["counts"]["received"], &result["counts"]["duplicates"]), (&20.into(), &20.into()));
}

#[test]
fn a_report_in_every_form() {
    let url = format!("ws://127.0.0.1:{}/", server(Manners::default()));
    let names = ["echo.json", "echo.hgrm", "echo.hlog", "echo.html"].map(scratch);
    let paths = names.each_ref().map(|path| path.to_str().expect("UTF-8"));
    let pid = std::process::id().to_string();
    let files = ["--json", paths[0], "--hgrm", paths[1], "--hlog", paths[2], "--html", paths[3], "--pid", &pid];
    let output = loadgen(&[&["echo", &url, "--clients", "3", "--duration", "300ms"], &files[..]].concat());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let table = String::from_utf8(output.stdout).expect("UTF-8");
    for word in ["p99.99", "delivery", "server memory", "kernel memory", "tcp buffers", "goal           reached"] {
        assert!(table.contains(word), "{word}: {table}");
    }
    let read = |path: &PathBuf| std::fs::read_to_string(path).expect("written");
    let result: Value = serde_json::from_str(&read(&names[0])).expect("JSON");
    assert!(result["server"]["rss_bytes"].as_u64() > Some(0), "{result:#}");
    assert!(read(&names[1]).contains("1/(1-Percentile)"));
    assert!(read(&names[2]).contains("HIST"));
    let page = read(&names[3]);
    assert!(page.contains("The goal was reached.") && page.contains("<dt>kernel</dt>") && page.contains("<title>"));
    assert_eq!(result["setup"]["version"], concat!("gannet-loadgen ", env!("CARGO_PKG_VERSION")), "{result:#}");
    assert!(result["setup"]["command"].as_str().is_some_and(|command| command.contains("echo ws://127.0.0.1")));
    assert!(page.contains("<svg") && !page.contains("src=") && !page.contains("href="), "nothing from elsewhere");
}

#[test]
fn ramps_storms_and_churn_run_against_anything() {
    let url = format!("ws://127.0.0.1:{}/", server(Manners::default()));
    let ramp = ["--start", "2", "--step", "2", "--max", "5", "--every", "300ms", "--each", "20", "--knee", "10s"];
    let output = loadgen(&[&["ramp", &url, "--quiet", "--json", "-"], &ramp[..]].concat());
    let result = json(&output);
    assert_eq!(output.status.code(), Some(0), "{result:#}");
    let clients: Vec<_> = result["steps"].as_array().expect("steps").iter().map(|step| &step["clients"]).collect();
    assert_eq!(clients, [2, 4, 5]);
    let output = loadgen(&["storm", &url, "--clients", "20", "--rounds", "2", "--pause", "50ms", "-q", "--json", "-"]);
    let result = json(&output);
    assert_eq!(output.status.code(), Some(0), "{result:#}");
    assert_eq!(result["counts"]["connections_opened"], 60);
    let churn = ["--clients", "10", "--rate", "50", "--duration", "500ms", "-q", "--json", "-"];
    let output = loadgen(&[&["churn", &url], &churn[..]].concat());
    let result = json(&output);
    assert_eq!(output.status.code(), Some(0), "{result:#}");
    assert!(result["counts"]["connections_opened"].as_u64() >= Some(30), "{result:#}");
}

#[test]
fn exit_statuses_tell_what_happened() {
    let closed = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
    let url = format!("ws://127.0.0.1:{closed}/");
    let output = loadgen(&["idle", &url, "--clients", "3", "--quiet", "--json", "-"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(json(&output)["errors"]["connecting: connection refused"], 3);
    for wrong in [
        &["idle", "ws://192.0.2.1/"][..],
        &["idle"],
        &["echo", &url, "--size", "1"],
        &["nothing"],
        &["idle", &url, "--pid", "1073741824"],
        &["idle", &url, "--metrics", "https://127.0.0.1/metrics"],
    ] {
        let output = loadgen(wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong:?} {output:?}");
        assert!(!output.stderr.is_empty());
    }
    assert_eq!(loadgen(&["--help"]).status.code(), Some(0));
}

#[test]
fn files_for_results_are_tried_before_the_run() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("a listener that does not wait");
    let url = format!("ws://127.0.0.1:{}/", listener.local_addr().expect("an address").port());
    let nowhere = scratch("no such folder").join("result");
    let nowhere = nowhere.to_str().expect("text");
    for option in ["--json", "--hgrm", "--hlog", "--html"] {
        let output = loadgen(&["echo", &url, "--clients", "1", "--duration", "1h", option, nowhere]);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{option}: {errors}");
        assert!(errors.contains("cannot be written") && errors.contains(nowhere), "{option}: {errors}");
    }
    let missed = listener.accept().map(drop).map_err(|error| error.kind());
    assert_eq!(missed, Err(ErrorKind::WouldBlock), "nobody connected");
}

#[test]
fn a_pid_of_another_program_is_told() {
    let url = format!("ws://127.0.0.1:{}/", server(Manners::default()));
    let own = std::process::id().to_string();
    let output = loadgen(&["echo", &url, "--clients", "1", "--duration", "100ms", "--pid", &own]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{errors}");
    assert!(errors.contains(&format!("process {own} (--pid) is ")) && errors.contains("not gannet"), "{errors}");
}

#[test]
fn every_address_of_a_name_is_tried() {
    // Names such as localhost may have an address of either kind first.
    let port = server(Manners::default());
    let output = loadgen(&["echo", &format!("WS://localhost:{port}"), "--clients", "1", "--duration", "100ms"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}
