//! F2 · JSON and Protobuf: commands out of a message, replies into one.
//!
//! Owns how several share a message: JSON objects with a line end between them, Protobuf with a length before each.
//! A reply that cannot be JSON (its payload is not) is an error only to JSON clients.

use super::{Command, Publication, Push, Reply};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

/// Which of the two a client speaks, from its handshake to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Encoding {
    Json = 0,
    Protobuf = 1,
}

/// A message that holds no command, or bytes that are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeError;

/// A payload is no JSON, and the peer takes nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotJson;

impl Encoding {
    /// Both, in the order of their numbers.
    pub const ALL: [Encoding; 2] = [Encoding::Json, Encoding::Protobuf];

    /// The whole message of a ping, and of the pong that answers it.
    pub fn ping(self) -> &'static [u8] {
        match self {
            Encoding::Json => b"{}",
            Encoding::Protobuf => b"\0",
        }
    }

    /// The next command of `message`, which is moved past it; `None` at its end.
    pub fn decode(self, message: &mut &[u8]) -> Option<Result<Command, DecodeError>> {
        let (one, rest) = match self {
            Encoding::Json => {
                let start = message.trim_ascii_start();
                if start.is_empty() {
                    return None;
                }
                let end = start.iter().position(|&b| b == b'\n').unwrap_or(start.len());
                start.split_at(end)
            }
            Encoding::Protobuf => {
                if message.is_empty() {
                    return None;
                }
                let mut rest = *message;
                let len = prost::decode_length_delimiter(&mut rest).ok();
                match len.and_then(|len| rest.split_at_checked(len)) {
                    Some(cut) => cut,
                    None => {
                        *message = &[];
                        return Some(Err(DecodeError));
                    }
                }
            }
        };
        *message = rest;
        Some(match self {
            // serde would take a list for a struct.
            Encoding::Json if one.first() != Some(&b'{') => Err(DecodeError),
            Encoding::Json => serde_json::from_slice(one).map_err(|_| DecodeError),
            Encoding::Protobuf => Command::decode(one).map_err(|_| DecodeError),
        })
    }

    /// Appends `reply` to a message that may hold others already. On an error `out` is as it was.
    pub fn encode(self, reply: &Reply, out: &mut Vec<u8>) -> Result<(), NotJson> {
        let before = out.len();
        match self {
            Encoding::Json => {
                if before > 0 {
                    out.push(b'\n');
                }
                serde_json::to_writer(&mut *out, reply).map_err(|_| {
                    out.truncate(before);
                    NotJson
                })
            }
            Encoding::Protobuf => {
                // Writing to a Vec cannot run out of room.
                let _ = reply.encode_length_delimited(out);
                Ok(())
            }
        }
    }

    /// Appends a push as unidirectional clients read it: no reply around it.
    pub fn encode_alone(self, push: &Push, out: &mut Vec<u8>) -> Result<(), NotJson> {
        let before = out.len();
        match self {
            Encoding::Json => serde_json::to_writer(&mut *out, push).map_err(|_| {
                out.truncate(before);
                NotJson
            }),
            Encoding::Protobuf => {
                let _ = push.encode_length_delimited(out);
                Ok(())
            }
        }
    }

    /// Appends the push of `publication` to a channel's subscribers. The same bytes as [`Encoding::encode`] would give
    /// for the reply, made without a copy of what is in it: this is done for every publication.
    pub fn encode_publication(
        self,
        channel: &str,
        publication: &Publication,
        out: &mut Vec<u8>,
    ) -> Result<(), NotJson> {
        match self {
            Encoding::Json => {
                let before = out.len();
                publication_push(channel, publication, out).map_err(|_| {
                    out.truncate(before);
                    NotJson
                })
            }
            Encoding::Protobuf => {
                let inner = publication.encoded_len();
                let name = if channel.is_empty() { 0 } else { field_len(channel.len()) };
                let push = name + field_len(inner);
                out.reserve(field_len(push) + MAX_LENGTH_LEN);
                encode_varint(field_len(push) as u64, out);
                open_field(REPLY_PUSH, push, out);
                if !channel.is_empty() {
                    open_field(PUSH_CHANNEL, channel.len(), out);
                    out.extend_from_slice(channel.as_bytes());
                }
                open_field(PUSH_PUBLICATION, inner, out);
                publication.encode_raw(out);
                Ok(())
            }
        }
    }
}

