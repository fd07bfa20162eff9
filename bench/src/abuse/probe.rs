//! Health and the server API of the node, asked all the while: a node that serves its clients answers those, too.

use std::io;
use std::net::{Ipv4Addr, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::json;

use super::node::{call, health};
use super::phase::{Phase, Stage};

/// From one question to the next.
const PAUSE: Duration = Duration::from_millis(200);

/// What came of the questions, in one window.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    pub asked: u64,
    pub failed: u64,
    /// Those of the failed that the node refused, for it was full.
    pub refused: u64,
    pub slowest: Duration,
    /// The first failure.
    pub why: Option<String>,
}

impl Answers {
    fn add(&mut self, what: &str, took: Duration, answer: io::Result<()>) {
        self.asked += 1;
        self.slowest = self.slowest.max(took);
        if let Err(error) = answer {
            self.failed += 1;
            self.refused += u64::from(error.to_string().contains(" 503 "));
            self.why.get_or_insert_with(|| format!("{what}: {error}"));
        }
    }
}

pub struct Probe(JoinHandle<[Answers; 3]>);

impl Probe {
    /// Asks until the stage is at its end.
    pub fn start(internal: u16, stage: Stage) -> Self {
        Self(thread::spawn(move || ask(internal, &stage)))
    }

    /// What came of it, by window.
    pub fn join(self) -> io::Result<[Answers; 3]> {
        self.0.join().map_err(|_| io::Error::other("the probe panicked"))
    }
}

fn ask(internal: u16, stage: &Stage) -> [Answers; 3] {
    let mut answers: [Answers; 3] = Default::default();
    loop {
        let phase = stage.get();
        if phase == Phase::End {
            return answers;
        }
        // A question belongs to the window in which it was put.
        if let Some(window) = phase.window() {
            // A monitor that keeps its connection, as they do: it must not be in the others' way.
            let _kept = TcpStream::connect((Ipv4Addr::LOCALHOST, internal));
            let began = Instant::now();
            let answer = health(internal);
            answers[window].add("health", began.elapsed(), answer);
            let began = Instant::now();
            let answer = call(internal, "info", &json!({})).map(|_| ());
            answers[window].add("info", began.elapsed(), answer);
        }
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_and_the_slowest_answer_are_kept() {
        let mut answers = Answers::default();
        answers.add("health", Duration::from_millis(2), Ok(()));
        answers.add("info", Duration::from_millis(5), Err(io::Error::other("one")));
        answers.add("info", Duration::from_millis(3), Err(io::Error::other("HTTP/1.1 503 Service Unavailable")));
        assert_eq!((answers.asked, answers.failed, answers.slowest), (3, 2, Duration::from_millis(5)));
        assert_eq!(answers.refused, 1);
        assert_eq!(answers.why.as_deref(), Some("info: one"));
    }
}
