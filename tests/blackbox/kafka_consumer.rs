//! Consumers of Kafka: what programs write to a topic is carried out, in each partition's order, and not lost by
//! whoever dies meanwhile: a node, a broker, or all of them.

use crate::consumers::{counted, kept, node};
use crate::kafka::Kafka;
use crate::redis::RedisProcess;
use crate::server::{Server, until};
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::mocking::MockCoordinator;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::ops::RangeInclusive;
use std::time::Duration;

/// Message n is in partition n modulo this, and goes to the channel of that number.
const PARTITIONS: usize = 4;

fn kafka() -> Kafka {
    Kafka::start(&[("in", PARTITIONS as i32)])
}

/// The consumer called c1, with further options of its kind.
fn consumer(kafka: &Kafka, more: Value) -> Value {
    let mut options = json!({"brokers": [kafka.address()], "topics": ["in"], "consumer_group": "gannet",
        "fetch_max_wait": "50ms", "session_timeout": "6s"});
    options.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    json!({"enabled": true, "name": "c1", "type": "kafka", "kafka": options})
}

/// Writes messages, each of which publishes its number, in one of both forms; with a key if `keyed`.
fn put(kafka: &Kafka, numbers: RangeInclusive<usize>, keyed: bool) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", kafka.address()).set("queue.buffering.max.messages", "0");
    let producer: BaseProducer = config.create().expect("a producer");
    for number in numbers {
        let mut request = json!({"channel": format!("c{}", number % PARTITIONS), "data": number});
        if keyed {
            request["idempotency_key"] = json!(format!("k{number}"));
        }
        let with_header = number % 3 == 0;
        let body = if with_header { request } else { json!({"method": "publish", "payload": request}) }.to_string();
        let header = Header { key: "centrifugo-method", value: Some("publish") };
        let headers = if with_header { OwnedHeaders::new().insert(header) } else { OwnedHeaders::new() };
        let partition = (number % PARTITIONS) as i32;
        let record: BaseRecord<'_, (), str> =
            BaseRecord::to("in").partition(partition).payload(&*body).headers(headers);
        producer.send(record).map_err(|(error, _)| error).expect("queued");
        producer.poll(Duration::ZERO);
    }
    producer.flush(Duration::from_secs(60)).expect("written");
}

/// What a channel gets out of `numbers`.
fn share(numbers: RangeInclusive<usize>, channel: usize) -> Vec<usize> {
    numbers.filter(|number| number % PARTITIONS == channel).collect()
}

/// Who asks without a pause keeps the node from its work.
fn unhurried() {
    std::thread::park_timeout(Duration::from_millis(100));
}

/// Waits until as many as there are were carried out; as long as it goes on, it may take its time.
fn processed(server: &Server, count: usize) {
    let mut done = 0;
    while done < count as u64 {
        until("more to be carried out", || {
            unhurried();
            let now = counted(server, "messages_processed_total");
            let is_more = now > done;
            done = now;
            is_more.then_some(())
        });
    }
}

/// So many messages; a million by a variable, for whoever has the time.
fn many() -> usize {
    std::env::var("GANNET_TEST_CONSUMED").map_or(20_000, |count| count.parse().expect("a number"))
}

/// Each once and in order, though queues are short.
#[test]
fn every_message_of_a_topic_is_carried_out_in_order() {
    let (kafka, many) = (kafka(), many());
    let server = node(&consumer(&kafka, json!({"partition_queue_max_size": 200})), &[]);
    put(&kafka, 1..=many / 2, false);
    put(&kafka, many / 2 + 1..=many, true);
    processed(&server, many);
    for channel in 0..PARTITIONS {
        assert!(kept(&server, channel) == share(1..=many, channel), "all of them once, and in order");
    }
    assert_eq!([counted(&server, "messages_skipped_total"), counted(&server, "errors_total")], [0, 0]);
    until("the source to be up", || (counted(&server, "up") == 1).then_some(()));
    until("the lag is known to be none", || (counted(&server, "lag") == 0).then_some(()));
    assert_eq!(counted(&server, "messages_processed_total"), many as u64);
}

/// Nodes over one Redis, by which channels and keys outlive them.
fn fleet_node(kafka: &Kafka, engine: &RedisProcess) -> Server {
    let address = engine.address();
    let options = ["--engine.type=redis", "--engine.redis.address", &address, "--shutdown.delay=0s"];
    node(&consumer(kafka, json!({})), &options)
}

/// Each number from 1 to `last` is in its channel, and none twice. As long as it goes on, it may take its time.
fn once_each(server: &Server, last: usize) {
    for channel in 0..PARTITIONS {
        let expected = share(1..=last, channel);
        let stands = || {
            let answer = server.call("history", json!({"channel": format!("c{channel}"), "limit": 0}));
            answer["result"]["offset"].as_u64().unwrap_or_else(|| panic!("{answer}")) as usize
        };
        let mut count = stands();
        while count < expected.len() {
            until("more of them", || {
                unhurried();
                let now = stands();
                let is_more = now > count;
                count = now;
                is_more.then_some(())
            });
        }
        let mut kept = kept(server, channel);
        kept.sort_unstable();
        assert!(kept == expected, "all of them, and none twice");
    }
}

