//! F10 · The engine of NATS: channels of all nodes, at most once, and nothing that is kept.
//!
//! Owns what is asked of the servers and what is heard of them, over one connection: `protocol` what is said,
//! `subjects` what channels are called, `payload` what is in messages, `talk` who waits for an answer, `dial` and
//! `link` the connection, `credentials` who we are. Knows nothing of clients.
//!
//! The client is written here, because what owners are promised cannot be had of a library that connects anew by
//! itself: they are told when a channel is heard again, before anything is heard on the new connection; what is
//! published while there is none fails at once; and a publication is done when the server has taken it.

mod credentials;
mod dial;
mod link;
pub mod payload;
pub mod protocol;
mod subjects;
mod talk;

pub use protocol::ServerInfo;

use super::counts::{EngineCounts, FailureKind};
use super::interests::Interests;
use super::post::Post;
use super::unix_ms;
use crate::broker::engine::{Away, EngineAnswer, EngineCall, Heard};
use crate::config::NatsOptions;
use crate::protocol::Publication;
use crate::protocol::code::ClientError;
use crate::service::add_to_sum;
use bytes::Bytes;
use dial::NatsServers;
use foldhash::quality::RandomState;
use hashbrown::HashMap;
use payload::NatsHeard;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use subjects::{Subjects, is_subject};
use talk::{Awaited, Talk};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Notify, oneshot};

/// Channels asked for in one go.
const BATCH: usize = 512;
/// What may wait to be written; beyond: error 100.
const OUT_MAX: usize = 64 << 20;
/// A server that takes less than this is worth a word: it is what servers take unless they are told.
const PAYLOAD_FIT: usize = 1 << 20;
/// Subscriptions of control.
const CONTROL_SIDS: [u64; 2] = [1, 2];

/// What is started around the servers.
pub struct NatsSurroundings {
    pub post: Rc<RefCell<Post>>,
    pub counts: Arc<EngineCounts>,
    /// Of this node.
    pub uid: String,
    /// Where messages of control go, if nodes speak to each other here.
    pub control: Option<UnboundedSender<Bytes>>,
    /// May data in a channel be other than JSON?
    pub takes_bytes: Box<dyn Fn(&str) -> bool>,
}

pub struct Nats {
    servers: NatsServers,
    subjects: Subjects,
    options: NatsOptions,
    around: NatsSurroundings,
    state: RefCell<NatsState>,
    /// There is something to write.
    changed: Notify,
    began: Instant,
}

#[derive(Default)]
struct NatsState {
    is_up: bool,
    /// The server takes what is written, and does not answer.
    is_stalled: bool,
    talk: Talk,
    interests: Interests,
    sids: HashMap<Arc<str>, u64, RandomState>,
    channels: HashMap<u64, Arc<str>, RandomState>,
    last_sid: u64,
    under_way: usize,
    payload_max: usize,
}

/// What servers are called in metrics and the log.
pub fn server_name(options: &NatsOptions, at: &str) -> Result<String, String> {
    Ok(NatsServers::new(options, at)?.name())
}

/// Asks one server what it is, and how long a round trip takes; the error is a line for the operator.
pub async fn examine(options: &NatsOptions, at: &str) -> Result<(String, ServerInfo, Duration), String> {
    let servers = NatsServers::new(options, at)?;
    let mut last = String::new();
    for _ in 0..servers.configured() {
        match servers.dial().await {
            Ok(mut dialled) => {
                let mut best = Duration::MAX;
                for _ in 0..5 {
                    best = best.min(link::round_trip(&mut dialled).await.map_err(|why| format!("{at}: {why}"))?);
                }
                return Ok((dialled.name, dialled.info, best));
            }
            Err(why) => last = why,
        }
    }
    Err(format!("{at}: {last}; is it running, and are user and password (or credentials_file) right?"))
}

/// What works and should be known of a server.
pub fn advice(info: &ServerInfo) -> Vec<String> {
    let small = info.max_payload < PAYLOAD_FIT;
    let line = || {
        let kib = info.max_payload >> 10;
        format!(
            "max_payload is {kib} KiB: longer publications are refused (106), and so are long lists of channels; set it to 1MB or more"
        )
    };
    small.then(line).into_iter().collect()
}

impl Nats {
    /// Begins to connect. Must be called within a set of local tasks.
    pub fn start(options: &NatsOptions, at: &str, around: NatsSurroundings) -> Result<Rc<Nats>, String> {
        let nats = Rc::new(Nats {
            servers: NatsServers::new(options, at)?,
            subjects: Subjects::new(options),
            options: options.clone(),
            around,
            state: RefCell::default(),
            changed: Notify::new(),
            began: Instant::now(),
        });
        tokio::task::spawn_local(nats.clone().keep());
        Ok(nats)
    }

