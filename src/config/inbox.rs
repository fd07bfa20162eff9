//! F0 · The inbox of a namespace: what is kept for those who are away, and whether that can be.
//!
//! Owns the section `inbox` and the rules between it and the other options of its channels. Never knows how arrival is
//! proven, or where cursors are kept.

use super::channel::Finding;
use super::value::{Rule, show_duration};
use super::{ChannelOptions, DAY, MONTH, YEAR, secs};
use std::time::Duration;

options! {
    pub struct InboxOptions {
        /// The server remembers what has arrived at each user of these channels, and a client that comes without a
        /// position is sent what has not. Needs history.
        enabled: bool = false;
        /// Whose memory it is: one of the user's clients has it, so all have (user), or each device for itself (device,
        /// which meta names in the token or in what the connect proxy says).
        scope: String = "user".into(), Rule::OneOf(&["user", "device"]);
        /// How long a user who does not come is remembered.
        ttl: Duration = MONTH, Rule::Time(secs(1), YEAR);
        /// Publications that a client which comes without a position is sent, at most; who missed more is told that it
        /// was not recovered. 0 = as many as history has.
        size: usize = 0, Rule::Count(0, 1 << 24);
        /// Users (or devices) remembered in one channel; beyond: error 106.
        cursor_limit: usize = 100_000, Rule::Count(1, 1 << 24);
        /// The backend is told by a hook (undelivered) of what has not arrived after so long. 0 = it is not told.
        undelivered_after: Duration = Duration::ZERO, Rule::Time(Duration::ZERO, MONTH);
        /// With undelivered_after: the publications themselves go with it.
        undelivered_data: bool = false;
    }
}

impl InboxOptions {
    /// The section does not clash with the other `options` of its channels.
    pub(super) fn clashes(&self, options: &ChannelOptions) -> Vec<Finding> {
        if !self.enabled {
            return Vec::new();
        }
        let no_history = options.history_size == 0 || options.history_ttl.is_zero();
        let rules = [
            (no_history, "nothing would wait without history: set history_size and history_ttl"),
            (
                options.force_recovery_mode == "cache",
                "a cache has the latest publication only: set force_recovery_mode to stream",
            ),
            (
                options.subscribe_stream_proxy_enabled,
                "what comes by a stream is in no history: turn subscribe_stream_proxy_enabled off",
            ),
        ];
        let found = rules.into_iter().filter(|(applies, _)| *applies);
        found.map(|(_, message)| ("inbox.enabled", message.to_owned())).collect()
    }

    /// What has no effect, or less than it says.
    pub(super) fn idle(&self, options: &ChannelOptions) -> Vec<Finding> {
        let mut findings = Vec::new();
        // What waits is read from the archive where there is one; 0 is no limit there.
        let durable = options.is_durable();
        let (ttl, ttl_of) = match durable {
            true => (options.archive_ttl, "archive_ttl"),
            false => (options.history_ttl, "history_ttl"),
        };
        if self.enabled && ttl < self.ttl.min(DAY) && !(durable && ttl.is_zero()) {
            let kept = show_duration(ttl);
            findings.push((
                "inbox.ttl",
                format!("is longer than history lasts: what waits is gone {kept} after the latest ({ttl_of})"),
            ));
        }
        let (size, size_of) = match durable {
            true => (options.archive_size, "archive_size"),
            false => (options.history_size, "history_size"),
        };
        if self.enabled && self.size > size && !(durable && size == 0) {
            findings.push(("inbox.size", format!("is more than history keeps, which is {size} ({size_of})")));
        }
        if !self.enabled && *self != InboxOptions::default() {
            findings.push(("inbox.enabled", "is off: the other options of inbox have no effect".to_owned()));
        }
        if self.undelivered_data && self.undelivered_after.is_zero() {
            findings.push(("inbox.undelivered_data", "has no effect without undelivered_after".to_owned()));
        }
        findings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(change: impl FnOnce(&mut ChannelOptions)) -> ChannelOptions {
        let mut options = ChannelOptions { history_size: 10, history_ttl: DAY, ..ChannelOptions::default() };
        options.inbox.enabled = true;
        change(&mut options);
        options
    }

    #[test]
    fn an_inbox_needs_a_history_that_is_a_stream() {
        let sound = options(|_| ());
        assert!(sound.inbox.clashes(&sound).is_empty() && sound.inbox.idle(&sound).is_empty());
        let clashing = [
            options(|o| o.history_size = 0),
            options(|o| o.history_ttl = Duration::ZERO),
            options(|o| o.force_recovery_mode = "cache".into()),
            options(|o| o.subscribe_stream_proxy_enabled = true),
        ];
        for options in clashing {
            assert_eq!(options.inbox.clashes(&options).len(), 1, "{options:?}");
        }
        let off = options(|o| (o.inbox.enabled, o.history_size) = (false, 0));
        assert!(off.inbox.clashes(&off).is_empty());
    }

    #[test]
    fn what_promises_more_than_it_holds_is_told() {
        let told = [
            (options(|o| o.history_ttl = secs(60)), "inbox.ttl"),
            (options(|o| o.inbox.size = 11), "inbox.size"),
            (options(|o| (o.inbox.enabled, o.inbox.size) = (false, 5)), "inbox.enabled"),
            (options(|o| o.inbox.undelivered_data = true), "inbox.undelivered_data"),
        ];
        for (options, key) in told {
            let keys: Vec<&str> = options.inbox.idle(&options).into_iter().map(|(key, _)| key).collect();
            assert_eq!(keys, [key]);
        }
        let long = durable(|o| (o.inbox.size, o.archive_size, o.archive_ttl) = (1 << 20, 0, Duration::ZERO));
        assert_eq!(long.inbox.idle(&long).len(), 0, "an archive without limits has all");
        let short = durable(|o| (o.inbox.size, o.archive_size, o.archive_ttl) = (11, 10, secs(60)));
        assert_eq!(short.inbox.idle(&short).len(), 2);
    }

    fn durable(change: impl FnOnce(&mut ChannelOptions)) -> ChannelOptions {
        options(|o| {
            o.history_durability = "sync".into();
            change(o);
        })
    }
}
