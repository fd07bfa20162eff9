//! F10 · Questions and answers of a proxy as JSON, the way Centrifugo puts and reads them.
//!
//! Owns names and forms, and nothing of HTTP. What an answer leaves out, or has as null, is absent; a key that is not
//! known is skipped, except where skipping it would grant more than the backend meant.

use super::granted::{EitherPayload, GrantedConnect, GrantedPublish, GrantedRefresh, GrantedSub};
use crate::auth::Overrides;
use crate::protocol::code::{ClientError, Disconnect};
use crate::protocol::{Encoding, NotJson};
use crate::session::backend::{Ask, RefreshGrant, Said, Who};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::{BTreeMap, HashMap};

/// Bytes of a disconnect's reason: a close frame has no room for more.
const REASON_MAX: usize = 123;
#[derive(Serialize, Default)]
struct Question<'a> {
    client: &'a str,
    transport: &'a str,
    protocol: &'a str,
    encoding: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    user: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    channel: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    token: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    method: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "String::is_empty")]
    b64data: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    version: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    channels: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    meta: Option<&'a RawValue>,
}

pub fn protocol(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding::Json => "json",
        Encoding::Protobuf => "protobuf",
    }
}

/// Of payloads.
pub fn encoding(binary: bool) -> &'static str {
    if binary { "binary" } else { "json" }
}

/// The body of a request. `binary`: payloads as base64. `meta`: what is known of the client goes with it.
pub fn question(who: &Who, ask: &Ask, binary: bool, meta: bool) -> Result<Bytes, NotJson> {
    let mut question = Question {
        client: &who.client,
        transport: who.transport,
        protocol: protocol(who.encoding),
        encoding: encoding(binary),
        user: &who.user,
        ..Question::default()
    };
    let data = match ask {
        Ask::Connect(connect) => {
            (question.user, question.name, question.version) = ("", &connect.name, &connect.version);
            question.channels = connect.subs.keys().map(String::as_str).collect();
            question.channels.sort_unstable();
            &connect.data
        }
        Ask::Subscribe(subscribe) | Ask::SubscribeStream(subscribe) => {
            (question.channel, question.token) = (&subscribe.channel, &subscribe.token);
            &subscribe.data
        }
        Ask::SubRefresh { channel } => {
            question.channel = channel;
            &Bytes::new()
        }
        Ask::Publish(publish) => {
            question.channel = &publish.channel;
            &publish.data
        }
        Ask::Rpc(rpc) => {
            question.method = &rpc.method;
            &rpc.data
        }
        Ask::Refresh | Ask::Keys { .. } | Ask::Check(_) => &Bytes::new(),
    };
    if binary {
        question.b64data = STANDARD.encode(data);
    } else if !data.is_empty() {
        question.data = Some(serde_json::from_slice(data).map_err(|_| NotJson)?);
    }
    if meta && !who.meta.is_empty() && !matches!(ask, Ask::Connect(_)) {
        question.meta = Some(serde_json::from_slice(&who.meta).map_err(|_| NotJson)?);
    }
    serde_json::to_vec(&question).map(Bytes::from).map_err(|_| NotJson)
}

#[derive(Deserialize)]
struct Answer<R> {
    result: Option<R>,
    error: Option<ErrorAnswer>,
    disconnect: Option<DisconnectAnswer>,
}

#[derive(Deserialize)]
struct ErrorAnswer {
    code: Option<u32>,
    message: Option<String>,
    temporary: Option<bool>,
}

#[derive(Deserialize)]
struct DisconnectAnswer {
    code: Option<u32>,
    reason: Option<String>,
}

#[derive(Deserialize)]
struct ConnectResult {
    user: Option<String>,
    expire_at: Option<i64>,
    info: Option<Box<RawValue>>,
    b64info: Option<String>,
    data: Option<Box<RawValue>>,
    b64data: Option<String>,
    channels: Option<Vec<String>>,
    subs: Option<BTreeMap<String, Option<SubscribeResult>>>,
    meta: Option<Box<RawValue>>,
}

