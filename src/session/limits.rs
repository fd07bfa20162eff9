//! F6 · How often a client may ask for something: the configured limits made flat, and who is charged for a command.
//!
//! A connection's own buckets are in its session, and only those that are not full; a user's are in a table of the
//! node's, for its connections are on all reactors. The arithmetic is `meter`'s.

use super::commands::{Failure, Outcome};
use super::rules::ChannelNames;
use super::{Effect, Now, Phase, Session, Turn};
use crate::base::meter::{Bucket, BucketTable};
use crate::base::metrics::Limited;
use crate::config::{BucketOptions, Commands, RateLimit};
use crate::protocol::Command;
use crate::protocol::code::{ClientError, Disconnect};
use foldhash::quality::RandomState;
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::ops::Range;

/// What is limited, in the order in which the configuration lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Connect,
    Subscribe,
    Unsubscribe,
    Publish,
    History,
    Presence,
    PresenceStats,
    Refresh,
    SubRefresh,
    Rpc,
}

/// All limits of a node. Buckets are known by their place in one list, which goes on through the node's life: what was
/// spent of a bucket is never taken for another's.
#[derive(Debug, Default)]
pub struct RateLimits {
    /// The place of the first.
    first: u32,
    buckets: Vec<Bucket>,
    client: Option<Layer>,
    user: Option<(Layer, UserTable)>,
    errors: Option<Layer>,
}

/// The limits of one way of counting.
#[derive(Debug)]
struct Layer {
    name: &'static str,
    dry_run: bool,
    commands: Vec<PerCommand>,
    total: Range<u32>,
}

/// The buckets of one command, and those in place of them for a namespace or a method.
#[derive(Debug)]
struct PerCommand {
    key: &'static str,
    base: Range<u32>,
    overrides: HashMap<String, Range<u32>>,
}

/// Buckets of all users of the node.
#[derive(Debug)]
struct UserTable {
    table: BucketTable,
    hasher: RandomState,
}

impl RateLimits {
    pub fn new(config: &RateLimit) -> RateLimits {
        RateLimits::from_place(0, config)
    }

    /// Those that come in place of these.
    pub fn next(&self, config: &RateLimit) -> RateLimits {
        RateLimits::from_place(self.end(), config)
    }

    fn from_place(first: u32, config: &RateLimit) -> RateLimits {
        let mut limits = RateLimits { first, ..RateLimits::default() };
        limits.client = limits.layer("client_command", &config.client_command);
        let user = limits.layer("user_command", &config.user_command);
        limits.user = user.map(|layer| {
            (layer, UserTable { table: BucketTable::new(config.user_table_size), hasher: RandomState::default() })
        });
        let errors = &config.client_error;
        limits.errors = (errors.enabled && !errors.total.kept().is_empty()).then(|| Layer {
            name: "client_error",
            dry_run: errors.dry_run,
            commands: Vec::new(),
            total: limits.add(errors.total.kept()),
        });
        limits
    }

    fn layer(&mut self, name: &'static str, config: &Commands) -> Option<Layer> {
        if !config.enabled {
            return None;
        }
        let default = config.default.kept();
        let chosen = |enabled, own: &'_ [BucketOptions]| match enabled && !own.is_empty() {
            true => own.to_vec(),
            false => default.to_vec(),
        };
        let mut commands = Vec::new();
        for it in config.each() {
            let base = self.add(&chosen(it.enabled, it.buckets));
            // One that is switched off leaves its namespace to the others.
            let enabled = it.overrides.iter().filter(|(_, enabled, _)| *enabled);
            let overrides = enabled.map(|(name, _, own)| ((*name).to_owned(), self.add(&chosen(true, own)))).collect();
            commands.push(PerCommand { key: it.key, base, overrides });
        }
        Some(Layer { name, dry_run: config.dry_run, commands, total: self.add(config.total.kept()) })
    }

    fn add(&mut self, buckets: &[BucketOptions]) -> Range<u32> {
        let start = self.end();
        self.buckets.extend(buckets.iter().map(|it| Bucket::new(it.rate, it.interval)));
        start..self.end()
    }

    /// The place behind the last.
    fn end(&self) -> u32 {
        self.first + self.buckets.len() as u32
    }

    fn bucket(&self, at: u32) -> Bucket {
        self.buckets[(at - self.first) as usize]
    }

    /// What may go beyond a limit, as it is counted.
    pub fn kinds(&self) -> Vec<Limited> {
        let layers = self.client.iter().chain(self.user.iter().map(|(layer, _)| layer)).chain(&self.errors);
        let kinds = layers.flat_map(|layer| {
            let commands = layer.commands.iter().map(|command| command.key);
            let of_errors = layer.commands.is_empty().then_some("error");
            commands.chain(of_errors).map(|key| (layer.name, key, layer.dry_run))
        });
        kinds.collect()
    }

    /// Is nothing limited by connection?
    pub fn keeps_nothing(&self) -> bool {
        self.client.is_none() && self.errors.is_none()
    }

    /// One of each bucket in turn, or none at all.
    fn take(&self, places: impl Iterator<Item = u32> + Clone, purse: &mut impl Purse, now: u64) -> bool {
        for (taken, at) in places.clone().enumerate() {
            if !purse.take(at, self.bucket(at), now) {
                for at in places.take(taken) {
                    purse.give_back(at, self.bucket(at));
                }
                return false;
            }
        }
        true
    }
}

