//! Attackers: many connections in one poll loop, each on its way through its crowd's script.
//!
//! The loop goes behind other threads while it attacks, so that it takes little from the server and the control group.
//! Never knows what an attack is for.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use serde_json::{Value, json};
use socket2::SockRef;

use super::node::Ports;
use super::phase::{Phase, Stage};
use super::script::{Door, Script, Step, Turn};
use super::skim::{Seen, Skim};
use super::speech;
use crate::fleet::dial;

/// What one connection may send, and read, before the next has its turn.
const WRITE_TURN: usize = 256 * 1024;
const READ_TURN: usize = 1024 * 1024;
/// Connections begun in one turn of the loop.
const BEGUN_TURN: usize = 64;
/// How often those that wait for a moment are looked at.
const TICK: Duration = Duration::from_millis(10);
/// How far the loop goes behind others.
const NICE: i32 = 10;
/// How long one waits that could not connect.
const PAUSE: Duration = Duration::from_millis(50);

/// Connections that do the same.
#[derive(Clone)]
pub struct Crowd {
    pub script: Script,
    pub count: usize,
    /// How many of them may be on the way to an open connection at the same time.
    pub at_once: usize,
    /// There before the attack, and after it.
    pub resident: bool,
}

impl Crowd {
    /// Attackers.
    pub fn of(count: usize, script: Script) -> Self {
        Self { script, count, at_once: 256, resident: false }
    }

    /// Clients that are there all the while, because the attack is about them.
    pub fn resident(count: usize, script: Script) -> Self {
        Self { resident: true, ..Self::of(count, script) }
    }
}

/// What attackers did and what became of them.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Connections the kernel completed.
    pub opened: u64,
    pub failed: u64,
    /// Statuses of HTTP answers.
    pub statuses: BTreeMap<u16, u64>,
    /// Connections that the server ended, by the code of its close frame; 0 = without a word.
    pub closed: BTreeMap<u16, u64>,
    pub frames: u64,
    pub sent: u64,
    pub received: u64,
}

impl Tally {
    pub fn closed_all(&self) -> u64 {
        self.closed.values().sum()
    }

    pub fn json(&self) -> Value {
        let by = |map: &BTreeMap<u16, u64>| map.iter().map(|(k, v)| (k.to_string(), json!(v))).collect::<Value>();
        json!({
            "opened": self.opened, "failed": self.failed, "statuses": by(&self.statuses), "closed": by(&self.closed),
            "frames": self.frames, "bytes_sent": self.sent, "bytes_received": self.received,
        })
    }
}

#[derive(Clone, Copy, Debug)]
enum Reading {
    All,
    Nothing,
    /// Bytes a second, and when it last read.
    At(u64, Instant),
}

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Nothing: it has more to do.
    Busy,
    /// Its socket.
    Socket,
    /// A moment.
    Time,
}

struct Line {
    crowd: usize,
    number: u64,
    stream: Option<TcpStream>,
    connected: bool,
    step: usize,
    out: Bytes,
    sent: usize,
    round: u64,
    /// For a step that waits: when it goes on. Without a connection: when it begins.
    due: Instant,
    reading: Reading,
    /// The head of the answer as far as it came; None once it is whole.
    head: Option<Vec<u8>>,
    skim: Skim,
    frames: u64,
    pongs: u64,
    pong_frames: u64,
    readable: bool,
    writable: bool,
    /// The server has sent its last byte.
    ended: bool,
    /// It is on the list of those that go on at once.
    listed: bool,
    timed: bool,
    /// It is counted among those on the way to their last step.
    opening: bool,
    /// It was connected once.
    came: bool,
}

struct Loop {
    poll: Poll,
    ports: Ports,
    crowds: Vec<Crowd>,
    /// Connections of each crowd that are not at their last step yet.
    opening: Vec<usize>,
    lines: Vec<Line>,
    /// Those that have no connection and want one.
    absent: VecDeque<usize>,
    busy: Vec<usize>,
    buffer: Box<[u8]>,
    begun: u64,
    ticked: Instant,
    tally: Tally,
    told: Told,
}

/// What the loop says of itself while it runs.
#[derive(Clone, Default)]
struct Told {
    /// All residents are there.
    ready: Arc<AtomicBool>,
    /// Attackers that were connected at least once.
    came: Arc<AtomicUsize>,
}

/// The loop, in a thread of its own.
pub struct Attackers {
    told: Told,
    thread: JoinHandle<io::Result<Tally>>,
}

