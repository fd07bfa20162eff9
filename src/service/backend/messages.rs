//! F10 · The messages of Centrifugo's gRPC proxy, `centrifugal.centrifugo.proxy`, by their numbers.

use bytes::Bytes;
use prost::Message;
use std::collections::HashMap;

/// A question, which begins with who asks, and its answer: a result, an error or a disconnect.
macro_rules! questions {
    ($($question:ident, $answer:ident, $result:ty { $($field:ident: $kind:ty = $tag:tt ($($how:tt)*);)* })*) => {$(
        #[derive(Clone, PartialEq, Message)]
        pub struct $question {
            #[prost(string, tag = "1")]
            pub client: String,
            #[prost(string, tag = "2")]
            pub transport: String,
            #[prost(string, tag = "3")]
            pub protocol: String,
            #[prost(string, tag = "4")]
            pub encoding: String,
            $(
                #[prost($($how)*, tag = $tag)]
                pub $field: $kind,
            )*
        }

        #[derive(Clone, PartialEq, Message)]
        pub struct $answer {
            #[prost(message, optional, tag = "1")]
            pub result: Option<$result>,
            #[prost(message, optional, tag = "2")]
            pub error: Option<ErrorMessage>,
            #[prost(message, optional, tag = "3")]
            pub disconnect: Option<DisconnectMessage>,
        }
    )*};
}

