//! Every command and every field of it: a good value, and what becomes of a command without it or with too much in it.
//! That nothing is left out is a test: the types of `gannet::protocol` are asked for their fields.

use super::Outcome::{self, *};
use super::{CHANNEL, USER};
use crate::client::{now, token};
use gannet::protocol as wire;
use serde::de::value::Error;
use serde::{Deserialize, Deserializer, de};
use serde_json::{Value, json};
use std::collections::BTreeSet;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    Bool,
    Uint64,
    Int64,
    Int32,
    /// Any JSON value; any bytes in Protobuf.
    Data,
    Object,
    /// An object with keys of the sender's choice: of texts, or of objects.
    Texts,
    Objects,
    ListOfTexts,
    ListOfObjects,
}
use Kind::*;

pub struct Field {
    /// A JSON pointer from the request: the last part is the field's name.
    pub at: &'static str,
    /// The numbers of the fields on the way, itself last. A key of a map stands for its entry.
    pub tags: &'static [u8],
    pub kind: Kind,
    /// Of the command without it.
    pub missing: Outcome,
    /// Of the command with as much in it as fits its type: a long text, a large number, deep data.
    pub extreme: Outcome,
}

pub struct Method {
    pub name: &'static str,
    pub tag: u8,
    /// Of the good command.
    pub outcome: Outcome,
    pub fields: &'static [Field],
}

const fn field(at: &'static str, tags: &'static [u8], kind: Kind, missing: Outcome, extreme: Outcome) -> Field {
    Field { at, tags, kind, missing, extreme }
}

const METHODS: [Method; 12] = [
    Method { name: "connect", tag: 4, outcome: Answered, fields: CONNECT },
    Method { name: "subscribe", tag: 5, outcome: Answered, fields: SUBSCRIBE },
    Method { name: "unsubscribe", tag: 6, outcome: Answered, fields: UNSUBSCRIBE },
    Method { name: "publish", tag: 7, outcome: Answered, fields: PUBLISH },
    Method { name: "presence", tag: 8, outcome: Answered, fields: CHANNEL_ALONE },
    Method { name: "presence_stats", tag: 9, outcome: Answered, fields: CHANNEL_ALONE },
    Method { name: "history", tag: 10, outcome: Answered, fields: HISTORY },
    Method { name: "ping", tag: 11, outcome: Closed(3501), fields: &[] },
    Method { name: "send", tag: 12, outcome: Closed(3508), fields: SEND },
    Method { name: "rpc", tag: 13, outcome: Error(108), fields: RPC },
    Method { name: "refresh", tag: 14, outcome: Answered, fields: REFRESH },
    Method { name: "sub_refresh", tag: 15, outcome: Answered, fields: SUB_REFRESH },
];

/// All of them, in the order in which one object with several of them is read.
pub fn methods() -> &'static [Method] {
    const ALL: &[Method] = &METHODS;
    ALL
}