/// Numbers of the fields on the way to a publication.
const REPLY_PUSH: u32 = 4;
const PUSH_CHANNEL: u32 = 2;
const PUSH_PUBLICATION: u32 = 4;
/// Bytes of the longest length.
const MAX_LENGTH_LEN: usize = 10;

/// Bytes of a field with so many bytes in it; its number is below 16.
fn field_len(inner: usize) -> usize {
    1 + encoded_len_varint(inner as u64) + inner
}

fn open_field(number: u32, len: usize, out: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(len as u64, out);
}

fn publication_push(channel: &str, publication: &Publication, out: &mut Vec<u8>) -> serde_json::Result<()> {
    if !out.is_empty() {
        out.push(b'\n');
    }
    out.extend_from_slice(b"{\"push\":{");
    if !channel.is_empty() {
        out.extend_from_slice(b"\"channel\":");
        serde_json::to_writer(&mut *out, channel)?;
        out.push(b',');
    }
    out.extend_from_slice(b"\"pub\":");
    serde_json::to_writer(&mut *out, publication)?;
    out.extend_from_slice(b"}}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use super::*;
    use proptest::prelude::*;

    fn all(encoding: Encoding, mut message: &[u8]) -> Vec<Result<Command, DecodeError>> {
        std::iter::from_fn(|| encoding.decode(&mut message)).collect()
    }

    fn subscribe(id: u32, channel: &str) -> Command {
        let request = SubscribeRequest { channel: channel.into(), flag: 1, ..SubscribeRequest::default() };
        Command { id, subscribe: Some(request), ..Command::default() }
    }

    #[test]
    fn reads_what_the_sdks_send() {
        let connect = Command {
            id: 1,
            connect: Some(ConnectRequest { name: "js".into(), ..Default::default() }),
            ..Default::default()
        };
        let json = b"{\"connect\":{\"name\":\"js\"},\"id\":1}\n{\"subscribe\":{\"channel\":\"chat:index\",\"flag\":1},\"id\":2}\n";
        assert_eq!(all(Encoding::Json, json), [Ok(connect.clone()), Ok(subscribe(2, "chat:index"))]);
        let protobuf = b"\x08\x08\x01\x22\x04\x22\x02js\x12\x08\x02\x2a\x0e\x0a\x0achat:index\x70\x01";
        assert_eq!(all(Encoding::Protobuf, protobuf), [Ok(connect), Ok(subscribe(2, "chat:index"))]);
        assert_eq!(all(Encoding::Protobuf, b"\0"), [Ok(Command::default())], "a pong");
        assert_eq!(all(Encoding::Json, b"{}"), [Ok(Command::default())], "a pong");
    }

    #[test]
    fn refuses_what_is_no_command() {
        let deep = [&b"{\"id\":1,\"publish\":{\"data\":"[..], &b"[".repeat(100_000)].concat();
        for bad in [
            &b"x"[..],
            b"[]",
            b"{\"id\":-1}",
            b"{\"id\":NaN}",
            b"{\"id\":1,\"id\":2}",
            b"{\"id\":1}{\"id\":2}",
            b"\xff",
            b"{\"id\":\"1\"}",
            b"{\"id\":1,\"subscribe\":[\"c\"]}",
            &deep,
        ] {
            assert_eq!(all(Encoding::Json, bad).last(), Some(&Err(DecodeError)), "{:?}", &bad[..bad.len().min(40)]);
        }
        for bad in [&b"\x05\x08"[..], b"\xff", b"\x02\x0a\x00", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f"] {
            assert_eq!(all(Encoding::Protobuf, bad).last(), Some(&Err(DecodeError)), "{bad:?}");
        }
        assert!(all(Encoding::Json, b" \n ").is_empty() && all(Encoding::Protobuf, b"").is_empty());
    }

    #[test]
    fn writes_what_the_sdks_read() {
        let publication = Publication { data: "{}".into(), ..Publication::default() };
        let mut out = Vec::new();
        Encoding::Protobuf.encode_publication("c", &publication, &mut out).expect("any bytes");
        assert_eq!(out, b"\x0b\x22\x09\x12\x01c\x22\x04\x22\x02{}");
        out.clear();
        let refused = Reply { id: 7, error: Some(code::ClientError::TooManyRequests.into()), ..Reply::default() };
        Encoding::Json.encode(&refused, &mut out).expect("JSON");
        Encoding::Json
            .encode(&Reply { id: 3, subscribe: Some(SubscribeResult::default()), ..Reply::default() }, &mut out)
            .expect("JSON");
        let info = ClientInfo { conn_info: "{\"a\":\n1}".into(), ..ClientInfo::default() };
        let publication =
            Publication { data: "[1,\n\t\"\\n\"]".into(), info: Some(info), offset: 3, ..Publication::default() };
        Encoding::Json.encode_publication("c", &publication, &mut out).expect("JSON");
        let lines: Vec<&str> = std::str::from_utf8(&out).expect("UTF-8").split('\n').collect();
        assert_eq!(
            lines,
            [
                r#"{"id":7,"error":{"code":111,"message":"too many requests","temporary":true}}"#,
                r#"{"id":3,"subscribe":{}}"#,
                "{\"push\":{\"channel\":\"c\",\"pub\":{\"data\":[1, \t\"\\n\"],\"info\":{\"user\":\"\",\"client\":\"\",\"conn_info\":{\"a\": 1}},\"offset\":3}}}",
            ]
        );
    }

    #[test]
    fn a_plain_server_side_subscription_is_written_in_full() {
        let subs = vec![ServerSub { channel: "c".into(), result: Some(SubscribeResult::default()) }];
        let reply = Reply { id: 1, connect: Some(ConnectResult { subs, ..Default::default() }), ..Default::default() };
        let mut out = Vec::new();
        Encoding::Protobuf.encode(&reply, &mut out).expect("any bytes");
        assert_eq!(out, b"\x0b\x08\x01\x2a\x07\x32\x05\x0a\x01c\x12\x00");
        let mut out = Vec::new();
        Encoding::Json.encode(&reply, &mut out).expect("JSON");
        assert_eq!(std::str::from_utf8(&out), Ok(r#"{"id":1,"connect":{"subs":{"c":{}}}}"#));
        assert_eq!(serde_json::from_slice::<Reply>(&out).ok(), Some(reply));
    }

    #[test]
    fn a_payload_that_is_no_json_is_for_protobuf_alone() {
        for data in [&b"\xff"[..], b"{", b"1 2", b"plain"] {
            let publication = Publication { data: Bytes::copy_from_slice(data), ..Publication::default() };
            let mut out = b"{}".to_vec();
            assert_eq!(Encoding::Json.encode_publication("c", &publication, &mut out), Err(NotJson));
            assert_eq!(out, b"{}");
            assert!(Encoding::Protobuf.encode_publication("c", &publication, &mut out).is_ok());
        }
    }

    proptest! {
        #[test]
        fn a_publication_is_encoded_as_any_reply(channel in ".{0,20}", data in any::<i64>(), offset in 0u64..3, tags in prop::collection::hash_map(".{0,3}", ".{0,3}", 0..2)) {
            let publication = Publication { data: data.to_string().into(), offset, tags, ..Publication::default() };
            let push = Push { channel: channel.clone(), publication: Some(publication.clone()), ..Push::default() };
            let reply = Reply { push: Some(push), ..Reply::default() };
            for encoding in Encoding::ALL {
                for before in [&b""[..], b"x"] {
                    let (mut one, mut other) = (before.to_vec(), before.to_vec());
                    encoding.encode_publication(&channel, &publication, &mut one).expect("JSON");
                    encoding.encode(&reply, &mut other).expect("JSON");
                    prop_assert_eq!(&one, &other);
                }
            }
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for encoding in Encoding::ALL {
                prop_assert!(all(encoding, &bytes).len() <= bytes.len());
            }
        }

        #[test]
        fn commands_survive_the_way(id in any::<u32>(), channel in ".{0,40}", data in any::<i64>()) {
            let publish = PublishRequest { channel, data: data.to_string().into(), kind: 0 };
            let command = Command { id, publish: Some(publish), ..Command::default() };
            let json = serde_json::to_vec(&command).expect("JSON");
            prop_assert_eq!(all(Encoding::Json, &json), [Ok(command.clone())]);
            let protobuf = command.encode_length_delimited_to_vec();
            prop_assert_eq!(all(Encoding::Protobuf, &protobuf), [Ok(command)]);
        }
    }
}
