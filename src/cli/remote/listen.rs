//! F11 · `gannet sub`: a client of the protocol that shows what its channels say.
//!
//! Owns the subscriptions with their positions, and when to connect again. With `--recover` what was missed meanwhile
//! is asked for.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use tungstenite::{Error as SocketError, Message};

use super::reports::{ShownClient, print};
use super::stream::{self, ClientSocket};
use super::{Ended, Remote};

/// How long after the time of a ping it may come.
const PING_DELAY: Duration = Duration::from_secs(10);
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(20);

#[derive(Deserialize)]
struct Reply {
    #[serde(default)]
    id: usize,
    error: Option<Refused>,
    connect: Option<Connected>,
    subscribe: Option<Subscribed>,
    push: Option<Push>,
}

#[derive(Deserialize)]
struct Refused {
    code: u32,
    message: String,
    #[serde(default)]
    temporary: bool,
}

#[derive(Deserialize)]
struct Connected {
    client: String,
    #[serde(default)]
    ping: u64,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Subscribed {
    recoverable: bool,
    recovered: bool,
    was_recovering: bool,
    offset: u64,
    epoch: String,
    publications: Vec<Heard>,
}

#[derive(Deserialize)]
struct Push {
    #[serde(default)]
    channel: String,
    #[serde(rename = "pub")]
    publication: Option<Heard>,
    join: Option<Moved>,
    leave: Option<Moved>,
    unsubscribe: Option<Told>,
}

#[derive(Deserialize)]
struct Heard {
    data: Option<Box<RawValue>>,
    #[serde(default)]
    offset: u64,
    info: Option<ShownClient>,
    #[serde(default)]
    tags: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Moved {
    info: ShownClient,
}

#[derive(Deserialize)]
struct Told {
    code: u32,
    reason: String,
}

/// A line of `--json`.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Said<'a> {
    Connected {
        client: &'a str,
    },
    Subscribed {
        channel: &'a str,
        recovered: Option<bool>,
    },
    Publication {
        channel: &'a str,
        offset: u64,
        data: Option<&'a RawValue>,
        user: Option<&'a str>,
        tags: &'a BTreeMap<String, String>,
    },
    Join {
        channel: &'a str,
        user: &'a str,
        client: &'a str,
    },
    Leave {
        channel: &'a str,
        user: &'a str,
        client: &'a str,
    },
    Disconnected {
        reason: &'a str,
    },
}

/// Why a connection is over.
enum Over {
    /// It has shown all that was asked for.
    Done,
    /// It may come back.
    Lost(String),
    /// It shall not, or cannot.
    Refused(String),
}

struct Listener<'a> {
    channels: Vec<&'a str>,
    /// Where each channel is up to: offset and epoch, if it can be recovered.
    positions: BTreeMap<String, (u64, String)>,
    left: Option<u64>,
    is_json: bool,
    recovers: bool,
    out: &'a mut dyn Write,
}

pub fn follow(remote: &Remote<'_>, out: &mut dyn Write) -> Ended {
    let place = remote.client_place()?;
    let token = remote.token()?;
    let mut listener = Listener {
        channels: remote.flags.get_many::<String>("channel").into_iter().flatten().map(String::as_str).collect(),
        positions: BTreeMap::new(),
        left: remote.number("count"),
        is_json: remote.is_set("json"),
        recovers: remote.is_set("recover"),
        out,
    };
    let mut retry = RETRY_FIRST;
    let mut was_connected = false;
    loop {
        let opened = stream::open(&place, &remote.config.websocket.handler_prefix, remote.text("ca"));
        let why = match opened.map(|socket| listener.listen(socket, &token)) {
            Ok(Over::Done) => return Ok(()),
            Ok(Over::Refused(why)) => return Err(why),
            Ok(Over::Lost(why)) => {
                (was_connected, retry) = (true, RETRY_FIRST);
                why
            }
            Err(why) => why,
        };
        if !listener.recovers || !was_connected {
            return Err(why);
        }
        listener.say(&Said::Disconnected { reason: &why })?;
        std::thread::sleep(retry);
        retry = (retry * 2).min(RETRY_MAX);
    }
}

