//! What only one kind of source has: TLS, passwords, locks, groups, clusters; and an engine that is away meanwhile.

use crate::certificates::Certificates;
use crate::consumers::{CHANNELS, KINDS, Source, all_done, counted, kept, node, request, settled, share};
use crate::file::File;
use crate::nats::{Bystander, NatsProcess};
use crate::postgres::PostgresProcess;
use crate::redis::{RedisProcess, SentinelProcess, cluster};
use crate::server::{Server, until};
use serde_json::{Value, json};

/// Error 100 is tried again until it is none, and what follows waits.
#[test]
fn error_100_is_tried_again_in_order() {
    const COUNT: usize = 400;
    for kind in KINDS {
        let source = kind();
        let mut engine = RedisProcess::start(&["--appendonly", "yes"]);
        let options = ["--engine.type=redis", "--engine.redis.address", &engine.address()];
        let server = node(&source.consumer(json!({})), &options);
        source.put(1..=COUNT / 2, true);
        server.counts("gannet_consumers_messages_processed_total{consumer_name=\"c1\"}", 5);
        engine.kill();
        source.put(COUNT / 2 + 1..=COUNT, true);
        server.counts("gannet_consumers_errors_total{consumer_name=\"c1\"}", 3);
        assert!(source.left() > 0);
        engine.restart();
        all_done(&server, &source, COUNT as u64);
        for channel in 0..CHANNELS {
            assert!(kept(&server, channel) == share(1..=COUNT, channel), "each once, and in order");
        }
        assert_eq!(counted(&server, "messages_skipped_total"), 0);
        until("the log to tell", || server.logged("error 100 and is tried again").then_some(()));
        assert_eq!(server.lines_with("the source cannot be read"), 0);
    }
}

fn outbox(postgres: &PostgresProcess) {
    postgres.sql(
        "CREATE TABLE outbox (id BIGSERIAL PRIMARY KEY, method text NOT NULL, payload JSONB, \
         partition INTEGER NOT NULL DEFAULT 0)",
    );
}

fn put(postgres: &PostgresProcess, number: usize, partition: usize) {
    let request = request(number, false);
    postgres.sql(&format!(
        "INSERT INTO outbox (method, payload, partition) VALUES ('publish', '{request}', {partition}); \
         NOTIFY outbox_rows, '{partition}'"
    ));
}

fn consumer(kind: &str, options: Value) -> Value {
    json!({"enabled": true, "name": "c1", "type": kind, kind: options})
}

#[test]
fn a_notification_wakes_its_partition() {
    let source = Source::table();
    let Source::Table(postgres) = &source else { panic!("a table") };
    // Nobody polls within the test, and the lock is tried only.
    let more = json!({"partition_poll_interval": "23h", "use_try_lock": true,
        "partition_notification_dsn": postgres.dsn(), "partition_select_limit": 2});
    let server = node(&source.consumer(more), &[]);
    until("it to be read", || (counted(&server, "up") == 1).then_some(()));
    for number in 1..=6 {
        put(postgres, number, number % CHANNELS);
        settled(&source);
    }
    postgres.sql("NOTIFY outbox_rows, '7'; NOTIFY outbox_rows, 'x'");
    put(postgres, 7, 1);
    all_done(&server, &source, 7);
    assert_eq!((kept(&server, 0), kept(&server, 1)), (vec![2, 4, 6], vec![1, 3, 5, 7]));
}

/// The lock of a partition is the one that Centrifugo's nodes take.
#[test]
fn a_partition_that_another_reads_is_left_to_it() {
    for try_lock in [false, true] {
        let source = Source::table();
        let Source::Table(postgres) = &source else { panic!("a table") };
        let held = "SELECT pg_advisory_lock(hashtext('centrifugo_partition_lock_c10')); SELECT pg_sleep(600);";
        let mut other = postgres.session(held);
        let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted";
        until("the lock to be held", || (postgres.sql(locks) == "1").then_some(()));
        let server = node(&source.consumer(json!({"use_try_lock": try_lock})), &[]);
        put(postgres, 2, 0);
        put(postgres, 3, 1);
        server.counts("gannet_consumers_messages_processed_total{consumer_name=\"c1\"}", 1);
        assert_eq!((kept(&server, 0), kept(&server, 1)), (vec![], vec![3]));
        other.kill().expect("killed");
        other.wait().expect("ended");
        postgres.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%' AND pid <> pg_backend_pid()");
        all_done(&server, &source, 2);
        assert_eq!(kept(&server, 0), [2]);
    }
}

