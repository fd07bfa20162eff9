//! Files that the server writes: its log, and its number.

use crate::file::File;
use crate::server::{gannet, until};
use rustix::process::{Pid, Signal, kill_process};
use std::process::{Child, Stdio};

struct Process(Child);

impl Process {
    fn start(options: &[&str]) -> Process {
        let mut command = gannet();
        command.args(["--http_server.address", "127.0.0.1", "--http_server.port", "0"]).args(options);
        Process(command.stderr(Stdio::null()).spawn().expect("start the server"))
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).expect("signal");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_log_follows_its_name_and_the_number_goes_with_the_process() {
    let [log, old, pid] = ["log", "log.1", "pid"].map(File::none);
    let options = ["--log.file", log.path(), "--pid_file", pid.path(), "--shutdown.delay", "0s"];
    let mut server = Process::start(&options);
    until("the first line", || log.read().contains("\"message\":\"listening\"").then_some(()));
    until("the number", || (pid.read() == format!("{}\n", server.0.id())).then_some(()));
    std::fs::rename(log.path(), old.path()).expect("rename");
    server.signal(Signal::USR1);
    until("a new file", || log.read().contains("opened anew").then_some(()));
    let before = old.read();
    server.signal(Signal::USR2);
    until("a line in the new file", || log.read().contains("SIGUSR2").then_some(()));
    assert_eq!(old.read(), before, "nothing more comes into the old one");
    server.signal(Signal::TERM);
    assert_eq!(server.0.wait().expect("wait").code(), Some(0));
    assert!(log.read().contains("\"message\":\"drained\"") && log.read().ends_with('\n'));
    assert!(!std::path::Path::new(pid.path()).exists());
}

/// Neither the check nor a start that fails touches what is there.
#[test]
fn a_file_that_cannot_be_written_is_told_by_check_and_start_alike() {
    let file = File::new("untouched", "1\n");
    let run = |args: &[&str]| gannet().args(args).output().expect("run");
    let ok = run(&["check", "--pid_file", file.path(), "--log.file", file.path()]);
    assert_eq!((ok.status.code(), file.read().as_str()), (Some(0), "1\n"));
    let none = File::none("not-there");
    assert_eq!(run(&["check", "--log.file", none.path()]).status.code(), Some(0));
    assert!(!std::path::Path::new(none.path()).exists());
    for option in ["--log.file", "--pid_file"] {
        for command in [&["check"][..], &[]] {
            let output = run(&[command, &[option, "/nonexistent/file"]].concat());
            let text = String::from_utf8(output.stderr).expect("text");
            let name = option.trim_start_matches('-');
            assert_eq!(output.status.code(), Some(2), "{text}");
            assert!(text.contains(&format!("error: {name}: cannot write to /nonexistent/file: ")), "{text}");
        }
    }
}
