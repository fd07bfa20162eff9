//! F10 · TLS handshakes, step by step: bytes that came in, bytes to be sent out.
//!
//! Owns what a handshake is between two steps, which is plain data: while its peer says nothing it has no thread. The
//! worker sends what a step has to say, and what comes of it goes back to the reactor that has the socket, by a mailbox
//! of its own. The reactor is woken only if there is something for it to do: mostly the peer's answer does that. At the
//! end there is a [`Tunnel`], with bytes that came behind the handshake in it, unopened.

use super::{JobKind, Pool};
use crate::base::mailbox::Sender;
use crate::broker::ConnKey;
use crate::certificates::{CHALLENGE_PROTOCOL, Certificates, Secrets, asks_clients, take_secrets};
use crate::config::TlsPort;
use crate::tls::{HEAD, Layer, Records, Suite, Tunnel};
use rustix::net::SendFlags;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{ConnectionTrafficSecrets, HandshakeKind, ProtocolVersion, ServerConfig};
use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Bytes that may have come and fit no step: a record, in which any hello has room.
const INPUT_MAX: usize = 17 * 1024;
/// The same where clients show certificates: the longest message of a handshake, in records.
const SHOWN_INPUT_MAX: usize = 80 * 1024;
/// Bytes behind a record's head, of any version.
const RECORD_MAX: usize = (1 << 14) + 2048;
/// What a handshake counts as while it waits, besides its input: rustls's state.
const STATE_SIZE: usize = 2048;

/// A handshake between two steps.
#[derive(Default)]
pub struct Handshake {
    /// None before the first.
    connection: Option<UnbufferedServerConnection>,
    /// Records that were not used yet, the last of them cut.
    input: Vec<u8>,
    /// Bytes of it that rustls has seen.
    shown: usize,
    secrets: Secrets,
}

/// What a step came to.
pub struct Stepped {
    pub owner: ConnKey,
    /// Still to be sent, whatever comes next: the socket did not take it.
    pub output: Vec<u8>,
    pub next: Next,
}

pub enum Next {
    /// The peer has to say more.
    More(Box<Handshake>),
    Done {
        tunnel: Box<Tunnel>,
        resumed: bool,
        version: u16,
    },
    /// It was an authority's question (TLS-ALPN-01), and the handshake is the answer.
    Answered,
    Failed(String),
}

/// What a reactor needs to have handshakes carried out.
#[derive(Clone)]
pub struct Handshakes {
    pub pool: Arc<Pool>,
    pub certificates: Arc<Certificates>,
    pub back: Sender<Stepped>,
}

impl Handshakes {
    /// Does a step with what came, and sends what it says. False: too many wait.
    pub fn offer(&self, owner: ConnKey, handshake: Box<Handshake>, came: Vec<u8>, socket: Arc<TcpStream>) -> bool {
        let (back, certificates) = (self.back.clone(), self.certificates.clone());
        let size = STATE_SIZE + came.len() + handshake.input.len();
        let offered =
            self.pool.offer((owner, JobKind::Handshake), size, (handshake, came), move |(handshake, came)| {
                let socket = socket;
                // A fault of ours must not leave a socket without an end. Where panics abort, it ends the process.
                let step = AssertUnwindSafe(|| match certificates.of(TlsPort::Public) {
                    Some(config) => handshake.step(&config, &came),
                    None => (Vec::new(), Next::Failed("this port has no TLS".into())),
                });
                let failed = |_| (Vec::new(), Next::Failed("the handshake ended in a panic".into()));
                let (mut output, next) = catch_unwind(step).unwrap_or_else(failed);
                send(&socket, &mut output);
                // Whoever has the connection next has it alone.
                drop(socket);
                let waits = output.is_empty() && next.waits_for_peer();
                let stepped = Stepped { owner, output, next };
                // A place in the queue was given for it, so there are no more of these than may wait.
                if waits { back.leave(stepped) } else { back.send(stepped) }
            });
        offered.is_ok()
    }

    pub fn forget(&self, owner: ConnKey) {
        self.pool.forget(owner);
    }
}

impl Next {
    /// Is it the peer's turn, and nothing here that it said already?
    fn waits_for_peer(&self) -> bool {
        match self {
            Next::More(_) => true,
            Next::Done { tunnel, .. } => tunnel.held() == 0,
            Next::Answered | Next::Failed(_) => false,
        }
    }
}

/// As much as the socket takes at once; the rest stays, and so does all of it if the peer is gone.
fn send(socket: &TcpStream, output: &mut Vec<u8>) {
    if output.is_empty() {
        return;
    }
    if let Ok(sent) = rustix::net::send(socket, output, SendFlags::NOSIGNAL) {
        output.drain(..sent);
    }
}

impl Handshake {
    /// Bytes that wait for more.
    pub fn held(&self) -> usize {
        self.input.capacity()
    }