impl Layer {
    /// Charges a command; is it within its limits? What is refused leaves the buckets as they were.
    fn charge(&self, limits: &RateLimits, purse: &mut impl Purse, kind: Kind, name: &str, now: u64) -> bool {
        let Some(command) = self.commands.get(kind as usize) else { return true };
        let own = command.overrides.get(name).unwrap_or(&command.base).clone();
        if kind == Kind::Unsubscribe {
            // It is never refused, so what is left of each must be gone.
            let (own, total) = (limits.take(own, purse, now), limits.take(self.total.clone(), purse, now));
            return own && total;
        }
        limits.take(own.chain(self.total.clone()), purse, now)
    }

    /// Tells of what went beyond the limits; is it refused?
    fn refuses(&self, kind: Kind, turn: &mut Turn<'_>) -> bool {
        let key = self.commands.get(kind as usize).map_or("error", |command| command.key);
        turn.fx.limited.push((self.name, key, self.dry_run));
        !self.dry_run && kind != Kind::Unsubscribe
    }
}

/// Whose tokens are taken.
trait Purse {
    fn take(&mut self, at: u32, bucket: Bucket, now: u64) -> bool;
    fn give_back(&mut self, at: u32, bucket: Bucket);
}

/// The buckets of one connection that are not full: their place, and when they will be.
#[derive(Debug, Default)]
pub struct Spent(Vec<(u32, u64)>);

impl Spent {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Lets go of those that are full again.
    fn forget(&mut self, now: u64) {
        self.0.retain(|(_, full_at)| *full_at > now);
        if self.0.is_empty() {
            self.0 = Vec::new();
        }
    }
}

impl Purse for Spent {
    fn take(&mut self, at: u32, bucket: Bucket, now: u64) -> bool {
        if let Some((_, full_at)) = self.0.iter_mut().find(|(place, _)| *place == at) {
            let next = bucket.take(*full_at, now);
            *full_at = next.unwrap_or(*full_at);
            return next.is_some();
        }
        if self.0.len() == self.0.capacity() {
            self.forget(now);
            self.0.reserve_exact(2);
        }
        self.0.extend(bucket.take(0, now).map(|full_at| (at, full_at)));
        true
    }

    fn give_back(&mut self, at: u32, bucket: Bucket) {
        if let Some((_, full_at)) = self.0.iter_mut().find(|(place, _)| *place == at) {
            *full_at = bucket.give_back(*full_at);
        }
    }
}

/// One user, by hash.
struct OfUser<'a>(&'a BucketTable, u64);

impl Purse for OfUser<'_> {
    fn take(&mut self, at: u32, bucket: Bucket, now: u64) -> bool {
        self.0.take(self.1, at, bucket, now)
    }

    fn give_back(&mut self, at: u32, bucket: Bucket) {
        self.0.give_back(self.1, at, bucket);
    }
}

impl Session {
    /// Charges a command to the connection and to its user.
    pub(super) fn charge(&mut self, command: &Command, turn: &mut Turn<'_>) -> Outcome {
        let limits = &turn.rules.limits;
        if limits.client.is_none() && limits.user.is_none() || self.phase != Phase::Connected {
            return Ok(());
        }
        let Some((kind, name)) = kind_of(command, &turn.rules.names) else { return Ok(()) };
        let now = nanos(turn.now);
        if let Some(layer) = &limits.client
            && !layer.charge(limits, &mut self.more().spent, kind, name, now)
            && layer.refuses(kind, turn)
        {
            return Err(self.beyond_limit(turn));
        }
        match charge_user(&self.user, kind, name, turn) {
            true => Ok(()),
            false => Err(self.beyond_limit(turn)),
        }
    }

