//! F1 · Tests of the record layer: the vectors of RFC 8448, faults one by one, and whatever way bytes are cut.

use super::*;
use proptest::prelude::*;
use ring::aead::Aad;
use std::io::{self, ErrorKind, IoSlice};

const SUITES: [Suite; 3] = [Suite::Aes128Gcm, Suite::Aes256Gcm, Suite::ChaCha20Poly1305];

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("hex");
    digits.chunks(2).map(byte).collect()
}

/// A client, whose records may be anything.
struct Peer {
    suite: Suite,
    read: Flow,
    write: Flow,
    keys: HotKeys,
}

const DATA: u8 = Content::Data as u8;
const HANDSHAKE: u8 = Content::Handshake as u8;
const ALERT: u8 = Content::Alert as u8;

/// A client and the server's side of its connection.
fn pair(suite: Suite) -> (Peer, Records) {
    let [client, server] = [7, 9].map(|byte| vec![byte; suite.secret_len()]);
    let flow = |secret: &[u8]| Flow::new(suite, secret, 0).expect("a secret of its length");
    let peer = Peer { suite, read: flow(&server), write: flow(&client), keys: HotKeys::new(4) };
    (peer, Records::new(suite, (&client, 0), (&server, 0)).expect("secrets of their length"))
}

impl Peer {
    /// One record with this in it, the kind and zeros behind that with it.
    fn raw(&mut self, inner: &[u8]) -> Vec<u8> {
        let [high, low] = ((inner.len() + 16) as u16).to_be_bytes();
        let head = [DATA, 3, 3, high, low];
        let key = self.keys.get(self.suite, &self.write).expect("a key");
        let nonce = self.write.next_nonce().expect("a nonce");
        let mut sealed = inner.to_vec();
        key.seal_in_place_append_tag(nonce, Aad::from(head), &mut sealed).expect("sealed");
        [&head[..], &sealed].concat()
    }

    fn record(&mut self, kind: u8, said: &[u8]) -> Vec<u8> {
        self.raw(&[said, &[kind]].concat())
    }

    /// A key update, after which everything goes by the next key.
    fn update(&mut self, wanted: u8) -> Vec<u8> {
        let record = self.record(HANDSHAKE, &[24, 0, 0, 1, wanted]);
        self.write = self.write.updated(self.suite).expect("a next key");
        record
    }

    /// What the server's records say; key updates of its are followed.
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
            if *kind == HANDSHAKE {
                self.read = self.read.updated(self.suite).expect("a next key");
            }
            said.push((*kind, inner.to_vec()));
        }
        assert!(sealed.is_empty(), "whole records only");
        said
    }
}

/// Opens a record that stands alone.
fn open(records: &mut Records, record: &[u8]) -> Result<(Opened, Vec<u8>), Alert> {
    let mut buffer = record.to_vec();
    let opened = records.open(&mut HotKeys::new(1), &mut buffer, 0)?;
    Ok((opened, buffer))
}

