//! F0 · The options of consumers: messages in databases and brokers that are carried out as calls of the API.
//!
//! Owns the list `consumers` with a section for each kind of source, and the rules between them. Names and defaults are
//! Centrifugo's. Never connects: what an address stands for is read by who does.

use super::backend::TlsOptions;
use super::built::BuildPart;
use super::check::Problem;
use super::kafka::{KafkaAccess, MECHANISMS as KAFKA_MECHANISMS, topic_fault};
use super::list::{self, ListEntry};
use super::registry::{Meta, Visit, Visitor, beside};
use super::value::{HIDDEN, Rule, ValueFault};
use super::{Config, DAY, GIB, RedisOptions, secs};
use serde_json::Value as Json;
use std::collections::BTreeSet;
use std::time::Duration;

/// Kinds that there are.
const KINDS: [&str; 4] = ["postgresql", "kafka", "nats_jetstream", "redis_stream"];
/// Kinds that Centrifugo has besides.
const CLOUD: [&str; 3] = ["google_pub_sub", "aws_sqs", "azure_service_bus"];
/// Options of Centrifugo's consumers that ask for nothing here.
const IDLE: [&str; 5] = [
    "redis_stream.force_resp2",
    "redis_stream.replica_client",
    "redis_stream.prefix",
    "kafka.max_poll_records",
    "kafka.assume_role_arn",
];

options! {
    pub struct ConsumerOptions {
        /// It runs.
        enabled: bool = false;
        /// Bytes of one message; a longer one is acknowledged, counted and not carried out.
        message_size_limit: usize = 4 << 20, Rule::Bytes(64, GIB);
        /// With type postgresql: a table (outbox)
        postgresql: PostgresqlConsumer = PostgresqlConsumer::default();
        /// With type kafka
        kafka: KafkaConsumer = KafkaConsumer::default();
        /// With type nats_jetstream
        nats_jetstream: NatsJetStreamConsumer = NatsJetStreamConsumer::default();
        /// With type redis_stream
        redis_stream: RedisStreamConsumer = RedisStreamConsumer::default();
    }
}

options! {
    pub struct PostgresqlConsumer {
        /// The database: postgres://user:password@host:port/name, or host=... user=... Secret: never printed.
        dsn: String = String::new(), Rule::Secret;
        /// The table, which has the columns id, method, payload and partition.
        outbox_table_name: String = String::new();
        /// Values of the column partition: 0 to one less. Each has a connection and an order of its own.
        num_partitions: usize = 1, Rule::Count(1, 1024);
        /// Rows that are read, carried out and deleted in one transaction.
        partition_select_limit: usize = 100, Rule::Count(1, 65536);
        /// How long the table is left alone when all of it was read.
        partition_poll_interval: Duration = Duration::from_millis(300), Rule::Time(Duration::from_millis(1), DAY);
        /// What is notified (NOTIFY channel, 'partition') when rows come, so that nobody waits for
        /// partition_poll_interval. Empty = nothing.
        partition_notification_channel: String = String::new();
        /// Where that is listened to, if dsn leads through a pooler that cannot. Secret: never printed. Empty = at dsn.
        partition_notification_dsn: String = String::new(), Rule::Secret;
        /// A partition that another node reads is left to it until the next poll, and nobody waits for its lock.
        use_try_lock: bool = false;
        /// Of connections to the database; goes before sslmode in dsn
        tls: TlsOptions = TlsOptions::default();
    }
}