    /// Carries out what owners ask, in the order given.
    pub fn take(&self, calls: impl Iterator<Item = (u16, EngineCall)>) {
        let unix_ms = unix_ms();
        for (reactor, call) in calls {
            self.carry_out(reactor, call, unix_ms);
        }
        self.around.post.borrow_mut().flush();
        self.changed.notify_one();
    }

    fn carry_out(&self, reactor: u16, call: EngineCall, unix_ms: u64) {
        match call {
            EngineCall::Listen { channel, life } => self.listen(channel, life),
            EngineCall::Unlisten { channel } => self.state.borrow_mut().interests.unlisten(&channel),
            EngineCall::Publish { ticket, channel, publication, treatment } => {
                let delta = treatment.is_some_and(|treatment| treatment.delta);
                let subject = self.subjects.client(&channel);
                let message = match self.subjects.is_raw {
                    true => publication.data.clone(),
                    false => payload::write(&channel, &publication, delta, unix_ms).into(),
                };
                let awaited = Awaited::Published { reactor, ticket, subject: subject.clone() };
                self.publish(&subject, &message, Some(awaited));
            }
            EngineCall::Announce { .. } if self.subjects.is_raw => {}
            EngineCall::Announce { channel, info, joined } => {
                let message = payload::write_presence(&channel, &info, joined);
                self.publish(&self.subjects.client(&channel), &message, None);
            }
            EngineCall::Read { ticket, .. }
            | EngineCall::RemoveHistory { ticket, .. }
            | EngineCall::ReadCursor { ticket, .. } => {
                let answer = EngineAnswer::Refused(ClientError::NotAvailable);
                self.around.post.borrow_mut().answer(reactor, ticket, Ok(answer));
            }
            // It is kept elsewhere.
            EngineCall::AddPresence { .. }
            | EngineCall::WriteCursor { .. }
            | EngineCall::RemovePresence { ticket: None, .. } => {}
            EngineCall::RemovePresence { ticket: Some(ticket), .. }
            | EngineCall::Presence { ticket, .. }
            | EngineCall::PresenceStats { ticket, .. } => {
                self.around.post.borrow_mut().answer(reactor, ticket, Err(Away));
            }
        }
    }

    fn listen(&self, channel: Arc<str>, life: u32) {
        let mut state = self.state.borrow_mut();
        let NatsState { is_up, is_stalled, interests, .. } = &mut *state;
        let heard = if !is_subject(&self.subjects.client(&channel), self.options.allow_wildcards) {
            Heard::Unfit { channel: channel.clone(), life, error: ClientError::BadRequest }
        } else if !*is_up || *is_stalled {
            Heard::Listening { channel: channel.clone(), life, result: Err(Away) }
        } else if interests.listen(channel.clone(), life) {
            Heard::Listening { channel: channel.clone(), life, result: Ok(()) }
        } else {
            return;
        };
        self.around.post.borrow_mut().tell(&channel, heard);
    }

    /// To all who listen to a subject of control; an error if it was not accepted.
    pub async fn tell(&self, node: Option<&str>, message: &[u8]) -> Result<(), String> {
        let subject = node.map_or_else(|| self.subjects.control(), |uid| self.subjects.node(uid));
        let (told, wait) = oneshot::channel();
        self.publish(&subject, message, Some(Awaited::Told(told)));
        self.changed.notify_one();
        wait.await.unwrap_or_else(|_| Err("the connection is lost".into()))
    }

    /// Whoever waits is answered once.
    fn publish(&self, subject: &str, message: &[u8], awaited: Option<Awaited>) {
        let mut state = self.state.borrow_mut();
        let is_up = state.is_up && !state.is_stalled;
        let is_full = state.under_way >= self.options.inflight_limit || state.talk.out.len() > OUT_MAX;
        let (kind, answer, why) = match () {
            () if !is_subject(subject, false) => {
                let answer = Ok(EngineAnswer::Refused(ClientError::BadRequest));
                (FailureKind::Other, answer, "it is no subject")
            }
            () if !is_up => (FailureKind::Away, Err(Away), "there is no connection"),
            () if message.len() > state.payload_max => {
                let answer = Ok(EngineAnswer::Refused(ClientError::LimitExceeded));
                (FailureKind::Size, answer, "it is longer than the server takes (max_payload)")
            }
            () if is_full => (FailureKind::Busy, Err(Away), "too much is under way"),
            () => {
                protocol::publish(&mut state.talk.out, subject, message);
                if let Some(awaited) = awaited {
                    state.under_way += 1;
                    self.around.counts.under_way.fetch_add(1, Ordering::Relaxed);
                    state.talk.wait(awaited);
                }
                return;
            }
        };
        drop(state);
        self.around.counts.fail(kind, 1);
        match awaited {
            Some(Awaited::Published { reactor, ticket, .. }) => {
                self.around.post.borrow_mut().answer(reactor, ticket, answer);
            }
            // Who gave up waiting does not mind.
            Some(Awaited::Told(told)) => drop(told.send(Err(why.into()))),
            _ => {}
        }
    }

