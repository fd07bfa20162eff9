//! F10 · What an owner asks for, as commands of Redis, and what Redis answers, as answers to the owner.
//!
//! Owns the translation in both directions, of streams and lists, and of presence. Pure: the time and random bits are
//! arguments. Knows nothing of connections.

use super::names::{Names, slot};
use super::payload;
use super::scripts::{self, LuaScript};
use crate::broker::engine::{Away, EngineAnswer, EngineCall};
use crate::broker::{Epoch, Keep, Position, Query, Treatment};
use crate::config::RedisOptions;
use crate::protocol::ClientInfo;
use crate::protocol::code::ClientError;
use bytes::Bytes;
use compact_str::CompactString;
use redis::{Cmd, Value};
use std::collections::HashSet;
use std::sync::Arc;

/// Seconds that the result of an idempotency key lives.
const RESULT_TTL: &str = "300";

/// One command, where it belongs in a cluster, and what becomes of its answer.
#[derive(Debug)]
pub struct RedisCommand {
    pub cmd: Cmd,
    /// Of its keys; any node takes one without.
    pub slot: Option<u16>,
    pub then: Then,
}

/// What becomes of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Then {
    /// Nobody waits.
    Nothing,
    /// It was published, without a place.
    Published(u64),
    /// It has its place.
    Placed(u64),
    /// The answer is a position and the publications of a query.
    Read(u64, Box<Query>),
    Removed(u64),
    PresenceRemoved(u64),
    /// Clients with their infos in turn.
    Presence(u64),
    /// The same, to be counted.
    Counted(u64),
    /// Two numbers.
    Stats(u64),
    Cursor(u64),
}

impl Then {
    pub fn ticket(&self) -> Option<u64> {
        match self {
            Then::Nothing => None,
            Then::Published(ticket)
            | Then::Placed(ticket)
            | Then::Read(ticket, _)
            | Then::Removed(ticket)
            | Then::PresenceRemoved(ticket)
            | Then::Presence(ticket)
            | Then::Counted(ticket)
            | Then::Stats(ticket)
            | Then::Cursor(ticket) => Some(*ticket),
        }
    }
}

/// What goes into commands and is not of the call.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    pub unix_ms: u64,
    /// For an epoch, if one begins.
    pub random: u64,
}

/// How one fleet is spoken to.
#[derive(Debug, Clone)]
pub struct Dialect {
    pub names: Names,
    lists: bool,
    presence_ttl_s: u64,
    fields_expire: bool,
    counts_users: bool,
    publish: &'static str,
}

impl Dialect {
    pub fn new(names: Names, options: &RedisOptions, sharded: bool) -> Dialect {
        Dialect {
            names,
            lists: options.history_use_lists,
            presence_ttl_s: options.presence_ttl.as_secs().max(1),
            fields_expire: options.presence_hash_field_ttl,
            counts_users: options.presence_user_mapping,
            publish: if sharded { "spublish" } else { "publish" },
        }
    }

