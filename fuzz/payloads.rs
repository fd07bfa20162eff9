//! What must hold for bytes that come from an engine or from other nodes, whoever wrote them: they are read or refused,
//! and what was read of a publication or a client is read again when this node writes it.
//!
//! The first byte chooses what they are; the second, where it is needed, how long their first part is.

use bytes::{Bytes, BytesMut};
use gannet::engine::control::messages::ControlCommand;
use gannet::engine::nats::payload as nats;
use gannet::engine::nats::protocol;
use gannet::engine::redis::payload as redis;
use gannet::protocol::{ClientInfo, Publication};
use prost::Message;

const TIME: u64 = 1_795_944_230_689;

pub fn hear(input: &[u8]) {
    let Some((kind, bytes)) = input.split_first() else { return };
    let owned = Bytes::copy_from_slice(bytes);
    match kind % 8 {
        0 => pushed(owned),
        1 => {
            let (id, entry) = parted(bytes);
            if let Ok(publication) = redis::read_entry(id, Bytes::copy_from_slice(entry)) {
                written_again(&publication);
            }
        }
        2 => {
            if let Ok((publication, epoch)) = redis::read_item(owned) {
                assert!(epoch.len() <= bytes.len());
                written_again(&publication);
            }
        }
        3 => {
            if let Ok(info) = redis::read_client(owned) {
                announced_again(&info);
            }
        }
        4 => {
            let (channel, payload) = parted(bytes);
            let channel = String::from_utf8_lossy(channel);
            heard_by_nats(&channel, Bytes::copy_from_slice(payload));
        }
        5 => said_by_nats(bytes),
        6 => {
            if let Ok(command) = ControlCommand::decode(owned) {
                let again = ControlCommand::decode(&*command.encode_to_vec()).expect("what was read is written");
                assert_eq!(again, command);
                drop(command.control());
            }
        }
        _ => {
            // All of them: no mark makes one of another's kind panic.
            drop(redis::read(owned.clone()));
            drop(redis::read_item(owned.clone()));
            drop(nats::read("plain", owned));
        }
    }
}

fn parted(bytes: &[u8]) -> (&[u8], &[u8]) {
    let Some((len, rest)) = bytes.split_first() else { return (bytes, bytes) };
    rest.split_at(usize::from(*len).min(rest.len()))
}

fn pushed(bytes: Bytes) {
    let size = bytes.len();
    match redis::read(bytes) {
        Ok(redis::Pushed::Publication { publication, place, previous }) => {
            let offset = place.as_ref().map_or(0, |(offset, _)| *offset);
            assert_eq!(publication.offset, offset, "two places");
            assert!(publication.data.len() + previous.map_or(0, |before| before.len()) <= size, "more than was said");
            written_again(&publication);
        }
        Ok(redis::Pushed::Presence { info, joined }) => {
            let again = redis::read(redis::write_presence(&info, joined).into());
            assert_eq!(again, Ok(redis::Pushed::Presence { info, joined }));
        }
        Err(redis::Malformed) => {}
    }
}

/// Where it stands is not written: the stream gives it its place.
fn written_again(publication: &Publication) {
    let plain = Publication { offset: 0, ..publication.clone() };
    let written = Bytes::from(redis::write(&plain, TIME));
    match redis::read(written) {
        Ok(redis::Pushed::Publication { publication: again, place: None, previous: None }) => assert_eq!(*again, plain),
        other => panic!("{other:?}, not {plain:?}"),
    }
}

fn announced_again(info: &ClientInfo) {
    for joined in [true, false] {
        let again = redis::read(redis::write_presence(info, joined).into());
        assert_eq!(again, Ok(redis::Pushed::Presence { info: info.clone(), joined }));
    }
}

fn heard_by_nats(channel: &str, payload: Bytes) {
    match nats::read(channel, payload) {
        Ok(nats::NatsHeard::Publication(publication)) => {
            let again = nats::read(channel, nats::write(channel, &publication, false, TIME).into());
            assert_eq!(again, Ok(nats::NatsHeard::Publication(publication)));
        }
        Ok(nats::NatsHeard::Presence { info, joined }) => {
            let again = nats::read(channel, nats::write_presence(channel, &info, joined).into());
            assert_eq!(again, Ok(nats::NatsHeard::Presence { info, joined }));
        }
        Err(nats::NoPush) => {}
    }
}

/// Words of a server, shown whole and in pieces, come to the same.
fn said_by_nats(bytes: &[u8]) {
    let Some((piece, said)) = bytes.split_first() else { return };
    let whole = words(said, usize::MAX);
    assert_eq!(words(said, usize::from(*piece).max(1)), whole);
}

fn words(said: &[u8], piece: usize) -> Vec<String> {
    let (mut read, mut found) = (BytesMut::new(), Vec::new());
    for piece in said.chunks(piece) {
        read.extend_from_slice(piece);
        loop {
            match protocol::next(&mut read) {
                Ok(None) => break,
                Ok(Some(word)) => found.push(format!("{word:?}")),
                Err(protocol::Gibberish) => {
                    found.push("gibberish".into());
                    return found;
                }
            }
        }
    }
    found
}
