//! What was typed, judged and turned into a plan: each scenario is a few values. Never runs one.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::EncodingKey;
use rustls::ClientConfig;

use crate::options::{Chat, Churn, Common, Echo, Fanout, Idle, ProfileName, Ramp, Scenario, Slow, Storm};
use crate::plan::{Life, Plan, Talk};
use crate::profile::centrifugal::Encoding;
use crate::profile::{Centrifugal, Names, Profile, Raw};
use crate::roles::Roles;
use crate::secure;
use crate::stamp;
use crate::target::{Sources, Target};

/// Without `--duration`.
const DURATION: Duration = Duration::from_secs(10);
/// A storm has at most this long, and what it waits by plan.
const STORM_DURATION: Duration = Duration::from_secs(60);
/// Without `--away`, clients that recover stay away for so long.
const AWAY: Duration = Duration::from_secs(1);
/// What the official servers serve clients at.
const CENTRIFUGAL_PATH: &str = "/connection/websocket";

impl Scenario {
    pub fn common(&self) -> &Common {
        match self {
            Self::Idle(Idle { common, .. })
            | Self::Echo(Echo { common, .. })
            | Self::Fanout(Fanout { common, .. })
            | Self::Chat(Chat { common, .. })
            | Self::Storm(Storm { common, .. })
            | Self::Churn(Churn { common, .. })
            | Self::Slow(Slow { common, .. })
            | Self::Ramp(Ramp { common, .. }) => common,
        }
    }

    /// The plan, or what is wrong with what was typed.
    pub fn plan(&self) -> Result<Plan, String> {
        let plan = match self {
            Self::Idle(typed) => {
                plan("idle", &typed.common, Roles::silent(typed.clients, typed.channels), Talk::Nobody)
            }
            Self::Echo(typed) => echo(typed),
            Self::Fanout(typed) => fanout(typed),
            Self::Chat(typed) => chat(typed),
            Self::Storm(typed) => storm(typed),
            Self::Churn(typed) => churn(typed),
            Self::Slow(typed) => slow(typed),
            Self::Ramp(typed) => ramp(typed),
        }?;
        if plan.roles.clients == 0 {
            return Err("at least one client is needed".to_owned());
        }
        if plan.size < stamp::LEN {
            return Err(format!("--size {}: a payload carries a stamp of {} bytes", plan.size, stamp::LEN));
        }
        match self.common().part {
            Some((part, parts)) if parts > 1 => part_of(plan, self.common(), part, parts),
            _ => Ok(plan),
        }
    }
}

/// The plan of a process that was started as one part, without a controller.
fn part_of(plan: Plan, common: &Common, part: u32, parts: u32) -> Result<Plan, String> {
    if plan.talk != Talk::Nobody && plan.start_at.is_none() {
        return Err("--part: to speak together, all parts need the same --start-at".to_owned());
    }
    // All parts of a run know each other's messages; otherwise every run is a stranger.
    let run = common.start_at.map_or(0, |at| at as u32);
    // A part sees what its own speakers owe everyone, so only all parts together can be judged.
    Ok(Plan { min_delivery: common.min_delivery, ..plan.share(part - 1, parts, run) })
}

/// Storm and churn: nobody speaks, unless clients recover what a publisher in each channel says meanwhile, at `rate`.
fn restless(
    scenario: &'static str,
    common: &Common,
    (clients, channels): (u32, u32),
    recover: Option<f64>,
) -> Result<Plan, String> {
    let Some(rate) = recover else {
        return plan(scenario, common, Roles::silent(clients, channels), Talk::Nobody);
    };
    let channels = channels.max(1);
    let all = clients.checked_add(channels).ok_or("too many clients")?;
    let roles = Roles { publishers: channels, ..Roles::silent(all, channels) };
    let plan = plan(scenario, common, roles, Talk::Open { each: rate / f64::from(channels) })?;
    if clients == 0 {
        return Err("--recover: at least one client is needed".to_owned());
    }
    if matches!(plan.profile, Profile::Raw(_)) {
        return Err("--recover needs --profile centrifugal".to_owned());
    }
    Ok(Plan { recover: true, ..plan })
}