    /// The server has done what these waited for.
    fn done(&self, all: Vec<Awaited>) {
        let mut state = self.state.borrow_mut();
        let mut post = self.around.post.borrow_mut();
        let calls = all.iter().filter(|one| one.is_call()).count();
        self.count_down(&mut state, calls);
        EngineCounts::add(&self.around.counts.calls, calls);
        for one in all {
            match one {
                Awaited::Published { reactor, ticket, .. } => {
                    post.answer(reactor, ticket, Ok(EngineAnswer::Published(None)));
                }
                Awaited::Told(told) => drop(told.send(Ok(()))),
                Awaited::Heard(channel) => {
                    if let Some((channel, life)) = state.interests.answered(&channel, true) {
                        post.tell(&channel.clone(), Heard::Listening { channel, life, result: Ok(()) });
                    }
                }
                Awaited::Left(channel) => drop(state.interests.answered(&channel, false)),
            }
        }
        self.around.counts.channels.store(state.interests.len() as u64, Ordering::Relaxed);
    }

    /// The server has not done what these waited for, as far as anyone knows.
    fn failed(&self, all: Vec<Awaited>, kind: FailureKind, why: &str) {
        let mut state = self.state.borrow_mut();
        let mut post = self.around.post.borrow_mut();
        let calls = all.iter().filter(|one| one.is_call()).count();
        self.count_down(&mut state, calls);
        self.around.counts.fail(kind, all.len());
        for one in all {
            match one {
                Awaited::Published { reactor, ticket, .. } => post.answer(reactor, ticket, Err(Away)),
                Awaited::Told(told) => drop(told.send(Err(why.to_owned()))),
                Awaited::Heard(channel) => {
                    if let Some((channel, life)) = state.interests.refused(&channel) {
                        post.tell(&channel.clone(), Heard::Listening { channel, life, result: Err(Away) });
                    }
                }
                Awaited::Left(_) => {}
            }
        }
    }

    fn count_down(&self, state: &mut NatsState, calls: usize) {
        state.under_way = state.under_way.saturating_sub(calls);
        self.around.counts.under_way.fetch_sub(calls as u64, Ordering::Relaxed);
    }

    /// A message of a subject that we listen to.
    fn message(&self, sid: u64, subject: &[u8], message: Bytes, post: &mut Post) {
        if CONTROL_SIDS.contains(&sid) {
            if let Some(control) = &self.around.control {
                // Control is gone only when the process is.
                let _ = control.send(message);
            }
            return;
        }
        let state = self.state.borrow();
        let Some(channel) = state.channels.get(&sid).and_then(|name| state.interests.heard(name)) else { return };
        let concrete = std::str::from_utf8(subject).ok().and_then(|subject| self.subjects.channel_of(subject));
        let heard = concrete.and_then(|concrete| self.heard(channel, concrete, message));
        match heard {
            Some(heard) => {
                EngineCounts::add(&self.around.counts.heard, 1);
                post.offer(channel, heard);
            }
            None => {
                EngineCounts::add(&self.around.counts.malformed, 1);
                add_to_sum("engine malformed", 1, |count| {
                    tracing::warn!(count, "messages of NATS that no node writes: does another program publish there?");
                });
            }
        }
    }

    /// `concrete`: the channel that its subject names; `channel` may have wildcards.
    fn heard(&self, channel: &Arc<str>, concrete: &str, message: Bytes) -> Option<Heard> {
        let told = |publication| {
            let publication = Arc::new(publication);
            Heard::Publication { channel: channel.clone(), publication, position: None, previous: None }
        };
        if self.subjects.is_raw {
            // Other programs write what they like, and data goes into JSON as it is.
            let is_json = || serde_json::from_slice::<&serde_json::value::RawValue>(&message).is_ok();
            let is_fit = (self.around.takes_bytes)(channel) || is_json();
            let data = message.clone();
            return is_fit.then(|| told(Publication { data, channel: concrete.to_owned(), ..Publication::default() }));
        }
        match payload::read(concrete, message).ok()? {
            NatsHeard::Publication(publication) => {
                let channel = if self.options.allow_wildcards { concrete.to_owned() } else { String::new() };
                Some(told(Publication { channel, ..publication }))
            }
            NatsHeard::Presence { info, joined } => {
                Some(Heard::Presence { channel: channel.clone(), info: Arc::new(info), joined })
            }
        }
    }

    fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }
}
