//! A cluster of Kafka for a test: brokers of the library's own, which speak its protocol on ports of loopback, and a
//! client that reads all that is in a topic.

use crate::server::until;
use rdkafka::ClientConfig;
use rdkafka::Message;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Headers;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::topic_partition_list::Offset;
use std::collections::BTreeMap;
use std::time::Duration;

pub const BROKERS: i32 = 3;

pub struct Kafka {
    pub cluster: MockCluster<'static, DefaultProducerContext>,
    /// With the partitions of each.
    topics: BTreeMap<&'static str, i32>,
}

/// A message as it is in a topic.
#[derive(Debug, Clone)]
pub struct Record {
    pub partition: i32,
    pub key: String,
    pub value: String,
    pub headers: BTreeMap<String, String>,
}

impl Record {
    pub fn offset(&self) -> u64 {
        self.headers["gannet-offset"].parse().expect("an offset")
    }
}

impl Kafka {
    pub fn start(topics: &[(&'static str, i32)]) -> Kafka {
        let cluster = MockCluster::new(BROKERS).expect("a cluster");
        for (topic, partitions) in topics {
            cluster.create_topic(topic, *partitions, 1).expect("a topic");
        }
        Kafka { cluster, topics: topics.iter().copied().collect() }
    }

    pub fn address(&self) -> String {
        self.cluster.bootstrap_servers()
    }

    /// All brokers end their connections and take none.
    pub fn down(&self) {
        self.cluster.broker_down(-1).expect("down");
    }

    pub fn up(&self) {
        self.cluster.broker_up(-1).expect("up");
    }

    /// Reads a topic from its beginning, whatever groups there are.
    pub fn reader(&self, topic: &str) -> Reader {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.address()).set("group.id", "reader").set("enable.auto.commit", "false");
        let consumer: BaseConsumer = config.create().expect("a consumer");
        let mut all = TopicPartitionList::new();
        for partition in 0..self.topics[topic] {
            all.add_partition_offset(topic, partition, Offset::Beginning).expect("a partition");
        }
        consumer.assign(&all).expect("assigned");
        Reader { consumer, read: Vec::new() }
    }
}

/// What was read of a topic so far.
pub struct Reader {
    consumer: BaseConsumer,
    pub read: Vec<Record>,
}

impl Reader {
    /// Reads until there are so many.
    pub fn records(&mut self, count: usize) -> &[Record] {
        until(&format!("{count} messages in Kafka"), || {
            while self.read.len() < count {
                self.next()?;
            }
            Some(())
        });
        &self.read
    }

    fn next(&mut self) -> Option<()> {
        // Brokers that are down are no end of it.
        let message = self.consumer.poll(Duration::from_millis(100))?.ok()?;
        let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap_or_default().to_vec()).expect("text");
        let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
        let headers = headers.map(|header| (header.key.to_owned(), text(header.value))).collect();
        let (key, value) = (text(message.key()), text(message.payload()));
        self.read.push(Record { partition: message.partition(), key, value, headers });
        Some(())
    }
}
