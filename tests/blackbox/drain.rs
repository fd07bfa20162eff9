//! Leaving: health first, then the port, then the clients one after the other; and never later than the deadline.

use crate::client::Client;
use crate::peer::{CLOSE, PATH, Peer, upgrade_head};
use crate::server::{OPEN, Server, until};
use rustix::process::Signal;
use serde_json::json;
use std::net::TcpStream;
use std::time::{Duration, Instant};

fn health(peer: &mut Peer) -> u16 {
    let response = peer.request("GET", "/health", &[], "").expect("an answer");
    assert_eq!(response.body, "{}");
    response.status
}

fn is_shut(server: &Server) -> Option<()> {
    TcpStream::connect(server.address).is_err().then_some(())
}

#[test]
fn a_signal_drains_the_node() {
    let options = ["--shutdown.delay", "3s", "--shutdown.spread", "2s", "--shutdown.deadline", "20s"];
    let mut server = Server::with(OPEN, &options);
    let mut monitor = Peer::open(server.address);
    assert_eq!(health(&mut monitor), 200);
    let mut clients: Vec<Client> = (0..40).map(|_| Client::subscribed(&server, "news")).collect();
    let began = Instant::now();
    server.signal(Signal::TERM);
    until("health to say no", || (health(&mut monitor) == 503).then_some(()));
    // The port is still open: who comes before the balancer has noticed is served like the others.
    clients.push(Client::subscribed(&server, "news"));
    server.publish("news", json!("last"));
    assert!(began.elapsed() < Duration::from_secs(3), "too slow a machine to see the delay");
    clients.iter_mut().for_each(|client| assert_eq!(client.publication().1, "last"));

    let told: Vec<Duration> = std::thread::scope(|scope| {
        let threads = clients.iter_mut().map(|client| {
            scope.spawn(move || {
                assert_eq!(client.closed(), 3001);
                began.elapsed()
            })
        });
        let threads: Vec<_> = threads.collect();
        until("the port to close", || is_shut(&server));
        threads.into_iter().map(|thread| thread.join().expect("closed")).collect()
    });
    let (first, last) = (told.iter().min().expect("clients"), told.iter().max().expect("clients"));
    assert!(*first >= Duration::from_millis(2900), "{first:?} is before the delay has passed");
    assert!(*last - *first >= Duration::from_millis(1000), "from {first:?} to {last:?} is no spread of 2 s");
    assert_eq!(server.exit().code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(20));
    assert!(server.logged("drained"));
}

#[test]
fn publications_arrive_until_a_client_is_told_to_go() {
    let options = ["--client.insecure", "--reactors", "4", "--shutdown.delay", "0s", "--shutdown.spread", "4s"];
    let server = Server::start(&options);
    let mut client = Client::connected(&server);
    let channels: Vec<String> = (0..16).map(|n| format!("c{n}")).collect();
    channels.iter().for_each(|channel| client.subscribe(channel));
    server.publish("c0", json!("before"));
    assert_eq!(client.publication().1, "before");
    server.signal(Signal::TERM);
    until("the port to close", || is_shut(&server));
    // Reactors without clients have nothing left to do, but they own some of these channels.
    let answer = server.call("broadcast", json!({ "channels": channels, "data": "during" }));
    let responses = answer["result"]["responses"].as_array().expect("responses");
    assert!(responses.iter().all(|one| one["result"].is_object()), "{answer}");
    channels.iter().for_each(|_| assert_eq!(client.publication().1, "during"));
    client.subscribe("one more");
    assert_eq!(client.closed(), 3001);
}

#[test]
fn the_deadline_is_kept_whatever_a_client_does() {
    let mut server =
        Server::with(OPEN, &["--shutdown.delay", "0s", "--shutdown.spread", "0s", "--shutdown.deadline", "1s"]);
    let mut deaf = Peer::upgraded(&server);
    let began = Instant::now();
    server.signal(Signal::TERM);
    let (first, payload) = deaf.frame();
    assert_eq!((first, &payload[..2]), (CLOSE, &3001u16.to_be_bytes()[..]));
    // It does not answer, and does not go.
    assert_eq!(server.exit().code(), Some(0));
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(900) && took < Duration::from_secs(4), "{took:?}");
    assert!(server.logged("deadline"));
}

#[test]
fn a_socket_that_says_nothing_holds_nobody_up() {
    let mut server =
        Server::with(OPEN, &["--shutdown.delay", "0s", "--shutdown.spread", "1s", "--shutdown.deadline", "1m"]);
    let mut idle: Vec<Peer> = (0..4).map(|_| Peer::open(server.address)).collect();
    let mut begun = Peer::open(server.address);
    begun.send(b"GET / HTTP/1.1\r\n");
    let mut client = Client::connected(&server);
    server.signal(Signal::TERM);
    assert_eq!(client.closed(), 3001);
    assert_eq!(server.exit().code(), Some(0));
    idle.iter_mut().chain([&mut begun]).for_each(Peer::ended);
    assert!(server.logged("drained"));
}

/// The kernel told these peers that they are connected: none is thrown out unread when the port closes.
#[test]
fn peers_that_wait_to_be_accepted_are_answered_before_the_port_closes() {
    let options = ["--client.insecure", "--reactors", "1", "--reactor.accept_budget", "1", "--shutdown.delay", "0s"];
    let mut server = Server::start(&options);
    let mut client = Client::connected(&server);
    server.signal(Signal::STOP);
    let mut peers: Vec<Peer> = (0..300).map(|_| Peer::open(server.address)).collect();
    peers.iter_mut().for_each(|peer| peer.send(upgrade_head(PATH, &[]).as_bytes()));
    server.signal(Signal::TERM);
    server.signal(Signal::CONT);
    for peer in &mut peers {
        match peer.response().status {
            101 => assert_eq!(peer.closed().0, 3001),
            status => assert_eq!(status, 503),
        }
    }
    assert_eq!(client.closed(), 3001);
    assert_eq!(server.exit().code(), Some(0));
}
