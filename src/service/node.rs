//! F10 · The node as the service thread sees it: reactors behind mailboxes, questions and their answers.
//!
//! Owns the tickets of what was asked and not answered. Every question has a deadline, so that a reactor that is stuck
//! costs its caller an error and not a wait without end.

use super::seats::Seats;
use crate::base::mailbox::Sender;
use crate::broker::{self, Asker, CursorFacts, Request};
use crate::engine::Letter;
use crate::engine::board::PresenceBoard;
use crate::engine::control::{ControlCommand, Fleet, FleetDisconnect, SubscribeDefaults};
use crate::protocol::code::Disconnect;
use crate::shard::{
    self, ClientFacts, ClientSearch, Control, ControlAnswer, InboxCall, Mail, Stats, TraceFound, TraceRequest,
};
use crate::spans::Span;
use compact_str::CompactString;
use futures_util::future::join_all;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc, oneshot};

/// How long a reactor may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// The same for what goes in slices, over as many clients or channels as a reactor has.
const SLICES_TIMEOUT: Duration = Duration::from_secs(60);

/// Who this node is.
#[derive(Debug, Clone)]
pub struct NodeInfo {
    pub uid: String,
    pub name: String,
    pub started: Instant,
}

pub struct Node {
    pub info: NodeInfo,
    /// The nodes beside this one.
    pub fleet: Fleet,
    /// Who is present here, in channels of which no engine keeps it.
    pub board: Arc<PresenceBoard>,
    /// Who came and is not counted on other nodes yet.
    pub seats: Seats,
    reactors: Vec<Sender<Mail>>,
    seed: u64,
    next: AtomicU64,
    open: Mutex<HashMap<u64, oneshot::Sender<ControlAnswer>>>,
    /// Letters for each reactor, about to be sent.
    ready: Mutex<Vec<Vec<Mail>>>,
    is_ready: Notify,
}

/// Answers on their way from the reactors.
pub struct Replies(pub mpsc::UnboundedReceiver<Vec<(u64, ControlAnswer)>>);

/// Why the node could not do what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unavailable {
    /// The mailbox of the reactor in charge is full: try again.
    Busy,
    /// No answer in time, of a reactor or of another node.
    Silent,
    /// The answer of another node is longer than what carries it.
    TooLong,
}

impl Unavailable {
    fn name(self) -> &'static str {
        match self {
            Unavailable::Busy => "the mailbox is full",
            Unavailable::Silent => "no answer in time",
            Unavailable::TooLong => "the answer of another node is too long",
        }
    }
}

impl Replies {
    /// Brings each answer to who asked.
    pub async fn deliver(mut self, node: Arc<Node>) {
        while let Some(answers) = self.0.recv().await {
            let mut open = node.lock();
            for (ticket, answer) in answers {
                match answer {
                    ControlAnswer::OnlyOne { user, client } => node.be_only_one(user, client),
                    ControlAnswer::Seated { user, client } => node.seats.come(user, client),
                    answer => {
                        if let Some(asker) = open.remove(&ticket) {
                            // Whoever gave up waiting does not mind.
                            let _ = asker.send(answer);
                        }
                    }
                }
            }
        }
    }
}