options! {
    pub struct KafkaConsumer {
        /// Some of the cluster's servers: host:port.
        brokers: Vec<String> = Vec::new();
        /// The topics.
        topics: Vec<String> = Vec::new();
        /// The group. Nodes with the same share the partitions.
        consumer_group: String = String::new();
        /// A name of this node alone, by which it has its partitions back after a restart without a rebalance (static
        /// membership). Empty = none.
        instance_id: String = String::new();
        /// A node that is not heard of for so long loses its partitions to others.
        session_timeout: Duration = secs(45), Rule::Time(secs(1), secs(3600));
        /// Messages of a partition that wait here; beyond: no more is fetched of it until they are fewer.
        partition_queue_max_size: usize = 1000, Rule::Count(1, 10_000_000);
        /// Bytes of one answer of a server, and of what waits of one partition.
        fetch_max_bytes: usize = 50 << 20, Rule::Bytes(1 << 20, 1 << 30);
        /// How long a server gathers messages for one answer.
        fetch_max_wait: Duration = Duration::from_millis(500), Rule::Time(Duration::from_millis(1), secs(30));
        /// Messages of transactions that are open, or were aborted, are read too.
        fetch_read_uncommitted: bool = false;
        /// How long a connection may take.
        dial_timeout: Duration = secs(3), Rule::Time(secs(1), DAY);
        /// Of connections to servers
        tls: TlsOptions = TlsOptions::default();
        /// How this node says who it is. Empty = it does not.
        sasl_mechanism: String = String::new(), Rule::OneOf(KAFKA_MECHANISMS);
        /// With sasl_mechanism: the user.
        sasl_user: String = String::new();
        /// With sasl_mechanism: the password. Secret: never printed.
        sasl_password: String = String::new(), Rule::Secret;
        /// The header with a method; the message is then its request. Without such a header it is both as JSON.
        method_header: String = "centrifugo-method".into();
        /// Messages are data of publications
        publication_data_mode: PublicationHeaders = PublicationHeaders::default();
    }
}

options! {
    pub struct NatsJetStreamConsumer {
        /// Servers, comma-separated: nats://host:port.
        url: Vec<String> = vec!["nats://127.0.0.1:4222".into()], Rule::Addresses;
        /// File with credentials (.creds). It goes before username and token.
        credentials_file: String = String::new();
        /// User. It goes before token.
        username: String = String::new();
        /// The user's password. Secret: never printed.
        password: String = String::new(), Rule::Secret;
        /// Token. Secret: never printed.
        token: String = String::new(), Rule::Secret;
        /// The stream.
        stream_name: String = String::new();
        /// The consumer durable_consumer_name is there already and is taken as it is. Otherwise it is made.
        use_existing_consumer: bool = false;
        /// Subjects of the stream. Empty = all.
        subjects: Vec<String> = Vec::new();
        /// What the consumer is called in JetStream; nodes with the same name share the messages.
        durable_consumer_name: String = String::new();
        /// What a consumer that is made begins with: new messages, or all that the stream has.
        deliver_policy: String = "new".into(), Rule::OneOf(&["new", "all"]);
        /// Messages under way at most. Their order is kept only with 1.
        max_ack_pending: usize = 100, Rule::Count(1, 65536);
        /// The header with a method; the message is then its request. Without such a header it is both as JSON.
        method_header: String = "centrifugo-method".into();
        /// Messages are data of publications
        publication_data_mode: PublicationHeaders = PublicationHeaders::default();
        /// Of connections to servers
        tls: TlsOptions = TlsOptions::default();
    }
}

options! {
    pub struct RedisStreamConsumer {
        /// The server: redis://user:password@host:port/db, rediss:// with TLS, unix:///path, or host:port.
        address: Vec<String> = vec!["redis://127.0.0.1:6379".into()], Rule::Addresses;
        /// Some nodes of a Redis Cluster, comma-separated. Goes before address.
        cluster_address: Vec<String> = Vec::new(), Rule::Addresses;
        /// Sentinels, comma-separated, which tell where sentinel_master_name is. It goes before address.
        sentinel_address: Vec<String> = Vec::new(), Rule::Addresses;
        /// The name that Sentinel knows the server by.
        sentinel_master_name: String = String::new();
        /// User of the sentinels.
        sentinel_user: String = String::new();
        /// Password of the sentinels. Secret: never printed.
        sentinel_password: String = String::new(), Rule::Secret;
        /// Name by which sentinels list this node's connections.
        sentinel_client_name: String = String::new();
        /// Of connections to sentinels
        sentinel_tls: TlsOptions = TlsOptions::default();
        /// How long a connection may take, TLS and authentication included.
        connect_timeout: Duration = secs(1), Rule::Time(Duration::from_millis(10), secs(60));
        /// How long an answer may take; beyond: another connection.
        io_timeout: Duration = secs(4), Rule::Time(Duration::from_millis(100), secs(60));
        /// Number of the database; the address may name its own.
        db: u32 = 0;
        /// User (ACL); the address may name its own. Empty = the default user.
        user: String = String::new();
        /// Password; the address may have its own. Secret: never printed.
        password: String = String::new(), Rule::Secret;
        /// Name by which the server lists this node's connections. Empty = gannet.
        client_name: String = String::new();
        /// Of connections to the server; rediss:// turns it on
        tls: TlsOptions = TlsOptions::default();
        /// The streams.
        streams: Vec<String> = Vec::new();
        /// The group, which is made, from the oldest message on, where it is missing. Nodes with the same share the
        /// messages.
        consumer_group: String = String::new();
        /// What was given to a node and not acknowledged for so long is given to another.
        visibility_timeout: Duration = secs(30), Rule::Time(secs(1), DAY);
        /// Readers of each stream. Its order is kept only with 1, on one node.
        num_workers: usize = 1, Rule::Count(1, 1024);
        /// The value that has the message.
        payload_value: String = "payload".into();
        /// The value that has the method, if there is one; without, the message is method and payload as JSON.
        method_value: String = "method".into();
        /// Messages are data of publications
        publication_data_mode: PublicationValues = PublicationValues::default();
    }
}