    fn beyond_limit(&mut self, turn: &mut Turn<'_>) -> Failure {
        turn.fx.own_fault = true;
        ClientError::TooManyRequests.into()
    }

    /// An error reply was given: too many of them are the end. Those that are the server's own fault do not count.
    pub(super) fn charge_error(&mut self, code: u32, turn: &mut Turn<'_>) {
        let limits = &turn.rules.limits;
        let own_fault = std::mem::take(&mut turn.fx.own_fault);
        let servers = code == ClientError::Internal.code() || code == ClientError::TooManyRequests.code();
        let Some(layer) = limits.errors.as_ref().filter(|_| own_fault || !servers) else { return };
        let within = limits.take(layer.total.clone(), &mut self.more().spent, nanos(turn.now));
        if !within && layer.refuses(Kind::Connect, turn) {
            turn.fx.push(Effect::Close(Disconnect::TOO_MANY_ERRORS));
        }
    }

    /// Forgets what was spent long ago: an idle client carries nothing.
    pub(super) fn forget_spent(&mut self, turn: &Turn<'_>) {
        if let Some(more) = self.more.as_mut().filter(|_| !turn.rules.limits.keeps_nothing()) {
            more.spent.forget(nanos(turn.now));
            self.drop_more();
        }
    }
}

/// Charges a connect to the user it is for.
pub(super) fn charge_connect(user: &str, turn: &mut Turn<'_>) -> Result<(), ClientError> {
    if charge_user(user, Kind::Connect, "", turn) {
        return Ok(());
    }
    turn.fx.own_fault = true;
    Err(ClientError::TooManyRequests)
}

fn charge_user(user: &str, kind: Kind, name: &str, turn: &mut Turn<'_>) -> bool {
    let limits = &turn.rules.limits;
    let Some((layer, users)) = limits.user.as_ref().filter(|_| !user.is_empty()) else { return true };
    let mut purse = OfUser(&users.table, users.hasher.hash_one(user));
    layer.charge(limits, &mut purse, kind, name, nanos(turn.now)) || !layer.refuses(kind, turn)
}

fn nanos(now: Now) -> u64 {
    now.ms.saturating_mul(1_000_000)
}

