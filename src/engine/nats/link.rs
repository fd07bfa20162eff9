//! F10 · The one connection of this node to the servers of NATS, kept as long as one of them is there.
//!
//! Owns connecting again with pauses that grow, subscribing again, and the breaker: a server that does not answer pings
//! gets no more calls until it does, and is left when it has been silent for too long. Knows nothing of what is said.

use super::dial::{NatsDialled, NatsWire};
use super::protocol::{self, ServerWord};
use super::talk::Awaited;
use super::{BATCH, CONTROL_SIDS, Nats, NatsState};
use crate::broker::engine::{Away, Heard};
use crate::engine::backoff::Backoff;
use crate::engine::counts::{EngineCounts, FailureKind};
use crate::service::add_to_sum;
use bytes::BytesMut;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

/// A sign of life is asked for so often.
const PROBE_EVERY: Duration = Duration::from_secs(2);
/// A server that is silent for so long is left.
const SILENCE_MAX: Duration = Duration::from_secs(6);
/// What is read at once.
const READ: usize = 64 * 1024;

/// How long a ping takes.
pub async fn round_trip(dialled: &mut NatsDialled) -> Result<Duration, String> {
    let began = Instant::now();
    let said = |error: std::io::Error| error.to_string();
    dialled.wire.write_all(b"PING\r\n").await.map_err(said)?;
    dialled.wire.flush().await.map_err(said)?;
    loop {
        match protocol::next(&mut dialled.read).map_err(|_| "it does not speak the protocol of NATS")? {
            Some(ServerWord::Pong) => return Ok(began.elapsed()),
            Some(_) => {}
            None => {
                let read = tokio::time::timeout(SILENCE_MAX, dialled.wire.read_buf(&mut dialled.read)).await;
                match read.map_err(|_| "no answer")?.map_err(said)? {
                    0 => return Err("the server ended it".into()),
                    _ => continue,
                }
            }
        }
    }
}

impl Nats {
    /// Keeps a connection, for ever.
    pub(super) async fn keep(self: Rc<Self>) {
        let mut backoff = Backoff::new();
        loop {
            match self.servers.dial().await {
                Ok(dialled) => {
                    backoff.connected();
                    let server = dialled.name.clone();
                    tracing::info!(server, "connected to the engine");
                    let why = self.clone().serve(dialled).await;
                    self.lose(&why);
                    EngineCounts::add(&self.around.counts.reconnects, 1);
                    tracing::warn!(server, why, "the connection to the engine is lost, connecting again");
                }
                Err(why) => add_to_sum("engine unreachable", 1, move |count| {
                    tracing::warn!(count, why, "the engine cannot be reached, trying again");
                }),
            }
            backoff.wait().await;
        }
    }

    /// Speaks and hears until the connection is of no use any more; why.
    async fn serve(self: Rc<Self>, dialled: NatsDialled) -> String {
        let NatsDialled { wire, read, info, .. } = dialled;
        self.servers.hear(&info);
        {
            let mut state = self.state.borrow_mut();
            (state.is_up, state.is_stalled, state.payload_max) = (true, false, info.max_payload);
            state.last_sid = CONTROL_SIDS[1];
            if self.around.control.is_some() {
                let subjects = [self.subjects.control(), self.subjects.node(&self.around.uid)];
                for (subject, sid) in subjects.iter().zip(CONTROL_SIDS) {
                    protocol::subscribe(&mut state.talk.out, subject, sid);
                }
            }
        }
        self.around.counts.set_up(0, true);
        self.around.counts.hear(0);
        let (reader, writer) = tokio::io::split(wire);
        self.changed.notify_one();
        tokio::select! {
            why = self.read(reader, read) => why,
            why = self.write(writer) => why,
            why = self.watch() => why,
        }
    }

    fn lose(&self, why: &str) {
        let (awaited, given_up) = {
            let mut state = self.state.borrow_mut();
            (state.is_up, state.is_stalled) = (false, false);
            state.sids.clear();
            state.channels.clear();
            let awaited = state.talk.lose();
            (awaited, state.interests.lost())
        };
        self.around.counts.set_up(0, false);
        self.failed(awaited.into_iter().filter(Awaited::is_call).collect(), FailureKind::Lost, why);
        let mut post = self.around.post.borrow_mut();
        for (channel, life) in given_up {
            post.tell(&channel.clone(), Heard::Listening { channel, life, result: Err(Away) });
        }
        post.flush();
    }

    async fn write(&self, mut writer: WriteHalf<NatsWire>) -> String {
        loop {
            self.changed.notified().await;
            loop {
                let bytes = {
                    let mut state = self.state.borrow_mut();
                    self.ask(&mut state);
                    state.talk.take(self.now_ms())
                };
                let Some(bytes) = bytes else { break };
                EngineCounts::add(&self.around.counts.batches, 1);
                if let Err(error) = writer.write_all(&bytes).await {
                    return error.to_string();
                }
                if let Err(error) = writer.flush().await {
                    return error.to_string();
                }
            }
        }
    }