#[test]
fn the_vectors_of_rfc_8448_section_3() {
    let client = bytes("9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5");
    let server = bytes("a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643");
    let flow = |secret: &[u8]| Flow::new(Suite::Aes128Gcm, secret, 0).expect("a secret");
    let has = |flow: &Flow, key: &str, iv: &str| flow.has(Suite::Aes128Gcm, &bytes(key), &bytes(iv));
    assert!(has(&flow(&client), "17422dda596ed5d9acd890e3c63f5051", "5b78923dee08579033e523d9"));
    assert!(has(&flow(&server), "9f02283b6c9c07efc26bb9f2ac92e356", "cf782b88dd83549aadf1e984"));
    // The server had sent a ticket.
    let mut records = Records::new(Suite::Aes128Gcm, (&client, 0), (&server, 1)).expect("secrets");
    let (payload, mut keys): (Vec<u8>, _) = ((0..50).collect(), HotKeys::new(8));
    let said = bytes(
        "1703030043a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8a5b46b395bd54a9a20441e2b\
         62974e1f5a6292a2977014bd1e3deae63aeebb21694915e4",
    );
    let (opened, buffer) = open(&mut records, &said).expect("opened");
    assert_eq!((opened, &buffer[..50]), (Opened::Data(50), &payload[..]));
    let close = bytes("1703030013c9872760655666b74d7ff1153efd6db6d0b0e3");
    assert_eq!(open(&mut records, &close).expect("opened").0, Opened::Closed);
    let mut sealed = Vec::new();
    assert!(records.seal(&mut keys, &payload, &mut sealed));
    let expected = bytes(
        "17030300432e937e11ef4ac740e538ad36005fc4a46932fc3225d05f82aa1b36e30efaf97d90e6dffc602dcb501a59a8\
         fcc49c4bf2e5f0a21c0047c2abf332540dd032e167c2955d",
    );
    assert_eq!(sealed, expected);
    sealed.clear();
    assert!(records.seal_alert(&mut keys, Alert::CloseNotify, &mut sealed));
    assert_eq!(sealed, bytes("1703030013b58fd67166ebf599d24720cfbe7efa7a8864a9"));
}

#[test]
fn what_a_record_may_say_and_what_not() {
    use Alert::*;
    let long = vec![1; PLAIN_MAX];
    type Case<'a> = (&'a str, &'a dyn Fn(&mut Peer) -> Vec<u8>, Result<Opened, Alert>);
    let cases: [Case<'_>; 26] = [
        ("data", &|p| p.record(DATA, b"abc"), Ok(Opened::Data(3))),
        ("padded", &|p| p.raw(b"abc\x17\0\0\0"), Ok(Opened::Data(3))),
        ("empty", &|p| p.record(DATA, b""), Ok(Opened::Nothing)),
        ("zeros are data too", &|p| p.record(DATA, b"\0\0"), Ok(Opened::Data(2))),
        ("as long as may be", &|p| p.record(DATA, &long), Ok(Opened::Data(PLAIN_MAX))),
        ("longer", &|p| p.raw(&[&long[..], b"\0\x17"].concat()), Err(RecordOverflow)),
        ("longer by zeros", &|p| p.raw(&[&long[..], b"\x17\0"].concat()), Err(RecordOverflow)),
        ("no kind", &|p| p.raw(b"\0\0\0"), Err(UnexpectedMessage)),
        ("close", &|p| p.record(ALERT, &[1, 0]), Ok(Opened::Closed)),
        ("a fatal close", &|p| p.record(ALERT, &[2, 0]), Ok(Opened::Closed)),
        ("user_canceled", &|p| p.record(ALERT, &[1, 90]), Ok(Opened::Nothing)),
        ("gives up", &|p| p.record(ALERT, &[2, 40]), Ok(Opened::GivenUp(40))),
        ("half an alert", &|p| p.record(ALERT, &[1]), Err(DecodeError)),
        ("two alerts", &|p| p.record(ALERT, &[1, 0, 1, 0]), Err(DecodeError)),
        ("no alert", &|p| p.record(ALERT, &[]), Err(UnexpectedMessage)),
        ("update", &|p| p.update(0), Ok(Opened::Nothing)),
        ("update, and ours", &|p| p.update(1), Ok(Opened::Nothing)),
        ("update, and what?", &|p| p.update(2), Err(IllegalParameter)),
        ("an update of two bytes", &|p| p.record(HANDSHAKE, &[24, 0, 0, 2, 0]), Err(DecodeError)),
        ("behind an update", &|p| p.record(HANDSHAKE, &[24, 0, 0, 1, 0, 24]), Err(UnexpectedMessage)),
        ("no handshake", &|p| p.record(HANDSHAKE, &[]), Err(UnexpectedMessage)),
        ("a hello", &|p| p.record(HANDSHAKE, &[1, 0, 0, 1, 0]), Err(UnexpectedMessage)),
        ("a certificate", &|p| p.record(HANDSHAKE, &[11; 300]), Err(UnexpectedMessage)),
        ("change_cipher_spec", &|p| p.record(20, &[1]), Err(UnexpectedMessage)),
        ("a heartbeat", &|p| p.record(24, &[1, 0]), Err(UnexpectedMessage)),
        ("nothing at all", &|p| p.raw(b""), Err(UnexpectedMessage)),
    ];
    for (suite, (what, make, expected)) in SUITES.into_iter().flat_map(|suite| cases.iter().map(move |it| (suite, it)))
    {
        let (mut peer, mut records) = pair(suite);
        let record = make(&mut peer);
        let opened = open(&mut records, &record);
        assert_eq!(opened.map(|(opened, _)| opened), *expected, "{what}, {suite:?}");
    }
}

