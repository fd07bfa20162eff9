//! The log of publications: what namespaces with log_to have published is in Kafka, each once and in its channel's
//! order, whatever fails meanwhile.

use crate::client::Client;
use crate::kafka::{Kafka, Record};
use crate::redis::RedisProcess;
use crate::server::{OPEN, Server, acquainted, until};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const NAMESPACES: &str = r#"[
  {"name":"kept","log_to":"kept","history_size":10,"history_ttl":"10m"},
  {"name":"live","log_to":"live","allow_publish_for_client":true},
  {"name":"sync","log_to":"sync","log_to_sync":true,"history_size":10,"history_ttl":"10m"},
  {"name":"none"}
]"#;

fn kafka() -> Kafka {
    Kafka::start(&[("kept", 4), ("live", 2), ("sync", 1), ("disk", 1)])
}

fn node(kafka: &Kafka, more: &[&str]) -> Server {
    let address = kafka.address();
    let options = ["--kafka_log.brokers", &address, "--channel.namespaces", NAMESPACES];
    Server::start(&[OPEN, &options, more].concat())
}

/// Publishes each of `commands`, all in one request.
fn publish_all(server: &Server, commands: Vec<Value>) {
    let commands: Vec<Value> = commands.into_iter().map(|publish| json!({ "publish": publish })).collect();
    let count = commands.len();
    let answer = server.call("batch", json!({ "commands": commands }));
    let replies = answer["replies"].as_array().expect("replies");
    assert!(replies.len() == count && replies.iter().all(|reply| reply["publish"].is_object()), "{answer}");
}

/// Of each channel what was logged, in the order of its partition.
fn by_channel(records: &[Record]) -> BTreeMap<&str, Vec<&Record>> {
    let mut channels: BTreeMap<&str, Vec<&Record>> = BTreeMap::new();
    for record in records {
        assert_eq!(record.key, record.headers["gannet-channel"]);
        let all = channels.entry(&record.key).or_default();
        assert!(all.iter().all(|before| before.partition == record.partition), "a channel is in one partition");
        all.push(record);
    }
    channels
}

/// Offsets without a gap, from 1.
fn is_whole(records: &[&Record]) -> bool {
    records.iter().zip(1..).all(|(record, offset)| record.offset() == offset)
}

#[test]
fn each_publication_once_and_in_its_channels_order() {
    let (kafka, channels, each) = (kafka(), 20, 100);
    let server = node(&kafka, &[]);
    for n in 0..each {
        let publish = |c: u32| json!({ "channel": format!("kept:{c}"), "data": n, "idempotency_key": format!("k{n}") });
        publish_all(&server, (0..channels).map(publish).collect());
        // What was published before is not published again.
        publish_all(&server, vec![publish(0), json!({ "channel": "none:1", "data": 1 })]);
    }
    let mut reader = kafka.reader("kept");
    let count = channels as usize * each;
    server.counts("gannet_kafka_log_written_total", count as u64);
    let logged = by_channel(reader.records(count));
    assert_eq!(logged.len(), channels as usize);
    for (channel, records) in &logged {
        assert!(records.len() == each && is_whole(records), "{channel}");
        assert!(records.iter().enumerate().all(|(n, record)| record.value == n.to_string()), "{channel}");
        let epoch = &records[0].headers["gannet-epoch"];
        assert!(!epoch.is_empty() && records.iter().all(|record| record.headers["gannet-epoch"] == *epoch));
    }
    let partitions: std::collections::BTreeSet<i32> = logged.values().map(|records| records[0].partition).collect();
    assert!(partitions.len() > 1, "channels are spread");
    assert_eq!(server.metric("gannet_kafka_log_written_total"), count as u64, "and nothing twice");
    assert_eq!(server.metric("gannet_kafka_log_waiting"), 0);
}

#[test]
fn what_is_known_of_a_publication_goes_with_it() {
    let kafka = kafka();
    let server = node(&kafka, &[]);
    let mut client = Client::connected(&server);
    let reply = client.ask(json!({ "publish": { "channel": "live:a", "data": { "text": "hi" } } }));
    assert_eq!(reply["publish"], json!({}));
    server.publish("live:a", json!("plain"));
    let tagged = server.call("publish", json!({ "channel": "live:a", "data": [1], "tags": { "lang": "en" } }));
    assert_eq!(tagged, json!({ "result": {} }));
    let mut reader = kafka.reader("live");
    let records = reader.records(3);
    assert_eq!(
        records.iter().map(|record| &*record.value).collect::<Vec<_>>(),
        [r#"{"text":"hi"}"#, r#""plain""#, "[1]"]
    );
    let keys = |record: &Record| record.headers.keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&records[0]), ["gannet-channel", "gannet-client", "gannet-user"]);
    assert_eq!(keys(&records[1]), ["gannet-channel"]);
    assert_eq!(records[2].headers["gannet-tag-lang"], "en");
}