const CONNECT: &[Field] = &[
    field("/token", &[1], Text, Closed(3501), Closed(3500)),
    field("/data", &[2], Data, Answered, Answered),
    field("/subs", &[3], Objects, Answered, Answered),
    field("/subs/ns:c/recover", &[3, 2, 3], Bool, Answered, Answered),
    field("/subs/ns:c/epoch", &[3, 2, 6], Text, Answered, Answered),
    field("/subs/ns:c/offset", &[3, 2, 7], Uint64, Answered, Answered),
    field("/name", &[4], Text, Answered, Answered),
    field("/version", &[5], Text, Answered, Answered),
    field("/headers", &[6], Texts, Answered, Answered),
];
const SUBSCRIBE: &[Field] = &[
    field("/channel", &[1], Text, Closed(3501), Error(107)),
    field("/token", &[2], Text, Answered, Error(103)),
    field("/recover", &[3], Bool, Answered, Answered),
    field("/epoch", &[6], Text, Answered, Answered),
    field("/offset", &[7], Uint64, Answered, Answered),
    field("/data", &[8], Data, Answered, Answered),
    field("/positioned", &[9], Bool, Answered, Answered),
    field("/recoverable", &[10], Bool, Answered, Answered),
    field("/join_leave", &[11], Bool, Answered, Answered),
    field("/delta", &[12], Text, Answered, Closed(3501)),
    field("/tf", &[13], Object, Answered, Answered),
    field("/tf/op", &[13, 1], Text, Error(107), Error(107)),
    field("/tf/key", &[13, 2], Text, Answered, Answered),
    field("/tf/cmp", &[13, 3], Text, Answered, Answered),
    field("/tf/val", &[13, 4], Text, Answered, Answered),
    field("/tf/vals", &[13, 5], ListOfTexts, Answered, Answered),
    field("/tf/nodes", &[13, 6], ListOfObjects, Error(107), Error(107)),
    field("/tf/nodes/0/op", &[13, 6, 1], Text, Answered, Error(107)),
    field("/tf/nodes/0/key", &[13, 6, 2], Text, Error(107), Error(107)),
    field("/tf/nodes/0/cmp", &[13, 6, 3], Text, Error(107), Error(107)),
    field("/tf/nodes/0/val", &[13, 6, 4], Text, Error(107), Error(107)),
    field("/tf/nodes/0/vals", &[13, 6, 5], ListOfTexts, Answered, Error(107)),
    field("/tf/nodes/0/nodes", &[13, 6, 6], ListOfObjects, Answered, Answered),
    field("/flag", &[14], Int64, Answered, Answered),
    field("/type", &[15], Int32, Answered, Error(103)),
];
const UNSUBSCRIBE: &[Field] = &[field("/channel", &[1], Text, Closed(3501), Answered)];
const PUBLISH: &[Field] = &[
    field("/channel", &[1], Text, Closed(3501), Error(107)),
    field("/data", &[2], Data, Error(107), Answered),
    field("/type", &[3], Int32, Answered, Error(103)),
];
const CHANNEL_ALONE: &[Field] = &[field("/channel", &[1], Text, Closed(3501), Error(107))];
const HISTORY: &[Field] = &[
    field("/channel", &[1], Text, Closed(3501), Error(107)),
    field("/limit", &[7], Int32, Answered, Answered),
    field("/since", &[8], Object, Answered, Answered),
    // What comes before the first there is nothing of, in the order of the good request.
    field("/since/offset", &[8, 1], Uint64, Error(107), Answered),
    field("/since/epoch", &[8, 2], Text, Answered, Error(112)),
    field("/reverse", &[9], Bool, Answered, Answered),
];
const SEND: &[Field] = &[field("/data", &[1], Data, Closed(3508), Closed(3508))];
const RPC: &[Field] =
    &[field("/data", &[1], Data, Error(108), Error(108)), field("/method", &[2], Text, Error(108), Error(108))];
const REFRESH: &[Field] = &[field("/token", &[1], Text, Closed(3501), Closed(3500))];
const SUB_REFRESH: &[Field] = &[
    field("/channel", &[1], Text, Closed(3501), Error(103)),
    field("/token", &[2], Text, Error(107), Closed(3500)),
    field("/type", &[3], Int32, Answered, Answered),
];

