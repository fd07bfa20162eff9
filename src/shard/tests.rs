//! F7 · What happens seldom between a session, its shard and the backend, step by step.

mod model;

use super::*;
use crate::broker::Answer;
use crate::config::{ChannelOptions, Config};
use crate::protocol::Encoding;
use crate::protocol::code::ClientError;
use crate::session::backend::{ConnectGrant, RefreshGrant};
use serde_json::json;

const SEED: u64 = 7;

struct Clients(Vec<Option<Box<Session>>>);

impl Sessions for Clients {
    fn session(&mut self, conn: u32) -> Option<&mut Session> {
        self.0.get_mut(conn as usize)?.as_deref_mut()
    }
}

impl Table for Clients {
    fn key(&self, conn: u32) -> Option<ConnKey> {
        Some(key(conn)).filter(|_| (conn as usize) < self.0.len())
    }

    fn take(&mut self, conn: u32) -> Option<Box<Session>> {
        self.0.get_mut(conn as usize)?.take()
    }

    fn deliver(&mut self, _: u32, _: &Bytes, _: bool) {}
}

fn key(conn: u32) -> ConnKey {
    ConnKey { reactor: 0, index: conn, generation: 1 }
}

fn now() -> Now {
    Now { tick: 1000, ms: 100_000, unix_ms: 1_800_000_000_000 }
}

struct Node {
    now: Now,
    shard: Shard,
    clients: Clients,
    asked: Vec<Call>,
    waiting: String,
}

impl Node {
    fn new(reactors: u16, change: impl FnOnce(&mut Config), rules: impl FnOnce(&mut Rules)) -> Node {
        let mut config = Config::default();
        config.client.token.hmac_secret_key = "key".into();
        config.client.allow_anonymous_connect_without_token = true;
        let open = &mut config.channel.without_namespace;
        *open = ChannelOptions { allow_subscribe_for_client: true, ..ChannelOptions::default() };
        open.allow_subscribe_for_anonymous = true;
        change(&mut config);
        let mut made = Rules::new(&config).expect("rules");
        rules(&mut made);
        let shard = Shard::new(0, reactors, SEED, Arc::new([0; 32]), Arc::new(made));
        Node { now: now(), shard, clients: Clients(Vec::new()), asked: Vec::new(), waiting: String::new() }
    }

    fn open(&mut self) -> u32 {
        let mut id = [1; 16];
        id[..4].copy_from_slice(&(self.clients.0.len() as u32).to_le_bytes());
        self.clients.0.push(Some(self.shard.open(self.now, id, Wire::websocket(Encoding::Json), false)));
        self.clients.0.len() as u32 - 1
    }

    /// What the shard gave out, with its own mail delivered: places as `_5`, replies where a place was kept as `5=...`.
    fn out(&mut self) -> Vec<String> {
        let mut said = Vec::new();
        while !self.shard.out.is_empty() {
            for out in std::mem::take(&mut self.shard.out) {
                let text = |frame: &Bytes| String::from_utf8_lossy(&frame[2..]).into_owned();
                match out {
                    Out::Send { frame, .. } => said.push(text(&frame)),
                    Out::Hole { ticket, .. } => said.push(format!("_{ticket}")),
                    Out::Fill { ticket, frame, .. } => said.push(format!("{ticket}={}", text(&frame))),
                    Out::Close { disconnect, .. } => said.push(format!("close {}", disconnect.code)),
                    Out::Mail { reactor: 0, mail } => self.shard.mail(self.now, &mut self.clients, mail),
                    Out::Ask(call) => self.asked.push(*call),
                    _ => {}
                }
            }
        }
        said
    }

    fn say(&mut self, conn: u32, commands: &[serde_json::Value]) -> Vec<String> {
        let lines: Vec<String> = commands.iter().map(|command| command.to_string()).collect();
        self.waiting = lines.join("\n");
        self.go_on(conn);
        self.out()
    }

    /// Carries out the commands that wait, up to one that has to wait for the connect command.
    fn go_on(&mut self, conn: u32) {
        while !self.waiting.is_empty() && !self.clients.session(conn).is_some_and(|session| session.is_connecting()) {
            let waiting = std::mem::take(&mut self.waiting);
            let used = self.shard.command(self.now, &mut self.clients, conn, waiting.as_bytes(), true);
            self.waiting = waiting[used..].to_owned();
        }
    }