#[test]
fn a_byte_that_differs_anywhere_is_noticed() {
    for suite in SUITES {
        let (mut peer, records) = pair(suite);
        let record = peer.record(DATA, b"to be or not");
        for bit in HEAD * 8..record.len() * 8 {
            let mut other = record.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(&mut records.copied(), &other), Err(Alert::BadRecordMac), "bit {bit}");
        }
        // The head is under the seal too.
        let mut other = record.clone();
        other[2] = 1;
        assert_eq!(open(&mut records.copied(), &other), Err(Alert::BadRecordMac));
        let mut after = records.copied();
        assert!(open(&mut after, &record).is_ok());
        assert_eq!(open(&mut after.copied(), &record), Err(Alert::BadRecordMac), "once more");
        let (_, later) = (peer.record(DATA, b"a"), peer.record(DATA, b"b"));
        assert_eq!(open(&mut after, &later), Err(Alert::BadRecordMac), "one is missing");
    }
}

#[test]
fn heads() {
    assert_eq!(body_len(&[23, 3, 3, 0]), Ok(None));
    assert_eq!(body_len(&[23, 3, 3, 0, 17]), Ok(Some(17)));
    assert_eq!(body_len(&[23, 9, 9, 0x41, 0]), Ok(Some(BODY_MAX)), "the version means nothing");
    assert_eq!(body_len(&[23, 3, 3, 0x41, 1]), Err(Alert::RecordOverflow));
    for kind in [0, 20, 21, 22, 24, 128] {
        assert_eq!(body_len(&[kind, 3, 3, 0, 1]), Err(Alert::UnexpectedMessage), "{kind} in the clear");
    }
}

#[test]
fn an_update_in_pieces_may_not_be_cut_by_other_records() {
    let message = [24, 0, 0, 1, 0];
    let (mut peer, mut records) = pair(Suite::Aes128Gcm);
    for piece in message.chunks(1) {
        let record = peer.record(HANDSHAKE, piece);
        assert_eq!(open(&mut records, &record).expect("a piece").0, Opened::Nothing);
    }
    peer.write = peer.write.updated(peer.suite).expect("a next key");
    let record = peer.record(DATA, b"by the next key");
    assert_eq!(open(&mut records, &record).expect("data").0, Opened::Data(15));
    for (kind, said) in [(DATA, &b"x"[..]), (DATA, b""), (ALERT, &[1, 0]), (HANDSHAKE, &[0, 0, 1, 0, 24])] {
        let (mut peer, mut records) = pair(Suite::Aes128Gcm);
        let record = peer.record(HANDSHAKE, &message[..2]);
        assert!(open(&mut records, &record).is_ok());
        let record = peer.record(kind, said);
        assert_eq!(open(&mut records, &record).map(|(opened, _)| opened), Err(Alert::UnexpectedMessage));
    }
}

type Make = fn(&mut Peer) -> Vec<u8>;