#[test]
fn a_table_is_read_under_tls_with_a_password_that_nobody_sees() {
    let certificates = Certificates::new();
    let (certificate, key) = certificates.signed("127.0.0.1");
    let hba = "host all postgres 127.0.0.1/32 trust\nhostssl all app 127.0.0.1/32 scram-sha-256\n";
    let options = ["-c", "ssl=on", "-c", "ssl_cert_file=../s.pem", "-c", "ssl_key_file=../s.key", "-c", "hba_file=hba"];
    let files = [("s.pem", &*certificate), ("s.key", &*key), ("hba", hba)];
    let postgres = PostgresProcess::start_with(&options, &files);
    outbox(&postgres);
    postgres.sql("CREATE ROLE app LOGIN PASSWORD 'hush:@/'; GRANT ALL ON outbox TO app; GRANT ALL ON SEQUENCE outbox_id_seq TO app");
    let authority = File::new("consumers-authority", &certificates.authority);
    let authority = authority.path();
    let url = |rest: &str| format!("postgres://app:hush%3A%40%2F@127.0.0.1:{}/postgres{rest}", postgres.port);
    let pairs = format!("host=127.0.0.1 port={} user=app password='hush:@/' dbname=postgres", postgres.port);
    let tls = json!({"enabled": true, "server_ca_pem": authority});
    for (number, (dsn, tls)) in [
        (url(""), tls.clone()),
        (url("?sslmode=disable"), tls),
        (url(&format!("?sslmode=verify-full&sslrootcert={authority}&pool_max_conns=3")), json!({})),
        (url("?sslmode=require"), json!({})),
        (pairs, json!({})),
    ]
    .into_iter()
    .enumerate()
    {
        let options = json!({"dsn": dsn, "outbox_table_name": "public.outbox", "tls": tls});
        let server = node(&consumer("postgresql", options), &[]);
        put(&postgres, number, 0);
        server.counts("gannet_consumers_messages_processed_total{consumer_name=\"c1\"}", 1);
        assert!(!server.lines().iter().any(|line| line.contains("hush")));
    }
    let others = Certificates::new();
    let stranger = File::new("consumers-stranger", &others.authority);
    for (dsn, tls, why) in [
        (url("").replace("%2F", ""), json!({"enabled": true, "server_ca_pem": authority}), "password authentication"),
        (url(""), json!({"enabled": true, "server_ca_pem": stranger.path()}), "certificate"),
        (url("?sslmode=disable"), json!({}), "no pg_hba.conf entry"),
    ] {
        let options = json!({"dsn": dsn, "outbox_table_name": "outbox", "tls": tls});
        let server = node(&consumer("postgresql", options), &[]);
        until("the log to tell", || server.logged("the source cannot be read").then_some(()));
        let lines = server.lines();
        let told = lines.iter().find(|line| line.contains("the source cannot be read")).expect("a line");
        assert!(told.contains(why), "{told}");
        assert!(!lines.iter().any(|line| line.contains("hush")));
    }
}

/// Servers of a cluster say themselves which of them has a stream.
#[test]
fn streams_are_found_in_a_cluster() {
    let servers = cluster();
    let streams: Vec<String> = (0..6).map(|number| format!("s{number}")).collect();
    let seed = format!("127.0.0.1:{}", servers[0].port);
    let options = json!({"cluster_address": [seed], "streams": streams, "consumer_group": "g"});
    let server = node(&consumer("redis_stream", options), &[]);
    for (number, stream) in streams.iter().enumerate() {
        let request = request(number, false);
        servers[0].cli(&["-c", "XADD", stream, "*", "method", "publish", "payload", &request]);
    }
    server.counts("gannet_consumers_messages_processed_total{consumer_name=\"c1\"}", 6);
    let mut kept = [kept(&server, 0), kept(&server, 1)].concat();
    kept.sort_unstable();
    assert_eq!(kept, [0, 1, 2, 3, 4, 5]);
}