options! {
    pub struct PublicationHeaders {
        /// A message is what is published, and its headers say where and how.
        enabled: bool = false;
        /// The header with the channels, comma-separated.
        channels_header: String = "centrifugo-channels".into();
        /// With an idempotency key.
        idempotency_key_header: String = "centrifugo-idempotency-key".into();
        /// With true or false: whether it is sent as a delta.
        delta_header: String = "centrifugo-delta".into();
        /// With the version of the data.
        version_header: String = "centrifugo-version".into();
        /// With the epoch of versions.
        version_epoch_header: String = "centrifugo-version-epoch".into();
        /// What headers with tags begin with.
        tags_header_prefix: String = "centrifugo-tag-".into();
    }
}

options! {
    pub struct PublicationValues {
        /// A message is what is published, and its other values say where and how.
        enabled: bool = false;
        /// The value with the channels, comma-separated.
        channels_value: String = "centrifugo-channels".into();
        /// With an idempotency key.
        idempotency_key_value: String = "centrifugo-idempotency-key".into();
        /// With true or false: whether it is sent as a delta.
        delta_value: String = "centrifugo-delta".into();
        /// With the version of the data.
        version_value: String = "centrifugo-version".into();
        /// With the epoch of versions.
        version_epoch_value: String = "centrifugo-version-epoch".into();
        /// What values with tags begin with.
        tags_value_prefix: String = "centrifugo-tag-".into();
    }
}

/// One of the consumers.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NamedConsumer {
    pub name: String,
    pub kind: String,
    pub options: ConsumerOptions,
}

impl Visit for NamedConsumer {
    fn visit(&mut self, meta: Meta<'_>, visitor: &mut dyn Visitor) {
        struct Typed<'a>(&'a mut String, &'a mut ConsumerOptions);
        impl Visit for Typed<'_> {
            fn visit(&mut self, meta: Meta<'_>, visitor: &mut dyn Visitor) {
                let about = "Where its messages come from: postgresql, kafka, nats_jetstream or redis_stream.";
                beside(("type", about, self.0), self.1, meta, visitor);
            }
        }
        let mut typed = Typed(&mut self.kind, &mut self.options);
        let about = "What variables, metrics and the log call it, and for postgresql a part of its locks' names.";
        beside(("name", about, &mut self.name), &mut typed, meta, visitor);
    }
}

impl ListEntry for NamedConsumer {
    const WHAT: &'static str = "a consumer";
    const EXAMPLE: &'static str = "[{\"enabled\": true, \"name\": \"outbox\", \"type\": \"postgresql\", \
                                   \"postgresql\": {\"dsn\": \"...\", \"outbox_table_name\": \"outbox\"}}]";
    const NEEDED: &'static [&'static str] = &["name"];
    const BY_NAMES: bool = true;
    fn foreign(key: &str, _: &Json) -> Option<String> {
        // In a variable all boundaries are underscores.
        let flat = key.replace('.', "_");
        let within = |section: &&str| {
            let rest = flat.strip_prefix(&section.replace('.', "_"));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
        };
        if CLOUD.iter().chain(&IDLE).any(within) {
            return None;
        }
        let mut entry = NamedConsumer::default();
        Some(super::unknown::list_option(key, Self::WHAT, &list::names(&mut entry)))
    }
}

