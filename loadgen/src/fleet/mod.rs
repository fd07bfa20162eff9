//! One loop: a poll and the clients of one thread.
//!
//! A turn: look at the stage, do what is due (connect, cut, speak), write every outbox that has bytes, wait, then take
//! each ready socket. Interest is registered once, edge-triggered, and never changed. `life` decides which connections
//! begin and end, `talk` who speaks; this file moves bytes between sockets and the witness. Never knows a scenario's
//! name, nor how anything is reported.

mod client;
mod life;
mod position;
mod talk;
mod witness;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use tungstenite::protocol::frame::coding::Control;

use crate::clock::{self, Alarm, MILLISECOND, SECOND};
use crate::handshake::{Answer, Upgrade};
use crate::plan::{Life, Plan, Talk};
use crate::profile::Wanted;
use crate::profile::raw::fill;
use crate::secure::Scratch;
use crate::shared::{Shared, Stage};
use crate::tally::Tally;
use crate::wire::{Item, control, message};
use client::{Client, End, Phase};
use life::Lives;
use talk::Speech;
use witness::Witness;

/// How long a loop waits at most before it looks at the stage again.
const WAIT_MAX: u64 = 10 * MILLISECOND;
/// How long clients may take to leave.
const LEAVE_MAX: u64 = SECOND;
/// The alarm's token; clients' are their places.
const ALARM: Token = Token(usize::MAX);

/// All clients of one thread.
pub struct Fleet {
    plan: Arc<Plan>,
    shared: Arc<Shared>,
    /// Which loop this is.
    thread: u32,
    poll: Poll,
    alarm: Alarm,
    buffer: Box<[u8]>,
    scratch: Scratch,
    clients: Vec<Client>,
    /// Places of clients with bytes to write.
    dirty: Vec<usize>,
    stage: Stage,
    open: u64,
    opening: u64,
    lives: Lives,
    speech: Speech,
    witness: Witness,
    mask: u32,
}

impl Fleet {
    pub fn new(plan: Arc<Plan>, shared: Arc<Shared>, thread: u32) -> io::Result<Self> {
        let (poll, alarm) = (Poll::new()?, Alarm::new()?);
        poll.registry().register(&mut SourceFd(&alarm.raw_fd()), ALARM, Interest::READABLE)?;
        let clients = plan.clients_of(thread).map(Client::new).collect();
        Ok(Self {
            thread,
            poll,
            alarm,
            buffer: vec![0; 256 * 1024].into_boxed_slice(),
            scratch: Scratch::default(),
            clients,
            dirty: Vec::new(),
            stage: Stage::Connect,
            open: 0,
            opening: 0,
            lives: Lives::new(&plan, thread, clock::now()),
            speech: Speech::default(),
            witness: Witness::new(plan.clone()),
            mask: 0x9e37_79b9 ^ thread,
            plan,
            shared,
        })
    }

    /// Runs until the conductor says to leave.
    pub fn run(mut self) -> io::Result<Tally> {
        let mut events = Events::with_capacity(1024);
        let mut leave_by = u64::MAX;
        loop {
            let now = clock::now();
            self.look_at_stage();
            if self.stage == Stage::Leave && leave_by == u64::MAX {
                leave_by = now + LEAVE_MAX;
            }
            if self.stage == Stage::Leave && (self.open == 0 || now > leave_by) {
                break;
            }
            self.live(now);
            self.speak_due(now);
            self.flush();
            self.show();
            self.wait(&mut events)?;
            for event in &events {
                match event.token() {
                    ALARM => self.alarm.rang(),
                    Token(place) => {
                        let ending = event.is_read_closed() || event.is_error();
                        self.ready(place, event.is_writable(), event.is_readable(), ending);
                    }
                }
            }
        }
        self.show();
        Ok(self.witness.tally)
    }

