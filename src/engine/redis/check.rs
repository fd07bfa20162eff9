//! F10 · Whether a server will do: what it is and how it is set, found out before anyone depends on it.
//!
//! Owns the questions and what is wrong with the answers, a line each. Changes nothing.

use super::dial::{RedisFault, RedisServer};
use crate::config::RedisOptions;
use redis::Value;
use redis::aio::MultiplexedConnection;
use std::time::{Duration, Instant};

/// The oldest that speaks all of what is spoken here.
const VERSION_MIN: (u32, u32) = (6, 2);
/// The first with sharded PUB/SUB.
const VERSION_SHARDED: (u32, u32) = (7, 0);
/// The first that lets fields of hashes expire.
const VERSION_FIELDS: (u32, u32) = (7, 4);

/// What a server says of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct RedisFacts {
    pub version: String,
    pub is_cluster: bool,
    /// The quickest of a few.
    pub round_trip: Duration,
    /// What happens when memory is used up; `None` if it does not tell.
    pub memory_policy: Option<String>,
    /// Bytes; 0 = what the host has.
    pub memory_max: Option<u64>,
    /// What may wait for a PUB/SUB connection: hard, soft and seconds.
    pub pub_sub_limit: Option<(u64, u64, u64)>,
}

/// Asks one server.
pub async fn inspect(server: &RedisServer) -> Result<RedisFacts, RedisFault> {
    let mut dialled = server.dial(None).await?;
    let conn = &mut dialled.conn;
    let info = text(conn, &["INFO", "server"]).await?;
    let version =
        line(&info, "redis_version").ok_or_else(|| RedisFault("the server does not tell its version".into()))?;
    let mut round_trip = Duration::MAX;
    for _ in 0..5 {
        let began = Instant::now();
        ask(conn, &["PING"]).await?;
        round_trip = round_trip.min(began.elapsed());
    }
    let cluster = text(conn, &["INFO", "cluster"]).await.unwrap_or_default();
    // Servers that others run keep these to themselves.
    let memory_policy = setting(conn, "maxmemory-policy").await;
    let memory_max = setting(conn, "maxmemory").await.and_then(|value| value.parse().ok());
    let pub_sub_limit = setting(conn, "client-output-buffer-limit").await.and_then(|value| limit_of(&value));
    let is_cluster = line(&cluster, "cluster_enabled").is_some_and(|value| value == "1");
    Ok(RedisFacts { version, is_cluster, round_trip, memory_policy, memory_max, pub_sub_limit })
}

async fn ask(conn: &mut MultiplexedConnection, words: &[&str]) -> Result<Value, RedisFault> {
    let mut cmd = redis::Cmd::new();
    for word in words {
        cmd.arg(*word);
    }
    Ok(conn.send_packed_command(&cmd).await?.extract_error()?)
}

async fn text(conn: &mut MultiplexedConnection, words: &[&str]) -> Result<String, RedisFault> {
    match ask(conn, words).await? {
        Value::BulkString(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Value::VerbatimString { text, .. } | Value::SimpleString(text) => Ok(text),
        _ => Err(RedisFault(format!("{} was not answered by text", words.join(" ")))),
    }
}

async fn setting(conn: &mut MultiplexedConnection, name: &str) -> Option<String> {
    let pairs = match ask(conn, &["CONFIG", "GET", name]).await.ok()? {
        Value::Map(pairs) => pairs,
        _ => return None,
    };
    let (_, value) = pairs.into_iter().next()?;
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes).ok(),
        _ => None,
    }
}

fn line(info: &str, name: &str) -> Option<String> {
    let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.map(|value| value.trim().to_owned())
}

/// `... pubsub 33554432 8388608 60`
fn limit_of(setting: &str) -> Option<(u64, u64, u64)> {
    let mut words = setting.split_whitespace().skip_while(|word| *word != "pubsub").skip(1);
    let mut next = || words.next()?.parse().ok();
    Some((next()?, next()?, next()?))
}

