//! F10 · Which engines a configuration takes, and what their servers are found to be.
//!
//! Owns the choice: which servers channels live on, where it is kept who is present, and by which engine nodes speak to
//! each other. Starts none.

use super::counts::EngineCounts;
use super::{nats, redis};
use crate::config::{Config, NatsOptions, RedisOptions, Store};
use crate::session::ChannelNames;
use std::sync::Arc;
use std::time::Duration;

/// Options with the section that they stand in.
type OwnedSection<T> = (T, &'static str);

/// Where it is kept who is present, if not where channels live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PresencePlace {
    Redis,
    /// On each node, and all are asked.
    Board,
}

pub struct EnginePlan {
    /// Of channels.
    redis: Option<OwnedSection<RedisOptions>>,
    pub nats: Option<OwnedSection<NatsOptions>>,
    pub presence: Option<PresencePlace>,
    /// Of presence, if it is another than that of channels.
    presence_redis: Option<OwnedSection<RedisOptions>>,
    pub control_by_nats: bool,
    /// May data in a channel be other than JSON?
    pub takes_bytes: Box<dyn Fn(&str) -> bool + Send>,
}

/// What a server was found to be.
#[derive(Debug)]
pub struct ServerFinding {
    pub at: &'static str,
    pub name: String,
    /// With its kind.
    pub version: String,
    pub round_trip: Duration,
    /// What else it says of itself.
    pub facts: Option<String>,
    /// What to change.
    pub advice: Vec<String>,
}

impl EnginePlan {
    pub fn new(config: &Config) -> EnginePlan {
        let stores = config.stores();
        let redis = stores.iter().find_map(|store| match store {
            Store::Redis(options, at) => Some(((*options).clone(), *at)),
            _ => None,
        });
        let nats = stores.iter().find_map(|store| match store {
            Store::Nats(options, at) => Some(((*options).clone(), *at)),
            _ => None,
        });
        let control_by_nats = matches!(stores.first(), Some(Store::Nats(..)));
        let (presence, presence_redis) = match config.presence_store() {
            _ if stores.is_empty() => (None, None),
            Some(Store::Redis(options, at)) => {
                let own = redis.as_ref().is_some_and(|(own, _)| own == options);
                (Some(PresencePlace::Redis), (!own).then(|| (options.clone(), at)))
            }
            Some(_) => (Some(PresencePlace::Board), None),
            None => (None, None),
        };
        let takes_bytes = Box::new(binary_channels(config));
        EnginePlan { redis, nats, presence, presence_redis, control_by_nats, takes_bytes }
    }

    pub fn is_empty(&self) -> bool {
        self.redis.is_none() && self.nats.is_none()
    }

    pub fn redis_sections(&self) -> (Option<redis::Sectioned<'_>>, Option<redis::Sectioned<'_>>) {
        let [broker, presence] =
            [&self.redis, &self.presence_redis].map(|section| section.as_ref().map(|(options, at)| (options, *at)));
        (broker, presence)
    }

    /// The counts of each engine, by the name that its metrics have.
    pub fn counts(&self) -> Result<Vec<(&'static str, Arc<EngineCounts>)>, String> {
        let mut all = Vec::new();
        match self.redis_sections() {
            (Some(broker), presence) => {
                let of_presence = presence.map(redis::server_names).transpose()?.unwrap_or_default();
                // It may be the same server with another database.
                let of_presence = of_presence.into_iter().map(|name| format!("{name} (presence)"));
                let counts = EngineCounts::new(redis::server_names(broker)?, true).with_called(of_presence);
                all.push(("redis", counts));
            }
            (None, Some(presence)) => all.push(("redis", EngineCounts::new(redis::server_names(presence)?, false))),
            (None, None) => {}
        }
        if let Some((options, at)) = &self.nats {
            all.push(("nats", EngineCounts::new([nats::server_name(options, at)?], true)));
        }
        Ok(all.into_iter().map(|(name, counts)| (name, Arc::new(counts))).collect())
    }

    /// Asks one server of each kind what it is; the error is a line for the operator.
    pub async fn examine(&self) -> Result<Vec<ServerFinding>, String> {
        let mut found = Vec::new();
        for (options, at) in [&self.redis, &self.presence_redis].into_iter().flatten() {
            for (name, facts) in redis::examine((options, at)).await? {
                let kind = if facts.is_cluster { "Redis Cluster" } else { "Redis" };
                let (version, round_trip) = (format!("{kind} {}", facts.version), facts.round_trip);
                let policy = facts.memory_policy.as_deref().unwrap_or("not told");
                let memory = match facts.memory_max {
                    Some(0) => "what the host has".to_owned(),
                    Some(bytes) => format!("{} MiB", bytes >> 20),
                    None => "not told".to_owned(),
                };
                let advice = redis::advice(&facts);
                let facts = Some(format!("memory: {memory}, maxmemory-policy: {policy}"));
                found.push(ServerFinding { at, name, version, round_trip, facts, advice });
            }
        }
        if let Some((options, at)) = &self.nats {
            let (name, info, round_trip) = nats::examine(options, at).await?;
            let version = format!("NATS {}", info.version);
            let facts = Some(format!("max_payload: {} KiB", info.max_payload >> 10));
            found.push(ServerFinding { at, name, version, round_trip, facts, advice: nats::advice(&info) });
        }
        Ok(found)
    }
}

/// Does a channel's namespace say that its data may be any bytes?
fn binary_channels(config: &Config) -> impl Fn(&str) -> bool + Send + use<> {
    let names = ChannelNames::new(&config.channel);
    let common = config.channel.publication_data_format.clone();
    let is_binary = move |own: &str| if own.is_empty() { common == "binary" } else { own == "binary" };
    let without = is_binary(&config.channel.without_namespace.publication_data_format);
    let namespaces = config.channel.namespaces.iter();
    let binary: Vec<String> = namespaces
        .filter(|namespace| is_binary(&namespace.options.publication_data_format))
        .map(|namespace| namespace.name.clone())
        .collect();
    move |channel| match names.parts(channel).0 {
        Some(namespace) => binary.iter().any(|name| name == namespace),
        None => without,
    }
}
