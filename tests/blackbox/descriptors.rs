//! Out of file descriptors: the excess is turned away, nothing spins, and it passes.

use crate::client::{Client, Witness};
use crate::order::raise_descriptors;
use crate::peer::{PATH, Peer, upgrade_head};
use crate::server::{Server, until};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use std::process::Command;
use std::time::{Duration, Instant};

/// Clock ticks of processor time that the process has used.
fn ticks_used(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    let (_, fields) = stat.rsplit_once(") ").expect("a name in brackets");
    let ticks = |at: usize| fields.split(' ').nth(at).and_then(|word| word.parse::<u64>().ok()).expect("ticks");
    // utime and stime, the 14th and 15th of proc(5).
    ticks(11) + ticks(12)
}

fn limited_to(descriptors: u32, options: &[&str]) -> Server {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -n {descriptors}; exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_gannet")]);
    Server::start_by(command, options)
}

const OPTIONS: &[&str] = &["--client.insecure", "--http_server.handshake_timeout", "1m"];

/// Many more sockets than there are descriptors, none of which says anything.
fn run_out_of_descriptors(reactors: &str) {
    raise_descriptors();
    let server = limited_to(1200, &[OPTIONS, &["--reactors", reactors]].concat());
    let mut witness = Witness::join(&server);
    witness.hears(&server);
    let mut peers: Vec<Peer> = (0..1500).map(|_| Peer::open(server.address)).collect();
    let closed = |peers: &mut Vec<Peer>| peers.iter_mut().filter_map(|it| it.is_ended().then_some(())).count();
    until("the excess closed", || (closed(&mut peers) >= 300).then_some(()));

    let (began, before) = (Instant::now(), ticks_used(server.pid()));
    while began.elapsed() < Duration::from_secs(1) {
        std::thread::park_timeout(Duration::from_millis(100));
    }
    // 100 ticks a second are one processor.
    let used = ticks_used(server.pid()) - before;
    assert!(used < 30, "{used} % of a processor with nothing to do");
    assert!(closed(&mut peers) < 700, "only the excess");
    witness.hears(&server);
    let refused = server.metric("gannet_node_socket_limit_total");
    let exhausted = server.metric("gannet_node_descriptors_exhausted_total");
    assert!((300..5000).contains(&(refused + exhausted)), "{refused} refused, {exhausted} closed for want of any");

    drop(peers);
    until("descriptors again", || {
        let open = |at: u64| server.metric(&format!("gannet_reactor_connections{{reactor=\"{at}\"}}"));
        ((0..2).map(open).sum::<u64>() < 20).then_some(())
    });
    Client::subscribed(&server, "news");
    witness.hears(&server);
}

#[test]
fn sockets_beyond_the_descriptors_are_closed_and_nothing_spins() {
    run_out_of_descriptors("2");
}

#[test]
fn sockets_beyond_the_descriptors_are_closed_and_nothing_spins_with_one_reactor() {
    run_out_of_descriptors("1");
}

#[test]
fn clients_beyond_what_the_descriptors_allow_get_503() {
    raise_descriptors();
    let server = limited_to(1200, OPTIONS);
    let limit = server.metric("gannet_client_connections_limit");
    assert!((50..1200).contains(&limit), "{limit}");
    let mut kept: Vec<Peer> = (0..limit).map(|_| Peer::upgraded(&server)).collect();
    let mut beyond = Peer::open(server.address);
    beyond.send(upgrade_head(PATH, &[]).as_bytes());
    assert_eq!(beyond.response().status, 503);
    assert_eq!(server.metric("gannet_node_client_connection_limit_total"), 1);
    // A balancer that asks a full node on a connection of its own must not take it for a dead one.
    let mut balancer = Peer::open(server.address);
    assert_eq!(balancer.request("GET", "/health", &[], "").expect("an answer").status, 200);
    assert!(!kept.iter_mut().any(Peer::is_ended));
}

#[test]
fn too_few_descriptors_to_serve_is_an_error_at_start() {
    let command = "ulimit -n 100; exec \"$0\" --http_server.port 0 --http_server.address 127.0.0.1";
    let output = Command::new("sh").args(["-c", command, env!("CARGO_BIN_EXE_gannet")]).output().expect("run");
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("the file descriptor limit is 100") && text.contains("LimitNOFILE"), "{text}");
}

/// Nobody else comes meanwhile, so nothing but the end of the pause tells the reactor that somebody is there.
#[test]
fn accepting_goes_on_by_itself_when_descriptors_are_free_again() {
    let server = Server::start(&["--client.insecure", "--reactors", "1"]);
    let mut witness = Witness::join(&server);
    witness.hears(&server);
    let process = Pid::from_raw(server.pid() as i32);
    // The server has as many as it may: those that this process may have, too.
    let most = getrlimit(Resource::Nofile).maximum;
    let set = |current| prlimit(process, Resource::Nofile, Rlimit { current, maximum: most }).expect("a limit");
    // Even what the server keeps in reserve is beyond it.
    set(Some(3));
    let mut waits = Peer::open(server.address);
    waits.send(upgrade_head(PATH, &[]).as_bytes());
    // Each answer comes from a turn of the reactor that is later than the peer.
    for _ in 0..2 {
        assert!(server.call("info", serde_json::json!({}))["result"].is_object());
    }
    assert_eq!(server.metric("gannet_reactor_connections{reactor=\"0\"}"), 1, "nobody was accepted");
    set(most);
    assert_eq!(waits.response().status, 101);
    witness.hears(&server);
}