    /// The backend answers the oldest question.
    fn answer(&mut self, said: Said) -> Vec<String> {
        let Call { conn, ticket, ask, .. } = self.asked.remove(0);
        self.shard.mail(self.now, &mut self.clients, Mail::Backend { conn, ticket, ask, said });
        self.go_on(conn.index);
        self.out()
    }

    fn session(&mut self, conn: u32) -> &mut Session {
        self.clients.session(conn).expect("a session")
    }
}

fn token(claims: serde_json::Value) -> String {
    let key = jsonwebtoken::EncodingKey::from_secret(b"key").expect("a key");
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).expect("a token")
}

fn connect(token: String) -> serde_json::Value {
    json!({"id": 1, "connect": {"token": token}})
}

fn proxied(config: &mut Config) {
    config.channel.without_namespace.subscribe_proxy_enabled = true;
}

fn granted() -> Said {
    Said::Subscribe(Box::default())
}

#[test]
fn a_sub_refresh_ahead_of_its_subscription_leaves_nothing_behind() {
    let mut node = Node::new(1, proxied, |_| {});
    let conn = node.open();
    node.say(conn, &[json!({"id": 1, "connect": {}}), json!({"id": 2, "subscribe": {"channel": "c"}})]);
    let expiring = token(json!({"sub": "", "channel": "c", "exp": 1_800_000_001_u64}));
    let said = node.say(
        conn,
        &[
            json!({"id": 3, "sub_refresh": {"channel": "c", "token": expiring}}),
            json!({"id": 4, "unsubscribe": {"channel": "c"}}),
        ],
    );
    assert!(said.concat().contains("\"code\":103") && said.concat().contains("\"unsubscribe\""), "{said:?}");
    node.answer(granted());
    assert!(node.shard.hub().is_empty());
    let later = Now { tick: 2000, ms: 200_000, unix_ms: 1_800_000_100_000 };
    node.shard.timeout(later, &mut node.clients, conn);
    assert!(node.session(conn).next_deadline() > later.tick);
}

/// A client cannot ask again for what the server gave it, so it connects anew; the other does ask again.
#[test]
fn no_more_time_from_the_backend_ends_the_connection_if_the_subscription_is_the_servers() {
    let asks = |config: &mut Config| config.channel.without_namespace.sub_refresh_proxy_enabled = true;
    let unsubscribed =
        "{\"push\":{\"channel\":\"c\",\"unsubscribe\":{\"code\":2501,\"reason\":\"subscription expired\"}}}";
    for (channels, expected) in [(json!(["c"]), "close 3006"), (json!([]), unsubscribed)] {
        let mut node = Node::new(1, asks, |_| {});
        let conn = node.open();
        node.say(conn, &[connect(token(json!({"sub": "u", "channels": channels})))]);
        node.say(conn, &[json!({"id": 2, "subscribe": {"channel": "c"}})]);
        let expiring = token(json!({"sub": "u", "channel": "c", "exp": 1_800_000_001_u64}));
        node.say(conn, &[json!({"id": 3, "sub_refresh": {"channel": "c", "token": expiring}})]);
        let later = Now { tick: 2000, ms: 200_000, unix_ms: 1_800_000_100_000 };
        node.shard.timeout(later, &mut node.clients, conn);
        assert!(node.out().is_empty());
        let grant = RefreshGrant { expired: true, ..Default::default() };
        assert_eq!(node.answer(Said::Refresh(grant)), [expected]);
        assert!(node.shard.hub().is_empty());
    }
}