#[test]
fn records_that_say_nothing_end_it_after_a_while() {
    let makes: [(Make, usize); 3] =
        [(|p| p.record(DATA, b""), 128), (|p| p.update(1), 16), (|p| p.record(ALERT, &[1, 90]), 128)];
    for (make, limit) in makes {
        let (mut peer, mut records) = pair(Suite::ChaCha20Poly1305);
        // One that says nothing for one that says something may go on.
        for _ in 0..300 {
            let record = if limit == 128 { make(&mut peer) } else { peer.record(DATA, b"x") };
            assert!(open(&mut records, &record).is_ok());
            let record = peer.record(DATA, b"something");
            assert!(open(&mut records, &record).is_ok());
        }
        let outcomes = (0..limit + 1).map(|_| open(&mut records, &make(&mut peer)).is_ok()).collect::<Vec<_>>();
        assert_eq!(outcomes.iter().filter(|good| **good).count(), limit);
    }
}

/// Between bytes that say something too: else some thousand updates fit into one read.
#[test]
fn a_flood_of_key_updates_ends_it() {
    let flood = |data: usize| {
        let (mut peer, mut records) = pair(Suite::Aes128Gcm);
        let mut done = 0;
        for update in 0..1000 {
            let updated = peer.update(0);
            if open(&mut records, &updated).is_err() {
                break;
            }
            done = update + 1;
            for _ in 0..data {
                let record = peer.record(DATA, b"x");
                assert!(open(&mut records, &record).is_ok());
            }
        }
        done
    };
    assert_eq!([0, 1, 8].map(flood), [16, 18, 1000]);
}

#[test]
fn keys_change_when_the_peer_wants_it_and_when_they_have_served_their_time() {
    for suite in SUITES {
        let (mut peer, mut records) = pair(suite);
        let (mut keys, mut sealed) = (HotKeys::new(2), Vec::new());
        let said = |records: &mut Records, keys: &mut HotKeys, peer: &mut Peer| {
            let mut sealed = Vec::new();
            assert!(records.seal(keys, b"x", &mut sealed));
            peer.hear(&sealed).into_iter().map(|(kind, _)| kind).collect::<Vec<_>>()
        };
        assert_eq!(said(&mut records, &mut keys, &mut peer), [DATA]);
        for _ in 0..3 {
            let record = peer.update(0);
            assert!(open(&mut records, &record).is_ok());
            assert_eq!(said(&mut records, &mut keys, &mut peer), [DATA]);
            // Two wishes are one.
            for record in [peer.update(1), peer.update(1)] {
                assert!(open(&mut records, &record).is_ok());
            }
            assert_eq!(said(&mut records, &mut keys, &mut peer), [HANDSHAKE, DATA]);
            assert_eq!(said(&mut records, &mut keys, &mut peer), [DATA]);
        }
        if suite != Suite::ChaCha20Poly1305 {
            let [client, server] = [7, 9].map(|byte| vec![byte; suite.secret_len()]);
            let last = suite.records_max() - 1;
            let mut records = Records::new(suite, (&client, 0), (&server, last)).expect("secrets");
            peer.read = Flow::new(suite, &server, last).expect("a secret");
            assert_eq!(said(&mut records, &mut keys, &mut peer), [DATA]);
            assert_eq!(said(&mut records, &mut keys, &mut peer), [HANDSHAKE, DATA]);
            assert_eq!(said(&mut records, &mut keys, &mut peer), [DATA]);
        }
        // What is long goes in several records.
        assert!(records.seal(&mut keys, &vec![5; 2 * PLAIN_MAX + 1], &mut sealed));
    }
}