    /// Puts wishes of channels to the server.
    fn ask(&self, state: &mut NatsState) {
        let NatsState { talk, interests, sids, channels, last_sid, .. } = state;
        while let Some(batch) = interests.next(BATCH) {
            for channel in batch.channels {
                match batch.subscribe {
                    true => {
                        *last_sid += 1;
                        sids.insert(channel.clone(), *last_sid);
                        channels.insert(*last_sid, channel.clone());
                        protocol::subscribe(&mut talk.out, &self.subjects.client(&channel), *last_sid);
                        talk.wait(Awaited::Heard(channel));
                    }
                    false => {
                        if let Some(sid) = sids.remove(&channel) {
                            channels.remove(&sid);
                            protocol::unsubscribe(&mut talk.out, sid);
                        }
                        talk.wait(Awaited::Left(channel));
                    }
                }
            }
        }
    }

    async fn read(&self, mut reader: ReadHalf<NatsWire>, mut read: BytesMut) -> String {
        loop {
            let end = self.hear(&mut read);
            self.around.post.borrow_mut().flush();
            if let Some(why) = end {
                return why;
            }
            read.reserve(READ);
            match reader.read_buf(&mut read).await {
                Ok(0) => return "the server ended it".into(),
                Ok(_) => self.around.counts.hear(0),
                Err(error) => return error.to_string(),
            }
        }
    }

    /// Takes what was read; why the connection is to end, if it is.
    fn hear(&self, read: &mut BytesMut) -> Option<String> {
        loop {
            match protocol::next(read) {
                Ok(None) => return None,
                Ok(Some(ServerWord::Message { sid, subject, payload })) => {
                    self.message(sid, &subject, payload, &mut self.around.post.borrow_mut());
                }
                Ok(Some(ServerWord::Pong)) => {
                    let done = {
                        let mut state = self.state.borrow_mut();
                        state.is_stalled = false;
                        state.talk.pong()
                    };
                    self.done(done);
                    // An answer may leave something to ask for.
                    self.changed.notify_one();
                }
                Ok(Some(ServerWord::Ping)) => {
                    protocol::pong(&mut self.state.borrow_mut().talk.out);
                    self.changed.notify_one();
                }
                Ok(Some(ServerWord::Info(info))) => {
                    self.servers.hear(&info);
                    self.state.borrow_mut().payload_max = info.max_payload;
                }
                Ok(Some(ServerWord::Fine)) => {}
                Ok(Some(ServerWord::Error(text))) => {
                    let refused = self.refused(&text);
                    let said = text.clone();
                    add_to_sum("engine errors", 1, move |count| {
                        tracing::warn!(count, error = said, "NATS did not do what was asked; the last error is told");
                    });
                    if !refused {
                        return Some(text);
                    }
                }
                Err(protocol::Gibberish) => return Some("the server does not speak the protocol of NATS".into()),
            }
        }
    }

    /// True if the error is about one subject, and the connection goes on.
    fn refused(&self, text: &str) -> bool {
        let lower = text.to_ascii_lowercase();
        let violation = lower.starts_with("permissions violation");
        if !violation {
            return lower.starts_with("invalid subject") || lower.starts_with("invalid publish subject");
        }
        let subject = text.split('"').nth(1).unwrap_or_default();
        let found = match lower.contains("publish") {
            true => self
                .state
                .borrow_mut()
                .talk
                .refused(|one| matches!(one, Awaited::Published { subject: own, .. } if own == subject)),
            false => self
                .state
                .borrow_mut()
                .talk
                .refused(|one| matches!(one, Awaited::Heard(channel) if self.subjects.client(channel) == subject)),
        };
        if let Some(found) = found {
            self.failed(vec![found], FailureKind::Permission, text);
        }
        true
    }

    /// Ends when the server has been silent for too long.
    async fn watch(&self) -> String {
        let patience = self.options.write_timeout;
        let mut tick =
            tokio::time::interval((patience / 4).clamp(Duration::from_millis(5), Duration::from_millis(500)));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut probed = Instant::now();
        loop {
            tick.tick().await;
            let now_ms = self.now_ms();
            let silence = Duration::from_millis(self.state.borrow().talk.silence_ms(now_ms));
            if silence > SILENCE_MAX.max(patience * 2) {
                return "it does not answer".into();
            }
            if silence > patience {
                let given_up = {
                    let mut state = self.state.borrow_mut();
                    state.is_stalled = true;
                    state.talk.give_up()
                };
                self.failed(given_up, FailureKind::Lost, "it does not answer");
                self.around.post.borrow_mut().flush();
            }
            if probed.elapsed() >= PROBE_EVERY {
                probed = Instant::now();
                self.state.borrow_mut().talk.probe(now_ms);
                self.changed.notify_one();
            }
        }
    }
}