impl Attackers {
    pub fn start(ports: Ports, crowds: Vec<Crowd>, stage: Stage) -> io::Result<Self> {
        let mut all = Loop::new(ports, crowds)?;
        let told = all.told.clone();
        let thread = thread::spawn(move || {
            all.run(&stage)?;
            Ok(all.tally)
        });
        Ok(Self { told, thread })
    }

    /// All that should be there before the attack are.
    pub fn are_ready(&self) -> bool {
        self.told.ready.load(Ordering::Acquire)
    }

    /// How many attackers were connected at least once.
    pub fn came(&self) -> usize {
        self.told.came.load(Ordering::Acquire)
    }

    pub fn have_failed(&self) -> bool {
        self.thread.is_finished()
    }

    /// What they did; the stage is at its end.
    pub fn join(self) -> io::Result<Tally> {
        self.thread.join().map_err(|_| io::Error::other("the attackers panicked"))?
    }
}

impl Line {
    fn new(crowd: usize, now: Instant) -> Self {
        Self {
            crowd,
            number: 0,
            stream: None,
            connected: false,
            step: 0,
            out: Bytes::new(),
            sent: 0,
            round: 0,
            due: now,
            reading: Reading::All,
            head: Some(Vec::new()),
            skim: Skim::default(),
            frames: 0,
            pongs: 0,
            pong_frames: 0,
            readable: false,
            writable: false,
            ended: false,
            listed: false,
            timed: false,
            opening: false,
            came: false,
        }
    }
}

impl Loop {
    fn new(ports: Ports, crowds: Vec<Crowd>) -> io::Result<Self> {
        let now = Instant::now();
        let of = |(at, crowd): (usize, &Crowd)| (0..crowd.count).map(move |_| Line::new(at, now));
        let lines: Vec<Line> = crowds.iter().enumerate().flat_map(of).collect();
        Ok(Self {
            poll: Poll::new()?,
            ports,
            opening: vec![0; crowds.len()],
            absent: (0..lines.len()).collect(),
            lines,
            crowds,
            busy: Vec::new(),
            buffer: vec![0; 256 * 1024].into_boxed_slice(),
            begun: 0,
            ticked: now,
            tally: Tally::default(),
            told: Told::default(),
        })
    }

