//! Consumers: what programs put into a table, a stream of JetStream or one of Redis is carried out, in order, and not
//! lost by whoever dies meanwhile.

use crate::client::Client;
use crate::nats::{Bystander, NatsProcess};
use crate::postgres::PostgresProcess;
use crate::redis::RedisProcess;
use crate::server::{GUARDED, KEY, Server, until};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::ops::RangeInclusive;
use std::time::Duration;

/// Where messages come from.
pub enum Source {
    Table(PostgresProcess),
    JetStream(NatsProcess),
    Stream(RedisProcess),
}

pub const KINDS: [fn() -> Source; 3] = [Source::table, Source::jetstream, Source::stream];

/// Each message is published to one of these channels, by its number.
pub const CHANNELS: usize = 2;

impl Source {
    pub fn table() -> Source {
        let postgres = PostgresProcess::start(&[]);
        postgres.sql(
            "CREATE TABLE outbox (id BIGSERIAL PRIMARY KEY, method text NOT NULL, payload JSONB, \
             partition INTEGER NOT NULL DEFAULT 0, created_at TIMESTAMP WITH TIME ZONE DEFAULT now())",
        );
        Source::Table(postgres)
    }

    pub fn jetstream() -> Source {
        let nats = NatsProcess::start("jetstream {\n  store_dir: \"js\"\n}");
        let made = Bystander::join(&nats)
            .jetstream("STREAM.CREATE.S", json!({"name": "S", "subjects": ["api.>"], "storage": "file"}));
        assert!(made["error"].is_null(), "{made}");
        Source::JetStream(nats)
    }

    pub fn stream() -> Source {
        Source::Stream(RedisProcess::start(&["--appendonly", "yes"]))
    }

    /// The consumer called c1, with further options of its kind.
    pub fn consumer(&self, more: Value) -> Value {
        let (kind, mut options) = match self {
            Source::Table(postgres) => (
                "postgresql",
                json!({"dsn": postgres.dsn(), "outbox_table_name": "outbox", "num_partitions": CHANNELS,
                    "partition_notification_channel": "outbox_rows", "partition_poll_interval": "50ms"}),
            ),
            Source::JetStream(nats) => (
                "nats_jetstream",
                json!({"url": [nats.url()], "stream_name": "S", "subjects": ["api.*"], "deliver_policy": "all",
                    "durable_consumer_name": "gannet", "max_ack_pending": 1}),
            ),
            Source::Stream(redis) => {
                ("redis_stream", json!({"address": [redis.address()], "streams": ["s"], "consumer_group": "g"}))
            }
        };
        let (options_of, more) = (options.as_object_mut().expect("an object"), more);
        options_of.extend(more.as_object().expect("an object").clone());
        json!({"enabled": true, "name": "c1", "type": kind, kind: options})
    }