fn storm(typed: &Storm) -> Result<Plan, String> {
    let recover = typed.recover.then_some(typed.rate);
    let plan = restless("storm", &typed.common, (typed.clients, typed.channels), recover)?;
    // Publications are missed only by who is away for a while.
    let away = typed.away.unwrap_or(if typed.recover { AWAY } else { Duration::ZERO });
    let rounds = typed.rounds.max(1);
    let planned = typed.pause.saturating_add(away).saturating_mul(rounds);
    let duration = typed.common.duration.unwrap_or_else(|| STORM_DURATION.saturating_add(planned));
    Ok(Plan { life: Life::Storm { rounds, pause: typed.pause, away }, opening: None, duration, ..plan })
}

fn churn(typed: &Churn) -> Result<Plan, String> {
    let recover = typed.recover.then_some(typed.publish_rate);
    let plan = restless("churn", &typed.common, (typed.clients, typed.channels), recover)?;
    Ok(Plan { life: Life::Churn { rate: typed.rate }, ..plan })
}

fn echo(typed: &Echo) -> Result<Plan, String> {
    let talk = match typed.rate {
        None => Talk::Closed,
        Some(rate) => Talk::Open { each: rate / f64::from(typed.clients.max(1)) },
    };
    plan("echo", &typed.common, Roles::alone(typed.clients), talk)
}

fn fanout(typed: &Fanout) -> Result<Plan, String> {
    if typed.channels == 0 || typed.publishers == 0 || typed.subscribers == 0 {
        return Err("fanout: --channels, --publishers and --subscribers must be at least 1".to_owned());
    }
    if typed.subscriptions == 0 || typed.subscriptions > typed.channels {
        return Err("fanout: --subscriptions must be between 1 and --channels".to_owned());
    }
    let clients = typed.publishers.checked_add(typed.subscribers).ok_or("too many clients")?;
    let roles = Roles {
        clients,
        channels: typed.channels,
        publishers: typed.publishers,
        each: typed.subscriptions,
        all_speak: false,
        not_to_self: false,
    };
    let talk = Talk::Open { each: typed.rate / f64::from(typed.publishers) };
    let mut plan = plan("fanout", &typed.common, roles, talk)?;
    if let Some(url) = &typed.publisher_url {
        plan.publisher_target = target(url, &typed.common)?;
        plan.tls = plan.tls.map_or_else(|| tls(&typed.common, &plan.publisher_target), |tls| Ok(Some(tls)))?;
    }
    Ok(plan)
}

fn chat(typed: &Chat) -> Result<Plan, String> {
    if typed.room == 0 || typed.every.is_zero() {
        return Err("chat: --room and --every must be above 0".to_owned());
    }
    let rooms = typed.clients.div_ceil(typed.room);
    let roles = Roles { all_speak: true, not_to_self: typed.not_to_self, ..Roles::silent(typed.clients, rooms) };
    plan("chat", &typed.common, roles, Talk::Open { each: 1.0 / typed.every.as_secs_f64() })
}

fn slow(typed: &Slow) -> Result<Plan, String> {
    if typed.stalled > typed.clients {
        return Err("slow: --stalled must not be above --clients".to_owned());
    }
    let roles = Roles {
        clients: typed.clients.saturating_add(1),
        channels: 1,
        publishers: 1,
        each: 1,
        all_speak: false,
        not_to_self: false,
    };
    let plan = plan("slow", &typed.common, roles, Talk::Open { each: typed.rate })?;
    Ok(Plan { life: Life::Stall { stalled: typed.stalled, pause: typed.stall_for }, ..plan })
}

fn ramp(typed: &Ramp) -> Result<Plan, String> {
    if typed.start == 0 || typed.step == 0 || typed.max < typed.start || typed.every.is_zero() {
        return Err("ramp: --start, --step and --every must be above 0, and --max at least --start".to_owned());
    }
    let steps = (typed.max - typed.start).div_ceil(typed.step) + 1;
    let plan = plan("ramp", &typed.common, Roles::alone(typed.max), Talk::Open { each: typed.each })?;
    let life = Life::Ramp { start: typed.start, step: typed.step, every: typed.every };
    let all_steps = typed.every.saturating_mul(steps);
    let duration = typed.common.duration.map_or(all_steps, |duration| duration.min(all_steps));
    Ok(Plan { life, duration, knee: typed.knee, min_delivery: typed.common.min_delivery, ..plan })
}