#[derive(Deserialize, Default)]
struct SubscribeResult {
    expire_at: Option<i64>,
    info: Option<Box<RawValue>>,
    b64info: Option<String>,
    data: Option<Box<RawValue>>,
    b64data: Option<String>,
    #[serde(rename = "override")]
    overrides: Option<OverridesResult>,
    /// It narrows what the client gets: to skip it would be a leak.
    server_tags_filter: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct OverridesResult {
    presence: Option<Switch>,
    join_leave: Option<Switch>,
    force_push_join_leave: Option<Switch>,
    force_recovery: Option<Switch>,
    force_positioning: Option<Switch>,
}

#[derive(Deserialize)]
struct Switch {
    value: Option<bool>,
}

#[derive(Deserialize)]
struct RefreshResult {
    expired: Option<bool>,
    expire_at: Option<i64>,
    info: Option<Box<RawValue>>,
    b64info: Option<String>,
    meta: Option<Box<RawValue>>,
}

#[derive(Deserialize, Default)]
struct PublishResult {
    data: Option<Box<RawValue>>,
    b64data: Option<String>,
    skip_history: Option<bool>,
    tags: Option<HashMap<String, String>>,
}

#[derive(Deserialize, Default)]
struct RpcResult {
    data: Option<Box<RawValue>>,
    b64data: Option<String>,
}

/// What a body with status 200 says to `ask`; the error is a sentence on what is wrong with it.
pub fn said(ask: &Ask, body: &[u8]) -> Result<Said, String> {
    match ask {
        Ask::Connect(_) => read(body, |result: Option<ConnectResult>| match result {
            None => Ok(Said::NoCredentials),
            Some(result) => connect(result).said(),
        }),
        Ask::Refresh | Ask::SubRefresh { .. } => {
            let said = read(body, |result: Option<RefreshResult>| GrantedRefresh::said(result.map(refresh)))?;
            Ok(over_if_refused(said))
        }
        Ask::Subscribe(_) => read(body, |result: Option<SubscribeResult>| subscribe(result.unwrap_or_default()).said()),
        Ask::Publish(_) => read(body, |result: Option<PublishResult>| {
            let PublishResult { data, b64data, skip_history, tags } = result.unwrap_or_default();
            let (data, skip_history) = (payload(data, b64data), skip_history.unwrap_or_default());
            GrantedPublish { data, skip_history, tags: tags.unwrap_or_default() }.said()
        }),
        Ask::Rpc(_) => read(body, |result: Option<RpcResult>| {
            let result = result.unwrap_or_default();
            Ok(Said::Rpc(payload(result.data, result.b64data).read()?.unwrap_or_default()))
        }),
        Ask::SubscribeStream(_) => Err("streams come by gRPC only".into()),
        Ask::Keys { .. } | Ask::Check(_) => Err("what a token is, is no proxy's answer".into()),
    }
}

/// A refresh is no command: there is nobody to tell of an error.
pub fn over_if_refused(said: Said) -> Said {
    let over = RefreshGrant { expired: true, ..RefreshGrant::default() };
    if matches!(said, Said::Error { .. }) { Said::Refresh(over) } else { said }
}

fn read<R: for<'de> Deserialize<'de>>(
    body: &[u8],
    grant: impl FnOnce(Option<R>) -> Result<Said, String>,
) -> Result<Said, String> {
    let answer: Answer<R> = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    match (answer.disconnect, answer.error) {
        (Some(said), _) => disconnect(said.code.unwrap_or_default(), said.reason.unwrap_or_default()),
        (None, Some(said)) => {
            Ok(error(said.code.unwrap_or_default(), said.message.unwrap_or_default(), said.temporary == Some(true)))
        }
        (None, None) => grant(answer.result),
    }
}

/// An error reply with the backend's own words.
pub fn error(code: u32, message: String, temporary: bool) -> Said {
    match code {
        0 => failed(ClientError::Internal),
        _ => Said::Error(crate::protocol::Error { code, message, temporary }),
    }
}

/// An error of the protocol.
pub fn failed(error: ClientError) -> Said {
    Said::Error(error.into())
}

/// A disconnect with the backend's own words.
pub fn disconnect(code: u32, mut reason: String) -> Result<Said, String> {
    let code = u16::try_from(code).ok().filter(|code| (3000..5000).contains(code));
    let code = code.ok_or("a disconnect code is 3000 to 4999")?;
    let end = (0..=REASON_MAX.min(reason.len())).rev().find(|end| reason.is_char_boundary(*end)).unwrap_or(0);
    reason.truncate(end);
    Ok(Said::Disconnect(Disconnect { code, reason: reason.into() }))
}

fn connect(result: ConnectResult) -> GrantedConnect {
    let subs = result.subs.unwrap_or_default().into_iter();
    GrantedConnect {
        user: result.user.unwrap_or_default(),
        expire_at: result.expire_at.unwrap_or_default(),
        info: payload(result.info, result.b64info),
        data: payload(result.data, result.b64data),
        meta: result.meta.map(json),
        channels: result.channels.unwrap_or_default(),
        subs: subs.map(|(channel, sub)| (channel, subscribe(sub.unwrap_or_default()))).collect(),
    }
}

fn subscribe(result: SubscribeResult) -> GrantedSub {
    let value = |switch: Option<Switch>| switch.map(|switch| switch.value == Some(true));
    let overrides = result.overrides.map(|set| Overrides {
        presence: value(set.presence),
        join_leave: value(set.join_leave),
        force_push_join_leave: value(set.force_push_join_leave),
        force_recovery: value(set.force_recovery),
        force_positioning: value(set.force_positioning),
    });
    GrantedSub {
        expire_at: result.expire_at.unwrap_or_default(),
        info: payload(result.info, result.b64info),
        data: payload(result.data, result.b64data),
        overrides,
        is_filtered: result.server_tags_filter.is_some(),
    }
}

fn refresh(result: RefreshResult) -> GrantedRefresh {
    GrantedRefresh {
        expired: result.expired == Some(true),
        expire_at: result.expire_at.unwrap_or_default(),
        info: payload(result.info, result.b64info),
        meta: result.meta.map(json),
    }
}

fn json(value: Box<RawValue>) -> Bytes {
    Bytes::from(String::from(Box::<str>::from(value)))
}

fn payload(value: Option<Box<RawValue>>, base64: Option<String>) -> EitherPayload {
    EitherPayload { plain: value.map(json), base64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{ConnectRequest, PublishRequest, RpcRequest, SubscribeRequest};
    use crate::session::backend::{ConnectGrant, PublishGrant, SubscribeGrant};
    use serde_json::{Value, json};

    fn who(encoding: Encoding) -> Who {
        Who {
            client: "c1".into(),
            user: "42".into(),
            transport: "websocket",
            encoding,
            headers: "".into(),
            meta: "{\"m\":1}".into(),
        }
    }

    fn asked(ask: &Ask, binary: bool) -> Value {
        let body = question(&who(Encoding::Protobuf), ask, binary, false).expect("a question");
        serde_json::from_slice(&body).expect("JSON")
    }

    fn connect() -> Ask {
        let subs = [("news".to_owned(), SubscribeRequest::default()), ("chat".to_owned(), SubscribeRequest::default())];
        Ask::Connect(Box::new(ConnectRequest {
            data: "{\"a\":1}".into(),
            name: "js".into(),
            version: "1.2".into(),
            subs: subs.into(),
            ..ConnectRequest::default()
        }))
    }

    fn subscribe() -> Ask {
        let (channel, token, data) = ("chat".into(), "t".into(), "[1]".into());
        Ask::Subscribe(Box::new(SubscribeRequest { channel, token, data, ..SubscribeRequest::default() }))
    }

    fn publish(data: &'static [u8]) -> Ask {
        let (channel, data) = ("chat".into(), Bytes::from_static(data));
        Ask::Publish(Box::new(PublishRequest { channel, data, ..PublishRequest::default() }))
    }

    fn rpc() -> Ask {
        Ask::Rpc(Box::new(RpcRequest { method: "sum".into(), data: "[1,2]".into() }))
    }

    fn sub_refresh() -> Ask {
        Ask::SubRefresh { channel: "chat".into() }
    }

    #[test]
    fn questions_have_centrifugos_names() {
        let with = |more: Value| {
            let mut all = json!({
                "client": "c1", "transport": "websocket", "protocol": "protobuf", "encoding": "json", "user": "42"
            });
            for (key, value) in more.as_object().expect("an object") {
                all[key] = value.clone();
            }
            all
        };
        let first = json!({
            "client": "c1", "transport": "websocket", "protocol": "protobuf", "encoding": "json",
            "data": {"a": 1}, "name": "js", "version": "1.2", "channels": ["chat", "news"]
        });
        assert_eq!(asked(&connect(), false), first);
        assert_eq!(asked(&Ask::Refresh, false), with(json!({})));
        assert_eq!(asked(&subscribe(), false), with(json!({"channel": "chat", "token": "t", "data": [1]})));
        assert_eq!(asked(&sub_refresh(), false), with(json!({"channel": "chat"})));
        assert_eq!(asked(&publish(b"\"hi\""), false), with(json!({"channel": "chat", "data": "hi"})));
        assert_eq!(asked(&rpc(), false), with(json!({"method": "sum", "data": [1, 2]})));
        let binary = with(json!({"encoding": "binary", "channel": "chat", "b64data": "AP8="}));
        assert_eq!(asked(&publish(b"\0\xff"), true), binary);
        let body = question(&who(Encoding::Json), &Ask::Refresh, false, false).expect("a question");
        assert!(body.starts_with(br#"{"client":"c1","transport":"websocket","protocol":"json""#));
    }

    #[test]
    fn what_is_known_of_a_client_goes_with_each_question_but_the_first() {
        let asked = |ask: &Ask| {
            let body = question(&who(Encoding::Json), ask, false, true).expect("a question");
            serde_json::from_slice::<Value>(&body).expect("JSON")["meta"].clone()
        };
        for ask in [Ask::Refresh, subscribe(), sub_refresh(), publish(b"1"), rpc()] {
            assert_eq!(asked(&ask), json!({"m": 1}), "{ask:?}");
        }
        assert_eq!(asked(&connect()), Value::Null);
    }

    #[test]
    fn what_is_no_json_is_not_sent_as_json() {
        for data in [&b"\xff"[..], b"{", b"1 2"] {
            let data: &'static [u8] = data;
            assert_eq!(question(&who(Encoding::Protobuf), &publish(data), false, false), Err(NotJson));
        }
    }

    #[test]
    fn connect_results() {
        let body = r#"{"result":{"user":"7","expire_at":99,"info":{"n":1},"b64data":"aGk=","channels":["a","b"],
            "subs":{"b":{"expire_at":5,"info":{},"b64data":"AA==","override":{"presence":{"value":true},
            "join_leave":{"value":false},"force_recovery":{}}},"c":null},"meta":{"x":1}}}"#;
        let b = SubscribeGrant {
            expire_at: 5,
            info: "{}".into(),
            data: Bytes::from_static(b"\0"),
            overrides: Overrides {
                presence: Some(true),
                join_leave: Some(false),
                force_recovery: Some(false),
                ..Overrides::default()
            },
        };
        let subs =
            vec![("a".into(), SubscribeGrant::default()), ("b".into(), b), ("c".into(), SubscribeGrant::default())];
        let (info, data) = ("{\"n\":1}".into(), "hi".into());
        let grant = ConnectGrant { user: "7".into(), expire_at: 99, info, meta: "{\"x\":1}".into(), data, subs };
        assert_eq!(said(&connect(), body.as_bytes()), Ok(Said::Connect(Box::new(grant))));

        let anonymous = Ok(Said::Connect(Box::default()));
        for body in [r#"{"result":{}}"#, r#"{"result":{"user":null,"info":null,"expire_at":-1,"subs":{}}}"#] {
            assert_eq!(said(&connect(), body.as_bytes()), anonymous, "{body}");
        }
        for body in ["{}", r#"{"result":null}"#] {
            assert_eq!(said(&connect(), body.as_bytes()), Ok(Said::NoCredentials));
        }
    }

    #[test]
    fn other_results() {
        let granted = |ask: &Ask, body: &str| said(ask, body.as_bytes()).expect("an answer");
        assert_eq!(granted(&subscribe(), "{}"), Said::Subscribe(Box::default()));
        let expiring = SubscribeGrant { expire_at: 9, data: "1".into(), ..SubscribeGrant::default() };
        let body = r#"{"result":{"expire_at":9,"data":1}}"#;
        assert_eq!(granted(&subscribe(), body), Said::Subscribe(Box::new(expiring)));

        assert_eq!(granted(&publish(b"1"), r#"{"result":null}"#), Said::Publish(Box::default()));
        let changed = PublishGrant {
            data: Some("{\"b\":2}".into()),
            skip_history: true,
            tags: [("k".to_owned(), "v".to_owned())].into(),
        };
        let body = r#"{"result":{"data":{"b":2},"b64data":"AA==","skip_history":true,"tags":{"k":"v"}}}"#;
        assert_eq!(granted(&publish(b"1"), body), Said::Publish(Box::new(changed)));

        assert_eq!(granted(&rpc(), r#"{"result":{"data":[3]}}"#), Said::Rpc("[3]".into()));
        assert_eq!(granted(&rpc(), r#"{"result":{"b64data":"AA=="}}"#), Said::Rpc(Bytes::from_static(b"\0")));
        assert_eq!(granted(&rpc(), "{}"), Said::Rpc(Bytes::new()));
    }

    #[test]
    fn refreshes() {
        let over = Said::Refresh(RefreshGrant { expired: true, ..RefreshGrant::default() });
        for ask in [Ask::Refresh, sub_refresh()] {
            let granted = |body: &str| said(&ask, body.as_bytes()).expect("an answer");
            let longer =
                RefreshGrant { expired: false, expire_at: 77, info: Some("{}".into()), meta: Some("[7]".into()) };
            assert_eq!(granted(r#"{"result":{"expire_at":77,"info":{},"meta":[7]}}"#), Said::Refresh(longer));
            let kept = RefreshGrant { expire_at: 77, ..RefreshGrant::default() };
            assert_eq!(granted(r#"{"result":{"expire_at":77}}"#), Said::Refresh(kept));
            for body in ["{}", r#"{"result":{"expired":true,"expire_at":77}}"#, r#"{"error":{"code":400}}"#] {
                assert_eq!(granted(body), over, "{body}");
            }
            let gone = Disconnect { code: 4500, reason: "x".into() };
            assert_eq!(granted(r#"{"disconnect":{"code":4500,"reason":"x"}}"#), Said::Disconnect(gone));
        }
    }

    #[test]
    fn errors_and_disconnects_go_through() {
        for ask in [connect(), subscribe(), publish(b"1"), rpc()] {
            let granted = |body: &str| said(&ask, body.as_bytes());
            let error = Said::Error(crate::protocol::Error { code: 1000, message: "no".into(), temporary: true });
            let body = r#"{"result":{},"error":{"code":1000,"message":"no","temporary":true}}"#;
            assert_eq!(granted(body), Ok(error));
            assert_eq!(granted(r#"{"error":{}}"#), Ok(failed(ClientError::Internal)));
            let body =
                format!(r#"{{"error":{{"code":1}},"disconnect":{{"code":4000,"reason":"{}"}}}}"#, "é".repeat(70));
            let gone = Disconnect { code: 4000, reason: "é".repeat(61).into() };
            assert_eq!(granted(&body), Ok(Said::Disconnect(gone)));
            for unreadable in [
                "",
                "ok",
                "[]x",
                r#"{"error":7}"#,
                r#"{"disconnect":{"code":1000}}"#,
                r#"{"disconnect":{"code":70000}}"#,
                r#"{"disconnect":{}}"#,
                r#"{"result":"#,
                r#"{"result":{"b64data":"%"}}"#,
            ] {
                assert!(granted(unreadable).is_err(), "{unreadable}");
            }
        }
    }

    #[test]
    fn what_would_narrow_a_subscription_is_not_skipped() {
        let filter = r#"{"op":"","key":"k","cmp":"eq","val":"v"}"#;
        let body = format!(r#"{{"result":{{"server_tags_filter":{filter}}}}}"#);
        assert!(said(&subscribe(), body.as_bytes()).is_err());
        let body = format!(r#"{{"result":{{"subs":{{"a":{{"server_tags_filter":{filter}}}}}}}}}"#);
        assert!(said(&connect(), body.as_bytes()).is_err());
    }
}
