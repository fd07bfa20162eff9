//! F0 · What this build has: parts that take long to build are features of cargo.
//!
//! Owns which options take one of them, and how a build that has it is got. Never knows what such a part does.

/// A part that a build may be without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuildPart {
    Databases,
    JetStream,
    Kafka,
}

impl BuildPart {
    pub const fn is_built(self) -> bool {
        match self {
            BuildPart::Databases => cfg!(feature = "databases"),
            BuildPart::JetStream => cfg!(feature = "jetstream"),
            BuildPart::Kafka => cfg!(feature = "kafka"),
        }
    }

    /// Why it cannot be had, if this build is without it.
    pub fn fault(self) -> Option<String> {
        let (what, feature, packages) = match self {
            BuildPart::Databases => ("client of databases", "databases", "take a package of Gannet, or "),
            BuildPart::JetStream => ("client of JetStream", "jetstream", "take a package of Gannet, or "),
            BuildPart::Kafka => ("client of Kafka", "kafka", ""),
        };
        let line =
            format!("this build has no {what}: {packages}make one with `cargo build --release --features {feature}`");
        (!self.is_built()).then_some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{File, load};
    use super::BuildPart;

    #[test]
    fn what_is_not_built_in_is_refused_with_how_to_get_it() {
        let outbox = r#"{"consumers":[{"name":"aa","enabled":true,"type":"postgresql",
            "postgresql":{"dsn":"host=h","outbox_table_name":"t"}}]}"#;
        let jetstream = r#"{"consumers":[{"name":"aa","enabled":true,"type":"nats_jetstream",
            "nats_jetstream":{"stream_name":"S","durable_consumer_name":"d"}}]}"#;
        let kept =
            r#""channel":{"without_namespace":{"history_size":1,"history_ttl":"1h","history_durability":"sync"}}"#;
        let archive =
            |kind: &str, dsn: &str| format!(r#"{{"durable":{{"type":"{kind}","{kind}":{{"dsn":"{dsn}"}}}},{kept}}}"#);
        let table = [
            (outbox.to_owned(), BuildPart::Databases, "consumers[0].type: this build has no client of databases"),
            (jetstream.to_owned(), BuildPart::JetStream, "consumers[0].type: this build has no client of JetStream"),
            (archive("postgresql", "postgres://h/d"), BuildPart::Databases, "durable.type: this build has no client"),
            (archive("mysql", "mysql://h/d"), BuildPart::Databases, "durable.type: this build has no client"),
        ];
        for (text, part, message) in table {
            let loaded = load(Some(File { name: "a.json", text: &text }), &[], &[]);
            let said: Vec<String> = loaded.err().unwrap_or_default().iter().map(ToString::to_string).collect();
            match part.is_built() {
                true => assert!(said.is_empty(), "{said:?}"),
                false => {
                    let [line] = &said[..] else { panic!("{said:?}") };
                    assert!(line.contains(message) && line.contains("cargo build --release --features"), "{line}");
                }
            }
        }
    }
}