fn version_of(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// What keeps `facts` from doing; `at` is the section of the options.
pub fn unfit(facts: &RedisFacts, options: &RedisOptions, at: &str) -> Option<String> {
    let RedisFacts { version, is_cluster, .. } = facts;
    let found = version_of(version)?;
    if found < VERSION_MIN {
        return Some(format!("{at}: the server is Redis {version}; 6.2 or newer is needed"));
    }
    if options.presence_hash_field_ttl && found < VERSION_FIELDS {
        let option = format!("{at}.presence_hash_field_ttl");
        return Some(format!("{option}: takes Redis 7.4 or newer, and the server is {version}: set it to false"));
    }
    if options.sharded_pub_sub_partitions > 0 && found < VERSION_SHARDED {
        let option = format!("{at}.sharded_pub_sub_partitions");
        return Some(format!("{option}: takes Redis 7.0 or newer, and the server is {version}: set it to 0"));
    }
    let wants_cluster = !options.cluster_address.is_empty();
    match (wants_cluster, is_cluster) {
        (false, true) => Some(format!("{at}.address: the server is of a Redis Cluster: name it in cluster_address")),
        (true, false) => Some(format!("{at}.cluster_address: the server is of no Redis Cluster: name it in address")),
        _ => None,
    }
}

/// What works and should be known.
pub fn advice(facts: &RedisFacts) -> Vec<String> {
    let mut lines = Vec::new();
    if let (Some(policy), Some(max)) = (&facts.memory_policy, facts.memory_max)
        && max > 0
        && policy.starts_with("allkeys")
    {
        let text = "history and presence may be thrown away while they are in use, and clients that recover are told \
                    so: set noeviction and give it memory, or volatile-ttl";
        lines.push(format!("maxmemory-policy is {policy}: {text}"));
    }
    if let Some((hard, ..)) = facts.pub_sub_limit
        && hard > 0
        && hard < 64 << 20
    {
        let text = "a burst beyond it ends this node's PUB/SUB connection, and what was in it is read again from \
                    history: CONFIG SET client-output-buffer-limit \"pubsub 256mb 64mb 60\"";
        lines.push(format!("the output buffer of PUB/SUB is {} MiB at most: {text}", hard >> 20));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(version: &str, is_cluster: bool) -> RedisFacts {
        let (memory_policy, memory_max, pub_sub_limit) = (None, None, None);
        let round_trip = Duration::ZERO;
        RedisFacts { version: version.into(), is_cluster, round_trip, memory_policy, memory_max, pub_sub_limit }
    }

    #[test]
    fn what_does_not_fit_is_told_with_what_to_do() {
        let plain = RedisOptions::default();
        let cluster = RedisOptions { cluster_address: vec!["a:1".into()], ..RedisOptions::default() };
        let fields = RedisOptions { presence_hash_field_ttl: true, ..RedisOptions::default() };
        let sharded = RedisOptions { sharded_pub_sub_partitions: 16, ..cluster.clone() };
        let said = |facts: RedisFacts, options: &RedisOptions| unfit(&facts, options, "engine.redis");
        for (facts, options, part) in [
            (facts("6.0.16", false), &plain, "6.2 or newer"),
            (facts("7.0.15", true), &plain, "name it in cluster_address"),
            (facts("7.0.15", false), &cluster, "name it in address"),
            (facts("6.2.14", true), &sharded, "sharded_pub_sub_partitions: takes Redis 7.0"),
            (facts("7.2.9", false), &fields, "presence_hash_field_ttl: takes Redis 7.4"),
        ] {
            let text = said(facts, options).expect("refused");
            assert!(text.starts_with("engine.redis") && text.contains(part), "{text}");
        }
        assert_eq!(said(facts("7.0.15", false), &plain), None);
        assert_eq!(said(facts("8.0.0", true), &cluster), None);
        assert_eq!(said(facts("7.4.0", false), &fields), None);
    }

    #[test]
    fn settings_are_read_and_judged() {
        let limits = "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60";
        assert_eq!(limit_of(limits), Some((33_554_432, 8_388_608, 60)));
        assert_eq!(limit_of("normal 0 0 0"), None);
        let evicting = RedisFacts {
            memory_policy: Some("allkeys-lru".into()),
            memory_max: Some(1 << 30),
            pub_sub_limit: Some((32 << 20, 8 << 20, 60)),
            ..facts("7.0.0", false)
        };
        assert_eq!(advice(&evicting).len(), 2);
        let quiet = RedisFacts { memory_policy: Some("noeviction".into()), pub_sub_limit: Some((0, 0, 0)), ..evicting };
        assert_eq!(advice(&quiet), [""; 0]);
        assert_eq!(line("a:1\r\nredis_version:7.0.15\r\n", "redis_version").as_deref(), Some("7.0.15"));
    }
}