#[test]
fn a_stream_is_found_by_sentinels() {
    let redis = RedisProcess::start(&[]);
    let sentinel = SentinelProcess::start(&redis);
    let options = json!({"sentinel_address": [format!("127.0.0.1:{}", sentinel.port)], "streams": ["s"],
        "sentinel_master_name": "mymaster", "consumer_group": "g", "num_workers": 3});
    let server = node(&consumer("redis_stream", options), &[]);
    let source = Source::Stream(redis);
    source.put(1..=50, false);
    all_done(&server, &source, 50);
}

#[test]
fn a_password_of_jetstream_is_asked_for_and_never_shown() {
    let certificates = Certificates::new();
    let (certificate, key) = certificates.signed("127.0.0.1");
    let files = [("certificate", &certificate), ("key", &key), ("authority", &certificates.authority)];
    let [certificate, key, authority] = files.map(|(name, text)| File::new(&format!("consumers-nats-{name}"), text));
    let tls = format!("tls {{ cert_file: \"{}\", key_file: \"{}\" }}", certificate.path(), key.path());
    let users = "authorization { users: [{user: app, password: hush}, {user: none, password: none}] }";
    let by_user = format!("jetstream {{ store_dir: js }}\n{users}\nno_auth_user: none");
    let by_tls = format!("jetstream {{ store_dir: js }}\n{tls}\nauthorization {{ token: hush }}");
    let right = json!({"username": "app", "password": "hush"});
    let secured = json!({"token": "hush", "tls": {"enabled": true, "server_ca_pem": authority.path()}});
    for (configuration, login, wrong) in [
        (by_user, right, json!({"username": "app", "password": "hush-hush"})),
        (by_tls, secured.clone(), json!({"token": "hush-hush", "tls": secured["tls"]})),
    ] {
        let nats = match configuration.contains("tls {") {
            true => NatsProcess::start(&configuration),
            false => {
                let nats = NatsProcess::start(&configuration);
                let made =
                    Bystander::join(&nats).jetstream("STREAM.CREATE.S", json!({"name": "S", "subjects": ["api.>"]}));
                assert!(made["error"].is_null(), "{made}");
                nats
            }
        };
        let start = |login: &Value| {
            let mut options = json!({"url": nats.url(), "stream_name": "S", "durable_consumer_name": "d"});
            options.as_object_mut().expect("an object").extend(login.as_object().expect("an object").clone());
            node(&consumer("nats_jetstream", options), &[])
        };
        let server: Server = start(&wrong);
        until("the log to tell", || server.logged("the source cannot be read").then_some(()));
        assert!(server.lines().iter().any(|line| line.contains("authorization violation")), "{:?}", server.lines());
        assert!(!server.lines().iter().any(|line| line.contains("hush")));
        drop(server);
        let server = start(&login);
        match configuration.contains("tls {") {
            // It came in, and asked for a stream that is not there.
            true => until("the log to tell", || server.logged("stream not found").then_some(())),
            false => until("it to be read", || (counted(&server, "up") == 1).then_some(())),
        }
        assert!(!server.lines().iter().any(|line| line.contains("hush")));
    }
}

/// A new consumer begins with what comes then, if it is not told otherwise.
#[test]
fn a_consumer_of_jetstream_begins_where_it_is_told() {
    for (policy, expected) in [("new", vec![2]), ("all", vec![2, 4])] {
        let source = Source::jetstream();
        source.put(4..=4, false);
        let server = node(&source.consumer(json!({"deliver_policy": policy})), &[]);
        until("it to be read", || (counted(&server, "up") == 1).then_some(()));
        source.put(2..=2, false);
        all_done(&server, &source, expected.len() as u64);
        let mut kept = kept(&server, 0);
        kept.sort_unstable();
        assert_eq!(kept, expected, "{policy}");
    }
    let source = Source::jetstream();
    let server = node(&source.consumer(json!({"use_existing_consumer": true})), &[]);
    until("the log to tell", || server.logged("consumer not found").then_some(()));
}