    /// What `call` is in Redis; `None` for what is no command.
    pub fn command(&self, call: EngineCall, moment: Moment) -> Option<RedisCommand> {
        Some(match call {
            EngineCall::Listen { .. } | EngineCall::Unlisten { .. } => return None,
            EngineCall::Publish { ticket, channel, publication, treatment } => {
                let message = payload::write(&publication, moment.unix_ms);
                let treatment = treatment.unwrap_or_default();
                match treatment.keep {
                    Some(keep) => self.keep(ticket, &channel, &message, keep, &treatment, moment),
                    None => self.pass_on(ticket, &channel, &message, &treatment.idempotency_key),
                }
            }
            EngineCall::Announce { channel, info, joined } => {
                self.publish(&channel, &payload::write_presence(&info, joined), Then::Nothing)
            }
            EngineCall::Read { ticket, channel, query } => self.read(ticket, &channel, query, moment),
            EngineCall::RemoveHistory { ticket, channel } => {
                let key = if self.lists { self.names.list(&channel) } else { self.names.stream(&channel) };
                let mut cmd = Cmd::new();
                cmd.arg("DEL").arg(&key);
                RedisCommand { cmd, slot: Some(slot(key.as_bytes())), then: Then::Removed(ticket) }
            }
            EngineCall::AddPresence { channel, client, info } => self.add_presence(&channel, client, &info, moment),
            EngineCall::RemovePresence { channel, client, user, ticket } => {
                let then = ticket.map_or(Then::Nothing, Then::PresenceRemoved);
                let mut command = self.of_presence(&scripts::REMOVE_PRESENCE, &channel, true, then);
                command.cmd.arg(text_of(client)).arg(if self.counts_users { &*user } else { "" });
                command.cmd.arg(flag(self.counts_users)).arg(flag(self.fields_expire));
                command
            }
            EngineCall::Presence { ticket, channel, most } => {
                let mut command = self.present(&scripts::PRESENCE, &channel, false, Then::Presence(ticket), moment);
                command.cmd.arg(if most >= i64::MAX as usize { 0 } else { most });
                command
            }
            EngineCall::PresenceStats { ticket, channel } if self.counts_users => {
                self.present(&scripts::PRESENCE_STATS, &channel, true, Then::Stats(ticket), moment)
            }
            EngineCall::PresenceStats { ticket, channel } => {
                let mut command = self.present(&scripts::PRESENCE, &channel, false, Then::Counted(ticket), moment);
                command.cmd.arg(0);
                command
            }
            EngineCall::ReadCursor { ticket, channel, name } => self.read_cursor(ticket, &channel, &name),
            EngineCall::WriteCursor { channel, name, position, ttl_ms } => {
                self.write_cursor(&channel, &name, &position, ttl_ms)
            }
        })
    }

    fn read_cursor(&self, ticket: u64, channel: &str, name: &str) -> RedisCommand {
        let key = self.names.cursors(channel);
        let mut cmd = Cmd::new();
        cmd.arg("HGET").arg(&key).arg(name);
        RedisCommand { cmd, slot: Some(slot(key.as_bytes())), then: Then::Cursor(ticket) }
    }

    fn write_cursor(&self, channel: &str, name: &str, position: &Position, ttl_ms: u64) -> RedisCommand {
        let mut command = call(&scripts::WRITE_CURSOR, &[self.names.cursors(channel)], Then::Nothing);
        command.cmd.arg(name).arg(position.offset).arg(position.epoch.as_str()).arg(ttl_ms);
        command
    }

    /// Bytes to all who listen to one PUB/SUB channel of control.
    pub fn tell(&self, channel: &str, message: &[u8]) -> RedisCommand {
        let mut cmd = Cmd::new();
        cmd.arg("PUBLISH").arg(channel).arg(message);
        RedisCommand { cmd, slot: None, then: Then::Nothing }
    }

    /// Bytes to all who listen to one channel of sharded PUB/SUB.
    pub fn tell_sharded(&self, channel: &str, message: &[u8]) -> RedisCommand {
        let mut cmd = Cmd::new();
        cmd.arg("SPUBLISH").arg(channel).arg(message);
        RedisCommand { cmd, slot: Some(slot(channel.as_bytes())), then: Then::Nothing }
    }

    fn publish(&self, channel: &str, message: &[u8], then: Then) -> RedisCommand {
        let name = self.names.message(channel);
        let mut cmd = Cmd::new();
        cmd.arg(if self.publish == "spublish" { "SPUBLISH" } else { "PUBLISH" }).arg(&name).arg(message);
        RedisCommand { cmd, slot: Some(slot(name.as_bytes())), then }
    }

    fn pass_on(&self, ticket: u64, channel: &str, message: &[u8], idempotency_key: &str) -> RedisCommand {
        if idempotency_key.is_empty() {
            return self.publish(channel, message, Then::Published(ticket));
        }
        let result = self.names.result(channel, idempotency_key);
        let mut command = call(&scripts::PUBLISH_ONCE, &[&result], Then::Published(ticket));
        command.cmd.arg(message).arg(self.names.message(channel)).arg(self.publish).arg(RESULT_TTL);
        command
    }