    fn run(&mut self, stage: &Stage) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        let mut attacked = false;
        loop {
            let phase = stage.get();
            match phase {
                Phase::End => return Ok(()),
                Phase::During if !attacked => {
                    // What happened on the way there is no part of the attack.
                    self.tally = Tally::default();
                    attacked = true;
                    // Whoever may not go behind others attacks beside them.
                    let _ = rustix::process::setpriority_process(None, NICE);
                }
                Phase::After if attacked => {
                    self.leave();
                    attacked = false;
                }
                _ => {}
            }
            self.begin(phase)?;
            let wait = if self.busy.is_empty() { TICK } else { Duration::ZERO };
            self.turn(&mut events, wait)?;
            if !self.told.ready.load(Ordering::Relaxed) && self.residents_are_there() {
                self.told.ready.store(true, Ordering::Release);
            }
        }
    }

    fn residents_are_there(&self) -> bool {
        let resident = |line: &&Line| self.crowds[line.crowd].resident;
        self.lines.iter().filter(resident).all(|line| line.connected && !line.opening)
    }

    /// The attackers' connections end, the residents stay.
    fn leave(&mut self) {
        let crowds = &self.crowds;
        for line in self.lines.iter_mut().filter(|line| !crowds[line.crowd].resident) {
            line.stream = None;
            line.timed = false;
        }
        self.absent.retain(|index| crowds[self.lines[*index].crowd].resident);
    }

    /// Begins connections that are due.
    fn begin(&mut self, phase: Phase) -> io::Result<()> {
        let now = Instant::now();
        for _ in 0..self.absent.len().min(BEGUN_TURN) {
            let Some(index) = self.absent.pop_front() else { break };
            let line = &self.lines[index];
            let crowd = &self.crowds[line.crowd];
            let wanted = crowd.resident || phase == Phase::During;
            if wanted && self.opening[line.crowd] < crowd.at_once && now >= line.due {
                self.connect(index, now)?;
            } else {
                self.absent.push_back(index);
            }
        }
        Ok(())
    }

    fn connect(&mut self, index: usize, now: Instant) -> io::Result<()> {
        let at = self.lines[index].crowd;
        let script = &self.crowds[at].script;
        let port = match script.door {
            Door::Public => self.ports.public,
            Door::Internal => self.ports.internal,
            Door::Grpc => self.ports.grpc,
        };
        let Line { listed, came, .. } = self.lines[index];
        let mut line = Line { number: self.begun, listed, came, ..Line::new(at, now) };
        self.begun += 1;
        match dial(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), line.number as u32) {
            Ok(mut stream) => {
                if let Some(size) = script.receive_buffer {
                    SockRef::from(&stream).set_recv_buffer_size(size)?;
                }
                let both = Interest::READABLE | Interest::WRITABLE;
                self.poll.registry().register(&mut stream, Token(index), both)?;
                (line.stream, line.opening) = (Some(stream), true);
                self.opening[at] += 1;
            }
            Err(_) => {
                self.tally.failed += 1;
                line.due = now + PAUSE;
                self.absent.push_back(index);
            }
        }
        self.lines[index] = line;
        Ok(())
    }

    fn turn(&mut self, events: &mut Events, wait: Duration) -> io::Result<()> {
        match self.poll.poll(events, Some(wait)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            result => result?,
        }
        for event in events.iter() {
            let index = event.token().0;
            let line = &mut self.lines[index];
            line.readable |= event.is_readable() || event.is_read_closed();
            line.writable |= event.is_writable();
            line.ended |= event.is_read_closed();
            list(&mut self.busy, line, index);
        }
        let now = Instant::now();
        if now.duration_since(self.ticked) >= TICK {
            self.ticked = now;
            for (index, line) in self.lines.iter_mut().enumerate() {
                if line.timed {
                    list(&mut self.busy, line, index);
                }
            }
        }
        for index in std::mem::take(&mut self.busy) {
            self.lines[index].listed = false;
            if self.lines[index].stream.is_none() {
                continue;
            }
            match self.work(index, now) {
                Ok(Next::Busy) => list(&mut self.busy, &mut self.lines[index], index),
                Ok(Next::Socket) => self.lines[index].timed = false,
                Ok(Next::Time) => self.lines[index].timed = true,
                Err(End::Left) => self.end(index, now),
                Err(End::Closed(code)) => {
                    *self.tally.closed.entry(code).or_default() += 1;
                    self.end(index, now);
                }
                Err(End::Failed) => {
                    self.tally.failed += 1;
                    self.end(index, now + PAUSE);
                }
            }
        }
        Ok(())
    }

    fn end(&mut self, index: usize, due: Instant) {
        let line = &mut self.lines[index];
        line.stream = None;
        line.timed = false;
        line.due = due;
        self.opening[line.crowd] -= usize::from(std::mem::take(&mut line.opening));
        if self.crowds[line.crowd].script.again {
            self.absent.push_back(index);
        }
    }

    fn work(&mut self, index: usize, now: Instant) -> Result<Next, End> {
        let line = &mut self.lines[index];
        let script = &self.crowds[line.crowd].script;
        if !line.connected {
            let failed = line.stream.as_ref().and_then(|stream| stream.take_error().ok().flatten());
            match (failed, line.writable) {
                (Some(_), _) => return Err(End::Failed),
                (None, false) => return Ok(Next::Socket),
                (None, true) => line.connected = true,
            }
            self.tally.opened += 1;
            if !line.came && !self.crowds[line.crowd].resident {
                line.came = true;
                self.told.came.fetch_add(1, Ordering::AcqRel);
            }
        }
        let read = line.read(script, &mut self.buffer, now, &mut self.tally)?;
        let written = line.advance(script, now, &mut self.tally)?;
        if line.opening && line.step + 1 >= script.steps.len() {
            line.opening = false;
            self.opening[line.crowd] -= 1;
        }
        Ok(match (read, written) {
            (Next::Busy, _) | (_, Next::Busy) => Next::Busy,
            (_, Next::Time) => Next::Time,
            _ if matches!(line.reading, Reading::At(..)) => Next::Time,
            _ => Next::Socket,
        })
    }
}

