//! A peer of TLS 1.3 that says anything, and what must be heard of it: records whole, cut anywhere, updated, spoilt.
//!
//! Drives `gannet::tls::Tunnel`, the record layer of the reactors, without sockets. What must hold: what was sealed and
//! stands in front of the first wrong byte is heard, once and in order, however it is cut, and nothing else is; what
//! the server says is heard too; a failure is one alert.

use arbitrary::Arbitrary;
use gannet::tls::{Alert, BODY_MAX, Content, Flow, HEAD, HotKeys, Kit, Layer, Records, Suite, Tunnel, body_len};
use ring::aead::Aad;
use std::io::{self, ErrorKind, IoSlice};

/// What the peer does.
#[derive(Debug, Arbitrary)]
pub enum Act {
    Say(Vec<u8>),
    Pad(Vec<u8>, u8),
    Empty,
    Update {
        wanted: bool,
        cut: u8,
    },
    Canceled,
    Close,
    GiveUp(u8),
    /// A record of a kind that nobody may send.
    Kind(u8),
    /// A message of the handshake that is no key update.
    Handshake(u8, Vec<u8>),
    /// Bytes that nobody sealed.
    Noise(Vec<u8>),
    /// One bit of a record is another.
    Flip(u16),
    /// A record comes twice.
    Twice,
    /// A record does not come.
    Lost,
    /// The server says so much.
    Answer(u16),
}

#[derive(Debug, Arbitrary)]
pub struct Input {
    suite: u8,
    /// Bytes of each read.
    cuts: Vec<u8>,
    long_cuts: bool,
    /// Beyond a record.
    room: u8,
    acts: Vec<Act>,
}

/// How what the peer says ends, if it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Closed,
    GivenUp,
    /// With an alert of ours.
    Failed,
    /// Nothing more is heard; whether that is an error yet depends on how many bytes come.
    Noise,
}

struct Peer {
    suite: Suite,
    read: Flow,
    write: Flow,
    keys: HotKeys,
    /// Said and not read by the server.
    wire: Vec<u8>,
    expected: Vec<u8>,
    end: Option<End>,
    /// As the server counts it.
    fruitless: usize,
}

const FRUITLESS_MAX: usize = 128;
const UPDATE_WEIGHT: usize = 8;

impl Peer {
    fn record(&mut self, inner: &[u8]) -> Vec<u8> {
        let [high, low] = ((inner.len() + 16) as u16).to_be_bytes();
        let head = [Content::Data as u8, 3, 3, high, low];
        let key = self.keys.get(self.suite, &self.write).expect("a key");
        let nonce = self.write.next_nonce().expect("a nonce");
        let mut sealed = inner.to_vec();
        key.seal_in_place_append_tag(nonce, Aad::from(head), &mut sealed).expect("sealed");
        [&head[..], &sealed].concat()
    }

    fn put(&mut self, kind: u8, said: &[u8]) {
        let record = self.record(&[said, &[kind]].concat());
        self.wire.extend(record);
    }

    /// The first end counts.
    fn ends(&mut self, end: End) {
        self.end.get_or_insert(end);
    }

    fn count(&mut self, weight: usize) {
        self.fruitless += weight;
        if self.fruitless > FRUITLESS_MAX {
            self.ends(End::Failed);
        }
    }

    fn say(&mut self, said: &[u8], padding: usize) {
        let record = self.record(&[said, &[Content::Data as u8], &vec![0; padding]].concat());
        self.wire.extend(record);
        match (said.is_empty(), self.end) {
            (true, _) => self.count(1),
            (false, None) => {
                self.fruitless = self.fruitless.saturating_sub(1);
                self.expected.extend_from_slice(said);
            }
            (false, Some(_)) => {}
        }
    }

    fn update(&mut self, wanted: bool, cut: usize) {
        let message = [24, 0, 0, 1, u8::from(wanted)];
        let (front, rest) = message.split_at(cut.min(message.len()));
        for part in [front, rest].into_iter().filter(|part| !part.is_empty()) {
            self.put(Content::Handshake as u8, part);
            self.count(1);
        }
        self.count(UPDATE_WEIGHT - 1);
        self.write = self.write.updated(self.suite).expect("a next key");
    }

