//! TLS 1.3 for the floor: rustls alone makes the handshake, and then ring alone seals and opens, with keys that stay
//! expanded. Nothing is checked that a peer of ours does not do: no key updates, alerts or limits.

use std::io;
use std::sync::Arc;

use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{ConnectionTrafficSecrets, ServerConfig};

const HEAD: usize = 5;
const TAG: usize = 16;
const DATA: u8 = 23;
/// What one record says at most.
const PLAIN_MAX: usize = 1 << 14;

struct Flow {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    sequence: u64,
}

impl Flow {
    fn new((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> io::Result<Self> {
        let (algorithm, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(io::Error::other("an unknown suite")),
        };
        let long = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| io::Error::other("no key"))?;
        let iv = iv.as_ref().try_into().map_err(io::Error::other)?;
        Ok(Self { key: LessSafeKey::new(long), iv, sequence })
    }

    fn nonce(&mut self) -> Nonce {
        let mut nonce = self.iv;
        nonce.iter_mut().rev().zip(self.sequence.to_le_bytes()).for_each(|(byte, number)| *byte ^= number);
        self.sequence += 1;
        Nonce::assume_unique_for_key(nonce)
    }
}

enum State {
    Handshake(Box<UnbufferedServerConnection>),
    Done { read: Box<Flow>, write: Box<Flow> },
    Broken,
}

/// One connection.
pub struct Records {
    state: State,
    /// What came in part.
    input: Vec<u8>,
}

impl Records {
    pub fn new(config: &Arc<ServerConfig>) -> io::Result<Self> {
        let connection = UnbufferedServerConnection::new(config.clone()).map_err(io::Error::other)?;
        Ok(Self { state: State::Handshake(Box::new(connection)), input: Vec::new() })
    }

    /// Takes the first `size` bytes of `buffer` and puts what they say in front: how many bytes. What is to be sent in
    /// answer is appended to `out`.
    pub fn open(&mut self, buffer: &mut [u8], size: usize, out: &mut Vec<u8>) -> io::Result<usize> {
        let mut end = size;
        if let State::Handshake(_) = self.state {
            self.input.extend_from_slice(&buffer[..size]);
            self.shake(out)?;
            end = 0;
        }
        let State::Done { read, .. } = &mut self.state else { return Ok(0) };
        if !self.input.is_empty() {
            let kept = self.input.len();
            buffer.copy_within(..end, kept);
            buffer[..kept].copy_from_slice(&self.input);
            (self.input, end) = (Vec::new(), end + kept);
        }
        let (mut said, mut used) = (0, 0);
        while let Some([_, _, _, high, low]) = buffer[used..end].first_chunk::<HEAD>().copied() {
            let whole = HEAD + usize::from(u16::from_be_bytes([high, low]));
            if used + whole > end {
                break;
            }
            let head: [u8; HEAD] = buffer[used..used + HEAD].try_into().map_err(io::Error::other)?;
            let record = &mut buffer[said..used + whole];
            let nonce = read.nonce();
            let opened = read.key.open_within(nonce, Aad::from(head), record, used - said + HEAD..);
            let inner = opened.map_err(|_| io::Error::other("a record that is not sealed by its key"))?;
            match inner.split_last() {
                Some((&DATA, data)) => said += data.len(),
                _ => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
            used += whole;
        }
        self.input.extend_from_slice(&buffer[used..end]);
        Ok(said)
    }

    fn shake(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        let State::Handshake(connection) = &mut self.state else { return Ok(()) };
        while connection.is_handshaking() {
            // Only as far as the handshake goes: what is behind it is opened with keys of its own.
            let shown = next_record(&self.input);
            let UnbufferedStatus { discard, state } = connection.process_tls_records(&mut self.input[..shown]);
            let waits = match state.map_err(io::Error::other)? {
                ConnectionState::EncodeTlsData(mut message) => {
                    encode(|room| message.encode(room), out);
                    false
                }
                ConnectionState::TransmitTlsData(sent) => {
                    sent.done();
                    false
                }
                _ => discard == 0,
            };
            self.input.drain(..discard);
            if waits && connection.is_handshaking() {
                return Ok(());
            }
        }
        // Its tickets.
        while let UnbufferedStatus { state: Ok(ConnectionState::EncodeTlsData(mut message)), .. } =
            connection.process_tls_records(&mut [])
        {
            encode(|room| message.encode(room), out);
        }
        if let State::Handshake(connection) = std::mem::replace(&mut self.state, State::Broken) {
            let (secrets, _) = connection.dangerous_into_kernel_connection().map_err(io::Error::other)?;
            self.state = State::Done { read: Flow::new(secrets.rx)?.into(), write: Flow::new(secrets.tx)?.into() };
        }
        Ok(())
    }

    /// Appends records that say `said`.
    pub fn seal(&mut self, said: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        let State::Done { write, .. } = &mut self.state else { return Err(io::ErrorKind::BrokenPipe.into()) };
        for said in said.chunks(PLAIN_MAX) {
            let [high, low] = ((said.len() + 1 + TAG) as u16).to_be_bytes();
            let head = [DATA, 3, 3, high, low];
            out.extend_from_slice(&head);
            let at = out.len();
            out.extend_from_slice(said);
            out.push(DATA);
            let nonce = write.nonce();
            let tag = write.key.seal_in_place_separate_tag(nonce, Aad::from(head), &mut out[at..]);
            out.extend_from_slice(tag.map_err(|_| io::Error::other("not sealed"))?.as_ref());
        }
        Ok(())
    }
}

fn next_record(input: &[u8]) -> usize {
    let Some([_, _, _, high, low]) = input.first_chunk::<HEAD>() else { return 0 };
    let end = HEAD + usize::from(u16::from_be_bytes([*high, *low]));
    if end <= input.len() { end } else { 0 }
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
