//! F10 · What stands in messages of PUB/SUB, in streams and in lists: bytes to values and back.
//!
//! Owns the marks that nodes put before Protobuf, which are those of Centrifugo. Anyone who can write to the server can
//! write anything: nothing here panics, and what cannot be read is an error. Never speaks to a server.

use crate::engine::written::Written;
use crate::protocol::{ClientInfo, Publication};
use bytes::{Buf, BufMut, Bytes};
use compact_str::CompactString;
use prost::Message;
use std::sync::Arc;

/// What was heard in a channel.
#[derive(Debug, Clone, PartialEq)]
pub enum Pushed {
    /// `place`: offset and epoch, if it has its place in a stream. `previous`: the data of the one before it, if it is
    /// to be sent as a delta.
    Publication { publication: Arc<Publication>, place: Option<(u64, CompactString)>, previous: Option<Bytes> },
    /// Somebody came or went.
    Presence { info: ClientInfo, joined: bool },
}

/// It is not what nodes write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// As it is stored and published, at `unix_ms`. It has no offset: that is the stream's to give.
pub fn write(publication: &Publication, unix_ms: u64) -> Vec<u8> {
    Written::of(publication, unix_ms).encode_to_vec()
}

/// Somebody comes or goes.
pub fn write_presence(info: &ClientInfo, joined: bool) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(5 + info.encoded_len());
    bytes.put_slice(if joined { b"__j__" } else { b"__l__" });
    bytes.extend(info.encode_to_vec());
    bytes
}

pub fn read(payload: Bytes) -> Result<Pushed, Malformed> {
    let Some(mut rest) = after(&payload, b"__") else {
        return publication(payload, None, None);
    };
    let kind = rest.first().copied().ok_or(Malformed)?;
    rest.advance(1);
    match kind {
        b'j' | b'l' => {
            let info = after(&rest, b"__").ok_or(Malformed)?;
            let info = ClientInfo::decode(info).map_err(|_| Malformed)?;
            Ok(Pushed::Presence { info, joined: kind == b'j' })
        }
        b'p' => {
            let (place, rest) = placed(rest)?;
            publication(rest, Some(place), None)
        }
        b'd' => {
            let mut rest = after(&rest, b"1:").ok_or(Malformed)?;
            let offset = number(&mut rest)?;
            let epoch = text(&field(&mut rest)?)?;
            let previous = counted(&mut rest)?;
            rest = after(&rest, b":").ok_or(Malformed)?;
            let current = counted(&mut rest)?;
            let previous = match previous.is_empty() {
                true => None,
                false => Some(Written::decode(previous).map_err(|_| Malformed)?.data),
            };
            publication(current, Some((offset, epoch)), previous)
        }
        _ => Err(Malformed),
    }
}

/// A publication of a stream, whose entry has its offset.
pub fn read_entry(id: &[u8], bytes: Bytes) -> Result<Publication, Malformed> {
    let end = id.iter().position(|byte| *byte == b'-').unwrap_or(id.len());
    let offset = parse(&id[..end])?;
    let mut publication = decode(bytes)?.publication;
    publication.offset = offset;
    Ok(publication)
}

/// A publication of a list, which has its place before it.
pub fn read_item(bytes: Bytes) -> Result<(Publication, CompactString), Malformed> {
    let rest = after(&bytes, b"__p").ok_or(Malformed)?;
    let ((offset, epoch), rest) = placed(rest)?;
    let mut publication = decode(rest)?.publication;
    publication.offset = offset;
    Ok((publication, epoch))
}

/// A client of those who are present.
pub fn read_client(bytes: Bytes) -> Result<ClientInfo, Malformed> {
    ClientInfo::decode(bytes).map_err(|_| Malformed)
}

struct Decoded {
    publication: Publication,
    epoch: CompactString,
    previous: Bytes,
}

fn decode(bytes: Bytes) -> Result<Decoded, Malformed> {
    let Written { data, info, offset, tags, epoch, prev_data, version, .. } =
        Written::decode(bytes).map_err(|_| Malformed)?;
    let publication = Publication { data, info, offset, tags, version, ..Publication::default() };
    Ok(Decoded { publication, epoch: epoch.into(), previous: prev_data })
}

/// What the publication itself says of its place wins.
fn publication(
    bytes: Bytes,
    place: Option<(u64, CompactString)>,
    previous: Option<Bytes>,
) -> Result<Pushed, Malformed> {
    let Decoded { mut publication, epoch: own, previous: base } = decode(bytes)?;
    let (offset, epoch) = place.unwrap_or_default();
    let offset = if publication.offset > 0 { publication.offset } else { offset };
    let epoch = if own.is_empty() { epoch } else { own };
    publication.offset = offset;
    let previous = if base.is_empty() { previous } else { Some(base) };
    let publication = Arc::new(publication);
    Ok(Pushed::Publication { publication, place: (offset > 0).then_some((offset, epoch)), previous })
}

