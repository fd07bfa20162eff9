//! F10 · What subjects are called in NATS, as Centrifugo calls them.
//!
//! Owns the names, which must be the same on every node of a fleet, whatever it runs. Which channels have one at all is
//! [`crate::broker::engine`]'s to know. Never speaks to a server.

use crate::config::NatsOptions;

#[derive(Debug, Clone)]
pub struct Subjects {
    prefix: Box<str>,
    /// What the subjects of channels begin with.
    client: Box<str>,
    /// In the name of a channel, what stands for what; the longest first.
    replacements: Vec<(String, String)>,
    /// Messages are data and nothing else.
    pub is_raw: bool,
}

impl Subjects {
    pub fn new(options: &NatsOptions) -> Subjects {
        let (prefix, raw) = (&options.prefix, &options.raw_mode);
        let (client, mut replacements) = match raw.enabled {
            true => (raw.prefix.clone(), raw.channel_replacements.0.clone().into_iter().collect()),
            false => (format!("{prefix}.client."), Vec::new()),
        };
        replacements.sort_by_key(|(from, _)| std::cmp::Reverse(from.len()));
        Subjects { prefix: prefix.as_str().into(), client: client.into(), replacements, is_raw: raw.enabled }
    }

    /// The subject of a channel.
    pub fn client(&self, channel: &str) -> String {
        let mut subject = String::with_capacity(self.client.len() + channel.len());
        subject.push_str(&self.client);
        let mut rest = channel;
        while let Some(first) = rest.chars().next() {
            match self.replacements.iter().find(|(from, _)| rest.starts_with(&**from)) {
                Some((from, to)) => {
                    subject.push_str(to);
                    rest = &rest[from.len()..];
                }
                None => {
                    subject.push(first);
                    rest = &rest[first.len_utf8()..];
                }
            }
        }
        subject
    }

    /// What a subject says of the channel that was published to.
    pub fn channel_of<'a>(&self, subject: &'a str) -> Option<&'a str> {
        subject.strip_prefix(&*self.client)
    }

    /// That of control, which all nodes hear.
    pub fn control(&self) -> String {
        format!("{}.control", self.prefix)
    }

    /// That of one node.
    pub fn node(&self, uid: &str) -> String {
        format!("{}.node.{uid}", self.prefix)
    }
}

/// May this be sent to a server? What is not, would be read as other words than it is.
pub fn is_subject(subject: &str, wildcards: bool) -> bool {
    let token = |token: &str| !token.is_empty() && (wildcards || !token.contains(['*', '>']));
    subject.bytes().all(|byte| byte > b' ' && byte != 0x7f) && subject.split('.').all(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{NatsRawMode, Replacements};

    #[test]
    fn names_are_those_of_centrifugo() {
        let subjects = Subjects::new(&NatsOptions::default());
        assert_eq!(subjects.client("news:a"), "centrifugo.client.news:a");
        assert_eq!(subjects.channel_of("centrifugo.client.news:a"), Some("news:a"));
        assert_eq!((&*subjects.control(), &*subjects.node("u")), ("centrifugo.control", "centrifugo.node.u"));
    }

    #[test]
    fn raw_names_are_what_replacements_make_of_them() {
        let pairs = [(":", "."), ("::", "-"), ("ä", "ae")].map(|(from, to)| (from.to_owned(), to.to_owned()));
        let channel_replacements = Replacements(pairs.into_iter().collect());
        let raw_mode = NatsRawMode { enabled: true, prefix: "raw.".into(), channel_replacements };
        let subjects = Subjects::new(&NatsOptions { raw_mode, ..NatsOptions::default() });
        assert_eq!(subjects.client("a:b::cäd"), "raw.a.b-caed");
        assert_eq!(subjects.channel_of("raw.a.b"), Some("a.b"));
        assert_eq!(subjects.control(), "centrifugo.control");
    }

    #[test]
    fn what_is_no_subject_is_not_sent() {
        for good in ["a", "a.b", "$a.ä", "a:b#1"] {
            assert!(is_subject(good, false), "{good}");
        }
        for bad in ["", "a..b", ".a", "a.", "a b", "a\tb", "a\r\nPUB x 1", "a\u{7f}"] {
            assert!(!is_subject(bad, true), "{bad}");
        }
        for wild in ["a.*", "a.>", "a*b"] {
            assert!(is_subject(wild, true) && !is_subject(wild, false), "{wild}");
        }
    }
}