    fn hear(&mut self, mut sealed: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let mut said = Vec::new();
        while let Some(len) = body_len(sealed).expect("records") {
            let (record, rest) = sealed.split_at(HEAD + len);
            sealed = rest;
            let key = self.keys.get(self.suite, &self.read).expect("a key");
            let nonce = self.read.next_nonce().expect("a nonce");
            let mut body = record[HEAD..].to_vec();
            let inner = key.open_in_place(nonce, Aad::from(&record[..HEAD]), &mut body).expect("sealed by its key");
            let (kind, inner) = inner.split_last().expect("a kind");
            if *kind == Content::Handshake as u8 {
                self.read = self.read.updated(self.suite).expect("a next key");
            }
            said.push((*kind, inner.to_vec()));
        }
        assert!(sealed.is_empty(), "whole records only");
        said
    }
}

/// The server's side.
struct Server {
    tunnel: Tunnel,
    kit: Kit,
    room: Vec<u8>,
    cuts: Vec<usize>,
    reads: usize,
    heard: Vec<u8>,
    failed: bool,
    ended: bool,
}

impl Server {
    /// Reads all of the wire; `over`: and then its end.
    fn read(&mut self, wire: &mut Vec<u8>, over: bool) {
        let mut at = 0;
        while !self.failed && !self.ended && (at < wire.len() || over || self.tunnel.has_more()) {
            let cut = self.cuts.get(self.reads % self.cuts.len().max(1)).copied().unwrap_or(usize::MAX);
            self.reads += 1;
            let was = at;
            let result = self.tunnel.read(&mut self.kit, &mut self.room, |room| {
                let count = cut.min(wire.len() - at).min(room.len());
                if count == 0 && !(over && at == wire.len()) {
                    return Err(ErrorKind::WouldBlock.into());
                }
                room[..count].copy_from_slice(&wire[at..at + count]);
                at += count;
                Ok(count)
            });
            assert!(self.tunnel.held() < HEAD + BODY_MAX, "no more than a record is kept");
            match result {
                Ok(0) => self.ended = true,
                Ok(count) => self.heard.extend_from_slice(&self.room[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                    let is_stuck = at == was && at == wire.len() && !over && error.kind() == ErrorKind::WouldBlock;
                    if is_stuck {
                        break;
                    }
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::InvalidData);
                    self.failed = true;
                }
            }
        }
        wire.clear();
    }

    /// What it says, as it went over the wire.
    fn write(&mut self, said: &[u8]) -> io::Result<Vec<u8>> {
        let mut took = Vec::new();
        let taken = self.tunnel.write(&mut self.kit, &[IoSlice::new(said)], |bytes| {
            took.extend_from_slice(bytes);
            Ok(bytes.len())
        })?;
        assert_eq!(taken, said.len());
        Ok(took)
    }
}

fn begin(input: &Input) -> (Peer, Server) {
    let suite = [Suite::Aes128Gcm, Suite::Aes256Gcm, Suite::ChaCha20Poly1305][usize::from(input.suite % 3)];
    let [client, server] = [7, 9].map(|byte| vec![byte; suite.secret_len()]);
    let flow = |secret: &[u8]| Flow::new(suite, secret, 0).expect("a secret of its length");
    let (read, write, keys) = (flow(&server), flow(&client), HotKeys::new(4));
    let (wire, expected, end, fruitless) = (Vec::new(), Vec::new(), None, 0);
    let peer = Peer { suite, read, write, keys, wire, expected, end, fruitless };
    let records = Records::new(suite, (&client, 0), (&server, 0)).expect("secrets of their length");
    // One of 0 bytes would stand still.
    let factor = if input.long_cuts { 100 } else { 1 };
    let cuts = input.cuts.iter().map(|cut| (usize::from(*cut) + 1) * factor).collect();
    let room = vec![0; HEAD + BODY_MAX + usize::from(input.room) * 100];
    let (tunnel, kit, heard) = (Tunnel::new(Layer::Compact(Box::new(records)), Vec::new()), Kit::new(3), Vec::new());
    (peer, Server { tunnel, kit, room, cuts, reads: 0, heard, failed: false, ended: false })
}

