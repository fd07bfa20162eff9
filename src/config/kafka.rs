//! F0 · How Kafka is reached, and what it is told: the options of `kafka_log`.
//!
//! Owns the section, the topics that namespaces name, and what is not supported. Never speaks to a server.

use super::Config;
use super::backend::TlsOptions;
use super::built::BuildPart;
use super::check::Problem;
use super::value::Rule;
use super::{DAY, secs};
use std::time::Duration;

pub const MECHANISMS: &[&str] = &["", "plain", "scram-sha-256", "scram-sha-512", "aws-msk-iam"];

options! {
    pub struct KafkaLogOptions {
        /// Some of the cluster's servers: host:port. Empty = no publications are logged.
        brokers: Vec<String> = Vec::new();
        /// How long a connection may take.
        dial_timeout: Duration = secs(3), Rule::Time(secs(1), DAY);
        /// Of connections to servers
        tls: TlsOptions = TlsOptions::default();
        /// How this node says who it is. Empty = it does not.
        sasl_mechanism: String = String::new(), Rule::OneOf(MECHANISMS);
        /// With sasl_mechanism: the user.
        sasl_user: String = String::new();
        /// With sasl_mechanism: the password. Secret: never printed.
        sasl_password: String = String::new(), Rule::Secret;
        /// Publications that Kafka has not taken yet; beyond: dropped and counted, or error 100 with log_to_sync.
        queue_size: usize = 100_000, Rule::Count(1, 1 << 24);
        /// Bytes of them.
        queue_memory_limit: usize = 64 << 20, Rule::Bytes(1024, 1 << 40);
        /// With log_to_sync: how long Kafka may take; beyond: error 100. The publication goes on waiting all the same.
        sync_timeout: Duration = secs(5), Rule::Time(Duration::from_millis(10), DAY);
        /// How long a publication waits for Kafka; beyond: dropped and counted.
        delivery_timeout: Duration = secs(300), Rule::Time(secs(1), DAY);
        /// How long a publication waits for others of its partition, so that they go together.
        batch_delay: Duration = Duration::from_millis(5), Rule::Time(Duration::ZERO, secs(60));
        /// Bytes of one publication that Kafka takes, with key and headers; as the servers' message.max.bytes.
        message_size_limit: usize = 1_000_000, Rule::Bytes(1000, 1_000_000_000);
        /// How what is sent together is compressed.
        compression: String = "none".into(), Rule::OneOf(&["none", "gzip", "snappy", "lz4"]);
        /// When the node leaves: how long it waits for Kafka to take what is left.
        shutdown_timeout: Duration = secs(5), Rule::Time(Duration::ZERO, DAY);
    }
}

/// How a cluster is reached.
#[derive(Debug, Clone, Copy)]
pub struct KafkaAccess<'a> {
    /// The section's name, for messages.
    pub at: &'a str,
    pub brokers: &'a [String],
    pub dial_timeout: Duration,
    pub tls: &'a TlsOptions,
    pub mechanism: &'a str,
    pub user: &'a str,
    pub password: &'a str,
}

impl KafkaAccess<'_> {
    /// Keys of the section, and what is wrong with their values.
    pub fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        faults.extend(BuildPart::Kafka.fault().map(|why| ("brokers", why)));
        if self.brokers.iter().all(|broker| broker.trim().is_empty()) {
            faults.push(("brokers", "expected servers (127.0.0.1:9092); got nothing".into()));
        }
        if self.mechanism == "aws-msk-iam" {
            let message = "aws-msk-iam is not supported: use scram-sha-512, or a certificate (tls.cert_pem)";
            faults.push(("sasl_mechanism", message.into()));
        }
        if !self.mechanism.is_empty() && self.user.is_empty() {
            faults.push(("sasl_user", "expected a user with sasl_mechanism; got nothing".into()));
        }
        if self.mechanism.is_empty() && !(self.user.is_empty() && self.password.is_empty()) {
            faults.push(("sasl_mechanism", "expected plain or scram-sha-512 with sasl_user; got nothing".into()));
        }
        if self.tls.enabled && !self.tls.server_name.is_empty() {
            let message = "is not supported: the certificate must have the name of the server in brokers";
            faults.push(("tls.server_name", message.into()));
        }
        if self.tls.enabled && self.tls.cert_pem.is_empty() != self.tls.key_pem.is_empty() {
            faults.push(("tls.cert_pem", "expected both tls.cert_pem and tls.key_pem, or neither".into()));
        }
        faults
    }
}