/// What a command is counted as, and its namespace or method. Pongs are no commands; `send` ends the session anyway.
fn kind_of<'a>(command: &'a Command, names: &ChannelNames) -> Option<(Kind, &'a str)> {
    if command.id == 0 || command.connect.is_some() {
        return None;
    }
    let channels = [
        (Kind::Subscribe, command.subscribe.as_ref().map(|it| &it.channel)),
        (Kind::Unsubscribe, command.unsubscribe.as_ref().map(|it| &it.channel)),
        (Kind::Publish, command.publish.as_ref().map(|it| &it.channel)),
        (Kind::Presence, command.presence.as_ref().map(|it| &it.channel)),
        (Kind::PresenceStats, command.presence_stats.as_ref().map(|it| &it.channel)),
        (Kind::History, command.history.as_ref().map(|it| &it.channel)),
        (Kind::SubRefresh, command.sub_refresh.as_ref().map(|it| &it.channel)),
    ];
    // Who says several things at once has the first of them done, in the order in which commands are looked for.
    let of_channel = channels.into_iter().find_map(|(kind, channel)| Some((kind, names.namespace(channel?))));
    let rpc = command.rpc.as_ref().map(|it| (Kind::Rpc, it.method.as_str()));
    of_channel.or(rpc).or(command.refresh.as_ref().map(|_| (Kind::Refresh, "")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use std::time::Duration;

    fn buckets(list: &[(u64, u32)]) -> Vec<BucketOptions> {
        list.iter().map(|&(ms, rate)| BucketOptions { interval: Duration::from_millis(ms), rate }).collect()
    }

    /// Ten publications a second and a hundred a minute; of all together twelve a second.
    fn limits() -> RateLimits {
        let mut config = Config::default().client.rate_limit;
        let client = &mut config.client_command;
        client.enabled = true;
        (client.publish.enabled, client.publish.buckets) = (true, buckets(&[(1000, 10), (60_000, 100)]));
        (client.total.enabled, client.total.buckets) = (true, buckets(&[(1000, 12)]));
        RateLimits::new(&config)
    }

    fn charge(limits: &RateLimits, spent: &mut Spent, kind: Kind, ms: u64) -> bool {
        let layer = limits.client.as_ref().expect("a layer");
        layer.charge(limits, spent, kind, "", 1_700_000_000_000_000_000 + ms * 1_000_000)
    }

    #[test]
    fn the_configuration_lists_the_kinds_in_this_order() {
        let limits = limits();
        let layer = limits.client.as_ref().expect("a layer");
        let kinds = [
            (Kind::Connect, "connect"),
            (Kind::Subscribe, "subscribe"),
            (Kind::Unsubscribe, "unsubscribe"),
            (Kind::Publish, "publish"),
            (Kind::History, "history"),
            (Kind::Presence, "presence"),
            (Kind::PresenceStats, "presence_stats"),
            (Kind::Refresh, "refresh"),
            (Kind::SubRefresh, "sub_refresh"),
            (Kind::Rpc, "rpc"),
        ];
        assert_eq!(layer.commands.len(), kinds.len());
        for (kind, key) in kinds {
            assert_eq!(layer.commands[kind as usize].key, key);
        }
    }

    #[test]
    fn all_buckets_must_have_room_and_none_pays_for_what_another_refuses() {
        let (limits, mut spent) = (limits(), Spent::default());
        assert_eq!((0..20).filter(|_| charge(&limits, &mut spent, Kind::Publish, 0)).count(), 10);
        // Ten refusals cost the total nothing: two are left of it.
        assert_eq!((0..20).filter(|_| charge(&limits, &mut spent, Kind::Presence, 0)).count(), 2);
        // Refused by the total, a publication costs its own buckets nothing.
        let mut later = Spent::default();
        assert_eq!((0..20).filter(|_| charge(&limits, &mut later, Kind::Presence, 0)).count(), 12);
        assert!((0..20).all(|_| !charge(&limits, &mut later, Kind::Publish, 0)));
        assert_eq!((0..20).filter(|_| charge(&limits, &mut later, Kind::Publish, 1000)).count(), 10);
    }

    /// Ten a second as long as the minute lasts, then what the minute gives.
    #[test]
    fn the_slower_bucket_binds_in_the_end() {
        let (limits, mut spent) = (limits(), Spent::default());
        let taken = (0..6000).filter(|at| charge(&limits, &mut spent, Kind::Publish, at * 10)).count();
        // A hundred at once, and one every 0.6 s for just under a minute.
        assert_eq!(taken, 199);
    }

    /// As after a reload.
    #[test]
    fn what_was_spent_of_one_limit_is_not_taken_for_another() {
        let (before, mut spent) = (limits(), Spent::default());
        assert_eq!((0..20).filter(|_| charge(&before, &mut spent, Kind::Publish, 0)).count(), 10);
        let mut config = Config::default().client.rate_limit;
        (config.client_command.enabled, config.client_command.total.enabled) = (true, true);
        config.client_command.total.buckets = buckets(&[(60_000, 5)]);
        let after = before.next(&config);
        assert_eq!((0..20).filter(|_| charge(&after, &mut spent, Kind::Publish, 1)).count(), 5);
        assert!(spent.0.len() == 4 && !charge(&before, &mut spent, Kind::Publish, 1), "the old places stand apart");
        spent.forget(1_700_000_000_000_000_000 + 61_000_000_000);
        assert!(spent.is_empty(), "and are forgotten in time");
    }

    #[test]
    fn unsubscribing_uses_up_what_is_left() {
        let (limits, mut spent) = (limits(), Spent::default());
        assert_eq!((0..20).filter(|_| charge(&limits, &mut spent, Kind::Unsubscribe, 0)).count(), 12);
        assert!(!charge(&limits, &mut spent, Kind::Publish, 0));
    }

    #[test]
    fn an_idle_client_carries_nothing() {
        let (limits, mut spent) = (limits(), Spent::default());
        assert!(charge(&limits, &mut spent, Kind::Publish, 0));
        assert_eq!(spent.0.len(), 3);
        spent.forget(1_700_000_000_000_000_000 + 200_000_000);
        assert_eq!(spent.0.len(), 1, "the minute's is not full yet");
        spent.forget(1_700_000_001_000_000_000);
        assert!(spent.is_empty() && spent.0.capacity() == 0);
    }

    #[test]
    fn nothing_is_kept_unless_it_is_asked_for() {
        let limits = RateLimits::new(&Config::default().client.rate_limit);
        assert!(limits.keeps_nothing() && limits.user.is_none() && limits.buckets.is_empty());
    }

    #[test]
    fn namespaces_of_channels() {
        for (channel, expected) in [("a", ""), ("chat:a:b", "chat"), ("$chat:a", "chat"), (":a", ""), ("", "")] {
            let names = ChannelNames::new(&Config::default().channel);
            assert_eq!(names.namespace(channel), expected, "{channel}");
        }
    }
}
