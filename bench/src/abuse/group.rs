//! The control group: well-behaved clients in a poll loop of their own, and the publisher they listen to.
//!
//! The loop knows how long it waited for a core itself, so that a loader that is late is not taken for a server that is.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use mio::{Events, Poll};

use super::ledger::{Channel, Ledger};
use super::member::{Heard, Member};
use super::node::waited_in;
use super::phase::{Phase, Stage};
use crate::million::now_ns;

/// Subscribers.
pub const SUBSCRIBERS: usize = 200;
/// Those of them that are in the channel with history.
const KEPT: usize = 50;
/// Those that publish to themselves, too.
const SPEAKERS: usize = 10;

pub const PLAIN_CHANNEL: &str = "control";
pub const KEPT_CHANNEL: &str = "kept:control";

/// From one publication to the next: 20 a second.
const PACE: u64 = 50_000_000;
/// The same for each speaker: twice a second.
const OWN_PACE: u64 = 500_000_000;
/// How long after the last publication all must have come.
const GRACE: u64 = 10_000_000_000;
/// The ids of publish commands begin here.
const FIRST_ID: u64 = 100;

/// The member that publishes; the subscribers are those before it.
const PUBLISHER: usize = SUBSCRIBERS;

pub struct Group {
    open: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<Ledger>>,
}

impl Group {
    /// Connects, publishes while the stage is in a window, and ends some time after the stage's end.
    pub fn start(port: u16, stage: Stage) -> io::Result<Self> {
        let mut all = Loop::new(port)?;
        let open = Arc::new(AtomicBool::new(false));
        let told = open.clone();
        let thread = thread::spawn(move || {
            all.run(&stage, &told)?;
            Ok(all.ledger)
        });
        Ok(Self { open, thread })
    }

    /// Everybody is connected and subscribed.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    pub fn has_failed(&self) -> bool {
        self.thread.is_finished()
    }

    pub fn join(self) -> io::Result<Ledger> {
        self.thread.join().map_err(|_| io::Error::other("the control group panicked"))?
    }
}

fn channel_of(member: usize) -> Channel {
    if member < SUBSCRIBERS - KEPT { Channel::Plain } else { Channel::Kept }
}

fn channels_of(member: usize) -> Vec<String> {
    match (member, channel_of(member)) {
        (PUBLISHER, _) => Vec::new(),
        (0..SPEAKERS, _) => vec![PLAIN_CHANNEL.to_owned(), format!("own-{member}")],
        (_, Channel::Plain) => vec![PLAIN_CHANNEL.to_owned()],
        (_, Channel::Kept) => vec![KEPT_CHANNEL.to_owned()],
    }
}

struct Loop {
    poll: Poll,
    members: Vec<Member>,
    ledger: Ledger,
    /// When the next publication is due; 0 before the first.
    next: u64,
    next_own: [u64; SPEAKERS],
    heard: Vec<Heard>,
}

impl Loop {
    fn new(port: u16) -> io::Result<Self> {
        let poll = Poll::new()?;
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let member = |number| Member::connect(to, number, channels_of(number), poll.registry());
        Ok(Self {
            members: (0..=SUBSCRIBERS).map(member).collect::<io::Result<_>>()?,
            ledger: Ledger::new((0..SUBSCRIBERS).map(channel_of))?,
            poll,
            next: 0,
            next_own: [0; SPEAKERS],
            heard: Vec::new(),
        })
    }