fn carry_out(act: Act, peer: &mut Peer, server: &mut Server) {
    match act {
        Act::Say(said) => peer.say(&said, 0),
        Act::Pad(said, padding) => peer.say(&said, usize::from(padding)),
        Act::Empty => peer.say(b"", 0),
        Act::Update { wanted, cut } => peer.update(wanted, usize::from(cut % 6)),
        Act::Canceled => {
            peer.put(Content::Alert as u8, &[1, 90]);
            peer.count(1);
        }
        Act::Close => {
            peer.put(Content::Alert as u8, &[1, 0]);
            peer.count(1);
            peer.ends(End::Closed);
        }
        Act::GiveUp(reason) => {
            peer.put(Content::Alert as u8, &[2, reason]);
            peer.count(1);
            match reason {
                0 => peer.ends(End::Closed),
                90 => {}
                _ => peer.ends(End::GivenUp),
            }
        }
        Act::Kind(kind) => {
            // Zeros are padding: what is in front of them would be the kind.
            if !(21..=23).contains(&kind) && kind != 0 {
                peer.put(kind, b"x");
                peer.ends(End::Failed);
            }
        }
        Act::Handshake(first, rest) => {
            if first != 24 {
                peer.put(Content::Handshake as u8, &[&[first], &rest[..]].concat());
                peer.ends(End::Failed);
            }
        }
        Act::Noise(noise) => {
            if !noise.is_empty() {
                peer.wire.extend(noise);
                peer.ends(End::Noise);
            }
        }
        Act::Flip(bit) => {
            let mut record = peer.record(b"never heard\x17");
            let bit = usize::from(bit) % (record.len() * 8);
            record[bit / 8] ^= 1 << (bit % 8);
            peer.wire.extend(record);
            peer.ends(End::Noise);
        }
        Act::Twice => {
            let before = peer.wire.len();
            peer.say(b"once", 0);
            let record = peer.wire[before..].to_vec();
            peer.wire.extend(record);
            peer.ends(End::Failed);
        }
        Act::Lost => {
            drop(peer.record(b"lost\x17"));
            peer.put(Content::Data as u8, b"behind it");
            peer.ends(End::Failed);
        }
        Act::Answer(len) => {
            server.read(&mut peer.wire, false);
            assert_eq!(server.heard, peer.expected);
            let said: Vec<u8> = (0..usize::from(len)).map(|number| number as u8).collect();
            match server.write(&said) {
                Ok(took) => {
                    let heard = peer.hear(&took).into_iter().filter(|(kind, _)| *kind == Content::Data as u8);
                    let heard: Vec<u8> = heard.flat_map(|(_, said)| said).collect();
                    assert_eq!(heard, said);
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
                    assert!(matches!(peer.end, Some(End::Failed | End::GivenUp | End::Noise)), "{:?}", peer.end);
                }
            }
        }
    }
}

pub fn try_it(mut input: Input) {
    let acts = std::mem::take(&mut input.acts);
    let (mut peer, mut server) = begin(&input);
    for act in acts {
        carry_out(act, &mut peer, &mut server);
    }
    server.read(&mut peer.wire, true);
    assert_eq!(server.heard, peer.expected, "{:?}", peer.end);
    match peer.end {
        None => assert!(server.ended && server.tunnel.is_cut()),
        Some(End::Closed) => assert!(server.ended && !server.tunnel.is_cut()),
        Some(End::GivenUp) => assert!(server.ended && server.tunnel.is_cut()),
        Some(End::Failed) => assert!(server.failed),
        Some(End::Noise) => assert!(server.failed || server.ended && server.tunnel.is_cut()),
    }
    let mut took = Vec::new();
    server.tunnel.end(&mut server.kit, |bytes| {
        took.extend_from_slice(bytes);
        Ok(bytes.len())
    });
    server.tunnel.forget(&mut server.kit);
    assert_eq!(server.kit.keys.held(), 0, "nothing of a connection outlives it");
    let said = peer.hear(&took);
    let alert = |level: u8, alert: u8| vec![(Content::Alert as u8, vec![level, alert])];
    match (server.failed, peer.end) {
        (true, _) => assert!(matches!(&said[..], [(21, alert)] if alert[0] == 2 && alert[1] != 0), "{said:?}"),
        (false, Some(End::GivenUp)) => assert!(said.is_empty()),
        (false, _) => assert_eq!(said, alert(1, Alert::CloseNotify as u8)),
    }
}
