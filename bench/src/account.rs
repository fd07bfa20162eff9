//! What a server process used, by the kernel's own books.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// CPU time, user and system, of all threads of a process so far, in nanoseconds.
///
/// From `/proc/PID/task/*/schedstat`: exact to the nanosecond for threads that sleep, and the servers sleep when it is
/// read. A thread that ended is not counted any more; none ends during a measurement.
pub fn cpu_ns(pid: u32) -> io::Result<u64> {
    thread_cpu_ns(pid, "")
}

/// The same of the threads alone whose names begin so.
pub fn thread_cpu_ns(pid: u32, name: &str) -> io::Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?.path();
        if !fs::read_to_string(task.join("comm"))?.starts_with(name) {
            continue;
        }
        let text = fs::read_to_string(task.join("schedstat"))?;
        let ran = text.split_whitespace().next().and_then(|field| field.parse::<u64>().ok());
        sum += ran.ok_or_else(|| io::Error::other("unexpected schedstat"))?;
    }
    Ok(sum)
}

/// The same, read once the server has been asleep for a moment (at most a second is waited).
pub fn settled_cpu_ns(pid: u32) -> io::Result<u64> {
    let mut last = cpu_ns(pid)?;
    for _ in 0..50 {
        sleep(Duration::from_millis(20));
        let now = cpu_ns(pid)?;
        if now.abs_diff(last) < 50_000 {
            return Ok(now);
        }
        last = now;
    }
    Ok(last)
}

/// Memory of a process in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Resident pages, shared ones (the program file) included.
    pub rss: u64,
    /// Resident pages that only this process has.
    pub private: u64,
}

/// Reads `/proc/PID/smaps_rollup`.
pub fn memory(pid: u32) -> io::Result<Memory> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let kib = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|rest| rest.split_whitespace().next()).and_then(|field| field.parse::<u64>().ok())
    };
    match (kib("Rss:"), kib("Private_Clean:"), kib("Private_Dirty:")) {
        (Some(rss), Some(clean), Some(dirty)) => Ok(Memory { rss: rss * 1024, private: (clean + dirty) * 1024 }),
        _ => Err(io::Error::other("unexpected smaps_rollup")),
    }
}

/// Bytes that Gannet's allocator says are in use.
pub fn in_use(port: u16) -> io::Result<u64> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    let line = page.lines().find_map(|line| line.strip_prefix("gannet_process_memory_in_use_bytes "));
    line.and_then(|value| value.parse().ok()).ok_or_else(|| io::Error::other("the metrics do not tell memory in use"))
}

/// Memory once it has stayed the same for a second (at most `limit` is waited).
pub fn settled_memory(
    pid: u32,
    limit: Duration,
    mut turn: impl FnMut(Duration) -> io::Result<()>,
) -> io::Result<Memory> {
    let end = Instant::now() + limit;
    let mut last = memory(pid)?;
    let mut since = Instant::now();
    while Instant::now() < end && since.elapsed() < Duration::from_secs(1) {
        turn(Duration::from_millis(100))?;
        let now = memory(pid)?;
        if now.rss.abs_diff(last.rss) > 16 * 1024 {
            since = Instant::now();
        }
        last = now;
    }
    Ok(last)
}
