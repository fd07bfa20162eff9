//! What controller and agents say to each other: a line of JSON each, over TCP.
//!
//! The agent speaks first, with a nonce; both prove that they know the secret, if there is one, with an HMAC over both
//! nonces. Lines have a longest length, and waiting has an end. A scenario travels as the words of the command line,
//! so that a new option needs no word of its own here. Never knows what is done about a message.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, crypto};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::clock::{self, MILLISECOND};
use crate::shared::{Reading, Stage};
use crate::tally::Tally;

/// What is said here has this number.
pub const PROTOCOL: u32 = 1;
/// Parts of one run count the same things: they are the same program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The longest line of somebody who has proved nothing yet.
pub const GREETING_MAX: usize = 4 << 10;
/// The longest line an agent takes: a command line.
pub const ORDER_MAX: usize = 1 << 20;
/// The longest line a controller takes: histograms of all steps of a ramp.
pub const ANSWER_MAX: usize = 64 << 20;
/// How long either side may be silent during a job before the other gives it up.
pub const SILENCE: Duration = Duration::from_secs(10);
/// How long an introduction may take.
pub const INTRODUCTION: Duration = Duration::from_secs(5);

const SECRET_MIN: usize = 16;
const SECRET_VARIABLE: &str = "GANNET_LOADGEN_SECRET";

/// What a controller says. Moments are those of the agent's clock.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    Greet {
        protocol: u32,
        version: String,
        nonce: String,
        proof: Option<String>,
    },
    /// Part `part` (from 0) of `parts` of the scenario that `words` ask for.
    Job {
        words: Vec<String>,
        part: u32,
        parts: u32,
        run: u32,
    },
    /// What time is it? Also a sign of life.
    Time {
        sent: u64,
    },
    /// Clients connect from this moment on.
    Begin {
        at: u64,
    },
    /// The scenario plays. `skew` makes the agent's clock the controller's.
    Play {
        at: u64,
        skew: i64,
    },
    /// The next round of a storm.
    Round {
        at: u64,
    },
    /// Nothing new is said.
    Drain,
    /// Clients leave, and the result is wanted.
    Leave,
}

/// What an agent says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    Hello {
        protocol: u32,
        version: String,
        nonce: String,
    },
    Welcome {
        proof: Option<String>,
        boot: String,
    },
    /// The last word.
    Refused {
        why: String,
    },
    /// The job is taken, with so many clients.
    Holds {
        clients: u32,
    },
    /// `sent` is from the question.
    Time {
        sent: u64,
        now: u64,
    },
    Look(Look),
    Result {
        tally: Box<Tally>,
        own_cpu_seconds: f64,
    },
}

/// How a job goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    pub reading: Reading,
    /// Everything before it is in the reading.
    pub stage: Stage,
    /// The last round (0 = the first connecting) whose clients had all arrived, or failed, and when.
    pub settled: Option<(u32, u64)>,
    /// The agent has said all it has to say.
    pub silent: bool,
}

/// A message, if the line is one.
pub fn parse<T: DeserializeOwned>(line: &[u8]) -> Result<T, String> {
    serde_json::from_slice(line).map_err(|error| format!("not a message of protocol {PROTOCOL}: {error}"))
}

