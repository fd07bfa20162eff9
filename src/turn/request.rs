//! F8 · What a request head is for, and the way from there to frames or to a stream.
//!
//! Owns the reading of heads and bodies, the answers to them, and the beginning of a session. What a head is for is
//! decided by the [`Host`], which knows the endpoints, the origins and the limits of the node.

use super::conns::{Marks, Phase};
use super::{Budget, Host, Turns};
use crate::base::wheel::{NEVER, Tick};
use crate::http::{self, Body, BodyError, Head, HeadError};
use crate::session::{self, HttpAnswer};
use crate::wire::Wire;
use crate::ws::{self, Upgrade};
use bytes::Bytes;
use compact_str::CompactString;

/// How long an HTTP answer of the reactor's may take to leave.
pub(super) const ANSWER_TICKS: Tick = 20;
const CONTINUE: Bytes = Bytes::from_static(b"HTTP/1.1 100 Continue\r\n\r\n");

/// What to do with a connection whose head is whole.
#[derive(Debug)]
pub enum Decision<'a> {
    Echo(Upgrade<'a>),
    Client {
        upgrade: Upgrade<'a>,
        subprotocol: Option<&'static str>,
        wire: Wire,
        frame_pings: bool,
        /// How it wants to connect, if the query says so.
        said: Option<Vec<u8>>,
    },
    /// A response that does not end.
    Stream(StreamRequest),
    /// Answer and close.
    Answer(u16, Bytes),
    OriginRefused(Bytes),
    /// Not for a reactor.
    HandOff,
}

/// A request for a response that does not end.
#[derive(Debug)]
pub struct StreamRequest {
    pub wire: Wire,
    /// Of the response.
    pub head: Bytes,
    pub said: Spoken,
    pub body_max: usize,
    /// It waits to be told that its body is wanted.
    pub expects: bool,
    /// The head waits until the client is connected, for a refusal has one of its own.
    pub waits: bool,
    /// Lines that belong to the head of whatever is answered, each with its end.
    pub lines: Box<str>,
    /// What the backend is told of it.
    pub introduction: Introduction,
}

/// How a request says its first commands, or how its client wants to connect.
#[derive(Debug)]
pub enum Spoken {
    Query(Vec<u8>),
    Body(Body),
}

/// What is known of a client from its request.
#[derive(Debug, Default, Clone)]
pub struct Introduction {
    /// Lines `name: value` of the headers that the backend is told of.
    pub headers: Box<str>,
    /// The user that the proxy in front names; "" = nobody says.
    pub trusted_user: CompactString,
}

/// The answer to a body that cannot be read, or that does not belong there.
pub fn refuse_body<'a>(error: BodyError) -> Decision<'a> {
    let (status, phrase, text) = match error {
        BodyError::Malformed => {
            (400, "Bad Request", "there is a body where none belongs, or its length is not to be made out")
        }
        BodyError::NoLength => (411, "Length Required", "a body is needed, and its length"),
        BodyError::TooLarge => (413, "Content Too Large", "the body is larger than max_request_body_size"),
    };
    Decision::Answer(status, http::answer(status, phrase, "", text))
}

/// The answer to bytes that are no head.
fn refuse_head(error: HeadError) -> (u16, Bytes) {
    match error {
        HeadError::Malformed => (400, http::answer(400, "Bad Request", "", "this is not an HTTP/1.1 request")),
        HeadError::TooLarge => {
            let text = "the request head is larger than http_server.header_size_limit or has too many lines";
            (431, http::answer(431, "Request Header Fields Too Large", "", text))
        }
    }
}

