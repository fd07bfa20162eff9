//! System calls of a running server, counted by `strace -c` for as long as it is attached.

use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::server::bound_to_us;

/// Calls and failed calls of the kinds that matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    pub reads: u64,
    /// Reads that failed: on these sockets that is EAGAIN.
    pub failed_reads: u64,
    pub writes: u64,
    pub failed_writes: u64,
    pub waits: u64,
    pub others: u64,
}

/// An attached `strace`.
pub struct Strace {
    child: Child,
    stderr: BufReader<ChildStderr>,
    report: PathBuf,
}

impl Strace {
    /// Attaches to all threads of a process; returns when it is attached.
    pub fn attach(pid: u32) -> io::Result<Self> {
        let report = std::env::temp_dir().join(format!("gannet-bench-strace-{pid}.txt"));
        let mut command = bound_to_us(&["strace", "-c", "-f", "-p", &pid.to_string(), "-o"]);
        let mut child = command.arg(&report).stdin(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let stderr = child.stderr.take().ok_or_else(|| io::Error::other("strace without stderr"))?;
        let mut strace = Self { child, stderr: BufReader::new(stderr), report };
        let mut line = String::new();
        strace.stderr.read_line(&mut line)?;
        match line.contains("attached") {
            true => Ok(strace),
            false => Err(io::Error::other(format!("strace cannot attach (it needs root or ptrace_scope 0): {line}"))),
        }
    }

    /// Detaches and reads the counts.
    pub fn finish(mut self) -> io::Result<Calls> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM)?;
        let mut rest = String::new();
        self.stderr.read_to_string(&mut rest)?;
        self.child.wait()?;
        parse(&fs::read_to_string(&self.report)?)
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.report);
    }
}

/// Reads the table of `strace -c`: % time, seconds, usecs/call, calls, errors (may be blank), name.
fn parse(table: &str) -> io::Result<Calls> {
    let mut calls = Calls::default();
    for line in table.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (Some(name), Some(Ok(count))) = (fields.last(), fields.get(3).map(|field| field.parse::<u64>())) else {
            continue;
        };
        let failed = match fields.len() {
            6 => fields[4].parse().map_err(io::Error::other)?,
            _ => 0,
        };
        match *name {
            "total" => {}
            "read" | "readv" | "recvfrom" | "recvmsg" | "recvmmsg" => {
                calls.reads += count;
                calls.failed_reads += failed;
            }
            "write" | "writev" | "sendto" | "sendmsg" | "sendmmsg" => {
                calls.writes += count;
                calls.failed_writes += failed;
            }
            "epoll_wait" | "epoll_pwait" | "epoll_pwait2" => calls.waits += count,
            _ => calls.others += count,
        }
    }
    Ok(calls)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read() {
        let table = "\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 60.00    0.000600           1       600           sendto
 30.00    0.000300           1       500         7 recvfrom
  5.00    0.000050           1        40           epoll_wait
  5.00    0.000050           1         3         1 futex
------ ----------- ----------- --------- --------- ----------------
100.00    0.001000           1      1143         8 total
";
        let calls = Calls { reads: 500, failed_reads: 7, writes: 600, failed_writes: 0, waits: 40, others: 3 };
        assert_eq!(parse(table).expect("a table"), calls);
    }
}
