//! What systemd is told, by a socket that stands for its own.

use crate::file::File;
use crate::server::{OPEN, Server, gannet, until};
use rustix::process::Signal;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};

/// Systemd's end.
struct Systemd {
    socket: UnixDatagram,
    file: File,
}

impl Systemd {
    fn new(name: &str) -> Systemd {
        let file = File::none(name);
        let socket = UnixDatagram::bind(file.path()).expect("bind");
        socket.set_nonblocking(true).expect("nonblocking");
        Systemd { socket, file }
    }

    /// A server that it started, to hear of within a second.
    fn server(&self) -> Server {
        let mut command = gannet();
        command.env("NOTIFY_SOCKET", self.file.path()).env("WATCHDOG_USEC", "1000000");
        Server::start_by(command, OPEN)
    }

    fn next(&self) -> Option<String> {
        let mut bytes = [0; 1000];
        let size = self.socket.recv(&mut bytes).ok()?;
        Some(String::from_utf8(bytes[..size].to_vec()).expect("text"))
    }

    /// Passes over signs of life.
    fn told(&self) -> String {
        until("a word", || self.next().filter(|word| word != "WATCHDOG=1\n"))
    }

    fn alive(&self) {
        until("a sign of life", || self.next().filter(|word| word == "WATCHDOG=1\n"));
    }
}

#[test]
fn systemd_hears_of_start_reload_and_stop() {
    let systemd = Systemd::new("notify");
    let mut server = systemd.server();
    let ready = systemd.told();
    assert_eq!(ready, format!("READY=1\nSTATUS=listening on {}\n", server.address));
    systemd.alive();
    systemd.alive();
    server.signal(Signal::HUP);
    let reloading = systemd.told();
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert_eq!(systemd.told(), "READY=1\n");
    server.signal(Signal::TERM);
    let stopping = systemd.told();
    assert!(stopping.starts_with("STOPPING=1\nSTATUS=draining 0 clients\nEXTEND_TIMEOUT_USEC="), "{stopping}");
    assert!(server.exit().success());
}

/// A thread that is held up at each look at its sockets, and goes on when this is dropped.
struct HeldUp(Child);

impl HeldUp {
    fn thread(server: &Server, name: &str) -> HeldUp {
        let tasks = format!("/proc/{}/task", server.pid());
        let entries = std::fs::read_dir(tasks).expect("threads").map(|entry| entry.expect("a thread").path());
        let named = |path: &std::path::PathBuf| {
            std::fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim_end() == name)
        };
        let thread = entries.into_iter().find(named).expect("the reactor");
        let id = thread.file_name().and_then(|id| id.to_str()).expect("a number").to_owned();
        let mut strace = Command::new("strace");
        strace.args(["-p", &id, "-e", "trace=epoll_wait", "-e", "inject=epoll_wait:delay_enter=60s"]);
        HeldUp(strace.stderr(Stdio::null()).spawn().expect("strace"))
    }
}

impl Drop for HeldUp {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn no_sign_of_life_while_a_reactor_is_stuck() {
    let systemd = Systemd::new("watchdog");
    let server = systemd.server();
    systemd.alive();
    // Its connection is no reactor's from here on.
    server.metrics();
    let _stuck = HeldUp::thread(&server, "reactor-1");
    let unanswered = || {
        let response = server.ask("GET", "/metrics", "");
        (response.status == 503).then_some(())
    };
    until("a reactor that does not answer", unanswered);
    // What was asked before it was stuck may have been answered: of what was asked since then nothing is.
    until("nothing more", || systemd.next().is_none().then_some(()));
    until("a reactor that does not answer, again", unanswered);
    assert_eq!(systemd.next(), None);
}