impl<H: Host> Turns<H> {
    /// A request head, or the beginning of one; bytes used.
    pub(super) fn take_head(&mut self, conn: u32, bytes: &mut [u8], left: &mut Budget) -> usize {
        let head = match Head::parse(bytes) {
            Ok(None) if bytes.len() < self.bounds.head_bytes => return 0,
            Ok(Some(head)) if head.size <= self.bounds.head_bytes => head,
            Ok(_) => return self.refuse_head(conn, HeadError::TooLarge, bytes.len()),
            Err(error) => return self.refuse_head(conn, error, bytes.len()),
        };
        let size = head.size;
        match self.host.decide(&head) {
            Decision::HandOff => {
                self.hand_off(conn, bytes);
                return bytes.len();
            }
            Decision::Answer(status, text) => self.answer(conn, status, text),
            Decision::OriginRefused(text) => {
                self.shard.counters.origins_refused += 1;
                self.answer(conn, 403, text);
            }
            Decision::Echo(upgrade) => {
                if self.admit(conn) {
                    self.switch(conn, &upgrade, None, Phase::Echo);
                }
            }
            Decision::Stream(mut request) => {
                request.introduction = self.host.introduce(&head);
                return size + self.take_request(conn, request, &bytes[size..], left);
            }
            Decision::Client { wire, said: Some(said), .. } if !session::is_connect_request(wire, &said) => {
                self.refuse_connect(conn);
            }
            Decision::Client { upgrade, subprotocol, wire, frame_pings, said } => {
                if self.admit(conn) {
                    let wire = if upgrade.deflate.is_some_and(ws::Agreed::shares) { wire.deflated() } else { wire };
                    let introduction = self.host.introduce(&head);
                    self.switch(conn, &upgrade, subprotocol, Phase::Client);
                    self.open_session(conn, wire, frame_pings, introduction);
                    if let Some(said) = said {
                        self.take_message(conn, ws::Kind::Text, &said, left);
                    }
                    self.conns.arm(conn);
                }
            }
        }
        match self.conns.get(conn).map(|it| it.phase) {
            // Commands may follow the head at once.
            Some(Phase::Echo | Phase::Client) => size + self.take_frames(conn, &mut bytes[size..], left),
            _ => bytes.len(),
        }
    }

    pub(super) fn open_session(&mut self, conn: u32, wire: Wire, frame_pings: bool, introduction: Introduction) {
        let mut session = self.shard.open(self.now, self.host.id(), wire, frame_pings);
        session.set_headers(introduction.headers);
        session.set_trusted_user(&introduction.trusted_user);
        if let Some(it) = self.conns.get(conn) {
            it.session = Some(session);
        }
    }

    fn refuse_head(&mut self, conn: u32, error: HeadError, used: usize) -> usize {
        let (status, text) = refuse_head(error);
        self.answer(conn, status, text);
        used
    }

    pub(super) fn answer(&mut self, conn: u32, status: u16, text: Bytes) {
        *self.shard.counters.answers.entry(status).or_default() += 1;
        self.conns.close_with(conn, text, self.now.tick + ANSWER_TICKS, false);
    }

    /// To a client that only listens, and cannot be understood. With another status it would come again and again.
    fn refuse_connect(&mut self, conn: u32) {
        let text = "this is no connect request: expected a JSON object such as {\"token\":\"...\"}";
        self.answer(conn, 400, http::answer(400, "Bad Request", "", text));
    }

    /// Asks the node's limits; a refusal is answered here.
    fn admit(&mut self, conn: u32) -> bool {
        match self.host.admit(&mut self.shard.counters) {
            Ok(()) => {
                self.shard.counters.upgrades += 1;
                if let Some(it) = self.conns.get(conn) {
                    it.marks.set(Marks::ADMITTED, true);
                }
                true
            }
            Err(why) => {
                self.answer(conn, 503, http::answer(503, "Service Unavailable", "Retry-After: 1\r\n", why));
                false
            }
        }
    }

    /// Answers 101 and begins to speak frames.
    fn switch(&mut self, conn: u32, upgrade: &Upgrade<'_>, subprotocol: Option<&str>, phase: Phase) {
        let mut bytes = std::mem::take(&mut self.echo_buffer);
        bytes.clear();
        ws::respond(upgrade, subprotocol, &mut bytes);
        if let Some(it) = self.conns.get(conn) {
            it.phase = phase;
            it.marks.set(Marks::AWAITS_CLOSE, true);
            it.io_due = NEVER;
            if let Some(agreed) = upgrade.deflate {
                it.decoder = ws::Decoder::deflating();
                it.window_bits = agreed.window_bits();
            }
        }
        self.write_now(conn, &bytes);
        self.echo_buffer = bytes;
    }

    /// Moves the socket, with the bytes read, out of the reactor.
    fn hand_off(&mut self, conn: u32, bytes: &[u8]) {
        let Some(it) = self.conns.get(conn) else { return };
        let Some(socket) = it.socket.take() else { return };
        // It counts as it did here, until it ends there.
        it.marks.set(Marks::ENTERED, false);
        let ip_key = it.ip_key;
        self.host.hand_off(socket, bytes, ip_key, &mut self.shard.counters);
        self.conns.kill(conn);
    }