impl Node {
    /// `letters`: the way to other nodes, if an engine has one. `board`: who is present here, where no engine keeps it.
    pub fn new(
        info: NodeInfo,
        (letters, board): (Option<mpsc::UnboundedSender<Letter>>, Arc<PresenceBoard>),
        reactors: Vec<Sender<Mail>>,
        seed: u64,
    ) -> Node {
        let fleet = Fleet::new(info.uid.clone(), letters);
        let ready = Mutex::new(reactors.iter().map(|_| Vec::new()).collect());
        let (next, open, is_ready) = (AtomicU64::new(1), Mutex::default(), Notify::new());
        let seats = Seats::default();
        Node { info, fleet, board, seats, reactors, seed, next, open, ready, is_ready }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<ControlAnswer>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a letter, made with its ticket, into a reactor's mailbox and waits for the answer.
    async fn ask(&self, reactor: usize, letter: impl FnOnce(u64) -> Mail) -> Result<ControlAnswer, Unavailable> {
        let ticket = self.next.fetch_add(1, Ordering::Relaxed);
        let (asker, answer) = oneshot::channel();
        self.lock().insert(ticket, asker);
        let letter = letter(ticket);
        let patience = patience(&letter);
        let result = match self.offer(reactor, letter) {
            Err(why) => Err(why),
            Ok(()) => match tokio::time::timeout(patience, answer).await {
                Ok(Ok(answer)) => return Ok(answer),
                _ => Err(Unavailable::Silent),
            },
        };
        self.lock().remove(&ticket);
        result
    }

    /// Puts a letter with those that [`Node::send_letters`] sends once the requests that are ready have had their turn:
    /// a reactor is woken once for all of them, and not for each.
    fn offer(&self, reactor: usize, letter: Mail) -> Result<(), Unavailable> {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        let (Some(sender), Some(letters)) = (self.reactors.get(reactor), ready.get_mut(reactor)) else {
            return Err(Unavailable::Busy);
        };
        // What is ready has been promised a place, and is in no mailbox yet.
        if letters.len() >= sender.room() {
            return Err(Unavailable::Busy);
        }
        letters.push(letter);
        self.is_ready.notify_one();
        Ok(())
    }

    /// Sends what was put ready, for ever.
    pub async fn send_letters(self: Arc<Self>) {
        loop {
            self.is_ready.notified().await;
            let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
            for (reactor, letters) in self.reactors.iter().zip(ready.iter_mut()) {
                reactor.send_all(letters);
            }
        }
    }

    /// The same question to every reactor.
    async fn ask_all(&self, control: Control) -> Result<Vec<ControlAnswer>, Unavailable> {
        let span = Span::of_part("reactors");
        let asked = (0..self.reactors.len()).map(|reactor| {
            let control = Box::new(control.clone());
            self.ask(reactor, move |ticket| Mail::Control { ticket, control })
        });
        let answers: Result<Vec<_>, _> = join_all(asked).await.into_iter().collect();
        answers.inspect_err(|why| span.fail(why.name()))
    }

    /// A question to the owner of `channel`, made for who asks.
    pub async fn ask_owner(
        &self,
        channel: &str,
        request: impl FnOnce(Arc<str>, Asker) -> Request,
    ) -> Result<broker::Answer, Unavailable> {
        let owner = broker::owner(channel, self.reactors.len() as u16, self.seed);
        let reactor = usize::from(owner);
        let span = Span::of_part("owner");
        span.note("gannet.channel", channel);
        span.count("gannet.reactor", owner.into());
        let channel = channel.into();
        let ask = move |ticket| Mail::Ask(request(channel, Asker::Backend(ticket)));
        match self.ask(reactor, ask).await.inspect_err(|why| span.fail(why.name()))? {
            ControlAnswer::Owner(answer) => {
                if let broker::Answer::Refused(error) = &answer {
                    span.fail(error.message());
                }
                Ok(answer)
            }
            _ => Err(Unavailable::Silent),
        }
    }

    /// What all nodes are to do with some of their clients. The others are told, and not waited for; it is an error if
    /// they cannot be told, though this node does it all the same.
    pub async fn control_everywhere(&self, control: Control, defaults: SubscribeDefaults) -> Result<(), Unavailable> {
        let told = match ControlCommand::of(&control, defaults) {
            Some(command) => self.fleet.say(None, command).await.map_err(|_| Unavailable::Silent),
            None => Ok(()),
        };
        self.control(control).await?;
        told
    }

    /// Connections of each of these users on this node.
    pub async fn seats_here(&self, users: Vec<String>) -> Result<Vec<u32>, Unavailable> {
        let mut sums = vec![0; users.len()];
        for answer in self.ask_all(Control::Seats(users.into())).await? {
            let ControlAnswer::Seats(counts) = answer else { continue };
            sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
        Ok(sums)
    }

    /// A client is to be its user's only one: those on other nodes go.
    fn be_only_one(&self, user: CompactString, client: String) {
        let Disconnect { code, reason } = Disconnect::CONNECTION_LIMIT;
        let (user, code, reason) = (user.into(), u32::from(code), reason.to_string());
        let others = FleetDisconnect { user, whitelist: vec![client], code, reason, ..FleetDisconnect::default() };
        self.fleet.say_soon(None, ControlCommand { disconnect: Some(others), ..ControlCommand::default() });
    }

    /// What all reactors are to do with some of their clients; how many clients or subscriptions were met.
    pub async fn control(&self, control: Control) -> Result<usize, Unavailable> {
        self.ask_all(control).await.map(met)
    }

    /// Commands of a client that came by another request; false if there is no such session.
    pub fn commands(&self, session: &str, message: bytes::Bytes) -> Result<bool, Unavailable> {
        let Some(conn) = shard::place_of(session) else { return Ok(false) };
        let Some(reactor) = self.reactors.get(usize::from(conn.reactor)) else { return Ok(false) };
        let mail = Mail::Commands { conn, session: session.into(), message };
        reactor.offer(mail).map(|()| true).map_err(|_| Unavailable::Busy)
    }

    /// Channels with subscribers on this node, and how many each has.
    pub async fn channels_here(
        &self,
        pattern: Option<globset::GlobMatcher>,
    ) -> Result<BTreeMap<Arc<str>, u64>, Unavailable> {
        let answers = self.ask_all(Control::Channels(pattern)).await?;
        let lists = answers.into_iter().filter_map(|answer| match answer {
            ControlAnswer::Channels(list) => Some(list),
            _ => None,
        });
        Ok(lists.flatten().collect())
    }

    /// Clients on this node, those first for which most bytes wait.
    pub async fn clients(&self, search: ClientSearch) -> Result<Vec<ClientFacts>, Unavailable> {
        let max = search.max;
        let answers = self.ask_all(Control::Clients(search)).await?;
        let lists = answers.into_iter().filter_map(|answer| match answer {
            ControlAnswer::Clients(list) => Some(list),
            _ => None,
        });
        let mut all: Vec<ClientFacts> = lists.flatten().collect();
        all.sort_by_key(|facts| std::cmp::Reverse(facts.conn.waiting));
        all.truncate(max);
        Ok(all)
    }

    /// What came of what an operator watches, in order; `None` = there are as many traces as may be.
    pub async fn trace(&self, request: TraceRequest) -> Result<Option<TraceFound>, Unavailable> {
        let mut all = TraceFound::default();
        for answer in self.ask_all(Control::Trace(request)).await? {
            let ControlAnswer::Trace(Some(found)) = answer else { return Ok(None) };
            all.messages.extend(found.messages);
            all.skipped += found.skipped;
        }
        all.messages.sort_by_key(|message| message.unix_ms);
        Ok(Some(all))
    }

    /// The cursors of a user, in the order of their channels.
    pub async fn cursors(&self, user: String) -> Result<Vec<CursorFacts>, Unavailable> {
        let answers = self.ask_all(Control::Inbox(InboxCall::Info { user })).await?;
        let lists = answers.into_iter().filter_map(|answer| match answer {
            ControlAnswer::Cursors(list) => Some(list),
            _ => None,
        });
        let mut all: Vec<CursorFacts> = lists.flatten().collect();
        all.sort_by(|a, b| (&a.channel, &a.device).cmp(&(&b.channel, &b.device)));
        Ok(all)
    }

    /// Numbers of each reactor.
    pub async fn stats(&self) -> Result<Vec<Stats>, Unavailable> {
        let answers = self.ask_all(Control::Stats).await?;
        let stats = answers.into_iter().filter_map(|answer| match answer {
            ControlAnswer::Stats(stats) => Some(*stats),
            _ => None,
        });
        Ok(stats.collect())
    }

    /// Does every reactor answer? The service thread is asked through as well, for it brings the answers.
    pub async fn is_turning(&self) -> bool {
        self.stats().await.is_ok_and(|stats| stats.len() == self.reactors.len())
    }

    /// Distinct users. Two in four billion may share a hash, and count as one.
    pub async fn users(&self) -> Result<usize, Unavailable> {
        let answers = self.ask_all(Control::Users).await?;
        let mut hashes: Vec<u32> = answers
            .into_iter()
            .flat_map(|answer| match answer {
                ControlAnswer::Users(hashes) => hashes,
                _ => Vec::new(),
            })
            .collect();
        hashes.sort_unstable();
        hashes.dedup();
        Ok(hashes.len())
    }
}

fn patience(letter: &Mail) -> Duration {
    match letter {
        Mail::Control { control, .. }
            if matches!(**control, Control::Stats | Control::Users | Control::Seats(_) | Control::Trace(_)) =>
        {
            ANSWER_TIMEOUT
        }
        Mail::Control { .. } | Mail::Ask(Request::Presence { .. }) => SLICES_TIMEOUT,
        _ => ANSWER_TIMEOUT,
    }
}

fn met(answers: Vec<ControlAnswer>) -> usize {
    answers.iter().map(|answer| if let ControlAnswer::Met(count) = answer { *count } else { 0 }).sum()
}