/// `1:<offset>:<epoch>__` and what follows.
fn placed(rest: Bytes) -> Result<((u64, CompactString), Bytes), Malformed> {
    let mut rest = after(&rest, b"1:").ok_or(Malformed)?;
    let offset = number(&mut rest)?;
    let end = rest.windows(2).position(|two| two == b"__").ok_or(Malformed)?;
    let epoch = text(&rest[..end])?;
    Ok(((offset, epoch), rest.slice(end + 2..)))
}

fn after(bytes: &Bytes, mark: &[u8]) -> Option<Bytes> {
    bytes.starts_with(mark).then(|| bytes.slice(mark.len()..))
}

/// Up to the next colon, which is taken too.
fn field(rest: &mut Bytes) -> Result<Bytes, Malformed> {
    let end = rest.iter().position(|byte| *byte == b':').ok_or(Malformed)?;
    let field = rest.split_to(end);
    rest.advance(1);
    Ok(field)
}

fn number(rest: &mut Bytes) -> Result<u64, Malformed> {
    parse(&field(rest)?)
}

/// `<length>:<bytes>`
fn counted(rest: &mut Bytes) -> Result<Bytes, Malformed> {
    let len = usize::try_from(number(rest)?).map_err(|_| Malformed)?;
    if len > rest.len() {
        return Err(Malformed);
    }
    Ok(rest.split_to(len))
}

fn parse(digits: &[u8]) -> Result<u64, Malformed> {
    let text = std::str::from_utf8(digits).map_err(|_| Malformed)?;
    if text.starts_with('+') {
        return Err(Malformed);
    }
    text.parse().map_err(|_| Malformed)
}

