//! The adapter against real servers, which each test starts and ends.

use super::*;
use crate::base::mailbox::{Mailbox, mailbox};
use crate::broker::engine::{Away, EngineAnswer, Heard};
use crate::broker::{Epoch, Keep, Position, Query, Treatment};
use crate::protocol::code::ClientError;
use crate::protocol::{ClientInfo, Publication};
use crate::shard::Mail;
use std::collections::{HashMap, VecDeque};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::LocalSet;

/// Nothing here takes so long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server on a free port, with a folder of its own.
struct Server {
    process: Child,
    port: u16,
    folder: PathBuf,
}

impl Server {
    fn start(more: &[&str]) -> Server {
        let port = free_port();
        let folder = std::env::temp_dir().join(format!("gannet-redis-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        Server::at(port, folder, more)
    }

    fn at(port: u16, folder: PathBuf, more: &[&str]) -> Server {
        let process = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .arg("--dir")
            .arg(&folder)
            .args(more)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server, which tests/run installs");
        let server = Server { process, port, folder };
        until("the server answers", || {
            server.cli(&["PING"]).trim() == "PONG" || server.cli(&["PING"]).contains("NOAUTH")
        });
        server
    }

    /// What `redis-cli` prints.
    fn cli(&self, words: &[&str]) -> String {
        let port = self.port.to_string();
        let output = Command::new("redis-cli").args(["-p", &port, "--no-auth-warning"]).args(words).output();
        String::from_utf8_lossy(&output.expect("redis-cli").stdout).into_owned()
    }

    fn address(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    fn signal(&self, name: &str) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().expect("kill").success());
    }

    /// Ends it as a crash would, and starts it again on its port.
    fn crash_and_restart(mut self, more: &[&str]) -> Server {
        self.process.kill().expect("killed");
        self.process.wait().expect("ended");
        let (port, folder) = (self.port, self.folder.clone());
        self.folder = PathBuf::new();
        drop(self);
        Server::at(port, folder, more)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
        if !self.folder.as_os_str().is_empty() {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

/// Below what a bus of a cluster needs above it.
fn free_port() -> u16 {
    // Below those that the kernel gives to connections, and so is the one of a cluster's bus, 10,000 above.
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = std::process::id() as u16;
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    loop {
        let port = 10_000 + first.wrapping_mul(97).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        if is_free(port) && is_free(port + 10_000) {
            return port;
        }
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "{what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// A node's engine without a node around it.
struct Bench {
    redis: Redis,
    mail: Mailbox<Mail>,
    heard: VecDeque<Heard>,
    control: UnboundedReceiver<Bytes>,
    counts: Arc<EngineCounts>,
    next: u64,
}

const KEEP: Keep = Keep { size: 10, ttl_ms: 60_000, meta_ttl_ms: 2_592_000_000 };

impl Bench {
    async fn new(options: &RedisOptions, uid: &str) -> Bench {
        let (sender, mail) = mailbox(1 << 16, || {});
        let names = server_names((options, "engine.redis")).expect("names");
        let counts = Arc::new(EngineCounts::new(names, true));
        let (tell, control) = unbounded_channel();
        let post = Rc::new(RefCell::new(Post::new(vec![sender], 0, counts.clone())));
        let around = Surroundings { post, counts: counts.clone(), uid: uid.into(), control: Some(tell) };
        let redis = Redis::start(Some((options, "engine.redis")), None, &around).expect("a start");
        let mut bench = Bench { redis, mail, heard: VecDeque::new(), control, counts, next: 1 };
        bench.until_up().await;
        bench
    }

    /// Until calls and PUB/SUB both work.
    async fn until_up(&mut self) {
        let began = Instant::now();
        while self.read("up").await.is_err() || !self.listens("up").await {
            assert!(began.elapsed() < PATIENCE, "the engine comes up");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn call(&mut self, call: EngineCall) {
        self.redis.take(std::iter::once((0, call)));
    }

    async fn next(&mut self) -> Heard {
        let began = Instant::now();
        loop {
            let mut batch = Vec::new();
            self.mail.drain(&mut batch);
            self.heard.extend(batch.into_iter().map(|mail| match mail {
                Mail::Engine(heard) => heard,
                other => panic!("{other:?}"),
            }));
            if let Some(heard) = self.heard.pop_front() {
                return heard;
            }
            assert!(began.elapsed() < PATIENCE, "nothing is heard");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// The answer to a call; what is heard before it is kept.
    async fn ask(&mut self, call: impl FnOnce(u64) -> EngineCall) -> Result<EngineAnswer, Away> {
        let mine = self.next;
        self.next += 1;
        self.call(call(mine));
        let mut before = Vec::new();
        loop {
            match self.next().await {
                Heard::Answer { ticket, answer } if ticket == mine => {
                    before.into_iter().rev().for_each(|heard| self.heard.push_front(heard));
                    return answer;
                }
                other => before.push(other),
            }
        }
    }

    async fn listens(&mut self, channel: &str) -> bool {
        self.call(EngineCall::Listen { channel: channel.into(), life: 7 });
        let mut before = Vec::new();
        loop {
            match self.next().await {
                Heard::Listening { channel: which, life: 7, result } if &*which == channel => {
                    before.into_iter().rev().for_each(|heard| self.heard.push_front(heard));
                    return result.is_ok();
                }
                other => before.push(other),
            }
        }
    }

    /// Whether the publication at `offset` is heard; nothing that is heard is kept.
    async fn hears_soon(&mut self, offset: u64) -> bool {
        for _ in 0..50 {
            let mut batch = Vec::new();
            self.mail.drain(&mut batch);
            let is_it = |mail: &Mail| match mail {
                Mail::Engine(Heard::Publication { position, .. }) => {
                    position.as_ref().map(|at| at.offset) == Some(offset)
                }
                _ => false,
            };
            if batch.iter().any(is_it) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    }

    async fn publish(&mut self, channel: &str, data: &str, more: Publishing) -> Result<EngineAnswer, Away> {
        let publication = Publication { data: data.to_owned().into(), tags: more.tags, ..Publication::default() };
        let Publishing { keep, delta, idempotency_key, version, version_epoch, .. } = more;
        let publication = Arc::new(Publication { version, ..publication });
        let treatment = Treatment {
            keep,
            delta,
            idempotency_key: idempotency_key.into(),
            version,
            version_epoch: version_epoch.into(),
            ..Treatment::default()
        };
        let (channel, treatment) = (channel.into(), Some(Box::new(treatment)));
        self.ask(|ticket| EngineCall::Publish { ticket, channel, publication, treatment }).await
    }

    async fn query(&mut self, channel: &str, query: Query) -> Result<EngineAnswer, Away> {
        self.ask(|ticket| EngineCall::Read { ticket, channel: channel.into(), query: query.into() }).await
    }

    async fn read(&mut self, channel: &str) -> Result<(Position, Vec<Publication>), Away> {
        let all = Query { keep: KEEP, since: None, limit: usize::MAX, reverse: false };
        match self.query(channel, all).await? {
            EngineAnswer::Read(read) => Ok(*read),
            other => panic!("{other:?}"),
        }
    }

    async fn publication(&mut self) -> (String, u64, Option<Position>, Option<Bytes>) {
        loop {
            if let Heard::Publication { publication, position, previous, .. } = self.next().await {
                let data = String::from_utf8(publication.data.to_vec()).expect("text");
                return (data, publication.offset, position, previous);
            }
        }
    }
}

#[derive(Default)]
struct Publishing {
    keep: Option<Keep>,
    tags: HashMap<String, String>,
    delta: bool,
    idempotency_key: &'static str,
    version: u64,
    version_epoch: &'static str,
}

fn kept() -> Publishing {
    Publishing { keep: Some(KEEP), ..Publishing::default() }
}

fn options(server: &Server) -> RedisOptions {
    let io_timeout = Duration::from_secs(1);
    RedisOptions { address: vec![server.address()], io_timeout, ..RedisOptions::default() }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, test);
}

fn offset_of(answer: Result<EngineAnswer, Away>) -> u64 {
    match answer {
        Ok(EngineAnswer::Published(Some(position)) | EngineAnswer::Known(Some(position))) => position.offset,
        other => panic!("{other:?}"),
    }
}

/// The cases that a recording of two Centrifugo nodes has: what is left in Redis, and what is published.
#[test]
fn what_is_left_in_redis_is_what_a_fleet_reads() {
    let server = Server::start(&[]);
    run(async {
        let mut bench = Bench::new(&options(&server), "u").await;
        assert!(bench.listens("plain").await && bench.listens("hi:a").await);
        let tags = HashMap::from([("k".to_owned(), "v".to_owned())]);
        let answer = bench.publish("plain", r#"{"n": 1}"#, Publishing { tags, ..Publishing::default() }).await;
        assert_eq!(answer, Ok(EngineAnswer::Published(None)));
        assert_eq!(bench.publication().await, (r#"{"n": 1}"#.into(), 0, None, None));
        assert_eq!(offset_of(bench.publish("hi:a", r#"{"n": 1}"#, kept()).await), 1);
        let (_, offset, position, previous) = bench.publication().await;
        let epoch = server.cli(&["HGET", "centrifugo.stream.meta.hi:a", "e"]).trim().to_owned();
        assert!(epoch.len() == 8 && epoch.bytes().all(|byte| byte.is_ascii_alphabetic()), "{epoch}");
        let at = |offset| Some(Position { offset, epoch: Epoch::from(&*epoch) });
        assert_eq!((offset, position, previous), (1, at(1), None));

        let keyed = || Publishing { delta: true, idempotency_key: "KEY", ..kept() };
        assert_eq!(offset_of(bench.publish("hi:a", r#"{"n": 2}"#, keyed()).await), 2);
        assert_eq!(bench.publication().await, (r#"{"n": 2}"#.into(), 2, at(2), Some(r#"{"n": 1}"#.into())));
        assert_eq!(offset_of(bench.publish("hi:a", r#"{"n": 9}"#, keyed()).await), 2, "the same key");
        assert_eq!(server.cli(&["HGETALL", "centrifugo.result.hi:a.KEY"]), format!("e\n{epoch}\ns\n2\n"));
        let versioned = |version| Publishing { version, version_epoch: "VE", ..kept() };
        assert_eq!(offset_of(bench.publish("hi:a", r#"{"n": 3}"#, versioned(7)).await), 3);
        assert_eq!(offset_of(bench.publish("hi:a", r#"{"n": 4}"#, versioned(7)).await), 3, "no newer version");
        assert_eq!(bench.publication().await.1, 3);
        assert_eq!(server.cli(&["HMGET", "centrifugo.stream.meta.hi:a", "s", "v", "ve"]), "3\n7\nVE\n");
        let entry = server.cli(&["XRANGE", "centrifugo.stream.hi:a", "2-0", "2-0"]);
        assert!(entry.starts_with("2-0\nd\n\"\u{8}{\"n\": 2}H"), "{entry:?}");
        assert_eq!(server.cli(&["EXISTS", "centrifugo.result.hi:a."]).trim(), "0");
        for (key, low, high) in [
            ("centrifugo.stream.hi:a", 55, 60),
            ("centrifugo.stream.meta.hi:a", 2_591_990, 2_592_000),
            ("centrifugo.result.hi:a.KEY", 295, 300),
        ] {
            let ttl: i64 = server.cli(&["TTL", key]).trim().parse().expect("a number");
            assert!((low..=high).contains(&ttl), "{key}: {ttl}");
        }
        let once = || Publishing { idempotency_key: "K2", ..Publishing::default() };
        for answer in [EngineAnswer::Published(None), EngineAnswer::Known(None)] {
            assert_eq!(bench.publish("plain", "5", once()).await, Ok(answer));
        }
        assert_eq!(bench.publication().await.0, "5");
        assert_eq!(bench.publish("plain", "6", Publishing::default()).await, Ok(EngineAnswer::Published(None)));
        assert_eq!(bench.publication().await.0, "6", "the one before came once");
        let removed = bench.ask(|ticket| EngineCall::RemoveHistory { ticket, channel: "hi:a".into() }).await;
        assert_eq!(removed, Ok(EngineAnswer::Removed));
        assert_eq!(bench.read("hi:a").await, Ok((at(3).expect("a position"), Vec::new())), "offset and epoch stay");
        assert_eq!(offset_of(bench.publish("hi:a", "7", kept()).await), 4);
    });
}

#[test]
fn history_is_read_in_both_directions_from_streams_and_lists() {
    let server = Server::start(&[]);
    for history_use_lists in [false, true] {
        run(async {
            let prefix = format!("p{history_use_lists}");
            let options = RedisOptions { history_use_lists, prefix, ..options(&server) };
            let mut bench = Bench::new(&options, "u").await;
            let (none, empty) = bench.read("a").await.expect("a position");
            assert_eq!((none.offset, empty.len()), (0, 0));
            assert_eq!(none.epoch.as_str().len(), 8, "it has an epoch from the first look on");
            for at in 1..=12 {
                assert_eq!(offset_of(bench.publish("a", &at.to_string(), kept()).await), at);
            }
            for (since, limit, reverse, expected) in [
                (None, usize::MAX, false, (3..=12).collect::<Vec<u64>>()),
                (None, 2, false, vec![3, 4]),
                (None, 0, false, vec![]),
                (None, 2, true, vec![12, 11]),
                (Some(10), usize::MAX, false, vec![11, 12]),
                (Some(12), 5, false, vec![]),
                (Some(5), 9, true, vec![4, 3]),
                (Some(1), 9, true, vec![]),
            ] {
                let since = since.map(|offset| (offset, none.epoch.as_str().into()));
                let query = Query { keep: KEEP, since, limit, reverse };
                let Ok(EngineAnswer::Read(read)) = bench.query("a", query.clone()).await else { panic!("{query:?}") };
                let (position, publications) = *read;
                assert_eq!((position.offset, &position.epoch), (12, &none.epoch));
                let offsets: Vec<u64> = publications.iter().map(|publication| publication.offset).collect();
                assert_eq!(offsets, expected, "{query:?}, lists: {history_use_lists}");
            }
            let other = Query { keep: KEEP, since: Some((1, "other".into())), limit: 1, reverse: false };
            assert_eq!(bench.query("a", other).await, Ok(EngineAnswer::Unrecoverable));
        });
    }
}

#[test]
fn presence_is_kept_counted_and_forgotten() {
    let server = Server::start(&[]);
    for presence_user_mapping in [false, true] {
        run(async {
            let prefix = format!("p{presence_user_mapping}");
            let presence_ttl = Duration::from_secs(3);
            let options = RedisOptions { presence_user_mapping, prefix, presence_ttl, ..options(&server) };
            let mut bench = Bench::new(&options, "u").await;
            let info = |client: u8, user: &str| {
                let client = uuid::Uuid::from_bytes([client; 16]).to_string();
                Arc::new(ClientInfo { client, user: user.into(), ..ClientInfo::default() })
            };
            for (client, user) in [(1, "a"), (2, "a"), (3, "b"), (1, "a")] {
                let info = info(client, user);
                bench.call(EngineCall::AddPresence { channel: "pr:a".into(), client: [client; 16], info });
            }
            let stats = async |bench: &mut Bench| {
                bench.ask(|ticket| EngineCall::PresenceStats { ticket, channel: "pr:a".into() }).await
            };
            assert_eq!(stats(&mut bench).await, Ok(EngineAnswer::PresenceStats { clients: 3, users: 2 }));
            let found = bench.ask(|ticket| EngineCall::Presence { ticket, channel: "pr:a".into(), most: 3 }).await;
            let Ok(EngineAnswer::Presence(mut found)) = found else { panic!() };
            found.sort_by(|a, b| a.client.cmp(&b.client));
            assert_eq!(found, [info(1, "a"), info(2, "a"), info(3, "b")].map(|info| (*info).clone()));
            let few = bench.ask(|ticket| EngineCall::Presence { ticket, channel: "pr:a".into(), most: 2 }).await;
            assert_eq!(few, Ok(EngineAnswer::Refused(ClientError::LimitExceeded)));
            let gone = |ticket| EngineCall::RemovePresence {
                ticket: Some(ticket),
                channel: "pr:a".into(),
                client: [3; 16],
                user: "b".into(),
            };
            assert_eq!(bench.ask(gone).await, Ok(EngineAnswer::PresenceRemoved));
            assert_eq!(stats(&mut bench).await, Ok(EngineAnswer::PresenceStats { clients: 2, users: 1 }));
            assert!(bench.listens("pr:a").await);
            bench.call(EngineCall::Announce { channel: "pr:a".into(), info: info(9, "c"), joined: true });
            let Heard::Presence { info: who, joined: true, .. } = bench.next().await else { panic!() };
            assert_eq!(who, info(9, "c"));
            // Nobody renews them.
            let began = Instant::now();
            while stats(&mut bench).await != Ok(EngineAnswer::PresenceStats { clients: 0, users: 0 }) {
                assert!(began.elapsed() < PATIENCE, "they are forgotten");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
    }
}

#[test]
fn channels_are_spread_over_shards_and_control_reaches_all() {
    let servers = [Server::start(&[]), Server::start(&[])];
    run(async {
        let address = servers.iter().map(Server::address).collect();
        let options = RedisOptions { address, ..options(&servers[0]) };
        let mut bench = Bench::new(&options, "one").await;
        let mut other = Bench::new(&options, "two").await;
        for at in 0..20 {
            let channel = format!("c{at}");
            assert!(other.listens(&channel).await);
            assert_eq!(offset_of(bench.publish(&channel, &channel, kept()).await), 1);
            assert_eq!(other.publication().await.0, channel, "what is published on one node is heard on the other");
            let key = format!("centrifugo.stream.{channel}");
            let found = servers.each_ref().map(|server| server.cli(&["EXISTS", &key]).trim() == "1");
            assert_eq!(found, [jump(&channel, 2) == 0, jump(&channel, 2) == 1]);
        }
        for at in 0..4 {
            bench.redis.tell(None, format!("all {at}").as_bytes()).await.expect("taken");
            assert_eq!(other.control.recv().await, Some(format!("all {at}").into()));
            assert_eq!(bench.control.recv().await, Some(format!("all {at}").into()), "its own, too");
        }
        bench.redis.tell(Some("two"), b"you").await.expect("taken");
        assert_eq!(other.control.recv().await, Some("you".into()));
        assert!(bench.control.try_recv().is_err());
    });
}

#[test]
fn a_crash_is_told_quickly_and_healed() {
    let mut server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    run(async {
        let mut bench = Bench::new(&options(&server), "u").await;
        assert!(bench.listens("a").await);
        assert_eq!(offset_of(bench.publish("a", "1", kept()).await), 1);
        assert_eq!(bench.publication().await.0, "1");
        server.process.kill().expect("killed");
        server.process.wait().expect("ended");
        let began = Instant::now();
        while bench.publish("a", "lost", kept()).await != Err(Away) {
            assert!(began.elapsed() < PATIENCE);
        }
        assert!(!bench.listens("new").await, "nobody waits for a server that is gone");
        let server = server.crash_and_restart(&["--appendonly", "yes", "--appendfsync", "always"]);
        // The channel that was heard is heard again, and told first.
        loop {
            match bench.next().await {
                Heard::Listening { channel, life: 7, result: Ok(()) } if &*channel == "a" => break,
                Heard::Publication { .. } => panic!("before it is heard again"),
                _ => {}
            }
        }
        let began = Instant::now();
        let answer = loop {
            match bench.publish("a", "2", kept()).await {
                Ok(answer) => break Ok(answer),
                Err(Away) => assert!(began.elapsed() < PATIENCE, "calls come back"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert_eq!(offset_of(answer), 2, "its data was kept");
        assert_eq!(bench.publication().await.0, "2");
        // It forgets the scripts.
        server.cli(&["SCRIPT", "FLUSH"]);
        assert_eq!(offset_of(bench.publish("a", "3", kept()).await), 3);
        assert_eq!(bench.publication().await.0, "3");
    });
}

#[test]
fn a_server_that_stands_still_costs_one_timeout() {
    let server = Server::start(&[]);
    run(async {
        let mut bench = Bench::new(&options(&server), "u").await;
        assert!(bench.listens("a").await);
        server.signal("-STOP");
        assert_eq!(bench.publish("a", "1", kept()).await, Err(Away));
        // From now on nobody waits: a thousand are refused in less than the time of one.
        let began = Instant::now();
        for _ in 0..1000 {
            assert_eq!(bench.publish("a", "2", kept()).await, Err(Away));
        }
        assert!(began.elapsed() < PATIENCE / 2, "{:?}", began.elapsed());
        server.signal("-CONT");
        bench.until_up().await;
        offset_of(bench.publish("a", "3", kept()).await);
        while bench.publication().await.0 != "3" {}
    });
}

#[test]
fn what_no_node_writes_is_counted_and_never_told() {
    let server = Server::start(&[]);
    run(async {
        let mut bench = Bench::new(&options(&server), "u").await;
        assert!(bench.listens("a").await);
        for garbage in ["__x", "__p1:1:e", "\\xff", "__d1:9:e:99:x"] {
            server.cli(&["PUBLISH", "centrifugo.client.a", garbage]);
        }
        server.cli(&["PUBLISH", "centrifugo.client.b", "nobody listens"]);
        bench.publish("a", "good", Publishing::default()).await.expect("published");
        assert_eq!(bench.publication().await.0, "good");
        assert_eq!(bench.counts.malformed.load(std::sync::atomic::Ordering::Relaxed), 4);
        // A key that is another's.
        server.cli(&["SET", "centrifugo.stream.meta.w", "text"]);
        assert_eq!(bench.publish("w", "1", kept()).await, Err(Away));
        assert_eq!(bench.read("w").await, Err(Away));
        server.cli(&["XADD", "centrifugo.stream.g", "1-0", "x", "y"]);
        server.cli(&["HSET", "centrifugo.stream.meta.g", "e", "e", "s", "1"]);
        assert_eq!(bench.read("g").await.map(|(position, list)| (position.offset, list.len())), Ok((1, 0)));
    });
}

#[test]
fn a_server_that_does_not_fit_is_named_with_what_to_do() {
    let server = Server::start(&["--requirepass", "right"]);
    run(async {
        let said = async |options: RedisOptions| examine((&options, "engine.redis")).await.map(drop);
        let with = |password: &str| RedisOptions { password: password.into(), ..options(&server) };
        assert_eq!(said(with("right")).await, Ok(()));
        let wrong = said(with("hush")).await.expect_err("refused");
        assert!(wrong.starts_with("engine.redis: 127.0.0.1:") && !wrong.contains("hush"), "{wrong}");
        let nobody = RedisOptions { address: vec![format!("127.0.0.1:{}", free_port())], ..RedisOptions::default() };
        assert!(said(nobody).await.expect_err("refused").contains("is it running"));
        let fields = RedisOptions { presence_hash_field_ttl: true, ..with("right") };
        let told = said(fields).await;
        assert!(told.is_ok() || told.expect_err("told").contains("7.4"));
    });
}

#[test]
fn a_failover_of_sentinels_is_followed() {
    let master = Server::start(&[]);
    let replica = Server::start(&["--replicaof", "127.0.0.1", &master.port.to_string()]);
    let folder = std::env::temp_dir().join(format!("gannet-sentinel-{}-{}", std::process::id(), master.port));
    std::fs::create_dir_all(&folder).expect("a folder");
    let sentinels: Vec<Sentinel> = (0..3).map(|at| Sentinel::start(&folder, at, master.port)).collect();
    until("the replica is known", || {
        sentinels.iter().all(|one| one.cli(&["SENTINEL", "MASTER", "mymaster"]).contains("num-slaves\n1"))
            && sentinels
                .iter()
                .all(|one| one.cli(&["SENTINEL", "MASTER", "mymaster"]).contains("num-other-sentinels\n2"))
    });
    run(async {
        let sentinel_address = sentinels.iter().map(|one| format!("127.0.0.1:{}", one.port)).collect();
        let sentinel_master_name = "mymaster".to_owned();
        let options = RedisOptions { sentinel_address, sentinel_master_name, ..options(&master) };
        let mut bench = Bench::new(&options, "u").await;
        assert!(bench.listens("a").await);
        assert_eq!(offset_of(bench.publish("a", "1", kept()).await), 1);
        assert_eq!(bench.publication().await.0, "1");
        let copied = || replica.cli(&["EXISTS", "centrifugo.stream.a"]).trim() == "1";
        until("it is copied", copied);
        drop(master);
        let began = Instant::now();
        let answer = loop {
            match bench.publish("a", "2", kept()).await {
                Err(Away) => assert!(began.elapsed() < 2 * PATIENCE, "the replica takes over"),
                answer => break answer,
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        assert_eq!(offset_of(answer), 2, "the stream goes on");
        bench.until_up().await;
        offset_of(bench.publish("a", "3", kept()).await);
        while bench.publication().await.0 != "3" {}
    });
    drop(sentinels);
    let _ = std::fs::remove_dir_all(&folder);
}

/// A sentinel of the servers called mymaster.
struct Sentinel {
    process: Child,
    port: u16,
}

impl Sentinel {
    fn start(folder: &std::path::Path, at: u16, master: u16) -> Sentinel {
        let port = free_port();
        let file = folder.join(format!("{at}.conf"));
        let text = format!(
            "port {port}\nbind 127.0.0.1\nsentinel monitor mymaster 127.0.0.1 {master} 2\n\
             sentinel down-after-milliseconds mymaster 1000\nsentinel failover-timeout mymaster 5000\n"
        );
        std::fs::write(&file, text).expect("written");
        let process = Command::new("redis-sentinel")
            .arg(&file)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-sentinel, which tests/run installs");
        let sentinel = Sentinel { process, port };
        until("the sentinel answers", || sentinel.cli(&["PING"]).trim() == "PONG");
        sentinel
    }

    fn cli(&self, words: &[&str]) -> String {
        let output = Command::new("redis-cli").args(["-p", &self.port.to_string()]).args(words).output();
        String::from_utf8_lossy(&output.expect("redis-cli").stdout).into_owned()
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Three masters, and where they are.
fn cluster() -> ([Server; 3], String) {
    let nodes: [Server; 3] =
        std::array::from_fn(|_| Server::start(&["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"]));
    let places = nodes.each_ref().map(|node| format!("127.0.0.1:{}", node.port));
    let mut create = vec!["--cluster", "create"];
    create.extend(places.iter().map(String::as_str));
    create.extend(["--cluster-replicas", "0", "--cluster-yes"]);
    nodes[0].cli(&create);
    until("the cluster is whole", || {
        nodes.iter().all(|node| node.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok"))
    });
    (nodes, places.join(","))
}

/// One slot goes to another master, with what is in it.
fn move_slot(nodes: &[Server; 3], slot: u16) {
    let slot = slot.to_string();
    let owner = nodes.iter().position(|node| node.cli(&["CLUSTER", "COUNTKEYSINSLOT", &slot]).trim() != "0");
    let (from, to) = (owner.expect("an owner"), (owner.expect("an owner") + 1) % 3);
    let ids = nodes.each_ref().map(|node| node.cli(&["CLUSTER", "MYID"]).trim().to_owned());
    nodes[to].cli(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &ids[from]]);
    nodes[from].cli(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &ids[to]]);
    let keys = nodes[from].cli(&["CLUSTER", "GETKEYSINSLOT", &slot, "100"]);
    for key in keys.lines() {
        nodes[from].cli(&["MIGRATE", "127.0.0.1", &nodes[to].port.to_string(), key, "0", "5000"]);
    }
    for node in [to, from, (to + 1) % 3] {
        nodes[node].cli(&["CLUSTER", "SETSLOT", &slot, "NODE", &ids[to]]);
    }
}

/// Publishes until the whole map is known.
async fn publish_soon(bench: &mut Bench, channel: &str) -> u64 {
    let began = Instant::now();
    loop {
        match bench.publish(channel, channel, kept()).await {
            Err(Away) => assert!(began.elapsed() < PATIENCE),
            answer => return offset_of(answer),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn pub_sub_of_a_cluster_may_be_sharded_and_a_partition_may_move() {
    let (nodes, places) = cluster();
    run(async {
        let own = RedisOptions { sharded_pub_sub_partitions: 8, ..options(&nodes[0]) };
        let options = RedisOptions { cluster_address: vec![places], ..own };
        let (mut bench, mut other) = (Bench::new(&options, "one").await, Bench::new(&options, "two").await);
        for at in 0..30 {
            let channel = format!("c{at}");
            let began = Instant::now();
            while !other.listens(&channel).await {
                assert!(began.elapsed() < PATIENCE, "each partition has a server");
            }
            assert_eq!(publish_soon(&mut bench, &channel).await, 1);
            assert_eq!(other.publication().await.0, channel);
        }
        let names = names::Names::new("centrifugo", true, 8);
        let (heard, kept_at) = (names.message("c0"), names.stream("c0"));
        let partition = names.partition("c0").expect("a partition");
        assert_eq!(heard, format!("centrifugo.client.{{{partition}}}.c0"));
        let sharded = |node: &Server| node.cli(&["PUBSUB", "SHARDCHANNELS", "centrifugo.client.*"]).lines().count();
        let spread = nodes.each_ref().map(sharded);
        assert!(
            spread.iter().sum::<usize>() >= 30 && spread.iter().filter(|count| **count > 0).count() > 1,
            "{spread:?}"
        );
        assert!(nodes.iter().all(|node| node.cli(&["PUBSUB", "CHANNELS", "centrifugo.client.*"]).trim().is_empty()));
        move_slot(&nodes, names::slot(kept_at.as_bytes()));
        let began = Instant::now();
        // It is heard again at the server that has the partition now: what is lost meanwhile is for owners to read.
        loop {
            assert!(began.elapsed() < PATIENCE, "the partition is heard again");
            let offset = publish_soon(&mut bench, "c0").await;
            if other.hears_soon(offset).await {
                break;
            }
        }
    });
}

#[test]
fn a_cluster_is_used_whole_and_a_slot_may_move() {
    let (nodes, places) = cluster();
    run(async {
        let options = RedisOptions { cluster_address: vec![places], ..options(&nodes[0]) };
        assert_eq!(examine((&options, "engine.redis")).await.map(|found| found.len()), Ok(1));
        let mut bench = Bench::new(&options, "one").await;
        let mut other = Bench::new(&options, "two").await;
        for at in 0..30 {
            let channel = format!("c{at}");
            assert!(other.listens(&channel).await);
            assert_eq!(publish_soon(&mut bench, &channel).await, 1);
            assert_eq!(other.publication().await.0, channel);
        }
        let sizes = nodes.each_ref().map(|node| node.cli(&["DBSIZE"]).trim().parse::<u64>().expect("a number"));
        assert!(sizes.iter().all(|size| *size > 0), "{sizes:?}");
        move_slot(&nodes, names::slot(b"centrifugo.stream.{c0}"));
        assert_eq!(offset_of(bench.publish("c0", "moved", kept()).await), 2, "it is sent on to where the slot is");
        assert_eq!(other.publication().await.0, "moved");
    });
}

#[test]
fn a_unix_socket_will_do() {
    let folder = std::env::temp_dir().join(format!("gannet-redis-socket-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let socket = folder.join("r.sock");
    let path = socket.to_str().expect("a path");
    let server = Server::start(&["--unixsocket", path, "--requirepass", "p@ss"]);
    run(async {
        let address = vec![format!("unix://:p%40ss@{path}")];
        let mut bench = Bench::new(&RedisOptions { address, ..options(&server) }, "u").await;
        assert_eq!(offset_of(bench.publish("a", "1", kept()).await), 1);
    });
    let _ = std::fs::remove_dir_all(&folder);
}

/// What is between swallows one direction, and no connection ends.
#[test]
fn a_listener_that_hears_nothing_is_made_anew() {
    let server = Server::start(&[]);
    run(async {
        let relay = Relay::start(server.port).await;
        let address = vec![format!("127.0.0.1:{}", relay.port)];
        let mut bench = Bench::new(&RedisOptions { address, ..options(&server) }, "u").await;
        assert!(bench.listens("a").await);
        // Only what Redis says on PUB/SUB: calls are answered.
        relay.swallow.set(true);
        assert!(server.cli(&["CLIENT", "LIST", "TYPE", "pubsub"]).contains("name="));
        let began = Instant::now();
        while bench.counts.listener_reconnects.load(std::sync::atomic::Ordering::Relaxed) == 0 {
            assert!(began.elapsed() < PATIENCE, "it is found out");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        relay.swallow.set(false);
        loop {
            if let Heard::Listening { channel, result: Ok(()), .. } = bench.next().await
                && &*channel == "a"
            {
                break;
            }
        }
        offset_of(bench.publish("a", "1", kept()).await);
        assert_eq!(bench.publication().await.0, "1");
    });
}

/// Passes bytes on, but for messages of PUB/SUB while `swallow` is set.
struct Relay {
    port: u16,
    swallow: Rc<Cell<bool>>,
}

impl Relay {
    async fn start(to: u16) -> Relay {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let swallow = Rc::new(Cell::new(false));
        let flag = swallow.clone();
        spawn_local(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = tokio::net::TcpStream::connect(("127.0.0.1", to)).await.expect("the server");
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                spawn_local(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
                let flag = flag.clone();
                spawn_local(async move {
                    let mut bytes = vec![0; 65536];
                    while let Ok(count @ 1..) = from_server.read(&mut bytes).await {
                        let is_push = bytes[..count].starts_with(b">");
                        if !(flag.get() && is_push) && to_client.write_all(&bytes[..count]).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Relay { port, swallow }
    }
}
