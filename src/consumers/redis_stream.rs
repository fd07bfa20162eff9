//! F10 · Streams of Redis as a source: a group shares the messages out, and each is acknowledged.
//!
//! Owns the commands, and whose messages are whose after a node has died. Never knows what a message asks for.

use super::Source;
use super::content::Consumed;
use super::feed::{Feed, before_stop};
use crate::config::RedisStreamConsumer;
use crate::engine::redis::{Dialled, OwnServer};
use bytes::Bytes;
use redis::{Cmd, ServerErrorKind, Value, cmd};
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Messages that are read, carried out and acknowledged together.
const BATCH: usize = 100;
/// How long the server waits for a message, at most.
const BLOCK: Duration = Duration::from_secs(1);
/// What waits is asked this often.
const LAG_INTERVAL: Duration = Duration::from_secs(5);
/// Messages of others are looked for this often, at least.
const CLAIM_INTERVAL: Duration = Duration::from_secs(5);

/// One reader of one stream.
pub struct RedisStream {
    server: Rc<OwnServer>,
    options: Rc<RedisStreamConsumer>,
    stream: String,
    /// Who it is in the group. A node that comes back with its name finds what it was given.
    reader: String,
    /// It is the one that tells the stream's lag.
    is_first: bool,
}

/// `num_workers` readers for each stream. The error is about an option.
pub fn sources(options: &RedisStreamConsumer, node: &str) -> Result<Vec<RedisStream>, String> {
    let server = Rc::new(OwnServer::new(&options.server(), "redis_stream")?);
    let options = Rc::new(options.clone());
    let one = |stream: &String, number: usize| RedisStream {
        server: server.clone(),
        options: options.clone(),
        stream: stream.clone(),
        reader: format!("{node}-{number}"),
        is_first: number == 0,
    };
    Ok(options
        .streams
        .iter()
        .flat_map(|stream| (0..options.num_workers).map(move |at| (stream, at)))
        .map(|(s, n)| one(s, n))
        .collect())
}

/// An entry: its id, and its names with their values, unless it is deleted.
struct Entry {
    id: String,
    fields: Option<Vec<(Bytes, Bytes)>>,
}

impl Source for RedisStream {
    async fn read(&mut self, feed: &Feed) -> Result<(), String> {
        let Some(dialled) = before_stop(feed, self.server.dial(&self.stream)).await else { return Ok(()) };
        let dialled = dialled.map_err(|fault| fault.to_string())?;
        self.make_group(&dialled).await?;
        // First what this reader was given before it was broken off, in its order.
        let mut after = "0".to_owned();
        loop {
            let entries = self.given(&dialled, &after).await?;
            let Some(last) = entries.last() else { break };
            after = last.id.clone();
            if !feed.room().await || !self.serve(&dialled, feed, entries).await? {
                return Ok(());
            }
        }
        let claim_interval = (self.options.visibility_timeout / 2).min(CLAIM_INTERVAL);
        let (mut claimed, mut told) = (None::<Instant>, None::<Instant>);
        while feed.room().await {
            if claimed.is_none_or(|at| at.elapsed() >= claim_interval) {
                if !self.claim(&dialled, feed).await? {
                    return Ok(());
                }
                claimed = Some(Instant::now());
            }
            let entries = self.given(&dialled, ">").await?;
            feed.reached();
            if !self.serve(&dialled, feed, entries).await? {
                return Ok(());
            }
            if self.is_first && told.is_none_or(|at| at.elapsed() >= LAG_INTERVAL) {
                self.tell_lag(&dialled, feed).await?;
                told = Some(Instant::now());
            }
        }
        Ok(())
    }
}

impl RedisStream {
    async fn ask(&self, dialled: &Dialled, command: &Cmd) -> Result<Value, String> {
        let answer = dialled.conn.clone().send_packed_command(command).await;
        answer.and_then(Value::extract_error).map_err(|error| error.to_string())
    }