impl RedisStreamConsumer {
    /// The server, as engines are told of theirs.
    pub fn server(&self) -> RedisOptions {
        RedisOptions {
            address: self.address.clone(),
            cluster_address: self.cluster_address.clone(),
            sentinel_address: self.sentinel_address.clone(),
            sentinel_master_name: self.sentinel_master_name.clone(),
            sentinel_user: self.sentinel_user.clone(),
            sentinel_password: self.sentinel_password.clone(),
            sentinel_client_name: self.sentinel_client_name.clone(),
            sentinel_tls: self.sentinel_tls.clone(),
            connect_timeout: self.connect_timeout,
            io_timeout: self.io_timeout,
            db: self.db,
            user: self.user.clone(),
            password: self.password.clone(),
            client_name: self.client_name.clone(),
            tls: self.tls.clone(),
            ..RedisOptions::default()
        }
    }
}

impl Config {
    /// Those that run.
    pub fn running_consumers(&self) -> impl Iterator<Item = &NamedConsumer> {
        self.consumers.iter().filter(|consumer| consumer.options.enabled)
    }

    pub(super) fn check_consumers(&self) -> Vec<Problem> {
        let mut seen = BTreeSet::new();
        let mut problems = Vec::new();
        for (index, consumer) in self.consumers.iter().enumerate() {
            let mut say = |key: &str, message: String| {
                problems.push(Problem { option: "consumers".into(), at: format!("[{index}].{key}"), message });
            };
            for ValueFault { at, message } in list::judge(&mut consumer.clone()) {
                say(at.trim_start_matches('.'), message);
            }
            let name = &consumer.name;
            if name.len() < 2 || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                say("name", format!("expected two or more of a-z A-Z 0-9 and _; got {name:?}"));
            } else if !seen.insert(name) {
                say("name", format!("expected a name of its own; there is another {name:?}"));
            }
            if consumer.options.enabled {
                consumer.check(&mut say);
            }
        }
        problems
    }
}

impl NamedConsumer {
    fn check(&self, say: &mut impl FnMut(&str, String)) {
        let part = match &*self.kind {
            "postgresql" => BuildPart::Databases.fault(),
            "nats_jetstream" => BuildPart::JetStream.fault(),
            _ => None,
        };
        if let Some(why) = part {
            say("type", why);
        }
        match &*self.kind {
            "postgresql" => self.options.postgresql.check(say),
            "kafka" => self.options.kafka.check(say),
            "nats_jetstream" => self.options.nats_jetstream.check(say),
            "redis_stream" => self.options.redis_stream.check(say),
            kind if CLOUD.contains(&kind) => {
                let hint = "is not supported: let a program of yours publish through http_api, or pass its messages on \
                            to one of those, and set enabled to false";
                say("type", format!("expected one of {}; {kind} {hint}", KINDS.join(", ")));
            }
            kind => say("type", format!("expected one of {}; got {kind:?}", KINDS.join(", "))),
        }
    }
}

/// Options of a section that a consumer is nothing without.
fn needed(section: &str, options: &[(&str, bool)], say: &mut impl FnMut(&str, String)) {
    for (key, _) in options.iter().filter(|(_, is_there)| !is_there) {
        say(&format!("{section}.{key}"), "expected a value, because the consumer is enabled; got nothing".into());
    }
}

fn no_stand_in(key: &str, addresses: &[String], say: &mut impl FnMut(&str, String)) {
    if addresses.iter().any(|address| address.contains(HIDDEN)) {
        say(key, format!("{HIDDEN} only stands for a secret in what is printed; give the password"));
    }
}

/// A name that stands in SQL as it is: with a schema before it, or in double quotes.
fn is_sql_name(name: &str, dots: bool) -> bool {
    let mut quoted = false;
    let sound = name.chars().all(|c| {
        quoted ^= c == '"';
        c == '"' || (quoted && c != '\0') || c.is_alphanumeric() || c == '_' || c == '$' || (dots && c == '.')
    });
    sound && !quoted && !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit())
}

impl PostgresqlConsumer {
    fn check(&self, say: &mut impl FnMut(&str, String)) {
        let there = [("dsn", !self.dsn.is_empty()), ("outbox_table_name", !self.outbox_table_name.is_empty())];
        needed("postgresql", &there, say);
        let table = &self.outbox_table_name;
        if !table.is_empty() && !is_sql_name(table, true) {
            say("postgresql.outbox_table_name", format!("expected the name of a table as SQL has it; got {table:?}"));
        }
        let channel = &self.partition_notification_channel;
        if !channel.is_empty() && !is_sql_name(channel, false) {
            let message = format!("expected the name of a channel as LISTEN takes it; got {channel:?}");
            say("postgresql.partition_notification_channel", message);
        }
    }
}

