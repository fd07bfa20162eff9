//! The JSON encoding: one object a line.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Heard, Names, Past, Spot, Subscribed};
use crate::stamp::Stamp;

/// What the load generator calls itself.
const NAME: &str = "gannet-loadgen";

pub fn connect(token: Option<&str>, out: &mut Vec<u8>) {
    let text = match token {
        Some(token) => format!(r#"{{"connect":{{"token":"{token}","name":"{NAME}"}},"id":1}}"#),
        None => format!(r#"{{"connect":{{"name":"{NAME}"}},"id":1}}"#),
    };
    line(&text, out);
}

pub fn subscribe(id: u32, channel: &str, past: Past<'_>, out: &mut Vec<u8>) {
    let channel = serde_json::Value::from(channel);
    let past = match past {
        Past::Ignored => String::new(),
        Past::Followed => r#","recoverable":true"#.to_owned(),
        Past::Since(offset, epoch) => {
            let epoch = serde_json::Value::from(epoch);
            format!(r#","recoverable":true,"recover":true,"offset":{offset},"epoch":{epoch}"#)
        }
    };
    line(&format!(r#"{{"subscribe":{{"channel":{channel}{past}}},"id":{id}}}"#), out);
}

/// The payload goes out as a JSON string: it must have nothing to escape.
pub fn publish(id: u32, channel: &str, payload: &[u8], out: &mut Vec<u8>) {
    let channel = serde_json::Value::from(channel);
    line(&format!(r#"{{"publish":{{"channel":{channel},"data":""#), out);
    out.extend_from_slice(payload);
    out.extend_from_slice(format!(r#""}},"id":{id}}}"#).as_bytes());
}

/// Commands in one message are lines.
fn line(text: &str, out: &mut Vec<u8>) {
    if !out.is_empty() {
        out.push(b'\n');
    }
    out.extend_from_slice(text.as_bytes());
}

#[derive(Deserialize)]
struct Reply<'a> {
    #[serde(default)]
    id: u32,
    error: Option<Coded>,
    #[serde(borrow)]
    subscribe: Option<Subscribe<'a>>,
    #[serde(borrow)]
    push: Option<Push<'a>>,
}

#[derive(Deserialize)]
struct Coded {
    #[serde(default)]
    code: u32,
}

#[derive(Deserialize)]
struct Subscribe<'a> {
    #[serde(default)]
    recoverable: bool,
    #[serde(default)]
    recovered: bool,
    #[serde(default)]
    offset: u64,
    #[serde(default)]
    epoch: String,
    #[serde(borrow, default)]
    publications: Vec<Publication<'a>>,
}

#[derive(Deserialize)]
struct Push<'a> {
    #[serde(borrow)]
    channel: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "pub")]
    publication: Option<Publication<'a>>,
    unsubscribe: Option<Coded>,
}

#[derive(Deserialize)]
struct Publication<'a> {
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(default)]
    offset: u64,
}

impl Publication<'_> {
    fn stamp(&self) -> Option<Stamp> {
        self.data.and_then(|data| Stamp::find(data.get().as_bytes()))
    }
}

/// Shows everything a message says.
pub fn hear(message: &[u8], names: &Names, mut heard: impl FnMut(Heard)) {
    for line in message.split(|byte| *byte == b'\n') {
        heard(match line {
            b"{}" => Heard::Ping,
            _ => serde_json::from_slice(line).map_or(Heard::Nonsense, |reply| judge(reply, names)),
        });
    }
}

fn judge(reply: Reply<'_>, names: &Names) -> Heard {
    let push = match (reply.id, reply.push) {
        (0, Some(push)) => push,
        (0, None) => return Heard::Nonsense,
        (id, None) => {
            return match reply.subscribe.filter(|subscribe| subscribe.recoverable && reply.error.is_none()) {
                Some(subscribe) => Heard::Subscribed(Box::new(subscribed(id, subscribe))),
                None => Heard::Reply { id, error: reply.error.map_or(0, |error| error.code.max(1)) },
            };
        }
        (_, Some(_)) => return Heard::Nonsense,
    };
    let channel = push.channel.and_then(|name| names.number(&name));
    if let Some(unsubscribe) = push.unsubscribe {
        return Heard::Unsubscribed(unsubscribe.code, channel);
    }
    let Some(publication) = push.publication else { return Heard::Other };
    let spot = Spot { channel, offset: publication.offset };
    publication.stamp().map_or(Heard::Unstamped(spot), |stamp| Heard::Publication(stamp, spot))
}

fn subscribed(id: u32, subscribe: Subscribe<'_>) -> Subscribed {
    let missed = subscribe.publications.iter().map(|publication| (publication.stamp(), publication.offset));
    let publications = missed.collect();
    Subscribed { id, recovered: subscribe.recovered, offset: subscribe.offset, epoch: subscribe.epoch, publications }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn all(message: &str) -> Vec<Heard> {
        let mut all = Vec::new();
        hear(message.as_bytes(), &Names { prefix: "load-".to_owned() }, |heard| all.push(heard));
        all
    }

    #[test]
    fn commands_are_lines_of_json() {
        let mut out = Vec::new();
        connect(Some("T"), &mut out);
        subscribe(2, "a\"b", Past::Ignored, &mut out);
        publish(3, "c", b"payload", &mut out);
        subscribe(4, "c", Past::Followed, &mut out);
        subscribe(5, "c", Past::Since(7, "e"), &mut out);
        let text = String::from_utf8(out).expect("UTF-8");
        let commands: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(commands[0]["connect"]["token"], "T");
        assert_eq!((&commands[1]["subscribe"]["channel"], &commands[1]["id"]), (&"a\"b".into(), &2.into()));
        assert_eq!((&commands[2]["publish"]["data"], &commands[2]["id"]), (&"payload".into(), &3.into()));
        assert_eq!(commands[3]["subscribe"], serde_json::json!({"channel": "c", "recoverable": true}));
        let since = serde_json::json!({
            "channel": "c", "recoverable": true, "recover": true, "offset": 7, "epoch": "e"
        });
        assert_eq!(commands[4]["subscribe"], since);
    }

    #[test]
    fn replies_pushes_and_pings_are_told_apart() {
        let stamp = Stamp { run: 1, speaker: 2, sequence: 3, due: 4 };
        let mut data = Vec::new();
        stamp.write(0, &mut data);
        let data = String::from_utf8(data).expect("ASCII");
        let message = format!(
            "{}\n{}\n{{\"push\":{{\"channel\":\"load-9\",\"pub\":{{\"data\":\"{data}\",\"offset\":7}}}}}}\n{{}}\n{}",
            r#"{"id":1,"connect":{"client":"c","ping":25,"pong":true}}"#,
            r#"{"id":7,"error":{"code":103,"message":"permission denied"}}"#,
            r#"{"push":{"channel":"load-1","unsubscribe":{"code":2500,"reason":"r"}}}"#,
        );
        assert_eq!(
            all(&message),
            [
                Heard::Reply { id: 1, error: 0 },
                Heard::Reply { id: 7, error: 103 },
                Heard::Publication(stamp, Spot { channel: Some(9), offset: 7 }),
                Heard::Ping,
                Heard::Unsubscribed(2500, Some(1)),
            ]
        );
        assert_eq!(all(r#"{"push":{"channel":"c","pub":{"data":{"n":1}}}}"#), [Heard::Unstamped(Spot::default())]);
        assert_eq!(all(r#"{"push":{"channel":"c","join":{"info":{"user":"","client":"c"}}}}"#), [Heard::Other]);
        assert_eq!(all("{"), [Heard::Nonsense]);
        assert_eq!(all(r#"{"push":{}}x"#), [Heard::Nonsense]);
    }

    #[test]
    fn subscribe_replies_tell_positions_and_what_was_missed() {
        let stamp = Stamp { run: 1, speaker: 2, sequence: 3, due: 4 };
        let mut data = Vec::new();
        stamp.write(0, &mut data);
        let data = String::from_utf8(data).expect("ASCII");
        let missed = format!(r#"[{{"data":"{data}","offset":3}},{{"data":{{"n":4}},"offset":4}}]"#);
        let reply = |rest: &str| all(&format!(r#"{{"id":2,"subscribe":{{{rest}}}}}"#));
        let recovered = format!(
            r#""recoverable":true,"epoch":"abcd","publications":{missed},"recovered":true,"offset":2,"was_recovering":true"#
        );
        let publications = vec![(Some(stamp), 3), (None, 4)];
        let expected = Subscribed { id: 2, recovered: true, offset: 2, epoch: "abcd".to_owned(), publications };
        assert_eq!(reply(&recovered), [Heard::Subscribed(Box::new(expected))]);
        let expected = Subscribed { id: 2, offset: 9, epoch: "abcd".to_owned(), ..Subscribed::default() };
        let lost = r#""recoverable":true,"epoch":"abcd","offset":9,"positioned":true,"was_recovering":true"#;
        assert_eq!(reply(lost), [Heard::Subscribed(Box::new(expected))]);
        assert_eq!(reply(""), [Heard::Reply { id: 2, error: 0 }]);
    }
}