    /// From the oldest message on: a group that is made late has missed nothing.
    async fn make_group(&self, dialled: &Dialled) -> Result<(), String> {
        let mut create = cmd("XGROUP");
        create.arg("CREATE").arg(&self.stream).arg(&self.options.consumer_group).arg("0").arg("MKSTREAM");
        match dialled.conn.clone().send_packed_command(&create).await.map_err(|error| error.to_string())? {
            // It is there.
            Value::ServerError(error) if error.code() == "BUSYGROUP" => Ok(()),
            Value::ServerError(error) if error.kind() == Some(ServerErrorKind::Moved) => {
                Err("another server has the stream now".into())
            }
            answer => answer.extract_error().map(drop).map_err(|error| error.to_string()),
        }
    }

    /// What this reader was given after that id and has not acknowledged; or, after ">", what nobody was given yet.
    async fn given(&self, dialled: &Dialled, after: &str) -> Result<Vec<Entry>, String> {
        let mut read = cmd("XREADGROUP");
        read.arg("GROUP").arg(&self.options.consumer_group).arg(&self.reader).arg("COUNT").arg(BATCH);
        if after == ">" {
            read.arg("BLOCK").arg(BLOCK.min(self.options.io_timeout / 2).as_millis() as u64);
        }
        read.arg("STREAMS").arg(&self.stream).arg(after);
        Ok(of_streams(self.ask(dialled, &read).await?))
    }

    /// Takes over what others were given and have not acknowledged for long; false if the node leaves.
    async fn claim(&self, dialled: &Dialled, feed: &Feed) -> Result<bool, String> {
        let mut from = "0-0".to_owned();
        loop {
            let mut claim = cmd("XAUTOCLAIM");
            claim.arg(&self.stream).arg(&self.options.consumer_group).arg(&self.reader);
            claim.arg(self.options.visibility_timeout.as_millis() as u64).arg(&from).arg("COUNT").arg(BATCH);
            let Value::Array(parts) = self.ask(dialled, &claim).await? else { return Ok(true) };
            let mut parts = parts.into_iter();
            from = parts.next().and_then(text).unwrap_or_default();
            let entries = parts.next().map(of_stream).unwrap_or_default();
            if !self.serve(dialled, feed, entries).await? {
                return Ok(false);
            }
            if from.is_empty() || from == "0-0" {
                return Ok(true);
            }
        }
    }

    /// Carries out entries in their order and acknowledges them; false if the node leaves before all are done.
    async fn serve(&self, dialled: &Dialled, feed: &Feed, entries: Vec<Entry>) -> Result<bool, String> {
        let third = self.options.visibility_timeout / 3;
        let (mut done, mut held) = (0, Instant::now());
        for (at, entry) in entries.iter().enumerate() {
            if held.elapsed() >= third {
                self.hold(dialled, &entries[at..]).await?;
                held = Instant::now();
            }
            let Some(message) = self.message(entry) else {
                if entry.fields.is_some() {
                    feed.skip("form", format!("it has no value {:?}", self.options.payload_value));
                }
                done += 1;
                continue;
            };
            let mut insist = pin!(feed.insist(&message));
            let is_done = loop {
                match tokio::time::timeout(third, insist.as_mut()).await {
                    Ok(is_done) => break is_done,
                    Err(_) => self.hold(dialled, &entries[at..]).await?,
                }
            };
            if !is_done {
                break;
            }
            done += 1;
        }
        if done > 0 {
            let mut ack = cmd("XACK");
            ack.arg(&self.stream).arg(&self.options.consumer_group);
            ack.arg(entries[..done].iter().map(|entry| &*entry.id).collect::<Vec<_>>());
            self.ask(dialled, &ack).await?;
        }
        Ok(done == entries.len())
    }