impl KafkaConsumer {
    fn check(&self, say: &mut impl FnMut(&str, String)) {
        for (key, message) in self.access().faults() {
            say(&format!("kafka.{key}"), message);
        }
        let there = [("topics", !self.topics.is_empty()), ("consumer_group", !self.consumer_group.is_empty())];
        needed("kafka", &there, say);
        for fault in self.topics.iter().filter_map(|topic| topic_fault(topic)) {
            say("kafka.topics", fault);
        }
        let mode = &self.publication_data_mode;
        if mode.enabled {
            let there = [("channels_header", !mode.channels_header.is_empty())];
            needed("kafka.publication_data_mode", &there, say);
        }
    }

    /// How the cluster is reached.
    pub fn access(&self) -> KafkaAccess<'_> {
        KafkaAccess {
            at: "kafka",
            brokers: &self.brokers,
            dial_timeout: self.dial_timeout,
            tls: &self.tls,
            mechanism: &self.sasl_mechanism,
            user: &self.sasl_user,
            password: &self.sasl_password,
        }
    }
}

impl NatsJetStreamConsumer {
    fn check(&self, say: &mut impl FnMut(&str, String)) {
        let there = [
            ("url", self.url.iter().any(|url| !url.trim().is_empty())),
            ("stream_name", !self.stream_name.is_empty()),
            ("durable_consumer_name", !self.durable_consumer_name.is_empty()),
        ];
        needed("nats_jetstream", &there, say);
        no_stand_in("nats_jetstream.url", &self.url, say);
        if self.tls.enabled && !self.tls.server_name.is_empty() {
            let message = "expected nothing: the certificate must have the host's name, as it stands in url";
            say("nats_jetstream.tls.server_name", message.into());
        }
        let mode = &self.publication_data_mode;
        if mode.enabled {
            let there = [("channels_header", !mode.channels_header.is_empty())];
            needed("nats_jetstream.publication_data_mode", &there, say);
        }
    }
}