    /// Goes as far as what came allows; `config` is what it begins with.
    pub fn step(mut self: Box<Self>, config: &Arc<ServerConfig>, came: &[u8]) -> (Vec<u8>, Next) {
        self.input.extend_from_slice(came);
        let mut output = Vec::new();
        let connection = match self.connection.take() {
            Some(connection) => Ok(connection),
            None => UnbufferedServerConnection::new(config.clone()),
        };
        let mut connection = match connection {
            Ok(connection) => connection,
            Err(error) => return (output, Next::Failed(error.to_string())),
        };
        let walked = self.walk(&mut connection, &mut output);
        let caught = take_secrets();
        if !caught.client.is_empty() {
            self.secrets = caught;
        }
        if let Err(error) = walked {
            self.last_word(&mut connection, &mut output);
            return (output, Next::Failed(error));
        }
        if connection.is_handshaking() {
            self.connection = Some(connection);
            let input_max = if asks_clients(config) { SHOWN_INPUT_MAX } else { INPUT_MAX };
            return match self.input.len() > input_max {
                true => (output, Next::Failed("the handshake is too long".into())),
                false => {
                    // It may wait for long.
                    self.input.shrink_to_fit();
                    (output, Next::More(self))
                }
            };
        }
        let next = self.finish(connection, &mut output);
        (output, next)
    }

    /// Record by record, so that nothing behind the handshake is opened.
    fn walk(&mut self, connection: &mut UnbufferedServerConnection, output: &mut Vec<u8>) -> Result<(), String> {
        loop {
            // It remembers what lies in the records that were shown and are still in use: they are shown again.
            let UnbufferedStatus { discard, state } = connection.process_tls_records(&mut self.input[..self.shown]);
            let waits = match state {
                Ok(ConnectionState::EncodeTlsData(mut message)) => {
                    encode(|room| message.encode(room), output);
                    Ok(false)
                }
                Ok(ConnectionState::TransmitTlsData(sent)) => {
                    sent.done();
                    Ok(false)
                }
                Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Err("the peer has left".to_owned()),
                Ok(_) => Ok(true),
                Err(error) => Err(error.to_string()),
            };
            self.input.drain(..discard);
            self.shown -= discard;
            if !waits? {
                continue;
            }
            let next = next_record(&self.input, self.shown);
            if !connection.is_handshaking() || next == self.shown {
                return Ok(());
            }
            self.shown = next;
        }
    }

    /// The alert of a rustls that gave up, and what it said before. It is asked for nothing else: it counts on not
    /// being asked again.
    fn last_word(&mut self, connection: &mut UnbufferedServerConnection, output: &mut Vec<u8>) {
        while connection.wants_write() {
            let state = connection.process_tls_records(&mut self.input[..self.shown]).state;
            let Ok(ConnectionState::EncodeTlsData(mut message)) = state else { return };
            encode(|room| message.encode(room), output);
        }
    }

    fn finish(self, connection: UnbufferedServerConnection, output: &mut Vec<u8>) -> Next {
        if connection.alpn_protocol() == Some(CHALLENGE_PROTOCOL) {
            return Next::Answered;
        }
        let version = connection.protocol_version().map_or(0, u16::from);
        let resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
        let is_13 = connection.protocol_version() == Some(ProtocolVersion::TLSv1_3);
        let layer = match is_13 && !self.secrets.client.is_empty() {
            false => Some(Layer::Rustls(Box::new(connection))),
            true => compact(connection, &self.secrets).map(|records| Layer::Compact(Box::new(records))),
        };
        match layer {
            Some(layer) => {
                // In TLS 1.3 a client that said its last has heard all but its ticket: the answer that it waits for
                // takes that along.
                let ticket = if is_13 { std::mem::take(output) } else { Vec::new() };
                let tunnel = Box::new(Tunnel::new(layer, self.input).saying_first(ticket));
                Next::Done { tunnel, resumed, version }
            }
            None => Next::Failed("the keys of the connection are not what was agreed".into()),
        }
    }
}

/// The end of the record that begins at `from`, if it is whole; else `from`. What is no record is shown at once, for
/// rustls to say so.
fn next_record(input: &[u8], from: usize) -> usize {
    let head = input.get(from..).and_then(|rest| rest.first_chunk::<HEAD>());
    let Some([kind, major, _, high, low]) = head else { return from };
    let len = usize::from(u16::from_be_bytes([*high, *low]));
    if !(20..=23).contains(kind) || *major != 3 || len > RECORD_MAX {
        return input.len();
    }
    let end = from + HEAD + len;
    if end <= input.len() { end } else { from }
}

/// What is left of a connection of TLS 1.3: secrets and counters. `None` if the secrets that were caught do not give
/// the keys that rustls has.
fn compact(connection: UnbufferedServerConnection, secrets: &Secrets) -> Option<Records> {
    let suite = Suite::of(connection.negotiated_cipher_suite()?.suite().into())?;
    let (extracted, _) = connection.dangerous_into_kernel_connection().ok()?;
    let (read_from, read_keys) = extracted.rx;
    let (write_from, write_keys) = extracted.tx;
    let records = Records::new(suite, (&secrets.client[..], read_from), (&secrets.server[..], write_from))?;
    let (suite, read, write) = records.flows();
    let is = |flow: &crate::tls::Flow, keys: &ConnectionTrafficSecrets| match keys {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => flow.has(suite, key.as_ref(), iv.as_ref()),
        _ => false,
    };
    (is(read, &read_keys) && is(write, &write_keys)).then_some(records)
}

fn encode(mut write: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>, out: &mut Vec<u8>) {
    let (at, mut size) = (out.len(), 1024);
    loop {
        out.resize(at + size, 0);
        match write(&mut out[at..]) {
            Ok(size) => return out.truncate(at + size),
            Err(EncodeError::InsufficientSize(needed)) if needed.required_size > size => size = needed.required_size,
            Err(_) => return out.truncate(at),
        }
    }
}