#[test]
fn it_can_be_written_down_and_read_back_anywhere() {
    for suite in SUITES {
        let (mut peer, mut records) = pair(suite);
        let mut keys = HotKeys::new(1);
        for round in 0..5 {
            for record in
                [peer.record(DATA, b"a"), peer.record(HANDSHAKE, &[24, 0, 0]), peer.record(HANDSHAKE, &[1, 1])]
            {
                records = Records::thawed(&records.copied().frozen()).expect("its own");
                assert!(open(&mut records, &record).is_ok(), "round {round}");
            }
            peer.write = peer.write.updated(suite).expect("a next key");
            records = Records::thawed(&records.copied().frozen()).expect("its own");
            let mut sealed = Vec::new();
            assert!(records.seal(&mut keys, b"b", &mut sealed));
            assert_eq!(peer.hear(&sealed).len(), 2);
        }
        let frozen = records.copied().frozen();
        assert!((0..frozen.len()).all(|len| Records::thawed(&frozen[..len]).is_none()));
        assert!(Records::thawed(&[&frozen[..], b"x"].concat()).is_none());
        assert!(Records::thawed(&[&[2], &frozen[1..]].concat()).is_none(), "another version");
        // What no connection comes to: more fruitless records than may be, a message that is no key update.
        for (at, wrong) in [(8, &[129][..]), (7, &[2]), (6, &[5]), (6, &[1, 0])] {
            let mut other = frozen.to_vec();
            let place = other.len() - at;
            other[place..place + wrong.len()].copy_from_slice(wrong);
            assert!(Records::thawed(&other).is_none(), "{wrong:?} at {at} from the end");
        }
    }
}

#[test]
fn keys_are_kept_ready_for_as_many_as_there_is_room() {
    let mut keys = HotKeys::new(4);
    let flows: Vec<Flow> = (0..40).map(|byte| Flow::new(Suite::Aes256Gcm, &[byte; 48], 0).expect("a secret")).collect();
    flows.iter().for_each(|flow| assert!(keys.get(Suite::Aes256Gcm, flow).is_some()));
    assert!((1..=4).contains(&keys.held()));
    flows.iter().for_each(|flow| keys.forget(flow));
    assert_eq!(keys.held(), 0, "nothing of a connection outlives it");
    assert!(Flow::new(Suite::Aes256Gcm, &[1; 32], 0).is_none() && Flow::new(Suite::Aes128Gcm, &[1; 48], 0).is_none());
}

