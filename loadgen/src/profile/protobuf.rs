//! The Protobuf encoding, by hand: each message behind its length, fields as tags and values.

use super::{Heard, Names, Past, Spot, Subscribed};
use crate::stamp::Stamp;

const NAME: &[u8] = b"gannet-loadgen";

// Field numbers of the messages used.
const COMMAND_ID: u32 = 1;
const COMMAND_CONNECT: u32 = 4;
const COMMAND_SUBSCRIBE: u32 = 5;
const COMMAND_PUBLISH: u32 = 7;
const CONNECT_TOKEN: u32 = 1;
const CONNECT_NAME: u32 = 4;
const SUBSCRIBE_CHANNEL: u32 = 1;
const SUBSCRIBE_RECOVER: u32 = 3;
const SUBSCRIBE_EPOCH: u32 = 6;
const SUBSCRIBE_OFFSET: u32 = 7;
const SUBSCRIBE_RECOVERABLE: u32 = 10;
const PUBLISH_CHANNEL: u32 = 1;
const PUBLISH_DATA: u32 = 2;
const REPLY_ID: u32 = 1;
const REPLY_ERROR: u32 = 2;
const REPLY_PUSH: u32 = 4;
const REPLY_SUBSCRIBE: u32 = 6;
const ERROR_CODE: u32 = 1;
const PUSH_CHANNEL: u32 = 2;
const PUSH_PUBLICATION: u32 = 4;
const PUSH_UNSUBSCRIBE: u32 = 7;
const PUBLICATION_DATA: u32 = 4;
const PUBLICATION_OFFSET: u32 = 6;
const SUBSCRIBED_RECOVERABLE: u32 = 3;
const SUBSCRIBED_EPOCH: u32 = 6;
const SUBSCRIBED_PUBLICATIONS: u32 = 7;
const SUBSCRIBED_RECOVERED: u32 = 8;
const SUBSCRIBED_OFFSET: u32 = 9;
const UNSUBSCRIBE_CODE: u32 = 2;

pub fn connect(token: Option<&str>, out: &mut Vec<u8>) {
    command(1, COMMAND_CONNECT, out, |request| {
        if let Some(token) = token {
            put_bytes(CONNECT_TOKEN, token.as_bytes(), request);
        }
        put_bytes(CONNECT_NAME, NAME, request);
    });
}

pub fn subscribe(id: u32, channel: &str, past: Past<'_>, out: &mut Vec<u8>) {
    command(id, COMMAND_SUBSCRIBE, out, |request| {
        put_bytes(SUBSCRIBE_CHANNEL, channel.as_bytes(), request);
        if let Past::Since(offset, epoch) = past {
            put_number(SUBSCRIBE_RECOVER, 1, request);
            put_bytes(SUBSCRIBE_EPOCH, epoch.as_bytes(), request);
            put_number(SUBSCRIBE_OFFSET, offset, request);
        }
        if past != Past::Ignored {
            put_number(SUBSCRIBE_RECOVERABLE, 1, request);
        }
    });
}

/// The payload goes out as a JSON string in quotes, so that subscribers of both encodings can have it.
pub fn publish(id: u32, channel: &str, payload: &[u8], out: &mut Vec<u8>) {
    command(id, COMMAND_PUBLISH, out, |request| {
        put_bytes(PUBLISH_CHANNEL, channel.as_bytes(), request);
        put_tag(PUBLISH_DATA, 2, request);
        put_varint(payload.len() as u64 + 2, request);
        request.push(b'"');
        request.extend_from_slice(payload);
        request.push(b'"');
    });
}

/// Appends a command behind its length.
fn command(id: u32, field: u32, out: &mut Vec<u8>, request: impl FnOnce(&mut Vec<u8>)) {
    let (mut inner, mut whole) = (Vec::new(), Vec::new());
    request(&mut inner);
    put_number(COMMAND_ID, u64::from(id), &mut whole);
    put_bytes(field, &inner, &mut whole);
    put_varint(whole.len() as u64, out);
    out.extend_from_slice(&whole);
}

fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_tag(field: u32, wire_type: u32, out: &mut Vec<u8>) {
    put_varint(u64::from(field << 3 | wire_type), out);
}

fn put_number(field: u32, number: u64, out: &mut Vec<u8>) {
    put_tag(field, 0, out);
    put_varint(number, out);
}

fn put_bytes(field: u32, bytes: &[u8], out: &mut Vec<u8>) {
    put_tag(field, 2, out);
    put_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn take_bytes<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::try_from(take_varint(bytes)?).ok()?;
    let (taken, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(taken)
}

/// A field's value.
#[derive(Clone, Copy)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Shows each field; None = the bytes are no message.
fn fields<'a>(mut bytes: &'a [u8], mut seen: impl FnMut(u32, Value<'a>)) -> Option<()> {
    while !bytes.is_empty() {
        let tag = take_varint(&mut bytes)?;
        let field = u32::try_from(tag >> 3).ok().filter(|field| *field > 0)?;
        match tag & 7 {
            0 => seen(field, Value::Number(take_varint(&mut bytes)?)),
            1 => bytes = bytes.get(8..)?,
            2 => seen(field, Value::Bytes(take_bytes(&mut bytes)?)),
            5 => bytes = bytes.get(4..)?,
            _ => return None,
        }
    }
    Some(())
}

/// Shows everything a message says.
pub fn hear(mut message: &[u8], names: &Names, mut heard: impl FnMut(Heard)) {
    if message.is_empty() {
        heard(Heard::Nonsense);
    }
    while !message.is_empty() {
        let Some(reply) = take_bytes(&mut message) else { return heard(Heard::Nonsense) };
        heard(match reply {
            [] => Heard::Ping,
            _ => judge(reply, names).unwrap_or(Heard::Nonsense),
        });
    }
}

fn judge(reply: &[u8], names: &Names) -> Option<Heard> {
    let (mut id, mut error, mut push, mut subscribe) = (0, None, None, None);
    fields(reply, |field, value| match (field, value) {
        (REPLY_ID, Value::Number(number)) => id = number as u32,
        (REPLY_ERROR, Value::Bytes(bytes)) => error = Some(bytes),
        (REPLY_PUSH, Value::Bytes(bytes)) => push = Some(bytes),
        (REPLY_SUBSCRIBE, Value::Bytes(bytes)) => subscribe = Some(bytes),
        _ => {}
    })?;
    match (id, push) {
        (0, Some(push)) => judge_push(push, names),
        (0, None) | (_, Some(_)) => None,
        (id, None) => {
            if let Some(subscribe) = subscribe
                && error.is_none()
                && let Some(subscribed) = subscribed(id, subscribe)?
            {
                return Some(Heard::Subscribed(Box::new(subscribed)));
            }
            let error = error.map_or(Some(0), |error| Some(number_in(error, ERROR_CODE)?.max(1)))?;
            Some(Heard::Reply { id, error })
        }
    }
}

fn judge_push(push: &[u8], names: &Names) -> Option<Heard> {
    let (mut channel, mut publication, mut unsubscribe) = (None, None, None);
    fields(push, |field, value| match (field, value) {
        (PUSH_CHANNEL, Value::Bytes(bytes)) => channel = std::str::from_utf8(bytes).ok(),
        (PUSH_PUBLICATION, Value::Bytes(bytes)) => publication = Some(bytes),
        (PUSH_UNSUBSCRIBE, Value::Bytes(bytes)) => unsubscribe = Some(bytes),
        _ => {}
    })?;
    let channel = channel.and_then(|name| names.number(name));
    if let Some(unsubscribe) = unsubscribe {
        return Some(Heard::Unsubscribed(number_in(unsubscribe, UNSUBSCRIBE_CODE)?, channel));
    }
    let Some(publication) = publication else { return Some(Heard::Other) };
    let (stamp, offset) = judge_publication(publication)?;
    let spot = Spot { channel, offset };
    Some(stamp.map_or(Heard::Unstamped(spot), |stamp| Heard::Publication(stamp, spot)))
}

/// The stamp in a publication, if there is one, and its offset.
fn judge_publication(publication: &[u8]) -> Option<(Option<Stamp>, u64)> {
    let (mut stamp, mut offset) = (None, 0);
    fields(publication, |field, value| match (field, value) {
        (PUBLICATION_DATA, Value::Bytes(data)) => stamp = Stamp::find(data),
        (PUBLICATION_OFFSET, Value::Number(number)) => offset = number,
        _ => {}
    })?;
    Some((stamp, offset))
}

/// The answer to a subscribe: no bytes of a message, or nothing that can be recovered, or a position.
fn subscribed(id: u32, result: &[u8]) -> Option<Option<Subscribed>> {
    let (mut recoverable, mut is_sound, mut found) = (false, true, Subscribed { id, ..Subscribed::default() });
    fields(result, |field, value| match (field, value) {
        (SUBSCRIBED_RECOVERABLE, Value::Number(number)) => recoverable = number != 0,
        (SUBSCRIBED_EPOCH, Value::Bytes(bytes)) => found.epoch = String::from_utf8_lossy(bytes).into_owned(),
        (SUBSCRIBED_PUBLICATIONS, Value::Bytes(bytes)) => match judge_publication(bytes) {
            Some(publication) => found.publications.push(publication),
            None => is_sound = false,
        },
        (SUBSCRIBED_RECOVERED, Value::Number(number)) => found.recovered = number != 0,
        (SUBSCRIBED_OFFSET, Value::Number(number)) => found.offset = number,
        _ => {}
    })?;
    is_sound.then_some(recoverable.then_some(found))
}

fn number_in(message: &[u8], wanted: u32) -> Option<u32> {
    let mut found = 0;
    fields(message, |field, value| {
        if let Value::Number(number) = value
            && field == wanted
        {
            found = number as u32;
        }
    })?;
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(message: &[u8]) -> Vec<Heard> {
        let mut all = Vec::new();
        hear(message, &Names { prefix: "load-".to_owned() }, |heard| all.push(heard));
        all
    }

    /// The worked bytes of the protocol's description, with this program's name in place of "js".
    #[test]
    fn the_worked_connect_command() {
        let mut out = Vec::new();
        command(1, COMMAND_CONNECT, &mut out, |request| put_bytes(CONNECT_NAME, b"js", request));
        assert_eq!(out, [0x08, 0x08, 0x01, 0x22, 0x04, 0x22, 0x02, 0x6a, 0x73]);
        out.clear();
        command(1, COMMAND_CONNECT, &mut out, |_| {});
        assert_eq!(out, [0x04, 0x08, 0x01, 0x22, 0x00]);
        out.clear();
        connect(None, &mut out);
        assert_eq!(out, [&[0x14, 0x08, 0x01, 0x22, 0x10, 0x22, 0x0e][..], NAME].concat());
    }

    #[test]
    fn the_worked_publication() {
        let bytes = [0x0b, 0x22, 0x09, 0x12, 0x01, 0x63, 0x22, 0x04, 0x22, 0x02, 0x7b, 0x7d];
        assert_eq!(all(&bytes), [Heard::Unstamped(Spot::default())]);
        let expected = [Heard::Ping, Heard::Unstamped(Spot::default()), Heard::Ping];
        assert_eq!(all(&[&[0][..], &bytes, &[0]].concat()), expected);
        for end in 1..bytes.len() {
            assert_eq!(all(&bytes[..end]), [Heard::Nonsense], "cut at {end}");
        }
    }

    #[test]
    fn a_stamped_publication_comes_back_with_its_channel() {
        let stamp = Stamp { run: 9, speaker: 1, sequence: 2, due: 3 };
        let (mut data, mut publication, mut push, mut reply) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        stamp.write(300, &mut data);
        put_bytes(PUBLICATION_DATA, &data, &mut publication);
        put_number(PUBLICATION_OFFSET, 300, &mut publication);
        put_bytes(PUSH_CHANNEL, b"load-12", &mut push);
        put_bytes(PUSH_PUBLICATION, &publication, &mut push);
        put_bytes(REPLY_PUSH, &push, &mut reply);
        let mut message = Vec::new();
        put_varint(reply.len() as u64, &mut message);
        message.extend_from_slice(&reply);
        assert_eq!(all(&message), [Heard::Publication(stamp, Spot { channel: Some(12), offset: 300 })]);
    }

    #[test]
    fn replies_and_errors() {
        assert_eq!(all(&[0x04, 0x08, 0x02, 0x32, 0x00]), [Heard::Reply { id: 2, error: 0 }]);
        assert_eq!(all(&[0x06, 0x08, 0x07, 0x12, 0x02, 0x08, 0x67]), [Heard::Reply { id: 7, error: 103 }]);
        assert_eq!(all(&[0x05, 0x22, 0x03, 0x3a, 0x01, 0x10]), [Heard::Nonsense]);
        assert_eq!(all(&[0x07, 0x22, 0x05, 0x3a, 0x03, 0x10, 0xc4, 0x13]), [Heard::Unsubscribed(2500, None)]);
        assert_eq!(all(b""), [Heard::Nonsense]);
    }

    #[test]
    fn publish_puts_the_payload_in_quotes() {
        let mut out = Vec::new();
        publish(300, "c", b"xy", &mut out);
        assert_eq!(out, [&[14, 0x08, 0xac, 0x02, 0x3a, 9, 0x0a, 1][..], b"c", &[0x12, 4], b"\"xy\""].concat());
    }

    #[test]
    fn subscribe_asks_for_the_past() {
        let asked = |past| {
            let mut out = Vec::new();
            subscribe(2, "c", past, &mut out);
            out
        };
        assert_eq!(asked(Past::Ignored), [7, 8, 2, 0x2a, 3, 0x0a, 1, b'c']);
        assert_eq!(asked(Past::Followed), [9, 8, 2, 0x2a, 5, 0x0a, 1, b'c', 0x50, 1]);
        let since = [16, 8, 2, 0x2a, 12, 0x0a, 1, b'c', 0x18, 1, 0x32, 1, b'e', 0x38, 7, 0x50, 1];
        assert_eq!(asked(Past::Since(7, "e")), since);
    }

    #[test]
    fn subscribe_replies_tell_positions_and_what_was_missed() {
        let stamp = Stamp { run: 9, speaker: 1, sequence: 2, due: 3 };
        let (mut data, mut first, mut second, mut result) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        stamp.write(0, &mut data);
        put_bytes(PUBLICATION_DATA, &data, &mut first);
        put_number(PUBLICATION_OFFSET, 3, &mut first);
        put_bytes(PUBLICATION_DATA, b"{}", &mut second);
        put_number(PUBLICATION_OFFSET, 4, &mut second);
        put_number(SUBSCRIBED_RECOVERABLE, 1, &mut result);
        put_bytes(SUBSCRIBED_EPOCH, b"abcd", &mut result);
        put_bytes(SUBSCRIBED_PUBLICATIONS, &first, &mut result);
        put_bytes(SUBSCRIBED_PUBLICATIONS, &second, &mut result);
        put_number(SUBSCRIBED_RECOVERED, 1, &mut result);
        put_number(SUBSCRIBED_OFFSET, 2, &mut result);
        let reply = |result: &[u8]| {
            let mut out = Vec::new();
            command(2, REPLY_SUBSCRIBE, &mut out, |inner| inner.extend_from_slice(result));
            all(&out)
        };
        let publications = vec![(Some(stamp), 3), (None, 4)];
        let expected = Subscribed { id: 2, recovered: true, offset: 2, epoch: "abcd".to_owned(), publications };
        assert_eq!(reply(&result), [Heard::Subscribed(Box::new(expected))]);
        assert_eq!(reply(&[]), [Heard::Reply { id: 2, error: 0 }]);
        assert_eq!(reply(&[0x3a, 2, 0x22, 9]), [Heard::Nonsense], "a publication cut short");
        assert_eq!(reply(&[0x18]), [Heard::Nonsense]);
    }
}