    fn look_at_stage(&mut self) {
        let stage = self.shared.stage();
        if stage == self.stage {
            return;
        }
        self.stage = stage;
        match stage {
            Stage::Connect => {}
            Stage::Play => self.begin_play(),
            Stage::Drain => self.end_stall(),
            Stage::Leave => {
                self.lives.forget_all();
                for place in 0..self.clients.len() {
                    self.leave(place);
                }
            }
        }
    }

    fn begin_play(&mut self) {
        let start = self.shared.start();
        (self.witness.start, self.witness.skew) = (start, self.shared.skew());
        if matches!(self.plan.life, Life::Storm { .. } | Life::Churn { .. }) {
            // What counts from here on is how clients come back.
            self.witness.tally.connect.reset();
        }
        self.lives.begin_play(&self.plan, self.thread, start);
        self.begin_talk(start);
    }

    /// Waits for the next event or the next thing that is due.
    fn wait(&mut self, events: &mut Events) -> io::Result<()> {
        let now = clock::now();
        let next =
            [self.next_connection(), self.lives.next_due(self.stage), self.next_speech()].into_iter().flatten().min();
        let timeout = match next {
            Some(at) if at <= now => 0,
            Some(at) if at < now + WAIT_MAX => {
                self.alarm.set(at)?;
                WAIT_MAX
            }
            _ => WAIT_MAX,
        };
        match self.poll.poll(events, Some(Duration::from_nanos(timeout))) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            result => result,
        }
    }

    /// A socket has an event. Spurious ones do no harm. If the stream is `ending`, it is read to its end.
    fn ready(&mut self, place: usize, writable: bool, readable: bool, ending: bool) {
        let result = (|| {
            if writable {
                self.writable(place)?;
            }
            if readable && !self.clients[place].stalled && !matches!(self.clients[place].phase, Phase::Connecting) {
                self.read_all(place, ending)?;
            }
            Ok(())
        })();
        if let Err(end) = result {
            self.ended(place, &end);
        }
    }

    fn writable(&mut self, place: usize) -> Result<(), End> {
        let client = &mut self.clients[place];
        if !matches!(client.phase, Phase::Connecting) {
            return client.flush(&mut self.scratch);
        }
        if !client.is_connected()? {
            return Ok(());
        }
        let plan = &self.plan;
        let target = if client.number < plan.roles.publishers { &plan.publisher_target } else { &plan.target };
        if let Some((config, name)) = plan.tls.as_ref().zip(target.secure.as_ref()) {
            client.secure(config.clone(), name.clone())?;
            return client.flush(&mut self.scratch);
        }
        self.upgrade(place)
    }

    /// The connection may speak: it asks for its upgrade.
    fn upgrade(&mut self, place: usize) -> Result<(), End> {
        let (client, plan) = (&mut self.clients[place], &self.plan);
        let target = if client.number < plan.roles.publishers { &plan.publisher_target } else { &plan.target };
        let channel = plan.roles.listens_to(client.number).first().copied();
        let channel = channel.unwrap_or_else(|| plan.roles.channel_of(client.number));
        let path = fill(&target.path, client.number, &plan.names.of(channel));
        let (request, upgrade) =
            Upgrade::new(&target.authority, &path, plan.profile.subprotocol(), &plan.headers).map_err(End::Refused)?;
        client.phase = Phase::Upgrading(Box::new(upgrade));
        client.put(&request);
        self.witness.tally.counts.bytes_out += request.len() as u64;
        client.flush(&mut self.scratch)
    }

    /// Reads until a read comes back short: the socket is empty then, and the next edge is still to come. Only the
    /// edge of the end may have passed already.
    fn read_all(&mut self, place: usize, ending: bool) -> Result<(), End> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let result = self.read_into(place, ending, &mut buffer);
        self.buffer = buffer;
        result
    }

    fn read_into(&mut self, place: usize, ending: bool, buffer: &mut [u8]) -> Result<(), End> {
        loop {
            let Some(size) = self.clients[place].read(buffer)? else { return Ok(()) };
            if self.clients[place].is_secure() {
                self.take_sealed(place, &buffer[..size])?;
            } else {
                self.witness.tally.counts.bytes_in += size as u64;
                self.take(place, &buffer[..size])?;
            }
            if size < buffer.len() && !ending {
                return Ok(());
            }
        }
    }

    /// The same with TLS.
    fn take_sealed(&mut self, place: usize, bytes: &[u8]) -> Result<(), End> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let client = &mut self.clients[place];
        // Answers of the handshake go out at once, and so does the alert of one that failed.
        let opened = client.open(bytes, &mut scratch);
        let flushed = client.flush(&mut scratch);
        let (may_upgrade, said) = (client.may_upgrade(), std::mem::take(&mut scratch.said));
        self.scratch = scratch;
        self.witness.tally.counts.bytes_in += said.len() as u64;
        opened.and(flushed)?;
        if may_upgrade {
            self.upgrade(place)?;
        }
        let taken = if said.is_empty() { Ok(()) } else { self.take(place, &said) };
        self.scratch.said = said;
        taken?;
        if self.clients[place].has_ended() { Err(End::Eof) } else { Ok(()) }
    }

    fn take(&mut self, place: usize, bytes: &[u8]) -> Result<(), End> {
        let client = &mut self.clients[place];
        if let Phase::Upgrading(upgrade) = &mut client.phase {
            return match upgrade.take(bytes) {
                Answer::Partial => Ok(()),
                Answer::Refused(reason) => Err(End::Refused(reason)),
                Answer::Open(rest) => {
                    self.join(place)?;
                    self.take_frames(place, &rest)
                }
            };
        }
        self.take_frames(place, bytes)
    }

    /// The connection is upgraded: says what the client has to say first.
    fn join(&mut self, place: usize) -> Result<(), End> {
        let client = &mut self.clients[place];
        let channels = self.plan.roles.listens_to(client.number);
        // The connect has id 1.
        if self.plan.recover {
            (2..).zip(0..channels.len()).for_each(|(id, slot)| client.positions.ask(slot, channels.len(), id));
        }
        let wanted = |(id, (slot, channel)): (u32, (usize, &u32))| Wanted {
            id,
            channel: *channel,
            past: client.positions.past(slot),
        };
        let wanted: Vec<_> = (2..).zip(channels.iter().enumerate()).map(wanted).collect();
        let (messages, replies) =
            self.plan.profile.join(client.number, &wanted, &self.plan.names).map_err(End::Refused)?;
        client.next_id = replies + 1;
        client.phase = Phase::Joining(replies);
        for outgoing in messages {
            self.put_frame(place, message(outgoing.text), &outgoing.bytes);
        }
        if replies == 0 {
            self.opened(place);
        }
        Ok(())
    }

    fn take_frames(&mut self, place: usize, bytes: &[u8]) -> Result<(), End> {
        let now = clock::now();
        let (mut inbox, limit) = (std::mem::take(&mut self.clients[place].inbox), self.plan.message_limit);
        let mut end = None;
        let taken = inbox.take(bytes, limit, |item| {
            if end.is_none() {
                end = self.take_item(place, item, now).err();
            }
        });
        self.clients[place].inbox = inbox;
        taken.map_err(End::Fault)?;
        end.map_or(Ok(()), Err)
    }

    fn take_item(&mut self, place: usize, item: Item<'_>, now: u64) -> Result<(), End> {
        match item {
            Item::Message(bytes) => self.take_message(place, bytes, now),
            Item::Ping(payload) => {
                self.witness.tally.counts.frame_pings += 1;
                self.put_frame(place, control(Control::Pong), payload);
                Ok(())
            }
            Item::Pong => Ok(()),
            Item::Close(code, _) => {
                if !matches!(self.clients[place].phase, Phase::Leaving) {
                    *self.witness.tally.closes.entry(code.unwrap_or(1005)).or_default() += 1;
                }
                Err(End::Close(code))
            }
        }
    }

    fn take_message(&mut self, place: usize, bytes: &[u8], now: u64) -> Result<(), End> {
        let client = &mut self.clients[place];
        let asks = self.witness.hear(client, bytes, now);
        if let Some(code) = asks.join_error {
            return Err(End::Refused(format!("error reply {code}")));
        }
        if asks.ended {
            self.resubscribe(place);
        }
        if let Phase::Joining(left) = &mut self.clients[place].phase {
            *left = left.saturating_sub(asks.replies);
            if *left == 0 {
                self.opened(place);
            }
        }
        if let Some((text, pong)) = self.plan.profile.pong() {
            for _ in 0..asks.pongs {
                self.put_frame(place, message(text), pong);
            }
        }
        if asks.came_back && self.plan.talk == Talk::Closed && self.stage == Stage::Play && now < self.speech.end {
            self.speak(place, now, now);
        }
        Ok(())
    }

    /// Asks again for subscriptions that the server has ended, and for what was missed.
    fn resubscribe(&mut self, place: usize) {
        loop {
            let client = &mut self.clients[place];
            let Some(slot) = client.positions.next_ended() else { return };
            let channels = self.plan.roles.listens_to(client.number);
            let id = client.next_id;
            client.next_id = client.next_id.wrapping_add(1).max(1);
            client.positions.ask(slot, channels.len(), id);
            let wanted = Wanted { id, channel: channels[slot], past: client.positions.past(slot) };
            let Some(outgoing) = self.plan.profile.subscribe(&wanted, &self.plan.names) else { return };
            if let Phase::Joining(left) = &mut client.phase {
                *left += 1;
            }
            self.put_frame(place, message(outgoing.text), &outgoing.bytes);
        }
    }

    /// Queues a frame; it is written before the loop waits.
    fn put_frame(&mut self, place: usize, opcode: tungstenite::protocol::frame::coding::OpCode, payload: &[u8]) {
        self.mask = self.mask.wrapping_mul(0x0019_660d).wrapping_add(0x3c6e_f35f);
        let client = &mut self.clients[place];
        self.witness.tally.counts.bytes_out += client.put_frame(opcode, payload, self.mask.to_le_bytes());
        if !client.dirty {
            client.dirty = true;
            self.dirty.push(place);
        }
    }

    fn flush(&mut self) {
        while let Some(place) = self.dirty.pop() {
            self.clients[place].dirty = false;
            if let Err(end) = self.clients[place].flush(&mut self.scratch) {
                self.ended(place, &end);
            }
        }
    }

    /// Shows the conductor how it goes.
    fn show(&self) {
        let (gauges, counts) = (&self.shared.loops[self.thread as usize], &self.witness.tally.counts);
        gauges.silent.store(self.next_speech().is_none(), SeqCst);
        gauges.open.store(self.open, Relaxed);
        gauges.opened.store(counts.opened, Relaxed);
        gauges.failed.store(counts.failed, Relaxed);
        gauges.sent.store(counts.sent, Relaxed);
        gauges.expected.store(counts.expected, Relaxed);
        gauges.got.store(counts.got, Relaxed);
        gauges.messages_in.store(counts.messages_in, Relaxed);
        gauges.bytes_in.store(counts.bytes_in, Relaxed);
        gauges.bytes_out.store(counts.bytes_out, Relaxed);
        gauges.recovered.store(counts.recovered, Relaxed);
        gauges.unrecovered.store(counts.unrecovered, Relaxed);
        gauges.from_history.store(counts.from_history, Relaxed);
        gauges.errors.store(counts.failed + counts.lost + counts.refused, Relaxed);
        // First what is under way, then the round it belongs to: the conductor reads them the other way round.
        gauges.busy.store(self.lives.waiting() + self.opening, SeqCst);
        gauges.round.store(self.lives.round, SeqCst);
        gauges.stage.store(self.stage as u8, SeqCst);
    }
}