/// What all scenarios have in common.
fn plan(scenario: &'static str, common: &Common, roles: Roles, talk: Talk) -> Result<Plan, String> {
    let target = target(&common.url, common)?;
    let tls = tls(common, &target)?;
    let process = std::process::id();
    let owed = if talk == Talk::Nobody { None } else { Some(1.0) };
    Ok(Plan {
        scenario,
        publisher_target: target.clone(),
        sources: Sources::new(&target, common.source.clone(), process),
        headers: common.header.clone(),
        profile: profile(common, &target)?,
        target,
        tls,
        names: Names { prefix: common.channel_prefix.clone() },
        roles,
        talk,
        life: Life::Steady,
        recover: false,
        size: common.size,
        threads: common.threads.clamp(1, 1024),
        part: 0,
        parts: 1,
        run: process ^ started().subsec_nanos(),
        connect_rate: common.connect_rate,
        opening: Some(common.opening.max(1)),
        connect_timeout: common.connect_timeout,
        duration: common.duration.unwrap_or(DURATION),
        warmup: common.warmup,
        start_at: common.start_at.map(Duration::from_secs),
        settle: common.settle,
        grace: common.grace,
        message_limit: common.message_limit,
        min_delivery: common.min_delivery.or(owed),
        max_p99: common.max_p99,
        knee: Duration::MAX,
    })
}

/// What TLS takes, if it is spoken there or to a page of metrics.
fn tls(common: &Common, target: &Target) -> Result<Option<Arc<ClientConfig>>, String> {
    let is_secure = |url: &String| url.get(..8).is_some_and(|start| start.eq_ignore_ascii_case("https://"));
    let is_spoken = target.secure.is_some() || common.metrics.iter().any(is_secure);
    is_spoken.then(|| secure::config(common)).transpose()
}

fn started() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn target(url: &str, common: &Common) -> Result<Target, String> {
    let target = Target::parse(url)?;
    if !target.is_loopback() && !common.i_own_this_target {
        return Err(format!(
            "{url} is not on this host ({}): add --i-own-this-target if it is yours to load",
            target.address.ip()
        ));
    }
    Ok(target)
}