fn text(bytes: &[u8]) -> Result<CompactString, Malformed> {
    CompactString::from_utf8(bytes).map_err(|_| Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    /// What a fleet of Centrifugo nodes wrote, as a recording of it has it.
    const PLAIN: &[u8] = b"\"\x08{\"n\": 1}:\x06\n\x01k\x12\x01vH\xa1\xde\xf8\xb4\xa24";
    const KEPT: &[u8] = b"__p1:1:LexKqETe__\"\x08{\"n\": 1}H\xa3\xde\xf8\xb4\xa24";
    const DELTA: &[u8] =
        b"__d1:2:LexKqETe:17:\"\x08{\"n\": 1}H\xa3\xde\xf8\xb4\xa24:17:\"\x08{\"n\": 2}H\xa6\xde\xf8\xb4\xa24";
    const OF_CLIENT: &[u8] = b"\"\x03\"x\"*&\x12$34e544ed-55e8-4b20-bb91-3bf6ff185759H\xab\xde\xf8\xb4\xa24";
    const JOIN: &[u8] = b"__j__\x12$34e544ed-55e8-4b20-bb91-3bf6ff185759";
    /// The clock of that node.
    const TIME: u64 = 1_795_944_230_689;

    fn heard(bytes: &[u8]) -> Pushed {
        read(Bytes::copy_from_slice(bytes)).expect("a message")
    }

    fn data(text: &'static str) -> Publication {
        Publication { data: text.into(), ..Publication::default() }
    }

    #[test]
    fn what_nodes_write_is_read() {
        let tags = HashMap::from([("k".to_owned(), "v".to_owned())]);
        let publication = Publication { tags, ..data(r#"{"n": 1}"#) };
        assert_eq!(heard(PLAIN), Pushed::Publication { publication: publication.into(), place: None, previous: None });
        let publication = Publication { offset: 1, ..data(r#"{"n": 1}"#) };
        let place = Some((1, "LexKqETe".into()));
        assert_eq!(heard(KEPT), Pushed::Publication { publication: publication.into(), place, previous: None });
        let publication = Publication { offset: 2, ..data(r#"{"n": 2}"#) };
        let (place, previous) = (Some((2, "LexKqETe".into())), Some(r#"{"n": 1}"#.into()));
        assert_eq!(heard(DELTA), Pushed::Publication { publication: publication.into(), place, previous });
        let client = "34e544ed-55e8-4b20-bb91-3bf6ff185759".to_owned();
        let info = ClientInfo { client, ..ClientInfo::default() };
        assert_eq!(heard(JOIN), Pushed::Presence { info: info.clone(), joined: true });
        let publication = Publication { info: Some(info), ..data("\"x\"") };
        assert_eq!(
            heard(OF_CLIENT),
            Pushed::Publication { publication: publication.into(), place: None, previous: None }
        );
    }

    #[test]
    fn what_is_written_is_what_nodes_write() {
        let Pushed::Publication { publication, .. } = heard(PLAIN) else { panic!() };
        assert_eq!(write(&publication, TIME), PLAIN);
        let Pushed::Publication { publication, .. } = heard(KEPT) else { panic!() };
        assert_eq!([b"__p1:1:LexKqETe__", &*write(&publication, TIME + 2)].concat(), KEPT, "no offset in it");
        let Pushed::Publication { publication, .. } = heard(OF_CLIENT) else { panic!() };
        assert_eq!(write(&publication, TIME + 10), OF_CLIENT);
        let Pushed::Presence { info, .. } = heard(JOIN) else { panic!() };
        assert_eq!(write_presence(&info, true), JOIN);
        assert_eq!(heard(&write_presence(&info, false)), Pushed::Presence { info, joined: false });
    }

    #[test]
    fn entries_and_items() {
        let entry = Bytes::from_static(&PLAIN[..10]);
        assert_eq!(read_entry(b"7-0", entry.clone()).map(|publication| publication.offset), Ok(7));
        for id in ["", "-", "x-0", "-1-0", "+1-0", "99999999999999999999-0"] {
            assert_eq!(read_entry(id.as_bytes(), entry.clone()), Err(Malformed), "{id}");
        }
        let (publication, epoch) = read_item(Bytes::from_static(KEPT)).expect("an item");
        assert_eq!((publication.offset, &*epoch), (1, "LexKqETe"));
        assert_eq!(read_item(Bytes::from_static(DELTA)), Err(Malformed));
    }

    #[test]
    fn its_own_place_wins() {
        let written = Written { offset: 9, epoch: "own".into(), prev_data: "p".into(), ..Written::default() };
        let bytes = [b"__p1:1:other__", &*written.encode_to_vec()].concat();
        let Pushed::Publication { publication, place, previous } = heard(&bytes) else { panic!() };
        assert_eq!((publication.offset, place, previous), (9, Some((9, "own".into())), Some("p".into())));
    }

    #[test]
    fn what_nodes_do_not_write_is_refused() {
        let bad: [&[u8]; 16] = [
            b"__",
            b"__x__",
            b"__j_",
            b"__j__\xff",
            b"__p1:1:e",
            b"__p2:1:e__",
            b"__p1:-1:e__",
            b"__p1:1__",
            b"__d1:1:e:5:abc",
            b"__d1:1:e:0:3:\x22\x01a",
            b"__d1:1:e:0::4:\x22\x01a",
            b"__d1:1:e:18446744073709551616::0:",
            b"__d1:1:e:18446744073709551615::0:",
            b"\xff\xff",
            b"\x22\x7f",
            b"__p1:1:\xff\xfe__",
        ];
        for payload in bad {
            assert_eq!(read(Bytes::copy_from_slice(payload)), Err(Malformed), "{}", payload.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn anything_may_come(mark in "(__[jlpdx]?(1:[0-9]{0,21}:?[a-z_:]{0,9})?)?", rest: Vec<u8>) {
            let bytes = Bytes::from([mark.as_bytes(), &rest].concat());
            let _ = read(bytes.clone());
            let _ = read_entry(&rest, bytes.clone());
            let _ = read_item(bytes.clone());
            let _ = read_client(bytes);
        }

        #[test]
        fn what_was_written_comes_back(data: Vec<u8>, offset in 1u64.., epoch in "[a-zA-Z]{1,12}", version: u64) {
            let publication = Publication { data: data.into(), version, ..Publication::default() };
            let written = write(&publication, TIME);
            let placed = Arc::new(Publication { offset, ..publication.clone() });
            let place = Some((offset, CompactString::from(&epoch)));
            let kept = [format!("__p1:{offset}:{epoch}__").as_bytes(), &written].concat();
            let expected = Pushed::Publication { publication: placed.clone(), place: place.clone(), previous: None };
            prop_assert_eq!(read(kept.into()), Ok(expected));
            let len = written.len();
            let mut delta = format!("__d1:{offset}:{epoch}:{len}:").into_bytes();
            delta.extend(&written);
            delta.extend(format!(":{len}:").as_bytes());
            delta.extend(&written);
            let previous = Some(publication.data.clone()).filter(|_| len > 0);
            prop_assert_eq!(read(delta.into()), Ok(Pushed::Publication { publication: placed, place, previous }));
        }
    }
}