    /// A request for a stream; `behind` is what came after its head. Bytes of it used.
    fn take_request(&mut self, conn: u32, request: StreamRequest, behind: &[u8], left: &mut Budget) -> usize {
        if !self.admit(conn) {
            return behind.len();
        }
        if let Spoken::Query(said) = &request.said {
            self.begin_stream(conn, &request, said, left);
            return behind.len();
        }
        if request.expects && behind.is_empty() {
            self.conns.send(conn, CONTINUE);
        }
        if let Some(it) = self.conns.get(conn) {
            it.phase = Phase::Body;
        }
        if let Some(partial) = self.conns.partial(conn) {
            partial.request = Some(Box::new(request));
        }
        self.take_body(conn, behind, left)
    }

    /// More of a request's body; bytes used.
    pub(super) fn take_body(&mut self, conn: u32, bytes: &[u8], left: &mut Budget) -> usize {
        let Some(partial) = self.conns.partial(conn) else { return bytes.len() };
        let Some(mut request) = partial.request.take() else { return bytes.len() };
        let Spoken::Body(body) = &mut request.said else { return bytes.len() };
        match body.take(bytes, &mut partial.message, request.body_max) {
            Ok((used, false)) => {
                partial.request = Some(request);
                return used;
            }
            Ok((_, true)) => {
                let said = std::mem::take(&mut partial.message);
                self.conns.give_partial_back(conn);
                self.begin_stream(conn, &request, &said, left);
            }
            Err(error) => {
                if let Decision::Answer(status, text) = refuse_body(error) {
                    self.answer(conn, status, text);
                }
            }
        }
        bytes.len()
    }

    /// The response begins, and with it the session.
    fn begin_stream(&mut self, conn: u32, request: &StreamRequest, said: &[u8], left: &mut Budget) {
        if request.wire.is_uni() && !session::is_connect_request(request.wire, said) {
            return self.refuse_connect(conn);
        }
        if let Some(it) = self.conns.get(conn) {
            it.phase = Phase::Stream;
            it.io_due = NEVER;
        }
        self.open_session(conn, request.wire, false, request.introduction.clone());
        if request.waits {
            self.conns.send_hole(conn, HEAD, 0);
            self.unopened.insert(conn, Unopened { head: request.head.clone(), lines: request.lines.clone() });
        } else if !request.head.is_empty() {
            // It leaves with the reply, in one write.
            self.conns.send(conn, request.head.clone());
        }
        self.shard.counters.messages_received += 1;
        self.take_message(conn, ws::Kind::Text, said, left);
        self.conns.arm(conn);
    }

    /// A client whose request another thread read, and who is answered by it: the other end of its socket. `said`: how
    /// it wants to connect.
    pub fn begin_call(&mut self, conn: u32, request: &StreamRequest, said: &[u8]) {
        match self.host.admit(&mut self.shard.counters) {
            Ok(()) => {
                self.shard.counters.upgrades += 1;
                if let Some(it) = self.conns.get(conn) {
                    it.marks.set(Marks::ADMITTED, true);
                }
                let mut left = self.bounds.budget;
                self.begin_stream(conn, request, said, &mut left);
            }
            // An end without a word is a refusal to the one who answers it.
            Err(_) => self.conns.close_with(conn, Bytes::new(), self.now.tick + ANSWER_TICKS, false),
        }
    }

    /// The client is about to be sent something: the head of its response goes before it.
    pub(super) fn open_response(&mut self, conn: u32) {
        if !self.unopened.is_empty()
            && let Some(unopened) = self.unopened.remove(&conn)
        {
            self.conns.fill(conn, HEAD, unopened.head);
        }
    }

    /// Answers in place of a response that has not begun; false if it has.
    pub(super) fn answer_unopened(&mut self, conn: u32, answer: Option<&HttpAnswer>) -> bool {
        let Some(answer) = answer.filter(|_| self.unopened.contains_key(&conn)) else { return false };
        let Some(unopened) = self.unopened.remove(&conn) else { return false };
        let HttpAnswer { status, text } = answer;
        self.answer(conn, *status, http::refusal(*status, &unopened.lines, text));
        true
    }
}

/// The ticket of a response's head; commands have none below it.
const HEAD: u32 = u32::MAX;

/// What of a response waits until its client is connected.
pub(super) struct Unopened {
    head: Bytes,
    lines: Box<str>,
}
