//! F10 · What a turn asks of its thread: endpoints, limits of the node, random ids, and ways to other threads.

use super::arrive::Gate;
use super::handshake::Routes;
use super::socket::ReactorSocket;
use super::{Answered, EngineCalls, Links, machine_ns};
use crate::admission::{Admission, Entry, Refused};
use crate::base::mailbox::Sender;
use crate::base::metrics::Counters;
use crate::broker::ConnKey;
use crate::broker::archive::ArchiveCall;
use crate::broker::engine::{Engine, EngineCall};
use crate::broker::log::LogCall;
use crate::config::Config;
use crate::http::{Head, answer};
use crate::session::backend::{Call, Hook};
use crate::shard::{ControlAnswer, Mail};
use crate::turn::conns::Marks;
use crate::turn::request::{Decision, Introduction};
use crate::turn::{Host, lines};
use bytes::Bytes;
use mio::Registry;
use mio::unix::SourceFd;
use std::io::{self, Write};
use std::marker::PhantomData;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::sync::Arc;

pub struct Outside<S> {
    sockets: PhantomData<S>,
    registry: Registry,
    links: Links,
    pub admission: Arc<Admission>,
    routes: Routes,
    /// Lower-case names of headers that the backend is told of.
    forwarded: Vec<String>,
    /// The header that names the user of a client without a token; empty = none does.
    user_header: String,
    ids: Vec<u8>,
    /// For the service thread, at the end of the turn: it is woken once for all of them.
    answers: Vec<Answered>,
    /// The look at memory that was heard of last.
    look: u64,
    /// For engines, likewise.
    calls: EngineCalls,
    /// For the archive, and whether they are the last.
    archived: (Vec<ArchiveCall>, bool),
}

impl<S> Outside<S> {
    pub fn new(registry: Registry, links: Links, admission: Arc<Admission>, config: &Config) -> io::Result<Outside<S>> {
        Ok(Outside {
            sockets: PhantomData,
            registry,
            links,
            admission,
            routes: Routes::new(config).map_err(io::Error::other)?,
            forwarded: config.forwarded_headers(),
            user_header: config.client.user_id_http_header.clone(),
            ids: Vec::new(),
            answers: Vec::new(),
            look: 0,
            calls: Vec::new(),
            archived: (Vec::new(), false),
        })
    }

    /// What was gathered in the turn leaves.
    pub fn send_gathered(&mut self) {
        if !self.answers.is_empty() {
            (self.links.answers)(std::mem::take(&mut self.answers));
        }
        if !self.calls.is_empty() {
            (self.links.engine)(std::mem::take(&mut self.calls));
        }
        if !self.archived.0.is_empty() {
            self.links.archive.call(self.links.me, std::mem::take(&mut self.archived.0));
        }
        if std::mem::take(&mut self.archived.1) {
            self.links.archive.end();
        }
    }

    pub fn say_drained(&self) {
        (self.links.drained)();
    }
}

impl<S: ReactorSocket> Host for Outside<S> {
    type Socket = S;