    fn run(&mut self, stage: &Stage, open: &AtomicBool) -> io::Result<()> {
        let mut waits = Waits::of_this_thread()?;
        let (mut events, mut buffer) = (Events::with_capacity(1024), vec![0; 256 * 1024]);
        let mut over_at = None;
        loop {
            let phase = stage.get();
            let mut now = now_ns();
            match phase.window() {
                Some(window) => self.publish(now, window)?,
                None if phase == Phase::End => {
                    let over = *over_at.get_or_insert(now + GRACE);
                    if now > over || self.ledger.is_whole() {
                        return Ok(());
                    }
                }
                None => {}
            }
            let wait = if self.next == 0 { PACE } else { self.next.saturating_sub(now).min(PACE) };
            match self.poll.poll(&mut events, Some(Duration::from_nanos(wait))) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                result => result?,
            }
            now = now_ns();
            for event in events.iter() {
                self.ready(event, &mut buffer, phase == Phase::Setup)?;
            }
            // What came could have been noticed earlier by as much as this thread waited and worked on the rest.
            let late = waits.since_last()? + now_ns().saturating_sub(now);
            if let Some(window) = phase.window().filter(|_| !events.is_empty()) {
                self.ledger.loader[window].saturating_record(late.max(1));
            }
            if !open.load(Ordering::Relaxed) && self.members.iter().all(Member::is_open) {
                open.store(true, Ordering::Release);
            }
        }
    }

    /// Sends what is due. What is late keeps the moment it was due at.
    fn publish(&mut self, now: u64, window: usize) -> io::Result<()> {
        if self.next == 0 {
            self.next = now;
            self.next_own = std::array::from_fn(|speaker| now + speaker as u64 * OWN_PACE / SPEAKERS as u64);
        }
        while self.next <= now {
            let number = self.ledger.publish(self.next, window);
            self.next += PACE;
            let id = FIRST_ID + 2 * number as u64;
            let publish = |channel: &str, id: u64| {
                format!(r#"{{"publish":{{"channel":"{channel}","data":{{"n":{number}}}}},"id":{id}}}"#)
            };
            let both = [publish(PLAIN_CHANNEL, id), publish(KEPT_CHANNEL, id + 1)].join("\n");
            self.say(PUBLISHER, &both);
        }
        for member in &mut self.members {
            // What cannot be written is noticed when the socket is read.
            let _ = member.try_again(now);
        }
        for speaker in 0..SPEAKERS {
            while self.next_own[speaker] <= now {
                let number = self.ledger.publish_own(speaker, self.next_own[speaker], window);
                self.next_own[speaker] += OWN_PACE;
                let id = FIRST_ID + number as u64;
                let data = format!(r#"{{"channel":"own-{speaker}","data":{{"n":{number}}}}}"#);
                self.say(speaker, &format!(r#"{{"publish":{data},"id":{id}}}"#));
            }
        }
        Ok(())
    }

    fn say(&mut self, member: usize, commands: &str) {
        if !self.members[member].is_closed()
            && let Err(error) = self.members[member].say(commands)
        {
            self.close(member, &error);
        }
    }

    fn close(&mut self, member: usize, error: &io::Error) {
        self.members[member].close();
        let subscriber = (member != PUBLISHER).then_some(member);
        self.ledger.close(subscriber, error.to_string());
    }

    fn ready(&mut self, event: &mio::event::Event, buffer: &mut [u8], setup: bool) -> io::Result<()> {
        let index = event.token().0;
        if self.members[index].is_closed() {
            return Ok(());
        }
        let mut heard = std::mem::take(&mut self.heard);
        let result = self.members[index].ready(event, buffer, &mut heard);
        let now = now_ns();
        for heard in heard.drain(..) {
            self.note(index, &heard, now);
        }
        self.heard = heard;
        match result {
            Err(error) if setup => Err(io::Error::new(error.kind(), format!("a client of the control group {error}"))),
            Err(error) => {
                self.close(index, &error);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn note(&mut self, member: usize, heard: &Heard, now: u64) {
        match heard {
            Heard::Publication { channel: 0, number, live } => self.ledger.heard(member, *number, now, *live),
            Heard::Publication { number, .. } => self.ledger.heard_own(member, *number, now),
            Heard::Reply { id, error } if member == PUBLISHER && *id >= FIRST_ID => {
                let place = id - FIRST_ID;
                let channel = if place.is_multiple_of(2) { Channel::Plain } else { Channel::Kept };
                self.ledger.answer(channel, (place / 2) as usize, *error);
            }
            Heard::Reply { id, error: Some(_) } if *id >= FIRST_ID => {
                self.ledger.refuse_own(member, (id - FIRST_ID) as usize);
            }
            Heard::Reply { .. } => {}
            Heard::Ping => self.ledger.pings += 1,
            Heard::Gap => self.ledger.gaps += 1,
            Heard::Recovered => self.ledger.recovered += 1,
        }
    }
}

/// How long a thread waited for a core, by the kernel's books.
struct Waits {
    account: File,
    last: u64,
}

impl Waits {
    fn of_this_thread() -> io::Result<Self> {
        Ok(Self { account: File::open("/proc/thread-self/schedstat")?, last: 0 })
    }

    /// Nanoseconds since it was asked before.
    fn since_last(&mut self) -> io::Result<u64> {
        let mut text = [0; 128];
        let size = self.account.read_at(&mut text, 0)?;
        let waited = waited_in(&String::from_utf8_lossy(&text[..size]));
        Ok(waited.saturating_sub(std::mem::replace(&mut self.last, waited)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_is_as_large_as_it_says() {
        let of = |channel| (0..SUBSCRIBERS).filter(|member| channel_of(*member) == channel).count();
        assert_eq!((of(Channel::Plain), of(Channel::Kept)), (SUBSCRIBERS - KEPT, KEPT));
        assert_eq!(channels_of(0), ["control", "own-0"]);
        assert_eq!(channels_of(SUBSCRIBERS - 1), ["kept:control"]);
        assert!(channels_of(PUBLISHER).is_empty());
    }
}
