//! F10 · What stands in messages of NATS: bytes to values and back.
//!
//! Owns the Protobuf that nodes write, which is that of Centrifugo. Anyone who can reach the server can publish
//! anything: nothing here panics, and what cannot be read is an error. Never speaks to a server.

use crate::engine::written::Written;
use crate::protocol::{ClientInfo, PresencePush, Publication};
use bytes::Bytes;
use prost::Message;

/// What was heard of a channel.
#[derive(Debug, Clone, PartialEq)]
pub enum NatsHeard {
    Publication(Publication),
    /// Somebody came or went.
    Presence {
        info: ClientInfo,
        joined: bool,
    },
}

/// It is not what nodes write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoPush;

#[derive(Clone, PartialEq, Message)]
struct NatsPush {
    #[prost(string, tag = "2")]
    channel: String,
    #[prost(message, optional, tag = "4")]
    publication: Option<Written>,
    #[prost(message, optional, tag = "5")]
    join: Option<PresencePush>,
    #[prost(message, optional, tag = "6")]
    leave: Option<PresencePush>,
}

pub fn write(channel: &str, publication: &Publication, delta: bool, unix_ms: u64) -> Vec<u8> {
    // Nobody keeps versions here.
    let written = Written { delta, version: 0, ..Written::of(publication, unix_ms) };
    NatsPush { channel: channel.into(), publication: Some(written), ..NatsPush::default() }.encode_to_vec()
}

/// Somebody comes or goes.
pub fn write_presence(channel: &str, info: &ClientInfo, joined: bool) -> Vec<u8> {
    let push = Some(PresencePush { info: Some(info.clone()) });
    let (join, leave) = if joined { (push, None) } else { (None, push) };
    NatsPush { channel: channel.into(), join, leave, ..NatsPush::default() }.encode_to_vec()
}

/// `channel`: by its subject. A message that says that it is another's is nobody's.
pub fn read(channel: &str, payload: Bytes) -> Result<NatsHeard, NoPush> {
    let push = NatsPush::decode(payload).map_err(|_| NoPush)?;
    if push.channel != channel {
        return Err(NoPush);
    }
    if let Some(Written { data, info, tags, .. }) = push.publication {
        return Ok(NatsHeard::Publication(Publication { data, info, tags, ..Publication::default() }));
    }
    let joined = push.join.is_some();
    let info = push.join.or(push.leave).ok_or(NoPush)?.info.ok_or(NoPush)?;
    Ok(NatsHeard::Presence { info, joined })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    /// A publication as a recording of a Centrifugo node has it, in what goes around it in NATS.
    const PUBLISHED: &[u8] = b"\x12\x05plain\"\x19\"\x08{\"n\": 1}:\x06\n\x01k\x12\x01vH\xa1\xde\xf8\xb4\xa24";
    const JOINED: &[u8] = b"\x12\x04pr:a*(\n&\x12$34e544ed-55e8-4b20-bb91-3bf6ff185759";
    const TIME: u64 = 1_795_944_230_689;

    fn publication() -> Publication {
        let tags = HashMap::from([("k".to_owned(), "v".to_owned())]);
        Publication { data: r#"{"n": 1}"#.into(), tags, ..Publication::default() }
    }

    fn info() -> ClientInfo {
        ClientInfo { client: "34e544ed-55e8-4b20-bb91-3bf6ff185759".into(), ..ClientInfo::default() }
    }

    #[test]
    fn messages_are_those_of_centrifugo() {
        assert_eq!(write("plain", &publication(), false, TIME), PUBLISHED);
        assert_eq!(write_presence("pr:a", &info(), true), JOINED);
        let left = JOINED.iter().map(|byte| if *byte == b'*' { b'2' } else { *byte }).collect::<Vec<u8>>();
        assert_eq!(write_presence("pr:a", &info(), false), left);
        assert_eq!(read("plain", PUBLISHED.into()), Ok(NatsHeard::Publication(publication())));
        assert_eq!(read("pr:a", JOINED.into()), Ok(NatsHeard::Presence { info: info(), joined: true }));
        assert_eq!(read("pr:a", left.into()), Ok(NatsHeard::Presence { info: info(), joined: false }));
        let delta = write("plain", &publication(), true, TIME);
        assert_eq!(read("plain", delta.into()), Ok(NatsHeard::Publication(publication())));
    }

    #[test]
    fn what_is_not_for_the_channel_is_nothing() {
        assert_eq!(read("other", PUBLISHED.into()), Err(NoPush));
        for bad in [&b""[..], b"\x12\x05plain", b"\x12\x05plain\"\xff", b"{\"a\":1}", b"\x12\x05plain*\0"] {
            assert_eq!(read("plain", Bytes::from_static(bad)), Err(NoPush), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            // What comes of them matters to nobody.
            let _ = read("plain", [b"\x12\x05plain", &bytes[..]].concat().into());
            let _ = read("", bytes.into());
        }
    }
}