    fn keep(
        &self,
        ticket: u64,
        channel: &str,
        message: &[u8],
        keep: Keep,
        treatment: &Treatment,
        moment: Moment,
    ) -> RedisCommand {
        let names = &self.names;
        let result = names.result(channel, &treatment.idempotency_key);
        let ttl = keep.ttl_ms.div_ceil(1000).max(1);
        let result_ttl = if treatment.idempotency_key.is_empty() { "" } else { RESULT_TTL };
        let mut command = match self.lists {
            true => {
                let keys = [names.list(channel), names.list_meta(channel), result];
                let mut command = call(&scripts::PUBLISH_LIST, &keys, Then::Placed(ticket));
                command.cmd.arg(message).arg(keep.size.saturating_sub(1));
                command
            }
            false => {
                let keys = [names.stream(channel), names.stream_meta(channel), result];
                let mut command = call(&scripts::PUBLISH_STREAM, &keys, Then::Placed(ticket));
                command.cmd.arg(message).arg(keep.size);
                command
            }
        };
        let cmd = &mut command.cmd;
        cmd.arg(ttl).arg(names.message(channel)).arg(meta_ttl(keep)).arg(&*new_epoch(moment.random));
        cmd.arg(self.publish).arg(result_ttl).arg(if treatment.delta { "1" } else { "" });
        if !self.lists {
            cmd.arg(treatment.version).arg(&*treatment.version_epoch);
        }
        command
    }

    fn read(&self, ticket: u64, channel: &str, query: Box<Query>, moment: Moment) -> RedisCommand {
        let names = &self.names;
        let (meta, epoch) = (meta_ttl(query.keep), new_epoch(moment.random));
        if self.lists {
            let keys = [names.list(channel), names.list_meta(channel)];
            let include = flag(query.limit > 0);
            let mut command = call(&scripts::READ_LIST, &keys, Then::Read(ticket, query));
            // All of them: which were asked for is found here.
            command.cmd.arg(include).arg("-1").arg(meta).arg(&*epoch);
            return command;
        }
        let keys = [names.stream(channel), names.stream_meta(channel)];
        let since = query.since.as_ref().map(|(offset, _)| *offset);
        let (from, nothing) = match (since, query.reverse) {
            (None, _) => (0, false),
            (Some(offset), false) => (offset.saturating_add(1), offset == u64::MAX),
            (Some(offset), true) => (offset.saturating_sub(1), offset <= 1),
        };
        let include = flag(query.limit > 0 && !nothing);
        let most = if query.limit >= i64::MAX as usize { 0 } else { query.limit };
        let reverse = flag(query.reverse);
        let mut command = call(&scripts::READ_STREAM, &keys, Then::Read(ticket, query));
        command.cmd.arg(include).arg(from).arg(most).arg(reverse).arg(meta).arg(&*epoch);
        command
    }

    fn add_presence(&self, channel: &str, client: [u8; 16], info: &ClientInfo, moment: Moment) -> RedisCommand {
        use prost::Message;
        let mut command = self.of_presence(&scripts::ADD_PRESENCE, channel, true, Then::Nothing);
        let ttl = self.presence_ttl_s;
        let user = if self.counts_users { &*info.user } else { "" };
        let cmd = &mut command.cmd;
        cmd.arg(ttl).arg(moment.unix_ms / 1000 + ttl).arg(text_of(client)).arg(info.encode_to_vec());
        cmd.arg(user).arg(flag(self.counts_users)).arg(flag(self.fields_expire));
        command
    }

    fn present(
        &self,
        script: &'static LuaScript,
        channel: &str,
        users: bool,
        then: Then,
        moment: Moment,
    ) -> RedisCommand {
        let mut command = self.of_presence(script, channel, users, then);
        command.cmd.arg(moment.unix_ms / 1000).arg(flag(self.fields_expire));
        command
    }