#[test]
fn a_full_queue_drops_and_counts_and_what_waited_arrives() {
    let kafka = kafka();
    let server = node(&kafka, &["--kafka_log.queue_size", "10"]);
    server.publish_kept("kept:a", json!("first"));
    server.counts("gannet_kafka_log_written_total", 1);
    kafka.down();
    publish_all(&server, (0..30).map(|n| json!({ "channel": "kept:a", "data": n })).collect());
    assert_eq!(server.metric("gannet_kafka_log_dropped_total"), 20);
    assert_eq!(server.metric("gannet_kafka_log_waiting"), 10);
    assert!(server.metric("gannet_kafka_log_waiting_bytes") > 0);
    until("a line", || server.logged("does it keep up (kafka_log.queue_size)").then_some(()));
    kafka.up();
    let mut reader = kafka.reader("kept");
    let values: Vec<String> = reader.records(11).iter().map(|record| record.value.clone()).collect();
    assert_eq!(values[0], "\"first\"");
    assert!(values[1..].iter().enumerate().all(|(n, value)| *value == n.to_string()), "{values:?}");
    server.counts("gannet_kafka_log_written_total", 11);
    server.publish_kept("kept:a", json!("later"));
    assert_eq!(reader.records(12)[11].value, "\"later\"");
}