/// The good request of a method, each field with something in it.
pub fn good(method: &str) -> Value {
    let connection = token(&json!({ "sub": USER }));
    let subscription = token(&json!({ "sub": USER, "channel": CHANNEL, "exp": now() + 1000 }));
    match method {
        "connect" => {
            let subs = json!({ CHANNEL: { "recover": true, "epoch": "abcdefgh", "offset": 7 } });
            json!({ "token": connection, "data": { "a": 1 }, "subs": subs, "name": "n", "version": "v",
                "headers": { "h": "v" } })
        }
        "subscribe" => {
            let leaf = json!({ "op": "", "key": "k", "cmp": "eq", "val": "v", "vals": [], "nodes": [] });
            let filter = json!({ "op": "not", "key": "k", "cmp": "c", "val": "v", "vals": ["v"], "nodes": [leaf] });
            json!({ "channel": CHANNEL, "token": subscription, "recover": true, "epoch": "abcdefgh", "offset": 7,
                "data": { "a": 1 }, "positioned": true, "recoverable": true, "join_leave": true, "delta": "",
                "tf": filter, "flag": 1, "type": 0 })
        }
        "publish" => json!({ "channel": CHANNEL, "data": { "a": 1 }, "type": 0 }),
        "history" => {
            json!({ "channel": CHANNEL, "limit": 2, "since": { "offset": 7, "epoch": "" }, "reverse": true })
        }
        "send" => json!({ "data": 1 }),
        "rpc" => json!({ "data": 1, "method": "m" }),
        "refresh" => json!({ "token": connection }),
        "sub_refresh" => json!({ "channel": CHANNEL, "token": subscription, "type": 0 }),
        "ping" => json!({}),
        _ => json!({ "channel": CHANNEL }),
    }
}

/// Writes down the fields of the type that is to be made of it.
struct Lister<'a>(&'a mut BTreeSet<String>);

impl<'de> Deserializer<'de> for Lister<'_> {
    type Error = Error;

    fn deserialize_any<V: de::Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(de::Error::custom("no struct"))
    }

    fn deserialize_struct<V: de::Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Error> {
        self.0.extend(fields.iter().map(|field| (*field).to_owned()));
        Err(de::Error::custom("listed"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct
        seq tuple tuple_struct map enum identifier ignored_any
    }
}

fn fields_of<'de, T: Deserialize<'de>>() -> BTreeSet<String> {
    let mut fields = BTreeSet::new();
    assert!(T::deserialize(Lister(&mut fields)).is_err());
    fields
}

/// The names that stand in the table directly below `within`.
fn listed(method: &str, within: &str) -> BTreeSet<String> {
    let method = METHODS.into_iter().find(|known| known.name == method).expect("a method");
    let below = method.fields.iter().filter_map(|field| field.at.strip_prefix(within)?.strip_prefix('/'));
    below.filter(|rest| !rest.contains('/')).map(str::to_owned).collect()
}

#[test]
fn the_table_is_complete() {
    let mut commands: BTreeSet<String> = METHODS.iter().map(|method| method.name.to_owned()).collect();
    commands.insert("id".into());
    assert_eq!(fields_of::<wire::Command>(), commands);
    assert_eq!(fields_of::<wire::ConnectRequest>(), listed("connect", ""));
    assert_eq!(fields_of::<wire::SubscribeRequest>(), listed("subscribe", ""));
    assert_eq!(fields_of::<wire::FilterNode>(), listed("subscribe", "/tf"));
    assert_eq!(fields_of::<wire::FilterNode>(), listed("subscribe", "/tf/nodes/0"));
    assert_eq!(fields_of::<wire::UnsubscribeRequest>(), listed("unsubscribe", ""));
    assert_eq!(fields_of::<wire::PublishRequest>(), listed("publish", ""));
    assert_eq!(fields_of::<wire::ChannelRequest>(), listed("presence", ""));
    assert_eq!(fields_of::<wire::ChannelRequest>(), listed("presence_stats", ""));
    assert_eq!(fields_of::<wire::HistoryRequest>(), listed("history", ""));
    assert_eq!(fields_of::<wire::StreamPosition>(), listed("history", "/since"));
    assert_eq!(fields_of::<wire::Empty>(), listed("ping", ""));
    assert_eq!(fields_of::<wire::SendRequest>(), listed("send", ""));
    assert_eq!(fields_of::<wire::RpcRequest>(), listed("rpc", ""));
    assert_eq!(fields_of::<wire::RefreshRequest>(), listed("refresh", ""));
    assert_eq!(fields_of::<wire::SubRefreshRequest>(), listed("sub_refresh", ""));
    for method in METHODS {
        let good = good(method.name);
        for field in method.fields {
            assert!(good.pointer(field.at).is_some(), "{}{} is not in the good request", method.name, field.at);
        }
    }
}
