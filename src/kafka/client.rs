//! F10 · How a cluster of Kafka is reached: options as the library wants them, and what it says as log lines.

use crate::certificates::pem;
use crate::config::KafkaAccess;
use crate::service::add_to_sum;
use rdkafka::ClientConfig;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;

/// The library's options for a client of that cluster. The error is a line for the operator.
pub fn client_config(access: &KafkaAccess<'_>) -> Result<ClientConfig, String> {
    let mut config = ClientConfig::new();
    config.set("client.id", "gannet");
    config.set("bootstrap.servers", access.brokers.join(","));
    config.set("socket.connection.setup.timeout.ms", access.dial_timeout.as_millis().to_string());
    config.set("reconnect.backoff.max.ms", "2000");
    let has_sasl = !access.mechanism.is_empty();
    let protocol = match (access.tls.enabled, has_sasl) {
        (false, false) => "plaintext",
        (true, false) => "ssl",
        (false, true) => "sasl_plaintext",
        (true, true) => "sasl_ssl",
    };
    config.set("security.protocol", protocol);
    if has_sasl {
        config.set("sasl.mechanism", access.mechanism.to_ascii_uppercase());
        config.set("sasl.username", access.user);
        config.set("sasl.password", access.password);
    }
    if access.tls.enabled {
        let tls = access.tls;
        let values = [
            ("ssl.ca.pem", "server_ca_pem", &tls.server_ca_pem),
            ("ssl.certificate.pem", "cert_pem", &tls.cert_pem),
            ("ssl.key.pem", "key_pem", &tls.key_pem),
        ];
        for (key, option, value) in values.into_iter().filter(|(_, _, value)| !value.is_empty()) {
            let text = pem(option, value).and_then(|bytes| {
                String::from_utf8(bytes).map_err(|_| format!("{option}: expected PEM, which is text"))
            });
            config.set(key, text.map_err(|error| format!("{}.tls.{error}", access.at))?);
        }
        if tls.insecure_skip_verify {
            config.set("enable.ssl.certificate.verification", "false");
        }
    }
    Ok(config)
}

/// What the library has to say, in the log: `name` tells for whom.
#[derive(Clone)]
pub struct Voice {
    pub name: String,
}

impl ClientContext for Voice {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        tracing::debug!(kafka = self.name, ?level, facility, "{text}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let (name, text) = (self.name.clone(), format!("{error}: {reason}"));
        add_to_sum(&format!("kafka {name}"), 1, move |times| {
            tracing::warn!(kafka = name, times, error = text, "trouble with Kafka: are its servers there?");
        });
    }
}