fn list(busy: &mut Vec<usize>, line: &mut Line, index: usize) {
    if !line.listed {
        line.listed = true;
        busy.push(index);
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Left,
    Closed(u16),
    Failed,
}

impl Line {
    fn read(&mut self, script: &Script, buffer: &mut [u8], now: Instant, tally: &mut Tally) -> Result<Next, End> {
        let mut room = match self.reading {
            Reading::All => READ_TURN,
            Reading::Nothing if self.ended => return Err(End::Closed(0)),
            Reading::Nothing => return Ok(Next::Socket),
            Reading::At(rate, last) => {
                self.reading = Reading::At(rate, now);
                ((rate as f64 * now.duration_since(last).as_secs_f64()) as usize).min(READ_TURN)
            }
        };
        while self.readable && room > 0 {
            let size = room.min(buffer.len());
            let Some(stream) = self.stream.as_mut() else { return Err(End::Left) };
            match stream.read(&mut buffer[..size]) {
                Ok(0) => return Err(End::Closed(0)),
                Ok(size) => {
                    room -= size;
                    tally.received += size as u64;
                    self.take(&buffer[..size], script, tally)?;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(End::Closed(0)),
            }
        }
        Ok(if self.readable && matches!(self.reading, Reading::All) { Next::Busy } else { Next::Socket })
    }

    fn take(&mut self, bytes: &[u8], script: &Script, tally: &mut Tally) -> Result<(), End> {
        if let Some(head) = &mut self.head {
            head.extend_from_slice(bytes);
            let Some(end) = memchr::memmem::find(head, b"\r\n\r\n") else { return Ok(()) };
            let rest = head.split_off(end + 4);
            count_statuses(head, tally);
            self.head = None;
            return self.take(&rest, script, tally);
        }
        if !script.websocket {
            count_statuses(bytes, tally);
            return Ok(());
        }
        let mut seen = Seen::default();
        self.skim.take(bytes, &mut seen);
        self.frames += seen.frames;
        tally.frames += seen.frames;
        self.pongs += seen.pings;
        self.pong_frames += seen.ping_frames;
        seen.closed.map_or(Ok(()), |code| Err(End::Closed(code)))
    }

    /// Goes on as far as the socket, the script and the turn allow.
    fn advance(&mut self, script: &Script, now: Instant, tally: &mut Tally) -> Result<Next, End> {
        let mut room = WRITE_TURN;
        loop {
            if self.sent < self.out.len() {
                if !self.writable || room == 0 {
                    return Ok(if self.writable { Next::Busy } else { Next::Socket });
                }
                self.write(&mut room, tally)?;
                continue;
            }
            if self.pongs > 0 || self.pong_frames > 0 {
                let (some, frames) = (speech::pong(), speech::pong_frame());
                self.say([some.repeat(self.pongs as usize), frames.repeat(self.pong_frames as usize)].concat().into());
                (self.pongs, self.pong_frames) = (0, 0);
                continue;
            }
            let turn = Turn { connection: self.number, round: self.round };
            match script.steps.get(self.step) {
                None | Some(Step::Hold) => return Ok(Next::Socket),
                Some(Step::Head) if self.head.is_some() => return Ok(Next::Socket),
                Some(Step::Frames(count)) if self.frames < *count => return Ok(Next::Socket),
                Some(Step::Every(..)) if now < self.due => return Ok(Next::Time),
                Some(Step::Leave) => return Err(End::Left),
                Some(Step::Abort) => {
                    if let Some(stream) = &self.stream {
                        let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
                    }
                    return Err(End::Left);
                }
                Some(Step::Flood(payload)) => {
                    self.say(payload.bytes(turn));
                    self.round += 1;
                }
                Some(Step::Every(pause, payload)) => {
                    self.say(payload.bytes(turn));
                    self.round += 1;
                    self.due = now + *pause;
                }
                Some(step) => {
                    match step {
                        Step::Send(payload) => self.say(payload.bytes(turn)),
                        Step::ReadNothing => self.reading = Reading::Nothing,
                        Step::ReadAt(rate) => self.reading = Reading::At(*rate, now),
                        _ => {}
                    }
                    self.step += 1;
                    self.due = now;
                }
            }
        }
    }

    fn say(&mut self, bytes: Bytes) {
        (self.out, self.sent) = (bytes, 0);
    }

    fn write(&mut self, room: &mut usize, tally: &mut Tally) -> Result<(), End> {
        let size = (self.out.len() - self.sent).min(*room);
        let Some(stream) = self.stream.as_mut() else { return Err(End::Left) };
        match stream.write(&self.out[self.sent..self.sent + size]) {
            Ok(size) => {
                self.sent += size;
                *room -= size;
                tally.sent += size as u64;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // What the server said before it closed may still be read, and says why.
            Err(_) => return Err(self.last_words(tally)),
        }
        Ok(())
    }

    fn last_words(&mut self, tally: &mut Tally) -> End {
        let mut seen = Seen::default();
        let mut buffer = [0; 4096];
        while let Some(Ok(size @ 1..)) = self.stream.as_mut().map(|stream| stream.read(&mut buffer)) {
            tally.received += size as u64;
            match self.head.is_some() {
                true => count_statuses(&buffer[..size], tally),
                false => self.skim.take(&buffer[..size], &mut seen),
            }
        }
        End::Closed(seen.closed.unwrap_or(0))
    }
}

/// Counts the status lines in what was read.
fn count_statuses(bytes: &[u8], tally: &mut Tally) {
    const LINE: &[u8] = b"HTTP/1.1 ";
    for at in memchr::memmem::find_iter(bytes, LINE) {
        let digits = bytes[at + LINE.len()..].iter().take(3).take_while(|byte| byte.is_ascii_digit());
        let status = digits.fold(0, |sum: u16, digit| sum * 10 + u16::from(digit - b'0'));
        *tally.statuses.entry(status).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn ports(public: u16) -> Ports {
        Ports { public, internal: 0, grpc: 0, backend: 0 }
    }

    /// Runs a crowd against what answers each connection, until the answering ends.
    fn against(script: Script, count: usize, answer: impl FnOnce(TcpListener)) -> Tally {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let stage = Stage::default();
        let port = listener.local_addr().expect("an address").port();
        let crowd = Attackers::start(ports(port), vec![Crowd::of(count, script)], stage.clone()).expect("a loop");
        stage.set(Phase::During);
        answer(listener);
        stage.set(Phase::End);
        crowd.join().expect("a tally")
    }

    #[test]
    fn a_script_goes_step_by_step() {
        let script = Script::upgraded_at("/x", &[]).then(Step::Frames(1)).send("after").then(Step::Hold);
        let tally = against(script, 1, |listener| {
            let (mut peer, _) = listener.accept().expect("a connection");
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") {
                peer.read_exact(&mut byte).expect("a head");
                head.extend(byte);
            }
            assert!(head.starts_with(b"GET /x "));
            peer.write_all(b"HTTP/1.1 101 Switching\r\n\r\n\x81\x02{}\x88\x02\x0b\xc0").expect("an answer");
            let mut rest = Vec::new();
            // The reset that follows a close is as good as an end.
            let _ = peer.read_to_end(&mut rest);
        });
        assert_eq!((tally.opened, tally.statuses.get(&101), tally.closed.get(&3008)), (1, Some(&1), Some(&1)));
    }

    #[test]
    fn what_ended_is_begun_anew_only_if_it_should() {
        let left = |again: bool| {
            let script = Script { again, ..Script::raw(Door::Public).send("x").then(Step::Leave) };
            against(script, 1, move |listener| {
                let mut peer = listener.accept().expect("a connection").0;
                let mut said = Vec::new();
                peer.read_to_end(&mut said).expect("its bytes");
                assert_eq!(said, b"x");
                if again {
                    listener.accept().expect("another one");
                }
            })
            .opened
        };
        assert_eq!(left(false), 1);
        assert!(left(true) > 1);
    }

    #[test]
    fn a_flood_is_as_much_as_the_other_side_takes() {
        let payload = vec![b'x'; 1 << 20];
        let tally = against(Script::raw(Door::Public).flood(payload), 2, |listener| {
            for _ in 0..2 {
                let mut peer = listener.accept().expect("a connection").0;
                let mut taken = vec![0; 3 << 20];
                peer.read_exact(&mut taken).expect("a flood");
            }
        });
        assert!(tally.sent >= 6 << 20, "{}", tally.sent);
    }

    #[test]
    fn who_reads_nothing_notices_that_it_was_closed() {
        let script = Script::raw(Door::Public).then(Step::ReadNothing).then(Step::Hold).again();
        let tally = against(script, 1, |listener| {
            listener.accept().expect("a connection").0.write_all(b"unread").expect("a word");
            listener.accept().expect("another one");
        });
        assert!(tally.closed.get(&0).is_some_and(|closed| *closed >= 1), "{tally:?}");
    }

    #[test]
    fn statuses_are_counted() {
        let mut tally = Tally::default();
        count_statuses(b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 503 No\r\n\r\nHTTP/1.1 200 OK", &mut tally);
        assert_eq!(tally.statuses, BTreeMap::from([(200, 2), (503, 1)]));
    }
}