impl RedisStreamConsumer {
    fn check(&self, say: &mut impl FnMut(&str, String)) {
        let is_named = self.sentinel_address.is_empty() || !self.sentinel_master_name.is_empty();
        let there = [
            ("address", [&self.address, &self.cluster_address, &self.sentinel_address].iter().any(|it| !it.is_empty())),
            ("sentinel_master_name", is_named),
            ("streams", !self.streams.is_empty()),
            ("consumer_group", !self.consumer_group.is_empty()),
            ("payload_value", !self.payload_value.is_empty()),
        ];
        needed("redis_stream", &there, say);
        let lists = [
            ("address", &self.address),
            ("cluster_address", &self.cluster_address),
            ("sentinel_address", &self.sentinel_address),
        ];
        for (key, list) in lists {
            no_stand_in(&format!("redis_stream.{key}"), list, say);
        }
        if [&self.address, &self.cluster_address].iter().any(|list| list.len() > 1) {
            say("redis_stream.address", "expected one server or cluster: a consumer for each of several".into());
        }
        let mode = &self.publication_data_mode;
        if mode.enabled {
            let there = [("channels_value", !mode.channels_value.is_empty())];
            needed("redis_stream.publication_data_mode", &there, say);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, File, Format, load, print};

    fn loaded(consumers: &str, env: &[(&str, &str)]) -> Result<Config, String> {
        let text = format!(r#"{{"consumers":[{consumers}]}}"#);
        let env: Vec<_> = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let loaded = load(Some(File { name: "a.json", text: &text }), &env, &[]);
        let told = |errors: Vec<super::super::ConfigError>| {
            errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        };
        loaded.map(|(config, _)| config).map_err(told)
    }

    #[cfg(feature = "databases")]
    const OUTBOX: &str = r#"{"name":"db","enabled":true,"type":"postgresql",
        "postgresql":{"dsn":"postgres://u:hush@h/d","outbox_table_name":"app.\"Out box\"","use_try_lock":true}}"#;

    #[cfg(feature = "packaged")]
    #[test]
    fn each_kind_is_read_with_its_section() {
        let nats = r#"{"name":"js","enabled":true,"type":"nats_jetstream","nats_jetstream":{"url":"nats://a,nats://b",
            "stream_name":"S","durable_consumer_name":"d","publication_data_mode":{"enabled":true}}}"#;
        let redis = r#"{"name":"rs","enabled":true,"type":"redis_stream","redis_stream":{"address":"redis://h:1",
            "streams":["s"],"consumer_group":"g","force_resp2":true,"replica_client":{"enabled":false}}}"#;
        let cloud = r#"{"name":"sq","enabled":false,"type":"aws_sqs","aws_sqs":{"queues":["q"]}}"#;
        let config = loaded(&[OUTBOX, nats, redis, cloud].join(","), &[]).expect("a configuration");
        let names: Vec<&str> = config.running_consumers().map(|consumer| &*consumer.name).collect();
        assert_eq!(names, ["db", "js", "rs"]);
        let options = &config.consumers[0].options.postgresql;
        assert_eq!((options.partition_select_limit, options.partition_poll_interval.as_millis()), (100, 300));
        assert_eq!(config.consumers[2].options.redis_stream.server().address, ["redis://h:1"]);
        for format in [Format::Toml, Format::Yaml, Format::Json] {
            let printed = print(&config, format);
            assert!(!printed.contains("hush") && printed.contains("durable_consumer_name"), "{printed}");
        }
    }

    #[cfg(feature = "databases")]
    #[test]
    fn variables_set_consumers_by_their_names() {
        let outbox = [
            ("GANNET_CONSUMERS", "db other"),
            ("GANNET_CONSUMERS_DB_ENABLED", "true"),
            ("GANNET_CONSUMERS_DB_TYPE", "postgresql"),
            ("GANNET_CONSUMERS_DB_POSTGRESQL_DSN", "host=h"),
            ("GANNET_CONSUMERS_DB_POSTGRESQL_OUTBOX_TABLE_NAME", "outbox"),
            ("GANNET_CONSUMERS_DB_POSTGRESQL_TLS_ENABLED", "true"),
            ("GANNET_CONSUMERS_OTHER_AWS_SQS_QUEUES", "q"),
        ];
        let config = loaded("", &outbox).expect("a configuration");
        let [db, other] = &config.consumers[..] else { panic!("{:?}", config.consumers) };
        assert!(db.options.enabled && db.options.postgresql.tls.enabled && !other.options.enabled);
        assert_eq!(db.options.postgresql.dsn, "host=h");
        let text = loaded(OUTBOX, &[("GANNET_CONSUMERS_DB_POSTGRESQL_DNS", "x")]).expect_err("refused");
        assert!(text.contains("did you mean postgresql.dsn?"), "{text}");
    }

    #[test]
    fn what_cannot_run_is_refused() {
        let table = [
            (r#"{"name":"a","type":"kafka"}"#, "[0].name: expected two or more of a-z A-Z 0-9 and _; got \"a\""),
            (r#"{"name":"aa"},{"name":"aa"}"#, "[1].name: expected a name of its own; there is another \"aa\""),
            (r#"{"enabled":true}"#, "[0]: a consumer wants a name"),
            (
                r#"{"name":"aa","enabled":true}"#,
                "[0].type: expected one of postgresql, kafka, nats_jetstream, redis_stream",
            ),
            (r#"{"name":"aa","enabled":true,"type":"x"}"#, "redis_stream; got \"x\""),
            (r#"{"name":"aa","enabled":true,"type":"aws_sqs"}"#, "aws_sqs is not supported: let a program"),
            (r#"{"name":"aa","enabled":true,"type":"postgresql"}"#, "[0].postgresql.dsn: expected a value"),
            (r#"{"name":"aa","enabled":true,"type":"redis_stream"}"#, "[0].redis_stream.streams: expected a value"),
            (r#"{"name":"aa","enabled":true,"type":"nats_jetstream"}"#, "[0].nats_jetstream.stream_name: expected"),
            (
                r#"{"name":"aa","postgresql":{"num_partitions":0}}"#,
                "num_partitions: expected a whole number, 1 to 1024",
            ),
            (r#"{"name":"aa","postgresql":{"dns":"x"}}"#, "postgresql.dns: unknown option"),
            (
                r#"{"name":"aa","enabled":true,"type":"postgresql","postgresql":{"dsn":"x","outbox_table_name":"a; b"}}"#,
                "outbox_table_name: expected the name of a table as SQL has it; got \"a; b\"",
            ),
        ];
        for (consumers, message) in table {
            let text = loaded(consumers, &[]).expect_err(consumers);
            assert!(text.contains(message), "{message}\n{text}");
        }
    }
}
