//! Steering by CPU: which reactor gets a client, where reactors run, what is refused, and that a drain leaves nobody.
//!
//! On loopback the CPU that a first packet arrives at is the one that it was sent from.

use crate::client::Client;
use crate::server::{OPEN, Server, gannet, until};
use rustix::process::Signal;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

const BY_CPU: [&str; 3] = ["--client.insecure", "--http_server.steering", "cpu"];

/// The CPUs that this thread may use.
fn allowed() -> Vec<usize> {
    let set = sched_getaffinity(None).expect("CPUs");
    (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect()
}

/// This thread is on one CPU until this is dropped; so are the processes that it starts meanwhile.
struct Stay(CpuSet);

impl Stay {
    fn on(cpu: usize) -> Stay {
        let before = sched_getaffinity(None).expect("CPUs");
        let mut only = CpuSet::new();
        only.set(cpu);
        sched_setaffinity(None, &only).expect("a CPU");
        Stay(before)
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        let _ = sched_setaffinity(None, &self.0);
    }
}

/// The clients of each of `count` reactors.
fn clients(server: &Server, count: usize) -> Vec<u64> {
    (0..count).map(|n| server.metric(&format!("gannet_reactor_clients{{reactor=\"{n}\"}}"))).collect()
}

/// A line of a status file in /proc.
fn field(status: &Path, name: &str) -> String {
    let text = std::fs::read_to_string(status).expect("a status");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.expect("a field").trim().to_owned()
}

/// The CPUs of each thread of the server, by its name.
fn cpus_of_threads(server: &Server) -> BTreeMap<String, String> {
    // A thread names itself when it begins, and those that answer have begun.
    server.metrics();
    let tasks = std::fs::read_dir(format!("/proc/{}/task", server.pid())).expect("tasks");
    let tasks = tasks.map(|task| task.expect("a task").path().join("status"));
    tasks.map(|status| (field(&status, "Name"), field(&status, "Cpus_allowed_list"))).collect()
}

#[test]
fn a_client_comes_to_the_reactor_of_its_cpu() {
    const EACH: u64 = 16;
    let cpus = allowed();
    let count = cpus.len().min(4);
    let server = Server::with(&BY_CPU, &["--reactors", &count.to_string()]);
    let (mut open, mut expected) = (Vec::new(), vec![0; count]);
    // Backwards, so that it is no order in which a hash could fill them.
    for (reactor, cpu) in cpus.iter().enumerate().take(count).rev() {
        let stay = Stay::on(*cpu);
        open.extend((0..EACH).map(|_| Client::connected(&server)));
        drop(stay);
        expected[reactor] = EACH;
        assert_eq!(clients(&server, count), expected, "after clients from CPU {cpu}");
    }
    // What arrives elsewhere comes to any of them.
    if let Some(other) = cpus.get(count) {
        let _stay = Stay::on(*other);
        open.extend((0..EACH).map(|_| Client::connected(&server)));
    }
    assert_eq!(clients(&server, count).iter().sum::<u64>(), open.len() as u64);
}

#[test]
fn only_reactors_stay_on_a_cpu() {
    let cpus = allowed();
    let all = field(Path::new("/proc/thread-self/status"), "Cpus_allowed_list");
    let server = Server::start(&BY_CPU);
    let threads = cpus_of_threads(&server);
    for (reactor, cpu) in cpus.iter().enumerate() {
        // A control group may allow less time than there are CPUs, and then there are fewer reactors.
        let found = threads.get(&format!("reactor-{reactor}"));
        assert!(found.is_none_or(|found| *found == cpu.to_string()), "reactor {reactor}: {found:?}");
    }
    assert!(threads.contains_key("reactor-0"), "{threads:?}");
    until("a line that says so", || server.logged("each reactor stays on its CPU").then_some(()));
    let others: Vec<_> = threads.iter().filter(|(name, _)| !name.starts_with("reactor-")).collect();
    assert!(others.len() >= 2 && others.iter().all(|(_, cpus)| **cpus == all), "{others:?}");

    let by_hash = Server::start(OPEN);
    let threads = cpus_of_threads(&by_hash);
    assert!(threads.contains_key("reactor-1") && threads.values().all(|cpus| *cpus == all), "{threads:?}");
}

#[test]
fn a_server_keeps_to_the_cpus_that_it_is_given() {
    let cpus = allowed();
    let last = *cpus.last().expect("a CPU");
    let stay = Stay::on(last);
    let server = Server::start(&BY_CPU);
    drop(stay);
    let threads = cpus_of_threads(&server);
    assert!(threads.values().all(|cpus| *cpus == last.to_string()), "{threads:?}");
    assert!(threads.contains_key("reactor-0") && !threads.contains_key("reactor-1"), "{threads:?}");
    let open = cpus.iter().take(8).map(|cpu| {
        let _stay = Stay::on(*cpu);
        Client::connected(&server)
    });
    let open: Vec<Client> = open.collect();
    assert_eq!(clients(&server, 1), [open.len() as u64], "whichever CPU they come to");
}

/// What the program says that ends with 2.
fn refused(args: &[&str]) -> String {
    let mut command = Command::new("timeout");
    command.arg("10").arg(gannet().get_program()).args(args);
    let output = command.output().expect("run");
    let text = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(2), "{text}");
    text
}

#[test]
fn what_cannot_be_steered_is_refused() {
    let text = refused(&["check", "--http_server.share_port", "--http_server.steering", "cpu"]);
    assert!(text.contains("http_server.steering: expected hash with http_server.share_port"), "{text}");
    let text = refused(&["check", "--http_server.steering", "rss"]);
    assert!(text.contains("expected one of hash, cpu"), "{text}");
    let cpus = allowed().len();
    let more = (cpus + 1).to_string();
    let options = ["--http_server.address", "127.0.0.1", "--http_server.port", "0", "--reactors", &more];
    let text = refused(&[&BY_CPU[..], &options, &["--log.level", "error"]].concat());
    let expected = format!("wants a CPU for each reactor: the process may use {cpus}, for {more} reactors");
    assert!(text.contains(&expected), "{text}");
}

#[test]
fn a_drain_leaves_nobody() {
    let mut server = Server::with(&BY_CPU, &["--shutdown.delay", "0s", "--shutdown.spread", "0s"]);
    let mut open = Vec::new();
    for cpu in allowed().iter().take(4) {
        let _stay = Stay::on(*cpu);
        open.extend((0..4).map(|_| Client::subscribed(&server, "news")));
    }
    server.publish("news", 1.into());
    open.iter_mut().for_each(|client| assert_eq!(client.publication().1, 1));
    server.signal(Signal::TERM);
    open.iter_mut().for_each(|client| assert_eq!(client.closed(), 3001));
    assert_eq!(server.exit().code(), Some(0));
}