fn profile(common: &Common, target: &Target) -> Result<Profile, String> {
    let path = target.path.split('?').next().unwrap_or_default().trim_end_matches('/');
    let guess = if path.ends_with(CENTRIFUGAL_PATH) { ProfileName::Centrifugal } else { ProfileName::Raw };
    match common.profile.unwrap_or(guess) {
        ProfileName::Raw => {
            if common.protobuf || common.token_secret.is_some() {
                return Err("--protobuf and --token-secret need --profile centrifugal".to_owned());
            }
            if common.publish_message.as_ref().is_some_and(|text| !text.contains("{payload}")) {
                return Err("--publish-message needs {payload} in it".to_owned());
            }
            Ok(Profile::Raw(Raw {
                subscribe: common.subscribe_message.clone(),
                publish: common.publish_message.clone(),
                binary: common.binary,
            }))
        }
        ProfileName::Centrifugal => {
            if common.subscribe_message.is_some() || common.publish_message.is_some() || common.binary {
                return Err("--subscribe-message, --publish-message and --binary need --profile raw".to_owned());
            }
            let key = common.token_secret.as_ref().map(|secret| EncodingKey::from_secret(secret.as_bytes()));
            Ok(Profile::Centrifugal(Centrifugal {
                encoding: if common.protobuf { Encoding::Protobuf } else { Encoding::Json },
                key: key.transpose().map_err(|error| format!("--token-secret: {error}"))?,
                user_prefix: common.user_prefix.clone(),
                started: started().as_secs(),
            }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::scenario_of;

    fn plan_of(line: &str) -> Result<Plan, String> {
        scenario_of(line.split_whitespace()).map_err(|error| error.to_string())?.plan()
    }

    #[test]
    fn the_path_tells_the_profile() {
        for (path, name) in [
            ("/connection/websocket", "centrifugal json"),
            ("/connection/websocket?x=1", "centrifugal json"),
            ("/echo", "raw"),
            ("/connection/websocket --protobuf", "centrifugal protobuf"),
            ("/connection/websocket --profile raw", "raw"),
        ] {
            let plan = plan_of(&format!("idle ws://127.0.0.1:1{path}")).expect("a plan");
            assert_eq!(plan.profile.name(), name, "{path}");
        }
    }

    #[test]
    fn other_hosts_need_consent() {
        assert!(plan_of("idle ws://192.0.2.7/").expect_err("refused").contains("--i-own-this-target"));
        assert!(plan_of("idle ws://192.0.2.7/ --i-own-this-target").is_ok());
    }

    #[test]
    fn rates_are_shared_out() {
        let plan = plan_of("fanout ws://127.0.0.1:1/ --publishers 4 --rate 10").expect("a plan");
        assert_eq!((plan.talk, plan.min_delivery), (Talk::Open { each: 2.5 }, Some(1.0)));
        let plan = plan_of("ramp ws://127.0.0.1:1/ --start 10 --step 20 --max 60 --every 2s").expect("a plan");
        assert_eq!(plan.duration, Duration::from_secs(8));
        assert_eq!([0, 1, 2, 3, 9].map(|step| plan.clients_at_step(step)), [10, 30, 50, 60, 60]);
    }

    #[test]
    fn parts_and_threads_share_the_clients() {
        let mut all = Vec::new();
        for part in 1..=3 {
            let plan =
                plan_of(&format!("idle ws://127.0.0.1:1/ --clients 20 --threads 2 --part {part}/3")).expect("one");
            let here: Vec<u32> = (0..2).flat_map(|thread| plan.clients_of(thread).collect::<Vec<_>>()).collect();
            assert_eq!(here.len() as u32, plan.clients_here());
            all.extend(here);
        }
        all.sort_unstable();
        assert_eq!(all, (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn parts_share_the_rates_and_take_turns() {
        let line = "churn ws://127.0.0.1:1/ --clients 20 --rate 60 --connect-rate 30 --threads 2";
        let whole = plan_of(line).expect("a plan");
        let shares: Vec<Plan> = (0..3).map(|part| whole.clone().share(part, 3, 7)).collect();
        for share in &shares {
            assert_eq!((share.life, share.connect_rate, share.run), (Life::Churn { rate: 20.0 }, Some(10.0), 7));
        }
        let phases: Vec<f64> = shares.iter().flat_map(|share| [share.phase(0), share.phase(1)]).collect();
        assert_eq!(phases, [0.0, 1.0 / 6.0, 2.0 / 6.0, 3.0 / 6.0, 4.0 / 6.0, 5.0 / 6.0]);
        let typed = plan_of(&format!("{line} --part 2/3")).expect("a plan");
        assert_eq!((typed.part, typed.parts, typed.life), (1, 3, Life::Churn { rate: 20.0 }));
    }

    #[test]
    fn who_recovers_has_something_to_miss() {
        let url = "ws://127.0.0.1:1/connection/websocket";
        let plan = plan_of(&format!("storm {url} --clients 5 --channels 2 --recover --rate 8")).expect("a plan");
        assert_eq!((plan.talk, plan.roles.publishers, plan.roles.clients), (Talk::Open { each: 4.0 }, 2, 7));
        assert_eq!(plan.life, Life::Storm { rounds: 1, pause: Duration::from_secs(1), away: AWAY });
        assert!(plan.recover && plan.min_delivery == Some(1.0));
        let plan = plan_of(&format!("churn {url} --clients 5 --recover")).expect("a plan");
        assert_eq!((plan.talk, plan.roles.audience(0)), (Talk::Open { each: 10.0 }, 5));
        let plan = plan_of(&format!("storm {url} --clients 5")).expect("a plan");
        assert_eq!((plan.talk, plan.recover, plan.roles.clients), (Talk::Nobody, false, 5));
        assert_eq!(plan.life, Life::Storm { rounds: 1, pause: Duration::from_secs(1), away: Duration::ZERO });
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "idle ws://127.0.0.1:1/ --clients 0",
            "echo ws://127.0.0.1:1/ --size 10",
            "echo ws://127.0.0.1:1/ --rate 0",
            "fanout ws://127.0.0.1:1/ --channels 2 --subscriptions 3",
            "slow ws://127.0.0.1:1/ --clients 2 --stalled 3",
            "ramp ws://127.0.0.1:1/ --start 10 --max 5",
            "fanout ws://127.0.0.1:1/ --part 1/2",
            "chat ws://127.0.0.1:1/ --every 0s",
            "idle ws://127.0.0.1:1/ --protobuf",
            "idle ws://127.0.0.1:1/connection/websocket --binary",
            "fanout ws://127.0.0.1:1/ --publish-message hi",
            "idle ws://127.0.0.1:1/ --part 0/3",
            "storm ws://127.0.0.1:1/ --recover",
            "storm ws://127.0.0.1:1/connection/websocket --rate 5",
            "storm ws://127.0.0.1:1/connection/websocket --recover --clients 0",
        ] {
            assert!(plan_of(line).is_err(), "{line}");
        }
    }
}