/// Answered once it is there; while Kafka is away error 100, and then at once; what was late is there in the end, once.
#[test]
fn who_waits_is_answered_when_kafka_has_it() {
    let kafka = kafka();
    let server = node(&kafka, &["--kafka_log.sync_timeout", "4s"]);
    let publish = |key: &str| {
        let body = json!({ "channel": "sync:a", "data": key, "idempotency_key": key });
        server.call("publish", body)
    };
    let offset = |answer: &Value| answer["result"]["offset"].as_u64();
    until("Kafka to be there", || (offset(&publish("one")) == Some(1)).then_some(()));
    let written = server.metric("gannet_kafka_log_written_total");
    assert_eq!(written, 1, "it is answered when it is there, and it is there once");
    kafka.down();
    assert_eq!(publish("two")["error"]["code"], 100);
    assert!(server.metric("gannet_kafka_log_late_total") >= 1);
    // Nobody waits for what will not come, and nothing more is published.
    for key in ["three", "four"] {
        assert_eq!(publish(key)["error"]["code"], 100);
    }
    assert_eq!(publish("one")["error"]["code"], 100);
    let history = server.call("history", json!({ "channel": "sync:a", "limit": -1 }));
    assert_eq!(history["result"]["offset"], 2, "{history}");
    kafka.up();
    // The same once more is the same publication, and its answer tells that Kafka has it.
    until("Kafka to be back", || (offset(&publish("two")) == Some(2)).then_some(()));
    assert_eq!(server.metric("gannet_kafka_log_written_total"), 2);
    until("the next one to be there", || (offset(&publish("three")) == Some(3)).then_some(()));
    let mut reader = kafka.reader("sync");
    let values: Vec<&str> = reader.records(3).iter().map(|record| &*record.value).collect();
    assert_eq!(values, [r#""one""#, r#""two""#, r#""three""#]);
    assert_eq!(server.metric("gannet_kafka_log_written_total"), 3);
}

fn errors(cluster: &MockCluster<'static, DefaultProducerContext>, of: &[RDKafkaRespErr]) {
    cluster.request_errors(RDKafkaApiKey::Produce, of);
}

/// One at a time: the brokers of this cluster do not look at a producer's count of messages, as real ones do.
#[test]
fn what_is_tried_again_is_there_once_and_in_order() {
    use RDKafkaRespErr::{
        RD_KAFKA_RESP_ERR__TRANSPORT as LOST, RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS as FEW,
        RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT as LATE,
    };
    let (kafka, count) = (kafka(), 12);
    let server = node(&kafka, &["--kafka_log.sync_timeout", "50s"]);
    for n in 0..count {
        errors(&kafka.cluster, &[FEW, LATE, LOST][..n % 4]);
        let body = json!({ "channel": "sync:a", "data": n, "idempotency_key": format!("k{n}") });
        until("the publication to be there", || {
            let answer = server.call("publish", body.clone());
            (answer["result"]["offset"] == n + 1).then_some(())
        });
    }
    let mut reader = kafka.reader("sync");
    assert!(is_whole(&reader.records(count).iter().collect::<Vec<_>>()), "{:?}", reader.read);
    assert_eq!(server.metric("gannet_kafka_log_written_total"), count as u64);
    assert_eq!(server.metric("gannet_kafka_log_failed_total"), 0);
}

/// Of nodes that share channels the one that publishes logs.
#[test]
fn two_nodes_log_each_publication_once() {
    let (redis, kafka) = (RedisProcess::start(&[]), kafka());
    let address = redis.address();
    let engine = ["--engine.type=redis", "--engine.redis.address", &address, "--health.enabled"];
    let nodes = acquainted(["a", "b"], |name| node(&kafka, &[&engine[..], &["--node.name", name]].concat()));
    nodes.iter().for_each(Server::ready);
    for n in 0..50 {
        let publish = |key| json!({ "channel": "kept:a", "data": n, "idempotency_key": key });
        let (key, node) = (format!("k{n}"), &nodes[n % 2]);
        publish_all(node, vec![publish(&key), json!({ "channel": "live:a", "data": n })]);
        // To the other node it is known, and so it is to this one.
        nodes.iter().for_each(|node| publish_all(node, vec![publish(&key)]));
    }
    let written = |node: &Server| node.metric("gannet_kafka_log_written_total");
    until("all to be logged", || (nodes.iter().map(written).sum::<u64>() >= 100).then_some(()));
    let mut reader = kafka.reader("kept");
    let mut offsets: Vec<u64> = reader.records(50).iter().map(Record::offset).collect();
    offsets.sort_unstable();
    assert_eq!(offsets, (1..=50).collect::<Vec<u64>>());
    assert_eq!(kafka.reader("live").records(50).len(), 50);
    assert_eq!(nodes.iter().map(written).collect::<Vec<_>>(), [50, 50]);
}

/// What an archive keeps too is logged when it is on disk, and answered when it is in both.
#[test]
fn durable_publications_are_logged() {
    let kafka = kafka();
    let (address, folder) = (kafka.address(), std::env::temp_dir().join(format!("gannet-log-{}", std::process::id())));
    let namespace = |name: &str, durability: &str, waits: bool| {
        json!({"name": name, "log_to": "disk", "log_to_sync": waits, "history_size": 10, "history_ttl": "10m",
            "history_durability": durability})
    };
    let namespaces =
        json!([namespace("ds", "sync", true), namespace("da", "sync", false), namespace("ba", "batched", true)]);
    let path = folder.to_string_lossy().into_owned();
    let namespaces = namespaces.to_string();
    let options = ["--kafka_log.brokers", &address, "--channel.namespaces", &namespaces, "--durable.path", &path];
    let server = Server::with(OPEN, &options);
    for n in 1..=20 {
        let publish = |c: &str| json!({ "channel": format!("{c}:x"), "data": n, "idempotency_key": format!("k{n}") });
        publish_all(&server, ["ds", "da", "ba", "ds"].map(publish).to_vec());
    }
    let mut reader = kafka.reader("disk");
    let logged = by_channel(reader.records(60));
    assert!(logged.len() == 3 && logged.values().all(|records| records.len() == 20 && is_whole(records)));
    assert_eq!(server.metric("gannet_kafka_log_written_total"), 60);
    drop(server);
    std::fs::remove_dir_all(folder).expect("removed");
}

#[test]
fn a_node_that_leaves_writes_what_waits() {
    let kafka = kafka();
    let mut server = node(&kafka, &["--kafka_log.batch_delay", "2s", "--kafka_log.shutdown_timeout", "50s"]);
    publish_all(&server, (0..20).map(|n| json!({ "channel": "kept:a", "data": n })).collect());
    server.signal(rustix::process::Signal::TERM);
    assert!(server.exit().success());
    assert_eq!(kafka.reader("kept").records(20).len(), 20);
}