/// A clock that is behind, or a relative time: the backend is asked once, and what it says is over is over.
#[test]
fn an_answer_that_gives_no_time_ends_what_it_was_asked_about() {
    let late = Now { tick: 2000, ms: 200_000, unix_ms: 1_800_000_100_000 };
    for expire_at in [0, 3600, 1_800_000_100] {
        let grant = RefreshGrant { expire_at, ..RefreshGrant::default() };
        let mut node = Node::new(1, |config| config.client.proxy.refresh.enabled = true, |_| {});
        let conn = node.open();
        node.say(conn, &[connect(token(json!({"sub": "u", "exp": 1_800_000_001_u64})))]);
        node.shard.timeout(late, &mut node.clients, conn);
        assert!(node.out().is_empty());
        let Call { conn: key, ticket, ask, .. } = node.asked.pop().expect("a proxy request");
        let said = Said::Refresh(grant.clone());
        node.shard.mail(late, &mut node.clients, Mail::Backend { conn: key, ticket, ask, said });
        assert_eq!(node.out(), ["close 3005"], "{expire_at}");

        let asks = |config: &mut Config| config.channel.without_namespace.sub_refresh_proxy_enabled = true;
        let mut node = Node::new(1, asks, |_| {});
        let conn = node.open();
        node.say(conn, &[connect(token(json!({"sub": "u"})))]);
        node.say(conn, &[json!({"id": 2, "subscribe": {"channel": "c"}})]);
        let expiring = token(json!({"sub": "u", "channel": "c", "exp": 1_800_000_001_u64}));
        let said = node.say(conn, &[json!({"id": 3, "sub_refresh": {"channel": "c", "token": expiring}})]);
        assert!(said.concat().contains(r#""ttl":1"#), "{said:?}");
        node.shard.timeout(late, &mut node.clients, conn);
        assert!(node.out().is_empty());
        let Call { conn: key, ticket, ask, .. } = node.asked.pop().expect("a proxy request");
        node.shard.mail(late, &mut node.clients, Mail::Backend { conn: key, ticket, ask, said: Said::Refresh(grant) });
        assert!(node.out().concat().contains("2501"), "{expire_at}");
    }
}

#[test]
fn what_is_granted_for_a_time_that_is_past_is_refused_with_110() {
    let mut node = Node::new(1, |config| config.client.proxy.connect.enabled = true, |_| {});
    let conn = node.open();
    node.say(conn, &[json!({"id": 1, "connect": {}})]);
    let grant = ConnectGrant { user: "u".into(), expire_at: 3600, ..ConnectGrant::default() };
    let said = node.answer(Said::Connect(Box::new(grant))).concat();
    assert!(said.contains(r#"1={"id":1,"error":{"code":110"#), "{said}");
    let conn = node.open();
    let said = node.say(conn, &[connect(token(json!({"sub": "u", "expire_at": 3600})))]).concat();
    assert!(said.contains(r#""error":{"code":110"#), "{said}");
    let mut node = Node::new(1, proxied, |_| {});
    let conn = node.open();
    node.say(conn, &[json!({"id": 1, "connect": {}}), json!({"id": 2, "subscribe": {"channel": "c"}})]);
    let grant = crate::session::backend::SubscribeGrant { expire_at: 3600, ..Default::default() };
    let said = node.answer(Said::Subscribe(Box::new(grant))).concat();
    assert!(said.contains(r#""error":{"code":110"#), "{said}");
    assert!(node.shard.hub().is_empty());
}

#[test]
fn an_answer_of_the_backend_is_for_the_command_that_asked() {
    let mut node = Node::new(1, proxied, |_| {});
    let conn = node.open();
    node.say(conn, &[json!({"id": 1, "connect": {}})]);
    for (id, what) in [(2, "subscribe"), (3, "unsubscribe"), (4, "subscribe")] {
        node.say(conn, &[json!({"id": id, what: {"channel": "c"}})]);
    }
    let said = node.answer(Said::Error(ClientError::PermissionDenied.into()));
    assert_eq!(said, ["2={\"id\":2,\"subscribe\":{}}"], "it is unsubscribed by now");
    assert_eq!(node.answer(granted()), ["4={\"id\":4,\"subscribe\":{}}"]);
    assert!(node.session(conn).slot(0).is_some(), "and the client is subscribed");
}

#[test]
fn a_backend_that_names_nobody_leaves_it_to_the_options() {
    for (anonymous, expected) in [(true, "1={\"id\":1,\"connect\":{\"client\""), (false, "close 3501")] {
        let allow = |config: &mut Config| config.client.allow_anonymous_connect_without_token = anonymous;
        let mut node = Node::new(1, allow, |rules| rules.connect_proxy = true);
        let conn = node.open();
        assert_eq!(node.say(conn, &[json!({"id": 1, "connect": {}})]), ["_1"]);
        let said = node.answer(Said::NoCredentials);
        assert!(said.len() == 1 && said[0].starts_with(expected), "{said:?}");
    }
    let mut node = Node::new(1, |_| {}, |rules| rules.connect_proxy = true);
    let conn = node.open();
    node.say(conn, &[json!({"id": 1, "connect": {}})]);
    let grant = ConnectGrant { user: "u".into(), ..ConnectGrant::default() };
    node.answer(Said::Connect(Box::new(grant)));
    assert_eq!(node.session(conn).user(), "u");
}

#[test]
fn a_place_is_given_back_when_connecting_fails_after_it() {
    let mut node = Node::new(1, |config| config.client.user_connection_limit = 1, |_| {});
    for _ in 0..3 {
        let conn = node.open();
        let said = node.say(conn, &[connect(token(json!({"sub": "u", "channels": ["nowhere:1"]})))]);
        assert!(said.concat().contains("\"code\":102"), "{said:?}");
    }
    assert_eq!(node.shard.seats(), 0);
    let (first, second) = (node.open(), node.open());
    let said = node.say(first, &[connect(token(json!({"sub": "u"})))]);
    assert!(said.concat().contains("\"connect\""), "{said:?}");
    assert_eq!(node.say(second, &[connect(token(json!({"sub": "u"})))]), ["_1", "close 3504"]);
    assert_eq!(node.shard.seats(), 1);
    node.shard.close(now(), &mut node.clients, first, None);
    assert_eq!(node.shard.seats(), 0);
}

#[test]
fn commands_behind_a_connect_command_find_its_subscriptions_joined() {
    let mut node = Node::new(1, |_| {}, |_| {});
    let conn = node.open();
    let all = token(json!({"sub": "u", "channels": ["a", "b", "c"]}));
    let said = node.say(conn, &[connect(all), json!({"id": 2, "unsubscribe": {"channel": "a"}})]);
    assert!(said.concat().contains("\"subs\"") && said.concat().contains("\"unsubscribe\""), "{said:?}");
    assert_eq!((node.session(conn).subscriptions(), node.shard.hub().subscriptions()), (2, 2));
    for back in 0..2 {
        let (channel, slot) = node.session(conn).slot(back).expect("joined");
        assert_eq!(node.shard.hub().slot(channel, slot).map(|slot| slot.back), Some(back));
    }
}

#[test]
fn a_subscription_that_is_taken_away_before_it_began_does_not_hold_the_connect_reply_back() {
    let mut node = Node::new(2, |_| {}, |_| {});
    let far: Vec<String> =
        (0..50).map(|n| format!("c{n}")).filter(|name| broker::owner(name, 2, SEED) == 1).take(2).collect();
    let conn = node.open();
    assert_eq!(node.say(conn, &[connect(token(json!({"sub": "u", "channels": far})))]), ["_1"]);
    let chosen = Chosen { user: "u".into(), ..Chosen::default() };
    let control = Box::new(Control::Unsubscribe { chosen, channel: far[0].clone() });
    node.shard.mail(now(), &mut node.clients, Mail::Control { ticket: 1, control });
    assert!(node.out().is_empty(), "it was never told of it");
    for name in &far {
        let channel = name.as_str().into();
        let event = Event::Subscribed { channel, conn: key(conn), ticket: 0, found: None };
        node.shard.mail(now(), &mut node.clients, Mail::Event(event));
    }
    let said = node.out();
    assert!(said.len() == 1 && said[0].contains(&far[1]) && !said[0].contains(&format!("\"{}\"", far[0])), "{said:?}");
    assert_eq!(node.shard.hub().len(), 1);
}

/// The machine's time goes on, whatever the wall clock does.
fn later(now: Now, ms: u64, wall_step_ms: i64) -> Now {
    let unix_ms = now.unix_ms.saturating_add(ms).saturating_add_signed(wall_step_ms);
    Now { tick: now.tick + (ms / TICK_MS) as u32, ms: now.ms + ms, unix_ms }
}

const WALL_STEPS_MS: [i64; 3] = [-3_600_000, 0, 86_400_000];

impl Node {
    /// A publication of the backend's; its offset and epoch.
    fn publish(&mut self, treatment: Option<broker::Treatment>) -> Option<broker::Position> {
        let publication = Arc::new(crate::protocol::Publication { data: "1".into(), ..Default::default() });
        let treatment = treatment.map(Box::new);
        let asker = Asker::Backend(1);
        let request = Request::Publish { channel: "c".into(), publication, asker, treatment };
        self.shard.mail(self.now, &mut self.clients, Mail::Ask(request));
        let answer = self.shard.out.iter().find_map(|out| match out {
            Out::Answer { answer: ControlAnswer::Owner(broker::Answer::Published(position)), .. } => {
                Some(position.clone())
            }
            _ => None,
        });
        self.shard.out.clear();
        answer.expect("an answer")
    }

    fn connected(&mut self, commands: &[serde_json::Value]) -> u32 {
        let conn = self.open();
        self.say(conn, &[json!({"id": 1, "connect": {}})]);
        self.say(conn, commands);
        conn
    }
}

#[test]
fn a_step_of_the_wall_clock_holds_no_batch_back_and_lets_none_go_early() {
    let batches = |config: &mut Config| {
        let open = &mut config.channel.without_namespace;
        open.batch_max_delay = std::time::Duration::from_millis(50);
    };
    for step in WALL_STEPS_MS {
        let mut node = Node::new(1, batches, |_| {});
        node.connected(&[json!({"id": 2, "subscribe": {"channel": "c"}})]);
        node.publish(None);
        let due = node.now.ms + 50;
        for (ms, leaves) in [(49, false), (50, true)] {
            let next = node.shard.tick(later(node.now, ms, step));
            assert_eq!((next, node.shard.has_work()), ((!leaves).then_some(due), leaves), "{step} after {ms} ms");
        }
    }
}

#[test]
fn a_step_of_the_wall_clock_forgets_nothing_and_keeps_nothing_longer() {
    let keep = broker::Keep { size: 5, ttl_ms: 60_000, meta_ttl_ms: 400_000 };
    let with = |key: &str| {
        Some(broker::Treatment { keep: Some(keep), idempotency_key: key.into(), ..broker::Treatment::default() })
    };
    for step in WALL_STEPS_MS {
        let mut node = Node::new(1, |_| {}, |_| {});
        let first = node.publish(with("a"));
        node.now = later(node.now, 1000, step);
        node.shard.tick(node.now);
        assert_eq!(node.publish(with("a")), first, "the key is remembered");
        let second = node.publish(with("b")).expect("a position");
        assert_eq!((Some(second.epoch), second.offset), (first.map(|at| at.epoch), 2), "{step}");
        let kept = node.shard.stats().history_bytes;
        node.now = later(node.now, 60_000, 0);
        node.shard.tick(node.now);
        assert!(node.shard.stats().history_bytes < kept, "publications are forgotten in time");
        node.now = later(node.now, 340_000, 0);
        node.shard.tick(node.now);
        assert_eq!(node.shard.stats().history_bytes, 0, "and then the stream");
    }
}

#[test]
fn a_step_of_the_wall_clock_neither_fills_nor_locks_a_rate_limit() {
    let bucket = |rate| crate::config::BucketOptions { interval: std::time::Duration::from_secs(60), rate };
    let limited = |config: &mut Config| {
        let limits = &mut config.client.rate_limit.client_command;
        (limits.enabled, limits.total.enabled, limits.total.buckets) = (true, true, vec![bucket(2)]);
    };
    let users = |config: &mut Config| {
        let limits = &mut config.client.rate_limit.user_command;
        // Connecting is one of them.
        (limits.enabled, limits.total.enabled, limits.total.buckets) = (true, true, vec![bucket(3)]);
    };
    for (step, change) in WALL_STEPS_MS.into_iter().flat_map(|step| [(step, true), (step, false)]) {
        let mut node = Node::new(1, |config| if change { limited(config) } else { users(config) }, |_| {});
        let conn = node.open();
        node.say(conn, &[connect(token(json!({"sub": "u"})))]);
        let granted = |node: &mut Node| {
            let said = node.say(conn, &[json!({"id": 2, "presence_stats": {"channel": "c"}})]).concat();
            assert!(said.contains("\"code\":108") || said.contains("\"code\":111"), "{said}");
            said.contains("\"code\":108")
        };
        // Two at once, and one each half a minute.
        assert!(granted(&mut node) && granted(&mut node) && !granted(&mut node), "{step}");
        node.now = later(node.now, 1000, step);
        assert!(!granted(&mut node), "{step}: no flood after a step forward");
        node.now = later(node.now, 60_000, 0);
        assert!(granted(&mut node), "{step}: and no silence after one back");
    }
}

/// All anonymous clients are told to go: in slices, between which others come and go.
#[test]
fn a_call_over_very_many_clients_goes_in_slices_and_misses_none() {
    let mut node = Node::new(1, |_| {}, |_| {});
    let clients: Vec<u32> = (0..1000).map(|_| node.connected(&[])).collect();
    let ids: Vec<String> = clients.iter().map(|&conn| node.session(conn).client()).collect();
    let control = |keep: Vec<String>| {
        let (chosen, disconnect) = (Chosen::default(), Disconnect::FORCE_DISCONNECT);
        Box::new(Control::Disconnect { chosen, keep, disconnect })
    };
    let kept = vec![ids[3].clone(), ids[700].clone()];
    node.shard.mail(node.now, &mut node.clients, Mail::Control { ticket: 5, control: control(kept) });
    let (mut met, mut slices) = (None, 0);
    loop {
        let mut closed = 0;
        for out in std::mem::take(&mut node.shard.out) {
            match out {
                Out::Close { .. } => closed += 1,
                Out::Answer { ticket: 5, answer: ControlAnswer::Met(count) } => met = Some(count),
                _ => {}
            }
        }
        assert!(closed <= 256, "{closed} in one slice");
        if !node.shard.has_work() {
            break;
        }
        assert_eq!(met, None, "the answer comes last");
        slices += 1;
        if slices == 2 {
            node.shard.close(node.now, &mut node.clients, 999, None);
            node.shard.close(node.now, &mut node.clients, 0, None);
        }
        assert!(node.shard.fan_out(node.now, &mut node.clients, 100) <= 100);
    }
    let left = clients.iter().filter(|conn| node.clients.session(**conn).is_some()).copied().collect::<Vec<_>>();
    assert_eq!(left, [3, 700]);
    assert!(slices >= 7 && met.is_some_and(|met| (996..=998).contains(&met)), "{slices} {met:?}");
}

/// While the call goes on, the client that is next leaves, and its place is another user's.
#[test]
fn a_call_in_slices_follows_its_user_whatever_becomes_of_places() {
    let mut node = Node::new(1, |_| {}, |_| {});
    let clients: Vec<u32> = (0..600).map(|_| node.connected(&[])).collect();
    let chosen = Chosen::default();
    let control = Control::Disconnect { chosen, keep: Vec::new(), disconnect: Disconnect::FORCE_DISCONNECT };
    node.shard.mail(node.now, &mut node.clients, Mail::Control { ticket: 5, control: Box::new(control) });
    let mut gone = 256;
    while node.shard.has_work() {
        for at in [0, 1] {
            let next = clients.iter().rev().find(|conn| node.clients.session(**conn).is_some()).copied();
            if let Some(conn) = next.filter(|_| at == 0 || node.shard.has_work()) {
                node.shard.close(node.now, &mut node.clients, conn, None);
                gone += 1;
            }
        }
        gone += node.shard.fan_out(node.now, &mut node.clients, 10);
    }
    assert!(clients.iter().all(|conn| node.clients.session(*conn).is_none()), "{gone} of 600");
    assert_eq!((gone, node.shard.clients()), (600, 0));
}

/// So many channels and members that neither can be listed at once.
#[test]
fn channels_and_who_is_in_one_are_listed_in_slices() {
    let mut node = Node::new(1, |config| config.channel.without_namespace.presence = true, |_| {});
    let clients: Vec<u32> =
        (0..700).map(|_| node.connected(&[json!({"id": 2, "subscribe": {"channel": "c"}})])).collect();
    for channel in 0..1300 {
        let conn = clients[channel % clients.len()];
        node.say(conn, &[json!({"id": 3, "subscribe": {"channel": format!("c{channel}")}})]);
    }
    let pattern = globset::Glob::new("c1*").expect("a pattern").compile_matcher();
    node.shard.out.clear();
    let control = Box::new(Control::Channels(Some(pattern)));
    node.shard.mail(node.now, &mut node.clients, Mail::Control { ticket: 5, control });
    let (channel, asker) = ("c".into(), Asker::Backend(6));
    node.shard.mail(node.now, &mut node.clients, Mail::Ask(Request::Presence { channel, asker }));
    assert!(node.shard.has_work() && node.shard.out.is_empty());
    // Somebody goes and somebody comes; the others are there all the while.
    node.shard.close(node.now, &mut node.clients, clients[0], None);
    node.connected(&[json!({"id": 2, "subscribe": {"channel": "c"}})]);
    let mut slices = 0;
    while node.shard.has_work() {
        assert!(node.shard.fan_out(node.now, &mut node.clients, 100) <= 120, "a part may be begun with one left");
        slices += 1;
    }
    let (mut channels, mut present) = (std::collections::HashMap::new(), std::collections::HashSet::new());
    for out in std::mem::take(&mut node.shard.out) {
        match out {
            Out::Answer { ticket: 5, answer: ControlAnswer::Channels(list) } => {
                assert!(list.into_iter().all(|(name, clients)| channels.insert(name, clients).is_none()));
            }
            Out::Answer { ticket: 6, answer: ControlAnswer::Owner(Answer::Presence(list)) } => {
                assert!(list.into_iter().all(|info| present.insert(info.client)), "each once");
            }
            _ => {}
        }
    }
    assert!(slices > 12, "{slices}");
    assert_eq!(channels.len(), 1 + 10 + 100 + 300);
    assert!(clients[1..].iter().all(|conn| present.contains(&node.session(*conn).client())));
    assert!((699..=701).contains(&present.len()), "{}", present.len());
}

/// Lists that were not begun hold nothing: one is made at a time, in the order in which they were asked for.
#[test]
fn lists_of_who_is_present_are_made_one_after_the_other() {
    let mut node = Node::new(1, |config| config.channel.without_namespace.presence = true, |_| {});
    (0..600).for_each(|_| _ = node.connected(&[json!({"id": 2, "subscribe": {"channel": "c"}})]));
    node.shard.out.clear();
    for ticket in 1..=5 {
        let (channel, asker) = ("c".into(), Asker::Backend(ticket));
        node.shard.mail(node.now, &mut node.clients, Mail::Ask(Request::Presence { channel, asker }));
    }
    let mut answers = Vec::new();
    for slice in 1..=35 {
        node.shard.fan_out(node.now, &mut node.clients, 100);
        answers.extend(std::mem::take(&mut node.shard.out).into_iter().filter_map(|out| match out {
            Out::Answer { ticket, answer: ControlAnswer::Owner(Answer::Presence(list)) } => {
                assert_eq!(list.len(), 600);
                Some((ticket, slice))
            }
            _ => None,
        }));
    }
    assert_eq!(answers, [(1, 7), (2, 14), (3, 21), (4, 28), (5, 35)], "tickets, and the slices that they came with");
    assert!(!node.shard.has_work());
}

/// Whoever asks, goes and comes again leaves nothing in the line for others to wait for.
#[test]
fn lists_for_clients_that_left_are_not_made() {
    let mut node = Node::new(1, in_sight, |_| {});
    (0..600).for_each(|_| _ = node.connected(&[json!({"id": 2, "subscribe": {"channel": "c"}})]));
    let ask = json!({"id": 3, "presence": {"channel": "c"}});
    let other = node.connected(&[]);
    node.say(other, std::slice::from_ref(&ask));
    for _ in 0..100 {
        let conn = node.connected(&[]);
        node.say(conn, &[ask.clone(), ask.clone()]);
        node.shard.fan_out(node.now, &mut node.clients, 50);
        let left = node.shard.lists.len();
        node.shard.close(node.now, &mut node.clients, conn, None);
        assert_eq!((left - node.shard.lists.len(), node.shard.slow.len()), (2, node.shard.lists.len()));
    }
    let last = node.connected(&[]);
    node.say(last, std::slice::from_ref(&ask));
    let mut slices = 0;
    while node.shard.has_work() {
        node.shard.fan_out(node.now, &mut node.clients, 600);
        slices += 1;
    }
    // Two lists at most, and for each a slice that finds its end.
    assert!(slices <= 4 && node.out().concat().contains("\"presence\":{"), "{slices}");
}

/// The same where the list is another reactor's to make.
#[test]
fn an_owner_is_told_that_nobody_waits_for_its_list() {
    let mut node = Node::new(2, in_sight, |_| {});
    let name = (0..).map(|n| format!("c{n}")).find(|name| broker::owner(name, 2, SEED) == 1).expect("a name");
    let ask = |id: u32| json!({"id": id, "presence": {"channel": name}});
    let unlisted = |node: &mut Node, conn: u32| {
        node.shard.close(node.now, &mut node.clients, conn, None);
        let out = std::mem::take(&mut node.shard.out).into_iter();
        out.filter(|out| matches!(out, Out::Mail { reactor: 1, mail: Mail::Unlist { .. } })).count()
    };
    let answered = |node: &mut Node, conn: u32, ticket: u32| {
        let asker = Asker::Client { conn: key(conn), ticket };
        let answer = Answer::Presence(Vec::new());
        node.shard.mail(node.now, &mut node.clients, Mail::Event(Event::Answer { asker, answer }));
    };
    let (waits, waits_for_one, content, never) =
        (node.connected(&[]), node.connected(&[]), node.connected(&[]), node.connected(&[]));
    for conn in [waits, waits_for_one, content] {
        node.say(conn, &[ask(3), ask(4)]);
    }
    answered(&mut node, waits_for_one, 3);
    answered(&mut node, content, 3);
    answered(&mut node, content, 4);
    let told = [waits, waits_for_one, content, never].map(|conn| unlisted(&mut node, conn));
    assert_eq!(told, [1, 1, 0, 0]);
    // As the owner hears of it.
    let mut node = Node::new(1, in_sight, |_| {});
    (0..600).for_each(|_| _ = node.connected(&[json!({"id": 2, "subscribe": {"channel": "c"}})]));
    let conn = ConnKey { reactor: 5, index: 1, generation: 1 };
    let asker = Asker::Client { conn, ticket: 3 };
    node.shard.mail(node.now, &mut node.clients, Mail::Ask(Request::Presence { channel: "c".into(), asker }));
    assert_eq!(node.shard.lists.len(), 1);
    node.shard.mail(node.now, &mut node.clients, Mail::Unlist { conn });
    assert_eq!((node.shard.lists.len(), node.shard.slow.len()), (0, 0));
}

#[test]
fn lists_that_wait_have_a_limit_for_clients() {
    let change = |config: &mut Config| {
        in_sight(config);
        config.reactor.presence_queue_limit = 3;
    };
    let mut node = Node::new(1, change, |_| {});
    (0..300).for_each(|_| _ = node.connected(&[json!({"id": 2, "subscribe": {"channel": "c"}})]));
    let conn = node.connected(&[]);
    let asks: Vec<_> = (3..8).map(|id| json!({"id": id, "presence": {"channel": "c"}})).collect();
    let said = node.say(conn, &asks).concat();
    assert_eq!((said.matches("\"code\":111").count(), node.shard.counters.limit_lists), (2, 2), "{said}");
    let (channel, asker) = ("c".into(), Asker::Backend(6));
    node.shard.mail(node.now, &mut node.clients, Mail::Ask(Request::Presence { channel, asker }));
    assert_eq!(node.shard.lists.len(), 4);
}

/// Anybody may ask who is present.
fn in_sight(config: &mut Config) {
    config.channel.without_namespace.presence = true;
    config.client.insecure = true;
}

/// A client is not sent more than it may; the backend is.
#[test]
fn presence_of_more_than_may_be_told_to_a_client_is_an_error() {
    let change = |config: &mut Config| {
        config.channel.without_namespace.presence = true;
        config.client.presence_max_client_limit = 2;
        config.client.insecure = true;
    };
    let mut node = Node::new(1, change, |_| {});
    let subscribe = json!({"id": 2, "subscribe": {"channel": "c"}});
    let first = node.connected(std::slice::from_ref(&subscribe));
    let ask = |node: &mut Node| node.say(first, &[json!({"id": 3, "presence": {"channel": "c"}})]).concat();
    node.connected(std::slice::from_ref(&subscribe));
    assert!(ask(&mut node).contains("\"presence\":{"));
    node.connected(std::slice::from_ref(&subscribe));
    assert!(ask(&mut node).contains("\"code\":106"));
    let counts = node.say(first, &[json!({"id": 4, "presence_stats": {"channel": "c"}})]).concat();
    assert!(counts.contains("\"num_clients\":3"), "{counts}");
    let (channel, asker) = ("c".into(), Asker::Backend(6));
    node.shard.mail(node.now, &mut node.clients, Mail::Ask(Request::Presence { channel, asker }));
    let told = |out: &Out| match out {
        Out::Answer { answer: ControlAnswer::Owner(Answer::Presence(list)), .. } => list.len(),
        _ => 0,
    };
    assert_eq!(node.shard.out.iter().map(told).sum::<usize>(), 3);
}

/// Nobody need do anything else for what a slice began to take effect.
#[test]
fn a_subscription_by_the_server_begins_with_its_slice() {
    let mut node = Node::new(1, |_| {}, |_| {});
    let conn = node.connected(&[json!({"id": 2, "subscribe": {"channel": "c"}})]);
    node.publish(None);
    assert!(node.shard.has_work(), "the call waits behind a fan-out");
    let request = crate::protocol::SubscribeRequest { channel: "d".into(), ..Default::default() };
    let control = Control::Subscribe { chosen: Chosen::default(), request, grant: Default::default() };
    node.shard.mail(node.now, &mut node.clients, Mail::Control { ticket: 5, control: Box::new(control) });
    while node.shard.has_work() {
        node.shard.fan_out(node.now, &mut node.clients, 100);
    }
    assert!(node.session(conn).slot(1).is_some(), "it has begun");
}