    fn of_presence(&self, script: &'static LuaScript, channel: &str, users: bool, then: Then) -> RedisCommand {
        let names = &self.names;
        let mut keys = vec![names.presence_expiry(channel), names.presence_clients(channel)];
        if users {
            keys.extend([names.presence_user_expiry(channel), names.presence_users(channel)]);
        }
        call(script, &keys, then)
    }
}

fn call<K: AsRef<str>>(script: &'static LuaScript, keys: &[K], then: Then) -> RedisCommand {
    let mut cmd = Cmd::new();
    cmd.arg("EVALSHA").arg(&script.sha).arg(keys.len());
    for key in keys {
        cmd.arg(key.as_ref());
    }
    RedisCommand { cmd, slot: keys.first().map(|key| slot(key.as_ref().as_bytes())), then }
}

fn flag(is_on: bool) -> &'static str {
    if is_on { "1" } else { "0" }
}

fn meta_ttl(keep: Keep) -> u64 {
    keep.meta_ttl_ms.div_ceil(1000)
}

fn text_of(client: [u8; 16]) -> String {
    uuid::Uuid::from_bytes(client).to_string()
}

/// Eight letters out of 52.
fn new_epoch(random: u64) -> CompactString {
    const LETTERS: &[u8; 52] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    (0..8).map(|at| char::from(LETTERS[((random >> (8 * at)) & 0xff) as usize % 52])).collect()
}

/// What is answered to the owner; an answer that cannot be read is none.
pub fn answer(then: Then, value: Value) -> Result<EngineAnswer, Away> {
    match then {
        Then::Published(_) if matches!(value, Value::Array(_)) => {
            let (_, known) = placed(value)?;
            Ok(if known { EngineAnswer::Known(None) } else { EngineAnswer::Published(None) })
        }
        Then::Nothing | Then::Published(_) => Ok(EngineAnswer::Published(None)),
        Then::Placed(_) => {
            let (position, known) = placed(value)?;
            Ok(if known { EngineAnswer::Known(Some(position)) } else { EngineAnswer::Published(Some(position)) })
        }
        Then::Read(_, query) => read(&query, value),
        Then::Removed(_) => Ok(EngineAnswer::Removed),
        Then::PresenceRemoved(_) => Ok(EngineAnswer::PresenceRemoved),
        Then::Presence(_) if value == Value::Nil => Ok(EngineAnswer::Refused(ClientError::LimitExceeded)),
        Then::Presence(_) => Ok(EngineAnswer::Presence(clients(value)?)),
        Then::Counted(_) => {
            let clients = clients(value)?;
            let users: HashSet<&str> = clients.iter().map(|info| &*info.user).collect();
            Ok(EngineAnswer::PresenceStats { clients: clients.len() as u32, users: users.len() as u32 })
        }
        Then::Cursor(_) => cursor(&bytes(value)?).map(EngineAnswer::Cursor),
        Then::Stats(_) => {
            let mut numbers = list(value)?.into_iter().map(number);
            let mut next = || numbers.next().ok_or(Away)?.map(|number| number as u32);
            Ok(EngineAnswer::PresenceStats { clients: next()?, users: next()? })
        }
    }
}

/// Where a publication is, and whether that was known before: by its key, or for its version is not above the latest.
fn placed(value: Value) -> Result<(Position, bool), Away> {
    let mut values = list(value)?;
    let marks = values.split_off(values.len().min(2));
    let known = marks.into_iter().any(|mark| matches!(bytes(mark).as_deref(), Ok(b"1")));
    Ok((position(values)?.0, known))
}

/// Offset and epoch with a blank between; nothing is no cursor.
fn cursor(text: &[u8]) -> Result<Option<Position>, Away> {
    if text.is_empty() {
        return Ok(None);
    }
    let (offset, epoch) = std::str::from_utf8(text).ok().and_then(|text| text.split_once(' ')).ok_or(Away)?;
    Ok(Some(Position { offset: offset.parse().map_err(|_| Away)?, epoch: epoch.into() }))
}

