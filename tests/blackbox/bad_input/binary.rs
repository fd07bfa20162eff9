//! In Protobuf.

use super::Outcome::*;
use super::schema::{Field, Kind, Method, good, methods};
use super::{CHANNEL, ID, Trial, encoded, with, without};
use gannet::protocol::Encoding;
use serde_json::{Value, json};

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn key(tag: u8, wire_type: u8) -> Vec<u8> {
    varint(u64::from(tag) << 3 | u64::from(wire_type))
}

/// A field of bytes.
fn bytes(tag: u8, content: &[u8]) -> Vec<u8> {
    [key(tag, 2), varint(content.len() as u64), content.to_vec()].concat()
}

/// The fields of a request, without a command around them.
fn body(method: &Method, request: &Value) -> Vec<u8> {
    let whole = encoded(Encoding::Protobuf, &json!({ "id": ID, method.name: request }));
    // Each length ends with its first byte below 0x80: that of the command; then its id, and the request's key.
    let varint_len = |bytes: &[u8]| 1 + bytes.iter().position(|byte| byte & 0x80 == 0).expect("an end");
    let inner = &whole[varint_len(&whole)..][2..];
    assert_eq!(inner[0], method.tag << 3 | 2, "{}", method.name);
    inner[1..][varint_len(&inner[1..])..].to_vec()
}

fn message(method: &Method, body: &[u8]) -> Vec<u8> {
    let command = [vec![8, ID as u8], bytes(method.tag, body)].concat();
    [varint(command.len() as u64), command].concat()
}

/// `raw` where the field is: a message that stands twice is put together of both, so it goes to the end.
fn appended(method: &Method, request: &Value, field: &Field, raw: &[u8]) -> Vec<u8> {
    let (_, around) = field.tags.split_last().expect("a tag");
    let mut raw = raw.to_vec();
    for (depth, tag) in around.iter().enumerate().rev() {
        raw = bytes(*tag, &raw);
        // A map's entry has its key before the value.
        if field.at.starts_with("/subs/") && depth == 1 {
            raw = [bytes(1, CHANNEL.as_bytes()), raw].concat();
        }
    }
    message(method, &[body(method, request), raw].concat())
}

fn wire_type(kind: Kind) -> u8 {
    match kind {
        Kind::Bool | Kind::Uint64 | Kind::Int64 | Kind::Int32 => 0,
        _ => 2,
    }
}

/// What cannot be read as this field.
fn broken(field: &Field) -> Vec<Vec<u8>> {
    let tag = *field.tags.last().expect("a tag");
    let own = wire_type(field.kind);
    let value = |wire_type: u8| match wire_type {
        0 => vec![1],
        1 => vec![0; 8],
        5 => vec![0; 4],
        _ => vec![1, 0x31],
    };
    let mut all: Vec<Vec<u8>> =
        [0, 1, 2, 5].into_iter().filter(|it| *it != own).map(|it| [key(tag, it), value(it)].concat()).collect();
    // Kinds of field that there are not, groups among them, open for ever.
    all.extend([6, 7].map(|it| key(tag, it)));
    all.push(key(tag, 3).repeat(1000));
    all.push(key(tag, own));
    all.push([key(tag, own), vec![0xff; 10]].concat());
    all.push([key(tag, own), vec![0x80; 20]].concat());
    if own == 2 {
        all.push([key(tag, 2), varint(1 << 62)].concat());
        all.push([key(tag, 2), varint(3), b"ab".to_vec()].concat());
    }
    match field.kind {
        Kind::Text | Kind::ListOfTexts => all.extend([&b"\xff"[..], b"\xc3", b"\xed\xa0\x80"].map(|it| bytes(tag, it))),
        Kind::Texts => all.push(bytes(tag, &bytes(2, b"\xff"))),
        Kind::ListOfObjects => {
            let deep = (0..1000).fold(Vec::new(), |inner, _| bytes(tag, &inner));
            all.push(deep);
        }
        _ => {}
    }
    all
}

fn extremes(kind: Kind) -> Vec<Value> {
    match kind {
        Kind::Text => vec!["x".repeat(60_000).into()],
        Kind::Data => vec!["x".repeat(60_000).into(), Value::Null],
        Kind::Uint64 => vec![u64::MAX.into()],
        Kind::Int32 => vec![i32::MAX.into(), i32::MIN.into(), (-1).into()],
        Kind::Int64 => vec![i64::MIN.into()],
        _ => Vec::new(),
    }
}

fn try_method(trial: &mut Trial, method: &Method) {
    let (name, request) = (method.name, good(method.name));
    let sound = message(method, &body(method, &request));
    trial.try_one(name, &sound, method.outcome, "all is well");
    for (what, command) in [
        ("a number for a request", [vec![8, ID as u8], key(method.tag, 0), vec![1]].concat()),
        ("a request longer than its command", [vec![8, ID as u8], key(method.tag, 2), vec![100]].concat()),
        ("text for an id", [bytes(1, b"7"), bytes(method.tag, &body(method, &request))].concat()),
        ("a field without a number", [vec![8, ID as u8, 0, 1], bytes(method.tag, &body(method, &request))].concat()),
    ] {
        let message = [varint(command.len() as u64), command].concat();
        trial.try_one(name, &message, Closed(3501), what);
    }
    trial.try_one(name, &sound[..sound.len() - 1], Closed(3501), "cut");
    let unknown = [body(method, &request), bytes(100, &[0xff; 100]), [key(90, 0), vec![1]].concat()].concat();
    trial.try_one(name, &message(method, &unknown), method.outcome, "unknown fields");
    for field in method.fields {
        let what = format!("{name}{}", field.at);
        let missing = message(method, &body(method, &without(&request, field.at)));
        trial.try_one(name, &missing, field.missing, &format!("{what} is missing"));
        for raw in broken(field) {
            let message = appended(method, &request, field, &raw);
            trial.try_one(name, &message, Closed(3501), &format!("{what} is broken by {}", raw.escape_ascii()));
        }
        for value in extremes(field.kind) {
            let message = message(method, &body(method, &with(&request, field.at, value)));
            trial.try_one(name, &message, field.extreme, &format!("{what} is extreme"));
        }
        if field.kind == Kind::Data {
            let raw = bytes(*field.tags.last().expect("a tag"), b"\xff\xfe");
            let message = appended(method, &request, field, &raw);
            trial.try_one(name, &message, method.outcome, &format!("{what} may be any bytes"));
        }
    }
}

#[test]
fn each_field_of_each_command_in_protobuf() {
    let mut trial = Trial::begin(Encoding::Protobuf);
    methods().iter().for_each(|method| try_method(&mut trial, method));
    trial.end();
}