impl Listener<'_> {
    fn listen(&mut self, mut socket: ClientSocket, token: &str) -> Over {
        if let Err(error) = socket.send(Message::text(self.opening(token))) {
            return Over::Lost(error.to_string());
        }
        loop {
            let text = match socket.read() {
                Ok(Message::Text(text)) => text,
                Ok(Message::Close(Some(frame))) => return closed(frame.code.into(), &frame.reason),
                Ok(_) => continue,
                Err(SocketError::Io(error)) if is_late(&error) => {
                    return Over::Lost("the server is silent".to_owned());
                }
                Err(error) => return Over::Lost(error.to_string()),
            };
            for line in text.lines() {
                match self.hear(line, &mut socket) {
                    Ok(()) => {}
                    Err(over) => return over,
                }
                if self.left == Some(0) {
                    // The server is told why; it is over all the same if it is not.
                    let _ = socket.close(None);
                    return Over::Done;
                }
            }
        }
    }

    /// All that is asked for, in one message. The number of a command is the place of its channel, from 2 on.
    fn opening(&self, token: &str) -> String {
        let connect = json!({"id": 1, "connect": {"token": token, "name": "gannet-sub"}}).to_string();
        let subscribe = self.channels.iter().enumerate().map(|(place, channel)| {
            let mut request = json!({"channel": channel, "join_leave": true});
            if let Some((offset, epoch)) = self.positions.get(*channel) {
                request["recover"] = true.into();
                (request["offset"], request["epoch"]) = ((*offset).into(), epoch.as_str().into());
            } else if self.recovers {
                request["recoverable"] = true.into();
            }
            json!({"id": place + 2, "subscribe": request}).to_string()
        });
        std::iter::once(connect).chain(subscribe).collect::<Vec<_>>().join("\n")
    }

    fn hear(&mut self, line: &str, socket: &mut ClientSocket) -> Result<(), Over> {
        if line.trim() == "{}" {
            // A ping, which wants its pong.
            return socket.send(Message::text("{}")).map_err(|error| Over::Lost(error.to_string()));
        }
        let reply: Reply = serde_json::from_str(line)
            .map_err(|_| Over::Refused(format!("this is not the client protocol: {line:.80}")))?;
        let channel = reply.id.checked_sub(2).and_then(|place| self.channels.get(place)).copied();
        if let Some(error) = &reply.error {
            return Err(refused(channel, error));
        }
        if let Some(connected) = reply.connect {
            let patience = Duration::from_secs(if connected.ping == 0 { 3600 } else { connected.ping });
            let _ = socket.get_ref().set_patience(patience + PING_DELAY);
            self.tell(&Said::Connected { client: &connected.client })?;
        }
        if let (Some(subscribed), Some(channel)) = (reply.subscribe, channel) {
            self.joined(channel, subscribed)?;
        }
        match reply.push {
            Some(push) => self.pushed(push),
            None => Ok(()),
        }
    }

    fn joined(&mut self, channel: &str, subscribed: Subscribed) -> Result<(), Over> {
        let recovered = subscribed.was_recovering.then_some(subscribed.recovered);
        self.tell(&Said::Subscribed { channel, recovered })?;
        if subscribed.recoverable && self.recovers {
            self.positions.insert(channel.to_owned(), (subscribed.offset, subscribed.epoch));
        }
        subscribed.publications.iter().try_for_each(|publication| self.published(channel, publication))
    }

    fn pushed(&mut self, push: Push) -> Result<(), Over> {
        let channel = push.channel.as_str();
        if let Some(publication) = &push.publication {
            self.published(channel, publication)?;
        }
        if let Some(Moved { info }) = &push.join {
            self.tell(&Said::Join { channel, user: &info.user, client: &info.client })?;
        }
        if let Some(Moved { info }) = &push.leave {
            self.tell(&Said::Leave { channel, user: &info.user, client: &info.client })?;
        }
        match push.unsubscribe {
            // What was missed is asked for on a new connection.
            Some(told) if told.code >= 2500 => Err(Over::Lost(format!("unsubscribed from {channel}: {}", told.reason))),
            Some(told) => {
                Err(Over::Refused(format!("the server ended the subscription to {channel}: {}", told.reason)))
            }
            None => Ok(()),
        }
    }

    fn published(&mut self, channel: &str, publication: &Heard) -> Result<(), Over> {
        if self.left == Some(0) {
            return Ok(());
        }
        if let Some((offset, _)) = self.positions.get_mut(channel) {
            *offset = publication.offset.max(*offset);
        }
        self.left = self.left.map(|left| left - 1);
        let user = publication.info.as_ref().map(|who| who.user.as_str());
        let (data, tags) = (publication.data.as_deref(), &publication.tags);
        self.tell(&Said::Publication { channel, offset: publication.offset, data, user, tags })
    }

    fn tell(&mut self, said: &Said<'_>) -> Result<(), Over> {
        self.say(said).map_err(Over::Refused)
    }

    fn say(&mut self, said: &Said<'_>) -> Ended {
        match self.is_json {
            true => {
                let line = serde_json::to_string(said).map_err(|error| error.to_string())?;
                print(self.out, &(line + "\n"))
            }
            false => print(self.out, &(told(said) + "\n")),
        }
    }
}