/// Offset and epoch, and what follows them.
fn position(values: Vec<Value>) -> Result<(Position, Option<Value>), Away> {
    let mut values = values.into_iter();
    let offset = number(values.next().ok_or(Away)?)?;
    let epoch = bytes(values.next().ok_or(Away)?)?;
    let epoch = Epoch::from(std::str::from_utf8(&epoch).map_err(|_| Away)?);
    Ok((Position { offset, epoch }, values.next()))
}

fn read(query: &Query, value: Value) -> Result<EngineAnswer, Away> {
    let (position, found) = position(list(value)?)?;
    if let Some((_, epoch)) = &query.since
        && !epoch.is_empty()
        && position.epoch != **epoch
    {
        return Ok(EngineAnswer::Unrecoverable);
    }
    let mut publications = Vec::new();
    let mut are_items = false;
    for entry in list(found.unwrap_or(Value::Array(Vec::new())))? {
        let read = match entry {
            Value::Array(parts) => stream_entry(parts)?,
            item => {
                are_items = true;
                payload::read_item(bytes(item)?).map(|(publication, _)| publication)
            }
        };
        // One that nobody can read is left out: it was no node's.
        publications.extend(read.ok());
    }
    if are_items {
        // All there are, the newest first.
        if !query.reverse {
            publications.reverse();
        }
        if let Some((since, _)) = query.since {
            publications.retain(|one| if query.reverse { one.offset < since } else { one.offset > since });
        }
        publications.truncate(query.limit);
    }
    Ok(EngineAnswer::Read(Box::new((position, publications))))
}

type ReadEntry = Result<crate::protocol::Publication, payload::Malformed>;

/// `[id, [field, value, ...]]`; the field is `d`.
fn stream_entry(parts: Vec<Value>) -> Result<ReadEntry, Away> {
    let mut parts = parts.into_iter();
    let id = bytes(parts.next().ok_or(Away)?)?;
    let mut fields = list(parts.next().ok_or(Away)?)?.into_iter();
    while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
        if &*bytes(name)? == b"d" {
            return Ok(payload::read_entry(&id, bytes(value)?));
        }
    }
    Ok(Err(payload::Malformed))
}

fn clients(value: Value) -> Result<Vec<ClientInfo>, Away> {
    let values: Vec<Value> = match value {
        Value::Map(pairs) => pairs.into_iter().flat_map(|(name, value)| [name, value]).collect(),
        other => list(other)?,
    };
    let infos = values.into_iter().skip(1).step_by(2);
    Ok(infos.filter_map(|info| payload::read_client(bytes(info).ok()?).ok()).collect())
}

fn list(value: Value) -> Result<Vec<Value>, Away> {
    match value {
        Value::Array(values) | Value::Set(values) => Ok(values),
        Value::Nil => Ok(Vec::new()),
        _ => Err(Away),
    }
}

pub fn bytes(value: Value) -> Result<Bytes, Away> {
    match value {
        Value::BulkString(bytes) => Ok(bytes.into()),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Ok(text.into_bytes().into()),
        Value::Int(number) => Ok(number.to_string().into()),
        Value::Nil => Ok(Bytes::new()),
        _ => Err(Away),
    }
}

fn number(value: Value) -> Result<u64, Away> {
    match value {
        Value::Int(number) => u64::try_from(number).map_err(|_| Away),
        other => std::str::from_utf8(&bytes(other)?).ok().and_then(|text| text.parse().ok()).ok_or(Away),
    }
}

/// The channel that a call is about.
pub fn channel_of(call: &EngineCall) -> &Arc<str> {
    match call {
        EngineCall::Listen { channel, .. }
        | EngineCall::Unlisten { channel }
        | EngineCall::Publish { channel, .. }
        | EngineCall::Announce { channel, .. }
        | EngineCall::Read { channel, .. }
        | EngineCall::RemoveHistory { channel, .. }
        | EngineCall::AddPresence { channel, .. }
        | EngineCall::RemovePresence { channel, .. }
        | EngineCall::Presence { channel, .. }
        | EngineCall::PresenceStats { channel, .. }
        | EngineCall::ReadCursor { channel, .. }
        | EngineCall::WriteCursor { channel, .. } => channel,
    }
}