/// Killed between what it carried out and its commit: that comes again, and its key is known.
#[test]
fn a_node_that_dies_loses_no_message_of_kafka_and_doubles_none_with_a_key() {
    const COUNT: usize = 600;
    let (kafka, engine) = (kafka(), RedisProcess::start(&[]));
    let mut server = fleet_node(&kafka, &engine);
    for kill in 0..3 {
        put(&kafka, kill * COUNT + 1..=(kill + 1) * COUNT, true);
        processed(&server, 1 + 111 * kill);
        server.signal(Signal::KILL);
        server.exit();
        server = fleet_node(&kafka, &engine);
    }
    once_each(&server, 3 * COUNT);
}

/// Partitions move from node to node, and a node that leaves commits what it carried out: the others go on behind it.
#[test]
fn nodes_of_a_group_share_partitions_and_take_over_from_who_leaves() {
    const COUNT: usize = 1000;
    let (kafka, engine) = (kafka(), RedisProcess::start(&[]));
    let mut first = fleet_node(&kafka, &engine);
    put(&kafka, 1..=COUNT, true);
    processed(&first, COUNT);
    let second = fleet_node(&kafka, &engine);
    let mut last = COUNT;
    until("both to have partitions", || {
        put(&kafka, last + 1..=last + PARTITIONS, true);
        last += PARTITIONS;
        (counted(&second, "messages_processed_total") > 0).then_some(())
    });
    once_each(&second, last);
    // Nothing is under way, so nothing is done twice, key or not.
    first.signal(Signal::TERM);
    assert!(first.exit().success());
    put(&kafka, last + 1..=last + COUNT, false);
    once_each(&second, last + COUNT);
}

#[test]
fn brokers_that_are_away_are_read_on_when_they_are_back() {
    const COUNT: usize = 500;
    let kafka = kafka();
    let server = node(&consumer(&kafka, json!({})), &[]);
    put(&kafka, 1..=COUNT, true);
    processed(&server, COUNT);
    until("the source to be up", || (counted(&server, "up") == 1).then_some(()));
    kafka.down();
    until("the metric to tell", || (counted(&server, "up") == 0).then_some(()));
    assert!(server.logged("the source cannot be read"));
    kafka.up();
    put(&kafka, COUNT + 1..=2 * COUNT, true);
    once_each(&server, 2 * COUNT);
    until("the log to tell", || server.logged("the source is back").then_some(()));
    // One broker goes for good, and others take its partitions and the group.
    for partition in 0..PARTITIONS as i32 {
        kafka.cluster.partition_leader("in", partition, Some(2)).expect("another leader");
    }
    kafka.cluster.coordinator(MockCoordinator::Group("gannet".into()), 2).expect("another coordinator");
    kafka.cluster.broker_down(1).expect("down");
    put(&kafka, 2 * COUNT + 1..=3 * COUNT, true);
    once_each(&server, 3 * COUNT);
}

#[test]
fn requests_that_fail_are_made_again() {
    use RDKafkaRespErr::{
        RD_KAFKA_RESP_ERR__TRANSPORT as LOST, RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION as ELSEWHERE,
        RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT as LATE,
    };
    const COUNT: usize = 400;
    let kafka = kafka();
    let server = node(&consumer(&kafka, json!({})), &[]);
    for round in 0..3 {
        kafka.cluster.request_errors(RDKafkaApiKey::Fetch, &[ELSEWHERE, LOST, LATE]);
        kafka.cluster.request_errors(RDKafkaApiKey::OffsetCommit, &[LATE]);
        put(&kafka, round * COUNT + 1..=(round + 1) * COUNT, true);
        once_each(&server, (round + 1) * COUNT);
    }
}

/// The data as it is, and headers that say where it goes. A header that is wrong costs its message, and no other.
#[test]
fn data_with_headers_is_published() {
    let kafka = kafka();
    let more = json!({"publication_data_mode": {"enabled": true}});
    let server = node(&consumer(&kafka, more), &[]);
    let mut config = ClientConfig::new();
    let producer: BaseProducer = config.set("bootstrap.servers", kafka.address()).create().expect("a producer");
    let messages: [(&str, &[(&str, &str)]); 4] = [
        ("1", &[("centrifugo-channels", "c0,c1")]),
        ("2", &[]),
        ("3", &[("centrifugo-channels", "c0"), ("centrifugo-version", "x")]),
        ("4", &[("centrifugo-channels", "c0"), ("centrifugo-idempotency-key", "k")]),
    ];
    for (body, all) in messages {
        let mut headers = OwnedHeaders::new();
        for (key, value) in all {
            headers = headers.insert(Header { key, value: Some(*value) });
        }
        let record: BaseRecord<'_, (), str> = BaseRecord::to("in").partition(0).payload(body).headers(headers);
        producer.send(record).map_err(|(error, _)| error).expect("queued");
    }
    producer.flush(Duration::from_secs(60)).expect("written");
    processed(&server, 4);
    assert_eq!((kept(&server, 0), kept(&server, 1)), (vec![1, 4], vec![1]));
    assert_eq!(counted(&server, "messages_skipped_total"), 2);
}