/// Reads all that `input` says, handed over in pieces of these sizes; how it ended.
fn read_all(tunnel: &mut Tunnel, input: &[u8], mut sizes: impl Iterator<Item = usize>) -> (Vec<u8>, io::Result<usize>) {
    let (mut kit, mut room, mut said, mut at) = (Kit::new(2), vec![0; 64 * 1024], Vec::new(), 0);
    loop {
        let size = sizes.next().unwrap_or(usize::MAX);
        let result = tunnel.read(&mut kit, &mut room, |room| {
            let count = size.min(input.len() - at).min(room.len());
            room[..count].copy_from_slice(&input[at..at + count]);
            at += count;
            Ok(count)
        });
        match result {
            Ok(0) => return (said, Ok(0)),
            Ok(count) => said.extend_from_slice(&room[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return (said, Err(error)),
        }
    }
}

#[test]
fn a_stream_may_be_cut_at_every_byte() {
    for suite in SUITES {
        let (mut peer, records) = pair(suite);
        let mut input = Vec::new();
        for record in [
            peer.record(DATA, b"first"),
            peer.record(DATA, b""),
            peer.update(1),
            peer.raw(b"second\x17\0\0\0\0"),
            peer.record(HANDSHAKE, &[24, 0]),
            peer.record(HANDSHAKE, &[0, 1, 0]),
        ] {
            input.extend(record);
        }
        peer.write = peer.write.updated(suite).expect("a next key");
        input.extend(peer.record(DATA, b"third"));
        let whole = input.len();
        input.extend(peer.record(ALERT, &[1, 0]));
        input.extend(b"what is behind the end does not matter");
        for at in 0..=input.len() {
            let mut tunnel = Tunnel::new(Layer::Compact(Box::new(records.copied())), Vec::new());
            let (said, end) = read_all(&mut tunnel, &input, [at].into_iter().filter(|at| *at > 0));
            assert_eq!((&said[..], end.is_ok(), tunnel.is_cut()), (&b"firstsecondthird"[..], true, false), "{at}");
            // The same as bytes that came behind a handshake.
            let mut tunnel = Tunnel::new(Layer::Compact(Box::new(records.copied())), input[..at].to_vec());
            let (said, end) = read_all(&mut tunnel, &input[at..], std::iter::empty());
            assert_eq!((&said[..], end.is_ok(), tunnel.is_cut()), (&b"firstsecondthird"[..], true, false), "{at}");
        }
        // A stream that ends without the peer's word is told from one with it, wherever it ends.
        for at in 0..whole {
            let mut tunnel = Tunnel::new(Layer::Compact(Box::new(records.copied())), Vec::new());
            let (said, end) = read_all(&mut tunnel, &input[..at], std::iter::repeat(1));
            assert!(b"firstsecondthird".starts_with(&said) && end.is_ok() && tunnel.is_cut(), "{at}");
        }
    }
}

/// A socket that takes so much and then no more.
struct Narrow {
    took: Vec<u8>,
    room: usize,
}

impl Narrow {
    fn take(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(self.room);
        if count == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.took.extend_from_slice(&bytes[..count]);
        self.room -= count;
        Ok(count)
    }
}

fn heard(peer: &mut Peer, sealed: &[u8]) -> Vec<u8> {
    peer.hear(sealed).into_iter().filter(|(kind, _)| *kind == DATA).flat_map(|(_, said)| said).collect()
}

#[test]
fn what_a_socket_does_not_take_leaves_first_and_the_caller_comes_again() {
    let said: Vec<u8> = (0..100_000u32).map(|number| number as u8).collect();
    for step in [1, 2, 21, 22, 23, 1000, 16_384, 40_000, 200_000] {
        let (mut peer, records) = pair(Suite::Aes128Gcm);
        let (mut tunnel, mut kit) = (Tunnel::new(Layer::Compact(Box::new(records)), Vec::new()), Kit::new(2));
        let (mut socket, mut at) = (Narrow { took: Vec::new(), room: 0 }, 0);
        let said = &said[..said.len().min(step * 2000)];
        while at < said.len() {
            socket.room = step;
            let (one, other) = said[at..].split_at((said.len() - at) / 3);
            match tunnel.write(&mut kit, &[IoSlice::new(one), IoSlice::new(other)], |bytes| socket.take(bytes)) {
                Ok(taken) => {
                    at += taken;
                    assert_eq!(at == said.len(), tunnel.unsent() == 0 && at == said.len());
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
        assert_eq!(tunnel.unsent(), 0, "nothing is left behind when all was taken");
        assert!(heard(&mut peer, &socket.took) == said, "in steps of {step}");
    }
}

#[test]
fn what_may_wait_leaves_with_the_first_word() {
    for step in [1, 26, 27, 30, 200] {
        let (mut peer, mut records) = pair(Suite::Aes128Gcm);
        let (mut kit, mut ticket) = (Kit::new(2), Vec::new());
        assert!(records.seal(&mut kit.keys, b"tick", &mut ticket));
        let mut tunnel = Tunnel::new(Layer::Compact(Box::new(records)), Vec::new()).saying_first(ticket);
        let (mut socket, mut at, mut calls) = (Narrow { took: Vec::new(), room: 0 }, 0, 0);
        while at < 3 {
            (socket.room, calls) = (step, calls + 1);
            match tunnel.write(&mut kit, &[IoSlice::new(&b"wor"[at..])], |bytes| socket.take(bytes)) {
                Ok(taken) => at += taken,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
        assert!(heard(&mut peer, &socket.took) == b"tickwor" && tunnel.unsent() == 0, "in steps of {step}");
        assert_eq!(calls == 1, step == 200, "in one call, where the socket takes it");
    }
    let (mut peer, mut records) = pair(Suite::Aes128Gcm);
    let (mut kit, mut ticket, mut took) = (Kit::new(2), Vec::new(), Vec::new());
    assert!(records.seal(&mut kit.keys, b"tick", &mut ticket));
    let mut tunnel = Tunnel::new(Layer::Compact(Box::new(records)), Vec::new()).saying_first(ticket);
    tunnel.end(&mut kit, |bytes| {
        took.extend_from_slice(bytes);
        Ok(bytes.len())
    });
    assert_eq!(peer.hear(&took), [(DATA, b"tick".to_vec()), (ALERT, vec![1, 0])], "or before the last");
}

#[test]
fn the_end_is_said_once_and_a_failure_has_its_reason() {
    let (mut peer, records) = pair(Suite::Aes256Gcm);
    let (mut tunnel, mut kit) = (Tunnel::new(Layer::Compact(Box::new(records)), Vec::new()), Kit::new(2));
    let mut took = Vec::new();
    let mut send = |bytes: &[u8]| {
        took.extend_from_slice(bytes);
        Ok(bytes.len())
    };
    tunnel.write(&mut kit, &[IoSlice::new(b"bye")], &mut send).expect("room");
    tunnel.end(&mut kit, &mut send);
    tunnel.end(&mut kit, &mut send);
    assert!(tunnel.write(&mut kit, &[IoSlice::new(b"more")], &mut send).is_err());
    assert_eq!(peer.hear(&took), [(DATA, b"bye".to_vec()), (ALERT, vec![1, 0])]);
    tunnel.forget(&mut kit);
    assert_eq!(kit.keys.held(), 0);

    let (mut peer, records) = pair(Suite::Aes256Gcm);
    let mut tunnel = Tunnel::new(Layer::Compact(Box::new(records)), Vec::new());
    let mut broken = peer.record(DATA, b"x");
    broken[HEAD] ^= 1;
    let (said, end) = read_all(&mut tunnel, &broken, std::iter::empty());
    assert!(said.is_empty() && end.is_err());
    let mut took = Vec::new();
    tunnel.end(&mut kit, |bytes| {
        took.extend_from_slice(bytes);
        Ok(bytes.len())
    });
    assert_eq!(peer.hear(&took), [(ALERT, vec![2, Alert::BadRecordMac as u8])]);
}

/// What was said in front of it is heard whether it comes in one read with it or not, and nothing behind it is.
#[test]
fn what_stands_in_front_of_a_bad_record_is_heard() {
    for suite in SUITES {
        let (mut peer, records) = pair(suite);
        let good = [peer.record(DATA, b"one"), peer.record(DATA, b"two")].concat();
        let mut bad = peer.record(DATA, b"three");
        bad[HEAD] ^= 1;
        let input = [&good[..], &bad, &peer.record(DATA, b"four")].concat();
        for at in 0..=input.len() {
            let mut tunnel = Tunnel::new(Layer::Compact(Box::new(records.copied())), Vec::new());
            let (said, end) = read_all(&mut tunnel, &input, [at].into_iter().filter(|at| *at > 0));
            assert_eq!(&said[..], b"onetwo", "{at}");
            assert_eq!(end.expect_err("ended").kind(), ErrorKind::InvalidData);
            let (mut took, mut kit) = (Vec::new(), Kit::new(1));
            tunnel.end(&mut kit, |bytes| {
                took.extend_from_slice(bytes);
                Ok(bytes.len())
            });
            peer.read = Flow::new(suite, &vec![9; suite.secret_len()], 0).expect("a secret");
            assert_eq!(peer.hear(&took), [(ALERT, vec![2, Alert::BadRecordMac as u8])]);
        }
    }
}

/// RFC 8446 section 6.2: who got a fatal alert sends nothing more.
#[test]
fn a_peer_that_gives_up_hears_nothing_more_and_did_not_end_its_stream() {
    for (alert, gives_up) in [([2, 40], true), ([1, 40], true), ([1, 0], false)] {
        let (mut peer, records) = pair(Suite::Aes128Gcm);
        let (mut tunnel, mut kit) = (Tunnel::new(Layer::Compact(Box::new(records)), Vec::new()), Kit::new(2));
        let mut socket = Narrow { took: Vec::new(), room: 10 };
        let taken = tunnel.write(&mut kit, &[IoSlice::new(b"a lot")], |bytes| socket.take(bytes)).expect("some");
        assert!(taken == 4 && tunnel.unsent() > 0);
        let input = [peer.record(DATA, b"last words"), peer.record(ALERT, &alert)].concat();
        let (said, end) = read_all(&mut tunnel, &input, std::iter::empty());
        assert_eq!((&said[..], end.is_ok()), (&b"last words"[..], true));
        assert_eq!(tunnel.is_cut(), gives_up, "{alert:?}");
        (socket.took, socket.room) = (Vec::new(), 1000);
        let wrote = tunnel.write(&mut kit, &[IoSlice::new(b"t")], |bytes| socket.take(bytes));
        tunnel.end(&mut kit, |bytes| socket.take(bytes));
        assert_eq!((wrote.is_err(), socket.took.is_empty()), (gives_up, gives_up), "{alert:?}");
    }
}

#[derive(Debug, Clone)]
enum Act {
    Say(Vec<u8>),
    Empty,
    Update(u8),
    Answer(usize),
    Freeze,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        6 => prop::collection::vec(any::<u8>(), 1..400).prop_map(Act::Say),
        1 => Just(Act::Empty),
        1 => (0..2u8).prop_map(Act::Update),
        6 => (1..40_000usize).prop_map(Act::Answer),
        1 => Just(Act::Freeze),
    ];
    prop::collection::vec(act, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever both sides say, in whatever pieces it comes: each hears what the other said.
    #[test]
    fn both_hear_what_was_said(suite in 0..3usize, acts in acts(), sizes in prop::collection::vec(1..600usize, 1..20)) {
        let (mut peer, mut records) = pair(SUITES[suite]);
        let (mut input, mut said, mut keys, mut fruitless) = (Vec::new(), Vec::new(), HotKeys::new(3), 0usize);
        for act in acts {
            let (record, new) = match act {
                Act::Say(text) => (peer.record(DATA, &text), text),
                Act::Empty if fruitless < 120 => (peer.record(DATA, b""), Vec::new()),
                Act::Update(wanted) if fruitless < 120 => {
                    fruitless += 7;
                    (peer.update(wanted), Vec::new())
                }
                Act::Answer(len) => {
                    // What the peer said so far comes first.
                    let mut tunnel = Tunnel::new(Layer::Compact(Box::new(records.copied())), Vec::new());
                    let (heard_here, _) = read_all(&mut tunnel, &input, sizes.iter().copied().cycle());
                    prop_assert!(heard_here == said);
                    let Layer::Compact(after) = tunnel.layer() else { unreachable!("it was compact") };
                    records = after.copied();
                    (input, said) = (Vec::new(), Vec::new());
                    let (text, mut sealed) = (vec![len as u8; len], Vec::new());
                    prop_assert!(records.seal(&mut keys, &text, &mut sealed));
                    prop_assert!(heard(&mut peer, &sealed) == text);
                    continue;
                }
                Act::Freeze => {
                    records = Records::thawed(&records.copied().frozen()).expect("its own");
                    continue;
                }
                Act::Empty | Act::Update(_) => continue,
            };
            fruitless = if new.is_empty() { fruitless + 1 } else { fruitless.saturating_sub(1) };
            input.extend(record);
            said.extend(new);
        }
    }

    /// Whatever bytes come, nothing is heard that nobody sealed.
    #[test]
    fn noise_is_refused(
        noise in prop::collection::vec(any::<u8>(), 0..2000),
        sizes in prop::collection::vec(1..600usize, 1..9),
    ) {
        let (_, records) = pair(Suite::Aes128Gcm);
        let mut tunnel = Tunnel::new(Layer::Compact(Box::new(records)), Vec::new());
        let (said, _) = read_all(&mut tunnel, &noise, sizes.iter().copied().cycle());
        prop_assert!(said.is_empty());
    }
}