/// The same for people. What is no message begins with a star.
fn told(said: &Said<'_>) -> String {
    match said {
        Said::Connected { client } => format!("* connected as {client}"),
        Said::Subscribed { channel, recovered: None } => format!("* subscribed to {channel}"),
        Said::Subscribed { channel, recovered: Some(true) } => format!("* subscribed to {channel}, nothing was missed"),
        Said::Subscribed { channel, recovered: Some(false) } => {
            format!("* subscribed to {channel}; what was missed is no longer kept")
        }
        Said::Publication { channel, offset, data, user, tags } => {
            let offset = if *offset == 0 { String::new() } else { format!(" #{offset}") };
            let user = user.map(|user| format!("  from {user}")).unwrap_or_default();
            let tags: String = tags.iter().map(|(name, value)| format!("  {name}={value}")).collect();
            format!("{channel}{offset} {}{user}{tags}", data.map_or("", RawValue::get))
        }
        Said::Join { channel, user, client } => format!("* {user:?} came to {channel} ({client})"),
        Said::Leave { channel, user, client } => format!("* {user:?} left {channel} ({client})"),
        Said::Disconnected { reason } => format!("* connection lost: {reason}"),
    }
}

fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// By the protocol, codes say whether a client shall come back.
fn closed(code: u16, reason: &str) -> Over {
    let why = format!("the server closed the connection: {reason} (code {code})");
    match code {
        3500 => Over::Refused(format!("{why}\nThe token is not one of this server's: gannet token check TOKEN")),
        3501 => {
            Over::Refused(format!("{why}\nIs a token wanted? --token, or the server's own configuration (-c FILE)"))
        }
        3502..=3999 | 4500..=4999 => Over::Refused(why),
        _ => Over::Lost(why),
    }
}

fn refused(channel: Option<&str>, error: &Refused) -> Over {
    let what = channel.map_or("the server refuses to connect".to_owned(), |channel| format!("{channel} is refused"));
    let why = format!("{what}: {} (error {})", error.message, error.code);
    let advice = match error.code {
        _ if error.temporary => return Over::Lost(why),
        102 => "What stands before `:` in the name must be one of channel.namespaces.",
        103 => "Permissions: allow_subscribe_for_client of its namespace, or a token for the channel.",
        109 => "The token has expired: gannet token connection --user USER",
        _ => return Over::Refused(why),
    };
    Over::Refused(format!("{why}\n{advice}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_say_whether_to_come_back() {
        for (code, back) in [(3000, true), (3001, true), (1006, true), (4000, true), (3500, false), (4500, false)] {
            assert_eq!(matches!(closed(code, "x"), Over::Lost(_)), back, "{code}");
        }
        let busy = Refused { code: 100, message: "internal".into(), temporary: true };
        assert!(matches!(refused(None, &busy), Over::Lost(_)));
        let never = Refused { code: 103, message: "permission denied".into(), temporary: false };
        assert!(matches!(refused(Some("a"), &never), Over::Refused(why) if why.contains("allow_subscribe_for_client")));
    }
}
