//! F10 · Requests and results of the server API: one set of types for JSON and Protobuf.
//!
//! Owns names and field numbers, which are those of Centrifugo's `centrifugal.centrifugo.api`. In JSON, null stands for
//! a field that is not there, unknown fields are skipped, and zero values are left out except where a backend reads
//! them unasked. Knows nothing of what a method does.

use crate::protocol::{StreamPosition, zero};
use bytes::Bytes;
use prost::Message;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

/// A field as it is; null is its zero.
mod plain {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<T: Serialize, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
        value.serialize(to)
    }

    pub fn deserialize<'de, T: Deserialize<'de> + Default, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
        Option::<T>::deserialize(from).map(Option::unwrap_or_default)
    }
}

/// A message within a message: an object or null, and never a list of its fields.
mod nested {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<T: Serialize, S: Serializer>(value: &Option<T>, to: S) -> Result<S::Ok, S::Error> {
        value.serialize(to)
    }

    pub fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
        crate::protocol::object(from)
    }
}

/// Several messages.
pub(super) mod list {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    struct One<T>(T);

    impl<'de, T: Deserialize<'de>> Deserialize<'de> for One<T> {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<One<T>, D::Error> {
            let one = crate::protocol::object(from)?;
            one.map(One).ok_or_else(|| serde::de::Error::custom("expected an object"))
        }
    }

    pub fn serialize<T: Serialize, S: Serializer>(list: &[T], to: S) -> Result<S::Ok, S::Error> {
        list.serialize(to)
    }

    pub fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Vec<T>, D::Error> {
        let list = Option::<Vec<One<T>>>::deserialize(from)?;
        Ok(list.unwrap_or_default().into_iter().map(|One(one)| one).collect())
    }
}

/// Bytes that are JSON, as JSON. Others, which Protobuf and base64 bring in, are told as base64 in a string.
mod payload {
    pub use crate::protocol::raw::deserialize;
    use base64::Engine;
    use bytes::Bytes;
    use serde::{Serialize, Serializer};
    use serde_json::value::RawValue;

    pub fn serialize<S: Serializer>(bytes: &Bytes, to: S) -> Result<S::Ok, S::Error> {
        match serde_json::from_slice::<&RawValue>(bytes) {
            Ok(json) => json.serialize(to),
            Err(_) => base64::engine::general_purpose::STANDARD.encode(bytes).serialize(to),
        }
    }
}

/// `field: Type = [Protobuf] "form in JSON" "when it is left out";`
macro_rules! messages {
    ($(
        $(#[doc = $about:literal])*
        $name:ident {
            $( $(#[doc = $doc:literal])* $field:ident : $type:ty = [$($prost:tt)*] $form:tt $omitted:tt; )*
        }
    )*) => {$(
        $(#[doc = $about])*
        #[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
        #[serde(default)]
        pub struct $name {$(
            $(#[doc = $doc])*
            #[prost($($prost)*)]
            #[serde(with = $form, skip_serializing_if = $omitted)]
            pub $field: $type,
        )*}
    )*

    /// Each message, and one more that clients use as well, for who describes them.
    pub(super) fn shapes() -> impl Iterator<Item = Shape<'static>> {
        let position: Shape<'static> = Shape {
            name: "StreamPosition",
            fields: &[("offset", "uint64, tag = \"1\"", "u64"), ("epoch", "string, tag = \"2\"", "String")],
        };
        [position, $(Shape {
            name: stringify!($name),
            fields: &[$((stringify!($field), stringify!($($prost)*), stringify!($type))),*],
        }),*].into_iter()
    }};
}

/// A message as it is written below: of each field its name, its form in Protobuf, and its type.
pub(super) struct Shape<'a> {
    pub name: &'a str,
    pub fields: &'a [(&'a str, &'a str, &'a str)],
}

/// It is always written.
fn never<T>(_: &T) -> bool {
    false
}