    fn decide<'a>(&mut self, head: &Head<'a>) -> Decision<'a> {
        self.routes.decide(head)
    }

    fn introduce(&mut self, head: &Head<'_>) -> Introduction {
        let headers = forwarded(head, &self.forwarded);
        Introduction { headers, trusted_user: trusted_user(head, &self.user_header).into() }
    }

    fn admit(&mut self, counters: &mut Counters) -> Result<(), &'static str> {
        let (count, why) = match self.admission.admit(machine_ns()) {
            Ok(()) => return Ok(()),
            Err(Refused::Connections) => (&mut counters.limit_connections, "the connection limit is reached"),
            Err(Refused::Rate) => (&mut counters.limit_rate, "too many new connections"),
            Err(Refused::Memory) => (&mut counters.limit_memory, "memory is over its limit"),
            // Asked when the socket came.
            Err(Refused::Address | Refused::Sockets) => return Err("too many connections"),
            Err(Refused::Draining) => return Err("this node is shutting down"),
        };
        *count += 1;
        Err(why)
    }

    fn id(&mut self) -> [u8; 16] {
        if self.ids.is_empty() {
            self.ids = vec![0; 4096];
            if getrandom::fill(&mut self.ids).is_err() {
                // Without randomness ids could be guessed, and anyone's subscriptions with them.
                std::process::abort();
            }
        }
        let at = self.ids.len() - 16;
        let mut id = [0; 16];
        id.copy_from_slice(&self.ids[at..]);
        self.ids.truncate(at);
        id
    }

    /// Moves the socket, with the bytes read, to the service thread.
    fn hand_off(&mut self, socket: S, bytes: &[u8], ip_key: u32, counters: &mut Counters) {
        // The service thread's connections count as this one did, until they end there.
        let entry = Entry::new(self.admission.clone(), ip_key);
        // The service thread has a poll of its own; this one must forget the socket first.
        let _ = self.registry.deregister(&mut SourceFd(&socket.stream().as_raw_fd()));
        match (self.links.hand_off)(socket.detach(), Bytes::copy_from_slice(bytes), entry) {
            Ok(()) => counters.handed_off += 1,
            Err(refused) => {
                counters.limit_service += 1;
                if let Some(mut socket) = S::of(refused) {
                    let _ = socket.write(&unread("too many HTTP connections"));
                    socket.end();
                }
            }
        }
    }

    fn gone(&mut self, marks: Marks, ip_key: u32) {
        if marks.has(Marks::ENTERED) {
            self.admission.leave(ip_key);
        }
        if marks.has(Marks::ADMITTED) {
            self.admission.dismiss();
        }
    }

    fn ask(&mut self, call: Call) -> Result<(), Call> {
        (self.links.ask)(call)
    }

    fn forget(&mut self, key: ConnKey) {
        (self.links.forget)(key);
    }

    fn hook(&mut self, hook: Hook) {
        (self.links.hook)(hook);
    }

    fn engine(&mut self, engine: Engine, call: EngineCall) {
        self.calls.push((engine, call));
    }

    fn log(&mut self, call: LogCall) {
        (self.links.log)(call);
    }

    fn log_is_full(&self) -> bool {
        (self.links.log_is_full)()
    }

    fn archive(&mut self, call: ArchiveCall) {
        self.archived.0.push(call);
    }

    fn end_archive(&mut self) {
        self.archived.1 = true;
    }

    fn archive_room(&self) -> usize {
        self.links.archive.room()
    }

    fn answer(&mut self, ticket: u64, answer: ControlAnswer) {
        self.answers.push((ticket, answer));
    }

    fn is_full(&self, reactor: u16) -> bool {
        self.links.reactors.get(usize::from(reactor)).is_some_and(Sender::is_full)
    }

    fn send(&mut self, reactor: u16, mail: &mut Vec<Mail>) {
        if let Some(sender) = self.links.reactors.get(usize::from(reactor)) {
            sender.send_all(mail);
        }
    }

    fn take_settings(&mut self, config: &Config) {
        // The configuration was checked.
        match Routes::new(config) {
            Ok(routes) => self.routes = routes,
            Err(error) => tracing::error!(%error, "the old endpoints and origins stay"),
        }
        self.forwarded = config.forwarded_headers();
        self.user_header = config.client.user_id_http_header.clone();
    }

    fn memory_excess(&mut self) -> usize {
        let (look, excess) = self.admission.memory_excess(machine_ns());
        match std::mem::replace(&mut self.look, look) == look {
            true => 0,
            false => excess.div_ceil(self.links.reactors.len().max(1)),
        }
    }

    fn micros(&mut self) -> u64 {
        machine_ns() / 1000
    }
}

/// Lines `name: value` of the headers that the backend is told of: all lines of a name, in their order. Each byte of a
/// value is a character, for not every value is UTF-8.
fn forwarded(head: &Head<'_>, names: &[String]) -> Box<str> {
    let mut text = String::new();
    for (name, value) in names.iter().flat_map(|name| head.lines(name).map(move |value| (name, value))) {
        text.extend([name, ": "]);
        text.extend(value.iter().copied().map(char::from));
        text.push('\n');
    }
    text.into()
}

/// Who the client is by the header that a proxy sets (client.user_id_http_header); "" = nobody says. With two of that
/// name, one may be the client's own.
fn trusted_user<'h>(head: &Head<'h>, name: &str) -> &'h str {
    head.only(name).unwrap_or("")
}

/// A 503, or a last line, to a peer who was not heard; one write, no waiting.
pub fn refuse_unread(mut stream: &TcpStream, why: &'static str, gate: Gate) {
    let _ = stream.write(&match gate {
        Gate::Http => unread(why),
        Gate::Lines => lines::refusal(why),
    });
    let _ = stream.shutdown(std::net::Shutdown::Write);
}

fn unread(why: &str) -> Bytes {
    answer(503, "Service Unavailable", "Retry-After: 1\r\n", why)
}