    /// Writes messages, each of which publishes its number to the channel of its partition; with a key if `keyed`.
    pub fn put(&self, numbers: RangeInclusive<usize>, keyed: bool) {
        let (first, last) = (*numbers.start(), *numbers.end());
        match self {
            Source::Table(postgres) => {
                let key = if keyed { ", 'idempotency_key', 'k' || n" } else { "" };
                postgres.sql(&format!(
                    "INSERT INTO outbox (method, payload, partition) SELECT 'publish', jsonb_build_object('channel', \
                     'c' || n % {CHANNELS}, 'data', n{key}), n % {CHANNELS} FROM generate_series({first}, {last}) n; \
                     NOTIFY outbox_rows, '0'; NOTIFY outbox_rows, '1'"
                ));
            }
            Source::JetStream(nats) => {
                let mut publisher = Bystander::join(nats);
                let before = stored(&mut publisher);
                for number in numbers {
                    let request = request(number, keyed);
                    match number % 3 {
                        0 => publisher.publish_with("api.x", &[("centrifugo-method", "publish")], request.as_bytes()),
                        _ => publisher.publish("api.x", envelope(&request).as_bytes()),
                    }
                }
                // The server stores what it was sent in its own time.
                until("the stream has all", || {
                    (stored(&mut publisher) == before + (last + 1 - first) as u64).then_some(())
                });
            }
            Source::Stream(redis) => {
                let key = if keyed { r#",\"idempotency_key\":\"k' .. n .. '\""# } else { "" };
                let request = format!("'{{\"channel\":\"c' .. n % {CHANNELS} .. '\",\"data\":' .. n .. '{key}}}'");
                let add = format!("redis.call('XADD', 's', '*', 'method', 'publish', 'payload', {request})");
                let words = format!("for n = {first}, {last} do {add} end return 'done'");
                assert_eq!(redis.cli(&["EVAL", &words, "1", "s"]).trim(), "done");
            }
        }
    }

    /// Messages that are not acknowledged.
    pub fn left(&self) -> u64 {
        match self {
            Source::Table(postgres) => postgres.sql("SELECT count(*) FROM outbox").parse().expect("a number"),
            Source::JetStream(nats) => {
                let info = Bystander::join(nats).jetstream("CONSUMER.INFO.S.gannet", json!({}));
                info["num_pending"].as_u64().expect("pending") + info["num_ack_pending"].as_u64().expect("pending")
            }
            Source::Stream(redis) => {
                let info = redis.cli(&["--json", "XINFO", "GROUPS", "s"]);
                let info: Value = serde_json::from_str(&info).expect("JSON");
                // Redis does not always know the lag of a group, so what lies behind its last message is counted.
                let after = format!("({}", info[0]["last-delivered-id"].as_str().expect("an id"));
                let unread = redis.cli(&["--json", "XRANGE", "s", &after, "+"]);
                let unread: Vec<Value> = serde_json::from_str(&unread).expect("JSON");
                info[0]["pending"].as_u64().expect("pending") + unread.len() as u64
            }
        }
    }

    fn kill(&mut self) {
        match self {
            Source::Table(postgres) => postgres.kill(),
            Source::JetStream(nats) => nats.kill(),
            Source::Stream(redis) => redis.kill(),
        }
    }

    fn restart(&mut self) {
        match self {
            Source::Table(postgres) => postgres.restart(),
            Source::JetStream(nats) => nats.restart(),
            Source::Stream(redis) => redis.restart(),
        }
    }
}

fn stored(publisher: &mut Bystander) -> u64 {
    publisher.jetstream("STREAM.INFO.S", json!({}))["state"]["messages"].as_u64().expect("a count")
}

pub fn request(number: usize, keyed: bool) -> String {
    let key = if keyed { format!(",\"idempotency_key\":\"k{number}\"") } else { String::new() };
    format!("{{\"channel\":\"c{}\",\"data\":{number}{key}}}", number % CHANNELS)
}

fn envelope(request: &str) -> String {
    format!("{{\"method\":\"publish\",\"payload\":{request}}}")
}

const HISTORY: &[&str] =
    &["--channel.without_namespace.history_size=1000000", "--channel.without_namespace.history_ttl=1h"];

pub fn node(consumers: &Value, options: &[&str]) -> Server {
    let consumers = json!([consumers]).to_string();
    Server::start(&[GUARDED, HISTORY, &["--consumers", &consumers, "--node.name", "n1"], options].concat())
}

pub fn counted(server: &Server, what: &str) -> u64 {
    server.metric(&format!("gannet_consumers_{what}{{consumer_name=\"c1\"}}"))
}

/// The numbers that a channel's history has, in its order.
pub fn kept(server: &Server, channel: usize) -> Vec<usize> {
    let answer = server.call("history", json!({"channel": format!("c{channel}"), "limit": -1}));
    let publications = answer["result"]["publications"].as_array().unwrap_or_else(|| panic!("{answer}"));
    publications.iter().map(|publication| publication["data"].as_u64().expect("a number") as usize).collect()
}

/// What channel `channel` gets out of `numbers`.
pub fn share(numbers: RangeInclusive<usize>, channel: usize) -> Vec<usize> {
    numbers.filter(|number| number % CHANNELS == channel).collect()
}

/// Waits until `left` says 0. As long as that goes on, it may take its time.
fn comes_to_nothing(what: &str, mut left: impl FnMut() -> u64) {
    let mut before = left();
    while before > 0 {
        until(what, || {
            // Who asks all the time keeps the others from their work.
            std::thread::park_timeout(Duration::from_millis(50));
            let now = left();
            let is_less = now < before;
            before = now;
            is_less.then_some(())
        });
    }
}

/// Waits until all is acknowledged.
pub fn settled(source: &Source) {
    comes_to_nothing("more to be acknowledged", || source.left());
}

/// Waits until so many are carried out, and all is acknowledged.
pub fn all_done(server: &Server, source: &Source, count: u64) {
    comes_to_nothing("more to be carried out", || count.saturating_sub(counted(server, "messages_processed_total")));
    settled(source);
}

/// So many messages; a million by a variable, for whoever has the time.
fn many() -> usize {
    std::env::var("GANNET_TEST_CONSUMED").map_or(20_000, |count| count.parse().expect("a number"))
}

fn counts_agree(source: &Source) {
    let many = many();
    // One under way at a time would take long; without failures they come in order all the same.
    let more = if let Source::JetStream(_) = source { json!({"max_ack_pending": 100}) } else { json!({}) };
    let server = node(&source.consumer(more), &[]);
    source.put(1..=many / 2, false);
    source.put(many / 2 + 1..=many, true);
    all_done(&server, source, many as u64);
    for channel in 0..CHANNELS {
        assert!(kept(&server, channel) == share(1..=many, channel), "all of them once, and in order");
    }
    assert_eq!([counted(&server, "messages_skipped_total"), counted(&server, "errors_total")], [0, 0]);
    assert_eq!([counted(&server, "up"), counted(&server, "messages_processed_total")], [1, many as u64]);
    until("the lag is known to be none", || (counted(&server, "lag") == 0).then_some(()));
}

#[test]
fn every_row_of_a_table_is_carried_out_in_order() {
    counts_agree(&Source::table());
}

#[test]
fn every_message_of_jetstream_is_carried_out_in_order() {
    counts_agree(&Source::jetstream());
}

#[test]
fn every_entry_of_a_redis_stream_is_carried_out_in_order() {
    counts_agree(&Source::stream());
}

/// The node dies again and again, wherever it is; channels and keys are in Redis, and outlive it.
fn killed_in_a_loop(source: &Source, more: &Value) {
    const COUNT: usize = 4000;
    const KILLS: usize = 8;
    let engine = RedisProcess::start(&[]);
    let start =
        || node(&source.consumer(more.clone()), &["--engine.type=redis", "--engine.redis.address", &engine.address()]);
    // Half without a key, which may come again.
    let (plain, keyed) = (1..=COUNT / 2, COUNT / 2 + 1..=COUNT);
    let mut server = start();
    for kill in 0..KILLS {
        let part = |all: &RangeInclusive<usize>| {
            let size = COUNT / 2 / KILLS;
            all.start() + kill * size..=all.start() + (kill + 1) * size - 1
        };
        source.put(part(&plain), false);
        source.put(part(&keyed), true);
        server.counts("gannet_consumers_messages_processed_total{consumer_name=\"c1\"}", 1 + 3 * kill as u64);
        server.signal(Signal::KILL);
        server.exit();
        server = start();
    }
    settled(source);
    for channel in 0..CHANNELS {
        let kept = kept(&server, channel);
        let with_key: Vec<usize> = kept.iter().copied().filter(|number| keyed.contains(number)).collect();
        let mut sorted = with_key.clone();
        sorted.sort_unstable();
        assert!(sorted == share(keyed.clone(), channel), "with a key: each exactly once");
        let mut without: Vec<usize> = kept.into_iter().filter(|number| plain.contains(number)).collect();
        without.sort_unstable();
        without.dedup();
        assert!(without == share(plain.clone(), channel), "without: each at least once");
    }
}

#[test]
fn a_node_that_dies_loses_no_row_and_doubles_none_with_a_key() {
    killed_in_a_loop(&Source::table(), &json!({}));
}

#[test]
fn a_node_that_dies_loses_no_message_of_jetstream_and_doubles_none_with_a_key() {
    let source = Source::jetstream();
    let Source::JetStream(nats) = &source else { panic!("JetStream") };
    // What a dead node was given is given again soon.
    let config = json!({"durable_name": "gannet", "ack_policy": "explicit", "ack_wait": 2_000_000_000_u64,
        "max_ack_pending": 100, "deliver_policy": "all"});
    let made = Bystander::join(nats)
        .jetstream("CONSUMER.DURABLE.CREATE.S.gannet", json!({"stream_name": "S", "config": config}));
    assert!(made["error"].is_null(), "{made}");
    killed_in_a_loop(&source, &json!({"use_existing_consumer": true, "max_ack_pending": 100}));
}

#[test]
fn a_node_that_dies_loses_no_entry_of_redis_and_doubles_none_with_a_key() {
    killed_in_a_loop(&Source::stream(), &json!({}));
}

/// The source dies in the middle of it and comes back: nobody needs to do anything.
#[test]
fn a_source_that_dies_is_read_on_when_it_is_back() {
    const COUNT: usize = 1500;
    for kind in KINDS {
        let mut source = kind();
        let server = node(&source.consumer(json!({})), &[]);
        source.put(1..=COUNT, true);
        server.counts("gannet_consumers_messages_processed_total{consumer_name=\"c1\"}", 10);
        source.kill();
        until("the log to tell", || server.logged("the source cannot be read").then_some(()));
        until("the metric to tell", || (counted(&server, "up") == 0).then_some(()));
        assert!(counted(&server, "errors_total") > 0);
        source.restart();
        until("the log to tell", || server.logged("the source is back").then_some(()));
        source.put(COUNT + 1..=2 * COUNT, true);
        settled(&source);
        for channel in 0..CHANNELS {
            let mut kept = kept(&server, channel);
            // What was carried out and not acknowledged came again, and its key was known.
            assert!(kept.len() == COUNT, "{} of {COUNT}", kept.len());
            kept.sort_unstable();
            assert!(kept == share(1..=2 * COUNT, channel));
        }
        assert_eq!(server.lines_with("the source cannot be read"), 1, "said once");
        assert_eq!(server.lines_with("the source is back"), 1);
    }
}

/// A node that leaves acknowledges what it carried out, and another goes on: nothing is doubled, key or not.
#[test]
fn a_node_that_leaves_acknowledges_what_was_carried_out() {
    const COUNT: usize = 900;
    for kind in KINDS {
        let source = kind();
        let engine = RedisProcess::start(&[]);
        let options = ["--engine.type=redis", "--engine.redis.address", &engine.address(), "--shutdown.delay=0s"];
        let start = || node(&source.consumer(json!({})), &options);
        source.put(1..=COUNT, false);
        for stop in 0..3 {
            let mut server = start();
            server.counts("gannet_consumers_messages_processed_total{consumer_name=\"c1\"}", 3 * stop + 1);
            server.signal(Signal::TERM);
            assert!(server.exit().success());
            assert!(!server.logged("did not end in time"));
        }
        let server = start();
        settled(&source);
        for channel in 0..CHANNELS {
            assert!(kept(&server, channel) == share(1..=COUNT, channel), "each once, and in order");
        }
    }
}

/// What cannot be carried out is skipped, counted and told; what follows is carried out.
#[test]
fn what_no_try_would_mend_is_skipped() {
    let long = "x".repeat(3000);
    let requests = [
        ("publish", json!({"channel": "", "data": 1}).to_string()),
        ("publish", json!({"channel": "nowhere:x", "data": 1}).to_string()),
        ("publish", json!([1]).to_string()),
        ("publish", json!({"channel": "c0", "data": long}).to_string()),
        ("history", json!({"channel": "c0"}).to_string()),
        ("batch", json!({"commands": []}).to_string()),
        ("invented", json!({}).to_string()),
        ("broadcast", json!({"channels": ["c1", "nowhere:x"], "data": 2}).to_string()),
        ("publish", request(2, false)),
    ];
    for kind in KINDS {
        let source = kind();
        let mut consumer = source.consumer(json!({}));
        consumer["message_size_limit"] = json!(2000);
        let server = node(&consumer, &[]);
        for (method, request) in &requests {
            match &source {
                Source::Table(postgres) => {
                    drop(
                        postgres.sql(&format!("INSERT INTO outbox (method, payload) VALUES ('{method}', '{request}')")),
                    );
                }
                Source::JetStream(nats) => {
                    let mut publisher = Bystander::join(nats);
                    let before = stored(&mut publisher);
                    publisher.publish_with("api.x", &[("centrifugo-method", method)], request.as_bytes());
                    until("it is stored", || (stored(&mut publisher) > before).then_some(()));
                }
                Source::Stream(redis) => {
                    drop(redis.cli(&["XADD", "s", "*", "method", method, "payload", request]));
                }
            }
        }
        all_done(&server, &source, requests.len() as u64);
        assert_eq!(counted(&server, "messages_skipped_total"), 8);
        assert_eq!((kept(&server, 0), kept(&server, 1)), (vec![2], vec![2]), "the broadcast went where it could");
        assert_eq!(counted(&server, "errors_total"), 0);
        until("the log to tell", || server.logged("a message is skipped").then_some(()));
        assert!(!server.lines().iter().any(|line| line.contains("xxxx")), "no content");
    }
}

/// Messages as other programs have them: data, and headers that say where it goes.
#[test]
fn data_is_published_as_its_headers_say() {
    let headers = [
        ("centrifugo-channels", "c0,c1"),
        ("centrifugo-idempotency-key", "once"),
        ("centrifugo-tag-color", "red"),
        ("centrifugo-version", "7"),
    ];
    for source in [Source::jetstream(), Source::stream()] {
        let server = node(&source.consumer(json!({"publication_data_mode": {"enabled": true}})), &[]);
        let mut client = Client::subscribed(&server, "c0");
        for _ in 0..2 {
            match &source {
                Source::JetStream(nats) => {
                    let mut publisher = Bystander::join(nats);
                    publisher.publish_with("api.x", &headers, b"{\"a\": 1}");
                    publisher.publish_with("api.x", &[], b"{}");
                }
                Source::Stream(redis) => {
                    let values = headers.iter().flat_map(|(name, value)| [*name, *value]);
                    let words: Vec<&str> =
                        ["XADD", "s", "*", "payload", "{\"a\": 1}"].into_iter().chain(values).collect();
                    redis.cli(&words);
                    redis.cli(&["XADD", "s", "*", "payload", "{}"]);
                }
                Source::Table(_) => panic!("it has no such mode"),
            }
        }
        assert_eq!(client.publication().1, json!({"a": 1}));
        all_done(&server, &source, 4);
        assert_eq!(counted(&server, "messages_skipped_total"), 2, "those without channels");
        for channel in ["c0", "c1"] {
            let answer = server.call("history", json!({"channel": channel, "limit": -1}));
            let publications = answer["result"]["publications"].as_array().expect("publications");
            assert_eq!(publications.len(), 1, "the key was known: {answer}");
            assert_eq!(publications[0]["tags"], json!({"color": "red"}));
        }
    }
}

/// Two nodes share one source; each message is carried out by one of them.
#[test]
fn nodes_share_the_messages() {
    const COUNT: usize = 800;
    for kind in KINDS {
        let source = kind();
        let engine = RedisProcess::start(&[]);
        let engine = ["--engine.type=redis", "--engine.redis.address", &engine.address()];
        let start = |name| {
            let consumers = json!([source.consumer(json!({}))]).to_string();
            Server::start(&[GUARDED, HISTORY, &["--consumers", &consumers, "--node.name", name], &engine].concat())
        };
        let (one, two) = (start("one"), start("two"));
        source.put(1..=COUNT, false);
        let sum = || counted(&one, "messages_processed_total") + counted(&two, "messages_processed_total");
        settled(&source);
        until("all to be counted", || (sum() >= COUNT as u64).then_some(()));
        assert_eq!(sum(), COUNT as u64);
        for channel in 0..CHANNELS {
            let mut kept = kept(&two, channel);
            kept.sort_unstable();
            assert!(kept == share(1..=COUNT, channel), "each once");
        }
    }
}

/// What a node was given and never acknowledged goes to another one.
#[test]
fn entries_of_a_dead_node_are_taken_over() {
    let source = Source::stream();
    let Source::Stream(redis) = &source else { panic!("Redis") };
    redis.cli(&["XGROUP", "CREATE", "s", "g", "0", "MKSTREAM"]);
    source.put(1..=10, false);
    redis.cli(&["XREADGROUP", "GROUP", "g", "dead", "COUNT", "5", "STREAMS", "s", ">"]);
    let server = node(&source.consumer(json!({"visibility_timeout": "1s"})), &[]);
    all_done(&server, &source, 10);
    let mut kept = [kept(&server, 0), kept(&server, 1)].concat();
    kept.sort_unstable();
    assert_eq!(kept, (1..=10).collect::<Vec<_>>());
}

/// A node that is over its memory limit takes no more, and goes on when it is below.
#[test]
fn messages_wait_while_the_node_is_full() {
    for kind in KINDS {
        let source = kind();
        let folder = std::env::temp_dir().join(format!("gannet-consumers-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let file = folder.join("gannet.json");
        let write = |limit: &str| {
            let config = json!({"http_api": {"key": KEY}, "overload": {"memory_limit": limit},
                "channel": {"without_namespace": {"history_size": 1000, "history_ttl": "1h"}},
                "consumers": [source.consumer(json!({}))]});
            std::fs::write(&file, config.to_string()).expect("written");
        };
        write("1KiB");
        let server = Server::start(&["--config", file.to_str().expect("a path")]);
        source.put(1..=20, false);
        server.counts("gannet_consumers_pauses_total{consumer_name=\"c1\"}", 3);
        assert_eq!(counted(&server, "messages_processed_total"), 0);
        write("64GiB");
        server.signal(Signal::HUP);
        all_done(&server, &source, 20);
        std::fs::remove_dir_all(&folder).expect("removed");
    }
}