    fn message<'a>(&self, entry: &'a Entry) -> Option<Consumed<'a>> {
        let fields = entry.fields.as_ref()?;
        let payload = self.options.payload_value.as_bytes();
        let (_, body) = fields.iter().find(|(name, _)| name == payload)?;
        let named = |(name, value): &'a (Bytes, Bytes)| Some((std::str::from_utf8(name).ok()?, &value[..]));
        Some(Consumed { body: body.clone(), headers: fields.iter().filter_map(named).collect() })
    }

    /// Says that these are being worked on, so that nobody takes them over.
    async fn hold(&self, dialled: &Dialled, entries: &[Entry]) -> Result<(), String> {
        let mut claim = cmd("XCLAIM");
        claim.arg(&self.stream).arg(&self.options.consumer_group).arg(&self.reader).arg(0);
        claim.arg(entries.iter().map(|entry| &*entry.id).collect::<Vec<_>>());
        claim.arg("JUSTID");
        self.ask(dialled, &claim).await.map(drop)
    }

    /// Servers before Redis 7 do not tell it.
    async fn tell_lag(&self, dialled: &Dialled, feed: &Feed) -> Result<(), String> {
        let mut info = cmd("XINFO");
        info.arg("GROUPS").arg(&self.stream);
        let Value::Array(groups) = self.ask(dialled, &info).await? else { return Ok(()) };
        for group in groups {
            let facts = pairs(group);
            let fact = |name: &str| facts.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
            if fact("name").and_then(text).as_deref() == Some(&*self.options.consumer_group)
                && let Some(Value::Int(lag)) = fact("lag")
            {
                feed.set_lag(lag.unsigned_abs());
            }
        }
        Ok(())
    }
}

fn bytes(value: Value) -> Option<Bytes> {
    match value {
        Value::BulkString(bytes) => Some(bytes.into()),
        Value::SimpleString(text) => Some(text.into()),
        _ => None,
    }
}

fn text(value: Value) -> Option<String> {
    String::from_utf8(bytes(value)?.into()).ok()
}

/// Names and values, in whichever form the server says them.
fn pairs(value: Value) -> Vec<(String, Value)> {
    let all: Vec<(Value, Value)> = match value {
        Value::Map(pairs) => pairs,
        Value::Array(parts) => {
            let mut parts = parts.into_iter();
            std::iter::from_fn(|| Some((parts.next()?, parts.next()?))).collect()
        }
        _ => Vec::new(),
    };
    all.into_iter().filter_map(|(name, value)| Some((text(name)?, value))).collect()
}

/// The entries of the one stream that was asked for.
fn of_streams(answer: Value) -> Vec<Entry> {
    let entries = match answer {
        Value::Map(streams) => streams.into_iter().next().map(|(_, entries)| entries),
        Value::Array(streams) => match streams.into_iter().next() {
            Some(Value::Array(parts)) => parts.into_iter().nth(1),
            _ => None,
        },
        _ => None,
    };
    entries.map(of_stream).unwrap_or_default()
}

fn of_stream(entries: Value) -> Vec<Entry> {
    let Value::Array(entries) = entries else { return Vec::new() };
    let entry = |value: Value| {
        let Value::Array(parts) = value else { return None };
        let mut parts = parts.into_iter();
        let id = text(parts.next()?)?;
        let fields = match parts.next() {
            Some(Value::Array(parts)) => {
                let mut parts = parts.into_iter();
                Some(std::iter::from_fn(|| Some((bytes(parts.next()?)?, bytes(parts.next()?)?))).collect())
            }
            Some(Value::Map(pairs)) => {
                Some(pairs.into_iter().filter_map(|(name, value)| Some((bytes(name)?, bytes(value)?))).collect())
            }
            _ => None,
        };
        Some(Entry { id, fields })
    };
    entries.into_iter().filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn entries_are_read_from_both_forms_of_an_answer() {
        let fields = || Value::Array(vec![bulk("payload"), bulk("{}"), bulk("method"), bulk("publish")]);
        let entries = || {
            Value::Array(vec![Value::Array(vec![bulk("1-0"), fields()]), Value::Array(vec![bulk("2-0"), Value::Nil])])
        };
        let answers =
            [Value::Map(vec![(bulk("s"), entries())]), Value::Array(vec![Value::Array(vec![bulk("s"), entries()])])];
        for answer in answers {
            let found = of_streams(answer);
            let ids: Vec<&str> = found.iter().map(|entry| &*entry.id).collect();
            assert_eq!(ids, ["1-0", "2-0"]);
            let first = found[0].fields.as_ref().expect("fields");
            assert_eq!(first[1], (Bytes::from("method"), Bytes::from("publish")));
            assert!(found[1].fields.is_none(), "deleted since");
        }
        assert!(of_streams(Value::Nil).is_empty(), "nothing came");
    }
}