#[derive(Clone, PartialEq, Message)]
pub struct ErrorMessage {
    #[prost(uint32, tag = "1")]
    pub code: u32,
    #[prost(string, tag = "2")]
    pub message: String,
    #[prost(bool, tag = "3")]
    pub temporary: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct DisconnectMessage {
    #[prost(uint32, tag = "1")]
    pub code: u32,
    #[prost(string, tag = "2")]
    pub reason: String,
}

questions! {
    ConnectQuestion, ConnectAnswer, ConnectResultMessage {
        data: Vec<u8> = "10" (bytes = "vec");
        b64data: String = "11" (string);
        name: String = "12" (string);
        version: String = "13" (string);
        channels: Vec<String> = "14" (string, repeated);
    }
    RefreshQuestion, RefreshAnswer, RefreshResultMessage {
        user: String = "10" (string);
        meta: Vec<u8> = "11" (bytes = "vec");
    }
    SubscribeQuestion, SubscribeAnswer, SubscribeResultMessage {
        user: String = "10" (string);
        channel: String = "11" (string);
        token: String = "12" (string);
        meta: Vec<u8> = "13" (bytes = "vec");
        data: Vec<u8> = "14" (bytes = "vec");
        b64data: String = "15" (string);
    }
    PublishQuestion, PublishAnswer, PublishResultMessage {
        user: String = "10" (string);
        channel: String = "11" (string);
        data: Vec<u8> = "12" (bytes = "vec");
        b64data: String = "13" (string);
        meta: Vec<u8> = "14" (bytes = "vec");
    }
    RpcQuestion, RpcAnswer, RpcResultMessage {
        user: String = "10" (string);
        method: String = "11" (string);
        data: Vec<u8> = "12" (bytes = "vec");
        b64data: String = "13" (string);
        meta: Vec<u8> = "14" (bytes = "vec");
    }
    SubRefreshQuestion, SubRefreshAnswer, RefreshResultMessage {
        user: String = "10" (string);
        channel: String = "11" (string);
        meta: Vec<u8> = "12" (bytes = "vec");
    }
}

/// What is said in a subscription stream: the question first, then what the client publishes.
#[derive(Clone, PartialEq, Message)]
pub struct StreamQuestion {
    #[prost(message, optional, tag = "1")]
    pub subscribe_request: Option<SubscribeQuestion>,
    #[prost(message, optional, tag = "2")]
    pub publication: Option<StreamPublication>,
}

/// What the backend says in it: the answer first, then what it publishes.
#[derive(Clone, PartialEq, Message)]
pub struct StreamAnswer {
    #[prost(message, optional, tag = "1")]
    pub subscribe_response: Option<SubscribeAnswer>,
    #[prost(message, optional, tag = "2")]
    pub publication: Option<StreamPublication>,
}

#[derive(Clone, PartialEq, Message)]
pub struct StreamPublication {
    #[prost(bytes = "bytes", tag = "4")]
    pub data: Bytes,
    #[prost(map = "string, string", tag = "7")]
    pub tags: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ConnectResultMessage {
    #[prost(string, tag = "1")]
    pub user: String,
    #[prost(int64, tag = "2")]
    pub expire_at: i64,
    #[prost(bytes = "vec", tag = "3")]
    pub info: Vec<u8>,
    #[prost(string, tag = "4")]
    pub b64info: String,
    #[prost(bytes = "vec", tag = "5")]
    pub data: Vec<u8>,
    #[prost(string, tag = "6")]
    pub b64data: String,
    #[prost(string, repeated, tag = "7")]
    pub channels: Vec<String>,
    #[prost(map = "string, message", tag = "8")]
    pub subs: HashMap<String, SubscribeOptionsMessage>,
    #[prost(bytes = "vec", tag = "9")]
    pub meta: Vec<u8>,
}

/// One of the connect proxy's subscriptions. As a subscription, but for the last number.
#[derive(Clone, PartialEq, Message)]
pub struct SubscribeOptionsMessage {
    #[prost(int64, tag = "1")]
    pub expire_at: i64,
    #[prost(bytes = "vec", tag = "2")]
    pub info: Vec<u8>,
    #[prost(string, tag = "3")]
    pub b64info: String,
    #[prost(bytes = "vec", tag = "4")]
    pub data: Vec<u8>,
    #[prost(string, tag = "5")]
    pub b64data: String,
    #[prost(message, optional, tag = "6")]
    pub overrides: Option<OverridesMessage>,
    #[prost(message, optional, tag = "7")]
    pub server_tags_filter: Option<FilterMessage>,
}

#[derive(Clone, PartialEq, Message)]
pub struct SubscribeResultMessage {
    #[prost(int64, tag = "1")]
    pub expire_at: i64,
    #[prost(bytes = "vec", tag = "2")]
    pub info: Vec<u8>,
    #[prost(string, tag = "3")]
    pub b64info: String,
    #[prost(bytes = "vec", tag = "4")]
    pub data: Vec<u8>,
    #[prost(string, tag = "5")]
    pub b64data: String,
    #[prost(message, optional, tag = "6")]
    pub overrides: Option<OverridesMessage>,
    #[prost(message, optional, tag = "8")]
    pub server_tags_filter: Option<FilterMessage>,
}

/// That it is there is all that is read of it.
#[derive(Clone, PartialEq, Message)]
pub struct FilterMessage {}

#[derive(Clone, PartialEq, Message)]
pub struct OverridesMessage {
    #[prost(message, optional, tag = "1")]
    pub presence: Option<SwitchMessage>,
    #[prost(message, optional, tag = "2")]
    pub join_leave: Option<SwitchMessage>,
    #[prost(message, optional, tag = "3")]
    pub force_recovery: Option<SwitchMessage>,
    #[prost(message, optional, tag = "4")]
    pub force_positioning: Option<SwitchMessage>,
    #[prost(message, optional, tag = "5")]
    pub force_push_join_leave: Option<SwitchMessage>,
}

#[derive(Clone, PartialEq, Message)]
pub struct SwitchMessage {
    #[prost(bool, tag = "1")]
    pub value: bool,
}

/// Of a connection or a subscription; only the former's has meta.
#[derive(Clone, PartialEq, Message)]
pub struct RefreshResultMessage {
    #[prost(bool, tag = "1")]
    pub expired: bool,
    #[prost(int64, tag = "2")]
    pub expire_at: i64,
    #[prost(bytes = "vec", tag = "3")]
    pub info: Vec<u8>,
    #[prost(string, tag = "4")]
    pub b64info: String,
    #[prost(bytes = "vec", tag = "5")]
    pub meta: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub struct PublishResultMessage {
    #[prost(bytes = "vec", tag = "1")]
    pub data: Vec<u8>,
    #[prost(string, tag = "2")]
    pub b64data: String,
    #[prost(bool, tag = "3")]
    pub skip_history: bool,
    #[prost(map = "string, string", tag = "4")]
    pub tags: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct RpcResultMessage {
    #[prost(bytes = "vec", tag = "1")]
    pub data: Vec<u8>,
    #[prost(string, tag = "2")]
    pub b64data: String,
}