impl KafkaLogOptions {
    pub fn access(&self) -> KafkaAccess<'_> {
        KafkaAccess {
            at: "kafka_log",
            brokers: &self.brokers,
            dial_timeout: self.dial_timeout,
            tls: &self.tls,
            mechanism: &self.sasl_mechanism,
            user: &self.sasl_user,
            password: &self.sasl_password,
        }
    }
}

/// What a topic may be called.
pub fn topic_fault(topic: &str) -> Option<String> {
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    match topic.len() <= 249 && topic != "." && topic != ".." && topic.bytes().all(is_fit) {
        true => None,
        false => Some(format!("expected the name of a topic: at most 249 of a-z A-Z 0-9 . _ -; got {topic:?}")),
    }
}

impl Config {
    /// Does some namespace have a log?
    pub fn logs_publications(&self) -> bool {
        self.channels().any(|(_, options)| !options.log_to.is_empty())
    }

    pub(super) fn check_kafka_log(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut is_used = false;
        for (at, options) in self.channels().filter(|(_, options)| !options.log_to.is_empty()) {
            is_used = true;
            problems.extend(topic_fault(&options.log_to).map(|message| at.problem(("log_to", message))));
        }
        if is_used || !self.kafka_log.brokers.is_empty() {
            let faults = self.kafka_log.access().faults();
            problems.extend(faults.into_iter().map(|(key, message)| {
                let option = format!("kafka_log.{key}");
                Problem { option, at: String::new(), message }
            }));
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::super::{File, load};
    use super::BuildPart;

    fn said(text: &str) -> String {
        let loaded = load(Some(File { name: "a.json", text }), &[], &[]);
        loaded.err().unwrap_or_default().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    fn with(log: &str, namespace: &str) -> String {
        said(&format!(r#"{{"kafka_log":{{{log}}},"channel":{{"namespaces":[{{"name":"ns",{namespace}}}]}}}}"#))
    }

    #[test]
    fn a_build_without_kafka_says_how_to_get_one_with_it() {
        let text = with(r#""brokers":["a:1"]"#, r#""log_to":"topic""#);
        match BuildPart::Kafka.is_built() {
            true => assert_eq!(text, ""),
            false => assert!(text.contains("cargo build --release --features kafka"), "{text}"),
        }
        assert_eq!(said("{}"), "");
    }

    #[test]
    fn what_cannot_be_served_is_refused() {
        let brokers = r#""brokers":["a:1"]"#;
        let table = [
            (String::new(), r#""log_to":"t""#, "kafka_log.brokers: expected servers"),
            (brokers.into(), r#""log_to":"t t""#, "expected the name of a topic"),
            (brokers.into(), r#""log_to":"..""#, "expected the name of a topic"),
            (
                format!(r#"{brokers},"sasl_mechanism":"aws-msk-iam","sasl_user":"u""#),
                r#""log_to":"t""#,
                "not supported",
            ),
            (format!(r#"{brokers},"sasl_mechanism":"plain""#), r#""log_to":"t""#, "sasl_user: expected a user"),
            (format!(r#"{brokers},"sasl_user":"u""#), r#""log_to":"t""#, "sasl_mechanism: expected plain"),
            (format!(r#"{brokers},"tls":{{"enabled":true,"server_name":"x"}}"#), r#""log_to":"t""#, "not supported"),
            (format!(r#"{brokers},"compression":"zstd""#), r#""log_to":"t""#, "expected one of none, gzip"),
        ];
        for (log, namespace, expected) in table {
            let text = with(&log, namespace);
            assert!(text.contains(expected), "{log} {namespace}: {text}");
        }
    }
}