/// Sends one message.
pub fn send(mut stream: &TcpStream, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// How long to wait for a line.
#[derive(Clone, Copy, Debug)]
pub enum Patience {
    /// It must be there at this moment.
    Until(u64),
    /// Something must come at least so often.
    Between(Duration),
}

impl Patience {
    pub fn of(time: Duration) -> Self {
        Self::Until(clock::now() + time.as_nanos() as u64)
    }
}

/// The lines that come in on a connection.
#[derive(Debug)]
pub struct Lines {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// There is no line end before this.
    searched: usize,
}

impl Lines {
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, buffer: Vec::new(), searched: 0 }
    }

    /// The next message; `None` if the other side has closed the connection between two.
    pub fn message<T: DeserializeOwned>(&mut self, longest: usize, patience: Patience) -> Result<Option<T>, String> {
        self.line(longest, patience)?.map(|line| parse(&line)).transpose()
    }

    /// The next line, without its end.
    fn line(&mut self, longest: usize, patience: Patience) -> Result<Option<Vec<u8>>, String> {
        let mut chunk = [0; 16 << 10];
        loop {
            let end = memchr::memchr(b'\n', &self.buffer[self.searched..]).map(|at| self.searched + at);
            if end.unwrap_or(self.buffer.len()) > longest {
                return Err(format!("a line is longer than {longest} bytes"));
            }
            if let Some(end) = end {
                let rest = self.buffer.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.truncate(end);
                self.searched = 0;
                return Ok(Some(line));
            }
            self.searched = self.buffer.len();
            match self.read(&mut chunk, patience)? {
                0 if self.buffer.is_empty() => return Ok(None),
                0 => return Err("the connection ended within a line".to_owned()),
                size => self.buffer.extend_from_slice(&chunk[..size]),
            }
        }
    }

    /// Reads to the end of the connection, or of the patience, and keeps nothing.
    pub fn skip_all(&mut self, patience: Patience) {
        let mut chunk = [0; 16 << 10];
        while self.read(&mut chunk, patience).is_ok_and(|size| size > 0) {}
    }

    fn read(&mut self, chunk: &mut [u8], patience: Patience) -> Result<usize, String> {
        loop {
            let wait = match patience {
                Patience::Until(at) => Duration::from_nanos(at.saturating_sub(clock::now())),
                Patience::Between(wait) => wait,
            };
            if wait.is_zero() {
                return Err("nothing was heard in time".to_owned());
            }
            let wait = wait.max(Duration::from_nanos(MILLISECOND));
            let read = self.stream.set_read_timeout(Some(wait)).and_then(|()| self.stream.read(chunk));
            match (read, patience) {
                (Ok(size), _) => return Ok(size),
                (Err(error), _) if error.kind() == io::ErrorKind::Interrupted => {}
                (Err(error), Patience::Between(wait)) if is_timeout(&error) => {
                    return Err(format!("silent for {} s", wait.as_secs()));
                }
                (Err(error), _) if is_timeout(&error) => {}
                (Err(error), _) => return Err(describe(&error)),
            }
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// An error without its number.
pub fn describe(error: &io::Error) -> String {
    match error.kind() {
        kind @ (io::ErrorKind::Other | io::ErrorKind::InvalidInput) => format!("{kind}: {error}"),
        kind => kind.to_string(),
    }
}

/// Sixteen random bytes in hex.
pub fn nonce() -> io::Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Which kernel this is, since when: processes that say the same read the same clock. Empty if nobody knows.
pub fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// Who proves something, so that a proof cannot be sent back as the other's.
#[derive(Clone, Copy, Debug)]
pub enum Side {
    Controller,
    Agent,
}

/// What controller and agents know, and nobody else.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

impl Secret {
    pub fn new(text: &str) -> Result<Self, String> {
        let text = text.trim();
        match text.len() {
            SECRET_MIN.. => Ok(Self(text.as_bytes().to_vec())),
            len => Err(format!("the secret has {len} characters, and needs at least {SECRET_MIN}")),
        }
    }

    /// From the file, or from the environment; None = there is none.
    pub fn read(file: Option<&Path>) -> Result<Option<Self>, String> {
        let text = match file {
            Some(path) => fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?,
            None => match std::env::var(SECRET_VARIABLE) {
                Ok(text) => text,
                Err(_) => return Ok(None),
            },
        };
        Self::new(&text).map(Some)
    }

    /// A fresh one, and what to put into the environment of those who shall know it.
    pub fn fresh() -> io::Result<(Self, (&'static str, String))> {
        let text = nonce()? + &nonce()?;
        Ok((Self(text.clone().into_bytes()), (SECRET_VARIABLE, text)))
    }

    fn said(side: Side, nonces: [&str; 2]) -> String {
        format!("gannet-loadgen {PROTOCOL} {side:?} {} {}", nonces[0], nonces[1])
    }

    /// The proof of one side for the agent's and the controller's nonce.
    pub fn proof(&self, side: Side, nonces: [&str; 2]) -> Result<String, String> {
        let key = EncodingKey::from_secret(&self.0);
        let proof = key.and_then(|key| crypto::sign(Self::said(side, nonces).as_bytes(), &key, Algorithm::HS256));
        proof.map_err(|error| format!("signing: {error}"))
    }

    /// Compares in constant time.
    pub fn is_proved(&self, proof: Option<&str>, side: Side, nonces: [&str; 2]) -> bool {
        let Ok(key) = DecodingKey::from_secret(&self.0) else { return false };
        let said = Self::said(side, nonces);
        proof.is_some_and(|proof| crypto::verify(proof, said.as_bytes(), &key, Algorithm::HS256).unwrap_or(false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let near = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
        (near, listener.accept().expect("the other end").0)
    }

    #[test]
    fn what_is_said_is_heard() {
        let (near, far) = pair();
        let mut lines = Lines::new(far);
        let words = ["echo", "ws://127.0.0.1:1/\n\"ü\"", "--rate=1"].map(str::to_owned).to_vec();
        let job = Order::Job { words, part: 2, parts: 3, run: u32::MAX };
        let play = Order::Play { at: u64::MAX, skew: i64::MIN };
        for order in [&job, &play, &Order::Drain] {
            send(&near, order).expect("sent");
        }
        for order in [job, play, Order::Drain] {
            let heard = lines.message(ORDER_MAX, Patience::of(INTRODUCTION));
            assert_eq!(heard, Ok(Some(order)));
        }
        drop(near);
        assert_eq!(lines.message::<Order>(ORDER_MAX, Patience::of(INTRODUCTION)), Ok(None));
    }

    #[test]
    fn a_long_line_comes_in_pieces_and_a_too_long_one_not_at_all() {
        let (mut near, far) = pair();
        let mut lines = Lines::new(far);
        let writer = thread::spawn(move || {
            let text = vec![b'x'; 100_000];
            for part in [&b"short\n"[..], &text, b"\n", &text, &text] {
                near.write_all(part).expect("written");
            }
            near
        });
        let mut line = |longest| lines.line(longest, Patience::of(INTRODUCTION));
        assert_eq!(line(5), Ok(Some(b"short".to_vec())));
        assert_eq!(line(100_000).map(|line| line.map(|line| line.len())), Ok(Some(100_000)));
        assert!(line(150_000).is_err_and(|why| why.contains("longer than 150000 bytes")));
        assert!(lines.buffer.len() < 150_000 + (16 << 10) + 1, "no more is kept than was allowed");
        drop(writer.join());
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        for wrong in [&b"GET / HTTP/1.1\r"[..], b"", b"{}", b"[]", b"\xff\xfe", b"{\"job\":{\"words\":7}}", b"\"no\""] {
            assert!(parse::<Order>(wrong).is_err_and(|why| why.len() < 300), "{wrong:?}");
        }
        assert!(parse::<Order>("[".repeat(100_000).as_bytes()).is_err());
    }

    #[test]
    fn nobody_waits_for_ever() {
        let (near, far) = pair();
        let mut lines = Lines::new(far);
        let soon = Duration::from_millis(10);
        assert!(lines.line(9, Patience::of(soon)).is_err_and(|why| why.contains("in time")));
        assert!(lines.line(9, Patience::Between(soon)).is_err_and(|why| why.contains("silent")));
        drop(near);
    }

    #[test]
    fn a_proof_is_of_one_secret_one_side_and_two_nonces() {
        let secret = Secret::new("sixteen letters at least\n").expect("long enough");
        let same = Secret::new("sixteen letters at least").expect("long enough");
        let other = Secret::new("sixteen letters, others").expect("long enough");
        let proof = secret.proof(Side::Controller, ["a", "b"]).expect("signed");
        let proof = Some(proof.as_str());
        assert!(same.is_proved(proof, Side::Controller, ["a", "b"]));
        assert!(!other.is_proved(proof, Side::Controller, ["a", "b"]));
        assert!(!same.is_proved(proof, Side::Agent, ["a", "b"]));
        assert!(!same.is_proved(proof, Side::Controller, ["a", "c"]));
        for nothing in [None, Some(""), Some("%%%"), Some("AAAA")] {
            assert!(!same.is_proved(nothing, Side::Controller, ["a", "b"]));
        }
        assert!(Secret::new("short").is_err());
        assert_ne!(nonce().expect("random"), nonce().expect("random"));
    }
}
