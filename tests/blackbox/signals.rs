//! Signals: those that come twice, those that nobody meant, and what the exit status says.

use crate::client::Client;
use crate::peer::Peer;
use crate::server::{OPEN, Server, until};
use rustix::process::Signal;
use std::time::{Duration, Instant};

const SLOW: &[&str] = &["--shutdown.delay", "0s", "--shutdown.spread", "3s", "--shutdown.deadline", "10m"];

/// GNU timeout sends one to the process and one to its group; npm, too.
#[test]
fn signals_in_a_row_are_one() {
    let mut server = Server::with(OPEN, SLOW);
    let mut clients: Vec<Client> = (0..20).map(|_| Client::connected(&server)).collect();
    for signal in [Signal::TERM, Signal::TERM, Signal::INT, Signal::TERM, Signal::INT] {
        server.signal(signal);
    }
    clients.iter_mut().for_each(|client| assert_eq!(client.closed(), 3001));
    assert_eq!(server.exit().code(), Some(0));
    assert!(server.logged("drained") && !server.logged("second signal"));
}

/// Whether it comes before the port closes or while clients are told one after the other.
#[test]
fn a_second_signal_tells_all_clients_at_once() {
    for (delay, spread) in [("10m", "10m"), ("0s", "10m")] {
        let mut server =
            Server::with(OPEN, &["--shutdown.delay", delay, "--shutdown.spread", spread, "--shutdown.deadline", "1h"]);
        let mut clients: Vec<Client> = (0..20).map(|_| Client::connected(&server)).collect();
        let began = Instant::now();
        server.signal(Signal::TERM);
        until("the second signal to be one", || {
            server.signal(Signal::TERM);
            server.logged("second signal").then_some(())
        });
        assert!(began.elapsed() >= Duration::from_secs(1));
        clients.iter_mut().for_each(|client| assert_eq!(client.closed(), 3001));
        assert_eq!(server.exit().code(), Some(3), "it says that there was no time");
        assert_eq!(server.lines_with("second signal"), 1);
    }
}

/// Nobody holds up a node that is to leave at once.
#[test]
fn a_second_signal_does_not_wait_for_the_deaf() {
    let options = ["--shutdown.delay", "10m", "--shutdown.deadline", "1h", "--websocket.close_timeout", "10m"];
    let mut server = Server::with(OPEN, &options);
    let _deaf = Peer::connected(&server);
    let mut client = Client::connected(&server);
    server.signal(Signal::INT);
    until("the second signal to be one", || {
        server.signal(Signal::INT);
        server.logged("second signal").then_some(())
    });
    assert_eq!(client.closed(), 3001);
    assert_eq!(server.exit().code(), Some(3));
    until("the last line", || server.logged("exit with clients left").then_some(()));
}

#[test]
fn other_signals_end_nothing_and_are_told_of() {
    let mut server = Server::start(OPEN);
    let mut client = Client::subscribed(&server, "news");
    for (signal, line) in [
        (Signal::USR1, "SIGUSR1"),
        (Signal::USR2, "SIGUSR2 is ignored"),
        (Signal::QUIT, "SIGQUIT is ignored"),
        (Signal::HUP, "SIGHUP"),
    ] {
        server.signal(signal);
        until(line, || server.logged(line).then_some(()));
    }
    server.publish("news", serde_json::json!("still here"));
    assert_eq!(client.publication().1, "still here");
    assert_eq!(server.ended(), None);
}