messages! {
    Error {
        code: u32 = [uint32, tag = "1"] "plain" "never";
        message: String = [string, tag = "2"] "plain" "never";
    }
    /// Data for one channel.
    PublishRequest {
        channel: String = [string, tag = "1"] "plain" "zero";
        data: Bytes = [bytes = "bytes", tag = "2"] "payload" "zero";
        b64data: String = [string, tag = "3"] "plain" "zero";
        skip_history: bool = [bool, tag = "4"] "plain" "zero";
        tags: HashMap<String, String> = [map = "string, string", tag = "5"] "plain" "zero";
        idempotency_key: String = [string, tag = "6"] "plain" "zero";
        delta: bool = [bool, tag = "7"] "plain" "zero";
        version: u64 = [uint64, tag = "8"] "plain" "zero";
        version_epoch: String = [string, tag = "9"] "plain" "zero";
        /// The result says whether anybody subscribes.
        with_present: bool = [bool, tag = "1001"] "plain" "zero";
    }
    /// Where the publication stands in its stream, if there is one.
    PublishResult {
        offset: u64 = [uint64, tag = "1"] "plain" "zero";
        epoch: String = [string, tag = "2"] "plain" "zero";
        /// Somebody subscribed to the channel. Only if it was asked for, and is known.
        present: Option<bool> = [bool, optional, tag = "1001"] "plain" "zero";
    }
    /// The same data for several channels.
    BroadcastRequest {
        channels: Vec<String> = [string, repeated, tag = "1"] "plain" "zero";
        data: Bytes = [bytes = "bytes", tag = "2"] "payload" "zero";
        b64data: String = [string, tag = "3"] "plain" "zero";
        skip_history: bool = [bool, tag = "4"] "plain" "zero";
        tags: HashMap<String, String> = [map = "string, string", tag = "5"] "plain" "zero";
        idempotency_key: String = [string, tag = "6"] "plain" "zero";
        delta: bool = [bool, tag = "7"] "plain" "zero";
        version: u64 = [uint64, tag = "8"] "plain" "zero";
        version_epoch: String = [string, tag = "9"] "plain" "zero";
        with_present: bool = [bool, tag = "1001"] "plain" "zero";
    }
    BroadcastResult {
        /// One for each channel, in their order.
        responses: Vec<Response<PublishResult>> = [message, repeated, tag = "1"] "plain" "never";
    }
    SubscribeRequest {
        channel: String = [string, tag = "1"] "plain" "zero";
        user: Option<String> = [string, optional, tag = "2"] "plain" "zero";
        /// Seconds since 1970; 0 = never.
        expire_at: i64 = [int64, tag = "3"] "plain" "zero";
        /// Shown to others as `chan_info`.
        info: Bytes = [bytes = "bytes", tag = "4"] "payload" "zero";
        b64info: String = [string, tag = "5"] "plain" "zero";
        client: String = [string, tag = "6"] "plain" "zero";
        /// For the client, with the news of its subscription.
        data: Bytes = [bytes = "bytes", tag = "7"] "payload" "zero";
        b64data: String = [string, tag = "8"] "plain" "zero";
        recover_since: Option<StreamPosition> = [message, optional, tag = "9"] "nested" "zero";
        r#override: Option<SubscribeOptionOverride> = [message, optional, tag = "10"] "nested" "zero";
        session: String = [string, tag = "11"] "plain" "zero";
    }
    /// Options of the namespace that are different for this subscription.
    SubscribeOptionOverride {
        presence: Option<BoolValue> = [message, optional, tag = "1"] "nested" "zero";
        join_leave: Option<BoolValue> = [message, optional, tag = "2"] "nested" "zero";
        force_recovery: Option<BoolValue> = [message, optional, tag = "3"] "nested" "zero";
        force_positioning: Option<BoolValue> = [message, optional, tag = "4"] "nested" "zero";
        force_push_join_leave: Option<BoolValue> = [message, optional, tag = "5"] "nested" "zero";
    }
    BoolValue {
        value: bool = [bool, tag = "1"] "plain" "zero";
    }
    /// The result of methods that have nothing to tell.
    Empty {}
    UnsubscribeRequest {
        /// "" = all of the user's.
        channel: String = [string, tag = "1"] "plain" "zero";
        user: Option<String> = [string, optional, tag = "2"] "plain" "zero";
        client: String = [string, tag = "3"] "plain" "zero";
        session: String = [string, tag = "4"] "plain" "zero";
    }
    DisconnectRequest {
        user: Option<String> = [string, optional, tag = "1"] "plain" "zero";
        disconnect: Option<CustomDisconnect> = [message, optional, tag = "2"] "nested" "zero";
        client: String = [string, tag = "3"] "plain" "zero";
        /// Ids of clients to spare.
        whitelist: Vec<String> = [string, repeated, tag = "4"] "plain" "zero";
        session: String = [string, tag = "5"] "plain" "zero";
    }
    CustomDisconnect {
        code: u32 = [uint32, tag = "1"] "plain" "zero";
        reason: String = [string, tag = "2"] "plain" "zero";
    }
    RefreshRequest {
        user: Option<String> = [string, optional, tag = "1"] "plain" "zero";
        client: String = [string, tag = "2"] "plain" "zero";
        /// It is over now.
        expired: bool = [bool, tag = "3"] "plain" "zero";
        /// Seconds since 1970; 0 = never.
        expire_at: i64 = [int64, tag = "4"] "plain" "zero";
        /// Shown to others as `conn_info` from now on.
        info: Bytes = [bytes = "bytes", tag = "5"] "payload" "zero";
        session: String = [string, tag = "6"] "plain" "zero";
    }
    PresenceRequest {
        channel: String = [string, tag = "1"] "plain" "zero";
    }
    PresenceResult {
        /// By client id.
        presence: HashMap<String, ClientInfo> = [map = "string, message", tag = "1"] "plain" "never";
    }
    ClientInfo {
        user: String = [string, tag = "1"] "plain" "zero";
        client: String = [string, tag = "2"] "plain" "zero";
        conn_info: Bytes = [bytes = "bytes", tag = "3"] "payload" "zero";
        chan_info: Bytes = [bytes = "bytes", tag = "4"] "payload" "zero";
    }
    PresenceStatsRequest {
        channel: String = [string, tag = "1"] "plain" "zero";
    }
    PresenceStatsResult {
        num_clients: u32 = [uint32, tag = "1"] "plain" "never";
        num_users: u32 = [uint32, tag = "2"] "plain" "never";
    }
    HistoryRequest {
        channel: String = [string, tag = "1"] "plain" "zero";
        /// 0 = the position only, below 0 = all.
        limit: i32 = [int32, tag = "2"] "plain" "zero";
        since: Option<StreamPosition> = [message, optional, tag = "3"] "nested" "zero";
        reverse: bool = [bool, tag = "4"] "plain" "zero";
    }
    HistoryResult {
        publications: Vec<Publication> = [message, repeated, tag = "1"] "plain" "never";
        epoch: String = [string, tag = "2"] "plain" "never";
        offset: u64 = [uint64, tag = "3"] "plain" "never";
    }
    Publication {
        data: Bytes = [bytes = "bytes", tag = "2"] "payload" "never";
        info: Option<ClientInfo> = [message, optional, tag = "3"] "nested" "zero";
        offset: u64 = [uint64, tag = "4"] "plain" "zero";
        tags: HashMap<String, String> = [map = "string, string", tag = "5"] "plain" "zero";
    }
    HistoryRemoveRequest {
        channel: String = [string, tag = "1"] "plain" "zero";
    }
    ChannelsRequest {
        /// A glob; "" = all.
        pattern: String = [string, tag = "1"] "plain" "zero";
    }
    ChannelsResult {
        channels: BTreeMap<String, ChannelInfo> = [btree_map = "string, message", tag = "1"] "plain" "never";
    }
    ChannelInfo {
        num_clients: u32 = [uint32, tag = "1"] "plain" "never";
    }
    InboxInfoRequest {
        user: String = [string, tag = "1"] "plain" "zero";
    }
    InboxInfoResult {
        /// In the order of their names.
        channels: Vec<InboxCursor> = [message, repeated, tag = "1"] "plain" "never";
    }
    /// How far a user's messages of a channel have arrived.
    InboxCursor {
        channel: String = [string, tag = "1"] "plain" "never";
        device: String = [string, tag = "2"] "plain" "zero";
        offset: u64 = [uint64, tag = "3"] "plain" "never";
        /// "" = of a stream that is gone.
        epoch: String = [string, tag = "4"] "plain" "never";
        /// Publications that have not arrived.
        waiting: u64 = [uint64, tag = "5"] "plain" "never";
    }
    InboxAckRequest {
        user: String = [string, tag = "1"] "plain" "zero";
        channel: String = [string, tag = "2"] "plain" "zero";
        device: String = [string, tag = "3"] "plain" "zero";
        /// 0 = all there is.
        offset: u64 = [uint64, tag = "4"] "plain" "zero";
    }
    InboxClearRequest {
        user: String = [string, tag = "1"] "plain" "zero";
        /// "" = in all of them.
        channel: String = [string, tag = "2"] "plain" "zero";
        /// "" = all of them.
        device: String = [string, tag = "3"] "plain" "zero";
    }
    InboxClearResult {
        /// Cursors that there were.
        cleared: u32 = [uint32, tag = "1"] "plain" "never";
    }
    InfoRequest {}
    InfoResult {
        nodes: Vec<NodeResult> = [message, repeated, tag = "1"] "plain" "never";
    }
    NodeResult {
        uid: String = [string, tag = "1"] "plain" "never";
        name: String = [string, tag = "2"] "plain" "never";
        version: String = [string, tag = "3"] "plain" "never";
        num_clients: u32 = [uint32, tag = "4"] "plain" "never";
        num_users: u32 = [uint32, tag = "5"] "plain" "never";
        num_channels: u32 = [uint32, tag = "6"] "plain" "never";
        /// Seconds.
        uptime: u32 = [uint32, tag = "7"] "plain" "never";
        metrics: Option<Metrics> = [message, optional, tag = "8"] "nested" "zero";
        process: Option<Process> = [message, optional, tag = "9"] "nested" "zero";
        num_subs: u32 = [uint32, tag = "10"] "plain" "never";
    }
    Metrics {
        /// Seconds that the items count over: those since the start.
        interval: f64 = [double, tag = "1"] "plain" "never";
        /// By their names on the metrics page.
        items: BTreeMap<String, f64> = [btree_map = "string, double", tag = "2"] "plain" "never";
    }
    Process {
        /// Resident bytes.
        rss: i64 = [int64, tag = "2"] "plain" "zero";
    }
    RpcRequest {
        method: String = [string, tag = "1"] "plain" "zero";
        params: Bytes = [bytes = "bytes", tag = "2"] "payload" "zero";
    }
    RpcResult {
        data: Bytes = [bytes = "bytes", tag = "1"] "payload" "zero";
    }
}

/// What a method comes to.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
pub struct Response<R: Message + Default + std::fmt::Debug> {
    #[prost(message, optional, tag = "1")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Error>,
    #[prost(message, optional, tag = "2")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<R>,
}

impl<R: Message + Default + std::fmt::Debug> Response<R> {
    pub fn of(outcome: Result<R, Error>) -> Response<R> {
        match outcome {
            Ok(result) => Response { error: None, result: Some(result) },
            Err(error) => Response { error: Some(error), result: None },
        }
    }
}
