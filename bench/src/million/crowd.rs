//! The client processes as the conductor sees them: started, told, listened to, and gone with it.

use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::Value;

use super::plan::Plan;
use super::status::Status;
use crate::figures::histogram;
use crate::server::bound_to_us;

/// A line of a process, or nothing at its end.
type Said = (usize, Option<Value>);

pub struct Crowd {
    children: Vec<Child>,
    said: Receiver<Said>,
    statuses: Vec<Status>,
    deliveries: Vec<Value>,
}

/// What became of the publication.
pub struct Deliveries {
    /// Nanoseconds from the stamp to the client's read.
    pub times: Histogram<u64>,
    pub max: u64,
    /// Clients that got it not at all, once, and more than once.
    pub none: u64,
    pub once: u64,
    pub more: u64,
}

impl Crowd {
    /// Starts the processes; they wait for `go`.
    pub fn start(plan: &Plan, port: u16) -> io::Result<Self> {
        let program = std::env::current_exe()?;
        let (sender, said) = channel();
        let mut crowd =
            Self { children: Vec::new(), said, statuses: vec![Status::default(); plan.crews], deliveries: Vec::new() };
        let mut first = 0;
        for (at, count) in plan.shares().into_iter().enumerate() {
            let mut command = bound_to_us(&[]);
            command.arg(&program).arg("million-clients");
            command.args(["--port", &port.to_string(), "--first", &first.to_string()]);
            command.args(["--count", &count.to_string(), "--opening", &plan.opening.to_string()]);
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
            if let Some(lines) = child.stdout.take() {
                listen(at, lines, sender.clone());
            }
            crowd.children.push(child);
            first += count;
        }
        Ok(crowd)
    }

    pub fn pids(&self) -> Vec<u32> {
        self.children.iter().map(Child::id).collect()
    }

    /// Says a word to all.
    pub fn tell(&mut self, word: &str) -> io::Result<()> {
        for child in &mut self.children {
            if let Some(pipe) = &mut child.stdin {
                writeln!(pipe, "{word}")?;
            }
        }
        Ok(())
    }

    /// Listens for so long.
    pub fn listen(&mut self, time: Duration) -> io::Result<()> {
        let end = Instant::now() + time;
        loop {
            match self.said.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok((at, Some(line))) => match Status::from_json(&line) {
                    Some(status) => self.statuses[at] = status,
                    None => self.deliveries.push(line),
                },
                Ok((at, None)) => return Err(io::Error::other(format!("client process {at} ended"))),
                Err(RecvTimeoutError::Timeout) => return Ok(()),
                Err(RecvTimeoutError::Disconnected) => return Err(io::Error::other("no client process is left")),
            }
        }
    }

    /// What all have said, added up.
    pub fn status(&self) -> Status {
        let mut sum = Status::default();
        for status in &self.statuses {
            sum.add(status);
        }
        sum
    }

    /// Asks all for their delivery times and adds them up.
    pub fn deliveries(&mut self, limit: Duration) -> io::Result<Deliveries> {
        let end = Instant::now() + limit;
        self.tell("times")?;
        while self.deliveries.len() < self.children.len() {
            self.listen(Duration::from_millis(100))?;
            if Instant::now() > end {
                return Err(io::Error::other("not all client processes told their delivery times"));
            }
        }
        let mut sum = Deliveries { times: histogram()?, max: 0, none: 0, once: 0, more: 0 };
        for line in &self.deliveries {
            let number = |key: &str| line[key].as_u64().unwrap_or_default();
            for step in line["times"].as_array().into_iter().flatten() {
                let (value, count) = (step[0].as_u64().unwrap_or_default(), step[1].as_u64().unwrap_or_default());
                sum.times.saturating_record_n(value, count);
            }
            sum.max = sum.max.max(number("max"));
            sum.none += number("none");
            sum.once += number("once");
            sum.more += number("more");
        }
        Ok(sum)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
        }
        for child in &mut self.children {
            let _ = child.wait();
        }
    }
}

/// Brings the lines of one process.
fn listen(at: usize, lines: ChildStdout, sender: Sender<Said>) {
    thread::spawn(move || {
        for line in BufReader::new(lines).lines().map_while(Result::ok) {
            let Ok(value) = serde_json::from_str(&line) else { continue };
            if sender.send((at, Some(value))).is_err() {
                return;
            }
        }
        let _ = sender.send((at, None));
    });
}
